"""The real controller with many canaries, in one process, without sockets, and in virtual time."""

import asyncio
import contextlib
import io
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from controller.operate import Operator
from controller.ports import Outside
from controller.settings import Settings
from scenarios.scale import objects
from scenarios.scale.cluster import Addresses
from scenarios.scale.pages import Pods
from scenarios.virtual.loop import virtual_loop
from scenarios.virtual.replicas import Wire
from scenarios.world import World

Json = Any

ANSWERED = 0.005  # seconds of a request to the API server
READ = 0.002  # seconds of a page
# Changes of one kind that the API server remembers of each canary: a checkpoint every 10 seconds for the five
# minutes after which etcd forgets. The day that `World` keeps for stories would be what grows in here.
REMEMBERED = 30


@dataclass(slots=True)
class Inside:
    """The controller, the cluster and the pods' pages. `weights`: (time, weight) by the canary's number."""

    world: World
    pods: Pods
    operator: Operator
    running: asyncio.Task[None]
    hanging: Callable[[int], bool] = lambda _index: False  # whether the pages of a canary's pods hang
    weights: dict[int, list[tuple[float, int]]] = field(default_factory=dict)

    @property
    def leaderships(self) -> int:
        """How often somebody has begun to lead."""
        lease = self.world.get("leases", "serin-system", "serin-controller")
        return 0 if lease is None else int(lease["spec"]["leaseTransitions"])

    async def weighs(self, index: int, weight: int, *, within: float) -> float:
        """The time at which the canary has this weight; `TimeoutError` if it has not by then."""
        async with asyncio.timeout(within):
            while self.weights.get(index, [(0.0, 0)])[-1][1] != weight:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.01)
        return self.weights[index][-1][0]

    def run(self, index: int) -> Json:
        """The canary's only run."""
        runs = self.world.objects("canaryruns", objects.namespace(index))
        return next(run for run in runs if run["spec"]["plan"]["stable"] == objects.name(index))

    def pods_of(self, index: int, arm: str) -> list[str]:
        """The names of an arm's pods."""
        all_pods = self.world.objects("pods", objects.namespace(index))
        mine = {"app": objects.name(index), "version": arm}
        return [
            pod["metadata"]["name"] for pod in all_pods if mine.items() <= pod["metadata"]["labels"].items()
        ]

    def heard(self, _type: str, resource: str, obj: Json) -> None:
        """A weight that a VirtualService was given is remembered."""
        if resource == "virtualservices":
            index = int(obj["metadata"]["name"].rpartition("-")[2])
            weight = obj["spec"]["http"][0]["route"][1]["weight"]
            self.weights.setdefault(index, []).append((asyncio.get_running_loop().time(), weight))


@contextlib.asynccontextmanager
async def inside(
    canaries: Sequence[Mapping[str, int]], *, answered: float = ANSWERED, settings: Settings | None = None
) -> AsyncIterator[Inside]:
    """So many canaries, each with so many pods an arm; the API server answers after so many seconds."""
    loop = virtual_loop()
    history = REMEMBERED * len(canaries)
    world = World(clock=loop.now, make_kubelet=Addresses, history=history, latency=answered)
    pods = Pods(io.StringIO(), clock=loop.time)

    async def fetch(url: str, *, accept: str, limit: int) -> tuple[str, bytes]:
        del accept, limit
        address = str(urlsplit(url).hostname)
        await asyncio.sleep(3600 if found.hanging(objects.place(address)[0]) else READ)
        return "text/plain; version=0.0.4", pods.page(address)

    async def nobody(*_: Any, **__: Any) -> Any:
        raise ConnectionRefusedError("nobody listens")

    outside = Outside(transport=Wire(world.transport()), fetch=fetch, post=nobody, ask=nobody, clock=loop.now)
    operator, stop = Operator(settings or Settings(), outside, chance=random.Random(1)), asyncio.Event()
    for obj in objects.namespaces(len(canaries)):
        world.create(obj)
    for index, count in enumerate(canaries):
        for obj in objects.objects(index, pods=count, port=80):
            world.create(obj)
    found = Inside(world, pods, operator, asyncio.create_task(operator.operate(stop)))
    world.on_change(found.heard)
    try:
        yield found
    finally:
        stop.set()
        await found.running
        await world.close()
