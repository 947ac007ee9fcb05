"""The mirror of a Shadow check comes and goes without a trace, and no mirror of the user's is touched."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import mirror
from controller.model import Recording
from scenarios.cluster.patches import Mismatch, clone, patched

Json = Any
OURS = Recording(
    host="serin-shadow.serin-system.svc.cluster.local", port=8080, hosts=("model",), percent=12.5
)
THEIRS = {"destination": {"host": "audit", "port": {"number": 80}}, "percentage": {"value": 5}}


def service(*routes: Json) -> Json:
    return {"metadata": {"name": "model"}, "spec": {"hosts": ["model"], "http": list(routes)}}


def route(**more: Json) -> Json:
    return {"name": "primary", "route": [{"destination": {"host": "model"}, "weight": 100}]} | more


def added(vs: Json, *routes: int) -> Json:
    return patched(vs, mirror.adding(vs, iter(routes or range(len(vs["spec"]["http"]))), OURS))


def test_it_is_one_entry_with_the_recorder_s_host_and_port() -> None:
    after = added(service(route()))
    assert after["spec"]["http"][0]["mirrors"] == [
        {"destination": {"host": OURS.host, "port": {"number": 8080}}, "percentage": {"value": 12.5}}
    ]
    assert mirror.stands(after, OURS)
    assert not mirror.stands(service(route(mirrors=[THEIRS])), OURS)


def test_beside_the_user_s_own_mirrors_it_is_one_more() -> None:
    vs = service(route(mirrors=[THEIRS]))
    after = added(vs)
    assert after["spec"]["http"][0]["mirrors"] == [THEIRS, mirror.entry(OURS)]
    assert json.dumps(patched(after, mirror.removing(after, OURS))) == json.dumps(vs)


def test_adding_twice_adds_once() -> None:
    once = added(service(route(), route()))
    assert mirror.adding(once, iter([0, 1]), OURS) == []


@pytest.mark.parametrize("more", [{"mirror": {"host": "audit"}}, {"mirrors": []}])
def test_a_route_whose_mirror_would_have_to_be_touched_is_refused_and_left_alone(more: Json) -> None:
    vs = service(route(), route(**more))
    refused = mirror.refusal(vs, iter([0, 1]))
    assert refused is not None
    field, _, remedy = refused
    assert field == f"spec.http[1].{next(iter(more))}"
    assert "Shadow check" in remedy
    assert added(vs)["spec"]["http"][1] == vs["spec"]["http"][1]
    assert mirror.refusal(vs, iter([0])) is None


def test_nothing_is_written_where_the_route_changed_meanwhile() -> None:
    vs = service(route())
    operations = mirror.adding(vs, iter([0]), OURS)
    for other in (route(mirror={"host": "audit"}), route(timeout="3s"), route(mirrors=[THEIRS])):
        with pytest.raises(Mismatch):
            patched(service(other), operations)
    both = added(service(route(mirrors=[THEIRS])))
    operations = mirror.removing(both, OURS)
    both["spec"]["http"][0]["mirrors"].insert(0, THEIRS)
    with pytest.raises(Mismatch):
        patched(both, operations)


def test_a_mirror_that_a_user_added_beside_ours_stays_when_ours_goes() -> None:
    after = added(service(route()))
    after["spec"]["http"][0]["mirrors"].append(THEIRS)
    left = patched(after, mirror.removing(after, OURS))
    assert left["spec"]["http"][0]["mirrors"] == [THEIRS]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
routes = st.dictionaries(
    st.sampled_from(["match", "timeout", "mirror", "mirrors", "mirrorPercentage", "retries", "x"]), anything
).map(lambda more: route(**more))


@given(st.lists(routes, min_size=1, max_size=4), st.data())
def test_whatever_a_virtual_service_looks_like_it_is_restored_byte_for_byte(
    http: list[Json], data: st.DataObject
) -> None:
    vs = service(*http)
    before = json.dumps(vs)
    steered = data.draw(st.lists(st.integers(0, len(http) - 1), unique=True))
    after = patched(clone(vs), mirror.adding(vs, iter(steered), OURS))
    assert all(
        http_ == vs["spec"]["http"][at] for at, http_ in enumerate(after["spec"]["http"]) if at not in steered
    )
    assert json.dumps(patched(clone(after), mirror.removing(after, OURS))) == before
