"""A promotion that is left to git, and what comes in between."""

import asyncio

import pytest

from scenarios.objects import CANARY, NAMESPACE, STABLE
from tests.adapters.test_odd_moments import Woken, ask, template
from tests.adapters.test_reconcile import Stage, stage
from tests.adapters.test_templates_lost import edit

pytestmark = pytest.mark.virtual
__all__ = ["stage"]
HANDOFF = {"promotion": {"mode": "Handoff"}}


async def drained(stage: Stage) -> None:
    """Each pod of the canary is evicted, and comes back."""
    for pod in stage.world.objects("pods", NAMESPACE):
        if pod["metadata"]["name"].startswith(CANARY):
            stage.world.delete("pods", NAMESPACE, pod["metadata"]["name"])


async def handed_off(stage: Stage) -> None:
    """A run whose plan says Handoff, in place of the one that was asked for."""
    stage.world.patch("canarypolicies", NAMESPACE, "default", {"spec": HANDOFF})
    stage.world.delete("canaryruns", *stage.key)
    await asyncio.sleep(1)
    await stage.ask()
    await stage.at_first_step()
    assert stage.run["spec"]["plan"]["policy"]["promotion"]["mode"] == "Handoff"


@pytest.mark.parametrize("first", ["git", "drain"])
async def test_a_hand_off_whose_canary_is_drained_while_git_rolls_stable_out_is_promoted(
    stage: Stage, first: str
) -> None:
    await handed_off(stage)
    async with Woken(stage).open():
        await asyncio.sleep(3)
        ask(stage, promote={"reason": "now"})
        await asyncio.sleep(5)
        assert stage.run["status"]["state"]["hold"] == "ReadyToPromote"
        theirs = {"spec": template(stage, CANARY)["spec"]}
        if first == "git":
            edit(stage, STABLE, template=theirs)
            await asyncio.sleep(0.3)
            await drained(stage)
        else:
            await drained(stage)
            await asyncio.sleep(0.3)
            edit(stage, STABLE, template=theirs)
        await asyncio.sleep(60)
    assert (stage.run["status"]["reason"], stage.weight) == ("Promoted", 0)


async def test_a_hand_off_that_git_takes_back_while_the_canary_is_away_goes_on_as_an_interrupted_run(
    stage: Stage,
) -> None:
    await handed_off(stage)
    async with Woken(stage).open():
        await asyncio.sleep(3)
        ask(stage, promote={"reason": "now"})
        await asyncio.sleep(5)
        mine, theirs = template(stage, STABLE)["spec"], template(stage, CANARY)["spec"]
        edit(stage, CANARY, minReadySeconds=1)
        edit(stage, STABLE, minReadySeconds=60)  # slowly: it is not through when git takes it back
        edit(stage, STABLE, template={"spec": theirs})
        await asyncio.sleep(0.3)
        await drained(stage)
        await asyncio.sleep(5)
        assert (stage.run["status"]["phase"], stage.weight) == ("Paused", 0)
        edit(stage, STABLE, template={"spec": mine})
        await asyncio.sleep(30)
    assert (stage.run["status"]["state"]["hold"], stage.weight) == ("ReadyToPromote", 10)


async def test_a_hand_off_whose_promotion_was_taken_back_is_not_promoted_by_what_git_does_later(
    stage: Stage,
) -> None:
    await handed_off(stage)
    async with Woken(stage).open():
        await asyncio.sleep(3)
        ask(stage, promote={"reason": "now"})
        await asyncio.sleep(5)
        ask(stage, promote=None)
        await asyncio.sleep(2)
        await drained(stage)
        await asyncio.sleep(0.3)
        edit(stage, STABLE, template={"spec": template(stage, CANARY)["spec"]})
        await asyncio.sleep(20)
    assert stage.run["status"]["reason"] == "StableChanged"


async def test_who_rolls_a_hand_off_out_whose_canary_fails_meanwhile_is_told_to_take_it_back(
    stage: Stage,
) -> None:
    """Nobody takes git's template away from stable, and all requests go where it is being rolled out."""
    await handed_off(stage)
    async with Woken(stage).open() as alive:
        await asyncio.sleep(3)
        ask(stage, promote={"reason": "now"})
        await asyncio.sleep(5)
        edit(stage, STABLE, minReadySeconds=60)
        edit(stage, STABLE, template={"spec": template(stage, CANARY)["spec"]})
        alive.failing = True
        await alive.until("Failed")
    assert stage.run["status"]["reason"] == "CheckFailed"
    assert stage.run["status"]["message"].endswith(
        "model was given that template already, not by Serin: take it back"
    )
