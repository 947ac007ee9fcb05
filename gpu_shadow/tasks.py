"""What "the canary answers differently" means, by the kind of model, and what else is measured of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_shadow import fused

NONE = float("inf")  # in place of a token's log-probability where a completion has no more tokens
TINY = 1e-38  # in place of a probability of 0, whose logarithm would be infinite


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Two answers to each of n requests: whether they differ, by how much, and figures, each (n,).

    `apart` orders requests from alike (0) to entirely different (1). `clear` is how far stable's answer
    was from being another one, in the unit of the figure `max_delta`; None where a task has no such thing.
    `turned` are the classes of both, for classification.
    """

    differ: Tensor
    apart: Tensor
    figures: Mapping[str, Tensor]
    clear: Tensor | None = None
    turned: tuple[Tensor, Tensor] | None = None

    def first(self) -> "Pairs":
        """Of the first request alone."""
        return Pairs(
            differ=self.differ[:1],
            apart=self.apart[:1],
            figures={name: each[:1] for name, each in self.figures.items()},
            clear=None if self.clear is None else self.clear[:1],
            turned=None if self.turned is None else (self.turned[0][:1], self.turned[1][:1]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How answers are to be compared; see `compare`."""

    task: str = "classification"
    top: int = 5
    tolerance: float = 0.01
    probabilities: bool = False


def classification(stable: Tensor, other: Tensor, asked: Asked) -> Pairs:
    """They differ if the highest score belongs to another class."""
    found = fused.paired(logits(stable, asked), logits(other, asked), top=asked.top)
    names = [name for name in fused.FIGURES if name not in {"first", "other", "margin"}]
    return Pairs(
        differ=found.first != found.other,
        apart=found.tv,
        figures={name: getattr(found, name) for name in names},
        clear=found.margin,
        turned=(found.first, found.other),
    )


def logits(scores: Tensor, asked: Asked) -> Tensor:
    """Scores whose softmax are the classes' probabilities."""
    return scores.double().clamp(min=TINY).log() if asked.probabilities else scores


def regression(stable: Tensor, other: Tensor, asked: Asked) -> Pairs:
    """They differ if a value is further from stable's than `tolerance` times stable's."""
    s, c = stable.double(), other.double()
    off = (c - s).abs()
    relative = torch.where(off == 0, 0.0, off / torch.maximum(s.abs(), c.abs()))
    return Pairs(
        differ=(off > asked.tolerance * s.abs()).any(-1),
        apart=relative.amax(-1) / 2,
        figures={"difference": (c - s).mean(-1), "max_delta": off.amax(-1), "relative": relative.amax(-1)},
    )


def embedding(stable: Tensor, other: Tensor, asked: Asked) -> Pairs:
    """They differ if the cosine of the two vectors is below 1 - `tolerance`."""
    s, c = _directed(stable.double()), _directed(other.double())
    distance = (s - c).square().sum(-1) / 2  # 1 - cosine, without a difference of nearly equal numbers
    return Pairs(
        differ=distance > asked.tolerance,
        apart=distance / 2,
        figures={
            "cosine_distance": distance,
            "max_delta": (other.double() - stable.double()).abs().amax(-1),
        },
    )


def _directed(vectors: Tensor) -> Tensor:
    """Of length 1, however long they were; 0 stays 0."""
    longest = vectors.abs().amax(-1, keepdim=True)
    vectors = vectors / torch.where(longest > 0, longest, 1.0)  # whose squares are finite
    return torch.nn.functional.normalize(vectors, dim=-1)


def ranking(stable: Tensor, other: Tensor, asked: Asked) -> Pairs:
    """They differ if the `top` items are not the same in the same order.

    `displaced` is 1 less the mean over depths 1 to `top` of the share of items that both have down to there.
    """
    s, c = stable.double(), other.double()
    top = max(1, min(asked.top, s.shape[-1]))
    best, rivals = fused.highest(s, top=top), fused.highest(c, top=top)
    matched = (best[:, :, None] == rivals[:, None, :]).double().cumsum(-1).cumsum(-2)
    shared = torch.diagonal(matched, dim1=-2, dim2=-1) / torch.arange(1, top + 1, device=s.device)
    displaced = (1 - shared.mean(-1)).clamp(0, 1)
    return Pairs(
        differ=(best != rivals).any(-1),
        apart=displaced,
        figures={
            "displaced": displaced,
            "missed": (1 - shared[:, -1]).clamp(0, 1),
            "max_delta": (c - s).abs().amax(-1),
        },
    )


def text(stable: Tensor, other: Tensor, asked: Asked) -> Pairs:
    """They differ if a token's mean log-probability is further off than `tolerance`.

    Of the same completion (n, tokens) under both models, `NONE` behind its end. exp(-`per_token`) is the
    ratio of the two perplexities; `beyond` the share of tokens that are further off than `tolerance` each.
    """
    there = stable != NONE
    off = torch.where(there, other.double() - stable.double(), 0.0)
    length = there.sum(-1).clamp(min=1).double()
    per_token = off.cumsum(-1)[:, -1] / length  # from left to right, so that what is behind changes no digit
    return Pairs(
        differ=per_token.abs() > asked.tolerance,
        apart=1 - torch.exp(-per_token.abs()),
        figures={
            "per_token": per_token,
            "beyond": (off.abs() > asked.tolerance).sum(-1) / length,
            "max_delta": off.abs().amax(-1),
        },
    )


def tokens(scores: Tensor) -> Tensor:
    """How many tokens each completion (n, longest) has (n,)."""
    return (scores != NONE).sum(-1)


def filled(*answers: Tensor) -> Iterator[Tensor]:
    """Completions (n, longest), filled up to the longest of all."""
    longest = max(each.shape[-1] for each in answers)
    return (torch.nn.functional.pad(each, (0, longest - each.shape[-1]), value=NONE) for each in answers)


TASKS: Mapping[str, Callable[[Tensor, Tensor, Asked], Pairs]] = {
    "classification": classification,
    "regression": regression,
    "embedding": embedding,
    "ranking": ranking,
    "text": text,
}
