"""Permutation tests: every statistic against its definition, computed sample by sample."""

import itertools

import pytest
import torch
from torch import Tensor

from gpu_shadow.swaps import (
    WIDTHS,
    drawn,
    pair_statistics,
    pair_swap,
    quadratic,
    sample_statistics,
    turned,
    two_sample,
)

CPU = torch.device("cpu")


def answers(n: int, d: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(x: Tensor, y: Tensor, width: float, unit: float) -> Tensor:
    return torch.exp(-(torch.cdist(x, y) ** 2) / (2 * width**2 * unit))


def middle(z: Tensor) -> float:
    """The median squared distance, of itself too: as few as here all are taken."""
    return float((torch.cdist(z, z) ** 2).median())


def test_pairs_are_turned_round_as_the_signs_say() -> None:
    x, y = answers(40), answers(40) + 0.3 * answers(40, seed=1) + 0.1
    signs = turned(40, 8, 0, CPU)
    found = pair_statistics(x, y, signs)
    unit = middle(torch.cat([x, y]))
    for (place, width), column in itertools.product(enumerate(WIDTHS), range(9)):
        kept = signs[:, column, None] > 0
        a, b = torch.where(kept, x, y), torch.where(kept, y, x)
        k = (kernel(a, a, width, unit), kernel(b, b, width, unit), kernel(a, b, width, unit))
        expected = k[0].mean() + k[1].mean() - 2 * k[2].mean()
        assert float(found[place, column]) == pytest.approx(float(expected), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(40, 30), (25, 25), (10, 50)])
def test_samples_are_dealt_out_as_the_columns_say(n: int, m: int) -> None:
    x, y = answers(n), answers(m, seed=1) + 5.0  # far from the origin
    chosen = drawn(n, m, 8, 0, CPU)
    found = sample_statistics(x, y, chosen)
    z = torch.cat([x, y])
    unit = middle(z)
    for (place, width), column in itertools.product(enumerate(WIDTHS), range(9)):
        a, b = z[chosen[:, column] > 0], z[chosen[:, column] == 0]
        within = [kernel(each, each, width, unit).fill_diagonal_(0).sum() for each in (a, b)]
        of = within[0] / (n * (n - 1)) + within[1] / (m * (m - 1))
        expected = of - 2 * kernel(a, b, width, unit).mean()
        assert float(found[place, column]) == pytest.approx(float(expected), abs=2e-6)


def test_the_first_column_is_what_was_observed_and_others_are_dealt_fairly() -> None:
    chosen = drawn(30, 20, 400, 3, CPU)
    assert chosen[:, 0].tolist() == [1.0] * 30 + [0.0] * 20
    assert chosen.sum(0).tolist() == [30.0] * 401
    assert chosen[:, 1:].mean(1).sub(0.6).abs().max() < 0.1
    signs = turned(30, 400, 3, CPU)
    assert (signs[:, 0] == 1).all()
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert signs[:, 1:].mean(1).abs().max() < 0.2


@pytest.mark.parametrize("n", [1, 255, 256, 257, 700])
def test_a_quadratic_form_is_one_wherever_its_tiles_end(n: int) -> None:
    matrix = answers(n, n)
    matrix = matrix + matrix.T
    columns = turned(n, 5, 1, CPU)
    expected = (columns.double() * (matrix @ columns.double())).sum(0)
    torch.testing.assert_close(quadratic(matrix, columns), expected, rtol=1e-4, atol=1e-3 * n)


def test_no_p_value_is_smaller_than_the_permutations_can_say() -> None:
    x = answers(50)
    assert pair_swap(x, x + 3, swaps=99).p == 1 / 100
    assert two_sample(x, answers(50, seed=1) + 3, permutations=99).p == 1 / 100


def test_what_is_the_same_is_no_evidence_at_all() -> None:
    x = answers(50)
    assert pair_swap(x, x.clone(), swaps=99).p == 1
    alike = torch.ones(20, 2)
    assert two_sample(alike, alike, permutations=99).p == 1


def test_the_same_seed_says_the_same() -> None:
    x, y = answers(60), answers(60) + 0.1 * answers(60, seed=1)
    assert pair_swap(x, y, seed=5) == pair_swap(x, y, seed=5)
    assert two_sample(x, y, seed=5) == two_sample(x, y, seed=5)


def test_pairing_sees_what_samples_cannot() -> None:
    x = answers(300, 16)
    moved = x + 0.02 + 0.1 * answers(300, 16, seed=1)
    assert pair_swap(x, moved).p <= 0.001
    assert two_sample(x, moved).p > 0.2


def test_differences_far_below_float32_are_seen() -> None:
    x = answers(200, 4)
    assert pair_swap(x + 1e4, x + 1e4 + 1e-6).p <= 0.01


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        (answers(5), answers(4), "pairs have one shape"),
        (answers(1), answers(1), "n >= 2"),
        (answers(5)[:, 0], answers(5), "give"),
        (answers(5)[:, :0], answers(5)[:, :0], "give"),
        (answers(5) * float("nan"), answers(5), "stable's answers are not finite"),
    ],
)
def test_answers_that_cannot_be_tested_are_refused(x: Tensor, y: Tensor, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        pair_swap(x, y)


def test_samples_of_different_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="other spaces"):
        two_sample(answers(5, 3), answers(5, 4))
