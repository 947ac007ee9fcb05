"""Patches: the examples of their RFCs, and what kubectl sends as strategic merge patch."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.cluster.patches import Mismatch, clone, merged, patched, same, strategic

Json = Any


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_does_what_rfc_7386_shows(target: Json, patch: Json, result: Json) -> None:
    assert merged(target, patch) == result


@pytest.mark.parametrize(
    ("target", "steps", "result"),
    [
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "q"}], {"foo": "bar", "baz": "q"}),
        ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
        ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
        ({"a": 1, "b": 2}, [{"op": "remove", "path": "/a"}], {"b": 2}),
        ({"a": [1, 2, 3]}, [{"op": "remove", "path": "/a/1"}], {"a": [1, 3]}),
        ({"a": [1, 2]}, [{"op": "replace", "path": "/a/0", "value": 9}], {"a": [9, 2]}),
        (
            {"a": {"b": 1}, "c": {}},
            [{"op": "move", "from": "/a/b", "path": "/c/d"}],
            {"a": {}, "c": {"d": 1}},
        ),
        ({"a": [1, 2, 3]}, [{"op": "move", "from": "/a/0", "path": "/a/2"}], {"a": [2, 3, 1]}),
        ({"a": 1}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": 1, "b": 1}),
        ({"a/b": {"m~n": 1}}, [{"op": "replace", "path": "/a~1b/m~0n", "value": 2}], {"a/b": {"m~n": 2}}),
        ({"a": {"x": 1, "y": [2]}}, [{"op": "test", "path": "/a", "value": {"y": [2], "x": 1.0}}], None),
        ({"a": 1}, [{"op": "test", "path": "/absent", "value": None}], None),
        ({"a": 1}, [{"op": "replace", "path": "/absent", "value": 2}], {"a": 1, "absent": 2}),
    ],
)
def test_a_json_patch_does_what_rfc_6902_says_and_a_real_server_does(
    target: Json, steps: Json, result: Json
) -> None:
    before = clone(target)
    assert patched(target, steps) == (target if result is None else result)
    assert target == before


@pytest.mark.parametrize(
    "step",
    [
        {"op": "test", "path": "/a/0", "value": True},
        {"op": "test", "path": "/b", "value": "1"},
        {"op": "remove", "path": "/none"},
        {"op": "replace", "path": "/none/none", "value": 1},
        {"op": "add", "path": "/none/deeper", "value": 1},
        {"op": "add", "path": "/a/7", "value": 1},
        {"op": "add", "path": "/a/x", "value": 1},
        {"op": "remove", "path": ""},
        {"op": "add", "path": "a", "value": 1},
        {"op": "fly", "path": "/a"},
        {"op": "add"},
    ],
)
def test_a_json_patch_that_does_not_fit_changes_nothing(step: Json) -> None:
    target = {"a": [1], "b": 1}
    with pytest.raises(Mismatch):
        patched(target, [{"op": "add", "path": "/c", "value": 2}, step])
    assert target == {"a": [1], "b": 1}


def test_a_strategic_merge_patch_merges_lists_of_named_things() -> None:
    old = {"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]}
    new = {
        "containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}, {"name": "a", "args": ["y"]}]
    }
    assert strategic(old, new)["containers"] == [
        {"name": "a", "image": "1", "args": ["y"]},
        {"name": "b", "image": "2"},
        {"name": "c", "image": "3"},
    ]


def test_a_strategic_merge_patch_follows_its_directives() -> None:
    old = {
        "containers": [{"name": "a"}, {"name": "b"}],
        "finalizers": ["x", "y"],
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        "labels": {"a": "b"},
        "volumes": [{"name": "v"}],
    }
    new = {
        "containers": [{"$patch": "delete", "name": "a"}],
        "$setElementOrder/containers": [{"name": "b"}],
        "$deleteFromPrimitiveList/finalizers": ["x"],
        "finalizers": ["z"],
        "strategy": {"$retainKeys": ["type"], "type": "Recreate"},
        "labels": {"$patch": "replace", "c": "d"},
        "volumes": [{"$patch": "replace"}, {"name": "w"}],
    }
    assert strategic(old, new) == {
        "containers": [{"name": "b"}],
        "finalizers": ["y", "z"],
        "strategy": {"type": "Recreate"},
        "labels": {"c": "d"},
        "volumes": [{"name": "w"}],
    }


def test_lists_without_a_key_are_replaced() -> None:
    assert strategic({"args": ["a"], "tolerations": [{"key": "x"}]}, {"args": ["b"], "tolerations": []}) == {
        "args": ["b"],
        "tolerations": [],
    }


def test_numbers_are_equal_by_value_and_truth_is_no_number() -> None:
    assert same({"a": [1]}, {"a": [1.0]})
    assert not same(True, 1)
    assert not same([0], [False])
    assert not same({"a": 1}, {"a": 1, "b": None})


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(target=json_values, patch=json_values)
def test_a_merge_patch_applied_twice_changes_nothing_more_and_its_target_never(
    target: Json, patch: Json
) -> None:
    before = clone(target)
    once = merged(target, patch)
    assert merged(once, patch) == once
    assert target == before


@settings(max_examples=100, deadline=None, derandomize=True)
@given(value=json_values)
def test_a_clone_is_the_same_and_shares_nothing(value: Json) -> None:
    assert same(clone(value), value)
    if isinstance(value, list | dict):
        assert clone(value) is not value
