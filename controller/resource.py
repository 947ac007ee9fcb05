"""CanaryRun and CanaryPolicy as JSON, and back.

`wire` holds the shapes; here they become the words of `model` and the other way round.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from analysis.evidence import SHARES, CheckKind, CheckSpec, normalised
from analysis.judge import CheckJudgement, Judgement, Verdict
from controller import wire
from controller.model import (
    Alert,
    Artifacts,
    Checkpoint,
    Commands,
    Message,
    Page,
    Phase,
    Place,
    Plan,
    Policy,
    Reason,
    Recording,
    Run,
    ShadowCheck,
    Stage,
    WeightChange,
)
from controller.record import at_quantile

GROUP = "serin.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FINALIZER = f"{GROUP}/restore-traffic"
WORKLOAD_LABEL = f"{GROUP}/workload"
IMPRESSIONS = "model_impressions_total"  # a proportion's trials, where the check does not name them
SHADOW = "Shadow"  # a type of check that no page of a pod can answer
SHADOW_SHARE = 0.20  # of alpha, before all are normalised
EVIDENCE_VERSION = 1  # of `status.checkpoint`; an unknown one restarts the step, never passes it

Json = Any
_VERDICT_NAMES = {
    Verdict.PASS: "Pass",
    Verdict.INCONCLUSIVE: "Inconclusive",
    Verdict.NO_DATA: "NoData",
    Verdict.FAIL: "Fail",
}


# -- from the wire ---------------------------------------------------------------------------------


def _single(checks: tuple[wire.Check, ...]) -> tuple[wire.Check, ...]:
    """One check for each quantile, named after it; a check of several is these, its share split evenly."""
    single = tuple(one for check in checks for one in _quantiles(check))
    names = [check.name for check in single]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise wire.Malformed(
            f"checks[{twice}].name: a check of quantiles has one of this name; choose another"
        )
    return single


def _quantiles(check: wire.Check) -> Iterator[wire.Check]:
    if not check.quantiles:
        yield check
    share = SHARES[CheckKind.LATENCY] if check.share is None else check.share
    for level in check.quantiles:
        name = at_quantile(check.name, level)
        yield replace(check, name=name, quantile=level, share=share / len(check.quantiles))


def _checks(checks: tuple[wire.Check, ...], max_latency_increase: str | None) -> tuple[CheckSpec, ...]:
    """The checks that pods' pages answer."""
    shares = {check.name: check.share for check in checks if check.share is not None}
    beside = sum(shares.get(check.name, SHADOW_SHARE) for check in checks if check.type == SHADOW)
    read = (_check(check, max_latency_increase) for check in checks if check.type != SHADOW)
    return normalised(read, shares, beside=beside)


def _shadow(checks: tuple[wire.Check, ...], others: tuple[CheckSpec, ...]) -> ShadowCheck | None:
    """The check that replayed requests answer; it has the part of alpha that the others leave."""
    found = [check for check in checks if check.type == SHADOW]
    if not found:
        return None
    field = f"checks[{found[0].name}].maxFlips"
    flips = wire.percent(found[0].max_flips, field=field)
    if len(found) > 1 or not others:
        raise wire.Malformed("checks: give one Shadow check, beside at least one check of another type")
    if not 0 < flips < 1:
        raise wire.Malformed(
            f"{field}: {found[0].max_flips} proves nothing; give more than 0%, less than 100%"
        )
    share = 1 - sum(check.share for check in others)
    return ShadowCheck(name=found[0].name, max_flips=flips, required=found[0].required, share=share)


def _check(check: wire.Check, max_latency_increase: str | None) -> CheckSpec:
    field = f"checks[{check.name}]"
    if check.type not in set(CheckKind):
        known = ", ".join([*CheckKind, SHADOW])
        raise wire.Malformed(
            f"{field}.type: {check.type} is not available in this version; use one of {known}"
        )
    for name, given in (("plus", check.plus), ("maxDecrease", check.max_decrease)):
        if wire.percent(given, field=f"{field}.{name}") >= 1:
            raise wire.Malformed(f"{field}.{name}: {given} allows everything; give less than 100%")
    kind = CheckKind(check.type)
    increase = check.max_increase
    if kind is CheckKind.LATENCY and max_latency_increase is not None:
        increase = max_latency_increase
    return CheckSpec(
        name=check.name,
        kind=kind,
        quantile=check.quantile,
        max_increase=wire.percent(increase, field=f"{field}.maxIncrease"),
        plus=wire.percent(check.plus, field=f"{field}.plus"),
        max_decrease=wire.percent(check.max_decrease, field=f"{field}.maxDecrease"),
        tolerance=check.tolerance,
        required=check.required,
        counters=_counters(check) if kind is CheckKind.PROPORTION else (),
    )


def _counters(check: wire.Check) -> tuple[str, str]:
    """The names of a proportion's hits and trials; if not given, the hits are called as the check is."""
    if check.counters is not None:
        return check.counters.hits, check.counters.trials
    return f"model_{check.name.replace('-', '_')}_total", IMPRESSIONS


def _page(check: wire.Check) -> Page | None:
    """The page that the check names, or None where it names a Prometheus."""
    given = check.source or wire.Source()
    if (given.scrape is None) == (given.prometheus is None):
        raise wire.Malformed(f"checks[{check.name}].source: give exactly one of scrape and prometheus")
    return None if given.scrape is None else Page(port=given.scrape.port, path=given.scrape.path)


DURATIONS = {"warmUp", "minStep", "stepTimeout", "progressDeadline", "noDataTimeout", "burstTolerance"}


def unusable(policy: Json) -> str | None:
    """What in a policy's spec this version cannot do, although the schema allows it; or None."""
    delays = policy.get("scaleDownDelay", {})
    try:
        given = _single(msgspec.convert(policy.get("checks", []), tuple[wire.Check, ...]))
        _shadow(given, _checks(given, None))
        for field in DURATIONS & policy.keys():
            wire.duration(policy[field], field=field)
        for field, delay in delays.items():
            wire.duration(delay, field=f"scaleDownDelay.{field}")
    except (wire.Malformed, msgspec.ValidationError) as error:
        return f"policy: {error}"
    return None


def _alert(alert: wire.Alert) -> Alert:
    if alert.slack is not None:
        slack = alert.slack.secret_ref
        return Alert(kind="slack", secret=slack.name, key=slack.key, on=alert.on)
    if alert.webhook is None:
        raise wire.Malformed("alerts[]: give slack or webhook")
    secret = alert.webhook.secret_ref
    name, key = (secret.name, secret.key) if secret else (None, None)
    return Alert(kind="webhook", url=alert.webhook.url, secret=name, key=key, on=alert.on)


def policy(spec: Json) -> Policy:
    """The policy that a complete CanaryPolicy spec holds; raises `wire.Malformed`."""
    try:
        return _policy(msgspec.convert(spec, wire.Policy), None)
    except msgspec.ValidationError as error:
        raise wire.Malformed(f"policy: {error}") from error


def _policy(given: wire.Policy, max_latency_increase: str | None) -> Policy:
    single = _single(given.checks)
    checks = _checks(single, max_latency_increase)
    return Policy(
        steps=given.steps,
        warm_up=wire.duration(given.warm_up, field="warmUp"),
        min_step=wire.duration(given.min_step, field="minStep"),
        min_requests=given.min_requests,
        step_timeout=wire.duration(given.step_timeout, field="stepTimeout"),
        progress_deadline=wire.duration(given.progress_deadline, field="progressDeadline"),
        alpha=given.alpha,
        beta=given.beta,
        canary_replicas=given.canary_replicas,
        on_inconclusive=given.on_inconclusive,
        on_no_data=given.on_no_data,
        no_data_timeout=wire.duration(given.no_data_timeout, field="noDataTimeout"),
        scale_down_promoted=wire.duration(given.scale_down_delay.promoted, field="scaleDownDelay.promoted"),
        scale_down_rolled_back=wire.duration(
            given.scale_down_delay.rolled_back, field="scaleDownDelay.rolledBack"
        ),
        promotion=given.promotion.mode,
        history_limit=given.history_limit,
        burst_tolerance=wire.duration(given.burst_tolerance, field="burstTolerance"),
        checks=checks,
        shadow=_shadow(single, checks),
        pages={check.name: _page(check) for check in single if check.source},
        alerts=tuple(_alert(alert) for alert in given.alerts),
    )


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
        policy=_policy(given.policy, given.max_latency_increase),
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
    return Run(
        name=found.metadata.name,
        plan=_plan(found.spec.plan, found.metadata.namespace),
        uid=next((owner.uid for owner in found.metadata.owner_references), ""),
        created=found.metadata.creation_timestamp,
        stage=state.stage,
        step=state.step,
        weight=status.weight,
        hold=state.hold,
        reason=status.reason if state.stage is Stage.ENDED else None,
        check=state.check,
        message=status.message,
        step_since=state.step_since,
        weight_since=state.weight_since,
        data_since=state.data_since,
        ended=state.ended,
        weights=tuple(WeightChange(at=w.at, weight=w.weight, reason=w.reason) for w in status.weights),
        passed=state.passed,
        approved=state.approved,
        canary_replicas=status.canary_replicas,
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


def commands(obj: Json, *, withdrawn: bool = False, frozen: bool = False) -> Commands:
    """What people ask of the run: its spec beside the plan, and what its surroundings say.

    It does not ask for a plan or a status that we can read: an abort is heard in any case.
    """
    found = wire.decode(obj, wire.WishedObject)
    return Commands(
        paused=found.spec.paused,
        abort=None if found.spec.abort is None else found.spec.abort.reason,
        promote=None if found.spec.promote is None else found.spec.promote.reason,
        approvals=len(found.spec.approved),
        deleted=found.metadata.deletion_timestamp is not None,
        withdrawn=withdrawn,
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
    return {
        "name": check.name,
        "verdict": verdict_name(check.verdict),
        "logE": round(check.log_e, 4),
        "logEPass": round(check.log_e_pass, 4),
        "estimate": check.estimate,
        "interval": low_high,
        "canaryRequests": check.canary_requests,
        "stableRequests": check.stable_requests,
        "canaryHits": check.canary_hits,
        "expectedHits": round(check.expected_hits, 2),
        "shares": None if check.shares is None else list(check.shares),
        "threshold": check.threshold,
        "note": check.note,
        "sentence": sentence,
    }


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
        "passed": run.passed,
        "approved": run.approved,
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


def status(run: Run, checkpoint: Checkpoint, epoch: int, *, before: Json = None, now: datetime) -> Json:
    """The whole status as a merge patch holds it: what is None removes its field."""
    steps = run.plan.policy.steps
    judgement = checkpoint.judgement
    sentences, old = checkpoint.sentences, before or {}
    written: Json = _finite(
        {
            "phase": phase(run).value,
            "conditions": conditions(run, judgement, before=old.get("conditions", []), now=now),
            "reason": run.reason or run.hold,
            "message": run.message,
            "step": f"{min(run.step + 1, len(steps))}/{len(steps)}",
            "weight": run.weight,
            "verdict": verdict_name(judgement.verdict),
            "logE": round(judgement.log_e, 4),
            "weights": [
                {"at": wire.time(w.at), "weight": w.weight, "reason": w.reason.value} for w in run.weights
            ],
            "checks": [_check_status(check, sentences.get(check.name, "")) for check in judgement.checks],
            # until this leader's onlookers have something to say, what the last one's said is not lost
            "peers": checkpoint.beside.get("peers", old.get("peers")),
            "placebos": checkpoint.beside.get("placebos", old.get("placebos")),
            "epoch": epoch,
            "evidenceVersion": EVIDENCE_VERSION,
            "checkpoint": checkpoint.body,
            "outbox": _outbox(run),
            "canaryReplicas": run.canary_replicas,
            "state": _state(run),
        }
    )
    return written


def conditions(run: Run, judgement: Judgement, *, before: list[Json], now: datetime) -> list[Json]:
    """Progressing, Healthy and Succeeded; a transition's time changes only with its status."""
    ended = run.stage is Stage.ENDED
    promoted = run.reason is Reason.PROMOTED
    reason = (run.reason or run.hold or Reason.STARTED).value
    succeeded = ("True" if promoted else "False") if ended else "Unknown"
    progressing = "False" if ended or run.hold else "True"
    healthy = {Verdict.FAIL: "False", Verdict.NO_DATA: "Unknown"}.get(judgement.verdict, "True")
    old = {condition["type"]: condition for condition in before}
    return [
        _condition(old.get(kind), kind=kind, status=value, reason=why, message=run.message, now=now)
        for kind, value, why in (
            ("Progressing", progressing, reason),
            ("Healthy", healthy, verdict_name(judgement.verdict)),
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
