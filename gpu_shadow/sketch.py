"""What a model's inputs looked like when it was trained: a sketch, and what else is counted over its cells.

A training baseline holds no row. It has, for each feature, twenty cells that held about as many training
values each (or a table of categories), how many there were in each, and how many were missing. What is
recorded later is counted over the same cells, so that both are one kind of value, a `Tally`, and tallies of
parts add up exactly to that of the whole.

A value is missing if it is no finite number: NaN, infinite, empty, or not there. Categories that occurred
less than `RARE` times are counted together and not named: a name that few share may tell who they are.

Symbols: F features, n rows, K the most cells that a feature has.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

SCHEMA = "serin.dev/baseline/v1"
BINS = 20
LABELS = 63  # categories of a feature that have a cell of their own
RARE = 5  # times
LONGEST = 100  # characters of a name or a category
MOST_FEATURES = 4_096
LARGEST = 16 * 2**20  # bytes of a baseline's file; 4 096 features take about 4 MB
HUGE = 1e150  # what is larger counts as this: its square is a number
SLACK = 1e-6  # of the largest value: what is trained on as float64 may be asked as float32

Array = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Column = npt.NDArray[Any]
"""(n,) numbers, or objects: a category's label, or None where there is none."""


class BadBaseline(ValueError):
    """Nothing that a baseline can be made of or read from; the text says what and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One input and its cells: of numbers between `edges`, of categories one a label and one for the rest.

    Numbers: cell 0 lies below the training's least value, the last above its largest; cell i has
    `edges[i-1] <= value < edges[i]`. `labels` is None for them.
    """

    name: str
    edges: tuple[float, ...] = ()
    labels: tuple[str, ...] | None = None
    mean: float = 0.0
    sd: float = 0.0

    @property
    def cells(self) -> int:
        """How many there are."""
        return len(self.edges) + 1 if self.labels is None else len(self.labels) + 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """Rows counted over some features' cells."""

    counts: Whole  # (F, K); 0 in cells that a feature has not
    missing: Whole  # (F,)
    low: Array  # (F,) the least number; inf where there is none
    high: Array  # (F,) the largest; -inf where there is none
    rows: int

    @property
    def present(self) -> Whole:
        """How many values were not missing (F,)."""
        return np.asarray(self.rows - self.missing)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baseline:
    """The features and how the training's rows fell into their cells."""

    features: tuple[Feature, ...]
    tally: Tally


def merged(one: Tally, other: Tally) -> Tally:
    """The tally of both tallies' rows; exact, whatever the order."""
    return Tally(
        counts=one.counts + other.counts,
        missing=one.missing + other.missing,
        low=np.minimum(one.low, other.low),
        high=np.maximum(one.high, other.high),
        rows=one.rows + other.rows,
    )


# -- captured --------------------------------------------------------------------------------------


def captured(columns: Mapping[str, Column], *, categories: Collection[str] = ()) -> Baseline:
    """The baseline of these columns (n,), all of one length; text is a category, and what is named as one."""
    rows = len(next(iter(columns.values()), ()))
    if not rows:
        raise BadBaseline("there is no row: a baseline is made of what a model was trained on")
    if len(columns) > MOST_FEATURES:
        raise BadBaseline(f"{len(columns)} features; at most {MOST_FEATURES} are watched, so leave some out")
    if unknown := sorted(set(categories) - set(columns)):
        raise BadBaseline(f"there is no feature {unknown[0]}; there are {listed(columns)}")
    features = tuple(
        _of_labels(name, one) if name in categories or one.dtype == object else _of_numbers(name, one)
        for name, one in columns.items()
    )
    return Baseline(features=features, tally=tallied(features, columns))


def listed(names: Collection[str]) -> str:
    """The first of the names, as a sentence lists them."""
    some = ", ".join(list(names)[:8])
    return some + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _of_numbers(name: str, column: Column) -> Feature:
    """Cells that hold a twentieth each, as nearly as equal values permit; bounds lie between values."""
    values = _finite(column)
    values = values[~np.isnan(values)]
    if not values.size:
        return Feature(name=_named(name))
    distinct, counts = np.unique(values, return_counts=True)
    before = np.cumsum(counts)[:-1]  # values up to each gap between two distinct ones
    wanted = values.size * np.arange(1, BINS) / BINS
    gaps = np.unique(_nearest(before, wanted)) if before.size else np.array([], dtype=np.intp)
    cuts = distinct[gaps] / 2 + distinct[gaps + 1] / 2
    slack = SLACK * np.abs(distinct[[0, -1]]).max()
    ends = np.nextafter(distinct[[0, -1]] + [-slack, slack], [-np.inf, np.inf])
    return Feature(
        name=_named(name),
        edges=tuple(map(float, np.unique([ends[0], *cuts, ends[1]]))),
        mean=float(values.mean()),
        sd=float(values.std()),
    )


def _nearest(ascending: Whole, wanted: Array) -> npt.NDArray[np.intp]:
    """Of each wanted number the place of the nearest one that there is."""
    after = np.clip(np.searchsorted(ascending, wanted), 1, max(len(ascending) - 1, 1))
    after = np.minimum(after, len(ascending) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.abs(ascending[before] - wanted) <= np.abs(ascending[after] - wanted)
    return np.where(nearer, before, after)


def _of_labels(name: str, column: Column) -> Feature:
    counted = Counter(labelled(column))
    del counted[None]
    often = sorted((-count, label) for label, count in counted.items() if label and count >= RARE)
    return Feature(name=_named(name), labels=tuple(label for _, label in often[:LABELS]))


def labelled(column: Column) -> list[str | None]:
    """The column's categories; of numbers, whole ones are written without a point."""
    if column.dtype == object:
        return [None if value in {None, ""} else str(value)[:LONGEST] for value in column]
    return [None if np.isnan(x) else code(x) for x in _finite(column)]


def code(number: float) -> str:
    """A number that stands for a category, to its last figure; a whole one is written without a point."""
    return f"{number:.0f}" if number == np.rint(number) else repr(float(number))


def _named(name: str) -> str:
    if not 0 < len(name) <= LONGEST or not name.isprintable():
        raise BadBaseline(f"feature {name[:LONGEST]!r}: a name has 1 to {LONGEST} printable characters")
    return name


def _finite(column: Column) -> Array:
    """As float64, NaN where there is no finite number; a text's numbers are those that can be read."""
    if column.dtype == object:
        column = np.array([_number(value) for value in column])
    values = np.asarray(column, dtype=np.float64)
    return np.clip(np.where(np.isfinite(values), values, np.nan), -HUGE, HUGE)


def _number(value: Any) -> float:
    try:
        return np.nan if value is None else float(value)
    except (TypeError, ValueError):
        return np.nan


# -- counted ---------------------------------------------------------------------------------------


def tallied(features: Sequence[Feature], columns: Mapping[str, Column]) -> Tally:
    """The columns (n,) counted over the features' cells; a feature without a column is missing throughout."""
    rows = len(next(iter(columns.values()), ()))
    width = max((feature.cells for feature in features), default=1)
    counts = np.zeros((len(features), width), dtype=np.int64)
    low, high = np.full(len(features), np.inf), np.full(len(features), -np.inf)
    there = [i for i, feature in enumerate(features) if feature.name in columns]
    numbers = [i for i in there if features[i].labels is None]
    if numbers and rows:
        values = np.stack([_finite(columns[features[i].name]) for i in numbers])
        values.sort(axis=1)  # NaN comes last
        for i, row in zip(numbers, values, strict=True):
            present = int(np.searchsorted(row, np.inf))
            below = np.searchsorted(row[:present], features[i].edges)
            counts[i, : features[i].cells] = np.diff(below, prepend=0, append=present)
            if present:
                low[i], high[i] = row[0], row[present - 1]
    for i in set(there) - set(numbers):
        counts[i, : features[i].cells] = _by_label(features[i], columns[features[i].name])
    return Tally(counts=counts, missing=rows - counts.sum(axis=1), low=low, high=high, rows=rows)


def _by_label(feature: Feature, column: Column) -> list[int]:
    counted = Counter(labelled(column))
    del counted[None]
    known = [counted.pop(label, 0) for label in feature.labels or ()]
    return [*known, sum(counted.values())]


# -- in a file -------------------------------------------------------------------------------------


class _Feature(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    name: str
    counts: list[int]
    missing: int
    edges: list[float] = []
    labels: list[str] | None = None
    mean: float = 0.0
    sd: float = 0.0
    low: float | None = None
    high: float | None = None


class _Baseline(msgspec.Struct, forbid_unknown_fields=True):
    schema: str
    rows: int
    features: list[_Feature]


def written(baseline: Baseline) -> bytes:
    """The baseline as a file holds it: JSON, a line a feature, the same bytes for the same baseline."""
    tally = baseline.tally
    lines = [
        msgspec.json.encode(
            _Feature(
                name=one.name,
                counts=tally.counts[i, : one.cells].tolist(),
                missing=int(tally.missing[i]),
                edges=list(one.edges),
                labels=None if one.labels is None else list(one.labels),
                mean=one.mean,
                sd=one.sd,
                low=float(tally.low[i]) if np.isfinite(tally.low[i]) else None,
                high=float(tally.high[i]) if np.isfinite(tally.high[i]) else None,
            )
        ).decode()
        for i, one in enumerate(baseline.features)
    ]
    inner = ",\n".join(lines)
    return f'{{"schema":"{SCHEMA}","rows":{tally.rows},"features":[\n{inner}\n]}}\n'.encode()


def read(body: bytes) -> Baseline:
    """The baseline that a file holds; raises `BadBaseline`, whoever wrote it."""
    if len(body) > LARGEST:
        raise BadBaseline(f"{len(body)} bytes, and no baseline has more than {LARGEST}")
    try:
        found = msgspec.json.decode(body, type=_Baseline)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadBaseline(f"is no baseline ({error}); `serin baseline capture` writes one") from None
    if found.schema != SCHEMA:
        raise BadBaseline(f"its schema is {found.schema[:40]}, and {SCHEMA} is read; capture it again")
    names = {one.name for one in found.features}
    if not 0 < len(names) == len(found.features) <= MOST_FEATURES or not 0 < found.rows < 2**53:
        raise BadBaseline(f"rows and features have to be there, once each, at most {MOST_FEATURES} features")
    for one in found.features:
        if (trouble := _trouble(one, found.rows)) is not None:
            raise BadBaseline(f"feature {one.name[:LONGEST]}: {trouble}; capture the baseline again")
    return _built(found)


def _trouble(one: _Feature, rows: int) -> str | None:
    """What is wrong with it, if anything is."""
    numbers = one.labels is None
    cells = len(one.edges) + 1 if one.labels is None else len(one.labels) + 1
    inner = one.edges if numbers else []
    if not 0 < len(one.name) <= LONGEST or len(one.counts) != cells or cells > max(BINS + 2, LABELS + 1):
        return f"{len(one.counts)} counts for {cells} cells"
    if any(not a < b for a, b in pairwise(inner)) or bool(one.edges) > numbers:
        return "its edges do not ascend"
    if one.labels is not None and len(set(one.labels)) != len(one.labels):
        return "a label stands twice"
    if min(*one.counts, one.missing, 0) < 0 or sum(one.counts) + one.missing != rows:
        return f"its counts do not add up to {rows} rows"
    return "its sd is below 0" if one.sd < 0 else None


def _built(found: _Baseline) -> Baseline:
    features = tuple(
        Feature(
            name=one.name,
            edges=tuple(one.edges),
            labels=None if one.labels is None else tuple(one.labels),
            mean=one.mean,
            sd=one.sd,
        )
        for one in found.features
    )
    counts = np.zeros((len(features), max(one.cells for one in features)), dtype=np.int64)
    for i, one in enumerate(found.features):
        counts[i, : len(one.counts)] = one.counts
    tally = Tally(
        counts=counts,
        missing=np.array([one.missing for one in found.features], dtype=np.int64),
        low=np.array([np.inf if one.low is None else one.low for one in found.features]),
        high=np.array([-np.inf if one.high is None else one.high for one in found.features]),
        rows=found.rows,
    )
    return Baseline(features=features, tally=tally)
