"""What `make demo` prints and returns; the playing itself is tested live."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scenarios import demo
from scenarios.demo import Check, Told, bar, kept, summary
from scenarios.lab import LabFailed
from scenarios.live.usage import Usage
from scenarios.plot import Outcome
from scenarios.result import Requests, Result
from scenarios.story import load

STORY = load(Path(__file__).parents[2] / "scenarios" / "good-canary.yaml")


def told(outcome: Outcome) -> Told:
    result = Result(
        name="x",
        ok=True,
        mode="live",
        outcome=str(outcome),
        reason="CheckFailed",
        check=None,
        seconds_to_verdict=40.0,
        seconds_to_weight_zero=7.25,
        last_attempt=7.25,
        weights=((0.0, 0),),
        requests=Requests(stable=900, canary=100),
        evidence={},
    )
    return Told(STORY, result, Usage(peak=450_000_000), 60.0)


def played(*outcomes: Outcome) -> Callable[[str, int], Any]:
    left = list(outcomes)

    async def play(_name: str, _number: int) -> Told:
        return told(left.pop(0))

    return play


@pytest.fixture(autouse=True)
def any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "checks", lambda: (Check("system", "Linux", fine=True, remedy=""),))


def test_it_succeeds_only_if_one_version_was_promoted_and_the_other_rolled_back() -> None:
    assert demo.main(played(Outcome.PROMOTED, Outcome.ROLLED_BACK)) == 0
    assert demo.main(played(Outcome.PROMOTED, Outcome.HELD)) == 3
    assert demo.main(played(Outcome.ROLLED_BACK, Outcome.ROLLED_BACK)) == 3
    assert not kept([told(Outcome.PROMOTED)])


def test_it_says_what_its_lines_leave_open_and_where_to_go_from_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    demo.main(played(Outcome.PROMOTED, Outcome.ROLLED_BACK))
    said = capsys.readouterr().out
    assert said.index("of stable's load per pod") < said.index("Summary") < said.index("your own model")
    assert max(map(len, (*demo.LEGEND, *demo.NEXT))) <= 110
    root = Path(__file__).parents[2]
    for page in ("docs/quickstart.md", "docs/testing.md", "manifests/samples"):
        assert page in said
        assert (root / page).exists()
    assert "## A story of your own" in (root / "docs" / "testing.md").read_text()


def test_a_machine_that_cannot_play_it_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        demo, "checks", lambda: (Check("memory", "900 MB free", fine=False, remedy="free some"),)
    )
    assert demo.main(played()) == 1
    assert "900 MB free   <- free some" in capsys.readouterr().out


def test_a_lab_that_does_not_work_is_not_a_canary_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    async def play(_name: str, _number: int) -> Told:
        raise LabFailed("Envoy did not start")

    assert demo.main(play) == 1
    assert "Envoy did not start" in capsys.readouterr().out


def test_what_comes_next_can_be_typed_where_path_has_no_serin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`make demo` works without PATH; what it said to type then did not."""

    async def play(_name: str, number: int) -> Told:
        return told(Outcome.PROMOTED if number == 1 else Outcome.ROLLED_BACK)

    monkeypatch.setenv("PATH", str(tmp_path))
    assert demo.main(play) == 0
    typed = [line for line in capsys.readouterr().out.splitlines() if "bin/serin" in line]
    assert [Path(line.split("  ")[-1].split()[0]).exists() for line in typed] == [True, True]


def test_ctrl_c_is_told_and_is_not_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    async def play(_name: str, _number: int) -> Told:
        raise KeyboardInterrupt

    assert demo.main(play) == 130
    assert "cleaned up" in capsys.readouterr().out


def test_the_summary_has_the_seconds_and_what_was_lost() -> None:
    text = "\n".join(summary([told(Outcome.PROMOTED), told(Outcome.ROLLED_BACK)], seconds=130))
    assert "promoted 40 s after its first request" in text
    assert "the last request reached it 7.2 s after it turned bad" in text
    assert "1000 requests, 100 of them to the new version; 0 lost" in text
    assert "130 s in all, at most 450 MB" in text


def test_a_bar_is_as_full_as_its_share() -> None:
    assert (bar(0.0, 4), bar(0.5, 4), bar(1.0, 4), bar(1.3, 4)) == ("....", "##..", "####", "####")
