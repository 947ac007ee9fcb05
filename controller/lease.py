"""Work that runs in one replica at a time: whoever holds the Lease.

A leader that cannot renew has its work cancelled before anybody else may take the Lease, and goes on
as a candidate in the same process. Work that crashes takes the leader down with it; a clean end gives
the Lease back, so that the next replica need not wait for it to lapse.

Clocks are not compared. A candidate measures with its own monotonic clock for how long the Lease has
not changed; a leader counts from the moment before it asked for the last renewal that succeeded. The
times written into the Lease are for people.

Leadership saves work and noise. Safety does not rest on it: every write of a run's state is fenced by
its resourceVersion and by the epoch that the work is given, and weight 0 is safe from anybody.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from controller.kube import ApiError, Kube
from controller.ports import Json
from controller.wire import LAST_EPOCH, stored

AWAY = 0.25  # seconds between a candidate's tries while the API server is away
STOPPING = 1.0  # seconds that cancelled work has to end: half of what is left of the Lease then

# Seconds for which a holder that does not renew it has the Lease, whatever that says: ours say six, and with
# what somebody wrote into it nobody would look after any canary.
LONGEST = 60.0

Work = Callable[[int], Awaitable[None]]
_log = structlog.get_logger(__name__)


class Stuck(Exception):
    """Cancelled work did not end. The Lease is about to lapse, so the process has to."""


class Rewound(Exception):
    """The API server knows less than it did, as after a restore of etcd; this process has to begin anew.

    What it knows may never have been, and its watches are silent until the server has counted on from there.
    """


class OnChange(Protocol):
    """Hears whether we lead; `telemetry.Telemetry.leads` is one."""

    def __call__(self, lease: str, *, now: bool) -> None:
        """From now on we lead, or do not."""
        ...


def _unheard(lease: str, *, now: bool) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Which Lease, for whom, and how fast.

    With 6/4/1 s the worst hand-over after a crash is about 8.6 s (15/10/2, the usual: 18.6 s): the
    Lease's 6 s, and on each side up to a second and its jitter. Work is cancelled 4 s after the last
    renewal, has 1 s to end, and the Lease still holds for another.
    """

    namespace: str
    name: str
    identity: str  # no other replica has it
    duration: timedelta = timedelta(seconds=6)
    deadline: timedelta = timedelta(seconds=4)
    retry: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        if not self.retry < self.deadline < self.duration - timedelta(seconds=STOPPING):
            raise ValueError(
                f"Lease {self.name}: retry < deadline < duration - {STOPPING:g} s is needed, got "
                f"{self.retry}, {self.deadline}, {self.duration}"
            )
        if self.duration % timedelta(seconds=1):
            raise ValueError(f"Lease {self.name}: duration must be whole seconds, got {self.duration}")

    @property
    def attempt(self) -> timedelta:
        """How long one request may take: two fit before the deadline, and a slow server's answer in one."""
        return self.deadline / 2

    @property
    def collection(self) -> str:
        """The path of the namespace's Leases."""
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"


class Rules(Protocol):
    """What else is agreed among those who want the Lease; `shards.Shards` are some."""

    def wait(self, lease: "Lease") -> float:
        """Seconds for which we leave the Lease to others once it is free; infinite: not ours to take."""
        ...

    def noticed(self, lease: "Lease") -> None:
        """The Lease has been seen: read, or written by us."""
        ...


class _NoRules:
    """Whoever comes first has it."""

    def wait(self, lease: "Lease") -> float:
        del lease
        return 0.0

    def noticed(self, lease: "Lease") -> None:
        pass


async def hold(lease: "Lease", work: Work, *, on_change: OnChange = _unheard) -> None:
    """`work(epoch)` has run to its end while we held the Lease; its exceptions come out here.

    The epoch is `leaseTransitions` and larger than any before. Work that ends because `lease.let_go` was
    set gives the Lease back, and we are a candidate again.
    """
    claim = lease.claim
    while True:
        epoch = await lease.acquire()
        _log.info("lease_acquired", lease=claim.name, identity=claim.identity, epoch=epoch)
        on_change(claim.name, now=True)
        try:
            if await _lead(lease, claim, work, epoch):
                return
        finally:
            on_change(claim.name, now=False)
            _log.info("lease_ended", lease=claim.name, identity=claim.identity, epoch=epoch)


async def _lead(lease: "Lease", claim: Claim, work: Work, epoch: int) -> bool:
    """True when the work has ended by itself, False when it was cancelled with the Lease, or let that go."""
    working = asyncio.ensure_future(work(epoch))
    keeping = asyncio.create_task(lease.keep(), name=f"lease {claim.name}")
    try:
        await asyncio.wait((working, keeping), return_when=asyncio.FIRST_COMPLETED)
        return working.done() and not lease.let_go.is_set()
    finally:  # also when we are cancelled, by whoever wants the process to end
        try:
            await _end(working)
        finally:
            keeping.cancel()
            await asyncio.wait((keeping,))
            if working.done() and not lease.lost:
                await lease.release()
            if not keeping.cancelled():
                keeping.result()  # a mistake of ours in keeping the Lease is not a lost Lease


async def _end(working: "asyncio.Future[None]") -> None:
    """The work has ended; raises what it raised, but for its cancellation."""
    working.cancel()
    for _ in range(2):  # a process that was frozen meanwhile finds the first half over as it wakes
        if not working.done():
            await asyncio.wait((working,), timeout=STOPPING / 2)
    if not working.done():
        raise Stuck(f"cancelled work still runs after {STOPPING:g} s: {working!r}; end this process")
    if not working.cancelled():
        working.result()


class Lease:
    """The Lease as we last saw it, and since when it has looked like that.

    `floor` is the highest epoch that is known from elsewhere: somebody may delete the Lease, and runs
    remember epochs longer than it.
    """

    def __init__(
        self,
        kube: Kube,
        claim: Claim,
        *,
        clock: Callable[[], datetime],
        floor: Callable[[], int] = lambda: 0,
        rules: Rules | None = None,
    ) -> None:
        self.claim = claim
        self.highest = 0  # epoch seen in the Lease, whoever's it was
        self.lost = True
        self.taking = False  # we have asked for it, and have no answer yet
        self.let_go = asyncio.Event()  # another is to have it: the work is to end in good order
        self.notes: dict[str, str | None] = {}  # annotations it has when we write it; None: has not
        self._kube = kube
        self._clock = clock
        self._floor = floor
        self._rules = rules or _NoRules()
        self._seen: Json = None
        self._version = 0  # the newest that was seen: a read of one object never goes back
        self._since = _now()  # loop time at which `_seen` was first seen
        self._renewed = 0.0  # loop time just before we asked for the last renewal that succeeded
        self._epoch = 0  # ours, or the one we try to have
        self._denied = False  # for good, when we last asked; a Role may lack one of several names

    @property
    def holder(self) -> str:
        """Who holds it, or did when it was last seen; empty if nobody."""
        return self._spec.get("holderIdentity") or ""

    @property
    def annotations(self) -> Mapping[str, str]:
        """What it was annotated with when it was last seen."""
        meta: Json = (self._seen or {}).get("metadata") or {}
        return meta.get("annotations") or {}

    # -- as a candidate ----------------------------------------------------------------------------

    async def acquire(self) -> int:
        """The Lease is ours; our epoch."""
        while True:
            try:
                await self.look()
                wait = self._rules.wait(self)
                if self.free() and (wait <= 0 or _now() >= self._freed() + wait):
                    return await self._take()
                pause = min(_seconds(self.claim.retry), max(self._freed() + wait - _now(), 0.0))
            except ApiError as error:
                lasting = error.denied or error.not_found  # no right to, or no such namespace
                log = _log.warning if lasting and not self._denied else _log.debug
                log("lease_not_acquired", lease=self.claim.name, error=str(error))
                self._denied = lasting
                pause = AWAY
            await asyncio.sleep(self._jitter(max(pause, 0.1)))

    async def _take(self) -> int:
        began, self._epoch, self.taking = _now(), max(self.highest, self._floor()) + 1, True
        try:
            await self._write(self._ours())
        finally:
            self.taking = False
        self._renewed, self.lost = began, False
        self.let_go.clear()
        return self._epoch

    def free(self) -> bool:
        """Whether nobody holds the Lease, or nobody has renewed it for as long as it is good for."""
        return not self.holder or self._mine() or _now() >= self._lapses()

    def _freed(self) -> float:
        """Loop time from which it is free, as far as we know."""
        return self._lapses() if self.holder and not self._mine() else self._since

    def _lapses(self) -> float:
        lasts = self._spec.get("leaseDurationSeconds") or _seconds(self.claim.duration)
        return self._since + min(float(lasts), LONGEST)

    # -- as the leader -----------------------------------------------------------------------------

    async def keep(self) -> None:
        """Renews until that fails for too long or somebody else has the Lease; then we have lost it."""
        deadline = _seconds(self.claim.deadline)
        pause = max(0.0, self._renewed + self._jitter(_seconds(self.claim.retry)) - _now())
        while (left := self._renewed + deadline - _now()) > 0:
            await asyncio.sleep(min(pause, left))
            began, apart = _now(), self._jitter(_seconds(self.claim.retry))
            pause = apart / 4  # unless all goes well
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._renewed + deadline):
                    if not await self.renew():
                        break
                    # what is slow is asked again at once: each renewal counts from before it was asked for
                    self._renewed, pause = began, max(0.0, began + apart - _now())
        self.lost = True
        _log.warning("lease_lost", lease=self.claim.name, identity=self.claim.identity, epoch=self._epoch)

    async def renew(self) -> bool:
        """False if the Lease is somebody else's; trouble that may pass is a `TimeoutError`."""
        try:
            return await self._insist({})
        except ApiError as error:
            _log.warning("lease_not_renewed", lease=self.claim.name, error=str(error))
            raise TimeoutError from error

    async def release(self) -> None:
        """Nobody has to wait for the Lease to lapse; if it cannot be said soon, they do."""
        self.lost = True
        try:
            async with asyncio.timeout(_seconds(self.claim.attempt)):
                await self._insist({"holderIdentity": "", "leaseDurationSeconds": 1})
        except (ApiError, TimeoutError) as error:
            _log.warning("lease_not_released", lease=self.claim.name, error=str(error))

    async def _insist(self, but: Json) -> bool:
        """The Lease is renewed (but for what `but` says), unless it is somebody else's: then False."""
        try:
            await self._write(self._ours(but))
        except ApiError as error:
            if not (error.conflict or error.exists or error.not_found):
                raise
            await self.look()  # somebody put a label on it, or an attempt of ours only seemed to fail
            if self._seen is not None and not self._mine():
                return False
            await self._write(self._ours(but))
        return True

    def _mine(self) -> bool:
        """Whether we wrote it. Not by the name alone: two processes may have been given the same one."""
        mine: bool = self._spec.get("holderIdentity") == self.claim.identity
        return mine and self._spec.get("leaseTransitions") == self._epoch

    # -- both --------------------------------------------------------------------------------------

    @property
    def _spec(self) -> Json:
        return (self._seen or {}).get("spec") or {}

    def _ours(self, but: Json = None) -> Json:
        """The Lease as it says that we have just taken or renewed it."""
        now = self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # MicroTime: always six digits
        acquired = self._spec.get("acquireTime") if self._mine() else None
        ours = {
            "holderIdentity": self.claim.identity,
            "leaseDurationSeconds": int(_seconds(self.claim.duration)),
            "acquireTime": acquired or now,
            "renewTime": now,
            "leaseTransitions": self._epoch,
        }
        new = {"metadata": {"namespace": self.claim.namespace, "name": self.claim.name}}
        about = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        whole = about | (self._seen or new) | {"spec": self._spec | ours | (but or {})}
        return _annotated(whole, self.notes) if self.notes else whole

    async def ask(self, notes: Mapping[str, str]) -> None:
        """The Lease has these annotations; its holder reads them when it renews it next."""
        await self.look()
        if self._seen is not None and not self.free():
            await self._write(_annotated(self._seen, notes))

    async def _write(self, lease: Json) -> None:
        """The API server holds `lease`, unless somebody wrote it since we saw it."""
        path, method = self.claim.collection, "POST"
        if self._seen is not None:
            path, method = f"{path}/{self.claim.name}", "PUT"
        self._notice(
            await self._kube.call(method, path, body=lease, deadline=self.claim.attempt, urgent=True)
        )

    async def look(self) -> None:
        """What the API server has now is seen."""
        try:
            path = f"{self.claim.collection}/{self.claim.name}"
            self._notice(await self._kube.call("GET", path, deadline=self.claim.attempt, urgent=True))
        except ApiError as error:
            if not error.not_found:
                raise
            if self.free():  # else its holder may still be at work, and will notice within a second
                self._notice(None)

    def _notice(self, lease: Json) -> None:
        """A change of the spec starts the wait anew; somebody's label does not."""
        if lease is not None and not _is_lease(lease):
            raise ApiError(0, "Garbled", "the answer is no Lease", request=f"Lease {self.claim.name}")
        version = int(lease["metadata"]["resourceVersion"]) if lease is not None else self._version
        if version < self._version:
            self.lost = True
            _log.error("api_server_went_back", lease=self.claim.name, version=version, before=self._version)
            what = f"Lease {self.claim.name} is of version {version} and was of {self._version}"
            raise Rewound(f"{what}: the API server was restored from a backup; starting anew")
        self._version = version
        before, self._seen = self._spec, lease
        if self._spec != before:
            self._since = _now()
        counted = self._spec.get("leaseTransitions") or 0
        self.highest = max(self.highest, counted if counted < LAST_EPOCH else 0)
        self._rules.noticed(self)

    def _jitter(self, pause: float) -> float:
        """`pause`, 20 % more or less: replicas that started together do not ask together."""
        return pause * self._kube.chance.uniform(0.8, 1.2)


def _annotated(lease: Json, notes: Mapping[str, str | None]) -> Json:
    meta = lease["metadata"]
    both = {**(meta.get("annotations") or {}), **notes}
    return lease | {
        "metadata": meta | {"annotations": {name: said for name, said in both.items() if said is not None}}
    }


def _is_lease(lease: Json) -> bool:
    """Whether an answer is a Lease whose spec can be read; its numbers have 32 bits, as Kubernetes says."""
    spec = (lease.get("spec") or {}) if stored(lease) else None
    if not isinstance(spec, dict):
        return False
    texts = (spec.get(name) or "" for name in ("holderIdentity", "acquireTime"))
    numbers = (spec.get(name) or 0 for name in ("leaseDurationSeconds", "leaseTransitions"))
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(number, int) and abs(number) < 2**31 for number in numbers
    )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _seconds(duration: timedelta) -> float:
    return duration.total_seconds()
