"""The real shadow worker as a process of its own, with the lab's models in its folder."""

import asyncio
import contextlib
import signal
from asyncio.subprocess import Process
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from scenarios.live import artifacts, processes

# The recorder as the mesh knows it; in the lab Envoy finds it on loopback.
RECORDER = "serin-shadow.serin-system.svc.cluster.local:8080"


class NotReady(RuntimeError):
    """The worker ended before it was ready; the text is what it said last."""


class ShadowWorker:
    """`python -m gpu_shadow`, its two doors on free ports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "shadow.log"
        self._control = processes.free_port()
        self.recorder = processes.free_port()
        self.process: Process | None = None

    @property
    def flags(self) -> Mapping[str, str]:
        """What a controller has to be told of it."""
        return {"--shadow-url": f"http://127.0.0.1:{self._control}", "--shadow-recorder": RECORDER}

    def write(self) -> Mapping[str, str]:
        """Every model that a story may name is where the worker finds it; their references by name."""
        return artifacts.write(self._folder / "models")

    async def start(self) -> None:
        """It runs and answers."""
        state = self._folder / "state"
        state.mkdir(exist_ok=True)
        argv = ["-m", "gpu_shadow", "--models", str(self._folder / "models"), "--device", "cpu"]
        argv += ["--state", str(state)]
        argv += ["--port", str(self.recorder), "--control-port", str(self._control)]
        self.process = await processes.python(*argv, log=self._log)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
            while not await self._answers(session):
                if self.process.returncode is not None:
                    words = self._log.read_text(errors="replace")[-2_000:]
                    raise NotReady(f"the shadow worker ended before it was ready; it said:\n{words}")
                await asyncio.sleep(0.1)

    async def suffer(self, kind: str, *, begins: bool) -> None:
        """It is killed or frozen; later it starts with what it had written down, or goes on."""
        if self.process is None:
            return
        if kind == "hang":
            processes.tell(self.process, signal.SIGSTOP if begins else signal.SIGCONT)
        elif begins:
            processes.tell(self.process, signal.SIGKILL)
        else:
            await self.start()

    async def stop(self) -> None:
        """It is gone."""
        await processes.end(self.process, seconds=2.0)

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with session.get(f"http://127.0.0.1:{self._control}/readyz") as answer:
                return answer.status == 200
        return False
