"""What must hold for a weight to mean what it says: subsets that tell the arms apart, and sidecars. Pure."""

from collections.abc import Mapping, Sequence

from controller.detours import fqdn
from controller.istio import Refusal, Steering
from controller.ports import Json


def told_apart(
    rules: Sequence[Json],
    found: Steering,
    *,
    stable_subset: str,
    canary_subset: str,
    stable_labels: Sequence[Mapping[str, str]],
    canary_labels: Sequence[Mapping[str, str]],
) -> Refusal | None:
    """Why the DestinationRules do not tell the arms apart; None if each subset selects its arm alone.

    `rules` may be all of the namespace; those for the steered host count. Labels are those of each pod
    of an arm, and of its template, so that an arm without pods is judged too.
    """
    mine = [rule for rule in rules if fqdn(rule.get("spec", {}).get("host", ""), rule) == found.host]
    if not mine:
        both = f"the subsets {stable_subset} and {canary_subset}"
        return Refusal("DestinationRule", "none", f"add one for the host {found.host}, with {both}")
    subsets = {
        item["name"]: (rule["metadata"]["name"], item.get("labels") or {})
        for rule in mine
        for item in rule["spec"].get("subsets") or []
    }
    arms = (stable_subset, stable_labels, canary_labels), (canary_subset, canary_labels, stable_labels)
    names = " and ".join(rule["metadata"]["name"] for rule in mine)
    refused = (_told_apart(name, names, subsets, mine=own, theirs=other) for name, own, other in arms)
    return next(filter(None, refused), None)


def _told_apart(
    name: str,
    rules: str,
    subsets: Mapping[str, tuple[str, Mapping[str, str]]],
    *,
    mine: Sequence[Mapping[str, str]],
    theirs: Sequence[Mapping[str, str]],
) -> Refusal | None:
    """Why the subset `name` does not select all of `mine` and none of `theirs`."""
    if name not in subsets:
        known = ", ".join(sorted(subsets)) or "none"
        return Refusal(
            f"DestinationRule {rules}: spec.subsets",
            known,
            f"add subset {name}, which selects the pods of its arm alone",
        )
    rule, labels = subsets[name]
    where = f"DestinationRule {rule}: spec.subsets[{name}].labels"
    value = ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "empty"
    if any(labels.items() <= pod.items() for pod in theirs):
        return Refusal(
            where, value, "it selects pods of the other arm too; add a label that only its own pods have"
        )
    if not all(labels.items() <= pod.items() for pod in mine):
        return Refusal(
            where, value, "it does not select every pod of its arm; use labels of its pod template"
        )
    return None


def ambient(namespace: Json, pods: Sequence[Mapping[str, str]] = ()) -> Refusal | None:
    """Why the namespace's traffic does not obey a VirtualService; None in sidecar mode.

    `pods` are the labels of each pod (or template): the label on a pod overrides the namespace's.
    """
    mode = "istio.io/dataplane-mode"
    default = (namespace.get("metadata", {}).get("labels") or {}).get(mode)
    if any(labels.get(mode, default) == "ambient" for labels in (*pods, *([] if pods else [{}]))):
        remedy = f"use sidecars (remove {mode}, set istio-injection=enabled); waypoints are not steered yet"
        return Refusal(f"label {mode}", "ambient", remedy)
    return None
