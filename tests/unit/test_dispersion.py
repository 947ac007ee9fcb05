"""How noisy pods are, against simulated truth."""

import numpy as np
import pytest
from scipy.stats import t

from analysis.dispersion import (
    Dispersion,
    interrupted,
    lasting_ratio,
    observed,
    phi,
    spread,
    unmeasured,
    with_nodes,
)


def measured(rates: np.ndarray, n: int, seed: int) -> Dispersion:
    """`rates` [T, P]: each second's true rate of each of P nodes, `n` requests a second each."""
    return counted(drawn(rates, n, seed), n)


def drawn(rates: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The hits [T, P] of n requests each."""
    rng = np.random.default_rng(seed)
    return np.array([[float(rng.binomial(n, p)) for p in row] for row in rates])


def counted(hits: np.ndarray, n: int) -> Dispersion:
    state = unmeasured(hits.shape[1])
    for row in hits:
        state = observed(state, np.full(len(row), float(n)), row, seconds=np.float64(1.0))
    return state


def at_equal_loads(state: Dispersion, nodes: int, n: float) -> float:
    return float(phi(state, stable_rate=nodes * n, canary_rate=n, stable_nodes=nodes, canary_nodes=1))


def test_independent_requests_have_phi_one() -> None:
    values = [at_equal_loads(measured(np.full((400, 9), 0.05), 10, seed), 9, 10) for seed in range(20)]
    assert np.mean(np.array(values) == 1.0) >= 0.9


def test_pods_that_wander_are_measured() -> None:
    """Beta-binomial nodes for 10 s each: correlation r gives phi = 1 + r (requests - 1)."""
    rng = np.random.default_rng(5)
    p, r = 0.05, 0.03
    size = 1 / r - 1
    blocks = rng.beta(p * size, (1 - p) * size, (120, 9))
    state = measured(np.repeat(blocks, 10, axis=0), 10, 6)
    assert at_equal_loads(state, 9, 10) == pytest.approx(1 + r * (100 - 1), rel=0.35)


def wandering(seed: int, seconds: int = 1200, r: float = 0.03) -> np.ndarray:
    """Hits of nine beta-binomial nodes, 10 requests a second each, and 100 in each window."""
    size = 1 / r - 1
    blocks = np.random.default_rng(seed).beta(0.05 * size, 0.95 * size, (seconds // 10, 9))
    return drawn(np.repeat(blocks, 10, axis=0), 10, seed + 1)


def test_nodes_that_wander_are_measured_in_spite_of_bursts() -> None:
    hits = wandering(5)
    for begins in (203, 503, 803):
        hits[begins : begins + 3, begins % 9] = 10.0
    assert at_equal_loads(counted(hits, 10), 9, 10) == pytest.approx(1 + 0.03 * (100 - 1), rel=0.35)


@pytest.mark.parametrize("seed", range(3))
def test_nodes_that_differ_by_a_lasting_factor_are_measured(seed: int) -> None:
    """The squared deviations of nodes' means over 40 s, 400 requests each, are what phi is then."""
    rates = 0.05 * np.exp(0.3 * np.random.default_rng(seed).standard_normal(9))
    p = rates.mean()
    usual = 400 * rates.var(ddof=1) / (p * (1 - p)) + 1
    assert usual > 1.5
    state = measured(np.tile(rates, (1200, 1)), 10, seed + 50)
    assert at_equal_loads(state, 9, 10) == pytest.approx(usual, rel=0.35)


def test_phi_grows_with_the_load_of_a_canary_node() -> None:
    rng = np.random.default_rng(7)
    blocks = rng.beta(0.05 * 30, 0.95 * 30, (60, 9))
    state = measured(np.repeat(blocks, 10, axis=0), 10, 8)
    even = phi(state, stable_rate=90, canary_rate=10, stable_nodes=9, canary_nodes=1)
    uneven = phi(state, stable_rate=50, canary_rate=50, stable_nodes=9, canary_nodes=1)
    assert uneven > 1.5 * even


@pytest.mark.parametrize("nodes", [1, 2])
def test_with_fewer_than_three_stable_nodes_it_is_the_prior(nodes: int) -> None:
    found = phi(unmeasured(), stable_rate=50, canary_rate=50, stable_nodes=nodes, canary_nodes=1)
    canary, stable = 1 + 0.02 * (500 - 1), 1 + 0.02 * (500 / nodes - 1)
    assert found == pytest.approx((canary * 50 + stable * 50) / 100, rel=0.02)


def test_before_anything_is_measured_three_nodes_count_as_quiet() -> None:
    assert phi(unmeasured(), stable_rate=90, canary_rate=10, stable_nodes=9, canary_nodes=1) == 1.0


def test_lasting_differences_of_pods_are_found() -> None:
    rng = np.random.default_rng(9)
    tau, slope = 0.15, 4.0
    odds = np.log(0.05 / 0.95) + slope * tau * rng.standard_normal(9)
    state = measured(np.tile(1 / (1 + np.exp(-odds)), (800, 1)), 20, 10)
    assert spread(state, slope=slope, stable_nodes=9) == pytest.approx(tau, rel=0.6)
    assert spread(unmeasured(), slope=slope, stable_nodes=9) < 0.03


def test_the_lasting_ratio_is_students_t() -> None:
    expected = np.exp(t.ppf(0.99, 12) * 0.05 * np.sqrt(1 / 2 + 1 / 9))
    assert lasting_ratio(0.05, stable_nodes=9, canary_nodes=2) == pytest.approx(expected)


def test_an_interruption_drops_open_windows_and_keeps_what_closed_ones_said() -> None:
    state = measured(np.full((57, 5), 0.1), 10, 11)
    after = interrupted(state)
    assert after.n.shape == after.k.shape == (3, 1)
    assert after.n.sum() == 0
    assert not after.length.any()
    assert (after.sums == state.sums).all()
    assert state.n.sum() > 0


def test_nodes_come_and_go() -> None:
    state = unmeasured()
    for second in range(200):
        first, last = second // 50, second // 50 + 3
        state = with_nodes(state, last)
        there = np.arange(last) >= first
        state = observed(state, 10.0 * there, 1.0 * there, seconds=np.float64(1.0))
    assert state.n.shape == state.k.shape == (3, 6)
    assert np.isfinite(state.sums).all()
