"""Placebos beside a run: what they are shown, what is kept of them, and when people are told."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from test_gather import START, sight, stepping, ticks

from analysis import placebo
from analysis.batches import arrays
from analysis.evidence import Evidence, update
from controller import gather
from controller.gather import Gathered
from controller.model import Stage, Tell
from controller.onlookers import Look
from controller.placebos import MOST_RUNS, Placebos, Together
from controller.ticks import Cursor, Tick

POLICY = stepping().plan.policy


class Leader:
    """A run's own evidence, and placebos beside it."""

    def __init__(self, *, others: int = 0, together: Together | None = None, **changes: Any) -> None:
        self.policy = replace(POLICY, **changes)
        self.placebos = Placebos(self.policy, others=others, together=together)
        self.gathered = Gathered(evidence=gather.begun(self.policy), cursor=Cursor())
        self.told: list[Tell] = []

    def passes(self, seconds: range, *, slow: int | None = None, stable: int = 3, **run: Any) -> None:
        for second in seconds:
            now = START + timedelta(seconds=second + 1)
            new = [_ill(_few(tick, stable), slow) for tick in ticks(second)]
            run_, seen = stepping(**run), sight(stable=stable)
            self.gathered = gather.scored(gather.take(self.gathered, run_, seen, new, now), update)
            look = Look(run_, seen, new, self.gathered.evidence, now)
            self.told += self.placebos.look(look, self.gathered)

    def begins(self, step: int, *, at: int) -> None:
        self.gathered = gather.begin_step(self.gathered, step, at=START.timestamp() + at)

    @property
    def said(self) -> Any:
        return self.placebos.said()


def _few(tick: Tick, pods: int) -> Tick:
    return replace(tick, stable=replace(tick.stable, pods=tick.stable.pods[:pods]))


def _ill(tick: Tick, pod: int | None) -> Tick:
    """With all of one stable pod's latencies beyond every bound."""
    if pod is None or tick.check != "latency-p95":
        return tick
    pods = list(tick.stable.pods)
    count = pods[pod].value.cells
    late = replace(pods[pod].value, count=(0,) * (len(count) - 1) + (sum(count),))  # type: ignore[call-arg]
    pods[pod] = replace(pods[pod], value=late)
    return replace(tick, stable=replace(tick.stable, pods=tuple(pods)))


def _latency_and_errors(leader: Leader) -> list[Evidence]:
    """Of the placebos; predictions have no ticks here."""
    gathered = leader.placebos._gathered
    return [one for one in gathered.evidence if one.nodes] if gathered else []


@pytest.fixture
def leader() -> Leader:
    """After 20 s of history and 40 s of traffic in the first step."""
    leader = Leader()
    leader.passes(range(20), weight=0)
    leader.begins(0, at=20)
    leader.passes(range(20, 60))
    return leader


def test_before_the_canary_has_traffic_there_is_nothing_to_say() -> None:
    leader = Leader()
    assert leader.said is None
    for second in range(20):
        leader.passes(range(second, second + 1), weight=0)
        assert leader.said is None


def test_what_is_said_is_how_many_since_when_and_how_far_the_furthest_came(leader: Leader) -> None:
    said = leader.said
    assert (said["count"], said["nodes"]) == (3, 1)
    assert said["since"] == "2026-03-01T12:00:21.000000Z"
    assert [one["name"] for one in said["checks"]] == [spec.name for spec in POLICY.checks]
    assert -0.1 < said["logE"] < 2
    assert all(one["logE"] < said["logE"] for one in said["checks"])
    assert leader.told == []


def test_the_furthest_is_remembered_over_steps(leader: Leader) -> None:
    leader.passes(range(60, 70), slow=0)
    before = leader.said["logE"]
    leader.begins(1, at=70)
    leader.passes(range(70, 90), step=1)
    assert leader.said["logE"] == before > 0
    assert all(one.step.tolist() == [1, 1, 1] for one in _latency_and_errors(leader))


def test_that_noise_alone_would_have_rolled_back_is_told_once(leader: Leader) -> None:
    leader.passes(range(60, 90), slow=1)
    (told,) = leader.told
    assert told.reason == "StableNoisy"
    assert told.outcome is None
    assert "1 node" in told.message
    assert "at most 3 % of runs" in told.message
    leader.passes(range(90, 95), slow=1)
    assert len(leader.told) == 1


def test_a_leader_that_finds_the_run_in_its_third_step_begins_there() -> None:
    leader = Leader()
    for step in range(3):
        leader.begins(step, at=0)
    leader.passes(range(3), step=2)
    (steps,) = {tuple(one.step.tolist()) for one in _latency_and_errors(leader)}
    assert steps == (2, 2, 2)
    assert leader.said["since"] == "2026-03-01T12:00:02.000000Z"


def test_of_two_nodes_there_are_none_and_it_is_said() -> None:
    leader = Leader()
    leader.passes(range(10), stable=2)
    assert leader.said == {"count": 0, "note": "stable has fewer than 3 nodes"}


def test_beside_many_runs_there_are_none_and_it_is_said() -> None:
    leader = Leader(others=MOST_RUNS)
    leader.passes(range(3))
    assert leader.said["count"] == 0
    assert leader.said["note"].startswith(f"{MOST_RUNS} other runs")
    assert Leader(others=MOST_RUNS - 1).said is None


def test_while_stable_is_replaced_its_pods_are_not_compared(leader: Leader) -> None:
    before = leader.said
    leader.passes(range(60, 90), slow=0, stage=Stage.PROMOTING)
    assert leader.said == before


# -- of several runs


def _three(together: Together | None) -> list[Leader]:
    """Three runs, of one controller unless each is to be scored by itself."""
    return [Leader(together=together) for _ in range(3)]


def _pass(leaders: list[Leader], seconds: range, **run: Any) -> None:
    for second in seconds:
        for number, leader in enumerate(leaders):
            leader.passes(range(second, second + 1), slow=number if second > 40 else None, **run)


def test_those_of_several_runs_are_scored_in_one_go_and_come_to_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    really = placebo.updated

    def counted(asked: Sequence[placebo.Asked]) -> list[Evidence]:
        calls.append(len(asked))
        return really(asked)

    monkeypatch.setattr(placebo, "updated", counted)
    side_by_side = Together()
    alone, together = _three(None), _three(side_by_side)
    _pass(alone, range(60))
    apart, calls[:] = len(calls), []
    _pass(together, range(60))
    assert (apart, len(calls)) == (3 * 59, 59)
    for one in together:
        side_by_side.settle(one.placebos)
    assert [one.said for one in together] == [one.said for one in alone]
    assert [one.told for one in together] == [one.told for one in alone]
    assert any(one.told for one in together)
    for one, other in zip(together, alone, strict=True):
        for mine, its in zip(_latency_and_errors(one), _latency_and_errors(other), strict=True):
            assert [a.tobytes() for a in arrays(mine)] == [b.tobytes() for b in arrays(its)]


def test_those_of_a_run_that_is_over_keep_nobody_waiting_for_longer_than_a_tick() -> None:
    first, second, third = leaders = _three(Together())
    _pass(leaders, range(30))
    before = third.said
    del leaders[2]
    _pass(leaders, range(30, 60))
    alone = Leader()
    alone.passes(range(60))
    assert third.said == before
    assert first.said["since"] == second.said["since"] == alone.said["since"]
    for leader in (first, second):
        known = leader.placebos._gathered
        assert known is not None
        assert max(float(one.at.max()) for one in known.evidence) >= START.timestamp() + 59


def test_one_that_cannot_be_scored_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, leaders = _three(None), _three(Together())
    _pass(alone[:2], range(60))
    _pass(leaders, range(20))
    spoilt, really = leaders[2].placebos._gathered, placebo.updated
    assert spoilt is not None

    def fails(asked: Sequence[placebo.Asked]) -> list[Evidence]:
        if any(one is its for one, *_ in asked for its in spoilt.evidence):
            raise ZeroDivisionError
        return really(asked)

    monkeypatch.setattr(placebo, "updated", fails)
    with pytest.raises(ZeroDivisionError):
        _pass(leaders, range(20, 21))
    _pass(leaders[:2], range(21, 60))
    assert [one.said for one in leaders[:2]] == [one.said for one in alone[:2]]
