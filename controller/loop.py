"""Keys with due times: each is given its turn when it is due, and never two turns at once.

Asking again for a key moves its time forward, never back. A turn that raises is tried again later
and later; what it was about is level-triggered, so nothing is lost by the wait.

Where more is due than can be done, few turns begin in each round of the event loop (`controller.slices`):
a Lease is renewed and a weight patched meanwhile. Who is urgent comes first, then who was due first, so that
all are late alike.
"""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextvars import copy_context
from datetime import timedelta
from random import Random
from typing import Generic, Protocol, TypeVar

import structlog

from controller.slices import Slices

log = structlog.get_logger(__name__)

# Waits after failed turns, seconds: the first hardly felt, the last bounded, so that a run whose API
# server is back is looked at within seconds.
FIRST_WAIT, LAST_WAIT = 0.2, 5.0

Key = TypeVar("Key", bound=Hashable)


class Heed(Protocol):
    """Hears how the queue does; `telemetry.Queue` is one."""

    def queued(self, depth: int) -> None:
        """A key's time has come; so many wait for their turn now."""
        ...

    def taken(self, depth: int, *, waited: timedelta) -> None:
        """A key was taken, so long after it was due; so many wait still."""
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
        self,
        turn: Callable[[Key], Awaitable[float | None]],
        *,
        random: Random,
        heed: Heed | None = None,
        urgent: Callable[[Key], bool] = lambda _key: False,
        slices: Slices | None = None,
    ) -> None:
        self._turn = turn
        self._random = random
        self._heed = heed
        self._urgent = urgent
        self._slices = slices or Slices()
        self._waiting: dict[Key, tuple[bool, float]] = {}  # whose time has come: not urgent, and since when
        self._order: list[tuple[bool, float, int, Key]] = []  # a heap of them; some may be out of date
        self._count = 0
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._busy: dict[Key, asyncio.Task[None]] = {}
        self._again: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._over = False  # no key becomes due any more
        self._context = copy_context()  # whoever says that a key is due: what is logged of it is ours

    def due(self, key: Key, after: float = 0.0) -> None:
        """`key` has its turn within `after` seconds; right after the present one if it is busy."""
        if self._over:
            return
        if key in self._busy:
            self._again[key] = min(after, self._again.get(key, after))
            return
        if key in self._waiting:
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + after
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= when:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_at(when, self._start, key, context=self._context)

    def hurry(self, key: Key) -> None:
        """`key` has its turn before all that are not urgent."""
        if self._over:
            return
        self.due(key)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key not in self._busy:
            _, since = self._waiting.get(key, (True, asyncio.get_running_loop().time()))
            self._wait(key, since, urgent=True)

    @property
    def crowded(self) -> bool:
        """Whether there are keys whose time has come and whose turn has not."""
        return bool(self._waiting)

    def overdue(self, key: Key) -> float:
        """Seconds since the key's time has come; 0 unless its turn is still to begin."""
        waiting = self._waiting.get(key)
        return 0.0 if waiting is None else asyncio.get_running_loop().time() - waiting[1]

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
        self._over = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._waiting.clear()
        self._order.clear()

    def _start(self, key: Key) -> None:
        self._wait(key, self._timers.pop(key).when(), urgent=self._urgent(key))

    def _wait(self, key: Key, since: float, *, urgent: bool) -> None:
        if not self._waiting:
            self._slices.begin(self._begin)
        new = key not in self._waiting
        self._waiting[key] = place = not urgent, since
        if self._heed is not None and new:
            self._heed.queued(len(self._waiting))
        self._count += 1
        heapq.heappush(self._order, (*place, self._count, key))

    def _begin(self) -> None:
        """The first of those that wait has begun; the next one waits for another slice."""
        loop = asyncio.get_running_loop()
        while self._order:
            late, since, _, key = heapq.heappop(self._order)
            if self._waiting.get(key) != (late, since):
                continue  # it was hurried, and has begun
            del self._waiting[key]
            if self._heed is not None:
                self._heed.taken(len(self._waiting), waited=timedelta(seconds=loop.time() - since))
            self._busy[key] = loop.create_task(self._run(key), context=self._context.copy())
            break
        if self._waiting:
            self._slices.begin(self._begin)

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
