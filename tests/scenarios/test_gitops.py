"""Beside a tool that applies what is in git every few seconds, as docs/gitops.md tells people to set it up.

Argo CD and Flux are played as their sources have it (argo-cd 3.6 controller/sync.go; fluxcd/pkg ssa 0.77).
"""

import asyncio
import copy
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from controller.ports import Answer, Outside, Transport
from scenarios.cluster.patches import merged
from scenarios.objects import CANARY, CONTROLLER, NAMESPACE, STABLE, _virtual_service
from scenarios.people import People
from scenarios.play import Theatre, silent
from scenarios.story import loads
from scenarios.virtual.loop import run_virtual
from scenarios.virtual.replicas import Wire

Json = Any
ROOT = Path(__file__).parents[2]
HALF = """
apiVersion: serin.dev/v1alpha1
kind: Scenario
metadata: {name: half}
spec:
  duration: 50s
  history: 5s
  traffic: {requestsPerSecond: 20}
  stable: {replicas: 2, latency: {distribution: lognormal, median: 20ms, p95: 60ms}}
  canary: {replicas: 1}
  policy: {steps: [50], minStep: 5m, checks: [{name: errors, type: ErrorRate, plus: 5%}]}
  expect: {outcome: Held}
"""
STORY = loads(HALF, file="half")
PATH = f"/apis/networking.istio.io/v1/namespaces/{NAMESPACE}/virtualservices/{STABLE}"
APPLY = "application/apply-patch+yaml"
COMMIT = 25.0  # seconds of the story: git says something new, while the canary has its weight
SHOWN = {
    one["kind"]: one
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "gitops.md").read_text(), re.DOTALL)
    for one in [yaml.safe_load(block)]
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


class Called:
    """A transport that says who is asking, as a client on a network does."""

    def __init__(self, beyond: Transport, name: str) -> None:
        self._beyond, self._name = beyond, name

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> AsyncIterator[Answer]:
        named = {**headers, "User-Agent": f"{self._name}/0.1"}
        async with self._beyond.request(method, path, query=query, headers=named, body=body) as answer:
            yield answer


@dataclass
class Tool(ABC):
    """Applies the VirtualService that is in git, and looks every so often whether it is still there."""

    people: People
    every: float
    manager: str = ""
    git: Json = field(default_factory=_virtual_service)
    syncs: int = 0
    differs: bool = False

    async def work(self) -> None:
        while True:
            await self.look(await self.people.ask("GET", PATH, None))
            await asyncio.sleep(self.every)

    @abstractmethod
    async def look(self, live: Json) -> None:
        """What the tool does about the VirtualService that is there."""

    async def apply(self, obj: Json, **query: str) -> Json:
        """The object after a server-side apply with force."""
        asked = {"fieldManager": self.manager, "force": "true", **query}
        return await self.people.ask("PATCH", PATH, obj, sort=APPLY, query=asked)


def walked(obj: Json, path: Sequence[str], *, take: bool = False) -> Iterator[Json]:
    """The values at a path whose `[]` stands for each item; `take` takes them out."""
    first, *rest = path
    if first == "[]":
        for item in obj:
            yield from walked(item, rest, take=take)
    elif first in obj and not rest:
        yield obj.pop(first) if take else obj[first]
    elif first in obj:
        yield from walked(obj[first], rest, take=take)


class ArgoCD(Tool):
    """Compares without what is ignored; a sync may take it from the cluster."""

    manager = "argocd-controller"

    def __init__(self, people: People, application: Json, every: float) -> None:
        super().__init__(people, every, manager="argocd-controller")
        spec = application["spec"]
        (ignored,) = spec["ignoreDifferences"]
        assert (ignored["group"], ignored["kind"]) == ("networking.istio.io", "VirtualService")
        self.paths = [re.findall(r"\w+|\[\]", path) for path in ignored["jqPathExpressions"]]
        options = spec["syncPolicy"]["syncOptions"]
        assert spec["syncPolicy"]["automated"]["selfHeal"]
        assert "ServerSideApply=true" in options
        self.respects = "RespectIgnoreDifferences=true" in options

    def normalised(self, obj: Json) -> Json:
        obj = copy.deepcopy(obj)
        for path in self.paths:
            list(walked(obj, path, take=True))
        return obj

    async def look(self, live: Json) -> None:
        self.differs = self.normalised(live)["spec"] != self.normalised(self.git)["spec"]
        if self.differs:
            self.syncs += 1
            await self.apply(self.patched(live) if self.respects else self.git)

    def patched(self, live: Json) -> Json:
        """What is in git with what is ignored as it is live, by a JSON merge patch: lists come whole."""
        bare, target = self.normalised(live)["spec"], self.normalised(self.git)
        patch = {key: value for key, value in live["spec"].items() if value != bare.get(key)}
        return merged(target, {"spec": patch})


class Flux(Tool):
    """Finds drift by a dry run; copies what is ignored from the cluster into what it applies."""

    def __init__(self, people: People, kustomization: Json, every: float) -> None:
        super().__init__(people, every, manager="kustomize-controller")
        self.paths: list[list[str | int]] = []
        for rule in kustomization["spec"].get("ignore", ()):
            assert rule["target"] == {"group": "networking.istio.io", "kind": "VirtualService"}
            self.paths += [
                [int(part) if part.isdigit() else part for part in path.split("/")[1:]]
                for path in rule["paths"]
            ]

    def without(self, obj: Json) -> Json:
        obj = copy.deepcopy(obj)
        for *way, last in self.paths:
            at = obj
            for step in way:
                at = at[step]
            at.pop(last, None)
        return obj["spec"]

    async def look(self, live: Json) -> None:
        dry = await self.apply(self.git, dryRun="All")
        self.differs = self.without(dry) != self.without(live)
        if not self.differs:
            return
        self.syncs += 1
        payload = copy.deepcopy(self.git)
        for *way, last in self.paths:
            there, here = live, payload
            for step in way:
                there, here = there[step], here[step]
            here[last] = there[last]
        await self.apply(payload)


@dataclass
class Told:
    """What came of a run beside a tool."""

    theatre: Theatre
    tool: Tool
    weights: list[tuple[float, int]]

    @property
    def route(self) -> Json:
        (route,) = self.theatre.world.get("virtualservices", NAMESPACE, STABLE)["spec"]["http"]
        return route

    def dips(self) -> list[float]:
        """For how long each time the canary lost the traffic that it had and got back."""
        changes = self.weights
        return [
            back - fell
            for (_, before), (fell, weight), (back, after) in zip(
                changes, changes[1:], changes[2:], strict=False
            )
            if weight == 0 and before > 0 and after == before
        ]

    def repaired(self) -> int:
        events = self.theatre.world.objects("events", NAMESPACE)
        return sum(event["reason"] == "WeightRepaired" for event in events)


class Beside(Theatre):
    """A story in which the controller says who it is, and a tool looks after the VirtualService."""

    def outside(self, replica: str) -> Outside:
        transport = Called(self.world.transport(CONTROLLER), "serin-controller")
        return replace(super().outside(replica), transport=Wire(transport))


def beside(kind: type[ArgoCD] | type[Flux], settings: Json, *, every: float, commits: bool = False) -> Told:
    """A canary has half of the traffic; with `commits` git says a timeout meanwhile."""

    async def run() -> Told:
        theatre = Beside(STORY, report=silent)
        tool = kind(People(theatre.world.transport(), namespace=NAMESPACE), settings, every)

        async def meanwhile() -> None:
            await asyncio.sleep(theatre.begins)
            async with asyncio.TaskGroup() as both:
                both.create_task(tool.work())
                both.create_task(commit())

        async def commit() -> None:
            await asyncio.sleep(COMMIT)
            if commits:
                tool.git["spec"]["http"][0]["timeout"] = "20s"

        beside_it = asyncio.create_task(meanwhile())
        await theatre.through()
        beside_it.cancel()
        with suppress(asyncio.CancelledError):
            await beside_it
        return Told(theatre, tool, list(theatre.result.weights))

    told = run_virtual(run())
    assert told.theatre.result.weights[-1][1] == 50
    return told


@cache
def as_shown() -> Told:
    return beside(ArgoCD, SHOWN["Application"], every=3)


def test_beside_argo_cd_as_it_is_shown_no_weight_is_touched() -> None:
    told = as_shown()
    assert (told.tool.syncs, told.tool.differs) == (0, False)
    assert (told.dips(), told.repaired()) == ([], 0)


def test_a_change_of_a_route_in_git_arrives_and_the_canary_has_no_traffic_for_a_second() -> None:
    told = beside(ArgoCD, SHOWN["Application"], every=3, commits=True)
    assert told.route["timeout"] == "20s"
    assert (told.tool.syncs, told.tool.differs) == (1, False)
    (dip,) = told.dips()
    assert dip < 2
    assert told.repaired() == 1


def test_with_respect_ignore_differences_it_does_not_arrive_and_the_application_is_out_of_sync() -> None:
    respects = copy.deepcopy(SHOWN["Application"])
    respects["spec"]["syncPolicy"]["syncOptions"].append("RespectIgnoreDifferences=true")
    told = beside(ArgoCD, respects, every=3, commits=True)
    assert told.dips() == []
    assert "timeout" not in told.route
    assert told.tool.differs


def test_beside_flux_as_it_is_shown_a_change_of_a_route_arrives_and_no_weight_is_touched() -> None:
    told = beside(Flux, SHOWN["Kustomization"], every=3, commits=True)
    assert told.route["timeout"] == "20s"
    assert (told.tool.syncs, told.tool.differs) == (1, False)
    assert (told.dips(), told.repaired()) == ([], 0)


def test_beside_flux_without_ignore_the_canary_has_no_traffic_for_a_second_each_time_and_never_more() -> None:
    told = beside(Flux, {"spec": {}}, every=10)
    assert told.tool.syncs >= 3
    assert len(told.dips()) >= 3
    assert max(told.dips()) < 2
    assert {weight for _, weight in told.weights} == {0, 50}


def owned(theatre: Theatre, resource: str, name: str) -> list[tuple[str, Json]]:
    obj = theatre.world.get(resource, NAMESPACE, name)
    return [
        (entry.get("subresource", ""), entry["fieldsV1"])
        for entry in obj["metadata"].get("managedFields", ())
        if entry["manager"] == "serin-controller"
    ]


def test_on_a_virtual_service_serin_owns_the_list_in_which_the_weights_are_and_nothing_else() -> None:
    theatre = as_shown().theatre
    assert owned(theatre, "virtualservices", STABLE) == [("", {"f:spec": {"f:http": {}}})]
    assert owned(theatre, "deployments", CANARY) == [("scale", {"f:spec": {"f:replicas": {}}})]
    assert owned(theatre, "deployments", STABLE) == []
