"""Reads pods' metrics pages, each in a task of its own, and keeps the newest reading of each.

A pass never waits for a page: it takes what is in memory. A pod that hangs costs its own task half a
second a time and delays nobody. What fails is counted and remembered for `explain`, never raised.

The target is what the pod's annotations `prometheus.io/{scheme,port,path}` say, by default
`http://POD-IP:8080/metrics`. Istio's injector points them at the sidecar's merged page on port 15020,
which is outside of mTLS. A check whose `source.scrape` names another page of the pod is read there.

A page is asked for in protobuf, in which alone there are native histograms, and read in whatever it comes.
Istio's agent up to 1.30 then glues the sidecar's protobuf to the model's text; a page that cannot be read
is asked for once more as text, and as text only from then on.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_address
from math import ceil, floor

import structlog

from analysis.evidence import CheckSpec
from analysis.grids import shared
from analysis.samples import Histogram
from controller import layouts
from controller.effort import Effort
from controller.falls import Falls
from controller.model import Page, PodSeen
from controller.policies import STRAIGHT, astray
from controller.ports import ANNOTATED, Fetch, Reading, Trouble
from controller.protobuf import Found
from controller.reading import ACCEPT, PLAIN, found, is_binary, negotiated, understood

MOST_STABLE = 20  # stable pods read for a run: their noise averages out, the reading adds up
PORT = "8080"
LONGEST_PATH = 512  # characters, as a policy's path
# Intervals for which a page that came is not read anew while its run waits for a pass, or half as long as it
# waits. A controller that has more to do than its core can spends less on pages that nobody looks at, and the
# less the later it is: else reading them would leave no time for passes.
FRESH = 1.5
# Of a pod's new requests this part, and so many, have failed: whoever looks at its run does so first.
ALARMING, SOME = 0.25, 3
# Pods of a run of which each page is read as it comes: hundreds at once would keep all other runs waiting.
MANY = 50
GARBLED = 3  # times in a row that a page made no sense in protobuf; then it is asked for as text for good

_log = structlog.get_logger(__name__)


def chosen(pods: Iterable[PodSeen], *, limit: int = MOST_STABLE) -> list[PodSeen]:
    """At most `limit` of the pods, by the hash of their names: the same ones whoever asks.

    A pod that comes or goes changes the choice by one at most.
    """
    return sorted(sorted(pods, key=lambda pod: (_hash(pod.name), pod.name))[:limit], key=lambda pod: pod.name)


def addressed(pods: Sequence[PodSeen]) -> list[PodSeen]:
    """Those whose page is their own: of several at one address the one that was made last has it."""
    last = {_address(pod): pod for pod in sorted(pods, key=lambda pod: (pod.created, pod.name))}
    return [pod for pod in pods if not pod.ip or last[_address(pod)] is pod]


def _address(pod: PodSeen) -> tuple[str, str]:
    return pod.ip, pod.annotations.get("prometheus.io/port", PORT)


def target(pod: PodSeen, page: Page = Page()) -> str:  # noqa: B008 - a frozen value
    """The URL of the pod's metrics page; raises `ValueError` if its annotations make none."""

    def said(name: str, default: str) -> str:
        return pod.annotations.get(f"prometheus.io/{name}", "") or default

    scheme, port = said("scheme", "http"), str(page.port or said("port", PORT))
    path = page.path or said("path", "/metrics")
    if scheme not in {"http", "https"}:
        raise ValueError(f'annotation prometheus.io/scheme is "{scheme}": say http or https')
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f'annotation prometheus.io/port is "{port}": say a port number')
    if len(path) > LONGEST_PATH:
        raise ValueError(
            f"annotation prometheus.io/path has {len(path)} characters: say {LONGEST_PATH} at most"
        )
    if astray(path):
        raise ValueError(
            f'the path of the metrics page is "{ascii(path)[1:-1]}" (prometheus.io/path, or the check\'s'
            f" source.scrape.path): {STRAIGHT}"
        )
    if not pod.ip:
        raise ValueError("the pod has no IP address yet")
    if not _of_a_pod(pod.ip):
        raise ValueError(f"its address {pod.ip} is no pod's: see who wrote that into its status")
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    return f"{scheme}://{host}:{port}/{path.removeprefix('/')}"


@lru_cache(maxsize=4096)
def _of_a_pod(ip: str) -> bool:
    """Whether a pod can have this address; a cloud's metadata has a link-local one."""
    try:
        found = ip_address(ip)
    except ValueError:
        return False
    return not (found.is_link_local or found.is_multicast or found.is_unspecified)


class Scrape:
    """`ports.MetricsSource`. Needs a running event loop; `close` ends all tasks.

    `on_news(run)` is called when every pod of a run has been tried once more, answered or not. `overdue(run)`
    says since how many seconds the run's pass is due, 0 if it is not or has begun.
    """

    def __init__(
        self,
        fetch: Fetch,
        clock: Callable[[], datetime],
        *,
        interval: timedelta = timedelta(seconds=1),
        timeout: timedelta = timedelta(seconds=0.5),
        limit: int = 2 * 1024 * 1024,  # bytes; a sidecar's whole page is about 0.1 MB
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._interval = interval.total_seconds()
        self._timeout = timeout.total_seconds()
        self._limit = limit
        self.on_news: Callable[[str], None] = _nobody
        self.overdue: Callable[[str], float] = _never
        self._runs: dict[str, dict[str, _Reader]] = {}
        self._awaited: dict[str, set[str]] = {}  # pods of the round that is under way; none is, of many runs
        self._due: dict[str, float] = {}
        self._alone = asyncio.Lock()

    def watch(
        self,
        run: str,
        pods: Sequence[PodSeen],
        checks: Sequence[CheckSpec],
        pages: Mapping[str, Page | None] = ANNOTATED,
    ) -> None:
        """From now on exactly these pods are read for this run; no pods ends it."""
        readers = self._runs.setdefault(run, {})
        gone = readers.keys() - {pod.name for pod in pods}
        for name in gone:
            readers.pop(name).task.cancel()
        self._awaited.get(run, set()).difference_update(gone)
        for pod in pods:
            self._look(run, readers, pod, by_page(checks, pages))
        if not readers:
            del self._runs[run]
            self._awaited.pop(run, None)
            self._due.pop(run, None)

    def read(self, run: str) -> Mapping[str, Reading]:
        """Newest reading by pod name; pods that never answered are absent."""
        readers = self._runs.get(run, {})
        for one in readers.values():
            one.settle()
            one.unseen = None
        return {name: one.reading for name, one in readers.items() if one.reading is not None}

    def troubles(self, run: str) -> Mapping[str, Trouble]:
        """By pod name, what is wrong with its page now."""
        readers = self._runs.get(run, {})
        for one in readers.values():
            one.settle()
        return {name: one.trouble for name, one in readers.items() if one.trouble is not None}

    def due(self, run: str) -> float:
        """The loop's time from which on the pages were due that `on_news` tells of; only then."""
        return self._due[run]

    def alarming(self, run: str) -> bool:
        """Whether many of the newest requests of one of the pods have failed."""
        readers = self._runs.get(run, {}).values()
        for one in readers:
            one.settle()
        return any(one.alarming for one in readers)

    async def close(self) -> None:
        """No page is read any more."""
        tasks = [reader.task for run in self._runs.values() for reader in run.values()]
        self._runs.clear()
        self._awaited.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self, run: str, readers: dict[str, "_Reader"], pod: PodSeen, checks: "ByPage") -> None:
        """A task reads the pod, as it is now; what a replaced one had read is not lost."""
        known = readers.get(pod.name)
        if known is not None:
            if known.reads(pod, checks):
                return
            known.task.cancel()
        reader = _Reader(pod, checks)
        if known is not None and known.pod.ip == pod.ip:
            known.settle()
            reader.reading, reader.plain, reader.garbled = known.reading, known.plain, known.garbled
            reader.effort, reader.falls = known.effort, known.falls
        reader.task = asyncio.create_task(self._follow(run, reader), name=f"scrape {run} {pod.name}")
        readers[pod.name] = reader

    async def _follow(self, run: str, reader: "_Reader") -> None:
        """The pod's page is read once an interval, for ever, at the run's and the pod's own moment.

        One that nobody has looked at yet may do: see `FRESH`.
        """
        loop = asyncio.get_running_loop()
        phase = _phase(run, reader.pod.name) * self._interval
        due = phase + floor((loop.time() - phase) / self._interval) * self._interval
        while True:
            wanted = due + self._interval  # since when the page is due, be it that some turns were missed
            due += self._interval * max(1, ceil((loop.time() - due) / self._interval))
            await asyncio.sleep(due - loop.time())
            overdue = self.overdue(run)
            within = max(FRESH * self._interval, overdue / 2)
            reader.effort.shared(len(self._runs.get(run, ())))
            fresh = overdue and reader.fresh(self._clock().timestamp(), within=within)
            if not fresh and not reader.effort.wait():
                await self._try(reader)
            if len(self._runs.get(run, ())) > MANY:
                reader.settle()
            self._told(run, reader.pod.name, due=wanted)

    async def _try(self, reader: "_Reader") -> None:
        """One more reading, or one more trouble."""
        if len(reader.checks) == 1:  # as nearly always, and a task less
            said = [await self._said(reader, *reader.checks[0])]
        else:
            said = await asyncio.gather(*(self._said(reader, page, checks) for page, checks in reader.checks))
        at = self._clock().timestamp()
        if not any(isinstance(page, _Text) and len(page.page) > layouts.LONGEST for page in said):
            reader.take(said, at)
            return
        async with (
            self._alone
        ):  # one large page is parsed, then all else has its turn, the Lease's renewal too
            reader.take(said, at)
            reader.settle()
            await asyncio.sleep(0)

    async def _said(self, reader: "_Reader", page: Page, checks: Sequence[CheckSpec]) -> "_Said":
        """What the page holds, or in words why it could not be had."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._found(reader, page, checks)
        except TimeoutError:
            return f"no answer within {self._timeout:g} s"
        except (OSError, ValueError) as error:
            return str(error) or repr(error)

    async def _found(self, reader: "_Reader", page: Page, checks: Sequence[CheckSpec]) -> "Found | _Text":
        """What the page holds, in protobuf if it can be read so.

        In text it has no native histograms, so one that was torn once is asked for in protobuf again.
        """
        url = target(reader.pod, page)
        if page in reader.plain:
            return await self._as_text(url)
        kind, said = await self._fetch(url, accept=ACCEPT, limit=self._limit)
        if not is_binary(said, kind=kind):
            reader.garbled[page] = 0
            return _Text(kind, said)
        begun = reader.effort.begun()
        try:
            read = negotiated(said, checks, kind=kind)
        except ValueError as error:
            why = str(error)
        else:
            reader.garbled[page] = 0
            return read
        finally:
            reader.effort.done(begun)
        try:
            text = await self._as_text(url)
            read = found(text.page, checks, kind=text.kind)
        except (OSError, ValueError) as error:
            raise ValueError(f"{why}; asked for as text: {error}") from error
        reader.garbled[page] += 1
        if reader.garbled[page] == GARBLED:
            _log.debug("page_read_as_text", pod=reader.pod.name, url=url, why=why)
            reader.plain.add(page)
        return read

    async def _as_text(self, url: str) -> "_Text":
        return _Text(*await self._fetch(url, accept=PLAIN, limit=self._limit))

    def _told(self, run: str, pod: str, *, due: float) -> None:
        """`on_news` has been called if this was the last pod of the round; those in trouble may be late."""
        awaited = self._awaited.get(run)
        if awaited is None:
            readers = self._runs.get(run, {})
            awaited = {name for name, one in readers.items() if one.trouble is None} or set(readers)
            self._awaited[run], self._due[run] = awaited, due
        awaited.discard(pod)
        if not awaited:
            del self._awaited[run]
            self.on_news(run)


# The checks to be read from each page. Breakers count requests on the first one.
ByPage = tuple[tuple[Page, tuple[CheckSpec, ...]], ...]


def by_page(checks: Sequence[CheckSpec], pages: Mapping[str, Page | None]) -> ByPage:
    """Checks by page: that of the annotations first, unless each check names another."""
    found: dict[Page, tuple[CheckSpec, ...]] = {}
    if not checks or any(pages.get(check.name) is None for check in checks):
        found[Page()] = ()
    for check in checks:
        page = pages.get(check.name) or Page()
        found[page] = (*found.get(page, ()), check)
    return tuple(found.items())


@dataclass(frozen=True, slots=True)
class _Text:
    """A page that came, and is read when somebody wants to know: a pass, of which a page may see none."""

    kind: str
    page: bytes

    def read(self, checks: Sequence[CheckSpec], at: float) -> "_Read":
        """Its reading, and what is wrong with it."""
        try:
            return layouts.read(self.page, checks, at=at, kind=self.kind)
        except ValueError as error:
            return None, (str(error) or repr(error),)


_Said = Found | _Text | str  # of a page: what it holds, itself, or in words why it could not be had


class _Reader:
    """One pod as it is read for one run."""

    def __init__(self, pod: PodSeen, checks: ByPage) -> None:
        self.pod = pod
        self.checks = checks
        self.plain: set[Page] = set()  # pages that are asked for as text
        self.garbled: Counter[Page] = Counter()  # how often in a row each made no sense otherwise
        self.reading: Reading | None = None
        self.trouble: Trouble | None = None
        self.falls = Falls()
        self.alarming = False
        self.effort = Effort(asyncio.get_running_loop().time)
        self.unseen: float | None = None  # when the page came that no pass has asked for
        self._unread: tuple[Sequence[_Said], float] | None = None
        self.task: asyncio.Task[None]

    def reads(self, pod: PodSeen, checks: ByPage) -> bool:
        """Whether this still is the pod, at the same address, read for the same checks."""
        same = (self.pod.ip, self.pod.annotations) == (pod.ip, pod.annotations)
        return same and self.checks == checks and not self.task.done()

    def take(self, said: Sequence[_Said], at: float) -> None:
        """This is what came. While all is well, pages wait for `settle`; trouble is counted at once."""
        failed = any(isinstance(page, str) for page in said)
        if failed:
            self.settle()  # what came before, so that failures in a row are in a row
        self._unread, self.unseen = (said, at), at
        if failed or self.trouble is not None or self.reading is None:
            self.settle()

    def fresh(self, now: float, *, within: float) -> bool:
        """Whether a page that came within so many seconds is still to be looked at by a pass."""
        return self.unseen is not None and 0 <= now - self.unseen <= within

    def settle(self) -> None:
        """The reading is that of all pages; without the first, on which requests are counted, there is none.

        Time goes forward from page to page even if somebody sets the clock back.
        """
        if self._unread is None:
            return
        (said, at), self._unread = self._unread, None
        begun = self.effort.begun()
        at = max(at, self.reading.at + 0.001) if self.reading else at
        readings: list[Reading | None] = []
        wrong: list[str] = []
        for page, (_, checks) in zip(said, self.checks, strict=True):
            reading, complaints = (
                page.read(checks, at) if isinstance(page, _Text) else _read(page, checks, at)
            )
            readings.append(reading)
            wrong += complaints
        if readings[0] is not None and (why := _anothers(self.reading, readings[0])):
            wrong.append(why)
        elif readings[0] is not None:
            wrong += self._taken(together(readings[0], readings[1:]))
        self.effort.done(begun)
        if waits := self.effort.wait():
            wrong.append(f"its page takes long to read, so it is read again in {waits:.0f} s only; filter it")
        if wrong:
            self.fail("; ".join(wrong), at)
        else:
            self.trouble = None

    def _taken(self, whole: Reading) -> Iterator[str]:
        """What is wrong with a reading that came; what can be used of it is the newest."""
        kept, falling = self.falls.look(whole)
        yield from falling
        if kept is not None:
            before, self.reading = self.reading, kept
            self.alarming = _alarming(before, kept)
            yield from _other_buckets(before, kept)

    def fail(self, what: str, at: float) -> None:
        """One more failure is remembered; the first of a row is logged."""
        if self.trouble is None:
            _log.debug("page_not_read", pod=self.pod.name, ip=self.pod.ip, why=what)
        before = self.trouble or Trouble(since=at, failures=0, what="")
        self.trouble = Trouble(since=before.since, failures=before.failures + 1, what=what)


_Read = tuple[Reading | None, Sequence[str]]  # a reading if there is a page, and what is wrong with it


def _read(page: _Said, checks: Sequence[CheckSpec], at: float) -> _Read:
    if isinstance(page, _Text):
        return page.read(checks, at)
    return (None, (page,)) if isinstance(page, str) else understood(page, checks, at=at)


def _anothers(before: Reading | None, now: Reading) -> str:
    """Why this is the page of another pod, which has its address now; empty if it is not, or nobody can tell.

    A pod that is gone may be in our index while the API server is away, and its address in use again.
    """
    if before is None or not before.of or not now.of or before.of & now.of:
        return ""
    was, found = (", ".join(sorted(one.of)) for one in (before, now))
    return f"its page is one of {found} now, not of {was}: another pod may have its address"


def _alarming(before: Reading | None, now: Reading) -> bool:
    """Whether many requests failed since the reading before."""
    if before is None or before.requests is None or now.requests is None:
        return False
    n, k = now.requests.n - before.requests.n, now.requests.k - before.requests.k
    return k >= SOME and k >= ALARMING * n


def _other_buckets(before: Reading | None, now: Reading) -> Iterator[str]:
    """A sentence for each check whose histogram has not the buckets of the reading before.

    But for native ones, which choose their schema as they count.
    """
    for name, value in now.values.items():
        known = None if before is None else before.values.get(name)
        if not isinstance(known, Histogram) or not isinstance(value, Histogram) or known.le == value.le:
            continue
        if shared((known.le, value.le)) is None:
            both = len({*known.le} & {*value.le})
            yield (
                f"{name}: {now.sources[name]}: buckets change from page to page: "
                f"of {len(known.le)} bounds and now {len(value.le)}, {both} are the same"
            )


def together(first: Reading, others: Iterable[Reading | None]) -> Reading:
    """With the checks that were read from other pages."""
    for other in others:
        if other is not None:
            values, sources = {**first.values, **other.values}, {**first.sources, **other.sources}
            first = replace(first, values=values, sources=sources, took=first.took or other.took)
    return first


def _nobody(_run: str) -> None:
    """Nobody waits for news."""


def _never(_run: str) -> float:
    return 0.0


def _hash(name: str) -> int:
    """32 bits that look like chance even for pod-1, pod-2, ... (a CRC's do not)."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest())


def _phase(run: str, pod: str) -> float:
    """When in an interval (0..1) the pod is read: runs are spread over it, pods over a tenth of it.

    A run's pages are meant to be of one moment, since the arms are compared over the same time.
    """
    return (_hash(run) + 0.1 * _hash(pod)) / 2**32 % 1.0
