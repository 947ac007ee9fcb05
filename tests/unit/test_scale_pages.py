"""The pods' pages that the bench of many canaries reads."""

import io
import json

import pytest

from scenarios.scale.objects import address
from scenarios.scale.pages import SECONDS, Pods

CANARY, STABLE = address(3, "canary", 0), address(3, "stable", 0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def figures(pods: Pods, where: str) -> list[int]:
    """Answered, failed, then what each bucket holds."""
    lines = pods.page(where).decode().splitlines()
    return [int(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")]


def grown(pods: Pods, where: str, clock: Clock, seconds: float) -> list[int]:
    before = figures(pods, where)
    clock.now += seconds
    return [after - was for was, after in zip(before, figures(pods, where), strict=True)]


def test_counters_grow_with_every_tenth_of_a_second_as_if_there_were_no_end() -> None:
    clock = Clock()
    pods = Pods(io.StringIO(), clock)
    some = [grown(pods, CANARY, clock, 0.35)[0] for _ in range(100)]
    assert 500 < sum(some) < 900
    day = grown(pods, CANARY, clock, 86_400)
    assert day[0] == day[1 + len(SECONDS) + 1] == day[-1]  # each request is in both histograms
    assert 1.6e6 < day[0] < 1.8e6


@pytest.mark.parametrize("kind", ["errors", "slow"])
def test_from_the_fault_on_and_not_before_the_canarys_requests_are_bad(kind: str) -> None:
    clock, log = Clock(), io.StringIO()
    pods = Pods(log, clock)
    figures(pods, CANARY)
    usual = grown(pods, STABLE, clock, 100)
    clock.now += 0.5
    pods.fault(3, kind)
    clock.now += 100
    before = figures(pods, CANARY)
    stable = grown(pods, STABLE, clock, 100)
    bad = grown(pods, CANARY, clock, 100)
    half = 2 + SECONDS.index(0.0314)  # the median of those that are not slow
    shares = [part[half] / part[2 + len(SECONDS)] for part in (usual, stable, bad)]
    assert shares[:2] == pytest.approx([0.53, 0.53], abs=0.04)
    assert shares[2] == pytest.approx(0.14 if kind == "slow" else 0.53, abs=0.04)
    assert (stable[1], bad[1] > 0, bad[0] > 0) == (0, kind == "errors", kind == "slow")
    assert 1500 < before[0] < (2500 if kind == "errors" else 5000)  # those before the fault stay as they were
    told = [json.loads(line) for line in log.getvalue().splitlines()]
    assert told == [{"index": 3, "began": 1100.5}, {"index": 3, "at": 1200.5}]
