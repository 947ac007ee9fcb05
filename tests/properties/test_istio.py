"""Whatever a VirtualService looks like: weights are all that changes, and what is sent is what is seen."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.istio import Refusal, Steering, located, patch, seen_weight, steering, to_zero, unavoidable
from scenarios.cluster.patches import Mismatch, clone, patched

Json = Any

NAMES = {"stable_subset": "stable", "canary_subset": "canary"}
WEIGHTS = st.integers(0, 99)

leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
anything = st.recursive(
    leaves,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=6), part, max_size=3),
    max_leaves=8,
)
extras = st.dictionaries(
    st.sampled_from(
        ["match", "timeout", "retries", "mirror", "mirrors", "fault", "corsPolicy", "headers", "x"]
    ),
    anything,
    max_size=4,
)
ports = st.just({}) | st.builds(lambda number: {"port": {"number": number}}, st.integers(1, 65535))


def target(subset: str | None, weight: int | None, more: Json, *, host: str = "model") -> Json:
    named = {"host": host} | ({} if subset is None else {"subset": subset})
    return {"destination": named | more} | ({} if weight is None else {"weight": weight})


@st.composite
def splits(draw: st.DrawFn) -> Json:
    """A route with both subsets, in either order, with or without weights."""
    canary = draw(st.none() | st.integers(0, 100))
    stable = (
        None
        if canary is None
        else draw(st.just(100 - canary) | st.none() if canary == 100 else st.just(100 - canary))
    )
    route = [target("stable", stable, draw(ports)), target("canary", canary, draw(ports))]
    return draw(extras) | {"route": draw(st.permutations(route))}


others = st.builds(
    lambda extra, subset, weight: extra | {"route": [target(subset, weight, {}, host="other")]},
    extras,
    st.none() | st.sampled_from(["stable", "v1"]),
    st.none() | st.just(100),
) | st.builds(lambda extra: extra | {"redirect": {"uri": "/"}}, extras)

outside = st.dictionaries(st.sampled_from(["tls", "tcp", "gateways", "exportTo"]), anything, max_size=3)


@st.composite
def virtual_services(draw: st.DrawFn) -> Json:
    """One that can be steered, with whatever else users write into theirs."""
    http = [*draw(st.lists(splits() | others, max_size=5)), draw(splits())]
    return {
        "metadata": {
            "name": "model",
            "namespace": "lab",
            "annotations": draw(st.dictionaries(st.text(), st.text())),
        },
        "spec": draw(outside) | {"hosts": ["model"], "http": draw(st.permutations(http))},
    }


def stripped(vs: Json, found: Steering) -> str:
    copy = clone(vs)
    for one in found.splits:
        for place in (one.stable, one.canary):
            copy["spec"]["http"][one.route]["route"][place].pop("weight", None)
    return json.dumps(copy)


@given(virtual_services(), WEIGHTS)
def test_weights_change_and_every_other_byte_stays(vs: Json, weight: int) -> None:
    before = json.dumps(vs)
    found = steering(vs, **NAMES)
    assert isinstance(found, Steering)
    after = patched(vs, patch(found, weight))
    assert json.dumps(vs) == before
    assert stripped(after, found) == stripped(vs, found)
    again = steering(after, **NAMES)
    assert isinstance(again, Steering)
    assert seen_weight(again) == weight
    assert patched(after, patch(again, weight)) == after


@given(virtual_services(), virtual_services(), WEIGHTS)
def test_a_patch_made_from_an_old_object_never_hits_another_destination(
    old: Json, new: Json, weight: int
) -> None:
    found = located(old, **NAMES)
    assert isinstance(found, Steering)
    try:
        after = patched(new, patch(found, weight))
    except Mismatch:
        return
    for one in found.splits:
        route = after["spec"]["http"][one.route]["route"]
        assert route[one.canary]["destination"] == one.destinations[1]
        assert (route[one.stable]["weight"], route[one.canary]["weight"]) == (100 - weight, weight)


odd_weights = st.none() | st.integers(-1, 300)
odd_targets = st.builds(
    target,
    st.none() | st.sampled_from(["stable", "canary", "old"]),
    odd_weights,
    ports,
    host=st.sampled_from("ab"),
)
odd_routes = st.builds(
    lambda extra, route, delegate: extra | ({"route": route} if route else {}) | delegate,
    extras,
    st.lists(odd_targets, max_size=4),
    st.just({}) | st.just({"delegate": {"name": "d"}}),
)
odd = st.builds(
    lambda hosts, http: {"metadata": {"namespace": "lab"}, "spec": {"hosts": hosts, "http": http}},
    st.sampled_from([["a"], []]),
    st.lists(odd_routes, max_size=4),
)


@settings(max_examples=300)
@given(odd)
def test_an_odd_virtual_service_is_steered_or_refused_and_always_goes_to_zero(vs: Json) -> None:
    found = steering(vs, **NAMES)
    if isinstance(found, Refusal):
        assert all((found.field, found.value, found.remedy))
    else:
        assert seen_weight(found) is not None or len(found.splits) > 1
    after = patched(vs, patch(to_zero(vs, **NAMES), 0))
    for http in after["spec"]["http"]:
        subsets = [one["destination"].get("subset") for one in http.get("route", [])]
        canaries = [one for one in http.get("route", []) if one["destination"].get("subset") == "canary"]
        if "stable" in subsets:
            assert all(one["weight"] == 0 for one in canaries)
        elif canaries and not http.get("match"):
            assert unavoidable(vs, **NAMES) is not None
