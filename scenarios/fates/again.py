"""A run that waits for its first weight is deleted while its status is being written, and asked for again.

The second has the name of the first, and nothing else of it: nothing of the first is written upon it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

Json = Any

FIRST = 20_001  # of the seeds in which it may happen
OFTEN = 0.4
REFUSED = "a status that is refused"  # the first is the moment
PAUSE = "serin.dev/pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Until then the canary is paused: then writes of its run's status are refused, and it is deleted."""

    at: float  # seconds since the story's beginning, or some later: when a status is written next
    times: int  # so many writes are refused, by whomever

    def __str__(self) -> str:
        return f"from {self.at:.1f} s on {self.times} writes of status are refused; at the first its run goes"

    def edits(self) -> list[Mapping[str, Json]]:
        """It is paused from the beginning."""
        (kind, name, merge) = "Deployment", "model-canary", _pause("true")
        return [{"at": "100ms", "patch": {"kind": kind, "name": name, "merge": merge}}]

    def meddlings(self) -> list[tuple[str, str, Json]]:
        """What somebody does then: the run goes, and whoever comes after it may have its weight."""
        return [("deployments", "model-canary", _pause(None)), ("canaryruns", "", None)]


def drawn(seed: int) -> Again | None:
    """Whether it happens, and when."""
    chance = Random(f"again {seed}")
    if seed < FIRST or chance.random() >= OFTEN:
        return None
    return Again(at=chance.uniform(4, 16), times=chance.randint(1, 9))


def _pause(said: str | None) -> Json:
    return {"metadata": {"annotations": {PAUSE: said}}}
