"""The production checklist: every flaw of prepared canaries is named, and no other; patches mend them."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prepared import FLAWED, SOUND, Case, Room, page, server

from controller import planning, policies, reading
from controller.checklist import looked_at, summary
from controller.items import Item, Paged, Result
from scenarios.virtual.loop import run_virtual, virtual_loop

Json = Any


BY_HAND = {"rollback-drill", "buckets"}  # a command is what mends one, the model's code the other


def in_room(case: Case, look: Callable[[Room], Any]) -> Any:
    async def furnished() -> Any:
        found = look(await Room.furnished(case, virtual_loop().now))
        return await found if hasattr(found, "__await__") else found

    return run_virtual(furnished())


def having(items: dict[str, Item], result: Result) -> set[str]:
    return {one.name for one in items.values() if one.result is result}


@pytest.mark.parametrize("case", [*SOUND, *FLAWED], ids=lambda case: case.name)
def test_every_flaw_is_named_and_none_that_is_not_there(case: Case) -> None:
    items = in_room(case, Room.looked_at)
    assert having(items, Result.FAIL) == case.fails
    assert having(items, Result.UNKNOWN) == case.unknown
    assert all(one.why for one in items.values())


@pytest.mark.parametrize("case", FLAWED, ids=lambda case: case.name)
def test_the_patches_of_an_item_mend_it_and_break_no_other(case: Case) -> None:
    async def mended(room: Room) -> None:
        for name in case.fails - BY_HAND:
            before = room.looked_at()
            assert before[name].patches, name
            for patch in before[name].patches:
                await room.mend(patch)
            after = room.looked_at()
            assert after[name].result is not Result.FAIL, after[name].why
            assert having(after, Result.FAIL) < having(before, Result.FAIL)

    in_room(case, mended)


def test_a_drill_mends_its_item_while_it_is_young_and_was_fast() -> None:
    async def drilled(room: Room) -> None:
        assert room.looked_at()["rollback-drill"].mend == "kubectl serin drill model-canary -n lab"
        now = room.world.clock()
        room.drilled("1.4", ended=now - timedelta(days=31))
        assert "31 days ago; 30 days are the most" in room.looked_at()["rollback-drill"].why
        room.drilled("1.4", ended=now - timedelta(days=30, hours=1))  # it said that 30 days are more than 30
        assert "31 days ago; 30 days are the most" in room.looked_at()["rollback-drill"].why
        room.drilled("300.02", ended=now - timedelta(days=1))  # and 300.0 s more than 300
        assert "took 300.1 s, 1 day ago; 300 s are allowed" in room.looked_at()["rollback-drill"].why
        room.drilled("301", ended=now)
        assert "took 301.0 s, 0 days ago; 300 s are allowed" in room.looked_at()["rollback-drill"].why
        room.drilled("soon", ended=now)
        assert room.looked_at()["rollback-drill"].result is Result.FAIL
        room.drilled("2.5", ended=now - timedelta(days=29))
        assert room.looked_at()["rollback-drill"].result is Result.PASS

    in_room(FLAWED[4], drilled)


def test_a_model_s_histogram_gets_the_bounds_that_are_said() -> None:
    async def mended(room: Room) -> None:
        (low, high) = re.findall(r"from (\S+) to (\S+) s", room.looked_at()["buckets"].mend)[0]
        bounds = [float(low)]
        while bounds[-1] < float(high):
            bounds.append(bounds[-1] * 1.2)
        room.case = replace(room.case, page=page(bounds))
        assert room.looked_at()["buckets"].result is Result.PASS

    in_room(FLAWED[3], mended)


def test_a_sidecar_s_buckets_are_mended_by_an_annotation() -> None:
    coarse = page([0.025, 0.05, 0.1, 0.25, 0.5, 1.0], family="istio_request_duration_milliseconds")

    async def mended(room: Room) -> None:
        (patch,) = room.looked_at()["buckets"].patches
        await room.mend(patch)
        template = room.world.get("deployments", "lab", "model")["spec"]["template"]
        said = json.loads(template["metadata"]["annotations"]["sidecar.istio.io/statsHistogramBuckets"])
        bounds = [one / 1000 for one in said["istiocustom.istio_request_duration"]]
        room.case = replace(room.case, page=page(bounds, family="istio_request_duration_milliseconds"))
        assert room.looked_at()["buckets"].result is Result.PASS

    in_room(replace(SOUND[0], page=coarse), mended)


@pytest.mark.parametrize(
    ("kind", "items"),
    [
        ("horizontalpodautoscalers", {"autoscaling", "floor"}),
        ("virtualservices", {"routes"}),
        ("destinationrules", {"routes"}),
        ("canaryruns", {"rollback-drill"}),
        ("canarypolicies", {"retraining-hook"}),
    ],
)
def test_what_may_not_be_read_is_unknown_and_says_so(kind: str, items: set[str]) -> None:
    found = in_room(SOUND[0], lambda room: room.looked_at(unread=frozenset({kind})))
    assert having(found, Result.UNKNOWN) == {"gpu"} | items
    assert all(kind in found[name].why for name in items)


BARE = {"spec": {"http": [{"route": [{"destination": {"host": "model"}}]}]}}
ONE_LABEL = {"spec": {"selector": {"matchLabels": {"version": None}}}}
PLAIN = replace(
    SOUND[0], edits={("VirtualService", "model"): BARE, ("Deployment", "model"): ONE_LABEL}
)  # as most begin: no subset, and stable's selector does not know of an arm
UNLABELLED = {"spec": {**ONE_LABEL["spec"], "template": {"metadata": {"labels": {"version": None}}}}}
PLAINER = replace(PLAIN, edits={**PLAIN.edits, ("Deployment", "model"): UNLABELLED})


def test_no_route_to_a_subset_is_proposed_before_there_is_a_rule_that_has_it() -> None:
    """The VirtualService's patch stood alone, or first: applied so, every caller gets a 503."""

    def look(room: Room) -> Item:
        room.world.delete("destinationrules", "lab", "model")
        return room.looked_at()["routes"]

    labelled, bare = (in_room(case, look) for case in (PLAIN, PLAINER))
    rule, service = labelled.patches
    assert (rule.kind, service.kind) == ("DestinationRule", "VirtualService")
    assert [one["labels"]["version"] for one in rule.body["spec"]["subsets"]] == ["stable", "canary"]
    assert (bare.result, bare.patches) == (Result.FAIL, ())
    assert "first give the pods of model and model-canary a label that tells them apart" in bare.mend


def test_a_rule_whose_host_is_written_in_full_is_mended_and_gets_none_beside_it() -> None:
    def look(room: Room) -> Item:
        full = {"spec": {"host": "model.lab.svc.cluster.local", "subsets": None}}
        room.world.patch("destinationrules", "lab", "model", full)
        return room.looked_at()["routes"]

    rule, _ = in_room(PLAIN, look).patches
    assert (rule.kind, rule.name) == ("DestinationRule", "model")


def test_what_is_printed_leads_step_by_step_from_a_bare_service_to_one_that_is_steered() -> None:
    async def mended(room: Room) -> None:
        room.world.delete("destinationrules", "lab", "model")
        for name in ("versions", "routes"):
            for patch in room.looked_at()[name].patches:
                await room.mend(patch)
            await asyncio.sleep(60)  # pods with the new label take over
        routes = room.looked_at()["routes"]
        assert routes.result is Result.PASS, routes.why

    in_room(PLAINER, mended)


def serve(room: Room, name: str = "model", **selector: str) -> None:
    """A Service is there, which selects so."""
    meta = {"name": name, "namespace": "lab"}
    spec = {"selector": selector, "ports": [{"port": 80}]}
    room.world.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})


def test_a_service_that_pins_a_version_is_named_with_what_widens_it() -> None:
    """Weights moved, and no request ever reached the canary: its Service selected stable's pods alone."""

    async def mended(room: Room) -> None:
        serve(room, app="model", version="stable")
        routes = room.looked_at()["routes"]
        assert routes.result is Result.FAIL
        said = "Service model selects app=model, version=stable, which pods of model-canary are not"
        assert routes.why.startswith(said)
        (patch,) = routes.patches
        assert (patch.kind, patch.body) == ("Service", {"spec": {"selector": {"version": None}}})
        await room.mend(patch)
        assert room.world.get("services", "lab", "model")["spec"]["selector"] == {"app": "model"}
        assert room.looked_at()["routes"].result is Result.PASS

    in_room(SOUND[0], mended)


@pytest.mark.parametrize(
    ("selector", "merged"),
    [
        ({"version": "stable"}, {"version": None, "app": "model"}),  # a selector of nothing selects nothing
        ({"app": "other", "version": "stable"}, {"app": "model", "version": None}),
    ],
)
def test_a_service_with_nothing_of_both_arms_gets_what_they_share(selector: Json, merged: Json) -> None:
    def look(room: Room) -> Item:
        serve(room, **selector)
        return room.looked_at()["routes"]

    (patch,) = in_room(SOUND[0], look).patches
    assert patch.body["spec"]["selector"] == merged


@pytest.mark.parametrize(("name", "version"), [("model-v1", "stable"), ("model-v2", "canary")])
def test_a_service_beside_the_routes_may_select_whom_it_likes(name: str, version: str) -> None:
    """One for each version is usual beside the one that subsets are of, and none of the routes' business."""

    def look(room: Room) -> Item:
        serve(room, app="model")
        serve(room, name, app="model", version=version)
        return room.looked_at()["routes"]

    item = in_room(SOUND[0], look)
    assert (item.result, item.patches) == (Result.PASS, ())


def test_a_service_is_widened_after_the_rule_and_the_routes_stand() -> None:
    def look(room: Room) -> Item:
        room.world.delete("destinationrules", "lab", "model")
        serve(room, version="stable")
        return room.looked_at()["routes"]

    item = in_room(PLAIN, look)
    assert [one.kind for one in item.patches] == ["DestinationRule", "VirtualService", "Service"]
    assert "Service model selects version=stable" in item.why


def test_what_the_policy_skips_is_not_asked() -> None:
    skip = ("autoscaling", "buckets")

    def look(room: Room) -> list[Item]:
        grounds = room.grounds()
        return looked_at(replace(grounds, policy=replace(grounds.policy, preflight_skip=skip)))

    whole = in_room(FLAWED[2], Room.looked_at)
    assert whole["autoscaling"].result is Result.FAIL
    assert [one.name for one in in_room(FLAWED[2], look)] == [name for name in whole if name not in skip]


def test_a_policy_can_skip_each_item_and_nothing_else() -> None:
    items = list(in_room(SOUND[0], Room.looked_at))
    spec = planning.checked({"preflightSkip": items}, file=Path("all.yaml"))
    assert policies.policy(spec).preflight_skip == tuple(items)
    with pytest.raises(planning.BadPolicy, match=r"spec.preflightSkip\[0\].*drift_baseline"):
        planning.checked({"preflightSkip": ["drift_baseline"]}, file=Path("typo.yaml"))


def test_pages_that_nobody_could_read_leave_their_items_unknown_with_the_trouble() -> None:
    def look(room: Room) -> dict[str, Item]:
        grounds = room.grounds()
        pages = dict.fromkeys(grounds.pages, Paged(trouble="pod a: no answer within 0.5 s"))
        return {one.name: one for one in looked_at(replace(grounds, pages=pages))}

    found = in_room(SOUND[0], look)
    assert {"metrics", "buckets"} < having(found, Result.UNKNOWN)
    assert found["metrics"].why == "no page of model's pods could be read: pod a: no answer within 0.5 s"


def test_a_canary_that_is_the_first_with_latencies_of_its_own_is_told_before_it_has_traffic() -> None:
    sidecars = page(family="istio_request_duration_milliseconds")

    def look(room: Room) -> list[Item]:
        grounds = room.grounds()
        said, _ = reading.read(sidecars.encode(), grounds.policy.checks, at=0.0)
        canary = {pod.name for pod in room.cluster().arm("lab", "model-canary").pods}
        pages = {
            name: one if name in canary else replace(one, reading=said) for name, one in grounds.pages.items()
        }
        both = dict.fromkeys(grounds.pages, Paged(reading=said))
        each = (looked_at(replace(grounds, pages=one)) for one in (pages, both))
        return [one for items in each for one in items if one.name == "metrics"]

    found, alike = in_room(SOUND[0], look)
    assert found.result is Result.FAIL
    assert found.why == (
        "latency-p95 is read from model_inference_duration_seconds on the canary's pages and from "
        "istio_request_duration_milliseconds on stable's: the two are not compared, so that no step passes"
    )
    assert found.mend == "give stable model_inference_duration_seconds first: docs/metrics.md"
    assert alike.result is Result.PASS


def test_predictions_that_stable_s_buckets_do_not_tell_apart_are_told_before_there_is_traffic() -> None:
    crowded = page().replace('le="0.5"} 600', 'le="0.5"} 970')
    found = in_room(replace(SOUND[0], page=crowded), Room.looked_at)["buckets"]
    assert found.result is Result.FAIL
    assert found.why.startswith("predictions: 97 % of stable's lie in one bucket")
    assert found.mend == "give model_prediction_value buckets where its predictions lie"


@pytest.mark.parametrize(
    ("probe", "result"),
    [
        ({"httpGet": {"path": "/v2/health/ready", "port": 1}}, Result.PASS),
        ({"httpGet": {"path": "/readyz", "port": 1}}, Result.PASS),
        ({"httpGet": {"port": 1}}, Result.FAIL),
        ({"httpGet": {"path": "/v2/health/live", "port": 1}}, Result.FAIL),
        ({"tcpSocket": {"port": 1}}, Result.FAIL),
        ({"grpc": {"port": 1, "service": "fraud"}}, Result.PASS),
        ({"grpc": {"port": 1}}, Result.UNKNOWN),
        ({"exec": {"command": ["/check"]}}, Result.UNKNOWN),
        ({"httpGet": {"path": "/already", "port": 1}}, Result.UNKNOWN),
        ({"httpGet": {"path": "/deliver", "port": 1}}, Result.UNKNOWN),
    ],
)
def test_a_probe_is_taken_at_its_word_and_no_further(probe: Json, result: Result) -> None:
    case = replace(SOUND[0], container=server(readinessProbe=probe))
    assert in_room(case, Room.looked_at)["readiness"].result is result


def test_a_canary_of_a_gpu_server_asks_for_what_stable_asks_for() -> None:
    gpu = {"resources": {"limits": {"nvidia.com/gpu": 2}}}
    merge = {"spec": {"template": {"spec": {"containers": [server() | gpu]}}}}
    case = replace(SOUND[0], edits={("Deployment", "model"): merge})

    async def mended(room: Room) -> None:
        before = room.looked_at()["gpu"]
        assert before.result is Result.FAIL
        for patch in before.patches:
            await room.mend(patch)
        after = room.looked_at()["gpu"]
        assert (after.result, after.why) == (Result.PASS, "each Deployment asks for 2 nvidia.com/gpu")

    in_room(case, mended)


def test_an_alert_that_is_too_severe_for_drift_is_no_hook() -> None:
    alert = {"webhook": {"url": "https://a.example"}, "on": ["RolledBack", "Drifted"], "severity": "critical"}
    edits = {("CanaryPolicy", "default"): {"spec": {"alerts": [alert]}}}

    async def mended(room: Room) -> None:
        found = room.looked_at()["retraining-hook"]
        assert found.result is Result.FAIL
        assert "mild enough (severity: warning) for Drifted" in found.why
        for patch in found.patches:
            await room.mend(patch)
        assert room.looked_at()["retraining-hook"].result is Result.PASS

    in_room(replace(SOUND[0], edits=edits), mended)


def test_a_sidecar_among_the_init_containers_is_held_to_its_resources_too() -> None:
    """It runs as long as the model does; what ends before the model starts takes nothing from it."""
    beside = {"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}
    before = {"name": "download", "image": "fetch:1"}
    edit = {"spec": {"template": {"spec": {"initContainers": [before, beside]}}}}

    async def mended(room: Room) -> None:
        found = room.looked_at()["resources"]
        assert found.result is Result.FAIL
        assert "container proxy of model lacks" in found.why
        assert "download" not in found.why
        for patch in found.patches:
            await room.mend(patch)
        assert room.looked_at()["resources"].result is Result.PASS
        stable = room.world.get("deployments", "lab", "model")
        assert stable is not None
        assert [one["name"] for one in stable["spec"]["template"]["spec"]["containers"]] == ["server"]

    in_room(replace(SOUND[0], edits={("Deployment", "model"): edit}), mended)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            {"canaryReplicas": "Keep"},
            "has 2 pods, and canaryReplicas Keep scales nothing; 50 % of the requests take 6",
        ),
        (
            {"steps": [10, 80]},
            "canaryReplicas Match scales it to stable's 6 at most; 80 % of the requests take 22",
        ),
    ],
)
def test_the_canary_has_to_carry_the_last_step(policy: Json, said: str) -> None:
    """Of Match it said "is scaled to its weight", be it a step that this never brings enough pods for."""

    async def mended(room: Room) -> None:
        before = room.looked_at()["floor"]
        assert before.result is Result.FAIL
        assert said in before.why
        for patch in before.patches:
            await room.mend(patch)
        assert room.looked_at()["floor"].result is Result.PASS

    in_room(replace(SOUND[0], edits={("CanaryPolicy", "default"): {"spec": policy}}), mended)


def test_an_autoscaler_that_has_not_acted_yet_is_said_to() -> None:
    """On an emulated cluster none ever does: "leaves 6 pods at least, and all its requests take 1"."""
    few = {("Deployment", "model"): {"spec": {"replicas": 1}}}

    async def looked(room: Room) -> None:
        floor = room.looked_at()["floor"]
        assert floor.result is Result.PASS
        assert "leaves model 6 pods at least; it has not acted yet, 1 is asked for" in floor.why

    in_room(replace(SOUND[0], edits=few), looked)


def test_a_stable_that_is_recreated_has_no_pods_in_a_promotion() -> None:
    recreate = {("Deployment", "model"): {"spec": {"strategy": {"type": "Recreate"}}}}

    async def mended(room: Room) -> None:
        before = room.looked_at()["floor"]
        assert "Recreate" in before.why
        await room.mend(before.patches[0])
        assert room.looked_at()["floor"].result is Result.PASS

    in_room(replace(SOUND[0], edits=recreate), mended)


def test_routes_that_pin_testers_are_named_and_those_that_pin_everybody_refused() -> None:
    async def routed(room: Room) -> None:
        canary = [{"destination": {"host": "model", "subset": "canary"}}]
        split = room.world.get("virtualservices", "lab", "model")["spec"]["http"]
        testers = {"match": [{"headers": {"x-tester": {"exact": "yes"}}}], "route": canary}
        room.world.patch("virtualservices", "lab", "model", {"spec": {"http": [testers, *split]}})
        item = room.looked_at()["routes"]
        assert item.result is Result.PASS
        assert item.why.endswith("; whatever the weight, model-canary has what matches spec.http[0]")
        everybody = {**testers, "match": [{"uri": {"prefix": "/"}}]}
        room.world.patch("virtualservices", "lab", "model", {"spec": {"http": [everybody, *split]}})
        item = room.looked_at()["routes"]
        assert item.result is Result.FAIL
        assert "spec.http[0].route is subset canary alone for all requests" in item.why

    in_room(SOUND[0], routed)


OTHER = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService"}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        # an ingress beside the mesh's: its callers meet every pod of the Service, at weight 0 too
        (
            {
                "hosts": ["api.example"],
                "gateways": ["gw"],
                "http": [{"route": [{"destination": {"host": "model"}}]}],
            },
            "http",
        ),
        (
            {
                "hosts": ["api.example"],
                "gateways": ["gw"],
                "http": [
                    {
                        "match": [{"headers": {"x": {"exact": "1"}}}],
                        "route": [{"destination": {"host": "other"}}],
                    },
                    {"route": [{"destination": {"host": "model.lab.svc.cluster.local"}}]},
                ],
            },
            "spec.http[1] leads",
        ),
        (
            {
                "hosts": ["model"],
                "gateways": ["gw"],
                "tcp": [{"route": [{"destination": {"host": "model"}}]}],
            },
            "tcp[0]",
        ),
        # sidecars read one VirtualService of a host: the other's weights may steer nothing
        (
            {
                "hosts": ["model"],
                "http": [{"route": [{"destination": {"host": "model", "subset": "stable"}}]}],
            },
            "has host model.lab.svc.cluster.local too",
        ),
    ],
)
def test_another_virtual_service_past_the_split_is_named(spec: Json, said: str) -> None:
    def look(room: Room) -> Item:
        other = {**OTHER, "metadata": {"name": "beside", "namespace": "lab"}, "spec": spec}
        room.world.create(other)
        return room.looked_at()["routes"]

    item = in_room(SOUND[0], look)
    assert item.result is Result.FAIL
    assert item.why.startswith("VirtualService beside")
    assert said in item.why
    assert "VirtualService beside" in item.mend


@pytest.mark.parametrize(
    "spec",
    [
        {
            "hosts": ["api.example"],
            "http": [{"route": [{"destination": {"host": "model", "subset": "stable"}}]}],
        },
        {
            "hosts": ["api.example"],
            "http": [{"route": [{"destination": {"host": "model", "subset": "canary"}}]}],
        },
        {
            "hosts": ["api.example"],
            "http": [{"match": [{"uri": {"prefix": "/old"}}], "route": [{"destination": {"host": "model"}}]}],
        },
        {
            "hosts": ["api.example"],
            "http": [{"route": [{"destination": {"host": "model.elsewhere.svc.cluster.local"}}]}],
        },
        {"http": [{"route": [{"destination": {"host": "model"}}]}]},  # a delegate: its root picks the callers
        {
            "hosts": ["model"],
            "gateways": ["gw"],
            "http": [{"route": [{"destination": {"host": "model", "subset": "stable"}}]}],
        },
    ],
)
def test_another_virtual_service_that_is_its_owner_s_business_is_not(spec: Json) -> None:
    def look(room: Room) -> Item:
        other = {**OTHER, "metadata": {"name": "beside", "namespace": "lab"}, "spec": spec}
        room.world.create(other)
        return room.looked_at()["routes"]

    assert in_room(SOUND[0], look).result is Result.PASS


@pytest.mark.parametrize(
    ("probe", "result"),
    [
        ({"grpc": {"port": 9000, "service": "model"}}, Result.FAIL),
        ({"exec": {"command": ["ask-the-model"]}}, Result.UNKNOWN),
        ({"httpGet": {"path": "/v2/health/ready", "port": 8080}}, Result.FAIL),
        ({"grpc": {"port": 9000}}, Result.PASS),  # the process alone
    ],
)
def test_a_pod_that_is_restarted_by_what_says_that_it_is_ready_is_told(probe: Json, result: Result) -> None:
    """Of the same gRPC service, and of the same command, it said "Pass", as of two that differ."""

    async def look(room: Room) -> None:
        for name in ("model", "model-canary"):
            (container,) = room.world.get("deployments", "lab", name)["spec"]["template"]["spec"][
                "containers"
            ]
            probed = {**container, "readinessProbe": probe, "livenessProbe": probe}
            spec = {"template": {"spec": {"containers": [probed]}}}
            room.world.patch("deployments", "lab", name, {"spec": spec})
        item = room.looked_at()["liveness"]
        assert item.result is result, item.why
        for patch in item.patches:
            await room.mend(patch)
        assert room.looked_at()["liveness"].result is not Result.FAIL

    in_room(SOUND[0], look)


@pytest.mark.parametrize(
    ("spec", "lacks"),
    [
        ({"gateways": ["istio-system/public"], "hosts": ["api.example"]}, "spec.gateways lacks mesh"),
        ({"gateways": ["istio-system/public", "mesh"], "hosts": ["api.example"]}, "spec.hosts lacks it"),
        ({"gateways": ["istio-system/public", "mesh"], "hosts": ["api.example", "model"]}, ""),
        ({"hosts": ["*.svc.cluster.local"]}, ""),
    ],
)
def test_callers_in_the_mesh_who_are_not_split_are_named(spec: Json, lacks: str) -> None:
    """Behind a gateway alone `routes` passed without a word, and they met the canary at weight 0."""

    def look(room: Room) -> Item:
        room.world.patch("virtualservices", "lab", "model", {"spec": spec})
        return room.looked_at()["routes"]

    item = in_room(SOUND[0], look)
    assert item.result is Result.PASS
    assert ("from within the mesh is not split, and meets model-canary too" in item.why) == bool(lacks)
    assert lacks in item.why


def test_a_stable_that_is_scaled_to_nothing_is_no_floor() -> None:
    """It said that there is 1 pod, whatever the canary gets."""

    def look(room: Room) -> Item:
        room.world.patch("deployments", "lab", "model", {"spec": {"replicas": 0}})
        return room.looked_at()["floor"]

    item = in_room(SOUND[0], look)
    assert item.result is Result.FAIL
    assert item.why.startswith("model is scaled to 0: a rollback would lead to no pod")


def test_where_nothing_is_set_up_every_patch_makes_what_is_missing() -> None:
    async def mended(room: Room) -> None:
        for kind in ("horizontalpodautoscalers", "virtualservices", "destinationrules"):
            room.world.delete(kind, "lab", "model")
        room.world.delete("canarypolicies", "lab", "default")
        wrong = {"autoscaling", "routes", "retraining-hook", "drift-baseline"}
        assert having(room.looked_at(), Result.FAIL) == wrong
        for name in sorted(wrong - {"drift-baseline"}):
            for patch in room.looked_at()[name].patches:
                await room.mend(patch)
            assert room.looked_at()[name].result is not Result.FAIL, name
        (patch,) = room.looked_at()["drift-baseline"].patches
        await room.mend(patch)
        assert having(room.looked_at(), Result.FAIL) == set()

    in_room(SOUND[0], mended)


def test_a_summary_names_what_failed_and_nothing_else() -> None:
    said = summary(in_room(FLAWED[2], Room.looked_at).values())
    assert said.startswith(
        "preflight: 2 items of the checklist failed: autoscaling: HPA model scales model by cpu"
    )
    assert "; floor: HPA model may leave 3 of model's 6 pods when the canary has 50 %" in said
    assert "gpu" not in said.replace("GPU", "")
