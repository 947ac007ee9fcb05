"""What asks for a canary, and stands where nobody looks for it. Pure.

A Deployment asks by an annotation of its own. Charts and people put it beside that, as a label or into the
pod template, and waited for a run of which nobody knew.
"""

from typing import Any

from controller import resource

Json = Any
CANARY_OF = f"{resource.GROUP}/canary-of"


def misplaced(deployment: Json) -> tuple[str, str] | None:
    """Where the annotation that asks for a canary stands if nobody looks for it there, and its value.

    A promotion may bring it to stable's own template, where it names stable itself: nobody meant that.
    """
    meta, template = deployment["metadata"], _within(deployment, "spec", "template", "metadata")
    if CANARY_OF in (meta.get("annotations") or ()):
        return None
    places = (
        ("as a label", meta.get("labels")),
        ("in its pod template", template.get("annotations")),
        ("as a label in its pod template", template.get("labels")),
    )
    for place, there in places:  # each Deployment at each change around it: no more than a look
        if isinstance(there, dict) and there.get(CANARY_OF, meta["name"]) != meta["name"]:
            return place, str(there[CANARY_OF])
    return None


def _within(obj: Json, *path: str) -> dict[str, Json]:
    """What the object has there; empty where it has nothing, or what is none of a Deployment's."""
    found: dict[str, Json] = obj
    for name in path:
        there = found.get(name)
        found = there if isinstance(there, dict) else {}
    return found
