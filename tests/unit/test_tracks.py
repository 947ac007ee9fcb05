"""Starts, nodes and bursts: against plain sums and brute force."""

import itertools

import numpy as np
import pytest

from analysis.proportions import EFFECTS
from analysis.tracks import (
    AHEAD,
    EARLY,
    FROM_START,
    LATE,
    LATE_SLOTS,
    STARTED,
    Tracks,
    advanced,
    fresh,
    held_to_others,
    log_mixture,
    regrouped,
    worth,
)

E = len(EFFECTS)
ONE = np.ones(1)


def fed(
    gains: np.ndarray, *, wide: np.ndarray | None = None, tolerance: float = 6.0, warm_up: float = 0.0
) -> Tracks:
    """`gains` [T, N]: what each node brings each second, alike for every effect."""
    state = fresh(groups=gains.shape[1], lenses=1, warm_up=warm_up)
    for second, row in enumerate(gains):
        tick = np.broadcast_to(row[:, None, None], (len(row), 1, E))
        relaxed = tick if wide is None else np.broadcast_to(wide[second][:, None, None], tick.shape)
        state = advanced(
            state,
            tick,
            relaxed,
            phi=1.0,
            start=second,
            end=second + 1.0,
            tolerance=tolerance,
            timeout=600.0,
        )
    return state


def test_nothing_seen_is_evidence_of_one() -> None:
    assert log_mixture(fresh(groups=1, lenses=1), ONE) == pytest.approx(0.0)
    assert log_mixture(fed(np.zeros((300, 2))), ONE) == pytest.approx(0.0, abs=1e-9)


def test_one_node_alone_cannot_bring_more_than_its_lead() -> None:
    gains = np.zeros((30, 2))
    gains[5:25, 0] = 3.0
    assert log_mixture(fed(gains), ONE) <= AHEAD


def test_two_nodes_that_agree_bring_everything() -> None:
    state = fed(np.full((10, 2), 0.5))
    assert worth(state)[STARTED] == pytest.approx(np.full((1, E), 10.0))


def test_bursts_of_different_nodes_at_different_times_stay_apart_in_blocks() -> None:
    gains = np.full((360, 2), -0.05)
    gains[20:30, 0] += 2.0
    gains[250:260, 1] += 2.0
    assert log_mixture(fed(gains), ONE) < AHEAD


@pytest.mark.parametrize("seed", range(5))
def test_with_one_node_the_best_window_within_the_tolerance_is_left_out(seed: int) -> None:
    gains = np.random.default_rng(seed).normal(0, 1, 40)
    found = worth(fed(gains[:, None]))[STARTED, 0, 0]
    windows = [gains[a:b].sum() for a, b in itertools.combinations(range(41), 2) if b - a <= 6]
    assert found == pytest.approx(0.0 + gains.sum() / 1.0 - max(0.0, *windows), abs=1e-6)


@pytest.mark.parametrize(("tick", "ticks_left_out"), [(0.2, 30), (1.0, 6), (5.0, 2), (10.0, 1), (60.0, 1)])
def test_a_window_holds_the_ticks_a_burst_can_cover_by_half(tick: float, ticks_left_out: int) -> None:
    state = fresh(groups=1, lenses=1, warm_up=0.0)
    gain = np.ones((1, 1, E))
    for place in range(60):
        state = advanced(
            state,
            gain,
            gain,
            phi=1.0,
            start=place * tick,
            end=(place + 1) * tick,
            tolerance=6.0,
            timeout=600.0,
        )
    assert 60 - worth(state)[STARTED, 0, 0] == pytest.approx(ticks_left_out, abs=2 if tick < 1 else 0)


def test_state_does_not_grow() -> None:
    state = fed(np.full((1500, 1), -0.01))
    assert state.banked.shape == (2 + LATE_SLOTS, 1, E)
    assert len(state.marks) <= 30


def test_late_starts_spend_their_mass_over_the_timeout_and_never_more() -> None:
    early, late = fed(np.zeros((30, 2))), fed(np.zeros((599, 2)))
    assert early.mass[:2].sum() == pytest.approx(FROM_START)
    assert early.mass[2:].sum() < 0.2 * LATE
    assert late.mass[2:].sum() == pytest.approx(LATE, rel=0.02)
    assert late.mass.sum() <= 1 + 1e-9


def test_joining_starts_never_raises_the_evidence_above_the_plain_mixture() -> None:
    """Without holds and bursts, the mixture over all starts is a plain recursion."""
    rng = np.random.default_rng(3)
    gains = rng.normal(-0.02, 0.4, 400)
    state = fed(np.repeat(gains[:, None] / 2, 2, axis=1))  # two nodes that agree: nothing is held back
    plain, unspent = FROM_START, LATE
    for second, gain in enumerate(gains):
        if second % 5 == 0:
            mass = LATE * (0.1 if second == 0 else 0.9 * 5 / 600)
            plain, unspent = plain + mass, unspent - mass
        plain *= np.exp(gain)
    assert log_mixture(state, ONE) <= np.log(plain + unspent) + 1e-6
    assert log_mixture(state, ONE) == pytest.approx(np.log(plain + unspent), abs=0.7)


def test_while_caches_fill_half_the_mass_waits_and_half_has_the_wider_margin() -> None:
    state = fed(np.ones((5, 2)), wide=np.full((5, 2), -1.0), warm_up=10.0)
    assert worth(state)[EARLY].max() == pytest.approx(-10.0)
    assert not worth(state)[STARTED].any()


def test_phi_tempers_one_node_more_than_several() -> None:
    def after(groups: int) -> float:
        state = fresh(groups=groups, lenses=1, warm_up=0.0)
        gain = np.full((groups, 1, E), 10.0 / groups)
        state = advanced(state, gain, gain, phi=4.0, start=0, end=1, tolerance=0.1, timeout=600.0)
        return float(state.open[STARTED].sum(axis=0).max())

    assert after(2) == pytest.approx(10.0)
    assert after(1) == pytest.approx(5.0)


def test_a_second_node_that_appears_leaves_the_first_ones_burst_out_for_good() -> None:
    state = fed(np.array([[0.0], [4.0], [0.0], [0.0]]))
    assert worth(regrouped(state, 2))[STARTED] == pytest.approx(worth(state)[STARTED])
    assert regrouped(state, 1) is state


def test_holding_to_others_is_monotone_in_every_gain() -> None:
    rng = np.random.default_rng(2)
    gains = rng.normal(0, 3, (200, 3))
    raised = gains + np.abs(rng.normal(0, 1, (200, 3))) * (rng.random((200, 3)) < 0.4)
    assert (held_to_others(raised) >= held_to_others(gains) - 1e-9).all()
    assert (held_to_others(gains) <= gains.sum(axis=1) + 1e-9).all()
