"""Kubernetes' protobuf, as far as kubectl writes it: `kubectl create deployment|role|secret|…`. Pure.

Everything else that kubectl sends is JSON. The field numbers are those of k8s.io/api's generated.proto.
"""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from scenarios.cluster.refusals import unsupported_media

Json = Any
Table = Mapping[int, tuple[str, Any]]

MEDIA = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

# By field number: JSON's name, and what it is: "text", "whole", "flag", "map" (of texts), "bytes" (a map to
# bytes), "either" (a number or a text), a message's table, or a list of one of these
_META: Table = {
    1: ("name", "text"),
    2: ("generateName", "text"),
    3: ("namespace", "text"),
    11: ("labels", "map"),
    12: ("annotations", "map"),
}
_SELECTOR: Table = {1: ("matchLabels", "map")}
_CONTAINER: Table = {
    1: ("name", "text"),
    2: ("image", "text"),
    3: ("command", ["text"]),
    4: ("args", ["text"]),
    6: ("ports", [{1: ("name", "text"), 3: ("containerPort", "whole"), 4: ("protocol", "text")}]),
    7: ("env", [{1: ("name", "text"), 2: ("value", "text")}]),
}
_TEMPLATE: Table = {1: ("metadata", _META), 2: ("spec", {2: ("containers", [_CONTAINER])})}
_DEPLOYMENT: Table = {1: ("replicas", "whole"), 2: ("selector", _SELECTOR), 3: ("template", _TEMPLATE)}
_PORT: Table = {
    1: ("name", "text"),
    2: ("protocol", "text"),
    3: ("port", "whole"),
    4: ("targetPort", "either"),
    5: ("nodePort", "whole"),
}
_SERVICE: Table = {
    1: ("ports", [_PORT]),
    2: ("selector", "map"),
    3: ("clusterIP", "text"),
    4: ("type", "text"),
    10: ("externalName", "text"),
}
_RULE: Table = {
    1: ("verbs", ["text"]),
    2: ("apiGroups", ["text"]),
    3: ("resources", ["text"]),
    4: ("resourceNames", ["text"]),
    5: ("nonResourceURLs", ["text"]),
}
_SUBJECT: Table = {
    1: ("kind", "text"),
    2: ("apiGroup", "text"),
    3: ("name", "text"),
    4: ("namespace", "text"),
}
_ROLE: Table = {1: ("apiGroup", "text"), 2: ("kind", "text"), 3: ("name", "text")}
_TARGET: Table = {1: ("kind", "text"), 2: ("name", "text"), 3: ("apiVersion", "text")}
_SCALER: Table = {1: ("scaleTargetRef", _TARGET), 2: ("minReplicas", "whole"), 3: ("maxReplicas", "whole")}
_BUDGET: Table = {
    1: ("minAvailable", "either"),
    2: ("selector", _SELECTOR),
    3: ("maxUnavailable", "either"),
}
_HEAD: Table = {1: ("metadata", _META)}
_RULES: Table = {**_HEAD, 2: ("rules", [_RULE])}
_BINDING: Table = {**_HEAD, 2: ("subjects", [_SUBJECT]), 3: ("roleRef", _ROLE)}
_KINDS: Mapping[str, Table] = {
    "Namespace": _HEAD,
    "ConfigMap": {**_HEAD, 2: ("data", "map"), 3: ("binaryData", "bytes"), 4: ("immutable", "flag")},
    "Secret": {**_HEAD, 2: ("data", "bytes"), 3: ("type", "text"), 4: ("stringData", "map")},
    "ServiceAccount": _HEAD,
    "Deployment": {**_HEAD, 2: ("spec", _DEPLOYMENT)},
    "Service": {**_HEAD, 2: ("spec", _SERVICE)},
    "HorizontalPodAutoscaler": {**_HEAD, 2: ("spec", _SCALER)},
    "PodDisruptionBudget": {**_HEAD, 2: ("spec", _BUDGET)},
    "Role": _RULES,
    "ClusterRole": _RULES,
    "RoleBinding": _BINDING,
    "ClusterRoleBinding": _BINDING,
    "PriorityClass": {
        **_HEAD,
        2: ("value", "whole"),
        3: ("globalDefault", "flag"),
        4: ("description", "text"),
        5: ("preemptionPolicy", "text"),
    },
}


def decoded(body: bytes) -> Json:
    """The object in a request's body; raises 415 `Refused` for kinds whose fields are not known here."""
    if not body.startswith(_MAGIC):
        raise ValueError("the body does not begin as Kubernetes' protobuf does")
    envelope = _contents(body[len(_MAGIC) :])
    about = {number: text.decode() for number, text in _contents(envelope.get(1, b"")).items()}
    kind = about.get(2, "")
    if kind not in _KINDS:
        raise unsupported_media(("application/json",))
    return {"apiVersion": about.get(1, ""), "kind": kind, **_object(_KINDS[kind], envelope.get(2, b""))}


def _contents(text: bytes) -> dict[int, bytes]:
    """The fields that have content, by their numbers."""
    return {number: value for number, value in _fields(text) if isinstance(value, bytes)}


def _content(value: int | bytes) -> bytes:
    """The content of a field that must have one."""
    if isinstance(value, int):
        raise ValueError("a number where there should be content")  # noqa: TRY004 (it is the body's fault)
    return value


def _object(table: Table, text: bytes) -> Json:
    result: dict[str, Json] = {}
    for number, field in _fields(text):
        name, form = table.get(number, ("", None))
        if isinstance(form, list):
            result.setdefault(name, []).append(_value(form[0], field))
        elif form in ("map", "bytes"):
            result.setdefault(name, {}).update([_entry(_content(field), form)])
        elif form is not None and (found := _value(form, field)) != "":
            result[name] = found
    return result


def _value(form: Any, field: int | bytes) -> Json:
    if isinstance(form, Mapping):
        return _object(form, _content(field))
    match form:
        case "text":
            return _content(field).decode()
        case "either":
            pair = dict(_fields(_content(field)))
            return _signed(pair.get(2, 0)) if not pair.get(1) else _content(pair.get(3, b"")).decode()
        case "flag":
            return bool(field)
        case _:
            return _signed(field)


def _signed(field: int | bytes) -> int:
    if isinstance(field, bytes):
        raise ValueError("content where there should be a number")  # noqa: TRY004 (it is the body's fault)
    return field - (1 << 64) if field >> 63 else field


def _entry(text: bytes, form: str) -> tuple[str, str]:
    pair = _contents(text)
    content = pair.get(2, b"")
    shown = content.decode() if form == "map" else base64.b64encode(content).decode()
    return pair.get(1, b"").decode(), shown


def _fields(text: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers of the fields with their contents, or their values; those of fixed width are passed over."""
    at = 0
    while at < len(text):
        tag, at = _varint(text, at)
        match tag & 7:
            case 0:
                value, at = _varint(text, at)
                yield tag >> 3, value
            case 2:
                length, at = _varint(text, at)
                yield tag >> 3, text[at : at + length]
                at += length
            case 1 | 5 as width:
                at += 8 if width == 1 else 4
            case other:
                raise ValueError(f"no such wire type: {other}")


def _varint(text: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if at >= len(text):
            raise ValueError("the message ends within a number")
        byte = text[at]
        result |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return result, at
