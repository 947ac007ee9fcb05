"""Traffic with known truth: seeded streams of samples for one check, as pods would report them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

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
    factor `burst_factor` for `burst_seconds`.
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
    cold: tuple[float, float] = (1.0, 0.0)
    extra: dict[str, float] = field(default_factory=dict)


def noisy(stream: Stream) -> Stream:
    """The same with everything real pods do at once."""
    return replace(stream, common=0.15, pod=0.08, static=0.03, bursts=0.005)


def ticks(stream: Stream, seed: int) -> Iterator[tuple[Sample, Sample]]:
    """(stable, canary) samples: first the history of stable alone, then the canary's."""
    rng = np.random.default_rng(seed)
    count = round((stream.history + stream.seconds) / stream.tick)
    time = (np.arange(count) + 1) * stream.tick - stream.history
    pods = stream.stable_pods + stream.canary_pods
    canary = np.arange(pods) >= stream.stable_pods
    slow, bursting = _shifts(stream, rng, time, pods, canary)
    n = rng.poisson(_loads(stream, rng, time, canary))
    cells = _CELLS[stream.kind](stream, rng, n, time, canary, slow, bursting)
    for place, end in enumerate(time):
        yield tuple(
            _sample(stream, end, cells[place], np.flatnonzero(arm), arm=name)  # type: ignore[misc]
            for name, arm in (("stable", ~canary), ("canary", canary))
        )


def _sample(stream: Stream, end: float, cells: Array, places: Array, *, arm: str) -> Sample:
    start = float(end) - stream.tick
    if arm == "canary" and start < -1e-9:
        return Sample(start, float(end))
    pods = tuple(
        PodSample(f"{arm}-{place}", f"node-{place}", _value(stream.kind, stream.le, cells[place]))
        for place in places
    )
    return Sample(start, float(end), pods)


def _value(kind: CheckKind, le: tuple[float, ...], cells: Array) -> Counts | Histogram:
    if kind is CheckKind.ERROR_RATE:
        return Counts(int(cells.sum()), int(cells[1]))
    return Histogram(BINS if kind is CheckKind.PREDICTIONS else le, tuple(cells.tolist()))


def _loads(stream: Stream, rng: np.random.Generator, time: Array, canary: Array) -> Array:
    """Expected requests (T, P)."""
    tide = np.exp(_ar(rng, len(time), 1, sd=stream.common, tau=60.0, tick=stream.tick))
    share = np.where(canary, stream.share / stream.canary_pods, (1 - stream.share) / stream.stable_pods)
    loads = stream.rps * stream.tick * tide * share[None, :]
    return np.where((time[:, None] <= 1e-9) & canary[None, :], 0.0, loads)


def _shifts(
    stream: Stream, rng: np.random.Generator, time: Array, pods: int, canary: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Log latency shifts (T, P), and who bursts when."""
    common = _ar(rng, len(time), 1, sd=stream.common, tau=60.0, tick=stream.tick)
    own = _ar(rng, len(time), pods, sd=stream.pod, tau=stream.tau, tick=stream.tick)
    static = stream.static * rng.standard_normal(pods)
    begun = rng.random((len(time), pods)) < stream.bursts * stream.tick
    lasting = max(1, round(stream.burst_seconds / stream.tick))
    bursting = np.zeros_like(begun)
    for later in range(lasting):
        bursting[later:] |= begun[: len(time) - later]
    factor, decay = stream.cold
    cold = np.log1p((factor - 1) * np.exp(-np.maximum(time, 0) / max(decay, 1e-9))) if decay else 0.0 * time
    faulty = canary[None, :] & (time[:, None] > stream.onset + 1e-9)
    shift = common + own + static + np.log(stream.burst_factor) * bursting
    return shift + np.log(stream.factor) * faulty + cold[:, None] * canary[None, :], bursting


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


def _latencies(stream, rng, n, time, canary, slow, bursting):  # type: ignore[no-untyped-def]
    median = np.log(stream.p95) - norm.ppf(0.95) * stream.sd
    below = norm.cdf((np.log(stream.le) - median - slow[:, :, None]) / stream.sd)
    edges = np.concatenate([np.zeros((*slow.shape, 1)), below, np.ones((*slow.shape, 1))], axis=2)
    return rng.multinomial(n, np.diff(edges, axis=2))


def _errors(stream, rng, n, time, canary, slow, bursting):  # type: ignore[no-untyped-def]
    faulty = canary[None, :] & (time[:, None] > stream.onset + 1e-9)
    rate = np.where(faulty, stream.errors[1], stream.errors[0])
    rate = np.minimum(1.0, rate * np.exp(slow * 2) + stream.burst_error * bursting)
    failed = rng.binomial(n, rate)
    return np.stack([n - failed, failed], axis=2)


def _predictions(stream, rng, n, time, canary, slow, bursting):  # type: ignore[no-untyped-def]
    faulty = canary[None, :] & (time[:, None] > stream.onset + 1e-9)
    below = norm.cdf(np.asarray(BINS) - (stream.shift * faulty)[:, :, None] - 2 * slow[:, :1, None])
    shape = below.shape[:2]
    edges = np.concatenate([np.zeros((*shape, 1)), below, np.ones((*shape, 1))], axis=2)
    return rng.multinomial(n, np.diff(edges, axis=2))


_CELLS = {
    CheckKind.LATENCY: _latencies,
    CheckKind.ERROR_RATE: _errors,
    CheckKind.PREDICTIONS: _predictions,
}
