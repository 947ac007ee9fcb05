"""Which VirtualServices are steered, which are refused, and that nothing but weights changes."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from controller import subsets
from controller.istio import (
    MOST_ROUTES,
    IstioRouter,
    Refusal,
    Steering,
    Unsteerable,
    located,
    patch,
    seen_weight,
    steering,
    to_zero,
)
from controller.kube import ApiError
from controller.model import Plan, Recording
from controller.subsets import ambient
from scenarios.cluster.patches import Mismatch, clone, patched

Json = Any

NAMES = {"stable_subset": "stable", "canary_subset": "canary"}
NO_POLICY: Any = None  # a router does not look at it
PATH = "/apis/networking.istio.io/v1/namespaces/lab/virtualservices/model"


def to(subset: str | None, weight: int | None = None, *, host: str = "model", **more: Json) -> Json:
    destination = {"host": host} | ({} if subset is None else {"subset": subset}) | more
    return {"destination": destination} | ({} if weight is None else {"weight": weight})


def split(stable: int | None = 100, canary: int | None = 0, **more: Json) -> Json:
    return {"route": [to("stable", stable), to("canary", canary)], **more}


def virtual_service(*http: Json, **spec: Json) -> Json:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "model", "namespace": "lab", "resourceVersion": "7"},
        "spec": {"hosts": ["model"], **({"http": list(http)} if http else {}), **spec},
    }


TESTERS = {"match": [{"headers": {"x-tester": {"exact": "yes"}}}], "route": [to("canary")]}
VARIED: dict[str, Json] = {
    "the plain one": virtual_service(split()),
    "no weights yet": virtual_service(split(None, None)),
    "only stable's weight": virtual_service(split(100, None)),
    "only the canary's weight": virtual_service(split(None, 100)),
    "the canary named first": virtual_service({"route": [to("canary", 5), to("stable", 95)]}),
    "a match on headers": virtual_service(split(match=[{"headers": {"cookie": {"regex": "a=(b|c)"}}}])),
    "testers pinned to the canary": virtual_service(TESTERS, split()),
    "two routes with both subsets": virtual_service(split(match=[{"uri": {"prefix": "/v2"}}]), split()),
    "routes that have nothing to do with us": virtual_service(
        {"match": [{"uri": {"exact": "/old"}}], "redirect": {"uri": "/new"}},
        {"match": [{"port": 81}], "route": [to(None, host="other"), to("v2", 30, host="other")]},
        {"match": [{"uri": {"exact": "/up"}}], "directResponse": {"status": 200, "body": {"string": "ok"}}},
        split(),
    ),
    "retries": virtual_service(split(retries={"attempts": 3, "perTryTimeout": "2s", "retryOn": "5xx"})),
    "a timeout": virtual_service(split(timeout="10s")),
    "a mirror": virtual_service(
        split(mirror={"host": "model", "subset": "canary"}, mirrorPercentage={"value": 12.5})
    ),
    "several mirrors": virtual_service(split(mirrors=[to(None, host="a"), {"percentage": {"value": 0.1}}])),
    "a fault": virtual_service(split(fault={"delay": {"percentage": {"value": 0.1}, "fixedDelay": "5s"}})),
    "cors": virtual_service(split(corsPolicy={"allowOrigins": [{"exact": "https://a"}], "maxAge": "24h"})),
    "a rewrite": virtual_service(split(rewrite={"uri": "/", "uriRegexRewrite": {"match": "^/(.*)"}})),
    "headers of the route and its destinations": virtual_service(
        {
            "headers": {"request": {"set": {"a": "b"}}},
            "route": [
                to("stable", 100) | {"headers": {"response": {"add": {"arm": "stable"}}}},
                to("canary", 0) | {"headers": {"response": {"remove": ["x"]}}},
            ],
        }
    ),
    "ports of their own": virtual_service(
        {
            "route": [
                to("stable", 60, port={"number": 80}),
                to("canary", 40, port={"number": 80}),
            ]
        }
    ),
    "tls": virtual_service(
        split(), tls=[{"match": [{"port": 443, "sniHosts": ["a"]}], "route": [to(None, host="other")]}]
    ),
    "tcp": virtual_service(
        split(),
        tcp=[
            {"match": [{"port": 9}], "route": [to("stable", 100)]},
            {"route": [to("stable", 100), to("canary", 0)]},
        ],
    ),
    "testers by path, cookie or host": virtual_service(
        {"match": [{"uri": {"prefix": "/canary/"}}], "route": [to("canary")]},
        {"match": [{"uri": {"exact": "/"}, "method": {"exact": "GET"}}], "route": [to(None)]},
        {"match": [{"headers": {"cookie": {"regex": "tester=.*"}}, "port": 80}], "route": [to("canary")]},
        {"match": [{"authority": {"exact": "canary.example.com"}}], "route": [to("canary")]},
        {"match": [{"sourceLabels": {"app": "probe"}}], "route": [to("canary")]},
        split(),
    ),
    "gateways and exports": virtual_service(split(), gateways=["mesh", "istio/public"], exportTo=["."]),
    "the long host name": virtual_service(
        {"route": [to("stable", 100, host="model.lab.svc.cluster.local"), to("canary", 0)]}
    ),
    "names and fields of a later Istio": virtual_service(split(name="primary", later={"a": [1, None, {}]})),
}


def without_weights(vs: Json, found: Steering) -> str:
    """The object as bytes, without the weights that are steered."""
    copy = clone(vs)
    for one in found.splits:
        for place in (one.stable, one.canary):
            copy["spec"]["http"][one.route]["route"][place].pop("weight", None)
    return json.dumps(copy)  # key order included


def found_in(vs: Json) -> Steering:
    found = steering(vs, **NAMES)
    assert isinstance(found, Steering), str(found)
    return found


@pytest.mark.parametrize("name", VARIED)
def test_only_the_weights_of_both_subsets_change(name: str) -> None:
    vs = VARIED[name]
    found = found_in(vs)
    for weight in (0, 1, 50, 99):
        after = patched(vs, patch(found, weight))
        assert seen_weight(found_in(after)) == weight
        assert without_weights(after, found) == without_weights(vs, found)
        assert [
            sum(target["weight"] for target in after["spec"]["http"][one.route]["route"])
            for one in found.splits
        ] == [100] * len(found.splits)


def test_the_patch_tests_both_destinations_and_sets_both_weights_and_nothing_else() -> None:
    vs = virtual_service(TESTERS, {"route": [to("canary", 5, port={"number": 80}), to("stable", 95)]})
    assert patch(found_in(vs), 10) == [
        {
            "op": "test",
            "path": "/spec/http/1/route/1/destination",
            "value": {"host": "model", "subset": "stable"},
        },
        {
            "op": "test",
            "path": "/spec/http/1/route/0/destination",
            "value": {"host": "model", "subset": "canary", "port": {"number": 80}},
        },
        {"op": "add", "path": "/spec/http/1/route/1/weight", "value": 90},
        {"op": "add", "path": "/spec/http/1/route/0/weight", "value": 10},
    ]


def test_a_route_that_moved_is_not_patched_in_its_old_place() -> None:
    old = virtual_service(split())
    moved = virtual_service(TESTERS, split())
    with pytest.raises(Mismatch):
        patched(moved, patch(found_in(old), 10))


def test_all_routes_with_both_subsets_move_together() -> None:
    vs = virtual_service(split(match=[{"port": 80}]), {"route": [to("stable")]}, split(None, None))
    after = patched(vs, patch(found_in(vs), 25))
    weights = [[target.get("weight") for target in http["route"]] for http in after["spec"]["http"]]
    assert weights == [[75, 25], [None], [75, 25]]


@pytest.mark.parametrize(
    ("http", "weight"),
    [
        ([split(100, 0)], 0),
        ([split(90, 10)], 10),
        ([split(None, None)], 0),
        ([split(100, None)], 0),
        ([split(None, 100)], 100),
        ([split(90, 10), split(90, 10)], 10),
        ([split(90, 10), split(100, 0)], None),
        ([split(150, 0)], None),
        ([split(0, 0)], None),
        ([split(90, 5)], None),
        ([split(9, 1)], None),
        ([split(150, -50)], None),
        ([split(-50, 150)], None),
    ],
)
def test_the_weight_that_is_seen(http: list[Json], weight: int | None) -> None:
    found = located(virtual_service(*http), **NAMES)
    assert isinstance(found, Steering)
    assert seen_weight(found) == weight


def test_routes_of_testers_may_share_an_arm_with_whomever_they_like() -> None:
    """They pick their callers, and no weight of ours stands in them."""
    match = [{"headers": {"x-tester": {"exact": "yes"}}}]
    for arm in ("canary", "stable"):
        theirs = {"match": match, "route": [to(arm, 50), to("v9", 50, host="other")]}
        vs = virtual_service(theirs, split(90, 10))
        found = steering(vs, **NAMES)
        assert isinstance(found, Steering), str(found)
        assert [one.route for one in found.splits] == [1]
        assert patched(vs, patch(found, 0))["spec"]["http"][0] == theirs


def test_a_second_destination_that_is_another_by_now_is_not_emptied() -> None:
    twice = {"route": [to("stable", 80), to("canary", 10), to("canary", 10, port={"number": 81})]}
    operations = patch(to_zero(virtual_service(twice), **NAMES), 0)
    moved = {"route": [*twice["route"][:2], to("v9", 10, host="other")]}
    with pytest.raises(Mismatch):
        patched(virtual_service(moved), operations)


REFUSED: dict[str, tuple[Json, Refusal]] = {
    "no route with both": (
        virtual_service({"route": [to("stable", 100)]}),
        Refusal(
            "spec.http[].route[].destination.subset",
            "stable",
            "give one route both stable (weight 100) and canary (weight 0), or set serin.dev/*-subset",
        ),
    ),
    "a third destination": (
        virtual_service({"route": [to("stable", 90), to("canary", 0), to("old", 10)]}),
        Refusal(
            "spec.http[0].route[2].destination",
            '"old"',
            "only stable and canary may share a route; give the third one a route of its own",
        ),
    ),
    "a third destination without a subset": (
        virtual_service({"route": [to("stable", 90), to("canary", 0), to(None, 10, host="legacy")]}),
        Refusal(
            "spec.http[0].route[2].destination",
            '"legacy"',
            "only stable and canary may share a route; give the third one a route of its own",
        ),
    ),
    "a subset twice": (
        virtual_service(
            {"route": [to("stable", 50), to("stable", 50, port={"number": 81}), to("canary", 0)]}
        ),
        Refusal("spec.http[0].route", "3 destinations", "name stable and canary once each"),
    ),
    "split over hosts": (
        virtual_service({"route": [to(None, 90, host="model"), to(None, 10, host="model-canary")]}),
        Refusal(
            "spec.http[0].route",
            "split over hosts model and model-canary",
            "use one host with subsets stable and canary of its DestinationRule",
        ),
    ),
    "subsets of two hosts": (
        virtual_service({"route": [to("stable", 90, host="a"), to("canary", 10, host="b")]}),
        Refusal(
            "spec.http[0].route",
            "split over hosts a.lab.svc.cluster.local and b.lab.svc.cluster.local",
            "use one host with two subsets of its DestinationRule",
        ),
    ),
    "a delegate beside it": (
        virtual_service({"match": [{"port": 1}], "delegate": {"name": "inner"}}, split()),
        Refusal("spec.http[0].delegate", '"inner"', "move the delegate's routes into this VirtualService"),
    ),
    "being a delegate": (
        {**virtual_service(split()), "spec": {"http": [split()]}},
        Refusal("spec.hosts", "empty (a delegate)", "name the VirtualService that has hosts, not a delegate"),
    ),
    "no http at all": (
        virtual_service(tcp=[{"route": [to("stable", 100), to("canary", 0)]}]),
        Refusal("spec.http", "empty", "add a route to subsets stable and canary; only http is steered"),
    ),
    "the canary alone for everybody": (
        virtual_service({"route": [to("canary")]}, split()),
        Refusal(
            "spec.http[0].route",
            "subset canary alone for all requests",
            "add subset stable beside it with weight 100, or give the route a match that picks callers "
            "(a header, a path)",
        ),
    ),
    "a default route without a subset: its Service selects both arms": (
        virtual_service(split(match=[{"uri": {"prefix": "/v2"}}]), {"route": [to(None)]}),
        Refusal(
            "spec.http[1].route",
            "host model without a subset for all requests",
            "name subset stable, or give the route a match that picks callers (a header, a path)",
        ),
    ),
    "a default route to the host's long name": (
        virtual_service(
            split(match=[{"uri": {"prefix": "/v2"}}]),
            {"route": [to(None, host="model.lab.svc.cluster.local")]},
        ),
        Refusal(
            "spec.http[1].route",
            "host model.lab.svc.cluster.local without a subset for all requests",
            "name subset stable, or give the route a match that picks callers (a header, a path)",
        ),
    ),
    "tcp to the canary": (
        virtual_service(split(), tcp=[{"route": [to("canary", 50), to("stable", 50)]}]),
        Refusal(
            "spec.tcp[0].route",
            "subset canary, with no weight of ours",
            "name stable alone: only http is steered",
        ),
    ),
    "tls to the canary": (
        virtual_service(split(), tls=[{"match": [{"sniHosts": ["x"]}], "route": [to("canary")]}]),
        Refusal(
            "spec.tls[0].route",
            "subset canary, with no weight of ours",
            "name stable alone: only http is steered",
        ),
    ),
    "tls to both arms by their Service": (
        virtual_service(split(), tls=[{"match": [{"sniHosts": ["x"]}], "route": [to(None)]}]),
        Refusal(
            "spec.tls[0].route",
            "host model without a subset, with no weight of ours",
            "name stable alone: only http is steered",
        ),
    ),
    "a weight of 150": (
        virtual_service(split(), split(150, 0)),
        Refusal(
            "spec.http[1].route[].weight",
            "150 and 0",
            "give whole percent that add up to 100, such as 100 and 0",
        ),
    ),
    "weights of nought": (
        virtual_service(split(0, 0)),
        Refusal(
            "spec.http[0].route[].weight",
            "0 and 0",
            "give whole percent that add up to 100, such as 100 and 0",
        ),
    ),
    "proportions": (
        virtual_service(split(9, 1)),
        Refusal(
            "spec.http[0].route[].weight",
            "9 and 1",
            "give whole percent that add up to 100, such as 100 and 0",
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_field_value_and_remedy(name: str) -> None:
    vs, refusal = REFUSED[name]
    found = steering(vs, **NAMES)
    assert found == refusal
    assert str(found) == f"{refusal.field} is {refusal.value}: {refusal.remedy}"


@pytest.mark.parametrize(
    "match",
    [
        [],
        [{}],
        [{"name": "all"}],
        [{"headers": {"x-tester": {"exact": "yes"}}}, {}],
        [{"uri": {"prefix": "/"}}],
        [{"uri": {"prefix": "/"}, "ignoreUriCase": True}],
        [{"uri": {"regex": ".*"}}],
        [{"gateways": ["mesh"], "port": 80, "scheme": {"exact": "http"}}],
        [{"method": {"exact": "POST"}}],
        [{"withoutHeaders": {"x-old": {}}}],
    ],
)
def test_a_match_that_picks_nobody_leads_everybody_to_the_canary(match: Json) -> None:
    found = steering(virtual_service({"match": match, "route": [to("canary")]}, split()), **NAMES)
    assert isinstance(found, Refusal)
    assert found.value == "subset canary alone for all requests"


def test_an_empty_object_is_refused_and_not_an_error() -> None:
    assert isinstance(steering({}, **NAMES), Refusal)
    assert isinstance(steering({"spec": {"hosts": ["a"], "http": [{}]}}, **NAMES), Refusal)


# -- DestinationRule and namespace -----------------------------------------------------------------


def rule(stable: Json, canary: Json, *, host: str = "model", namespace: str = "lab") -> Json:
    subsets = [{"name": "stable", "labels": stable}, {"name": "canary", "labels": canary}]
    return {"metadata": {"name": "model", "namespace": namespace}, "spec": {"host": host, "subsets": subsets}}


STABLE = {"app": "model", "version": "stable"}
CANARY = {"app": "model", "version": "canary"}
APART = rule({"version": "stable"}, {"version": "canary"})


def told_apart(*rules: Json, stable: Json = (STABLE,), canary: Json = (CANARY,)) -> Refusal | None:
    found = found_in(virtual_service(split()))
    return subsets.told_apart(rules, found, **NAMES, stable_labels=stable, canary_labels=canary)


def test_subsets_that_each_select_their_own_arm_are_fine() -> None:
    assert told_apart(APART) is None
    assert told_apart(rule({"version": "stable"}, CANARY, host="model.lab.svc.cluster.local")) is None


@pytest.mark.parametrize(
    ("rules", "field", "value"),
    [
        ([], "DestinationRule", "none"),
        ([rule(STABLE, CANARY, host="other")], "DestinationRule", "none"),
        ([rule({"app": "model"}, CANARY)], "DestinationRule model: spec.subsets[stable].labels", "app=model"),
        ([rule(STABLE, {"app": "model"})], "DestinationRule model: spec.subsets[canary].labels", "app=model"),
        ([rule(STABLE, {})], "DestinationRule model: spec.subsets[canary].labels", "empty"),
        (
            [rule(STABLE, {"version": "v2"})],
            "DestinationRule model: spec.subsets[canary].labels",
            "version=v2",
        ),
        (
            [rule(CANARY, STABLE)],
            "DestinationRule model: spec.subsets[stable].labels",
            "app=model, version=canary",
        ),
    ],
)
def test_subsets_that_do_not_tell_the_arms_apart_are_refused(rules: Json, field: str, value: str) -> None:
    refusal = told_apart(*rules)
    assert refusal is not None
    assert (refusal.field, refusal.value) == (field, value)
    assert refusal.remedy


def test_every_pod_counts_and_not_only_the_template() -> None:
    strayed = CANARY | {"version": "stable"}
    assert told_apart(APART, canary=(CANARY, strayed)) is not None
    assert told_apart(APART, stable=(STABLE, {"app": "model"})) is not None


def test_ambient_is_refused_unless_the_pods_opted_out() -> None:
    mesh = {"istio.io/dataplane-mode": "ambient"}
    namespace = {"metadata": {"name": "lab", "labels": mesh}}
    refusal = ambient(namespace)
    assert refusal is not None
    assert "sidecars" in refusal.remedy
    assert ambient(namespace, [{"istio.io/dataplane-mode": "none"}]) is None
    assert ambient({"metadata": {}}, [STABLE]) is None
    assert ambient({"metadata": {}}, [STABLE, mesh]) is not None


# -- the router ------------------------------------------------------------------------------------


class Server:
    """One VirtualService behind an API: GET, JSON Patch, and somebody who interferes before a patch."""

    def __init__(self, vs: Json | None, *meanwhile: Callable[[Json], Json | int]) -> None:
        self.vs = vs
        self.meanwhile = list(meanwhile)
        self.calls: list[str] = []

    async def call(self, method: str, path: str, *, body: Json = None, **_: Json) -> Json:
        self.calls.append(method)
        if method == "PATCH" and self.meanwhile:
            interfered = self.meanwhile.pop(0)(self.vs)
            if isinstance(interfered, int):
                raise ApiError(interfered, "Refused", "as ordered")
            self.vs = interfered
        if self.vs is None or path != PATH:
            raise ApiError(404, "NotFound", path)
        if method == "PATCH":
            try:
                self.vs = patched(self.vs, body)
            except Mismatch as error:
                raise ApiError(422, "Invalid", str(error)) from error
        return self.vs

    @property
    def weights(self) -> list[list[int | None]]:
        return [[target.get("weight") for target in http["route"]] for http in self.vs["spec"]["http"]]


def plan() -> Plan:
    return Plan(
        namespace="lab",
        canary="model-canary",
        stable="model",
        canary_hash="b",
        stable_hash="a",
        virtual_service="model",
        stable_subset="stable",
        canary_subset="canary",
        policy=NO_POLICY,
    )


def router(server: Server, believed: Json | None) -> IstioRouter:
    return IstioRouter(
        lambda namespace, name: believed if (namespace, name) == ("lab", "model") else None, server.call
    )


async def test_a_weight_is_one_patch() -> None:
    server = Server(virtual_service(split()))
    await router(server, server.vs).route(plan(), 10)
    assert server.calls == ["PATCH"]
    assert server.weights == [[90, 10]]


def versioned(version: str, *routes: Json) -> Json:
    vs = virtual_service(*routes)
    return vs | {"metadata": vs["metadata"] | {"resourceVersion": version}}


async def test_a_raise_that_comes_late_does_not_undo_a_fall() -> None:
    server, told = Server(versioned("8", split(100, 0))), []
    late = IstioRouter(lambda *_: versioned("7", split(90, 10)), server.call, wrote=told.append)
    with pytest.raises(ApiError):
        await late.route(plan(), 20)
    assert server.weights == [[100, 0]]
    assert server.calls == ["PATCH", "GET"]  # once, and the next pass knows what is there
    assert told == [server.vs]


async def test_a_fall_is_not_held_up_by_what_somebody_wrote_meanwhile() -> None:
    server = Server(versioned("8", split(90, 10)))
    await router(server, versioned("7", split(90, 10))).route(plan(), 0)
    assert server.calls == ["PATCH"]
    assert server.weights == [[100, 0]]


async def test_zero_is_sent_even_if_it_is_believed_to_be_there() -> None:
    server = Server(virtual_service(split(90, 10)))
    await router(server, virtual_service(split(100, 0))).route(plan(), 0)
    assert server.calls == ["PATCH"]
    assert server.weights == [[100, 0]]


async def test_what_is_written_is_told_at_once() -> None:
    server, told = Server(virtual_service(split())), []
    await IstioRouter(lambda *_: server.vs, server.call, wrote=told.append).route(plan(), 5)
    assert [seen_weight(found_in(vs)) for vs in told] == [5]


async def test_a_route_that_moved_is_found_again_in_the_same_call() -> None:
    server = Server(virtual_service(TESTERS, split(90, 10)))
    await router(server, virtual_service(split(90, 10))).route(plan(), 0)
    assert server.calls == ["PATCH", "GET", "PATCH"]
    assert server.weights == [[None], [100, 0]]


async def test_it_keeps_up_with_somebody_who_writes_three_times() -> None:
    def shift(vs: Json) -> Json:
        return virtual_service({"match": [], "redirect": {"uri": "/"}, "route": []}, *vs["spec"]["http"])

    server = Server(virtual_service(split(90, 10)), shift, lambda _: 409, shift)
    await router(server, server.vs).route(plan(), 0)
    assert server.calls == ["PATCH", *["GET", "PATCH"] * 3]
    assert server.weights == [[], [], [100, 0]]


@pytest.mark.parametrize("status", [409, 422])
async def test_after_three_more_attempts_the_error_is_the_callers(status: int) -> None:
    server = Server(virtual_service(split()), *[lambda _: status] * 9)
    with pytest.raises(ApiError) as error:
        await router(server, server.vs).route(plan(), 0)
    assert error.value.status == status
    assert server.calls.count("PATCH") == 4


async def test_other_errors_are_the_callers_at_once() -> None:
    server = Server(virtual_service(split()), lambda _: 403)
    with pytest.raises(ApiError):
        await router(server, server.vs).route(plan(), 0)
    assert server.calls == ["PATCH"]


async def test_a_virtual_service_that_is_gone_is_at_zero_and_cannot_be_raised() -> None:
    for believed in (None, virtual_service(split(90, 10))):
        await router(Server(None), None).route(plan(), 0)
        with pytest.raises((ApiError, Unsteerable)):
            await router(Server(None), believed).route(plan(), 10)


async def test_what_we_have_not_heard_of_yet_is_fetched() -> None:
    server = Server(virtual_service(split()))
    await router(server, None).route(plan(), 10)
    assert server.calls == ["GET", "PATCH"]
    assert server.weights == [[90, 10]]


async def test_believing_that_no_canary_is_named_is_not_enough_for_zero() -> None:
    server = Server(virtual_service(split(50, 50)))
    await router(server, virtual_service({"route": [to("stable")]})).route(plan(), 0)
    assert server.weights == [[100, 0]]


async def test_without_any_canary_destination_there_is_nothing_to_take_away() -> None:
    server = Server(virtual_service({"route": [to("stable")]}))
    await router(server, server.vs).route(plan(), 0)
    assert server.calls == ["GET"]


async def test_a_third_destination_refuses_a_raise_but_not_the_way_to_zero() -> None:
    server = Server(virtual_service({"route": [to("stable", 70), to("canary", 10), to("old", 20)]}))
    with pytest.raises(Unsteerable, match=r'VirtualService lab/model: .*"old"'):
        await router(server, server.vs).route(plan(), 20)
    await router(server, server.vs).route(plan(), 0)
    assert server.weights == [[80, 0, 20]]


async def test_weights_that_make_no_sense_are_set_right() -> None:
    server = Server(virtual_service(split(150, 7)))
    assert router(server, server.vs).seen(plan()).weight is None
    await router(server, server.vs).route(plan(), 0)
    assert server.weights == [[100, 0]]


async def test_zero_is_not_claimed_where_a_route_has_the_canary_alone_but_the_others_are_set() -> None:
    server = Server(virtual_service(split(90, 10), {"route": [to("canary"), to(None, 1, host="old")]}))
    with pytest.raises(Unsteerable, match=r"spec.http\[1\].route is subset canary alone for all"):
        await router(server, server.vs).route(plan(), 0)
    assert server.weights == [[100, 0], [None, 1]]


async def test_a_canary_named_twice_in_a_route_gets_nothing_by_either() -> None:
    twice = {"route": [to("canary", 10), to("stable", 80), to("canary", 10, port={"number": 81})]}
    server = Server(virtual_service(twice))
    await router(server, server.vs).route(plan(), 0)
    assert server.weights == [[0, 100, 0]]


def test_seen_says_the_weight_or_why_not() -> None:
    def seen(vs: Json) -> tuple[int | None, str | None]:
        route = router(Server(vs), vs).seen(plan())
        return route.weight, route.refusal

    assert seen(virtual_service(split(95, 5))) == (5, None)
    assert seen(virtual_service(split(95, 5), split(90, 10))) == (None, None)
    weight, refusal = seen(None)
    assert weight == 0
    assert refusal is not None
    assert "VirtualService lab/model is missing" in refusal
    assert seen(virtual_service({"route": [to("stable")]}))[1] is not None


@pytest.mark.parametrize(("canary", "weight"), [(10, None), (0, 0), (None, 0)])
def test_a_refused_virtual_service_says_whether_the_canary_has_anything(
    canary: int | None, weight: int | None
) -> None:
    vs = virtual_service({"route": [to("stable", 60), to("canary", canary), to("third", 40)]}, TESTERS)
    route = router(Server(vs), vs).seen(plan())

    assert route.refusal is not None
    assert route.weight == weight


def test_a_destination_rule_without_a_spec_says_nothing() -> None:
    found = steering(virtual_service(split()), **NAMES)
    assert isinstance(found, Steering)
    empty = {"metadata": {"name": "other", "namespace": "lab"}}

    told = subsets.told_apart([empty], found, **NAMES, stable_labels=[{}], canary_labels=[{}])

    assert told is not None
    assert (told.field, told.value) == ("DestinationRule", "none")
    assert (
        told.remedy == "add one for the host model.lab.svc.cluster.local, with the subsets stable and canary"
    )


# -- the mirror of a Shadow check ------------------------------------------------------------------

RECORDING = Recording(host="serin-shadow.serin-system.svc.cluster.local", port=8080, hosts=("model",))


def shadowed() -> Plan:
    return replace(plan(), recording=RECORDING)


async def test_the_mirror_comes_and_goes_and_is_seen() -> None:
    server = Server(virtual_service(split(), TESTERS))
    before = json.dumps(server.vs)
    await router(server, server.vs).mirror(shadowed(), on=True)
    assert [len(http.get("mirrors", [])) for http in server.vs["spec"]["http"]] == [1, 0]
    assert router(server, server.vs).seen(shadowed()).mirrored
    assert not router(server, server.vs).seen(plan()).mirrored
    await router(server, None).mirror(shadowed(), on=False)
    assert json.dumps(server.vs) == before
    assert server.calls == ["PATCH", "GET", "PATCH"]


async def test_a_weight_that_moves_meanwhile_costs_the_mirror_one_more_try_and_itself_nothing() -> None:
    server = Server(virtual_service(split(90, 10)), lambda _: virtual_service(split(100, 0)))
    await router(server, server.vs).mirror(shadowed(), on=True)
    assert server.calls == ["PATCH", "GET", "PATCH"]
    assert server.weights == [[100, 0]]
    await router(server, virtual_service(split(100, 0))).route(plan(), 5)
    assert server.weights == [[95, 5]]
    assert router(server, server.vs).seen(shadowed()).mirrored


async def test_a_mirror_that_a_user_added_meanwhile_is_not_touched() -> None:
    theirs = {"mirror": {"host": "audit"}}
    server = Server(virtual_service(split()), lambda _: virtual_service(split(**theirs)))
    await router(server, server.vs).mirror(shadowed(), on=True)
    assert server.vs == virtual_service(split(**theirs))


async def test_our_mirror_is_taken_out_of_a_virtual_service_that_is_refused_by_now() -> None:
    server = Server(virtual_service(split()))
    await router(server, server.vs).mirror(shadowed(), on=True)
    server.vs["spec"]["http"][0]["route"] = [to(None, host="elsewhere")]
    assert router(server, server.vs).seen(shadowed()).mirrored
    await router(server, server.vs).mirror(shadowed(), on=False)
    assert "mirrors" not in server.vs["spec"]["http"][0]


async def test_without_a_virtual_service_there_is_no_mirror_and_no_error() -> None:
    for wish in (True, False):
        await router(Server(None), None).mirror(shadowed(), on=wish)
    assert not router(Server(None), None).seen(shadowed()).mirrored


@pytest.mark.parametrize(
    "answer",
    [
        "null",
        "[]",
        '{"spec": 1}',
        '{"spec": {"http": [1]}}',
        '{"spec": {"http": [{"route": [1]}]}}',
        '{"spec": {"http": [{"route": [{"destination": 1}]}]}}',
        '{"metadata": "model", "spec": {"http": []}}',
    ],
)
async def test_an_answer_that_is_none_is_not_taken_for_a_virtual_service_that_is_gone(answer: str) -> None:
    """Found by fuzzing: an empty 200 meant "gone, so at zero already", and nothing was taken away."""

    async def call(*_: object, **__: object) -> Any:
        return json.loads(answer)

    router = IstioRouter(lambda *_: None, call)
    with pytest.raises(ApiError, match="no VirtualService"):
        await router.route(plan(), 0)


def test_no_run_begins_where_no_patch_could_take_all_of_its_traffic_back() -> None:
    """The API server takes 10 000 operations: of 2 501 steered routes none was taken back."""
    many = [split(match=[{"uri": {"exact": f"/{n}"}}]) for n in range(MOST_ROUTES)]
    found = steering(virtual_service(*many), **NAMES)
    assert isinstance(found, Steering)
    assert len(patch(found, 0)) < 10_000
    refused = steering(virtual_service(*many, split()), **NAMES)
    assert str(refused).startswith(f"spec.http is {MOST_ROUTES + 1} routes: ")
    assert isinstance(located(virtual_service(*many, split()), **NAMES), Steering)  # mid-run it goes on
