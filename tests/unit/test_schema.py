"""Structural schemas: defaults, unknown fields, and every sentence of refusal."""

from typing import Any

import pytest

from scenarios.cluster import schema

Json = Any


def sentences(spec_schema: Json, spec: Json, old: Json = None) -> list[str]:
    """What is wrong with an object of this spec."""
    full = {"type": "object", "properties": {"spec": spec_schema}}
    wrong = schema.problems(full, {"spec": spec}, None if old is None else {"spec": old})
    return [cause.sentence for cause in wrong]


@pytest.mark.parametrize(
    ("rules", "value", "sentence"),
    [
        (
            {"type": "integer"},
            "a",
            'spec: Invalid value: "string": spec in body must be of type integer: "string"',
        ),
        (
            {"type": "integer"},
            1.5,
            'spec: Invalid value: "number": spec in body must be of type integer: "number"',
        ),
        (
            {"type": "string"},
            None,
            'spec: Invalid value: "null": spec in body must be of type string: "null"',
        ),
        (
            {"type": "boolean"},
            1,
            'spec: Invalid value: "integer": spec in body must be of type boolean: "integer"',
        ),
        (
            {"type": "string", "enum": ["a", "b"]},
            "c",
            'spec: Unsupported value: "c": supported values: "a", "b"',
        ),
        ({"type": "string", "maxLength": 2}, "abc", "spec: Too long: may not be more than 2 bytes"),
        (
            {"type": "string", "maxLength": 2, "pattern": "^a$"},
            "bbb",
            "spec: Too long: may not be more than 2 bytes",
        ),
        (
            {"type": "string", "minLength": 1},
            "",
            'spec: Invalid value: "": spec in body should be at least 1 chars long',
        ),
        (
            {"type": "string", "pattern": "^a$"},
            "b",
            "spec: Invalid value: \"b\": spec in body should match '^a$'",
        ),
        (
            {"type": "string", "format": "date-time"},
            "noon",
            'spec: Invalid value: "noon": spec in body must be of type date-time: "noon"',
        ),
        (
            {"type": "number", "minimum": 1},
            0.5,
            "spec: Invalid value: 0.5: spec in body should be greater than or equal to 1",
        ),
        (
            {"type": "number", "maximum": 1},
            2,
            "spec: Invalid value: 2: spec in body should be less than or equal to 1",
        ),
        (
            {"type": "number", "maximum": 1, "exclusiveMaximum": True},
            1,
            "spec: Invalid value: 1: spec in body should be less than 1",
        ),
        (
            {"type": "integer", "format": "int32"},
            2**31,
            "spec: Invalid value: 2147483648: spec in body must be of type int32: 2147483648",
        ),
        (
            {"type": "array", "maxItems": 1, "items": {}},
            [1, 2],
            "spec: Too many: 2: must have at most 1 items",
        ),
        (
            {"type": "array", "minItems": 1, "items": {}},
            [],
            "spec: Invalid value: 0: spec in body should have at least 1 items",
        ),
        (
            {"type": "array", "items": {"type": "integer"}, "x-kubernetes-list-type": "set"},
            [1, 1],
            "spec[1]: Duplicate value: 1",
        ),
        ({"type": "object", "required": ["a"]}, {}, "spec.a: Required value"),
        (
            {"type": "object", "maxProperties": 0, "additionalProperties": True},
            {"a": 1},
            "spec: Too many: 1: must have at most 0 items",
        ),
        (
            {"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object"},
            {},
            'spec: Invalid value: {}: "spec" must validate one and only one schema (oneOf). Found none valid',
        ),
        (
            {"anyOf": [{"required": ["a"]}], "type": "object"},
            {},
            'spec: Invalid value: {}: "spec" must validate at least one schema (anyOf)',
        ),
        (
            {"not": {"required": ["a"]}, "type": "object", "properties": {"a": {}}},
            {"a": 1},
            'spec: Invalid value: {"a":1}: "spec" must not validate the schema (not)',
        ),
        ({"allOf": [{"type": "object", "required": ["a"]}]}, {}, "spec.a: Required value"),
    ],
)
def test_what_is_wrong_is_said_as_a_real_server_says_it(rules: Json, value: Json, sentence: str) -> None:
    assert sentences(rules, value) == [sentence]


@pytest.mark.parametrize(
    ("rules", "value"),
    [
        ({"type": "integer"}, 2.0),
        ({"type": "integer"}, 10**400),
        ({"type": "number"}, 1),
        ({"type": "string", "nullable": True}, None),
        ({"x-kubernetes-int-or-string": True}, "25%"),
        ({"x-kubernetes-int-or-string": True}, 1),
        ({"type": "string", "format": "date-time"}, "2026-01-01T00:00:00Z"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"a": "b"}),
    ],
)
def test_what_is_right_is_let_through(rules: Json, value: Json) -> None:
    assert sentences(rules, value) == []


def test_items_of_a_map_list_are_told_apart_by_their_keys() -> None:
    rules = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    rules["items"] = {"type": "object", "properties": {"name": {"type": "string"}}}
    (said,) = sentences(rules, [{"name": "a"}, {"name": "b"}, {"name": "a"}])
    assert said == 'spec[2]: Duplicate value: {"name":"a"}'


def test_defaults_fill_in_below_what_was_given_and_in_place_of_nulls() -> None:
    rules = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "default": {},
                "properties": {
                    "a": {"type": "integer", "default": 1},
                    "b": {"type": "object", "properties": {"c": {"type": "string", "default": "x"}}},
                    "d": {
                        "type": "array",
                        "items": {"type": "object", "properties": {"e": {"default": True}}},
                    },
                    "f": {"type": "string", "nullable": True, "default": "y"},
                },
            }
        },
    }
    assert schema.defaulted(rules, {})["spec"] == {"a": 1, "f": "y"}
    given = {"spec": {"a": None, "b": {}, "d": [{}], "f": None}}
    assert schema.defaulted(rules, given)["spec"] == {"a": 1, "b": {"c": "x"}, "d": [{"e": True}], "f": None}
    assert given["spec"]["a"] is None


def test_unknown_fields_are_dropped_and_named_but_not_where_all_are_kept() -> None:
    rules = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "a": {"type": "array", "items": {"type": "object", "properties": {"b": {}}}},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    "open": {"type": "object", "additionalProperties": {"type": "object", "properties": {}}},
                },
            }
        },
    }
    obj = {
        "kind": "X",
        "metadata": {"name": "x", "odd": 1},
        "other": 1,
        "spec": {"a": [{"b": 1, "c": 2}], "free": {"z": {"y": 1}}, "open": {"k": {"v": 1}}},
    }
    kept, unknown = schema.pruned(rules, obj)
    assert unknown == ["other", "spec.a[0].c", "spec.open.k.v"]
    assert kept["spec"] == {"a": [{"b": 1}], "free": {"z": {"y": 1}}, "open": {"k": {}}}
    assert kept["metadata"] == obj["metadata"]
