"""Latency's arithmetic where something was counted: of a native histogram's 300 buckets most are empty.

Below the first bucket that stable uses its tail is whole, beyond the last it is gone, at every bound alike.
So a check asks the same, and answers it with the same numbers bit by bit, where only some of these are left:
one empty bucket below, two bounds above, and all that the margin reaches from stable's last.

Symbols: K cells, of K - 1 bounds; leading axes (...) are canaries side by side, which share a span.
"""

from bisect import bisect_left

import numpy as np

from analysis.cells import Tick
from analysis.proportions import Array, Mask
from analysis.state import Memory
from analysis.values import replace

ROOM = 8  # a span begins and ends at multiples of so many cells: few are met, and each is worked out once


def used(memory: Memory, tick: Tick, *, margin: float) -> slice | None:
    """The cells that a latency check needs, where no more than `margin` is ever allowed; None: all.

    Both arms have to have the same buckets, with bounds above zero.
    """
    le, cells = memory.le, len(memory.le) + 1
    if cells <= 2 * ROOM or le[0] <= 0 or (le is not memory.canary_le and le != memory.canary_le):
        return None
    stable = np.flatnonzero(_counted(memory.recent) | _counted(tick.stable_cells))
    canary = np.flatnonzero(_counted(memory.recent_canary) | _counted(tick.canary_cells))
    if not len(stable) or stable[-1] == cells - 1:
        return None
    of_canary = (int(canary[0]), int(canary[-1])) if len(canary) else (cells, 0)
    last = int(stable[-1])
    begin = min(int(stable[0]), of_canary[0], bisect_left(le, le[-1] / margin)) - 1
    end = max(last + 3, bisect_left(le, le[last] * margin) + 2, of_canary[1] + 1)
    begin, end = max(begin // ROOM * ROOM, 0), min(-(-end // ROOM) * ROOM, cells)
    return None if (begin, end) == (0, cells) else slice(begin, end)


def cut(memory: Memory, span: slice) -> Memory:
    """The memory in these cells alone, with the bounds between them."""
    le = memory.le[span.start : span.stop - 1]
    return Memory(
        le,
        le,
        memory.recent[..., span],
        memory.recent_canary[..., span],
        memory.step_stable[..., span],
        memory.step_canary[..., span],
    )


def cut_tick(tick: Tick, span: slice) -> Tick:
    """The tick in these cells alone."""
    return replace(tick, stable=tick.stable[..., span], canary=tick.canary[..., span])


def put_back(memory: Memory, cells: Memory, span: slice) -> Memory:
    """The memory with these of its cells as they are now."""
    return replace(
        memory,
        recent=_with(memory.recent, cells.recent, span),
        recent_canary=_with(memory.recent_canary, cells.recent_canary, span),
        step_stable=_with(memory.step_stable, cells.step_stable, span),
        step_canary=_with(memory.step_canary, cells.step_canary, span),
    )


def _with(whole: Array, part: Array, span: slice) -> Array:
    whole = whole.copy()
    whole[..., span] = part
    return whole


def _counted(cells: Array) -> Mask:
    """Where anything was counted (K,), by any of the canaries and in any of the memories."""
    return np.asarray(cells.reshape(-1, cells.shape[-1]).any(axis=0))
