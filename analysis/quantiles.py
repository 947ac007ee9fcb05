"""Latency quantiles from histograms: which statement the buckets can carry, and how sure it is.

Nothing is interpolated where something is decided. A latency check counts canary requests slower
than a bucket bound at or above `margin x theta`, and stable requests slower than the bound `theta`
near stable's quantile; so the margin is never narrower than promised, only wider where buckets are.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincc, betaln, logit

from analysis.proportions import EDGE, Array, Question

# A level this far from the wanted one still speaks of "the tail": 2 % to 11 % for p95.
LEVEL_SLACK = 0.9  # log-odds
COLLAPSED = 0.75  # share of stable's tail that must not survive the margin
COLLAPSED_RHO = float(np.exp(0.5))


# Bounds this close are one: exporters print them with six digits or so.
ROUNDED = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two bounds to compare: index in stable's buckets, index in the canary's, stable's rate above."""

    stable: int
    canary: int
    rate: float


def tails(cells: Array) -> Array:
    """How many observations lie above each bound."""
    above: Array = np.cumsum(cells[::-1])[::-1][1:]
    return above


def pair(
    cells: Array, le: tuple[float, ...], canary_le: tuple[float, ...], *, level: float, margin: float
) -> Pair | None:
    """The bounds to compare for this tail level (0.05 for p95), or None where no two can be.

    Stable's bound is the one whose tail is nearest to the level; if none is near, the first below it
    (the "certain" pair: its quantile is surely not under the wanted one). The canary's is its first
    bound at or above margin times that. Where the buckets end too early, the last ones they have.
    """
    n = cells.sum()
    if not le or not canary_le or n <= 0:
        return None
    rates = (tails(cells) + 0.5 * level) / (n + 0.5)
    reachable = int(np.searchsorted(np.asarray(le), canary_le[-1] / margin * (1 + ROUNDED), side="right"))
    if reachable == 0:
        return None
    bounds, off = (
        np.asarray(le[:reachable]),
        np.abs(logit(np.clip(rates[:reachable], EDGE, 1 - EDGE)) - logit(level)),
    )
    usable = bounds > 0
    if not usable.any():
        return None
    near = int(np.argmin(np.where(usable, off, np.inf)))
    if off[near] > LEVEL_SLACK:
        below = np.flatnonzero(usable & (rates[:reachable] <= level))
        near = int(below[0]) if len(below) else int(np.flatnonzero(usable)[-1])
    other = int(np.searchsorted(np.asarray(canary_le), bounds[near] * margin * (1 - ROUNDED), side="left"))
    return Pair(stable=near, canary=other, rate=float(np.clip(rates[near], EDGE, 1 - EDGE)))


def latency_question(
    recent: Array, le: tuple[float, ...], canary_le: tuple[float, ...], *, level: float, margin: float
) -> Question | None:
    """Is more of the canary above margin x theta than of stable above theta?

    `recent` (L, K) holds stable's cells under L memories of different length: a fresh one follows
    when everything moves, a long one is more exact. None until stable was seen.

    Where stable itself hardly has anything between theta and the margin (latencies in steps, a
    timeout), the margin would be none at all; there the canary may have e^0.5 times stable's tail.
    """
    pairs = [pair(cells, le, canary_le, level=level, margin=margin) for cells in recent]
    found = [one for one in pairs if one is not None]
    if len(found) < len(pairs):
        return None
    return Question(
        stable=_above([one.stable for one in found], len(le) + 1),
        canary=_above([one.canary for one in found], len(canary_le) + 1),
        q=np.array([one.rate for one in found]),
        rho=np.array([_rho(cells, le, canary_le, one) for cells, one in zip(recent, found, strict=True)]),
        delta=np.zeros(len(found)),
        alike=np.array([_alike(cells, le, canary_le, one) for cells, one in zip(recent, found, strict=True)]),
        weight=np.full(len(found), 1 / len(found)),
    )


def resolution(le: tuple[float, ...], canary_le: tuple[float, ...], chosen: Pair) -> float:
    """The smallest ratio of quantiles that this pair of bounds proves, wherever stable's lies."""
    under = le[chosen.stable - 1] if chosen.stable else 0.0
    return canary_le[chosen.canary] / under if under > 0 else float("inf")


def quantile(cells: Array, le: tuple[float, ...], level: float) -> float | None:
    """The quantile by log-linear interpolation in its bucket: for people, never for a decision."""
    n = cells.sum()
    if n <= 0 or not le:
        return None
    above = tails(cells) / n
    place = int(np.searchsorted(-above, -level, side="left"))
    if place >= len(le):
        return None  # above the last bound
    before = above[place - 1] if place else 1.0
    under = le[place - 1] if place else le[0] / 2
    part = (before - level) / max(before - above[place], EDGE)
    if under <= 0 or le[place] <= 0:
        return float(under + part * (le[place] - under))
    return float(np.exp((1 - part) * np.log(under) + part * np.log(le[place])))


def ratio_interval(
    stable: Array,
    canary: Array,
    le: tuple[float, ...],
    canary_le: tuple[float, ...],
    *,
    level: float,
    error: float,
    temper: float = 1.0,
) -> tuple[float, float]:
    """Ratios of the two quantiles, canary over stable, that the step's histograms do not contradict.

    Guarantee: contains the true ratio at all times at once with probability 1 - `error`, for
    distributions that do not change within the step. Exact on buckets: no interpolation.

    Reference: Howard, Ramdas (2022), "Sequential estimation of quantiles", with Jeffreys' mixture;
    the two arms' evidence is multiplied over every place stable's quantile can have.
    """
    if stable.sum() <= 0 or canary.sum() <= 0 or not le or not canary_le:
        return 0.0, float("inf")
    line = np.log(2 / error) * temper
    low = _slower(stable, canary, np.asarray(le), np.asarray(canary_le), level=level, line=line)
    high = _slower(canary, stable, np.asarray(canary_le), np.asarray(le), level=level, line=line)
    return low, (1 / high if high > 0 else float("inf"))


def _slower(base: Array, slow: Array, base_le: Array, slow_le: Array, *, level: float, line: float) -> float:
    """The largest r for which "quantile of slow <= r x quantile of base" is contradicted, or 0.

    base's quantile lies in one of its buckets (b_i, b_i+1]. For each, either base itself speaks
    against it, or slow must be shown to exceed r b_i+1; the weakest bucket bounds r.
    """
    beyond = np.append(_excess(base, level, above=True), -np.inf)  # log e that the quantile is > b_i
    before = np.concatenate(([-np.inf], _excess(base, level, above=False)))  # that it is <= b_i-1
    needed = line - np.logaddexp(beyond, before) + np.log(2)  # for bucket i: quantile in (b_i-1, b_i]
    reach = np.maximum.accumulate(_excess(slow, level, above=True)[::-1])[::-1]
    open_to = needed > 0  # buckets base's quantile can still be in
    places = np.searchsorted(-reach, -needed[open_to], side="right") - 1  # the last bound slow surely exceeds
    if open_to[-1] or places.size == 0 or places.min() < 0:
        return 0.0
    return float((slow_le[places] / base_le[open_to[:-1]]).min())


def _excess(cells: Array, level: float, *, above: bool) -> Array:
    """Log e-value at each bound b that the share above b is more (or less) than `level`.

    Jeffreys' mixture cut off at the level, so that it only bets on one side, plus half the stake kept.
    """
    n = float(cells.sum())
    k = tails(cells)
    hits, p = (k, level) if above else (n - k, 1 - level)
    weight = betaincc(hits + 0.5, n - hits + 0.5, p) / betaincc(0.5, 0.5, p)
    mixture = (
        betaln(hits + 0.5, n - hits + 0.5) - betaln(0.5, 0.5) - hits * np.log(p) - (n - hits) * np.log1p(-p)
    )
    bet = mixture + np.log(np.maximum(weight, 1e-300))
    log_e: Array = np.logaddexp(0.0, np.where(hits > n * p, bet, -np.inf)) - np.log(2)
    return log_e


def _above(places: list[int], size: int) -> Array:
    """Masks (K, L) of the cells above each bound."""
    return (np.arange(size)[:, None] > np.asarray(places)[None, :]).astype(float)


def _alike(cells: Array, le: tuple[float, ...], canary_le: tuple[float, ...], chosen: Pair) -> float:
    """Stable's own rate above the canary's bound, a little smoothed."""
    far = int(np.searchsorted(np.asarray(le), canary_le[chosen.canary] * (1 - ROUNDED), side="left"))
    above = tails(cells)[far] if far < len(le) else 0.0
    return float((above + 0.5) / (cells.sum() + 1.0))


def _rho(cells: Array, le: tuple[float, ...], canary_le: tuple[float, ...], chosen: Pair) -> float:
    """1, or e^0.5 where the margin has collapsed."""
    far = int(np.searchsorted(np.asarray(le), canary_le[chosen.canary] * (1 - ROUNDED), side="left"))
    if far >= len(le):
        return 1.0
    above = tails(cells)
    return COLLAPSED_RHO if above[far] > COLLAPSED * above[chosen.stable] > 0 else 1.0


def slope(cells: Array, le: tuple[float, ...], *, level: float) -> float | None:
    """How fast the log-odds of the tail fall with log latency around the level; None if unknown."""
    n = cells.sum()
    if n <= 0:
        return None
    bounds = np.asarray(le)
    odds = logit(np.clip(tails(cells) / n, EDGE, 1 - EDGE))
    near = np.flatnonzero((np.abs(odds - logit(level)) < 1.5) & (bounds > 0))
    if len(near) < 2:
        return None
    fall = odds[near[0]] - odds[near[-1]]
    return float(fall / np.log(bounds[near[-1]] / bounds[near[0]])) if fall > 0 else None
