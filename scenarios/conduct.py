"""How a pod of the lab conducts itself: its latency, failures, predictions and clicks, as the story says.

A distribution arrives as its quantiles at `LEVELS`, so that a pod needs to know none by name (and
needs no scipy, which would double its memory). Faults are the set of those in force: one that is
absent is over. Durations are seconds; time counts from the story's beginning.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scenarios.noise import Common, Pod, generator

Floats = npt.NDArray[np.float64]

# Evenly spaced in log-odds from 6e-6 to 1 - 6e-6: fine where tails are, 1 % of a step in the middle
LEVELS: Floats = 1 / (1 + np.exp(-np.linspace(-12.0, 12.0, 769)))


def quantiles(cdf: Callable[[Floats], Floats], *, low: float, high: float) -> list[float]:
    """The distribution's quantiles at `LEVELS`, read off its cdf between `low` and `high`."""
    grid = np.geomspace(low, high, 20_001)  # neighbours differ by 0.1 % even over nine decades
    return [float(f"{x:.6g}") for x in np.interp(LEVELS, cdf(grid), grid)]


class Conduct:
    """One pod's behaviour at one moment: what the story says, its noise, and the faults in force."""

    def __init__(self, said: Mapping[str, Any], *, name: str, seed: int) -> None:
        self._rng = generator(seed, f"requests {name}")
        self._latency = np.array(said["latency"])
        self._error_rate = float(said["errorRate"])
        self._predictions: Sequence[float] = said["predictions"]
        self._click_rate: float | None = said.get("clickRate")
        self._common = Common(said["noise"], seed=seed)
        self._pod = Pod(said["noise"], seed=seed, name=name)
        self._cold_since: float | None = None
        self.faults: Mapping[str, Any] = {}

    def suffer(self, faults: Mapping[str, Any]) -> None:
        """From now on exactly these faults are in force; a cache that turns cold is cold anew."""
        if faults.get("coldStart") != self.faults.get("coldStart"):
            self._cold_since = None
        self.faults = faults

    def seconds(self, now: float) -> float:
        """How long the request takes that arrives now."""
        drawn = float(np.interp(self._rng.random(), LEVELS, self._latency))
        noise = math.exp(self._common.log_factor(now) + self._pod.log_factor(now))
        factor = float(self.faults.get("latencyFactor", 1.0)) * self._cold(now)
        return drawn * noise * factor + float(self.faults.get("latencyAdd", 0.0))

    def fails(self) -> bool:
        """Whether this request is to fail."""
        return bool(self._rng.random() < self.faults.get("errorRate", self._error_rate))

    def prediction(self, rank: float) -> float:
        """The score of an input whose score has this rank (0 to 1) among all inputs."""
        return float(np.interp(rank, LEVELS, self.faults.get("predictions", self._predictions)))

    def clicked(self) -> bool | None:
        """Whether somebody clicks on this answer; None where nobody counts clicks."""
        rate = self.faults.get("clickRate", self._click_rate)
        return None if rate is None else bool(self._rng.random() < rate)

    def _cold(self, now: float) -> float:
        """A cold cache's factor; it warms from the first request on."""
        cold = self.faults.get("coldStart")
        if not cold:
            return 1.0
        if self._cold_since is None:
            self._cold_since = now
        return float(1.0 + (cold["factor"] - 1.0) * math.exp((self._cold_since - now) / cold["decay"]))
