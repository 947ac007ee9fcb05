"""What `metadata` may hold: names, labels, annotations, finalizers, owners. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from scenarios.cluster.refusals import Cause, Refused, bad_request

Json = Any

ANNOTATIONS = 262_144  # bytes of all annotations together, 256 KiB
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_WORD = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_WORDS_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and "
    "must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    rf"'{_LABEL}(\.{_LABEL})*')"
)
_WORDS_NAME = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    f"'{_WORD}')"
)
_WORDS_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
    f"for validation is '({_WORD})?')"
)


def check_types(kind: str, version: str, meta: Json) -> None:
    """Raises 400 `Refused` where `metadata` cannot even be decoded, as a label that is a number."""
    if not isinstance(meta, dict):
        raise _undecodable(kind, version, f"{_go(meta)} into Go struct field .metadata of type v1.ObjectMeta")
    for name in ("name", "generateName", "namespace", "uid", "resourceVersion"):
        if not isinstance(meta.get(name) or "", str):
            raise _undecodable(kind, version, f"{_go(meta[name])} into {_FIELD}.{name} of type string")
    for name in ("labels", "annotations"):
        _check_strings(kind, version, name, meta.get(name))
    for name, type_ in (("finalizers", str), ("ownerReferences", dict)):
        values = meta.get(name) or []
        if not isinstance(values, list) or not all(isinstance(value, type_) for value in values):
            raise _undecodable(kind, version, f"{_go(values)} into {_FIELD}.{name}")


_FIELD = "Go struct field ObjectMeta.metadata"


def _check_strings(kind: str, version: str, name: str, values: Json) -> None:
    field = f"{_FIELD}.{name} of type"
    if not isinstance(values or {}, dict):
        raise _undecodable(kind, version, f"{_go(values)} into {field} map[string]string")
    for value in (values or {}).values():
        if not isinstance(value, str | None):
            raise _undecodable(kind, version, f"{_go(value)} into {field} string")


def _undecodable(kind: str, version: str, what: str) -> Refused:
    how = f'{kind} in version "{version}" cannot be handled as a {kind}'
    return bad_request(f"{how}: json: cannot unmarshal {what}")


def _go(value: Json) -> str:
    names = {bool: "bool", int: "number", float: "number", dict: "object", list: "array"}
    return names.get(type(value), "string")


def tidied(meta: Json) -> Json:
    """Without what the server does not keep: empty maps and lists, and nulls."""
    return {
        key: value
        for key, value in meta.items()
        if value is not None and (value or not isinstance(value, dict | list))
    }


def problems(meta: Mapping[str, Json], *, is_label: bool) -> Iterator[Cause]:
    """Everything that a name, labels, annotations and owners break; `is_label` for stricter names."""
    prefix = meta.get("generateName")
    if prefix and not re.fullmatch(_LABEL if is_label else _SUBDOMAIN, re.sub("-$", "a", prefix)):
        yield _bad("metadata.generateName", prefix, _WORDS_SUBDOMAIN)
    yield from _name(str(meta.get("name", "")), is_label=is_label)
    yield from labels(meta.get("labels") or {}, "metadata.labels")
    yield from annotations(meta.get("annotations") or {}, "metadata.annotations")
    for index, owner in enumerate(meta.get("ownerReferences") or ()):
        yield from _owner(owner, f"metadata.ownerReferences[{index}]")


def _bad(path: str, value: Json, sentence: str) -> Cause:
    shown = json.dumps(value, ensure_ascii=False)
    return Cause(path, "FieldValueInvalid", f"Invalid value: {shown}: {sentence}")


def _name(name: str, *, is_label: bool) -> Iterator[Cause]:
    longest = 63 if is_label else 253
    if not name:
        message = "Required value: name or generateName is required"
        yield Cause("metadata.name", "FieldValueRequired", message)
    elif len(name) > longest:
        yield _bad("metadata.name", name, f"must be no more than {longest} bytes")
    elif not re.fullmatch(_LABEL if is_label else _SUBDOMAIN, name):
        yield _bad("metadata.name", name, _WORDS_SUBDOMAIN)


def _key(key: str, path: str) -> Iterator[Cause]:
    prefix, slash, name = key.rpartition("/")
    if slash and not re.fullmatch(_SUBDOMAIN, prefix):
        yield _bad(path, key, f"prefix part {_WORDS_SUBDOMAIN}")
    if len(name) > 63:
        yield _bad(path, key, "name part must be no more than 63 bytes")
    elif not re.fullmatch(_WORD, name):
        yield _bad(path, key, _WORDS_NAME)


def labels(values: Mapping[str, str], path: str) -> Iterator[Cause]:
    """Keys and values that are no labels."""
    for key, value in values.items():
        yield from _key(key, path)
        if len(value or "") > 63:
            yield _bad(path, value, "must be no more than 63 bytes")
        elif value and not re.fullmatch(_WORD, value):
            yield _bad(path, value, _WORDS_VALUE)


def annotations(values: Mapping[str, str], path: str) -> Iterator[Cause]:
    """Keys that are none, and too much text."""
    for key in values:
        yield from _key(key.lower(), path)
    size = sum(len(key.encode()) + len((value or "").encode()) for key, value in values.items())
    if size > ANNOTATIONS:
        yield Cause(path, "FieldValueTooLong", f"Too long: may not be more than {ANNOTATIONS} bytes")


def _owner(owner: Json, path: str) -> Iterator[Cause]:
    for field in ("apiVersion", "kind", "name", "uid"):
        if not owner.get(field):
            yield _bad(f"{path}.{field}", "", f"{field} must not be empty")


def new_finalizers(meta: Json, old: Json) -> Iterator[Cause]:
    """Finalizers that were added although the object is being deleted."""
    added = sorted(set(meta.get("finalizers") or ()) - set(old.get("finalizers") or ()))
    if old.get("deletionTimestamp") and added:
        shown = ", ".join(json.dumps(name) for name in added)
        sentence = (
            "Forbidden: no new finalizers can be added if the object is being deleted, "
            f"found new finalizers []string{{{shown}}}"
        )
        yield Cause("metadata.finalizers", "FieldValueForbidden", sentence)
