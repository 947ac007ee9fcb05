"""Draws docs/false-rollbacks.svg and docs/delays.svg from what `make bench-statistics` has measured.

A row for each world, a mark for each rule: how often it rolls back with nothing wrong, and how long after
a fault it rolls back. Rows that are not measured yet are left out.
"""
# ruff: noqa: INP001
# (a script, not a package)

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import inf, log10
from pathlib import Path
from typing import Any

import numpy as np

from scenarios.bench_rows import Row, faults, nulls
from scenarios.bench_statistics import FILE, RIVALS, finished
from scenarios.many import interval

Json = Any
HERE = Path(__file__).parent
WIDTH, LEFT, RIGHT, TOP, HIGH = 860, 330, 30, 102, 20
SERIN = "Serin"
INK, GREY, PALE = "#334155", "#cbd5e1", "#f1f5f9"
# colours by whose rule it is, hollow marks for its cautious settings
MARKS: Mapping[str, tuple[str, bool]] = {
    SERIN: ("#2563eb", True),
    **{
        rule: ({"F": "#dc2626", "A": "#d97706", "K": "#7c3aed"}[rule[0]], place % 2 == 1)
        for place, rule in enumerate(RIVALS)
    },
}


@dataclass(frozen=True, slots=True)
class Axis:
    """Values to the right, on a logarithmic scale; what is not within its ends is drawn at them."""

    low: float
    high: float
    ticks: Mapping[float, str]

    def at(self, value: float) -> float:
        """How far to the right a value lies."""
        value = min(max(value, self.low), self.high)
        part = (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return LEFT + (WIDTH - LEFT - RIGHT) * part


SHARES = Axis(0.03, 100.0, {0.03: "0", 0.1: "0.1 %", 1.0: "1 %", 10.0: "10 %", 100.0: "100 %"})
SECONDS = Axis(0.9, 3000.0, {1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3000.0: "never"})


@dataclass(frozen=True, slots=True)
class Place:
    """A row of the picture: values by rule, and how far Serin's may be off."""

    name: str
    values: Mapping[str, float]
    sure: tuple[float, float] | None = None


def drawn(title: str, axis: Axis, places: Sequence[Place], *, line: float | None = None) -> str:
    """The picture as SVG; `line` is what is promised."""
    bottom = TOP + HIGH * len(places)
    parts = [
        f'<rect width="{WIDTH}" height="{bottom + 36}" rx="8" fill="#ffffff"/>',
        f'<text x="16" y="26" font-size="15" font-weight="600">{escape(title)}</text>',
        *_legend(),
        *(
            f'<rect x="8" y="{TOP + HIGH * row}" width="{WIDTH - 16}" height="{HIGH}" fill="{PALE}"/>'
            for row in range(0, len(places), 2)
        ),
        *(_upright(axis.at(value), bottom, GREY) for value in axis.ticks),
        *(
            f'<text x="{axis.at(value):.1f}" y="{bottom + 18}" text-anchor="middle">{said}</text>'
            for value, said in axis.ticks.items()
        ),
    ]
    if line is not None:
        parts.append(_upright(axis.at(line), bottom, INK, 'stroke-dasharray="4 4"'))
    for row, place in enumerate(places):
        parts += _row(axis, place, TOP + HIGH * (row + 0.5))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 36}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}" role="img">\n'
        f"<title>{escape(title)}</title>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _row(axis: Axis, place: Place, y: float) -> Iterator[str]:
    yield f'<text x="16" y="{y + 4:.1f}">{escape(place.name)}</text>'
    if place.sure is not None:
        low, high = map(axis.at, place.sure)
        yield _stroke((low, y), (high, y), MARKS[SERIN][0], 'stroke-width="2"')
    for rule in reversed(MARKS):  # Serin's above the others
        if rule in place.values:
            yield _mark(rule, axis.at(place.values[rule]), y)


def _mark(rule: str, x: float, y: float) -> str:
    colour, full = MARKS[rule]
    size = 5 if rule == SERIN else 4
    fill = colour if full else "#ffffff"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>'
    )


def _legend() -> Iterator[str]:
    for place, rule in enumerate(MARKS):
        x, y = 24 + 280 * (place % 3), 46 + 18 * (place // 3)
        yield _mark(rule, x, y)
        yield f'<text x="{x + 10}" y="{y + 4}">{escape(rule)}</text>'


def _upright(x: float, bottom: float, colour: str, more: str = "") -> str:
    return _stroke((x, TOP), (x, bottom), colour, more)


def _stroke(start: tuple[float, float], end: tuple[float, float], colour: str, more: str = "") -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def _false(row: Row, parts: Sequence[Json]) -> Place:
    runs, back = sum(part["runs"] for part in parts), sum(part["falselyBack"] for part in parts)
    low, high = interval(back, runs)
    values = {SERIN: 100 * back / runs} | {
        rule: 100 * said["falselyBack"] / part["runs"]
        for part in parts
        for rule, said in part.get("peers", {}).items()
    }
    return Place(f"{row.name.rsplit(';', 1)[0]} ({runs} runs)", values, (100 * low, 100 * high))


def _late(row: Row, parts: Sequence[Json]) -> Place:
    def median(delays: Sequence[float | None]) -> float:
        found = [inf if each is None else each for each in delays]
        return float(np.quantile(found, 0.5, method="higher")) if found else inf

    values = {SERIN: median([each for part in parts for each in part["delays"]])} | {
        rule: median(said["delays"]) for part in parts for rule, said in part.get("peers", {}).items()
    }
    return Place(row.name, values)


def _places(
    rows: Sequence[Row], of: Callable[[Row, Sequence[Json]], Place], done: Mapping[tuple[str, int], Json]
) -> list[Place]:
    found = ((row, [line for (name, _), line in done.items() if name == row.name]) for row in rows)
    return [of(row, parts) for row, parts in found if parts]


def main() -> None:
    """Both pictures are drawn, as far as there is something to draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=FILE)
    done = finished(parser.parse_args().file)
    healthy = _places(nulls(1, 60.0), _false, done)
    if healthy:
        title = "Healthy canaries rolled back within half an hour, and Serin's exact 95 % interval"
        (HERE / "false-rollbacks.svg").write_text(drawn(title, SHARES, healthy, line=1.0))
    ill = _places(faults(1), _late, done)
    if ill:
        title = "From the fault to the rollback: medians"
        (HERE / "delays.svg").write_text(drawn(title, SECONDS, ill))


if __name__ == "__main__":
    main()
