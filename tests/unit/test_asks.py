"""What becomes of an annotated Deployment: a run, or an Event that says why not, once."""

from typing import Any

import pytest
from test_trigger import PREFIX, cluster

from controller.asks import Asks
from controller.kube import ApiError

Json = Any
KEY = ("shop", "model-canary")


class Server:
    """Creates runs, or has something against them."""

    def __init__(self, *refusals: ApiError) -> None:
        self.refusals = list(refusals)
        self.created: list[Json] = []
        self.events: list[str] = []

    async def create(self, run: Json) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.created.append(run)

    async def refuse(self, _deployment: Json, message: str) -> None:
        self.events.append(message)


def asks(server: Server, *, prometheus: bool = False, policy: Json = None) -> Asks:
    there = cluster(notes={f"{PREFIX}max-latency-increase": "0.0000000000001%"})
    split = [
        {"destination": {"host": "model", "subset": "stable"}, "weight": 100},
        {"destination": {"host": "model", "subset": "canary"}, "weight": 0},
    ]
    meta = {"name": "model", "namespace": "shop"}
    there.listed(
        "virtualservices", [{"metadata": meta, "spec": {"hosts": ["model"], "http": [{"route": split}]}}]
    )
    subsets = [
        {"name": "stable", "labels": {"version": "model"}},
        {"name": "canary", "labels": {"version": "model-canary"}},
    ]
    there.listed("destinationrules", [{"metadata": meta, "spec": {"host": "model", "subsets": subsets}}])
    if policy is not None:
        there.listed("canarypolicies", [{"metadata": meta | {"name": "default"}, "spec": policy}])
    return Asks(there, create=server.create, refuse=server.refuse, prometheus=prometheus)


async def test_what_the_schema_has_against_a_run_is_said_once_and_not_tried_for_ever() -> None:
    invalid = ApiError(422, "Invalid", "spec.plan.maxLatencyIncrease: too long")
    server = Server(invalid, invalid)
    looking = asks(server)
    await looking.turn(KEY)
    await looking.turn(KEY)

    (said,) = server.events
    assert "spec.plan.maxLatencyIncrease: too long" in said
    await looking.turn(KEY)
    assert len(server.created) == 1


async def test_an_annotation_on_the_wrong_one_of_the_two_is_said_to_be_that() -> None:
    """The remedy was to create a VirtualService "model-canary"."""
    server = Server()
    looking = asks(server)
    notes = {f"{PREFIX}canary-of": "model-canary"}
    stable, canary = (looking.cluster.get("deployments", "shop", name) for name in ("model", "model-canary"))
    stable["metadata"]["annotations"], canary["metadata"]["annotations"] = notes, {}
    await looking.turn(("shop", "model"))

    (said,) = server.events
    assert (
        "VirtualService model is there: if model is the stable one, type"
        " kubectl annotate deployment model -n shop serin.dev/canary-of- &&"
        " kubectl annotate deployment model-canary -n shop serin.dev/canary-of=model; if not, create it"
    ) in said


async def test_trouble_that_passes_is_for_the_queue_to_try_again() -> None:
    server = Server(ApiError(503, "ServiceUnavailable", "later"))
    looking = asks(server)
    with pytest.raises(ApiError):
        await looking.turn(KEY)
    await looking.turn(KEY)

    assert (len(server.created), server.events) == (1, [])


@pytest.mark.parametrize("prometheus", [False, True])
async def test_a_policy_that_names_prometheus_is_refused_where_the_controller_knows_of_none(
    *, prometheus: bool
) -> None:
    check = {"name": "errors", "type": "ErrorRate", "plus": "1%", "source": {"prometheus": {}}}
    server = Server()
    await asks(server, prometheus=prometheus, policy={"checks": [check]}).turn(KEY)
    assert len(server.created) == prometheus
    assert len(server.events) == (not prometheus)
    assert all("checks[errors].source.prometheus" in said for said in server.events)
    assert all("set SERIN_PROMETHEUS_URL" in said for said in server.events)
