"""What a run's evidence and its replayed requests say together: the judgement, its figures, its sentences."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from analysis.judge import Judgement, Verdict, explained, judge
from analysis.values import replace
from controller import shadow
from controller.gather import Gathered
from controller.model import Run, Stage

log = structlog.get_logger(__name__)

# Seconds for which a check's estimate, its bounds and counts stand in the status of one of many runs: to work
# them out takes as long as fifteen ticks' evidence.
FIGURES = 60.0


def judged(run: Run, gathered: Gathered, now: datetime) -> Judgement:
    """What is known, a Fail with figures; of a run that has ended, what was known then."""
    policy, at = run.plan.policy, run.ended or now
    found = judge(gathered.evidence, alpha=policy.alpha, beta=policy.beta, now=at.timestamp())
    found = with_figures(found, run, gathered) if found.verdict is Verdict.FAIL else found
    return shadow.joined(found, policy.shadow, gathered.replayed)


def with_figures(found: Judgement, run: Run, gathered: Gathered) -> Judgement:
    """With figures; as it was where they cannot be had, since traffic is taken away without them as well."""
    count = len(gathered.evidence)  # what is replayed has its figures already
    try:
        read = replace(found, checks=found.checks[:count])
        read = explained(read, gathered.evidence, alpha=run.plan.policy.alpha)
    except Exception:
        log.exception("figures_lost", run=run.name)
        return found
    return replace(read, checks=(*read.checks, *found.checks[count:]))


@dataclass(slots=True)
class Figures:
    """Those that were worked out last, of one run: with the same verdicts they may stand for a while."""

    known: Judgement | None = None
    at: float = 0.0

    def of(self, found: Judgement, run: Run, gathered: Gathered, *, now: float, lasting: float) -> Judgement:
        """The judgement with figures that are no older than so many seconds."""
        if now - self.at >= lasting or (again := _with(found, self.known)) is None:
            again = self.known = with_figures(found, run, gathered)
            self.at = now
        return again


def _with(found: Judgement, known: Judgement | None) -> Judgement | None:
    """With what is known; None if a verdict is another one by now."""
    said = [(one.name, one.verdict) for one in found.checks]
    if known is None or said != [(one.name, one.verdict) for one in known.checks]:
        return None
    pairs = zip(found.checks, known.checks, strict=True)
    checks = (replace(old, log_e=new.log_e, log_e_pass=new.log_e_pass) for new, old in pairs)
    return replace(found, checks=tuple(checks))


def sentences(found: Judgement, run: Run, now: datetime) -> dict[str, str]:
    """A sentence for each check, by its name."""
    policy, left = run.plan.policy, warming(run, now)
    return {one.name: shadow.sentence_of(policy, one, warming=left) for one in found.checks}


def warming(run: Run, now: datetime) -> timedelta | None:
    """For how much longer the canary's pods warm up in the first step; None where they do not."""
    if run.stage is not Stage.STEPPING or run.step or run.weight_since is None:
        return None
    return max(run.weight_since + run.plan.policy.warm_up - now, timedelta(0)) or None
