"""The promise: a canary within its margins is rolled back with probability at most alpha.

Ville's inequality promises more than one alpha: the highest evidence of a run is above 1/a with
probability at most a, for every a. So each simulation is held to several at once, by exact binomial
bounds; where nothing crossed, the bound it certifies is stated.
"""

from dataclasses import replace

import numpy as np
import pytest

from analysis.cells import Tick
from analysis.evidence import CheckKind, advanced, begin, blank, next_step, restart, update
from analysis.judge import log_term
from analysis.proportions import Array
from analysis.samples import Sample
from scenarios.bench_rows import world
from scenarios.simulate import cells_of
from scenarios.streams import Change, World
from tests.validity.runs import SPECS, outcomes, plausible
from tests.validity.streams import Stream, noisy, ticks

LEVELS = (0.5, 0.2, 0.05, 0.01)
QUIET = Stream(seconds=240.0, history=60.0, tick=2.0)
LATENCY = CheckKind.LATENCY
ON_THE_LINE = {
    "latency": replace(QUIET, factor=1.2),
    "errors": replace(QUIET, kind=CheckKind.ERROR_RATE, errors=(0.02, 0.031)),
    "predictions": replace(QUIET, kind=CheckKind.PREDICTIONS, shift=0.1254),  # TV = .05
}
ALIKE = {
    "two pods": QUIET,
    "one pod": replace(QUIET, stable_pods=9, canary_pods=1),
    "two pods, all noise": noisy(QUIET),
    "one pod, all noise": noisy(replace(QUIET, stable_pods=9, canary_pods=1)),
    "one stable pod": replace(noisy(QUIET), stable_pods=1, canary_pods=1, share=0.5),
    "inside the margin, all noise": replace(noisy(QUIET), factor=1.1),
    "rare bursts x4 of 20 s": replace(QUIET, bursts=1 / 600, burst_factor=4.0, burst_seconds=20.0),
    "error bursts": replace(QUIET, kind=CheckKind.ERROR_RATE, bursts=0.005, burst_error=0.1),
    "clicks, all noise": noisy(replace(QUIET, kind=CheckKind.PROPORTION)),
    "drift of both arms": replace(QUIET, kind=CheckKind.PREDICTIONS, common=0.3),
}


@pytest.mark.parametrize("margin", ON_THE_LINE)
def test_on_the_margin_itself_every_level_holds(margin: str) -> None:
    runs = outcomes(ON_THE_LINE[margin], 30, until="failed")
    highest = np.array([run.highest for run in runs])
    for level in LEVELS:
        assert plausible(int((highest >= np.log(1 / level)).sum()), len(runs), level)


def highest_with_changes(every: int, *, runs: int = 128, minutes: int = 20) -> Array:
    """Of canaries exactly at the margin for so long, with pods that change `every` so many ticks of 2 s."""
    slower = [Change(at=-1e9, factor=1.2)]
    at_margin = World.begun(world(stable_pods=4, history=60.0, tick=2.0, changes=slower), runs=runs, seed=1)
    traffic, weight = at_margin.traffic, np.full(runs, 0.1)
    evidence = blank(
        SPECS[LATENCY],
        steps=1,
        finished=1,
        burst_tolerance=6.0,
        step_timeout=600.0,
        le=traffic.le,
        canary_le=traffic.le,
        nodes=(0, 1, 2, 3),
        groups=(0, 1),
        several=(runs,),
    )
    highest = np.full(runs, -np.inf)
    for place in range(-30, 30 * minutes):
        seen = at_margin.counted(2.0 * place, weight * (place >= 0))
        if place > 0 and place % every == 0:
            evidence = restart(evidence, at=np.full(runs, seen.start), same_pods=True)
        cells, start, end = cells_of(seen, LATENCY), np.full(runs, seen.start), np.full(runs, seen.end)
        arms = (cells[:, :4], cells[:, 4:] * (place >= 0))
        evidence = advanced(evidence, Tick(start, end, *arms, np.full(runs, 4), np.full(runs, 2)))
        highest = np.maximum(highest, log_term(evidence))
    return highest


def test_every_level_holds_of_the_whole_run_however_often_pods_come_and_go() -> None:
    highest = highest_with_changes(30)
    for level in LEVELS:
        assert plausible(int((highest >= np.log(1 / level)).sum()), len(highest), level)


@pytest.mark.parametrize("noise", ALIKE)
def test_identical_software_is_not_rolled_back(noise: str) -> None:
    """0 of 24 excludes 12 % at 95 %: a smoke alarm; the figures people read come from longer runs."""
    runs = outcomes(ALIKE[noise], 24, until="failed")
    assert not any(np.isfinite(run.failed) for run in runs)


@pytest.mark.parametrize("healed", [120.0, np.inf])
@pytest.mark.parametrize("seed", range(1, 5))
def test_one_ill_node_of_two_is_not_the_version(seed: int, healed: float) -> None:
    """One canary node five times slower, for 20 s or for good, the other well: never, whatever alpha."""
    well, ill = QUIET, replace(QUIET, factor=5.0, onset=100.0)
    evidence, highest = begin(SPECS[LATENCY], steps=1), -np.inf
    for (stable, canary), (_, slow) in zip(ticks(well, seed), ticks(ill, seed), strict=True):
        pods = canary.pods[:1] + slow.pods[1:] if canary.end < healed else canary.pods
        evidence = update(evidence, stable, Sample(canary.start, canary.end, pods))
        highest = max(highest, log_term(evidence))
    assert highest < np.log(10)


def test_cold_caches_of_a_weight_step_are_not_the_version() -> None:
    """x2 at the raise, fading within 3 s, at the second step of each of 12 runs."""
    count = 0
    for seed in range(12):
        evidence = begin(SPECS[LATENCY], steps=2)
        stream = replace(QUIET, tick=1.0, seconds=120.0, cold=(2.0, 3.0))
        for stable, canary in ticks(stream, seed):
            if canary.pods and evidence.step == 0:
                evidence = next_step(evidence, at=canary.start)
            evidence = update(evidence, stable, canary)
            count += log_term(evidence) >= np.log(100)
    assert count == 0
