"""Keys with due times: each is given its turn when it is due, and never two turns at once.

Asking again for a key moves its time forward, never back. A turn that raises is tried again later
and later; what it was about is level-triggered, so nothing is lost by the wait.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextvars import copy_context
from datetime import timedelta
from random import Random
from typing import Generic, Protocol, TypeVar

import structlog

log = structlog.get_logger(__name__)

# Waits after failed turns, seconds: the first hardly felt, the last bounded, so that a run whose API
# server is back is looked at within seconds.
FIRST_WAIT, LAST_WAIT = 0.2, 5.0

Key = TypeVar("Key", bound=Hashable)


class Heed(Protocol):
    """Hears how the queue does; `telemetry.Queue` is one."""

    def queued(self, depth: int) -> None:
        """A key was added; so many are waiting now."""
        ...

    def taken(self, depth: int, *, waited: timedelta) -> None:
        """A key was taken, so long after it was due; so many are left."""
        ...

    def worked(self, took: timedelta) -> None:
        """A turn has ended."""
        ...

    def retried(self) -> None:
        """A turn failed and will be tried again."""
        ...


class Loop(Generic[Key]):
    """One queue of keys. `turn(key)` returns the seconds to its next turn, or None to forget it."""

    def __init__(
        self, turn: Callable[[Key], Awaitable[float | None]], *, random: Random, heed: Heed | None = None
    ) -> None:
        self._turn = turn
        self._random = random
        self._heed = heed
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._busy: dict[Key, asyncio.Task[None]] = {}
        self._again: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._last = False  # no key becomes due any more
        self._context = copy_context()  # whoever says that a key is due: what is logged of it is ours

    def due(self, key: Key, after: float = 0.0) -> None:
        """`key` has its turn within `after` seconds; right after the present one if it is busy."""
        if self._last:
            return
        if key in self._busy:
            self._again[key] = min(after, self._again.get(key, after))
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + after
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= when:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_at(when, self._start, key, context=self._context)
        if self._heed is not None and timer is None:
            self._heed.queued(len(self._timers))

    async def finish(self, keys: Iterable[Key]) -> None:
        """Turns that were running are over, each of `keys` has had one more, and no key has another."""
        self._stop()
        await asyncio.gather(*self._busy.values())
        for key in keys:
            self._busy[key] = asyncio.get_running_loop().create_task(self._run(key))
        await asyncio.gather(*self._busy.values())

    async def close(self) -> None:
        """No key has another turn; turns that were running are cancelled and over."""
        self._stop()
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self) -> None:
        self._last = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _start(self, key: Key) -> None:
        loop = asyncio.get_running_loop()
        late = loop.time() - self._timers.pop(key).when()
        if self._heed is not None:
            self._heed.taken(len(self._timers), waited=timedelta(seconds=late))
        self._busy[key] = loop.create_task(self._run(key))

    async def _run(self, key: Key) -> None:
        after: float | None = None
        began = asyncio.get_running_loop().time()
        try:
            after = await self._turn(key)
            self._failures.pop(key, None)
        except Exception as error:  # noqa: BLE001  one run's trouble must not stop the others
            after = self._wait_after_failure(key, error)
        finally:
            del self._busy[key]
        if self._heed is not None:
            self._heed.worked(timedelta(seconds=asyncio.get_running_loop().time() - began))
        again = self._again.pop(key, None)
        waits = [wait for wait in (after, again) if wait is not None]
        if waits:
            self.due(key, min(waits))

    def _wait_after_failure(self, key: Key, error: Exception) -> float:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        wait: float = min(FIRST_WAIT * 2.0 ** min(count - 1, 9), LAST_WAIT) * self._random.uniform(0.5, 1.5)
        if self._heed is not None:
            self._heed.retried()
        log.warning("turn_failed", key=key, error=repr(error), failures=count, wait_seconds=round(wait, 2))
        return wait
