"""What a promotion writes on stable's Deployment."""

from hypothesis import given
from hypothesis import strategies as st

from controller.workloads import _labels, merge_patch

values = st.recursive(
    st.one_of(st.integers(), st.text(max_size=3), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.text(max_size=2), values, max_size=4)


def merged(target: object, patch: object) -> object:
    """RFC 7386, section 2, as it stands there."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(objects, objects)
def test_the_patch_turns_one_template_into_the_other(old: dict, new: dict) -> None:
    assert merged(old, merge_patch(old, new)) == new


@given(objects)
def test_a_template_that_is_there_already_needs_no_patch(same: dict) -> None:
    assert merge_patch(same, same) == {}


def test_labels_stay_stables_plus_what_neither_selector_nor_subset_looks_at() -> None:
    stable = {
        "spec": {
            "selector": {"matchLabels": {"app": "model"}},
            "template": {"metadata": {"labels": {"app": "model", "version": "stable", "team": "a"}}},
        }
    }
    analysed = {"metadata": {"labels": {"app": "other", "version": "canary", "team": "b", "build": "7"}}}

    assert _labels(stable, analysed, {"version"}) == {
        "app": "model",
        "version": "stable",
        "team": "a",
        "build": "7",
    }
