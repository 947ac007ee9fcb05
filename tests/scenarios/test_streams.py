"""The simulated traffic: what is drawn, against the distributions that were named; every change by itself."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, chisquare

from scenarios.distributions import Beta, Bimodal, Latency, Lognormal, Pareto
from scenarios.streams import Change, Counted, Spells, Traffic, Wander, World, guide, scores

Cells = NDArray[np.float64]
LOGNORMAL = Lognormal(0.05, 0.114)
LE = tuple(float(bound) for bound in 0.01 * 1.2 ** np.arange(24))
BINS = tuple(float(bound) for bound in np.linspace(0.05, 1.0, 20))
LUCK = 0.001  # seeds are fixed: these are not flaky, and a wrong distribution is far below it


def traffic(**changed: Any) -> Traffic:
    plain = {"rps": 40_000.0, "stable_pods": 3, "canary_pods": 2, "latency": LOGNORMAL}
    return Traffic(**{**plain, "le": LE, "bins": BINS, **changed})


def tick(
    served: Traffic, *, start: float = 0.0, weight: float = 0.5, runs: int = 1, seed: int = 7
) -> Counted:
    return World.begun(served, runs=runs, seed=seed).counted(start, np.full(runs, weight))


def fits(counted: NDArray[np.int64], below: Cells) -> bool:
    """Whether cells may be drawn from the distribution with so much below each bound."""
    expected = np.diff([0.0, *below, 1.0]) * counted.sum()
    common = expected > 5
    seen = np.append(counted[common], counted[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    kept = wanted > 1e-9
    assert seen[~kept].sum() == 0
    return bool(chisquare(seen[kept], wanted[kept] * seen[kept].sum() / wanted[kept].sum()).pvalue > LUCK)


def slowed(factor: float = 1.0, add: float = 0.0, latency: Latency = LOGNORMAL) -> Cells:
    return latency.cdf(np.maximum(np.array(LE) - add, 1e-9) / factor)


def unchanged(counted: Counted, pod: int) -> bool:
    alike = fits(counted.latency[0, pod], slowed())
    return alike and fits(counted.predictions[0, pod], Beta(2, 5).cdf(np.array(BINS)))


# -- what is drawn ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "latency",
    [LOGNORMAL, Pareto(2.2, 0.078), Bimodal((0.03, 0.12), 0.1, 0.137)],
    ids=["lognormal", "pareto", "bimodal"],
)
def test_latencies_are_drawn_from_the_distribution_that_was_named(latency: Latency) -> None:
    counted = tick(traffic(latency=latency))
    assert fits(counted.latency[0].sum(axis=0), slowed(latency=latency))


def test_the_canary_s_own_distributions_are_the_canary_s_only() -> None:
    mine, scored = Lognormal(0.08, 0.2), Beta(4, 4)
    counted = tick(traffic(canary_latency=mine, canary_predictions=scored, errors=(0.01, 0.3)))
    assert all(unchanged(counted, pod) for pod in range(3))
    for pod in (3, 4):
        assert fits(counted.latency[0, pod], slowed(latency=mine))
        assert fits(counted.predictions[0, pod], scored.cdf(np.array(BINS)))
    failed, requests = counted.failed[0], counted.requests[0]
    assert binomtest(int(failed[:3].sum()), int(requests[:3].sum()), 0.01).pvalue > LUCK
    assert binomtest(int(failed[3:].sum()), int(requests[3:].sum()), 0.3).pvalue > LUCK


def test_every_request_is_in_one_cell_of_each_check() -> None:
    counted = tick(traffic(rps=500.0), runs=20)
    assert (counted.latency.sum(axis=-1) == counted.requests).all()
    assert (counted.predictions.sum(axis=-1) == counted.requests).all()
    assert (counted.failed <= counted.requests).all()


def test_pods_get_their_shares_of_the_weight_as_poisson_counts() -> None:
    world = World.begun(traffic(rps=100.0, tick=2.0), runs=4000, seed=3)
    requests = world.counted(0.0, np.full(4000, 0.4)).requests
    shares = np.array([0.2, 0.2, 0.2, 0.2, 0.2])
    assert chisquare(requests.sum(axis=0), shares * requests.sum()).pvalue > LUCK
    assert requests.mean() == pytest.approx(40.0, rel=0.01)
    assert requests.var(axis=0) == pytest.approx(np.full(5, 40.0), rel=0.1)
    assert requests[:, 3].dot(requests[:, 4]) / 4000 == pytest.approx(1600, rel=0.02)  # independent


@pytest.mark.parametrize(("weight", "load", "share"), [(0.0, 1.0, 0.0), (0.2, 1.5, 0.3), (0.8, 2.0, 1.0)])
def test_load_is_what_the_canary_gets_beyond_its_weight(weight: float, load: float, share: float) -> None:
    requests = tick(traffic(load=load), weight=weight).requests[0]
    assert requests[3:].sum() / requests.sum() == pytest.approx(share, abs=0.01)


def test_each_run_has_its_own_weight() -> None:
    counted = World.begun(traffic(), runs=2, seed=1).counted(0.0, np.array([0.0, 1.0]))
    assert counted.requests[0, 3:].sum() == 0
    assert counted.requests[1, :3].sum() == 0


def test_a_tick_says_when_it_was() -> None:
    counted = tick(traffic(tick=0.5), start=3.0)
    assert (counted.start, counted.end) == (3.0, 3.5)


def test_the_same_seed_brings_the_same_ticks_and_another_brings_others() -> None:
    noisy = traffic(
        rps=200.0, common=Wander(sd=0.1), pod=Wander(sd=0.1), static=0.1, spells=Spells(per_second=0.1)
    )
    one, same, other = (World.begun(noisy, runs=4, seed=seed) for seed in (5, 5, 6))
    for start in range(4):
        a, b, c = (world.counted(float(start), np.full(4, 0.3)) for world in (one, same, other))
        for field in ("requests", "failed", "latency", "predictions"):
            assert (getattr(a, field) == getattr(b, field)).all()
        assert (a.requests != c.requests).any()


# -- noise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["common", "own"])
def test_noise_has_its_standard_deviation_from_the_beginning_and_forgets_within_tau(whose: str) -> None:
    quiet = traffic(rps=1e-9, common=Wander(sd=0.2, tau=10.0), pod=Wander(sd=0.2, tau=10.0))
    world = World.begun(quiet, runs=6000, seed=11)
    before = getattr(world, whose).copy()
    for start in range(10):
        world.counted(float(start), np.zeros(6000))
    after = getattr(world, whose)
    for path in (before, after):
        assert path.mean() == pytest.approx(0.0, abs=0.01)
        assert path.std() == pytest.approx(0.2, rel=0.03)
    for pod in range(before.shape[1]):
        assert np.corrcoef(before[:, pod], after[:, pod])[0, 1] == pytest.approx(np.exp(-1), abs=0.04)
    if whose == "own":
        assert abs(np.corrcoef(after[:, 0], after[:, 1])[0, 1]) < 0.05


def test_how_long_ticks_are_does_not_change_how_noise_forgets() -> None:
    world = World.begun(traffic(rps=1e-9, pod=Wander(sd=0.2, tau=10.0), tick=5.0), runs=6000, seed=12)
    before = world.own[:, 0].copy()
    for start in (0.0, 5.0):
        world.counted(start, np.zeros(6000))
    assert np.corrcoef(before, world.own[:, 0])[0, 1] == pytest.approx(np.exp(-1), abs=0.04)


def test_common_noise_moves_rate_and_latency_of_both_arms_alike() -> None:
    world = World.begun(traffic(common=Wander(sd=0.3)), runs=1, seed=4)
    counted = world.counted(0.0, np.array([0.5]))
    factor = float(np.exp(world.common[0, 0]))
    assert abs(factor - 1) > 0.1
    assert counted.requests.sum() == pytest.approx(40_000 * factor, rel=0.02)
    assert all(fits(counted.latency[0, pod], slowed(factor)) for pod in range(5))


def test_the_wave_rises_for_both_arms_at_a_quarter_of_ten_minutes() -> None:
    counted = tick(traffic(diurnal=0.3), start=149.5)
    assert counted.requests.sum() == pytest.approx(40_000 * np.exp(0.3), rel=0.02)
    assert all(fits(counted.latency[0, pod], slowed(np.exp(0.3))) for pod in range(5))


def test_pods_differ_for_good_by_their_static_offset() -> None:
    world = World.begun(traffic(static=0.2), runs=1, seed=9)
    before = world.static.copy()
    for start in range(3):
        counted = world.counted(float(start), np.array([0.5]))
    assert (world.static == before).all()
    assert all(fits(counted.latency[0, pod], slowed(float(np.exp(before[0, pod])))) for pod in range(5))
    many = World.begun(traffic(static=0.2), runs=2000, seed=9)
    assert many.static.std() == pytest.approx(0.2, rel=0.03)


# -- spells ----------------------------------------------------------------------------------------


def spelled(served: Traffic, *, runs: int, ticks: int) -> NDArray[np.bool_]:
    """Which pods have a spell, by tick (T, B, P)."""
    world = World.begun(served, runs=runs, seed=21)
    seen = []
    for start in range(ticks):
        world.counted(start * served.tick, np.zeros(runs))
        seen.append(world.spell > 0)
    return np.array(seen)


def test_spells_have_their_rate_and_their_length() -> None:
    served = traffic(rps=1e-9, spells=Spells(per_second=0.01, lasting=4.0))
    seen = spelled(served, runs=1000, ticks=60)
    begun = (seen[1:] & ~seen[:-1]).sum(axis=(0, 2))
    quiet = (~seen[:-1]).sum()
    assert binomtest(int(begun.sum()), int(quiet), 0.01).pvalue > LUCK
    lengths = [
        int(np.argmin(seen[first:, run, pod]))
        for first, run, pod in zip(*np.nonzero(seen[1:40] & ~seen[:39]), strict=True)
        for first in [first + 1]
    ]
    assert min(lengths) == 4
    assert np.mean(np.array(lengths) == 4) > 0.9  # the others were followed by a second one


def test_a_spell_lasts_as_many_seconds_however_long_a_tick_is() -> None:
    served = traffic(rps=1e-9, tick=0.5, spells=Spells(per_second=0.001, lasting=3.0))
    seen = spelled(served, runs=1000, ticks=40)
    first, run, pod = next(zip(*np.nonzero(seen[1:20] & ~seen[:19]), strict=True))
    assert int(np.argmin(seen[first + 1 :, run, pod])) == 6


def test_in_a_spell_one_pod_is_slower_and_fails_more_often() -> None:
    served = traffic(spells=Spells(per_second=0.3, factor=2.0, errors=0.2))
    world = World.begun(served, runs=1, seed=2)
    counted = world.counted(0.0, np.array([0.5]))
    ill = world.spell[0] > 0
    assert 0 < ill.sum() < 5
    for pod in range(5):
        assert fits(counted.latency[0, pod], slowed(2.0 if ill[pod] else 1.0))
        rate = 0.201 if ill[pod] else 0.001
        assert binomtest(int(counted.failed[0, pod]), int(counted.requests[0, pod]), rate).pvalue > LUCK


def test_spells_of_a_node_come_over_all_canary_pods_on_it() -> None:
    served = traffic(rps=1e-9, canary_pods=4, nodes=2, spells=Spells(per_second=0.1))
    seen = spelled(served, runs=200, ticks=10)
    assert (seen[..., 3] == seen[..., 5]).all()
    assert (seen[..., 4] == seen[..., 6]).all()
    assert (seen[..., 3] != seen[..., 4]).any()
    assert (seen[..., 0] != seen[..., 1]).any()


# -- what goes wrong -------------------------------------------------------------------------------

CHANGES = {
    "factor": (Change(at=5.0, factor=2.0), slowed(2.0)),
    "less": (Change(at=5.0, factor=0.5), slowed(0.5)),
    "add": (Change(at=5.0, add=0.03), slowed(add=0.03)),
    "both": (Change(at=5.0, factor=1.5, add=0.03), slowed(1.5, add=0.03)),
    "decay": (
        Change(at=5.0, factor=3.0, decay=4.0),
        slowed(1 + 2 * float(np.exp(-5.5 / 4.0))),  # in the middle of the tick at 10 s
    ),
}


@pytest.mark.parametrize("arm", ["stable", "canary"])
@pytest.mark.parametrize("pods", [None, 1])
@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_latency_does_what_it_says_to_those_it_names(
    what: str, pods: int | None, arm: str
) -> None:
    change, below = CHANGES[what]
    change = replace(change, pods=pods, canary=arm == "canary")
    counted = tick(traffic(changes=[change]), start=10.0)
    whole = range(3, 5) if change.canary else range(3)
    touched = set(whole if pods is None else whole[:pods])
    for pod in range(5):
        assert fits(counted.latency[0, pod], below if pod in touched else slowed())
        assert fits(counted.predictions[0, pod], Beta(2, 5).cdf(np.array(BINS)))


@pytest.mark.parametrize("arm", ["stable", "canary"])
@pytest.mark.parametrize("pods", [None, 1])
def test_a_change_of_predictions_is_of_those_pods_only(pods: int | None, arm: str) -> None:
    change = Change(at=0.0, predictions=Beta(5, 2), pods=pods, canary=arm == "canary")
    counted = tick(traffic(changes=[change]))
    whole = range(3, 5) if change.canary else range(3)
    touched = set(whole if pods is None else whole[:pods])
    for pod in range(5):
        said = Beta(5, 2) if pod in touched else Beta(2, 5)
        assert fits(counted.predictions[0, pod], said.cdf(np.array(BINS)))


@pytest.mark.parametrize("pods", [None, 1])
def test_a_change_of_the_error_rate_replaces_it(pods: int | None) -> None:
    counted = tick(traffic(changes=[Change(at=0.0, error_rate=0.2, pods=pods)]))
    for pod in range(5):
        rate = 0.2 if pod == 3 or (pod == 4 and pods is None) else 0.001
        assert binomtest(int(counted.failed[0, pod]), int(counted.requests[0, pod]), rate).pvalue > LUCK


@pytest.mark.parametrize(("start", "on"), [(9.0, False), (10.0, True), (14.0, True), (15.0, False)])
def test_a_change_begins_and_ends_when_it_says(start: float, on: bool) -> None:  # noqa: FBT001 - a case
    counted = tick(traffic(changes=[Change(at=10.0, lasting=5.0, factor=3.0)]), start=start)
    assert fits(counted.latency[0, 4], slowed(3.0 if on else 1.0))


def test_changes_that_overlap_multiply() -> None:
    changes = [Change(at=0.0, factor=2.0), Change(at=0.0, factor=1.5, pods=1)]
    counted = tick(traffic(changes=changes))
    assert fits(counted.latency[0, 3], slowed(3.0))
    assert fits(counted.latency[0, 4], slowed(2.0))


def test_no_request_takes_longer_than_the_timeout() -> None:
    counted = tick(traffic(timeout=LE[10]))
    cells, below = counted.latency[0].sum(axis=0), slowed()
    assert cells[11:].sum() == 0
    assert fits(cells[:11], below[:10])


def test_quantised_latencies_are_rounded_up_to_multiples() -> None:
    le = tuple(float(bound) for bound in np.arange(1, 41) * 0.0125)
    cells = tick(traffic(quantised=0.05, le=le)).latency[0].sum(axis=0)
    full = np.arange(3, 40, 4)
    assert cells[np.setdiff1d(np.arange(40), full)].sum() == 0
    assert fits(np.append(cells[full], cells[40]), LOGNORMAL.cdf(np.arange(1, 11) * 0.05))


def test_runs_that_are_kept_keep_their_noise() -> None:
    world = World.begun(traffic(rps=10.0, common=Wander(sd=0.1), static=0.1), runs=3, seed=1)
    common, static = world.common.copy(), world.static.copy()
    world.kept(np.array([True, False, True]))
    assert (world.common == common[[0, 2]]).all()
    assert (world.static == static[[0, 2]]).all()
    assert world.counted(0.0, np.zeros(2)).requests.shape == (2, 5)


# -- places ----------------------------------------------------------------------------------------

BOUNDS = st.lists(st.floats(1e-5, 1e5), min_size=1, max_size=80, unique=True).map(sorted).map(tuple)
NEAR = st.lists(st.floats(-0.002, 0.002), min_size=1, max_size=5)


@given(BOUNDS, st.lists(st.floats(-20, 20, width=32), max_size=40), NEAR)
@example((1.0, 1.0000002, 1.0000004, 1000.0), [0.0], [0.0])
def test_the_guide_places_as_a_search_does(
    le: tuple[float, ...], anywhere: list[float], near: list[float]
) -> None:
    log_le = np.log(np.array(le)).astype(np.float32)
    about = (log_le[:, None] + np.array(near, dtype=np.float32)).ravel()
    values = np.concatenate(
        [
            np.array(anywhere, dtype=np.float32),
            log_le,
            np.nextafter(log_le, np.float32(np.inf)),
            np.nextafter(log_le, np.float32(-np.inf)),
            about,
        ]
    )
    assert (guide(le).places(values) == np.searchsorted(log_le, values)).all()


def test_bounds_that_lie_on_an_edge_of_the_guide_s_grid_are_found_from_both_sides() -> None:
    """The grid of (1, x, e): x is put within 32 bits of every edge, beside a neighbour in the same cell."""
    for cell in range(1, 64):
        edge = -1e-3 + cell * (1 + 2e-3) / 64
        le = tuple(np.exp([0.0, edge - 2e-5, edge - 4e-6, 1.0]).tolist())
        log_le = np.log(np.array(le)).astype(np.float32)
        values = (edge + np.linspace(-1e-4, 1e-4, 2001)).astype(np.float32)
        assert (guide(le).places(values) == np.searchsorted(log_le, values)).all()


@given(st.floats(0.3, 50), st.floats(0.3, 50))
def test_scores_are_as_frequent_as_the_distribution_says(a: float, b: float) -> None:
    share = np.bincount(scores(Beta(a, b), BINS), minlength=len(BINS) + 1) / (1 << 16)
    assert share.cumsum()[:-1] == pytest.approx(Beta(a, b).cdf(np.array(BINS)), abs=1 / (1 << 16))


def test_clicks_are_drawn_of_what_was_answered_and_change_with_a_fault() -> None:
    fault = Change(at=5.0, click_rate=0.28)
    served = traffic(clicks=(0.4, 0.4), errors=(0.1, 0.1), changes=(fault,))
    for start, rate in ((0.0, 0.4), (5.0, 0.28)):
        counted = tick(served, start=start)
        answered = counted.requests - counted.failed
        assert counted.clicked is not None
        for pod, expected in ((0, 0.4), (3, rate)):
            hits, n = int(counted.clicked[0, pod]), int(answered[0, pod])
            assert binomtest(hits, n, expected).pvalue > LUCK
    assert tick(traffic()).clicked is None


def test_a_world_in_which_nobody_counts_clicks_draws_as_ever() -> None:
    """Figures that were published with a seed come out again."""
    with_clicks, without = tick(traffic(clicks=(0.4, 0.4))), tick(traffic())
    assert (with_clicks.latency == without.latency).all()
    assert (with_clicks.predictions == without.predictions).all()
