"""Bets on means: against brute force over values, exact enumeration, and simulated nulls."""

import itertools
from math import log

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.special import logsumexp
from scipy.stats import binomtest

from analysis.means import (
    BETS,
    FINE_BETS,
    Bets,
    Comparison,
    Moments,
    begin,
    compare,
    compare_from,
    interval,
    least_won,
    log_gains,
    moments,
    update,
)
from analysis.proportions import rate_interval

LEVELS = (0.5, 0.2, 0.05, 0.01)
unit = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def of(values: object) -> Moments:
    return moments(np.asarray(values, dtype=float), low=0.0, high=1.0)


def won(values: np.ndarray, mean: float, bets: np.ndarray) -> np.ndarray:
    """By brute force: value by value."""
    return np.log1p(bets * (values[..., None] / mean - 1)).sum(axis=-2)


def plausible(highest: np.ndarray) -> bool:
    """Whether so many runs above 1/a fit a probability of at most a, at every level (exact, 0.1 %)."""
    return all(
        binomtest(int((highest >= log(1 / a)).sum()), len(highest), a, alternative="greater").pvalue > 0.001
        for a in LEVELS
    )


@given(unit, st.floats(0.001, 1))
def test_value_by_value_nothing_is_given_away(values: list[float], mean: float) -> None:
    found = least_won(of(values), mean=np.array([mean]), bets=BETS)
    assert found == pytest.approx(won(np.array(values), mean, BETS), rel=1e-9, abs=1e-9)


@given(unit, st.floats(0.001, 1))
def test_sums_alone_never_claim_more_than_the_values_won(values: list[float], mean: float) -> None:
    found = least_won(of(values).joined(), mean=np.array([mean]), bets=BETS)
    assert (found <= won(np.array(values), mean, BETS) + 1e-9).all()


@pytest.mark.parametrize("value", [0.02, 0.3, 1.0])
def test_sums_alone_are_exact_for_values_of_zero_and_one_other(value: float) -> None:
    values = np.repeat([0.0, value], [5, 7])
    found = least_won(of(values).joined(), mean=np.array([0.1]), bets=BETS)
    assert found == pytest.approx(won(values, 0.1, BETS))


def test_no_bound_on_what_sums_tell_is_better() -> None:
    """A linear programme over all distributions on a grid with the same sums finds no smaller capital."""
    grid, mean = np.linspace(0, 1, 401), 0.2
    values = np.array([0.05, 0.1, 0.35, 0.9, 0.2])
    wanted = [len(values), values.sum(), (values**2).sum()]
    for bet, found in zip(
        BETS, least_won(of(values).joined(), mean=np.array([mean]), bets=BETS), strict=True
    ):
        gains = np.log1p(bet * (grid / mean - 1))
        least = linprog(gains, A_eq=np.stack([np.ones_like(grid), grid, grid**2]), b_eq=wanted)
        assert found <= least.fun + 1e-9
        assert found == pytest.approx(least.fun, abs=2e-3)


@given(unit, st.integers(1, 11), st.randoms())
def test_sums_have_no_order_and_can_be_split(values: list[float], cut: int, chance: object) -> None:
    mixed = sorted(values, key=lambda _: chance.random())  # type: ignore[attr-defined]
    parts = [of(part).joined() for part in (mixed[:cut], mixed[cut:]) if part]
    total = sum(parts[1:], start=parts[0])
    assert total.sums == tuple(pytest.approx(one) for one in of(values).joined().sums)


@given(unit, st.floats(-5, 5), st.floats(0.1, 100))
def test_another_unit_changes_nothing(values: list[float], low: float, span: float) -> None:
    moved = moments(np.minimum(low + span * np.array(values), low + span), low=low, high=low + span)
    there, here = update(begin(), moved, at_most=low + 0.3 * span), update(begin(), of(values), at_most=0.3)
    assert there.log_capital == pytest.approx(here.log_capital, rel=1e-6, abs=1e-6)


def test_ticks_add_up_and_canaries_side_by_side_are_as_each_alone() -> None:
    values = np.random.default_rng(1).random((4, 3, 10))  # ticks, canaries, values
    several = begin((3,))
    for tick in values:
        several = update(several, of(tick), at_most=np.array([0.3, 0.4, 0.5]))
    for place, mean in enumerate((0.3, 0.4, 0.5)):
        alone = update(begin(), of(values[:, place].ravel()), at_most=mean)
        assert several.log_capital[place] == pytest.approx(alone.log_capital)


@pytest.mark.parametrize("spread", [0.5, 5.0, 500.0])
@pytest.mark.parametrize("joined", [False, True])
def test_on_the_margin_itself_every_level_holds(spread: float, *, joined: bool) -> None:
    """400 runs of 150 ticks of 8 values, beta-distributed around means that change and never exceed .1."""
    rng, runs = np.random.default_rng(7), 400
    bets, highest = begin((runs,)), np.zeros(runs)
    for tick in range(150):
        mean = 0.1 if tick % 3 else 0.1 * rng.random()
        parts = of(rng.beta(spread * mean, spread * (1 - mean), (runs, 8)))
        bets = update(bets, parts.joined() if joined else parts, at_most=0.1)
        highest = np.maximum(highest, bets.log_e)
    assert plausible(highest)


@pytest.mark.parametrize(("mean", "most"), [(0.02, 1150), (0.03, 450), (0.1, 85)])
def test_a_paired_difference_is_found_as_soon_as_specified(mean: float, most: float) -> None:
    """D in [-1, 1], sd .1, against a mean of .01: median of 60 runs; statistics.md has 1058, 409 and 79."""
    rng, runs = np.random.default_rng(8), 60
    bets, found = begin((runs,)), np.full(runs, np.inf)
    for tick in range(1, 1 + round(1.6 * most)):
        values = np.clip(rng.normal(mean, 0.1, (runs, 1)), -1, 1)
        bets = update(bets, moments(values, low=-1, high=1), at_most=0.01)
        found = np.where((bets.log_e >= log(100)) & np.isinf(found), tick, found)
    assert np.median(found) <= most


@pytest.mark.parametrize(
    ("k", "n"), [(0, 50), (3, 50), (25, 50), (50, 50), (40, 4000), (10, 10**9), (10**9, 10**9)]
)
def test_intervals_of_rates_are_about_as_wide_as_the_mixture_of_proportions(k: int, n: int) -> None:
    parts = Moments(0.0, 1.0, *(np.array([float(one)]) for one in (n, k, k, n - k, n - k)))
    low, high = interval(parts, error=0.05)
    other_low, other_high = rate_interval(np.array(k), np.array(n), error=0.05)
    assert 0 <= low <= k / n <= high <= 1
    assert high - low <= 1.35 * (other_high - other_low) + 1e-12


def test_outside_the_interval_every_mean_is_contradicted_and_inside_none() -> None:
    values = np.random.default_rng(9).beta(2, 6, 300)
    low, high = interval(of(values), error=0.02)
    for mean in np.linspace(0.001, 0.999, 999):
        from_above, from_below = won(values, mean, FINE_BETS), won(1 - values, 1 - mean, FINE_BETS)
        best = max(logsumexp(each) for each in (from_above, from_below)) - log(len(FINE_BETS))
        assert (best >= log(100)) == (mean < low or mean > high)


def test_the_interval_holds_the_mean_at_all_times_at_once() -> None:
    """300 runs, looked at after each of 40 batches; in their own unit."""
    rng, runs = np.random.default_rng(10), 300
    missed = np.zeros(runs, dtype=bool)
    total = None
    for _ in range(40):
        more = moments(4 + 2 * rng.beta(1, 4, (runs, 20)), low=4, high=6).joined()
        total = more if total is None else total + more
        low, high = interval(total, error=0.2)
        missed |= (low > 4.4) | (high < 4.4)
    assert binomtest(int(missed.sum()), runs, 0.2, alternative="greater").pvalue > 0.001
    assert (high - low < 0.12).all()


def test_nothing_measured_means_no_bounds() -> None:
    low, high = interval(moments(np.zeros((2, 0)), low=-3, high=5), error=0.01)
    assert low.tolist() == [-3, -3]
    assert high.tolist() == [5, 5]


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf")])
def test_values_beyond_their_limits_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="values must"):
        of([0.5, bad])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: moments(np.ones(1), low=1, high=1), "low must be below high"),
        (lambda: update(begin(), of([0.5]), at_most=0.0), "at_most must be above"),
        (lambda: update(begin(), of([0.5]), at_most=float("nan")), "at_most must be above"),
        (lambda: interval(of([0.5]), error=0.0), "error must be between"),
        (lambda: of([0.5]) + moments(np.ones(1), low=0, high=2), "different limits"),
        (lambda: compare(compare_from(), of([0.5]), of([0.5]), rho=0.0, delta=0.0), "rho must be positive"),
        (lambda: compare(compare_from(), of([0.5]), of([0.5]), rho=1.0, delta=np.nan), "delta finite"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(wrong: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong()  # type: ignore[operator]


def test_a_mean_that_may_be_anything_is_not_bet_against() -> None:
    assert update(begin(), of([1.0, 1.0]), at_most=1.0).log_e == pytest.approx(0, abs=1e-12)


def test_evidence_stays_finite_for_a_billion_values() -> None:
    n = np.array([1e9])
    ones, zeros = (Moments(0.0, 1.0, n, up, up, n - up, n - up) for up in (n, 0 * n))
    assert 690 < update(begin(), ones, at_most=0.5).log_e <= 700
    assert -700 <= update(begin(), zeros, at_most=0.5).log_e < -690


@pytest.mark.parametrize(("rho", "offset"), [(1.0, 0.0), (1.5, 0.01), (1.2, -0.05), (3.0, 0.2)])
@pytest.mark.parametrize("guess", [0.001, 0.07, 0.3, 0.95])
def test_expectation_is_at_most_one_on_the_whole_null(rho: float, offset: float, guess: float) -> None:
    """Exact enumeration: three values each with chances of their own, value by value and as sums."""
    places, n_c, n_s = np.array([0.0, 0.3, 1.0]), 2, 3
    outcomes = [np.array(list(itertools.product(range(3), repeat=n))) for n in (n_c, n_s)]
    c, s = (places[each] for each in outcomes)
    known = np.full((len(c), len(s)), guess)
    gains = log_gains(_grid(s, len(c), 0), _grid(c, len(s), 1), guess=known, rho=rho, offset=offset)
    rng = np.random.default_rng(11)
    for _ in range(60):
        chances = rng.dirichlet(np.full(3, 0.5), n_s)  # each of stable's values has a distribution of its own
        most = rho * (chances @ places).mean() + offset
        canary = rng.dirichlet(np.full(3, 0.5), n_c)
        mean = (canary @ places).mean()
        if most < 0:
            continue
        part = min(1.0, most / mean)  # the null's edge, where it can be reached
        canary = part * canary + (1 - part) * np.array([1.0, 0, 0])
        weights = [
            np.prod([p[i, each[:, i]] for i in range(len(p))], axis=0)
            for p, each in zip((canary, chances), outcomes, strict=True)
        ]
        assert np.einsum("a,b,abk->k", *weights, np.exp(gains)).max() <= 1 + 1e-9


def _grid(values: np.ndarray, others: int, axis: int) -> Moments:
    """Each outcome of one arm beside each of the other's: (canary's, stable's, values)."""
    return of(np.repeat(np.expand_dims(values, axis), others, axis=axis))


def test_within_the_margin_every_level_holds() -> None:
    """300 runs of 100 ticks, 10 canary values and 40 of stable, whose mean wanders; always on the margin."""
    rng, runs = np.random.default_rng(12), 300
    state, highest = compare_from((runs,)), np.zeros(runs)
    for tick in range(100):
        mean = 0.2 + 0.15 * np.sin(tick / 9)
        stable, canary = (
            of(rng.beta(3 * m, 3 * (1 - m), (runs, n))) for m, n in ((mean, 40), (1.2 * mean + 0.01, 10))
        )
        state = compare(state, stable, canary, rho=1.2, delta=0.01, keep=0.9)
        highest = np.maximum(highest, state.bets.log_e)
    assert plausible(highest)


def found_at(draw: object, *, rho: float, delta: float, ticks: int, joined: bool = False) -> float:
    """Median of 60 runs, in ticks of 10 canary and 90 stable values."""
    rng, runs = np.random.default_rng(13), 60
    state, found = compare_from((runs,)), np.full(runs, np.inf)
    for tick in range(1, ticks + 1):
        arms = [of(draw(rng, arm, (runs, n))) for arm, n in (("stable", 90), ("canary", 10))]  # type: ignore[operator]
        state = compare(state, *(arm.joined() if joined else arm for arm in arms), rho=rho, delta=delta)
        found = np.where((state.bets.log_e >= log(100)) & np.isinf(found), tick, found)
    return float(np.median(found))


def errors(rates: dict[str, float]) -> object:
    return lambda rng, arm, shape: (rng.random(shape) < rates[arm]).astype(float)


def betas(means: dict[str, float]) -> object:
    return lambda rng, arm, shape: rng.beta(50 * means[arm], 50 * (1 - means[arm]), shape)


def test_faults_are_found_as_soon_as_by_the_test_made_for_rates() -> None:
    """The safe 2x2 needs 11 and 2 s for these (statistics.md)."""
    assert found_at(errors({"stable": 0.001, "canary": 0.05}), rho=1.5, delta=0.001, ticks=40) <= 11
    assert found_at(errors({"stable": 0.001, "canary": 0.2}), rho=1.5, delta=0.001, ticks=10) <= 4


@pytest.mark.parametrize(("joined", "most"), [(False, 10), (True, 15)])
def test_values_that_vary_little_are_told_apart_sooner(most: float, *, joined: bool) -> None:
    """.12 against .10 with sd .04: as rates these would take more than 100 ticks."""
    assert found_at(betas({"stable": 0.1, "canary": 0.12}), rho=1, delta=0, ticks=30, joined=joined) <= most
    assert found_at(errors({"stable": 0.1, "canary": 0.12}), rho=1, delta=0, ticks=30) > 30


def test_before_stable_was_seen_and_without_either_arm_nothing_is_bet() -> None:
    some, none = of([0.2, 0.4]), of([])
    first = compare(compare_from(), some, of([1.0]), rho=1.0, delta=0.0)
    assert not first.bets.log_capital.any()
    assert first.stable_up / first.stable_n == pytest.approx(0.3)
    for stable, canary in ((none, some), (some, none)):
        assert not compare(first, stable, canary, rho=1.0, delta=0.0).bets.log_capital.any()
    assert compare(first, some, of([1.0]), rho=1.0, delta=0.0).bets.log_capital.all()


def test_a_margin_that_allows_everything_finds_nothing() -> None:
    known = Comparison(Bets(np.zeros(2 * len(BETS))), np.array(10.0), np.array(9.0))
    after = compare(known, of([0.9] * 9), of([1.0] * 9), rho=1.5, delta=0.0)
    assert not after.bets.log_capital.any()


@given(unit, unit, st.floats(0.01, 0.99))
def test_a_tick_has_no_order_and_canaries_are_judged_alone(
    c: list[float], s: list[float], guess: float
) -> None:
    assume(len(c) > 1)
    how = {"rho": 1.1, "offset": 0.01}
    gains = log_gains(of(s), of(c), guess=np.array(guess), **how)
    assert gains == pytest.approx(log_gains(of(s[::-1]), of(c[::-1]), guess=np.array(guess), **how), abs=1e-9)
    beside = log_gains(of([s, s]), of([c, c]), guess=np.array([guess, 0.5]), **how)
    assert beside[0] == pytest.approx(gains, abs=1e-9)
    sums = log_gains(of(s).joined(), of(c).joined(), guess=np.array(guess), **how)
    assert (sums <= gains + 1e-9).all()


def test_dependent_values_of_a_tick_are_one_value() -> None:
    """All of a tick's values alike: their mean as one value holds every level, whatever they have to do with
    each other; taken one by one they would not."""
    rng, runs = np.random.default_rng(14), 400
    alone, one_by_one = begin((runs,)), begin((runs,))
    highest, wrongly = np.zeros(runs), np.zeros(runs)
    for _ in range(40):
        values = np.repeat((rng.random((runs, 1)) < 0.1).astype(float), 8, axis=1)
        alone = update(alone, of(values.mean(axis=1, keepdims=True)), at_most=0.1)
        one_by_one = update(one_by_one, of(values), at_most=0.1)
        highest, wrongly = np.maximum(highest, alone.log_e), np.maximum(wrongly, one_by_one.log_e)
    assert plausible(highest)
    assert not plausible(wrongly)
