"""`python -m scenarios.scale.pages LOG`: the metrics pages of all pods, about 3 kB each, from one process.

It listens on all of loopback, so that each pod has an address of its own, and prints its port. Counters
advance by a second's traffic for each second that has passed. `POST /fault/NUMBER` makes all requests of that
canary fail from now on; when a page has first said so is written to the log.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, cast

import numpy as np

from scenarios.scale.objects import place

RATE = 20.0  # requests a second and pod
SECONDS = tuple(float(f"{0.005 * 1.3**step:.3g}") for step in range(20))
SCORES = tuple(round(0.1 * step, 1) for step in range(1, 11))
EVERYWHERE = "0.0.0.0"  # noqa: S104 - all of loopback; nothing else is connected to
DRAWN = 4096  # different seconds of traffic
_CODES = (
    'istio_requests_total{reporter="destination",source_workload="ingress",destination_workload="model",'
    'destination_version="v1",request_protocol="http",response_flags="-",response_code='
)


def _template() -> str:
    """The page with a gap for each figure: two codes, then both histograms."""
    labels = 'model_name="model",model_version="v1"'
    lines = ["# TYPE istio_requests_total counter", f'{_CODES}"200"}} %d', f'{_CODES}"500"}} %d']
    for family, bounds in (("model_inference_duration_seconds", SECONDS), ("model_prediction_value", SCORES)):
        lines.append(f"# TYPE {family} histogram")
        lines += [f'{family}_bucket{{{labels},le="{bound}"}} %d' for bound in (*bounds, "+Inf")]
    return "\n".join([*lines, ""])


def _seconds() -> list[list[int]]:
    """Seconds of traffic: what each bucket grows by; the last is how many requests there were."""
    rng, drawn = np.random.default_rng(1), []
    for n in rng.poisson(RATE, DRAWN):
        slow = np.searchsorted(np.sort(rng.lognormal(-3.5, 0.6, n)), (*SECONDS, np.inf))
        high = np.searchsorted(np.sort(rng.beta(2, 5, n)), (*SCORES, np.inf))
        drawn.append([*slow.tolist(), *high.tolist()])
    return drawn


@dataclass(slots=True)
class Pod:
    """One pod's counters."""

    index: int
    arm: str
    at: float
    codes: list[int] = field(default_factory=lambda: [0, 0])
    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + len(SCORES) + 2))


class Pods:
    """All pods that anybody has asked for."""

    def __init__(self, log: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._log = log
        self._clock = clock
        self._pods: dict[str, Pod] = {}
        self._faults: set[int] = set()
        self._shown: set[int] = set()
        self._template, self._drawn, self._next = _template(), _seconds(), 0

    def fault(self, index: int) -> None:
        """All requests of the canary fail from now on."""
        self._faults.add(index)

    def page(self, address: str) -> bytes:
        """The page as it is now."""
        pod = self._pods.get(address)
        if pod is None:
            index, arm, _ = place(address)
            pod = self._pods[address] = Pod(index, arm, at=self._clock() - 1)
        bad = pod.arm == "canary" and pod.index in self._faults
        now = self._clock()
        while now - pod.at >= 1:
            pod.at += 1
            self._next = (self._next + 1) % DRAWN
            more = self._drawn[self._next]
            pod.counts = [a + b for a, b in zip(pod.counts, more, strict=True)]
            pod.codes[bad] += more[-1]
            if bad and pod.index not in self._shown:
                self._shown.add(pod.index)
                self._log.write(json.dumps({"index": pod.index, "at": now}) + "\n")
                self._log.flush()
        return (self._template % (*pod.codes, *pod.counts)).encode()


class Connection(asyncio.BufferedProtocol):
    """Answers one request after the other."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods
        self._buffer = bytearray(4096)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The address that was connected to says whose page is wanted."""
        self._transport = cast("asyncio.Transport", transport)
        self._address = transport.get_extra_info("sockname")[0]

    def get_buffer(self, sizehint: int) -> bytearray:
        """Asyncio's."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """One whole request: those who ask here send small ones."""
        asked = bytes(self._buffer[:nbytes])
        if asked.startswith(b"POST /fault/"):
            self._pods.fault(int(asked.split(b" ", 2)[1].rpartition(b"/")[2]))
            body = b""
        else:
            body = self._pods.page(self._address)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


async def serve(log: Path) -> None:
    """Pages are served until the process ends; the port is on stdout."""
    with log.open("w") as out:
        pods = Pods(out)
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(pods), EVERYWHERE, 0, backlog=4096
        )
        print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
