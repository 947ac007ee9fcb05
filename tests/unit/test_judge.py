"""From evidence to a verdict."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.evidence import CheckKind, CheckSpec, Evidence, begin, next_step, normalised, update
from analysis.judge import Judgement, Verdict, explained, judge, log_term, pass_notes
from analysis.samples import Counts, Histogram, PodSample, Sample
from analysis.state import INFORMED_SHARES, step_weights
from controller import explain

LE = tuple(0.01 * 1.1**i for i in range(60))
ISTIO = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LATENCY = CheckSpec(name="latency-p95", kind=CheckKind.LATENCY, max_increase=0.2)
ERRORS = CheckSpec(name="errors", kind=CheckKind.ERROR_RATE, max_increase=0.5, plus=0.001)
CLICKS = CheckSpec(name="clicks", kind=CheckKind.PROPORTION, max_decrease=0.15)
DRIFT = CheckSpec(name="predictions", kind=CheckKind.PREDICTIONS, tolerance=0.05)


def fed(
    spec: CheckSpec,
    seconds: int = 60,
    *,
    steps: int = 1,
    bad: float = 1.0,
    le: tuple[float, ...] = LE,
    pods: int = 2,
    n: int = 20,
    step: float = 0.0,
    before: Evidence | None = None,
) -> Evidence:
    rng = np.random.default_rng(4)
    evidence, began = (begin(spec, steps=steps), -30) if before is None else (before, 60)

    def arm(name: str, count: int, factor: float) -> tuple[PodSample, ...]:
        return tuple(PodSample(f"{name}{j}", f"{name}{j}", one(factor)) for j in range(count))

    def one(factor: float) -> Counts | Histogram:
        if spec.kind is CheckKind.ERROR_RATE:
            return Counts(n, int(rng.binomial(n, min(1.0, 0.001 * (factor * 40 if factor > 1 else 1)))))
        if spec.kind is CheckKind.PROPORTION:
            return Counts(n, int(rng.binomial(n, 0.4 / factor)))
        x = rng.lognormal(np.log(0.05), 0.5, n) * factor
        x = np.ceil(x / step) * step if step else x
        return Histogram(le, tuple(np.bincount(np.searchsorted(le, x), minlength=len(le) + 1).tolist()))

    for second in range(began, began + 30 + seconds if before is None else began + seconds):
        canary = arm("c", pods, bad) if second >= 0 else ()
        evidence = update(
            evidence, Sample(second, second + 1.0, arm("s", 5, 1.0)), Sample(second, second + 1.0, canary)
        )
    return evidence


def judged(*evidence: Evidence, now: float = 60.0) -> Judgement:
    return explained(judge(evidence, alpha=0.01, beta=0.05, now=now), evidence, alpha=0.01)


def test_like_arms_pass_every_check() -> None:
    plan = normalised([LATENCY, ERRORS, DRIFT])
    judgement = judged(*(fed(spec) for spec in plan))
    assert judgement.verdict is Verdict.PASS
    assert judgement.failed is None
    assert [check.verdict for check in judgement.checks] == [Verdict.PASS] * 3


def test_the_worst_check_fails_the_run_and_is_named() -> None:
    plan = normalised([LATENCY, ERRORS, DRIFT])
    judgement = judged(fed(plan[0], bad=2.0), fed(plan[1]), fed(plan[2]))
    assert judgement.verdict is Verdict.FAIL
    assert judgement.failed == "latency-p95"
    assert [check.verdict for check in judgement.checks][1:] == [Verdict.PASS] * 2


def test_the_run_is_the_weighted_sum_of_checks_and_steps() -> None:
    spec = replace(LATENCY, share=0.4)
    evidence = next_step(fed(spec, steps=3, bad=1.2), at=60.0)
    weights = step_weights(3)
    of_tracks = weights[0] * np.exp(evidence.finished[0]) + weights[1] + weights[2]
    of_informed = np.exp(evidence.informed.log_e)
    assert of_informed != pytest.approx(of_tracks, rel=0.01)
    share = INFORMED_SHARES[CheckKind.LATENCY]
    expected = 0.4 * ((1 - share) * of_tracks + share * of_informed)
    assert np.exp(log_term(evidence)) == pytest.approx(expected)
    other = fed(replace(ERRORS, share=0.6), steps=3)
    total = np.exp(log_term(evidence)) + np.exp(log_term(other))
    assert np.exp(judged(evidence, other).log_e) == pytest.approx(total)


def test_a_hiccup_does_not_keep_a_check_from_passing_for_long() -> None:
    evidence = fed(LATENCY, seconds=60)
    gained = np.full_like(evidence.informed.gained, 1.0)
    hiccup = replace(evidence, informed=replace(evidence.informed, gained=gained))
    assert judged(hiccup).verdict is Verdict.INCONCLUSIVE
    later = fed(LATENCY, seconds=60, before=hiccup)
    assert later.log_e_of_tracks < evidence.log_e_of_tracks
    assert judged(later, now=120.0).verdict is Verdict.PASS


def test_a_check_that_failed_says_what_it_was_of_late() -> None:
    spec = replace(LATENCY, share=1.0)
    turned = fed(spec, seconds=12, bad=2.0, n=60, before=fed(spec, seconds=60, n=60))
    (found,) = judged(turned, now=72.0).checks
    assert found.verdict is Verdict.FAIL
    assert found.estimate is not None
    assert found.lately is not None
    assert found.estimate < 1.8 < found.lately < 2.3
    failing = replace(ERRORS, share=1.0)
    (found,) = judged(fed(failing, seconds=12, bad=3.0, before=fed(failing)), now=72.0).checks
    assert found.lately is not None
    assert found.lately == pytest.approx(0.12, abs=0.04)
    (passing,) = judged(fed(spec)).checks
    assert passing.lately is None
    assert passing.lately_hits is None


def test_a_share_that_fell_in_mid_step_has_its_figures_and_counts_of_late() -> None:
    """Its sentence held the whole step's against the margin: both were fine, and it had failed."""
    spec = replace(CLICKS, share=1.0)
    before = fed(spec, n=60)
    (found,) = judged(fed(spec, seconds=8, bad=2.0, n=60, before=before), now=68.0).checks
    assert found.verdict is Verdict.FAIL
    assert found.lately is not None
    assert found.lately_hits is not None
    assert found.estimate is not None
    assert found.estimate > 0.85
    assert found.lately < 0.7
    hits, requests, at_margin = found.lately_hits
    assert hits / requests == pytest.approx(found.lately * 0.4, abs=0.03)
    assert at_margin / requests == pytest.approx(0.85 * 0.4, abs=0.03)


def test_predictions_that_moved_in_mid_step_are_counted_of_late() -> None:
    """Only the whole step's count was said, and that is no more than the margin allows."""
    spec = replace(DRIFT, share=1.0)
    turned = fed(spec, seconds=3, bad=3.0, before=fed(spec))
    (found,) = judged(turned, now=63.0).checks
    assert found.verdict is Verdict.FAIL
    assert found.lately is None  # a distance from so few requests is mostly chance
    assert found.lately_hits is not None
    hits, requests, at_margin = found.lately_hits
    assert hits > 1.5 * at_margin
    assert requests == pytest.approx(40 * 5, rel=0.2)
    assert found.canary_hits < 1.2 * found.expected_hits


def test_what_failed_of_late_is_counted_beyond_the_threshold_that_is_said() -> None:
    failing = replace(ERRORS, share=1.0)
    (found,) = judged(fed(failing, seconds=12, bad=3.0, before=fed(failing)), now=72.0).checks
    assert found.lately_hits is not None
    hits, requests, at_margin = found.lately_hits
    assert hits / requests == pytest.approx(0.12, abs=0.04)
    assert at_margin < hits / 2


def test_buckets_that_prove_nothing_say_so_without_infinity() -> None:
    """It said "cannot tell an increase below xinf from none"."""
    (found,) = judged(fed(replace(LATENCY, quantile=0.5), le=(0.2, 0.5))).checks
    assert "inf" not in found.note
    assert "its buckets cannot tell an increase, however large, from none" in found.note


def test_buckets_that_did_show_an_increase_are_not_said_to_tell_nothing() -> None:
    """A Fail said of its own buckets that they "cannot tell an increase, however large, from none"."""
    (found,) = judged(fed(replace(LATENCY, share=1.0), le=(0.1, 0.2), bad=3.0)).checks
    assert found.verdict is Verdict.FAIL
    assert "cannot tell" not in found.note
    held = "the canary may have as many beyond 200 ms as stable beyond 100 ms"
    assert f"its buckets are coarse: {held}, so a smaller increase may not show" in found.note


def test_step_weights_fall_as_one_over_the_step() -> None:
    assert step_weights(3) == pytest.approx((6 / 11, 3 / 11, 2 / 11))


def test_the_evidence_of_finished_steps_can_still_fail_the_run() -> None:
    evidence = next_step(fed(LATENCY, steps=2, bad=3.0), at=60.0)
    assert judged(evidence).verdict is Verdict.FAIL


def test_nothing_seen_is_no_data_and_so_is_silence() -> None:
    assert judged(begin(LATENCY, steps=1)).verdict is Verdict.NO_DATA
    assert judged(fed(LATENCY), now=90.1).verdict is Verdict.NO_DATA
    assert judged(fed(LATENCY), now=89.9).verdict is Verdict.PASS
    assert judged(next_step(fed(LATENCY, steps=2), at=60.0)).verdict is Verdict.NO_DATA
    assert judged().verdict is Verdict.NO_DATA


def test_a_failure_is_not_forgotten_in_silence() -> None:
    assert judged(fed(LATENCY, bad=3.0), now=1000.0).verdict is Verdict.FAIL


def test_a_short_look_is_inconclusive() -> None:
    assert judged(fed(LATENCY, 5), now=5.0).verdict is Verdict.INCONCLUSIVE


def test_a_check_that_is_not_required_never_blocks_a_pass_but_can_fail() -> None:
    optional = replace(ERRORS, required=False, share=0.2)
    latency = fed(replace(LATENCY, share=0.8))
    assert judged(latency, begin(optional, steps=1)).verdict is Verdict.PASS
    assert judged(latency, fed(optional, bad=10.0)).verdict is Verdict.FAIL


def test_a_canary_that_leans_badly_does_not_pass() -> None:
    evidence = fed(LATENCY)
    capital = replace(evidence.tracks, whole=evidence.tracks.whole + 30, without=evidence.tracks.without + 30)
    leaning = replace(evidence, tracks=capital)
    assert judged(leaning).checks[0].verdict is not Verdict.PASS


def test_figures_tell_how_much_slower() -> None:
    check = judged(fed(LATENCY, bad=2.0)).checks[0]
    assert check.estimate == pytest.approx(2.0, rel=0.1)
    assert check.interval is not None
    assert 1.2 < check.interval[0] < 2.0 < check.interval[1]
    assert check.canary_requests == 60 * 40
    assert check.canary_hits > 3 * check.expected_hits > 0
    assert check.threshold is not None
    assert 1.2 * 0.11 < check.threshold < 1.5 * 0.12


def test_figures_tell_how_many_more_errors() -> None:
    check = judged(fed(ERRORS, bad=2.0)).checks[0]
    assert check.estimate == pytest.approx(0.08, rel=0.2)
    assert check.interval is not None
    assert 0.03 < check.interval[0] < 0.08 < check.interval[1] < 0.15


def test_figures_tell_how_far_predictions_moved() -> None:
    check = judged(fed(DRIFT, bad=2.0)).checks[0]
    assert check.estimate == pytest.approx(0.51, abs=0.06)  # Phi(.69) - Phi(-.69)
    assert check.interval is not None
    assert 0.2 < check.interval[0] < 0.51 < check.interval[1]


def test_coarse_buckets_and_a_single_node_are_said() -> None:
    note = judged(fed(LATENCY, le=ISTIO, pods=1)).checks[0].note
    assert explain.COARSE in note
    assert "one canary node" in note
    assert "finer ones can (docs/metrics.md)" in note
    assert judged(fed(LATENCY)).checks[0].note == ""


def test_latencies_in_steps_allow_more_and_it_is_said() -> None:
    (check,) = judged(fed(LATENCY, step=0.05)).checks
    assert (
        "its latencies come in steps wider than the margin: x1.6 of its slow requests are allowed"
        in check.note
    )


def test_buckets_that_end_too_early_are_said() -> None:
    check = judged(fed(LATENCY, le=(0.001,))).checks[0]
    assert check.verdict is not Verdict.PASS
    assert check.note


def test_a_latency_of_zero_has_no_ratio_and_takes_nothing_from_the_others() -> None:
    zero = fed(LATENCY, le=(0.0, 1e-9, 1e-8))
    cells = np.array([900.0, 0.0, 0.0, 0.0])
    memory = replace(zero.memory, step_stable=cells, step_canary=cells)
    check, _ = judged(replace(zero, memory=memory), fed(ERRORS)).checks
    assert check.estimate is None


def test_nothing_counted_has_no_figures() -> None:
    check = judged(begin(LATENCY, steps=1)).checks[0]
    assert (check.estimate, check.interval, check.threshold) == (None, None, None)


def test_a_share_that_fell_is_told_in_hits_and_a_ratio_of_shares() -> None:
    check = judged(fed(CLICKS, bad=2.0)).checks[0]
    assert check.verdict is Verdict.FAIL
    assert check.shares == (pytest.approx(0.2, abs=0.03), pytest.approx(0.4, abs=0.02))
    assert check.estimate == pytest.approx(check.shares[0] / check.shares[1])
    assert check.interval is not None
    assert check.interval[0] < check.estimate < check.interval[1] < 0.85
    assert check.canary_hits == pytest.approx(check.shares[0] * check.canary_requests)
    assert check.expected_hits == pytest.approx(0.85 * check.shares[1] * check.canary_requests, rel=0.01)


def test_more_of_what_is_bad_is_told_as_it_is_counted() -> None:
    more = CheckSpec(name="complaints", kind=CheckKind.PROPORTION, max_increase=0.2, plus=0.01)
    check = judged(fed(more, bad=0.5)).checks[0]
    assert check.verdict is Verdict.FAIL
    assert check.estimate == pytest.approx(2.0, rel=0.1)
    assert check.canary_hits > check.expected_hits


def test_a_like_share_passes_what_it_may_lose_and_proves_the_margin_itself() -> None:
    check = judged(fed(CLICKS, 120), now=120.0).checks[0]
    assert (check.verdict, check.note) == (Verdict.PASS, "")


def test_without_one_hit_of_stable_s_there_is_no_ratio() -> None:
    evidence = begin(CLICKS, steps=1)
    for second in range(-30, 30):
        pod = PodSample("s", "s", Counts(20, 0))
        canary = (PodSample("c", "c", Counts(5, 0)),) if second >= 0 else ()
        evidence = update(
            evidence, Sample(second, second + 1.0, (pod,)), Sample(second, second + 1.0, canary)
        )
    check = judged(evidence, now=30.0).checks[0]
    assert (check.estimate, check.interval, check.shares) == (None, None, (0.0, 0.0))
    assert check.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("spec", [CLICKS, replace(CLICKS, max_decrease=0.0, max_increase=0.2), ERRORS])
def test_hits_are_the_step_s_as_requests_are_where_stable_was_not_known_before(
    spec: CheckSpec,
) -> None:
    """All of 2 000 trials were hits, and 1 980 were said to be: the first question came a tick later."""
    evidence = begin(spec, steps=1)
    for second in range(100):
        arms = (Sample(second, second + 1.0, (PodSample(arm, arm, Counts(20, 20)),)) for arm in "sc")
        evidence = update(evidence, *arms)
    check = judged(evidence, now=100.0).checks[0]
    assert (check.canary_hits, check.canary_requests) == (2000, 2000)
    assert 1.0 <= check.expected_hits <= 2000.0


@pytest.mark.parametrize(("increase", "says"), [(0.125, "1.125x"), (0.2, "1.2x"), (0.004, "1.004x")])
def test_what_a_pass_proves_of_errors_is_said_to_the_last_figure(increase: float, says: str) -> None:
    (note,) = pass_notes(replace(ERRORS, max_increase=increase))
    assert note.startswith(f"a Pass proves at most {says} stable's rate plus 1 point")


@pytest.mark.parametrize(("le", "says"), [((10.0, 20.0), True), ((0.001,), True), (LE, False)])
def test_predictions_that_lie_in_one_bucket_are_said_to_show_no_shift(
    le: tuple[float, ...], *, says: bool
) -> None:
    """All were beyond the last bucket: "0 away", passed, and not a word of it."""
    check = judged(fed(DRIFT, le=le)).checks[0]
    assert ("100 % of stable's lie in one bucket: a shift within it does not show" in check.note) is says
