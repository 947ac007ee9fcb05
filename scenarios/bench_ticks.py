"""`make bench-ticks`: what one tick of evidence costs, as ratios of one run.

A canary alone against a hundred side by side, of which each goes on from what came of its last tick, and a
run's first minute against its half hour. Processor time, not the clock's: of this process, on whatever core
it had.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from analysis.abreast import updated
from analysis.evidence import CheckKind, CheckSpec, Evidence, begin, prepared, update
from analysis.grids import SECONDS, grid_bounds
from analysis.judge import judge
from analysis.samples import Counts, Histogram, PodSample, Sample

CANARIES = 100
LE = grid_bounds(SECONDS, 4)[1]  # of a native histogram at its finest
BINS = tuple(np.linspace(0.02, 1.0, 50).tolist())
CHECKS = (
    CheckSpec(name="latency", kind=CheckKind.LATENCY, max_increase=0.2),
    CheckSpec(name="errors", kind=CheckKind.ERROR_RATE, max_increase=0.5, plus=0.001),
    CheckSpec(name="predictions", kind=CheckKind.PREDICTIONS),
)
Ask = tuple[Evidence, Sample, Sample]


def _arm(spec: CheckSpec, rng: np.random.Generator, *, pods: int, each: int, end: float) -> Sample:
    def value() -> Counts | Histogram:
        n = int(rng.poisson(each))
        if spec.kind is CheckKind.ERROR_RATE:
            return Counts(n, int(rng.binomial(n, 0.001)))
        latency = spec.kind is CheckKind.LATENCY
        le, drawn = (LE, rng.lognormal(-3, 0.5, n)) if latency else (BINS, rng.beta(2, 5, n))
        return Histogram(le, tuple(np.bincount(np.searchsorted(le, drawn), minlength=len(le) + 1).tolist()))

    return Sample(end - 1.0, end, tuple(PodSample(f"p{j}", f"n{j}", value()) for j in range(pods)))


def canary(spec: CheckSpec, *, stable: int, seconds: int, seed: int) -> Iterator[Ask]:
    """Its ticks at 90 and 10 requests a second, two canary pods, each with the evidence before it."""
    rng, evidence = np.random.default_rng(seed), begin(spec, steps=4)
    for second in range(seconds):
        both = (
            _arm(spec, rng, pods=stable, each=90 // stable, end=second + 1.0),
            _arm(spec, rng, pods=2, each=5, end=second + 1.0),
        )
        yield evidence, *both
        evidence = update(evidence, *both)


def microseconds(work: Callable[[], object], *, times: int) -> float:
    """Processor time of one call, the median of `times`."""
    took = []
    for _ in range(times):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return 1e6 * float(np.median(took))


def abreast(ticks: Sequence[Ask]) -> float:
    """Microseconds a canary of so many side by side, each with these ticks one after the other."""
    evidence, took = [ticks[0][0]] * CANARIES, []
    for _, stable, of_canary in ticks:
        asks = [(one, stable, of_canary) for one in evidence]
        began = time.process_time()
        evidence = updated(asks)
        took.append(time.process_time() - began)
    return 1e6 * float(np.median(took)) / CANARIES


def lines(*, stable: int, seconds: int, times: int) -> Iterator[str]:
    """The table, a line a check."""
    yield f"{stable} stable and 2 canary pods; µs of one core a check and tick, medians of {times}"
    yield f"{'':12} alone  {CANARIES} abreast  ratio  putting samples in order  {seconds} s / 60 s"
    total, evidence = np.zeros(3), list[Evidence]()
    for spec in CHECKS:
        ticks = list(canary(spec, stable=stable, seconds=seconds + times, seed=1))
        late, early = ticks[seconds - 1], ticks[60]
        alone = microseconds(lambda ask=late: update(*ask), times=times)  # type: ignore[misc]
        first = microseconds(lambda ask=early: update(*ask), times=times)  # type: ignore[misc]
        together = abreast(ticks[seconds:])
        order = microseconds(lambda ask=late: prepared(*ask), times=times)  # type: ignore[misc]
        total += alone, together, order
        evidence.append(late[0])
        yield _line(spec.name, alone, together, order) + f"  {alone / first:24.2f}"
    yield _line("all three", *total)
    yield _line("one of them", *total / len(CHECKS))
    now = float(evidence[0].at)

    def judged() -> None:
        judge([replace(one) for one in evidence], alpha=0.01, beta=0.05, now=now)  # none is worked out yet

    judging = microseconds(judged, times=times)
    yield f"{'judging them':12} {judging:5.0f}"


def _line(name: str, alone: float, together: float, order: float) -> str:
    return f"{name:12} {alone:5.0f}  {together:11.0f}  {alone / together:5.1f}  {order:24.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table for few and for many stable pods."""
    parser = argparse.ArgumentParser(prog="python -m scenarios.bench_ticks", description=__doc__)
    parser.add_argument("--seconds", type=int, default=1800, help="how long a run is (default: 1800)")
    parser.add_argument("--times", type=int, default=50, help="medians of so many (default: 50)")
    told = parser.parse_args(arguments)
    for stable in (3, 18):
        for line in lines(stable=stable, seconds=told.seconds, times=told.times):
            print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
