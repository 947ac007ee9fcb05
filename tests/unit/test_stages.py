"""What a run does at each of its stages while there is no reason to leave: waits, holds, goes on."""

from dataclasses import replace
from typing import Any

import pytest
from test_machine import (
    NOW,
    RAISED_FROM,
    a_run,
    advance,
    arm,
    minutes,
    promoting,
    seconds,
    service,
    sight,
    stepping,
    told,
    weights,
)
from test_shadow import BEFORE, OPEN, PASSED, WAITING, looking

from analysis.judge import Verdict
from controller.hearing import LoadSeen
from controller.model import (
    Before,
    BeginStep,
    Commands,
    CopyTemplate,
    Drifted,
    Gate,
    Inputs,
    OnDoubt,
    PromotionMode,
    Reason,
    RouteSeen,
    Run,
    Scale,
    Seen,
    SetWeight,
    Sizing,
    Stage,
    Tell,
)

SOON = NOW + minutes(1)
NOBODY_YET = arm("new", 0, wanted=3)


def passing(**changes: Any) -> Seen:
    return sight(Verdict.PASS, load=LoadSeen(step_canary_requests=10_000), **changes)


# -- waiting


def test_pods_that_never_come_are_waited_for_as_long_as_the_deadline_says() -> None:
    run = a_run()
    for minute in (0, 7, 15):
        run, actions = advance(run, sight(weight=0, canary=NOBODY_YET), NOW + minutes(minute))
        assert (run.stage, weights(actions)) == (Stage.WAITING, [])
    run, _ = advance(run, sight(weight=0, canary=NOBODY_YET), NOW + minutes(15.1))
    assert run.reason is Reason.CANARY_UNAVAILABLE


def test_the_deadline_begins_when_one_of_the_pods_is_lost_that_were_all_there() -> None:
    run, paused = a_run(), Commands(paused=True)
    for minute in (0, 30, 60):
        run, _ = advance(run, sight(weight=0, commands=paused), NOW + minutes(minute))
    few = sight(weight=0, commands=paused, canary=arm("new", 2, wanted=3))
    run, _ = advance(run, few, NOW + minutes(75))
    assert run.stage is Stage.WAITING
    run, _ = advance(run, few, NOW + minutes(75.1))
    assert run.reason is Reason.CANARY_UNAVAILABLE


@pytest.mark.parametrize(
    ("seen", "hold"),
    [
        ({"commands": Commands(paused=True)}, Reason.PAUSED),
        ({"commands": Commands(frozen=True)}, Reason.FROZEN),
        ({"commands": Commands(frozen=True, paused=True)}, Reason.FROZEN),
        ({"route": RouteSeen(weight=0, refusal="a third destination")}, Reason.REFUSED),
        ({"commands": Commands(frozen=True, promote="now")}, Reason.FROZEN),
        ({"commands": Commands(paused=True, promote="now")}, Reason.PAUSED),
    ],
)
@pytest.mark.parametrize("run", [a_run(), stepping(passed=True), promoting(passed=True)])
def test_what_stops_a_run_stops_it_at_each_stage(run: Run, seen: dict[str, Any], hold: Reason) -> None:
    route = seen.get("route", RouteSeen(weight=run.weight))
    route = replace(route, weight=run.weight)
    after, actions = advance(run, passing(**{**seen, "route": route}), SOON)
    assert (after.stage, after.hold, after.copied, weights(actions)) == (run.stage, hold, False, [])
    assert CopyTemplate() not in actions
    _, actions = advance(after, passing(**{**seen, "route": route}), SOON + seconds(1))
    assert told(actions) == []  # once is enough


def test_of_pods_that_are_not_up_yet_nobody_says_that_they_cannot_be_read() -> None:
    seen = sight(weight=0, canary=NOBODY_YET, canary_read=False, trouble="pod a: connection refused")
    run, actions = advance(a_run(), seen, SOON)
    assert (run.hold, told(actions)) == (None, [])


def test_a_pause_that_is_over_is_not_shown_any_more_while_pages_or_a_replay_are_waited_for() -> None:
    paused = Commands(paused=True)
    unread = sight(weight=0, canary_read=False)
    run, _ = advance(a_run(), replace(unread, commands=paused), NOW)
    assert run.hold is Reason.PAUSED
    assert advance(run, unread, SOON)[0].hold is None
    run, _ = advance(WAITING, replace(looking(OPEN, WAITING, BEFORE), commands=paused), NOW)
    assert advance(run, looking(OPEN, run, BEFORE), SOON)[0].hold is None


def test_an_approval_that_is_used_up_lets_nothing_begin_without_the_replay_and_a_new_one_does() -> None:
    run, _ = advance(WAITING, looking(None, WAITING, BEFORE, silent=301), NOW)
    assert run.hold is Reason.NO_DATA
    run = replace(run, approved=1)
    used = replace(looking(OPEN, run, BEFORE), commands=Commands(approvals=1))
    run, actions = advance(run, used, SOON)
    assert (run.hold, weights(actions)) == (Reason.NO_DATA, [])  # who is asked can still approve
    _, actions = advance(run, replace(used, commands=Commands(approvals=2)), SOON)
    assert weights(actions) == [5]


def test_a_run_that_had_no_traffic_leaves_weights_alone_that_may_be_another_run_s() -> None:
    replaying = looking(OPEN, WAITING, replace(BEFORE, route=RouteSeen(weight=30)))
    for waiting, seen in ((WAITING, replaying), (a_run(), sight(weight=30, canary=NOBODY_YET))):
        run, actions = advance(waiting, seen, SOON)
        assert (run.stage, run.weight, weights(actions)) == (Stage.WAITING, 0, [])


def test_a_new_leader_looks_before_it_gives_traffic_back_to_a_run_that_is_to_be_promoted_by_hand() -> None:
    """It was evicted, and may have failed while nobody led; that somebody promotes it says nothing of it."""
    waiting = a_run(weight_since=NOW, data_since=NOW)
    seen = passing(route=RouteSeen(weight=0), looked=False, commands=Commands(promote="now"))
    assert weights(advance(waiting, seen, SOON)[1]) == []
    assert weights(advance(waiting, replace(seen, looked=True), SOON)[1]) == [5]


# -- at a step


def test_silence_is_counted_from_the_last_time_that_anything_was_known() -> None:
    run = stepping(policy={"on_no_data": OnDoubt.ROLL_BACK})
    run, _ = advance(run, sight(), NOW + minutes(8))
    for minute in (9, 13):
        run, _ = advance(run, sight(Verdict.NO_DATA), NOW + minutes(minute))
        assert (run.stage, run.hold) == (Stage.STEPPING, None)
    run, _ = advance(run, sight(Verdict.NO_DATA), NOW + minutes(13.1))
    assert run.reason is Reason.NO_DATA
    assert run.message.startswith("no check had data for 306 s: the pods' pages are read, but too few")


def test_a_promotion_that_was_paused_for_an_hour_is_not_rolled_back_for_a_moments_silence() -> None:
    run = promoting(passed=True, policy={"on_no_data": OnDoubt.ROLL_BACK})
    for minute in range(1, 60):
        run, _ = advance(run, passing(weight=50, commands=Commands(paused=True)), NOW + minutes(minute))
    run, actions = advance(run, sight(Verdict.NO_DATA, weight=50), NOW + minutes(60))
    assert (run.stage, run.hold, weights(actions)) == (Stage.PROMOTING, None, [])


def test_a_paused_run_does_not_grow_and_one_that_has_replicas_enough_is_not_asked_to() -> None:
    run = stepping(weight=50, step=1)
    grown = sight(weight=50, stable=arm("old", 6), commands=Commands(paused=True))
    assert advance(run, grown, SOON)[1] == (Tell(Reason.PAUSED, "paused: the weight stays, checks go on"),)
    unready = sight(weight=50, canary=arm("new", 1, wanted=3))
    after, actions = advance(run, unready, SOON)
    assert after.hold is Reason.CANARY_UNDER_PROVISIONED
    assert not any(isinstance(one, Scale) for one in actions)


@pytest.mark.parametrize("weight", [1, 5])
def test_no_weight_is_given_back_through_a_refused_virtual_service_or_before_a_leader_has_looked(
    weight: int,
) -> None:
    refused = sight(route=RouteSeen(weight=0, refusal="a third destination"))
    run, actions = advance(stepping(weight=weight), refused, SOON)
    assert (run.weight, run.hold, weights(actions)) == (weight, Reason.REFUSED, [])
    unseen = sight(weight=0, looked=False)
    assert weights(advance(stepping(weight=weight), unseen, SOON)[1]) == []
    assert weights(advance(stepping(weight=weight), replace(unseen, looked=True), SOON)[1]) == [weight]


@pytest.mark.parametrize(
    ("there", "said"),
    [(70, "model had 70 %; set to 5 %"), (None, "model had disagreeing weights; set to 5 %")],
)
@pytest.mark.parametrize(("after", "tells"), [(3, False), (3.1, True)])
def test_people_are_told_of_a_weight_that_others_changed_once_our_own_must_be_there(
    there: int | None, said: str, after: float, *, tells: bool
) -> None:
    run, actions = advance(stepping(told=("Inconclusive",)), sight(weight=there), NOW + seconds(after))
    assert weights(actions) == [5]
    assert [one.message for one in actions if isinstance(one, Tell)] == [said] * tells
    assert run.told == (("Inconclusive", "WeightRepaired") if tells else ("Inconclusive",))


def test_what_was_taken_to_zero_again_remembers_the_raise_that_it_came_from() -> None:
    """A raise may still be on its way: only what is raised is decided upon what is there now."""
    run = a_run(weight_since=NOW, raised_from=RAISED_FROM)
    after, actions = advance(run, sight(route=service(30, 7), canary=NOBODY_YET), SOON)
    assert (weights(actions), after.raised_from) == ([0], RAISED_FROM)


# -- promoting


def test_a_copy_that_cannot_be_made_is_tried_until_the_deadline_and_no_longer() -> None:
    """An admission webhook refuses it, each time."""
    run, old = promoting(passed=True), passing(weight=50)
    for minute in range(1, 16):
        run, actions = advance(run, old, NOW + minutes(minute))
        assert (run.copied, CopyTemplate() in actions) == (True, True)
    run, actions = advance(run, old, NOW + minutes(17))
    assert (run.reason, weights(actions)) == (Reason.PROMOTION_FAILED, [0])


def test_a_promotion_that_was_paused_for_longer_than_the_deadline_has_all_of_it_once_it_is_resumed() -> None:
    run, _ = advance(promoting(passed=True), passing(weight=50, commands=Commands(paused=True)), SOON)
    run, actions = advance(run, passing(weight=50), NOW + minutes(60))
    assert CopyTemplate() in actions
    run, _ = advance(run, passing(weight=50), NOW + minutes(75))
    assert run.stage is Stage.PROMOTING
    run, _ = advance(run, passing(weight=50), NOW + minutes(75.1))
    assert run.reason is Reason.PROMOTION_FAILED


def test_a_copy_that_was_begun_is_made_whatever_is_frozen_meanwhile() -> None:
    """Half of a template given is worse than all of it; `abort` takes it back."""
    frozen = Commands(frozen=True)
    run, actions = advance(promoting(copied=True), passing(weight=50, commands=frozen), SOON)
    assert (run.hold, CopyTemplate() in actions) == (None, True)


def test_what_is_taken_back_while_its_controller_catches_up_is_still_taken_back() -> None:
    rolling = sight(weight=50, stable=arm("x", 1, wanted=3), stable_matches=True)
    run, _ = advance(promoting(copied=True), rolling, SOON)
    unknown = sight(weight=50, stable=replace(arm("old", 3), template_hash=None))
    run, actions = advance(run, unknown, SOON)
    assert (run.stage, CopyTemplate() in actions) == (Stage.PROMOTING, False)
    run, _ = advance(run, sight(weight=50), SOON)
    assert run.reason is Reason.PROMOTION_FAILED


def test_git_that_takes_its_own_promotion_back_is_waited_for_again() -> None:
    run = promoting(policy={"promotion": PromotionMode.HANDOFF}, passed=True)
    rolling = passing(weight=50, stable=arm("x", 1, wanted=3), stable_matches=True)
    run, _ = advance(run, rolling, SOON)
    run, _ = advance(run, passing(weight=50), SOON)
    assert (run.stage, run.hold) == (Stage.PROMOTING, Reason.READY_TO_PROMOTE)


def test_a_promotion_that_is_through_and_has_no_traffic_is_one_before_anybody_looked() -> None:
    done = sight(weight=0, stable=arm("x", 3), stable_matches=True, looked=False)
    run, _ = advance(promoting(copied=True, raised_from=RAISED_FROM), done, SOON)
    assert run.reason is Reason.PROMOTED
    one = replace(done, route=RouteSeen(weight=1))
    run, _ = advance(promoting(copied=True, weight=1), one, SOON)
    assert run.stage is Stage.PROMOTING


def test_the_end_is_told_and_what_held_the_run_is_over() -> None:
    done = sight(weight=50, stable=arm("x", 3), stable_matches=True)
    run, actions = advance(promoting(copied=True, hold=Reason.FROZEN), done, SOON)
    assert (run.hold, run.ended, told(actions)) == (None, SOON, [Reason.PROMOTED])
    run, actions = advance(stepping(hold=Reason.PAUSED), sight(commands=Commands(abort="no")), SOON)
    assert (run.hold, run.ended, told(actions)) == (None, SOON, [Reason.ABORTED])


def test_with_the_replay_passed_a_run_waits_for_nothing_more() -> None:
    _, actions = advance(WAITING, looking(PASSED, WAITING, BEFORE), SOON)
    assert weights(actions) == [5]


# -- in doubt, in silence


def test_who_approved_doubt_at_the_last_step_has_not_approved_silence_at_the_promotion() -> None:
    run, _ = advance(stepping(step=1, weight=50), sight(weight=50), NOW + minutes(60))
    assert run.hold is Reason.INCONCLUSIVE
    approved = Commands(approvals=1)
    run, _ = advance(run, sight(weight=50, commands=approved), NOW + minutes(61))
    assert (run.stage, run.blind) == (Stage.PROMOTING, False)
    run, actions = advance(run, sight(Verdict.NO_DATA, weight=50, commands=approved), NOW + minutes(62))
    assert CopyTemplate() not in actions


def test_silence_that_was_approved_once_is_not_approved_at_the_next_promotion() -> None:
    """It was promoted in silence, and that was taken back; then it passed, and all went silent again."""
    before = stepping(step=1, weight=50, blind=True, hold=Reason.PAUSED, told=("Paused",))
    run, _ = advance(before, passing(weight=50), NOW + minutes(5))
    assert (run.stage, run.blind, run.by_hand, run.hold) == (Stage.PROMOTING, False, False, None)
    assert (run.step_since, run.told) == (NOW + minutes(5), ())


def test_an_approval_waits_for_the_weight_that_it_is_about_to_be_there() -> None:
    """Somebody took it, and giving it back does not get through: what is seen is of the weight before."""
    run = stepping(hold=Reason.INCONCLUSIVE, told=("Inconclusive",))
    lower = sight(route=service(0, 7, ours=False))
    run, actions = advance(run, lower, NOW + minutes(11))
    assert weights(actions) == [5]
    for verdict in (Verdict.INCONCLUSIVE, Verdict.PASS):
        held = replace(run, hold=Reason.INCONCLUSIVE)
        seen = sight(verdict, route=lower.route, commands=Commands(approvals=1))
        after, actions = advance(held, seen, NOW + minutes(12))
        assert (after.step, weights(actions)) == (0, [5])


def test_who_approves_silence_and_then_doubt_is_not_asked_of_silence_again() -> None:
    run = promoting(blind=True, hold=Reason.INCONCLUSIVE, told=("Inconclusive",))
    approved = Commands(approvals=1)
    run, actions = advance(run, sight(Verdict.NO_DATA, weight=50, commands=approved), SOON)
    assert (run.blind, CopyTemplate() in actions) == (True, True)


def test_an_approval_that_comes_while_nothing_is_held_any_more_raises_nothing_by_itself() -> None:
    """It was held for want of data, which is there again, and says nothing yet."""
    run = stepping(told=(Reason.NO_DATA.value,))
    for verdict in (Verdict.INCONCLUSIVE, Verdict.NO_DATA):
        run, actions = advance(run, sight(verdict, commands=Commands(approvals=1)), SOON)
        assert (run.step, weights(actions)) == (0, [])


def test_no_policy_goes_on_in_silence() -> None:
    run = stepping(policy={"on_no_data": OnDoubt.PROCEED, "on_inconclusive": OnDoubt.PROCEED})
    blind = replace(passing(), judgement=sight(Verdict.NO_DATA).judgement)
    run, actions = advance(run, blind, NOW + minutes(60))
    assert (run.hold, weights(actions)) == (Reason.NO_DATA, [])


@pytest.mark.parametrize(
    ("seen", "held"),
    [
        (sight(Verdict.NO_DATA), None),  # it began anew
        (sight(load=LoadSeen(unheard=("new-1",))), None),  # a page that is away for a moment
        (sight(overdue=("errors",)), None),
        (sight(load=LoadSeen(unheard=("new-1",)), trouble="refused"), Reason.NO_DATA),
        (sight(overdue=("errors",), trouble="refused"), Reason.NO_DATA),
        (sight(Verdict.NO_DATA, trouble="refused"), None),  # what is missing is not known yet
        (sight(unshown="pod new-1 serves requests and shows nothing of scores"), Reason.NO_DATA),
    ],
)
def test_people_are_told_of_a_silence_at_once_only_if_it_is_no_passing_one(
    seen: Seen, held: Reason | None
) -> None:
    run, _ = advance(stepping(hold=Reason.PAUSED), seen, SOON)
    assert run.hold is held
    doubtful, _ = advance(stepping(hold=Reason.INCONCLUSIVE, told=("Inconclusive",)), seen, SOON)
    assert doubtful.hold is (held or Reason.INCONCLUSIVE)


def test_git_is_told_no_more_for_a_moment_when_evidence_begins_anew() -> None:
    ready = promoting(policy={"promotion": PromotionMode.HANDOFF}, passed=True, data_since=NOW)
    ready, _ = advance(ready, passing(weight=50), SOON)
    assert ready.message == "every step has passed; give model the template of model-canary"
    run, actions = advance(ready, sight(Verdict.NO_DATA, weight=50), SOON)
    assert (run.hold, told(actions)) == (None, [])


def test_silence_interrupts_no_promotion_that_git_is_rolling_out() -> None:
    strict = {"promotion": PromotionMode.HANDOFF, "on_no_data": OnDoubt.ROLL_BACK}
    rolling = {"weight": 50, "stable": arm("x", 1, wanted=3), "stable_matches": True}
    doubts = sight(**rolling)
    doubts = replace(
        doubts,
        judgement=replace(
            doubts.judgement, checks=tuple(replace(one, doubtful=True) for one in doubts.judgement.checks)
        ),
    )
    for seen in (sight(Verdict.NO_DATA, **rolling), doubts):
        run, actions = advance(promoting(policy=strict, passed=True), seen, NOW + minutes(60))
        assert (run.hold, weights(actions)) == (Reason.READY_TO_PROMOTE, [])


def test_of_a_run_that_a_person_let_pass_in_silence_nobody_says_that_it_has_passed() -> None:
    policy = {"promotion": PromotionMode.HANDOFF}
    run, _ = advance(promoting(policy=policy), sight(Verdict.NO_DATA, weight=50), NOW + minutes(60))
    assert run.hold is Reason.NO_DATA
    run, _ = advance(
        run, sight(Verdict.NO_DATA, weight=50, commands=Commands(approvals=1)), NOW + minutes(61)
    )
    assert (run.hold, run.passed, run.blind) == (Reason.READY_TO_PROMOTE, False, True)
    assert run.message == "give model the template of model-canary"


def test_why_a_promotion_begins_says_whether_the_steps_have_passed() -> None:
    run, _ = advance(stepping(step=1, weight=50), passing(weight=50), NOW + minutes(5))
    assert run.message == "every step has passed"


# -- drained


def test_a_canary_that_is_drained_while_git_rolls_its_template_out_loses_its_traffic_and_waits() -> None:
    run = promoting(policy={"promotion": PromotionMode.HANDOFF}, passed=True, told=("ReadyToPromote",))
    rolling = sight(weight=50, canary=NOBODY_YET, stable=arm("x", 1, wanted=3), stable_matches=True)
    run, actions = advance(run, rolling, SOON)
    assert (run.stage, run.weight, run.hold, weights(actions)) == (
        Stage.PROMOTING,
        0,
        Reason.INTERRUPTED,
        [0],
    )
    assert told(actions) == [Reason.INTERRUPTED]
    assert run.message == "every pod of model-canary was evicted; model is being given its template"
    run, actions = advance(run, replace(rolling, route=RouteSeen(weight=0)), SOON)
    assert (run.stage, actions) == (Stage.PROMOTING, ())

    back = passing(weight=0)  # the pods are back, and git has taken its template back
    run, _ = advance(run, back, SOON)
    assert (run.stage, run.hold) == (Stage.WAITING, Reason.INTERRUPTED)
    run, actions = advance(run, back, SOON)
    assert (run.stage, weights(actions)) == (Stage.STEPPING, [50])


def test_zero_is_sent_to_an_evicted_canary_although_it_is_believed_to_be_there() -> None:
    _, actions = advance(stepping(), sight(weight=0, canary=NOBODY_YET), SOON)
    assert (weights(actions), told(actions)) == ([0], [Reason.INTERRUPTED])
    handed = promoting(policy={"promotion": PromotionMode.HANDOFF}, passed=True)
    rolling = sight(weight=0, canary=NOBODY_YET, stable=arm("x", 1, wanted=3), stable_matches=True)
    _, actions = advance(handed, rolling, SOON)
    assert weights(actions) == [0]


def test_what_git_was_told_by_hand_and_was_taken_back_is_forgotten() -> None:
    run = promoting(
        policy={"promotion": PromotionMode.HANDOFF}, by_hand=True, told=("ReadyToPromote", "NoData")
    )
    run, _ = advance(replace(run, hold=Reason.READY_TO_PROMOTE), sight(weight=50), SOON)
    assert (run.stage, run.by_hand, run.hold, run.told) == (Stage.STEPPING, False, None, ("NoData",))


# -- raising


@pytest.mark.parametrize(
    "canary",
    [
        replace(arm("new", 2, wanted=3), rolled_out=True),  # one is not ready any more
        replace(arm("new", 3), rolled_out=False),  # one of an older template is there still
        replace(arm("new", 3), template_hash=None),
    ],
)
def test_no_weight_is_raised_before_all_pods_are_there_and_known_to_be_the_canary_s(canary: Any) -> None:
    for run in (a_run(), stepping(passed=True)):
        after, actions = advance(run, passing(weight=run.weight, canary=canary), SOON)
        assert (after.weight, weights(actions)) == (run.weight, [])


def test_a_stable_of_one_pod_has_a_canary_as_well() -> None:
    _, actions = advance(a_run(), sight(weight=0, stable=arm("old", 1), canary=arm("new", 1)), SOON)
    assert weights(actions) == [5]


@pytest.mark.parametrize("weight", [1, 5])
def test_at_the_smallest_weight_a_stable_without_pods_holds_as_at_any(weight: int) -> None:
    seen = passing(weight=weight, stable=arm("old", 0, wanted=3))
    run, actions = advance(stepping(weight=weight, passed=True), seen, SOON)
    assert (run.hold, weights(actions)) == (Reason.STABLE_UNAVAILABLE, [])


def test_a_weight_that_so_few_pods_cannot_carry_is_not_given() -> None:
    """Nobody scales it: its policy says so."""
    run = stepping(passed=True, policy={"canary_replicas": Sizing.KEEP})
    run, actions = advance(run, passing(canary=arm("new", 1)), SOON)
    assert (run.hold, run.weight, weights(actions)) == (Reason.CANARY_UNDER_PROVISIONED, 5, [])
    assert run.message.endswith("it needs 3 replicas")


def test_a_raise_begins_a_step_of_which_nothing_is_known_yet() -> None:
    run = stepping(passed=True, hold=Reason.PAUSED, told=("Paused",), data_since=NOW)
    run, _ = advance(run, passing(), NOW + minutes(5))
    assert (run.step, run.weight, run.step_since, run.passed) == (1, 50, None, False)
    assert (run.hold, run.told, run.data_since) == (None, (), NOW + minutes(5))


def test_an_approval_that_moves_nothing_yet_is_used_up_by_nothing() -> None:
    """It opens the gate, and the pods for the next weight are not there."""
    gates = {"gates": (Gate(before=Before.RAISE),)}
    run = stepping(hold=Reason.INCONCLUSIVE, policy=gates, told=("Inconclusive",), drift_approved=True)
    few = sight(canary=arm("new", 1), commands=Commands(approvals=1))
    run, actions = advance(run, few, NOW + minutes(11))
    assert (run.approved, run.hold, actions) == (0, Reason.INCONCLUSIVE, (Scale(3),))
    run, actions = advance(run, sight(commands=Commands(approvals=1)), NOW + minutes(12))
    assert (run.approved, run.drift_approved, weights(actions)) == (1, True, [50])


def test_who_approves_at_a_gate_has_not_approved_the_drift_that_is_found_behind_it() -> None:
    gates = {"gates": (Gate(before=Before.RAISE),)}
    run, _ = advance(stepping(policy=gates), passing(), NOW + minutes(5))
    assert run.hold is Reason.AWAITING_APPROVAL
    drifted = Inputs(features=9, requests=1_000, count=1, drifted=(Drifted(name="a", by="psi", value=0.5),))
    seen = passing(commands=Commands(approvals=1), inputs=drifted)
    run, actions = advance(run, seen, NOW + minutes(6))
    assert (run.hold, run.drift_approved, weights(actions)) == (Reason.INPUTS_DRIFTED, False, [])


@pytest.mark.parametrize("stops", [Commands(frozen=True), Commands(paused=True)])
def test_git_is_not_told_to_promote_in_a_freeze_or_a_pause_and_what_it_has_begun_goes_on(
    stops: Commands,
) -> None:
    """It was frozen a moment after the last step had passed, and everybody was told to promote."""
    run = promoting(policy={"promotion": PromotionMode.HANDOFF}, passed=True)
    held = Reason.FROZEN if stops.frozen else Reason.PAUSED
    run, actions = advance(run, passing(weight=50, commands=stops), SOON)
    assert (run.hold, told(actions)) == (held, [held])
    ready, actions = advance(run, passing(weight=50), SOON)
    assert (ready.hold, told(actions)) == (Reason.READY_TO_PROMOTE, [Reason.READY_TO_PROMOTE])
    withdrawn, _ = advance(ready, passing(weight=50, commands=stops), SOON)
    assert withdrawn.hold is held

    rolling = passing(weight=50, stable=arm("x", 1, wanted=3), stable_matches=True, commands=stops)
    going, _ = advance(ready, rolling, SOON)
    assert (going.stage, going.hold) == (Stage.PROMOTING, Reason.READY_TO_PROMOTE)
    done, _ = advance(withdrawn, replace(rolling, stable=arm("x", 3)), SOON)
    assert done.reason is Reason.PROMOTED


def test_drift_that_was_approved_once_is_not_asked_about_again_nor_beside_another_doubt() -> None:
    drifted = Inputs(features=9, requests=1_000, count=1, drifted=(Drifted(name="a", by="psi", value=0.5),))
    approved = Commands(approvals=1)
    run, _ = advance(stepping(), passing(inputs=drifted), NOW + minutes(5))
    assert run.hold is Reason.INPUTS_DRIFTED
    run, actions = advance(run, passing(inputs=drifted, commands=approved), NOW + minutes(6))
    assert (run.drift_approved, weights(actions)) == (True, [50])
    seen = passing(weight=50, inputs=drifted, commands=approved)
    run, _ = advance(run, seen, NOW + minutes(7))
    run, _ = advance(run, seen, NOW + minutes(12))
    assert run.stage is Stage.PROMOTING

    doubtful, _ = advance(stepping(), sight(inputs=drifted), NOW + minutes(60))
    assert doubtful.hold is Reason.INCONCLUSIVE
    run, actions = advance(doubtful, sight(inputs=drifted, commands=approved), NOW + minutes(61))
    assert (run.drift_approved, weights(actions)) == (True, [50])


def test_a_pause_that_is_over_is_not_shown_any_more_at_a_step_that_gathers_evidence() -> None:
    run, _ = advance(stepping(), sight(commands=Commands(paused=True)), SOON)
    assert run.hold is Reason.PAUSED
    assert advance(run, sight(), SOON)[0].hold is None


def test_each_raise_begins_its_evidence_anew_before_it_is_made() -> None:
    for run, step, weight in ((a_run(), 0, 5), (stepping(passed=True), 1, 50)):
        _, actions = advance(run, passing(weight=run.weight), NOW + minutes(5))
        assert actions[:2] == (BeginStep(step), SetWeight(weight))


def test_an_interruption_is_shown_until_all_pods_are_back_and_a_pause_no_longer_than_it_lasts() -> None:
    run, _ = advance(stepping(), sight(canary=NOBODY_YET), SOON)
    half = sight(weight=0, canary=arm("new", 2, wanted=3))
    run, _ = advance(run, half, SOON)
    assert run.hold is Reason.INTERRUPTED
    run, _ = advance(run, replace(half, commands=Commands(paused=True)), SOON)
    run, _ = advance(run, half, SOON)
    assert run.hold is None


@pytest.mark.parametrize("mode", PromotionMode)
def test_a_canary_whose_promotion_waits_grows_with_a_stable_that_is_scaled_up(mode: PromotionMode) -> None:
    """Each of its pods had twice the load of one of stable's, for as long as git took."""
    run = promoting(passed=True, policy={"promotion": mode})
    grown = passing(weight=50, stable=arm("old", 6))
    paused, actions = advance(run, replace(grown, commands=Commands(paused=True)), SOON)
    assert not any(isinstance(one, Scale) for one in actions)
    after, actions = advance(paused, grown, SOON)
    assert actions[0] == Scale(6)
    copies = mode is PromotionMode.COPY
    assert after.hold is (Reason.CANARY_UNDER_PROVISIONED if copies else Reason.READY_TO_PROMOTE)
    after, actions = advance(after, replace(grown, canary=arm("new", 6)), SOON)
    assert (after.copied, any(isinstance(one, Scale) for one in actions)) == (copies, False)

    kept = replace(run, plan=replace(run.plan, policy=replace(run.plan.policy, canary_replicas=Sizing.KEEP)))
    assert not any(isinstance(one, Scale) for one in advance(kept, grown, SOON)[1])
