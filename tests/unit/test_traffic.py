"""Requests without requests: what virtual pods count is what the story says, and nothing is lost."""

from dataclasses import replace

import numpy as np
import pytest

from scenarios.page import SECONDS
from scenarios.plot import Arm, ArmFault, Story
from scenarios.story import loads
from scenarios.virtual.traffic import PodPage, Traffic, VirtualPod

BUCKET = "model_inference_duration_seconds_bucket"
STORY = """
apiVersion: serin.dev/v1alpha1
kind: Scenario
metadata: {{name: x}}
spec:
  seed: {seed}
  duration: 120s
  traffic: {{requestsPerSecond: 200}}
  propagation: 500ms
  stable:
    replicas: 3
    latency: {{distribution: lognormal, median: 20ms, p95: 60ms}}
    errorRate: 1%
  faults: [{fault}]
  expect: {{outcome: Promoted}}
"""


class Street:
    """A story's traffic with two ready pods an arm, and a clock that is set by hand."""

    def __init__(self, *, fault: str = "", seed: int = 1) -> None:
        self.now = 0.0
        self.story: Story = loads(STORY.format(fault=fault, seed=seed), file="x.yaml")
        self.traffic = Traffic(self.story, clock=lambda: self.now)
        self.stable, self.canary = (self.pods(arm) for arm in Arm)
        self.traffic.endpoints(Arm.STABLE, self.stable)
        self.traffic.endpoints(Arm.CANARY, self.canary)
        self.pass_to(1.0)

    def pods(self, arm: Arm) -> list[VirtualPod]:
        return [
            VirtualPod(
                name=f"{arm}-{number}",
                arm=arm,
                version="v1",
                behaviour=self.story.stable,
                noise=self.traffic.noise_of(f"{arm}-{number}"),
                page=PodPage(version="v1", workload="model"),
            )
            for number in range(2)
        ]

    def fault(self) -> ArmFault:
        return self.story.arm_faults[0]

    def pass_to(self, now: float) -> None:
        self.now = now
        self.traffic.advance()


def counted(pods: list[VirtualPod], series: str) -> float:
    """The sum of a series over the pods' pages, by the start of its lines."""
    lines = [line for pod in pods for line in pod.page.text().splitlines() if line.startswith(series)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_answers_and_clicks_are_counted_where_the_story_says_how_often() -> None:
    street = Street()
    assert "clicks" not in street.canary[0].page.text()
    for pod in street.canary:
        pod.behaviour = replace(pod.behaviour, click_rate=0.4)
    street.traffic.route(50)
    street.pass_to(300.0)
    answered = counted(street.canary, "model_prediction_value_count")  # a failure is looked at by nobody
    clicks, impressions = (
        counted(street.canary, f"model_{what}_total") for what in ("clicks", "impressions")
    )
    assert impressions == answered > 10_000
    assert clicks / impressions == pytest.approx(0.4, abs=0.02)
    assert counted(street.stable, "model_impressions_total") == 0


def test_all_requests_are_somewhere_and_the_split_is_the_weight() -> None:
    street = Street()
    street.traffic.route(20)
    street.pass_to(601.0)
    truth = street.traffic.truth
    served = counted(street.stable + street.canary, "istio_requests_total")
    assert served == truth.stable + truth.canary - truth.failed
    assert truth.canary / (truth.stable + truth.canary) == pytest.approx(0.2, abs=0.01)
    assert truth.stable + truth.canary == pytest.approx(601 * 200, rel=0.01)
    assert counted(street.canary, "model_inference_duration_seconds_count") == truth.canary


def test_latency_and_errors_are_as_the_story_says() -> None:
    street = Street()
    street.pass_to(600.0)
    total = counted(street.stable, "model_inference_duration_seconds_count")
    near = min(SECONDS, key=lambda bound: abs(bound - 0.06))
    bucket = f'{BUCKET}{{model_name="model",model_version="v1",le="{near!r}"'
    below = counted(street.stable, bucket)
    expected = float(street.story.stable.latency.cdf(np.array([near]))[0])
    assert below / total == pytest.approx(expected, abs=0.003)
    errors = total - counted(street.stable, "model_prediction_value_count")  # a failure predicts nothing
    assert errors / total == pytest.approx(0.01, abs=0.002)


def test_a_weight_reaches_the_proxy_after_the_propagation() -> None:
    street = Street()
    street.now = 10.0
    street.traffic.route(50)
    street.pass_to(20.0)
    street.traffic.route(0)
    street.pass_to(60.0)
    truth = street.traffic.truth
    assert truth.weights == [(0.0, 0), (10.5, 50), (20.5, 0)]
    (spell,) = truth.spells
    assert spell.first == pytest.approx(10.5, abs=0.2)
    assert spell.last == pytest.approx(20.5, abs=0.2)
    assert 10.5 <= spell.first <= spell.last < 20.5


def test_each_time_the_canary_has_a_share_is_a_spell_of_its_own() -> None:
    street = Street()
    for at, weight in ((10.0, 50), (20.0, 0), (30.0, 10), (40.0, 0)):
        street.pass_to(at)
        street.traffic.route(weight)
    street.pass_to(60.0)
    first, second = street.traffic.truth.spells
    assert 10.5 <= first.first <= first.last < 20.5
    assert 30.5 <= second.first <= second.last < 40.5


def test_a_pod_that_leaves_loses_no_request() -> None:
    street = Street()
    lost = street.traffic.truth.failed
    street.traffic.endpoints(Arm.STABLE, street.stable[:1])
    street.pass_to(60.0)
    assert street.traffic.truth.failed == lost


def test_requests_to_an_arm_without_pods_are_lost_and_counted() -> None:
    street = Street()
    street.traffic.endpoints(Arm.STABLE, [])
    street.pass_to(1.5)
    before = street.traffic.truth.failed
    street.pass_to(2.5)
    assert street.traffic.truth.failed - before == pytest.approx(200, rel=0.3)


@pytest.mark.parametrize("effect", ["hang: true", "blackhole: true"])
def test_a_silent_pod_counts_nothing_and_its_losses_were_ordered(effect: str) -> None:
    street = Street(fault=f"{{at: 1s, arm: stable, {effect}}}")
    before, lost = counted(street.stable, "istio_requests_total"), street.traffic.truth.failed
    for pod in street.stable:
        pod.faults = (street.fault(),)
    street.traffic.silenced = {Arm.STABLE}
    street.pass_to(30.0)
    assert counted(street.stable, "istio_requests_total") == before
    assert street.traffic.truth.failed == lost


def test_a_cold_pod_warms_from_its_first_request() -> None:
    street = Street(fault="{at: 0s, arm: stable, coldStart: {factor: 3, decay: 10s}}")
    pod = street.stable[0]
    pod.faults, pod.warm_since = (street.fault(),), None
    assert pod.slowdown(100.0)[0] == pytest.approx(3.0)
    assert pod.slowdown(110.0)[0] == pytest.approx(1 + 2 / np.e)


def test_an_added_delay_moves_every_answer() -> None:
    street = Street(fault="{at: 0s, arm: stable, latencyAdd: 1s}")
    for pod in street.stable:
        pod.faults = (street.fault(),)
        pod.page = PodPage(version="v1", workload="model")
    street.pass_to(30.0)
    assert counted(street.stable, "model_inference_duration_seconds_sum") > counted(
        street.stable, "model_inference_duration_seconds_count"
    )


def test_the_same_seed_gives_the_same_counts_whether_or_not_one_looks_each_second() -> None:
    once, often = Street(seed=3), Street(seed=3)
    once.pass_to(30.0)
    for second in range(2, 31):
        often.pass_to(float(second))
    pages = [[pod.page.text() for pod in street.stable] for street in (once, often)]
    assert pages[0] == pages[1]
    assert Street(seed=4).traffic.truth != Street(seed=3).traffic.truth
