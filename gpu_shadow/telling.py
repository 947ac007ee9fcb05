"""Baselines and drift, as tables for people and as JSON."""

from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from typing import Any

import numpy as np

from gpu_shadow.inputs import Bounds, Figures, Moved
from gpu_shadow.sketch import Baseline, Feature

SCHEMA = "serin.dev/drift/v1"
SHOWN = 20  # features of a comparison; all are in its JSON
NAMES = {
    "psi": "psi",
    "psiP": "psi_p",
    "ks": "ks",
    "ksP": "ks_p",
    "js": "js",
    "w1": "w1",
    "missing": "missing",
    "missingInTraining": "missing_was",
    "missingP": "missing_p",
    "outside": "outside",
    "outsideInTraining": "outside_was",
    "outsideP": "outside_p",
}


def held(baseline: Baseline) -> Iterator[str]:
    """What the baseline holds, a line a feature."""
    tally = baseline.tally
    yield f"{_count(len(baseline.features), 'feature')} of {_count(tally.rows, 'row')}"
    rows: list[tuple[str, ...]] = [("feature", "is", "missing", "mean", "sd", "range")]
    for i, one in enumerate(baseline.features):
        missing = f"{tally.missing[i] / tally.rows:.1%}"
        if one.labels is not None:
            kinds = f"{len(one.labels)} categor{'y' if len(one.labels) == 1 else 'ies'}"
            rows.append((one.name, kinds, missing, "", "", ", ".join(one.labels[:4])))
        elif not one.edges:
            rows.append((one.name, "never there", missing, "", "", ""))
        else:
            span = f"{tally.low[i]:.4g} to {tally.high[i]:.4g}"
            rows.append((one.name, "numbers", missing, f"{one.mean:.4g}", f"{one.sd:.4g}", span))
    yield from _table(rows)


def compared(baseline: Baseline, found: Figures, moved: tuple[Moved, ...]) -> Iterator[str]:
    """The answer, and the figures of those that moved most."""
    features, least = len(baseline.features), Bounds().least
    of, rows_of = _count(features, "feature"), _count(found.rows, "row")
    if found.rows < least:
        yield f"Undecided: {rows_of}, and it takes {least}"
    elif moved:
        yield f"Drifted: {len(moved)} of {of}, in {rows_of}"
        yield from (f"  {each}" for each in moved[:SHOWN])
    else:
        yield f"Not drifted: none of {of}, in {rows_of}"
    yield ""
    rows: list[tuple[str, ...]] = [
        ("feature", "PSI", "p", "KS", "JS", "W1/sd", "missing", "was", "outside", "was")
    ]
    first = {each.name: place for place, each in enumerate(moved)}
    order = sorted(
        range(features), key=lambda i: (first.get(baseline.features[i].name, features), -found.psi[i])
    )
    rows += [_figures(baseline.features[i], found, i) for i in order[:SHOWN]]
    yield from _table(rows)
    if features > SHOWN:
        yield f"and {features - SHOWN} more (--json)"


def _count(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"


def others(names: Collection[str], columns: Iterable[str]) -> str:
    """The columns that the baseline does not have, and which of its features they may be a slip of."""
    given = list(columns)
    lacking = [name for name in names if name not in set(given)]
    beside = [name for name in given if name not in set(names)]
    near = {name: get_close_matches(name, lacking, n=1) for name in beside[:SHOWN]}
    said = [f"{name} (did you mean {close[0]}?)" if close else name for name, close in near.items()]
    return ", ".join(said) + (f" and {len(beside) - SHOWN} more" if len(beside) > SHOWN else "")


def as_json(baseline: Baseline, found: Figures, moved: tuple[Moved, ...]) -> Any:
    """All figures; null where a feature has none."""
    columns = {name: getattr(found, field) for name, field in NAMES.items()}
    return {
        "schema": SCHEMA,
        "rows": found.rows,
        "rowsInTraining": baseline.tally.rows,
        "drifted": [{"name": one.name, "by": one.cause, "value": one.value, "p": one.p} for one in moved],
        "features": [
            {"name": one.name} | {name: _number(column[i]) for name, column in columns.items()}
            for i, one in enumerate(baseline.features)
        ],
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _figures(one: Feature, found: Figures, i: int) -> tuple[str, ...]:
    figures = (found.psi[i], found.psi_p[i], found.ks[i], found.js[i], found.w1[i])
    rates = (found.missing[i], found.missing_was[i], found.outside[i], found.outside_was[i])
    said = ["-" if np.isnan(each) else f"{each:.2g}" if abs(each) >= 5e-4 else "0" for each in figures]
    said[1] = "<0.001" if said[1] == "0" else said[1]  # no chance is none
    return (one.name, *said, *(f"{each:.1%}" for each in rates))


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join((row[0].ljust(widths[0]), *cells)).rstrip()
