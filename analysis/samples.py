"""Sufficient statistics: what was counted, by pod, over one tick.

Counters arrive cumulative, as the pods expose them; `difference` turns two readings into what
happened between them and recognises a counter that started again from zero.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from operator import sub

from analysis.grids import shared


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of `n` requests were of the kind that is counted (`k`: errors, clicks, ...)."""

    n: int
    k: int

    def __add__(self, other: "Counts") -> "Counts":
        """Both taken together."""
        return Counts(self.n + other.n, self.k + other.k)

    @property
    def cells(self) -> tuple[int, ...]:
        """Requests by outcome: without and with what is counted."""
        return (self.n - self.k, self.k)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts per bucket, not cumulative over buckets.

    `le` holds the upper bounds, strictly increasing, in the unit of what is measured (seconds for
    latency); `count` has one entry more, the overflow above the last bound.
    """

    le: tuple[float, ...]
    count: tuple[int, ...]

    def __add__(self, other: "Histogram") -> "Histogram":
        """Both taken together; their buckets must be the same."""
        if self.le != other.le:
            raise ValueError("histograms with different buckets cannot be added; see `coarsened`")
        return Histogram(self.le, tuple(a + b for a, b in zip(self.count, other.count, strict=True)))

    @property
    def n(self) -> int:
        """The number of observations."""
        return sum(self.count)

    @property
    def cells(self) -> tuple[int, ...]:
        """Observations by bucket, the overflow last."""
        return self.count


Statistic = Counts | Histogram


@dataclass(frozen=True, slots=True)
class PodSample:
    """One pod's share of a sample. Pods on one `node` share its noise and count as one."""

    name: str
    node: str
    value: Statistic


@dataclass(frozen=True, slots=True)
class Sample:
    """What one arm's pods counted over one tick, from `start` to `end` (seconds, any fixed epoch)."""

    start: float
    end: float
    pods: tuple[PodSample, ...] = ()


def difference(before: Statistic, after: Statistic) -> Statistic | None:
    """What was counted between two cumulative readings of one pod.

    None where the readings do not belong together: a counter that is smaller than before (the
    process began again) or buckets that are others. The caller then waits for the next pair. Where one
    reading has some of the other's bounds alone they are compared in the buckets of these, which is exact: so
    are native histograms of different schemas, and classic ones whose page lacks a bucket now and then.
    """
    if isinstance(before, Counts) and isinstance(after, Counts):
        n, k = after.n - before.n, after.k - before.k
        return Counts(n, k) if 0 <= k <= n else None
    if not isinstance(before, Histogram) or not isinstance(after, Histogram):
        return None
    if before.le is not after.le and before.le != after.le:
        le = shared((before.le, after.le)) or _fewer(before.le, after.le)
        if le is None:
            return None
        before, after = coarsened(before, le), coarsened(after, le)
    if len(before.count) != len(after.count):
        raise ValueError(
            f"{len(before.count)} buckets before and {len(after.count)} after, of the same bounds"
        )
    cells = tuple(map(sub, after.count, before.count))
    return None if min(cells) < 0 else Histogram(after.le, cells)


def _fewer(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...] | None:
    """Those bounds of the two that are all among the other's, if there are any."""
    few, many = sorted((one, other), key=len)
    return few if few and set(few) <= set(many) else None


def coarsened(histogram: Histogram, le: tuple[float, ...]) -> Histogram:
    """The same observations in the wider buckets `le`, whose bounds must be among the finer ones."""
    kept = set(le)
    if not kept <= set(histogram.le):
        raise ValueError("buckets can be joined but not cut: every wide bound must be a fine one too")
    wide, total = [], 0
    for bound, count in zip(histogram.le, histogram.count, strict=False):
        total += count
        if bound in kept:
            wide.append(total)
            total = 0
    return Histogram(le, (*wide, total + histogram.count[-1]))


def usual_bounds(pods: Iterable[PodSample], *, known: tuple[float, ...]) -> tuple[float, ...]:
    """The buckets most pods use; of equally frequent ones those already `known`. () for counts."""
    used = [bounds_of(pod.value) for pod in pods]
    if all(le == known for le in used):
        return known
    frequency = Counter(used)
    return max(frequency, key=lambda le: (frequency[le], le == known, le))


def by_node(pods: Iterable[PodSample], le: tuple[float, ...]) -> dict[str, tuple[int, ...]]:
    """Cells of each node, its pods added up; pods with other buckets than `le` are left out.

    A pod that does not know its node stands for itself.
    """
    nodes: dict[str, tuple[int, ...]] = {}
    for pod in pods:
        if not _sound(pod.value, le):
            continue
        place = pod.node or pod.name
        known = nodes.get(place)
        cells = pod.value.cells
        nodes[place] = cells if known is None else tuple(map(sum, zip(known, cells, strict=True)))
    return nodes


def bounds_of(value: Statistic) -> tuple[float, ...]:
    """A histogram's; () for counts."""
    return value.le if isinstance(value, Histogram) else ()


def _sound(value: Statistic, le: tuple[float, ...]) -> bool:
    """Whether the value has these buckets and nothing negative in them."""
    cells = value.cells
    wanted = len(le) + 1 if isinstance(value, Histogram) else 2
    return bounds_of(value) == le and len(cells) == wanted and min(cells) >= 0
