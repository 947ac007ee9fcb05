"""The checklist before a run's first weight: Warn tells and goes on, Enforce holds, Off says nothing."""

from dataclasses import replace
from typing import Any

import pytest
from test_machine import NOW, a_run, minutes, sight, stepping, told, weights

from analysis.judge import Verdict
from controller.admission import due
from controller.machine import advance
from controller.model import Alert, Commands, Preflight, Reason, Run, Stage, Tell

FAILS = "preflight: 1 item of the checklist failed: floor: too few"
BEFORE = sight(Verdict.NO_DATA, weight=0, preflight=FAILS)  # pods are ready, no traffic yet


def a_run_that(what: Preflight, *on: str) -> Run:
    alert = Alert(kind="webhook", url="https://ops.example", on=on)
    return a_run(policy={"preflight": what, "alerts": (alert,)})


def test_warn_tells_people_once_and_the_run_goes_on() -> None:
    run, actions = advance(a_run_that(Preflight.WARN, "Warned"), BEFORE, NOW)
    assert (run.stage, weights(actions)) == (Stage.STEPPING, [5])
    assert told(actions) == [Reason.PREFLIGHT_FAILED, Reason.WEIGHT_RAISED]
    (message,) = run.outbox
    assert (message.outcome, message.reason) == ("Warned", Reason.PREFLIGHT_FAILED)
    assert message.sentence.startswith(FAILS)
    assert "kubectl serin preflight model-canary -n shop" in message.sentence


def test_warn_tells_once_also_where_the_run_waits_for_something_else() -> None:
    frozen_later = replace(BEFORE, canary=replace(BEFORE.canary, rolled_out=False))
    run, actions = advance(a_run_that(Preflight.WARN), frozen_later, NOW)
    assert (told(actions), run.stage) == ([Reason.PREFLIGHT_FAILED], Stage.WAITING)
    run, actions = advance(run, frozen_later, NOW + minutes(1))
    assert told(actions) == []


def test_warn_does_not_wait_for_pages_that_do_not_come() -> None:
    _, actions = advance(a_run_that(Preflight.WARN), replace(BEFORE, preflight=None), NOW)
    assert weights(actions) == [5]


def test_enforce_holds_before_the_first_weight_and_goes_on_by_itself_once_it_is_mended() -> None:
    held, actions = advance(a_run_that(Preflight.ENFORCE, "Held"), BEFORE, NOW)
    assert (held.stage, held.hold, weights(actions)) == (Stage.WAITING, Reason.PREFLIGHT_FAILED, [])
    assert [message.outcome for message in held.outbox] == ["Held"]
    held, actions = advance(held, BEFORE, NOW + minutes(1))
    assert (held.hold, told(actions)) == (Reason.PREFLIGHT_FAILED, [])
    run, actions = advance(held, replace(BEFORE, preflight=""), NOW + minutes(2))
    assert (run.stage, run.hold, weights(actions)) == (Stage.STEPPING, None, [5])


def test_enforce_does_not_take_silence_for_a_pass() -> None:
    run, actions = advance(a_run_that(Preflight.ENFORCE), replace(BEFORE, preflight=None), NOW)
    assert (run.stage, weights(actions)) == (Stage.WAITING, [])


def test_an_approval_lets_a_run_in_as_it_is_and_one_from_before_does_not() -> None:
    asking = a_run_that(Preflight.ENFORCE)
    early, _ = advance(asking, replace(BEFORE, commands=Commands(approvals=1)), NOW)
    assert early.hold is Reason.PREFLIGHT_FAILED
    early, actions = advance(early, replace(BEFORE, commands=Commands(approvals=1)), NOW)
    assert (early.hold, weights(actions)) == (Reason.PREFLIGHT_FAILED, [])
    run, actions = advance(early, replace(BEFORE, commands=Commands(approvals=2)), NOW)
    assert (run.approved, run.admitted, weights(actions)) == (2, True, [5])


def test_off_and_a_run_that_has_had_traffic_are_not_asked() -> None:
    run, actions = advance(a_run_that(Preflight.OFF), BEFORE, NOW)
    assert (told(actions), weights(actions)) == ([Reason.WEIGHT_RAISED], [5])
    began = replace(stepping(), plan=a_run_that(Preflight.ENFORCE).plan)
    assert not due(began, BEFORE)
    interrupted = replace(began, stage=Stage.WAITING, weights=run.weights)
    assert not due(interrupted, BEFORE)


@pytest.mark.parametrize("preflight", Preflight)
def test_a_failed_check_takes_traffic_away_whatever_the_checklist_says(preflight: Preflight) -> None:
    run = replace(stepping(), plan=a_run_that(preflight).plan)
    seen = sight(Verdict.FAIL, preflight=FAILS)
    seen = replace(seen, judgement=replace(seen.judgement, failed="errors"))
    after, actions = advance(run, seen, NOW)
    assert (after.reason, weights(actions)) == (Reason.CHECK_FAILED, [0])


def test_a_changed_policy_supersedes_a_run_that_the_checklist_holds_and_no_other() -> None:
    changed = replace(BEFORE, replanned=True)
    held, _ = advance(a_run_that(Preflight.ENFORCE), changed, NOW)
    assert held.hold is Reason.PREFLIGHT_FAILED
    after, _ = advance(held, changed, NOW)
    assert (after.stage, after.reason) == (Stage.ENDED, Reason.SUPERSEDED)
    going, _ = advance(stepping(), replace(sight(), replanned=True), NOW)
    assert going.stage is Stage.STEPPING


def following(run: Run) -> Run:
    return replace(run, plan=replace(run.plan, policy_name="", follows=True))


def test_a_run_that_follows_its_policy_is_planned_anew_until_it_has_had_traffic() -> None:
    """A one-shot apply sends the policy last; the run went by the built-in one, and nothing said so."""
    changed = replace(BEFORE, replanned=True)
    after, actions = advance(following(a_run_that(Preflight.OFF)), changed, NOW)
    assert (after.stage, after.reason, weights(actions)) == (Stage.ENDED, Reason.SUPERSEDED, [0])
    assert "the built-in one" in after.message
    kept, actions = advance(a_run_that(Preflight.OFF), changed, NOW)  # a drill's, a retry's
    assert (kept.stage, weights(actions)) == (Stage.STEPPING, [5])
    going, _ = advance(following(stepping()), replace(sight(), replanned=True), NOW)
    assert going.stage is Stage.STEPPING
    interrupted = following(replace(stepping(), stage=Stage.WAITING, weights=kept.weights))
    assert advance(interrupted, changed, NOW)[0].stage is not Stage.ENDED


@pytest.mark.parametrize("asked", [{"paused": True}, {"promote": "ann"}])
def test_what_people_asked_of_a_run_is_not_lost_to_a_new_policy(asked: dict[str, Any]) -> None:
    changed = replace(BEFORE, replanned=True, commands=Commands(**asked))
    after, _ = advance(following(a_run_that(Preflight.OFF)), changed, NOW)
    assert after.reason is not Reason.SUPERSEDED


def test_the_first_weight_says_so_if_the_built_in_policy_gave_it() -> None:
    asking = following(a_run_that(Preflight.OFF))
    _, actions = advance(asking, BEFORE, NOW)
    (first,) = [a.message for a in actions if isinstance(a, Tell)]
    assert first.endswith("; by the built-in policy, for there is no CanaryPolicy/default")
    named = replace(asking, plan=replace(asking.plan, policy_name="default"))
    _, actions = advance(named, BEFORE, NOW)
    assert "policy" not in str([a.message for a in actions if isinstance(a, Tell)])
