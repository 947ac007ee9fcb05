"""Laws of the analysis that hold for every input."""

import json
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.evidence import (
    CheckKind,
    CheckSpec,
    Evidence,
    begin,
    load,
    next_step,
    restart,
    save,
    update,
)
from analysis.judge import Verdict, explained, judge
from analysis.packing import NEVER
from analysis.samples import Counts, Histogram, PodSample, Sample, difference
from analysis.tracks import AHEAD, LEAD, held

BUCKETS = [(0.01, 0.1, 1.0), (0.05,), (), (0.0, 0.02, 0.1, 1.0, 10.0)]
number = st.one_of(st.integers(0, 30), st.sampled_from([0, 1, 100_000, 10_000_000]))


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    n = draw(number)
    return Counts(n, draw(st.integers(0, n)))


@st.composite
def histograms(draw: st.DrawFn) -> Histogram:
    le = draw(st.sampled_from(BUCKETS))
    return Histogram(le, tuple(draw(st.lists(number, min_size=len(le) + 1, max_size=len(le) + 1))))


@st.composite
def arms(draw: st.DrawFn, start: float, end: float) -> Sample:
    values = draw(st.lists(st.one_of(counts(), histograms()), max_size=4))
    nodes = st.sampled_from(["", "a", "b"])
    pods = tuple(PodSample(f"p{place}", draw(nodes), value) for place, value in enumerate(values))
    return Sample(start, end, pods)


@st.composite
def lives(draw: st.DrawFn) -> Evidence:
    """Evidence after any sequence of ticks, steps and restarts, saved and loaded in between."""
    kind = draw(st.sampled_from(list(CheckKind)))
    fewer = draw(st.sampled_from([0.0, 0.15, 0.9])) if kind is CheckKind.PROPORTION else 0.0
    increase = draw(st.sampled_from([0.0, 0.2, 3.0]))
    spec = CheckSpec(name="check", kind=kind, max_increase=increase, max_decrease=fewer, plus=0.001)
    evidence, now = begin(spec, steps=3), draw(st.sampled_from([0.0, 1.7e9]))
    for _ in range(draw(st.integers(0, 12))):
        what = draw(st.sampled_from(["tick"] * 8 + ["step", "restart", "save", "back"]))
        length = draw(st.sampled_from([0.2, 1.0, 17.0, 60.0, 4000.0]))
        if what == "step" and evidence.step < 2:
            evidence = next_step(evidence, at=now)
        elif what == "restart":
            evidence = restart(evidence, at=now)
        elif what == "save":
            evidence = load(spec, json.loads(json.dumps(save(evidence), allow_nan=False)), steps=3)
        elif what == "back":
            now -= length
        else:
            stable, canary = draw(arms(now, now + length)), draw(arms(now, now + length))
            evidence, now = update(evidence, stable, canary), now + length
    return evidence


def ended(evidence: Evidence) -> float:
    """When the last tick did."""
    return float(evidence.at) if evidence.at > NEVER else 0.0


@settings(max_examples=150, deadline=None)
@given(lives())
def test_evidence_is_finite_bounded_and_can_be_kept_whatever_happened(evidence: Evidence) -> None:
    judgement = judge([evidence], alpha=0.01, beta=0.05, now=ended(evidence) + 1)
    judgement = explained(judgement, [evidence], alpha=0.01)
    check = judgement.checks[0]
    for log_e in (evidence.log_e, evidence.log_e_pass, judgement.log_e, check.log_e):
        assert math.isfinite(log_e)
        assert abs(log_e) <= 701
    assert math.isfinite(check.expected_hits)
    assert check.estimate is None or math.isfinite(check.estimate)
    assert len(json.dumps(save(evidence), allow_nan=False)) < 12_000


@settings(max_examples=60, deadline=None)
@given(lives())
def test_saving_and_loading_changes_nothing(evidence: Evidence) -> None:
    text = json.dumps(save(evidence))
    back = load(evidence.spec, json.loads(text), steps=evidence.steps)
    assert json.dumps(save(back)) == text
    assert back.log_e == evidence.log_e
    assert back.log_e_pass == evidence.log_e_pass


@settings(max_examples=60, deadline=None)
@given(lives(), st.data())
def test_the_order_of_pods_does_not_matter(evidence: Evidence, data: st.DataObject) -> None:
    now = ended(evidence)
    stable, canary = data.draw(arms(now, now + 1.0)), data.draw(arms(now, now + 1.0))
    turned = Sample(stable.start, stable.end, stable.pods[::-1])
    one = update(evidence, stable, canary)
    other = update(evidence, turned, Sample(canary.start, canary.end, canary.pods[::-1]))
    assert other.log_e == one.log_e
    assert other.log_e_pass == one.log_e_pass


@given(lives())
@settings(max_examples=40, deadline=None)
def test_a_verdict_is_a_failure_exactly_when_the_sum_reaches_the_line(evidence: Evidence) -> None:
    judgement = judge([evidence], alpha=0.01, beta=0.05, now=ended(evidence))
    assert (judgement.verdict is Verdict.FAIL) == (judgement.log_e >= math.log(100))
    assert (judgement.failed is not None) == (judgement.verdict is Verdict.FAIL)


@given(st.one_of(st.tuples(counts(), counts()), st.tuples(histograms(), histograms())))
def test_what_happened_between_two_readings_adds_up(pair: tuple) -> None:  # type: ignore[type-arg]
    before, after = pair
    between = difference(before, after)
    if between is not None:
        assert before + between == after


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=5))
def test_no_node_counts_more_than_the_others_and_its_lead(gains: list[float]) -> None:
    total, most = sum(gains), max(gains)
    counted = float(held(np.array(total), total - np.array(gains), axis=0))
    others = total - most
    assert counted <= total + 1e-9
    assert counted <= others + max(0.0, LEAD * others + AHEAD) + 1e-9
