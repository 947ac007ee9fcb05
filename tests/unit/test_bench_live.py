"""The live benchmark's bookkeeping; what it measures is measured by running it."""

import json
from pathlib import Path
from typing import Any

from scenarios.bench_live import ROWS, finished, table


def run(row: str, number: int, **more: Any) -> dict[str, Any]:
    said = {"row": row, "run": number, "outcome": "RolledBack", "reason": "CheckFailed", "reaction": 0.03}
    said |= {"secondsToWeightZero": 5.0, "secondsToVerdict": 4.7, "requests": {"failed": 0}}
    return {**said, **more}


def line(lines: list[str], start: str) -> list[str]:
    found = next(each for each in lines if each.startswith(f"| {start}"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_every_row_can_be_built_and_has_a_line() -> None:
    lines = table([])
    assert len(lines) == 2 + 1 + len(ROWS) + 2
    assert [row.name for row in ROWS][:2] == ["latency-doubles", "errors-burst"]
    assert all(line(lines, row.what)[4] == row.target for row in ROWS)


def test_a_canary_that_was_not_rolled_back_is_missed_and_the_target_is_not_reached() -> None:
    runs = [run("latency-doubles", 0), run("latency-doubles", 1, outcome="Held", secondsToWeightZero=None)]
    cells = line(table(runs), "p95 doubles")
    assert cells[1:4] == ["2", "missed", "missed"]
    assert cells[5] == "NO"


def test_median_and_worst_are_held_against_the_target() -> None:
    runs = [run("canary-hangs", number, secondsToWeightZero=float(number)) for number in range(1, 6)]
    assert line(table(runs), "canary hangs")[1:] == ["5", "3 s", "5 s", "median <= 8 s", "yes"]


def test_a_failover_counts_until_the_last_answer_of_a_canary_pod() -> None:
    runs = [run("leader-frozen", number, seconds=float(number)) for number in range(9, 12)]
    assert line(table(runs), "leader frozen")[1:] == ["3", "10 s", "11 s", "worst <= 12 s", "yes"]
    cells = line(table([*runs, run("leader-frozen", 12, seconds=None)]), "leader frozen")
    assert cells[3:] == ["missed", "worst <= 12 s", "NO"]


def test_runs_are_read_back_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    assert finished(file) == []
    file.write_text(json.dumps(run("crash-loop", 0)) + "\n")
    assert [said["row"] for said in finished(file)] == ["crash-loop"]
