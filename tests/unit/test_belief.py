"""What the whole distribution says about the tail to come."""

import numpy as np
import pytest
from scipy.stats import norm

from analysis.belief import ENOUGH, FACTORS, PRIOR, blank, expected_rates, forgotten, revised
from analysis.quantiles import latency_question

LE = tuple(0.005 * 1.1**i for i in range(80))
SD, MEDIAN = 0.6, 0.02
X2 = int(np.argmin(abs(np.exp(FACTORS) - 2.0)))


def cells(n: float, *, factor: float = 1.0, le: tuple[float, ...] = LE) -> np.ndarray:
    """Expected counts of n lognormal latencies."""
    below = norm.cdf((np.log(le) - np.log(MEDIAN * factor)) / SD)
    return n * np.diff(np.concatenate([[0.0], below, [1.0]]))


def drawn(rng: np.random.Generator, n: int, factor: float) -> np.ndarray:
    return rng.multinomial(n, cells(1.0, factor=factor)).astype(float)


def after(seconds: int, factors: list[float], belief: np.ndarray | None = None, n: int = 10) -> np.ndarray:
    """Beliefs after as many seconds of n requests by each group, slower by these factors."""
    rng = np.random.default_rng(7)
    belief = blank(len(factors)) if belief is None else belief
    for _ in range(seconds):
        canary = np.stack([drawn(rng, n, factor) for factor in factors])
        belief = revised(belief, cells(1000.0), canary, LE, LE, phi=1.0, seconds=1.0)
    return belief


def rates(belief: np.ndarray, margin: float = 1.2) -> np.ndarray:
    recent = np.stack([cells(5000.0)] * 2)
    asked = latency_question(recent, LE, LE, level=0.05, margin=margin)
    assert asked is not None
    return expected_rates(belief, recent, LE, LE, asked) / asked.line


def test_three_seconds_of_ten_requests_show_that_latency_doubled() -> None:
    assert after(3, [2.0])[0, X2] > 0.5
    assert (rates(after(3, [2.0])) > 2).all()


def test_nothing_is_expected_of_a_canary_like_stable_or_within_its_margin() -> None:
    for factor in (1.0, 1.1, 0.7):
        assert (rates(after(30, [factor])) < 1.02).all()


def test_what_was_believed_is_forgotten_within_seconds() -> None:
    healed = after(4, [1.0], after(60, [2.0]))
    assert healed[0, X2] < 0.05


def test_the_rate_expected_is_that_of_the_shifted_distribution() -> None:
    sure = np.zeros((1, len(FACTORS)))
    sure[0, X2] = 1.0
    recent = np.stack([cells(1e6)] * 2)
    asked = latency_question(recent, LE, LE, level=0.05, margin=1.2)
    assert asked is not None
    bound = LE[int(asked.canary[:, 0].argmax()) - 1]
    truth = norm.sf(np.log(bound / (2 * MEDIAN)) / SD)
    assert expected_rates(sure, recent, LE, LE, asked) == pytest.approx(np.full((1, 2), truth), rel=0.02)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_one_slow_node_is_not_bet_on_and_all_slow_nodes_are(groups: int) -> None:
    alone = rates(after(20, [5.0] + [1.0] * (groups - 1)))
    assert (alone[0] < 1.02).all()
    assert (rates(after(20, [2.0] * groups)) > 2).all()


def test_two_nodes_that_agree_are_as_sure_together_as_one_with_all_requests() -> None:
    whole = np.repeat(rates(after(6, [2.0], n=20)), 2, axis=0)
    assert rates(after(6, [2.0, 2.0])) == pytest.approx(whole, rel=0.25)


def test_noise_makes_belief_slower() -> None:
    stable, canary = cells(1000.0), cells(20.0, factor=2.0)[None]
    quick, slow = (revised(blank(1), stable, canary, LE, LE, phi=phi, seconds=1.0) for phi in (1.0, 8.0))
    assert slow[0, X2] < quick[0, X2]


def test_too_little_of_stable_says_nothing() -> None:
    canary = np.stack([cells(50.0, factor=3.0)] * 2)
    after_it = revised(blank(2), cells(ENOUGH - 1), canary, LE, LE, phi=1.0, seconds=1.0)
    assert after_it == pytest.approx(blank(2))


def test_silence_ends_in_knowing_nothing() -> None:
    assert forgotten(after(10, [5.0]), 60.0) == pytest.approx(blank(1), abs=1e-4)


@pytest.mark.parametrize(
    ("le", "canary_le"),
    [((0.05,), (0.05,)), ((0.0, 0.02, 0.1), (0.01, 0.1)), ((-1.0, 0.0), (0.1,)), ((), ()), (LE, (0.0,))],
)
def test_whatever_the_buckets_a_belief_stays_one(le: tuple[float, ...], canary_le: tuple[float, ...]) -> None:
    stable, canary = np.full(len(le) + 1, 1e9), np.full((2, len(canary_le) + 1), 1e9)
    belief = revised(blank(2), stable, canary, le, canary_le, phi=1.0, seconds=1.0)
    assert np.isfinite(belief).all()
    assert (belief > 0).all()
    assert belief.sum(axis=1) == pytest.approx(np.ones(2), abs=1e-6)


def test_all_belief_adds_up_to_one() -> None:
    assert PRIOR.sum() == pytest.approx(1.0)
    assert len(PRIOR) == len(FACTORS)
