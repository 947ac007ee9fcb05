"""What is promised of the recorder, measured on one in a process of its own, from which nobody takes.

Requests as Envoy mirrors them, 64 numbers in JSON, come over kept connections from this process. What the
recorder takes is CPU time, which others on the machine do not change; how long an answer takes they do, and
so the best second counts, and beside it stands a server that only answers. Of memory counts what grows once
the budget is full.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np

from gpu_shadow.bench import Row, seconds
from gpu_shadow.door import ACCEPTED, Door
from gpu_shadow.protocol import request
from gpu_shadow.recorder import MOST_STRATA, Recorder

OFFERED = 5_000  # requests a second
LINES = 32  # connections
AHEAD = 16  # requests on a connection without an answer, when as many are sent as are answered
SECONDS = 3  # of them
MANY = 40_000  # requests as fast as they go, twice
BUDGET = 32 * 2**20  # bytes, full with the first of these
TICKS = os.sysconf("SC_CLK_TCK")
HEADERS = (
    "host: model.lab-shadow\r\nuser-agent: python-httpx/0.28\r\naccept: */*\r\n"
    "content-type: application/json\r\ncontent-length: {size}\r\nx-forwarded-proto: http\r\n"
    "x-request-id: {id:032x}\r\nx-envoy-internal: true\r\nx-forwarded-for: 10.0.0.1\r\n"
    "x-envoy-expected-rq-timeout-ms: 15000\r\ntraceparent: 00-{id:032x}-00f067aa0ba902b7-01\r\n"
)


def rows(seed: int) -> Iterator[Row]:
    """Everything that is measured."""
    yield from _decoding(seed)
    yield from asyncio.run(_admission(seed))


def _decoding(seed: int) -> Iterator[Row]:
    """A tensor of 4.8 MB behind its JSON, as it comes and as text."""
    given = np.random.default_rng(seed).random((1, 1_200_000), dtype=np.float32)
    named = {"name": "x", "shape": given.shape, "datatype": "FP32"}
    head = json.dumps({"inputs": [named | {"parameters": {"binary_data_size": given.nbytes}}]}).encode()
    text = json.dumps({"inputs": [named | {"data": given.ravel().tolist()}]}).encode()
    body = head + given.tobytes()
    taken = seconds(lambda: [request(body, json_bytes=len(head)) for _ in range(1_000)]) / 1_000
    lost = seconds(lambda: [request(body) for _ in range(1_000)]) / 1_000
    as_text = seconds(lambda: request(text), times=2)
    yield Row("a binary tensor of 4.8 MB decoded", taken * 1e6, at_most=20, unit="us")
    yield Row("the same, its header lost", lost * 1e6, at_most=20, unit="us")
    yield Row("the same as JSON", as_text / taken, unit="x as long")


async def _admission(seed: int) -> list[Row]:
    asked = _asked(seed)
    async with _server("bare") as (_, others), _server("recorder") as (process, lines):
        size, taken, cpu = [_resident(process)], 0.0, _cpu(process)
        for part in (1, 2):
            taken += await _as_fast_as_it_goes(lines, asked)
            size.append(_resident(process))
            if part == 1:
                both = [(await _offered(others, asked), await _offered(lines, asked)) for _ in range(SECONDS)]
        used = _cpu(process) - cpu
    bare, found = min(one for one, _ in both), min(one for _, one in both)
    load = f"load {os.getloadavg()[0]:.1f}"
    mib = ", ".join(f"{one / 2**20:.0f}" for one in size)
    at = f"at {OFFERED}/s ({load})"
    return [
        Row("recorder, requests a second of CPU", (2 * MANY + OFFERED * SECONDS) / used, at_least=OFFERED),
        Row(f"answered as fast as they come ({load})", 2 * MANY / taken, unit="a second"),
        Row(f"median {at}, a server that only answers {bare[1] * 1e3:.2g}", found[1] * 1e3, unit="ms"),
        Row(f"p99 {at}, likewise {bare[0] * 1e3:.2g}", found[0] * 1e3, at_most=2, unit="ms"),
        Row(f"memory with a stuck sink, {mib} MiB", size[2] / size[1], at_most=1.1, unit="x"),
    ]


def _asked(seed: int) -> Iterator[bytes]:
    """Requests without end, none like another, of as many kinds as are kept apart."""
    chance, number = np.random.default_rng(seed), 0
    bodies = [
        json.dumps({"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": row}]})
        for row in chance.random((1_000, 64)).round(4).tolist()
    ]
    while True:
        body = bodies[number % len(bodies)]
        line = f"POST /v2/models/m{number % MOST_STRATA}/infer HTTP/1.1\r\n"
        yield (line + HEADERS.format(size=len(body), id=number) + "\r\n" + body).encode()
        number += 1


class _Wire(asyncio.BufferedProtocol):
    """A connection."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.buffer = bytearray(64 * 1024)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - it was asked for a stream
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's word
        return self.buffer


class _Line(_Wire):
    """One that knows how long each answer took."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: deque[float] = deque()
        self.took: list[float] = []
        self._bytes = 0

    @classmethod
    async def to(cls, port: int) -> "_Line":
        _, line = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return line

    def buffer_updated(self, nbytes: int) -> None:
        now = time.perf_counter()
        self._bytes += nbytes
        while self._bytes >= len(ACCEPTED):
            self._bytes -= len(ACCEPTED)
            self.took.append(now - self.sent.popleft())

    def send(self, asked: bytes) -> None:
        self.sent.append(time.perf_counter())
        self.transport.write(asked)


async def _as_fast_as_it_goes(lines: list[_Line], asked: Iterator[bytes]) -> float:
    """Seconds until all of many were answered."""
    begun, sent = time.monotonic(), 0
    while sent < MANY:
        for line in lines:
            while len(line.sent) < AHEAD:
                line.send(next(asked))
                sent += 1
        await asyncio.sleep(0)
    await _answered(lines)
    return time.monotonic() - begun


async def _offered(lines: list[_Line], asked: Iterator[bytes]) -> tuple[float, float]:
    """99 % and median of one second's, in seconds; requests come whether answers do or not."""
    ready = [next(asked) for _ in range(OFFERED)]
    begun = time.perf_counter()
    for number, one in enumerate(ready):
        while time.perf_counter() < begun + number / OFFERED:  # noqa: ASYNC110 - time is waited for
            await asyncio.sleep(0.000_2)
        lines[number % LINES].send(one)
    took = await _answered(lines)
    return float(np.quantile(took, 0.99)), float(np.median(took))


async def _answered(lines: list[_Line]) -> list[float]:
    """Seconds that each took, once there is an answer to all."""
    async with asyncio.timeout(10):
        while any(line.sent for line in lines):  # noqa: ASYNC110 - the measurement is over
            await asyncio.sleep(0.001)
    took = [one for line in lines for one in line.took]
    for line in lines:
        line.took.clear()
    return took


@contextlib.asynccontextmanager
async def _server(which: str) -> AsyncIterator[tuple[int, list[_Line]]]:
    """One in a process of its own; yields its process id and connections to it."""
    argv = [sys.executable, "-m", "gpu_shadow.bench_door", which]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603, ASYNC220 - ours
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            port = int(process.stdout.readline())
            lines = [await _Line.to(port) for _ in range(LINES)]
            yield process.pid, lines
            for line in lines:
                line.transport.close()
        finally:
            process.kill()


def _cpu(process: int) -> float:
    """Seconds that it has used, on its own account and the kernel's."""
    said = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(said[11]) + int(said[12])) / TICKS


def _resident(process: int) -> int:
    """Bytes of memory."""
    said = Path(f"/proc/{process}/status").read_text()
    return int(said.partition("VmRSS:")[2].split()[0]) * 1024


class _Bare(_Wire):
    """What reading and answering take, and nothing else."""

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(ACCEPTED * self.buffer.count(b"POST ", 0, nbytes))


async def _serve(which: str) -> None:
    """A recorder whose requests are asked for and never taken, or a server that only answers."""
    recorder = Recorder(budget=BUDGET)
    recorder.open("bench", ["model.lab"])
    async with contextlib.AsyncExitStack() as stack:
        if which == "recorder":
            port = await stack.enter_async_context(Door(recorder).opened("127.0.0.1", 0))
        else:
            server = await asyncio.get_running_loop().create_server(_Bare, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
        print(port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
