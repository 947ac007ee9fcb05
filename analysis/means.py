"""Tests of means by betting: how much would somebody have won who bet against "the mean is at most m"?

For values between two known limits (losses, score differences, cache hit ratios), nothing else is assumed
about their distribution. Values are kept as sums of a few powers (`Moments`), so that a million of them
weigh no more than one; what cannot be known from the sums is taken at its worst.

Symbols: x a value on the scale from 0 (`low`) to 1 (`high`), K bets, P parts of a tick (values, pods or the
whole tick: the finer, the more is won). Leading axes (...) are canaries, judged side by side.

Reference: Waudby-Smith, Ramdas (2024), "Estimating means of bounded random variables by betting".
"""

from dataclasses import dataclass

import numpy as np

from analysis.bursts import within
from analysis.proportions import EDGE, Array, log_sum, projection

# Shares of the capital that are at stake; each is best for one size of effect, and between two of them
# little is lost. Above .97 a single low value takes nearly everything.
BETS = np.array([0.03, 0.08, 0.2, 0.4, 0.7, 0.97])
# For intervals, which have to narrow for as long as values come: the last is right for 1e9 of them.
FINE_BETS = 0.97 * 0.5 ** np.arange(16.0)
MOST = 0.97  # of what one value can lose, at stake in stable's part of a comparison
HALVINGS = 60  # of an interval's end: to the last digit of a float


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What is kept of values from `low` to `high`: how many, and their sums from either end, (..., P).

    `up` and `up_squared` are sums of x and x^2, `down` and `down_squared` of 1 - x and (1 - x)^2, so that
    no difference of large numbers is ever taken.
    """

    low: float
    high: float
    n: Array
    up: Array
    up_squared: Array
    down: Array
    down_squared: Array

    def __add__(self, other: "Moments") -> "Moments":
        """Part by part, both taken together; their limits must be the same."""
        _same_limits(self, other)
        return Moments(self.low, self.high, *(a + b for a, b in zip(self.sums, other.sums, strict=True)))

    @property
    def sums(self) -> tuple[Array, ...]:
        """The five sums, in the order of the fields."""
        return self.n, self.up, self.up_squared, self.down, self.down_squared

    def joined(self) -> "Moments":
        """All parts as one (..., 1)."""
        return Moments(self.low, self.high, *(one.sum(axis=-1, keepdims=True) for one in self.sums))

    def turned(self) -> "Moments":
        """The same values seen from the upper limit: x becomes 1 - x."""
        n, up, up_squared, down, down_squared = self.sums
        return Moments(-self.high, -self.low, n, down, down_squared, up, up_squared)


@dataclass(frozen=True, slots=True, eq=False)
class Bets:
    """Running bets against one null hypothesis: log of what a unit of capital has become, (..., K)."""

    log_capital: Array

    @property
    def log_e(self) -> Array:
        """Log of the e-value (...): the mean over bets."""
        k = self.log_capital.shape[-1]
        return log_sum(self.log_capital, np.full(k, 1 / k))


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Running `bets` on two arms, with what is remembered of stable: number and sum of x, (...)."""

    bets: Bets
    stable_n: Array
    stable_up: Array


def moments(values: Array, *, low: float, high: float) -> Moments:
    """Each value (..., P) as a part of its own; `joined` adds them up. The values lie in [low, high]."""
    values = np.asarray(values, dtype=float)
    if not low < high or not np.isfinite([low, high]).all():
        raise ValueError(f"low must be below high and both finite, not {low} and {high}")
    if np.isnan(values).any():
        raise ValueError("values must not be NaN: leave out what was not measured")
    if ((values < low) | (values > high)).any():
        raise ValueError(f"values must lie between low and high ({low} and {high})")
    up = np.clip((values - low) / (high - low), 0, 1)
    down = np.clip((high - values) / (high - low), 0, 1)
    return Moments(low, high, np.ones_like(up), up, up**2, down, down**2)


def least_won(parts: Moments, *, mean: Array, bets: Array) -> Array:
    """Log of the capital (..., K) that bets (..., K) against `mean` (..., K, x-scale) have at least become.

    A bet b multiplies its capital by 1 + b (x - mean) / mean for each value. Of all values with these
    sums, those are worst that are 0 or all the same, up_squared / up.

    Guarantee: never above the capital itself, and equal to it for one value, for values that are all
    the same, and for those that are 0 or c. For f(x) = log(1 - b + b x / mean) lies above the parabola
    that meets it at 0 and touches it at that other value (its third derivative is positive), and the sum
    of the parabola follows from the three sums.
    """
    n, up, up_squared = (one[..., None] for one in parts.sums[:3])
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.where(up > 0, up_squared / up, 0.0)
        alike = np.where(up > 0, np.minimum(up / place, n), 0.0)
    bets, rise = bets[..., None, :], place / mean[..., None, :] - 1
    gains: Array = (n - alike) * np.log1p(-bets) + alike * np.log1p(bets * rise)
    return np.asarray(gains.sum(axis=-2))


def begin(several: tuple[int, ...] = ()) -> Bets:
    """Nothing won and nothing lost; `several`: for as many canaries."""
    return Bets(np.zeros((*several, len(BETS))))


def update(bets: Bets, parts: Moments, *, at_most: Array | float) -> Bets:
    """With one tick of values, of which the null hypothesis says that their mean is `at_most` this (...).

    Guarantee: exp(log_e) reaches 1/a with probability at most a (Ville), if each value's mean, given the
    past and the tick's values before it, is at most `at_most`. Values of a tick that depend on each
    other in other ways: let their mean be one value.
    """
    mean = (np.asarray(at_most, dtype=float) - parts.low) / (parts.high - parts.low)
    if not (mean > 0).all():
        raise ValueError("at_most must be above the values' lower limit: no mean lies below that")
    won = least_won(parts, mean=mean[..., None], bets=BETS)
    return Bets(within(bets.log_capital + np.where(mean[..., None] < 1, won, 0.0)))


def interval(parts: Moments, *, error: float) -> tuple[Array, Array]:
    """Means (...) that the values so far do not contradict, at any time one looks.

    Guarantee: contains the true mean at all times at once with probability 1 - `error`, for values whose
    mean given the past does not change; where it does, the interval reaches below the largest of these
    means and above the smallest. Bets against a mean lose as it rises, so that everything beyond the one
    where they reach 2 / error is contradicted as well.
    """
    if not 0 < error < 1:
        raise ValueError(f"error must be between 0 and 1, not {error}")
    line = np.log(2 / error)
    low, high = _contradicted_up_to(parts, line), 1 - _contradicted_up_to(parts.turned(), line)
    span = parts.high - parts.low
    return parts.low + span * low, parts.low + span * high


def compare_from(several: tuple[int, ...] = ()) -> Comparison:
    """Nothing known of either arm."""
    nothing = np.zeros(several)
    return Comparison(Bets(np.zeros((*several, 2 * len(BETS)))), nothing, nothing)


def compare(
    before: Comparison, stable: Moments, canary: Moments, *, rho: float, delta: float, keep: float = 1.0
) -> Comparison:
    """With one tick of both arms, against "canary's mean is at most rho x stable's + delta" in every tick.

    Stable's mean may be another in each tick. `keep` is the share of the memory of stable that stays.

    Guarantee: as `update`, if a tick's values are independent given the past (see `log_gains`).
    """
    _same_limits(stable, canary)
    if not rho > 0 or not np.isfinite([rho, delta]).all():
        raise ValueError(f"rho must be positive, rho and delta finite, not {rho} and {delta}")
    with np.errstate(invalid="ignore"):
        guess = np.asarray(before.stable_up / before.stable_n)  # NaN at first: 0 / 0
    offset = (delta + (rho - 1) * stable.low) / (stable.high - stable.low)
    won = log_gains(stable, canary, guess=guess, rho=rho, offset=offset)
    return Comparison(
        Bets(within(before.bets.log_capital + won)),
        keep * before.stable_n + stable.n.sum(axis=-1),
        keep * before.stable_up + stable.up.sum(axis=-1),
    )


def log_gains(stable: Moments, canary: Moments, *, guess: Array, rho: float, offset: float) -> Array:
    """Log e-values of one tick (..., K), K = 2 x BETS, against mean_c <= rho mean_s + offset (x-scale).

    `guess` (...) is of stable's mean, from the past; NaN: none, and nothing is bet.

    For a point (u, v) on the null's line, u = rho v + offset, chosen from the past and the tick's n_c and
    n_s, the canary's values are bet on with slope g, 1 + g (x - u), stable's with the slope that balances
    it, 1 - h (y - v), h = rho g n_c / n_s. Two points are taken: the guess, best for values that vary
    little, and the projection of `proportions`, best for those that are 0 or 1.

    Guarantee: E[e] <= 1. The tick's values being independent, E[e] is the product of A_i = 1 + g (E x_i - u)
    and B_j = 1 - h (E y_j - v), all of them positive; the sum of all is n_c + n_s + n_c g ((mean_c - u) -
    rho (mean_s - v)) <= n_c + n_s under the null, so that the product is at most 1 (the mean of numbers
    is at least their geometric mean). Neither the values' distribution nor equal means within an arm matter.

    Reference: the proof is that of Turner, Ly, Grünwald (2024), with bets in place of likelihood ratios.
    """
    n_c, n_s = canary.n.sum(axis=-1)[..., None], stable.n.sum(axis=-1)[..., None]
    able = (n_c > 0) & (n_s > 0) & ~np.isnan(guess)[..., None]
    q = np.where(able, np.clip(guess[..., None], EDGE, 1 - EDGE), 0.5)
    balance = rho * np.maximum(n_c, 1e-9) / np.maximum(n_s, 1e-9)
    u, v, slope = _stakes(q, balance, rho=rho, offset=offset)
    of_canary = least_won(canary, mean=u, bets=np.asarray(slope * u))
    of_stable = least_won(stable.turned(), mean=1 - v, bets=np.asarray(balance * slope * (1 - v)))
    return np.asarray(np.where(able, of_canary + of_stable, 0.0))


def _stakes(q: Array, balance: Array, *, rho: float, offset: float) -> tuple[Array, Array, Array]:
    """The points (u, v) and the canary's slopes at them, each (..., K); slope 0 where u is no mean.

    `balance` (..., 1) is h / g of `log_gains`.
    """
    line = np.clip(rho * q + offset, EDGE, 1 - EDGE)
    rate = line + BETS * (1 - line)
    n_c, one = balance / rho, np.ones(1)
    _, far = projection(n_c=n_c, n_s=1.0, p1=rate, q=q, rho=rho * one, delta=offset * one)
    v = np.clip(np.concatenate([np.broadcast_to(q, rate.shape), far], axis=-1), EDGE, 1 - EDGE)
    u = rho * v + offset
    fair = (u > EDGE) & (u < 1 - EDGE)
    u = np.where(fair, u, 0.5)
    near, far = u[..., : len(BETS)], u[..., len(BETS) :]
    wanted = np.concatenate([BETS / near, (rate - far) / (far * (1 - far))], axis=-1)
    most = MOST * np.minimum(1 / u, 1 / (balance * (1 - v)))
    return u, v, np.where(fair, np.clip(wanted, 0, most), 0.0)


def _contradicted_up_to(parts: Moments, line: float) -> Array:
    """The largest mean (..., x-scale) against which the bets have reached the line; 0 where none."""
    weights = np.full(len(FINE_BETS), 1 / len(FINE_BETS))
    good: Array = np.asarray(parts.up.sum(axis=-1) / np.maximum(parts.n.sum(axis=-1), 1))
    bad: Array = np.zeros_like(good)
    for _ in range(HALVINGS):
        middle: Array = np.maximum((bad + good) / 2, 1e-300)
        won = least_won(parts, mean=middle[..., None], bets=FINE_BETS)
        against = log_sum(won, weights) >= line
        bad, good = np.where(against, middle, bad), np.where(against, good, middle)
    return bad


def _same_limits(one: Moments, other: Moments) -> None:
    if (one.low, one.high) != (other.low, other.high):
        raise ValueError("moments with different limits cannot be compared: take both arms' widest")
