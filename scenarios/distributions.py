"""How long answers take and what is predicted: the distributions a story can name.

Virtual pods take the probabilities of their buckets from `cdf`; live ones are told its inverse.
"""

from dataclasses import dataclass
from functools import cached_property
from math import erf, log, sqrt
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainc, ndtr, ndtri

Floats = NDArray[np.float64]

_Z95 = float(ndtri(0.95))


class Latency(Protocol):
    """A distribution of seconds whose 95th percentile the story named."""

    def cdf(self, seconds: Floats) -> Floats:
        """The share of answers that take at most so long."""
        ...

    def drawn(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """The logarithms of so many answers' seconds."""
        ...


@dataclass(frozen=True)
class Lognormal:
    """Latency with one mode; sigma follows from median and p95."""

    median: float
    p95: float

    @cached_property
    def sigma(self) -> float:
        """Standard deviation of the logarithm."""
        return log(self.p95 / self.median) / _Z95

    def cdf(self, seconds: Floats) -> Floats:
        """The share of answers that take at most so long."""
        with np.errstate(divide="ignore"):
            return np.asarray(ndtr(np.log(seconds / self.median) / self.sigma))

    def drawn(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """The logarithms of so many answers' seconds."""
        normal = rng.standard_normal(count, dtype=np.float32)
        return np.float32(log(self.median)) + np.float32(self.sigma) * normal


@dataclass(frozen=True)
class Pareto:
    """Latency with a power tail: P(X > x) = (least / x) ** shape."""

    shape: float
    p95: float

    @cached_property
    def least(self) -> float:
        """The shortest answer: 5 % lie above `least * 20 ** (1 / shape)`."""
        return float(self.p95 / 20 ** (1 / self.shape))

    def cdf(self, seconds: Floats) -> Floats:
        """The share of answers that take at most so long."""
        return 1.0 - (self.least / np.maximum(seconds, self.least)) ** self.shape

    def drawn(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """The logarithms of so many answers' seconds."""
        wait = rng.standard_exponential(count, dtype=np.float32)
        return np.float32(log(self.least)) + wait / np.float32(self.shape)


@dataclass(frozen=True)
class Bimodal:
    """Latency of two paths, `weight` of the requests on the slow one; both modes equally wide."""

    medians: tuple[float, float]
    weight: float
    p95: float

    @cached_property
    def sigma(self) -> float:
        """The width at which 95 % of the mixture lie below `p95`; found by bisection on its log."""
        return float(np.exp(brentq(self._excess, log(1e-3), log(3.0))))

    @property
    def possible(self) -> bool:
        """Whether any width puts the 95th percentile there."""
        return self._excess(log(1e-3)) * self._excess(log(3.0)) < 0

    def _excess(self, log_sigma: float) -> float:
        fast, slow = (_normal(log(self.p95 / m) / np.exp(log_sigma)) for m in self.medians)
        return (1 - self.weight) * fast + self.weight * slow - 0.95

    def cdf(self, seconds: Floats) -> Floats:
        """The share of answers that take at most so long."""
        with np.errstate(divide="ignore"):
            fast, slow = (np.asarray(ndtr(np.log(seconds / m) / self.sigma)) for m in self.medians)
        return (1 - self.weight) * fast + self.weight * slow

    def drawn(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """The logarithms of so many answers' seconds."""
        slow = rng.random(count, dtype=np.float32) < self.weight
        mode = np.where(slow, np.float32(log(self.medians[1])), np.float32(log(self.medians[0])))
        return np.asarray(mode + np.float32(self.sigma) * rng.standard_normal(count, dtype=np.float32))


def _normal(z: float) -> float:
    return 0.5 * (1.0 + erf(z / sqrt(2.0)))


@dataclass(frozen=True)
class Beta:
    """Predictions: scores in [0, 1]."""

    a: float
    b: float

    def cdf(self, scores: Floats) -> Floats:
        """The share of scores of at most so much."""
        return np.asarray(betainc(self.a, self.b, np.clip(scores, 0.0, 1.0)))

    def said(self) -> dict[str, Any]:
        """The distribution in the words of the file."""
        return {"distribution": "beta", "a": self.a, "b": self.b}
