"""Traffic of many runs side by side: what each pod counts in each tick, drawn from a seed.

A request is drawn once for all checks: how long it takes, whether it fails, what is predicted. Runs are
the first axis of every array, so a thousand cost hardly more calls than one.

Symbols: B runs, P stable and N canary pods, K buckets. Times are seconds since the canary has traffic.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from analysis.proportions import Array, Mask
from scenarios.distributions import Beta, Latency
from scenarios.page import SCORES, SECONDS

Whole = NDArray[np.int64]
Places = NDArray[np.int32]
WAVE = 600.0  # s
SCORED = Beta(2.0, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wander:
    """An AR(1) term of standard deviation `sd` that forgets within `tau` seconds."""

    sd: float = 0.0
    tau: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spells:
    """Spells of `lasting` seconds in which one pod is `factor` times as slow and `errors` more of it fail."""

    per_second: float = 0.0
    factor: float = 1.0
    lasting: float = 3.0
    errors: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is different with an arm's pods from `at` on, for `lasting` seconds.

    `pods`: how many of them, the first ones; None is all. `decay`: the factor fades with that time constant.
    """

    at: float
    canary: bool = True
    lasting: float = float("inf")
    pods: int | None = None
    factor: float = 1.0
    decay: float = float("inf")
    add: float = 0.0
    error_rate: float | None = None
    predictions: Beta | None = None
    click_rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Two arms that share `rps` requests a second, the world they live in, and what goes wrong.

    `common` moves both arms' log latency and log rate, `diurnal` is the amplitude of a wave of ten minutes
    in both; `pod` moves each pod's log latency, `static` is the sd of what it differs by for good, `spells`
    come over single pods, and over a canary node as a whole where its pods share one (`nodes`: of the
    canary). `load`: what a canary pod gets beyond its share of the weight. `timeout`: no request takes more
    seconds. `quantised`: latencies are rounded up to multiples of so many seconds.
    """

    rps: float
    stable_pods: int
    canary_pods: int
    latency: Latency
    canary_latency: Latency | None = None
    errors: tuple[float, float] = (0.001, 0.001)
    predictions: Beta = SCORED
    canary_predictions: Beta | None = None
    clicks: tuple[float, float] | None = None
    common: Wander = Wander()
    diurnal: float = 0.0
    pod: Wander = Wander(tau=10.0)
    static: float = 0.0
    spells: Spells = Spells()
    nodes: int | None = None
    load: float = 1.0
    timeout: float = float("inf")
    quantised: float = 0.0
    changes: Sequence[Change] = ()
    history: float = 600.0
    tick: float = 1.0
    le: tuple[float, ...] = field(default=SECONDS)
    bins: tuple[float, ...] = field(default=SCORES)


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """One tick of all runs: requests (B, P + N), failed ones (B, P + N), and cells (B, P + N, K).

    `clicked` (B, P + N): those not failed that somebody clicked on; None where nobody counts.
    """

    start: float
    end: float
    requests: Whole
    failed: Whole
    latency: Whole
    predictions: Whole
    clicked: Whole | None


@dataclass(slots=True, eq=False)
class World:
    """The state of noise of `runs` runs, from one tick to the next."""

    traffic: Traffic
    rng: np.random.Generator
    runs: int
    common: Array
    own: Array
    static: Array
    spell: Array

    @classmethod
    def begun(cls, traffic: Traffic, *, runs: int, seed: int) -> "World":
        """All noise in its steady state; the runs' chances follow from the seed and their number."""
        rng = np.random.Generator(np.random.SFC64(seed))
        pods = traffic.stable_pods + traffic.canary_pods
        return cls(
            traffic,
            rng,
            runs,
            traffic.common.sd * rng.standard_normal((runs, 1)),
            traffic.pod.sd * rng.standard_normal((runs, pods)),
            traffic.static * rng.standard_normal((runs, pods)),
            np.zeros((runs, pods)),
        )

    def counted(self, start: float, weight: Array) -> Counted:
        """The tick that begins then; `weight` (B,) is the canary's share of requests."""
        traffic = self.traffic
        self._moved(traffic.tick)
        middle = start + traffic.tick / 2
        together = self.common + traffic.diurnal * np.sin(2 * np.pi * middle / WAVE)
        requests = self.rng.poisson(self._rates(weight) * traffic.tick * np.exp(together))
        pod = np.repeat(np.arange(requests.size, dtype=np.int32), requests.ravel())
        now = [change for change in traffic.changes if change.at <= middle < change.at + change.lasting]
        failed = self._failed(pod, now).reshape(requests.shape)
        return Counted(
            start,
            start + traffic.tick,
            requests,
            failed,
            self._latencies(pod, together, now, middle),
            self._predictions(pod, now),
            self._clicked(requests - failed, now),
        )

    def _latencies(self, pod: Places, together: Array, now: Sequence[Change], middle: float) -> Whole:
        """Cells (B, P + N, K) of how long each request takes."""
        traffic, rng = self.traffic, self.rng
        slow = together + self.own + self.static + np.log(traffic.spells.factor) * (self.spell > 0)
        for change in now:
            factor = 1 + (change.factor - 1) * np.exp(-(middle - change.at) / change.decay)
            slow = slow + np.log(factor) * self._touched(change)
        seconds = traffic.latency.drawn(rng, len(pod))
        if traffic.canary_latency is not None:
            seconds = np.where(self._of_canary(pod), traffic.canary_latency.drawn(rng, len(pod)), seconds)
        seconds = seconds + slow.astype(np.float32).ravel()[pod]
        for change in now:
            if change.add:
                seconds = np.where(self._meets(change, pod), np.log(np.exp(seconds) + change.add), seconds)
        places = guide(traffic.le).places(_limited(traffic, seconds))
        return self._cells(pod, places, len(traffic.le) + 1)

    def _failed(self, pod: Places, now: Sequence[Change]) -> Whole:
        """Failed requests (B (P + N),)."""
        traffic = self.traffic
        rate = np.where(self._canary(), traffic.errors[1], traffic.errors[0]) + np.zeros_like(self.own)
        if traffic.spells.errors:
            rate = rate + traffic.spells.errors * (self.spell > 0)
        for change in now:
            if change.error_rate is not None:
                rate = np.where(self._touched(change), change.error_rate, rate)
        failing = self.rng.random(len(pod), dtype=np.float32) < rate.astype(np.float32).ravel()[pod]
        return np.bincount(pod[failing], minlength=self.own.size)

    def _clicked(self, answered: Whole, now: Sequence[Change]) -> Whole | None:
        """Answers (B, P + N) that somebody clicked on."""
        if self.traffic.clicks is None:
            return None
        rate = np.where(self._canary(), self.traffic.clicks[1], self.traffic.clicks[0])
        for change in now:
            if change.click_rate is not None:
                rate = np.where(self._touched(change), change.click_rate, rate)
        return self.rng.binomial(answered, rate)

    def _predictions(self, pod: Places, now: Sequence[Change]) -> Whole:
        """Cells (B, P + N, K) of what is predicted."""
        traffic = self.traffic
        chance = self.rng.integers(0, 1 << 16, len(pod), dtype=np.uint16)
        places = scores(traffic.predictions, traffic.bins)[chance]
        if traffic.canary_predictions is not None:
            said = scores(traffic.canary_predictions, traffic.bins)
            places = np.where(self._of_canary(pod), said[chance], places)
        for change in now:
            if change.predictions is not None:
                said = scores(change.predictions, traffic.bins)
                places = np.where(self._meets(change, pod), said[chance], places)
        return self._cells(pod, places, len(traffic.bins) + 1)

    def _cells(self, pod: Places, places: Places, width: int) -> Whole:
        counted = np.bincount(pod * np.int32(width) + places, minlength=self.own.size * width)
        return counted.reshape(*self.own.shape, width)

    def kept(self, index: Mask) -> None:
        """Only these runs go on."""
        self.runs = int(index.sum())
        self.common, self.own = self.common[index], self.own[index]
        self.static, self.spell = self.static[index], self.spell[index]

    def _rates(self, weight: Array) -> Array:
        """Requests a second (B, P + N) of each pod."""
        traffic = self.traffic
        share = np.minimum(weight * traffic.load, 1.0)[:, None]
        stable = np.broadcast_to((1 - share) / traffic.stable_pods, (self.runs, traffic.stable_pods))
        canary = np.broadcast_to(share / traffic.canary_pods, (self.runs, traffic.canary_pods))
        return traffic.rps * np.concatenate([stable, canary], axis=1)

    def _moved(self, seconds: float) -> None:
        """The noise, so many seconds later."""
        traffic, rng = self.traffic, self.rng
        self.common = _wandered(self.common, traffic.common, rng, seconds)
        self.own = _wandered(self.own, traffic.pod, rng, seconds)
        if not traffic.spells.per_second:
            return
        self.spell -= seconds
        places = traffic.stable_pods + np.arange(traffic.canary_pods) % (traffic.nodes or traffic.canary_pods)
        begins = rng.random(self.spell.shape) < traffic.spells.per_second * seconds
        begins[:, traffic.stable_pods :] = begins[:, places]  # pods of one node suffer together
        self.spell[begins] = traffic.spells.lasting

    def _canary(self) -> Mask:
        """Which pods (P + N,) are the canary's."""
        return np.asarray(np.arange(self.own.shape[1]) >= self.traffic.stable_pods)

    def _of_canary(self, pod: Places) -> Mask:
        """Which requests are the canary's."""
        return np.asarray(pod % self.own.shape[1] >= self.traffic.stable_pods)

    def _touched(self, change: Change) -> Mask:
        """Which pods (P + N,) a change concerns."""
        place = np.arange(self.own.shape[1]) - (self.traffic.stable_pods if change.canary else 0)
        among = place < (len(place) if change.pods is None else change.pods)
        return np.asarray(among & (self._canary() == change.canary))

    def _meets(self, change: Change, pod: Places) -> Mask:
        """Which requests a change concerns."""
        return np.asarray(self._touched(change)[pod % self.own.shape[1]])


@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """Finds the bucket of a log latency: by a fine grid, and one comparison for each bound in its cell."""

    log_le: NDArray[np.float32]
    first: float
    per_unit: float
    below: Places
    depth: int

    def places(self, log_seconds: NDArray[np.float32]) -> Places:
        """How many bounds lie below each."""
        cell = ((log_seconds - np.float32(self.first)) * np.float32(self.per_unit)).astype(np.int32)
        place = self.below[np.clip(cell, 0, len(self.below) - 1)]
        for _ in range(self.depth):
            place = place + (log_seconds > self.log_le[place])
        return place


@lru_cache(maxsize=32)
def guide(le: tuple[float, ...]) -> Guide:
    """For these bounds, all above zero."""
    log_le = np.log(np.array(le)).astype(np.float32)
    cells = 16 * len(le)
    first, per_unit = float(log_le[0]) - 1e-3, cells / (float(log_le[-1] - log_le[0]) + 2e-3)
    edges = first + np.arange(cells + 1) / per_unit
    # a log latency's cell is known to 32 bits: a bound so near to an edge may be met from either side
    below = np.searchsorted(log_le, edges - 1e-5).astype(np.int32)
    above = np.searchsorted(log_le, edges[1:] + 1e-5).astype(np.int32)
    depth = int(np.max(np.append(above, len(le)) - below))
    return Guide(np.append(log_le, np.float32(np.inf)), first, per_unit, below, max(depth, 1))


@lru_cache(maxsize=32)
def scores(predictions: Beta, bins: tuple[float, ...]) -> Places:
    """The bin of each of 65 536 equally likely scores."""
    below = predictions.cdf(np.array(bins))
    middles = (np.arange(1 << 16) + 0.5) / (1 << 16)
    return np.searchsorted(below, middles).astype(np.int32)


def _wandered(path: Array, wander: Wander, rng: np.random.Generator, seconds: float) -> Array:
    """The path, so many seconds later."""
    if not wander.sd:
        return path
    keep = np.exp(-seconds / wander.tau)
    return np.asarray(keep * path + wander.sd * np.sqrt(1 - keep**2) * rng.standard_normal(path.shape))


def _limited(traffic: Traffic, log_seconds: NDArray[np.float32]) -> NDArray[np.float32]:
    if traffic.quantised:
        steps = np.maximum(np.ceil(np.exp(log_seconds) / traffic.quantised - 1e-6), 1)
        log_seconds = np.log(steps * traffic.quantised - 1e-7).astype(np.float32)
    return np.minimum(log_seconds, np.float32(np.log(traffic.timeout)))
