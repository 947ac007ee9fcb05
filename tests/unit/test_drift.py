"""Bets on whole distributions of predictions: against enumeration and a general optimiser."""

from itertools import product
from math import factorial

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, minimize

from analysis.belief import prior
from analysis.drift import (
    ALONE,
    EAGER,
    FAVOUR,
    FIRM,
    MINUTE,
    TILTS,
    WAYS,
    WIDER,
    by_itself,
    gains,
    likelihoods,
    wagered,
    ways,
)

TOLERANCES = [0.02, 0.1, 0.3]


def outcomes(n: int, cells: int) -> np.ndarray:
    """All counts (O, K) of n requests."""
    return np.array([each for each in product(range(n + 1), repeat=cells) if sum(each) == n], dtype=float)


def chances(counts: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Of each outcome (O,)."""
    ways_to = [factorial(int(row.sum())) / np.prod([factorial(int(k)) for k in row]) for row in counts]
    return np.array(ways_to) * (p**counts).prod(axis=1)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).sum() / 2)


def alike_enough(
    rng: np.random.Generator, cells: int, tolerance: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs (p_c, p_s) within the tolerance: on the boundary, inside, with cells that are never seen."""
    pairs = []
    for _ in range(12):  # random directions, as far as the tolerance and the simplex let them
        p, q = rng.dirichlet(np.ones(cells), 2)
        far = min(1.0, tolerance / distance(p, q))
        pairs += [(q + far * (p - q), q), (q + 0.5 * far * (p - q), q)]
    for here, there in product(range(cells), repeat=2):  # from one cell to another
        if here != there:
            for q in (np.eye(cells)[here], np.full(cells, 1 / cells), rng.dirichlet(np.full(cells, 0.3))):
                moved = min(tolerance, q[here])
                pairs.append((q + moved * (np.eye(cells)[there] - np.eye(cells)[here]), q))
    pairs += [(q, q) for q in np.eye(cells)]
    assert all(distance(p, q) <= tolerance + 1e-12 for p, q in pairs)
    return pairs


def believed(rng: np.random.Generator, cells: int, groups: int, far: float) -> tuple[np.ndarray, np.ndarray]:
    """What is expected of each group (N, K), and stable's (K,)."""
    alike = rng.dirichlet(np.full(cells, 2.0))
    return 0.998 * rng.dirichlet(np.full(cells, far), groups) + 0.002 / cells, 0.998 * alike + 0.002 / cells


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("cells", [3, 4])
def test_within_the_tolerance_capital_does_not_grow_on_average(cells: int, tolerance: float) -> None:
    rng = np.random.default_rng(cells)
    of_canary, of_stable = outcomes(3, cells), outcomes(5, cells)
    canary = np.repeat(of_canary, len(of_stable), axis=0)[:, None, :]
    stable = np.tile(of_stable, (len(of_canary), 1))
    pairs, most, bets = alike_enough(rng, cells, tolerance), 0.0, 0
    likely = np.array([np.outer(chances(of_canary, p), chances(of_stable, q)).ravel() for p, q in pairs])
    assert likely.sum(axis=1) == pytest.approx(1.0)
    for far in (0.3, 1.0, 3.0) * 4:
        expected, alike = believed(rng, cells, 1, far)
        gain, bet = gains(expected, alike, stable, canary, tolerance=tolerance)
        most, bets = max(most, (likely @ np.exp(gain[:, 0])).max()), bets + bool(bet.all())
    assert most <= 1 + 1e-9
    assert bets > 5


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_within_the_tolerance_no_choice_of_groups_grows_on_average(tolerance: float) -> None:
    cells, rng = 3, np.random.default_rng(8)
    arms = [outcomes(1, cells), outcomes(2, cells), outcomes(5, cells)]
    places = np.array(list(product(*map(range, map(len, arms)))))
    canary = np.stack([arms[0][places[:, 0]], arms[1][places[:, 1]]], axis=1)
    stable = arms[2][places[:, 2]]
    likely = np.array(
        [
            np.einsum(
                "i,j,k->ijk", *(chances(arm, of) for arm, of in zip(arms, (p, p, q), strict=True))
            ).ravel()
            for p, q in alike_enough(rng, cells, tolerance)
        ]
    )
    assert likely.sum(axis=1) == pytest.approx(1.0)
    bets = 0
    for far in (0.3, 1.0, 3.0) * 4:
        expected, alike = believed(rng, cells, 2, far)
        gain, bet = gains(expected, alike, stable, canary, tolerance=tolerance)
        bets += bool(bet.all())
        for chosen in ([0], [1], [0, 1]):
            assert (likely @ np.exp(gain[:, chosen].sum(axis=1))).max() <= 1 + 1e-9
    assert bets > 3


def favoured(belief: np.ndarray) -> np.ndarray:
    """As the mean of the ways is weighed that is bet on."""
    return belief * FAVOUR / (belief * FAVOUR).sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("age", [1.0, 200.0])
def test_within_the_tolerance_bets_on_ways_by_themselves_do_not_grow_on_average_either(
    age: float, tolerance: float
) -> None:
    cells, rng = 3, np.random.default_rng(9)
    arms = [outcomes(1, cells), outcomes(2, cells), outcomes(5, cells)]
    places = np.array(list(product(*map(range, map(len, arms)))))
    canary = np.stack([arms[0][places[:, 0]], arms[1][places[:, 1]]], axis=1)
    stable, some = arms[2][places[:, 2]], 0
    for _ in range(12):
        of = 0.998 * rng.dirichlet(np.full(cells, 0.5), WAYS) + 0.002 / cells
        held = rng.dirichlet(np.full(WAYS, 0.5), 2)
        each = (
            np.broadcast_to(held, (len(places), *held.shape)),
            np.broadcast_to(of, (len(places), *of.shape)),
        )
        gain, _ = wagered(*each, stable, canary, age=np.full(len(places), age), tolerance=tolerance)
        alone, _ = gains(favoured(held) @ of, of[0], stable, canary, tolerance=tolerance)
        some += not np.allclose(gain, alone)
        for p, q in alike_enough(rng, cells, tolerance):
            by_arm = (chances(arm, of) for arm, of in zip(arms, (p, p, q), strict=True))
            likely = np.einsum("i,j,k->ijk", *by_arm).ravel()
            assert likely @ np.exp(gain.sum(axis=1)) <= 1 + 1e-9
    assert some > 3


def test_what_is_bet_on_ways_by_themselves_is_part_of_what_there_is_and_less_in_an_old_step() -> None:
    rng = np.random.default_rng(10)
    for held in (
        *rng.dirichlet(np.full(WAYS, 0.2), (50, 2)),
        np.eye(WAYS)[[3, 3]],
        np.tile(prior(WAYS), (2, 1)),
    ):
        young, old, oldest = (by_itself(held, np.array(age)) for age in (1.0, 5 * MINUTE, 1e6 * MINUTE))
        assert young.shape == (len(ALONE),)
        assert 0 <= young.sum() <= 1 + 1e-12
        assert (old <= young).all()
        assert not oldest.any() or held[:, ALONE].min(axis=0).sum() > 0.9
    first = by_itself(np.tile(prior(WAYS), (1, 1)), np.array(0.0))
    odds, share = prior(WAYS)[ALONE].sum(), first.sum()
    assert share / (1 - share) == pytest.approx(EAGER * odds / (1 - odds))


def test_where_little_is_believed_the_bet_is_the_one_on_what_is_expected_bit_by_bit() -> None:
    rng = np.random.default_rng(11)
    of = ways(1e3 * rng.dirichlet(np.ones(6), 2), np.zeros((2, 6)))
    doubt, belief = np.full((2, WAYS), 1e-5), np.tile(prior(WAYS), (2, 1))
    doubt[:, 1] = 1 - 1e-5 * (WAYS - 1)
    stable, canary = rng.poisson(9, (2, 6)).astype(float), rng.poisson(3, (2, 2, 6)).astype(float)
    both, _ = wagered(np.stack([doubt, belief]), of, stable, canary, age=np.ones(2), tolerance=0.05)
    plain, _ = gains(favoured(doubt) @ of[0], of[0, 0], stable[0], canary[0], tolerance=0.05)
    one, _ = wagered(belief, of[1], stable[1], canary[1], age=np.ones(()), tolerance=0.05)
    assert both[0].tobytes() == plain.tobytes()
    assert both[1].tobytes() == one.tobytes()


def test_the_first_tick_of_a_large_shift_pays_before_it_is_believed() -> None:
    stable = 1e3 * np.diff(np.linspace(0, 1, 21))
    of, belief = ways(stable, np.zeros(20)), np.tile(prior(WAYS), (2, 1))
    shifted = np.round(20 * of[3])
    canary = np.stack([shifted // 2, shifted - shifted // 2])
    gain, _ = wagered(belief, of, 0.09 * stable, canary, age=np.array(5.0), tolerance=0.02)
    plain, _ = gains(favoured(belief) @ of, of[0], 0.09 * stable, canary, tolerance=0.02)
    assert gain.sum() > plain.sum() + 1
    assert (gain > 0).all()  # either node brought some of it


def growth(p: np.ndarray, q: np.ndarray, a: float, tolerance: float) -> float:
    """What a request brings on average, if the belief is true: shares as counts, since gains are linear."""
    gain, _ = gains(p[None], q, (1 - a) * 1e6 * q, a * 1e6 * p[None], tolerance=tolerance)
    return float(gain[0] / 1e6)


def with_cuts(p: np.ndarray, q: np.ndarray, a: float, tolerance: float, cuts: np.ndarray) -> np.ndarray:
    """The same for cuts (..., 2) of our own."""
    low, high = cuts[..., :1], cuts[..., 1:]
    r = np.clip(a * p / (a * p + (1 - a) * q), low, high)
    bet = (a * p * np.log(r / a) + (1 - a) * q * np.log((1 - r) / (1 - a))).sum(axis=-1)
    return np.asarray(bet - np.log1p(tolerance * (high - low)[..., 0]))


def apart(seed: int) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Two distributions further apart than a tolerance, and the canary's share of requests."""
    rng = np.random.default_rng(seed)
    tolerance = float(rng.choice(TOLERANCES))
    while True:
        p, q = rng.dirichlet(np.ones(4), 2)
        if distance(p, q) > 1.2 * tolerance:
            return p, q, float(rng.uniform(0.1, 0.9)), tolerance


@pytest.mark.parametrize("seed", range(12))
def test_no_other_cuts_bring_more(seed: int) -> None:
    p, q, a, tolerance = apart(seed)
    odds = a * p / (a * p + (1 - a) * q)
    grid = np.linspace(odds.min(), odds.max(), 400)
    cuts = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    best = with_cuts(p, q, a, tolerance, cuts[cuts[:, 0] < cuts[:, 1]]).max()
    assert growth(p, q, a, tolerance) >= best - 1e-9


def projected(p: np.ndarray, q: np.ndarray, a: float, tolerance: float) -> float:
    """The least divergence from pairs within the tolerance: no bet can bring more than that."""
    k = len(p)

    def divergence(x: np.ndarray) -> float:
        return float(a * p @ np.log(p / x[:k]) + (1 - a) * q @ np.log(q / x[k : 2 * k]))

    def slope(x: np.ndarray) -> np.ndarray:
        return np.concatenate([-a * p / x[:k], -(1 - a) * q / x[k : 2 * k], np.zeros(k)])

    one, ones = np.eye(k), np.ones(k)
    sums = np.array([[*ones, *0 * ones, *0 * ones], [*0 * ones, *ones, *0 * ones]])
    inside = LinearConstraint(
        np.vstack([np.hstack([-one, one, one]), np.hstack([one, -one, one]), [*0 * ones, *0 * ones, *-ones]]),
        np.array([*0 * ones, *0 * ones, -2 * tolerance]),
        np.inf,
    )
    middle = a * p + (1 - a) * q
    found = minimize(
        divergence,
        np.concatenate([middle, middle, np.full(k, tolerance / k)]),
        jac=slope,
        method="SLSQP",
        bounds=[(1e-9, 1)] * (3 * k),
        constraints=[LinearConstraint(sums, 1, 1), inside],
        options={"ftol": 1e-13, "maxiter": 1000},
    )
    return float(found.fun)


@pytest.mark.parametrize("seed", range(12))
def test_a_bet_brings_what_a_general_optimiser_finds_to_be_the_most(seed: int) -> None:
    p, q, a, tolerance = apart(seed)
    assert growth(p, q, a, tolerance) == pytest.approx(projected(p, q, a, tolerance), abs=1e-6)


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99, 1.0])
def test_nothing_is_bet_where_the_canary_is_expected_within_the_tolerance(
    part: float, tolerance: float
) -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        p, q = 0.99 * rng.dirichlet(np.ones(5), 2) + 0.002
        near = q + min(1.0, part * tolerance / distance(p, q)) * (p - q)
        stable, canary = rng.integers(0, 50, (2, 5)).astype(float)
        gain, bet = gains(near[None], q, stable, canary[None], tolerance=tolerance)
        assert not bet.any()
        assert (gain == 0).all()


def test_where_it_is_expected_beyond_the_tolerance_something_is_bet() -> None:
    rng, bets = np.random.default_rng(5), []
    for _ in range(50):
        p, q = rng.dirichlet(np.ones(5), 2)
        if distance(p, q) > 0.1:
            _, bet = gains(p[None], q, 100 * q, 20 * p[None], tolerance=0.05)
            bets.append(bool(bet.all()))
    assert len(bets) > 30
    assert all(bets)


@pytest.mark.parametrize("stable", [100.0, 1e5, 1e9])
def test_little_traffic_of_the_canary_is_bet_on_as_well(stable: float) -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    gain, bet = gains(p[None], q, stable * q, 10 * p[None], tolerance=0.05)
    assert bet.all()
    assert 1.0 < gain[0] < 10 * p @ np.log(p / q)


def test_ways_are_distributions_whatever_was_seen() -> None:
    rng = np.random.default_rng(6)
    seen = [np.zeros(8), rng.poisson(3, 8), 1e9 * rng.random(8), np.eye(8)[2] * 1e9, np.eye(8)[7]]
    for stable, canary in product(map(np.asarray, seen), repeat=2):
        of = ways(stable.astype(float), canary.astype(float))
        assert of.shape == (WAYS, 8)
        assert (of > 0).all()
        assert of.sum(axis=-1) == pytest.approx(1.0)


def test_tilts_move_answers_their_way_and_bends_make_them_wider_or_narrower() -> None:
    stable, places = np.array([5.0, 20.0, 50.0, 20.0, 5.0]) * 100, np.arange(5.0)
    of = ways(stable, np.zeros(5))
    mean = of @ places
    wide = of @ (places - 2) ** 2
    tilts, bends = slice(0, len(TILTS)), slice(len(TILTS), len(TILTS) + len(WIDER))
    assert (np.sign((mean[tilts] - mean[0]).round(9)) == np.sign(TILTS)).all()
    assert (np.argsort(mean[tilts]) == np.argsort(TILTS)).all()
    assert mean[bends] == pytest.approx(mean[0])
    assert (np.sign(wide[bends] - wide[0]) == np.sign(WIDER)).all()
    assert of[0] == pytest.approx(stable / stable.sum(), abs=1e-4)
    assert of[-1] == pytest.approx(of[0])  # nothing seen


def test_a_collapse_shows_in_the_last_way() -> None:
    stable, collapsed = np.full(10, 100.0), 50 * np.eye(10)[3]
    of = ways(stable, collapsed)
    lately = (collapsed + FIRM / 10) / (50 + FIRM)
    twice = lately * np.clip(10 * lately, 0.1, 10.0)
    assert of[-1] == pytest.approx(twice / twice.sum(), rel=1e-3)
    likely = likelihoods(of, collapsed[None])
    assert likely.shape == (1, WAYS)
    assert likely[0].argmax() == WAYS - 1
    assert likely[0, -1] - np.sort(likely[0])[-2] > 50


def test_an_arm_without_requests_says_nothing() -> None:
    p, q = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    some, nothing = np.array([9.0, 1.0]), np.zeros(2)
    for stable, canary in ((some, nothing), (nothing, some), (nothing, nothing)):
        gain, bet = gains(p[None], q, stable, canary[None], tolerance=0.05)
        assert not bet.any()
        assert (gain == 0).all()


def test_a_group_without_requests_says_nothing_and_leaves_the_others_as_they_are() -> None:
    p, q = np.array([0.9, 0.1]), np.array([0.1, 0.9])
    canary, stable = np.array([[9.0, 1.0], [0.0, 0.0]]), np.array([10.0, 90.0])
    gain, _ = gains(np.stack([p, p]), q, stable, canary, tolerance=0.05)
    alone, _ = gains(p[None], q, stable, canary[:1], tolerance=0.05)
    assert gain[1] == 0
    assert gain[0] == alone[0] > 0


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.01, 0.99), (0.99, 0.01)])
def test_a_thousand_million_requests_bring_as_much_each_as_a_thousand(shares: tuple[float, float]) -> None:
    p, q, (a, b) = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5]), shares
    few, many = (gains(p[None], q, n * b * q, n * a * p[None], tolerance=0.05)[0][0] / n for n in (1e3, 1e9))
    assert np.isfinite(many)
    assert many == pytest.approx(few, rel=1e-6)
    assert many > 0


def test_all_requests_in_one_cell_are_alike_or_clearly_are_not() -> None:
    here, there, empty = 1e4 * np.eye(4)[1], 1e4 * np.eye(4)[2], np.zeros(4)
    for canary, clearly in ((here, False), (there, True)):
        of = ways(here, canary)
        gain, bet = gains(of[-1:], of[0], here, canary[None], tolerance=0.05)
        assert np.isfinite(gain).all()
        assert bet.all() == clearly
        assert (gain[0] > 1000) == clearly
    only = ways(np.array([50.0]), np.array([20.0]))  # no bounds at all
    assert only == pytest.approx(1.0)
    gain, bet = gains(only[-1:], only[0], np.array([50.0]), np.array([[20.0]]), tolerance=0.05)
    assert not bet.any()
    assert (gain == 0).all()
    assert np.isfinite(likelihoods(ways(empty, empty), here[None])).all()


def test_of_two_cells_the_bet_is_the_one_on_their_odds() -> None:
    p, q, a, tolerance = np.array([0.7, 0.3]), np.array([0.4, 0.6]), 0.5, 0.1
    projection = projected(p, q, a, tolerance)
    assert growth(p, q, a, tolerance) == pytest.approx(projection, abs=1e-6)
    one, other = (growth(x, y, a, tolerance) for x, y in ((p, q), (p[::-1], q[::-1])))
    assert one == pytest.approx(other)


def test_several_canaries_at_once_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(9)
    stable, canary = rng.poisson(20, (5, 6)).astype(float), rng.poisson(4, (5, 2, 6)).astype(float)
    canary[1], stable[2], canary[3, 0] = 0.0, 0.0, 0.0
    recent, lately = rng.poisson(100, (5, 6)).astype(float), rng.poisson(9, (5, 6)).astype(float)
    of = ways(recent, lately)
    believed_of = rng.dirichlet(np.ones(WAYS), (5, 2)) @ of
    likely = likelihoods(of, canary)
    gain, bet = gains(believed_of, of[:, 0], stable, canary, tolerance=0.05)
    assert bet.any()
    for place in range(5):
        assert (of[place] == ways(recent[place], lately[place])).all()
        assert likely[place] == pytest.approx(likelihoods(of[place], canary[place]), rel=1e-12)
        alone = gains(believed_of[place], of[place, 0], stable[place], canary[place], tolerance=0.05)
        assert (gain[place] == alone[0]).all()
        assert (bet[place] == alone[1]).all()
