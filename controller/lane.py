"""Calls to the API server that are under way at once: fewer after a slow answer, more after quick ones.

Who is slow is not helped by more to do, and the Lease's renewal would wait behind all of it.
"""

import asyncio
from collections import deque
from typing import Any

CONCURRENCY = 20  # of the pool's 100 connections; the rest are for watches and urgent calls
LEAST = 4  # a server that is far away is slow whatever is asked of it
SLOW = 1.0  # seconds of a call: twice a loaded API server's p99, half of what a renewal of the Lease may take


class Lane:
    """`async with` it: so many are under way at once."""

    def __init__(self) -> None:
        self._most = CONCURRENCY
        self._busy = 0
        self._halved = 0.0  # loop time
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._began: dict[asyncio.Task[Any] | None, float] = {}

    async def __aenter__(self) -> None:
        """One of so many."""
        if self._busy >= self._most or self._waiting:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()  # it was our turn, and is not any more
                raise
        else:
            self._busy += 1
        self._began[asyncio.current_task()] = asyncio.get_running_loop().time()

    async def __aexit__(self, *_: object) -> None:
        """How long it took says how many may follow."""
        now = asyncio.get_running_loop().time()
        began = self._began.pop(asyncio.current_task())
        if now - began <= SLOW:
            self._most = min(CONCURRENCY, self._most + 1)
        elif began >= self._halved:  # once for all that were under way together
            self._most, self._halved = max(LEAST, self._most // 2), now
        self._leave()

    def _leave(self) -> None:
        self._busy -= 1
        while self._waiting and self._busy < self._most:
            turn = self._waiting.popleft()
            if not turn.done():
                self._busy += 1
                turn.set_result(None)
