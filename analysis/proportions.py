"""The safe 2x2 test with a margin; errors, latency tails and prediction shifts all reduce to it.

In one tick the canary had `k_c` hits in `n_c` requests, stable `k_s` in `n_s`. The null hypothesis is
`p_c <= rho p_s + delta`, for every tick anew and with `p_s` as it pleases: whatever happens to both
arms alike (a noisy network, the evening peak) can neither help nor hurt.

Symbols: q a guess of p_s made before the tick, p1 the alternative for p_c, (u, v) the null's closest
point to (p1, q), d an effect size in log-odds; L lenses (questions asked at once), E effect sizes, N
groups of canary nodes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, expit, logit

Array = NDArray[np.float64]

# Log-odds, about geometric: a true effect between two of them loses little over a quarter of its growth
# rate; below .25 nothing is found within a step, above 3 a handful of requests decides anyway. Faults
# that small are found late whatever is bet on them, so the larger ones get more.
EFFECTS = np.array([0.25, 0.8, 1.6, 3.0])
EFFECT_WEIGHTS = np.array([0.15, 0.25, 0.35, 0.25])
# Towards a Pass: how far from the margin to a canary exactly like stable, in log-odds. With a whole
# grid instead of these two, identical arms passed x1.2 a quarter later.
WAY_TO_ALIKE = np.array([0.5, 1.0])
EDGE = 1e-6  # probabilities are kept this far from 0 and 1, so that every logarithm is finite


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked of a tick, decided before the tick: L yes/no events and their null hypotheses.

    `stable` (K_s, L) and `canary` (K_c, L) are 0/1 masks over each arm's cells: a request is a hit
    when its cell is marked. `q` is stable's rate as guessed, `rho` and `delta` the margin, `alike` the
    rate of a canary that is exactly like stable, `weight` the mass of each lens (sums to one).
    """

    stable: Array
    canary: Array
    q: Array
    rho: Array
    delta: Array
    alike: Array
    weight: Array

    @property
    def line(self) -> Array:
        """The canary's rate at the margin (L,), were stable's as guessed; above 1 all is allowed."""
        return self.rho * self.q + self.delta

    def worse(self) -> Array:
        """Alternatives (L, E) beyond the margin, by effect."""
        return _rate(logit(np.clip(self.line, EDGE, 1 - EDGE))[:, None] + EFFECTS)

    def better(self) -> Array:
        """Alternatives (L, 2) within the margin, on the way to a canary like stable."""
        start = logit(np.minimum(self.line, (1 + self.q) / 2))  # short of what is impossible
        way = np.minimum(logit(np.clip(self.alike, EDGE, 1 - EDGE)) - start, -0.1)
        return _rate(start[:, None] + way[:, None] * WAY_TO_ALIKE)


def error_question(recent: Array, *, rho: float, delta: float) -> Question:
    """Is the canary's share of errors above `rho` times stable's plus `delta`?

    `recent` holds stable's requests without and with an error. The guess of the rate has half an
    error in a hundred requests added, so that it is never zero.
    """
    mask = np.array([[0.0], [1.0]])
    q = (recent[1] + 0.5) / (recent.sum() + 100.0)
    guess = np.array([q])
    return Question(mask, mask, guess, np.array([rho]), np.array([delta]), guess, np.ones(1))


def projection(
    *, n_c: float, n_s: float, p1: Array, q: Array, rho: Array, delta: Array
) -> tuple[Array, Array]:
    """The point (u, v) with u = rho v + delta that minimises n_c kl(p1, u) + n_s kl(q, v).

    Guarantee: with it, the likelihood ratio of (p1, q) against (u, v) has expectation at most one
    for every (p_c, p_s) of the null: an e-value. p1 has to lie on the alternative's side of the line.

    Reference: Turner, Ly, Grünwald (2024), "Generic E-variables for exact sequential k-sample tests",
    theorem 1 and its convex extension (the reverse information projection).
    """
    other = (p1 - delta) / rho  # where the line passes p1: the answer lies between here and q
    low = np.clip(np.minimum(q, other), EDGE * 1e-3, 1.0)
    high = np.minimum(np.maximum(q, other), (1.0 - delta) / rho * (1.0 - EDGE * 1e-3))
    v = np.clip((n_c * other + n_s * q) / (n_c + n_s), low, high)
    for _ in range(60):  # Newton inside a shrinking bracket; four rounds are usual
        u = rho * v + delta
        slope = n_c * rho * (u - p1) / (u * (1.0 - u)) + n_s * (v - q) / (v * (1.0 - v))
        bend = n_c * rho**2 * _curvature(p1, u) + n_s * _curvature(q, v)
        low, high = np.where(slope < 0, v, low), np.where(slope > 0, v, high)
        step = v - slope / bend
        step = np.where((step >= low) & (step <= high), step, (low + high) / 2)
        if np.all(np.abs(step - v) <= 1e-13 + 1e-12 * v):
            break
        v = step
    return rho * v + delta, v


def log_gains(question: Question, stable: Array, canary: Array, p1: Array) -> Array:
    """Log e-values of one tick, [N, L, E], by group of canary nodes.

    `stable` (K_s,) are the arm's cells, `canary` (N, K_c) those of each group, `p1` (L, E) the
    alternatives, or (N, L, E) by group, all on one side of the margin. Stable's part of the evidence
    is shared among the groups as their requests are. Zero where an arm has no request, or the margin
    allows everything.

    Guarantee: the sum over all groups is the log of an e-value; so is the sum over any choice of
    groups made without looking (Hölder's inequality for stable's fractional shares).
    """
    n_j, n_s = canary.sum(axis=1), float(stable.sum())
    n_c = float(n_j.sum())
    if n_c <= 0 or n_s <= 0:
        return np.zeros((len(n_j), *p1.shape[-2:]))
    line = question.line[:, None]
    possible = (line < 1 - 10 * EDGE) | (p1 < (1 + question.q[:, None]) / 2)
    q = np.broadcast_to(question.q[:, None], p1.shape)
    rho, delta = question.rho[:, None], question.delta[:, None]
    if np.all(rho == 1.0) and np.all(delta == 0.0):
        u = v = (n_c * p1 + n_s * q) / (n_c + n_s)
    else:
        u, v = projection(n_c=n_c, n_s=n_s, p1=p1, q=q, rho=rho, delta=delta)
    k_j, k_s = canary @ question.canary, stable @ question.stable
    of_stable = k_s[:, None] * np.log(q / v) + (n_s - k_s)[:, None] * np.log((1 - q) / (1 - v))
    of_canary = k_j[:, :, None] * np.log(p1 / u) + (n_j[:, None] - k_j)[:, :, None] * np.log(
        (1 - p1) / (1 - u)
    )
    gains = of_canary + (n_j / n_c)[:, None, None] * of_stable
    return np.where(possible, gains, 0.0)


def rate_interval(k: Array, n: Array, *, error: float, temper: float = 1.0) -> tuple[Array, Array]:
    """Rates that k hits in n requests do not contradict, at any time one looks.

    Guarantee: contains the true rate at all times at once with probability 1 - `error`, for a rate
    that does not change and requests that are independent given it; `temper` divides the evidence.

    Reference: Robbins (1970), the mixture martingale; here with Jeffreys' Beta(1/2, 1/2).
    """
    k, n = np.asarray(k, dtype=float), np.asarray(n, dtype=float)
    mixture = betaln(k + 0.5, n - k + 0.5) - betaln(0.5, 0.5)
    line = np.log(1.0 / error) * temper
    rate = np.clip(k / np.maximum(n, 1), EDGE * 1e-3, 1 - EDGE * 1e-3)

    def contradicted(p: Array) -> NDArray[np.bool_]:
        return np.asarray(mixture - k * np.log(p) - (n - k) * np.log1p(-p) >= line)

    ends = np.stack([np.full_like(rate, EDGE * 1e-6), np.full_like(rate, 1 - EDGE * 1e-6)])
    low, high = _edge(contradicted, np.stack([rate, rate]), ends)
    return np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)


def log_sum(values: Array, weights: Array) -> Array:
    """Log of the weighted sum of exponentials over the first axis; -745 at least, never -inf.

    scipy's does the same at ten times the cost for arrays as small as these.
    """
    top = values.max(axis=0)
    total = (weights.reshape(-1, *[1] * (values.ndim - 1)) * np.exp(values - top)).sum(axis=0)
    out: Array = top + np.log(np.maximum(total, 5e-324))
    return out


def _edge(contradicted: Callable[[Array], NDArray[np.bool_]], inside: Array, outside: Array) -> Array:
    """Where between a plausible and an implausible rate plausibility ends, by halving."""
    reach = ~contradicted(outside)
    for _ in range(30):  # to a billionth
        middle = (inside + outside) / 2
        bad = contradicted(middle)
        inside, outside = np.where(bad, inside, middle), np.where(bad, middle, outside)
    return np.where(reach, outside, inside)


def _rate(odds: Array) -> Array:
    rate: Array = np.clip(expit(odds), EDGE, 1 - EDGE)
    return rate


def _curvature(p: Array, u: Array) -> Array:
    """The second derivative of kl(p, u) in u."""
    return p / u**2 + (1 - p) / (1 - u) ** 2
