"""What the whole distribution of latency says about the tail to come."""

import numpy as np
import pytest
from scipy.stats import norm

from analysis.belief import blank, held, prior, revised
from analysis.proportions import Above, Question
from analysis.quantiles import bounds, latency_question, tail_odds
from analysis.shifts import CHANGES, FACTORS, likelihoods, rates, shifts

LE = tuple(0.005 * 1.1**i for i in range(80))
SD, MEDIAN, J = 0.6, 0.02, len(FACTORS)
X2 = int(np.argmin(abs(np.exp(FACTORS) - 2.0)))


def cells(n: float, *, factor: float = 1.0, le: tuple[float, ...] = LE) -> np.ndarray:
    """Expected counts of n lognormal latencies."""
    below = norm.cdf((np.log(le) - np.log(MEDIAN * factor)) / SD)
    return n * np.diff(np.concatenate([[0.0], below, [1.0]]))


def drawn(rng: np.random.Generator, n: int, factor: float) -> np.ndarray:
    return rng.multinomial(n, cells(1.0, factor=factor)).astype(float)


def seen(
    belief: np.ndarray,
    stable: np.ndarray,
    canary: np.ndarray,
    *,
    le: tuple[float, ...] = LE,
    canary_le: tuple[float, ...] = LE,
    phi: float = 1.0,
) -> np.ndarray:
    """A second's requests later."""
    at = shifts(le, canary_le)
    assert at is not None
    likely = likelihoods(tail_odds(stable, level=0.05), at, canary)
    return revised(belief, likely, phi=np.float64(phi), seconds=np.float64(1.0), changes=CHANGES)


def after(seconds: int, factors: list[float], belief: np.ndarray | None = None, n: int = 10) -> np.ndarray:
    """Beliefs after as many seconds of n requests by each group, slower by these factors."""
    rng = np.random.default_rng(7)
    belief = blank(len(factors), J) if belief is None else belief
    for _ in range(seconds):
        canary = np.stack([drawn(rng, n, factor) for factor in factors])
        belief = seen(belief, cells(1000.0), canary)
    return belief


def expected(belief: np.ndarray, n: float, margin: float = 1.2) -> tuple[np.ndarray, Question]:
    """The rates expected, and the question they answer, after n requests of stable."""
    recent, at = np.stack([cells(n)] * 2), shifts(LE, LE)
    assert at is not None
    odds = tail_odds(recent, level=0.05)
    asked = latency_question(
        recent, odds, bounds(LE, LE), level=0.05, margin=np.array(margin), ready=np.array(True)
    )
    assert asked.ready
    assert isinstance(asked.canary, Above)
    by_factor = rates(odds, at, asked.canary.places)
    assert prior(J) @ by_factor.T == pytest.approx((believed(blank(1, J)) @ by_factor.T)[0])
    return believed(belief) @ by_factor.T, asked


def believed(belief: np.ndarray) -> np.ndarray:
    """Of each group, before a second in which all have requests."""
    groups = max(len(belief) - 1, 1)
    return held(belief, np.ones(groups), seconds=np.float64(1.0), changes=CHANGES)


def of_the_line(belief: np.ndarray, margin: float = 1.2) -> np.ndarray:
    """The rates expected, in those that the margin allows."""
    rate, asked = expected(belief, 5000.0, margin)
    return rate / asked.line


def test_three_seconds_of_ten_requests_show_that_latency_doubled() -> None:
    assert after(3, [2.0])[0, X2] > 0.5
    assert (of_the_line(after(3, [2.0])) > 2).all()


def test_nothing_is_expected_of_a_canary_like_stable_or_within_its_margin() -> None:
    for factor in (1.0, 1.1, 0.7):
        assert (of_the_line(after(30, [factor])) < 1.02).all()


def test_what_was_believed_is_forgotten_within_seconds() -> None:
    healed = after(4, [1.0], after(60, [2.0]))
    assert healed[0, X2] < 0.05


def test_the_rate_expected_is_that_of_the_shifted_distribution() -> None:
    sure = np.zeros((1, J))
    sure[0, X2] = 1.0
    rate, asked = expected(sure, 1e6)
    assert isinstance(asked.canary, Above)
    bound = LE[int(asked.canary.places[0])]
    truth = norm.sf(np.log(bound / (2 * MEDIAN)) / SD)
    assert rate == pytest.approx(np.full((1, 2), truth), rel=0.02)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_one_slow_node_is_not_bet_on_and_all_slow_nodes_are(groups: int) -> None:
    alone = of_the_line(after(20, [5.0] + [1.0] * (groups - 1)))
    assert (alone[0] < 1.02).all()
    assert (of_the_line(after(20, [2.0] * groups)) > 2).all()


def test_two_nodes_that_agree_are_as_sure_together_as_one_with_all_requests() -> None:
    whole = np.repeat(of_the_line(after(6, [2.0], n=20)), 2, axis=0)
    assert of_the_line(after(6, [2.0, 2.0])) == pytest.approx(whole, rel=0.25)


def test_noise_makes_belief_slower() -> None:
    stable, canary = cells(1000.0), cells(20.0, factor=2.0)[None]
    quick, slow = (seen(blank(1, J), stable, canary, phi=phi) for phi in (1.0, 8.0))
    assert slow[0, X2] < quick[0, X2]


@pytest.mark.parametrize(
    ("le", "canary_le"),
    [((0.05,), (0.05,)), ((0.0, 0.02, 0.1), (0.01, 0.1)), ((-1.0, 0.0, 0.02), (0.1,)), (LE, (0.0, 0.01))],
)
def test_whatever_the_buckets_a_belief_stays_one(le: tuple[float, ...], canary_le: tuple[float, ...]) -> None:
    stable, canary = np.full(len(le) + 1, 1e9), np.full((2, len(canary_le) + 1), 1e9)
    belief = seen(blank(2, J), stable, canary, le=le, canary_le=canary_le)
    assert np.isfinite(belief).all()
    assert (belief > 0).all()
    assert belief.sum(axis=1) == pytest.approx(np.ones(3), abs=1e-6)


@pytest.mark.parametrize(
    ("le", "canary_le"), [((-1.0, 0.0), (0.1,)), ((), ()), (LE, (0.0,)), ((), LE), (LE, ())]
)
def test_buckets_without_a_bound_above_zero_are_not_compared(
    le: tuple[float, ...], canary_le: tuple[float, ...]
) -> None:
    assert shifts(le, canary_le) is None
