"""Prediction drift with a tolerance: has the distribution of predictions moved by more than that?

A new model never predicts exactly as the old one, so equality is not asked for. Total variation is
the largest difference in probability that any set of predictions can show; to prove that it is above
a tolerance, one set suffices. Which set is learned from the past alone.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from analysis.proportions import Array, Question

Mask = NDArray[np.bool_]

WITNESS, HALF = 0.5, 0.25  # mass on the learned set, and on either half of stable's distribution


def drift_question(recent: Array, canary: Array, *, tolerance: float) -> Question | None:
    """Is any of three sets of predictions more frequent at the canary by more than `tolerance`?

    The sets: cells where the canary was more frequent so far (the witness), the upper and the lower
    half of stable's. `recent` and `canary` (K,) hold both arms' cells from before the tick.
    """
    if recent.sum() <= 0 or len(recent) < 2:  # one bucket for everything tells nothing apart
        return None
    upper = _upper(recent, 0.5)
    sets = np.stack([_witness(recent, canary, upper), upper, ~upper], axis=1)
    return _question(recent, sets, np.array([WITNESS, HALF, HALF]), tolerance)


def likeness_question(recent: Array, canary: Array, *, tolerance: float) -> Question | None:
    """The same for a Pass, which needs an answer for every set: also the tails and the middle."""
    if recent.sum() <= 0 or len(recent) < 2:  # one bucket for everything tells nothing apart
        return None
    upper = _upper(recent, 0.5)
    tails = _upper(recent, 0.25) | ~_upper(recent, 0.75)
    sets = np.stack([_witness(recent, canary, upper), upper, ~upper, tails, ~tails], axis=1)
    return _question(recent, sets, np.full(5, 0.2), tolerance)


def distance(stable: Array, canary: Array) -> float | None:
    """The total variation distance, less what chance alone would show; for people."""
    n_s, n_c = stable.sum(), canary.sum()
    if n_s <= 0 or n_c <= 0:
        return None
    p = (stable + canary) / (n_s + n_c)
    chance = 0.5 * np.sqrt(2 / np.pi * p * (1 - p) * (1 / n_s + 1 / n_c)).sum()
    return float(max(0.0, _apart(stable, canary) - chance))


def distance_interval(
    stable: Array, canary: Array, *, error: float, temper: float = 1.0
) -> tuple[float, float]:
    """Total variation distances the two arms' cells do not contradict, at any time one looks.

    Guarantee: contains the distance at all times at once with probability 1 - `error`, for
    distributions that do not change within the step. Wide: it holds for all 2^K sets of cells.

    Reference: the Dirichlet(1/2) mixture martingale of Krichevsky and Trofimov (1981) bounds
    n KL(counted, true); Pinsker's inequality turns that into total variation.
    """
    if stable.sum() <= 0 or canary.sum() <= 0:
        return 0.0, 1.0
    seen = _apart(stable, canary)
    slack = sum(_radius(cells, float(np.log(2 / error)) * temper) for cells in (stable, canary))
    return max(0.0, seen - slack), min(1.0, seen + slack)


def _question(recent: Array, sets: Mask, weight: Array, tolerance: float) -> Question:
    marked = sets.astype(float)
    lenses = marked.shape[1]
    q = np.clip(_rates(recent, sets), 1e-4, 1 - 1e-4)
    return Question(marked, marked, q, np.ones(lenses), np.full(lenses, tolerance), q, weight)


def _rates(recent: Array, sets: Mask) -> Array:
    rates: Array = recent @ sets / recent.sum()
    return rates


def _upper(cells: Array, share: float) -> Mask:
    """The upper cells that hold as nearly as possible this share of the mass, as a mask."""
    above = np.cumsum(cells[::-1])[::-1] / cells.sum()
    mask: Mask = np.arange(len(cells)) >= int(np.argmin(np.abs(above - share)))
    return mask


def _witness(recent: Array, canary: Array, otherwise: Mask) -> Mask:
    """Cells more frequent at the canary than at stable; before there is a canary, `otherwise`."""
    if canary.sum() < 1:
        return otherwise
    mask: Mask = canary / canary.sum() > recent / recent.sum()
    return mask


def _apart(stable: Array, canary: Array) -> float:
    return float(0.5 * np.abs(stable / stable.sum() - canary / canary.sum()).sum())


def _radius(cells: Array, line: float) -> float:
    n, k = float(cells.sum()), len(cells)
    mixture = gammaln(k / 2) - k * gammaln(0.5) + gammaln(cells + 0.5).sum() - gammaln(n + k / 2)
    likelihood = (cells * np.log(np.maximum(cells, 1) / n)).sum()
    return float(np.sqrt(max(0.0, line + likelihood - mixture) / (2 * n)))
