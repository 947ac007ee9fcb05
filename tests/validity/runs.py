"""Streams through the evidence: when it fails, when it passes, how high it rises."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import binomtest

from analysis.evidence import CheckKind, CheckSpec, begin, update
from analysis.judge import Verdict, judge, log_term
from tests.validity.streams import Stream, ticks

SPECS = {
    CheckKind.LATENCY: CheckSpec(name="latency-p95", kind=CheckKind.LATENCY, max_increase=0.2),
    CheckKind.ERROR_RATE: CheckSpec(name="errors", kind=CheckKind.ERROR_RATE, max_increase=0.5, plus=0.001),
    CheckKind.PREDICTIONS: CheckSpec(name="predictions", kind=CheckKind.PREDICTIONS, tolerance=0.05),
    CheckKind.PROPORTION: CheckSpec(name="clicks", kind=CheckKind.PROPORTION, max_decrease=0.2),
}


@dataclass(frozen=True)
class Outcome:
    """One run: the highest log e, and when it first failed and passed (seconds, or infinity)."""

    highest: float
    failed: float
    passed: float


def outcome(
    stream: Stream, seed: int, *, share: float = 1.0, steps: int = 1, until: str = "end", looks: int = 5
) -> Outcome:
    """One run at alpha 1 % and beta 5 %, to the first `until` ("failed", "passed") or the end.

    A Pass is looked for every `looks` seconds only, to save time; a failure after every tick.
    """
    evidence = begin(replace(SPECS[stream.kind], share=share), steps=steps)
    highest, failed, passed = -np.inf, np.inf, np.inf
    for stable, canary in ticks(stream, seed):
        evidence = update(evidence, stable, canary)
        if not canary.pods:
            continue
        now = canary.end
        highest = max(highest, log_term(evidence))
        failed = min(failed, now) if highest >= np.log(100) else failed
        if until != "failed" and np.isinf(passed) and round(now) % looks == 0:
            judged = judge([evidence], alpha=0.01, beta=0.05, now=now)
            passed = now if judged.verdict is Verdict.PASS else passed
        if np.isfinite({"failed": failed, "passed": passed}.get(until, np.inf)):
            break
    return Outcome(highest, failed, passed)


def outcomes(stream: Stream, count: int, **how: Any) -> list[Outcome]:
    """As many runs, from fixed seeds."""
    return [outcome(stream, seed, **how) for seed in range(count)]


def plausible(count: int, runs: int, at_most: float) -> bool:
    """Whether so many events fit a probability of at most this much (exact binomial, 0.1 %)."""
    return binomtest(count, runs, at_most, alternative="greater").pvalue > 0.001


def delays(results: Sequence[Outcome], onset: float) -> np.ndarray:
    """Seconds from the fault to the failure; infinity where there was none."""
    return np.array([result.failed - onset for result in results])
