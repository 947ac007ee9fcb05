"""Reads pods' metrics pages, all of a run's at one moment, and keeps the newest reading of each.

A pass never waits for a page: it takes what is in memory. A pod that hangs is given up after half a second
and delays nobody. What fails is counted and remembered for `explain`, never raised.

A run's pages are asked for together, since the arms are compared over the same time and a failing canary is
seen with the last of them. One timer begins the round, one ends it: a task for each page costs as much as
the page.

The target is what the pod's annotations `prometheus.io/{scheme,port,path}` say, by default
`http://POD-IP:8080/metrics`. Istio's injector points them at the sidecar's merged page on port 15020,
which is outside of mTLS. A check whose `source.scrape` names another page of the pod is read there.

A page is asked for in protobuf, in which alone there are native histograms, and read in whatever it comes.
Istio's agent up to 1.30 then glues the sidecar's protobuf to the model's text; a page that cannot be read
is asked for once more as text, and as text only from then on.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from math import ceil, floor, inf
from typing import Any

import structlog

from analysis.evidence import CheckSpec
from controller import layouts
from controller.effort import Together
from controller.model import Page, PodSeen
from controller.ports import ANNOTATED, Fetch, Reading, Trouble
from controller.readers import CROWDED, Batch, ByPage, Reader, Said, Text, Try, by_page
from controller.reading import ACCEPT, PLAIN, found, is_binary, negotiated
from controller.targets import hashed, target
from controller.tempo import MOMENTS, Beat, Moments

# Intervals for which a page that came is not read anew while its run waits for a pass, or half as long as it
# waits. A controller that has more to do than its core can spends less on pages that nobody looks at, and the
# less the later it is: else reading them would leave no time for passes.
FRESH = 1.5
# Pods of a run of which each page is read as it comes: hundreds at once would keep all other runs waiting.
MANY = 50
FEW = 20  # runs at most that each have a time of their own; more share moments (`controller.tempo`)
TOGETHER = 32  # pods that are asked in one turn of the loop, which takes it 2 ms
SPREAD = 0.1  # of an interval, over which those of a run with more are asked
GARBLED = 3  # times in a row that a page made no sense in protobuf; then it is asked for as text for good

_log = structlog.get_logger(__name__)


class Scrape:
    """`ports.MetricsSource`. Needs a running event loop; `close` ends all that is under way.

    `on_news(run)` is called when every pod of a run has been tried once more, answered or not. `overdue(run)`
    says since how many seconds the run's pass is due, 0 if it is not or has begun. `stretch(run)` says how
    many times the interval it is to be from one round to the next.
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
        self.stretch: Callable[[str], float] = _as_ever
        self._runs: dict[str, _Run] = {}
        self._together: dict[str, Together] = {}  # by namespace
        self._beat = Beat(self._interval)
        self._moments = Moments()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._alone = asyncio.Lock()

    def watch(
        self,
        run: str,
        pods: Sequence[PodSeen],
        checks: Sequence[CheckSpec],
        pages: Mapping[str, Page | None] = ANNOTATED,
    ) -> None:
        """From now on exactly these pods are read for this run; no pods ends it."""
        told = list(pods), tuple(checks), pages
        known = self._runs.get(run)
        if known is not None and known.told == told:
            return
        if known is None:
            if len(self._runs) == FEW:
                self._share()
            part = self._moments.taken() if len(self._runs) >= FEW else hashed(run) / 2**32
            known = self._runs[run] = _Run(run, self._first(part), part=part, together=self._of(run))
            self._later(known)
        known.told = told
        for name in known.readers.keys() - {pod.name for pod in pods}:
            known.forget(name)
        where = by_page(checks, pages)
        for pod in pods:
            known.look(pod, where)
        if not pods:
            known.timer.cancel()
            self._moments.left(known.part)
            del self._runs[run]

    def read(self, run: str) -> Mapping[str, Reading]:
        """Newest reading by pod name; pods that never answered are absent."""
        readers = self._readers(run)
        for one in readers.values():
            one.settle()
            one.unseen = None
        return {name: one.reading for name, one in readers.items() if one.reading is not None}

    def troubles(self, run: str) -> Mapping[str, Trouble]:
        """By pod name, what is wrong with its page now."""
        readers = self._readers(run)
        for one in readers.values():
            one.settle()
        return {name: one.trouble for name, one in readers.items() if one.trouble is not None}

    def due(self, run: str) -> float:
        """The loop's time from which on the pages were due that `on_news` tells of; only then."""
        return self._runs[run].since

    def late(self, run: str) -> float:
        """How many seconds too late that round began."""
        return self._runs[run].late

    def alarming(self, run: str) -> bool:
        """Whether many of the newest requests of one of the pods have failed."""
        readers = self._readers(run).values()
        for one in readers:
            one.settle()
        return any(one.alarming for one in readers)

    async def close(self) -> None:
        """No page is read any more."""
        for run in self._runs.values():
            run.timer.cancel()
            for name in list(run.readers):
                run.forget(name)
        self._runs.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _of(self, run: str) -> Together:
        """The account of the run's namespace; of those without a run here that owe nothing none is kept."""
        mine, here = run.partition("/")[0], {one.partition("/")[0] for one in self._runs}
        kept = {name: one for name, one in self._together.items() if name in here or not one.settled}
        self._together = kept
        return kept.setdefault(mine, Together(asyncio.get_running_loop().time))

    def _readers(self, run: str) -> Mapping[str, Reader]:
        known = self._runs.get(run)
        return {} if known is None else known.readers

    # -- rounds

    def _first(self, part: float) -> float:
        """When a first round at that part of an interval is due."""
        now, phase = asyncio.get_running_loop().time(), part * self._interval
        return phase + (floor((now - phase) / self._interval) + 1) * self._interval

    def _share(self) -> None:
        """Runs that had a time of their own have a moment from now on: alone they cost several times more."""
        for run in self._runs.values():
            if run.part not in MOMENTS:
                run.timer.cancel()
                run.part = self._moments.taken()
                run.due = run.wanted = self._first(run.part)
                self._later(run)

    def _later(self, run: "_Run") -> None:
        run.timer = asyncio.get_running_loop().call_at(run.due, self._round, run)

    def again(self, name: str, *, within: float) -> None:
        """The run's pages are read once more within so many seconds, beside its rounds."""
        run, when = self._runs.get(name), asyncio.get_running_loop().time() + within
        if run is not None and run.once_more is None and when < run.due:
            run.once_more = asyncio.get_running_loop().call_at(when, self._once_more, run, when)

    def _once_more(self, run: "_Run", due: float) -> None:
        run.once_more = None
        if self._runs.get(run.name) is run:
            self._asked(run, due, late=asyncio.get_running_loop().time() - due, step=self._interval)

    def _round(self, run: "_Run") -> None:
        """Every pod's page is asked for once more; one that nobody has looked at yet may do: see `FRESH`."""
        now, step = asyncio.get_running_loop().time(), self._interval * self.stretch(run.name)
        late = now - run.due
        wanted, run.wanted = run.wanted, run.due + step  # since when, be it that some turns were missed
        if step > self._interval:
            self._beaten(run, now, step)
        else:
            run.due += step * max(1, ceil((now - run.due) / step))
        self._later(run)
        self._asked(run, wanted, late=late, step=step)

    def _asked(self, run: "_Run", wanted: float, *, late: float, step: float) -> None:
        if wait := run.together.wait():
            for one in run.readers.values():
                one.fail(CROWDED.format(wait), self._clock().timestamp())
            return
        overdue = self.overdue(run.name)
        at, within = self._clock().timestamp() if overdue else 0.0, max(FRESH * step, overdue / 2)
        tried = [
            one
            for one in run.readers.values()
            if one.trying is None and not (overdue and one.fresh(at, within=within)) and not one.effort.wait()
        ]
        if not run.awaited:
            run.since, run.late = wanted, late
        well = {one.pod.name for one in tried if one.trouble is None}  # others may be late
        run.awaited |= well or {one.pod.name for one in tried}
        self._ask_all(run, tried, SPREAD * step * TOGETHER / max(len(tried), 1))

    def _beaten(self, run: "_Run", now: float, step: float) -> None:
        """The next round is due when its moment of an interval comes that all runs share, however long."""
        before = run.beat
        self._beat.lasts(step, now)
        run.beat, run.due = self._beat.after(now, run.part, before)
        if run.beat == before + 1:
            run.wanted = run.due

    def _ask_all(self, run: "_Run", readers: Sequence[Reader], wait: float) -> None:
        """The first of them are asked now, and those after them so many seconds later."""
        loop, batch = asyncio.get_running_loop(), Batch()
        for reader in readers[:TOGETHER]:
            if run.readers.get(reader.pod.name) is reader:
                self._ask(run, reader, batch)
        if batch.tries:
            batch.timer = loop.call_later(self._timeout, batch.cancel)
        if len(readers) > TOGETHER:
            loop.call_later(wait, self._ask_all, run, readers[TOGETHER:], wait)

    # -- one page

    def _ask(self, run: "_Run", reader: Reader, batch: Batch) -> None:
        """One more reading of the pod has begun."""
        one = reader.trying = Try(run.name, reader, batch)
        for place in range(len(reader.checks)):
            self._fetched(one, place, self._came, plain=reader.asks_for_text(place))

    def _fetched(
        self, one: Try, place: int, came: "Callable[[Try, int, asyncio.Future[Any]], None]", *, plain: bool
    ) -> None:
        """The page is asked for, and `came` hears of it."""
        reader = one.reader
        try:
            url = reader.urls.get(place) or target(reader.pod, reader.checks[place][0])
            reader.urls[place] = url
            asked = self._fetch(url, accept=PLAIN if plain else ACCEPT, limit=self._limit)
        except (OSError, ValueError) as error:
            self._said(one, place, _words(error))
            return
        future = asyncio.ensure_future(asked)
        if future is not asked:
            self._tasks.add(future)
            future.add_done_callback(self._tasks.discard)
        one.asked[place] = future
        # what `controller.pages` gives tells at once; of other futures it is heard in the loop's next round
        getattr(future, "hears", future.add_done_callback)(partial(came, one, place))

    def _came(self, one: Try, place: int, asked: "asyncio.Future[tuple[str, bytes]]") -> None:
        """A page is there, or why it could not be had.

        In text it has no native histograms, so one that was torn once is asked for in protobuf again.
        """
        if (said := self._trouble(one, asked)) is not None:
            self._said(one, place, said)
        elif not one.over:
            kind, page = asked.result()
            reader, (which, _) = one.reader, one.reader.checks[place]
            if reader.asks_for_text(place) or not is_binary(page, kind=kind):
                reader.garbled.pop(which, None)
                self._said(one, place, Text(kind, page))
                return
            if len(page) <= layouts.LONGEST:
                self._negotiated(one, place, page, kind)
            else:
                self._task(self._alone_negotiated(one, place, page, kind))

    def _negotiated(self, one: Try, place: int, page: bytes, kind: str) -> None:
        """A page in protobuf is read at once: in it there is nothing to be known again."""
        reader, (which, checks) = one.reader, one.reader.checks[place]
        if wait := reader.effort.together.wait():
            self._said(one, place, CROWDED.format(wait))
            return
        begun = reader.effort.begun(len(page))
        try:
            read = negotiated(page, checks, kind=kind)
        except Exception as error:  # noqa: BLE001 - whatever it holds, the pod is asked again
            self._fetched(one, place, partial(self._came_as_text, _words(error)), plain=True)
        else:
            reader.garbled.pop(which, None)
            self._said(one, place, read)
        finally:
            reader.effort.done(begun)

    async def _alone_negotiated(self, one: Try, place: int, page: bytes, kind: str) -> None:
        """A large one is, and then all else has its turn."""
        async with self._alone:
            if not one.over:
                self._negotiated(one, place, page, kind)
                await asyncio.sleep(0)

    def _came_as_text(
        self, why: str, one: Try, place: int, asked: "asyncio.Future[tuple[str, bytes]]"
    ) -> None:
        """The same of a page that made no sense in protobuf."""
        said: Said | None = self._trouble(one, asked)
        if one.over:
            return
        reader, (page, checks) = one.reader, one.reader.checks[place]
        if said is None:
            try:
                kind, text = asked.result()
                said = found(text, checks, kind=kind)
                reader.garbled[page] += 1
                if reader.garbled[page] == GARBLED:
                    _log.debug("page_read_as_text", pod=reader.pod.name, why=why)
                    reader.plain.add(page)
            except Exception as error:  # noqa: BLE001 - as before
                said = _words(error)
        if isinstance(said, str) and not asked.cancelled():
            said = f"{why}; asked for as text: {said}"
        self._said(one, place, said)

    def _trouble(self, one: Try, asked: "asyncio.Future[tuple[str, bytes]]") -> str | None:
        """In words why the page could not be had; None if it could, or nobody wants it any more."""
        if asked.cancelled():
            return None if one.over else f"no answer within {self._timeout:g} s"
        error = asked.exception()
        if error is None or one.over:
            return None
        return f"no answer within {self._timeout:g} s" if isinstance(error, TimeoutError) else _words(error)

    def _said(self, one: Try, place: int, said: Said) -> None:
        """One of the pod's pages has said this; with the last of them it has been read."""
        one.said[place] = said
        one.left -= 1
        if one.left:
            return
        at = self._clock().timestamp()
        if any(isinstance(page, Text) and len(page.page) > layouts.LONGEST for page in one.said):
            self._task(self._alone_taken(one, at))
            return
        one.reader.take(one.said, at)
        self._over(one)

    def _task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _alone_taken(self, one: Try, at: float) -> None:
        """One large page is parsed, then all else has its turn, the Lease's renewal too."""
        async with self._alone:
            if not one.over:
                one.reader.take(one.said, at)
                one.reader.settle()
                await asyncio.sleep(0)
        self._over(one)

    def _over(self, one: Try) -> None:
        """The pod has been tried; `on_news` is called if it was the last of its round."""
        run, reader = self._runs.get(one.run), one.reader
        if one.over or run is None:
            return
        one.over, reader.trying = True, None
        one.batch.ended(one)
        if len(run.readers) > MANY:
            reader.settle()
        if reader.pod.name in run.awaited:
            run.awaited.discard(reader.pod.name)
            if not run.awaited:
                self.on_news(run.name)


Told = tuple[list[PodSeen], tuple[CheckSpec, ...], Mapping[str, Page | None]]


class _Run:
    """The pods that are read for one run, and its round: `awaited` are those without which it is not over.

    `due`: the loop's time of its next round; `wanted`: since when that one is, be it that turns were missed;
    `since`: the same of the round that is under way, which began so many seconds too `late`. `part` of an
    interval at which its rounds begin, and the `beat` that the next one is of where intervals are longer.
    """

    def __init__(self, name: str, due: float, *, part: float, together: Together) -> None:
        self.name = name
        self.together = together
        self.part, self.beat = part, -inf
        self.due = self.wanted = self.since = due
        self.late = 0.0
        self.told: Told | None = None
        self.readers: dict[str, Reader] = {}
        self.awaited: set[str] = set()
        self.timer: asyncio.TimerHandle
        self.once_more: asyncio.TimerHandle | None = None

    def look(self, pod: PodSeen, checks: ByPage) -> None:
        """The pod is read as it is now; what was read of it before is not lost."""
        known = self.readers.get(pod.name)
        if known is not None and known.reads(pod, checks):
            return
        reader = Reader(pod, checks, self.together)
        if known is not None:
            self.forget(pod.name)
            if known.pod.ip == pod.ip:
                reader.knows(known)
        self.readers[pod.name] = reader
        for one in self.readers.values():
            one.effort.shared(len(self.readers))

    def forget(self, name: str) -> None:
        """It is read no more."""
        reader = self.readers.pop(name)
        self.awaited.discard(name)
        if reader.trying is not None:
            reader.trying.over = True
            reader.trying.cancel()


def _nobody(_run: str) -> None:
    """Nobody waits for news."""


def _never(_run: str) -> float:
    return 0.0


def _as_ever(_run: str) -> float:
    return 1.0


def _words(error: Exception | BaseException) -> str:
    return str(error) or repr(error)
