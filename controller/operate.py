"""The controller on any `Outside`: followers always, and a leadership for each shard whose Lease it holds."""

import asyncio
import contextlib
from base64 import b64decode
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import structlog

from controller import neighbours, trigger
from controller.alerts import Alerts, Attempt
from controller.asks import Asks
from controller.calm import Calm
from controller.clock import Steady
from controller.cluster import FOLLOWED, Cluster, Key, owner_uid, path
from controller.events import Events
from controller.gates import Gates
from controller.history import EVERY, Histories
from controller.istio import IstioRouter
from controller.kube import Changed, Kube, Listed
from controller.lag import Lags
from controller.lease import Claim
from controller.loop import Loop
from controller.means import Means
from controller.page.traces import Traces
from controller.ports import Outside
from controller.posting import Sender
from controller.reconcile import Reconciler
from controller.replays import Replays
from controller.rounds import Rounds
from controller.runs import Runs, epoch_of
from controller.scrape import Scrape
from controller.settings import Settings
from controller.shadowing import Shadowing
from controller.shards import Shards, shard_of
from controller.slices import Slices
from controller.sources import Sources
from controller.telemetry import Telemetry
from controller.tempo import Tempo
from controller.ticks import Pace
from controller.tracing import Tracing
from controller.workloads import Workloads

if TYPE_CHECKING:
    from controller.prometheus import Prometheus

Json = Any
log = structlog.get_logger(__name__)

RESYNC = 300.0  # seconds between looking at everything again, whatever was or was not heard
# Seconds that a shard which is let go has for its runs' last turns; what is not saved then is made up for.
RETIRING = 2.0
# Seconds for which our runs have been written under a newer epoch. A successor would have our Lease by then,
# so it is another controller, and ours has to be the newest again, or nothing more is saved.
USURPED, BETWEEN = 30.0, 5.0
# Seconds to the next pages of a canary that may fail, where a core is full and ticks are longer. In as many a
# dozen requests of 40 a second are answered, enough if all fail. Ticks that are over decide that it is so.
SOON = 0.3
ONE_LEASE = (
    "a controller with a Lease of its own writes our runs: give all the same --lease-name and namespace"
)
# A change of these asks no Deployment anything, and they come and go all day.
SILENT_KINDS = frozenset({"pods"})
ENDED = ("Succeeded", "Failed")  # phases


@dataclass(slots=True)
class Leadership:
    """What only a shard's leader has: the turns of runs, of annotated Deployments and of their stables."""

    mine: Callable[[Key], bool]  # whether a Deployment is of this shard, and its runs with it
    reconciler: Reconciler
    runs: Loop[Key]
    asks: Loop[Key]
    histories: Loop[Key]
    refused: Collection[
        Key
    ] = ()  # Deployments that were refused: of these is told that they ask no more, too
    asked: dict[Key, int] = field(
        default_factory=dict
    )  # what the index had heard when a run last made it ask
    calm: Calm = field(default_factory=Calm)

    def everything(self, cluster: Cluster) -> None:
        """Every run and every annotated Deployment has a turn now."""
        self.asked.clear()  # of those that are gone as well
        self.calm.forget()
        for run in cluster.all("canaryruns"):
            if self.mine(_canary(run)):
                self.runs.due(_key(run))
        self.annotated(cluster)

    def annotated(self, cluster: Cluster, namespace: str | None = None) -> int:
        """Every annotated Deployment has a turn now; how many there are, others counted as a tenth."""
        found = [self._annotated(deployment) for deployment in cluster.all("deployments", namespace)]
        return sum(found) + len(found) // 10

    def _annotated(self, deployment: Json) -> bool:
        key = _key(deployment)
        asks = (key in self.refused or trigger.asks(deployment)) and self.mine(key)
        if asks:
            self.asks.due(key)
            self.histories.due(key)
        return asks

    def heard(self, cluster: Cluster, kind: str, obj: Json, *, known: bool = False) -> None:
        """Whatever the change may concern has a turn now; of what was `known`, as by our own write, none."""
        namespace = obj["metadata"]["name"] if kind == "namespaces" else _key(obj)[0]
        if kind == "canaryruns":
            canary, news = _canary(obj), cluster.news(namespace)
            if self.mine(canary):
                if not known or _key(obj) not in self.reconciler.lives:
                    self.runs.hurry(_key(obj))
                if self.asked.get(canary) != news:  # a checkpoint is none
                    self.asked[canary] = news
                    self.asks.due(canary)
            self._refused_for(kind, obj)
            return
        workload = _workload(cluster, kind, obj)
        for key, live in self.reconciler.lives.items():
            plan = live.run.plan
            if plan.namespace == namespace and workload in {None, plan.canary, plan.stable}:
                self.calm.turn(self.runs, key, alone=workload is not None)
        if kind == "deployments":
            self._annotated(obj)  # it may be gone, and was refused
        if kind not in SILENT_KINDS:
            self.calm.look(("annotated", namespace), partial(self.annotated, cluster, namespace))
        self._refused_for(kind, obj)

    def _refused_for(self, kind: str, obj: Json) -> None:
        """Who was refused for another's run, or its pods, has a turn once these are over."""
        if not (_over(obj) if kind == "canaryruns" else "deletionTimestamp" in obj["metadata"]):
            return
        namespace = _key(obj)[0]
        self.calm.look(("refused", namespace), partial(self._refused_in, namespace))

    def _refused_in(self, namespace: str) -> int:
        keys = [key for key in self.refused if key[0] == namespace and self.mine(key)]
        for key in keys:
            self.asks.due(key)
        return len(keys)

    def beyond(self, cluster: Cluster, epoch: int) -> Json:
        """A run of ours that somebody wrote under a newer epoch than this; None if there is none."""
        runs = (run for run in cluster.all("canaryruns") if self.mine(_canary(run)))
        return next((run for run in runs if epoch_of(run) > epoch), None)

    async def retire(self) -> None:
        """Every run has had one more turn, in which its evidence was saved; none has another."""
        for live in self.reconciler.lives.values():
            live.saved = None  # whatever has changed since, or has not
        await self.runs.finish(list(self.reconciler.lives))

    async def close(self) -> None:
        """No turn and no errand is left."""
        await self.runs.close()
        await self.asks.close()
        await self.histories.close()
        await self.reconciler.close()


@dataclass(slots=True)
class Operator:
    """One controller process, whatever it is connected to."""

    settings: Settings
    outside: Outside
    chance: Random = field(default_factory=Random)
    cluster: Cluster = field(default_factory=Cluster)
    telemetry: Telemetry = field(default_factory=Telemetry)
    listed: set[str] = field(default_factory=set)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    leading: dict[int, Leadership] = field(default_factory=dict)  # by shard
    denied: Mapping[str, str] = field(default_factory=dict)  # path -> why it may not be followed
    traces: Traces = field(default_factory=Traces)
    tracing: Tracing | None = None  # for OpenTelemetry
    slices: Slices = field(default_factory=Slices)
    tempo: Tempo = field(init=False)
    turned: float = 0.0  # loop time; the liveness probe asks for it

    def __post_init__(self) -> None:
        """All shards that are worked on here share a core."""
        self.tempo = Tempo(self.settings.scrape_interval, self.telemetry.looks)

    async def operate(self, stop: asyncio.Event) -> None:
        """Canaries are looked after until `stop` is set; then the Lease is released."""
        kube = Kube(self.outside.transport, chance=self.chance, on_answer=self.telemetry.requested)
        self.denied = kube.denied
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._follow(kube, kind), name=f"follow {kind}") for kind in FOLLOWED]
            tasks.append(group.create_task(self._campaign(kube), name="campaign"))
            tasks.append(group.create_task(self._beat(), name="beat"))
            await stop.wait()
            for task in tasks:
                task.cancel()

    def lists(self) -> dict[str, bool]:
        """Which lists the API server has delivered and lets us follow."""
        return {
            kind: kind in self.listed and path(kind, self.settings.namespace) not in self.denied
            for kind in FOLLOWED
        }

    def shards(self) -> list[str]:
        """The shards that are worked on here, of those there are; none if there is but one."""
        of = self.settings.shards
        return [f"shard {shard} of {of}" for shard in sorted(self.leading) if of > 1]

    def idle(self) -> timedelta:
        """How long ago the event loop last turned."""
        return timedelta(seconds=max(0.0, asyncio.get_running_loop().time() - self.turned))

    async def _beat(self) -> None:
        while True:
            self.turned = asyncio.get_running_loop().time()
            await asyncio.sleep(1)

    async def _follow(self, kube: Kube, kind: str) -> None:
        """The index holds what the API server says of `kind`, for ever."""
        async for news in kube.follow(path(kind, self.settings.namespace)):
            if isinstance(news, Listed):
                self.cluster.listed(kind, news.items, version=news.version)
                self._delivered(kind)
                for leading in self.leading.values():  # a run of our own making may be known, and had no turn
                    leading.everything(self.cluster)
                continue
            known = self.cluster.get(kind, *_key(news.object))
            same, told = _same(known, news), self.cluster.news(_key(news.object)[0])
            self.cluster.changed(kind, news.type, news.object)
            # a checkpoint's event may come before its answer, and a pass for each would save another one
            same = same or told == self.cluster.news(_key(news.object)[0])
            for leading in self.leading.values():
                leading.heard(self.cluster, kind, news.object, known=same)

    def _delivered(self, kind: str) -> None:
        self.listed.add(kind)
        if len(self.listed) == len(FOLLOWED):
            self.complete.set()

    async def _campaign(self, kube: Kube) -> None:
        """We lead in every shard in which nobody else does, once everything has been listed."""
        await self.complete.wait()
        log.info("lists_delivered", **{kind: sum(1 for _ in self.cluster.all(kind)) for kind in FOLLOWED})
        settings = self.settings
        claim = Claim(
            namespace=settings.lease_namespace, name=settings.lease_name, identity=settings.identity
        )
        runs = Runs(kube, self.cluster, clock=self.outside.clock)
        clock, floor = self.outside.clock, lambda: runs.highest_epoch
        shards = Shards(kube, claim, settings.shards, clock=clock, floor=floor)
        await shards.hold(partial(self._lead, kube, runs), on_change=self.telemetry.leads)

    async def _lead(self, kube: Kube, runs: Runs, shard: int, epoch: int, let_go: asyncio.Event) -> None:
        """Until cancelled or let go, the shard's runs and annotated Deployments have their turns."""
        of = self.settings.shards
        if of > 1:
            structlog.contextvars.bind_contextvars(shard=shard)
        sender = Sender(self.outside.post, _secrets(kube), self.outside.clock)
        events = Events(kube, identity=self.settings.identity, clock=self.outside.clock)
        alerts, gates = Alerts(sender, self._alerted, events.tell), Gates(sender)
        steady = Steady(self.outside.clock, asyncio.get_running_loop().time)
        scrape, prometheus = self._scrape(steady, self.settings.scrape_interval), self._prometheus(steady)
        slow, seldom = self._scrape(steady, EVERY), self._prometheus(steady, rounds=1)
        pace = Pace(interval=self.settings.prometheus_interval)
        histories = Histories(self.cluster, Sources(slow, seldom), steady, queried=pace)
        replays = self._replays()
        means = self._means(
            kube,
            runs,
            alerts,
            gates,
            clock=steady,
            metrics=Sources(scrape, prometheus),
            histories=histories,
            replays=replays,
        )
        reconciler = Reconciler(means, epoch, rounds=Rounds(self.slices))
        asks = Asks(
            self.cluster,
            create=runs.create,
            refuse=events.refuse,
            mend=events.mend,
            prometheus=prometheus is not None,
            recorder=self.settings.recorder,
        )
        lags = Lags(reconciler.turn, self.telemetry.lagged, began=self.tempo.began)
        leading = Leadership(
            lambda workload: shard_of(workload, of) == shard,
            reconciler,
            Loop(
                partial(self._turned, lags.turn, reconciler, scrape),
                random=self.chance,
                heed=self.telemetry.queue(shard if of > 1 else None),
                urgent=reconciler.urgent,
                slices=self.slices,
            ),
            Loop(asks.turn, random=self.chance, slices=self.slices),
            Loop(histories.turn, random=self.chance, slices=self.slices),
            refused=asks.refused,
        )
        readers: list[Scrape | Prometheus | Replays | Gates] = [
            one for one in (scrape, prometheus, replays, gates) if one is not None
        ]
        before: list[Scrape | Prometheus] = [slow, *([] if seldom is None else [seldom])]
        for reader in readers:
            reader.on_news = lambda run: leading.runs.due(_split(run))

        def read(run: str) -> None:
            lags.news(_split(run), scrape.due(run), late=scrape.late(run))
            # where nobody waits the turn begins now, and looking at pages twice would make it later
            first = leading.runs.crowded and scrape.alarming(run)
            if first:
                self.slices.hasten()
            (leading.runs.hurry if first else leading.runs.due)(_split(run))

        scrape.on_news = read
        scrape.overdue = lambda run: leading.runs.overdue(_split(run))
        scrape.stretch = lambda run: 1.0 if reconciler.urgent(_split(run)) else self.tempo.stretch()
        self.leading[shard] = leading
        doubted = asyncio.create_task(self._doubted(leading, epoch, let_go), name=f"doubts {shard}")
        try:
            while not let_go.is_set():
                leading.everything(self.cluster)
                self.traces.keep(map(_key, self.cluster.all("canaryruns")))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(let_go.wait(), RESYNC)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(leading.retire(), RETIRING)
        finally:
            doubted.cancel()
            del self.leading[shard]
            await leading.close()
            self._forget(leading)
            for reader in (*readers, *before):
                await reader.close()
            await alerts.close()

    async def _turned(
        self, turn: Callable[[Key], Awaitable[float | None]], reconciler: Reconciler, scrape: Scrape, key: Key
    ) -> float | None:
        """A run's turn; of one that may fail the next pages are read soon, be it that a core is full."""
        after = await turn(key)
        live = reconciler.lives.get(key)
        if live is not None and live.doubtful and self.tempo.stretch() > 1:
            scrape.again("/".join(key), within=SOON)
        return after

    async def _doubted(self, leading: Leadership, epoch: int, let_go: asyncio.Event) -> None:
        """The shard is let go, to be taken under a newer epoch, once ours has been passed by for too long."""
        passed = 0.0
        while passed < USURPED:
            await asyncio.sleep(BETWEEN)
            newer = leading.beyond(self.cluster, epoch)
            passed = 0.0 if newer is None else passed + BETWEEN
        name, theirs = _key(newer)[1], epoch_of(newer)
        log.error("another_controller", run=name, epoch=epoch, theirs=theirs, remedy=ONE_LEASE)
        let_go.set()

    def _forget(self, leading: Leadership) -> None:
        """Our metrics say nothing of runs that are another's now."""
        for run in self.cluster.all("canaryruns"):
            if leading.mine(_canary(run)):
                self.telemetry.forget(*_canary(run))

    def _alerted(self, attempt: Attempt) -> None:
        self.telemetry.alerted(attempt)
        if self.tracing is not None:
            self.tracing.alerted(attempt)

    def _scrape(self, clock: Callable[[], datetime], interval: timedelta) -> Scrape:
        return Scrape(
            self.outside.fetch,
            clock=clock,
            interval=interval,
            timeout=self.settings.scrape_timeout,
        )

    def _prometheus(self, clock: Callable[[], datetime], **how: int) -> "Prometheus | None":
        """The Prometheus that the settings name, if they do; its client is a lot to import for nothing."""
        settings = self.settings
        if settings.prometheus_url is None:
            return None
        from controller.prometheus import Prometheus

        return Prometheus(settings.prometheus_url, clock, interval=settings.prometheus_interval, **how)

    def _replays(self) -> Replays | None:
        """What the shadow worker knows, if the settings name one."""
        url = self.settings.shadow_url
        return None if url is None else Replays(self.outside.ask, url)

    def _means(
        self,
        kube: Kube,
        runs: Runs,
        alerts: Alerts,
        gates: Gates,
        *,
        clock: Callable[[], datetime],
        metrics: Sources,
        histories: Histories,
        replays: Replays | None,
    ) -> Means:
        cluster, settings = self.cluster, self.settings
        router = IstioRouter(
            lambda namespace, name: cluster.get("virtualservices", namespace, name),
            kube.call,
            wrote=lambda written: cluster.wrote("virtualservices", written),
        )
        return Means(
            cluster=cluster,
            metrics=metrics,
            router=router,
            store=runs,
            recorder=Events(kube, identity=settings.identity, clock=self.outside.clock),
            alerter=alerts,
            workloads=Workloads(kube, cluster),
            shadowing=Shadowing(replays, router, _recorder(settings)),
            gates=gates,
            telemetry=self.telemetry,
            clock=clock,
            pace=Pace(interval=settings.scrape_interval),
            queried=Pace(interval=settings.prometheus_interval),
            tick=settings.tick,
            checkpoint=settings.checkpoint,
            begin=histories.begin,
            freeze=settings.freeze,
            stretch=self.tempo.stretch,
            traces=self.traces,
            tracing=self.tracing,
            unread=lambda: frozenset(kind for kind, may in self.lists().items() if not may),
        )


def _recorder(settings: Settings) -> tuple[str, int] | None:
    said = settings.recorder
    return None if said is None else (said["host"], said["port"])


def _secrets(kube: Kube) -> Callable[[str, str], Awaitable[dict[str, bytes]]]:
    """Reads a Secret by namespace and name."""

    async def read(namespace: str, name: str) -> dict[str, bytes]:
        secret = await kube.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
        return {key: b64decode(value) for key, value in (secret.get("data") or {}).items()}

    return read


def _workload(cluster: Cluster, kind: str, obj: Json) -> str | None:
    """The Deployment that a change is about; None if it may be about any in its namespace."""
    if kind == "deployments":
        name: str = obj["metadata"]["name"]
        return name
    if kind not in {"pods", "replicasets"}:
        return None
    above = "replicasets" if kind == "pods" else "deployments"
    owners = cluster.all(above, _key(obj)[0])
    owner = next((one for one in owners if one["metadata"]["uid"] == owner_uid(obj)), None)
    return "" if owner is None else _workload(cluster, above, owner)


def _canary(run: Json) -> Key:
    return run["metadata"].get("namespace", ""), neighbours.workload(run)


def _over(run: Json) -> bool:
    status = run.get("status")
    return isinstance(status, dict) and status.get("phase") in ENDED


def _same(known: Json | None, news: Changed) -> bool:
    """Whether the event tells nothing new: most often it is of a write of our own."""
    new = news.object["metadata"]["resourceVersion"]
    return news.type != "DELETED" and known is not None and known["metadata"].get("resourceVersion") == new


def _key(obj: Json) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _split(run: str) -> Key:
    namespace, _, name = run.partition("/")
    return namespace, name
