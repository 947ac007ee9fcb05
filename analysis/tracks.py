"""How gains of single ticks become evidence: many starting points, and no single node decides.

A fault may be there from the first request of a step or come later, so the evidence is a mixture of
e-processes that start at different times. Against bursts of single nodes, each of them counts
* with two canary nodes or more: hardly more from any one node than from all others together, within
  each block of two minutes;
* with one: everything except its best burst, the window of at most `tolerance` seconds in which it
  gained most.
Both are lower bounds of the plain e-process and so as valid as that is.

Symbols: S starts, N groups of canary nodes, L lenses, E effect sizes. Times are seconds of the step.
"""

from dataclasses import dataclass, replace

import numpy as np

from analysis.packing import rounded
from analysis.proportions import EFFECTS, Array, log_sum

FROM_START, LATE = 0.75, 0.25  # mass: most faults of a release are there from its first request
LATE_AT_ONCE = 0.1  # of the late mass, at the end of warm-up; the rest evenly over the step's timeout
# s between late starts. What a start gathers between itself and the fault speaks against it: .7 nats
# a second at 10 requests/s for the effect that finds x2. At 15 s, x2 and x5 took 3 s and 1 s longer.
EVERY = 5.0
WARM_UP = 10.0  # s of a weight step in which caches fill and half the from-start mass doubles its margin
BLOCK = 120.0  # s; within one the largest node is held to the others, between blocks it is forgiven
# Nats by which the largest node may exceed all others together. Far from a line (which is at 5 or
# more), so that one node cannot reach it; without it x1.5 is found after 70 s instead of 55.
AHEAD = 2.0
LATE_SLOTS = 8  # late starts kept apart, their ages about x1.8 apart over ten minutes
MOST_GROUPS = 4  # more canary nodes than that are counted in four groups
MARKS = 24  # windows a burst is sought in are this fine a part of the tolerance
LIMIT = 700.0  # log e stays within this, so that exp() stays finite

EARLY, STARTED, COMING = 0, 1, 2  # classes of starts: with the wide margin, after warm-up, late
CLASS = np.array([EARLY, STARTED] + [COMING] * LATE_SLOTS)
# How much of phi each class pays. From-start evidence hardly profits from noise, restarts do.
MANY_NODES_POWER = np.array([0.0, 0.0, 0.75])
ONE_NODE_POWER = np.array([0.5, 0.5, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """The running state of one step.

    `mass`, `born` (S,); `banked` (S, L, E) closed blocks; `open` (S, N, L, E) gains by group in the
    block that is open; `burst` (S, L, E) the best window so far. `marks` (M,) and `windows`
    (M, 3, L, E): recent ticks' middles and what was gained since each, by class; one node only.
    """

    mass: Array
    born: Array
    banked: Array
    open: Array
    burst: Array
    marks: Array
    windows: Array
    block_ends: float
    next_start: float

    @property
    def warm_up(self) -> float:
        """When it ends."""
        return float(self.born[STARTED])


def fresh(*, groups: int, lenses: int, warm_up: float = WARM_UP) -> Tracks:
    """A step begins: half of the from-start mass at once, half after warm-up, the rest to come.

    While it lasts, the doubled margin counts. Without one both halves start together.
    """
    starts, shape = len(CLASS), (lenses, len(EFFECTS))
    mass, born = np.zeros(starts), np.full(starts, np.inf)
    mass[[EARLY, STARTED]] = FROM_START / 2
    born[EARLY], born[STARTED] = 0.0, warm_up
    return Tracks(
        mass,
        born,
        np.zeros((starts, *shape)),
        np.zeros((starts, groups, *shape)),
        np.zeros((starts, *shape)),
        np.zeros(0),
        np.zeros((0, 3, *shape)),
        BLOCK,
        warm_up,
    )


def regrouped(tracks: Tracks, groups: int) -> Tracks:
    """With room for more groups. From one to several: what the one gained counts less its burst."""
    starts, had, *shape = tracks.open.shape
    if groups <= had:
        return tracks
    wide = np.zeros((starts, groups, *shape))
    if had > 1:
        wide[:, :had] = tracks.open
        return replace(tracks, open=wide)
    nothing = np.zeros_like(tracks.burst)
    bare = replace(tracks, open=wide, banked=worth(tracks), burst=nothing)
    return replace(bare, marks=np.zeros(0), windows=tracks.windows[:0])


def advanced(
    tracks: Tracks,
    gains: Array,
    wide: Array,
    *,
    phi: float,
    start: float,
    end: float,
    tolerance: float,
    timeout: float,
) -> Tracks:
    """One tick later. `gains` (N, L, E) at the margin, `wide` at the doubled one for warm-up."""
    tracks = _with_late_starts(tracks, start, timeout)
    middle = (start + end) / 2
    powers = MANY_NODES_POWER if tracks.open.shape[1] > 1 else ONE_NODE_POWER
    by_class = np.stack([wide if middle < tracks.warm_up else gains, gains, gains])
    by_class = by_class / (phi**powers)[:, None, None, None]
    alive = (tracks.born <= middle) & (tracks.mass > 0)
    added = np.where(alive[:, None, None, None], by_class[CLASS], 0.0)
    later = replace(tracks, open=np.clip(tracks.open + added, -LIMIT, LIMIT))
    if tracks.open.shape[1] == 1:
        return _with_window(later, by_class[:, 0], middle, tolerance)
    return _block_closed(later) if end >= tracks.block_ends else later


def worth(tracks: Tracks) -> Array:
    """Log e of every start, lens and effect (S, L, E), each within the limit."""
    if tracks.open.shape[1] == 1:
        value = tracks.banked + tracks.open[:, 0] - tracks.burst
    else:
        value = tracks.banked + held_to_others(tracks.open)
    return np.clip(value, -LIMIT, LIMIT)


def held_to_others(gains: Array) -> Array:
    """The groups' sum (axis 1), the largest counting at most `AHEAD` more than all the others together.

    Guarantee: never above the plain sum, hence an e-process where that is one. To gain a line L
    within a block, the groups other than any given one must bring (L - AHEAD) / 2 themselves,
    whatever that one did; where they lose more than `AHEAD`, no gain of the one counts.
    """
    largest = gains.max(axis=1)
    others = gains.sum(axis=1) - largest
    held: Array = others + np.minimum(largest, np.maximum(others + AHEAD, 0.0))
    return held


def log_mixture(tracks: Tracks, weight: Array) -> float:
    """Log of the mixture over starts, lenses (`weight`) and effects; mass not yet started counts 1."""
    begun = tracks.mass > 0
    effects = np.full(len(EFFECTS), 1 / len(EFFECTS))
    share = tracks.mass[begun, None, None] * (weight[:, None] * effects)
    unspent = max(0.0, 1.0 - float(tracks.mass.sum()))
    values = np.append(worth(tracks)[begun].ravel(), 0.0)
    log_e = log_sum(values, np.append(share.ravel(), unspent))
    return float(np.clip(log_e, -LIMIT, LIMIT))


def rounded_to_32_bits(tracks: Tracks) -> Tracks:
    """As `checkpoint.save` keeps it."""
    return replace(
        tracks,
        mass=rounded(tracks.mass),
        banked=rounded(tracks.banked),
        open=rounded(tracks.open),
        burst=rounded(tracks.burst),
        marks=rounded(tracks.marks),
        windows=rounded(tracks.windows),
    )


def _with_late_starts(tracks: Tracks, now: float, timeout: float) -> Tracks:
    """Late starts that are due, born now. Beyond the timeout mass is renewed, not saved up."""
    if now < tracks.next_start:
        return tracks
    due = 1 + int((now - tracks.next_start) // EVERY)
    first = tracks.next_start <= tracks.warm_up
    each = (1 - LATE_AT_ONCE) * EVERY / max(timeout, EVERY)
    mass = LATE * (each * min(due - first, round(timeout / EVERY)) + LATE_AT_ONCE * first)
    tracks = _joined(tracks)
    slot = int(np.flatnonzero(tracks.mass[COMING:] == 0)[0]) + COMING
    masses, born = tracks.mass.copy(), tracks.born.copy()
    masses[slot], born[slot] = mass, now
    return replace(tracks, mass=masses, born=born, next_start=tracks.next_start + due * EVERY)


def _joined(tracks: Tracks) -> Tracks:
    """With a late slot free: the two neighbours whose ages differ least in ratio become one.

    Their worth is averaged by mass; open gains and bursts are taken at their worse. Never above the
    two apart, so validity is kept; the best of them loses at most the log of its share of the mass.
    """
    if np.any(tracks.mass[COMING:] == 0):
        return tracks
    order = np.argsort(tracks.born[COMING:]) + COMING
    age = tracks.born[order[-1]] + EVERY - tracks.born[order]
    nearest = int(np.argmin(age[:-1] / age[1:]))
    a, b = int(order[nearest]), int(order[nearest + 1])
    share = tracks.mass[[a, b]] / tracks.mass[[a, b]].sum()
    mass, born, banked, opened, burst = (
        one.copy() for one in (tracks.mass, tracks.born, tracks.banked, tracks.open, tracks.burst)
    )
    one_node = tracks.open.shape[1] == 1
    value = tracks.banked[[a, b]] + (
        tracks.open[[a, b], 0] if one_node else held_to_others(tracks.open[[a, b]])
    )
    banked[a] = log_sum(value, share)
    burst[a] = tracks.burst[[a, b]].max(axis=0)
    opened[a], opened[b], banked[b], burst[b] = 0.0, 0.0, 0.0, 0.0
    mass[a], mass[b], born[b] = mass[a] + mass[b], 0.0, np.inf
    return replace(tracks, mass=mass, born=born, banked=banked, open=opened, burst=burst)


def _block_closed(tracks: Tracks) -> Tracks:
    ends = tracks.block_ends + BLOCK
    return replace(tracks, banked=worth(tracks), open=np.zeros_like(tracks.open), block_ends=ends)


def _with_window(tracks: Tracks, gains: Array, middle: float, tolerance: float) -> Tracks:
    """Every window that ends with this tick weighed as a burst.

    A window holds the ticks whose middles lie less than the tolerance apart: those a burst of that
    length can cover by more than half. Ticks within a 24th of the tolerance share a mark, with the
    larger gain and the later time: windows then reach further, never less far.
    """
    kept = middle - tracks.marks < tolerance
    marks, windows = tracks.marks[kept], tracks.windows[kept] + gains
    if len(marks) and marks[-1] // (tolerance / MARKS) == middle // (tolerance / MARKS):
        marks, windows = np.append(marks[:-1], middle), windows.copy()
        windows[-1] = np.maximum(windows[-1], gains)
    else:
        marks, windows = np.append(marks, middle), np.concatenate([windows, gains[None]])
    inside = marks[:, None] >= tracks.born[None, :]  # (M, S): the start saw the whole window
    best = np.where(inside[:, :, None, None], windows[:, CLASS], 0.0).max(axis=0)
    return replace(tracks, burst=np.maximum(tracks.burst, best), marks=marks, windows=windows)
