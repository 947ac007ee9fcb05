"""Latency quantiles from histograms: which statement the buckets can carry, and how sure it is.

Nothing is interpolated where something is decided. A latency check counts canary requests slower
than a bucket bound at or above `margin x theta`, and stable requests slower than the bound `theta`
near stable's quantile; so the margin is never narrower than promised, only wider where buckets are.

Symbols: K_s and K_c buckets of the two arms, L lenses. Leading axes (...) are canaries side by side.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import betaincc, betaln, logit

from analysis.proportions import EDGE, Above, Array, Mask, Places, Question, picked, tails

# A level this far from the wanted one still speaks of "the tail": 2 % to 11 % for p95.
LEVEL_SLACK = 0.9  # log-odds
COLLAPSED = 0.75  # share of stable's tail that must not survive the margin
COLLAPSED_RHO = float(np.exp(0.5))
ROUNDED = 1e-6  # bounds this close are one: exporters print them with six digits or so


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """Both arms' bucket bounds, as arrays.

    `far` (K_c - 1,): for each of the canary's, stable's first bound at or above it, K_s - 1 where none is.
    """

    stable: Array
    canary: Array
    far: Places


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """Two bounds to compare: index in stable's buckets, index in the canary's, stable's rate above (...).

    `found` (...): False where no two can be compared; the rest is then without meaning.
    """

    stable: Places
    canary: Places
    rate: Array
    found: Mask


@lru_cache(maxsize=256)  # as many spans of a grid may be met
def bounds(le: tuple[float, ...], canary_le: tuple[float, ...]) -> Bounds:
    """The two arms' bounds; both must have one at least."""
    stable, canary = np.asarray(le), np.asarray(canary_le)
    return Bounds(stable, canary, np.searchsorted(stable, canary * (1 - ROUNDED), side="left"))


def tail_odds(cells: Array, *, level: float) -> Array:
    """Log-odds (..., K - 1) of lying above each bound, smoothed by half an observation at the level."""
    up_to = np.cumsum(cells, axis=-1)
    n = up_to[..., -1:]
    odds: Array = logit(np.clip((n + 0.5 * level - up_to[..., :-1]) / (n + 0.5), EDGE, 1 - EDGE))
    return odds


def pair(odds: Array, of: Bounds, *, level: float, margin: Array | float) -> Pair:
    """The bounds to compare for this tail level (0.05 for p95), by stable's `tail_odds`.

    Stable's bound is the one whose tail is nearest to the level; if none is near, the first below it
    (the "certain" pair: its quantile is surely not under the wanted one). The canary's is its first
    bound at or above margin times that. Where the buckets end too early, the last ones they have.
    """
    margin = np.asarray(margin)
    usable = (of.stable > 0) & (of.stable <= (of.canary[-1] / margin * (1 + ROUNDED))[..., None])
    wanted = logit(level)
    off = np.where(usable, np.abs(odds - wanted), np.inf)
    near = off.argmin(axis=-1)
    found = usable.any(axis=-1) & np.ones(near.shape, dtype=bool)
    coarse = picked(off, near) > LEVEL_SLACK
    if coarse.any():
        below = usable & (odds <= wanted)
        last = off.shape[-1] - 1 - np.broadcast_to(usable, off.shape)[..., ::-1].argmax(axis=-1)
        near = np.where(coarse, np.where(below.any(axis=-1), below.argmax(axis=-1), last), near)
    other = np.searchsorted(of.canary, of.stable[near] * margin * (1 - ROUNDED), side="left")
    rate = 1 / (1 + np.exp(-picked(odds, near)))
    return Pair(stable=near, canary=np.minimum(other, len(of.canary) - 1), rate=rate, found=found)


def latency_question(
    recent: Array, odds: Array, of: Bounds, *, level: float, margin: Array, ready: Mask
) -> Question:
    """Is more of the canary above margin x theta than of stable above theta?

    `recent` (..., L, K_s) holds stable's cells under L memories of different length, `odds` (..., L, K_s - 1)
    their `tail_odds`: a fresh memory follows when everything moves, a long one is more exact. `margin` and
    `ready` (...).

    Where stable itself hardly has anything between theta and the margin (latencies in steps, a
    timeout), the margin would be none at all; there the canary may have e^0.5 times stable's tail.
    """
    chosen = pair(odds, of, level=level, margin=np.asarray(margin)[..., None])
    far, above, n = of.far[chosen.canary], tails(recent), recent.sum(axis=-1)
    beyond = np.where(far < len(of.stable), picked(above, np.minimum(far, len(of.stable) - 1)), 0.0)
    collapsed = (beyond > COLLAPSED * picked(above, chosen.stable)) & (beyond > 0)
    return Question(
        stable=Above(chosen.stable),
        canary=Above(chosen.canary),
        q=chosen.rate,
        rho=np.where(collapsed, COLLAPSED_RHO, 1.0),
        delta=np.zeros(1),
        alike=(beyond + 0.5) / (n + 1.0),
        ready=ready & chosen.found.all(axis=-1),
    )


def resolution(of: Bounds, chosen: Pair) -> float:
    """The smallest ratio of quantiles that this pair of bounds proves, wherever stable's lies."""
    under = of.stable[chosen.stable - 1] if chosen.stable else 0.0
    return float(of.canary[chosen.canary] / under) if under > 0 else float("inf")


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


def slope(odds: Array, of: Bounds, *, level: float) -> Array:
    """How fast the log-odds of the tail fall with log latency around the level; NaN where unknown (...)."""
    near = (np.abs(odds - logit(level)) < 1.5) & (of.stable > 0)
    first, last = near.argmax(axis=-1), near.shape[-1] - 1 - near[..., ::-1].argmax(axis=-1)
    fall = picked(odds, first) - picked(odds, last)
    known = near.any(axis=-1) & (first < last) & (fall > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(known, fall / np.log(of.stable[last] / of.stable[first]), np.nan))
