"""Where a page that is laid out as one before has its figures: then they are taken, and nothing is parsed.

A pod's page differs from that of a second ago, and from those of its siblings, in figures alone. What comes
of it is what `reading.read` makes of it, which is asked whenever anything is unusual: a page that lacks
something, a figure that is no plain number, a histogram that goes down.

A figure seldom has a digit more than a second ago. Until then those of a pod stand where they stood, and its
page is cut there (`Cut`) in a fifth of the time that it takes to look for its lines.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import add, itemgetter, sub
from struct import Struct
from typing import Any

from analysis.evidence import CheckKind, CheckSpec
from analysis.samples import Counts, Histogram, Statistic
from controller import reading
from controller.exposition import LARGEST, Series, arranged
from controller.ports import Reading
from controller.protobuf import Found
from controller.reading import DURATION, INFERENCE, PREDICTION, REQUESTS
from controller.remembered import MIB, Remembered

LONGEST = 64 * 1024  # bytes of a page; most lines of larger ones are nobody's, and quicker skipped
REMEMBERED = 48 * MIB  # of pages whose layouts are known: 5 000 of 3 kB
OF_A_FIGURE = 150  # bytes in memory, beside what stands before it, which is there twice
MILLI = 0.001  # seconds

Key = tuple[tuple[bytes, ...], tuple[CheckSpec, ...]]
Figures = Sequence[int]
Taken = Callable[[Figures], Statistic | None]  # None: not what it should be


@dataclass(frozen=True, slots=True)
class Layout:
    """`wanted` takes the figures out of a page's that have to be numbers; the first `used` are counted.

    `between` is all else on the page: what stands before each figure.
    """

    between: tuple[bytes, ...]
    wanted: Callable[[Sequence[bytes]], tuple[bytes, ...]]
    used: int
    requests: Taken
    values: Mapping[str, Taken]
    sources: Mapping[str, str]
    took: Taken | None = None
    of: frozenset[str] = frozenset()
    sidecar: bool = False


class Known:
    """Layouts by how a page's lines begin; None of those that have to be parsed each time."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._room = Remembered(limit)
        self.layouts: dict[Key, Layout | None] = self._room.shelf()

    def learned(self, key: Key, size: int) -> Layout | None:
        """That of one more page, of so many bytes."""
        layout = _layout(*key)
        if self._room.make_room(2 * size + OF_A_FIGURE * len(key[0])):
            self.layouts[key] = layout
        return layout


_known = Known()  # pages of all runs: siblings' are alike


class Cut:
    """Where one pod's page has its figures, as it was the last time; always for the same checks."""

    __slots__ = ("_layout", "_parts", "_size")

    def __init__(self) -> None:
        self._size = 0  # of the last page, in bytes
        self._parts: Struct | None = None  # what stands before each figure, and the figure
        self._layout: Layout

    def of(self, page: bytes) -> tuple[Layout, Sequence[bytes]] | None:
        """The page's layout and its figures, if they stand where they stood."""
        if len(page) != self._size or self._parts is None:
            return None
        parts = self._parts.unpack(page)
        figures: Sequence[bytes] = parts[1::2]
        if parts[::2] != self._layout.between or len(b"".join(figures).split()) != 1:
            return None  # a line is another one, or where a figure was there is more than that
        return self._layout, figures

    def learn(self, page: bytes, layout: Layout, figures: Sequence[bytes]) -> None:
        """The next page is cut as this one is, if it is the second of its length."""
        if len(page) != self._size:
            self._size, self._parts = len(page), None
            return
        lengths = zip(map(len, layout.between), map(len, figures), strict=True)
        self._layout, self._parts = layout, Struct("".join([f"{a}s{b}s" for a, b in lengths]) + "x")


def read(
    page: bytes, checks: Sequence[CheckSpec], *, at: float, kind: str = "text/plain", cut: Cut | None = None
) -> tuple[Reading, tuple[str, ...]]:
    """As `reading.read`, in a third of its time, or with the pod's `cut` in a sixth."""
    found = None if reading.is_protobuf(kind) else taken(page, checks, at=at, cut=cut)
    return reading.read(page, checks, at=at, kind=kind) if found is None else (found, ())


def taken(page: bytes, checks: Sequence[CheckSpec], *, at: float, cut: Cut | None = None) -> Reading | None:
    """The reading of a page in text; None where it has to be parsed for that."""
    if len(page) > LONGEST or not page.endswith(b"\n") or b"# EOF" in page:
        return None
    if cut is not None and (known := cut.of(page)) is not None:
        return _taken(*known, at)
    befores, _, figures = zip(*[line.rpartition(b" ") for line in page[:-1].split(b"\n")], strict=True)
    key = befores, tuple(checks)
    try:
        layout = _known.layouts[key]
    except KeyError:
        layout = _known.learned(key, len(page))
    if layout is None:
        return None
    if cut is not None:
        cut.learn(page, layout, figures)
    return _taken(layout, figures, at)


def _taken(layout: Layout, figures: Sequence[bytes], at: float) -> Reading | None:
    wanted = layout.wanted(figures)
    if not b"".join(wanted).isdigit() or b"" in wanted:
        return None
    numbers = [*map(int, wanted[: layout.used])]
    requests = layout.requests(numbers)
    values = {name: take(numbers) for name, take in layout.values.items()}
    took = None if layout.took is None else layout.took(numbers)
    lacks = layout.took is not None and took is None
    if requests is None or lacks or None in values.values() or max(numbers) > LARGEST:
        return None
    known: Mapping[str, Any] = {"requests": requests, "values": values, "took": took, "of": layout.of}
    return Reading(at=at, sources=layout.sources, counter=REQUESTS, sidecar=layout.sidecar, **known)


def _layout(befores: tuple[bytes, ...], checks: tuple[CheckSpec, ...]) -> Layout | None:
    """That of a page whose lines begin so; None where one has to look closer each time."""
    look = reading.wanted(checks).wants
    looked_at = [place for place, before in enumerate(befores) if look(before)]
    if b"" in befores or any(_followed(befores[place]) for place in looked_at):
        return None  # a line of one word may be anything
    page = b"".join(b"%s %d\n" % (before, place) for place, before in enumerate(befores))
    try:
        found = reading.found(page, checks)
        places, values, sources = _Places(), {}, {}
        for check in checks:
            sources[check.name], values[check.name] = _TAKES[check.kind](found, check, places)
        requests = _counted(places, *reading.outcomes(found.series[REQUESTS]))
        took = _waited(found, places) if INFERENCE in sources.values() else None
    except (KeyError, ValueError):
        return None
    if len(places.all) < 2:
        return None
    others, of = (
        [place for place in looked_at if place not in places.all],
        reading.workloads(found.series[REQUESTS]),
    )
    between = b"%s " % befores[0], *(b"\n%s " % before for before in befores[1:])
    taking = itemgetter(*places.all, *others)
    of_all = between, taking, len(places.all), requests, values, sources
    return Layout(*of_all, took, of, found.sidecar)


def _followed(before: bytes) -> bool:
    """Whether the line's last word may be a timestamp or of an exemplar, and the figure stands before it."""
    return b"#" in before or (not before.endswith(b"}") and len(before.split()) > 1)


class _Places:
    """Places of figures on the page, numbered as they are asked for."""

    def __init__(self) -> None:
        self.all: list[int] = []

    def of(self, series: Sequence[Series]) -> slice:
        """Where the figures of these will be among the wanted ones."""
        first = len(self.all)
        self.all += [int(one.value) for one in series]
        return slice(first, len(self.all))


def _counted(places: _Places, every: Sequence[Series], some: Sequence[Series]) -> Taken:
    of_all, of_some = places.of(every), places.of(some)

    def taken(figures: Figures) -> Counts | None:
        n, k = sum(figures[of_all]), sum(figures[of_some])
        return Counts(n, k) if k <= n else None

    return taken


def _histogram(places: _Places, series: Sequence[Series], unit: float = 1.0) -> Taken:
    """A histogram's; `ValueError` where its label sets have not all the same buckets."""
    le, sets = arranged(tuple(one.key for one in series), unit)
    buckets = [[series[place] for _, place in one] for one, _ in sets]
    bounds = [[bound for bound, _ in one] for one, _ in sets]
    if not le or any(one != bounds[0] for one in bounds) or any(a == b for a, b in pairwise(bounds[0])):
        raise ValueError("buckets that have to be looked at")
    where = [places.of(one) for one in buckets]

    def taken(figures: Figures) -> Histogram | None:
        counts: tuple[int, ...] = ()
        for one in where:
            cumulative = figures[one]
            here = tuple(map(sub, cumulative, (0, *cumulative)))  # as far as the shorter of them goes
            if min(here) < 0:
                return None
            counts = tuple(map(add, counts, here)) if counts else here
        return Histogram(le, counts)

    return taken


def _latency(found: Found, _: CheckSpec, places: _Places) -> tuple[str, Taken]:
    own = found.series.get(f"{INFERENCE}_bucket")
    if own is not None:
        return INFERENCE, _histogram(places, own)
    return DURATION, _histogram(places, reading.received(found.series[f"{DURATION}_bucket"]), MILLI)


def _waited(found: Found, places: _Places) -> Taken | None:
    try:
        return _histogram(places, reading.received(found.series[f"{DURATION}_bucket"]), MILLI)
    except (KeyError, ValueError):
        return None


def _errors(found: Found, _: CheckSpec, places: _Places) -> tuple[str, Taken]:
    return REQUESTS, _counted(places, *reading.outcomes(reading.telling(found.series[REQUESTS])))


def _predictions(found: Found, _: CheckSpec, places: _Places) -> tuple[str, Taken]:
    return PREDICTION, _histogram(places, found.series[f"{PREDICTION}_bucket"])


def _proportion(found: Found, check: CheckSpec, places: _Places) -> tuple[str, Taken]:
    hits, trials = check.counters
    return hits, _counted(places, found.series[trials], found.series[hits])


_TAKES: Mapping[CheckKind, Callable[[Found, CheckSpec, _Places], tuple[str, Taken]]] = {
    CheckKind.LATENCY: _latency,
    CheckKind.ERROR_RATE: _errors,
    CheckKind.PREDICTIONS: _predictions,
    CheckKind.PROPORTION: _proportion,
}
