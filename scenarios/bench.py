"""`make bench-live`: what is promised about rollbacks, measured on live stories, one after the other.

Every run leaves a record, and those that are there are not played again: what was interrupted goes
on where it stopped. `--fresh` begins anew. Exit 0 if every figure is reached, else 3.
"""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

Json = Any

STORIES = Path("scenarios")
LAB = Path(".lab")
RECORDS = LAB / "bench"
FIRST_SEED = 100  # far from those in the files, which tests use
PLAYED = {0, 3}  # exit codes of a story that was played; others say that the lab did not work
REACTION = 0.3  # seconds from the last metrics page's last byte to the API server's 200, p99


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One promise: a story, how often it is played, and the seconds (to weight 0) that are allowed."""

    name: str
    story: str
    runs: int
    middle: float | None = None  # the median is at most this
    worst: float | None = None  # and every run at most this
    ended: float | None = None  # every run is over after at most so many seconds
    change: tuple[str, str] | None = None  # of the story's text
    outcome: str = "RolledBack"
    but_not: bool = False  # no run has the outcome, rather than all


MEASURES = (
    Measure(name="p95 doubles", story="latency-doubles", runs=10, middle=12, worst=40),
    Measure(name="errors 0.1 -> 20 %", story="errors-burst", runs=10, middle=6),
    Measure(name="processes die", story="crash-loop", runs=5, middle=2),
    Measure(name="canary hangs", story="canary-hangs", runs=5, middle=8),
    Measure(
        name="p95 x5",
        story="latency-doubles",
        runs=5,
        middle=4,
        change=("latencyFactor: 2.0", "latencyFactor: 5.0"),
    ),
    Measure(name="good canary", story="good-canary", runs=8, ended=240, outcome="Promoted"),
    Measure(name="inside the margin", story="inside-margin", runs=8, but_not=True),
    Measure(name="leader killed", story="two-controllers", runs=5, worst=12),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table at the end."""

    name: str
    found: str
    wanted: str
    met: bool


# -- from records to figures -----------------------------------------------------------------------


def lines(records: Mapping[str, Sequence[Json]]) -> list[Line]:
    """The table for the records by measure; a measure without any is not in it."""
    table = [_line(measure, records[measure.name]) for measure in MEASURES if records.get(measure.name)]
    every = [record for found in records.values() for record in found]
    reactions = [seconds for record in every for seconds in record["reactions"]]
    lost = sum(record["requests"]["failed"] for record in every)
    if reactions:
        p99 = _quantile(reactions, 0.99)
        said = f"p99 {p99 * 1000:.0f} ms of {len(reactions)}"
        table.append(
            Line(
                name="last byte to weight patched",
                found=said,
                wanted=f"p99 <= {REACTION * 1000:.0f} ms",
                met=p99 <= REACTION,
            )
        )
    return [*table, Line(name="requests lost", found=str(lost), wanted="0", met=lost == 0)]


def _line(measure: Measure, records: Sequence[Json]) -> Line:
    ends = [record["outcome"] == measure.outcome for record in records]
    zeros = [_seconds(record) for record in records]
    found = f"{sum(ends)} of {len(ends)} {measure.outcome}"
    if measure.middle is not None or measure.worst is not None:
        found += f"; median {median(zeros):.1f} s, worst {max(zeros):.1f} s"
    over = max(_seconds(record, "secondsToVerdict") for record in records)
    if measure.ended is not None:
        found += f"; over after {over:.1f} s"
    met = not any(ends) if measure.but_not else all(ends)
    met = met and (measure.ended is None or over <= measure.ended)
    met = met and (measure.middle is None or median(zeros) <= measure.middle)
    met = met and (measure.worst is None or max(zeros) <= measure.worst)
    return Line(name=measure.name, found=found, wanted=_wanted(measure), met=met)


def _wanted(measure: Measure) -> str:
    words = [f"none {measure.outcome}" if measure.but_not else f"all {measure.outcome}"]
    words += [f"median <= {measure.middle:g} s"] if measure.middle is not None else []
    words += [f"worst <= {measure.worst:g} s"] if measure.worst is not None else []
    words += [f"over <= {measure.ended:g} s"] if measure.ended is not None else []
    return ", ".join(words)


def _seconds(record: Json, what: str = "secondsToWeightZero") -> float:
    """How long it took; what never happened took for ever."""
    seconds = record[what]
    return math.inf if seconds is None else float(seconds)


def _quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least `q` of them do not exceed."""
    return sorted(values)[math.ceil(q * len(values)) - 1]


# -- from stories to records -----------------------------------------------------------------------


def file_of(measure: Measure, number: int) -> Path:
    """Where the record of the measure's run `number` is kept."""
    return RECORDS / f"{re.sub(r'[^a-z0-9]+', '-', measure.name.lower())}-{number}.json"


def told(measure: Measure, number: int) -> str:
    """The story's text for run `number`: a seed of its own, and the measure's change."""
    text = (STORIES / f"{measure.story}.yaml").read_text()
    old, new = measure.change or ("", "")
    if old and old not in text:
        raise click.ClickException(f"{measure.story}.yaml does not say '{old}'; correct {measure.name}")
    return re.sub(
        r"(?m)^  seed: \d+$", f"  seed: {FIRST_SEED + number}", text.replace(old, new) if old else text
    )


def reactions(folder: Path) -> list[float]:
    """How long each of the controllers took to take the traffic away, as their logs say."""
    said = [line for log in sorted(folder.glob("*.log")) for line in log.read_text().splitlines()]
    events = [json.loads(line) for line in said if '"weight_set"' in line]
    return [event["decision_seconds"] for event in events if event["weight"] == 0]


def _record(measure: Measure, number: int) -> Json:
    """What came of run `number`, played now unless it has been."""
    file = file_of(measure, number)
    if not file.exists():
        story, result = file.with_suffix(".yaml"), file.with_suffix(".result")
        story.write_text(told(measure, number))
        command = [sys.executable, "-c", "from scenarios.cli import scenario; scenario()", "run", "--live"]
        code = subprocess.run(
            [*command, "--quiet", "--json", str(result), str(story)], check=False
        ).returncode
        if code not in PLAYED:
            raise click.ClickException(
                f"{story} was not played (exit code {code}); see {LAB}/{measure.story}"
            )
        (played,) = json.loads(result.read_text())
        text = json.dumps({**played, "reactions": reactions(LAB / measure.story)}, indent=2)
        result.write_text(text)
        result.rename(file)  # whole or not at all
    return json.loads(file.read_text())


@click.command()
@click.option("--only", metavar="NAME", help="One measure, by its name in the table.")
@click.option("--fresh", is_flag=True, help="Throw earlier records away.")
def main(*, only: str | None, fresh: bool) -> None:
    """Play every measure's story as often as it asks, and hold the figures against what is promised."""
    if fresh:
        shutil.rmtree(RECORDS, ignore_errors=True)
    RECORDS.mkdir(parents=True, exist_ok=True)
    chosen = [measure for measure in MEASURES if only in (None, measure.name)]
    if not chosen:
        raise click.UsageError(
            f"no measure is called '{only}'; there are: {', '.join(m.name for m in MEASURES)}"
        )
    records = {m.name: [_record(m, number) for number in range(m.runs)] for m in chosen}
    table = lines(records)
    for line in table:
        click.echo(f"{'ok ' if line.met else 'NOT'}  {line.name:<28} {line.found:<52} {line.wanted}")
    sys.exit(0 if all(line.met for line in table) else 3)


if __name__ == "__main__":
    main()
