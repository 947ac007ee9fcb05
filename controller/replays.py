"""What the shadow worker knows, asked over HTTP: a task a run, and the newest answer in memory.

A pass never waits for it. A worker that is gone, slow or talks nonsense leaves a run without an answer,
and costs nothing else.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from analysis.judge import Verdict
from controller.model import Replayed
from controller.ports import Ask, Json
from controller.shadow import understood

log = structlog.get_logger(__name__)

EVERY = 1.0  # seconds between two questions
PATIENCE = 2.0  # seconds for an answer
STALE = 10.0  # seconds: an answer that is older says nothing of now


@dataclass(slots=True)
class _Asking:
    """One run's question, and what came of it."""

    question: Json
    task: asyncio.Task[None]
    answered: float  # loop time of the last answer, or of the beginning
    heard: float  # ... of the last one that said anything
    said: Replayed | None = None
    trouble: str = ""


class Replays:
    """`ports.ShadowSource` on a worker at `url`."""

    def __init__(self, ask: Ask, url: str) -> None:
        self._ask = ask
        self._url = url.rstrip("/")
        self._asking: dict[str, _Asking] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self.on_news: Callable[[str], None] = lambda _: None

    def watch(self, run: str, question: Json | None) -> None:
        """From now on the worker is asked this for the run (`namespace/name`); None ends it."""
        known = self._asking.get(run)
        if known is not None and known.question == question:
            return
        if known is not None:
            known.task.cancel()
            del self._asking[run]
        if known is not None and question is None:
            self._errand(self._forget(run))
        if question is not None:
            now = asyncio.get_running_loop().time()
            task = asyncio.get_running_loop().create_task(self._look(run), name=f"shadow {run}")
            self._asking[run] = _Asking(question, task, now, now)

    def read(self, run: str) -> Replayed | None:
        """The newest answer to the run's question; None if there is none, or none of late."""
        known = self._asking.get(run)
        if known is None or asyncio.get_running_loop().time() - known.answered > STALE:
            return None
        return known.said

    def silent(self, run: str) -> timedelta:
        """How long ago the last answer that says anything came, or how long one has been waited for."""
        known = self._asking.get(run)
        since = 0.0 if known is None else asyncio.get_running_loop().time() - known.heard
        return timedelta(seconds=since)

    def trouble(self, run: str) -> str:
        """Why there is no answer; empty if there is one."""
        known = self._asking.get(run)
        return "" if known is None else known.trouble

    async def close(self) -> None:
        """Nobody is asked any more."""
        tasks = [known.task for known in self._asking.values()] + list(self._errands)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._asking.clear()

    async def _look(self, run: str) -> None:
        """Asks for ever."""
        await asyncio.sleep(0)  # until the run is in the list
        known = self._asking[run]
        while True:
            before, trouble = known.said, known.trouble
            await self._one(run, known)
            if known.trouble and known.trouble != trouble:
                log.warning("shadow_not_answered", run=run, why=known.trouble)
            if known.said is not None and (before is None or before.verdict is not known.said.verdict):
                self.on_news(run)
            await asyncio.sleep(EVERY)

    async def _one(self, run: str, known: _Asking) -> None:
        """One question and its answer, or why there was none."""
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._ask("PUT", self._where(run), json.dumps(known.question).encode())
            known.said, known.trouble = _said(*answer, known.question), ""
        except TimeoutError:
            known.trouble = f"the worker at {self._url} did not answer within {PATIENCE:g} s"
        except OSError as error:
            kind = type(error.__cause__ or error).__name__
            known.trouble = (
                f"the worker at {self._url} cannot be reached ({kind}); see whether its pod is ready"
            )
        except ValueError as error:
            known.trouble = str(error)
        else:
            known.answered = asyncio.get_running_loop().time()
            if known.said.verdict is not Verdict.NO_DATA:
                known.heard = known.answered

    async def _forget(self, run: str) -> None:
        """The worker is told that nobody will ask again; it would find out by itself in a minute."""
        with suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._ask("DELETE", self._where(run), b"")

    def _where(self, run: str) -> str:
        return f"{self._url}/v1/shadows/{run}"

    def _errand(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)


def _said(status: int, body: bytes, question: Json) -> Replayed:
    if status != 200:
        raise ValueError(f"the worker answered {status}: {body[:200].decode(errors='replace')}")
    return understood(body, question)
