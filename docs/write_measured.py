"""Writes docs/measured/README.md from what `make bench-statistics` has written down, and counts nothing else.

`make reference`, and `make bench-statistics` at its end.
"""
# ruff: noqa: INP001
# (a script, not a package)

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scenarios.bench_rows import GROUPS, Row
from scenarios.bench_statistics import FILE, SEED, fingerprint, finished, table
from scenarios.many import interval

Json = Any
PAGE = FILE.parent / "README.md"
HEADINGS: Mapping[str, str] = {
    "nulls-60": "Healthy canaries, stable known for 60 s",
    "nulls-600": "Healthy canaries, stable known for 600 s",
    "inside-60": "Canaries with a p95 10 % higher, within their margin, stable known for 60 s",
    "inside-600": "The same, stable known for 600 s",
    "strict": "Healthy canaries at an alpha of 0.1 %",
    "faults": "How fast faults are found",
    "passes": "How soon a step passes",
    "tight": "Canary requests to detection beside the least there can be",
}
INTRODUCTION = """\
<!-- written by `make reference` from statistics.jsonl beside it; measure instead of editing -->
# What was measured

Simulated half hours of the built-in policy, three checks and three steps; what a world is stands in
[bench_rows.py](../../scenarios/bench_rows.py), what is asked and promised in [statistics](../statistics.md).
Every row says how many runs it has; intervals are exact at 95 %. Peers' columns are of the first 256 runs of
a row. Batches have fixed seeds (from {seed}), so that a row comes out the same anywhere, and no batch is
left out or played again: `make bench-statistics` goes on where the file ends. Lines of another engine than
today's, which is `{fingerprint}`, do not count.

**{runs} runs so far, {rows} of {all} rows begun, {complete} complete.**
"""


def page(file: Path = FILE) -> str:
    """The whole page."""
    done = finished(file)
    rows = {name: group() for name, group in GROUPS.items()}
    planned = [row for group in rows.values() for row in group]
    played = {row.name: _played(row, done) for row in planned}
    head = INTRODUCTION.format(
        seed=SEED,
        fingerprint=fingerprint(),
        runs=f"{sum(played.values()):,}".replace(",", " "),
        rows=sum(count > 0 for count in played.values()),
        all=len(planned),
        complete=sum(played[row.name] >= row.runs for row in planned),
    )
    return head + "".join(
        text
        for name, group in rows.items()
        for text in _section(HEADINGS[name], [row for row in group if played[row.name]], done, file)
    )


def _played(row: Row, done: Mapping[tuple[str, int], Json]) -> int:
    return sum(line["runs"] for (name, _), line in done.items() if name == row.name)


def _section(
    heading: str, rows: Sequence[Row], done: Mapping[tuple[str, int], Json], file: Path
) -> Iterator[str]:
    if not rows:
        return
    yield f"\n## {heading}\n\n"
    if rows[0].onset is None and not rows[0].passes:
        yield _together({row.name for row in rows}, done)
    yield "\n".join(table(rows, file)) + "\n"


def _together(names: set[str], done: Mapping[tuple[str, int], Json]) -> str:
    """All worlds as one, and the worst: what a sceptic asks first."""
    parts = [line for (name, _), line in done.items() if name in names]
    runs, back = sum(line["runs"] for line in parts), sum(line["falselyBack"] for line in parts)
    low, high = interval(back, runs)
    share = f"{100 * back / runs:.2f} % (95 % interval {100 * low:.2f}-{100 * high:.2f} %)"
    return f"Together {back} of {runs} were rolled back: {share}.\n\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
