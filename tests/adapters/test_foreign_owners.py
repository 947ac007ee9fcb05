"""Objects of another namespace that name ours as their owner: anybody may write that, and they are none.

Kubernetes owns within a namespace alone, and its garbage collector takes such objects away: seconds later, or
never where they have a finalizer. A uid is no secret, and of all objects it is the same in every namespace.
"""

import asyncio
from copy import deepcopy
from typing import Any

import pytest

from controller.cluster import Cluster
from scenarios.objects import CANARY, NAMESPACE, STABLE
from tests.adapters.test_hanging import Alive, promoting
from tests.adapters.test_odd_moments import image
from tests.adapters.test_reconcile import Stage, stage

pytestmark = pytest.mark.virtual
__all__ = ["stage"]

Json = Any
ELSEWHERE = "evil"
EVIL = "evil.example/miner:1"


def claimed(stage: Stage, kind: str, of: str, **more: Json) -> Json:
    """A ReplicaSet or a pod of another namespace that says to be of that Deployment, or of its newest set."""
    deployment = stage.world.get("deployments", NAMESPACE, of)
    sets = [
        one
        for one in stage.world.objects("replicasets", NAMESPACE)
        if one["metadata"]["ownerReferences"][0]["uid"] == deployment["metadata"]["uid"]
    ]
    pods = [one for one in stage.world.objects("pods", NAMESPACE) if one["metadata"]["name"].startswith(of)]
    model = deepcopy(sets[-1] if kind == "replicasets" else pods[0])
    meta = model["metadata"]
    meta |= {"namespace": ELSEWHERE, "uid": f"evil-{kind}-{of}", "resourceVersion": "999999999"}
    meta["annotations"] = (meta.get("annotations") or {}) | more
    return model


async def heard(stage: Stage, kind: str, theirs: Json) -> None:
    """It is known, and something has changed in our namespace, as all day: arms are looked at anew."""
    stage.cluster.changed(kind, "ADDED", theirs)
    for name in (STABLE, CANARY):
        stage.world.patch("deployments", NAMESPACE, name, {"metadata": {"labels": {"looked": "again"}}})
    await asyncio.sleep(1)


def of_arm(stage: Stage, name: str) -> Json:
    return stage.cluster.arm(NAMESPACE, name)


async def test_what_is_promoted_is_no_template_of_another_namespace(stage: Stage) -> None:
    """A uid and a hash, which the page shows, were enough to have one's image run as somebody's stable."""
    await stage.at_first_step()
    theirs = claimed(stage, "replicasets", CANARY, **{"deployment.kubernetes.io/revision": "99"})
    theirs["spec"]["template"]["spec"]["containers"][0]["image"] = EVIL
    await heard(stage, "replicasets", theirs)
    ours = image(stage, CANARY)
    async with Alive(stage).open() as alive:
        await promoting(stage, alive)
        await asyncio.sleep(20)
    assert (image(stage, STABLE), stage.run["status"].get("reason")) == (ours, "Promoted")


@pytest.mark.parametrize("of", [CANARY, STABLE])
@pytest.mark.parametrize("revision", ["99", "none"])
async def test_a_set_of_another_namespace_makes_no_template_unknown_and_no_run_blind(
    stage: Stage, of: str, revision: str
) -> None:
    await stage.at_first_step()
    known = of_arm(stage, of).template_hash
    theirs = claimed(stage, "replicasets", of, **{"deployment.kubernetes.io/revision": revision})
    theirs["spec"]["template"]["spec"]["containers"][0]["image"] = EVIL
    theirs["metadata"]["labels"]["pod-template-hash"] = "evil"
    await heard(stage, "replicasets", theirs)
    assert of_arm(stage, of).template_hash == known
    async with Alive(stage).open() as alive:
        await asyncio.sleep(5)
        assert stage.run["status"]["phase"] == "Progressing"
        alive.failing = True
        assert await alive.gone() <= 3.0
        await alive.until("Failed")
    assert stage.run["status"]["reason"] in {"CheckFailed", "CanaryNotAnswering"}


async def test_a_pod_of_another_namespace_is_none_of_ours_and_is_not_read(stage: Stage) -> None:
    """One that crashed rolled a healthy canary back, and one's page was read as the canary's."""
    await stage.at_first_step()
    before = of_arm(stage, CANARY).pods
    theirs = claimed(stage, "pods", CANARY)
    theirs["metadata"]["name"] = f"{CANARY}-evil"
    theirs["status"] |= {"podIP": "203.0.113.66"}
    theirs["status"]["containerStatuses"] = [
        {"restartCount": 9, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    ]
    await heard(stage, "pods", theirs)
    assert of_arm(stage, CANARY).pods == before
    async with Alive(stage).open():
        await asyncio.sleep(5)
    assert stage.run["status"]["phase"] == "Progressing"


def test_an_owner_has_objects_of_its_own_namespace_only() -> None:
    there = Cluster()
    owner: Json = {"metadata": {"namespace": "ours", "name": "set", "uid": "one", "resourceVersion": "1"}}
    for at in ("ours", "theirs"):
        meta = {"namespace": at, "name": "pod", "uid": at, "resourceVersion": "2"}
        claims = {"ownerReferences": [{"uid": "one", "controller": True}]}
        there.changed("pods", "ADDED", {"metadata": meta | claims})
    assert [one["metadata"]["namespace"] for one in there.owned("pods", owner)] == ["ours"]
