"""How often runs are looked at, in virtual time."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from datetime import timedelta
from math import inf
from typing import Any

import pytest
from structlog.testing import capture_logs

from controller.tempo import LATE, MOMENTS, MOST, SIDE_BY_SIDE, TOLD, Beat, Moments, Tempo
from scenarios.virtual.loop import run_virtual

SECOND = timedelta(seconds=1)


async def turns(tempo: Tempo, *, waited: float, seconds: float, every: float = 0.05) -> None:
    """So long turns begin that have waited so long."""
    for _ in range(round(seconds / every)):
        tempo.began(waited)
        await asyncio.sleep(every)


def told(story: Coroutine[Any, Any, None]) -> list[str]:
    with capture_logs() as lines:
        run_virtual(story)
    return [line["event"] for line in lines]


def test_ticks_become_longer_until_turns_begin_when_they_are_due_and_then_shorter_again() -> None:
    heard: list[float] = []

    async def story() -> None:
        tempo = Tempo(SECOND, lambda interval: heard.append(interval.total_seconds()))
        needed, most = 2.4, 0.0  # intervals that the core takes for all runs
        for _ in range(90):
            enough = tempo.stretch() >= needed
            await turns(tempo, waited=0.035 if enough else 0.5, seconds=1)
            most = max(most, tempo.stretch())
        assert 0.8 * needed <= tempo.stretch() <= most <= 1.4 * needed
        await turns(tempo, waited=0.035, seconds=120)
        assert tempo.stretch() == 1.0

    run_virtual(story())
    assert heard[0] == heard[-1] == 1.0
    assert max(heard) >= 2.0


def test_a_queue_of_a_tenth_of_a_tick_makes_it_longer_and_one_moments_runs_do_not() -> None:
    """A queue is for nothing: as much is done without it, and what comes of it is late."""

    async def story() -> None:
        tempo = Tempo(SECOND)
        await turns(tempo, waited=0.055, seconds=5)  # half of the runs of a moment, on a core nearly full
        assert tempo.stretch() == 1.0
        await turns(tempo, waited=0.1, seconds=5)
        assert tempo.stretch() > 1.1
        for _ in range(60):
            await turns(tempo, waited=0.035 * tempo.stretch(), seconds=1)
        assert tempo.stretch() == 1.0

    run_virtual(story())


def test_what_is_left_of_a_queue_makes_no_tick_longer_while_it_becomes_shorter() -> None:
    """It grew for as long as the queue took to go: ticks of two seconds where one and a half do."""

    async def story() -> None:
        tempo, found = Tempo(SECOND), []
        await turns(tempo, waited=0.05, seconds=3)
        for waited in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4):
            await turns(tempo, waited=waited, seconds=tempo.stretch())
            found.append(tempo.stretch())
        assert 1.0 < max(found) == min(found[1:]) <= 1.21
        await turns(tempo, waited=0.5, seconds=3)
        assert tempo.stretch() > max(found)

    run_virtual(story())


def test_moments_of_an_interval_lie_as_far_apart_as_it_is_long() -> None:
    beat, found = Beat(1.0), []
    runs = {part: part - 1 for part in (0.05, 0.35, 0.95)}
    now = 7.0
    for seconds in (1.0, 1.6, 1.6, 1.5):
        beat.lasts(seconds, now)
        due = {}
        for part, last in runs.items():
            runs[part], due[part] = beat.after(now, part, last)
        found.append([round(at - now, 6) for at in due.values()])
        now += seconds
    assert found[:3] == [[0.05, 0.35, 0.95], [0.08, 0.56, 1.52], [0.08, 0.56, 1.52]]
    assert found[3] == [0.075, 0.525, 1.425]


def test_no_moment_comes_twice_because_intervals_become_longer_meanwhile() -> None:
    beat = Beat(1.0)
    comes, at = beat.after(10.0, 0.5, -inf)
    assert at == 10.5
    beat.lasts(2.0, 10.1)
    again, then = beat.after(at, 0.5, comes)  # its timer had been set already
    assert again == comes + 1
    assert then == pytest.approx(10.9 + 2.0)


@pytest.mark.parametrize("waited", [0.0, LATE])
def test_what_pages_and_company_take_makes_no_tick_longer(waited: float) -> None:
    async def story() -> None:
        tempo = Tempo(SECOND)
        await turns(tempo, waited=waited, seconds=30)
        assert tempo.stretch() == 1.0

    assert told(story()) == []


def test_single_turns_that_waited_for_something_else_make_none_longer() -> None:
    """A tenth of all passes saves, and an API server may take seconds for that."""

    async def story() -> None:
        tempo = Tempo(SECOND)
        for turn in range(600):
            tempo.began(5.0 if turn % 10 == 0 else 0.05)
            await asyncio.sleep(0.05)
        assert tempo.stretch() == 1.0

    run_virtual(story())


def test_ticks_are_never_longer_than_ten_intervals_and_people_are_told() -> None:
    async def story() -> None:
        tempo = Tempo(SECOND)
        await turns(tempo, waited=30.0, seconds=2 * TOLD)
        assert tempo.stretch() == MOST
        await turns(tempo, waited=0.0, seconds=600)
        assert tempo.stretch() == 1.0

    lines = told(story())
    assert 2 <= lines.count("ticks_longer") <= 2 + 600 / TOLD
    assert lines[-1] == "ticks_as_set"
    assert lines.count("ticks_as_set") == 1


def test_moments_are_shared_evenly_and_as_many_are_open_as_the_runs_need() -> None:
    moments = Moments()
    taken = [moments.taken() for _ in range(1000)]
    for runs in (1, 2, 60, 100, 180, 300, 1000):
        shared = Counter(taken[:runs])
        assert len(shared) == min(runs, len(MOMENTS), max(2, runs // SIDE_BY_SIDE))
    assert Counter(taken) == dict.fromkeys(MOMENTS, 100)
    assert taken[:2] == [0.05, 0.55]


def test_a_moment_that_is_left_is_the_next_ones_and_a_time_of_ones_own_is_nobodys() -> None:
    moments = Moments()
    first, second = moments.taken(), moments.taken()
    moments.left(0.123)
    moments.left(second)
    assert moments.taken() == second
    assert moments.taken() == first
