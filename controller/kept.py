"""What the body of a checkpoint is, so that of one that somebody else made nothing is used.

Pure. A checkpoint stands in a run's status, where whoever may write there can put anything: it is used as a
whole or not at all, and never to ask for more memory or time than one of ours does.
"""

import json
from typing import Annotated, Any, cast

import msgspec

Json = Any
Instant = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]  # seconds since 1970, far beyond all calendars
Bound = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]  # of a bucket; the last one's is not written
Many = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
Size = Annotated[int, msgspec.Meta(ge=-1, le=10_000)]  # of an array; a page has no more series than that
Hush = tuple[Instant, Instant, Many, Many, bool]


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was served since an instant: `served.Load`."""

    since: Instant
    stable: Many = 0
    canary: Many = 0
    stable_seconds: Many = 0
    canary_seconds: Many = 0
    stable_until: Instant = 0
    canary_until: Instant = 0
    shared: tuple[Many, Many] = (0, 0)
    hush: Hush
    pods: dict[str, Hush]


Counted = Annotated[list[Any], msgspec.Meta(min_length=2, max_length=3)]  # `ticks` looks into it
Mark = tuple[Instant, Many | None, Counted | None]


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """How far pods' pages have been used: `ticks.Cursor`, as `cursors` writes it."""

    v: int
    bounds: list[list[Bound]]
    checks: dict[str, tuple[Instant, dict[str, Mark], list[str]]]
    served: dict[str, tuple[Instant, Many]]
    loads: dict[str, Load]
    highs: dict[str, dict[str, tuple[Instant, Many | None, Counted | None, Instant]]] = {}
    full: dict[str, tuple[Instant, Many, str]] = {}


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What speaks for and against the canary in one check; `state` says itself whether it is as it was.

    The first one's is of all checks, unless a version of before wrote it.
    """

    version: int
    kind: str
    sizes: Annotated[list[Size], msgspec.Meta(min_length=7, max_length=7)]
    state: str = ""


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """All of it but what harms nothing, whatever it says: `known`, `saved` and `replayed`."""

    evidence: list[Evidence]
    cursor: Cursor
    step: Annotated[int, msgspec.Meta(ge=0, le=100)] | None
    pods: tuple[list[str], list[str]]


def read(body: str) -> dict[str, Json]:
    """The body as JSON, of which each part is what it has to be; raises `ValueError`."""
    try:
        found = json.loads(body)
        msgspec.convert(found, Body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a checkpoint ({error}); begin anew") from error
    return cast("dict[str, Json]", found)
