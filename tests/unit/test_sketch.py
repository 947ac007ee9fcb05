import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_shadow.sketch import (
    LABELS,
    RARE,
    BadBaseline,
    Baseline,
    Tally,
    captured,
    merged,
    read,
    tallied,
    written,
)

VALUES = st.floats(width=32) | st.sampled_from([0.0, 1.0, float("nan"), float("inf")])


def texts(*values: str | None) -> np.ndarray:
    return np.array(values, dtype=object)


def same(one: Tally, other: Tally) -> bool:
    fields = ("counts", "missing", "low", "high", "rows")
    return all(np.array_equal(getattr(one, each), getattr(other, each)) for each in fields)


def mixed(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=rows)
    numbers[rng.random(rows) < 0.1] = np.nan
    return {
        "number": numbers,
        "whole": rng.integers(0, 4, rows),
        "city": rng.choice(np.array(["oslo", "bern", None], dtype=object), rows),
    }


def test_twenty_cells_hold_as_many_training_values_each() -> None:
    found = captured({"x": np.random.default_rng(1).normal(size=10_000)})
    assert found.tally.counts[0].tolist() == [0, *[500] * 20, 0]


def test_nothing_of_the_training_lies_outside_and_all_beyond_it_does() -> None:
    x = np.array([3.0, 1.0, 2.0] * 40)
    found = captured({"x": x})
    now = tallied(found.features, {"x": np.array([0.9, 1.0, 3.0, 3.1])})
    assert found.tally.counts[0][[0, -1]].tolist() == [0, 0]
    assert now.counts[0][[0, -1]].tolist() == [1, 1]


def test_equal_values_share_a_cell_so_whole_numbers_keep_theirs() -> None:
    found = captured({"x": np.repeat([0, 1, 7], [100, 50, 25])})
    assert found.tally.counts[0].tolist() == [0, 100, 50, 25, 0]


def test_a_bound_lies_between_values_so_that_float32_falls_where_float64_did() -> None:
    x = np.round(np.random.default_rng(2).integers(0, 10, 5_000) / 10, 1)
    found = captured({"x": x})
    assert same(found.tally, tallied(found.features, {"x": x})) is True
    assert np.array_equal(tallied(found.features, {"x": x.astype(np.float32)}).counts, found.tally.counts)


def test_what_is_no_finite_number_is_missing() -> None:
    found = captured({"x": np.array([1.0, np.nan, np.inf, -np.inf, 2.0])})
    assert found.tally.missing.tolist() == [3]
    assert (found.tally.low[0], found.tally.high[0]) == (1.0, 2.0)


def test_a_feature_that_was_never_there_has_one_cell() -> None:
    found = captured({"x": np.full(10, np.nan)})
    assert found.features[0].edges == ()
    assert tallied(found.features, {"x": np.array([1.0, np.nan])}).counts.tolist() == [[1]]


def test_a_feature_without_a_column_is_missing_throughout() -> None:
    found = captured({"x": np.arange(10.0), "y": np.arange(10.0)})
    assert tallied(found.features, {"x": np.arange(4.0)}).missing.tolist() == [0, 4]


def test_rare_categories_are_counted_and_not_named() -> None:
    x = texts(*["often"] * RARE, *["seldom"] * (RARE - 1), None, "")
    found = captured({"x": x})
    assert found.features[0].labels == ("often",)
    assert found.tally.counts.tolist() == [[RARE, RARE - 1]]
    assert found.tally.missing.tolist() == [2]
    assert b"seldom" not in written(found)


def test_of_many_categories_the_commonest_are_named() -> None:
    x = texts(*(f"c{i}" for i in range(LABELS + 20) for _ in range(RARE + i)))
    labels = captured({"x": x}).features[0].labels or ()
    assert len(labels) == LABELS
    assert labels[0] == f"c{LABELS + 19}"


def test_numbers_that_are_named_as_categories_are() -> None:
    found = captured({"x": np.array([1.0, 2.0, np.nan] * RARE)}, categories=["x"])
    assert found.features[0].labels == ("1", "2")
    now = tallied(found.features, {"x": np.array([1, 2, 2, 9])})
    assert now.counts.tolist() == [[1, 2, 1]]


@pytest.mark.parametrize(
    ("columns", "categories", "said"),
    [
        ({}, (), "no row"),
        ({"x": np.array([])}, (), "no row"),
        ({"x": np.arange(3)}, ("y",), "there is no feature y"),
        ({"": np.arange(3)}, (), "printable"),
        ({"a\nb": np.arange(3)}, (), "printable"),
        ({str(i): np.arange(1) for i in range(4_097)}, (), "4097 features"),
    ],
)
def test_what_is_no_training_says_so(columns: dict, categories: tuple, said: str) -> None:
    with pytest.raises(BadBaseline, match=said):
        captured(columns, categories=categories)


@given(
    st.lists(VALUES, min_size=1, max_size=60), st.lists(VALUES, max_size=60), st.lists(VALUES, max_size=60)
)
def test_tallies_of_parts_add_up_exactly(trained: list, a: list, b: list) -> None:
    features = captured({"x": np.array(trained)}).features
    one, other, whole = (tallied(features, {"x": np.array(part, float)}) for part in (a, b, a + b))
    assert same(merged(one, other), whole)
    assert same(merged(other, one), whole)
    assert whole.counts.sum() + whole.missing.sum() == whole.rows


@given(st.lists(VALUES, min_size=1, max_size=80))
def test_a_baseline_counts_its_own_training_as_it_did(values: list) -> None:
    found = captured({"x": np.array(values)})
    assert same(tallied(found.features, {"x": np.array(values)}), found.tally)
    assert found.tally.counts[0, 0] == 0


def test_a_file_gives_back_what_was_written() -> None:
    found = captured(mixed(500))
    again = read(written(found))
    assert again.features == found.features
    assert same(again.tally, found.tally)
    assert written(again) == written(found)


def test_a_file_holds_no_row_and_little_of_anything() -> None:
    assert len(written(captured(mixed(50_000)))) < 1_500


def changed(**what: object) -> bytes:
    import json

    body = json.loads(written(captured({"x": np.arange(100.0)})))
    feature = body["features"][0]
    for name, value in what.items():
        (body if name in body else feature)[name] = value
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is no baseline"),
        (b"\x80\x04x", "is no baseline"),
        (b"[" * 100_000, "is no baseline"),
        (b'{"schema": NaN}', "is no baseline"),
        (changed(schema="v0"), "schema is v0"),
        (changed(rows=0), "have to be there"),
        (changed(rows=99), "do not add up"),
        (changed(features=[]), "have to be there"),
        (changed(edges=[2.0, 1.0]), "counts for 3 cells"),
        (changed(counts=[0, 100, 0], edges=[1.0, 1.0]), "do not ascend"),
        (changed(counts=[-1, 101], edges=[1.0]), "do not add up"),
        (changed(labels=["a"], counts=[100, 0]), "do not ascend"),
        (changed(labels=["a", "a"], edges=[], counts=[100, 0, 0]), "stands twice"),
        (changed(name="n" * 101), "counts"),
        (changed(sd=-1.0), "sd is below 0"),
        (b" " * (16 * 2**20 + 1), "bytes"),
    ],
)
def test_a_file_that_anybody_may_have_written_is_read_with_care(body: bytes, said: str) -> None:
    with pytest.raises(BadBaseline, match=said):
        read(body)


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_a_damaged_file_is_refused_or_a_sound_baseline(noise: bytes, at: int) -> None:
    body = bytearray(written(captured(mixed(50))))
    at %= len(body)
    body[at : at + len(noise)] = noise
    try:
        found = read(bytes(body))
    except BadBaseline:
        return
    assert isinstance(found, Baseline)
    assert (found.tally.counts.sum(axis=1) + found.tally.missing == found.tally.rows).all()
