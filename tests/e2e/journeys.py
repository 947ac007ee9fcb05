"""One journey: a model's stable version, a canary of it, and the people who have a hand in them."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scenarios.people import People
from scenarios.plot import Arm, Behaviour
from tests.e2e.cluster import GOOD, LABEL, StandIn

Json = Any
T = TypeVar("T")

STEPS = (20, 50)
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Journey:
    """Deployments `NAME` and `NAME-canary`; what steers them is called `NAME` as well."""

    cluster: StandIn
    people: People
    logs: Path
    name: str

    @property
    def canary(self) -> str:
        """The canary's Deployment."""
        return f"{self.name}-canary"

    # -- what people do

    async def begin(self, *, like: Behaviour = GOOD, mode: str = "Copy", min_step: str = "3s") -> None:
        """Stable serves v1, and somebody has deployed a canary with v2, which behaves `like` that."""
        self.cluster.behave(self.name, "v2", like)
        steering = (self._policy(mode, min_step), self._destination_rule(), self._virtual_service())
        for obj in (*steering, self._deployment(Arm.STABLE, "v1")):
            await self.people.create(obj)
        await self.until(lambda: self.available(self.name), "stable is not rolled out")
        await self.people.create(self._deployment(Arm.CANARY, "v2"))

    async def retrain(self, deployment: str, version: str) -> None:
        """The Deployment's template has another version of the model."""
        containers = [self._container(version)]
        patch = {"spec": {"template": {"spec": {"containers": containers}}}}
        await self.people.patch("Deployment", deployment, patch)

    async def end(self) -> None:
        """Nothing of the journey runs any more."""
        for name in (self.canary, self.name):
            if self._seen("deployments", name) is not None:
                await self.people.delete("Deployment", name)
        await self.until(lambda: not self._pods(), "pods are left")

    # -- what the API server says

    def runs(self) -> Sequence[Json]:
        """The canary's runs, oldest first."""
        all_ = self.cluster.seen["canaryruns"].values()
        mine = (run for run in all_ if run["spec"]["plan"]["canary"] == self.canary)
        return sorted(mine, key=lambda run: (run["metadata"]["creationTimestamp"], run["metadata"]["name"]))

    def run(self, name: str) -> Json:
        """The run, or None."""
        return self._seen("canaryruns", name)

    def weights(self) -> list[int]:
        """Every weight that the VirtualService had, in order."""
        return [percent for percent, _ in self.cluster.stage(self.name).weights]

    def zeroed(self) -> int:
        """The resourceVersion at which the weight first fell to 0; none is larger than any."""
        history = self.cluster.stage(self.name).weights
        raised = next((at for percent, at in history if percent > 0), 0)
        return next((at for percent, at in history if percent == 0 and at > raised > 0), 2**63)

    def available(self, deployment: str) -> bool:
        """Whether the Deployment is rolled out."""
        obj = self._seen("deployments", deployment) or {"status": {}, "spec": {"replicas": None}}
        status, wanted = obj.get("status") or {}, obj["spec"]["replicas"]
        current = status.get("observedGeneration") == obj.get("metadata", {}).get("generation")
        counts = (status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas"))
        return current and all(count == wanted for count in counts)

    def template(self, deployment: str) -> Json:
        """The Deployment's pod template."""
        return self._seen("deployments", deployment)["spec"]["template"]

    def version(self, deployment: str) -> str:
        """The version of the model that the Deployment's template asks for."""
        return str(self.template(deployment)["spec"]["containers"][0]["env"][0]["value"])

    def replicas(self, deployment: str) -> int:
        """How many pods the Deployment wants."""
        return int(self._seen("deployments", deployment)["spec"]["replicas"])

    async def events(self) -> set[str]:
        """The reasons of all Events about the canary's Deployment."""
        where = f"/apis/events.k8s.io/v1/namespaces/{self.cluster.namespace}/events"
        items = (await self.cluster.kube.call("GET", where))["items"]
        return {each["reason"] for each in items if each.get("regarding", {}).get("name") == self.canary}

    async def leader(self) -> str:
        """Who holds the Lease."""
        where = f"/apis/coordination.k8s.io/v1/namespaces/{self.cluster.namespace}/leases/serin-controller"
        return str((await self.cluster.kube.call("GET", where))["spec"]["holderIdentity"])

    # -- waiting

    async def until(self, look: Callable[[], T], otherwise: str) -> T:
        """What `look` returns once that is true."""
        return await self.cluster.until(look, lambda: f"{otherwise}; {self._told()}")

    async def shifted(self) -> Json:
        """The run, which has given the canary the first step's share of the traffic and says so."""

        def shifted() -> Json:
            there = self.weights()[-1:] == [STEPS[0]]
            return next((run for run in self.runs() if there and _status(run, "weight") == STEPS[0]), None)

        return await self.until(shifted, "the canary has no traffic")

    async def first_ended(self) -> Json:
        """The first run, which has ended; the weight was at 0 before the run said so."""
        ended = self.cluster.ended
        first = await self.until(
            lambda: next((run for run in self.runs()[:1] if run["metadata"]["uid"] in ended), None),
            "the run has not ended",
        )
        await self.until(lambda: 0 in self.weights()[2:], "the weight is not back at 0")
        assert self.zeroed() < ended[first["metadata"]["uid"]], "it was said before it was done"
        return first

    # -- the objects

    def _seen(self, kind: str, name: str) -> Json:
        return self.cluster.seen[kind].get(name)

    def _pods(self) -> list[str]:
        pods = self.cluster.seen["pods"].items()
        return [name for name, pod in pods if pod["metadata"].get("labels", {}).get(LABEL) == self.name]

    def _told(self) -> str:
        told = ("phase", "reason", "weight", "message")
        runs = {run["metadata"]["name"]: {key: _status(run, key) for key in told} for run in self.runs()}
        return f"weights {self.weights()}, runs {runs}; the controllers' logs are in {self.logs}"

    def _named(self, name: str, **more: Json) -> Json:
        return {"name": name, "namespace": self.cluster.namespace, **more}

    def _policy(self, mode: str, min_step: str) -> Json:
        return {
            "apiVersion": "serin.dev/v1alpha1",
            "kind": "CanaryPolicy",
            "metadata": self._named(self.name),
            "spec": {
                "steps": list(STEPS),
                "warmUp": "1s",
                "minStep": min_step,
                "minRequests": 300,
                "burstTolerance": "1s",
                "promotion": {"mode": mode},
                "scaleDownDelay": {"promoted": "1s", "rolledBack": "1s"},
                "checks": [
                    {"name": "latency", "type": "Latency", "quantile": 0.95, "maxIncrease": "20%"},
                    {"name": "errors", "type": "ErrorRate", "maxIncrease": "50%", "plus": "1%"},
                    {"name": "predictions", "type": "Predictions", "tolerance": 0.15},
                ],
            },
        }

    def _destination_rule(self) -> Json:
        subsets = [{"name": str(arm), "labels": {"version": str(arm)}} for arm in Arm]
        return {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": self._named(self.name),
            "spec": {"host": self.name, "subsets": subsets},
        }

    def _virtual_service(self) -> Json:
        route = [
            {"destination": {"host": self.name, "subset": str(arm)}, "weight": percent}
            for arm, percent in ((Arm.STABLE, 100), (Arm.CANARY, 0))
        ]
        return {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": self._named(self.name),
            "spec": {"hosts": [self.name], "http": [{"route": route}]},
        }

    def _deployment(self, arm: Arm, version: str) -> Json:
        labels = {"app": self.name, "version": str(arm)}
        asking = {"serin.dev/canary-of": self.name, "serin.dev/policy": self.name}
        stable = arm is Arm.STABLE
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self._named(
                self.name if stable else self.canary, annotations={} if stable else asking
            ),
            "spec": {
                "replicas": 3 if stable else 2,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": {**labels, LABEL: self.name}, "annotations": self._scraped()},
                    "spec": {"schedulerName": "nobody", "containers": [self._container(version)]},
                },
            },
        }

    def _scraped(self) -> Json:
        return {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(self.cluster.port),
            "prometheus.io/path": "/metrics",
        }

    def _container(self, version: str) -> Json:
        env = [{"name": "MODEL_VERSION", "value": version}]
        return {"name": "model", "image": "registry.invalid/model:1", "env": env}


def _status(run: Json, key: str) -> Json:
    return (run.get("status") or {}).get(key)


def begun(cluster: StandIn, logs: Path) -> Journey:
    """A journey with a name that no other has."""
    people = People(cluster.kube.transport, namespace=cluster.namespace)
    return Journey(cluster, people, logs, f"model-{next(_NUMBERS)}")
