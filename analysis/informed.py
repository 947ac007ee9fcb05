"""Capital that is bet as far as the belief about the canary says, and kept where it says nothing.

The three tracks (`tracks`) bet on the clock: whatever a healthy step has cost them is gone. This
capital is lost only where the belief was wrong, so that it needs no shares for steps or starts: one
sum for the whole run, which the last step still has.

Symbols: N groups of canary nodes, J factors, L lenses.
"""

from dataclasses import dataclass, replace

import numpy as np

from analysis import belief, bursts
from analysis.bursts import Bursts, within
from analysis.packing import rounded
from analysis.proportions import Array

SHARE = 0.5  # of a latency check's capital; the tracks keep half for what changes the tail alone
CLEARLY = 1.02  # the rate expected is bet on where it is above the margin's by this factor


@dataclass(frozen=True, slots=True, eq=False)
class Informed:
    """The running state: log of what one unit of capital has become over the run.

    `capital` (L,), by lens; `began` (L,): when the step began; `bursts`: of one group, in this step.
    `belief` (N, J) about each group.
    """

    capital: Array
    began: Array
    bursts: Bursts
    belief: Array

    @property
    def log_e(self) -> float:
        """Log e of the run so far: the mean over lenses."""
        return _mean(self.worth)

    @property
    def log_e_of_step(self) -> float:
        """What this step has made of what there was when it began."""
        return self.log_e - _mean(self.began)

    @property
    def worth(self) -> Array:
        """The capital that counts (L,): of one group without its worst burst."""
        return self.bursts.left(self.capital) if len(self.belief) == 1 else self.capital


def fresh(lenses: int) -> Informed:
    """A run begins."""
    return _from(np.zeros(lenses))


def next_step(informed: Informed) -> Informed:
    """A weight step begins, with what is left; what is believed is forgotten."""
    return _from(informed.worth)


def restarted(informed: Informed) -> Informed:
    """The step begins anew, with what there was when it began."""
    return _from(informed.began)


def regrouped(informed: Informed, groups: int) -> Informed:
    """With room for more groups, of which nothing is believed yet."""
    missing = groups - len(informed.belief)
    if missing <= 0:
        return informed
    worth = informed.worth
    known = np.concatenate([informed.belief, belief.blank(missing)])
    return replace(informed, capital=worth, bursts=bursts.none(worth), belief=known)


def advanced(informed: Informed, gains: Array, *, middle: float, tolerance: float) -> Informed:
    """One tick later, by its gains (L,); `middle` is its time in seconds of the step."""
    capital = rounded(within(informed.capital + gains))
    if len(informed.belief) > 1:
        return replace(informed, capital=capital)
    left = bursts.after(informed.bursts, gains, before=informed.capital, middle=middle, tolerance=tolerance)
    return replace(informed, capital=capital, bursts=bursts.rounded_to_32_bits(left))


def _from(capital: Array) -> Informed:
    return Informed(capital=capital, began=capital, bursts=bursts.none(capital), belief=belief.blank(1))


def _mean(capital: Array) -> float:
    return float(np.logaddexp.reduce(capital) - np.log(len(capital)))
