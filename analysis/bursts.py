"""The burst jackknife: what is left of a gain without its best few seconds.

With one canary node, nothing but time tells a burst of that node from a fault of the version. So
everything counts except the window of at most `tolerance` seconds without which the least is left:
no burst that short can roll a canary back.
"""

from dataclasses import dataclass

import numpy as np

from analysis.packing import rounded
from analysis.proportions import Array

MARKS = 24  # windows a burst is sought in are this fine a part of the tolerance
LIMIT = 700.0  # log capital stays within this, so that exp() stays finite


@dataclass(frozen=True, slots=True, eq=False)
class Bursts:
    """Capital (in nats, of any shape) without each burst there may have been.

    `over` (...): without the worst of those that have ended. `marks` (M,), `windows` (M, ...): those
    that may go on, when they began and what there is without them.
    """

    over: Array
    marks: Array
    windows: Array

    def left(self, whole: Array) -> Array:
        """What counts of `whole` (...): never more than it."""
        return np.asarray(np.concatenate([whole[None], self.over[None], self.windows]).min(axis=0))


def none(like: Array) -> Bursts:
    """No burst so far: nothing is worst."""
    return Bursts(np.full_like(like, LIMIT), np.zeros(0), np.zeros((0, *like.shape)))


def after(bursts: Bursts, gain: Array, *, before: Array, middle: float, tolerance: float) -> Bursts:
    """With every burst that may have ended before this tick, goes on in it, or begins with it.

    `gain` (...) is what the tick brings, `before` (...) the capital it found, `middle` its time.

    A burst holds the ticks whose middles lie less than the tolerance apart: those one of that length can
    cover by more than half. Which of two that are over leaves less does not change any more, so the least
    is all that is kept. Ticks within a 24th of the tolerance share a mark, with the lesser capital and the
    later time: bursts then reach further, never less far.
    """
    over = within(np.concatenate([bursts.over[None], bursts.windows]).min(axis=0) + gain)
    on = middle - bursts.marks < tolerance
    marks, windows = bursts.marks[on], bursts.windows[on]
    if tolerance <= 0:  # nothing is left out
        return Bursts(over, marks, windows)
    if len(marks) and marks[-1] // (tolerance / MARKS) == middle // (tolerance / MARKS):
        marks, windows = np.append(marks[:-1], middle), windows.copy()
        windows[-1] = np.minimum(windows[-1], before)
    else:
        marks, windows = np.append(marks, middle), np.concatenate([windows, before[None]])
    return Bursts(over, marks, windows)


def rounded_to_32_bits(bursts: Bursts) -> Bursts:
    """As `checkpoint.save` keeps it."""
    return Bursts(rounded(bursts.over), rounded(bursts.marks), rounded(bursts.windows))


def within(capital: Array) -> Array:
    """Within the limits that keep everything finite."""
    return np.clip(capital, -LIMIT, LIMIT)
