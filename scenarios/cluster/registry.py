"""What can be done to objects: create, change, delete, with the rules that hold for all of them.

Everything that writes goes through here: requests, the emulated controllers, and a story's own hand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from scenarios.cluster import claims, metadata, refusals
from scenarios.cluster.admission import Admission, stamp, strict_error
from scenarios.cluster.claims import Writer
from scenarios.cluster.kinds import Kind, Kinds
from scenarios.cluster.patches import same
from scenarios.cluster.refusals import Refused
from scenarios.cluster.store import Store

Json = Any
Change = Callable[[Json], Json]
FOREGROUND = "foregroundDeletion"
_FENCED = ("leases",)  # besides custom resources: these cannot be replaced without a resourceVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a request wants its write: in earnest or not, by whom, and what becomes of unknown fields."""

    dry: bool = False
    strictness: str = "Ignore"  # fieldValidation: Ignore, Warn, Strict
    warn: Callable[[str], None] = lambda _text: None
    writer: Writer | None = None  # None: the cluster itself, which claims no fields


PLAIN = Terms()


@dataclass(slots=True)
class Registry:
    """The objects of the emulated cluster and the only way to change them."""

    store: Store
    kinds: Kinds
    admission: Admission
    clock: Callable[[], datetime]

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """The object; raises 404 `Refused`."""
        found = self.store.get(kind, namespace, name)
        if found is None:
            raise refusals.not_found(kind.plural, kind.group, name)
        return found

    def find(self, plural: str, namespace: str, name: str) -> Json | None:
        """The object by its resource's plural, or nothing."""
        return self.store.get(self.kinds.named(plural), namespace, name)

    def create(self, kind: Kind, obj: Json, namespace: str = "", terms: Terms = PLAIN) -> Json:
        """The object as it is stored; raises `Refused`."""
        metadata.check_types(kind.kind, kind.versions[0], obj.get("metadata") or {})
        obj = self._placed(kind, obj, namespace)
        fresh = self.admission.created(kind, obj, partial(_complain, kind, terms))
        place = fresh["metadata"].get("namespace", ""), fresh["metadata"]["name"]
        if self.store.get(kind, *place) is not None:
            raise refusals.already_exists(kind.plural, kind.group, place[1])
        if terms.writer:
            fresh = claims.claimed(kind, None, fresh, terms.writer, self.clock())
        return fresh if terms.dry else self.store.put(kind, fresh)

    def _placed(self, kind: Kind, obj: Json, namespace: str) -> Json:
        """The object in its namespace, which must be there and stay."""
        meta = dict(obj.get("metadata") or {})
        if not kind.namespaced:
            meta.pop("namespace", None)
            return {**obj, "metadata": meta}
        namespace = namespace or meta.get("namespace") or "default"
        if meta.get("namespace", namespace) != namespace:
            raise refusals.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        self._check_home(kind, namespace, str(meta.get("name", "")))
        return {**obj, "metadata": {**meta, "namespace": namespace}}

    def _check_home(self, kind: Kind, namespace: str, name: str) -> None:
        home = self.find("namespaces", "", namespace)
        if home is None:
            raise refusals.not_found("namespaces", "", namespace)
        if home["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise refusals.forbidden(kind.plural, kind.group, name, why)

    def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        change: Change,
        *,
        part: str = "",
        terms: Terms = PLAIN,
    ) -> Json:
        """What `change` makes of the object, or of its `part`; nothing is written if that is the same."""
        old = self.get(kind, namespace, name)
        wanted = change(old)
        metadata.check_types(kind.kind, kind.versions[0], wanted.get("metadata"))
        _check_identity(kind, wanted, old)
        new = self.admission.updated(kind, wanted, old, part=part, warn=partial(_complain, kind, terms))
        if terms.writer:
            new = claims.claimed(kind, old, new, terms.writer, self.clock())
        if terms.dry or same(new, old):
            return new
        if _may_go(new):
            return self.store.remove(kind, new)
        return self.store.put(kind, new)

    def replace(self, kind: Kind, obj: Json, place: tuple[str, str], **how: Any) -> Json:
        """The object in place of the one that is there; raises `Refused`."""
        namespace, name = place
        meta = obj.get("metadata") or {}
        metadata.check_types(kind.kind, kind.versions[0], meta)
        if meta.get("name", name) != name:
            raise refusals.bad_request(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({name})"
            )
        here = {"name": name, "namespace": namespace} if kind.namespaced else {"name": name}
        if kind.plural == "leases" and self.store.get(kind, namespace, name) is None:
            terms = how.get("terms", PLAIN)
            return self.create(kind, {**obj, "metadata": {**meta, **here}}, namespace, terms)
        if not meta.get("resourceVersion") and (kind.custom or kind.plural in _FENCED):
            self.get(kind, namespace, name)
            cause = "Invalid value: 0: must be specified for an update"
            causes = [refusals.Cause("metadata.resourceVersion", "FieldValueInvalid", cause)]
            raise refusals.invalid(kind.kind, kind.group, name, causes)
        return self.update(kind, namespace, name, lambda _old: {**obj, "metadata": {**meta, **here}}, **how)

    def bind(self, namespace: str, name: str, node: str) -> None:
        """The pod is on the node, for good; raises 409 `Refused` if it is on one or leaving."""
        kind = self.kinds.named("pods")
        old = self.get(kind, namespace, name)
        there, leaving = old["spec"].get("nodeName"), old["metadata"].get("deletionTimestamp")
        if there:
            why = f'pod {name} is already assigned to node "{there}"'
            raise refusals.conflict("pods/binding", "", name, why)
        if leaving:
            why = f"pod {name} is being deleted, cannot be assigned to a host"
            raise refusals.conflict("pods/binding", "", name, why)
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(self.clock())}
        status = old.get("status") or {}
        kept = [item for item in status.get("conditions", ()) if item["type"] != "PodScheduled"]
        spec, status = {**old["spec"], "nodeName": node}, {**status, "conditions": [*kept, scheduled]}
        self.store.put(kind, {**old, "spec": spec, "status": status})

    # --- deletion

    def evict(self, namespace: str, name: str, options: Json = None) -> None:
        """The pod is told to stop, and its status says that it was evicted."""
        kind = self.kinds.named("pods")
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
            "lastTransitionTime": stamp(self.clock()),
        }

        def change(old: Json) -> Json:
            status = old.get("status") or {}
            kept = [item for item in status.get("conditions", ()) if item["type"] != condition["type"]]
            return {**old, "status": {**status, "conditions": [*kept, condition]}}

        self.update(kind, namespace, name, change, part="status")
        self.delete(kind, namespace, name, options)

    def delete(self, kind: Kind, namespace: str, name: str, options: Json = None) -> tuple[Json, bool]:
        """The object as it is now, and whether it is gone; raises `Refused`."""
        options = options or {}
        old = self.get(kind, namespace, name)
        _check_preconditions(kind, old, options.get("preconditions") or {})
        policy = options.get("propagationPolicy") or "Background"
        if options.get("dryRun"):
            return old, True
        if policy == "Orphan" or options.get("orphanDependents"):
            self._orphan(old)
        going = self._going(kind, old, options.get("gracePeriodSeconds"), foreground=policy == "Foreground")
        if _may_go(going):
            return self.store.remove(kind, going), True
        return (old if same(going, old) else self.store.put(kind, going)), False

    def _going(self, kind: Kind, old: Json, asked: int | None, *, foreground: bool) -> Json:
        """The object on its way out, with the time it still has."""
        meta = old["metadata"]
        grace = _grace(kind, old, asked)
        if foreground and FOREGROUND not in meta.get("finalizers", ()) and self.dependents(old):
            meta = {**meta, "finalizers": [*meta.get("finalizers", ()), FOREGROUND]}
        if meta.get("deletionTimestamp"):
            left = min(grace, meta.get("deletionGracePeriodSeconds", 0))
            return {**old, "metadata": {**meta, "deletionGracePeriodSeconds": left}}
        ends = stamp(self.clock() + timedelta(seconds=grace))
        meta = {**meta, "deletionTimestamp": ends, "deletionGracePeriodSeconds": grace}
        if "generation" in meta:
            meta["generation"] += 1
        if kind.plural == "namespaces":
            return {**old, "metadata": meta, "status": {**old.get("status", {}), "phase": "Terminating"}}
        return {**old, "metadata": meta}

    def dependents(self, owner: Json) -> Sequence[tuple[Kind, Json]]:
        """Every object whose ownerReferences name `owner`."""
        uid = owner["metadata"]["uid"]
        return [
            (kind, obj)
            for kind in self.kinds
            if not kind.stored_as
            for obj in self.store.all(kind)
            if any(ref["uid"] == uid for ref in obj["metadata"].get("ownerReferences", ()))
        ]

    def _orphan(self, owner: Json) -> None:
        """Dependents do not know their owner any more."""
        uid = owner["metadata"]["uid"]
        for kind, obj in self.dependents(owner):
            meta = obj["metadata"]
            left = [ref for ref in meta["ownerReferences"] if ref["uid"] != uid]
            self.store.put(kind, {**obj, "metadata": {**meta, "ownerReferences": left}})


def _complain(kind: Kind, terms: Terms, unknown: Sequence[str]) -> None:
    """Fields that nobody knows are refused before the rest is looked at, or warned of."""
    if unknown and terms.strictness == "Strict":
        raise strict_error(kind, kind.versions[0], list(unknown))
    if terms.strictness == "Warn":
        for path in unknown:
            terms.warn(f'unknown field "{path}"')


def _check_identity(kind: Kind, wanted: Json, old: Json) -> None:
    """Raises 409 `Refused` if the writer knew another object, or an older version of it."""
    meta, was = wanted["metadata"], old["metadata"]
    if meta.get("uid", was["uid"]) != was["uid"]:
        why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {was['uid']}"
        raise refusals.conflict(kind.plural, kind.group, was["name"], why)
    if meta.get("resourceVersion") and meta["resourceVersion"] != was["resourceVersion"]:
        raise refusals.conflict(kind.plural, kind.group, was["name"])
    if meta.get("name", was["name"]) != was["name"]:
        raise _name_changed(meta["name"], was["name"])


def _name_changed(new: str, old: str) -> Refused:
    return refusals.bad_request(f"the name of the object ({new}) does not match the name on the URL ({old})")


def _check_preconditions(kind: Kind, old: Json, wanted: Json) -> None:
    for field, word in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        if wanted.get(field) and wanted[field] != old["metadata"][field]:
            pair = f"{word} in precondition: {wanted[field]}, {word} in object meta: {old['metadata'][field]}"
            name = old["metadata"]["name"]
            raise refusals.conflict(kind.plural, kind.group, name, f"Precondition failed: {pair}")


def _grace(kind: Kind, obj: Json, asked: int | None) -> int:
    """Seconds a pod gets to stop; one that runs nowhere, or has ended, needs none."""
    spec = obj.get("spec") or {}
    ended = (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    if kind.plural != "pods" or not spec.get("nodeName") or ended:
        return 0
    return int(spec.get("terminationGracePeriodSeconds", 30) if asked is None else asked)


def _may_go(obj: Json) -> bool:
    """Whether nothing holds an object any more that is being deleted."""
    meta = obj["metadata"]
    held = meta.get("finalizers") or meta.get("deletionGracePeriodSeconds")
    if obj["kind"] == "Namespace":
        held = held or obj["spec"].get("finalizers")
    return bool(meta.get("deletionTimestamp")) and not held
