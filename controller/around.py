"""What stands around a run in its namespace, worked out once until something there has changed.

A pass a second asks the same of the same objects, and they change once a minute or once a day: an answer
is kept together with how many changes there had been (`cluster.Cluster.news`). Pages, weights and time are
none of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from analysis.values import replace
from controller import inspection, neighbours, retraining, trigger
from controller.beside import spared
from controller.model import ArmSeen, Commands, PodSeen, Run
from controller.targets import addressed, chosen

if TYPE_CHECKING:
    from controller.means import Means

Json = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What one plan's pass asks of its surroundings; `news` is the number that it is of.

    `read` are the pods whose pages are read, and `stable_nodes` and `canary_nodes` where they are, by name.
    `rings`: a doorbell has rung that the run's spec does not tell of yet, and `approved` whether by it.
    """

    news: int
    deleted: bool
    later: Json | None
    rival: Json | None
    stable: ArmSeen
    canary: ArmSeen
    read: Sequence[PodSeen]
    stable_nodes: Mapping[str, str]
    canary_nodes: Mapping[str, str]
    commands: Commands
    rings: bool
    approved: bool
    stable_matches: bool
    replicas_before: int | None
    retraining_asked: datetime | None
    replanned: bool


def around(known: Around | None, means: "Means", run: Run, obj: Json) -> Around:
    """What is `known` if it still is what there is; `obj` is the run's object, None once it was deleted."""
    plan, cluster = run.plan, means.cluster
    news = cluster.news(plan.namespace)
    if known is not None and known.news == news and known.deleted is (obj is None):
        return known
    workload = plan.namespace, plan.canary
    stable, canary = (cluster.arm(plan.namespace, name) for name in (plan.stable, plan.canary))
    of_stable = chosen([pod for pod in stable.pods if pod.ready])
    of_canary = [pod for pod in canary.pods if pod.ready]
    said, heard, later, rival = Commands(deleted=True), Commands(deleted=True), None, None
    replanned = False
    if obj is not None:
        said, heard = trigger.commands(cluster, plan, obj, frozen_all=means.freeze)
        later = spared("successor", run, partial(neighbours.successor, cluster, workload, obj), None)
        rival = neighbours.rival(cluster, obj)
        if not run.weights:
            asked = partial(inspection.replanned, run, obj["spec"]["plan"], cluster)
            replanned = spared("policy", run, asked, False)
    return Around(
        news=news,
        deleted=obj is None,
        later=later,
        rival=rival,
        stable=stable,
        canary=canary,
        read=addressed([*of_stable, *of_canary]),
        stable_nodes={pod.name: pod.node for pod in of_stable},
        canary_nodes={pod.name: pod.node for pod in of_canary},
        commands=heard,
        rings=replace(heard, paused=said.paused) != said,
        approved=heard.approvals > said.approvals,
        stable_matches=means.workloads.matches(plan),
        replicas_before=spared("size", run, partial(neighbours.replicas_before, cluster, *workload), None),
        retraining_asked=spared(
            "retraining", run, lambda: retraining.last_asked(neighbours.runs_of(cluster, *workload)), None
        ),
        replanned=replanned,
    )
