"""Stories as people see them: a real Envoy, real model servers, the controller's own process."""

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


async def test_requests_mirrored_by_envoy_roll_a_canary_back_before_a_user_saw_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    happened: list[str] = []
    result = await play(load(STORIES / "shadow-wrong-preprocessing.yaml"), report=happened.append)
    assert (result.ok, result.check) == (True, "shadow"), "\n".join(happened)
    assert (result.requests.canary, result.requests.failed) == (0, 0)
    assert result.requests.stable > 50
    (shadow,) = [check for check in result.evidence["checks"] if check["name"] == "shadow"]
    assert shadow["canaryRequests"] > 20


async def test_a_requantised_canary_is_promoted_once_mirrored_requests_have_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    happened: list[str] = []
    result = await play(load(STORIES / "shadow-good-requantised.yaml"), report=happened.append)
    assert result.ok, "\n".join(happened)
    assert result.requests.failed == 0


async def test_a_worker_that_dies_costs_production_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    happened: list[str] = []
    result = await play(load(STORIES / "shadow-recorder-dies.yaml"), report=happened.append)
    assert (result.ok, result.reason) == (True, "NoData"), "\n".join(happened)
    assert (result.requests.canary, result.requests.failed) == (0, 0)
    assert result.requests.stable > 1_000
