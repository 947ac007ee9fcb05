"""Whether the arms are told apart while a run goes on: a DestinationRule, or labels, may be edited under it.

What each pod counts stays its own arm's, since pods are told apart by their owners. But the weight then sends
requests elsewhere, and a pod's load is no more what the weight says: nothing is raised, and no figure but
errors is compared, until the subsets are again as they were when the run was asked for.

Pods of another canary of the same stable that are in the canary's subset have their part of its weight, too,
and nobody looks at what they do with it: nothing is raised while there are any.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from controller import detours, istio, strays, subsets
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
    around = cluster.get("namespaces", "", namespace) or {"metadata": {}}
    beyond = subsets.ambient(around, [*of_stable, *mine])
    return beyond or subsets.told_apart(
        list(cluster.all("destinationrules", namespace)),
        found,
        stable_subset=stable_subset,
        canary_subset=canary_subset,
        stable_labels=of_stable,
        canary_labels=mine,
    )


def strangers(
    cluster: Cluster, canary: Json, stable: Json, found: Steering, *, canary_subset: str
) -> Refusal | None:
    """Which other canary of stable's has pods in the canary's subset; None if none has."""
    namespace = canary["metadata"]["namespace"]
    for rule in cluster.all("destinationrules", namespace):
        if detours.fqdn(rule.get("spec", {}).get("host", ""), rule) != found.host:
            continue
        known = {one["name"]: one.get("labels") or {} for one in rule["spec"].get("subsets") or []}
        labels = known.get(canary_subset) or {}
        for other in _others(cluster, canary, stable) if labels else ():
            if any(
                labels.items() <= pod["metadata"].get("labels", {}).items() for pod in pods(cluster, other)
            ):
                where = f"DestinationRule {rule['metadata']['name']}: spec.subsets[{canary_subset}].labels"
                value = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
                name = other["metadata"]["name"]
                remedy = f"it selects pods of {name} too, which would have a part of this canary's requests"
                return Refusal(
                    where, value, f"{remedy}; scale {name} to 0, or give each canary its own subset"
                )
    return None


def _others(cluster: Cluster, canary: Json, stable: Json) -> list[Json]:
    """The Deployments beside `canary` that are canaries of stable's, or were."""
    namespace, name = stable["metadata"]["namespace"], stable["metadata"]["name"]
    known = cluster.kept("canaries", namespace, "deployments", work=partial(_canaries, cluster, namespace))
    names = known.get(name, set()) - {canary["metadata"]["name"], name}
    found = (cluster.get("deployments", namespace, one) for one in sorted(names))
    return [one for one in found if one is not None]


def _canaries(cluster: Cluster, namespace: str) -> dict[str, set[str]]:
    """By stable Deployment, those that ask to be a canary of it, or had a run."""
    found: dict[str, set[str]] = {}
    for one in cluster.all("deployments", namespace):
        if stable := (one["metadata"].get("annotations") or {}).get(strays.CANARY_OF):
            found.setdefault(stable, set()).add(one["metadata"]["name"])
    for run in cluster.all("canaryruns", namespace):
        plan = (run.get("spec") or {}).get("plan") or {}
        found.setdefault(str(plan.get("stable")), set()).add(str(plan.get("canary")))
    return found


def _labels(cluster: Cluster, deployment: Json) -> list[Mapping[str, str]]:
    """The labels of the Deployment's template and of each of its pods."""
    template = deployment["spec"]["template"]["metadata"].get("labels", {})
    return [template, *(pod["metadata"].get("labels", {}) for pod in pods(cluster, deployment))]


@dataclass(slots=True)
class Apart:
    """Of one run; worked out anew when something has changed that it depends on."""

    seen: tuple[int, str] = (-1, "")
    said: str = ""
    strange: str = ""  # which pods of others are in the canary's subset
    pinned: str = ""  # routes that lead those whom they pick to the canary, whatever the weight

    def look(self, cluster: Cluster, plan: Plan) -> str:
        """Why the arms are not told apart now; empty if they are, or where the VirtualService says more."""
        service = cluster.get("virtualservices", plan.namespace, plan.virtual_service)
        if service is None:
            return ""
        now = cluster.changes(plan.namespace, *KINDS), str(service["metadata"].get("resourceVersion"))
        if now != self.seen:
            self.said, self.strange = _mixed(cluster, plan, service)
            self.pinned, self.seen = _pinned(service, plan), now
        return self.said


def _mixed(cluster: Cluster, plan: Plan, service: Json) -> tuple[str, str]:
    """Why the arms are not told apart, and who else is in the canary's subset."""
    names = {"stable_subset": plan.stable_subset, "canary_subset": plan.canary_subset}
    found = istio.located(service, **names)
    canary, stable = (cluster.get("deployments", plan.namespace, one) for one in (plan.canary, plan.stable))
    if isinstance(found, Refusal) or canary is None or stable is None:
        return "", ""
    refused = told_apart(cluster, canary, stable, found, **names)
    strange = strangers(cluster, canary, stable, found, canary_subset=plan.canary_subset)
    return str(refused or ""), str(strange or "")


def _pinned(service: Json, plan: Plan) -> str:
    aside = detours.pinned(service, stable=plan.stable_subset, canary=plan.canary_subset)
    return " and ".join(aside)
