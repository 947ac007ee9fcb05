"""A watch whose events come some time after they have happened."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from controller.ports import Answer

Line = tuple[float, bytes | OSError | None]  # when it came; None: there are no more


class Lagging:
    """A `ports.Answer` whose lines come as late as `late` says in seconds at the time, in their order."""

    def __init__(self, answer: Answer, *, late: Callable[[], float], clock: Callable[[], float]) -> None:
        self._answer = answer
        self._late = late
        self._clock = clock
        self._came: asyncio.Queue[Line] = asyncio.Queue()
        self._taking: asyncio.Task[None] | None = None
        self.status = answer.status
        self.headers = answer.headers

    async def read(self) -> bytes:
        """The whole body; only watches are late."""
        return await self._answer.read()

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines, and what broke the connection, when they are due."""
        self._taking = asyncio.create_task(self._take(), name="a watch that is late")
        while True:
            at, line = await self._came.get()
            if (left := at + self._late() - self._clock()) > 0:
                await asyncio.sleep(left)
            if line is None:
                return
            if isinstance(line, OSError):
                raise line
            yield line

    async def _take(self) -> None:
        last: OSError | None = None
        try:
            async for line in self._answer.lines():
                self._came.put_nowait((self._clock(), line))
        except OSError as error:
            last = error
        self._came.put_nowait((self._clock(), last))

    async def end(self) -> None:
        """Nobody takes lines any more."""
        if self._taking is not None:
            self._taking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._taking


@asynccontextmanager
async def lagging(
    answer: Answer, *, late: Callable[[], float], clock: Callable[[], float]
) -> AsyncIterator[Answer]:
    """The answer whose lines lag."""
    found = Lagging(answer, late=late, clock=clock)
    try:
        yield found
    finally:
        await found.end()
