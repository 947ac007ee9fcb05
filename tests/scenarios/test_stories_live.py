"""Stories as people see them: a real Envoy, real model servers, the controller's own process."""

from pathlib import Path

import pytest

from scenarios.lab import Lab, interruptible
from scenarios.live.shadow import RECORDER
from scenarios.plot import Outcome
from scenarios.result import Result
from scenarios.story import load

pytestmark = pytest.mark.live

STORIES = Path(__file__).parents[2] / "scenarios"
HOST, _, PORT = RECORDER.partition(":")
PROMOTED, ROLLED_BACK, HELD = Outcome.PROMOTED, Outcome.ROLLED_BACK, Outcome.HELD
GONE = {"CanaryNotAnswering", "CanaryUnavailable"}


@pytest.mark.parametrize(
    ("name", "outcome", "reasons"),
    [
        ("good-canary", PROMOTED, {"Promoted"}),
        ("latency-doubles", ROLLED_BACK, {"CheckFailed"}),
        ("errors-burst", ROLLED_BACK, {"CheckFailed"}),
        ("canary-hangs", ROLLED_BACK, GONE),
        ("shadow-good-requantised", PROMOTED, {"Promoted"}),
        ("shadow-wrong-preprocessing", ROLLED_BACK, {"CheckFailed"}),
        ("shadow-recorder-dies", HELD, {"NoData"}),
    ],
)
async def test_a_story_ends_live_as_it_should_and_loses_no_request(
    name: str, outcome: Outcome, reasons: set[str], tmp_path: Path
) -> None:
    happened: list[str] = []
    interruptible()
    lab = Lab(load(STORIES / f"{name}.yaml"), folder=tmp_path, report=happened.append)
    async with lab.open():
        await lab.run()
        counted = await lab.envoy.counters(f"^http.ingress.downstream_rq|{HOST}")
    result = lab.result()
    assert (result.outcome, result.reason in reasons) == (outcome, True), "\n".join(happened)
    assert result.requests.failed == 0
    look = globals().get(f"look_{name.replace('-', '_')}", look_at_a_run_that_had_traffic)
    look(result, counted)


def look_at_a_run_that_had_traffic(result: Result, _counted: dict[str, int]) -> None:
    assert result.weights[-1][1] == 0
    assert result.requests.canary > 50
    assert result.seconds_to_weight_zero is not None


def look_shadow_wrong_preprocessing(result: Result, _counted: dict[str, int]) -> None:
    """Envoy's copies of requests roll a canary back before a user saw it."""
    assert (result.check, result.requests.canary) == ("shadow", 0)
    assert result.requests.stable > 50
    (shadow,) = [check for check in result.evidence["checks"] if check["name"] == "shadow"]
    assert shadow["canaryRequests"] > 5  # all wrong is decided by nine or so


def look_shadow_recorder_dies(result: Result, counted: dict[str, int]) -> None:
    """Envoy goes on copying to nobody, and no caller has anything else than its answer."""
    assert result.requests.canary == 0
    assert result.requests.stable > 700
    callers = {name.rpartition("_rq_")[2]: n for name, n in counted.items() if "downstream_rq_" in name}
    assert callers["2xx"] > 700
    assert (callers["4xx"], callers["5xx"], callers["timeout"], callers["rx_reset"]) == (0, 0, 0, 0)
    assert mirrored(counted, "upstream_rq_2xx") > 100  # 202: the recorder's, while it was there
    assert mirrored(counted, "upstream_cx_connect_fail") > 100  # nobody listens any more


def mirrored(counted: dict[str, int], what: str) -> int:
    """What Envoy counted of its cluster for the recorder."""
    return counted[f"cluster.outbound|{PORT}||{HOST}.{what}"]
