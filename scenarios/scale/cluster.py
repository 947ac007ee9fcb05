"""`python -m scenarios.scale.cluster FOLDER PORT CANARIES`: the emulated API server.

Its kubelet gives pods addresses on loopback, where their pages are at PORT. A kubeconfig is in FOLDER when
stable's are ready; canaries follow one after the other. `weights.jsonl` there has a line for each weight that
a VirtualService was given.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scenarios.scale import objects
from scenarios.world import World

Json = Any
BETWEEN = 0.1  # seconds from one canary to the next: each begins with half a dozen writes


class Addresses:
    """A kubelet: pods are ready at once, each at an address of its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._given: Counter[tuple[int, str]] = Counter()

    def started(self, pod: Json) -> None:
        """The pod is ready."""
        meta = pod["metadata"]
        index, arm = int(meta["labels"]["app"].rpartition("-")[2]), meta["labels"]["version"]
        number = self._given[index, arm]
        self._given[index, arm] += 1
        ip = objects.address(index, arm, number)
        self._world.set_pod(meta["namespace"], meta["name"], ip=ip, ready=True)

    def stopping(self, pod: Json) -> None:
        """The pod is gone."""
        self._world.pod_gone(pod["metadata"]["namespace"], pod["metadata"]["name"])


async def serve(folder: Path, *, port: int, canaries: int) -> None:
    """The API server stands, with all objects of so many canaries, until the process ends."""
    world = World(clock=lambda: datetime.now(UTC), make_kubelet=Addresses, history=65_536)
    with (folder / "weights.jsonl").open("w") as log:

        def heard(_type: str, resource: str, obj: Json) -> None:
            if resource == "virtualservices":
                weight = obj["spec"]["http"][0]["route"][1]["weight"]
                said = {"name": obj["metadata"]["name"], "weight": weight, "at": time.time()}
                log.write(json.dumps(said) + "\n")
                log.flush()

        world.on_change(heard)
        for obj in objects.namespaces(canaries):
            world.create(obj)
        asking = []
        for index in range(canaries):
            *others, canary = objects.objects(index, pods=objects.PODS, port=port)
            asking.append(canary)
            for obj in others:
                world.create(obj)
            await asyncio.sleep(0)
        await world.serve()
        world.kubeconfig(folder / "kubeconfig.new").rename(folder / "kubeconfig")
        for canary in asking:
            await asyncio.sleep(BETWEEN)
            world.create(canary)
        await asyncio.Event().wait()


def main() -> None:
    """As the command line says."""
    folder, *numbers = sys.argv[1:]
    port, canaries = map(int, numbers)
    asyncio.run(serve(Path(folder), port=port, canaries=canaries))


if __name__ == "__main__":
    main()
