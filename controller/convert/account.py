"""Every field of an object, and what became of it: each is claimed once, and what nobody claims is said.

An object is its leaves: scalars, and mappings and lists that are empty. Whoever reads a leaf says what it
became (`becomes`), that Serin works so anyway (`built_in`), or what to do instead (`missing`); a second
claim on a leaf raises. `settle` asks a table for the rest, and what that does not know is *unknown*. So no
field can be lost: to forget one is to report it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from math import isfinite
from typing import Any, TypeVar

from controller.documents import NAME

Json = Any
Path = tuple[str | int, ...]
Kind = TypeVar("Kind")

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_PART = re.compile(r'\["([^"]+)"\]|([^.\[\]]+)|\[(\d*)\]')
EACH = -1  # in a pattern: any place of a list
ALIKE = 0.75  # of a slip and what was meant: one letter in four, so that `mean` is not told as `min`
WORDS = {str: "text", int: "a whole number", bool: "true or false", dict: "a mapping", list: "a list"}


class Fate(StrEnum):
    """What became of a field."""

    CONVERTED = "converted"
    BUILT_IN = "built in"
    MISSING = "no equivalent"
    UNKNOWN = "unknown"


Rules = dict[str, tuple[Fate, str]]
"""A pattern of paths (`[]`: each entry of a list, `**`: whatever is below), and what is said of it."""


class BadObject(ValueError):
    """An object that cannot be converted; the text names file, document, object, field and remedy."""


class ClaimedTwice(AssertionError):
    """Two rules claim one field: a mistake of ours."""


@dataclass(frozen=True, slots=True)
class Source:
    """Which object of which file is meant."""

    file: str
    number: int  # of the document, from 1
    kind: str
    name: str
    namespace: str | None = None

    def __str__(self) -> str:
        return f"{self.file}, document {self.number}: {self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Target:
    """A field of an object that is written."""

    kind: str
    name: str
    path: Path

    def __str__(self) -> str:
        return f"{self.kind}/{self.name} {shown(self.path)}"


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of a field, or of a whole subtree that went one way."""

    path: Path
    value: Json
    fields: int
    fate: Fate
    says: str
    to: Target | None = None


@dataclass(slots=True)
class Account:
    """One object of the input, and what became of each of its leaves so far."""

    source: Source
    document: Json
    claimed: dict[Path, Entry] = field(default_factory=dict)

    # -- reading -----------------------------------------------------------------------------------

    def get(self, path: str, kind: type[Kind]) -> Kind | None:
        """The value there; None if it is absent or null. Raises `BadObject` if it is something else."""
        value = self.any(path)
        if value is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.bad(parsed(path), f"expected {WORDS[kind]}, got {value!r:.60}; correct it")
        return value

    def name(self, path: str) -> str | None:
        """The name of an object, or of part of one: it stands in commands that people paste. As `get`."""
        found = self.get(path, str)
        if found and not NAME.fullmatch(found):
            raise self.bad(parsed(path), f"{found!r:.60} is no name of an object; correct it")
        return found

    def number(self, path: str) -> float | None:
        """The number there, also one that is written as text."""
        value = self.any(path)
        if value is None:
            return None
        try:
            found = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            found = float("nan")
        if not isfinite(found):
            raise self.bad(parsed(path), f"expected a number, got {value!r:.60}; correct it")
        return found

    def whole(self, path: str) -> int | None:
        """The whole number there."""
        value = self.number(path)
        if value is not None and not value.is_integer():
            raise self.bad(parsed(path), f"expected a whole number, got {self.any(path)!r:.60}; correct it")
        return None if value is None else int(value)

    def any(self, path: str) -> Json:
        """Whatever is there, None if nothing is; raises `BadObject` if something above has no fields."""
        value: Json = self.document
        parts = parsed(path)
        for depth, part in enumerate(parts):
            container = list if isinstance(part, int) else dict
            if value is None:
                return None
            if not isinstance(value, container):
                raise self.bad(parts[:depth], f"expected {WORDS[container]}, got {value!r:.60}; correct it")
            value = inside(value, (part,))
            value = None if value is NOTHING else value
        return value

    def each(self, path: str) -> list[str]:
        """The paths of the entries of the list there."""
        return [f"{path}[{place}]" for place in range(len(self.get(path, list) or ()))]

    def free(self, path: str) -> bool:
        """Whether nobody has claimed the field, and it is there."""
        at = parsed(path)
        value = inside(self.document, at)
        return value is not NOTHING and not any(leaf in self.claimed for leaf, _ in leaves(value, at))

    def bad(self, path: Path, why: str) -> BadObject:
        """The error that says why this field cannot be read."""
        return BadObject(f"{self.source}: {shown(path)}: {why}")

    # -- claiming ----------------------------------------------------------------------------------

    def unclaimed(self) -> list[tuple[Path, Json]]:
        """The leaves that nobody has claimed yet."""
        return [(path, value) for path, value in leaves(self.document) if path not in self.claimed]

    def becomes_at(self, path: Path, to: Target) -> None:
        """As `becomes`, of a path whose names may have dots."""
        self._claim(path, Fate.CONVERTED, "", to)

    def becomes(self, path: str, to: Target, note: str = "") -> None:
        """What is at or below the path is, in the output, what is at `to`."""
        self._claim(parsed(path), Fate.CONVERTED, note, to)

    def built_in(self, path: str, says: str) -> None:
        """What is at or below the path is how Serin works without being told."""
        self._claim(parsed(path), Fate.BUILT_IN, says)

    def missing(self, path: str, says: str) -> None:
        """What is at or below the path has no equivalent; `says` what to do instead."""
        self._claim(parsed(path), Fate.MISSING, says)

    def off(self, path: str) -> None:
        """What is switched off says nothing that Serin does not do."""
        if self.any(path) is False:
            self.built_in(path, "is off")

    def settle(self, rules: Rules) -> None:
        """Every leaf is claimed: what nobody claimed by the most precise rule, or as unknown."""
        patterns = sorted(((parsed(text), *rule) for text, rule in rules.items()), key=_precision)
        left = {path: (value, _found(patterns, path, value)) for path, value in self.unclaimed()}
        for path, (value, rule) in left.items():
            if path in self.claimed:
                continue
            if rule is UNKNOWN and (meant := _meant(patterns, path, self.document)):
                self.claimed[path] = Entry(path, value, 1, Fate.UNKNOWN, f"{meant} {rule[2]}")
                continue
            base = path[: len(rule[0]) - 1] if "**" in rule[0] else path
            below = [leaf for leaf, _ in leaves(inside(self.document, base), base)]
            if all(leaf in left and left[leaf][1] is rule for leaf in below):
                self._claim(base, *rule[1:])
            else:
                self.claimed[path] = Entry(path, value, 1, *rule[1:])

    def _claim(self, path: Path, fate: Fate, says: str, to: Target | None = None) -> None:
        value = inside(self.document, path)
        below = [] if value is NOTHING else [leaf for leaf, _ in leaves(value, path)]
        twice = next((leaf for leaf in below if leaf in self.claimed), None)
        if twice is not None:
            raise ClaimedTwice(f"{self.source}: {shown(twice)} was claimed by {self.claimed[twice]}")
        entry = Entry(path, value, len(below), fate, says, to)
        self.claimed.update(dict.fromkeys(below, entry))

    @property
    def entries(self) -> list[Entry]:
        """What became of the fields, in their order; of a subtree that went one way, once."""
        found = (self.claimed[path] for path, _ in leaves(self.document))
        return list({id(entry): entry for entry in found}.values())


Rule = tuple[Path, Fate, str]
EMPTY: Rule = ((), Fate.BUILT_IN, "is empty, and says nothing")
UNKNOWN: Rule = (
    (),
    Fate.UNKNOWN,
    "this converter does not know the field: look up what it does, and what you need of it",
)
NOTHING = object()  # where a path leads to no value, not even to null


def claimed(holder: Account, path: str, to: Target | None, says: str) -> None:
    """What several refer to is claimed by the first of them: it became `to`, or has no equivalent."""
    if holder.free(path):
        holder.missing(path, says) if to is None else holder.becomes(path, to, says)


# -- paths -----------------------------------------------------------------------------------------


@cache
def parsed(text: str) -> Path:
    """The path that `a.b[0].c` writes; `[]` is any place of a list."""
    parts = _PART.findall(text)
    return tuple(quoted or name or (int(place) if place else EACH) for quoted, name, place in parts)


def shown(path: Path) -> str:
    """The path as people write it."""
    return "".join(_part(part) for part in path).removeprefix(".") or "the object"


def _part(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if _PLAIN.fullmatch(str(part)) else f'["{part}"]'


def leaves(value: Json, at: Path = ()) -> Iterator[tuple[Path, Json]]:
    """Every scalar and every empty mapping or list, with its path."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from leaves(each, (*at, name))
    elif isinstance(value, list) and value:
        for place, each in enumerate(value):
            yield from leaves(each, (*at, place))
    else:
        yield at, value


def inside(value: Json, path: Path) -> Json:
    """The value at the path, or `NOTHING`."""
    for part in path:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return NOTHING
    return value


def _precision(rule: Rule) -> tuple[bool, int]:
    """Whole paths before those that end in `**`, and of those the longest first."""
    return "**" in rule[0], -len(rule[0])


def _found(rules: list[Rule], path: Path, value: Json) -> Rule:
    """The most precise rule for the leaf; what is empty where we know fields is no loss."""
    rule = next((rule for rule in rules if _fits(rule[0], path)), UNKNOWN)
    within = "**" in rule[0] and len(path) >= len(rule[0])  # of whose fields we know nothing
    known = any(_fits(pattern[: len(path)], path) for pattern, *_ in rules)
    return EMPTY if value in ({}, [], None) and known and not within else rule


def _meant(rules: list[Rule], path: Path, document: Json) -> str | None:
    """Of which known field the first unknown name of the path may be a slip, as a sentence; None: of none."""
    depth = max(
        (d for d in range(len(path)) if any(_fits(one[:d], path[:d]) for one, *_ in rules)), default=0
    )
    beside = inside(document, path[:depth])
    given = {str(name).casefold() for name in beside} - {str(path[depth]).casefold()}
    there = [one[depth] for one, *_ in rules if len(one) > depth and _fits(one[:depth], path[:depth])]
    known = {each.casefold(): each for each in there if isinstance(each, str)}
    slip, names = str(path[depth]).casefold(), known.keys() - {"*", "**"}
    if near := get_close_matches(slip, names - given, 1, ALIKE):
        return f"did you mean {known[near[0]]}?"
    beside_it = get_close_matches(slip, names & given, 1, ALIKE)
    return (
        f"it is like {known[beside_it[0]]}, which is given beside it: leave one out." if beside_it else None
    )


def _fits(pattern: Path, path: Path) -> bool:
    if pattern[-1:] == ("**",):
        pattern, path = pattern[:-1], path[: len(pattern) - 1]
    pairs = zip(pattern, path, strict=False)
    return len(pattern) == len(path) and all(_same(one, part) for one, part in pairs)


def _same(one: str | int, part: str | int) -> bool:
    return isinstance(part, int) if one == EACH else one in {"*", part}
