"""What a dashboard would read from a window of cells: one number an arm, and no word on how sure it is.

Nothing here decides for Serin; it is what the rules of others compare with a threshold (`peers`).

Symbols: K buckets, P points of a series. Leading axes (...) are canaries side by side. A reading that
there is none of is NaN.
"""

import numpy as np
from scipy.special import ndtri

from analysis.proportions import Array, Integers

DECILES = 10
# A share of zero would make the index infinite; implementations put something like this in its place.
LEAST_SHARE = 1e-4


def histogram_quantile(cells: Array, le: tuple[float, ...], level: float) -> Array:
    """The quantile (...) of cells (..., K), linearly interpolated in its bucket; NaN without requests.

    Above the last bound it reads that bound, however slow the requests are.

    Reference: Prometheus 3, "Query functions", `histogram_quantile` of a classic histogram: the lowest
    bucket begins at 0 if its bound is above 0 and reads its bound otherwise, the highest reads the bound
    of the second highest, fewer than two buckets read NaN.
    """
    if not le:
        return np.full(cells.shape[:-1], np.nan)
    upper = np.append(le, le[-1])
    lower = np.concatenate([[min(le[0], 0.0)], le])
    if le[0] <= 0:
        lower[0] = le[0]
    below = np.cumsum(cells, axis=-1)
    rank = level * _known(below[..., -1:])
    place = np.minimum((below < rank).sum(axis=-1, keepdims=True), len(le))
    inside = np.take_along_axis(cells, place, axis=-1)
    before = np.take_along_axis(below, place, axis=-1) - inside
    part = (rank - before) / np.maximum(inside, 1e-300)
    read: Array = (lower[place] + part * (upper[place] - lower[place]))[..., 0]
    return read


def share(cells: Array) -> Array:
    """The share (...) of the second, of cells (..., 2) without and with an error or hit; NaN without any."""
    rate: Array = cells[..., 1] / _known(cells.sum(axis=-1))
    return rate


def mean(cells: Array, le: tuple[float, ...]) -> Array:
    """The mean (...) of cells (..., K), each taken at the middle of its bucket; NaN without requests."""
    if not le:
        return np.full(cells.shape[:-1], np.nan)
    edges = np.concatenate([[min(le[0], 0.0)], le, le[-1:]])
    total: Array = cells @ ((edges[1:] + edges[:-1]) / 2)
    return total / _known(cells.sum(axis=-1))


def stability_index(cells: Array) -> Array:
    """The population stability index (...) of the second arm against the first, of cells (..., 2, K).

    Sum of (c - s) log(c / s) over the first arm's deciles, as well as its buckets have them. NaN where an arm
    has no requests.

    Reference: Siddiqi (2006), "Credit Risk Scorecards": below 0.1 nothing, above 0.25 a lot; monitoring
    tools commonly alarm above 0.2.
    """
    stable = cells[..., 0, :]
    middle = (np.cumsum(stable, axis=-1) - stable / 2) / np.maximum(stable.sum(axis=-1, keepdims=True), 1.0)
    decile = np.minimum((DECILES * middle).astype(np.int64), DECILES - 1)
    joined = cells @ (decile[..., None] == np.arange(DECILES)).astype(float)
    shares = joined / _known(cells.sum(axis=-1, keepdims=True))
    of_stable, of_canary = np.moveaxis(np.maximum(shares, LEAST_SHARE), -2, 0)
    index: Array = ((of_canary - of_stable) * np.log(of_canary / of_stable)).sum(axis=-1)
    return index


def shift_interval(one: Array, other: Array, *, confidence: float) -> tuple[Array, Array]:
    """How far `one` lies above `other`: lower confidence limit (...) and Hodges-Lehmann's estimate (...).

    Both (..., P) with NaN where there is no point. NaN with fewer than two pairs. The interval is that of
    the normal approximation with corrections for ties and continuity, whatever the number of points; with
    very few its limit is the least of all differences. The upper limit is minus the lower one of
    `shift_interval(other, one)`.

    Reference: Hodges, Lehmann (1963); R's `wilcox.test` with `exact = FALSE`, which Kayenta ports. There a
    root of z(shift) is searched; z falls at the differences of pairs only, so the root is one of them.
    """
    n_one, n_other = (~np.isnan(one)).sum(axis=-1), (~np.isnan(other)).sum(axis=-1)
    pairs = n_one * n_other
    differences = (one[..., :, None] - other[..., None, :]).reshape(
        *one.shape[:-1], one.shape[-1] * other.shape[-1]
    )
    differences.sort(axis=-1)  # NaN comes last
    rank = lower_rank(one, other, confidence=confidence)
    limit = _at(differences, rank - 1)
    estimate = (_at(differences, (pairs - 1) // 2) + _at(differences, pairs // 2)) / 2
    return np.where(pairs > 1, limit, np.nan), np.where(pairs > 1, estimate, np.nan)


def lower_rank(one: Array, other: Array, *, confidence: float) -> Integers:
    """Which of the sorted differences (...) of pairs is the lower confidence limit, from 1."""
    n_one, n_other = (~np.isnan(one)).sum(axis=-1), (~np.isnan(other)).sum(axis=-1)
    n, pairs = np.maximum(n_one + n_other, 2), n_one * n_other
    untied = pairs / 12 * (n + 1)
    variance = untied - pairs / 12 * (_ties(one) + _ties(other)) / (n * (n - 1))
    # Where all points of each arm are one value, Kayenta adds noise: then no two are tied.
    variance = np.where(variance > 1e-9 * untied, variance, untied)
    deviate = ndtri((1 + confidence) / 2)
    rank = np.ceil(pairs / 2 - 0.5 - deviate * np.sqrt(variance))
    ranks: Integers = np.clip(rank, 1, np.maximum(pairs, 1)).astype(np.int64)
    return ranks


def _ties(points: Array) -> Array:
    """Sum of t^3 - t (...) over groups of t equal points of (..., P)."""
    alike = (points[..., :, None] == points[..., None, :]).sum(axis=-1)
    ties: Array = (alike**2 - 1.0).sum(axis=-1, where=alike > 0)
    return ties


def _known(n: Array) -> Array:
    """NaN in place of no requests."""
    return np.where(n > 0, n, np.nan)


def _at(values: Array, place: Integers) -> Array:
    last = values.shape[-1] - 1
    return np.take_along_axis(values, np.clip(place, 0, last)[..., None], axis=-1)[..., 0]
