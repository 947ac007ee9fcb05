"""The burst jackknife: what is left of a gain without its best few seconds.

With one canary node, nothing but time tells a burst of that node from a fault of the version. So
everything counts except the window of at most `tolerance` seconds without which the least is left:
no burst that short can roll a canary back. Where stable's pods show no noise at all and the rest of the time
speaks against the canary as well, a few nats of that window count all the same, as they do of a node that is
ahead of the others (`tracks.held`).
"""

from dataclasses import dataclass

import numpy as np

from analysis.packing import NEVER, lessened, rounded
from analysis.proportions import Array

MARKS = 8  # windows a burst is sought in are this fine a part of the tolerance
SLOTS = MARKS + 2  # that many marks can be less than the tolerance apart
LIMIT = 700.0  # log capital stays within this, so that exp() stays finite
# Of the best window there count at most so many nats where phi is 1, at 2 an eighth of them, and at most so
# many times what the rest brought: nothing, where that is nothing. Without an end for noisy pods bursts of
# 4 s rolled back 7 of 256 healthy canaries, instead of none (record 42).
ALLOWED, POWER, LEAD = 4.5, 3.0, 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Bursts:
    """Capital (in nats, of any shape) without each burst there may have been.

    `over` (..., *): without the worst of those that have ended. `marks` (..., M), `windows` (..., M, *):
    those that may go on, when they began (NEVER: none) and what there is without them.
    """

    over: Array
    marks: Array
    windows: Array

    def left(self, whole: Array, phi: Array | None = None) -> Array:
        """What counts of `whole` (..., *): never more than it, hence an e-process where that is one.

        With the noise `phi` (...) that was last measured, some of the worst burst counts beside the rest.
        """
        axis = self.marks.ndim - 1
        least = np.minimum(self.over, self.windows.min(axis=axis))
        if phi is not None:
            allowed = (ALLOWED * phi**-POWER).reshape(*np.shape(phi), *[1] * (least.ndim - axis))
            least = least + np.minimum(allowed, LEAD * np.maximum(least, 0.0))
        return np.asarray(np.minimum(whole, least))


def none(like: Array, *, axes: int) -> Bursts:
    """No burst so far: nothing is worst. `like` has so many axes of canaries before those of capital."""
    several, shape = like.shape[:axes], like.shape[axes:]
    marks = np.full((*several, SLOTS), NEVER)
    return Bursts(np.full_like(like, LIMIT), marks, np.full((*several, SLOTS, *shape), LIMIT))


def after(bursts: Bursts, gain: Array, *, before: Array, middle: Array, tolerance: float) -> Bursts:
    """With every burst that may have ended before this tick, goes on in it, or begins with it.

    `gain` (..., *) is what the tick brings, `before` (..., *) the capital it found, `middle` (...) its time.

    A burst holds the ticks whose middles lie less than the tolerance apart: those one of that length can
    cover by more than half. Which of two that are over leaves less does not change any more, so the least
    is all that is kept. Ticks within an eighth of the tolerance share a mark, with the lesser capital and
    the later time: bursts then reach further, never less far.
    """
    axis = bursts.marks.ndim - 1
    over = within(np.minimum(bursts.over, bursts.windows.min(axis=axis)) + gain)
    if tolerance <= 0:  # nothing is left out
        return Bursts(over, bursts.marks, bursts.windows)
    on = np.asarray(middle)[..., None] - bursts.marks < tolerance
    cell = np.floor(np.asarray(middle) / (tolerance / MARKS))
    here = np.arange(SLOTS) == (cell % SLOTS)[..., None]
    capital = before.ndim - axis
    wide_on, wide_here = (one.reshape(*one.shape, *[1] * capital) for one in (on, here))
    windows = np.where(wide_on, bursts.windows, LIMIT)
    windows = np.where(wide_here, np.minimum(windows, np.expand_dims(before, axis)), windows)
    marks = np.where(here, np.asarray(middle)[..., None], np.where(on, bursts.marks, NEVER))
    return Bursts(over, marks, windows)


def rounded_to_32_bits(bursts: Bursts) -> Bursts:
    """As `checkpoint.save` keeps it."""
    return Bursts(rounded(bursts.over), bursts.marks, rounded(bursts.windows))


def shortened(bursts: Bursts) -> Bursts:
    """The same with the many windows in 16 bits each, never more than they were.

    For windows that stand still: what changes a little with every tick would be rounded down as often.
    """
    return Bursts(rounded(bursts.over), bursts.marks, lessened(bursts.windows))


def within(capital: Array) -> Array:
    """Within the limits that keep everything finite."""
    # np.clip says the same in five times as long, where there is one canary
    return np.asarray(np.minimum(np.maximum(capital, -LIMIT), LIMIT))
