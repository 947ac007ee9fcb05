"""Where buckets' bounds lie: exponential and decimal histograms as plain ones, and what coarse bounds tell.

Observations are joined into wider buckets and never cut: a bound inside a bucket that holds something is an
error, not an interpolation. A negative latency (a clock was set back) counts as at or below the first
bound. Bounds and latencies are in seconds. Leading axes (...) are canaries side by side.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import inf
from typing import TypeVar

import numpy as np

from analysis.grids import FINEST, Bounds, Grid, exponential_bound, grid_bounds
from analysis.proportions import Array, Mask, tails
from analysis.quantiles import ROUNDED
from analysis.samples import Histogram

SCHEMAS = range(-4, 9)  # of exponential histograms; 8 has 256 buckets for a factor of two
DIGITS = range(10, 100)  # two significant ones, of decimal histograms: 90 buckets for a factor of ten
Side = tuple[tuple[int, int], ...]  # (j, count) of the buckets on one side of zero
Bucket = tuple[float, float, int]  # its lower and its upper bound and what it counts
K = TypeVar("K", int, tuple[int, int])


@dataclass(frozen=True, slots=True)
class Exponential:
    """A "native" histogram of Prometheus: bucket j counts what is in (2^((j-1)/2^schema), 2^(j/2^schema)].

    `positive` and `negative` hold (j, count), `zero` what is within +- `zero_threshold`.
    """

    schema: int
    positive: Side = ()
    negative: Side = ()
    zero: int = 0
    zero_threshold: float = 2.0**-128

    def __post_init__(self) -> None:
        if self.schema not in SCHEMAS:
            raise ValueError(f"schema must be from {SCHEMAS[0]} to {SCHEMAS[-1]}, not {self.schema}")
        if not 0 <= self.zero_threshold < inf:
            raise ValueError(f"zero_threshold must be finite and not negative, not {self.zero_threshold}")

    def __add__(self, other: "Exponential") -> "Exponential":
        """Both taken `together`."""
        return together([self, other])

    @property
    def n(self) -> int:
        """The number of observations."""
        return self.zero + sum(count for _, count in self.positive + self.negative)

    @property
    def buckets(self) -> list[Bucket]:
        """What the buckets hold, of latencies: the negative ones with those at zero."""
        below = self.zero + sum(count for _, count in self.negative)
        places = ((*self._edges(j), count) for j, count in self.positive)
        return [(-inf, self.zero_threshold, below), *places]

    def at(self, schema: int) -> "Exponential":
        """The same observations at a coarser schema, exactly: each step joins two buckets."""
        steps = self.schema - schema
        if steps < 0:
            raise ValueError(f"schema must not be finer than {self.schema}: buckets cannot be cut")

        def joined(side: Side) -> Side:
            return _summed(((j - 1 >> steps) + 1, count) for j, count in side)

        return replace(self, schema=schema, positive=joined(self.positive), negative=joined(self.negative))

    def _reach(self, threshold: float) -> float:
        """The least zero threshold from this one on that cuts no bucket of unknown contents."""
        if threshold <= self.zero_threshold:
            return threshold
        edges = (self._edges(j) for j, _ in self.positive + self.negative)
        return max([threshold, *(high for low, high in edges if low < threshold)])

    def _zeroed(self, threshold: float) -> "Exponential":
        """With a zero threshold at least this wide, which cuts no bucket."""
        if self.zero_threshold >= threshold:
            return self

        def left(side: Side) -> Side:
            return tuple((j, c) for j, c in side if self._edges(j)[0] >= threshold)

        rest = replace(self, positive=left(self.positive), negative=left(self.negative))
        return replace(rest, zero=self.zero + self.n - rest.n, zero_threshold=threshold)

    def _edges(self, j: int) -> tuple[float, float]:
        return exponential_bound(self.schema, j - 1), exponential_bound(self.schema, j)


def together(histograms: Sequence[Exponential]) -> Exponential:
    """One or more taken together, exactly: at the coarsest schema, with the widest zero bucket.

    Where that would cut a bucket that holds something, the zero bucket takes in all of it. The time is that
    of all buckets, not of each with those before it.
    """
    schema, least = min(one.schema for one in histograms), max(one.zero_threshold for one in histograms)
    each = [one.at(schema) for one in histograms]
    wide = max(one._reach(least) for one in each)  # noqa: SLF001 - of the class above
    each = [one._zeroed(wide) for one in each]  # noqa: SLF001
    positive = _summed(chain.from_iterable(one.positive for one in each))
    negative = _summed(chain.from_iterable(one.negative for one in each))
    return Exponential(schema, positive, negative, sum(one.zero for one in each), wide)


@dataclass(frozen=True, slots=True)
class Decimal:
    """A log-linear histogram (Envoy's circllhist): (d, e, count) counts what is in [d 10^e, (d+1) 10^e).

    d has two digits, 10 to 99; `zero` is at 0. For milliseconds, take e - 3. An upper bound does not belong
    to its bucket here: an observation that equals it counts as just above.
    """

    bins: tuple[tuple[int, int, int], ...] = ()
    zero: int = 0

    def __add__(self, other: "Decimal") -> "Decimal":
        """Both taken together."""
        both = _summed(((e, d), count) for d, e, count in self.bins + other.bins)
        return Decimal(tuple((d, e, count) for (e, d), count in both), self.zero + other.zero)

    @property
    def n(self) -> int:
        """The number of observations."""
        return self.zero + sum(count for _, _, count in self.bins)

    @property
    def buckets(self) -> list[Bucket]:
        """What the buckets hold."""
        places = ((decimal_bound(d, e), decimal_bound(d + 1, e), count) for d, e, count in self.bins)
        return [(-inf, 0.0, self.zero), *places]


def decimal_bound(digits: int, exponent: int) -> float:
    """Digits x 10^exponent as the nearest float, so that it equals the number as people write it."""
    return float(f"{digits}e{exponent}")


def decimal_bounds(first: int, last: int) -> Bounds:
    """All bounds of a decimal histogram from 10^first to 10^last."""
    return (*(decimal_bound(d, e - 1) for e in range(first, last) for d in DIGITS), decimal_bound(1, last))


def in_bounds(of: Exponential | Decimal, le: Bounds) -> Histogram:
    """The same observations in the buckets `le`, exactly; ValueError where a bound cuts what is counted.

    What lies below the first bound counts in the first bucket, what lies above the last in the overflow.
    """
    cells = [0] * (len(le) + 1)
    for low, high, count in of.buckets:
        place = bisect_left(le, high)
        if count and bisect_right(le, low) < place:
            raise ValueError(f"le must not cut a bucket: {le[place - 1]} lies between {low} and {high}")
        cells[place] += count
    return Histogram(le, tuple(cells))


def on_grid(of: Exponential, grid: Grid) -> Histogram:
    """The same observations in the grid's bounds, in seconds; there are none within the zero bucket."""
    own, seconds = grid_bounds(grid, of.schema)
    first = bisect_left(own, of.zero_threshold)
    joined = in_bounds(of.at(min(of.schema, FINEST)), own[first:])
    return Histogram(seconds[first:], joined.count)


def counted(seconds: Sequence[float] | Array, le: Bounds) -> Histogram:
    """Measured latencies in the buckets `le`; one that never came (infinite) counts in the overflow."""
    values = np.asarray(seconds, dtype=float).ravel()
    if np.isnan(values).any():
        raise ValueError("seconds must not be NaN: leave out what was not measured, or say inf for a timeout")
    cells = np.bincount(np.searchsorted(np.asarray(le), values, side="left"), minlength=len(le) + 1)
    return Histogram(le, tuple(cells.tolist()))


@dataclass(frozen=True, slots=True, eq=False)
class Tiers:
    """The least ratio of quantiles, canary over stable, that is found for sure (...); infinite: none.

    `certain` assumes nothing of stable's distribution, `convex` that its density does not rise between
    neighbouring bounds, `interpolated` that its tail is a power law there. Where that is wrong, the last
    two find fault with what the margin allows.
    """

    certain: Array
    convex: Array
    interpolated: Array


def tiers(le: Bounds, cells: Array, *, quantile: Array | float, level: float, margin: float) -> Tiers:
    """What these bounds can tell, for stable's `cells` (..., K) and its `quantile` (...), in seconds.

    Stable's share above b / margin is at most what a tier says. Where that is `level` (.05 for p95) or less,
    a canary whose quantile lies beyond the bound b has more above b than the margin allows: the ratio is the
    first such bound over stable's quantile. With enough requests, that is; cells are taken for the truth.
    """
    bounds, quantile = np.asarray(le), _positive(quantile)
    shares = shares_above(le, cells, bounds / margin)
    return Tiers(*(_first(bounds, share <= level * (1 + ROUNDED)) / quantile for share in shares))


def certain(le: Bounds, *, quantile: Array | float, margin: float) -> Array:
    """`Tiers.certain` (...) where nothing but the `quantile` (...) of stable is known: to choose bounds by.

    At most `quantiles.resolution` of these two bounds, which holds wherever in its bucket the quantile is.
    """
    bounds, quantile = np.asarray([*le, inf]), _positive(quantile)
    theta = bounds[np.searchsorted(bounds, quantile, side="left")]
    return np.asarray(bounds[np.searchsorted(bounds, theta * margin * (1 - ROUNDED), side="left")] / quantile)


def shares_above(le: Bounds, cells: Array, at: Array) -> tuple[Array, Array, Array]:
    """The share (..., J) of `cells` (..., K) above each latency `at` (J,), at most, as each tier has it.

    That above the bound before it; that on the chord between the two bounds around it; that on the line
    between them where both scales are logarithmic.
    """
    bounds, n = np.asarray(le), cells.sum(axis=-1, keepdims=True)
    share = np.where(n > 0, tails(cells) / np.maximum(n, 1), 1.0)
    share = np.concatenate([np.ones(n.shape), share, share[..., -1:]], axis=-1)
    place = np.searchsorted(bounds, at * (1 + ROUNDED), side="right")
    before, after = share[..., place], share[..., place + 1]
    low, high = np.append(0.0, bounds)[place], np.append(bounds, inf)[place]
    chord = before + np.clip((at - low) / (high - low), 0, 1) * (after - before)
    base, top = np.where(low > 0, low, 1.0), np.where(low > 0, high, 2.0)  # no power law from zero on
    way = np.where(low > 0, np.log(np.maximum(at / base, 1)) / np.log(top / base), 0.0)
    half = 0.5 / np.maximum(n, 1)  # where nothing was counted beyond
    power = np.maximum(before, half) ** (1 - way) * np.maximum(after, half) ** way
    return before, chord, np.where(low > 0, np.minimum(power, chord), chord)


def _first(bounds: Array, enough: Mask) -> Array:
    """The first bound (...) where `enough` (..., J) holds; infinite where it never does."""
    always = np.ones((*enough.shape[:-1], 1), dtype=bool)
    return np.asarray(np.append(bounds, inf)[np.concatenate([enough, always], axis=-1).argmax(axis=-1)])


def _positive(quantile: Array | float) -> Array:
    if not np.all((np.asarray(quantile) > 0) & np.isfinite(quantile)):
        raise ValueError("quantile must be positive and finite")
    return np.asarray(quantile, dtype=float)


def _summed(counts: Iterable[tuple[K, int]]) -> tuple[tuple[K, int], ...]:
    """One entry for each bucket, in order, without empty ones."""
    total: Counter[K] = Counter()
    for place, count in counts:
        total[place] += count
    return tuple((place, total[place]) for place in sorted(total) if total[place])
