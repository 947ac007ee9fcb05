"""How gains of single ticks become evidence: faults that start late, and bursts that are no fault.

Evidence is capital bet against the canary, in nats. Three tracks bet side by side: `EARLY` from the
first request of a step, with a doubled margin while caches fill; `STARTED` from the end of warm-up;
`LATE` puts a little more in with every tick, for faults that begin in the middle of a step.

Against bursts of single nodes, what counts is less than the whole:
* with two canary nodes or more, no node counts more than `LEAD` times what all the others together
  brought, plus `AHEAD`, within each block of half a minute: a fault of the version shows on all nodes
  at the same time;
* with one, everything except its best burst (`bursts`).
Both only throw capital away, so they are as valid as the plain e-process is.

Symbols: C tracks, N groups of canary nodes, L lenses, E effect sizes. Times are seconds of the step.
"""

from dataclasses import dataclass, replace

import numpy as np

from analysis import bursts
from analysis.bursts import LIMIT, Bursts, within
from analysis.packing import rounded
from analysis.proportions import EFFECT_WEIGHTS, EFFECTS, Array, log_sum

EARLY, STARTED, LATE = 0, 1, 2
# Capital of the first two tracks together, and what the late one puts in over the step's timeout: half
# of it evenly over the first minute, when most faults of a release show, half evenly over the logarithm
# of time, since nobody knows the scale of what is left. Against starts of equal weight every 5 s this
# finds x2 a quarter of a minute into a step after 12 s instead of 16, and from the first request as fast.
AT_ONCE, LATER = 0.25, 0.75
CAPITAL = np.array([AT_ONCE / 2, AT_ONCE / 2, LATER])
MINUTE, SCALE = 60.0, 10.0  # s
WARM_UP = 10.0  # s of a weight step in which caches fill and half the capital at once doubles its margin
BLOCK = 30.0  # s; within one, nodes are held to each other, between two they are forgiven
LEAD, AHEAD = 2.0, 3.0  # with equality instead (1 and 2) chance differences of two nodes cost x2 two seconds
MOST_GROUPS = 4  # more canary nodes than that are counted in four groups
POWERS = np.array([0.5, 0.5, 1.0])  # of phi that each track pays: restarts are what noise profits from


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """The running state of one step: log of what one unit of each track's capital has become.

    Of the late track's, what has been put in so far.

    `whole` (C, L, E): with every gain. `base` (C, L, E): had nothing been gained in the block that is
    open. `without` (C, N, L, E): with all gains but those of one group in this block; no group where
    there is one only, which has `bursts` instead. `given`: late capital is in up to here.
    """

    whole: Array
    base: Array
    without: Array
    bursts: Bursts
    warm_up: float
    given: float
    block_ends: float

    @property
    def groups(self) -> int:
        """Of canary nodes, held to each other."""
        return max(1, int(self.without.shape[1]))


def fresh(*, groups: int, lenses: int, warm_up: float = WARM_UP) -> Tracks:
    """A step begins: half of the capital at once on each of the first two tracks.

    While warm-up lasts, the doubled margin counts. Without one both start together.
    """
    shape = (lenses, len(EFFECTS))
    whole = np.zeros((3, *shape))
    whole[LATE] = -LIMIT
    return _grouped(whole, groups, warm_up=warm_up, given=warm_up, block_ends=BLOCK)


def regrouped(tracks: Tracks, groups: int) -> Tracks:
    """With room for more groups. From one to several: what the one gained counts less its burst."""
    if groups <= tracks.groups:
        return tracks
    if tracks.groups == 1:
        kept = worth(tracks)
        return _grouped(
            kept, groups, warm_up=tracks.warm_up, given=tracks.given, block_ends=tracks.block_ends
        )
    new = np.repeat(tracks.whole[:, None], groups - tracks.groups, axis=1)  # they have gained nothing yet
    return replace(tracks, without=np.concatenate([tracks.without, new], axis=1))


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
    tracks = _with_late_capital(tracks, end, timeout)
    middle = (start + end) / 2
    filling = middle < tracks.warm_up
    nothing = np.zeros_like(gains)
    each = np.stack([wide, nothing, nothing] if filling else [gains, gains, gains])
    each = each / (phi**POWERS)[:, None, None, None]
    total = each.sum(axis=1)
    later = replace(tracks, whole=within(tracks.whole + total))
    if tracks.groups == 1:
        left = bursts.after(tracks.bursts, total, before=tracks.whole, middle=middle, tolerance=tolerance)
        return replace(later, bursts=left)
    later = replace(later, without=within(tracks.without + total[:, None] - each))
    if end < tracks.block_ends:
        return later
    return _grouped(
        worth(later),
        tracks.groups,
        warm_up=tracks.warm_up,
        given=later.given,
        block_ends=tracks.block_ends + BLOCK * (1 + (end - tracks.block_ends) // BLOCK),
    )


def worth(tracks: Tracks) -> Array:
    """The capital that counts (C, L, E): never more than `whole`."""
    if tracks.groups == 1:
        return tracks.bursts.left(tracks.whole)
    return within(
        tracks.base + held(tracks.whole - tracks.base, tracks.without - tracks.base[:, None], axis=1)
    )


def held(total: Array, others: Array, *, axis: int, lead: float = LEAD, ahead: float = AHEAD) -> Array:
    """What counts of a gain, where `others` is what is left of it without each of the groups (`axis`).

    Guarantee: at most `total`, hence an e-process where that is one. To gain G, the groups other than any
    given one must bring (G - ahead) / (1 + lead) themselves, whatever that one did.
    """
    least = others.min(axis=axis)
    return np.asarray(np.minimum(total, np.maximum((1 + lead) * least + ahead, least)))


def late_share(age: float, timeout: float) -> float:
    """Of the late track's capital, how much is in when the step is this old; never more than all.

    A step held longer than its timeout goes on being watched: a twentieth is kept back for that.
    """
    age, timeout = max(age, 0.0), max(timeout, MINUTE)
    part = np.log1p(age / SCALE) / np.log1p(timeout / SCALE)
    return float(0.5 * min(age / MINUTE, 1.0) + 0.5 * (0.9 * part if part <= 1 else 1 - 0.1 / part))


def log_mixture(tracks: Tracks, weight: Array, timeout: float) -> float:
    """Log of the mixture over tracks, lenses (`weight`) and effects; capital not put in yet counts 1."""
    share = CAPITAL[:, None, None] * (weight[:, None] * EFFECT_WEIGHTS)
    spent = AT_ONCE + LATER * late_share(tracks.given - tracks.warm_up, timeout)
    values, shares = np.append(worth(tracks).ravel(), 0.0), np.append(share.ravel(), max(0.0, 1.0 - spent))
    return float(np.clip(log_sum(values, shares), -LIMIT, LIMIT))


def rounded_to_32_bits(tracks: Tracks) -> Tracks:
    """As `checkpoint.save` keeps it."""
    return replace(
        tracks,
        whole=rounded(tracks.whole),
        base=rounded(tracks.base),
        without=rounded(tracks.without),
        bursts=bursts.rounded_to_32_bits(tracks.bursts),
    )


def _grouped(whole: Array, groups: int, *, warm_up: float, given: float, block_ends: float) -> Tracks:
    """With this capital and nothing gained since, by any group or in any burst."""
    return Tracks(
        whole=whole,
        base=whole,
        without=np.repeat(whole[:, None], groups if groups > 1 else 0, axis=1),
        bursts=bursts.none(whole),
        warm_up=warm_up,
        given=given,
        block_ends=block_ends,
    )


def _with_late_capital(tracks: Tracks, until: float, timeout: float) -> Tracks:
    """With the late track's share up to this time put in, on every reckoning alike."""
    more = late_share(until - tracks.warm_up, timeout) - late_share(tracks.given - tracks.warm_up, timeout)
    if more <= 0:
        return tracks
    added = np.log(more)
    whole, base, without = (one.copy() for one in (tracks.whole, tracks.base, tracks.without))
    left = replace(tracks.bursts, over=tracks.bursts.over.copy(), windows=tracks.bursts.windows.copy())
    for late in (whole[LATE], base[LATE], without[LATE], left.over[LATE], left.windows[:, LATE]):
        np.logaddexp(late, added, out=late)
    return replace(tracks, whole=whole, base=base, without=without, bursts=left, given=until)
