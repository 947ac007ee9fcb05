"""How a Deployment's pods move from one template to the next: the arithmetic. Pure.

As in kube-controller-manager: the new ReplicaSet grows as far as the surge allows, old ones shrink as
far as availability allows, broken pods of old ones first.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from scenarios.cluster.patches import same

Json = Any

HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
_SUFFIXES = {
    suffix: Decimal(1000) ** power for power, suffix in enumerate(["n", "u", "m", "", *"kMGTPE"], -3)
}
_SUFFIXES |= {f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)}
_QUANTITY = re.compile(rf"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)({'|'.join(_SUFFIXES)})")
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' own: no vowels, so no words


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """One ReplicaSet as the arithmetic sees it."""

    name: str
    wanted: int  # spec.replicas
    available: int
    pods: int = 0  # all there are, those that are stopping too


def hashed(template: Json) -> Json:
    """The template with a label of ten characters that differ where templates do."""
    text = json.dumps(unhashed(template), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    label = {HASH: "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:10])}
    meta = template.get("metadata") or {}
    return {**template, "metadata": {**meta, "labels": {**(meta.get("labels") or {}), **label}}}


def unhashed(template: Json) -> Json:
    """The template without the label that says its hash."""
    meta = template.get("metadata") or {}
    labels = {key: value for key, value in (meta.get("labels") or {}).items() if key != HASH}
    rest = {key: value for key, value in meta.items() if key != "labels" and value}
    return {**template, "metadata": {**rest, **({"labels": labels} if labels else {})}}


def is_of(replica_set: Json, template: Json) -> bool:
    """Whether the ReplicaSet's pods are made from this template, however its quantities are written."""
    mine, other = (_meant(unhashed(one)) for one in (replica_set["spec"]["template"], template))
    return same(mine, other)


def _meant(template: Json) -> Json:
    """The template with what its containers may use as numbers: 1Gi is 1073741824 to Kubernetes."""
    return {**template, "spec": {**template["spec"], **_sized(template["spec"])}}


def _sized(spec: Json) -> dict[str, Json]:
    kinds = [name for name in ("containers", "initContainers") if spec.get(name)]
    return {name: [_numbered(one) for one in spec[name]] for name in kinds}


def _numbered(container: Json) -> Json:
    asked = container.get("resources") or {}
    kinds = {name: asked[name] for name in ("limits", "requests") if asked.get(name)}
    numbers = {name: {key: _number(value) for key, value in kind.items()} for name, kind in kinds.items()}
    return {**container, "resources": {**asked, **numbers}} if numbers else container


def _number(quantity: str | int) -> str:
    """A Kubernetes quantity as one spelling of its value (1.5Gi, 100m, 1e3, 2); as it is if it is none."""
    found = _QUANTITY.fullmatch(str(quantity))
    if found is None:
        return str(quantity)
    digits, suffix = found.groups()
    return format((Decimal(digits) * _SUFFIXES[suffix]).normalize(), "f")


def bounds(deployment: Json) -> tuple[int, int]:
    """(surge, unavailable) in pods: surge rounds up, unavailable down, and not both are 0."""
    spec = deployment["spec"]
    if spec["strategy"]["type"] != "RollingUpdate":
        return 0, spec["replicas"]
    rolling = spec["strategy"]["rollingUpdate"]
    surge = math.ceil(_pods(rolling["maxSurge"], spec["replicas"]))
    unavailable = math.floor(_pods(rolling["maxUnavailable"], spec["replicas"]))
    return surge, unavailable if surge or unavailable else 1


def _pods(share: Json, replicas: int) -> float:
    if isinstance(share, str):
        return float(share.removesuffix("%")) * replicas / 100
    return float(share)


def sizes(deployment: Json, new: Set | None, old: Sequence[Set]) -> Mapping[str, int]:
    """The sizes to set now, by ReplicaSet; nothing if all are as they should be for the moment.

    `old` is in order of age. The new one grows first; old ones shrink in a later pass.
    """
    wanted: int = deployment["spec"]["replicas"]
    if deployment["spec"].get("paused"):
        return _as_one([*old, *([new] if new else [])], wanted)
    if new is None:
        return {}
    if deployment["spec"]["strategy"]["type"] == "Recreate":
        return _recreated(new, old, wanted)
    surge, unavailable = bounds(deployment)
    return _grown(new, old, wanted, wanted + surge) or _shrunk(new, old, wanted - unavailable)


def _as_one(sets: Sequence[Set], wanted: int) -> Mapping[str, int]:
    """A paused Deployment still follows its size, as long as one ReplicaSet has all the pods."""
    active = [item for item in sets if item.wanted]
    if len(active) == 1 and active[0].wanted != wanted:
        return {active[0].name: wanted}
    return {}


def _recreated(new: Set, old: Sequence[Set], wanted: int) -> Mapping[str, int]:
    """First no old pod is left, not even one that is stopping; then there are new ones."""
    busy = {item.name: 0 for item in old if item.wanted}
    done = new.wanted == wanted or any(item.pods for item in old)
    return busy or ({} if done else {new.name: wanted})


def _grown(new: Set, old: Sequence[Set], wanted: int, most: int) -> Mapping[str, int]:
    if new.wanted > wanted:
        return {new.name: wanted}
    room = most - new.wanted - sum(item.wanted for item in old)
    more = min(room, wanted - new.wanted)
    return {new.name: new.wanted + more} if more > 0 else {}


def _shrunk(new: Set, old: Sequence[Set], least: int) -> Mapping[str, int]:
    """Old ReplicaSets without their broken pods, and then without those that are not needed."""
    pods = new.wanted + sum(item.wanted for item in old)
    spare = pods - least - (new.wanted - new.available)
    if spare <= 0:
        return {}
    left = {item.name: item.wanted for item in old}
    for item in old:
        broken = min(spare, max(0, item.wanted - item.available))
        left[item.name] -= broken
        spare -= broken
    excess = new.available + sum(item.available for item in old) - least
    for item in old:
        fewer = max(0, min(left[item.name], excess))
        left[item.name] -= fewer
        excess -= fewer
    return {item.name: left[item.name] for item in old if left[item.name] != item.wanted}
