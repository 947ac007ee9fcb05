"""Recorded answers of two models from files, compared for a person at a desk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_shadow import neighbours, texts
from gpu_shadow.compare import Comparison, Margins, compare
from gpu_shadow.files import BadFile, kind, slices, tensors
from gpu_shadow.said import Said, Source
from gpu_shadow.swaps import Tested, pair_swap

Passes = tuple[Tensor, Tensor | None, Tensor]  # stable's answers, its second ones, the canary's
MOST_PAIRS = 1000  # that are swapped, in under a second; what more could find is too small to matter


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What is compared: answers of both, maybe stable's second ones, maybe the right answers."""

    stable: Path
    canary: Path
    again: Path | None = None
    labels: Path | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """All of them, with their digests."""
        given = (self.stable, self.again, self.canary, self.labels)
        roles = ("stable", "stable again", "canary", "labels")
        return tuple(
            Source.of(role, path) for role, path in zip(roles, given, strict=True) if path is not None
        )


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """The answers (n, ...) of one file, and maybe the slices of the requests and the right answers."""

    output: Tensor
    slices: tuple[str, ...] | None = None
    labels: Tensor | None = None


def compared(files: Files, *, margins: Margins, **how: Any) -> Said:
    """What the files say, row i of each being the same request; `how` as in `compare`. Raises `BadFile`."""
    answered = _texts if margins.task == "text" else _rows
    found, (one, other, canary) = answered(files, margins, how)
    if not found.requests:
        raise BadFile(f"{files.stable}: no answer is finite: there is nothing to compare with")
    near = None
    if margins.task == "embedding":
        near = neighbours.compared(one, other, canary, names(len(one)))
    said = Said.of(found, margins, sources=files.sources)
    return replace(said, swapped=_swapped(one, canary), neighbours=near)


def read(path: Path) -> Recorded:
    """What the file holds: `output`, maybe `slice`, whole numbers (n,), and `label`. Raises `BadFile`."""
    found = tensors(path, "output", others=("slice", "label"))
    output = found["output"]
    if not output.dim():
        raise BadFile(f"{path}: output is a single number; give a row for each request")
    if output.is_floating_point() and output.itemsize == 1:
        output = output.float()  # 8 bits are for keeping, not for computing
    return Recorded(output, slices(path, found.get("slice"), len(output)), found.get("label"))


def _rows(files: Files, margins: Margins, how: dict[str, Any]) -> tuple[Comparison, Passes]:
    """A row of numbers for each request, compared; and the rows themselves."""
    stable, canary = read(files.stable), read(files.canary).output
    again = None if files.again is None else read(files.again).output
    for path, each in ((files.canary, canary), (files.again, again)):
        if each is not None:
            _match(files.stable, stable.output, path, each)
    if not len(canary):
        raise BadFile(f"{files.stable}: output has no rows: there is nothing to compare")
    labels = stable.labels if files.labels is None else tensors(files.labels, "label")["label"]
    if labels is None and margins.max_accuracy_loss is not None:
        raise BadFile(f"{files.stable}: has no tensor label; a loss of accuracy takes --labels FILE with one")
    how |= {"slices": stable.slices, "labels": labels, "task": margins.task}
    try:
        found = compare(stable.output, again, canary, names(len(canary)), **how)
    except ValueError as error:
        blamed = files.labels if files.labels is not None and "label" in str(error) else files.stable
        raise BadFile(f"{blamed}: {error}") from None
    return found, (stable.output, again, canary)


def _texts(files: Files, margins: Margins, how: dict[str, Any]) -> tuple[Comparison, Passes]:
    """A log-probability for each token of each request's completion, compared; and their means."""
    if files.labels is not None or margins.max_accuracy_loss is not None:
        raise BadFile("the task text has no labels: a completion is neither right nor wrong")
    stable, canary = texts.read(files.stable), texts.read(files.canary)
    again = None if files.again is None else texts.read(files.again)
    for path, each in ((files.canary, canary), (files.again, again)):
        if each is not None and each.ends != stable.ends:
            raise BadFile(
                f"{path}: its completions are not as long as {files.stable}'s; give the log-probabilities"
                " of the same tokens, those that stable had answered"
            )
    found = texts.compared(stable, again, canary, names(len(stable.ends) - 1), tolerance=how["tolerance"])
    return found, (stable.means, None, canary.means)


def names(n: int) -> Sequence[str]:
    """What requests are called that have no id."""
    return [f"row {place}" for place in range(n)]


def _match(stable: Path, of_stable: Tensor, path: Path | None, output: Tensor) -> None:
    if output.shape != of_stable.shape:
        shapes = f"{tuple(output.shape)}, {stable}'s {tuple(of_stable.shape)}"
        raise BadFile(f"{path}: output is {shapes}; row i of both has to be the answer to the same request")
    if output.is_floating_point() != of_stable.is_floating_point():
        kinds = f"{kind(output)}, {stable}'s {kind(of_stable)}"
        raise BadFile(f"{path}: output is {kinds}; scores cannot be compared with whole numbers")


def _swapped(stable: Tensor, canary: Tensor) -> Tested | None:
    """Of at most `MOST_PAIRS` requests, drawn by a fixed seed; None where there are no two to swap."""
    x, y = (each.reshape(len(each), -1) for each in (stable, canary))
    drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:MOST_PAIRS]
    x, y = x[drawn].double(), y[drawn].double()
    sound = (torch.isfinite(x) & torch.isfinite(y)).all(1)
    return pair_swap(x[sound], y[sound]) if sound.sum() > 1 and x.shape[1] else None
