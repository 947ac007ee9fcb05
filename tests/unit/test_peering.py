"""The peers' rules, looking on while a run goes."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from analysis import evidence as ev
from analysis import peers
from analysis.evidence import CheckKind, CheckSpec, Evidence
from analysis.samples import Counts, Histogram, PodSample, Sample
from controller import peering, planning, resource, wire
from controller.model import Reason, Run, WeightChange
from controller.peering import Peers

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
BEGAN = NOW.timestamp()
ERRORS = CheckSpec(name="errors", kind=CheckKind.ERROR_RATE, max_increase=0.5, plus=0.001)
SLOW = CheckSpec(name="p95", kind=CheckKind.LATENCY, max_increase=0.2)
LE = (0.1, 0.2, 0.5)


def run(weight: int = 10, **changed: Any) -> Run:
    plan = {"canary": "c", "stable": "s", "canaryHash": "1", "stableHash": "2", "virtualService": "s"}
    obj = {
        "metadata": {"name": "c-1-1", "namespace": "lab", "creationTimestamp": wire.time(NOW)},
        "spec": {
            "plan": plan | {"stableSubset": "stable", "canarySubset": "canary", "policy": planning.builtin()}
        },
    }
    return replace(resource.run(obj), weight=weight, **changed)


def begun(spec: CheckSpec) -> Evidence:
    return ev.restart(ev.begin(spec, steps=2), at=BEGAN)


def sample(start: float, end: float, *cells: int, of: str = "a") -> Sample:
    value = Counts(sum(cells), cells[1]) if len(cells) == 2 else Histogram(LE, cells)
    return Sample(start, end, (PodSample(of, of, value),))


def told(evidence: Evidence, there: Peers, *, seconds: int, canary: tuple[int, ...]) -> Evidence:
    """So many more ticks of a second, all looked at, and the evidence before them."""
    there.watch(run(), [evidence])
    for _ in range(seconds):
        start = max(float(evidence.at), BEGAN)
        stable = (90, 1) if len(canary) == 2 else (80, 10, 4, 1)
        evidence = ev.update(
            evidence, sample(start, start + 1, *stable), sample(start, start + 1, *canary, of="b")
        )
        there.watch(run(), [evidence])
    return evidence


def of(there: Peers, rule: peers.Rule) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in there.said()["rules"] if each["name"] == str(rule))
    return found


@pytest.mark.parametrize("spec", [ERRORS, SLOW], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_what_is_told_window_by_window_is_what_would_have_been_seen_tick_by_tick(
    spec: CheckSpec, seed: int
) -> None:
    """Ticks as long as they happen to be, a step in the middle, and rates that come and go."""
    rng = np.random.default_rng(seed)
    le = LE if spec is SLOW else ()
    direct = {rule: peers.begin(rule, spec, le=le, at=BEGAN) for rule in peers.RULES}
    there, evidence, at = Peers(), begun(spec), BEGAN
    there.watch(run(), [evidence])  # as before the first weight
    shares = np.array([0.9, 0.05, 0.03, 0.02]) if spec is SLOW else np.array([0.99, 0.01])
    worse = np.array([0.8, 0.06, 0.1, 0.04]) if spec is SLOW else np.array([0.97, 0.03])
    if spec is SLOW:  # which buckets there are is known from the first tick on
        evidence = ev.update(evidence, sample(at, at + 1, *rng.multinomial(90, shares)), Sample(at, at + 1))
        there.watch(run(), [evidence])
        at += 1.0
        direct = {rule: peers.begin(rule, spec, le=le, at=at) for rule in peers.RULES}
    for tick in range(500):
        end = at + float(rng.uniform(0.8, 1.2))
        stable, canary = rng.multinomial(90, shares), rng.multinomial(10, worse if tick % 70 > 30 else shares)
        evidence = ev.update(evidence, sample(at, end, *stable), sample(at, end, *canary, of="b"))
        there.watch(run(), [evidence])
        direct = {
            rule: peers.seen(one, stable.astype(float), canary.astype(float), end=end)
            for rule, one in direct.items()
        }
        at = end
        if tick == 133:
            evidence = ev.next_step(evidence, at=end)
    assert any(np.isfinite(one.failed_at) for one in direct.values())
    for rule, one in direct.items():
        said = of(there, rule).get("rolledBackAt")
        assert (said is None) == np.isinf(one.failed_at)
        if said is not None:
            assert datetime.fromisoformat(said).timestamp() == pytest.approx(float(one.failed_at), abs=1e-3)
            assert of(there, rule)["check"] == spec.name


def test_a_rule_that_has_decided_is_not_asked_again() -> None:
    there = Peers()
    evidence = told(begun(ERRORS), there, seconds=25, canary=(5, 5))
    said = of(there, peers.FLAGGER_FAST)
    assert said["check"] == "errors"
    told(evidence, there, seconds=200, canary=(10, 0))
    assert of(there, peers.FLAGGER_FAST) == said


def test_rules_are_named_as_soon_as_something_was_compared_and_not_before() -> None:
    there = Peers()
    there.watch(run(), [begun(ERRORS)])
    assert there.said() is None
    told(begun(ERRORS), there, seconds=2, canary=(10, 0))
    assert [each["name"] for each in there.said()["rules"]] == [str(rule) for rule in peers.RULES]
    assert there.said()["since"] is None


def test_time_stands_still_while_nothing_is_compared() -> None:
    """Stable alone, as while a canary's pods are new: Flagger would take the gap for a failure."""
    there = Peers()
    evidence = told(begun(ERRORS), there, seconds=15, canary=(10, 0))
    for _ in range(300):
        at = float(evidence.at)
        evidence = ev.update(evidence, sample(at, at + 1, 90, 1), Sample(at, at + 1))
        there.watch(run(), [evidence])
    assert all("rolledBackAt" not in each for each in there.said()["rules"])


def test_without_weight_and_after_the_end_nobody_looks() -> None:
    evidence, there = begun(ERRORS), Peers()
    for state in (run(weight=0), run(ended=NOW)):
        there.watch(state, [ev.update(evidence, sample(BEGAN, BEGAN + 1, 90, 1), Sample(BEGAN, BEGAN + 1))])
    assert there.watching == {}


STARTED = (WeightChange(at=NOW, weight=10, reason=Reason.WEIGHT_RAISED),)


def test_a_new_leader_keeps_what_was_decided_and_says_since_when_the_others_look() -> None:
    first = Peers()
    told(begun(ERRORS), first, seconds=25, canary=(5, 5))
    later = NOW + timedelta(minutes=1)
    (there,) = peering.arrived(run(weights=STARTED), {"status": {"peers": first.said()}}, later)
    told(begun(ERRORS), there, seconds=2, canary=(10, 0))
    assert there.said()["since"] == wire.time(later)
    assert of(there, peers.FLAGGER_FAST) == of(first, peers.FLAGGER_FAST)
    assert "rolledBackAt" not in of(there, peers.FLAGGER)


def test_what_a_new_leader_finds_counted_was_before_its_time() -> None:
    evidence = told(begun(ERRORS), Peers(), seconds=30, canary=(5, 5))
    (there,) = peering.arrived(run(weights=STARTED), {"status": {}}, NOW)
    told(evidence, there, seconds=60, canary=(10, 0))
    assert "rolledBackAt" not in of(there, peers.FLAGGER_FAST)


def test_a_run_without_traffic_yet_is_seen_whole() -> None:
    (there,) = peering.arrived(run(), {}, NOW)
    assert there.since is None


def test_a_status_that_somebody_spoilt_costs_the_comparison_and_nothing_else() -> None:
    spoilt = {"status": {"peers": {"rules": [{"rolledBackAt": 1}]}}}
    assert peering.arrived(run(weights=STARTED), spoilt, NOW) == []


# -- many runs -------------------------------------------------------------------------------------


def test_windows_that_are_told_together_are_seen_as_if_each_were_told_alone() -> None:
    company, alone = peering.Company(), []
    shares = [(9, 1), (6, 4), (10, 0), (8, 2), (9, 1)]
    together = [Peers(company=company) for _ in range(2 * len(shares))]
    for place, canary in enumerate(shares):
        for spec, cells, offset in ((ERRORS, canary, 0), (SLOW, (*canary, 1, 0), len(shares))):
            alone.append((offset + place, Peers()))
            evidence = begun(spec)
            told(evidence, alone[-1][1], seconds=130, canary=cells)
    state = {}
    for place in range(len(shares)):
        state[place] = begun(replace(ERRORS, name=f"errors-{place}")), shares[place]
        state[len(shares) + place] = begun(SLOW), (*shares[place], 1, 0)
    for one, (evidence, _) in state.items():
        together[one].watch(run(), [evidence])
    for _second in range(130):  # all runs side by side
        for one, (evidence, canary) in state.items():
            state[one] = told_once(evidence, together[one], canary), canary
    company.tell()
    for one, peer in alone:
        said, expected = together[one].said(), peer.said()
        assert [rule.get("rolledBackAt") for rule in said["rules"]] == [
            rule.get("rolledBackAt") for rule in expected["rules"]
        ]
    assert any("rolledBackAt" in rule for _, peer in alone for rule in peer.said()["rules"])


def told_once(evidence: Evidence, there: Peers, canary: tuple[int, ...]) -> Evidence:
    """One more tick, looked at."""
    start = max(float(evidence.at), BEGAN)
    stable = (90, 1) if len(canary) == 2 else (80, 10, 4, 1)
    after = ev.update(evidence, sample(start, start + 1, *stable), sample(start, start + 1, *canary, of="b"))
    there.watch(run(), [after])
    return after


def test_what_waits_for_company_is_told_when_somebody_wants_to_know() -> None:
    company = peering.Company()
    there = Peers(company=company)
    told(begun(ERRORS), there, seconds=25, canary=(5, 5))
    assert "rolledBackAt" not in of(there, peers.FLAGGER_FAST)
    company.tell()
    assert "rolledBackAt" in of(there, peers.FLAGGER_FAST)


def test_a_window_waits_for_company_no_longer_than_the_next_one_of_its_run_takes() -> None:
    company = peering.Company()
    first, second = (Peers(company=company) for _ in range(2))
    told(begun(ERRORS), first, seconds=25, canary=(5, 5))
    told(begun(ERRORS), second, seconds=35, canary=(9, 1))  # its windows are others'
    assert "rolledBackAt" in of(first, peers.FLAGGER_FAST)


def test_long_windows_wait_for_long_ones_and_not_among_the_short(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[float, int]] = []
    seen = peering.seen

    def telling(windows: Iterable[peering.Window]) -> None:
        of_one = [*windows]
        sizes.append((of_one[0].of.every, len(of_one)))
        seen(of_one)

    monkeypatch.setattr(peering, "seen", telling)
    monkeypatch.setattr(peering, "ENOUGH", 12)
    company = peering.Company()
    for place in range(12):
        told(
            begun(replace(ERRORS, name=f"errors-{place}")), Peers(company=company), seconds=65, canary=(9, 1)
        )
    assert (60.0, 12) in sizes
