"""The Deployments of both arms, and Istio's objects before them."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.convert.account import Account, Target
from controller.convert.fields import OBJECT
from controller.trigger import LONGEST_NAME

Json = Any
STABLE, CANARY = "stable", "canary"
ARM = "version"  # the label that tells the arms apart, where the pods do not have it already
OTHER_ARM = "arm"
PREFIX = "serin.dev/"
BOTH = ("selector", "template")
WRITTEN_BY_OTHERS = (
    "kubectl.kubernetes.io/",
    "deployment.kubernetes.io/",
    "rollout.argoproj.io/",
    "notifications.argoproj.io/",
)


@dataclass(slots=True)
class Written:
    """The objects of one canary, and annotations for a Deployment that is not among them."""

    objects: list[Json] = field(default_factory=list)
    annotations: dict[str, dict[str, str]] = field(default_factory=dict)  # by Deployment
    todo: list[str] = field(default_factory=list)  # what is left to people

    def add(self, obj: Json) -> Json:
        """The object is written too."""
        self.objects.append(obj)
        return obj

    def found(self, target: Target) -> Json:
        """What is written at the target; raises `LookupError` if nothing is."""
        if target.kind == "Annotations":
            value: Json = self.annotations[target.name]
        else:
            value = next(
                obj
                for obj in self.objects
                if (obj["kind"], obj["metadata"]["name"]) == (target.kind, target.name)
            )
        for part in target.path:
            value = value[part]
        return value


@dataclass(frozen=True, slots=True)
class Arms:
    """Names of a canary's parts."""

    stable: str
    policy: str
    namespace: str | None
    virtual_service: str
    stable_subset: str = STABLE
    canary_subset: str = CANARY

    @property
    def within(self) -> str:
        """The flag that says where they are, if that is known."""
        return f" -n {self.namespace}" if self.namespace else ""

    @property
    def canary(self) -> str:
        """The canary's Deployment."""
        return f"{self.stable[: LONGEST_NAME - len('-canary')].rstrip('-.')}-canary"

    def annotations(self) -> dict[str, str]:
        """What asks for the canary."""
        said = {"canary-of": self.stable, "policy": self.policy}
        if self.virtual_service != self.stable:
            said["virtual-service"] = self.virtual_service
        if self.stable_subset != STABLE:
            said["stable-subset"] = self.stable_subset
        if self.canary_subset != CANARY:
            said["canary-subset"] = self.canary_subset
        return {f"{PREFIX}{name}": value for name, value in said.items()}

    def metadata(self, name: str, labels: Json = None, annotations: Json = None) -> Json:
        """Metadata of an object of that name."""
        said = {"name": name, "namespace": self.namespace, "labels": labels, "annotations": annotations}
        return {key: value for key, value in said.items() if value}


def ask(written: Written, arms: Arms, annotations: Mapping[str, str] | None = None) -> None:
    """The canary's Deployment asks, whether it is written or not."""
    said = {**arms.annotations(), **(annotations or {})}
    for obj in written.objects:
        if (obj["kind"], obj["metadata"]["name"]) == ("Deployment", arms.canary):
            obj["metadata"]["annotations"] = {**obj["metadata"].get("annotations", {}), **said}
            return
    written.annotations[arms.canary] = said


def asked(written: Written, arms: Arms, name: str) -> Target:
    """Where the annotation stands."""
    if arms.canary in written.annotations:
        return Target("Annotations", arms.canary, (f"{PREFIX}{name}",))
    return Target("Deployment", arms.canary, ("metadata", "annotations", f"{PREFIX}{name}"))


# -- Deployments -----------------------------------------------------------------------------------


def deployments(written: Written, account: Account, arms: Arms, *, spec: Json) -> str:
    """Both Deployments are written from `spec`; the name of the label that tells their pods apart."""
    for path in ("spec.selector.matchLabels", "spec.template.metadata.labels"):
        account.get(path, dict)  # or it is said to be none
    label = told_apart_by(spec)
    if spec.get("revisionHistoryLimit") == 0:
        spec = spec | {"revisionHistoryLimit": 2}  # or a failed promotion could not be taken back
    if not spec.get("replicas"):
        spec = {name: value for name, value in spec.items() if name != "replicas"}  # of 0 no HPA makes more
        written.todo.append(_unsized(arms))
    labels, notes = account.get("metadata.labels", dict), _annotations(account)
    for arm, name in ((STABLE, arms.stable), (CANARY, arms.canary)):
        own = copy.deepcopy(spec)
        _within(own, "selector", "matchLabels")[label] = arm
        _within(own, "template", "metadata", "labels")[label] = arm
        if arm == CANARY:
            own["replicas"] = 1  # Match scales it up with the weight
        body = {"apiVersion": "apps/v1", "kind": "Deployment"}
        written.add(body | {"metadata": arms.metadata(name, labels, dict(notes)), "spec": own})
    return label


def _unsized(arms: Arms) -> str:
    return (
        f"Deployment {arms.stable} is written without replicas, and begins with one pod: before requests are "
        f"led to it give it as many as serve now (kubectl scale deployment {arms.stable}{arms.within} "
        "--replicas=N), since an HPA adds those that load wants only when there is load"
    )


def _within(value: Json, *path: str) -> Json:
    """The mapping there, made where there is none."""
    for part in path:
        value[part] = value.get(part) or {}
        value = value[part]
    return value


def _annotations(account: Account) -> dict[str, Json]:
    """Those that people wrote."""
    found = account.get("metadata.annotations", dict) or {}
    return {key: value for key, value in found.items() if not key.startswith(WRITTEN_BY_OTHERS)}


def told_apart_by(spec: Json) -> str:
    """A label that the pods do not use for anything else."""
    selector = ((spec.get("selector") or {}).get("matchLabels")) or {}
    template = (((spec.get("template") or {}).get("metadata") or {}).get("labels")) or {}
    return OTHER_ARM if ARM in selector or ARM in template else ARM


def own(written: Written, account: Account, arms: Arms, *, replicas: int | None = None) -> str:
    """Both Deployments are written from one that is given; the label that tells their pods apart."""
    if not account.free("spec.template"):
        raise account.bad(
            ("spec", "template"), "is missing, or the target of two canaries; give each its own"
        )
    spec = account.get("spec", dict) or {}
    told = {} if replicas is None else {"replicas": replicas}
    label = deployments(written, account, arms, spec=spec | told)
    carried(account, arms, [name for name in spec if name not in told])
    account.settle(OBJECT)
    return label


def carried(account: Account, arms: Arms, names: Iterable[str]) -> None:
    """These fields, labels and annotations are claimed: the Deployments have them."""
    for name in names:
        if name == "replicas" and not account.any("spec.replicas"):
            account.missing("spec.replicas", "scaled to 0 by the peer, or by people: not written")
            continue
        to, note = Target("Deployment", arms.stable, ("spec", name)), ""
        if name in BOTH:
            note = f"and of Deployment {arms.canary}, each with a label of its own"
            if name == "selector":
                note += "; a Deployment's selector cannot be changed, so make it anew (docs/migrating.md)"
        elif name == "replicas":
            note = f"Deployment {arms.canary} begins with one, and is scaled up with its weight"
        elif name == "revisionHistoryLimit" and account.any("spec.revisionHistoryLimit") == 0:
            note = "with 0 a failed promotion could not be taken back"
        account.becomes(f"spec.{name}", to, note)
    if account.get("metadata.labels", dict):
        account.becomes("metadata.labels", Target("Deployment", arms.stable, ("metadata", "labels")))
    for key in _annotations(account):
        to = Target("Deployment", arms.stable, ("metadata", "annotations", key))
        account.becomes(f'metadata.annotations["{key}"]', to)


# -- Istio -----------------------------------------------------------------------------------------


def split(host: str, arms: Arms) -> list[Json]:
    """All requests to stable, and the place where the canary gets its own."""
    return [
        {"destination": {"host": host, "subset": subset}, "weight": weight}
        for subset, weight in ((arms.stable_subset, 100), (arms.canary_subset, 0))
    ]


def subsets(arms: Arms, label: str) -> list[Json]:
    """Both subsets."""
    both = ((arms.stable_subset, STABLE), (arms.canary_subset, CANARY))
    return [{"name": name, "labels": {label: arm}} for name, arm in both]


def destination_rule(name: str, host: str, arms: Arms, label: str, *, policy: Json = None) -> Json:
    """A DestinationRule that tells the arms apart."""
    traffic = {"trafficPolicy": policy} if policy else {}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": arms.metadata(name),
        "spec": {"host": host, **traffic, "subsets": subsets(arms, label)},
    }


def routed(name: str, arms: Arms, *, hosts: Iterable[str], route: Json, gateways: Json = None) -> Json:
    """A VirtualService with one route."""
    through = {"gateways": gateways} if gateways else {}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": arms.metadata(name),
        "spec": {"hosts": list(hosts), **through, "http": [route]},
    }
