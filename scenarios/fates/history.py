"""One history: the story is played with its fate upon it, and watched."""

import asyncio
import contextlib
import gc
import logging
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any
from urllib.parse import urlsplit

import structlog

from controller.ports import Outside
from scenarios.cluster.refusals import Refused
from scenarios.fates import policies
from scenarios.fates.between import Late
from scenarios.fates.clocks import skewed
from scenarios.fates.fate import COMMANDS, Ail, Command, Crash, Fate, Taken
from scenarios.fates.hindrance import AGENT, Hindered
from scenarios.fates.others import Others
from scenarios.fates.said import held
from scenarios.fates.spells import BOUND, CALM
from scenarios.fates.witness import Witness
from scenarios.objects import CONTROLLER, NAMESPACE
from scenarios.people import NotDone
from scenarios.play import LOOK, Report, Theatre, silent
from scenarios.plot import Arm, Target
from scenarios.result import ended
from scenarios.virtual.loop import run_virtual, virtual_loop
from scenarios.virtual.prometheus import VirtualPrometheus
from scenarios.virtual.replicas import Wire

Json = Any
Send = Callable[[], Awaitable[None]]  # a write arrives


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
        return _ended(fate, report, complaints)  # whose world is gone when garbage is collected


def _ended(fate: Fate, report: Report, complaints: list[str]) -> History:
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
        self.fate, self.shards = fate, fate.shards
        self._crashes = {(one.of, one.write): one for one in fate.crashes}
        self._writes: Counter[str] = Counter()
        self._crashed: asyncio.Queue[tuple[str, Crash, Send]] = asyncio.Queue()
        self.prometheus = self._prometheus() if fate.queried else None
        self._away: list[Taken] = []  # rights that are taken away now
        self._rules: dict[tuple[str, str, str], Json] = {}  # of the roles that rights were taken from
        super().__init__(fate.story, report=report)
        self.others = self._others()
        self.witness = Witness(
            fate,
            clock=lambda: self.now,
            served=self._served,
            drawn=lambda: self.traffic.truth.canary,
        )
        server = self.world.server
        answer = server.answer

        def signed(request: Any) -> Any:
            self.witness.author = request.headers.get(AGENT, "")
            try:
                return answer(request)
            finally:
                self.witness.author = ""

        server.answer = signed  # type: ignore[method-assign]
        self.world.on_change(self._witnessed)

    def _others(self) -> Others | None:
        between = self.fate.moments
        if between is None:
            return None
        others = Others(between, self.world, pages=self.pods.pages, say=self._say)
        self.world.on_change(lambda _kind, resource, obj: others.hear(resource, obj))
        return others

    @property
    def _late(self) -> Sequence[Late]:
        return () if self.fate.moments is None else self.fate.moments.late

    async def _set_up(self) -> None:
        await super()._set_up()
        if self.others is not None:
            self.others.furnish()

    def _witnessed(self, kind: str, resource: str, obj: Json) -> None:
        """A mistake of the witness is told as one, and is not the API server's."""
        try:
            self.witness.changed(kind, resource, obj)
        except Exception:  # noqa: BLE001 (whatever it is)
            self.witness.breaks(f"the witness is at a loss: {traceback.format_exc()}")

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
            anew=fate.anew,
            crashes=self._crashes,
            writes=self._writes,
            chance=Random(f"way {fate.seed} {replica}"),
            clock=since,
            end=partial(self._end, replica),
            meddle=self._meddle,
            late=[one for one in self._late if one.replica in {None, number}],
            others=self.others,
        )
        skew = fate.skews[number] if number < len(fate.skews) else None
        there = super().outside(replica)

        return replace(
            there,
            transport=way,
            fetch=self._fetch,
            post=self._post,
            clock=skewed(there.clock, since, skew),
        )

    async def _fetch(self, url: str, *, accept: str, limit: int) -> tuple[str, bytes]:
        page = await self.pods.fetch(url, accept=accept, limit=limit)
        host = urlsplit(url).hostname
        if any(life.ip == host for life in self.pods.lives.values() if life.pod.arm is Arm.CANARY):
            self.witness.read()
        return page

    async def _post(
        self, url: str, body: bytes, *, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str]]:
        """What receivers of alerts answer, and the webhooks before a move: no, until it is time for a yes."""
        answer = await self.receiver(url, body, headers=headers)
        if url != policies.GATE:
            return answer
        if self.now < self.fate.opens:
            return 403, {}
        self.witness.opened(headers["webhook-id"])
        return answer

    def _prometheus(self) -> VirtualPrometheus:
        return VirtualPrometheus(
            self._fetch,
            pods=lambda: {name: life.ip for name, life in self.pods.lives.items()},
            namespace=NAMESPACE,
            clock=virtual_loop().now,
            away=lambda: "hang" in self.pods.pages,
        )

    def _end(self, replica: str, crash: Crash, send: Send) -> None:
        if self.controllers.freeze(replica) if crash.frozen else self.controllers.kill(replica):
            self._say(f"{replica} is {'frozen' if crash.frozen else 'killed'}")
            self.witness.hindered = self.witness.impeded = self.now
            self._crashed.put_nowait((replica, crash, send))

    def _meddle(self, kind: str, write: int) -> None:
        for one in self.fate.meddlings:
            if (one.of, one.write) == (kind, write):
                plural, name, merge = one.merge
                names = [name] if name else [run["metadata"]["name"] for run in self._runs()]
                self._say(str(one))
                for each in names:
                    with contextlib.suppress(Refused):  # it is gone
                        if merge is None:
                            self.world.delete(plural, NAMESPACE, each)
                        else:
                            self.world.patch(plural, NAMESPACE, each, merge)

    async def _happen(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(super()._happen())
            group.create_task(self._revive())
            group.create_task(self._watch())
            if self.others is not None:
                group.create_task(self.others.act())
            if self.prometheus is not None:
                group.create_task(self.prometheus.scrape())
            for command in self.fate.commands:
                group.create_task(self._commanded(command))
            for taken in self.fate.taken:
                group.create_task(self._denied(taken))

    async def _denied(self, taken: Taken) -> None:
        """The right is away for as long as its time is."""
        await asyncio.sleep(max(0.0, taken.at - self.now))
        self._away.append(taken)
        self._granted(taken.role)
        await asyncio.sleep(taken.until - self.now)
        self._away.remove(taken)
        self._granted(taken.role)

    def _granted(self, role: tuple[str, str, str]) -> None:
        """The role grants what it did, without what is taken away now."""
        plural, namespace, name = role
        there: Json = self.world.get(plural, namespace, name)
        rules = self._rules.setdefault(role, there["rules"])
        for one in self._away:
            rules = _without(rules, one) if one.role == role else rules
        self._say(
            f"{name} is without {', '.join(f'{one.verb} {one.resource}' for one in self._away) or 'nothing'}"
        )
        self.world.patch(plural, namespace, name, {"rules": rules})

    async def _revive(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._back(*await self._crashed.get()))

    async def _back(self, replica: str, crash: Crash, send: Send) -> None:
        await asyncio.sleep(crash.back)
        if crash.frozen:
            if not crash.done:
                with contextlib.suppress(OSError):
                    await send()
            self._say(f"{replica} goes on")
            self.controllers.thaw(replica)
        else:
            self.controllers.start()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            ready = sum(life.ready for life in self.pods.lives.values() if life.pod.arm is Arm.STABLE)
            self.witness.look(hindered=self._hindered(), impeded=self._impeded(), stable_ready=ready)

    def _hindered(self) -> bool:
        """Whether the controller hears late of something, or is not heard by those whom it tells."""
        late = self._within(self.fate.ails) or self._within(self.fate.taken) or self._lags()
        return late or bool(self.pods.pages or self.receiver.faults)

    def _lags(self) -> bool:
        return any(self.now < one.until + one.by for one in self._late)

    def _within(self, spells: Sequence[Ail | Taken]) -> bool:
        return any(one.at <= self.now < one.until + 1 for one in spells)

    def _impeded(self) -> bool:
        """Whether what the controller writes may not be done."""
        now = self.now
        ails = [one for one in self.fate.ails if one.kind not in {"stale", "expired"}]
        if self._within(ails) or self._within(self.fate.taken) or not self.controllers.well:
            return True
        if self.others is not None and self.others.busy:
            return True
        spells = [
            (one.at.total_seconds(), one.lasting)
            for one in self.story.target_faults
            if one.target in {Target.API_SERVER, Target.CONTROLLER}
        ]
        return any(
            at <= now < at + (lasting.total_seconds() if lasting else 1e9) + 1 for at, lasting in spells
        )

    def _at_rest(self, runs: list[Json]) -> bool:
        if self.witness.broken:
            return True
        if not self.controllers.well:  # who is frozen may be about to write
            return False
        late = self.now > CALM + BOUND  # nobody comes any more for whom a run is held, or who makes another
        if late:
            return not self.witness.uneasy and all(ended(run) or held(run) for run in runs)
        return bool(runs) and all(ended(run) and not run["status"].get("outbox") for run in runs)

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
        self.witness.notary.end(self.receiver.received)


def _without(rules: Json, taken: Taken) -> Json:
    """The rules without this right; those that held it keep the rest of theirs."""
    return [
        rule | {"verbs": [verb for verb in rule["verbs"] if verb != taken.verb]}
        if taken.resource in rule["resources"]
        else rule
        for rule in rules
    ]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage is collected meanwhile: what that ends would end at another moment each time.

    Afterwards only what was made meanwhile is looked at, not all that was imported.
    """
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
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
