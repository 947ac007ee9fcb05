"""kube-controller-manager's part that canaries need: Deployment to ReplicaSet to Pod, and nodes.

Each controller looks at what is there and does the next thing (level, not edge), a moment after a
change, as the real ones do; the clock is the running loop's.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from scenarios.cluster import progress, rollout
from scenarios.cluster.clockwork import Chores
from scenarios.cluster.kinds import Kind
from scenarios.cluster.ownership import controller_of, disowned, leaving, matches, owned, place, reference
from scenarios.cluster.progress import count
from scenarios.cluster.refusals import Refused
from scenarios.cluster.registry import Registry
from scenarios.cluster.rollout import HASH, REVISION
from scenarios.cluster.store import Change

Json = Any

LAG = 0.01  # seconds between a change and a controller's answer to it
RETRY = 1.0  # seconds until a controller tries again what the server refused
_OWNERS = {"replicasets": "deployments", "pods": "replicasets"}
_PREFIX = "deployment.kubernetes.io/"
# Annotations of a Deployment that its ReplicaSets do not inherit
_OWN = {REVISION, f"{_PREFIX}desired-replicas", f"{_PREFIX}max-replicas"}
_OWN |= {"kubectl.kubernetes.io/last-applied-configuration"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Workloads:
    """The Deployment and ReplicaSet controllers and a scheduler, over one registry."""

    def __init__(self, registry: Registry, *, nodes: Sequence[str]) -> None:
        self._registry = registry
        self._nodes = nodes
        self._chores = Chores()

    def heard(self, change: Change) -> None:
        """Whoever has to look at the change will, in a moment."""
        plural, obj = change.kind.key.partition(".")[0], change.obj
        if plural in ("deployments", "replicasets", "pods") and change.type != "DELETED":
            self._soon(plural, *place(obj))
        if plural in _OWNERS:
            for name in self._owners(plural, obj, change.before or obj):
                self._soon(_OWNERS[plural], obj["metadata"]["namespace"], name)
                if plural == "pods" and change.type == "DELETED":
                    self._wake_above(obj["metadata"]["namespace"], name)

    def close(self) -> None:
        """Nothing is done any more."""
        self._chores.close()

    def _wake_above(self, namespace: str, replica_set: str) -> None:
        """The ReplicaSet's Deployment, which may have waited for its last old pod to stop."""
        found = self._registry.find("replicasets", namespace, replica_set)
        ref = controller_of(found) if found else None
        if ref:
            self._soon("deployments", namespace, ref["name"])

    def _owners(self, plural: str, obj: Json, before: Json) -> Sequence[str]:
        """The object's controller, now and before; if it has none, those that might adopt it."""
        names = {ref["name"] for ref in (controller_of(obj), controller_of(before)) if ref}
        if names:
            return sorted(names)
        owners = self._registry.store.all(self._kind(_OWNERS[plural]), obj["metadata"]["namespace"])
        return [owner["metadata"]["name"] for owner in owners if matches(owner, obj)]

    def _soon(self, plural: str, namespace: str, name: str, after: float = LAG) -> None:
        look: Mapping[str, Callable[[Json], None]] = {
            "deployments": self._deployment,
            "replicasets": self._replica_set,
            "pods": self._schedule,
        }

        def chore() -> None:
            obj = self._registry.find(plural, namespace, name)
            try:
                if obj is not None:
                    look[plural](obj)
            except Refused:  # the namespace is going, or an annotation too many: it may get better
                self._soon(plural, namespace, name, after=RETRY)

        # a deadline waits in a place of its own, so that nearer chores do not push it away
        self._chores.at((plural, namespace, name, after > LAG), chore, after=after)

    def _kind(self, plural: str) -> Kind:
        return self._registry.kinds.named(plural)

    def _write(self, plural: str, obj: Json, change: Callable[[Json], Json], part: str = "") -> Json:
        return self._registry.update(self._kind(plural), *place(obj), change, part=part)

    def _claimed(self, plural: str, owner: Json) -> list[Json]:
        """What the owner controls; what matches without a controller is adopted, the rest released."""
        uid, found = owner["metadata"]["uid"], []
        for obj in self._registry.store.all(self._kind(plural), owner["metadata"]["namespace"]):
            ref, fits = controller_of(obj), matches(owner, obj)
            mine = ref is not None and ref["uid"] == uid
            if mine and fits:
                found.append(obj)
            elif mine:
                self._write(plural, obj, lambda old: disowned(old, uid))
            elif ref is None and fits and not leaving(obj) and not leaving(owner):
                found.append(self._write(plural, obj, lambda old: owned(old, owner)))
        return found

    # --- Deployments

    def _deployment(self, deployment: Json) -> None:
        sets = sorted(self._claimed("replicasets", deployment), key=_age)
        if not leaving(deployment):
            new = _newest(deployment, sets)
            if new is None and not deployment["spec"].get("paused"):
                new = self._new_set(deployment, sets)
            deployment = self._numbered(deployment, new, sets)
            self._resize(deployment, new, [item for item in sets if new is None or place(item) != place(new)])
        self._tell_deployment(deployment)

    def _new_set(self, deployment: Json, sets: Sequence[Json]) -> Json:
        """A ReplicaSet for the Deployment's template, without pods yet."""
        spec, meta = deployment["spec"], deployment["metadata"]
        template = rollout.hashed(spec["template"])
        label = {HASH: template["metadata"]["labels"][HASH]}
        selector = {**spec["selector"], "matchLabels": {**spec["selector"].get("matchLabels", {}), **label}}
        about = {
            "name": f"{meta['name']}-{label[HASH]}",
            "labels": template["metadata"]["labels"],
            "annotations": _annotations(deployment, _revision(sets) + 1),
            "ownerReferences": [reference(deployment)],
        }
        sizes = {"replicas": 0, "minReadySeconds": spec.get("minReadySeconds", 0)}
        body = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": about}
        body["spec"] = {**sizes, "selector": selector, "template": template}
        return self._registry.create(self._kind("replicasets"), body, meta["namespace"])

    def _numbered(self, deployment: Json, new: Json | None, sets: Sequence[Json]) -> Json:
        """The Deployment and its newest ReplicaSet bear the same revision, the highest."""
        if new is None:
            return deployment
        others = [item for item in sets if place(item) != place(new)]
        revision = max(_revision([new]), _revision(others) + 1)
        said = _annotations(deployment, revision)
        self._write("replicasets", new, lambda old: _annotated(old, said))
        return self._write("deployments", deployment, lambda old: _annotated(old, {REVISION: str(revision)}))

    def _resize(self, deployment: Json, new: Json | None, old: Sequence[Json]) -> None:
        pods = Counter(
            _owner(pod) for pod in self._registry.store.all(self._kind("pods"), place(deployment)[0])
        )
        figures = [_figures(item, pods) for item in old]
        sizes = rollout.sizes(deployment, _figures(new, pods) if new else None, figures)
        for name, size in sizes.items():
            where = self._kind("replicasets"), deployment["metadata"]["namespace"], name
            self._registry.update(*where, _to_size(size))

    def _tell_deployment(self, deployment: Json) -> None:
        sets = sorted(self._claimed("replicasets", deployment), key=_age)
        new = _newest(deployment, sets)
        status = progress.status(deployment, sets, new, self._registry.clock())
        self._write("deployments", deployment, lambda old: {**old, "status": status}, part="status")
        if progress.complete(deployment, status):
            self._forget_history(deployment, [item for item in sets if item is not new])
        elif new is not None and not deployment["spec"].get("paused"):
            deadline = float(deployment["spec"]["progressDeadlineSeconds"])
            self._soon("deployments", *place(deployment), after=deadline + 1)

    def _forget_history(self, deployment: Json, old: Sequence[Json]) -> None:
        """Empty ReplicaSets beyond `revisionHistoryLimit` go, the oldest revision first."""
        empty = [item for item in old if not item["spec"]["replicas"] and not count(item, "replicas")]
        surplus = len(empty) - deployment["spec"]["revisionHistoryLimit"]
        for item in sorted(empty, key=lambda item: _revision([item]))[: max(0, surplus)]:
            self._registry.delete(self._kind("replicasets"), *place(item))

    # --- ReplicaSets

    def _replica_set(self, replica_set: Json) -> None:
        pods = [pod for pod in self._claimed("pods", replica_set) if _alive(pod)]
        surplus = len(pods) - replica_set["spec"]["replicas"]
        if not leaving(replica_set):
            for _ in range(-surplus):
                self._new_pod(replica_set)
            for pod in sorted(pods, key=_worth)[: max(0, surplus)]:
                self._registry.delete(self._kind("pods"), *place(pod))
        self._tell_replica_set(replica_set)

    def _new_pod(self, replica_set: Json) -> None:
        template, meta = replica_set["spec"]["template"], replica_set["metadata"]
        refs = {"ownerReferences": [reference(replica_set)]}
        about = {**template["metadata"], "generateName": f"{meta['name']}-", **refs}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": template["spec"]}
        self._registry.create(self._kind("pods"), body, meta["namespace"])

    def _tell_replica_set(self, replica_set: Json) -> None:
        pods = [pod for pod in self._claimed("pods", replica_set) if _alive(pod)]
        patience, now = replica_set["spec"].get("minReadySeconds") or 0, self._registry.clock()
        waits = [patience - (now - since).total_seconds() for since in map(_ready_since, pods) if since]
        available = sum(wait <= 0 for wait in waits)
        if available < len(waits):
            soonest = min(wait for wait in waits if wait > 0)
            self._soon("replicasets", *place(replica_set), after=soonest + 2 * LAG)
        counts = {
            "fullyLabeledReplicas": len(pods),
            "readyReplicas": len(waits),
            "availableReplicas": available,
        }
        status = {"replicas": len(pods), "observedGeneration": replica_set["metadata"]["generation"]}
        status |= progress.counted(counts)
        self._write("replicasets", replica_set, lambda old: {**old, "status": status}, part="status")

    # --- the scheduler

    def _schedule(self, pod: Json) -> None:
        """The pod has the node on which its owner has fewest pods, if there are nodes."""
        if pod["spec"].get("nodeName") or leaving(pod) or not self._nodes:
            return
        owner = _owner(pod)
        pods = self._registry.store.all(self._kind("pods"), pod["metadata"]["namespace"])
        taken = [
            other["spec"].get("nodeName") for other in pods if _owner(other) == owner and not leaving(other)
        ]
        nodes = [name for name in self._nodes if not self._cordoned(name)]
        if nodes:
            self._registry.bind(*place(pod), min(nodes, key=taken.count))
        else:
            self._soon("pods", *place(pod), after=RETRY)

    def _cordoned(self, node: str) -> bool:
        """Whether nobody is put on the node just now; most clusters here have no Node objects at all."""
        found = self._registry.find("nodes", "", node) or {}
        return bool((found.get("spec") or {}).get("unschedulable"))


def _newest(deployment: Json, sets: Sequence[Json]) -> Json | None:
    """The ReplicaSet of the Deployment's template."""
    template = deployment["spec"]["template"]
    return next((item for item in sets if rollout.is_of(item, template)), None)


def _owner(pod: Json) -> str:
    return str((controller_of(pod) or {}).get("uid", ""))


def _ready_since(pod: Json) -> datetime | None:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] == "True":
            return progress.moment(condition["lastTransitionTime"])
    return None


def _age(obj: Json) -> tuple[str, int]:
    return obj["metadata"]["creationTimestamp"], _revision([obj])


def _alive(pod: Json) -> bool:
    return not leaving(pod) and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _worth(pod: Json) -> tuple[bool, bool, float, str]:
    """What is given up first: pods without a node, then unready ones, then the youngest."""
    since = _ready_since(pod)
    youth = -(since or _EPOCH).timestamp()
    return bool(pod["spec"].get("nodeName")), since is not None, youth, pod["metadata"]["name"]


def _revision(sets: Sequence[Json]) -> int:
    numbers = (item["metadata"].get("annotations", {}).get(REVISION, "0") for item in sets)
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _figures(item: Json, pods: Mapping[str, int]) -> rollout.Set:
    """A ReplicaSet's figures; availability is of before until its controller has caught up."""
    wanted, meta = item["spec"]["replicas"], item["metadata"]
    available = min(wanted, count(item, "availableReplicas"))
    return rollout.Set(name=meta["name"], wanted=wanted, available=available, pods=pods.get(meta["uid"], 0))


def _to_size(size: int) -> Callable[[Json], Json]:
    return lambda old: {**old, "spec": {**old["spec"], "replicas": size}}


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
