"""Time goes forward and as fast as it does, and what another leader saved is of this leader's time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_gather import begun, stepping

from analysis.samples import Counts
from controller import gather, ticks
from controller.clock import UNLOOKED, Steady, taken_over
from controller.gather import Gathered
from controller.model import Reason, Run, Stage, WeightChange
from controller.ports import Reading

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOMENT = timedelta(microseconds=2)  # what rounding may do


class Machine:
    """A machine whose clock is set by hand."""

    def __init__(self) -> None:
        self.wrong, self.passed = timedelta(), 0.0
        self.steady = Steady(self.wall, lambda: self.passed)

    def wall(self) -> datetime:
        return START + timedelta(seconds=self.passed) + self.wrong

    def passes(self, seconds: float) -> datetime:
        self.passed += seconds
        return self.steady()


def test_while_the_machine_s_clock_is_right_it_is_what_is_told() -> None:
    machine = Machine()
    for _ in range(100):
        assert machine.passes(0.37) == machine.wall()


steps = st.tuples(st.floats(0, 60), st.floats(-1e5, 1e5))  # s that pass, and how wrong the clock is then


@given(st.lists(steps, max_size=30))
def test_whatever_is_done_to_the_machine_s_clock_nine_to_eleven_tenths_of_the_time_pass(
    history: list[tuple[float, float]],
) -> None:
    machine = Machine()
    for seconds, wrong in history:
        before, machine.wrong = machine.steady(), timedelta(seconds=wrong)
        passed = machine.passes(seconds) - before
        true = timedelta(seconds=seconds)
        assert 0.9 * true - MOMENT <= passed <= 1.1 * true + MOMENT


@pytest.mark.parametrize("wrong", [-3600, 3600])
def test_it_is_led_back_to_the_machine_s_clock(wrong: int) -> None:
    machine = Machine()
    machine.wrong = timedelta(seconds=wrong)
    for _ in range(35_000):
        assert machine.passes(1) != machine.wall()
    for _ in range(2_000):
        machine.passes(1)
    assert machine.steady() == machine.wall()


# -- what another leader saved ---------------------------------------------------------------------


def saved(at: datetime) -> tuple[Run, Gathered]:
    """A run at its first step, whose checkpoint was made at `at`; requests are counted since a minute."""
    since = at - timedelta(seconds=60.125)
    run = stepping(stage=Stage.STEPPING, weight_since=since, step_since=since, data_since=at)
    loads, cursor = gather.instants(run, idle=0.0), gather.Cursor()
    for second in (1, 30):
        cursor, _, _ = counted(cursor, since.timestamp() + second, loads, n=100 * second)
    return run, replace(begun(run), cursor=cursor, saved=at.timestamp())


def counted(
    cursor: ticks.Cursor, at: float, since: dict[str, float], *, n: int
) -> tuple[ticks.Cursor, tuple[ticks.Tick, ...], dict[str, int]]:
    """After both pods' pages said at `at` that they had completed `n`; what each load has of the canary."""
    page = Reading(at=at, requests=Counts(n, 0), values={"errors": Counts(n, 0)})
    after, new, loads = ticks.advance(
        cursor, {"s": page, "c": page}, stable={"s": "a"}, canary={"c": "b"}, now=at, since=since
    )
    return after, new, {name: load.canary for name, load in loads.items()}


clocks = st.floats(-1e5, 1e5)  # seconds that the successor's clock is ahead


@given(clocks, st.floats(0, 60))
def test_no_clock_of_a_successor_loses_a_request_or_counts_one_twice(ahead: float, away: float) -> None:
    now = START + timedelta(seconds=away + ahead)
    run, gathered = taken_over(*saved(START), now)
    at = now.timestamp() + 0.5
    cursor, new, loads = counted(gathered.cursor, at, gather.instants(run, idle=0.0), n=3700)
    (tick,) = new
    assert tick.canary.pods[0].value == Counts(700, 0)
    assert tick.canary.end > float(gathered.evidence[1].at)
    assert loads == {"step": 3600, "weight": 3600}
    _, again, loads = counted(cursor, at + 1, gather.instants(run, idle=0.0), n=3700)
    assert sum(tick.canary.pods[0].value.n for tick in again if tick.canary.pods) == 0  # type: ignore[union-attr]
    assert loads == {"step": 3600, "weight": 3600}


@given(clocks, st.floats(0, 60))
def test_no_clock_of_a_successor_makes_a_run_older_than_two_minutes_more(ahead: float, away: float) -> None:
    now = START + timedelta(seconds=away + ahead)
    run, gathered = taken_over(*saved(START), now)
    assert run.step_since is not None
    before = timedelta(seconds=60.125)
    assert before <= now - run.step_since <= before + UNLOOKED + timedelta(seconds=1)
    assert gathered.cursor.loads["step"].since == run.step_since.timestamp()
    assert float(gathered.evidence[1].step_began) <= now.timestamp()


def test_between_clocks_that_agree_nothing_is_moved() -> None:
    now = START + timedelta(seconds=20)
    run, gathered = saved(START)
    assert taken_over(run, gathered, now) == (replace(run, data_since=now), gathered)


@pytest.mark.parametrize("ahead", [0, 86_400])
def test_that_nobody_led_is_no_silence_of_the_canary(ahead: float) -> None:
    """Seed 3168: a successor whose clock was a day off held a healthy canary for 120 s without data."""
    now = START + timedelta(seconds=9 + ahead)
    run, _ = taken_over(*saved(START), now)
    assert run.data_since == now
    waiting, gathered = saved(START)
    waits, _ = taken_over(replace(waiting, stage=Stage.WAITING), gathered, START + timedelta(seconds=9))
    assert waits.data_since == START  # until when pods have to have come


def test_a_silence_is_as_long_however_often_the_leader_changes() -> None:
    """With a leader that died each minute no `noDataTimeout` was ever over, and `onNoData: RollBack` held."""
    run, gathered = saved(START)
    for minute in range(1, 7):  # each saves as it dies, and the next one leads nine seconds later
        at = START + timedelta(minutes=minute)
        run, gathered = taken_over(run, replace(gathered, saved=at.timestamp()), at + timedelta(seconds=9))
        assert run.data_since == START + timedelta(seconds=9 * minute)


@pytest.mark.parametrize("stage", [Stage.STEPPING, Stage.PROMOTING])
def test_what_another_version_saved_by_a_clock_that_was_ahead_is_not_to_come(stage: Stage) -> None:
    """No silence, no load and no warm-up were counted until the clock had said what it once said."""
    run, _ = saved(START)
    now = START - timedelta(hours=1)
    run, _ = taken_over(replace(run, stage=stage), gather.begin(run.plan.policy), now)
    assert run.weight_since is not None
    assert run.step_since is not None
    assert now - timedelta(seconds=62) < run.weight_since == run.step_since < now
    assert run.data_since == now


def test_a_weight_of_which_a_status_does_not_say_since_when_is_one_since_it_was_given() -> None:
    """No request was counted since then: no silence was one, and no step had its `minRequests`."""
    run, gathered = saved(START)
    given = WeightChange(at=START - timedelta(seconds=40), weight=run.weight, reason=Reason.WEIGHT_RAISED)
    for weights, since in (((given,), given.at), ((), run.created)):
        after, _ = taken_over(replace(run, weight_since=None, weights=weights), gathered, START)
        assert after.weight > 0
        assert after.weight_since == since


def test_what_people_read_of_the_past_is_not_moved() -> None:
    run, gathered = saved(START)
    after, _ = taken_over(run, gathered, START - timedelta(hours=1))
    assert (after.created, after.weights) == (run.created, run.weights)
    assert after.weight_since != run.weight_since


def test_an_older_version_s_checkpoint_is_of_when_it_last_counted() -> None:
    run, gathered = saved(START)
    older = replace(gathered, saved=None)
    newest = gather.newest(older, otherwise=0.0)
    _, after = taken_over(run, older, datetime.fromtimestamp(newest - 500.5, UTC))
    assert gather.newest(after, otherwise=0.0) == pytest.approx(newest - 501)
