"""What `kubectl get` shows: tables that the server makes. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from scenarios.cluster.kinds import Column, Kind
from scenarios.cluster.selectors import as_text

Json = Any

SCALE = Kind(
    group="autoscaling",
    versions=("v1",),
    plural="scales",
    kind="Scale",
    columns=(
        Column(name="Desired", type="integer", path=".spec.replicas"),
        Column(name="Available", type="integer", path=".status.replicas"),
        Column(name="Age", type="date", path=".metadata.creationTimestamp"),
    ),
)
_STEP = re.compile(r"\.([\w/-]+)|\[['\"]?([^\]'\"]+)['\"]?\]|\\\.")


def wanted(accept: str) -> str:
    """`Table`, `Partial` or nothing special: the first thing a client accepts that there is."""
    for part in accept.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        form = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media in ("application/json", "*/*"):
            shapes = {"Table": "Table", "PartialObjectMetadata": "Partial"}
            shapes["PartialObjectMetadataList"] = "Partial"
            if "as" not in form or form["as"] in shapes:
                return shapes.get(form.get("as", ""), "")
    return ""


def table(kind: Kind, objects: Sequence[Json], meta: Json, *, now: datetime, include: str) -> Json:
    """The objects as rows; each carries its metadata, or all of it (`include`), for sorting and names."""
    columns = _columns(kind)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": [_definition(column) for column in columns],
        "rows": [
            {"cells": [_cell(column, obj, now) for column in columns], "object": _attached(obj, include)}
            for obj in objects
            if "name" in obj["metadata"]
        ],
    }


def _columns(kind: Kind) -> Sequence[Column]:
    """The name first; Events, whose names say nothing, have it last and only with `-o wide`."""
    if kind.plural == "events":
        return (*kind.columns, Column(name="Name", type="string", path=".metadata.name", priority=1))
    return (Column(name="Name", type="string", path=".metadata.name"), *kind.columns)


def _definition(column: Column) -> Json:
    return {
        "name": column.name,
        "type": column.type if column.type in ("integer", "number", "boolean") else "string",
        "format": "name" if column.name == "Name" else "",
        "description": column.description,
        "priority": column.priority,
    }


def _attached(obj: Json, include: str) -> Json:
    if include == "Object":
        return obj
    if include == "None":
        return None
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _cell(column: Column, obj: Json, now: datetime) -> Json:
    if column.path.startswith("="):
        return _COMPUTED[column.path[1:]](obj, now)
    found = at(obj, column.path)
    if column.type == "date":
        return age(found[0], now) if found else "<unknown>"
    if not found:
        return None if column.type in ("integer", "number", "boolean") else ""
    if "[*]" in column.path:
        return ",".join(str(value) for value in found)
    return found[0] if column.type in ("integer", "number", "boolean") else _text(found[0])


def _text(value: Json) -> str:
    if isinstance(value, list):
        return "[" + ",".join(f'"{v}"' if isinstance(v, str) else str(v) for v in value) + "]"
    return str(value)


def at(obj: Json, path: str) -> list[Json]:
    """What a JSONPath leads to, as far as columns need it: keys, indexes, `[*]`."""
    found = [obj]
    for match in _STEP.finditer(path):
        key = match[1] or match[2]
        found = [child for value in found for child in _children(value, key)]
    return found


def _children(value: Json, key: str) -> Sequence[Json]:
    if isinstance(value, list):
        return value if key == "*" else value[int(key) : int(key) + 1] if key.isdigit() else ()
    return (value[key],) if isinstance(value, dict) and value.get(key) is not None else ()


def age(stamp: str, now: datetime) -> str:
    """How long ago, as kubectl writes it: the two largest units, or one from three on."""
    then = datetime.fromisoformat(stamp)
    seconds = max(0, int((now.astimezone(UTC) - then).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{days}d"


# --- columns that are computed


def _status(obj: Json, field: str) -> int:
    return int((obj.get("status") or {}).get(field, 0))


def _pod_containers(obj: Json) -> Sequence[Json]:
    statuses: Sequence[Json] = (obj.get("status") or {}).get("containerStatuses") or ()
    return statuses


def _pod_status(obj: Json, _now: datetime) -> str:
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for container in _pod_containers(obj):
        for state in (container.get("state") or {}).values():
            if state.get("reason") not in (None, "Completed"):
                return str(state["reason"])
    return str((obj.get("status") or {}).get("phase", "Pending"))


def _pod_ready(obj: Json, _now: datetime) -> str:
    return f"{sum(c.get('ready', False) for c in _pod_containers(obj))}/{len(obj['spec']['containers'])}"


def _last_seen(obj: Json, now: datetime) -> str:
    keys = ("lastTimestamp", "deprecatedLastTimestamp", "eventTime")
    seen = next((obj[key] for key in keys if obj.get(key)), obj["metadata"]["creationTimestamp"])
    return age(seen, now)


def _event_object(obj: Json, _now: datetime) -> str:
    about: Mapping[str, str] = obj.get("involvedObject") or obj.get("regarding") or {}
    return f"{about.get('kind', '').lower()}/{about.get('name', '')}"


def _ports(obj: Json, _now: datetime) -> str:
    ports = (f"{p['port']}/{p.get('protocol', 'TCP')}" for p in obj["spec"].get("ports", ()))
    return ",".join(ports) or "<none>"


def _selector(obj: Json, _now: datetime) -> str:
    selector = obj["spec"].get("selector") or {}
    return as_text(selector if "matchLabels" in selector else {"matchLabels": selector}) or "<none>"


def _reference(obj: Json, _now: datetime) -> str:
    return f"{obj['spec']['scaleTargetRef']['kind']}/{obj['spec']['scaleTargetRef']['name']}"


def _node_status(obj: Json, _now: datetime) -> str:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    ready = next((condition["status"] for condition in conditions if condition["type"] == "Ready"), "")
    word = {"True": "Ready", "": "Unknown"}.get(ready, "NotReady")
    return word + (",SchedulingDisabled" if (obj.get("spec") or {}).get("unschedulable") else "")


def _node(field: str) -> Callable[[Json, datetime], str]:
    return lambda obj, _now: str((at(obj, f".status.nodeInfo.{field}") or ["<unknown>"])[0])


def _subjects(kind: str) -> Callable[[Json, datetime], str]:
    def cell(obj: Json, _now: datetime) -> str:
        found = [one for one in obj.get("subjects") or () if one["kind"] == kind]
        names = (
            f"{one['namespace']}/{one['name']}" if one.get("namespace") else one["name"] for one in found
        )
        return ", ".join(names)

    return cell


def _of_spec(field: str) -> Callable[[Json, datetime], str]:
    return lambda obj, _now: str((obj.get("spec") or {}).get(field, "N/A"))


_COMPUTED: Mapping[str, Callable[[Json, datetime], Json]] = {
    "pod-ready": _pod_ready,
    "pod-status": _pod_status,
    "pod-restarts": lambda obj, _now: str(sum(c.get("restartCount", 0) for c in _pod_containers(obj))),
    "deployment-ready": lambda obj, _now: f"{_status(obj, 'readyReplicas')}/{obj['spec']['replicas']}",
    "updated": lambda obj, _now: _status(obj, "updatedReplicas"),
    "available": lambda obj, _now: _status(obj, "availableReplicas"),
    "ready": lambda obj, _now: _status(obj, "readyReplicas"),
    "service-ports": _ports,
    "service-ip": lambda obj, _now: obj["spec"].get("clusterIP") or "<none>",
    "external-ip": lambda obj, _now: obj["spec"].get("externalName") or "<none>",
    "selector": _selector,
    "none": lambda _obj, _now: "<none>",
    "data": lambda obj, _now: len(obj.get("data") or {}),
    "last-seen": _last_seen,
    "event-object": _event_object,
    "event-source": lambda obj, _now: obj.get("reportingComponent") or "",
    "reference": _reference,
    "targets": lambda _obj, _now: "<none>",
    "role": lambda obj, _now: f"{obj['roleRef']['kind']}/{obj['roleRef']['name']}",
    "Users": _subjects("User"),
    "Groups": _subjects("Group"),
    "ServiceAccounts": _subjects("ServiceAccount"),
    "secrets": lambda obj, _now: str(len(obj.get("secrets") or ())),
    "min-available": _of_spec("minAvailable"),
    "max-unavailable": _of_spec("maxUnavailable"),
    "allowed-disruptions": lambda obj, _now: _status(obj, "disruptionsAllowed"),
    "pod-selector": lambda obj, _now: as_text(obj["spec"].get("podSelector") or {}) or "<none>",
    "global-default": lambda obj, _now: bool(obj.get("globalDefault")),
    "node-status": _node_status,
    "node-version": _node("kubeletVersion"),
    "node-os": _node("osImage"),
    "node-kernel": _node("kernelVersion"),
    "node-runtime": _node("containerRuntimeVersion"),
    "node-address": lambda obj, _now: str((at(obj, ".status.addresses[0].address") or ["<none>"])[0]),
}
