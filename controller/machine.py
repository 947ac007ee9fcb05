"""Every change of a run's state, as one pure function.

`advance(run, seen, now)` takes what is known, what was observed and the time, and returns the run as
it is from now on with the actions that make it so. It has no clock, no I/O and no memory: the same
history gives the same states, and a pass that was lost is made up by the next one. It reads from
top to bottom in the order in which things matter:

1. **Leave.** If there is a reason to take the traffic away (`leaving.LEAVING`, in order of
   precedence), that is done before anything else is looked at. One thing alone stands against it:
   stable has no pod that could take the traffic.
2. **Go on.** Otherwise the run does what its stage says (`STAGES`): waits for pods and for the replay
   of recorded requests, gathers evidence at a step, promotes, or, when ended, does its last chores.
   The checklist, gates, and inputs that have drifted from the training's, stop it where it would be raised,
   and nowhere else.
3. **Repair.** If the VirtualService does not say what the run says, it is told again (`weights.repaired`);
   the mirror of a Shadow check stands in it for as long as that is undecided, and not a moment longer.

Weights only rise by one step or fall to zero. Silence is not a reason to go on: only a Pass of every
required check, a person, or a policy that says `Proceed` raises a weight.

```mermaid
stateDiagram-v2
    [*] --> Waiting
    Waiting --> Stepping: pods are ready and carry the load
    Waiting --> Promoting: git has promoted what was drained
    Stepping --> Stepping: every required check has passed
    Stepping --> Waiting: interrupted (healthy pods were evicted)
    Stepping --> Promoting: the last step has passed
    Promoting --> Stepping: promote was taken back
    Promoting --> Waiting: interrupted
    Waiting --> Ended: rolled back
    Stepping --> Ended: rolled back
    Promoting --> Ended: promoted or rolled back
    Ended --> [*]
```
"""

from collections.abc import Callable
from datetime import datetime

from analysis.judge import CheckJudgement, Verdict
from analysis.values import replace
from controller import admission, gating, retraining
from controller.chores import chores, owes_template, returns
from controller.explain import UNREAD
from controller.leaving import Ending, handed_over, quiet, silence, through, why
from controller.model import (
    Action,
    BeginStep,
    CopyTemplate,
    OnDoubt,
    PromotionMode,
    Reason,
    RestoreTemplate,
    Run,
    Scale,
    Seen,
    SetWeight,
    Stage,
    Tell,
)
from controller.shadow import gate, mirrored
from controller.sizing import astray, caveat, overloaded, size_for, too_few
from controller.telling import Next, hold, parting, say, spoken
from controller.weights import (
    MOST_INTERRUPTIONS,
    awaited,
    interruptions,
    looked,
    repaired,
    weighted,
    youngest,
)

BUILT_IN = "; by the built-in policy, for there is no CanaryPolicy/default"
# Holds that end with an approval.
IN_DOUBT = frozenset({Reason.INCONCLUSIVE, Reason.NO_DATA})


def advance(run: Run, seen: Seen, now: datetime) -> Next:
    """The run as it is from now on, and what has to be done for it."""
    run = gating.unasked(replace(retraining.known(run, seen), gated=False), seen)
    return retraining.asked(mirrored(*_advanced(run, seen, now), seen), seen, now)


def _advanced(run: Run, seen: Seen, now: datetime) -> Next:
    if run.stage is Stage.ENDED:
        return repaired(*chores(run, seen, now), seen, now)
    if (ending := why(run, seen, now)) is not None:
        return _leave(run, seen, now, ending)
    if handed_over(run, seen):
        run = replace(run, stage=Stage.PROMOTING, step_since=now)
    return repaired(*STAGES[run.stage](run, seen, now), seen, now)


def left(run: Run, seen: Seen, now: datetime) -> Next | None:
    """The way out alone, if there is a reason for it: whatever else a pass does may be in its way."""
    if run.stage is Stage.ENDED:
        return repaired(run, (), seen, now)
    ending = why(run, seen, now)
    return None if ending is None else _leave(run, seen, now, ending)


def begun_again(run: Run, now: datetime) -> Run:
    """The run without its evidence, as another version's is: its step begins now, and has not passed."""
    stepping = run.stage is Stage.STEPPING
    return replace(run, passed=False, step_since=now, data_since=now) if stepping else run


def restored(run: Run) -> bool:
    """Whether the run has ended and all is as it was: traffic at stable, stable's template, no mirror."""
    return run.stage is Stage.ENDED and run.settled and not run.mirrored and not owes_template(run)


def finished(run: Run) -> bool:
    """Whether nothing is left to do for the run: it ended, and so did its chores."""
    return restored(run) and run.scaled_down and not run.outbox


# -- 1. leave --------------------------------------------------------------------------------------


# While stable is being given the analysed template, these mean that the promotion failed.
_FAULTS = frozenset(
    {
        Reason.CHECK_FAILED,
        Reason.CANARY_UNAVAILABLE,
        Reason.CANARY_NOT_ANSWERING,
        Reason.PROMOTION_FAILED,
    }
)
# After these a new run follows, or nobody owns the canary any more: its size is not ours to change.
_KEEPS_SIZE = frozenset({Reason.SUPERSEDED, Reason.STABLE_CHANGED})


def _leave(run: Run, seen: Seen, now: datetime, ending: Ending) -> Next:
    nobody = seen.stable.ready == seen.stable.unlisted == 0
    stays = nobody and seen.canary.ready > 0 and ending.reason is not Reason.LEADER_LOST
    if run.weight > 0 and stays:
        why = f"{ending.message}; traffic stays, since {run.plan.stable} has no ready pod to take it"
        return repaired(*hold(run, Reason.STABLE_UNAVAILABLE, why, now), seen, now)
    restore = run.copied and ending.reason is not Reason.STABLE_CHANGED
    if run.copied and ending.reason in _FAULTS:
        ending = replace(ending, reason=Reason.PROMOTION_FAILED)
    if not run.copied and run.stage is Stage.PROMOTING and seen.stable_matches:  # to say, not to undo
        given = f"{run.plan.stable} was given that template already, not by Serin: take it back"
        ending = replace(ending, message=f"{ending.message}; {given}")
    owned = seen.canary.exists and not seen.commands.withdrawn and ending.reason not in _KEEPS_SIZE
    run = replace(run, check=ending.check, scaled_down=not owned, copied=restore)
    back = (RestoreTemplate(),) if restore and returns(run, seen) else ()
    run, actions = _end(run, ending.reason, ending.message, "RolledBack", now)
    return run, (*actions[:1], *back, *actions[1:])


def _end(run: Run, reason: Reason, message: str, outcome: str, now: datetime) -> Next:
    run = weighted(run, 0, reason, now)
    run = replace(run, stage=Stage.ENDED, hold=None, reason=reason, message=message, ended=now)
    run, told = parting(run, Tell(reason, message, outcome), now)
    return run, (SetWeight(0), *told)


# -- 2. go on --------------------------------------------------------------------------------------


def _wait(run: Run, seen: Seen, now: datetime) -> Next:
    # pods that come later have the whole deadline, which the clock of whoever made the object does not begin
    if seen.canary.complete or run.data_since is None:
        run = replace(run, data_since=now)
    blocked = _blocked(run, seen)
    if blocked is not None:
        return hold(run, *blocked, now)
    if seen.canary.ready and not seen.canary_read:
        return _unread(run, seen, now)
    if (shadow := gate(run, seen)) is not None:
        return _replaying(run, seen, now, shadow)
    if (times := interruptions(run)) and times % MOST_INTERRUPTIONS == 0:
        return _often(run, seen, now, times)
    (run, told), admitted = admission.through(run, seen, now)
    if not admitted:
        return run, told
    run, actions = _forward(run, seen, now)
    return run, (*told, *actions)


def _replaying(run: Run, seen: Seen, now: datetime, shadow: CheckJudgement) -> Next:
    """No traffic before the Shadow check has passed: wait, or do what a person or the policy says."""
    policy = run.plan.policy
    since = run.shadow_since or (now if seen.canary.ready else None)  # before that it keeps nobody waiting
    run = replace(run, shadow_since=since)
    if run.hold in IN_DOUBT and seen.commands.approvals > run.approved:
        return _approved(run, seen, now)
    name, said = shadow.name, shadow.note
    if shadow.verdict is Verdict.NO_DATA:
        if since is not None and seen.shadow_silent > policy.no_data_timeout:
            message = f"{name} has no data: {said}"
            return _doubt(run, seen, now, policy.on_no_data, Ending(Reason.NO_DATA, message))
    elif since is not None and now - since > policy.step_timeout:
        message = f"{name} neither passed nor failed within {spoken(policy.step_timeout)}: {said}"
        return _doubt(run, seen, now, policy.on_inconclusive, Ending(Reason.INCONCLUSIVE, message))
    hold_on = run.hold if run.hold in IN_DOUBT else None
    return replace(run, hold=hold_on, message=f"no traffic before {name} passes: {said}"), ()


def _often(run: Run, seen: Seen, now: datetime, times: int) -> Next:
    """No traffic by itself for a canary whose pods do not stay: whatever takes them, no step of it ends."""
    if run.hold in IN_DOUBT and seen.commands.approvals > run.approved:
        return _approved(run, seen, now)
    message = (
        f"its pods were evicted {times} times at step {run.step + 1}: see why (kubectl get events"
        f" -n {run.plan.namespace}; requests, limits, spot nodes), then approve or abort"
    )
    back = run.plan.policy.on_inconclusive is OnDoubt.ROLL_BACK
    wish = OnDoubt.ROLL_BACK if back else OnDoubt.HOLD
    return _doubt(run, seen, now, wish, Ending(Reason.INCONCLUSIVE, message))


def _unread(run: Run, seen: Seen, now: datetime) -> Next:
    """No traffic for pods that nobody can look at; once that is no passing trouble, people are told."""
    if not seen.trouble:
        return replace(run, hold=None), ()
    message = f"{UNREAD} {run.plan.canary} can be read, so it gets no traffic: {seen.trouble}"
    return hold(run, Reason.NO_DATA, message, now)


def _step(run: Run, seen: Seen, now: datetime) -> Next:
    if seen.canary.ready == 0:  # evicted: any other cause has ended the run above
        return _interrupt(run, now)
    if coming := awaited(run, seen):
        run = replace(run, passed=False, step_since=None, data_since=now)
    else:
        run = run if run.step_since else begun_again(run, now)
        run = _informed(replace(run, passed=run.passed or _passes(run, seen, now)), seen, now)
    blocked = _blocked(run, seen)
    if seen.commands.promote is not None and not (seen.commands.frozen or seen.commands.paused):
        return _begin_promotion(run, now, f"promoted by hand: {seen.commands.promote}", by_hand=True)
    if blocked is not None:
        run, told = hold(run, *blocked, now)
        return run, (*_growth(run, seen), *told)
    if coming:
        return replace(run, hold=None), ()
    if run.passed and not gating.unknown(run, seen):
        why_not = gating.doubted(run, seen)
        return _wavering(run, seen, now, why_not) if why_not else _forward(run, seen, now)
    return _in_doubt(run, seen, now)


def _wavering(run: Run, seen: Seen, now: datetime, why_not: str) -> Next:
    """What passed long ago would not pass now; an approval that was asked for before waits for that, too."""
    if run.hold is Reason.INCONCLUSIVE and seen.commands.approvals > run.approved:
        return _approved(run, seen, now)
    if run.hold in {Reason.AWAITING_APPROVAL, Reason.GATE_CLOSED}:
        return replace(run, message=why_not), ()
    return hold(run, Reason.INCONCLUSIVE, why_not, now)


def _informed(run: Run, seen: Seen, now: datetime) -> Run:
    return run if gating.unknown(run, seen) else replace(run, data_since=now)


def _growth(run: Run, seen: Seen) -> tuple[Action, ...]:
    """More pods for the weight that stands, if the run is held for want of them and may ask for them."""
    size = size_for(run, seen, run.weight)
    few = run.hold is Reason.CANARY_UNDER_PROVISIONED and size > seen.canary.wanted
    return (Scale(size),) if few else ()


def _promote(run: Run, seen: Seen, now: datetime) -> Next:
    run = _informed(run, seen, now)
    run = replace(run, landed=run.landed or (run.copied and seen.stable_matches))
    if through(seen):
        late = now - (run.step_since or now) > run.plan.policy.progress_deadline
        if seen.route.weight != 0 and not looked(run, seen) and not late:
            return replace(run, hold=None), ()  # it may have failed while nobody led
        message = f"{run.plan.stable} runs the template that was analysed ({run.plan.canary_hash})"
        return _end(run, Reason.PROMOTED, message, "Promoted", now)
    if not run.copied:
        return _uncopied(run, seen, now)
    return _copy(run, seen, run.step_since or now)


def _uncopied(run: Run, seen: Seen, now: datetime) -> Next:
    """Back to its step, or held, or stable is given the template."""
    if seen.canary.ready == 0 or run.weight == 0:  # evicted, as at a step
        return _drained(run, seen, now)
    if run.by_hand and seen.commands.promote is None:
        told = tuple(reason for reason in run.told if reason != Reason.READY_TO_PROMOTE)
        return _step(replace(run, stage=Stage.STEPPING, by_hand=False, hold=None, told=told), seen, now)
    run = _approved_in_doubt(run, seen)
    waits = _unpromoted(run, seen, now)
    return _copy(run, seen, now) if waits is None else waits


def _drained(run: Run, seen: Seen, now: datetime) -> Next:
    """Back to before its step; where others are giving stable the template, they are waited for."""
    if not seen.stable_matches:
        return _interrupt(run, now)
    away = (SetWeight(0),) if run.weight else ()
    message = f"every pod of {run.plan.canary} was evicted; {run.plan.stable} is being given its template"
    run = replace(weighted(run, 0, Reason.INTERRUPTED, now), stage=Stage.PROMOTING)
    run, told = hold(run, Reason.INTERRUPTED, message, now)
    return run, (*away, *told)


def _copy(run: Run, seen: Seen, since: datetime) -> Next:
    if seen.stable_matches or seen.stable.template_hash is None or not looked(run, seen):
        return replace(run, hold=None), ()
    return replace(run, hold=None, copied=True, step_since=since), (CopyTemplate(),)


def _approved_in_doubt(run: Run, seen: Seen) -> Run:
    """The run whose promotion somebody lets go on, in spite of what it is held for, if so."""
    if run.hold not in IN_DOUBT or seen.commands.approvals <= run.approved:
        return run
    blind = run.blind or run.hold is Reason.NO_DATA
    passed = run.passed and run.hold is not Reason.INCONCLUSIVE
    return replace(run, approved=seen.commands.approvals, blind=blind, passed=passed)


def _unpromoted(run: Run, seen: Seen, now: datetime) -> Next | None:
    """Why stable is not given the template now, if so; git is not told to while nothing is known."""
    handoff = run.plan.policy.promotion is PromotionMode.HANDOFF
    if not handoff and (blocked := _blocked(run, seen)):
        return hold(run, *blocked, now)
    told = run.blind or seen.commands.promote is not None
    if gating.unknown(run, seen) and not told and not seen.stable_matches:  # that it passed may be long ago
        return _blind(run, seen, now)
    if run.passed and not seen.stable_matches and (why_not := gating.doubted(run, seen)):
        return hold(run, Reason.INCONCLUSIVE, why_not, now)
    if not handoff:
        return None
    said = "every step has passed; " if run.passed else ""
    message = f"{said}give {run.plan.stable} the template of {run.plan.canary}"
    return hold(run, Reason.READY_TO_PROMOTE, message, now)


STAGES: dict[Stage, Callable[[Run, Seen, datetime], Next]] = {
    Stage.WAITING: _wait,
    Stage.STEPPING: _step,
    Stage.PROMOTING: _promote,
}


def _passes(run: Run, seen: Seen, now: datetime) -> bool:
    return seen.judgement.verdict is Verdict.PASS and not gating.lacking(run, seen, now)


def _blocked(run: Run, seen: Seen) -> tuple[Reason, str] | None:
    """Why nothing may be raised or promoted now, although nothing failed."""
    if seen.commands.frozen:
        said = 'frozen by serin.dev/freeze (any value but "false", also misspelt or a label) or --freeze'
        return Reason.FROZEN, f"{said}: nothing is raised or promoted"
    if seen.commands.paused:
        return Reason.PAUSED, "paused: the weight stays, checks go on"
    if seen.route.refusal is not None:
        return Reason.REFUSED, seen.route.refusal
    return _unsound(run, seen) if run.weight > 0 else None


def _unsound(run: Run, seen: Seen) -> tuple[Reason, str] | None:
    """Why what is seen at the weight that stands is no ground to raise it."""
    if seen.stable.ready == 0:  # else the canary's share or load would be blamed
        why = f"{run.plan.stable} has no ready pod to compare with, or to take the traffic back"
        return Reason.STABLE_UNAVAILABLE, why
    if overloaded(seen, run.weight):
        return Reason.CANARY_UNDER_PROVISIONED, too_few(run, seen, run.weight)
    if not seen.load.follows_weight:
        return Reason.TRAFFIC_DOES_NOT_FOLLOW_WEIGHT, astray(run, seen)
    return None


def _forward(run: Run, seen: Seen, now: datetime) -> Next:
    if not looked(run, seen):
        return run, ()
    if run.inputs is not None and not run.drift_approved:
        if run.hold is not Reason.INPUTS_DRIFTED or seen.commands.approvals <= run.approved:
            return hold(run, Reason.INPUTS_DRIFTED, retraining.sentence(run.inputs), now)
        run = replace(run, approved=seen.commands.approvals, drift_approved=True)
    if run.stage is not Stage.WAITING or seen.canary.ready:  # there is nothing to ask about before
        run, shut = gating.through(run, seen)
        if shut is not None:
            return hold(run, *shut, now)
    if run.stage is Stage.WAITING:
        return _raise(run, seen, now, run.step)
    if run.step + 1 < len(run.plan.policy.steps):
        return _raise(run, seen, now, run.step + 1)
    said = "every step has passed" if run.passed else "not proven: the last step has not passed"
    return _begin_promotion(run, now, f"{said}{caveat(run, seen, run.weight)}")


def _begin_promotion(run: Run, now: datetime, why: str, *, by_hand: bool = False) -> Next:
    run = replace(run, stage=Stage.PROMOTING, hold=None, step_since=now, told=(), message=why)
    run = replace(run, by_hand=by_hand, blind=False)
    return say(run, Tell(Reason.PROMOTING, why), now)


def _in_doubt(run: Run, seen: Seen, now: datetime) -> Next:
    """No Pass yet: wait, or, when time is up, do what a person or the policy says."""
    policy = run.plan.policy
    if run.hold in IN_DOUBT and seen.commands.approvals > run.approved:
        return _approved(run, seen, now)
    if gating.unknown(run, seen):
        return _blind(run, seen, now)
    if now - (run.step_since or now) > policy.step_timeout:
        message = f"neither passed nor failed within {spoken(policy.step_timeout)}"
        return _doubt(run, seen, now, policy.on_inconclusive, Ending(Reason.INCONCLUSIVE, message))
    return replace(run, hold=None), ()


def _approved(run: Run, seen: Seen, now: datetime) -> Next:
    """On by an approval, which is used up when the run moves: more pods may have to come first."""
    accepted = run.drift_approved or run.inputs is not None
    after, actions = _forward(replace(run, drift_approved=accepted), seen, now)
    moved = (after.stage, after.step) != (run.stage, run.step)
    if not moved:
        return replace(after, approved=run.approved, hold=run.hold), actions
    blind = run.hold is Reason.NO_DATA and after.stage is Stage.PROMOTING
    return replace(after, approved=seen.commands.approvals, blind=blind), actions


def _blind(run: Run, seen: Seen, now: datetime) -> Next:
    """Nothing is known now: wait (evidence begins anew whenever pods change), but not for long."""
    policy, since = run.plan.policy, run.data_since or run.step_since or now
    missing = silence(run, seen)
    if now - since <= min(policy.no_data_timeout, policy.step_timeout):
        lasting = quiet(run, seen) or seen.unshown or ((seen.load.unheard or seen.overdue) and seen.trouble)
        if missing and (lasting or run.hold is Reason.READY_TO_PROMOTE):
            return hold(run, Reason.NO_DATA, f"nothing is raised or promoted: {missing}", now)
        return replace(run, hold=run.hold if run.hold in IN_DOUBT else None), ()
    shadow = seen.shadow.note if seen.shadow and seen.shadow.verdict is Verdict.NO_DATA else ""
    few = "the pods' pages are read, but too few requests reach both arms"
    message = f"no check had data for {spoken(now - since)}: {missing or seen.trouble or shadow or few}"
    return _doubt(run, seen, now, policy.on_no_data, Ending(Reason.NO_DATA, message))


def _doubt(run: Run, seen: Seen, now: datetime, wish: OnDoubt, why: Ending) -> Next:
    if wish is OnDoubt.ROLL_BACK:
        return _leave(run, seen, now, why)
    if wish is OnDoubt.PROCEED and why.reason is Reason.INCONCLUSIVE:
        if not (lacking := gating.lacking(run, seen, now) if run.stage is Stage.STEPPING else ""):
            return _forward(run, seen, now)
        why = replace(why, message=f"{why.message}; it does not proceed yet: {lacking}")
    return hold(run, why.reason, why.message, now)


def _interrupt(run: Run, now: datetime) -> Next:
    message = f"every pod of {run.plan.canary} was evicted; traffic is away until they are back"
    run = replace(weighted(run, 0, Reason.INTERRUPTED, now), stage=Stage.WAITING, step_since=None)
    run, told = hold(run, Reason.INTERRUPTED, message, now)
    return run, (SetWeight(0), *told)


# -- raising ---------------------------------------------------------------------------------------


def _raise(run: Run, seen: Seen, now: datetime, step: int) -> Next:
    """Step `step`'s weight, once the canary has the pods for it."""
    weight = run.plan.policy.steps[step]
    size = size_for(run, seen, weight)
    if size > seen.canary.wanted:
        return replace(run, hold=None), (Scale(size),)
    complete = seen.canary.rolled_out and seen.canary.ready >= max(size, 1) and seen.stable.ready > 0
    if not complete or seen.canary.template_hash is None:  # pods of an older template may still be there
        return _await_pods(run, seen, now)
    if overloaded(seen, weight):
        return hold(run, Reason.CANARY_UNDER_PROVISIONED, too_few(run, seen, weight), now)
    before, run = run.weight, run if run.weights else replace(run, stable_known=seen.stable_known)
    run = replace(weighted(run, weight, Reason.WEIGHT_RAISED, now), stage=Stage.STEPPING, step=step)
    run = replace(run, step_since=None, data_since=now, hold=None, passed=False, told=(), opened=())
    # Where it is not ours others wrote it last, after us; else it may be from before a write of ours.
    there = seen.route.sighting if seen.route.weight == before or not seen.route.ours else None
    run = replace(run, raised_from=there, pods_known=youngest(seen))
    number = f"step {step + 1} of {len(run.plan.policy.steps)}"
    unasked = BUILT_IN if step == 0 and run.plan.policy_name == "" else ""
    what = Tell(Reason.WEIGHT_RAISED, f"{number}: {weight} %{caveat(run, seen, weight)}{unasked}")
    run, told = say(replace(run, message=what.message), what, now)
    return run, (BeginStep(step), SetWeight(weight), *told)


def _await_pods(run: Run, seen: Seen, now: datetime) -> Next:
    """The next weight waits for pods; at a step, people are told when that takes too long."""
    limit = run.plan.policy.progress_deadline
    if run.stage is Stage.STEPPING and now - (run.step_since or now) > limit:
        few = f"{seen.canary.ready} of {seen.canary.wanted} pods of {run.plan.canary} are ready"
        return hold(run, Reason.CANARY_UNDER_PROVISIONED, f"{few}; the next step waits for all", now)
    return replace(run, hold=run.hold if run.hold is Reason.INTERRUPTED else None), ()
