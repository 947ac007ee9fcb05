"""What happens to an object between the request and the store: decoding, defaults, checks.

Order as on a real server: decode (400), unknown fields, what the client may not set, defaults,
validation (422), size (500).
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scenarios.cluster import builtin, fieldsets, metadata, schema
from scenarios.cluster.kinds import Kind
from scenarios.cluster.patches import same
from scenarios.cluster.refusals import Cause, Refused, bad_request, invalid, too_large

Json = Any

LARGEST = 1_572_864  # bytes of one object in etcd, 1.5 MiB
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, so that no words come out
_LABELS = ("namespaces", "services")  # whose names must be DNS labels
_SERVER_OWNED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


def stamp(moment: datetime) -> str:
    """A time as Kubernetes writes it: whole seconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The gate of the store; `draw(n)` gives n random bits, `clock` the creation timestamps."""

    clock: Callable[[], datetime]
    draw: Callable[[int], int]

    def suffix(self) -> str:
        """Five characters that make a generated name unique."""
        return "".join(_SUFFIX[self.draw(32) % len(_SUFFIX)] for _ in range(5))

    def _uid(self) -> str:
        digits = f"{self.draw(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"

    def created(self, kind: Kind, obj: Json, warn: Callable[[list[str]], None]) -> Json:
        """The object as it is stored first; raises `Refused`."""
        meta = {k: v for k, v in (obj.get("metadata") or {}).items() if k not in _SERVER_OWNED}
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + self.suffix()
        meta |= {"uid": self._uid(), "creationTimestamp": stamp(self.clock())}
        if kind.custom or kind.plural in ("deployments", "replicasets", "pods"):
            meta["generation"] = 1
        for key in ("resourceVersion", "managedFields"):
            meta.pop(key, None)
        fresh = {**obj, "metadata": metadata.tidied(meta)}
        if kind.status:
            fresh.pop("status", None)
        if kind.plural == "pods":
            fresh["status"] = {"phase": "Pending", "qosClass": "Burstable"}
        return self._checked(kind, fresh, None, warn)

    def updated(
        self, kind: Kind, obj: Json, old: Json, *, part: str, warn: Callable[[list[str]], None]
    ) -> Json:
        """What `old` becomes when `obj` is written to it, or to its `part`; raises `Refused`."""
        merged = self._merged(kind, obj, old, part)
        done = self._checked(kind, merged, old, warn)
        if part != "status" and _generation_moves(kind, done, old):
            number = old["metadata"].get("generation", 0) + 1
            done = {**done, "metadata": {**done["metadata"], "generation": number}}
        return done

    def _merged(self, kind: Kind, obj: Json, old: Json, part: str) -> Json:
        """`obj` with everything that this writer may not change as it was."""
        meta = {key: value for key, value in obj["metadata"].items() if key not in _SERVER_OWNED}
        for key in (*_SERVER_OWNED, "name", "namespace", "resourceVersion"):
            if key in old["metadata"]:
                meta[key] = old["metadata"][key]
        claims: Json = meta.get("managedFields")
        if not fieldsets.are_entries(claims):  # not sent, or not readable
            claims = old["metadata"].get("managedFields", ())
        meta["managedFields"] = [entry for entry in claims if entry]
        if part == "status":
            kept = old["metadata"] if kind.custom else {**meta, "labels": old["metadata"].get("labels")}
            written = {"status": obj["status"]} if "status" in obj else {}
            rest = {key: value for key, value in old.items() if key != "status"}
            return {**rest, **written, "metadata": metadata.tidied(kept)}
        rest = {key: value for key, value in obj.items() if key != "status" or not kind.status}
        kept_status = {"status": old["status"]} if kind.status and "status" in old else {}
        return {**rest, **kept_status, "metadata": metadata.tidied(meta)}

    def _checked(self, kind: Kind, obj: Json, old: Json | None, warn: Callable[[list[str]], None]) -> Json:
        known_spec = old is not None and "spec" in obj and obj["spec"] is old.get("spec")
        rules = schema.settled(kind.schema) if known_spec else kind.schema
        known, unknown = schema.pruned(
            rules, obj if kind.custom else _without_nulls(obj, known_spec=known_spec)
        )
        warn(unknown)
        full = schema.defaulted(rules, known)
        causes = [*metadata.problems(full["metadata"], is_label=kind.plural in _LABELS)]
        causes += metadata.new_finalizers(full["metadata"], (old or {"metadata": {}})["metadata"])
        found = schema.problems(rules, full, old)
        # built-in lists may repeat a key, as an env does: there it tells only what a patch means
        causes += [cause for cause in found if kind.custom or cause.reason != "FieldValueDuplicate"]
        _refuse(kind, full, causes)
        if not kind.custom:
            full = builtin.completed(kind.plural, full)
            _refuse(kind, full, list(builtin.problems(kind.plural, full, old)))
        _check_size(full)
        return full


def _without_nulls(value: Json, *, known_spec: bool = False) -> Json:
    """`value` as Go decodes it into a type of its own: a null is a field that is not there."""
    if known_spec:
        return {key: item if key == "spec" else _without_nulls(item) for key, item in value.items()}
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _refuse(kind: Kind, obj: Json, causes: list[Cause]) -> None:
    mistyped = [cause for cause in causes if "must be of type" in cause.message]
    if mistyped and not kind.custom:
        raise bad_request(_undecodable(kind, _in_go(kind, mistyped[0])))
    late = None if kind.custom else builtin.unreadable_time(kind.plural, obj)
    if late:
        raise bad_request(_undecodable(kind, late))
    if causes:
        raise invalid(kind.kind, kind.group, obj["metadata"].get("name", ""), causes)


def _undecodable(kind: Kind, why: str) -> str:
    how = f'{kind.kind} in version "{kind.versions[0]}" cannot be handled as a {kind.kind}'
    return f"{how}: {why}"


_GO = {"integer": "int32", "boolean": "bool", "array": "slice", "object": "struct"}


def _in_go(kind: Kind, cause: Cause) -> str:
    """A value of the wrong type, in the words of Go's decoder, which names the innermost struct."""
    wanted, _, given = cause.message.rpartition("must be of type ")[2].partition(": ")
    given = {"integer": "number", "boolean": "bool"}.get(given.strip('"'), given.strip('"'))
    path = re.sub(r"\[\d+\]", "", cause.field)
    struct = "Container" if "containers." in path.lower() else f"{kind.kind}Spec"
    field = f"{struct}.{path} of type {_GO.get(wanted, wanted)}"
    return f"json: cannot unmarshal {given} into Go struct field {field}"


def _check_size(obj: Json) -> None:
    # Most objects are far below the limit, and this runs at every write: look at the text only once.
    if len(json.dumps(obj, separators=(",", ":"), ensure_ascii=False).encode()) > LARGEST:
        raise too_large()


def _generation_moves(kind: Kind, new: Json, old: Json) -> bool:
    """A custom resource counts every change outside metadata and status; the others their spec's."""
    if "generation" not in old["metadata"]:
        return False
    ignored = ("metadata", "status") if kind.status else ("metadata",)
    if not kind.custom:
        return not same(new.get("spec"), old.get("spec"))
    return not same(*({k: v for k, v in obj.items() if k not in ignored} for obj in (new, old)))


def strict_error(kind: Kind, version: str, unknown: list[str]) -> Refused:
    """400: fields that the schema does not know, where the client wants to be told."""
    fields = ", ".join(f'unknown field "{path}"' for path in unknown)
    how = f'{kind.kind} in version "{version}" cannot be handled as a {kind.kind}'
    return bad_request(f"{how}: strict decoding error: {fields}")
