"""The figures of `fused.Paired` in Triton: each pair of rows is read once and stays in registers.

Eager torch launches some fifty kernels for them and moves thirty times the scores. Rows of more than
`LONGEST` classes do not fit; they are read once for the softmax and once, from the L2 cache, for the figures.

The figures are sums of terms that are never negative where that is possible, each by its series where p
and q are close (d = log q - log p is small): so that float32 tells models apart that are nearly the same.
"""

from math import gcd

import torch
import triton
import triton.language as tl
from torch import Tensor

LONGEST = 16384  # classes of a row pair that registers hold, with 16 warps
NAMES = ("margin", "missed", "kl", "js", "tv", "max_delta", "mean_delta", "confidence", "entropy")
GROUPS = 128  # of a row's classes: its highest are in different ones, mostly, and then they are their maxima
LOWEST = tl.constexpr(-3.4028234663852886e38)  # in place of -inf, so that no difference is NaN
LOG2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
NEAR = tl.constexpr(0.5)  # of |d|: there the series below are exact to 1e-6
NONE = tl.constexpr(2147483647)


def paired(
    stable: Tensor, canary: Tensor, *, top: int, warps: int | None = None, registers: int | None = None
) -> dict[str, Tensor]:
    """The fields of `fused.Paired`, each (n,), for scores (n, classes) in GPU memory.

    `warps` and `registers` are for measuring what is best. The defaults were, on an H100: several warps wait
    each other, and 128 registers let twice as many rows be on their way as 255. (Where models are far
    apart that is a third slower: 85 against 126 million rows of 1000 classes a second.)
    """
    stable, canary = (each if each.stride(-1) == 1 else each.contiguous() for each in (stable, canary))
    n, classes = stable.shape
    figures = torch.empty((len(NAMES), n), dtype=torch.float32, device=stable.device)
    chosen = torch.empty((2, n), dtype=torch.int64, device=stable.device)
    block = triton.next_power_of_2(classes)
    run, block, best = (_short, block, max(block // 1024, 1)) if block <= LONGEST else (_long, 4096, 8)
    run[(n,)](
        stable,
        canary,
        figures,
        chosen,
        stable.stride(0),
        canary.stride(0),
        n,
        classes,
        top=top,
        block=block,
        groups=min(block, GROUPS),
        aligned=gcd(stable.stride(0), canary.stride(0), 16),
        num_warps=warps or best,
        maxnreg=registers or (128 if best == 1 else None),
    )
    of_figures = dict(zip(NAMES, figures, strict=True))
    return {"first": chosen[0], "other": chosen[1], **of_figures}


@triton.jit
def _short(
    stable,
    canary,
    figures,
    chosen,
    stride_s,
    stride_c,
    n,
    classes: tl.constexpr,
    top: tl.constexpr,
    block: tl.constexpr,
    groups: tl.constexpr,
    aligned: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, groups)[:, None] + groups * tl.arange(0, block // groups)[None, :]
    valid = index < classes
    stable += tl.multiple_of(row * stride_s, aligned)
    canary += tl.multiple_of(row * stride_c, aligned)
    s = tl.maximum(tl.load(stable + index, mask=valid, other=LOWEST).to(tl.float32), LOWEST)
    c = tl.maximum(tl.load(canary + index, mask=valid, other=LOWEST).to(tl.float32), LOWEST)
    most_s, most_c = _ordered(tl.max(s, 1)), _ordered(tl.max(c, 1))
    s1, c1 = _highest(most_s), _highest(most_c)
    first = tl.min(tl.where(s == s1, index, NONE))
    other = tl.min(tl.where(c == c1, index, NONE))
    both, s2 = _shared(s, c, most_s, most_c, s1, c1, first, index, valid, top)
    z_s = tl.sum(tl.exp2(s * LOG2E - s1 * LOG2E))
    z_c = tl.sum(tl.exp2(c * LOG2E - c1 * LOG2E))
    log_z, shift = s1 + tl.log(z_s), c1 - s1 + tl.log(z_c / z_s)
    most, total = tl.max(tl.abs(c - s)), tl.sum(tl.abs(c - s))
    if most + tl.abs(shift) < NEAR:
        kl, js, tv, moved = _near(s * LOG2E - log_z * LOG2E, c - (log_z + shift), c - s - shift)
    else:
        kl, js, tv, moved = _terms(s - log_z, c - (log_z + shift), c - s - shift)
    kl, js, tv, moved = tl.sum(kl), tl.sum(js), tl.sum(tv) * 0.5, tl.sum(moved)
    _keep(
        figures,
        chosen,
        row,
        n,
        first,
        other,
        s1 - s2,
        1 - both / top,
        kl,
        js,
        tv,
        most,
        total / classes,
        (z_s - z_c) / (z_s * z_c),
        kl - moved,
    )


@triton.jit
def _ordered(x):
    """Integers in the order of floats, which take one instruction to compare over a warp; and back again."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _highest(most):
    """The highest score of those that are `_ordered`."""
    bits = tl.max(most)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _lowest(most, highest, top: tl.constexpr):
    """The last of the `top` highest, and the second, if these are in different groups (`_ordered` maxima)."""
    last, second = highest, highest
    for turn in tl.static_range(top - 1):
        last = _highest(tl.where(most < _ordered(last), most, -2147483648))
        if turn == 0:
            second = last
    return last, second


@triton.jit
def _shared(s, c, most_s, most_c, s1, c1, first, index, valid, top: tl.constexpr):
    """How many of the `top` highest classes both rows have, and stable's second highest score."""
    last_s, s2 = _lowest(most_s, s1, top)
    last_c, _ = _lowest(most_c, c1, top)
    a, b = s >= last_s, c >= last_c
    both = tl.sum((a & b).to(tl.int32))
    if tl.sum(a.to(tl.int32) + 65536 * b.to(tl.int32)) != 65537 * top:  # two in one group, or equal scores
        last_s, at_s = _cut(tl.where(valid, s, -float("inf")), index, top)
        last_c, at_c = _cut(tl.where(valid, c, -float("inf")), index, top)
        a = (s > last_s) | ((s == last_s) & (index <= at_s))
        b = (c > last_c) | ((c == last_c) & (index <= at_c))
        both = tl.sum((a & b).to(tl.int32))
        s2 = tl.max(tl.where(index == first, LOWEST, s))
    if top == 1:
        s2 = tl.max(tl.where(index == first, LOWEST, s))
    return both, s2


@triton.jit
def _cut(x, index, top: tl.constexpr):
    """The last of the `top` highest: its score, and its class among equal ones."""
    last = tl.max(x)
    n = tl.sum((x >= last).to(tl.int32))
    while n < top:
        last = tl.max(tl.where(x < last, x, -float("inf")))
        n = tl.sum((x >= last).to(tl.int32))
    left = top - tl.sum((x > last).to(tl.int32))
    at = tl.full((), -1, tl.int32)
    while left > 0:
        at = tl.min(tl.where((x == last) & (index > at), index, NONE))
        left -= 1
    return last, at


@triton.jit
def _long(
    stable,
    canary,
    figures,
    chosen,
    stride_s,
    stride_c,
    n,
    classes: tl.constexpr,
    top: tl.constexpr,
    block: tl.constexpr,
    groups: tl.constexpr,  # noqa: ARG001 - of `_short`
    aligned: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    stable += tl.multiple_of(row * stride_s, aligned)
    canary += tl.multiple_of(row * stride_c, aligned)
    most_s, most_c = tl.full((block,), LOWEST, tl.float32), tl.full((block,), LOWEST, tl.float32)
    at_s, at_c = tl.full((block,), NONE, tl.int32), tl.full((block,), NONE, tl.int32)
    sum_s, sum_c = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
    for start in range(0, classes, block):
        s, c, index = _scores(stable, canary, start, classes, block)
        at_s, at_c = tl.where(s > most_s, index, at_s), tl.where(c > most_c, index, at_c)
        more_s, more_c = tl.maximum(most_s, s), tl.maximum(most_c, c)
        sum_s = sum_s * tl.exp(most_s - more_s) + tl.exp(s - more_s)
        sum_c = sum_c * tl.exp(most_c - more_c) + tl.exp(c - more_c)
        most_s, most_c = more_s, more_c
    s1, c1 = tl.max(most_s), tl.max(most_c)
    first = tl.min(tl.where(most_s == s1, at_s, NONE))
    other = tl.min(tl.where(most_c == c1, at_c, NONE))
    z_s, z_c = tl.sum(sum_s * tl.exp(most_s - s1)), tl.sum(sum_c * tl.exp(most_c - c1))
    log_z, shift = s1 + tl.log(z_s), c1 - s1 + tl.log(z_c / z_s)
    last_s, s2 = _lowest(_ordered(most_s), s1, top)
    last_c, _ = _lowest(_ordered(most_c), c1, top)
    kl, js, tv = (
        tl.zeros((block,), tl.float32),
        tl.zeros((block,), tl.float32),
        tl.zeros((block,), tl.float32),
    )
    most, total = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.float32)
    moved, shared = tl.zeros((block,), tl.float32), tl.zeros((block,), tl.int32)
    as_high_s, as_high_c = tl.zeros((block,), tl.int32), tl.zeros((block,), tl.int32)
    for start in range(0, classes, block):
        s, c, index = _scores(stable, canary, start, classes, block)
        delta = c - s
        kl_, js_, tv_, moved_ = _terms(s - log_z, c - (log_z + shift), delta - shift)
        kl, js, tv, moved = kl + kl_, js + js_, tv + tv_, moved + moved_
        most, total = tl.maximum(most, tl.abs(delta)), total + tl.abs(delta)
        a, b = s >= last_s, c >= last_c
        as_high_s, as_high_c = as_high_s + a.to(tl.int32), as_high_c + b.to(tl.int32)
        shared += (a & b).to(tl.int32)
    both = tl.sum(shared)
    if (tl.sum(as_high_s) != top) | (tl.sum(as_high_c) != top) | (top == 1):
        both, s2 = _shared_long(stable, canary, s1, first, classes, top, block)
    _keep(
        figures,
        chosen,
        row,
        n,
        first,
        other,
        s1 - s2,
        1 - both / top,
        tl.sum(kl),
        tl.sum(js),
        tl.sum(tv) * 0.5,
        tl.max(most),
        tl.sum(total) / classes,
        (z_s - z_c) / (z_s * z_c),
        tl.sum(kl) - tl.sum(moved),
    )


@triton.jit
def _shared_long(stable, canary, s1, first, classes: tl.constexpr, top: tl.constexpr, block: tl.constexpr):
    """The same as `_shared`, one class after the other, where scores are equal."""
    s2, _ = _next(stable, s1, first, classes, block)
    last_s, at_s = _next(stable, float("inf"), -1, classes, block)
    last_c, at_c = _next(canary, float("inf"), -1, classes, block)
    for _ in range(top - 1):
        last_s, at_s = _next(stable, last_s, at_s, classes, block)
        last_c, at_c = _next(canary, last_c, at_c, classes, block)
    shared = tl.zeros((block,), tl.int32)
    for start in range(0, classes, block):
        s, c, index = _scores(stable, canary, start, classes, block)
        a = (s > last_s) | ((s == last_s) & (index <= at_s))
        b = (c > last_c) | ((c == last_c) & (index <= at_c))
        shared += (a & b & (index < classes)).to(tl.int32)
    return tl.sum(shared), s2


@triton.jit
def _scores(stable, canary, start, classes: tl.constexpr, block: tl.constexpr):
    """One block of both rows, `LOWEST` beyond their end, and the classes it has."""
    index = start + tl.arange(0, block)
    s = tl.load(stable + index, mask=index < classes, other=LOWEST).to(tl.float32)
    c = tl.load(canary + index, mask=index < classes, other=LOWEST).to(tl.float32)
    return tl.maximum(s, LOWEST), tl.maximum(c, LOWEST), index


@triton.jit
def _next(scores, last, at, classes: tl.constexpr, block: tl.constexpr):
    """The score and class that come after these, highest first and of equal ones the first."""
    best = tl.full((block,), -float("inf"), tl.float32)
    where = tl.full((block,), NONE, tl.int32)
    for start in range(0, classes, block):
        index = start + tl.arange(0, block)
        x = tl.load(scores + index, mask=index < classes, other=-float("inf")).to(tl.float32)
        x = tl.where(index < classes, tl.maximum(x, LOWEST), -float("inf"))
        x = tl.where((x < last) | ((x == last) & (index > at)), x, -float("inf"))
        where = tl.where(x > best, index, where)  # an equal one in a later block is a later class
        best = tl.maximum(best, x)
    highest = tl.max(best, 0)
    return highest, tl.min(tl.where(best == highest, where, NONE), 0)


@triton.jit
def _near(log2_p, log_q, d):
    """Each class's part of KL, JS, twice TV and of (q - p) log q, where |d| < `NEAR`.

    KL less the last is the difference of entropy: q log q - p log p = (q - p) log q + p d, and both the sum
    of p d and that of KL's terms q - p - p d come to -KL.
    """
    p, d2 = tl.exp2(log2_p), d * d
    rest = d2 * (
        0.5 + d * (1 / 6 + d * (1 / 24 + d * (1 / 120 + d * (1 / 720 + d * (1 / 5040)))))
    )  # e^d - 1 - d
    grown = p * (d + rest)  # q - p
    series = d2 * (
        0.125 - d2 * (1 / 64 - d2 * (1 / 576 - d2 * 1.8446e-4))
    )  # y tanh y - log cosh y, y = d / 2
    return p * rest, (p + grown * 0.5) * series, tl.abs(grown), grown * log_q


@triton.jit
def _terms(log_p, log_q, d):
    """The same for any d."""
    d = tl.minimum(tl.maximum(d, LOWEST), -LOWEST)
    p, q, size = tl.exp2(log_p * LOG2E), tl.exp2(log_q * LOG2E), tl.abs(d)
    kl, js, tv, moved = _near(log_p * LOG2E, log_q, d)
    near, e = size < NEAR, tl.exp2(-size * LOG2E)
    over = e * _inverse((1 + e) * (2 + e))
    u = over * (1 + e)
    u2 = u * u
    log_1e = u * (2 + u2 * (2 / 3 + u2 * (2 / 5 + u2 * (2 / 7 + u2 * (2 / 9)))))  # log(1 + e)
    far = (p + q) * 0.5 * (LOG2 - log_1e - tl.minimum(size, 200.0) * over * (2 + e))
    apart = q - p - p * d
    kl = tl.where(near, kl, apart)
    js = tl.where(near, js, far)
    tv = tl.where(near, tv, tl.abs(q - p))
    return kl, js, tv, tl.where(near, moved, q * log_q - p * (log_p + d))


@triton.jit
def _inverse(x):
    """1 / x, in one instruction and to 1 ulp; a division takes ten."""
    rcp: tl.constexpr = "rcp.approx.ftz.f32 $0, $1;"
    return tl.inline_asm_elementwise(rcp, "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def _keep(figures, chosen, row, n, first, other, margin, missed, kl, js, tv, most, mean, confidence, entropy):
    """Writes one request's figures, in the order of `NAMES`."""
    tl.store(chosen + row, first.to(tl.int64))
    tl.store(chosen + n + row, other.to(tl.int64))
    figures += row
    tl.store(figures, margin)
    tl.store(figures + n, missed)
    tl.store(figures + 2 * n, kl)
    tl.store(figures + 3 * n, js)
    tl.store(figures + 4 * n, tv)
    tl.store(figures + 5 * n, most)
    tl.store(figures + 6 * n, mean)
    tl.store(figures + 7 * n, confidence)
    tl.store(figures + 8 * n, entropy)
