"""One check's running evidence: what changes it, what does not, and that it can be kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import cells
from analysis.batches import arrays, stacked, taken
from analysis.belief import blank
from analysis.evidence import (
    SHARES,
    CheckKind,
    CheckSpec,
    Evidence,
    advanced,
    begin,
    load,
    load_all,
    next_step,
    normalised,
    question,
    restart,
    save,
    save_all,
    tail_odds,
    update,
    without_nodes,
)
from analysis.grids import SECONDS, grid_bounds
from analysis.packing import NEVER, rounded
from analysis.samples import Counts, Histogram, PodSample, Sample, coarsened
from analysis.shifts import ENOUGH
from analysis.state import INFORMED, LEAST, MEMORIES, standing

LE = tuple(0.01 * 1.1**i for i in range(60))
SPECS = {
    CheckKind.LATENCY: CheckSpec(name="latency-p95", kind=CheckKind.LATENCY, max_increase=0.2),
    CheckKind.ERROR_RATE: CheckSpec(name="errors", kind=CheckKind.ERROR_RATE, max_increase=0.5, plus=0.001),
    CheckKind.PREDICTIONS: CheckSpec(name="predictions", kind=CheckKind.PREDICTIONS, tolerance=0.05),
    CheckKind.PROPORTION: CheckSpec(name="clicks", kind=CheckKind.PROPORTION, max_decrease=0.15),
}


def value(
    kind: CheckKind, rng: np.random.Generator, n: int, bad: float, le: tuple[float, ...]
) -> Counts | Histogram:
    if kind is CheckKind.ERROR_RATE:
        return Counts(n, int(rng.binomial(n, 0.2 if bad > 1 else 0.002)))
    if kind is CheckKind.PROPORTION:
        return Counts(n, int(rng.binomial(n, 0.1 if bad > 1 else 0.4)))
    x = rng.lognormal(np.log(0.05), 0.5, n) * bad
    return Histogram(le, tuple(np.bincount(np.searchsorted(le, x), minlength=len(le) + 1).tolist()))


def tick(
    kind: CheckKind,
    second: int,
    *,
    canary_pods: int = 2,
    bad: float = 1.0,
    le: tuple[float, ...] = LE,
    canary_le: tuple[float, ...] | None = None,
    apart: float = 0.0,
) -> tuple[Sample, Sample]:
    rng = np.random.default_rng(second)
    pods = ((j, float(np.exp(apart * (j - 2)))) for j in range(5))
    stable = tuple(PodSample(f"s{j}", f"n{j}", value(kind, rng, 20, slow, le)) for j, slow in pods)
    canary = tuple(
        PodSample(f"c{j}", f"m{j}", value(kind, rng, 10, bad, canary_le or le)) for j in range(canary_pods)
    )
    return Sample(second, second + 1.0, stable), Sample(second, second + 1.0, canary)


def fed(kind: CheckKind, seconds: range, evidence: Evidence | None = None, **how: Any) -> Evidence:
    evidence = evidence or begin(SPECS[kind], steps=4)
    for second in seconds:
        evidence = update(evidence, *tick(kind, second, **how))
    return evidence


def history(kind: CheckKind, seconds: int = 30, **how: Any) -> Evidence:
    return fed(kind, range(seconds), canary_pods=0, **how)


@pytest.mark.parametrize("kind", CheckKind)
def test_history_of_stable_alone_is_learned_from_but_proves_nothing(kind: CheckKind) -> None:
    evidence = history(kind)
    assert evidence.log_e == pytest.approx(0.0)
    assert evidence.memory.recent.sum() > 1000
    assert evidence.step_began == NEVER


@pytest.mark.parametrize("kind", CheckKind)
def test_a_bad_canary_raises_the_evidence_and_a_like_one_does_not(kind: CheckKind) -> None:
    bad = fed(kind, range(30, 60), history(kind), bad=3.0)
    like = fed(kind, range(30, 60), history(kind))
    assert bad.log_e > 8
    assert like.log_e < 0.5
    assert like.log_e_pass > bad.log_e_pass


def test_errors_are_judged_from_the_first_tick_and_the_rest_once_stable_is_known() -> None:
    first = {kind: fed(kind, range(1), bad=6.0) for kind in CheckKind}
    assert {kind for kind, one in first.items() if one.log_e > 0.5} == {CheckKind.ERROR_RATE}


@pytest.mark.parametrize("kind", CheckKind)
def test_update_leaves_the_old_evidence_alone(kind: CheckKind) -> None:
    evidence = fed(kind, range(30, 40), history(kind))
    before = json.dumps(save(evidence))
    fed(kind, range(40, 60), evidence, bad=3.0)
    assert json.dumps(save(evidence)) == before


@pytest.mark.parametrize("kind", CheckKind)
@pytest.mark.parametrize("pods", [1, 2, 6])
def test_what_was_saved_goes_on_bit_by_bit(kind: CheckKind, pods: int) -> None:
    there = fed(kind, range(30, 75), history(kind), canary_pods=pods)
    text = json.dumps(save(there), allow_nan=False)
    back = load(there.spec, json.loads(text), steps=4)
    assert json.dumps(save(back)) == text
    on, back_on = (fed(kind, range(75, 120), one, canary_pods=pods, bad=1.5) for one in (there, back))
    assert json.dumps(save(on)) == json.dumps(save(back_on))
    assert on.log_e == back_on.log_e


def recorded() -> list[Evidence]:
    """A half hour of 18 noisy pods and two of a canary, in native buckets, as it was kept."""
    kept = json.loads((Path(__file__).parent / "recorded" / "evidence.json").read_text())
    kinds = {spec.kind.value: spec for spec in SPECS.values()}
    return [load(kinds[one["kind"]], one, steps=3) for one in kept]


def silent(evidence: Evidence, pods: int, arm: str) -> Sample:
    """A second in which pods of an arm counted nothing."""
    le = evidence.memory.le
    nothing = Histogram(le, (0,) * (len(le) + 1)) if le else Counts(0, 0)
    at = float(evidence.at)
    return Sample(at, at + 1.0, tuple(PodSample(f"{arm}{j}", "", nothing) for j in range(pods)))


def test_a_noisy_half_hour_of_three_checks_is_kept_in_less_than_four_kilobytes() -> None:
    text = json.dumps(save_all(recorded()), separators=(",", ":"))
    assert len(text) <= 3_700


def test_all_checks_of_a_run_are_kept_together_bit_by_bit() -> None:
    there = recorded()  # of the version that kept each by itself
    kept = json.loads(json.dumps(save_all(there)))
    assert ["state" in one for one in kept] == [True, False, False]
    back = load_all([one.spec for one in there], kept, steps=3)
    for one, other in zip(there, back, strict=True):
        assert (one.nodes, one.groups, one.memory.le) == (other.nodes, other.groups, other.memory.le)
        for a, b in zip(arrays(one), arrays(other), strict=True):
            assert a.tobytes() == b.tobytes()
    assert save_all([]) == []
    assert load_all([], [], steps=3) == ()


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda kept: kept[:2],  # a check less than the plan has
        lambda kept: [kept[1], kept[0], kept[2]],
        lambda kept: [{name: kept[0][name] for name in ("version", "kind", "sizes")}, *kept[1:]],
        lambda kept: [kept[0], {**kept[1], "state": kept[0]["state"]}, kept[2]],
        lambda kept: [*kept[:2], {**kept[2], "sizes": kept[0]["sizes"]}],
        lambda kept: [*kept[:2], {**kept[2], "version": 7, "state": kept[0]["state"]}],
    ],
)
def test_checks_that_were_not_kept_together_are_refused(spoilt: Callable[[list[Any]], list[Any]]) -> None:
    specs = [one.spec for one in recorded()]
    with pytest.raises(ValueError):  # noqa: PT011 # which of the reasons depends on what is wrong
        load_all(specs, spoilt(save_all(recorded())), steps=3)


def test_a_state_of_more_checks_than_are_read_is_refused() -> None:
    whole = save_all(recorded())
    with pytest.raises(ValueError, match="longer than expected"):
        load_all([one.spec for one in recorded()][:2], whole[:2], steps=3)


def test_what_was_kept_goes_on_as_if_it_had_not_been_put_away() -> None:
    for old in recorded():
        assert old.tally[0] > 10_000
        assert old.both_at == old.at == 1800.0
        new = load(old.spec, json.loads(json.dumps(save(old))), steps=3)
        for a, b in zip(arrays(old), arrays(new), strict=True):
            assert a.tobytes() == b.tobytes()
        later = update(old, silent(old, 18, "s"), silent(old, 2, "c"))
        assert (later.log_e, later.log_e_pass) == (old.log_e, old.log_e_pass)


@pytest.mark.parametrize(("version", "beliefs"), [(9, 3), (8, 2)])
def test_evidence_of_the_versions_before_goes_on_with_beliefs_of_its_own(version: int, beliefs: int) -> None:
    """Latency's were about seven factors; before that, a filter for each of the two nodes."""
    there = fed(CheckKind.LATENCY, range(30, 60), history(CheckKind.LATENCY))
    known = np.full((beliefs, 7), 1 / 7)
    kept = save(replace(there, informed=replace(there.informed, belief=known)))
    back = load(there.spec, {**kept, "version": version}, steps=4)
    assert back.informed.belief == pytest.approx(blank(2, INFORMED[CheckKind.LATENCY][1]))
    assert (back.log_e, back.at, back.tally.tolist()) == (there.log_e, there.at, there.tally.tolist())
    with pytest.raises(ValueError):  # noqa: PT011 # of another length than this version's
        load(there.spec, kept, steps=4)


def test_nothing_is_bet_on_whole_distributions_of_a_canary_of_which_nothing_is_known() -> None:
    """At first so much is expected of large factors that the tail alone would be beyond the margin."""
    first = fed(CheckKind.LATENCY, range(30, 31), history(CheckKind.LATENCY), bad=3.0)
    assert first.tally[0] > 0
    assert (first.informed.gained == 0).all()
    assert (fed(CheckKind.LATENCY, range(31, 33), first, bad=3.0).informed.gained > 0).any()


def test_a_run_of_three_checks_is_kept_in_a_few_kilobytes() -> None:
    sizes = [len(json.dumps(save(fed(kind, range(30, 200), history(kind))))) for kind in CheckKind]
    assert sum(sizes) <= 4_000


@pytest.mark.parametrize("change", [{"version": 99}, {"kind": "ErrorRate"}, {"sizes": [9999, 60, -1, 5, 0]}])
def test_what_another_version_saved_is_refused(change: dict) -> None:  # type: ignore[type-arg]
    saved = save(history(CheckKind.LATENCY))
    with pytest.raises(ValueError, match="restart the step"):
        load(SPECS[CheckKind.LATENCY], {**saved, **change}, steps=4)


@pytest.mark.parametrize("kind", CheckKind)
def test_what_was_saved_before_anything_happened_comes_back(kind: CheckKind) -> None:
    text, (_, ways) = json.dumps(save(begin(SPECS[kind], steps=4))), INFORMED[kind]
    assert (load(SPECS[kind], json.loads(text), steps=4).informed.belief == blank(1, ways)).all()


@pytest.mark.parametrize(
    ("level", "le"), [(0.95, LE), (0.99, LE), (0.95, (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0))]
)
def test_advised_bets_cost_a_healthy_canary_next_to_nothing(level: float, le: tuple[float, ...]) -> None:
    """Also where not knowing alone would expect the tail beyond the margin: far out, or coarse buckets."""
    evidence = begin(replace(SPECS[CheckKind.LATENCY], quantile=level), steps=4)
    evidence = fed(CheckKind.LATENCY, range(30), evidence, canary_pods=0, le=le)
    assert abs(fed(CheckKind.LATENCY, range(30, 150), evidence, le=le).informed.log_e) < 0.3


def test_a_node_without_requests_does_not_let_the_other_decide() -> None:
    evidence = history(CheckKind.LATENCY)
    for second in range(30, 50):
        stable, canary = tick(CheckKind.LATENCY, second, bad=5.0)
        idle = replace(canary.pods[1], value=Histogram(LE, (0,) * (len(LE) + 1)))
        evidence = update(evidence, stable, Sample(canary.start, canary.end, (canary.pods[0], idle)))
    assert evidence.informed.log_e == 0.0


def test_a_tick_that_repeats_or_goes_back_is_ignored() -> None:
    evidence = fed(CheckKind.LATENCY, range(30, 40), history(CheckKind.LATENCY))
    for second in (39, 12, 3):
        assert update(evidence, *tick(CheckKind.LATENCY, second)) is evidence


def test_a_tick_that_began_before_the_step_is_not_scored() -> None:
    evidence = next_step(fed(CheckKind.LATENCY, range(30, 40), history(CheckKind.LATENCY)), at=40.5)
    after = update(evidence, *tick(CheckKind.LATENCY, 40, bad=5.0))
    assert after.tally.sum() == 0
    assert after.at == 41.0


def test_a_step_that_ends_is_frozen_and_the_next_begins_at_one() -> None:
    evidence = fed(CheckKind.LATENCY, range(30, 60), history(CheckKind.LATENCY), bad=1.4)
    after = next_step(evidence, at=60.0)
    assert after.finished[0] == rounded(evidence.log_e_of_tracks)
    assert not after.finished[1:].any()
    assert after.log_e == pytest.approx(0.0)
    assert after.informed.log_e == pytest.approx(evidence.informed.log_e)
    assert after.informed.log_e > 1.0
    assert after.step == 1
    assert after.memory.recent.sum() == evidence.memory.recent.sum()


def test_a_restart_forgets_the_step_and_keeps_what_was_learned() -> None:
    evidence = fed(CheckKind.LATENCY, range(30, 60), history(CheckKind.LATENCY), bad=3.0)
    after = restart(evidence, at=60.0)
    assert after.step == 0
    assert not after.finished.any()
    assert after.log_e == pytest.approx(0.0, abs=1e-6)
    assert after.tally.sum() == 0
    assert after.memory.recent.sum() == evidence.memory.recent.sum()


@pytest.mark.parametrize("kind", CheckKind)
@pytest.mark.parametrize("bad", [1.0, 1.4, 3.0])
@pytest.mark.parametrize("seconds", [4, 30, 75])
def test_a_restart_forgets_what_was_gained_and_nothing_that_was_lost(
    kind: CheckKind, bad: float, seconds: int
) -> None:
    """In each part of the capital, so that no number of restarts earns what one step may not."""
    first = next_step(fed(kind, range(30, 60), history(kind)), at=60.0)
    before = fed(kind, range(60, 60 + seconds), first, bad=bad)
    after = restart(before, at=60.0 + seconds)
    assert (after.informed.worth <= np.minimum(before.informed.worth, before.informed.began) + 1e-6).all()
    assert (after.passing == np.minimum(before.passing, 0.0)).all()
    assert after.log_e_of_tracks <= min(before.log_e_of_tracks, 0.0) + 1e-6
    again = restart(after, at=60.0 + seconds)
    assert again.log_e_of_tracks == pytest.approx(float(after.log_e_of_tracks), abs=1e-6)


@pytest.mark.parametrize("kind", CheckKind)
def test_a_node_that_stays_alone_needs_nobody_to_confirm_what_it_does(kind: CheckKind) -> None:
    """Nothing is gained by the others' going: only what comes after it counts, less its worst burst."""
    three = fed(kind, range(30, 60), history(kind), canary_pods=3)
    one = without_nodes(three, but=["m0", "n0"])
    assert len(one.groups) == one.tracks.groups == 1
    assert float(standing(one).run) <= float(standing(three).run) + 1e-6
    held, alone = (fed(kind, range(60, 68), each, canary_pods=1, bad=6.0) for each in (three, one))
    assert float(held.log_e) < 4.6 < float(fed(kind, range(68, 74), alone, canary_pods=1, bad=6.0).log_e)
    assert save(fed(kind, range(60, 61), load(one.spec, save(one), steps=4))) == save(
        fed(kind, range(60, 61), one)
    )


def test_what_was_proved_stays_when_the_node_that_proved_it_goes() -> None:
    bad = fed(CheckKind.ERROR_RATE, range(30, 40), history(CheckKind.ERROR_RATE), bad=3.0, canary_pods=3)
    assert float(without_nodes(bad, but=["m1", "m2"]).log_e) == pytest.approx(float(bad.log_e), abs=1e-3)
    assert without_nodes(bad, but=["m0", "m1", "m2", "m3"]) is bad


def test_a_node_that_goes_in_the_warm_up_takes_none_of_the_capital_that_waits() -> None:
    kind = CheckKind.ERROR_RATE
    cold = next_step(fed(kind, range(30, 60), history(kind), canary_pods=3), at=60.0)
    cold = fed(kind, range(60, 65), cold, canary_pods=3, bad=3.0)
    one = without_nodes(cold, but=["m0"])
    assert float(one.log_e) <= float(cold.log_e) + 1e-6
    assert float(fed(kind, range(65, 80), one, canary_pods=1).log_e) < float(cold.log_e)


def test_late_capital_is_put_in_once_however_often_a_step_begins_anew() -> None:
    kind = CheckKind.LATENCY
    evidence, through = history(kind), history(kind)
    for second in range(30, 230):
        evidence, through = (fed(kind, range(second, second + 1), one) for one in (evidence, through))
        if second % 20 == 0:
            evidence = restart(evidence, at=second + 1.0)
    spent, once = (one.tracks.given - one.tracks.late_from for one in (evidence, through))
    assert spent == pytest.approx(float(once))


def test_cold_caches_of_a_weight_step_are_forgiven() -> None:
    first = fed(CheckKind.LATENCY, range(30, 60), history(CheckKind.LATENCY))
    cold = fed(CheckKind.LATENCY, range(60, 65), next_step(first, at=60.0), bad=2.0)
    assert cold.log_e < 2


def test_only_a_run_in_which_nothing_was_compared_begins_without_a_warm_up_of_its_own() -> None:
    unseen = history(CheckKind.LATENCY)
    assert restart(unseen, at=30.0).tracks.warm_up == 0
    assert restart(fed(CheckKind.LATENCY, range(30, 32), unseen), at=32.0).tracks.warm_up == 10
    assert next_step(unseen, at=30.0).tracks.warm_up == 10


def test_one_pod_with_other_buckets_is_left_out() -> None:
    stable, canary = tick(CheckKind.LATENCY, 30)
    odd = PodSample("odd", "odd", Histogram((1.0,), (50, 50)))
    evidence = history(CheckKind.LATENCY)
    assert save(update(evidence, replace(stable, pods=(*stable.pods, odd)), canary)) == save(
        update(evidence, stable, canary)
    )


def test_new_buckets_everywhere_begin_anew_and_are_learned() -> None:
    evidence = fed(CheckKind.LATENCY, range(30, 60), history(CheckKind.LATENCY), bad=3.0)
    wide = LE[::3]
    after = fed(CheckKind.LATENCY, range(60, 61), evidence, le=wide)
    assert after.log_e == pytest.approx(0.0, abs=1e-6)
    assert fed(CheckKind.LATENCY, range(61, 90), after, le=wide, bad=3.0).log_e > 8


@pytest.mark.parametrize("bad", [1.0, 3.0])
def test_new_buckets_forget_what_was_gained_and_nothing_that_was_lost(bad: float) -> None:
    """As pods that come and go: or a canary earned anew with every change what one step may not."""
    kind = CheckKind.LATENCY
    first = next_step(fed(kind, range(30, 60), history(kind)), at=60.0)
    before = fed(kind, range(60, 90), first, bad=bad)
    after, restarted = fed(kind, range(90, 91), before, le=LE[::3], bad=bad), restart(before, at=90.0)
    assert after.memory.le == LE[::3]
    assert after.log_e_of_tracks == pytest.approx(float(restarted.log_e_of_tracks), abs=1e-6)
    assert after.informed.worth == pytest.approx(restarted.informed.worth, abs=1e-6)
    assert (after.passing == restarted.passing).all()
    assert (restarted.log_e_of_tracks < -0.01) == (bad == 1.0)
    assert (restarted.passing < 0).any() == (bad == 3.0)


@pytest.mark.parametrize(("bad", "least", "most"), [(1.0, -30, 1), (3.0, 8, 700)])
@pytest.mark.parametrize("kind", [CheckKind.LATENCY, CheckKind.PREDICTIONS])
def test_a_page_that_shows_buckets_and_then_does_not_is_judged_in_those_it_always_has(
    kind: CheckKind, bad: float, least: float, most: float
) -> None:
    evidence = history(kind)
    for second in range(30, 90):
        lacking = second % 4 > 1
        evidence = fed(
            kind, range(second, second + 1), evidence, bad=bad, canary_le=LE[::2] if lacking else LE
        )
    assert evidence.memory.canary_le == LE[::2]
    assert least < evidence.log_e < most


FINE, COARSE = (grid_bounds(SECONDS, schema)[1] for schema in (4, 1))  # native histograms'


def test_native_histograms_that_became_coarser_lose_no_evidence() -> None:
    """An exporter that may have only so many buckets joins them, on one pod first."""
    before = fed(CheckKind.LATENCY, range(30, 60), history(CheckKind.LATENCY, le=FINE), bad=3.0, le=FINE)
    stable, canary = tick(CheckKind.LATENCY, 60, le=FINE, bad=3.0)
    first, *others = stable.pods
    assert isinstance(first.value, Histogram)
    odd = replace(first, value=coarsened(first.value, COARSE))
    after = update(before, replace(stable, pods=(odd, *others)), canary)
    assert after.memory.le == COARSE
    assert after.memory.canary_le == FINE
    assert after.log_e == before.log_e  # the tick that brought it is learned from
    assert after.memory.step_stable.sum() == before.memory.step_stable.sum()
    assert after.memory.recent.sum() > before.memory.recent.sum() * 0.99
    fine_again = fed(CheckKind.LATENCY, range(61, 90), after, bad=3.0, le=FINE)
    assert fine_again.memory.le == COARSE
    assert fine_again.log_e > before.log_e + 3


@pytest.mark.parametrize("first", [60, 75])
def test_what_became_coarser_before_or_with_a_new_leader_loses_no_evidence(first: int) -> None:
    """One pod is coarser for ten seconds, and a new leader goes on at 75."""

    def seconds(evidence: Evidence, over: range) -> Evidence:
        for second in over:
            stable, canary = tick(CheckKind.LATENCY, second, le=FINE, bad=3.0)
            one, *others = stable.pods
            assert isinstance(one.value, Histogram)
            odd = replace(one, value=coarsened(one.value, COARSE))
            pods = (odd, *others) if first <= second < first + 10 else stable.pods
            evidence = update(evidence, replace(stable, pods=pods), canary)
        return evidence

    before = fed(CheckKind.LATENCY, range(30, 60), history(CheckKind.LATENCY, le=FINE), bad=3.0, le=FINE)
    before = seconds(before, range(60, 75))
    after = load(before.spec, json.loads(json.dumps(save(before))), steps=4)
    assert save(seconds(after, range(75, 90))) == save(seconds(before, range(75, 90)))
    assert seconds(after, range(75, 90)).log_e > before.log_e + 3


def test_what_became_coarser_is_judged_as_if_it_had_always_been() -> None:
    fine = history(CheckKind.LATENCY, le=FINE)
    coarse = history(CheckKind.LATENCY, le=COARSE)
    joined = cells.joined(CheckKind.LATENCY, fine.memory, COARSE, COARSE)
    assert joined is not None
    assert joined.le == coarse.memory.le
    np.testing.assert_allclose(joined.recent, coarse.memory.recent, rtol=1e-3)  # kept in 16 bits
    np.testing.assert_allclose(joined.step_stable, coarse.memory.step_stable)
    assert cells.joined(CheckKind.LATENCY, coarse.memory, FINE, FINE) is None


def test_classic_buckets_that_became_coarser_begin_anew() -> None:
    evidence = history(CheckKind.LATENCY)
    assert cells.joined(CheckKind.LATENCY, evidence.memory, LE[::3], LE[::3]) is None


def test_arms_with_different_latency_buckets_are_compared_all_the_same() -> None:
    after = fed(CheckKind.LATENCY, range(30, 60), history(CheckKind.LATENCY), bad=3.0, canary_le=LE[::2])
    assert after.log_e > 8


def test_predictions_are_compared_in_the_buckets_both_arms_have() -> None:
    start = history(CheckKind.PREDICTIONS)
    like = fed(CheckKind.PREDICTIONS, range(30, 60), start, canary_le=LE[::2])
    bad = fed(CheckKind.PREDICTIONS, range(30, 60), start, canary_le=LE[::2], bad=3.0)
    assert like.memory.le == LE[::2]
    assert like.log_e < 0.5
    assert bad.log_e > 8


def test_no_bucket_in_common_says_nothing() -> None:
    other = tuple(bound * 1.01 for bound in LE)
    after = fed(
        CheckKind.PREDICTIONS, range(30, 60), history(CheckKind.PREDICTIONS), canary_le=other, bad=3.0
    )
    assert after.log_e == pytest.approx(0.0)
    assert after.both_at == NEVER


@pytest.mark.parametrize("kind", CheckKind)
def test_a_value_of_the_wrong_kind_is_left_out(kind: CheckKind) -> None:
    wrong = Histogram((1.0,), (3, 2)) if kind.counted else Counts(5, 1)
    pods = (PodSample("a", "a", wrong),)
    evidence = history(kind)
    after = update(evidence, Sample(30, 31, pods), Sample(30, 31, pods))
    assert after.tally.sum() == 0


def test_shares_are_normalised_over_the_plan() -> None:
    plan = normalised([SPECS[CheckKind.LATENCY], SPECS[CheckKind.ERROR_RATE]])
    assert sum(spec.share for spec in plan) == pytest.approx(1)
    assert plan[0].share / plan[1].share == pytest.approx(
        SHARES[CheckKind.LATENCY] / SHARES[CheckKind.ERROR_RATE]
    )
    assert normalised(plan, {"errors": 0.45})[1].share == pytest.approx(0.5)


def test_one_large_tick_after_an_absence_is_scored_whole() -> None:
    rng = np.random.default_rng(1)
    stable = tuple(PodSample(f"s{j}", f"n{j}", value(CheckKind.LATENCY, rng, 4000, 1, LE)) for j in range(5))
    canary = tuple(
        PodSample(f"c{j}", f"m{j}", value(CheckKind.LATENCY, rng, 2000, 4.0, LE)) for j in range(2)
    )
    after = update(history(CheckKind.LATENCY), Sample(30, 230, stable), Sample(30, 230, canary))
    assert 8 < after.log_e <= 700


def test_nothing_is_bet_on_cold_caches_where_no_bucket_is_twice_the_margin_away() -> None:
    """Ends at 0.2 s: x1.4 of the 0.2 that 5 % of stable exceed cannot be asked."""
    le, spec = (0.1, 0.2), SPECS[CheckKind.LATENCY]

    def both(second: int, slow: int) -> tuple[Sample, Sample]:
        pods = tuple(PodSample(f"s{j}", f"n{j}", Histogram(le, (95, 5, 0))) for j in range(5))
        cold = tuple(PodSample(f"c{j}", f"m{j}", Histogram(le, (20 - slow, 0, slow))) for j in range(2))
        return Sample(second, second + 1.0, pods), Sample(second, second + 1.0, cold)

    evidence = begin(spec, steps=2)
    for second in range(20):
        evidence = update(evidence, *both(second, 0))
    evidence = next_step(evidence, at=20.0)
    wide = question(evidence, tail_odds(evidence), widened=2.0)
    assert wide is not None
    assert not wide.ready
    for second in range(20, 28):
        evidence = update(evidence, *both(second, 6))
    assert evidence.log_e == pytest.approx(0.0)


@pytest.mark.parametrize("kind", CheckKind)
def test_nothing_is_asked_but_of_errors_before_enough_of_stable_is_known(kind: CheckKind) -> None:
    fresh, first = begin(SPECS[kind], steps=4), fed(kind, range(1), canary_pods=0)
    for evidence, ready in ((fresh, kind is CheckKind.ERROR_RATE), (first, True)):
        asked = question(evidence, tail_odds(evidence))
        assert (asked is not None and bool(asked.ready)) == ready


@pytest.mark.parametrize("kind", CheckKind)
def test_of_a_trickle_enough_is_remembered_to_ask(kind: CheckKind) -> None:
    """A request of stable's every two seconds: of a minute's memory it would be thirty."""
    evidence, rng = begin(SPECS[kind], steps=4), np.random.default_rng(3)
    for second in range(0, 600, 2):
        pod = PodSample("s0", "n0", value(kind, rng, 1, 1.0, LE))
        evidence = update(evidence, Sample(second, second + 2.0, (pod,)), Sample(second, second + 2.0))
    assert evidence.memory.recent.sum(axis=-1) == pytest.approx(LEAST, rel=0.01)
    asked = question(evidence, tail_odds(evidence))
    assert asked is not None
    assert bool(asked.ready)
    busy = fed(kind, range(600, 900), evidence, canary_pods=0)
    assert busy.memory.recent.sum(axis=-1) == pytest.approx(100 * MEMORIES, rel=0.05)  # and no more than that


def test_latency_without_buckets_is_not_asked_about() -> None:
    evidence = fed(CheckKind.LATENCY, range(30, 60), history(CheckKind.LATENCY), le=(), bad=3.0)
    assert tail_odds(evidence) is None
    assert question(evidence, None) is None
    assert evidence.log_e == pytest.approx(0.0)


@pytest.mark.parametrize(("kind", "ticks"), [(CheckKind.LATENCY, 1), (CheckKind.PREDICTIONS, 2)])
@pytest.mark.parametrize(("requests", "something"), [(ENOUGH - 1, False), (ENOUGH + 1, True)])
def test_nothing_is_believed_before_enough_of_stable_is_known(
    kind: CheckKind, ticks: int, requests: float, *, something: bool
) -> None:
    """This tick's requests of stable count for latency, only those before it for predictions."""

    def arm(second: int, n: int, place: int) -> Sample:
        counts = np.bincount([place], [n], minlength=len(LE) + 1).astype(int)
        return Sample(
            second, second + 1.0, (PodSample("p", str(place), Histogram(LE, tuple(counts.tolist()))),)
        )

    after, (_, ways) = begin(SPECS[kind], steps=4), INFORMED[kind]
    for second in range(ticks):
        assert after.informed.belief == pytest.approx(blank(1, ways), abs=1e-6)
        after = update(after, arm(second, int(requests), 20), arm(second, 20, 27))
    assert (after.informed.belief != pytest.approx(blank(1, ways), abs=1e-6)) == something


def side_by_side(spec: CheckSpec, *, since: int = 30, **how: Any) -> list[Evidence]:
    """Three canaries that were fed apart: in the first step, in the second, and a bad one; 15 s `since`."""
    start = fed(spec.kind, range(since), begin(spec, steps=4), **{**how, "canary_pods": 0})
    like, worse, bad = (fed(spec.kind, range(since, since + 15), start, **how, bad=x) for x in (1, 1.3, 1.6))
    return [like, next_step(worse, at=since + 15.0), bad]


def arranged(evidence: Evidence, stable: Sample, canary: Sample) -> cells.Tick:
    kind = evidence.spec.kind
    arms = cells.in_cells(kind, evidence.memory, stable, canary)
    known = {"nodes": evidence.nodes, "groups": evidence.groups}
    return cells.unpacked([cells.arranged(kind, *arms, **known, start=stable.start, end=stable.end)], ())


def assert_alike(one: Any, other: Any) -> None:
    """Bit by bit."""
    for a, b in zip(arrays(one), arrays(other), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def assert_the_same_side_by_side(alone: list[Evidence], ticks: list[list[tuple[Sample, Sample]]]) -> None:
    """`ticks`: in each tick the samples of each canary."""
    several = stacked(alone)
    for samples in ticks:
        tick = stacked([arranged(one, *both) for one, both in zip(alone, samples, strict=True)])
        several = advanced(several, tick)
        alone = [update(one, *both) for one, both in zip(alone, samples, strict=True)]
        for place, one in enumerate(alone):
            assert_alike(taken(several, place), one)
    for place, one in enumerate(alone):
        assert several.log_e[place] == pytest.approx(one.log_e, rel=1e-12, abs=1e-12)
        assert several.log_e_pass[place] == pytest.approx(one.log_e_pass, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kind", CheckKind)
@pytest.mark.parametrize("pods", [1, 2])
def test_canaries_side_by_side_give_bit_by_bit_what_each_gives_alone(kind: CheckKind, pods: int) -> None:
    ticks = [
        [
            tick(kind, second, canary_pods=pods),
            tick(kind, second, canary_pods=pods, bad=1.3),
            tick(kind, second, canary_pods=0 if second % 7 < 3 else pods, bad=2.0),
        ]
        for second in range(45, 110)
    ]
    assert_the_same_side_by_side(side_by_side(SPECS[kind], canary_pods=pods), ticks)


@pytest.mark.parametrize("kind", CheckKind)
@pytest.mark.parametrize("pods", [1, 2])
def test_what_one_canary_has_not_seen_does_not_change_those_beside_it(kind: CheckKind, pods: int) -> None:
    """The second has pods without requests at times, the third no pods of stable: its windows close late.

    Stable's pods differ for good, so that this decides the margin of a latency check.
    """

    def idle(both: tuple[Sample, Sample]) -> tuple[Sample, Sample]:
        stable, canary = both
        nothing = Counts(0, 0) if kind is CheckKind.ERROR_RATE else Histogram(LE, (0,) * (len(LE) + 1))
        return stable, replace(canary, pods=tuple(replace(pod, value=nothing) for pod in canary.pods))

    how = {"canary_pods": pods, "apart": 0.1}
    ticks = []
    for second in range(215, 280):
        first, other, third = (tick(kind, second, **how, bad=bad) for bad in (1.0, 1.3, 2.0))
        without = (replace(third[0], pods=()), third[1])
        ticks.append(
            [first, idle(other) if 220 <= second < 230 else other, without if second % 11 < 3 else third]
        )
    assert_the_same_side_by_side(side_by_side(SPECS[kind], since=200, **how), ticks)


@pytest.mark.parametrize("kind", CheckKind)
def test_steps_and_restarts_side_by_side_are_those_of_each_alone(kind: CheckKind) -> None:
    alone = side_by_side(SPECS[kind])
    at = np.array([46.0, 47.0, 48.0])
    for change in (next_step, restart):
        several = change(stacked(alone), at=at)
        for place, one in enumerate(alone):
            assert_alike(taken(several, place), change(one, at=at[place]))
