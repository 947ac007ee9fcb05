"""Kubernetes Events: what `kubectl describe deployment` shows about a canary.

Said once, when something changed, and never waited for: an Event that cannot be written is a line in
the log. Events are for people; nothing may depend on one.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from controller.kube import ApiError, Kube
from controller.model import Reason, Run, Tell
from controller.ports import Json

CONTROLLER = "serin.dev/controller"
PATIENCE = timedelta(seconds=2)
NOTE = 1024  # bytes, as the API server counts them
NAME = 253 - 1 - 16  # characters of an object's name that are left for the Deployment's
INSTANCE = 128  # characters, the API server's limit

_NORMAL = frozenset(
    {
        Reason.STARTED,
        Reason.WEIGHT_RAISED,
        Reason.PROMOTING,
        Reason.PROMOTED,
        Reason.READY_TO_PROMOTE,
        Reason.PAUSED,
        Reason.FROZEN,
        Reason.SUPERSEDED,
        Reason.ABORTED,
        Reason.MENDED,
    }
)
_ACTIONS = {
    Reason.STARTED: "Start",
    Reason.WEIGHT_RAISED: "RaiseWeight",
    Reason.WEIGHT_REPAIRED: "RepairWeight",
    Reason.PROMOTING: "Promote",
    Reason.PROMOTED: "Promote",
    Reason.READY_TO_PROMOTE: "AwaitPromotion",
    Reason.REFUSED: "Refuse",
    Reason.MENDED: "Accept",
}
_OUTCOMES = {"Promoted": "Promote", "RolledBack": "RollBack", "Held": "Hold"} | {
    "Drifted": "AskForTraining",
    "Warned": "Warn",
}

_log = structlog.get_logger(__name__)


class Events:
    """`ports.Recorder` on events.k8s.io; `identity` is this replica's name."""

    def __init__(self, kube: Kube, *, identity: str, clock: Callable[[], datetime]) -> None:
        self._kube = kube
        self._identity = identity[:INSTANCE]
        self._clock = clock

    async def tell(self, run: Run, what: Tell) -> None:
        """An Event on the canary's Deployment says it; failures are logged, never raised."""
        plan = run.plan
        deployment = _reference("apps/v1", "Deployment", plan.namespace, plan.canary, run.uid)
        related = _reference("serin.dev/v1alpha1", "CanaryRun", plan.namespace, run.name)
        action = _OUTCOMES.get(what.outcome or "") or _ACTIONS.get(what.reason, "Observe")
        once = f"{run.name} {self._now()}"
        event = self._event(deployment, what, action, once=once) | {"related": related}
        await self._post(event)

    async def refuse(self, deployment: Json, message: str, *, again: bool = False) -> None:
        """An Event says why the Deployment's annotations ask for nothing that can be done.

        The same refusal of the very same object has the same name, so that a new leader repeats none. One
        that comes `again`, after another or after it was mended, is an Event of its own, since people read
        the newest; to count the old one further, as a series, would take the right to patch it.
        """
        version = str(deployment["metadata"].get("resourceVersion", ""))
        if await self._speak(deployment, Reason.REFUSED, message, once=version) and again:
            await self._speak(deployment, Reason.REFUSED, message, once=f"{version} {self._now()}")

    async def mend(self, deployment: Json, message: str) -> None:
        """An Event says that the Deployment is refused no more, and what holds instead."""
        await self._speak(deployment, Reason.MENDED, message, once=self._now())

    async def _speak(self, deployment: Json, reason: Reason, message: str, *, once: str) -> bool:
        """An Event about the Deployment, and none of its runs; whether it was there."""
        meta = deployment["metadata"]
        about = _reference("apps/v1", "Deployment", meta["namespace"], meta["name"], meta["uid"])
        return await self._post(self._event(about, Tell(reason, message), _ACTIONS[reason], once=once))

    def _now(self) -> str:
        return _time(self._clock())

    def _event(self, regarding: Json, what: Tell, action: str, *, once: str) -> Json:
        """The Event; two with the same `once` and content are one."""
        text = "\0".join((regarding.get("uid", ""), what.reason, what.message, once))
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "namespace": regarding["namespace"],
                "name": f"{regarding['name'][:NAME].rstrip('.-')}.{digest}",
            },
            "eventTime": self._now(),
            "reportingController": CONTROLLER,
            "reportingInstance": self._identity,
            "action": action,
            "reason": what.reason.value,
            "regarding": regarding,
            "note": note(what.message),
            "type": "Normal" if what.reason in _NORMAL else "Warning",
        }

    async def _post(self, event: Json) -> bool:
        """Whether it was there already; that it cannot be written is logged."""
        meta = event["metadata"]
        path = f"/apis/events.k8s.io/v1/namespaces/{meta['namespace']}/events"
        try:
            await self._kube.call("POST", path, body=event, deadline=PATIENCE)
        except ApiError as error:
            if error.exists:
                return True
            said = {"deployment": event["regarding"]["name"], "reason": event["reason"]}
            _log.warning("event_not_recorded", **said, note=event["note"], error=str(error))
        return False


def note(text: str) -> str:
    """`text`, or as many whole words of it as an Event may hold."""
    if len(text.encode()) <= NOTE:
        return text
    ellipsis = " …"
    cut = text.encode()[: NOTE - len(ellipsis.encode())].decode(errors="ignore")
    return cut.rsplit(maxsplit=1)[0].rstrip() + ellipsis


def _reference(version: str, kind: str, namespace: str, name: str, uid: str = "") -> Json:
    about = {"apiVersion": version, "kind": kind, "namespace": namespace, "name": name}
    return about | ({"uid": uid} if uid else {})


def _time(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
