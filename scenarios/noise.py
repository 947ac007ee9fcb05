"""How noisy a story's world is: paths that every process computes for itself, alike, from the seed.

Time is seconds since the story's beginning. The arms share the common path; each pod has its own.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import numpy as np

GRID = 0.25  # seconds between two points of a path; the shortest tau in use is 10 s
CHUNK = 2_400  # points generated at a time: ten minutes
DAY = 600.0  # seconds; a story's day has to fit into a story


def generator(seed: int, name: str) -> np.random.Generator:
    """Chance that depends on the seed and on what it is used for, and on nothing else."""
    return np.random.default_rng([seed & 0xFFFF_FFFF, crc32(name.encode())])


class Path:
    """A sequence of points `GRID` seconds apart, made as far as somebody has asked."""

    def __init__(self, extend: Callable[[list[float]], list[float]]) -> None:
        self._extend = extend
        self._points: list[float] = []

    def at(self, seconds: float) -> float:
        """The path's value; before the beginning it is the first point's."""
        index = max(0, int(seconds / GRID))
        while index >= len(self._points):
            self._points += self._extend(self._points)
        return self._points[index]


def wander(rng: np.random.Generator, *, sd: float, tau: float) -> Path:
    """An AR(1) path with standard deviation `sd` that forgets within `tau` seconds."""
    keep = math.exp(-GRID / tau)
    push = sd * math.sqrt(1 - keep * keep)

    def extend(points: list[float]) -> list[float]:
        value = points[-1] if points else float(rng.normal(0.0, sd)) if sd else 0.0
        more = []
        for shock in rng.standard_normal(CHUNK).tolist():
            value = keep * value + push * shock
            more.append(value)
        return more

    return Path(extend)


def bursts(rng: np.random.Generator, *, per_second: float, factor: float, lasting: float) -> Path:
    """A path that is log(`factor`) for `lasting` seconds, now and then, and 0 else."""
    rest = 0

    def extend(_points: list[float]) -> list[float]:
        nonlocal rest
        more = []
        for begins in (rng.random(CHUNK) < per_second * GRID).tolist():
            rest = round(lasting / GRID) if begins else rest - 1
            more.append(math.log(factor) if rest > 0 else 0.0)
        return more

    return Path(extend)


class Common:
    """What both arms feel alike: an AR(1) and a day, in log latency and in log rate."""

    def __init__(self, noise: Mapping[str, Any], *, seed: int) -> None:
        said = noise.get("common") or {}
        self._wander = wander(
            generator(seed, "common"), sd=float(said.get("sd", 0.0)), tau=float(said.get("tau", 60.0))
        )
        self._diurnal = float(said.get("diurnal", 0.0))

    def log_factor(self, seconds: float) -> float:
        """The log of what latency and rate are multiplied by."""
        return self._wander.at(seconds) + self._diurnal * math.sin(2 * math.pi * seconds / DAY)


class Pod:
    """What one pod feels alone: an AR(1), a fixed offset, bursts; in log latency."""

    def __init__(self, noise: Mapping[str, Any], *, seed: int, name: str) -> None:
        own, burst = noise.get("pod") or {}, noise.get("bursts") or {}
        rng = generator(seed, f"pod {name}")
        self._static = float(own.get("static", 0.0)) * float(rng.standard_normal())
        self._wander = wander(rng, sd=float(own.get("sd", 0.0)), tau=float(own.get("tau", 10.0)))
        self._bursts = bursts(
            generator(seed, f"bursts {name}"),
            per_second=float(burst.get("perSecond", 0.0)),
            factor=float(burst.get("factor", 1.0)),
            lasting=float(burst.get("lasting", 3.0)),
        )

    def log_factor(self, seconds: float) -> float:
        """The log of what this pod's latency is multiplied by."""
        return self._static + self._wander.at(seconds) + self._bursts.at(seconds)
