"""What the controller needs from outside, as Protocols of few methods.

The real adapters stand beside this file; `scenarios` ships others that live in memory. Nothing
here imports an adapter, and adapters never import each other.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from analysis.evidence import CheckSpec
from analysis.samples import Counts, Histogram, Statistic
from controller.model import Checkpoint, Page, Place, PodSeen, Replayed, RouteSeen, Run, Tell

UNREAD = ""  # the source of a check that nobody has read yet, as opposed to one that is not there
ANNOTATED: Mapping[str, Page | None] = {}  # every check on the page that the pod's annotations name

Json = Any  # a JSON value; the wire's shapes are checked in `resource`


class Answer(Protocol):
    """An HTTP answer whose status is known and whose body may still be coming."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """The whole body."""
        ...

    def lines(self) -> AsyncIterator[bytes]:
        """The body by lines, as they arrive (watches)."""
        ...


class Transport(Protocol):
    """How bytes reach the API server: a real connection, or the emulated server in this process."""

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> AbstractAsyncContextManager[Answer]:
        """Send one request; connection trouble raises `OSError` or `TimeoutError`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one pod's page said at `at` (seconds since 1970), all counters cumulative.

    `values` is keyed by check name; a check whose series the page lacks is absent. `requests` counts
    completed requests (k: failed ones) for breakers and load parity, whatever the checks are, by `counter`.
    `sources` says which series each check was read from, for `explain`; a check that has a source and
    no value was not read, one that has neither is not there. `times` are those of checks that were
    counted at another moment than `at`. `took` is how long requests took with the time that they waited,
    where the latency check reads the model's own time and the sidecar says more. `of` are the workloads that
    the sidecar says it belongs to, so that a pod's page is not taken for that of another at its address. If
    not `paged`, the page on which requests are counted was not read, but for checks that stand elsewhere.
    `sidecar`: the page has what a sidecar shows of itself, be there requests or not.
    """

    at: float
    requests: Counts | None
    values: Mapping[str, Statistic] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)
    took: Histogram | None = None
    of: frozenset[str] = frozenset()
    paged: bool = True
    counter: str = ""
    sidecar: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a pod's page, or a check on it, gives nothing: since when, how often in a row, in words."""

    since: float
    failures: int
    what: str


class MetricsSource(Protocol):
    """The newest reading of each pod. Reading never waits: scrapers are tasks of their own."""

    def watch(
        self,
        run: str,
        pods: Sequence[PodSeen],
        checks: Sequence[CheckSpec],
        pages: Mapping[str, Page | None] = ANNOTATED,
    ) -> None:
        """From now on exactly these pods are read for this run (`namespace/name`); no pods ends it.

        `pages` says where a check's numbers stand, by name, if not where the pod's annotations say;
        None: at a Prometheus.
        """
        ...

    def read(self, run: str) -> Mapping[str, Reading]:
        """Newest reading by pod name; pods that never answered are absent."""
        ...

    def troubles(self, run: str) -> Mapping[str, Trouble]:
        """By pod name, what is wrong with its page now."""
        ...


class TrafficRouter(Protocol):
    """Istio's weights."""

    def seen(self, plan: Place) -> RouteSeen:
        """The canary's weight as last told, or why it cannot be steered."""
        ...

    async def route(self, plan: Place, weight: int) -> None:
        """The canary's weight is `weight` when this returns; raises `kube.ApiError` else."""
        ...

    async def fence(self, plan: Place) -> None:
        """What was decided upon the VirtualService as last told comes too late now.

        Raises `kube.ApiError` if it may not.
        """
        ...

    async def mirror(self, plan: Place, *, on: bool) -> None:
        """Requests are copied to the plan's recorder, or no more; raises `kube.ApiError` else."""
        ...


class ShadowSource(Protocol):
    """What the shadow worker knows of each run. Reading never waits: asking is a task of its own."""

    def watch(self, run: str, question: Json | None) -> None:
        """From now on the worker is asked this for the run (`namespace/name`); None ends it."""
        ...

    def read(self, run: str) -> Replayed | None:
        """The newest answer to the run's question; None if there is none, or none of late."""
        ...

    def silent(self, run: str) -> timedelta:
        """How long nothing was heard."""
        ...

    def trouble(self, run: str) -> str:
        """Why; empty if something was."""
        ...


class Gatekeeper(Protocol):
    """The webhooks that gates ask. Reading never waits: asking is a task of its own."""

    def watch(self, run: Run) -> None:
        """From now on the webhooks before the run's next move are asked, if it waits for any."""
        ...

    def read(self, run: str) -> Mapping[int, str]:
        """What they said, by their places in the policy: `gating.OPEN`, or why one is shut."""
        ...

    def forget(self, run: str) -> None:
        """Nobody is asked for this run (`namespace/name`) any more."""
        ...


class RunStore(Protocol):
    """CanaryRun objects; their resourceVersion is the fence between two leaders."""

    async def save(self, run: Run, checkpoint: Checkpoint, *, epoch: int, upon: Json | None = None) -> None:
        """Status holds `run` and `checkpoint`; raises `Overtaken` if a newer epoch wrote it, or `Behind`.

        `upon` is the object that another leader wrote and the run was read from; by default as last told.
        """
        ...

    async def guard(self, run: Run) -> None:
        """The run's object has our finalizer: it cannot vanish while it may have traffic."""
        ...

    async def release(self, run: Run) -> None:
        """The run's object has no finalizer of ours."""
        ...

    async def ask(
        self, namespace: str, name: str, *, abort: str | None, promote: str | None, approval: str | None
    ) -> None:
        """The run's spec says what an annotation asked for."""
        ...

    async def prune(self, namespace: str, workload: str, *, keep: int) -> None:
        """At most `keep` ended runs of the workload are left."""
        ...


class Overtaken(Exception):
    """A leader with a newer epoch has written this run; whatever we decided, it decides now."""


class Behind(Overtaken):
    """An earlier leader wrote this run after what we know of it: we decided upon what is no more."""


class Recorder(Protocol):
    """Kubernetes Events."""

    async def tell(self, run: Run, what: Tell) -> None:
        """An Event on the canary's Deployment says it; failures are logged, never raised."""
        ...


class Alerter(Protocol):
    """Slack and webhooks. The outbox itself is `Run.outbox`, saved with the run."""

    def offer(self, run: Run) -> None:
        """Every message in the run's outbox is being delivered; offering again changes nothing."""
        ...

    def delivered(self, run: str) -> frozenset[str]:
        """Ids of messages that arrived (or were given up) and may leave the outbox."""
        ...


class Fetch(Protocol):
    """One GET of a pod's metrics page."""

    def __call__(self, url: str, *, accept: str, limit: int) -> Awaitable[tuple[str, bytes]]:
        """Its type and the page; raises `OSError` or `ValueError` (too large, not 200). Callers time it."""
        ...


class Unreached(ConnectionError):
    """Nobody took it; the text says why, in words for people and without the URL."""


class Post(Protocol):
    """One POST to a receiver of alerts."""

    async def __call__(
        self, url: str, body: bytes, *, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str]]:
        """Status and headers; raises `OSError`. Callers set the timeout.

        `Unreached` if nobody took it; `PermissionError`, as much in words for people, if it may not go there.
        """
        ...


class Ask(Protocol):
    """One question to the shadow worker."""

    async def __call__(self, method: str, url: str, body: bytes) -> tuple[int, bytes]:
        """Status and answer; raises `OSError` or `ValueError` (too large). Callers set the timeout."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Everything the controller touches, in one value: the real world or an emulated one."""

    transport: Transport
    fetch: Fetch
    post: Post
    ask: Ask
    clock: Callable[[], datetime]  # aware UTC; the monotonic clock is the running loop's
