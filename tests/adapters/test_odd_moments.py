"""What others do between two of our steps: late events, an edit under a write, a retarget."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

import pytest

from scenarios.objects import CANARY, NAMESPACE, STABLE
from scenarios.virtual.loop import virtual_loop
from tests.adapters.test_hanging import Alive
from tests.adapters.test_reconcile import Stage, stage

pytestmark = pytest.mark.virtual
__all__ = ["stage"]
ANNOTATED = {"metadata": {"annotations": {"a": "b"}}}


class Woken(Alive):
    """As in a controller a change of what a run depends on has it looked at, at once."""

    def __init__(self, stage: Stage, *, late: float = 0.0, kinds: tuple[str, ...] = ()) -> None:
        super().__init__(stage)
        self.woken = asyncio.Event()
        self.changed = stage.cluster.changed
        self.late, self.kinds = late, kinds
        stage.cluster.changed = self.heard  # type: ignore[method-assign,assignment]

    def heard(self, kind: str, event: str, item: Any) -> None:
        """The watch tells of it, `late` seconds after it has happened if it is one of `kinds`."""
        if kind in self.kinds:
            virtual_loop().call_later(self.late, self.tell, kind, event, item)
        else:
            self.tell(kind, event, item)

    def tell(self, kind: str, event: str, item: Any) -> None:
        self.changed(kind, event, item)
        self.woken.set()

    async def _passes(self) -> None:
        while True:
            after = await self.stage.reconciler.turn(self.stage.key) or 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    after
                ):  # `wait_for` swallows a cancellation that comes with a wake
                    await self.woken.wait()
            self.woken.clear()


def image(stage: Stage, name: str) -> Any:
    return template(stage, name)["spec"]["containers"][0]["image"]


def template(stage: Stage, name: str) -> Any:
    return stage.world.get("deployments", NAMESPACE, name)["spec"]["template"]


def ask(stage: Stage, **said: Any) -> None:
    stage.world.patch("canaryruns", *stage.key, {"spec": said})


async def asked_anew(stage: Stage) -> None:
    """The run is over, since an arm has another template, and another leader makes the next one."""
    await asyncio.sleep(30)
    async with Alive(stage).open():
        await asyncio.sleep(10)
    await stage.reconciler.close()
    stage.lead(2)
    await stage.ask()


@pytest.mark.parametrize("late", [0.1, 0.3, 0.6, 1.5])
@pytest.mark.parametrize("kinds", [("deployments",), ("deployments", "replicasets", "pods")])
async def test_an_event_of_stable_from_before_the_copy_that_comes_late_ends_no_promotion(
    stage: Stage, late: float, kinds: tuple[str, ...]
) -> None:
    """Stable was annotated just before it was given the template, which its answer told of already."""
    await stage.at_first_step()
    request, once = stage.net.request, []

    @asynccontextmanager
    async def touched(method: str, path: str, **more: Any) -> AsyncIterator[Any]:
        if method == "GET" and path.endswith(f"/deployments/{STABLE}") and not once:
            once.append(path)
            stage.world.patch("deployments", NAMESPACE, STABLE, ANNOTATED)
        if method == "PATCH" and "/deployments/" in path:
            await asyncio.sleep(0.05)
        async with request(method, path, **more) as answer:
            yield answer

    stage.net.request = touched  # type: ignore[method-assign]
    async with Woken(stage, late=late, kinds=kinds).open():
        await asyncio.sleep(8)
        ask(stage, promote={"reason": "now"})
        await asyncio.sleep(40)
    assert once
    assert (stage.run["status"]["reason"], image(stage, STABLE)) == ("Promoted", image(stage, CANARY))


async def test_a_pause_that_was_known_is_not_forgotten_by_an_event_from_before_it(stage: Stage) -> None:
    """An answer to a write of ours has told of the pause, half a second before the run's events."""
    await stage.at_first_step()
    seen: list[bool] = []
    async with Woken(stage, late=0.5, kinds=("canaryruns",)).open():
        await asyncio.sleep(3)
        stage.world.patch("canaryruns", *stage.key, ANNOTATED)
        await asyncio.sleep(0.1)
        ask(stage, paused=True)
        await asyncio.sleep(0.1)
        await stage.reconciler.means.store.ask(*stage.key, promote="any write of ours")
        for _ in range(20):
            run = stage.cluster.get("canaryruns", *stage.key)
            assert run is not None
            seen.append(bool(run["spec"].get("paused")))
            await asyncio.sleep(0.1)
    assert all(seen[seen.index(True) :])


@pytest.mark.parametrize("answered", [0.1, 0.4, 1.5])
async def test_a_copy_under_way_when_somebody_changes_stable_is_not_made_upon_their_change(
    stage: Stage, answered: float
) -> None:
    """Each request reaches the API server after so many seconds, and watches are quick."""
    await stage.at_first_step()
    request, read = stage.net.request, asyncio.Event()

    @asynccontextmanager
    async def slow(method: str, path: str, **more: Any) -> AsyncIterator[Any]:
        if method == "GET" and path.endswith(f"/deployments/{STABLE}"):
            read.set()
        if "watch" not in (more.get("query") or {}):
            await asyncio.sleep(answered)
        async with request(method, path, **more) as answer:
            yield answer

    stage.net.request = slow  # type: ignore[method-assign]
    async with Woken(stage).open():
        await asyncio.sleep(8)
        ask(stage, promote={"reason": "now"})
        await read.wait()
        containers = deepcopy(template(stage, STABLE)["spec"]["containers"])
        containers[0]["image"] = "their.own/hotfix:v9"
        await asyncio.sleep(0.05)
        theirs = {"spec": {"template": {"spec": {"containers": containers}}}}
        stage.world.patch("deployments", NAMESPACE, STABLE, theirs)
        await asyncio.sleep(40)
    assert (stage.run["status"]["reason"], image(stage, STABLE)) == ("StableChanged", "their.own/hotfix:v9")


async def test_a_run_that_ends_just_when_somebody_changes_stable_gives_no_template_over_theirs(
    stage: Stage,
) -> None:
    """Seed 30447: what stable had then was nobody's yet, so that what was owed was given back upon it."""
    await stage.at_first_step()
    request, once = stage.net.request, []

    @asynccontextmanager
    async def fixed(method: str, path: str, **more: Any) -> AsyncIterator[Any]:
        if method == "GET" and path.endswith(f"/deployments/{STABLE}") and not once:
            once.append(path)
            containers = deepcopy(template(stage, STABLE)["spec"]["containers"])
            containers[0]["image"] = "their.own/hotfix:v9"
            theirs = {"spec": {"template": {"spec": {"containers": containers}}}}
            stage.world.patch("deployments", NAMESPACE, STABLE, theirs)
            ask(stage, abort={"reason": "theirs goes first"})
        async with request(method, path, **more) as answer:
            yield answer

    stage.net.request = fixed  # type: ignore[method-assign]
    async with Woken(stage).open():
        await asyncio.sleep(8)
        ask(stage, promote={"reason": "now"})
        await asyncio.sleep(40)
    assert once
    assert (stage.run["status"]["reason"], image(stage, STABLE)) == ("Aborted", "their.own/hotfix:v9")


async def test_a_run_whose_zero_was_refused_sends_it_again_though_its_successor_steers_elsewhere(
    stage: Stage,
) -> None:
    """The annotation names another VirtualService now; that of before cannot be written for a while."""
    await stage.at_first_step()
    other = deepcopy(stage.service)
    other["metadata"] = {"name": "other", "namespace": NAMESPACE}
    for one, weight in zip(other["spec"]["http"][0]["route"], (100, 0), strict=True):
        one["weight"] = weight
    stage.world.create(other)
    stage.net.fails = [("PATCH", f"virtualservices/{STABLE}")]
    first = stage.key

    async def passes() -> None:
        while True:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(await stage.reconciler.turn(first) or 1)

    async with Alive(stage).open():
        await asyncio.sleep(3)
        elsewhere = {"metadata": {"annotations": {"serin.dev/virtual-service": "other"}}}
        stage.world.patch("deployments", NAMESPACE, CANARY, elsewhere)
        await asyncio.sleep(25)
        await stage.ask()
        assert stage.key != first
        going = asyncio.create_task(passes())
        await asyncio.sleep(20)
        there = stage.world.get("virtualservices", NAMESPACE, "other")["spec"]["http"][0]["route"]
        assert (there[1]["weight"], stage.weight) == (10, 10)
        stage.net.fails = []
        await asyncio.sleep(5)
        going.cancel()
    assert stage.weight == 0


async def test_a_restart_of_stable_after_which_its_oldest_replica_set_is_dropped_changes_no_template(
    stage: Stage,
) -> None:
    """Stable is restarted each night, and has as many ReplicaSets as `revisionHistoryLimit` keeps."""
    await stage.at_first_step()
    before = stage.run["spec"]["plan"]["stableHash"]
    async with Alive(stage).open():
        await asyncio.sleep(3)
        restarted = {"kubectl.kubernetes.io/restartedAt": "2026-03-02T03:00:00Z"}
        stage.world.patch(
            "deployments",
            NAMESPACE,
            STABLE,
            {"spec": {"template": {"metadata": {"annotations": restarted}}}},
        )
        await asyncio.sleep(30)
        stage.world.delete("replicasets", NAMESPACE, f"{STABLE}-{before}")  # as the Deployment's controller
        await asyncio.sleep(10)
        assert stage.run["status"]["phase"] == "Progressing"
        ask(stage, promote={"reason": "now"})
        await asyncio.sleep(40)
    assert stage.run["status"]["reason"] == "Promoted"


async def test_a_canary_that_differs_in_its_template_s_annotations_is_promoted_in_truth(stage: Stage) -> None:
    """Its model is named in an annotation, which pods read by the downward API, or an injector does."""
    await stage.at_first_step()
    mine = {"models.example/uri": "s3://fraud/v8"}
    same = template(stage, STABLE)["spec"]
    alone = {"spec": {"template": {"spec": same, "metadata": {"annotations": mine}}}}
    stage.world.patch("deployments", NAMESPACE, CANARY, alone)
    await asked_anew(stage)
    async with Alive(stage).open():
        await asyncio.sleep(30)
        assert stage.run["status"]["phase"] == "Progressing"
        ask(stage, promote={"reason": "now"})
        await asyncio.sleep(60)
    assert stage.run["status"]["reason"] == "Promoted"
    assert mine.items() <= template(stage, STABLE)["metadata"]["annotations"].items()


@pytest.mark.parametrize("asked", ["promote", "abort"])
async def test_a_stable_whose_memory_somebody_writes_otherwise_is_the_one_compared_with(
    stage: Stage, asked: str
) -> None:
    """Kubernetes makes no ReplicaSet of 1073741824 where there is one of 1Gi; the promotion failed."""
    await stage.at_first_step()
    limit(stage, "1Gi")
    await asked_anew(stage)
    async with Alive(stage).open():
        await asyncio.sleep(30)
        sets = len(stage.world.objects("replicasets", NAMESPACE))
        limit(stage, "1073741824")
        await asyncio.sleep(5)
        assert len(stage.world.objects("replicasets", NAMESPACE)) == sets
        assert stage.run["status"]["phase"] == "Progressing"
        ask(stage, **{asked: {"reason": "now"}})
        await asyncio.sleep(60)
    assert stage.run["status"]["reason"] == {"promote": "Promoted", "abort": "Aborted"}[asked]
    there, limits = template(stage, STABLE)["spec"], {"limits": {"memory": "1073741824"}}
    assert (there == template(stage, CANARY)["spec"]) == (asked == "promote")
    assert (there["containers"][0]["resources"] == limits) == (asked == "abort")


def limit(stage: Stage, memory: str) -> None:
    """Stable's container may use so much."""
    (container,) = template(stage, STABLE)["spec"]["containers"]
    spec = {"containers": [container | {"resources": {"limits": {"memory": memory}}}]}
    stage.world.patch("deployments", NAMESPACE, STABLE, {"spec": {"template": {"spec": spec}}})


async def test_a_promotion_of_a_paused_run_that_is_taken_back_as_the_cli_says_gives_stable_nothing(
    stage: Stage,
) -> None:
    await stage.at_first_step()
    before = image(stage, STABLE)
    async with Alive(stage).open():
        urgent: dict[str, Any] = {"reason": "urgent"}
        for name, value in (("paused", True), ("promote", urgent), ("promote", None), ("paused", False)):
            ask(stage, **{name: value})
            await asyncio.sleep(3)
        await asyncio.sleep(20)
    assert (stage.run["status"]["phase"], image(stage, STABLE)) == ("Progressing", before)
