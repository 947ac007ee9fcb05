"""The objects of many canaries, and the loopback addresses of their pods."""

from collections.abc import Mapping
from typing import Any

Json = Any

PER_NAMESPACE = 10  # canaries of one team
MOST_PODS = 1024  # of one arm; canaries have so many addresses each
ARMS = ("stable", "canary")
PODS: Mapping[str, int] = {"stable": 3, "canary": 2}


def namespace(index: int) -> str:
    """The namespace of the canary with this number."""
    return f"team-{index // PER_NAMESPACE:03d}"


def name(index: int) -> str:
    """The name of its stable Deployment, VirtualService and DestinationRule."""
    return f"model-{index:04d}"


def address(index: int, arm: str, pod: int) -> str:
    """The pod's address: one of loopback's 16 million."""
    number = ((index + 1) * len(ARMS) + ARMS.index(arm)) * MOST_PODS + pod
    return f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def place(address: str) -> tuple[int, str, int]:
    """The canary's number, the arm and the pod's number at an address."""
    _, high, middle, low = map(int, address.split("."))
    both, pod = divmod(high << 16 | middle << 8 | low, MOST_PODS)
    index, arm = divmod(both, len(ARMS))
    return index - 1, ARMS[arm], pod


def namespaces(count: int) -> list[Json]:
    """A namespace for each team, and its policy: one step at which the run stays."""
    found: list[Json] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "serin-system"}}]
    for within in sorted({namespace(index) for index in range(count)}):
        found.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": within}})
        found.append(_named("serin.dev/v1alpha1", "CanaryPolicy", within, "default", spec=POLICY))
    return found


# 40 % of the traffic on two pods beside three: the load of each is the same. Nobody's step passes.
POLICY: Json = {
    "steps": [40],
    "warmUp": "5s",
    "minStep": "48h",
    "stepTimeout": "72h",
    "checks": [
        {"name": "latency", "type": "Latency", "quantile": 0.95, "maxIncrease": "20%"},
        {"name": "errors", "type": "ErrorRate", "maxIncrease": "50%", "plus": "0.1%"},
        {"name": "predictions", "type": "Predictions", "tolerance": 0.05},
    ],
}


def objects(index: int, *, pods: Mapping[str, int], port: int) -> list[Json]:
    """All that belongs to one canary; the Deployment that asks for the run comes last."""
    within, called = namespace(index), name(index)
    subsets = [{"name": arm, "labels": {"version": arm}} for arm in ARMS]
    route = [
        {"destination": {"host": called, "subset": arm}, "weight": weight}
        for arm, weight in zip(ARMS, (100, 0), strict=True)
    ]
    istio = "networking.istio.io/v1"
    rule = _named(istio, "DestinationRule", within, called, spec={"host": called, "subsets": subsets})
    service = {"hosts": [called], "http": [{"name": "primary", "route": route}]}
    return [
        rule,
        _named(istio, "VirtualService", within, called, spec=service),
        *(_deployment(index, arm, pods[arm], port=port) for arm in ARMS),
    ]


def _deployment(index: int, arm: str, replicas: int, *, port: int) -> Json:
    called, labels = name(index), {"app": name(index), "version": arm}
    container = {"name": "model", "image": f"model:{arm}", "env": [{"name": "ARM", "value": arm}]}
    page = {"prometheus.io/port": str(port), "prometheus.io/path": "/metrics"}
    template = {"metadata": {"labels": labels, "annotations": page}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    asking = {"serin.dev/canary-of": called} if arm == "canary" else {}
    found = _named("apps/v1", "Deployment", namespace(index), f"{called}-{arm}" if asking else called, spec)
    found["metadata"] |= {"labels": labels, "annotations": asking}
    return found


def _named(version: str, kind: str, within: str, called: str, spec: Json) -> Json:
    about = {"name": called, "namespace": within}
    return {"apiVersion": version, "kind": kind, "metadata": about, "spec": spec}
