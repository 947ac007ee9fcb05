"""The real controller: two processes of `serin controller`, of which one leads."""

import asyncio
import contextlib
import signal
from asyncio.subprocess import Process
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from scenarios.live import processes

REPLICAS = ("serin-e2e-1", "serin-e2e-2")
READY_WITHIN = 90.0  # seconds; three as a rule


@dataclass
class Controllers:
    """Both replicas, for one namespace and with their Lease in it."""

    kubeconfig: Path
    namespace: str
    logs: Path
    _running: dict[str, tuple[Process, str]] = field(default_factory=dict)

    async def start(self) -> None:
        """Both run and are ready; who runs already goes on."""
        async with asyncio.timeout(READY_WITHIN):
            await asyncio.gather(*map(self._start, REPLICAS))

    async def kill(self, name: str) -> None:
        """The process is gone, without a word."""
        process, _ = self._running.pop(name)
        processes.tell(process, signal.SIGKILL)
        await process.wait()

    async def stop(self) -> None:
        """Both have ended as they do on SIGTERM."""
        await asyncio.gather(*(processes.end(process) for process, _ in self._running.values()))
        self._running.clear()

    async def _start(self, name: str) -> None:
        if name not in self._running:
            port = processes.free_port()
            flags = {
                "--kubeconfig": self.kubeconfig,
                "--namespace": self.namespace,
                "--lease-namespace": self.namespace,
                "--identity": name,
                "--port": port,
                "--log-format": "json",
            }
            words = [str(word) for flag in flags.items() for word in flag]
            process = await processes.python("-m", "controller", *words, log=self.logs / f"{name}.log")
            self._running[name] = process, f"http://127.0.0.1:{port}/readyz"
        process, url = self._running[name]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
            while not await _answers(session, url):
                assert process.returncode is None, (self.logs / f"{name}.log").read_text()[-2_000:]
                await asyncio.sleep(0.1)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with session.get(url) as answer:
            return answer.status == 200
    return False
