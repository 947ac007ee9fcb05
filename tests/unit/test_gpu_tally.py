"""What is kept of compared answers: exact sums, counts by size, bounded lists, and their JSON."""

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_shadow.tally import (
    FINE,
    LARGEST,
    MOST_SLICES,
    PLACES,
    REST,
    WORST,
    ZERO,
    Answers,
    Comparison,
    Marks,
    Spread,
    Sure,
    buckets,
    by_label,
    exact_sum,
    foremost,
    lower,
    merge,
    upper,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, max_size=30))
def test_a_sum_has_no_rounding_at_all(values: list[float]) -> None:
    assert exact_sum(np.array(values)) == sum(map(Fraction, values), Fraction())


def test_a_sum_survives_what_floats_do_not() -> None:
    assert exact_sum(np.array([1e16, 1.0, -1e16])) == 1
    assert exact_sum(np.array([5e-324] * 3)) == 3 * Fraction(5e-324)
    assert exact_sum(np.array([])) == 0


@given(st.floats(min_value=5e-324, max_value=1e300))
def test_a_bucket_holds_what_lies_between_its_ends(size: float) -> None:
    (bucket,) = buckets(np.array([size])).tolist()
    if size > 1e-300:  # below, the ends themselves are rounded
        assert lower(bucket) <= size * (1 + 1e-15)
        assert size <= upper(bucket) * (1 + 1e-15)


def test_zero_has_a_bucket_of_its_own() -> None:
    assert buckets(np.array([0.0])).tolist() == [ZERO]
    assert lower(ZERO) == upper(ZERO) == 0


@given(st.lists(st.floats(min_value=-1e9, max_value=1e9), min_size=1, max_size=60), st.floats(0.01, 1))
def test_a_quantile_is_never_too_low_and_at_most_nine_percent_too_high(
    values: list[float], level: float
) -> None:
    found = Spread.of(np.array(values)).quantile(level)
    true = float(np.quantile(np.abs(values), level, method="inverted_cdf"))
    assert true * (1 - 1e-12) <= found <= true * 2 ** (1 / FINE) * (1 + 1e-12) + 1e-300


def test_a_figure_that_is_no_number_is_refused_and_an_infinite_one_cut_off() -> None:
    with pytest.raises(ValueError, match="leave out requests"):
        Spread.of(np.array([1.0, math.nan]))
    assert Spread.of(np.array([math.inf])).largest == LARGEST


def test_every_size_there_is_has_a_bucket_that_is_read_again() -> None:
    found = buckets(np.array([5e-324, 2.0**-1022, 1.0, LARGEST]))
    assert all(place in PLACES for place in found.tolist())
    assert [lower(PLACES.start), upper(PLACES.stop - 1)] == [pytest.approx(0, abs=1e-300), 2.0**128]


def test_of_no_requests_nothing_is_known() -> None:
    nothing = Spread.of(np.array([]))
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.quantile(0.5))
    assert nothing + nothing == Spread()


def test_of_too_many_slices_the_first_of_the_alphabet_are_kept_and_none_is_lost() -> None:
    labels = [f"{place:03}" for place in range(MOST_SLICES + 10)]
    found = by_label(labels * 2, [0] * 2 * len(labels))
    assert sorted(found) == [REST, *labels[:MOST_SLICES]]
    assert found["007"].same == 2
    assert found[REST].same == 20


def test_labels_that_are_dropped_late_lose_nothing_of_those_that_stay() -> None:
    """However the labels are dealt out to parts, what stays is complete."""
    labels = [f"{place:03}" for place in range(2 * MOST_SLICES)]
    parts = [
        Comparison(
            task="t", slices=by_label(labels[at::3] + labels[:5], [0] * len(labels[at::3] + labels[:5]))
        )
        for at in range(3)
    ]
    forwards = merge(merge(parts[0], parts[1]), parts[2])
    backwards = merge(parts[2], merge(parts[1], parts[0]))
    assert forwards.slices == backwards.slices
    assert forwards.slices["000"].same == 4
    assert sum(each.same for each in forwards.slices.values()) == len(labels) + 15


def test_the_list_of_the_worst_is_bounded_and_in_one_order() -> None:
    found = [(float(place % 3), f"r{place:02}") for place in range(60)]
    kept = foremost(reversed(found))
    assert kept == foremost(found)
    assert len(kept) == WORST
    assert kept[0] == (2.0, "r02")


def test_comparisons_of_different_tasks_do_not_merge() -> None:
    with pytest.raises(ValueError, match="for regression cannot be merged with one for embedding"):
        merge(Comparison(task="regression"), Comparison(task="embedding"))


def full() -> dict[str, Any]:
    """JSON with something in every field."""
    spread = Spread.of(np.array([0.0, 0.3, -2.0]))
    of = Comparison(
        task="classification",
        answers=Answers(same=3, canary=1),
        slices={"a": Answers(same=1)},
        figures={"kl": spread},
        floor={"kl": spread},
        flips={3: 1},
        floor_flips={ZERO: 1},
        turns={(1, 2): 1},
        failures=("status 500",),
        mismatches=("shape",),
        worst=((1.5, "r1"),),
        wrong=Answers(same=2, again=1),
        marks={"canary": Marks(n=3, brier=Fraction(3, 4), nll=Fraction(1, 2), bins={14: Sure(n=3, right=2)})},
    )
    return json.loads(json.dumps(of.to_json()))  # type: ignore[no-any-return]


def test_json_and_back_is_the_same() -> None:
    assert Comparison.from_json(full()).to_json() == full()


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (["schema"], "v0", "schema is 'v0'"),
        (["answers", "same"], -1, "-1 for a count"),
        (["answers", "same"], True, "True for a count"),
        (["answers", "same"], 2**70, "for a count"),
        (["answers"], [], "of another form"),
        (["task"], 3, "3 for a text"),
        (["figures", "kl", "total"], "1/3", "a sum that no floats have"),
        (["figures", "kl", "total"], "1/0", "a sum that no floats have"),
        (["figures", "kl", "total"], "9" * 1000 + "/1", "a sum that no floats have"),
        (["figures", "kl", "total"], "1e999999999", "for a sum"),
        (["figures", "kl", "total"], 3, "3 for a sum"),
        (["figures", "kl", "largest"], float("nan"), "nan for a figure"),
        (["figures", "kl", "buckets"], [[2**40, 1]], "a bucket that there is not"),
        (["figures", "kl", "buckets"], [[2**13, 1]], "a bucket that there is not"),
        (["flips"], [[True, 1], [-9000, 1]], "a bucket that there is not"),
        (["marks", "canary", "bins"], [[15, 1, 1, "1/2"]], "a bin of confidence that there is not"),
        (["marks", "canary", "bins"], [[3, 1, 2, "1/2"]], "a bin of confidence that there is not"),
        (["marks", "canary", "brier"], "1/3", "a sum that no floats have"),
        (["worst"], [[1.0]], "not enough values"),
        (["slices"], None, "of another form"),
    ],
)
def test_json_of_another_form_is_refused_with_a_reason(path: list[str], value: object, why: str) -> None:
    said = full()
    inner = said
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValueError, match=why):
        Comparison.from_json(said)


def test_json_without_a_field_or_that_is_none_is_refused() -> None:
    said = full()
    del said["worst"]
    with pytest.raises(ValueError, match="without 'worst'"):
        Comparison.from_json(said)
    with pytest.raises(ValueError, match="schema is 'list'"):
        Comparison.from_json([])
