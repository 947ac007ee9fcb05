"""Chores that are done a moment later, once, by the running loop."""

import asyncio
from collections.abc import Callable, Hashable
from contextvars import copy_context


class Chores:
    """At most one pending chore for each key; a nearer time replaces a later one."""

    def __init__(self) -> None:
        # chores are the cluster's own, whoever's request made them necessary
        self._context = copy_context()
        self._pending: dict[Hashable, asyncio.TimerHandle] = {}
        self._closed = False

    def at(self, key: Hashable, chore: Callable[[], None], *, after: float) -> None:
        """`chore` is done in `after` seconds, unless it is pending for an earlier time."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + after
        pending = self._pending.get(key)
        if pending is not None:
            if pending.when() <= when:
                return
            pending.cancel()

        def run() -> None:
            del self._pending[key]
            chore()

        self._pending[key] = loop.call_at(when, run, context=self._context)

    def close(self) -> None:
        """Nothing pending is done any more."""
        self._closed = True
        for handle in self._pending.values():
            handle.cancel()
        self._pending.clear()
