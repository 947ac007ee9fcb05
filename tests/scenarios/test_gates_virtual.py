"""A gate that opens late: what passed before it was reached is asked once more."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from scenarios import story as stories
from scenarios.objects import NAMESPACE
from scenarios.play import Theatre, play, silent
from scenarios.virtual.loop import run_virtual

STORY = """
apiVersion: serin.dev/v1alpha1
kind: Scenario
metadata: {{name: late-gate}}
spec:
  seed: 7
  duration: 500s
  traffic: {{requestsPerSecond: 100}}
  history: 60s
  stable:
    replicas: 3
    latency: {{distribution: lognormal, median: 20ms, p95: 60ms}}
    errorRate: 0.1%
    predictions: {{distribution: beta, a: 2, b: 5}}
  canary: {{replicas: 2}}
  faults: [{faults}]
  policy:
    steps: [10]
    warmUp: 5s
    minStep: 30s
    preflight: "Off"
    gates: [{{before: Promotion, manual: {{}}}}]
  expect: {{outcome: Held}}
"""
SLOWER = "{at: 100s, arm: canary, latencyFactor: 1.35}"  # beyond the margin of 20 %, and seen late


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


async def approving(stage: Theatre, *, once: str, after: float) -> None:
    """Somebody approves as soon as a run that has passed says so of its latency, some time later."""
    for _ in range(500):
        await asyncio.sleep(1)
        for run in stage.world.objects("canaryruns", NAMESPACE):
            status = run.get("status") or {"state": {}}
            said = {check["name"]: check["verdict"] for check in status.get("checks", ())}
            if status["state"].get("passed") and said["latency-p95"] == once and stage.now > after:
                stage.world.patch(
                    "canaryruns", NAMESPACE, run["metadata"]["name"], {"spec": {"approved": ["ann"]}}
                )
                return


def played(faults: str, *, once: str, after: float = 0.0) -> Theatre:
    async def through() -> Theatre:
        stage = Theatre(stories.loads(STORY.format(faults=faults), file="gate.yaml"), report=silent)
        person = asyncio.create_task(approving(stage, once=once, after=after))
        await stage.through()
        person.cancel()
        return stage

    return run_virtual(through())


def test_a_canary_that_turned_bad_at_a_gate_is_not_promoted_by_an_approval() -> None:
    stage = played(SLOWER, once="Inconclusive", after=170)  # before 160 s it was well, and may be promoted
    (run,) = stage.world.objects("canaryruns", NAMESPACE)
    assert run["spec"]["approved"] == ["ann"]
    assert run["status"]["phase"] != "Succeeded"
    assert stage.result.outcome in {"Held", "RolledBack"}


def test_a_canary_that_is_still_well_is_promoted_by_it() -> None:
    assert played("", once="Pass", after=300).result.outcome == "Promoted"


def test_in_a_story_a_webhook_says_yes_and_an_edit_may_speak_for_a_person() -> None:
    """docs/stories.md, "Who answers gates"; the question comes once there are pods."""
    text = STORY.format(faults="").replace(
        "gates: [", "gates: [{before: Start, webhook: {url: 'http://a.example/'}}, "
    )
    at, said = 120, {}

    def told(line: str) -> None:
        if found := re.search(r"([\d.-]+) s +AwaitingApproval: .* approve (\S+) -n lab", line):
            said[found[2]] = float(found[1])

    play(stories.loads(text, file="gate.yaml"), report=told)
    ((run, when),) = said.items()
    assert 0 < when < at
    edit = {
        "at": f"{at}s",
        "patch": {"kind": "CanaryRun", "name": run, "merge": {"spec": {"approved": ["ann"]}}},
    }
    expected = text.replace("outcome: Held", "outcome: Promoted").replace(
        "faults:", f"edits: [{json.dumps(edit)}]\n  faults:"
    )
    assert play(stories.loads(expected, file="gate.yaml")).ok
