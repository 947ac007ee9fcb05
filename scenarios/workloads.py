"""kube-controller-manager's part that canaries need: Deployment to ReplicaSet to Pod, and nodes.

Each controller looks at what is there and does the next thing (level, not edge), a moment after a
change, as the real ones do; the clock is the running loop's.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from scenarios import rollout
from scenarios.admission import Admission, stamp
from scenarios.clockwork import Chores
from scenarios.kinds import Kind
from scenarios.patches import same
from scenarios.refusals import Refused
from scenarios.registry import Registry
from scenarios.rollout import HASH, REVISION
from scenarios.selectors import selects
from scenarios.store import Change

Json = Any

LAG = 0.01  # seconds between a change and a controller's answer to it
_PREFIX = "deployment.kubernetes.io/"
# Annotations of a Deployment that its ReplicaSets do not get
_OWN = {REVISION, f"{_PREFIX}desired-replicas", f"{_PREFIX}max-replicas"}
_OWN |= {"kubectl.kubernetes.io/last-applied-configuration"}


class Workloads:
    """The Deployment and ReplicaSet controllers and a scheduler, over one registry."""

    def __init__(self, registry: Registry, *, nodes: Sequence[str]) -> None:
        self._registry = registry
        self._nodes = nodes
        self._chores = Chores()

    def heard(self, change: Change) -> None:
        """Whoever has to look at the change will, in a moment."""
        kind, obj = change.kind.plural, change.obj
        meta = obj["metadata"]
        if kind == "pods" and change.type != "DELETED" and not obj["spec"].get("nodeName"):
            self._soon("pods", meta["namespace"], meta["name"])
        if kind in _CONTROLLED and change.type != "DELETED":
            self._soon(kind, meta["namespace"], meta["name"])
        if kind in _OWNERS:
            self._wake_owners(kind, obj, change.before)

    def close(self) -> None:
        """Nothing is done any more."""
        self._chores.close()

    def _wake_owners(self, kind: str, obj: Json, before: Json | None) -> None:
        """The controller of the object and, if it has none, those that might adopt it."""
        plural, namespace = _OWNERS[kind], obj["metadata"]["namespace"]
        refs = [ref for ref in (controller_of(obj), controller_of(before or obj)) if ref]
        owners = self._registry.store.all(self._registry.kinds.named(plural), namespace)
        names = {ref["name"] for ref in refs} or {
            owner["metadata"]["name"] for owner in owners if _selects(owner, obj)
        }
        for name in sorted(names):
            self._soon(plural, namespace, name)

    def _soon(self, plural: str, namespace: str, name: str, after: float = LAG) -> None:
        look: Mapping[str, Callable[[Json], None]] = {
            "deployments": self._deployment,
            "replicasets": self._replica_set,
            "pods": self._schedule,
        }

        def chore() -> None:
            obj = self._registry.find(plural, namespace, name)
            if obj is not None:
                look[plural](obj)

        self._chores.at((plural, namespace, name, after > LAG), chore, after=after)

    def _kind(self, plural: str) -> Kind:
        return self._registry.kinds.named(plural)

    def _write(self, plural: str, obj: Json, change: Callable[[Json], Json], part: str = "") -> Json:
        meta = obj["metadata"]
        return self._registry.update(
            self._kind(plural), meta["namespace"], meta["name"], change, part=part
        )

    def _claimed(self, plural: str, owner: Json) -> list[Json]:
        """What the owner controls; what matches without a controller is adopted, the rest released."""
        found = []
        for obj in self._registry.store.all(self._kind(plural), owner["metadata"]["namespace"]):
            ref, fits = controller_of(obj), _selects(owner, obj)
            mine = ref is not None and ref["uid"] == owner["metadata"]["uid"]
            if mine and not fits:
                self._write(plural, obj, lambda old: _disowned(old, owner))
            elif ref is None and fits and not _leaving(obj) and not _leaving(owner):
                found.append(self._write(plural, obj, lambda old: _owned(old, owner)))
            elif mine:
                found.append(obj)
        return found

    # --- Deployments

    def _deployment(self, deployment: Json) -> None:
        sets = sorted(self._claimed("replicasets", deployment), key=_age)
        template = deployment["spec"]["template"]
        if not _leaving(deployment):
            new = next((item for item in sets if rollout.is_of(item, template)), None)
            if new is None and not deployment["spec"].get("paused"):
                new = self._new_set(deployment, sets)
                sets = [*sets, new]
            deployment = self._numbered(deployment, new, sets)
            self._resize(deployment, new, [item for item in sets if item is not new])
        self._tell_deployment(deployment)

    def _new_set(self, deployment: Json, sets: Sequence[Json]) -> Json:
        """A ReplicaSet for the Deployment's template, without pods yet."""
        spec, name = deployment["spec"], deployment["metadata"]["name"]
        hashed = rollout.template_hash(spec["template"])
        meta = spec["template"].get("metadata") or {}
        labels = {**(meta.get("labels") or {}), HASH: hashed}
        selector = spec["selector"]
        matching = {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), HASH: hashed}}
        body = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{name}-{hashed}",
                "labels": labels,
                "annotations": _annotations(deployment, _revision(sets) + 1),
                "ownerReferences": [reference(deployment)],
            },
            "spec": {
                "replicas": 0,
                "minReadySeconds": spec.get("minReadySeconds", 0),
                "selector": matching,
                "template": {**spec["template"], "metadata": {**meta, "labels": labels}},
            },
        }
        return self._registry.create(self._kind("replicasets"), body, deployment["metadata"]["namespace"])

    def _numbered(self, deployment: Json, new: Json | None, sets: Sequence[Json]) -> Json:
        """The Deployment and its newest ReplicaSet bear the same, highest revision."""
        if new is None:
            return deployment
        others = [item for item in sets if item["metadata"]["name"] != new["metadata"]["name"]]
        revision = max(_revision([new]), _revision(others) + 1)
        wanted = _annotations(deployment, revision)
        self._write("replicasets", new, lambda old: _annotated(old, wanted))
        return self._write("deployments", deployment, lambda old: _annotated(old, {REVISION: str(revision)}))

    def _resize(self, deployment: Json, new: Json | None, old: Sequence[Json]) -> None:
        if new is not None and not deployment["spec"].get("paused"):
            new = self._registry.find("replicasets", *_place(new))
        resized = rollout.sizes(deployment, _set(new) if new else None, [_set(item) for item in old])
        for item in (*old, *([new] if new else [])):
            size = resized.get(item["metadata"]["name"])
            if size is not None:
                self._write("replicasets", item, lambda was, size=size: _sized(was, size))

    def _tell_deployment(self, deployment: Json) -> None:
        sets = sorted(self._claimed("replicasets", deployment), key=_age)
        new = next((item for item in sets if rollout.is_of(item, deployment["spec"]["template"])), None)
        now = self._registry.clock()
        status = _deployment_status(deployment, sets, new, now)
        self._write("deployments", deployment, lambda old: {**old, "status": status}, part="status")
        if _complete(deployment, status):
            self._forget_history(deployment, [item for item in sets if item is not new])
        elif new is not None and not deployment["spec"].get("paused"):
            deadline = float(deployment["spec"]["progressDeadlineSeconds"])
            self._soon("deployments", *_place(deployment), after=deadline + 1)

    def _forget_history(self, deployment: Json, old: Sequence[Json]) -> None:
        """Empty ReplicaSets beyond `revisionHistoryLimit` go, the oldest first."""
        empty = [item for item in old if not item["spec"]["replicas"] and not _status(item, "replicas")]
        surplus = len(empty) - deployment["spec"]["revisionHistoryLimit"]
        for item in sorted(empty, key=lambda item: _revision([item]))[: max(0, surplus)]:
            self._registry.delete(self._kind("replicasets"), *_place(item))

    # --- ReplicaSets

    def _replica_set(self, replica_set: Json) -> None:
        pods = [pod for pod in self._claimed("pods", replica_set) if _alive(pod)]
        wanted = 0 if _leaving(replica_set) else replica_set["spec"]["replicas"]
        if not _leaving(replica_set):
            for _ in range(wanted - len(pods)):
                self._new_pod(replica_set)
            for pod in sorted(pods, key=_worth)[: max(0, len(pods) - wanted)]:
                self._registry.delete(self._kind("pods"), *_place(pod))
        self._tell_replica_set(replica_set)

    def _new_pod(self, replica_set: Json) -> None:
        template, name = replica_set["spec"]["template"], replica_set["metadata"]["name"]
        meta = {**template["metadata"], "generateName": f"{name}-", "ownerReferences": [reference(replica_set)]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}
        self._registry.create(self._kind("pods"), body, replica_set["metadata"]["namespace"])

    def _tell_replica_set(self, replica_set: Json) -> None:
        pods = [pod for pod in self._claimed("pods", replica_set) if _alive(pod)]
        ready = [since for since in map(ready_since, pods) if since]
        patience = replica_set["spec"].get("minReadySeconds") or 0
        now = self._registry.clock()
        waits = [patience - (now - since).total_seconds() for since in ready]
        available = sum(wait <= 0 for wait in waits)
        if available < len(ready):
            self._soon("replicasets", *_place(replica_set), after=min(w for w in waits if w > 0) + LAG)
        counts = {"fullyLabeledReplicas": len(pods), "readyReplicas": len(ready), "availableReplicas": available}
        status = {
            "replicas": len(pods),
            "observedGeneration": replica_set["metadata"]["generation"],
            **_counted(counts),
        }
        self._write("replicasets", replica_set, lambda old: {**old, "status": status}, part="status")

    # --- the scheduler

    def _schedule(self, pod: Json) -> None:
        """The pod has the node on which its owner has fewest pods."""
        if pod["spec"].get("nodeName") or _leaving(pod):
            return
        owner = (controller_of(pod) or {"uid": ""})["uid"]
        pods = self._registry.store.all(self._kind("pods"), pod["metadata"]["namespace"])
        taken = [
            other["spec"].get("nodeName")
            for other in pods
            if not _leaving(other) and (controller_of(other) or {"uid": ""})["uid"] == owner
        ]
        node = min(self._nodes, key=taken.count)
        condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(self._registry.clock())}
        status = {"phase": "Pending", "qosClass": "Burstable", **(pod.get("status") or {})}
        bound = {**pod, "spec": {**pod["spec"], "nodeName": node}, "status": {**status, "conditions": [condition]}}
        self._registry.store.put(self._kind("pods"), bound)


_CONTROLLED = ("deployments", "replicasets")
_OWNERS = {"replicasets": "deployments", "pods": "replicasets"}


# --- objects, read


def controller_of(obj: Json) -> Json | None:
    """The ownerReference of the object's controller."""
    refs = obj["metadata"].get("ownerReferences", ())
    return next((ref for ref in refs if ref.get("controller")), None)


def reference(owner: Json) -> Json:
    """The ownerReference by which `owner` controls another object."""
    meta = owner["metadata"]
    names = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"]}
    return {**names, "controller": True, "blockOwnerDeletion": True}


def ready_since(pod: Json) -> datetime | None:
    """When the pod became ready; nothing if it is not."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] == "True":
            return datetime.fromisoformat(condition["lastTransitionTime"].replace("Z", "+00:00"))
    return None


def _place(obj: Json) -> tuple[str, str]:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def _age(obj: Json) -> tuple[str, int]:
    return obj["metadata"]["creationTimestamp"], _revision([obj])


def _leaving(obj: Json) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def _alive(pod: Json) -> bool:
    return not _leaving(pod) and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _worth(pod: Json) -> tuple[bool, bool, float, str]:
    """What is given up first: pods without a node, then unready ones, then the youngest."""
    since = ready_since(pod)
    return bool(pod["spec"].get("nodeName")), since is not None, -(since or _EPOCH).timestamp(), pod["metadata"]["name"]


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _selects(owner: Json, obj: Json) -> bool:
    return selects(owner["spec"]["selector"], obj["metadata"].get("labels") or {})


def _status(obj: Json, field: str) -> int:
    return int((obj.get("status") or {}).get(field, 0))


def _revision(sets: Sequence[Json]) -> int:
    numbers = (item["metadata"].get("annotations", {}).get(REVISION, "0") for item in sets)
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _set(item: Json) -> rollout.Set:
    """A ReplicaSet's figures; availability is of before until its controller has caught up."""
    name, wanted = item["metadata"]["name"], item["spec"]["replicas"]
    return rollout.Set(name=name, wanted=wanted, available=min(wanted, _status(item, "availableReplicas")))


def _counted(counts: Mapping[str, int]) -> Mapping[str, int]:
    """Counts as the server writes them: a zero is left out."""
    return {field: count for field, count in counts.items() if count}


# --- objects, changed


def _annotations(deployment: Json, revision: int) -> Json:
    """What a ReplicaSet's annotations say of its Deployment."""
    replicas, (surge, _) = deployment["spec"]["replicas"], rollout.bounds(deployment)
    inherited = deployment["metadata"].get("annotations") or {}
    return {
        **{key: value for key, value in inherited.items() if key not in _OWN},
        REVISION: str(revision),
        f"{_PREFIX}desired-replicas": str(replicas),
        f"{_PREFIX}max-replicas": str(replicas + surge),
    }


def _annotated(obj: Json, more: Json) -> Json:
    meta = obj["metadata"]
    return {**obj, "metadata": {**meta, "annotations": {**(meta.get("annotations") or {}), **more}}}


def _sized(obj: Json, size: int) -> Json:
    return {**obj, "spec": {**obj["spec"], "replicas": size}}


def _owned(obj: Json, owner: Json) -> Json:
    meta = obj["metadata"]
    refs = [*meta.get("ownerReferences", ()), reference(owner)]
    return {**obj, "metadata": {**meta, "ownerReferences": refs}}


def _disowned(obj: Json, owner: Json) -> Json:
    meta = obj["metadata"]
    refs = [ref for ref in meta["ownerReferences"] if ref["uid"] != owner["metadata"]["uid"]]
    return {**obj, "metadata": {**meta, "ownerReferences": refs}}


# --- a Deployment's status


def _deployment_status(deployment: Json, sets: Sequence[Json], new: Json | None, now: datetime) -> Json:
    total = sum(_status(item, "replicas") for item in sets)
    available = sum(_status(item, "availableReplicas") for item in sets)
    wanted = deployment["spec"]["replicas"]
    counts = {
        "replicas": total,
        "updatedReplicas": _status(new, "replicas") if new else 0,
        "readyReplicas": sum(_status(item, "readyReplicas") for item in sets),
        "availableReplicas": available,
        "unavailableReplicas": max(0, max(total, wanted) - available),
    }
    status = {"observedGeneration": deployment["metadata"]["generation"], **_counted(counts)}
    _, unavailable = rollout.bounds(deployment)
    enough = available >= wanted - unavailable
    progress = _progress(deployment, status, new, now)
    conditions = [_availability(enough=enough), *([progress] if progress else [])]
    before = (deployment.get("status") or {}).get("conditions") or ()
    return {**status, "conditions": [_timed(item, before, now) for item in conditions]}


def _availability(*, enough: bool) -> Json:
    if enough:
        why, message = "MinimumReplicasAvailable", "Deployment has minimum availability."
    else:
        why, message = "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
    return {"type": "Available", "status": str(enough), "reason": why, "message": message}


def _complete(deployment: Json, status: Json) -> bool:
    """Whether all pods wanted are of the newest template, available, and no others are left."""
    wanted = deployment["spec"]["replicas"]
    fields = ("replicas", "updatedReplicas", "availableReplicas")
    return all(status.get(field, 0) == wanted for field in fields)


def _progress(deployment: Json, status: Json, new: Json | None, now: datetime) -> Json | None:
    """The condition Progressing: done, under way, or given up by `progressDeadlineSeconds`."""
    before = _condition(deployment, "Progressing")
    if new is None:
        return before
    named = f'ReplicaSet "{new["metadata"]["name"]}"'
    if _complete(deployment, status):
        return _progressing("True", "NewReplicaSetAvailable", f"{named} has successfully progressed.")
    if before and before["reason"] == "NewReplicaSetAvailable" and status.get("replicas", 0) == status.get(
        "updatedReplicas", 0
    ) and before["message"].startswith(named):
        return before  # pods of a finished rollout come and go: no rollout
    if _moved(deployment, status) or before is None:
        return _progressing("True", "ReplicaSetUpdated", f"{named} is progressing.")
    since = datetime.fromisoformat(before["lastUpdateTime"].replace("Z", "+00:00"))
    if (now - since).total_seconds() > deployment["spec"]["progressDeadlineSeconds"]:
        return _progressing("False", "ProgressDeadlineExceeded", f"{named} has timed out progressing.")
    return before


def _progressing(status: str, reason: str, message: str) -> Json:
    return {"type": "Progressing", "status": status, "reason": reason, "message": message}


def _condition(obj: Json, type_: str) -> Json | None:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((item for item in conditions if item["type"] == type_), None)


def _moved(deployment: Json, status: Json) -> bool:
    """Whether the rollout came nearer to its end, or a new one began, since the last status."""
    old = deployment.get("status") or {}
    if old.get("observedGeneration") != status["observedGeneration"]:
        return True
    more = any(status.get(f, 0) > old.get(f, 0) for f in ("updatedReplicas", "readyReplicas", "availableReplicas"))
    gone = old.get("replicas", 0) - old.get("updatedReplicas", 0)
    return more or status.get("replicas", 0) - status.get("updatedReplicas", 0) < gone


def _timed(condition: Json, before: Sequence[Json], now: datetime) -> Json:
    """The condition with the time at which it last became what it is, and was last said anew."""
    old = next((item for item in before if item["type"] == condition["type"]), {})
    was = {key: old.get(key) for key in ("status", "reason", "message")}
    if same(was, {key: condition[key] for key in was}) and condition["reason"] != "ReplicaSetUpdated":
        return old
    changed = old.get("lastTransitionTime") if old.get("status") == condition["status"] else None
    return {**condition, "lastUpdateTime": stamp(now), "lastTransitionTime": changed or stamp(now)}
