"""Prometheus's protobuf format: what is wanted is read exactly, what is torn or false is refused."""

import random
import re
from collections.abc import Mapping
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.buckets import Exponential
from controller import exposition, protobuf
from controller.exposition import MOST_SERIES, Series, Wanted
from controller.protobuf import exponential, families
from tests import wire

WANTED = ("wanted_seconds", "wanted_total")
LABELS = {"reporter": "destination", "response_code": "200"}
sides = st.dictionaries(st.integers(-300, 300), st.integers(1, 2**40), max_size=20)


def page(*more: bytes) -> bytes:
    return b"".join(
        [
            wire.family("a_gauge", wire.metric({"x": "y"}, 2, wire.double(1, 7.0)), kind=1),
            wire.family("wanted_total", wire.counter(LABELS, 41), wire.counter({}, 1), kind=0),
            wire.family("wanted_seconds", wire.native(LABELS, 4, {3: 5, 4: 1, 9: 2}, zero=3)),
            wire.family("wanted_seconds_more", wire.counter({}, 3), kind=0),
            *more,
        ]
    )


def test_wanted_families_are_found_and_others_are_not() -> None:
    found = families(page(), WANTED)
    assert found.series["wanted_total"] == [Series(LABELS, 41.0), Series({}, 1.0)]
    assert found.series["wanted_seconds_count"] == [Series(LABELS, 11)]
    (one,) = found.native["wanted_seconds"]
    assert one.labels == LABELS
    assert exponential(one.message) == Exponential(4, ((3, 5), (4, 1), (9, 2)), zero=3)
    assert not {name for name in found.series if "gauge" in name or "more" in name}


@given(sides, sides, st.integers(-4, 8), st.integers(0, 2**40), st.sampled_from(["", "packed", "floats"]))
def test_a_native_histogram_is_what_was_written(
    positive: Mapping[int, int],
    negative: Mapping[int, int],
    schema: int,
    zero: int,
    how: str,
) -> None:
    body = wire.native_body(schema, positive, negative=negative, zero=zero, threshold=0.5, how=how)
    expected = Exponential(
        schema, tuple(sorted(positive.items())), tuple(sorted(negative.items())), zero, 0.5
    )
    assert exponential(body) == expected


def test_a_classic_histogram_is_read_as_from_text() -> None:
    buckets = {0.005: 1, 0.1: 4, 2.5: 4, inf: 7}
    text = "".join(
        f'wanted_seconds_bucket{{code="5",le="{"+Inf" if le == inf else le}"}} {n}\n'
        for le, n in buckets.items()
    )
    lines = Wanted(["wanted_seconds_bucket"]).on(text.encode())["wanted_seconds_bucket"]
    for written in (buckets, {le: n for le, n in buckets.items() if le < inf}):  # +Inf may be left out
        found = families(wire.family("wanted_seconds", wire.classic({"code": "5"}, written, 7)), WANTED)
        assert not found.native
        assert exposition.histogram(found.series["wanted_seconds_bucket"]) == exposition.histogram(lines)


def test_a_histogram_that_is_both_is_read_both_ways() -> None:
    both = wire.native_body(3, {1: 2}) + wire.message(3, wire.number(1, 1) + wire.double(2, 0.5))
    found = families(wire.family("wanted_seconds", wire.metric({}, 7, both)), WANTED)
    assert exponential(found.native["wanted_seconds"][0].message).n == 2
    assert exposition.histogram(found.series["wanted_seconds_bucket"]).count == (1, 1)


def test_one_label_set_without_a_native_histogram_makes_the_family_classic() -> None:
    half = (wire.native({"x": "1"}, 3, {1: 2}), wire.classic({"x": "2"}, {1.0: 3}, 4))
    assert not families(wire.family("wanted_seconds", *half), WANTED).native


def test_what_has_counted_nothing_yet_is_native_by_its_empty_span() -> None:
    (one,) = families(wire.family("wanted_seconds", wire.native({}, 3, {}, threshold=0.0)), WANTED).native[
        "wanted_seconds"
    ]
    assert exponential(one.message).n == 0


def test_a_declared_family_is_there_without_a_series() -> None:
    assert families(wire.family("wanted_seconds"), WANTED).series["wanted_seconds_bucket"] == []


def test_of_equal_label_sets_the_first_counts() -> None:
    twice = wire.family(
        "wanted_total", wire.counter({"a": "1", "b": "2"}, 3), wire.counter({"b": "2", "a": "1"}, 9)
    )
    assert families(twice, WANTED).series["wanted_total"] == [Series({"a": "1", "b": "2"}, 3.0)]


def test_a_family_that_stands_on_the_page_twice_is_one_of_both_as_in_text() -> None:
    """Pages of several processes that are put one after the other: the first one's was lost."""
    other = {**LABELS, "response_code": "500"}
    twice = page(
        wire.family("wanted_total", wire.counter(other, 9), wire.counter(LABELS, 5), kind=0),
        wire.family("wanted_seconds", wire.native(other, 4, {3: 1}), wire.native(LABELS, 4, {3: 7})),
    )
    found = families(twice, WANTED)
    assert found.series["wanted_total"] == [Series(LABELS, 41.0), Series({}, 1.0), Series(other, 9.0)]
    assert found.series["wanted_seconds_count"] == [Series(LABELS, 11), Series(other, 1)]
    assert [one.labels for one in found.native["wanted_seconds"]] == [LABELS, other]


def test_fields_in_another_order_and_unknown_ones_change_nothing() -> None:
    metric = wire.counter({}, 5)
    body = wire.number(99, 7) + wire.message(77, b"new") + metric + wire.message(1, b"wanted_total")
    assert families(wire.varint(len(body)) + body, WANTED).series["wanted_total"] == [Series({}, 5.0)]


@pytest.mark.parametrize("cut", [1, 20, 90, 150, -1, -40])
def test_a_torn_page_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="ends"):
        families(page()[:cut], WANTED)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (wire.native_body(3, {1: 2}, n=1), "its buckets hold 2 observations, its count says 1"),
        (wire.native_body(9, {1: 2}), "schema must be from -4 to 8"),
        (wire.native_body(3, {1: 2}) + wire.number(13, 1), "spans have room for 1 buckets, it has 2"),
        (wire.native_body(3, {1: 2}) + wire.message(12, wire.number(2, 2**40)), "room for"),
        (wire.native_body(3, {1: -2}, n=5), "-2 is not a count"),
        (wire.native_body(3, {1: 2**60}), "is not a count"),
        (wire.native_body(3, {1: 2}, threshold=inf), "zero_threshold must be finite"),
        (wire.double(5, inf), "a message where none belongs"),
        (wire.number(1, 5) + wire.number(12, 3), "a number where none belongs"),
        (wire.number(1, 5) + wire.message(14, b"1234567"), "ends within one"),
        (wire.varint(12 << 3 | 3), "wire type 3"),
        (b"\x62\x7f1", "126 bytes longer than its message"),
        (b"\x80" * 11, "more than ten bytes"),
        (b"\x80", "ends within a number"),
    ],
)
def test_a_histogram_that_contradicts_itself_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        exponential(body)


def test_nans_are_in_no_bucket_and_no_mistake() -> None:
    assert exponential(wire.native_body(3, {1: 2}, n=5)).n == 2


def test_too_many_series_are_refused() -> None:
    many = wire.family(
        "wanted_total", *(wire.counter({"i": str(i)}, 1) for i in range(MOST_SERIES + 1)), kind=0
    )
    with pytest.raises(ValueError, match=f"more than {MOST_SERIES} series"):
        families(many, WANTED)


LIMIT = 2 * 1024 * 1024  # bytes, as `scrape` reads


def filled(part: bytes, *, before: bytes = b"") -> bytes:
    """A wanted family of as many equal parts as a page holds."""
    body = wire.message(1, b"wanted_seconds") + before + part * ((LIMIT - 100) // len(part))
    return wire.varint(len(body)) + body


def of_histogram(body: bytes) -> bytes:
    return wire.family("wanted_seconds", wire.metric({}, 7, body))


def endless(number: int) -> bytes:
    """A histogram with two million numbers in a packed list."""
    count = LIMIT - 1000
    return wire.message(number - 1, wire.number(1, 0) + wire.number(2, count)) + wire.message(
        number, b"\x02" * count
    )


@pytest.mark.parametrize(
    ("many", "why"),
    [
        (b"\0" * LIMIT, "families"),
        (b"\x02\x10\x01" * (LIMIT // 3), "families"),
        (filled(wire.number(2, 1)), "fields and numbers"),
        (filled(wire.message(4, b"")), "fields and numbers"),
        (filled(wire.counter({}, 1)), "fields and numbers"),
        (wire.varint(2 * 10**6) + wire.number(2, 1) * 10**6, "fields and numbers"),  # its name comes last
        (
            wire.family("wanted_seconds", wire.message(4, wire.message(1, wire.number(9, 1) * 10**6))),
            "fields",
        ),
        (of_histogram(wire.number(1, 1) * 10**6), "fields and numbers"),
        (of_histogram(wire.message(3, wire.number(9, 1) * 10**6)), "fields and numbers"),
        (of_histogram(wire.message(12, wire.number(9, 1) * 10**6)), "fields and numbers"),
        (of_histogram(wire.message(9, b"") + wire.number(10, 2) * 40_000), "fields and numbers"),
        (of_histogram(endless(13)), "fields and numbers"),
        (of_histogram(endless(10)), "fields and numbers"),
        (
            of_histogram(wire.message(12, b"") + wire.message(14, b"\0" * (LIMIT - 1000))),
            "fields and numbers",
        ),
        (of_histogram(endless(13)[: LIMIT // 2]), "longer than its message"),
        (wire.family("wanted_total", wire.counter({str(i): "" for i in range(49)}, 1)), "48 labels"),
    ],
)
def test_a_page_that_would_hold_up_everything_else_is_refused(many: bytes, why: str) -> None:
    """Decoding cannot be interrupted, so that what it costs is counted."""
    assert len(many) <= LIMIT
    with pytest.raises(ValueError, match=why):
        families(many, WANTED)


def test_what_is_read_of_all_families_together_is_counted_whether_its_labels_are_remembered_or_not() -> None:
    one = wire.family("wanted_seconds", *(wire.native({"x": str(i)}, 4, {1: 2}) for i in range(1000)))
    eight = [f"wanted_second{i}" for i in range(8)]
    many = b"".join(one.replace(b"wanted_seconds", name.encode()) for name in eight)
    for _ in range(2):
        assert len(families(one, WANTED).native["wanted_seconds"]) == 1000
        with pytest.raises(ValueError, match="fields and numbers"):
            families(many, eight)


@pytest.mark.parametrize("body", [endless(13), endless(10), wire.message(12, wire.number(9, 1) * 10**6)])
def test_a_native_histogram_alone_is_not_decoded_for_seconds(body: bytes) -> None:
    with pytest.raises(ValueError, match="fields and numbers"):
        exponential(body)


@pytest.mark.parametrize("how", ["", "packed", "floats"])
def test_an_honest_page_is_well_within_what_is_read(how: str) -> None:
    """Twenty of the sidecar's histograms at their finest among thousands of families that nobody wants."""
    labels = {f"label_{i}": f"value-{i}" for i in range(26)}
    counts = {place + place // 10: 100 + place % 7 for place in range(1000)}
    fine = (wire.native({**labels, "code": str(i)}, 8, counts, how=how) for i in range(20))
    unwanted = (wire.family(f"other_{i}", wire.counter({}, 1), kind=0) for i in range(5000))
    found = families(b"".join([*unwanted, wire.family("wanted_seconds", *fine)]), WANTED)
    assert [exponential(one.message).n for one in found.native["wanted_seconds"]] == [
        sum(counts.values())
    ] * 20


def test_a_sidecars_classic_histograms_are_read_up_to_the_limit_of_series() -> None:
    labels = {f"label_{i}": f"value-{i}" for i in range(26)}
    buckets = {float(le): le for le in range(20)}
    many = (wire.classic({**labels, "code": str(i)}, buckets, 20) for i in range(MOST_SERIES // 22))
    found = families(wire.family("wanted_seconds", *many), WANTED)
    assert len(found.series["wanted_seconds_bucket"]) == MOST_SERIES // 22 * 21


def test_text_is_no_protobuf() -> None:
    with pytest.raises(ValueError, match="longer than its message"):
        families(b"# HELP wanted_total Words.\nwanted_total 1\n", WANTED)


def test_nothing_but_a_value_error_comes_of_any_damage() -> None:
    chance, whole = random.Random(7), page()
    refused = 0
    for _ in range(3000):
        torn = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            torn[chance.randrange(len(torn))] = chance.randrange(256)
        try:
            found = families(bytes(torn), WANTED)
            for one in (native for label_sets in found.native.values() for native in label_sets):
                exponential(one.message)
        except ValueError:
            refused += 1
    assert 0 < refused < 3000


def test_families_that_nobody_wants_are_passed_over_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(message: bytes) -> None:
        raise AssertionError(message)

    unwanted = b"".join(wire.family(f"other_{i}", wire.native(LABELS, 4, {1: 2})) for i in range(200))
    monkeypatch.setattr(protobuf, "_fields", refuse)
    assert families(unwanted, WANTED) == protobuf.Found()
