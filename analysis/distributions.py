"""Prediction drift with a tolerance: has the distribution of predictions moved by more than that?

A new model never predicts exactly as the old one, so equality is not asked for. Total variation is
the largest difference in probability that any set of predictions can show; to prove that it is above
a tolerance, one set suffices. Which set is learned from the past alone.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln

from analysis.proportions import Array, Mask, Question

WITNESS, HALF = 0.5, 0.25  # mass on the learned set, and on either half of stable's distribution

# Of stable's predictions in one bucket, from which on little is told apart: if all the others moved, that
# would be a shift of 0.05, which is what a check tolerates by default.
NEARLY_ALL = 0.95


def in_one(cells: Sequence[float] | Array) -> float:
    """The part of these predictions that the fullest bucket holds; 0 of none."""
    return max(cells, default=0) / max(sum(cells), 1)


def drift_question(recent: Array, canary: Array, *, tolerance: float, ready: Mask) -> Question:
    """Is any of three sets of predictions more frequent at the canary by more than `tolerance`?

    The sets: cells where the canary was more frequent so far (the witness), the upper and the lower
    half of stable's. `recent` and `canary` (..., K) hold both arms' cells from before the tick.
    """
    upper = _upper(recent, 0.5)
    sets = np.stack([_witness(recent, canary, upper), upper, ~upper], axis=-1)
    return _question(recent, sets, tolerance, ready)


def likeness_question(recent: Array, canary: Array, *, tolerance: float, ready: Mask) -> Question:
    """The same for a Pass, which needs an answer for every set: also the tails and the middle."""
    upper = _upper(recent, 0.5)
    tails = _upper(recent, 0.25) | ~_upper(recent, 0.75)
    sets = np.stack([_witness(recent, canary, upper), upper, ~upper, tails, ~tails], axis=-1)
    return _question(recent, sets, tolerance, ready)


def distance(stable: Array, canary: Array, *, temper: float = 1.0) -> float | None:
    """The total variation distance, cleared of what chance alone would show; for people.

    Chance adds to a shift as one side of a right angle to the other: subtracted, it hid two thirds of a shift
    of 0.15 in a thousand requests over 200 cells, and as squares it hides a twentieth.
    """
    n_s, n_c = stable.sum(), canary.sum()
    if n_s <= 0 or n_c <= 0:
        return None
    p = (stable + canary) / (n_s + n_c)
    chance = 0.5 * np.sqrt(2 / np.pi * temper * p * (1 - p) * (1 / n_s + 1 / n_c)).sum()
    return float(np.sqrt(max(0.0, _apart(stable, canary) ** 2 - chance**2)))


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


def _question(recent: Array, sets: Mask, tolerance: float, ready: Mask) -> Question:
    """One bucket for everything tells nothing apart: then it cannot be asked."""
    marked = sets.astype(float)
    shares = recent / np.maximum(recent.sum(axis=-1, keepdims=True), 1e-9)
    q = np.clip((shares[..., None, :] @ marked)[..., 0, :], 1e-4, 1 - 1e-4)
    able = ready & (recent.shape[-1] > 1)
    return Question(marked, marked, q, np.ones(1), np.full(1, tolerance), q, able)


def _upper(cells: Array, share: float) -> Mask:
    """The upper cells (..., K) that hold as nearly as possible this share of the mass."""
    above = np.cumsum(cells[..., ::-1], axis=-1)[..., ::-1]
    least = np.abs(above - share * cells.sum(axis=-1, keepdims=True)).argmin(axis=-1)
    mask: Mask = np.arange(cells.shape[-1]) >= least[..., None]
    return mask


def _witness(recent: Array, canary: Array, otherwise: Mask) -> Mask:
    """Cells more frequent at the canary than at stable; before there is a canary, `otherwise`."""
    seen, known = canary.sum(axis=-1, keepdims=True), recent.sum(axis=-1, keepdims=True)
    return np.asarray(np.where(seen < 1, otherwise, canary * known > recent * seen))


def _apart(stable: Array, canary: Array) -> float:
    return float(0.5 * np.abs(stable / stable.sum() - canary / canary.sum()).sum())


def _radius(cells: Array, line: float) -> float:
    n, k = float(cells.sum()), len(cells)
    mixture = gammaln(k / 2) - k * gammaln(0.5) + gammaln(cells + 0.5).sum() - gammaln(n + k / 2)
    likelihood = (cells * np.log(np.maximum(cells, 1) / n)).sum()
    return float(np.sqrt(max(0.0, line + likelihood - mixture) / (2 * n)))
