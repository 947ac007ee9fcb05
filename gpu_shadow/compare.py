"""The answers of two models to the same requests, compared: torch tensors in, a `Comparison` out.

Pure: no files, no network, no clock. Everything another part of the program needs is here:
`compare` a batch, `merge` what was compared apart, `decide` what it says.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpu_shadow import labels as right
from gpu_shadow.finding import Finding, Margins, decide
from gpu_shadow.tally import (
    COUNTS,
    LARGEST,
    REST,
    WORST,
    Answers,
    Comparison,
    Spread,
    buckets,
    by_label,
    counted,
    foremost,
    merge,
    merged,
    told,
)
from gpu_shadow.tasks import NONE, TASKS, Asked, Pairs

__all__ = ["Comparison", "Finding", "Margins", "compare", "decide", "failed", "merge", "merged"]

AT_ONCE = 2**22  # scores of one tile; in float64, with what is made of them, 300 MB
FEW_CLASSES = 100  # whose turns from one to another are counted
LONGEST = 160  # letters of a reason why there is no answer
BROKEN = 3.0  # how different an answer is that is none: more than any that is

Bools = NDArray[np.bool_]


def compare(
    stable: Tensor,
    again: Tensor | None,
    canary: Tensor,
    ids: Sequence[str],
    *,
    slices: Sequence[str] | None = None,
    labels: Tensor | None = None,
    task: str = "classification",
    top: int = 5,
    tolerance: float = 0.01,
    probabilities: bool = False,
) -> Comparison:
    """One batch of answers (n, outputs) of stable, of stable once more (the noise floor), of the canary.

    Row i of each is the answer to the request `ids[i]`, which belongs to `slices[i]`. `again` should come
    from another batch size and order; None if it was not measured. Of classes and of a ranking's items the
    `top` ones are compared; `tolerance` is relative to stable's value (regression), of 1 - cosine
    (embedding), or of a token's mean log-probability (text). `labels` are the right answers as far as they
    are known: classes (n,), of which those below 0 are not, or numbers as stable's, of which NaN are not.
    Scores are logits unless `probabilities`. Any dtype, any one device.

    An answer of the canary with another shape, or integers in place of floats, is counted, not refused.
    Raises `ValueError` if stable's own answers do not fit: then it is the question that is wrong.
    """
    asked = Asked(task=task, top=top, tolerance=tolerance, probabilities=probabilities)
    _check(stable, again, ids, slices, asked)
    if labels is not None:
        right.check(labels, stable, task)
        labels = labels.to(stable.device)
    names = None if slices is None else list(slices)
    if not ids:
        return Comparison(task=task)
    mismatch = _mismatch(stable, canary)
    if mismatch is not None:
        part = _unanswered(ids, names, task=task, twice=again is not None)
        return replace(part, mismatched=len(ids), mismatches=(mismatch,))
    stable, canary = _flat(stable), _flat(canary)
    again = None if again is None else _flat(again)
    tile = max(1, AT_ONCE // max(stable.shape[-1], 1))
    parts = []
    for start in range(0, len(ids), tile):
        rows = slice(start, start + tile)
        second = None if again is None else again[rows]
        named = None if names is None else names[rows]
        true = None if labels is None else labels[rows]
        part = _tile(
            stable[rows], second, canary[rows], ids=ids[rows], slices=named, labels=true, asked=asked
        )
        parts.append(part)
    return merged(task, parts)


def failed(
    ids: Sequence[str],
    *,
    slices: Sequence[str] | None = None,
    task: str = "classification",
    twice: bool,
    why: Iterable[str] = (),
) -> Comparison:
    """Requests that stable answered (`twice`, or once) and the canary with an error, and some reasons."""
    part = _unanswered(ids, None if slices is None else list(slices), task=task, twice=twice)
    return replace(part, failed=len(ids), failures=told(one[:LONGEST] for one in why))


def _check(
    stable: Tensor, again: Tensor | None, ids: Sequence[str], slices: Sequence[str] | None, asked: Asked
) -> None:
    if asked.task not in TASKS:
        raise ValueError(f"task {asked.task!r} is none of {', '.join(TASKS)}")
    if stable.dim() != 2 and not (stable.dim() and asked.task == "regression"):
        raise ValueError(f"stable's answers have the shape {tuple(stable.shape)}, not (requests, outputs)")
    if stable.is_complex():
        raise ValueError("answers are complex numbers; give real ones")
    if len(ids) != len(stable) or (slices is not None and len(slices) != len(stable)):
        labels = "" if slices is None else f" and {len(slices)} slices"
        raise ValueError(f"{len(stable)} answers, but {len(ids)} ids{labels}: each request has one")
    if slices is not None and REST in slices:
        raise ValueError("a slice has no name: the empty one is for all beyond those that are told apart")
    if asked.task == "classification" and len(stable) and stable[0].numel() < 2:
        raise ValueError("one score a request cannot name another class: use the task regression")
    if again is not None and _mismatch(stable, again) is not None:
        raise ValueError(f"stable's second answers do not fit its first: {_mismatch(stable, again)}")


def _mismatch(stable: Tensor, other: Tensor) -> str | None:
    """How an answer's form differs from stable's; the width of its numbers may."""
    if len(other) != len(stable):
        return f"{len(other)} answers instead of {len(stable)}"
    if other.shape != stable.shape:
        return f"shape {tuple(other.shape[1:])} instead of {tuple(stable.shape[1:])}"
    if other.is_floating_point() != stable.is_floating_point() or other.is_complex():
        return f"{str(other.dtype)[6:]} instead of {str(stable.dtype)[6:]}"
    return None


def _flat(answers: Tensor) -> Tensor:
    """As (n, outputs)."""
    return answers.detach().reshape(len(answers), -1)


def _tile(
    stable: Tensor,
    again: Tensor | None,
    canary: Tensor,
    *,
    ids: Sequence[str],
    slices: Sequence[str] | None,
    labels: Tensor | None,
    asked: Asked,
) -> Comparison:
    usable = (torch.isfinite(stable) | _masked(stable, asked)).all(-1) & torch.isfinite(stable).any(-1)
    keep = usable.cpu().numpy()
    if not keep.all():
        stable, canary = stable[usable], canary[usable]
        again = None if again is None else again[usable]
        ids = [name for name, kept in zip(ids, keep, strict=True) if kept]
        slices = None if slices is None else [name for name, kept in zip(slices, keep, strict=True) if kept]
        labels = None if labels is None else labels[usable]
    sound, pairs = _pairs(stable, canary, asked)
    differ = _differ(pairs, sound)
    sound_again, floor = (None, None) if again is None else _pairs(stable, again, asked)
    floor_differ = None if floor is None or sound_again is None else _differ(floor, sound_again)
    kinds = differ + (4 if floor_differ is None else 2 * floor_differ)
    known = right.Marked()
    if labels is not None:
        known = right.marked(stable, again, canary, labels=labels, sound=sound, asked=asked)
    counts = dict(zip(COUNTS, np.bincount(kinds, minlength=len(COUNTS)).tolist(), strict=True))
    return Comparison(
        task=asked.task,
        answers=Answers(**counts),
        slices={} if slices is None else by_label(slices, kinds.tolist()),
        figures={**_figures(pairs, sound), **known.figures},
        floor={} if floor is None or sound_again is None else {**_figures(floor, sound_again), **known.floor},
        flips=_clear(pairs, differ),
        floor_flips={} if floor is None or floor_differ is None else _clear(floor, floor_differ),
        turns=_turns(pairs, sound, stable.shape[-1]),
        unusable=int((~keep).sum()),
        broken=int((~sound).sum()),
        broken_again=0 if sound_again is None else int((~sound_again).sum()),
        worst=_worst(pairs, sound, differ, ids),
        wrong=known.wrong,
        marks=known.marks,
    )


def _masked(scores: Tensor, asked: Asked) -> Tensor:
    """Scores (n, outputs) that need not be finite: of classes that are ruled out, of tokens that are none."""
    if asked.task == "text":
        return scores == NONE
    return (scores == -torch.inf) & (asked.task == "classification")


def _pairs(stable: Tensor, other: Tensor, asked: Asked) -> tuple[Bools, Pairs]:
    """Which answers (n,) of the other are numbers where stable's are, and how they compare."""
    sound = (torch.isfinite(other) | (_masked(other, asked) & _masked(stable, asked))).all(-1)
    if len(stable) != 1:
        return sound.cpu().numpy(), TASKS[asked.task](stable, other, asked)
    # a row that is alone is summed by several threads, and may come out otherwise in its last digit
    pairs = TASKS[asked.task](stable.expand(2, -1), other.expand(2, -1), asked)
    return sound.cpu().numpy(), pairs.first()


def _differ(pairs: Pairs, sound: Bools) -> NDArray[np.int64]:
    return (pairs.differ.cpu().numpy() | ~sound).astype(np.int64)


def _figures(pairs: Pairs, sound: Bools) -> dict[str, Spread]:
    return {name: Spread.of(_numbers(each)[sound]) for name, each in pairs.figures.items()}


def _numbers(values: Tensor) -> NDArray[np.float64]:
    return values.double().clamp(-LARGEST, LARGEST).cpu().numpy()


def _clear(pairs: Pairs, differ: NDArray[np.int64]) -> dict[int, int]:
    """How clear stable's answer was, of those that differ."""
    return {} if pairs.clear is None else counted(buckets(_numbers(pairs.clear)[differ == 1]))


def _turns(pairs: Pairs, sound: Bools, classes: int) -> dict[tuple[int, int], int]:
    """Classes of stable that the canary turned into others."""
    if pairs.turned is None or classes > FEW_CLASSES:
        return {}
    first, other = (each.cpu().numpy() for each in pairs.turned)
    places = (first * classes + other)[sound & (first != other)]
    return {divmod(place, classes): n for place, n in counted(places).items()}


def _worst(
    pairs: Pairs, sound: Bools, differ: NDArray[np.int64], ids: Sequence[str]
) -> tuple[tuple[float, str], ...]:
    how = np.where(sound, np.clip(np.nan_to_num(_numbers(pairs.apart)), 0, 1) + differ, BROKEN)
    least = np.sort(how)[-WORST:].min(initial=BROKEN)  # what is less is behind so many others
    return foremost(
        (float(how[place]), ids[place]) for place in np.flatnonzero((how > 0) & (how >= least)).tolist()
    )


def _unanswered(ids: Sequence[str], labels: Sequence[str] | None, *, task: str, twice: bool) -> Comparison:
    """Requests to which the canary's answer is none: each differs."""
    kind = COUNTS.index("canary" if twice else "once_canary")
    return Comparison(
        task=task,
        answers=Answers(**{COUNTS[kind]: len(ids)}),
        slices={} if labels is None else by_label(labels, [kind] * len(ids)),
        worst=foremost((BROKEN, name) for name in ids),
    )
