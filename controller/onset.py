"""When the fault that takes a canary's traffic away began to show; nothing is decided by it.

Nobody knows when a fault began. When it began to *show* can be estimated: evidence that wanders down while
the canary is well climbs from then on, so it was where the failed check's evidence was lowest in this step
(the change point's maximum-likelihood estimate). A breaker's fault began when the canary last answered, or
last had pods. A leader that was not there knows of nothing before it came.

Reference: E. S. Page (1954), Continuous Inspection Schemes; D. V. Hinkley (1971), Inference about the
change-point from cumulative sum tests.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf

from controller.model import Reason, Run, Seen, Stage

# What a canary does; the others are what people do, or that nothing is known.
FAULTS = frozenset({Reason.CHECK_FAILED, Reason.CANARY_NOT_ANSWERING, Reason.CANARY_UNAVAILABLE})


@dataclass(slots=True)
class Onset:
    """Of one run, as long as one leader has it."""

    step: datetime | None = None
    lowest: dict[str, tuple[float, datetime]] = field(default_factory=dict)  # of each check's evidence
    answered: datetime | None = None
    well: datetime | None = None
    over: bool = False

    def look(self, run: Run, seen: Seen, now: datetime) -> None:
        """What a pass saw has been heeded; ties move on, since nothing shows yet."""
        if run.stage is Stage.ENDED:
            return
        if run.step_since != self.step:  # evidence has begun anew
            self.step, self.lowest = run.step_since, {}
        for check in seen.judgement.checks:
            if check.log_e <= self.lowest.get(check.name, (inf, now))[0]:
                self.lowest[check.name] = check.log_e, now
        self.answered = now - seen.load.silent_for
        if seen.canary.ready and not any(pod.crash_looping for pod in seen.canary.pods):
            self.well = now

    def took(self, run: Run, now: datetime) -> timedelta | None:
        """How long ago the fault that ended the run began to show; None without one, and the second time."""
        if self.over or run.reason not in FAULTS or run.stage is not Stage.ENDED:
            return None
        self.over = True
        began = {
            Reason.CHECK_FAILED: self.lowest.get(run.check or "", (inf, None))[1],
            Reason.CANARY_NOT_ANSWERING: self.answered,
            Reason.CANARY_UNAVAILABLE: self.well,
        }[run.reason]
        return None if began is None else max(now - began, timedelta(0))
