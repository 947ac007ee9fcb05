"""A batch of answers compared: what differs, what is no answer, and what cannot be asked."""

import pytest
import torch
from torch import Tensor

from gpu_shadow.compare import BROKEN, Comparison, compare, failed, merge
from gpu_shadow.tally import Answers

NAN, INF = float("nan"), float("inf")


def scores(n: int, classes: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


def names(n: int) -> list[str]:
    return [f"r{place}" for place in range(n)]


def test_answers_are_counted_by_who_differs_from_stable() -> None:
    stable = torch.tensor([[1.0, 0.0]] * 4)
    other = torch.tensor([[0.0, 1.0]])
    again = torch.cat([stable[:2], other, other])
    canary = torch.cat([stable[:1], other, stable[:1], other])
    found = compare(stable, again, canary, names(4), slices=["a", "a", "b", "b"])
    assert found.answers == Answers(same=1, canary=1, again=1, both=1)
    assert found.slices == {"a": Answers(same=1, canary=1), "b": Answers(again=1, both=1)}
    assert found.turns == {(0, 1): 2}
    once = compare(stable, None, canary, names(4))
    assert once.answers == Answers(once_same=2, once_canary=2)
    assert once.floor == {}


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_an_answer_that_is_no_number_differs_and_is_counted(bad: float) -> None:
    stable = scores(5)
    canary, again = stable.clone(), stable.clone()
    canary[2, 1] = bad
    again[3, 0] = bad
    found = compare(stable, again, canary, names(5))
    assert (found.broken, found.broken_again) == (1, 1)
    assert found.answers == Answers(same=3, canary=1, again=1)
    assert found.worst == ((BROKEN, "r2"),)
    assert found.figures["kl"].n == found.floor["kl"].n == 4


def test_requests_that_stable_has_no_answer_to_are_left_out() -> None:
    stable = scores(4)
    stable[0, 0], stable[1], stable[2, 0] = NAN, -INF, INF
    found = compare(stable, stable, scores(4, seed=1), names(4), slices=list("abcd"))
    assert found.unusable == 3
    assert found.requests == 1
    assert list(found.slices) == ["d"]


def test_classes_that_stable_masks_may_be_masked() -> None:
    stable = scores(3)
    stable[:, 3] = -INF
    assert compare(stable, None, stable.clone(), names(3)).broken == 0


@pytest.mark.parametrize(
    ("canary", "how"),
    [
        (scores(3, 5), "shape (5,) instead of (4,)"),
        (scores(3)[:, 0], "shape () instead of (4,)"),
        (scores(2), "2 answers instead of 3"),
        (torch.ones(3, 4, dtype=torch.int64), "int64 instead of float32"),
    ],
)
def test_an_answer_of_another_form_is_counted_not_refused(canary: Tensor, how: str) -> None:
    found = compare(scores(3), None, canary, names(3), slices=["a"] * 3)
    assert found.mismatched == found.answers.once_canary == found.slices["a"].once_canary == 3
    assert found.mismatches == (how,)
    assert [name for _, name in found.worst] == names(3)


def test_other_widths_of_numbers_are_no_other_form() -> None:
    stable = scores(50)
    found = compare(stable, None, stable.bfloat16(), names(50))
    assert found.mismatched == 0
    assert 0 < found.figures["max_delta"].largest < 0.02


def test_requests_that_the_canary_failed_differ() -> None:
    found = merge(compare(scores(2), scores(2), scores(2), names(2)), failed(["x"], twice=True, slices=["a"]))
    assert found.failed == 1
    assert found.answers == Answers(same=2, canary=1)
    assert failed(["x"], twice=False).answers == Answers(once_canary=1)


def test_an_empty_batch_is_nothing() -> None:
    assert compare(scores(0), scores(0), scores(0), []) == Comparison(task="classification")


def test_probabilities_are_told_apart_from_logits() -> None:
    stable, canary = scores(20), scores(20, seed=1)
    logits = compare(stable, None, canary, names(20))
    found = compare(stable.softmax(1), None, canary.softmax(1), names(20), probabilities=True)
    assert found.figures["kl"].mean == pytest.approx(logits.figures["kl"].mean, rel=1e-5)
    certain = compare(torch.eye(3), None, torch.eye(3).flip(0), names(3), probabilities=True)
    assert certain.broken == 0
    assert certain.figures["tv"].mean == pytest.approx(2 / 3)


def test_whole_numbers_are_scores_too() -> None:
    found = compare(torch.tensor([[3, 1], [0, 2]]), None, torch.tensor([[1, 3], [0, 2]]), names(2))
    assert found.answers == Answers(once_same=1, once_canary=1)


def test_the_most_different_come_first_flips_before_all_that_only_moved() -> None:
    stable = torch.tensor([[2.0, 0.0], [0.1, 0.0], [1.0, 0.0]])
    canary = torch.tensor([[0.2, 0.0], [0.0, 0.1], [1.0, 0.0]])
    assert [name for _, name in compare(stable, None, canary, names(3)).worst] == ["r1", "r0"]


def test_numbers_differ_beyond_the_tolerance() -> None:
    stable = torch.tensor([100.0, -100.0, 0.0, 0.0])
    canary = torch.tensor([100.9, -102.0, 0.0, 1e-9])
    found = compare(stable, stable, canary, names(4), task="regression", tolerance=0.01)
    assert found.answers == Answers(same=2, canary=2)
    assert found.figures["difference"].mean == pytest.approx((0.9 - 2) / 4, rel=1e-5)
    assert found.figures["max_delta"].largest == pytest.approx(2, rel=1e-5)


def test_vectors_differ_by_their_angle_not_by_their_length() -> None:
    stable = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    canary = torch.tensor([[5.0, 0.0], [1.0, 0.5], [0.0, 0.0]])
    found = compare(stable, None, canary, names(3), task="embedding", tolerance=0.05)
    assert found.answers == Answers(once_same=2, once_canary=1)
    cosine = torch.nn.functional.cosine_similarity(stable[1], canary[1], dim=0)
    assert found.figures["cosine_distance"].largest == pytest.approx(float(1 - cosine), rel=1e-5)


def test_vectors_of_any_length_have_an_angle() -> None:
    stable = torch.tensor([[1e300, 0.0], [1e-300, 0.0]], dtype=torch.float64)
    found = compare(stable, None, stable.flip(1), names(2), task="embedding")
    assert found.figures["cosine_distance"].mean == pytest.approx(1)
    assert compare(stable, None, 2 * stable, names(2), task="embedding").answers.once_same == 2


def test_a_slice_has_a_name() -> None:
    with pytest.raises(ValueError, match="a slice has no name"):
        compare(scores(1), None, scores(1), names(1), slices=[""])


def test_rankings_differ_if_their_top_does_in_items_or_order() -> None:
    stable = torch.tensor([[5.0, 4.0, 3.0, 2.0]] * 4)
    canary = torch.tensor(
        [[5.0, 4.0, 3.0, 2.5], [4.0, 5.0, 3.0, 2.0], [5.0, 1.0, 0.0, 2.0], [0.0, 0.0, 9.0, 8.0]]
    )
    found = compare(stable, None, canary, names(4), task="ranking", top=2)
    assert found.answers == Answers(once_same=1, once_canary=3)
    assert found.figures["missed"].mean == pytest.approx((0 + 0 + 0.5 + 1) / 4)
    assert found.figures["displaced"].mean == pytest.approx((0 + 0.5 + 0.25 + 1) / 4)
    assert [name for _, name in found.worst] == ["r3", "r1", "r2"]


def test_many_rows_are_taken_in_tiles() -> None:
    stable, canary = scores(5000, 1000), scores(5000, 1000, seed=1)
    found = compare(stable, None, canary, names(5000))
    assert found.requests == found.figures["kl"].n == 5000


@pytest.mark.parametrize(
    ("stable", "again", "ids", "task", "why"),
    [
        (scores(3, 1), None, 3, "classification", "one score a request cannot name another class"),
        (scores(3), scores(3, 5), 3, "classification", "stable's second answers do not fit its first"),
        (scores(3), None, 2, "classification", "3 answers, but 2 ids"),
        (scores(3)[:, 0], None, 3, "classification", r"shape \(3,\), not \(requests, outputs\)"),
        (scores(3), None, 3, "poetry", "'poetry' is none of classification"),
        (torch.complex(scores(3), scores(3)), None, 3, "classification", "complex numbers"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    stable: Tensor, again: Tensor | None, ids: int, task: str, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        compare(stable, again, stable, names(ids), task=task)
