"""Where the lab's alerts arrive: an HTTP receiver on loopback that can fail on command."""

import asyncio
import json
from contextlib import suppress
from typing import Any

from aiohttp import web

SLOW = 3.0  # seconds until a slow receiver answers


class Receiver:
    """What was received, and how the receiver behaves: well, or as the fault in `fault` says."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.fault: str | None = None
        self.url = ""
        self._over = asyncio.Event()
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.1)

    async def start(self) -> None:
        """It listens at `url`."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/alerts"

    async def stop(self) -> None:
        """It listens no more."""
        self._over.set()
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.fault == "outage":
            return web.Response(status=503)
        if self.fault == "hang":
            await self._over.wait()
        if self.fault == "slow":
            await asyncio.sleep(SLOW)
        with suppress(ValueError):
            self.received.append(json.loads(await request.read()))
        return web.Response(text="ok")
