"""`make bench-live`: how fast, how often and at what cost, measured live; each row again and again.

Every finished run is a line of JSON in a file; what is there is not run again, so that the benchmark
can be stopped and resumed, and a row repeated by deleting its lines. At the end the table is printed.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from scenarios import blind, failover, lab
from scenarios.live import processes
from scenarios.live.usage import Usage
from scenarios.plot import ArmFault, Outcome
from scenarios.result import Result
from scenarios.story import load

Json = Any
Run = Mapping[str, Any]
Figures = Sequence[float]

FILE = Path(".lab/bench-live.jsonl")
MISSED = float("inf")  # seconds until something that did not happen
DEMO_WITHIN = 300.0  # seconds after which a demo is given up
SEEDS = 100  # the first run's seed; the next run has the next


def _seconds(run: Run) -> float:
    """Until the last request that was routed to a canary that was rolled back."""
    zero = run["secondsToWeightZero"]
    return zero if run["outcome"] == Outcome.ROLLED_BACK and zero is not None else MISSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: what is played how often, what is read off, what is to be reached."""

    name: str
    what: str
    runs: int
    play: Callable[[int], Awaitable[Run]]  # of a seed
    figure: Callable[[Run], float] = _seconds
    unit: str = "s"
    target: str
    met: Callable[[Figures], bool]


async def _played(name: str, seed: int, *, factor: float | None = None) -> Run:
    """One run of a story; `factor`: how many times as slow its canary becomes, if not as it says."""
    story = replace(load(Path(__file__).with_name(f"{name}.yaml")), seed=seed)
    if factor is not None:
        slower = (replace(f, latency_factor=factor) if isinstance(f, ArmFault) else f for f in story.faults)
        story = replace(story, faults=tuple(slower))
    usage, there = Usage(), []

    async def watch(played: lab.Lab) -> None:
        there.append(played)
        await usage.watch(played.pids)

    result: Result = await lab.play(story, watch=watch)
    cost = {"cores": round(sum(usage.shares.values()), 3), "peakMB": round(usage.peak / 1e6)}
    return {"reaction": there[0].observed.reaction, **cost, **_slim(result.as_json())}


def _slim(result: Mapping[str, Json]) -> Mapping[str, Json]:
    """The result without what the checks say at length."""
    return {name: value for name, value in result.items() if name != "evidence"} | {
        "message": (result["evidence"] or {}).get("message", "")
    }


def _until_none(run: Run) -> float:
    """Until the last answer from a canary pod."""
    return MISSED if run["seconds"] is None else float(run["seconds"])


def _promoted(run: Run) -> float:
    return run["secondsToVerdict"] if run["outcome"] == Outcome.PROMOTED else MISSED


def _rolled_back(run: Run) -> float:
    return float(run["outcome"] == Outcome.ROLLED_BACK)


def median_within(most: float, worst: float = MISSED) -> Callable[[Figures], bool]:
    """Whether the median, and the worst if that is asked for, are small enough; none may be missed."""
    return lambda figures: (
        statistics.median(figures) <= most and max(figures) <= min(worst, sys.float_info.max)
    )


def all_within(most: float) -> Callable[[Figures], bool]:
    """Whether none is larger."""
    return lambda figures: max(figures) <= most


ROWS = (
    Row(
        name="latency-doubles",
        what="p95 doubles, 100 requests/s, weight 10 %, two canary pods on two nodes",
        runs=10,
        play=partial(_played, "latency-doubles"),
        target="median <= 12 s, worst <= 40 s",
        met=median_within(12, 40),
    ),
    Row(
        name="errors-burst",
        what="errors 0.1 -> 20 %, same",
        runs=10,
        play=partial(_played, "errors-burst"),
        target="median <= 6 s",
        met=median_within(6),
    ),
    Row(
        name="crash-loop",
        what="canary processes die",
        runs=5,
        play=partial(_played, "crash-loop"),
        target="median <= 2 s",
        met=median_within(2),
    ),
    Row(
        name="canary-hangs",
        what="canary hangs",
        runs=5,
        play=partial(_played, "canary-hangs"),
        target="median <= 8 s",
        met=median_within(8),
    ),
    Row(
        name="latency-times-five",
        what="p95 x5 with two canary pods",
        runs=5,
        play=partial(_played, "latency-doubles", factor=5.0),
        target="median <= 4 s",
        met=median_within(4),
    ),
    Row(
        name="good-canary",
        what="good-canary",
        runs=8,
        play=partial(_played, "good-canary"),
        figure=_promoted,
        target="all promoted within 240 s",
        met=all_within(240),
    ),
    Row(
        name="inside-margin",
        what="inside-margin, rolled back",
        runs=8,
        play=partial(_played, "inside-margin"),
        figure=_rolled_back,
        unit="",
        target="none",
        met=all_within(0),
    ),
    *(  # until the last answer that a caller got from a canary pod
        Row(
            name=f"leader-{what.replace(' ', '-')}",
            what=f"leader {what} at any moment around a fault, second replica running",
            runs=20,
            play=partial(failover.struck, what),
            figure=_until_none,
            target="worst <= 12 s",
            met=all_within(12),
        )
        for what in failover.HOWS
    ),
    Row(
        name="api-server-away",
        what="API server away for 60 s during a fault (frozen; killed and started again), from its return",
        runs=10,
        play=failover.away,
        figure=_until_none,
        target="worst <= 2 s",
        met=all_within(2),
    ),
    Row(
        name="prometheus-away",
        what="Prometheus away for 60 s: nothing moves; then a fault that pages show, while it is still away",
        runs=6,
        play=blind.away,
        figure=_until_none,
        target="worst <= 12 s",
        met=all_within(12),
    ),
)


# -- running ---------------------------------------------------------------------------------------


async def _demo(number: int) -> Run:
    """One run of the demo in a process of its own: how long, how much memory; no seconds if it failed."""
    log = FILE.with_name("demo.log")
    log.parent.mkdir(exist_ok=True)
    began, peak = time.monotonic(), 0
    process = await processes.python("-m", "scenarios.demo", log=log)
    while process.returncode is None and time.monotonic() - began < DEMO_WITHIN:
        peak = max(peak, _tree(process.pid))
        try:
            await asyncio.wait_for(process.wait(), 1.0)
        except TimeoutError:
            continue
    await processes.end(process)
    seconds = time.monotonic() - began
    return {
        "row": "demo",
        "run": number,
        "seconds": seconds if process.returncode == 0 else None,
        "peakMB": round(peak / 1e6),
    }


def _tree(pid: int) -> int:
    """Bytes (PSS) that the process and all below it hold."""
    held, pids = 0, [pid]
    while pids:
        one = pids.pop()
        try:
            memory = Path(f"/proc/{one}/smaps_rollup").read_text()
            children = Path(f"/proc/{one}/task/{one}/children").read_text()
        except OSError:
            continue
        pids += map(int, children.split())
        held += sum(1_024 * int(line.split()[1]) for line in memory.splitlines() if line.startswith("Pss:"))
    return held


async def run(file: Path, *, only: Sequence[str]) -> None:
    """Every run that is missing is made and written down."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {(said["row"], said["run"]) for said in finished(file)}
    for number in range(3):
        if ("demo", number) not in done and (not only or "demo" in only):
            _write(file, await _demo(number))
    for row in ROWS:
        for number in range(row.runs):
            if (row.name, number) not in done and (not only or row.name in only):
                said = await row.play(SEEDS + number)
                _write(file, {"row": row.name, "run": number, **said})


def _write(file: Path, said: Run) -> None:
    with file.open("a") as out:
        out.write(json.dumps(said) + "\n")
    _say(json.dumps(said))


def finished(file: Path) -> list[Run]:
    """The runs that are in the file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]


# -- the table -------------------------------------------------------------------------------------


def table(runs: Sequence[Run]) -> list[str]:
    """The measures as a Markdown table."""
    lines = ["| what | n | median | worst | to reach | reached |", "|---|---|---|---|---|---|"]
    lines += [_demo_line([run for run in runs if run["row"] == "demo"])]
    rows = [_row_line(row, runs) for row in ROWS]
    live = [run for run in runs if run["row"] != "demo"]
    read = [1e3 * run["reaction"] for run in live if run["reaction"] is not None and _checked(run)]
    lost = [float(run["requests"]["failed"]) for run in live]
    last = "last metrics page read -> API server's answer to the weight patch (p99 as worst)"
    return [
        *lines,
        *rows,
        _line(last, _p99(read), unit="ms", target="p99 <= 300 ms", met=all_within(300)),
        _line("requests lost by weight changes, no retries", lost, unit="", target="0", met=all_within(0)),
    ]


def _row_line(row: Row, runs: Sequence[Run]) -> str:
    figures = [row.figure(run) for run in runs if run["row"] == row.name]
    return _line(row.what, figures, unit=row.unit, target=row.target, met=row.met)


def _checked(run: Run) -> bool:
    """Whether the weight fell because of what was read, and not because of silence or a crash."""
    return bool(run["reason"] == "CheckFailed")


def _p99(figures: Figures) -> Figures:
    """The figures without the hundredth that is largest."""
    ordered = sorted(figures)
    return ordered[: max(1, len(ordered) - len(ordered) // 100)]


def _demo_line(runs: Sequence[Run]) -> str:
    seconds = [run["seconds"] if run["seconds"] is not None else MISSED for run in runs]
    memory = max((run["peakMB"] for run in runs), default=0)
    met = all_within(180)
    return _line(
        f"make demo after set-up ({memory} MB at most)",
        seconds,
        unit="s",
        target="<= 3 min, <= 2000 MB",
        met=lambda figures: met(figures) and memory <= 2_000,
    )


def _line(what: str, figures: Figures, *, unit: str, target: str, met: Callable[[Figures], bool]) -> str:
    if not figures:
        return f"| {what} | 0 | - | - | {target} | - |"
    middle, worst = statistics.median(figures), max(figures)
    reached = "yes" if met(figures) else "NO"
    return (
        f"| {what} | {len(figures)} | {_shown(middle, unit)} | {_shown(worst, unit)} | {target} | {reached} |"
    )


def _shown(figure: float, unit: str) -> str:
    return "missed" if figure == MISSED else f"{figure:.3g} {unit}".rstrip()


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing and prints the table; 3 if a target of a complete row is not reached."""
    parser = argparse.ArgumentParser(prog="python -m scenarios.bench_live", description=__doc__)
    parser.add_argument("rows", nargs="*", help="only these: demo, " + ", ".join(row.name for row in ROWS))
    parser.add_argument("--file", type=Path, default=FILE, help=f"finished runs (default: {FILE})")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table")
    told = parser.parse_args(arguments)
    unknown = set(told.rows) - {"demo", *(row.name for row in ROWS)}
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if not told.table:
        asyncio.run(run(told.file, only=told.rows))
    lines = table(finished(told.file))
    for line in lines:
        _say(line)
    return 3 if any(line.endswith("| NO |") for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
