"""What objects say to the witness, who reads them as an outsider does: as JSON."""

from collections.abc import Mapping
from typing import Any

from controller import letters, record
from scenarios.cluster.patches import clone
from scenarios.result import ended

Json = Any

STOPS = {"deployments": "serin.dev/pause", "namespaces": "serin.dev/freeze"}
WAITS = frozenset({"AwaitingApproval", "Inconclusive", "NoData", "InputsDrifted", "PreflightFailed"})
RESTARTED = "kubectl.kubernetes.io/restartedAt"
FENCE = "serin.dev/fence"  # ours, on the VirtualService


def held(run: Json) -> bool:
    """Whether the run says that it waits for somebody."""
    return bool((run.get("status") or {}).get("phase") == "Paused")


def waits(run: Json) -> bool:
    """Whether it says that it waits for somebody's approval."""
    return held(run) and run["status"].get("reason") in WAITS


def stopping(resource: str, obj: Json) -> bool:
    """Whether the object, of a resource in `STOPS`, says that nothing moves up."""
    return STOPS[resource] in obj["metadata"].get("annotations", ())


def notes_of_people(deployment: Json) -> set[str]:
    """Names of its annotations but the cluster's, and our fence, which stands for a moment."""
    notes: dict[str, str] = deployment["metadata"].get("annotations") or {}
    return notes.keys() - {"deployment.kubernetes.io/revision", FENCE}


def of_people(template: Json) -> Json:
    """What of a pod template is somebody's choice; labels tell the arms apart."""
    return {"spec": template["spec"], "annotations": template["metadata"].get("annotations") or {}}


def plain(template: Json) -> Json:
    """A template of people as it is whenever it was restarted."""
    notes = {name: value for name, value in template["annotations"].items() if name != RESTARTED}
    return {**template, "annotations": notes}


def taken_for(run: Json) -> str | None:
    """Why the canary last had its weight taken, as far as its run says."""
    taken = [each for each in (run.get("status") or {}).get("weights", ()) if each["weight"] == 0]
    return taken[-1]["reason"] if taken else None


def allowance(run: Json) -> int:
    """The most weight that its status lets the canary have."""
    return 0 if ended(run) else int((run.get("status") or {}).get("weight", 0))


def lost(before: Json, after: Json) -> str | None:
    """What its status takes back: a weight that is less and not zero, or that there ever was one."""
    was, meant = allowance(before), allowance(after)
    if 0 < meant < was:
        return f"goes back from {was} % to {meant} %"
    said, left = (len((run.get("status") or {}).get("weights", ())) for run in (before, after))
    return f"said {said} weights that it had, and says {left}" if left < said else None


def weights_in(obj: Json) -> Mapping[str, int]:
    """By subset."""
    return {
        one["destination"]["subset"]: one.get("weight", 0)
        for http in obj["spec"]["http"]
        for one in http["route"]
    }


def wishes(run: Json) -> Json:
    """What somebody asks of it."""
    return run["spec"], run["metadata"].get("deletionTimestamp")


def foreign(obj: Json) -> Json:
    """All of a VirtualService that is its owner's."""
    left = clone({"spec": obj["spec"], "labels": obj["metadata"].get("labels")})
    for http in left["spec"]["http"]:
        http.pop("mirrors", None)
        for one in http["route"]:
            one.pop("weight", None)
    notes = obj["metadata"].get("annotations") or {}
    left["annotations"] = {name: value for name, value in notes.items() if name != FENCE}
    return left


def restarted(pod: Json) -> int:
    """How often its containers began again."""
    return sum(one.get("restartCount", 0) for one in pod.get("status", {}).get("containerStatuses", ()))


def ready(pod: Json) -> bool:
    """Whether it gets requests."""
    said = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in said)


def title_of(reason: str) -> str:
    """What people read first of a run that ended so; only what nothing was found against has its own name."""
    return letters.spaced(reason) if reason == "Promoted" or reason in record.ENDINGS else "Rolled back"
