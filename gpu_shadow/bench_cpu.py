"""What is promised of the comparison, measured on a CPU, one thread."""

from collections.abc import Iterator
from math import log, sqrt

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from analysis.judge import Verdict
from gpu_shadow import swaps, unpaired
from gpu_shadow.bench import Row, seconds
from gpu_shadow.compare import Margins, compare, decide
from gpu_shadow.excess import log_e
from gpu_shadow.finding import OF_ALL
from gpu_shadow.tally import Answers

CPU = torch.device("cpu")
RUNS = 1000


def rows(seed: int) -> Iterator[Row]:
    """Everything that is measured."""
    torch.set_num_threads(1)
    yield from _permutations(seed)
    yield from _power(seed)
    yield from _unpaired(seed)
    yield from _flips(seed)
    yield from _null(seed)
    yield from _same_artifact(seed)


def _permutations(seed: int) -> Iterator[Row]:
    """Of 2000 answers a side, d = 64, 500 permutations; the loop is measured on ten of them."""
    n, permutations = 2000, 500
    answers = torch.randn(2 * n, 64, generator=torch.Generator().manual_seed(seed))
    k = torch.exp(-torch.cdist(answers, answers).square() / 128).fill_diagonal_(0)
    z = swaps.drawn(n, n, permutations, seed, CPU)
    drawing = seconds(lambda: swaps.drawn.__wrapped__(n, n, permutations, seed, CPU))
    product = seconds(lambda: swaps.quadratic(k, z))
    looped = seconds(lambda: _looped(k, 10), times=3) * permutations / 10
    of = f"n = {n}, {permutations} permutations"
    yield Row(f"{of}, against a loop", looped / (drawing + product), at_least=150, unit="x")
    done = sum(2 * min(swaps.TILE, 2 * n - at) * (2 * n - at) for at in range(0, 2 * n, swaps.TILE))
    peak = max(
        2 * (2 * n) ** 2 * z.shape[1] / seconds(lambda: k @ z),
        2 * n**3 / seconds(lambda: k[:n, :n] @ k[:n, n:]),
    )
    share = 100 * done * z.shape[1] / product / peak
    yield Row(f"{of}, {peak / 1e9:.0f} GFLOP/s", share, at_least=70, unit="% of the GEMM peak")


def _looped(k: Tensor, permutations: int) -> list[float]:
    """As people write it: the kernel matrix is gathered anew for each permutation."""
    n, found = len(k) // 2, []
    for _ in range(permutations):
        order = torch.randperm(2 * n)
        moved = k[order][:, order]
        x, y, xy = moved[:n, :n], moved[n:, n:], moved[:n, n:]
        found.append(float((x.sum() + y.sum()) / (n * (n - 1)) - 2 * xy.mean()))
    return found


def _power(seed: int) -> Iterator[Row]:
    """Pair-swap, 500 pairs in 16 dimensions: .01 sd moved, .1 sd of noise between the models."""
    chance, runs, nothing = torch.Generator().manual_seed(seed), 200, 1000
    found = {0.01: 0, 0.0: 0}
    for moved, times in ((0.01, runs), (0.0, nothing)):
        for run in range(times):
            request = torch.randn(500, 16, generator=chance)
            noise = 0.1 / 2**0.5 * torch.randn(2, 500, 16, generator=chance)
            x, y = request + noise[0], request + noise[1] + moved
            found[moved] += swaps.pair_swap(x, y, swaps=199, seed=run).p <= 0.05
    yield Row(f"pair-swap, .01 sd moved{_within(found[0.01], runs)}", found[0.01] / runs, at_least=0.95)
    # its rate is exactly 5 %: beyond two standard errors is one bench in 40, and nothing wrong
    said, most = (
        f"pair-swap at 5 %, nothing moved{_within(found[0.0], nothing)}",
        0.05 + 3 * _error(0.05, nothing),
    )
    yield Row(said, found[0.0] / nothing, at_most=most)


def _unpaired(seed: int) -> Iterator[Row]:
    """Answers to different requests, 500 a side in 64 dimensions, each test by itself at 5 %."""
    chance, runs = torch.Generator().manual_seed(seed), 200
    one = torch.zeros(64)
    one[0] = 0.35
    changes: dict[str, tuple[float | Tensor, float, dict[str, float]]] = {
        ".08 sd everywhere": (0.08, 1.0, {"kernels": 0.99}),
        "x1.06 as wide": (0.0, 1.06, {"kernels": 0.95}),
        ".35 sd in one of 64": (one, 1.0, {}),
        "nothing": (0.0, 1.0, {}),
    }
    for name, (moved, scale, wanted) in changes.items():
        found = dict.fromkeys(("kernels", "energy", "dimensions", "all three"), 0)
        for _ in range(runs):
            x, y = torch.randn(2, 500, 64, generator=chance)
            battery = unpaired.battery(x, scale * y + moved, permutations=199, seed=seed)
            found["all three"] += battery.p <= 0.05
            for test in battery.tests:
                found[test.name] += test.p <= 0.05
        for which, hits in found.items():
            said = f"unpaired {which}, {name}{_within(hits, runs)}"
            if name == "nothing" and which == "all three":
                yield _at_most(said, hits / runs, 0.05, runs)
            else:
                yield Row(said, hits / runs, at_least=wanted.get(which))
    yield _of_one_dimension(chance, one, 2_000)


def _of_one_dimension(chance: torch.Generator, moved: Tensor, runs: int) -> Row:
    """Its power is 91 %: of 200 runs alone one in five would say that it is below 90 %."""
    hits = 0
    for _ in range(runs):
        x, y = torch.randn(2, 500, 64, generator=chance)
        hits += bool(unpaired.holm(unpaired.smirnov(x, y + moved)[1]).min() <= 0.05)
    said = f"unpaired dimensions alone, .35 sd in one of 64{_within(hits, runs)}"
    return Row(said, hits / runs, at_least=0.9)


def _flips(seed: int) -> Iterator[Row]:
    """5000 requests of which .5 % flip pass a margin of 1 %."""
    chance, margins = np.random.default_rng(seed), Margins(max_flips=0.01)
    at_end, looked = 0, 0
    for _ in range(RUNS):
        flips = np.cumsum(chance.binomial(250, 0.005, 20))
        passed = [
            log_e(Answers(same=250 * (look + 1) - k, canary=k), 0.01, passing=True) >= -log(margins.beta)
            for look, k in enumerate(flips.tolist())
        ]
        at_end += passed[-1]
        looked += any(passed)
    yield Row(f"Pass, .5 % flip of 1 %, one look at 5000{_within(at_end, RUNS)}", at_end / RUNS, at_least=0.9)
    yield Row(f"the same, a look every 250{_within(looked, RUNS)}", looked / RUNS, at_least=0.9)


def _null(seed: int) -> Iterator[Row]:
    """On the margin itself, the worst there is: 50 looks at 100 requests each, stable flips in 1 % itself."""
    chance, margins = np.random.default_rng(seed), Margins()
    sides = {
        "Fail": (False, margins.alpha, margins.alpha * OF_ALL),
        "Pass": (True, margins.beta, margins.beta),
    }
    for name, (passing, promised, error) in sides.items():
        wrong = 0
        for _ in range(RUNS):
            looks = np.cumsum(
                chance.multinomial(100, (0.98 - margins.max_flips, 0.01 + margins.max_flips, 0.01), 50), 0
            )
            wrong += any(
                log_e(Answers(same=same, canary=canary, again=again), margins.max_flips, passing=passing)
                >= -log(error)
                for same, canary, again in looks.tolist()
            )
        yield _at_most(
            f"false {name} in 50 looks, on the margin{_within(wrong, RUNS)}", wrong / RUNS, promised, RUNS
        )


def _same_artifact(seed: int) -> Iterator[Row]:
    """One model on both sides, batches of other sizes and orders: never a Fail."""
    failed = 0
    for run in range(RUNS):
        torch.manual_seed(seed + run)
        dtype = (torch.float32, torch.bfloat16)[run % 2]
        model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)).to(dtype)
        asked = torch.randn(600, 32).to(dtype)
        stable, again, canary = (_answered(model, asked, size) for size in (256, 37, 16))
        found = compare(stable, again, canary, [str(one) for one in range(len(asked))])
        failed += decide(found, Margins()).verdict is Verdict.FAIL
    yield Row(f"false Fail, one model on both sides{_within(failed, RUNS)}", failed / RUNS, at_most=0.0)


@torch.no_grad()
def _answered(model: nn.Module, asked: Tensor, size: int) -> Tensor:
    order = torch.randperm(len(asked))
    answers = torch.cat([model(some) for some in torch.split(asked[order], size)])
    return answers[order.argsort()]


def _at_most(name: str, rate: float, promised: float, runs: int) -> Row:
    """At most what is promised, and two standard errors of the simulation."""
    return Row(name, rate, at_most=promised + 2 * _error(promised, runs))


def _error(rate: float, runs: int) -> float:
    """The standard error of a rate that was simulated."""
    return sqrt(rate * (1 - rate) / runs)


def _within(k: int, runs: int) -> str:
    """The exact 95 % interval, in words."""
    found = binomtest(k, runs).proportion_ci()
    return f" ({runs} runs: {found.low:.4f} to {found.high:.4f})"
