"""What people of a story are told by the API server."""

import pytest

from scenarios.objects import NAMESPACE, STABLE, objects
from scenarios.people import SHOWN, NotDone, People
from scenarios.story import load
from scenarios.virtual.loop import virtual_loop
from scenarios.world import World
from tests.unit.test_docs import ROOT

pytestmark = pytest.mark.virtual


async def test_a_refusal_says_what_is_wrong_and_not_the_whole_object() -> None:
    world = World(clock=virtual_loop().now)
    for obj in objects(load(ROOT / "scenarios" / "good-canary.yaml")):
        world.create(obj)
    people = People(world.transport(), namespace=NAMESPACE)
    with pytest.raises(NotDone) as told:
        await people.patch("Deployment", STABLE, {"spec": {"replicas": "three"}})
    said = str(told.value)
    assert said.startswith("PATCH ")
    assert " … " in said
    assert len(said) < SHOWN + 120
    await world.close()
