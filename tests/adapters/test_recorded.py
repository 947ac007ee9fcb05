"""A Prometheus's past through a policy: what was counted then is what is judged now."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from scipy.special import ndtri

from analysis.judge import Verdict
from analysis.samples import Counts, Histogram
from controller import backtest, planning, policies, recorded
from controller.backtest import Moment
from controller.cli import serin
from controller.prometheus import Past
from controller.queries import Unanswered
from controller.recorded import BadSpan, Span, span
from tests.adapters.test_connect import Server, serving
from tests.adapters.test_prometheus import Pages, named, running

Json = Any
NOW = 1_790_000_000.0
LE = tuple(round(0.005 * 1.1**step, 6) for step in range(60))
POLICY = recorded.asked(policies.policy(planning.builtin()))
WHOLE = Span(namespace="shop", stable="stable-.*", canary="canary-.*", start=NOW, end=NOW + 600, step=15.0)


@dataclass
class Life:
    """One pod: when it was scraped, and what it had counted by then. Times are seconds since `NOW`."""

    rate: float
    first: float = -3600.0
    last: float = 1e9
    serves: float = -3600.0  # requests come from here on
    errors: float = 0.0
    slower: float = 1.0
    cold: float = 0.0  # so many seconds of which it is three times slower
    restarts: float = 1e9  # its counters begin anew

    def counted(self, at: float) -> float:
        """Requests."""
        since = self.restarts if at >= self.restarts else self.serves
        return float(int(max(0.0, at - since) * self.rate))

    def below(self, at: float) -> list[float]:
        """Those that took no longer than each of `LE`."""
        n, cold = int(self.counted(at)), int(self.cold * self.rate)
        seconds = np.exp(log(0.05) + 0.5 * ndtri((np.arange(n) * 0.618 + 0.5) % 1.0))
        seconds *= np.where(np.arange(n) < cold, 3.0, self.slower)
        return [float(one) for one in np.searchsorted(np.sort(seconds), LE, side="right")]


@dataclass
class Recording:
    """A Prometheus that scraped these pods every 15 s, each at a moment of its own."""

    lives: Mapping[str, Life]
    asked: list[str] = field(default_factory=list)
    warnings: bool = False

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        text, at = request.query["query"], float(request.query["time"]) - NOW
        if request.method == "POST":
            raise AssertionError
        self.asked.append(text)
        pods = {name: life for name, life in self.lives.items() if self._meant(text, name)}
        series = self._scrapes(text, pods, at) if "count_over_time" in text else self._at(text, pods, at)
        series = [] if " > min by " in text else series  # all of a scrape is there at once
        result = [{"metric": labels, "value": [NOW + at, str(value)]} for labels, value in series]
        more = {"warnings": ["a store is away"]} if self.warnings else {}
        return web.json_response(
            {"status": "success", "data": {"resultType": "vector", "result": result}} | more
        )

    @staticmethod
    def _meant(text: str, pod: str) -> bool:
        found = re.search(r'namespace="(.*?)",pod=~"(.*?)"', text)
        assert found
        return found[1] == "shop" and bool(re.fullmatch(found[2].replace("\\\\", "\\"), pod))

    def _scrapes(self, text: str, pods: Mapping[str, Life], at: float) -> list[tuple[Json, float]]:
        found = re.search(r"\[(\d+)s\]", text)
        assert found
        begins = at - int(found[1])
        spans = {name: min(life.last, at) - max(life.first, begins) for name, life in pods.items()}
        return [(_of(name), span // 15 + 1) for name, span in spans.items() if span >= 0]

    def _at(self, text: str, pods: Mapping[str, Life], at: float) -> list[tuple[Json, float]]:
        there: list[tuple[Json, float]] = []
        for index, (name, life) in enumerate(sorted(pods.items())):
            scraped = (at - index) // 15 * 15 + index
            if not life.first <= scraped <= at <= life.last:
                continue
            if named(text) == "up":
                there.append((_of(name), NOW + scraped))
            elif life.counted(scraped) or scraped >= life.restarts:  # the first request makes the series
                there += self._series(named(text), name, life, scraped)
        return there

    @staticmethod
    def _series(name: str, pod: str, life: Life, at: float) -> list[tuple[Json, float]]:
        if name == "istio_requests_total":
            failed = int(life.counted(at) * life.errors)
            both = {"200": life.counted(at) - failed, "503": failed}
            return [
                (_of(pod, reporter="destination", response_code=code), float(n)) for code, n in both.items()
            ]
        if name != "model_inference_duration_seconds_bucket":
            return []
        whole = (_of(pod, le="+Inf"), life.counted(at))
        below = zip(LE, life.below(at), strict=True)
        return [*((_of(pod, le=str(le)), count) for le, count in below), whole]


def _of(pod: str, **labels: str) -> dict[str, str]:
    return {"pod": pod, "job": "pods", "instance": f"{pod}:8080", **labels}


def world(**canary: Any) -> Recording:
    """Three stable pods of 30 requests a second, two canary pods of 5 that come at 100 s."""
    new = {"first": 100.0, "serves": 120.0} | canary
    return Recording(
        {f"stable-{pod}": Life(30.0) for pod in range(3)}
        | {f"canary-{pod}": Life(5.0, **new) for pod in range(2)}
    )


@asynccontextmanager
async def reading(recording: Any) -> AsyncIterator[Callable[..., Any]]:
    """Reads that Prometheus: `read(span)` gives moments."""
    async with serving(recording) as server:

        async def read(span: Span = WHOLE, policy: Any = POLICY) -> tuple[Moment, ...]:
            def asked() -> tuple[Moment, ...]:
                with closing(Past(f"http://127.0.0.1:{server.port}")) as past:
                    return recorded.moments(past, span, policy)

            return await asyncio.to_thread(asked)

        yield read


def total(found: tuple[Moment, ...], check: str, arm: str) -> Counts | Histogram:
    """What the check's ticks have of an arm, all together."""
    ticks = [tick for moment in found for tick in moment.ticks if tick.check == check]
    values = [pod.value for tick in ticks for pod in getattr(tick, arm).pods]
    whole: Any = values[0]
    for value in values[1:]:
        whole += value
    return whole  # type: ignore[no-any-return]


async def test_what_was_counted_between_the_instants_is_what_the_ticks_have() -> None:
    async with reading(world(errors=0.2)) as read:
        found = await read()
    canary, stable = total(found, "errors", "canary"), total(found, "errors", "stable")
    lasts = [(600 - index) // 15 * 15 + index for index in range(5)]  # by name: the canary's first
    assert canary.cells[1] == sum(int((last - 120) * 5 * 0.2) for last in lasts[:2])
    assert sum(canary.cells) == sum((last - 120) * 5 for last in lasts[:2])
    firsts = [-15 + index for index in (2, 3, 4)]
    assert sum(stable.cells) == sum(
        (last - first) * 30 for last, first in zip(lasts[2:], firsts, strict=True)
    )
    assert total(found, "latency-p95", "canary").n == sum(canary.cells)
    assert sum(moment.requests for moment in found) == sum(canary.cells)
    assert {moment.weight for moment in found if moment.end < 120} == {0}
    assert {moment.weight for moment in found if moment.end > 135} == {1}


async def test_the_controllers_own_queries_are_asked_and_nothing_else_of_counters() -> None:
    recording = world()
    async with reading(recording) as read:
        await read(replace(WHOLE, start=NOW + 100, end=NOW + 160))
    assert {named(text) for text in recording.asked} == {
        "up",
        "istio_requests_total",
        "model_inference_duration_seconds_count",
        "model_inference_duration_seconds_bucket",
        "istio_request_duration_milliseconds_bucket",
        "model_prediction_value_bucket",
    }
    assert not any(re.search(r"rate|increase", text) for text in recording.asked)


async def test_a_counter_that_begins_anew_and_pods_that_come_and_go_make_no_requests() -> None:
    recording = world()
    lives = dict(recording.lives)
    lives["stable-0"] = replace(lives["stable-0"], last=300.0)
    lives["stable-1"] = replace(lives["stable-1"], restarts=400.0)
    lives["stable-3"] = Life(30.0, first=290.0, serves=290.0)
    recording.lives = lives
    async with reading(recording) as read:
        found = await read()
    ticks = [tick for moment in found for tick in moment.ticks if tick.check == "errors"]
    for tick in ticks:
        for pod in tick.stable.pods:
            assert 0 <= sum(pod.value.cells) <= 30 * 31
    there = {tick.stable.end: {pod.name for pod in tick.stable.pods} for tick in ticks}
    assert "stable-0" in there[270.0]
    assert "stable-3" not in there[300.0]
    assert {"stable-1", "stable-2", "stable-3"} == there[600.0]


@pytest.mark.parametrize(
    ("canary", "verdict", "check"),
    [
        ({"slower": 3.0}, Verdict.FAIL, "latency-p95"),
        ({"errors": 0.2}, Verdict.FAIL, "errors"),
        ({"cold": 20.0}, Verdict.NO_DATA, None),  # warmUp forgives it; nobody predicts anything
        ({}, Verdict.NO_DATA, None),
    ],
)
async def test_a_policy_says_of_the_past_what_it_would_have_said_then(
    canary: dict[str, float], verdict: Verdict, check: str | None
) -> None:
    async with reading(world(**canary)) as read:
        outcome = backtest.replay(await read(), POLICY)
    assert (outcome.judgement.verdict, outcome.judgement.failed) == (verdict, check)
    if check == "latency-p95":
        assert 150 < outcome.at < 300


async def test_without_a_step_it_is_asked_as_often_as_it_scraped() -> None:
    async with reading(world()) as read:
        found = await read(replace(WHOLE, step=None))
    gaps = {round(late.end - early.end, 1) for early, late in pairwise(found)}
    assert len(gaps) == 1
    assert 14 < gaps.pop() <= 15


@pytest.mark.parametrize(
    ("changes", "says", "remedy"),
    [
        ({"end": NOW}, "--start: is not before --end", "earlier time first"),
        (
            {"stable": "model-.*"},
            "--stable-pods: Prometheus http://127",
            "there were canary-0, canary-1, stable-0",
        ),
        (
            {"canary": "c-.*"},
            'no pod that is called "c-.*" was scraped in namespace shop',
            "there were canary-0",
        ),
        ({"namespace": "nowhere"}, "nor any other", "labels namespace and pod"),
        ({"canary": ".*"}, "--canary-pods: stable-0 is one of --stable-pods too", "tell them apart"),
        ({"step": 0.1}, "--step: 6001 instants, one every 0.1 s, are more", "give --step 1s"),
    ],
)
async def test_what_cannot_be_read_is_said_with_the_option_and_what_to_do(
    changes: dict[str, Any], says: str, remedy: str
) -> None:
    async with reading(world()) as read:
        with pytest.raises(BadSpan) as caught:
            await read(replace(WHOLE, **changes))
    assert says in str(caught.value)
    assert remedy in str(caught.value)


def test_a_comma_between_braces_is_the_regular_expressions_own() -> None:
    """'model-[0-9a-f]{8,10}-.*' was asked for as {8|10}, which no pod is called."""
    said = {
        "start": "1795788000",
        "stable_pods": "model-[0-9a-f]{8,10}-.*,model-b",
        "canary_pods": "a,b{2,},c",
    }
    found = span({"namespace": None, "end": None, "step": None, **said})
    assert (found.stable, found.canary) == ("model-[0-9a-f]{8,10}-.*|model-b", "a|b{2,}|c")
    assert found.namespace == "default"


async def test_pods_without_any_of_the_series_are_no_recording() -> None:
    async with reading(Recording({name: Life(0.0) for name in ("stable-0", "canary-0")})) as read:
        with pytest.raises(BadSpan, match=r"nothing could be compared.*requests_total is not in"):
            await read()


async def test_an_answer_in_part_or_none_is_no_recording() -> None:
    recording = world()
    recording.warnings = True
    async with reading(recording) as read:
        with pytest.raises(Unanswered, match="answered in part, which is not used"):
            await read()
    with (
        closing(Past("http://127.0.0.1:9")) as past,
        pytest.raises(Unanswered, match="or correct --prometheus"),
    ):
        recorded.moments(past, WHOLE, POLICY)


# -- the command -----------------------------------------------------------------------------------


def command(*said: str) -> Result:
    return CliRunner().invoke(serin, ["backtest", *said])


def options(server: Server, **changes: str | None) -> list[str]:
    said: dict[str, str | None] = {
        "prometheus": f"http://127.0.0.1:{server.port}",
        "start": "2026-09-21T14:13:20Z",
        "end": f"{NOW + 600:.0f}",
        "step": "15s",
        "namespace": "shop",
        "stable-pods": "stable-0,stable-1,stable-2",
        "canary-pods": "canary-.*",
    }
    return [f"--{name}={value}" for name, value in (said | changes).items() if value is not None]


async def test_the_command_says_what_the_policy_would_have_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.cli.PATIENCE", 0.0)
    out = tmp_path / "out.json"
    async with serving(world(slower=3.0)) as server:
        ran = await asyncio.to_thread(command, *options(server), f"--json={out}")
    assert ran.exit_code == 3, ran.output
    assert "by latency-p95" in ran.output
    assert "41 of 41 instants read, up to 2026-09-21 14:23:20Z" in ran.stderr
    assert 150 < json.loads(out.read_text())["at"] < 300


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"start": "yesterday"}, 2, '--start: "yesterday" is no time; give for example 2026-11-27T14:00:00Z'),
        ({"start": "nan"}, 2, '--start: "nan" is no time'),
        ({"end": "2026-09-21T14:13:20"}, 2, "has no time zone; give for example 2026-09-21T14:13:20Z"),
        ({"start": "2026-09-21"}, 2, "has no time zone; give for example 2026-09-21T00:00:00Z"),
        (
            {"start": "20260921"},
            2,
            '--start: "20260921" s after 1970 are 1970-08-23; give for example 2026-11',
        ),
        ({"start": None}, 2, "--start: is missing"),
        ({"canary-pods": None}, 2, "--canary-pods: is missing"),
        ({"step": "soon"}, 2, '--step: expected a duration such as "30s"'),
        ({"step": "1ms"}, 2, "--step: 1ms is less than 0.1 s"),
        ({"prometheus": "http://127.0.0.1:9"}, 1, "see that it runs and can be reached from here"),
        ({"prometheus": "prometheus"}, 1, "let --prometheus be the address"),
        ({"stable-pods": "("}, 2, '--stable-pods: "(" cannot be asked for; correct the regular expression'),
        ({"canary-pods": "("}, 2, "--canary-pods"),
        ({"prometheus": None}, 2, "give a file of ticks, or --prometheus"),
    ],
)
async def test_the_command_names_what_is_wrong(changes: dict[str, str | None], code: int, says: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if "(" in request.query["query"].partition("pod=~")[2][:4]:
            return web.json_response({"status": "error", "error": "missing closing )"}, status=400)
        return await world()(request)

    async with serving(answer) as server:
        ran = await asyncio.to_thread(command, *options(server, **changes))
    assert (ran.exit_code, says in ran.stderr) == (code, True), ran.output


def test_a_file_and_a_prometheus_are_one_too_many(tmp_path: Path) -> None:
    ran = command(str(tmp_path / "ticks.jsonl"), "--prometheus=http://localhost:9090")
    assert ran.exit_code == 2
    assert "are both recordings; give one of the two" in ran.stderr


# -- a real Prometheus -----------------------------------------------------------------------------


def scraped(url: str, pods: int) -> None:
    """All of them have been scraped."""
    with closing(Past(url)) as past:
        for _ in range(100):
            time.sleep(0.2)
            with suppress(Unanswered):  # it is still starting
                if len(past.readings("lab", ["s-1", "s-2", "c-1"], [], at=time.time())[0]) == pods:
                    return
    pytest.fail(f"{past} scrapes nobody")


def test_series_without_a_pod_s_name_are_no_pod() -> None:
    with closing(Past("http://prometheus.lab")) as past:
        past._server = SimpleNamespace(scrapes=lambda *_, **__: {"": 3.0, "a": 2.0}, close=lambda: None)
        assert past.pods("lab", ".*", start=0.0, end=9.0) == {"a": 2.0}


@pytest.mark.live
async def test_a_real_prometheus_gives_back_what_pods_counted_over_time(tmp_path: Path) -> None:
    pages = Pages("s-1", "s-2", "c-1")
    pages.counts = dict.fromkeys(pages.counts, (1000, 0))
    async with serving(pages) as server:
        with running(tmp_path, server.port, {name: f"/{name}" for name in pages.counts}) as url:
            await asyncio.to_thread(scraped, url, len(pages.counts))
            began = time.time()
            for second in range(20):
                await asyncio.sleep(1)
                bad = max(0, second - 5)
                pages.counts = {"s-1": (1000 + 40 * second, 0), "s-2": (1000 + 60 * second, 0)} | {
                    "c-1": (1000 + 20 * second, 10 * bad)
                }
            await asyncio.sleep(2)
            said = [f"--prometheus={url}", f"--start={began:.0f}", f"--end={time.time():.0f}", "--step=1s"]
            ran = await asyncio.to_thread(
                command, *said, "-n", "lab", "--stable-pods=s-.*", "--canary-pods=c-1"
            )

            def read() -> tuple[Moment, ...]:
                span = Span(
                    namespace="lab", stable="s-.*", canary="c-1", start=began, end=time.time(), step=1.0
                )
                with closing(Past(url)) as past:
                    return recorded.moments(past, span, POLICY)

            found = await asyncio.to_thread(read)
    assert ran.exit_code == 3, ran.output
    assert "by errors" in ran.output
    canary, stable = total(found, "errors", "canary"), total(found, "errors", "stable")
    assert canary == Counts(20 * 19, 10 * 14)
    assert stable == Counts(100 * 19, 0)
