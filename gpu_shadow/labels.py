"""What answers are worth where the right ones are known: which version is wrong, and how sure it was.

Labels usually come late and for some requests only; one that is not known is below 0 (a class) or NaN (a
number), and its request is left out of everything here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_shadow.tally import BINS, LARGEST, Answers, Marks, Spread, Sure, counted, exact_sum
from gpu_shadow.tasks import TASKS, Asked, logits

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """Of the requests with a label: which versions are wrong, how sure they were, and what the canary lost.

    `figures` are losses of the canary's answers less those of stable's first ones, `floor` of its second.
    """

    wrong: Answers = field(default_factory=Answers)
    marks: Mapping[str, Marks] = field(default_factory=dict)
    figures: Mapping[str, Spread] = field(default_factory=dict)
    floor: Mapping[str, Spread] = field(default_factory=dict)


def check(labels: Tensor, stable: Tensor, task: str) -> None:
    """Raises `ValueError` for labels that cannot be those of these answers (n, outputs)."""
    form = f"label is {str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}"
    if task == "classification":
        if labels.shape != stable.shape[:1] or labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"{form}; give the right class of each of the {len(stable)} requests")
        most = int(labels.max()) if len(labels) else 0
        if most >= stable.shape[-1]:
            raise ValueError(f"label {most} is none of the {stable.shape[-1]} classes, which begin at 0")
    elif task == "regression":
        if labels.numel() != stable.numel() or len(labels) != len(stable) or not labels.is_floating_point():
            raise ValueError(f"{form}; give the right value for each of stable's {tuple(stable.shape)}")
    else:
        raise ValueError(f"answers of the task {task} are neither right nor wrong: give no labels")


def known(labels: Tensor, answers: Tensor) -> Tensor:
    """Which requests (n,) have a label."""
    if labels.is_floating_point():
        return torch.isfinite(labels.reshape(len(answers), -1)).all(-1)
    return labels >= 0


def marked(
    stable: Tensor, again: Tensor | None, canary: Tensor, *, labels: Tensor, sound: Bools, asked: Asked
) -> Marked:
    """What labels say of answers (n, outputs); one of the canary's that is not `sound` is wrong."""
    keep = known(labels, stable)
    stable, canary, labels = stable[keep], canary[keep], labels[keep]
    again = None if again is None else again[keep]
    sound = sound[keep.cpu().numpy()]
    if not len(labels):
        return Marked()
    kind = _classes if asked.task == "classification" else _values
    return kind(stable, again, canary, labels=labels, sound=sound, asked=asked)


def _classes(
    stable: Tensor, again: Tensor | None, canary: Tensor, *, labels: Tensor, sound: Bools, asked: Asked
) -> Marked:
    of = {
        name: _Judged.of(each, labels, asked)
        for name, each in (("stable", stable), ("again", again), ("canary", canary))
        if each is not None
    }
    one, other = of["stable"], of["canary"]
    return Marked(
        wrong=_wrong(~one.right, ~other.right | ~sound),
        marks={"stable": one.marks(sound), "canary": other.marks(sound)},
        figures=other.less(one, sound),
        floor=of["again"].less(one, np.isfinite(of["again"].nll)) if "again" in of else {},
    )


def _values(
    stable: Tensor, again: Tensor | None, canary: Tensor, *, labels: Tensor, sound: Bools, asked: Asked
) -> Marked:
    true = labels.reshape(len(stable), -1)
    differ = [TASKS["regression"](true, each, asked).differ.cpu().numpy() for each in (stable, canary)]
    off = [_off(each, true) for each in (stable, canary)]
    figures = {"error": Spread.of((off[1] - off[0])[sound])}
    floor = {}
    if again is not None:
        second = _off(again, true) - off[0]
        floor = {"error": Spread.of(second[np.isfinite(second)])}
    return Marked(wrong=_wrong(differ[0], differ[1] | ~sound), figures=figures, floor=floor)


def _off(values: Tensor, true: Tensor) -> Floats:
    """How far values (n, outputs) are from the true ones, on average (n,)."""
    off = _rows(values.double() - true.double()).abs().mean(-1)
    return off[: len(values)].clamp(max=LARGEST).cpu().numpy()


def _rows(values: Tensor) -> Tensor:
    """At least two: a row that is alone is summed by several threads, and may come out otherwise."""
    return values.expand(2, -1) if len(values) == 1 else values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Judged:
    """One version's answers, each (n,): right or not, how sure, Brier score, negative log-likelihood."""

    right: Bools
    confidence: Floats
    brier: Floats
    nll: Floats

    @classmethod
    def of(cls, scores: Tensor, labels: Tensor, asked: Asked) -> "_Judged":
        n = len(scores)
        log_p = _rows(logits(scores, asked)).double().log_softmax(-1)
        at = labels.long()[:, None]
        squares, log_p = log_p.exp().square().sum(-1)[:n], log_p[:n]
        p = log_p.exp()
        true = p.gather(-1, at)[:, 0]
        return cls(
            right=(p.argmax(-1) == at[:, 0]).cpu().numpy(),
            confidence=p.amax(-1).clamp(max=1).cpu().numpy(),
            brier=(1 - 2 * true + squares).clamp(0, 2).cpu().numpy(),
            nll=(-log_p.gather(-1, at)[:, 0]).clamp(0, LARGEST).cpu().numpy(),
        )

    def marks(self, kept: Bools) -> Marks:
        right, confidence = self.right[kept], self.confidence[kept]
        place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        return Marks(
            n=len(right),
            brier=exact_sum(self.brier[kept]),
            nll=exact_sum(self.nll[kept]),
            bins={
                at: Sure(
                    n=n, right=int(right[place == at].sum()), confidence=exact_sum(confidence[place == at])
                )
                for at, n in counted(place).items()
            },
        )

    def less(self, other: "_Judged", kept: Bools) -> dict[str, Spread]:
        return {
            "brier": Spread.of((self.brier - other.brier)[kept]),
            "nll": Spread.of((self.nll - other.nll)[kept]),
        }


def _wrong(stable: Bools, canary: Bools) -> Answers:
    """Counted by who is wrong, stable in the place of its second answers."""
    kinds = np.bincount(canary + 2 * stable, minlength=4).tolist()
    return Answers(same=kinds[0], canary=kinds[1], again=kinds[2], both=kinds[3])
