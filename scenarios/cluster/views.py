"""One stored object, several API versions: what is shown of it and what comes back. Pure."""

from collections.abc import Sequence
from typing import Any

from scenarios.cluster.kinds import Kind
from scenarios.cluster.selectors import as_text

Json = Any

# events.k8s.io/v1 and core v1 name the same fields differently
_EVENT = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedCount": "count",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedSource": "source",
}
# what Go writes of any Event: it never leaves out a struct, and a time that is not set is null
_ALWAYS: dict[str, Json] = {
    "source": {},
    "firstTimestamp": None,
    "lastTimestamp": None,
    "eventTime": None,
    "reportingComponent": "",
    "reportingInstance": "",
}
_EVENT_BACK = {old: new for new, old in _EVENT.items()}


def stored(kind: Kind, obj: Json) -> Json:
    """An object of any served version as it is kept."""
    if kind.stored_as == "events":
        renamed = {_EVENT.get(key, key): value for key, value in obj.items()}
        return {**renamed, "apiVersion": "v1", "kind": "Event"}
    return {**obj, "apiVersion": kind.api_version(), "kind": kind.kind}


def shown(kind: Kind, version: str, obj: Json) -> Json:
    """A stored object as `version` of `kind`."""
    if kind.plural == "events":
        obj = _ALWAYS | obj
    if kind.stored_as == "events":
        obj = {_EVENT_BACK.get(key, key): value for key, value in obj.items()}
    return {**obj, "apiVersion": kind.api_version(version), "kind": kind.kind}


def listed(kind: Kind, version: str, objects: Sequence[Json], meta: Json) -> Json:
    """A list; items of built-in resources do not repeat what the list says of them all."""
    head = {"apiVersion": kind.api_version(version), "kind": f"{kind.kind}List", "metadata": meta}
    items = [shown(kind, version, obj) for obj in objects]
    if not kind.custom:
        items = [{k: v for k, v in item.items() if k not in ("apiVersion", "kind")} for item in items]
    return {**head, "items": items}


def partial(objects: Sequence[Json], meta: Json, *, several: bool) -> Json:
    """Metadata only, for clients that want no more."""
    items = [{**_PARTIAL, "kind": "PartialObjectMetadata", "metadata": obj["metadata"]} for obj in objects]
    if not several:
        return items[0]
    return {**_PARTIAL, "kind": "PartialObjectMetadataList", "metadata": meta, "items": items}


_PARTIAL = {"apiVersion": "meta.k8s.io/v1"}


def scale(obj: Json) -> Json:
    """A workload's size, as its scale subresource shows it."""
    meta = obj["metadata"]
    keys = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status = {"replicas": (obj.get("status") or {}).get("replicas", 0)}
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {key: meta[key] for key in keys},
        "spec": {"replicas": obj["spec"]["replicas"]},
        "status": {**status, "selector": as_text(obj["spec"]["selector"])},
    }


def success(kind: Kind, obj: Json) -> Json:
    """What is answered when an object was deleted at once."""
    meta = obj["metadata"]
    details = {"name": meta["name"], "group": kind.group, "kind": kind.plural, "uid": meta["uid"]}
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return {**head, "details": {key: value for key, value in details.items() if value}}
