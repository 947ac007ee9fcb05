"""A page that is laid out as one before is read as if it were parsed."""

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from analysis.evidence import CheckKind, CheckSpec
from controller import layouts, reading
from scenarios.bench_pages import sidecar
from scenarios.page import Page

CHECKS = (
    CheckSpec(name="latency", kind=CheckKind.LATENCY),
    CheckSpec(name="errors", kind=CheckKind.ERROR_RATE),
    CheckSpec(name="predictions", kind=CheckKind.PREDICTIONS),
)
CLICKED = b"clicks_total %d\nshown_total %d\n"
CLICKS = CheckSpec(name="clicks", kind=CheckKind.PROPORTION, counters=("clicks_total", "shown_total"))


def page(seconds: int, *, codes: tuple[int, ...] = (200, 503)) -> bytes:
    """A model server's page after so many seconds."""
    shown = Page(model="m", version="1", workload="w")
    for second in range(seconds):
        for code in codes:
            took = 0.02 * (1 + second % 7)
            shown.model.took(took)
            shown.observe(code, took, score=0.31 if code == 200 else None)
    return shown.text().encode()


def of_a_sidecar(most: int) -> bytes:
    """The part of a sidecar's page that is filtered for, with so many label sets of each."""
    lines = [
        line for line in sidecar().splitlines() if line.startswith((b"istio_requests", b"istio_request_d"))
    ]
    sets = [
        line.partition(b"{")[2].partition(b"}")[0] for line in lines if line.startswith(b"istio_requests")
    ]
    kept = [line for line in lines if line.partition(b"{")[2].startswith(tuple(sets[:most]))]
    return b"\n".join([*kept, b""])


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> layouts.Known:
    nothing = layouts.Known()
    monkeypatch.setattr(layouts, "_known", nothing)
    return nothing


@pytest.mark.parametrize(
    ("first", "second", "checks"),
    [
        (page(1), page(40), CHECKS),
        (of_a_sidecar(2), of_a_sidecar(2).replace(b" 17\n", b" 170\n"), CHECKS[:2]),
        (
            page(1) + b"clicks_total 3\nshown_total 9\n",
            page(9) + b"clicks_total 4\nshown_total 9\n",
            (CLICKS,),
        ),
    ],
)
def test_of_a_page_like_the_one_before_nothing_is_parsed(
    first: bytes, second: bytes, checks: tuple[CheckSpec, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = reading.read(second, checks, at=2.0)
    assert wanted[1] == ()
    layouts.read(first, checks, at=1.0)
    monkeypatch.setattr(reading, "read", None)
    monkeypatch.setattr(reading, "found", None)
    assert layouts.read(second, checks, at=2.0) == wanted


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    known = layouts.Known(3 * (len(page(1)) + 100 + layouts.OF_A_FIGURE * page(1).count(b"\n")))
    monkeypatch.setattr(layouts, "_known", known)
    for pod in range(10):
        layouts.read(page(1).replace(b'"w"', f'"w{pod}"'.encode()), CHECKS, at=1.0)
        assert 1 <= len(known.layouts) <= 3


def outcome(read: Callable[[], object]) -> object:
    try:
        return read()
    except ValueError as error:
        return str(error)


EXEMPLAR = b'7 # {a="b"} 1'
FIGURES = st.sampled_from(
    [EXEMPLAR, b"0", b"7", b"10", b"1e1", b"NaN", b"-1", b"1_0", b"7 99", b"9007199254740993", b"x", b""]
)
EDITS = st.sampled_from(["figure", "drop", "repeat", "swap", "tab", "word", "text", "eof", "torn"])


def test_where_the_figures_stood_they_are_taken_without_looking_at_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, longer = page(40), page(41), page(900)
    assert len(first) == len(second) < len(longer)
    cut = layouts.Cut()
    for _ in range(2):
        layouts.read(first, CHECKS, at=1.0, cut=cut)
    monkeypatch.setattr(layouts, "_known", None)
    assert layouts.read(second, CHECKS, at=2.0, cut=cut) == reading.read(second, CHECKS, at=2.0)
    monkeypatch.undo()
    for _ in range(3):
        assert layouts.read(longer, CHECKS, at=3.0, cut=cut) == reading.read(longer, CHECKS, at=3.0)


REQUESTED = b"""istio_requests_total{reporter="destination",response_code="200"} %d%s
istio_requests_total{reporter="destination",response_code="500"} 3
"""
LIVE = b"""model_inference_duration_seconds_bucket{le="0.1"} %d%s
model_inference_duration_seconds_bucket{le="+Inf"} 300
"""


@pytest.mark.parametrize("figure", [b"0.25", b"1", b"0", b"1 1700000000", b"1 "])
def test_an_exemplar_is_not_taken_for_the_figure(figure: bytes) -> None:
    after = b' # {trace_id="ab"} ' + figure
    for line, checks in ((REQUESTED, CHECKS[1:2]), (LIVE + REQUESTED % (300, b""), CHECKS[:1])):
        cut = layouts.Cut()
        for n in (100, 250, 251, 252):
            said = line % (n, after)
            assert layouts.read(said, checks, at=1.0, cut=cut) == reading.read(said, checks, at=1.0)


@pytest.mark.parametrize("figure", [b"NaN", b"+Inf", b"1e300"])
def test_a_figure_before_an_exemplar_that_is_no_count_is_refused_as_ever(figure: bytes) -> None:
    said = REQUESTED.replace(b"%d%s", figure + b' # {trace_id="ab"} 1')
    wanted = outcome(lambda: reading.read(said, CHECKS[1:2], at=1.0))
    assert outcome(lambda: layouts.read(said, CHECKS[1:2], at=1.0)) == wanted


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(EDITS, st.integers(0, 200), FIGURES), max_size=4), codes=st.booleans())
@example(edits=[("figure", 2, b"7 99")], codes=False)  # a timestamp was taken for the figure
@example(edits=[("tab", 2, b"")], codes=False)
@example(edits=[("figure", 2, EXEMPLAR)], codes=False)
def test_whatever_is_on_the_page_it_is_read_as_if_parsed(
    edits: list[tuple[str, int, bytes]], *, codes: bool
) -> None:
    layouts.read(page(2), CHECKS, at=1.0)
    said, cut = page(5, codes=(200, 500) if codes else (200, 503)), layouts.Cut()
    for _ in range(2):
        layouts.read(said, CHECKS, at=1.0, cut=cut)
    for edit, number, figure in edits:
        lines = said.split(b"\n")
        place, other = number % len(lines), (number * 7) % len(lines)
        before, _, was = lines[place].rpartition(b" ")
        lines[place : place + 1] = {
            "figure": [before + b" " + figure],
            "drop": [],
            "repeat": [lines[place], before + b" " + figure],
            "swap": [lines[other]],
            "tab": [before + b"\t" + was],
            "word": [figure],
            "text": [lines[place].replace(b'"', b'" ', 1)],
            "eof": [b"# EOF"],
            "torn": [lines[place][: number % 9]],
        }[edit]
        said = b"\n".join(lines)
    wanted = outcome(lambda: reading.read(said, CHECKS, at=3.0))
    for known in (cut, None, None, cut, cut):  # as cut before, parsed, remembered, and cut anew
        assert outcome(partial(layouts.read, said, CHECKS, at=3.0, cut=known)) == wanted
