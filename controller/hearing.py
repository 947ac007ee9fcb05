"""What is heard of a canary: how much it served, which of its pods are silent, and when a silence tells.

Pure. A silence is counted in what stable completed meanwhile, and only as far as the pod's own page was read:
what nobody could read is not silent, it is unheard. And a request is due only once stable's own would be
back: `Lag` says what part of them is, so that a model that takes its time is not taken for one that hangs.
A model's own time leaves out how long requests wait for it; then the sidecar's says when they are back.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import accumulate

from analysis.samples import Histogram, difference

# The part of requests from which on the arms' shares are compared: the odds are right within a tenth.
MOST = 0.9
# A canary is called silent when stable has completed so many requests that twenty of the canary's
# were due: with Poisson traffic, none of twenty happens to a healthy canary once in e^20 = 5e8.
SILENT_AFTER_DUE = 20
# What is slower than a histogram's last bound is taken to be back after so many times that bound: a minute
# under the Python client's 10 s. Nobody can say; a canary that hangs must not keep its traffic for that.
BEYOND = 6.0
# Requests by which what is known since a run began is worth as much as what was known before: load changes,
# and with it how long requests wait.
SOME = 100
# A canary is healthy that is as slow as its margin allows; by a quarter more it still is not silent.
SLOWER = 1.25


@dataclass(frozen=True, slots=True)
class Quiet:
    """A canary pod that completed nothing, and what all of stable did meanwhile."""

    pod: str
    silence: int
    silent_for: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSeen:
    """Who served how much, counted in completed requests."""

    step_canary_requests: int = 0  # since the step began, for `min_requests`
    silence: int = 0  # stable's requests since the canary last completed one, or the weight last rose
    silent_for: timedelta = timedelta(0)  # how long that is
    follows_weight: bool = True  # False: the canary's share is off by more than 2 x (e-value > 1000)
    quiet: tuple[Quiet, ...] = ()  # canary pods whose pages are read
    uneven: bool = False  # one of stable's pods is as quiet: not every pod is given requests
    unheard: tuple[str, ...] = ()  # ready canary pods without a fresh page
    unheard_for: timedelta = timedelta(0)  # since when there is none of any
    missed: int = 0  # stable's requests since then


@dataclass(frozen=True, slots=True)
class Lag:
    """How long requests take, as stable's do: the `part` of them that is back within each of `le` seconds.

    Not known: they are taken to be back after `unknown` seconds, and at once when some already were. To one
    that has completed none yet, nothing is due within `first` seconds.
    """

    le: Sequence[float] = ()
    part: Sequence[float] = ()
    slower: float = 1.0  # so many times as long is waited for the canary's
    unknown: float = 0.0
    first: float = 0.0

    def back(self, seconds: float, *, spoke: bool = False) -> float:
        """The part of requests that are back so long after they were sent; never more than that."""
        if seconds < self.first and not spoke:
            return 0.0
        if not self.le:
            return 1.0 if spoke or seconds >= self.unknown else 0.0
        if seconds >= self.end:
            return 1.0
        known = bisect_right(self.le, seconds / self.slower)
        return self.part[known - 1] if known else 0.0

    @property
    def end(self) -> float:
        """Seconds after which all are taken to be back."""
        return max(self.unknown, BEYOND * self.le[-1]) if self.le else self.unknown

    @property
    def most(self) -> float:
        """Seconds after which `MOST` are."""
        bounds = zip(self.le, self.part, strict=True)
        return max(self.first, next((le * self.slower for le, part in bounds if part >= MOST), self.end))


AT_ONCE = Lag()


@dataclass(slots=True)
class Waits:
    """How long stable's requests take with the time that they wait, as its sidecars have counted.

    Both ever and since this leader first looked, since a queue may be longer now than it used to be.
    """

    before: dict[str, Histogram] = field(default_factory=dict)  # by pod, as first seen

    def took(self, now: Mapping[str, Histogram | None]) -> list[Histogram]:
        """What stable's pods say now, by pod, those of like buckets taken together."""
        said = {pod: one for pod, one in now.items() if one is not None}
        since = [difference(self.before.setdefault(pod, one), one) for pod, one in said.items()]
        recent = _added(one for one in since if isinstance(one, Histogram))
        return [*_added(said.values()), *(one for one in recent if one.n >= SOME)]


def _added(these: Iterable[Histogram]) -> list[Histogram]:
    sums: dict[tuple[float, ...], Histogram] = {}
    for one in these:
        sums[one.le] = sums[one.le] + one if one.le in sums else one
    return [one for one in sums.values() if one.n]


def lag_of(took: Histogram, *, slower: float, unknown: float) -> Lag:
    """How long requests take of which `took` is counted."""
    part = [n / took.n for n in accumulate(took.count)]
    return Lag(took.le, part[:-1], slower, unknown)
