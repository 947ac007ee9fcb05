"""Pods in the canary's subset that are neither arm's: of another canary, begun or ended."""

import asyncio

import pytest

from controller import asks
from scenarios.objects import CANARY, NAMESPACE, STABLE
from tests.adapters.test_hanging import Alive
from tests.adapters.test_neighbours import OTHER, neighbour
from tests.adapters.test_odd_moments import ask
from tests.adapters.test_reconcile import Stage, stage

pytestmark = pytest.mark.virtual
__all__ = ["stage"]


async def test_nothing_is_raised_while_another_canary_s_pods_are_in_the_subset(stage: Stage) -> None:
    """They would have their part of its weight, and nobody looks at what they do with it."""
    await stage.at_first_step()
    async with Alive(stage).open():
        await asyncio.sleep(3)
        await neighbour(stage)
        assert stage.run["status"]["state"].get("hold") == "Refused"
        assert OTHER in stage.run["status"]["message"]
        stage.world.patch("deployments", NAMESPACE, OTHER, {"spec": {"replicas": 0}})
        await asyncio.sleep(10)
        assert stage.run["status"]["phase"] == "Progressing"


async def test_a_canary_waits_until_the_pods_of_the_one_before_are_gone(stage: Stage) -> None:
    await stage.at_first_step()
    async with Alive(stage).open():
        ask(stage, abort={"reason": "no"})
        await asyncio.sleep(5)
        other = await neighbour(stage)
        plan = {**stage.run["spec"]["plan"], "canary": OTHER}
        said = asks.unsteerable(stage.cluster, plan, other)
        assert said is not None
        assert CANARY in said
        await asyncio.sleep(620)
        assert asks.unsteerable(stage.cluster, plan, other) is None
    assert stage.world.get("virtualservices", NAMESPACE, STABLE)
