"""What a worker keeps of its replays, and when it does not trust it."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from analysis.judge import Verdict
from gpu_shadow import states
from gpu_shadow.compare import Margins, compare
from gpu_shadow.model import Model
from gpu_shadow.replay import Replay
from gpu_shadow.states import States

QUESTION = {"run": "lab/run-1", "generation": "1"}
MODEL = Model(takes="", task="classification", fit=lambda _: "no", answer=lambda _: torch.empty(0))


def replay(requests: int = 0, *, wrong: bool = False, task: str = "classification") -> Replay:
    """One that has compared so many requests, all of them alike or all of them wrong."""
    answers = torch.randn(requests, 4, generator=torch.Generator().manual_seed(1))
    ids = [f"r{number}" for number in range(requests)]
    found = compare(answers, answers, answers.flip(1) if wrong else answers, ids) if requests else None
    one = Replay(MODEL, MODEL, Margins(task=task))
    if found is not None:
        one.resume(found, {})
    return one


def kept(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_a_restarted_worker_goes_on_from_what_was_kept(tmp_path: Path) -> None:
    before = replay(100)
    before.unfit["odd"] = 3
    States(tmp_path).keep(QUESTION, before)
    after = replay()
    States(tmp_path).resume(QUESTION, after)
    assert after.comparison == before.comparison
    assert after.finding == before.finding
    assert after.unfit == {"odd": 3}
    assert not after.decided


def test_a_verdict_stands_after_a_restart(tmp_path: Path) -> None:
    States(tmp_path).keep(QUESTION, replay(100, wrong=True))
    after = replay()
    States(tmp_path).resume(QUESTION, after)
    assert after.finding is not None
    assert after.finding.verdict is Verdict.FAIL


def test_what_was_compared_under_another_redaction_is_of_other_requests(tmp_path: Path) -> None:
    before = replay(100)
    before.redacted.add("x[3] set to zero")
    States(tmp_path, redaction="sha256:1").keep(QUESTION, before)
    for other in ("", "sha256:2"):
        after = replay()
        States(tmp_path, redaction=other).resume(QUESTION, after)
        assert after.comparison is None
    States(tmp_path, redaction="sha256:1").resume(QUESTION, after := replay())
    assert after.finding == before.finding
    assert after.redacted == {"x[3] set to zero"}  # the verdict says so still


def test_it_is_written_by_the_clock_whatever_the_evidence_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(states.time, "monotonic", lambda: now[0])
    folder = States(tmp_path)

    def written(one: Replay, **how: Any) -> bool:
        for path in tmp_path.iterdir():
            path.unlink()
        folder.keep(QUESTION, one, **how)
        return any(tmp_path.iterdir())

    assert not written(replay())  # nothing compared, nothing to keep
    assert written(replay(10))
    assert not written(replay(20))
    now[0] += states.EVERY
    assert written(replay(20))
    assert not written(replay(30))
    assert not written(replay(100, wrong=True))
    assert written(replay(100, wrong=True), now=True)


def test_what_is_torn_or_of_another_question_is_left_alone_with_a_line_in_the_log(tmp_path: Path) -> None:
    States(tmp_path).keep(QUESTION, replay(100))
    path, body = kept(tmp_path), kept(tmp_path).read_bytes()

    def ignored(question: Any = QUESTION, task: str = "classification") -> bool:
        fresh = replay(task=task)
        with capture_logs() as lines:
            States(tmp_path).resume(question, fresh)
        said = [line["event"] for line in lines]
        return fresh.comparison is None and said == ["state_ignored"]

    assert not ignored()
    assert ignored(task="regression")
    for foreign in (body[:-5], b"", b"\xff\xfe", b"[" * 100_000, b'{"schema": "serin.dev/shadow-part/v1"}'):
        path.write_bytes(foreign)
        assert ignored()
    other = QUESTION | {"generation": "2"}
    States(tmp_path).keep(other, replay(100))
    (theirs,) = set(tmp_path.iterdir()) - {path}
    theirs.rename(path)
    assert ignored()


def test_without_a_folder_or_a_file_nothing_happens(tmp_path: Path) -> None:
    for folder in (States(None), States(tmp_path)):
        fresh = replay()
        folder.resume(QUESTION, fresh)
        folder.drop(QUESTION)
        assert fresh.comparison is None
    States(None).keep(QUESTION, replay(10))


def test_a_disk_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    folder = States(tmp_path / "gone")
    with capture_logs() as lines:
        for _ in range(3):
            folder.keep(QUESTION, replay(10), now=True)
    assert [line["event"] for line in lines] == ["state_not_written"]


def test_files_that_nobody_asks_for_are_gone_a_day_later(tmp_path: Path) -> None:
    old, new, folder = QUESTION | {"run": "lab/old"}, QUESTION, States(tmp_path)
    folder.keep(old, replay(10))
    path = kept(tmp_path)
    os.utime(path, (0, time.time() - states.FORGOTTEN_AFTER - 60))
    folder.resume(new, replay())
    folder.keep(new, replay(10))
    assert not path.exists()
    assert kept(tmp_path)


def test_what_is_dropped_is_gone(tmp_path: Path) -> None:
    folder = States(tmp_path)
    folder.keep(QUESTION, replay(10))
    folder.drop(QUESTION)
    assert not list(tmp_path.iterdir())
