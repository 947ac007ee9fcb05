"""From readings to ticks: what each arm counted between two moments, check by check.

Readings are cumulative and every pod's page has a time of its own. A tick of a check is open from the
moment the last one closed; it closes when each arm has news, and then every pod that was there at its
beginning contributes the difference of its own two pages. Nothing is lost while a tick stays open: it
only grows, for both arms alike. That is also how a new leader goes on: it loads the cursor of the old
one, and everything since is one large tick.

Who is waited for, and how long (`Pace`):

* an arm that has pods is never left out: without any news of it the tick stays open;
* single pods without a new page are waited for one scrape interval after the first news, then the tick
  closes without them. Back within three intervals they catch up, later they start afresh;
* Istio's histograms stand still until the proxy flushes them, while its counters run. A pod whose
  requests moved and whose histogram did not is waited for two flush intervals. It loses nothing: what
  it counted is all in its next flush;
* a pod that counted more hits than trials, since it counts these late, is waited for as long.

Pods are compared in one measurement: those that are read from another series than most of stable's are left
out, and one whose series is another than before begins afresh.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from analysis.samples import Counts, Histogram, PodSample, Sample, Statistic, bounds_of, difference
from analysis.values import replace
from controller.hearing import AT_ONCE, Lag
from controller.ports import Reading
from controller.served import Load, Served, Steps, counted

LONGEST = timedelta(seconds=10)  # of a tick whose pages count; a controller that is later is out of order
UNKNOWN = ""  # of a mark that a checkpoint kept
LATCHED = "istio_"  # series of the proxy; everything else is taken to be live


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often pages are read and proxies flush; all patience is counted in these."""

    interval: timedelta = timedelta(seconds=1)  # as `scrape` reads by default
    flush: timedelta = timedelta(seconds=5)  # Envoy's stats_flush_interval by default

    def stretched(self, seconds: float) -> "Pace":
        """That of who looked so long ago: with more runs than a core can look at, ticks are longer.

        Pages are as old then as the look that they wait for was late, which is no trouble of theirs.
        """
        longer = min(timedelta(seconds=seconds), LONGEST)
        return replace(self, interval=longer) if longer > 2 * self.interval else self

    @property
    def page_patience(self) -> float:
        """Seconds that a pod without a new page is waited for; a little less than one interval.

        A pass comes once an interval, so that "one interval later" must include one that is early.
        """
        return 0.9 * self.interval.total_seconds()

    @property
    def flush_patience(self) -> float:
        """Seconds that a pod's flush is waited for."""
        return 2 * self.flush.total_seconds()

    @property
    def fresh(self) -> float:
        """Seconds for which a check's last tick can stand for now: the next may wait for a flush."""
        return max(self.stale, self.flush_patience)

    @property
    def moment(self) -> float:
        """Seconds in which a pod's count has grown twice if its page is worked out each time."""
        return 2 * self.interval.total_seconds()

    @property
    def stale(self) -> float:
        """Seconds after which a pod's old page no longer counts as its beginning of the tick.

        Two reads that failed; beyond that, its window and the others' are different times.
        """
        return 3 * self.interval.total_seconds()


@dataclass(frozen=True, slots=True)
class Mark:
    """What a pod's page at `at` said for one check, and its completed requests there, if told.

    No value: a canary's page that does not have the series yet. It is created by the first request,
    so what it says when it appears counts from zero, and a bad canary's first second is not lost.
    The `source` is which series it is; it is not saved.
    """

    at: float
    value: Statistic | None
    requests: int | None = None
    source: str = field(default=UNKNOWN, compare=False)


class High(NamedTuple):
    """What a pod had counted before its page `fell` at said less."""

    mark: Mark
    fell: float


@dataclass(frozen=True, slots=True)
class Open:
    """A check's open tick: when it began and what each pod had counted by then.

    `born` are the pods that have ever shown the check's series, also those that are too far behind to
    be in the tick. `first` is when news first came. `highs` are what pods had counted before a page said
    less: it lacks some label sets, or the process began again. A page that has all of that once more is not
    counted from one that lacked it.
    """

    start: float
    marks: Mapping[str, Mark]
    born: frozenset[str] = frozenset()
    first: float | None = None
    highs: Mapping[str, High] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Tick:
    """One closed tick of a check: what both arms counted in it, none of it before `began`."""

    check: str
    stable: Sample
    canary: Sample
    began: float = 0.0


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far one run's readings have been used. `steps` are not saved, a new leader sees for itself."""

    checks: Mapping[str, Open] = field(default_factory=dict)
    served: Mapping[str, Served] = field(default_factory=dict)  # by pod
    loads: Mapping[str, Load] = field(default_factory=dict)  # by the caller's name for the instant
    steps: Steps = field(default=Steps(), compare=False)


def advance(
    cursor: Cursor,
    readings: Mapping[str, Reading],
    *,
    stable: Mapping[str, str],
    canary: Mapping[str, str],
    now: float,
    since: Mapping[str, float] | None = None,
    pace: Pace = Pace(),
    paces: Mapping[str, Pace] | None = None,
    lag: Lag = AT_ONCE,
) -> tuple[Cursor, tuple[Tick, ...], Mapping[str, Load]]:
    """The next cursor, the ticks that closed, and the load since each instant in `since`.

    `stable` and `canary` map the names of the pods that are there now to their nodes; `now` and the
    instants are seconds since 1970, as in `Reading.at`. An instant that changed starts from zero.
    `paces` are those of checks that are read at another pace; `lag` is how long requests take.
    """
    there = stable.keys() | canary.keys()
    here = {name: reading for name, reading in readings.items() if name in there}
    checks: dict[str, Open] = {}
    ticks = []
    for check in sorted(set(cursor.checks).union(*(reading.values for reading in here.values()))):
        before = cursor.checks.get(check)
        pages = _pages(check, here, _unborn(before, canary))
        view = _View(pages, stable, canary, there, now, (paces or {}).get(check, pace))
        checks[check], tick = _follow(check, before, view)
        ticks += [tick] if tick and tick.stable.pods else []  # a canary alone proves nothing
    served, loads = counted(
        cursor.served,
        cursor.loads,
        stable={name: reading for name, reading in here.items() if name in stable},
        canary={name: reading for name, reading in here.items() if name in canary},
        since=since or {},
        stale=pace.stale,
        now=now,
        ready=canary.keys(),
        lag=lag,
    )
    # who shows no page for a while is not new when it does again: what it had completed counts once
    known = {name: mark for name, mark in cursor.served.items() if name in there}
    steps = cursor.steps.after(cursor.served, served, live=pace.moment)
    return Cursor(checks, known | served, loads, steps), tuple(ticks), loads


class _Page(NamedTuple):
    """The newest page of a pod for one check."""

    mark: Mark
    latched: bool  # stands still between the proxy's flushes


class _View(NamedTuple):
    """What one pass sees of one check; `there` are the pods of both arms."""

    pages: Mapping[str, _Page]
    stable: Mapping[str, str]
    canary: Mapping[str, str]
    there: AbstractSet[str]
    now: float
    pace: Pace


def _pages(check: str, readings: Mapping[str, Reading], unborn: Collection[str]) -> dict[str, _Page]:
    """The pages that say something of the check, be it that the series of an `unborn` pod is not there."""
    return {
        name: _Page(
            Mark(
                reading.times.get(check, reading.at),
                value,
                None if reading.requests is None else reading.requests.n,
                source := reading.sources.get(check, UNKNOWN),
            ),
            latched=isinstance(value, Histogram) and source.startswith(LATCHED),
        )
        for name, reading in readings.items()
        if (value := reading.values.get(check)) is not None
        or (name in unborn and check not in reading.sources)
    }


def _unborn(tick: Open | None, canary: Mapping[str, str]) -> Collection[str]:
    """Canary pods that have never shown the check's series."""
    return canary.keys() if tick is None else canary.keys() - tick.born


def _follow(check: str, tick: Open | None, view: _View) -> tuple[Open, Tick | None]:
    """The check's open tick after this pass, and the one that closed in it."""
    tick = _risen(_present(tick or Open(view.now, {}), view), view)
    marks, pages = tick.marks, view.pages
    if view.stable.keys().isdisjoint(marks):  # nobody to compare with: begin here
        return _next(replace(tick, marks={}), set(), view), None
    news = {name for name, mark in marks.items() if name in pages and pages[name].mark.at > mark.at}
    first = view.now if tick.first is None and news else tick.first
    odd = _odd(marks, news, view)
    whole = {name for name in news - odd if _flushed(marks[name], pages[name])}
    if first is None or _waits(marks, news, first, view, flushed=whole | odd >= news):
        return tick if first == tick.first else replace(tick, first=first), None
    closed = _closed(check, tick, news, whole, view)
    return _next(_fallen(tick, news, closed, view), news, view), closed


def _present(tick: Open, view: _View) -> Open:
    """The open tick without the pods that are gone."""
    if tick.marks.keys() <= view.there and tick.born <= view.there:  # nearly always
        return tick
    marks = {name: mark for name, mark in tick.marks.items() if name in view.there}
    highs = {name: high for name, high in tick.highs.items() if name in view.there}
    return replace(tick, marks=marks, highs=highs, born=tick.born & view.there)


def _risen(tick: Open, view: _View) -> Open:
    """The open tick, for pods that have again all that they had before a page said less.

    After one page that lacked some of it they are counted from what they had; after more of them, of which
    something was counted, they begin afresh, as who shows no page for too long does.
    """
    highs, pages = tick.highs, view.pages
    back = {name for name in highs.keys() & pages.keys() if _has(highs[name].mark, pages[name])}
    if not back:  # nearly always
        return tick
    from_high = {
        name: high.mark
        for name, high in highs.items()
        if name in back and name in tick.marks and tick.marks[name].at == high.fell
    }
    marks = {
        name: mark
        for name, mark in {**tick.marks, **from_high}.items()
        if name not in back - from_high.keys()
    }
    return replace(tick, marks=marks, highs={name: high for name, high in highs.items() if name not in back})


def _has(before: Mark, page: _Page) -> bool:
    """Whether the page says at least as much."""
    now = page.mark.value
    return before.value is not None and now is not None and difference(before.value, now) is not None


def _waits(marks: Mapping[str, Mark], news: set[str], first: float, view: _View, *, flushed: bool) -> bool:
    """Whether the tick stays open: an arm has said nothing, or a pod may still come."""
    if len(news) < len(marks):
        if any(arm.keys() & marks.keys() and not arm.keys() & news for arm in (view.stable, view.canary)):
            return True
        if view.now - first < view.pace.page_patience:
            return True
    return not flushed and view.now - first < view.pace.flush_patience


def _odd(marks: Mapping[str, Mark], news: set[str], view: _View) -> set[str]:
    """Pods with news whose series is not the one that most of stable's show, or is another than before."""
    sources = {page.mark.source for page in view.pages.values()}
    sources |= {mark.source for mark in marks.values()}
    if len(sources) == 1:  # nearly always
        return set()
    usual = usual_source(view.pages[name].mark.source for name in view.stable if name in view.pages)
    return {name for name in news if _strange(marks[name], view.pages[name].mark, usual)}


def usual_source(sources: Iterable[str]) -> str:
    """The most frequent one; of equally frequent ones always the same, the model's own before the proxy's."""
    frequency = Counter(sources)
    return max(frequency, key=lambda one: (frequency[one], one), default=UNKNOWN)


def _strange(before: Mark, now: Mark, usual: str) -> bool:
    """Whether what was counted in between is no figure of this series, as far as can be told."""
    if now.value is None or before.value is None:
        return now.source not in {usual, UNKNOWN}
    if before.source != UNKNOWN:
        return now.source != usual or now.source != before.source
    return now.source != usual or bounds_of(now.value) != bounds_of(before.value)


def _flushed(mark: Mark, page: _Page) -> bool:
    """Whether the page holds all of what happened since the mark, as far as can be told."""
    before, now = mark.value, page.mark.value
    if isinstance(before, Counts) and isinstance(now, Counts):
        return not now.k - before.k > now.n - before.n >= 0
    return not page.latched or now != before or page.mark.requests == mark.requests


def _closed(check: str, tick: Open, news: set[str], whole: set[str], view: _View) -> Tick:
    """What those with `news` say, of whom the pages of `whole` are flushed."""
    marks, pages = tick.marks, view.pages

    def sample(arm: Mapping[str, str]) -> Sample:
        parts = [
            (name, _gained(marks[name].value, pages[name].mark.value)) for name in sorted(whole & arm.keys())
        ]
        pods = tuple([PodSample(name, arm[name], value) for name, value in parts if value is not None])
        return Sample(tick.start, view.now, pods)

    began = min([marks[name].at for name in news], default=tick.start)
    return Tick(check, sample(view.stable), sample(view.canary), began=began)


def _gained(before: Statistic | None, after: Statistic | None) -> Statistic | None:
    """What was counted in between; None if the two do not belong together."""
    return after if before is None or after is None else difference(before, after)


def _fallen(tick: Open, news: set[str], closed: Tick, view: _View) -> Open:
    """The tick that remembers what those had counted whose pages say less."""
    pods = (*closed.stable.pods, *closed.canary.pods)
    if len(pods) == len(news):  # nearly always
        return tick
    told = {pod.name for pod in pods}
    fell = {
        name: High(mark, view.pages[name].mark.at)
        for name in news - told
        if _fell(mark := tick.marks[name], view.pages[name])
    }
    return replace(tick, highs={**fell, **tick.highs}) if fell else tick


def _fell(before: Mark, page: _Page) -> bool:
    """Whether the page says less of the same series than was counted before."""
    same = before.source in {UNKNOWN, page.mark.source}
    return same and None not in {before.value, page.mark.value} and not _has(before, page)


def _next(tick: Open, news: set[str], view: _View) -> Open:
    """The tick that begins now; pods that are too far behind, or unread, are not in it."""
    seen = {name: page.mark for name, page in view.pages.items() if name in news or name not in tick.marks}
    born = tick.born.union([name for name, mark in seen.items() if mark.value is not None])
    now, stale = view.now, view.pace.stale
    marks = {name: mark for name, mark in {**tick.marks, **seen}.items() if now - mark.at <= stale}
    return Open(view.now, marks, born, highs=tick.highs)
