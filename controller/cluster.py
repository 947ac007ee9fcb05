"""What the API server last told us, and the facts that follow from it.

`Cluster` is an index of followed objects: by kind, by name, by owner. The functions below it read
one arm out of it the way Kubernetes itself relates things, by owner references and never by names
or users' labels.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import chain
from math import inf
from typing import Any

from controller.model import ArmSeen, PodSeen
from controller.sharing import sharing
from controller.wire import stored

Json = Any
Key = tuple[str, str]  # namespace, name

HASH = "pod-template-hash"
RESTARTED = "kubectl.kubernetes.io/restartedAt"
REVISION = "deployment.kubernetes.io/revision"

# Every kind that is followed, with its path; all are namespaced but Namespace itself.
FOLLOWED = {
    "deployments": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "pods": "/api/v1",
    "namespaces": "/api/v1",
    "horizontalpodautoscalers": "/apis/autoscaling/v2",
    "virtualservices": "/apis/networking.istio.io/v1",
    "destinationrules": "/apis/networking.istio.io/v1",
    "canarypolicies": "/apis/serin.dev/v1alpha1",
    "canaryruns": "/apis/serin.dev/v1alpha1",
}


def path(kind: str, namespace: str | None = None, name: str | None = None, *, sub: str = "") -> str:
    """The URL path of a followed kind's collection, object or subresource."""
    within = f"/namespaces/{namespace}" if namespace and kind != "namespaces" else ""
    return f"{FOLLOWED[kind]}{within}/{kind}" + (f"/{name}" if name else "") + (f"/{sub}" if sub else "")


WRITTEN = frozenset({"deployments", "virtualservices", "canaryruns"})  # by us, and learnt of by the answers
MOST_GONE = 1000  # a request may be on its way for seconds
CHECKPOINTED = frozenset({"resourceVersion", "managedFields", "generation"})  # change with each write
MOST_TEMPLATES = 10  # of a Deployment, whose names are remembered: as many as Kubernetes keeps by default
OF_AN_ARM = ("deployments", "replicasets", "pods", "horizontalpodautoscalers")


class Cluster:
    """Newest known objects. Written by the followers, read by everybody else; one event loop."""

    def __init__(self) -> None:
        # by kind, namespace and name: a pass asks for its own namespace, however many others there are
        self._objects: dict[str, dict[str, dict[str, Json]]] = {kind: {} for kind in FOLLOWED}
        # By kind and by owner, namespace and uid: another namespace's objects are none of its.
        self._owned: dict[str, dict[Key, set[Key]]] = {kind: defaultdict(set) for kind in FOLLOWED}
        self._changes: Counter[tuple[str, str]] = Counter()  # so far, by kind and namespace
        self._news: Counter[str] = (
            Counter()
        )  # so far, by namespace: of all kinds, and none of a mere checkpoint
        self._arms: dict[Key, tuple[int, ArmSeen]] = {}  # as of so many changes
        # Versions that answers told of and watches have not, by kind.
        self._answered: dict[str, dict[Key, int]] = {kind: {} for kind in FOLLOWED}
        self._kept: dict[tuple[str, str], tuple[int, Any]] = {}  # as of so many changes
        self._latest: dict[str, Json] = {}  # by kind
        self._called: dict[str, list[tuple[Json, str]]] = {}  # by uid
        self._gone: dict[str, None] = {}  # uids of what was deleted lately, of the kinds in `WRITTEN`

    def arm(self, namespace: str, name: str) -> ArmSeen:
        """One arm as the API server last told; worked out once until any of its kinds has changed."""
        now = self.changes(namespace, *OF_AN_ARM)
        then, seen = self._arms.get((namespace, name), (-1, None))
        if seen is None or then != now:
            seen = arm(self, namespace, name)
            if seen.exists:
                self._arms[namespace, name] = now, seen
        return seen

    def kept(self, what: str, namespace: str, *kinds: str, work: Callable[[], Any]) -> Any:
        """What `work` says, worked out once until anything of these kinds has changed in the namespace."""
        now = self.changes(namespace, *kinds)
        then, found = self._kept.get((what, namespace), (-1, None))
        if then != now:
            found = work()
            self._kept[what, namespace] = now, found
        return found

    def changes(self, namespace: str, *kinds: str) -> int:
        """How many changes of these kinds there were in the namespace so far."""
        return sum(self._changes[kind, namespace] for kind in kinds)

    def news(self, namespace: str) -> int:
        """A number that is another one as soon as anything has changed that passes look at.

        What a run's checkpoint writes into its status is nothing that another run, or itself, is told by it.
        """
        return self._news[namespace] + self._news[""]

    def listed(self, kind: str, items: Iterable[Json], *, version: str = "") -> None:
        """`items` is all there was at `version`; an answer since then, of which no watch has told, stays."""
        now, then = {_key(item): item for item in items}, float(version) if version.isdecimal() else inf
        newer = {key for key, answered in self._answered[kind].items() if answered > then}
        for old in [item for item in self.all(kind) if (key := _key(item)) not in now and key not in newer]:
            self._deleted(kind, old)
            self._drop(kind, _key(old))
        for key in now.keys() - newer:
            self._put(kind, now[key])
        self._answered[kind] = {key: self._answered[kind][key] for key in newer}

    def changed(self, kind: str, event: str, item: Json) -> Key:
        """One watch event is taken in, unless an answer has told something newer; the key it is about."""
        key = _key(item)
        known = self.get(kind, *key)
        if known is not None and int(_version(known)) > int(_version(item)):
            return key
        self._answered[kind].pop(key, None)
        if event == "DELETED":
            self._deleted(kind, item)
            self._drop(kind, key)
        else:
            self._put(kind, item)
        return key

    def wrote(self, kind: str, item: Json) -> None:
        """The answer to a write of ours, unless the watch has brought something newer already.

        Of an answer that is no object nothing is learnt: the write is done, and the watch will tell. Nor of
        one about what the watch has told is gone.
        """
        if not stored(item) or _uid(item) in self._gone:
            return
        known = self.get(kind, *_key(item))
        if known is None or int(_version(known)) < int(_version(item)):
            self._put(kind, item)
            self._answered[kind][_key(item)] = int(_version(item))

    def _deleted(self, kind: str, item: Json) -> None:
        """What there is no more: no answer that comes late brings it back."""
        self._called.pop(_uid(item), None)
        if kind in WRITTEN:
            self._gone[_uid(item)] = None
            while len(self._gone) > MOST_GONE:
                del self._gone[next(iter(self._gone))]

    def called(self, deployment: Json) -> list[tuple[Json, str]]:
        """The Deployment's templates that were seen so far, and the hash of each, newest last.

        A ReplicaSet is gone once there are too many; the template is still the one that was compared.
        """
        known = self._called.setdefault(_uid(deployment), [])
        del known[:-MOST_TEMPLATES]
        return known

    def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """The object, or None."""
        return self._objects[kind].get(namespace, {}).get(name)

    def all(self, kind: str, namespace: str | None = None) -> Iterator[Json]:
        """Every known object of a kind, of one namespace or of all."""
        spaces = self._objects[kind]
        within = list(spaces) if namespace is None else [namespace]
        for each in within:
            yield from list(spaces.get(each, {}).values())

    def owned(self, kind: str, owner: Json) -> list[Json]:
        """The objects whose controlling owner is `owner`, all of its own namespace, as Kubernetes has it."""
        keys = self._owned[kind].get((_key(owner)[0], owner["metadata"]["uid"]), set())
        return [self._objects[kind][namespace][name] for namespace, name in sorted(keys)]

    def _put(self, kind: str, item: Json) -> None:
        if kind != "virtualservices":  # half of an object's bytes; but who set the weights is our business
            item["metadata"].pop("managedFields", None)
        namespace, name = _key(item)
        known = self.get(kind, namespace, name)
        if known is None or kind != "canaryruns":  # whose checkpoints say something else each time
            item = sharing(item, known or self._mate(kind, item))
        elif "spec" in item and item["spec"] == known.get("spec") and _generation(item) == _generation(known):
            item["spec"] = known["spec"]
        self._latest[kind] = item
        quiet = kind == "canaryruns" and _told(known) == _told(item)
        news = self._news[namespace]
        self._drop(kind, _key(item))
        self._changes[kind, namespace] += 1
        self._news[namespace] = news + (not quiet)
        self._objects[kind].setdefault(namespace, {})[name] = item
        owner = owner_uid(item)
        if owner is not None:
            self._owned[kind][namespace, owner].add(_key(item))

    def _mate(self, kind: str, item: Json) -> Json | None:
        """Another one of its owner's, or the newest of its kind: half of what they say is the same."""
        owner = owner_uid(item)
        mates = self._owned[kind].get((_key(item)[0], owner), ()) if owner is not None else ()
        mate = next(iter(mates), None)
        return self._latest.get(kind) if mate is None else self.get(kind, *mate)

    def _drop(self, kind: str, key: Key) -> None:
        namespace, name = key
        self._changes[kind, namespace] += 1
        self._news[namespace] += 1
        space = self._objects[kind].get(namespace, {})
        old = space.pop(name, None)
        if kind == "deployments":
            self._arms.pop(key, None)
        if not space:
            self._objects[kind].pop(namespace, None)
        owner = None if old is None else owner_uid(old)
        if owner is not None:
            self._owned[kind][namespace, owner].discard(key)
            if not self._owned[kind][namespace, owner]:
                del self._owned[kind][namespace, owner]


def _generation(item: Json) -> Json:
    """A number that is another one after each change of its spec."""
    return item["metadata"].get("generation")


def _told(run: Json | None) -> Json:
    """What a CanaryRun object tells passes, its own and other runs': all but what checkpoints write."""
    if run is None:
        return None
    status = run.get("status")
    state = status.get("state") if isinstance(status, dict) else None
    if not isinstance(status, dict) or not isinstance(state, dict):
        return run  # somebody's edit of it, or nobody has looked at it yet
    return (
        {name: value for name, value in run["metadata"].items() if name not in CHECKPOINTED},
        run.get("spec"),
        [status.get(name) for name in ("canaryReplicas", "weight")],
        [state.get(name) for name in ("stage", "settled", "retrainingAsked")],
    )


def owner_uid(item: Json) -> str | None:
    """The uid of the controlling owner, or None."""
    owners = item["metadata"].get("ownerReferences", ())
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def _key(item: Json) -> Key:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _uid(item: Json) -> str:
    return str(item["metadata"].get("uid", ""))


def _version(item: Json | None) -> str:
    return "" if item is None else item["metadata"].get("resourceVersion", "0")


# -- templates -------------------------------------------------------------------------------------


def caught_up(deployment: Json) -> bool:
    """Whether the Deployment's own controller has acted on its newest generation."""
    seen: int = deployment.get("status", {}).get("observedGeneration", 0)
    wanted: int = deployment["metadata"].get("generation", 0)
    return seen >= wanted


def replica_sets(cluster: Cluster, deployment: Json) -> list[Json]:
    """The Deployment's ReplicaSets, newest revision first."""
    return sorted(cluster.owned("replicasets", deployment), key=_revision, reverse=True)


def template_hash(cluster: Cluster, deployment: Json) -> str | None:
    """The identity of the newest template; None until the Deployment's controller has caught up.

    A `rollout restart` makes a new ReplicaSet whose template differs in one annotation only; the
    identity is then still that of the oldest ReplicaSet with the same template, also once that is gone:
    what a run's plan calls it is known to a leader that never saw it.
    """
    sets = replica_sets(cluster, deployment)
    if not sets or not caught_up(deployment):
        return None
    newest = _essence(sets[0])
    if not _its_own(deployment, sets[0], newest):
        return None
    called = cluster.called(deployment)
    if (known := next((name for essence, name in called if essence == newest), None)) is not None:
        return known
    same = next(old for old in reversed(sets) if _essence(old) == newest)
    meta = deployment["metadata"]
    planned = [name for name, said in _planned(cluster, meta) if said == _digested(newest)]
    found: str = planned[-1] if planned else same["metadata"]["labels"][HASH]
    called.append((newest, found))
    return found


def _its_own(deployment: Json, replica_set: Json, essence: Json) -> bool:
    """Whether the newest ReplicaSet is of the Deployment's template, and not the one before it.

    Else its own is to come, or was deleted and is made anew; a paused Deployment keeps what it has. To its
    controller templates that are written otherwise (1Gi and 1073741824) are the same, and both have one
    revision.
    """
    wanted = deployment["spec"].get("template")
    if not wanted or deployment["spec"].get("paused") or essence == _told_apart(wanted):
        return True
    revision = deployment["metadata"].get("annotations", {}).get(REVISION)
    return revision is not None and revision == replica_set["metadata"].get("annotations", {}).get(REVISION)


def template_of(cluster: Cluster, deployment: Json, wanted: str) -> Json | None:
    """The pod template whose hash is `wanted`, without the hash label; None if it was lost.

    Where no ReplicaSet has it any more, it is as it was last seen.
    """
    sets = replica_sets(cluster, deployment)
    essence = next((essence for essence, name in cluster.called(deployment) if name == wanted), None)
    named = (one for one in sets if one["metadata"].get("labels", {}).get(HASH) == wanted)
    alike = (one for one in sets if essence is not None and _essence(one) == essence)
    found = next(chain(named, alike, _as_planned(cluster, deployment, sets, wanted)), None)
    if found is not None:
        return _unhashed(found["spec"]["template"])
    if essence is None:
        return None
    labels, notes, spec = essence
    return {"metadata": {"labels": labels, "annotations": notes}, "spec": spec}


def _as_planned(cluster: Cluster, deployment: Json, sets: Iterable[Json], wanted: str) -> Iterator[Json]:
    """The ReplicaSets that have the template which a run's plan calls so."""
    said = {digest for name, digest in _planned(cluster, deployment["metadata"]) if name == wanted}
    return (one for one in sets if said and _digested(_essence(one)) in said)


def like_planned(cluster: Cluster, template: Json, *, namespace: str, of: str, wanted: str) -> bool | None:
    """Whether the template is, but for its labels, what a run's plan calls `wanted` of the Deployment `of`.

    To be asked where that is found nowhere any more. None if no plan says.
    """
    mine = _digested(_told_apart(template)).split("-")[1:]
    known = _planned(cluster, {"namespace": namespace, "name": of})
    named = [said.split("-")[1:] == mine for name, said in known if name == wanted]
    return any(named) if named else None


def alike(one: Json, other: Json) -> bool:
    """Whether two templates are the same, but for a restart."""
    return _told_apart(one) == _told_apart(other)


def _planned(cluster: Cluster, meta: Json) -> list[tuple[str, str]]:
    """Hash and digest of each template of the Deployment that a run's plan names, the newest run's last."""
    runs = sorted(cluster.all("canaryruns", meta["namespace"]), key=_made)
    plans = [(run.get("spec") or {}).get("plan") or {} for run in runs]
    return [
        (plan[f"{which}Hash"], said)
        for plan in plans
        for which in ("stable", "canary")
        if plan.get(which) == meta["name"] and (said := plan.get(f"{which}Digest"))
    ]


def _made(run: Json) -> tuple[str, str]:
    return run["metadata"].get("creationTimestamp", ""), run["metadata"]["name"]


def template_digest(cluster: Cluster, deployment: Json) -> str:
    """What tells the newest template from others, a restart apart: of its labels, annotations and spec."""
    return _digested(_essence(replica_sets(cluster, deployment)[0]))


def _digested(essence: Json) -> str:
    parts = (json.dumps(part, sort_keys=True, separators=(",", ":")).encode() for part in essence)
    return "-".join(hashlib.sha256(part).hexdigest()[:32] for part in parts)


def _revision(replica_set: Json) -> tuple[int, str]:
    meta = replica_set["metadata"]
    said = meta.get("annotations", {}).get(REVISION, "")  # whoever may edit the set may write anything there
    return int(said) if re.fullmatch("[0-9]{1,19}", said) else 0, meta.get("creationTimestamp", "")


def _unhashed(template: Json) -> Json:
    meta = template.get("metadata", {})
    labels = {key: value for key, value in meta.get("labels", {}).items() if key != HASH}
    return template | {"metadata": meta | {"labels": labels}}


def _essence(replica_set: Json) -> Json:
    return _told_apart(replica_set["spec"]["template"])


def _told_apart(template: Json) -> tuple[Json, Json, Json]:
    template = _unhashed(template)
    notes = template["metadata"].get("annotations") or {}
    kept = {key: value for key, value in notes.items() if key != RESTARTED}
    return template["metadata"]["labels"], kept, template["spec"]


# -- arms ------------------------------------------------------------------------------------------


def pods(cluster: Cluster, deployment: Json) -> list[Json]:
    """Live pods: Deployment -> ReplicaSets -> pods, without those that are leaving or over."""
    return [
        pod
        for pod in _pods(cluster, deployment)
        if "deletionTimestamp" not in pod["metadata"]
        and pod.get("status", {}).get("phase") not in {"Failed", "Succeeded"}
    ]


def _pods(cluster: Cluster, deployment: Json) -> list[Json]:
    return [pod for owner in cluster.owned("replicasets", deployment) for pod in cluster.owned("pods", owner)]


def _overran(pod: Json) -> tuple[datetime, str] | None:
    """When and why the kubelet evicted the pod for what it used beyond its own limits; None if it did not.

    Then the message says "exceeds" or "exceeded"; that a node was low on something says nothing of the pod.
    """
    status = pod.get("status", {})
    message = str(status.get("message", ""))
    if status.get("reason") != "Evicted" or "exceed" not in message:
        return None
    ended = [
        said["finishedAt"]
        for item in status.get("containerStatuses") or ()
        if (said := item.get("state", {}).get("terminated") or {}).get("finishedAt")
    ]
    return datetime.fromisoformat(max([pod["metadata"]["creationTimestamp"], *ended])), message


def arm(cluster: Cluster, namespace: str, name: str) -> ArmSeen:
    """One arm as the API server last told."""
    deployment = cluster.get("deployments", namespace, name)
    if deployment is None or "deletionTimestamp" in deployment["metadata"]:
        return ArmSeen(exists=False, template_hash=None, wanted=0, rolled_out=False)
    known = tuple(_pod(pod) for pod in pods(cluster, deployment))
    return ArmSeen(
        exists=True,
        template_hash=template_hash(cluster, deployment),
        wanted=deployment["spec"].get("replicas", 1),
        pods=known,
        unlisted=0 if known else deployment.get("status", {}).get("readyReplicas", 0),
        rolled_out=_rolled_out(deployment),
        autoscaled=bool(autoscalers(cluster, namespace, name)),
        overran=max(filter(None, map(_overran, _pods(cluster, deployment))), default=None),
    )


def _pod(pod: Json) -> PodSeen:
    status, spec = pod.get("status", {}), pod.get("spec", {})
    containers = status.get("containerStatuses", [])
    conditions = {item["type"]: item["status"] for item in status.get("conditions", [])}
    waiting = [item.get("state", {}).get("waiting", {}).get("reason") for item in containers]
    return PodSeen(
        name=pod["metadata"]["name"],
        node=spec.get("nodeName", ""),
        ip=status.get("podIP", ""),
        ready=conditions.get("Ready") == "True",
        created=datetime.fromisoformat(pod["metadata"]["creationTimestamp"]),
        restarts=max((item.get("restartCount", 0) for item in containers), default=0),
        crash_looping="CrashLoopBackOff" in waiting,
        annotations=pod["metadata"].get("annotations", {}),
    )


def _rolled_out(deployment: Json) -> bool:
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    counts = (status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas"))
    return caught_up(deployment) and all(count == wanted for count in counts)


def autoscalers(cluster: Cluster, namespace: str, name: str) -> list[Json]:
    """The HorizontalPodAutoscalers that own the Deployment's size."""
    owner = {"kind": "Deployment", "name": name}
    found = cluster.all("horizontalpodautoscalers", namespace)
    return [hpa for hpa in found if owner.items() <= hpa["spec"]["scaleTargetRef"].items()]
