"""The lab's kubelet: a model server process for each pod, restarted as a kubelet restarts.

Each pod has a loopback address of its own, so that the ports in its spec and annotations are the real
ones. What becomes of it is told through the emulated API server.
"""

import asyncio
import contextlib
import itertools
import json
import os
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from scenarios.live import processes

Json = Any
Faults = Mapping[str, Any]

CRASHING = "CrashLoopBackOff"
BACK_OFF = (0.0, 10.0, 20.0, 40.0)  # seconds before a restart, as kubelet's: at once, then doubling
STARTING = 0.1  # seconds between looks at a pod that is not ready yet
DRAIN = 1.5  # seconds beyond propagation until the proxy has let go of a pod that leaves
GRACE = 5.0  # seconds for requests under way when a pod stops


class Tell(Protocol):
    """How the API server hears of a pod."""

    def __call__(self, name: str, **said: Any) -> None:
        """The pod's status says so."""
        ...


@dataclass(slots=True)
class Life:
    """One pod that runs here."""

    pod: Json
    ip: str
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    process: Process | None = None
    restarts: int = 0
    ready: bool = False
    born: float = 0.0  # loop time at which the pod first came here

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.pod["metadata"]["name"])

    @property
    def arm(self) -> str:
        """The subset that the pod's labels put it into."""
        return str((self.pod["metadata"].get("labels") or {}).get("version", ""))

    @property
    def url(self) -> str:
        """The model server's address."""
        return f"http://{self.ip}:{_port(self.pod)}"


class LivePods:
    """All pods of the lab; a kubelet for the emulated API server."""

    def __init__(
        self,
        folder: Path,
        *,
        conduct: Callable[[Life], Mapping[str, Any]],
        faults: Callable[[Life], Faults],
        tell: Tell,
        gone: Callable[[str], None],
        propagation: float,
    ) -> None:
        self._folder = folder
        self._conduct = conduct
        self._faults = faults
        self._tell = tell
        self._gone = gone
        self._drain = propagation + DRAIN
        self._addresses = _addresses()
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        self.lives: dict[str, Life] = {}

    def started(self, pod: Json) -> None:
        """The pod's process starts."""
        life = Life(pod, next(self._addresses), born=asyncio.get_running_loop().time())
        self.lives[life.name] = life
        self._spawn(self._live(life))

    def stopping(self, pod: Json) -> None:
        """The pod's process answers until the proxy has let go of it, then ends."""
        if life := self.lives.pop(pod["metadata"]["name"], None):
            life.leaving.set()

    async def suffer(self) -> None:
        """Every pod has the faults that are in force for it now."""
        await asyncio.gather(*(self._suffer(life) for life in tuple(self.lives.values())))

    async def state(self, life: Life) -> Json:
        """What the pod's process says of itself on the lab's own page; None if it says nothing."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self._http().get(f"{life.url}/lab/state") as answer:
                return await answer.json()
        return None

    async def stop(self) -> None:
        """Every process is gone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=_probe(None, "timeoutSeconds", 1))
            self._session = aiohttp.ClientSession(timeout=timeout)
        return self._session

    async def _suffer(self, life: Life) -> None:
        if life.process is None:
            return  # it reads its faults when it starts
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):  # a crash answers nothing
            async with self._http().post(f"{life.url}/lab/faults", json=dict(self._faults(life))):
                pass

    async def _live(self, life: Life) -> None:
        """From the first start to the last end, with the restarts between."""
        try:
            while not life.leaving.is_set():
                life.process = await self._start(life)
                await self._watch(life)
                if not life.leaving.is_set():
                    await self._crashed(life)
            await asyncio.sleep(self._drain if life.ready else 0)
            await processes.end(life.process, seconds=GRACE + 1)
            self._gone(life.name)
        finally:
            await processes.end(life.process, seconds=0.2)  # the lab is over, or this came to grief

    async def _start(self, life: Life) -> Process:
        config = self._folder / f"{life.name}.json"
        about = {"name": life.name, "host": life.ip, "port": _port(life.pod), "grace": GRACE}
        about |= {"metricsPath": _metrics_path(life.pod), "faults": dict(self._faults(life))}
        config.write_text(json.dumps({**self._conduct(life), **about}))
        self._tell(life.name, ip=life.ip, restarts=life.restarts, ready=False, waiting=None)
        log = self._folder / f"{life.name}.log"
        return await processes.python("-m", "scenarios.live.modelserver", str(config), log=log)

    async def _watch(self, life: Life) -> None:
        """Returns when the process is gone or the pod is to leave; meanwhile readiness is told."""
        if life.process is None:
            return
        ends = [asyncio.create_task(life.process.wait()), asyncio.create_task(life.leaving.wait())]
        probing = asyncio.create_task(self._probe(life))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*ends, probing):
                task.cancel()
            await asyncio.gather(*ends, probing, return_exceptions=True)

    async def _probe(self, life: Life) -> None:
        """Tells whether the pod is ready, for ever, by the probe that its spec names."""
        misses = 0
        while True:
            answered = await self._answers(life)
            misses = 0 if answered else misses + 1
            if answered != life.ready and (answered or misses >= _probe(life.pod, "failureThreshold", 3)):
                life.ready = answered
                self._tell(life.name, ready=answered)
                await self._suffer(life)  # a fault that came while it started has not reached it
            await asyncio.sleep(
                _probe(life.pod, "periodSeconds", 10) if life.ready or misses == 0 else STARTING
            )

    async def _answers(self, life: Life) -> bool:
        path = ((_container(life.pod).get("readinessProbe") or {}).get("httpGet") or {}).get("path", "/")
        try:
            async with self._http().get(life.url + path) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def _crashed(self, life: Life) -> None:
        """The process is gone by itself: told, and waited for as long as a kubelet would."""
        wait = BACK_OFF[min(life.restarts, len(BACK_OFF) - 1)]
        life.restarts, life.ready, life.process = life.restarts + 1, False, None
        self._tell(life.name, ready=False, restarts=life.restarts, waiting=CRASHING if wait else None)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(life.leaving.wait(), wait)


def _addresses() -> Iterator[str]:
    """Loopback addresses that no other lab on this machine uses at the same time."""
    pid = os.getpid()
    second, third = 1 + (pid >> 8) % 250, pid & 255
    for number in itertools.count():
        yield f"127.{second}.{(third + number // 250) & 255}.{1 + number % 250}"


def _container(pod: Json) -> Json:
    return pod["spec"]["containers"][0]


def _port(pod: Json) -> int:
    return int(_container(pod)["ports"][0]["containerPort"])


def _metrics_path(pod: Json) -> str:
    annotations = pod["metadata"].get("annotations") or {}
    return str(annotations.get("prometheus.io/path", "/metrics"))


def _probe(pod: Json | None, key: str, default: int) -> float:
    probe = (_container(pod).get("readinessProbe") or {}) if pod is not None else {}
    return float(probe.get(key, default))
