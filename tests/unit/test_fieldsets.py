"""Sets of fields: what holds of them, and how they are read and written."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.cluster import fieldsets
from scenarios.cluster.schemas import DEPLOYMENT, META

Json = Any

KEYS = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"', "i:0"])
NODES: st.SearchStrategy[Json] = st.recursive(
    st.just({}),
    lambda below: st.tuples(st.booleans(), st.dictionaries(KEYS, below, min_size=1, max_size=3)).map(
        lambda pair: {".": {}, **pair[1]} if pair[0] else pair[1]
    ),
    max_leaves=8,
)
SETS = st.dictionaries(KEYS, NODES, max_size=3)


def members(fields: Json) -> set[str]:
    return set(fieldsets.paths(fields))


@given(SETS, SETS)
def test_sets_of_fields_are_sets(left: Json, right: Json) -> None:
    one, other = members(left), members(right)
    assert members(fieldsets.union(left, right)) == one | other
    assert members(fieldsets.common(left, right)) == one & other
    assert members(fieldsets.without(left, right)) == one - other
    assert fieldsets.without(left, left) == {}


@given(SETS, SETS)
def test_what_is_spared_has_nothing_to_keep_below_it(left: Json, right: Json) -> None:
    kept = members(right)
    for path in members(fieldsets.spared(fieldsets.without(left, right), right)):
        assert not [other for other in kept if other.startswith(path) and other != path]


def test_members_are_written_as_people_read_them() -> None:
    item = {".": {}, "f:image": {}}
    fields = {"f:spec": {"f:containers": {'k:{"name":"model"}': item}, "f:finalizers": {'v:"x"': {}}}}
    assert list(fieldsets.paths(fields)) == [
        '.spec.containers[name="model"]',
        '.spec.containers[name="model"].image',
        '.spec.finalizers[="x"]',
    ]


def test_of_a_change_both_sides_are_told() -> None:
    old = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "paused": True}
    new = {"replicas": 2, "selector": {"matchLabels": {"a": "c"}}}
    touched, gone = fieldsets.compared(DEPLOYMENT, old, new)
    assert touched == {"f:replicas": {}, "f:selector": {}}  # a selector has one owner
    assert gone == {"f:paused": {}}


def test_finalizers_are_a_set_and_owners_are_told_apart_by_uid() -> None:
    old = {"finalizers": ["a"], "ownerReferences": [{"uid": "1", "name": "x"}]}
    new = {"finalizers": ["b"], "ownerReferences": [{"uid": "1", "name": "y"}, {"uid": "2"}]}
    assert fieldsets.merged(META, old, new) == {
        "finalizers": ["a", "b"],
        "ownerReferences": [{"uid": "1", "name": "y"}, {"uid": "2"}],
    }


def test_a_list_whose_items_have_no_keys_is_one_leaf() -> None:
    template = {"spec": {"containers": ["none"]}}
    assert fieldsets.of(DEPLOYMENT, {"template": template}) == {
        "f:template": {"f:spec": {"f:containers": {}}}
    }
    assert fieldsets.merged(DEPLOYMENT, {"template": template}, {"template": {}}) == {"template": template}


@pytest.mark.parametrize(
    ("entries", "readable"),
    [
        ([{}], True),
        ([{"manager": "a", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"f:a": {}}}], True),
        ([{"manager": "a", "operation": "Other", "apiVersion": "v1", "fieldsV1": {}}], False),
        ([{"manager": "a", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"a": {}}}], False),
        ([{"manager": "a", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"k:1": {}}}], False),
        ([{"manager": "a", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"k:{": {}}}], False),
        ([{"operation": "Apply", "apiVersion": "v1", "fieldsV1": {}}], False),
        ("none", False),
    ],
)
def test_claims_from_outside_are_looked_at_first(entries: Json, *, readable: bool) -> None:
    assert fieldsets.are_entries(entries) is readable
