"""Placebos: that each is what a canary with its pods would be, and how they are dealt out."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from test_evidence import COARSE, FINE, LE, SPECS, value

from analysis import placebo
from analysis.batches import arrays, taken
from analysis.dispersion import FEW, key
from analysis.evidence import CheckKind, Evidence, begin, next_step, restart, update
from analysis.judge import log_term
from analysis.samples import Histogram, PodSample, Sample


def stable(kind: CheckKind, second: int, pods: int, le: tuple[float, ...] = LE) -> Sample:
    rng = np.random.default_rng(second)
    each = (PodSample(f"s{j}", f"n{j}", value(kind, rng, 30, 1.0, le)) for j in range(pods))
    return Sample(second, second + 1.0, tuple(each))


def apart(sample: Sample, nodes: tuple[str, ...]) -> tuple[Sample, Sample]:
    """Stable without these nodes, and these nodes as canary."""
    others = tuple(pod for pod in sample.pods if pod.node not in nodes)
    return replace(sample, pods=others), replace(
        sample, pods=tuple(pod for pod in sample.pods if pod not in others)
    )


def nobody(sample: Sample) -> Sample:
    return replace(sample, pods=())


class Both:
    """Placebos side by side, and each of them alone as a canary; nodes are dealt out in the order of keys."""

    def __init__(
        self, kind: CheckKind, pods: int, nodes: int, *, size: int, count: int, since: int = 0
    ) -> None:
        self.kind, self.pods, self.nodes, self.le = kind, pods, nodes, LE
        names = sorted((f"n{j}" for j in range(pods)), key=key)
        self.sides = [tuple(names[i * size : (i + 1) * size]) for i in range(count)]
        known = begin(SPECS[kind], steps=4)
        for second in range(-since, 0):
            sample = stable(kind, second + 1000, pods)
            known = update(
                known, replace(sample, start=second, end=second + 1.0), Sample(second, second + 1.0)
            )
        self.placebos = placebo.begin(known)
        self.alone = [taken(self.placebos, 0) for _ in self.sides]

    def fed(self, seconds: range, *, traffic: bool = True) -> None:
        for second in seconds:
            sample = stable(self.kind, second, self.pods, self.le)
            canary = sample if traffic else nobody(sample)
            self.placebos = placebo.update(self.placebos, sample, canary, nodes=self.nodes)
            for place, nodes in enumerate(self.sides):
                others, own = apart(sample, nodes)
                one = own if traffic else nobody(own)
                self.alone[place] = update(self.alone[place], others, one)

    def changed(self, change: Callable[..., Evidence], *, at: float) -> None:
        self.placebos = change(self.placebos, at=at)
        self.alone = [change(one, at=at) for one in self.alone]

    def assert_the_same(self) -> None:
        assert len(self.placebos.step) == len(self.sides)
        for place, one in enumerate(self.alone):
            for a, b in zip(arrays(taken(self.placebos, place)), arrays(one), strict=True):
                assert (a.shape, a.tobytes()) == (b.shape, b.astype(a.dtype).tobytes())


@pytest.mark.parametrize("kind", CheckKind)
@pytest.mark.parametrize(
    ("pods", "nodes", "size", "count"), [(3, 1, 1, 3), (3, 2, 1, 3), (6, 2, 2, 3), (12, 3, 3, 4)]
)
def test_a_placebo_is_bit_by_bit_what_a_canary_with_its_pods_would_be(
    kind: CheckKind, pods: int, nodes: int, size: int, count: int
) -> None:
    both = Both(kind, pods, nodes, size=size, count=count)
    both.fed(range(30), traffic=False)
    both.changed(restart, at=30.0)
    both.fed(range(30, 45))
    both.assert_the_same()
    both.changed(next_step, at=45.0)
    both.fed(range(45, 75))
    both.assert_the_same()
    assert both.placebos.tally.all()
    both.changed(restart, at=75.0)
    both.fed(range(75, 90))
    both.assert_the_same()


@pytest.mark.parametrize("kind", CheckKind)
def test_placebos_of_many_runs_side_by_side_are_bit_by_bit_what_each_run_s_are_alone(kind: CheckKind) -> None:
    names = [f"run-{number}" for number in range(5)]
    each = [placebo.begin(begin(replace(SPECS[kind], name=name), steps=4)) for name in names]
    alone = list(each)
    for second in range(60):
        samples = [stable(kind, second + 1000 * number, (5, 3)[number == 3]) for number in range(5)]
        asked = [(sample, sample if second > 20 else nobody(sample)) for sample in samples]
        each = placebo.updated([(one, *both, 2) for one, both in zip(each, asked, strict=True)])
        alone = [placebo.update(one, *both, nodes=2) for one, both in zip(alone, asked, strict=True)]
        if second == 40:
            each[0], alone[0] = next_step(each[0], at=41.0), next_step(alone[0], at=41.0)
    assert [one.spec.name for one in each] == names
    for one, other in zip(each, alone, strict=True):
        assert (one.nodes, one.groups, one.tally.all()) == (other.nodes, other.groups, True)
        for a, b in zip(arrays(one), arrays(other), strict=True):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.mark.parametrize("kind", CheckKind)
def test_placebos_begin_with_what_the_run_knows_of_stable(kind: CheckKind) -> None:
    both = Both(kind, 5, 1, size=1, count=4, since=50)
    assert both.placebos.memory.recent.any()
    assert both.placebos.dispersion.sums.any()
    assert not both.placebos.memory.recent_canary.any()
    both.fed(range(20))
    both.assert_the_same()


@pytest.mark.parametrize("kind", CheckKind)
def test_a_pod_that_joins_stable_is_among_the_others_of_every_placebo(kind: CheckKind) -> None:
    both = Both(kind, 4, 1, size=1, count=4)
    both.fed(range(30))
    both.pods = 6
    both.fed(range(30, 50))
    both.assert_the_same()


def test_native_buckets_that_become_coarser_are_joined_as_a_canary_s_are() -> None:
    both = Both(CheckKind.LATENCY, 4, 1, size=1, count=4)
    both.le = FINE
    both.fed(range(30))
    both.le = COARSE
    both.fed(range(30, 50))
    both.assert_the_same()
    assert both.placebos.tally[:, 0].min() > 40 * 30


@pytest.mark.parametrize("kind", CheckKind)
def test_the_order_in_which_pods_are_read_changes_nothing(kind: CheckKind) -> None:
    rng, one = np.random.default_rng(5), placebo.begin(begin(SPECS[kind], steps=4))
    other = one
    for second in range(20):
        sample = stable(kind, second, 5)
        shuffled = replace(sample, pods=tuple(sample.pods[j] for j in rng.permutation(5)))
        one = placebo.update(one, sample, sample, nodes=1)
        other = placebo.update(other, shuffled, shuffled, nodes=1)
    for a, b in zip(arrays(one), arrays(other), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("pods", "nodes", "size", "count"),
    [(3, 0, 1, 3), (4, 2, 1, 4), (5, 2, 2, 2), (20, 1, 1, 4), (20, 9, 4, 4), (40, 2, 2, 4)],
)
def test_a_placebo_has_as_many_nodes_as_the_canary_while_three_others_are_left(
    pods: int, nodes: int, size: int, count: int
) -> None:
    first = stable(CheckKind.ERROR_RATE, 0, pods)
    dealt = placebo.update(
        placebo.begin(begin(SPECS[CheckKind.ERROR_RATE], steps=4)), first, first, nodes=nodes
    )
    assert (len(dealt.groups), len(dealt.step)) == (size, count)


def test_of_fewer_than_three_nodes_there_are_none_and_they_begin_when_there_are() -> None:
    evidence = placebo.begin(begin(SPECS[CheckKind.LATENCY], steps=4))
    for second in range(5):
        sample = stable(CheckKind.LATENCY, second, FEW - 1)
        evidence = placebo.update(evidence, sample, sample, nodes=1)
    assert not evidence.nodes
    assert not evidence.memory.recent.any()
    sample = stable(CheckKind.LATENCY, 5, FEW)
    assert len(placebo.update(evidence, sample, sample, nodes=1).step) == 3


def test_when_pods_are_left_that_are_fewer_there_are_fewer_placebos_after_the_new_beginning() -> None:
    both = Both(CheckKind.LATENCY, 5, 1, size=1, count=4)
    both.fed(range(20))
    evidence = restart(both.placebos, at=20.0)
    for second in range(20, 30):
        sample = stable(CheckKind.LATENCY, second, 3)
        evidence = placebo.update(evidence, sample, sample, nodes=1)
    assert len(evidence.step) == 3
    assert (evidence.tally[:, 0] == 10 * 30).all()


def test_a_tick_that_repeats_is_ignored_and_new_buckets_are_a_new_beginning() -> None:
    both = Both(CheckKind.LATENCY, 5, 1, size=1, count=4)
    both.fed(range(20))
    again = stable(CheckKind.LATENCY, 19, 5)
    assert placebo.update(both.placebos, again, again, nodes=1) is both.placebos
    other = stable(CheckKind.LATENCY, 20, 5)
    wide = tuple(replace(pod, value=Histogram((0.1, 0.2), (28, 1, 1))) for pod in other.pods)
    other = replace(other, pods=wide)
    after = placebo.update(both.placebos, other, other, nodes=1)
    assert after.memory.le == (0.1, 0.2)
    assert not after.tally.any()
    assert len(after.step) == 4


# -- noise


def noisy(second: int, slow: np.ndarray, seed: int) -> Sample:
    """Five pods, each `slow` (5,) by a factor of its own."""
    rng = np.random.default_rng([seed, second])
    each = (
        PodSample(f"s{j}", f"n{j}", value(CheckKind.LATENCY, rng, 30, factor, LE))
        for j, factor in enumerate(slow)
    )
    return Sample(second, second + 1.0, tuple(each))


def furthest(seed: int, *, burst: float = 1.0) -> float:
    """The highest log term of four placebos: pods wander by 8 % within 10 s, one is slow for 20 s."""
    rng, wander = np.random.default_rng(seed), np.zeros(5)
    evidence, highest = placebo.begin(begin(SPECS[CheckKind.LATENCY], steps=1)), -np.inf
    ill = min(range(5), key=lambda j: key(f"n{j}"))
    for second in range(120):
        wander = wander * 0.9 + 0.08 * np.sqrt(1 - 0.9**2) * rng.standard_normal(5)
        slow = np.exp(wander)
        slow[ill] *= burst if 80 <= second < 100 else 1.0
        sample = noisy(second, slow, seed)
        canary = sample if second >= 30 else nobody(sample)
        evidence = placebo.update(evidence, sample, canary, nodes=1)
        highest = max(highest, float(log_term(evidence).max()))
    return highest


def test_noise_that_the_evidence_is_made_for_brings_no_placebo_near_the_line() -> None:
    assert max(furthest(seed) for seed in range(12)) < np.log(20)


def test_a_pod_that_is_ill_for_longer_than_a_burst_brings_a_placebo_over_the_line() -> None:
    assert furthest(1, burst=4.0) > np.log(100)
