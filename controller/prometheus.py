"""Asks a Prometheus what it has scraped of a run's pods, and keeps the newest reading of each.

The counters are those of the pods' pages, read where they stand and differenced by us. Each round of a run
asks every query for one and the same instant, for both arms alike: Prometheus' own now, whatever time it is
here. A pod's reading is as old as its last scrape, which Prometheus tells, so a round that found nothing new
is no news.

The client is synchronous. A round is one job of a small pool of threads, takes a bounded time, and a run
has one at most; a Prometheus that hangs costs threads that do nothing else, and the event loop never waits
for them. What fails is remembered for `explain`, never raised. Whatever cannot be read, an answer that is
empty, in part, or not a number, was not read: it is no zero.
"""

import asyncio
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, TypeVar
from zlib import crc32

import requests
import structlog
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from analysis.evidence import CheckKind, CheckSpec
from controller.explain import legible
from controller.exposition import Series
from controller.falls import Falls
from controller.model import Page, PodSeen
from controller.ports import ANNOTATED, Reading, Trouble
from controller.protobuf import Found
from controller.queries import (
    Last,
    Target,
    Unanswered,
    Unreadable,
    by_target,
    instant,
    is_time,
    last,
    mixed,
    query,
    scrapes,
)
from controller.reading import DURATION, INFERENCE, PREDICTION, REQUESTS, understood

Json = Any

THREADS = 8  # rounds at once; a dead Prometheus makes as many threads wait
PATIENT = 30.0  # the same where people wait for an answer, about much of the past
TIMEOUT = 5.0  # seconds that a round may take, all queries together; they take 0.05
CONNECT = 1.5  # of which to be connected; a server that is near is, or never will be
LARGEST = 8 * 1024 * 1024  # bytes of an answer; 40 pods with 100 buckets each make 0.6 MB
ROUNDS = 5  # in an interval of Prometheus' own scraping: how late we hear is a fifth of it at most
MOMENT = 1.0  # seconds that two clocks may be apart and count as one
# Seconds after a scrape in which some of it may still be to come, where a storage gets it over several
# connections: each sends what it has after 5 s at the latest. Whose series differ for longer are read as they
# are: replicas that are deduplicated series by series are of two times for minutes, and faults must not wait.
SETTLED = 6.0
STALE = 3  # intervals without a scrape, as `ticks.Pace.stale` counts them

_ALWAYS = (REQUESTS, f"{INFERENCE}_count")
_WANTED: Mapping[CheckKind, tuple[str, ...]] = {
    CheckKind.LATENCY: (f"{INFERENCE}_bucket", f"{DURATION}_bucket"),
    CheckKind.ERROR_RATE: (),
    CheckKind.PREDICTIONS: (f"{PREDICTION}_bucket",),
    CheckKind.PROPORTION: (),  # but the counters that its check names
}

_log = structlog.get_logger(__name__)

Meant = TypeVar("Meant")


class Prometheus:
    """`ports.MetricsSource`. Needs a running event loop; `close` ends all rounds.

    `interval` is how often Prometheus scrapes the pods, `rounds` how often it is asked meanwhile. It is asked
    what it knows now, by its own clock, and readings are in times of `clock`: the two may differ by any time.
    `on_news(run)` is called after each round.
    """

    def __init__(
        self,
        url: str,
        clock: Callable[[], datetime],
        *,
        interval: timedelta = timedelta(seconds=15),
        rounds: int = ROUNDS,
        timeout: float = TIMEOUT,
    ) -> None:
        self._server = _Server(url.rstrip("/"), interval=interval.total_seconds(), timeout=timeout)
        self._clock = clock
        self._ahead = 0.0  # s that our clock is of Prometheus', if more than a moment
        self._every = interval.total_seconds() / rounds
        # A round gives up by itself when its time is over; before, it may have waited for a thread.
        self._patience = 2 * timeout
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="prometheus")
        self.on_news: Callable[[str], None] = lambda _run: None
        self._runs: dict[str, _Watched] = {}

    def watch(
        self,
        run: str,
        pods: Sequence[PodSeen],
        checks: Sequence[CheckSpec],
        pages: Mapping[str, Page | None] = ANNOTATED,
    ) -> None:
        """From now on exactly these pods are asked for, for this run; no pods ends it."""
        del pages  # they are the pods' own
        watched = self._runs.get(run)
        if watched is None:
            watched = self._runs[run] = _Watched()
        watched.about([pod.name for pod in pods], checks)
        if not pods:
            self._runs.pop(run).stop()
        elif watched.task is None or watched.task.done():
            watched.task = asyncio.create_task(self._follow(run, watched), name=f"prometheus {run}")

    def read(self, run: str) -> Mapping[str, Reading]:
        """Newest reading by pod name; pods that were never scraped are absent."""
        watched = self._runs.get(run)
        return {} if watched is None else dict(watched.readings)

    def troubles(self, run: str) -> Mapping[str, Trouble]:
        """By pod name, what keeps it from being read now."""
        watched = self._runs.get(run)
        return {} if watched is None else dict(watched.troubles)

    async def close(self) -> None:
        """Nothing is asked any more; threads that still wait for an answer end within its time-out."""
        tasks = [watched.stop() for watched in self._runs.values()]
        self._runs.clear()
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._server.close()

    async def _follow(self, run: str, watched: "_Watched") -> None:
        """A round every so often, for ever; those of different runs are spread over the time between."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(crc32(run.encode()) / 2**32 * self._every)
        while True:
            due = loop.time() + self._every
            await self._round(run, watched)
            self.on_news(run)
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _round(self, run: str, watched: "_Watched") -> None:
        """One more reading of each pod, or one more trouble."""
        asked = _Asked(run.partition("/")[0], watched.pods, watched.checks)
        began = self._clock().timestamp()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._patience):
                said = await loop.run_in_executor(self._pool, self._server.answer, asked)
        except TimeoutError:
            why = f"{self._server} did not answer within {self._patience:g} s; {self._server.away}"
            watched.fail(why, began)
        except Unanswered as error:
            watched.fail(str(error), began)
        else:
            self._seen(said.at, began=began, ended=self._clock().timestamp())
            watched.take(said.pods, began, ahead=self._ahead)

    def _seen(self, at: float, *, began: float, ended: float) -> None:
        """How far the clocks are apart, if it was `at` there at some time meanwhile.

        As it was, while that may be: a page must not look new because a round took longer than another.
        """
        least, most = began - at, ended - at
        if not least - MOMENT <= self._ahead <= most + MOMENT:
            self._ahead = min(max(self._ahead, least), most)


class Past:
    """The same Prometheus, asked for what it knew at instants of the past. Waits for each answer."""

    def __init__(self, url: str, *, interval: float = 15.0, timeout: float = PATIENT) -> None:
        self._server = _Server(url.rstrip("/"), interval=interval, timeout=timeout, setting="--prometheus")

    def __str__(self) -> str:
        return str(self._server)

    def pods(self, namespace: str, pattern: str, *, start: float, end: float) -> Mapping[str, float]:
        """The pods that were scraped meanwhile and match, each with its number of scrapes; `Unanswered`."""
        found = self._server.scrapes(namespace, pattern, start=start, end=end)
        return {pod: count for pod, count in found.items() if pod}

    def readings(
        self, namespace: str, pods: Sequence[str], checks: Sequence[CheckSpec], *, at: float
    ) -> tuple[Mapping[str, Reading], Sequence[str]]:
        """What was known of each pod at `at`, and what is wrong with it in words; raises `Unanswered`."""
        said = self._server.answer(_Asked(namespace, tuple(pods), tuple(checks), at)).pods
        found = {pod: reading for pod, (reading, _) in said.items() if reading is not None}
        return found, [f"{pod}: {what}" for pod, (_, wrong) in said.items() for what in wrong]

    def close(self) -> None:
        """Idle connections are closed."""
        self._server.close()


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one round asks: for these pods and checks, at the instant `at`, or now by Prometheus' clock."""

    namespace: str
    pods: tuple[str, ...]
    checks: tuple[CheckSpec, ...]
    at: float | None = None

    @property
    def series(self) -> tuple[str, ...]:
        """The names of all series that are wanted, each once."""
        wanted = (name for check in self.checks for name in (*_WANTED[check.kind], *check.counters))
        return tuple(dict.fromkeys([*_ALWAYS, *wanted]))


_Series = Mapping[str, Mapping[Target, list[Series]]]  # by pod and target
_Pods = Mapping[str, tuple[Reading | None, Sequence[str]]]  # by pod, its reading if scraped; what is wrong


@dataclass(frozen=True, slots=True)
class _Said:
    """What was known of each pod at the instant `at`, by Prometheus' clock."""

    at: float
    pods: _Pods


@dataclass(slots=True)
class _Watched:
    """The pods of one run, and what is known of them."""

    pods: tuple[str, ...] = ()
    checks: tuple[CheckSpec, ...] = ()
    readings: dict[str, Reading] = field(default_factory=dict)
    scraped: dict[str, float] = field(default_factory=dict)  # when these were, by Prometheus' clock
    troubles: dict[str, Trouble] = field(default_factory=dict)
    falls: dict[str, Falls] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    def about(self, pods: Sequence[str], checks: Sequence[CheckSpec]) -> None:
        """It is about these now; of others nothing is known."""
        self.pods, self.checks = tuple(pods), tuple(checks)
        for known in (self.readings, self.scraped, self.troubles, self.falls):
            for gone in known.keys() - set(pods):
                del known[gone]

    def stop(self) -> asyncio.Task[None] | None:
        """No round follows."""
        if self.task is not None:
            self.task.cancel()
        return self.task

    def take(self, said: _Pods, at: float, *, ahead: float = 0.0) -> None:
        """What a round brought, as far as the pods are still there. No reading is older than the last.

        Times are `ahead` of Prometheus', or more, so that they go forward as much as its own.
        """
        for pod in said.keys() & set(self.pods):
            reading, wrong = said[pod]
            last = self.scraped.get(pod)
            if reading is not None and (last is None or reading.at >= last):
                kept, falling = self.falls.setdefault(pod, Falls()).look(reading)
                wrong = (*wrong, *falling)
                if kept is not None:
                    by = ahead if last is None else max(ahead, self.readings[pod].at - last)
                    self.readings[pod], self.scraped[pod] = _later(kept, by), kept.at
            if wrong:
                self._trouble(pod, "; ".join(wrong), at)
            else:
                self.troubles.pop(pod, None)

    def fail(self, what: str, at: float) -> None:
        """A round brought nothing; the first of a row is logged."""
        if not self.troubles:
            _log.debug("prometheus_not_read", why=what)
        for pod in self.pods:
            self._trouble(pod, what, at)

    def _trouble(self, pod: str, what: str, at: float) -> None:
        before = self.troubles.get(pod) or Trouble(since=at, failures=0, what="")
        self.troubles[pod] = Trouble(since=before.since, failures=before.failures + 1, what=legible(what))


def _later(reading: Reading, by: float) -> Reading:
    times = {check: at + by for check, at in reading.times.items()}
    return replace(reading, at=reading.at + by, times=times) if by else reading


# -- in a thread -----------------------------------------------------------------------------------


class _Server:
    """The Prometheus at `url`. Called from many threads; each call takes `timeout` seconds at most."""

    def __init__(
        self, url: str, *, interval: float, timeout: float, setting: str = "SERIN_PROMETHEUS_URL"
    ) -> None:
        self._url = url
        self._setting = setting  # where people have the address from
        self._interval = interval
        self._timeout = timeout
        self._session = session = requests.Session()
        session.max_redirects = 0  # a redirect is an answer, not an order
        session.headers["Accept-Encoding"] = "identity"  # near enough; and what is small stays small
        session.hooks["response"].append(self._complete)
        self._client = PrometheusConnect(url=url, session=session, retry=0)
        # The client has just put an adapter of its own there, without regard for the session's: this one
        # has a connection for each thread, and tries nothing twice.
        session.mount(url, HTTPAdapter(pool_connections=1, pool_maxsize=THREADS, max_retries=0))

    def __str__(self) -> str:
        return f"Prometheus {self._url}"

    @property
    def away(self) -> str:
        """What to do if it does not answer."""
        return AWAY.format(self._setting)

    def close(self) -> None:
        """Idle connections are closed."""
        self._session.close()

    def answer(self, asked: _Asked) -> _Said:
        """What is known of each pod at the instant that is asked for; raises `Unanswered`.

        Nothing of a pod whose scrape came in between: it had begun before that instant, so some of the
        answers would have it and some not. Nor of one whose scrape may have come in part so far.
        """
        ends = monotonic() + self._timeout
        at = self._now(ends) if asked.at is None else asked.at
        scraped = self._scraped(asked, at, ends)
        found = {name: self._ask(name, asked, at, ends) for name in asked.series}
        mixed_ = {pod for name in asked.series for pod in self._mixed(name, asked, at, ends)}
        fresh = at - min(SETTLED, self._interval / 2)
        partly = {
            pod for pod in mixed_ if fresh < max(filter(is_time, scraped.get(pod, {}).values()), default=0)
        }
        still = self._scraped(asked, at, ends)
        whole = (pod for pod in asked.pods if scraped.get(pod) == still.get(pod) and pod not in partly)
        pods = {pod: self._of(pod, scraped.get(pod, {}), found, asked.checks, at) for pod in whole}
        return _Said(at, pods)

    def _now(self, ends: float) -> float:
        """What time it is there, seconds since 1970."""
        return self._said("time", "time()", instant, at=None, ends=ends)

    def _scraped(self, asked: _Asked, at: float, ends: float) -> Mapping[str, Mapping[Target, Last]]:
        """When each target of each pod was scraped last, or by which labels it is there more than once."""
        found = self._ask("up", asked, at, ends)
        return {
            pod: {target: last(series) for target, series in targets.items()}
            for pod, targets in found.items()
        }

    def scrapes(self, namespace: str, pattern: str, *, start: float, end: float) -> Mapping[str, float]:
        """How often each pod that matches was scraped meanwhile, by the target that was most often."""
        text = scrapes(namespace, pattern, seconds=end - start)
        found = self._said("pods", text, by_target, at=end, ends=monotonic() + self._timeout)
        return {
            pod: max(one.value for series in targets.values() for one in series)
            for pod, targets in found.items()
        }

    def _ask(self, name: str, asked: _Asked, at: float, ends: float) -> _Series:
        """The series of that name; raises `Unanswered`."""
        return self._said(name, query(name, asked.namespace, asked.pods), by_target, at=at, ends=ends)

    def _mixed(self, name: str, asked: _Asked, at: float, ends: float) -> Collection[str]:
        """Pods whose series of that name are of several scrapes at once; raises `Unanswered`."""
        return self._said(name, mixed(name, asked.namespace, asked.pods), by_target, at=at, ends=ends)

    def _said(
        self, name: str, text: str, read: Callable[[Json], Meant], *, at: float | None, ends: float
    ) -> Meant:
        """What the query `text`, called `name`, finds at `at` (None: now), as `read`; raises `Unanswered`."""
        when = {} if at is None else {"time": f"{at:.3f}"}
        try:
            return read(self._client.custom_query(text, params=when, timeout=self._left(ends)))
        except Unanswered:
            raise
        except PrometheusApiClientException as error:
            kind = Unreadable if "Code 400 " in str(error) else Unanswered
            raise kind(f"{self} refused query {name}: {_short(error)}; {REFUSED}") from error
        except _STRANGE as error:
            why = f"answered query {name} with something else: {_short(repr(error))}"
            raise Unanswered(f"{self} {why}; {OTHER.format(self._setting)}") from error
        except (requests.RequestException, HTTPError) as error:
            raise Unanswered(f"{self} did not answer query {name}: {_short(error)}; {self.away}") from error

    def _left(self, ends: float) -> tuple[float, float]:
        """The time-outs for connecting and for reading that are left of the round's time."""
        left = ends - monotonic()
        if left <= 0:
            raise requests.Timeout(f"{self._timeout:g} s were not enough for all queries")
        connect = min(CONNECT, left / 2)
        return connect, left - connect

    def _complete(self, response: requests.Response, *_: Any, timeout: Json = None, **__: Any) -> None:
        """The response has its whole body: it came in time, is not too large, and is not in part.

        The time-out of a request begins anew with every byte, this one does not.
        """
        body = io.BytesIO()
        ends = monotonic() + sum(timeout) - response.elapsed.total_seconds()
        while part := response.raw.read1(64 * 1024, decode_content=True):
            body.write(part)
            if body.tell() > LARGEST or monotonic() > ends:
                response.close()
                why = "too slow" if body.tell() <= LARGEST else f"more than {LARGEST} bytes"
                raise requests.ConnectionError(f"the answer is {why}")
        if response.status_code == 200:
            self._whole(body.getvalue())
        body.seek(0)
        response.raw = body

    def _whole(self, body: bytes) -> None:
        """Raises `Unanswered` where the server says that it has not all, as Thanos does when a store is away.

        The client does not pass that on. Sums of a part of the series are smaller than they were, and would
        be counted anew when the rest is back. VictoriaMetrics has a field of its own for it.
        """
        if b'"warnings"' not in body and b'"isPartial"' not in body:
            return
        said = json.loads(body)
        if why := said.get("warnings") or (said.get("isPartial") and "isPartial"):
            raise Unanswered(f"{self} answered in part, which is not used: {_short(why)}; {PARTIAL}")

    def _of(
        self,
        pod: str,
        said: Mapping[Target, Last],
        found: Mapping[str, _Series],
        checks: Sequence[CheckSpec],
        now: float,
    ) -> tuple[Reading | None, Sequence[str]]:
        """The pod's reading, and what is wrong with it."""
        scraped = {target: last for target, last in said.items() if not isinstance(last, str)}
        if said and not scraped:
            return None, (
                f"{self} has the pod's scrapes more than once ({min(said.values(), key=str)}); {TWICE}",
            )
        if not scraped:
            return None, (f"{self} has not scraped the pod (query up finds nothing); {UNSCRAPED}",)
        chosen = dict(_chosen(scraped, {name: pods.get(pod, {}) for name, pods in found.items()}))
        series = {name: one for name, (_, one) in chosen.items()}
        at = next((chosen[name][0] for name in _ALWAYS if name in chosen), max(scraped.values()))
        reading, wrong = understood(Found(series), checks, at=at, where=f"in {self}")
        times = {
            check: chosen[name][0]
            for check, family in reading.sources.items()
            for name in (family, f"{family}_bucket")
            if name in chosen
        }
        late = now - at
        if late > STALE * self._interval:
            wrong = (*wrong, f"{self} scraped the pod {late:.0f} s ago and not since; {LATE}")
        return replace(reading, times=times), wrong


AWAY = "see that it runs and can be reached from here, or correct {}"
OTHER = "let {} be the address under which /api/v1/query is a Prometheus'"
REFUSED = "ask it by hand what it has against it; the queries are in controller/queries.toml"
PARTIAL = "see to what it warns of (isPartial: that each vmstorage can be reached)"
UNSCRAPED = 'let it scrape the pod, with the labels "namespace" and "pod" on what it scrapes'
TWICE = "each request would count as often; let it deduplicate its replicas, or scrape the pod once"
LATE = "let SERIN_PROMETHEUS_INTERVAL be its scrape_interval"

# What reading an answer raises that is no answer of a Prometheus'; some of it is a RequestException as well.
_STRANGE = (
    *(ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError),
    requests.TooManyRedirects,
)


def _chosen(
    scraped: Mapping[Target, float], found: Mapping[str, Mapping[Target, list[Series]]]
) -> Iterator[tuple[str, tuple[float, list[Series]]]]:
    """For each name the series of one target, and when it was scraped: always the first that has any."""
    for name, targets in found.items():
        target = min(targets.keys() & scraped.keys(), default=None)
        if target is not None:
            yield name, (scraped[target], targets[target])


def _short(said: object) -> str:
    """What was said, in a line; of a connection that was not made its cause alone."""
    if isinstance(said, BaseException) and "Connection refused" in str(said):
        return "connection refused"
    return " ".join(str(said).split())[:200]
