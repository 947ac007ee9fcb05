"""Are two models' answers one distribution? Permutation tests on kernels, without a loop over permutations.

`pair_swap` is for answers to the same requests: if the models do not differ, each pair might as well be
the other way round. `two_sample` is for answers to different requests, of which any might have come from
either. Both ask several widths of a Gaussian kernel at once and take the one that stands out most, which
the permutations have to match. A p-value says that there is a difference, not that it matters.

All permutations are one matrix product: a column z of 0 and 1 (or of signs s) says who is where, and the
statistic is z'Kz. For two samples the kernel is centred first, K - a1' - 1a', which is put back into
the statistics, and makes float32 or two bfloat16 halves enough: what is left is as large as what
is looked for.

Symbols: n pairs or requests of stable, m of the canary, N = n + m, B permutations beside the one
observed, W widths.

Reference: Gretton et al. (2012), "A kernel two-sample test"; Schrab et al. (2023), "MMD aggregated
two-sample test", here with the largest standardised statistic; for p-values Phipson, Smyth (2010).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

WIDTHS = (0.5, 1.0, 2.0, 4.0)  # of the kernel, times the median distance of two answers
SAMPLE = 200  # answers whose median distance is taken
TILE = 256  # rows of a symmetric matrix that are multiplied at once; the half below them is not read
ALIGNED = 64  # columns that tensor cores take at once; with others they are six times slower
SAME = 1e-6  # statistics (null sd) nearer than this are ties, which count against a difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """What a permutation test says: `p`, at least 1 / (permutations + 1), and the largest statistic.

    `statistic` is that of the width which stands out most, in standard deviations of its permutations.
    """

    p: float
    statistic: float
    permutations: int


def pair_swap(
    stable: Tensor,
    canary: Tensor,
    *,
    swaps: int = 999,
    seed: int = 0,
    widths: Sequence[float] = WIDTHS,
) -> Tested:
    """Whether answers (n, d) to the same n requests differ in distribution.

    Guarantee: p <= a with probability at most a if each pair is as likely the other way round, whatever the
    requests have in common. The kernel is computed in float64: differences of nearly equal answers count.
    """
    _check(stable, canary, least=2)
    if stable.shape != canary.shape:
        raise ValueError(f"pairs have one shape, not {tuple(stable.shape)} and {tuple(canary.shape)}")
    signs = turned(len(stable), swaps, seed, stable.device)
    return _largest(pair_statistics(stable, canary, signs, widths=widths))


def two_sample(
    stable: Tensor,
    canary: Tensor,
    *,
    permutations: int = 999,
    seed: int = 0,
    widths: Sequence[float] = WIDTHS,
) -> Tested:
    """Whether answers (n, d) and (m, d) to different requests come from one distribution.

    Guarantee: p <= a with probability at most a if all n + m answers are exchangeable.
    """
    _check_samples(stable, canary)
    chosen = drawn(len(stable), len(canary), permutations, seed, stable.device)
    return _largest(sample_statistics(stable, canary, chosen, widths=widths))


def energy(stable: Tensor, canary: Tensor, *, permutations: int = 999, seed: int = 0) -> Tested:
    """The same by distances alone: 2 E|X - Y| - E|X - X'| - E|Y - Y'|.

    Guarantee: as `two_sample`. Large distances weigh most, of which Gaussian kernels see nothing.
    """
    _check_samples(stable, canary)
    chosen = drawn(len(stable), len(canary), permutations, seed, stable.device)
    return _largest(energy_statistics(stable, canary, chosen)[None])


def energy_statistics(stable: Tensor, canary: Tensor, chosen: Tensor) -> Tensor:
    """Energy distances (B + 1,) of samples; column b takes as stable's those where `chosen` (N, B + 1) is 1.

    Weights 1/n and -1/m add up to 0, so that the distances may be centred first, and then only those of one
    side have to be asked: (1/n + 1/m)^2 z'Kz.
    """
    answers = torch.cat([stable, canary]).double()
    answers = answers - answers.mean(0)
    k = -_squared(answers, answers).sqrt_()
    k.fill_diagonal_(0)
    rows = k.mean(1)
    k += rows.mean()
    k -= rows[:, None]
    k -= rows[None, :]
    return (1 / len(stable) + 1 / len(canary)) ** 2 * quadratic(k, chosen)


def pair_statistics(
    stable: Tensor, canary: Tensor, signs: Tensor, *, widths: Sequence[float] = WIDTHS
) -> Tensor:
    """Squared MMD (W, B + 1) of pairs (n, d), turned round where `signs` (n, B + 1) are -1; biased."""
    n, same = len(stable), (stable == canary).all(1)
    x, y = stable.double(), canary.double()
    middle = (x.mean(0) + y.mean(0)) / 2
    x, y = x - middle, y - middle
    within, beyond = (_squared(x, x), _squared(y, y)), _squared(x, y)
    some = torch.cat([x[: SAMPLE // 2], y[: SAMPLE // 2]])
    unit = _median(_squared(some, some))
    found = []
    for width in widths:
        scale = -0.5 / (width * width * unit)
        a = torch.exp(within[0] * scale).add_(torch.exp(within[1] * scale))
        cross = torch.exp(beyond * scale)
        a = a.sub_(cross).sub_(cross.T)
        a.masked_fill_(same[:, None] | same, 0.0)  # and not what rounding leaves of it
        found.append(quadratic(a, signs) / n**2)
    return torch.stack(found)


def sample_statistics(
    stable: Tensor, canary: Tensor, chosen: Tensor, *, widths: Sequence[float] = WIDTHS
) -> Tensor:
    """Squared MMD (W, B + 1) of samples; column b takes as stable's those where `chosen` (N, B + 1) is 1.

    Unbiased. With r = K1 the kernel's row sums, S their sum, q = z'Kz:
    q / (n (n - 1)) + (S - 2 r'z + q) / (m (m - 1)) - 2 (r'z - q) / (n m), K without its diagonal.
    """
    n, m = len(stable), len(canary)
    total = n + m
    answers = torch.cat([stable, canary]).double()
    answers = (answers - answers.mean(0)).float()
    drawn_once = torch.randperm(total, generator=torch.Generator().manual_seed(total))[:SAMPLE]
    some = answers[drawn_once.to(answers.device)]  # the same on any device
    unit = _median(_squared(some, some))
    alpha = 1 / (n * (n - 1)) + 1 / (m * (m - 1)) + 2 / (n * m)
    beta = 2 / (m * (m - 1)) + 2 / (n * m)
    found = []
    for width in widths:
        scale = 0.5 / (width * width * float(unit))
        product, off, rows = (_on_gpu if answers.is_cuda else _on_cpu)(answers, scale, chosen, some)
        # what was taken off, and the row sums' own part, is alike for all z but for a little where n != m
        each = 2 * n * alpha * off.double() - beta * rows
        level = each.mean()
        rest = (each - level).float() @ chosen
        found.append(alpha * product + rest + n * level + rows.sum() / (m * (m - 1)))
    return torch.stack(found)


def _on_cpu(x: Tensor, scale: float, z: Tensor, _some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Products z'Kz (B,) of the centred kernel, what was taken off a (N,), and the row sums K1 (N,)."""
    k = _squared(x, x).mul_(-scale).exp_().fill_diagonal_(0)
    rows = k.sum(1, dtype=torch.float64)
    off = (rows / len(x) - rows.sum() / (2 * len(x) ** 2)).float()
    k -= off[:, None]
    k -= off[None, :]
    return quadratic(k, z), off, rows


def _on_gpu(x: Tensor, scale: float, z: Tensor, some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same, centred by what a sample says; the row sums come with the product, of a column of ones."""
    from gpu_shadow import gaussian  # needs triton, which there is for GPUs only

    means = _squared(x, some).mul_(-scale).exp_().mean(1)
    off = means - means.mean() / 2
    high, low = gaussian.halves(x, off, scale)
    product, ones = _multiplied(high, low, z)
    rows = ones.double() + len(x) * off.double() + off.sum(dtype=torch.float64)
    return product, off, rows


def quadratic(matrix: Tensor, columns: Tensor) -> Tensor:
    """The products z'Mz (B,) in float64: M (n, n) symmetric, columns z (n, B) of small whole numbers."""
    if matrix.is_cuda:
        return _halved(matrix, columns)
    matrix, columns = matrix.float(), columns.float()
    total = torch.zeros(columns.shape[1], dtype=torch.float64)
    for start in range(0, len(matrix), TILE):
        stop = start + TILE
        here = columns[start:stop]
        moved = matrix[start:stop, start:stop] @ here
        if stop < len(matrix):
            moved.addmm_(matrix[start:stop, stop:], columns[stop:], alpha=2)
        total += (here * moved).sum(0)
    return total


def _halved(matrix: Tensor, columns: Tensor) -> Tensor:
    """On tensor cores: the matrix as the sum of two of bfloat16, to 2^-17."""
    high = matrix.bfloat16()
    return _multiplied(high, (matrix - high).bfloat16(), columns)[0]


def _multiplied(high: Tensor, low: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Products z'Mz (B,) and row sums M1 (n,) for M = high + low; bfloat16 holds the columns exactly."""
    b = columns.shape[1]
    z = torch.nn.functional.pad(columns.bfloat16(), (0, ALIGNED - b % ALIGNED))
    z[:, b] = 1
    moved = torch.mm(high, z, out_dtype=torch.float32).add_(torch.mm(low, z, out_dtype=torch.float32))
    ones = moved[:, b].clone()
    return moved.mul_(z).sum(0, dtype=torch.float64)[:b], ones


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (n, m)."""
    sizes = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.addmm(sizes, x, y.T, alpha=-2).clamp_(min=0)


def _median(squared: Tensor) -> Tensor:
    """The median of squared distances between answers chosen without regard to whose they are; 1 if 0."""
    middle = squared.median()
    return torch.where(middle > 0, middle, 1.0)


def _largest(statistics: Tensor) -> Tested:
    """By the largest statistic over widths, each in its own standard deviations over all columns."""
    spread = statistics.std(1, keepdim=True)
    standard = (statistics - statistics.mean(1, keepdim=True)) / spread.clamp(min=1e-300)
    largest = standard.amax(0)
    as_large = int((largest[1:] >= largest[0] - SAME).sum())
    b = len(largest) - 1
    return Tested(p=(1 + as_large) / (1 + b), statistic=float(largest[0]), permutations=b)


@lru_cache(maxsize=4)
def turned(n: int, swaps: int, seed: int, device: torch.device) -> Tensor:
    """Signs (n, B + 1), the first column all 1: as observed."""
    chance = torch.Generator(device).manual_seed(seed)
    signs = 2.0 * torch.randint(0, 2, (n, swaps + 1), generator=chance, device=device) - 1
    signs[:, 0] = 1
    return signs


@lru_cache(maxsize=4)
def drawn(n: int, m: int, permutations: int, seed: int, device: torch.device) -> Tensor:
    """Columns (N, B + 1) with n ones each, the first column those of stable."""
    chance, total = torch.Generator(device).manual_seed(seed), n + m
    if device.type == "cpu":
        order = torch.stack([torch.randperm(total, generator=chance) for _ in range(permutations + 1)])
    else:
        order = torch.rand((permutations + 1, total), generator=chance, device=device).argsort(1)
    order[0] = torch.arange(total, device=device)
    return (order < n).float().T.contiguous()


def _check_samples(stable: Tensor, canary: Tensor) -> None:
    _check(stable, canary, least=3)
    if stable.shape[1] != canary.shape[1]:
        raise ValueError(
            f"answers have {stable.shape[1]} and {canary.shape[1]} values: these are other spaces"
        )


def _check(stable: Tensor, canary: Tensor, *, least: int) -> None:
    for name, each in (("stable's", stable), ("the canary's", canary)):
        if each.dim() != 2 or len(each) < least or not each.shape[1]:
            raise ValueError(f"{name} answers have the shape {tuple(each.shape)}; give (n, d), n >= {least}")
        if not bool(torch.isfinite(each).all()):
            raise ValueError(f"{name} answers are not finite: leave such requests out")
