"""The figures of two classifiers' answers, against scipy and by hand; test_gpu_kernel.py holds the GPU's
kernel to the same reference."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax
from scipy.stats import entropy
from torch import Tensor

from gpu_shadow.fused import FIGURES, highest, paired


def scores(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_figure_is_what_scipy_says() -> None:
    s, c = scores(50, 12), scores(50, 12, seed=1)
    found = paired(s, c, top=3)
    p, q = softmax(s.numpy(), axis=1), softmax(c.numpy(), axis=1)
    best = [set(np.argsort(-row)[:3]) for row in s.numpy()]
    rivals = [set(np.argsort(-row)[:3]) for row in c.numpy()]
    apart, ordered = (c - s).abs().numpy(), np.sort(s.numpy(), axis=1)
    expected = {
        "first": p.argmax(1),
        "other": q.argmax(1),
        "margin": ordered[:, -1] - ordered[:, -2],
        "missed": [len(a - b) / 3 for a, b in zip(best, rivals, strict=True)],
        "kl": rel_entr(p, q).sum(1),
        "js": jensenshannon(p, q, axis=1) ** 2,
        "tv": np.abs(p - q).sum(1) / 2,
        "max_delta": apart.max(1),
        "mean_delta": apart.mean(1),
        "confidence": q.max(1) - p.max(1),
        "entropy": entropy(q, axis=1) - entropy(p, axis=1),
    }
    assert set(expected) == set(FIGURES)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_identical_answers_differ_in_nothing() -> None:
    s = scores(20, 7)
    found = paired(s, s.clone())
    for name in ("missed", "kl", "js", "tv", "max_delta", "mean_delta", "confidence", "entropy"):
        assert getattr(found, name).abs().max() < 1e-15


def test_of_equal_scores_the_first_class_is_the_higher() -> None:
    assert highest(torch.tensor([[1.0, 2.0, 2.0, 1.0]]), top=3).tolist() == [[1, 2, 0]]
    found = paired(torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([[1.0, 2.0, 2.0]]))
    assert (found.first, found.other, found.margin) == (1, 1, 0)


def test_classes_that_are_masked_in_both_are_alike() -> None:
    s, c = scores(6, 5), scores(6, 5, seed=1)
    whole, masked = paired(s[:, :3], c[:, :3], top=2), None
    s[:, 3:] = c[:, 3:] = -torch.inf
    masked = paired(s, c, top=2)
    for name in set(FIGURES) - {"mean_delta"}:
        torch.testing.assert_close(getattr(masked, name), getattr(whole, name))
    torch.testing.assert_close(masked.mean_delta, whole.mean_delta * 3 / 5)


def test_with_fewer_classes_left_than_asked_for_none_is_taken_twice() -> None:
    s = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf]])
    assert highest(s, top=3).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("large", [1e4, 1e30, 1e300])
def test_huge_scores_are_certain_and_stay_finite(large: float) -> None:
    found = paired(
        large * torch.eye(3, dtype=torch.float64), large * torch.eye(3, dtype=torch.float64).flip(0)
    )
    assert found.kl.tolist() == [2 * large - large, 0, large]
    assert found.js.tolist() == pytest.approx([np.log(2), 0, np.log(2)])
    assert found.tv.tolist() == [1, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int32, torch.uint8])
def test_any_kind_of_number_is_compared_in_float64(dtype: torch.dtype) -> None:
    s, c = (scores(9, 4, seed=seed).abs().to(dtype) for seed in (0, 1))
    found, expected = paired(s, c), paired(s.double(), c.double())
    for name in FIGURES:
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_small_differences_are_seen_to_the_last_digits() -> None:
    """KL of nearly equal answers is about half the variance of the difference: 1e-10, exact to 1e-15."""
    s = scores(5, 4)
    d = 1e-5 * scores(5, 4, seed=1)
    p = s.softmax(1)
    variance = (p * d**2).sum(1) - (p * d).sum(1) ** 2
    torch.testing.assert_close(paired(s, s + d).kl, variance / 2, rtol=1e-4, atol=1e-15)
