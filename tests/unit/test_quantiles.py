"""Which statement buckets can carry."""

import numpy as np
import pytest
from scipy.stats import lognorm

from analysis.proportions import Question
from analysis.quantiles import (
    COLLAPSED_RHO,
    Pair,
    bounds,
    latency_question,
    pair,
    quantile,
    ratio_interval,
    resolution,
    slope,
    tail_odds,
    tails,
)

ISTIO = tuple(b / 1000 for b in (0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000))
FINE = tuple(0.01 * 1.05**i for i in range(120))


def cells(le: tuple[float, ...], n: float, *, p95: float = 0.114, sd: float = 0.5) -> np.ndarray:
    below = lognorm.cdf(le, sd, scale=p95 / np.exp(1.645 * sd))
    return n * np.diff(np.concatenate([[0], below, [1]]))


def paired(
    counted: np.ndarray, le: tuple[float, ...], canary_le: tuple[float, ...], *, margin: float = 1.2
) -> Pair:
    return pair(tail_odds(counted, level=0.05), bounds(le, canary_le), level=0.05, margin=margin)


def asked(recent: np.ndarray) -> Question:
    odds = tail_odds(recent, level=0.05)
    return latency_question(
        recent, odds, bounds(FINE, FINE), level=0.05, margin=np.array(1.2), ready=np.array(True)
    )


@pytest.mark.parametrize("le", [ISTIO, FINE])
@pytest.mark.parametrize("margin", [1.1, 1.2, 2.4])
@pytest.mark.parametrize("p95", [0.03, 0.114, 0.4])
def test_the_margin_is_never_narrower_than_promised(le: tuple[float, ...], margin: float, p95: float) -> None:
    chosen = paired(cells(le, 1000, p95=p95), le, le, margin=margin)
    assert chosen.found
    assert le[chosen.canary] >= le[chosen.stable] * margin * (1 - 1e-9)


def test_fine_buckets_compare_at_stables_p95() -> None:
    chosen = paired(cells(FINE, 1000), FINE, FINE)
    assert chosen.found
    assert FINE[chosen.stable] == pytest.approx(0.114, rel=0.05)
    assert chosen.rate == pytest.approx(0.05, rel=0.2)
    assert resolution(bounds(FINE, FINE), chosen) < 1.2 * 1.05**2


def test_coarse_buckets_say_which_ratio_they_can_prove() -> None:
    chosen = paired(cells(ISTIO, 1000), ISTIO, ISTIO)
    assert chosen.found
    assert resolution(bounds(ISTIO, ISTIO), chosen) >= 2.5


def test_each_arm_may_have_buckets_of_its_own() -> None:
    chosen = paired(cells(FINE, 1000), FINE, ISTIO)
    assert chosen.found
    assert ISTIO[chosen.canary] >= FINE[chosen.stable] * 1.2


@pytest.mark.parametrize(
    ("le", "n"), [((0.001,), [0.0, 100.0]), ((0.1, 0.2), [0.0, 0.0, 0.0]), ((0.0,), [1.0, 9.0])]
)
def test_hopeless_buckets_ask_nothing_or_something_finite(le: tuple[float, ...], n: list[float]) -> None:
    chosen = paired(np.array(n), le, le)
    assert np.isfinite(chosen.rate)
    assert not chosen.found or le[chosen.canary] >= le[chosen.stable] * 1.2


def test_where_the_margin_holds_nothing_the_canary_may_have_more_in_the_tail() -> None:
    steps = np.zeros(len(FINE) + 1)
    steps[[30, 52]] = 940, 60  # nothing between 43 ms and 126 ms: the margin around 43 ms is empty
    question, smooth = asked(np.stack([steps, steps])), asked(np.stack([cells(FINE, 900)] * 2))
    assert question.ready
    assert smooth.ready
    assert question.rho == pytest.approx([COLLAPSED_RHO] * 2)
    assert smooth.rho == pytest.approx([1.0, 1.0])


def test_a_timeout_in_the_overflow_counts_as_slow() -> None:
    assert list(tails(np.array([5.0, 3.0, 2.0]))) == [5.0, 2.0]


@pytest.mark.parametrize("level", [0.5, 0.1, 0.05, 0.01])
def test_the_shown_quantile_is_scipys_within_a_bucket(level: float) -> None:
    found = quantile(cells(FINE, 1e6), FINE, level)
    assert found == pytest.approx(lognorm.isf(level, 0.5, scale=0.114 / np.exp(1.645 * 0.5)), rel=0.01)


def test_slope_is_the_derivative_of_the_log_odds() -> None:
    z, h = 1.645, 1e-4
    from scipy.special import logit
    from scipy.stats import norm

    exact = (logit(norm.sf(z - h)) - logit(norm.sf(z + h))) / (2 * h) / 0.5
    odds = tail_odds(cells(FINE, 1e6), level=0.05)
    assert slope(odds, bounds(FINE, FINE), level=0.05) == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("n", [[950.0, 50.0], [950.0, 0.0, 50.0]])
def test_slope_is_unknown_of_one_bound_or_of_bounds_with_nothing_between(n: list[float]) -> None:
    le = (0.1, 0.2)[: len(n) - 1]
    assert np.isnan(slope(tail_odds(np.array(n), level=0.05), bounds(le, le), level=0.05))


def test_the_ratio_interval_narrows_around_the_truth() -> None:
    widths = []
    for n in (300, 3000, 30000):
        canary = cells(FINE, n, p95=0.114 * 1.5)
        low, high = ratio_interval(cells(FINE, 9 * n), canary, FINE, FINE, level=0.05, error=0.01)
        assert low <= 1.5 <= high
        widths.append(high / max(low, 0.1))
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < 1.3


def test_nothing_counted_means_no_bounds() -> None:
    nothing = np.zeros(len(FINE) + 1)
    assert ratio_interval(nothing, nothing, FINE, FINE, level=0.05, error=0.01) == (0.0, float("inf"))
