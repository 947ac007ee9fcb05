"""The checklist of a run, worked out from what the controller knows anyway, and as its status says it.

Pure: the index of followed objects and the pages that were read last. What becomes of it is `admission`'s.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from controller import checklist, trigger
from controller.cluster import Cluster
from controller.items import Grounds, Item, Paged, Result
from controller.model import Run
from controller.ports import Reading, Trouble

Json = Any

LOST = "preflight: the checklist could not be worked out; the controller's log says why (checklist_lost)"
LONGEST = 2000  # characters of a sentence in status


def looked_at(
    run: Run,
    plan: Mapping[str, Json],
    cluster: Cluster,
    *,
    readings: Mapping[str, Reading],
    troubles: Mapping[str, Trouble],
    unread: frozenset[str],
    now: datetime,
) -> tuple[Item, ...]:
    """The checklist of a run, whose `plan` is as in its spec; empty while a Deployment of it is not there."""
    namespace = run.plan.namespace
    stable, canary = (
        cluster.get("deployments", namespace, name) for name in (run.plan.stable, run.plan.canary)
    )
    if stable is None or canary is None:
        return ()
    grounds = Grounds(
        cluster=cluster,
        namespace=namespace,
        plan=plan,
        policy=run.plan.policy,
        policy_name=trigger.annotations(canary).get(f"{trigger.PREFIX}policy", "default"),
        stable=stable,
        canary=canary,
        pages={
            name: Paged(reading=readings.get(name), trouble=troubles[name].what if name in troubles else "")
            for name in readings.keys() | troubles.keys()
        },
        unread=unread,
        now=now,
    )
    return tuple(checklist.looked_at(grounds))


def sentence(items: Sequence[Item]) -> str:
    """What failed; empty if nothing did."""
    return checklist.summary(items) if checklist.failed(items) else ""


def replanned(run: Run, plan: Mapping[str, Json], cluster: Cluster) -> bool:
    """Whether a policy is there that says other than what the run, whose `plan` this is, was planned by.

    The very policy that it was planned by is none, whatever the API server has made of either: else a new
    run would follow the new one for ever.
    """
    namespace = run.plan.namespace
    canary = cluster.get("deployments", namespace, run.plan.canary)
    notes = {} if canary is None else trigger.annotations(canary)
    policy = trigger.policy_object(cluster, notes, namespace)
    if policy is None or trigger.origin(policy).items() <= plan.items():
        return False
    own = {"steps"} if f"{trigger.PREFIX}steps" in notes else set()  # the annotation's, not the policy's
    before, now = ({k: v for k, v in one.items() if k not in own} for one in (plan["policy"], policy["spec"]))
    return before != now


def said(items: Sequence[Item]) -> Json:
    """What did not pass, as it stands in the run's status; nothing where nobody looked."""
    found = [
        {"item": one.name, "result": one.result.value, "why": one.why[:LONGEST], "mend": one.mend[:LONGEST]}
        for one in items
        if one.result is not Result.PASS
    ]
    return {"preflight": found} if items else {}
