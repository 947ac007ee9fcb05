"""The Shadow check in a run: what is asked, what an answer means, and how long requests are mirrored.

Pure. A worker (`gpu_shadow`) replays recorded requests on both models and says how the answers differ;
here that becomes one check among the others. Its part of alpha is its share, and the others' evidence has
the rest, so that together they roll a healthy version back at most as often as alpha says, however they
depend on each other. What was decided is decided: a Pass or a Fail is about two files that do not change.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from itertools import islice
from math import inf
from typing import Annotated, Any

import msgspec

from analysis.judge import CheckJudgement, Judgement, Verdict
from analysis.values import replace
from controller.explain import sentence
from controller.model import Action, Mirror, Policy, Recording, Replayed, Run, Seen, ShadowCheck, Stage
from controller.retraining import understood as understood_inputs
from controller.telling import Next

Json = Any

ARTIFACT = "serin.dev/artifact"  # an annotation of a pod template
BASELINE = "serin.dev/baseline"  # ... of the canary's; it may be missing
REFERENCE = re.compile(r"[a-z0-9]+://[^@\s]+@sha256:[0-9a-f]{64}")
LONGEST = 400  # characters of a sentence that are kept: it goes into Events, alerts and status
NAMED, LONGEST_ID = 5, 200  # requests that are named of a comparison, and characters of an id
MOST = 3.0  # the score of a request that was not answered
SILENT = Replayed(verdict=Verdict.NO_DATA, sentence="the worker has not answered")
DECIDED = frozenset({Verdict.PASS, Verdict.FAIL})


# -- what is asked ---------------------------------------------------------------------------------


def planned(templates: Mapping[str, Json], service: Json, recorder: Mapping[str, Json]) -> Json | str:
    """`spec.plan.shadow` for the templates of the two Deployments by name, stable's first; or why not.

    `recorder` is its host and port as the mesh knows it, and the percent of requests that it gets; `service`
    is the VirtualService.
    """
    found = []
    for name, template in templates.items():
        value = (template.get("metadata", {}).get("annotations") or {}).get(ARTIFACT)
        where = f"Deployment {name}: spec.template.metadata.annotations[{ARTIFACT}]"
        if value is None or not REFERENCE.fullmatch(value):
            said = "is missing" if value is None else f'is "{value}"'
            return (
                f"{where} {said}; the policy's Shadow check needs to know the model: give it as"
                ' "file:///models/NAME.safetensors@sha256:DIGEST", or take the check out of the policy'
            )
        found.append(value)
    name, template = list(templates.items())[-1]
    baseline = (template["metadata"]["annotations"]).get(BASELINE)
    if baseline is not None and not REFERENCE.fullmatch(baseline):
        where = f"Deployment {name}: spec.template.metadata.annotations[{BASELINE}]"
        return f'{where} is "{baseline}"; give "file:///models/NAME.json@sha256:DIGEST", or take it away'
    hosts = [name for host_ in service["spec"]["hosts"] for name in names(host_, service)]
    plan = {"stable": found[0], "canary": found[1], "hosts": hosts, **recorder}
    return plan | ({} if baseline is None else {"baseline": baseline})


def names(host: str, service: Json) -> list[str]:
    """All the names by which a VirtualService's host is called within the cluster."""
    if "." in host or host == "*":
        return [host]
    long = f"{host}.{service['metadata'].get('namespace', 'default')}"
    return [host, long, f"{long}.svc", f"{long}.svc.cluster.local"]


def question(run: Run) -> Json:
    """What is put to the worker: all that its verdict depends on; None if there is nothing to ask."""
    plan, check = run.plan, run.plan.policy.shadow
    if check is None or plan.artifacts is None or plan.recording is None:
        return None
    return {
        "run": f"{plan.namespace}/{run.name}",
        "generation": run.created.isoformat(),
        "hosts": list(plan.recording.hosts),
        "stable": plan.artifacts.stable,
        "canary": plan.artifacts.canary,
        **({} if plan.artifacts.baseline is None else {"baseline": plan.artifacts.baseline}),
        "margins": {
            "maxFlips": check.max_flips,
            "alpha": plan.policy.alpha * check.share,
            "beta": plan.policy.beta,
        },
    }


# -- what an answer means --------------------------------------------------------------------------


class _Answer(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    asked: Any
    verdict: str
    sentence: str
    requests: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0  # status has 64 bits for it
    flips: float | None = None
    interval: tuple[float, float] | None = None
    inputs: Any = None
    worst: Any = None


_VERDICTS = {
    "Pass": Verdict.PASS,
    "Inconclusive": Verdict.INCONCLUSIVE,
    "NoData": Verdict.NO_DATA,
    "Fail": Verdict.FAIL,
}


def understood(body: bytes, asked: Json) -> Replayed:
    """What the worker's answer says; raises `ValueError` unless it is an answer to this very question."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"the worker's answer cannot be read: {error}") from None
    if answer.asked != asked:
        raise ValueError("the worker answered another question: another run, other models or other margins")
    if answer.verdict not in _VERDICTS:
        raise ValueError(f"the worker's verdict is {answer.verdict[:40]}, which is none")
    verdict = _VERDICTS[answer.verdict]
    if answer.requests == 0 and verdict is not Verdict.FAIL:
        verdict = Verdict.NO_DATA  # a policy may go on with what is undecided, and never with silence
    return Replayed(
        verdict=verdict,
        sentence=_shown(answer.sentence, LONGEST),
        requests=answer.requests,
        flips=answer.flips,
        interval=answer.interval,
        inputs=understood_inputs(answer.inputs),
        worst=named(answer.worst),
    )


def named(said: Json) -> tuple[tuple[str, float], ...]:
    """The requests that a worker or a checkpoint names; what is no id or no number is left out.

    They are for people alone: whatever is wrong with them spoils no verdict. An id is a caller's own text.
    """
    entries = [one for one in (said if isinstance(said, list) else ()) if isinstance(one, dict)]
    return tuple(islice(filter(None, map(_named, entries)), NAMED))


def _named(one: Json) -> tuple[str, float] | None:
    """One of them, whose id is written on a line of a terminal."""
    name, how = one.get("id"), one.get("score")
    if not isinstance(name, str) or not name or isinstance(how, bool) or not isinstance(how, int | float):
        return None
    return (_shown(name, LONGEST_ID), float(how)) if 0 <= how <= MOST else None


def _shown(said: str, longest: int) -> str:
    """As it may stand on a line of a terminal: callers choose ids, and slices that sentences name."""
    return "".join(each if each.isprintable() else "?" for each in said[:longest])


def latched(before: Replayed | None, now: Replayed | None) -> Replayed | None:
    """What is known: whatever was decided stays, else what is said now."""
    return before if before is not None and before.verdict in DECIDED else now


def saved(said: Replayed | None) -> Json:
    """What a checkpoint holds of it: a decision, or nothing."""
    if said is None or said.verdict not in DECIDED:
        return None
    return [int(said.verdict), said.sentence, said.requests, said.flips, said.interval]


def saved_worst(said: Replayed | None) -> Json:
    """What a checkpoint holds of a decision's requests; beside it, where older versions look past it."""
    worst = () if saved(said) is None or said is None else said.worst
    return [{"id": name, "score": how} for name, how in worst]


def loaded(body: Json, worst: Json = None) -> Replayed | None:
    """What a checkpoint held; raises `ValueError`, `TypeError` or `IndexError` for what is none of ours."""
    if body is None:
        return None
    verdict, said, requests, flips, interval = body
    return Replayed(
        verdict=Verdict(verdict),
        sentence=str(said),
        requests=int(requests),
        flips=None if flips is None else float(flips),
        interval=None if interval is None else (float(interval[0]), float(interval[1])),
        worst=named(worst),
    )


def judged(check: ShadowCheck | None, said: Replayed | None) -> CheckJudgement | None:
    """The check as one among the others; its evidence is not theirs, so it has no term in their sum."""
    if check is None:
        return None
    said = said or SILENT
    return CheckJudgement(
        name=check.name,
        verdict=said.verdict,
        log_e=-inf,
        log_e_pass=-inf,
        estimate=said.flips,
        interval=said.interval,
        canary_requests=said.requests,
        stable_requests=said.requests,
        note=said.sentence,
        worst=said.worst,
    )


def joined(judgement: Judgement, check: ShadowCheck | None, said: Replayed | None) -> Judgement:
    """The judgement with the Shadow check in it: the worst wins, and what failed is named."""
    one = judged(check, said)
    if check is None or one is None:
        return judgement
    failed = one.verdict is Verdict.FAIL
    counts = check.required or failed
    return replace(
        judgement,
        verdict=max(judgement.verdict, one.verdict) if counts else judgement.verdict,
        checks=(*judgement.checks, one),
        failed=check.name if failed else judgement.failed,
    )


def sentence_of(
    policy: Policy,
    one: CheckJudgement,
    *,
    after: timedelta | None = None,
    warming: timedelta | None = None,
) -> str:
    """One sentence about a check of the policy, whichever kind it is."""
    spec = next((check for check in policy.checks if check.name == one.name), None)
    return one.note if spec is None else sentence(spec, one, after=after, warming=warming)


# -- in the machine --------------------------------------------------------------------------------


def gate(run: Run, seen: Seen) -> CheckJudgement | None:
    """The check for whose Pass the first weight has to wait; None if it has it, or needs none."""
    check = run.plan.policy.shadow
    if check is None or not check.required or run.weights:
        return None
    one = seen.shadow or judged(check, None)
    return one if one is not None and one.verdict is not Verdict.PASS else None


def mirrored(run: Run, actions: tuple[Action, ...], seen: Seen) -> Next:
    """The same, with the mirror set while the check is undecided, and taken away whenever it is not."""
    asks = run.plan.recording is not None and run.stage in {Stage.WAITING, Stage.STEPPING}
    undecided = seen.shadow is not None and seen.shadow.verdict not in DECIDED
    if asks and undecided and seen.route.refusal is None and seen.route.unmirrored is None:
        there = seen.route.mirrored
        return replace(run, mirrored=True), actions if there else (*actions, Mirror(on=True))
    if seen.route.mirrored and run.plan.recording is not None:
        return replace(run, mirrored=True), (*actions, Mirror(on=False))
    return replace(run, mirrored=False), actions


def hidden(recording: Recording | None, other: Json | None) -> bool:
    """Whether the other run asks for the same mirror: what stands there is its own then."""
    theirs = None if other is None else other["spec"]["plan"].get("shadow")
    mine = None if recording is None else (recording.host, recording.port)
    return theirs is not None and (theirs["host"], theirs["port"]) == mine
