"""Kubernetes' protobuf, as far as kubectl writes it: `kubectl create namespace|configmap|secret`. Pure.

Everything else that kubectl sends is JSON. The field numbers are those of k8s.io/api's generated.proto.
"""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from scenarios.cluster.refusals import unsupported_media

Json = Any

MEDIA = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

# By field number: JSON's name, and what the bytes are ("text", "map", "bytes" for a map to bytes, or a table)
_META: Mapping[int, tuple[str, Any]] = {
    1: ("name", "text"),
    2: ("generateName", "text"),
    3: ("namespace", "text"),
    11: ("labels", "map"),
    12: ("annotations", "map"),
}
_KINDS: Mapping[str, Mapping[int, tuple[str, Any]]] = {
    "Namespace": {1: ("metadata", _META)},
    "ConfigMap": {1: ("metadata", _META), 2: ("data", "map")},
    "Secret": {1: ("metadata", _META), 2: ("data", "bytes"), 3: ("type", "text"), 4: ("stringData", "map")},
}


def decoded(body: bytes) -> Json:
    """The object in a request's body; raises 415 `Refused` for kinds whose fields are not known here."""
    if not body.startswith(_MAGIC):
        raise ValueError("the body does not begin as Kubernetes' protobuf does")
    envelope = dict(_fields(body[len(_MAGIC) :]))
    about = {number: text.decode() for number, text in _fields(envelope.get(1, b""))}
    kind = about.get(2, "")
    if kind not in _KINDS:
        raise unsupported_media(("application/json",))
    return {"apiVersion": about[1], "kind": kind, **_object(_KINDS[kind], envelope.get(2, b""))}


def _object(table: Mapping[int, tuple[str, Any]], text: bytes) -> Json:
    result: dict[str, Json] = {}
    for number, field in _fields(text):
        name, form = table.get(number, ("", None))
        if form == "text" and field:
            result[name] = field.decode()
        elif form in ("map", "bytes"):
            result.setdefault(name, {}).update([_entry(field, form)])
        elif isinstance(form, Mapping):
            result[name] = _object(form, field)
    return result


def _entry(text: bytes, form: str) -> tuple[str, str]:
    pair = dict(_fields(text))
    content = pair.get(2, b"")
    return pair.get(1, b"").decode(), content.decode() if form == "map" else base64.b64encode(
        content
    ).decode()


def _fields(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and contents of the length-delimited fields; others are passed over."""
    at = 0
    while at < len(text):
        tag, at = _varint(text, at)
        length = 0
        match tag & 7:
            case 0:
                _, at = _varint(text, at)
                continue
            case 2:
                length, at = _varint(text, at)
            case 1 | 5 as width:
                at += 8 if width == 1 else 4
                continue
            case other:
                raise ValueError(f"no such wire type: {other}")
        yield tag >> 3, text[at : at + length]
        at += length


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
