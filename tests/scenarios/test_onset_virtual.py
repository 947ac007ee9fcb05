"""When a fault began to show, beside when it began: only the story knows that."""

from pathlib import Path

import pytest

from controller.operate import Operator
from controller.telemetry import Telemetry
from scenarios import story
from scenarios.play import play

SCENARIOS = Path(__file__).parents[2] / "scenarios"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Telemetry]:
    """Of each controller that a story starts."""
    kept: list[Telemetry] = []

    def operator(*given: object, **named: object) -> Operator:
        made = Operator(*given, **named)  # type: ignore[arg-type]
        kept.append(made.telemetry)
        return made

    monkeypatch.setattr("scenarios.play.Operator", operator)
    return kept


def total(said: list[Telemetry], series: str, **labels: str) -> float:
    return sum(one.registry.get_sample_value(series, labels) or 0.0 for one in said)


@pytest.mark.parametrize(
    ("name", "reason", "off"),
    [
        ("errors-burst", "CheckFailed", 2.0),
        ("latency-doubles", "CheckFailed", 3.0),
        ("canary-blackholed", "CanaryNotAnswering", 2.0),
        ("crash-loop", "CanaryUnavailable", 2.0),
    ],
)
def test_the_time_from_fault_to_rollback_is_near_the_true_one(
    said: list[Telemetry], name: str, reason: str, off: float
) -> None:
    found = play(story.load(SCENARIOS / f"{name}.yaml"))
    assert found.reason == reason
    assert found.seconds_to_weight_zero is not None
    assert total(said, "canary_fault_to_rollback_seconds_count", reason=reason) == 1
    measured = total(said, "canary_fault_to_rollback_seconds_sum", reason=reason)
    assert measured == pytest.approx(found.seconds_to_weight_zero, abs=off)


def test_a_good_canary_has_none(said: list[Telemetry]) -> None:
    assert play(story.load(SCENARIOS / "good-canary.yaml")).ok
    assert said
    for one in said:
        assert b'canary_fault_to_rollback_seconds_count{reason="CheckFailed"} 0.0' in one.page()[0]
