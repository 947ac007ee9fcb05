"""How gains of single ticks become evidence: faults that start late, and bursts that are no fault.

Evidence is capital bet against the canary, in nats. Two tracks bet side by side: `ONCE` from the
first request of a step, while caches fill only half of it and with a doubled margin; `LATE` puts a little
more in with every tick, for faults that begin in the middle of a step.

Against bursts of single nodes, what counts is less than the whole:
* with two canary nodes or more, no node counts more than `LEAD` times what all the others together
  brought, plus `AHEAD`, within each block of half a minute: a fault of the version shows on all nodes
  at the same time;
* with one, everything except its best burst (`bursts`), of which a few nats count where stable is quiet, or,
  where stable's nodes are too few to know how frequent those are, except the best of each block.
Both only throw capital away, so they are as valid as the plain e-process is.

Symbols: C tracks, N groups of canary nodes, L lenses, E effect sizes; leading axes (...) are canaries
side by side. Times are seconds of the step.
"""

from dataclasses import dataclass

import numpy as np

from analysis import bursts
from analysis.batches import chosen
from analysis.bursts import LIMIT, Bursts, within
from analysis.packing import rounded
from analysis.proportions import EFFECT_WEIGHTS, EFFECTS, Array, Mask
from analysis.values import replace

ONCE, LATE = 0, 1
# Capital of the first track, and what the late one puts in over the step's timeout: half
# of it evenly over the first minute, when most faults of a release show, half evenly over the logarithm
# of time, since nobody knows the scale of what is left. Against starts of equal weight every 5 s this
# finds x2 a quarter of a minute into a step after 12 s instead of 16, and from the first request as fast.
AT_ONCE, LATER = 0.25, 0.75
CAPITAL = np.array([AT_ONCE, LATER])
MINUTE, SCALE = 60.0, 10.0  # s
WARM_UP = 10.0  # s of a weight step in which caches fill and half the capital at once doubles its margin
BLOCK = 30.0  # s; within one, nodes are held to each other, between two they are forgiven
LEAD, AHEAD = 2.0, 3.0  # with equality instead (1 and 2) chance differences of two nodes cost x2 two seconds
MOST_GROUPS = 4  # more canary nodes than that are counted in four groups
POWERS = np.array([0.5, 1.0])  # of phi that each track pays: restarts are what noise profits from
WAITING = np.array([False, True])  # while caches fill


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """The running state of one step: log of what one unit of each track's capital has become.

    Of the late track's, what has been put in so far.

    `whole` (..., C, L, E): with every gain. `base` (..., C, L, E): had nothing been gained in the block
    that is open. `without` (..., N, C, L, E): with all gains but those of one group in this block; no group
    where there is one only, which has `bursts` instead. `filled` (...): warm-up is over; until then the first
    track's is only the half of its capital that bets. `given` (...): late capital is in up to here.
    """

    whole: Array
    base: Array
    without: Array
    bursts: Bursts
    warm_up: Array
    filled: Mask
    late_from: Array
    given: Array
    block_ends: Array

    @property
    def groups(self) -> int:
        """Of canary nodes, held to each other."""
        return max(1, int(self.without.shape[-4]))


def fresh(
    *, groups: int, lenses: int, warm_up: Array | float = WARM_UP, several: tuple[int, ...] = ()
) -> Tracks:
    """A step begins; `several`: of as many canaries."""
    whole = np.zeros((*several, len(CAPITAL), lenses, len(EFFECTS)))
    whole[..., LATE, :, :] = -LIMIT
    wait = np.full(several, warm_up)
    empty = np.zeros((*several, 0, *whole.shape[-3:]))
    left = bursts.none(whole, axes=len(several))
    ends = np.full(several, BLOCK)
    new = Tracks(whole, whole, empty, left, wait, np.zeros(several, dtype=bool), wait, wait, ends)
    return _grouped(new, whole, groups)


def restarted(
    tracks: Tracks, groups: int, *, elapsed: Array, warm_up: Array | float, timeout: float
) -> Tracks:
    """The step begins anew after so many seconds (...): what was gained is forgotten, what was lost stays.

    Capital that is thrown away can be used against nobody, and no more late capital is put in than one
    step has: so alpha holds for all stretches of a step together, however often pods change.
    """
    counts = worth(_joined(tracks, ~tracks.filled))
    most = np.zeros_like(counts)
    put_in = late_share(tracks.given - tracks.late_from, timeout)
    most[..., LATE, :, :] = within(np.log(np.maximum(put_in, 5e-324)))[..., None, None]
    several = np.shape(tracks.filled)
    anew = replace(
        tracks,
        warm_up=np.broadcast_to(np.asarray(warm_up, dtype=float), several),
        filled=np.zeros(several, dtype=bool),
        late_from=tracks.late_from - elapsed,
        given=tracks.given - elapsed,
        block_ends=np.full(several, BLOCK),
    )
    return _grouped(anew, rounded(np.minimum(counts, most)), groups)


def regrouped(tracks: Tracks, groups: int) -> Tracks:
    """With room for more groups. From one to several: what the one gained counts less its burst."""
    if groups <= tracks.groups:
        return tracks
    if tracks.groups == 1:
        return among(tracks, groups)
    new = np.repeat(tracks.whole[..., None, :, :, :], groups - tracks.groups, axis=-4)  # nothing gained yet
    return replace(tracks, without=np.concatenate([tracks.without, new], axis=-4))


def among(tracks: Tracks, groups: int) -> Tracks:
    """With what counts so far, from here on held among so many groups."""
    counts, filled = worth(tracks), tracks.filled[..., None, None, None]
    # while half waits, `base` is how much that is: no more than there was
    return _grouped(tracks, np.where(filled, counts, np.minimum(counts, tracks.base)), groups)


def advanced(
    tracks: Tracks,
    gains: Array,
    *,
    filling: Mask,
    few: Mask,
    phi: Array,
    start: Array,
    end: Array,
    tolerance: float,
    timeout: float,
) -> Tracks:
    """One tick later. `gains` (..., N, L, E): at the doubled margin while caches are `filling` (...).

    `few` (...): stable's nodes are too few to show how often a node has a burst; then one canary node's worst
    burst is left out of every block instead of the whole step.
    """
    full = ~np.asarray(filling)
    if (full & ~tracks.filled).any():
        tracks = replace(_joined(tracks, full & ~tracks.filled), filled=full | tracks.filled)
    tracks = _with_late_capital(tracks, end, timeout)
    middle = (start + end) / 2
    temper = phi[..., None] ** -POWERS
    temper = np.where(np.asarray(filling)[..., None] & WAITING, 0.0, temper)[..., None, :, None, None]
    each = gains[..., :, None, :, :] * temper  # (..., N, C, L, E)
    total = each.sum(axis=-4)
    later = replace(tracks, whole=within(tracks.whole + total))
    if tracks.groups == 1:
        left = bursts.after(tracks.bursts, total, before=tracks.whole, middle=middle, tolerance=tolerance)
        later, over = replace(later, bursts=left), np.asarray((end >= tracks.block_ends) & few)
        return _forgiven(later, over, end) if over.any() else later
    rest = total[..., None, :, :, :] - each
    later = replace(later, without=within(tracks.without + rest))
    over = np.asarray(end >= tracks.block_ends)
    return _forgiven(later, over, end) if over.any() else later


def worth(tracks: Tracks, phi: Array | None = None) -> Array:
    """The capital that counts (..., C, L, E): never more than `whole`.

    With `phi` (...) what that allows of one node's worst burst: for a verdict, not to go on with.
    """
    if tracks.groups == 1:
        return tracks.bursts.left(tracks.whole, phi)
    others = tracks.without - tracks.base[..., None, :, :, :]
    return within(tracks.base + held(tracks.whole - tracks.base, others, axis=-4))


def held(total: Array, others: Array, *, axis: int, lead: float = LEAD, ahead: float = AHEAD) -> Array:
    """What counts of a gain, where `others` is what is left of it without each of the groups (`axis`).

    Guarantee: at most `total`, hence an e-process where that is one. To gain G, the groups other than any
    given one must bring (G - ahead) / (1 + lead) themselves, whatever that one did.
    """
    least = others.min(axis=axis)
    return np.asarray(np.minimum(total, np.maximum((1 + lead) * least + ahead, least)))


def late_share(age: Array, timeout: float) -> Array:
    """Of the late track's capital, how much is in when the step is this old; never more than all.

    A step held longer than its timeout goes on being watched: a twentieth is kept back for that.
    """
    age, timeout = np.maximum(age, 0.0), max(timeout, MINUTE)
    part = np.log1p(age / SCALE) / np.log1p(timeout / SCALE)
    later = np.where(part <= 1, 0.9 * part, 1 - 0.1 / np.maximum(part, 1.0))
    return np.asarray(0.5 * np.minimum(age / MINUTE, 1.0) + 0.5 * later)


def log_mixture(tracks: Tracks, weight: Array, timeout: float, phi: Array | None = None) -> Array:
    """Log of the mixture (...) over tracks, lenses (`weight`), effects; what is not put in yet counts 1."""
    share = (CAPITAL[:, None, None] * (weight[:, None] * EFFECT_WEIGHTS)).ravel()
    spent = AT_ONCE + LATER * late_share(tracks.given - tracks.late_from, timeout)
    value = worth(tracks if tracks.filled.all() else _joined(tracks, ~tracks.filled), phi)
    value = value.reshape(*value.shape[:-3], len(share))
    top = np.maximum(value.max(axis=-1), 0.0)
    # not as a product of matrices, whose rounding depends on how many canaries there are
    total = (np.exp(value - top[..., None]) * share).sum(axis=-1)
    total = total + np.maximum(0.0, 1.0 - spent) * np.exp(-top)
    return within(top + np.log(np.maximum(total, 5e-324)))


def kept(tracks: Tracks) -> Tracks:
    """As `checkpoint.save` keeps it."""
    return replace(
        tracks,
        whole=rounded(tracks.whole),
        base=rounded(tracks.base),
        without=rounded(tracks.without),
        bursts=bursts.shortened(tracks.bursts),
    )


def _grouped(tracks: Tracks, whole: Array, groups: int) -> Tracks:
    """With this capital and nothing gained since, by any group or in any burst."""
    return replace(
        tracks,
        whole=whole,
        base=whole,
        without=np.repeat(whole[..., None, :, :, :], groups if groups > 1 else 0, axis=-4),
        bursts=bursts.none(whole, axes=whole.ndim - 3),
    )


def _joined(tracks: Tracks, now: Mask) -> Tracks:
    """With the half of the first track's capital that waited beside the half that bet, where it is `now`.

    What waited is what there was to begin with: no block ends while caches fill. From here on both bet
    alike, so one number is enough for them.
    """
    waited = tracks.base[..., ONCE, :, :]

    def both(capital: Array, axes: int) -> Array:
        first = capital[..., ONCE, :, :]
        beside = waited if axes == 2 else waited[..., None, :, :]
        mean = np.logaddexp(first, beside) - np.log(2.0)
        joined = capital.copy()
        here = now.reshape((*now.shape, *[1] * axes)) & (first < LIMIT)
        joined[..., ONCE, :, :] = np.where(here, mean, first)
        return joined

    left = tracks.bursts
    return replace(
        tracks,
        whole=both(tracks.whole, 2),
        base=both(tracks.base, 2),
        without=both(tracks.without, 3),
        bursts=replace(left, over=both(left.over, 2), windows=both(left.windows, 3)),
    )


def _forgiven(tracks: Tracks, over: Mask, end: Array) -> Tracks:
    """A new block where one is `over` (...): what counted stays, the rest is lost."""
    ends = tracks.block_ends + BLOCK * (1 + (end - tracks.block_ends) // BLOCK)
    fresh = replace(_grouped(tracks, worth(tracks), tracks.groups), block_ends=np.asarray(ends))
    return fresh if over.all() else chosen(over, fresh, tracks)


def _with_late_capital(tracks: Tracks, until: Array, timeout: float) -> Tracks:
    """With the late track's share up to this time put in, on every reckoning alike."""
    age, given = until - tracks.late_from, tracks.given - tracks.late_from
    more = late_share(age, timeout) - late_share(given, timeout)
    added = np.log(np.maximum(more, 5e-324))[..., None, None]
    whole, base, without = (one.copy() for one in (tracks.whole, tracks.base, tracks.without))
    left = replace(tracks.bursts, over=tracks.bursts.over.copy(), windows=tracks.bursts.windows.copy())
    for late in (whole, base, left.over) if tracks.groups == 1 else (whole, base):
        late[..., LATE, :, :] = np.logaddexp(late[..., LATE, :, :], added)
    for late in (left.windows,) if tracks.groups == 1 else (without,):
        late[..., LATE, :, :] = np.logaddexp(late[..., LATE, :, :], added[..., None, :, :])
    given = np.maximum(until, tracks.given)
    return replace(tracks, whole=whole, base=base, without=without, bursts=left, given=given)
