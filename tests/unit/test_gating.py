"""Gates before traffic moves up: people and webhooks are asked, and checks go on meanwhile."""

from dataclasses import replace
from typing import Any

import pytest
from test_machine import NOW, a_run, arm, minutes, promoting, sight, stepping, told, weights
from test_resource import canary_run

from analysis.judge import CheckJudgement, Judgement, Verdict
from controller import gating, policies, resource, wire
from controller.hearing import LoadSeen
from controller.machine import advance
from controller.model import Before, Commands, Gate, OnDoubt, PromotionMode, Reason, Run, Seen, Stage

URL = "https://change.example/may-we?token=hush"
LATER = NOW + minutes(5)


def gate(before: Before = Before.RAISE, url: str = "") -> dict[str, Any]:
    return {"policy": {"gates": (Gate(before=before, url=url),)}}


def passing(**changes: Any) -> Seen:
    return sight(Verdict.PASS, **changes)


def at_gate(**how: Any) -> Run:
    """A run whose step has passed and which stands before its gate."""
    run, actions = advance(stepping(passed=True, **gate(**how)), passing(), LATER)
    assert weights(actions) == []
    assert (run.stage, run.weight) == (Stage.STEPPING, 5)
    return run


def test_a_manual_gate_holds_a_run_that_has_passed_until_somebody_approves() -> None:
    run = at_gate()
    assert run.hold is Reason.AWAITING_APPROVAL
    assert "waiting for approval of step 2 of 2 (50 %): kubectl serin approve model-canary" in run.message

    run, actions = advance(run, passing(), LATER)
    assert (weights(actions), told(actions)) == ([], [])

    run, actions = advance(run, passing(commands=Commands(approvals=1)), LATER)
    assert (weights(actions), run.weight, run.approved, run.opened) == ([50], 50, 1, ())


def test_an_open_gate_raises_nothing_that_has_not_passed() -> None:
    run, actions = advance(stepping(**gate()), sight(commands=Commands(approvals=1)), LATER)
    assert (weights(actions), run.hold, run.opened) == ([], None, ())


def test_checks_go_on_at_a_gate_and_roll_back() -> None:
    check = CheckJudgement(name="errors", verdict=Verdict.FAIL, log_e=9.0, log_e_pass=0.0)
    failing = Judgement(verdict=Verdict.FAIL, log_e=9.0, failed="errors", checks=(check,))
    run, actions = advance(at_gate(), replace(sight(), judgement=failing), LATER)
    assert (run.stage, run.reason, weights(actions)) == (Stage.ENDED, Reason.CHECK_FAILED, [0])


def doubtful(**changes: Any) -> Seen:
    """What passed leans against the canary now, and has not failed."""
    seen = sight(**changes)
    checks = tuple(replace(one, doubtful=True) for one in seen.judgement.checks)
    return replace(seen, judgement=replace(seen.judgement, checks=checks))


def test_an_approval_opens_no_gate_for_a_canary_that_passed_long_ago_and_would_not_now() -> None:
    approved = Commands(approvals=1)
    run, actions = advance(at_gate(), doubtful(commands=approved), LATER)
    assert (weights(actions), run.hold, run.approved) == ([], Reason.AWAITING_APPROVAL, 0)
    assert run.message == "errors passed earlier and would not now; nothing is raised or promoted meanwhile"
    _, actions = advance(run, passing(commands=approved), LATER)
    assert weights(actions) == [50]


def test_evidence_that_began_anew_is_no_doubt() -> None:
    _, actions = advance(at_gate(), sight(commands=Commands(approvals=1)), LATER)
    assert weights(actions) == [50]


def test_what_was_paused_and_would_not_pass_any_more_is_held_until_it_does_or_somebody_approves() -> None:
    run, actions = advance(stepping(passed=True), doubtful(), LATER)
    assert (run.stage, run.hold, weights(actions)) == (Stage.STEPPING, Reason.INCONCLUSIVE, [])
    assert weights(advance(run, doubtful(), LATER + minutes(60))[1]) == []
    assert weights(advance(run, passing(), LATER)[1]) == [50]
    assert weights(advance(run, doubtful(commands=Commands(approvals=1)), LATER)[1]) == [50]


@pytest.mark.parametrize("mode", list(PromotionMode))
def test_a_template_is_not_given_for_a_pass_that_would_be_none_now(mode: PromotionMode) -> None:
    run = promoting(passed=True, policy={"promotion": mode})
    run, actions = advance(run, doubtful(weight=50), LATER)
    assert (run.hold, run.copied, weights(actions)) == (Reason.INCONCLUSIVE, False, [])
    run, _ = advance(run, passing(weight=50), LATER)
    assert (run.copied, run.hold) == (
        (True, None) if mode is PromotionMode.COPY else (False, Reason.READY_TO_PROMOTE)
    )


@pytest.mark.parametrize("reason", [Reason.PAUSED, Reason.FROZEN])
def test_a_pause_keeps_its_place_before_a_gate(reason: Reason) -> None:
    commands = Commands(approvals=1, paused=reason is Reason.PAUSED, frozen=reason is Reason.FROZEN)
    run, actions = advance(at_gate(), passing(commands=commands), LATER)
    assert (run.hold, weights(actions), run.approved) == (reason, [], 0)


def test_a_webhook_is_asked_while_the_run_stands_before_it_and_no_longer() -> None:
    run = at_gate(url=URL)
    assert (run.hold, run.gated) == (Reason.GATE_CLOSED, True)
    assert run.message == "gate before step 2 of 2 (50 %): change.example has not answered yet"
    asked = gating.question(run)
    assert asked is not None
    assert (asked.before, [index for index, _ in asked.gates]) == (Before.RAISE, [0])
    assert (asked.data["weight"], asked.data["nextWeight"]) == (5, 50)

    run, actions = advance(run, passing(gates={0: "keeps it shut (answered 403)"}), LATER)
    assert run.message.endswith("change.example keeps it shut (answered 403)")
    assert "hush" not in run.message
    assert weights(actions) == []

    paused, _ = advance(run, passing(commands=Commands(paused=True)), LATER)
    assert gating.question(paused) is None

    run, actions = advance(run, passing(gates={0: gating.OPEN}), LATER)
    assert (weights(actions), run.opened, run.gated) == ([50], (), False)
    assert gating.question(run) is None


def test_no_approval_opens_a_webhooks_gate_and_no_webhook_a_persons() -> None:
    run = at_gate(url=URL)
    run, actions = advance(run, passing(commands=Commands(approvals=1)), LATER)
    assert (weights(actions), run.approved) == ([], 0)

    both = {"policy": {"gates": (Gate(before=Before.RAISE, url=URL), Gate(before=Before.RAISE))}}
    run, _ = advance(stepping(passed=True, **both), passing(gates={0: gating.OPEN}), LATER)
    assert (run.hold, run.opened) == (Reason.AWAITING_APPROVAL, (0,))
    run, actions = advance(
        run, passing(commands=Commands(approvals=1)), LATER
    )  # the webhook's answer is kept
    assert weights(actions) == [50]


def test_what_has_opened_stays_open_until_the_pods_for_the_weight_are_there() -> None:
    few = replace(passing(), stable=replace(passing().stable, pods=passing().stable.pods * 3, wanted=9))
    run, actions = advance(at_gate(), replace(few, commands=Commands(approvals=1)), LATER)
    assert (weights(actions), run.opened, run.approved, run.hold) == ([], (0,), 1, None)
    grown = replace(few, canary=replace(few.canary, pods=few.canary.pods * 3, wanted=9))
    run, actions = advance(run, replace(grown, commands=Commands(approvals=1)), LATER)
    assert (weights(actions), run.opened) == ([50], ())


@pytest.mark.parametrize("before", list(Before))
def test_each_gate_stands_before_its_own_move(before: Before) -> None:
    waiting = a_run(**gate(before))
    first = stepping(passed=True, **gate(before))
    last = stepping(passed=True, step=1, weight=50, **gate(before))
    found = {}
    for moment, run in ((Before.START, waiting), (Before.RAISE, first), (Before.PROMOTION, last)):
        after, actions = advance(run, passing(weight=run.weight), LATER)
        found[moment] = after.hold is Reason.AWAITING_APPROVAL and not weights(actions)
    assert found == {moment: moment is before for moment in Before}


@pytest.mark.parametrize("url", ["", URL])
def test_nobody_is_asked_about_pods_that_are_not_there_yet_and_nothing_is_raised_meanwhile(url: str) -> None:
    """A story told of it ten minutes before its pods were started; a webhook's yes would have grown old."""
    waiting = a_run(**gate(Before.START, url))
    coming, actions = advance(waiting, passing(weight=0, canary=arm("new", 0)), LATER)
    assert (coming.hold, weights(actions), told(actions)) == (None, [], [])
    assert gating.question(coming) is None
    there, actions = advance(coming, passing(weight=0), LATER)
    asked = Reason.GATE_CLOSED if url else Reason.AWAITING_APPROVAL
    assert (there.hold, weights(actions), told(actions)) == (asked, [], [asked])


def test_a_run_that_was_interrupted_comes_back_without_being_asked_again() -> None:
    run, _ = advance(stepping(passed=True, **gate(Before.START)), passing(), LATER)
    assert run.weight == 50
    again = replace(run, stage=Stage.WAITING, weight=0, hold=Reason.INTERRUPTED)
    again, actions = advance(again, passing(weight=0), LATER)
    assert weights(actions) == [50]


def test_one_approval_serves_a_doubt_and_the_gate_behind_it() -> None:
    run = stepping(hold=Reason.INCONCLUSIVE, told=("Inconclusive",), **gate())
    run, actions = advance(run, sight(commands=Commands(approvals=1)), LATER)
    assert (weights(actions), run.approved) == ([50], 1)


def test_an_approved_doubt_waits_for_the_webhook_behind_it() -> None:
    run = stepping(hold=Reason.INCONCLUSIVE, told=("Inconclusive",), **gate(url=URL))
    approved = sight(commands=Commands(approvals=1))
    for _ in range(3):
        run, actions = advance(run, approved, LATER)
        assert (weights(actions), run.approved) == ([], 0)
        assert gating.question(run) is not None
    run, actions = advance(run, replace(approved, gates={0: gating.OPEN}), LATER)
    assert (weights(actions), run.approved) == ([50], 1)


def test_a_policy_that_proceeds_when_in_doubt_stops_at_a_gate() -> None:
    run = stepping(policy=gate()["policy"] | {"on_inconclusive": OnDoubt.PROCEED})
    unsure = sight(load=LoadSeen(step_canary_requests=10_000))
    run, actions = advance(run, unsure, LATER + minutes(30))
    assert (run.hold, weights(actions)) == (Reason.AWAITING_APPROVAL, [])
    run, actions = advance(run, sight(load=unsure.load, commands=Commands(approvals=1)), LATER + minutes(30))
    assert weights(actions) == [50]


def test_promote_by_hand_is_an_answer_to_every_gate() -> None:
    run, _ = advance(at_gate(), passing(commands=Commands(promote="hotfix")), LATER)
    assert run.stage is Stage.PROMOTING


def test_gates_are_read_from_a_policy_and_what_has_opened_from_a_status() -> None:
    obj = canary_run()
    obj["spec"]["plan"]["policy"]["gates"] = [
        {"before": "Start", "manual": {}},
        {"before": "Promotion", "webhook": {"url": URL, "secretRef": {"name": "hooks", "key": "secret"}}},
    ]
    run = resource.run(obj)
    assert run.plan.policy.gates == (
        Gate(before=Before.START),
        Gate(before=Before.PROMOTION, url=URL, secret="hooks", key="secret"),
    )
    assert resource._state(replace(run, opened=(1,)))["opened"] == [1]
    with pytest.raises(wire.Malformed, match="exactly one of manual and webhook"):
        policies.policy(obj["spec"]["plan"]["policy"] | {"gates": [{"before": "Start"}]})


TWICE = Commands(approvals=2)


def test_who_approves_twice_while_a_gate_waits_for_a_check_has_not_opened_the_next_gate() -> None:
    gates = {"policy": {"gates": (Gate(before=Before.RAISE), Gate(before=Before.PROMOTION))}}
    run, _ = advance(stepping(passed=True, **gates), passing(), LATER)
    run, _ = advance(run, doubtful(commands=Commands(approvals=1)), LATER)  # nothing happens: so once more
    run, actions = advance(run, doubtful(commands=TWICE), LATER)
    assert weights(actions) == []
    run, actions = advance(run, passing(commands=TWICE), LATER)
    assert weights(actions) == [50]
    later = passing(weight=50, commands=TWICE, load=LoadSeen(step_canary_requests=10_000))
    for after in range(1, 6):
        run, _ = advance(run, later, LATER + minutes(2 * after))
    assert (run.stage, run.hold) == (Stage.STEPPING, Reason.AWAITING_APPROVAL)


def test_an_approval_too_many_raises_nothing_in_silence() -> None:
    run, _ = advance(stepping(passed=True, **gate()), passing(), LATER)
    run, actions = advance(run, passing(commands=TWICE), LATER)
    assert weights(actions) == [50]
    blind = sight(Verdict.NO_DATA, weight=50, commands=TWICE)
    for after in range(1, 8):
        run, _ = advance(run, blind, LATER + minutes(60 * after))
    assert (run.stage, run.weight, run.hold) == (Stage.STEPPING, 50, Reason.NO_DATA)


def test_who_approves_a_hold_that_is_over_already_has_approved_nothing_that_comes_next() -> None:
    """Seeds 927 and 982: two people approved one hold, the second when it had moved on; silence came next."""
    run, _ = advance(stepping(passed=True, **gate()), passing(), LATER)
    run, actions = advance(run, passing(commands=Commands(approvals=1)), LATER)
    assert weights(actions) == [50]
    run, _ = advance(run, sight(weight=50, commands=TWICE), LATER + minutes(0.1))
    blind = sight(Verdict.NO_DATA, weight=50, commands=TWICE)
    for after in range(1, 8):
        run, _ = advance(run, blind, LATER + minutes(60 * after))
    assert (run.stage, run.weight, run.hold) == (Stage.STEPPING, 50, Reason.NO_DATA)
    run, _ = advance(run, replace(blind, commands=Commands(approvals=3)), LATER + minutes(500))
    assert run.stage is Stage.PROMOTING


def test_who_approves_a_run_that_has_ended_changes_nothing_of_it() -> None:
    run, _ = advance(stepping(), sight(commands=Commands(abort="no")), LATER)
    assert run.stage is Stage.ENDED
    assert gating.unasked(run, sight(commands=TWICE)) is run


def test_an_approval_of_a_hold_that_comes_and_goes_is_kept_until_it_is_back() -> None:
    run = replace(at_gate(), hold=None)
    run, _ = advance(run, passing(commands=Commands(approvals=1)), LATER)
    _, actions = advance(run, passing(commands=Commands(approvals=1)), LATER)
    assert weights(actions) == [50]


# -- what a step needs beside its Pass


@pytest.mark.parametrize(
    ("minute", "requests", "passes"), [(0.99, 300, False), (1, 299, False), (1, 300, True), (5, 299, False)]
)
def test_a_pass_counts_after_the_least_time_and_the_least_requests(
    minute: float, requests: int, *, passes: bool
) -> None:
    seen = passing(load=LoadSeen(step_canary_requests=requests))
    _, actions = advance(stepping(), seen, NOW + minutes(minute))
    assert weights(actions) == ([50] if passes else [])


def test_doubt_is_of_required_checks_and_of_policies_that_mind_it() -> None:
    optional = tuple(replace(one, required=False) for one in a_run().plan.policy.checks)
    for policy in ({"checks": optional}, {"on_inconclusive": OnDoubt.PROCEED}):
        run, actions = advance(stepping(passed=True, policy=policy), doubtful(), LATER)
        assert (run.hold, weights(actions)) == (None, [50])
    run, actions = advance(stepping(passed=True), doubtful(), LATER)
    assert (run.hold, weights(actions)) == (Reason.INCONCLUSIVE, [])


def test_who_promotes_by_hand_minds_no_doubt() -> None:
    by_hand = doubtful(weight=50, commands=Commands(promote="now"))
    assert advance(promoting(passed=True, by_hand=True), by_hand, LATER)[0].copied


def test_one_approval_serves_a_silence_and_the_gate_behind_it() -> None:
    blind = sight(Verdict.NO_DATA)
    run, _ = advance(stepping(**gate()), blind, NOW + minutes(60))
    assert run.hold is Reason.NO_DATA
    _, actions = advance(run, replace(blind, commands=Commands(approvals=1)), NOW + minutes(61))
    assert weights(actions) == [50]


@pytest.mark.parametrize(
    ("before", "run", "move", "then"),
    [
        (Before.START, a_run, "step 1 of 3 (5 %)", 5),
        (Before.RAISE, stepping, "step 2 of 3 (25 %)", 25),
        (Before.PROMOTION, promoting, "the promotion", None),
    ],
)
def test_a_webhook_is_asked_about_the_next_weight_and_people_beside_it_are_not_asked_there(
    before: Before, run: Any, move: str, then: int | None
) -> None:
    both = {"steps": (5, 25, 50), "gates": (Gate(before=before), Gate(before=before, url=URL))}
    standing = run(passed=True, policy=both)
    if before is Before.PROMOTION:
        standing = replace(standing, stage=Stage.STEPPING, step=2)
    shut, _ = advance(standing, passing(weight=standing.weight), LATER)
    assert (shut.hold, shut.gated) == (Reason.GATE_CLOSED, True)
    assert shut.message == f"gate before {move}: change.example has not answered yet"
    asked = gating.question(shut)
    assert asked is not None
    assert [index for index, _ in asked.gates] == [1]
    assert (asked.data["weight"], asked.data["nextWeight"]) == (standing.weight, then)

    opened, _ = advance(shut, passing(weight=standing.weight, gates={1: gating.OPEN}), LATER)
    assert (opened.hold, opened.gated) == (Reason.AWAITING_APPROVAL, False)
    assert f"waiting for approval of {move}:" in opened.message
    assert gating.question(opened) is None  # a person is waited for, and nobody else
