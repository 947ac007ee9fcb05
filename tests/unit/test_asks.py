"""What becomes of an annotated Deployment: a run, or an Event that says why not, once a change."""

from typing import Any

import pytest
from test_trigger import PREFIX, cluster, past_run

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
        self.again: list[bool] = []
        self.mended: list[str] = []

    async def create(self, run: Json) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.created.append(run)

    async def refuse(self, _deployment: Json, message: str, *, again: bool) -> None:
        self.events.append(message)
        self.again.append(again)

    async def mend(self, _deployment: Json, message: str) -> None:
        self.mended.append(message)


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
    return Asks(there, create=server.create, refuse=server.refuse, mend=server.mend, prometheus=prometheus)


async def notes_say(looking: Asks, name: str = "model-canary", **notes: str) -> None:
    """The Deployment's annotations become these, and it has its turn."""
    deployment = looking.cluster.get("deployments", "shop", name)
    deployment["metadata"]["annotations"] = {
        f"{PREFIX}{key.replace('_', '-')}": value for key, value in notes.items()
    }
    await looking.turn(("shop", name))


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


async def test_a_mistake_that_is_made_again_is_said_again() -> None:
    """After A, B and A the newest Event spoke of B: A had the name of an Event that was there."""
    server = Server()
    looking = asks(server)
    for name in ("a", "a", "b", "a"):
        await notes_say(looking, canary_of=name)
    assert [said.partition('"')[2][0] for said in server.events] == ["a", "b", "a"]
    assert server.again == [False, True, True]


async def test_a_mistake_that_was_taken_back_and_made_again_is_said_again() -> None:
    """An annotation that was removed gave the Deployment no turn, and the same one later no Event."""
    server = Server()
    looking = asks(server)
    await notes_say(looking, canary_of="a")
    await notes_say(looking)
    await notes_say(looking)
    assert server.mended == [
        "Deployment model-canary asks for no canary any more, and nothing about it is refused"
    ]
    await notes_say(looking, canary_of="a")
    assert (len(server.events), server.again) == (2, [False, True])


async def test_what_holds_instead_of_a_refusal_is_said_once_it_is_known() -> None:
    server = Server()
    looking = asks(server)
    await notes_say(looking, canary_of="a")
    canary = looking.cluster.get("deployments", "shop", "model-canary")
    canary["metadata"]["generation"] = 2  # its own controller has not caught up
    await notes_say(looking, canary_of="model")
    assert server.mended == []
    canary["metadata"]["generation"] = 1
    looking.cluster.listed("canaryruns", [past_run("new", stage="Stepping")])
    await looking.turn(KEY)
    (said,) = server.mended
    assert said.endswith("; CanaryRun model-canary-new-1 is what they ask for")


async def test_of_a_template_that_has_had_its_run_the_way_to_another_is_said_once_a_refusal_is_mended() -> (
    None
):
    """Who corrected an annotation after an abort waited for a run, and nobody said that none would come."""
    server = Server()
    looking = asks(server)
    looking.cluster.listed("canaryruns", [past_run("new", reason="Aborted")])
    await notes_say(looking, canary_of="model", policy="strict")
    await notes_say(looking, canary_of="model")
    (said,) = server.mended
    assert "has had its run, model-canary-new-1 (Aborted): a changed template is tried by itself" in said
    assert said.endswith("this one by kubectl serin retry model-canary-new-1 -n shop")


async def test_another_deployment_of_that_name_is_told_of_its_own() -> None:
    server = Server()
    looking = asks(server)
    await notes_say(looking, canary_of="a")
    looking.cluster.get("deployments", "shop", "model-canary")["metadata"]["uid"] = "another"
    await looking.turn(KEY)
    assert (len(server.events), server.again) == (2, [False, False])


async def test_a_deployment_that_is_gone_is_forgotten() -> None:
    looking = asks(Server())
    await notes_say(looking, canary_of="a")
    assert KEY in looking.refused
    looking.cluster.listed("deployments", [])
    await looking.turn(KEY)
    assert KEY not in looking.refused


async def test_two_that_name_each_other_are_told_which_annotation_to_take_away() -> None:
    """The remedy was to create a VirtualService "model-canary"."""
    server = Server()
    looking = asks(server)
    looking.cluster.listed("virtualservices", [])
    await notes_say(looking, "model", canary_of="model-canary")
    (said,) = server.events
    assert (
        "Deployment model-canary is annotated as the canary of model: if model is the stable one, type"
        " kubectl annotate deployment model -n shop serin.dev/canary-of-; if not, create it"
    ) in said
