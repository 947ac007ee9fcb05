"""Prediction drift: sets that are asked about, and how far apart two arms are."""

import numpy as np
import pytest
from scipy.stats import beta

from analysis.distributions import distance, distance_interval, drift_question, likeness_question
from analysis.state import LENSES, CheckKind

STABLE = np.array([10.0, 40.0, 100.0, 200.0, 100.0, 40.0, 10.0])
READY = np.array(True)


def test_the_witness_is_where_the_canary_was_more_frequent() -> None:
    question = drift_question(
        STABLE, STABLE[::-1] * np.array([1, 1, 1, 1, 1, 2, 2]), tolerance=0.05, ready=READY
    )
    assert question.ready
    assert list(question.stable[:, 0]) == [0, 0, 0, 0, 0, 1, 1]


def test_without_a_canary_the_witness_is_stables_upper_half() -> None:
    question = drift_question(STABLE, np.zeros(7), tolerance=0.05, ready=READY)
    assert question.ready
    assert list(question.stable[:, 0]) == list(question.stable[:, 1])


def test_the_two_halves_are_each_others_rest() -> None:
    question = drift_question(STABLE, np.zeros(7), tolerance=0.05, ready=READY)
    assert question.ready
    assert (question.stable[:, 1] + question.stable[:, 2] == 1).all()
    assert question.q.shape == LENSES[CheckKind.PREDICTIONS].shape
    assert LENSES[CheckKind.PREDICTIONS].sum() == pytest.approx(1)


def test_a_pass_also_asks_about_tails_and_middle() -> None:
    question = likeness_question(STABLE, np.zeros(7), tolerance=0.1, ready=READY)
    assert question.ready
    assert question.stable.shape == (7, 5)
    assert (question.delta == 0.1).all()


def test_nothing_learned_asks_nothing() -> None:
    for ask in (drift_question, likeness_question):
        question = ask(np.zeros(7), np.zeros(7), tolerance=0.05, ready=~READY)
        assert not question.ready
        assert np.isfinite(question.worse()).all()
        assert np.isfinite(question.better()).all()


def test_one_bucket_for_everything_asks_nothing() -> None:
    for ask in (drift_question, likeness_question):
        assert not ask(np.array([500.0]), np.array([50.0]), tolerance=0.05, ready=READY).ready


def test_identical_arms_are_at_distance_zero_and_disjoint_ones_at_one() -> None:
    assert distance(STABLE, STABLE * 0.1) == 0.0
    apart = distance(np.array([1e6, 0.0]), np.array([0.0, 1e6]))
    assert apart == pytest.approx(1.0, abs=0.01)
    assert distance(STABLE, np.zeros(7)) is None


@pytest.mark.parametrize("cells", [10, 64, 200])
def test_chance_hides_little_of_a_shift_however_many_cells_there_are(cells: int) -> None:
    chance, edges = np.random.default_rng(1), np.linspace(0, 1, cells + 1)
    of_stable, of_canary = (np.diff(beta(a, 5).cdf(edges)) for a in (2.0, 2.6))
    truth = 0.5 * np.abs(of_stable - of_canary).sum()
    stable = chance.multinomial(4_000, of_stable, size=100).astype(float)
    canary, alike = (chance.multinomial(1_000, of, size=100) for of in (of_canary, of_stable))
    said, nothing = (
        np.mean([distance(s, c) for s, c in zip(stable, arm.astype(float), strict=True)])
        for arm in (canary, alike)
    )
    assert said == pytest.approx(truth, abs=0.015)
    assert nothing < 0.03


def test_pods_that_differ_by_themselves_leave_less_of_a_shift() -> None:
    moved = np.roll(STABLE, 1)
    calm, uneasy = (distance(STABLE, moved, temper=temper) for temper in (1.0, 30.0))
    assert calm is not None
    assert uneasy is not None
    assert uneasy < 0.9 * calm


def test_the_interval_holds_the_distance_and_narrows() -> None:
    moved = np.roll(STABLE, 1)
    truth = 0.5 * np.abs(STABLE / 500 - moved / 500).sum()
    few = distance_interval(STABLE, moved, error=0.01)
    many = distance_interval(STABLE * 100, moved * 100, error=0.01)
    assert few[0] <= truth <= few[1]
    assert many[0] <= truth <= many[1]
    assert many[1] - many[0] < few[1] - few[0]
    assert distance_interval(STABLE, np.zeros(7), error=0.01) == (0.0, 1.0)
