"""Runs whose passes fall together have their evidence scored at once, at a fraction of the cost.

Nothing waits for company that is not on its way: what is asked for is scored as soon as no other pass waits
to begin, and that is at once while there are few runs. The more there are, the more fall together. Afterwards
a few go on in each round of the event loop (`controller.slices`).
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from analysis.abreast import updated
from analysis.evidence import Evidence
from controller.gather import Asked, Gathered, Scoring
from controller.slices import Slices

# Rounds of the event loop that passes which are asked for wait while others begin: then some sixty are scored
# together, at a fifth of the cost, and have waited for a quarter of a second.
PATIENCE = 16

Waiting = tuple[Sequence[Asked], asyncio.Future[list[Evidence]]]


class Rounds:
    """Goes through the rounds of any number of runs' scoring."""

    def __init__(self, slices: Slices | None = None) -> None:
        self._slices = slices or Slices()
        self._waiting: list[Waiting] = []
        self._patience = PATIENCE

    async def scored(self, steps: Scoring) -> Gathered:
        """What comes of one run's scoring; raises what that raises, and nothing of the others'."""
        try:
            asked = next(steps)
            while True:
                asked = steps.send(await self._updated(asked))
        except StopIteration as end:
            found: Gathered = end.value
            return found

    async def _updated(self, asked: Sequence[Asked]) -> list[Evidence]:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._turn)
        future: asyncio.Future[list[Evidence]] = loop.create_future()
        self._waiting.append((asked, future))
        return await future

    def _turn(self) -> None:
        if self._slices.beginning and self._patience:
            self._patience -= 1
            asyncio.get_running_loop().call_soon(self._turn)
            return
        self._patience = PATIENCE
        waiting, self._waiting = [each for each in self._waiting if not each[1].done()], []
        try:
            after = iter(updated([one for asked, _ in waiting for one in asked]))
            parts = [[next(after) for _ in asked] for asked, _ in waiting]
        except Exception:  # noqa: BLE001 - whosever it is, the others' is scored
            for asked, future in waiting:
                _alone(asked, future)
            return
        for (_, future), part in zip(waiting, parts, strict=True):
            self._slices.end(partial(_answer, future, part))


def _answer(future: asyncio.Future[list[Evidence]], part: list[Evidence]) -> None:
    if not future.done():
        future.set_result(part)


def _alone(asked: Sequence[Asked], future: asyncio.Future[list[Evidence]]) -> None:
    try:
        future.set_result(updated(asked))
    except Exception as error:  # noqa: BLE001 - it is raised in the pass that asked
        future.set_exception(error)
