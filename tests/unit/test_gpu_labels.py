"""Accuracy, calibration and losses where the right answers are known, held to the usual formulas."""

import json

import numpy as np
import pytest
import torch
from statsmodels.stats.contingency_tables import mcnemar
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from analysis.judge import Verdict
from gpu_shadow.compare import Comparison, Margins, compare, decide, merge
from gpu_shadow.excess import excess_interval
from gpu_shadow.tally import BINS, Answers


def scores(n: int, seed: int, classes: int = 5) -> Tensor:
    return 2 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed)).double()


def right(n: int, stable: Tensor, seed: int = 9) -> Tensor:
    """What stable says in four of five requests, and in some -1: not known."""
    chance = torch.Generator().manual_seed(seed)
    drawn = torch.randint(-1, stable.shape[1], (n,), generator=chance)
    return torch.where(torch.rand(n, generator=chance) < 0.8, stable.argmax(1), drawn)


def labelled(n: int = 3000, noise: float = 0.5, **how: bool) -> tuple[Tensor, Tensor, Tensor, Comparison]:
    stable = scores(n, 0)
    canary, labels = stable + noise * scores(n, 1), right(n, stable)
    found = compare(stable, stable, canary, [f"r{i}" for i in range(n)], labels=labels, **how)
    return stable, canary, labels, found


def test_who_is_wrong_is_the_table_of_mc_nemar() -> None:
    stable, canary, labels, found = labelled()
    known = labels >= 0
    s, c = ((each.argmax(1) != labels)[known].numpy() for each in (stable, canary))
    table = np.array([[(~s & ~c).sum(), (~s & c).sum()], [(s & ~c).sum(), (s & c).sum()]])
    of = found.wrong
    assert [[of.same, of.canary], [of.again, of.both]] == table.tolist()
    wrong = decide(found, Margins()).wrong
    assert wrong is not None
    assert wrong.requests == int(known.sum()) < len(labels)
    assert wrong.excess == pytest.approx((c.mean() - s.mean()), abs=1e-12)
    assert mcnemar(table, exact=True).pvalue < 1e-6
    assert wrong.interval[0] > 0  # the same answer, at every look


def test_the_interval_holds_that_of_one_look_and_is_not_much_wider() -> None:
    wrong = decide(labelled()[3], Margins()).wrong
    of = labelled()[3].wrong
    assert wrong is not None
    lost = (of.canary - of.again) / wrong.requests
    sd = ((of.canary + of.again) / wrong.requests - lost**2) ** 0.5 / wrong.requests**0.5
    assert wrong.interval[0] < lost - 1.96 * sd
    assert lost + 1.96 * sd < wrong.interval[1]
    assert wrong.interval[1] - wrong.interval[0] < 2 * (2 * 1.96 * sd)


@pytest.mark.parametrize("probabilities", [False, True])
def test_calibration_and_losses_are_those_of_the_formulas(*, probabilities: bool) -> None:
    stable, canary, labels, found = labelled()
    if probabilities:
        given = (each.softmax(-1) for each in (stable, stable, canary))
        ids = [f"r{i}" for i in range(len(labels))]
        found = compare(*given, ids, labels=labels, probabilities=True)
    said = decide(found, Margins()).to_json()["calibration"]
    known = labels >= 0
    for arm, each in (("stable", stable), ("canary", canary)):
        p, y = each[known].softmax(-1), labels[known]
        assert said[arm]["nll"] == pytest.approx(float(cross_entropy(each[known], y)), rel=1e-9)
        brier = float((p - one_hot(y, 5)).square().sum(1).mean())
        assert said[arm]["brier"] == pytest.approx(brier, rel=1e-9)
        sure, hit = p.amax(1).numpy(), (p.argmax(1) == y).numpy()
        place = np.digitize(sure, np.arange(1, BINS) / BINS)
        off = [abs(sure[place == at].sum() - hit[place == at].sum()) for at in range(BINS)]
        assert said[arm]["ece"] == pytest.approx(sum(off) / len(sure), rel=1e-9)
    names = {one.name: one for one in decide(found, Margins()).differences}
    for name in ("brier", "nll"):
        assert names[name].mean == pytest.approx(said["canary"][name] - said["stable"][name], rel=1e-6)
        assert names[name].interval[0] <= names[name].mean <= names[name].interval[1]
        assert names[name].floor_mean == 0


def test_a_model_that_is_sure_and_wrong_is_not_calibrated() -> None:
    sure = torch.tensor([[50.0, 0.0], [50.0, 0.0]])
    found = compare(sure, None, sure, ["a", "b"], labels=torch.tensor([0, 1]))
    assert found.marks["canary"].ece == pytest.approx(0.5)
    assert found.marks["canary"].bins.keys() == {BINS - 1}


def loses(n: int, lost: float, won: float = 0.0) -> Comparison:
    """A canary whose answers never differ by more than they may, with labels of which it loses some."""
    wrong = Answers(same=round(n * (1 - lost - won)), canary=round(n * lost), again=round(n * won))
    return Comparison(task="classification", answers=Answers(same=n), wrong=wrong)


def test_a_loss_of_accuracy_decides_only_if_it_has_a_margin() -> None:
    assert decide(loses(10_000, 0.1), Margins()).verdict is Verdict.PASS
    finding = decide(loses(10_000, 0.1), Margins(max_accuracy_loss=0.02))
    assert finding.verdict is Verdict.FAIL
    assert finding.why[0].startswith("The canary is wrong in at least 8.")
    assert finding.why[0].endswith("% more of the labelled requests than stable; 2 % may be.")
    assert "answers differ" in finding.why[1]


def test_a_pass_takes_both_and_says_how_many_labels_it_takes() -> None:
    margins = Margins(max_accuracy_loss=0.02)
    assert decide(loses(10_000, 0.005), margins).verdict is Verdict.PASS
    finding = decide(merge(loses(10_000, 0.0), loses(100, 0.0)), margins)
    assert finding.verdict is Verdict.PASS
    few = Comparison(task="classification", answers=Answers(same=10_000), wrong=Answers(same=100))
    finding = decide(few, margins)
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert " labels would pass if it goes on like this." in finding.why[0]
    differ = Comparison(
        task="classification", answers=Answers(same=9000, canary=1000), wrong=Answers(same=10_000)
    )
    assert decide(differ, margins).verdict is Verdict.FAIL


def test_without_a_label_a_margin_for_accuracy_never_passes() -> None:
    finding = decide(
        Comparison(task="classification", answers=Answers(same=10_000)), Margins(max_accuracy_loss=0.02)
    )
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert finding.why[0].startswith("No request has a label")
    assert finding.wrong is None


def test_what_a_canary_wins_makes_up_for_what_it_loses() -> None:
    finding = decide(loses(20_000, 0.03, 0.03), Margins(max_accuracy_loss=0.01))
    assert finding.verdict is Verdict.PASS


def test_both_margins_share_alpha() -> None:
    """So that a healthy canary fails with at most alpha by either: half is for each, and beta for both."""
    of, alpha = Answers(same=3000, canary=60, again=20), Margins().alpha
    found = Comparison(task="classification", answers=of, wrong=of)
    told, held = decide(found, Margins()), decide(found, Margins(max_accuracy_loss=0.02))
    for finding, part in ((told, 1.0), (held, 0.5)):
        assert finding.overall is not None
        assert finding.wrong is not None
        assert finding.overall.interval == excess_interval(of, fail=part * 0.8 * alpha, beta=0.05)
        assert finding.wrong.interval == excess_interval(of, fail=part * alpha, beta=0.05)


def test_an_answer_that_is_none_is_wrong() -> None:
    stable = scores(50, 0)
    canary = stable.clone()
    canary[:10] = float("nan")
    found = compare(stable, stable, canary, [f"r{i}" for i in range(50)], labels=stable.argmax(1))
    assert (found.wrong.canary, found.wrong.same) == (10, 40)
    assert found.marks["canary"].n == found.marks["stable"].n == 40
    json.dumps(decide(found, Margins()).to_json(), allow_nan=False)


def test_numbers_are_right_within_the_tolerance() -> None:
    true = scores(400, 3, 1)[:, 0]
    stable, canary = true * 1.005, true * torch.where(torch.arange(400) < 100, 1.2, 1.001)
    true[:40] = float("nan")
    found = compare(stable, None, canary, [str(i) for i in range(400)], labels=true, task="regression")
    assert (found.wrong.canary, found.wrong.same) == (60, 300)
    lost = (canary - true).abs() - (stable - true).abs()
    (error,) = (one for one in decide(found, Margins(task="regression")).differences if one.name == "error")
    assert error.mean == pytest.approx(float(lost[40:].mean()), rel=1e-9)


@pytest.mark.parametrize(
    ("labels", "task", "why"),
    [
        (torch.zeros(9, dtype=torch.int64), "classification", "right class of each of the 10 requests"),
        (torch.zeros(10), "classification", "label is float32"),
        (torch.full((10,), 5), "classification", "label 5 is none of the 5 classes"),
        (torch.zeros(10, 4), "regression", "right value for each of stable's"),
        (torch.zeros(50, dtype=torch.int64), "regression", "label is int64"),
        (torch.zeros(10, dtype=torch.int64), "ranking", "neither right nor wrong"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor, task: str, why: str) -> None:
    stable = scores(10, 0)
    with pytest.raises(ValueError, match=why):
        compare(stable, None, stable, [str(i) for i in range(10)], labels=labels, task=task)
