"""What a dashboard would read from a window."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from analysis.readings import (
    histogram_quantile,
    lower_rank,
    mean,
    share,
    shift_interval,
    stability_index,
)

LE = (0.1, 0.2, 0.4)


def test_a_quantile_is_interpolated_linearly_in_its_bucket() -> None:
    cells = np.array([50.0, 40.0, 10.0, 0.0])  # rank 95 of 100: halfway through (0.2, 0.4]
    assert histogram_quantile(cells, LE, 0.95) == pytest.approx(0.3)
    assert histogram_quantile(cells, LE, 0.7) == pytest.approx(0.15)


def test_the_lowest_bucket_begins_at_zero() -> None:
    assert histogram_quantile(np.array([100.0, 0.0, 0.0, 0.0]), LE, 0.5) == pytest.approx(0.05)


def test_a_lowest_bound_that_is_not_above_zero_is_what_its_bucket_reads() -> None:
    assert histogram_quantile(np.array([9.0, 1.0, 0.0]), (-1.0, 1.0), 0.5) == -1.0
    assert histogram_quantile(np.array([0.0, 8.0, 0.0]), (-1.0, 1.0), 0.75) == pytest.approx(0.5)


def test_a_quantile_on_a_bound_reads_the_bound_and_skips_empty_buckets() -> None:
    assert histogram_quantile(np.array([50.0, 0.0, 50.0, 0.0]), LE, 0.5) == pytest.approx(0.1)
    assert histogram_quantile(np.array([50.0, 0.0, 50.0, 0.0]), LE, 0.75) == pytest.approx(0.3)


def test_above_the_last_bound_a_quantile_reads_that_bound() -> None:
    assert histogram_quantile(np.array([1.0, 0.0, 0.0, 9.0]), LE, 0.95) == 0.4


def test_without_requests_or_with_one_bucket_there_is_nothing_to_read() -> None:
    nothing = np.zeros((2, 4))
    assert np.isnan(histogram_quantile(nothing, LE, 0.95)).all()
    assert np.isnan(histogram_quantile(np.array([5.0]), (), 0.95))
    assert np.isnan(mean(nothing, LE)).all()
    assert np.isnan(mean(np.array([5.0]), ()))
    assert np.isnan(share(np.zeros(2)))
    assert np.isnan(stability_index(nothing))
    assert np.isnan(stability_index(np.array([[1.0, 2, 3, 4], [0, 0, 0, 0]])))


def test_rates_and_means_are_shares_and_middles() -> None:
    assert share(np.array([98.0, 2.0])) == pytest.approx(0.02)
    assert mean(np.array([1.0, 1.0, 1.0, 1.0]), LE) == pytest.approx((0.05 + 0.15 + 0.3 + 0.4) / 4)


def test_the_stability_index_is_that_of_two_halves() -> None:
    cells = np.array([[50.0, 50.0], [75.0, 25.0]])
    by_hand = 0.25 * np.log(0.75 / 0.5) - 0.25 * np.log(0.25 / 0.5)
    assert stability_index(cells) == pytest.approx(by_hand)
    assert stability_index(cells[[0, 0]]) == 0.0


def test_the_stability_index_joins_fine_buckets_to_deciles() -> None:
    fine = np.ones((2, 100))
    fine[1, :10] = 2.0  # the first decile twice as often
    s, c = np.full(10, 0.1), np.array([20.0] + [10.0] * 9) / 110
    assert stability_index(fine) == pytest.approx(((c - s) * np.log(c / s)).sum())


def test_a_canary_that_says_one_thing_only_has_a_finite_stability_index() -> None:
    cells = np.array([[10.0] * 10, [0.0] * 9 + [100.0]])
    by_hand = 0.9 * np.log(10) + 9 * (0.1 - 1e-4) * np.log(0.1 / 1e-4)
    assert stability_index(cells) == pytest.approx(by_hand)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rounded", [8, 1])
def test_the_interval_holds_the_shifts_that_scipys_test_does_not_contradict(seed: int, rounded: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.normal(1, 1, rng.integers(6, 25)).round(rounded)
    other = rng.normal(0, 1, rng.integers(6, 25)).round(rounded)
    limit, estimate = shift_interval(padded(one), padded(other), confidence=0.98)
    differences = np.unique(np.round(one[:, None] - other, 9))
    assert estimate == pytest.approx(np.median(one[:, None] - other))
    place = int(np.argmin(np.abs(differences - limit)))
    assert limit == pytest.approx(differences[place])
    below, above = (differences[place - 1 : place + 1].mean(), differences[place : place + 2].mean())
    assert p_value(one - below, other) < 0.02 <= p_value(one - above, other)


def test_the_upper_limit_is_the_lower_one_the_other_way_round() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=12), rng.normal(size=15)
    differences = np.sort((one[:, None] - other).ravel())
    upper = -shift_interval(other, one, confidence=0.98)[0]
    assert upper == pytest.approx(differences[-lower_rank(one, other, confidence=0.98)])


def test_with_few_points_the_limit_is_the_least_difference() -> None:
    limit, estimate = shift_interval(np.array([5.0, 6.0]), np.array([1.0, 2.5]), confidence=0.98)
    assert limit == 2.5
    assert estimate == pytest.approx((3.5 + 4.0) / 2)


def test_one_pair_is_no_test() -> None:
    limit, estimate = shift_interval(np.array([5.0]), np.array([1.0]), confidence=0.98)
    assert np.isnan(limit)
    assert np.isnan(estimate)


def test_arms_of_one_value_each_differ_by_just_that() -> None:
    limit, estimate = shift_interval(np.full(9, 5.0), np.full(9, 4.0), confidence=0.98)
    assert limit == estimate == 1.0


def test_several_series_at_once_read_as_each_alone() -> None:
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=(4, 9)), rng.normal(size=(4, 9))
    one[0, 3:] = np.nan
    other[2, 5] = np.nan
    together = shift_interval(one, other, confidence=0.98)
    for i in range(4):
        alone = shift_interval(one[i][~np.isnan(one[i])], other[i][~np.isnan(other[i])], confidence=0.98)
        assert together[0][i] == alone[0]
        assert together[1][i] == alone[1]


def padded(points: np.ndarray) -> np.ndarray:
    return np.append(points, [np.nan, np.nan])


def p_value(one: np.ndarray, other: np.ndarray) -> float:
    return float(mannwhitneyu(one, other, method="asymptotic", use_continuity=True).pvalue)
