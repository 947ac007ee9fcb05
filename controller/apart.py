"""Whether the arms are told apart while a run goes on: a DestinationRule, or labels, may be edited under it.

What each pod counts stays its own arm's, since pods are told apart by their owners. But the weight then sends
requests elsewhere, and a pod's load is no more what the weight says: nothing is raised, and no figure but
errors is compared, until the subsets are again as they were when the run was asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controller import detours, istio
from controller.cluster import Cluster, pods
from controller.istio import Refusal, Steering
from controller.model import Plan

Json = Any

# Kinds of a namespace's objects that it depends on; a VirtualService changes with each of our own weights.
KINDS = ("deployments", "replicasets", "pods", "destinationrules")


def told_apart(
    cluster: Cluster, canary: Json, stable: Json, found: Steering, *, stable_subset: str, canary_subset: str
) -> Refusal | None:
    """Why the two subsets are not those of the two arms alone; None if they are."""
    namespace = canary["metadata"]["namespace"]
    of_stable, mine = _labels(cluster, stable), _labels(cluster, canary)
    beyond = istio.ambient(cluster.get("namespaces", "", namespace) or {"metadata": {}}, [*of_stable, *mine])
    return beyond or istio.subsets_told_apart(
        list(cluster.all("destinationrules", namespace)),
        found,
        stable_subset=stable_subset,
        canary_subset=canary_subset,
        stable_labels=of_stable,
        canary_labels=mine,
    )


def _labels(cluster: Cluster, deployment: Json) -> list[Mapping[str, str]]:
    """The labels of the Deployment's template and of each of its pods."""
    template = deployment["spec"]["template"]["metadata"].get("labels", {})
    return [template, *(pod["metadata"].get("labels", {}) for pod in pods(cluster, deployment))]


@dataclass(slots=True)
class Apart:
    """Of one run; worked out anew when something has changed that it depends on."""

    seen: tuple[int, str] = (-1, "")
    said: str = ""
    pinned: str = ""  # routes that lead those whom they pick to the canary, whatever the weight

    def look(self, cluster: Cluster, plan: Plan) -> str:
        """Why the arms are not told apart now; empty if they are, or where the VirtualService says more."""
        service = cluster.get("virtualservices", plan.namespace, plan.virtual_service)
        if service is None:
            return ""
        now = cluster.changes(plan.namespace, *KINDS), str(service["metadata"].get("resourceVersion"))
        if now != self.seen:
            self.said, self.pinned, self.seen = _mixed(cluster, plan, service), _pinned(service, plan), now
        return self.said


def _mixed(cluster: Cluster, plan: Plan, service: Json) -> str:
    names = {"stable_subset": plan.stable_subset, "canary_subset": plan.canary_subset}
    found = istio.located(service, **names)
    canary, stable = (cluster.get("deployments", plan.namespace, one) for one in (plan.canary, plan.stable))
    if isinstance(found, Refusal) or canary is None or stable is None:
        return ""
    refused = told_apart(cluster, canary, stable, found, **names)
    return "" if refused is None else str(refused)


def _pinned(service: Json, plan: Plan) -> str:
    aside = detours.pinned(service, stable=plan.stable_subset, canary=plan.canary_subset)
    return " and ".join(aside)
