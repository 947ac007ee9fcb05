"""Answers to different requests: each test held to its usual form, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from scipy.stats import energy_distance, ks_2samp
from statsmodels.stats.multitest import multipletests
from torch import Tensor

from gpu_shadow.cli import shadow
from gpu_shadow.swaps import drawn, energy, energy_statistics
from gpu_shadow.unpaired import MOST, battery, holm, smirnov

CPU = torch.device("cpu")


def answers(n: int, d: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def looped(x: Tensor, y: Tensor) -> float:
    """The energy distance, as it is defined."""
    return float(2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())


def test_the_energy_distance_is_that_of_the_definition_and_of_scipy() -> None:
    x, y = answers(60) + 100, answers(45, seed=1) + 100.3
    found = energy_statistics(x, y, drawn(60, 45, 9, 0, CPU))
    assert float(found[0]) == pytest.approx(looped(x, y), rel=1e-4)
    pooled = torch.cat([x, y])
    for column in range(1, 10):
        chosen = drawn(60, 45, 9, 0, CPU)[:, column] == 1
        assert float(found[column]) == pytest.approx(
            looped(pooled[chosen], pooled[~chosen]), rel=1e-3, abs=1e-6
        )
    one = energy_statistics(x[:, :1], y[:, :1], drawn(60, 45, 1, 0, CPU))
    assert float(one[0]) == pytest.approx(energy_distance(x[:, 0], y[:, 0]) ** 2, rel=1e-4)


def test_the_p_value_counts_permutations_that_are_as_far_apart() -> None:
    x, y = answers(30), answers(25, seed=1) + 0.3
    statistics = energy_statistics(x, y, drawn(30, 25, 99, 3, CPU))
    as_far = int((statistics[1:] >= statistics[0]).sum())
    assert energy(x, y, permutations=99, seed=3).p == pytest.approx((1 + as_far) / 100)
    assert energy(x, y + 9, permutations=99).p == 0.01


def test_each_dimension_is_what_scipy_says_of_it() -> None:
    x, y = answers(80), answers(60, seed=1)
    apart, p = smirnov(x, y)
    for place in range(4):
        said = ks_2samp(x[:, place], y[:, place], method="asymp")
        assert (apart[place], p[place]) == pytest.approx((said.statistic, said.pvalue))


def test_adjusted_p_values_are_holm_s() -> None:
    p = np.random.default_rng(1).uniform(0, 0.2, 30)
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm(np.array([0.5])) == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("changed", "test"),
    [
        (lambda y: y + 0.15, "kernels"),
        (lambda y: torch.cat([y[:290], 30 * y[290:]]), "energy"),
        (lambda y: y + torch.tensor([0, 0, 0.5, 0]), "dimensions"),
    ],
)
def test_every_kind_of_difference_is_seen_by_its_test(changed: object, test: str) -> None:
    assert callable(changed)
    found = battery(answers(300), changed(answers(300, seed=1)), permutations=199)
    each = {one.name: one for one in found.tests}
    assert each[test].adjusted <= 0.05
    assert found.p <= 0.05


def test_spaces_that_are_not_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="other spaces"):
        energy(answers(9), answers(9, 5))


def unpaired(*arguments: str) -> Result:
    return CliRunner().invoke(shadow, ["unpaired", *arguments])


def saved(path: Path, output: Tensor) -> str:
    save_file({"output": output}, path)
    return str(path)


def test_the_command_says_whether_and_where_they_differ(tmp_path: Path) -> None:
    stable = saved(tmp_path / "stable", answers(400))
    same = unpaired(stable, saved(tmp_path / "same", answers(300, seed=1)))
    assert same.exit_code == 0
    assert same.stdout.startswith("No difference found: p = ")
    other = answers(300, seed=1)
    other[:, 2] += 0.6
    other[0, 0] = float("nan")
    moved = unpaired(stable, saved(tmp_path / "moved", other), "--json", str(tmp_path / "out"))
    assert moved.exit_code == 3
    assert moved.stdout.startswith("Differ: p = ")
    assert "output 2: distribution functions 0." in moved.stdout
    assert "1 answer is left out: it is not finite." in moved.stdout
    said = json.loads((tmp_path / "out").read_text())
    assert said["schema"] == "serin.dev/shadow-unpaired/v1"
    assert said["differs"] is True
    assert (said["stable"], said["canary"], said["unusable"]) == (400, 299, 1)
    assert said["dimensions"][0]["dimension"] == 2
    assert [one["role"] for one in said["sources"]] == ["stable", "canary"]


def test_a_file_with_more_answers_than_are_taken(tmp_path: Path) -> None:
    many = saved(tmp_path / "many", answers(MOST + 500, 1))
    few = saved(tmp_path / "few", answers(40, 1, seed=1))
    assert f"{MOST} of stable's answers, 40 of the canary's" in unpaired(many, few).stdout


def test_files_that_cannot_be_compared_are_a_sentence(tmp_path: Path) -> None:
    stable = saved(tmp_path / "stable", answers(40))
    for name, output, why in (
        ("wide", answers(40, 5), "wide: output has 5 values a row"),
        ("few", answers(19), "few: has 19 answers that are finite; give at least 20"),
        ("none", answers(0), "none: has 0 answers"),
        ("nan", answers(40) * float("nan"), "nan: has 0 answers"),
    ):
        result = unpaired(stable, saved(tmp_path / name, output))
        assert result.exit_code == 2
        assert why in result.stderr
