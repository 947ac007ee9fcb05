"""`make bench-statistics`: how often healthy canaries are rolled back, and how fast ill ones are; simulated.

Each row is one world. Its runs come in batches of fixed seeds; every finished batch is a line of JSON in
a file, and what is there is not run again, so that the benchmark can be stopped and resumed. At the end
the tables are printed, as Markdown.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from controller import planning, resource
from controller.model import OnDoubt, Policy
from scenarios.distributions import Beta, Bimodal, Lognormal, Pareto
from scenarios.many import interval
from scenarios.page import SECONDS
from scenarios.simulate import SIDE_BY_SIDE, Ended, Runs, simulated
from scenarios.streams import Change, Spells, Traffic, Wander

Json = Any

FILE = Path(".lab/bench-statistics.jsonl")
SEED = 20_261_127
HALF_HOUR = 1800.0
STEPS = 3

# p95 114 ms: about what a model behind a queue does.
LOGNORMAL = Lognormal(0.050, 0.114)
BIMODAL = Bimodal((0.030, 0.120), 0.1, 0.137)
PARETO = Pareto(2.2, 0.078)
FINE = tuple(bound for bound in SECONDS if 0.012 < bound < 2.0)  # the lab's: four to a factor of 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table: a world, how many runs of it, and what is to be reached.

    `onset`: when the fault begins, in seconds; None where there is none. `weights`: of the steps, each of
    which lasts a third of the time, whatever passes.
    """

    name: str
    traffic: Traffic
    runs: int
    weights: tuple[int, ...] = (10, 25, 50)
    duration: float = HALF_HOUR
    onset: float | None = None
    check: str | None = None
    alpha: float = 0.01
    passes: bool = False
    target: str = ""


def world(**changed: Any) -> Traffic:
    """18 stable and two canary pods that serve 100 requests a second, as alike as can be."""
    plain = {"rps": 100.0, "stable_pods": 18, "canary_pods": 2, "latency": LOGNORMAL, "le": FINE}
    return Traffic(**{**plain, **changed})


ONE_POD = {"stable_pods": 9, "canary_pods": 1}
THREE_OF_30 = {"stable_pods": 30, "canary_pods": 3, "rps": 300.0}
NOISY = {
    "common": Wander(sd=0.15),
    "pod": Wander(sd=0.08, tau=10.0),
    "static": 0.03,
    "spells": Spells(per_second=0.005, factor=2.0),
}
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "iid": {},
    "common shocks": {"common": Wander(sd=0.15), "diurnal": 0.3},
    "pods wander": {"pod": Wander(sd=0.08, tau=10.0), "static": 0.03},
    "bursts x2 of 3 s": {"pod": Wander(sd=0.05, tau=10.0), "spells": Spells(per_second=0.01, factor=2.0)},
    "all noise": NOISY,
    "heavy": NOISY | {"pod": Wander(sd=0.16, tau=10.0), "spells": Spells(per_second=0.01, factor=3.0)},
    "slow wander": {"pod": Wander(sd=0.08, tau=300.0)},
    "rare bursts x4 of 20 s": {"spells": Spells(per_second=1 / 600, factor=4.0, lasting=20.0)},
    "rare bursts x2 of 60 s": {"spells": Spells(per_second=1 / 900, factor=2.0, lasting=60.0)},
    "node bursts x3 of 4 s": {"spells": Spells(per_second=1 / 120, factor=3.0, lasting=4.0)},
    "hiccups x3 of 3 s": {"spells": Spells(per_second=1 / 30, factor=3.0)},
    "error bursts of 3 s": {"spells": Spells(per_second=0.005, factor=1.0, errors=0.1)},
    "quantised to 50 ms": {"quantised": 0.05},
    "timeouts at 150 ms": {"timeout": 0.15},
    "Pareto": {"latency": PARETO},
    "bimodal": {"latency": BIMODAL},
}
DESIGNS: Mapping[str, tuple[Mapping[str, Any], tuple[int, ...]]] = {
    "10 %, 1 of 9": (ONE_POD, (8, 9, 10)),
    "10 %, 2 of 18": ({}, (8, 9, 10)),
    "10-25-50 %, 2 of 18": ({}, (10, 25, 50)),
    "50 %, 2 of 3": ({"stable_pods": 3, "canary_pods": 2}, (45, 48, 50)),
    "50 %, 3 of 1": ({"stable_pods": 1, "canary_pods": 3}, (45, 48, 50)),
    "50 %, 1 of 1": ({"stable_pods": 1, "canary_pods": 1}, (45, 48, 50)),
    "10 %, 2 of 2": ({"stable_pods": 2, "canary_pods": 2}, (8, 9, 10)),
    "50 %, 5 of 5": ({"stable_pods": 5, "canary_pods": 5}, (45, 48, 50)),
    "10 %, 3 of 30": (THREE_OF_30, (8, 9, 10)),
}


def nulls(runs: int, history: float) -> list[Row]:
    """Identical arms, half an hour, three checks, three steps: none of them should be rolled back."""
    of_profile = [
        _null(profile, design, runs, history)
        for profile in PROFILES
        for design in ("10 %, 1 of 9", "10-25-50 %, 2 of 18")
    ]
    of_design = [
        _null("all noise", design, runs, history)
        for design in DESIGNS
        if design not in {"10 %, 1 of 9", "10-25-50 %, 2 of 18"}
    ]
    cold = [Change(at=at, factor=2.0, decay=3.0) for at in (0.0, HALF_HOUR / STEPS, 2 * HALF_HOUR / STEPS)]
    hiccups = PROFILES["hiccups x3 of 3 s"]
    odd: Mapping[str, Mapping[str, Any]] = {
        "cold caches x2 at each step": {"changes": cold},
        "a fifth of the load a pod": {"canary_pods": 10},
        "every node burst hits both pods": {
            "spells": Spells(per_second=1 / 120, factor=3.0, lasting=4.0),
            "nodes": 1,
        },
        "hiccups x3 of 3 s, one of one": {**hiccups, "stable_pods": 1, "canary_pods": 1},
        "hiccups x3 of 3 s, one of three": {**hiccups, "stable_pods": 3, "canary_pods": 1},
    }
    others = [
        Row(
            name=f"{name}, {history:.0f} s",
            traffic=world(**changed, history=history),
            runs=runs,
            weights={1: (45, 48, 50), 3: (20, 22, 25)}.get(changed.get("stable_pods", 18), (8, 9, 10)),
            target="<= 1 %",
        )
        for name, changed in odd.items()
    ]
    return [*of_profile, *of_design, *others]


def _null(profile: str, design: str, runs: int, history: float, slower: float = 1.0) -> Row:
    arms, weights = DESIGNS[design]
    changes = [] if slower == 1.0 else [Change(at=-1e9, factor=slower)]
    margin = "" if slower == 1.0 else f", x{slower:g}"
    return Row(
        name=f"{profile}; {design}{margin}; {history:.0f} s",
        traffic=world(**{**PROFILES[profile], **arms}, history=history, changes=changes),
        runs=runs,
        weights=weights,
        target="<= 1 %" if slower == 1.0 or arms.get("canary_pods", 2) > 1 else "<= 2 %",
    )


def inside(runs: int, history: float) -> list[Row]:
    """The same, the canary's latency 10 % higher: within its margin."""
    designs = ("10 %, 1 of 9", "10-25-50 %, 2 of 18", "10 %, 3 of 30")
    return [
        _null(profile, design, runs, history, 1.1) for profile in ("iid", "all noise") for design in designs
    ]


def faults(runs: int) -> list[Row]:
    """How fast faults are found, in seconds, with every check's usual share."""
    rows = []
    for name, arms, noise, seconds in (
        ("two pods", {}, {}, {5.0: 1, 2.0: 5, 1.5: 40, 1.3: 400}),
        ("one pod", ONE_POD, {}, {5.0: 7, 2.0: 10, 1.5: 40, 1.3: 280}),
        ("three of 30, all noise", THREE_OF_30, NOISY, {5.0: 1, 2.0: 3, 1.5: 20}),
        ("two pods, all noise", {}, NOISY, {1.5: 50}),
    ):
        for factor, target in seconds.items():
            rows.append(_fault(f"p95 x{factor:g}, {name}", arms | noise, runs, target, factor=factor))
    for factor, target in {5.0: 1, 2.0: 5, 1.5: 40, 1.3: 400}.items():
        late = 1.5 * target
        rows.append(
            _fault(f"p95 x{factor:g}, two pods, at 600 s", {}, runs, late, onset=600.0, factor=factor)
        )
    for rate, target in {0.05: 20, 0.2: 4}.items():
        rows.append(_fault(f"errors {rate:.0%}", {}, runs, target, check="errors", error_rate=rate))
    for name, moved, target in (("1 sd", 0.16, 3), ("0.3 sd", 0.048, 35)):
        rows.append(
            _fault(f"predictions {name}", {}, runs, target, check="predictions", predictions=_moved(moved))
        )
    constant = Beta(5000.0, 12500.0)
    rows.append(_fault("predictions collapse", {}, runs, 2, check="predictions", predictions=constant))
    return rows


def _moved(by: float) -> Beta:
    """Beta(2, 5) has mean 2/7 and sd .16; the same spread, the mean moved up."""
    mean, variance = 2 / 7 + by, 10 / (49 * 8)
    size = mean * (1 - mean) / variance - 1
    return Beta(mean * size, (1 - mean) * size)


def _fault(
    name: str,
    changed: Mapping[str, Any],
    runs: int,
    target: float,
    *,
    onset: float = 30.0,
    check: str = "latency-p95",
    **fault: Any,
) -> Row:
    return Row(
        name=name,
        traffic=world(**changed, history=600.0, changes=[Change(at=onset, **fault)]),
        runs=runs,
        weights=(10, 11, 12),
        duration=onset + max(60 * target, 1500.0),
        onset=onset,
        check=check,
        target=f"<= {target:g} s",
    )


GROUPS: Mapping[str, Callable[[], list[Row]]] = {
    "nulls-600": lambda: nulls(2048, 600.0),
    "nulls-60": lambda: nulls(2048, 60.0),
    "inside-600": lambda: inside(2048, 600.0),
    "inside-60": lambda: inside(2048, 60.0),
    "faults": lambda: faults(256),
}


def policy(row: Row) -> Policy:
    """The built-in policy, but for steps that take as long as the row says."""
    spec = planning.builtin() | {"steps": list(row.weights), "alpha": row.alpha}
    for check in spec["checks"]:
        if check["type"] == "Predictions" and row.check == "predictions":
            check["tolerance"] = 0.02
    built = resource.policy(spec)
    length = timedelta(seconds=row.duration / len(row.weights))
    return replace(
        built,
        warm_up=timedelta(0) if row.onset else built.warm_up,
        min_step=timedelta(0) if row.passes else length,
        step_timeout=max(length, timedelta(seconds=600)) if row.onset else length,
        on_inconclusive=OnDoubt.HOLD if row.passes or row.onset else OnDoubt.PROCEED,
    )


def batch(row: Row, place: int) -> Json:
    """One batch of a row's runs, as it is written down."""
    count = _count(row, place)
    found = simulated(row.traffic, policy(row), runs=count, seed=SEED + place, duration=row.duration)
    return {"row": row.name, "batch": place, "runs": count} | _figures(row, found)


def _figures(row: Row, found: Runs) -> Json:
    names = [check.name for check in policy(row).checks]
    back = found.ended == Ended.ROLLED_BACK
    early = back & (found.at <= (row.onset if row.onset is not None else np.inf))
    after = np.where(back & ~early, found.at - (row.onset or 0.0), np.inf)
    return {
        "falselyBack": int(early.sum()),
        "by": {name: int((early & (found.check == place)).sum()) for place, name in enumerate(names)},
        "promoted": int((found.ended == Ended.PROMOTED).sum()),
        "highest": round(float(np.max(found.highest)), 2),
        "delays": []
        if row.onset is None
        else [float(each) if each < np.inf else None for each in after[~early]],
    }


def finished(file: Path) -> dict[tuple[str, int], Json]:
    """The batches that are written down, by row and place."""
    if not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    return {(line["row"], line["batch"]): line for line in lines}


def missing(rows: Sequence[Row], file: Path) -> list[tuple[Row, int]]:
    """The batches that are not written down, or with fewer runs (of an earlier `--runs`)."""
    done = {key: line["runs"] for key, line in finished(file).items()}
    return [
        (row, place)
        for row in rows
        for place in range(-(-row.runs // SIDE_BY_SIDE))
        if done.get((row.name, place), 0) < _count(row, place)
    ]


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


HEALTHY = ("| world | runs | rolled back | 95 % interval | by | target |", "|---|---|---|---|---|---|")
ILL = (
    "| fault | runs | median | p90 | mean | missed | false | target |",
    "|---|---|---|---|---|---|---|---|",
)


def table(rows: Sequence[Row], file: Path) -> list[str]:
    """The rows as Markdown: how many were rolled back, with the exact 95 % bounds, and how late."""
    done = finished(file)
    parts = {row.name: [line for (name, _), line in done.items() if name == row.name] for row in rows}
    healthy = [_healthy(row, parts[row.name]) for row in rows if row.onset is None]
    ill = [_ill(row, parts[row.name]) for row in rows if row.onset is not None]
    between = [""] if healthy and ill else []
    return [*(HEALTHY if healthy else ()), *healthy, *between, *(ILL if ill else ()), *ill]


def _healthy(row: Row, parts: Sequence[Json]) -> str:
    runs, back = sum(part["runs"] for part in parts), sum(part["falselyBack"] for part in parts)
    by = {name: sum(part["by"][name] for part in parts) for name in (parts[0]["by"] if parts else ())}
    said = ", ".join(f"{name} {count}" for name, count in by.items() if count)
    low, high = interval(back, runs)
    share = f"{100 * back / max(runs, 1):.2f} %"
    return f"| {row.name} | {runs} | {share} | {100 * low:.2f}-{100 * high:.2f} % | {said} | {row.target} |"


def _ill(row: Row, parts: Sequence[Json]) -> str:
    delays = np.array([np.inf if d is None else d for part in parts for d in part["delays"]])
    false = sum(part["falselyBack"] for part in parts)
    found = delays[np.isfinite(delays)]
    mean = f"{found.mean():.1f} s" if len(found) else "-"
    median, late = (
        (f"{each:.0f} s" for each in np.quantile(delays, [0.5, 0.9], method="higher"))
        if len(delays)
        else ("-", "-")
    )
    return (
        f"| {row.name} | {len(delays) + false} | {median} | {late} | {mean}"
        f" | {len(delays) - len(found)} | {false} | {row.target} |"
    )


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
