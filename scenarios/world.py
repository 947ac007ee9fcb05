"""The emulated cluster: an API server with controllers behind it, in this process or on a port.

It runs on the event loop it is used from, in virtual time or in real: timers are the loop's, the wall
clock is passed in, and nothing here sleeps in a thread. `scenarios.cluster.apiserver` says what requests do.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from controller.ports import Transport
from scenarios.cluster import catalogue, kubelet, rbac, views
from scenarios.cluster.admission import Admission, stamp
from scenarios.cluster.apiserver import ApiServer
from scenarios.cluster.claims import Writer
from scenarios.cluster.faults import Faults
from scenarios.cluster.garbage import Garbage
from scenarios.cluster.kinds import Kinds
from scenarios.cluster.kubelet import Kubelet, MakeKubelet, SimpleKubelet
from scenarios.cluster.messages import Reply, Request
from scenarios.cluster.patches import clone, merged
from scenarios.cluster.registry import Registry, Terms
from scenarios.cluster.serving import Port
from scenarios.cluster.store import Change, Store
from scenarios.cluster.workloads import Workloads

Json = Any
Hear = Callable[[Request], None]
OnChange = Callable[[str, str, Json], None]

HISTORY = 4096  # changes of one resource that watches can resume from: hours of a story
NAMESPACES = ("default", "kube-system")
NODES = ("node-a", "node-b", "node-c")


@cache
def manifest(file: str) -> Sequence[Json]:
    """The objects in a file of `manifests/base`, from the source tree or from inside the installed package.

    Read once a process: 45 kB of YAML take a third of a second. `World` copies what it creates.
    """
    here = Path(__file__).parent
    for folder in (here / "manifests", here.parent / "manifests" / "base"):
        if (folder / file).exists():
            return list(yaml.safe_load_all((folder / file).read_text()))
    return ()


class World:
    """Everything that stands outside the controller but pods' pages, proxies and receivers of alerts."""

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        seed: int = 0,
        make_kubelet: MakeKubelet = SimpleKubelet,
        nodes: Sequence[str] = NODES,
        history: int = HISTORY,
        latency: float = 0.0,
    ) -> None:
        chance = random.Random(f"world {seed}")
        self.clock = clock
        self.faults = Faults()
        kinds = Kinds(catalogue.BUILT_IN)
        self.registry = Registry(
            store=Store(log_size=history),
            kinds=kinds,
            admission=Admission(clock=clock, draw=chance.getrandbits),
            clock=clock,
        )
        self.server = ApiServer(self.registry, self.faults)
        self._latency = latency
        # Whoever asks, the cluster's own timers are the cluster's: they outlive a client that is killed
        self._context = copy_context()
        self._workloads = Workloads(self.registry, nodes=nodes)
        self._garbage = Garbage(self.registry)
        self._running: dict[str, bool] = {}  # pods the kubelet knows, by uid; true once told to stop
        self._port: Port | None = None
        self._heard_first: list[Hear] = []
        self._furnish()
        self.kubelet: Kubelet = make_kubelet(self)
        listeners = (self._workloads.heard, self._garbage.heard, self._tell_kubelet)
        self.registry.store.listeners += [self._define, *listeners]

    def _furnish(self) -> None:
        """What is there before anybody looks: namespaces and our own resource definitions."""
        for name in NAMESPACES:
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for definition in manifest("crds.yaml"):
            crd = self.create(definition)
            self._define(Change(version=0, type="ADDED", kind=self._kind_of(crd), obj=crd, before=None))

    def _kind_of(self, obj: Json) -> Any:
        return self.registry.kinds.of(obj)[0]

    # --- objects

    def objects(self, resource: str, namespace: str | None = None) -> list[Json]:
        """Copies of all objects of a resource (its plural), in order of their names."""
        return [clone(obj) for obj in self.registry.store.all(self.registry.kinds.named(resource), namespace)]

    def stored(self, resource: str, namespace: str | None = None) -> list[Json]:
        """The store's own objects of a resource, in order of their names: to be read, not written into."""
        return list(self.registry.store.all(self.registry.kinds.named(resource), namespace))

    def get(self, resource: str, namespace: str, name: str) -> Json | None:
        """A copy of the object, or nothing."""
        return clone(self.registry.find(resource, namespace, name))

    def create(self, obj: Json) -> Json:
        """The object as it is stored; raises `Refused` in the server's words."""
        kind, _version = self.registry.kinds.of(obj)
        return clone(self.registry.create(kind, views.stored(kind, clone(obj))))

    def patch(self, resource: str, namespace: str, name: str, patch: Json, *, part: str = "") -> Json:
        """The object after a merge patch, as somebody with kubectl would send it."""
        kind = self.registry.kinds.named(resource)
        terms = Terms(
            writer=Writer(name="kubectl-patch", version=kind.api_version(kind.versions[0]), part=part)
        )
        return clone(
            self.registry.update(
                kind, namespace, name, lambda old: merged(old, clone(patch)), part=part, terms=terms
            )
        )

    def delete(self, resource: str, namespace: str, name: str, **options: Json) -> None:
        """The object is gone or on its way; options as in DeleteOptions."""
        self.registry.delete(self.registry.kinds.named(resource), namespace, name, options)

    def on_change(self, told: OnChange) -> Callable[[], None]:
        """`told(type, resource, object)` at every change from now on; returns how to end that.

        The object is the store's own: read it, do not write into it.
        """

        def listener(change: Change) -> None:
            told(change.type, change.kind.plural, change.obj)

        listeners = self.registry.store.listeners
        listeners.append(listener)
        return lambda: listeners.remove(listener)

    def on_request(self, told: Hear) -> Callable[[], None]:
        """`told(request)` before each request is heard, from now on; returns how to end that.

        A request at which it raises `OSError` is lost.
        """
        self._heard_first.append(told)
        return lambda: self._heard_first.remove(told)

    # --- pods

    def set_pod(
        self,
        namespace: str,
        name: str,
        *,
        ip: str | None = None,
        ready: bool | None = None,
        restarts: int | None = None,
        waiting: str | None = None,
        phase: str | None = None,
    ) -> None:
        """The pod's status says what is given; the rest stays. `waiting` is a reason: CrashLoopBackOff."""
        pod = self.registry.find("pods", namespace, name)
        if pod is None:
            return  # it was deleted meanwhile, and a kubelet cannot know
        status = kubelet.status(
            pod, now=self.clock(), ip=ip, ready=ready, restarts=restarts, waiting=waiting, phase=phase
        )
        kind = self.registry.kinds.named("pods")
        self.registry.update(kind, namespace, name, lambda old: {**old, "status": status}, part="status")

    def pod_gone(self, namespace: str, name: str) -> None:
        """The pod has stopped: its object goes, unless a finalizer holds it."""
        if self.registry.find("pods", namespace, name) is not None:
            self.registry.delete(
                self.registry.kinds.named("pods"), namespace, name, {"gracePeriodSeconds": 0}
            )

    def evict(self, namespace: str, name: str) -> None:
        """The pod is evicted, as by a drained node: it is told to stop and says why."""
        self.registry.evict(namespace, name)

    def _tell_kubelet(self, change: Change) -> None:
        if change.kind.key != "pods":
            return
        pod, uid = change.obj, change.obj["metadata"]["uid"]
        soon = asyncio.get_running_loop().call_soon
        if uid not in self._running and pod["spec"].get("nodeName") and change.type != "DELETED":
            self._running[uid] = False
            soon(self.kubelet.started, pod)
        leaving = change.type == "DELETED" or pod["metadata"].get("deletionTimestamp")
        if leaving and self._running.get(uid) is False:
            self._running[uid] = True
            soon(self.kubelet.stopping, pod)
        if change.type == "DELETED":
            self._running.pop(uid, None)

    # --- CustomResourceDefinitions

    def _define(self, change: Change) -> None:
        """What a definition defines is served, or no longer."""
        if change.kind.plural != "customresourcedefinitions":
            return
        if change.type == "DELETED":
            self.registry.kinds.remove(catalogue.from_definition(change.obj))
            return
        self.registry.kinds.add(catalogue.from_definition(change.obj))
        if change.type == "ADDED":
            crd = {**change.obj, "status": _established(change.obj, stamp(self.clock()))}
            self.registry.store.put(change.kind, crd)

    def install(self) -> None:
        """The controller's namespace, account and rights are there, as `kubectl apply -k` makes them."""
        for file in ("namespace.yaml", "rbac.yaml"):
            for obj in manifest(file):
                self.create(obj)

    # --- trouble, and the ways in

    def fault(self, kind: str, *, seconds: float) -> None:
        """The API server suffers for so long: outage, hang, slow, conflict or watch-drop."""
        self.faults.begin(kind, seconds=seconds)

    def transport(self, user: str = rbac.ADMIN) -> Transport:
        """A way in from this process for `user`, who may do what roles that are bound to it say."""
        return _Inside(self, user)

    async def answer(self, request: Request) -> Reply:
        """The answer to one request, after whatever is wrong just now; raises `OSError`."""
        await asyncio.sleep(self._latency)
        await self.faults.pass_request()
        for told in tuple(self._heard_first):
            told(request)
        return self._context.copy().run(self.server.answer, request)

    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """The URL at which the API server answers from now on; port 0 takes a free one."""
        self._port = Port(self.answer)
        return await self._port.open(host, port)

    def kubeconfig(self, path: Path, *, namespace: str = "default", user: str = rbac.ADMIN) -> Path:
        """A kubeconfig of `user` for the served URL is at `path`."""
        if self._port is None:
            raise RuntimeError("nothing is served yet: call serve() before kubeconfig()")
        context = {"cluster": "serin-lab", "user": "serin-lab", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "serin-lab", "cluster": {"server": self._port.url}}],
            "users": [{"name": "serin-lab", "user": {"token": user}}],
            "contexts": [{"name": "serin-lab", "context": context}],
            "current-context": "serin-lab",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    async def close(self) -> None:
        """Nothing runs and nothing listens any more."""
        self._workloads.close()
        self._garbage.close()
        if self._port is not None:
            await self._port.close()
            self._port = None


def _established(definition: Json, now: str) -> Json:
    conditions = [
        {"type": type_, "status": "True", "reason": reason, "message": "", "lastTransitionTime": now}
        for type_, reason in (("NamesAccepted", "NoConflicts"), ("Established", "InitialNamesAccepted"))
    ]
    stored = [version["name"] for version in definition["spec"]["versions"] if version.get("storage")]
    return {"conditions": conditions, "acceptedNames": definition["spec"]["names"], "storedVersions": stored}


class _Inside:
    """The transport of one process: no bytes move, the answers are the same."""

    def __init__(self, world: World, user: str) -> None:
        self._world = world
        self._user = user

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> AsyncIterator["_Answer"]:
        """The server's answer to one request."""
        lowered = {name.lower(): value for name, value in headers.items()}
        asked = Request(method=method, path=path, query=query, headers=lowered, body=body, user=self._user)
        reply = await self._world.answer(asked)
        try:
            yield _Answer(reply)
        finally:
            if reply.lines is not None:
                await reply.lines.aclose()


class _Answer:
    """A `ports.Answer`."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.status = reply.code
        self.headers = reply.headers

    async def read(self) -> bytes:
        """The whole body; of a watch, all lines until it ends."""
        if self._reply.lines is None:
            return self._reply.body
        return b"".join([line async for line in self._reply.lines])

    async def lines(self) -> AsyncIterator[bytes]:
        """The body by lines."""
        if self._reply.lines is None:
            for line in self._reply.body.splitlines(keepends=True):
                yield line
            return
        async for line in self._reply.lines:
            yield line
