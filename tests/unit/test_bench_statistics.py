"""The statistical benchmark's bookkeeping; what it measures is measured by running it."""

import json
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from analysis import tracks
from controller.model import OnDoubt
from scenarios import bench_statistics
from scenarios.bench_rows import GROUPS, LATENCY, Row, _moved, least_requests, policy, world
from scenarios.bench_statistics import (
    RIVALS,
    _figures,
    batch,
    fingerprint,
    finished,
    interval,
    main,
    measure,
    missing,
    table,
)
from scenarios.distributions import Lognormal, Pareto
from scenarios.simulate import Ended, Runs
from scenarios.streams import Change

ROWS = [row for group in GROUPS.values() for row in group()]
SHORT = Row(name="short", traffic=world(history=3.0), runs=2, duration=6.0, target="<= 1 %")


def line(row: Row, place: int = 0, **more: Any) -> dict[str, Any]:
    said = {"row": row.name, "batch": place, "runs": min(256, row.runs), "falselyBack": 0, "promoted": 0}
    found = {
        "fingerprint": fingerprint(),
        "by": {"latency-p95": 0, "errors": 0},
        "highest": 1.0,
        "delays": [],
        "passedAt": [],
        "requests": [],
    }
    return said | found | more


def write(file: Path, *lines: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return file


def cells(lines: list[str], name: str) -> list[str]:
    (found,) = [each for each in lines if each.startswith(f"| {name} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_rows_have_names_of_their_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) > 80


@pytest.mark.parametrize("group", GROUPS)
def test_every_row_has_a_target_and_a_policy_with_its_weights(group: str) -> None:
    for row in GROUPS[group]():
        followed = policy(row)
        assert followed.steps == row.weights
        assert row.target == "-" or row.target.startswith("<= ")
        goes_on = row.onset is None and not row.passes
        assert goes_on == (followed.on_inconclusive is OnDoubt.PROCEED)
        length = timedelta(seconds=row.duration / len(row.weights))
        assert followed.min_step == (timedelta(0) if row.passes else length)
        assert len(followed.checks) == (1 if row.only else 3)


def test_the_least_requests_are_those_that_were_published() -> None:
    """Of our design's study, which minimised over both p95 at once."""
    lognormal, pareto = Lognormal(0.050, 0.114), Pareto(2.2, 0.078)
    published = {
        (lognormal, 1.3): 1582.0,
        (lognormal, 1.5): 170.7,
        (lognormal, 2.0): 26.6,
        (pareto, 2.0): 93.0,
    }
    for (latency, factor), requests in published.items():
        assert least_requests(latency, factor) == pytest.approx(requests, rel=0.01)


def test_predictions_move_by_what_they_say_and_keep_their_spread() -> None:
    for by in (0.048, 0.16):
        moved = _moved(by)
        mean, variance = beta.stats(moved.a, moved.b)
        assert mean == pytest.approx(2 / 7 + by)
        assert variance == pytest.approx(beta.var(2, 5))


# -- batches ---------------------------------------------------------------------------------------


def test_what_is_written_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "runs.jsonl"
    other = replace(SHORT, name="other")
    measure([SHORT], file, workers=1)
    assert "1 of 1: short" in capsys.readouterr().err
    first = file.read_text()
    measure([SHORT, other], file, workers=1)
    assert capsys.readouterr().err == "1 of 1: other\n"
    assert file.read_text().startswith(first)
    assert set(finished(file)) == {("short", 0), ("other", 0)}
    measure([SHORT, other], file, workers=1)
    assert capsys.readouterr().err == ""


def test_a_batch_is_the_same_each_time_and_another_one_is_not() -> None:
    row = replace(
        SHORT, runs=258, onset=0.0, traffic=world(history=3.0, changes=[Change(at=0.0, factor=9.0)])
    )
    assert batch(row, 1) == batch(row, 1)
    assert batch(row, 1)["runs"] == 2
    assert batch(row, 1)["highest"] != batch(replace(row, runs=514), 2)["highest"]


def test_only_the_batches_that_are_not_there_are_missing(tmp_path: Path) -> None:
    row = replace(SHORT, runs=600)
    assert missing([row], tmp_path / "no.jsonl") == [(row, 0), (row, 1), (row, 2)]
    other = replace(row, name="other", runs=300)
    places = [place for _, place in missing([row, other], tmp_path / "no.jsonl")]
    assert places == [0, 0, 1, 1, 2]  # every row's first batches first
    file = write(tmp_path / "runs.jsonl", line(row, 1), line(row, 2, runs=88))
    assert missing([row], file) == [(row, 0)]


def test_a_batch_of_fewer_runs_than_are_asked_for_is_run_again_and_counted_once(tmp_path: Path) -> None:
    row = replace(SHORT, runs=256)
    file = write(tmp_path / "runs.jsonl", line(row, runs=16))
    assert missing([row], file) == [(row, 0)]
    write(file, line(row, runs=16), line(row))
    assert missing([row], file) == []
    assert missing([replace(row, runs=16)], file) == []
    assert cells(table([row], file), "short")[1] == "256"


def test_what_was_measured_of_another_engine_does_not_count(tmp_path: Path) -> None:
    file = write(tmp_path / "runs.jsonl", line(SHORT, fingerprint="0" * 8))
    assert missing([SHORT], file) == [(SHORT, 0)]
    assert finished(file) == {}
    assert batch(SHORT, 0)["fingerprint"] == fingerprint()


def test_an_engine_that_comes_to_other_numbers_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    fingerprint.cache_clear()
    assert fingerprint() == before
    fingerprint.cache_clear()
    monkeypatch.setattr(tracks, "BLOCK", 31.0)
    assert fingerprint() != before
    fingerprint.cache_clear()


def test_a_rollback_until_the_fault_is_false_and_later_ones_are_timed() -> None:
    at = np.array([10.0, 30.0, 31.0, np.inf, 90.0])
    ended = np.array([Ended.ROLLED_BACK] * 3 + [Ended.HELD, Ended.PROMOTED])
    check = np.array([1, 0, 0, -1, -1])
    found = Runs(ended, at, check, check, at, np.arange(5.0))
    said = _figures(replace(SHORT, onset=30.0), found)
    assert said["falselyBack"] == 2
    assert said["by"] == {"latency-p95": 1, "errors": 1, "predictions": 0}
    assert said["delays"] == [1.0, None, None]
    assert (said["promoted"], said["highest"]) == (1, 4.0)
    assert _figures(SHORT, found)["falselyBack"] == 3
    assert said["passedAt"] == said["requests"] == []
    assert _figures(replace(SHORT, passes=True), found)["passedAt"] == [None, None, None, None, 90.0]
    assert _figures(replace(SHORT, onset=30.0, bound=1.0), found)["requests"] == [
        10.0,
        30.0,
        31.0,
        None,
        None,
    ]


def test_the_first_batch_of_a_row_says_what_the_peers_would_have_done() -> None:
    slow = Change(at=2.0, factor=9.0)
    row = replace(SHORT, onset=2.0, duration=130.0, traffic=world(history=3.0, changes=[slow]))
    first = batch(row, 0)["peers"]
    assert tuple(first) == RIVALS
    assert first["Flagger (10 s x 2)"]["delays"] == [18.0, 18.0]
    assert batch(replace(row, runs=258), 1).keys() == batch(row, 0).keys() - {"peers"}


# -- the table -------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [*GROUPS, None])
def test_the_table_has_every_row_measured_or_not(tmp_path: Path, group: str | None) -> None:
    rows = GROUPS[group]() if group else ROWS
    lines = table(rows, tmp_path / "no.jsonl")
    for row in rows:
        columns = 8 if row.passes else 7 if row.bound else (6 if row.onset is None else 8) + len(RIVALS)
        assert len(cells(lines, row.name)) == columns


def test_batches_of_a_row_are_added_up(tmp_path: Path) -> None:
    row = replace(SHORT, runs=512)
    by = {"latency-p95": 2, "errors": 1}
    file = write(tmp_path / "runs.jsonl", line(row, 0, falselyBack=3, by=by), line(row, 1))
    oracle = binomtest(3, 512).proportion_ci(method="exact")
    bounds = f"{100 * oracle.low:.2f}-{100 * oracle.high:.2f} %"
    assert cells(table([row], file), "short")[1:6] == [
        *("512", "0.59 %", bounds, "latency-p95 2, errors 1", "<= 1 %")
    ]


def test_peers_have_columns_of_their_own(tmp_path: Path) -> None:
    def others(**said: Any) -> dict[str, Any]:
        return {"peers": dict.fromkeys(RIVALS, said)}

    write(tmp_path / "runs.jsonl", line(SHORT, **others(falselyBack=1, delays=[])), line(SHORT, 1))
    assert cells(table([SHORT], tmp_path / "runs.jsonl"), "short")[6:] == ["50 %"] * len(RIVALS)
    ill = replace(SHORT, onset=1.0)
    write(tmp_path / "runs.jsonl", line(ill, **others(falselyBack=1, delays=[7.0])))
    assert cells(table([ill], tmp_path / "runs.jsonl"), "short")[8:] == ["7 s (50 %)"] * len(RIVALS)
    write(tmp_path / "runs.jsonl", line(ill, **others(falselyBack=0, delays=[None, None])))
    assert cells(table([ill], tmp_path / "runs.jsonl"), "short")[8:] == ["never (0 %)"] * len(RIVALS)


def test_passes_are_counted_and_timed(tmp_path: Path) -> None:
    row = replace(SHORT, passes=True, only=LATENCY)
    file = write(tmp_path / "runs.jsonl", line(row, passedAt=[20.0, 30.0, 40.0, None], falselyBack=1))
    low, high = (f"{100 * each:.2f}" for each in interval(3, 4))
    assert cells(table([row], file), "short")[1:] == [
        *("4", "75.00 %", f"{low}-{high} %", "40 s", "never", "1", "<= 1 %")
    ]


def test_requests_are_told_beside_the_least_there_can_be(tmp_path: Path) -> None:
    row = replace(SHORT, bound=20.0, onset=0.0)
    file = write(tmp_path / "runs.jsonl", line(row, requests=[20.0, 40.0, None]))
    assert cells(table([row], file), "short")[1:6] == ["3", "20", "30", "1.5", "1"]


def test_delays_are_of_every_run_that_saw_the_fault(tmp_path: Path) -> None:
    row = replace(SHORT, name="x5", onset=30.0)
    file = tmp_path / "runs.jsonl"
    write(file, line(row, delays=[1.0, 2.0, 3.0, 4.0, None], falselyBack=1))
    assert cells(table([row], file), "x5")[1:7] == ["6", "3 s", "never", "2.5 s", "1", "1"]
    write(file, line(row, delays=[], falselyBack=2))
    assert cells(table([row], file), "x5")[1:7] == ["2", "-", "-", "-", "0", "2"]


@pytest.mark.parametrize(("count", "runs"), [(0, 2048), (1, 2048), (20, 2048), (256, 256)])
def test_intervals_are_the_exact_binomial_ones(count: int, runs: int) -> None:
    oracle = binomtest(count, runs).proportion_ci(method="exact")
    assert interval(count, runs) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prints_what_is_there_and_measures_nothing_if_so_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["faults", "--table", "--rows", "p95 x2", "--file", str(tmp_path / "no.jsonl")]
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    main()
    rows = [row for row in GROUPS["faults"]() if "p95 x2" in row.name]
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)
    assert not (tmp_path / "no.jsonl").exists()


def test_a_group_that_there_is_not_is_bad_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "nuls"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "no group nuls; there are nulls-60," in capsys.readouterr().err


def test_it_has_a_target_of_its_own_in_the_makefile() -> None:
    root = Path(bench_statistics.__file__).parents[1]
    assert "\n\t$(BIN)/python -m scenarios.bench_statistics\n" in (root / "Makefile").read_text()
    assert "`make bench-statistics`" in (root / "docs" / "testing.md").read_text()
