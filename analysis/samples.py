"""Sufficient statistics: what was counted, by pod, over one tick.

Counters arrive cumulative, as the pods expose them; `difference` turns two readings into what
happened between them and recognises a counter that started again from zero.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of `n` requests were of the kind that is counted (`k`: errors, clicks, ...)."""

    n: int
    k: int

    def __add__(self, other: "Counts") -> "Counts":
        """Both taken together."""
        return Counts(self.n + other.n, self.k + other.k)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts per bucket, not cumulative over buckets.

    `le` holds the upper bounds, strictly increasing, in the unit of what is measured (seconds for
    latency); `count` has one entry more, the overflow above the last bound.
    """

    le: tuple[float, ...]
    count: tuple[int, ...]

    @property
    def n(self) -> int:
        """The number of observations."""
        return sum(self.count)


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
