"""A real Chromium without a window, driven over its DevTools protocol: for the page's tests and bench."""

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

Json = Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
    *(
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ),
)


class NoBrowser(RuntimeError):
    """There is none, or it did not start; the text says what to do."""


@dataclass(slots=True)
class Tab:
    """One tab; what it asked the network for is in `requests`, what it complained about in `complaints`."""

    socket: aiohttp.ClientWebSocketResponse
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    received: int = 0  # bytes, headers included
    _count: int = 0
    _waiting: dict[int, asyncio.Future[Json]] = field(default_factory=dict)

    async def hear(self) -> None:
        """Until the browser ends: answers find who waits, events are noted."""
        async for message in self.socket:
            said = json.loads(message.data)
            if "id" in said:
                self._waiting.pop(said["id"]).set_result(said)
            else:
                self._note(said["method"], said["params"])

    def _note(self, event: str, told: Json) -> None:
        match event:
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Network.loadingFinished":
                self.received += round(told["encodedDataLength"])
            case "Log.entryAdded":
                self.complaints.append(told["entry"]["text"])
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description", details["text"]))

    async def do(self, method: str, **what: Any) -> Json:
        """What the browser answers."""
        self._count += 1
        found: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._waiting[self._count] = found
        await self.socket.send_json({"id": self._count, "method": method, "params": what})
        said = await asyncio.wait_for(found, 30)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']['message']}")
        return said["result"]

    async def ask(self, script: str) -> Json:
        """The value of a JavaScript expression; of a promise, what it becomes."""
        said = await self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in said:
            raise RuntimeError(said["exceptionDetails"]["exception"]["description"])
        return said["result"].get("value")

    async def until(self, script: str) -> None:
        """The expression has become true; `TimeoutError` after 20 s."""
        async with asyncio.timeout(20):
            while not await self.ask(f"Boolean({script})"):  # noqa: ASYNC110 - only the browser knows
                await asyncio.sleep(0.03)

    async def look(self, *, width: int, height: int = 900, dark: bool = False, still: bool = True) -> None:
        """From now on the window is so large, and the person wants it dark, or light, or without motion."""
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        wishes = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if still else "no-preference",
        }
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        await self.do("Emulation.setEmulatedMedia", features=features)

    async def key(self, name: str) -> None:
        """A key was pressed."""
        code, text = {"Tab": (9, ""), "Enter": (13, "\r")}[name]
        for kind in ("keyDown", "keyUp"):
            await self.do(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    async def picture(self, *, whole: bool = True) -> bytes:
        """The whole page as a PNG, or what is in the window."""
        said = await self.do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return b64decode(said["data"])


def program() -> str:
    """The browser's program; `NoBrowser` says how to get one."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        raise NoBrowser("no Chromium here; install one: apt-get install chromium")
    return found


@asynccontextmanager
async def browser() -> AsyncIterator[Tab]:
    """A tab of a fresh browser, which ends with the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        flags = [*FLAGS, f"--user-data-dir={folder}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        process = await asyncio.create_subprocess_exec(
            program(),
            *flags,
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = await _port(Path(folder) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    tabs = [each for each in await answer.json() if each["type"] == "page"]
                async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    tab = Tab(socket)
                    hearing = asyncio.create_task(tab.hear())
                    for domain in ("Network", "Page", "Runtime", "Log"):
                        await tab.do(f"{domain}.enable")
                    yield tab
                    hearing.cancel()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _port(told: Path) -> int:
    """Where the browser listens, once it has written that down."""
    try:
        async with asyncio.timeout(30):
            while (port := _written(told)) is None:  # noqa: ASYNC110 - only the browser knows
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise NoBrowser("Chromium did not start within 30 s; does it run here by itself?") from error
    return port


def _written(told: Path) -> int | None:
    """The port in the file; None while it is not there, or not all of it."""
    text = told.read_text() if told.exists() else ""
    return int(text.splitlines()[0]) if "\n" in text else None
