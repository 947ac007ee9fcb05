"""Runs whose passes fall together are scored together, and each as if it were alone."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from test_gather import START, begun, sight, stepping, ticks

from analysis.abreast import updated
from analysis.batches import arrays
from analysis.evidence import Evidence, update
from analysis.samples import Counts, Sample
from controller import gather
from controller.gather import Asked, Gathered, Scoring
from controller.rounds import COMPANY, FEW, PATIENCE, SOME, Rounds
from controller.slices import MOST, PIECES, Slices
from controller.ticks import Tick
from scenarios.virtual.loop import run_virtual


def steps(before: Gathered, *seconds: int, slower: float = 1.0) -> Scoring:
    new = [tick for second in seconds for tick in ticks(second, slower=slower)]
    return gather.take(before, stepping(), sight(), new, START + timedelta(seconds=seconds[-1] + 1))


def assert_alike(one: Gathered, other: Gathered) -> None:
    assert replace(one, evidence=()) == replace(other, evidence=())
    for a, b in zip(one.evidence, other.evidence, strict=True):
        assert a.spec == b.spec
        assert [array.tobytes() for array in arrays(a)] == [array.tobytes() for array in arrays(b)]


async def test_each_gets_what_it_would_get_alone() -> None:
    before, rounds = begun(stepping()), Rounds()
    cases = [((40,), 1.0), ((41,), 4.0), ((42, 43, 44), 2.0)]  # the last has several ticks of each check
    found = await asyncio.gather(
        *(rounds.scored(steps(before, *seconds, slower=slower)) for seconds, slower in cases)
    )
    for (seconds, slower), one in zip(cases, found, strict=True):
        assert_alike(one, gather.scored(steps(before, *seconds, slower=slower), update))
    assert float(found[1].evidence[0].at) == START.timestamp() + 42


async def test_those_that_are_ready_are_scored_before_the_loop_comes_round_twice() -> None:
    before, rounds = begun(stepping()), Rounds()
    tasks = [asyncio.create_task(rounds.scored(steps(before, 40 + place))) for place in range(3)]
    for _ in range(4):  # they begin; all are scored; they are told; they go on
        await asyncio.sleep(0)
    assert all(task.done() for task in tasks)


def spoilt(tick: Tick) -> Tick:
    return replace(tick, canary=Sample(tick.canary.start, tick.canary.end, (None,)))  # type: ignore[arg-type]


async def test_what_one_cannot_be_scored_for_is_its_own_trouble() -> None:
    before, rounds = begun(stepping()), Rounds()
    bad = [spoilt(tick) for tick in ticks(40)]
    wrong = gather.take(before, stepping(), sight(), bad, START + timedelta(seconds=41))
    good, failed = await asyncio.gather(
        rounds.scored(steps(before, 40)), rounds.scored(wrong), return_exceptions=True
    )
    assert isinstance(failed, AttributeError)
    assert isinstance(good, Gathered)
    assert_alike(good, gather.scored(steps(before, 40), update))


async def test_a_pass_that_is_cancelled_leaves_the_others_in_peace() -> None:
    before, rounds = begun(stepping()), Rounds()
    gone, stays = (asyncio.create_task(rounds.scored(steps(before, 40))) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert_alike(await stays, gather.scored(steps(before, 40), update))


async def test_company_that_is_about_to_begin_is_waited_for_but_not_for_ever() -> None:
    slices, begun_ = Slices(), 0
    before, rounds = begun(stepping()), Rounds(slices)

    def another() -> None:
        nonlocal begun_
        begun_ += 1
        slices.begin(another)  # there always is one more

    for _ in range(PIECES):
        slices.begin(another)
    await rounds.scored(steps(before, 40))
    assert PATIENCE * PIECES <= begun_ <= (PATIENCE + 4) * MOST
    assert slices.beginning


async def test_of_those_that_were_scored_together_few_go_on_in_one_round_of_the_event_loop() -> None:
    before, rounds = begun(stepping()), Rounds()
    tasks = [asyncio.create_task(rounds.scored(steps(before, 40))) for _ in range(10 * MOST)]
    done = [0]
    while done[-1] < len(tasks):
        await asyncio.sleep(0)
        done.append(sum(task.done() for task in tasks))
    assert max(after - earlier for earlier, after in pairwise(done)) == MOST


# -- among many ------------------------------------------------------------------------------------


def scorings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """When evidence was scored, and of how many checks at once."""
    found: list[tuple[float, int]] = []

    def seen(asked: Sequence[Asked]) -> list[Evidence]:
        found.append((asyncio.get_running_loop().time(), len(asked)))
        return updated(asked)

    monkeypatch.setattr("controller.rounds.updated", seen)
    return found


def test_among_many_each_waits_a_moment_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found, before = scorings(monkeypatch), begun(stepping())

    async def late(rounds: Rounds, seconds: float) -> Gathered:
        await asyncio.sleep(seconds)
        return await rounds.scored(steps(before, 40), among=FEW + 1)

    async def play() -> float:
        rounds, began = Rounds(), asyncio.get_running_loop().time()
        after = await asyncio.gather(*(late(rounds, COMPANY * part) for part in (0.0, 0.5, 0.9, 1.2)))
        for one in after:
            assert_alike(one, gather.scored(steps(before, 40), update))
        return began

    began = run_virtual(play())
    checks = len(before.evidence)
    assert [(round(at - began, 6), count) for at, count in found] == [
        (COMPANY, 3 * checks),
        (round(2.2 * COMPANY, 6), checks),
    ]


def test_when_enough_have_come_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.rounds.ENOUGH", 3)
    found, before = scorings(monkeypatch), begun(stepping())

    async def play() -> float:
        rounds, began = Rounds(), asyncio.get_running_loop().time()
        await asyncio.gather(*(rounds.scored(steps(before, 40), among=1000) for _ in range(3)))
        return asyncio.get_running_loop().time() - began

    assert run_virtual(play()) < COMPANY / 10
    assert [count for _, count in found] == [3 * len(before.evidence)]


@pytest.mark.parametrize(("failed", "among"), [(40, 1000), (0, 0)])
def test_who_may_have_to_lose_its_traffic_waits_for_nobody(failed: int, among: int) -> None:
    before = begun(stepping())

    def asking() -> Scoring:
        new = [failing(tick, failed) for tick in ticks(40)]
        return gather.take(before, stepping(), sight(), new, START + timedelta(seconds=41))

    async def play() -> float:
        began = asyncio.get_running_loop().time()
        found = await Rounds().scored(asking(), among=among)
        assert_alike(found, gather.scored(asking(), update))
        return asyncio.get_running_loop().time() - began

    assert run_virtual(play()) < COMPANY / 10


def test_a_healthy_canary_s_few_failed_requests_are_no_hurry() -> None:
    before = begun(stepping())
    tick = next(tick for tick in ticks(40) if tick.check == "errors")

    async def play(failed: int) -> float:
        began = asyncio.get_running_loop().time()
        asking = gather.take(
            before, stepping(), sight(), [failing(tick, failed)], START + timedelta(seconds=41)
        )
        await Rounds().scored(asking, among=1000)
        return asyncio.get_running_loop().time() - began

    assert run_virtual(play(SOME - 1)) == pytest.approx(COMPANY, abs=0.01)


def failing(tick: Tick, failed: int) -> Tick:
    """The same with so many of the canary's requests failed."""
    if tick.check != "errors":
        return tick
    first, *others = tick.canary.pods
    pods = (replace(first, value=Counts(1000, failed)), *others)
    return replace(tick, canary=replace(tick.canary, pods=pods))
