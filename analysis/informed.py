"""Capital that is bet as far as the belief about the canary says, and kept where it says nothing.

The three tracks (`tracks`) bet on the clock: whatever a healthy step has cost them is gone. This
capital is lost only where the belief was wrong, so that it needs no shares for steps or starts: one
product for the whole run. On quiet traffic most of it is there still for the last step; shocks that both arms
feel cost it (record 11).

Symbols: N groups of canary nodes, J factors, L lenses; leading axes (...) are canaries side by side.
"""

from dataclasses import dataclass

import numpy as np

from analysis import belief, bursts
from analysis.batches import chosen
from analysis.bursts import LIMIT, Bursts, within
from analysis.packing import NEVER, rounded
from analysis.proportions import Array, Mask
from analysis.tracks import BLOCK, held
from analysis.values import replace

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

    `began` (..., L): when the step began, by lens. `base` (..., L) and `gained` (..., N, L): at present,
    `base` and what each group has brought since. `bursts`: of one group. `belief` (..., M, J): see there.
    `block_ends` (...): seconds of the step at which a burst is forgiven, where stable's nodes are few.
    """

    began: Array
    base: Array
    gained: Array
    bursts: Bursts
    belief: Array
    block_ends: Array

    @property
    def log_e(self) -> Array:
        """Log e of the run so far (...): the mean over lenses."""
        return _mean(self.worth)

    def judged(self, phi: Array) -> Array:
        """The same for a verdict: with what noise `phi` (...) allows of one node's worst burst.

        That is no capital to go on with: it counts once, and not again in every block or step.
        """
        return _mean(self.bursts.left(self.whole, phi)) if self.gained.shape[-2] == 1 else self.log_e

    @property
    def log_e_before(self) -> Array:
        """The same when the step began."""
        return _mean(self.began)

    @property
    def log_e_of_step(self) -> Array:
        """What this step has made of what there was when it began."""
        return self.log_e - self.log_e_before

    @property
    def whole(self) -> Array:
        """The capital (..., L) with every gain."""
        return within(self.base + self.gained.sum(axis=-2))

    @property
    def worth(self) -> Array:
        """The capital (..., L) that counts: less the worst burst, or what a node is ahead of the others."""
        if self.gained.shape[-2] == 1:
            return self.bursts.left(self.whole)
        total = self.gained.sum(axis=-2)
        others = total[..., None, :] - self.gained
        return within(self.base + held(total, others, axis=-2, lead=LEAD, ahead=AHEAD))


def fresh(*, groups: int, lenses: int, ways: int, several: tuple[int, ...] = ()) -> Informed:
    """A run begins; `ways` a canary may differ; `several`: of as many canaries."""
    return _from(np.zeros((*several, lenses)), groups, ways)


def next_step(informed: Informed) -> Informed:
    """A weight step begins, with what is left; what is believed is forgotten."""
    return _from(rounded(informed.worth), informed.gained.shape[-2], informed.belief.shape[-1])


def restarted(informed: Informed, groups: int) -> Informed:
    """The step begins anew, with what there was when it began less what it has lost."""
    return _from(rounded(np.minimum(informed.worth, informed.began)), groups, informed.belief.shape[-1])


def regrouped(informed: Informed, groups: int) -> Informed:
    """With room for more groups, of which no more is believed than what the others said."""
    there = informed.gained.shape[-2]
    missing = groups - there
    if missing <= 0:
        return informed
    several, lenses = informed.began.shape[:-1], informed.began.shape[-1]
    known = belief.regrouped(informed.belief, groups)
    gained = np.concatenate([informed.gained, np.zeros((*several, missing, lenses))], axis=-2)
    if there > 1:
        return replace(informed, gained=gained, belief=known)
    fresh = _forgiven(informed, np.full(several, NEVER))
    return replace(fresh, gained=np.zeros_like(gained), belief=known)


def advanced(
    informed: Informed,
    gains: Array,
    bet: Mask,
    *,
    few: Mask,
    start: Array,
    end: Array,
    tolerance: float,
) -> Informed:
    """One tick later, by its gains (..., N, L) where one was `bet` (..., L); times are the step's seconds.

    `few` (...) as for `tracks.advanced`.
    """
    faded = _faded(informed, np.where(bet, 1.0, np.exp(-(end - start) / FADE)[..., None]))
    later = replace(faded, gained=rounded(within(faded.gained + gains)))
    if gains.shape[-2] > 1:
        return later
    middle = (start + end) / 2
    left = bursts.after(
        faded.bursts, gains[..., 0, :], before=faded.whole, middle=middle, tolerance=tolerance
    )
    later = replace(later, bursts=bursts.rounded_to_32_bits(left))
    over = np.asarray(few & (end >= later.block_ends))
    return chosen(over, _forgiven(later, end), later) if over.any() else later


def _forgiven(informed: Informed, end: Array) -> Informed:
    """A new block: what counted stays, the worst burst is lost."""
    base = rounded(informed.worth)
    left, ends = bursts.none(base, axes=base.ndim - 1), informed.block_ends
    ends = np.where(end >= ends, ends + BLOCK * (1 + (end - ends) // BLOCK), ends)
    return replace(informed, base=base, gained=np.zeros_like(informed.gained), bursts=left, block_ends=ends)


def _faded(informed: Informed, keep: Array) -> Informed:
    """With only part of what this step has gained kept, by lens; losses stay."""
    keep = np.where(informed.whole > informed.began, keep, 1.0)
    if (keep == 1.0).all():
        return informed

    def kept(capital: Array, began: Array, part: Array) -> Array:
        return rounded(np.where(capital < LIMIT, began + (capital - began) * part, capital))

    old, began = informed.bursts, informed.began
    windows = kept(old.windows, began[..., None, :], keep[..., None, :])
    left = replace(old, over=kept(old.over, began, keep), windows=windows)
    base = kept(informed.base, began, keep)
    return replace(informed, base=base, gained=informed.gained * keep[..., None, :], bursts=left)


def _from(capital: Array, groups: int, ways: int) -> Informed:
    several, lenses = capital.shape[:-1], capital.shape[-1]
    left = bursts.none(capital, axes=len(several))
    gained = np.zeros((*several, groups, lenses))
    known, ends = belief.blank(groups, ways, several), np.full(several, BLOCK)
    return Informed(capital, capital, gained, left, known, ends)


def _mean(capital: Array) -> Array:
    return np.asarray(np.logaddexp.reduce(capital, axis=-1) - np.log(capital.shape[-1]))
