"""What `serin plan` foresees from expected counts, against the medians of simulated runs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from controller import foresight, foretold, planning, policies
from scenarios.distributions import Lognormal
from scenarios.page import SECONDS
from scenarios.simulate import Ended, simulated
from scenarios.streams import Change, Traffic

FINE = tuple(bound for bound in SECONDS if 0.02 < bound < 1.0)
WORLD = Traffic(rps=100.0, stable_pods=9, canary_pods=2, latency=Lognormal(0.05, 0.115), le=FINE)
POLICY = policies.policy(planning.builtin() | {"steps": [10, 50]})
RUNS = 64
PASS_MEDIAN = 1.6  # times what is worked out, at most: of a Pass, which needs all checks at once
WITHIN = 1.3  # what the command says; a median of 64 runs is known to about a tenth


@pytest.mark.parametrize(
    ("words", "rps", "canary_pods", "fault"),
    [
        ("x1.3", 100.0, 2, {"factor": 1.3}),  # later than one like stable is promoted
        ("x1.5", 100.0, 2, {"factor": 1.5}),
        ("x2", 20.0, 2, {"factor": 2.0}),
        ("x2", 100.0, 1, {"factor": 2.0}),
        ("5 % failing", 100.0, 2, {"error_rate": 0.05}),
        ("20 % failing", 4.0, 2, {"error_rate": 0.2}),  # most seconds have no request of the canary's
    ],
)
def test_half_of_simulated_runs_are_rolled_back_by_then(
    words: str, rps: float, canary_pods: int, fault: dict[str, Any]
) -> None:
    found = foresight.foreseen(POLICY, rps=rps, stable_pods=9, canary_pods=canary_pods)
    seen = next(one.seen for one in found if one.effect and one.effect.words == words)
    world = replace(WORLD, rps=rps, canary_pods=canary_pods, changes=[Change(at=0.0, **fault)])
    runs = simulated(world, POLICY, runs=RUNS, seed=5, duration=4 * seen)
    took = np.where(runs.ended == Ended.ROLLED_BACK, runs.at, np.inf)
    half = float(np.quantile(took, 0.5, method="inverted_cdf"))
    assert seen / WITHIN <= half <= seen * WITHIN
    assert np.quantile(took, 0.9, method="inverted_cdf") <= 2.5 * seen
    # and none slips through: promoted by chance are at most beta of them, as the command says
    assert (runs.ended == Ended.PROMOTED).sum() <= binom.ppf(0.999, RUNS, POLICY.beta)


@pytest.mark.parametrize(("rps", "stable_pods"), [(60.0, 4), (10.0, 9)])
def test_a_pass_takes_as_long_as_the_command_says_by_its_median_and_in_nine_of_ten_runs(
    rps: float, stable_pods: int
) -> None:
    policy = policies.policy(planning.builtin() | {"steps": [10], "stepTimeout": "60m"})
    like = foresight.foreseen(policy, rps=rps, stable_pods=stable_pods, canary_pods=2)[0]
    world = replace(WORLD, rps=rps, stable_pods=stable_pods)
    runs = simulated(world, policy, runs=RUNS, seed=3, duration=4 * like.promoted)
    took = np.where(runs.ended == Ended.PROMOTED, runs.at, np.inf)
    half, most = np.quantile(took, [0.5, 0.9], method="inverted_cdf")
    assert half <= PASS_MEDIAN * like.promoted
    assert most <= foretold.SLOWEST_PASS * like.promoted
    assert most > PASS_MEDIAN * like.promoted  # so that 1.6 is no bound
