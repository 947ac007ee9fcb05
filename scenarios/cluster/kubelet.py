"""The seam to whatever runs pods, and a simple stand-in that only pretends to."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from scenarios.cluster.admission import stamp

if TYPE_CHECKING:
    from scenarios.world import World

Json = Any


class Kubelet(Protocol):
    """Runs pods, on all nodes at once. Called on the loop, never within a write."""

    def started(self, pod: Json) -> None:
        """The pod has a node and shall run: call `World.set_pod` as it comes up."""
        ...

    def stopping(self, pod: Json) -> None:
        """The pod shall stop: call `World.pod_gone` when it has. May be gone already if forced."""
        ...


MakeKubelet = Callable[["World"], Kubelet]


class SimpleKubelet:
    """Pods are ready after a moment, at addresses of their own, and stop when told to."""

    READY = 0.5  # seconds from the node to readiness
    STOP = 0.2  # seconds from the word to the end

    def __init__(self, world: "World") -> None:
        self._world = world
        self._addresses = 0

    def started(self, pod: Json) -> None:
        """The pod is ready half a second later."""
        self._addresses += 1
        number = self._addresses
        # RFC 2544's, which nobody routes: what is read there must not be somebody's machine
        ip = f"198.{18 + number // 62_500 % 2}.{number // 250 % 250}.{number % 250 + 1}"
        asyncio.get_running_loop().call_later(self.READY, self._ready, pod, ip)

    def stopping(self, pod: Json) -> None:
        """The pod is gone a moment later."""
        meta = pod["metadata"]
        asyncio.get_running_loop().call_later(
            self.STOP, self._world.pod_gone, meta["namespace"], meta["name"]
        )

    def _ready(self, pod: Json, ip: str) -> None:
        meta = pod["metadata"]
        now = self._world.get("pods", meta["namespace"], meta["name"])
        if now is not None and now["metadata"]["uid"] == meta["uid"]:
            self._world.set_pod(meta["namespace"], meta["name"], ip=ip, ready=True)


class NoKubelet:
    """Nothing ever runs: pods stay Pending, as on a bare API server."""

    def __init__(self, world: "World") -> None:
        del world

    def started(self, pod: Json) -> None:
        """Nothing happens."""

    def stopping(self, pod: Json) -> None:
        """Nothing happens."""


# --- a pod's status


def status(
    pod: Json,
    *,
    now: datetime,
    ip: str | None = None,
    ready: bool | None = None,
    restarts: int | None = None,
    waiting: str | None = None,
    phase: str | None = None,
) -> Json:
    """The pod's status with what is given changed, as a kubelet would write it."""
    old = pod.get("status") or {}
    known = (old.get("containerStatuses") or [{}])[0]
    is_ready = bool(known.get("ready")) if ready is None else ready
    is_ready = is_ready and waiting is None
    phase = phase or ("Running" if is_ready or known else old.get("phase", "Pending"))
    ip = ip or old.get("podIP")
    containers = [
        _container(spec, known, restarts=restarts, waiting=waiting, ready=is_ready, now=now)
        for spec in pod["spec"]["containers"]
    ]
    status = {**old, "phase": phase, "startTime": old.get("startTime", stamp(now))}
    status |= {"podIP": ip, "podIPs": [{"ip": ip}]} if ip else {}
    conditions = _conditions(old.get("conditions") or (), ready=is_ready, now=now)
    return {**status, "hostIP": "127.0.0.1", "containerStatuses": containers, "conditions": conditions}


def _container(
    spec: Json, known: Json, *, restarts: int | None, waiting: str | None, ready: bool, now: datetime
) -> Json:
    count = known.get("restartCount", 0) if restarts is None else restarts
    since = ((known.get("state") or {}).get("running") or {}).get("startedAt", stamp(now))
    restarted = count > known.get("restartCount", 0)
    state: Json = {"running": {"startedAt": stamp(now) if restarted else since}}
    if waiting:
        state = {"waiting": {"reason": waiting}}
    last = known.get("lastState") or {}
    if restarted:
        last = {
            "terminated": {"exitCode": 1, "reason": "Error", "startedAt": since, "finishedAt": stamp(now)}
        }
    return {
        "name": spec["name"],
        "image": spec.get("image", ""),
        "imageID": "",
        "ready": ready,
        "started": waiting is None,
        "restartCount": count,
        "state": state,
        "lastState": last,
    }


def _conditions(old: Json, *, ready: bool, now: datetime) -> list[Json]:
    truth = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
    kept = [condition for condition in old if condition["type"] not in truth]
    known = {condition["type"]: condition for condition in old}
    for type_, true in truth.items():
        word = str(true)
        was = known.get(type_, {})
        since = was.get("lastTransitionTime") if was.get("status") == word else None
        kept.append({"type": type_, "status": word, "lastTransitionTime": since or stamp(now)})
    return kept
