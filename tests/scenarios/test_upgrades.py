"""The controller is replaced by another version while a canary has traffic, and back.

`recorded/run-e68ecc8.json` is the CanaryRun of good-canary as that commit had written it when its first step
had passed and the next one waited for pods. This version reads none of its evidence.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from scenarios.objects import CANARY, NAMESPACE, STABLE
from scenarios.play import Theatre, silent
from scenarios.plot import Arm, ArmFault, Fault
from scenarios.story import load
from scenarios.virtual.loop import run_virtual
from scenarios.world import World

Json = Any

HERE = Path(__file__)
GOOD = load(HERE.parents[2] / "scenarios" / "good-canary.yaml")
RECORDED = HERE.parent / "recorded" / "run-e68ecc8.json"
UPGRADED = 58.0  # seconds of the story: when the recorded status was a second old
MIN_STEP = 15.0  # seconds, as in the story


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


def older(run: Json) -> None:
    """As it was recorded."""
    assert json.loads(run["status"]["checkpoint"])["evidence"][0]["version"] == 1
    assert run["status"]["state"]["passed"]


def newer(run: Json) -> None:
    """As a version may write it that knows more than we do."""
    status = run["status"]
    status |= {"evidenceVersion": 2, "checkpoint": "of another kind", "insight": {"deep": [1, None]}}
    status["state"] |= {"mood": "calm", "since": {"whenever": True}}
    status["checks"][0]["colour"] = "green"
    status["weights"][0]["by"] = "somebody"


def upgraded(written: Callable[[Json], None], *faults: Fault) -> Theatre:
    """good-canary from that status on: nobody looks after it until `UPGRADED`, then we do."""

    async def played() -> Theatre:
        theatre = Theatre(replace(GOOD, controllers=0, faults=faults), report=silent)
        async with asyncio.TaskGroup() as group:
            group.create_task(theatre.through())
            await asyncio.sleep(theatre.begins + UPGRADED)
            leave(theatre.world, written)
            theatre.controllers.start()
        return theatre

    return run_virtual(played())


def leave(world: World, written: Callable[[Json], None]) -> None:
    """The cluster is as the other version has left it."""
    run = json.loads(RECORDED.read_text())
    written(run)
    meta, owner = run["metadata"], world.get("deployments", NAMESPACE, CANARY)["metadata"]
    meta["ownerReferences"][0]["uid"] = owner["uid"]
    kept = ("name", "namespace", "labels", "ownerReferences", "finalizers")
    world.create({**run, "metadata": {key: meta[key] for key in kept}})
    world.patch("canaryruns", NAMESPACE, meta["name"], {"status": run["status"]}, part="status")
    (http,) = world.get("virtualservices", NAMESPACE, STABLE)["spec"]["http"]
    for to, weight in zip(http["route"], (80, 20), strict=True):
        to["weight"] = weight
    world.patch("virtualservices", NAMESPACE, STABLE, {"spec": {"http": [http]}})


@pytest.mark.parametrize("written", [older, newer])
def test_another_version_s_step_begins_anew_although_it_had_passed(written: Callable[[Json], None]) -> None:
    theatre = upgraded(written)
    assert theatre.result.outcome == "Promoted"
    raised = next(at for at, weight in theatre.result.weights if weight == 50)
    assert raised > UPGRADED + MIN_STEP


@pytest.mark.parametrize("written", [older, newer])
def test_a_canary_that_fails_while_the_version_changes_is_rolled_back(
    written: Callable[[Json], None],
) -> None:
    fails = ArmFault(at=timedelta(seconds=UPGRADED), arm=Arm.CANARY, error_rate=0.2)
    theatre = upgraded(written, fails)
    result = theatre.result
    assert (result.outcome, result.check) == ("RolledBack", "errors")
    assert max(weight for _, weight in result.weights) == 20
    assert result.seconds_to_weight_zero < 10
