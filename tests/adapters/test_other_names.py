"""Series of other names, renamed in a real Prometheus as docs/metrics.md shows it."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from analysis.samples import Histogram
from controller.prometheus import Prometheus
from tests.adapters.test_connect import serving
from tests.adapters.test_prometheus import LATENCY, RUN, ended, pod, running, until

Json = Any
SECTION = (
    (Path(__file__).parents[2] / "docs" / "metrics.md").read_text().partition("### Names of your own\n")[2]
)
SHOWN: list[Json] = [
    yaml.safe_load(block)
    for block in re.findall(r"```yaml\n(.*?)```", SECTION.partition("\n### ")[0], re.DOTALL)
]
RELABELLED, RECORDED = SHOWN


async def page(_: web.Request) -> web.StreamResponse:
    """A pod's, whose middleware counts probes as it counts predictions."""
    text = ""
    for handler, n in (("/predict", 10), ("/ready", 5000)):
        for le, count in (("0.1", n // 2), ("0.5", n), ("+Inf", n)):
            text += f'http_request_duration_seconds_bucket{{handler="{handler}",le="{le}"}} {count}\n'
        text += f'http_request_duration_seconds_count{{handler="{handler}"}} {n}\n'
    return web.Response(text=text, content_type="text/plain")


def quick(rules: Json) -> Json:
    """The same rules, as often as is scraped here."""
    return {"groups": [group | {"interval": "1s"} for group in rules["groups"]]}


@pytest.mark.live
@pytest.mark.parametrize("how", [{"job": RELABELLED}, {"rules": quick(RECORDED)}], ids=["scrape", "rule"])
async def test_a_histogram_that_is_renamed_in_a_prometheus_is_the_model_s(how: Json, tmp_path: Path) -> None:
    async with serving(page) as server:
        with running(tmp_path, server.port, {"c": "/c"}, **how) as url:
            source = Prometheus(url, lambda: datetime.now(UTC), interval=timedelta(seconds=1))
            try:
                source.watch(RUN, [pod("c")], [LATENCY])
                await until(
                    lambda: "c" in source.read(RUN) and LATENCY.name in source.read(RUN)["c"].values, source
                )
                assert source.read(RUN)["c"].values[LATENCY.name] == Histogram((0.1, 0.5), (5, 5, 0))
            finally:
                await ended(source)


@pytest.mark.live
async def test_as_it_stands_it_is_not_taken_for_the_model_s(tmp_path: Path) -> None:
    async with serving(page) as server:
        with running(tmp_path, server.port, {"c": "/c"}) as url:
            source = Prometheus(url, lambda: datetime.now(UTC), interval=timedelta(seconds=1))
            try:
                source.watch(RUN, [pod("c")], [LATENCY])
                await until(
                    lambda: "c" in source.troubles(RUN) and "istio_" in str(source.troubles(RUN)), source
                )
                assert LATENCY.name not in (source.read(RUN)["c"].values if "c" in source.read(RUN) else {})
            finally:
                await ended(source)
