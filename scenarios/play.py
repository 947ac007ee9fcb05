"""Plays one story in virtual time: the emulated API server, virtual pods, and the controller as it is.

The controller is the same code as in a cluster; only `ports.Outside` is another.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from controller.istio import Refusal, located, seen_weight
from controller.operate import Operator
from controller.ports import Outside
from controller.settings import Settings
from controller.shards import lease_names, shard_of
from scenarios.fields import BadStory
from scenarios.objects import CANARY, CONTROLLER, NAMESPACE, STABLE, objects
from scenarios.people import NotDone, People
from scenarios.plot import Arm, ArmFault, Delete, Evict, Outcome, Patch, Story, Target, TargetFault
from scenarios.result import Played, Requests, Result, ended, result, said_by, waits_for
from scenarios.troubles import Happening, happenings, told
from scenarios.virtual.loop import VirtualLoop, run_virtual, virtual_loop
from scenarios.virtual.pods import VirtualPods
from scenarios.virtual.prometheus import URL as PROMETHEUS
from scenarios.virtual.prometheus import VirtualPrometheus, asking
from scenarios.virtual.replicas import LEASES, Controllers, Wire
from scenarios.virtual.traffic import Traffic
from scenarios.world import World

if TYPE_CHECKING:
    from scenarios.virtual.shadow import VirtualShadow

Json = Any
URL = "http://serin-shadow.serin-system.svc.cluster.local:8081"
Report = Callable[[str], None]

SETTLED = 5.0  # seconds after the last run has ended: weights arrive, alerts leave, a new run may begin
LOOK = 0.25  # seconds between looks at whether the story is over
AT_LEAST = timedelta(seconds=5)  # of history, so that stable's pods are ready when the story begins
ANSWERING = 0.005  # seconds the API server takes for an answer
SLOW = 3.0  # seconds a slow receiver of alerts takes


def silent(_line: str) -> None:
    """Nobody listens."""


def play(story: Story, *, report: Report = silent) -> Result:
    """What comes of the story in virtual time; `BadStory` if the API server refuses its objects."""
    return run_virtual(Theatre.play(story, report=report)).result


@dataclass(slots=True)
class Receiver:
    """Where alerts arrive; a `ports.Post`."""

    received: list[tuple[float, str, bytes]] = field(default_factory=list)
    faults: set[str] = field(default_factory=set)

    async def __call__(
        self, url: str, body: bytes, *, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str]]:
        """200, unless a fault says otherwise."""
        del headers
        if "outage" in self.faults:
            raise ConnectionRefusedError(f"nobody listens at {url}")
        if "hang" in self.faults:
            await asyncio.Event().wait()
        await asyncio.sleep(SLOW if "slow" in self.faults else 0.05)
        self.received.append((virtual_loop().time(), url, body))
        return 200, {}


class Theatre:
    """One story while it is played."""

    shards: Sequence[int] = (1,)  # how many each replica of the controller counts, in turn
    prometheus: VirtualPrometheus | None = None  # which the replicas are told of

    def __init__(self, story: Story, *, report: Report) -> None:
        self.story = story
        self._report = report
        self._loop: VirtualLoop = virtual_loop()
        self.begins = max(story.history, AT_LEAST).total_seconds()
        self.traffic = Traffic(story, clock=self._loop.time)
        self.world = World(
            clock=self._loop.now, seed=story.seed, make_kubelet=self._make_kubelet, latency=ANSWERING
        )
        self.receiver = Receiver()
        self.shadow = _shadow(story)
        self.people = People(self.world.transport(), namespace=NAMESPACE)
        self._outside = Outside(
            transport=Wire(self.world.transport(CONTROLLER)),
            fetch=self.pods.fetch,
            post=self.receiver,
            ask=self.shadow or _nobody,
            clock=self._loop.now,
        )
        self.controllers = Controllers(
            self.outside,
            seed=story.seed,
            leader=self._leader,
            shadow_url=None if self.shadow is None else URL,
            shards=self.shards,
            operator=Operator if self.prometheus is None else asking(self.prometheus),
            prometheus_url=None if self.prometheus is None else PROMETHEUS,
        )
        self.ends: dict[str, float] = {}  # when each run was first seen to have ended
        self.held: float | None = None  # since when the first run has been paused
        self._waited: set[tuple[str, int]] = set()  # runs and steps of which it was said what they wait for
        self.world.on_change(self._changed)

    def outside(self, _replica: str) -> Outside:
        """What a replica of the controller is connected to."""
        return self._outside

    def _make_kubelet(self, world: World) -> VirtualPods:
        self.pods = VirtualPods(
            self.story,
            self.traffic,
            clock=self._loop.time,
            tell=partial(world.set_pod, NAMESPACE),
            gone=partial(world.pod_gone, NAMESPACE),
        )
        return self.pods

    @classmethod
    async def play(cls, story: Story, *, report: Report = silent) -> "Theatre":
        """The theatre after the story was played in it, for those who look further than the result."""
        theatre = cls(story, report=report)
        await theatre.through()
        return theatre

    async def through(self) -> None:
        """The story is played to its end, and all that was started for it is over."""
        try:
            await self._set_up()
            await self._perform()
        finally:
            await self.controllers.stop()
            if self.shadow is not None:
                await self.shadow.stop()
            await self.pods.stop()
            await self.world.close()

    @property
    def now(self) -> float:
        """Seconds since the story's beginning; negative during the history before it."""
        return self._loop.time() - self.begins

    # -- before

    async def _set_up(self) -> None:
        self.world.install()
        self._may_share()
        if self.shadow is not None:
            self.shadow.start()
        for obj in objects(self.story, artifacts=None if self.shadow is None else self.shadow.artifacts):
            try:
                await self.people.create(obj)
            except NotDone as refused:
                raise _unplayable(self.story, obj, refused) from refused
        for _ in range(self.story.controllers):
            self.controllers.start()

    def _may_share(self) -> None:
        """The Role names as many Leases as the replicas count, as in `manifests/components/shards`."""
        role: Json = self.world.get("roles", LEASES, "serin-controller-lease")
        names = lease_names(Settings().lease_name, max(self.shards))
        rules = [
            rule | {"resourceNames": names} if "resourceNames" in rule else rule for rule in role["rules"]
        ]
        self.world.patch("roles", LEASES, "serin-controller-lease", {"rules": rules})

    # -- meanwhile

    async def _perform(self) -> None:
        happening = asyncio.create_task(self._happen(), name="happenings")
        try:
            await asyncio.sleep(self.begins - self._loop.time())
            self.traffic.begin()
            self._say("the canary's pods are started")
            self.pods.admitted.set()
            if self.shadow is not None:
                self.shadow.called = True
            await self._until_over()
        finally:
            happening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await happening

    async def _happen(self) -> None:
        for happening in happenings(self.story):
            await asyncio.sleep(max(0.0, happening.at - self.now))
            await self._one(happening)

    async def _one(self, happening: Happening) -> None:
        what = happening.what
        self._say(told(what) if happening.begins else f"over: {told(what)}")
        if isinstance(what, ArmFault):
            (self.pods.begin if happening.begins else self.pods.end)(what)
        elif isinstance(what, TargetFault):
            await self._target(what, begins=happening.begins)
        else:
            try:
                await self._edit(what)
            except (NotDone, OSError) as refused:  # what it was about may be gone, or the API server is
                self._say(f"refused: {refused}")

    async def _edit(self, edit: Patch | Delete | Evict) -> None:
        match edit:
            case Patch():
                await self.people.patch(edit.kind, edit.name, dict(edit.merge))
            case Delete():
                await self.people.delete(edit.kind, edit.name)
            case Evict():
                names = sorted(name for name, life in self.pods.lives.items() if life.pod.arm is edit.arm)
                for name in names[: edit.pods]:
                    await self.people.evict(name)

    async def _target(self, fault: TargetFault, *, begins: bool) -> None:
        match fault.target:
            case Target.METRICS:
                _toggle(self.pods.pages, fault.kind, on=begins)
            case Target.ALERTS:
                _toggle(self.receiver.faults, fault.kind, on=begins)
            case Target.ENVOY:
                self.traffic.advance()
                self.traffic.down = begins
            case Target.SHADOW if self.shadow is not None:
                if fault.kind == "hang":
                    _toggle(self.shadow.faults, fault.kind, on=begins)
                else:
                    await self.shadow.kill() if begins else self.shadow.start()
            case Target.CONTROLLER:
                (self.controllers.begin if begins else self.controllers.end)(fault)
            case Target.API_SERVER if begins:
                lasting = fault.lasting or self.story.duration - fault.at
                self.world.fault(fault.kind, seconds=lasting.total_seconds())

    async def _until_over(self) -> None:
        over = self.begins + self.story.duration.total_seconds()
        settled_since: float | None = None
        while self._loop.time() < over:
            await asyncio.sleep(LOOK)
            self.controllers.check()
            if not self._at_rest(self._runs()):
                settled_since = None
            elif settled_since is None:
                settled_since = self._loop.time()
            elif self._loop.time() - settled_since > SETTLED:
                return
        self.traffic.advance()

    def _at_rest(self, runs: list[Json]) -> bool:
        """Whether nothing more will come of the runs."""
        return bool(runs) and all(map(ended, runs))

    # -- what the world tells

    def _changed(self, _type: str, resource: str, obj: Json) -> None:
        if resource == "virtualservices" and obj["metadata"]["name"] == STABLE:
            self.traffic.route(_weight(obj))
            if self.shadow is not None:
                self.shadow.mirrored = any("mirrors" in http for http in obj["spec"].get("http", ()))
        elif resource == "canaryruns":
            self._follow(obj)
        elif resource == "events" and obj.get("reason"):
            self._say(f"{obj['reason']}: {obj.get('note') or obj.get('message', '')}")

    def _follow(self, run: Json) -> None:
        name = run["metadata"]["name"]
        if ended(run):
            self.ends.setdefault(name, self.now)
        paused = (run.get("status") or {}).get("phase") == "Paused"
        self.held = (self.held if self.held is not None else self.now) if paused else None
        step = (name, ((run.get("status") or {}).get("state") or {}).get("step", 0))
        if step not in self._waited and (line := waits_for(run, now=self._loop.now())):
            self._waited.add(step)
            self._say(line)

    def _leader(self) -> str:
        """Who holds the Lease of the canary's shard, as the first replica counts them."""
        shards = self.shards[0]
        name = lease_names(Settings().lease_name, shards)[shard_of((NAMESPACE, CANARY), shards)]
        found = {one["metadata"]["name"]: one["spec"] for one in self.world.objects("leases", LEASES)}
        return str(found.get(name, {}).get("holderIdentity") or "").partition(";")[0]

    def _runs(self) -> list[Json]:
        """In the order in which they were asked for."""
        runs = self.world.stored("canaryruns", NAMESPACE)
        return sorted(
            runs, key=lambda run: (run["metadata"]["creationTimestamp"], int(run["metadata"]["generation"]))
        )

    def _say(self, what: str) -> None:
        self._report(f"{self.now:7.1f} s  {what}")

    # -- afterwards

    @property
    def played(self) -> Played:
        """What happened, about the first run of the story."""
        self.traffic.advance()
        truth = self.traffic.truth
        run = next(iter(self._runs()), None)
        over = self.ends.get(run["metadata"]["name"]) if run else None
        outcome, reason, check, evidence = said_by(run, self._refusal())
        spells = [spell for spell in truth.spells if over is None or spell.first <= self.begins + over]
        last = spells[-1].last - self.begins if spells else None
        return Played(
            outcome=outcome,
            reason=reason,
            check=check,
            verdict=self.held if outcome is Outcome.HELD else over,
            first_routed=spells[0].first - self.begins if spells else None,
            last_routed=last,
            last_attempt=last,  # nobody retries here
            weights=tuple((max(0.0, at - self.begins), weight) for at, weight in truth.weights),
            requests=Requests(stable=truth.stable, canary=truth.canary, failed=truth.failed),
            evidence=evidence,
        )

    @property
    def result(self) -> Result:
        """What came of it."""
        return result(self.story, self.played, mode="virtual")

    def _refusal(self) -> str | None:
        """The reason of the last Event on the canary's Deployment."""
        reasons = [
            event["reason"]
            for event in self.world.objects("events", NAMESPACE)
            if (event.get("regarding") or event.get("involvedObject") or {}).get("name") == CANARY
        ]
        return reasons[-1] if reasons else None


def _shadow(story: Story) -> "VirtualShadow | None":
    """The shadow worker, where the story's policy asks one."""
    if not story.shadowed:
        return None
    from scenarios.virtual.shadow import VirtualShadow

    return VirtualShadow(story)


async def _nobody(method: str, url: str, body: bytes) -> tuple[int, bytes]:
    del method, body
    raise ConnectionRefusedError(f"{url}: nobody listens")


def _unplayable(story: Story, obj: Json, refused: NotDone) -> BadStory:
    field_ = "spec.policy" if obj["kind"] == "CanaryPolicy" else "spec.edits"
    sentence = " ".join(str(refused).split())
    return BadStory(f"{story.file}: {field_}: the API server refuses the {obj['kind']}: {sentence}")


def _weight(virtual_service: Json) -> int:
    """The canary's share of the requests in percent, where both arms are named; else 0."""
    found = located(virtual_service, stable_subset=str(Arm.STABLE), canary_subset=str(Arm.CANARY))
    return 0 if isinstance(found, Refusal) else seen_weight(found) or 0


def _toggle(kinds: set[str], kind: str, *, on: bool) -> None:
    (kinds.add if on else kinds.discard)(kind)
