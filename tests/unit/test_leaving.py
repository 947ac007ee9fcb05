"""Each reason to take traffic away: when it is one, when it is none, and what people are told."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from test_machine import (
    NOW,
    RAISED_FROM,
    a_run,
    advance,
    arm,
    ended,
    minutes,
    promoting,
    quiet,
    seconds,
    service,
    sight,
    stepping,
    weights,
)

from analysis.judge import CheckJudgement, Judgement, Verdict
from controller.hearing import LoadSeen, Quiet
from controller.machine import begun_again, finished, left, restored
from controller.model import (
    ArmSeen,
    Commands,
    CopyTemplate,
    Message,
    OnDoubt,
    PromotionMode,
    Reason,
    RestoreTemplate,
    RouteSeen,
    Seen,
    SetWeight,
    ShadowCheck,
    Stage,
)

SOON = NOW + minutes(1)


def judged(**verdicts: Verdict) -> Judgement:
    """Checks by name; the first that fails is the one that did."""
    checks = tuple(
        CheckJudgement(name=name, verdict=verdict, log_e=0.0, log_e_pass=0.0, note=f"what {name} found")
        for name, verdict in verdicts.items()
    )
    failed = next((one.name for one in checks if one.verdict is Verdict.FAIL), None)
    return Judgement(verdict=max(verdicts.values()), log_e=0.0, checks=checks, failed=failed)


FAILED = judged(errors=Verdict.FAIL)


# -- what people ask for


@pytest.mark.parametrize(
    ("seen", "reason", "words"),
    [
        ({"commands": Commands(deleted=True)}, Reason.ABORTED, "the CanaryRun was deleted"),
        (
            {"canary": ArmSeen(exists=False, template_hash=None, wanted=0)},
            Reason.ABORTED,
            "Deployment model-canary was deleted",
        ),
        ({"commands": Commands(withdrawn=True)}, Reason.ABORTED, "the annotation that asked for it was"),
        ({"commands": Commands(abort="wrong prices")}, Reason.ABORTED, "aborted: wrong prices"),
        ({"commands": Commands(retargeted=True)}, Reason.SUPERSEDED, "annotations name another stable"),
        ({"canary": arm("newer", 3)}, Reason.SUPERSEDED, "model-canary has a new template (newer, was new)"),
        ({"stable": arm("third", 3)}, Reason.STABLE_CHANGED, "model has a new template (third)"),
        # as the canary's, but the run was not that far
        ({"stable": arm("x", 3), "stable_matches": True}, Reason.STABLE_CHANGED, "compared with old"),
    ],
)
@pytest.mark.parametrize("stops", [{}, {"paused": True}, {"frozen": True}])
def test_what_people_do_to_a_canary_with_traffic_ends_its_run_at_once(
    seen: dict[str, Any], reason: Reason, words: str, stops: dict[str, bool]
) -> None:
    commands = replace(seen.get("commands", Commands()), **stops)
    run, actions = advance(stepping(), sight(**{**seen, "commands": commands}), SOON)
    assert (run.stage, run.reason, run.weight, weights(actions)) == (Stage.ENDED, reason, 0, [0])
    assert words in run.message


@pytest.mark.parametrize("which", ["stable", "canary"])
def test_a_deployment_whose_controller_has_not_caught_up_is_no_other_version(which: str) -> None:
    """Its template was written a moment ago, be it for a label that changes nothing."""
    unknown = sight(**{which: replace(arm("x", 3), template_hash=None)})
    run, actions = advance(stepping(), unknown, SOON)
    assert (run.stage, run.weight, weights(actions)) == (Stage.STEPPING, 5, [])


def test_another_template_of_stables_ends_a_promotion_and_stays() -> None:
    for copied in (False, True):
        run, actions = advance(promoting(copied=copied), sight(weight=50, stable=arm("third", 3)), SOON)
        assert (run.reason, weights(actions)) == (Reason.STABLE_CHANGED, [0])
        assert (run.copied, RestoreTemplate() in actions) == (False, False)


# -- git promotes


def drained(**changes: Any) -> Any:
    """Handed over, and evicted before git had done it."""
    told = (Reason.READY_TO_PROMOTE.value,)
    return a_run(**{"told": told, "policy": {"promotion": PromotionMode.HANDOFF}, **changes})


GIVEN = {"weight": 0, "stable": arm("x", 3), "stable_matches": True, "canary": arm("new", 0, wanted=3)}


@pytest.mark.parametrize(
    ("by_hand", "promote", "reason"),
    [
        (False, None, Reason.PROMOTED),
        (True, "now", Reason.PROMOTED),
        (True, None, Reason.STABLE_CHANGED),  # the promotion was taken back: nobody was to give it
    ],
)
def test_git_promotes_what_it_was_told_to_and_nothing_that_was_taken_back(
    *, by_hand: bool, promote: str | None, reason: Reason
) -> None:
    seen = sight(**GIVEN, commands=Commands(promote=promote))
    run, _ = advance(drained(by_hand=by_hand), seen, SOON)
    assert (run.reason, run.weight) == (reason, 0)


def test_what_git_was_never_told_to_promote_is_another_stable() -> None:
    run, _ = advance(drained(told=()), sight(**GIVEN), SOON)
    assert run.reason is Reason.STABLE_CHANGED
    back = drained(stage=Stage.STEPPING, weight=5, weight_since=NOW, step_since=NOW)  # at its step again
    run, _ = advance(back, sight(**{**GIVEN, "weight": 5, "canary": arm("new", 3)}), SOON)
    assert run.reason is Reason.STABLE_CHANGED


def test_what_git_is_still_rolling_out_has_the_whole_deadline_from_then_on() -> None:
    rolling = sight(**{**GIVEN, "stable": replace(arm("x", 3), rolled_out=False)})
    run, _ = advance(drained(), rolling, NOW + minutes(600))
    assert (run.stage, run.step_since) == (Stage.PROMOTING, NOW + minutes(600))
    run, _ = advance(run, rolling, NOW + minutes(700))
    assert run.stage is Stage.PROMOTING  # we copied nothing, and git takes its time


# -- a check fails


@pytest.mark.parametrize("weight", [1, 5, 99])
def test_a_failed_check_takes_the_smallest_weight_away_as_any_other(weight: int) -> None:
    run, actions = advance(stepping(weight=weight), sight(weight=weight, judgement=FAILED), SOON)
    assert (run.reason, run.check, weights(actions)) == (Reason.CHECK_FAILED, "errors", [0])


def test_a_check_that_fails_without_traffic_blames_nobody_but_a_replay_does() -> None:
    """What was counted before an eviction is no ground to end a run that has no traffic."""
    shadow = ShadowCheck(name="shadow", max_flips=0.01, required=True, share=0.25)
    waiting = a_run(policy={"shadow": shadow})
    run, _ = advance(waiting, sight(weight=0, judgement=FAILED), SOON)
    assert run.stage is not Stage.ENDED
    run, _ = advance(waiting, sight(weight=0, judgement=judged(shadow=Verdict.FAIL)), SOON)
    assert (run.reason, run.check) == (Reason.CHECK_FAILED, "shadow")
    assert run.message == "shadow: what shadow found"


def test_the_check_that_failed_is_the_one_whose_figures_are_told() -> None:
    shadow = ShadowCheck(name="shadow", max_flips=0.01, required=True, share=0.25)
    both = judged(errors=Verdict.INCONCLUSIVE, shadow=Verdict.FAIL)
    run, _ = advance(stepping(policy={"shadow": shadow}), sight(judgement=both), SOON)
    assert (run.check, run.message) == ("shadow", "shadow: what shadow found")


def test_how_long_it_took_is_told_from_the_weight_and_not_from_the_step() -> None:
    run = stepping(weight_since=NOW - seconds(90), step_since=NOW)
    after, _ = advance(run, sight(judgement=FAILED), NOW)
    assert "decided 1 min 30 s after the weight was set" in after.message


# -- its pods


def test_one_pod_that_crashes_again_and_again_is_enough_however_well_the_others_do() -> None:
    pods = arm("new", 3).pods
    looping = replace(arm("new", 3), pods=(*pods[:2], replace(pods[2], ready=False, crash_looping=True)))
    run, actions = advance(stepping(), sight(canary=looping), SOON)
    assert (run.reason, weights(actions)) == (Reason.CANARY_UNAVAILABLE, [0])
    assert run.message == "pod new-2 crashes again and again"
    waiting, _ = advance(a_run(), sight(weight=0, canary=looping), SOON)  # no user meets it yet
    assert waiting.stage is Stage.WAITING


def test_a_pod_that_outgrew_its_limits_beside_others_that_serve_ends_nothing() -> None:
    left = replace(arm("new", 2, wanted=3), overran=(NOW + seconds(30), "exceeded its memory"))
    run, actions = advance(stepping(), sight(canary=left), SOON)
    assert (run.stage, weights(actions)) == (Stage.STEPPING, [])


@pytest.mark.parametrize(("made", "restarts", "reason"), [(30, 0, None), (30, 1, True), (-30, 0, True)])
def test_pods_that_failed_in_place_were_not_evicted(made: float, restarts: int, reason: object) -> None:
    """New pods that are not up yet are a drained node's; what restarts, or was there before, has failed."""
    pods = tuple(
        replace(pod, ready=False, created=NOW + seconds(made), restarts=restarts)
        for pod in arm("new", 2).pods
    )
    run, actions = advance(stepping(), sight(canary=replace(arm("new", 2), pods=pods)), SOON)
    assert weights(actions) == [0]
    assert run.reason is (Reason.CANARY_UNAVAILABLE if reason else None)


def test_one_old_pod_among_new_ones_that_is_not_ready_has_failed() -> None:
    young, old = (replace(pod, ready=False) for pod in arm("new", 2).pods)
    pods = (replace(young, created=NOW + seconds(30)), old)
    run, _ = advance(stepping(), sight(canary=replace(arm("new", 2), pods=pods)), SOON)
    assert run.reason is Reason.CANARY_UNAVAILABLE


def test_a_canary_that_somebody_scaled_to_nothing_was_not_evicted() -> None:
    run, actions = advance(stepping(), sight(canary=arm("new", 0)), SOON)
    assert (run.reason, weights(actions)) == (Reason.CANARY_UNAVAILABLE, [0])
    run, _ = advance(stepping(), sight(canary=arm("new", 0, wanted=1)), SOON)
    assert run.hold is Reason.INTERRUPTED


def test_a_canary_that_is_gone_while_stable_is_given_its_template_has_failed() -> None:
    half = replace(arm("x", 3), rolled_out=False)
    seen = sight(weight=50, canary=arm("new", 0, wanted=3), stable=half, stable_matches=True)
    run, actions = advance(promoting(copied=True), seen, SOON)
    assert (run.reason, weights(actions)) == (Reason.PROMOTION_FAILED, [0])
    assert RestoreTemplate() in actions


def test_which_pods_failed_is_judged_by_when_the_youngest_was_made() -> None:
    """Two pods an hour apart had the traffic; neither is a successor of the other."""
    first, second = arm("new", 2).pods
    apart = (replace(first, created=NOW - minutes(60)), replace(second, created=NOW - seconds(5)))
    ready = sight(weight=0, canary=replace(arm("new", 2), pods=apart))
    run, actions = advance(a_run(data_since=NOW), ready, NOW - seconds(1))
    assert weights(actions) == [5]
    failed = tuple(replace(pod, ready=False) for pod in apart[1:])
    run, _ = advance(run, sight(canary=replace(arm("new", 1, wanted=2), pods=failed)), SOON)
    assert run.reason is Reason.CANARY_UNAVAILABLE


# -- it does not answer


def silent(due: float, *, for_: float, weight: int = 5, **route: Any) -> Seen:
    """The canary completed nothing for so long, while about so many requests were due."""
    load = LoadSeen(silence=round(due * (100 - weight) / weight), silent_for=seconds(for_))
    return sight(route=RouteSeen(weight=weight, **route), load=load)


@pytest.mark.parametrize("weight", [1, 5, 50])
@pytest.mark.parametrize(
    ("due", "for_", "ends"), [(20, 3, True), (18, 3, False), (1000, 2.9, False), (20, 600, True)]
)
def test_a_canary_is_silent_after_three_seconds_and_twenty_requests_that_were_due(
    due: float, for_: float, weight: int, *, ends: bool
) -> None:
    run, actions = advance(stepping(weight=weight), silent(due, for_=for_, weight=weight), SOON)
    assert (run.reason is Reason.CANARY_NOT_ANSWERING, weights(actions)) == (ends, [0] if ends else [])


def test_whose_silence_it_is_says_where_requests_may_have_gone_if_the_subsets_are_mixed() -> None:
    said = "subset canary selects stable's pods as well"
    run, _ = advance(stepping(), silent(20, for_=3, mixed=True, refusal=said), SOON)
    assert run.message.endswith(f"about 20 were due ({said})")
    run, _ = advance(stepping(), silent(20, for_=3, refusal=said), SOON)
    assert run.message.endswith("about 20 were due")


@pytest.mark.parametrize(
    ("for_", "due", "held", "ends"),
    [
        (2.9, 400, False, False),
        (3, 18, False, False),
        (3, 20, True, False),
        (9.9, 400, True, False),
        (60, 38, True, False),
        (10, 40, True, True),
    ],
)
def test_one_pods_silence_holds_after_a_moment_and_leads_away_after_ten_seconds(
    for_: float, due: float, *, held: bool, ends: bool
) -> None:
    run, actions = advance(stepping(), quiet(for_, due=due), SOON + minutes(1))
    assert (run.reason is Reason.CANARY_NOT_ANSWERING) is ends
    assert weights(actions) == ([0] if ends else [] if held else [50])
    assert (run.hold is Reason.NO_DATA) is (held and not ends)


def test_a_second_pod_that_is_silent_for_longer_is_found_behind_the_first() -> None:
    first, second = quiet(5, due=400).load.quiet, quiet(12, due=40).load.quiet
    both = sight(load=LoadSeen(quiet=(*first, replace(second[0], pod="new-2"))))
    run, actions = advance(stepping(), both, SOON)
    assert (run.reason, weights(actions)) == (Reason.CANARY_NOT_ANSWERING, [0])
    assert "pod new-2 completed no request in 12 s at weight 5 %; about 40 of 3 pods'" in run.message


@pytest.mark.parametrize("route", [0, 1])
def test_nothing_is_heard_of_a_canary_that_nothing_is_sent_to_and_that_is_no_fault(route: int) -> None:
    load = LoadSeen(unheard=("new-1",), unheard_for=seconds(60), missed=10_000)
    run, _ = advance(stepping(weight=1), sight(weight=route, load=load), SOON)
    assert run.reason is (Reason.NO_DATA if route else None)
    few = arm("new", 2, wanted=3)
    waiting, _ = advance(a_run(), sight(weight=route, load=load, canary=few), SOON)
    assert waiting.stage is Stage.WAITING


def test_of_the_only_pod_all_requests_are_due() -> None:
    one = Quiet("new-0", 20 * 95 // 5, seconds(3))
    seen = sight(Verdict.PASS, canary=arm("new", 1), load=LoadSeen(quiet=(one,)))
    run, _ = advance(stepping(), seen, SOON)
    assert run.hold is Reason.NO_DATA
    assert run.message.endswith("about 20 of 1 pods' were due there")


@pytest.mark.parametrize(("trouble", "end"), [("", "page"), ("new-1: refused", "page: new-1: refused")])
def test_pods_that_are_not_heard_are_counted_and_their_trouble_is_named(trouble: str, end: str) -> None:
    unheard = ("new-0", "new-1", "new-2")
    run = promoting(policy={"promotion": PromotionMode.HANDOFF}, passed=True, hold=Reason.READY_TO_PROMOTE)
    run, _ = advance(run, sight(weight=50, load=LoadSeen(unheard=unheard), trouble=trouble), SOON)
    said = f"pod new-0 (and 2 more) shows no fresh metrics {end}"
    assert run.message == f"nothing is raised or promoted: {said}"


# -- time is up


def test_a_rollout_of_stable_that_takes_too_long_is_taken_back() -> None:
    run = promoting(copied=True, policy={"progress_deadline": minutes(10)})
    rolling = sight(weight=50, stable=replace(arm("x", 3), rolled_out=False), stable_matches=True)
    still, _ = advance(run, rolling, NOW + minutes(10))
    assert still.stage is Stage.PROMOTING
    ended, actions = advance(run, rolling, NOW + minutes(10.1))
    assert (ended.reason, weights(actions)) == (Reason.PROMOTION_FAILED, [0])
    assert ended.message == "model was not rolled out within 600 s"
    assert RestoreTemplate() in actions
    waits = promoting(policy={"progress_deadline": minutes(10)}, hold=Reason.PAUSED)  # nobody gave it yet
    held, _ = advance(waits, sight(weight=50, commands=Commands(paused=True)), NOW + minutes(600))
    assert held.stage is Stage.PROMOTING


def test_pods_that_are_evicted_have_the_deadline_from_then_on() -> None:
    """All were ready an hour ago; that they are not now is younger."""
    gone = sight(weight=0, canary=arm("new", 0, wanted=3))
    run = a_run(weight_since=NOW, data_since=NOW - minutes(60))
    assert advance(run, gone, NOW + minutes(15))[0].stage is Stage.WAITING
    run, _ = advance(run, gone, NOW + minutes(15.1))
    assert run.reason is Reason.CANARY_UNAVAILABLE
    assert run.message == "0 of 3 pods of model-canary were ready within 900 s"


def test_pods_that_are_all_there_have_no_deadline_however_long_a_run_waits() -> None:
    run = a_run(data_since=NOW, policy={"progress_deadline": minutes(1)})
    run, _ = advance(run, sight(weight=0, commands=Commands(paused=True)), NOW + minutes(600))
    assert (run.stage, run.hold) == (Stage.WAITING, Reason.PAUSED)


# -- what another leader did


def test_what_was_taken_from_a_promotion_that_has_not_begun_to_arrive_is_not_given_back() -> None:
    run, actions = advance(promoting(raised_from=RAISED_FROM), sight(route=service(0, 9)), SOON)
    assert (run.reason, weights(actions)) == (Reason.LEADER_LOST, [0])


def test_a_template_that_never_arrived_was_not_taken_back() -> None:
    """The copy is on its way: that stable has its old template still is nobody's doing."""
    run, actions = advance(promoting(copied=True), sight(weight=50), SOON)
    assert (run.stage, run.reason, CopyTemplate() in actions) == (Stage.PROMOTING, None, True)


def test_a_template_that_arrived_and_is_still_rolled_out_was_not_taken_back() -> None:
    run, rolling = promoting(copied=True), sight(weight=50, stable=arm("x", 1, wanted=3), stable_matches=True)
    for minute in range(1, 4):
        run, actions = advance(run, rolling, NOW + minutes(minute))
        assert (run.stage, run.landed, actions) == (Stage.PROMOTING, True, ())


def test_a_stable_of_one_pod_is_promoted_onto_once_it_is_rolled_out() -> None:
    one = sight(weight=50, stable=arm("x", 1), stable_matches=True)
    old = replace(one, stable=replace(one.stable, rolled_out=False))  # it is ready, and the old template's
    assert advance(promoting(copied=True), old, SOON)[0].stage is Stage.PROMOTING
    assert advance(promoting(copied=True), one, SOON)[0].reason is Reason.PROMOTED


def test_a_virtual_service_that_is_deleted_under_a_run_takes_nothing_from_it_that_was_given() -> None:
    gone = RouteSeen(weight=None, refusal="VirtualService model does not exist")
    for run in (stepping(raised_from=RAISED_FROM), promoting(raised_from=RAISED_FROM)):
        after, actions = advance(run, sight(route=gone), SOON)
        assert (after.stage, after.hold, weights(actions)) == (run.stage, Reason.REFUSED, [])


def test_a_run_that_waits_for_its_pods_to_be_back_has_nothing_that_could_be_taken() -> None:
    run, _ = advance(stepping(raised_from=RAISED_FROM), sight(canary=arm("new", 0, wanted=3)), SOON)
    run, actions = advance(run, sight(route=service(0, 5)), SOON)
    assert (run.stage, weights(actions)) == (Stage.STEPPING, [5])


# -- a plan that is out of date


@pytest.mark.parametrize(
    ("run", "commands", "ends"),
    [
        ({"follows": True}, Commands(), True),
        ({"follows": False}, Commands(), False),
        ({"follows": False, "hold": Reason.PREFLIGHT_FAILED}, Commands(), True),
        ({"follows": True, "weights": True}, Commands(), False),
        ({"follows": True}, Commands(paused=True), False),
        ({"follows": True}, Commands(promote="now"), False),
    ],
)
def test_a_changed_policy_plans_a_run_anew_before_its_first_traffic_and_forgets_no_command(
    run: dict[str, Any], commands: Commands, *, ends: bool
) -> None:
    follows, had = run["follows"], stepping().weights if "weights" not in run else None
    one = a_run(hold=run.get("hold"))
    one = replace(one, plan=replace(one.plan, follows=follows, policy_name="strict"))
    if had is None:  # it was evicted once
        one, _ = advance(one, sight(weight=0), NOW)
        one, _ = advance(one, sight(canary=arm("new", 0, wanted=3)), NOW)
        assert one.stage is Stage.WAITING
    few = sight(weight=0, canary=arm("new", 0, wanted=3), commands=commands, replanned=True)
    after, _ = advance(one, few, SOON)
    assert (after.reason is Reason.SUPERSEDED) is ends
    assert ("its policy, strict, was changed" in after.message) is ends


@pytest.mark.parametrize(
    ("name", "words"), [("", "the built-in one"), (None, "of its plan"), ("strict", "strict")]
)
def test_which_policy_was_replaced_is_named(name: str | None, words: str) -> None:
    one = a_run()
    one = replace(one, plan=replace(one.plan, follows=True, policy_name=name))
    run, _ = advance(one, sight(weight=0, canary=arm("new", 0, wanted=3), replanned=True), SOON)
    assert run.message.startswith(f"its policy, {words}, was changed or replaced")


# -- what is said when all is silent


def test_a_doubt_that_rolls_back_does_so_with_stable_alive_and_holds_without() -> None:
    run = stepping(policy={"on_inconclusive": OnDoubt.ROLL_BACK})
    late = NOW + run.plan.policy.step_timeout
    assert advance(run, sight(), late)[0].stage is Stage.STEPPING
    ended, actions = advance(run, sight(), late + timedelta(seconds=1))
    assert (ended.reason, weights(actions)) == (Reason.INCONCLUSIVE, [0])
    held, actions = advance(run, sight(stable=arm("old", 0, wanted=3)), late + timedelta(seconds=1))
    assert (held.hold, weights(actions)) == (Reason.STABLE_UNAVAILABLE, [])


# -- the way out


FAULTS = [
    ({"judgement": FAILED}, Reason.CHECK_FAILED),
    ({"canary": arm("new", 0)}, Reason.CANARY_UNAVAILABLE),
    ({"load": LoadSeen(silence=10_000, silent_for=seconds(9))}, Reason.CANARY_NOT_ANSWERING),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_a_fault_that_is_found_while_stable_has_the_template_is_a_failed_promotion(
    fault: dict[str, Any], reason: Reason
) -> None:
    given = sight(weight=50, stable=replace(arm("x", 3), rolled_out=False), stable_matches=True, **fault)
    run, actions = advance(promoting(copied=True), given, SOON)
    assert (run.reason, run.copied, actions[0]) == (Reason.PROMOTION_FAILED, True, SetWeight(0))
    assert RestoreTemplate() in actions
    run, actions = advance(promoting(), sight(weight=50, **fault), SOON)  # before it was given
    assert (run.reason, run.copied, RestoreTemplate() in actions) == (reason, False, False)


def test_who_aborts_while_stable_has_the_template_gets_it_back_and_reads_that_it_was_aborted() -> None:
    given = sight(weight=50, stable=arm("x", 3), stable_matches=True, commands=Commands(abort="no"))
    run, actions = advance(promoting(copied=True), given, SOON)
    assert (run.reason, run.copied) == (Reason.ABORTED, True)
    assert actions[:2] == (SetWeight(0), RestoreTemplate())
    unknown = replace(given, stable=replace(given.stable, template_hash=None), stable_matches=False)
    run, actions = advance(promoting(copied=True), unknown, SOON)  # it may be somebody else's by now
    assert (run.copied, RestoreTemplate() in actions) == (True, False)


def test_who_was_given_the_template_by_others_is_told_to_take_it_back() -> None:
    given = sight(weight=50, stable=arm("x", 3, wanted=4), stable_matches=True, judgement=FAILED)
    run, actions = advance(promoting(), given, SOON)
    assert run.message.endswith("; model was given that template already, not by Serin: take it back")
    assert (run.reason, RestoreTemplate() in actions) == (Reason.CHECK_FAILED, False)
    for ours in (replace(given, stable_matches=False, stable=arm("old", 3)), given):
        run, _ = advance(promoting(copied=ours is given), ours, SOON)
        assert "not by Serin" not in run.message


@pytest.mark.parametrize(
    ("stable", "canary", "stays"),
    [
        (arm("old", 0, wanted=3), arm("new", 1), True),
        (arm("old", 1, wanted=3), arm("new", 3), False),
        (replace(arm("old", 0, wanted=3), unlisted=1), arm("new", 3), False),  # their list is not here yet
        (arm("old", 0, wanted=3), arm("new", 0), False),  # nobody serves anywhere
    ],
)
def test_traffic_stays_with_a_failed_canary_only_if_nobody_else_could_take_it(
    stable: ArmSeen, canary: ArmSeen, *, stays: bool
) -> None:
    for weight in (1, 50):
        seen = sight(weight=weight, stable=stable, canary=canary, judgement=FAILED)
        run, actions = advance(stepping(weight=weight), seen, SOON)
        assert (run.weight, weights(actions)) == ((weight, []) if stays else (0, [0]))
        assert run.hold is (Reason.STABLE_UNAVAILABLE if stays else None)
        assert ("traffic stays, since model has no ready pod to take it" in run.message) is stays


def test_a_run_without_traffic_ends_although_stable_has_no_pod() -> None:
    seen = sight(weight=0, stable=arm("old", 0, wanted=3), commands=Commands(abort="no"))
    run, _ = advance(a_run(), seen, SOON)
    assert run.reason is Reason.ABORTED


@pytest.mark.parametrize(
    ("seen", "left"),
    [
        ({"judgement": FAILED}, False),
        ({"commands": Commands(abort="no")}, False),
        ({"commands": Commands(withdrawn=True)}, True),  # nobody owns it any more
        ({"commands": Commands(retargeted=True)}, True),  # a new run has it
        ({"canary": arm("newer", 3)}, True),
        ({"stable": arm("third", 3)}, True),
        ({"canary": ArmSeen(exists=False, template_hash=None, wanted=0)}, True),
    ],
)
def test_a_canary_that_is_somebody_elses_after_the_end_keeps_its_size(
    seen: dict[str, Any], *, left: bool
) -> None:
    run, _ = advance(stepping(), sight(**seen), SOON)
    assert (run.stage, run.scaled_down) == (Stage.ENDED, left)


def test_a_run_that_ends_before_its_first_traffic_has_had_none_and_leaves_others_weights_alone() -> None:
    run, actions = advance(a_run(), sight(weight=0, commands=Commands(abort="no")), SOON)
    assert (run.stage, run.weights, run.weight_since) == (Stage.ENDED, (), None)
    assert weights(actions) == [0]
    _, actions = advance(run, sight(weight=30), SOON)
    assert weights(actions) == []


def test_what_an_ended_run_still_owes_keeps_it() -> None:
    done = ended(settled=True, scaled_down=True)
    message = Message(id="a", alert=0, outcome="Held", reason=Reason.NO_DATA, sentence="hm", at=NOW)
    assert finished(done)
    assert restored(done)
    for owed in ({"settled": False}, {"mirrored": True}, {"copied": True}, {"stage": Stage.STEPPING}):
        assert not restored(replace(done, **owed))
        assert not finished(replace(done, **owed))
    for owed in ({"scaled_down": False}, {"outbox": (message,)}):
        assert restored(replace(done, **owed))
        assert not finished(replace(done, **owed))
    assert restored(replace(done, copied=True, reason=Reason.PROMOTED))


def test_a_step_whose_evidence_is_lost_begins_again_and_no_other_stage_does() -> None:
    run = begun_again(stepping(passed=True), SOON)
    assert (run.passed, run.step_since, run.data_since) == (False, SOON, SOON)
    for other in (a_run(passed=True), promoting(passed=True)):
        assert begun_again(other, SOON) == other


def test_the_way_out_alone_is_that_of_a_whole_pass_and_none_where_there_is_no_reason() -> None:
    failing = sight(judgement=FAILED)
    assert left(stepping(), failing, SOON) == advance(stepping(), failing, SOON)
    assert left(stepping(passed=True), sight(Verdict.PASS), SOON) is None
    _, actions = left(ended(), sight(weight=5), SOON) or (None, ())
    assert weights(actions) == [0]
