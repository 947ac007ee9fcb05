"""The words about models: what one takes, what it answers, and why one is not loaded."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_shadow.tasks import TASKS

Array = NDArray[Any]
Tensors = Mapping[str, Array]  # of a request, as it was sent
Row = Mapping[str, Array]  # what a model takes of one request: arrays by name, without a dimension for many
Batch = Mapping[str, Tensor]  # n rows, stacked: the first dimension of each is n

CPU = torch.device("cpu")
ROWS = tuple(name for name in TASKS if name != "text")  # tasks whose answers are all of one length


class Refused(ValueError):
    """A model that is not loaded; the text says which, why, and what to do."""


class Later(Refused):
    """A model that is not there, and may be later."""


class Answers(NamedTuple):
    """Answers of which some may be none: `values` [n, outputs], and of rows without one why."""

    values: Tensor
    failed: Mapping[int, str] = MappingProxyType({})


def unstacked(_: Batch) -> Answers:
    """No answer: who is asked with each row by itself takes no batch."""
    raise TypeError("this model is asked with each row by itself")


def nothing() -> None:
    """What a model does to rest that has nothing to give back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that is ready.

    `fit` makes a row of a request's tensors, or says why that cannot be, in a word or two for the counters.
    `answer` takes n rows of one kind, on `device`. Rows are of one kind if their arrays have the same
    shapes; those named in `padded` may be of any length, and zeros behind them change no answer. A server is
    asked with each row by itself, of whatever kind, by `each` instead of `answer`.
    """

    reference: str = ""
    digest: str = ""  # sha256 of the file, hexadecimal
    takes: str  # in words: "64 features a row"; "" where that is not known here
    task: str
    fit: Callable[[Tensors], Row | str]
    answer: Callable[[Batch], Tensor | Answers]
    each: Callable[[Sequence[Row]], Answers] | None = None
    device: torch.device = CPU
    padded: frozenset[str] = frozenset()
    input: str | None = None  # the one tensor of a request that it reads, where its file names one
    most: int = (
        512  # rows at once: on a CPU nothing is gained beyond, on a GPU memory is bisected down to fit
    )
    unproven: bool = False  # whether nobody but its reference says its digest
    rest: Callable[[], None] = nothing  # its memory is free until it is asked again


def task_of(about: Mapping[str, str], otherwise: str, *, known: Collection[str] = ROWS) -> str:
    """What the metadata says that answers are, or what follows from their form; raises `Refused`."""
    task = about.get("task", otherwise)
    if task not in known:
        raise Refused(f'metadata task: "{task}" is none of {", ".join(known)}')
    return task


def first_row(tensors: Tensors, features: int, name: str | None = None) -> Row | str:
    """The request's first row {"row": [features]}, if the tensor of this name holds such rows.

    Without a name exactly one has to. The first alone: rows of one request are not independent of each
    other, and requests are counted.
    """
    named = [one for called, one in tensors.items() if name in {None, called} and one.dtype != object]
    fitting = [one for one in named if one.size == len(one) * features]
    if len(fitting) != 1:
        return f"without one tensor {'' if name is None else f'{name} '}of {features} features a row"
    with np.errstate(over="ignore"):  # what is beyond its type is infinite
        return {"row": fitting[0].reshape(-1, features)[0].astype(np.float32)}
