"""The metrics page as Prometheus defines it: read exactly, or refused with the line that is wrong."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client import Histogram as ClientHistogram
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from analysis.samples import Histogram
from controller import exposition
from controller.exposition import (
    MOST_LABELS,
    MOST_LINES,
    MOST_NEW,
    MOST_SERIES,
    Series,
    Wanted,
    declares,
    histogram,
    total,
)
from controller.remembered import PAGES
from scenarios import bench_pages


def one(line: str, name: str = "a_total") -> Series:
    (series,) = Wanted([name]).on(line.encode() + b"\n")[name]
    return series


def buckets(*pairs: tuple[str, float], **labels: str) -> list[Series]:
    return [Series({**labels, "le": le}, count) for le, count in pairs]


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        ("a_total 1", {}, 1),
        ("a_total{} 1", {}, 1),
        ("a_total\t1", {}, 1),
        ("  a_total  1  ", {}, 1),
        ('a_total{x="y"} 2.5', {"x": "y"}, 2.5),
        ('a_total{x="y",} 2', {"x": "y"}, 2),
        ('a_total {x="y"} 2', {"x": "y"}, 2),
        ('a_total{ x = "y" , z = "" } 2', {"x": "y", "z": ""}, 2),
        ('a_total{x="y"} 1e3 1700000000000', {"x": "y"}, 1000),
        ('a_total{x="y"} 1 -17', {"x": "y"}, 1),
        ('a_total{x="y"} 3 1700000000.123 # {trace_id="# 9"} 0.5 1700000000.1', {"x": "y"}, 3),
        ('a_total{x="y"} 3 # {} 0.5', {"x": "y"}, 3),
        (r'a_total{x="a\\b\"c\nd\te"} 1', {"x": 'a\\b"c\nd\\te'}, 1),
        (r'a_total{x="\\n"} 1', {"x": "\\n"}, 1),
        ('a_total{x="}{, # ="} 1', {"x": "}{, # ="}, 1),
        ('a_total{x="käse 🧀"} 1', {"x": "käse 🧀"}, 1),
        ("a_total +Inf", {}, math.inf),
        ("a_total -Inf", {}, -math.inf),
        ("a_total .5\r", {}, 0.5),
    ],
)
def test_a_line_is_read_as_it_is_meant(line: str, labels: dict[str, str], value: float) -> None:
    assert one(line) == Series(labels, value)


def test_not_a_number_is_a_value_and_not_a_count() -> None:
    assert math.isnan(one("a_total NaN").value)
    for value in (math.nan, math.inf, -1.0, 2.0**53 + 2):
        with pytest.raises(ValueError, match="not a count"):
            total([Series({}, value)])
    assert total([Series({}, 2.0), Series({}, 1e6)]) == 1_000_002


@pytest.mark.parametrize(
    "line",
    [
        "a_total",
        "a_total ",
        "a_total one",
        "a_total 1_000",
        "a_total 0." + 500 * "1",
        "a_total 0x10",
        "a_total 1 2 3",
        "a_total 1 soon",
        'a_total{x="y" 1',
        'a_total{x="y} 1',
        "a_total{x=y} 1",
        'a_total{x="y"z="w"} 1',
        'a_total{x="1",x="2"} 1',
        'a_total{0x="y"} 1',
        'a_total{,x="y"} 1',
        'a_total{x="y"}} 1',
    ],
)
def test_a_wanted_line_that_cannot_be_read_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"line|number|labels"):
        one(line)


def test_other_series_are_not_looked_at() -> None:
    page = b'a_totals 1\na_total_more{x=bad 1\nb{y="a_total 1"} junk\n# HELP a_total a_total 7\na_total 2\n'
    assert Wanted(["a_total"]).on(page) == {"a_total": [Series({}, 2.0)]}


def test_a_name_that_is_not_there_is_absent() -> None:
    assert Wanted(["a_total"]).on(b"") == {}
    assert Wanted(["a_total"]).on(b"# TYPE a_total counter\n") == {}


def test_a_page_may_declare_a_family_before_it_has_series() -> None:
    page = b"# HELP x_seconds y_seconds\n# TYPE x_seconds histogram\n"
    assert declares(page, "x_seconds")
    assert not declares(page, "x_second")
    assert not declares(page, "y_seconds")


def test_of_a_series_that_is_repeated_the_first_counts() -> None:
    page = b'a_total{x="1",y="2"} 1\na_total{y="2",x="1"} 5\na_total{x="2"} 7\n'
    assert Wanted(["a_total"]).on(page)["a_total"] == [Series({"x": "1", "y": "2"}, 1), Series({"x": "2"}, 7)]


def test_a_page_that_ends_within_a_line_is_refused() -> None:
    with pytest.raises(ValueError, match="middle of a line"):
        Wanted(["a_total"]).on(b"a_total 1")


@pytest.mark.parametrize("end", [b"# EOF", b"# EOF\n", b"# EOF\r\n", b"# EOF \na_total 2\n"])
def test_openmetrics_ends_with_its_mark(end: bytes) -> None:
    assert Wanted(["a_total"]).on(b"a_total 1\n" + end) == {"a_total": [Series({}, 1.0)]}


def test_a_page_with_too_many_wanted_series_is_refused() -> None:
    page = b"".join(b'a_total{x="%d"} 1\n' % x for x in range(MOST_SERIES + 1))
    with pytest.raises(ValueError, match="filter the page"):
        Wanted(["a_total"]).on(page)
    assert len(Wanted(["b_total"]).on(page + b"b_total 1\n")) == 1


@pytest.mark.parametrize("line", [b"", b" ", b"\t", b" i", b"a_totals", b"# EOF x"])
def test_a_page_of_too_many_lines_is_refused_whatever_they_are(line: bytes) -> None:
    assert Wanted(["a_total"]).on((line + b"\n") * (MOST_LINES // 2)) == {}
    with pytest.raises(ValueError, match="lines; filter the page"):
        Wanted(["a_total"]).on((line + b"\n") * (MOST_LINES + 1))


def test_lines_that_only_seem_to_be_wanted_are_counted() -> None:
    with pytest.raises(ValueError, match="lines and labels that are new"):
        Wanted(["a_total"]).on(b" i\n" * 900, most_new=899)


def test_a_series_with_too_many_labels_is_refused() -> None:
    labels = [f'a{at}="1"' for at in range(MOST_LABELS + 1)]
    assert len(one(f"a_total{{{','.join(labels[1:])}}} 1").labels) == MOST_LABELS
    with pytest.raises(ValueError, match="more than 48 labels"):
        one(f"a_total{{{','.join(labels)}}} 1")


def test_a_page_of_which_much_is_new_is_read_in_some_turns_and_one_that_changes_never() -> None:
    def labelled(turn: int) -> bytes:
        some = ",".join(f'l{at}="{turn}"' for at in range(40))
        return b"".join(b'a_total{x="%d",%s} 1\n' % (at, some.encode()) for at in range(3 * MOST_NEW // 80))

    def read(page: bytes) -> int:
        try:
            return len(Wanted(["a_total"]).on(page)["a_total"])
        except ValueError:
            return 0

    PAGES.forget()
    lines = 3 * MOST_NEW // 80
    assert [read(labelled(0)) for _ in range(3)] == [0, lines, lines]
    assert [read(labelled(turn)) for turn in (1, 2, 3)] == [0, 0, 0]
    assert len(Wanted(["a_total"]).on(labelled(4), most_new=10**9)["a_total"]) == lines
    PAGES.forget()


def test_a_sidecars_page_is_read_as_prometheus_clients_parser_reads_it() -> None:
    page = bench_pages.sidecar()
    found = bench_pages.ours(page)
    assert found == bench_pages.theirs(page)
    assert {name: len(series) for name, series in found.items()} == {
        "istio_requests_total": 9,
        "istio_request_duration_milliseconds_bucket": 180,
    }


# -- histograms ------------------------------------------------------------------------------------


def test_buckets_are_counted_one_by_one() -> None:
    assert histogram(buckets(("0.1", 3), ("0.5", 7), ("+Inf", 9))) == Histogram((0.1, 0.5), (3, 4, 2))


def test_the_order_of_buckets_does_not_matter() -> None:
    assert histogram(buckets(("+Inf", 9), ("0.5", 7), ("1e-1", 3))) == Histogram((0.1, 0.5), (3, 4, 2))


def test_label_sets_are_added_up() -> None:
    both = buckets(("1", 1), ("+Inf", 2), code="200") + buckets(("1", 10), ("+Inf", 20), code="500")
    assert histogram(both) == Histogram((1.0,), (11, 11))


def test_label_sets_with_other_buckets_are_added_on_the_shared_ones() -> None:
    mixed = buckets(("1", 1), ("2", 2), ("+Inf", 4), a="x") + buckets(("2", 5), ("4", 6), ("+Inf", 7), a="y")
    assert histogram(mixed) == Histogram((2.0,), (7, 4))


def test_bounds_come_in_the_wanted_unit() -> None:
    assert histogram(buckets(("0.5", 1), ("2500", 2), ("+Inf", 2)), unit=0.001).le == (0.0005, 2.5)


@pytest.mark.parametrize(
    "pairs",
    [
        (),
        (("0.1", 3), ("0.5", 7)),
        (("0.1", 3), ("0.5", 2), ("+Inf", 9)),
        (("0.1", 3), ("+Inf", 2)),
        (("0.1", 3), ("0.10", 3), ("+Inf", 9)),
        (("0.1", math.nan), ("+Inf", 9)),
        (("0.1", -1), ("+Inf", 9)),
        (("NaN", 1), ("+Inf", 9)),
        (("low", 1), ("+Inf", 9)),
        (("", 1), ("+Inf", 9)),
    ],
)
def test_what_is_no_histogram_is_refused(pairs: tuple[tuple[str, float], ...]) -> None:
    with pytest.raises(ValueError, match=r"bucket|count|number"):
        histogram(buckets(*pairs))


# -- against Prometheus's own ----------------------------------------------------------------------


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
def test_what_the_official_client_writes_is_read(openmetrics: bool) -> None:  # noqa: FBT001
    registry = CollectorRegistry()
    seconds = ClientHistogram("h_seconds", "Time.", ["model"], buckets=(0.01, 0.1, 1), registry=registry)
    count = Counter("c", "Requests.", ["code"], registry=registry)
    for value in (0.001, 0.05, 0.05, 5.0):
        seconds.labels('a"b\\c\n').observe(value, exemplar={"trace_id": "x"} if openmetrics else None)
    count.labels("200").inc(12)
    page = (generate_openmetrics if openmetrics else generate_latest)(registry)
    found = Wanted(["h_seconds_bucket", "h_seconds_count", "c_total"]).on(page)
    assert histogram(found["h_seconds_bucket"]) == Histogram((0.01, 0.1, 1.0), (1, 2, 0, 1))
    assert found["h_seconds_count"] == [Series({"model": 'a"b\\c\n'}, 4)]
    assert found["c_total"] == [Series({"code": "200"}, 12)]
    assert declares(page, "h_seconds")


names = st.sampled_from(["a_total", "b", "a_total_bucket", "other"])
labels = st.dictionaries(
    st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,4}", fullmatch=True).filter(lambda x: not x.startswith("__")),
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"),
        max_size=6,
    ),
    max_size=4,
)
values = st.floats(allow_nan=False) | st.integers(-5, 10**12).map(float)


def line(name: str, labelled: dict[str, str], value: float, stamp: int | None) -> str:
    def escaped(text: str) -> str:
        return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

    inner = ",".join(f'{key}="{escaped(text)}"' for key, text in labelled.items())
    number = {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, repr(value))
    return f"{name}{{{inner}}} {number}" + ("" if stamp is None else f" {stamp}")


lines = st.lists(st.tuples(names, labels, values, st.none() | st.integers(0, 10**13)), max_size=12)
Lines = list[tuple[str, dict[str, str], float, int | None]]


@settings(max_examples=300)
@given(lines)
@example([("b", {"a": "\\n"}, 1.0, None)])
def test_every_page_reads_as_prometheus_reads_it(written: Lines) -> None:
    page = "".join(line(*parts) + "\n" for parts in written)
    theirs: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in parse_text(page):
        for sample in family.samples:
            theirs.setdefault((sample.name, frozenset(sample.labels.items())), sample.value)
    ours = {
        (name, frozenset(series.labels.items())): series.value
        for name, found in Wanted(["a_total", "b"]).on(page.encode()).items()
        for series in found
    }
    assert ours == {key: value for key, value in theirs.items() if key[0] in {"a_total", "b"}}


@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 10**6)),
        min_size=1,
        max_size=5,
        unique_by=lambda x: x[0],
    )
)
def test_every_openmetrics_page_reads_as_prometheus_reads_it(counts: list[tuple[int, int]]) -> None:
    page = "# TYPE a counter\n" + "".join(
        f'a_total{{x="{x}"}} {n} {timedelta(seconds=x).total_seconds()} # {{id="{n}"}} 1\n' for x, n in counts
    )
    (family,) = parse_openmetrics(page + "# EOF\n")
    theirs = [(sample.labels, sample.value) for sample in family.samples]
    ours = Wanted(["a_total"]).on((page + "# EOF\n").encode())["a_total"]
    assert [(series.labels, series.value) for series in ours] == theirs


@settings(max_examples=300)
@given(
    st.binary(max_size=60)
    | st.text(st.sampled_from('a_total{}=",\\n 1.5#+-eInfNa\n'), max_size=60).map(str.encode)
)
def test_no_page_does_worse_than_a_value_error(page: bytes) -> None:
    for text in (page, b"a_total{" + page + b"\n", b"a_total " + page + b"\n"):
        try:
            found = Wanted(["a_total"]).on(text)
            histogram(found.get("a_total", []))
        except ValueError:
            pass


class Looked(dict[Any, Any]):
    """Labels that are known, of which nobody goes through all."""

    def keys(self) -> Any:
        raise AssertionError("all were gone through")

    items = values = __iter__ = keys


def test_a_line_is_read_as_fast_however_many_labels_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """All known labels were gone through for each new line: one page of new ones held the loop for 35 s."""
    monkeypatch.setattr(exposition, "_pairs", Looked())
    page = b"".join(b'a_total{x="%d",y="of it"} 1\n' % n for n in range(100))
    assert len(Wanted(["a_total"]).on(page)["a_total"]) == 100
