"""How long a policy takes to see an effect: worked out by the evidence itself, before there is a canary.

Ticks of *expected* counts, fractions of requests with no chance in them, go through the evidence that
judges real canaries, and through the plan's steps; canaries with one effect each run side by side with one
that has none. What is read off is when each would be rolled back, and when the other passes.

The expected evidence crosses the line about when the median run's does: a test holds it against
simulated runs.

Symbols: S canaries, P stable and N canary pods' rows, K cells. Times are seconds since the canary has
traffic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.special import ndtr, ndtri

from analysis import evidence as ev
from analysis.batches import placed, taken
from analysis.cells import Tick
from analysis.evidence import CheckKind, CheckSpec, Evidence
from analysis.judge import Verdict, log_term, log_total, verdicts
from analysis.proportions import Array, Integers, Mask
from analysis.tracks import MOST_GROUPS
from controller.gather import WARM_AFTER_REQUESTS, terms
from controller.model import OnDoubt, Policy
from controller.targets import MOST_STABLE

# What stable does. Only the shape of its latency matters: buckets and effects are ratios of its median.
SPREAD = 2.3  # p95 over median, about what a model behind a queue does
SIGMA = float(np.log(SPREAD) / ndtri(0.95))
FAILING = 0.001  # of stable's requests
SHARE, OF = 0.1, "a share of 10 %"  # what a Proportion compares, of as many trials as requests
BOUNDS = tuple(float(f"{1.2 ** (step / 4):.9g}") for step in range(-16, 65))  # of the median: x.5 to x19
SCORES = tuple(round(0.16 * step, 2) for step in range(-24, 25))  # sd from the mean; 50 bins
SLOWER = (1.3, 1.5, 2.0, 5.0)
MORE_FAILING = (0.01, 0.05, 0.20)
MOVED = (0.3, 1.0)  # sd
FALLEN, RISEN = (0.25, 0.5), (0.5, 1.0)  # of a share

HISTORY = tuple(map(float, range(-300, 1, 10)))  # s; five of the longest memory's time constants
TICK = 1.0  # s between two readings of a pod
ALWAYS = 0.99  # of the seconds have a request: take it for all
FINE = 60.0  # ticks are about this fine a part of the time so far, a second at least
MOST_TICKS = 100.0  # late ticks are at least this fine a part of the plan; a Prometheus' are as long
LONGER = (4, 16, 64, 256)  # times the policy's stepTimeout: what might be enough
LATER = 1.05  # than the plan's end: every timeout is met a tick late


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Effect:
    """A canary that is worse in one way: which check sees it, in words, and its share of each cell (K,)."""

    check: str
    words: str
    cells: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What becomes of one canary: when it is rolled back (`seen`) or promoted, inf: not within the plan.

    `weight`: percent at the end. `passed`: when each step was. `given_up`: rolled back for want of evidence.
    """

    effect: Effect | None
    seen: float
    promoted: float
    given_up: float
    weight: int
    passed: tuple[float, ...]


def foreseen(policy: Policy, *, rps: float, stable_pods: int, canary_pods: int) -> tuple[Foreseen, ...]:
    """First a canary like stable, then one for each effect beyond the margins of a check."""
    effects = [effect for spec in policy.checks for effect in effects_on(spec)]
    stage = _Stage(policy, effects, rps=rps, stable_pods=stable_pods, canary_pods=canary_pods)
    return stage.played()


def patient(
    policy: Policy, found: Sequence[Foreseen], *, rps: float, stable_pods: int, canary_pods: int
) -> Foreseen | None:
    """What would become of a canary like stable that is not promoted, had every step longer: if any helps."""
    for times in () if np.isfinite(found[0].promoted) else LONGER:
        longer = replace(policy, step_timeout=times * policy.step_timeout)
        stage = _Stage(longer, [], rps=rps, stable_pods=stable_pods, canary_pods=canary_pods)
        like = stage.played()[0]
        if np.isfinite(like.promoted):
            return like
    return None


def longest(policy: Policy) -> float:
    """How long the plan may take, in seconds: every step its timeout."""
    return len(policy.steps) * policy.step_timeout.total_seconds()


def effects_on(spec: CheckSpec) -> list[Effect]:
    """Those of the usual effects that are beyond the check's margin."""
    found: dict[str, Array] = {}
    if spec.kind is CheckKind.LATENCY:
        found = {f"x{factor:g}": slow(factor) for factor in SLOWER if factor > 1 + spec.max_increase}
    elif spec.kind is CheckKind.ERROR_RATE:
        allowed = (1 + spec.max_increase) * FAILING + spec.plus
        found = {f"{rate * 100:g} % failing": failing(rate) for rate in MORE_FAILING if rate > allowed}
    elif spec.kind is CheckKind.PREDICTIONS:
        found = {f"moved by {by:g} sd": moved(by) for by in MOVED if distance(by) > spec.tolerance}
    elif spec.max_decrease:
        less = (by for by in FALLEN if by > spec.max_decrease)
        found = {f"{OF} falls by {by * 100:g} %": failing(SHARE * (1 - by)) for by in less}
    else:
        allowed = spec.max_increase * SHARE + spec.plus
        found = {
            f"{OF} rises by {by * 100:g} %": failing(SHARE * (1 + by)) for by in RISEN if by * SHARE > allowed
        }
    return [Effect(check=spec.name, words=words, cells=cells) for words, cells in found.items()]


def slow(factor: float) -> Array:
    """The share of each bucket when every request takes `factor` times as long."""
    return _shares(ndtr(np.log(np.array(BOUNDS) / factor) / SIGMA))


def failing(rate: float) -> Array:
    """Requests without and with an error, or trials without and with a hit."""
    return np.array([1 - rate, rate])


def moved(by: float) -> Array:
    """The share of each bin when predictions, normally distributed, are `by` standard deviations higher."""
    return _shares(ndtr(np.array(SCORES) - by))


def distance(by: float) -> float:
    """Total variation between two normal distributions that far apart."""
    return float(2 * ndtr(by / 2) - 1)


def _shares(up_to: Array) -> Array:
    return np.diff(np.concatenate([[0.0], up_to, [1.0]]))


LIKE_STABLE: Mapping[CheckKind, Array] = {
    CheckKind.LATENCY: slow(1.0),
    CheckKind.ERROR_RATE: failing(FAILING),
    CheckKind.PREDICTIONS: moved(0.0),
    CheckKind.PROPORTION: failing(SHARE),
}
CELLS: Mapping[CheckKind, tuple[float, ...]] = {CheckKind.LATENCY: BOUNDS, CheckKind.PREDICTIONS: SCORES}


class _Stage:
    """All canaries, from the history of stable to the end of the plan."""

    def __init__(
        self, policy: Policy, effects: Sequence[Effect], *, rps: float, stable_pods: int, canary_pods: int
    ) -> None:
        self.policy, self.effects, self.rps = policy, [None, *effects], rps
        self.read, self.stable_pods = min(stable_pods, MOST_STABLE), stable_pods
        self.rows, self.canary_pods = min(canary_pods, MOST_GROUPS), canary_pods
        self.checks = policy.checks
        count = len(self.effects)
        self.canary = {
            spec.name: np.stack([self._cells(spec, effect) for effect in self.effects])
            for spec in self.checks
        }
        self.evidence = [self._begun(spec, count) for spec in self.checks]
        self.step, self.since, self.served = np.zeros(count, dtype=np.int64), np.zeros(count), np.zeros(count)
        self.seen, self.promoted, self.given_up = (np.full(count, np.inf) for _ in range(3))
        self.passed = np.full((count, len(policy.steps)), np.inf)

    @property
    def going(self) -> Mask:
        """Of which canaries (S,) nothing has become yet."""
        return np.asarray(np.isinf(np.minimum(np.minimum(self.seen, self.promoted), self.given_up)))

    def played(self) -> tuple[Foreseen, ...]:
        """Every canary, to its end or the plan's."""
        weights, none = np.array(self.policy.steps) / 100, np.zeros(len(self.effects))
        for start, end in pairwise(HISTORY):
            self._learned(start, end, none, clean=np.zeros(len(none), dtype=bool))
        self.evidence = [ev.restart(one, at=none, same_pods=True) for one in self.evidence]
        now, last = 0.0, longest(self.policy)
        while now < last * LATER and self.going.any():
            weight, end = weights[self.step], now + self._length(now, last)
            self.served += self.rps * weight * (end - now)
            self._learned(now, end, weight, clean=self._clean(now))
            self._decided(end)
            now = end
        return tuple(self._found(place) for place in range(len(self.effects)))

    def _length(self, now: float, last: float) -> float:
        """Whole seconds: one at first; more where the canary has no request in one."""
        one = 100 / (self.rps * self.policy.steps[0])
        return max(1.0, float(round(min(max(now / FINE, one), last / MOST_TICKS))))

    def _cells(self, spec: CheckSpec, effect: Effect | None) -> Array:
        return effect.cells if effect and effect.check == spec.name else LIKE_STABLE[spec.kind]

    def _begun(self, spec: CheckSpec, count: int) -> Evidence:
        policy, le = self.policy, CELLS.get(spec.kind, ())
        return ev.blank(
            spec,
            **terms(policy),
            finished=len(policy.steps),
            le=le,
            canary_le=le,
            nodes=tuple(range(self.read)),
            groups=tuple(range(self.canary_pods)),
            several=(count,),
        )

    def _clean(self, now: float) -> Mask:
        """Whose latency and predictions count (S,): pods are warm."""
        warm = now >= self.policy.warm_up.total_seconds()
        return np.asarray(warm | (self.step > 0) | (self.served >= WARM_AFTER_REQUESTS * self.canary_pods))

    def _learned(self, start: float, end: float, weight: Array, *, clean: Mask) -> None:
        """With this time in the evidence; `weight` (S,) as a fraction.

        Only seconds in which the canary has a request compare anything. Gains are in proportion to both
        arms' counts, so that those seconds can be put together, and the others behind them.
        """
        met = -np.expm1(-self.rps * weight * TICK)
        middle = start + (end - start) * np.where(met > ALWAYS, 1.0, met)
        self._ticked(np.full(len(weight), start), middle, weight, self.rps * weight * (end - start), clean)
        if (middle < end).any():
            nothing = np.zeros(len(weight))
            self._ticked(middle, np.full(len(weight), end), weight, nothing, clean & False)

    def _ticked(self, start: Array, end: Array, weight: Array, of_canary: Array, clean: Mask) -> None:
        """With one tick (S,) in which the canary has so many requests (S,)."""
        of_stable = self.rps * (end - start) * (1 - weight) * self.read / self.stable_pods
        for place, spec in enumerate(self.checks):
            counts = of_canary > 0 if spec.kind is CheckKind.ERROR_RATE else clean & (of_canary > 0)
            stable = (of_stable / self.read)[:, None, None] * LIKE_STABLE[spec.kind]
            canary = (of_canary * counts / self.rows)[:, None] * self.canary[spec.name]
            size, cells = canary.shape
            tick = Tick(
                start,
                end,
                np.broadcast_to(stable, (size, self.read, cells)),
                np.broadcast_to(canary[:, None], (size, self.rows, cells)),
                np.full(size, self.read),
                np.where(counts, self.canary_pods, 0),
            )
            self.evidence[place] = ev.advanced(self.evidence[place], tick)

    def _decided(self, now: float) -> None:
        """Rolled back, on to the next step, promoted, or none of these."""
        policy, age = self.policy, now - self.since
        total = log_total([log_term(one) for one in self.evidence])
        failed = self.going & (total >= np.log(1 / policy.alpha))
        self.seen[failed] = now
        late = age > policy.step_timeout.total_seconds()
        passed = (age >= policy.min_step.total_seconds()) & (self.served >= policy.min_requests)
        if (passed & self.going).any():
            required = [
                verdicts(
                    one, beta=policy.beta, now=np.minimum(now, one.both_at)
                )  # in a second with a request
                for one in self.evidence
                if one.spec.required
            ]
            passed &= np.all([each == Verdict.PASS for each in required], axis=0)
        if policy.on_inconclusive is OnDoubt.PROCEED:
            passed |= late
        if policy.on_inconclusive is OnDoubt.ROLL_BACK:
            self.given_up[self.going & late & ~passed] = now
        self._raised(np.flatnonzero(self.going & passed), now)

    def _raised(self, places: Integers, now: float) -> None:
        self.passed[places, self.step[places]] = now
        last = self.step[places] == len(self.policy.steps) - 1
        self.promoted[places[last]] = now
        up = places[~last]
        if not len(up):
            return
        for one, evidence in enumerate(self.evidence):
            some = ev.next_step(taken(evidence, up), at=np.full(len(up), now))
            self.evidence[one] = placed(evidence, up, some)
        self.step[up] += 1
        self.since[up], self.served[up] = now, 0.0

    def _found(self, place: int) -> Foreseen:
        passed, seen = self.passed[place], float(self.seen[place])
        return Foreseen(
            effect=self.effects[place],
            seen=seen if seen <= longest(self.policy) else np.inf,
            promoted=float(self.promoted[place]),
            given_up=float(self.given_up[place]),
            weight=self.policy.steps[int(self.step[place])],
            passed=tuple(passed[np.isfinite(passed)].tolist()),
        )
