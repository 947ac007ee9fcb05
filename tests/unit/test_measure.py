"""What the access log says about a story."""

import json
from pathlib import Path
from typing import Any

from scenarios.live.measure import Entry, Tail, entries, measured, p95

CANARY = "outbound|80|canary|model.lab.svc.cluster.local"
STABLE = "outbound|80|stable|model.lab.svc.cluster.local"


def line(start: float, cluster: str | None, code: int = 200, **more: Any) -> str:
    said = {"start": f"{start:.6f}", "took": 20, "cluster": cluster, "code": code, "flags": "-"}
    said |= {"attempts": 1, "lastAttempt": 1_000, "host": "127.0.0.2:8080", "injected": None}
    return json.dumps({**said, **more}) + "\n"


def log(tmp_path: Path, *lines: str) -> list[Entry]:
    file = tmp_path / "access.jsonl"
    file.write_text("".join(lines))
    return entries(file)


def nobody(_said: Entry) -> bool:
    return False


def test_the_last_routed_request_is_the_last_to_start_and_not_the_last_to_end(tmp_path: Path) -> None:
    found = measured(
        log(
            tmp_path,
            line(10.0, STABLE),
            line(12.5, CANARY),
            line(11.0, CANARY, took=5_000),
            line(20.0, STABLE),
        ),
        until=99,
        excused=nobody,
    )
    assert (found.first_routed, found.last_routed) == (11.0, 12.5)
    assert (found.stable, found.canary, found.failed) == (2, 2, 0)


def test_the_last_attempt_is_the_last_retry_that_still_reached_the_canary(tmp_path: Path) -> None:
    retried = line(10.0, CANARY, attempts=3, lastAttempt=4_200_000)
    found = measured(log(tmp_path, retried, line(11.0, CANARY)), until=99, excused=nobody)
    assert found.last_attempt == 14.2
    assert found.last_routed == 11.0


def test_ordered_failures_and_callers_who_leave_at_the_end_are_not_lost_requests(tmp_path: Path) -> None:
    found = measured(
        log(
            tmp_path,
            line(10.0, CANARY, 500, injected="error"),
            line(11.0, CANARY, 503, flags="UF"),
            line(12.0, STABLE, 503, flags="UH"),
            line(29.9, STABLE, 0, flags="DC", took=100),
        ),
        until=30.0,
        excused=lambda said: said.arm == "canary",
    )
    assert found.failed == 1


def test_a_story_without_canary_requests_has_no_times(tmp_path: Path) -> None:
    found = measured(log(tmp_path, line(10.0, STABLE), line(11.0, None, 404)), until=99, excused=nobody)
    assert (found.first_routed, found.last_routed, found.last_attempt) == (None, None, None)
    assert (found.stable, found.failed) == (1, 1)


def test_a_line_that_is_not_written_to_its_end_is_left_out(tmp_path: Path) -> None:
    assert len(log(tmp_path, line(10.0, STABLE), line(11.0, STABLE)[:40])) == 1


def test_a_tail_gives_each_request_once_and_waits_for_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl"
    tail = Tail(file)
    assert list(tail.new()) == []
    file.write_text(line(10.0, STABLE) + line(11.0, STABLE)[:30])
    assert [said.start for said in tail.new()] == [10.0]
    file.write_text(line(10.0, STABLE) + line(11.0, STABLE))
    assert [said.start for said in tail.new()] == [11.0]


def test_p95_is_an_observation_and_none_of_nothing() -> None:
    assert p95(float(second) for second in range(100)) == 95.0
    assert p95([]) is None
