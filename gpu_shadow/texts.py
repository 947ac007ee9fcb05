"""Completions of language models, token by token: what both make of the same text, and where their own part.

A model that answers freely may say the same in other words. What can be compared is how probable both find
one and the same completion, the one that was recorded: a log-probability for each of its tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from gpu_shadow.compare import AT_ONCE, Comparison, compare, merged
from gpu_shadow.files import BadFile, kind, slices, tensors
from gpu_shadow.tally import Spread
from gpu_shadow.tasks import NONE


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of different lengths, one after the other: row i is `values[ends[i] : ends[i + 1]]`."""

    values: Tensor
    ends: tuple[int, ...]

    def padded(self, rows: slice, fill: float, *, longest: int = 0) -> Tensor:
        """Some rows as (n, longest), filled up on the right."""
        ends = torch.tensor(self.ends[rows.start : rows.stop + 1])
        lengths = ends.diff()
        wide = max(longest, int(lengths.max()))
        there = torch.arange(wide) < lengths[:, None]
        found = torch.full(there.shape, fill, dtype=self.values.dtype)
        found[there] = self.values[ends[0] : ends[-1]]
        return found

    def longest(self, rows: slice) -> int:
        """Of some rows."""
        ends = self.ends[rows.start : rows.stop + 1]
        return max(end - start for start, end in pairwise(ends))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Texts:
    """Log-probabilities (natural) of the recorded completions' tokens; `free` are its own answers' tokens."""

    scores: Ragged
    free: Ragged | None = None
    slices: tuple[str, ...] | None = None

    @property
    def ends(self) -> tuple[int, ...]:
        """Where completions end, with a 0 before the first."""
        return self.scores.ends

    @property
    def means(self) -> Tensor:
        """A token's mean log-probability (n, 1); NaN of an empty completion."""
        lengths = torch.tensor(self.ends).diff()
        of = torch.arange(len(lengths)).repeat_interleave(lengths)
        total = torch.zeros(len(lengths), dtype=torch.float64).index_add_(0, of, self.scores.values.double())
        return (total / lengths)[:, None]


def read(path: Path) -> Texts:
    """What the file holds: `output` and maybe `token`, each with `length` or `offset`. Raises `BadFile`.

    `output` is [n, longest] with `length` [n], or [tokens] with `offset` [n + 1], of which the first is 0.
    """
    forms = ("length", "offset", "token", "token_length", "token_offset", "slice")
    found = tensors(path, "output", others=forms)
    if not found["output"].is_floating_point():
        raise BadFile(f"{path}: output is {kind(found['output'])}; give log-probabilities of tokens")
    scores = _ragged(path, found, "output", "")
    free = _ragged(path, found, "token", "token_") if "token" in found else None
    n = len(scores.ends) - 1
    if free is not None and (len(free.ends) - 1 != n or free.values.is_floating_point()):
        raise BadFile(f"{path}: token has {len(free.ends) - 1} rows of {kind(free.values)}; give {n} of ids")
    return Texts(scores=scores, free=free, slices=slices(path, found.get("slice"), n))


def _ragged(path: Path, found: dict[str, Tensor], name: str, prefix: str) -> Ragged:
    values, length, offset = found[name], found.get(f"{prefix}length"), found.get(f"{prefix}offset")
    if values.dim() == 2 and length is not None and length.shape == values.shape[:1] and _whole(length):
        if not ((length >= 0) & (length <= values.shape[1])).all():
            raise BadFile(f"{path}: {prefix}length is not between 0 and {values.shape[1]}, {name}'s width")
        there = torch.arange(values.shape[1]) < length[:, None]
        return Ragged(values[there], (0, *length.cumsum(0).tolist()))
    if values.dim() == 1 and offset is not None and offset.dim() == 1 and len(offset) and _whole(offset):
        ends = offset.tolist()
        if ends[0] != 0 or ends[-1] != len(values) or ends != sorted(ends):
            raise BadFile(f"{path}: {prefix}offset has to rise from 0 to {len(values)}, the end of {name}")
        return Ragged(values, tuple(ends))
    raise BadFile(
        f"{path}: {name} is {tuple(values.shape)}; give [n, longest] with {prefix}length [n], or [tokens]"
        f" with {prefix}offset [n + 1], whole numbers"
    )


def _whole(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool


def compared(
    stable: Texts, again: Texts | None, canary: Texts, ids: Sequence[str], *, tolerance: float
) -> Comparison:
    """All completions, in parts that fit into memory."""
    parts = []
    for rows in _chunks(stable.scores):
        found = compare(
            stable.scores.padded(rows, NONE),
            None if again is None else again.scores.padded(rows, NONE),
            canary.scores.padded(rows, NONE),
            ids[rows],
            slices=None if stable.slices is None else stable.slices[rows],
            task="text",
            tolerance=tolerance,
        )
        parts.append(
            replace(
                found,
                figures={**found.figures, **_diverged(stable, canary, rows)},
                floor={**found.floor, **({} if again is None else _diverged(stable, again, rows))},
            )
        )
    return merged("text", parts)


def _diverged(stable: Texts, other: Texts, rows: slice) -> dict[str, Spread]:
    """How much of what they answered freely comes after the first token that is another; 0: nothing."""
    if stable.free is None or other.free is None:
        return {}
    longest = max(stable.free.longest(rows), other.free.longest(rows))
    first, second = (each.free.padded(rows, -1, longest=longest) for each in (stable, other) if each.free)
    same = (first == second).long().cumprod(1).sum(1)  # tokens until they part
    long = torch.maximum((first >= 0).sum(1), (second >= 0).sum(1))
    share = torch.where(same >= long, 0.0, 1 - same.double() / long.clamp(min=1))
    return {"diverged": Spread.of(share.numpy())}


def _chunks(texts: Ragged) -> Iterator[slice]:
    """Rows that together, filled up to the longest of them, are not too many numbers."""
    start, longest = 0, 1
    for row in range(len(texts.ends) - 1):
        longest = max(longest, texts.ends[row + 1] - texts.ends[row])
        if (row + 1 - start) * longest > AT_ONCE and row > start:
            yield slice(start, row)
            start, longest = row, max(1, texts.ends[row + 1] - texts.ends[row])
    if start < len(texts.ends) - 1:
        yield slice(start, len(texts.ends) - 1)
