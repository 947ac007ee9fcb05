"""Shares of hits: the promise at the margin and at equality, and how fast what is lost is found.

Canaries are judged side by side by the code that judges one, 150 trials a tick of 3 s, half of them the
canary's. A test for a rare share, for a common one, for almost all, and for both directions of harm.
"""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis import evidence as ev
from analysis.cells import Tick
from analysis.evidence import CheckKind, CheckSpec, Evidence
from analysis.judge import Verdict, log_term, verdicts
from tests.validity.runs import plausible

Floats = NDArray[np.float64]
RUNS, STABLE, CANARY, SECONDS = 400, 4, 2, 3.0
LEVELS = (0.5, 0.2, 0.05, 0.01)
FEWER = CheckSpec(name="clicks", kind=CheckKind.PROPORTION, max_decrease=0.15)
MORE = CheckSpec(name="complaints", kind=CheckKind.PROPORTION, max_increase=0.2, plus=0.002)
WORST = {  # spec, stable's share, and the canary's at the margin
    "fewer of 1 %": (FEWER, 0.01, 0.0085),
    "fewer of 40 %": (FEWER, 0.4, 0.34),
    "fewer of 97 %": (FEWER, 0.97, 0.8245),
    "far fewer are allowed": (replace(FEWER, max_decrease=0.6), 0.2, 0.08),
    "more of 2 %": (MORE, 0.02, 0.026),
    "more of 60 %": (MORE, 0.6, 0.722),
}


def cells(rng: np.random.Generator, share: Floats | float, trials: float, pods: int) -> Floats:
    """Trials without and with a hit (B, pods, 2)."""
    n = rng.poisson(trials / pods, (RUNS, pods))
    hits = rng.binomial(n, share)
    return np.stack([n - hits, hits], axis=-1).astype(float)


def seen(
    spec: CheckSpec, shares: tuple[float, float], *, ticks: int, moving: float = 0.0, seed: int = 1
) -> tuple[Floats, Floats, Floats]:
    """The highest log e, and when it failed and passed first (seconds; infinity if never), of each run.

    `moving`: how far both arms' shares move together, as a part, from tick to tick.
    """
    rng = np.random.default_rng(seed)
    evidence: Evidence = ev.blank(
        spec,
        steps=1,
        burst_tolerance=6.0,
        step_timeout=600.0,
        finished=1,
        nodes=tuple(range(STABLE)),
        groups=tuple(range(CANARY)),
        several=(RUNS,),
    )
    highest, failed, passed = (np.full(RUNS, value) for value in (-np.inf, np.inf, np.inf))
    for place in range(-20, ticks):
        start, live = SECONDS * place, place >= 0
        together = 1 + moving * rng.uniform(-1, 1, (RUNS, 1))
        stable = cells(rng, shares[0] * together, 75.0, STABLE)
        canary = cells(rng, shares[1] * together, 75.0 * live, CANARY)
        begins, ends = np.full(RUNS, start), np.full(RUNS, start + SECONDS)
        there = (np.full(RUNS, STABLE), np.full(RUNS, CANARY * live))
        evidence = ev.advanced(evidence, Tick(begins, ends, stable, canary, *there))
        term = log_term(evidence)
        highest = np.maximum(highest, term) if live else highest
        failed = np.where(np.isinf(failed) & (term >= np.log(100)), start + SECONDS, failed)
        passes = verdicts(evidence, beta=0.05, now=ends) == Verdict.PASS
        passed = np.where(np.isinf(passed) & passes, start + SECONDS, passed)
    return highest, failed, passed


@pytest.mark.parametrize("worst", WORST)
@pytest.mark.parametrize("moving", [0.0, 0.03])
def test_at_the_margin_every_level_holds(worst: str, moving: float) -> None:
    spec, stable, canary = WORST[worst]
    moving = 0.0 if spec.plus else moving  # with `plus` what is the margin at one share is not at another
    highest, _, _ = seen(spec, (stable, canary), ticks=60, moving=moving)
    for level in LEVELS:
        assert plausible(int((highest >= np.log(1 / level)).sum()), RUNS, level)


@pytest.mark.parametrize("worst", WORST)
def test_alike_arms_are_not_rolled_back(worst: str) -> None:
    spec, stable, _ = WORST[worst]
    highest, _, _ = seen(spec, (stable, stable), ticks=60)
    assert (highest < np.log(100)).all()
    assert plausible(int((highest >= np.log(2)).sum()), RUNS, 0.5)


@pytest.mark.parametrize("worst", WORST)
def test_beyond_the_margin_a_step_rarely_passes(worst: str) -> None:
    spec, stable, canary = WORST[worst]
    beyond = canary * (0.99 if spec.max_decrease else 1.01)
    _, _, passed = seen(spec, (stable, beyond), ticks=60, seed=2)
    assert plausible(int(np.isfinite(passed).sum()), RUNS, 0.05)


@pytest.mark.parametrize(
    ("spec", "stable", "canary", "seconds"),
    [
        (FEWER, 0.4, 0.28, 100.0),  # 30 % fewer
        (FEWER, 0.4, 0.0, 12.0),
        (FEWER, 0.1, 0.05, 100.0),
        (FEWER, 0.01, 0.0, 90.0),  # not one of a hundred any more
        (FEWER, 0.97, 0.7, 30.0),
        (MORE, 0.02, 0.06, 60.0),
    ],
)
def test_what_is_beyond_the_margin_is_found(
    spec: CheckSpec, stable: float, canary: float, seconds: float
) -> None:
    _, failed, _ = seen(replace(spec, share=0.1), (stable, canary), ticks=60)
    assert np.median(failed) <= seconds


@pytest.mark.parametrize(("stable", "seconds"), [(0.4, 45.0), (0.97, 20.0)])
def test_a_like_canary_passes(stable: float, seconds: float) -> None:
    _, _, passed = seen(FEWER, (stable, stable), ticks=40)
    assert np.median(passed) <= seconds
