"""Two canaries of one stable Deployment, the second begun when the first has ended."""

import asyncio
from copy import deepcopy
from typing import Any

import pytest

from controller import resource, trigger
from controller.cluster import template_hash
from controller.runs import Runs
from scenarios.objects import CANARY, NAMESPACE, STABLE
from scenarios.virtual.loop import virtual_loop
from tests.adapters.test_hanging import Alive
from tests.adapters.test_odd_moments import ask
from tests.adapters.test_reconcile import Stage, stage

pytestmark = pytest.mark.virtual
__all__ = ["stage"]
OTHER = f"{CANARY}-next"


async def neighbour(stage: Stage) -> Any:
    """The Deployment of another canary of the same stable, in the same subset."""
    another = deepcopy(stage.world.get("deployments", NAMESPACE, CANARY))
    labels = {**another["spec"]["selector"]["matchLabels"], "track": "next"}
    another["metadata"] = {
        "name": OTHER,
        "namespace": NAMESPACE,
        "labels": labels,
        "annotations": {"serin.dev/canary-of": STABLE},
    }
    another["spec"]["selector"]["matchLabels"] = labels
    another["spec"]["template"]["metadata"]["labels"] = labels
    another.pop("status", None)
    stage.world.create(another)
    await asyncio.sleep(15)
    return stage.cluster.get("deployments", NAMESPACE, OTHER)


async def asked(stage: Stage, deployment: Any) -> tuple[str, str]:
    """Its run, once it is refused no more."""
    found = trigger.wanted(deployment, stage.cluster, lambda *_: None)
    assert isinstance(found, trigger.Refused)
    while isinstance(found, trigger.Refused):
        assert "is being steered by CanaryRun" in found.message
        await asyncio.sleep(0.5)
        found = trigger.wanted(deployment, stage.cluster, lambda *_: None)
    assert found is not None
    return await made(stage, found.run)


async def made(stage: Stage, run: Any) -> tuple[str, str]:
    created = await Runs(stage.kube, stage.cluster, clock=virtual_loop().now).create(run)
    return NAMESPACE, created["metadata"]["name"]


def by_hand(stage: Stage, deployment: Any) -> Any:
    """A run that somebody creates without asking."""
    template = template_hash(stage.cluster, deployment)
    plan = {**stage.run["spec"]["plan"], "canary": OTHER, "canaryHash": template}
    named = {"name": f"{OTHER}-{template}-1", "namespace": NAMESPACE, "workload": OTHER}
    return resource.run_object(plan, **named, owner_uid=deployment["metadata"]["uid"])


@pytest.mark.parametrize("how", ["asked for", "by hand"])
async def test_an_ended_run_s_late_zero_ends_no_other_canary_s_run(stage: Stage, how: str) -> None:
    """The first one's cannot be written for a while, and the other begins when it was seen."""
    await stage.at_first_step()
    first = stage.key
    stage.net.fails = [("PATCH", f"virtualservices/{STABLE}")]

    async def passes(key: tuple[str, str]) -> None:
        while True:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(await stage.reconciler.turn(key) or 1)

    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.extend([stage.weight] if seen[-1:] != [stage.weight] else [])
            await asyncio.sleep(0.02)

    async with Alive(stage).open():
        await asyncio.sleep(3)
        other = await neighbour(stage)
        ask(stage, abort={"reason": "no"})
        stage.world.patch("deployments", NAMESPACE, CANARY, {"spec": {"replicas": 0}})  # both in one subset
        await asyncio.sleep(3)
        going = asyncio.create_task(passes(first))
        if how == "by hand":
            stage.key = await made(stage, by_hand(stage, other))
            await asyncio.sleep(10)
            assert "is steered by CanaryRun" in stage.run["status"]["message"]
        await asyncio.sleep(10)
        looking = asyncio.create_task(look())
        virtual_loop().call_later(5, stage.net.fails.clear)
        if how == "asked for":
            stage.key = await asked(stage, other)
        await asyncio.sleep(20)
        going.cancel()
        looking.cancel()
    assert seen == [10, 0, 10]
    status = stage.run["status"]
    assert (status["phase"], [change["weight"] for change in status["weights"]]) == ("Progressing", [10])
