"""Capital that is bet as far as the belief about the canary says, and kept where it says nothing.

The three tracks (`tracks`) bet on the clock: whatever a healthy step has cost them is gone. This
capital is lost only where the belief was wrong, so that it needs no shares for steps or starts: one
product for the whole run. Most of it is there still for the last step.

Symbols: N groups of canary nodes, J factors, L lenses.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis import belief, bursts
from analysis.bursts import Bursts, within
from analysis.packing import rounded
from analysis.proportions import Array
from analysis.tracks import held

Mask = NDArray[np.bool_]

SHARE = 0.5  # of a latency check's capital; the tracks keep half for what changes the tail alone
CLEARLY = 1.02  # the rate expected is bet on where it is above the margin's by this factor
# s; what a step has gained fades while nothing is bet. Tracks lose between two hiccups what one brought;
# without this, 8 of 12 runs of one stable and one canary pod, each x3 for 3 s every half minute, crossed.
FADE = 20.0
# Of canary nodes, more than the tracks allow: beliefs are held to each other already, so that where one
# node is ill the others lose, unless they have hardly any traffic.
LEAD, AHEAD = 4.0, 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Informed:
    """The running state: log of what one unit of capital has become over the run.

    `began` (L,): when the step began, by lens. `base` (L,) and `gained` (N, L): at present, `base` and
    what each group has brought since. `bursts`: of one group. `belief` (N, J): about each group.
    """

    began: Array
    base: Array
    gained: Array
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
    def whole(self) -> Array:
        """The capital (L,) with every gain."""
        return within(self.base + self.gained.sum(axis=0))

    @property
    def worth(self) -> Array:
        """The capital (L,) that counts: without the worst burst, or what one node is ahead of the others."""
        if len(self.gained) == 1:
            return self.bursts.left(self.whole)
        total = self.gained.sum(axis=0)
        return within(self.base + held(total, total - self.gained, axis=0, lead=LEAD, ahead=AHEAD))


def fresh(lenses: int) -> Informed:
    """A run begins."""
    return _from(np.zeros(lenses))


def next_step(informed: Informed) -> Informed:
    """A weight step begins, with what is left; what is believed is forgotten."""
    return _from(rounded(informed.worth))


def restarted(informed: Informed) -> Informed:
    """The step begins anew, with what there was when it began."""
    return _from(informed.began)


def regrouped(informed: Informed, groups: int) -> Informed:
    """With room for more groups, of which nothing is believed yet."""
    missing = groups - len(informed.belief)
    if missing <= 0:
        return informed
    known = np.concatenate([informed.belief, belief.blank(missing)])
    gained = np.concatenate([informed.gained, np.zeros((missing, len(informed.began)))])
    if len(informed.belief) > 1:
        return replace(informed, gained=gained, belief=known)
    base = rounded(informed.worth)  # the one's burst is left out for good
    return Informed(informed.began, base, np.zeros_like(gained), bursts.none(base), known)


def advanced(
    informed: Informed, gains: Array, bet: Mask, *, start: float, end: float, tolerance: float
) -> Informed:
    """One tick later, by its gains (N, L) where one was `bet` (L,); times are seconds of the step."""
    faded = _faded(informed, np.where(bet, 1.0, np.exp(-(end - start) / FADE)))
    later = replace(faded, gained=rounded(within(faded.gained + gains)))
    if len(gains) > 1:
        return later
    left = bursts.after(
        faded.bursts, gains[0], before=faded.whole, middle=(start + end) / 2, tolerance=tolerance
    )
    return replace(later, bursts=bursts.rounded_to_32_bits(left))


def _faded(informed: Informed, keep: Array) -> Informed:
    """With only part of what this step has gained kept, by lens; losses stay."""
    keep = np.where(informed.whole > informed.began, keep, 1.0)

    def kept(capital: Array) -> Array:
        return rounded(informed.began + (capital - informed.began) * keep)

    old = informed.bursts
    left = replace(old, over=kept(old.over), windows=kept(old.windows))
    return replace(informed, base=kept(informed.base), gained=informed.gained * keep, bursts=left)


def _from(capital: Array) -> Informed:
    gained = np.zeros((1, len(capital)))
    return Informed(capital, capital, gained, bursts.none(capital), belief.blank(1))


def _mean(capital: Array) -> float:
    return float(np.logaddexp.reduce(capital) - np.log(len(capital)))
