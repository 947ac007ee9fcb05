import json
from pathlib import Path
from typing import Any

import click
import pytest

from scenarios import bench
from scenarios.plot import Outcome
from scenarios.story import load

DOUBLES, GOOD, INSIDE = (
    next(one for one in bench.MEASURES if one.name == name)
    for name in ("p95 doubles", "good canary", "inside the margin")
)


def record(seconds: float | None, outcome: str = "RolledBack", **more: Any) -> Any:
    played = {"outcome": outcome, "secondsToWeightZero": seconds, "secondsToVerdict": seconds}
    return {**played, "requests": {"failed": 0}, "reactions": [], **more}


def line(name: str, records: dict[str, Any]) -> bench.Line:
    return next(one for one in bench.lines(records) if one.name == name)


@pytest.mark.parametrize("measure", bench.MEASURES, ids=lambda one: one.name)
def test_every_measure_s_story_can_be_told_with_seeds_of_its_own(
    measure: bench.Measure, tmp_path: Path
) -> None:
    stories = []
    for number in range(2):
        file = tmp_path / f"{number}.yaml"
        file.write_text(bench.told(measure, number))
        stories.append(load(file))
    assert stories[0].seed != stories[1].seed
    assert measure.outcome in {str(outcome) for outcome in Outcome}


def test_a_change_that_the_story_does_not_know_is_a_mistake_that_is_named() -> None:
    measure = bench.Measure(name="x", story="latency-doubles", runs=1, change=("latencyFactor: 9", "8"))
    with pytest.raises(click.ClickException, match="does not say"):
        bench.told(measure, 0)


def test_a_median_and_a_worst_case_within_bounds_are_met() -> None:
    found = line(DOUBLES.name, {DOUBLES.name: [record(5.0), record(9.0), record(30.0)]})
    assert found.met
    assert found.found == "3 of 3 RolledBack; median 9.0 s, worst 30.0 s"


@pytest.mark.parametrize("bad", [record(41.0), record(None), record(5.0, "Promoted")])
def test_one_run_that_was_slow_missed_or_promoted_breaks_the_promise(bad: Any) -> None:
    assert not line(DOUBLES.name, {DOUBLES.name: [record(5.0), record(5.0), bad]}).met


def test_a_good_canary_has_to_be_promoted_in_time() -> None:
    assert line(GOOD.name, {GOOD.name: [record(200.0, "Promoted")]}).met
    assert not line(GOOD.name, {GOOD.name: [record(241.0, "Promoted")]}).met
    assert not line(GOOD.name, {GOOD.name: [record(200.0, "Promoted"), record(9.0, "Held")]}).met


def test_inside_the_margin_only_a_rollback_is_wrong() -> None:
    assert line(INSIDE.name, {INSIDE.name: [record(None, "Held"), record(None, "Promoted")]}).met
    assert not line(INSIDE.name, {INSIDE.name: [record(None, "Held"), record(9.0)]}).met


def test_reactions_and_lost_requests_are_taken_over_all_measures() -> None:
    records = {
        DOUBLES.name: [record(1.0, reactions=[0.1] * 60)],
        GOOD.name: [record(1.0, "Promoted", reactions=[0.2] * 40, requests={"failed": 2})],
    }
    assert line("last byte to weight patched", records).found == "p99 200 ms of 100"
    assert not line("requests lost", records).met
    records[GOOD.name][0]["reactions"] = [0.1] * 38 + [0.4] * 2
    assert not line("last byte to weight patched", records).met


def test_reactions_are_read_from_the_controllers_logs(tmp_path: Path) -> None:
    events = [
        {"event": "told", "reason": "Started"},
        {"event": "weight_set", "weight": 10, "decision_seconds": 0.5},
        {"event": "weight_set", "weight": 0, "decision_seconds": 0.04},
    ]
    (tmp_path / "serin-0.log").write_text("Traceback or not\n" + "\n".join(json.dumps(one) for one in events))
    assert bench.reactions(tmp_path) == [0.04]


def test_records_that_are_there_are_not_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RECORDS", tmp_path)
    bench.file_of(DOUBLES, 3).write_text(json.dumps(record(1.5)))
    assert bench._record(DOUBLES, 3)["secondsToWeightZero"] == 1.5
