"""A story played live: a real Envoy, real model servers, real load, and the real controller's process.

Only the API server is emulated, and it speaks HTTP. Everything listens on loopback, and everything is
gone when `play` returns, whichever way.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scenarios import lasting
from scenarios.live import measure, processes, routes
from scenarios.live.envoy import Envoy
from scenarios.live.observed import Observed, weight_of
from scenarios.live.pods import Life, LivePods
from scenarios.live.receiver import Receiver
from scenarios.live.replicas import Replicas
from scenarios.live.shadow import ShadowWorker
from scenarios.objects import (
    CANARY,
    CONTROLLER,
    DEPLOYMENTS,
    NAMESPACE,
    STABLE,
    SYSTEM,
    VERSIONS,
    objects,
)
from scenarios.people import NotDone, People
from scenarios.plot import Arm, ArmFault, Delete, Edit, Evict, Outcome, Patch, Story, Target, TargetFault
from scenarios.result import Played, Requests, Result, ended, result, said_by
from scenarios.troubles import (
    Sufferer,
    Troubles,
    happenings,
    latency_table,
    ordered,
    prediction_table,
    told,
)
from scenarios.world import World

Json = Any

FOLDER = Path(".lab")
READY_WITHIN = 60.0  # seconds for everything to start; ten as a rule
SETTLING = 1.5  # seconds beyond propagation for which an ended run is watched: Envoy still routes by then
FOR_EVER = 1e9  # seconds: longer than any story

Watch = Callable[["Lab"], Awaitable[None]]
Report = Callable[[str], None]  # is told in lines what happens while it happens


class LabFailed(RuntimeError):
    """The lab itself did not work, so the story says nothing; the text says what to look at."""


async def play(
    story: Story, *, watch: Watch | None = None, report: Report | None = None, after: Watch | None = None
) -> Result:
    """What came of the story; `watch` is given the lab when the story begins, and cancelled at its end.

    `after` is waited for before all is taken away; what happens meanwhile is not of the story.

    What the processes wrote stays in `.lab/` if the story did not end as it should, or requests were lost.
    """
    interruptible()
    folder = FOLDER / f"{story.name}-{os.getpid()}"
    try:
        found = await _played(Lab(story, folder=folder, report=report), watch, after)
    except asyncio.CancelledError:
        lasting.removed(folder)
        raise
    lasting.settled(folder, found, report)
    return found


async def _played(lab: "Lab", watch: Watch | None, after: Watch | None) -> Result:
    async with lab.open():
        watching = asyncio.ensure_future(watch(lab)) if watch is not None else None
        try:
            await lab.run()
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        if after is not None:
            lab.over = lab.result()  # whatever is done while somebody looks is not of the story
            await after(lab)
    return lab.over or lab.result()


class Lab:
    """Everything that a live story needs, and what happens to it."""

    def __init__(
        self,
        story: Story,
        *,
        folder: Path,
        report: Report | None = None,
        wired: bool = False,
        flags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`wired`: each controller has a wire of its own to the API server, which can be cut."""
        self.story = story
        self._wired, self._flags = wired, flags
        self.folder = folder.absolute()
        self._report = report
        self.world = World(clock=lambda: datetime.now(UTC), make_kubelet=self._make_pods)
        self.people = People(self.world.transport(), namespace=NAMESPACE)
        self.receiver = Receiver()
        self.troubles = Troubles()
        self.observed = Observed()
        self.replicas: Replicas | None = None
        self.shadow = ShadowWorker(self.folder) if story.shadowed else None
        self.artifacts: Mapping[str, str] = {}
        self.load: Process | None = None
        self.began = time.time()  # of the processes' own clock: noise is counted from here
        self.zero = self.began  # when the canary's pods are started
        self.stopped = 0.0
        self.over: Result | None = None  # what came of it, where the lab stays to be looked at
        self.envoy = Envoy(self.folder / "envoy", self._mesh, propagation=story.propagation.total_seconds())
        self._changed = asyncio.Event()
        self._errands: set[asyncio.Task[None]] = set()

    def _make_pods(self, world: World) -> LivePods:
        self.pods = LivePods(
            self.folder,
            conduct=self._conduct,
            faults=lambda life: self.troubles.of(self._sufferer(life)),
            tell=lambda name, **said: world.set_pod(NAMESPACE, name, **said),
            gone=lambda name: world.pod_gone(NAMESPACE, name),
            propagation=self.story.propagation.total_seconds(),
        )
        return self.pods

    # -- what there is

    @property
    def seconds(self) -> float:
        """How long the story has lasted."""
        return time.time() - self.zero

    def runs(self) -> list[Json]:
        """The CanaryRuns, oldest first."""
        runs = self.world.objects("canaryruns", NAMESPACE)
        return sorted(runs, key=lambda run: (run["metadata"]["creationTimestamp"], run["metadata"]["name"]))

    def weight(self) -> int:
        """The percentage that the VirtualService gives the canary."""
        return weight_of(self.world.objects("virtualservices", NAMESPACE))

    def pids(self) -> Mapping[str, int]:
        """Every process of the lab but its own, by name."""
        own = {life.name: life.process for life in self.pods.lives.values()} | {"load": self.load}
        found = {name: process.pid for name, process in own.items() if process and process.returncode is None}
        found |= self.replicas.pids() if self.replicas else {}
        if self.shadow is not None and self.shadow.process is not None:
            found["shadow"] = self.shadow.process.pid
        return found | ({"envoy": self.envoy.pid} if self.envoy.pid else {})

    # -- from the beginning to the end

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Stable serves, load flows, controllers stand ready; afterwards nothing is left."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        try:
            try:
                async with asyncio.timeout(READY_WITHIN):
                    await self._open()
            except TimeoutError:
                logs = f"see the logs in {self.folder}"
                raise LabFailed(f"{self.story.name}: not ready in {READY_WITHIN:g} s; {logs}") from None
            yield
        finally:
            await self._close()

    async def run(self) -> None:
        """The story is over: its run ended and settled, or its duration is."""
        canary = self._objects()[-1]
        self.zero = time.time()
        await self.people.create(canary)
        telling = asyncio.create_task(self._tell_story())
        try:
            async with asyncio.timeout(self.story.duration.total_seconds()):
                await self._over()
        except TimeoutError:
            pass  # that, too, is an end: held
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        self.stopped = time.time()

    async def _open(self) -> None:
        url = await self.world.serve("127.0.0.1", 0)
        await self.receiver.start()
        self.world.on_change(self._heard)
        if self.shadow is not None:
            self.artifacts = self.shadow.write()
            await self.shadow.start()
        for obj in self._first_objects():
            await self.people.create(obj)
        await self.until(lambda: self._ready(Arm.STABLE) == self.story.stable.replicas)
        await self.envoy.start()
        self.load = await self._start_load()
        self.world.install()
        file = self.folder / "kubeconfig"
        kubeconfig = self.world.kubeconfig(file, namespace=NAMESPACE, user=CONTROLLER)
        self.replicas = Replicas(
            self.story.controllers,
            kubeconfig=kubeconfig,
            lease_namespace=SYSTEM,
            leader=self._leader,
            flags={**self._flags, **(self.shadow.flags if self.shadow else {})},
            server=int(url.rpartition(":")[2]) if self._wired else None,
        )
        await self.replicas.start()

    def _first_objects(self) -> list[Json]:
        """All objects but the canary's Deployment, which begins the story."""
        return self._objects()[:-1]

    def _objects(self) -> list[Json]:
        return objects(self.story, alerts_url=self.receiver.url, artifacts=self.artifacts)

    async def _close(self) -> None:
        """Nothing is left. The load ends first, so that nothing is lost that counts."""
        for task in self._errands:
            task.cancel()
        self.envoy.signal(signal.SIGCONT)
        await processes.end(self.load)
        if self.replicas is not None:
            await self.replicas.stop()
        await asyncio.sleep(0.2 if self.stopped else 0)  # the proxy logs the last callers' leaving
        await self.envoy.stop()
        if self.shadow is not None:
            await self.shadow.stop()
        await self.pods.stop()
        await self.receiver.stop()
        await self.world.close()

    # -- the parts

    def _mesh(self) -> routes.Mesh:
        there = self.world.objects
        return routes.Mesh(
            namespace=NAMESPACE,
            virtual_services=there("virtualservices", NAMESPACE),
            destination_rules=there("destinationrules", NAMESPACE),
            services=there("services", NAMESPACE),
            pods=there("pods", NAMESPACE),
            recorder=self.shadow.recorder if self.shadow else None,
        )

    def _conduct(self, life: Life) -> Mapping[str, Any]:
        """What a pod's process is told: its version's behaviour and its arm's name."""
        canary = VERSIONS[Arm.CANARY] in _versions(life.pod)
        behaviour = self.story.canary if canary else self.story.stable
        return {
            "seed": self.story.seed,
            "epoch": self.began,
            "version": life.arm,
            "workload": DEPLOYMENTS[Arm(life.arm)],
            "latency": latency_table(behaviour.latency),
            "predictions": prediction_table(behaviour.predictions),
            "errorRate": behaviour.error_rate,
            "clickRate": behaviour.click_rate,
            "model": behaviour.model,
            "noise": self.story.noise.said(),
        }

    def _sufferer(self, life: Life) -> Sufferer:
        now = asyncio.get_running_loop().time()
        return Sufferer(name=life.name, arm=life.arm, born=self.seconds - (now - life.born))

    async def _start_load(self) -> Process:
        told = {
            "url": f"{self.envoy.url}/v2/models/digits/infer",
            "host": f"{STABLE}.{NAMESPACE}",
            "rate": self.story.requests_per_second,
            "seed": self.story.seed,
            "epoch": self.began,
            "noise": self.story.noise.said(),
            "out": str(self.folder / "sent.jsonl"),
        }
        file = self.folder / "load.json"
        file.write_text(json.dumps(told))
        return await processes.python("-m", "scenarios.live.load", str(file), log=self.folder / "load.log")

    # -- what is heard

    def _heard(self, _type: str, resource: str, obj: Json) -> None:
        """Something changed at the API server."""
        self._changed.set()
        if resource in {"virtualservices", "destinationrules", "services", "pods"} and self.envoy.pid:
            self.envoy.changed()
        if resource == "virtualservices" and self.observed.weighed(obj):
            self._errand(self._note_reaction(time.time()))
        if resource == "events" and obj.get("reason"):
            self._say(f"{obj['reason']}: {obj.get('note') or obj.get('message', '')}")
        if resource == "canaryruns":
            self.observed.followed(obj)

    def _say(self, what: str) -> None:
        if self._report is not None:
            self._report(f"{self.seconds:7.1f} s  {what}")

    async def _note_reaction(self, at: float) -> None:
        """How long before `at` the last pod's page had been read that the decision was made on."""
        states = await asyncio.gather(*map(self.pods.state, tuple(self.pods.lives.values())))
        read = [max((page for page in state["pages"] if page <= at), default=0) for state in states if state]
        if any(read):
            self.observed.reaction = at - max(read)

    def _errand(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def _ready(self, arm: Arm) -> int:
        return sum(
            routes.ready(pod) and pod["metadata"]["labels"].get("version") == arm
            for pod in self.world.objects("pods", NAMESPACE)
        )

    async def until(self, what: Callable[[], bool]) -> None:
        """Returns once that is so; it is looked at whenever something changes at the API server."""
        while not what():
            self._changed.clear()
            await self._changed.wait()

    async def _over(self) -> None:
        """Returns when every run has ended, the canary's weight is 0, and that has settled."""
        settling = self.story.propagation.total_seconds() + SETTLING
        while True:
            await self.until(self._quiet)
            since = len(self.runs())
            await asyncio.sleep(settling)
            if self._quiet() and len(self.runs()) == since:
                return

    def _quiet(self) -> bool:
        runs = self.runs()
        return bool(runs) and all(map(ended, runs)) and self.weight() == 0

    # -- what happens

    async def _tell_story(self) -> None:
        """Faults begin and end, and people edit, when the story says so."""
        for happening in happenings(self.story):
            await asyncio.sleep(max(0.0, happening.at - self.seconds))
            self._say(told(happening.what) if happening.begins else f"over: {told(happening.what)}")
            match happening.what:
                case ArmFault() as fault:
                    await self.arm_fault(fault, begins=happening.begins)
                case TargetFault() as fault:
                    await self._target_fault(fault, begins=happening.begins)
                case edit:
                    await self._edit(edit)

    async def arm_fault(self, fault: ArmFault, *, begins: bool) -> None:
        """The fault is in force, or is over."""
        if begins:
            self.troubles.begin(fault, map(self._sufferer, self.pods.lives.values()))
        else:
            self.troubles.end(fault)
        await self.pods.suffer()

    async def _target_fault(self, fault: TargetFault, *, begins: bool) -> None:
        lasting = fault.lasting.total_seconds() if fault.lasting else FOR_EVER
        match fault.target:
            case Target.METRICS:
                self.troubles.metrics = fault.kind if begins else None
                await self.pods.suffer()
            case Target.ALERTS:
                self.receiver.fault = fault.kind if begins else None
            case Target.API_SERVER:
                if begins:
                    self.world.fault(fault.kind, seconds=lasting)
            case Target.CONTROLLER:
                await self._controller_fault(fault.kind, begins=begins)
            case Target.ENVOY:
                await self._envoy_fault(fault.kind, begins=begins)
            case Target.SHADOW if self.shadow is not None:
                await self.shadow.suffer(fault.kind, begins=begins)

    async def _controller_fault(self, kind: str, *, begins: bool) -> None:
        """The leader is killed or frozen; later, whoever is not well is well again."""
        if self.replicas is None:
            return
        if begins:
            self.replicas.strike(kind)
        else:
            await self.replicas.mend()

    def _leader(self) -> str:
        """The identity that holds the Lease, if there is one."""
        leases = self.world.objects("leases", SYSTEM)
        return str(leases[0]["spec"].get("holderIdentity") or "") if leases else ""

    async def _envoy_fault(self, kind: str, *, begins: bool) -> None:
        if kind == "hang":
            self.envoy.signal(signal.SIGSTOP if begins else signal.SIGCONT)
        elif begins:
            self.envoy.signal(signal.SIGKILL)
        else:
            await self.envoy.restart()

    async def _edit(self, edit: Edit) -> None:
        """Somebody does what the story says; a refusal is theirs to see, and in the lab's log."""
        try:
            match edit:
                case Patch():
                    await self.people.patch(edit.kind, edit.name, edit.merge)
                case Delete():
                    await self.people.delete(edit.kind, edit.name)
                case Evict():
                    lives = sorted(life.name for life in self.pods.lives.values() if life.arm == edit.arm)
                    for name in lives[: edit.pods]:
                        await self.people.evict(name)
        except NotDone as refused:
            with (self.folder / "lab.log").open("a") as log:
                log.write(f"{self.seconds:.3f} {refused}\n")

    # -- what came of it

    def result(self) -> Result:
        """The story's line in the JSON list."""
        return result(self.story, self._played(), mode="live")

    def _played(self) -> Played:
        run = next(iter(self.runs()), None)  # a story is about its first run
        ended_at = self.observed.ended.get(run["metadata"]["name"]) if run else None
        log = measure.entries(self.envoy.access_log)
        seen = measure.measured(
            log, until=self.stopped, before=self.observed.next_run(ended_at), excused=self._excused
        )
        outcome, reason, check, evidence = said_by(run, self._refusal())
        return Played(
            outcome=outcome,
            reason=reason,
            check=check,
            verdict=self._since(self.observed.held if outcome is Outcome.HELD else ended_at),
            first_routed=self._since(seen.first_routed),
            last_routed=self._since(seen.last_routed),
            last_attempt=self._since(seen.last_attempt),
            weights=tuple((max(0.0, at - self.zero), weight) for at, weight in self.observed.weights),
            requests=Requests(stable=seen.stable, canary=seen.canary, failed=seen.failed),
            evidence=evidence,
        )

    def _since(self, at: float | None) -> float | None:
        return None if at is None else at - self.zero

    def _excused(self, said: measure.Entry) -> bool:
        start = said.start - self.zero
        return ordered(self.story, said.arm, start=start, end=start + said.seconds)

    def _refusal(self) -> str | None:
        """The reason of the last Event on the canary's Deployment."""
        reasons = [
            event["reason"]
            for event in self.world.objects("events", NAMESPACE)
            if (event.get("regarding") or event.get("involvedObject") or {}).get("name") == CANARY
        ]
        return reasons[-1] if reasons else None


def _versions(pod: Json) -> set[str]:
    env = pod["spec"]["containers"][0].get("env") or ()
    return {str(one.get("value")) for one in env if one["name"] == "MODEL_VERSION"}


def interruptible() -> None:
    """SIGTERM ends the current task as Ctrl-C does, so that everything is cleaned up."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
