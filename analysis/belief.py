"""What the whole distribution of the canary's latency says its tail will do next.

Only the tail is asked about, and of ten requests a second hardly two a second are in it even when a
fault doubles every latency. But all ten are late, and all may be looked at before the *next* tick is
bet on. So the canary's histogram is compared with stable's, shifted by each factor of a grid: a
Bayesian filter over factors, which may change at any time. It costs next to nothing while all is well,
and after two or three seconds it knows that a fault began and how large it is; a bet that has to learn
both from the tail pays for it with capital.

Right or wrong, it only decides how much is bet: the bet is as valid with a bad belief as with a good one.

A node's own evidence counts in its belief no more than what the others say: where one node alone is
slow, little is bet on it, and what is bet on the others is lost.

Symbols: N groups of canary nodes, J factors, K buckets, L lenses; leading axes (...) are canaries side by
side.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import expit, logit

from analysis.packing import rounded
from analysis.proportions import Array, Mask, Places, picked, tails
from analysis.quantiles import bounds

FACTORS = np.log([1.0, 0.8, 1.2, 1.5, 2.0, 3.0, 5.0])  # the first is "like stable"
PRIOR = np.array([26, 1, 1, 1, 1, 1, 1]) / 32  # in 32 bits as exact as in 64
CHANGES = 0.2  # a second: forgetting within seconds is what lets faults that begin late be seen at once
# Stable's rates above the bounds that are looked at.
CUTS = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02])
ODD = 0.03  # of requests follow no factor's distribution, so that a single one cannot decide
ENOUGH = 50.0  # of stable's requests before its distribution is compared with


@dataclass(frozen=True, slots=True, eq=False)
class Shifts:
    """Where the canary's bounds, divided by each factor, lie among stable's: between `low` and the next.

    `low` and `part` (K_c - 1, J): index of stable's bound, and how far towards the next on the log scale.
    `first`: the canary's first bound above zero.
    """

    low: Places
    part: Array
    first: int


@lru_cache(maxsize=64)
def shifts(le: tuple[float, ...], canary_le: tuple[float, ...]) -> Shifts | None:
    """None where no bound of one of the arms is above zero."""
    of = bounds(le, canary_le)
    least, first = int(np.sum(of.stable <= 0)), int(np.sum(of.canary <= 0))
    if least == len(of.stable) or first == len(of.canary):
        return None
    own, canary = np.log(of.stable[least:]), np.log(np.maximum(of.canary, 1e-300))
    place = np.interp(canary[:, None] - FACTORS, own, np.arange(len(own)))
    low = np.minimum(np.floor(place).astype(np.intp), max(len(own) - 2, 0))
    return Shifts(low + least, place - low, first)


def blank(groups: int, several: tuple[int, ...] = ()) -> Array:
    """Beliefs (..., N, J) before anything was seen; `several`: of as many canaries."""
    return np.tile(PRIOR, (*several, groups, 1))


def revised(
    belief: Array, odds: Array, canary: Array, at: Shifts, *, phi: Array, seconds: Array, known: Mask
) -> Array:
    """Each group's belief (..., N, J), `seconds` after the last, by its own requests `canary` (..., N, K).

    `odds` (..., K_s - 1) are `tail_odds` of stable's recent cells, this tick's among them; `known` (...):
    whether enough of them.
    """
    cuts = _cuts(odds, at)
    above = expit(_shifted(odds, at, cuts))  # (..., C, J)
    counted = picked(tails(canary), np.broadcast_to(cuts[..., None, :], (*canary.shape[:-1], cuts.shape[-1])))
    whole = canary.sum(axis=-1, keepdims=True)
    counted = np.concatenate([whole, counted, np.zeros_like(whole)], axis=-1)
    ends = np.ones_like(above[..., :1, :])
    expected = np.concatenate([ends, above, np.zeros_like(ends)], axis=-2)
    expected = np.maximum(expected[..., :-1, :] - expected[..., 1:, :], 0.0)  # (..., C + 1, J)
    log_likely = (counted[..., :-1] - counted[..., 1:]) @ np.log((1 - ODD) * expected + ODD / (len(CUTS) + 1))
    log_likely = log_likely / phi[..., None, None]
    likely = belief * np.exp(log_likely - log_likely.max(axis=-1, keepdims=True))
    likely = likely / likely.sum(axis=-1, keepdims=True)
    return forgotten(np.where(np.asarray(known)[..., None, None], likely, belief), seconds)


def forgotten(belief: Array, seconds: Array) -> Array:
    """Beliefs (..., N, J) when nothing more was seen for so long (...): the canary may have changed since."""
    change = -np.expm1(-CHANGES * np.asarray(seconds))[..., None, None]
    return rounded((1 - change) * belief + change * PRIOR)


def expected_rates(belief: Array, odds: Array, at: Shifts, cut: Places) -> tuple[Array, Array]:
    """The rate (..., N, L) at which each group's next requests are expected above the canary's bounds.

    And that (..., L) of a canary of which nothing is known. `cut` (..., L): the bounds; `odds`
    (..., L, K_s - 1) are `tail_odds` of stable's cells as the question's lenses remember them.
    """
    rates = expit(_shifted(odds, at, cut[..., None]))[..., 0, :]  # (..., L, J)
    return _held(belief) @ np.swapaxes(rates, -1, -2), rates @ PRIOR


def _held(belief: Array) -> Array:
    """Beliefs (..., N, J) in which a group's own evidence counts no more than what the others say."""
    if belief.shape[-2] == 1:
        return belief
    odds = np.log(belief / PRIOR)
    odds = odds - odds[..., :1]  # against "like stable"
    others = odds.sum(axis=-2, keepdims=True) - odds
    total = others + np.minimum(odds, np.maximum(others, 0.0))
    held = PRIOR * np.exp(total - total.max(axis=-1, keepdims=True))
    return np.asarray(held / held.sum(axis=-1, keepdims=True))


def _cuts(odds: Array, at: Shifts) -> Places:
    """Which of the canary's bounds cut stable's distribution into about a dozen parts (..., C)."""
    unshifted = (*np.shape(odds)[:-1], len(at.low))
    low, part = np.broadcast_to(at.low[:, 0], unshifted), at.part[:, 0]
    under = picked(odds, low)
    own = under + part * (picked(odds, np.minimum(low + 1, odds.shape[-1] - 1)) - under)
    passed = (own[..., at.first :, None] > logit(CUTS)).sum(axis=-2) + at.first
    return np.asarray(np.minimum(passed, len(at.low) - 1))


def _shifted(odds: Array, at: Shifts, cuts: Places) -> Array:
    """Stable's log-odds (..., C, J) of lying above the canary's bounds `cuts` (..., C) over each factor."""
    low, part = at.low[cuts], at.part[cuts]
    under = picked(odds, low)
    return np.asarray(under + part * (picked(odds, np.minimum(low + 1, odds.shape[-1] - 1)) - under))
