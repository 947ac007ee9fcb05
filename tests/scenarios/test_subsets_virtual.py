"""Somebody edits the DestinationRule in the middle of a run, or a pod's labels."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from scenarios import story as stories
from scenarios.objects import NAMESPACE
from scenarios.play import Theatre, silent
from scenarios.virtual.loop import run_virtual

STORY = """
apiVersion: serin.dev/v1alpha1
kind: Scenario
metadata: {{name: subsets}}
spec:
  seed: 7
  duration: 200s
  traffic: {{requestsPerSecond: 100}}
  history: 60s
  stable:
    replicas: 3
    latency: {{distribution: lognormal, median: 20ms, p95: 60ms}}
    errorRate: 0.1%
    predictions: {{distribution: beta, a: 2, b: 5}}
  canary: {{replicas: 2}}
  faults: [{faults}]
  edits: [{edits}]
  policy: {{steps: [10, 50], warmUp: 5s, minStep: 30s, preflight: "Off"}}
  expect: {{outcome: Held}}
"""
STABLE, CANARY = "{name: stable, labels: {version: stable}}", "{name: canary, labels: {version: canary}}"
ALL = "{name: stable, labels: {}}"
SWAPPED = "{name: stable, labels: {version: canary}}, {name: canary, labels: {version: stable}}"
EDITED = {
    "the canary subset selects stable's pods": (
        f"{STABLE}, {{name: canary, labels: {{version: stable}}}}",
        "spec.subsets[canary].labels is version=stable",
    ),
    "there is no canary subset": (STABLE, "DestinationRule model: spec.subsets is stable: add subset canary"),
    "the stable subset selects all pods": (f"{ALL}, {CANARY}", "spec.subsets[stable].labels is empty"),
    "they are swapped": (SWAPPED, "spec.subsets[stable].labels is version=canary"),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


def rule(at: int, subsets: str) -> str:
    merge = f"{{spec: {{subsets: [{subsets}]}}}}"
    return f"{{at: {at}s, patch: {{kind: DestinationRule, name: model, merge: {merge}}}}}"


def played(*edits: str, faults: str = "") -> Theatre:
    text = STORY.format(edits=", ".join(edits), faults=faults)
    return run_virtual(Theatre.play(stories.loads(text, file="subsets.yaml"), report=silent))


@pytest.mark.parametrize(("subsets", "said"), EDITED.values(), ids=EDITED)
def test_nothing_is_raised_while_the_subsets_do_not_tell_the_arms_apart(subsets: str, said: str) -> None:
    stage = played(rule(15, subsets))
    (run,) = stage.world.objects("canaryruns", NAMESPACE)
    assert [weight for _, weight in stage.result.weights] == [0, 10]
    assert run["status"]["reason"] == "Refused"
    assert said in run["status"]["message"]


def test_a_route_for_testers_is_told_with_the_raise() -> None:
    headers = 'match: [{headers: {x-tester: {exact: "yes"}}}]'
    tester = f"{{{headers}, route: [{{destination: {{host: model, subset: canary}}}}]}}"
    split = ", ".join(
        f"{{destination: {{host: model, subset: {arm}}}, weight: {n}}}"
        for arm, n in (("stable", 100), ("canary", 0))
    )
    merge = f"{{spec: {{http: [{tester}, {{route: [{split}]}}]}}}}"
    stage = played(f"{{at: 0s, patch: {{kind: VirtualService, name: model, merge: {merge}}}}}")
    told = [
        event.get("note") or event.get("message", "") for event in stage.world.objects("events", NAMESPACE)
    ]
    assert any("step 1 of 2" in note and "(spec.http[0] leads whom it matches" in note for note in told)
    assert stage.result.outcome == "Promoted"


def test_once_they_do_again_the_run_goes_on() -> None:
    stage = played(rule(15, STABLE), rule(60, f"{STABLE}, {CANARY}"))
    assert stage.result.outcome == "Promoted"
    assert stage.result.weights[2][0] > 60


def test_meanwhile_requests_that_fail_still_take_the_traffic_away() -> None:
    fault = "{at: 40s, arm: canary, errorRate: 20%}"
    stage = played(rule(15, f"{ALL}, {CANARY}"), faults=fault)
    assert (stage.result.outcome, stage.result.check) == ("RolledBack", "errors")
    assert stage.result.weights[-1][0] < 55
