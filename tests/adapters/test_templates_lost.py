"""A template whose ReplicaSet is gone: a new leader knows it, gives it back, and tries it no second time."""

import asyncio
from copy import deepcopy
from typing import Any

import pytest

from controller import trigger
from controller.cluster import FOLLOWED, Cluster
from scenarios.objects import CANARY, NAMESPACE, STABLE
from tests.adapters.test_hanging import DEPLOYMENTS, Alive, promoting
from tests.adapters.test_odd_moments import Woken, ask, image, template
from tests.adapters.test_reconcile import Stage, stage

pytestmark = pytest.mark.virtual
__all__ = ["stage"]
RESTARTED = "kubectl.kubernetes.io/restartedAt"


def edit(stage: Stage, name: str, **spec: Any) -> None:
    stage.world.patch("deployments", NAMESPACE, name, {"spec": spec})


def restart(stage: Stage, name: str, when: str = "2026-03-02T03:00:00Z") -> None:
    edit(stage, name, template={"metadata": {"annotations": {RESTARTED: when}}})


def other_image(stage: Stage, name: str, value: str) -> None:
    containers = deepcopy(template(stage, name)["spec"]["containers"])
    containers[0]["image"] = value
    edit(stage, name, template={"spec": {"containers": containers}})


async def newly_listed(stage: Stage) -> None:
    """A controller that has just started: its index is empty but for what the API server lists."""
    await stage.reconciler.close()
    for task in stage.followers:
        task.cancel()
    await asyncio.gather(*stage.followers, return_exceptions=True)
    stage.cluster = Cluster()
    stage.followers = [asyncio.create_task(stage.follow(kind)) for kind in FOLLOWED]
    await asyncio.sleep(1)
    stage.lead(2)


async def test_a_new_leader_knows_stable_s_template_after_its_oldest_replica_set_is_dropped(
    stage: Stage,
) -> None:
    await stage.at_first_step()
    before = stage.run["spec"]["plan"]["stableHash"]
    async with Alive(stage).open():
        await asyncio.sleep(3)
        restart(stage, STABLE)
        await asyncio.sleep(30)
        stage.world.delete("replicasets", NAMESPACE, f"{STABLE}-{before}")
        await asyncio.sleep(3)
    await newly_listed(stage)
    async with Alive(stage).open():
        await asyncio.sleep(10)
        assert stage.run["status"]["phase"] == "Progressing"
        ask(stage, promote={"reason": "now"})
        await asyncio.sleep(40)
    assert stage.run["status"]["reason"] == "Promoted"


async def test_a_new_leader_gives_stable_its_template_back_from_a_later_replica_set(stage: Stage) -> None:
    await stage.at_first_step()
    plan, old = stage.run["spec"]["plan"], image(stage, STABLE)
    async with Alive(stage).open():
        await asyncio.sleep(3)
        restart(stage, STABLE)
        await asyncio.sleep(30)
        stage.world.delete("replicasets", NAMESPACE, f"{STABLE}-{plan['stableHash']}")
        await asyncio.sleep(3)
        await promoting(stage, Alive(stage))
        stage.net.fails = [DEPLOYMENTS]
        ask(stage, abort={"reason": "no"})
        await asyncio.sleep(3)
        assert image(stage, STABLE) != old
    await newly_listed(stage)
    stage.net.fails = []
    async with Alive(stage).open():
        await asyncio.sleep(20)
    assert image(stage, STABLE) == old


async def test_a_new_leader_tries_no_template_again_that_failed_whose_replica_set_is_dropped(
    stage: Stage,
) -> None:
    """The canary's Deployment is restarted each night, too."""
    await stage.at_first_step()
    failed = stage.run["spec"]["plan"]["canaryHash"]
    async with Alive(stage).open() as alive:
        await asyncio.sleep(3)
        alive.failing = True
        await alive.until("Failed")
        restart(stage, CANARY)
        await asyncio.sleep(30)
        stage.world.delete("replicasets", NAMESPACE, f"{CANARY}-{failed}")
        await asyncio.sleep(3)
    await newly_listed(stage)
    canary = stage.cluster.get("deployments", NAMESPACE, CANARY)
    assert trigger.wanted(canary, stage.cluster, lambda *_: None) is None


@pytest.mark.parametrize("how", ["no history", "made anew"])
async def test_stable_gets_its_template_back_though_the_analysed_one_is_found_nowhere(
    stage: Stage, how: str
) -> None:
    """The canary was given another one while stable was being given the first, and the restore is refused."""
    edit(stage, CANARY, revisionHistoryLimit=0)
    await asyncio.sleep(1)
    await stage.at_first_step()
    old = image(stage, STABLE)
    async with Alive(stage).open() as alive:
        await asyncio.sleep(3)
        await promoting(stage, alive)
        assert image(stage, STABLE) != old
        stage.net.fails = [DEPLOYMENTS]
        if how == "no history":
            other_image(stage, CANARY, "third:v3")
        else:
            again = stage.world.get("deployments", NAMESPACE, CANARY)
            stage.world.delete("deployments", NAMESPACE, CANARY)
            await asyncio.sleep(3)
            names = ("name", "namespace", "labels", "annotations")
            again["metadata"] = {name: again["metadata"][name] for name in names}
            again["spec"]["template"]["spec"]["containers"][0]["image"] = "third:v3"
            again.pop("status", None)
            stage.world.create(again)
        await asyncio.sleep(20)
        stage.net.fails = []
        await asyncio.sleep(20)
    assert image(stage, STABLE) == old


async def test_stable_that_keeps_no_history_any_more_gets_its_template_back_all_the_same(
    stage: Stage,
) -> None:
    """`revisionHistoryLimit: 0` is refused at the start, and was set since."""
    await stage.at_first_step()
    old = image(stage, STABLE)
    async with Alive(stage).open() as alive:
        await asyncio.sleep(3)
        edit(stage, STABLE, revisionHistoryLimit=0)
        await promoting(stage, alive)
        while image(stage, STABLE) == old:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.01)
        stage.net.fails = [("PATCH", "/virtualservices/"), DEPLOYMENTS]
        edit(stage, STABLE, minReadySeconds=5)
        ask(stage, abort={"reason": "no"})
        await asyncio.sleep(30)
        stage.net.fails = []
        await asyncio.sleep(20)
    assert image(stage, STABLE) == old


@pytest.mark.parametrize("arm", [STABLE, CANARY])
async def test_a_replica_set_that_is_deleted_and_made_anew_changes_no_template(
    stage: Stage, arm: str
) -> None:
    """`kubectl delete replicaset`: for a moment the newest one that is left is of the template before."""
    own = template(stage, arm)["spec"]["containers"][0]["image"]
    other_image(stage, arm, "before:v0")
    await asyncio.sleep(20)
    other_image(stage, arm, own)
    await asyncio.sleep(20)
    await stage.at_first_step()
    hashes = stage.run["spec"]["plan"]
    async with Woken(stage).open():
        await asyncio.sleep(3)
        newest = hashes["stableHash" if arm == STABLE else "canaryHash"]
        stage.world.delete("replicasets", NAMESPACE, f"{arm}-{newest}")
        await asyncio.sleep(40)
    assert stage.run["status"].get("reason") in {None, "Interrupted"}
    assert stage.run["status"]["phase"] in {"Progressing", "Paused"}


async def test_a_canary_whose_new_replica_set_is_told_of_late_asks_for_no_run_of_the_one_before(
    stage: Stage,
) -> None:
    stage.world.delete("canaryruns", *stage.key)
    for task in stage.followers:
        if task.get_name() == "replicasets":
            task.cancel()
    other_image(stage, CANARY, "third:v3")
    await asyncio.sleep(2)
    canary = stage.cluster.get("deployments", NAMESPACE, CANARY)
    assert canary is not None
    assert canary["spec"]["template"]["spec"]["containers"][0]["image"] == "third:v3"
    assert trigger.wanted(canary, stage.cluster, lambda *_: None) is None
