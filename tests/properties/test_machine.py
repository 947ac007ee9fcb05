"""What holds for every history of a run, whatever is seen in whatever order."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.evidence import CheckKind, CheckSpec
from analysis.judge import CheckJudgement, Judgement, Verdict
from controller import machine, shadow
from controller.hearing import LoadSeen
from controller.machine import advance, finished
from controller.model import (
    ArmSeen,
    Commands,
    CopyTemplate,
    Drifted,
    Inputs,
    Mirror,
    OnDoubt,
    Plan,
    PodSeen,
    Policy,
    PromotionMode,
    Reason,
    Recording,
    Replayed,
    RouteSeen,
    Run,
    Scale,
    Seen,
    SetWeight,
    ShadowCheck,
    Sizing,
    Stage,
    Tell,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = (5, 20, 50)


def second(value: float) -> timedelta:
    return timedelta(seconds=value)


def policies() -> st.SearchStrategy[Policy]:
    return st.builds(
        Policy,
        steps=st.just(STEPS),
        warm_up=st.just(second(2)),
        min_step=st.sampled_from([second(0), second(3)]),
        min_requests=st.sampled_from([0, 50]),
        step_timeout=st.just(second(20)),
        progress_deadline=st.just(second(30)),
        alpha=st.just(0.01),
        beta=st.just(0.05),
        canary_replicas=st.sampled_from(Sizing),
        on_inconclusive=st.sampled_from(OnDoubt),
        on_no_data=st.sampled_from([OnDoubt.HOLD, OnDoubt.ROLL_BACK]),
        no_data_timeout=st.just(second(8)),
        scale_down_promoted=st.just(second(3)),
        scale_down_rolled_back=st.just(second(5)),
        promotion=st.sampled_from(PromotionMode),
        history_limit=st.just(10),
        burst_tolerance=st.just(second(6)),
        checks=st.just((CheckSpec(name="latency", kind=CheckKind.LATENCY),)),
        shadow=st.sampled_from(
            [
                None,
                *(
                    ShadowCheck(name="shadow", max_flips=0.01, required=each, share=0.2)
                    for each in (True, False)
                ),
            ]
        ),
    )


def new_run(policy: Policy) -> Run:
    plan = Plan(
        namespace="shop",
        canary="model-canary",
        stable="model",
        canary_hash="new",
        stable_hash="old",
        virtual_service="model",
        stable_subset="stable",
        canary_subset="canary",
        policy=policy,
        recording=None if policy.shadow is None else Recording(host="recorder", port=8080, hosts=("model",)),
    )
    return Run(name="model-canary-new-1", plan=plan, created=START)


def pod(
    name: str, *, ready: bool = True, created: float = -10, restarts: int = 0, loop: bool = False
) -> PodSeen:
    return PodSeen(
        name=name,
        node="node",
        ip="10.0.0.1",
        ready=ready,
        created=START + second(created),
        restarts=restarts,
        crash_looping=loop,
    )


def arm(template: str, pods: int) -> ArmSeen:
    named = tuple(pod(f"{template}-{index}") for index in range(pods))
    return ArmSeen(exists=True, template_hash=template, wanted=pods, pods=named)


def judged(verdict: Verdict) -> Judgement:
    check = CheckJudgement(name="latency", verdict=verdict, log_e=9.0, log_e_pass=0.0)
    return Judgement(verdict=verdict, log_e=1.0, checks=(check,), failed="latency")


def replayed(verdict: Verdict) -> CheckJudgement:
    """What the shadow worker says just now; `history` makes a part of the judgement of it."""
    return CheckJudgement(name="shadow", verdict=verdict, log_e=0.0, log_e_pass=0.0)


WELL = Seen(
    stable=arm("old", 3),
    canary=arm("new", 3),
    route=RouteSeen(weight=0),
    judgement=judged(Verdict.PASS),
    load=LoadSeen(step_canary_requests=60),
    shadow=replayed(Verdict.PASS),
)


DRIFTED = Inputs(features=3, requests=1_000, count=1, drifted=(Drifted(name="age", by="psi", value=0.4),))
AS_TRAINED = Inputs(features=3, requests=1_000, count=0)


@st.composite
def troubles(draw: st.DrawFn) -> Seen:
    """One thing that is not as in `WELL`, or two."""
    canary = WELL.canary
    gone = replace(canary, pods=())
    evicted = replace(canary, pods=(pod("fresh", ready=False, created=500),))
    looping = replace(canary, pods=(*canary.pods, pod("loop", ready=False, restarts=3, loop=True)))
    options: list[dict[str, object]] = [
        *(
            {"judgement": judged(verdict)}
            for verdict in (Verdict.INCONCLUSIVE, Verdict.NO_DATA)
            for _ in "123"
        ),
        {"judgement": judged(Verdict.FAIL)},
        *({"shadow": replayed(verdict), "shadow_silent": second(9)} for verdict in Verdict for _ in "12"),
        {"stable": replace(WELL.stable, pods=())},
        {"stable": replace(WELL.stable, template_hash="other")},
        {"stable": replace(WELL.stable, template_hash=None)},
        {"stable": replace(WELL.stable, rolled_out=False), "stable_matches": True},
        *({"stable_matches": True} for _ in "123"),
        *({"canary": one} for one in (gone, evicted, looping)),
        {"canary": replace(canary, rolled_out=False)},
        {"canary": replace(canary, wanted=1, pods=canary.pods[:1])},
        {"canary": replace(canary, wanted=0, pods=())},
        {"canary": replace(canary, template_hash="newer")},
        {"canary": replace(canary, exists=False)},
        {"canary": replace(canary, autoscaled=True, pods=canary.pods[:1])},
        {"load": LoadSeen(step_canary_requests=60, silence=1000, silent_for=second(4))},
        *({"load": LoadSeen(step_canary_requests=n, follows_weight=n > 0)} for n in (0, 60)),
        *(
            {"commands": Commands(**{name: value})}  # type: ignore[arg-type]
            for name, value in {
                "paused": True,
                "abort": "because",
                "promote": "trust me",
                "deleted": True,
                "withdrawn": True,
                "retargeted": True,
                "frozen": True,
            }.items()
        ),
        *({"commands": Commands(approvals=n)} for n in (1, 2, 3)),
        *({"inputs": one} for one in (DRIFTED, DRIFTED, AS_TRAINED)),
    ]
    changes = draw(st.sampled_from(options)) | draw(st.one_of(st.just({}), st.sampled_from(options)))
    return replace(WELL, **changes)  # type: ignore[arg-type]


def sights() -> st.SearchStrategy[tuple[float, Seen, bool]]:
    """Seconds until the pass, what it sees (the weight apart), and whether its actions get through."""
    seen = st.one_of(st.just(WELL), st.just(WELL), st.just(WELL), troubles())
    return st.tuples(
        st.sampled_from([1.0, 4.0, 0.5, 12.0, 40.0]), seen, st.sampled_from([True] * 5 + [False])
    )


@dataclass
class Pass:
    before: Run
    seen: Seen
    after: Run
    weights: list[int]
    copies: int
    scales: list[int]
    mirrored: bool = False  # whether the mirror stands once what was asked for has got through


def history(run: Run, sight: list[tuple[float, Seen, bool]]) -> list[Pass]:
    """The run through all of it, over a VirtualService that obeys only what gets through."""
    now, there, passes = START, 0, []
    check, said, mirrored = run.plan.policy.shadow, None, False
    for wait, sighted, through in sight:
        now += second(wait)
        assert sighted.shadow is not None
        said = shadow.latched(said, Replayed(verdict=sighted.shadow.verdict, sentence="so"))
        seen = replace(
            sighted,
            route=RouteSeen(weight=there, mirrored=mirrored),
            judgement=shadow.joined(sighted.judgement, check, said),
            shadow=shadow.judged(check, said),
        )
        after, actions = advance(run, seen, now)
        weights = [action.weight for action in actions if isinstance(action, SetWeight)]
        scales = [action.replicas for action in actions if isinstance(action, Scale)]
        copies = sum(isinstance(action, CopyTemplate) for action in actions)
        moved = [action.on for action in actions if isinstance(action, Mirror)]
        mirrored = moved[-1] if moved and through else mirrored
        passes.append(Pass(run, seen, after, weights, copies, scales, mirrored))
        run, there = after, (weights[-1] if weights and through else there)
    return passes


histories = st.tuples(policies().map(new_run), st.lists(sights(), min_size=10, max_size=40))
many = settings(max_examples=300, deadline=None)


@many
@given(histories)
def test_a_run_that_has_ended_never_changes_its_mind(given_: tuple[Run, list]) -> None:
    for step in history(*given_):
        if step.before.stage is Stage.ENDED:
            assert step.after.stage is Stage.ENDED
            assert (step.after.reason, step.after.message, step.after.ended, step.after.weights) == (
                step.before.reason,
                step.before.message,
                step.before.ended,
                step.before.weights,
            )


@many
@given(histories)
def test_a_weight_rises_to_a_step_of_the_plan_or_drops_to_zero(given_: tuple[Run, list]) -> None:
    for step in history(*given_):
        before, after = step.before.weight, step.after.weight
        assert after in (before, 0) or (after > before and after == STEPS[step.after.step])
        assert step.after.step - step.before.step in (0, 1)


@many
@given(histories)
def test_a_weight_only_rises_when_every_canary_pod_is_of_the_newest_template(
    given_: tuple[Run, list],
) -> None:
    for step in history(*given_):
        if step.after.weight > step.before.weight:
            assert step.seen.canary.rolled_out
            assert step.seen.canary.template_hash == step.after.plan.canary_hash


@many
@given(histories)
def test_a_failed_check_takes_all_traffic_away_in_the_same_pass(given_: tuple[Run, list]) -> None:
    for step in history(*given_):
        seen = step.seen
        taken = seen.stable.ready > 0 or seen.canary.ready == 0
        if step.before.weight > 0 and seen.judgement.verdict is Verdict.FAIL and taken:
            assert step.after.weight == 0
            assert step.weights[-1:] == [0]
            assert step.after.stage is Stage.ENDED


@many
@given(histories)
def test_what_is_routed_is_what_the_state_says(given_: tuple[Run, list]) -> None:
    for step in history(*given_):
        assert all(weight == step.after.weight for weight in step.weights)


@many
@given(histories)
def test_a_virtual_service_that_disagrees_is_told_again_until_it_agrees(given_: tuple[Run, list]) -> None:
    for step in history(*given_):
        ours = step.after.weight_since is not None and not step.after.settled
        if ours and step.seen.route.weight != step.after.weight:
            assert step.weights == [step.after.weight]


@many
@given(histories)
def test_no_step_is_left_upwards_without_a_pass_a_person_or_the_policy(given_: tuple[Run, list]) -> None:
    passed = False
    for step in history(*given_):
        seen, before, after = step.seen, step.before, step.after
        if before.stage is Stage.WAITING:  # what was seen before a step began is not about it
            passed = False
            continue
        enough = seen.load.step_canary_requests >= before.plan.policy.min_requests
        passed = passed or (seen.judgement.verdict is Verdict.PASS and enough)
        went_on = after.step > before.step or (
            after.stage is Stage.PROMOTING and before.stage is Stage.STEPPING
        )
        if went_on and before.stage is Stage.STEPPING:
            person = seen.commands.promote is not None or after.approved > before.approved
            silent = seen.judgement.verdict is Verdict.NO_DATA
            policy = before.plan.policy.on_inconclusive is OnDoubt.PROCEED and not silent
            assert passed or person or policy
            passed = False


@many
@given(histories)
def test_silence_alone_never_raises_a_weight(given_: tuple[Run, list]) -> None:
    run, sight = given_
    silent = [
        (
            wait,
            replace(
                seen,
                judgement=replace(seen.judgement, verdict=Verdict.NO_DATA),
                commands=replace(seen.commands, promote=None, approvals=0),
            ),
            through,
        )
        for wait, seen, through in sight
    ]
    assert all(
        step.after.step == 0 and step.after.stage is not Stage.PROMOTING for step in history(run, silent)
    )


@many
@given(histories)
def test_nobody_is_exposed_before_a_required_replay_has_passed(given_: tuple[Run, list]) -> None:
    for step in history(*given_):
        policy, seen = step.before.plan.policy, step.seen
        first = not step.before.weights and step.after.weight > 0
        if first and policy.shadow is not None and policy.shadow.required:
            assert seen.shadow is not None
            person = step.after.approved > step.before.approved
            proceed = (
                policy.on_inconclusive is OnDoubt.PROCEED and seen.shadow.verdict is Verdict.INCONCLUSIVE
            )
            assert seen.shadow.verdict is Verdict.PASS or person or proceed


@many
@given(histories)
def test_a_failed_replay_ends_the_run_at_once_and_before_traffic_exposes_nobody(
    given_: tuple[Run, list],
) -> None:
    for step in history(*given_):
        seen, before = step.seen, step.before
        failed = seen.shadow is not None and seen.shadow.verdict is Verdict.FAIL
        if failed and before.stage is not Stage.ENDED and (before.weight == 0 or seen.stable.ready > 0):
            assert step.after.stage is Stage.ENDED
            assert step.weights[-1:] == [0]
            assert before.weights or step.after.weights == ()


@many
@given(histories)
def test_a_mirror_stands_only_while_it_is_of_use_and_no_run_is_finished_before_it_is_gone(
    given_: tuple[Run, list],
) -> None:
    for step in history(*given_):
        stood = step.seen.route.mirrored
        assert step.after.mirrored or not step.mirrored  # what stands is written down
        if step.after.stage is Stage.ENDED or step.after.plan.policy.shadow is None:
            assert step.mirrored <= stood
        if finished(step.after):
            assert not step.mirrored


@many
@given(histories)
def test_promoted_means_that_stable_runs_what_was_analysed(given_: tuple[Run, list]) -> None:
    for step in history(*given_):
        promoted = step.after.reason is Reason.PROMOTED and step.before.stage is not Stage.ENDED
        if promoted:
            assert step.seen.stable_matches
            assert step.seen.stable.rolled_out
            assert step.seen.canary.template_hash == "new"
        if step.copies:
            assert step.before.stage is Stage.PROMOTING
            assert step.after.plan.policy.promotion is PromotionMode.COPY


@many
@given(histories)
def test_frozen_nothing_is_raised_or_promoted(given_: tuple[Run, list]) -> None:
    for step in history(*given_):
        if step.seen.commands.frozen:
            assert step.after.weight <= step.before.weight
            assert step.copies == 0 or step.before.copied


@many
@given(histories)
def test_the_canary_is_only_scaled_up_until_the_run_has_ended_and_then_to_zero_until_it_was_there(
    given_: tuple[Run, list],
) -> None:
    down = False  # it was there, and whoever scales it up after that is not fought
    for step in history(*given_):
        for replicas in step.scales:
            if step.before.stage is Stage.ENDED:
                assert (replicas, down) == (0, False)
                assert step.seen.canary.wanted > 0
                assert step.after.canary_replicas == step.seen.canary.wanted
            else:
                assert replicas > step.seen.canary.wanted
        down |= step.after.scaled_down


@many
@given(histories)
def test_the_same_history_gives_the_same_states(given_: tuple[Run, list]) -> None:
    assert [step.after for step in history(*given_)] == [step.after for step in history(*given_)]


@many
@given(histories)
def test_a_finished_run_asks_for_nothing(given_: tuple[Run, list]) -> None:
    for step in history(*given_):
        if finished(step.before):
            assert step.after == step.before
            assert not step.weights
            assert not step.scales


def drawn() -> set[tuple[str, str]]:
    """The arrows of the diagram in the machine's docstring."""
    diagram = (machine.__doc__ or "").split("```mermaid\n")[1].split("```")[0]
    return set(re.findall(r"(\w+) --> (\w+)", diagram))


@many
@given(histories)
def test_every_change_of_stage_is_an_arrow_of_the_diagram(given_: tuple[Run, list]) -> None:
    for step in history(*given_):
        before, after = step.before.stage, step.after.stage
        assert before is after or (before.value, after.value) in drawn()


def test_the_documentation_shows_the_machines_own_diagram() -> None:
    diagram = (machine.__doc__ or "").split("```mermaid\n")[1].split("```")[0]

    assert diagram in (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()


def left(after: Run) -> bool:
    """Whether the run was rolled back."""
    return after.stage is Stage.ENDED and after.reason is not Reason.PROMOTED


@many
@given(histories)
def test_drift_rolls_nothing_back_promotes_nothing_and_delays_no_rollback(given_: tuple[Run, list]) -> None:
    """Of each pass of each history: the same pass by a controller that knows nothing of inputs."""
    run, sight = given_
    now, there = START, 0
    for wait, sighted, through in sight:
        now += second(wait)
        assert sighted.shadow is not None
        seen = replace(sighted, route=RouteSeen(weight=there), inputs=sighted.inputs or DRIFTED)
        after, actions = advance(run, seen, now)
        blind, others = advance(replace(run, inputs=None), replace(seen, inputs=None), now)
        assert left(after) == left(blind)
        if left(after):
            assert (after.reason, after.message, actions) == (blind.reason, blind.message, others)
        assert after.weight <= blind.weight
        assert (SetWeight(0) in others) <= (SetWeight(0) in actions)
        assert after.stage is blind.stage or after.stage is run.stage
        assert (after.reason is Reason.PROMOTED) <= (blind.reason is Reason.PROMOTED)
        weights = [action.weight for action in actions if isinstance(action, SetWeight)]
        run, there = after, (weights[-1] if weights and through else there)


@many
@given(histories)
def test_while_inputs_are_known_to_have_drifted_nothing_rises_without_a_person(
    given_: tuple[Run, list],
) -> None:
    for step in history(*given_):
        raised = step.after.weight > step.before.weight or (
            step.after.stage is Stage.PROMOTING and step.before.stage is not Stage.PROMOTING
        )
        if raised and step.after.inputs is not None:
            approved = step.after.drift_approved and step.after.approved > 0
            assert approved or step.seen.commands.promote is not None or step.before.stage is Stage.PROMOTING


@many
@given(histories)
def test_training_is_asked_for_at_most_once_a_day_and_never_after_the_end(given_: tuple[Run, list]) -> None:
    run, sight = given_
    last, now = None, START
    for wait, seen, _ in sight:
        now += second(wait * 3_000)
        after, actions = advance(run, seen, now)
        if any(isinstance(one, Tell) and one.reason is Reason.RETRAINING_WANTED for one in actions):
            assert after.stage in {Stage.WAITING, Stage.STEPPING}
            assert last is None or now - last >= timedelta(hours=24)
            last = now
        run = after
