"""Load parity: how many pods the canary needs so that none works harder than one of stable's.

Pure. A canary pod with more requests than a stable one looks slow for that alone, so that the sizes
are looked at before a weight is raised and for as long as it stands.
"""

from math import ceil

from controller.model import Policy, Run, Seen, Sizing

# More than 10 % more requests per pod than at stable makes a healthy version look slow.
PARITY_LIMIT = 1.1
# Below this a Pass is marked: the canary has not been tried at stable's load.
PARITY_LOW = 0.9
# Below this part of its pods stable itself is not as it should be, and people are told.
FEW_STABLE = 0.9


def replicas_for(weight: int, stable: int) -> int:
    """How many canary pods carry `weight` percent at stable's load per pod; at most stable's count."""
    return min(max(ceil(stable * weight / (100 - weight)), 1), max(stable, 1))


def needed(weight: int, stable: int) -> int:
    """How many canary pods it takes for `weight` not to be held as too much for them."""
    return ceil(stable * weight / (100 - weight) / PARITY_LIMIT)


def held_before(policy: Policy, *, stable: int, canary: int) -> tuple[int, str] | None:
    """The first weight that so many pods will be too few for, and what helps; None if all are carried."""
    match = policy.canary_replicas is Sizing.MATCH
    for weight in policy.steps:
        there = max(canary, replicas_for(weight, stable)) if match else canary
        pods = needed(weight, stable)
        if there < pods:
            helps = f"give its Deployment {pods} replicas, or an autoscaler of its own, or take smaller steps"
            return (
                weight,
                f"{weight} % takes {pods} pods of the canary, and {scaled(policy, stable)}; {helps}",
            )
    return None


def scaled(policy: Policy, stable: int) -> str:
    """How far the controller scales the canary, in words."""
    match = policy.canary_replicas is Sizing.MATCH
    return (
        f"canaryReplicas Match scales it to stable's {stable} at most"
        if match
        else "canaryReplicas Keep scales nothing"
    )


def parity(weight: int, *, stable: int, canary: int) -> float:
    """Requests per canary pod over requests per stable pod at `weight`, for these pod counts."""
    return float("inf") if canary == 0 else (weight / canary) / ((100 - weight) / max(stable, 1))


def size_for(run: Run, seen: Seen, weight: int) -> int:
    """The replicas the canary should have for `weight`; never fewer than it has."""
    before = seen.canary_replicas_before if seen.canary.wanted == 0 else None
    kept = max(seen.canary.wanted, before or 0)
    match = run.plan.policy.canary_replicas is Sizing.MATCH and not seen.canary.autoscaled
    return max(kept, replicas_for(weight, seen.stable.wanted)) if match else kept


def overloaded(seen: Seen, weight: int) -> bool:
    """Whether each of the canary's ready pods would have too much to do at `weight`."""
    return parity(weight, stable=seen.stable.ready, canary=seen.canary.ready) > PARITY_LIMIT


def caveat(run: Run, seen: Seen, weight: int) -> str:
    """What a Pass at `weight` does not show, as the end of a sentence; nothing if it shows all.

    Less load cannot make the canary slower, so a rollback stays right; but more may make it so.
    """
    load = parity(weight, stable=seen.stable.ready, canary=seen.canary.ready)
    said = f", at {100 * load:.0f} % of stable's load per pod" if load < PARITY_LOW else ""
    if seen.stable.ready < FEW_STABLE * seen.stable.wanted:
        said += f"; only {seen.stable.ready} of {seen.stable.wanted} pods of {run.plan.stable} are ready"
    return f"{said}; testers' requests count as the canary's{_pinned(seen)}" if seen.route.pinned else said


def astray(run: Run, seen: Seen) -> str:
    """What is wrong where the canary's share of the requests is not its weight."""
    return (
        f"the canary's share of requests is not within a factor of 2 of {run.weight} %; "
        f"look for users stuck to an arm or another route to the pods{_pinned(seen)}"
    )


def _pinned(seen: Seen) -> str:
    """Which routes lead those whom they pick to the canary, whatever the weight, as the end of a sentence."""
    return f" ({seen.route.pinned} leads whom it matches there at any weight)" if seen.route.pinned else ""


def too_few(run: Run, seen: Seen, weight: int) -> str:
    """What is wrong then, and how many replicas are needed."""
    pods = needed(weight, seen.stable.ready)
    there, wanted = seen.canary.ready, seen.canary.wanted
    ready = f"{there} of {wanted} pods of {run.plan.canary} {'is' if wanted == 1 else 'are'} ready"
    enough = f"it needs {pods} replicas" if wanted < pods else f"{pods} ready ones are enough"
    return (
        f"{ready}; at {weight} % each would take more than {PARITY_LIMIT} x the load of a stable pod and "
        f"look slow for that alone; {enough}"
    )
