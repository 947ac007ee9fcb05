"""Runs whose passes fall together have their evidence scored at once, at a fraction of the cost.

Few runs wait for nobody: what is asked for is scored as soon as no other pass waits to begin. Among many each
waits a tenth of a second for company, since scored alone a hundred would fill half of what a thousand take
side by side. Who may be failing never waits: whose evidence is half way there says the caller, and whose
requests fail is seen here. Afterwards a few go on in each round of the event loop (`controller.slices`).
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial

from analysis.abreast import updated
from analysis.evidence import CheckKind, Evidence
from analysis.samples import Counts, Sample
from controller.gather import Asked, Gathered, Scoring
from controller.slices import Slices

# Rounds of the event loop that passes which are asked for wait while others begin: then some sixty are scored
# together, at a fifth of the cost, and have waited for a quarter of a second.
PATIENCE = 16
FEW = 20  # runs: each scored alone, they take a thirtieth of a core
COMPANY = 0.1  # seconds that a pass among more waits for others: a tenth of a tick
ENOUGH = 128  # waiting passes; more side by side are no cheaper
SOME = 3  # failed requests in a tick: fewer happen to healthy canaries all day

Waiting = tuple[Sequence[Asked], asyncio.Future[list[Evidence]]]


class Rounds:
    """Goes through the rounds of any number of runs' scoring."""

    def __init__(self, slices: Slices | None = None) -> None:
        self._slices = slices or Slices()
        self._waiting: list[Waiting] = []
        self._patience = PATIENCE
        self._timer: asyncio.TimerHandle | None = None

    def hasten(self) -> None:
        """What others' rounds of the event loop would take is little for a while."""
        self._slices.hasten()

    async def scored(self, steps: Scoring, *, among: int = 1) -> Gathered:
        """What comes of one run's scoring; raises what that raises, and nothing of the others'.

        `among` so many runs; of none: at once.
        """
        try:
            asked = next(steps)
            while True:
                wait = among and not any(_failing(*each) for each in asked)
                asked = steps.send(await self._updated(asked, among=among) if wait else updated(asked))
        except StopIteration as end:
            found: Gathered = end.value
            return found

    async def _updated(self, asked: Sequence[Asked], *, among: int) -> list[Evidence]:
        loop = asyncio.get_running_loop()
        if not self._waiting and among <= FEW:
            loop.call_soon(self._turn)
        elif not self._waiting:
            self._timer = loop.call_later(COMPANY, self._turn)
        future: asyncio.Future[list[Evidence]] = loop.create_future()
        self._waiting.append((asked, future))
        if len(self._waiting) == ENOUGH and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            loop.call_soon(self._turn)
        return await future

    def _turn(self) -> None:
        self._timer = None
        if self._slices.beginning and self._patience and len(self._waiting) < ENOUGH:
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


def _failing(evidence: Evidence, stable: Sample, canary: Sample) -> bool:
    """Whether more than twice as many of the canary's requests failed as of stable's."""
    if evidence.spec.kind is not CheckKind.ERROR_RATE:
        return False
    (n, k), (of_stable, failed) = _counted(canary), _counted(stable)
    return k >= SOME and k * (of_stable + 1) > 2 * (failed + 1) * n


def _counted(arm: Sample) -> tuple[int, int]:
    counts: Iterable[Counts] = (pod.value for pod in arm.pods if isinstance(pod.value, Counts))
    total = sum(counts, Counts(0, 0))
    return total.n, total.k
