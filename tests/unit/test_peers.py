"""What the rules of others would say of the same traffic."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from analysis.batches import stacked, taken
from analysis.peers import (
    ARGO,
    ARGO_PATIENT,
    FLAGGER,
    FLAGGER_FAST,
    KAYENTA,
    KAYENTA_FAST,
    MOST_POINTS,
    RULES,
    Rule,
    Watched,
    begin,
    said,
    seen,
)
from analysis.state import CheckKind, CheckSpec

LE = tuple(0.01 * 1.1**i for i in range(60))
SCORES = tuple(i / 20 for i in range(1, 20))
LATENCY = CheckSpec(name="latency", kind=CheckKind.LATENCY, quantile=0.95, max_increase=0.2)
ERRORS = CheckSpec(name="errors", kind=CheckKind.ERROR_RATE, max_increase=0.5, plus=0.001)
PREDICTIONS = CheckSpec(name="predictions", kind=CheckKind.PREDICTIONS)
CLICKS = CheckSpec(name="clicks", kind=CheckKind.PROPORTION, max_decrease=0.15)
SPECS = (LATENCY, ERRORS, PREDICTIONS, CLICKS)
BOUNDS = {
    CheckKind.LATENCY: LE,
    CheckKind.ERROR_RATE: (),
    CheckKind.PREDICTIONS: SCORES,
    CheckKind.PROPORTION: (),
}
WIDTH = {kind: max(len(le) + 1, 2) for kind, le in BOUNDS.items()}


def at(second: float, n: float = 100) -> np.ndarray:
    """So many requests that all take so long."""
    cells = np.zeros(len(LE) + 1)
    cells[np.searchsorted(LE, second)] = n
    return cells


def errors(k: float, n: float = 100) -> np.ndarray:
    return np.array([n - k, k])


def scores(low: int, high: int) -> np.ndarray:
    cells = np.zeros(len(SCORES) + 1)
    cells[low:high] = 10.0
    return cells


def after(
    watched: Watched, stable: np.ndarray, canary: np.ndarray, *, seconds: float, tick: float = 1.0
) -> Watched:
    """As much later, with the same cells every tick."""
    begun = float(watched.at)
    for i in range(round(seconds / tick)):
        watched = seen(watched, stable, canary, end=begun + (i + 1) * tick)
    return watched


@pytest.mark.parametrize(
    ("rule", "seconds"),
    [(FLAGGER, 300), (FLAGGER_FAST, 20), (ARGO, 60), (ARGO_PATIENT, 240), (KAYENTA, 120), (KAYENTA_FAST, 60)],
)
@pytest.mark.parametrize("tick", [1.0, 5.0])
def test_a_canary_slow_from_the_start_is_rolled_back_when_the_rule_allows(
    rule: Rule, seconds: float, tick: float
) -> None:
    assert rule.earliest == seconds  # what `serin simulate` says of faults that begin before
    watched = begin(rule, LATENCY, le=LE)
    watched = after(watched, at(0.1), at(0.2), seconds=seconds - tick, tick=tick)
    assert watched.failed_at == np.inf
    watched = after(watched, at(0.1), at(0.2), seconds=60, tick=tick)
    assert watched.failed_at == seconds
    assert said(watched) == f"{rule}: would have rolled back after {seconds} s"


def test_rules_say_their_settings() -> None:
    assert [str(rule) for rule in RULES] == [
        "Flagger (60 s x 5)",
        "Flagger (10 s x 2)",
        "Argo Rollouts (60 s, failureLimit 0)",
        "Argo Rollouts (60 s, failureLimit 3)",
        "Kayenta (60 s points)",
        "Kayenta (10 s points)",
    ]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_canary_like_stable_stays(rule: Rule, spec: CheckSpec) -> None:
    cells = {
        CheckKind.LATENCY: at(0.1),
        CheckKind.ERROR_RATE: errors(1),
        CheckKind.PREDICTIONS: scores(3, 9),
        CheckKind.PROPORTION: errors(40),
    }
    same = cells[spec.kind]
    watched = after(begin(rule, spec, le=BOUNDS[spec.kind]), same * 9, same, seconds=600, tick=5)
    assert watched.failed_at == np.inf


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("hits", "found"), [(20, True), (36, False), (80, False)])
def test_fewer_hits_than_the_margin_allows_are_the_harm_where_that_is_asked(
    rule: Rule, hits: int, *, found: bool
) -> None:
    watched = begin(rule, CLICKS)
    for i in range(400):  # each second a little different, or Kayenta has nothing to compare
        wave = (i // 10) % 3
        watched = seen(watched, 9 * errors(40 + wave), errors(hits + wave), end=i + 1.0)
    assert np.isfinite(watched.failed_at) == found


def test_the_clock_starts_with_the_canarys_first_traffic() -> None:
    watched = begin(ARGO, LATENCY, le=LE, at=1000.0)
    watched = after(watched, at(0.1), at(0.1, 0), seconds=47)
    watched = after(watched, at(0.1), at(0.3), seconds=100)
    assert watched.began == 1047
    assert watched.failed_at == 1107
    assert watched.took == 60


def test_without_a_canary_nothing_is_said_of_it() -> None:
    watched = after(begin(FLAGGER, LATENCY, le=LE), at(0.1), at(0.1, 0), seconds=900)
    assert said(watched) == "Flagger (60 s x 5): would not have rolled back; its metric had no value"


def test_flagger_counts_failed_checks_in_total_not_in_a_row() -> None:
    watched = begin(FLAGGER, LATENCY, le=LE)
    for minute in range(1, 10):
        canary = at(0.2) if minute % 2 else at(0.1)
        watched = after(watched, at(0.1), canary, seconds=60)
        assert np.isinf(watched.failed_at) == (minute < 9)
    assert watched.took == 540


def test_a_late_fault_shows_once_the_window_has_enough_of_it() -> None:
    watched = after(begin(FLAGGER_FAST, LATENCY, le=LE), at(0.1), at(0.1), seconds=120)
    watched = after(watched, at(0.1), at(0.1, 94) + at(0.3, 6), seconds=80)
    assert watched.took == 190  # 6 % of a window of slow requests put p95 there once 50 of 60 s have them


def test_a_window_forgets_what_is_older() -> None:
    watched = after(begin(FLAGGER_FAST, LATENCY, le=LE), at(0.1), at(0.1), seconds=9)
    watched = after(watched, at(0.1), at(0.3, 60), seconds=1)  # 6 % of the first 10 s, 1 % of 60 s
    assert watched.failures == 1
    watched = after(watched, at(0.1), at(0.1), seconds=200)
    assert watched.failures == 1
    assert watched.read[1] == pytest.approx(watched.read[0])


def test_a_window_shorter_than_the_interval_sees_only_its_end() -> None:
    rule = replace(ARGO, window=10.0)
    watched = after(begin(rule, LATENCY, le=LE), at(0.1), at(0.3), seconds=50)
    watched = after(watched, at(0.1), at(0.1), seconds=10)
    assert watched.failed_at == np.inf
    watched = after(watched, at(0.1), at(0.1), seconds=50)
    watched = after(watched, at(0.1), at(0.3), seconds=10)
    assert watched.failed_at == 120


def test_a_tick_longer_than_the_interval_is_one_look() -> None:
    watched = begin(FLAGGER_FAST, LATENCY, le=LE)
    watched = seen(watched, at(0.1), at(0.3), end=47.0)
    assert watched.failures == 1
    watched = seen(watched, at(0.1), at(0.3), end=50.0)
    assert watched.failed_at == 50
    assert watched.recent.sum() == 400


def test_no_traffic_is_a_failed_check_for_flagger_and_none_for_argo() -> None:
    for rule, failures in ((FLAGGER, 3), (ARGO, 0)):
        watched = after(begin(rule, LATENCY, le=LE), at(0.1), at(0.1), seconds=60)
        watched = after(watched, at(0.1), at(0.1, 0), seconds=180)
        assert watched.failures == failures
        assert said(watched) == f"{rule}: would not have rolled back; its metric had no value"


def test_no_traffic_is_a_point_less_for_kayenta() -> None:
    watched = after(begin(KAYENTA, LATENCY, le=LE), at(0.1), at(0.1), seconds=60)
    watched = after(watched, at(0.1), at(0.1, 0), seconds=300)
    assert watched.failed_at == np.inf
    assert (~np.isnan(watched.points)).sum(axis=-1).tolist() == [6, 1]


def test_a_stable_that_never_served_is_an_error_for_argo_and_no_data_for_kayenta() -> None:
    for rule, failed_at in ((ARGO, 120), (ARGO_PATIENT, 120), (KAYENTA, 60)):
        watched = after(begin(rule, LATENCY, le=LE), at(0.1, 0), at(0.1), seconds=400, tick=5)
        assert watched.failed_at == failed_at


def test_without_buckets_there_is_no_value() -> None:
    for rule, seconds in ((FLAGGER, 300), (ARGO, np.inf), (KAYENTA, 60)):
        watched = after(begin(rule, LATENCY), np.array([9.0]), np.array([1.0]), seconds=400, tick=5)
        assert watched.failed_at == seconds


def test_errors_may_exceed_stables_by_a_ratio_and_something_absolute() -> None:
    for k, failed_at in ((1.6, np.inf), (1.61, 60)):  # of 100: 1.5 x 1 % + 0.1 %
        watched = after(begin(ARGO, ERRORS), errors(1), errors(k - 1e-9), seconds=60)
        assert watched.failed_at == failed_at


def test_an_absolute_threshold_does_not_ask_what_stable_does() -> None:
    flaggers = replace(ERRORS, max_increase=-1.0, plus=0.01)
    for k, failures in ((1.0, 0), (1.1, 1)):
        watched = after(begin(FLAGGER, flaggers), errors(0, 0), errors(k), seconds=60)
        assert watched.failures == failures


def test_no_errors_anywhere_fail_nobody() -> None:
    for rule in RULES:
        watched = after(begin(rule, ERRORS), errors(0), errors(0), seconds=600, tick=5)
        assert watched.failed_at == np.inf
        assert said(watched) == f"{rule}: would not have rolled back; its metric read 0 against 0"


def test_where_stable_has_no_errors_kayenta_asks_for_no_effect() -> None:
    noisy = [errors(k) for k in (1, 0, 1, 1, 0, 1, 1, 1, 0, 1)]
    watched = begin(KAYENTA_FAST, ERRORS)
    for i, cells in enumerate(noisy * 3):
        watched = seen(watched, errors(0), cells, end=10.0 * (i + 1))
    assert watched.failed_at == 180  # z = 1.49 with 8 of 12 points above 0, 2.49 with 13 of 18


def test_psi_above_a_fifth_fails_the_threshold_rules() -> None:
    alike = begin(ARGO, PREDICTIONS, le=SCORES)
    moved = after(alike, scores(3, 13), scores(4, 14), seconds=60)
    alike = after(alike, scores(3, 13), scores(3, 13), seconds=60)
    assert moved.failed_at == 60
    assert said(alike) == (
        "Argo Rollouts (60 s, failureLimit 0): would not have rolled back; its metric read a PSI of 0.00"
    )


def test_kayenta_asks_whether_predictions_mean_more_or_less() -> None:
    for canary in (scores(4, 14), scores(2, 12)):
        watched = after(begin(KAYENTA, PREDICTIONS, le=SCORES), scores(3, 13), canary, seconds=180)
        assert watched.failed_at == 120
    wider = after(begin(KAYENTA, PREDICTIONS, le=SCORES), scores(4, 12), scores(2, 14), seconds=600, tick=5)
    assert said(wider) == "Kayenta (60 s points): would not have rolled back; its metric read x1.00"


@pytest.mark.parametrize("seed", range(8))
def test_kayentas_verdict_is_scipys_where_a_quarter_of_the_shift_is_subtracted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = begin(KAYENTA_FAST, replace(ERRORS, max_increase=0.0))
    rates = rng.uniform(0.02, 0.10, 24), rng.uniform(0.02, 0.10, 24) * 1.45
    for i, (stable, canary) in enumerate(zip(*rates, strict=True)):
        one = seen(one, errors(100 * stable), errors(100 * canary), end=10.0 * (i + 1))
        if (i + 1) % 6 == 0 and np.isinf(one.failed_at):
            assert not scipy_says_higher(rates[1][: i + 1], rates[0][: i + 1])
        if one.failed_at == one.at:
            assert scipy_says_higher(rates[1][: i + 1], rates[0][: i + 1])


def scipy_says_higher(canary: np.ndarray, stable: np.ndarray) -> bool:
    """All of the interval is above a quarter of the estimate: that shift is contradicted."""
    shift = 0.25 * abs(float(np.median(canary[:, None] - stable))) + 1e-12
    test = mannwhitneyu(canary - shift, stable, method="asymptotic", alternative="two-sided")
    above = test.statistic > len(canary) * len(stable) / 2
    return bool(above and test.pvalue < 0.02 and canary.mean() >= stable.mean())


def test_kayenta_does_not_fail_within_the_allowed_increase() -> None:
    for increase, failed_at in ((0.5, np.inf), (0.4, 120)):
        spec = replace(ERRORS, max_increase=increase)
        watched = after(begin(KAYENTA, spec), errors(10), errors(14.5), seconds=300)
        assert watched.failed_at == failed_at


def test_kayentas_memory_is_bounded() -> None:
    watched = begin(KAYENTA_FAST, ERRORS)
    watched = after(watched, errors(5), errors(1), seconds=10 * MOST_POINTS + 60, tick=10)
    assert watched.points.shape == (2, MOST_POINTS)
    assert not np.isnan(watched.points).any()
    assert watched.points[1] == pytest.approx(0.01)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_canaries_side_by_side_are_judged_as_each_alone(rule: Rule, spec: CheckSpec) -> None:
    rng = np.random.default_rng(7)
    width, le, several = WIDTH[spec.kind], BOUNDS[spec.kind], 5
    shape = np.exp(-(((np.arange(width) - 0.4 * width) / (0.15 * width)) ** 2)) + 0.02
    tilt = np.exp(np.linspace(0, 1, width) * np.array([0.0, 0.3, 0.8, 2.0, 4.0])[:, None])
    stable = rng.poisson(90 * shape, (150, several, width)).astype(float)
    canary = rng.poisson(9 * shape * tilt, (150, several, width)).astype(float)
    canary[:7, 1] = 0.0  # begins later
    canary[20:75, 2] = 0.0
    together = begin(rule, spec, le=le, several=(several,))
    alone = [begin(rule, spec, le=le) for _ in range(several)]
    for i in range(150):
        together = seen(together, stable[i], canary[i], end=6.0 * (i + 1))
        alone = [seen(one, stable[i, j], canary[i, j], end=6.0 * (i + 1)) for j, one in enumerate(alone)]
    for name in ("began", "failed_at", "failures", "read", "steps", "points", "current", "recent"):
        expected = np.stack([getattr(one, name) for one in alone])
        np.testing.assert_allclose(getattr(together, name), expected)
    assert [said(together, j) for j in range(several)] == [said(one) for one in alone]


def test_canaries_can_be_stacked_and_taken_out_again() -> None:
    each = [after(begin(ARGO, ERRORS), errors(1), errors(k), seconds=60) for k in (1, 9)]
    assert said(taken(stacked(each), 1)) == said(stacked(each), 1) == said(each[1])


def test_canaries_may_have_axes_of_their_own() -> None:
    watched = begin(KAYENTA, ERRORS, several=(2, 3))
    canary = np.broadcast_to(errors(1), (2, 3, 2)).copy()
    canary[1, 2] = errors(20)
    for minute in range(1, 4):
        watched = seen(watched, np.broadcast_to(errors(1), (2, 3, 2)), canary, end=60.0 * minute)
    assert np.isfinite(watched.failed_at).sum() == 1
    assert said(watched, (1, 2)) == "Kayenta (60 s points): would have rolled back after 120 s"
