"""Two sources serve one run, and neither passes for the other."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from analysis.evidence import CheckKind, CheckSpec
from analysis.samples import Counts
from controller.model import Page, PodSeen
from controller.ports import Reading, Trouble
from controller.served import Load
from controller.sources import Sources
from controller.ticks import Cursor, advance

RUN = "lab/model-canary-abc-1"
ERRORS = CheckSpec(name="errors", kind=CheckKind.ERROR_RATE)
CALLS = CheckSpec(name="calls", kind=CheckKind.ERROR_RATE)
MIXED = {"calls": None, "errors": Page(port=9090)}
PODS = [
    PodSeen(name=name, node="n", ip="10.0.0.1", ready=True, created=datetime(2026, 1, 1, tzinfo=UTC))
    for name in ("a", "b", "c")
]


class Told:
    """A `ports.MetricsSource` that says what it is told, and remembers what it was asked."""

    def __init__(self, **readings: Reading) -> None:
        self.readings = readings
        self.wrong: dict[str, Trouble] = {}
        self.asked: tuple[list[str], list[str]] = ([], [])

    def watch(
        self, _run: str, pods: Sequence[PodSeen], checks: Sequence[CheckSpec], _pages: Any = None
    ) -> None:
        self.asked = ([pod.name for pod in pods], [check.name for check in checks])

    def read(self, _run: str) -> Mapping[str, Reading]:
        return self.readings

    def troubles(self, _run: str) -> Mapping[str, Trouble]:
        return self.wrong


def reading(at: float, n: int, **checks: int) -> Reading:
    return Reading(
        at=at,
        requests=Counts(n, 0),
        values={name: Counts(count, 0) for name, count in checks.items()},
        sources=dict.fromkeys(checks, "istio_requests_total"),
    )


def test_each_source_reads_its_own_checks() -> None:
    pages, prometheus = Told(), Told()
    Sources(pages, prometheus).watch(RUN, PODS, [ERRORS, CALLS], MIXED)
    assert pages.asked == (["a", "b", "c"], ["errors"])
    assert prometheus.asked == (["a", "b", "c"], ["calls"])


def test_pods_that_no_check_needs_are_left_alone() -> None:
    pages, prometheus = Told(), Told()
    sources = Sources(pages, prometheus)
    sources.watch(RUN, PODS, [ERRORS, CALLS], {"errors": None, "calls": None})
    assert (pages.asked[0], prometheus.asked[0]) == ([], ["a", "b", "c"])
    sources.watch(RUN, PODS, [ERRORS, CALLS])
    assert (pages.asked[0], prometheus.asked[0]) == (["a", "b", "c"], [])
    sources.watch(RUN, [], [])
    assert (pages.asked[0], prometheus.asked[0]) == ([], [])
    assert sources.read(RUN) == {}


def test_where_one_source_has_everything_its_reading_is_the_run_s() -> None:
    pages, prometheus = Told(a=reading(10.0, 100, errors=100)), Told(a=reading(4.0, 90, errors=90))
    sources = Sources(pages, prometheus)
    sources.watch(RUN, PODS, [ERRORS])
    assert sources.read(RUN) == pages.readings
    sources.watch(RUN, PODS, [ERRORS], {"errors": None})
    assert sources.read(RUN) == prometheus.readings


def test_a_pod_that_both_have_read_has_a_time_for_each() -> None:
    pages, prometheus = Told(a=reading(10.0, 100, errors=100)), Told(a=reading(4.0, 90, calls=80))
    sources = Sources(pages, prometheus)
    sources.watch(RUN, PODS, [ERRORS, CALLS], MIXED)
    found = sources.read(RUN)["a"]
    assert (found.at, found.requests) == (10.0, Counts(100, 0))
    assert found.values == {"errors": Counts(100, 0), "calls": Counts(80, 0)}
    assert found.times == {"calls": 4.0}


def test_requests_are_never_counted_at_both() -> None:
    """Prometheus' count is older than the page's; one after the other it would be counted again."""
    pages, prometheus = Told(b=reading(10.0, 100, errors=100)), Told(a=reading(4.0, 90, calls=80))
    sources = Sources(pages, prometheus)
    sources.watch(RUN, PODS, [ERRORS, CALLS], MIXED)
    found = sources.read(RUN)
    assert found["a"].requests is None
    assert found["b"].requests == Counts(100, 0)


def test_a_page_that_never_came_is_no_silence_although_prometheus_has_the_pod() -> None:
    pages, prometheus = Told(), Told()
    sources, cursor, loads = Sources(pages, prometheus), Cursor(), dict[str, Load]()
    sources.watch(RUN, PODS, [ERRORS, CALLS], MIXED)
    for second in range(1000, 1030):
        scraped = second // 5 * 5.0
        pages.readings = {"a": reading(second, 30 * second, errors=30 * second)}
        prometheus.readings = {pod: reading(scraped, 90, calls=int(scraped)) for pod in ("a", "b")}
        cursor, _, found = advance(
            *(cursor, sources.read(RUN)),
            stable={"a": "n1"},
            canary={"b": "n2"},
            now=float(second),
            since={"weight": 1000.0},
        )
        loads |= found
    assert (loads["weight"].hush.n, loads["weight"].hush.until) == (0, 1000.0)
    assert loads["weight"].pods["b"].until == 1000.0


def test_a_check_that_was_not_read_has_a_source_and_no_value() -> None:
    pages, prometheus = Told(b=reading(10.0, 100, errors=100)), Told(a=reading(4.0, 90, calls=80))
    sources = Sources(pages, prometheus)
    sources.watch(RUN, PODS, [ERRORS, CALLS], MIXED)
    for found in sources.read(RUN).values():
        assert found.sources.keys() == {"errors", "calls"}
        assert len(found.values) == 1


def test_troubles_of_both_are_told() -> None:
    pages, prometheus = Told(), Told()
    pages.wrong = {"a": Trouble(since=3.0, failures=1, what="refused")}
    prometheus.wrong = {
        "a": Trouble(since=2.0, failures=5, what="away"),
        "b": Trouble(since=9.0, failures=1, what="x"),
    }
    assert Sources(pages, prometheus).troubles(RUN) == {
        "a": Trouble(since=2.0, failures=5, what="refused; away"),
        "b": Trouble(since=9.0, failures=1, what="x"),
    }


def test_without_a_prometheus_its_checks_are_in_trouble_and_the_remedy_is_named() -> None:
    """A run that began under another leader, which had been told of one."""
    sources = Sources(Told(a=reading(10.0, 100, errors=100)))
    sources.watch(RUN, PODS, [ERRORS, CALLS], MIXED)
    assert sources.read(RUN)["a"].values == {"errors": Counts(100, 0)}
    found = sources.troubles(RUN)
    assert found.keys() == {"a", "b", "c"}
    assert all("set SERIN_PROMETHEUS_URL" in one.what for one in found.values())
    sources.watch(RUN, [], [])
    assert sources.troubles(RUN) == {}
