"""Ways the canary's latency may differ: as stable's, times a factor.

What is expected of the canary under each is read off stable's own distribution, with its bounds divided by
the factor; between two bounds the log-odds are interpolated. It only advises bets, and decides nothing.

Symbols: J factors, C cuts, K buckets, L lenses; leading axes (...) are canaries side by side.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import expit, logit

from analysis.proportions import Array, Places, picked, tails
from analysis.quantiles import bounds

# The first is "like stable". Finest where faults are slowest to find: a canary x1.3 slower that was thought
# to be x1.2 or x1.5 slower, in turns, lost 4 nats in 400 s by bets that were too small or too large.
FACTORS = np.log([1.0, 0.8, 1.15, 1.3, 1.4, 1.5, 2.0, 3.5])
# A second. Forgetting within seconds is what lets faults that begin late be seen at once; those that take
# minutes to prove, and are nearly alike from one second to the next, are believed as long.
CHANGES = np.array([0.1, 0.1, 0.1, 0.005, 0.005, 0.005, 0.1, 0.1])
# Stable's rates above the bounds that are looked at.
CUTS = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02])
CUT_ODDS = logit(CUTS)
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


@lru_cache(maxsize=256)
def shifts(le: tuple[float, ...], canary_le: tuple[float, ...]) -> Shifts | None:
    """None where no bound of one of the arms is above zero."""
    of = bounds(le, canary_le)
    least, first = int(np.sum(of.stable <= 0)), int(np.sum(of.canary <= 0))
    if least == len(of.stable) or first == len(of.canary):
        return None
    own, canary = np.log(of.stable[least:]), np.log(np.maximum(of.canary, 1e-300))
    shifted = np.clip(canary[:, None] - FACTORS, own[0], own[-1])
    low = np.clip(np.searchsorted(own, shifted, side="right") - 1, 0, max(len(own) - 2, 0))
    width = own[np.minimum(low + 1, len(own) - 1)] - own[low]
    return Shifts(low + least, (shifted - own[low]) / np.where(width > 0, width, 1.0), first)


def likelihoods(odds: Array, at: Shifts, canary: Array) -> Array:
    """Log-likelihood (..., N, J) of each group's requests `canary` (..., N, K_c) under each factor.

    `odds` (..., K_s - 1) are `tail_odds` of stable's recent cells.
    """
    cuts = _cuts(odds, at)
    above = expit(_shifted(odds, at, cuts))  # (..., C, J)
    counted = picked(tails(canary), np.broadcast_to(cuts[..., None, :], (*canary.shape[:-1], cuts.shape[-1])))
    whole = canary.sum(axis=-1, keepdims=True)
    counted = np.concatenate([whole, counted, np.zeros_like(whole)], axis=-1)
    ends = np.ones_like(above[..., :1, :])
    expected = np.concatenate([ends, above, np.zeros_like(ends)], axis=-2)
    expected = np.maximum(expected[..., :-1, :] - expected[..., 1:, :], 0.0)  # (..., C + 1, J)
    log_expected = np.log((1 - ODD) * expected + ODD / (len(CUTS) + 1))
    return np.asarray((counted[..., :-1] - counted[..., 1:]) @ log_expected)


def rates(odds: Array, at: Shifts, cut: Places) -> Array:
    """The rate (..., L, J) above the canary's bounds `cut` (..., L), by factor.

    `odds` (..., L, K_s - 1) are `tail_odds` of stable's cells as the question's lenses remember them.
    """
    return np.asarray(expit(_shifted(odds, at, cut[..., None]))[..., 0, :])


def _cuts(odds: Array, at: Shifts) -> Places:
    """Which of the canary's bounds cut stable's distribution into about a dozen parts (..., C)."""
    unshifted = (*np.shape(odds)[:-1], len(at.low))
    low, part = np.broadcast_to(at.low[:, 0], unshifted), at.part[:, 0]
    under = picked(odds, low)
    own = under + part * (picked(odds, np.minimum(low + 1, odds.shape[-1] - 1)) - under)
    passed = np.count_nonzero(own[..., None, at.first :] > CUT_ODDS[:, None], axis=-1) + at.first
    return np.asarray(np.minimum(passed, len(at.low) - 1))


def _shifted(odds: Array, at: Shifts, cuts: Places) -> Array:
    """Stable's log-odds (..., C, J) of lying above the canary's bounds `cuts` (..., C) over each factor."""
    low, part = at.low[cuts], at.part[cuts]
    under = picked(odds, low)
    return np.asarray(under + part * (picked(odds, np.minimum(low + 1, odds.shape[-1] - 1)) - under))
