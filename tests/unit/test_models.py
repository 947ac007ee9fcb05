"""Models from safetensors files, and everything that is refused in their place."""

import json
import pickle
import zipfile
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from gpu_shadow.models import Model, Refused, load
from scenarios.live import artifacts, digits

ABOUT = {"architecture": "mlp", "activation": "relu"}


def reference(path: Path) -> str:
    return f"file://{path}@sha256:{sha256(path.read_bytes()).hexdigest()}"


def stored(folder: Path, tensors: dict[str, torch.Tensor], about: dict[str, str] | None = None) -> str:
    path = folder / "model.safetensors"
    path.write_bytes(save(tensors, metadata=ABOUT if about is None else about))
    return reference(path)


def layers(*sizes: int, kind: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """As `torch.nn.Sequential` names them, the activations between counted."""
    torch.manual_seed(1)
    found = {}
    for place, (wide, narrow) in enumerate(pairwise(sizes)):
        found[f"{2 * place}.weight"] = torch.randn(narrow, wide).to(kind)
        found[f"{2 * place}.bias"] = torch.randn(narrow).to(kind)
    return found


def answers(model: Model, rows: torch.Tensor) -> torch.Tensor:
    found = model.answer({"row": rows})
    assert isinstance(found, torch.Tensor)
    return found


def refusal(name: str, folder: Path) -> str:
    with pytest.raises(Refused) as trouble:
        load(name, folder)
    return str(trouble.value)


def test_the_lab_s_model_answers_as_the_lab_s_own_code_does(tmp_path: Path) -> None:
    written = artifacts.write(tmp_path)
    pictures = digits.load().pictures[:200]
    for name in (digits.MODEL, digits.UNSCALED, digits.PERMUTED):
        model = load(written[name], tmp_path)
        theirs = digits.variant(digits.load(), name).logits(pictures.astype(np.float64))
        ours = answers(model, torch.from_numpy(pictures.astype(np.float32)))
        assert np.abs(ours.numpy() - theirs).max() < 1e-3
        assert (model.takes, model.task) == ("64 features a row as pixels", "classification")
        assert ours.shape[1] == 10


def test_the_lab_s_model_that_overflows_does_so_for_bright_pictures_alone(tmp_path: Path) -> None:
    model = load(artifacts.write(tmp_path)[digits.OVERFLOWING], tmp_path)
    pictures = digits.load().pictures
    ours = torch.isfinite(answers(model, torch.from_numpy(pictures.astype(np.float32)))).all(dim=1).numpy()
    theirs = digits.variant(digits.load(), digits.OVERFLOWING).logits(pictures.astype(np.float64))
    assert 0.05 < 1 - ours.mean() < 0.2
    assert (
        ours == np.isfinite(theirs).all(axis=1)
    ).mean() > 0.99  # float16 rounds, the lab's own code does not
    assert pictures[ours].mean() < pictures[~ours].mean()
    assert ours[0]  # the pods call themselves ready by this one


def test_a_file_may_name_the_tensor_that_its_model_reads(tmp_path: Path) -> None:
    found = load(stored(tmp_path, layers(5, 7, 3), ABOUT | {"input": "image"}), tmp_path)
    assert (found.takes, found.input) == ("5 features a row as image", "image")
    assert load(stored(tmp_path, layers(5, 7, 3)), tmp_path).input is None


def test_a_sequential_of_torch_answers_as_it_did(tmp_path: Path) -> None:
    theirs = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    model = load(stored(tmp_path, theirs.state_dict(), ABOUT | {"activation": "tanh"}), tmp_path)
    rows = torch.randn(11, 5)
    assert torch.allclose(answers(model, rows), theirs(rows))


def test_weights_in_bfloat16_are_computed_in_bfloat16(tmp_path: Path) -> None:
    model = load(stored(tmp_path, layers(5, 7, 3, kind=torch.bfloat16)), tmp_path)
    whole = load(stored(tmp_path, layers(5, 7, 3)), tmp_path)
    rows = torch.randn(50, 5)
    assert answers(model, rows).dtype is torch.float32
    assert 0 < float((answers(model, rows) - answers(whole, rows)).abs().max()) < 0.5


def test_rows_are_centred_and_scaled_as_the_file_says(tmp_path: Path) -> None:
    plain = layers(2, 1)
    scaled = plain | {"input.mean": torch.tensor([1.0, 2.0]), "input.scale": torch.tensor([4.0])}
    model: Model = load(stored(tmp_path, scaled), tmp_path)
    bare = load(stored(tmp_path, plain), tmp_path)
    given = torch.tensor([[5.0, 10.0]])
    assert torch.allclose(answers(model, given), answers(bare, (given - torch.tensor([1.0, 2.0])) / 4))


def test_the_task_is_what_the_file_says_or_follows_from_the_outputs(tmp_path: Path) -> None:
    assert load(stored(tmp_path, layers(3, 1)), tmp_path).task == "regression"
    assert load(stored(tmp_path, layers(3, 2)), tmp_path).task == "classification"
    for task in ("embedding", "ranking", "regression"):
        assert load(stored(tmp_path, layers(3, 4), ABOUT | {"task": task}), tmp_path).task == task


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".joblib", ".pt2", ".bin"])
def test_a_pickle_is_refused_unopened_with_what_to_do(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(exit))
    said = refusal(reference(path), tmp_path)
    assert "may run any code when it is loaded" in said
    assert "safetensors.torch.save_file" in said


def test_a_pickle_under_another_name_is_not_loaded_either(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(exit))
    assert "is a pickle, and loading one may run any code" in refusal(reference(path), tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(exit))
    assert "is a pickle" in refusal(reference(path), tmp_path)


@pytest.mark.parametrize("size", [0x280, 0x380, 0x480, 0x580])
def test_a_file_whose_header_is_as_long_as_a_pickle_begins_is_none(tmp_path: Path, size: int) -> None:
    """The length stands first, and 640 is written 80 02, as the second protocol's pickles begin."""
    filled = save(layers(2, 2), metadata=ABOUT | {"note": ""})
    note = "x" * (size - int.from_bytes(filled[:8], "little"))
    name = stored(tmp_path, layers(2, 2), ABOUT | {"note": note})
    assert (tmp_path / "model.safetensors").read_bytes()[:8] == size.to_bytes(8, "little")
    assert load(name, tmp_path).task == "classification"


def test_a_file_that_changed_is_refused_with_both_digests(tmp_path: Path) -> None:
    name = stored(tmp_path, layers(2, 2))
    (tmp_path / "model.safetensors").write_bytes(save(layers(2, 3), metadata=ABOUT))
    said = refusal(name, tmp_path)
    assert name[-64:] in said
    assert sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest() in said


def test_nothing_outside_the_folder_is_opened(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    name = stored(tmp_path, layers(2, 2))
    assert "is not below" in refusal(name, tmp_path / "models")
    assert "is not below" in refusal(
        name.replace(str(tmp_path), f"{tmp_path}/models/.."), tmp_path / "models"
    )
    (tmp_path / "models" / "link.safetensors").symlink_to(tmp_path / "model.safetensors")
    linked = name.replace("/model.safetensors", "/models/link.safetensors")
    assert "is not below" in refusal(linked, tmp_path / "models")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "http://a/b@sha256:" + "0" * 64, "file:///a@sha256:123", ""]
)
def test_what_is_no_reference_is_refused_with_the_form(tmp_path: Path, name: str) -> None:
    assert "expected file:///PATH@sha256:DIGEST" in refusal(name, tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in refusal(f"file://{tmp_path}/a@sha256:{'0' * 64}", tmp_path)


@pytest.mark.parametrize(
    ("tensors", "about", "says"),
    [
        (layers(2, 2), {}, "architecture is missing; known here are bert, mlp"),
        (layers(2, 2), {"architecture": "resnet"}, "architecture is resnet"),
        (layers(2, 2), ABOUT | {"task": "poetry"}, 'metadata task: "poetry" is none of classification'),
        (layers(2, 2), ABOUT | {"task": "text"}, 'metadata task: "text" is none of classification'),
        (layers(2, 2), {"architecture": "mlp"}, "metadata activation: expected one of relu, tanh, gelu"),
        ({}, ABOUT, "there is no layer"),
        (layers(2, 2) | {"extra": torch.ones(1)}, ABOUT, "tensor extra is none of an mlp's"),
        (layers(2, 2) | {"a.0.bias": torch.ones(2)}, ABOUT, "0.bias is none of an mlp's"),
        ({"0.weight": torch.ones(2, 2)}, ABOUT, "layer 0: expected"),
        (layers(2, 3) | {"2.weight": torch.ones(2, 4), "2.bias": torch.ones(2)}, ABOUT, "4 inputs after 3"),
        ({name: value.long() for name, value in layers(2, 2).items()}, ABOUT, "expected one floating-point"),
        ({k: v.to(torch.float8_e4m3fn) for k, v in layers(2, 2).items()}, ABOUT, "of 16 bits or more"),
        (layers(2, 2) | {"input.scale": torch.ones(3)}, ABOUT, "input.scale: shape [3]; expected [1] or [2]"),
    ],
)
def test_a_file_that_is_no_such_model_says_what_is_wrong(
    tmp_path: Path, tensors: dict[str, Any], about: dict[str, str], says: str
) -> None:
    assert says in refusal(stored(tmp_path, tensors, about), tmp_path)


@pytest.mark.parametrize("cut", [0, 4, 8, 60, 200])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(layers(2, 2), metadata=ABOUT)[:cut])
    assert "is no safetensors file" in refusal(reference(path), tmp_path)


def test_a_header_that_promises_more_than_there_is_allocates_nothing(tmp_path: Path) -> None:
    header = {"0.weight": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}
    said = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(said).to_bytes(8, "little") + said)
    assert "is no safetensors file" in refusal(reference(path), tmp_path)
