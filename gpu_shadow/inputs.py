"""How far inputs are from those a model was trained on, feature by feature, and whether that is drift.

Two tallies over the same cells go in. A feature has drifted if it moved by more than is fine **and** that is
no chance: with many requests everything is significant, with few everything is large. Three things may
move: how its values are distributed, how often it is missing, how often it lies outside all that the
training knew. The figures beside these (`ks`, `js`, `w1`) are for people, who are used to them.

Drift concerns both versions alike, since they see the same requests: it is a reason to train anew, and none
to take traffic from a canary.

Symbols: F features, K cells; n values of the training, m of now.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from gpu_shadow.sketch import Array, Baseline, Tally, Whole

CAUSES = ("psi", "missing", "outside")  # what may drift, each with a test of its own
# Fewer expected than this, and a cell is counted together with others like it: then a sum of squares is
# nearly chi-squared (Cochran 1954), and the bias of the PSI is what is taken off.
EXPECTED = 5.0
# The exact test adds up as many terms; beyond it the normal one is as good.
EXACT = 1_000

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far a feature may move, how sure drift has to be, and how many requests it takes.

    Guarantee: in a window of at least `least` requests that are distributed as the training's rows, any
    feature is said to have drifted with probability `alpha` at most, and over many windows drifted features
    that have not are that part of those said to have, on average.

    Reference: Benjamini, Hochberg (1995).
    """

    psi: float = 0.1  # the custom of those who use it: below it a population is said not to have moved
    missing: float = 0.05  # of requests more, or fewer
    outside: float = 0.05  # of requests more than in the training
    alpha: float = 0.01
    least: int = 1_000  # fifty a cell


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Figures:
    """How far every feature is from its training; each (F,). NaN: there is no such figure for it.

    `psi` has its bias taken off, so that it is 0 on average, and may be below, where nothing has moved.
    """

    rows: int
    psi: Array
    psi_p: Array
    ks: Array  # the largest difference of the distribution functions at the cells' edges
    ks_p: Array
    js: Array  # distance, 0 to 1
    w1: Array  # in standard deviations of the training
    missing: Array  # part of rows, now
    missing_was: Array
    missing_p: Array
    outside: Array  # part of values beyond the training's range, or of no category it knew by name
    outside_was: Array
    outside_p: Array


@dataclass(frozen=True, slots=True)
class Moved:
    """One feature that has drifted: by which figure, and how far."""

    name: str
    cause: str
    value: float
    p: float  # of all three causes together

    def __str__(self) -> str:
        if self.cause == "psi":
            return f"{self.name} (PSI {self.value:.2g})"
        words = {"missing": "missing in", "outside": "outside its training's range in"}
        return f"{self.name} ({words[self.cause]} {self.value:.1%})"


def figures(baseline: Baseline, now: Tally) -> Figures:
    """How far `now` is from the baseline."""
    was = baseline.tally
    then, today = was.counts, now.counts
    psi, psi_p = _indices(then, today)
    ks, ks_p = _largest(baseline, then, today)
    outside, outside_was, outside_p = _outside(baseline, now)
    return Figures(
        rows=now.rows,
        psi=psi,
        psi_p=psi_p,
        ks=ks,
        ks_p=ks_p,
        js=_divergence(_shares(then), _shares(today)),
        w1=_transport(baseline, now),
        missing=now.missing / max(now.rows, 1),
        missing_was=was.missing / was.rows,
        missing_p=_two_rates(was.missing, was.rows, now.missing, now.rows),
        outside=outside,
        outside_was=outside_was,
        outside_p=outside_p,
    )


def drifted(baseline: Baseline, found: Figures, bounds: Bounds) -> tuple[Moved, ...]:
    """The features that have drifted, the clearest first; none while there are too few requests."""
    if found.rows < bounds.least:
        return ()
    far = np.stack(
        [
            found.psi - bounds.psi,
            np.abs(found.missing - found.missing_was) - bounds.missing,
            found.outside - found.outside_was - bounds.outside,
        ]
    )
    p = np.minimum(len(CAUSES) * np.stack([found.psi_p, found.missing_p, found.outside_p]), 1.0)
    moved = (far >= 0) & (p <= _discovered(p.min(axis=0), bounds.alpha))
    value = np.stack([found.psi, found.missing, found.outside])
    cause = np.argmax(np.where(moved, far, -np.inf), axis=0)
    several = [
        Moved(one.name, CAUSES[cause[i]], float(value[cause[i], i]), float(p[cause[i], i]))
        for i, one in enumerate(baseline.features)
        if moved[:, i].any()
    ]
    return tuple(sorted(several, key=lambda one: (one.p, -one.value, one.name)))


def _discovered(p: Array, alpha: float) -> float:
    """The largest p (F,) that still counts if a part `alpha` of what counts may be chance; -1: none."""
    ordered = np.sort(p)
    fine = ordered <= alpha * np.arange(1, len(p) + 1) / len(p)
    return float(ordered[fine][-1]) if fine.any() else -1.0


def steady(windows: Sequence[tuple[Moved, ...]]) -> tuple[Moved, ...]:
    """Of the last three windows' features those in two of them, as they were last seen.

    One window may be an odd hour; and what is said once is not unsaid by one quiet window.
    """
    last = windows[-3:]
    named = [one.name for each in last for one in each]
    newest = {one.name: one for each in last for one in each}
    return tuple(one for name, one in newest.items() if named.count(name) >= 2)


# -- how values are distributed --------------------------------------------------------------------


def _shares(counts: Array | Whole) -> Array:
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _indices(then: Whole, today: Whole) -> tuple[Array, Array]:
    """The PSI without its bias (F,), and how probable so large a difference is by chance.

    Guarantee: where nothing has moved, a cell's two shares differ with variance p (1 - p) (1/n + 1/m), so
    that PSI, nearly the sum of squares over p, is (cells - 1) (1/n + 1/m) on average. The G statistic over
    its correction is nearly chi-squared with cells - 1 degrees of freedom.

    Reference: Yurdakul, Naranjo (2020), on PSI; Williams (1976), on the correction of G.
    """
    counts = np.stack(_pooled(then, today)).astype(float)  # (2, F, K + 1)
    there = counts.sum(axis=0) > 0
    cells = there.sum(axis=1)
    sizes = counts.sum(axis=2, keepdims=True)
    total = np.maximum(sizes.sum(axis=0), 1.0)
    inverse = (1 / np.maximum(sizes, 1.0)).sum(axis=0)[:, 0]
    added = 0.5 * cells[:, None]  # to all cells together, which makes differences a little smaller
    some = np.where(there, (counts + 0.5) / np.maximum(sizes + added, 1.0), 1.0)
    psi = ((some[0] - some[1]) * np.log(some[0] / some[1])).sum(axis=1)
    bias = np.maximum(cells - 1, 0) * (sizes / np.maximum(sizes + added, 1.0) ** 2).sum(axis=0)[:, 0]
    expected = sizes * counts.sum(axis=0) / total
    g = 2 * special.xlogy(counts, np.where(expected > 0, counts / np.maximum(expected, 1e-300), 1.0)).sum(
        (0, 2)
    )
    of_cells = np.where(there, total / np.maximum(counts.sum(axis=0), 1.0), 0.0).sum(axis=1) - 1
    free = np.maximum(cells - 1, 1)
    williams = 1 + (total[:, 0] * inverse - 1) * of_cells / (6 * total[:, 0] * free)
    known = (sizes > 0).all(axis=0)[:, 0] & (cells > 1)
    p = np.where(known, special.chdtrc(free, np.maximum(g, 0.0) / williams), 1.0)
    return np.where(known, psi - bias, 0.0), p


def _pooled(then: Whole, today: Whole) -> tuple[Whole, Whole]:
    """The counts (F, K + 1) with cells that are too small together in the last, or in the least other."""
    sizes = then.sum(axis=1, keepdims=True), today.sum(axis=1, keepdims=True)
    both = then + today
    expected = both * np.minimum(*sizes) / np.maximum(sizes[0] + sizes[1], 1)
    small = expected < EXPECTED
    enough = (expected * small).sum(axis=1) >= EXPECTED
    place = np.where(enough, both.shape[1], np.argmin(np.where(small, np.inf, expected), axis=1))
    rows = np.arange(len(both))
    found = []
    for counts in (then, today):
        one = np.concatenate([np.where(small, 0, counts), np.zeros((len(counts), 1), dtype=np.int64)], axis=1)
        one[rows, place] += (counts * small).sum(axis=1)
        found.append(one)
    return found[0], found[1]


def _divergence(p: Array, q: Array) -> Array:
    """Jensen and Shannon's distance, to base 2 (F,)."""
    middle = (p + q) / 2
    one, other = (special.rel_entr(each, middle).sum(axis=1) for each in (p, q))
    return np.asarray(np.sqrt(np.maximum(one + other, 0.0) / (2 * np.log(2))))


def _largest(baseline: Baseline, then: Whole, today: Whole) -> tuple[Array, Array]:
    """Kolmogorov and Smirnov's distance at the edges, and its p (F,): too large, since edges are few."""
    apart = np.abs(np.cumsum(_shares(then), axis=1) - np.cumsum(_shares(today), axis=1)).max(axis=1)
    n, m = then.sum(axis=1), today.sum(axis=1)
    numbers = np.array([one.labels is None for one in baseline.features]) & (n > 0) & (m > 0)
    p = special.kolmogorov(np.sqrt(n * m / np.maximum(n + m, 1)) * apart)
    return np.where(numbers, apart, np.nan), np.where(numbers, p, np.nan)


def _transport(baseline: Baseline, now: Tally) -> Array:
    """Wasserstein's distance in standard deviations of the training (F,).

    Values are taken to be spread evenly within a cell, those outside up to the farthest: where a tail moves,
    this is too large by an eighth or so.
    """
    was, features = baseline.tally, baseline.features
    sd = np.array([one.sd for one in features])
    sound = np.array([bool(one.edges) for one in features]) & (sd > 0) & (now.present > 0)
    least = np.where(sound, np.minimum(was.low, now.low), 0.0)
    most = np.where(sound, np.maximum(was.high, now.high), 0.0)
    width = was.counts.shape[1] + 1
    grid = np.array([_row(one.edges, a, b, width) for one, a, b in zip(features, least, most, strict=True)])
    apart = np.cumsum(_shares(was.counts) - _shares(now.counts), axis=1)
    before = np.pad(apart, ((0, 0), (1, 0)))[:, :-1]
    area = _between(before, apart) * np.maximum(np.diff(grid, axis=1), 0.0)
    return np.where(sound, area.sum(axis=1) / np.where(sound, sd, 1.0), np.nan)


def _row(edges: Sequence[float], least: float, most: float, width: int) -> list[float]:
    """The cells' bounds from the least to the largest value; of cells that are not there the largest."""
    return [least, *edges, *[most] * (width - 1 - len(edges))]


def _between(a: Array, b: Array) -> Array:
    """The area between 0 and a straight line from a to b, over a width of 1."""
    size = np.abs(a) + np.abs(b)
    crossing = (a * a + b * b) / np.maximum(2 * size, 1e-300)
    return np.where(a * b >= 0, size / 2, crossing)


# -- how often something is so ---------------------------------------------------------------------


def _two_rates(a: Whole, n: int | Whole, b: Whole, m: int | Whole) -> Array:
    """How probable it is by chance that a of n and b of m (F,) are as far apart, either way.

    Guarantee: exact, given how many there are in all (Fisher), up to `EXACT` of them; beyond, the normal
    approximation with Yates' correction.
    """
    a, n, b, m = np.broadcast_arrays(a, n, b, m)
    both, total = a + b, n + m
    rare = np.minimum(both, total - both)
    known = (rare > 0) & (n > 0) & (m > 0)
    p = np.ones(len(a))
    exact = known & (rare <= EXACT)
    if exact.any():
        of_rare = np.where(both <= total - both, b, m - b)
        p[exact] = _chance(of_rare[exact], m[exact], rare[exact], total[exact])
    rate = both / np.maximum(total, 1)
    spread = np.sqrt(np.where(known, total * rate * (1 - rate) * n * m, 1.0)) / np.maximum(total, 1)
    z = np.maximum(np.abs(b - m * rate) - 0.5, 0.0) / spread
    return np.where(known & ~exact, 2 * special.ndtr(-z), p)


def _chance(b: Whole, m: Whole, rare: Whole, total: Whole) -> Array:
    """Twice the smaller tail (F,) of b, where `rare` of `total` are so and m of these are drawn."""
    i = np.arange(rare.max() + 1)[:, None]
    each = np.exp(_ways(rare, i) + _ways(total - rare, m - i) - _ways(total, m))
    tails = (each * (i <= b)).sum(axis=0), (each * (i >= b)).sum(axis=0)
    return np.asarray(np.minimum(2 * np.minimum(*tails), 1.0))


def _outside(baseline: Baseline, now: Tally) -> tuple[Array, Array, Array]:
    """The parts outside now and then, and how probable so many are by chance (F,)."""
    was, features = baseline.tally, baseline.features
    numbers = np.array([one.labels is None for one in features])
    rows, last = np.arange(len(features)), np.array([one.cells - 1 for one in features])
    new = now.counts[rows, last] + np.where(numbers & (last > 0), now.counts[:, 0], 0)
    old = np.where(numbers, 0, was.counts[rows, last])
    n, m = was.present, now.present
    more = new * np.maximum(n, 1) > old * np.maximum(m, 1)
    p = np.where(numbers, _beyond(n, m, new), np.where(more, _two_rates(old, n, new, m), 1.0))
    known = n > 0
    part = np.where(known, new / np.maximum(m, 1), 0.0)
    return part, np.where(known, old / np.maximum(n, 1), 0.0), np.where(known, p, 1.0)


def _beyond(n: Whole, m: Whole, k: Whole) -> Array:
    """How probable it is that k or more of m new values lie outside the range of n old ones.

    Guarantee: exact for values of one continuous distribution, whichever; too large where values are equal.
    Put in order, all n + m values are as in a random order of old and new, and k outside means that one
    fixed choice of k + 1 places, at both ends, has at most one old one.
    """
    n_, m_, k_ = (np.asarray(each, dtype=float) for each in (n, m, k))
    room = np.minimum(k_ + 1, n_ + m_)
    every = _ways(n_ + m_, room)
    none = np.exp(_ways(m_, room) - every)
    one = n_ * np.exp(_ways(m_, room - 1) - every)
    return np.where(k_ > 0, np.minimum(none + one, 1.0), 1.0)


def _ways(n: Array | Whole, k: Array | Whole) -> Array:
    """The logarithm of n over k; -inf where there is no such choice."""
    fits = (k >= 0) & (k <= n)
    n, k = np.where(fits, n, 0.0), np.where(fits, k, 0.0)
    return np.where(
        fits, special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1), -np.inf
    )
