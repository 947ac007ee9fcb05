"""A metrics page in Prometheus's text format, in OpenMetrics and in protobuf, whichever is asked for.

By hand, since a model server should need no library for it; native histograms are in protobuf alone.
"""

from collections.abc import Iterable, Iterator
from math import isfinite, isnan
from struct import pack
from typing import Protocol, runtime_checkable

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"

Labels = tuple[tuple[str, str], ...]


@runtime_checkable
class Buckets(Protocol):
    """A histogram series."""

    def lines(self) -> list[str]:
        """As the text formats have it."""

    def message(self) -> bytes:
        """As protobuf has it."""


Sample = tuple[Labels, float | Buckets]
Family = tuple[str, str, str, list[Sample]]  # kind, name, help, its series
FORMATS = ("application/vnd.google.protobuf", "application/openmetrics-text", "text/plain")
KINDS = {"counter": (0, 3), "gauge": (1, 2), "histogram": (4, 7)}  # MetricType; the field of Metric


def chosen(accept: str) -> str:
    """The format that the header likes best; of those it likes alike, the one it names first."""
    best, liking = "text/plain", 0.0
    for said in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in said.split(";"))
        given = dict(part.split("=", 1) for part in parameters if "=" in part)
        if kind == FORMATS[0] and given.get("encoding") != "delimited":
            continue
        try:
            q = float(given.get("q", 1))
        except ValueError:
            continue
        if kind in FORMATS and q > liking:
            best, liking = kind, q
    return best


def text(families: Iterable[Family], *, opened: bool = False) -> Iterator[str]:
    """Lines of the text format, or of OpenMetrics but for its end."""
    for kind, name, help_, samples in families:
        family = name.removesuffix("_total") if opened else name
        yield f"# HELP {family} {help_}"
        yield f"# TYPE {family} {kind}"
        for labels, value in samples:
            if isinstance(value, Buckets):
                yield from value.lines()
            else:
                yield f"{name}{{{written(labels)}}} {_figure(value)}"


def _figure(value: float) -> str:
    """The number in full: a count has no rounding."""
    if not isfinite(value):
        return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)


def written(labels: Labels) -> str:
    """The labels as they stand between braces."""
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels
    )
    return ",".join(f'{name}="{value}"' for name, value in escaped)


def delimited(kind: str, name: str, help_: str, samples: Iterable[Sample]) -> bytes:
    """The family as io.prometheus.client.MetricFamily, after its length."""
    type_, place = KINDS[kind]
    metrics = (field(4, _labelled(labels) + field(place, _value(value))) for labels, value in samples)
    head = field(1, name.encode()) + field(2, help_.encode()) + number(3, type_)
    message = head + b"".join(metrics)
    return varint(len(message)) + message


def _labelled(labels: Labels) -> bytes:
    return b"".join(field(1, field(1, name.encode()) + field(2, value.encode())) for name, value in labels)


def _value(value: float | Buckets) -> bytes:
    return value.message() if isinstance(value, Buckets) else double(1, value)


# -- the wire format of protobuf ---------------------------------------------------------------------


def varint(value: int) -> bytes:
    """A whole number, seven bits a byte."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> int:
    """A number with its sign, as one without."""
    return value << 1 if value >= 0 else -value * 2 - 1


def number(field: int, value: int) -> bytes:
    """A field with a whole number."""
    return varint(field << 3) + varint(value)


def double(field: int, value: float) -> bytes:
    """A field with a float."""
    return varint(field << 3 | 1) + pack("<d", value)


def field(field: int, value: bytes) -> bytes:
    """A field with bytes."""
    return varint(field << 3 | 2) + varint(len(value)) + value
