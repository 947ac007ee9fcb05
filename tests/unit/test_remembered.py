"""What pods show is remembered within so many bytes, whatever they show and however often they change it."""

import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from analysis.evidence import CheckKind, CheckSpec
from controller import layouts, protobuf, reading
from controller.exposition import LONGEST_LINE
from controller.remembered import MIB, PAGES, Remembered
from scenarios.bench_pages import sidecar
from tests import wire

CHECKS = (
    CheckSpec(name="latency", kind=CheckKind.LATENCY),
    CheckSpec(name="errors", kind=CheckKind.ERROR_RATE),
)
BOUNDS = ("0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "+Inf")
DURATION = "istio_request_duration_milliseconds"
MODEL = "model_inference_duration_seconds"


def requests(label: str) -> bytes:
    line = b'istio_requests_total{reporter="destination",response_code="200",x="%s"} 7\n'
    return line % label.encode()


SIDECAR = b"".join(
    line + b"\n"
    for line in sidecar().splitlines()
    if line.startswith((b"istio_requests", b"istio_request_d"))
)


def caller(at: int) -> bytes:
    """A sidecar's page, of 26 labels a line, one of whose callers is another each time."""
    return SIDECAR.replace(b'source_workload="checkout"', b'source_workload="w%d"' % at)


def callers(at: int, *, of: int = 15) -> bytes:
    """A page of many callers, of which now and then one is another."""
    names = [f"client-{one}" for one in range(of)]
    names[at % of] = f"new-{at}"
    line = '{}_bucket{{reporter="destination",source_workload="{}",le="{}"}} {}\n'
    return "".join(line.format(DURATION, who, le, n) for who in names for n, le in enumerate(BOUNDS)).encode()


def tiny(at: int) -> bytes:
    labels = ",".join(f'{letter}="{at}"' for letter in "abcdefghijklmnop")
    return b"".join(
        b'istio_requests_total{reporter="destination",line="%d",%s} 7\n' % (line, labels.encode())
        for line in range(20)
    )


def native(at: int) -> bytes:
    """A native histogram in which an unknown field is large."""
    body = wire.native_body(3, {1: 2}) + wire.message(15, b"%d" % at + b"p" * 50_000)
    return wire.family(MODEL, wire.metric({"x": "a" * 50_000 + str(at)}, 7, body))


def classic(at: int) -> bytes:
    sets = [
        wire.classic({"reporter": "destination", "code": str(code), "x": str(at)}, {0.1: 1, 2.0: 2}, 2)
        for code in range(20)
    ]
    return wire.family(MODEL, *sets)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Room for half a megabyte of each kind, empty."""
    limit = MIB // 2
    PAGES.forget()
    reading.DECODED.forget()
    monkeypatch.setattr(PAGES, "limit", limit)
    monkeypatch.setattr(reading.DECODED, "limit", limit)
    monkeypatch.setattr(layouts, "_known", layouts.Known(limit))
    yield limit
    PAGES.forget()
    reading.DECODED.forget()


@pytest.mark.parametrize(
    ("page", "times", "kind"),
    [
        (lambda at: requests(f"a{at}" * 200), 800, "text/plain"),
        (lambda at: requests("a" * 200_000 + str(at)), 20, "text/plain"),
        (lambda at: b'%s_bucket{le="0.%s%d"} 1\n' % (MODEL.encode(), b"0" * 3000, at), 400, "text/plain"),
        (caller, 12, "text/plain"),
        (callers, 100, "text/plain"),
        (tiny, 100, "text/plain"),
        (native, 100, protobuf.TYPE),
        (classic, 100, protobuf.TYPE),
    ],
)
def test_whatever_pods_show_and_change_memory_stays_within_its_bound(
    page: Callable[[int], bytes], times: int, kind: str, small: int
) -> None:
    layouts.read(page(0), CHECKS, at=0.0, kind=kind)
    weighed = 0
    tracemalloc.start()
    try:
        for at in range(1, times):
            layouts.read(page(at), CHECKS, at=float(at), kind=kind)
            weighed = max(weighed, tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert weighed < 3 * small  # of lines, of native histograms, of layouts


def test_a_line_that_is_long_is_not_remembered_and_takes_no_memory_to_read() -> None:
    PAGES.forget()
    page = requests("a" * 1_900_000)
    tracemalloc.start()
    try:
        found, wrong = reading.read(page, CHECKS[1:], at=0.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.requests is not None
    assert found.requests.n == 7
    assert (wrong, PAGES.bytes) == ((), 0)
    assert peak < 8 * len(
        page
    )  # an expression that could go back would keep 150 bytes for each of its letters
    reading.read(requests("a" * (LONGEST_LINE - 100)), CHECKS[1:], at=0.0)
    assert PAGES.bytes > LONGEST_LINE - 100


def test_shelves_are_emptied_together_and_what_is_larger_than_the_room_is_not_kept() -> None:
    room = Remembered(100)
    one, other = room.shelf(), room.shelf()
    for key in range(4):
        assert room.make_room(30)
        (one if key % 2 else other)[key] = key
    assert (one, other, room.bytes) == ({3: 3}, {}, 30)
    assert not room.make_room(60)
    assert room.bytes == 30
