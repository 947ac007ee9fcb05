"""CanaryRun and CanaryPolicy as JSON, and back.

`wire` holds the shapes; here they become the words of `model` and the other way round.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from analysis.judge import CheckJudgement, Judgement, Verdict
from controller import policies, wire
from controller.explain import legible
from controller.model import (
    Artifacts,
    Checkpoint,
    Commands,
    Message,
    Phase,
    Place,
    Plan,
    Reason,
    Recording,
    Run,
    Stage,
    WeightChange,
)

GROUP = "serin.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FINALIZER = f"{GROUP}/restore-traffic"
DRILL = f"{GROUP}/drill"  # an annotation of a run: how many seconds its measured rollback took
WORKLOAD_LABEL = f"{GROUP}/workload"
EVIDENCE_VERSION = 1  # of `status.checkpoint`; an unknown one restarts the step, never passes it

EVIDENCE = ("verdict", "logE", "checks")  # of status

Json = Any
LONGEST_REASON = 1024  # characters, as the schema has it
_VERDICT_NAMES = {
    Verdict.PASS: "Pass",
    Verdict.INCONCLUSIVE: "Inconclusive",
    Verdict.NO_DATA: "NoData",
    Verdict.FAIL: "Fail",
}


# -- from the wire ---------------------------------------------------------------------------------


def _plan(given: wire.Plan, namespace: str) -> Plan:
    return Plan(
        namespace=namespace,
        canary=given.canary,
        stable=given.stable,
        canary_hash=given.canary_hash,
        stable_hash=given.stable_hash,
        virtual_service=given.virtual_service,
        stable_subset=given.stable_subset,
        canary_subset=given.canary_subset,
        policy=policies.read(given.policy, max_latency_increase=given.max_latency_increase),
        policy_name=given.policy_name,
        follows=given.policy_generation is not None,
        artifacts=None if given.shadow is None else _artifacts(given.shadow),
        recording=None if given.shadow is None else _recording(given.shadow),
    )


def _artifacts(given: wire.Shadow) -> Artifacts:
    return Artifacts(stable=given.stable, canary=given.canary, baseline=given.baseline)


def _recording(given: wire.Shadow) -> Recording:
    return Recording(host=given.host, port=given.port, hosts=given.hosts, percent=given.percent)


def run(obj: Json) -> Run:
    """The run that a CanaryRun object holds; one without status has just been asked for."""
    found = wire.decode(obj, wire.RunObject)
    status, state = found.status, found.status.state
    plan = _plan(found.spec.plan, found.metadata.namespace)
    if not 0 <= state.step < len(plan.policy.steps):
        steps = len(plan.policy.steps)
        raise wire.Malformed(
            f"CanaryRun {found.metadata.name}: status.state.step: {state.step}, of {steps} steps"
        )
    return Run(
        name=found.metadata.name,
        plan=plan,
        identity=found.metadata.uid,
        uid=next((owner.uid for owner in found.metadata.owner_references), ""),
        created=found.metadata.creation_timestamp,
        stage=state.stage,
        step=state.step,
        weight=0 if state.stage is Stage.WAITING else status.weight,  # what waits has none, whatever it says
        hold=state.hold,
        reason=status.reason if state.stage is Stage.ENDED else None,
        check=state.check,
        message=status.message,
        step_since=state.step_since,
        weight_since=state.weight_since,
        data_since=state.data_since,
        ended=state.ended,
        weights=tuple(WeightChange(at=w.at, weight=w.weight, reason=w.reason) for w in status.weights),
        raised_from=state.raised_from,
        pods_known=state.pods_known,
        passed=state.passed,
        approved=state.approved,
        opened=state.opened,
        admitted=state.admitted,
        canary_replicas=status.canary_replicas,
        by_hand=state.by_hand,
        blind=state.blind,
        copied=state.copied,
        landed=state.landed,
        settled=state.settled,
        scaled_down=state.scaled_down,
        stable_known=_known(state.stable_known),
        shadow_since=state.shadow_since,
        mirrored=state.mirrored,
        inputs=state.inputs,
        drift_approved=state.drift_approved,
        retraining_asked=state.retraining_asked,
        told=state.told,
        outbox=tuple(Message(**msgspec.structs.asdict(m)) for m in status.outbox),
    )


def _known(seconds: int | None) -> timedelta | None:
    """For how long stable had been read; somebody's edit may say anything."""
    if seconds is None or not 0 <= seconds <= wire.LONGEST.total_seconds():
        return None
    return timedelta(seconds=seconds)


def place(obj: Json) -> Place:
    """Where the run's traffic is steered, also of a run that cannot be read: its way to zero is open."""
    plan = obj["spec"]["plan"]
    shadow = plan.get("shadow")
    return Place(
        namespace=obj["metadata"]["namespace"],
        virtual_service=plan["virtualService"],
        stable_subset=plan["stableSubset"],
        canary_subset=plan["canarySubset"],
        recording=None if shadow is None else Recording(host=shadow["host"], port=shadow["port"], hosts=()),
    )


def guarded(obj: Json) -> bool:
    """Whether the run's object waits for its traffic to be restored."""
    return FINALIZER in obj["metadata"].get("finalizers", ())


def commands(
    obj: Json, *, withdrawn: bool = False, retargeted: bool = False, frozen: bool = False
) -> Commands:
    """What people ask of the run: its spec beside the plan, and what its surroundings say.

    It does not ask for a plan or a status that we can read: an abort is heard in any case.
    """
    found = wire.decode(obj, wire.WishedObject)
    return Commands(
        paused=found.spec.paused,
        abort=None if found.spec.abort is None else legible(found.spec.abort.reason, LONGEST_REASON),
        promote=None if found.spec.promote is None else legible(found.spec.promote.reason, LONGEST_REASON),
        approvals=len(found.spec.approved),
        deleted=found.metadata.deletion_timestamp is not None,
        withdrawn=withdrawn,
        retargeted=retargeted,
        frozen=frozen,
    )


def checkpoint(obj: Json) -> str | None:
    """The saved checkpoint's body; None if there is none or its version is not ours."""
    status = wire.decode(obj, wire.RunObject).status
    return status.checkpoint if status.checkpoint and status.evidence_version == EVIDENCE_VERSION else None


def epoch(obj: Json) -> int:
    """The epoch of the leader that last wrote the object."""
    return wire.decode(obj, wire.RunObject).status.epoch


# -- to the wire -----------------------------------------------------------------------------------


def phase(run: Run) -> Phase:
    """Where the run is, as shown to people."""
    match run.stage:
        case Stage.ENDED:
            return Phase.SUCCEEDED if run.reason is Reason.PROMOTED else Phase.FAILED
        case _ if run.hold is not None:
            return Phase.PAUSED
        case Stage.WAITING:
            return Phase.PENDING
        case Stage.PROMOTING:
            return Phase.PROMOTING
        case _:
            return Phase.PROGRESSING


def verdict_name(verdict: Verdict) -> str:
    """The verdict as people read it: Pass, Inconclusive, NoData, Fail."""
    return _VERDICT_NAMES[verdict]


def _check_status(check: CheckJudgement, sentence: str) -> Json:
    low_high = None if check.interval is None else list(check.interval)
    named = {"worst": [{"id": name, "score": how} for name, how in check.worst]} if check.worst else {}
    return named | {
        "name": check.name,
        "verdict": verdict_name(check.verdict),
        "logE": round(check.log_e, 4),
        "logEPass": round(check.log_e_pass, 4),
        "estimate": check.estimate,
        "interval": low_high,
        "canaryRequests": check.canary_requests,
        "stableRequests": check.stable_requests,
        "canaryHits": check.canary_hits,
        "expectedHits": _kept(check.expected_hits),
        "shares": None if check.shares is None else list(check.shares),
        "threshold": check.threshold,
        "lately": check.lately,
        "latelyHits": None if check.lately_hits is None else [_kept(each) for each in check.lately_hits],
        "note": check.note,
        "sentence": sentence,
    }


def _kept(hits: float) -> float:
    """As fine as sentences say them, so that `explain` says what the alert did."""
    return round(hits, 2) if abs(hits) >= 1 else float(f"{hits:.3g}")


def _finite(value: Json) -> Json:
    """`value` with every NaN and infinity as null: one of them would make the whole status a 400."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _state(run: Run) -> Json:
    return {
        "stage": run.stage.value,
        "step": run.step,
        "hold": run.hold,
        "check": run.check,
        "stepSince": wire.time(run.step_since),
        "weightSince": wire.time(run.weight_since),
        "dataSince": wire.time(run.data_since),
        "ended": wire.time(run.ended),
        "raisedFrom": msgspec.to_builtins(run.raised_from),
        "podsKnown": wire.time(run.pods_known),
        "passed": run.passed,
        "approved": run.approved,
        "opened": list(run.opened),
        "admitted": run.admitted,
        "byHand": run.by_hand,
        "blind": run.blind,
        "copied": run.copied,
        "landed": run.landed,
        "settled": run.settled,
        "scaledDown": run.scaled_down,
        "stableKnown": None if run.stable_known is None else round(run.stable_known.total_seconds()),
        "shadowSince": wire.time(run.shadow_since),
        "mirrored": run.mirrored,
        "inputs": msgspec.to_builtins(run.inputs),
        "driftApproved": run.drift_approved,
        "retrainingAsked": wire.time(run.retraining_asked),
        "told": list(run.told),
    }


def _outbox(run: Run) -> Json:
    return [
        {
            "id": m.id,
            "alert": m.alert,
            "outcome": m.outcome,
            "reason": m.reason.value,
            "sentence": m.sentence,
            "at": wire.time(m.at),
        }
        for m in run.outbox
    ]


def _judged(checkpoint: Checkpoint) -> Json:
    judgement, sentences = checkpoint.judgement, checkpoint.sentences
    return {
        "verdict": verdict_name(judgement.verdict),
        "logE": round(judgement.log_e, 4),
        "checks": [_check_status(check, sentences.get(check.name, "")) for check in judgement.checks],
    }


def _decided(run: Run, judgement: Judgement, before: Json) -> Json:
    """What `before` says of the evidence, where that decided: what came after it is about other pods.

    A promotion gives stable new pods, with which evidence begins anew; an end is read for long after.
    """
    if run.stage in {Stage.WAITING, Stage.STEPPING} or not wire.stored(before, wire.Decided):
        return None
    stage, counted = before["state"]["stage"], sum(one.get("canaryRequests", 0) for one in before["checks"])
    anew = run.copied or run.reason is Reason.PROMOTED
    anew |= sum(check.canary_requests for check in judgement.checks) < counted
    promoting = stage == Stage.PROMOTING and judgement.verdict is not Verdict.FAIL and anew
    return {name: before.get(name) for name in EVIDENCE} if promoting or stage == Stage.ENDED else None


def status(run: Run, checkpoint: Checkpoint, epoch: int, *, before: Json = None, now: datetime) -> Json:
    """The whole status as a merge patch holds it: what is None removes its field."""
    steps = run.plan.policy.steps
    old = before or {}
    said = _decided(run, checkpoint.judgement, old) or _judged(checkpoint)
    written: Json = _finite(
        {
            "phase": phase(run).value,
            "conditions": conditions(run, said["verdict"], before=old.get("conditions"), now=now),
            "reason": run.reason or run.hold,
            "message": _said(run),
            "step": f"{min(run.step + 1, len(steps))}/{len(steps)}",
            "weight": run.weight,
            "weights": [
                {"at": wire.time(w.at), "weight": w.weight, "reason": w.reason.value} for w in run.weights
            ],
            **said,
            # until this leader's onlookers have something to say, what the last one's said is not lost
            "peers": checkpoint.beside.get("peers", old.get("peers")),
            "placebos": checkpoint.beside.get("placebos", old.get("placebos")),
            "preflight": checkpoint.beside.get("preflight", old.get("preflight")),
            "epoch": epoch,
            "evidenceVersion": EVIDENCE_VERSION,
            "checkpoint": checkpoint.body,
            "outbox": _outbox(run),
            "canaryReplicas": run.canary_replicas,
            "state": _state(run),
        }
    )
    return written


def _said(run: Run) -> str:
    """What the run says of where it is; of a hold that is over nothing, or people would do as it tells them.

    A raise, and a promotion's beginning, say what they are and forget what was told before. What is said
    while requests are replayed is said anew each time.
    """
    held_before = any(reason != Reason.WEIGHT_REPAIRED for reason in run.told)
    replaying = run.stage is Stage.WAITING and run.shadow_since is not None
    over = held_before and run.hold is None and run.stage is not Stage.ENDED and not replaying
    return "" if over else run.message


def conditions(run: Run, verdict: str, *, before: Json, now: datetime) -> list[Json]:
    """Progressing, Healthy and Succeeded; a transition's time changes only with its status."""
    ended = run.stage is Stage.ENDED
    promoted = run.reason is Reason.PROMOTED
    reason = (run.reason or run.hold or Reason.STARTED).value
    succeeded = ("True" if promoted else "False") if ended else "Unknown"
    progressing = "False" if ended or run.hold else "True"
    healthy = {"Fail": "False", "NoData": "Unknown"}.get(verdict, "True")
    known = before if isinstance(before, list) else []  # somebody's edit may be anything
    old = {condition["type"]: condition for condition in known if wire.stored(condition, wire.Condition)}
    message = _said(run)
    return [
        _condition(old.get(kind), kind=kind, status=value, reason=why, message=message, now=now)
        for kind, value, why in (
            ("Progressing", progressing, reason),
            ("Healthy", healthy, verdict),
            ("Succeeded", succeeded, reason),
        )
    ]


def _condition(
    old: Json, *, kind: str, status: str, reason: str, message: str, now: datetime
) -> dict[str, str]:
    same = old is not None and old["status"] == status
    since = old["lastTransitionTime"] if same else now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message[:1024],
        "lastTransitionTime": since,
    }


def run_object(plan: Json, *, name: str, namespace: str, workload: str, owner_uid: str) -> Json:
    """The CanaryRun to create: owned by the canary's Deployment, with its plan and nothing else."""
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload, "uid": owner_uid}
    return {
        "apiVersion": API_VERSION,
        "kind": "CanaryRun",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {WORKLOAD_LABEL: workload},
            "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": False}],
        },
        "spec": {"plan": plan},
    }
