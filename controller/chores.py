"""What a run owes after its end: weight 0 that stands, stable's template, the canary's size.

Pure, a part of `machine`: it is gone through in every pass until nothing is left.
"""

from datetime import datetime

from analysis.values import replace
from controller.model import Fence, Reason, RestoreTemplate, Run, Scale, Seen, Tell
from controller.telling import Next


def owes_template(run: Run) -> bool:
    """Whether stable was given a template that it does not keep."""
    return run.copied and run.reason is not Reason.PROMOTED


def returns(run: Run, seen: Seen) -> bool:
    """Whether stable may be given its template back now: what it has is known, and is nobody else's."""
    known = seen.stable.template_hash is not None or seen.stable_matches
    return known and not _theirs(run, seen)


def _theirs(run: Run, seen: Seen) -> bool:
    there = seen.stable.template_hash
    return there not in {None, run.plan.stable_hash} and seen.canary.exists and not seen.stable_matches


def chores(run: Run, seen: Seen, now: datetime) -> Next:
    """What is owed after the end: weight 0 seen to stand, stable's template, the canary's size.

    As long as the VirtualService is as it was when the weight was last raised, that raise may be on its way.
    """
    away = seen.route.weight == 0 or bool(seen.successor)  # what a later run sends there is its own
    coming = run.raised_from is not None and run.raised_from == seen.route.sighting
    run = replace(run, settled=run.settled or (away and not coming))
    run, actions = _last(run, seen, now)
    return run, (*actions, *((Fence(),) if away and not run.settled else ()))


def _last(run: Run, seen: Seen, now: datetime) -> Next:
    if owes_template(run):
        return _give_back(run, seen, now)
    policy = run.plan.policy
    promoted = run.reason is Reason.PROMOTED
    delay = policy.scale_down_promoted if promoted else policy.scale_down_rolled_back
    if run.scaled_down or run.ended is None or now - run.ended < delay:
        return run, ()
    if seen.canary.exists and seen.canary.template_hash is None:
        return run, ()  # its own controller has not caught up: whose pods it has will be known
    ours = seen.canary.template_hash == run.plan.canary_hash and seen.successor is None
    if not ours or seen.canary.autoscaled or seen.canary.wanted == 0:
        return replace(run, scaled_down=True), ()
    if now - run.ended > delay + policy.progress_deadline:
        message = f"{run.plan.canary} could not be scaled to 0; `kubectl scale` may"
        return replace(run, scaled_down=True), (Tell(run.reason or Reason.ABORTED, message),)
    return replace(run, canary_replicas=seen.canary.wanted), (Scale(0),)


def _give_back(run: Run, seen: Seen, now: datetime) -> Next:
    """Stable gets its template back, until it has it, has somebody else's, or cannot for too long."""
    there, policy = seen.stable.template_hash, run.plan.policy
    same = there == run.plan.stable_hash  # a copy may still be on its way to it, until it was fenced
    if (same and seen.fenced) or _theirs(run, seen) or not seen.stable.exists:
        return replace(run, copied=False), ()
    if now - (run.ended or now) > policy.progress_deadline:
        message = f"{run.plan.stable} could not be given its template back; `kubectl rollout undo` may"
        return replace(run, copied=False), (Tell(Reason.PROMOTION_FAILED, message),)
    return run, (RestoreTemplate(),) if returns(run, seen) else ()
