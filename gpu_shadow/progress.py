"""How far a comparison came, in a file: a part of one that is merged, or one that is gone on with.

A file is whole or not there (it is written beside and moved into place), says of which question it is, and
carries a digest of itself: what is torn, or of another question, is not gone on with.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any

from gpu_shadow.tally import Comparison, merge, summed

Json = Any
SCHEMA = "serin.dev/shadow-part/v1"
LARGEST = 64 * 2**20  # bytes of a file; a comparison of any number of requests has some tens of thousands
SHOWN = 3  # of the requests that could not be read


class Unusable(ValueError):
    """A file that is not gone on with and not merged; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What was compared by now, of one part of `parts` (from 1): `done` of its `blocks`.

    `question` is all that the comparison depends on, as JSON; `names` are only what its parts are called.
    `left_out` counts, by reason, requests that could not be replayed; `troubles` tells of up to three.
    `redacted` says in words what had been changed in them, where the question does not.
    """

    question: Mapping[str, Json]
    comparison: Comparison
    names: Mapping[str, str] = field(default_factory=dict)
    part: int = 1
    parts: int = 1
    done: int = 0
    blocks: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    troubles: tuple[str, ...] = ()
    redacted: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing of its part is left."""
        return self.done == self.blocks

    @property
    def came(self) -> int:
        """Requests that came by, whatever became of them."""
        return self.comparison.requests + self.comparison.unusable + sum(self.left_out.values())


def write(path: Path, progress: Progress) -> None:
    """The file holds this, or what it held before. Raises `OSError`."""
    said = {name: getattr(progress, name) for name in (*_NUMBERS, *_MAPS)} | {
        "comparison": progress.comparison.to_json(),
        "troubles": list(progress.troubles),
        "redacted": list(progress.redacted),
    }
    beside = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump({"schema": SCHEMA, "sha256": _digest(said), "progress": said}, file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: Path) -> Progress:
    """What the file holds. Raises `Unusable`."""
    try:
        with path.open("rb") as file:
            body = file.read(LARGEST + 1)
    except OSError as error:
        raise Unusable(f"{path}: cannot be read ({error.strerror})") from None
    try:
        said = json.loads(body)
        if said["schema"] != SCHEMA:
            raise Unusable(f"{path}: schema is {said['schema']!r:.60}, not {SCHEMA!r}")
        said, digest = said["progress"], said["sha256"]
        if _digest(said) != digest:
            raise Unusable(f"{path}: is torn: its digest is not that of what it holds")
        return _progress(said)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, Unusable):
            raise
        raise Unusable(
            f"{path}: is no part of a comparison, or torn ({error}); name what --partial or --state wrote"
        ) from None


def whole(parts: Mapping[str, Progress]) -> Progress:
    """All parts taken together, by the names of their files. Raises `Unusable` unless they are one whole."""
    (name, first), *others = parts.items()
    seen: dict[int, str] = {}
    for each, one in parts.items():
        if not one.complete:
            raise Unusable(
                f"{each}: came to {one.done} of its {one.blocks} blocks; let it go on with --state"
            )
        if one.part in seen:
            raise Unusable(f"{each} and {seen[one.part]} are both part {one.part}; give each part once")
        seen[one.part] = each
    for each, one in others:
        if differs := unlike(first.question, one.question):
            raise Unusable(f"{each}: its {differs} not {name}'s; only parts of one replay are merged")
        if one.parts != first.parts:
            raise Unusable(f"{each}: is one of {one.parts} parts, {name} one of {first.parts}")
    if missing := sorted(set(range(1, first.parts + 1)) - set(seen)):
        listed = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise Unusable(f"of {first.parts} parts these are missing: {listed}; give all files at once")
    names = min(parts.values(), key=lambda one: one.part).names
    return replace(reduce(added, parts.values()), part=1, parts=1, names=names)


def added(one: Progress, other: Progress) -> Progress:
    """Both taken together."""
    return replace(
        one,
        comparison=merge(one.comparison, other.comparison),
        done=one.done + other.done,
        blocks=one.blocks + other.blocks,
        left_out=summed(one.left_out, other.left_out),
        troubles=tuple(sorted({*one.troubles, *other.troubles})[:SHOWN]),
    )


def unlike(one: Mapping[str, Json], other: Mapping[str, Json]) -> str:
    """In what two questions differ, as "seed is" or "margins are"; empty if in nothing."""
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    one_thing = len(names) == 1 and not names[0].endswith("s")
    return f"{' and '.join(names)} {'is' if one_thing else 'are'}" if names else ""


_NUMBERS = ("part", "parts", "done", "blocks")
_MAPS = ("question", "names", "left_out")


def _digest(said: Json) -> str:
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _progress(said: Mapping[str, Json]) -> Progress:
    numbers, maps = ({name: said[name] for name in names} for names in (_NUMBERS, _MAPS))
    counts = [*numbers.values(), *maps["left_out"].values()]
    if not all(type(each) is int and each >= 0 for each in counts):
        raise ValueError("a count is none")
    if not (1 <= numbers["part"] <= numbers["parts"] and numbers["done"] <= numbers["blocks"]):
        raise ValueError("part of parts, or done of blocks, is none")
    if not all(isinstance(each, dict) for each in maps.values()):
        raise TypeError("question or names are none")
    return Progress(
        comparison=Comparison.from_json(said["comparison"]),
        troubles=tuple(map(str, said["troubles"])),
        redacted=tuple(map(str, said["redacted"])),
        **numbers,
        **maps,
    )
