"""Who set which fields: `metadata.managedFields`, and server-side apply, which goes by them. Pure.

What is written without a name of the writer, by the cluster's own controllers and by stories, nobody claims.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any

from scenarios.cluster import fieldsets
from scenarios.cluster.admission import stamp
from scenarios.cluster.fieldsets import Fields, common, compared, union, without
from scenarios.cluster.kinds import Kind
from scenarios.cluster.refusals import Cause, Refused
from scenarios.cluster.schemas import META

Json = Any

APPLY, UPDATE = "Apply", "Update"
_CLAIMED = ("labels", "annotations", "finalizers", "ownerReferences")  # of the metadata
# Of a built-in object these are there from the start, so nobody adds them (but what is in them)
_STRUCTS = ("spec", "status")
_DEEPER = {"deployments": ("template", "strategy"), "replicasets": ("template",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Who writes, through which part, in which version; `applied` is the configuration of an apply."""

    name: str
    version: str  # as in apiVersion
    part: str = ""
    applied: Json | None = None
    force: bool = False

    @property
    def operation(self) -> str:
        """Apply or Update."""
        return UPDATE if self.applied is None else APPLY

    def is_of(self, entry: Json) -> bool:
        """Whether the entry is this writer's own."""
        said = entry["manager"], entry["operation"], entry["apiVersion"], entry.get("subresource", "")
        if self.operation == APPLY:  # whoever applies in another version goes on with the same claims
            return (said[0], said[1], said[3]) == (self.name, APPLY, self.part)
        return said == (self.name, UPDATE, self.version, self.part)


def _schema(kind: Kind) -> Mapping[str, Any]:
    return {**kind.schema, "properties": {**kind.schema.get("properties", {}), "metadata": META}}


def _claimable(obj: Json) -> Json:
    """What of an object can be claimed."""
    rest = {key: item for key, item in obj.items() if key not in ("apiVersion", "kind", "metadata")}
    meta = {key: item for key, item in (obj.get("metadata") or {}).items() if key in _CLAIMED}
    return {"metadata": meta, **rest}


def _empty(kind: Kind, obj: Json) -> Json:
    """What an object is before anybody has written it."""
    if kind.custom:
        return {"metadata": {}}
    spec: Json = {key: {} for key in _DEEPER.get(kind.plural, ())}
    spec |= {"template": {"metadata": {}, "spec": {}}} if "template" in spec else {}
    return {"metadata": {}, **{key: {} for key in _STRUCTS if key in obj}, **({"spec": spec} if spec else {})}


# --- after every write


def claimed(kind: Kind, old: Json | None, new: Json, writer: Writer, now: datetime) -> Json:
    """`new` with the claims as they are after `writer` made it of `old`."""
    before = _empty(kind, new) if old is None else _claimable(old)
    touched, gone = compared(_schema(kind), before, _claimable(new))
    known = new["metadata"].get("managedFields") or ()
    mine = next((entry for entry in known if writer.is_of(entry)), None)
    if writer.applied is None:
        wanted = without(union(mine["fieldsV1"] if mine else {}, touched), gone)
    else:
        wanted = configured(kind, writer.applied)
    if not (touched or gone) and wanted == (mine["fieldsV1"] if mine else {}):
        return new
    others = [_less(entry, union(touched, gone)) for entry in known if entry is not mine]
    found = [entry for entry in others if entry["fieldsV1"]]
    if wanted:
        found.append(_entry(writer, wanted, mine, stamp(now)))
    found.sort(key=lambda entry: (entry["operation"], entry.get("time", ""), entry["manager"]))
    meta = {key: item for key, item in new["metadata"].items() if key != "managedFields"}
    return {**new, "metadata": {**meta, "managedFields": found} if found else meta}


def configured(kind: Kind, configuration: Json) -> Fields:
    """The fields that a configuration claims."""
    return fieldsets.of(_schema(kind), _without_empty(_claimable(configuration)))


def _without_empty(obj: Json) -> Json:
    return obj if obj["metadata"] else {key: item for key, item in obj.items() if key != "metadata"}


def _less(entry: Json, lost: Fields) -> Json:
    return {**entry, "fieldsV1": without(entry["fieldsV1"], lost)}


def _entry(writer: Writer, fields: Fields, before: Json | None, now: str) -> Json:
    if before is not None and before["fieldsV1"] == fields:
        now = before.get("time", now)
    return {
        "manager": writer.name,
        "operation": writer.operation,
        "apiVersion": writer.version,
        "time": now,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
        **({"subresource": writer.part} if writer.part else {}),
    }


# --- server-side apply


def configuration(kind: Kind, obj: Json, part: str) -> Json:
    """What of an applied object counts: its status in the status only, and nowhere else."""
    if part == "status":
        return {key: obj[key] for key in ("apiVersion", "kind", "metadata", "status") if key in obj}
    return {key: item for key, item in obj.items() if key != "status"} if kind.status else obj


def applied(kind: Kind, old: Json, writer: Writer) -> Json:
    """What `old` becomes when the writer's configuration is applied; raises 409 `Refused`."""
    schema, configuration = _schema(kind), writer.applied or {}
    known = old["metadata"].get("managedFields") or [_before_first(kind, old)]
    mine = [entry["fieldsV1"] for entry in known if writer.is_of(entry)]
    others = [entry for entry in known if not writer.is_of(entry)]
    wanted = configured(kind, configuration)
    merged = fieldsets.merged(schema, _claimable(old), _without_empty(_claimable(configuration)))
    keep = reduce(union, (entry["fieldsV1"] for entry in others), wanted)
    surplus = without(reduce(union, mine, {}), keep)
    merged = fieldsets.pruned(schema, merged, fieldsets.spared(surplus, keep), keep)
    touched, _ = compared(schema, _claimable(old), merged)
    conflicts = [(entry, found) for entry in others if (found := common(entry["fieldsV1"], touched))]
    if conflicts and not writer.force:
        raise _conflict(conflicts)
    meta = {key: item for key, item in old["metadata"].items() if key not in _CLAIMED}
    version = (configuration.get("metadata") or {}).get("resourceVersion")
    meta |= {"managedFields": known} | ({"resourceVersion": version} if version else {})
    about = {"apiVersion": old["apiVersion"], "kind": old["kind"]}
    return {**about, **merged, "metadata": {**meta, **(merged.get("metadata") or {})}}


def _before_first(kind: Kind, old: Json) -> Json:
    """All that an object had before somebody applied it, if nobody is known to have set it."""
    writer = Writer(name="before-first-apply", version=old["apiVersion"])
    return _entry(writer, configured(kind, old), None, old["metadata"]["creationTimestamp"])


def check_declared(kind: Kind, configuration: Json, place: str) -> None:
    """Raises 500 `Refused`, as a real server does, where a field is in no schema."""
    for path in fieldsets.unknown(_schema(kind), _claimable(configuration)):
        about = f"{place}; {configuration.get('apiVersion')}, Kind={kind.kind}"
        raise Refused(
            500, "", f"failed to create typed patch object ({about}): {path}: field not declared in schema"
        )


def _conflict(conflicts: Sequence[tuple[Json, Fields]]) -> Refused:
    told = [(_named(entry), path) for entry, fields in conflicts for path in fieldsets.paths(fields)]
    causes = [Cause(path, "FieldManagerConflict", f"conflict with {name}") for name, path in told]
    if len(told) == 1:
        message = f"Apply failed with 1 conflict: conflict with {told[0][0]}: {told[0][1]}"
    else:
        lines = []
        for name in sorted({name for name, _ in told}):
            lines += [f"conflicts with {name}:", *(f"- {path}" for other, path in told if other == name)]
        message = f"Apply failed with {len(told)} conflicts: " + "\n".join(lines)
    details = {"causes": [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]}
    return Refused(409, "Conflict", message, details=details)


def _named(entry: Json) -> str:
    """An entry as a conflict names it."""
    name = f'"{entry["manager"]}"'
    if entry.get("subresource"):
        name += f' with subresource "{entry["subresource"]}"'
    return name if entry["operation"] == APPLY else f"{name} using {entry['apiVersion']}"
