"""Capital that is kept where nothing is believed."""

import numpy as np
import pytest

from analysis import belief, informed
from analysis.informed import Informed


def fed(gains: np.ndarray, *, groups: int = 2, start: Informed | None = None) -> Informed:
    state = informed.regrouped(start or informed.fresh(2), groups)
    for second, gain in enumerate(gains):
        state = informed.advanced(state, np.full(2, gain), middle=second + 0.5, tolerance=6.0)
    return state


def test_a_new_step_goes_on_with_what_is_left() -> None:
    later = informed.next_step(fed(np.full(10, -0.2)))
    assert later.log_e == pytest.approx(-2.0, abs=1e-6)
    assert later.log_e_of_step == pytest.approx(0.0)
    assert fed(np.full(5, 1.0), start=later).log_e == pytest.approx(3.0, abs=1e-5)


def test_a_step_that_begins_anew_has_what_it_began_with() -> None:
    later = informed.next_step(fed(np.full(10, 0.3)))
    assert informed.restarted(fed(np.full(10, 1.0), start=later)).log_e == pytest.approx(3.0, abs=1e-5)


def test_of_one_node_the_best_burst_does_not_count() -> None:
    gains = np.zeros(60)
    gains[20:26] = 5.0
    assert fed(gains, groups=1).log_e == pytest.approx(0.0)
    assert fed(gains, groups=2).log_e == pytest.approx(30.0)
    assert informed.next_step(fed(gains, groups=1)).log_e == pytest.approx(0.0)


def test_a_second_node_leaves_the_first_ones_burst_out_for_good() -> None:
    both = informed.regrouped(fed(np.full(10, 1.0), groups=1), 2)
    assert both.log_e == pytest.approx(4.0)
    assert fed(np.ones(3), start=both).log_e == pytest.approx(7.0)


def test_of_a_node_that_appears_nothing_is_believed() -> None:
    state = informed.regrouped(informed.fresh(2), 3)
    assert state.belief == pytest.approx(belief.blank(3))
    assert informed.regrouped(state, 2) is state
