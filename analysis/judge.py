"""From evidence to a verdict: how checks and steps combine under one alpha."""

from dataclasses import dataclass
from enum import IntEnum


class Verdict(IntEnum):
    """What the evidence says; of several, the worst wins."""

    PASS = 0
    INCONCLUSIVE = 1
    NO_DATA = 2
    FAIL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckJudgement:
    """One check's verdict and the figures that explain it.

    `log_e` is the check's term of the run's sum, log(share x mixture over steps); the run fails when
    the sum reaches log(1/alpha). `estimate` and `interval` are in the check's own unit: a ratio of
    quantiles, a difference of rates, a total variation distance; None while not estimable.
    """

    name: str
    verdict: Verdict
    log_e: float
    log_e_pass: float
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    canary_requests: int = 0
    stable_requests: int = 0
    canary_hits: int = 0  # canary requests beyond the margin's threshold (or errors)
    expected_hits: float = 0.0  # at most so many, were the canary as stable at the margin
    threshold: float | None = None  # seconds for latency
    note: str = ""  # a caveat for people: coarse buckets, one pod, load parity


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict over all checks; `failed` names the check with the largest term at the crossing."""

    verdict: Verdict
    log_e: float
    checks: tuple[CheckJudgement, ...] = ()
    failed: str | None = None
