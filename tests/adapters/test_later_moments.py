"""What others do between two of our steps, once more: a late ReplicaSet, a late answer, a refused chore."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from controller import report
from scenarios.objects import CANARY, NAMESPACE, STABLE
from scenarios.virtual.loop import virtual_loop
from tests.adapters.test_hanging import Alive
from tests.adapters.test_odd_moments import Woken, ask, image
from tests.adapters.test_reconcile import Stage, stage
from tests.adapters.test_templates_lost import edit, other_image, restart

pytestmark = pytest.mark.virtual
__all__ = ["stage"]


async def test_an_edit_of_stable_whose_replica_set_is_told_of_late_is_not_written_over(stage: Stage) -> None:
    await stage.at_first_step()
    async with Woken(stage, late=3.0, kinds=("replicasets",)).open():
        await asyncio.sleep(8)
        other_image(stage, STABLE, "their.own/hotfix:v9")
        await asyncio.sleep(1.0)
        ask(stage, promote={"reason": "now"})
        await asyncio.sleep(40)
    assert (stage.run["status"]["reason"], image(stage, STABLE)) == ("StableChanged", "their.own/hotfix:v9")


async def test_an_edit_of_a_paused_stable_is_not_written_over(stage: Stage) -> None:
    """`kubectl rollout pause`, then another image that is to be rolled out later."""
    await stage.at_first_step()
    async with Woken(stage).open():
        await asyncio.sleep(8)
        edit(stage, STABLE, paused=True)
        other_image(stage, STABLE, "their.own/hotfix:v9")
        await asyncio.sleep(1.0)
        ask(stage, promote={"reason": "now"})
        await asyncio.sleep(20)
        assert image(stage, STABLE) == "their.own/hotfix:v9"
        ask(stage, abort={"reason": "no"})
        await asyncio.sleep(20)
    assert image(stage, STABLE) == "their.own/hotfix:v9"


async def test_a_canary_whose_scaling_down_is_refused_is_scaled_down_later(stage: Stage) -> None:
    await stage.at_first_step()
    async with Alive(stage).open():
        ask(stage, abort={"reason": "no"})
        await asyncio.sleep(590)
        stage.net.fails = [("PATCH", "/scale")]
        await asyncio.sleep(30)
        stage.net.fails = []
        await asyncio.sleep(30)
    assert stage.world.get("deployments", NAMESPACE, CANARY)["spec"]["replicas"] == 0


async def test_a_deleted_virtual_service_does_not_come_back_with_a_late_answer(stage: Stage) -> None:
    request = stage.net.request

    @asynccontextmanager
    async def late(method: str, path: str, **more: Any) -> AsyncIterator[Any]:
        async with request(method, path, **more) as answer:
            if method == "PATCH" and "virtualservices" in path:
                stage.world.delete("virtualservices", NAMESPACE, STABLE)
                await asyncio.sleep(0.5)
            yield answer

    stage.net.request = late  # type: ignore[method-assign]
    await stage.turns(4)
    stage.net.request = request  # type: ignore[method-assign]
    assert stage.cluster.get("virtualservices", NAMESPACE, STABLE) is None
    ask(stage, abort={"reason": "no"})
    await stage.turns(4)
    assert stage.run["status"]["state"]["settled"]


async def test_a_promotion_by_annotation_is_taken_back_by_what_is_said_to_type(stage: Stage) -> None:
    """Taken out of the run alone it was asked for again, by the annotation, and made after the pause."""
    await stage.at_first_step()
    async with Woken(stage).open():
        ask(stage, paused=True)
        await asyncio.sleep(2)
        note = {"metadata": {"annotations": {"serin.dev/promote": stage.key[1]}}}
        stage.world.patch("deployments", NAMESPACE, CANARY, note)
        await asyncio.sleep(2)
        typed, patched = report.withdrawal(stage.run, "").split(" && ")
        assert typed == f"kubectl annotate deployment {CANARY} -n {NAMESPACE} serin.dev/promote-"
        assert patched.startswith("kubectl patch crun")
        stage.world.patch(
            "deployments", NAMESPACE, CANARY, {"metadata": {"annotations": {"serin.dev/promote": None}}}
        )
        ask(stage, promote=None)
        await asyncio.sleep(2)
        ask(stage, paused=False)
        await asyncio.sleep(20)
    assert stage.run["status"]["phase"] == "Progressing"


async def test_a_scaling_down_that_arrives_late_does_not_take_the_next_run_s_pods(stage: Stage) -> None:
    """Its answer was lost, and the API server gets to it when the canary has another template and traffic."""
    await stage.at_first_step()
    request, held = stage.net.request, []

    def late(method: str, path: str, **more: Any) -> Any:
        if method == "PATCH" and path.endswith("/scale") and not held:
            held.append((path, more))
            raise ConnectionResetError(path)
        return request(method, path, **more)

    async with Alive(stage).open():
        ask(stage, abort={"reason": "no"})
        await asyncio.sleep(596)
        stage.net.request = late  # type: ignore[method-assign]
        while not held:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.05)
        other_image(stage, CANARY, "third:v3")
        await asyncio.sleep(4)
        path, more = held[0]
        async with request("PATCH", path, **more) as answer:
            assert answer.status == 409
    assert stage.world.get("deployments", NAMESPACE, CANARY)["spec"]["replicas"] == 2


async def test_a_list_from_before_the_copy_that_comes_after_it_ends_no_promotion(stage: Stage) -> None:
    """The watch was lost, and all Deployments are listed anew, which takes a second."""
    await stage.at_first_step()
    request, taken = stage.net.request, []

    @asynccontextmanager
    async def listing(method: str, path: str, **more: Any) -> AsyncIterator[Any]:
        there = list(stage.world.objects("deployments", NAMESPACE))
        version = str(max(int(one["metadata"]["resourceVersion"]) for one in there))
        async with request(method, path, **more) as answer:
            yield answer
        if method == "PATCH" and path.endswith(f"/deployments/{STABLE}") and not taken:
            taken.append(path)
            virtual_loop().call_later(
                0.2, partial(stage.cluster.listed, "deployments", there, version=version)
            )

    async with Woken(stage, late=1.0, kinds=("deployments", "replicasets")).open():
        await asyncio.sleep(8)
        stage.net.request = listing  # type: ignore[method-assign]
        ask(stage, promote={"reason": "now"})
        await asyncio.sleep(40)
    assert taken
    assert (stage.run["status"]["reason"], image(stage, STABLE)) == ("Promoted", image(stage, CANARY))


async def test_an_abort_while_stable_s_new_replica_set_is_told_of_late_takes_the_traffic_at_once(
    stage: Stage,
) -> None:
    """Stable was restarted, and its new pods are nobody's that is known: it seemed to have none at all."""
    await stage.at_first_step()
    async with Woken(stage, late=60.0, kinds=("replicasets",)).open() as alive:
        await asyncio.sleep(5)
        restart(stage, STABLE)
        await asyncio.sleep(15)
        ask(stage, abort={"reason": "no"})
        assert await alive.gone() < 1
