"""What was counted between two readings, and what cannot be said."""

import pytest

from analysis.grids import SECONDS, grid_bounds
from analysis.samples import (
    Counts,
    Histogram,
    PodSample,
    Statistic,
    by_node,
    coarsened,
    difference,
    usual_bounds,
)


def test_two_readings_of_counts_give_what_happened_between_them() -> None:
    assert difference(Counts(100, 3), Counts(160, 5)) == Counts(60, 2)


def test_two_readings_of_a_histogram_give_what_fell_into_each_bucket() -> None:
    before, after = Histogram((1.0, 2.0), (5, 3, 1)), Histogram((1.0, 2.0), (9, 3, 2))
    assert difference(before, after) == Histogram((1.0, 2.0), (4, 0, 1))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Counts(100, 3), Counts(10, 0)),  # began again from zero
        (Counts(100, 3), Counts(140, 1)),  # fewer errors than before
        (Counts(100, 3), Counts(101, 5)),  # more errors than requests
        (Histogram((1.0,), (5, 1)), Histogram((1.0,), (6, 0))),
        (Histogram((1.0,), (5, 1)), Histogram((2.0,), (6, 1))),  # other buckets
        (Histogram((1.0, 2.0), (5, 0, 1)), Histogram((2.0, 3.0), (6, 1, 1))),
        (Histogram((), (5,)), Histogram((2.0,), (6, 1))),
        (Histogram((1.0,), (5, 1)), Counts(7, 1)),  # another kind of statistic
    ],
)
def test_readings_that_do_not_belong_together_have_no_difference(before: Statistic, after: Statistic) -> None:
    assert difference(before, after) is None


def test_native_histograms_of_two_schemas_differ_in_the_buckets_of_the_coarser() -> None:
    fine, coarse = (grid_bounds(SECONDS, schema)[1] for schema in (4, 2))
    before = Histogram(fine, tuple(range(len(fine) + 1)))
    after = Histogram(coarse, tuple(n + 5 for n in coarsened(before, coarse).count))
    assert difference(before, after) == Histogram(coarse, (5,) * (len(coarse) + 1))
    assert difference(after, before) is None  # smaller than before: it began again
    assert difference(Histogram(coarse, (0,) * (len(coarse) + 1)), before) == coarsened(before, coarse)


def test_a_page_that_lacks_buckets_now_and_then_is_compared_in_those_that_it_always_has() -> None:
    full, some = Histogram((1.0, 2.0, 3.0), (5, 3, 1, 1)), Histogram((1.0, 3.0), (7, 6, 1))
    assert difference(full, some) == Histogram((1.0, 3.0), (2, 2, 0))
    assert difference(some, Histogram((1.0, 2.0, 3.0), (9, 3, 4, 2))) == Histogram((1.0, 3.0), (2, 1, 1))
    assert difference(some, full) is None  # it began again


def test_histograms_add_only_in_the_same_buckets() -> None:
    assert Histogram((1.0,), (1, 2)) + Histogram((1.0,), (3, 4)) == Histogram((1.0,), (4, 6))
    with pytest.raises(ValueError, match="coarsened"):
        Histogram((1.0,), (1, 2)) + Histogram((2.0,), (3, 4))


def test_buckets_are_joined_without_losing_a_request() -> None:
    fine = Histogram((1.0, 2.0, 3.0), (1, 2, 3, 4))
    assert coarsened(fine, (2.0,)) == Histogram((2.0,), (3, 7))
    assert coarsened(fine, ()) == Histogram((), (10,))
    with pytest.raises(ValueError, match="cut"):
        coarsened(fine, (1.5,))


def test_pods_of_one_node_count_as_one_and_odd_buckets_are_left_out() -> None:
    usual, odd = Histogram((1.0,), (3, 1)), Histogram((2.0,), (9, 9))
    pods = [
        PodSample("a", "n1", usual),
        PodSample("b", "n1", usual),
        PodSample("c", "", usual),
        PodSample("d", "n2", odd),
    ]
    assert usual_bounds(pods, known=()) == (1.0,)
    assert by_node(pods, (1.0,)) == {"n1": (6, 2), "c": (3, 1)}


def test_of_equally_frequent_buckets_those_already_known_stay() -> None:
    pods = [PodSample("a", "", Histogram((1.0,), (1, 1))), PodSample("b", "", Histogram((2.0,), (1, 1)))]
    assert usual_bounds(pods, known=(1.0,)) == (1.0,)
    assert usual_bounds([], known=(7.0,)) == (7.0,)


def test_malformed_values_are_left_out() -> None:
    pods = [PodSample("a", "", Histogram((1.0,), (1, -1))), PodSample("b", "", Histogram((1.0,), (1, 2, 3)))]
    assert by_node(pods, (1.0,)) == {}
