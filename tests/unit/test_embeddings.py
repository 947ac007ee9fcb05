"""Two-sample tests on vectors: exact expectations, simulated nulls, and how many vectors a shift takes."""

import itertools
from collections.abc import Callable
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist
from scipy.stats import binomtest, multivariate_normal

from analysis import embeddings
from analysis.batches import taken
from analysis.embeddings import Classifier, Seen, Witness, classified, classifier, witness, witnessed

SEED = 99  # of the kernel
LEVELS = (0.5, 0.2, 0.05, 0.01)
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
State = Classifier | Witness


def normal(shift: object = 0.0, scale: float = 1.0) -> Draw:
    return lambda rng, shape: scale * rng.standard_normal(shape) + np.asarray(shift)


def heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_t(2, shape)


def binary(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (rng.random(shape) < 0.1).astype(float)


FOUR = np.repeat([1.0, 0.0], [4, 60])


def begin(judge: str, dimensions: int, runs: int) -> State:
    return classifier(dimensions, several=(runs,)) if judge == "classifier" else witness(several=(runs,))


def after(state: State, stable: np.ndarray, canary: np.ndarray) -> State:
    if isinstance(state, Classifier):
        return classified(state, stable, canary)
    return witnessed(state, stable, canary, seed=SEED)


def log_e(state: State) -> np.ndarray:
    return state.log_e if isinstance(state, Classifier) else state.bets.log_e


def highest(
    judge: str, draw: Draw, *, n: tuple[int, int], ticks: int, runs: int, dimensions: int
) -> np.ndarray:
    """The highest log e of each run in which both arms draw from one distribution, which wanders."""
    rng, state, top = np.random.default_rng(3), begin(judge, dimensions, runs), np.zeros(runs)
    for tick in range(ticks):
        stable, canary = (draw(rng, (runs, each, dimensions)) + np.sin(tick / 7) for each in n)
        state = after(state, stable, canary)
        top = np.maximum(top, log_e(state))
    return top


def needed(
    judge: str,
    of_canary: Draw,
    *,
    n: tuple[int, int] = (5, 5),
    vectors: int,
    runs: int = 40,
    history: int = 0,
) -> tuple[float, float]:
    """Vectors of both arms in total until e is 100: the median and the 90th percentile of the runs."""
    rng, state, found = np.random.default_rng(4), begin(judge, 64, runs), np.full(runs, np.inf)
    if history:
        state = after(state, rng.standard_normal((runs, history, 64)), np.zeros((runs, 0, 64)))
    for tick in range(1, 1 + vectors // sum(n)):
        state = after(state, rng.standard_normal((runs, n[0], 64)), of_canary(rng, (runs, n[1], 64)))
        found = np.where((log_e(state) >= log(100)) & np.isinf(found), tick * sum(n), found)
    return float(np.median(found)), float(np.quantile(found, 0.9, method="lower"))


@pytest.mark.parametrize("draw", [normal(), heavy, binary], ids=["normal", "heavy tails", "binary"])
@pytest.mark.parametrize(
    ("judge", "n", "dimensions", "ticks"),
    [
        ("classifier", (5, 3), 4, 100),
        ("classifier", (18, 2), 16, 60),
        ("classifier", (1, 1), 1, 100),
        ("witness", (5, 3), 4, 30),
        ("witness", (1, 1), 1, 40),
    ],
)
def test_one_distribution_is_hardly_ever_taken_for_two(
    judge: str, n: tuple[int, int], dimensions: int, ticks: int, draw: Draw
) -> None:
    """200 runs, at every level at once: exact binomial bounds of 0.1 %."""
    top = highest(judge, draw, n=n, ticks=ticks, runs=200, dimensions=dimensions)
    for level in LEVELS:
        count = int((top >= log(1 / level)).sum())
        assert binomtest(count, len(top), level, alternative="greater").pvalue > 0.001


# Vectors in total, median and 90th percentile: statistics.md has 60 / 70, 70 / 110 and 180 / 230.
@pytest.mark.parametrize(
    ("shift", "n", "most"),
    [
        (0.3, (5, 5), (60, 80)),
        (FOUR, (5, 5), (70, 110)),
        (0.3, (1, 1), (60, 80)),
        (FOUR, (1, 1), (70, 110)),
        (0.3, (9, 1), (180, 230)),
    ],
    ids=["all .3", "four 1", "all .3, one by one", "four 1, one by one", "all .3, a tenth"],
)
def test_a_shift_is_found_as_soon_as_specified(
    shift: object, n: tuple[int, int], most: tuple[int, int]
) -> None:
    median, late = needed("classifier", normal(shift), n=n, vectors=300)
    assert median <= most[0]
    assert late <= most[1]


def test_what_stable_showed_before_the_canary_came_helps() -> None:
    assert needed("classifier", normal(0.3), vectors=100, history=200)[0] <= 50


def test_the_witness_finds_shifts_hardly_later() -> None:
    """Bets on the uncut witness took 1 480 and 1 780 (statistics.md)."""
    assert needed("witness", normal(0.3), vectors=100, runs=20)[0] <= 70
    assert needed("witness", normal(FOUR), vectors=130, runs=20)[0] <= 100


def test_only_the_witness_sees_a_change_of_shape() -> None:
    """Twice the variance, the same mean."""
    wide = normal(scale=2**0.5)
    assert needed("witness", wide, vectors=200, runs=20)[1] <= 200
    assert needed("classifier", wide, vectors=400, runs=20)[0] == np.inf


def taught(dimensions: int = 1) -> Classifier:
    """One that has seen the canary higher by 1.2 sd, with few vectors of it."""
    rng = np.random.default_rng(5)
    state = classifier(dimensions)
    return classified(state, rng.standard_normal((9, dimensions)), 1.2 + rng.standard_normal((4, dimensions)))


@pytest.mark.parametrize("n", [(2, 2), (1, 3), (3, 1)])
def test_the_expectation_of_a_tick_with_several_vectors_is_at_most_one(n: tuple[int, int]) -> None:
    """Exact: vectors of four values, a distribution of its own for each place, the arms' averages alike."""
    state, places, rng = taught(), np.array([-1.0, 0.2, 1.5, 4.0]), np.random.default_rng(6)
    chances = rng.dirichlet(np.full(4, 0.7), n[0])
    average = chances.mean(axis=0)
    signs = np.resize([1.0, -1.0], n[1]) * (np.arange(n[1]) < n[1] // 2 * 2)
    of_canary = average + np.outer(signs, [1, -1, 1, -1]) * average.min()
    for stable, canary in ((chances, of_canary), (np.tile(average, (n[0], 1)), np.tile(average, (n[1], 1)))):
        assert expectation(state, places, stable, canary).max() <= 1 + 1e-9
        assert expectation(state, places, stable, canary).min() > 0.5


def expectation(state: Classifier, places: np.ndarray, stable: np.ndarray, canary: np.ndarray) -> np.ndarray:
    """E[e] of each belief, over all outcomes of a tick; each vector (a row) has chances of its own."""
    arms = [np.array(list(itertools.product(range(4), repeat=len(each)))) for each in (stable, canary)]
    weights = [
        np.prod([chances[i, outcome[:, i]] for i in range(len(chances))], axis=0)
        for chances, outcome in zip((stable, canary), arms, strict=True)
    ]
    total = np.zeros(3)
    for (s, p), (c, q) in itertools.product(
        *(zip(*each, strict=True) for each in zip(arms, weights, strict=True))
    ):
        tick = classified(state, places[s][:, None], places[c][:, None])
        total += p * q * np.exp(tick.log_capital - state.log_capital)
    return total


def test_the_belief_is_that_of_two_normal_distributions() -> None:
    """Against scipy's densities, for the belief that takes everything that was found for true."""
    rng = np.random.default_rng(7)
    stable = np.array([1, 2, 0.5]) * rng.standard_normal((4000, 3))
    canary = np.array([0.5, 0.4, 0.1]) + rng.standard_normal((1000, 3))
    state = classified(classifier(3), stable, canary)
    vectors = np.random.default_rng(8).standard_normal((20, 3))
    within = [each - each.mean(axis=0) for each in (stable, canary)]
    cov = np.diag((np.concatenate(within) ** 2).sum(axis=0) / 4998)
    densities = [multivariate_normal(each.mean(axis=0), cov).logpdf(vectors) for each in (canary, stable)]
    found = embeddings._belief(state, vectors)[:, 0] / embeddings.TEMPER[0]
    assert found == pytest.approx(densities[0] - densities[1], rel=0.02, abs=0.03)


def test_what_was_seen_is_what_numpy_sees_in_all_of_it() -> None:
    rng = np.random.default_rng(9)
    ticks = [
        (1e6 + rng.standard_normal((b, 3)), 1e6 + rng.standard_normal((c, 3)))
        for b, c in ((4, 0), (3, 5), (0, 2))
    ]
    state = classifier(3)
    for tick in ticks:
        state = classified(state, *tick)
    arms = [np.concatenate(arm) for arm in zip(*ticks, strict=True)]
    assert state.seen.n.tolist() == [7, 7]
    assert state.seen.mean - 1e6 == pytest.approx(
        np.stack([arm.mean(axis=0) for arm in arms]) - 1e6, abs=1e-7
    )
    assert state.scatter == pytest.approx(sum(arm.var(axis=0) * len(arm) for arm in arms), rel=1e-6)


def test_features_multiply_to_a_gaussian_kernel() -> None:
    vectors = np.random.default_rng(10).standard_normal((30, 8))
    features = embeddings._features(vectors, np.array(4.0), SEED)
    kernel = np.exp(-cdist(vectors, vectors, "sqeuclidean") / (2 * 4.0**2))
    assert (features**2).sum(axis=1) == pytest.approx(np.ones(30))
    assert np.abs(features @ features.T - kernel).max() < 0.3  # 128 frequencies: 3 sd of .09
    assert np.abs(features @ features.T - kernel).mean() < 0.06


def test_the_kernels_width_is_the_median_distance_and_stays() -> None:
    rng = np.random.default_rng(11)
    stable, canary = rng.standard_normal((6, 4)), rng.standard_normal((5, 4))
    first = witnessed(witness(), stable, canary, seed=SEED)
    assert first.width == pytest.approx(np.median(pdist(np.concatenate([stable, canary]))))
    later = witnessed(first, 100 * stable, canary, seed=SEED)
    assert later.width == first.width


def test_without_two_vectors_there_is_no_width_and_nothing_is_learned() -> None:
    alone = witnessed(witness(), np.ones((1, 4)), np.ones((0, 4)), seed=SEED)
    assert not alone.seen.n.any()
    assert not alone.width.any()
    alike = witnessed(witness(), np.ones((3, 4)), np.ones((3, 4)), seed=SEED)
    assert not alike.bets.log_capital.any()
    assert alike.width == 0


@pytest.mark.parametrize("judge", ["classifier", "witness"])
def test_nothing_is_bet_before_both_arms_were_seen_nor_on_one_arm_alone(judge: str) -> None:
    rng, none = np.random.default_rng(12), np.zeros((2, 0, 5))
    some = [rng.standard_normal((2, 4, 5)) for _ in range(2)]
    state = begin(judge, 5, 2)
    for stable, canary in ((some[0], none), (none, some[1]), (none, none)):
        state = after(state, stable, canary)
        assert log_e(state) == pytest.approx(0)
    for _ in range(3):
        state = after(state, *some)
    before = log_e(state)
    assert before.all()
    assert log_e(after(state, none, some[1])) == pytest.approx(before)


@pytest.mark.parametrize("judge", ["classifier", "witness"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), unit=st.sampled_from([1e-6, 1.0, 1e6]), shift=st.sampled_from([0.0, -7.0]))
def test_order_and_unit_change_nothing(judge: str, seed: int, unit: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    one, other = begin(judge, 3, 1), begin(judge, 3, 1)
    for _ in range(4):
        stable, canary = rng.standard_normal((1, 6, 3)), rng.standard_normal((1, 2, 3)) + 1
        one = after(one, stable, canary)
        moved = [
            unit * (each[:, ::-1] + (shift if judge == "classifier" else 0)) for each in (stable, canary)
        ]
        other = after(other, *moved)
    assert log_e(other) == pytest.approx(log_e(one), abs=1e-6)


@pytest.mark.parametrize("judge", ["classifier", "witness"])
def test_canaries_side_by_side_are_as_each_alone(judge: str) -> None:
    rng = np.random.default_rng(13)
    together, alone = begin(judge, 6, 3), [begin(judge, 6, 1) for _ in range(3)]
    for _ in range(6):
        stable, canary = rng.standard_normal((3, 5, 6)), rng.standard_normal((3, 2, 6)) + 0.5
        together = after(together, stable, canary)
        alone = [after(each, stable[[i]], canary[[i]]) for i, each in enumerate(alone)]
    assert log_e(together) == pytest.approx(np.concatenate([log_e(each) for each in alone]))
    assert log_e(taken(together, slice(1, 2))) == pytest.approx(log_e(alone[1]))


def test_a_dimension_that_never_changes_is_no_news() -> None:
    rng = np.random.default_rng(14)
    one, other = classifier(2), classifier(3)
    for _ in range(20):
        stable, canary = rng.standard_normal((5, 2)), rng.standard_normal((5, 2)) + 1
        one = classified(one, stable, canary)
        other = classified(other, *(np.insert(each, 1, 3.5, axis=1) for each in (stable, canary)))
    assert np.isfinite(other.log_e)
    assert other.log_e == pytest.approx(one.log_e, abs=1.5)
    assert one.log_e > log(100)


def test_one_outlier_cannot_lose_it_all() -> None:
    state = taught(4)
    hit = classified(state, np.full((1, 4), 1e9), np.zeros((1, 4)))
    assert (hit.log_capital - state.log_capital > -2 * embeddings.SURE).all()


def test_what_is_remembered_fades() -> None:
    rng = np.random.default_rng(15)
    state = classifier(2)
    for _ in range(50):
        state = classified(state, rng.standard_normal((4, 2)), rng.standard_normal((2, 2)), keep=0.5)
    assert state.seen.n == pytest.approx([8, 4])
    assert 2 < state.scatter.mean() < 40


def test_a_billion_vectors_seen_leave_everything_finite() -> None:
    seen = Seen(np.array([1e9, 1e9]), np.array([[0.0, 0.0], [1e-3, 0.0]]))
    state = Classifier(np.zeros(3), seen, np.array([2e9, 2e9]))
    later = classified(state, np.zeros((3, 2)), np.ones((3, 2)))
    assert np.isfinite(later.log_capital).all()
    assert later.seen.n.tolist() == [1e9 + 3, 1e9 + 3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e101])
@pytest.mark.parametrize("arm", ["stable", "canary"])
@pytest.mark.parametrize("judge", ["classifier", "witness"])
def test_vectors_without_a_size_are_refused_by_name(judge: str, arm: str, bad: float) -> None:
    vectors = {"stable": np.zeros((1, 2, 3)), "canary": np.zeros((1, 2, 3))}
    vectors[arm][0, 1, 2] = bad
    with pytest.raises(ValueError, match=f"{arm} must have no NaN"):
        after(begin(judge, 3, 1), vectors["stable"], vectors["canary"])


def test_the_kernels_seed_is_the_only_chance() -> None:
    rng = np.random.default_rng(16)
    ticks = [(rng.standard_normal((5, 4)), rng.standard_normal((5, 4)) + 0.5) for _ in range(5)]
    runs = []
    for seed in (1, 1, 2):
        state = witness()
        for tick in ticks:
            state = witnessed(state, *tick, seed=seed)
        runs.append(float(state.bets.log_e))
    assert runs[0] == runs[1] != runs[2]
