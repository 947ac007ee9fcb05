"""`make bench-statistics`: how often healthy canaries are rolled back, and how fast ill ones are; simulated.

Each row is one world. Its runs come in batches of fixed seeds; every finished batch is a line of JSON in
a file, and what is there is not run again, so that the benchmark can be stopped and resumed. The file is in
the repository: the table grows from one session to the next. A line has the `fingerprint` of its engine, and
those of another one than today's do not count. At the end the tables are printed, as Markdown.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from analysis import peers
from analysis.proportions import Array
from scenarios.bench_rows import GROUPS, NOISY, ONE_POD, Row, policy, world
from scenarios.many import interval
from scenarios.rivals import compared
from scenarios.simulate import SIDE_BY_SIDE, Ended, Runs, simulated
from scenarios.streams import Change

Json = Any

FILE = Path(__file__).parents[1] / "docs" / "measured" / "statistics.jsonl"
SEED = 20_261_127
RIVALS = tuple(map(str, peers.RULES))


@cache
def fingerprint() -> str:
    """Eight digits that are others once the engine comes to other numbers.

    Of when a few canaries are rolled back, noisy ones that become slow, and how far evidence came.
    """
    slow = [Change(at=60.0, factor=1.5, error_rate=0.02)]
    told = hashlib.sha256()
    for arms in (NOISY, NOISY | ONE_POD):
        row = Row(name="", traffic=world(**arms, history=60.0, changes=slow), runs=8, duration=150.0)
        found = simulated(row.traffic, policy(row), runs=row.runs, seed=SEED, duration=row.duration)
        told.update(repr((found.at.tolist(), np.round(found.highest, 3).tolist())).encode())
    return told.hexdigest()[:8]


def batch(row: Row, place: int) -> Json:
    """One batch of a row's runs, as it is written down; the first with what the peers' rules would do."""
    count, seed = _count(row, place), SEED + place
    found = simulated(row.traffic, policy(row), runs=count, seed=seed, duration=row.duration)
    said = {"row": row.name, "batch": place, "runs": count, "fingerprint": fingerprint()} | _figures(
        row, found
    )
    if place or row.passes or row.bound is not None:
        return said
    others = compared(row.traffic, policy(row), runs=count, seed=seed, duration=row.duration)
    return said | {"peers": {str(rule): _noticed(row, at) for rule, at in others.items()}}


def _figures(row: Row, found: Runs) -> Json:
    names = [check.name for check in policy(row).checks]
    back = found.ended == Ended.ROLLED_BACK
    early = back & (found.at <= (row.onset if row.onset is not None else np.inf))
    promoted = found.ended == Ended.PROMOTED
    return {
        **_noticed(row, np.where(back, found.at, np.inf)),
        "by": {name: int((early & (found.check == place)).sum()) for place, name in enumerate(names)},
        "promoted": int(promoted.sum()),
        "passedAt": _numbers(np.where(promoted, found.at, np.inf)) if row.passes else [],
        "requests": _numbers(np.where(back, found.requests, np.inf)) if row.bound is not None else [],
        "highest": round(float(np.max(found.highest)), 2),
    }


def _noticed(row: Row, back_at: Array) -> Json:
    """How many rolled back with nothing wrong, and after how many seconds the others noticed."""
    if row.onset is None:
        return {"falselyBack": int(np.isfinite(back_at).sum()), "delays": []}
    early = back_at <= row.onset
    return {"falselyBack": int(early.sum()), "delays": _numbers(back_at[~early] - row.onset)}


def _numbers(values: Array) -> list[float | None]:
    """As JSON has them: None is never."""
    return [float(each) if each < np.inf else None for each in values]


def finished(file: Path) -> dict[tuple[str, int], Json]:
    """The batches of today's engine that are written down, by row and place."""
    if not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    return {(line["row"], line["batch"]): line for line in lines if line["fingerprint"] == fingerprint()}


def missing(rows: Sequence[Row], file: Path) -> list[tuple[Row, int]]:
    """The batches that are not written down, or with fewer runs (of an earlier `--runs`)."""
    done = {key: line["runs"] for key, line in finished(file).items()}
    all_of_them = [(row, place) for row in rows for place in range(-(-row.runs // SIDE_BY_SIDE))]
    first_first = sorted(all_of_them, key=lambda each: each[1])
    return [(row, place) for row, place in first_first if done.get((row.name, place), 0) < _count(row, place)]


def _count(row: Row, place: int) -> int:
    return min(SIDE_BY_SIDE, row.runs - place * SIDE_BY_SIDE)


def measure(rows: Sequence[Row], file: Path, *, workers: int) -> None:
    """Plays every batch that is missing and writes it down."""
    file.parent.mkdir(parents=True, exist_ok=True)
    todo = missing(rows, file)
    with ProcessPoolExecutor(workers) as pool, file.open("a") as out:
        waiting = {pool.submit(batch, row, place): row for row, place in todo}
        for count, each in enumerate(as_completed(waiting), 1):
            out.write(json.dumps(each.result()) + "\n")
            out.flush()
            sys.stderr.write(f"{count} of {len(todo)}: {waiting[each].name}\n")


def table(rows: Sequence[Row], file: Path) -> list[str]:
    """The rows as Markdown, healthy worlds and faults with what the peers' rules would have done beside."""
    done = finished(file)
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        parts = [line for (name, _), line in done.items() if name == row.name]
        kind = PASSES if row.passes else TIGHT if row.bound else HEALTHY if row.onset is None else ILL
        cells = _CELLS[kind](row, parts)
        lines.setdefault(kind, [_line(kind), _line(["---"] * len(kind))]).append(_line([row.name, *cells]))
    return "\n\n".join("\n".join(each) for each in lines.values()).splitlines()


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _healthy(row: Row, parts: Sequence[Json]) -> list[str]:
    runs, back = sum(part["runs"] for part in parts), sum(part["falselyBack"] for part in parts)
    by = {name: sum(part["by"][name] for part in parts) for name in (parts[0]["by"] if parts else ())}
    said = ", ".join(f"{name} {count}" for name, count in by.items() if count)
    others = _peers(parts, lambda one, runs: f"{100 * one['falselyBack'] / runs:.0f} %")
    return [str(runs), *_share(back, runs), said, row.target, *others]


def _ill(row: Row, parts: Sequence[Json]) -> list[str]:
    delays, false = _all(parts, "delays"), sum(part["falselyBack"] for part in parts)
    missed = int(np.isinf(delays).sum())
    others = _peers(
        parts, lambda one, runs: f"{_late(one['delays'])} ({100 * one['falselyBack'] / runs:.0f} %)"
    )
    return [
        str(len(delays) + false),
        *_times(delays),
        _mean(delays, " s"),
        str(missed),
        str(false),
        row.target,
        *others,
    ]


def _passes(row: Row, parts: Sequence[Json]) -> list[str]:
    at, back = _all(parts, "passedAt"), sum(part["falselyBack"] for part in parts)
    return [str(len(at)), *_share(int(np.isfinite(at).sum()), len(at)), *_times(at), str(back), row.target]


def _tight(row: Row, parts: Sequence[Json]) -> list[str]:
    requests, bound = _all(parts, "requests"), row.bound or np.inf
    missed = int(np.isinf(requests).sum())
    return [
        str(len(requests)),
        f"{bound:.0f}",
        _mean(requests),
        _mean(requests / bound),
        str(missed),
        row.target,
    ]


HEALTHY = ("world", "runs", "rolled back", "95 % interval", "by", "target", *RIVALS)
ILL = ("fault", "runs", "median", "p90", "mean", "missed", "false", "target", *RIVALS)
PASSES = ("world", "runs", "passed", "95 % interval", "median", "p90", "rolled back", "target")
TIGHT = ("fault", "runs", "bound", "mean canary requests", "ratio", "missed", "target")
_CELLS: Mapping[tuple[str, ...], Callable[[Row, Sequence[Json]], list[str]]] = {
    HEALTHY: _healthy,
    ILL: _ill,
    PASSES: _passes,
    TIGHT: _tight,
}


def _all(parts: Sequence[Json], name: str) -> Array:
    return np.array([np.inf if each is None else each for part in parts for each in part[name]])


def _share(count: int, runs: int) -> tuple[str, str]:
    low, high = interval(count, runs)
    return f"{100 * count / max(runs, 1):.2f} %", f"{100 * low:.2f}-{100 * high:.2f} %"


def _times(values: Array) -> Iterator[str]:
    """Median and p90."""
    if not len(values):
        return iter(("-", "-"))
    found = np.quantile(values, [0.5, 0.9], method="higher")
    return (f"{each:.0f} s" if each < np.inf else "never" for each in found)


def _mean(values: Array, unit: str = "") -> str:
    """Of those that are finite."""
    found = values[np.isfinite(values)]
    if not len(found):
        return "-"
    mean = float(found.mean())
    return f"{mean:.0f}{unit}" if mean >= 100 else f"{mean:.3g}{unit}"


def _late(delays: Sequence[float | None]) -> str:
    return next(_times(np.array([np.inf if each is None else each for each in delays])))


def _peers(parts: Sequence[Json], said: Callable[[Json, int], str]) -> list[str]:
    """What each peer's rule would have done, as far as that was looked at."""
    looked = next((part for part in parts if "peers" in part), None)
    return ["-" if looked is None else said(looked["peers"][rule], looked["runs"]) for rule in RIVALS]


def main() -> None:
    """Measures the groups that are named, or all, and prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--runs", type=int, help="of each row, instead of the table's own number")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--table", action="store_true", help="print what is measured, measure nothing")
    asked = parser.parse_args()
    unknown = [name for name in asked.groups if name not in GROUPS]
    if unknown:
        parser.error(f"no group {unknown[0]}; there are {', '.join(GROUPS)}")
    rows = [row for name in asked.groups or GROUPS for row in GROUPS[name]() if asked.rows in row.name]
    rows = [replace(row, runs=asked.runs or row.runs) for row in rows]
    if not asked.table:
        measure(rows, asked.file, workers=asked.workers)
    sys.stdout.write("\n".join(table(rows, asked.file)) + "\n")


if __name__ == "__main__":
    main()
