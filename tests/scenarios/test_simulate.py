"""Many runs through the evidence: as the controller's own path has it, and each to its own end."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

import numpy as np
import pytest

from analysis import evidence as ev
from analysis.batches import arrays
from analysis.dispersion import key
from analysis.evidence import CheckKind, Evidence
from analysis.judge import Verdict, judge, log_term
from analysis.samples import Counts, Histogram, PodSample, Sample
from controller import planning, policies
from controller.gather import WARM_AFTER_REQUESTS
from controller.model import OnDoubt, Policy
from scenarios import simulate
from scenarios.distributions import Beta, Lognormal
from scenarios.page import SECONDS
from scenarios.simulate import UNDECIDED, UNHEARD, Ended, Runs, simulated
from scenarios.streams import Change, Counted, Spells, Traffic, Wander, World

FINE = tuple(bound for bound in SECONDS if 0.005 < bound < 0.7)
PLAIN = Traffic(rps=100.0, stable_pods=3, canary_pods=3, latency=Lognormal(0.02, 0.06), history=20.0, le=FINE)
NOISY = replace(
    PLAIN,
    common=Wander(sd=0.15),
    pod=Wander(sd=0.08, tau=10.0),
    static=0.03,
    spells=Spells(per_second=0.01, factor=2.0),
)
SLOW = Change(at=30.0, factor=3.0)


def policy(**changed: Any) -> Policy:
    quick = {"steps": [20, 50], "warmUp": "5s", "minStep": "15s", "minRequests": 200}
    return policies.policy(planning.builtin() | quick | changed)


def same(one: Runs, other: Runs) -> bool:
    return all((getattr(one, name) == getattr(other, name)).all() for name in Runs.__slots__)


class Recorded(World):
    """A world that remembers what it told."""

    told: list[Counted]

    def counted(self, start: float, weight: Any) -> Counted:
        tick = super().counted(start, weight)
        self.told.append(tick)
        return tick


def recorded(traffic: Traffic, *, runs: int, seed: int = 7) -> Recorded:
    world = Recorded.begun(traffic, runs=runs, seed=seed)
    assert isinstance(world, Recorded)
    world.told = []
    return world


# -- against the path of a single canary -----------------------------------------------------------


def nodes(number: int, arm: str) -> list[str]:
    """Names whose order by key is their own, so that both paths add up in the same order."""
    found: list[str] = []
    for name in (f"{arm}-{place}" for place in count()):
        if not found or key(name) > key(found[-1]):
            found.append(name)
        elif len(found) < number // 2:
            found = [name]
        if len(found) == number:
            return found
    raise AssertionError


def value(tick: Counted, kind: CheckKind, traffic: Traffic, run: int, pod: int) -> Counts | Histogram:
    if kind is CheckKind.ERROR_RATE:
        return Counts(int(tick.requests[run, pod]), int(tick.failed[run, pod]))
    cells = {
        CheckKind.LATENCY: (traffic.le, tick.latency),
        CheckKind.PREDICTIONS: (traffic.bins, tick.predictions),
    }
    le, counted = cells[kind]
    return Histogram(le, tuple(counted[run, pod].tolist()))


def samples(
    tick: Counted, kind: CheckKind, traffic: Traffic, run: int, *, clean: bool
) -> tuple[Sample, Sample]:
    stable = nodes(traffic.stable_pods, "stable")
    canary = nodes(traffic.nodes or traffic.canary_pods, "canary")
    where = [*stable, *(canary[place % len(canary)] for place in range(traffic.canary_pods))]
    pods = [
        PodSample(f"pod-{place}", node, value(tick, kind, traffic, run, place))
        for place, node in enumerate(where)
    ]
    served = tuple(pods[len(stable) :]) if clean else ()
    return Sample(tick.start, tick.end, tuple(pods[: len(stable)])), Sample(tick.start, tick.end, served)


class Single:
    """One canary, fed tick by tick as the controller does it."""

    def __init__(self, traffic: Traffic, followed: Policy, run: int) -> None:
        self.traffic, self.policy, self.run = traffic, followed, run
        times = {
            "burst_tolerance": followed.burst_tolerance.total_seconds(),
            "step_timeout": followed.step_timeout.total_seconds(),
        }
        self.evidence = [ev.begin(spec, steps=len(followed.steps), **times) for spec in followed.checks]
        self.step, self.since, self.requests = 0, 0.0, 0
        self.terms: list[list[float]] = []
        self.verdicts: list[Verdict] = []
        self.raised: list[float] = []

    def feed(self, tick: Counted) -> None:
        live = tick.start >= 0
        if tick.start == 0:
            self.evidence = [ev.restart(one, at=0.0, same_pods=True) for one in self.evidence]
        self.requests += int(tick.requests[self.run, self.traffic.stable_pods :].sum()) if live else 0
        served = self.requests >= WARM_AFTER_REQUESTS * self.traffic.canary_pods
        warm = served or self.step > 0 or tick.start >= self.policy.warm_up.total_seconds()
        for place, one in enumerate(self.evidence):
            clean = live and (warm or one.spec.kind is CheckKind.ERROR_RATE)
            both = samples(tick, one.spec.kind, self.traffic, self.run, clean=clean)
            self.evidence[place] = ev.update(one, *both)
        if live:
            self._judged(tick.end)

    def _judged(self, now: float) -> None:
        said = judge(self.evidence, alpha=self.policy.alpha, beta=self.policy.beta, now=now)
        self.terms.append([check.log_e for check in said.checks])
        self.verdicts.append(said.verdict)
        long_enough = now - self.since >= self.policy.min_step.total_seconds()
        enough = self.requests >= self.policy.min_requests
        if said.verdict is Verdict.PASS and long_enough and enough and self.step + 1 < len(self.policy.steps):
            self.evidence = [ev.next_step(one, at=now) for one in self.evidence]
            self.step, self.since, self.requests = self.step + 1, now, 0
            self.raised.append(now)


class Watched(simulate._Stage):
    """A batch that remembers its terms, by tick and check (T, C, B), and when runs were raised."""

    terms: list[np.ndarray]
    raised: list[tuple[float, list[int]]]

    def _decided(self, now: float) -> None:
        self.terms.append(np.stack([log_term(one) for one in self.going.evidence]))
        before = self.going.step.copy()
        super()._decided(now)
        risen = np.flatnonzero(self.going.step > before) if len(before) == len(self.going.step) else []
        self.raised += [(now, list(map(int, risen)))] if len(risen) else []


WORLDS = {
    "alike": PLAIN,
    "all noise": NOISY,
    "slow": replace(NOISY, changes=(replace(SLOW, at=15.0, factor=1.25),)),
    "errors": replace(PLAIN, changes=(Change(at=15.0, error_rate=0.005),)),
    "predictions": replace(PLAIN, changes=(Change(at=15.0, predictions=Beta(2.2, 5.0)),)),
    "six pods on five nodes": replace(NOISY, canary_pods=6, nodes=5),
    "one pod each": replace(NOISY, stable_pods=1, canary_pods=1),
    # with none at all the single path meets its buckets after the step has begun, and takes them for new ones
    "a second of history": replace(NOISY, history=1.0),
}


@pytest.mark.parametrize("world", WORLDS)
def test_a_run_is_judged_as_the_single_canary_path_judges_the_same_ticks(world: str) -> None:
    traffic, followed = WORLDS[world], policy()
    seen = recorded(traffic, runs=1)
    batch = Watched(seen, followed, 45.0)
    batch.terms, batch.raised = [], []
    over = batch.played()
    single = Single(traffic, followed, run=0)
    for tick in seen.told:
        single.feed(tick)
    ours = np.array(batch.terms)[:, :, 0]
    assert len(ours) == len(single.terms) > 30
    assert ours == pytest.approx(np.array(single.terms), rel=0, abs=1e-9)
    assert [at for at, _ in batch.raised] == single.raised
    assert np.abs(ours).max() > 0.5
    assert (Verdict.FAIL in single.verdicts) == (over.ended[0] == Ended.ROLLED_BACK)


def test_each_of_several_runs_is_judged_as_if_it_were_alone() -> None:
    followed = policy(steps=[20, 30, 50], minStep="10s", minRequests=100)
    seen = recorded(NOISY, runs=3)
    batch = Watched(seen, followed, 35.0)
    batch.terms, batch.raised = [], []
    batch.played()
    for run in range(3):
        single = Single(NOISY, followed, run)
        for tick in seen.told:
            single.feed(tick)
        ours = np.array(batch.terms)[:, :, run]
        assert ours == pytest.approx(np.array(single.terms), rel=0, abs=1e-9)
        assert [at for at, risen in batch.raised if run in risen] == single.raised


# -- how runs end ----------------------------------------------------------------------------------


def test_a_good_canary_is_promoted_through_every_step() -> None:
    found = simulated(PLAIN, policy(), runs=8, seed=1, duration=240.0)
    assert (found.ended == Ended.PROMOTED).all()
    assert (found.step == 1).all()
    assert (found.check == -1).all()
    assert (found.at >= 30.0).all()
    assert (found.highest < np.log(100)).all()


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ({"factor": 3.0}, "latency-p95"),
        ({"error_rate": 0.3}, "errors"),
        ({"predictions": Beta(5.0, 2.0)}, "predictions"),
    ],
)
def test_a_fault_is_rolled_back_by_its_own_check_soon_after_it_began(
    fault: dict[str, Any], check: str
) -> None:
    followed = policy(minStep="60s")
    traffic = replace(PLAIN, changes=(Change(at=30.0, **fault),))
    found = simulated(traffic, followed, runs=8, seed=2, duration=120.0)
    assert (found.ended == Ended.ROLLED_BACK).all()
    assert {followed.checks[place].name for place in found.check} == {check}
    assert ((found.at > 30.0) & (found.at < 50.0)).all()
    assert (found.step == 0).all()
    assert (found.highest >= np.log(100)).all()
    assert found.requests == pytest.approx(20.0 * found.at, rel=0.3)


def test_without_history_a_fault_is_found_all_the_same() -> None:
    traffic = replace(PLAIN, history=0.0, changes=(SLOW,))
    found = simulated(traffic, policy(minStep="60s"), runs=4, seed=3, duration=90.0)
    assert (found.ended == Ended.ROLLED_BACK).all()
    assert (found.at > 30.0).all()


def test_no_time_at_all_is_held_with_nothing_seen() -> None:
    found = simulated(PLAIN, policy(), runs=2, seed=3, duration=0.0)
    assert (found.ended == Ended.HELD).all()
    assert np.isinf(found.at).all()
    assert (found.requests == 0).all()


def test_a_step_lasts_min_step_and_until_min_requests_are_there() -> None:
    slow = simulated(PLAIN, policy(steps=[50], minStep="90s"), runs=4, seed=4, duration=120.0)
    assert (slow.at == 90.0).all()
    many = simulated(PLAIN, policy(steps=[50], minRequests=4500), runs=4, seed=4, duration=120.0)
    assert (many.ended == Ended.PROMOTED).all()
    assert (many.requests >= 4500).all()
    assert (many.requests < 4500 + 2 * 100).all()


@pytest.mark.parametrize(
    ("doubt", "ended", "at"),
    [
        ("Hold", Ended.HELD, np.inf),
        ("Proceed", Ended.PROMOTED, 2 * 21.0),
        ("RollBack", Ended.ROLLED_BACK, 21.0),
    ],
)
def test_a_step_that_cannot_pass_ends_as_the_policy_says_when_its_time_is_up(
    doubt: str, ended: Ended, at: float
) -> None:
    never = policy(stepTimeout="20s", beta=1e-100, onInconclusive=doubt)
    found = simulated(PLAIN, never, runs=4, seed=5, duration=60.0)
    assert (found.ended == ended).all()
    assert (found.at == at).all()
    assert (found.check == -1).all()
    assert (found.step == (1 if ended is Ended.PROMOTED else 0)).all()


def test_a_doubt_proceeds_without_its_requests_no_more_than_in_the_controller() -> None:
    few = policy(stepTimeout="20s", minRequests=10**6, onInconclusive="Proceed")
    found = simulated(PLAIN, few, runs=4, seed=5, duration=60.0)
    assert (found.ended == Ended.HELD).all()
    assert (found.step == 0).all()


@pytest.mark.parametrize(
    ("silence", "ended", "at"), [("RollBack", Ended.ROLLED_BACK, 41.0), ("Hold", Ended.HELD, np.inf)]
)
@pytest.mark.parametrize("doubt", ["Proceed", "RollBack", "Hold"])
def test_a_canary_that_no_request_reaches_ends_as_on_no_data_says_and_silence_never_promotes(
    silence: str, ended: Ended, at: float, doubt: str
) -> None:
    nobody = replace(PLAIN, rps=1e-6)
    followed = policy(noDataTimeout="40s", stepTimeout="90s", onNoData=silence, onInconclusive=doubt)
    found = simulated(nobody, followed, runs=4, seed=5, duration=240.0)
    assert (found.ended == ended).all()
    assert (found.at == at).all()
    assert (found.check == (UNHEARD if ended is Ended.ROLLED_BACK else UNDECIDED)).all()
    assert (found.step == 0).all()


def test_a_step_that_passes_is_not_given_up_although_its_time_is_up() -> None:
    late = replace(policy(steps=[50]), min_step=timedelta(seconds=40), step_timeout=timedelta(seconds=39))
    held, given_up = (
        simulated(PLAIN, replace(late, on_inconclusive=doubt), runs=4, seed=6, duration=60.0)
        for doubt in (OnDoubt.HOLD, OnDoubt.ROLL_BACK)
    )
    passing = held.at == 40.0
    assert 0 < passing.sum() < 4
    assert (given_up.ended == np.where(passing, Ended.PROMOTED, Ended.ROLLED_BACK)).all()
    assert (given_up.at == 40.0).all()


# -- many at once ----------------------------------------------------------------------------------


def test_the_same_arguments_bring_the_same_runs_and_another_seed_brings_others() -> None:
    def runs(seed: int) -> Runs:
        return simulated(
            replace(NOISY, changes=(replace(SLOW, at=5.0),)), policy(), runs=5, seed=seed, duration=20.0
        )

    assert same(runs(1), runs(1))
    assert not same(runs(1), runs(2))


def test_runs_come_in_batches_and_somebody_is_told_how_many_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "SIDE_BY_SIDE", 3)
    told: list[int] = []
    traffic = replace(PLAIN, history=5.0)
    found = simulated(traffic, policy(), runs=7, seed=1, duration=5.0, told=told.append)
    assert told == [3, 6, 7]
    assert found.ended.shape == found.highest.shape == (7,)
    assert len(set(found.requests.tolist())) > 4  # batches do not repeat each other


@pytest.fixture(scope="module")
def mixed() -> Callable[[], tuple[Recorded, Watched]]:
    """Runs that end at very different times: a slight fault, and nobody is put aside."""

    def played() -> tuple[Recorded, Watched]:
        traffic = replace(NOISY, changes=(Change(at=10.0, factor=1.6),))
        seen = recorded(traffic, runs=8)
        batch = Watched(seen, policy(minStep="10s", minRequests=100), 60.0)
        batch.terms, batch.raised = [], []
        return seen, batch

    return played


def test_what_a_run_did_is_not_changed_by_what_comes_after_its_end(
    mixed: Callable[[], tuple[Recorded, Watched]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "THINNED", -1.0)  # the runs that are over go on with the others
    seen, batch = mixed()
    over = batch.played()
    assert len(set(over.at.tolist())) > 3
    totals = np.logaddexp.reduce(np.array(batch.terms), axis=1)  # (T, B)
    live = [tick for tick in seen.told if tick.start >= 0]
    for run, at in enumerate(over.at):
        until = [tick for tick in live if tick.end <= at]
        served = sum(int(tick.requests[run, PLAIN.stable_pods :].sum()) for tick in until)
        assert over.requests[run] == served
        assert over.highest[run] == pytest.approx(totals[: len(until), run].max())
        assert over.step[run] == sum(run in risen for when, risen in batch.raised if when < at)


def test_the_first_to_end_ends_alike_whether_it_is_put_aside_or_not(
    mixed: Callable[[], tuple[Recorded, Watched]], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for thinned in (-1.0, 0.999):
        monkeypatch.setattr(simulate, "THINNED", thinned)
        results.append(mixed()[1].played())
    first = results[0].at == results[0].at.min()
    for name in Runs.__slots__:
        assert (getattr(results[0], name)[first] == getattr(results[1], name)[first]).all()


def test_putting_runs_aside_leaves_the_others_as_they_are() -> None:
    batch = simulate._Stage(recorded(NOISY, runs=5), policy(), 20.0)
    batch.played()
    assert len(batch.going.index) == 5
    before, on = batch.going, np.array([True, False, False, True, False])
    batch._thinned(on)
    assert batch.going.index.tolist() == [0, 3]
    assert batch.world.runs == 2
    for one, other in zip(before.evidence, batch.going.evidence, strict=True):
        for whole, part in zip(arrays(one), arrays(other), strict=True):
            assert (whole[on] == part).all()
    for name in ("step", "since", "heard", "requests", "step_requests"):
        assert (getattr(before, name)[on] == getattr(batch.going, name)).all()


def test_raising_some_runs_leaves_the_others_as_they_are() -> None:
    batch = simulate._Stage(recorded(NOISY, runs=3), policy(minStep="60s"), 20.0)
    batch.played()
    before = list(batch.going.evidence)
    batch._raised(np.array([False, True, False]), 20.0)
    assert batch.going.step.tolist() == [0, 1, 0]
    assert batch.going.since.tolist() == [0.0, 20.0, 0.0]
    assert batch.going.step_requests[1] == 0
    for one, other in zip(before, batch.going.evidence, strict=True):
        assert _rows(one, [0, 2]) == _rows(other, [0, 2])
        assert other.step.tolist() == [0, 1, 0]
        assert other.tally[1].sum() == 0


def _rows(evidence: Evidence, index: list[int]) -> list[bytes]:
    return [array[index].tobytes() for array in arrays(evidence)]
