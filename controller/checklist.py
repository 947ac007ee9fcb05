"""The production checklist before a canary: objects in, findings out.

Pure. `serin preflight` and a run before its first weight ask the same. An item passes, fails, or is unknown
where it cannot be told from the objects; whatever fails comes with the figures and with what mends it. It
reads what the controller may read anyway, and writes nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from controller import detours, exposure, floor, neighbours, podspec, selected
from controller.asks import unsteerable
from controller.exposure import of_policy
from controller.items import Finding, Grounds, Item, Patch, Result, worst
from controller.model import Reason
from controller.resource import DRILL
from controller.shadow import ARTIFACT, BASELINE, REFERENCE
from controller.telling import heard

Json = Any

DRILL_WITHIN = 300.0  # s
DRILL_AGE = timedelta(days=30)
STAYS = "labels that each version of an arm has; and before the VirtualService, or callers get a 503"
TRAIN = "https://TRAINING.EXAMPLE/hook"


def looked_at(grounds: Grounds) -> list[Item]:
    """Every item of the list that the policy does not skip, in the order in which people mend them."""
    items = (
        *podspec.looked_at(grounds),
        *floor.looked_at(grounds),
        podspec.versions(grounds),
        routes(grounds),
        *exposure.looked_at(grounds),
        baseline(grounds),
        retraining(grounds),
        drill(grounds),
    )
    return [one for one in items if one.name not in grounds.policy.preflight_skip]


def failed(items: Iterable[Item]) -> list[Item]:
    """Those that failed."""
    return [one for one in items if one.result is Result.FAIL]


# -- routes ----------------------------------------------------------------------------------------


def routes(grounds: Grounds) -> Item:
    """VirtualService and DestinationRule send requests where the weights say."""
    plan, name = grounds.plan, "routes"
    for kind in ("virtualservices", "destinationrules"):
        if kind in grounds.unread:
            return Item(name=name, result=Result.UNKNOWN, why=f"{kind} may not be read here")
    refused = unsteerable(grounds.cluster, plan, grounds.canary)
    narrow = selected.narrow(grounds, _split_host(grounds))
    past = [*_past(grounds)] if refused is None else []
    if past or (refused is None and narrow is not None):
        return worst(name, [*past, *([] if narrow is None else [narrow])])
    if refused is None:
        why = (
            f"VirtualService {plan['virtualService']} splits {plan['stable']} and {plan['canary']} by weight"
        )
        said = f"{why}{_within_mesh(grounds)}{_pinned(grounds)}{selected.unseen(grounds)}"
        return Item(name=name, result=Result.PASS, why=said)
    labels = _labels(grounds)
    if labels is None and not _ruled(grounds):
        mend = (
            f"first give the pods of {plan['stable']} and {plan['canary']} a label that tells them apart, as "
            "under versions, and look again: what to do about the routes stands here then"
        )
        return Item(name=name, result=Result.FAIL, why=refused, mend=mend)
    # a route to a subset that no rule has is answered with a 503: the rule comes first
    tried = [None if labels is None else _told_apart(grounds, labels), _routed(grounds)]
    tried += [] if narrow is None else [narrow.patch]  # last: else the canary is met before
    patches = tuple(one for one in tried if one is not None)
    mend = "let a DestinationRule tell the arms apart, and then one route name both subsets"
    why = refused if narrow is None else f"{refused}; {narrow.why}"
    return Item(name=name, result=Result.FAIL, why=why, mend=mend, patches=patches)


def _past(grounds: Grounds) -> Iterator[Finding]:
    """Other VirtualServices whose requests meet the canary whatever the weight, or take the split away."""
    plan = grounds.plan
    ours = grounds.cluster.get("virtualservices", grounds.namespace, plan["virtualService"])
    host = detours.fqdn(_split_host(grounds), ours)
    for other in grounds.cluster.all("virtualservices", grounds.namespace):
        name = other["metadata"]["name"]
        if other is ours:
            continue
        if where := detours.around(other, host=host):
            why = (
                f"VirtualService {name}: {where} leads to host {host} without a subset, so that its callers "
                f"meet {plan['canary']} whatever the weight"
            )
            mend = (
                f"let VirtualService {name} name subset {plan['stableSubset']} there, or put its hosts and "
                f"routes into VirtualService {plan['virtualService']}"
            )
            yield Finding(Result.FAIL, why, mend=mend)
        elif shared := detours.doubled(other, ours):
            why = f"VirtualService {name} has host {', '.join(shared)} too, of which sidecars read the older"
            mend = f"put the routes of VirtualService {name} into VirtualService {plan['virtualService']}"
            yield Finding(Result.FAIL, why, mend=mend)


def _within_mesh(grounds: Grounds) -> str:
    """In words, that callers with a sidecar who name the Service itself are not split; empty if they are."""
    plan = grounds.plan
    ours: Json = grounds.cluster.get("virtualservices", grounds.namespace, plan["virtualService"])
    host, spec = detours.fqdn(_split_host(grounds), ours), ours["spec"]
    hosts = {detours.fqdn(str(one), ours) for one in spec["hosts"]}
    if "mesh" not in (spec.get("gateways") or ["mesh"]):
        lacks = "spec.gateways lacks mesh"
    elif host not in hosts and not any("*" in one for one in hosts):
        lacks = "spec.hosts lacks it"
    else:
        return ""
    return f"; who calls {host} from within the mesh is not split, and meets {plan['canary']} too ({lacks})"


def _pinned(grounds: Grounds) -> str:
    """In words, the routes whose callers meet the canary at weight 0, too: its owner wants it so, we hope."""
    plan = grounds.plan
    service = grounds.cluster.get("virtualservices", grounds.namespace, plan["virtualService"])
    aside = detours.pinned(service, stable=plan["stableSubset"], canary=plan["canarySubset"])
    return f"; whatever the weight, {plan['canary']} has what matches {' and '.join(aside)}" if aside else ""


def _routed(grounds: Grounds) -> Patch | None:
    """A VirtualService whose only destination is split in two; a new one where there is none."""
    plan = grounds.plan
    stable, canary, service = plan["stableSubset"], plan["canarySubset"], plan["virtualService"]
    found = grounds.cluster.get("virtualservices", grounds.namespace, service)
    if found is None:
        http = [{"route": _split(service, stable, canary)}]
        body: Json = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": service, "namespace": grounds.namespace},
            "spec": {"hosts": [service], "http": http},
        }
        return grounds.patch("VirtualService", "", body, "hosts: the Service that callers name")
    given = found["spec"].get("http") or []
    targets = [target for http in given for target in http.get("route") or ()]
    hosts = {target.get("destination", {}).get("host") for target in targets}
    subsets = {target.get("destination", {}).get("subset") for target in targets}
    if len(hosts) != 1 or not subsets <= {None, stable} or any("delegate" in http for http in given):
        return None
    (host,) = hosts
    after = [http | {"route": _split(host, stable, canary)} if http.get("route") else http for http in given]
    return grounds.patch("VirtualService", service, {"spec": {"http": after}})


def _split(host: Json, stable: str, canary: str) -> list[Json]:
    return [
        {"destination": {"host": host, "subset": subset}, "weight": weight}
        for subset, weight in ((stable, 100), (canary, 0))
    ]


def _labels(grounds: Grounds) -> tuple[dict[str, str], ...] | None:
    """By what each arm's pods are told from the other's: their selectors, or else their version labels."""
    selectors = [one["spec"]["selector"].get("matchLabels") or {} for one in grounds.arms]
    templates = [one["spec"]["template"]["metadata"].get("labels") or {} for one in grounds.arms]
    versions = [{key: one[key] for key in podspec.VERSIONS if key in one} for one in templates]
    for stable, canary in (selectors, versions):
        apart = [key for key in stable if stable[key] != canary.get(key, stable[key])]
        if apart:
            return tuple({key: one[key] for key in apart} for one in (stable, canary))
    return None


def _targets(grounds: Grounds) -> list[Json]:
    """All to whom the VirtualService sends requests."""
    found = grounds.cluster.get("virtualservices", grounds.namespace, grounds.plan["virtualService"]) or {}
    routes = (http.get("route") or () for http in found.get("spec", {}).get("http") or ())
    return [target for targets in routes for target in targets]


def _host(grounds: Grounds) -> str:
    """Where the VirtualService sends requests; what its name says, if it is not there."""
    hosts = (str(target["destination"]["host"]) for target in _targets(grounds))
    return next(hosts, str(grounds.plan["virtualService"]))


def _split_host(grounds: Grounds) -> str:
    """Of whom the canary is a subset; where nobody says so yet, where requests are sent."""
    canary = (one for one in _targets(grounds) if detours.subset(one) == grounds.plan["canarySubset"])
    return next((str(one["destination"]["host"]) for one in canary), _host(grounds))


def _rule(grounds: Grounds) -> Json | None:
    """The host's DestinationRule, whether that is written short or in full."""
    host = detours.fqdn(_host(grounds), {"metadata": {"namespace": grounds.namespace}})
    rules = grounds.cluster.all("destinationrules", grounds.namespace)
    return next((one for one in rules if detours.fqdn(one["spec"].get("host", ""), one) == host), None)


def _ruled(grounds: Grounds) -> bool:
    """Whether both subsets are there, whatever they select."""
    subsets = _names(((_rule(grounds) or {}).get("spec") or {}).get("subsets") or ())
    return {grounds.plan["stableSubset"], grounds.plan["canarySubset"]} <= set(subsets)


def _told_apart(grounds: Grounds, labels: Iterable[Mapping[str, str]]) -> Patch | None:
    """A DestinationRule whose subsets select by these labels of stable's and the canary's pods."""
    plan = grounds.plan
    names = plan["stableSubset"], plan["canarySubset"]
    subsets = [{"name": name, "labels": one} for name, one in zip(names, labels, strict=True)]
    mine = _rule(grounds)
    if mine is not None:
        if mine["spec"].get("subsets") == subsets:
            return None
        others = [one for one in mine["spec"].get("subsets") or () if one["name"] not in set(names)]
        after = {"spec": {"subsets": [*subsets, *others]}}
        return grounds.patch("DestinationRule", mine["metadata"]["name"], after, STAYS)
    new: Json = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": plan["virtualService"], "namespace": grounds.namespace},
        "spec": {"host": _host(grounds), "subsets": subsets},
    }
    return grounds.patch("DestinationRule", "", new, STAYS)


def _names(subsets: Iterable[Json]) -> list[str]:
    return [one["name"] for one in subsets]


# -- what comes after a model ----------------------------------------------------------------------


def baseline(grounds: Grounds) -> Item:
    """What the canary was trained on is named, and requests are compared with it."""
    name, canary = "drift-baseline", grounds.plan["canary"]
    notes = grounds.canary["spec"]["template"]["metadata"].get("annotations") or {}
    capture = "serin baseline capture TRAINING.csv --out MODEL.baseline.json"
    if not REFERENCE.fullmatch(notes.get(BASELINE, "")):
        reference = "file:///models/MODEL.baseline.json@sha256:DIGEST"
        body: Json = {"metadata": {"annotations": {BASELINE: reference}}}
        return Item(
            name=name,
            result=Result.FAIL,
            why=f"{canary}'s pod template names no {BASELINE}: nobody sees that inputs are others now",
            mend=f"capture the training once ({capture}) and name the file: docs/drift.md",
            patches=(podspec.in_template(grounds, grounds.canary, body, "capture prints the digest"),),
        )
    if grounds.policy.shadow is None:
        check = {"name": "shadow", "type": "Shadow", "maxFlips": "0.5%"}
        body = {"checks": [*grounds.plan["policy"]["checks"], check]}
        named = all(
            ARTIFACT in (one["spec"]["template"]["metadata"].get("annotations") or {}) for one in grounds.arms
        )
        note = "needs the shadow worker: docs/operations.md#shadow-checks"
        return Item(
            name=name,
            result=Result.FAIL,
            why=f"{canary} names its {BASELINE}, and no Shadow check records requests to compare with it",
            mend=f"add a Shadow check, and {ARTIFACT} to both pod templates: docs/drift.md",
            patches=(of_policy(grounds, body, note),) if named else (),
        )
    return Item(name=name, result=Result.PASS, why=f"recorded requests are compared with {notes[BASELINE]}")


def _none_of(alerts: int) -> str:
    return f"none of the policy's {alerts} alerts" if alerts > 1 else "no alert of the policy"


def retraining(grounds: Grounds) -> Item:
    """Whoever trains models is told when inputs have drifted."""
    name, alerts = "retraining-hook", grounds.policy.alerts
    if "canarypolicies" in grounds.unread:
        return Item(name=name, result=Result.UNKNOWN, why="canarypolicies may not be read here")
    told = [one.kind for one in alerts if heard(one, "Drifted", Reason.INPUTS_DRIFTED)]
    if told:
        return Item(name=name, result=Result.PASS, why=f"drift is told to a {' and a '.join(told)}")
    missed = "mild enough (severity: warning) for" if any("Drifted" in one.on for one in alerts) else "on"
    given = list(grounds.plan["policy"].get("alerts") or ())
    hook, note = {"webhook": {"url": TRAIN}, "on": ["Drifted"]}, "the URL of whatever starts a training"
    return Item(
        name=name,
        result=Result.FAIL,
        why=f"{_none_of(len(alerts))} is {missed} Drifted: nobody hears of inputs that changed",
        mend="name who trains: an alert with on: [Drifted] (docs/drift.md)",
        patches=(of_policy(grounds, {"alerts": [*given, hook]}, note),),
    )


def drill(grounds: Grounds) -> Item:
    """A rollback of this canary was measured of late, and was fast enough."""
    name, canary = "rollback-drill", grounds.plan["canary"]
    if "canaryruns" in grounds.unread:
        return Item(name=name, result=Result.UNKNOWN, why="canaryruns may not be read here")
    runs = neighbours.runs_of(grounds.cluster, grounds.namespace, canary)
    drills = [one for one in map(_drilled, runs) if one is not None]
    mend = f"kubectl serin drill {canary} -n {grounds.namespace}"
    if not drills:
        why = f"no rollback of {canary} was measured that is on record"
        return Item(name=name, result=Result.FAIL, why=why, mend=mend)
    at, took = max(drills)
    late, slow = grounds.now - at > DRILL_AGE, took > DRILL_WITHIN
    # What is beyond a limit is not rounded back to it.
    days, tenths = (grounds.now - at) / timedelta(days=1), 10 * took
    ago, seconds = ceil(days) if late else int(days), (ceil(tenths) if slow else round(tenths)) / 10
    said = f"a rollback of {canary} took {seconds:.1f} s, {ago} day{'' if ago == 1 else 's'} ago"
    if not late and not slow:
        return Item(name=name, result=Result.PASS, why=said)
    limit = f"{DRILL_WITHIN:g} s are allowed" if slow else f"{DRILL_AGE.days} days are the most"
    return Item(name=name, result=Result.FAIL, why=f"{said}; {limit}", mend=mend)


def _drilled(run: Json) -> tuple[datetime, float] | None:
    """When a run's rollback was measured, and its seconds; somebody's edit is none."""
    said = (run["metadata"].get("annotations") or {}).get(DRILL)
    ended: Json = ((run.get("status") or {}).get("state") or {}).get("ended")
    try:
        at, seconds = datetime.fromisoformat(ended), float(str(said))
    except (TypeError, ValueError):
        return None
    return (at, seconds) if at.tzinfo and 0 <= seconds < float("inf") else None


# -- in words --------------------------------------------------------------------------------------


def summary(items: Iterable[Item]) -> str:
    """What failed, in a sentence for Events, alerts and status."""
    found = failed(items)
    several = "" if len(found) == 1 else "s"
    said = "; ".join(f"{one.name}: {one.why}" for one in found)
    return f"preflight: {len(found)} item{several} of the checklist failed: {said}"
