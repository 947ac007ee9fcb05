"""What the GPU paths take, beside ceilings of the same card in the same run; first, that they are right."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from math import log

import torch
from torch import Tensor

from gpu_shadow import fused, kernel, swaps
from gpu_shadow.bench import Row

CLASSES = 1000
WAYS = ((1, 255), (1, 168), (1, 128), (1, 112), (2, 128))  # warps and registers that are tried
PAIRS = 200_000  # of rows of that many classes: 1.6 GB, far beyond any cache


def rows(seed: int) -> Iterator[Row]:
    """Everything that is measured; correctness on fresh random answers before any time."""
    gpu, chance = torch.device("cuda"), torch.Generator("cuda").manual_seed(seed)
    yield from _right(gpu, chance)
    yield from _fused(chance)
    yield from _products(gpu, chance)
    yield from _tests(gpu, chance)


def milliseconds(work: Callable[[], object], *, times: int = 20) -> float:
    """The median over so many runs, after two to warm up."""
    taken = []
    for _ in range(times + 2):
        start, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        taken.append(float(start.elapsed_time(end)))
    return sorted(taken[2:])[times // 2]


# -- correctness -----------------------------------------------------------------------------------


def _right(gpu: torch.device, chance: torch.Generator) -> Iterator[Row]:
    for classes, dtype in (
        (2, torch.float32),
        (10, torch.float16),
        (1000, torch.float32),
        (1000, torch.bfloat16),
        (kernel.LONGEST, torch.float32),
        (50_000, torch.bfloat16),
    ):
        for apart in (0.01, 1.0):
            s = 3 * torch.randn(200, classes, generator=chance, device=gpu)
            c = s + apart * torch.randn(200, classes, generator=chance, device=gpu)
            s[:, 2 + classes // 2 :: 3] = c[:, 2 + classes // 2 :: 3] = -torch.inf
            s, c = s.to(dtype), c.to(dtype)
            error, where = furthest(fused.paired(s, c), fused.paired(s.cpu(), c.cpu()), classes)
            name = f"fused, {classes} classes, {str(dtype)[6:]}, {apart} apart: error in {where}"
            yield Row(name, error, at_most=1.0, unit="of what is allowed")
    x = torch.randn(700, 64, generator=chance, device=gpu)
    for m in (700, 300):
        y = torch.randn(m, 64, generator=chance, device=gpu)
        chosen = swaps.drawn(700, m, 200, 1, gpu)
        sound = swaps.sample_statistics(x.cpu(), y.cpu(), chosen.cpu())
        far = _null_sd(swaps.sample_statistics(x, y, chosen), sound)
        yield Row(f"two samples of 700 and {m}: error", far, at_most=1e-3, unit="null sd")
    y = x + 0.01 + 0.1 * torch.randn(700, 64, generator=chance, device=gpu)
    signs = swaps.turned(700, 200, 1, gpu)
    far = _null_sd(swaps.pair_statistics(x, y, signs), swaps.pair_statistics(x.cpu(), y.cpu(), signs.cpu()))
    yield Row("pairs, 700: error", far, at_most=1e-3, unit="null sd")


def furthest(got: fused.Paired, sound: fused.Paired, classes: int) -> tuple[float, str]:
    """The largest error of any figure, as a share of what float32 excuses, and of which."""
    errors = {}
    for name in fused.FIGURES:
        a, b = getattr(got, name).double().cpu(), getattr(sound, name).double()
        # of float32: an entropy is itself up to the logarithm of the classes, and one rounding of that 1.2e-7
        least = {"kl": 1e-8, "js": 1e-8, "entropy": 1e-6 * (1 + log(classes))}.get(name, 2e-6)
        excused = 2e-5 * b.abs() + least
        errors[name] = float(torch.where(a == b, 0.0, (a - b).abs() / excused).max())
    return max((error, name) for name, error in errors.items())


def _null_sd(got: Tensor, sound: Tensor) -> float:
    return float(((got.cpu() - sound).abs() / sound[:, 1:].std(1, keepdim=True)).max())


# -- fused figures ---------------------------------------------------------------------------------


def _fused(chance: torch.Generator) -> Iterator[Row]:
    s = 3 * torch.randn(PAIRS, CLASSES, generator=chance, device="cuda")
    c = torch.empty_like(s)
    ceiling = 2 * s.nbytes / milliseconds(partial(c.copy_, s)) / 1e6
    yield Row("copy bandwidth", ceiling, unit="GB/s")
    for apart in (0.05, 1.0):
        c.normal_(generator=chance).mul_(apart).add_(s)
        best, name = torch.inf, f"fused, {CLASSES} classes, float32, {apart} apart"
        for warps, registers in WAYS:
            way = partial(kernel.paired, s, c, top=5, warps=warps, registers=registers)
            taken = milliseconds(way)
            best = min(best, taken)
            of = f"{name}, {warps} warps, {registers} registers"
            yield Row(of, PAIRS / taken / 1e3, unit="M pairs/s")
        share = 100 * 2 * s.nbytes / best / 1e6 / ceiling
        yield Row(f"{name}: bandwidth", share, at_least=55, unit="% of copying")
        some = PAIRS // 4
        eager = 4 * milliseconds(partial(usual, s[:some], c[:some]), times=5)
        yield Row(f"{name}: against eager torch", eager / best, at_least=10, unit="x")
    for classes, dtype, n, ways in (
        (10, torch.float32, 2_000_000, (1, 2)),
        (1000, torch.bfloat16, PAIRS, (1, 2)),
        (8192, torch.float32, 20_000, (8, 16)),
        (128_000, torch.bfloat16, 2_000, (8, 16)),
    ):
        s = (3 * torch.randn(n, classes, generator=chance, device="cuda")).to(dtype)
        c = (s + 0.05 * torch.randn(n, classes, generator=chance, device="cuda")).to(dtype)
        for warps in ways:
            taken = milliseconds(partial(kernel.paired, s, c, top=5, warps=warps), times=5)
            name = f"fused, {classes} classes, {str(dtype)[6:]}, {warps} warps"
            share = 100 * 2 * s.nbytes / taken / 1e6 / ceiling
            yield Row(f"{name}: {n / taken / 1e3:.1f} M pairs/s", share, unit="% of copy bandwidth")


def usual(stable: Tensor, canary: Tensor) -> tuple[Tensor, ...]:
    """The same figures as people write them in eager torch, float32."""
    log_p, log_q = stable.log_softmax(-1), canary.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    log_m = ((p + q) / 2).log()
    delta = (canary - stable).abs()
    best, rivals = stable.topk(5).indices, canary.topk(5).indices
    two = stable.topk(2).values
    return (
        stable.argmax(-1),
        canary.argmax(-1),
        two[:, 0] - two[:, 1],
        (best[:, :, None] == rivals[:, None, :]).float().sum((-2, -1)),
        (p * (log_p - log_q)).sum(-1),
        (p * (log_p - log_m) + q * (log_q - log_m)).sum(-1) / 2,
        (p - q).abs().sum(-1) / 2,
        delta.amax(-1),
        delta.mean(-1),
        q.amax(-1) - p.amax(-1),
        (p * log_p).sum(-1) - (q * log_q).sum(-1),
    )


# -- permutation tests -----------------------------------------------------------------------------


def _products(gpu: torch.device, chance: torch.Generator) -> Iterator[Row]:
    """Ways to compute z'Kz, each with its error: what `quadratic` uses should be the best of them."""
    a = torch.randn(8192, 8192, generator=chance, device=gpu)
    half = a.bfloat16()
    flops = 2 * 8192**3 / 1e9
    yield Row("GEMM peak, float32", flops / milliseconds(partial(torch.mm, a, a), times=5), unit="TFLOP/s")
    taken = milliseconds(partial(torch.mm, half, half, out_dtype=torch.float32), times=5)
    yield Row("GEMM peak, bfloat16 to float32", flops / taken, unit="TFLOP/s")
    for total, b in ((4000, 501), (20_000, 1001)):
        x = torch.randn(total, 64, generator=chance, device=gpu)
        k = torch.exp(-torch.cdist(x, x).square() / 128).fill_diagonal_(0)
        off = k.mean(1) - k.mean() / 2
        k -= off[:, None]
        k -= off[None, :]
        z = swaps.drawn(total // 2, total // 2, b - 1, 0, gpu)
        sound = (z[:, :200].double() * (k.double() @ z[:, :200].double())).sum(0)
        for way in (_float32, _tf32, swaps.quadratic, _side_by_side, _bf16):
            far = float((way(k, z)[:200].double() - sound).abs().max() / sound.std())
            taken = milliseconds(partial(way, k, z), times=10)
            rate = 2 * total**2 * b / taken / 1e9
            name = f"z'Kz, N = {total}, {way.__name__}: {taken:.3f} ms, {rate:.0f} TFLOP/s"
            yield Row(name, far, unit="null sd off")


def _float32(k: Tensor, z: Tensor) -> Tensor:
    return (z * (k @ z)).sum(0, dtype=torch.float64)


def _bf16(k: Tensor, z: Tensor) -> Tensor:
    return (z * torch.mm(k.bfloat16(), z.bfloat16(), out_dtype=torch.float32)).sum(0, dtype=torch.float64)


def _tf32(k: Tensor, z: Tensor) -> Tensor:
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return (z * (k @ z)).sum(0, dtype=torch.float64)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def _side_by_side(k: Tensor, z: Tensor) -> Tensor:
    high = k.bfloat16()
    both = torch.cat([high, (k - high).bfloat16()], dim=1)
    half = z.bfloat16()
    return (z * torch.mm(both, torch.cat([half, half]), out_dtype=torch.float32)).sum(0, dtype=torch.float64)


def _tests(gpu: torch.device, chance: torch.Generator) -> Iterator[Row]:
    x, y = (torch.randn(2000, 64, generator=chance, device=gpu) for _ in range(2))
    for widths in ((1.0,), swaps.WIDTHS):
        of = f"n = 2000, d = 64, B = 500, {len(widths)} widths"
        taken = milliseconds(partial(swaps.pair_swap, x, y, swaps=500, widths=widths))
        yield Row(f"pair-swap, {of}", taken, at_most=0.5, unit="ms")
        taken = milliseconds(partial(swaps.two_sample, x, y, permutations=500, widths=widths))
        yield Row(f"two samples, {of}", taken, at_most=1.0, unit="ms")
    both = torch.cat([x, y])
    k = torch.exp(-torch.cdist(both, both).square() / 128)
    looped = 500 * milliseconds(partial(_looped, k))
    yield Row("a loop over 500 permutations, one width, against that", looped / taken, unit="x")
    x, y = (torch.randn(10_000, 64, generator=chance, device=gpu) for _ in range(2))
    for widths in ((1.0,), swaps.WIDTHS):
        taken = milliseconds(partial(swaps.two_sample, x, y, permutations=1000, widths=widths), times=5)
        name = f"two samples, n = 10 000, d = 64, B = 1000, {len(widths)} widths"
        yield Row(name, taken, at_most=5.0, unit="ms")
    begun = time.perf_counter()
    swaps.drawn(10_000, 10_000, 1000, 77, gpu)
    torch.cuda.synchronize()
    yield Row("making 1000 permutations of 20 000, once", 1e3 * (time.perf_counter() - begun), unit="ms")


def _looped(k: Tensor) -> Tensor:
    """One permutation, as people write them: the kernel matrix is gathered anew for each."""
    n = len(k) // 2
    order = torch.randperm(2 * n, device=k.device)
    moved = k[order][:, order]
    return moved[:n, :n].mean() + moved[n:, n:].mean() - 2 * moved[:n, n:].mean()
