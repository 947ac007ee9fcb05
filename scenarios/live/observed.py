"""What the API server was told during a live story, and when (seconds since 1970)."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

from scenarios.plot import Arm
from scenarios.result import ended

Json = Any


@dataclass(slots=True)
class Observed:
    """The canary's weights and the ends of runs."""

    weights: list[tuple[float, int]] = field(default_factory=list)
    ended: dict[str, float] = field(default_factory=dict)  # by run
    held: float | None = None  # since when a run has been paused
    reaction: float | None = None  # from the last metrics page's last byte to the weight patch's 200

    def weighed(self, virtual_service: Json) -> bool:
        """Takes down the canary's weight; true if it fell to 0 with this change."""
        weight = weight_of([virtual_service])
        if self.weights and self.weights[-1][1] == weight:
            return False
        self.weights.append((time.time(), weight))
        return weight == 0 and len(self.weights) > 1

    def followed(self, run: Json) -> None:
        """Takes down when a run ended, and since when one has been paused."""
        if ended(run):
            self.ended.setdefault(run["metadata"]["name"], time.time())
        if (run.get("status") or {}).get("phase") != "Paused":
            self.held = None
        elif self.held is None:
            self.held = time.time()

    def next_run(self, ended_at: float | None) -> float:
        """When another run began to send requests to the canary, after one had ended."""
        if ended_at is None:
            return math.inf
        later = (at for at, weight in self.weights if at > ended_at and weight > 0)
        return min(later, default=math.inf)


def weight_of(virtual_services: list[Json]) -> int:
    """The percentage that the first route with a canary gives it."""
    for service in virtual_services:
        for http in service["spec"].get("http", ()):
            for to in http.get("route", ()):
                if to["destination"].get("subset") == Arm.CANARY:
                    return int(to.get("weight", 0))
    return 0
