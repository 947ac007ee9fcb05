"""The safe 2x2 test with a margin; errors, latency tails and prediction shifts all reduce to it.

In one tick the canary had `k_c` hits in `n_c` requests, stable `k_s` in `n_s`. The null hypothesis is
`p_c <= rho p_s + delta`, for every tick anew and with `p_s` as it pleases: whatever happens to both
arms alike (a noisy network, the evening peak) can neither help nor hurt.

Symbols: q a guess of p_s made before the tick, p1 the alternative for p_c, (u, v) the null's closest
point to (p1, q), d an effect size in log-odds; L lenses (questions asked at once), E bets on each, N
groups of canary nodes. Leading axes (...) are canaries, judged side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, expit, logit

from analysis.values import replace

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Places = NDArray[np.intp]
Integers = NDArray[np.int64]

# Log-odds, about geometric: a true effect between two of them loses little over a quarter of its growth
# rate; below .25 nothing is found within a step, above 3 a handful of requests decides anyway. Faults
# that small are found late whatever is bet on them, so the larger ones get more.
EFFECTS = np.array([0.25, 0.8, 1.6, 3.0])
EFFECT_WEIGHTS = np.array([0.15, 0.25, 0.35, 0.25])
# Of clicks a quarter more or less is much, and thousands of trials can show it. With the effects above a
# share of .4 that falls by 22 % (margin 15 %, 50 trials a second in each arm) took 400 s to find, not 180.
FINER_EFFECTS = (0.12, 0.3, 0.8, 2.5)
# Towards a Pass: how far from the margin to a canary exactly like stable, in log-odds. With a whole
# grid instead of these two, identical arms passed x1.2 a quarter later.
WAY_TO_ALIKE = np.array([0.5, 1.0])
EDGE = 1e-6  # probabilities are kept this far from 0 and 1, so that every logarithm is finite


@dataclass(frozen=True, slots=True, eq=False)
class Above:
    """The cells above bounds: of each lens above the one of this index, `places` (..., L)."""

    places: Places


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked of a tick, decided before the tick: L yes/no events and their null hypotheses.

    `stable` and `canary` say which cells of each arm are hits: a 0/1 mask (..., K, L), or `Above`. `q` is
    stable's rate as guessed, `rho` and `delta` the margin, `alike` the rate of a canary that is exactly like
    stable (all (..., L)). `ready` (...): whether it can be asked. `effects`: how far beyond it bets go.
    """

    stable: Array | Above
    canary: Array | Above
    q: Array
    rho: Array
    delta: Array
    alike: Array
    ready: Mask
    effects: tuple[float, ...] = tuple(EFFECTS.tolist())

    @property
    def line(self) -> Array:
        """The canary's rate at the margin (..., L), were stable's as guessed; above 1 all is allowed."""
        return self.rho * self.q + self.delta

    def worse(self) -> Array:
        """Alternatives (..., L, E) beyond the margin, by effect."""
        return _rate(logit(np.clip(self.line, EDGE, 1 - EDGE))[..., None] + np.array(self.effects))

    def better(self) -> Array:
        """Alternatives (..., L, 2) within the margin, on the way to a canary like stable."""
        start = logit(np.minimum(self.line, (1 + self.q) / 2))  # short of what is impossible
        way = np.minimum(logit(np.clip(self.alike, EDGE, 1 - EDGE)) - start, -0.1)
        return _rate(start[..., None] + way[..., None] * WAY_TO_ALIKE)

    def joined(self, other: "Question") -> "Question":
        """Both questions' lenses, these first; for masks only."""
        one, other = self.spread(), other.spread()
        together: dict[str, Any] = {
            name: np.concatenate([getattr(one, name), getattr(other, name)], axis=-1)
            for name in ("stable", "canary", "q", "rho", "delta", "alike")
        }
        return replace(self, **together, ready=self.ready & other.ready)

    def spread(self) -> "Question":
        """The same with every field as large as its largest."""
        several, lenses = self.q.shape[:-1], self.q.shape[-1]

        def wide(marked: Array | Above) -> Array | Above:
            if isinstance(marked, Above):
                return marked
            return np.broadcast_to(marked, (*several, marked.shape[-2], lenses))

        return replace(
            self,
            stable=wide(self.stable),
            canary=wide(self.canary),
            rho=np.broadcast_to(self.rho, self.q.shape),
            delta=np.broadcast_to(self.delta, self.q.shape),
            ready=np.broadcast_to(self.ready, several),
        )


def error_question(recent: Array, *, rho: float, delta: float, ready: Mask) -> Question:
    """Is the canary's share of errors above `rho` times stable's plus `delta`?

    `recent` (..., 2) holds stable's requests without and with an error. The guess of the rate has half
    an error in a hundred requests added, so that it is never zero.
    """
    mask = np.array([[0.0], [1.0]])
    q = (recent[..., 1:] + 0.5) / (recent.sum(axis=-1, keepdims=True) + 100.0)
    return Question(mask, mask, q, np.full(1, rho), np.full(1, delta), q, ready)


def share_question(
    recent: Array, *, max_increase: float, plus: float, max_decrease: float, ready: Mask
) -> Question:
    """Is the canary's share of hits beyond the margin: above, or with a `max_decrease` (d) below it?

    `recent` (..., 2) holds stable's trials without and with a hit. What counts is the harm: where less is
    worse, the trials without a hit, and `p_c >= (1 - d) p_s` is `1 - p_c <= (1 - d) (1 - p_s) + d`, exactly.
    The guess has half a trial of either sort added, so that it is neither 0 nor 1.
    """
    harm = 0 if max_decrease else 1
    mask = np.eye(2)[:, harm : harm + 1]
    q = (recent[..., harm : harm + 1] + 0.5) / (recent.sum(axis=-1, keepdims=True) + 1.0)
    rho, delta = (1 - max_decrease, max_decrease) if max_decrease else (1 + max_increase, plus)
    return Question(mask, mask, q, np.full(1, rho), np.full(1, delta), q, ready, FINER_EFFECTS)


def projection(
    *, n_c: Array | float, n_s: Array | float, p1: Array, q: Array, rho: Array, delta: Array
) -> tuple[Array, Array]:
    """The point (u, v) with u = rho v + delta that minimises n_c kl(p1, u) + n_s kl(q, v).

    Guarantee: with it, the likelihood ratio of (p1, q) against (u, v) has expectation at most one
    for every (p_c, p_s) of the null: an e-value. p1 has to lie on the alternative's side of the line.

    Where the derivative is zero v solves a cubic that has one root at most 0, one at least where u = 1, and
    the one wanted between them; so it is always the middle of three.

    Reference: Turner, Ly, Grünwald (2024), "Generic E-variables for exact sequential k-sample tests",
    theorem 1 and its convex extension (the reverse information projection).
    """
    a = n_c / (n_c + n_s)
    b, off, rest = 1 - a, delta * (1 - delta), 1 - 2 * delta
    c2 = -(a * (rho - delta + p1) / rho + b * (rest / rho + q))
    c1 = (a * (p1 - delta) + b * (q * rest - off / rho)) / rho
    c0 = b * q * off / rho**2
    third = c2 / 3
    size = np.maximum(third**2 - c1 / 3, 1e-300)
    turn = (third * (2 * third**2 - c1) + c0) / (2 * size**1.5)
    v = -2 * np.sqrt(size) * np.cos((np.arccos(np.clip(turn, -1, 1)) - 2 * np.pi) / 3) - third
    fall = c1 + v * (2 * c2 + 3 * v)
    better = v - (c0 + v * (c1 + v * (c2 + v))) / np.where(fall < 0, fall, -np.inf)  # Newton, once
    v = np.clip(better, EDGE * 1e-3, (1 - delta) / rho * (1 - EDGE * 1e-3))
    return rho * v + delta, v


def hits(cells: Array, marked: Array | Above) -> Array:
    """How many of the cells (..., M, K) are marked, by lens (..., M, L)."""
    if not isinstance(marked, Above):
        return np.asarray(cells @ marked)
    above = marked.places[..., None] < np.arange(cells.shape[-1])  # (..., L, K)
    return np.asarray(cells @ np.swapaxes(above.astype(cells.dtype), -1, -2))


def first(marked: Array | Above) -> Array | Above:
    """The first lens alone."""
    return Above(marked.places[..., :1]) if isinstance(marked, Above) else marked[..., :1]


def tails(cells: Array) -> Array:
    """How many observations (..., K - 1) lie above each bound."""
    up_to = np.cumsum(cells, axis=-1)
    return np.asarray(up_to[..., -1:] - up_to[..., :-1])


def picked(values: Array, places: Places) -> Array:
    """The entries of the last axis at these places; `places` has the other axes, or more of its own last."""
    if values.ndim == 1:
        return np.asarray(values[places])
    size = values.shape[-1]
    rows = np.arange(values.size // size).reshape(values.shape[:-1]) * size
    rows = rows.reshape(*rows.shape, *[1] * (np.ndim(places) - rows.ndim))
    out: Array = values.reshape(-1)[rows + places]
    return out


def log_gains(question: Question, stable: Array, canary: Array, p1: Array) -> Array:
    """Log e-values of one tick, (..., N, L, E), by group of canary nodes.

    `stable` (..., K_s) are the arm's cells, `canary` (..., N, K_c) those of each group, `p1` (..., N, L, E)
    the alternatives, all on one side of the margin (with 1 instead of N: the same for all). Stable's part
    of the evidence is shared among the groups as their requests are. Zero where an arm has no request, or
    the margin allows everything.

    Guarantee: the sum over all groups is the log of an e-value; so is the sum over any choice of
    groups made without looking (Hölder's inequality for stable's fractional shares).
    """
    n_j, n_s = canary.sum(axis=-1), stable.sum(axis=-1)
    n_c = n_j.sum(axis=-1)
    both = (n_c > 0) & (n_s > 0)
    n_c, n_s = np.maximum(n_c, 1e-9), np.maximum(n_s, 1e-9)
    k_j, k_s = hits(canary, question.canary), hits(stable[..., None, :], question.stable)[..., 0, :]
    q, rho, delta, line = (
        one[..., None, :, None] for one in (question.q, question.rho, question.delta, question.line)
    )
    c, s = n_c[..., None, None, None], n_s[..., None, None, None]
    if (question.rho == 1.0).all() and (question.delta == 0.0).all():
        u = v = (c * p1 + s * q) / (c + s)
    else:
        u, v = projection(n_c=c, n_s=s, p1=p1, q=q, rho=rho, delta=delta)
    k_j, k_s = k_j[..., None], k_s[..., None, :, None]
    of_stable = k_s * np.log(q / v) + (s - k_s) * np.log((1 - q) / (1 - v))
    of_canary = k_j * np.log(p1 / u) + (n_j[..., None, None] - k_j) * np.log((1 - p1) / (1 - u))
    gains = of_canary + (n_j / n_c[..., None])[..., None, None] * of_stable
    possible = (line < 1 - 10 * EDGE) | (p1 < (1 + q) / 2)
    return np.where(possible & both[..., None, None, None], gains, 0.0)


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

    def contradicted(p: Array) -> Mask:
        return np.asarray(mixture - k * np.log(p) - (n - k) * np.log1p(-p) >= line)

    ends = np.stack([np.full_like(rate, EDGE * 1e-6), np.full_like(rate, 1 - EDGE * 1e-6)])
    low, high = _edge(contradicted, np.stack([rate, rate]), ends)
    return np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)


def log_sum(values: Array, weights: Array) -> Array:
    """Log of the weighted sum of exponentials over the last axis; -745 at least, never -inf.

    scipy's does the same at ten times the cost for arrays as small as these.
    """
    top = values.max(axis=-1, keepdims=True)
    total = (weights * np.exp(values - top)).sum(axis=-1)
    out: Array = top[..., 0] + np.log(np.maximum(total, 5e-324))
    return out


def _edge(contradicted: Callable[[Array], Mask], inside: Array, outside: Array) -> Array:
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
