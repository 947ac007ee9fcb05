"""Runs beside one another: of one Deployment one after the other, of several at one VirtualService.

Pure. Two runs never steer one VirtualService at a time, and whoever comes later waits.
"""

from typing import Any

from controller import record, resource
from controller.cluster import Cluster
from controller.model import Place, Stage

Json = Any


def workload(run: Json) -> str:
    """The canary's Deployment of a CanaryRun object; empty if that does not say one."""
    plan = (run.get("spec") or {}).get("plan")
    return str(plan.get("canary", "")) if isinstance(plan, dict) else ""


def runs_of(cluster: Cluster, namespace: str, name: str) -> list[Json]:
    """The workload's runs, oldest first."""
    found = (run for run in cluster.all("canaryruns", namespace) if workload(run) == name)
    return sorted(found, key=record.order)


def replicas_before(cluster: Cluster, namespace: str, workload: str) -> int | None:
    """The canary's size before the last run scaled it to zero."""
    past = (run.get("status", {}) for run in runs_of(cluster, namespace, workload))
    sizes = [status["canaryReplicas"] for status in past if status.get("canaryReplicas")]
    return sizes[-1] if sizes else None


def successor(cluster: Cluster, workload: tuple[str, str], run: Json) -> Json | None:
    """The newest run of the workload (namespace, name) that was asked for after `run`, if there is one."""
    *_, newest = [run, *runs_of(cluster, *workload)]
    return newest if record.order(newest) > record.order(run) else None


def weight_at(place: Place, run: Json) -> int:
    """The weight that the run has there: 0 if it steers another VirtualService or to other subsets."""
    theirs = resource.place(run)
    there = (theirs.virtual_service, theirs.stable_subset, theirs.canary_subset)
    weight: int = (run.get("status") or {}).get("weight", 0)
    return weight if there == (place.virtual_service, place.stable_subset, place.canary_subset) else 0


def left(cluster: Cluster, run: Json, place: Place) -> bool:
    """Whether a weight at `place` is no other run's, so that it can only be one that `run` was given."""
    uid, runs = run["metadata"]["uid"], cluster.all("canaryruns", place.namespace)
    return not any(weight_at(place, one) for one in runs if one["metadata"]["uid"] != uid)


def rival(cluster: Cluster, run: Json) -> Json | None:
    """A run that was there before `run` and steers the same VirtualService still, if there is one."""
    service = run["spec"]["plan"]["virtualService"]
    return next(
        (
            other
            for other in cluster.all("canaryruns", run["metadata"]["namespace"])
            if other["spec"]["plan"]["virtualService"] == service
            and steers(other, beside=workload(run))
            and record.order(other) < record.order(run)
        ),
        None,
    )


def live(run: Json) -> bool:
    """Whether the CanaryRun object has not ended."""
    return not _ended(run.get("status", {}))


def steers(run: Json, *, beside: str) -> bool:
    """Whether the run may write weights yet that the next one's, of the Deployment `beside`, has to wait for.

    One that has ended does until its zero was seen: sent late it would take another canary's traffic away.
    """
    state = (run.get("status") or {}).get("state") or {}
    owes = bool(state.get("weightSince")) and not state.get("settled")
    return live(run) or (owes and workload(run) != beside)


def _ended(status: Json) -> bool:
    return bool(status.get("state", {}).get("stage") == Stage.ENDED)


def taken(cluster: Cluster, plan: Json, namespace: str) -> str | None:
    """Which run steers the planned VirtualService, so that no other can begin; None if none does."""
    for run in cluster.all("canaryruns", namespace):
        other = run["spec"]["plan"]
        if other["virtualService"] == plan["virtualService"] and steers(run, beside=plan["canary"]):
            wait = "wait for it or abort it" if live(run) else "its weight is still to be seen at 0"
            return (
                f"VirtualService {plan['virtualService']} is being steered by CanaryRun "
                f"{run['metadata']['name']}; one run at a time, {wait}"
            )
    return None
