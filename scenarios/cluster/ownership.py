"""Who controls whom: ownerReferences, read and made. Pure."""

from typing import Any

from scenarios.cluster.selectors import selects

Json = Any


def controller_of(obj: Json) -> Json | None:
    """The ownerReference of the object's controller."""
    refs = obj["metadata"].get("ownerReferences", ())
    return next((ref for ref in refs if ref.get("controller")), None)


def reference(owner: Json) -> Json:
    """The ownerReference by which `owner` controls another object."""
    meta = owner["metadata"]
    names = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"]}
    return {**names, "uid": meta["uid"], "controller": True, "blockOwnerDeletion": True}


def matches(owner: Json, obj: Json) -> bool:
    """Whether the owner's selector selects the object."""
    return selects(owner["spec"]["selector"], obj["metadata"].get("labels") or {})


def owned(obj: Json, owner: Json) -> Json:
    """The object, controlled by `owner`."""
    refs = [*obj["metadata"].get("ownerReferences", ()), reference(owner)]
    return {**obj, "metadata": {**obj["metadata"], "ownerReferences": refs}}


def disowned(obj: Json, uid: str) -> Json:
    """The object without its reference to the owner of that uid."""
    refs = [ref for ref in obj["metadata"]["ownerReferences"] if ref["uid"] != uid]
    return {**obj, "metadata": {**obj["metadata"], "ownerReferences": refs}}


def leaving(obj: Json) -> bool:
    """Whether the object is being deleted."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def place(obj: Json) -> tuple[str, str]:
    """Namespace and name."""
    return obj["metadata"]["namespace"], obj["metadata"]["name"]
