"""The GPU's kernels, run on the CPU by Triton's interpreter: the same figures as the float64 reference.

What a compiler makes of them and how fast it is, only a GPU shows: `python -m gpu_shadow.bench --gpu`.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"  # before anybody imports Triton, whose own functions heed it then

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from gpu_shadow import kernel
from gpu_shadow.bench_gpu import furthest
from gpu_shadow.fused import FIGURES, Paired, reference

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")  # of -inf: meant, and silent on a GPU
# less than a group, a row that is no power of two, several groups, and a row that registers cannot hold
CLASSES = [2, 10, 100, 1000, 20_000]


@triton.jit
def divided(x: tl.tensor) -> tl.tensor:
    """In place of one instruction of a GPU."""
    return 1.0 / x


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(kernel._short, InterpretedFunction)
    monkeypatch.setattr(kernel, "_inverse", divided)


def error(stable: Tensor, canary: Tensor, *, top: int = 5) -> tuple[float, str]:
    """The largest error of any figure as a share of what float32 excuses, and of which."""
    found = Paired(**kernel.paired(stable, canary, top=top))
    return furthest(found, reference(stable, canary, top=top), stable.shape[1])


def scores(n: int, classes: int, *, seed: int) -> Tensor:
    return 3 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("apart", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("classes", CLASSES)
def test_figures_are_those_of_the_reference(classes: int, dtype: torch.dtype, apart: float) -> None:
    stable = scores(6, classes, seed=classes)
    canary = stable + apart / 3 * scores(6, classes, seed=1)
    stable[:, 2 + classes // 2 :: 3] = canary[:, 2 + classes // 2 :: 3] = -torch.inf  # masked in both
    assert error(stable.to(dtype), canary.to(dtype), top=min(5, classes - 1)) <= (1.0, "z")


@pytest.mark.parametrize("classes", [10, 20_000])
@pytest.mark.parametrize("top", [1, 3])
def test_of_equal_scores_the_first_classes_count_as_the_highest(classes: int, top: int) -> None:
    stable, canary = scores(4, classes, seed=2).round(), scores(4, classes, seed=3).round()
    stable[0], canary[0] = 0.0, 0.0
    assert error(stable, canary, top=top) <= (1.0, "z")


@pytest.mark.parametrize("classes", [7, 20_000])
def test_equal_answers_differ_in_nothing(classes: int) -> None:
    stable = scores(3, classes, seed=4)
    found = kernel.paired(stable, stable.clone(), top=3)
    assert set(found) == set(FIGURES)
    for name in set(FIGURES) - {"first", "other", "margin"}:
        assert not found[name].any(), name


def test_rows_may_lie_apart_in_memory() -> None:
    stable, canary = scores(4, 24, seed=5), scores(24, 4, seed=6).T
    assert error(stable[:, 3:20], canary[:, 3:20]) <= (1.0, "z")


def test_what_is_wrong_is_seen() -> None:
    """The figures' errors are found out at all: of one score that is off by a thousandth."""
    stable, canary = scores(4, 10, seed=7), scores(4, 10, seed=8)
    found = Paired(**kernel.paired(stable, canary, top=5))
    stable[2, 3] += 1e-3
    assert furthest(found, reference(stable, canary, top=5), 10)[0] > 1
