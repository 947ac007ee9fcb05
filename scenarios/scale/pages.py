"""`python -m scenarios.scale.pages LOG`: the metrics pages of all pods, about 3 kB each, from one process.

It listens on all of loopback, so that each pod has an address of its own, and prints its port. Counters
advance by a tenth of a second's traffic for each that has passed. `POST /fault/NUMBER/errors` makes all
requests of that canary fail from now on, `/slow` take twice as long; when it began, and when a page has first
counted such a request, is written to the log.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, cast

import numpy as np
from numpy.typing import NDArray

from scenarios.scale.objects import place

RATE = 20.0  # requests a second and pod
SECONDS = tuple(float(f"{0.005 * 1.3**step:.3g}") for step in range(20))
SCORES = tuple(round(0.1 * step, 1) for step in range(1, 11))
EVERYWHERE = "0.0.0.0"  # noqa: S104 - all of loopback; nothing else is connected to
STEP = 0.1  # s
DRAWN = 8192  # different tenths of a second of traffic
STRIDE = 1009  # of them, from where one pod begins to where the next does
SLOWER = 2.0
FAULTS = ("errors", "slow")

Counts = NDArray[np.int64]
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


def _drawn(rng: np.random.Generator, kind: str) -> Counts:
    """What every bucket has come to after so many tenths of a second, from none on."""
    each = rng.poisson(RATE * STEP, DRAWN)
    when, many = np.repeat(np.arange(DRAWN), each), each.sum()
    took = rng.lognormal(-3.5, 0.6, many) * (SLOWER if kind == "slow" else 1.0)
    found = []
    for values, bounds in ((took, SECONDS), (rng.beta(2, 5, many), SCORES)):
        cells = np.zeros((DRAWN + 1, len(bounds) + 1), dtype=np.int64)
        np.add.at(cells, (when + 1, np.searchsorted(bounds, values)), 1)
        found.append(cells.cumsum(axis=0).cumsum(axis=1))
    return np.concatenate(found, axis=1)


@dataclass(slots=True)
class Pod:
    """One pod's counters; `row` is how many tenths of a second it has served."""

    index: int
    arm: str
    at: float
    row: int
    kind: str = "well"
    counts: Counts = field(default_factory=lambda: np.zeros(len(SECONDS) + len(SCORES) + 2, dtype=np.int64))
    codes: list[int] = field(default_factory=lambda: [0, 0])


class Pods:
    """All pods that anybody has asked for."""

    def __init__(self, log: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._log = log
        self._clock = clock
        self._pods: dict[str, Pod] = {}
        self._faults: dict[int, str] = {}
        self._shown: set[int] = set()
        self._template, rng = _template(), np.random.default_rng(1)
        self._drawn = {kind: _drawn(rng, kind) for kind in ("well", "slow")}

    def fault(self, index: int, kind: str = "errors") -> None:
        """From now on all requests of the canary fail, or take twice as long."""
        self._faults[index] = kind
        self._say({"index": index, "began": self._clock()})
        for pod in self._pods.values():
            if pod.index == index and pod.arm == "canary":
                self._served(pod)
                pod.kind = kind

    def page(self, address: str) -> bytes:
        """The page as it is now."""
        pod = self._pods.get(address)
        if pod is None:
            index, arm, _ = place(address)
            kind = self._faults.get(index, "well") if arm == "canary" else "well"
            began = STRIDE * len(self._pods) % DRAWN
            pod = self._pods[address] = Pod(index, arm, at=self._clock() - 1, row=began, kind=kind)
        if self._served(pod) and pod.kind != "well" and pod.index not in self._shown:
            self._shown.add(pod.index)
            self._say({"index": pod.index, "at": self._clock()})
        return (self._template % (*pod.codes, *pod.counts.tolist())).encode()

    def _served(self, pod: Pod) -> int:
        """How many requests it has answered until now that it had not counted yet."""
        steps = max(0, int((self._clock() - pod.at) / STEP))
        drawn = self._drawn["slow" if pod.kind == "slow" else "well"]
        pod.counts = pod.counts + _until(drawn, pod.row + steps) - _until(drawn, pod.row)
        many = int(pod.counts[-1]) - sum(pod.codes)
        pod.codes[pod.kind == "errors"] += many
        pod.at += steps * STEP
        pod.row += steps
        return many

    def _say(self, what: Mapping[str, float]) -> None:
        self._log.write(json.dumps(what) + "\n")
        self._log.flush()


def _until(drawn: Counts, row: int) -> Counts:
    """What has come together after so many tenths of a second, however often all of them are over."""
    rounds, rest = divmod(row, DRAWN)
    found: Counts = rounds * drawn[-1] + drawn[rest]
    return found


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
            _, _, index, kind = asked.split(b" ", 2)[1].decode().split("/")
            self._pods.fault(int(index), kind)
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
