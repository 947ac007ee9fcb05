"""Canaries beside noisy neighbours, on a core that is full, in a slow cluster; all in virtual time."""

import asyncio
from typing import Any

import pytest

from controller import reconcile
from controller.reconcile import Reconciler
from scenarios.scale import objects
from scenarios.scale.ages import ages
from scenarios.scale.inside import Inside, inside
from scenarios.virtual.loop import run_virtual, virtual_loop

Json = Any
SMALL = objects.PODS
BEGUN = 7.0  # virtual seconds after which a canary has had its traffic for long enough to be compared


async def rolled_back(found: Inside, index: int) -> float:
    """Seconds from the fault until the canary has no traffic."""
    assert found.weights[index][-1][1] > 0
    began = asyncio.get_running_loop().time()
    found.pods.fault(index)
    return await found.weighs(index, 0, within=30) - began


def busy(seconds: float) -> None:
    """The controller's core has worked for so long."""
    virtual_loop()._jump.now += seconds


# -- noisy neighbours ------------------------------------------------------------------------------


def beside(neighbour: dict[str, int], *, hangs: bool) -> float:
    """How long a canary's rollback takes beside that of a neighbour."""

    async def play() -> float:
        async with inside([SMALL, neighbour]) as found:
            found.hanging = lambda index: hangs and index == 1
            await asyncio.sleep(BEGUN)
            assert len(found.pods_of(1, "canary")) == neighbour["canary"]
            assert (1 in found.weights) is not hangs
            return await rolled_back(found, 0)

    return run_virtual(play())


@pytest.mark.parametrize(("pods", "hangs"), [(500, False), (60, True)])
def test_a_neighbour_with_500_pods_does_not_delay_anothers_rollback_nor_one_whose_pages_hang(
    pods: int, *, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    working_out = reconcile.ticks.advance

    def works(cursor: Any, readings: Any, **how: Any) -> Any:
        busy(0.0004 * len(readings))  # of a pass, for each page
        return working_out(cursor, readings, **how)

    monkeypatch.setattr(reconcile.ticks, "advance", works)
    alone = beside({"stable": 1, "canary": 1}, hangs=False)
    assert beside({"stable": pods // 2, "canary": pods // 2}, hangs=hangs) <= 1.5 * alone


# -- a core that is full ---------------------------------------------------------------------------


def test_a_leader_with_twice_as_much_to_do_as_its_core_can_keeps_its_lease_and_rolls_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pass takes 2 x 0.12 s. All ticks are longer then, all alike."""
    turns: dict[str, list[float]] = {}
    observing, carrying_out = Reconciler._observe, Reconciler._carry_out

    async def observe(self: Reconciler, live: Any, obj: Any) -> Any:
        turns.setdefault(live.run.name, []).append(asyncio.get_running_loop().time())
        busy(0.12)
        return await observing(self, live, obj)

    async def carry_out(self: Reconciler, live: Any, run: Any, actions: Any) -> bool:
        busy(0.12)
        return await carrying_out(self, live, run, actions)

    monkeypatch.setattr(Reconciler, "_observe", observe)
    monkeypatch.setattr(Reconciler, "_carry_out", carry_out)

    async def play() -> None:
        async with inside([SMALL] * 8) as found:
            await asyncio.sleep(25)
            assert found.weights.keys() == set(range(8))
            assert await rolled_back(found, 5) <= 5  # two of the longer ticks
            assert found.leaderships == 1
            assert found.operator.leading

    run_virtual(play())
    late = [sum(12 < at < 24 for at in times) for times in turns.values()]
    assert max(late) <= min(late) + 2
    assert 4 <= min(late) <= 9


def test_where_ticks_are_longer_a_canary_that_may_fail_is_looked_at_again_soon() -> None:
    """With ticks of three seconds it took three of them until evidence of twice the latency sufficed."""

    async def play() -> float:
        async with inside([SMALL] * 2) as found:
            await asyncio.sleep(BEGUN)
            found.operator.tempo.stretch = lambda: 3.0  # type: ignore[method-assign]
            await asyncio.sleep(10)
            found.pods.fault(0, "slow")
            began = asyncio.get_running_loop().time()
            took = await found.weighs(0, 0, within=30) - began
            assert found.weights[1][-1][1] > 0
            return took

    assert run_virtual(play()) <= 6


# -- an API server that is slow --------------------------------------------------------------------


def test_with_an_api_server_that_is_slow_the_lease_holds_and_a_fault_is_rolled_back() -> None:
    """Each answer takes 1.5 s."""

    async def play() -> None:
        async with inside([SMALL] * 5, answered=1.5) as found:
            await asyncio.sleep(25)
            assert found.weights.keys() == set(range(5))
            assert await rolled_back(found, 3) <= 3.5  # a page, what was being saved, and one answer
            await asyncio.sleep(10)
            assert found.run(3)["status"]["reason"] == "CheckFailed"
            assert found.leaderships == 1
            assert found.operator.leading

    run_virtual(play())


# -- stable's pods go ------------------------------------------------------------------------------


def delete(found: Inside, pods: list[str]) -> None:
    for pod in pods:
        found.world.delete("pods", objects.namespace(0), pod)


def test_stable_is_drained_pod_by_pod_and_a_fault_is_still_found() -> None:
    async def play() -> None:
        async with inside([SMALL]) as found:
            await asyncio.sleep(BEGUN)
            before = found.pods_of(0, "stable")
            for pod in before:
                delete(found, [pod])
                await asyncio.sleep(5)
            after = found.pods_of(0, "stable")
            assert len(after) == len(before)
            assert not set(after) & set(before)
            assert found.weights[0][-1][1] > 0  # nothing was wrong with the canary
            assert await rolled_back(found, 0) <= 3

    run_virtual(play())


def test_while_stable_has_no_pod_at_all_traffic_stays_and_a_fault_is_acted_on_as_soon_as_it_has_some() -> (
    None
):
    async def play() -> None:
        async with inside([SMALL]) as found:
            await asyncio.sleep(BEGUN)
            scale = {"spec": {"replicas": 0}}
            found.world.patch("deployments", objects.namespace(0), objects.name(0), scale)
            await asyncio.sleep(3)
            assert not found.pods_of(0, "stable")
            found.pods.fault(0)
            await asyncio.sleep(10)
            assert found.weights[0][-1][1] > 0  # to whom else?
            scale = {"spec": {"replicas": 3}}
            found.world.patch("deployments", objects.namespace(0), objects.name(0), scale)
            back = asyncio.get_running_loop().time()
            assert await found.weighs(0, 0, within=30) - back <= 5
            await asyncio.sleep(2)
            assert found.run(0)["status"]["phase"] == "Failed"

    run_virtual(play())


# -- hours -----------------------------------------------------------------------------------------


def test_nothing_is_kept_of_the_ticks_and_checkpoints_that_a_run_has_had() -> None:
    """From the time on for which an API server remembers. A change that it forgets is some 90 objects."""
    sooner, later = run_virtual(ages(1, every=320, times=1))
    assert later.things - sooner.things < 300
