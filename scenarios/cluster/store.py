"""Objects, their versions and a bounded history of changes: what etcd and the watch cache do together.

Stored objects are never changed in place; readers may keep what they were given and must not write
into it. One counter numbers all writes, as in etcd.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from scenarios.cluster.kinds import Kind
from scenarios.cluster.refusals import expired

Json = Any
Listener = Callable[["Change"], None]

BEGINNING = 1000  # the first version: clusters have a past, and nobody can watch from there


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One write: what an object became (or last was, if deleted) and what it was before."""

    version: int
    type: str  # ADDED, MODIFIED, DELETED
    kind: Kind
    obj: Json
    before: Json | None


@dataclass(slots=True)
class Shelf:
    """All objects of one kind, with the newest changes and those who wait for the next."""

    spaces: dict[str, dict[str, Json]] = field(default_factory=dict)  # by namespace, then by name
    log: deque[Change] = field(default_factory=deque)
    forgotten: int = BEGINNING  # version of the newest change that the log no longer holds
    # in the order in which they came: who is woken first draws first, and a set's order is of no seed
    waiting: dict[asyncio.Event, None] = field(default_factory=dict)


def place(obj: Json) -> tuple[str, str]:
    """Namespace and name; cluster-wide objects have an empty namespace."""
    meta = obj["metadata"]
    return meta.get("namespace", ""), meta["name"]


class Store:
    """Every object of the emulated cluster."""

    def __init__(self, *, log_size: int) -> None:
        self.version = BEGINNING
        self.listeners: list[Listener] = []
        self._log_size = log_size
        self._shelves: dict[str, Shelf] = {}

    def _shelf(self, kind: Kind) -> Shelf:
        return self._shelves.setdefault(kind.key, Shelf())

    def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """The object, or nothing."""
        return self._shelf(kind).spaces.get(namespace, {}).get(name)

    def all(self, kind: Kind, namespace: str | None = None) -> list[Json]:
        """Objects in order of namespace and name; no namespace means all of them."""
        spaces = self._shelf(kind).spaces
        within = sorted(spaces) if namespace is None else [namespace] if namespace in spaces else []
        return [spaces[each][name] for each in within for name in sorted(spaces[each])]

    def put(self, kind: Kind, obj: Json) -> Json:
        """The object as stored, with its new resourceVersion; every listener has heard of it."""
        self.version += 1
        shelf = self._shelf(kind)
        namespace, name = place(obj)
        space = shelf.spaces.setdefault(namespace, {})
        before = space.get(name)
        stored = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        space[name] = stored
        self._tell(shelf, "MODIFIED" if before else "ADDED", kind, stored, before)
        return stored

    def remove(self, kind: Kind, obj: Json) -> Json:
        """The object is gone; returns what watchers were told, whose version is the deletion's."""
        self.version += 1
        shelf = self._shelf(kind)
        namespace, name = place(obj)
        before = shelf.spaces[namespace].pop(name)
        last = {**before, "metadata": {**before["metadata"], "resourceVersion": str(self.version)}}
        self._tell(shelf, "DELETED", kind, last, before)
        return last

    def _tell(self, shelf: Shelf, type_: str, kind: Kind, obj: Json, before: Json | None) -> None:
        change = Change(version=self.version, type=type_, kind=kind, obj=obj, before=before)
        shelf.log.append(change)
        if len(shelf.log) > self._log_size:
            shelf.forgotten = shelf.log.popleft().version
        for event in shelf.waiting:
            event.set()
        for listener in tuple(self.listeners):
            listener(change)

    def since(self, kind: Kind, version: int) -> list[Change]:
        """Changes after `version`, oldest first; raises 410 `Refused` where history is gone."""
        shelf = self._shelf(kind)
        if version < shelf.forgotten:
            raise expired(version, shelf.forgotten)
        return list(reversed(list(_newer(shelf.log, version))))

    def compact(self) -> None:
        """All history is forgotten, as by etcd's compaction; older watches get 410."""
        self.version += 1
        for shelf in self._shelves.values():
            shelf.log.clear()
            shelf.forgotten = self.version
            for event in shelf.waiting:
                event.set()

    def join(self, kind: Kind, event: asyncio.Event) -> None:
        """`event` is set at every change of `kind` until it leaves."""
        self._shelf(kind).waiting[event] = None

    def leave(self, kind: Kind, event: asyncio.Event) -> None:
        """`event` is left alone from now on."""
        self._shelf(kind).waiting.pop(event, None)


def _newer(log: deque[Change], version: int) -> Iterator[Change]:
    for change in reversed(log):
        if change.version <= version:
            return
        yield change
