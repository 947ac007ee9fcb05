"""Rows of any shapes through one model: sorted into kinds, padded, cut, halved where memory ends."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpu_shadow.model import Answers, Array, Batch, Model, Refused, Row
from gpu_shadow.tasks import filled

STEPS = (
    16_384  # of padded inputs at once, such as tokens: 50 MB for each 768 numbers that a layer makes of one
)
MOST = (
    2**26
)  # numbers that are answered at once: 256 MiB of float32, of three passes, in a pod that has 2 GiB


class TooLarge(RuntimeError):
    """A single row does not fit into the device's memory."""


@dataclass(slots=True)
class Cut:
    """How many rows go through at once; what did not fit is not tried again."""

    rows: int


def answers(model: Model, rows: Sequence[Row], cut: Cut, *, backwards: bool = False) -> Answers:
    """The model's answers to the rows [n, outputs], in their order, on its device.

    `backwards` is the order in which they go through. Where no row was answered there are no outputs [n, 0].
    Raises `TooLarge`, and `Refused` for answers that nobody could hold.
    """
    places: list[int] = []
    parts: list[Tensor] = []
    failed: dict[int, str] = {}
    plan = deque(planned(rows, model, cut.rows, backwards=backwards))
    while plan:
        some = plan.popleft()
        these, rest = some[: cut.rows], some[cut.rows :]
        found = _tried(model, [rows[place] for place in these])
        if found is None:
            cut.rows, rest = len(these) // 2, some
        else:
            if len(rows) * found.values.shape[-1] > MOST:
                raise Refused(
                    f"{model.reference}: an answer has {found.values.shape[-1]} numbers, and {len(rows)}"
                    f" answers at once may have {MOST} together; name a smaller output"
                )
            failed |= {these[place]: why for place, why in found.failed.items()}
            parts.append(found.values)
            places += these
        if rest:
            plan.appendleft(rest)
    whole = _joined(parts)
    back = torch.empty(len(places), dtype=torch.long)
    back[torch.tensor(places, dtype=torch.long)] = torch.arange(len(places))
    return Answers(whole[back.to(whole.device)], failed)


def planned(rows: Sequence[Row], model: Model, batch: int, *, backwards: bool = False) -> Iterator[list[int]]:
    """The rows' places, together those that can be stacked, `batch` at most.

    Padded arrays are together if their lengths agree up to a factor of two, so that at most half is padding.
    """
    kinds: dict[object, list[int]] = {}
    for place in reversed(range(len(rows))) if backwards else range(len(rows)):
        kinds.setdefault(None if model.each else _kind(rows[place], model), []).append(place)
    for some in kinds.values():
        longest = max((len(rows[place][name]) for place in some for name in model.padded), default=1)
        size = max(1, min(batch, model.most, STEPS // longest))
        yield from (some[at : at + size] for at in range(0, len(some), size))


def _kind(row: Row, model: Model) -> object:
    padded = model.padded
    return tuple(
        (name, len(one).bit_length() if name in padded else one.shape, one.dtype) for name, one in row.items()
    )


def _tried(model: Model, rows: Sequence[Row]) -> Answers | None:
    """One batch through the model; None if it does not fit into memory and half of it might."""
    try:
        with torch.inference_mode():
            found = model.answer(stacked(rows, model)) if model.each is None else model.each(rows)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        if len(rows) == 1:
            raise TooLarge(f"{model.reference}: one row does not fit into memory") from error
        return None
    return found if isinstance(found, Answers) else Answers(found)


def stacked(rows: Sequence[Row], model: Model) -> Batch:
    """Rows of one kind as one batch on the model's device."""
    return {
        name: torch.from_numpy(_stack([row[name] for row in rows], padded=name in model.padded)).to(
            model.device
        )
        for name in rows[0]
    }


def _stack(arrays: Sequence[Array], *, padded: bool) -> Array:
    longest = max(len(one) for one in arrays) if padded else 0
    if not padded or all(len(one) == longest for one in arrays):
        return np.stack(arrays)
    found = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), arrays[0].dtype)
    for place, one in enumerate(arrays):
        found[place, : len(one)] = one
    return found


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """All of them; of one without a single answer, NaN for each. Completions are of any length."""
    answered = [part for part in parts if part.shape[-1]]
    if len({part.shape[1:] for part in answered}) > 1:
        return _joined(list(filled(*parts)))
    wide = answered[0].shape[1:] if answered else torch.Size((0,))
    return torch.cat(
        [part if part.shape[-1] else part.new_full((len(part), *wide), torch.nan) for part in parts]
    )


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that the device, or the machine, has no memory left for a batch of this size."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
