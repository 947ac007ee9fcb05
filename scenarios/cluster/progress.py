"""What a Deployment's status says of its rollout, as kube-controller-manager would write it. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from scenarios.cluster import rollout
from scenarios.cluster.admission import stamp
from scenarios.cluster.patches import same

Json = Any


def count(obj: Json | None, field: str) -> int:
    """A count in an object's status; what is left out is 0."""
    return int(((obj or {}).get("status") or {}).get(field, 0))


def counted(counts: Mapping[str, int]) -> Mapping[str, int]:
    """Counts as the server writes them: a zero is left out."""
    return {field: number for field, number in counts.items() if number}


def moment(text: str) -> datetime:
    """A timestamp of the API."""
    return datetime.fromisoformat(text)


def status(deployment: Json, sets: Sequence[Json], new: Json | None, now: datetime) -> Json:
    """The Deployment's status, from its ReplicaSets' and its own last one."""
    total = sum(count(item, "replicas") for item in sets)
    available = sum(count(item, "availableReplicas") for item in sets)
    wanted = deployment["spec"]["replicas"]
    counts = {
        "replicas": total,
        "updatedReplicas": count(new, "replicas"),
        "readyReplicas": sum(count(item, "readyReplicas") for item in sets),
        "availableReplicas": available,
        "unavailableReplicas": max(0, max(total, wanted) - available),
    }
    figures = {"observedGeneration": deployment["metadata"]["generation"], **counted(counts)}
    _, unavailable = rollout.bounds(deployment)
    progress = _progress(deployment, figures, new, now)
    conditions = [_availability(enough=available >= wanted - unavailable), *([progress] if progress else [])]
    before = (deployment.get("status") or {}).get("conditions") or ()
    return {**figures, "conditions": [_timed(item, before, now) for item in conditions]}


def complete(deployment: Json, figures: Json) -> bool:
    """Whether all pods wanted are of the newest template, available, and no others are left."""
    fields = ("replicas", "updatedReplicas", "availableReplicas")
    return all(figures.get(field, 0) == deployment["spec"]["replicas"] for field in fields)


def _availability(*, enough: bool) -> Json:
    if enough:
        why, message = "MinimumReplicasAvailable", "Deployment has minimum availability."
    else:
        why, message = "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
    return {"type": "Available", "status": str(enough), "reason": why, "message": message}


def _progress(deployment: Json, figures: Json, new: Json | None, now: datetime) -> Json | None:
    """The condition Progressing: done, under way, or given up after `progressDeadlineSeconds`."""
    conditions = (deployment.get("status") or {}).get("conditions") or ()
    before = next((item for item in conditions if item["type"] == "Progressing"), None)
    if new is None:
        return before
    named = f'ReplicaSet "{new["metadata"]["name"]}"'
    if complete(deployment, figures):
        return _progressing("True", "NewReplicaSetAvailable", f"{named} has successfully progressed.")
    if before and _was_done(before, named) and not _old_pods(figures):
        return before  # pods of a finished rollout come and go: that is no rollout
    if before is None or _moved(deployment, figures):
        return _progressing("True", "ReplicaSetUpdated", f"{named} is progressing.")
    waited = (now - moment(before["lastUpdateTime"])).total_seconds()
    if waited > deployment["spec"]["progressDeadlineSeconds"]:
        return _progressing("False", "ProgressDeadlineExceeded", f"{named} has timed out progressing.")
    return before


def _progressing(truth: str, reason: str, message: str) -> Json:
    return {"type": "Progressing", "status": truth, "reason": reason, "message": message}


def _was_done(condition: Json, named: str) -> bool:
    return bool(condition["reason"] == "NewReplicaSetAvailable" and condition["message"].startswith(named))


def _old_pods(figures: Json) -> int:
    return int(figures.get("replicas", 0) - figures.get("updatedReplicas", 0))


def _moved(deployment: Json, figures: Json) -> bool:
    """Whether the rollout came nearer to its end, or a new one began, since the last status."""
    old = deployment.get("status") or {}
    if old.get("observedGeneration") != figures["observedGeneration"]:
        return True
    fields = ("updatedReplicas", "readyReplicas", "availableReplicas")
    more = any(figures.get(field, 0) > old.get(field, 0) for field in fields)
    return more or _old_pods(figures) < _old_pods(old)


def _timed(condition: Json, before: Sequence[Json], now: datetime) -> Json:
    """The condition with the times at which it became what it is and was last said anew."""
    old: Json = next((item for item in before if item["type"] == condition["type"]), {})
    if condition is old or (same({**old, **condition}, old) and condition["reason"] != "ReplicaSetUpdated"):
        return old
    changed = old.get("lastTransitionTime") if old.get("status") == condition["status"] else None
    return {**condition, "lastUpdateTime": stamp(now), "lastTransitionTime": changed or stamp(now)}
