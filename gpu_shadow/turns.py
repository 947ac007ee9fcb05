"""The two models of a run: both in memory where they fit, else one after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gpu_shadow.model import Answers, Batch, Later, Model, Refused

Load = Callable[[str], Model]


@dataclass(slots=True)
class _Turn:
    """A model's answers; its weights are there from the first until it rests."""

    load: Callable[[], Model]
    model: Model | None = field(default=None, repr=False)

    def __call__(self, batch: Batch) -> Tensor | Answers:
        if self.model is None:
            self.model = self.load()
        return self.model.answer(batch)

    def rest(self) -> None:
        """Its weights are gone."""
        self.model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def both(references: Sequence[str], load: Load, *, memory: int, free: int) -> tuple[Sequence[Model], int]:
    """The models, and how many bytes they take at once; raises `Refused` or `Later`.

    `memory` bytes are for the weights of all runs together, of which `free` are left. Of two models that do
    not fit together each is loaded for its own passes, which costs time and changes no answer.
    """
    sizes = [_size(reference) for reference in references]
    largest = max(sizes)
    if largest > memory:
        name = references[sizes.index(largest)]
        raise Refused(
            f"{name}: {largest / 2**20:.1f} MiB, and all models have {memory / 2**20:.1f}; raise --memory"
        )
    if sum(sizes) <= free:
        return [load(one) for one in references], sum(sizes)
    if largest > free:
        raise Later(
            f"models of other runs take the memory that these need ({largest / 2**20:.0f} MiB); they wait"
        )
    return [_in_turn(one, load) for one in references], largest


def _in_turn(reference: str, load: Load) -> Model:
    turn = _Turn(partial(load, reference))
    return replace(load(reference), answer=turn, rest=turn.rest)


def _size(reference: str) -> int:
    """Bytes of the model's file; 0 of what is elsewhere, or is not there: that is said when it is loaded."""
    scheme, _, path = reference.partition("@")[0].partition("://")
    try:
        return Path(path).stat().st_size if scheme == "file" else 0
    except (OSError, ValueError):
        return 0
