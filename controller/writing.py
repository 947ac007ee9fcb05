"""Who wrote a VirtualService, and since when: what tells a raise that was never made from one taken back.

Pure. A leader may be lost between two of its writes, or be frozen with one of them on its way. Its successor
has nothing but the objects: the run's status, which holds what a raise was decided upon (`Sighting`),
and the VirtualService, whose generation counts every change of its spec and whose `managedFields` name the
last writer of its routes.
"""

from dataclasses import dataclass
from typing import Any

Json = Any

# As the API server is told who writes: weights and mirrors are told apart, since both are in the routes.
WEIGHTS = "serin-controller"
MIRRORS = "serin-mirror"
FENCE = "serin.dev/fence"  # an annotation that is there for a moment
UNFENCING: list[Json] = [{"op": "remove", "path": "/metadata/annotations/serin.dev~1fence"}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """Which VirtualService was looked at: its spec's generation, and the version of all of it."""

    generation: int
    version: str


def sighting(vs: Json) -> Sighting:
    """Which VirtualService this is."""
    meta = vs["metadata"]
    return Sighting(generation=meta.get("generation", 0), version=meta.get("resourceVersion", ""))


def ours(vs: Json) -> bool:
    """Whether the routes were last changed by a move of weights of ours; unknown is no."""
    return any(
        entry.get("manager") == WEIGHTS and "f:http" in entry.get("fieldsV1", {}).get("f:spec", {})
        for entry in vs["metadata"].get("managedFields") or ()
    )


def unwritten(vs: Json) -> list[Json]:
    """A JSON Patch operation that fails if anybody has written the object since."""
    version = vs["metadata"].get("resourceVersion")
    return [{"op": "test", "path": "/metadata/resourceVersion", "value": version}]


def fencing(vs: Json) -> list[Json]:
    """JSON Patch operations that write the object, so that no raise from before is taken any more.

    Weights that are there already would not: the API server stores nothing then.
    """
    notes = {**(vs["metadata"].get("annotations") or {}), FENCE: vs["metadata"].get("resourceVersion", "")}
    return [*unwritten(vs), {"op": "add", "path": "/metadata/annotations", "value": notes}]
