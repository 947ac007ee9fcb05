"""From a comparison to a verdict and its sentences."""

import json

import pytest
import torch
from torch import Tensor

from analysis.judge import Verdict
from gpu_shadow.compare import Comparison, Finding, Margins, compare, decide, failed, merge
from gpu_shadow.finding import times
from gpu_shadow.report import report
from gpu_shadow.said import Said
from gpu_shadow.said import told as told_of
from gpu_shadow.tally import Answers, by_label

MARGINS = Margins(max_flips=0.01)


def of(same: int = 0, canary: int = 0, again: int = 0) -> Comparison:
    return Comparison(task="classification", answers=Answers(same=same, canary=canary, again=again))


def verdict(comparison: Comparison) -> Verdict:
    return decide(comparison, MARGINS).verdict


def answers(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


def found(canary: Tensor, stable: Tensor | None = None) -> Finding:
    stable = answers(len(canary)) if stable is None else stable
    noise = 1e-6 * answers(len(canary), 1)
    return decide(compare(stable, stable + noise, canary, [f"r{i}" for i in range(len(canary))]), MARGINS)


def test_what_surely_differs_too_often_fails_and_says_by_how_much() -> None:
    finding = decide(of(same=900, canary=100), MARGINS)
    assert finding.verdict is Verdict.FAIL
    assert finding.why == ("At least 6.73 % of answers differ beyond the noise floor; 1 % may.",)
    assert finding.overall is not None
    assert finding.overall.interval[0] == pytest.approx(0.0673, abs=1e-4)


def test_what_surely_differs_little_passes() -> None:
    finding = decide(of(same=4990, canary=10), MARGINS)
    assert finding.verdict is Verdict.PASS
    assert finding.why == ("At most 0.451 % of answers differ beyond the noise floor; 1 % may.",)


def test_what_lies_between_is_not_decided_and_says_how_many_requests_would() -> None:
    finding = decide(of(same=995, canary=5), MARGINS)
    assert finding.verdict is Verdict.INCONCLUSIVE
    (said,) = finding.why
    assert said.startswith(("Between -0.", "Between 0."))
    enough = int(said.split("about ")[1].split(" ")[0])
    assert verdict(of(same=enough - enough // 200, canary=enough // 200)) is Verdict.PASS
    assert verdict(of(same=enough // 2 - enough // 400, canary=enough // 400)) is Verdict.INCONCLUSIVE


def test_where_more_differs_than_may_no_number_of_requests_is_advised() -> None:
    assert decide(of(same=980, canary=20), MARGINS).why[0].endswith("1 % may: not decided.")


def test_what_stable_does_itself_is_not_held_against_the_canary() -> None:
    assert verdict(of(same=40_000, canary=500, again=500)) is Verdict.PASS
    assert verdict(of(same=40_500, canary=1000)) is Verdict.FAIL


def test_without_a_floor_it_is_said_that_there_is_none() -> None:
    once = Comparison(task="classification", answers=Answers(once_same=2000))
    assert decide(once, MARGINS).verdict is Verdict.PASS
    assert "The noise floor was not measured" in decide(once, MARGINS).why[1]


def test_requests_with_and_without_a_floor_are_not_mixed() -> None:
    both = merge(of(same=2000), Comparison(task="classification", answers=Answers(once_canary=7)))
    finding = decide(both, MARGINS)
    assert finding.overall is not None
    assert finding.overall.requests == 2000
    assert "7 requests are left out: stable did not answer twice." in finding.why


@pytest.mark.parametrize(
    ("ratio", "said"), [(None, "-"), (0.5, "0.5"), (999.4, "999"), (1000.0, "> 1000"), (3e11, "> 1000")]
)
def test_a_ratio_to_hardly_any_noise_is_told_without_its_digits(ratio: float | None, said: str) -> None:
    assert times(ratio) == said


def test_nothing_compared_is_no_data() -> None:
    finding = decide(Comparison(task="classification", unusable=3), MARGINS)
    assert finding.verdict is Verdict.NO_DATA
    assert finding.why == (
        "No request was compared: nothing is known.",
        "3 requests are left out: stable itself has no finite answer to them.",
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_answer_that_is_no_number_is_one_too_many(bad: float) -> None:
    canary = answers(5000)
    canary[7, 0] = bad
    finding = found(canary)
    assert finding.verdict is Verdict.FAIL
    assert finding.why[0] == "1 of 5000 answers are NaN or infinite where stable's are numbers."


def test_stable_that_is_itself_no_number_at_times_makes_it_a_question_of_how_often() -> None:
    stable = answers(5000)
    again, canary = stable.clone(), stable.clone()
    again[3, 0] = canary[7, 0] = float("nan")
    finding = decide(compare(stable, again, canary, ["r"] * 5000), MARGINS)
    assert finding.verdict is Verdict.PASS


def test_errors_and_another_form_fail_at_once_whatever_else_is_said() -> None:
    told = decide(merge(of(same=5000), failed(["x"], twice=True)), MARGINS)
    assert told.verdict is Verdict.FAIL
    assert told.why[0] == "The canary failed to answer 1 of 5001 requests that stable answered."
    one, other = (failed(["x"], twice=True, why=[why]) for why in ("status 500", "no output y"))
    assert decide(merge(one, merge(other, one)), MARGINS).why[0] == (
        "The canary failed to answer 3 of 3 requests that stable answered: no output y; status 500."
    )
    other = compare(answers(3), answers(3), answers(3)[:, :2], ["a", "b", "c"])
    assert decide(other, MARGINS).why[0] == "3 of 3 answers have another form: shape (2,) instead of (5,)."


def sliced(bad: int) -> Comparison:
    labels = ["de"] * 300 + ["fr"] * 9700
    kinds = [1] * bad + [0] * (10_000 - bad)
    return Comparison(
        task="classification",
        answers=Answers(same=10_000 - bad, canary=bad),
        slices=by_label(labels, kinds),
    )


def test_one_slice_that_is_worse_suffices() -> None:
    assert verdict(sliced(0)) is Verdict.PASS
    finding = decide(sliced(60), MARGINS)
    assert finding.overall is not None
    assert finding.overall.interval[1] < MARGINS.max_flips  # of all requests too few differ
    assert finding.verdict is Verdict.FAIL
    assert "of the slice de differ" in finding.why[0]


@pytest.mark.parametrize("requests", [19, 20])
def test_a_slice_of_a_few_requests_decides_and_is_not_named(requests: int) -> None:
    labels, kinds = ["one@person"] * requests + ["fr"] * 9000, [1] * requests + [0] * 9000
    every = Answers(same=9000, canary=requests)
    said = Said.of(Comparison(task="classification", answers=every, slices=by_label(labels, kinds)), MARGINS)
    finding = said.finding
    assert finding.verdict is Verdict.FAIL
    told = json.dumps(said.to_json()) + report(said) + "".join(told_of(said))
    assert ("one@person" in told) == (requests == 20)
    assert ("of a slice of fewer than 20 requests differ" in finding.why[0]) == (requests == 19)
    assert finding.to_json()["slicesTooSmall"] == (requests == 19)
    assert any("1 slice has fewer than 20 requests" in why for why in finding.why) == (requests == 19)


def test_slices_beyond_those_that_are_told_apart_decide_nothing() -> None:
    labels = [f"{place:03}" for place in range(60)] * 100 + ["zzz"] * 60
    kinds = [0] * 6000 + [1] * 60
    many = Comparison(
        task="classification", answers=Answers(same=6000, canary=60), slices=by_label(labels, kinds)
    )
    finding = decide(many, Margins(max_flips=0.05))
    assert finding.verdict is Verdict.PASS
    assert "Only 50 slices are told apart" in finding.why[1]


def test_flips_of_answers_that_were_clear_are_told_from_those_that_noise_can_turn() -> None:
    stable = answers(1000)
    close = stable.clone()
    close[:, 1] = close[:, 0] = 9.0
    close[:, 0] += 1e-7 * 9  # less than the noise
    finding = found(close.flip(1).flip(1), stable=close)
    assert finding.clear == 0
    turned = found(stable.flip(1), stable=stable)
    assert turned.clear is not None
    assert turned.clear > 0.7


def test_differences_stand_beside_the_noise() -> None:
    stable = answers(2000)
    finding = found(stable + 1e-3 * answers(2000, 2), stable=stable)
    each = {one.name: one for one in finding.differences}
    assert each["max_delta"].ratio == pytest.approx(1000, rel=0.1)
    assert each["kl"].asymptotic
    assert not each["tv"].asymptotic
    for one in finding.differences:
        assert one.interval[0] <= one.mean <= one.interval[1]


def test_the_finding_is_json() -> None:
    said = json.loads(json.dumps(found(answers(100, 3)).to_json(), allow_nan=False))
    assert said["verdict"] == "Fail"
    assert set(said) == {
        "verdict",
        "why",
        "requests",
        "overall",
        "clearFlips",
        "accuracy",
        "calibration",
        "slices",
        "slicesTooSmall",
        "differences",
        "worst",
    }


@pytest.mark.parametrize("wrong", [{"max_flips": 0.0}, {"alpha": 1.0}, {"beta": -0.1}])
def test_margins_are_probabilities(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        Margins(**wrong)  # type: ignore[arg-type]


def test_margins_of_another_task_are_refused() -> None:
    with pytest.raises(ValueError, match="the margins are for embedding"):
        decide(of(same=1), Margins(task="embedding"))
