"""What a run knows of its weights: when each came, how often its step was interrupted, what may rise."""

from datetime import datetime, timedelta
from itertools import takewhile

from analysis.values import replace
from controller.leaving import taken
from controller.model import Action, Reason, Run, Seen, SetWeight, Stage, Tell, WeightChange
from controller.telling import Next

# So often a step begins anew by itself after healthy pods were evicted, and so often again once a person has
# approved. A rolling change of nodes may take a canary's pods twice in a step; what takes them five times
# is no maintenance, and each time users' requests are broken off.
MOST_INTERRUPTIONS = 5
# A weight that differs is somebody else's doing once our own patch must have come back to us.
DRIFT_AFTER = timedelta(seconds=3)
# Changes of the weight that are kept, first and last: twenty steps, each raised and some of them interrupted.
# A status that grows without end is refused one day.
FIRST_CHANGES, LAST_CHANGES = 20, 80


def weighted(run: Run, weight: int, reason: Reason, now: datetime) -> Run:
    """The run with this weight, and since when and why it has it."""
    if weight == run.weight:
        return run
    change = WeightChange(at=now, weight=weight, reason=reason)
    weights = (*run.weights, change)
    if len(weights) > FIRST_CHANGES + LAST_CHANGES:
        weights = (*weights[:FIRST_CHANGES], *weights[-LAST_CHANGES:])
    return replace(run, weight=weight, weight_since=now, weights=weights)


def interruptions(run: Run) -> int:
    """How often the step that the run is at was interrupted."""
    here = {0, run.plan.policy.steps[run.step]}
    changes = takewhile(lambda change: change.weight in here, reversed(run.weights))
    return sum(change.reason is Reason.INTERRUPTED for change in changes)


def youngest(seen: Seen) -> datetime | None:
    """When the canary's youngest pod was made, as the API server says, whose clock it is compared with."""
    return max((pod.created for pod in seen.canary.pods), default=None)


def awaited(run: Run, seen: Seen) -> bool:
    """Whether the VirtualService has not had the step's weight yet: what is seen is of the one before.

    The step's time and requests begin when it has. Evidence of harm is gathered meanwhile as well: whatever
    keeps the weight from being raised, a canary that fails must not profit from it.
    """
    there, before = seen.route.sighting, run.raised_from
    same = there is not None and before is not None and there.generation == before.generation
    return same and seen.route.weight != run.weight


def stopped(run: Run, seen: Seen) -> bool:
    """Whether a weight that is too low stays so: who paused the run, or froze it, may have taken it, too."""
    lower = seen.route.weight is not None and seen.route.weight < run.weight
    return lower and (seen.commands.paused or seen.commands.frozen)


def looked(run: Run, seen: Seen) -> bool:
    """Whether this leader may go on: what the last one took away, it may not have been able to write down.

    Who promotes by hand does not wait for pages that may never come.
    """
    by_hand = run.stage is Stage.PROMOTING and seen.commands.promote is not None
    return seen.looked or run.weight_since is None or by_hand


def repaired(run: Run, actions: tuple[Action, ...], seen: Seen, now: datetime) -> Next:
    """The same, with the wanted weight sent again if the VirtualService says another.

    Down always; up not through a refused VirtualService, before a new leader had looked, when stopped, nor
    where one of us had taken it. What the canary has before its run's first weight nobody looks at: that goes
    at once.
    """
    sent = any(isinstance(action, SetWeight) for action in actions)
    if run.weight_since is None:
        return _cleared(run, actions, seen) if not sent and _strange(run, seen) else (run, actions)
    if sent or seen.route.weight == run.weight or run.settled:
        return run, actions  # there already, or no more ours
    refused = seen.route.refusal is not None or stopped(run, seen) or taken(run, seen)
    if run.weight > 0 and (refused or not looked(run, seen)):
        return run, actions
    actions, since = (*actions, SetWeight(run.weight)), run.weight_since
    if run.weight > 0:
        run = replace(run, raised_from=seen.route.sighting)
    if now - since <= DRIFT_AFTER or Reason.WEIGHT_REPAIRED.value in run.told:
        return run, actions
    there = "disagreeing weights" if seen.route.weight is None else f"{seen.route.weight} %"
    message = f"{run.plan.virtual_service} had {there}; set to {run.weight} %"
    told = replace(run, told=(*run.told, Reason.WEIGHT_REPAIRED.value))
    return told, (*actions, Tell(Reason.WEIGHT_REPAIRED, message))


def _strange(run: Run, seen: Seen) -> bool:
    """Whether the canary has a weight that its run did not give; what others gave it stable can take."""
    free = run.stage is Stage.WAITING and seen.route.refusal is None and seen.stable.ready > 0
    return seen.route.left and (seen.route.ours or free)


def _cleared(run: Run, actions: tuple[Action, ...], seen: Seen) -> Next:
    """The canary has nothing of a weight that its run did not give, and people are told once."""
    actions = (*actions, SetWeight(0))
    if Reason.WEIGHT_REPAIRED.value in run.told:
        return run, actions
    there = "weights" if seen.route.weight is None else f"{seen.route.weight} %"
    gave = f"{run.plan.virtual_service} had {there} for {run.plan.canary} that this run did not give"
    told = replace(run, told=(*run.told, Reason.WEIGHT_REPAIRED.value))
    return told, (*actions, Tell(Reason.WEIGHT_REPAIRED, f"{gave}; set to 0 %"))
