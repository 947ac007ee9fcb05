"""Writes metrics pages in Prometheus's protobuf format, as exporters do: one field after the other."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def double(field: int, value: float) -> bytes:
    return varint(field << 3 | 1) + struct.pack("<d", value)


def message(field: int, body: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(body)) + body


def metric(labels: Mapping[str, str], field: int, body: bytes) -> bytes:
    pairs = (message(1, name.encode()) + message(2, value.encode()) for name, value in labels.items())
    return message(4, b"".join(message(1, pair) for pair in pairs) + message(field, body))


def counter(labels: Mapping[str, str], value: float) -> bytes:
    return metric(labels, 3, double(1, value))


def classic(labels: Mapping[str, str], cumulative: Mapping[float, int], n: int) -> bytes:
    buckets = (message(3, number(1, count) + double(2, le)) for le, count in cumulative.items())
    return metric(labels, 7, number(1, n) + double(2, 1.5) + b"".join(buckets))


def spans(places: Sequence[int]) -> Iterable[bytes]:
    """The runs among increasing places; one without length if there are none."""
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([place, place + 1])
    ends = [0, *(end for _, end in runs)]
    for end, (first, last) in zip(ends, runs, strict=False):
        yield number(1, zigzag(first - end)) + number(2, last - first)
    if not runs:
        yield number(1, 0) + number(2, 0)


def native_body(
    schema: int,
    positive: Mapping[int, int],
    *,
    negative: Mapping[int, int] | None = None,
    zero: int = 0,
    threshold: float = 2.0**-128,
    n: int | None = None,
    how: str = "",
) -> bytes:
    negative = negative or {}
    total = zero + sum(positive.values()) + sum(negative.values()) if n is None else n
    head = double(4, total) if how == "floats" else number(1, total)
    body = head + double(2, 3.25) + number(5, zigzag(schema)) + double(6, threshold)
    body += double(8, zero) if how == "floats" else number(7, zero)
    for side, first in ((negative, 9), (positive, 12)):
        if not side and first == 9:
            continue
        counts = [side[place] for place in sorted(side)]
        body += b"".join(message(first, span) for span in spans(sorted(side)))
        steps = [zigzag(after - before) for before, after in pairwise([0, *counts])]
        if how == "floats":
            body += message(first + 2, struct.pack(f"<{len(counts)}d", *counts))
        elif how == "packed":
            body += message(first + 1, b"".join(map(varint, steps)))
        else:
            body += b"".join(number(first + 1, step) for step in steps)
    return body


def native(labels: Mapping[str, str], schema: int, positive: Mapping[int, int], **more: object) -> bytes:
    return metric(labels, 7, native_body(schema, positive, **more))  # type: ignore[arg-type]


def family(name: str, *metrics: bytes, kind: int = 4) -> bytes:
    body = message(1, name.encode()) + message(2, b"Some words.") + number(3, kind) + b"".join(metrics)
    return varint(len(body)) + body
