"""Ticks of many canaries, scored at once."""

from typing import Any

import numpy as np
import pytest

from analysis.abreast import updated
from analysis.batches import arrays
from analysis.evidence import CheckKind, CheckSpec, Evidence, begin, next_step, restart, update
from analysis.judge import judge
from analysis.samples import Counts, Histogram, PodSample, Sample
from analysis.state import standing

LE = tuple(0.01 * 1.2**place for place in range(30))
SPECS = {
    CheckKind.LATENCY: CheckSpec(name="slow", kind=CheckKind.LATENCY, max_increase=0.2),
    CheckKind.ERROR_RATE: CheckSpec(name="errors", kind=CheckKind.ERROR_RATE, plus=0.001),
    CheckKind.PREDICTIONS: CheckSpec(name="scores", kind=CheckKind.PREDICTIONS),
    CheckKind.PROPORTION: CheckSpec(name="clicks", kind=CheckKind.PROPORTION, max_decrease=0.2),
}
Tick = tuple[Evidence, Sample, Sample]


def arm(kind: CheckKind, rng: np.random.Generator, pods: int, end: float, le: tuple[float, ...]) -> Sample:
    def value() -> Counts | Histogram:
        if kind.counted:
            return Counts(40, int(rng.binomial(40, 0.3)))
        cells = np.searchsorted(le, rng.lognormal(np.log(0.05), 0.5, 40))
        return Histogram(le, tuple(np.bincount(cells, minlength=len(le) + 1).tolist()))

    return Sample(end - 1.0, end, tuple(PodSample(f"p{j}", f"n{j}", value()) for j in range(pods)))


def canary(
    seed: int, spec: CheckSpec, *, stable: int = 3, pods: int = 2, le: tuple[float, ...] = LE
) -> list[Tick]:
    """Its ticks, each with the evidence of one that was scored alone: two of history, twelve with traffic."""
    rng, evidence, found = np.random.default_rng(seed), begin(spec, steps=2), list[Tick]()
    for second in range(14):
        both = (
            arm(spec.kind, rng, stable, second + 1.0, le),
            arm(spec.kind, rng, pods if second > 1 else 0, second + 1.0, le),
        )
        found.append((evidence, *both))
        evidence = update(evidence, *both)
        if second == seed % 7:
            evidence = next_step(evidence, at=second + 1.0)
    return found


def assert_as_alone(ticks: list[Tick]) -> None:
    for (evidence, *both), after in zip(ticks, updated(ticks), strict=True):
        alone = update(evidence, *both)
        words = ("spec", "steps", "nodes", "groups", "burst_tolerance", "step_timeout")
        assert [getattr(after, name) for name in words] == [getattr(alone, name) for name in words]
        assert (after.memory.le, after.memory.canary_le) == (alone.memory.le, alone.memory.canary_le)
        for a, b in zip(arrays(after), arrays(alone), strict=True):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.mark.parametrize("kind", CheckKind)
def test_canaries_of_one_shape_get_bit_by_bit_what_each_gets_alone(kind: CheckKind) -> None:
    several = [canary(seed, SPECS[kind]) for seed in range(5)]
    for ticks in zip(*several, strict=True):
        assert_as_alone(list(ticks))


def test_canaries_of_every_kind_and_shape_do_too() -> None:
    shapes: list[dict[str, Any]] = [{}, {"stable": 5}, {"pods": 1}, {"pods": 6}, {"le": LE[5:]}]
    several = [
        canary(seed, spec, **shape) for seed in range(2) for spec in SPECS.values() for shape in shapes
    ]
    for ticks in zip(*several, strict=True):
        assert_as_alone(list(ticks))


def as_next(ticks: list[Tick], evidence: list[Evidence]) -> list[Tick]:
    """The ticks, with what came of the last ones as the evidence before them."""
    return [(one, *tick[1:]) for one, tick in zip(evidence, ticks, strict=True)]


@pytest.mark.parametrize("kind", CheckKind)
def test_canaries_that_were_together_go_on_as_they_are(kind: CheckKind, monkeypatch: Any) -> None:
    several = [canary(seed, SPECS[kind]) for seed in range(4)]
    evidence = updated([ticks[8] for ticks in several])
    monkeypatch.setattr("analysis.abreast.stacked", None)
    for place in (9, 10):
        ticks = as_next([ticks[place] for ticks in several], evidence)
        assert_as_alone(ticks)
        evidence = updated(ticks)


@pytest.mark.parametrize("kind", CheckKind)
def test_in_whatever_order_they_come_again_nothing_is_copied_or_made_of_single_ones(
    kind: CheckKind, monkeypatch: Any
) -> None:
    several = [canary(seed, SPECS[kind]) for seed in range(4)]
    evidence = updated([ticks[8] for ticks in several])
    ticks = as_next([ticks[9] for ticks in several], evidence)[::-1]
    for name in ("stacked", "taken"):
        monkeypatch.setattr(f"analysis.abreast.{name}", None)
    monkeypatch.setattr("analysis.state.taken", None)
    found = updated(ticks)
    monkeypatch.undo()
    assert [one.at for one in found] == [10.0] * 4
    assert_as_alone(ticks)


def test_what_nobody_has_asked_for_is_made_once_and_other_fields_are_missed() -> None:
    found = updated([canary(seed, SPECS[CheckKind.LATENCY])[8] for seed in range(2)])[0]
    assert found.tracks is found.tracks
    with pytest.raises(AttributeError, match=r"evidence has no track$"):
        _ = found.track  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", CheckKind)
def test_canaries_that_come_and_go_and_raise_their_weight_are_scored_as_alone(kind: CheckKind) -> None:
    several = [canary(seed, SPECS[kind]) for seed in range(6)]
    at = [[ticks[place] for ticks in several] for place in range(8, 13)]
    two, three = updated(at[0][:2]), updated(at[0][2:5])
    ticks = as_next(at[1], [*two, *three, at[1][5][0]])  # two parties and somebody new
    assert_as_alone(ticks)
    evidence = updated(ticks)
    ticks = as_next(at[2], evidence)[::-1][1:]  # in another order, one without its tick
    assert_as_alone(ticks)
    evidence = [*updated(ticks)[::-1], evidence[5]]
    ticks = as_next(at[3], evidence)
    assert_as_alone(ticks)
    evidence = updated(ticks)
    evidence[2] = next_step(evidence[2], at=12.0)
    assert evidence[2].beside is None
    assert_as_alone(as_next(at[4], evidence))


def test_ticks_that_are_ignored_stand_among_the_others() -> None:
    several = [canary(seed, SPECS[CheckKind.LATENCY]) for seed in range(3)]
    first, second, third = (ticks[8] for ticks in several)
    late, *_ = several[1][9]
    found = updated([first, (late, *second[1:]), third])
    assert found[1] is late
    assert found[0].at == found[2].at == 9.0


def test_checks_with_other_margins_are_not_mixed_up() -> None:
    specs = [
        CheckSpec(name="slow", kind=CheckKind.LATENCY, quantile=level, max_increase=margin)
        for level in (0.5, 0.95)
        for margin in (0.2, 0.5)
    ]
    assert_as_alone([canary(1, spec)[13] for spec in specs])


def test_of_no_ticks_nothing_comes_of_it() -> None:
    assert updated([]) == []


@pytest.mark.parametrize("kind", CheckKind)
def test_what_it_comes_to_is_worked_out_with_them_and_is_what_each_alone_comes_to(kind: CheckKind) -> None:
    ticks = [canary(seed, SPECS[kind])[-1] for seed in range(3)]
    for tick, after in zip(ticks, updated(ticks), strict=True):
        assert after.standing is not None
        alone = update(*tick)
        assert after.standing == tuple(map(float, standing(alone)))
        words = {"alpha": 0.01, "beta": 0.05, "now": 14.0}
        assert judge([after], **words) == judge([alone], **words)


def test_what_it_came_to_is_forgotten_by_whatever_changes_evidence() -> None:
    ticks = [canary(seed, SPECS[CheckKind.ERROR_RATE])[-1] for seed in range(2)]
    after = updated(ticks)[0]
    assert after.standing is not None
    assert next_step(after, at=15.0).standing is None
    assert restart(after, at=15.0).standing is None
    assert updated([(after, *canary(9, SPECS[CheckKind.ERROR_RATE])[-1][1:])] * 2)[0] is after  # ignored
