"""One pass against the emulated API server: what is sent, in which order, and what survives a failure."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from analysis.evidence import CheckSpec
from analysis.judge import Verdict
from analysis.samples import Counts
from controller import gather, judging, resource, trigger
from controller.cluster import FOLLOWED, Cluster, path
from controller.gates import Gates
from controller.gather import Gathered
from controller.istio import IstioRouter
from controller.kube import ApiError, Kube, Listed
from controller.means import Means
from controller.model import Plan, PodSeen, Replayed, Run, Tell
from controller.onlookers import Look
from controller.peering import Peers
from controller.ports import Answer, Reading, ShadowSource, Trouble
from controller.posting import Sender
from controller.reconcile import LOOKING, Reconciler
from controller.runs import Runs
from controller.shadowing import Shadowing
from controller.telemetry import Telemetry
from controller.ticks import Pace
from controller.workloads import Workloads
from scenarios.objects import CANARY, NAMESPACE, STABLE, objects
from scenarios.story import load
from scenarios.virtual.loop import virtual_loop
from scenarios.world import World

pytestmark = pytest.mark.virtual
Json = Any
STORY = load(Path(__file__).parents[2] / "scenarios" / "good-canary.yaml")


@dataclass
class Net:
    """A transport some of whose requests fail, or hang."""

    beyond: Any
    fails: list[tuple[str, str]] = field(default_factory=list)
    hangs: list[tuple[str, str]] = field(default_factory=list)

    def request(self, method: str, path: str, **more: Any) -> AbstractAsyncContextManager[Answer]:
        def meant(these: list[tuple[str, str]]) -> bool:
            return any(one == method and part in path for one, part in these)

        if meant(self.fails):
            raise ConnectionRefusedError(f"{method} {path}")
        return _Hanging() if meant(self.hangs) else self.beyond.request(method, path, **more)


RECORDER = ("recorder.ns.svc.cluster.local", 8080)


class _Hanging:
    async def __aenter__(self) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async def __aexit__(self, *_: object) -> None: ...


@dataclass
class Pages:
    """A `ports.MetricsSource` that says what it is told."""

    now: dict[str, Reading] = field(default_factory=dict)
    broken: bool = False
    paged: bool = True
    empty: dict[str, Reading] = field(default_factory=dict)

    def watch(
        self, _run: str, pods: Sequence[PodSeen], _checks: Sequence[CheckSpec], _pages: Any = None
    ) -> None:
        self.empty = {pod.name: Reading(at=0.0, requests=None) for pod in pods}

    def read(self, _run: str) -> Mapping[str, Reading]:
        if self.broken:
            raise KeyError("nobody thought of this")
        unread = {name: replace(one, paged=self.paged) for name, one in self.empty.items()}
        return unread | self.now

    def troubles(self, _run: str) -> Mapping[str, Trouble]:
        return {}


class Quiet:
    """Tells nobody, and remembers what."""

    def __init__(self) -> None:
        self.said: list[Tell] = []

    async def tell(self, _run: Run, what: Tell) -> None:
        self.said.append(what)

    def offer(self, run: Run) -> None: ...

    def delivered(self, _run: str) -> frozenset[str]:
        return frozenset()


async def nobody(url: str, body: bytes, *, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str]]:
    raise AssertionError(url, body, headers)  # no policy here has a gate


async def no_secrets(namespace: str, name: str) -> Mapping[str, bytes]:
    raise AssertionError(namespace, name)


@dataclass
class Stage:
    """A cluster with both Deployments ready, a run, and a reconciler that is turned by hand."""

    world: World
    net: Net
    kube: Kube
    cluster: Cluster
    pages: Pages = field(default_factory=Pages)
    quiet: Quiet = field(default_factory=Quiet)
    gates: Gates = field(default_factory=lambda: Gates(Sender(nobody, no_secrets, virtual_loop().now)))
    worker: ShadowSource | None = None
    followers: list[asyncio.Task[None]] = field(default_factory=list)
    key: tuple[str, str] = ("", "")
    reconciler: Reconciler = field(init=False)

    def lead(self, epoch: int = 1) -> None:
        """A new leader: nothing in memory."""
        runs = Runs(self.kube, self.cluster, clock=virtual_loop().now)
        router = IstioRouter(
            lambda namespace, name: self.cluster.get("virtualservices", namespace, name),
            self.kube.call,
            wrote=lambda written: self.cluster.wrote("virtualservices", written),
        )
        means = Means(
            cluster=self.cluster,
            metrics=self.pages,
            router=router,
            store=runs,
            recorder=self.quiet,
            alerter=self.quiet,
            workloads=Workloads(self.kube, self.cluster),
            shadowing=Shadowing(self.worker, router, RECORDER),
            gates=self.gates,
            telemetry=Telemetry(),
            clock=virtual_loop().now,
            pace=Pace(),
            queried=Pace(interval=timedelta(seconds=15)),
            tick=timedelta(seconds=1),
            checkpoint=timedelta(seconds=10),
            begin=lambda plan: gather.begin(plan.policy),
        )
        self.reconciler = Reconciler(means, epoch)

    async def follow(self, kind: str) -> None:
        async for news in self.kube.follow(path(kind)):
            if isinstance(news, Listed):
                self.cluster.listed(kind, news.items, version=news.version)
            else:
                self.cluster.changed(kind, news.type, news.object)

    async def ask(self) -> None:
        """The run that the canary's Deployment asks for."""
        asked = trigger.wanted(
            self.cluster.get("deployments", NAMESPACE, CANARY), self.cluster, lambda *_: None
        )
        assert isinstance(asked, trigger.Asked)
        created = await Runs(self.kube, self.cluster, clock=virtual_loop().now).create(asked.run)
        self.key = NAMESPACE, created["metadata"]["name"]

    async def turns(self, count: int = 1, *, every: float = 1.0) -> float | None:
        """So many passes."""
        after: float | None = None
        for _ in range(count):
            after = await self.reconciler.turn(self.key)
            await asyncio.sleep(every)
        return after

    async def at_first_step(self) -> None:
        await self.turns(3)
        assert self.weight == 10

    def serve(self, *, stable: int, canary: int) -> None:
        """Every pod has completed so many requests by now."""
        at = virtual_loop().now().timestamp()
        for name in (pod["metadata"]["name"] for pod in self.world.objects("pods", NAMESPACE)):
            count = canary if name.startswith(CANARY) else stable
            self.pages.now[name] = Reading(at=at, requests=Counts(count, 0))

    def patch_status(self, **status: Json) -> None:
        self.world.patch("canaryruns", *self.key, {"status": status}, part="status")

    @property
    def run(self) -> Json:
        return self.world.get("canaryruns", *self.key)

    @property
    def guarded(self) -> bool:
        return bool(self.run["metadata"].get("finalizers"))

    @property
    def service(self) -> Json:
        return self.world.get("virtualservices", NAMESPACE, STABLE)

    @property
    def weight(self) -> int:
        """The canary's, at the VirtualService."""
        (route,) = self.world.get("virtualservices", NAMESPACE, STABLE)["spec"]["http"]
        return int(route["route"][1]["weight"])


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    world = World(clock=virtual_loop().now)
    for obj in objects(replace(STORY, policy=dict(STORY.policy) | {"steps": [10, 50]})):
        world.create(obj)
    net = Net(world.transport())
    stage = Stage(world, net, Kube(net, chance=random.Random(1)), Cluster())
    stage.followers = [asyncio.create_task(stage.follow(kind), name=kind) for kind in FOLLOWED]
    await asyncio.sleep(5)
    await stage.ask()
    stage.lead()
    yield stage
    for task in stage.followers:
        task.cancel()
    await stage.reconciler.close()
    await asyncio.gather(*stage.followers, return_exceptions=True)
    await world.close()


async def test_a_run_begins_once_its_pods_are_ready(stage: Stage) -> None:
    await stage.at_first_step()
    assert stage.guarded
    assert stage.run["status"]["weight"] == 10


VIRTUAL_SERVICES = ("PATCH", "virtualservices")


async def test_the_traffic_of_a_run_whose_object_is_gone_is_taken_away_until_it_is_gone(stage: Stage) -> None:
    await stage.at_first_step()
    stage.world.patch("canaryruns", *stage.key, {"metadata": {"finalizers": None}})
    stage.world.delete("canaryruns", *stage.key)
    stage.net.fails = [VIRTUAL_SERVICES]
    await stage.turns(3)
    assert stage.weight == 10

    stage.net.fails = []
    await stage.turns(3)
    assert stage.weight == 0
    assert stage.reconciler.lives == {}


async def test_a_rollback_out_of_a_virtual_service_that_was_edited_is_tried_until_it_is_done(
    stage: Stage,
) -> None:
    await stage.at_first_step()
    (http,) = stage.world.get("virtualservices", NAMESPACE, STABLE)["spec"]["http"]
    stable, canary = http["route"]
    third = {"destination": {"host": "other"}, "weight": 10}
    http["route"] = [stable | {"weight": 80}, canary, third]
    stage.world.patch("virtualservices", NAMESPACE, STABLE, {"spec": {"http": [http]}})
    stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "enough"}}})
    await asyncio.sleep(1)
    stage.net.fails = [VIRTUAL_SERVICES]
    await stage.turns(2)
    assert stage.weight == 10

    stage.net.fails = []
    await stage.turns(2)
    assert stage.weight == 0


async def test_a_run_of_which_only_a_prometheus_knows_something_gets_no_traffic(stage: Stage) -> None:
    stage.pages.paged = False
    await stage.turns(5)
    assert stage.weight == 0
    stage.pages.paged = True
    await stage.turns(2)
    assert stage.weight == 10


async def test_a_run_that_cannot_be_read_gets_no_traffic(stage: Stage) -> None:
    await stage.at_first_step()
    stage.patch_status(reason="FromTheFuture")
    await asyncio.sleep(1)
    stage.lead(epoch=2)
    await stage.turns(2)

    assert stage.weight == 0


async def test_the_traffic_of_a_run_that_cannot_be_read_leaves_as_soon_as_that_is_not_refused(
    stage: Stage,
) -> None:
    await stage.at_first_step()
    stage.patch_status(reason="FromTheFuture")
    await asyncio.sleep(1)
    stage.lead(epoch=2)
    stage.net.fails = [("PATCH", f"virtualservices/{STABLE}")]
    for _ in range(100):
        assert await stage.reconciler.turn(stage.key) == 0.2
    assert stage.weight == 10
    stage.net.fails = []
    await stage.turns(1)
    assert stage.weight == 0


async def test_our_metrics_say_what_holds_a_run_until_nothing_does(stage: Stage) -> None:
    await stage.at_first_step()
    registry = stage.reconciler.means.telemetry.registry

    def held(reason: str) -> float | None:
        where = {"namespace": NAMESPACE, "workload": CANARY, "reason": reason}
        return registry.get_sample_value("canary_run_held", where)

    stage.world.patch("canaryruns", *stage.key, {"spec": {"paused": True}})
    await stage.turns(2)
    assert held("Paused") == 1
    stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "test"}}})
    await stage.turns(2)
    assert stage.weight == 0
    assert held("Paused") is None


async def test_an_abort_is_heard_although_the_status_was_spoilt(stage: Stage) -> None:
    await stage.at_first_step()
    stage.patch_status(reason="FromTheFuture")
    stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "enough"}}})
    await asyncio.sleep(1)
    await stage.turns()

    assert stage.weight == 0


async def test_an_abort_is_heard_although_the_pages_cannot_be_understood(stage: Stage) -> None:
    await stage.at_first_step()
    stage.pages.broken = True
    assert await stage.turns() == 1.0
    stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "enough"}}})
    await asyncio.sleep(1)
    await stage.turns()

    assert stage.weight == 0


async def test_a_weight_that_did_not_get_through_does_not_make_the_canary_look_silent(stage: Stage) -> None:
    stage.net.fails = [VIRTUAL_SERVICES]
    for second in range(12):
        stage.serve(stable=200 * second, canary=0)
        await stage.turns()
    stage.net.fails = []
    stage.serve(stable=200 * 12, canary=0)
    await stage.turns()
    for second in range(13, 16):
        stage.serve(stable=200 * second, canary=20 * (second - 12))
        await stage.turns()

    assert stage.run["status"]["phase"] == "Progressing"
    assert stage.weight == 10


async def test_a_leader_does_not_take_an_earlier_runs_zero_for_the_loss_of_what_it_has_not_given_yet(
    stage: Stage,
) -> None:
    """An earlier run wrote the routes last; somebody edits the object while a raise does not get through."""
    router, place = stage.reconciler.means.router, resource.place(stage.run)
    for weight in (10, 0):
        await router.route(place, weight)
        await asyncio.sleep(1)
    stage.net.fails = [VIRTUAL_SERVICES]
    await stage.turns(3)
    assert (stage.run["status"]["weight"], stage.weight) == (10, 0)
    stage.world.patch("virtualservices", NAMESPACE, STABLE, {"spec": {"exportTo": ["*"]}})
    await asyncio.sleep(1)
    await stage.turns(2)
    assert stage.run["status"]["phase"] == "Progressing"

    stage.net.fails = []
    for second in range(4):  # it looks how the canary does before it gives again
        stage.serve(stable=20 * second, canary=0)
        await stage.turns()
    assert stage.weight == 10


async def test_what_a_leader_has_given_and_another_of_us_took_away_is_not_given_again(stage: Stage) -> None:
    await stage.at_first_step()
    await stage.turns(2)
    await stage.reconciler.means.router.route(resource.place(stage.run), 0)
    await asyncio.sleep(1)
    await stage.turns(2)
    assert (stage.run["status"]["reason"], stage.weight) == ("LeaderLost", 0)


async def test_a_canary_that_stays_silent_is_rolled_back(stage: Stage) -> None:
    for second in range(12):
        stage.serve(stable=200 * second, canary=0)
        await stage.turns()

    assert stage.run["status"]["reason"] == "CanaryNotAnswering"
    assert stage.weight == 0


async def test_a_checkpoint_that_is_slow_is_not_tried_again_and_again(stage: Stage) -> None:
    await stage.at_first_step()
    tried: list[float] = []
    request = stage.net.request

    def counted(method: str, path: str, **more: Any) -> Any:
        if method == "PATCH" and path.endswith("/status"):
            tried.append(virtual_loop().time())
        return request(method, path, **more)

    stage.net.request = counted  # type: ignore[method-assign]
    stage.net.hangs = [("PATCH", "/status")]
    began = virtual_loop().time()
    while virtual_loop().time() < began + 100:
        stage.serve(stable=0, canary=0)
        await stage.turns()
    assert 3 <= len(tried) <= 5  # after 10, 30, 70 s, each turn a little late
    assert stage.reconciler.lives


async def test_a_checkpoint_that_hangs_keeps_no_pass_waiting_and_nobody_from_aborting(stage: Stage) -> None:
    await stage.at_first_step()
    stage.net.hangs = [("PATCH", "/status")]
    began = virtual_loop().time()
    for second in range(20):
        stage.serve(stable=20 * second, canary=2 * second)
        await stage.turns()
    assert virtual_loop().time() - began == 20.0
    loads = stage.reconciler.lives[stage.key].gathered.cursor.loads
    assert loads["step"].canary >= 2 * 16  # checkpoints that were given up have undone nothing

    stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "enough"}}})
    await asyncio.sleep(1)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await stage.turns()
    assert stage.weight == 0


@dataclass
class Writes:
    """Holds writes of status until they may go on; how many were under way at once."""

    net: Net
    may: asyncio.Event = field(default_factory=asyncio.Event)
    now: int = 0
    most: int = 0

    def __post_init__(self) -> None:
        self._whole = self.net.request
        self.net.request = self.request  # type: ignore[method-assign]

    @asynccontextmanager
    async def request(self, method: str, path: str, **more: Any) -> AsyncIterator[Answer]:
        written = method == "PATCH" and path.endswith("/status")
        self.now += written
        self.most = max(self.most, self.now)
        try:
            if written:
                await self.may.wait()
            async with self._whole(method, path, **more) as answer:
                yield answer
        finally:
            self.now -= written


async def under_way(stage: Stage) -> Writes:
    """A checkpoint of the run is on its way, and held."""
    await stage.at_first_step()
    writes, second = Writes(stage.net), 0
    while not writes.now:
        stage.serve(stable=20 * second, canary=2 * second)
        await stage.turns(every=0.1)
        second += 1
    return writes


async def test_what_has_changed_is_written_after_the_checkpoint_that_is_on_its_way(stage: Stage) -> None:
    writes = await under_way(stage)
    stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "enough"}}})
    await asyncio.sleep(0.1)
    turn = asyncio.create_task(stage.reconciler.turn(stage.key))
    await asyncio.sleep(0.1)
    assert (stage.weight, stage.run["status"]["phase"]) == (0, "Progressing")
    writes.may.set()
    await turn
    assert (stage.run["status"]["reason"], writes.most) == ("Aborted", 1)


async def test_a_checkpoint_that_meets_a_newer_leader_ends_ours(stage: Stage) -> None:
    writes = await under_way(stage)
    stage.patch_status(epoch=2)
    writes.may.set()
    await asyncio.sleep(0.1)
    assert await stage.reconciler.turn(stage.key) is None
    assert not stage.reconciler.lives
    assert stage.run["status"]["epoch"] == 2


async def test_a_fault_of_ours_on_the_way_of_a_checkpoint_stops_no_pass(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.at_first_step()

    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Runs, "save", broken)
    with capture_logs() as told:
        for second in range(25):
            stage.serve(stable=20 * second, canary=2 * second)
            await stage.turns()
    lost = [one for one in told if one["event"] == "checkpoint_lost"]
    assert 2 <= len(lost) <= 3  # each in its time, as if it had worked


async def test_what_is_to_be_written_stays_so_though_a_checkpoint_of_before_arrives(stage: Stage) -> None:
    writes = await under_way(stage)
    live = stage.reconciler.lives[stage.key]
    live.saved = None
    writes.may.set()
    await asyncio.sleep(0.1)
    assert live.saved is None
    await stage.reconciler.turn(stage.key)
    assert live.saved == live.run


async def test_a_raise_that_could_not_be_saved_throws_no_evidence_away(stage: Stage) -> None:
    stage.net.fails = [("PATCH", "/status")]
    await stage.turns(3)
    live = stage.reconciler.lives[stage.key]

    assert (stage.weight, live.run.weight) == (0, 0)
    assert live.gathered.step is None  # what is gathered is still history


async def test_a_stale_leader_repairs_no_weight_upwards(stage: Stage) -> None:
    await stage.at_first_step()
    stage.serve(stable=200, canary=20)
    await stage.turns()
    await asyncio.sleep(LOOKING)
    stage.patch_status(epoch=2)
    stage.world.patch(
        "virtualservices",
        NAMESPACE,
        STABLE,
        {"spec": {"http": [_with(stage.world.get("virtualservices", NAMESPACE, STABLE), 100, 0)]}},
    )
    await asyncio.sleep(1)
    stage.reconciler.lives[stage.key].saved_at = virtual_loop().now().timestamp()  # no checkpoint is due
    assert await stage.turns() is None

    assert stage.weight == 0


def _with(vs: Json, stable: int, canary: int) -> Json:
    (http,) = vs["spec"]["http"]
    for target, weight in zip(http["route"], (stable, canary), strict=True):
        target["weight"] = weight
    return http


async def test_a_leader_who_has_read_nothing_yet_repairs_no_weight_upwards(stage: Stage) -> None:
    await stage.at_first_step()
    stage.serve(stable=200, canary=20)
    await stage.turns()
    stage.lead()
    stage.pages.now = {}
    vs = stage.world.get("virtualservices", NAMESPACE, STABLE)
    stage.world.patch("virtualservices", NAMESPACE, STABLE, {"spec": {"http": [_with(vs, 100, 0)]}})
    await stage.turns(20)
    assert stage.weight == 0
    for second in range(3):
        stage.serve(stable=400 + second, canary=40)
        await stage.turns()
    assert stage.weight == 10


async def test_a_successor_gives_nothing_back_that_was_taken_before_the_reason_was_saved(
    stage: Stage,
) -> None:
    await stage.at_first_step()
    lost = stage.reconciler
    await lost.means.router.route(lost.lives[stage.key].run.plan, 0)
    stage.lead(epoch=2)
    for second in range(8):
        stage.serve(stable=400 + second, canary=40)
        await stage.turns()
        assert stage.weight == 0

    assert stage.run["status"]["reason"] == "LeaderLost"


async def test_a_raise_that_was_saved_and_never_made_is_made_by_the_successor(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await never_raised(stage, monkeypatch)
    stage.lead(epoch=2)
    for second in range(8):
        stage.serve(stable=400 + second, canary=40)
        await stage.turns()
    assert stage.weight == 10


async def test_a_raise_that_comes_after_the_end_of_its_run_is_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, before = await never_raised(stage, monkeypatch), stage.service
    stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "by hand"}}})
    await stage.turns(4)
    assert stage.run["status"]["state"]["settled"]

    late = IstioRouter(lambda *_: before, stage.kube.call)
    with pytest.raises(ApiError, match="422"):
        await late.route(plan, 10)
    assert stage.weight == 0
    assert "annotations" not in stage.service["metadata"]  # what kept it out is gone as well


async def never_raised(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The first raise is saved, and its leader ends before it is made."""

    async def lost(*_: object) -> None:
        raise OSError("it ended here")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(IstioRouter, "route", lost)
        await stage.turns(3)
    assert (stage.run["status"]["weight"], stage.weight) == (10, 0)
    return stage.reconciler.lives[stage.key].run.plan


async def test_the_finalizer_goes_as_soon_as_the_traffic_is_away(stage: Stage) -> None:
    await stage.at_first_step()
    stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "enough"}}})
    await asyncio.sleep(1)
    await stage.turns(3)

    assert not stage.guarded
    assert stage.key in stage.reconciler.lives  # its chores are still to come


async def test_a_rolled_back_run_does_not_scale_its_own_retry_to_zero(stage: Stage) -> None:
    await stage.at_first_step()
    stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "enough"}}})
    await asyncio.sleep(1)
    await stage.turns(3)
    first, run = stage.key, stage.run
    meta = {"name": first[1][:-1] + "2", "namespace": NAMESPACE} | {
        "ownerReferences": run["metadata"]["ownerReferences"]
    }
    spec = {"plan": run["spec"]["plan"]}
    stage.world.create({"apiVersion": run["apiVersion"], "kind": "CanaryRun", "metadata": meta, "spec": spec})
    stage.key = NAMESPACE, meta["name"]
    await asyncio.sleep(1)
    await stage.at_first_step()
    for _ in range(5):
        await asyncio.sleep(180)
        await stage.reconciler.turn(first)
    await asyncio.sleep(1)

    assert stage.world.get("deployments", NAMESPACE, CANARY)["spec"]["replicas"] > 0
    assert stage.weight == 10


@pytest.mark.parametrize("value", ["true", "True", "yes"])
async def test_a_namespace_is_frozen_however_it_is_spelt_and_an_event_says_what_is_understood(
    stage: Stage, value: str
) -> None:
    stage.world.patch("namespaces", "", NAMESPACE, {"metadata": {"annotations": {trigger.FREEZE: value}}})
    await asyncio.sleep(1)
    await stage.turns(5)
    assert stage.weight == 0
    assert stage.run["status"]["message"].startswith('frozen by serin.dev/freeze (any value but "false"')


@pytest.mark.parametrize(
    "notes",
    [
        {"canary-of": "other"},
        {"virtual-service": "other"},
        {"stable-subset": "other"},
        {"canary-subset": "other"},
    ],
)
async def test_a_run_whose_annotations_name_something_else_ends_with_its_traffic_away(
    stage: Stage, notes: dict[str, str]
) -> None:
    """It went on, and was promoted into a stable Deployment that nobody asked for any more."""
    await stage.at_first_step()
    said = {f"{trigger.PREFIX}{name}": value for name, value in notes.items()}
    stage.world.patch("deployments", NAMESPACE, CANARY, {"metadata": {"annotations": said}})
    await asyncio.sleep(1)
    await stage.turns(1)
    assert stage.weight == 0
    assert stage.run["status"]["reason"] == "Superseded"
    assert f"this run was a canary of {STABLE} through" in stage.run["status"]["message"]


async def test_annotations_that_say_what_is_so_without_them_change_nothing(stage: Stage) -> None:
    await stage.at_first_step()
    names = {"virtual-service": STABLE, "stable-subset": "stable", "canary-subset": "canary", "policy": "p"}
    said = {f"{trigger.PREFIX}{name}": value for name, value in names.items()}
    stage.world.patch("deployments", NAMESPACE, CANARY, {"metadata": {"annotations": said}})
    await asyncio.sleep(1)
    await stage.turns(3)
    assert stage.weight == 10
    assert stage.run["status"]["phase"] == "Progressing"


async def test_a_run_that_was_deleted_and_asked_for_again_between_two_passes_is_another_one(
    stage: Stage,
) -> None:
    """It had the name of the first, and went on with what was answered to that."""
    stage.world.patch("canaryruns", *stage.key, {"spec": {"paused": True}})
    await asyncio.sleep(1)
    await stage.turns(2)
    first, name = stage.reconciler.lives[stage.key].run, stage.key
    stage.world.delete("canaryruns", *stage.key)
    await asyncio.sleep(1)
    await stage.ask()
    await asyncio.sleep(1)
    assert stage.key == name
    await stage.turns(1)
    now = stage.reconciler.lives[stage.key].run
    assert now.identity == stage.run["metadata"]["uid"] != first.identity
    assert now.created > first.created
    await stage.at_first_step()


async def test_a_stable_that_somebody_is_just_editing_is_not_overwritten(stage: Stage) -> None:
    await stage.at_first_step()
    plan = stage.reconciler.lives[stage.key].run.plan
    labels = {"metadata": {"annotations": {"example.com/by": "hand"}}}
    for follower in stage.followers:
        follower.cancel()
    stage.world.patch("deployments", NAMESPACE, STABLE, {"spec": {"template": labels}})
    with pytest.raises(ApiError) as told:  # the event of the edit is still on its way
        await Workloads(stage.kube, stage.cluster).promote(plan)

    assert told.value.conflict


async def test_a_copy_that_was_on_its_way_is_refused_once_stable_was_given_its_template_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.at_first_step()
    plan, workloads = stage.reconciler.lives[stage.key].run.plan, Workloads(stage.kube, stage.cluster)
    before = deepcopy(stage.world.get("deployments", NAMESPACE, STABLE))
    late: list[tuple[Json, Json]] = []

    async def held_up(_plan: Plan, stable: Json, template: Json) -> None:
        late.append((stable, template))

    with monkeypatch.context() as frozen:
        frozen.setattr(workloads, "_give", held_up)
        await workloads.promote(plan)
    await workloads.restore(plan)
    with pytest.raises(ApiError) as told:
        await workloads._give(plan, *late[0])

    assert told.value.conflict
    after = stage.world.get("deployments", NAMESPACE, STABLE)
    assert after["spec"] == before["spec"]
    assert after["metadata"].get("annotations") == before["metadata"].get("annotations")


async def test_what_somebody_noted_on_a_copy_stays_when_stable_is_given_its_template_back(
    stage: Stage,
) -> None:
    """Seed 42927."""
    await stage.at_first_step()
    plan, workloads = stage.reconciler.lives[stage.key].run.plan, Workloads(stage.kube, stage.cluster)
    before = deepcopy(stage.world.get("deployments", NAMESPACE, STABLE)["spec"]["template"])
    await workloads.promote(plan)
    theirs = {"metadata": {"annotations": {"example.com/build": "54"}}}
    stage.world.patch("deployments", NAMESPACE, STABLE, {"spec": {"template": theirs}})
    await asyncio.sleep(1)
    await workloads.restore(plan)
    after = stage.world.get("deployments", NAMESPACE, STABLE)["spec"]["template"]
    assert after["spec"] == before["spec"]
    notes = before["metadata"].get("annotations", {}) | theirs["metadata"]["annotations"]
    assert after["metadata"] == before["metadata"] | {"annotations": notes}


async def fail(stage: Stage, seconds: range, *, canary: int) -> None:
    """Every pod answers 30 requests a second, of which so many of the canary's fail."""
    for second in seconds:
        at = virtual_loop().now().timestamp()
        for name in (pod["metadata"]["name"] for pod in stage.world.objects("pods", NAMESPACE)):
            count = Counts(30 * second, canary * second if name.startswith(CANARY) else 0)
            stage.pages.now[name] = Reading(at=at, requests=count, values={"errors": count})
        await stage.turns()


async def test_a_new_leader_s_placebos_begin_anew_and_it_is_said_since_when(stage: Stage) -> None:
    await stage.at_first_step()
    await fail(stage, range(1, 20), canary=0)
    before = stage.run["status"]["placebos"]
    assert (before["count"], before["nodes"]) == (3, 1)
    stage.lead(epoch=2)
    lead = virtual_loop().now().isoformat()
    await stage.turns()  # a save before they have seen anything
    assert stage.run["status"]["placebos"] == before
    await fail(stage, range(20, 40), canary=0)
    assert stage.run["status"]["placebos"]["since"] > lead > before["since"]


class Watcher:
    """An onlooker that notes the run's weight before the pass, and the VirtualService's when it may look."""

    field = "watcher"

    def __init__(self, stage: Stage) -> None:
        self.stage, self.seen = stage, list[tuple[int, int]]()

    def look(self, look: Look, _gathered: Gathered) -> tuple[Tell, ...]:
        self.seen.append((look.run.weight, self.stage.weight))
        return ()

    def said(self) -> Json:
        return None


async def test_onlookers_are_shown_a_failed_check_when_the_traffic_is_away_already(stage: Stage) -> None:
    await stage.at_first_step()
    watcher = Watcher(stage)
    stage.reconciler.lives[stage.key].onlookers.watching = [watcher]
    await fail(stage, range(1, 4), canary=0)
    await fail(stage, range(4, 20), canary=15)

    assert stage.run["status"]["reason"] == "CheckFailed"
    assert watcher.seen[0] == (10, 10)
    assert watcher.seen[-1] == (10, 0)


async def test_what_a_change_writes_holds_all_that_the_peers_rules_have_seen(stage: Stage) -> None:
    """Among many runs their windows wait for company; the last status is read for long."""
    await stage.at_first_step()
    there = Peers(company=stage.reconciler.company)
    stage.reconciler.lives[stage.key].onlookers.watching = [there]
    await fail(stage, range(1, 26), canary=0)
    (fast,) = (one for key, one in there.watching.items() if key == ("errors", 10.0))
    assert [int(one.steps) for one in fast.rules] == [1, 1]
    stage.world.patch("canaryruns", *stage.key, {"spec": {"paused": True}})
    await stage.turns(2)
    assert stage.run["status"]["phase"] == "Paused"
    assert [int(one.steps) for one in fast.rules] == [2, 2]


async def test_a_check_fails_although_the_figures_for_people_cannot_be_had(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def divides_by_zero(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(judging, "explained", divides_by_zero)
    await stage.at_first_step()
    await fail(stage, range(1, 20), canary=15)

    assert stage.run["status"]["reason"] == "CheckFailed"
    assert "errors" in stage.run["status"]["message"]
    assert stage.weight == 0


async def test_a_run_without_metrics_is_not_written_in_every_pass(stage: Stage) -> None:
    await stage.at_first_step()
    live = stage.reconciler.lives[stage.key]
    policy = replace(live.run.plan.policy, no_data_timeout=timedelta(seconds=5))
    live.run = replace(live.run, plan=replace(live.run.plan, policy=policy))
    writes: list[str] = []
    stop = stage.world.on_change(lambda _type, kind, _obj: writes.append(kind))
    await stage.turns(40)
    stop()

    assert stage.run["status"]["reason"] == "NoData"
    assert writes.count("canaryruns") <= 6  # every ten seconds, and when the hold began


def ask_prometheus_alone(stage: Stage) -> None:
    """As if every check of the run named it."""
    live = stage.reconciler.lives[stage.key]
    policy = live.run.plan.policy
    asked = replace(policy, pages={check.name: None for check in policy.checks})
    live.run = replace(live.run, plan=replace(live.run.plan, policy=asked))


async def scraped_every_fifteen_seconds(stage: Stage, *, seconds: int, canary: float) -> None:
    """Stable's pods, with 30 requests a second each, since just after the raise, the canary's just before."""
    raised = stage.reconciler.lives[stage.key].run.weight_since
    assert raised is not None
    for _ in range(seconds):
        now = virtual_loop().now().timestamp()
        for name in (pod["metadata"]["name"] for pod in stage.world.objects("pods", NAMESPACE)):
            mine = name.startswith(CANARY)
            first = raised.timestamp() + (-0.5 if mine else 0.5)
            at = first + (now - first) // 15 * 15
            n = 10_000 + round((at - first) * (canary if mine else 30))
            stage.pages.now[name] = Reading(at=at, requests=Counts(n, 0))
        await stage.turns()


async def test_a_canary_whose_first_whole_scrape_is_yet_to_come_is_not_called_silent(stage: Stage) -> None:
    await stage.at_first_step()
    ask_prometheus_alone(stage)
    await scraped_every_fifteen_seconds(stage, seconds=150, canary=5)
    assert stage.weight == 10


async def test_a_canary_that_answers_nothing_is_found_out_by_prometheus_too(stage: Stage) -> None:
    await stage.at_first_step()
    ask_prometheus_alone(stage)
    await scraped_every_fifteen_seconds(stage, seconds=90, canary=0)
    assert stage.weight == 0
    assert stage.run["status"]["reason"] == "CanaryNotAnswering"


@dataclass
class Answers:
    """A `ports.ShadowSource` that says what it is told."""

    said: Replayed | None = None

    def watch(self, _run: str, _question: Json) -> None: ...

    def read(self, _run: str) -> Replayed | None:
        return self.said

    def silent(self, _run: str) -> timedelta:
        return timedelta(0)

    def trouble(self, _run: str) -> str:
        return ""


async def shadowed(stage: Stage, *, recorder: tuple[str, int] | None = None) -> Answers:
    """The stage's run has a Shadow check that is not required, and is undecided."""
    answers = Answers(Replayed(verdict=Verdict.INCONCLUSIVE, sentence="not yet"))
    shadow = {"name": "shadow", "type": "Shadow", "maxFlips": "1%", "required": False}
    plan, (owner,) = stage.run["spec"]["plan"], stage.run["metadata"]["ownerReferences"]
    plan["policy"]["checks"] = [*plan["policy"]["checks"], shadow]
    host, port = RECORDER if recorder is None else recorder
    said = {"host": host, "port": port, "percent": 100, "hosts": ["model"]}
    plan["shadow"] = said | {
        "stable": "file:///a@sha256:" + "a" * 64,
        "canary": "file:///b@sha256:" + "b" * 64,
    }
    stage.world.delete("canaryruns", *stage.key)
    await asyncio.sleep(1)
    made = resource.run_object(
        plan, name="shadowed-1", namespace=NAMESPACE, workload=CANARY, owner_uid=owner["uid"]
    )
    stage.world.create(made)
    await asyncio.sleep(1)
    stage.key, stage.worker = (NAMESPACE, "shadowed-1"), answers
    stage.lead()
    return answers


def mirrors(stage: Stage) -> int:
    (http,) = stage.world.get("virtualservices", NAMESPACE, STABLE)["spec"]["http"]
    return len(http.get("mirrors", []))


@pytest.mark.parametrize("recorder", [("elsewhere.example", 8080), (RECORDER[0], 9)])
async def test_a_run_that_somebody_made_mirrors_requests_to_no_recorder_but_ours(
    stage: Stage, recorder: tuple[str, int]
) -> None:
    await shadowed(stage, recorder=recorder)
    await stage.turns(5)
    assert mirrors(stage) == 0
    checks = stage.world.get("canaryruns", *stage.key)["status"]["checks"]
    assert f"the run's recorder {recorder[0]}:{recorder[1]} is not this controller's" in str(checks)


async def test_a_mirror_that_hangs_on_its_way_delays_no_pass_and_no_rollback(stage: Stage) -> None:
    answers = await shadowed(stage)
    await stage.turns(3)
    assert (stage.weight, mirrors(stage)) == (10, 1)

    answers.said = Replayed(verdict=Verdict.FAIL, sentence="At least 9 % differ.")
    stage.net.hangs = [("GET", "virtualservices/model")]  # the removal begins with what is really there
    async with asyncio.timeout(0.5):
        await stage.reconciler.turn(stage.key)
    assert (stage.weight, mirrors(stage), stage.guarded) == (0, 1, True)

    stage.net.hangs = []
    await stage.turns(60)
    assert (mirrors(stage), stage.guarded) == (0, False)


async def test_the_mirror_is_taken_away_by_the_next_leader_also_if_the_first_removal_failed(
    stage: Stage,
) -> None:
    answers = await shadowed(stage)
    await stage.turns(3)
    assert mirrors(stage) == 1
    assert stage.guarded

    answers.said = Replayed(verdict=Verdict.FAIL, sentence="At least 9 % differ.")
    stage.net.fails = [("GET", "virtualservices/model")]
    await stage.turns(3)
    assert (stage.weight, mirrors(stage), stage.guarded) == (0, 1, True)
    stage.net.fails = []
    stage.lead(2)
    await stage.turns(3)
    assert (mirrors(stage), stage.guarded) == (0, False)


async def test_a_decision_of_the_replay_is_saved_when_it_is_known_and_once(stage: Stage) -> None:
    answers = await shadowed(stage)
    await stage.turns(3)

    def saved() -> Json:
        return json.loads(resource.checkpoint(stage.run) or "")["replayed"]

    answers.said = Replayed(verdict=Verdict.INCONCLUSIVE, sentence="still not", requests=40)
    await stage.turns(12)
    assert saved() is None
    while stage.reconciler.lives[stage.key].saved_at < virtual_loop().now().timestamp() - 1:
        await stage.turns(1)  # to just after a checkpoint, so that the next one is far
    answers.said = Replayed(verdict=Verdict.PASS, sentence="At most 0.1 % differ.", requests=4_000)
    await stage.turns(1)
    assert saved()[1] == "At most 0.1 % differ."
    await stage.turns(2)  # the mirror is seen to be gone
    before = stage.run["metadata"]["resourceVersion"]
    await stage.turns(3)
    assert stage.run["metadata"]["resourceVersion"] == before
    answers.said = None
    stage.lead(2)
    await stage.turns(1)
    replayed = stage.reconciler.lives[stage.key].gathered.replayed
    assert replayed is not None
    assert replayed.verdict is Verdict.PASS


async def test_a_run_that_cannot_be_read_keeps_no_mirror(stage: Stage) -> None:
    await shadowed(stage)
    await stage.turns(3)
    assert mirrors(stage) == 1
    stage.patch_status(state={"stage": "Elsewhere"})
    await asyncio.sleep(1)
    stage.lead(2)
    await stage.turns(3)
    assert (stage.weight, mirrors(stage)) == (0, 0)


async def beside(stage: Stage) -> tuple[str, str]:
    """A second run with the same recorder, which was asked for after the stage's."""
    first = stage.run
    made = resource.run_object(
        first["spec"]["plan"],
        name="shadowed-2",
        namespace=NAMESPACE,
        workload=CANARY,
        owner_uid=first["metadata"]["ownerReferences"][0]["uid"],
    )
    stage.world.create(made)
    await asyncio.sleep(1)
    return NAMESPACE, "shadowed-2"


async def test_a_run_that_has_to_wait_leaves_the_mirror_of_the_first_alone(stage: Stage) -> None:
    await shadowed(stage)
    await stage.turns(3)
    second, before = await beside(stage), stage.service
    for _ in range(3):
        await stage.turns(1)
        await stage.reconciler.turn(second)
        await asyncio.sleep(1)
    assert (mirrors(stage), stage.service) == (1, before)


async def test_a_run_that_takes_over_a_mirror_cannot_vanish_before_it_is_gone(stage: Stage) -> None:
    await shadowed(stage)
    await stage.turns(3)
    second = await beside(stage)
    stage.world.patch("canaryruns", *stage.key, {"spec": {"abort": {"reason": "not this one"}}})
    await asyncio.sleep(1)
    stage.net.fails = [("GET", "virtualservices/model")]
    await stage.turns(2, every=30)  # it gives up, and leaves it to the second run
    stage.net.fails, stage.key = [], second
    assert (stage.weight, mirrors(stage), stage.guarded) == (0, 1, False)
    stage.world.patch("canaryruns", *second, {"spec": {"paused": True}})  # traffic would guard it as well
    await asyncio.sleep(1)
    await stage.turns(1)
    assert (stage.weight, mirrors(stage), stage.guarded) == (0, 1, True)
