"""Single turns of a run that once went wrong, or would be easy to get wrong."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from test_resource import NOW, canary_run

from analysis.judge import CheckJudgement, Judgement, Verdict
from controller import resource
from controller.hearing import LoadSeen, Quiet
from controller.machine import advance, finished, restored
from controller.model import (
    Action,
    ArmSeen,
    BeginStep,
    Commands,
    CopyTemplate,
    Fence,
    OnDoubt,
    PodSeen,
    PromotionMode,
    Reason,
    RestoreTemplate,
    RouteSeen,
    Run,
    Scale,
    Seen,
    SetWeight,
    Stage,
    Tell,
)
from controller.weights import FIRST_CHANGES, LAST_CHANGES, MOST_INTERRUPTIONS, interruptions
from controller.writing import Sighting


def minutes(value: float) -> timedelta:
    return timedelta(minutes=value)


def a_run(**changes: Any) -> Run:
    """With steps of 5 and 50 %; `policy` changes what its plan says."""
    run = resource.run(canary_run())
    policy = replace(run.plan.policy, **changes.pop("policy", {}))
    return replace(run, plan=replace(run.plan, policy=policy), created=NOW, **changes)


def stepping(**changes: Any) -> Run:
    began = dict.fromkeys(("step_since", "weight_since", "data_since"), NOW)
    return a_run(**{"stage": Stage.STEPPING, "weight": 5, **began, **changes})


def promoting(**changes: Any) -> Run:
    return stepping(**{"stage": Stage.PROMOTING, "weight": 50, "step": 1, **changes})


def ended(**changes: Any) -> Run:
    reason = {"reason": Reason.CHECK_FAILED}
    return a_run(**{"stage": Stage.ENDED, "weight_since": NOW, "ended": NOW, **reason, **changes})


def arm(template: str, pods: int, *, wanted: int | None = None) -> ArmSeen:
    named = tuple(
        PodSeen(name=f"{template}-{i}", node="n", ip="10.0.0.1", ready=True, created=NOW - minutes(5))
        for i in range(pods)
    )
    size = pods if wanted is None else wanted
    return ArmSeen(
        exists=True, template_hash=template, wanted=size, pods=named, rolled_out=len(named) == size
    )


def sight(verdict: Verdict = Verdict.INCONCLUSIVE, *, weight: int | None = 5, **changes: Any) -> Seen:
    check = CheckJudgement(name="errors", verdict=verdict, log_e=0.0, log_e_pass=0.0)
    seen = Seen(
        stable=arm("old", 3),
        canary=arm("new", 3),
        route=RouteSeen(weight=weight),
        judgement=Judgement(verdict=verdict, log_e=0.0, checks=(check,)),
    )
    return replace(seen, **changes)


@pytest.mark.parametrize(
    ("pods", "words"),
    [
        (0, "model-canary has no pod"),
        (1, "the one pod of model-canary is not ready"),
        (2, "none of 2 pods of model-canary is ready"),
    ],
)
def test_of_one_pod_that_is_not_ready_nobody_says_none_of_1_pods(pods: int, words: str) -> None:
    there = arm("new", pods)
    there = replace(there, pods=tuple(replace(pod, ready=False) for pod in there.pods))
    after, actions = advance(stepping(), sight(canary=there), NOW + minutes(1))
    assert (after.reason, after.message, weights(actions)) == (Reason.CANARY_UNAVAILABLE, words, [0])


def weights(actions: tuple[Action, ...]) -> list[int]:
    return [action.weight for action in actions if isinstance(action, SetWeight)]


def told(actions: tuple[Action, ...]) -> list[Reason]:
    return [action.reason for action in actions if isinstance(action, Tell)]


# -- the way to zero


def test_zero_is_sent_until_it_stands_also_to_a_virtual_service_that_is_refused() -> None:
    lost = replace(sight(), route=RouteSeen(weight=None, refusal="a third destination"))
    run, actions = advance(ended(scaled_down=True), lost, NOW + minutes(1))

    assert weights(actions) == [0]
    assert not run.settled
    run, actions = advance(run, replace(lost, route=RouteSeen(weight=0, refusal="a third")), NOW + minutes(2))
    assert (run.settled, weights(actions)) == (True, [])


def test_stable_gets_its_template_back_although_the_canary_is_gone() -> None:
    run = ended(reason=Reason.ABORTED, copied=True, scaled_down=True)
    nobody = ArmSeen(exists=False, template_hash=None, wanted=0)
    copied = sight(weight=0, canary=nobody, stable=arm("analysed", 3))
    run, actions = advance(run, copied, NOW)

    assert actions == (RestoreTemplate(),)
    assert run.settled
    assert not restored(run)
    run, actions = advance(run, replace(copied, stable=arm("old", 3)), NOW)
    assert actions == ()
    assert restored(run)


def test_stable_is_written_once_more_although_it_has_its_template_still() -> None:
    """Seed 4152: the copy of a frozen leader arrived after the run had failed, and stayed."""
    run = ended(reason=Reason.PROMOTION_FAILED, copied=True, scaled_down=True)
    there = sight(weight=0, stable=arm("old", 3))
    run, actions = advance(run, replace(there, fenced=False), NOW)
    assert (actions, run.copied) == ((RestoreTemplate(),), True)
    run, actions = advance(run, there, NOW + timedelta(seconds=1))
    assert (actions, run.copied) == ((), False)


def test_a_canary_is_scaled_down_until_it_is_and_told_and_let_go_if_it_cannot_be() -> None:
    later = NOW + minutes(11)
    run, actions = advance(ended(settled=True), sight(weight=0), later)
    assert (actions, run.scaled_down, run.canary_replicas) == ((Scale(0),), False, sight().canary.wanted)
    again, actions = advance(run, sight(weight=0), later + minutes(1))
    assert (actions, again) == ((Scale(0),), run)
    down = replace(sight(weight=0), canary=replace(sight().canary, wanted=0, pods=()))
    done, actions = advance(run, down, later + minutes(1))
    assert (actions, done.scaled_down, done.canary_replicas) == ((), True, run.canary_replicas)
    let_go, actions = advance(run, sight(weight=0), NOW + minutes(60))
    assert (let_go.scaled_down, [type(one) for one in actions]) == (True, [Tell])


def test_whether_a_canary_is_to_be_scaled_down_is_decided_when_it_is_known_what_it_is() -> None:
    """Its Deployment was written a moment ago, and its own controller has not caught up."""
    unknown = replace(sight(weight=0), canary=replace(sight().canary, template_hash=None))
    run, actions = advance(ended(settled=True), unknown, NOW + minutes(11))
    assert (actions, run.scaled_down) == ((), False)


def test_a_template_that_cannot_be_given_back_is_told_and_let_go() -> None:
    run = ended(reason=Reason.PROMOTION_FAILED, copied=True)
    stuck = sight(weight=0, stable=arm("analysed", 3), stable_matches=True)
    assert advance(run, stuck, NOW + minutes(14))[1] == (RestoreTemplate(),)

    run, actions = advance(run, stuck, NOW + minutes(16))
    assert told(actions) == [Reason.PROMOTION_FAILED]
    assert not run.copied


def test_what_somebody_else_gave_stable_meanwhile_is_left_alone() -> None:
    run = ended(reason=Reason.PROMOTION_FAILED, copied=True)
    run, actions = advance(run, sight(weight=0, stable=arm("third", 3)), NOW)

    assert (run.copied, actions) == (False, ())


@pytest.mark.parametrize("later", [0, 5])
def test_an_ended_run_leaves_size_and_weight_to_the_next_one(later: int) -> None:
    seen = sight(weight=later, successor=later)
    run, actions = advance(ended(), seen, NOW + minutes(11))

    assert actions == ()
    assert finished(run)


def test_an_ended_run_takes_its_own_traffic_away_before_the_next_one_has_any() -> None:
    run, actions = advance(ended(), sight(weight=50, successor=0), NOW + minutes(1))

    assert weights(actions) == [0]
    assert not run.settled


# -- breakers that must not fire


def test_a_canary_that_nothing_is_sent_to_is_not_blamed_for_its_silence() -> None:
    silent = LoadSeen(silence=1000, silent_for=timedelta(seconds=4))
    waiting, _ = advance(stepping(), sight(weight=0, load=silent), NOW + minutes(1))
    blamed, _ = advance(stepping(), sight(weight=5, load=silent), NOW + minutes(1))

    assert waiting.stage is Stage.STEPPING
    assert blamed.reason is Reason.CANARY_NOT_ANSWERING


def test_pods_asked_for_after_a_long_pause_have_the_whole_deadline() -> None:
    paused = sight(weight=0, canary=arm("new", 1), stable=arm("old", 30), commands=Commands(paused=True))
    run, _ = advance(a_run(), paused, NOW + minutes(60))
    run, actions = advance(run, replace(paused, commands=Commands()), NOW + minutes(60))
    assert actions == (Scale(2),)

    few = replace(paused, commands=Commands(), canary=arm("new", 1, wanted=2))
    assert advance(run, few, NOW + minutes(61))[0].stage is Stage.WAITING
    assert advance(run, few, NOW + minutes(76))[0].reason is Reason.CANARY_UNAVAILABLE


def test_evidence_that_begins_anew_is_not_a_lack_of_it() -> None:
    run = stepping(hold=Reason.INCONCLUSIVE, data_since=NOW + minutes(30))
    strict = replace(run.plan.policy, on_no_data=OnDoubt.ROLL_BACK)
    run = replace(run, plan=replace(run.plan, policy=strict))

    soon, _ = advance(run, sight(Verdict.NO_DATA), NOW + minutes(31))
    assert (soon.stage, soon.hold) == (Stage.STEPPING, Reason.INCONCLUSIVE)
    late, _ = advance(run, sight(Verdict.NO_DATA), NOW + minutes(36))
    assert late.reason is Reason.NO_DATA


ENOUGH = 10_000  # canary requests
seconds = timedelta(seconds=1).__mul__


def quiet(silent_for: float, *, due: float, **more: Any) -> Seen:
    """One of three pods completed nothing while so many requests were due there, at 5 %."""
    one = Quiet("new-1", round(due * 3 * 95 / 5), seconds(silent_for))
    return sight(Verdict.PASS, load=LoadSeen(step_canary_requests=ENOUGH, quiet=(one,), **more))


def test_one_pod_that_answers_nothing_is_held_at_once_and_rolled_back_soon() -> None:
    """One of two canary pods lost every request and was promoted: the other broke its silence."""
    run, actions = advance(stepping(), quiet(3, due=20), NOW + minutes(2))
    assert (run.passed, run.hold, weights(actions)) == (False, Reason.NO_DATA, [])
    assert "pod new-1 completed no request in 3 s" in run.message

    run, actions = advance(run, quiet(10, due=40), NOW + minutes(2))
    assert (run.reason, weights(actions)) == (Reason.CANARY_NOT_ANSWERING, [0])


def test_a_pod_that_stables_proxy_leaves_out_as_well_is_not_rolled_back() -> None:
    run, actions = advance(stepping(), quiet(60, due=400, uneven=True), NOW + minutes(2))
    assert (run.stage, run.hold, weights(actions)) == (Stage.STEPPING, Reason.NO_DATA, [])


@pytest.mark.parametrize("passed", [False, True])
def test_no_step_is_passed_while_a_pod_is_not_heard(*, passed: bool) -> None:
    """One of two pods failed every request, its page never came, and the canary was promoted."""
    load = LoadSeen(step_canary_requests=ENOUGH, unheard=("new-1",))
    deaf = sight(Verdict.PASS, load=load)
    run, actions = advance(stepping(passed=passed), deaf, NOW + minutes(2))
    assert (run.passed, run.step, weights(actions)) == (passed, 0, [])

    run, actions = advance(run, replace(deaf, trouble="new-1: refused"), NOW + minutes(2))
    assert (run.hold, told(actions)) == (Reason.NO_DATA, [Reason.NO_DATA])
    assert "pod new-1 shows no fresh metrics page: new-1: refused" in run.message
    run, actions = advance(run, sight(Verdict.PASS, load=replace(load, unheard=())), NOW + minutes(2))
    assert weights(actions) == [50]


def test_a_step_is_not_passed_by_figures_of_half_a_minute_ago() -> None:
    """All pages went away at 80 s, all requests failed from 81 s on, and it passed at 93 s."""
    old = sight(Verdict.PASS, load=LoadSeen(step_canary_requests=ENOUGH), overdue=("errors",))
    run, actions = advance(stepping(), old, NOW + minutes(2))
    assert (run.passed, weights(actions)) == (False, [])
    run, actions = advance(stepping(passed=True), old, NOW + minutes(2))
    assert (run.hold, weights(actions)) == (None, [])
    run, actions = advance(run, old, NOW + minutes(6))
    assert (run.hold, weights(actions)) == (Reason.NO_DATA, [])
    assert "errors: no fresh figures of both arms" in run.message


def test_no_step_is_passed_while_a_pod_serves_and_shows_nothing_of_a_check() -> None:
    """Half of the canary's users were on a pod without predictions, and it was promoted."""
    load = LoadSeen(step_canary_requests=ENOUGH)
    blind = sight(Verdict.PASS, load=load, unshown="pod new-1 serves requests and shows nothing of scores")
    run, actions = advance(stepping(), blind, NOW + minutes(2))
    assert (run.passed, run.hold, weights(actions)) == (False, Reason.NO_DATA, [])
    assert "pod new-1 serves requests and shows nothing of scores" in run.message
    run, actions = advance(stepping(passed=True), blind, NOW + minutes(2))
    assert (run.hold, weights(actions)) == (Reason.NO_DATA, [])
    run, actions = advance(run, sight(Verdict.PASS, load=load), NOW + minutes(2))
    assert weights(actions) == [50]


@pytest.mark.parametrize(("away", "missed"), [(9, 10_000), (60, 379)])
def test_pages_that_are_away_for_a_moment_do_not_roll_back(away: float, missed: int) -> None:
    load = LoadSeen(unheard=("new-1",), unheard_for=seconds(away), missed=missed)
    assert advance(stepping(), sight(load=load), NOW + minutes(1))[0].stage is Stage.STEPPING


def test_a_canary_of_which_nothing_is_heard_for_long_loses_its_traffic_and_the_event_says_what_is_known() -> (
    None
):
    load = LoadSeen(unheard=("new-1",), unheard_for=seconds(10), missed=380)
    run, actions = advance(stepping(), sight(load=load), NOW + minutes(1))
    assert (run.reason, weights(actions)) == (Reason.NO_DATA, [0])
    assert "no metrics page of model-canary was read for 10 s, while stable completed 380" in run.message


# -- a policy that proceeds


def test_proceeding_needs_the_requests_and_the_time_that_a_pass_needs() -> None:
    """`minRequests: 1000` was promoted at 279, and said that every step has passed."""
    run = stepping(policy={"on_inconclusive": OnDoubt.PROCEED, "min_requests": 1000}, step=1, weight=50)
    late = NOW + run.plan.policy.step_timeout + minutes(1)
    few = sight(weight=50, load=LoadSeen(step_canary_requests=279))
    held, actions = advance(run, few, late)
    assert (held.stage, held.hold) == (Stage.STEPPING, Reason.INCONCLUSIVE)
    assert "279 of minRequests 1000" in held.message

    went, actions = advance(held, sight(weight=50, load=LoadSeen(step_canary_requests=1000)), late)
    assert (went.stage, told(actions)) == (Stage.PROMOTING, [Reason.PROMOTING])
    assert "not proven" in went.message


# -- silence never promotes


def test_a_pass_of_long_ago_raises_nothing_while_there_is_no_data() -> None:
    run, actions = advance(stepping(passed=True), sight(Verdict.NO_DATA), NOW + minutes(60))
    assert (run.hold, weights(actions)) == (Reason.NO_DATA, [])

    run, actions = advance(run, sight(Verdict.INCONCLUSIVE), NOW + minutes(61))
    assert weights(actions) == [50]


def test_nothing_is_copied_to_stable_while_there_is_no_data() -> None:
    run, actions = advance(promoting(passed=True), sight(Verdict.NO_DATA, weight=50), NOW + minutes(1))
    assert (actions, run.copied) == ((), False)

    by_hand = sight(Verdict.NO_DATA, weight=50, commands=Commands(promote="I know"))
    assert advance(run, by_hand, NOW + minutes(1))[0].copied


def test_stable_without_a_ready_pod_is_not_promoted_onto() -> None:
    empty = sight(weight=50, stable=arm("new", 0), stable_matches=True)
    run, actions = advance(promoting(copied=True), empty, NOW + minutes(1))
    assert (run.stage, weights(actions)) == (Stage.PROMOTING, [])

    run, _ = advance(run, empty, NOW + minutes(16))
    assert (run.weight, run.hold) == (50, Reason.STABLE_UNAVAILABLE)


def test_a_run_whose_stable_has_no_pods_says_so_and_blames_no_share_of_traffic() -> None:
    empty = arm("old", 0, wanted=3)
    odd = sight(stable=empty, load=LoadSeen(follows_weight=False))
    run, actions = advance(stepping(), odd, NOW + minutes(1))
    assert (run.hold, weights(actions)) == (Reason.STABLE_UNAVAILABLE, [])
    assert run.message == "model has no ready pod to compare with, or to take the traffic back"
    passed, actions = advance(stepping(passed=True), sight(Verdict.PASS, stable=empty), NOW + minutes(1))
    assert (passed.hold, weights(actions)) == (Reason.STABLE_UNAVAILABLE, [])

    waiting, actions = advance(a_run(), sight(weight=0, stable=empty, canary_read=True), NOW)
    assert (waiting.hold, weights(actions)) == (None, [])
    _, actions = advance(waiting, sight(weight=0, canary_read=True), NOW)
    assert weights(actions) == [5]


def test_a_new_leader_looks_before_it_repairs_a_weight_upwards() -> None:
    new = sight(weight=0, looked=False)
    assert weights(advance(stepping(), new, NOW + minutes(1))[1]) == []
    assert weights(advance(stepping(), replace(new, looked=True), NOW + minutes(1))[1]) == [5]
    assert weights(advance(ended(), sight(weight=5, looked=False), NOW + minutes(1))[1]) == [0]


@pytest.mark.parametrize("stops", [Commands(paused=True), Commands(frozen=True)])
def test_a_weight_that_somebody_took_is_not_given_back_while_the_run_is_paused_or_frozen(
    stops: Commands,
) -> None:
    """Found by a history: a leader died before its raise, and the next one raised after the pause."""
    for there, sent in ((0, []), (None, [5]), (9, [5])):
        route = RouteSeen(weight=there)
        run, actions = advance(stepping(), sight(route=route, commands=stops), NOW + minutes(1))
        assert (weights(actions), run.weight) == (sent, 5)
    _, actions = advance(run, sight(weight=0), NOW + minutes(2))
    assert weights(actions) == [5]


def test_who_promotes_by_hand_waits_for_no_page() -> None:
    """Seed 5064: a Prometheus whose clock was a day off kept the run in Promoting, without a word."""
    blind = sight(weight=50, looked=False, commands=Commands(promote="by hand"))
    run, actions = advance(promoting(), blind, NOW + minutes(1))
    assert (run.copied, actions) == (True, (CopyTemplate(),))
    run, actions = advance(promoting(passed=True), replace(blind, commands=Commands()), NOW + minutes(1))
    assert not run.copied


RAISED_FROM = Sighting(generation=3, version="30")


def service(weight: int, generation: int, *, version: str = "99", ours: bool = True) -> RouteSeen:
    return RouteSeen(weight=weight, sighting=Sighting(generation=generation, version=version), ours=ours)


@pytest.mark.parametrize("pods", [3, 0])
def test_a_fall_whose_reason_was_never_written_down_is_not_undone(pods: int) -> None:
    taken = sight(route=service(0, 5), stable=arm("old", pods))
    run, actions = advance(stepping(raised_from=RAISED_FROM), taken, NOW + minutes(1))

    assert (run.stage, run.reason, weights(actions)) == (Stage.ENDED, Reason.LEADER_LOST, [0])
    assert "a leader took its 5 % away" in run.message


@pytest.mark.parametrize(
    ("raised_from", "route"),
    [
        (RAISED_FROM, service(0, 3, version="31")),  # the raise was never made
        (RAISED_FROM, service(0, 5, ours=False)),  # somebody else's weights
        (None, service(0, 5)),  # another version's status
    ],
)
def test_what_was_not_taken_away_by_us_is_given(raised_from: Sighting | None, route: RouteSeen) -> None:
    run, actions = advance(stepping(raised_from=raised_from), sight(route=route), NOW + minutes(1))
    assert (run.stage, weights(actions)) == (Stage.STEPPING, [5])
    assert run.raised_from == route.sighting


@pytest.mark.parametrize(("ours", "known"), [(False, True), (True, False)])
def test_a_raise_upon_other_people_s_weights_is_known_by_them_if_its_fall_is_never_written_down(
    *, ours: bool, known: bool
) -> None:
    """Seed 43589: a leader took it away and was lost, and the next gave a failing canary its weight back."""
    there = service(100, 4, ours=ours)
    run, actions = advance(a_run(), sight(route=there), NOW)
    assert (run.stage, weights(actions)) == (Stage.STEPPING, [5])
    assert run.raised_from == (there.sighting if known else None)
    run, _ = advance(run, sight(route=service(0, 6)), NOW + minutes(1))
    assert (run.reason is Reason.LEADER_LOST) == known


def test_a_promotion_that_is_through_is_one_although_its_end_was_never_written_down() -> None:
    done = sight(route=service(0, 9), stable=arm("new", 3), stable_matches=True)
    run, _ = advance(promoting(copied=True, raised_from=RAISED_FROM), done, NOW + minutes(1))
    assert run.reason is Reason.PROMOTED


def test_a_new_leader_looks_before_it_calls_a_canary_with_traffic_promoted() -> None:
    run = promoting(copied=True, step_since=NOW)
    there = sight(weight=50, stable=arm("new", 3), stable_matches=True, looked=False)
    after, actions = advance(run, there, NOW + minutes(1))
    assert (after.stage, actions) == (Stage.PROMOTING, ())
    assert advance(run, replace(there, looked=True), NOW + minutes(1))[0].reason is Reason.PROMOTED

    deadline = NOW + run.plan.policy.progress_deadline + minutes(1)  # no page of it comes, ever
    assert advance(run, there, deadline)[0].reason is Reason.PROMOTED


def test_what_was_taken_while_stable_is_rolled_out_is_not_given_back() -> None:
    """Seed 7580: a frozen leader had seen the canary fail, while the next one promoted it, as approved."""
    rolling = arm("new", 1, wanted=3)
    done = sight(route=service(0, 9), stable=rolling, stable_matches=True)
    run, actions = advance(promoting(copied=True, raised_from=RAISED_FROM), done, NOW + minutes(1))
    assert (run.stage, weights(actions), run.told) == (Stage.PROMOTING, [], ())

    anybodys = replace(done, route=service(0, 9, ours=False))
    _, actions = advance(promoting(copied=True, raised_from=RAISED_FROM), anybodys, NOW + minutes(1))
    assert weights(actions) == [50]


def test_a_raise_that_may_be_on_its_way_is_fenced_off_before_a_run_is_done() -> None:
    run = ended(scaled_down=True, raised_from=RAISED_FROM)
    run, actions = advance(run, sight(route=service(0, 3, version="30")), NOW + minutes(1))
    assert (run.settled, actions) == (False, (Fence(),))

    run, actions = advance(run, sight(route=service(0, 3, version="31")), NOW + minutes(2))
    assert (run.settled, actions) == (True, ())


def test_a_raise_remembers_what_it_was_decided_upon_if_that_was_as_the_run_knew_it() -> None:
    ready = sight(Verdict.PASS, route=service(0, 7))
    for weight, kept in ((0, ready.route.sighting), (30, None)):
        seen = replace(ready, route=replace(ready.route, weight=weight))
        run, actions = advance(a_run(), seen, NOW + minutes(1))
        assert (weights(actions), run.raised_from) == ([5], kept)


def test_a_new_leader_looks_before_it_goes_on_however_late_it_is() -> None:
    run = stepping(policy={"on_inconclusive": OnDoubt.PROCEED})
    late = NOW + run.plan.policy.step_timeout + minutes(1)
    for sure in (
        sight(looked=False, load=LoadSeen(step_canary_requests=999)),
        sight(Verdict.PASS, looked=False, load=LoadSeen(step_canary_requests=999)),
    ):
        after, actions = advance(run, sure, late)
        assert (after.stage, after.step, weights(actions)) == (Stage.STEPPING, 0, [])
        assert weights(advance(run, replace(sure, looked=True), late)[1]) == [50]


def test_a_new_leader_looks_before_it_copies_a_template() -> None:
    run, unseen = promoting(passed=True), sight(Verdict.PASS, weight=50, looked=False)
    assert CopyTemplate() not in advance(run, unseen, NOW + minutes(1))[1]
    assert CopyTemplate() in advance(run, replace(unseen, looked=True), NOW + minutes(1))[1]


# -- holds that end


def test_an_approval_lasts_until_the_pods_for_the_next_weight_are_there() -> None:
    run = stepping(hold=Reason.INCONCLUSIVE)
    small = sight(canary=arm("new", 1), commands=Commands(approvals=1))
    run, actions = advance(run, small, NOW + minutes(11))
    assert actions == (Scale(3),)

    run, actions = advance(run, replace(small, canary=arm("new", 1, wanted=3)), NOW + minutes(12))
    assert (run.hold, run.approved, actions) == (Reason.INCONCLUSIVE, 0, ())
    run, actions = advance(run, replace(small, canary=arm("new", 3)), NOW + minutes(13))
    assert (run.approved, weights(actions)) == (1, [50])


def test_a_run_remembers_how_long_stable_was_known_at_its_canarys_first_requests() -> None:
    known = timedelta(seconds=612)
    run, _ = advance(a_run(), sight(weight=0, stable_known=known), NOW)
    assert (run.weight, run.stable_known) == (5, known)
    later = sight(Verdict.PASS, stable_known=2 * known, load=LoadSeen(step_canary_requests=10**6))
    run, _ = advance(run, later, NOW)  # the step begins
    run, _ = advance(run, later, NOW + minutes(5))
    assert (run.weight, run.stable_known) == (50, known)


def test_a_step_that_waits_for_pods_in_vain_says_so_once() -> None:
    run = stepping(passed=True, policy={"progress_deadline": minutes(2)})
    few = sight(Verdict.PASS, canary=arm("new", 1, wanted=3))
    run, _ = advance(run, few, NOW + minutes(1))
    assert run.hold is None

    run, actions = advance(run, few, NOW + minutes(3))
    assert (run.hold, told(actions)) == (Reason.CANARY_UNDER_PROVISIONED, [Reason.CANARY_UNDER_PROVISIONED])
    assert advance(run, few, NOW + minutes(4))[1] == ()


def test_a_canary_grows_with_a_stable_that_was_scaled_up_under_it() -> None:
    run = stepping(weight=50, step=1)
    run, actions = advance(run, sight(weight=50, stable=arm("old", 6)), NOW + minutes(1))

    assert run.hold is Reason.CANARY_UNDER_PROVISIONED
    assert run.message.startswith("3 of 3 pods of model-canary are ready; at 50 % each would take more than")
    assert run.message.endswith("it needs 6 replicas")
    assert actions[0] == Scale(6)


def test_pods_that_are_not_ready_are_what_is_missing_where_replicas_are_enough() -> None:
    """It said that the canary needed two replicas, which it had."""
    few = sight(weight=50, canary=arm("new", 1, wanted=3))
    run, _ = advance(stepping(weight=50, step=1), few, NOW + minutes(1))
    assert run.message.startswith("1 of 3 pods of model-canary are ready; at 50 % each would take more than")
    assert run.message.endswith("3 ready ones are enough")


def test_pods_of_an_older_template_that_stay_keep_no_run_waiting_for_ever() -> None:
    """A rollout that stands still: what is ready is not the canary, and nothing said so."""
    run = a_run(policy={"progress_deadline": minutes(10)}, data_since=NOW)
    stuck = sight(Verdict.NO_DATA, weight=0, canary=replace(arm("new", 2), rolled_out=False))
    for minute in (0, 5, 10):
        run, _ = advance(run, stuck, NOW + minutes(minute))
        assert run.stage is Stage.WAITING
    after, _ = advance(run, stuck, NOW + minutes(10.1))
    assert after.reason is Reason.CANARY_UNAVAILABLE
    assert "had not replaced those of an older template within 600 s" in after.message


# -- interruptions


GONE = sight(canary=replace(arm("new", 0), wanted=3))


def interrupted(run: Run, *, times: int, at: float = 0) -> Run:
    """The run whose pods were evicted so often, and were back each time but the last."""
    for turn in range(times):
        run, actions = advance(run, GONE, NOW + minutes(at + 2 * turn))
        assert weights(actions) == [0]
        if turn + 1 < times:
            run, actions = advance(run, sight(weight=0), NOW + minutes(at + 2 * turn + 1))
            assert weights(actions) == [5]
    return run


def test_a_canary_whose_pods_do_not_stay_waits_for_a_person_and_gets_no_traffic() -> None:
    """It began its step anew for ever, and broke users' requests off each time."""
    run = interrupted(stepping(), times=MOST_INTERRUPTIONS)
    for minute in range(100, 200):
        run, actions = advance(run, sight(Verdict.PASS, weight=0), NOW + minutes(minute))
        assert weights(actions) == []
    assert (run.hold, run.stage, run.weight) == (Reason.INCONCLUSIVE, Stage.WAITING, 0)
    assert run.message.startswith("its pods were evicted 5 times at step 1: see why")

    approved = sight(weight=0, commands=Commands(approvals=1))
    run, actions = advance(run, approved, NOW + minutes(201))
    assert (weights(actions), run.approved, run.hold) == ([5], 1, None)
    run = interrupted(run, times=MOST_INTERRUPTIONS - 1, at=202)
    run, actions = advance(run, sight(weight=0), NOW + minutes(220))
    assert weights(actions) == [5]
    run, _ = advance(run, GONE, NOW + minutes(221))
    run, actions = advance(run, approved, NOW + minutes(222))
    assert (run.hold, weights(actions)) == (Reason.INCONCLUSIVE, [])


@pytest.mark.parametrize("wish", [OnDoubt.PROCEED, OnDoubt.HOLD, OnDoubt.ROLL_BACK])
def test_pods_that_do_not_stay_are_rolled_back_if_the_policy_says_so_of_doubt(wish: OnDoubt) -> None:
    run = interrupted(stepping(policy={"on_inconclusive": wish}), times=MOST_INTERRUPTIONS)
    run, _ = advance(run, sight(weight=0), NOW + minutes(100))
    ends = wish is OnDoubt.ROLL_BACK
    assert (run.stage is Stage.ENDED, run.weight) == (ends, 0)
    assert (run.reason if ends else run.hold) is Reason.INCONCLUSIVE


def test_another_step_s_interruptions_do_not_count_for_this_one() -> None:
    run = interrupted(stepping(), times=MOST_INTERRUPTIONS - 1)
    run, _ = advance(run, sight(weight=0), NOW + minutes(50))
    run, _ = advance(run, sight(), NOW + minutes(51))
    run, actions = advance(replace(run, passed=True), sight(Verdict.PASS), NOW + minutes(60))
    assert weights(actions) == [50]
    assert interruptions(run) == 0
    run, _ = advance(run, replace(GONE, route=RouteSeen(weight=50)), NOW + minutes(61))
    assert interruptions(run) == 1
    run, actions = advance(run, sight(weight=0), NOW + minutes(62))
    assert weights(actions) == [50]


def test_a_history_of_weights_has_an_end_and_keeps_how_it_began() -> None:
    run = stepping()
    for turn in range(200):
        run = interrupted(run, times=1, at=2 * turn)
        approved = Commands(approvals=run.approved + 1)
        for _ in range(2):  # held, and approved
            run, _ = advance(run, sight(weight=0, commands=approved), NOW + minutes(2 * turn + 1))
    assert run.weight == 5
    assert len(run.weights) == FIRST_CHANGES + LAST_CHANGES
    assert [change.at for change in run.weights[:3]] == [NOW, NOW + minutes(1), NOW + minutes(2)]
    assert run.weights[-1].at == NOW + minutes(399)
    assert [change.weight for change in run.weights[-4:]] == [0, 5, 0, 5]


@pytest.mark.parametrize("ahead", [-60, 0, 60])  # minutes that our clock is, compared with the API server's
def test_an_evicted_pods_successor_is_known_whatever_our_clock_says(ahead: float) -> None:
    then = NOW - minutes(ahead)  # what the API server calls our NOW
    served = replace(arm("new", 3), pods=tuple(replace(pod, created=then) for pod in arm("new", 3).pods))
    waiting = a_run(data_since=NOW, weights=(), stable_known=timedelta(0))
    ready = sight(Verdict.PASS, weight=0, canary=served, canary_read=True)
    run, actions = advance(waiting, ready, NOW)
    assert weights(actions) == [5]

    def unready(created: datetime) -> Seen:
        pods = tuple(replace(pod, ready=False, created=created) for pod in served.pods)
        return sight(canary=replace(served, pods=pods))

    now = NOW + minutes(1)
    after, _ = advance(run, unready(then + timedelta(seconds=59)), now)
    assert (after.hold, after.reason) == (Reason.INTERRUPTED, None)
    after, _ = advance(run, unready(then), now)  # they are there still, and failed
    assert after.reason is Reason.CANARY_UNAVAILABLE
    outgrew = replace(served, pods=(), overran=(then + minutes(1), "exceeds its limit"))
    after, _ = advance(run, sight(canary=outgrew), now)
    assert after.reason is Reason.CANARY_UNAVAILABLE


def test_a_pod_that_outgrew_its_own_limits_was_not_healthy() -> None:
    why = 'Container m exceeded its local ephemeral storage limit "1Gi". '
    gone = replace(GONE.canary, overran=(NOW + minutes(1), why))
    run, actions = advance(stepping(), sight(canary=gone), NOW + minutes(1))
    assert (run.reason, weights(actions)) == (Reason.CANARY_UNAVAILABLE, [0])
    assert run.message.endswith(why.strip())

    before = replace(gone, overran=(NOW - minutes(1), why))  # an earlier run's
    run, _ = advance(stepping(), sight(canary=before), NOW + minutes(1))
    assert run.hold is Reason.INTERRUPTED


# -- what is said


def test_an_alert_that_has_not_arrived_is_not_queued_twice() -> None:
    alert = replace(a_run().plan.policy.alerts[0], on=("Held",))
    run = stepping(policy={"alerts": (alert,)})
    gone = sight(canary=replace(arm("new", 0), wanted=3))
    for turn in range(4):
        run, _ = advance(run, gone, NOW + minutes(2 * turn))
        run, _ = advance(run, sight(weight=0), NOW + minutes(2 * turn + 1))

    assert len(run.weights) == 8
    assert len(run.outbox) == 1


def test_a_step_begins_when_its_weight_is_there() -> None:
    """Seed 1684: a leader died before its raise, and two seconds of 50 % were all there was of that step.

    Seed 9155: it died after it, and the time until the raise got through counted.
    """
    step = {"step": 1, "weight": 50, "weight_since": NOW, "raised_from": RAISED_FROM}
    lent = {"policy": {"on_inconclusive": OnDoubt.PROCEED}}
    load = LoadSeen(step_canary_requests=5000)
    run = stepping(**step, **lent)
    for minute in range(1, 30):  # as long as it takes, be it a Pass or none
        verdict = Verdict.PASS if minute % 2 else Verdict.INCONCLUSIVE
        seen = sight(verdict, route=service(5, 3, version="31"), load=load)
        run, actions = advance(run, seen, NOW + minutes(minute))
        assert (run.stage, run.step, run.passed) == (Stage.STEPPING, 1, False)
        assert run.step_since is None
        assert weights(actions) == [50]
        assert not any(isinstance(action, BeginStep) for action in actions)  # no harm is forgotten
        run = replace(run, raised_from=RAISED_FROM)  # nobody has heard of the patch

    there, actions = advance(run, sight(route=service(50, 4), load=load), NOW + minutes(31))
    assert (there.step_since, weights(actions)) == (NOW + minutes(31), [])
    others, actions = advance(there, sight(route=service(5, 5, ours=False)), NOW + minutes(32))
    assert (others.step_since, weights(actions)) == (NOW + minutes(31), [50])  # people's doing: given back


def test_a_repair_that_does_not_get_through_is_told_once() -> None:
    run, said = stepping(), []
    for second in range(10, 20):
        run, actions = advance(run, sight(weight=70), NOW + timedelta(seconds=second))
        assert weights(actions) == [5]
        said += told(actions)

    assert said == [Reason.WEIGHT_REPAIRED]


def test_a_canary_that_has_a_weight_before_its_run_begins_has_none_while_it_waits() -> None:
    """What git had in the VirtualService served users at 10 %, of a canary that "gets no traffic"."""
    given = RouteSeen(weight=10, left=True)
    waiting, unread = a_run(), sight(route=given, canary_read=False, trouble="no page")
    run, actions = advance(waiting, unread, NOW + minutes(1))
    assert (weights(actions), run.weight, run.weights) == ([0], 0, ())
    assert Reason.WEIGHT_REPAIRED in told(actions)
    of_one_route = replace(given, weight=None)
    assert weights(advance(waiting, replace(unread, route=of_one_route), NOW)[1]) == [0]
    for route in (RouteSeen(weight=0), replace(given, left=False)):  # of a run of which nobody may have heard
        assert weights(advance(waiting, replace(unread, route=route), NOW)[1]) == []
    nobody = replace(unread, stable=arm("old", 0, wanted=3))
    assert weights(advance(waiting, nobody, NOW + minutes(1))[1]) == []
    over = ended(weight_since=None, reason=Reason.SUPERSEDED, settled=False)  # a successor's weight, perhaps
    assert weights(advance(over, unread, NOW + minutes(1))[1]) == []


def test_handing_off_waits_for_whoever_promotes() -> None:
    run = promoting(policy={"promotion": PromotionMode.HANDOFF}, passed=True)
    run, _ = advance(run, sight(weight=50), NOW + minutes(600))
    assert run.hold is Reason.READY_TO_PROMOTE

    run, actions = advance(run, sight(weight=50, stable=arm("x", 3), stable_matches=True), NOW + minutes(601))
    assert (run.reason, weights(actions)) == (Reason.PROMOTED, [0])


def test_a_hand_off_is_withdrawn_while_nothing_is_known() -> None:
    """Pages went away, every request failed, and git was still told that all had passed."""
    run = promoting(policy={"promotion": PromotionMode.HANDOFF}, passed=True)
    ready, _ = advance(run, sight(weight=50), NOW + minutes(60))
    load = LoadSeen(unheard=("new-1",))
    run, actions = advance(ready, sight(weight=50, load=load), NOW + minutes(61))
    assert (run.hold, told(actions)) == (Reason.NO_DATA, [Reason.NO_DATA])
    run, _ = advance(run, sight(weight=50), NOW + minutes(62))
    assert run.hold is Reason.READY_TO_PROMOTE

    strict = replace(ready.plan.policy, on_no_data=OnDoubt.ROLL_BACK)
    run, _ = advance(ready, sight(weight=50, load=load), NOW + minutes(61))
    run = replace(run, plan=replace(run.plan, policy=strict))
    run, actions = advance(run, sight(weight=50, load=load), NOW + minutes(66))
    assert (run.reason, weights(actions)) == (Reason.NO_DATA, [0])


def test_a_promotion_that_somebody_undoes_is_given_up_and_not_fought_over() -> None:
    half = replace(arm("analysed", 3), rolled_out=False)
    rolling = sight(weight=50, stable=half, stable_matches=True)
    run, _ = advance(promoting(copied=True), rolling, NOW + minutes(1))
    run, actions = advance(run, sight(weight=50), NOW + minutes(2))

    assert (run.reason, run.stage, weights(actions)) == (Reason.PROMOTION_FAILED, Stage.ENDED, [0])
    assert "use promotion.mode Handoff" in run.message


def test_a_canary_whose_pages_cannot_be_read_gets_no_traffic_and_people_are_told_why() -> None:
    unread = sight(weight=0, canary_read=False)
    run, actions = advance(a_run(), unread, NOW + timedelta(seconds=20))
    assert (run.weight, run.hold, actions) == (0, None, ())

    unread = replace(unread, trouble="pod a: connection refused")
    run, actions = advance(run, unread, NOW + minutes(1))
    assert (run.weight, run.hold, told(actions)) == (0, Reason.NO_DATA, [Reason.NO_DATA])
    assert "connection refused" in run.message

    run, actions = advance(run, replace(unread, canary_read=True), NOW + minutes(2))
    assert weights(actions) == [5]


@pytest.mark.parametrize(
    ("ready", "canary", "said"),
    [
        (3, 1, "step 1 of 2: 5 %, at 16 % of stable's load per pod"),
        (30, 2, "step 1 of 2: 5 %, at 79 % of stable's load per pod"),
    ],
)
def test_a_weight_that_tries_the_canary_at_less_load_than_stable_says_so(
    ready: int, canary: int, said: str
) -> None:
    seen = sight(weight=0, stable=arm("old", ready), canary=arm("new", canary))

    assert advance(a_run(), seen, NOW)[0].message == said


def test_testers_who_are_led_to_the_canary_by_a_route_are_told_with_the_raise() -> None:
    seen = sight(Verdict.PASS, route=RouteSeen(weight=5, pinned="spec.http[0]"))
    _, actions = advance(stepping(passed=True), seen, NOW + minutes(2))
    (raised,) = [action for action in actions if isinstance(action, Tell)]
    assert "testers' requests count as the canary's (spec.http[0] leads whom it matches" in raised.message

    strays = replace(seen, load=replace(seen.load, follows_weight=False))
    run, _ = advance(stepping(), strays, NOW + minutes(2))
    assert run.hold is Reason.TRAFFIC_DOES_NOT_FOLLOW_WEIGHT
    assert run.message.endswith(
        "another route to the pods (spec.http[0] leads whom it matches there at any weight)"
    )


def test_a_stable_that_is_short_of_pods_is_told_with_the_raise() -> None:
    seen = sight(weight=0, stable=arm("old", 2, wanted=3), canary=arm("new", 1))

    assert advance(a_run(), seen, NOW)[0].message.endswith("; only 2 of 3 pods of model are ready")


# -- promotions that wait

UNHEARD = LoadSeen(unheard=("new-1",))


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.NO_DATA])
def test_a_promotion_by_hand_that_is_taken_back_before_the_copy_gives_nothing(verdict: Verdict) -> None:
    promote = Commands(promote="now")
    run, _ = advance(stepping(), sight(verdict, commands=promote), NOW)
    assert (run.stage, run.by_hand) == (Stage.PROMOTING, True)
    run, _ = advance(run, sight(verdict, commands=replace(promote, paused=True)), NOW)
    assert (run.hold, run.copied) == (Reason.PAUSED, False)
    run, actions = advance(run, sight(verdict, commands=Commands(paused=True)), NOW)  # {"promote": null}
    assert (run.stage, run.step, run.weight, actions) == (Stage.STEPPING, 0, 5, ())
    run, actions = advance(run, sight(verdict), NOW)  # and resumed
    assert (run.stage, run.copied, actions) == (Stage.STEPPING, False, ())


@pytest.mark.parametrize("landed", [False, True])
def test_a_promotion_by_hand_that_is_taken_back_with_its_copy_on_the_way_ends_the_run(
    *, landed: bool
) -> None:
    """Seed 43262: a leader decided upon the copy and was killed; the next made it, which nobody wanted."""
    run = promoting(copied=True, by_hand=True, landed=landed)
    stable = replace(arm("analysed", 3), rolled_out=False) if landed else arm("old", 3)
    seen = sight(weight=50, stable=stable, stable_matches=landed)
    after, _ = advance(run, replace(seen, commands=Commands(promote="now")), NOW + minutes(1))
    assert after.stage is Stage.PROMOTING
    after, actions = advance(run, seen, NOW + minutes(1))
    assert (after.stage is Stage.PROMOTING) == landed  # what has begun is taken back by an abort
    if not landed:
        assert (after.reason, weights(actions), CopyTemplate() in actions) == (Reason.ABORTED, [0], False)
        assert RestoreTemplate() in advance(after, replace(seen, fenced=False), NOW + minutes(1))[1]


def test_a_paused_run_is_promoted_by_hand_once_it_is_resumed() -> None:
    run, actions = advance(stepping(), sight(commands=Commands(promote="now", paused=True)), NOW)
    assert (run.stage, run.hold, told(actions)) == (Stage.STEPPING, Reason.PAUSED, [Reason.PAUSED])
    run, _ = advance(run, sight(commands=Commands(promote="now")), NOW)
    assert run.stage is Stage.PROMOTING
    run, actions = advance(run, sight(commands=Commands(promote="now")), NOW)
    assert CopyTemplate() in actions


def test_what_goes_on_in_doubt_and_is_frozen_is_not_promoted_in_silence() -> None:
    """The policy goes on with doubt, never with silence; metrics died while the freeze lasted."""
    load = LoadSeen(step_canary_requests=10_000)
    run = stepping(step=1, weight=50, policy={"on_inconclusive": OnDoubt.PROCEED})
    run, _ = advance(run, sight(Verdict.INCONCLUSIVE, weight=50, load=load), NOW + minutes(600))
    assert (run.stage, run.passed) == (Stage.PROMOTING, False)
    frozen = sight(Verdict.NO_DATA, weight=50, commands=Commands(frozen=True))
    run, _ = advance(run, frozen, NOW + minutes(601))
    assert run.hold is Reason.FROZEN
    blind, actions = advance(run, sight(Verdict.NO_DATA, weight=50), NOW + minutes(660))
    assert (blind.hold, blind.copied, CopyTemplate() in actions) == (Reason.NO_DATA, False, False)
    _, actions = advance(run, sight(Verdict.INCONCLUSIVE, weight=50), NOW + minutes(660))
    assert CopyTemplate() in actions


def test_an_approval_lets_a_promotion_go_on_that_is_held_in_doubt_or_in_silence() -> None:
    doubtful = CheckJudgement(
        name="errors", verdict=Verdict.INCONCLUSIVE, log_e=0.0, log_e_pass=0.0, doubtful=True
    )
    seen = replace(sight(Verdict.INCONCLUSIVE, weight=50))
    seen = replace(seen, judgement=replace(seen.judgement, checks=(doubtful,)))
    for held, why in ((seen, Reason.INCONCLUSIVE), (sight(weight=50, load=UNHEARD), Reason.NO_DATA)):
        run, _ = advance(promoting(passed=True), held, NOW + minutes(60))
        assert (run.hold, run.copied) == (why, False)
        run, actions = advance(run, replace(held, commands=Commands(approvals=1)), NOW + minutes(61))
        assert (run.copied, run.approved, CopyTemplate() in actions) == (True, 1, True)


def test_who_approves_after_a_silence_is_over_has_not_approved_the_next_one() -> None:
    """Seed 43281: it promoted a canary that nobody had read of for 11 s."""
    blind, known = sight(Verdict.NO_DATA, weight=50), sight(Verdict.INCONCLUSIVE, weight=50)
    approved = Commands(approvals=1)
    run, _ = advance(stepping(step=1, weight=50), blind, NOW + minutes(6))
    assert run.hold is Reason.NO_DATA
    run, _ = advance(run, known, NOW + minutes(7))
    run, _ = advance(run, replace(known, commands=approved), NOW + minutes(7))
    assert (run.hold, run.stage) == (None, Stage.STEPPING)
    run, _ = advance(run, replace(blind, commands=approved), NOW + minutes(17))
    assert (run.hold, run.stage) == (Reason.NO_DATA, Stage.STEPPING)
    run, _ = advance(run, replace(blind, commands=Commands(approvals=2)), NOW + minutes(18))
    assert (run.stage, run.blind) == (Stage.PROMOTING, True)


def test_who_approves_silence_at_the_last_step_is_not_asked_once_more_at_the_promotion() -> None:
    blind = sight(Verdict.NO_DATA, weight=50)
    run, _ = advance(stepping(step=1, weight=50), blind, NOW + minutes(60))
    assert run.hold is Reason.NO_DATA
    run, _ = advance(run, replace(blind, commands=Commands(approvals=1)), NOW + minutes(61))
    assert (run.stage, run.blind) == (Stage.PROMOTING, True)
    run, actions = advance(run, replace(blind, commands=Commands(approvals=1)), NOW + minutes(62))
    assert CopyTemplate() in actions


@pytest.mark.parametrize("mode", PromotionMode)
def test_a_canary_that_is_drained_while_its_promotion_waits_has_not_failed(mode: PromotionMode) -> None:
    run = promoting(passed=True, policy={"promotion": mode})
    paused = Commands(paused=mode is PromotionMode.COPY)
    run, _ = advance(run, sight(Verdict.PASS, weight=50, commands=paused), NOW + minutes(60))
    gone = sight(weight=50, canary=replace(arm("new", 0), wanted=3), commands=paused)
    run, actions = advance(run, gone, NOW + minutes(61))
    assert (run.stage, run.weight, weights(actions)) == (Stage.WAITING, 0, [0])
    assert run.hold is Reason.INTERRUPTED
    run, actions = advance(run, sight(weight=0), NOW + minutes(62))
    assert (run.stage, run.passed, weights(actions)) == (Stage.STEPPING, False, [50])
