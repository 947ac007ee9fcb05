"""Rolling updates: within bounds at every step, and done in the end."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.cluster import rollout
from scenarios.cluster.rollout import Set

Json = Any


def deployment(
    replicas: int, surge: Json = "25%", unavailable: Json = "25%", kind: str = "RollingUpdate"
) -> Json:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    return {"spec": {"replicas": replicas, "strategy": {"type": kind, "rollingUpdate": rolling}}}


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "bounds"),
    [
        (2, "25%", "25%", (1, 0)),
        (4, "25%", "25%", (1, 1)),
        (10, "25%", "25%", (3, 2)),
        (3, 1, 0, (1, 0)),
        (3, 0, 0, (0, 1)),
        (3, "0%", "10%", (0, 1)),
    ],
)
def test_surge_rounds_up_and_unavailable_down_and_not_both_are_zero(
    replicas: int, surge: Json, unavailable: Json, bounds: tuple[int, int]
) -> None:
    assert rollout.bounds(deployment(replicas, surge, unavailable)) == bounds


def test_broken_old_pods_go_first() -> None:
    new = Set(name="new", wanted=1, available=1)
    old = [Set(name="old", wanted=3, available=1), Set(name="older", wanted=1, available=1)]
    sizes = rollout.sizes(deployment(4, 1, 1), new, old)
    assert sizes == {"old": 1}


def test_templates_that_differ_have_other_hashes_and_the_label_itself_does_not_count() -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "m"}]}}
    hashed = rollout.hashed(template)
    assert len(hashed["metadata"]["labels"]["pod-template-hash"]) == 10
    assert rollout.hashed(hashed) == hashed
    assert rollout.is_of({"spec": {"template": hashed}}, template)
    other = {**template, "metadata": {**template["metadata"], "annotations": {"x": "y"}}}
    assert not rollout.is_of({"spec": {"template": hashed}}, other)
    assert rollout.hashed(other)["metadata"]["labels"] != hashed["metadata"]["labels"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1Gi", "1073741824", True),
        ("1.5Gi", "1536Mi", True),
        ("1e3", "1k", True),
        ("500m", "0.5", True),
        ("2", 2, True),
        ("1G", "1Gi", False),
        ("1m", "1M", False),
        ("much", "more", False),
    ],
)
def test_a_replica_set_is_of_a_template_however_its_quantities_are_written(
    one: str, other: str | int, *, same: bool
) -> None:
    mine, theirs = (
        {"spec": {"containers": [{"name": "m", "resources": {"limits": {"memory": said}}}]}}
        for said in (one, other)
    )
    assert rollout.is_of({"spec": {"template": rollout.hashed(mine)}}, theirs) == same


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    replicas=st.integers(0, 8),
    surge=st.one_of(st.integers(0, 3), st.sampled_from(["0%", "25%", "100%"])),
    unavailable=st.one_of(st.integers(0, 3), st.sampled_from(["0%", "25%", "100%"])),
    order=st.randoms(use_true_random=False),
)
def test_a_rolling_update_keeps_its_bounds_at_every_step_and_ends(
    replicas: int, surge: Json, unavailable: Json, order: Any
) -> None:
    asked = deployment(replicas, surge, unavailable)
    most, least = (replicas + rollout.bounds(asked)[0], replicas - rollout.bounds(asked)[1])
    wanted, ready = {"old": replicas, "new": 0}, {"old": replicas, "new": 0}
    for _ in range(200):
        sets = {name: Set(name=name, wanted=wanted[name], available=ready[name]) for name in wanted}
        wanted |= rollout.sizes(asked, sets["new"], [sets["old"]])
        ready = {name: min(ready[name], wanted[name]) for name in wanted}
        assert sum(wanted.values()) <= most
        assert sum(ready.values()) >= least
        if order.random() < 0.5 and ready["new"] < wanted["new"]:
            ready["new"] += 1
    assert wanted == ready == {"old": 0, "new": replicas}
