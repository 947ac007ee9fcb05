"""The real controller as processes of its own: `serin controller`, one replica or more."""

import asyncio
import contextlib
import signal
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from scenarios.live import processes

SERIN = "from controller.cli import main; main()"  # the console script, installed or not


class NotReady(RuntimeError):
    """A replica ended before it was ready; the text is what it said last."""


@dataclass(slots=True)
class Replica:
    """One controller process."""

    name: str
    argv: tuple[str, ...]
    log: Path
    url: str
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
    ) -> None:
        self._leader = leader
        folder = kubeconfig.parent
        flags = {
            "--kubeconfig": str(kubeconfig),
            "--lease-namespace": lease_namespace,
            "--log-format": "json",
            "--receivers": "127.0.0.1",
            **flags,
        }
        self._all = [_replica(f"serin-{number}", folder, flags) for number in range(1, count + 1)]

    def pids(self) -> Mapping[str, int]:
        """The processes by name."""
        return {each.name: each.process.pid for each in self._all if each.process and each.running}

    async def start(self) -> None:
        """All run and say that they are ready."""
        await asyncio.gather(*map(self._start, self._all))

    async def stop(self) -> None:
        """All have ended as on SIGTERM, or were killed."""
        await asyncio.gather(*(processes.end(each.process, seconds=2.0) for each in self._all))

    def strike(self, kind: str) -> None:
        """The leader, or else the first, is killed or frozen."""
        leader = next((each for each in self._all if each.name == self._leader()), self._all[0])
        if leader.process is not None:
            processes.tell(leader.process, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)

    async def mend(self) -> None:
        """Who was frozen goes on; who is dead starts anew."""
        for each in self._all:
            if each.running and each.process is not None:
                processes.tell(each.process, signal.SIGCONT)
            else:
                each.process = await processes.python(*each.argv, log=each.log)

    async def _start(self, each: Replica) -> None:
        each.process = await processes.python(*each.argv, log=each.log)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
            while not await _answers(session, f"{each.url}/readyz"):
                if not each.running:
                    words = each.log.read_text(errors="replace")[-2_000:]
                    raise NotReady(f"{each.name} ended before it was ready; it said:\n{words}")
                await asyncio.sleep(0.1)


def _replica(name: str, folder: Path, flags: Mapping[str, str]) -> Replica:
    port = processes.free_port()
    own = {**flags, "--identity": name, "--port": str(port)}
    argv = ("-c", SERIN, "controller", *(word for flag in own.items() for word in flag))
    return Replica(name, argv, folder / f"{name}.log", f"http://127.0.0.1:{port}")


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with session.get(url) as answer:
            return answer.status == 200
    return False
