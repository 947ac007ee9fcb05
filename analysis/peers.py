"""What the rules of others would say of the same traffic, written from their documented behaviour.

For comparison only: in `serin simulate`, in `serin explain`, in tables. In doubt a peer gets the benefit:
it is told its metric without scraping it, with both arms at the same time, in our buckets, with our
margin, and acts at once. What each does without traffic is with its rule.

Symbols: K buckets, P points, W windows still remembered; arms are (stable, canary) along an axis of two.
Leading axes (...) are canaries side by side. Times are seconds of the caller's clock.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from analysis import readings
from analysis.proportions import Array, Integers, Mask
from analysis.state import CheckKind, CheckSpec
from analysis.values import replace

PSI = 0.2  # above it a distribution is commonly said to have changed
CONFIDENCE = 0.98  # Kayenta's, two-sided; in its code, not in its configuration
TOLERANCE = 0.25  # of the estimated shift that the interval has to stay clear of; likewise
MOST_POINTS = 240  # of Kayenta's window: 40 minutes of 10 s points, 4 hours of 60 s; then the oldest go
ERRORS_LAST = 40.0  # s; the fifth of Argo's errors comes four retries of 10 s after the first
ROUNDING = 1e-6  # of an interval; sums of ticks are not exact


class Peer(StrEnum):
    """Whose rule it is."""

    FLAGGER = "Flagger"
    ARGO = "Argo Rollouts"
    KAYENTA = "Kayenta"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A peer's rule: a look every `interval` at readings of `window` seconds, until `failures` looks failed.

    One of the two durations divides the other. Failed looks count in total, not in a row.

    *Flagger* compares one reading with a threshold. NaN is "no values found", a failed check.
    Reference: Flagger 1.44, "How it works": "if the failed checks threshold is reached, stops the analysis
    and rolls back"; `scheduler_metrics.go`. (Its code counts at one tick and acts at the next, so it takes
    one interval longer than that.) `interval` defaults to 60 s and is 10 s at least, a metric's to 1 min.

    *Argo Rollouts* measures the same with a `failureCondition`, which NaN does not meet: it passes. It
    fails with more than `failureLimit` failed measurements. A query that finds no series, because stable
    never had a request, is an error; five in a row, retried every 10 s, abort as well.
    Reference: Argo Rollouts 1.10, "Analysis"; `failureLimit` defaults to 0, `consecutiveErrorLimit` to 4.

    *Kayenta* takes one reading of each arm every `window` as a point, drops NaN, and looks at all points
    since the beginning, each time at a level of 2 %. It fails when the interval of the arms' shift stays
    clear of a quarter of the estimate, and the means differ by the allowed ratio (not asked where one is
    0). Where an arm has no points at all, its one metric is `Nodata`: a score of 0, failed. With one point
    in each arm there is no test: it passes.
    Reference: Kayenta's `NetflixACAJudge-v1.0`, `MannWhitneyClassifier`, `WeightedSumScorer`; with
    `nanStrategy: remove` and outliers kept.
    """

    peer: Peer
    interval: float
    failures: int = 1
    window: float = 60.0

    @property
    def step(self) -> float:
        """How long the windows are of which its own is made, in seconds."""
        return min(self.interval, self.window)

    @property
    def remembered(self) -> int:
        """How many of them a reading needs besides the newest."""
        return max(round(self.window / self.step), 1) - 1

    @property
    def earliest(self) -> float:
        """Seconds with traffic before which it rolls nothing back that answers."""
        points = (
            2 * self.window if self.peer is Peer.KAYENTA else 0.0
        )  # with one in each arm there is no test
        return max(self.interval * self.failures, points)

    def looks(self, steps: Integers) -> Integers:
        """How often (...) it has looked after so many steps (...)."""
        looks: Integers = np.floor(steps * self.step / self.interval + ROUNDING).astype(np.int64)
        return looks

    def __str__(self) -> str:
        if self.peer is Peer.FLAGGER:
            return f"Flagger ({self.interval:g} s x {self.failures})"
        if self.peer is Peer.ARGO:
            return f"Argo Rollouts ({self.interval:g} s, failureLimit {self.failures - 1})"
        return f"Kayenta ({self.window:g} s points)"


FLAGGER = Rule(peer=Peer.FLAGGER, interval=60, failures=5)  # as its tutorials have it
FLAGGER_FAST = Rule(peer=Peer.FLAGGER, interval=10, failures=2)  # its shortest interval
ARGO = Rule(peer=Peer.ARGO, interval=60)  # failureLimit's default
ARGO_PATIENT = Rule(peer=Peer.ARGO, interval=60, failures=4)  # failureLimit of its first example
KAYENTA = Rule(peer=Peer.KAYENTA, interval=60)  # its usual step
KAYENTA_FAST = Rule(peer=Peer.KAYENTA, interval=60, window=10)
RULES = (FLAGGER, FLAGGER_FAST, ARGO, ARGO_PATIENT, KAYENTA, KAYENTA_FAST)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watched:
    """What a rule has seen of a check, and whether it would have rolled back.

    `at` (...): end of the last tick. `began` (...): beginning of the first with canary traffic, inf before.
    `steps` (...): how many windows are full. `current` (..., 2, K): cells of the one being filled, `recent`
    (..., W, 2, K) of those before. `points` (..., 2, P): Kayenta's, NaN where there is none. `stable_served`
    (...): stable has had a request. `read` (..., 2): both arms' readings at the last look until the rollback.
    `failures` (...): failed looks. `failed_at` (...): when it would have rolled back, inf while it has not.
    """

    rule: Rule
    spec: CheckSpec
    le: tuple[float, ...]
    at: Array
    began: Array
    steps: Integers
    current: Array
    recent: Array
    points: Array
    stable_served: Mask
    read: Array
    failures: Integers
    failed_at: Array

    @property
    def took(self) -> Array:
        """Seconds (...) from the canary's first traffic to the rollback, inf while there is none."""
        return self.failed_at - np.where(np.isfinite(self.began), self.began, 0.0)


def begin(
    rule: Rule, spec: CheckSpec, *, le: tuple[float, ...] = (), several: tuple[int, ...] = (), at: float = 0.0
) -> Watched:
    """Nothing seen yet; `le`: the buckets, () for counts; `at`: when the first tick begins.

    A threshold is the check's own margin: the canary's reading may be `1 + max_increase` times stable's,
    and `plus` more. With `max_increase=-1` it is `plus` alone, whatever stable reads: `plus=0.01` for
    errors is Flagger's `request-success-rate` with a minimum of 99. With a `max_decrease` the reading may be
    that much lower. Kayenta knows the ratio only (`allowedIncrease`, `allowedDecrease`). For predictions the
    thresholds look at the stability index, Kayenta at a mean that changes either way.
    """
    cells = (2, 2 if spec.kind.counted else len(le) + 1)
    points = MOST_POINTS if rule.peer is Peer.KAYENTA else 0
    return Watched(
        rule=rule,
        spec=spec,
        le=le,
        at=np.full(several, at),
        began=np.full(several, np.inf),
        steps=np.zeros(several, dtype=np.int64),
        current=np.zeros((*several, *cells)),
        recent=np.zeros((*several, rule.remembered, *cells)),
        points=np.full((*several, 2, points), np.nan),
        stable_served=np.zeros(several, dtype=bool),
        read=np.full((*several, 2), np.nan),
        failures=np.zeros(several, dtype=np.int64),
        failed_at=np.full(several, np.inf),
    )


def seen(watched: Watched, stable: Array, canary: Array, *, end: Array | float) -> Watched:
    """With a tick's cells (..., K) of each arm, that ended at `end` (...).

    Time counts from the canary's first traffic; what stable served before is not looked at. A tick belongs
    to the window in which it begins; one that is longer than a window is looked at once.
    """
    cells = np.stack([stable, canary], axis=-2)
    served: Mask = np.asarray(cells.any(axis=-1))
    began = np.where(np.isinf(watched.began) & served[..., 1], watched.at, watched.began)
    begun: Mask = np.asarray(np.isfinite(began))
    rule, end = watched.rule, np.broadcast_to(np.asarray(end, dtype=float), begun.shape)
    since = np.where(begun, end, 0.0) - np.where(begun, began, 0.0)
    fed = replace(
        watched,
        at=end,
        began=began,
        current=watched.current + cells * begun[..., None, None],
        stable_served=watched.stable_served | (begun & served[..., 0]),
    )
    steps = np.floor(since / rule.step + ROUNDING).astype(np.int64)
    return _looked(fed, steps) if (steps > watched.steps).any() else fed


def said(watched: Watched, index: Any = ()) -> str:
    """A sentence on what the rule would have done with this canary."""
    took = watched.took[index]
    if np.isfinite(took):
        return f"{watched.rule}: would have rolled back after {took:.0f} s"
    return f"{watched.rule}: would not have rolled back; {_reading(watched, *watched.read[index])}"


def _reading(watched: Watched, stable: float, canary: float) -> str:
    if np.isnan(canary) or np.isnan(stable):
        return "its metric had no value"
    if watched.spec.kind is CheckKind.PREDICTIONS and watched.rule.peer is not Peer.KAYENTA:
        return f"its metric read a PSI of {canary:.2f}"
    if watched.spec.kind.counted or stable == 0:
        return f"its metric read {canary:.3g} against {stable:.3g}"
    return f"its metric read x{canary / stable:.2f}"


def _looked(watched: Watched, steps: Integers) -> Watched:
    """With the windows that are full closed, and a look where an interval is over."""
    rule = watched.rule
    full: Mask = np.asarray(steps > watched.steps)
    read = _read(watched, watched.recent.sum(axis=-3) + watched.current)
    points = _with_point(watched.points, read, steps, full)
    due = (rule.looks(steps) > rule.looks(watched.steps)) & np.isinf(watched.failed_at)
    if not due.any():
        failed = due
    elif rule.peer is Peer.KAYENTA:
        failed, read = _judged(points, watched.spec, due), _means(points)
    else:
        failed = due & _beyond(watched, read)
    failures = watched.failures + failed
    return replace(
        watched,
        steps=steps,
        current=watched.current * ~full[..., None, None],
        recent=_moved(watched, steps - watched.steps),
        points=points,
        read=np.where(due[..., None], read, watched.read),
        failures=failures,
        failed_at=np.where(
            due & ((failures >= rule.failures) | _aborted(watched)), watched.at, watched.failed_at
        ),
    )


def _read(watched: Watched, window: Array) -> Array:
    """Both arms' readings (..., 2) of a window (..., 2, K)."""
    if watched.spec.kind.counted:
        return readings.share(window)
    if watched.spec.kind is CheckKind.LATENCY:
        return readings.histogram_quantile(window, watched.le, watched.spec.quantile)
    if watched.rule.peer is Peer.KAYENTA:
        return readings.mean(window, watched.le)
    index = readings.stability_index(window)
    return np.stack([np.zeros_like(index), index], axis=-1)  # stable's against itself is 0


def _beyond(watched: Watched, read: Array) -> Mask:
    """Whether a threshold's check has failed (...)."""
    spec, stable, canary = watched.spec, read[..., 0], read[..., 1]
    if spec.kind is CheckKind.PREDICTIONS:
        limit = np.full(canary.shape, PSI)
    else:
        ratio = 1 + spec.max_increase
        limit = spec.plus + (ratio * stable if ratio > 0 else np.zeros_like(stable))
    if spec.max_decrease:
        limit = (1 - spec.max_decrease) * stable
    above = canary < limit if spec.max_decrease else canary > limit
    if watched.rule.peer is Peer.FLAGGER:
        return np.asarray(above | np.isnan(canary) | np.isnan(limit))
    return np.asarray(above)


def _aborted(watched: Watched) -> Mask:
    """Whether Argo has had five errors in a row (...): no series of stable's since the first look."""
    if watched.rule.peer is not Peer.ARGO:
        return np.zeros(watched.at.shape, dtype=bool)
    asked = watched.at - watched.began >= watched.rule.interval + ERRORS_LAST
    needed = watched.spec.kind is CheckKind.PREDICTIONS or watched.spec.max_increase > -1
    return np.asarray(asked & ~watched.stable_served & needed)


def _moved(watched: Watched, passed: Integers) -> Array:
    """The recent windows (..., W, 2, K), the current one among them, so many windows (...) later."""
    if watched.recent.shape[-3] == 0:
        return watched.recent
    both = np.concatenate([watched.recent, watched.current[..., None, :, :]], axis=-3)
    last = both.shape[-3] - 1
    place = (np.arange(last) + passed[..., None])[..., None, None]
    return np.where(place <= last, np.take_along_axis(both, np.minimum(place, last), axis=-3), 0.0)


def _with_point(points: Array, read: Array, steps: Integers, full: Mask) -> Array:
    """The points with these readings (..., 2) in the places of the latest window."""
    if points.shape[-1] == 0:
        return points
    here = (np.arange(points.shape[-1]) == (steps[..., None] - 1) % points.shape[-1]) & full[..., None]
    return np.where(here[..., None, :], read[..., None], points)


def _means(points: Array) -> Array:
    """Both arms' means (..., 2) of their points."""
    known = ~np.isnan(points)
    n = known.sum(axis=-1)
    means: Array = np.where(known, points, 0.0).sum(axis=-1) / np.where(n > 0, n, np.nan)
    return means


def _judged(points: Array, spec: CheckSpec, due: Mask) -> Mask:
    """Whether Kayenta's judge fails (...) the canaries it looks at."""
    rows = np.flatnonzero(due)
    some = points.reshape(-1, *points.shape[-2:])[rows]
    there = ~np.isnan(some)
    some = some[..., : np.flatnonzero(there.any(axis=(0, 1))).max(initial=0) + 1]  # behind it is nothing yet
    stable, canary = some[:, 0], some[:, 1]
    either = spec.kind is CheckKind.PREDICTIONS
    failed = ~there.any(axis=-1).all(axis=-1)
    if spec.max_decrease:
        failed |= _higher(stable, canary, allowed=1 / (1 - spec.max_decrease))
    else:
        failed |= _higher(canary, stable, allowed=1.0 if either else 1 + spec.max_increase)
    if either:
        failed |= _higher(stable, canary, allowed=1.0)
    out = np.zeros(due.size, dtype=bool)
    out[rows] = failed
    return out.reshape(due.shape)


def _higher(one: Array, other: Array, *, allowed: float) -> Mask:
    """Whether the points of `one` (M, P) are higher than those of the `other`, as Kayenta says it.

    The limit is above 0 where few enough pairs are not; only there it has to be found.
    """
    means = _means(np.stack([one, other], axis=-2))
    no_effect = (means == 0).any(axis=-1)
    places = np.flatnonzero(no_effect | (means[:, 0] >= allowed * means[:, 1]))
    one, other = one[places], other[places]
    level = (one[:, :, None] <= other[:, None, :]).sum(axis=(-2, -1))
    may = level < readings.lower_rank(one, other, confidence=CONFIDENCE)
    places, one, other = places[may], one[may], other[may]
    limit, estimate = readings.shift_interval(one, other, confidence=CONFIDENCE)
    out = np.zeros(len(means), dtype=bool)
    out[places] = limit > TOLERANCE * np.abs(estimate)
    return out
