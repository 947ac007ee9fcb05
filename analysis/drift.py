"""Bets that predictions have moved by more than a tolerance, on whole distributions instead of sets.

A set of predictions shows only part of a shift, and which set is best has to be learned. Here the canary's
distribution is expected to be stable's, tilted: up or down, a little or much, wider, narrower, or as the last
few seconds were. A Bayesian filter (`belief`) says how far to trust each; the bet is on their mixture.
Beside it a little is bet on some of the ways by itself, before there is much belief in any: large shifts show
within one tick, and the tick that shows one pays then.

Symbols: N groups of canary nodes, J ways the canary may differ, A of them bet on by themselves, K cells; a
and b the arms' shares of a tick's requests; leading axes (...) are canaries side by side.
"""

from dataclasses import dataclass

import numpy as np

from analysis.proportions import Array, Mask, log_sum, picked

# Exponential tilts of stable's ranks: of a normal score, 1 is a shift of .3 sd, 3.5 one of 1 sd.
TILTS = np.array([0.0, 1.0, -1.0, 3.5, -3.5])
WIDER = np.array([6.0, -6.0])  # the same of the squared distance from the median's rank
WAYS = len(TILTS) + len(WIDER) + 1  # the last: on from stable, as the canary was and as far again
CHANGES = np.full(WAYS, 0.03)  # a second; a model's answers do not change as often as its speed
# Ways that a tick of ten requests can show. What is bet on each by itself is its belief, with so much greater
# odds in the first minute of a step, when most faults of a release show, and less later, since every
# healthy second costs as much as is bet; nothing where that is less than `LEAST`.
ALONE = np.array([3, 4, WAYS - 1])
EAGER, MINUTE, LEAST = 2.5, 60.0, 1e-3
# Small tilts are bet on with as much greater odds: a wrong bet on one costs a tenth of one on a large tilt
# (0.35 nats of 4.2, in a second of ten canary requests), and one that waits until it is believed is late.
FAVOUR = np.where(np.arange(WAYS) < 3, EAGER, 1.0)
FAVOUR[0] = 1.0
FIRM = 3.0  # of stable's requests, that the canary's last ones are mixed with
FURTHER = 10.0  # at most, in either direction, is the last of the ways from what was seen
ODD = 0.03  # of requests follow none of the ways
CLEARLY = 0.01  # beyond the tolerance, before a bet is made
ROUNDS = 6  # of looking for L and H; each makes the error about a tenth at most


def ways(stable: Array, canary: Array) -> Array:
    """Distributions (..., J, K) the canary may have, by stable's recent cells and its own last (..., K)."""
    alike = _shares(stable)
    rank = np.cumsum(alike, axis=-1) - alike / 2 - 0.5
    bend = (rank**2)[..., None, :] * WIDER[:, None]
    tilted = (
        np.exp(np.concatenate([rank[..., None, :] * TILTS[:, None], bend], axis=-2)) * alike[..., None, :]
    )
    tilted = tilted / tilted.sum(axis=-1, keepdims=True)
    seen = canary.sum(axis=-1, keepdims=True)
    # After the first second in which all is new a memory of five is new by a fifth; as far again, by half.
    lately = (canary + FIRM * alike) / (seen + FIRM)
    lately = lately * np.clip(lately / alike, 1 / FURTHER, FURTHER)
    lately = lately / lately.sum(axis=-1, keepdims=True)
    return np.concatenate([tilted, lately[..., None, :]], axis=-2)


def likelihoods(of: Array, canary: Array) -> Array:
    """Log-likelihood (..., N, J) of each group's requests `canary` (..., N, K) under each of the ways."""
    mixed = (1 - ODD) * of + ODD * of[..., :1, :]
    return np.asarray(canary @ np.swapaxes(np.log(np.maximum(mixed, 1e-12)), -1, -2))


def gains(
    expected: Array, alike: Array, stable: Array, canary: Array, *, tolerance: float
) -> tuple[Array, Mask]:
    """Log e-values (..., N) of one tick against "no further apart than `tolerance`", and where one was bet.

    `expected` (..., N, K): the canary's distribution as each group is believed to have it, `alike` (..., K)
    stable's, both from the past; `stable` (..., K), `canary` (..., N, K): the tick's cells.

    Guarantee: with r(x) the chance that a request with prediction x is the canary's, cut off at L and H, a
    tick's expectation of a sum over its requests of (r / a) or ((1 - r) / b) is n (1 + sum (p_c - p_s) r),
    at most n (1 + tolerance (H - L)), for every pair of distributions so near to each other; the geometric
    mean of independent requests' ratios is at most their arithmetic mean. So each group's gain alone is the
    log of an e-value, and with stable's part shared as the requests are, so is any choice of groups.

    L and H are where the projection on the null has them: the most powerful choice, if `expected` is true.

    Reference: Huber (1965), "A robust version of the probability ratio test"; Turner, Ly, Grünwald (2024).
    """
    n_j, n_s = canary.sum(axis=-1), stable.sum(axis=-1)
    n_c = n_j.sum(axis=-1)
    total = np.maximum(n_c + n_s, 1.0)
    a = np.clip(n_c / total, 1e-9, 1 - 1e-9)[..., None, None]
    ours, theirs = a * expected, (1 - a) * np.maximum(alike, 1e-12)[..., None, :]
    low, high, apart = _cuts(ours, theirs, tolerance)
    r = np.clip(ours / (ours + theirs), low, high)
    of_canary = (canary * np.log(r / a)).sum(axis=-1)
    of_stable = (stable[..., None, :] * np.log((1 - r) / (1 - a))).sum(axis=-1)
    cost = total[..., None] * np.log1p(tolerance * (high - low)[..., 0])
    bet = apart & (n_c > 0)[..., None] & (n_s > 0)[..., None]
    share = n_j / np.maximum(n_c, 1.0)[..., None]
    return np.where(bet, of_canary + share * (of_stable - cost), 0.0), bet


def wagered(
    believed: Array, of: Array, stable: Array, canary: Array, *, age: Array, tolerance: float
) -> tuple[Array, Mask]:
    """Log e-values (..., N) of one tick by what each group is `believed` (..., N, J) to be, of the ways `of`.

    And where one is bet on what is expected; `age` (...): of the step, when the tick ends. The rest as for
    `gains`.

    Guarantee: the sum over groups is the log of an e-value, a mean of such as `gains` gives, weighed before
    the tick. To a group goes what its requests brought, as far as each bet turned out right.
    """
    alike, own = of[..., 0, :], by_itself(believed, age)
    favoured = believed * FAVOUR
    expected = (favoured / favoured.sum(axis=-1, keepdims=True)) @ of
    gained, bet = gains(expected, alike, stable, canary, tolerance=tolerance)
    some = np.asarray(own.any(axis=-1))
    if not some.any():
        return gained, bet
    if some.all():
        return _beside(gained, own, of, stable, canary, tolerance=tolerance), bet
    few = (one[some] for one in (gained, own, of, stable, canary))  # most steps are old: they cost nothing
    gained = gained.copy()
    gained[some] = _beside(*few, tolerance=tolerance)
    return gained, bet


def _beside(gained: Array, own: Array, of: Array, stable: Array, canary: Array, *, tolerance: float) -> Array:
    """Log of the mean (..., N) of what one bet has `gained` (..., N) and what the ways by themselves do."""
    alike, stable = of[..., :1, :], stable[..., None, :]
    alone, _ = gains(of[..., ALONE, None, :], alike, stable, canary[..., None, :, :], tolerance=tolerance)
    each = np.concatenate([gained[..., None, :], alone], axis=-2)  # (..., 1 + A, N)
    weights = np.concatenate([1 - own.sum(axis=-1, keepdims=True), own], axis=-1)
    total = each.sum(axis=-1)
    whole = log_sum(total, weights)[..., None]
    shared = ((weights * np.exp(total - whole))[..., None] * each).sum(axis=-2)
    return np.asarray(shared + (whole - shared.sum(axis=-1, keepdims=True)) / gained.shape[-1])


def by_itself(believed: Array, age: Array) -> Array:
    """How much of the capital (..., A) is bet on each way by itself, in a step of this age (...)."""
    least = believed[..., ALONE].min(axis=-2)
    eager = EAGER * np.minimum(1.0, MINUTE / np.maximum(age, 1e-3))[..., None]
    part = eager * least / (1 + (eager - 1) * least.sum(axis=-1, keepdims=True))
    return np.where(part < LEAST, 0.0, part)


def _cuts(ours: Array, theirs: Array, tolerance: float) -> tuple[Array, Array, Mask]:
    """L and H (..., N, 1), and whether the two are further apart than the tolerance (..., N).

    Above H, what the canary has too much of adds up to the tolerance, less what the bet's cost gives back;
    below L, what it lacks. That depends on L and H itself, but hardly: a few rounds find it.
    """
    order = np.argsort(-ours / (ours + theirs), axis=-1)
    ours, theirs = picked(ours, order), picked(theirs, order)
    odds = ours / (ours + theirs)
    sides = _Sides.of(  # for H, and mirrored for L
        np.stack([ours, theirs[..., ::-1]]),
        np.stack([theirs, ours[..., ::-1]]),
        np.stack([odds, 1 - odds[..., ::-1]]),
    )
    excess = np.full(odds.shape[:-1], tolerance)
    for turn in range(ROUNDS):
        high, low = sides.cut(excess)
        low = 1 - low
        if turn == 0:  # as a ratio, since canaries with little traffic have odds near zero
            apart = high * (1 - low) > low * (1 - high) * (1 + CLEARLY * tolerance)
        excess = tolerance / (1 + tolerance * np.maximum(high - low, 0.0))
    return low[..., None], np.maximum(high, low)[..., None], apart


@dataclass(frozen=True, slots=True, eq=False)
class _Sides:
    """Cells (2, ..., K) of either side, the most extreme first: what is up to each, and the excess."""

    over: Array
    under: Array
    excess: Array

    @classmethod
    def of(cls, more: Array, less: Array, odds: Array) -> "_Sides":
        over, under = np.cumsum(more, axis=-1), np.cumsum(less, axis=-1)
        return cls(over, under, over / odds - under / np.maximum(1 - odds, 1e-12))

    def cut(self, excess: Array) -> Array:
        """H (2, ...) at which the sum over cells above it of (more / H - less / (1 - H)) is `excess`."""
        within = (self.excess <= excess[..., None]).sum(axis=-1)
        last = np.maximum(within - 1, 0)
        a, b = picked(self.over, last), picked(self.under, last)
        whole = a + b + excess
        root = np.sqrt(np.maximum(whole**2 - 4 * excess * a, 0.0))
        return np.asarray(2 * a / (whole + root))


def _shares(cells: Array) -> Array:
    """The cells' shares (..., K), each of a request's hundredth at least."""
    some = cells + 0.01
    return np.asarray(some / some.sum(axis=-1, keepdims=True))
