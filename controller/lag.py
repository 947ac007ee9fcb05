"""How late ticks are: from when a run's pages were due to the end of the pass that acted on them.

A controller that has more runs than its core can look at looks at each less often; counters are cumulative,
so a tick that was missed is part of the next one and no evidence is lost. What is lost is time, and people
are told.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from controller.cluster import Key

log = structlog.get_logger(__name__)

LATE = 1.0  # seconds: a whole tick of the usual length
TOLD = 60.0  # seconds from one line in the log to the next, while ticks are late


class Lags:
    """Measures the turns of a `controller.loop.Loop`; `heed` hears each tick's lag.

    `began` hears how much of it was ours: not how long the pods took for their pages, nor the turn itself.
    """

    def __init__(
        self,
        turn: Callable[[Key], Awaitable[float | None]],
        heed: Callable[[timedelta], None],
        *,
        began: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._turn = turn
        self._heed = heed
        self._began = began
        self._owed: dict[Key, float] = {}
        self._here: dict[Key, float] = {}  # since when there is something to look at
        self._late: list[float] = []
        self._told: float | None = None

    def news(self, key: Key, due: float, *, late: float = 0.0) -> None:
        """The run's pages are there, which were `due` at that time of the loop and asked for so late."""
        self._owed.setdefault(key, due)
        self._here.setdefault(key, asyncio.get_running_loop().time() - late)

    async def turn(self, key: Key) -> float | None:
        """One turn; what had come when it began has been acted on when it ends."""
        due = self._owed.pop(key, None)
        if due is not None:
            self._began(asyncio.get_running_loop().time() - self._here.pop(key))
        after = await self._turn(key)
        if due is not None:
            self._took(asyncio.get_running_loop().time() - due)
        return after

    def _took(self, lag: float) -> None:
        self._heed(timedelta(seconds=lag))
        if lag <= LATE:
            return
        self._late.append(lag)
        now = asyncio.get_running_loop().time()
        if self._told is None or now - self._told >= TOLD:
            log.warning("ticks_late", count=len(self._late), worst_seconds=round(max(self._late), 2))
            self._told, self._late = now, []
