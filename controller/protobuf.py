"""The few families that are wanted out of a metrics page in Prometheus's protobuf format, length-delimited.

Native histograms are exposed in no other. It is read by hand and not by a library: three kinds of fields
matter here, and a library would come with generated code and decode all of a page of which a check needs
one family in a hundred. A family that is not wanted costs one comparison; a native histogram is decoded
when its value is asked for, and not again until the proxy has flushed.

What is wanted must be right: whatever is torn or contradicts itself raises `ValueError`. So does a page
of a great many small parts: nothing else is done while one is read, and no timeout ends that.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from struct import unpack

from analysis.buckets import Exponential, Side
from controller.exposition import (
    LARGEST,
    LONGEST_LINE,
    MOST_LABELS,
    MOST_SERIES,
    SIDECARS,
    Key,
    Labels,
    Series,
)
from controller.remembered import OF_A_LABEL, OF_A_LINE, OF_A_PAIR, PAGES

TYPE = "application/vnd.google.protobuf"
ACCEPT = f"{TYPE};proto=io.prometheus.client.MetricFamily;encoding=delimited"

# What is read of one page, at 1 or 2 us a part. Istio's 26 labels and 20 buckets make 140 of a label set; a
# family that nobody wants costs none, whatever is in it.
MOST_FAMILIES = 10_000
MOST_PARTS = 100_000
PARTS_OF_A_COUNT = 2  # of a native bucket's: it is read, added up and put into the grid

# Fields of io.prometheus.client.MetricFamily and of what is in it; others are passed over.
NAME, METRIC = 1, 4
LABEL, COUNTER, UNTYPED, HISTOGRAM = 1, 3, 5, 7  # of Metric
COUNT, BUCKET, COUNT_FLOAT, SCHEMA = 1, 3, 4, 5  # of Histogram; of Bucket as well, where 2 is its bound
ZERO_THRESHOLD, ZERO, ZERO_FLOAT = 6, 7, 8
NEGATIVE, POSITIVE = (9, 10, 11), (12, 13, 14)  # spans; differences of counts; or the counts themselves
VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5  # how they are written
WIDTHS = {DOUBLE: 8, FLOAT: 4}
CONTINUED = bytes(range(0x80, 0x100))  # bytes after which a varint goes on

Field = tuple[int, int | bytes]  # its number, and what it holds
Message = Sequence[Field]


@dataclass(frozen=True, slots=True)
class Native:
    """One label set of a native histogram, as it came; `exponential` decodes it."""

    labels: Labels
    message: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """What a page says of the wanted families.

    `series` by the names that the text format gives them (`x_bucket`, `x_count`, `x_total`), `native` by
    family, where each of its label sets is a native histogram. `sidecar`: a sidecar shows what is its own.
    """

    series: dict[str, list[Series]] = field(default_factory=dict)
    native: dict[str, list[Native]] = field(default_factory=dict)
    sidecar: bool = False


class Budget:
    """How many more parts of a page are read: fields, and numbers in lists."""

    def __init__(self) -> None:
        self.spent = 0

    def spend(self, parts: int) -> None:
        """That many more; `ValueError` if there are too many."""
        self.spent += parts
        if self.spent > MOST_PARTS:
            raise ValueError(f"more than {MOST_PARTS} fields and numbers to read; filter the page")


def families(page: bytes, wanted: Collection[str]) -> Found:
    """What the page says of the wanted families; `ValueError` if it cannot be read, or not in a moment."""
    parts: dict[bytes, list[bytes]] = {name.encode(): [] for name in wanted}
    budget, passed, at, sidecar = Budget(), 0, 0, False
    while at < len(page):
        passed += 1
        if passed > MOST_FAMILIES:
            raise ValueError(f"more than {MOST_FAMILIES} metric families; filter the page")
        length, at = _varint(page, at)
        end = at + length
        if end > len(page):
            raise ValueError(f"the page ends {end - len(page)} bytes before its last metric family does")
        name = _name(page, at, end, budget)
        if name in parts:
            parts[name].append(page[at:end])
        elif not sidecar:
            sidecar = name.startswith(SIDECARS)
        at = end
    found, series = Found(sidecar=sidecar), 0
    for name, some in parts.items():  # messages one after the other are one with the parts of all
        series += _added(found, name.decode(), b"".join(some), budget) if some else 0
        if series > MOST_SERIES:
            raise ValueError(f"more than {MOST_SERIES} series of the wanted names; filter the page")
    return found


def _name(page: bytes, at: int, end: int, budget: Budget) -> bytes:
    """The family's name, which exporters write first."""
    if end - at > 2 and page[at] == NAME << 3 | BYTES and page[at + 1] < 0x80:
        return page[at + 2 : min(at + 2 + page[at + 1], end)]
    return _bytes(_fields(page[at:end], budget), NAME)


def _added(found: Found, name: str, message: bytes, budget: Budget) -> int:
    """How many series the family has, all of which were added to what was found."""
    metrics = _metrics(message, budget)
    found.series[name] = [
        Series(labels, _number(_fields(one, budget), 1))
        for labels, number, one in metrics
        if number != HISTOGRAM
    ]
    each = [(labels, one, _histogram(one, budget)) for labels, number, one in metrics if number == HISTOGRAM]
    if each and all(map(_is_native, (fields for _, _, fields in each))):
        found.native[name] = [Native(labels, one) for labels, one, _ in each]
    if each or not metrics:
        found.series[f"{name}_bucket"] = [
            one for labels, _, fields in each for one in _buckets(labels, fields, budget)
        ]
        found.series[f"{name}_count"] = [Series(labels, _count(fields)) for labels, _, fields in each]
    return len(metrics) + len(found.series.get(f"{name}_bucket", ()))


def _metrics(message: bytes, budget: Budget) -> list[tuple[Labels, int, bytes]]:
    """The family's label sets with the number of the field they hold, and that; the first of equal ones."""
    found: dict[Key, tuple[Labels, int, bytes]] = {}
    for number, metric in _fields(message, budget):
        if number != METRIC:
            continue
        fields = _fields(_message(metric), budget)
        key, labels, parts = _labels(tuple(_message(one) for number, one in fields if number == LABEL))
        budget.spend(parts)
        value = next((one for one in fields if one[0] in {COUNTER, UNTYPED, HISTOGRAM}), None)
        if value is not None:  # else a gauge or a summary by a wanted name
            found.setdefault(key, (labels, value[0], _message(value[1])))
    return list(found.values())


_labelled: dict[tuple[bytes, ...], tuple[Key, Labels, int]] = PAGES.shelf()


def _labels(pairs: tuple[bytes, ...]) -> tuple[Key, Labels, int]:
    """The labels of these messages, hashable and not, and how many parts were read for them."""
    known = _labelled.get(pairs)
    if known is not None:
        return known
    if len(pairs) > MOST_LABELS:
        raise ValueError(f"a series of more than {MOST_LABELS} labels")
    budget = Budget()
    both = [_fields(pair, budget) for pair in pairs]
    labels = {_bytes(one, 1).decode(): _bytes(one, 2).decode() for one in both}
    found = frozenset(labels.items()), labels, budget.spent
    length = sum(map(len, pairs))
    if length <= LONGEST_LINE and PAGES.make_room(_weight(length, len(pairs))):
        _labelled[pairs] = found
    return found


def _weight(length: int, labels: int) -> int:
    """Of so many labels in memory: once as they came, and once read."""
    return 2 * length + OF_A_LINE + labels * (OF_A_LABEL + OF_A_PAIR)


# -- histograms ------------------------------------------------------------------------------------


def _histogram(message: bytes, budget: Budget) -> Message:
    """The fields of a histogram, with what decoding its spans and lists will cost taken from the budget.

    Every number in them has one byte at least that does not go on, or it is a double of eight.
    """
    fields = _fields(message, budget)
    for number, value in fields:
        if number in {NEGATIVE[0], POSITIVE[0]}:
            budget.spend(len(_message(value).translate(None, CONTINUED)))
        elif number in {*NEGATIVE, *POSITIVE}:
            doubles = number in {NEGATIVE[2], POSITIVE[2]}
            packed = b"\0" if isinstance(value, int) else value
            length = len(packed) // 8 if doubles else len(packed.translate(None, CONTINUED))
            budget.spend(PARTS_OF_A_COUNT * length)
    return fields


def _is_native(histogram: Message) -> bool:
    """Whether it has spans, be they empty (so are those without counts told), or a zero bucket."""
    if any(number in {NEGATIVE[0], POSITIVE[0]} for number, _ in histogram):
        return True
    return any(_number(histogram, number) > 0 for number in (ZERO_THRESHOLD, ZERO, ZERO_FLOAT))


def _buckets(labels: Labels, histogram: Message, budget: Budget) -> Iterator[Series]:
    """The classic buckets as the text format has them; none if there are none."""
    buckets = [_fields(_message(value), budget) for number, value in histogram if number == BUCKET]
    bounds = {_number(one, 2): _count(one) for one in buckets}
    if bounds:
        bounds.setdefault(inf, _count(histogram))
    return (Series({**labels, "le": repr(bound)}, count) for bound, count in bounds.items())


def exponential(message: bytes) -> Exponential:
    """The native histogram that a message holds; `ValueError` if its parts do not fit together."""
    budget = Budget()
    fields = _histogram(message, budget)
    zero = _number(fields, ZERO_FLOAT) or _number(fields, ZERO)
    found = Exponential(
        _signed(_integer(fields, SCHEMA)),
        _side(fields, POSITIVE, budget),
        _side(fields, NEGATIVE, budget),
        _whole(zero),
        _number(fields, ZERO_THRESHOLD),
    )
    if found.n > _count(fields):  # it may be less: NaNs are in no bucket
        raise ValueError(f"its buckets hold {found.n} observations, its count says {_count(fields):g}")
    return found


def _side(fields: Message, numbers: tuple[int, int, int], budget: Budget) -> Side:
    """The buckets on one side of zero, without empty ones; `ValueError` if counts and spans do not match."""
    spans, steps, absolute = numbers
    counts = [_whole(one) for one in _numbers(fields, absolute, DOUBLE)]
    if not counts:
        counts = list(accumulate(_signed(int(one)) for one in _numbers(fields, steps, VARINT)))
    each = [_fields(_message(value), budget) for number, value in fields if number == spans]
    ranges = [(_signed(_integer(span, 1)), _integer(span, 2)) for span in each]
    if sum(length for _, length in ranges) != len(counts):
        raise ValueError(f"its spans have room for {sum(n for _, n in ranges)} buckets, it has {len(counts)}")
    places: list[int] = []
    at = 0
    for gap, length in ranges:
        places += range(at + gap, at + gap + length)
        at += gap + length
    return tuple((j, _whole(count)) for j, count in zip(places, counts, strict=True) if count)


def _count(fields: Message) -> float:
    """A count, whole or not: of a histogram or of a bucket."""
    return _number(fields, COUNT_FLOAT) or _number(fields, COUNT)


def _whole(count: float) -> int:
    if not 0 <= count <= LARGEST:
        raise ValueError(f"{count:g} is not a count")
    return round(count)


# -- the wire format -------------------------------------------------------------------------------


def _fields(message: bytes, budget: Budget) -> list[Field]:
    """Numbers and values of a message's fields in their order; doubles as their eight bytes."""
    fields: list[Field] = []
    at = 0
    while at < len(message):
        budget.spend(1)
        key, at = _varint(message, at)
        if key & 7 == VARINT:
            value, at = _varint(message, at)
            fields.append((key >> 3, value))
            continue
        if key & 7 == BYTES:
            width, at = _varint(message, at)
        elif key & 7 in WIDTHS:
            width = WIDTHS[key & 7]
        else:
            raise ValueError(f"a field of wire type {key & 7}; is this the protobuf format, delimited?")
        if at + width > len(message):
            raise ValueError(f"a field that is {at + width - len(message)} bytes longer than its message")
        fields.append((key >> 3, message[at : at + width]))
        at += width
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, and where the next one does."""
    if at < len(message) and message[at] < 0x80:  # as nearly all are
        return message[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            raise ValueError("the page ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _signed(value: int) -> int:
    """From zigzag."""
    return value >> 1 ^ -(value & 1)


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise _misplaced("a number")
    return value


def _misplaced(what: str) -> ValueError:
    return ValueError(f"{what} where none belongs; is this the protobuf format, delimited?")


def _bytes(fields: Message, number: int) -> bytes:
    return next((_message(value) for one, value in fields if one == number), b"")


def _number(fields: Message, number: int) -> float:
    """The field as a number; zero if it is not there, as the format has it."""
    return next((_one(value) for one, value in fields if one == number), 0)


def _integer(fields: Message, number: int) -> int:
    """The field as a whole number; zero if it is not there."""
    value = next((value for one, value in fields if one == number), 0)
    if isinstance(value, bytes):
        raise _misplaced("a message")
    return value


def _one(value: int | bytes) -> float:
    if isinstance(value, int):
        return value
    if len(value) != WIDTHS[DOUBLE]:
        raise _misplaced("a message")
    return float(unpack("<d", value)[0])


def _numbers(fields: Message, number: int, kind: int) -> Iterator[float]:
    """A repeated number, packed or one by one."""
    for one, value in fields:
        if one != number:
            continue
        if isinstance(value, int):
            yield value
        elif kind == DOUBLE:
            if len(value) % 8:
                raise ValueError("a list of numbers that ends within one")
            yield from unpack(f"<{len(value) // 8}d", value)
        else:
            at = 0
            while at < len(value):
                each, at = _varint(value, at)
                yield each
