"""The nodes of a story in virtual time: pods start, become ready, crash and hang as the story says.

What callers of the pods see is in `traffic`; here is what the API server is told of them, and the
metrics pages they serve.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from scenarios.objects import DEPLOYMENTS, PROBE, VERSIONS
from scenarios.plot import Arm, ArmFault, Pods, Story
from scenarios.virtual.traffic import PodPage, Traffic, VirtualPod

Json = Any

STARTING = 2.0  # seconds from the container's start to the model's first good answer
CRASHING = "CrashLoopBackOff"
BACK_OFF = (0.0, 10.0, 20.0, 40.0)  # seconds before a restart, as kubelet's: at once, then doubling
DRAIN = 0.5  # seconds a pod that leaves goes on answering once the proxy lets go of it
FETCHING = 0.002  # seconds for a metrics page within a cluster
SLOW = 0.4  # seconds that a slow page takes: just within the usual 0.5 s
# A probe that hangs is noticed when it and its followers have timed out.
UNREADY_AFTER = (PROBE["failureThreshold"] - 0.5) * PROBE["periodSeconds"] + PROBE["timeoutSeconds"]
READY_AGAIN_AFTER = PROBE["periodSeconds"] / 2


class Tell(Protocol):
    """How the API server hears of a pod."""

    def __call__(self, name: str, **said: Any) -> None:
        """The pod's status says so."""
        ...


class Gone(Protocol):
    """How the API server hears that a pod has stopped."""

    def __call__(self, name: str) -> None:
        """The pod's object may go."""
        ...


@dataclass
class Life:
    """One pod on its node."""

    pod: VirtualPod
    ip: str
    created: float
    ready: bool = False
    restarts: int = 0
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def crashing(self) -> bool:
        """Whether the process exits as soon as it runs."""
        return any(fault.crash for fault in self.pod.faults)

    @property
    def hanging(self) -> bool:
        """Whether the process answers nothing, its probes neither."""
        return any(fault.hang for fault in self.pod.faults)


class VirtualPods:
    """All pods of the story; a kubelet for the emulated API server, and a `ports.Fetch`."""

    def __init__(
        self, story: Story, traffic: Traffic, *, clock: Callable[[], float], tell: Tell, gone: Gone
    ) -> None:
        self._story = story
        self._traffic = traffic
        self._clock = clock
        self._tell = tell
        self._gone = gone
        self._drain = story.propagation.total_seconds() + DRAIN
        self._addresses = (f"10.0.{number // 250}.{1 + number % 250}" for number in itertools.count())
        self._active: list[ArmFault] = []
        self._chosen: dict[int, str] = {}  # by the fault's identity: the one pod that it touches
        self._began: dict[int, float] = {}
        self.admitted = asyncio.Event()  # from here on the canary's pods are started
        self.lives: dict[str, Life] = {}
        self.pages: set[str] = set()  # faults of the metrics pages that are in force

    # -- a kubelet

    def started(self, pod: Json) -> None:
        """The pod has a node; it comes up there in a moment."""
        meta = pod["metadata"]
        arm = Arm(meta["labels"]["version"])
        name, version = meta["name"], _version(pod)
        behaviour = self._story.canary if version == VERSIONS[Arm.CANARY] else self._story.stable
        virtual = VirtualPod(
            name=name,
            arm=arm,
            version=version,
            behaviour=behaviour,
            noise=self._traffic.noise_of(name),
            page=_page(arm, version),
            running=False,
        )
        life = Life(virtual, next(self._addresses), self._clock())
        self.lives[name] = life
        life.task = asyncio.get_running_loop().create_task(self._live(life), name=f"pod {name}")

    def stopping(self, pod: Json) -> None:
        """The pod leaves: new requests go elsewhere as soon as the proxy knows, then it is gone."""
        name = pod["metadata"]["name"]
        life = self.lives.pop(name, None)
        if life is not None:
            if life.task is not None:
                life.task.cancel()
            life.ready = False
            self._route(life.pod.arm)
        asyncio.get_running_loop().call_later(self._drain, self._gone, name)

    async def stop(self) -> None:
        """Every pod is gone."""
        tasks = [life.task for life in self.lives.values() if life.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _live(self, life: Life) -> None:
        """Start, serve, crash, start again."""
        if life.pod.arm is Arm.CANARY:
            await self.admitted.wait()
        while True:
            self._begin(life)
            await asyncio.sleep(STARTING)
            while not life.crashing:
                await self._probed(life)
                await life.stirred.wait()
                life.stirred.clear()
            await self._crashed(life)

    def _begin(self, life: Life) -> None:
        """A fresh process, with counters at zero."""
        self._traffic.advance()
        life.pod.page = _page(life.pod.arm, life.pod.version)
        life.pod.running, life.pod.warm_since = True, None
        life.stirred.clear()
        self._afflict(life)
        self._tell(life.pod.name, ip=life.ip, ready=False, restarts=life.restarts)

    async def _probed(self, life: Life) -> None:
        """The API server knows whether the pod is ready; returns early if something stirs."""
        answers = not life.hanging
        if answers == life.ready:
            return
        delay = (READY_AGAIN_AFTER if life.restarts else 0.0) if answers else UNREADY_AFTER
        try:
            async with asyncio.timeout(delay):
                await life.stirred.wait()
        except TimeoutError:
            self._set_ready(life, ready=answers)

    def _set_ready(self, life: Life, *, ready: bool, **more: Any) -> None:
        life.ready = ready
        self._tell(life.pod.name, ready=ready, **more)
        self._route(life.pod.arm)

    async def _crashed(self, life: Life) -> None:
        """The process has exited; returns when the node tries again."""
        self._traffic.advance()
        life.pod.running = False
        wait = BACK_OFF[min(life.restarts, len(BACK_OFF) - 1)]
        life.restarts += 1
        waiting = CRASHING if wait else None
        self._set_ready(life, ready=False, restarts=life.restarts, waiting=waiting)
        await asyncio.sleep(wait)

    def _route(self, arm: Arm) -> None:
        """The proxy will know the arm's ready pods."""
        ready = [life.pod for life in self.lives.values() if life.pod.arm is arm and life.ready]
        self._traffic.endpoints(arm, ready)

    # -- faults

    def begin(self, fault: ArmFault) -> None:
        """The fault is in force."""
        self._traffic.advance()
        names = sorted(life.pod.name for life in self.lives.values() if life.pod.arm is fault.arm)
        self._chosen[id(fault)] = names[0] if names else ""
        self._began[id(fault)] = self._clock()
        self._active.append(fault)
        self._afflict(*self.lives.values())

    def end(self, fault: ArmFault) -> None:
        """The fault is over."""
        self._traffic.advance()
        self._active.remove(fault)
        self._afflict(*self.lives.values())

    def _afflict(self, *lives: Life) -> None:
        """Each pod has the faults that are in force for it."""
        for life in lives:
            faults = tuple(fault for fault in self._active if self._touches(fault, life))
            if faults != life.pod.faults:
                life.pod.faults = faults
                life.stirred.set()
        silencing = [f for f in self._active if (f.crash or f.hang or f.blackhole) and f.pods is not Pods.NEW]
        self._traffic.silenced = {fault.arm for fault in silencing}

    def _touches(self, fault: ArmFault, life: Life) -> bool:
        if fault.arm is not life.pod.arm:
            return False
        if fault.pods is Pods.ONE:
            return self._chosen[id(fault)] == life.pod.name
        return fault.pods is Pods.ALL or life.created > self._began[id(fault)]

    # -- a ports.Fetch

    async def fetch(self, url: str, *, accept: str, limit: int) -> tuple[str, bytes]:
        """The metrics page of the pod with that address, and its type; `OSError` where there is none."""
        del accept
        await asyncio.sleep(SLOW if "slow" in self.pages else FETCHING)
        host = urlsplit(url).hostname
        life = next((life for life in self.lives.values() if life.ip == host), None)
        if life is None or not life.pod.running or "outage" in self.pages:
            raise ConnectionRefusedError(f"nobody listens at {url}")
        if life.hanging or "hang" in self.pages:
            await asyncio.Event().wait()
        self._traffic.advance()
        page = life.pod.page.text().encode()
        if len(page) > limit:
            raise ValueError(f"{url}: {len(page)} bytes are more than {limit}")
        return "text/plain", page


def _page(arm: Arm, version: str) -> PodPage:
    return PodPage(version=version, workload=DEPLOYMENTS[arm])


def _version(pod: Json) -> str:
    """The model's version that the pod's container is told to serve."""
    env: Iterable[Json] = pod["spec"]["containers"][0].get("env", ())
    said = {one["name"]: one.get("value", "") for one in env}
    return str(said.get("MODEL_VERSION", VERSIONS[Arm.STABLE]))
