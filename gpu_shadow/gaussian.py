"""Gaussian kernel matrices for tensor cores, in Triton: made tile by tile, as two bfloat16 halves.

What is written is all that is ever kept of the N x N matrix: neither distances nor float32 values. Each
entry is centred before it is split, k(x_i, x_j) - a_i - a_j, with 0 for k on the diagonal.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

SIDE = 128  # of a tile
LOG2E = tl.constexpr(1.4426950408889634)


def halves(x: Tensor, off: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The halves (N, N) of exp(-|x_i - x_j|^2 scale) - off_i - off_j, for vectors (N, d) and `off` (N,)."""
    n, d = x.shape
    wide = max(16, triton.next_power_of_2(d) if d < 64 else 64)
    x = torch.nn.functional.pad(x.float(), (0, -d % wide)).contiguous()
    high = torch.empty((n, n), dtype=torch.bfloat16, device=x.device)
    low = torch.empty_like(high)
    tiles = triton.cdiv(n, SIDE)
    _tile[(tiles, tiles)](
        x, x.square().sum(1), off, high, low, scale, n, d=x.shape[1], wide=wide, side=SIDE, num_warps=8
    )
    return high, low


@triton.jit
def _tile(x, size, off, high, low, scale, n, d: tl.constexpr, wide: tl.constexpr, side: tl.constexpr):
    rows = tl.program_id(0) * side + tl.arange(0, side)
    columns = tl.program_id(1) * side + tl.arange(0, side)
    inner = tl.zeros((side, side), tl.float32)
    for start in tl.static_range(0, d, wide):
        at = start + tl.arange(0, wide)
        a = tl.load(x + rows[:, None] * d + at[None, :], mask=(rows < n)[:, None], other=0.0)
        b = tl.load(x + columns[:, None] * d + at[None, :], mask=(columns < n)[:, None], other=0.0)
        inner = tl.dot(a, tl.trans(b), inner, input_precision="tf32x3")
    size_a = tl.load(size + rows, mask=rows < n, other=0.0)
    size_b = tl.load(size + columns, mask=columns < n, other=0.0)
    squared = tl.maximum(size_a[:, None] + size_b[None, :] - 2 * inner, 0.0)
    k = tl.where(rows[:, None] == columns[None, :], 0.0, tl.exp2(squared * (-scale * LOG2E)))
    off_a = tl.load(off + rows, mask=rows < n, other=0.0)
    off_b = tl.load(off + columns, mask=columns < n, other=0.0)
    k -= off_a[:, None] + off_b[None, :]
    upper = k.to(tl.bfloat16)
    place = rows[:, None].to(tl.int64) * n + columns[None, :]
    within = (rows < n)[:, None] & (columns < n)[None, :]
    tl.store(high + place, upper, mask=within)
    tl.store(low + place, (k - upper.to(tl.float32)).to(tl.bfloat16), mask=within)
