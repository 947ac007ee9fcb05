"""What goes when something else has gone: dependents of deleted owners, contents of namespaces."""

from typing import Any

from scenarios.cluster.clockwork import Chores
from scenarios.cluster.kinds import Kind
from scenarios.cluster.registry import FOREGROUND, Registry
from scenarios.cluster.store import Change

Json = Any
LAG = 0.1  # seconds; real collection takes up to one


class Garbage:
    """The garbage collector and the namespace controller, over one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._chores = Chores()

    def heard(self, change: Change) -> None:
        """A sweep follows whatever may have left something behind."""
        meta = change.obj["metadata"]
        orphan = change.type == "ADDED" and meta.get("ownerReferences")
        if change.type == "DELETED" or meta.get("deletionTimestamp") or orphan:
            self._chores.at("sweep", self._sweep, after=LAG)

    def close(self) -> None:
        """Nothing is swept any more."""
        self._chores.close()

    def _everything(self) -> list[tuple[Kind, Json]]:
        kinds = [kind for kind in self._registry.kinds if not kind.stored_as]
        return [(kind, obj) for kind in kinds for obj in self._registry.store.all(kind)]

    def _sweep(self) -> None:
        everything = self._everything()
        alive = {obj["metadata"]["uid"] for _, obj in everything}
        for kind, obj in everything:
            owners = obj["metadata"].get("ownerReferences", ())
            if owners and not any(ref["uid"] in alive for ref in owners):
                self._delete(kind, obj)
            if FOREGROUND in obj["metadata"].get("finalizers", ()) and _leaving(obj):
                self._foreground(kind, obj)
            if kind.key == "namespaces" and _leaving(obj):
                self._empty(kind, obj)

    def _delete(self, kind: Kind, obj: Json, policy: str = "Background") -> None:
        meta = obj["metadata"]
        place = meta.get("namespace", ""), meta["name"]
        if not _leaving(obj) and self._registry.store.get(kind, *place) is not None:
            self._registry.delete(kind, *place, {"propagationPolicy": policy})

    def _foreground(self, kind: Kind, owner: Json) -> None:
        """First the dependents, then the owner."""
        dependents = self._registry.dependents(owner)
        for dependent_kind, obj in dependents:
            self._delete(dependent_kind, obj, "Foreground")
        if not dependents:
            self._release(kind, owner)

    def _release(self, kind: Kind, owner: Json) -> None:
        def change(old: Json) -> Json:
            left = [name for name in old["metadata"].get("finalizers", ()) if name != FOREGROUND]
            return {**old, "metadata": {**old["metadata"], "finalizers": left}}

        meta = owner["metadata"]
        self._registry.update(kind, meta.get("namespace", ""), meta["name"], change)

    def _empty(self, kind: Kind, namespace: Json) -> None:
        """A namespace goes when nothing is left in it; what has a finalizer keeps it Terminating."""
        name = namespace["metadata"]["name"]
        content = [(k, obj) for k, obj in self._everything() if obj["metadata"].get("namespace") == name]
        for other, obj in content:
            self._delete(other, obj)
        if not content:
            self._registry.update(kind, "", name, lambda old: {**old, "spec": {"finalizers": []}})


def _leaving(obj: Json) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))
