"""Gates: who is asked before traffic moves up, a person or a webhook.

Pure. A gate stands between a Pass and what follows it. It takes nothing away: while a run waits there, its
checks go on and can roll it back, and an open gate raises nothing that has not passed. What has been opened
stays open until the run has moved, and not a step longer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from analysis.judge import Verdict
from controller.leaving import silence
from controller.model import Before, Gate, OnDoubt, Reason, Run, Seen, Stage
from controller.telling import spoken, visit

Json = Any

OPENED_BY_APPROVAL = frozenset({Reason.AWAITING_APPROVAL, Reason.INCONCLUSIVE, Reason.NO_DATA})
# Of a checklist people may have been told although the run is not held for it; the hold itself is asked for.
WAITED_FOR = OPENED_BY_APPROVAL | {Reason.INPUTS_DRIFTED, Reason.GATE_CLOSED}
UNANSWERED = "has not answered yet"
OPEN = ""  # what is said of a webhook that opens


def ahead(run: Run) -> Before | None:
    """What the run's next move is; None where traffic only comes back to where it was."""
    if run.stage is Stage.WAITING:
        return None if run.weights else Before.START
    if run.stage is Stage.STEPPING:
        return Before.RAISE if run.step + 1 < len(run.plan.policy.steps) else Before.PROMOTION
    return None


def unknown(run: Run, seen: Seen) -> bool:
    """Whether nothing may move up, since a check, or one of the canary's pods, says nothing now."""
    return seen.judgement.verdict is Verdict.NO_DATA or bool(silence(run, seen))


def doubted(run: Run, seen: Seen) -> str:
    """Which required checks no longer say what let the step pass; empty if none, or if doubt is no matter.

    Evidence that began anew, since pods changed, is no doubt: the step has passed by what was there before.
    """
    policy = run.plan.policy
    needed = {check.name for check in policy.checks if check.required}
    names = [one.name for one in seen.judgement.checks if one.doubtful and one.name in needed]
    if not names or policy.on_inconclusive is OnDoubt.PROCEED or seen.commands.promote is not None:
        return ""
    return f"{', '.join(names)} passed earlier and would not now; nothing is raised or promoted meanwhile"


def lacking(run: Run, seen: Seen, now: datetime) -> str:
    """What a step lacks before anything but a person may end it upwards; empty if nothing."""
    policy, served = run.plan.policy, seen.load.step_canary_requests
    if run.step_since is None or now - run.step_since < policy.min_step:
        return f"minStep is {spoken(policy.min_step)}"
    few = served < policy.min_requests
    return f"{served} of minRequests {policy.min_requests}" if few else silence(run, seen)


def unasked(run: Run, seen: Seen) -> Run:
    """The run, with all approvals used up that came before it was held for anybody since it last moved.

    Whoever gave them (the second who approved one hold) has not seen what comes next. A hold that comes and
    goes was seen; but of a silence that is over nobody has approved the next one. Of a run that has ended
    nothing is changed.
    """
    if run.stage is Stage.ENDED:
        return run
    seen_before = WAITED_FOR if unknown(run, seen) else WAITED_FOR - {Reason.NO_DATA}
    waits = run.hold in {*WAITED_FOR, Reason.PREFLIGHT_FAILED} or seen_before.intersection(run.told)
    return run if waits else replace(run, approved=max(run.approved, seen.commands.approvals))


def through(run: Run, seen: Seen) -> tuple[Run, tuple[Reason, str] | None]:
    """The run with the gates that have opened, and why it may not move yet: None if it may.

    One approval opens all that wait for a person; what was approved once more meanwhile opens nothing later.
    """
    standing = _standing(run)
    if not standing:
        return run, None
    approved = seen.commands.approvals > run.approved and run.hold in OPENED_BY_APPROVAL
    opened = {index for index, gate in standing if (seen.gates.get(index) == OPEN if gate.url else approved)}
    manual = any(not gate.url for index, gate in standing if index in opened)
    used = seen.commands.approvals if manual else run.approved
    run = replace(run, opened=(*run.opened, *sorted(opened)), approved=used)
    shut = _shut(run, seen.gates)
    return replace(run, gated=shut is not None and shut[0] is Reason.GATE_CLOSED), shut


def _standing(run: Run) -> list[tuple[int, Gate]]:
    """The gates before the run's next move that have not opened, by their places in the policy."""
    before = ahead(run)
    gates = enumerate(run.plan.policy.gates)
    return [(index, gate) for index, gate in gates if gate.before is before and index not in run.opened]


def _shut(run: Run, said: Mapping[int, str]) -> tuple[Reason, str] | None:
    """What the run waits for: a person's approval, when no webhook is shut any more."""
    standing = _standing(run)
    for index, gate in standing:
        if gate.url:
            why = said.get(index, UNANSWERED)
            return Reason.GATE_CLOSED, f"gate before {_move(run)}: {host(gate.url)} {why}"
    if standing:
        how = f"kubectl serin approve {run.name} -n {run.plan.namespace}"
        return Reason.AWAITING_APPROVAL, f"waiting for approval of {_move(run)}: {how}"
    return None


def _move(run: Run) -> str:
    steps = run.plan.policy.steps
    if ahead(run) is Before.PROMOTION:
        return "the promotion"
    step = run.step if run.stage is Stage.WAITING else run.step + 1
    return f"step {step + 1} of {len(steps)} ({steps[step]} %)"


def host(url: str) -> str:
    """Of a webhook as people are told it: the rest of its URL may be a secret."""
    return urlsplit(url).hostname or "its host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a webhook is asked: the same for as long as the run stands at the same gates."""

    id: str
    namespace: str
    run: str
    before: Before
    gates: tuple[tuple[int, Gate], ...]  # those that are asked, by their places in the policy
    data: Mapping[str, Json]


def question(run: Run) -> Question | None:
    """What has to be asked of webhooks now; None if the run waits for none."""
    before = ahead(run)
    if before is None or not run.gated:
        return None
    plan, steps = run.plan, run.plan.policy.steps
    then = {Before.START: run.step, Before.RAISE: run.step + 1}.get(before)
    return Question(
        id=f"{plan.namespace}/{run.name}/{run.step}/before{before}/{visit(run)}",
        namespace=plan.namespace,
        run=run.name,
        before=before,
        gates=tuple((index, gate) for index, gate in _standing(run) if gate.url),
        data={
            "before": before.value,
            "namespace": plan.namespace,
            "run": run.name,
            "canary": plan.canary,
            "stable": plan.stable,
            "canaryHash": plan.canary_hash,
            "virtualService": plan.virtual_service,
            "weight": run.weight,
            "nextWeight": None if then is None else steps[then],
        },
    )
