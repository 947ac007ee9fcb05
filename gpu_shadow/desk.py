"""Recorded answers of two models from files, compared for a person at a desk.

Files are safetensors, which hold numbers and nothing that could run.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpu_shadow.compare import Margins, compare
from gpu_shadow.said import Said, Source
from gpu_shadow.swaps import Tested, pair_swap

PICKLES = (
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
)  # torch.save's zip, pickle 2 to 5
SAVE = "safetensors.torch.save_file({{'{}': tensor}}, path) writes one that can be read"
MOST_PAIRS = 1000  # that are swapped, in under a second; what more could find is too small to matter


class BadFile(ValueError):
    """A file that answers cannot be read from; the message says why and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """The answers (n, ...) of one file, and maybe the slices of the requests and the right answers."""

    output: Tensor
    slices: tuple[str, ...] | None = None
    labels: Tensor | None = None


def compared(
    stable: Path,
    canary: Path,
    again: Path | None,
    *,
    labels: Path | None = None,
    margins: Margins,
    top: int,
    tolerance: float,
    probabilities: bool,
) -> Said:
    """What the files say, row i of each being the same request. Raises `BadFile`."""
    of_stable, of_canary = read(stable), read(canary).output
    of_again = None if again is None else read(again).output
    for path, each in ((canary, of_canary), (again, of_again)):
        if each is not None:
            _match(stable, of_stable.output, path, each)
    if not len(of_canary):
        raise BadFile(f"{stable}: output has no rows: there is nothing to compare")
    right = of_stable.labels if labels is None else _labels(labels)
    if right is None and margins.max_accuracy_loss is not None:
        raise BadFile(f"{stable}: has no tensor label; a loss of accuracy takes --labels FILE with one")
    ids = [f"row {place}" for place in range(len(of_canary))]
    try:
        found = compare(
            of_stable.output,
            of_again,
            of_canary,
            ids,
            slices=of_stable.slices,
            labels=right,
            task=margins.task,
            top=top,
            tolerance=tolerance,
            probabilities=probabilities,
        )
    except ValueError as error:
        blamed = labels if labels is not None and "label" in str(error) else stable
        raise BadFile(f"{blamed}: {error}") from None
    if not found.requests:
        raise BadFile(f"{stable}: no answer is finite: there is nothing to compare with")
    files = {"stable": stable, "stable again": again, "canary": canary, "labels": labels}
    sources = tuple(Source.of(role, path) for role, path in files.items() if path is not None)
    said = Said.of(found, margins, sources=sources)
    return replace(said, swapped=_swapped(of_stable.output, of_canary))


def read(path: Path) -> Recorded:
    """What the file holds: `output`, maybe `slice`, whole numbers (n,), and `label`. Raises `BadFile`."""
    found = _tensors(path, "output", others=("slice", "label"))
    output = found["output"]
    if not output.dim():
        raise BadFile(f"{path}: output is a single number; give a row for each request")
    if output.is_floating_point() and output.itemsize == 1:
        output = output.float()  # 8 bits are for keeping, not for computing
    return Recorded(output, _slices(path, found.get("slice"), len(output)), found.get("label"))


def _labels(path: Path) -> Tensor:
    return _tensors(path, "label")["label"]


def _tensors(path: Path, wanted: str, *, others: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensor that is wanted, and of the others those that there are."""
    if not path.is_file():
        raise BadFile(f"{path}: {'is not a file' if path.exists() else 'there is no such file'}")
    try:
        with path.open("rb") as file:
            beginning = file.read(4)
        if beginning.startswith(PICKLES):
            raise BadFile(f"{path}: is a pickle, and loading one can run any program; {SAVE.format(wanted)}")
        with safe_open(path, framework="pt", device="cpu") as tensors:
            held = set(tensors.keys())
            found = {name: tensors.get_tensor(name) for name in held & {wanted, *others}}
    except (SafetensorError, OSError) as error:
        raise BadFile(f"{path}: cannot be read as safetensors ({error}); {SAVE.format(wanted)}") from None
    if wanted not in found:
        instead = ", ".join(sorted(held)[:10]) or "nothing"
        raise BadFile(f"{path}: holds {instead}, but no tensor {wanted}; {SAVE.format(wanted)}")
    return found


def _match(stable: Path, of_stable: Tensor, path: Path | None, output: Tensor) -> None:
    if output.shape != of_stable.shape:
        shapes = f"{tuple(output.shape)}, {stable}'s {tuple(of_stable.shape)}"
        raise BadFile(f"{path}: output is {shapes}; row i of both has to be the answer to the same request")
    if output.is_floating_point() != of_stable.is_floating_point():
        kinds = f"{_kind(output)}, {stable}'s {_kind(of_stable)}"
        raise BadFile(f"{path}: output is {kinds}; scores cannot be compared with whole numbers")


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _slices(path: Path, labels: Tensor | None, n: int) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if labels.shape != (n,) or labels.is_floating_point() or labels.is_complex():
        form = f"{_kind(labels)} {tuple(labels.shape)}"
        raise BadFile(f"{path}: slice is {form}; give a whole number for each of the {n} requests")
    return tuple(map(str, labels.tolist()))


def _swapped(stable: Tensor, canary: Tensor) -> Tested | None:
    """Of at most `MOST_PAIRS` requests, drawn by a fixed seed; None where there are no two to swap."""
    x, y = (each.reshape(len(each), -1) for each in (stable, canary))
    drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:MOST_PAIRS]
    x, y = x[drawn].double(), y[drawn].double()
    sound = (torch.isfinite(x) & torch.isfinite(y)).all(1)
    return pair_swap(x[sound], y[sound]) if sound.sum() > 1 and x.shape[1] else None
