"""The controller's replicas in virtual time: processes that are started, frozen and killed.

They run the same code as in a cluster. What one of them asks of the API server goes over a wire, so
that it is done even if the asking process is dead by then.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from dataclasses import replace
from datetime import timedelta
from random import Random

from controller.operate import Operator
from controller.ports import Answer, Outside, Transport
from controller.settings import Settings
from scenarios.plot import TargetFault
from scenarios.virtual.loop import Process
from scenarios.virtual.prometheus import EVERY

LEASES = "serin-system"  # where the replicas' Leases are


class Wire:
    """A `ports.Transport` that leaves the process: what a request sets off does not die with its sender."""

    def __init__(self, beyond: Transport) -> None:
        self._beyond = beyond
        self._elsewhere = copy_context()

    @contextlib.asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> AsyncIterator[Answer]:
        """The answer to one request, worked out beyond the wire."""
        asking = self._beyond.request(method, path, query=query, headers=headers, body=body)
        loop = asyncio.get_running_loop()
        entering = loop.create_task(_entered(asking), context=self._elsewhere.copy())
        try:
            yield await entering
        finally:  # also of who is cancelled while the answer is on its way to it
            if entering.done() and not entering.cancelled() and entering.exception() is None:
                await asking.__aexit__(None, None, None)


async def _entered(asking: AbstractAsyncContextManager[Answer]) -> Answer:
    return await asking.__aenter__()


class Controllers:
    """The replicas of the controller: which leads, who is dead, and the next life of each."""

    def __init__(
        self,
        outside: Callable[[str], Outside],
        *,
        seed: int,
        leader: Callable[[], str],
        shadow_url: str | None = None,
        shards: Sequence[int] = (1,),
        operator: type[Operator] = Operator,
        prometheus_url: str | None = None,
    ) -> None:
        """`shards`: how many the first replica counts, the second, and so on; then again from the first."""
        self._outside = outside  # of a replica, by its name
        self._chance = Random(seed)
        self._leader = leader
        self._operator = operator
        self._settings = Settings(lease_namespace=LEASES, shadow_url=shadow_url)
        if prometheus_url is not None:
            often = timedelta(seconds=EVERY)
            self._settings = replace(self._settings, prometheus_url=prometheus_url, prometheus_interval=often)
        self._shards = shards
        self._lives: dict[str, tuple[Process, asyncio.Event]] = {}
        self._dead: list[Process] = []
        self._count = 0
        self._hit: dict[int, str] = {}  # by the fault's identity: whom it hit

    def start(self) -> None:
        """One more replica runs."""
        self._count += 1
        name = f"serin-{self._count}"
        shards = self._shards[(self._count - 1) % len(self._shards)]
        settings = replace(self._settings, identity=name, shards=shards)
        chance = Random(self._chance.random())
        process, stop = Process(name), asyncio.Event()
        process.start(self._operator(settings, self._outside(name), chance=chance).operate(stop))
        self._lives[name] = process, stop

    def begin(self, fault: TargetFault) -> None:
        """The leader, or else the first of them, is killed or frozen."""
        name = self._leader() if self._leader() in self._lives else next(iter(self._lives), "")
        self._hit[id(fault)] = name
        if not name:  # all are dead already
            return
        (self.freeze if fault.kind == "freeze" else self.kill)(name)

    def freeze(self, name: str) -> bool:
        """The replica runs nothing until it is thawed; False if there is none of that name."""
        process, _ = self._lives.get(name, (None, None))
        if process is not None:
            process.freeze()
        return process is not None

    def thaw(self, name: str) -> None:
        """It goes on, unless it was killed meanwhile."""
        process, _ = self._lives.get(name, (None, None))
        if process is not None and process.stopped:
            process.thaw()

    def kill(self, name: str) -> bool:
        """The replica runs nothing any more; False if there is none of that name."""
        process, _ = self._lives.pop(name, (None, None))
        if process is None:
            return False
        process.kill()
        self._dead.append(process)
        return True

    @property
    def well(self) -> bool:
        """Whether some replica is there, and none is frozen."""
        return bool(self._lives) and not any(process.stopped for process, _ in self._lives.values())

    def end(self, fault: TargetFault) -> None:
        """What was frozen goes on; in place of what was killed another starts."""
        if fault.kind == "freeze":
            self.thaw(self._hit[id(fault)])
        else:
            self.start()

    async def stop(self) -> None:
        """All of them have ended as on SIGTERM, and the dead are cleared away."""
        for process, stop in self._lives.values():
            stop.set()
            process.thaw()
        alive = [task for process, _ in self._lives.values() for task in process.tasks]
        if alive:
            await asyncio.wait(alive, timeout=30)
        for process in (*self._dead, *(process for process, _ in self._lives.values())):
            await process.bury()

    def check(self) -> None:
        """Raises what a replica ended from, if one did: a story must not outlive its controller unseen."""
        for name, (process, _) in self._lives.items():
            if not process.tasks:
                raise RuntimeError(f"controller {name} ended by itself") from process.trouble
