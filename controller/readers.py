"""One pod as it is read for one run: the pages that came, and what they say once somebody wants to know."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from analysis.evidence import CheckSpec
from analysis.grids import shared
from analysis.samples import Histogram
from controller import layouts
from controller.effort import Effort, Together
from controller.explain import legible
from controller.falls import Falls
from controller.model import Page, PodSeen
from controller.ports import UNREAD, Reading, Trouble
from controller.protobuf import Found
from controller.reading import understood

# Of a pod's new requests this part, and so many, have failed: whoever looks at its run does so first.
ALARMING, SOME = 0.25, 3
CROWDED = "pages of its namespace take long to read, so none is for {:.0f} s; filter them"
UNEXPECTED = "the page cannot be read; please report it, with this"

_log = structlog.get_logger(__name__)

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
class Text:
    """A page that came, and is read when somebody wants to know: a pass, of which a page may see none."""

    kind: str
    page: bytes

    def read(self, checks: Sequence[CheckSpec], at: float, cut: layouts.Cut) -> "Read":
        """Its reading, and what is wrong with it; `ValueError` if the page as a whole cannot be read."""
        return layouts.read(self.page, checks, at=at, kind=self.kind, cut=cut)


Said = Found | Text | str  # of a page: what it holds, itself, or in words why it could not be had


class Reader:
    """One pod as it is read for one run."""

    def __init__(self, pod: PodSeen, checks: ByPage, together: Together | None = None) -> None:
        self.pod = pod
        self.checks = checks
        self.plain: set[Page] = set()  # pages that are asked for as text
        self.garbled: Counter[Page] = Counter()  # how often in a row each made no sense otherwise
        self.reading: Reading | None = None
        self.trouble: Trouble | None = None
        self.falls = Falls()
        self.alarming = False
        self.effort = Effort(asyncio.get_running_loop().time, together)
        self.unseen: float | None = None  # when the page came that no pass has asked for
        self.urls: dict[int, str] = {}  # of its pages, by their places
        self.trying: Try | None = None  # what is under way
        self._unread: tuple[Sequence[Said], float] | None = None
        self._cuts = [layouts.Cut() for _ in checks]

    def reads(self, pod: PodSeen, checks: ByPage) -> bool:
        """Whether this still is the pod, at the same address, read for the same checks."""
        return (self.pod.ip, self.pod.annotations, self.checks) == (pod.ip, pod.annotations, checks)

    def asks_for_text(self, place: int) -> bool:
        """Whether this page is not asked for in protobuf any more."""
        return bool(self.plain) and self.checks[place][0] in self.plain

    def knows(self, other: "Reader") -> None:
        """What another read of the same pod is not lost."""
        other.settle()
        self.reading, self.plain, self.garbled = other.reading, other.plain, other.garbled
        self.effort, self.falls = other.effort, other.falls

    def take(self, said: Sequence[Said], at: float) -> None:
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
        if (wait := self.effort.together.wait()) and any(isinstance(page, Text) for page in said):
            self.fail(CROWDED.format(wait), at)
            return
        begun = self.effort.begun(sum(len(page.page) for page in said if isinstance(page, Text)))
        at = max(at, self.reading.at + 0.001) if self.reading else at
        readings: list[Reading | None] = []
        wrong: list[str] = []
        for page, (_, checks), cut in zip(said, self.checks, self._cuts, strict=True):
            reading, complaints = _read(page, checks, at, cut)
            readings.append(reading)
            wrong += complaints
        if readings[0] is not None and (why := _anothers(self.reading, readings[0])):
            wrong.append(why)
        elif readings[0] is not None:
            others = zip(readings[1:], self.checks[1:], strict=True)
            wrong += self._taken(
                together(readings[0], [one or _unread(checks, at) for one, (_, checks) in others])
            )
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
            before, self.reading = self.reading, _remembering(self.reading, kept)
            self.alarming = _alarming(before, kept)
            yield from _other_buckets(before, kept)

    def fail(self, what: str, at: float) -> None:
        """One more failure is remembered; the first of a row is logged."""
        what = legible(what)
        if self.trouble is None:
            _log.debug("page_not_read", pod=self.pod.name, ip=self.pod.ip, why=what)
        before = self.trouble or Trouble(since=at, failures=0, what="")
        self.trouble = Trouble(since=before.since, failures=before.failures + 1, what=what)


Read = tuple[Reading | None, Sequence[str]]  # a reading if there is a page, and what is wrong with it


def _read(page: Said, checks: Sequence[CheckSpec], at: float, cut: layouts.Cut) -> Read:
    """Never raises: one page costs neither a pass nor the pod's next page."""
    if isinstance(page, str):
        return None, (page,)
    try:
        return page.read(checks, at, cut) if isinstance(page, Text) else understood(page, checks, at=at)
    except ValueError as error:
        return None, (str(error) or repr(error),)
    except Exception as error:  # noqa: BLE001 - what people's pages may hold that nobody thought of
        return None, (f"{UNEXPECTED}: {error!r}",)


def _anothers(before: Reading | None, now: Reading) -> str:
    """Why this is the page of another pod, which has its address now; empty if it is not, or nobody can tell.

    A pod that is gone may be in our index while the API server is away, and its address in use again.
    """
    if before is None or not before.of or not now.of or before.of & now.of:
        return ""
    was, found = (", ".join(sorted(one.of)) for one in (before, now))
    return f"its page is one of {found} now, not of {was}: another pod may have its address"


def _remembering(before: Reading | None, now: Reading) -> Reading:
    """The reading, and whose page it last was: one that has served nothing yet does not say."""
    return now if before is None or now.of else replace(now, of=before.of)


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


def _unread(checks: Sequence[CheckSpec], at: float) -> Reading:
    """That of a page that could not be had: its checks may well be there."""
    return Reading(at=at, requests=None, sources=dict.fromkeys((check.name for check in checks), UNREAD))


def together(first: Reading, others: Iterable[Reading]) -> Reading:
    """With the checks that were read from other pages."""
    for other in others:
        values, sources = {**first.values, **other.values}, {**first.sources, **other.sources}
        first = replace(first, values=values, sources=sources, took=first.took or other.took)
    return first


class Batch:
    """Those that were asked in one moment and have not answered; who has not after a while is given up."""

    __slots__ = ("timer", "tries")

    def __init__(self) -> None:
        self.tries: set[Try] = set()
        self.timer: asyncio.TimerHandle | None = None

    def ended(self, one: "Try") -> None:
        """It is over; nobody looks at the time after the last one."""
        self.tries.discard(one)
        if not self.tries and self.timer is not None:
            self.timer.cancel()

    def cancel(self) -> None:
        """What has not come by now does not come."""
        for one in [*self.tries]:  # who hears of it at once is none of them any more
            one.cancel()


class Try:
    """One more reading of a pod: what each of its pages said, as they come."""

    __slots__ = ("asked", "batch", "left", "over", "reader", "run", "said")

    def __init__(self, run: str, reader: Reader, batch: Batch) -> None:
        self.run = run
        self.reader = reader
        self.batch = batch
        self.left = len(reader.checks)
        self.said: list[Said] = [""] * self.left
        self.asked: dict[int, asyncio.Future[tuple[str, bytes]]] = {}
        self.over = False  # nobody waits for it any more
        batch.tries.add(self)

    def cancel(self) -> None:
        """What has not come by now does not come."""
        for asked in [*self.asked.values()]:
            asked.cancel()
