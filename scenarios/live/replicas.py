"""The real controller as processes of its own: `serin controller`, one replica or more.

Each may have a wire of its own to the API server, which can be cut while the other's works.
"""

import asyncio
import contextlib
import signal
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from scenarios.live import processes

CUTS = {"stall": signal.SIGSTOP, "refuse": signal.SIGKILL, "lose": signal.SIGUSR1}
SERIN = "from controller.cli import main; main()"  # the console script, installed or not


class NotReady(RuntimeError):
    """A replica ended before it was ready; the text is what it said last."""


@dataclass(slots=True)
class Wire:
    """What carries a replica's words to the API server: see `scenarios.live.wire`."""

    port: int
    beyond: int
    log: Path
    process: Process | None = None
    cut: str = ""  # how, while it is

    async def start(self) -> None:
        """It carries."""
        argv = ("-m", "scenarios.live.wire", str(self.port), str(self.beyond))
        self.process = await processes.python(*argv, log=self.log)
        while not await self._carries():  # noqa: ASYNC110 - nobody here can tell
            await asyncio.sleep(0.02)

    def strike(self, how: str) -> None:
        """Nothing arrives: it is frozen (`stall`), dead (`refuse`), or swallows everything (`lose`)."""
        self.cut = how
        if self.process is not None:
            processes.tell(self.process, CUTS[how])

    async def mend(self) -> None:
        """It carries again; what was on a frozen one arrives now."""
        how, self.cut = self.cut, ""
        if how == "refuse":
            await self.start()
        elif how and self.process is not None:
            processes.tell(self.process, signal.SIGCONT if how == "stall" else signal.SIGUSR2)

    async def _carries(self) -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            return True
        return False


@dataclass(slots=True)
class Replica:
    """One controller process."""

    name: str
    argv: tuple[str, ...]
    log: Path
    url: str
    wire: "Wire | None" = None
    process: Process | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there, frozen or not."""
        return self.process is not None and self.process.returncode is None


class Replicas:
    """All of them; `leader` names the one that holds the Lease."""

    def __init__(
        self,
        count: int,
        *,
        kubeconfig: Path,
        lease_namespace: str,
        leader: Callable[[], str],
        flags: Mapping[str, str],
        server: int | None = None,
    ) -> None:
        """`server`: the API server's port, if each is to have a wire to it."""
        self._leader = leader
        flags = {
            "--lease-namespace": lease_namespace,
            "--log-format": "json",
            "--receivers": "127.0.0.1",
            **flags,
        }
        names = [f"serin-{number}" for number in range(1, count + 1)]
        self._all = [_replica(name, kubeconfig, server, flags) for name in names]

    def pids(self) -> Mapping[str, int]:
        """The processes by name."""
        return {each.name: each.process.pid for each in self._all if each.process and each.running}

    @property
    def urls(self) -> Sequence[str]:
        """Where each serves its page."""
        return [each.url for each in self._all]

    @property
    def wires(self) -> Sequence[Wire]:
        """Those that there are."""
        return [each.wire for each in self._all if each.wire is not None]

    async def start(self) -> None:
        """All run and say that they are ready."""
        await asyncio.gather(*map(self._start, self._all))

    async def stop(self) -> None:
        """All have ended as on SIGTERM, or were killed."""
        await asyncio.gather(*(wire.mend() for wire in self.wires))
        await asyncio.gather(*(processes.end(each.process, seconds=2.0) for each in self._all))
        await asyncio.gather(*(processes.end(wire.process, seconds=0.2) for wire in self.wires))

    def strike(self, kind: str) -> None:
        """The leader, or else the first, is killed or frozen, or its wire is cut in one of three ways."""
        leader = next((each for each in self._all if each.name == self._leader()), self._all[0])
        if kind in CUTS and leader.wire is not None:
            leader.wire.strike(kind)
        elif leader.process is not None:
            processes.tell(leader.process, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)

    async def mend(self) -> None:
        """Who was frozen goes on, who is dead starts anew, and every wire carries."""
        await asyncio.gather(*(wire.mend() for wire in self.wires))
        for each in self._all:
            if each.running and each.process is not None:
                processes.tell(each.process, signal.SIGCONT)
            else:
                each.process = await processes.python(*each.argv, log=each.log)

    async def _start(self, each: Replica) -> None:
        if each.wire is not None:
            await each.wire.start()
        each.process = await processes.python(*each.argv, log=each.log)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
            while not await _answers(session, f"{each.url}/readyz"):
                if not each.running:
                    words = each.log.read_text(errors="replace")[-2_000:]
                    raise NotReady(f"{each.name} ended before it was ready; it said:\n{words}")
                await asyncio.sleep(0.1)


def _replica(name: str, kubeconfig: Path, server: int | None, flags: Mapping[str, str]) -> Replica:
    folder, port, wire = kubeconfig.parent, processes.free_port(), None
    if server is not None:
        wire = Wire(processes.free_port(), server, folder / f"{name}-wire.log")
        words = kubeconfig.read_text().replace(f":{server}", f":{wire.port}")
        kubeconfig = folder / f"{name}-kubeconfig"
        kubeconfig.write_text(words)
    own = {**flags, "--kubeconfig": str(kubeconfig), "--identity": name, "--port": str(port)}
    argv = ("-c", SERIN, "controller", *(word for flag in own.items() for word in flag))
    return Replica(name, argv, folder / f"{name}.log", f"http://127.0.0.1:{port}", wire)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with session.get(url) as answer:
            return answer.status == 200
    return False
