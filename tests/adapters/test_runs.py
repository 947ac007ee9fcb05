import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from analysis.judge import CheckJudgement, Judgement, Verdict
from controller import resource
from controller.cluster import Cluster
from controller.kube import ApiError, Kube, Listed
from controller.model import Checkpoint, Message, Reason, Run, Stage, WeightChange
from controller.ports import Answer, Behind, Overtaken, Transport
from controller.runs import Runs
from scenarios.virtual.loop import START, virtual_loop
from scenarios.world import World
from tests.adapters.scripted import Asked, Scripted, refuses, says

pytestmark = pytest.mark.virtual
NAME = "model-canary-new-1"


@dataclass
class Shelf:
    """Runs in an emulated cluster, with a follower that keeps the index up to date, or is behind."""

    world: World
    kube: Kube
    cluster: Cluster
    runs: Runs
    follower: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        async def learn() -> None:
            async for news in self.kube.follow("/apis/serin.dev/v1alpha1/canaryruns"):
                if isinstance(news, Listed):
                    self.cluster.listed("canaryruns", news.items)
                else:
                    self.cluster.changed("canaryruns", news.type, news.object)

        self.follower = asyncio.create_task(learn())
        await asyncio.sleep(1)

    def stored(self, name: str = NAME) -> Any:
        return self.world.get("canaryruns", "default", name)

    async def create(self, name: str = NAME) -> Run:
        return resource.run(await self.runs.create(wanted(name)))


def wanted(name: str = NAME, workload: str = "model-canary") -> Any:
    names = {"canary": workload, "stable": "model", "virtualService": "model"}
    hashes = {"canaryHash": "new", "stableHash": "old", "stableSubset": "stable", "canarySubset": "canary"}
    plan = names | hashes | {"policy": {}}
    obj = resource.run_object(plan, name=name, namespace="default", workload=workload, owner_uid="u-1")
    obj["metadata"].pop("ownerReferences")  # there is no such owner here, and the run would be collected
    return obj


def checkpoint(body: str = "{}") -> Checkpoint:
    check = CheckJudgement(name="errors", verdict=Verdict.INCONCLUSIVE, log_e=0.5, log_e_pass=0.25)
    return Checkpoint(
        body=body, judgement=Judgement(verdict=Verdict.INCONCLUSIVE, log_e=0.5, checks=(check,))
    )


@pytest.fixture
async def shelf() -> AsyncIterator[Shelf]:
    clock = virtual_loop().now
    world, cluster = World(clock=clock), Cluster()
    kube = Kube(world.transport(), chance=random.Random(1))
    shelf = Shelf(world, kube, cluster, Runs(kube, cluster, clock=clock))
    yield shelf
    if shelf.follower is not None:
        shelf.follower.cancel()
        await asyncio.wait((shelf.follower,))
    await world.close()


async def test_a_run_is_created_with_the_defaults_of_its_schema(shelf: Shelf) -> None:
    run = await shelf.create()
    assert run.plan.policy.steps == (5, 10, 25, 50)
    assert run.stage is Stage.WAITING


async def test_creating_a_run_twice_is_harmless(shelf: Shelf) -> None:
    first = await shelf.create()
    assert await shelf.create() == first
    assert len(shelf.world.objects("canaryruns")) == 1


async def test_what_is_saved_can_be_read_back(shelf: Shelf) -> None:
    run = await shelf.create()
    change = WeightChange(at=START, weight=5, reason=Reason.STARTED)
    message = Message(id="m", alert=0, outcome="Held", reason=Reason.NO_DATA, sentence="hm", at=START)
    later = replace(
        run,
        stage=Stage.STEPPING,
        weight=5,
        weights=(change,),
        step_since=START,
        told=("x",),
        outbox=(message,),
    )
    await shelf.runs.save(later, checkpoint('{"a": 1}'), epoch=3)
    assert resource.run(shelf.stored()) == later
    assert resource.checkpoint(shelf.stored()) == '{"a": 1}'
    assert resource.epoch(shelf.stored()) == shelf.runs.highest_epoch == 3


async def test_an_epoch_that_no_lease_counts_to_is_nobodys(shelf: Shelf) -> None:
    """Somebody edited it: no replica could have taken the Lease any more, and no run had a leader."""
    await shelf.follow()
    run = await shelf.create()
    await shelf.runs.save(run, checkpoint(), epoch=3)
    shelf.world.patch("canaryruns", "default", NAME, {"status": {"epoch": 2**40}}, part="status")
    await asyncio.sleep(1)
    assert shelf.runs.highest_epoch == 0
    await shelf.runs.save(run, checkpoint(), epoch=4)
    assert resource.epoch(shelf.stored()) == 4


async def test_what_is_no_longer_so_leaves_the_status(shelf: Shelf) -> None:
    """A merge patch keeps every field that it does not mention."""
    run = await shelf.create()
    held = replace(run, hold=Reason.NO_DATA, reason=Reason.NO_DATA, step_since=START, canary_replicas=3)
    await shelf.runs.save(held, checkpoint(), epoch=1)
    await shelf.runs.save(run, checkpoint(), epoch=1)
    status = shelf.stored()["status"]
    assert "reason" not in status
    assert "canaryReplicas" not in status
    assert "hold" not in status["state"]
    assert resource.run(shelf.stored()) == run


async def test_a_status_patch_keeps_the_generation(shelf: Shelf) -> None:
    run = await shelf.create()
    before = shelf.stored()["metadata"]["generation"]
    await shelf.runs.save(run, checkpoint(), epoch=1)
    assert shelf.stored()["metadata"]["generation"] == before


async def test_somebodys_annotation_does_not_stop_a_save(shelf: Shelf) -> None:
    """Our copy is stale, so the first write is a 409; the second comes in the same pass."""
    run = await shelf.create()
    shelf.world.patch("canaryruns", "default", NAME, {"metadata": {"annotations": {"note": "mine"}}})
    await shelf.runs.save(replace(run, weight=5), checkpoint(), epoch=1)
    assert shelf.stored()["status"]["weight"] == 5
    assert shelf.stored()["metadata"]["annotations"] == {"note": "mine"}


async def test_a_newer_leader_stops_a_save(shelf: Shelf) -> None:
    run = await shelf.create()
    shelf.world.patch("canaryruns", "default", NAME, {"status": {"epoch": 9, "weight": 25}}, part="status")
    with pytest.raises(Overtaken, match=f"CanaryRun {NAME}: epoch 9 wrote it, ours is 8"):
        await shelf.runs.save(replace(run, weight=50), checkpoint(), epoch=8)
    assert shelf.stored()["status"]["weight"] == 25


async def test_a_newer_leader_that_is_known_already_stops_a_save_without_a_request(shelf: Shelf) -> None:
    run = await shelf.create()
    await shelf.runs.save(run, checkpoint(), epoch=9)
    version = shelf.stored()["metadata"]["resourceVersion"]
    with pytest.raises(Overtaken):
        await shelf.runs.save(run, checkpoint(), epoch=8)
    assert shelf.stored()["metadata"]["resourceVersion"] == version


async def test_what_an_earlier_leader_wrote_unseen_is_not_overwritten_but_read(shelf: Shelf) -> None:
    """As found by a history: an ended run was begun again by a new leader whose watch lagged."""
    run = await shelf.create()
    shelf.world.patch("canaryruns", "default", NAME, {"status": {"epoch": 1, "weight": 25}}, part="status")
    with pytest.raises(Behind, match=f"CanaryRun {NAME}: epoch 1 wrote it after what epoch 2 knew of"):
        await shelf.runs.save(run, checkpoint(), epoch=2)
    assert (shelf.stored()["status"]["epoch"], shelf.stored()["status"]["weight"]) == (1, 25)
    old = {"status": {"epoch": 1, "weight": 5}}  # what it knows by now is not what it decided upon
    with pytest.raises(Behind):
        await shelf.runs.save(run, checkpoint(), epoch=2, upon=old)
    await shelf.runs.save(replace(run, weight=25), checkpoint(), epoch=2)
    assert (shelf.stored()["status"]["epoch"], shelf.stored()["status"]["weight"]) == (2, 25)


async def test_a_run_that_ended_does_not_end_otherwise_for_who_saw_an_old_list(shelf: Shelf) -> None:
    """As found by a history (5250): aborted and done with, it came back in a list, without its weight."""
    run = await shelf.create()
    over = replace(run, stage=Stage.ENDED, reason=Reason.ABORTED, ended=START)
    await shelf.runs.save(over, checkpoint(), epoch=1)
    for other in (replace(run, weight=5), replace(over, reason=Reason.LEADER_LOST)):
        with pytest.raises(Behind, match=f"CanaryRun {NAME} has ended \\(Failed, Aborted\\)"):
            await shelf.runs.save(other, checkpoint(), epoch=1)
    await shelf.runs.save(replace(over, scaled_down=True), checkpoint(), epoch=1)  # its chores go on
    assert shelf.stored()["status"]["reason"] == "Aborted"


async def test_of_two_leaders_the_newer_one_wins_whatever_the_order(shelf: Shelf) -> None:
    run = await shelf.create()
    for _ in range(10):
        writes = [shelf.runs.save(replace(run, weight=epoch), checkpoint(), epoch=epoch) for epoch in (4, 5)]
        random.Random(1).shuffle(writes)
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert all(result is None or isinstance(result, Overtaken) for result in results)
        assert shelf.stored()["status"]["weight"] == 5


async def test_endless_conflicts_are_an_error_and_not_a_loop(shelf: Shelf) -> None:
    run = await shelf.create()
    shelf.world.fault("conflict", seconds=60)
    with pytest.raises(ApiError) as raised:
        await shelf.runs.save(run, checkpoint(), epoch=1)
    assert raised.value.conflict


async def test_a_save_goes_on_when_a_short_outage_is_over(shelf: Shelf) -> None:
    run = await shelf.create()
    shelf.world.fault("outage", seconds=2)
    await shelf.runs.save(replace(run, weight=5), checkpoint(), epoch=1)
    assert shelf.stored()["status"]["weight"] == 5


async def test_a_save_whose_answer_was_lost_is_made_again() -> None:
    """The first patch took effect, its answer was lost: the second one is a 409 from our own write."""
    obj = wanted() | {"metadata": {"namespace": "default", "name": NAME, "uid": "u", "resourceVersion": "1"}}
    state = {"version": 1, "lost": False}

    def answer(asked: Asked) -> Any:
        meta = obj["metadata"] | {"resourceVersion": str(state["version"])}
        if asked.method == "GET":
            return says(obj | {"metadata": meta, "status": {"epoch": 1}})
        if asked.body["metadata"]["resourceVersion"] != str(state["version"]):
            return refuses(409, "Conflict")
        state["version"] += 1
        first, state["lost"] = not state["lost"], True
        return ConnectionResetError("lost") if first else says(obj | {"metadata": meta})

    transport = Scripted(answer)
    cluster = Cluster()
    cluster.wrote(
        "canaryruns", obj | {"metadata": obj["metadata"] | {"creationTimestamp": "2026-01-01T00:00:00Z"}}
    )
    runs = Runs(Kube(transport, chance=random.Random(1)), cluster, clock=virtual_loop().now)
    await runs.save(bare_run(), checkpoint(), epoch=1)
    assert [asked.method for asked in transport.asked] == ["PATCH", "PATCH", "GET", "PATCH"]


def bare_run() -> Run:
    policy = {
        "steps": [5],
        **dict.fromkeys(("warmUp", "minStep", "stepTimeout", "progressDeadline", "noDataTimeout"), "1m"),
        "burstTolerance": "6s",
        "minRequests": 1,
        "alpha": 0.01,
        "beta": 0.05,
        "historyLimit": 1,
        "canaryReplicas": "Match",
        "onInconclusive": "Hold",
        "onNoData": "Hold",
        "scaleDownDelay": {"promoted": "1m", "rolledBack": "1m"},
        "promotion": {"mode": "Copy"},
        "checks": [{"name": "errors", "type": "ErrorRate", "plus": "1%"}],
    }
    obj = wanted()
    obj["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    obj["spec"]["plan"]["policy"] = policy
    return resource.run(obj)


async def test_a_deleted_run_stays_until_its_traffic_is_restored(shelf: Shelf) -> None:
    run = await shelf.create()
    await shelf.runs.guard(run)
    assert shelf.stored()["metadata"]["finalizers"] == ["serin.dev/restore-traffic"]
    shelf.world.delete("canaryruns", "default", NAME)
    assert shelf.stored()["metadata"]["deletionTimestamp"]
    await shelf.runs.save(run, checkpoint(), epoch=1)
    await shelf.runs.release(run)
    assert shelf.stored() is None


async def test_guarding_and_releasing_twice_writes_once(shelf: Shelf) -> None:
    run = await shelf.create()
    await shelf.runs.guard(run)
    version = shelf.stored()["metadata"]["resourceVersion"]
    await shelf.runs.guard(run)
    assert shelf.stored()["metadata"]["resourceVersion"] == version
    await shelf.runs.release(run)
    await shelf.runs.release(run)
    assert not shelf.stored()["metadata"].get("finalizers")


async def test_other_finalizers_are_left_alone(shelf: Shelf) -> None:
    run = await shelf.create()
    shelf.world.patch("canaryruns", "default", NAME, {"metadata": {"finalizers": ["example.com/theirs"]}})
    await shelf.runs.guard(run)
    assert shelf.stored()["metadata"]["finalizers"] == ["example.com/theirs", "serin.dev/restore-traffic"]
    await shelf.runs.release(run)
    assert shelf.stored()["metadata"]["finalizers"] == ["example.com/theirs"]


async def test_releasing_a_run_that_is_gone_is_fine(shelf: Shelf) -> None:
    run = await shelf.create()
    await shelf.follow()
    shelf.world.delete("canaryruns", "default", NAME)
    await shelf.runs.release(run)


async def test_a_run_that_is_being_deleted_cannot_be_guarded_any_more(shelf: Shelf) -> None:
    """Better no raise than a raise that nothing undoes."""
    run = await shelf.create()
    shelf.world.delete("canaryruns", "default", NAME)
    with pytest.raises(ApiError):
        await shelf.runs.guard(run)


async def test_a_late_answer_does_not_bring_a_deleted_run_back(shelf: Shelf) -> None:
    run = await shelf.create()
    await shelf.runs.guard(run)
    await shelf.follow()
    shelf.world.delete("canaryruns", "default", NAME)
    shelf.kube.transport = Late(shelf.kube.transport)
    await shelf.runs.release(run)
    assert shelf.stored() is None
    assert shelf.cluster.get("canaryruns", "default", NAME) is None


class Late:
    """A way to the API server whose answers take a second to come back."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner

    @asynccontextmanager
    async def request(self, method: str, path: str, **rest: Any) -> AsyncIterator[Answer]:
        async with self.inner.request(method, path, **rest) as answer:
            await asyncio.sleep(1)
            yield answer


async def test_a_run_that_is_gone_cannot_be_saved(shelf: Shelf) -> None:
    run = await shelf.create()
    await shelf.follow()
    shelf.world.delete("canaryruns", "default", NAME)
    await asyncio.sleep(1)
    with pytest.raises(ApiError) as raised:
        await shelf.runs.save(run, checkpoint(), epoch=1)
    assert raised.value.not_found


async def test_doorbells_become_commands_once(shelf: Shelf) -> None:
    await shelf.create()
    for _ in range(2):
        await shelf.runs.ask("default", NAME, paused=True, abort="by annotation", approval="annotation 7")
    await shelf.runs.ask("default", NAME, approval="annotation 9", abort="another reason", promote="urgent")
    spec = shelf.stored()["spec"]
    assert spec["paused"] is True
    assert spec["abort"] == {"reason": "by annotation"}
    assert spec["promote"] == {"reason": "urgent"}
    assert spec["approved"] == ["annotation 7", "annotation 9"]
    assert shelf.stored()["metadata"]["generation"] == 3


async def test_a_pause_ends_when_it_is_no_longer_asked_for(shelf: Shelf) -> None:
    await shelf.create()
    await shelf.runs.ask("default", NAME, paused=True)
    await shelf.runs.ask("default", NAME, paused=False)
    assert shelf.stored()["spec"]["paused"] is False


async def test_only_the_newest_ended_runs_of_a_workload_are_kept(shelf: Shelf) -> None:
    for number in range(6):
        run = await shelf.create(f"model-canary-{number}")
        ended = replace(run, stage=Stage.ENDED, reason=Reason.PROMOTED)
        await shelf.runs.save(ended if number != 1 else run, checkpoint(), epoch=1)
        await asyncio.sleep(2)
    await shelf.runs.create(wanted("other-1", workload="other"))
    await shelf.runs.prune("default", "model-canary", keep=2)
    left = [run["metadata"]["name"] for run in shelf.world.objects("canaryruns")]
    assert left == ["model-canary-1", "model-canary-4", "model-canary-5", "other-1"]  # 1 has not ended


async def test_the_newest_drill_outlives_the_others(shelf: Shelf) -> None:
    await shelf.follow()
    for number in range(5):
        run = await shelf.create(f"model-canary-{number}")
        await shelf.runs.save(replace(run, stage=Stage.ENDED, reason=Reason.ABORTED), checkpoint(), epoch=1)
        if number < 2:
            noted = {"metadata": {"annotations": {"serin.dev/drill": "1.2"}}}
            shelf.world.patch("canaryruns", "default", run.name, noted)
        await asyncio.sleep(2)
    await shelf.runs.prune("default", "model-canary", keep=1)
    left = [run["metadata"]["name"] for run in shelf.world.objects("canaryruns")]
    assert left == ["model-canary-1", "model-canary-4"]


async def test_a_run_with_something_left_to_do_is_not_pruned(shelf: Shelf) -> None:
    message = Message(id="m", alert=0, outcome="Promoted", reason=Reason.PROMOTED, sentence="ok", at=START)
    for number in range(3):
        run = await shelf.create(f"model-canary-{number}")
        ended = replace(run, stage=Stage.ENDED, reason=Reason.PROMOTED)
        await shelf.runs.save(replace(ended, outbox=(message,) if number == 0 else ()), checkpoint(), epoch=1)
        await asyncio.sleep(2)
    await shelf.runs.prune("default", "model-canary", keep=1)
    left = [run["metadata"]["name"] for run in shelf.world.objects("canaryruns")]
    assert left == ["model-canary-0", "model-canary-2"]


async def test_pruning_does_not_delete_another_object_of_the_same_name(shelf: Shelf) -> None:
    """Somebody deleted and made it anew since we looked."""
    for number in range(2):
        run = await shelf.create(f"model-canary-{number}")
        await shelf.runs.save(replace(run, stage=Stage.ENDED, reason=Reason.ABORTED), checkpoint(), epoch=1)
        await asyncio.sleep(2)
    shelf.world.delete("canaryruns", "default", "model-canary-0")
    await shelf.kube.call(
        "POST", "/apis/serin.dev/v1alpha1/namespaces/default/canaryruns", body=wanted("model-canary-0")
    )
    await shelf.runs.prune("default", "model-canary", keep=1)
    assert shelf.stored("model-canary-0") is not None


async def test_the_index_keeps_the_newer_of_what_was_written_and_what_was_followed(shelf: Shelf) -> None:
    run = await shelf.create()
    await shelf.follow()
    for weight in range(1, 20):
        await shelf.runs.save(replace(run, weight=weight), checkpoint(), epoch=1)
        known = shelf.cluster.get("canaryruns", "default", NAME)
        assert known["status"]["weight"] == weight
        await asyncio.sleep(timedelta(milliseconds=1).total_seconds())
        assert shelf.cluster.get("canaryruns", "default", NAME)["status"]["weight"] == weight


async def test_an_answer_without_a_spec_is_no_run_and_nothing_is_written(shelf: Shelf) -> None:
    """Found by fuzzing."""
    await shelf.create()
    called, real = [], shelf.kube.call

    async def call(method: str, path: str, **how: Any) -> Any:
        called.append(method)
        return {"metadata": (await real(method, path, **how))["metadata"]}

    shelf.kube.call = call  # type: ignore[method-assign]
    with pytest.raises(ApiError, match="no CanaryRun"):
        await Runs(shelf.kube, Cluster(), clock=virtual_loop().now).ask("default", NAME, paused=True)
    assert called == ["GET"]
