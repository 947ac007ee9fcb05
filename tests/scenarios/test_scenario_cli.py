"""`serin scenario run`: exit codes, the table, and the JSON."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from scenarios import lab
from scenarios.cli import scenario

STORY = Path(__file__).parents[2] / "scenarios" / "bad-annotation.yaml"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(scenario, ["run", *map(str, arguments)])


def test_a_story_that_ends_as_expected_exits_with_0_and_tells_what_happened(tmp_path: Path) -> None:
    said = run(STORY, "--json", tmp_path / "out.json")
    assert said.exit_code == 0, said.output
    assert "bad-annotation (virtual), expected: Held (Refused)" in said.stderr
    assert "0.0 s  the canary's pods are started" in said.stderr
    assert "ok  bad-annotation" in said.stderr
    assert "weight 0: until the last request was routed to" in said.stderr  # what its columns are
    assert said.stderr.endswith("play it --live on a terminal, and it prints how.\n")
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert result["name"] == "bad-annotation"
    assert result["ok"] is True


def test_a_story_that_ends_otherwise_exits_with_3(tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(STORY.read_text().replace("outcome: Held, reason: Refused", "outcome: Promoted"))
    said = run(file, "--quiet", "--json", "-")
    assert said.exit_code == 3
    assert "NOT  bad-annotation" in said.stderr
    assert json.loads(said.stdout)[0]["outcome"] == "Held"
    assert "pods are started" not in said.stderr


def test_a_good_canary_is_not_met_with_a_checklist_that_nobody_can_pass_there() -> None:
    said = run(STORY.with_name("good-canary.yaml"))
    assert said.exit_code == 0, said.output
    assert "WeightRaised" in said.stderr
    assert "still at 20 %: waits for latency-p95 (Inconclusive)" in said.stderr
    assert "PreflightFailed" not in said.stderr


SHORT = """
apiVersion: serin.dev/v1alpha1
kind: Scenario
metadata: {name: short}
spec:
  duration: 40s
  history: 20s
  traffic: {requestsPerSecond: 100}
  stable: {replicas: 3, latency: {distribution: lognormal, median: 20ms, p95: 60ms}, errorRate: 0.1%}
  policy: {steps: [10, 50]}
  expect: {outcome: Promoted}
"""


def test_a_story_whose_time_was_up_says_so_and_how_its_checks_stood(tmp_path: Path) -> None:
    file = tmp_path / "short.yaml"
    file.write_text(SHORT)
    said = run(file, "--quiet")
    assert said.exit_code == 3
    assert "NOT  short  Held     (time was up)" in said.stderr
    assert "expect.outcome: wanted Promoted, got Held" in said.stderr
    assert "the story ended at its duration (40 s); the run was still going, and at 100 requests" in (
        said.stderr
    )
    assert "its steps take at least 2 min: give a longer duration" in said.stderr
    assert "phase Progressing, verdict" in said.stderr
    assert "latency-p95: " in said.stderr


@pytest.mark.parametrize(("ending", "code"), [(KeyboardInterrupt, 130), (asyncio.CancelledError, 143)])
def test_a_story_that_is_interrupted_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, ending: type[BaseException], code: int
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise ending

    monkeypatch.setattr("scenarios.cli.play", interrupted)
    said = run(STORY, "--quiet")
    assert said.exit_code == code
    assert re.fullmatch(r"Ended early at \d+ s; everything is cleaned up\.\n", said.stderr)


def test_a_story_without_a_verb_is_told_the_verb() -> None:
    said = CliRunner().invoke(scenario, ["err4.yaml"], prog_name="serin scenario")
    assert said.exit_code == 2
    assert "did you mean serin scenario run err4.yaml?" in said.stderr


def test_a_malformed_file_exits_with_2_before_anything_is_played(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(STORY.read_text().replace("duration: 30s", "duration: 30"))
    said = run(STORY, file)
    assert said.exit_code == 2
    assert said.stderr == f'Error: {file}: spec.duration: expected a duration like "20s", got 30\n'


def test_a_file_that_is_not_there_exits_with_2(tmp_path: Path) -> None:
    said = run(tmp_path / "no.yaml")
    assert said.exit_code == 2
    assert "cannot be read" in said.stderr


def test_a_misspelt_field_of_the_policy_exits_with_2_and_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(STORY.read_text().replace("  policy:", "  policy:\n    stepz: [5]"))
    said = run(file)
    assert said.exit_code == 2
    assert said.stderr == f"Error: {file}: spec.policy.stepz: unknown field; did you mean steps?\n"


def test_a_folder_for_the_results_that_is_not_there_exits_with_2_before_anything_is_played() -> None:
    said = run(STORY, "--json", "/no/such/folder/out.json")
    assert said.exit_code == 2
    assert "there is no folder /no/such/folder" in said.stderr
    assert "pods are started" not in said.stderr


def test_no_file_is_bad_usage() -> None:
    assert run().exit_code == 2


def test_a_story_of_sentences_is_for_virtual_time_alone_and_keeps_none_beside_it_waiting() -> None:
    """It was said after the stories before it had been played for minutes, and their results were lost."""
    said = run(STORY, STORY.with_name("shadow-embedding-good.yaml"), "--live")
    assert said.exit_code == 2
    assert "(live), expected" not in said.stderr
    assert "the live lab's pods serve digits; play it in virtual time" in said.stderr


def test_what_failed_is_said_once_of_a_story_that_is_not_met(tmp_path: Path) -> None:
    """Once while it happens, and once below the table: the message was the check's line again."""
    text = (STORY.parent / "errors-burst.yaml").read_text()
    file = tmp_path / "met-not.yaml"
    file.write_text(re.sub(r"expect: .*", "expect: {outcome: Promoted}", text))
    said = run(file, "--quiet")
    assert said.exit_code == 3
    assert said.stderr.count("the error rate at the canary is") == 1


def test_a_live_story_says_that_its_history_is_not_played(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five minutes of `history` were neither waited for nor refused, and nobody said so."""

    async def failed(*_: object, **__: object) -> None:
        raise lab.LabFailed("Envoy did not start")

    monkeypatch.setattr(lab, "play", failed)
    said = run(STORY, "--live")
    assert said.exit_code == 1
    assert "history is for virtual time alone, and is not played" in said.stderr
    assert "history is for virtual" not in run(STORY).stderr
