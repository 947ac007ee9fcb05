"""Checkpoints are written on a schedule of their own, less often while the API server is slow."""

from datetime import timedelta
from itertools import pairwise

import pytest

from controller.schedule import SELDOM, SLOW, Schedule

EVERY = timedelta(seconds=10)
QUICK = SLOW / 10


def times(schedule: Schedule, run: str, *, begin: float, until: float, took: float = QUICK) -> list[float]:
    """When a run that is looked at each second is saved."""
    found, last, now = [], begin, begin
    while now < until:
        if schedule.due(run, last=last, now=now):
            schedule.took(took, now=now)
            found.append(now)
            last = now
        now += 1.0
    return found


def test_a_run_is_saved_once_in_ten_seconds_and_others_at_other_moments() -> None:
    found = {run: times(Schedule(EVERY), run, begin=1000.0, until=1100.0) for run in ("a-1", "b-1", "c-1")}
    for each in found.values():
        assert 9 <= len(each) <= 10
        assert {round(b - a) for a, b in pairwise(each)} == {10}
    assert len({each[0] % 10 for each in found.values()}) > 1


def test_a_slow_server_is_asked_half_as_often_and_half_as_often_again_but_not_more_seldom_than_that() -> None:
    schedule = Schedule(EVERY)
    for at in range(0, 100, 10):
        schedule.took(SLOW + 1, now=1000.0 + at)
    assert schedule.seconds == SELDOM * EVERY.total_seconds()
    assert len(times(schedule, "a-1", begin=2000.0, until=2400.0, took=SLOW + 1)) == 5


def test_many_that_were_slow_together_count_once() -> None:
    schedule = Schedule(EVERY)
    for run in range(100):
        schedule.took(SLOW + 1, now=1000.0 + run / 100)
    assert schedule.seconds == 2 * EVERY.total_seconds()


def test_when_it_is_quick_again_the_first_schedule_comes_back_step_by_step() -> None:
    schedule = Schedule(EVERY)
    schedule.took(SLOW + 1, now=1000.0)
    seconds = []
    for _ in range(100):
        schedule.took(QUICK, now=2000.0)
        seconds.append(schedule.seconds)
    assert seconds == sorted(seconds, reverse=True)
    assert 1.9 * EVERY.total_seconds() < seconds[0]
    assert seconds[-1] == pytest.approx(EVERY.total_seconds())


def test_a_controller_that_is_late_writes_at_each_eighth_of_its_looks_at_most() -> None:
    schedule = Schedule(EVERY)
    assert [schedule.due("a-1", last=0.0, now=100.0, looks=looks) for looks in (1, 7, 8, 9)] == [
        False,
        False,
        True,
        True,
    ]
