"""The few series that are wanted out of a metrics page, in Prometheus's text format or OpenMetrics.

A page may hold thousands of series of which a check needs a dozen, every second, from many pods: lines
of other series are skipped by how they begin and never parsed. All of a line but its figure repeats from page
to page and from pod to pod, so it is parsed once and remembered, as is the order of a histogram's buckets.

What is wanted must be right: a line of a wanted series that cannot be read raises `ValueError`, as does
a page that ends in the middle of a line, since the last figure may have lost its last digits. So does a page
of a great many small parts: nothing else is done while one is read, and no timeout ends that.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

from analysis.samples import Histogram
from controller.remembered import OF_A_BUCKET, OF_A_LABEL, OF_A_LINE, OF_A_PAIR, PAGES

# Wanted series on one page. Istio's duration histogram has 20 lines for each source and response code,
# so this is 500 of them; at about 2 us a line it is a fiftieth of a second.
MOST_SERIES = 10_000
MOST_LINES = 50_000  # of a page, whoever's they are: of 2 MiB, if they have 42 bytes each
# Labels, and lines, that are read as nobody has read them before: 2 000 lines of a sidecar's, at 40 us each.
# What was read is remembered, so a larger page is read in some seconds; one of new labels every time never.
MOST_NEW = 50_000
MOST_LABELS = 48  # of one series; a sidecar's have 26
LONGEST_LINE = 4096  # bytes that are remembered; MOST_NEW is enough for as many of longer ones as a page has
LONGEST_NUMBER = 400  # digits of a figure or a bound
LARGEST = 2.0**53  # counters above it are no longer exact

# How the names begin that a sidecar shows from its start, before it has had a request.
SIDECARS = b"envoy_", b"istio_build"

Labels = Mapping[str, str]
# No exporter writes these into text; a sidecar's agent that glues protobuf and text together does.
BINARY = bytes({*range(0x20)} - {*b"\t\n\r"})

_PAIR = re.compile(rb'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\\n]++|\\.)*+)"\s*')
_ESCAPE = re.compile(r"\\(.)")
_PLAIN = {"n": "\n", '"': '"', "\\": "\\"}
_NUMBER = re.compile(rb"[+-]?(?:[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+\.|[iI]nf(?:inity)?|[nN]a[nN])")
# After the labels: the value, perhaps a timestamp, perhaps an exemplar; only the value is used.
_REST = re.compile(rb"[ \t]+([^\s#]+)(?:[ \t]+[-+0-9.eE]+)?[ \t]*(?:#[ \t]*\{.*)?\r?")
_EOF = re.compile(rb"# EOF[ \t]*\r?")


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a series' labels and its value."""

    labels: Labels
    value: float
    key: frozenset[tuple[str, str]] = field(default=frozenset(), compare=False)  # the labels, hashable


Key = frozenset[tuple[str, str]]
# What stands before the figure -> name, labels; what stands between braces -> labels; a label -> the same
# one. Of pages of all plans.
_known: dict[bytes, tuple[bytes, Labels, Key]] = PAGES.shelf()
_labelled: dict[bytes, tuple[Key, Labels]] = PAGES.shelf()
_pairs: dict[tuple[str, str], tuple[str, str]] = PAGES.shelf()


class Wanted:
    """Finds the series of the given names on a page."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(name.encode() for name in names)
        any_name = b"|".join(re.escape(name) for name in sorted(self._names))
        # the labels end at the first brace outside of quotes
        labels = rb'\{((?:[^"}\n]++|"(?:[^"\\\n]++|\\.)*+")*+)\}'
        self._line = re.compile(rb"[ \t]*(" + any_name + rb")(?=[{ \t\r]|$)(?:[ \t]*" + labels + rb")?(.*)")
        self._begins = (*self._names, b" ", b"\t")

    def wants(self, line: bytes) -> bool:
        """Whether the line has to be looked at, whatever comes of it."""
        return line.startswith(self._begins)

    def on(self, page: bytes, *, most_new: int = MOST_NEW) -> dict[str, list[Series]]:
        """Each wanted name that the page has, with its series; of a repeated one the first counts."""
        found: dict[bytes, dict[Key, Series]] = {}
        count = new = 0
        for line in _lines(page):
            if not line.startswith(self._begins):
                continue
            before, _, figure = line.rpartition(b" ")
            known = _known.get(before) if figure.isdigit() else None  # as nearly all lines are
            if known is None:
                name, one, parts = self._read(line)
                new += parts
                if new > most_new:
                    raise ValueError(
                        f"more than {most_new} lines and labels that are new; the next reading goes on from "
                        "there; if this stays, they change each time: filter the page"
                    )
            else:
                name, one = known[0], Series(known[1], float(figure), known[2])
            if one is None or name not in self._names:
                continue
            if count == MOST_SERIES:
                raise ValueError(f"more than {MOST_SERIES} series of the wanted names; filter the page")
            count += 1
            found.setdefault(name, {}).setdefault(one.key, one)
        return {name.decode(): list(one.values()) for name, one in found.items()}

    def _read(self, line: bytes) -> tuple[bytes, Series | None, int]:
        """The line's name and series, if it is wanted, and how much there was to read for the first time."""
        match = self._line.fullmatch(line)
        if match is None:
            return b"", None, 1
        name, text, rest = match.groups()
        key, labels, parts = _labels(text or b"")
        before, _, figure = line.rpartition(b" ")
        plain = figure.isdigit() and rest.strip(b" ") == figure  # no timestamp stands between
        if plain and len(line) <= LONGEST_LINE and PAGES.make_room(len(before) + OF_A_LINE):
            _known[before] = name, labels, key
        return name, Series(labels, _value(rest, line), key), 1 + parts


def declares(page: bytes, family: str) -> bool:
    """Whether the page says that it has the family, be it without a single series so far."""
    line = b"# TYPE " + family.encode()
    return (
        page.startswith((line + b" ", line + b"\t"))
        or b"\n" + line + b" " in page
        or b"\n" + line + b"\t" in page
    )


def of_sidecar(page: bytes) -> bool:
    """Whether a sidecar shows what is its own, which it does from its start."""
    return page.startswith(SIDECARS) or any(b"\n" + name in page for name in SIDECARS)


def is_text(page: bytes) -> bool:
    """Whether all of the page can be text, and nothing of it protobuf."""
    return len(page.translate(None, BINARY)) == len(page)


def total(series: Iterable[Series]) -> int:
    """The sum of counters; `ValueError` if one is not a count."""
    return sum(_count(one.value) for one in series)


def histogram(series: Iterable[Series], *, unit: float = 1.0) -> Histogram:
    """The `_bucket` series of a histogram, its label sets added up, in units of `unit`.

    Label sets with different buckets are added on the bounds that they share, which is exact. Raises
    `ValueError` where buckets are not those of a histogram.
    """
    found = tuple(series)
    keys = tuple(one.key or frozenset(one.labels.items()) for one in found)
    own = 0 if not found or found[0].key else OF_A_LINE + OF_A_LABEL * len(found[0].labels)  # new ones
    le, sets = arranged(keys, unit, weight=own)
    sums = [0] * (len(le) + 1)
    for buckets, shared in sets:
        counts = [_count(found[place].value) for _, place in buckets]
        for (fewer, more), (low, high) in zip(pairwise(counts), pairwise(buckets), strict=True):
            if low[0] == high[0] or more < fewer:
                raise ValueError(
                    f"buckets le={low[0]:g} ({fewer}) and le={high[0]:g} ({more}) are not cumulative"
                )
        sums = [a + counts[b] for a, b in zip(sums, shared, strict=True)]
    return Histogram(le, tuple(b - a for a, b in pairwise((0, *sums))))


_Bucket = tuple[float, int]  # its upper bound, and its place among the series
# The bounds but infinity, in units; of each label set the buckets in order, and those that all have.
Arranged = tuple[tuple[float, ...], tuple[tuple[tuple[_Bucket, ...], tuple[int, ...]], ...]]

_arranged: dict[tuple[tuple[Key, ...], float], Arranged] = PAGES.shelf()


def arranged(series: tuple[Key, ...], unit: float, *, weight: int = 0) -> Arranged:
    """The order of these buckets; remembered, with so many bytes for each key beside its place."""
    known = _arranged.get((series, unit))
    if known is None:
        known = _order(series, unit)
        if PAGES.make_room((OF_A_BUCKET + weight) * len(series)):
            _arranged[series, unit] = known
    return known


def _order(series: tuple[Key, ...], unit: float) -> Arranged:
    sets: dict[Key, list[_Bucket]] = {}
    for place, labels in enumerate(series):
        of = frozenset(item for item in labels if item[0] != "le")
        sets.setdefault(of, []).append((_bound(dict(labels).get("le", "")), place))
    if not sets:
        raise ValueError("no buckets")
    ordered = [tuple(sorted(one)) for one in sets.values()]
    if any(one[-1][0] != inf for one in ordered):
        raise ValueError('a histogram without its bucket le="+Inf"')
    shared = sorted(set.intersection(*({bound for bound, _ in one} for one in ordered)))
    places = [{bound: place for place, (bound, _) in enumerate(one)} for one in ordered]
    return (
        tuple(round(bound * unit, 12) for bound in shared[:-1]),
        tuple((one, tuple(at[bound] for bound in shared)) for one, at in zip(ordered, places, strict=True)),
    )


def _bound(le: str) -> float:
    bound = _number(le.encode())
    if bound != bound:  # noqa: PLR0124 only NaN is not itself
        raise ValueError("a bucket with le=NaN")
    return bound


def _count(value: float) -> int:
    if not 0 <= value <= LARGEST:
        raise ValueError(f"{value:g} is not a count")
    return round(value)


def _lines(page: bytes) -> list[bytes]:
    """Those up to OpenMetrics' end mark, if there is one; `ValueError` if the page ends within a line."""
    lines = page.split(b"\n", MOST_LINES + 1)
    if len(lines) > MOST_LINES + 1:
        raise ValueError(f"more than {MOST_LINES} lines; filter the page")
    if b"# EOF" in page:
        end = next((place for place, line in enumerate(lines) if _EOF.fullmatch(line)), None)
        if end is not None:
            return lines[:end]
    if page and not page.endswith(b"\n"):
        raise ValueError("the page ends in the middle of a line")
    return lines


def _value(rest: bytes, line: bytes) -> float:
    plain = rest.strip(b" \t\r")
    if plain.isdigit():  # as nearly all lines are
        return float(plain)
    found = _REST.fullmatch(rest)
    if not found:
        raise ValueError(f"cannot read the line {_excerpt(line)}")
    return _number(found[1])


def _number(text: bytes) -> float:
    if len(text) > LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        raise ValueError(f"{_excerpt(text)} is not a number")
    return float(text)


def _labels(text: bytes) -> tuple[Key, Labels, int]:
    """The labels between the braces, hashable and not, and how many were new; `ValueError` if one is none."""
    known = _labelled.get(text)
    if known is not None:
        return *known, 0
    labels = _parsed(text)
    if len(text) > LONGEST_LINE:
        return frozenset(labels.items()), labels, len(labels)
    # not the difference of both views, which would go through all pairs that are known
    new = (pair for pair in labels.items() if pair not in _pairs)
    of_pairs = sum(OF_A_PAIR + len(name) + len(value) for name, value in new)
    if PAGES.make_room(len(text) + OF_A_LINE + OF_A_LABEL * len(labels) + of_pairs):
        labels = dict(_pairs.setdefault(pair, pair) for pair in labels.items())
        _labelled[text] = frozenset(_pairs[pair] for pair in labels.items()), labels
        return *_labelled[text], len(labels)
    return frozenset(labels.items()), labels, len(labels)


def _parsed(text: bytes) -> dict[str, str]:
    labels: dict[str, str] = {}
    at, end = 0, len(text.rstrip())
    while at < end:
        pair = _PAIR.match(text, at)
        if not pair or text[pair.end() : pair.end() + 1] not in {b"", b","} or pair[1].decode() in labels:
            raise ValueError(f"cannot read the labels {_excerpt(text)}")
        labels[pair[1].decode()] = _unescaped(pair[2].decode())
        if len(labels) > MOST_LABELS:
            raise ValueError(f"a series of more than {MOST_LABELS} labels: {_excerpt(text)}")
        at = pair.end() + 1
    return labels


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: _PLAIN.get(found[1], found[0]), text) if "\\" in text else text


def _excerpt(text: bytes) -> str:
    return repr(text[:80].decode(errors="replace"))
