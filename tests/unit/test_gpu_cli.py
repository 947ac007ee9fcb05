"""`serin shadow compare`: files, exit codes, what is printed, and what is refused."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save, save_file
from torch import Tensor

from gpu_shadow.cli import shadow


def answers(n: int = 2000, classes: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


def saved(path: Path, output: Tensor, **others: Tensor) -> str:
    save_file({"output": output.contiguous(), **others}, path)
    return str(path)


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(shadow, ["compare", *arguments])


@pytest.fixture
def stable(tmp_path: Path) -> str:
    return saved(tmp_path / "stable.safetensors", answers())


def test_the_same_answers_pass(stable: str) -> None:
    result = compare(stable, stable)
    assert result.exit_code == 0
    assert result.stdout.startswith("Pass: At most 0.218 % of answers differ; 0.5 % may.\n")
    assert "0 % of 2000 answers differ." in result.stdout


def test_permuted_labels_fail(stable: str, tmp_path: Path) -> None:
    canary = saved(tmp_path / "canary", answers()[:, [1, 2, 3, 4, 0]])
    result = compare(stable, canary)
    assert result.exit_code == 3
    assert result.stdout.startswith("Fail: At least 99.")


def test_too_few_answers_do_not_decide_and_a_pass_can_be_required(tmp_path: Path) -> None:
    few = saved(tmp_path / "few", answers(100))
    result = compare(few, few)
    assert result.exit_code == 0
    assert result.stdout.startswith("Inconclusive: Between 0 % and")
    assert "but about 880 requests would pass" in result.stdout
    assert compare(few, few, "--require-pass").exit_code == 3


def test_noise_that_stable_has_itself_is_taken_off(tmp_path: Path) -> None:
    close = answers(5000)
    close[:500, 1] = close[:500, 0] = 9.0  # decided by the last digit
    names = [
        saved(tmp_path / name, close + 1e-3 * answers(5000, seed=seed))
        for seed, name in enumerate(("stable", "again", "canary"), 1)
    ]
    assert compare(names[0], names[2], "--max-flips", "2.5%").exit_code == 3
    result = compare(names[0], names[2], "--max-flips", "2.5%", "--again", names[1])
    assert result.exit_code == 0
    assert "of stable's own second answers" in result.stdout


def test_one_slice_that_is_worse_suffices(tmp_path: Path) -> None:
    whole = answers(10_000)
    worse = whole.clone()
    worse[:100] = worse[:100].flip(1)
    of = saved(tmp_path / "stable", whole, slice=(torch.arange(10_000) < 200).long())
    result = compare(of, saved(tmp_path / "canary", worse), "--max-flips", "2%")
    assert result.exit_code == 3
    assert "of the slice 1 differ; 2 % may." in result.stdout


def test_the_finding_as_json_is_stable(stable: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    canary = saved(tmp_path / "canary", answers() + 0.1 * answers(seed=1))
    compare(stable, canary, "--again", stable, "--json", str(out))
    said = json.loads(out.read_text())
    assert said["schema"] == "serin.dev/shadow-finding/v1"
    assert said["verdict"] == "Fail"
    assert said["task"] == "classification"
    assert (said["maxFlips"], said["alpha"], said["beta"]) == (0.005, 0.01, 0.05)
    assert said["overall"]["requests"] == said["requests"] == 2000
    assert said["overall"]["interval"][0] > 0.005
    assert set(said["pairSwap"]) == {"p", "permutations"}
    assert {one["name"] for one in said["differences"]} >= {"kl", "js", "tv", "missed", "max_delta"}
    assert said["pairSwap"]["p"] == 0.001
    assert said["worst"][0]["id"].startswith("row ")
    again = json.loads(compare(stable, canary, "--again", stable, "--json", "-").stdout)
    assert again == said


@pytest.mark.parametrize(
    ("task", "moved", "code"),
    [("regression", 0.001, 0), ("regression", 0.1, 3), ("embedding", 0.01, 0), ("embedding", 1.0, 3)],
)
def test_numbers_and_vectors(stable: str, tmp_path: Path, task: str, moved: float, code: int) -> None:
    canary = saved(tmp_path / "canary", answers() * (1 + moved * answers(seed=1).clamp(-2, 2)))
    assert compare(stable, canary, "--task", task).exit_code == code


def stable_like(folder: Path, n: int) -> str:
    return saved(folder / "like", answers(n))


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2
    for word in words:
        assert word in result.stderr


def test_answers_of_another_form_are_refused(stable: str, tmp_path: Path) -> None:
    wider = saved(tmp_path / "wider", answers(classes=6))
    refused(compare(stable, wider), "wider: output is (2000, 6)", "(2000, 5)", "same request")
    fewer = saved(tmp_path / "fewer", answers(1999))
    refused(compare(stable, stable, "--again", fewer), "fewer: output is (1999, 5)")
    whole = saved(tmp_path / "whole", answers().long())
    refused(compare(stable, whole), "whole: output is int64", "float32")
    one = saved(tmp_path / "one", answers(classes=1))
    refused(compare(one, one), "use the task regression")
    none = saved(tmp_path / "none", answers(0))
    refused(compare(none, none), "output has no rows")
    nothing = saved(tmp_path / "nothing", answers(10) * float("nan"))
    refused(compare(nothing, stable_like(tmp_path, 10)), "nothing: no answer is finite")
    deep = saved(tmp_path / "deep", answers(8).reshape(2, 4, 5))
    refused(compare(deep, deep), "shape (2, 4, 5), not (requests, outputs)")
    number = saved(tmp_path / "number", torch.tensor(3.0))
    refused(compare(number, number), "output is a single number")


def test_slices_of_another_form_are_refused(tmp_path: Path) -> None:
    odd = saved(tmp_path / "odd", answers(10), slice=torch.zeros(9))
    refused(compare(odd, odd), "slice is float32 (9,)", "each of the 10 requests")


def test_a_file_without_the_tensor_is_refused(stable: str, tmp_path: Path) -> None:
    save_file({"logits": answers(3)}, tmp_path / "other")
    refused(compare(stable, str(tmp_path / "other")), "holds logits, but no tensor output", "save_file")


@pytest.mark.parametrize(
    ("tensors", "about"),
    [({"0.weight": answers(3), "0.bias": answers(3)}, {}), ({"w": answers(3)}, {"architecture": "mlp"})],
)
def test_a_model_in_place_of_its_answers_is_told_what_makes_them(
    stable: str, tmp_path: Path, tensors: dict[str, Tensor], about: dict[str, str]
) -> None:
    save_file(tensors, tmp_path / "v8.safetensors", metadata=about)
    said = compare(stable, str(tmp_path / "v8.safetensors"))
    refused(
        said, "v8.safetensors: is a model's weights, not its answers", "serin shadow replay REQUESTS.jsonl"
    )


class Bomb:
    """A pickle that tells when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("loaded",))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_are_refused_unread(stable: str, tmp_path: Path, protocol: int) -> None:
    (tmp_path / "p").write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    result = compare(stable, str(tmp_path / "p"))
    refused(result, "is a pickle, and loading one can run any program", "save_file")
    assert "loaded" not in result.output
    torch.save(answers(3), tmp_path / "zip.safetensors")
    refused(compare(stable, str(tmp_path / "zip.safetensors")), "is a pickle")


def test_a_file_whose_header_is_640_bytes_long_is_no_pickle(stable: str, tmp_path: Path) -> None:
    """The length stands first: 80 02, as pickles of the second protocol begin."""
    size = int.from_bytes(save({"output": answers()}, metadata={"note": ""})[:8], "little")
    body = save({"output": answers()}, metadata={"note": "x" * (640 - size)})
    (tmp_path / "long.safetensors").write_bytes(body)
    assert body.startswith(b"\x80\x02")
    result = compare(stable, str(tmp_path / "long.safetensors"))
    assert (result.exit_code, result.output[:5]) == (0, "Pass:")


def hostile() -> dict[str, bytes]:
    def headed(header: bytes, rest: bytes = b"", length: int | None = None) -> bytes:
        return (len(header) if length is None else length).to_bytes(8, "little") + header + rest

    def tensor(shape: str, ends: str, dtype: str = "F32") -> bytes:
        return f'{{"output":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{ends}}}}}'.encode()

    good = headed(tensor("[1,2]", "[0,8]"), b"\0" * 8)
    return {
        "empty": b"",
        "short": good[:5],
        "truncated": good[:-1],
        "longer": good + b"x",
        "header of 2^63 bytes": headed(b"{}", length=2**63),
        "header of 1 GB": headed(b"{}", length=2**30),
        "shape whose product overflows": headed(tensor("[4294967296,4294967296]", "[0,8]"), b"\0" * 8),
        "shape of 1e9": headed(tensor("[1000000000,1]", "[0,8]"), b"\0" * 8),
        "ends before it begins": headed(tensor("[1,2]", "[8,0]"), b"\0" * 8),
        "beyond the file": headed(tensor("[1,2]", "[0,800]"), b"\0" * 8),
        "negative shape": headed(tensor("[-1,2]", "[0,8]"), b"\0" * 8),
        "unknown kind of number": headed(tensor("[1,2]", "[0,8]", "Q7"), b"\0" * 8),
        "nested a hundred thousand deep": headed(b"[" * 100_000),
        "no JSON": headed(b"\xff\xfe{"),
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_files_are_a_sentence(stable: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "bad").write_bytes(hostile()[name])
    refused(compare(stable, str(tmp_path / "bad")), "bad: cannot be read as safetensors", "save_file")


def test_what_is_no_file_is_refused(stable: str, tmp_path: Path) -> None:
    refused(compare(stable, str(tmp_path)), "is not a file")
    refused(compare(stable, str(tmp_path / "nowhere")), "there is no such file")
    refused(compare(stable, stable, "--json", str(tmp_path)), "is a folder")
    refused(compare(stable, stable, "--json", str(tmp_path / "no" / "where")), "there is no folder")


@pytest.mark.parametrize("said", ["0.5", "0%", "100%", "-1%", "nan%", "x", "1e-3%"])
def test_a_margin_is_a_percentage(stable: str, said: str) -> None:
    refused(compare(stable, stable, f"--max-flips={said}"), said, 'such as "0.5%"')


def test_help_teaches() -> None:
    said = compare("--help").stdout
    for word in ("STABLE", '"output"', "row i", "--again", "Inconclusive", "Exit codes", "Examples:"):
        assert word in said


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_without_torch_it_is_said_what_to_install(stable: str) -> None:
    done = run(
        "import sys; sys.modules['torch'] = None\n"
        "from controller.cli import main\n"
        f"main(['shadow', 'compare', {stable!r}, {stable!r}])"
    )
    assert done.returncode == 1
    assert done.stderr == (
        "Error: serin shadow compare needs torch, which is not installed: pip install 'serin[gpu]'\n"
    )


def test_the_command_line_does_without_torch_until_it_is_needed(stable: str) -> None:
    done = run(
        "import sys\n"
        "from controller.cli import main\n"
        "assert not {'torch', 'gpu_shadow', 'safetensors'} & set(sys.modules)\n"
        f"main(['shadow', 'compare', {stable!r}, {stable!r}])"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Pass")
    assert "shadow" in run("from controller.cli import main; main(['--help'])").stdout


def test_labels_say_which_of_the_two_is_right(tmp_path: Path) -> None:
    stable = answers(4000)
    canary = stable + 0.5 * answers(4000, seed=1)
    of = saved(tmp_path / "stable", stable)
    other = saved(tmp_path / "canary", canary)
    save_file({"label": canary.argmax(1)}, tmp_path / "labels")
    wide = (of, other, "--max-flips", "60%")
    won = compare(*wide, "--labels", str(tmp_path / "labels"), "--max-accuracy-loss", "1%")
    assert won.exit_code == 0
    assert "Of 4000 with a label stable has" in won.stdout
    assert "the canary 100 %: it loses -" in won.stdout
    within = saved(tmp_path / "within", stable, label=stable.argmax(1))
    lost = compare(within, other, "--max-flips", "60%", "--max-accuracy-loss", "1%")
    assert lost.exit_code == 3
    assert "more of the labelled requests than stable; 1 % may be." in lost.stdout
    told = compare(within, other, "--max-flips", "60%", "--json", "-", "--report", str(tmp_path / "page"))
    assert told.exit_code == 0
    said = json.loads(told.stdout)
    assert said["accuracy"]["stable"] == 1
    assert said["accuracy"]["canary"] == pytest.approx(1 - said["accuracy"]["loss"])
    assert said["maxAccuracyLoss"] is None
    assert set(said["calibration"]) == {"stable", "canary"}
    assert "It decides nothing." in (tmp_path / "page").read_text()


def test_labels_that_are_missing_or_do_not_fit_are_refused(stable: str, tmp_path: Path) -> None:
    refused(compare(stable, stable, "--max-accuracy-loss", "1%"), "has no tensor label", "--labels FILE")
    save_file({"label": torch.full((2000,), 9)}, tmp_path / "labels")
    refused(compare(stable, stable, "--labels", str(tmp_path / "labels")), "labels: label 9 is none of the 5")
    refused(compare(stable, stable, "--labels", stable), "holds output, but no tensor label", "'label'")
