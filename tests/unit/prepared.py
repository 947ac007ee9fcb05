"""Ten canaries, each with a stable, routes, an autoscaler and a policy: five as they should be, five flawed.

They differ as model servers do: what they ask of the cluster, how they are probed, what scales them. A flaw
is a merge patch on a sound one, and the items of the checklist that it is meant to fail are said with it.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from controller import checklist, planning, policies, reading, resource, trigger
from controller.cluster import FOLLOWED, Cluster
from controller.items import Grounds, Item, Paged, Patch
from controller.kubectl import Kubectl, Trouble
from scenarios.cluster.patches import merged
from scenarios.people import PLACES, People
from scenarios.world import World

Json = Any
LAB = "lab"
DIGEST = "a" * 64
SORTS = {"strategic": "application/strategic-merge-patch+json", "merge": "application/merge-patch+json"}
POLICY = {
    "checks": [
        {"name": "latency-p95", "type": "Latency", "quantile": 0.95, "maxIncrease": "20%"},
        {"name": "errors", "type": "ErrorRate", "maxIncrease": "50%", "plus": "0.1%"},
        {"name": "predictions", "type": "Predictions", "tolerance": 0.05},
        {"name": "shadow", "type": "Shadow", "maxFlips": "0.5%"},
    ],
    "alerts": [{"webhook": {"url": "https://train.example/hook"}, "on": ["Drifted", "RolledBack"]}],
}
SIZES = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
INFERS = {"httpGet": {"path": "/v2/models/model/infer-ready", "port": 8080}}


def server(**more: Json) -> Json:
    """The model server's container."""
    usual = {
        "name": "server",
        "image": "registry.example/model:1",
        "ports": [{"name": "http", "containerPort": 8080}],
        "resources": SIZES,
        "readinessProbe": INFERS,
    }
    return {key: value for key, value in (usual | more).items() if value is not None}


def deployment(name: str, version: str, *containers: Json, **more: Json) -> Json:
    """A Deployment whose pods are of `version`."""
    labels = {"app": "model", "version": version}
    notes = {"prometheus.io/port": "8080", "serin.dev/artifact": f"file:///m/{version}.onnx@sha256:{DIGEST}"}
    if version == "canary":
        notes["serin.dev/baseline"] = f"file:///m/b.json@sha256:{DIGEST}"
        more = {"annotations": {"serin.dev/canary-of": "model"}} | more
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": LAB, **more},
        "spec": {
            "replicas": 6 if version == "stable" else 2,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": notes},
                "spec": {"containers": list(containers)},
            },
        },
    }


def autoscaler(metric: Json, **more: Json) -> Json:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "model"}
    spec = {"scaleTargetRef": target, "minReplicas": 6, "maxReplicas": 12, "metrics": [metric], **more}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "model", "namespace": LAB},
        "spec": spec,
    }


def by(name: str, kind: str = "Pods") -> Json:
    """A metric that an autoscaler looks at."""
    target = {"type": "AverageValue", "averageValue": "10"}
    return {"type": kind, kind.lower(): {"metric": {"name": name}, "target": target}}


CPU = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
}


def routes() -> list[Json]:
    split = [
        {"destination": {"host": "model", "subset": arm}, "weight": weight}
        for arm, weight in (("stable", 100), ("canary", 0))
    ]
    subsets = [{"name": arm, "labels": {"version": arm}} for arm in ("stable", "canary")]
    istio, meta = "networking.istio.io/v1", {"name": "model", "namespace": LAB}
    service = {"hosts": ["model"], "http": [{"route": split}]}
    rule = {"host": "model", "subsets": subsets}
    return [
        {"apiVersion": istio, "kind": "VirtualService", "metadata": meta, "spec": service},
        {"apiVersion": istio, "kind": "DestinationRule", "metadata": meta, "spec": rule},
    ]


FINE = [0.001 * 1.1**step for step in range(80)]


def page(
    le: list[float] = FINE, *, without: str = "", family: str = "model_inference_duration_seconds"
) -> str:
    """A pod's metrics page after 1 000 requests, whose p95 is near 100 ms."""
    unit = 1000 if family.startswith("istio") else 1
    mine = 'reporter="destination",' if unit == 1000 else ""
    lines = [
        f'{family}_bucket{{{mine}le="{bound * unit}"}} {min(1000, int(1000 * min(1.0, bound / 0.105) ** 2))}'
        for bound in le
    ]
    lines += [f'{family}_bucket{{{mine}le="+Inf"}} 1000', f"{family}_count{{{mine[:-1]}}} 1000"]
    lines += ['istio_requests_total{reporter="destination",response_code="200"} 1000']
    lines += [
        f'model_prediction_value_bucket{{le="{bound}"}} {count}'
        for bound, count in ((0.5, 600), ("+Inf", 1000))
    ]
    return "\n".join(line for line in lines if not without or without not in line) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Objects and a page of stable's; which items are to fail, and which to be unknown."""

    name: str
    container: Json
    hpa: Json
    edits: Mapping[tuple[str, str], Json] = field(default_factory=dict)  # by kind and name
    page: str = page()
    fails: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset({"gpu"})

    def objects(self) -> list[Json]:
        """In the order in which they are made."""
        policy = {"apiVersion": "serin.dev/v1alpha1", "kind": "CanaryPolicy", "spec": POLICY}
        made = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LAB}},
            policy | {"metadata": {"name": "default", "namespace": LAB}},
            *routes(),
            self.hpa,
            deployment("model", "stable", self.container),
            deployment("model-canary", "canary", self.container),
        ]
        return [merged(one, self.edits.get((one["kind"], one["metadata"]["name"]), {})) for one in made]


def in_template(**spec: Json) -> Json:
    return {"spec": {"template": spec}}


GPU_SIZES = {**SIZES, "limits": {**SIZES["limits"], "nvidia.com/gpu": 1}}
SOUND = [
    Case(
        name="a CPU server that tries its model",
        container=server(),
        hpa=autoscaler(by("inference_queue_depth")),
    ),
    Case(
        name="a GPU server that takes minutes to load",
        container=server(
            image="vllm/vllm-openai:v0.9.0",
            resources=GPU_SIZES,
            startupProbe={"httpGet": {"path": "/health", "port": 8080}, "failureThreshold": 60},
            livenessProbe={"httpGet": {"path": "/health", "port": 8080}},
            lifecycle={"postStart": {"exec": {"command": ["/warm"]}}},
        ),
        hpa=autoscaler(by("vllm:num_requests_waiting")),
        unknown=frozenset(),
    ),
    Case(
        name="a gRPC server that asks for limits alone",
        container=server(
            resources={"limits": {"cpu": "2", "memory": "4Gi"}},
            readinessProbe={"grpc": {"port": 9000, "service": "fraud"}},
            livenessProbe={"tcpSocket": {"port": 9000}, "initialDelaySeconds": 90},
        ),
        hpa=autoscaler(CPU)
        | {"spec": autoscaler(CPU)["spec"] | {"metrics": [CPU, by("queue_depth", "External")]}},
        edits={
            ("DestinationRule", "model"): {
                "spec": {
                    "trafficPolicy": {
                        "loadBalancer": {"simple": "LEAST_REQUEST", "warmup": {"duration": "30s"}}
                    }
                }
            }
        },
    ),
    Case(
        name="an autoscaler that never takes away, and a sidecar's fine buckets",
        container=server(),
        hpa=autoscaler(
            by("istio_requests_per_second"),
            minReplicas=2,
            behavior={"scaleDown": {"selectPolicy": "Disabled"}},
        ),
        page=page(family="istio_request_duration_milliseconds"),
    ),
    Case(
        name="a server whose path tells little",
        container=server(readinessProbe={"httpGet": {"path": "/health", "port": 8080}}),
        hpa=autoscaler(by("inference_queue_depth")),
        unknown=frozenset({"gpu", "readiness", "warm-up"}),
    ),
]
CANARY = ("Deployment", "model-canary")
FLAWED = [
    Case(
        name="no limits, and the process is what is probed",
        container=server(
            resources={"requests": {"cpu": "1"}}, readinessProbe={"httpGet": {"path": "/", "port": 8080}}
        ),
        hpa=autoscaler(by("inference_queue_depth")),
        fails=frozenset({"resources", "readiness"}),
        unknown=frozenset({"gpu", "warm-up"}),
    ),
    Case(
        name="killed while it loads, restarted when it is slow, and a GPU server without a GPU",
        container=server(
            image="nvcr.io/nvidia/tensorrt-llm/release:1.0", livenessProbe={**INFERS, "periodSeconds": 5}
        ),
        hpa=autoscaler(by("inference_queue_depth")),
        fails=frozenset({"gpu", "startup", "liveness"}),
        unknown=frozenset(),
    ),
    Case(
        name="scaled by CPU down to one pod",
        container=server(),
        hpa=autoscaler(CPU, minReplicas=1),
        fails=frozenset({"autoscaling", "floor"}),
    ),
    Case(
        name="buckets of the Python client, no predictions, nobody who trains",
        container=server(),
        hpa=autoscaler(by("inference_queue_depth")),
        edits={
            ("CanaryPolicy", "default"): {"spec": {"alerts": [{"webhook": {"url": "https://a.example"}}]}},
        },
        page=page(
            [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0],
            without="model_prediction_value",
        ),
        fails=frozenset({"metrics", "buckets", "retraining-hook"}),
    ),
    Case(
        name="one subset, one version, no baseline, never drilled",
        container=server(),
        hpa=autoscaler(by("inference_queue_depth")),
        edits={
            ("VirtualService", "model"): {
                "spec": {"http": [{"route": [{"destination": {"host": "model"}}]}]}
            },
            ("DestinationRule", "model"): {"spec": {"subsets": None}},
            ("Deployment", "model"): {
                "spec": {
                    "selector": {"matchLabels": {"version": None, "track": "stable"}},
                    "template": {"metadata": {"labels": {"version": None, "track": "stable"}}},
                }
            },
            CANARY: {
                "spec": {
                    "selector": {"matchLabels": {"version": None, "track": "canary"}},
                    "template": {
                        "metadata": {
                            "labels": {"version": None, "track": "canary"},
                            "annotations": {"serin.dev/baseline": None},
                        }
                    },
                }
            },
        },
        fails=frozenset({"routes", "versions", "drift-baseline", "rollback-drill"}),
    ),
]


@dataclass(slots=True)
class Room:
    """A case's objects at an emulated API server, and whoever looks at them or mends them."""

    world: World
    case: Case

    @classmethod
    async def furnished(cls, case: Case, clock: Any) -> "Room":
        world = World(clock=clock)
        for obj in case.objects():
            world.create(obj)
        room = cls(world, case)
        if "rollback-drill" not in case.fails:
            room.drilled("1.4", ended=clock())
        await asyncio.sleep(30)
        return room

    def drilled(self, seconds: str, *, ended: datetime) -> None:
        """A rollback was measured."""
        plan = {"canary": "model-canary", "stable": "model", "canaryHash": "a", "stableHash": "b"} | {
            "virtualService": "model",
            "stableSubset": "stable",
            "canarySubset": "canary",
            "policy": planning.builtin(),
        }
        name, notes = "model-canary-5b-1", {resource.DRILL: seconds}
        if self.world.get("canaryruns", LAB, name) is None:
            made = {"apiVersion": "serin.dev/v1alpha1", "kind": "CanaryRun", "spec": {"plan": plan}}
            self.world.create(made | {"metadata": {"name": name, "namespace": LAB}})
        self.world.patch("canaryruns", LAB, name, {"metadata": {"annotations": notes}})
        status = {"status": {"state": {"stage": "Ended", "ended": ended.isoformat()}}}
        self.world.patch("canaryruns", LAB, name, status, part="status")

    def cluster(self) -> Cluster:
        cluster = Cluster()
        for kind in FOLLOWED:
            cluster.listed(kind, self.world.objects(kind))
        return cluster

    def grounds(self, *, unread: frozenset[str] = frozenset()) -> Grounds:
        cluster = self.cluster()
        stable, canary = (cluster.get("deployments", LAB, name) for name in ("model", "model-canary"))
        plan = trigger.plan_of(canary, stable, cluster)
        assert isinstance(plan, dict), plan
        plan["policy"] = {**planning.builtin(), **plan["policy"]}
        policy = policies.policy(plan["policy"])
        said, wrong = reading.read(self.case.page.encode(), policy.checks, at=0.0)
        pages = {
            pod["metadata"]["name"]: Paged(reading=said, trouble="; ".join(wrong))
            for pod in self.world.objects("pods", LAB)
        }
        return Grounds(
            cluster=cluster,
            namespace=LAB,
            plan=plan,
            policy=policy,
            policy_name="default",
            stable=stable,
            canary=canary,
            pages=pages,
            unread=unread,
            services=tuple(self.world.objects("services", LAB)),
            now=self.world.clock(),
        )

    def looked_at(self, **how: Any) -> dict[str, Item]:
        return {one.name: one for one in checklist.looked_at(self.grounds(**how))}

    async def mend(self, patch: Patch) -> None:
        """The patch is applied as kubectl would, with what stands in capitals filled in."""
        people = People(self.world.transport(), namespace=LAB)
        where = PLACES[patch.kind].format(LAB)
        body = filled(patch.body)
        if patch.name:
            await people.ask("PATCH", f"{where}/{patch.name}", body, sort=SORTS[patch.sort])
        else:
            await people.create(body)


def filled(body: Json) -> Json:
    if isinstance(body, dict):
        return {key: filled(value) for key, value in body.items()}
    if isinstance(body, list):
        return [filled(one) for one in body]
    return (
        body.replace("DIGEST", DIGEST).replace("TRAINING.EXAMPLE", "train.example")
        if isinstance(body, str)
        else body
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(Kubectl):
    """kubectl for a cluster in memory: kinds that are denied, and what a pod `says` behind the proxy."""

    world: World
    denied: frozenset[str] = frozenset()
    says: Callable[[str], str] | None = None

    def objects(self, *kinds: str, namespace: str | None = None) -> list[Json]:
        del namespace
        for kind in kinds:
            if kind.partition(".")[0] in self.denied:
                raise Trouble(f"{kind}: Error from server (Forbidden): {kind} is forbidden")
        return [one for kind in kinds for one in self.world.objects(kind.partition(".")[0])]

    def page(self, path: str) -> str:
        found = re.fullmatch("/api/v1/namespaces/lab/pods/(model-.*):8080/proxy/metrics", path)
        assert found, path
        if self.says is None:
            raise Trouble(f"{path}: Error from server (ServiceUnavailable): error trying to reach it")
        return self.says(found[1])

    def run(self, name: str) -> Json:
        return self.world.get("canaryruns", LAB, name)

    def create(self, obj: Json) -> Json:
        return self.world.create(obj)

    def patch(self, run: Json, spec: Json) -> Json:
        return self.world.patch("canaryruns", LAB, run["metadata"]["name"], {"spec": spec})

    def annotate(self, run: Json, notes: dict[str, str]) -> Json:
        noted = {"metadata": {"annotations": notes}}
        return self.world.patch("canaryruns", LAB, run["metadata"]["name"], noted)
