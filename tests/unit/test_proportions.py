"""The safe 2x2: against exact enumeration, a general optimiser and the closed form."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, rel_entr
from scipy.stats import beta, binom

from analysis.proportions import (
    EFFECTS,
    Question,
    error_question,
    log_gains,
    log_sum,
    projection,
    rate_interval,
    share_question,
)

# One allows more than everything where stable is at its worst; the last two are shares that may fall.
MARGINS = [
    (1.0, 0.0),
    (1.5, 0.001),
    (1.5, 0.0),
    (1.0, 0.05),
    (3.0, 0.01),
    (1.5, 0.4),
    (0.85, 0.15),
    (0.2, 0.8),
]


def asked(q: float, rho: float, delta: float) -> Question:
    mask = np.array([[0.0], [1.0]])
    return Question(
        mask, mask, np.array([q]), np.array([rho]), np.array([delta]), np.array([0.6 * q]), np.array(True)
    )


def asked_of_share(share: float, **margin: float) -> Question:
    margin = {"max_increase": 0.0, "plus": 0.0, "max_decrease": 0.0} | margin
    recent = 1e6 * np.array([1 - share, share])
    return share_question(recent, **margin, ready=np.array(True))


def kl(p: float, u: float) -> float:
    return float(rel_entr(p, u) + rel_entr(1 - p, 1 - u))


@pytest.mark.parametrize(("rho", "delta"), MARGINS)
@pytest.mark.parametrize("q", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("effect", [0.25, 1.2, 3.2, -0.35, -1.4])
def test_projection_is_where_a_general_optimiser_finds_the_minimum(
    rho: float, delta: float, q: float, effect: float
) -> None:
    n_c, n_s = 7.0, 93.0
    p1 = float(expit(logit(rho * q + delta) + effect))

    def cost(v: float) -> float:
        return n_c * kl(p1, rho * v + delta) + n_s * kl(q, v)

    best = minimize_scalar(cost, bounds=(1e-9, min(1, (1 - delta) / rho) - 1e-9), options={"xatol": 1e-12})
    u, v = projection(
        n_c=n_c, n_s=n_s, p1=np.array([p1]), q=np.array([q]), rho=np.array([rho]), delta=np.array([delta])
    )
    assert u[0] == pytest.approx(rho * v[0] + delta)
    assert cost(float(v[0])) <= cost(float(best.x)) + 1e-9


@pytest.mark.parametrize("decrease", [0.01, 0.15, 0.6, 0.98])
@pytest.mark.parametrize("share", [0.0004, 0.01, 0.3, 0.97])
@pytest.mark.parametrize("effect", [-3.0, -0.8, -0.12, 0.4])
def test_projection_of_a_share_is_where_an_optimiser_finds_it_among_the_shares_themselves(
    decrease: float, share: float, effect: float
) -> None:
    """The null is p_c = (1 - d) p_s there; ours is that of the complements, with two roots close together."""
    n_c, n_s = 40.0, 60.0
    question = asked_of_share(share, max_decrease=decrease)
    p_s = 1 - question.q[0]
    p_c = float(expit(logit((1 - decrease) * p_s) + effect))

    def cost(log_v: float) -> float:
        v = np.exp(log_v)
        return n_c * kl(p_c, (1 - decrease) * v) + n_s * kl(p_s, v)

    best = minimize_scalar(cost, bounds=(np.log(1e-8), -1e-9), options={"xatol": 1e-11})
    u, v = projection(
        n_c=n_c,
        n_s=n_s,
        p1=np.array([1 - p_c]),
        q=question.q,
        rho=question.rho,
        delta=question.delta,
    )
    assert 1 - u[0] == pytest.approx((1 - decrease) * (1 - v[0]), rel=1e-9)
    assert 1 - v[0] == pytest.approx(np.exp(best.x), rel=1e-4)
    assert cost(float(np.log(1 - v[0]))) <= cost(float(best.x)) + 1e-9


def test_without_a_margin_projection_is_the_weighted_mean() -> None:
    u, v = projection(
        n_c=3.0, n_s=17.0, p1=np.array([0.4]), q=np.array([0.05]), rho=np.ones(1), delta=np.zeros(1)
    )
    assert u[0] == v[0] == pytest.approx((3 * 0.4 + 17 * 0.05) / 20)


@pytest.mark.parametrize(("rho", "delta"), MARGINS)
@pytest.mark.parametrize("side", ["worse", "better"])
@pytest.mark.parametrize("guess", [0.002, 0.07, 0.35, 0.55])
def test_expectation_is_at_most_one_on_the_whole_null(
    rho: float, delta: float, side: str, guess: float
) -> None:
    """Exact enumeration of both binomials, over a grid of the null's boundary and inside."""
    n_c, n_s = 4, 11
    k_c, k_s = np.arange(n_c + 1), np.arange(n_s + 1)
    question = asked(guess, rho, delta)
    p1 = getattr(question, side)()[None]
    e = np.exp(
        [
            [log_gains(question, np.array([n_s - b, b]), np.array([[n_c - a, a]]), p1)[0, 0] for b in k_s]
            for a in k_c
        ]
    )  # [k_c, k_s, E]
    for p_s in np.linspace(0.0005, (1 - delta) / rho - 0.0005, 41):
        line = rho * p_s + delta
        inside = line * np.array([1.0, 0.7]) if side == "worse" else line + (1 - line) * np.array([0.0, 0.3])
        for p_c in inside:
            weight = np.outer(binom.pmf(k_c, n_c, p_c), binom.pmf(k_s, n_s, p_s))
            assert np.einsum("ab,abe->e", weight, e).max() <= 1 + 1e-9


def test_any_choice_of_groups_keeps_the_expectation_at_one() -> None:
    """Leaving a node out leaves an e-value: stable's share shrinks with it."""
    question = asked(0.05, 1.5, 0.001)
    n = (3, 4, 20)
    p_s = 0.05
    p_c = 1.5 * p_s + 0.001
    total = np.zeros(len(EFFECTS))
    for k_s in range(n[2] + 1):
        for a in range(n[0] + 1):
            gains = log_gains(
                question,
                np.array([n[2] - k_s, k_s]),
                np.array([[n[0] - a, a], [n[1], 0]]),
                question.worse()[None],
            )
            total += binom.pmf(k_s, n[2], p_s) * binom.pmf(a, n[0], p_c) * np.exp(gains[0, 0])
    assert total.max() <= 1 + 1e-9


@pytest.mark.parametrize(("p1", "least"), [((0.2, 0.2), 0.97), ((0.15, 0.2), 0.97), ((0.08, 0.6), 0.5)])
def test_groups_may_have_alternatives_of_their_own(p1: tuple[float, float], least: float) -> None:
    question = asked(0.05, 1.0, 0.0)
    n_c, n_s, p = (3, 4), 20, 0.05
    total = 0.0
    for k_s, a, b in itertools.product(range(n_s + 1), range(n_c[0] + 1), range(n_c[1] + 1)):
        canary = np.array([[n_c[0] - a, a], [n_c[1] - b, b]])
        gains = log_gains(question, np.array([n_s - k_s, k_s]), canary, np.reshape(p1, (2, 1, 1)))
        weight = binom.pmf(k_s, n_s, p) * binom.pmf(a, n_c[0], p) * binom.pmf(b, n_c[1], p)
        total += weight * np.exp(gains.sum())
    assert least < total <= 1 + 1e-9


def test_groups_share_what_the_whole_arm_gains() -> None:
    question, stable = asked(0.05, 1.0, 0.0), np.array([90.0, 5.0])
    apart = log_gains(question, stable, np.array([[3.0, 2.0], [5.0, 0.0]]), question.worse()[None])
    together = log_gains(question, stable, np.array([[8.0, 2.0]]), question.worse()[None])
    assert apart.sum(axis=0) == pytest.approx(together[0])


@pytest.mark.parametrize(("stable", "canary"), [([0.0, 0.0], [5.0, 5.0]), ([5.0, 5.0], [0.0, 0.0])])
def test_an_arm_without_requests_says_nothing(stable: list[float], canary: list[float]) -> None:
    question = asked(0.05, 1.5, 0.001)
    gains = log_gains(question, np.array(stable), np.array([canary]), question.worse()[None])
    assert not gains.any()


def test_a_margin_that_allows_everything_finds_nothing() -> None:
    question = asked(0.9, 1.5, 0.001)
    gains = log_gains(question, np.array([10.0, 90.0]), np.array([[0.0, 10.0]]), question.worse()[None])
    assert not gains.any()


def test_the_guess_of_an_error_rate_is_never_zero() -> None:
    question = error_question(np.array([1000.0, 0.0]), rho=1.5, delta=0.001, ready=np.array(True))
    assert 0 < question.q[0] < 0.001


@pytest.mark.parametrize("share", [0.01, 0.1, 0.4, 0.9])
def test_fewer_hits_are_asked_for_as_more_trials_without_one(share: float) -> None:
    question = asked_of_share(share, max_decrease=0.15)
    assert question.q[0] == pytest.approx(1 - share, abs=1e-5)
    assert 1 - question.line[0] == pytest.approx(0.85 * share, rel=1e-3)
    fewer, better = 1 - question.worse()[0], 1 - question.better()[0]
    assert (fewer < 0.85 * share).all()
    assert (fewer > 0).all()
    assert (better > 0.85 * share).all()
    stable, canary = np.array([1 - share, share]) * 9000, np.array([[1 - share / 2, share / 2]]) * 1000
    assert log_gains(question, stable, canary, question.worse()[None]).max() > 0.5


def test_more_hits_of_what_is_bad_are_asked_for_as_they_are() -> None:
    question = asked_of_share(0.2, max_increase=0.5, plus=0.01)
    assert question.line[0] == pytest.approx(0.31, rel=1e-4)
    assert (question.worse()[0] > 0.31).all()


@pytest.mark.parametrize("recent", [(100.0, 0.0), (0.0, 100.0)])
def test_the_guess_of_a_share_is_neither_nothing_nor_all(recent: tuple[float, float]) -> None:
    for margin in ({"max_decrease": 0.1}, {"max_increase": 0.1}):
        every = {"max_increase": 0.0, "plus": 0.0, "max_decrease": 0.0} | margin
        question = share_question(np.array(recent), **every, ready=np.array(True))
        assert 0 < question.q[0] < 1
        assert np.isfinite(
            log_gains(question, np.array(recent), np.array([[5.0, 5.0]]), question.worse()[None])
        ).all()


@pytest.mark.parametrize(("k", "n"), [(0, 50), (3, 50), (25, 50), (50, 50), (0, 0), (7, 5000)])
def test_rates_outside_the_interval_are_those_the_mixture_contradicts(k: int, n: int) -> None:
    low, high = rate_interval(np.array([k]), np.array([n]), error=0.05)
    grid = np.linspace(0.0005, 0.9995, 1999)
    nodes = beta.ppf((np.arange(4000) + 0.5) / 4000, 0.5, 0.5)  # the mixture, by brute force
    terms = k * np.log(nodes) + (n - k) * np.log1p(-nodes)
    mixture = np.log(np.mean(np.exp(terms - terms.max()))) + terms.max()
    bad = mixture - k * np.log(grid) - (n - k) * np.log1p(-grid) >= np.log(20)
    outside = (grid < low[0] - 2e-3) | (grid > high[0] + 2e-3)
    inside = (grid > low[0] + 2e-3) & (grid < high[0] - 2e-3)
    assert bad[outside].all()
    assert not bad[inside].any()


def test_log_sum_is_scipys_logsumexp() -> None:
    from scipy.special import logsumexp

    values = np.random.default_rng(1).normal(0, 50, (2, 3, 6))
    weights = np.linspace(0.1, 0.6, 6)
    assert log_sum(values, weights) == pytest.approx(logsumexp(values, axis=-1, b=weights))
