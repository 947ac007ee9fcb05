"""A Prometheus is asked for what it scraped: a real one, and one that has every fault there is."""

import asyncio
import json
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from socket import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from analysis.evidence import CheckKind, CheckSpec
from analysis.samples import Counts, Histogram
from controller import prometheus, queries, settings
from controller.model import PodSeen
from controller.operate import Operator
from controller.ports import Outside, Reading
from controller.prometheus import LARGEST, Prometheus
from controller.queries import query
from controller.ticks import Cursor, Pace, advance
from tests.adapters.test_connect import Server, serving

Json = Any
LATENCY = CheckSpec(name="latency-p95", kind=CheckKind.LATENCY)
ERRORS = CheckSpec(name="errors", kind=CheckKind.ERROR_RATE)
PREDICTIONS = CheckSpec(name="predictions", kind=CheckKind.PREDICTIONS)
EVERY = (LATENCY, ERRORS, PREDICTIONS)
RUN = "lab/model-canary-abc-1"
NOW = 1_790_000_000.0
SOON = 20.0  # seconds after which a test gives up; nothing takes a tenth of it


def pod(name: str) -> PodSeen:
    return PodSeen(
        name=name, node="n", ip="10.0.0.1", ready=True, created=datetime.fromtimestamp(NOW - 3600, UTC)
    )


# -- what is asked ---------------------------------------------------------------------------------


def test_pods_are_named_one_by_one_and_no_character_of_a_name_is_a_pattern() -> None:
    assert query("up", "lab", ["model-v1-x.2", "model-v1-a"]) == (
        r'timestamp(up{namespace="lab",pod=~"model\\-v1\\-a|model\\-v1\\-x\\.2"}) and '
        r'up{namespace="lab",pod=~"model\\-v1\\-a|model\\-v1\\-x\\.2"} == 1'
    )
    assert r'namespace="a\"}\n\\"' in query("up", 'a"}\n\\', ["b"])


def test_counters_are_asked_for_as_they_stand() -> None:
    templates = queries._templates()
    assert prometheus._WANTED.keys() == set(CheckKind)
    series = {"up", *prometheus._ALWAYS, *sum(prometheus._WANTED.values(), ())}
    assert templates.keys() == {*series, "counter", "mixed"}
    for name, template in templates.items():
        if name == "mixed":
            assert set(re.findall(r"by \(([^)]*)\)", template.template)) == {"pod, job, instance"}
            continue
        assert not re.search(r"rate|increase|\[|offset", template.template)
        start = r"timestamp\(up\{" if name == "up" else r"sum by \(pod, job, instance\b"
        assert re.match(start, template.template), name
        assert (name if name in series else "$name") in template.template


def test_a_counter_that_a_check_names_is_asked_for_by_its_name() -> None:
    assert query("clicks_total", "lab", ["b", "a"]) == (
        'sum by (pod, job, instance) (clicks_total{namespace="lab",pod=~"a|b"})'
    )


async def test_the_process_s_settings_give_the_controller_its_prometheus() -> None:
    @asynccontextmanager
    async def nothing(*_: Any, **__: Any) -> AsyncIterator[Any]:
        raise AssertionError
        yield

    async def nowhere(*_: Any, **__: Any) -> Any:
        raise AssertionError

    transport: Any = SimpleNamespace(request=nothing)
    outside = Outside(
        transport=transport, fetch=nowhere, post=nowhere, ask=nowhere, clock=lambda: datetime.now(UTC)
    )
    said = {"prometheus_url": "http://prometheus:9090/", "prometheus_interval": "30s"}
    source = Operator(settings.read(said, {}), outside)._prometheus(outside.clock)
    assert source is not None
    assert (str(source._server), source._every) == ("Prometheus http://prometheus:9090", 6.0)
    await source.close()
    seldom = Operator(settings.read(said, {}), outside)._prometheus(outside.clock, rounds=1)
    assert seldom is not None
    assert seldom._every == 30.0
    await seldom.close()
    assert Operator(settings.read({}, {}), outside)._prometheus(outside.clock) is None


# -- a server with faults --------------------------------------------------------------------------


def vector(*series: tuple[Mapping[str, str], float | str]) -> Json:
    result = [{"metric": dict(labels), "value": [NOW, str(value)]} for labels, value in series]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def scalar(value: float | str) -> Json:
    return {"status": "success", "data": {"resultType": "scalar", "result": [NOW, str(value)]}}


def named(query: str) -> str:
    """The name of the template that the query was made of, or of the question for the time."""
    if query == "time()":
        return "time"
    found = re.search(r"\b(\w+)\{", query)
    assert found
    return found[1]


def of(name: str, **labels: str) -> dict[str, str]:
    return {"pod": name, "job": "pods", "instance": "10.0.0.1:8080", **labels}


class Scraped:
    """What a scripted Prometheus has: by series' name, label sets and values. Whoever scrapes is well."""

    def __init__(self, *pods: str, at: float = NOW) -> None:
        self.series: dict[str, list[tuple[Mapping[str, str], float | str]]] = defaultdict(list)
        self.series["up"] = [(of(name), at) for name in pods]
        self.now = NOW + 0.5
        self.partly: dict[str, list[str]] = {}  # by series: pods some of whose label sets are still to come
        self.instead: dict[str, Callable[[], Awaitable[web.StreamResponse]]] = {}
        self.hanging = asyncio.Event()
        for name in pods:
            self.requests(name, 100)

    def requests(self, pod: str, n: float | str, code: str = "200", **labels: str) -> None:
        more = {"reporter": "destination", "response_code": code} | labels
        self.series["istio_requests_total"].append((of(pod, **more), n))

    def histogram(self, family: str, pod: str, **counts: float | str) -> None:
        for le, count in counts.items():
            bound = "+Inf" if le == "inf" else le.removeprefix("le_").replace("_", ".")
            self.series[f"{family}_bucket"].append((of(pod, le=bound, reporter="destination"), count))

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        name = named(request.query["query"])
        if " > min by " in request.query["query"]:
            return web.json_response(vector(*[(of(one), NOW) for one in self.partly.get(name, ())]))
        if name in self.instead:
            return await self.instead[name]()
        if name == "time":
            return web.json_response(scalar(self.now))
        return web.json_response(vector(*self.series[name]))

    async def hang(self) -> web.StreamResponse:
        self.hanging.set()
        await asyncio.Event().wait()
        raise AssertionError


def answering(body: bytes | Json, status: int = 200, **headers: str) -> Any:
    async def answer() -> web.StreamResponse:
        said = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=said, status=status, headers=headers)

    return answer


class Asking:
    """A source on that server, and the rounds that it has made."""

    def __init__(self, source: Prometheus, server: Server) -> None:
        self.source, self.server = source, server
        self.rounds = 0
        self._news = asyncio.Condition()
        source.on_news = self._told
        self._tasks: set[asyncio.Task[None]] = set()

    def _told(self, _run: str) -> None:
        self.rounds += 1
        task = asyncio.ensure_future(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def round(self) -> Mapping[str, Reading]:
        """What is known after a round that begins after now."""
        until = self.rounds + 2
        async with asyncio.timeout(SOON), self._news:
            await self._news.wait_for(lambda: self.rounds >= until)
        return self.source.read(RUN)

    @property
    def trouble(self) -> str:
        """What is wrong with pod `a`."""
        found = self.source.troubles(RUN)
        return found["a"].what if "a" in found else ""


@asynccontextmanager
async def asking(scraped: Any, *, patience: float = 5.0, clock: Any = None) -> AsyncIterator[Asking]:
    async with serving(scraped) as server:
        source = Prometheus(
            f"http://127.0.0.1:{server.port}/",
            clock or (lambda: datetime.fromtimestamp(NOW + 0.5, UTC)),
            interval=timedelta(seconds=0.2),
            timeout=patience,
        )
        try:
            yield Asking(source, server)
        finally:
            await ended(source)


async def ended(source: Prometheus) -> None:
    """Closed, and its threads gone: one that connects in the server's last moment leaves a socket behind."""
    await source.close()
    await asyncio.to_thread(source._pool.shutdown)


async def until(true: Callable[[], bool], source: Prometheus) -> None:
    """`true` holds; else what the source had to say."""
    try:
        async with asyncio.timeout(SOON):
            while not true():  # noqa: ASYNC110 - much of what is waited for has no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{source.read(RUN)}, {source.troubles(RUN)}")


async def test_a_pod_each_scrape_of_which_is_of_another_process_is_not_read_for_long() -> None:
    scraped, at = Scraped("a", "b"), NOW
    async with asking(scraped, clock=lambda: datetime.fromtimestamp(at + 0.5, UTC)) as asked:
        asked.source.watch(RUN, [pod("a"), pod("b")], [ERRORS])
        for scrape in range(8):
            at = NOW + 15 * scrape
            scraped.now = at + 0.5
            scraped.series["up"] = [(of(name), at) for name in ("a", "b")]
            scraped.series["istio_requests_total"] = []
            scraped.requests("a", (600 if scrape % 2 else 1000) + scrape)
            scraped.requests("b", 100 * scrape)
            found = await asked.round()
            assert (asked.trouble == "") == (scrape < 5)  # the third fall
        assert (found["a"].at, found["b"].at) == (NOW + 60, NOW + 105)
        assert "its counters fall again and again" in asked.trouble


@pytest.mark.parametrize("name", ["istio_requests_total", "model_prediction_value_bucket"])
async def test_a_scrape_that_has_come_in_part_waits_for_the_rest(name: str) -> None:
    """Over several connections failures came first: they were all that a healthy canary had in that tick."""
    scraped = Scraped("a", "b")
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a"), pod("b")], EVERY)
        before = dict(await asked.round())
        scraped.requests("a", 5, "503")
        scraped.partly[name] = ["a"]
        scraped.series["up"] = [(of(one), NOW + 0.25) for one in ("a", "b")]
        scraped.now = NOW + 0.34
        found = await asked.round()
        assert (found["a"], found["b"].at) == (before["a"], NOW + 0.25)
        scraped.now = NOW + 0.36  # half an interval later
        assert (await asked.round())["a"].requests == Counts(105, 5)
        scraped.partly.clear()
        scraped.now = NOW + 0.4
        scraped.series["up"] = [(of(one), NOW + 0.4) for one in ("a", "b")]
        scraped.series["istio_requests_total"] = []
        scraped.requests("a", 200)
        scraped.requests("a", 5, "503")
        assert (await asked.round())["a"].requests == Counts(205, 5)


async def test_an_answer_that_says_it_is_whole_is_used() -> None:
    scraped = Scraped("a")
    scraped.instead["time"] = answering(scalar(NOW) | {"isPartial": False, "infos": ["no counter"]})
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        assert (await asked.round())["a"].requests == Counts(100, 0)


async def test_each_pod_has_a_reading_as_old_as_its_scrape() -> None:
    scraped = Scraped("a")
    scraped.series["up"].append((of("b"), NOW - 7.5))
    scraped.requests("b", 40)
    scraped.requests("b", 2, "503")
    scraped.requests("b", 1, "200", grpc_response_status="14")
    for name in ("a", "b"):
        scraped.histogram("model_inference_duration_seconds", name, le_0_1=3, le_0_5=4, inf=5)
        scraped.histogram("istio_request_duration_milliseconds", name, le_100=30, inf=50)
        scraped.histogram("model_prediction_value", name, le_0_5=1, inf=2)
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a"), pod("b")], EVERY)
        found = await asked.round()
        assert {name: one.at for name, one in found.items()} == {"a": NOW, "b": NOW - 7.5}
        assert found["b"].requests == found["b"].values["errors"] == Counts(43, 3)
        assert found["a"].values == {
            "errors": Counts(100, 0),
            "latency-p95": Histogram((0.1, 0.5), (3, 1, 1)),
            "predictions": Histogram((0.5,), (1, 1)),
        }
        assert found["a"].sources["latency-p95"] == "model_inference_duration_seconds"


async def test_a_proportion_is_asked_for_by_the_counters_that_its_check_names() -> None:
    clicks = CheckSpec(name="clicks", kind=CheckKind.PROPORTION, counters=("clicks_total", "views_total"))
    scraped = Scraped("a", "b")
    for name, views in (("a", 70), ("b", 30)):
        scraped.series["views_total"].append((of(name), views))
    scraped.series["clicks_total"].append((of("a"), 7))
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a"), pod("b")], [ERRORS, clicks])
        found = await asked.round()
        assert found["a"].values["clicks"] == Counts(70, 7)
        assert found["a"].times == {"errors": NOW, "clicks": NOW}
        assert "clicks" not in found["b"].values
        assert "clicks: clicks_total is not in Prometheus" in asked.source.troubles(RUN)["b"].what


async def test_a_round_asks_for_both_arms_at_one_instant_and_never_past_the_checks() -> None:
    async with asking(Scraped("a", "b")) as asked:
        asked.source.watch(RUN, [pod("a"), pod("b")], [ERRORS])
        await asked.round()
        asked.source.watch(RUN, [], [])
        queries = [request.query for request in asked.server.requests]
        series = [one for one in queries if one["query"] != "time()"]
        assert {one["time"] for one in series} == {f"{NOW + 0.5:.3f}"}
        assert {named(one["query"]) for one in series} == {"up", *prometheus._ALWAYS}
        assert all('namespace="lab",pod=~"a|b"' in one["query"] for one in series)
        assert {request.path for request in asked.server.requests} == {"/api/v1/query"}


async def test_a_pod_that_two_jobs_scrape_counts_once_and_by_the_same_one_each_time() -> None:
    scraped = Scraped()
    for job, at, n in (("sidecars", NOW, 120), ("pods", NOW - 3, 100)):
        labels = {"pod": "a", "job": job, "instance": f"10.0.0.1:{job}"}
        scraped.series["up"].append((labels, at))
        counted = labels | {"reporter": "destination", "response_code": "200"}
        scraped.series["istio_requests_total"].append((counted, n))
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        reading = (await asked.round())["a"]
        assert (reading.at, reading.requests) == (NOW - 3, Counts(100, 0))
        scraped.series["up"].pop()  # pods does not reach it any more
        reading = (await asked.round())["a"]
        assert (reading.at, reading.requests) == (NOW, Counts(120, 0))


async def test_a_pod_whose_series_stand_there_twice_is_not_counted_twice() -> None:
    """Two replicas of a Prometheus behind one address: each request was two, in one arm or in both."""
    scraped = Scraped("a", "b")
    scraped.series["up"] = [
        (of(name, prometheus_replica=one, service="model"), NOW) for name in ("a", "b") for one in "xy"
    ]
    scraped.series["up"] += [(of("b", job="sidecars"), NOW)]
    scraped.series["istio_requests_total"] += [
        (of("b", job="sidecars", reporter="destination", response_code="200"), 50)
    ]
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a"), pod("b")], [ERRORS])
        found = await asked.round()
        assert {name: one.requests for name, one in found.items()} == {"b": Counts(50, 0)}
        assert (
            "has the pod's scrapes more than once (prometheus_replica: x, y); each request" in asked.trouble
        )
        assert "deduplicate" in asked.trouble


async def test_what_two_targets_of_a_pod_say_has_times_of_its_own() -> None:
    scraped = Scraped("a")
    model = {"pod": "a", "job": "models", "instance": "10.0.0.1:9000"}
    scraped.series["up"].append((model, NOW - 4))
    for le, count in (("0.1", 3), ("+Inf", 5)):
        scraped.series["model_inference_duration_seconds_bucket"].append((model | {"le": le}, count))
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a")], [LATENCY, ERRORS])
        reading = (await asked.round())["a"]
        assert (reading.at, reading.times) == (NOW, {"latency-p95": NOW - 4, "errors": NOW})


async def test_a_pod_that_was_scraped_and_lacks_a_series_is_read_without_it() -> None:
    scraped = Scraped("a")
    scraped.series["up"].append((of("c"), NOW))
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a"), pod("c")], [ERRORS])
        reading = (await asked.round())["c"]
        assert (reading.requests, reading.values, reading.sources) == (None, {}, {})
        assert "istio_requests_total is not in Prometheus http://" in asked.source.troubles(RUN)["c"].what


async def test_a_pod_that_was_not_scraped_has_no_reading_and_people_are_told_what_to_do() -> None:
    async with asking(Scraped("a")) as asked:
        asked.source.watch(RUN, [pod("a"), pod("c")], [ERRORS])
        assert set(await asked.round()) == {"a"}
        trouble = asked.source.troubles(RUN)["c"].what
        assert f"Prometheus http://127.0.0.1:{asked.server.port} has not scraped the pod" in trouble
        assert "query up" in trouble
        assert 'labels "namespace" and "pod"' in trouble


async def test_a_scrape_that_is_long_ago_is_a_trouble_that_names_the_setting() -> None:
    async with asking(Scraped("a", at=NOW - 60)) as asked:
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        assert (await asked.round())["a"].at == NOW - 60
        assert "60 s ago" in asked.trouble
        assert "SERIN_PROMETHEUS_INTERVAL" in asked.trouble


async def test_a_target_that_went_away_leaves_its_last_reading_and_no_zero() -> None:
    scraped = Scraped("a", "b")
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a"), pod("b")], [ERRORS])
        before = dict(await asked.round())
        scraped.series.clear()
        assert await asked.round() == before
        assert "has not scraped the pod" in asked.trouble


@pytest.mark.parametrize("said", ["NaN", "+Inf", "-1", "1e300"])
async def test_what_is_no_count_was_not_read(said: str) -> None:
    scraped = Scraped("a")
    scraped.requests("a", said, "503")
    scraped.histogram("model_inference_duration_seconds", "a", le_0_1=1, inf=said)
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a")], [LATENCY, ERRORS])
        reading = (await asked.round())["a"]
        assert (reading.requests, reading.values) == (None, {})
        assert reading.sources.keys() == {"latency-p95", "errors"}  # there, and not read
        assert "errors: istio_requests_total" in asked.trouble


PARTIAL = vector() | {"warnings": ["store 10.0.0.9 is away"]}
BEYOND = {"status": "success", "data": {"result": [{"metric": of("a"), "value": [71, 10**400]}]}}
WITHOUT_VALUE = {"status": "success", "data": {"result": [{"metric": of("a"), "value": ["71,0"]}]}}


@pytest.mark.parametrize(
    ("answer", "says", "remedy"),
    [
        (answering(b"no", 500), "refused query istio_requests_total", "queries.toml"),
        (answering({"status": "error", "error": "parse error"}, 400), "parse error", "queries.toml"),
        (answering(b"", 401), "HTTP Status Code 401", "queries.toml"),
        (answering(b'{"status":"success","data":{"resu'), "with something else", "/api/v1/query"),
        (answering(b'{"warnings": ['), "with something else", "/api/v1/query"),
        (answering(b"<html>Sign in</html>"), "with something else", "/api/v1/query"),
        (answering(b"", 302, Location="/login"), "with something else", "/api/v1/query"),
        (answering({"status": "success", "data": None}), "with something else", "/api/v1/query"),
        (answering([]), "with something else", "/api/v1/query"),
        (answering(vector(({"job": "pods"}, 1.0))), "with something else", "/api/v1/query"),
        (answering(BEYOND), "with something else", "/api/v1/query"),
        (answering(vector((of("a"), "many"))), "with something else", "/api/v1/query"),
        (answering(vector((of("a") | {"job": cast(str, 7)}, 1.0))), "with something else", "/api/v1/query"),
        (answering(b"[" * 100_000), "with something else", "/api/v1/query"),
        (answering(WITHOUT_VALUE), "with something else", "/api/v1/query"),
        (answering(b"[" + b" " * LARGEST + b"]"), f"more than {LARGEST} bytes", "SERIN_PROMETHEUS_URL"),
        (answering(vector() | {"isPartial": True}), "answered in part", "vmstorage"),
        (answering(PARTIAL), "store 10.0.0.9 is away", "see to what it warns of"),
    ],
)
async def test_an_answer_that_cannot_be_used_leaves_everything_as_it_was(
    answer: Any, says: str, remedy: str
) -> None:
    """Also where one query of a round fails and the others do not: a round is of one moment, or nothing."""
    scraped = Scraped("a")
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        before = dict(await asked.round())
        assert before["a"].requests == Counts(100, 0)
        scraped.instead["istio_requests_total"] = answer
        scraped.series["up"] = [(of("a"), NOW + 0.25)]
        assert await asked.round() == before
        assert asked.trouble.startswith(f"Prometheus http://127.0.0.1:{asked.server.port} ")
        assert says in asked.trouble
        assert remedy in asked.trouble
        assert len(asked.trouble) < 500
        scraped.instead.clear()
        assert (await asked.round())["a"].at == NOW + 0.25
        assert asked.trouble == ""


def at(clock: Asking, seconds: float) -> None:
    """It is so many seconds past the scrape's time here."""
    clock.source._clock = lambda: datetime.fromtimestamp(NOW + seconds, UTC)


async def test_it_is_asked_what_it_knows_now_whatever_time_it_is_here() -> None:
    """By our own clock it would be asked for the past, in which no canary fails, or for what is to come."""
    scraped = Scraped("a")
    for away in (-600.0, 86400.0):
        async with asking(scraped) as asked:
            at(asked, away)
            asked.source.watch(RUN, [pod("a")], [ERRORS])
            reading = (await asked.round())["a"]
            assert (reading.at, reading.times["errors"]) == (NOW + away - 0.5, NOW + away - 0.5)
            queries = [request.query for request in asked.server.requests]
            assert {one["time"] for one in queries if "time" in one} == {f"{NOW + 0.5:.3f}"}
            assert asked.trouble == ""


async def test_readings_go_forward_as_much_as_prometheus_does_whatever_is_done_to_our_clock() -> None:
    """Ours was an hour ahead when the leader began, and is led back little by little."""
    scraped = Scraped("a")
    async with asking(scraped) as asked:
        at(asked, 3600)
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        first = (await asked.round())["a"]
        assert (first.at, first.times["errors"]) == (NOW + 3599.5, NOW + 3599.5)
        at(asked, 3000)
        scraped.series["up"], scraped.now = [(of("a"), NOW + 15)], NOW + 15.5
        second = (await asked.round())["a"]
        assert second.at - first.at == second.times["errors"] - first.times["errors"] == 15
        assert await asked.round() == {"a": second}


async def test_a_page_does_not_look_new_because_an_answer_took_its_time() -> None:
    scraped = Scraped("a")
    async with asking(scraped) as asked:
        at(asked, 60.5)
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        before = await asked.round()
        at(asked, 60.5 + 0.9)
        assert await asked.round() == before
        assert before["a"].at == NOW + 60


async def test_what_prometheus_knew_before_is_not_taken_for_news() -> None:
    """Its own clock is set back, or another one answers that is behind: counters would seem to begin anew."""
    scraped = Scraped("a", at=NOW - 60)
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        before = dict(await asked.round())
        scraped.series["up"], scraped.now = [(of("a"), NOW - 90)], NOW - 80
        scraped.series["istio_requests_total"].clear()
        scraped.requests("a", 50)
        assert await asked.round() == before
        assert before["a"].requests == Counts(100, 0)


@pytest.mark.parametrize("said", ["NaN", "+Inf", "noon"])
async def test_a_time_that_is_none_is_a_trouble(said: str) -> None:
    scraped = Scraped("a")
    scraped.instead["time"] = answering(scalar(said))
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        assert await asked.round() == {}
        assert "answered query time with something else" in asked.trouble


async def test_troubles_are_counted_from_their_beginning() -> None:
    scraped = Scraped("a")
    scraped.instead["up"] = answering(b"no", 503)
    times = iter(range(10**6))
    async with asking(scraped, clock=lambda: datetime.fromtimestamp(NOW + next(times), UTC)) as asked:
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        await asked.round()
        trouble = asked.source.troubles(RUN)["a"]
        assert (trouble.since, trouble.failures) == (NOW, asked.rounds)


async def test_a_server_that_fails_is_asked_once_a_round() -> None:
    """The client would try three times more, with pauses, on an adapter that it mounts by itself."""
    scraped = Scraped("a")
    scraped.instead["time"] = answering(b"no", 503)
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        await asked.round()
        asked.source.watch(RUN, [], [])
        assert len(asked.server.requests) in {asked.rounds, asked.rounds + 1}


async def test_nobody_there_is_a_trouble() -> None:
    async with asking(Scraped("a")) as asked:
        nobody = Prometheus("http://127.0.0.1:9", lambda: datetime.now(UTC), interval=timedelta(seconds=0.2))
        tried = asyncio.Event()
        nobody.on_news = lambda _run: tried.set()
        nobody.watch(RUN, [pod("a")], [ERRORS])
        async with asyncio.timeout(SOON):
            await tried.wait()
        assert "did not answer query time: connection refused; " in nobody.troubles(RUN)["a"].what
        assert "SERIN_PROMETHEUS_URL" in nobody.troubles(RUN)["a"].what
        await nobody.close()
        assert asked.source.read(RUN) == {}


# -- a server that hangs ---------------------------------------------------------------------------


async def test_while_prometheus_hangs_the_event_loop_turns() -> None:
    """By order, not by the clock: a hundred turns come and go between the question and its time-out."""
    scraped = Scraped("a")
    scraped.instead["up"] = scraped.hang
    order: list[str] = []
    async with asking(scraped, patience=1.0) as asked:
        failed = asyncio.Event()

        def told(_run: str) -> None:
            order.append("gave up")
            failed.set()

        asked.source.on_news = told
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        async with asyncio.timeout(SOON):
            await scraped.hanging.wait()
            order.append("asked")
            for turn in range(100):
                await asyncio.sleep(0)
                assert asked.source.read(RUN) == {}
                order.append(f"turn {turn}")
            await failed.wait()
        assert order == ["asked", *(f"turn {turn}" for turn in range(100)), "gave up"]
        assert "did not answer query up" in asked.trouble


async def test_while_prometheus_hangs_other_servers_are_answered() -> None:
    """Twenty runs wait for a dead Prometheus with eight threads; a request of another kind waits for none."""
    scraped = Scraped("a")
    scraped.instead["up"] = scraped.hang
    order: list[str] = []
    async with asking(scraped, patience=1.0) as asked, serving(answering_page) as other:
        asked.source.on_news = lambda _run: order.append("gave up")
        for run in range(20):
            asked.source.watch(f"lab/run-{run}", [pod("a")], [ERRORS])
        async with asyncio.timeout(SOON):
            await scraped.hanging.wait()
            reader, writer = await asyncio.open_connection("127.0.0.1", other.port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert b"200 OK" in await reader.read()
            order.append("answered")
            writer.close()
            await until(lambda: order.count("gave up") >= 20, asked.source)
        assert order[0] == "answered"
        assert len(asked.source._pool._threads) == prometheus.THREADS


async def answering_page(_request: web.Request) -> web.StreamResponse:
    return web.Response(text="up 1\n")


async def test_an_answer_that_trickles_is_given_up_in_time() -> None:
    """Each byte comes well within the client's time-out, the whole never does."""

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    async with asking(trickle, patience=0.5) as asked:
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        await asked.round()
        assert "too slow" in asked.trouble


async def test_a_scrape_that_comes_between_the_queries_waits_for_the_next_round() -> None:
    """It began before the instant that is asked for and ended after the first answer."""
    scraped = Scraped("a", "b")
    scraped.requests("b", 7)
    times = iter([NOW, NOW, NOW, NOW + 0.25, NOW + 0.25, NOW + 0.25])
    seen: list[float] = []

    async def up() -> web.StreamResponse:
        seen.append(next(times, NOW + 0.25))
        return web.json_response(vector((of("a"), seen[-1]), (of("b"), NOW)))

    async def counters() -> web.StreamResponse:
        count = 100 if len(seen) < 3 else 130  # the new scrape is there with the second round's counters
        return web.json_response(
            vector(
                *(
                    (of(pod, reporter="destination", response_code="200"), n)
                    for pod, n in (("a", count), ("b", 107))
                )
            )
        )

    scraped.instead = {"up": up, "istio_requests_total": counters}
    found = []
    async with asking(scraped) as asked:
        asked.source.on_news = lambda _run: found.append(asked.source.read(RUN))
        asked.source.watch(RUN, [pod("a"), pod("b")], [ERRORS])
        await until(lambda: len(found) >= 3, asked.source)
    of_a = [(one["a"].at, one["a"].requests) for one in found[:3]]
    assert of_a == [(NOW, Counts(100, 0)), (NOW, Counts(100, 0)), (NOW + 0.25, Counts(130, 0))]
    assert {one["b"].at for one in found} == {NOW}


async def test_queries_share_the_round_s_time() -> None:
    scraped = Scraped("a")

    async def slow() -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.json_response(vector((of("a"), NOW)))

    scraped.instead = dict.fromkeys(("up", *prometheus._ALWAYS), slow)
    async with asking(scraped, patience=0.5) as asked:
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        await asked.round()
        assert "did not answer" in asked.trouble
        assert asked.source.read(RUN) == {}


# -- pods and runs ---------------------------------------------------------------------------------


async def test_pods_come_and_go() -> None:
    async with asking(Scraped("a", "b", "c")) as asked:
        asked.source.watch(RUN, [pod("a"), pod("b")], [ERRORS])
        assert set(await asked.round()) == {"a", "b"}
        asked.source.watch(RUN, [pod("b"), pod("c")], [ERRORS])
        assert set(asked.source.read(RUN)) == {"b"}
        assert set(await asked.round()) == {"b", "c"}
        asked.source.watch(RUN, [], [])
        assert asked.source.read(RUN) == asked.source.troubles(RUN) == {}
        rounds = asked.rounds
        asked.source.watch("lab/other", [pod("a")], [ERRORS])
        await until(lambda: bool(asked.source.read("lab/other")), asked.source)
        assert asked.rounds > rounds


async def test_no_reading_is_older_than_the_one_before() -> None:
    scraped = Scraped("a")
    async with asking(scraped) as asked:
        asked.source.watch(RUN, [pod("a")], [ERRORS])
        await asked.round()
        scraped.series["up"] = [(of("a"), NOW - 30)]
        assert (await asked.round())["a"].at == NOW


# -- a real Prometheus -----------------------------------------------------------------------------


class Pages:
    """The pages of a few pods, as a real Prometheus scrapes them."""

    def __init__(self, *pods: str) -> None:
        self.counts = dict.fromkeys(pods, (0, 0))
        self.faults: set[str] = set()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        name = request.path.strip("/")
        if name in self.faults:
            return web.Response(status=500)
        n, k = self.counts[name]
        return web.Response(text=self.page(n, k), content_type="text/plain")

    @staticmethod
    def page(n: int, k: int) -> str:
        line = 'istio_requests_total{{reporter="destination",response_code="{}",source="{}"}} {}\n'
        page = "".join(line.format(200, source, (n - k) // 2) for source in ("x", "y"))
        page += line.format(503, "x", k) + line.format(200, "x", 9999).replace("destination", "source")
        for le, count in (("0.1", n // 2), ("0.5", n), ("+Inf", n)):
            for model in ("m1", "m2"):
                page += f'model_inference_duration_seconds_bucket{{model_name="{model}",le="{le}"}} {count}\n'
        return page


@contextmanager
def running(
    folder: Path, port: int, pages: Mapping[str, str], *, job: Json = None, rules: Json = None
) -> Iterator[str]:
    """A real Prometheus that scrapes each pod's page once a second; its address.

    Each job says what `job` says as well, and `rules` are the groups of its rules.
    """
    jobs = [
        {
            "job_name": f"pod-{number}",
            "metrics_path": path,
            "static_configs": [
                {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "lab", "pod": name}}
            ],
            **(job or {}),
        }
        for number, (name, path) in enumerate(pages.items())
    ]
    (folder / "rules.yml").write_text(json.dumps(rules or {"groups": []}))
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "900ms"},
        "scrape_configs": jobs,
        "rule_files": [str(folder / "rules.yml")],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    with closing(socket()) as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    program = which("prometheus")
    assert program, "this test needs a Prometheus: apt-get install --no-install-recommends prometheus"
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield f"http://{address}"
        finally:
            process.terminate()


@asynccontextmanager
async def scraping(folder: Path, pages: Pages, **paths: str) -> AsyncIterator[Prometheus]:
    async with serving(pages) as server:
        named = {name: f"/{name}" for name in pages.counts} | paths
        with running(folder, server.port, named) as url:
            source = Prometheus(url, lambda: datetime.now(UTC), interval=timedelta(seconds=1))
            try:
                yield source
            finally:
                await ended(source)


@pytest.mark.live
async def test_a_real_prometheus_gives_what_the_pods_counted(tmp_path: Path) -> None:
    pages = Pages("s-1.a", "s-1xa", "c")
    pages.counts = {"s-1.a": (100, 4), "s-1xa": (7777, 0), "c": (10, 2)}
    async with scraping(tmp_path, pages) as source:
        odd = ['q"', "b\\", "n\n", "x|y", "(", "é", "a b"]  # no pod can have these names
        source.watch(RUN, [*map(pod, ["s-1.a", "c", *odd])], EVERY)
        await until(lambda: len(source.read(RUN)) == 2, source)
        found = source.read(RUN)
        assert found["s-1.a"].requests == found["s-1.a"].values["errors"] == Counts(100, 4)
        assert found["c"].requests == Counts(10, 2)
        assert found["s-1.a"].values["latency-p95"] == Histogram((0.1, 0.5), (100, 100, 0))
        assert all(abs(time.time() - one.at) < 60 for one in found.values())
        troubles = source.troubles(RUN)
        assert all("has not scraped" in troubles[name].what for name in odd)
        assert "predictions: model_prediction_value is not in Prometheus" in troubles["c"].what
        pages.counts["c"] = (30, 2)
        await until(lambda: source.read(RUN)["c"].requests == Counts(30, 2), source)
        assert source.read(RUN)["c"].at > found["c"].at


@pytest.mark.live
async def test_ticks_between_real_scrapes_lose_nothing_and_count_nothing_twice(tmp_path: Path) -> None:
    """Through a counter that begins anew and a pod whose page fails: what ticks say is what was counted."""
    pages = Pages("s", "c")
    pages.counts = {"s": (1000, 0), "c": (100, 0)}
    total: dict[str, int] = defaultdict(int)
    async with scraping(tmp_path, pages) as source:
        source.watch(RUN, [pod("s"), pod("c")], [ERRORS])
        await until(lambda: len(source.read(RUN)) == 2, source)
        cursor = Cursor()

        def passed() -> None:
            nonlocal cursor
            cursor, closed, _ = advance(
                cursor,
                source.read(RUN),
                stable={"s": "n1"},
                canary={"c": "n2"},
                now=time.time(),
                pace=Pace(interval=timedelta(seconds=5)),
            )
            for tick in closed:
                for arm in (tick.stable, tick.canary):
                    for one in arm.pods:
                        total[one.name] += sum(one.value.cells)

        def heard(s: int, c: int) -> bool:
            passed()
            return (total["s"], total["c"]) == (s, c)

        await until(lambda: heard(0, 0) and "s" in cursor.checks["errors"].marks, source)
        pages.counts = {"s": (1040, 0), "c": (104, 0)}
        await until(lambda: heard(40, 4), source)
        pages.faults.add("c")
        await until(lambda: (passed(), "c" in source.troubles(RUN))[1], source)
        pages.counts = {"s": (1060, 0), "c": (106, 0)}
        pages.faults.clear()
        await until(lambda: heard(60, 6), source)
        pages.counts = {"s": (1060, 0), "c": (0, 0)}  # the container began again
        await until(lambda: (passed(), source.read(RUN)["c"].requests == Counts(0, 0))[1], source)
        pages.counts = {"s": (1080, 0), "c": (2, 0)}
        await until(lambda: heard(80, 8), source)


@pytest.mark.live
async def test_a_real_prometheus_forgets_a_pod_that_it_cannot_scrape(tmp_path: Path) -> None:
    pages = Pages("a", "b")
    pages.counts = {"a": (10, 0), "b": (10, 0)}
    async with scraping(tmp_path, pages) as source:
        source.watch(RUN, [pod("a"), pod("b"), pod("never")], [ERRORS])
        await until(lambda: len(source.read(RUN)) == 2, source)
        pages.faults.add("b")
        await until(lambda: "b" in source.troubles(RUN), source)
        assert set(source.troubles(RUN)) == {"b", "never"}
        last = source.read(RUN)["b"]
        pages.counts["a"] = (12, 0)
        await until(lambda: source.read(RUN)["a"].requests == Counts(12, 0), source)
        assert source.read(RUN)["b"] == last
