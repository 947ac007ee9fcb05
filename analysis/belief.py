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

Symbols: N groups of canary nodes, J factors, K buckets, L lenses.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from analysis.packing import rounded
from analysis.proportions import Array, Question
from analysis.quantiles import tails

FACTORS = np.log([1.0, 0.8, 1.2, 1.5, 2.0, 3.0, 5.0])  # the first is "like stable"
PRIOR = np.array([26, 1, 1, 1, 1, 1, 1]) / 32  # in 32 bits as exact as in 64
CHANGES = 0.2  # a second: forgetting within seconds is what lets faults that begin late be seen at once
# Stable's rates above the bounds that are looked at.
CUTS = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02])
ODD = 0.03  # of requests follow no factor's distribution, so that a single one cannot decide
ENOUGH = 50.0  # of stable's requests before its distribution is compared with


def blank(groups: int) -> Array:
    """Beliefs (N, J) before anything was seen."""
    return np.tile(PRIOR, (groups, 1))


def revised(
    belief: Array,
    stable: Array,
    canary: Array,
    le: tuple[float, ...],
    canary_le: tuple[float, ...],
    *,
    phi: float,
    seconds: float,
) -> Array:
    """Each group's belief (N, J), so many seconds after the last, by its own requests `canary` (N, K).

    `stable` (K_s,) are stable's recent cells, this tick's among them.
    """
    cuts = _cuts(stable, le, canary_le)
    if stable.sum() < ENOUGH or not len(cuts):
        return forgotten(belief, seconds)
    above = _rates_above(stable, le, np.asarray(canary_le)[cuts] / np.exp(FACTORS)[:, None])
    ends = np.ones((len(FACTORS), 1))
    expected = np.maximum(-np.diff(np.concatenate([ends, above, 0 * ends], axis=1), axis=1), 0.0)
    counted = np.add.reduceat(canary, np.concatenate([[0], cuts + 1]), axis=1)
    log_likelihood = counted @ np.log((1 - ODD) * expected + ODD / expected.shape[1]).T / phi
    likely = belief * np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    return forgotten(likely / likely.sum(axis=1, keepdims=True), seconds)


def forgotten(belief: Array, seconds: float) -> Array:
    """Beliefs (N, J) when nothing more was seen for so long: the canary may have changed since."""
    change = -np.expm1(-CHANGES * seconds)
    return rounded((1 - change) * belief + change * PRIOR)


def expected_rates(
    belief: Array, recent: Array, le: tuple[float, ...], canary_le: tuple[float, ...], asked: Question
) -> Array:
    """The rate (N, L) at which each group's next requests are expected above the canary's bound.

    `recent` (L, K_s) holds stable's cells as the question's lenses remember them.
    """
    bounds = np.asarray(canary_le)[asked.canary.argmax(axis=0) - 1]
    rates = [
        _rates_above(cells, le, bound / np.exp(FACTORS)) for cells, bound in zip(recent, bounds, strict=True)
    ]
    expected: Array = _held(belief) @ np.stack(rates, axis=1)
    return expected


def _held(belief: Array) -> Array:
    """Beliefs (N, J) in which a group's own evidence counts no more than what the others say."""
    if len(belief) == 1:
        return belief
    odds = np.log(belief / PRIOR)
    odds = odds - odds[:, :1]  # against "like stable"
    others = odds.sum(axis=0) - odds
    total = others + np.minimum(odds, np.maximum(others, 0.0))
    held = PRIOR * np.exp(total - total.max(axis=1, keepdims=True))
    return np.asarray(held / held.sum(axis=1, keepdims=True))


def _cuts(stable: Array, le: tuple[float, ...], canary_le: tuple[float, ...]) -> NDArray[np.intp]:
    """Which of the canary's bounds cut stable's distribution into about a dozen parts."""
    positive = np.flatnonzero(np.asarray(canary_le) > 0)
    if not len(positive) or not any(bound > 0 for bound in le):
        return positive[:0]
    above = _rates_above(stable, le, np.asarray(canary_le)[positive])
    cuts: NDArray[np.intp] = positive[np.unique(np.searchsorted(-above, -CUTS).clip(0, len(positive) - 1))]
    return cuts


def _rates_above(cells: Array, le: tuple[float, ...], bounds: Array) -> Array:
    """Stable's rate above each bound, between its own by log-linear interpolation of the odds."""
    own = np.asarray(le)
    usable = own > 0
    odds = logit((tails(cells)[usable] + 0.25) / (cells.sum() + 0.5))
    rates: Array = expit(np.interp(np.log(bounds), np.log(own[usable]), odds))
    return rates
