"""Many runs of one canary, side by side: how often is it rolled back, and how fast?

The evidence, its judgement and the plan's steps are the controller's; its world is not. Here weights
change at once, pods are ready from the beginning (as many as the last step needs), and nothing but the
traffic can fail. `serin scenario run` plays the whole controller, one run at a time.

Symbols: B runs. Times are seconds since the canary has traffic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from analysis import evidence as ev
from analysis.batches import placed, taken
from analysis.cells import Tick
from analysis.evidence import CheckKind, Evidence
from analysis.judge import Verdict, log_term, log_total, verdicts
from analysis.proportions import Array, Mask
from analysis.tracks import MOST_GROUPS
from controller.gather import WARM_AFTER_REQUESTS, terms
from controller.model import OnDoubt, Policy
from scenarios.streams import Counted, Traffic, World

SIDE_BY_SIDE = 256  # runs; more are faster by little and need much memory
THINNED = 0.8  # of the runs are still going on, or the others are put aside


UNDECIDED, UNHEARD = -1, -2  # in place of a check: what ended a run, if any did, was stepTimeout, or silence


class Ended(IntEnum):
    """How a run ended."""

    HELD = 0
    PROMOTED = 1
    ROLLED_BACK = 2


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """What became of B runs.

    `ended` (B,) as `Ended`, `at` (B,) seconds (infinity while held), `check` (B,) the index of the one that
    failed (`UNDECIDED`, `UNHEARD`: none), `step` (B,) the last one reached, `requests` (B,) of the canary
    until then. `highest` (B,): of the run's log e.
    """

    ended: NDArray[np.int64]
    at: Array
    check: NDArray[np.int64]
    step: NDArray[np.int64]
    requests: Array
    highest: Array


@dataclass(slots=True, eq=False)
class Going:
    """The runs that go on: which they are, where each is in its plan, and the evidence by check."""

    index: NDArray[np.intp]
    step: NDArray[np.int64]
    since: Array
    heard: Array  # when all required checks last had data, or else the step's beginning
    requests: Array
    step_requests: Array
    evidence: list[Evidence]


def simulated(
    traffic: Traffic,
    policy: Policy,
    *,
    runs: int,
    seed: int,
    duration: float,
    told: Callable[[int], None] = lambda _: None,
) -> Runs:
    """So many runs, of at most `duration` seconds each; `told` how many are over.

    After Ctrl-C those that are over by then, if there are any. The same arguments bring the same runs.
    """
    parts = []
    for first in range(0, runs, SIDE_BY_SIDE):
        count = min(SIDE_BY_SIDE, runs - first)
        world = World.begun(traffic, runs=count, seed=seed_of(seed, first))
        try:
            parts.append(_Stage(world, policy, duration).played())
        except KeyboardInterrupt:
            if not parts:
                raise
            break
        told(first + count)
    return Runs(*(np.concatenate([getattr(part, name) for part in parts]) for name in Runs.__slots__))


class _Stage:
    """One batch of runs, from the history of stable to the end of the last."""

    def __init__(self, world: World, policy: Policy, duration: float) -> None:
        self.world, self.policy, self.duration = world, policy, duration
        count = world.runs
        self.over = Runs(
            np.full(count, int(Ended.HELD)),
            np.full(count, np.inf),
            np.full(count, UNDECIDED),
            np.zeros(count, dtype=np.int64),
            np.zeros(count),
            np.full(count, -np.inf),
        )
        self.going = Going(
            np.arange(count),
            np.zeros(count, dtype=np.int64),
            np.zeros(count),
            np.zeros(count),
            np.zeros(count),
            np.zeros(count),
            [self._begun(spec, count) for spec in policy.checks],
        )

    def played(self) -> Runs:
        """Every run, to its end."""
        traffic, weights = self.world.traffic, np.array(self.policy.steps) / 100
        for place in range(round(traffic.history / traffic.tick)):
            start = place * traffic.tick - traffic.history
            self._learned(
                self.world.counted(start, np.zeros(self.world.runs)), np.zeros(self.world.runs, dtype=bool)
            )
        for one, evidence in enumerate(self.going.evidence):
            self.going.evidence[one] = ev.restart(evidence, at=np.zeros(self.world.runs), same_pods=True)
        for place in range(round(self.duration / traffic.tick)):
            counted = self.world.counted(place * traffic.tick, weights[self.going.step])
            self._learned(counted, self._clean(counted.start))
            self._decided(counted.end)
            if not len(self.going.index):
                break
        on = self._on()
        held = self.going.index[on]
        self.over.step[held], self.over.requests[held] = self.going.step[on], self.going.requests[on]
        return self.over

    def _on(self) -> Mask:
        """Which of those that are not put aside are not over."""
        return np.isinf(self.over.at[self.going.index])

    def _begun(self, spec: ev.CheckSpec, count: int) -> Evidence:
        traffic, policy = self.world.traffic, self.policy
        le = {CheckKind.LATENCY: traffic.le, CheckKind.PREDICTIONS: traffic.bins}.get(spec.kind, ())
        return ev.blank(
            spec,
            **terms(policy),
            finished=len(policy.steps),
            le=le,
            canary_le=le,
            nodes=tuple(range(traffic.stable_pods)),
            groups=tuple(range(traffic.nodes or traffic.canary_pods)),
            several=(count,),
        )

    def _clean(self, now: float) -> Mask:
        """Whose latency, predictions and clicks count: pods are warm."""
        pods = self.world.traffic.canary_pods
        served = self.going.step_requests >= WARM_AFTER_REQUESTS * pods
        return np.asarray(served | (now >= self.policy.warm_up.total_seconds()) | (self.going.step > 0))

    def _learned(self, counted: Counted, clean: Mask) -> None:
        """With one tick in the evidence."""
        stable = self.world.traffic.stable_pods
        of_canary = counted.requests[:, stable:].sum(axis=1)
        self.going.requests += of_canary
        self.going.step_requests += of_canary
        live = counted.start >= 0
        for one, evidence in enumerate(self.going.evidence):
            counts = live & (clean | (evidence.spec.kind is CheckKind.ERROR_RATE))
            self.going.evidence[one] = ev.advanced(evidence, self._tick(counted, evidence.spec.kind, counts))

    def _tick(self, counted: Counted, kind: CheckKind, counts: Mask) -> Tick:
        cells, traffic, runs = cells_of(counted, kind), self.world.traffic, len(counted.requests)
        nodes = traffic.nodes or traffic.canary_pods
        canary = cells[:, traffic.stable_pods :] * np.broadcast_to(counts, runs)[:, None, None]
        rows = min(nodes, MOST_GROUPS)
        if rows < traffic.canary_pods:
            group = np.arange(traffic.canary_pods) % nodes % rows
            canary = np.stack([canary[:, group == row].sum(axis=1) for row in range(rows)], axis=1)
        return Tick(
            np.full(runs, counted.start),
            np.full(runs, counted.end),
            cells[:, : traffic.stable_pods],
            canary,
            np.full(runs, traffic.stable_pods),
            np.where(counts, nodes, 0),
        )

    def _decided(self, now: float) -> None:
        """Rolled back, on to the next step, promoted, or none of these."""
        going, policy = self.going, self.policy
        terms = np.stack([log_term(one) for one in going.evidence])
        total = log_total(list(terms))
        on = self._on()
        self.over.highest[going.index[on]] = np.maximum(self.over.highest[going.index[on]], total[on])
        failed = total >= np.log(1 / policy.alpha)
        known = [verdicts(one, beta=policy.beta, now=now) for one in going.evidence if one.spec.required]
        silent = np.max(known, axis=0) == Verdict.NO_DATA
        going.heard = np.where(silent, going.heard, now)
        age = now - going.since
        enough = (age >= policy.min_step.total_seconds()) & (going.step_requests >= policy.min_requests)
        passed = (np.max(known, axis=0) == Verdict.PASS) & enough
        late = ~silent & (age > policy.step_timeout.total_seconds())
        if policy.on_inconclusive is OnDoubt.PROCEED:
            passed |= late & enough
        given_up = ~passed & late & (policy.on_inconclusive is OnDoubt.ROLL_BACK)
        patience = min(policy.no_data_timeout, policy.step_timeout).total_seconds()
        unheard = silent & (now - going.heard > patience) & (policy.on_no_data is OnDoubt.ROLL_BACK)
        last = going.step == len(policy.steps) - 1
        self._end(failed, Ended.ROLLED_BACK, now, np.argmax(terms, axis=0))
        self._end(unheard & ~failed, Ended.ROLLED_BACK, now, np.full(len(failed), UNHEARD))
        self._end(given_up & ~failed, Ended.ROLLED_BACK, now, np.full(len(failed), UNDECIDED))
        self._end(passed & last & ~failed, Ended.PROMOTED, now, np.full(len(failed), UNDECIDED))
        self._raised(passed & ~last & ~failed, now)
        self._thinned(self._on())

    def _end(self, which: Mask, how: Ended, now: float, check: NDArray[np.intp]) -> None:
        going = self.going
        new = which & self._on()
        runs = going.index[new]
        self.over.ended[runs], self.over.at[runs] = int(how), now
        self.over.check[runs], self.over.step[runs] = check[new], going.step[new]
        self.over.requests[runs] = going.requests[new]

    def _raised(self, which: Mask, now: float) -> None:
        going, places = self.going, np.flatnonzero(which)
        if not len(places):
            return
        for one, evidence in enumerate(going.evidence):
            some = ev.next_step(taken(evidence, places), at=np.full(len(places), now))
            going.evidence[one] = placed(evidence, places, some)
        going.step[places] += 1
        going.since[places], going.heard[places], going.step_requests[places] = now, now, 0.0

    def _thinned(self, on: Mask) -> None:
        """Runs that are over are put aside, now and then: until then they go on and nobody looks."""
        if on.sum() > THINNED * len(on):
            return
        going = self.going
        self.world.kept(on)
        self.going = Going(
            going.index[on],
            going.step[on],
            going.since[on],
            going.heard[on],
            going.requests[on],
            going.step_requests[on],
            [taken(one, on) for one in going.evidence],
        )


def seed_of(seed: int, first: int) -> int:
    """The seed of the batch that begins with this run."""
    return seed * 1_000_003 + first


def cells_of(counted: Counted, kind: CheckKind) -> Array:
    """What a check compares, by pod (B, P + N, K)."""
    if kind is CheckKind.LATENCY:
        return counted.latency.astype(float)
    if kind is CheckKind.PREDICTIONS:
        return counted.predictions.astype(float)
    if kind is CheckKind.PROPORTION and counted.clicked is not None:
        answered = counted.requests - counted.failed
        return np.stack([answered - counted.clicked, counted.clicked], axis=-1).astype(float)
    return np.stack([counted.requests - counted.failed, counted.failed], axis=-1).astype(float)
