"""CEL rules of CRDs: what they see, when they are skipped, what they say."""

from typing import Any

import pytest

from scenarios.cluster import rules, schema

Json = Any


def said(rule: Json, value: Json, old: Json = None, **types: Json) -> str | None:
    """The message of a broken rule on an object, or nothing."""
    shape = {"type": "object", "properties": types}
    return rules.broken(rule, shape, value, old)


def test_a_rule_that_holds_says_nothing_and_one_that_does_not_its_message() -> None:
    rule = {"rule": "self.low <= self.high", "message": "low must not be above high"}
    assert said(rule, {"low": 1, "high": 2}) is None
    assert said(rule, {"low": 3, "high": 2}) == "low must not be above high"


def test_a_rule_without_a_message_is_quoted() -> None:
    assert said({"rule": "self.a  ==\n 1"}, {"a": 2}) == "failed rule: self.a == 1"


def test_a_message_may_be_computed() -> None:
    rule = {"rule": "self.a < 5", "messageExpression": "'a is ' + string(self.a)"}
    assert said(rule, {"a": 7}, a={"type": "integer"}) == "a is 7"


def test_a_missing_field_breaks_a_rule_that_does_not_ask_for_it() -> None:
    text = said({"rule": "self.a == 1", "message": "a must be 1"}, {})
    assert text == "no such key: a evaluating rule: a must be 1"
    assert said({"rule": "!has(self.a) || self.a == 1"}, {}) is None


def test_a_transition_rule_is_skipped_without_an_old_value() -> None:
    rule = {"rule": "self.a == oldSelf.a", "message": "a cannot be changed"}
    assert said(rule, {"a": 1}) is None
    assert said(rule, {"a": 1}, {"a": 1}) is None
    assert said(rule, {"a": 2}, {"a": 1}) == "a cannot be changed"


def test_a_number_is_a_double_even_where_it_was_written_as_an_integer() -> None:
    rule = {"rule": "self.a / 2.0 < 1.0"}
    assert said(rule, {"a": 1}, a={"type": "number"}) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("self.steps.isSorted()", [1, 2, 2]),
        ("self.steps.sum() == 6", [1, 2, 3]),
        ("self.steps.indexOf(2) == 1", [1, 2]),
        ("self.steps.max() == 3", [3, 1]),
        ("self.steps.min() == 1", [3, 1]),
        ("self.steps.exists_one(s, s == 1)", [1, 2]),
        ("self.steps.all(s, s > 0)", [1, 2]),
    ],
)
def test_lists_have_kubernetes_functions(text: str, value: list[int]) -> None:
    steps = {"type": "array", "items": {"type": "integer"}}
    assert said({"rule": text}, {"steps": value}, steps=steps) is None


def test_durations_can_be_compared() -> None:
    rule = {"rule": "duration(self.a) <= duration(self.b)"}
    assert said(rule, {"a": "1h30m", "b": "90m"}) is None
    assert said(rule, {"a": "1m", "b": "500ms"}) is not None


def test_a_rule_sees_only_what_it_names_so_that_a_changing_status_costs_nothing() -> None:
    rule = {"rule": "self.spec == oldSelf.spec"}
    for number in range(3):
        assert (
            said(rule, {"spec": {"a": 1}, "status": number}, {"spec": {"a": 1}, "status": number - 1}) is None
        )
    assert len(rules._compiled[id(rule)].known) == 1


def test_rules_on_items_of_a_map_list_know_what_each_item_was() -> None:
    item = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "size": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.size >= oldSelf.size", "message": "sizes only grow"}],
    }
    listed = {
        "type": "array",
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    }
    full = {"type": "object", "properties": {"spec": listed}}
    old = {"spec": [{"name": "a", "size": 2}]}
    assert schema.problems(full, {"spec": [{"name": "b", "size": 1}, {"name": "a", "size": 2}]}, old) == []
    (cause,) = schema.problems(full, {"spec": [{"name": "b", "size": 1}, {"name": "a", "size": 1}]}, old)
    assert cause.sentence == 'spec[1]: Invalid value: "object": sizes only grow'


def test_rules_wait_until_types_and_bounds_are_right() -> None:
    rule = {"rule": "self > 0", "message": "must be positive"}
    full = {"type": "object", "properties": {"spec": {"type": "integer", "x-kubernetes-validations": [rule]}}}
    cause, rest = schema.problems(full, {"spec": "a"}, None)
    assert "must be of type integer" in cause.message
    assert rest == schema.UNCHECKED
