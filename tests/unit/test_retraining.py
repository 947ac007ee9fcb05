"""Inputs that differ from the training: what is understood, what waits for it, who is told and how often."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from test_machine import NOW, a_run, sight, stepping, told, weights

from analysis.judge import Verdict
from controller import letters, retraining
from controller.hearing import LoadSeen
from controller.machine import advance
from controller.model import (
    Alert,
    Artifacts,
    Commands,
    Drifted,
    Inputs,
    OnDoubt,
    Reason,
    Run,
    Stage,
)

Json = Any
AGE = Drifted(name="age", by="psi", value=0.4)
DRIFT = Inputs(features=64, requests=1_500, count=1, drifted=(AGE,))
FINE = Inputs(features=64, requests=2_000, count=0)
BEFORE = sight(Verdict.NO_DATA, weight=0)  # pods are ready, no traffic yet
PASSED = sight(Verdict.PASS, load=LoadSeen(step_canary_requests=10_000))
FAILED = sight(Verdict.FAIL)
FAILED = replace(FAILED, judgement=replace(FAILED.judgement, failed="errors"))
LATER = NOW + timedelta(minutes=5)
SAID = {
    "features": 64,
    "requests": 1_500,
    "count": 1,
    "drifted": [{"name": "age", "by": "psi", "value": 0.4}],
}


def alerted(run: Run, *on: str) -> Run:
    alert = Alert(kind="webhook", url="https://train.example", on=on)
    policy = replace(run.plan.policy, alerts=(alert,))
    artifacts = Artifacts(stable="a", canary="file:///b", baseline="file:///b.json")
    return replace(run, plan=replace(run.plan, policy=policy, artifacts=artifacts))


# -- what the worker says


def test_what_the_worker_says_is_understood() -> None:
    assert retraining.understood(SAID) == DRIFT
    assert retraining.understood(SAID | {"count": 0, "drifted": [], "requests": 2_000}) == FINE


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "drift",
        {},
        {"trouble": "no such file"},
        SAID | {"requests": 0},
        SAID | {"drifted": [{"name": 3}]},
        SAID | {"drifted": "age"},
        SAID | {"count": "many"},
        SAID | {"features": 10**30},
        SAID | {"count": -1},
    ],
)
def test_what_cannot_be_understood_is_nothing_and_breaks_nothing(said: Json) -> None:
    assert retraining.understood(said) is None


def test_what_anybody_may_have_named_is_cut_and_counted() -> None:
    odd = [{"name": "n" * 500, "by": "psi", "value": 1.0}, {"name": "a\nb", "by": "psi", "value": 1.0}]
    many = [{"name": f"f{i}", "by": "psi", "value": 1.0} for i in range(50)]
    found = retraining.understood(SAID | {"drifted": [*odd, *many], "count": 52})
    assert found is not None
    assert (found.count, len(found.drifted), len(found.drifted[0].name)) == (52, 19, 100)


def test_a_sentence_names_three_and_counts_the_rest() -> None:
    several = tuple(replace(AGE, name=name) for name in "abcde")
    said = retraining.sentence(replace(DRIFT, count=5, drifted=several))
    assert said.startswith(
        "inputs differ from training: 5 of 64 features (a, b, c and 2 more) in 1500 requests"
    )


# -- what waits for it


def test_no_traffic_for_a_canary_whose_inputs_differ_from_its_training() -> None:
    run, actions = advance(a_run(), replace(BEFORE, inputs=DRIFT), NOW)
    assert (run.stage, run.hold, weights(actions)) == (Stage.WAITING, Reason.INPUTS_DRIFTED, [])
    assert run.message.startswith("inputs differ from training: 1 of 64 features (age)")
    assert told(actions) == [Reason.INPUTS_DRIFTED, Reason.RETRAINING_WANTED]


def test_a_step_that_has_passed_is_not_raised() -> None:
    run, actions = advance(stepping(), replace(PASSED, inputs=DRIFT), LATER)
    assert (run.stage, run.step, run.hold, weights(actions)) == (Stage.STEPPING, 0, Reason.INPUTS_DRIFTED, [])


def test_an_approval_is_used_up_and_the_run_goes_on_whatever_the_inputs_are() -> None:
    held, _ = advance(a_run(), replace(BEFORE, inputs=DRIFT), NOW)
    seen = replace(BEFORE, inputs=DRIFT, commands=Commands(approvals=1))
    run, actions = advance(held, seen, NOW)
    assert (run.stage, weights(actions), run.approved, run.drift_approved) == (Stage.STEPPING, [5], 1, True)
    there = replace(PASSED, inputs=DRIFT, commands=Commands(approvals=1))
    run, _ = advance(run, there, NOW)  # its weight is seen, and the step begins
    later, actions = advance(run, there, LATER)
    assert (later.step, later.hold) == (1, None)


def test_an_approval_from_before_is_none_of_the_drift() -> None:
    run = replace(a_run(), approved=1)
    after, _ = advance(run, replace(BEFORE, inputs=DRIFT, commands=Commands(approvals=1)), NOW)
    assert after.hold is Reason.INPUTS_DRIFTED


def test_one_approval_settles_doubt_and_drift() -> None:
    doubted = replace(stepping(), hold=Reason.INCONCLUSIVE)
    seen = replace(sight(Verdict.INCONCLUSIVE), inputs=DRIFT, commands=Commands(approvals=1))
    run, _ = advance(doubted, seen, NOW)
    assert (run.step, run.drift_approved) == (1, True)


def test_when_the_inputs_are_as_they_were_it_goes_on_by_itself() -> None:
    held, _ = advance(a_run(), replace(BEFORE, inputs=DRIFT), NOW)
    run, actions = advance(held, replace(BEFORE, inputs=FINE), NOW)
    assert (run.inputs, run.hold, weights(actions)) == (None, None, [5])


def test_silence_changes_nothing_of_what_is_known() -> None:
    held, _ = advance(a_run(), replace(BEFORE, inputs=DRIFT), NOW)
    run, actions = advance(held, BEFORE, NOW)
    assert (run.inputs, run.hold, weights(actions)) == (DRIFT, Reason.INPUTS_DRIFTED, [])


def test_the_run_does_not_change_with_every_figure() -> None:
    held, _ = advance(a_run(), replace(BEFORE, inputs=DRIFT), NOW)
    moved = replace(DRIFT, requests=9_000, drifted=(replace(AGE, value=0.5),))
    assert advance(held, replace(BEFORE, inputs=moved), NOW)[0] == held


def test_a_failed_check_takes_the_traffic_away_as_without() -> None:
    with_, without = (advance(stepping(), replace(FAILED, inputs=inputs), NOW) for inputs in (DRIFT, None))
    assert with_[1] == without[1]
    assert (with_[0].stage, with_[0].reason) == (Stage.ENDED, Reason.CHECK_FAILED)


def test_a_person_may_promote_in_spite_of_it() -> None:
    seen = replace(PASSED, inputs=DRIFT, commands=Commands(promote="trained on it already"))
    assert advance(stepping(), seen, NOW)[0].stage is Stage.PROMOTING


def test_a_policy_that_proceeds_when_in_doubt_does_not_when_inputs_have_drifted() -> None:
    run = stepping()
    policy = replace(run.plan.policy, on_inconclusive=OnDoubt.PROCEED)
    run = replace(run, plan=replace(run.plan, policy=policy))
    unsure = replace(PASSED, judgement=sight(Verdict.INCONCLUSIVE).judgement, inputs=DRIFT)
    after, _ = advance(run, unsure, NOW + timedelta(hours=1))
    assert (after.step, after.hold) == (0, Reason.INPUTS_DRIFTED)


# -- who is told


def test_whoever_trains_is_told_once_with_what_has_drifted() -> None:
    run, _ = advance(alerted(a_run(), "Drifted"), replace(BEFORE, inputs=DRIFT), NOW)
    (message,) = run.outbox
    assert message.id.rpartition("/")[0].endswith("/RetrainingWanted/0")
    again, _ = advance(run, replace(BEFORE, inputs=DRIFT), NOW + timedelta(hours=23))
    assert again.outbox == run.outbox
    event = json.loads(letters.cloud_event(run, message))
    assert (event["type"], event["data"]["reason"]) == ("dev.serin.run.drifted", "RetrainingWanted")
    assert event["data"]["inputs"] == {
        "baseline": "file:///b.json",
        "model": "file:///b",
        "features": 64,
        "requests": 1_500,
        "count": 1,
        "drifted": [{"name": "age", "by": "psi", "value": 0.4}],
    }


def test_who_did_not_ask_for_it_hears_of_the_hold_alone() -> None:
    run, _ = advance(alerted(a_run(), "Held"), replace(BEFORE, inputs=DRIFT), NOW)
    assert [message.reason for message in run.outbox] == [Reason.INPUTS_DRIFTED]


def test_in_slack_it_has_a_title() -> None:
    run, _ = advance(alerted(a_run(), "Drifted"), replace(BEFORE, inputs=DRIFT), NOW)
    assert b"Retraining wanted: " in letters.slack(run, run.outbox[0])


def test_the_next_run_of_the_canary_keeps_the_cool_down() -> None:
    asked = NOW - timedelta(hours=23)
    seen = replace(BEFORE, inputs=DRIFT, retraining_asked=asked)
    run, actions = advance(a_run(), seen, NOW)
    assert told(actions) == [Reason.INPUTS_DRIFTED]
    assert run.retraining_asked is None
    later, actions = advance(run, seen, asked + timedelta(hours=24))
    assert told(actions) == [Reason.RETRAINING_WANTED]
    assert later.retraining_asked == asked + timedelta(hours=24)


def test_when_it_was_asked_is_read_from_the_runs_and_nonsense_is_not() -> None:
    said = [None, 7, "yesterday", "2026-11-27T10:00:00", "2026-11-27T10:00:00Z", "2026-11-26T10:00:00Z"]
    runs = [{"status": {"state": {"retrainingAsked": each}}} for each in said]
    found = retraining.last_asked([{}, {"status": {}}, *runs])
    assert found is not None
    assert found.isoformat() == "2026-11-27T10:00:00+00:00"
    assert retraining.last_asked([]) is None


def test_an_ended_run_asks_for_nothing() -> None:
    ended, _ = advance(stepping(), FAILED, NOW)
    run, actions = advance(ended, replace(FAILED, inputs=DRIFT), NOW)
    assert (run.inputs, told(actions)) == (None, [])
