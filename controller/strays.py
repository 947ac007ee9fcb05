"""What is for us, and stands where nobody looks for it. Pure.

A Deployment asks by annotations of its own. Charts and people put them beside those, as a label or into the
pod template, or upon stable, and waited for a run or for its end, of which nobody knew.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from controller import resource

Json = Any
PREFIX = f"{resource.GROUP}/"
CANARY_OF = f"{PREFIX}canary-of"
RINGS = ("pause", "abort", "approve", "promote")  # they ask something of a run
KNOWN = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "canary-of",
        "policy",
        "virtual-service",
        "stable-subset",
        "canary-subset",
        "steps",
        "max-latency-increase",
        *RINGS,
    )
)


def misplaced(deployment: Json) -> Iterator[tuple[str, str, str]]:
    """Names of annotations that stand where nobody looks for them: where, which, and the value.

    What also stands where it belongs is left out. A promotion may bring `canary-of` to stable's own template,
    where it names stable itself: nobody meant that.
    """
    meta, template = deployment["metadata"], _within(deployment, "spec", "template", "metadata")
    right = (meta.get("annotations") or {}).keys()
    places = (
        ("as a label", meta.get("labels")),
        ("in its pod template", template.get("annotations")),
        ("as a label in its pod template", template.get("labels")),
    )
    for place, there in places:  # each Deployment at each change around it: no more than a look
        if isinstance(there, dict):
            for name in sorted((KNOWN & there.keys()) - right):
                if name != CANARY_OF or there[name] != meta["name"]:
                    yield place, name, str(there[name])


def upon_stable(deployment: Json, deployments: Iterable[Json]) -> Iterator[tuple[str, str, str]]:
    """What is asked of a run upon a Deployment that is a canary's stable: its canary, the name, the value."""
    meta, notes = deployment["metadata"], deployment["metadata"].get("annotations") or {}
    rings = [f"{PREFIX}{name}" for name in RINGS if f"{PREFIX}{name}" in notes]
    if not rings or CANARY_OF in notes:
        return
    for other in deployments:
        if (other["metadata"].get("annotations") or {}).get(CANARY_OF) == meta["name"]:
            yield from ((other["metadata"]["name"], name, notes[name]) for name in rings)


def _within(obj: Json, *path: str) -> dict[str, Json]:
    """What the object has there; empty where it has nothing, or what is none of a Deployment's."""
    found: dict[str, Json] = obj
    for name in path:
        there = found.get(name)
        found = there if isinstance(there, dict) else {}
    return found
