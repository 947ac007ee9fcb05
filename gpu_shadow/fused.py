"""How the answers of two classifiers differ, request by request: all figures in one pass over the scores.

`paired` chooses: on a GPU one kernel reads each pair of rows once and keeps it in registers; anywhere
else `reference` says the same in plain torch, in float64, one line a figure.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Paired:
    """One value (n,) a request. p and q are the softmax of stable's and the canary's scores.

    Of classes with the same score the first counts as the higher. Scores that are -inf in both rows are
    alike. Rows with other scores that are not finite have figures without a meaning.
    """

    first: Tensor  # stable's class
    other: Tensor  # the canary's class
    margin: Tensor  # stable's highest score less its second
    missed: Tensor  # share of stable's highest `top` classes that are not among the canary's
    kl: Tensor  # nats, KL(p || q)
    js: Tensor  # nats, at most log 2
    tv: Tensor  # total variation, 0 to 1
    max_delta: Tensor  # largest difference of a score
    mean_delta: Tensor  # mean of |difference| over the classes
    confidence: Tensor  # max q - max p
    entropy: Tensor  # nats, of q less of p


FIGURES = tuple(each.name for each in fields(Paired))


def paired(stable: Tensor, canary: Tensor, *, top: int = 5) -> Paired:
    """The figures of `Paired` for scores (n, classes) of both, in any dtype, on the device they are on.

    In float64, but in float32 on a GPU.
    """
    top = max(1, min(top, stable.shape[-1] - 1))
    if stable.is_cuda and len(stable):
        from gpu_shadow import kernel  # needs triton, which there is for GPUs only

        return Paired(**kernel.paired(stable, canary, top=top))
    return reference(stable, canary, top=top)


def reference(stable: Tensor, canary: Tensor, *, top: int) -> Paired:
    """The figures in float64, as they are defined."""
    s, c = stable.double(), canary.double()
    log_p, log_q = s.log_softmax(-1), c.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    log_m = ((p + q) / 2).log()
    apart = torch.where(s == c, 0.0, (c - s).abs())
    best, rivals = highest(s, top=top), highest(c, top=top)
    two = s.topk(2, dim=-1).values
    return Paired(
        first=best[:, 0],
        other=rivals[:, 0],
        margin=two[:, 0] - two[:, 1],
        missed=1 - (best[:, :, None] == rivals[:, None, :]).sum((-2, -1)).double() / top,
        kl=_expected(p, log_p - log_q).clamp(min=0),
        js=(_expected(p, log_p - log_m) / 2 + _expected(q, log_q - log_m) / 2).clamp(min=0),
        tv=(p - q).abs().sum(-1) / 2,
        max_delta=apart.amax(-1),
        mean_delta=apart.mean(-1),
        confidence=q.amax(-1) - p.amax(-1),
        entropy=_expected(p, log_p) - _expected(q, log_q),
    )


def highest(scores: Tensor, *, top: int) -> Tensor:
    """The classes (n, top) with the highest scores, highest first; of equal ones the first."""
    left, found = scores.clamp(min=torch.finfo(scores.dtype).min), []
    for _ in range(top):
        found.append(left.argmax(-1, keepdim=True))
        left.scatter_(-1, found[-1], -torch.inf)  # below all that are left
    return torch.cat(found, dim=-1)


def _expected(p: Tensor, values: Tensor) -> Tensor:
    """The sum of p x values (n,), where p is not 0."""
    return torch.where(p > 0, p * values, 0.0).sum(-1)
