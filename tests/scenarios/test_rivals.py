"""The peers' rules on simulated traffic: what they see, and when."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.peers import ARGO, FLAGGER_FAST, KAYENTA_FAST
from controller import planning, policies
from controller.model import Policy
from scenarios.distributions import Lognormal
from scenarios.rivals import compared, weight_at
from scenarios.streams import Change, Traffic

RULES = (FLAGGER_FAST, ARGO, KAYENTA_FAST)
TRAFFIC = Traffic(
    rps=200.0,
    stable_pods=3,
    canary_pods=3,
    latency=Lognormal(0.02, 0.06),
    history=0.0,
    tick=2.0,
    le=tuple(0.01 * 1.2 ** np.arange(32)),
)
X5 = Change(at=-1.0, factor=5.0)


def policy(*steps: int) -> Policy:
    return policies.policy(planning.builtin() | {"steps": list(steps), "minStep": "30s", "minRequests": 300})


@pytest.mark.parametrize(
    ("seconds", "weight"), [(0.0, 1), (149.9, 1), (150.1, 10), (179.9, 10), (180.1, 50), (1e6, 50)]
)
def test_a_step_lasts_as_long_as_it_has_to(seconds: float, weight: int) -> None:
    """At 200 requests a second 1 % needs 150 s for 300 of them; 10 % needs 15, and minStep is 30."""
    assert weight_at(policy(1, 10, 50), 200.0, seconds) == weight


def test_rules_that_see_five_times_the_latency_roll_back_in_time() -> None:
    served = replace(TRAFFIC, changes=(X5,))
    found = compared(served, policy(50), runs=4, seed=3, duration=130.0, rules=RULES)
    assert set(found) == set(RULES)
    assert (found[FLAGGER_FAST] == 20.0).all()  # its second failed look
    assert (found[ARGO] == 60.0).all()
    assert (found[KAYENTA_FAST] <= 120.0).all()


def test_nobody_fails_on_nothing() -> None:
    """Shares of one in two: a minute of 6 000 requests an arm is too much for chance at these margins."""
    served = replace(TRAFFIC, errors=(0.05, 0.05))
    found = compared(served, policy(50), runs=4, seed=3, duration=70.0, rules=(ARGO, KAYENTA_FAST))
    assert all(np.isinf(at).all() for at in found.values())


def test_before_any_traffic_nobody_has_failed() -> None:
    found = compared(TRAFFIC, policy(50), runs=2, seed=3, duration=0.0, rules=RULES)
    assert all(np.isinf(at).all() for at in found.values())


def test_the_same_seed_brings_the_same_and_batches_follow_each_other() -> None:
    served = replace(TRAFFIC, rps=20.0)
    one, same = (
        compared(served, policy(50), runs=300, seed=3, duration=22.0, rules=(FLAGGER_FAST,)) for _ in range(2)
    )
    assert one[FLAGGER_FAST].shape == (300,)
    assert (one[FLAGGER_FAST] == same[FLAGGER_FAST]).all()
    assert 0 < np.isfinite(one[FLAGGER_FAST]).sum() < 300
