"""Pods' pages are read on time, by tasks that hold nobody up and never raise."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, generate_latest

from analysis.evidence import CheckKind, CheckSpec
from analysis.samples import Counts
from controller import effort, layouts, protobuf
from controller import scrape as scraped
from controller.explain import MOST_SAID
from controller.model import Page, PodSeen
from controller.pages import Pages
from controller.reading import ACCEPT, PLAIN
from controller.scrape import FEW, TOGETHER, Scrape
from controller.targets import addressed, chosen, target
from controller.tempo import MOMENTS, SIDE_BY_SIDE
from controller.ticks import Cursor, advance
from scenarios.virtual.loop import run_virtual, virtual_loop
from tests import wire

CHECKS = (CheckSpec(name="errors", kind=CheckKind.ERROR_RATE),)
BOTH = (*CHECKS, CheckSpec(name="calls", kind=CheckKind.ERROR_RATE))
CREATED = datetime(2026, 1, 1, tzinfo=UTC)
RUN = "lab/model-canary-abc-1"


def pod(name: str, ip: str = "", **annotations: str) -> PodSeen:
    said = {f"prometheus.io/{key}": value for key, value in annotations.items()}
    return PodSeen(
        name=name, node="n", ip=ip or f"10.0.0.{name[1:]}", ready=True, created=CREATED, annotations=said
    )


def page(n: int, k: int = 0) -> bytes:
    line = 'istio_requests_total{{reporter="destination",response_code="{}"}} {}\n'
    return (line.format(200, n - k) + line.format(500, k)).encode()


class Pods:
    """`ports.Fetch` in memory: what each URL answers, and when it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, list[float]] = defaultdict(list)
        self.answers: dict[str, Callable[[], Awaitable[bytes]]] = {}
        self.kinds: dict[tuple[str, str], tuple[str, bytes]] = {}  # by URL and what is accepted
        self.limits: set[tuple[str, int]] = set()

    async def __call__(self, url: str, *, accept: str, limit: int) -> tuple[str, bytes]:
        self.asked[url].append(asyncio.get_running_loop().time())
        self.limits.add((accept, limit))
        if (url, accept) in self.kinds:
            return self.kinds[url, accept]
        said = await self.answers[url]() if url in self.answers else page(len(self.asked[url]))
        return "text/plain", said


async def hangs() -> bytes:
    await asyncio.sleep(3600)
    return b""


def answering(said: bytes | Exception, *, after: float = 0.0) -> Callable[[], Awaitable[bytes]]:
    async def answer() -> bytes:
        await asyncio.sleep(after)
        if isinstance(said, Exception):
            raise said
        return said

    return answer


def url(name: str) -> str:
    return f"http://10.0.0.{name[1:]}:8080/metrics"


def scraping(story: Callable[[Scrape, Pods], Awaitable[None]], **options: Any) -> Pods:
    """A story with a scraper, in virtual time; nothing of it is left running."""
    pods = Pods()

    async def told() -> None:
        scrape = Scrape(pods, lambda: virtual_loop().now(), **options)
        await story(scrape, pods)
        await scrape.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(told())
    return pods


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (pod("a1"), "http://10.0.0.1:8080/metrics"),
        (pod("a1", port="15020", path="/stats/prometheus"), "http://10.0.0.1:15020/stats/prometheus"),
        (pod("a1", scheme="https", path="metrics?filter=x"), "https://10.0.0.1:8080/metrics?filter=x"),
        (pod("a1", port="", path="", scheme=""), "http://10.0.0.1:8080/metrics"),
        (pod("a1", ip="fd00::7"), "http://[fd00::7]:8080/metrics"),
        (pod("a1", path="@evil.example/x"), "http://10.0.0.1:8080/@evil.example/x"),
    ],
)
def test_the_target_is_what_the_pods_annotations_say(pod: PodSeen, expected: str) -> None:
    assert target(pod) == expected


@pytest.mark.parametrize(
    ("pod", "what"),
    [
        (pod("a1", scheme="ftp"), "say http or https"),
        (pod("a1", port="80@evil"), "say a port number"),
        (pod("a1", port="0"), "say a port number"),
        (pod("a1", port="65536"), "say a port number"),
        (pod("a1", port="²"), "say a port number"),
        (replace(pod("a1"), ip=""), "no IP address"),
    ],
)
def test_annotations_that_make_no_target_are_refused(pod: PodSeen, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        target(pod)


def test_at_most_twenty_stable_pods_are_read_and_always_the_same() -> None:
    pods = [pod(f"p{number}") for number in range(50)]
    few = chosen(pods)
    assert len(few) == 20
    assert few == chosen(reversed(pods)) == sorted(few, key=lambda one: one.name)
    assert chosen(few) == few
    for gone in pods:
        kept = {one.name for one in chosen([one for one in pods if one != gone])}
        assert len({one.name for one in few} - kept) <= 1


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (Page(port=9090), "http://10.0.0.1:9090/stats"),
        (Page(path="/model"), "http://10.0.0.1:15020/model"),
        (Page(port=9090, path="/@evil.example"), "http://10.0.0.1:9090/@evil.example"),
    ],
)
def test_a_checks_own_page_goes_before_the_annotations_and_stays_on_the_pod(
    page: Page, expected: str
) -> None:
    assert target(pod("a1", port="15020", path="/stats"), page) == expected


def test_checks_are_read_from_their_pages_and_requests_from_the_annotations() -> None:
    """The other page hangs later on: its own check is missed, and nothing else."""
    other = "http://10.0.0.1:9090/metrics"

    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.answers[other] = answering(page(700, 70))
        scrape.watch(RUN, [pod("a1")], BOTH, {"calls": Page(port=9090)})
        await asyncio.sleep(5)
        reading = scrape.read(RUN)["a1"]
        assert reading.values == {"errors": Counts(5, 0), "calls": Counts(700, 70)}
        assert reading.requests == Counts(5, 0)
        pods.answers[other] = hangs
        await asyncio.sleep(5)
        assert scrape.read(RUN)["a1"].values == {"errors": Counts(9, 0)}
        assert "no answer" in scrape.troubles(RUN)["a1"].what

    scraping(story)


def test_a_page_that_could_not_be_had_does_not_pass_for_a_series_that_is_not_there() -> None:
    """The canary's second page hangs at first; what it had served before the run is no news when it comes."""
    counted = []

    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.answers["http://10.0.0.1:9090/metrics"] = answering(page(9000))
        pods.answers["http://10.0.0.2:9090/metrics"] = hangs
        scrape.watch(RUN, [pod("s1"), pod("c2")], BOTH, {"calls": Page(port=9090)})
        cursor = Cursor()
        for second in range(10):
            if second == 4:
                pods.answers["http://10.0.0.2:9090/metrics"] = answering(page(5000, 400))
            await asyncio.sleep(1)
            now, readings = virtual_loop().now().timestamp(), scrape.read(RUN)
            cursor, ticks, _ = advance(cursor, readings, stable={"s1": "n"}, canary={"c2": "m"}, now=now)
            counted.extend(one.value for tick in ticks if tick.check == "calls" for one in tick.canary.pods)

    scraping(story)
    assert set(counted) == {Counts(0, 0)}


def test_without_the_page_that_counts_requests_there_is_no_reading() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.answers[url("a1")] = answering(OSError("refused"))
        pods.answers["http://10.0.0.1:9090/metrics"] = answering(page(700))
        scrape.watch(RUN, [pod("a1")], BOTH, {"calls": Page(port=9090)})
        await asyncio.sleep(5)
        assert scrape.read(RUN) == {}
        assert "refused" in scrape.troubles(RUN)["a1"].what

    scraping(story)


def test_where_every_check_names_its_page_no_other_is_asked_for() -> None:
    async def story(scrape: Scrape, _: Pods) -> None:
        scrape.watch(RUN, [pod("a1")], BOTH, dict.fromkeys(("errors", "calls"), Page(port=9090)))
        await asyncio.sleep(5)
        assert scrape.read(RUN)["a1"].requests == Counts(5, 0)

    assert scraping(story).asked.keys() == {"http://10.0.0.1:9090/metrics"}


# -- when and how ----------------------------------------------------------------------------------


def test_every_pod_is_read_once_a_second() -> None:
    async def story(scrape: Scrape, _: Pods) -> None:
        scrape.watch(RUN, [pod("a1"), pod("a2")], CHECKS)
        await asyncio.sleep(10)
        readings = scrape.read(RUN)
        assert {name: reading.values["errors"] for name, reading in readings.items()} == {
            "a1": Counts(10, 0),
            "a2": Counts(10, 0),
        }
        assert all(
            9.0 <= reading.at - virtual_loop().now().timestamp() + 10 <= 10.0 for reading in readings.values()
        )
        assert scrape.troubles(RUN) == {}

    pods = scraping(story)
    assert pods.limits == {(ACCEPT, 2 * 1024 * 1024)}
    for times in pods.asked.values():
        assert [b - a for a, b in pairwise(times)] == pytest.approx([1.0] * 9)


def test_runs_are_read_at_moments_of_their_own_and_the_pods_of_a_run_together() -> None:
    async def story(scrape: Scrape, _: Pods) -> None:
        for run in range(20):
            scrape.watch(f"lab/run-{run}", [pod(f"a{10 * run + number}") for number in range(5)], CHECKS)
        await asyncio.sleep(2)

    asked = scraping(story).asked
    begins = []
    for run in range(20):
        times = [asked[url(f"a{10 * run + number}")] for number in range(5)]
        first = max(min(one) for one in times)
        if first - min(min(one) for one in times) > 0.5:  # some of them before a full second, some after
            times = [one[1:] if one[0] < first - 0.5 else one for one in times]
        assert max(one[0] for one in times) - min(one[0] for one in times) <= 0.1
        begins.append(min(one[0] for one in times) % 1)
    assert len({int(10 * begin) for begin in begins}) >= 7


def test_many_runs_are_read_at_few_moments_that_they_share() -> None:
    runs = 7 * SIDE_BY_SIDE - 1

    async def story(scrape: Scrape, _: Pods) -> None:
        for run in range(runs):
            scrape.watch(f"lab/run-{run}", [pod(f"a{run}")], CHECKS)
        await asyncio.sleep(2)

    asked = scraping(story).asked
    moments = [round(asked[url(f"a{run}")][0] % 1, 6) for run in range(runs)]
    assert min(moments.count(round(part, 6)) for part in MOMENTS[:6]) >= SIDE_BY_SIDE
    assert len(set(moments)) == 6


def test_few_runs_share_moments_once_they_are_many_and_none_is_read_twice_or_long_not_at_all() -> None:
    async def story(scrape: Scrape, _: Pods) -> None:
        for run in range(FEW):
            scrape.watch(f"lab/run-{run}", [pod(f"a{run}")], CHECKS)
        await asyncio.sleep(3.37)
        scrape.watch("lab/one-more", [pod("b1")], CHECKS)
        await asyncio.sleep(4)

    asked = scraping(story).asked
    times = [asked[url(f"a{run}")] for run in range(FEW)]
    assert len({round(one[0] % 1, 6) for one in times}) == FEW
    assert {round(one[-1] % 1, 6) for one in [*times, asked[url("b1")]]} == {0.05, 0.55}
    waits = sorted(after - before for one in times for before, after in pairwise(one))
    assert 0 < waits[0] < 1 < waits[-1] < 2


def test_a_run_that_ends_leaves_its_moment_to_the_next_one() -> None:
    async def story(scrape: Scrape, _: Pods) -> None:
        for run in range(60):
            scrape.watch(f"lab/run-{run}", [pod(f"a{run}")], CHECKS)
        await asyncio.sleep(2)
        for run in range(60, 200):  # one goes, one comes
            scrape.watch(f"lab/run-{run - 60}", [], CHECKS)
            scrape.watch(f"lab/run-{run}", [pod(f"a{run}")], CHECKS)
        await asyncio.sleep(2)

    asked = scraping(story).asked
    moments = [round(asked[url(f"a{run}")][-1] % 1, 6) for run in range(140, 200)]
    assert [moments.count(round(part, 6)) for part in MOMENTS[:2]] == [30, 30]


def test_watching_again_changes_nothing() -> None:
    async def story(scrape: Scrape, _: Pods) -> None:
        for _pass in range(50):
            scrape.watch(RUN, [pod("a1")], CHECKS)
            await asyncio.sleep(0.1)

    assert len(scraping(story).asked[url("a1")]) == 5


def test_pods_come_and_go() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        scrape.watch(RUN, [pod("a1"), pod("a2")], CHECKS)
        await asyncio.sleep(2)
        scrape.watch(RUN, [pod("a2"), pod("a3")], CHECKS)
        assert set(scrape.read(RUN)) == {"a2"}
        await asyncio.sleep(2)
        assert set(scrape.read(RUN)) == {"a2", "a3"}
        assert [len(pods.asked[url(name)]) for name in ("a1", "a2", "a3")] == [2, 4, 2]
        scrape.watch(RUN, [], CHECKS)
        assert scrape.read(RUN) == {}
        await asyncio.sleep(2)
        assert [len(pods.asked[url(name)]) for name in ("a1", "a2", "a3")] == [2, 4, 2]

    scraping(story)


def test_two_runs_may_read_one_pod() -> None:
    async def story(scrape: Scrape, _: Pods) -> None:
        scrape.watch("lab/one", [pod("a1")], CHECKS)
        scrape.watch("lab/two", [pod("a1")], ())
        await asyncio.sleep(1)
        assert set(scrape.read("lab/one")["a1"].values) == {"errors"}
        assert scrape.read("lab/two")["a1"].values == {}
        scrape.watch("lab/two", [], ())
        assert scrape.read("lab/one")

    scraping(story)


def test_a_pod_whose_page_moved_is_read_there() -> None:
    async def story(scrape: Scrape, _: Pods) -> None:
        scrape.watch(RUN, [pod("a1")], CHECKS)
        await asyncio.sleep(3)
        scrape.watch(RUN, [pod("a1", port="9000")], CHECKS)
        assert scrape.read(RUN)["a1"].values["errors"] == Counts(3, 0)
        await asyncio.sleep(1)
        assert scrape.read(RUN)["a1"].values["errors"] == Counts(1, 0)
        scrape.watch(RUN, [pod("a1", ip="10.0.0.99")], CHECKS)
        assert scrape.read(RUN) == {}

    scraping(story)


def test_a_pod_that_hangs_delays_nobody_and_is_asked_again() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.answers[url("a1")] = hangs
        scrape.watch(RUN, [pod("a1"), pod("a2")], CHECKS)
        await asyncio.sleep(5)
        assert scrape.read(RUN)["a2"].values["errors"] == Counts(5, 0)
        assert "a1" not in scrape.read(RUN)
        trouble = scrape.troubles(RUN)["a1"]
        assert trouble.what == "no answer within 0.5 s"
        assert trouble.failures in {4, 5}
        del pods.answers[url("a1")]
        await asyncio.sleep(2)
        assert scrape.troubles(RUN) == {}
        assert "a1" in scrape.read(RUN)

    assert len(scraping(story).asked[url("a1")]) == 7


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (ConnectionRefusedError("nobody listens"), "nobody listens"),
        (ValueError("answered 500, not 200"), "answered 500"),
        (TimeoutError(), "no answer within"),
        (OSError(), "OSError"),
        (b"istio_requests_total 1", "middle of a line"),
        (b"istio_requests_total one\n", "is not a number"),
        (b"up 1\n", "errors: istio_requests_total is not on the page"),
        (b'\xff\xfe istio_requests_total{a="\xff"} 1\n', "errors"),
        (b'istio_requests_total{a="\xff"} 1\n', "utf-8"),
    ],
)
def test_what_fails_is_remembered_and_never_raised(answer: bytes | Exception, what: str) -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.answers[url("a1")] = answering(page(7))
        scrape.watch(RUN, [pod("a1")], CHECKS)
        await asyncio.sleep(2)
        read = scrape.read(RUN)["a1"]
        pods.answers[url("a1")] = answering(answer)
        for _ in range(3):  # a pass a second, as usual
            await asyncio.sleep(1)
            trouble = scrape.troubles(RUN)["a1"]
        assert what in trouble.what
        assert trouble.failures == 3
        assert 0 < trouble.since - read.at < 1.1
        kept = scrape.read(RUN)["a1"]
        assert kept == read or answer[-1:] == b"\n"  # a page without the series is a reading too
        pods.answers[url("a1")] = answering(page(8))
        await asyncio.sleep(1)
        assert scrape.read(RUN)["a1"].values["errors"] == Counts(8, 0)
        assert scrape.troubles(RUN) == {}

    scraping(story)


def test_a_page_that_no_pass_asked_for_before_the_next_came_is_never_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[bytes] = []

    def seen(said: bytes, *rest: Any, **more: Any) -> Any:
        read.append(said)
        return layouts_read(said, *rest, **more)

    layouts_read = layouts.read
    monkeypatch.setattr(layouts, "read", seen)

    async def story(scrape: Scrape, pods: Pods) -> None:
        scrape.watch(RUN, [pod("a1")], CHECKS)
        for count in range(1, 5):
            pods.answers[url("a1")] = answering(page(count))
            await asyncio.sleep(1)
        assert scrape.read(RUN)["a1"].values["errors"] == Counts(4, 0)

    scraping(story)
    assert read == [page(1), page(4)]  # the first, since nothing was known of the pod


def test_pages_are_due_from_the_first_turn_that_was_missed() -> None:
    async def story(scrape: Scrape, _: Pods) -> None:
        news: list[float] = []
        scrape.on_news = lambda run: news.append(scrape.due(run))
        scrape.watch(RUN, [pod("a1")], CHECKS)
        await asyncio.sleep(2.5)
        virtual_loop()._jump.now += 3.0  # the event loop was busy with something else
        await asyncio.sleep(2)
        waits = [round(after - before, 6) for before, after in pairwise(news)]
        # the standstill swallowed a turn: what came next was due when that was
        assert waits == [1.0, 1.0, 1.0, 3.0]

    scraping(story)


def of_workload(name: str, n: int) -> bytes:
    labels = f'reporter="destination",response_code="200",destination_workload="{name}"'
    return f"istio_requests_total{{{labels}}} {n}\n".encode()


def test_the_page_of_another_pod_at_the_same_address_is_not_taken_for_this_ones() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.answers[url("p1")] = answering(of_workload("model-canary", 7))
        scrape.watch(RUN, [pod("p1")], CHECKS)
        await asyncio.sleep(2)
        pods.answers[url("p1")] = answering(of_workload("model", 9000))
        await asyncio.sleep(2)
        assert scrape.read(RUN)["p1"].requests == Counts(7, 0)
        assert "its page is one of model now, not of model-canary" in scrape.troubles(RUN)["p1"].what
        scrape.watch(RUN, [replace(pod("p1"), ip="10.0.0.2")], CHECKS)  # it is told where it is
        pods.answers[url("p2")] = answering(of_workload("model-canary", 8))
        await asyncio.sleep(2)
        assert scrape.read(RUN)["p1"].requests == Counts(8, 0)
        assert scrape.troubles(RUN) == {}

    scraping(story)


def test_whose_page_it_was_is_remembered_while_nothing_has_been_served_at_its_address() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.answers[url("p1")] = answering(of_workload("model-canary", 7))
        scrape.watch(RUN, [pod("p1")], CHECKS)
        await asyncio.sleep(2)
        pods.answers[url("p1")] = answering(b"up 1\n")
        await asyncio.sleep(1)
        assert scrape.read(RUN)["p1"].requests is None
        pods.answers[url("p1")] = answering(of_workload("model", 9000))
        await asyncio.sleep(2)
        assert scrape.read(RUN)["p1"].requests is None
        assert "its page is one of model now, not of model-canary" in scrape.troubles(RUN)["p1"].what
        pods.answers[url("p1")] = answering(of_workload("model-canary", 8))  # it was its own restart
        await asyncio.sleep(1)
        assert scrape.read(RUN)["p1"].requests == Counts(8, 0)

    scraping(story)


def test_of_two_pods_at_one_address_the_later_one_has_it() -> None:
    later = replace(pod("p2", "10.0.0.1"), created=CREATED + timedelta(minutes=1))
    aside = pod("p3", "10.0.0.1", port="8081")  # on the node's own network
    assert addressed([pod("p1"), later, aside]) == [later, aside]
    assert addressed([later, pod("p1")]) == [later]


def test_annotations_that_make_no_target_are_a_trouble() -> None:
    async def story(scrape: Scrape, _: Pods) -> None:
        scrape.watch(RUN, [pod("a1", port="http"), replace(pod("a2"), ip="")], CHECKS)
        await asyncio.sleep(2)
        troubles = scrape.troubles(RUN)
        assert "say a port number" in troubles["a1"].what
        assert "no IP address yet" in troubles["a2"].what
        scrape.watch(RUN, [pod("a2")], CHECKS)
        await asyncio.sleep(1)
        assert set(scrape.read(RUN)) == {"a2"}

    scraping(story)


def test_a_slow_page_is_not_asked_for_twice_at_once() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.answers[url("a1")] = answering(page(1), after=1.4)
        scrape.watch(RUN, [pod("a1")], CHECKS)
        await asyncio.sleep(10)

    times = scraping(story, timeout=timedelta(seconds=3)).asked[url("a1")]
    assert [b - a for a, b in pairwise(times)] == pytest.approx([2.0] * (len(times) - 1))


def test_time_goes_forward_although_the_clock_is_set_back() -> None:
    async def story(_: Scrape, pods: Pods) -> None:
        clock = iter([CREATED + timedelta(seconds=second) for second in (100, 40, 41)])
        scrape = Scrape(pods, lambda: next(clock))
        scrape.watch(RUN, [pod("a1")], CHECKS)
        times = []
        for _second in range(3):
            await asyncio.sleep(1)
            times.append(scrape.read(RUN)["a1"].at)
        assert times == sorted(set(times))
        await scrape.close()

    scraping(story)


def test_news_are_told_when_every_pod_of_a_run_has_been_tried() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        news: list[tuple[str, float]] = []
        scrape.on_news = lambda run: news.append((run, virtual_loop().time()))
        pods.answers[url("a2")] = answering(ConnectionRefusedError("down"))
        scrape.watch(RUN, [pod(f"a{number}") for number in range(1, 9)], CHECKS)
        await asyncio.sleep(5)
        assert [run for run, _ in news] == [RUN] * 5
        times = [at for _, at in news]
        assert [b - a for a, b in pairwise(times)] == pytest.approx([1.0] * 4)
        scrape.watch(RUN, [], CHECKS)
        await asyncio.sleep(3)
        assert len(news) == 5

    scraping(story)


def test_the_interval_and_the_limits_are_settings() -> None:
    async def story(scrape: Scrape, _: Pods) -> None:
        scrape.watch(RUN, [pod("a1")], CHECKS)
        await asyncio.sleep(60)

    options = {"interval": timedelta(seconds=10), "timeout": timedelta(seconds=2), "limit": 99}
    pods = scraping(story, **options)
    assert len(pods.asked[url("a1")]) == 6
    assert pods.limits == {(ACCEPT, 99)}


async def test_a_real_page_on_loopback_is_read() -> None:
    registry = CollectorRegistry()
    labels = ["reporter", "response_code"]
    counter = Counter("istio_requests", "Requests.", labels, registry=registry)
    counter.labels("destination", "200").inc(41)
    counter.labels("destination", "503").inc()
    accepted = []

    async def metrics(request: web.Request) -> web.Response:
        accepted.append(request.headers["Accept"])
        return web.Response(body=generate_latest(registry))

    app = web.Application()
    app.router.add_get("/stats", metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    read = asyncio.Event()
    async with Pages() as pages:
        scrape = Scrape(pages, lambda: datetime.now(UTC), interval=timedelta(seconds=0.05))
        scrape.on_news = lambda _: read.set()
        seen = pod("a1", ip="127.0.0.1", port=str(port), path="/stats")
        scrape.watch(RUN, [seen, pod("a2", ip="127.0.0.1", port=str(port), path="/none")], CHECKS)
        async with asyncio.timeout(30):
            await read.wait()
        assert scrape.read(RUN)["a1"].values == {"errors": Counts(42, 1)}
        assert "not 200" in scrape.troubles(RUN)["a2"].what
        await scrape.close()
    await runner.cleanup()
    assert set(accepted) == {ACCEPT}


# -- protobuf, text, and what an agent makes of both -----------------------------------------------

PROTOBUF = f"{protobuf.TYPE}; proto=io.prometheus.client.MetricFamily; encoding=delimited"
DESTINATION = {"reporter": "destination", "response_code": "200"}
MODELS = b"# TYPE model_up gauge\nmodel_up 1\n"
COUNTED = wire.family("istio_requests_total", wire.counter(DESTINATION, 5), kind=0)


def test_a_page_in_protobuf_is_read_and_asked_for_once() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.kinds[url("a1"), ACCEPT] = (PROTOBUF, COUNTED)
        scrape.watch(RUN, [pod("a1")], CHECKS)
        await asyncio.sleep(5)
        assert scrape.read(RUN)["a1"].values == {"errors": Counts(5, 0)}
        assert scrape.troubles(RUN) == {}

    pods = scraping(story)
    assert len(pods.asked[url("a1")]) == 5
    assert {accept for accept, _ in pods.limits} == {ACCEPT}


@pytest.mark.parametrize("kind", ["text/plain; version=0.0.4", PROTOBUF, ""])
@pytest.mark.parametrize(
    "said", [COUNTED + b"model_up 1\n", b"# TYPE model_up gauge\nmodel_up 1\n" + COUNTED]
)
def test_an_agent_that_glues_protobuf_to_text_is_asked_for_text(kind: str, said: bytes) -> None:
    """istio/istio#60322: half of the page would be missing, and nobody would say so."""

    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.kinds[url("a1"), ACCEPT] = (kind, said)
        scrape.watch(RUN, [pod("a1")], CHECKS)
        await asyncio.sleep(1.2)
        assert scrape.read(RUN)["a1"].values == {"errors": Counts(2, 0)}  # at once, in the same second
        assert scrape.troubles(RUN) == {}
        await asyncio.sleep(3)
        scrape.watch(RUN, [pod("a1")], BOTH)  # what was learned of the page stays
        await asyncio.sleep(2)

    assert len(scraping(story).asked[url("a1")]) == 9  # once a second, and once more the first three times


def test_a_page_that_is_torn_now_and_then_goes_on_to_be_asked_for_in_protobuf() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.answers[url("a1")] = answering(b'model_inference_duration_seconds_bucket{le="+Inf"} 9\n')
        scrape.watch(RUN, [pod("a1")], CHECKS)
        for _ in range(4):
            pods.kinds[url("a1"), ACCEPT] = (PROTOBUF, COUNTED[:-3])
            await asyncio.sleep(2)
            pods.kinds[url("a1"), ACCEPT] = (PROTOBUF, COUNTED)
            await asyncio.sleep(1)
        assert scrape.read(RUN)["a1"].values == {"errors": Counts(5, 0)}
        assert scrape.troubles(RUN) == {}

    scraping(story)


def test_a_page_that_is_neither_is_a_trouble_in_both_words() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.kinds[url("a1"), ACCEPT] = (PROTOBUF, COUNTED[:-3])
        pods.answers[url("a1")] = answering(ValueError("answered 400, not 200"))
        scrape.watch(RUN, [pod("a1")], CHECKS)
        await asyncio.sleep(2)
        trouble = scrape.troubles(RUN)["a1"].what
        assert "3 bytes before its last metric family does; asked for as text: answered 400" in trouble
        pods.kinds[url("a1"), ACCEPT] = (PROTOBUF, COUNTED)  # it was torn, that is all
        await asyncio.sleep(1)
        assert scrape.read(RUN)["a1"].values == {"errors": Counts(5, 0)}

    scraping(story)


def test_while_a_run_waits_for_its_pass_its_pages_are_read_half_as_often() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        scrape.watch(RUN, [pod("a1")], CHECKS)
        scrape.overdue = lambda run: float(run == RUN)
        await asyncio.sleep(20.5)
        assert 10 <= len(pods.asked[url("a1")]) <= 11
        at = scrape.read(RUN)["a1"].at
        assert virtual_loop().now().timestamp() - at < 2  # what a pass finds still counts
        scrape.overdue = lambda _run: 0.0
        before = len(pods.asked[url("a1")])
        await asyncio.sleep(10)
        assert len(pods.asked[url("a1")]) == before + 10

    scraping(story)


def test_the_longer_a_pass_is_overdue_the_less_its_pages_are_read() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        scrape.watch(RUN, [pod("a1")], CHECKS)
        await asyncio.sleep(2.5)
        began, before = asyncio.get_running_loop().time(), len(pods.asked[url("a1")])
        scrape.overdue = lambda _run: asyncio.get_running_loop().time() - began
        scrape.on_news = lambda run: looked.append(scrape.alarming(run))
        looked: list[bool] = []
        await asyncio.sleep(60)
        assert looked
        assert 4 <= len(pods.asked[url("a1")]) - before <= 7
        at = scrape.read(RUN)["a1"].at
        assert virtual_loop().now().timestamp() - at < 31  # half as old as the pass is late

    scraping(story)


def test_many_failed_requests_of_one_pod_are_alarming_while_they_are_news() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        scrape.watch(RUN, [pod("a1"), pod("a2")], CHECKS)
        said = [(100, 40), (110, 41), (120, 43), (130, 46), (140, 46)]
        found = []
        for done, failed in said:
            pods.answers[url("a2")] = answering(page(done, failed))
            await asyncio.sleep(1)
            found.append(scrape.alarming(RUN))
        assert found == [False, False, False, True, False]  # the first page says nothing of how new it is

    scraping(story)


def test_the_pages_of_a_run_with_very_many_pods_are_not_all_parsed_in_its_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[float] = []
    parse = layouts.read
    monkeypatch.setattr(layouts, "read", lambda *page, **how: parsed.append(1.0) or parse(*page, **how))

    async def story(scrape: Scrape, _pods: Pods) -> None:
        scrape.watch(RUN, [pod(f"a{number}") for number in range(1, 101)], CHECKS)
        await asyncio.sleep(5)
        before = len(parsed)
        assert len(scrape.read(RUN)) == 100
        assert before >= 300
        assert len(parsed) == before

    scraping(story)


def test_a_pod_whose_page_is_dear_is_read_more_rarely_and_named_and_its_siblings_as_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parse, worked = layouts.read, [0.0]
    monkeypatch.setattr(effort, "thread_time", lambda: worked[0])

    def read(said: bytes, *rest: Any, **how: Any) -> Any:
        if said.startswith(b"#"):  # 0.4 s of the loop and of the processor
            worked[0] += 0.4
            virtual_loop()._jump.now += 0.4
        return parse(said, *rest, **how)

    monkeypatch.setattr(layouts, "read", read)

    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.answers[url("a1")] = answering(b"# dear\n" + page(7))
        scrape.watch(RUN, [pod("a1"), pod("a2")], CHECKS)
        for _ in range(120):
            await asyncio.sleep(1)
            assert scrape.read(RUN)
        assert 3 <= len(pods.asked[url("a1")]) <= 6
        assert len(pods.asked[url("a2")]) >= 115
        assert "takes long to read" in scrape.troubles(RUN)["a1"].what
        assert scrape.read(RUN)["a1"].requests == Counts(7, 0)  # what was read of it counts
        assert scrape.troubles(RUN).keys() == {"a1"}

    scraping(story)


@pytest.mark.parametrize("binary", [False, True])
def test_a_namespace_whose_pages_are_dear_takes_half_a_core_and_another_s_are_read_as_ever(
    monkeypatch: pytest.MonkeyPatch, *, binary: bool
) -> None:
    """Each run had a tenth of a core, each new pod half a second at once: a namespace had all there is."""
    parse, negotiate, worked = layouts.read, scraped.negotiated, [0.0]
    monkeypatch.setattr(effort, "thread_time", lambda: worked[0])

    def dear(said: bytes) -> bytes:
        if said.startswith(b"#"):
            worked[0] += 0.4
            virtual_loop()._jump.now += 0.4
        return said.lstrip(b"\0")

    monkeypatch.setattr(layouts, "read", lambda said, *rest, **how: parse(dear(said), *rest, **how))
    monkeypatch.setattr(
        scraped, "negotiated", lambda said, *rest, **_: negotiate(dear(said), *rest, kind=PLAIN)
    )
    monkeypatch.setattr(scraped, "is_binary", lambda said, **_: binary and said.startswith(b"#"))

    async def story(scrape: Scrape, pods: Pods) -> None:
        for run in range(24):
            many = [f"a{10 * run + place + 1}" for place in range(8)]
            for name in many:
                pods.answers[url(name)] = answering(b"# dear%s\n" % (b" " * layouts.LONGEST) + page(7))
            scrape.watch(f"evil/run-{run}", [pod(name) for name in many], CHECKS)
        scrape.watch(RUN, [pod("b251")], CHECKS)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() < began + 60:
            await asyncio.sleep(1)
            for run in range(24):
                scrape.read(f"evil/run-{run}")
        took = loop.time() - began
        assert worked[0] <= effort.NAMESPACE_AT_ONCE + effort.OF_A_NAMESPACE * took + 8 * 0.4
        assert len(pods.asked[url("b251")]) >= 0.5 * took
        assert not scrape.troubles(RUN)
        assert "pages of its namespace take long" in scrape.troubles("evil/run-0")["a1"].what

    scraping(story)


def test_what_a_pod_s_labels_make_us_say_is_short_and_fits_on_a_line() -> None:
    """They went as they are into Events, alerts, a run's status, which has an end, and people's terminals."""

    def of(workload: str) -> bytes:
        labels = f'reporter="destination",response_code="200",destination_workload="{workload}"'
        return f"istio_requests_total{{{labels}}} 7\n".encode()

    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.answers[url("a1")] = answering(of("model"))
        scrape.watch(RUN, [pod("a1")], CHECKS)
        await asyncio.sleep(2)
        pods.answers[url("a1")] = answering(of("\N{RIGHT-TO-LEFT OVERRIDE}\x9b2J" + "x" * 10**6))
        await asyncio.sleep(2)
        said = scrape.troubles(RUN)["a1"].what
        assert said.startswith("its page is one of ??2Jxxx")
        assert len(said) == MOST_SAID
        assert said.isprintable()

    scraping(story)


def test_between_two_large_pages_all_else_on_the_loop_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    large = page(7) + b"# %s\n" % (b"x" * layouts.LONGEST)
    happened: list[str] = []
    parse = layouts.read

    def read(*said: Any, **how: Any) -> Any:
        happened.append("page")
        asyncio.get_running_loop().call_soon(happened.append, "turn")
        return parse(*said, **how)

    monkeypatch.setattr(layouts, "read", read)

    async def story(scrape: Scrape, pods: Pods) -> None:
        gate = asyncio.Event()

        async def answer() -> bytes:
            await gate.wait()
            return large

        names = [f"a{number}" for number in range(1, 9)]
        for name in names:
            pods.answers[url(name)] = answer
        scrape.watch(RUN, [pod(name) for name in names], CHECKS)
        await asyncio.sleep(1.3)
        gate.set()  # all of them come in one moment
        await asyncio.sleep(0.01)
        assert happened == ["page", "turn"] * (len(happened) // 2)
        assert len(happened) >= 8

    scraping(story)


def test_buckets_that_change_from_page_to_page_are_named_and_what_is_read_counts() -> None:
    check = CheckSpec(name="latency", kind=CheckKind.LATENCY)

    def buckets(*bounds: str) -> Callable[[], Awaitable[bytes]]:
        line = 'model_inference_duration_seconds_bucket{{le="{}"}} 7\n'
        return answering(page(7) + "".join(line.format(le) for le in (*bounds, "+Inf")).encode())

    async def story(scrape: Scrape, pods: Pods) -> None:
        said = []
        scrape.watch(RUN, [pod("a1")], [check])
        for bounds in (("0.1", "0.5"), ("0.1", "0.5"), ("0.1", "0.2"), ("0.2", "0.5"), ("0.2", "0.5")):
            pods.answers[url("a1")] = buckets(*bounds)
            await asyncio.sleep(1)
            assert scrape.read(RUN)["a1"].values["latency"].cells == (7, 0, 0)
            trouble = scrape.troubles(RUN).get("a1")
            said.append(0 if trouble is None else trouble.failures)
            assert (
                trouble is None or "latency: model_inference_duration_seconds: buckets change" in trouble.what
            )
        assert said == [0, 0, 1, 2, 0]

    scraping(story)


# -- rounds ----------------------------------------------------------------------------------------


def test_all_pods_of_a_run_are_asked_at_one_moment_and_very_many_over_a_tenth_of_an_interval() -> None:
    async def story(scrape: Scrape, _: Pods) -> None:
        scrape.watch("lab/few", [pod(f"a{number}") for number in range(1, 6)], CHECKS)
        scrape.watch("lab/many", [pod(f"a{number}") for number in range(20, 220)], CHECKS)
        await asyncio.sleep(3)

    asked = scraping(story).asked
    few = {asked[url(f"a{number}")][1] for number in range(1, 6)}
    many = [asked[url(f"a{number}")][1] for number in range(20, 220)]
    assert len(few) == 1
    assert 0.05 <= max(many) - min(many) <= 0.1
    assert max(many.count(at) for at in many) == TOGETHER


def test_where_a_core_is_full_the_rounds_of_a_run_are_further_apart_and_then_as_before() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        news: list[float] = []
        scrape.on_news = lambda _run: news.append(virtual_loop().time())
        scrape.watch(RUN, [pod("a1"), pod("a2")], CHECKS)
        await asyncio.sleep(3)
        scrape.stretch = lambda run: 2.5 if run == RUN else 1.0
        await asyncio.sleep(10)
        scrape.stretch = lambda _run: 1.0
        await asyncio.sleep(5)
        gaps = [round(after - before, 6) for before, after in pairwise(news)]
        assert gaps == [1.0] * 3 + [2.5] * 4 + [1.0] * (len(gaps) - 7)
        assert len(gaps) >= 10
        assert len(pods.asked[url("a1")]) == len(pods.asked[url("a2")]) == len(news)

    scraping(story)


def test_pages_are_read_once_more_between_two_rounds_which_stay_where_they_were() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        news: list[float] = []
        scrape.on_news = lambda _run: news.append(virtual_loop().time())
        scrape.stretch = lambda _run: 2.5
        scrape.watch(RUN, [pod("a1"), pod("a2")], CHECKS)
        await asyncio.sleep(8)
        scrape.again(RUN, within=0.25)
        scrape.again(RUN, within=0.25)  # it is asked for already
        asked = virtual_loop().time()
        await asyncio.sleep(8)
        extra = [at for at in news if asked < at < asked + 0.26]
        assert len(extra) == 1
        usual = [at for at in news if at not in extra]
        assert {round(b - a, 3) for a, b in pairwise(usual[1:])} == {2.5}
        assert len(pods.asked[url("a1")]) == len(news)
        count = len(news)
        scrape.again(RUN, within=3.0)  # a round comes before
        scrape.again("ns/nobody", within=0.1)
        scrape.again(RUN, within=0.1)
        scrape.watch(RUN, [], CHECKS)
        await asyncio.sleep(5)
        assert len(news) == count

    scraping(story)


def test_where_a_core_is_full_the_rounds_of_many_runs_fill_the_whole_of_the_longer_ticks() -> None:
    """All came in the first second of two and waited for each other; then the core waited for them."""

    async def story(scrape: Scrape, _pods: Pods) -> None:
        news: dict[str, list[float]] = {}
        scrape.on_news = lambda run: news.setdefault(run, []).append(virtual_loop().time())
        for number in range(len(MOMENTS) * SIDE_BY_SIDE):
            scrape.watch(f"ns/{number}", [pod(f"a{number}")], CHECKS)
        await asyncio.sleep(3)
        scrape.stretch = lambda _run: 2.5
        await asyncio.sleep(30)
        last = [times[-1] for times in news.values()]
        moments = sorted({round(at, 3) for at in last})
        assert len(moments) == len(MOMENTS)
        gaps = [round(after - before, 3) for before, after in pairwise(moments)]
        assert gaps == [0.25] * (len(MOMENTS) - 1)
        for times in news.values():
            assert [round(b - a, 3) for a, b in pairwise(times[-6:])] == [2.5] * 5

    scraping(story)


def test_what_nobody_expected_of_a_fetch_is_a_trouble_and_the_pod_is_asked_again() -> None:
    async def story(scrape: Scrape, pods: Pods) -> None:
        pods.answers[url("a1")] = answering(RuntimeError("torn"))
        scrape.watch(RUN, [pod("a1")], CHECKS)
        await asyncio.sleep(3)
        assert scrape.troubles(RUN)["a1"].what == "torn"
        pods.answers[url("a1")] = answering(page(8))
        await asyncio.sleep(1)
        assert scrape.read(RUN)["a1"].values["errors"] == Counts(8, 0)

    scraping(story)


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        (layouts, "read", ("text/plain", page(7))),
        (scraped, "negotiated", (protobuf.TYPE, b"\x09")),
        (scraped, "found", (protobuf.TYPE, b"\x09")),
    ],
)
def test_what_nobody_expected_of_a_page_is_a_trouble_and_the_pod_is_asked_again(
    module: ModuleType, name: str, said: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: object, **__: object) -> None:
        raise IndexError("no such line")

    told = []

    async def story(scrape: Scrape, pods: Pods) -> None:
        scrape.on_news = told.append
        monkeypatch.setattr(module, name, raises)
        pods.kinds[url("a1"), ACCEPT] = pods.kinds[url("a1"), PLAIN] = said
        scrape.watch(RUN, [pod("a1")], CHECKS)
        await asyncio.sleep(3)
        assert "no such line" in scrape.troubles(RUN)["a1"].what
        assert len(told) == 3
        monkeypatch.undo()
        pods.kinds.clear()
        pods.answers[url("a1")] = answering(page(8))
        await asyncio.sleep(2)
        assert scrape.read(RUN)["a1"].values["errors"] == Counts(8, 0)
        assert scrape.troubles(RUN) == {}

    scraping(story)


async def test_pages_of_kept_connections_need_no_task_and_one_that_hangs_is_given_up() -> None:
    hanging = asyncio.Event()

    async def metrics(_: web.Request) -> web.Response:
        if hanging.is_set():
            await asyncio.sleep(30)
        return web.Response(body=page(7))

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = str(runner.addresses[0][1])
    rounds, tasks = asyncio.Semaphore(0), []

    def news(_run: str) -> None:
        tasks.append([task for task in asyncio.all_tasks() if "Pages" in repr(task.get_coro())])
        rounds.release()

    async with Pages() as pages, asyncio.timeout(30):
        options = {"interval": timedelta(seconds=0.2), "timeout": timedelta(seconds=0.15)}
        scrape = Scrape(pages, lambda: datetime.now(UTC), **options)
        scrape.on_news = news
        scrape.watch(RUN, [pod(f"a{number}", ip="127.0.0.1", port=port) for number in range(3)], CHECKS)
        for _ in range(4):
            await rounds.acquire()
        assert not any(tasks)
        assert scrape.troubles(RUN) == {}
        hanging.set()
        await rounds.acquire()
        await rounds.acquire()
        assert {one.what for one in scrape.troubles(RUN).values()} == {"no answer within 0.15 s"}
        await scrape.close()
    await runner.cleanup()
