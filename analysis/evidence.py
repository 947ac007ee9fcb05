"""Running evidence of one check: `update` scores a tick with what was known before it."""

from dataclasses import dataclass
from enum import StrEnum


class CheckKind(StrEnum):
    """What a check compares; the values are those of the policy."""

    LATENCY = "Latency"
    ERROR_RATE = "ErrorRate"
    PREDICTIONS = "Predictions"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSpec:
    """One check of a plan: the harm that is still allowed, and how much of alpha it may spend.

    `max_increase` is relative (0.2 = +20 %); `plus` is absolute, a fraction of requests; `tolerance`
    a total variation distance; `share` a part of alpha, already normalised over the plan's checks.
    """

    name: str
    kind: CheckKind
    quantile: float = 0.95
    max_increase: float = 0.0
    plus: float = 0.0
    tolerance: float = 0.05
    required: bool = True
    share: float = 1.0
