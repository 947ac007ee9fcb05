"""The VirtualService and the DestinationRule before a Rollout, as Serin steers them: two subsets."""

import copy
from typing import Any

from controller.convert import workload
from controller.convert.account import Account, BadObject, Target, inside, parsed
from controller.convert.argo_fields import ISTIO
from controller.convert.given import Given
from controller.convert.workload import Arms, Written

Json = Any
CANARY = "spec.strategy.canary"
ACTIVE = "spec.strategy.blueGreen.activeService"
ISTIOS = f"{CANARY}.trafficRouting.istio"
ALL = 100  # percent
HASH = "rollouts-pod-template-hash"


def istio(account: Account, given: Given, written: Written, arms: Arms, label: str) -> None:
    """Both are written: changed where they are given, made where there are none."""
    service = account.get(f"{CANARY}.stableService", str)
    canary = account.get(f"{CANARY}.canaryService", str)
    named = account.any(f"{ISTIOS}.virtualService.name") or account.any(f"{ISTIOS}.virtualServices")
    active = account.get(ACTIVE, str)
    host = service or active or arms.stable  # what callers name
    if not named:
        route = {"route": workload.split(host, arms)}
        written.add(workload.routed(arms.virtual_service, arms, hosts=[host], route=route))
        written.todo.append(
            f"Service {host} is yours to have: its selector has to take in the pods of both arms (so no "
            f"{label} in it), and the namespace needs Istio's sidecars"
        )
    elif there := given.find("VirtualService", arms.virtual_service, account.source):
        host = _rewritten(there, written, arms, (service, canary))
    else:
        then = "its routes get the two subsets"
        written.todo.append(_give("VirtualService", arms.virtual_service, arms, then))
    if service:
        written.todo.append(_freed(service, "step 2"))
    elif active:
        written.todo.append(_freed(active, "with blueGreen"))
    _rule(account, given, written, arms, (host, label))
    _services(account, written, host)


def _rule(account: Account, given: Given, written: Written, arms: Arms, by: tuple[str, str]) -> None:
    """The DestinationRule tells the arms of the host apart by the label."""
    host, label = by
    name = account.name(f"{ISTIOS}.destinationRule.name")
    there = given.find("DestinationRule", name, account.source) if name else None
    if there:
        _told_apart(there, written, arms, label)
    elif name:
        then = f"its subsets tell the arms apart by {label}"
        written.todo.append(_give("DestinationRule", name, arms, then))
    else:
        written.add(workload.destination_rule(name or host.partition(".")[0], host, arms, label))


def _services(account: Account, written: Written, host: str) -> None:
    """What becomes of the two Services."""
    rule = next((obj for obj in written.objects if obj["kind"] == "DestinationRule"), None)
    if rule is not None and rule["spec"]["host"] == host:
        note = "its selector takes in the pods of both arms, without Argo's hash"
        to = Target("DestinationRule", rule["metadata"]["name"], ("spec", "host"))
        account.becomes(f"{CANARY}.stableService", to, note)
        account.becomes(ACTIVE, to, note)
        account.becomes(f"{ISTIOS}.destinationRule.name", Target(to.kind, to.name, ("metadata", "name")))


def _rewritten(there: Account, written: Written, arms: Arms, services: tuple[str | None, str | None]) -> str:
    """The VirtualService is written with subsets for the two Services; the host of the steered routes."""
    obj = _copied(there, arms)
    found: set[str] = set()
    for at in there.each("spec.http"):
        there.get(at, dict)  # or it is said to be none
        targets = there.get(f"{at}.route", list) or []
        changed = [_to_subset(there, arms, services, each) for each in targets]
        hosts = {host for host, subset in changed if subset == arms.stable_subset}
        both = {arms.stable_subset, arms.canary_subset} <= {subset for _, subset in changed}
        if both and len(changed) > 2:  # whose weight would be lost, and Serin steers two
            raise _crowded(there, at, arms, changed)
        route = inside(obj, parsed(at)).get("route") or []
        for each, (host, subset) in zip(route, changed, strict=True):
            if subset is not None:
                each["destination"] = {**each["destination"], "host": host, "subset": subset}
            if both:
                each["weight"] = ALL if subset == arms.stable_subset else 0
        if both:
            found |= hosts
            to = Target("VirtualService", arms.virtual_service, parsed(f"{at}.route"))
            there.becomes(f"{at}.route", to, "one host with two subsets")
    if not found:
        why = "has no route to both arms; give one stableService and canaryService, or both subsets"
        raise there.bad(("spec", "http"), why)
    written.add(obj)
    _kept(there, Target("VirtualService", arms.virtual_service, ()))
    return min(found)


def _crowded(there: Account, at: str, arms: Arms, changed: list[tuple[str, str | None]]) -> BadObject:
    """The error that names the destination which shares a route with both arms."""
    ours = [arms.stable_subset, arms.canary_subset]
    thirds = [place for place, (_, subset) in enumerate(changed) if subset not in ours]
    place = thirds[0] if thirds else len(changed) - 1
    host, subset = changed[place]
    what = f"host {host}" + (f", subset {subset}" if subset else "")
    why = (
        f"{what} shares a route with both arms, and what goes there would be lost: Serin steers two "
        "destinations; give it a route of its own, or take it out"
    )
    return there.bad((*parsed(f"{at}.route"), place), why)


def _to_subset(
    there: Account, arms: Arms, services: tuple[str | None, str | None], target: Json
) -> tuple[str, str | None]:
    """Host and subset of a destination: a Service of one arm is that arm's subset of stable's."""
    destination = target.get("destination") if isinstance(target, dict) else None
    if not isinstance(destination, dict):
        raise there.bad(("spec", "http"), f"expected destinations in route, got {target!r:.60}; correct it")
    host, subset = str(destination.get("host")), destination.get("subset")
    name, dot, rest = host.partition(".")
    stable, canary = services
    if subset is None and name in {stable, canary} and stable and canary:
        return f"{stable}{dot}{rest}", arms.stable_subset if name == stable else arms.canary_subset
    return host, subset


def _copied(there: Account, arms: Arms) -> Json:
    """The object as it is to be written."""
    obj = copy.deepcopy(there.document)
    obj.pop("status", None)
    obj["apiVersion"] = "networking.istio.io/v1"
    obj["metadata"] = arms.metadata(there.source.name, there.get("metadata.labels", dict))
    if not isinstance(obj.get("spec"), dict):
        raise there.bad(("spec",), "is missing; give the whole object")
    return obj


def _kept(there: Account, to: Target) -> None:
    """All other fields are as they were."""
    for path, _ in there.unclaimed():
        if path[0] == "spec" or path[:2] == ("metadata", "labels"):
            there.becomes_at(path, Target(to.kind, to.name, path))
    there.settle(ISTIO)


def _told_apart(there: Account, written: Written, arms: Arms, label: str) -> None:
    """The DestinationRule is written with subsets that tell the arms apart."""
    obj = _copied(there, arms)
    ours = {each["name"]: each for each in workload.subsets(arms, label)}
    for at in there.each("spec.subsets"):
        name = there.get(f"{at}.name", str)
        if name in ours:
            path = parsed(f"{at}.labels")
            inside(obj, path[:-1])["labels"] = ours.pop(name)["labels"]
            to = Target("DestinationRule", there.source.name, path)
            there.becomes(f"{at}.labels", to, "the label that tells the arms apart")
    obj["spec"]["subsets"] = [*(obj["spec"].get("subsets") or []), *ours.values()]
    written.add(obj)
    _kept(there, Target("DestinationRule", there.source.name, ()))


def _freed(service: str, where: str) -> str:
    """Argo's own hash in the selector leaves the new pods out: both subsets would be empty."""
    return (
        f"Service {service}: its selector must not hold {HASH} before this VirtualService is applied, or "
        f"neither subset has a pod; how, and how to see it: docs/migrating.md, from Argo Rollouts, {where}"
    )


def _give(kind: str, name: str, arms: Arms, then: str) -> str:
    get = f"kubectl get {kind.lower()} {name}{arms.within} -o yaml"
    return f"{kind} {name} is not among the files; give it too ({get}), and {then}"
