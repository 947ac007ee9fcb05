"""How many values of a request's inputs are missing, whatever they come in; no library is imported for it."""

from collections.abc import Mapping, Sequence
from typing import Any


def gaps(rows: Any, known: Sequence[str]) -> dict[str, tuple[int, int]]:
    """How many values of how many rows are missing, by feature."""
    if isinstance(rows, Mapping):
        return {str(name): _gap(value) for name, value in rows.items()}
    if not hasattr(rows, "shape"):
        raise TypeError("give a mapping from names to values, a data frame, or an array of rows")
    names = [str(name) for name in rows.columns] if hasattr(rows, "columns") else list(known)
    table = rows.reshape(1, -1) if len(rows.shape) == 1 else rows
    width = table.shape[1]
    if names and len(names) != width:
        raise ValueError(
            f"{width} columns, and {len(names)} features are known; name them all in Instrumented"
        )
    gone = table.isna() if hasattr(table, "isna") else table != table  # noqa: PLR0124
    counts = [int(count) for count in gone.sum(0)]
    return {
        name: (count, table.shape[0])
        for name, count in zip(names or map(str, range(width)), counts, strict=True)
    }


def _gap(value: Any) -> tuple[int, int]:
    """The same of one value, or of a column."""
    column = hasattr(value, "__iter__") and not isinstance(value, (str, bytes, Mapping))
    values = list(value) if column else [value]
    return sum(map(_is_missing, values)), len(values)


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    try:
        return bool(value != value)  # noqa: PLR0124 - NaN, NaT
    except (TypeError, ValueError):  # pandas' NA is neither
        return type(value).__name__ == "NAType"
