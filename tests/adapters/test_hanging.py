"""What hangs, and what arrives late: no rollback waits for it, and it is written upon nobody else's run."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from analysis.samples import Counts
from controller import gather
from controller.istio import IstioRouter
from controller.kube import ApiError
from controller.model import Plan
from controller.ports import Answer, Reading
from controller.runs import Runs
from scenarios.objects import CANARY, NAMESPACE, STABLE
from scenarios.virtual.loop import virtual_loop
from tests.adapters.test_reconcile import Stage, Writes, fail, stage, under_way

pytestmark = pytest.mark.virtual
__all__ = ["stage"]

STATUS, DEPLOYMENTS = ("PATCH", "/status"), ("PATCH", "/deployments/")


class Alive:
    """Passes and pages go on by themselves, as in a controller; `failing`: all of the canary's requests."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.failing = False
        self._served: dict[str, Counts] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Alive"]:
        tasks = [asyncio.create_task(one()) for one in (self._pages, self._passes)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pages(self) -> None:
        while True:
            at = virtual_loop().now().timestamp()
            for pod in self.stage.world.objects("pods", NAMESPACE):
                name = pod["metadata"]["name"]
                mine = name.startswith(CANARY)
                before, more = self._served.get(name, Counts(0, 0)), 7 if mine else 40
                now = Counts(before.n + more, before.k + more * (mine and self.failing))
                self._served[name] = now
                self.stage.pages.now[name] = Reading(at=at, requests=now, values={"errors": now})
            await asyncio.sleep(1)

    async def _passes(self) -> None:
        while True:  # noqa: ASYNC110 - the pass says how long
            await asyncio.sleep(await self.stage.reconciler.turn(self.stage.key) or 1)

    async def until(self, phase: str) -> None:
        while self.stage.run["status"]["phase"] != phase:  # noqa: ASYNC110 - as people look
            await asyncio.sleep(0.1)

    async def gone(self) -> float:
        """Seconds until the canary has no traffic, of a minute."""
        began = virtual_loop().time()
        while self.stage.weight and virtual_loop().time() < began + 60:  # noqa: ASYNC110 - as people look
            await asyncio.sleep(0.1)
        return virtual_loop().time() - began


async def promoting(stage: Stage, alive: Alive) -> None:
    """Stable is being given the canary's template, which takes as long as it takes."""
    stage.world.patch("canaryruns", *stage.key, {"spec": {"promote": {"reason": "now"}}})
    await alive.until("Promoting")
    await asyncio.sleep(1.6)


def trouble(stage: Stage, what: str) -> None:
    stage.net.fails = [DEPLOYMENTS] if what == "refused" else []
    stage.net.hangs = [DEPLOYMENTS] if what == "hangs" else []


@pytest.mark.parametrize("what", ["refused", "hangs"])
async def test_a_check_that_fails_while_stable_cannot_be_given_its_template_takes_the_traffic_as_ever(
    stage: Stage, what: str
) -> None:
    await stage.at_first_step()
    trouble(stage, what)
    async with Alive(stage).open() as alive:
        await promoting(stage, alive)
        alive.failing = True
        assert await alive.gone() <= 3.0
        trouble(stage, "nothing")
        await alive.until("Failed")
        assert stage.run["status"]["reason"] == "PromotionFailed"
        await asyncio.sleep(20)
    live = stage.reconciler.lives[stage.key]
    assert (live.touch, live.run.copied) == (None, False)  # a copy that comes late would be refused
    image = stage.world.get("deployments", NAMESPACE, STABLE)["spec"]["template"]["spec"]["containers"][0]
    assert (
        image
        != stage.world.get("deployments", NAMESPACE, CANARY)["spec"]["template"]["spec"]["containers"][0]
    )


async def test_an_abort_does_not_wait_for_a_deployment_that_is_being_written(stage: Stage) -> None:
    await stage.at_first_step()
    trouble(stage, "hangs")
    async with Alive(stage).open() as alive:
        await promoting(stage, alive)
        stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "enough"}}})
        assert await alive.gone() <= 0.5


async def test_stable_is_given_the_template_once_it_can_be_and_is_asked_once_at_a_time(stage: Stage) -> None:
    await stage.at_first_step()
    trouble(stage, "hangs")
    request, under, most = stage.net.request, 0, 0

    @asynccontextmanager
    async def counted(method: str, path: str, **more: Any) -> AsyncIterator[Answer]:
        nonlocal under, most
        written = method == "PATCH" and "/deployments/" in path
        under += written
        most = max(most, under)
        try:
            async with request(method, path, **more) as answer:
                yield answer
        finally:
            under -= written

    stage.net.request = counted  # type: ignore[method-assign]
    async with Alive(stage).open() as alive:
        await promoting(stage, alive)
        await asyncio.sleep(20)
        assert (stage.run["status"]["phase"], most) == ("Promoting", 1)
        trouble(stage, "nothing")
        await alive.until("Succeeded")
    assert stage.weight == 0


async def test_zero_that_was_refused_is_sent_again_at_once_while_the_status_hangs(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.at_first_step()
    stage.net.hangs = [STATUS]
    while stage.reconciler.lives[stage.key].aside is None:
        await stage.turns(every=0.1)
    whole, refused = IstioRouter.route, 0

    async def route(self: IstioRouter, plan: Plan, weight: int) -> None:
        nonlocal refused
        refused += 1
        if refused <= 2:
            raise ApiError(403, "Forbidden", "a webhook was restarting", request="PATCH virtualservices")
        await whole(self, plan, weight)

    monkeypatch.setattr(IstioRouter, "route", route)
    stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "enough"}}})
    async with Alive(stage).open() as alive:
        assert await alive.gone() <= 1.5
        stage.net.hangs = []
        await alive.until("Failed")
    assert stage.run["status"]["reason"] == "Aborted"


async def test_why_the_traffic_cannot_be_taken_is_written_though_it_cannot(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.at_first_step()

    async def route(*_: object) -> None:
        raise ApiError(403, "Forbidden", "not allowed", request="PATCH virtualservices")

    monkeypatch.setattr(IstioRouter, "route", route)
    stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "enough"}}})
    async with Alive(stage).open() as alive:
        await alive.until("Failed")
    assert (stage.run["status"]["reason"], stage.weight) == ("Aborted", 10)


async def test_stable_is_given_its_template_back_although_the_traffic_cannot_be_taken(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def template(name: str) -> Any:
        return stage.world.get("deployments", NAMESPACE, name)["spec"]["template"]["spec"]

    await stage.at_first_step()
    before = template(STABLE)
    assert before != template(CANARY)

    async def route(*_: object) -> None:
        raise ApiError(403, "Forbidden", "not allowed", request="PATCH virtualservices")

    async with Alive(stage).open() as alive:
        stage.world.patch("canaryruns", *stage.key, {"spec": {"promote": {"reason": "now"}}})
        while template(STABLE) == before:  # noqa: ASYNC110 - as people look
            await asyncio.sleep(0.05)
        monkeypatch.setattr(IstioRouter, "route", route)
        stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "enough"}}})
        await alive.until("Failed")
        await asyncio.sleep(3)
    assert (template(STABLE), stage.weight) == (before, 10)


# -- a run of the same name -------------------------------------------------------------------------


async def paused_with_a_checkpoint_on_its_way(stage: Stage) -> Writes:
    """A run that waits for its first weight."""
    stage.world.patch("canaryruns", *stage.key, {"spec": {"paused": True}})
    await asyncio.sleep(1)
    await stage.turns(2)
    writes = Writes(stage.net)
    while not writes.now:
        await stage.turns(every=0.1)
    return writes


async def asked_again(stage: Stage) -> None:
    name = stage.key
    stage.world.delete("canaryruns", *stage.key)
    await asyncio.sleep(0.2)
    await stage.ask()
    await asyncio.sleep(0.2)
    assert stage.key == name


async def test_a_checkpoint_of_a_deleted_run_is_not_written_upon_the_next_of_its_name(stage: Stage) -> None:
    writes = await paused_with_a_checkpoint_on_its_way(stage)
    await asked_again(stage)
    turn = asyncio.create_task(stage.reconciler.turn(stage.key))
    await asyncio.sleep(0.1)
    writes.may.set()
    await turn
    await asyncio.sleep(0.2)
    assert (stage.run["status"]["phase"], stage.weight) == ("Progressing", stage.run["status"]["weight"])


async def test_nothing_is_written_upon_a_run_of_the_same_name(stage: Stage) -> None:
    await stage.at_first_step()
    live = stage.reconciler.lives[stage.key]
    stage.world.patch("canaryruns", *stage.key, {"metadata": {"finalizers": None}})
    await asked_again(stage)
    before = stage.run
    runs = Runs(stage.kube, stage.cluster, clock=virtual_loop().now)
    with pytest.raises(ApiError) as told:
        await runs.save(live.run, stage.reconciler.saving._checkpoint(live, live.run, live.gathered), epoch=1)
    assert told.value.not_found
    with pytest.raises(ApiError):
        await runs.guard(live.run)
    await runs.release(live.run)
    assert stage.run == before


async def test_a_run_whose_finalizer_was_taken_off_leaves_before_the_next_of_its_name_begins(
    stage: Stage,
) -> None:
    await stage.at_first_step()
    await fail(stage, range(1, 10), canary=0)
    first = stage.reconciler.lives[stage.key].run.identity
    stage.world.patch("canaryruns", *stage.key, {"metadata": {"finalizers": None}})
    await asked_again(stage)
    await stage.turns(1, every=0.0)
    assert stage.weight == 0
    async with Alive(stage).open():
        await asyncio.sleep(120)
        live = stage.reconciler.lives[stage.key]
        assert live.run.identity == stage.run["metadata"]["uid"] != first
        assert (stage.weight > 0, stage.guarded) == (True, True)
        assert stage.run["status"]["weight"] == stage.weight


# -- checkpoints ------------------------------------------------------------------------------------


async def test_a_checkpoint_that_meets_a_newer_leader_after_the_end_of_ours_is_no_error(stage: Stage) -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    writes = await under_way(stage)
    stage.patch_status(epoch=2)
    writes.may.set()
    await asyncio.sleep(0.1)
    await stage.reconciler.close()
    stage.lead(epoch=3)
    gc.collect()
    await asyncio.sleep(0)
    assert not told


async def test_a_checkpoint_that_cannot_be_packed_stops_no_pass(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.at_first_step()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(gather, "save", broken)
    with capture_logs() as told:
        for second in range(25):
            stage.serve(stable=20 * second, canary=2 * second)
            await stage.turns()
    spared = [one for one in told if one["event"] == "spared" and one["what"] == "checkpoint"]
    assert 2 <= len(spared) <= 3  # each in its time, as if it had worked


async def test_no_checkpoint_is_left_after_the_end_of_a_leadership(stage: Stage) -> None:
    await under_way(stage)
    aside = stage.reconciler.lives[stage.key].aside
    assert aside is not None
    await stage.reconciler.close()
    assert aside.done()


async def test_a_checkpoint_that_was_refused_is_tried_in_the_next_pass(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.at_first_step()
    tried: list[float] = []

    async def refused(*_: object, **__: object) -> None:
        tried.append(virtual_loop().time())
        raise ApiError(422, "Invalid", "too large", request="PATCH")

    monkeypatch.setattr(Runs, "save", refused)
    for second in range(20):
        stage.serve(stable=20 * second, canary=2 * second)
        await stage.turns()
    assert len(tried) > 5


async def test_checkpoints_that_arrive_slowly_come_seldom(stage: Stage) -> None:
    await stage.at_first_step()
    request, tried = stage.net.request, 0

    @asynccontextmanager
    async def slow(method: str, path: str, **more: Any) -> AsyncIterator[Answer]:
        nonlocal tried
        if method == "PATCH" and path.endswith("/status"):
            tried += 1
            await asyncio.sleep(1)
        async with request(method, path, **more) as answer:
            yield answer

    stage.net.request = slow  # type: ignore[method-assign]
    for _ in range(100):
        stage.serve(stable=0, canary=0)
        await stage.turns()
    assert 2 <= tried <= 6


async def test_what_the_leader_before_could_not_tell_is_offered_although_nothing_changes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.at_first_step()
    offered: list[Any] = []
    stage.lead(epoch=2)
    monkeypatch.setattr(stage.quiet, "offer", offered.append)
    for second in range(25):
        stage.serve(stable=20 * second, canary=2 * second)
        await stage.turns()
    assert offered
