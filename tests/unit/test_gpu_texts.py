"""Completions token by token: files of both forms, figures by hand, what is refused."""

import json
from math import exp
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import Tensor

from gpu_shadow import texts
from gpu_shadow.cli import shadow
from gpu_shadow.compare import Margins, decide
from gpu_shadow.files import BadFile

LENGTHS = torch.tensor([3, 1, 4, 2] * 500)


def scored(seed: int = 0, moved: float = 0.0, noise: float = 0.0) -> Tensor:
    """Log-probabilities of 5000 tokens, 2000 completions."""
    chance = torch.Generator().manual_seed(seed)
    base = torch.randn(5000, generator=torch.Generator().manual_seed(0)).abs().neg()
    return base + moved + noise * torch.randn(5000, generator=chance)


def saved(path: Path, flat: Tensor, **others: Tensor) -> str:
    offset = torch.cat([torch.zeros(1, dtype=torch.int64), LENGTHS.cumsum(0)])
    save_file({"output": flat, "offset": offset, **others}, path)
    return str(path)


def padded(path: Path, flat: Tensor) -> str:
    there = torch.arange(6) < LENGTHS[:, None]
    output = torch.full(there.shape, float("nan"))
    output[there] = flat
    save_file({"output": output, "length": LENGTHS}, path)
    return str(path)


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(shadow, ["compare", "--task", "text", *arguments])


def test_the_same_log_probabilities_pass_and_a_worse_model_fails(tmp_path: Path) -> None:
    stable = saved(tmp_path / "stable", scored())
    same = compare(stable, padded(tmp_path / "same", scored()))
    assert same.exit_code == 0
    assert "Perplexity of the recorded answers is 1 x stable's (1 to 1)." in same.stdout
    worse = compare(stable, saved(tmp_path / "worse", scored(moved=-0.05)))
    assert worse.exit_code == 3
    assert f"is {exp(0.05):.4g} x stable's" in worse.stdout


def test_noise_that_stable_has_itself_is_taken_off(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"{seed}", scored(seed, noise=0.01)) for seed in range(3)]
    assert compare(files[0], files[2], "--max-flips", "10%").exit_code == 3
    assert compare(files[0], files[2], "--max-flips", "10%", "--again", files[1]).exit_code == 0


def test_both_forms_of_a_file_say_the_same(tmp_path: Path) -> None:
    stable, canary = scored(), scored(1, noise=0.1)
    flat = compare(saved(tmp_path / "a", stable), saved(tmp_path / "b", canary), "--json", "-").stdout
    wide = compare(padded(tmp_path / "c", stable), padded(tmp_path / "d", canary), "--json", "-").stdout
    said, other = json.loads(flat), json.loads(wide)
    assert said.pop("sources") != other.pop("sources")
    assert said == other


def test_figures_are_those_by_hand(tmp_path: Path) -> None:
    stable, canary = scored(), scored(1, noise=0.1)
    one, other = (
        texts.read(Path(saved(tmp_path / "a", stable))),
        texts.read(Path(saved(tmp_path / "b", canary))),
    )
    ids = [f"r{i}" for i in range(len(LENGTHS))]
    found = texts.compared(one, None, other, ids, tolerance=0.05)
    off = [each.double() for each in (canary.double() - stable.double()).split(LENGTHS.tolist())]
    means = torch.stack([each.mean() for each in off])
    assert found.answers.once_canary == int((means.abs() > 0.05).sum())
    figures = {each.name: each for each in decide(found, Margins(task="text")).differences}
    assert figures["per_token"].mean == pytest.approx(float(means.mean()), rel=1e-9)
    beyond = torch.stack([(each.abs() > 0.05).double().mean() for each in off])
    assert figures["beyond"].mean == pytest.approx(float(beyond.mean()), rel=1e-9)
    assert figures["max_delta"].largest == pytest.approx(max(float(each.abs().max()) for each in off))
    mean = torch.stack([each.double().mean() for each in canary.split(LENGTHS.tolist())])
    assert torch.allclose(other.means[:, 0], mean)
    assert found.worst[0][1] == f"r{int(means.abs().argmax())}"


def test_what_fits_into_memory_at_once_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = texts.read(Path(saved(tmp_path / "a", scored())))
    other = texts.read(Path(saved(tmp_path / "b", scored(1, noise=0.1))))
    ids = [f"r{i}" for i in range(len(LENGTHS))]
    whole = texts.compared(one, one, other, ids, tolerance=0.05)
    monkeypatch.setattr(texts, "AT_ONCE", 333)
    assert texts.compared(one, one, other, ids, tolerance=0.05) == whole


def test_where_free_answers_part(tmp_path: Path) -> None:
    """Of four tokens the second is another; the third answer is longer; the last two are the same."""
    tokens = torch.tensor(
        [[5, 6, 7, 8], [5, 9, 7, 8], [1, 2, 0, 0], [1, 2, 3, 0], [4, 0, 0, 0], [0, 0, 0, 0]]
    )
    long = torch.tensor([4, 4, 2, 3, 1, 0])

    def of(name: str, rows: list[int]) -> texts.Texts:
        save_file(
            {
                "output": torch.zeros(4, 1),
                "length": torch.ones(4, dtype=torch.int64),
                "token": tokens[rows],
                "token_length": long[rows],
            },
            tmp_path / name,
        )
        return texts.read(tmp_path / name)

    found = texts.compared(of("a", [0, 2, 4, 5]), None, of("b", [1, 3, 4, 5]), list("wxyz"), tolerance=0.01)
    assert found.figures["diverged"].n == 4
    assert float(found.figures["diverged"].total) == pytest.approx(3 / 4 + 1 / 3)


def test_a_token_that_is_nan_or_impossible_for_the_canary_fails(tmp_path: Path) -> None:
    for bad in (float("nan"), -float("inf")):
        canary = scored()
        canary[17] = bad
        result = compare(saved(tmp_path / "a", scored()), saved(tmp_path / "b", canary))
        assert result.exit_code == 3
        assert "1 of 2000 answers are NaN or infinite" in result.stdout


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"output": torch.zeros(5)}, "give [n, longest] with length [n]"),
        ({"output": torch.zeros(5), "offset": torch.tensor([0, 3])}, "offset has to rise from 0 to 5"),
        ({"output": torch.zeros(5), "offset": torch.tensor([0, 4, 3, 5])}, "offset has to rise"),
        ({"output": torch.zeros(5), "offset": torch.tensor([], dtype=torch.int64)}, "give [n, longest]"),
        ({"output": torch.zeros(5), "offset": torch.tensor([0.0, 5.0])}, "whole numbers"),
        ({"output": torch.zeros(2, 3), "length": torch.tensor([3, 4])}, "not between 0 and 3"),
        ({"output": torch.zeros(2, 3), "length": torch.tensor([3, -1])}, "not between 0 and 3"),
        ({"output": torch.zeros(2, 3), "length": torch.tensor([3])}, "give [n, longest]"),
        ({"output": torch.zeros(2, 3, dtype=torch.int64)}, "give log-probabilities"),
        (
            {
                "output": torch.zeros(1, 3),
                "length": torch.tensor([3]),
                "token": torch.zeros(2, 3, dtype=torch.int64),
                "token_length": torch.tensor([3, 3]),
            },
            "token has 2 rows of int64; give 1 of ids",
        ),
    ],
)
def test_files_of_another_form_are_a_sentence(tmp_path: Path, tensors: dict[str, Tensor], why: str) -> None:
    save_file(tensors, tmp_path / "odd")
    with pytest.raises(BadFile) as told:
        texts.read(tmp_path / "odd")
    assert why in str(told.value)


def test_completions_that_are_not_the_same_are_refused(tmp_path: Path) -> None:
    stable = saved(tmp_path / "a", scored())
    save_file({"output": torch.zeros(2, 3), "length": torch.tensor([3, 2])}, tmp_path / "b")
    result = compare(stable, str(tmp_path / "b"))
    assert result.exit_code == 2
    assert "b: its completions are not as long as" in result.stderr
    labelled = compare(stable, stable, "--labels", stable)
    assert labelled.exit_code == 2
    assert "neither right nor wrong" in labelled.stderr
