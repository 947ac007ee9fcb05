"""Canary pods that serve requests and show nothing of a check: when they are missed, and when not."""

from dataclasses import replace
from typing import Any

import pytest
from test_gather import stepping

from analysis.evidence import CheckKind, CheckSpec
from analysis.samples import Counts, Histogram, PodSample, Sample, Statistic
from controller.model import Policy
from controller.ports import Reading
from controller.ticks import Pace, Tick
from controller.unshown import Missed, Shown

LE = (0.5,)
STABLE = 10_000  # requests of its only pod
SPECS = {
    "scores": CheckSpec(name="scores", kind=CheckKind.PREDICTIONS),
    "clicks": CheckSpec(name="clicks", kind=CheckKind.PROPORTION),
}


def policy(check: str, *, required: bool = True) -> Policy:
    spec = replace(SPECS[check], required=required)
    return replace(stepping().plan.policy, checks=(spec,))


class Pods:
    """Stable's `s1` shows a figure with each request or with a `part` of them; the canary's pods as told."""

    def __init__(self, check: str = "scores", *, part: float = 1.0, required: bool = True) -> None:
        self.check, self.part, self.shown = check, part, Shown()
        self.policy = policy(check, required=required)

    def value(self, n: int) -> Statistic:
        return Counts(n, 0) if self.check == "clicks" else Histogram(LE, (n, 0))

    def at(self, now: float, **pods: tuple[int, int | None, int | None]) -> Missed:
        """Of each canary pod: requests and figures ever, and figures in the tick that closes (None: out)."""
        readings = {"s1": self.page(now, STABLE, int(STABLE * self.part))}
        readings |= {pod: self.page(now, n, figures) for pod, (n, figures, _) in pods.items()}
        new = [PodSample(pod, "", self.value(n)) for pod, (_, _, n) in pods.items() if n is not None]
        stable = (PodSample("s1", "", self.value(10)),)
        tick = Tick(self.check, Sample(now - 1, now, stable), Sample(now - 1, now, tuple(new)))
        how: dict[str, Any] = {"pace": Pace(), "queried": Pace()}
        return self.shown.look([tick], self.policy, readings, stable=["s1"], canary=pods, now=now, **how)

    def page(self, at: float, n: int, figures: int | None) -> Reading:
        values = {} if figures is None else {self.check: self.value(figures)}
        return Reading(at=at, requests=Counts(n, 0), values=values)


FINE = Missed()


def test_a_pod_that_stopped_showing_a_check_is_missed_after_two_flushes() -> None:
    pods = Pods()
    assert pods.at(0.0, a=(100, 100, 10), b=(100, 100, 10)) == FINE
    assert pods.at(1.0, a=(110, 110, 10), b=(110, 100, 0)) == FINE
    assert pods.at(10.0, a=(200, 200, 10), b=(200, 100, 0)) == FINE
    found = pods.at(11.0, a=(210, 210, 10), b=(210, 100, 0))
    assert found.sentence == "pod b serves requests and shows nothing of scores"
    assert found.checks == {"scores"}
    assert pods.at(12.0, a=(220, 220, 10), b=(220, 110, 10)) == FINE


def test_a_pod_with_few_requests_or_none_is_not_missed() -> None:
    pods = Pods()
    pods.at(0.0, a=(100, 100, 10), b=(100, 100, 10), c=(100, 100, 1))
    for second in range(1, 120):
        n = 100 + 10 * second
        assert pods.at(second, a=(n, n, 10), b=(100 + second // 10, 100, 0), c=(100, 100, 0)) == FINE


def test_where_only_some_requests_have_a_figure_more_of_them_are_waited_for() -> None:
    pods = Pods(part=0.1)
    pods.at(0.0, a=(100, 10, 10))
    said = [pods.at(30.0 * n, a=(100 * n, 10, 0)).sentence for n in (1, 2, 3)]
    assert [bool(one) for one in said] == [False, False, True]


def test_a_pod_that_has_just_come_is_given_the_time_to_show_something() -> None:
    pods = Pods()
    assert pods.at(0.0, a=(100, 100, 10), new=(0, None, None)) == FINE
    assert pods.at(1.0, a=(110, 110, 10), new=(10, None, None)) == FINE
    assert pods.at(3.0, a=(130, 130, 10), new=(30, 30, 30)) == FINE


def test_what_a_new_leader_has_not_seen_of_a_pod_passes_nothing_meanwhile() -> None:
    """A run was held since one pod showed nothing; the next leader would have promoted it after 3 s."""
    found = Pods().at(0.0, a=(5000, 5000, 10), b=(5000, None, None))
    assert (found.checks, found.sentence) == ({"scores"}, "")
    frozen = Pods().at(0.0, a=(5000, 5000, 10), b=(5000, 100, 0))
    assert (frozen.checks, frozen.sentence) == ({"scores"}, "")
    assert Pods().at(0.0, a=(5000, 5000, 10), b=(5000, 5000, 0)) == FINE


def test_a_counter_of_requests_that_began_anew_counts_what_it_shows() -> None:
    pods = Pods()
    pods.at(0.0, a=(9000, 9000, 10))
    pods.at(1.0, a=(9010, 9000, 0))
    assert pods.at(20.0, a=(19, 0, 0)) == FINE
    assert pods.at(21.0, a=(20, 0, 0)).checks == {"scores"}


def test_a_check_that_is_not_required_is_not_missed() -> None:
    assert Pods(required=False).at(0.0, a=(5000, None, None)) == FINE


@pytest.mark.parametrize(("trials", "missed"), [(0, False), (None, True)])
def test_a_proportion_whose_trials_are_known_later_is_missed_only_where_they_are_not_counted(
    trials: int | None, *, missed: bool
) -> None:
    pods = Pods("clicks")
    for second in range(12):
        found = pods.at(second, a=(100 * second, trials, trials))
    assert bool(found.sentence) is missed


def test_where_arms_are_read_from_other_series_it_is_said_from_which() -> None:
    pods, own, sidecar = Pods(), "model_inference_duration_seconds", "istio_request_duration_milliseconds"
    usual = pods.page

    def page(at: float, n: int, figures: int | None) -> Reading:
        return replace(usual(at, n, figures), sources={"scores": own if n == STABLE else sidecar})

    pods.page = page  # type: ignore[method-assign]
    both = {"a": (10, 10, None), "b": (10, 10, None)}
    assert (pods.at(0.0, **both).checks, pods.at(9.0, **both).sentence) == ({"scores"}, "")
    said = f"is read from {sidecar}, stable from {own}: the two are not compared"
    assert pods.at(10.0, **both).sentence == f"scores: the canary {said}"
    assert pods.at(11.0, **both | {"a": (20, 20, 10)}).sentence == f"scores: pod b {said}"


def histogram(le: tuple[float, ...], each: int = 100) -> Histogram:
    """So many predictions below each bound, and none above the last."""
    return Histogram(le, (each,) * len(le) + (0,))


def in_buckets(
    shown: Shown, now: float, stable: Histogram, canary: tuple[float, ...], check: str = "scores"
) -> Missed:
    pages = {"s1": stable, "a": histogram(canary)}
    arms = [Sample(now - 1, now, (PodSample(pod, "", value),)) for pod, value in pages.items()]
    readings = {
        pod: Reading(at=now, requests=Counts(900, 0), values={check: one}) for pod, one in pages.items()
    }
    how: dict[str, Any] = {"pace": Pace(), "queried": Pace(), "stable": ["s1"], "canary": ["a"]}
    return shown.look([Tick(check, *arms)], policy(check), readings, now=now, **how)


TENTHS = tuple(n / 10 for n in range(1, 11))
SHIFTED = tuple(bound + 0.01 for bound in TENTHS)


@pytest.mark.parametrize(
    ("canary", "both"),
    [((*SHIFTED[:9], 1.0), "only the bucket bounds 1"), (SHIFTED, "no bucket bound")],
)
def test_where_joining_the_buckets_loses_what_stable_tells_apart_nothing_passes(
    canary: tuple[float, ...], both: str
) -> None:
    shown = Shown()
    assert in_buckets(shown, 0.0, histogram(TENTHS), canary) == Missed(checks=frozenset({"scores"}))
    found = in_buckets(shown, 10.0, histogram(TENTHS), canary)
    assert found.sentence == (
        f"scores: the two arms have {both} in common, so that 100 % of stable's lie in one bucket "
        "and a shift within it would not show; give both the same buckets"
    )
    assert in_buckets(shown, 11.0, histogram(TENTHS), TENTHS) == FINE


@pytest.mark.parametrize(
    ("stable", "canary"),
    [
        (histogram(TENTHS), TENTHS[1::2]),  # coarser, and enough is told apart
        (histogram((1.0,)), TENTHS),  # stable's own tell nothing apart: that is said in a note
        (Histogram(TENTHS, (970, 30, *(0,) * 9)), TENTHS[:1]),  # nearly all are in one of its own
    ],
)
def test_other_buckets_that_lose_little_keep_nobody_from_passing(
    stable: Histogram, canary: tuple[float, ...]
) -> None:
    assert in_buckets(Shown(), 0.0, stable, canary) == FINE
