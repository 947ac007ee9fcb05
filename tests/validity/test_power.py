"""How fast real faults are found, and how fast a good canary passes. Medians of seeded runs.

Figures are for 10 canary requests a second of 100, alpha 1 %, one check's usual share of a plan
with three checks and three steps.
"""

from dataclasses import replace

import numpy as np
import pytest

from analysis.evidence import CheckKind
from tests.validity.runs import delays, outcomes, plausible
from tests.validity.streams import Stream, noisy

TWO = Stream(seconds=90.0, history=60.0, onset=20.0)
ONE = replace(TWO, stable_pods=9, canary_pods=1)
ERRORS = replace(TWO, kind=CheckKind.ERROR_RATE)
DRIFT = replace(TWO, kind=CheckKind.PREDICTIONS)
FAULTS = {
    "p95 x5": (replace(TWO, factor=5.0), 0.45, 3.0),
    "p95 x2": (replace(TWO, factor=2.0), 0.45, 9.0),
    "p95 x2 from the start": (replace(TWO, factor=2.0, onset=0.0), 0.45, 9.0),
    "p95 x2, two minutes into a step": (replace(TWO, factor=2.0, onset=120.0, seconds=150.0), 0.45, 9.0),
    "p95 x2, all noise": (noisy(replace(TWO, factor=2.0)), 0.45, 20.0),
    "p95 x5, one pod": (replace(ONE, factor=5.0), 0.45, 10.0),
    "p95 x2, one pod": (replace(ONE, factor=2.0), 0.45, 20.0),
    "errors 20 %": (replace(ERRORS, errors=(0.001, 0.2)), 0.35, 6.0),
    "errors 5 %": (replace(ERRORS, errors=(0.001, 0.05)), 0.35, 30.0),
    "predictions 1 sd": (replace(DRIFT, shift=1.0), 0.20, 14.0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_in_time(fault: str) -> None:
    stream, share, seconds = FAULTS[fault]
    runs = outcomes(stream, 9, share=share, steps=3, until="failed")
    found = delays(runs, stream.onset)
    assert (found > 0).all()
    assert np.median(found) <= seconds


@pytest.mark.parametrize("kind", CheckKind)
def test_a_like_canary_passes_within_a_minute(kind: CheckKind) -> None:
    runs = outcomes(replace(TWO, kind=kind, seconds=120.0), 15, until="passed")
    assert np.median([run.passed for run in runs]) <= 50.0


@pytest.mark.parametrize(
    "stream",
    [
        replace(TWO, factor=1.25, onset=0.0),
        replace(ERRORS, errors=(0.002, 0.014), onset=0.0),
        replace(DRIFT, shift=0.26, onset=0.0),  # TV = .103
    ],
    ids=["p95", "errors", "predictions"],
)
def test_a_canary_just_beyond_the_pass_margin_rarely_passes(stream: Stream) -> None:
    """beta is 5 % a step, at any time one looks: here in 90 s of looks every 5 s."""
    runs = outcomes(stream, 20, until="passed")
    assert plausible(sum(np.isfinite(run.passed) for run in runs), len(runs), 0.05)
