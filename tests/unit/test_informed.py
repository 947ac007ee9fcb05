"""Capital that is kept where nothing is believed."""

import numpy as np
import pytest

from analysis import belief, informed
from analysis.bursts import ALLOWED
from analysis.informed import AHEAD, FADE, LEAD, Informed
from analysis.tracks import BLOCK

ALL, WAYS = np.ones(2, dtype=bool), 7


def fed(
    gains: np.ndarray,
    *,
    groups: int = 2,
    start: Informed | None = None,
    bet: np.ndarray = ALL,
    few: bool = False,
    silent: range = range(0),
) -> Informed:
    """`gains` [T] shared by all groups alike, or [T, N]; no tick in `silent` seconds."""
    shared = gains if gains.ndim == 2 else np.repeat(gains[:, None] / groups, groups, axis=1)
    state = informed.regrouped(start or informed.fresh(groups=1, lenses=2, ways=WAYS), groups)
    for second, row in enumerate(shared):
        if second in silent:
            continue
        state = informed.advanced(
            state,
            np.repeat(row[:, None], 2, axis=1),
            bet,
            few=np.array(few),
            start=np.float64(second),
            end=np.float64(second + 1.0),
            tolerance=6.0,
        )
    return state


def test_a_new_step_goes_on_with_what_is_left() -> None:
    later = informed.next_step(fed(np.full(10, -0.2)))
    assert later.log_e == pytest.approx(-2.0, abs=1e-5)
    assert later.log_e_of_step == pytest.approx(0.0)
    assert fed(np.full(5, 1.0), start=later).log_e == pytest.approx(3.0, abs=1e-5)


def test_a_step_that_begins_anew_has_what_it_began_with() -> None:
    later = informed.next_step(fed(np.full(10, 0.3)))
    assert informed.restarted(fed(np.full(10, 1.0), start=later), 2).log_e == pytest.approx(3.0, abs=1e-5)


def test_a_step_that_begins_anew_does_not_have_what_it_lost() -> None:
    later = informed.next_step(fed(np.full(10, 0.3)))
    assert informed.restarted(fed(np.full(10, -0.1), start=later), 2).log_e == pytest.approx(2.0, abs=1e-5)


def test_of_one_node_the_best_burst_does_not_count() -> None:
    gains = np.zeros(60)
    gains[20:26] = 5.0
    assert fed(gains, groups=1).log_e == pytest.approx(0.0)
    assert fed(gains, groups=2).log_e == pytest.approx(30.0)
    assert informed.next_step(fed(gains, groups=1)).log_e == pytest.approx(0.0)


def bursts(blocks: int) -> np.ndarray:
    """One of 3 s in the middle of each block."""
    gains = np.zeros((blocks, int(BLOCK)))
    gains[:, 12:15] = 5.0
    return gains.ravel()


@pytest.mark.parametrize("blocks", [1, 2, 10])
def test_where_stables_nodes_are_few_a_burst_in_each_block_does_not_count(blocks: int) -> None:
    assert fed(bursts(blocks), groups=1, few=True).log_e == pytest.approx(0.0)
    assert fed(bursts(blocks), groups=1).log_e == pytest.approx(15.0 * (blocks - 1))
    assert fed(bursts(blocks), groups=2, few=True).log_e == pytest.approx(15.0 * blocks)


@pytest.mark.parametrize("blocks", [1, 2, 10])
def test_no_burst_counts_by_itself_however_quiet_stable_is(blocks: int) -> None:
    assert fed(bursts(blocks), groups=1, few=True).judged(np.array(1.0)) == pytest.approx(0.0)
    assert fed(bursts(1), groups=1).judged(np.array(1.0)) == pytest.approx(0.0)


def test_beside_the_rest_some_of_a_burst_counts_for_a_verdict_and_is_none_to_go_on_with() -> None:
    state = fed(np.full(16, 1.0), groups=1)
    assert state.log_e == pytest.approx(10.0)
    assert state.judged(np.array(1.0)) == pytest.approx(10.0 + ALLOWED)
    assert state.judged(np.array(2.0)) == pytest.approx(10.0 + ALLOWED / 8)
    assert informed.next_step(state).judged(np.array(1.0)) == pytest.approx(10.0)
    assert fed(np.full(16, 1.0), groups=2).judged(np.array(1.0)) == pytest.approx(16.0)


def test_a_block_ends_also_where_nothing_is_seen_at_its_end() -> None:
    silent = range(int(BLOCK) - 2, int(BLOCK) + 2)
    assert fed(bursts(2), groups=1, few=True, silent=silent).log_e == pytest.approx(0.0)


def test_of_several_none_counts_more_than_the_others_and_its_lead() -> None:
    alone = np.zeros((20, 3))
    alone[:, 0] = 1.0
    assert fed(alone, groups=3).log_e == pytest.approx(AHEAD)
    alone[:, 1] = 0.05
    assert fed(alone, groups=3).log_e == pytest.approx((1 + LEAD) * 1.0 + AHEAD, abs=1e-4)
    alone[:, 1] = -1.0
    assert fed(alone, groups=3).log_e == pytest.approx(-20.0)


def test_what_was_gained_fades_while_nothing_is_bet_and_what_was_lost_stays() -> None:
    nothing = np.zeros(round(FADE))
    for groups in (1, 2):
        gained = fed(np.full(20, 0.5), groups=groups)
        after = fed(nothing, groups=groups, start=gained, bet=~ALL)
        assert after.log_e == pytest.approx(gained.log_e / np.e, rel=1e-4)
        lost = fed(np.full(20, -0.5), groups=groups)
        assert fed(nothing, groups=groups, start=lost, bet=~ALL).log_e == pytest.approx(lost.log_e)


def test_earlier_steps_gains_do_not_fade() -> None:
    later = informed.next_step(fed(np.full(10, 0.2)))
    assert fed(np.zeros(100), start=later, bet=~ALL).log_e == pytest.approx(2.0, abs=1e-5)


def test_a_second_node_leaves_the_first_ones_burst_out_for_good() -> None:
    both = informed.regrouped(fed(np.full(10, 1.0), groups=1), 2)
    assert both.log_e == pytest.approx(4.0)
    assert fed(np.ones(3), start=both).log_e == pytest.approx(7.0)


def test_of_a_node_that_appears_nothing_is_believed() -> None:
    state = informed.regrouped(informed.fresh(groups=1, lenses=2, ways=WAYS), 3)
    assert state.belief == pytest.approx(belief.blank(3, WAYS))
    assert informed.regrouped(state, 2) is state
