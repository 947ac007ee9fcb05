"""Traffic with known truth: seeded streams of samples for one check, as pods would report them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from analysis.evidence import CheckKind
from analysis.samples import Counts, Histogram, PodSample, Sample

Array = NDArray[np.float64]

FINE = tuple(float(bound) for bound in 0.010 * 1.2 ** (np.arange(64) / 6 * 2.2))  # x1.07 a bucket
BINS = tuple(float(bound) for bound in np.linspace(-2.5, 2.5, 19))


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One canary: how much traffic, over which pods, how noisy, and what is wrong with the canary.

    Latency is lognormal with a p95 of 114 ms; predictions are standard normal; `onset` is when the
    fault begins, in seconds of the step. Noise: `common` and `pod` are the sd of AR(1) terms in log
    latency (tau 60 s and `tau`), `static` a fixed offset per pod; `bursts` per second and pod, of
    factor `burst_factor` for `burst_seconds`. `cold` is a factor at the start and how long it takes to fade.
    """

    kind: CheckKind = CheckKind.LATENCY
    rps: float = 100.0
    share: float = 0.1
    stable_pods: int = 18
    canary_pods: int = 2
    seconds: float = 300.0
    history: float = 120.0
    tick: float = 1.0
    le: tuple[float, ...] = FINE
    sd: float = 0.5
    p95: float = 0.114
    factor: float = 1.0
    errors: tuple[float, float] = (0.001, 0.001)
    clicks: tuple[float, float] = (0.4, 0.4)
    shift: float = 0.0
    onset: float = 0.0
    common: float = 0.0
    pod: float = 0.0
    tau: float = 10.0
    static: float = 0.0
    bursts: float = 0.0
    burst_factor: float = 2.0
    burst_seconds: float = 3.0
    burst_error: float = 0.0
    cold: tuple[float, float] = (1.0, 1.0)


def noisy(stream: Stream) -> Stream:
    """The same with everything real pods do at once."""
    return replace(stream, common=0.15, pod=0.08, static=0.03, bursts=0.005)


@dataclass(frozen=True)
class Truth:
    """What is true in each tick (T) of each pod (P): requests, log slowness, who has the fault."""

    n: Array
    common: Array
    slow: Array
    bursting: NDArray[np.bool_]
    faulty: NDArray[np.bool_]


def ticks(stream: Stream, seed: int) -> Iterator[tuple[Sample, Sample]]:
    """(stable, canary) samples: first the history of stable alone, then the canary's."""
    rng = np.random.default_rng(seed)
    count = round((stream.history + stream.seconds) / stream.tick)
    ends = (np.arange(count) + 1) * stream.tick - stream.history
    cells = _DRAWN[stream.kind](stream, rng, _truth(stream, rng, ends))
    for end, drawn in zip(ends.tolist(), cells, strict=True):
        stable = _sample(stream, end, drawn, range(stream.stable_pods))
        pods = range(stream.stable_pods, len(drawn)) if end > 1e-9 else range(0)
        yield stable, _sample(stream, end, drawn, pods)


def _sample(stream: Stream, end: float, cells: Array, places: range) -> Sample:
    pods = tuple(
        PodSample(f"pod-{place}", f"node-{place}", _value(stream.kind, stream.le, cells[place]))
        for place in places
    )
    return Sample(end - stream.tick, end, pods)


def _value(kind: CheckKind, le: tuple[float, ...], cells: Array) -> Counts | Histogram:
    if kind.counted:
        return Counts(int(cells.sum()), int(cells[1]))
    return Histogram(BINS if kind is CheckKind.PREDICTIONS else le, tuple(cells.tolist()))


def _truth(stream: Stream, rng: np.random.Generator, ends: Array) -> Truth:
    pods = stream.stable_pods + stream.canary_pods
    canary = np.arange(pods) >= stream.stable_pods
    middles = ends - stream.tick / 2
    common = _ar(rng, len(ends), 1, sd=stream.common, tau=60.0, tick=stream.tick)
    own = _ar(rng, len(ends), pods, sd=stream.pod, tau=stream.tau, tick=stream.tick)
    bursting = _bursting(stream, rng, len(ends), pods)
    faulty = canary[None, :] & (middles[:, None] > stream.onset)
    factor, decay = stream.cold
    cold = np.log1p((factor - 1) * np.exp(-np.maximum(middles, 0) / decay))
    slow = common + own + stream.static * rng.standard_normal(pods)
    slow = slow + np.log(stream.burst_factor) * bursting + np.log(stream.factor) * faulty
    slow = slow + cold[:, None] * canary[None, :]
    share = np.where(canary, stream.share / stream.canary_pods, (1 - stream.share) / stream.stable_pods)
    loads = stream.rps * stream.tick * np.exp(common) * share[None, :]
    loads = np.where((middles[:, None] < 0) & canary[None, :], 0.0, loads)
    return Truth(rng.poisson(loads), common, slow, bursting, faulty)


def _bursting(stream: Stream, rng: np.random.Generator, count: int, pods: int) -> NDArray[np.bool_]:
    begun = rng.random((count, pods)) < stream.bursts * stream.tick
    bursting = begun.copy()
    for later in range(1, max(1, round(stream.burst_seconds / stream.tick))):
        bursting[later:] |= begun[: count - later]
    return bursting


def _ar(rng: np.random.Generator, count: int, width: int, *, sd: float, tau: float, tick: float) -> Array:
    if sd == 0:
        return np.zeros((count, width))
    keep = np.exp(-tick / tau)
    steps = rng.standard_normal((count, width)) * sd
    out = np.empty_like(steps)
    out[0] = steps[0]
    for place in range(1, count):
        out[place] = keep * out[place - 1] + np.sqrt(1 - keep**2) * steps[place]
    return out


def _latencies(stream: Stream, rng: np.random.Generator, truth: Truth) -> Array:
    median = np.log(stream.p95) - norm.ppf(0.95) * stream.sd
    below = norm.cdf((np.log(stream.le) - median - truth.slow[:, :, None]) / stream.sd)
    return rng.multinomial(truth.n, _cells(below))


def _errors(stream: Stream, rng: np.random.Generator, truth: Truth) -> Array:
    rate = np.where(truth.faulty, stream.errors[1], stream.errors[0])
    rate = np.minimum(1.0, rate * np.exp(2 * truth.slow) + stream.burst_error * truth.bursting)
    failed = rng.binomial(truth.n, rate)
    return np.stack([truth.n - failed, failed], axis=2)


def _clicks(stream: Stream, rng: np.random.Generator, truth: Truth) -> Array:
    """People click less on what comes late."""
    rate = np.where(truth.faulty, stream.clicks[1], stream.clicks[0]) * np.exp(-truth.slow / 4)
    clicked = rng.binomial(truth.n, np.minimum(1.0, rate))
    return np.stack([truth.n - clicked, clicked], axis=2)


def _predictions(stream: Stream, rng: np.random.Generator, truth: Truth) -> Array:
    """The inputs' distribution drifts for both arms alike; the fault shifts the canary's output."""
    drift = truth.common + stream.shift * truth.faulty
    return rng.multinomial(truth.n, _cells(norm.cdf(np.asarray(BINS) - drift[:, :, None])))


def _cells(below: Array) -> Array:
    """Probabilities of buckets from those below each bound."""
    nothing = np.zeros((*below.shape[:2], 1))
    return np.diff(np.concatenate([nothing, below, nothing + 1], axis=2), axis=2)


_DRAWN = {
    CheckKind.LATENCY: _latencies,
    CheckKind.ERROR_RATE: _errors,
    CheckKind.PREDICTIONS: _predictions,
    CheckKind.PROPORTION: _clicks,
}
