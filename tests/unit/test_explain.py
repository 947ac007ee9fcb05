"""Sentences about checks and runs."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from analysis import questions
from analysis.evidence import CheckKind, CheckSpec
from analysis.judge import CheckJudgement, Verdict
from controller import explain, record, report

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATENCY = CheckSpec(name="latency-p95", kind=CheckKind.LATENCY, quantile=0.95, max_increase=0.2)
ERRORS = CheckSpec(name="errors", kind=CheckKind.ERROR_RATE, max_increase=0.5, plus=0.001)
PREDICTIONS = CheckSpec(name="predictions", kind=CheckKind.PREDICTIONS, tolerance=0.05)
CLICKS = CheckSpec(name="clicks", kind=CheckKind.PROPORTION, max_decrease=0.15)
COMPLAINTS = CheckSpec(name="complaints", kind=CheckKind.PROPORTION, max_increase=0.2, plus=0.002)


def judged(name: str, verdict: Verdict, **figures: Any) -> CheckJudgement:
    figures = {"log_e": 0.0, "log_e_pass": 0.0, "canary_requests": 240, "stable_requests": 2160} | figures
    return CheckJudgement(name=name, verdict=verdict, **figures)


SLOW = judged(
    "latency-p95",
    Verdict.FAIL,
    estimate=2.03,
    interval=(1.37, 2.9),
    canary_hits=61,
    expected_hits=11.7,
    threshold=0.1418,
)


def test_a_failed_latency_check_is_one_sentence_with_its_numbers() -> None:
    assert explain.sentence(LATENCY, SLOW, after=timedelta(seconds=4.2)) == (
        "p95 at the canary is 2.03x stable's (at least 1.37x, 1.2x is allowed);"
        " 61 of 240 canary requests took longer than 142 ms, the margin allows 11.7 on average;"
        " decided 4.2 s after the weight was set"
    )


def test_a_passed_latency_check_says_how_much_is_excluded_and_how_much_is_allowed() -> None:
    fine = judged("latency-p95", Verdict.PASS, estimate=1.02, interval=(0.95, 1.13))
    assert explain.sentence(LATENCY, fine) == (
        "p95 at the canary is 1.02x stable's (at most 1.13x, 1.2x is allowed)"
    )


def test_an_open_latency_check_says_between_what_the_truth_is() -> None:
    open_ = judged("latency-p95", Verdict.INCONCLUSIVE, estimate=1.1, interval=(0.93, 1.31))
    assert "(between 0.93x and 1.31x, not certain yet, 1.2x is allowed)" in explain.sentence(LATENCY, open_)


def test_a_failed_error_check_speaks_of_percentage_points_and_failed_requests() -> None:
    bad = judged(
        "errors", Verdict.FAIL, estimate=0.198, interval=(0.121, 0.3), canary_hits=48, expected_hits=0.62
    )
    assert explain.sentence(ERRORS, bad) == (
        "the error rate at the canary is 20 points above stable's (at least 12 points,"
        " 1.5x stable's rate plus 0.1 points is allowed);"
        " 48 of 240 canary requests failed, the margin allows 0.62 on average"
    )


def test_a_fault_in_mid_step_is_said_to_be_diluted_by_what_came_before() -> None:
    """It read as if a canary within its margin had been rolled back."""
    late = judged("latency-p95", Verdict.FAIL, estimate=1.15, interval=(1.02, 1.3))
    assert explain.sentence(LATENCY, late).startswith(
        "p95 at the canary is 1.15x stable's, over the whole step, which dilutes a late fault"
        " (1.2x is allowed)"
    )


def test_what_a_fault_in_mid_step_did_of_late_stands_beside_the_diluted_figure() -> None:
    late = judged("latency-p95", Verdict.FAIL, estimate=1.15, interval=(1.02, 1.3), lately=2.1)
    assert explain.sentence(LATENCY, late).startswith(
        "p95 at the canary is 1.15x stable's, over the whole step, which dilutes a late fault,"
        " and 2.1x in about its last 10 s (1.2x is allowed)"
    )
    partly = judged("latency-p95", Verdict.FAIL, estimate=1.48, interval=(1.1, 1.9), lately=2.1)
    assert "is 1.48x stable's over the whole step, and 2.1x in about its last 10 s (" in explain.sentence(
        LATENCY, partly
    )
    steady = judged("latency-p95", Verdict.FAIL, estimate=2.03, interval=(1.37, 2.9), lately=2.1)
    assert explain.sentence(LATENCY, steady).startswith(
        "p95 at the canary is 2.03x stable's (at least 1.37x, 1.2x is allowed)"
    )
    bad = judged("errors", Verdict.FAIL, estimate=0.04, interval=(0.01, 0.1), lately=0.2)
    assert "4 points above stable's over the whole step, and 20 points in about" in explain.sentence(
        ERRORS, bad
    )


def test_a_check_that_warms_up_says_for_how_much_longer_and_errors_count_from_the_first_request() -> None:
    """It said "no p95 to compare: 0 canary requests and 0 stable requests were measured"."""
    nothing = judged("latency-p95", Verdict.NO_DATA, canary_requests=0, stable_requests=0)
    said = explain.sentence(LATENCY, nothing, warming=timedelta(seconds=11.2))
    assert said.startswith("warming up for another 12 s, or until its pods have answered 200 requests each")
    assert explain.sentence(ERRORS, nothing, warming=timedelta(seconds=11.2)).startswith("no error rate")


def test_an_interval_without_an_upper_end_says_so_and_is_read_back() -> None:
    """In a status that end is null, and `serin explain` ended in a TypeError."""
    few = judged("latency-p95", Verdict.INCONCLUSIVE, estimate=1.9, interval=(1.1, math.inf))
    said = "1.9x stable's (at least 1.1x, not certain yet, 1.2x is allowed)"
    assert said in explain.sentence(LATENCY, few)
    seen = {"name": "latency-p95", "interval": [1.1, None]}
    spec = {"name": "latency-p95", "type": "Latency", "maxIncrease": "20%"}
    run = {"spec": {"plan": {"policy": {"checks": [spec]}}}, "status": {"checks": [seen], "step": "1/1"}}
    (found,) = record.findings(run)
    assert found.interval == (1.1, math.inf)
    unseen = "latency-p95: nothing worse can be ruled out yet, however much worse"
    assert unseen in list(report.unseen(run, now=NOW))


def test_one_point_is_one() -> None:
    assert [
        explain.amount(explain.Finding(name="e", kind="ErrorRate", verdict="Pass"), rate)
        for rate in (0.01, 0.011, 0.001)
    ] == [
        "1 point",
        "1.1 points",
        "0.1 points",
    ]


def test_every_request_that_fails_is_a_hundred_points() -> None:
    """It was "1e+02 points"."""
    bad = judged("errors", Verdict.FAIL, estimate=1.0, interval=(0.65, 1.0), canary_hits=27, expected_hits=2)
    assert "100 points above stable's (at least 65 points, " in explain.sentence(ERRORS, bad)


def test_fewer_errors_than_stable_are_below_it() -> None:
    good = judged("errors", Verdict.PASS, estimate=-0.004, interval=(-0.01, 0.0004))
    assert explain.sentence(ERRORS, good).startswith(
        "the error rate at the canary is 0.4 points below stable's"
        " (at most 0.04 points, 1.5x stable's rate plus 0.1 points is allowed)"
    )


def test_a_failed_prediction_check_speaks_of_distance() -> None:
    bad = judged(
        "predictions", Verdict.FAIL, estimate=0.314, interval=(0.22, 0.4), canary_hits=99, expected_hits=60
    )
    assert explain.sentence(PREDICTIONS, bad).startswith(
        "predictions at the canary are 0.31 away from stable's (at least 0.22, 0.05 is allowed);"
        " 99 of 240 canary requests"
    )


def test_predictions_that_moved_in_mid_step_argue_for_their_rollback() -> None:
    """It said "0.017 away (0.05 is allowed); 35 of 76 …, over the whole step"; 38.3 were at the margin."""
    seen = {"canary_requests": 76, "canary_hits": 35, "expected_hits": 38.33, "log_e": math.log(120)}
    late = judged("predictions", Verdict.FAIL, estimate=0.017, interval=(0.0, 0.3), **seen)
    said = explain.sentence(PREDICTIONS, replace(late, lately_hits=(19.7, 26.1, 11.3)))
    assert said == (
        "predictions at the canary are 0.017 away from stable's, over the whole step, which dilutes a late"
        " fault (0.05 is allowed); about 20 of its last 26 canary requests got a prediction that the"
        " canary gives more often than stable, the margin allows 11.3 on average"
    )
    for unclear in (None, (12.0, 26.1, 11.3)):  # what chance alone makes of 11.3 argues for nothing
        said = explain.sentence(PREDICTIONS, replace(late, lately_hits=unclear))
        assert said.endswith("(0.05 is allowed); the odds against its being within the margin are 120 to 1")
    mild = replace(late, canary_requests=153, canary_hits=68, expected_hits=66.9)
    assert explain.sentence(PREDICTIONS, mild).endswith("are 120 to 1")
    plain = replace(late, canary_hits=60)
    assert "60 of 76 canary requests got a prediction" in explain.sentence(PREDICTIONS, plain)


def shares(spec: CheckSpec, verdict: Verdict, low: float, high: float, **figures: Any) -> str:
    found = judged(spec.name, verdict, estimate=0.82, interval=(low, high), **figures)
    return explain.sentence(spec, found)


def test_a_share_that_fell_is_one_sentence_with_both_shares_and_what_is_required() -> None:
    figures = {"shares": (0.0813, 0.0991), "canary_hits": 19, "expected_hits": 20.3}
    assert shares(CLICKS, Verdict.FAIL, 0.7, 0.84, **figures) == (
        "the share of clicks is 8.13 % on the canary, 9.91 % on stable: 0.82x"
        " (at most 0.84x, at least 0.85x is required);"
        " 19 of 240 canary trials were hits, the margin requires 20.3 on average"
    )
    late = shares(CLICKS, Verdict.FAIL, 0.7, 0.9, **figures)
    assert "0.82x (at least 0.85x is required)" in late


def test_a_share_that_fell_in_mid_step_argues_for_itself() -> None:
    """It said "0.91x (at least 0.85x is required); 252 of 5600 were hits, at least 235 were expected"."""
    seen = {"canary_requests": 5600, "canary_hits": 252, "expected_hits": 235.1, "shares": (0.045, 0.0494)}
    late = judged("clicks", Verdict.FAIL, estimate=0.91, interval=(0.7, 1.1), **seen)
    known = replace(late, lately=0.31, lately_hits=(8.2, 501.6, 20.9))
    assert explain.sentence(CLICKS, known) == (
        "the share of clicks is 4.5 % on the canary, 4.94 % on stable: 0.91x, over the whole step, which"
        " dilutes a late fault, and 0.31x in about its last 10 s (at least 0.85x is required);"
        " about 8 of its last 502 canary trials were hits, the margin requires 20.9 on average"
    )
    said = explain.sentence(
        CLICKS, replace(late, log_e=math.log(120))
    )  # few trials: nothing is known of late
    assert "252 of 5600" not in said
    assert said.endswith("; the odds against its being within the margin are 120 to 1")
    assert ", over the whole step, which dilutes a late fault (at least 0.85x is required)" in said


def test_counts_of_a_whole_step_that_are_within_the_margin_do_not_stand_beside_a_failure() -> None:
    """Errors after ten good minutes: "120 of 30000 failed, at most 610 were expected"."""
    seen = {"canary_requests": 30_000, "canary_hits": 120, "expected_hits": 610.0}
    late = judged("errors", Verdict.FAIL, estimate=0.003, lately=0.2, lately_hits=(98.0, 490.0, 9.8), **seen)
    assert explain.sentence(ERRORS, late).endswith(
        "; about 98 of its last 490 canary requests failed, the margin allows 9.8 on average"
    )


def test_counts_of_late_are_said_where_they_argue_better_than_the_whole_steps() -> None:
    """Of a fault after eight good minutes "13 of 900 failed, the margin allows 5.4" is hardly an argument."""
    seen = {"canary_requests": 900, "canary_hits": 13, "expected_hits": 5.4}
    late = judged("errors", Verdict.FAIL, estimate=0.014, lately=0.22, lately_hits=(9.0, 40.0, 0.2), **seen)
    assert explain.sentence(ERRORS, late).endswith(
        "; about 9 of its last 40 canary requests failed, the margin allows 0.2 on average"
    )
    rounded = replace(late, lately_hits=(9.0, 40.0, 0.0))  # as a status has it, to a tenth
    assert "about 9 of its last 40 canary requests failed" in explain.sentence(ERRORS, rounded)


def test_counts_of_the_whole_step_are_said_where_they_argue_better_than_those_of_late() -> None:
    """Of a canary that was ill from its first request on, all of it says most."""
    seen = {"canary_requests": 900, "canary_hits": 120, "expected_hits": 5.4}
    ill = judged("errors", Verdict.FAIL, estimate=0.13, lately=0.13, lately_hits=(5.0, 40.0, 0.2), **seen)
    assert explain.sentence(ERRORS, ill).endswith(
        "; 120 of 900 canary requests failed, the margin allows 5.4 on average"
    )
    clicks = {"canary_requests": 5_600, "canary_hits": 252, "expected_hits": 471.0, "shares": (0.045, 0.1)}
    fewer = judged("clicks", Verdict.FAIL, estimate=0.45, lately=0.4, lately_hits=(4.0, 90.0, 8.0), **clicks)
    assert "252 of 5600 canary trials were hits" in explain.sentence(CLICKS, fewer)


def test_the_margin_ends_every_bracket_of_a_failure() -> None:
    """Of a late fault it was the least that the whole step's share is, beside the figure of its last 10 s."""
    bad = judged("errors", Verdict.FAIL, estimate=0.04, interval=(0.0043, 0.1), lately=0.13)
    assert "13 points in about its last 10 s (1.5x stable's rate plus 0.1 points is allowed)" in (
        explain.sentence(ERRORS, bad)
    )


def test_a_pass_beside_a_bound_beyond_the_margin_says_that_it_needs_less() -> None:
    """It said "Pass … (at most 1.58x, 1.4x is allowed)", and that 1.58x cannot be ruled out."""
    fine = judged("latency-p95", Verdict.PASS, estimate=1.02, interval=(0.8, 1.58))
    said = (
        "(1.2x is allowed, and that this is kept is proved; "
        "how large the figure is takes more requests: at most 1.58x so far)"
    )
    assert said in explain.sentence(LATENCY, fine)
    clicked = judged("clicks", Verdict.PASS, estimate=1.0, interval=(0.7, 1.3), shares=(0.1, 0.1))
    assert "(at least 0.85x is required, and that this is kept is proved;" in explain.sentence(
        CLICKS, clicked
    )
    assert "takes more requests: at least 0.7x so far)" in explain.sentence(CLICKS, clicked)
    seen = {"name": "latency-p95", "verdict": "Pass", "interval": [0.8, 1.58]}
    spec = {"name": "latency-p95", "type": "Latency", "maxIncrease": "20%"}
    run = {"spec": {"plan": {"policy": {"checks": [spec]}}}, "status": {"checks": [seen], "step": "1/1"}}
    bound = (
        "latency-p95: 1.58x cannot be ruled out with the requests so far; that the margin is kept is proved"
    )
    assert any(line.startswith(bound) for line in report.unseen(run, now=NOW))


def test_what_a_pass_proves_is_not_said_to_be_a_margin_that_is_narrower() -> None:
    """It said "0.052 away (0.05 is allowed, and that this is kept is proved)"."""
    assert (explain.PASS_PLUS, explain.PASS_TOLERANCE) == (questions.PASS_PLUS, questions.PASS_TOLERANCE)
    few = judged("errors", Verdict.PASS, estimate=0.0018, interval=(-0.001, 0.017))
    said = "plus 0.1 points is allowed, and at most 1.5x stable's rate plus 1 point is proved; how large"
    assert said in explain.sentence(ERRORS, few)
    assert "and that this is kept is proved" in explain.sentence(replace(ERRORS, plus=0.01), few)
    moved = judged("predictions", Verdict.PASS, estimate=0.052, interval=(0.0, 0.53))
    said = explain.sentence(PREDICTIONS, moved)
    assert "(0.05 is allowed, and a shift below 0.1 is proved; how large" in said
    wide = explain.sentence(replace(PREDICTIONS, tolerance=0.1), moved)
    assert "and that this is kept is proved" in wide


def test_a_pass_by_coarse_buckets_does_not_say_that_the_margin_is_proved() -> None:
    """It said "187x stable's (1.2x is allowed, and that this is kept is proved; at most 400x so far)"."""
    note = f"{explain.COARSE} below x4e+02 from none: finer ones can (docs/metrics.md)"
    fine = replace(judged("latency-p95", Verdict.PASS, estimate=187.0, interval=(0.8, 400.0)), note=note)
    said = explain.sentence(LATENCY, fine)
    assert "(1.2x is allowed, and as much of it as its buckets can show is proved; how large" in said


def test_a_share_that_may_fall_says_at_least_how_much_is_left() -> None:
    figures = {"shares": (0.4, 0.4)}
    assert "(at least 0.93x, at least 0.85x is required)" in shares(
        CLICKS, Verdict.PASS, 0.93, 1.1, **figures
    )
    assert "(between 0.8x and 1.1x, not certain yet, at least 0.85x is required)" in shares(
        CLICKS, Verdict.INCONCLUSIVE, 0.8, 1.1, **figures
    )


def test_more_of_what_is_bad_is_said_with_its_margin() -> None:
    figures = {"shares": (0.03, 0.02), "canary_hits": 31, "expected_hits": 20.3}
    said = shares(COMPLAINTS, Verdict.FAIL, 1.31, 1.8, **figures)
    assert said.endswith(
        "(at least 1.31x, 1.2x stable's share plus 0.2 points is allowed);"
        " 31 of 240 canary trials were hits, the margin allows 20.3 on average"
    )
    diluted = shares(COMPLAINTS, Verdict.FAIL, 1.29, 1.8, **figures)  # 1.2 and 0.2 of 2 points are 1.3
    assert "(1.2x stable's share plus 0.2 points is allowed)" in diluted


def test_without_trials_the_sentence_says_who_is_missing() -> None:
    nothing = judged("clicks", Verdict.NO_DATA, canary_requests=1, stable_requests=0)
    assert explain.sentence(CLICKS, nothing) == (
        "no share of clicks to compare: 1 canary trial and 0 stable trials were measured"
    )


def test_without_data_the_sentence_says_who_is_missing() -> None:
    nothing = judged("latency-p95", Verdict.NO_DATA, canary_requests=1, stable_requests=0)
    assert explain.sentence(LATENCY, nothing) == (
        "no p95 to compare: 1 canary request and 0 stable requests were measured"
    )


def test_a_caveat_ends_the_sentence() -> None:
    coarse = judged(
        "latency-p95", Verdict.FAIL, estimate=3.0, note="buckets are coarse: below 2.5x is invisible"
    )
    assert explain.sentence(LATENCY, coarse).endswith("; buckets are coarse: below 2.5x is invisible")


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("spec", [LATENCY, ERRORS, PREDICTIONS])
@pytest.mark.parametrize("figures", [{}, {"estimate": 0.0}, {"canary_requests": 0}, {"expected_hits": 1.0}])
def test_whatever_is_missing_there_is_a_sentence_on_one_line(
    spec: CheckSpec, verdict: Verdict, figures: dict[str, Any]
) -> None:
    text = explain.sentence(spec, judged(spec.name, verdict, **figures))
    assert text
    assert "\n" not in text
    assert "None" not in text
    assert len(text) < 400


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00042, "0.42 ms"),
        (0.0125, "12.5 ms"),
        (0.1418, "142 ms"),
        (1.42, "1.42 s"),
        (90, "1 min 30 s"),
        (1e300, "1e+300 s"),
    ],
)
def test_latencies_are_said_with_three_figures(value: float, text: str) -> None:
    assert explain.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.2, "4.2 s"), (30, "30 s"), (59.97, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (3600, "1 h")],
)
def test_durations_are_said_as_people_say_them(value: float, text: str) -> None:
    assert explain.duration(timedelta(seconds=value)) == text


def test_a_bound_that_a_late_fault_left_inside_the_margin_is_not_said() -> None:
    spec = CheckSpec(name="latency-p95", kind=CheckKind.LATENCY, max_increase=0.2)
    diluted = CheckJudgement(
        name="latency-p95",
        verdict=Verdict.FAIL,
        log_e=5.0,
        log_e_pass=0.0,
        estimate=1.66,
        interval=(1.0, 2.9),
        canary_requests=225,
        stable_requests=2000,
        canary_hits=24,
        expected_hits=11.0,
        threshold=0.137,
    )

    said = explain.sentence(spec, diluted)

    assert said.startswith("p95 at the canary is 1.66x stable's (")
    assert "at least" not in said


def test_where_no_request_was_measured_it_is_said_which_ones_are() -> None:
    """One of two pods was gone, and after 10 000 requests it said "0 canary requests were measured"."""
    nothing = judged("latency-p95", Verdict.NO_DATA, canary_requests=0, stable_requests=0)
    assert explain.sentence(LATENCY, nothing) == (
        "no p95 to compare: no request was measured yet;"
        " they count while the canary's pods are warm and take no more load each than stable's"
    )


@pytest.mark.parametrize(
    ("check", "margin"),
    [
        ({"type": "Latency", "maxIncrease": "0.4%"}, "1.004x is allowed"),
        ({"type": "Latency", "maxIncrease": "12.5%"}, "1.125x is allowed"),
        (
            {"type": "ErrorRate", "maxIncrease": "33.3%", "plus": "12.5%"},
            "1.333x stable's rate plus 12.5 points is allowed",
        ),
        ({"type": "Proportion", "maxDecrease": "0.3%"}, "at least 0.997x is required"),
        ({"type": "Shadow", "maxFlips": "0.1234%"}, "0.1234 % may differ"),
    ],
)
def test_a_margin_is_said_to_the_last_figure_of_the_policy(check: dict[str, str], margin: str) -> None:
    """`serin plan` said "1x is allowed" of 0.4%, and "plus 12 points" of 12.5%."""
    plan = {"policy": {"checks": [{"name": "a", "quantile": 0.95, **check}]}}
    assert explain.allowed(record.findings({"spec": {"plan": plan}})[0]) == margin


def test_an_error_rate_below_stables_is_said_in_points_as_one_above() -> None:
    """The lower end of one that few requests leave open read "-1e+02 points"."""
    few = judged("errors", Verdict.INCONCLUSIVE, estimate=0.0, interval=(-0.999, 0.999))
    assert "(between -100 and 100 points, not certain yet" in explain.sentence(ERRORS, few)
    open_ = judged("errors", Verdict.INCONCLUSIVE, estimate=0.0, interval=(-0.01, math.inf))
    assert "(at least -1 point, not certain yet" in explain.sentence(ERRORS, open_)


def test_of_a_pass_whose_interval_is_open_above_no_infinite_bound_is_said() -> None:
    fine = judged("latency-p95", Verdict.PASS, estimate=1.1, interval=(0.9, math.inf))
    assert explain.sentence(LATENCY, fine) == (
        "p95 at the canary is 1.1x stable's (1.2x is allowed, and that this is kept is proved;"
        " how large the figure is takes more requests)"
    )


def test_the_margin_of_an_error_rate_grows_with_stables_own() -> None:
    """With a tenth of stable's failing 5.1 points more are allowed: a bound within was called unproved.

    And a Fail said "at least 3.9 points", which reads as if so much were not allowed.
    """
    figures: dict[str, Any] = {"canary_requests": 1000, "expected_hits": 151.0}
    fine = judged("errors", Verdict.PASS, estimate=0.015, interval=(-0.01, 0.037), canary_hits=115, **figures)
    assert explain.sentence(ERRORS, fine).startswith(
        "the error rate at the canary is 1.5 points above stable's (at most 3.7 points, 1.5x stable's rate"
        " plus 0.1 points is allowed)"
    )
    bad = judged("errors", Verdict.FAIL, estimate=0.17, interval=(0.039, 0.3), canary_hits=270, **figures)
    assert explain.sentence(ERRORS, bad).startswith(
        "the error rate at the canary is 17 points above stable's (1.5x stable's rate plus 0.1 points is"
        " allowed)"
    )
    late = judged("errors", Verdict.FAIL, estimate=0.02, interval=(0.0, 0.04), canary_hits=120, **figures)
    assert "2 points above stable's, over the whole step, which dilutes" in explain.sentence(ERRORS, late)


def test_a_fail_is_not_argued_with_two_numbers_that_look_alike() -> None:
    """ "150 of 1792 failed, the margin allows 150 on average" was said of 149.7."""
    near = judged(
        "errors",
        Verdict.FAIL,
        estimate=0.03,
        interval=(0.0, 0.06),
        canary_requests=1792,
        canary_hits=150,
        expected_hits=149.7,
        log_e=6.0,
    )
    said = explain.sentence(ERRORS, near)
    assert "the margin allows 150" not in said
    assert said.endswith("the odds against its being within the margin are 403 to 1")
    assert "151 of 1792" in explain.sentence(ERRORS, replace(near, canary_hits=151))


def test_an_end_that_is_rounded_to_the_margin_is_not_said_of_a_fail() -> None:
    """ "(at least 1.2x, 1.2x is allowed)" was said of 1.203, as if what is allowed had failed."""
    near = replace(SLOW, interval=(1.203, 2.9))
    assert "is 2.03x stable's (1.2x is allowed);" in explain.sentence(LATENCY, near)
    assert "(at least 1.21x, 1.2x is allowed);" in explain.sentence(
        LATENCY, replace(SLOW, interval=(1.21, 2.9))
    )
    few = judged("clicks", Verdict.FAIL, estimate=0.5, interval=(0.3, 0.849), shares=(0.2, 0.4))
    assert "(at least 0.85x is required)" in explain.sentence(CLICKS, few)


def test_one_placebo_is_one() -> None:
    assert explain.beside(count=1, nodes=1).startswith("1 placebo (1 node of stable each")
    assert "(with 1 placebo chance alone" in explain.noisy(count=1, nodes=2, alpha=0.01)
    assert "(among 4 placebos chance alone" in explain.noisy(count=4, nodes=2, alpha=0.01)
    assert "in at most 100 % of runs" in explain.noisy(count=4, nodes=2, alpha=0.4)  # it said 160 %


def test_what_lasts_less_than_a_tenth_of_a_second_is_no_zero() -> None:
    """Of a burstTolerance of 40ms the plan said "0.0 s"."""
    assert explain.duration(timedelta(milliseconds=40)) == "40 ms"
    assert explain.duration(timedelta(0)) == "0 s"
    assert explain.duration(timedelta(milliseconds=60)) == "0.1 s"


def test_evidence_that_does_not_roll_back_is_never_said_to_be_as_much_as_does() -> None:
    """At 99.7 to 1 a run that went on read "100 to 1 ...; 100 to 1 rolls back", and "100 %"."""
    short = math.log(99.7)
    assert explain.odds(short, 0.01) == "just under 100 to 1"
    assert explain.odds(math.log(100), 0.01) == explain.odds(short) == "100 to 1"
    assert explain.odds(round(-math.log(0.05), 4), 0.05) == "20 to 1"  # which is what a status keeps
    assert explain.odds(math.log(98), 0.01) == "98 to 1"
    assert explain.part(short, 0.01) < 0.9995
    assert explain.part(math.log(100), 0.01) == 1.0
