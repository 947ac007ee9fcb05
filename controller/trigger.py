"""From an annotated Deployment to the CanaryRun it asks for, or why not.

Pure and level-triggered: the same objects give the same answer, so a missed event, a restart or two
leaders at once compute the same name and find the run there. Nothing is written on users' objects.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from controller import policies, record, resource, strays
from controller.cluster import Cluster, template_digest, template_hash
from controller.documents import NAME
from controller.model import Commands, Plan
from controller.neighbours import live, runs_of, taken
from controller.wire import MOST_PERCENT
from controller.writing import FENCE

Json = Any

PREFIX, CANARY_OF, KNOWN = strays.PREFIX, strays.CANARY_OF, strays.KNOWN
FREEZE = f"{PREFIX}freeze"
APPROVAL = "annotation"  # in a run's `spec.approved`: who approved by annotation
# Annotations that name an object, or part of one.
NAMING = {
    "policy": "a CanaryPolicy in this namespace",
    "virtual-service": "a VirtualService in this namespace",
    "stable-subset": "a subset",
    "canary-subset": "a subset",
}
_RUN = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}-[a-z0-9]{1,20}-[0-9]{1,9}")
TOLD = 800  # bytes of an Event that say what is wrong with annotations; it has 1 024 in all
SHOWN = 100  # bytes of a wrong value that are repeated back
FEW = 3  # annotations that nobody knows, named in one sentence
ALIKE = 0.85  # of names that all begin with serin.dev/: a letter too many, too few or wrong
SAME = 0.9  # of runs' names: of two templates' ten characters are others, of 74 at most
# DNS label; a Deployment's name is one already, hash and attempt need at most 14 characters more.
LONGEST_NAME = 63

Steerable = Callable[[Json, Json], str | None]
"""(plan, canary Deployment) -> why its VirtualService cannot be steered, or None."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A CanaryRun object to create."""

    run: Json


@dataclass(frozen=True, slots=True)
class Refused:
    """Why no run is made: the field, its value and the remedy, in one sentence."""

    message: str


def annotations(deployment: Json) -> dict[str, str]:
    """The Deployment's `serin.dev/` annotations, but for the one that we give stable for a moment."""
    found = deployment["metadata"].get("annotations", {})
    return {key: value for key, value in found.items() if key.startswith(PREFIX) and key != FENCE}


def asks(deployment: Json) -> bool:
    """Whether anything on the Deployment is for us, or was meant to be."""
    return bool(annotations(deployment)) or any(strays.misplaced(deployment))


def wanted(deployment: Json, cluster: Cluster, steerable: Steerable) -> Asked | Refused | None:
    """The run that the Deployment asks for, a refusal, or None when nothing is to be made (yet)."""
    notes = annotations(deployment)
    if "deletionTimestamp" in deployment["metadata"] or not asks(deployment):
        return None
    refusals = [*_misread(deployment, notes), *_misput(deployment, cluster)]
    refusals = refusals or _unheard(notes, cluster, deployment)
    if refusals:
        return Refused(_fitted(refusals))
    return _asked(deployment, notes, cluster, steerable) if CANARY_OF in notes else None


def stops(value: str | None) -> bool:
    """Whether an annotation that holds traffic back does: any value but "false", since somebody set it."""
    return value is not None and value.strip().lower() != "false"


def frozen(namespace: Json | None) -> bool:
    """Whether nothing is raised or promoted in the namespace.

    A freeze with a slip of the pen is one, too, and so is one that was set as a label: somebody meant it.
    """
    meta = {} if namespace is None else namespace["metadata"]
    said = (meta.get("annotations") or {}, meta.get("labels") or {})
    return any(stops(notes[name]) for notes in said for name in _freezes(notes))


def _freezes(notes: Mapping[str, str]) -> list[str]:
    return get_close_matches(FREEZE, notes, cutoff=ALIKE)


def retargeted(notes: dict[str, str], plan: Plan) -> bool:
    """Whether the annotations ask for another canary than the plan is of; those of nobody ask for none."""
    if CANARY_OF not in notes:
        return False
    made = plan.stable, plan.virtual_service, plan.stable_subset, plan.canary_subset
    return tuple(_targets(notes, notes[CANARY_OF]).values()) != made


def commands(cluster: Cluster, plan: Plan, obj: Json, *, frozen_all: bool) -> tuple[Commands, Commands]:
    """What people ask of the run by its object and its surroundings; the same with what doorbells add."""
    deployment = cluster.get("deployments", plan.namespace, plan.canary)
    notes = {} if deployment is None else annotations(deployment)
    said = resource.commands(
        obj,
        withdrawn=deployment is not None and CANARY_OF not in notes,
        retargeted=retargeted(notes, plan),
        frozen=frozen_all or frozen(cluster.get("namespaces", "", plan.namespace)),
    )
    return said, rung(said, notes, obj["metadata"]["name"], approved=obj["spec"].get("approved", []))


def rung(said: Commands, notes: dict[str, str], run: str, *, approved: Collection[str] = ()) -> Commands:
    """`said`, and what the annotations' doorbells add: they name the run, so a leftover rings for none.

    `approved` is who approved so far; the annotation counts once, beside whoever else did.
    """
    approves = notes.get(f"{PREFIX}approve") == run and APPROVAL not in approved
    note = record.BY_ANNOTATION
    return replace(
        said,
        paused=said.paused or stops(notes.get(f"{PREFIX}pause")),
        abort=said.abort or (note if notes.get(f"{PREFIX}abort") == run else None),
        promote=said.promote or (note if notes.get(f"{PREFIX}promote") == run else None),
        approvals=said.approvals + approves,
    )


def _fitted(refusals: Sequence[str]) -> str:
    """All of them, as far as they fit into an Event beside what may stand in it anyway."""
    fitting = [
        each
        for place, each in enumerate(refusals)
        if not place or len("; ".join(refusals[: place + 1]).encode(errors="replace")) <= TOLD
    ]
    left = len(refusals) - len(fitting)
    return "; ".join(fitting) + (f"; and {left} more: serin preflight names all" if left else "")


def _misread(deployment: Json, notes: dict[str, str]) -> list[str]:
    """All that is wrong with the annotations as such."""
    stable = notes.get(CANARY_OF)
    found = [said] if (said := unknown(notes)) else []
    if stable is not None and not NAME.fullmatch(stable):
        found.append(
            f'annotation {CANARY_OF}: "{_shown(stable)}" is not the name of a Deployment in this namespace; '
            "give the name alone (a canary and its stable Deployment share a namespace)"
        )
    if stable == deployment["metadata"]["name"]:
        found.append(f'annotation {CANARY_OF}: "{stable}" is this Deployment itself; name the stable one')
    return [*found, *_misnamed(notes), *_misread_values(notes)]


def _misput(deployment: Json, cluster: Cluster) -> Iterator[str]:
    """What stands where nobody reads it: on the Deployment, or on its namespace but for a freeze."""
    name, namespace = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
    for place, what, value in strays.misplaced(deployment):
        yield (
            f"{what} stands {place}, where nothing reads it; it is an annotation of the Deployment: "
            f"kubectl annotate deployment {name} -n {namespace} {what}={_shown(value)}"
        )
    for canary, what, value in strays.upon_stable(deployment, cluster.all("deployments", namespace)):
        yield (
            f"annotation {what} does nothing on {name}, which is stable; it belongs on its canary: "
            f"kubectl annotate deployment {canary} -n {namespace} {what}={_shown(value)}"
        )
    around = annotations(cluster.get("namespaces", "", namespace) or {"metadata": {}})
    others = {key: value for key, value in around.items() if key not in _freezes(around)}
    if said := unknown(others, known={FREEZE}, of=f" of namespace {namespace}"):
        yield said


def unknown(notes: dict[str, str], *, known: Collection[str] = KNOWN, of: str = "") -> str | None:
    """Which annotations nobody knows, and which may have been meant; None if all are known."""
    odd = sorted(notes.keys() - set(known))
    if not odd:
        return None
    one, more = len(odd) == 1, f" and {len(odd) - FEW} more" if len(odd) > FEW else ""
    named = f"{', '.join(map(_shown, odd[:FEW]))}{more}{of}"
    near = [name for each in odd[:FEW] for name in get_close_matches(each, known, n=1, cutoff=ALIKE)]
    meant = f"did you mean {', '.join(dict.fromkeys(near))}? " if near else ""
    there = ", ".join(sorted(name.removeprefix(PREFIX) for name in known))
    return (
        f"annotation{'' if one else 's'} {named} {'is' if one else 'are'} unknown; "
        f"{meant}remove {'it' if one else 'them'} or use one of {PREFIX}: {there}"
    )


def _misnamed(notes: dict[str, str]) -> Iterator[str]:
    """Which annotations name something and do not hold a name."""
    for name, what in NAMING.items():
        value = notes.get(f"{PREFIX}{name}")
        if value is not None and not NAME.fullmatch(value):
            yield (
                f'annotation {PREFIX}{name}: "{_shown(value)}" is not the name of {what}; '
                "correct it, or remove the annotation"
            )


def _unheard(notes: dict[str, str], cluster: Cluster, deployment: Json) -> list[str]:
    """Which doorbells name what can be no run, such as "true": whoever rang believes to be heard."""
    namespace, workload = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
    found = []
    for name in ("abort", "approve", "promote"):
        value = notes.get(f"{PREFIX}{name}")
        if value is None or cluster.get("canaryruns", namespace, value):
            continue
        meant = _meant(value, runs_of(cluster, namespace, workload))
        if meant is None and _RUN.fullmatch(value):
            continue
        said = "is not the name of a run" if meant is None else f"is no run that is there; {meant} goes on"
        found.append(
            f'annotation {PREFIX}{name}: "{_shown(value)}" {said}; nothing was done; '
            f"give the name that `kubectl get canaryruns -n {namespace}` shows, or type"
            f" `kubectl serin {name} {workload} -n {namespace}`"
        )
    return found


def _meant(value: str, runs: Sequence[Json]) -> str | None:
    """The run that goes on, where `value` names none that there ever was: a leftover names an earlier one."""
    run = next((one for one in runs if live(one)), None)
    if run is None or not _RUN.fullmatch(value):
        return None
    name = str(run["metadata"]["name"])
    (mine, _, now), (stem, _, attempt) = name.rpartition("-"), value.rpartition("-")
    if stem == mine:
        return name if int(attempt) > int(now) else None
    other = stem.rpartition("-")[0] != mine.rpartition("-")[0]  # of no template of this Deployment
    return name if other or get_close_matches(value, [name], cutoff=SAME) else None


def _shown(text: str) -> str:
    """The value as its author would recognise it: an Event has 1 024 bytes, and the remedy comes last."""
    said = text.encode(errors="replace")
    return text if len(said) <= SHOWN else f"{said[:SHOWN].decode(errors='ignore')}…"


def _misread_values(notes: dict[str, str]) -> Iterator[str]:
    arms = _targets(notes, "")
    if arms["stableSubset"] == arms["canarySubset"] and NAME.fullmatch(arms["stableSubset"]):
        yield (
            f"annotations {PREFIX}stable-subset and {PREFIX}canary-subset: both arms are subset "
            f'"{_shown(arms["stableSubset"])}"; name the one that each is (unset: stable and canary)'
        )
    steps, increase = notes.get(f"{PREFIX}steps"), notes.get(f"{PREFIX}max-latency-increase")
    if steps is not None and _steps(steps) is None:
        yield (
            f'annotation {PREFIX}steps: "{_shown(steps)}" is not a list of 1 to 20 rising percentages '
            'from 1 to 99; write for example "5,10,25,50" (promotion is what follows the last step)'
        )
    if increase is not None and not _margin(increase):
        yield (
            f'annotation {PREFIX}max-latency-increase: "{_shown(increase)}" is not a percentage above 0% '
            f'and up to {MOST_PERCENT}%; write for example "20%"'
        )
    pause = notes.get(f"{PREFIX}pause", "true")
    if pause not in {"true", "false"}:
        said = f'annotation {PREFIX}pause: "{_shown(pause)}"'
        yield f'{said} is neither "true" nor "false"; its run is paused; remove it or set "true"'


def _margin(text: str) -> bool:
    return re.fullmatch(r"[0-9]+(\.[0-9]+)?%", text) is not None and 0 < float(text[:-1]) <= MOST_PERCENT


def _steps(text: str) -> list[int] | None:
    parts = text.split(",")
    if not all(re.fullmatch(r" *[0-9]{1,2} *", part) for part in parts) or len(parts) > 20:
        return None
    steps = [int(part) for part in parts]
    rising = all(low < high for low, high in pairwise(steps))
    return steps if rising and steps[0] >= 1 else None


def _asked(
    deployment: Json, notes: dict[str, str], cluster: Cluster, steerable: Steerable
) -> Asked | Refused | None:
    meta = deployment["metadata"]
    stable = cluster.get("deployments", meta["namespace"], notes[CANARY_OF])
    if stable is None:
        return Refused(
            f'annotation {CANARY_OF}: there is no Deployment "{notes[CANARY_OF]}" in namespace '
            f"{meta['namespace']}; create it or correct the name"
        )
    plan = _plan(notes, deployment, stable)
    if said := _policy(cluster, notes, plan, meta["namespace"]):
        return Refused(
            said
        )  # whatever becomes of this template: who named the policy looks for an answer now
    canary_hash, stable_hash = template_hash(cluster, deployment), template_hash(cluster, stable)
    if canary_hash is None or stable_hash is None:
        return None  # their own controller has not caught up; its next event brings us back
    attempt = _attempt(cluster, deployment, canary_hash)
    if attempt is None or any(live(run) for run in runs_of(cluster, meta["namespace"], meta["name"])):
        return None  # a live run will be superseded by what it sees, and its end brings us back
    plan |= {"canaryHash": canary_hash, "stableHash": stable_hash}
    plan |= {
        "canaryDigest": template_digest(cluster, deployment),
        "stableDigest": template_digest(cluster, stable),
    }
    refusal = _unfit(deployment, stable) or steerable(plan, deployment)
    refusal = refusal or taken(cluster, plan, meta["namespace"])
    if refusal is not None:
        return Refused(refusal)
    name = run_name(meta["name"], canary_hash, attempt)
    return Asked(
        resource.run_object(
            plan, name=name, namespace=meta["namespace"], workload=meta["name"], owner_uid=meta["uid"]
        )
    )


def plan_of(deployment: Json, stable: Json, cluster: Cluster) -> Json | str:
    """The plan that the Deployment's annotations ask for, hashes left out; or why there is none."""
    notes = annotations(deployment)
    if refusals := _misread(deployment, notes):
        return "\n".join(refusals)
    plan = _plan(notes, deployment, stable)
    return _policy(cluster, notes, plan, deployment["metadata"]["namespace"]) or plan


def run_name(workload: str, template: str, attempt: int) -> str:
    """`{deployment}-{hash}-{attempt}`, the Deployment's name cut where it would not fit a label."""
    tail = f"-{template}-{attempt}"
    return workload[: LONGEST_NAME - len(tail)].rstrip("-.") + tail


def _attempt(cluster: Cluster, deployment: Json, template: str) -> int | None:
    """The number of the run to make; None if this template has its run already.

    The newest attempt decides: one that somebody wished for after another had been judged, and that was cut
    short, is made up for, by what annotations and policy say now.
    """
    past = [
        run
        for run in runs_of(cluster, deployment["metadata"]["namespace"], deployment["metadata"]["name"])
        if run["spec"]["plan"]["canaryHash"] == template
    ]
    newest = max(past, key=lambda run: (record.attempt(run), *record.order(run)), default=None)
    if newest is None:
        return 1
    status = newest.get("status", {})
    cut_short = not live(newest) and status.get("reason") in record.GIVEN_WAY
    return 1 + record.attempt(newest) if cut_short else None


def _plan(notes: dict[str, str], deployment: Json, stable: Json) -> Json:
    increase = notes.get(f"{PREFIX}max-latency-increase")
    plan = {"canary": deployment["metadata"]["name"], **_targets(notes, stable["metadata"]["name"])}
    return plan if increase is None else plan | {"maxLatencyIncrease": increase}


def _targets(notes: dict[str, str], stable: str) -> dict[str, str]:
    """What the annotations name, beside the canary itself."""
    return {
        "stable": stable,
        "virtualService": notes.get(f"{PREFIX}virtual-service", stable),
        "stableSubset": notes.get(f"{PREFIX}stable-subset", "stable"),
        "canarySubset": notes.get(f"{PREFIX}canary-subset", "canary"),
    }


def _unfit(deployment: Json, stable: Json) -> str | None:
    """What about the two Deployments rules a canary out."""
    for one in (deployment, stable):
        owner = next((o for o in one["metadata"].get("ownerReferences", ()) if o.get("controller")), None)
        if owner is not None:
            return (
                f"Deployment {one['metadata']['name']} is owned by {owner['kind']} {owner['name']}, which "
                "would undo a promotion; ask the owner for the canary instead"
            )
    if stable["spec"].get("revisionHistoryLimit") == 0:
        return (
            f"Deployment {stable['metadata']['name']} has revisionHistoryLimit 0, so that a failed promotion "
            "could not be taken back; set it to 2 or more"
        )
    return None


def _policy(cluster: Cluster, notes: dict[str, str], plan: Json, namespace: str) -> str | None:
    """`plan` gets its policy; the schema's defaults stand in for a policy that nobody wrote."""
    policy = policy_of(cluster, notes, namespace)
    if policy is None:
        return (
            f'annotation {PREFIX}policy: there is no CanaryPolicy "{notes[f"{PREFIX}policy"]}" in namespace '
            f"{namespace}; create it, or remove the annotation to use CanaryPolicy/default"
        )
    steps = notes.get(f"{PREFIX}steps")
    plan["policy"] = policy if steps is None else policy | {"steps": _steps(steps)}
    plan |= origin(policy_object(cluster, notes, namespace))
    said = policies.unusable(plan["policy"])
    named = f"CanaryPolicy {plan['policyName']}"
    return said.replace("policy", named, 1) if said and plan["policyName"] else said


def policy_of(cluster: Cluster, notes: dict[str, str], namespace: str) -> Json | None:
    """The spec of the policy that is named, empty if nobody wrote one; None if it is not there."""
    found, named = policy_object(cluster, notes, namespace), f"{PREFIX}policy" in notes
    return dict(found["spec"]) if found is not None else None if named else {}


def policy_object(cluster: Cluster, notes: dict[str, str], namespace: str) -> Json | None:
    """The CanaryPolicy by which annotations would be planned now; None if nobody wrote it."""
    return cluster.get("canarypolicies", namespace, notes.get(f"{PREFIX}policy", "default"))


def origin(policy: Json | None) -> Json:
    """Which policy a plan is by, and as of when, as the plan says it."""
    if policy is None:
        return {"policyName": "", "policyGeneration": 0}
    meta = policy["metadata"]
    return {"policyName": meta["name"], "policyGeneration": meta.get("generation", 1)}
