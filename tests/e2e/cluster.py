"""What a bare API server lacks, through nothing but that server: pods that run, callers, a mesh.

`StandIn` is scheduler, kubelet, callers and Istio for one namespace. A pod is ready as soon as it is
there, at a loopback address of its own, and serves its metrics page at that address. What the pages
count is drawn in real time: requests arrive, are split by the weights that the VirtualService has, and
are answered as the model's version would answer them.

Pods are bound to Nodes of the suite's own, on which nothing else is scheduled. These need to exist and
to have a heartbeat: kube-controller-manager deletes what is bound to a Node that does not exist, and
takes what is on a silent one for lost.
"""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiohttp import web

from controller.cluster import path
from controller.kube import ApiError, Changed, Kube, Listed
from scenarios.distributions import Lognormal
from scenarios.live.processes import free_port
from scenarios.plot import Arm, Behaviour
from scenarios.story import loads
from scenarios.virtual.traffic import PodPage, Traffic, VirtualPod

Json = Any
T = TypeVar("T")

KINDS = ("pods", "deployments", "virtualservices", "canaryruns")
LABEL = "serin-e2e"  # on pods: the journey that they belong to
LOOK = 0.5  # seconds after which what failed is tried again
HEARTBEAT = 10.0  # seconds, as kubelet's; forty without one, and a Node is lost
PATIENCE = 60.0  # seconds for anything to happen; most takes five, and nobody is timed here
MERGE_PATCH = "application/merge-patch+json"

# 2000 requests a second: what takes minutes at a usual load is clear within seconds.
WORLD = loads(
    """
apiVersion: serin.dev/v1alpha1
kind: Scenario
metadata: {name: e2e}
spec:
  duration: 60s
  traffic: {requestsPerSecond: 2000}
  propagation: 100ms
  stable:
    replicas: 3
    latency: {distribution: lognormal, median: 20ms, p95: 60ms}
    errorRate: 0.1%
    predictions: {distribution: beta, a: 2, b: 5}
  expect: {outcome: Promoted}
""",
    file="tests/e2e/cluster.py",
)
GOOD = WORLD.stable
SLOW = replace(GOOD, latency=Lognormal(0.040, 0.120))
FAILING = replace(GOOD, error_rate=0.2)


@dataclass(slots=True)
class Life:
    """One pod that runs here."""

    journey: str
    ip: str
    since: str  # so that saying twice that it is ready changes nothing
    site: web.TCPSite
    served: VirtualPod
    leaving: bool = False

    @property
    def arm(self) -> Arm:
        """The arm it belongs to."""
        return self.served.arm


@dataclass(slots=True)
class Stage:
    """One journey's callers, what its versions are like, and its VirtualService's history."""

    traffic: Traffic
    versions: dict[str, Behaviour] = field(default_factory=dict)
    weights: list[tuple[int, int]] = field(default_factory=list)  # (percent, at which resourceVersion)
    endpoints: dict[Arm, tuple[str, ...]] = field(default_factory=dict)


class StandIn:
    """Kubelet, callers and mesh of one namespace; `open` it, and it works until it is left."""

    def __init__(self, kube: Kube, namespace: str, *, nodes: Sequence[str]) -> None:
        self.kube = kube
        self.namespace = namespace
        self.nodes = nodes
        self.port = free_port()
        self.seen: dict[str, dict[str, Json]] = {kind: {} for kind in KINDS}
        self.ended: dict[str, int] = {}  # runs by uid: the resourceVersion that first said so
        self.gone: dict[str, int] = {}  # runs by uid: the resourceVersion of their deletion
        self._stages: dict[str, Stage] = {}
        self._lives: dict[str, Life] = {}
        self._addresses = _addresses()
        self._news = asyncio.Event()
        self._stirred = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["StandIn"]:
        """Pods run and callers call."""
        application = web.Application()
        application.router.add_get("/metrics", self._page)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        self._tasks = [asyncio.create_task(self._follow(kind)) for kind in KINDS]
        self._tasks += [asyncio.create_task(self._tend()), asyncio.create_task(self._beat())]
        try:
            yield self
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._runner.cleanup()

    def stage(self, journey: str) -> Stage:
        """The journey's own callers and versions, begun when first asked for."""
        if journey not in self._stages:
            self._stages[journey] = Stage(Traffic(WORLD, clock=asyncio.get_running_loop().time))
        return self._stages[journey]

    def behave(self, journey: str, version: str, behaviour: Behaviour) -> None:
        """The version's pods answer so from now on."""
        stage = self.stage(journey)
        stage.traffic.advance()
        stage.versions[version] = behaviour
        for life in self._lives.values():
            if (life.journey, life.served.version) == (journey, version):
                life.served.behaviour = behaviour

    async def until(self, look: Callable[[], T], why: Callable[[], str], within: float = PATIENCE) -> T:
        """What `look` returns once that is true; fails with `why`'s words if it never is."""
        try:
            async with asyncio.timeout(within):
                while not (found := look()):
                    for broken in (task for task in self._tasks if task.done()):
                        broken.result()
                    self._news.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), LOOK)
        except TimeoutError:
            raise AssertionError(f"not within {within:g} s: {why()}") from None
        return found

    # -- what the API server says

    async def _follow(self, kind: str) -> None:
        """`seen` holds the namespace's objects of the kind as they are, for ever."""
        async for news in self.kube.follow(path(kind, self.namespace)):
            if isinstance(news, Listed):
                self.seen[kind] = {item["metadata"]["name"]: item for item in news.items}
                for item in news.items:
                    self._heard(kind, Changed("ADDED", item))
            else:
                self._heard(kind, news)
            self._news.set()
            self._stirred.set()

    def _heard(self, kind: str, news: Changed) -> None:
        meta, version = news.object["metadata"], int(news.object["metadata"]["resourceVersion"])
        if news.type == "DELETED":
            self.seen[kind].pop(meta["name"], None)
        else:
            self.seen[kind][meta["name"]] = news.object
        if kind == "canaryruns" and (news.object.get("status") or {}).get("phase") in {"Succeeded", "Failed"}:
            self.ended.setdefault(meta["uid"], version)
        if kind == "canaryruns" and news.type == "DELETED":
            self.gone[meta["uid"]] = version
        if kind == "virtualservices" and meta["name"] in self._stages:
            self._weighed(self._stages[meta["name"]], weight(news.object), version)

    def _weighed(self, stage: Stage, percent: int, version: int) -> None:
        if not stage.weights or stage.weights[-1][0] != percent:
            stage.weights.append((percent, version))
            stage.traffic.route(percent)

    # -- a kubelet

    async def _tend(self) -> None:
        """Pods are what they should be; looked at whenever anything changes, and once in a while."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stirred.wait(), LOOK)
            self._stirred.clear()
            pods = dict(self.seen["pods"])
            for name in self._lives.keys() - pods.keys():
                await self._lives.pop(name).site.stop()
            for pod in pods.values():
                if _label(pod) in self._stages:
                    with contextlib.suppress(ApiError):  # the next look tries again
                        await self._live(pod)
            for name, stage in self._stages.items():
                self._route(name, stage)

    async def _beat(self) -> None:
        """The Nodes are alive."""
        while True:
            for node in self.nodes:
                with contextlib.suppress(ApiError):  # three more until it matters
                    body = {"status": {"conditions": [_alive()]}}
                    where = f"/api/v1/nodes/{node}/status"
                    await self.kube.call("PATCH", where, body=body, content_type=MERGE_PATCH)
            await asyncio.sleep(HEARTBEAT)

    async def _live(self, pod: Json) -> None:
        """The pod runs, or stops if it is told to."""
        name = pod["metadata"]["name"]
        if "deletionTimestamp" in pod["metadata"]:
            if name in self._lives:
                self._lives[name].leaving = True
            now = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
            await self.kube.call("DELETE", path("pods", self.namespace, name), body=now)
            return
        if not pod["spec"].get("nodeName"):
            await self._bind(pod)
            return
        if name not in self._lives:
            self._lives[name] = await self._start(pod)
        if not _ready(pod):
            where = path("pods", self.namespace, name, sub="status")
            body = {"status": _status(pod, self._lives[name])}
            await self.kube.call("PATCH", where, body=body, content_type=MERGE_PATCH)

    async def _bind(self, pod: Json) -> None:
        """The pod has the Node on which its journey's arm has the fewest."""
        alike = [
            each["spec"].get("nodeName") for each in self.seen["pods"].values() if _arm(each) == _arm(pod)
        ]
        name, node = pod["metadata"]["name"], min(self.nodes, key=alike.count)
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        bound = {**pod, "spec": {**pod["spec"], "nodeName": node}}
        await self.kube.call("POST", path("pods", self.namespace, name, sub="binding"), body=body)
        if name in self.seen["pods"]:  # the watch will say so, too late for the next pod's choice
            self.seen["pods"][name] = bound

    async def _start(self, pod: Json) -> Life:
        journey, ip = _label(pod), next(self._addresses)
        site = web.TCPSite(self._runner, ip, self.port)
        await site.start()
        return Life(journey, ip, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", site, self._served(pod, journey))

    def _served(self, pod: Json, journey: str) -> VirtualPod:
        """The pod as its callers will know it."""
        stage, name, labels = self._stages[journey], pod["metadata"]["name"], pod["metadata"]["labels"]
        version = pod["spec"]["containers"][0]["env"][0]["value"]
        return VirtualPod(
            name=name,
            arm=Arm(labels["version"]),
            version=version,
            behaviour=stage.versions.get(version, GOOD),
            noise=stage.traffic.noise_of(name),
            page=PodPage(version=version, workload=labels["app"]),
        )

    def _route(self, journey: str, stage: Stage) -> None:
        """The callers know the pods that are there."""
        lives = [life for life in self._lives.values() if life.journey == journey and not life.leaving]
        for arm in Arm:
            pods = tuple(life.served for life in lives if life.arm is arm)
            names = tuple(sorted(pod.name for pod in pods))
            if stage.endpoints.get(arm) != names:
                stage.endpoints[arm] = names
                stage.traffic.endpoints(arm, pods)

    async def _page(self, request: web.Request) -> web.Response:
        """The metrics page of the pod at whose address it was asked for."""
        ip = request.transport.get_extra_info("sockname")[0] if request.transport else ""
        life = next((life for life in self._lives.values() if life.ip == ip), None)
        if life is None:
            raise web.HTTPNotFound
        self._stages[life.journey].traffic.advance()
        return web.Response(text=life.served.page.text())


def weight(virtual_service: Json) -> int:
    """The percentage that the VirtualService's first route gives the canary."""
    shares = virtual_service["spec"]["http"][0]["route"]
    return sum(share.get("weight", 0) for share in shares if share["destination"]["subset"] == Arm.CANARY)


def _addresses() -> Iterator[str]:
    """Loopback addresses that another run of the suite on this machine will hardly use as well."""
    pid = os.getpid()
    for number in itertools.count():
        yield f"127.{1 + (pid >> 8) % 250}.{(pid + number // 250) & 255}.{1 + number % 250}"


def _label(pod: Json) -> str:
    return str((pod["metadata"].get("labels") or {}).get(LABEL, ""))


def _arm(pod: Json) -> tuple[str, str]:
    return _label(pod), str((pod["metadata"].get("labels") or {}).get("version", ""))


def _alive() -> Json:
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    about = {"reason": "KubeletReady", "message": "the suite's own", "lastTransitionTime": now}
    return {"type": "Ready", "status": "True", "lastHeartbeatTime": now, **about}


def _ready(pod: Json) -> bool:
    status: Mapping[str, Json] = pod.get("status") or {}
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or ()}
    return conditions.get("Ready") == "True" and bool(status.get("podIP"))


def _status(pod: Json, life: Life) -> Json:
    """What a kubelet says of a pod that runs and is ready."""
    container = pod["spec"]["containers"][0]
    types = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    return {
        "phase": "Running",
        "podIP": life.ip,
        "podIPs": [{"ip": life.ip}],
        "startTime": life.since,
        "conditions": [{"type": each, "status": "True", "lastTransitionTime": life.since} for each in types],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": life.since}},
                "lastState": {},
            }
        ],
    }
