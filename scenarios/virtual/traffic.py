"""Requests without requests: what pods would have counted, drawn from the story's distributions.

Nothing happens by itself. Whoever looks at a counter, or changes anything, first calls `advance`; the
stretch since the last call is then drawn at once, in slices of at most a second: Poisson arrivals,
split by the weight that the proxy has by then, spread evenly over the pods it knows to be ready. An
answer is counted in the slice of its arrival.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scenarios.distributions import Beta, Floats
from scenarios.noise import Common, Pod, generator
from scenarios.page import MILLISECONDS, SCORES, SECONDS, Page
from scenarios.plot import Arm, ArmFault, Behaviour, Story

Ints = NDArray[np.int64]

SLICE = 1.0  # seconds; the noise changes over 3 s and more
_SECONDS = np.array(SECONDS)
_SCORES = np.array(SCORES)
# a latency bucket's typical value, for sums and for Istio's own coarser buckets
_MIDDLES = np.sqrt(np.array([SECONDS[0] / 2, *SECONDS]) * np.array([*SECONDS, SECONDS[-1] * 1.2]))
_COARSE = np.searchsorted(np.array(MILLISECONDS), 1000 * _MIDDLES)


class PodPage(Page):
    """The live pods' page, filled in bulk."""

    def absorb(self, code: int, counts: Ints, scores: Ints | None = None) -> None:
        """So many requests were answered with `code`, by latency bucket and by score bucket."""
        took, said = self.model.histograms
        seconds = float(counts @ _MIDDLES)
        took.add(counts.tolist(), seconds)
        if scores is not None:
            said.add(scores.tolist(), float(scores @ _SCORE_MIDDLES))
        coarse = np.bincount(_COARSE, weights=counts, minlength=len(MILLISECONDS) + 1).astype(np.int64)
        self.received(code).add(coarse.tolist(), 1000 * seconds)


_SCORE_MIDDLES = (np.array([0.0, *SCORES]) + np.array([*SCORES, 1.0])) / 2


def _shares(below: Floats) -> Floats:
    """Probabilities by bucket, overflow last; exactly one in all."""
    edges = np.concatenate(([0.0], below, [1.0]))
    shares = np.clip(edges[1:] - edges[:-1], 0.0, 1.0)
    return np.asarray(shares / shares.sum())


@dataclass
class VirtualPod:
    """One pod as its callers know it."""

    name: str
    arm: Arm
    version: str
    behaviour: Behaviour
    noise: Pod
    page: PodPage
    started: float = 0.0
    running: bool = True  # its process is there; not so between a crash and the restart
    faults: tuple[ArmFault, ...] = ()
    warm_since: float | None = None  # its first request, for cold caches

    @property
    def silent(self) -> bool:
        """Whether requests sent here get no answer."""
        return not self.running or any(fault.hang or fault.blackhole for fault in self.faults)

    def slowdown(self, at: float) -> tuple[float, float]:
        """By what latency is multiplied, and what is added to it, in seconds."""
        self.warm_since = at if self.warm_since is None else self.warm_since
        factor, added = math.exp(self.noise.log_factor(at)), 0.0
        for fault in self.faults:
            factor *= fault.latency_factor
            added += fault.latency_add.total_seconds()
            if cold := fault.cold_start:
                age = at - self.warm_since
                factor *= 1 + (cold.factor - 1) * math.exp(-age / cold.decay.total_seconds())
        return factor, added

    @property
    def error_rate(self) -> float:
        """The share of answers that are 500."""
        ordered = [fault.error_rate for fault in self.faults if fault.error_rate is not None]
        return ordered[-1] if ordered else self.behaviour.error_rate

    @property
    def predictions(self) -> Beta:
        """What it predicts."""
        ordered = [fault.predictions for fault in self.faults if fault.predictions is not None]
        return ordered[-1] if ordered else self.behaviour.predictions

    @property
    def click_rate(self) -> float | None:
        """The share of answers that somebody clicks on; None where nobody counts."""
        ordered = [fault.click_rate for fault in self.faults if fault.click_rate is not None]
        return ordered[-1] if ordered else self.behaviour.click_rate

    def serve(self, rng: np.random.Generator, requests: int, *, at: float, common: float) -> None:
        """The pod has answered so many requests; `common` is the noise that all pods share."""
        factor, added = self.slowdown(at)
        seconds = np.maximum(_SECONDS - added, 1e-9) / (factor * common)
        took = _shares(self.behaviour.latency.cdf(seconds))
        errors = int(rng.binomial(requests, self.error_rate))
        scores = rng.multinomial(requests - errors, _shares(self.predictions.cdf(_SCORES)))
        self.page.absorb(200, rng.multinomial(requests - errors, took), scores)
        if errors:
            self.page.absorb(500, rng.multinomial(errors, took))
        if self.click_rate is not None:
            clicks = int(rng.binomial(requests - errors, self.click_rate))
            self.page.model.counted("impressions", requests - errors)
            self.page.model.counted("clicks", clicks)


@dataclass
class Spell:
    """A stretch of time in which the canary had a share: its first and its last request."""

    first: float
    last: float


@dataclass
class Truth:
    """What really happened to the traffic; times are seconds of the loop."""

    stable: int = 0
    canary: int = 0
    failed: int = 0  # lost although no fault ordered it
    spells: list[Spell] = field(default_factory=list)
    weights: list[tuple[float, int]] = field(default_factory=list)
    apart: bool = True  # the canary's share has been zero since its last request


class Traffic:
    """The proxy with everything behind it. Changes take effect after the story's propagation."""

    def __init__(self, story: Story, *, clock: Callable[[], float]) -> None:
        self._rate = story.requests_per_second
        self._propagation = story.propagation.total_seconds()
        self._noise = story.noise.said()
        self._seed = story.seed
        self._common = Common(self._noise, seed=story.seed)
        self._rng = generator(story.seed, "virtual requests")
        self._clock = clock
        self._until = clock()
        self._coming: list[tuple[float, Callable[[float], None]]] = []
        self._weight = 0
        self._ready: dict[Arm, tuple[VirtualPod, ...]] = {Arm.STABLE: (), Arm.CANARY: ()}
        self.down = False  # the proxy itself answers nothing
        self.silenced: set[Arm] = set()  # arms that a fault keeps from answering: their losses are ordered
        self.truth = Truth(weights=[(self._until, 0)])

    def noise_of(self, pod: str) -> Pod:
        """The pod's own noise, from the story's seed and its name."""
        return Pod(self._noise, seed=self._seed, name=pod)

    def begin(self) -> None:
        """From now on the truth is written down; what came before was history."""
        self.advance()
        self.truth = Truth(weights=[(self._until, self._weight)])

    # -- changes

    def route(self, weight: int) -> None:
        """The proxy will send `weight` percent of requests to the canary."""

        def take(at: float) -> None:
            if weight != self._weight:
                self._weight = weight
                self.truth.apart = self.truth.apart or weight == 0
                self.truth.weights.append((at, weight))

        self._soon(take)

    def endpoints(self, arm: Arm, pods: Sequence[VirtualPod]) -> None:
        """The proxy will know these pods of the arm as ready."""

        def take(_at: float) -> None:
            self._ready[arm] = tuple(pods)

        self._soon(take)

    def _soon(self, take: Callable[[float], None]) -> None:
        self.advance()
        self._coming.append((self._clock() + self._propagation, take))

    # -- time

    def advance(self) -> None:
        """Everything up to now has happened."""
        now = self._clock()
        while self._until < now:
            end = min(now, self._until + SLICE, *(at for at, _ in self._coming))
            if end > self._until:
                self._slice(self._until, end)
                self._until = end
            while self._coming and self._coming[0][0] <= self._until:
                at, take = self._coming.pop(0)
                take(at)

    def _slice(self, start: float, end: float) -> None:
        """Requests of a stretch in which nothing changed."""
        middle = (start + end) / 2
        common = math.exp(self._common.log_factor(middle))
        asked = int(self._rng.poisson(self._rate * common * (end - start)))
        if self.down:
            return
        canary = int(self._rng.binomial(asked, self._weight / 100))
        self._note(canary, asked - canary, start=start, end=end)
        for arm, requests in ((Arm.STABLE, asked - canary), (Arm.CANARY, canary)):
            self._spread(arm, requests, at=middle, common=common)

    def _note(self, canary: int, stable: int, *, start: float, end: float) -> None:
        truth = self.truth
        truth.stable += stable
        truth.canary += canary
        if canary:
            # the last of `canary` instants spread evenly, and by symmetry the first
            last, mirrored = (start + (end - start) * self._rng.random(2) ** (1 / canary)).tolist()
            if truth.apart:
                truth.spells.append(Spell(first=min(last, start + end - mirrored), last=last))
            truth.spells[-1].last, truth.apart = last, False

    def _spread(self, arm: Arm, requests: int, *, at: float, common: float) -> None:
        pods = self._ready[arm]
        shares = self._rng.multinomial(requests, [1 / len(pods)] * len(pods)).tolist() if pods else ()
        lost = requests - sum(shares)
        for pod, share in zip(pods, shares, strict=True):
            if pod.silent:
                lost += share
            elif share:
                pod.serve(self._rng, share, at=at, common=common)
        self.truth.failed += 0 if arm in self.silenced else lost
