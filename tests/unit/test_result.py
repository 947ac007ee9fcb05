"""What came of a story: measured from the moment that counts, held against what was expected."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scenarios.plot import Ending, Outcome, Story
from scenarios.result import Played, Requests, ended, result, said_by, sure, unmet, waits_for, wanted
from scenarios.story import loads

STORY = """
apiVersion: serin.dev/v1alpha1
kind: Scenario
metadata: {name: x}
spec:
  duration: 120s
  traffic: {requestsPerSecond: 100}
  stable: {replicas: 3, latency: {distribution: lognormal, median: 20ms, p95: 60ms}}
  faults: [{at: 20s, arm: canary, errorRate: 20%}, {at: 90s, target: metrics, kind: outage}]
  policy: {checks: [{name: errors, type: ErrorRate, plus: 0.1%}]}
  expect: {outcome: RolledBack, within: 6s, check: errors, reason: CheckFailed}
"""
ROLLED_BACK = Played(
    outcome=Outcome.ROLLED_BACK,
    reason="CheckFailed",
    check="errors",
    verdict=24.0,
    first_routed=2.5,
    last_routed=25.0,
    last_attempt=25.5,
    weights=((0.0, 0), (2.3, 10), (25.1, 0)),
    requests=Requests(stable=2000, canary=200, failed=0),
    evidence={"logE": 5.0},
)


def story(**changes: object) -> Story:
    return replace(loads(STORY, file="x.yaml"), **changes)


def test_seconds_count_from_the_last_fault_of_an_arm() -> None:
    found = result(story(), ROLLED_BACK, mode="virtual")
    assert found.ok
    assert found.seconds_to_verdict == 4.0
    assert found.seconds_to_weight_zero == 5.0
    assert found.last_attempt == 5.5


def test_a_fault_that_came_after_the_verdict_was_not_what_it_was_about() -> None:
    """It said that a fault had been found in no time at all."""
    second = "{at: 20s, arm: canary, errorRate: 20%}, {at: 60s, arm: canary, latencyFactor: 2}"
    twice = loads(STORY.replace("{at: 20s, arm: canary, errorRate: 20%}", second), file="x.yaml")
    found = result(twice, ROLLED_BACK, mode="virtual")
    assert (found.seconds_to_verdict, found.seconds_to_weight_zero, found.ok) == (4.0, 5.0, True)


def test_seconds_count_from_the_first_canary_request_where_that_is_later() -> None:
    found = result(story(), replace(ROLLED_BACK, first_routed=21.0), mode="live")
    assert found.seconds_to_weight_zero == 4.0


def test_a_run_that_ends_before_its_fault_took_no_time() -> None:
    assert result(story(), replace(ROLLED_BACK, last_routed=10.0), mode="live").seconds_to_weight_zero == 0.0


@pytest.mark.parametrize(
    "played",
    [
        replace(ROLLED_BACK, last_routed=26.1),
        replace(ROLLED_BACK, check="latency-p95"),
        replace(ROLLED_BACK, reason="Aborted"),
        replace(ROLLED_BACK, outcome=Outcome.HELD),
    ],
)
def test_too_late_or_for_another_reason_is_not_as_expected(played: Played) -> None:
    assert not result(story(), played, mode="virtual").ok


@pytest.mark.parametrize(("said", "ok"), [("tail", True), ("tail-p99", True), ("tail-p90", False)])
def test_a_check_of_several_quantiles_is_meant_by_its_name_and_by_that_of_the_one_that_failed(
    said: str, *, ok: bool
) -> None:
    """Neither could come true: `tail` was not `tail-p99`, and of that the policy was said to have none."""
    tail = "{name: tail, type: Latency, quantiles: [0.9, 0.99], maxIncrease: 25%}"
    text = STORY.replace("{name: errors, type: ErrorRate, plus: 0.1%}", tail)
    one = loads(text.replace("check: errors", f"check: {said}"), file="x.yaml")
    assert result(one, replace(ROLLED_BACK, check="tail-p99"), mode="virtual").ok is ok


def test_any_of_several_endings_will_do() -> None:
    endings = (Ending(outcome=Outcome.PROMOTED), Ending(outcome=Outcome.ROLLED_BACK))
    assert result(story(expect=endings), ROLLED_BACK, mode="virtual").ok
    assert wanted(endings) == "Promoted or RolledBack"


def test_a_held_run_has_no_time_to_weight_zero() -> None:
    held = result(story(), replace(ROLLED_BACK, outcome=Outcome.HELD, reason="NoData"), mode="virtual")
    assert held.seconds_to_weight_zero is None
    assert held.last_attempt is None
    assert held.seconds_to_verdict == 4.0


def test_an_expectation_reads_as_a_sentence() -> None:
    assert wanted(story().expect) == "RolledBack by errors (CheckFailed) within 6 s"


def test_the_json_has_the_keys_of_the_file_and_plain_values() -> None:
    said = json.loads(json.dumps(dict(result(story(), ROLLED_BACK, mode="virtual").as_json())))
    assert said == {
        "name": "x",
        "ok": True,
        "mode": "virtual",
        "outcome": "RolledBack",
        "reason": "CheckFailed",
        "check": "errors",
        "secondsToVerdict": 4.0,
        "secondsToWeightZero": 5.0,
        "lastAttempt": 5.5,
        "weights": [[0.0, 0], [2.3, 10], [25.1, 0]],
        "requests": {"stable": 2000, "canary": 200, "failed": 0},
        "evidence": {"logE": 5.0},
    }


def test_a_run_tells_how_it_ended() -> None:
    status = {
        "phase": "Failed",
        "reason": "CheckFailed",
        "state": {"check": "errors"},
        "logE": 5.0,
        "outbox": [],
    }
    run = {"status": status}
    assert ended(run)
    evidence = {"phase": "Failed", "logE": 5.0}
    assert said_by(run, None) == (Outcome.ROLLED_BACK, "CheckFailed", "errors", evidence)


def test_a_run_that_is_not_over_is_held_for_what_holds_it() -> None:
    run = {"status": {"phase": "Paused", "state": {"hold": "NoData"}}}
    assert not ended(run)
    assert said_by(run, None)[:2] == (Outcome.HELD, "NoData")
    assert said_by({"metadata": {}}, None)[:2] == (Outcome.HELD, None)


def test_without_a_run_the_refusal_is_the_reason() -> None:
    assert said_by(None, "Refused") == (Outcome.HELD, "Refused", None, {})


def test_a_step_that_takes_longer_than_its_least_says_which_checks_are_open() -> None:
    """A story stayed at 10 % for three minutes, and its lines did not say why."""
    checks = [
        {"name": "latency-p95", "type": "Latency", "maxIncrease": "20%"},
        {"name": "errors", "type": "ErrorRate", "maxIncrease": "50%", "plus": "0.1%"},
        {"name": "clicks", "type": "Proportion", "maxDecrease": "15%", "required": False},
    ]
    verdicts = zip(checks, ("Inconclusive", "Pass", "Inconclusive"), strict=True)
    run: dict[str, Any] = {
        "spec": {"plan": {"policy": {"minStep": "60s", "checks": checks}}},
        "status": {
            "phase": "Progressing",
            "weight": 10,
            "state": {"step": 0, "stepSince": "2026-01-01T00:00:00Z"},
            "checks": [{"name": check["name"], "verdict": said} for check, said in verdicts],
        },
    }
    began = datetime(2026, 1, 1, tzinfo=UTC)
    assert waits_for(run, now=began + timedelta(seconds=89)) is None
    late = began + timedelta(seconds=90)
    assert waits_for(run, now=late) == "still at 10 %: waits for latency-p95 (Inconclusive)"
    assert waits_for({"spec": {"plan": {}}}, now=late) is None
    run["status"]["checks"][0]["verdict"] = "Pass"
    assert waits_for(run, now=late) is None


def test_a_rollback_by_the_evidence_says_how_sure_it_is() -> None:
    """It was only in the JSON, as a logarithm, or in what `serin explain` says of a live story."""
    found = result(story(), ROLLED_BACK, mode="virtual")
    assert list(sure(found, alpha=0.01)) == [
        "148 to 1 against a version within its margins; 100 to 1 rolls back"
    ]
    assert list(sure(replace(found, reason="CanaryNotAnswering"), alpha=0.01)) == []
    assert list(sure(replace(found, evidence={"logE": 0.0}), alpha=0.01)) == []


def missed(played: Played, **changes: object) -> list[str]:
    one = story(**changes)
    return [line for line in unmet(result(one, played, mode="virtual"), one) if line.startswith("expect")]


@pytest.mark.parametrize(
    ("played", "said"),
    [
        (
            replace(ROLLED_BACK, last_routed=26.15),
            ["within: wanted at most 6 s, got 6.15 s, until the last request was routed to the canary"],
        ),
        (replace(ROLLED_BACK, check="latency-p95"), ["check: wanted errors, got latency-p95"]),
        (
            replace(ROLLED_BACK, reason="Aborted", check=None),
            ["check: wanted errors, got none", "reason: wanted CheckFailed, got Aborted"],
        ),
        (replace(ROLLED_BACK, outcome=Outcome.PROMOTED), ["outcome: wanted RolledBack, got Promoted"]),
        (ROLLED_BACK, []),
    ],
)
def test_a_story_that_is_not_met_names_the_part_that_was_missed(played: Played, said: list[str]) -> None:
    """It said how the run had stood, and left who read it to find the 6 s among the columns."""
    assert missed(played) == [f"expect.{each}" for each in said]


def test_of_several_endings_each_says_what_was_missed() -> None:
    endings = (
        Ending(outcome=Outcome.PROMOTED),
        Ending(outcome=Outcome.ROLLED_BACK, within=timedelta(seconds=2)),
    )
    assert [line.split(",")[0] for line in missed(ROLLED_BACK, expect=endings)] == [
        "expect.oneOf[0].outcome: wanted Promoted",
        "expect.oneOf[1].within: wanted at most 2 s",
    ]


QUICKER = "give more requestsPerSecond, larger steps or a smaller minRequests"


@pytest.mark.parametrize(
    ("rate", "policy", "advice"),
    [
        (
            1.0,
            {"steps": [5, 10, 25, 50]},
            f"its steps take at least 3 h, waiting for requests: {QUICKER}; no longer duration is sensible",
        ),
        (
            5.0,
            {"steps": [10, 50]},
            f"its steps take at least 12 min, waiting for requests: {QUICKER}, or a longer duration",
        ),
        (
            100.0,
            {"steps": [10, 50], "minStep": "90s"},
            "its steps take at least 3 min: give a longer duration",
        ),
        (
            100.0,
            {"steps": [50]},
            "beside a margin neither need suffice, and `serin plan` says how long which fault takes",
        ),
        (0.0, {"steps": [50]}, "no longer duration is sensible"),
    ],
)
def test_a_story_whose_time_was_up_says_what_helps(rate: float, policy: Any, advice: str) -> None:
    """At a request a second it asked for a longer duration, whatever that had been."""
    one = story(requests_per_second=rate, policy=policy)
    going = replace(ROLLED_BACK, outcome=Outcome.HELD, evidence={"phase": "Progressing"})
    said = next(line for line in unmet(result(one, going, mode="virtual"), one) if "its duration" in line)
    assert said.endswith(advice)
