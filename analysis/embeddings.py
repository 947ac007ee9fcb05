"""Has what a model sees, or makes of it, moved? Two-sample tests on vectors (embeddings, logits, features).

A judge that the past has taught is asked of each new vector which arm it comes from. If both arms draw
from one distribution, nobody can know better than the arms' shares; whoever does earns evidence. Two
judges: a classifier that knows of means alone, and a kernel's witness, which sees differences of any
shape and takes some twenty times as long to compute.

Symbols: D dimensions, B_s and B_c vectors of the arms in a tick, F features, K bets. Leading axes (...) are
canaries, judged side by side. Vectors may be in any unit.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import expit, logit

from analysis.bursts import within
from analysis.means import BETS, Bets, log_gains, moments
from analysis.proportions import Array, log_sum

# What is believed of the difference: every dimension moved, the same with half the weight (dimensions that
# depend on each other tell the same twice), or a few moved. Half of what is found is believed at most:
# with all of it .1 sd in 64 dimensions takes a tenth longer, and in dependent ones it may not be found.
TEMPER = np.array([0.5, 0.25, 0.5])
SHARES = np.array([0.4, 0.2, 0.4])
FEW, MOVED = 1 / 16, 1.0  # this share of the dimensions, by about this (sd)
PRIOR = 4.0  # vectors' worth of both arms' common variance, while there are few of them
SURE = 4.0  # log-odds a vector is believed at most: more wins little, but one outlier could lose it all
FREQUENCIES = 128  # of the kernel: with 64 it needs a fifth more vectors, with 256 as many
LARGEST = 1e100  # so that squares and their sums stay finite
REACH = 2.0  # sd of the witness's values beyond which they are cut off; 1 to 3 are as good


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """How many vectors of stable and the canary there were, `n` (..., 2), their `mean` (..., 2, D or F)."""

    n: Array
    mean: Array

    def after(self, arms: tuple[Array, Array], keep: float) -> "Seen":
        """With the tick's vectors of stable and of the canary, of which either may be none."""
        count = np.array([each.shape[-2] for each in arms])
        away = [(each - self.mean[..., [place], :]).sum(axis=-2) for place, each in enumerate(arms)]
        n = keep * self.n + count
        return Seen(n, self.mean + np.stack(away, axis=-2) / np.maximum(n, 1e-9)[..., None])


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """Running evidence of the classifier: `log_capital` (..., 3) of its beliefs and what they rest on.

    `scatter` (..., D) is the sum of squared distances from the own arm's mean.
    """

    log_capital: Array
    seen: Seen
    scatter: Array

    @property
    def log_e(self) -> Array:
        """Log of the e-value (...)."""
        return log_sum(self.log_capital, SHARES)


@dataclass(frozen=True, slots=True, eq=False)
class Witness:
    """Running evidence of the kernel's witness: its `bets` and what they rest on.

    `seen` is of features; `width` (...) is the kernel's, 0 before there is one; of the witness's values so
    far, from their middle, `valued` (...) is the number and `squares` (...) the sum of squares.
    """

    bets: Bets
    seen: Seen
    width: Array
    valued: Array
    squares: Array


def classifier(dimensions: int, *, several: tuple[int, ...] = ()) -> Classifier:
    """One that knows nothing, for vectors of so many dimensions; `several`: for as many canaries."""
    seen = Seen(np.zeros((*several, 2)), np.zeros((*several, 2, dimensions)))
    return Classifier(np.zeros((*several, len(TEMPER))), seen, np.zeros((*several, dimensions)))


def witness(*, several: tuple[int, ...] = ()) -> Witness:
    """One that knows nothing; `several`: for as many canaries."""
    seen = Seen(np.zeros((*several, 2)), np.zeros((*several, 2, 2 * FREQUENCIES)))
    bets = Bets(np.zeros((*several, 2 * len(BETS))))
    return Witness(bets, seen, *(np.zeros(several) for _ in range(3)))


def classified(before: Classifier, stable: Array, canary: Array, *, keep: float = 1.0) -> Classifier:
    """With one tick of vectors, stable's (..., B_s, D) and the canary's (..., B_c, D); either may be none.

    They are bet on first and learned from after. `keep` is the share of the memory that stays.

    Guarantee: exp(log_e) reaches 1/a with probability at most a (Ville), if a tick's vectors are
    independent given the past and the arms' distributions in it are the same: which one may change from
    tick to tick (and need not be one: each arm's vectors' average distribution is what counts).

    With w the canary's share of the tick's N vectors and pi(z) the belief, e is the product of pi / w over
    the canary's and (1 - pi) / (1 - w) over stable's, and its expectation that of their N expectations.
    Where both arms' average distribution is P, these add up to N E_P[w pi / w + (1 - w) (1 - pi) / (1 - w)],
    which is N, so that their product is at most 1. This holds for any pi that was decided before the
    vectors were seen; it may use how many of each arm there are.

    Reference: Pandeva, Bakker, Naesseth, Forré (2024), "E-valuating classifier two-sample tests"; for
    several vectors at once Turner, Ly, Grünwald (2024), theorem 1.
    """
    arms = _sound(stable, "stable"), _sound(canary, "canary")
    n_s, n_c = (each.shape[-2] for each in arms)
    won: Array = before.log_capital
    if n_s and n_c:
        w = n_c / (n_c + n_s)
        of_s, of_c = (_belief(before, each) for each in arms)
        won = (
            won
            - np.log(1 - w + w * np.exp(of_s)).sum(axis=-2)
            - np.log(w + (1 - w) * np.exp(-of_c)).sum(axis=-2)
        )
    seen = before.seen.after(arms, keep)
    scatter = keep * before.scatter
    for place, each in enumerate(arms):
        own = each.sum(axis=-2, keepdims=True) / max(each.shape[-2], 1)
        joint = keep * before.seen.n[..., place] * each.shape[-2] / np.maximum(seen.n[..., place], 1e-9)
        moved = (own[..., 0, :] - before.seen.mean[..., place, :]) ** 2
        scatter = scatter + ((each - own) ** 2).sum(axis=-2) + joint[..., None] * moved
    return Classifier(within(won), seen, scatter)


def witnessed(before: Witness, stable: Array, canary: Array, *, seed: int, keep: float = 1.0) -> Witness:
    """With one tick of vectors, as `classified`; `seed` chooses the kernel's frequencies: always the same.

    The witness is the direction from stable's to the canary's mean feature so far. Its values are cut off
    at `REACH` of their usual size and their means compared, as those of any bounded value. Dimensions
    should be of one unit; the kernel's width is the median distance of the first vectors.

    Guarantee: as `classified`, from `means.log_gains`: of one distribution every function has one mean.

    Reference: Shekhar, Ramdas (2024), "Nonparametric two-sample testing by betting"; features: Rahimi, Recht
    (2007). Their bets on the uncut witness needed 740 vectors of each arm where these need about 30.
    """
    arms = _sound(stable, "stable"), _sound(canary, "canary")
    width = before.width if (before.width > 0).all() else _width(before.width, arms)
    known = width > 0
    of_s, of_c = (_features(each, np.where(known, width, 1.0), seed) for each in arms)
    apart = before.seen.mean[..., 1, :] - before.seen.mean[..., 0, :]
    apart = apart / np.maximum(np.sqrt((apart**2).sum(axis=-1, keepdims=True)), 1e-12)
    middle = before.seen.mean.mean(axis=-2, keepdims=True)
    values = [((each - middle) @ apart[..., None])[..., 0] for each in (of_s, of_c)]
    taught = (before.seen.n > 0).all(axis=-1)
    usual = np.sqrt(before.squares / np.maximum(before.valued, 1.0))
    reach = np.where(usual > 0, REACH * usual, 1.0)[..., None]
    cut = (moments(np.clip(each / reach, -1, 1), low=-1, high=1) for each in values)
    won = log_gains(*cut, guess=np.where(taught & (usual > 0), 0.5, np.nan), rho=1.0, offset=0.0)
    seen = before.seen.after((of_s, of_c), keep)
    both = np.concatenate(values, axis=-1)
    return Witness(
        Bets(within(before.bets.log_capital + won)),
        Seen(seen.n * known[..., None], seen.mean * known[..., None, None]),
        width,
        keep * before.valued + taught * both.shape[-1],
        keep * before.squares + taught * (both**2).sum(axis=-1),
    )


def _belief(of: Classifier, vectors: Array) -> Array:
    """Log-odds (..., B, 3) of a vector against its arm's share: how much more it looks like the canary's.

    Linear discriminants with the variances of each dimension alone: of two normal distributions that lie
    `moved` apart, half-way between them it is 0.
    """
    n_s, n_c = of.seen.n[..., 0, None], of.seen.n[..., 1, None]
    n, both = np.maximum(n_s + n_c, 1.0), (n_s > 0) & (n_c > 0)
    stable, canary = of.seen.mean[..., 0, :], of.seen.mean[..., 1, :]
    weight = n_s * n_c / n  # 1 / weight is the variance of `apart`, in variances of one vector
    apart = np.where(both, canary - stable, 0.0)
    whole = (of.scatter + weight * apart**2) / np.maximum(n - 1, 1)
    variance = (of.scatter + PRIOR * whole) / (np.maximum(n - 2, 0) + PRIOR)
    variance = np.where(variance > 0, variance, 1.0)
    moved = _shrunk(apart, weight * apart**2 / variance, weight)
    slope = TEMPER[:, None] * moved / variance[..., None, :]
    offset = (slope * moved).sum(axis=-1) * (n_s - n_c) / n / 2
    away = vectors - ((n_s * stable + n_c * canary) / n)[..., None, :]  # from the mean of all
    odds = away @ np.swapaxes(slope, -1, -2) - offset[..., None, :]
    return np.asarray(np.clip(odds, -SURE, SURE))


def _shrunk(apart: Array, signal: Array, weight: Array) -> Array:
    """What to believe (..., 3, D) of the means' difference `apart` (..., D); `signal`: in squared errors.

    All dimensions alike: James and Stein's (1961) share of it. A few: each dimension's share times the odds
    that it is one of those that moved.
    """
    free = max(apart.shape[-1] - 2, 1)
    alike = np.maximum(0.0, 1 - free / np.maximum(signal.sum(axis=-1, keepdims=True), 1e-12))
    share = weight * MOVED**2 / (1 + weight * MOVED**2)
    few = share * expit(logit(FEW) + (np.log1p(-share) + signal * share) / 2)
    return np.stack([alike * apart, alike * apart, few * apart], axis=-2)


def _features(vectors: Array, width: Array, seed: int) -> Array:
    """Random Fourier features (..., B, F) of length 1: their inner products are about a Gaussian kernel."""
    phase = vectors @ _frequencies(vectors.shape[-1], seed) / width[..., None, None]
    waves: Array = np.concatenate([np.cos(phase), np.sin(phase)], axis=-1)
    return np.asarray(waves / np.sqrt(FREQUENCIES))


@lru_cache(maxsize=8)
def _frequencies(dimensions: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((dimensions, FREQUENCIES))


def _width(known: Array, arms: tuple[Array, Array]) -> Array:
    """The median distance (...) of two vectors, of at most 50, where none is known; 0 of fewer than two."""
    some = np.concatenate([each[..., :25, :] for each in arms], axis=-2)
    one, other = np.triu_indices(some.shape[-2], k=1)
    if not one.size:
        return known
    distance = np.sqrt(((some[..., one, :] - some[..., other, :]) ** 2).sum(axis=-1))
    return np.where(known > 0, known, np.median(distance, axis=-1))


def _sound(vectors: Array, name: str) -> Array:
    vectors = np.asarray(vectors, dtype=float)
    if not (np.abs(vectors) < LARGEST).all():  # NaN is not smaller either
        raise ValueError(
            f"{name} must have no NaN and nothing of {LARGEST:g} or more: leave such vectors out"
        )
    return vectors
