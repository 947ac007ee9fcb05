"""One history: the story is played with its fate upon it, and watched."""

import asyncio
import contextlib
import gc
import logging
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from urllib.parse import urlsplit

import structlog

from controller.ports import Outside
from scenarios.fates.fate import COMMANDS, Command, Crash, Fate
from scenarios.fates.hindrance import AGENT, Hindered, skewed
from scenarios.fates.witness import Witness
from scenarios.objects import CONTROLLER, NAMESPACE
from scenarios.people import NotDone
from scenarios.play import LOOK, Report, Theatre, silent
from scenarios.plot import Arm, Target
from scenarios.virtual.loop import run_virtual
from scenarios.virtual.replicas import Wire

Json = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What became of a fate."""

    fate: Fate
    outcome: str  # how the first run stands at the end
    reason: str | None
    broken: tuple[str, ...]


def history(fate: Fate, *, report: Report = silent) -> History:
    """The history of this fate, from its beginning to its end."""
    complaints: list[str] = []
    with _listening(complaints), _uncollected():
        theatre, left = run_virtual(_played(fate, report, complaints))
    played = theatre.played
    broken = (*theatre.witness.broken, *complaints, *(f"a task is left: {name}" for name in left))
    return History(fate=fate, outcome=str(played.outcome), reason=played.reason, broken=broken)


async def _played(fate: Fate, report: Report, complaints: list[str]) -> tuple["Fated", list[str]]:
    def complain(_loop: Any, context: dict[str, Any]) -> None:
        complaints.append(f"{context['message']}: {context.get('exception')!r}")

    asyncio.get_running_loop().set_exception_handler(complain)
    theatre = Fated(fate, report=report)
    await theatre.through()
    left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    return theatre, left


class Fated(Theatre):
    """A theatre in which the replicas' connections, clocks and lives are the fate's."""

    def __init__(self, fate: Fate, *, report: Report) -> None:
        self.fate = fate
        self._crashes = {(one.of, one.write): one for one in fate.crashes}
        self._writes: Counter[str] = Counter()
        self._crashed: asyncio.Queue[tuple[str, Crash]] = asyncio.Queue()
        super().__init__(fate.story, report=report)
        self.witness = Witness(fate, clock=lambda: self.now, served=self._served)
        server = self.world.server
        answer = server.answer

        def signed(request: Any) -> Any:
            self.witness.author = request.headers.get(AGENT, "")
            try:
                return answer(request)
            finally:
                self.witness.author = ""

        server.answer = signed  # type: ignore[method-assign]
        self.world.on_change(self.witness.changed)

    def _served(self) -> int:
        self.traffic.advance()
        return self.traffic.truth.canary

    def outside(self, replica: str) -> Outside:
        """What the replica is connected to, hindered as its fate is."""
        number = int(replica.rpartition("-")[2]) - 1
        fate, since = self.fate, lambda: self.now
        way = Hindered(
            Wire(self.world.transport(CONTROLLER)),
            replica,
            ails=[one for one in fate.ails if one.replica in {None, number}],
            crashes=self._crashes,
            writes=self._writes,
            chance=Random(f"way {fate.seed} {replica}"),
            clock=since,
            end=lambda crash: self._end(replica, crash),
        )
        skew = fate.skews[number] if number < len(fate.skews) else None
        there = super().outside(replica)

        async def fetch(url: str, *, accept: str, limit: int) -> tuple[str, bytes]:
            page = await there.fetch(url, accept=accept, limit=limit)
            host = urlsplit(url).hostname
            if any(life.ip == host for life in self.pods.lives.values() if life.pod.arm is Arm.CANARY):
                self.witness.read()
            return page

        return replace(there, transport=way, fetch=fetch, clock=skewed(there.clock, since, skew))

    def _end(self, replica: str, crash: Crash) -> None:
        if self.controllers.freeze(replica) if crash.frozen else self.controllers.kill(replica):
            self._say(f"{replica} is {'frozen' if crash.frozen else 'killed'}")
            self.witness.hindered = self.now
            self._crashed.put_nowait((replica, crash))

    async def _happen(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(super()._happen())
            group.create_task(self._revive())
            group.create_task(self._watch())
            for command in self.fate.commands:
                group.create_task(self._commanded(command))

    async def _revive(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._back(*await self._crashed.get()))

    async def _back(self, replica: str, crash: Crash) -> None:
        await asyncio.sleep(crash.back)
        if crash.frozen:
            self._say(f"{replica} goes on")
            self.controllers.thaw(replica)
        else:
            self.controllers.start()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            ready = sum(life.ready for life in self.pods.lives.values() if life.pod.arm is Arm.STABLE)
            self.witness.look(hindered=self._hindered(), stable_ready=ready)

    def _hindered(self) -> bool:
        now = self.now
        if any(one.at <= now < one.until + 1 for one in self.fate.ails) or not self.controllers.well:
            return True
        if self.pods.pages or self.receiver.faults:
            return True
        spells = [
            (one.at.total_seconds(), one.lasting)
            for one in self.story.target_faults
            if one.target in {Target.API_SERVER, Target.CONTROLLER}
        ]
        return any(
            at <= now < at + (lasting.total_seconds() if lasting else 1e9) + 1 for at, lasting in spells
        )

    async def _commanded(self, command: Command) -> None:
        await asyncio.sleep(max(0.0, command.at - self.now))
        merge = COMMANDS[command.what]
        for run in self.world.objects("canaryruns", NAMESPACE):
            name = run["metadata"]["name"]
            self._say(f"somebody says {command.what} to {name}")
            with contextlib.suppress(NotDone, OSError):
                if merge is None:
                    await self.people.delete("CanaryRun", name)
                else:
                    await self.people.patch("CanaryRun", name, merge)

    async def through(self) -> None:
        """The story is played to its end; what is owed by then is asked for."""
        await super().through()
        self.witness.end(self.receiver.received)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage is collected meanwhile: what that ends would end at another moment each time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _listening(complaints: list[str]) -> Iterator[None]:
    """What the controller logs as an error, or with a traceback, is a complaint; the rest is dropped."""

    def heard(_logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if method in {"error", "critical", "exception"} or event.get("exc_info"):
            complaints.append(_complaint(event))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[heard], cache_logger_on_first_use=False)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        structlog.configure(**before)


def _complaint(event: structlog.typing.EventDict) -> str:
    said = {name: value for name, value in event.items() if name not in {"event", "exc_info"}}
    trace = traceback.format_exc() if event.get("exc_info") else ""
    return f"logged {event.get('event')}: {said}\n{trace}".rstrip()
