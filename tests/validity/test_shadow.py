"""What a shadow verdict promises, simulated: on the margin itself, at many looks, whatever the floor.

Error rates are held to exact binomial bounds at several levels at once, since Ville's inequality promises
all of them; powers are exact sums where that can be had. Longer runs are in `make bench-shadow`.
"""

from math import log

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest
from torch import nn

from analysis.judge import Verdict
from gpu_shadow.compare import Comparison, Margins, compare, decide
from gpu_shadow.excess import log_e
from gpu_shadow.swaps import energy, pair_swap, two_sample
from gpu_shadow.tally import Answers
from gpu_shadow.unpaired import battery, holm, smirnov

LEVELS = (0.5, 0.2, 0.05, 0.01)
RUNS, LOOKS = 300, 50
# shares of requests: only the canary differs, only stable's second answer, both
FLOORS = {
    "no floor": (0.02, 0.0, 0.0),
    "a small floor": (0.025, 0.005, 0.01),
    "a floor far above the margin": (0.22, 0.2, 0.1),
    "stable is a coin": (0.27, 0.25, 0.25),
}


def plausible(highest: np.ndarray) -> bool:
    """Whether so many runs above 1/a fit a probability of at most a, at every level (exact, 0.1 %)."""
    return all(
        binomtest(int((highest >= log(1 / a)).sum()), len(highest), a, alternative="greater").pvalue > 0.001
        for a in LEVELS
    )


def highest(shares: tuple[float, float, float], margin: float, *, passing: bool, seed: int) -> np.ndarray:
    """The highest evidence of each run over its looks, a hundred requests each."""
    chance, (canary, again, both) = np.random.default_rng(seed), shares
    found = []
    for _ in range(RUNS):
        of = (1 - canary - again - both, canary, again, both)
        looks = np.cumsum(chance.multinomial(100, of, LOOKS), axis=0).tolist()
        seen = (Answers(same=s, canary=c, again=a, both=b) for s, c, a, b in looks)
        found.append(max(log_e(one, margin, passing=passing) for one in seen))
    return np.array(found)


@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("passing", [False, True])
def test_on_the_margin_itself_every_level_holds_at_fifty_looks(floor: str, *, passing: bool) -> None:
    assert plausible(highest(FLOORS[floor], 0.02, passing=passing, seed=1 + passing))


@pytest.mark.parametrize("passing", [False, True])
def test_where_stable_answered_once_as_well(*, passing: bool) -> None:
    chance, found = np.random.default_rng(3), []
    for _ in range(RUNS):
        flips = np.cumsum(chance.binomial(100, 0.02, LOOKS)).tolist()
        seen = (Answers(once_same=100 * (at + 1) - k, once_canary=k) for at, k in enumerate(flips))
        found.append(max(log_e(one, 0.02, passing=passing) for one in seen))
    assert plausible(np.array(found))


def test_the_interval_holds_the_excess_at_every_look() -> None:
    """Its two ends miss with 1 % and 5 %: together in at most 6 % of runs, over twenty looks."""
    chance, missed, runs = np.random.default_rng(4), 0, 150
    for _ in range(runs):
        looks = np.cumsum(chance.multinomial(200, (0.93, 0.04, 0.02, 0.01), 20), axis=0).tolist()
        for same, canary, again, both in looks:
            of = Answers(same=same, canary=canary, again=again, both=both)
            overall = decide(Comparison(task="classification", answers=of), Margins()).overall
            assert overall is not None
            if not overall.interval[0] <= 0.02 <= overall.interval[1]:
                missed += 1
                break
    assert binomtest(missed, runs, 0.06, alternative="greater").pvalue > 0.001


def test_the_verdict_is_that_of_the_evidence() -> None:
    """A Fail or Pass is read off the interval; it is the same as evidence beyond its line."""
    margins = Margins(max_flips=0.02)
    for canary in range(0, 140, 3):
        of = Answers(same=3000 - canary - 20, canary=canary, again=20)
        found = decide(Comparison(task="classification", answers=of), margins).verdict
        failed = log_e(of, 0.02) > log(1 / (0.8 * margins.alpha))
        passed = log_e(of, 0.02, passing=True) >= log(1 / margins.beta)
        assert found is (Verdict.FAIL if failed else Verdict.PASS if passed else Verdict.INCONCLUSIVE)


def test_five_thousand_requests_pass_one_percent_where_half_as_many_flip() -> None:
    """Exactly: the share of binomial draws that pass at a single look."""
    passes = [k for k in range(80) if log_e(Answers(same=5000 - k, canary=k), 0.01, passing=True) >= log(20)]
    assert passes == list(range(len(passes)))
    assert binom.cdf(len(passes) - 1, 5000, 0.005) >= 0.9


@pytest.mark.parametrize(("flips", "within"), [(0.05, 450), (0.2, 100), (1.0, 12)])
def test_a_canary_that_is_wrong_is_found_early(flips: float, within: int) -> None:
    """Nine of ten fail the default margin within so many requests, at a single look there."""
    line = log(1 / (0.8 * 0.01))
    enough = min(k for k in range(within + 1) if log_e(Answers(same=within - k, canary=k), 0.005) >= line)
    assert binom.sf(enough - 1, within, flips) >= 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_model_on_both_sides_never_fails(dtype: torch.dtype) -> None:
    """Batches of other sizes and orders; 0 of 40 each here, 0 of 1000 in the benchmark."""
    for seed in range(40):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)).to(dtype)
        asked = torch.randn(400, 16).to(dtype)
        passes = []
        for size in (128, 19, 7):
            order = torch.randperm(len(asked))
            with torch.no_grad():
                answers = torch.cat([model(some) for some in torch.split(asked[order], size)])
            passes.append(answers[order.argsort()])
        found = compare(*passes, [str(at) for at in range(400)])
        assert decide(found, Margins()).verdict is not Verdict.FAIL, seed


def noisy(seed: int, n: int, d: int, moved: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers to the same n requests of two models that each add noise of their own, .1 sd together."""
    chance = torch.Generator().manual_seed(seed)
    request = torch.randn(n, d, generator=chance)
    noise = 0.1 / 2**0.5 * torch.randn(2, n, d, generator=chance)
    return request + noise[0], request + noise[1] + moved


def uniform(p: list[float]) -> bool:
    """Whether p-values may be such as are below a with probability at most a (exact, 0.1 %)."""
    return all(
        binomtest(sum(one <= a for one in p), len(p), a, alternative="greater").pvalue > 0.001
        for a in (0.05, 0.2, 0.5)
    )


def test_pairs_of_models_that_do_not_differ_have_p_values_as_promised() -> None:
    assert uniform([pair_swap(*noisy(run, 40, 3, 0.0), swaps=99, seed=run).p for run in range(300)])


def test_pairs_that_depend_on_each_other_through_their_requests_as_well() -> None:
    """All requests alike but for a common shift: only the models' own noise is swapped."""
    p = []
    for run in range(300):
        x, y = noisy(run, 40, 3, 0.0)
        common = 5 * torch.randn(3, generator=torch.Generator().manual_seed(run))
        p.append(pair_swap(x + common, y + common, swaps=99, seed=run).p)
    assert uniform(p)


def test_samples_of_one_distribution_have_p_values_as_promised() -> None:
    p = []
    for run in range(300):
        chance = torch.Generator().manual_seed(run)
        x, y = torch.randn(30, 3, generator=chance), torch.randn(20, 3, generator=chance)
        p.append(two_sample(x, y, permutations=99, seed=run).p)
    assert uniform(p)


def test_a_hundredth_of_a_deviation_is_found_in_five_hundred_pairs() -> None:
    found = sum(pair_swap(*noisy(run, 500, 16, 0.01), swaps=199, seed=run).p <= 0.05 for run in range(20))
    assert found == 20  # 200 of 200 in the benchmark


def test_unpaired_a_small_shift_of_everything_is_found() -> None:
    """.08 sd in each of 64 dimensions, 500 answers a side; a wider cloud (x1.06) likewise."""
    for scale, moved in ((1.0, 0.08), (1.06, 0.0)):
        found = 0
        for run in range(8):
            chance = torch.Generator().manual_seed(run)
            x, y = torch.randn(2, 500, 64, generator=chance)
            found += two_sample(x, scale * y + moved, permutations=199, seed=run).p <= 0.05
        assert found >= 7


def test_a_battery_of_tests_finds_in_one_distribution_what_its_level_allows() -> None:
    """With an outlier or two, and values that repeat, as answers have them."""
    p = []
    for run in range(200):
        chance = torch.Generator().manual_seed(run)
        x, y = torch.randn(40, 3, generator=chance), torch.randn(30, 3, generator=chance)
        x, y = (torch.cat([each.round(decimals=1), 20 * each[:1]]) for each in (x, y))
        p.append(battery(x, y, permutations=99).p)
    assert uniform(p)


def test_energy_has_p_values_as_promised() -> None:
    p = []
    for run in range(300):
        chance = torch.Generator().manual_seed(run)
        x, y = torch.randn(30, 3, generator=chance), torch.randn(20, 3, generator=chance)
        p.append(energy(x, y, permutations=99, seed=run).p)
    assert uniform(p)


def test_unpaired_one_output_alone_is_found() -> None:
    """.35 sd in one of 64, 500 answers a side: kernels see it in three of four, this in nine of ten."""
    found = 0
    for run in range(20):
        chance = torch.Generator().manual_seed(run)
        x, y = torch.randn(2, 500, 64, generator=chance)
        y[:, 17] += 0.35
        found += bool(holm(smirnov(x, y)[1]).min() <= 0.05)
    assert found >= 17  # 93 % of 200 in the benchmark
