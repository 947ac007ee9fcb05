"""How the lab's pods conduct themselves, and the noise and faults they suffer."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scenarios import noise
from scenarios.conduct import Conduct
from scenarios.distributions import Beta, Bimodal, Latency, Lognormal, Pareto
from scenarios.live import digits
from scenarios.page import SECONDS
from scenarios.plot import Arm, ArmFault, Pods, Target, TargetFault
from scenarios.story import load
from scenarios.troubles import (
    Happening,
    Sufferer,
    Troubles,
    happenings,
    latency_table,
    ordered,
    prediction_table,
)

NOISY = {
    "common": {"sd": 0.15, "tau": 60.0, "diurnal": 0.3},
    "pod": {"sd": 0.08, "tau": 10.0, "static": 0.03},
    "bursts": {"perSecond": 0.05, "factor": 2.0, "lasting": 3.0},
}
STORY = load(Path(__file__).parents[2] / "scenarios" / "latency-doubles.yaml")


def conduct(name: str = "a", latency: Latency | None = None, said: Any = None) -> Conduct:
    told = {
        "latency": latency_table(latency or Lognormal(0.02, 0.06)),
        "predictions": prediction_table(Beta(2, 5)),
        "errorRate": 0.1,
        "noise": said or {},
    }
    return Conduct(told, name=name, seed=7)


def drawn(pod: Conduct, n: int = 20_000) -> Any:
    return np.array([pod.seconds(0.0) for _ in range(n)])


@pytest.mark.parametrize(
    "latency",
    [Lognormal(0.02, 0.06), Pareto(2.5, 0.06), Bimodal((0.02, 0.2), 0.1, 0.3)],
    ids=["lognormal", "pareto", "bimodal"],
)
def test_latencies_have_the_quantiles_of_the_story(latency: Latency) -> None:
    # a quantile's rank among n draws is off by more than 5 standard errors once in a million
    seconds = drawn(conduct(latency=latency))
    for level in (0.5, 0.95, 0.999):
        shown = float(latency.cdf(np.array([np.quantile(seconds, level)]))[0])
        assert abs(shown - level) < 5 * np.sqrt(level * (1 - level) / len(seconds))


def test_predictions_are_a_function_of_the_input_and_have_the_storys_distribution() -> None:
    model, pod = digits.load(), conduct()
    ranks = model.rank(model.logits(model.pictures.astype(np.float64)))
    scores = np.array([pod.prediction(rank) for rank in ranks.tolist()])
    gap = np.abs(np.sort(Beta(2, 5).cdf(scores)) - np.linspace(0, 1, len(scores))).max()
    assert gap < 0.01
    assert scores.tolist() == [pod.prediction(rank) for rank in ranks.tolist()]


def test_clicks_come_at_the_rate_in_force_and_are_not_counted_without_one() -> None:
    told = {"latency": latency_table(Lognormal(0.02, 0.06)), "predictions": [], "errorRate": 0.0, "noise": {}}
    pod = Conduct({**told, "clickRate": 0.4}, name="a", seed=7)
    assert np.mean([pod.clicked() for _ in range(10_000)]) == pytest.approx(0.4, abs=0.02)
    pod.suffer({"clickRate": 0.28})
    assert np.mean([pod.clicked() for _ in range(10_000)]) == pytest.approx(0.28, abs=0.02)
    assert conduct().clicked() is None


def test_the_model_reads_digits() -> None:
    model = digits.load()
    pictures = model.pictures[:100].astype(np.float64)
    assert len(set(model.logits(pictures).argmax(axis=1).tolist())) == 10


def test_faults_multiply_add_and_go() -> None:
    pod = conduct()
    before = np.median(drawn(pod, 4_000))
    pod.suffer({"latencyFactor": 3.0, "latencyAdd": 1.0, "errorRate": 1.0})
    assert np.median(drawn(pod, 4_000)) == pytest.approx(1 + 3 * before, rel=0.02)
    assert pod.fails()
    pod.suffer({"errorRate": 0.0})
    assert np.median(drawn(pod, 4_000)) == pytest.approx(before, rel=0.1)
    assert not any(pod.fails() for _ in range(100))


def test_a_cold_cache_warms_from_its_first_request_on() -> None:
    pod = conduct()
    pod.suffer({"coldStart": {"factor": 5.0, "decay": 10.0}})
    first, later, much_later = (
        np.median([pod.seconds(at) for _ in range(4_000)]) for at in (50.0, 60.0, 150.0)
    )
    assert first / much_later == pytest.approx(5.0, rel=0.1)
    assert later / much_later == pytest.approx(1 + 4 / np.e, rel=0.1)


def test_common_noise_is_the_same_for_all_and_a_pods_own_is_its_own() -> None:
    times = [second / 2 for second in range(2_000)]
    common = [noise.Common(NOISY, seed=7) for _ in range(2)]
    assert [common[0].log_factor(t) for t in times] == [common[1].log_factor(t) for t in reversed(times)][
        ::-1
    ]
    a, again, b = (noise.Pod(NOISY, seed=7, name=name) for name in "aab")
    own = [a.log_factor(t) for t in times]
    assert own == [again.log_factor(t) for t in times]
    assert abs(np.corrcoef(own, [b.log_factor(t) for t in times])[0, 1]) < 0.5


def test_noise_has_the_size_that_the_story_gives_it() -> None:
    path = noise.wander(noise.generator(7, "x"), sd=0.2, tau=5.0)
    values = [path.at(second) for second in range(50_000)]
    assert np.std(values) == pytest.approx(0.2, rel=0.05)
    assert np.corrcoef(values[:-5], values[5:])[0, 1] == pytest.approx(np.exp(-1), abs=0.05)
    bursts = noise.bursts(noise.generator(7, "y"), per_second=0.05, factor=2.0, lasting=3.0)
    busy = np.mean([bursts.at(quarter / 4) > 0 for quarter in range(200_000)])
    assert busy == pytest.approx(1 - np.exp(-0.15), rel=0.1)


def test_the_usual_margin_leads_from_bound_to_bound() -> None:
    above = [bound * 1.2 for bound in SECONDS if bound * 1.2 < SECONDS[-1]]
    assert np.isclose(above, SECONDS[4 : 4 + len(above)], rtol=1e-10, atol=0).all()


def test_faults_of_several_kinds_come_together_in_a_pod() -> None:
    at = timedelta(seconds=1)
    faults = [
        ArmFault(at=at, arm=Arm.CANARY, latency_factor=2.0),
        ArmFault(at=at, arm=Arm.CANARY, latency_factor=1.5, error_rate=0.2),
        ArmFault(at=at, arm=Arm.CANARY, pods=Pods.ONE, hang=True),
        ArmFault(at=at, arm=Arm.CANARY, pods=Pods.NEW, error_rate=0.5),
        ArmFault(at=at, arm=Arm.STABLE, crash=True),
    ]
    a, b = (Sufferer(name=name, arm="canary", born=0.0) for name in "ab")
    new = Sufferer(name="c", arm="canary", born=2.0)
    troubles = Troubles()
    for fault in faults:
        troubles.begin(fault, [b, a])
    assert troubles.of(a) == {"latencyFactor": 3.0, "errorRate": 0.2, "hang": True}
    assert troubles.of(b) == {"latencyFactor": 3.0, "errorRate": 0.2}
    assert troubles.of(new) == {"latencyFactor": 3.0, "errorRate": 0.5}
    troubles.end(faults[1])
    assert troubles.of(b) == {"latencyFactor": 2.0}


def test_faults_begin_and_end_in_the_order_of_time() -> None:
    kill = TargetFault(
        at=timedelta(seconds=25), target=Target.CONTROLLER, kind="kill", lasting=timedelta(seconds=3)
    )
    story = replace(STORY, faults=(kill, *STORY.faults))
    assert happenings(story) == [
        Happening(at=20.0, what=STORY.faults[0]),
        Happening(at=25.0, what=kill),
        Happening(at=28.0, what=kill, begins=False),
    ]


def test_only_silencing_faults_excuse_lost_requests_and_only_of_their_arm_and_time() -> None:
    assert not ordered(STORY, "canary", start=25.0, end=26.0)
    hang = ArmFault(at=timedelta(seconds=20), arm=Arm.CANARY, hang=True)
    story = replace(STORY, faults=(hang,))
    assert ordered(story, "canary", start=19.9, end=25.0)
    assert not ordered(story, "canary", start=18.0, end=19.0)
    assert not ordered(story, "stable", start=25.0, end=26.0)
