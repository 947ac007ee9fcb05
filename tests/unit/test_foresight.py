"""What a policy sees, and when, before there is a canary."""

import re
from functools import cache
from typing import Any

import numpy as np
import pytest

from analysis.evidence import CheckKind, CheckSpec
from controller import foresight, foretold, planning, policies
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
    lines = foretold.told(policy, found, stable_pods=9, canary_pods=canary_pods)
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
    assert [effect.words for effect in foresight.effects_on(clicks)] == ["a share of 10 % falls by 50 %"]
    skipped = CheckSpec(name="skipped", kind=CheckKind.PROPORTION, max_increase=0.2)
    assert [effect.words for effect in foresight.effects_on(skipped)] == [
        "a share of 10 % rises by 50 %",
        "a share of 10 % rises by 100 %",
    ]
    many = CheckSpec(name="errors", kind=CheckKind.ERROR_RATE, plus=0.1)
    assert [effect.words for effect in foresight.effects_on(many)] == ["20 % failing"]


def test_shares_are_what_the_words_say() -> None:
    place = foresight.BOUNDS.index(min(foresight.BOUNDS, key=lambda bound: abs(bound - 2.3)))
    assert foresight.slow(1.0)[place + 1 :].sum() == pytest.approx(0.05, abs=0.005)
    moved, like = foresight.moved(1.0), foresight.moved(0.0)
    assert abs(moved - like).sum() / 2 == pytest.approx(foresight.distance(1.0), abs=0.005)


def test_of_each_fault_is_said_what_becomes_of_it() -> None:
    said = text(10)
    assert "errors       1 % failing      held at 10 %: neither found nor passed within 10 min" in said
    assert "none of these is promoted before it is seen" in said
    assert "not promoted either, but by a person:" in " ".join(said.split())
    assert "until then its weight stays" in " ".join(said.split())
    found = at(400)
    slow = found["x1.3"]
    assert slow.passed == ()
    assert slow.seen > found[""].passed[0]  # later than one like stable goes on, and still it waits
    assert "latency-p95  x1.3             rolled back after" in text(400)
    assert "at 10 %, before any step was passed" in text(400)


def test_of_a_fault_that_is_found_after_steptimeout_is_said_that_it_is_held_before() -> None:
    """It said "rolled back after 23 min" of a canary that is held, with alerts, from minute 10 on."""
    lines = text(8).splitlines()
    (late,) = [line for line in lines if line.endswith(", held from 5 min on")]
    assert late.split("  ")[-1].strip().startswith("rolled back after 6 min 50 s at 10 %")
    assert "alerts for Held are sent" in " ".join(" ".join(lines).split())
    assert "held from" not in text(8, onInconclusive="RollBack")


def test_what_no_check_looks_at_is_not_said_to_be_unseen_while_pods_warm_up() -> None:
    """It named latency and predictions whatever the policy's checks were."""

    def unseen(*kinds: str) -> str:
        checks = [each for each in planning.builtin()["checks"] if each["type"] in kinds]
        policy = policies.policy(spec(checks=checks))
        return " ".join(foretold._unseen(policy, 2))

    assert "latency and predictions in the first" in unseen("Latency", "ErrorRate", "Predictions")
    assert "it may be promoted before it is found" in unseen("ErrorRate")
    assert "it may be promoted" not in unseen("Latency")
    assert "predictions in the first" in unseen("Predictions")
    assert "latency" not in unseen("Predictions")
    assert "in the first" not in unseen("ErrorRate")


@pytest.mark.parametrize(
    ("more", "canary_pods", "held"),
    [
        (
            {"steps": [10, 30, 60]},
            2,
            "and is held then (CanaryUnderProvisioned): 60 % takes 6",
        ),
        ({"steps": [10, 30, 60]}, 6, ""),
        ({"steps": [10, 30, 50]}, 2, ""),
        (
            {"steps": [10, 40], "canaryReplicas": "Keep"},
            2,
            "and is held then (CanaryUnderProvisioned): 40 % takes 3",
        ),
        ({"steps": [50], "canaryReplicas": "Keep"}, 2, "passes no step, and is held then"),
    ],
)
def test_a_step_that_the_canary_never_has_pods_for_is_said_to_hold_it(
    more: dict[str, Any], canary_pods: int, held: str
) -> None:
    """It said "and is promoted" of a policy that holds every canary."""
    policy = policies.policy(spec(**more))
    pods = {"stable_pods": 4, "canary_pods": canary_pods}
    found = foresight.foreseen(policy, rps=180, **pods)
    said = " ".join(" ".join(foretold.told(policy, found, **pods)).split())
    assert ("and is promoted" in said) == (not held)
    assert held in said


def test_a_proportion_is_said_to_be_worked_out_for_a_tenth_and_where_to_ask_for_another() -> None:
    """It said "clicks falls by 50 %: after 2 min 40 s"; of a share of 1 % that took 16 minutes."""
    clicks = {"name": "clicks", "type": "Proportion", "direction": "decrease", "maxDecrease": "10%"}
    policy = policies.policy(spec(checks=[clicks]))
    lines = foretold.told(
        policy,
        foresight.foreseen(policy, rps=60, stable_pods=4, canary_pods=2),
        stable_pods=4,
        canary_pods=2,
    )
    assert any(line.startswith("clicks  a share of 10 % falls by 50 %") for line in lines)
    said = " ".join(lines)
    assert "clicks is worked out for a share of 10 %; one of 1 % takes about ten times as long." in said
    assert "serin simulate STORY.yaml --runs 64" in said
    assert "serin simulate" not in text(10)


def test_what_an_undecided_policy_lets_through_is_said_to_get_through() -> None:
    said = text(4, onInconclusive="Proceed")
    assert "NOT SEEN: promoted after 10 min" in said
    promoted = [one.effect for one in at(4, onInconclusive="Proceed").values() if np.isfinite(one.promoted)]
    names = [f"{effect.check} {effect.words}" for effect in promoted if effect]
    assert names
    assert f"Promoted before it is seen: {', '.join(names)} (onInconclusive: Proceed" in " ".join(
        said.split()
    )
    assert "none of these is promoted" not in said
    given_up = text(4, onInconclusive="RollBack")
    assert "not seen: rolled back undecided after 5 min" in given_up
    assert "and is rolled back undecided after 5 min" in given_up


def test_a_fault_that_no_required_check_looks_at_is_said_to_get_through() -> None:
    checks = planning.builtin()["checks"]
    policy = policies.policy(spec(checks=[each | {"required": each["type"] != "Latency"} for each in checks]))
    found = foresight.foreseen(policy, rps=40, stable_pods=9, canary_pods=2)
    said = " ".join(" ".join(foretold.told(policy, found, stable_pods=9, canary_pods=2)).split())
    assert "Promoted before it is seen: latency-p95 x1.3 (no required check looks at it)" in said


def test_a_canary_held_for_want_of_requests_is_told_with_what_to_change() -> None:
    policy, pods = policies.policy(spec()), {"stable_pods": 9, "canary_pods": 2}
    found = foresight.foreseen(policy, rps=4, **pods)
    longer = foresight.patient(policy, found, rps=4, **pods)
    assert longer is not None
    said = " ".join(" ".join(foretold.told(policy, found, **pods, longer=longer)).split())
    assert "it is still held at 10 % after 10 min. That is as far as this looks: stepTimeout of all" in said
    assert "steps, 2 times 5 min. Held until then it would pass 10 % after" in said
    ((hours, minutes),) = re.findall(r"stepTimeout: (?:(\d+)h|(\d+)m); to be quicker, larger steps", said)
    enough = policies.policy(spec(stepTimeout=f"{hours}h" if hours else f"{minutes}m"))
    assert foresight.foreseen(enough, rps=4, **pods)[0].promoted < np.inf
    assert foresight.patient(enough, foresight.foreseen(enough, rps=4, **pods), rps=4, **pods) is None


def test_a_second_without_a_request_of_the_canary_s_is_no_silence_of_a_pass() -> None:
    """At a request each half minute nothing ever passed: what was judged was the second without one."""
    assert at(1, stepTimeout="4h")[""].promoted < np.inf


def test_of_a_plan_with_one_step_its_time_is_not_multiplied() -> None:
    """It said "stepTimeout of all steps, 1 times 10 min"."""
    policy = policies.policy(spec(steps=[5]))
    found = foresight.foreseen(policy, rps=2, stable_pods=9, canary_pods=2)
    said = " ".join(foretold.told(policy, found, stable_pods=9, canary_pods=2))
    assert "as far as this looks: stepTimeout of the step, 5 min." in said


def test_of_what_a_prometheus_is_asked_for_is_said_that_it_is_later() -> None:
    """It said "rolled back after 3 s" of a check whose figures come every 15 s."""
    checks = [dict(each) for each in planning.builtin()["checks"]]
    assert list(foretold.queried(policies.policy(spec()))) == []
    checks[1]["source"] = {"prometheus": {}}
    (line,) = foretold.queried(policies.policy(spec(checks=checks)))
    assert "a Prometheus, as errors asks, shows a fault about one of its scrape intervals later" in line
    checks[0]["source"] = {"prometheus": {}}
    policy = policies.policy(spec(checks=checks))
    found = foresight.foreseen(policy, rps=200, stable_pods=9, canary_pods=2)
    said = " ".join(foretold.told(policy, found, stable_pods=9, canary_pods=2))
    assert "as latency-p95, errors ask" in " ".join(said.split())


def test_where_no_time_is_enough_that_is_said() -> None:
    policy = policies.policy(spec())
    found = foresight.foreseen(policy, rps=0.001, stable_pods=9, canary_pods=2)
    assert "Not even a stepTimeout of" in " ".join(foretold.told(policy, found, stable_pods=9, canary_pods=2))


def test_one_canary_pod_is_warned_of() -> None:
    assert "WARNING: one canary pod cannot be told from its node" in text(400, 1)
    assert "WARNING" not in text(400)


def test_the_terms_of_the_figures_are_said() -> None:
    said = text(400)
    assert "for 9 stable and 2 canary pods (--stable-pods, --canary-pods)" in said
    assert "about half of such are found by then" in said
    assert "first 30 s (warmUp)" in said
    assert max(map(len, said.splitlines())) <= 110


@pytest.mark.parametrize("rps", [0.001, 1e9])
def test_the_least_and_the_most_traffic_are_worked_out_as_well(rps: float) -> None:
    found = at(rps)
    assert np.isfinite(found["x5"].seen) == (rps > 1)


def test_a_check_with_a_margin_beyond_every_effect_is_named() -> None:
    checks = [{"name": "slow", "type": "Latency", "quantile": 0.95, "maxIncrease": "900%", "required": True}]
    policy = policies.policy(spec(checks=checks))
    lines = foretold.told(policy, worked_out(400), stable_pods=9, canary_pods=2)
    assert "slow                   not worked out: nothing that is usual lies beyond its margin" in lines


def test_a_share_that_falls_is_seen_too() -> None:
    clicks = {"name": "clicks", "type": "Proportion", "direction": "decrease", "maxDecrease": "15%"}
    policy = policies.policy(spec(checks=[clicks | {"required": True}]))
    like, *fallen = foresight.foreseen(policy, rps=400, stable_pods=9, canary_pods=2)
    assert like.promoted < np.inf
    assert fallen[1].seen < fallen[0].seen < np.inf
