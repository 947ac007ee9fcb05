"""A second controller was installed with a Lease of its own, wrote our runs, and is gone again."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from scenarios.objects import NAMESPACE
from scenarios.play import Theatre, silent
from scenarios.story import load
from scenarios.virtual.loop import run_virtual

GOOD = load(Path(__file__).parents[2] / "scenarios" / "good-canary.yaml")
THEIRS = 99  # the other controller's epoch


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def test_who_was_passed_by_without_losing_the_lease_takes_it_anew_and_goes_on() -> None:
    """The leader said `overtaken` for good, saved nothing more, and only a restart helped."""

    async def played() -> Theatre:
        theatre = Theatre(GOOD, report=silent)
        async with asyncio.TaskGroup() as group:
            group.create_task(theatre.through())
            await asyncio.sleep(theatre.begins + 20)
            (run,) = theatre.world.objects("canaryruns", NAMESPACE)
            assert 0 < run["status"]["epoch"] < THEIRS
            name, status = run["metadata"]["name"], {"status": {"epoch": THEIRS}}
            theatre.world.patch("canaryruns", NAMESPACE, name, status, part="status")
        return theatre

    theatre = run_virtual(played())
    (run,) = theatre.world.objects("canaryruns", NAMESPACE)
    assert run["status"]["epoch"] == THEIRS + 1
    assert (run["status"]["phase"], run["status"]["reason"]) == ("Succeeded", "Promoted")
