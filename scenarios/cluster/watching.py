"""Watches: changes as they happen, one JSON line each, until the time is up or history is gone."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from scenarios.cluster.faults import Faults
from scenarios.cluster.kinds import Kind
from scenarios.cluster.refusals import Refused
from scenarios.cluster.selectors import Predicate
from scenarios.cluster.store import Change, Store

Json = Any
BOOKMARK_EVERY = 60.0  # seconds; what real servers keep to, without promising it
LAST_WORDS = 2.0  # seconds before the end of a watch for a last bookmark
BLIND = 1.0  # seconds that a watch lives while events are dropped, before it ends in a 410


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a watch is asked for; `show` turns an object into what the client accepts."""

    kind: Kind
    namespace: str | None
    selected: Predicate
    since: int | None  # None: everything that is there, as ADDED, and then what follows
    seconds: float
    bookmarks: bool
    announce: bool  # a bookmark says where the objects end that were there at the start
    show: Callable[[Json], Json]


def line(type_: str, obj: Json) -> bytes:
    """One event as it goes over the wire."""
    event = {"type": type_, "object": obj}
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


async def events(store: Store, faults: Faults, asked: Asked) -> AsyncGenerator[bytes, None]:
    """The lines of a watch; raises `OSError` when the connection breaks."""
    wake = asyncio.Event()
    store.join(asked.kind, wake)
    faults.join(wake)
    try:
        async with aclosing(_events(store, faults, asked, wake)) as lines:
            async for text in lines:
                yield text
    finally:
        store.leave(asked.kind, wake)
        faults.leave(wake)


async def _events(
    store: Store, faults: Faults, asked: Asked, wake: asyncio.Event
) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    cursor = store.version if asked.since is None else asked.since
    ends = loop.time() + asked.seconds
    bookmark_at = _next_bookmark(loop.time(), ends)
    if asked.since is None:
        for text in _there(store, asked):
            yield text
    while loop.time() < ends:
        wake.clear()
        await faults.pass_stream()
        if faults.blind:
            await asyncio.sleep(BLIND)
            store.compact()
        try:
            changes = store.since(asked.kind, cursor)
        except Refused as refused:
            yield line("ERROR", refused.status())
            return
        for change in changes:
            cursor = change.version
            for text in _told(change, asked):
                yield text
        if changes:
            continue
        if asked.bookmarks and loop.time() >= bookmark_at:
            bookmark_at = _next_bookmark(loop.time(), ends)
            yield _bookmark(asked, store.version)
        await _until(wake, min(ends, bookmark_at) if asked.bookmarks else ends)


def _next_bookmark(now: float, ends: float) -> float:
    last = ends - LAST_WORDS
    return min(now + BOOKMARK_EVERY, last) if now < last else ends


async def _until(wake: asyncio.Event, when: float) -> None:
    try:
        async with asyncio.timeout_at(when):
            await wake.wait()
    except TimeoutError:
        return


def _there(store: Store, asked: Asked) -> Iterator[bytes]:
    """What is there when the watch begins."""
    for obj in store.all(asked.kind, asked.namespace):
        if asked.selected(obj):
            yield line("ADDED", asked.show(obj))
    if asked.announce and asked.bookmarks:
        yield _bookmark(asked, store.version, {"k8s.io/initial-events-end": "true"})


def _bookmark(asked: Asked, version: int, annotations: Json = None) -> bytes:
    meta = {"resourceVersion": str(version), "creationTimestamp": None}
    if annotations:
        meta["annotations"] = annotations
    # `show` puts the version's own apiVersion on it, and makes a table of it where one is wanted
    return line("BOOKMARK", asked.show({"metadata": meta}))


def _told(change: Change, asked: Asked) -> Iterator[bytes]:
    """What a selective watcher hears: an object that leaves the selection is deleted to it."""
    if asked.namespace is not None and change.obj["metadata"].get("namespace", "") != asked.namespace:
        return
    is_in = change.type != "DELETED" and asked.selected(change.obj)
    was_in = change.before is not None and asked.selected(change.before)
    if is_in:
        yield line("MODIFIED" if was_in else "ADDED", asked.show(change.obj))
    elif was_in:
        yield line("DELETED", asked.show(change.obj))
