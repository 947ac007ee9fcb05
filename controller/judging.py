"""What a run's evidence and its replayed requests say together: the judgement, its figures, its sentences."""

from dataclasses import replace
from datetime import datetime

import structlog

from analysis.judge import Judgement, Verdict, explained, judge
from controller import shadow
from controller.gather import Gathered
from controller.model import Run

log = structlog.get_logger(__name__)


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


def sentences(found: Judgement, run: Run) -> dict[str, str]:
    """A sentence for each check, by its name."""
    return {one.name: shadow.sentence_of(run.plan.policy, one) for one in found.checks}
