"""Reasons to take a run's traffic away, in order of precedence.

Pure, and about nothing else: each rule looks at the run and at what one pass saw, and says why the run
ends, or nothing. What happens then is `machine._leave`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from analysis.judge import Verdict
from controller.hearing import SILENT_AFTER_DUE, Quiet
from controller.model import Plan, Reason, Run, Seen, Stage
from controller.shadow import sentence_of
from controller.telling import spoken

# A silence is none before requests had the time to come back once the weight was raised.
SILENT_AFTER = timedelta(seconds=3)
# One pod's silence leads away later, and with twice as many due: how a proxy spreads requests over pods is
# not ours to know, and until then nothing is raised.
POD_SILENT_AFTER = timedelta(seconds=10)
# A canary none of whose pods shows a page any more may be dead, or only unreadable. What keeps all of its
# pages away for so long, and none of stable's, seldom spares its users.
UNHEARD_AFTER = timedelta(seconds=10)


WORDLESS = "the evidence against the canary is conclusive; its figures could not be put into words"


# Reasons that a run may end for other than by promotion; who counts rollbacks begins at 0 for each.
LEFT_FOR = frozenset(
    {
        Reason.ABORTED,
        Reason.CANARY_NOT_ANSWERING,
        Reason.CANARY_UNAVAILABLE,
        Reason.CHECK_FAILED,
        Reason.INCONCLUSIVE,
        Reason.LEADER_LOST,
        Reason.NO_DATA,
        Reason.PROMOTION_FAILED,
        Reason.STABLE_CHANGED,
        Reason.SUPERSEDED,
    }
)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a run ends other than by promotion."""

    reason: Reason
    message: str
    check: str | None = None


def _commanded(run: Run, seen: Seen, _: datetime) -> Ending | None:
    said = seen.commands
    if said.deleted:
        return Ending(Reason.ABORTED, "the CanaryRun was deleted")
    if not seen.canary.exists:
        return Ending(Reason.ABORTED, f"Deployment {run.plan.canary} was deleted")
    if said.withdrawn:
        return Ending(Reason.ABORTED, f"the annotation that asked for it was removed from {run.plan.canary}")
    return None if said.abort is None else Ending(Reason.ABORTED, f"aborted: {said.abort}")


def _superseded(run: Run, seen: Seen, _: datetime) -> Ending | None:
    if seen.commands.retargeted:
        made = f"{run.plan.stable} through VirtualService {run.plan.virtual_service}"
        said = f"{run.plan.canary}'s annotations name another stable Deployment, VirtualService or subset"
        return Ending(Reason.SUPERSEDED, f"{said} now; this run was a canary of {made}")
    new = seen.canary.template_hash
    if new is None or new == run.plan.canary_hash:
        return None
    return Ending(
        Reason.SUPERSEDED, f"{run.plan.canary} has a new template ({new}, was {run.plan.canary_hash})"
    )


def _stable_changed(run: Run, seen: Seen, _: datetime) -> Ending | None:
    new = seen.stable.template_hash
    promoted = (run.stage is Stage.PROMOTING and seen.stable_matches) or handed_over(run, seen)
    if new in {None, run.plan.stable_hash} or promoted:
        return None
    return Ending(
        Reason.STABLE_CHANGED,
        f"{run.plan.stable} has a new template ({new}); the canary was compared with {run.plan.stable_hash}",
    )


def handed_over(run: Run, seen: Seen) -> bool:
    """Whether git has given stable the template, as it was told to, of a canary drained meanwhile."""
    taken_back = run.by_hand and seen.commands.promote is None
    told = run.stage is Stage.WAITING and Reason.READY_TO_PROMOTE.value in run.told and not taken_back
    return told and seen.stable_matches


def _replanned(run: Run, seen: Seen, _: datetime) -> Ending | None:
    """A run keeps the policy that it began with, from its first traffic on; until then it is planned anew.

    What people asked of the run itself, a pause or a promotion, is not lost to one that knows nothing of it.
    """
    waits = run.stage is Stage.WAITING and not run.weights
    mends = run.plan.follows or run.hold is Reason.PREFLIGHT_FAILED
    if not (seen.replanned and waits and mends) or seen.commands.paused or seen.commands.promote:
        return None
    return Ending(
        Reason.SUPERSEDED,
        f"its policy, {by(run.plan)}, was changed or replaced before it had traffic;"
        " a new run has the new one",
    )


def by(plan: Plan) -> str:
    """Which policy the plan is by."""
    return "the built-in one" if plan.policy_name == "" else plan.policy_name or "of its plan"


def _check_failed(run: Run, seen: Seen, now: datetime) -> Ending | None:
    name, shadow = seen.judgement.failed, run.plan.policy.shadow
    replayed = shadow is not None and shadow.name == name  # known before anybody was exposed
    if seen.judgement.verdict is not Verdict.FAIL or (run.weight == 0 and not replayed):
        return None
    return Ending(Reason.CHECK_FAILED, f"{name}: {_in_words(run, seen, now)}", name)


def _in_words(run: Run, seen: Seen, now: datetime) -> str:
    """What failed, with figures; without them where they cannot be said: no traffic is kept for words."""
    try:
        judged = next(check for check in seen.judgement.checks if check.name == seen.judgement.failed)
        return sentence_of(run.plan.policy, judged, after=now - (run.weight_since or now))
    except Exception:  # noqa: BLE001 - whatever it is, nothing optional stands in the way
        return WORDLESS


def _unavailable(run: Run, seen: Seen, _: datetime) -> Ending | None:
    if run.weight == 0:
        return None
    looping = [pod.name for pod in seen.canary.pods if pod.crash_looping]
    if looping:
        return Ending(Reason.CANARY_UNAVAILABLE, f"pod {looping[0]} crashes again and again")
    if seen.canary.ready == 0 and (own := _outgrew(run, seen)):
        return Ending(
            Reason.CANARY_UNAVAILABLE, f"no pod of {run.plan.canary} is ready; one was evicted: {own}"
        )
    if seen.canary.ready == 0 and not _evicted(run, seen):
        return Ending(Reason.CANARY_UNAVAILABLE, _none_ready(run.plan.canary, len(seen.canary.pods)))
    return None


def _none_ready(canary: str, pods: int) -> str:
    if pods == 0:
        return f"{canary} has no pod"
    if pods == 1:
        return f"the one pod of {canary} is not ready"
    return f"none of {pods} pods of {canary} is ready"


def _outgrew(run: Run, seen: Seen) -> str:
    """What the kubelet says of a pod that it evicted, since it had traffic, beyond the pod's own limits."""
    overran = seen.canary.overran
    return "" if overran is None or overran[0] < _known(run) else overran[1].strip()[:200]


def _evicted(run: Run, seen: Seen) -> bool:
    """Whether the pods that had the traffic were taken away, rather than having failed in place."""
    fresh = all(pod.restarts == 0 and pod.created > _known(run) for pod in seen.canary.pods)
    before = run.stage is Stage.STEPPING or (run.stage is Stage.PROMOTING and not run.copied)
    return before and seen.canary.wanted > 0 and fresh


def _known(run: Run) -> datetime:
    """What is younger was made after the weight was given: by the API server's clock, if that is known."""
    return run.pods_known or run.weight_since or run.created


def _not_answering(run: Run, seen: Seen, _: datetime) -> Ending | None:
    if run.weight == 0 or seen.route.weight == 0:  # nothing is sent to it, for whatever reason
        return None
    load, due = seen.load, _due(run, seen.load.silence)
    if due >= SILENT_AFTER_DUE and load.silent_for >= SILENT_AFTER:
        seconds = load.silent_for.total_seconds()
        return Ending(
            Reason.CANARY_NOT_ANSWERING,
            f"no request was completed in {seconds:.0f} s at weight {run.weight} %, while stable completed "
            f"{load.silence}; about {due:.0f} were due{_mixed(seen)}",
        )
    if not load.uneven:
        for one in quiet(run, seen, times=2):
            if one.silent_for >= POD_SILENT_AFTER:
                return Ending(Reason.CANARY_NOT_ANSWERING, _said_of(one, run, seen))
    return None


def _mixed(seen: Seen) -> str:
    """Why requests may have gone elsewhere, if so: then it is not the canary that people have to look at."""
    return f" ({seen.route.refusal})" if seen.route.mixed else ""


def _due(run: Run, silence: float) -> float:
    """How many of the canary's requests stable's stand for."""
    return silence * run.weight / (100 - run.weight)


def _pods_due(one: Quiet, run: Run, seen: Seen) -> float:
    return _due(run, one.silence) / max(seen.canary.ready, 1)


def quiet(run: Run, seen: Seen, *, times: float = 1.0) -> list[Quiet]:
    """Canary pods that completed none of `times` twenty requests that were due there."""
    return [
        one
        for one in seen.load.quiet
        if one.silent_for >= SILENT_AFTER and _pods_due(one, run, seen) >= times * SILENT_AFTER_DUE
    ]


def _said_of(one: Quiet, run: Run, seen: Seen) -> str:
    return (
        f"pod {one.pod} completed no request in {one.silent_for.total_seconds():.0f} s at weight "
        f"{run.weight} %; about {_pods_due(one, run, seen):.0f} of {seen.canary.ready} pods' were due there"
    )


def silence(run: Run, seen: Seen) -> str:
    """Why nothing that was known before may raise a weight now; empty if everything is heard."""
    if run.weight == 0:
        return ""
    if silent := quiet(run, seen):
        return _said_of(silent[0], run, seen)
    if seen.load.unheard:
        first, *more = seen.load.unheard
        others = f" (and {len(more)} more)" if more else ""
        return f"pod {first}{others} shows no fresh metrics page{_troubled(seen)}"
    if seen.unshown:
        return f"{seen.unshown}{_troubled(seen)}"
    if seen.overdue:
        return f"{', '.join(seen.overdue)}: no fresh figures of both arms{_troubled(seen)}"
    return ""


def _troubled(seen: Seen) -> str:
    return f": {seen.trouble}" if seen.trouble else ""


def _unheard(run: Run, seen: Seen, _: datetime) -> Ending | None:
    """No page of the canary's comes while stable's do: whether it answers anything, nobody can tell."""
    load = seen.load
    if run.weight == 0 or seen.route.weight == 0 or load.unheard_for < UNHEARD_AFTER:
        return None
    if _due(run, load.missed) < SILENT_AFTER_DUE:
        return None
    return Ending(
        Reason.NO_DATA,
        f"no metrics page of {run.plan.canary} was read for {load.unheard_for.total_seconds():.0f} s, while "
        f"stable completed {load.missed} requests; whether it answers cannot be told{_troubled(seen)}",
    )


def _too_late(run: Run, seen: Seen, now: datetime) -> Ending | None:
    limit = run.plan.policy.progress_deadline
    if run.stage is Stage.WAITING:
        since = max(filter(None, (run.weight_since, run.data_since)), default=now)
        late = not seen.canary.complete and now - since > limit
        few = f"{seen.canary.ready} of {seen.canary.wanted} pods of {run.plan.canary} were ready"
        others = f"{run.plan.canary}'s new pods had not replaced those of an older template"
        message = few if seen.canary.ready < max(seen.canary.wanted, 1) else others
        return Ending(Reason.CANARY_UNAVAILABLE, f"{message} within {spoken(limit)}") if late else None
    rolling = run.stage is Stage.PROMOTING and run.copied and not through(seen)
    late = rolling and now - (run.step_since or now) > limit
    message = f"{run.plan.stable} was not rolled out within {spoken(limit)}"
    return Ending(Reason.PROMOTION_FAILED, message) if late else None


def through(seen: Seen) -> bool:
    """Whether all that stable has is of the template that was analysed."""
    return seen.stable_matches and seen.stable.rolled_out and seen.stable.ready > 0


def taken(run: Run, seen: Seen) -> bool:
    """Whether traffic was taken away after it had been given, by one of us, who could not write down why.

    A raise that was never made leaves the VirtualService's spec as it was looked at; other people's
    weights are theirs.
    """
    there = seen.route.sighting
    given = (
        there is not None and run.raised_from is not None and there.generation != run.raised_from.generation
    )
    return run.weight > 0 and seen.route.weight == 0 and given and seen.route.ours


def _taken(run: Run, seen: Seen, _: datetime) -> Ending | None:
    """It was; but a promotion whose template is there may be through, and has its weight taken, too."""
    if not taken(run, seen) or (run.stage is Stage.PROMOTING and seen.stable_matches):
        return None
    return Ending(
        Reason.LEADER_LOST,
        f"a leader took its {run.weight} % away and was lost before it could write down why; "
        f"{run.plan.canary} is not given traffic again that may have been taken for a fault",
    )


def _undone(run: Run, seen: Seen, _: datetime) -> Ending | None:
    """Somebody took the copied template back. Copying it again would be a fight, once a second."""
    back = seen.stable.template_hash == run.plan.stable_hash and not seen.stable_matches
    if not (run.stage is Stage.PROMOTING and run.landed and back):
        return None
    return Ending(
        Reason.PROMOTION_FAILED,
        f"{run.plan.stable} was given its old template back while it was being promoted; where git owns it, "
        "use promotion.mode Handoff",
    )


def _recalled(run: Run, seen: Seen, _: datetime) -> Ending | None:
    """Who promoted by hand took it back before stable had the template, of which a copy may be on its way."""
    there = seen.stable.template_hash == run.plan.stable_hash and not seen.stable_matches
    decided = run.stage is Stage.PROMOTING and run.copied and not run.landed
    if not (decided and run.by_hand and there and seen.commands.promote is None):
        return None
    said = f"the promotion by hand was taken back before {run.plan.stable} had been given the template"
    return Ending(Reason.ABORTED, said)


LEAVING: tuple[Callable[[Run, Seen, datetime], Ending | None], ...] = (
    _commanded,
    _superseded,
    _stable_changed,
    _replanned,
    _check_failed,
    _unavailable,
    _not_answering,
    _unheard,
    _too_late,
    _undone,
    _recalled,
    _taken,
)


def why(run: Run, seen: Seen, now: datetime) -> Ending | None:
    """The first reason to take the traffic away; a rule that cannot be worked out hides no other."""
    lost: Exception | None = None
    for rule in LEAVING:
        try:
            if (ending := rule(run, seen, now)) is not None:
                return ending
        except Exception as error:  # noqa: BLE001 - raised below, if nothing else is a reason
            lost = lost or error
    if lost is not None:
        raise lost
    return None
