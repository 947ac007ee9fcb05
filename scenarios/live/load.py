"""Open-loop load in a process of its own, `python -m scenarios.live.load FILE`.

Requests leave when they are due (Poisson, with the story's common noise in the rate), however slowly
answers come, and each is timed from the moment it was due: nothing is omitted, nothing waits for
anything. One line of JSON for each request that ended.
"""

import asyncio
import json
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import aiohttp

from scenarios.live import digits
from scenarios.noise import Common, generator

PATIENCE = 15.0  # seconds until a caller gives up; far beyond what any healthy story takes
AHEAD = 0.000_5  # seconds; the loop's timer is no finer than a millisecond


class Load:
    """What is sent, and what became of it."""

    def __init__(self, said: dict[str, Any], out: TextIO) -> None:
        self._url: str = said["url"]
        self._headers = {"host": said["host"], "content-type": "application/json"}
        self._rate: float = said["rate"]
        self._epoch: float = said["epoch"]
        self._common = Common(said["noise"], seed=said["seed"])
        self._rng = generator(said["seed"], "arrivals")
        self._bodies = [body(picture.tolist()) for picture in digits.load().pictures]
        self._out = out
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, *, until: asyncio.Event) -> None:
        """Sends until told to stop, then gives up what is still unanswered."""
        connector = aiohttp.TCPConnector(limit=0, force_close=False, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            tasks = self._under_way
            if self._rate > 0:
                tasks.add(asyncio.create_task(self._send(session)))
            await until.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, session: aiohttp.ClientSession) -> None:
        due = time.time()
        number = 0
        while True:
            rate = self._rate * math.exp(self._common.log_factor(due - self._epoch))
            due += float(self._rng.exponential(1 / rate))
            if (ahead := due - time.time()) > AHEAD:
                await asyncio.sleep(ahead)
            task = asyncio.create_task(self._one(session, number, due))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            number += 1

    async def _one(self, session: aiohttp.ClientSession, number: int, due: float) -> None:
        """Sends one request and writes down what came of it."""
        said: dict[str, Any] = {"due": round(due, 6), "late": round(time.time() - due, 6)}
        picture = self._bodies[int(self._rng.integers(len(self._bodies)))]
        try:
            async with session.post(
                self._url, data=picture, headers={**self._headers, "x-lab-id": str(number)}
            ) as answer:
                await answer.read()
                said |= {"status": answer.status, "pod": answer.headers.get("x-lab-pod")}
        except asyncio.CancelledError:
            said["error"] = "unanswered at the end"
        except (aiohttp.ClientError, TimeoutError) as trouble:
            said["error"] = type(trouble).__name__
        said["took"] = round(time.time() - due, 6)
        self._out.write(json.dumps({"id": number, **said}) + "\n")


def body(pixels: list[int]) -> bytes:
    """The protocol's request for one picture."""
    pixel_input = {"name": "pixels", "shape": [1, digits.PIXELS], "datatype": "FP32", "data": pixels}
    return json.dumps({"inputs": [pixel_input]}).encode()


async def main(said: dict[str, Any], out: TextIO) -> None:
    """Sends until SIGTERM."""
    until, loop = asyncio.Event(), asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, until.set)
    await Load(said, out).run(until=until)


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text())
    with Path(told["out"]).open("w", buffering=1) as written:
        asyncio.run(main(told, written))
