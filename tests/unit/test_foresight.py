"""What a policy sees, and when, before there is a canary."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from analysis.evidence import CheckKind, CheckSpec
from controller import foresight, planning, policies
from controller.foresight import Foreseen


def spec(**changed: Any) -> Any:
    return planning.builtin() | {"steps": [10, 50], "stepTimeout": "5m"} | changed


@cache
def worked_out(rps: float, canary_pods: int = 2, **changed: str) -> tuple[Foreseen, ...]:
    policy = policies.policy(spec(**changed))
    return foresight.foreseen(policy, rps=rps, stable_pods=9, canary_pods=canary_pods)


def at(rps: float, canary_pods: int = 2, **changed: str) -> dict[str, Foreseen]:
    """By effect in words, what is foreseen; "" is the canary like stable."""
    found = worked_out(rps, canary_pods, **changed)
    return {one.effect.words if one.effect else "": one for one in found}


def text(rps: float, canary_pods: int = 2, **changed: str) -> str:
    found, policy = worked_out(rps, canary_pods, **changed), policies.policy(spec(**changed))
    lines = foresight.told(policy, found, stable_pods=9, canary_pods=canary_pods)
    return "\n".join(lines)


def test_larger_effects_are_seen_sooner_and_more_traffic_shows_all_of_them_sooner() -> None:
    slow, fast = at(40), at(400)
    for larger, smaller in (("x5", "x2"), ("x2", "x1.5"), ("20 % failing", "5 % failing")):
        assert slow[larger].seen < slow[smaller].seen
        assert fast[smaller].seen < slow[smaller].seen


def test_a_canary_like_stable_is_promoted_and_never_rolled_back() -> None:
    like = at(400)[""]
    assert like.passed == (60.0, 120.0)  # minStep each
    assert (like.promoted, like.seen, like.weight) == (120.0, np.inf, 50)


def test_one_canary_pod_sees_later_by_about_the_tolerance_for_bursts() -> None:
    one, two = at(400, 1), at(400)
    assert 5 <= one["20 % failing"].seen - two["20 % failing"].seen <= 9


def test_latency_waits_for_the_warm_up_and_errors_do_not() -> None:
    cold = at(40, warmUp="60s")
    assert cold["x5"].seen > 60
    assert cold["20 % failing"].seen < 30


def test_only_what_is_beyond_the_margin_is_worked_out() -> None:
    wide = CheckSpec(name="p95", kind=CheckKind.LATENCY, max_increase=0.5)
    assert [effect.words for effect in foresight.effects_on(wide)] == ["x2", "x5"]
    loose = CheckSpec(name="scores", kind=CheckKind.PREDICTIONS, tolerance=0.2)
    assert [effect.words for effect in foresight.effects_on(loose)] == ["moved by 1 sd"]
    clicks = CheckSpec(name="clicks", kind=CheckKind.PROPORTION, max_decrease=0.3)
    assert [effect.words for effect in foresight.effects_on(clicks)] == ["falls by 50 %"]
    skipped = CheckSpec(name="skipped", kind=CheckKind.PROPORTION, max_increase=0.2)
    assert [effect.words for effect in foresight.effects_on(skipped)] == ["rises by 50 %", "rises by 100 %"]
    many = CheckSpec(name="errors", kind=CheckKind.ERROR_RATE, plus=0.1)
    assert [effect.words for effect in foresight.effects_on(many)] == ["20 % failing"]


def test_shares_are_what_the_words_say() -> None:
    place = foresight.BOUNDS.index(min(foresight.BOUNDS, key=lambda bound: abs(bound - 2.3)))
    assert foresight.slow(1.0)[place + 1 :].sum() == pytest.approx(0.05, abs=0.005)
    moved, like = foresight.moved(1.0), foresight.moved(0.0)
    assert abs(moved - like).sum() / 2 == pytest.approx(foresight.distance(1.0), abs=0.005)


def test_what_is_not_seen_in_time_is_said_to_be_held_passed_on_or_given_up() -> None:
    assert "errors       1 % failing      not within this plan's 10 min" in text(10)
    assert "it is still held at 10 % after this plan's 10 min" in text(4)
    assert "not seen: promoted after 10 min" in text(4, onInconclusive="Proceed")
    given_up = text(4, onInconclusive="RollBack")
    assert "not seen: rolled back undecided after 5 min" in given_up
    assert "and is rolled back undecided after 5 min" in given_up


def test_one_canary_pod_is_warned_of() -> None:
    assert "WARNING: one canary pod cannot be told from its node" in text(400, 1)
    assert "WARNING" not in text(400)


def test_the_terms_of_the_figures_are_said() -> None:
    said = text(400)
    assert "for 9 stable and 2 canary pods (--stable-pods, --canary-pods)" in said
    assert "about half of such faults are found by then" in said
    assert "first 30 s (warmUp)" in said
    assert max(map(len, said.splitlines())) <= 110


@pytest.mark.parametrize("rps", [0.001, 1e9])
def test_the_least_and_the_most_traffic_are_worked_out_as_well(rps: float) -> None:
    found = at(rps)
    assert np.isfinite(found["x5"].seen) == (rps > 1)


def test_a_check_with_a_margin_beyond_every_effect_is_named() -> None:
    checks = [{"name": "slow", "type": "Latency", "quantile": 0.95, "maxIncrease": "900%", "required": True}]
    policy = policies.policy(spec(checks=checks))
    lines = foresight.told(policy, worked_out(400), stable_pods=9, canary_pods=2)
    assert "slow                   not worked out: nothing that is usual lies beyond its margin" in lines


def test_a_share_that_falls_is_seen_too() -> None:
    clicks = {"name": "clicks", "type": "Proportion", "direction": "decrease", "maxDecrease": "15%"}
    policy = policies.policy(spec(checks=[clicks | {"required": True}]))
    like, *fallen = foresight.foreseen(policy, rps=400, stable_pods=9, canary_pods=2)
    assert like.promoted < np.inf
    assert fallen[1].seen < fallen[0].seen < np.inf
