"""The few series that are wanted out of a metrics page, in Prometheus's text format or OpenMetrics.

A page may hold thousands of series of which a check needs a dozen, every second, from many pods: lines
of other series are skipped by one regular expression and never parsed. Label sets repeat from page to
page and from pod to pod, so they are parsed once and remembered.

What is wanted must be right: a line of a wanted series that cannot be read raises `ValueError`, as does
a page that ends in the middle of a line, since the last figure may have lost its last digits.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import inf

from analysis.samples import Histogram

# Wanted series on one page. Istio's duration histogram has 20 lines for each source and response code,
# so this is 500 of them; at about 2 us a line it is a fiftieth of a second.
MOST_SERIES = 10_000
REMEMBERED = 65_536  # label sets, about 1 KB each at worst; 20 runs of 3 000 distinct ones
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


class Wanted:
    """Finds the series of the given names on a page."""

    def __init__(self, names: Collection[str]) -> None:
        any_name = b"|".join(re.escape(name.encode()) for name in sorted(names))
        # the labels end at the first brace outside of quotes
        labels = rb'\{((?:[^"}\n]++|"(?:[^"\\\n]++|\\.)*+")*+)\}'
        self._line = re.compile(
            rb"^[ \t]*(" + any_name + rb")(?=[{ \t\r]|$)(?:[ \t]*" + labels + rb")?(.*)$", re.MULTILINE
        )

    def on(self, page: bytes) -> dict[str, list[Series]]:
        """Each wanted name that the page has, with its series; of a repeated one the first counts."""
        found: dict[bytes, dict[frozenset[tuple[str, str]], Series]] = {}
        for count, line in enumerate(self._line.finditer(_whole(page))):
            if count == MOST_SERIES:
                raise ValueError(f"more than {MOST_SERIES} series of the wanted names; filter the page")
            name, text, rest = line.groups()
            key, labels = _labels(text or b"")
            found.setdefault(name, {}).setdefault(key, Series(labels, _value(rest, line)))
        return {name.decode(): list(one.values()) for name, one in found.items()}


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
    sets = [dict(_cumulative(buckets)) for buckets in _by_labels(series)]
    if not sets:
        raise ValueError("no buckets")
    shared = sorted(set.intersection(*(set(one) for one in sets)))
    sums = [0, *(sum(one[bound] for one in sets) for bound in shared)]
    return Histogram(
        tuple(round(bound * unit, 12) for bound in shared[:-1]), tuple(b - a for a, b in pairwise(sums))
    )


def _by_labels(series: Iterable[Series]) -> Iterable[list[Series]]:
    """The buckets of each label set, `le` aside."""
    sets: dict[frozenset[tuple[str, str]], list[Series]] = {}
    for one in series:
        key = frozenset(item for item in one.labels.items() if item[0] != "le")
        sets.setdefault(key, []).append(one)
    return sets.values()


def _cumulative(buckets: list[Series]) -> Iterator[tuple[float, int]]:
    """Bounds and counts of one label set in order; `ValueError` if it is no histogram."""
    steps = sorted((_bound(one.labels.get("le", "")), _count(one.value)) for one in buckets)
    if steps[-1][0] != inf:
        raise ValueError('a histogram without its bucket le="+Inf"')
    for (low, fewer), (high, more) in pairwise(steps):
        if low == high or more < fewer:
            raise ValueError(f"buckets le={low:g} ({fewer}) and le={high:g} ({more}) are not cumulative")
    return iter(steps)


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


def _value(rest: bytes, line: re.Match[bytes]) -> float:
    plain = rest.strip(b" \t\r")
    if plain.isdigit():  # as nearly all lines are
        return float(plain)
    found = _REST.fullmatch(rest)
    if not found:
        raise ValueError(f"cannot read the line {_excerpt(line[0])}")
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
