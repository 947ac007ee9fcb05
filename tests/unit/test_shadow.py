"""The Shadow check in a run: what is asked, what an answer means, when traffic and mirrors wait for it."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from test_machine import NOW, a_run, arm, sight, stepping, told, weights

from analysis.judge import CheckJudgement, Judgement, Verdict
from controller import record, report, resource, shadow
from controller.explain import different
from controller.machine import advance, finished, restored
from controller.model import (
    Action,
    Artifacts,
    Checkpoint,
    Commands,
    Mirror,
    OnDoubt,
    Reason,
    Recording,
    Replayed,
    RouteSeen,
    Run,
    Seen,
    ShadowCheck,
    Stage,
)

Json = Any
CHECK = ShadowCheck(name="shadow", max_flips=0.005, required=True, share=0.2)
RECORDING = Recording(host="serin-shadow.serin-system.svc.cluster.local", port=8080, hosts=("model",))
ARTIFACTS = Artifacts(stable=f"file:///a@sha256:{'a' * 64}", canary=f"file:///b@sha256:{'b' * 64}")
PASSED = Replayed(verdict=Verdict.PASS, sentence="At most 0.3 % differ.", requests=2_000, flips=0.001)
FAILED = Replayed(verdict=Verdict.FAIL, sentence="At least 4 % differ.", requests=200, flips=0.06)
OPEN = Replayed(verdict=Verdict.INCONCLUSIVE, sentence="no request has been replayed yet")


def shadowed(run: Run, check: ShadowCheck = CHECK) -> Run:
    policy = replace(run.plan.policy, shadow=check)
    return replace(run, plan=replace(run.plan, policy=policy, artifacts=ARTIFACTS, recording=RECORDING))


def looking(said: Replayed | None, run: Run, seen: Seen, *, silent: float = 0.0) -> Seen:
    """`seen` with what the worker said, judged as a pass does it."""
    check = run.plan.policy.shadow
    return replace(
        seen,
        judgement=shadow.joined(seen.judgement, check, said),
        shadow=shadow.judged(check, said),
        shadow_silent=timedelta(seconds=silent),
    )


def mirrors(actions: tuple[Action, ...]) -> list[bool]:
    return [action.on for action in actions if isinstance(action, Mirror)]


BEFORE = sight(Verdict.NO_DATA, weight=0)  # pods are ready, no traffic yet
WAITING = shadowed(a_run())


# -- before the first weight


def test_the_first_weight_waits_for_the_pass_of_a_required_check() -> None:
    run, actions = advance(WAITING, looking(OPEN, WAITING, BEFORE), NOW)
    assert (run.stage, weights(actions), mirrors(actions)) == (Stage.WAITING, [], [True])
    assert (run.hold, run.mirrored) == (None, True)
    assert run.message == "no traffic before shadow passes: no request has been replayed yet"

    run, actions = advance(run, looking(PASSED, run, BEFORE), NOW)
    assert (run.stage, weights(actions)) == (Stage.STEPPING, [5])


def test_a_mirror_that_cannot_stand_is_not_asked_for_and_one_of_ours_is_taken_away() -> None:
    taken = RouteSeen(weight=0, unmirrored="spec.http[0].mirror is set")
    for there in (False, True):
        seen = replace(BEFORE, route=replace(taken, mirrored=there))
        run, actions = advance(WAITING, looking(OPEN, WAITING, seen), NOW)
        assert (run.mirrored, mirrors(actions)) == (there, [False] * there)


def test_a_check_that_is_not_required_keeps_nobody_waiting() -> None:
    run = shadowed(a_run(), replace(CHECK, required=False))
    after, actions = advance(run, looking(OPEN, run, BEFORE), NOW)
    assert (after.stage, weights(actions), mirrors(actions)) == (Stage.STEPPING, [5], [True])


@pytest.mark.parametrize("check", [CHECK, replace(CHECK, required=False)])
def test_a_fail_before_any_traffic_ends_the_run_with_nobody_exposed(check: ShadowCheck) -> None:
    run = shadowed(a_run(), check)
    after, actions = advance(run, looking(FAILED, run, BEFORE), NOW)
    assert (after.stage, after.reason, after.check) == (Stage.ENDED, Reason.CHECK_FAILED, "shadow")
    assert after.message == "shadow: At least 4 % differ."
    assert after.weights == ()
    assert weights(actions) == [0]


def test_a_run_that_had_traffic_before_does_not_wait_again_after_its_pods_were_evicted() -> None:
    run, _ = advance(WAITING, looking(PASSED, WAITING, BEFORE), NOW)
    evicted = replace(run, stage=Stage.WAITING, weight=0)
    _, actions = advance(evicted, looking(OPEN, run, BEFORE), NOW)
    assert weights(actions) == [5]


def test_a_worker_that_is_gone_is_no_data_and_never_a_pass() -> None:
    seen = looking(None, WAITING, BEFORE, silent=299)
    run, _ = advance(WAITING, seen, NOW)
    assert (run.stage, run.hold) == (Stage.WAITING, None)
    run, actions = advance(run, looking(None, run, BEFORE, silent=301), NOW)
    assert (run.stage, run.hold, told(actions)) == (Stage.WAITING, Reason.NO_DATA, [Reason.NO_DATA])
    assert run.message == "shadow has no data: the worker has not answered"

    run, actions = advance(run, looking(PASSED, run, BEFORE), NOW)  # it came back
    assert weights(actions) == [5]


def test_the_policy_says_what_becomes_of_a_run_whose_worker_is_gone() -> None:
    run = shadowed(a_run(policy={"on_no_data": OnDoubt.ROLL_BACK}))
    after, actions = advance(run, looking(None, run, BEFORE, silent=301), NOW)
    assert (after.stage, after.reason, after.weights) == (Stage.ENDED, Reason.NO_DATA, ())
    assert weights(actions) == [0]


@pytest.mark.parametrize(
    ("wish", "stage", "hold"),
    [
        (OnDoubt.HOLD, Stage.WAITING, Reason.INCONCLUSIVE),
        (OnDoubt.PROCEED, Stage.STEPPING, None),
        (OnDoubt.ROLL_BACK, Stage.ENDED, None),
    ],
)
def test_what_is_never_decided_is_settled_by_the_policy(
    wish: OnDoubt, stage: Stage, hold: Reason | None
) -> None:
    run = shadowed(a_run(policy={"on_inconclusive": wish}))
    seen = looking(OPEN, run, BEFORE)
    run, _ = advance(run, seen, NOW)
    run, _ = advance(run, seen, NOW + run.plan.policy.step_timeout)
    assert run.stage is Stage.WAITING
    run, _ = advance(run, seen, NOW + run.plan.policy.step_timeout + timedelta(seconds=1))
    assert (run.stage, run.hold, run.step) == (stage, hold, 0)


def test_the_time_for_it_begins_when_the_pods_could_take_traffic() -> None:
    unready = replace(BEFORE, canary=arm("new", 0, wanted=3))
    run, _ = advance(WAITING, looking(OPEN, WAITING, unready), NOW)
    assert run.shadow_since is None
    run, _ = advance(run, looking(OPEN, run, BEFORE), NOW + timedelta(minutes=2))
    assert run.shadow_since == NOW + timedelta(minutes=2)


def test_silence_while_the_pods_are_not_there_keeps_nobody_waiting() -> None:
    run = shadowed(a_run(policy={"on_no_data": OnDoubt.ROLL_BACK}))
    unready = replace(BEFORE, canary=arm("new", 0, wanted=3))
    after, _ = advance(run, looking(None, run, unready, silent=301), NOW)
    assert (after.stage, after.hold) == (Stage.WAITING, None)


def test_a_person_can_let_the_run_begin_without_it() -> None:
    held = replace(WAITING, hold=Reason.INCONCLUSIVE, told=("Inconclusive",), shadow_since=NOW)
    seen = replace(looking(OPEN, held, BEFORE), commands=Commands(approvals=1))
    run, actions = advance(held, seen, NOW)
    assert (run.stage, run.step, run.approved, weights(actions)) == (Stage.STEPPING, 0, 1, [5])


# -- while the canary has traffic


def test_a_required_check_that_is_undecided_lets_no_step_pass() -> None:
    run = shadowed(stepping(weights=WAITING.weights))
    enough = replace(sight(Verdict.PASS).load, step_canary_requests=10_000)
    later = NOW + timedelta(minutes=3)
    for said, verdict in ((OPEN, Verdict.INCONCLUSIVE), (None, Verdict.NO_DATA)):
        seen = looking(said, run, sight(Verdict.PASS, load=enough))
        assert seen.judgement.verdict is verdict
        after, _ = advance(run, seen, later)
        assert (after.step, after.weight) == (0, 5)
    after, _ = advance(run, looking(PASSED, run, sight(Verdict.PASS, load=enough)), later)
    assert (after.step, after.weight) == (1, 50)


def test_a_fail_takes_traffic_away_and_a_silent_worker_does_not_keep_it() -> None:
    run = shadowed(stepping())
    after, actions = advance(run, looking(FAILED, run, sight(Verdict.PASS)), NOW)
    assert (after.reason, after.check, weights(actions)) == (Reason.CHECK_FAILED, "shadow", [0])
    errors = CheckJudgement(name="errors", verdict=Verdict.FAIL, log_e=9.0, log_e_pass=0.0)
    failing = sight(judgement=Judgement(verdict=Verdict.FAIL, log_e=9.0, checks=(errors,), failed="errors"))
    after, actions = advance(run, looking(None, run, failing, silent=900), NOW)
    assert (after.reason, after.check, weights(actions)) == (Reason.CHECK_FAILED, "errors", [0])


# -- the mirror


def test_the_mirror_stands_while_the_check_is_undecided_and_is_asked_for_once_it_is_not_there() -> None:
    run, actions = advance(WAITING, looking(OPEN, WAITING, BEFORE), NOW)
    assert mirrors(actions) == [True]
    there = replace(BEFORE, route=RouteSeen(weight=0, mirrored=True))
    run, actions = advance(run, looking(OPEN, run, there), NOW)
    assert (mirrors(actions), run.mirrored) == ([], True)
    run, actions = advance(run, looking(PASSED, run, there), NOW)
    assert (mirrors(actions), run.mirrored) == ([False], True)
    run, actions = advance(run, looking(PASSED, run, sight(weight=5)), NOW)
    assert (mirrors(actions), run.mirrored) == ([], False)


def test_a_run_is_not_over_before_its_mirror_is_gone() -> None:
    run, _ = advance(WAITING, looking(OPEN, WAITING, BEFORE), NOW)
    there = replace(BEFORE, route=RouteSeen(weight=0, mirrored=True))
    run, actions = advance(run, looking(FAILED, run, there), NOW)
    assert mirrors(actions) == [False]
    later = NOW + timedelta(hours=1)
    run, actions = advance(run, looking(FAILED, run, there), later)
    assert (run.settled, restored(run), mirrors(actions)) == (True, False, [False])
    run, actions = advance(run, looking(FAILED, run, BEFORE), later)
    run = replace(run, outbox=())
    assert (restored(run), finished(run), mirrors(actions)) == (True, True, [])


def test_nothing_is_mirrored_in_a_virtual_service_that_is_refused() -> None:
    refused = replace(BEFORE, route=RouteSeen(weight=None, refusal="odd"))
    run, actions = advance(WAITING, looking(OPEN, WAITING, refused), NOW)
    assert (mirrors(actions), run.mirrored) == ([], False)


def test_a_plan_without_a_shadow_check_never_asks_for_a_mirror() -> None:
    run, actions = advance(a_run(), sight(Verdict.NO_DATA, weight=0), NOW)
    assert (mirrors(actions), run.mirrored) == ([], False)


# -- what is asked and answered


def test_the_question_holds_all_that_the_verdict_depends_on() -> None:
    asked = shadow.question(WAITING)
    assert asked["run"] == f"{WAITING.plan.namespace}/{WAITING.name}"
    assert (asked["stable"], asked["canary"]) == (ARTIFACTS.stable, ARTIFACTS.canary)
    assert asked["margins"] == {
        "maxFlips": 0.005,
        "alpha": pytest.approx(WAITING.plan.policy.alpha * 0.2),
        "beta": WAITING.plan.policy.beta,
    }
    assert shadow.question(a_run()) is None


def answered(asked: Json, **more: Json) -> bytes:
    return json.dumps({"asked": asked, "verdict": "Pass", "sentence": "fine", "requests": 9} | more).encode()


def test_an_answer_is_understood() -> None:
    asked = shadow.question(WAITING)
    found = shadow.understood(answered(asked, flips=0.1, interval=[0.0, 0.2]), asked)
    assert found == Replayed(
        verdict=Verdict.PASS, sentence="fine", requests=9, flips=0.1, interval=(0.0, 0.2)
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("run", "lab/other"), ("generation", "before"), ("canary", "file:///c@sha256:" + "c" * 64)],
)
def test_an_answer_to_another_question_is_not_used(field: str, value: str) -> None:
    asked = shadow.question(WAITING)
    with pytest.raises(ValueError, match="answered another question"):
        shadow.understood(answered(asked | {field: value}), asked)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        answered({}, verdict="Fine"),
        answered({}, requests="many"),
        answered({}, requests=10**30),
    ],
    ids=lambda body: body[:30].decode(errors="replace"),
)
def test_nonsense_is_no_answer(body: bytes) -> None:
    with pytest.raises(ValueError, match="worker"):
        shadow.understood(body, {})


@pytest.mark.parametrize("verdict", ["Pass", "Inconclusive"])
def test_without_a_single_request_there_is_no_data(verdict: str) -> None:
    found = shadow.understood(answered({}, verdict=verdict, requests=0), {})
    assert found.verdict is Verdict.NO_DATA


def test_a_sentence_that_names_a_caller_s_slice_moves_no_cursor() -> None:
    asked = shadow.question(WAITING)
    found = shadow.understood(answered(asked, sentence="of the slice x-tenant=\x1b[2J\n\u202e differ"), asked)
    assert found.sentence == "of the slice x-tenant=?[2J?? differ"


def test_a_sentence_is_cut_where_it_would_fill_an_event() -> None:
    asked = shadow.question(WAITING)
    assert len(shadow.understood(answered(asked, sentence="x" * 5000), asked).sentence) == shadow.LONGEST


WORST = [{"id": "r-7", "score": 3.0}, {"id": "r-2", "score": 1.5}]


def test_the_most_different_requests_are_named_and_reach_status() -> None:
    asked = shadow.question(WAITING)
    found = shadow.understood(answered(asked, worst=WORST), asked)
    assert found.worst == (("r-7", 3.0), ("r-2", 1.5))
    judged = shadow.joined(Judgement(verdict=Verdict.PASS, log_e=0.0, checks=()), CHECK, found)
    saved = Checkpoint(body="{}", judgement=judged)
    (check,) = resource.status(WAITING, saved, 1, now=NOW)["checks"]
    assert check["worst"] == WORST
    (told,) = (one for one in record.findings(asking({"checks": [check]})) if one.kind == "Shadow")
    assert different(told) == ["r-7 (no answer)", "r-2 (another answer)"]
    text = report.explanation(asking({"checks": [check]}), now=NOW)
    assert "most different: r-7 (no answer), r-2 (another answer)" in text


def asking(status: Json) -> Json:
    """A run's object with a Shadow check."""
    checks = [{"name": "shadow", "type": "Shadow", "maxFlips": "0.5%"}]
    plan = {"canary": "model-canary", "stable": "model", "policy": {"checks": checks}}
    return {
        "metadata": {"name": "model-canary-1", "namespace": "lab"},
        "spec": {"plan": plan},
        "status": status,
    }


@pytest.mark.parametrize(
    ("worst", "kept"),
    [
        ([{"id": f"r-{n}", "score": 1} for n in range(50)], [(f"r-{n}", 1.0) for n in range(5)]),
        ([{"id": "a\x1b[31m\nb" + "c" * 900, "score": 2}], [("a?[31m?b" + "c" * 192, 2.0)]),
        (
            [{"id": "", "score": 1}, {"id": 7, "score": 1}, {"score": 1}, 3, {"id": "ok", "score": 0.25}],
            [("ok", 0.25)],
        ),
        ([{"id": "a", "score": how} for how in (True, "1", None, -1, 3.5, 1e300)], []),
        ("all of them", []),
        (None, []),
    ],
)
def test_whatever_is_said_of_single_requests_spoils_no_verdict(
    worst: Any, kept: list[tuple[str, float]]
) -> None:
    found = shadow.understood(answered({}, worst=worst), {})
    assert (found.verdict, list(found.worst)) == (Verdict.PASS, kept)


def test_the_most_different_requests_of_a_decision_survive_a_checkpoint_also_an_older_version_s() -> None:
    failed = replace(FAILED, worst=(("r-7", 3.0),))
    body, worst = json.loads(json.dumps([shadow.saved(failed), shadow.saved_worst(failed)]))
    assert shadow.loaded(body, worst) == failed
    assert shadow.loaded(body) == FAILED  # nobody had saved them
    assert body == shadow.saved(FAILED)  # nor would an older leader stumble over them
    assert shadow.saved_worst(OPEN) == []


def test_what_was_decided_is_decided() -> None:
    assert shadow.latched(PASSED, None) is PASSED
    assert shadow.latched(FAILED, OPEN) is FAILED
    assert shadow.latched(OPEN, None) is None


@pytest.mark.parametrize("said", [PASSED, FAILED, replace(PASSED, interval=(0.0, 0.1)), None])
def test_a_decision_survives_a_checkpoint_and_nothing_else_does(said: Replayed | None) -> None:
    assert shadow.loaded(json.loads(json.dumps(shadow.saved(said)))) == said
    assert shadow.saved(OPEN) is None


# -- what a plan says of it


def template(reference: str | None) -> Json:
    return {"metadata": {"annotations": {} if reference is None else {shadow.ARTIFACT: reference}}}


SERVICE = {"metadata": {"namespace": "lab"}, "spec": {"hosts": ["model", "a.example.com"]}}
RECORDER = {"host": "recorder", "port": 8080, "percent": 50.0}


def planned(stable: str | None, canary: str | None) -> Json:
    both = {"model": template(stable), "model-canary": template(canary)}
    return shadow.planned(both, SERVICE, RECORDER)


def test_a_plan_names_both_models_and_every_name_of_the_hosts() -> None:
    assert planned(ARTIFACTS.stable, ARTIFACTS.canary) == {
        "stable": ARTIFACTS.stable,
        "canary": ARTIFACTS.canary,
        "hosts": ["model", "model.lab", "model.lab.svc", "model.lab.svc.cluster.local", "a.example.com"],
        "host": "recorder",
        "port": 8080,
        "percent": 50.0,
    }


@pytest.mark.parametrize("value", [None, "", "model.safetensors", "file:///a@sha256:abc"])
def test_a_model_that_is_not_named_is_said_with_object_field_and_remedy(value: str | None) -> None:
    said = planned(ARTIFACTS.stable, value)
    assert said.startswith(
        "Deployment model-canary: spec.template.metadata.annotations[serin.dev/artifact] is"
    )
    assert "@sha256:DIGEST" in said


def test_the_canary_s_baseline_goes_into_the_plan_and_the_question_and_stable_s_does_not() -> None:
    reference = f"file:///b.json@sha256:{'c' * 64}"
    both = {"model": template(ARTIFACTS.stable), "model-canary": template(ARTIFACTS.canary)}
    both["model-canary"]["metadata"]["annotations"][shadow.BASELINE] = reference
    plan = shadow.planned(both, SERVICE, RECORDER)
    assert plan["baseline"] == reference
    both = {"model": both["model-canary"], "model-canary": both["model"]}
    assert "baseline" not in shadow.planned(both, SERVICE, RECORDER)
    run = replace(WAITING, plan=replace(WAITING.plan, artifacts=replace(ARTIFACTS, baseline=reference)))
    assert shadow.question(run) == shadow.question(WAITING) | {"baseline": reference}


@pytest.mark.parametrize("value", ["", "b.json", "file:///b.json@sha256:abc"])
def test_a_baseline_without_a_digest_is_refused_with_a_remedy(value: str) -> None:
    both = {"model": template(ARTIFACTS.stable), "model-canary": template(ARTIFACTS.canary)}
    both["model-canary"]["metadata"]["annotations"][shadow.BASELINE] = value
    said = shadow.planned(both, SERVICE, RECORDER)
    assert said.startswith(
        "Deployment model-canary: spec.template.metadata.annotations[serin.dev/baseline] is"
    )
    assert "@sha256:DIGEST" in said


@pytest.mark.parametrize("inputs", ["nonsense", {"requests": "many"}, {"trouble": "no file"}, [1]])
def test_what_is_said_of_inputs_never_spoils_a_verdict(inputs: Json) -> None:
    asked = shadow.question(WAITING)
    body = json.dumps({"asked": asked, "verdict": "Fail", "sentence": "so", "inputs": inputs}).encode()
    assert shadow.understood(body, asked) == Replayed(verdict=Verdict.FAIL, sentence="so")


def test_a_later_run_with_the_same_recorder_owns_the_mirror() -> None:
    theirs = {"spec": {"plan": {"shadow": {"host": RECORDING.host, "port": RECORDING.port}}}}
    assert shadow.hidden(RECORDING, theirs)
    assert not shadow.hidden(RECORDING, {"spec": {"plan": {}}})
    assert not shadow.hidden(RECORDING, None)
