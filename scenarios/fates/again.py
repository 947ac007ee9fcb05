"""A run that waits for its first weight is deleted while its status cannot be written, and asked for again.

The second has the name of the first, and nothing else of it: nothing of the first is written upon it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

Json = Any

FIRST = 20_001  # of the seeds in which it may happen
OFTEN = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Seconds since the story's beginning."""

    refused: float  # since when the status cannot be written
    deleted: float
    resumed: float  # when the second may have its weight
    heals: float  # until when the status cannot be written

    def edits(self) -> list[Mapping[str, Json]]:
        """The canary is paused from the beginning until it is asked for again, or about to be."""
        return [_paused("100ms", "true"), _paused(f"{round(1000 * self.resumed)}ms", None)]


def drawn(seed: int) -> Again | None:
    """Whether it happens, and when."""
    chance = Random(f"again {seed}")
    if seed < FIRST or chance.random() >= OFTEN:
        return None
    at = chance.uniform(8, 18)
    return Again(
        refused=at - chance.uniform(1, 6),
        deleted=at,
        resumed=at + chance.uniform(-0.5, 0.3),
        heals=at + chance.uniform(0.1, 2.5),
    )


def _paused(at: str, said: str | None) -> Mapping[str, Json]:
    notes = {"metadata": {"annotations": {"serin.dev/pause": said}}}
    return {"at": at, "patch": {"kind": "Deployment", "name": "model-canary", "merge": notes}}
