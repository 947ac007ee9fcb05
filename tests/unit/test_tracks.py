"""Tracks, nodes and bursts: against plain sums and brute force."""

import itertools

import numpy as np
import pytest

from analysis.bursts import ALLOWED, MARKS, POWER, SLOTS
from analysis.bursts import LEAD as LEAD_OF_BURSTS
from analysis.proportions import EFFECTS
from analysis.tracks import (
    AHEAD,
    AT_ONCE,
    BLOCK,
    LATE,
    LATER,
    LEAD,
    LIMIT,
    ONCE,
    Tracks,
    advanced,
    fresh,
    held,
    late_share,
    log_mixture,
    regrouped,
    worth,
)

E, TIMEOUT = len(EFFECTS), 600.0
ONE = np.ones(1)


def fed(
    gains: np.ndarray,
    *,
    wide: np.ndarray | None = None,
    tolerance: float = 6.0,
    warm_up: float = 0.0,
    tick: float = 1.0,
    phi: float = 1.0,
    few: bool = False,
) -> Tracks:
    """`gains` [T, N]: what each node brings each tick, alike for every effect."""
    state = fresh(groups=gains.shape[1], lenses=1, warm_up=warm_up)
    for place, row in enumerate(gains):
        brought = np.broadcast_to(row[:, None, None], (len(row), 1, E))
        relaxed = brought if wide is None else np.broadcast_to(wide[place][:, None, None], brought.shape)
        filling = np.array((place + 0.5) * tick < warm_up)
        state = advanced(
            state,
            relaxed if filling else brought,
            filling=filling,
            few=np.array(few),
            phi=np.float64(phi),
            start=np.float64(place * tick),
            end=np.float64((place + 1) * tick),
            tolerance=tolerance,
            timeout=TIMEOUT,
        )
    return state


def log_e(state: Tracks) -> float:
    return float(log_mixture(state, ONE, TIMEOUT))


def test_nothing_seen_is_evidence_of_one() -> None:
    assert log_e(fresh(groups=1, lenses=1)) == pytest.approx(0.0)
    assert log_e(fed(np.zeros((300, 2)))) == pytest.approx(0.0, abs=1e-9)


def test_one_node_alone_cannot_bring_more_than_its_lead() -> None:
    gains = np.zeros((int(BLOCK) - 1, 2))
    gains[5:25, 0] = 3.0
    assert log_e(fed(gains)) <= AHEAD


def test_two_nodes_that_agree_bring_everything() -> None:
    assert worth(fed(np.full((10, 2), 0.5)))[ONCE] == pytest.approx(np.full((1, E), 10.0))


def test_bursts_of_different_nodes_at_different_times_stay_apart_in_blocks() -> None:
    gains = np.full((120, 2), -0.05)
    gains[10:20, 0] += 2.0
    gains[70:80, 1] += 2.0
    assert log_e(fed(gains)) < AHEAD


@pytest.mark.parametrize("seed", range(5))
def test_with_one_node_the_best_window_within_the_tolerance_is_left_out(seed: int) -> None:
    gains = np.random.default_rng(seed).normal(0, 1, 40)
    windows = [gains[a:b].sum() for a, b in itertools.combinations(range(41), 2) if b - a <= 6]
    expected = gains.sum() - max(0.0, *windows)
    assert worth(fed(gains[:, None]))[ONCE, 0, 0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("phi", "rest"), [(1.0, 9.0), (2.0, 9.0), (1.0, 0.9), (1.0, 0.0), (1.0, -0.9)])
def test_of_one_nodes_burst_a_few_nats_count_beside_the_rest_where_stable_is_quiet(
    phi: float, rest: float
) -> None:
    """None where the rest brought none, and never more than there is."""
    gains, noise = np.full((33, 1), rest / 30), np.array(phi)
    gains[12:15] = 50.0
    within_six_seconds = 3 * max(rest, 0.0) / 30
    left = rest - within_six_seconds
    allowed = min(ALLOWED * phi**-POWER, LEAD_OF_BURSTS * max(left, 0.0))
    assert worth(fed(gains), noise)[ONCE] == pytest.approx(np.full((1, E), left + allowed))
    assert worth(fed(gains))[ONCE] == pytest.approx(np.full((1, E), left))  # what there is to go on with
    even = fed(np.full((12, 1), 0.5))
    assert worth(even, noise)[ONCE] == pytest.approx(np.full((1, E), 3.0 + min(3.0, ALLOWED * phi**-POWER)))


@pytest.mark.parametrize("blocks", [1, 2, 5, 40])
@pytest.mark.parametrize("seed", range(3))
def test_where_stables_nodes_are_few_a_burst_in_each_block_is_left_out(blocks: int, seed: int) -> None:
    gains = np.zeros((blocks, int(BLOCK)))
    for row, begins in zip(
        gains, np.random.default_rng(seed).integers(0, int(BLOCK) - 2, blocks), strict=True
    ):
        row[begins : begins + 3] = 5.0
    each = gains.reshape(-1, 1)
    assert log_e(fed(each, few=True)) == pytest.approx(0.0, abs=1e-6)
    assert worth(fed(each, few=True))[ONCE] == pytest.approx(0.0, abs=1e-6)
    # of the whole step only one is left out, or two that meet
    assert worth(fed(each))[ONCE, 0, 0] >= min(15.0 * (blocks - 2), LIMIT - 30.0)
    assert worth(fed(np.repeat(each, 2, axis=1), few=True))[ONCE] == pytest.approx(min(30.0 * blocks, LIMIT))


@pytest.mark.parametrize("seed", range(3))
def test_where_stables_nodes_are_few_every_block_loses_its_best_window(seed: int) -> None:
    gains = np.random.default_rng(seed).normal(0, 1, (3, int(BLOCK)))
    ends = list(itertools.combinations(range(int(BLOCK) + 1), 2))
    best = [max(0.0, *(block[a:b].sum() for a, b in ends if b - a <= 6)) for block in gains]
    left = worth(fed(gains.reshape(-1, 1), few=True))[ONCE, 0, 0]
    assert left == pytest.approx(gains.sum() - sum(best), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_late_capital_without_any_window_is_never_more_than_without_the_worst(seed: int) -> None:
    """By brute force: the late track leaves out the window without which the least is left."""
    gains = np.random.default_rng(seed).normal(0.1, 1, 25)
    shares = np.diff([late_share(second, TIMEOUT) for second in range(26)])

    def capital(left_out: range) -> float:
        total = -np.inf
        for second, gain in enumerate(gains):
            total = np.logaddexp(total, np.log(shares[second])) + gain * (second not in left_out)
        return float(total)

    least = min(capital(range(a, b)) for a in range(26) for b in range(a, min(a + 6, 25) + 1))
    assert worth(fed(gains[:, None]))[LATE, 0, 0] == pytest.approx(least, abs=1e-6)


@pytest.mark.parametrize(("tick", "ticks_left_out"), [(0.2, 30), (1.0, 6), (5.0, 2), (10.0, 1), (60.0, 1)])
def test_a_window_holds_the_ticks_a_burst_can_cover_by_half(tick: float, ticks_left_out: int) -> None:
    """Where ticks share a mark it may hold those of one mark more, and never fewer."""
    left_out = 60 - worth(fed(np.ones((60, 1)), tick=tick))[ONCE, 0, 0]
    more = 6.0 / MARKS / tick if tick < 6.0 / MARKS else 0.0
    assert ticks_left_out - 1e-6 <= left_out <= ticks_left_out + more + 1e-6


def test_with_no_tolerance_nothing_is_left_out_even_of_ticks_that_overlap() -> None:
    assert worth(fed(np.ones((10, 1)), tolerance=0.0, tick=0.5))[ONCE, 0, 0] == pytest.approx(10.0)
    state = fed(np.ones((20, 1)), tolerance=0.0)
    one = np.ones((1, 1, E))
    late = advanced(
        state,
        one,
        filling=np.array(False),
        few=np.array(False),
        phi=np.float64(1.0),
        start=np.float64(6.0),
        end=np.float64(21.0),
        tolerance=0.0,
        timeout=TIMEOUT,
    )
    assert worth(late)[ONCE, 0, 0] == pytest.approx(21.0)


def test_state_does_not_grow() -> None:
    state = fed(np.full((7500, 1), -0.01), tick=0.2)
    assert state.whole.shape == (2, 1, E)
    assert len(state.bursts.marks) == len(state.bursts.windows) == SLOTS <= 30


def test_late_capital_is_put_in_over_the_timeout_and_no_more() -> None:
    shares = [late_share(age, TIMEOUT) for age in np.arange(-10, 600)]
    assert shares[:11] == [0.0] * 11
    assert (np.diff(shares[10:]) > 0).all()
    assert late_share(60, TIMEOUT) > 0.7
    assert late_share(TIMEOUT, TIMEOUT) == pytest.approx(0.95)


@pytest.mark.parametrize("timeout", [0.0, 0.001, 1.0, 60.0, TIMEOUT])
def test_no_step_bets_more_than_it_has_however_short_its_timeout_and_long_it_is_held(timeout: float) -> None:
    shares = np.array([late_share(age, timeout) for age in np.geomspace(1, 1e9, 200)])
    assert (np.diff(shares) > 0).all()
    assert shares[-1] <= 1.0


def test_all_capital_is_there_once() -> None:
    assert pytest.approx(1.0) == AT_ONCE + LATER


@pytest.mark.parametrize("seed", range(3))
def test_nodes_that_agree_give_the_plain_mixture_over_all_starts(seed: int) -> None:
    gains = np.random.default_rng(seed).normal(-0.02, 0.4, 400)
    plain, given = AT_ONCE, 0.0
    for second, gain in enumerate(gains):
        share = LATER * late_share(second + 1, TIMEOUT)
        plain, given = (plain + share - given) * np.exp(gain), share
    whole = log_e(fed(np.repeat(gains[:, None] / 2, 2, axis=1)))
    assert whole <= np.log(plain + LATER - given) + 1e-6
    assert whole == pytest.approx(np.log(plain + LATER - given), abs=1.5)  # in a loss, the others' counts


def test_while_caches_fill_half_the_capital_waits_and_half_has_the_wider_margin() -> None:
    state = fed(np.ones((5, 2)), wide=np.full((5, 2), -1.0), warm_up=10.0)
    assert worth(state)[ONCE] == pytest.approx(-10.0)
    assert worth(state)[LATE] == pytest.approx(-LIMIT)
    half_lost = 1 - AT_ONCE / 2 * (1 - np.exp(-10.0))
    assert np.exp(log_e(state)) == pytest.approx(half_lost)


def test_when_caches_are_full_both_halves_bet_alike() -> None:
    brought = np.concatenate([np.full((5, 2), -0.2), np.full((4, 2), 0.3)])
    state = fed(brought, wide=brought, warm_up=5.0)
    both = np.log((np.exp(-2.0) + 1) / 2) + 2.4
    assert worth(state)[ONCE] == pytest.approx(both)


def test_phi_tempers_what_may_start_at_any_time_more_than_what_starts_at_once() -> None:
    state = fed(np.full((1, 2), 5.0), phi=4.0)
    assert worth(state)[ONCE] == pytest.approx(np.full((1, E), 10.0 / 2))
    put_in = np.log(late_share(1.0, TIMEOUT))
    assert worth(state)[LATE] - put_in == pytest.approx(np.full((1, E), 10.0 / 4))


def test_a_second_node_that_appears_leaves_the_first_ones_burst_out_for_good() -> None:
    state = fed(np.array([[0.0], [4.0], [0.0], [0.0]]))
    assert worth(regrouped(state, 2)) == pytest.approx(worth(state))
    assert regrouped(state, 1) is state


def test_a_third_node_that_appears_has_brought_nothing_yet() -> None:
    two = fed(np.full((5, 2), 1.0))
    assert worth(regrouped(two, 3)) == pytest.approx(worth(two))


def test_holding_to_others_is_monotone_and_never_above_the_sum() -> None:
    rng = np.random.default_rng(2)
    gains = rng.normal(0, 3, (200, 3))
    raised = gains + np.abs(rng.normal(0, 1, (200, 3))) * (rng.random((200, 3)) < 0.4)

    def counted(each: np.ndarray) -> np.ndarray:
        total = each.sum(axis=1)
        return held(total, total[:, None] - each, axis=1)

    assert (counted(raised) >= counted(gains) - 1e-9).all()
    assert (counted(gains) <= gains.sum(axis=1) + 1e-9).all()


def test_a_node_may_lead_by_its_factor_and_a_little() -> None:
    each = np.array([9.0, 3.0])
    assert held(each.sum(), each.sum() - each, axis=0) == pytest.approx(3.0 + LEAD * 3.0 + AHEAD)
    assert held(np.array(5.0), np.array([5.0, -4.0]), axis=0) == pytest.approx(-4.0)
