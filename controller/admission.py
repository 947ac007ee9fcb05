"""The checklist as a step of a run: before its first weight, and never after.

Pure. `Warn` tells people once and goes on; `Enforce` holds the run at weight 0 until what failed is mended,
or somebody approves it as it is. Every pass looks again, so whatever is mended is seen by itself: a new
template supersedes the run anyway, and a changed policy does while this holds it, since a run keeps the
policy that it began with. A run that has had traffic is not asked any more: nothing here stands before a
rollback.
"""

from dataclasses import replace
from datetime import datetime

from controller.model import Preflight, Reason, Run, Seen, Stage, Tell
from controller.telling import Next, hold, say


def due(run: Run, seen: Seen) -> bool:
    """Whether the checklist has to be gone through now."""
    waits = run.stage is Stage.WAITING and not run.weights and not run.admitted
    return waits and run.plan.policy.preflight is not Preflight.OFF and seen.canary.ready > 0


def through(run: Run, seen: Seen, now: datetime) -> tuple[Next, bool]:
    """The run after the checklist, and whether it may go on to its first weight."""
    if not due(run, seen):
        return (run, ()), True
    enforced = run.plan.policy.preflight is Preflight.ENFORCE
    if run.hold is Reason.PREFLIGHT_FAILED and seen.commands.approvals > run.approved:
        return (replace(run, approved=seen.commands.approvals, admitted=True, hold=None), ()), True
    if not seen.preflight:  # nothing failed; None: pages are still to come
        return (run, ()), seen.preflight is not None or not enforced
    how = f"how to mend it: kubectl serin preflight {run.plan.canary} -n {run.plan.namespace}"
    if not enforced:
        what = Tell(Reason.PREFLIGHT_FAILED, f"{seen.preflight}; {how}", "Warned")
        return say(replace(run, admitted=True), what, now), True
    message = f"{seen.preflight}; no traffic before that is mended, or somebody approves it; {how}"
    return hold(run, Reason.PREFLIGHT_FAILED, message, now), False
