"""A CanaryRun object as plain text: what was seen, how sure, what decided, what could not be seen.

Pure. It reads the object as `kubectl get -o json` gives it and takes nothing for granted: a run that
was just created has no status yet.
"""

import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from controller import record
from controller.explain import (
    Finding,
    allowed,
    beside,
    clauses,
    different,
    duration,
    noisy,
    none_yet,
    not_ruled_out,
    odds,
    part,
    rolls_back,
    said,
    subject,
)
from controller.folding import WIDTH, wrapped

Json = Any
KINDS = {
    "Latency": "latency",
    "ErrorRate": "errors",
    "Predictions": "predictions",
    "Proportion": "what people do with the answers",
    "Shadow": "other answers to the same requests",
}
# Below twenty expected requests beyond stable's quantile a check has hardly anything to go by.
FEW = 20
TRIED = "it is tried again for a day; the Event AlertDelayed of the canary's Deployment says why."
SOON = timedelta(seconds=15)  # an alert that arrives within it is not waited for

REASONS = {
    "CheckFailed": "a check failed",
    "CanaryNotAnswering": "the canary completed no request although at least 20 were due",
    "CanaryUnavailable": "the canary had no ready pod, or its pods kept crashing",
    "CanaryUnderProvisioned": "the canary has too few pods for the next weight",
    "TrafficDoesNotFollowWeight": "the canary's share of requests is not its weight",
    "StableChanged": "stable was changed by somebody else while it was being compared with",
    "StableUnavailable": "stable has no ready pod that could take the traffic back",
    "Superseded": "another request took its place: a newer version, other annotations or another policy",
    "PromotionFailed": "stable did not become ready with the new template and was given the old one back",
    "ReadyToPromote": "every check passed; somebody has to give stable the new template",
    "NoData": "the metrics that the required checks need are missing",
    "Inconclusive": "the step's time was up before the evidence was clear",
    "Aborted": "somebody aborted it",
    "Frozen": "raises and promotions are frozen here",
    "Interrupted": "healthy canary pods were evicted",
    "LeaderLost": "a leader took the traffic away and was lost before it could write down why",
    "Paused": "somebody paused it",
    "Refused": "traffic cannot be steered as it is set up",
    "Mended": "what its Deployment was refused for is mended",
    "Promoted": "stable runs the new version",
    "StableNoisy": "noise on stable's pods alone would have rolled back a canary",
    "InputsDrifted": "inputs differ from those the model was trained on, for both versions alike",
    "PreflightFailed": "the checklist before the first traffic was not passed",
    "RetrainingWanted": "inputs differ from those the model was trained on; whoever trains it was told",
    "AwaitingApproval": "the policy asks a person before traffic moves up",
    "GateClosed": "the policy asks a webhook before traffic moves up, and it has not said yes",
    "AlertDelayed": "one of the policy's alerts has not arrived",
}
# How a run is held, where that is a wish of people's: the phase is Paused whatever holds it.
HELD = {
    "AwaitingApproval": "waiting for approval",
    "GateClosed": "waiting for a webhook",
    "Paused": "paused",
}
# Reasons that are counted facts, not test results: alpha has no part in them.
FACTS = frozenset(
    {
        "CanaryNotAnswering",
        "CanaryUnavailable",
        "StableChanged",
        "Superseded",
        "PromotionFailed",
        "LeaderLost",
        "Aborted",
    }
)


def explanation(
    run: Json, *, now: datetime, program: str = "kubectl serin", flags: str = "", width: int = WIDTH
) -> str:
    """Everything there is to say about a run, in sections; `flags` say which cluster is typed to."""
    sections = (
        ("What", list(_compared(run))),
        ("How sure", list(certainty(run))),
        ("Checks", list(_checks(run, now=now))),
        ("Checklist", list(preflight(run))),
        ("Weights", list(_weights(run))),
        ("What others would have done on the same requests", list(peers(run))),
        ("What could not have been seen", [f"- {line}" for line in unseen(run, now=now)]),
        ("What happens next", [*coming(run), *waiting(run, now=now)]),
        ("What you can type", commands(run, program=program, flags=flags)),
    )
    shown = [_section(title, lines, width) for title, lines in sections if lines]
    return "\n\n".join([headline(run), *shown])


def _section(title: str, lines: Sequence[str], width: int) -> str:
    return "\n".join([title, *(each for line in lines for each in wrapped(line, width))])


def headline(run: Json) -> str:
    """Who, where, and how it stands: one line."""
    meta = run["metadata"]
    return f"{meta['name']} in {meta['namespace']}: {standing(run)}{_because(run)}"


def glance(run: Json, *, now: datetime, wide: bool = False) -> str:
    """The headline, what was last said, and a line for each check; with its sentence if `wide`."""
    lines, message = [headline(run)], record.status(run).get("message")
    if message:
        lines.append(f"  {full_stop(message)}")
    lines.extend(f"  {full_stop(each)}" for each in _asked(run))
    found = record.findings(run, now=now)
    width = max((len(each.name) for each in found), default=0)
    for each in found:
        counted = f"{each.canary_requests} canary and {each.stable_requests} stable requests"
        tail = said(each) if wide or each.warming else counted
        lines.append(f"  {each.name:{width}}   {each.verdict:12}   {tail}")
    lines.extend(f"  {each}" for each in waiting(run, now=now))
    return "\n".join(lines)


def waiting(run: Json, *, now: datetime) -> Iterator[str]:
    """Which alerts have not arrived, if not a moment ago."""
    waits = [each for each in record.status(run).get("outbox") or () if isinstance(each, dict)]
    since = [record.time(each["at"]) for each in waits if "at" in each]
    if since and now - min(since) >= SOON:
        age = duration(now - min(since))
        what = (
            "1 alert has not arrived"
            if len(waits) == 1
            else f"{len(waits)} alerts have not arrived, the oldest"
        )
        yield f"{what} for {age}; {TRIED}"


def _asked(run: Json) -> Iterator[str]:
    """What people asked for that is still to come, and what it waits for."""
    held = {"Paused": "waits until somebody resumes it", "Frozen": "waits until the freeze is lifted"}
    waits = held.get(record.reason(run) or "", "waits for its turn")
    waits = "waits for a page" if record.unread(run) else waits
    return (f"{each}, {waits}" for each in record.asked(run))


def standing(run: Json) -> str:
    """Promoted, rolled back, aborted, superseded, or where it is."""
    status = record.status(run)
    match phase := status.get("phase"):
        case None | "Pending":
            return "waiting for the canary's pods, no traffic yet"
        case "Succeeded":
            return "promoted"
        case "Failed":
            return record.ENDINGS.get(record.reason(run) or "", "rolled back")
    where = f"step {status.get('step', '?')}, {status.get('weight', 0)} % of requests"
    held = HELD.get(record.reason(run) or "", "held")
    return f"{ {'Paused': held, 'Promoting': 'promoting'}.get(phase, 'in progress') } at {where}"


def _because(run: Json) -> str:
    why = record.reason(run)
    return f" ({why}: {REASONS[why]})" if why in REASONS else f" ({why})" if why else ""


def _compared(run: Json) -> Iterator[str]:
    plan, status = run["spec"]["plan"], record.status(run)
    yield (
        f"Deployment {plan['canary']} (template {plan.get('canaryHash', '?')})"
        f" {'was' if record.ended(run) else 'is'} compared with {plan['stable']}"
        f" ({plan.get('stableHash', '?')}) behind VirtualService"
        f" {plan.get('virtualService', plan['stable'])}."
    )
    yield from record.planned_by(run)
    if status.get("message"):
        yield full_stop(status["message"])
    known = record.stable_known(run)
    if known is not None:
        yield f"Stable had been read for {duration(known)} when the canary got its first requests."


def certainty(run: Json) -> Iterator[str]:
    """What the evidence has come to, and what that is worth."""
    status, policy = record.status(run), record.policy(run)
    alpha, beta = policy.get("alpha", 0.01), policy.get("beta", 0.05)
    if record.reason(run) in FACTS:
        yield "This was not a statistical verdict: it was counted or commanded, and alpha has no part in it."
    replayed = [
        each.name for each in record.findings(run) if each.kind == "Shadow" and each.verdict == "Fail"
    ]
    if replayed:
        yield (
            f"{replayed[0]} decided on replayed requests, no user's answer among them. A version within its"
            f" margin fails it in at most its share of alpha ({_percent(alpha)} for all checks together)."
        )
        return
    log_e = status.get("logE")
    if log_e is None:
        yield "No evidence yet."
        return
    against = f'{odds(log_e, alpha)} against "no worse than the margins"'
    yield f"All checks together: {against}; {rolls_back(alpha)}."
    yield (
        f"A version within its margins gets there in at most {_percent(alpha)} of runs,"
        " however often one looks."
    )
    if status.get("phase") == "Succeeded":
        yield f"A check that is beyond its margin passes a step in at most {_percent(beta)} of cases."
    yield from _placebos(record.placebos(run), alpha)


def _placebos(seen: Json, alpha: float) -> Iterator[str]:
    """How far noise alone came on stable's own pods."""
    if not seen:
        return
    if not seen.get("count"):
        yield f"No placebos to compare that with: {seen.get('note')}."
        return
    size, highest = {name: seen[name] for name in ("count", "nodes")}, seen.get("logE") or 0.0
    since = record.time(seen["since"])
    yield f"{beside(**size)} since {since:%H:%M:%S}Z: the furthest came to {odds(highest, alpha)}."
    if highest >= -math.log(alpha):
        yield f"Warning: {noisy(**size, alpha=alpha)}."


def _checks(run: Json, *, now: datetime) -> Iterator[str]:
    """Each check: its verdict, then its sentence clause by clause."""
    alpha = record.policy(run).get("alpha", 0.01)
    placebos = {one["name"]: one.get("logE") for one in record.placebos(run).get("checks", [])}
    for found in record.findings(run, now=now):
        yield f"{found.name}: {found.verdict}{'' if found.required else ' (not required)'}"
        for clause in clauses(found):
            yield f"  {clause}"
        if found.worst:
            yield f"  most different: {', '.join(different(found))}"
        if found.log_e is not None:
            most = placebos.get(found.name)
            others = "" if most is None else f" (the furthest placebo: {_part(most, alpha)})"
            yield f"  evidence of harm: {_of_the_line(found.log_e, alpha)}{others}"
    yield from record.unequal(run)


def _of_the_line(log_e: float, alpha: float) -> str:
    """How far one check alone has come towards a rollback; its share of alpha is in it."""
    if log_e + math.log(alpha) >= 0:
        return "enough to roll back by itself"
    if none_yet(log_e):
        return "none yet"
    return f"{_part(log_e, alpha)} of what rolls back"


def _part(log_e: float, alpha: float) -> str:
    if none_yet(log_e):
        return "none yet"
    gathered = part(log_e, alpha)
    return _percent(gathered) if gathered >= 0.01 else "less than 1 %"


def _weights(run: Json) -> Iterator[str]:
    """The weight's history, with the time since the change before."""
    before: datetime | None = None
    for change in record.status(run).get("weights") or []:
        at = record.time(change["at"])
        since = "" if before is None else f"  after {duration(at - before)}"
        yield f"{at:%Y-%m-%d %H:%M:%S}Z  {change['weight']:3d} %  {change['reason']}{since}"
        before = at


def peers(run: Json) -> Iterator[str]:
    """What the peers' rules had to say when the run ended, or have by now."""
    said, weights = record.status(run).get("peers"), record.status(run).get("weights") or []
    began = next((record.time(change["at"]) for change in weights if change["weight"] > 0), None)
    if not said or began is None:
        return
    ended = record.time(weights[-1]["at"]) if record.ended(run) else None
    outcomes: dict[str, list[str]] = {}
    for rule in said["rules"]:
        outcome = _would_have(run, rule, began=began, ended=ended)
        outcomes.setdefault(outcome, []).append(rule["name"])
    for outcome, names in outcomes.items():
        yield f"- {', '.join(names)}: {outcome}"
    yield "Each with this policy's margins, told of the requests at once; they decided nothing here."
    if said.get("since"):
        since = record.time(said["since"])
        yield f"They looked from {since:%H:%M:%S}Z on, when another leader took the run over."


def _would_have(run: Json, rule: Json, *, began: datetime, ended: datetime | None) -> str:
    """What the rule would have done, beside what became of the run."""
    rolled_back = ended if record.status(run).get("phase") == "Failed" else None
    if "rolledBackAt" in rule:
        at = record.time(rule["rolledBackAt"])
        when = f"after {_whole(at - began)}"
        if rolled_back:
            when = f"{_whole(rolled_back - at)} earlier" if at < rolled_back else "at the same time"
        return f"would have rolled back {when}, by {rule['check']}"
    if rolled_back:
        return f"had not decided by then, {_whole(rolled_back - began)} into the canary's traffic"
    return (
        f"would not have rolled back in these {_whole(ended - began)}"
        if ended
        else "would not have rolled back so far"
    )


def _whole(value: timedelta) -> str:
    """A duration in whole seconds, one at least."""
    return duration(timedelta(seconds=max(1, round(value.total_seconds()))))


def unseen(run: Json, *, now: datetime) -> Iterator[str]:
    """What this run could not have noticed, however bad it is."""
    found, policy = record.findings(run), record.policy(run)
    for each in found:
        yield from _below_notice(each)
    kinds = {each.kind for each in found}
    for kind, what in KINDS.items():
        if kind not in kinds:
            yield f"{what}: the policy has no {kind} check"
    if warm_up := policy.get("warmUp"):
        yield f"anything but errors while the canary warms up (warmUp: {warm_up})"
    exposed = record.exposed(run, now=now)
    if exposed:
        yield f"anything that takes longer to show than the {duration(exposed)} with traffic on the canary"


def _below_notice(found: Finding) -> Iterator[str]:
    """One check's blind spots."""
    name = found.name
    yield f"{name}: what the margin permits ({allowed(found)})"
    if found.kind == "Predictions":
        yield f"{name}: whether predictions are right; only how often each value comes is compared"
    if found.kind == "Shadow":
        yield f"{name}: whether answers are right, and how fast; only whether they are stable's"
    if found.interval and found.verdict != "Fail":
        yield f"{name}: {not_ruled_out(found)}"
    tail = (1 - found.quantile) * found.canary_requests
    if found.kind == "Latency" and 0 < tail < FEW:
        yield (
            f"{name}: small increases; of {found.canary_requests} canary requests"
            f" only about {tail:.0f} lie beyond the {subject(found)}"
        )
    if found.note and found.kind != "Shadow":  # its words are its finding
        yield f"{name}: {found.note}"


def coming(run: Json) -> Iterator[str]:
    """What the controller will do by itself."""
    status, policy = record.status(run), record.policy(run)
    match status.get("phase"):
        case "Succeeded":
            yield "Nothing: stable runs this version."
        case "Failed":
            delay = policy.get("scaleDownDelay", {}).get("rolledBack", "a while")
            yield f"All requests go to stable. The canary's pods stay for {delay}, then it is scaled to 0."
        case "Promoting":
            yield "When stable is rolled out with the new template the canary's weight becomes 0."
        case "Paused":
            yield _held(run)
            yield from (f"{each}." for each in _asked(run))
        case None | "Pending":
            replayed = [each.name for each in record.findings(run) if each.kind == "Shadow" and each.required]
            waits = f" and {replayed[0]} has passed" if replayed else ""
            yield (
                f"The first step begins when the canary's pods are ready{waits};"
                f" if they are not, it is given up after {policy.get('progressDeadline', 'the deadline')}."
            )
        case _:
            yield _onwards(run)


def _onwards(run: Json) -> str:
    """What a step waits for."""
    policy = record.policy(run)
    return (
        f"{_next_step(run)} follows when every required check has passed, after at least"
        f" {policy.get('minStep')} and {policy.get('minRequests')} canary requests;"
        f" undecided after {policy.get('stepTimeout')}: {policy.get('onInconclusive')}."
        " A failed check takes all requests from the canary at once."
    )


def _next_step(run: Json) -> str:
    steps, weight = record.policy(run).get("steps", []), record.status(run).get("weight", 0)
    above = [step for step in steps if step > weight]
    return f"{above[0]} %" if above else "Promotion"


WAITS = {
    "Inconclusive": "It goes on when every required check passes, or when somebody approves.",
    "NoData": "It goes on when metrics are back and every required check passes, or when somebody approves.",
    "InputsDrifted": "It goes on when somebody approves, or recorded inputs are as in the training again.",
    "AwaitingApproval": "A gate of the policy, and no pause: it goes on when somebody approves.",
    "PreflightFailed": "It goes on by itself when what failed is mended, or when somebody approves.",
    "GateClosed": "It goes on by itself when the webhook answers 2xx; it is asked every ten seconds.",
    "Paused": "It stays as it is until somebody resumes it.",
    "Frozen": "It stays as it is until the freeze is lifted (annotation serin.dev/freeze, or --freeze).",
    "Interrupted": "It goes on by itself when the canary's pods are back.",
    "CanaryUnderProvisioned": "It goes on by itself when the canary has enough pods.",
    "ReadyToPromote": "It goes on by itself when stable has been given the new template.",
    "StableUnavailable": "Requests move as soon as stable has a ready pod.",
}


# What to do about pods that nobody can look at.
MEND_PAGES = (
    "An approval does not help while no page can be read:"
    " mend the pods' port and path (prometheus.io annotations, docs/metrics.md)."
)


def _held(run: Json) -> str:
    if record.unread(run):
        return f"It goes on by itself when a page of its pods can be read. {MEND_PAGES}"
    waits = WAITS.get(record.reason(run) or "", "It goes on by itself when what it waits for has come.")
    return f"{waits} Checks go on meanwhile and can still roll back."


def preflight(run: Json) -> Iterator[str]:
    """What failed of the checklist before the first weight."""
    for one in record.status(run).get("preflight") or ():
        if one.get("result") == "Fail":
            yield f"- {one['item']}: {full_stop(one.get('why', ''))} {full_stop(one.get('mend', ''))}"


def approvable(run: Json) -> bool:
    """Whether the run waits for a person, or for what one can stand in for: an answer from the evidence."""
    waits = {"AwaitingApproval", "Inconclusive", "NoData", "InputsDrifted", "PreflightFailed"}
    held = record.status(run).get("phase") == "Paused" and record.reason(run) in waits
    return held and not record.unread(run)


def commands(run: Json, *, program: str, flags: str = "") -> list[str]:
    """What can be typed now, most likely first."""
    meta = run["metadata"]
    where = f"{meta['name']} -n {meta['namespace']}{flags}"
    reasoned = {"abort", "promote"}
    typed = [
        f"{program} {verb} {where}{_REASON if verb in reasoned else ''}   # {does}"
        for verb, does in _verbs(run)
    ]
    waits = record.promotion(run) is not None
    return [*typed, *([f"{withdrawal(run, flags)}   # takes the promotion back that waits"] if waits else [])]


def withdrawal(run: Json, flags: str) -> str:
    """What takes a promotion back that was asked for and has not begun; an annotation would ask again."""
    where = f"{run['metadata']['name']} -n {run['metadata']['namespace']}{flags}"
    if record.promotion(run) == record.BY_ANNOTATION:
        canary, within = run["spec"]["plan"]["canary"], f"-n {run['metadata']['namespace']}{flags}"
        away = f"kubectl annotate deployment {canary} {within} serin.dev/promote- && "
    else:
        away = ""
    return f'{away}kubectl patch crun {where} --type merge -p \'{{"spec":{{"promote":null}}}}\''


_REASON = " --reason '...'"


def _verbs(run: Json) -> Iterator[tuple[str, str]]:
    """What helps now, and what each does."""
    phase = record.status(run).get("phase")
    if phase == "Failed":
        yield "retry", "tries the same version once more"
    if phase in {"Succeeded", "Failed"}:
        return
    if phase == "Paused" and record.reason(run) == "Paused":
        yield "resume", "goes on"
    elif approvable(run):
        yield "approve", "goes on, once"
    elif phase == "Progressing":
        yield "pause", "stops raising; checks go on"
    yield "abort", "sends all requests to stable"
    if phase in {"Progressing", "Paused"} and not record.unread(run) and record.promotion(run) is None:
        yield "promote", "skips the remaining steps"


def _percent(part: float) -> str:
    return f"{part * 100:.3g} %"


def full_stop(text: str) -> str:
    """A sentence, as it came or with its end; none after what can be typed, which would be copied with it."""
    typed = re.search(r"(^|: )kubectl [^;.]*$", text)
    return text if typed or text.endswith((".", "!", "?")) else text + "."
