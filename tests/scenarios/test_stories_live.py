"""Four stories as people see them: a real Envoy, real model servers, the controller's own process."""

from pathlib import Path

import pytest

from scenarios.lab import play
from scenarios.plot import Outcome
from scenarios.story import load

pytestmark = pytest.mark.live

STORIES = Path(__file__).parents[2] / "scenarios"


@pytest.mark.parametrize(
    ("name", "outcome", "reasons"),
    [
        ("good-canary", Outcome.PROMOTED, {"Promoted"}),
        ("latency-doubles", Outcome.ROLLED_BACK, {"CheckFailed"}),
        ("errors-burst", Outcome.ROLLED_BACK, {"CheckFailed"}),
        ("canary-hangs", Outcome.ROLLED_BACK, {"CanaryNotAnswering", "CanaryUnavailable"}),
    ],
)
async def test_a_story_ends_live_as_it_should_and_loses_no_request(
    name: str, outcome: Outcome, reasons: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    happened: list[str] = []
    result = await play(load(STORIES / f"{name}.yaml"), report=happened.append)
    assert (result.outcome, result.reason in reasons) == (outcome, True), "\n".join(happened)
    assert result.weights[-1][1] == 0
    assert result.requests.failed == 0
    assert result.requests.canary > 50
    assert result.seconds_to_weight_zero is not None
