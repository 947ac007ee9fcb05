"""Webhooks that are asked before traffic moves up: a task a run, and the newest answers in memory.

A pass never waits for one. A 2xx opens the gate; anything else, silence and a redirect too, leaves it shut
and is asked again. A webhook that is away keeps a canary where it is, and keeps nobody from rolling it back.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from controller import letters
from controller.gating import OPEN, Question, host, question
from controller.model import Gate, Run
from controller.posting import Key, Sender, Undelivered

log = structlog.get_logger(__name__)

EVERY = 10.0  # seconds between two questions to a webhook that is shut
PATIENCE = 10.0  # seconds for an answer


@dataclass(slots=True)
class _Asking:
    """One run's question, and what its webhooks said: `gating.OPEN`, or why they are shut."""

    question: Question
    task: asyncio.Task[None]
    said: dict[int, str] = field(default_factory=dict)


class Gates:
    """The webhooks of all runs of one leadership."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._asking: dict[str, _Asking] = {}
        self.on_news: Callable[[str], None] = lambda _: None

    def watch(self, run: Run) -> None:
        """From now on the webhooks before the run's next move are asked, if it waits for any."""
        name, asked = f"{run.plan.namespace}/{run.name}", question(run)
        known = self._asking.get(name)
        if known is not None and asked is not None and known.question.id == asked.id:
            return
        self.forget(name)
        if asked is not None:
            task = asyncio.get_running_loop().create_task(self._look(name), name=f"gates {name}")
            self._asking[name] = _Asking(asked, task)

    def read(self, run: str) -> Mapping[int, str]:
        """What the gates before the next move of the run (`namespace/name`) said, by place in the policy."""
        known = self._asking.get(run)
        return {} if known is None else known.said

    def forget(self, run: str) -> None:
        """Nobody is asked for this run any more."""
        known = self._asking.pop(run, None)
        if known is not None:
            known.task.cancel()

    async def close(self) -> None:
        """Nobody is asked any more."""
        tasks = [known.task for known in self._asking.values()]
        self._asking.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, name: str) -> None:
        """Asks until all are open."""
        await asyncio.sleep(0)  # until the run is in the list
        known = self._asking[name]
        while shut := [one for one in known.question.gates if known.said.get(one[0]) != OPEN]:
            await asyncio.gather(*(self._one(name, known, *one) for one in shut))
            self.on_news(name)
            await asyncio.sleep(EVERY)

    async def _one(self, name: str, known: _Asking, index: int, gate: Gate) -> None:
        """One question and its answer, or why there was none."""
        before = known.said.get(index)
        try:
            async with asyncio.timeout(PATIENCE), self._sender.turn("gates", known.question.namespace):
                known.said[index] = await self._answer(known.question, gate)
        except TimeoutError:
            known.said[index] = f"did not answer within {PATIENCE:g} s"
        except Undelivered as error:
            known.said[index] = f"cannot be asked: {error}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the gate stays shut and is asked again
            known.said[index] = f"cannot be asked ({type(error).__name__})"
        if known.said[index] != before:
            log.info("gate", run=name, host=host(gate.url), said=known.said[index] or "opened")

    async def _answer(self, asked: Question, gate: Gate) -> str:
        """`OPEN`, or why it is not."""
        key = None
        if gate.secret is not None:
            key = Key(namespace=asked.namespace, secret=gate.secret, key=gate.key)
        body = letters.asked(asked, at=self._sender.clock())
        status, _ = await self._sender.event(gate.url, body, event_id=asked.id, key=key)
        return OPEN if 200 <= status < 300 else f"keeps it shut (answered {status})"
