"""The few series that are wanted out of a metrics page, in Prometheus's text format or OpenMetrics.

A page may hold thousands of series of which a check needs a dozen, every second, from many pods: lines
of other series are skipped by how they begin and never parsed. All of a line but its figure repeats from page
to page and from pod to pod, so it is parsed once and remembered, as is the order of a histogram's buckets.

What is wanted must be right: a line of a wanted series that cannot be read raises `ValueError`, as does
a page that ends in the middle of a line, since the last figure may have lost its last digits.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from math import inf
from typing import ClassVar

from analysis.samples import Histogram

# Wanted series on one page. Istio's duration histogram has 20 lines for each source and response code,
# so this is 500 of them; at about 2 us a line it is a fiftieth of a second.
MOST_SERIES = 10_000
REMEMBERED = 65_536  # lines and label sets, about 1 KB each at worst; 20 runs of 3 000 distinct ones
ARRANGED = 4096  # histograms whose buckets were put in order, some kB each
LARGEST = 2.0**53  # counters above it are no longer exact

Labels = Mapping[str, str]
# No exporter writes these into text; a sidecar's agent that glues protobuf and text together does.
BINARY = bytes({*range(0x20)} - {*b"\t\n\r"})

_PAIR = re.compile(rb'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\\n]|\\.)*)"\s*')
_ESCAPE = re.compile(r"\\(.)")
_PLAIN = {"n": "\n", '"': '"', "\\": "\\"}
_NUMBER = re.compile(rb"[+-]?(?:[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+\.|[iI]nf(?:inity)?|[nN]a[nN])")
# After the labels: the value, perhaps a timestamp, perhaps an exemplar; only the value is used.
_REST = re.compile(rb"[ \t]+([^\s#]+)(?:[ \t]+[-+0-9.eE]+)?[ \t]*(?:#[ \t]*\{.*)?\r?")
_EOF = re.compile(rb"^# EOF[ \t]*\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a series' labels and its value."""

    labels: Labels
    value: float
    key: frozenset[tuple[str, str]] = field(default=frozenset(), compare=False)  # the labels, hashable


class Wanted:
    """Finds the series of the given names on a page."""

    # what stands before the figure -> name, labels; of pages of all plans
    _known: ClassVar[dict[bytes, tuple[bytes, Labels, frozenset[tuple[str, str]]]]] = {}

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

    def on(self, page: bytes) -> dict[str, list[Series]]:
        """Each wanted name that the page has, with its series; of a repeated one the first counts."""
        found: dict[bytes, dict[frozenset[tuple[str, str]], Series]] = {}
        count = 0
        for line in _whole(page).split(b"\n"):
            if not line.startswith(self._begins):
                continue
            before, _, figure = line.rpartition(b" ")
            known = self._known.get(before) if figure.isdigit() else None  # as nearly all lines are
            if known is None:
                name, one = self._read(line)
            else:
                name, one = known[0], Series(known[1], float(figure), known[2])
            if one is None or name not in self._names:
                continue
            if count == MOST_SERIES:
                raise ValueError(f"more than {MOST_SERIES} series of the wanted names; filter the page")
            count += 1
            found.setdefault(name, {}).setdefault(one.key, one)
        return {name.decode(): list(one.values()) for name, one in found.items()}

    def _read(self, line: bytes) -> tuple[bytes, Series | None]:
        """The line's name and series, if it is wanted."""
        match = self._line.fullmatch(line)
        if match is None:
            return b"", None
        name, text, rest = match.groups()
        key, labels = _labels(text or b"")
        before, _, figure = line.rpartition(b" ")
        if figure.isdigit() and rest.strip(b" ") == figure:  # no timestamp stands between
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[before] = name, labels, key
        return name, Series(labels, _value(rest, line), key)


def declares(page: bytes, family: str) -> bool:
    """Whether the page says that it has the family, be it without a single series so far."""
    line = b"# TYPE " + family.encode()
    return (
        page.startswith((line + b" ", line + b"\t"))
        or b"\n" + line + b" " in page
        or b"\n" + line + b"\t" in page
    )


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
    le, sets = arranged(tuple(one.key or frozenset(one.labels.items()) for one in found), unit)
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


@lru_cache(maxsize=ARRANGED)
def arranged(
    series: tuple[frozenset[tuple[str, str]], ...], unit: float
) -> tuple[tuple[float, ...], tuple[tuple[tuple[_Bucket, ...], tuple[int, ...]], ...]]:
    """The bounds but infinity, in units; of each label set the buckets in order, and those that all have."""
    sets: dict[frozenset[tuple[str, str]], list[_Bucket]] = {}
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


@lru_cache(maxsize=REMEMBERED)
def _bound(le: str) -> float:
    bound = _number(le.encode())
    if bound != bound:  # noqa: PLR0124 only NaN is not itself
        raise ValueError("a bucket with le=NaN")
    return bound


def _count(value: float) -> int:
    if not 0 <= value <= LARGEST:
        raise ValueError(f"{value:g} is not a count")
    return round(value)


def _whole(page: bytes) -> bytes:
    """The page up to OpenMetrics' end mark, if it has one; `ValueError` if it ends within a line."""
    end = _EOF.search(page) if b"# EOF" in page else None
    if end:
        return page[: end.start()]
    if page and not page.endswith(b"\n"):
        raise ValueError("the page ends in the middle of a line")
    return page


def _value(rest: bytes, line: bytes) -> float:
    plain = rest.strip(b" \t\r")
    if plain.isdigit():  # as nearly all lines are
        return float(plain)
    found = _REST.fullmatch(rest)
    if not found:
        raise ValueError(f"cannot read the line {_excerpt(line)}")
    return _number(found[1])


def _number(text: bytes) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{_excerpt(text)} is not a number")
    return float(text)


@lru_cache(maxsize=REMEMBERED)
def _labels(text: bytes) -> tuple[frozenset[tuple[str, str]], Labels]:
    """The labels between the braces, hashable and not; `ValueError` if they cannot be read."""
    labels: dict[str, str] = {}
    at = 0
    while at < len(text.rstrip()):
        pair = _PAIR.match(text, at)
        if not pair or text[pair.end() : pair.end() + 1] not in {b"", b","} or pair[1].decode() in labels:
            raise ValueError(f"cannot read the labels {_excerpt(text)}")
        labels[pair[1].decode()] = _unescaped(pair[2].decode())
        at = pair.end() + 1
    return frozenset(labels.items()), labels


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: _PLAIN.get(found[1], found[0]), text) if "\\" in text else text


def _excerpt(text: bytes) -> str:
    return repr(text[:80].decode(errors="replace"))
