"""docs/adopting.md, typed from the first line to the last: at no moment is there a request without a pod.

After every change of any object it is worked out, as a sidecar and a Service would, which pods the next
request may find.
"""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from scenarios.stand import furnished
from scenarios.world import World

Json = Any
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adopting.md").read_text()
BEFORE, LABEL, SUBSETS, SPLIT, GO, CANARY, ASK, START, BACK, NEW, BESIDE = range(11)
BLOCKS: list[str] = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)  # eleven, as they are called above
IN_ORDER = (LABEL, SUBSETS, SPLIT, GO, CANARY)
FAILS = "503"


def selected(labels: Mapping[str, str], pods: list[Json]) -> set[str]:
    """The versions of the ready pods that have the labels."""
    found = [pod["metadata"].get("labels", {}) for pod in pods if _serves(pod)]
    return {each.get("version", "") for each in found if labels.items() <= each.items()}


def _serves(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def reached(world: World) -> set[str]:
    """The versions that the next request may find; `FAILS` is among them if it may find none."""
    (service,) = world.stored("services", "shop")
    pods = [one for one in world.stored("pods", "shop") if one["metadata"].get("labels")]
    behind = service["spec"]["selector"]
    routes = world.stored("virtualservices", "shop")
    if not routes:
        return selected(behind, pods) or {FAILS}
    found: set[str] = set()
    for target in routes[0]["spec"]["http"][0]["route"]:
        if target.get("weight", 100):
            chosen = _subset(world, target["destination"].get("subset"))
            found |= {FAILS} if chosen is None else selected(behind | chosen, pods) or {FAILS}
    return found


def _subset(world: World, name: str | None) -> Mapping[str, str] | None:
    """Its labels; None if nobody knows it."""
    rules = world.stored("destinationrules", "shop")
    known: Json = {one["name"]: one["labels"] for rule in rules for one in rule["spec"].get("subsets", ())}
    return {} if name is None else known.get(name)


class Desk:
    """Somebody before the cluster, and what every change of it meant to the next request."""

    def __init__(self, world: World, home: Path) -> None:
        self.world = world
        self.met: list[set[str]] = []
        self._environ = {
            "HOME": str(home),
            "KUBECONFIG": str(home / "kubeconfig"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SERIN_PORT": "0",
        }

    async def starts(self, text: str) -> asyncio.subprocess.Process:
        both = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
        words = ("bash", "-euo", "pipefail", "-c", text)
        return await asyncio.create_subprocess_exec(*words, **both, env=self._environ, cwd=ROOT)

    async def types(self, block: int) -> str:
        """What the block prints; it ends as it promises."""
        text = BLOCKS[block]
        promised = re.search(r"# exit code (\d)", text)
        process = await self.starts(text)
        said, _ = await process.communicate()
        assert process.returncode == (int(promised[1]) if promised else 0), said.decode()
        return said.decode()

    def look(self) -> None:
        """From now on, at every change."""
        self.world.on_change(lambda *_: self.met.append(reached(self.world)))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Where the page begins."""
    world = furnished("default", bare=False)
    await world.serve()
    world.kubeconfig(tmp_path / "kubeconfig", namespace="default")
    somebody = Desk(world, tmp_path)
    await somebody.types(BEFORE)
    yield somebody
    await world.close()


def met(desk: Desk) -> set[str]:
    return set[str]().union(*desk.met)


def route(desk: Desk) -> Json:
    (service,) = desk.world.objects("virtualservices", "shop")
    return service["spec"]["http"][0]


def test_the_page_has_no_block_that_is_not_typed_here() -> None:
    assert len(BLOCKS) == BESIDE + 1


async def test_every_request_finds_a_pod_and_none_the_canary_before_it_is_asked_for(desk: Desk) -> None:
    desk.look()
    for block in IN_ORDER:
        await desk.types(block)
    checked = await desk.types(ASK)
    assert len(desk.met) > 30
    assert met(desk) == {"", "stable"}
    assert desk.met[-1] == {"stable"}
    assert {"timeout": "2s"}.items() <= route(desk).items()
    assert re.search("^routes +Pass", checked, re.MULTILINE)
    assert re.search("^versions +Pass", checked, re.MULTILINE)
    versions = [pod["metadata"]["labels"].get("version") for pod in desk.world.objects("pods", "shop")]
    assert sorted(set(versions) - {None}) == ["canary", "stable"]


async def test_what_it_leads_to_is_a_run_that_is_planned_by_its_policy(desk: Desk) -> None:
    for block in (*IN_ORDER, ASK, START):
        await desk.types(block)
    asked: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
    desk.world.on_change(
        lambda kind, plural, item: (
            asked.set_result(item) if (kind, plural) == ("ADDED", "canaryruns") else None
        )
    )
    controller = await desk.starts("exec serin controller --kubeconfig $KUBECONFIG")
    try:
        plan = (await asyncio.wait_for(asked, 60))["spec"]["plan"]
    finally:
        controller.terminate()
        await controller.communicate()
    assert (plan["stable"], plan["canary"]) == ("fraud", "fraud-canary")
    assert [check["type"] for check in plan["policy"]["checks"]] == ["Latency", "ErrorRate"]


async def test_without_a_virtual_service_one_is_made_and_no_request_notices(desk: Desk) -> None:
    desk.world.delete("virtualservices", "shop", "fraud")
    desk.look()
    for block in (LABEL, SUBSETS, NEW, GO, CANARY):
        await desk.types(block)
    checked = await desk.types(ASK)
    assert met(desk) == {"", "stable"}
    assert re.search("^routes +Pass", checked, re.MULTILINE)


async def test_where_there_is_no_room_a_label_in_the_template_does(desk: Desk) -> None:
    desk.look()
    for block in (BESIDE, SUBSETS, SPLIT, GO, CANARY):
        await desk.types(block)
    checked = await desk.types(ASK)
    assert met(desk) == {"", "stable"}
    assert re.search("^routes +Pass", checked, re.MULTILINE)
    pods = [one["metadata"]["labels"] for one in desk.world.objects("pods", "shop")]
    assert len([one for one in pods if one.get("version") == "stable"]) == 3


async def test_on_the_way_back_no_request_notices_either(desk: Desk) -> None:
    for block in IN_ORDER:
        await desk.types(block)
    desk.look()
    await desk.types(BACK)
    assert met(desk) == {"stable"}
    assert route(desk)["route"] == [{"destination": {"host": "fraud"}}]
    assert not desk.world.objects("destinationrules", "shop")
    named = {one["metadata"]["name"] for one in desk.world.objects("deployments", "shop")}
    assert named == {"fraud"}


@pytest.mark.parametrize(
    ("order", "what"),
    [
        ((SPLIT,), FAILS),  # subsets that no DestinationRule knows
        ((SUBSETS, SPLIT), FAILS),  # pods without their label
        ((LABEL, CANARY), "canary"),  # its pods behind the Service, and nothing that splits
    ],
)
async def test_in_another_order_it_would_be_noticed(desk: Desk, order: tuple[int, ...], what: str) -> None:
    desk.look()
    for block in order:
        await desk.types(block)
    assert what in met(desk)
