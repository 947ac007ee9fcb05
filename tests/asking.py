"""What the controller makes of objects that were applied, in virtual time."""

import asyncio
from collections.abc import Iterable
from typing import Any

from controller import cluster as known
from controller.asks import Asks
from scenarios.virtual.loop import run_virtual, virtual_loop
from scenarios.world import World

Json = Any


def asked(objects: Iterable[Json], workload: tuple[str, str]) -> tuple[list[Json], list[str]]:
    """The runs that are asked for once pods are there, and why none is, by the API server's own rules."""

    async def story() -> tuple[list[Json], list[str]]:
        world = World(clock=virtual_loop().now)
        for obj in objects:
            world.create(obj)
        await asyncio.sleep(30)
        there = known.Cluster()
        for kind in known.FOLLOWED:
            there.listed(kind, world.objects(kind))
        made: list[Json] = []
        refused: list[str] = []

        async def create(obj: Json) -> None:
            made.append(world.create(obj))

        async def refuse(_: Json, why: str, **_said: object) -> None:
            refused.append(why)

        await Asks(there, create=create, refuse=refuse, mend=refuse).turn(workload)
        return made, refused

    return run_virtual(story())
