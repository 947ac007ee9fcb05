"""Figures against scipy's, false drift under the null, power, and what may be wrong with inputs."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from gpu_shadow.inputs import Bounds, Figures, Moved, drifted, figures, steady
from gpu_shadow.sketch import Baseline, captured, tallied

SEED = 20_261_127
FEATURES = 50


def columns(x: np.ndarray) -> dict[str, np.ndarray]:
    return {f"f{i}": x[:, i] for i in range(x.shape[1])}


def against(known: Baseline, x: dict[str, np.ndarray]) -> Figures:
    return figures(known, tallied(known.features, x))


def one(trained: np.ndarray, now: np.ndarray, **how: list[str]) -> Figures:
    return against(captured({"x": trained}, **how), {"x": now})


def moves(trained: np.ndarray, now: np.ndarray, **how: list[str]) -> tuple[Moved, ...]:
    known = captured({"x": trained}, **how)
    return drifted(known, against(known, {"x": now}), Bounds())


def at_most(hits: int, of: int, alpha: float) -> bool:
    """Whether so many are no proof (p < 1e-4) that the rate is above alpha."""
    return stats.binomtest(hits, of, alpha, alternative="greater").pvalue > 1e-4


# -- against scipy ---------------------------------------------------------------------------------


def test_p_of_the_values_is_that_of_scipys_g_test_up_to_williams_correction() -> None:
    rng = np.random.default_rng(SEED)
    known = captured({"x": rng.normal(size=20_000)})
    now = tallied(known.features, {"x": rng.normal(0.05, 1, 5_000)})
    table = np.stack([known.tally.counts[0], now.counts[0]])[:, 1:-1]
    table[1, 0] += now.counts[0, 0]  # what is outside is too little for a cell of its own
    place = np.argmin(table.sum(axis=0))
    table[1, 0] -= now.counts[0, 0]
    table[1, place] += now.counts[0, 0] + now.counts[0, -1]
    p = stats.chi2_contingency(table, lambda_="log-likelihood").pvalue
    assert figures(known, now).psi_p[0] == pytest.approx(p, rel=0.02)


def test_distances_are_scipys() -> None:
    rng = np.random.default_rng(SEED)
    trained, now = rng.normal(size=20_000), rng.normal(0.2, 1.1, 20_000)
    known = captured({"x": trained})
    tally = tallied(known.features, {"x": now})
    found = figures(known, tally)
    assert found.js[0] == pytest.approx(jensenshannon(known.tally.counts[0], tally.counts[0], base=2))
    exact = stats.ks_2samp(trained, now)
    assert found.ks[0] <= exact.statistic <= found.ks[0] + 0.05  # at the edges alone
    assert found.ks[0] == pytest.approx(exact.statistic, abs=0.005)
    assert found.w1[0] == pytest.approx(stats.wasserstein_distance(trained, now) / trained.std(), rel=0.15)


def test_p_of_kolmogorov_is_scipys_for_the_distance_at_the_edges() -> None:
    rng = np.random.default_rng(SEED)
    found = one(rng.normal(size=4_000), rng.normal(0.05, 1, 4_000))
    assert found.ks_p[0] == pytest.approx(stats.kstwobign.sf(np.sqrt(2_000) * found.ks[0]))


def test_wasserstein_of_evenly_spread_values_is_exact_enough() -> None:
    rng = np.random.default_rng(SEED)
    trained, now = rng.uniform(0, 1, 20_000), rng.uniform(0.1, 1.3, 20_000)
    wanted = stats.wasserstein_distance(trained, now) / trained.std()
    assert one(trained, now).w1[0] == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize(("was", "now"), [(0, 3), (1, 12), (40, 2), (5_000, 300), (10_000, 1_000)])
def test_p_of_missing_is_fishers_or_nearly(was: int, now: int) -> None:
    n, m = 10_000, 1_000
    found = one(
        np.where(np.arange(n) < was, np.nan, np.arange(n)), np.where(np.arange(m) < now, np.nan, np.arange(m))
    )
    tables = [[was, n - was], [now, m - now]]
    one_sided = [stats.fisher_exact(tables, alternative=way).pvalue for way in ("less", "greater")]
    assert found.missing_p[0] == pytest.approx(min(2 * min(one_sided), 1.0), rel=0.05, abs=1e-12)


def test_p_of_many_missing_is_yates_chi_squared() -> None:
    n, m, was, now = 20_000, 10_000, 8_000, 4_150
    found = one(
        np.where(np.arange(n) < was, np.nan, np.arange(n)), np.where(np.arange(m) < now, np.nan, np.arange(m))
    )
    p = stats.chi2_contingency([[was, n - was], [now, m - now]], correction=True).pvalue
    assert found.missing_p[0] == pytest.approx(p, rel=1e-6)


def test_p_of_outside_is_exact_for_values_in_any_order() -> None:
    n, m, runs = 20, 10, 40_000
    rng = np.random.default_rng(SEED)
    x = rng.random((runs, n + m))
    new = x[:, n:]
    beyond = (new < x[:, :n].min(1, keepdims=True)) | (new > x[:, :n].max(1, keepdims=True))
    found = {}
    for k in (1, 2, 4):
        now = np.concatenate([np.full(k, 99.0), np.full(m - k, 5.0)])
        found[k] = one(np.arange(float(n)), now).outside_p[0]
        assert found[k] == pytest.approx((beyond.sum(1) >= k).mean(), abs=0.01)
    assert found[4] < found[2] < found[1] < 1


# -- nothing has moved -----------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(20_000, 500), (20_000, 1_000), (1_000, 1_000), (500, 500)])
def test_without_drift_the_psi_is_zero_on_average(n: int, m: int) -> None:
    rng = np.random.default_rng(SEED)
    found = []
    for _ in range(20):
        known = captured(columns(rng.normal(size=(n, FEATURES))))
        found.append(against(known, columns(rng.normal(size=(m, FEATURES)))).psi)
    assert abs(np.mean(found)) < 0.005


def kinds(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """Fifty features of five kinds, with values missing."""
    found: dict[str, np.ndarray] = {}
    for i in range(FEATURES // 5):
        found[f"normal{i}"] = rng.normal(size=rows)
        found[f"skewed{i}"] = rng.lognormal(0, 1.5, rows)
        found[f"whole{i}"] = rng.poisson(1.0, rows)
        found[f"text{i}"] = rng.choice(np.array([*"abcdefghijklmnop"], dtype=object), rows)
        found[f"gaps{i}"] = np.where(rng.random(rows) < 0.02, np.nan, rng.random(rows))
    return found


def test_without_drift_a_window_says_so_of_fifty_features_as_often_as_alpha_at_most() -> None:
    """Every movement counts here, however small: what is tried is the significance alone."""
    rng = np.random.default_rng(SEED)
    every = Bounds(psi=-1.0, missing=-1.0, outside=-1.0, alpha=0.1)
    runs, hits = 120, 0
    for _ in range(runs):
        known = captured(kinds(rng, 3_000))
        hits += bool(drifted(known, against(known, kinds(rng, 1_000)), every))
    assert at_most(hits, runs, every.alpha), f"seed {SEED}: {hits} of {runs}"
    assert hits > 0  # it is a test of something


def test_without_drift_no_window_of_a_thousand_is_said_to_have_drifted() -> None:
    rng = np.random.default_rng(SEED)
    known = captured(kinds(rng, 20_000))
    found = [drifted(known, against(known, kinds(rng, 1_000)), Bounds()) for _ in range(100)]
    assert not any(found), f"seed {SEED}"


# -- something has ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moved", "causes"),
    [
        (lambda x, _: x + 0.5, {"psi"}),
        (lambda x, _: x * 1.6, {"psi"}),
        (lambda x, some: np.where(some, np.nan, x), {"missing"}),
        (lambda x, some: np.where(some, 100.0, x), {"outside", "psi"}),
    ],
)
def test_drift_of_one_feature_in_fifty_is_found_in_a_thousand_requests(
    moved: Callable[[np.ndarray, np.ndarray], np.ndarray], causes: set[str]
) -> None:
    rng = np.random.default_rng(SEED)
    known = captured(columns(rng.normal(size=(20_000, FEATURES))))
    found, runs = 0, 40
    for _ in range(runs):
        now = columns(rng.normal(size=(1_000, FEATURES)))
        now["f7"] = moved(now["f7"], rng.random(1_000) < 0.12)
        said = drifted(known, against(known, now), Bounds())
        assert {each.name for each in said} <= {"f7"}
        found += bool(said) and said[0].cause in causes
    assert found >= 0.95 * runs


def test_a_significant_movement_that_is_small_is_no_drift() -> None:
    rng = np.random.default_rng(SEED)
    known = captured({"x": rng.normal(size=100_000)})
    found = against(known, {"x": rng.normal(0.1, 1, 100_000)})
    assert found.psi_p[0] < 1e-9
    assert drifted(known, found, Bounds()) == ()


def test_a_large_movement_in_few_requests_is_no_drift() -> None:
    rng = np.random.default_rng(SEED)
    known = captured({"x": rng.normal(size=10_000)})
    few = against(known, {"x": rng.normal(3, 1, 999)})
    enough = against(known, {"x": rng.normal(3, 1, 1_000)})
    assert drifted(known, few, Bounds()) == ()
    assert [one.name for one in drifted(known, enough, Bounds())] == ["x"]


def test_a_category_that_the_training_did_not_know_is_outside() -> None:
    rng = np.random.default_rng(SEED)
    trained = rng.choice(np.array(["a", "b"], dtype=object), 5_000)
    now = rng.choice(np.array(["a", "b", "new"], dtype=object), 2_000, p=[0.45, 0.45, 0.1])
    found = one(trained, now)
    assert found.outside[0] == pytest.approx(0.1, abs=0.03)
    assert found.outside_p[0] < 1e-9
    assert moves(trained, now)
    assert np.isnan(found.ks[0])


# -- edges -----------------------------------------------------------------------------------------


def test_a_constant_that_stays_has_not_drifted_and_one_that_changes_has() -> None:
    trained = np.full(5_000, 7.0)
    assert moves(trained, np.full(2_000, 7.0)) == ()
    said = moves(trained, np.full(2_000, 8.0))
    assert said[0].value > 0.1


def test_a_feature_that_vanishes_has_drifted_by_missing() -> None:
    rng = np.random.default_rng(SEED)
    known = captured({"x": rng.normal(size=5_000), "y": rng.normal(size=5_000)})
    found = against(known, {"y": rng.normal(size=2_000)})
    said = drifted(known, found, Bounds())
    assert [(one.name, one.cause, one.value) for one in said] == [("x", "missing", 1.0)]
    assert str(said[0]) == "x (missing in 100.0%)"


def test_a_feature_that_appears_has_drifted_and_nothing_is_said_of_its_values() -> None:
    said = moves(np.full(5_000, np.nan), np.arange(2_000.0))
    assert [(one.cause, one.value) for one in said] == [("missing", 0.0)]


@pytest.mark.parametrize(
    ("trained", "now"),
    [
        (np.full(2_000, np.nan), np.full(2_000, np.nan)),
        (np.full(2_000, np.inf), np.full(2_000, -np.inf)),
        (np.repeat(np.array(["a"], dtype=object), 2_000), np.repeat(np.array(["a"], dtype=object), 2_000)),
        (
            np.repeat(np.array([None], dtype=object), 2_000),
            np.repeat(np.array(["", None], dtype=object), 1_000),
        ),
        (np.zeros(2_000, dtype=bool), np.zeros(2_000, dtype=bool)),
        (np.arange(2_000), np.arange(2_000, dtype=np.int8)),
        (np.full(2_000, 1e308), np.full(2_000, 1e308)),
        (np.linspace(-1, 1, 2_000) * 1e308, np.linspace(-1, 1, 2_000) * 1e308),
        (np.full(2_000, 5e-324), np.full(2_000, 5e-324)),
    ],
    ids=["missing", "infinite", "one category", "no category", "bool", "overflown", "huge", "wide", "tiny"],
)
def test_odd_features_have_figures_without_a_warning(trained: np.ndarray, now: np.ndarray) -> None:
    found = one(trained, now)
    assert np.isfinite(found.psi).all()
    for p in (found.psi_p, found.missing_p, found.outside_p):
        assert ((p >= 0) & (p <= 1)).all()


def test_no_request_at_all_has_figures_and_has_not_drifted() -> None:
    known = captured({"x": np.arange(100.0)})
    found = against(known, {"x": np.array([])})
    assert (found.rows, found.psi[0], found.psi_p[0]) == (0, 0.0, 1.0)
    assert drifted(known, found, Bounds()) == ()


def test_text_where_numbers_were_is_missing() -> None:
    found = one(np.arange(100.0), np.array(["1", "two", None], dtype=object))
    assert found.missing[0] == pytest.approx(2 / 3)


# -- windows ---------------------------------------------------------------------------------------


def test_drift_takes_two_windows_of_three_and_so_does_its_end() -> None:
    x, y = Moved("x", "psi", 0.2, 1e-9), Moved("y", "psi", 0.3, 1e-9)
    assert steady([(x,)]) == ()
    assert steady([(x,), (y,)]) == ()
    assert steady([(x,), (), (x, y)]) == (x,)
    assert steady([(x,), (x,), ()]) == (x,)
    assert steady([(x,), (x,), (), ()]) == ()
    later = Moved("x", "psi", 0.9, 1e-9)
    assert steady([(x,), (later,)]) == (later,)
