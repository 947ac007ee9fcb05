"""Another leader takes a run up whose status, or whose weights, are not as the last one wrote them."""

import asyncio
from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest

from scenarios.cluster.refusals import Refused
from scenarios.objects import NAMESPACE, STABLE
from tests.adapters.test_reconcile import Stage, stage

pytestmark = pytest.mark.virtual
__all__ = ["stage"]


def lose_status(stage: Stage, *but: str) -> None:
    """As a restore from a backup leaves it, or somebody who cleared it."""
    gone = {name: None for name in stage.run["status"] if name not in but}
    stage.world.patch("canaryruns", *stage.key, {"status": gone}, part="status")


def ask(stage: Stage, **said: Any) -> None:
    stage.world.patch("canaryruns", *stage.key, {"spec": said})


@pytest.mark.parametrize("kept", [(), ("weight", "weights", "checkpoint")])
async def test_the_weight_of_a_run_whose_status_was_lost_is_taken_away_until_it_begins_anew(
    stage: Stage, kept: tuple[str, ...]
) -> None:
    """The run said "paused" and 0 %, and the canary had its weight for ever, whatever it did."""
    await stage.at_first_step()
    ask(stage, paused=True)
    lose_status(stage, *kept)
    await asyncio.sleep(1)
    stage.lead(epoch=2)
    await stage.turns(3)
    assert stage.weight == 0
    assert sum("that this run did not give" in said.message for said in stage.quiet.said) == 1

    ask(stage, paused=False)
    await stage.turns(4)
    assert stage.weight == 10
    assert stage.run["status"]["weight"] == 10


async def test_a_leader_that_meets_a_status_that_was_lost_while_it_wrote_takes_the_weight_away(
    stage: Stage,
) -> None:
    await stage.at_first_step()
    ask(stage, paused=True)
    await stage.turns(2)
    before = stage.cluster.changed
    stage.cluster.changed = lambda *_: stage.key  # type: ignore[method-assign]
    lose_status(stage)
    await asyncio.sleep(1)
    stage.cluster.changed = before  # type: ignore[method-assign]
    await stage.turns(25)
    assert (stage.weight, stage.run["status"]["weight"]) in {(0, 0), (10, 10)}


async def test_the_weight_of_a_run_that_is_gone_with_its_finalizer_is_not_left_to_the_next_one(
    stage: Stage,
) -> None:
    """Nobody led when it was taken off by hand; the next run waits for pods that are not ready."""
    await stage.at_first_step()
    stage.world.patch("canaryruns", *stage.key, {"metadata": {"finalizers": None}})
    stage.world.delete("canaryruns", *stage.key)
    await asyncio.sleep(1)
    await stage.ask()
    ask(stage, paused=True)
    await asyncio.sleep(1)
    stage.lead(epoch=2)
    await stage.turns(2)
    assert stage.weight == 0


async def test_a_new_leader_whose_watch_tells_of_a_raise_late_takes_it_for_nobody_s(stage: Stage) -> None:
    """Its zero would have been a lost leader's: the healthy run would have ended."""
    told = stage.cluster.changed

    def late(kind: str, event: str, item: Any) -> Any:
        if kind == "canaryruns":
            return stage.key
        return told(kind, event, item)

    before = deepcopy(stage.cluster.get("canaryruns", *stage.key))
    assert before is not None
    before["spec"]["paused"] = True  # so that nothing else is done than what is asked here
    await stage.at_first_step()
    stage.cluster.changed = late  # type: ignore[method-assign]
    stage.cluster._objects["canaryruns"][NAMESPACE][stage.key[1]] = before
    stage.lead(epoch=2)
    for second in range(5):
        stage.serve(stable=400 + 90 * second, canary=40 + 10 * second)
        await stage.turns()
        assert stage.weight == 10
    assert stage.run["status"]["weight"] == 10


async def test_a_run_that_cannot_be_read_keeps_no_weight_though_its_finalizer_was_taken_off(
    stage: Stage,
) -> None:
    await stage.at_first_step()
    stage.world.patch("canaryruns", *stage.key, {"metadata": {"finalizers": None}})
    stage.patch_status(state={"mirrored": "yes"})
    await asyncio.sleep(1)
    stage.lead(epoch=2)
    await stage.turns(2)
    assert stage.weight == 0


async def test_weights_that_somebody_else_has_given_are_taken_away_before_the_first_step(
    stage: Stage,
) -> None:
    """As in a step, where more than the run gives is taken away, paused or not."""
    ask(stage, paused=True)
    (http,) = stage.service["spec"]["http"]
    for to, weight in zip(http["route"], (70, 30), strict=True):
        to["weight"] = weight
    stage.world.patch("virtualservices", NAMESPACE, STABLE, {"spec": {"http": [http]}})
    await asyncio.sleep(1)
    await stage.turns(5)
    assert stage.weight == 0


async def test_an_abort_of_a_run_whose_status_was_lost_is_sent_until_it_stands(stage: Stage) -> None:
    """Zero was sent once, and a refusal left the canary its traffic for good."""
    await stage.at_first_step()
    lose_status(stage)
    ask(stage, abort={"reason": "enough"})
    await asyncio.sleep(1)
    stage.lead(epoch=2)
    stage.net.fails = [("PATCH", "virtualservices")]
    await stage.turns(3)
    assert stage.weight == 10
    stage.net.fails = []
    await stage.turns(2)
    assert stage.weight == 0


@pytest.mark.parametrize("said", [{}, {"abort": {"reason": "not this one"}}], ids=["waiting", "aborted"])
async def test_a_run_that_waits_for_another_takes_none_of_its_traffic(
    stage: Stage, said: dict[str, Any]
) -> None:
    await stage.at_first_step()
    stage.serve(stable=400, canary=40)
    later = deepcopy(stage.run)
    later["metadata"] = {"name": "later", "namespace": NAMESPACE}
    later["spec"] |= said
    del later["status"]
    stage.world.create(later)
    await asyncio.sleep(1)
    for second in range(5):
        stage.serve(stable=500 + 100 * second, canary=50 + 10 * second)
        await stage.reconciler.turn((NAMESPACE, "later"))
        await stage.turns()
        assert stage.weight == 10


async def test_no_weight_is_given_that_no_object_tells_of(stage: Stage) -> None:
    """Its run was taken away, finalizer and all, just as the raise was being written down."""
    request, weights = stage.net.request, []

    def gone(method: str, path: str, **more: Any) -> Any:
        if method == "PATCH" and path.endswith("/status") and b'"weight": 10' in more["body"]:
            stage.world.patch("canaryruns", *stage.key, {"metadata": {"finalizers": None}})
            with suppress(Refused):
                stage.world.delete("canaryruns", *stage.key)
        return request(method, path, **more)

    stage.net.request = gone  # type: ignore[method-assign]
    stage.world.on_change(lambda *_: weights.append(stage.weight))
    await stage.turns(6)
    assert not stage.world.objects("canaryruns", NAMESPACE)
    assert set(weights) <= {0}
    assert stage.weight == 0
