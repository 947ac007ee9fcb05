"""Recorded requests through both models, in three passes: stable, stable again, canary.

The second pass is of the same model on the same rows in batches of another size and order. What differs
between the first two is the noise floor: no version could differ less. The passes add up (`compare.merge`
is exact), so that a replay may be stopped anywhere and gone on with, and it stops by itself as soon as
the evidence decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.judge import Verdict
from gpu_shadow.compare import Comparison, Finding, Margins, compare, decide, failed, merge
from gpu_shadow.models import Model
from gpu_shadow.recorder import Recorded

Json = Any
BATCH = 512  # rows at once: on a CPU nothing is gained beyond, on a GPU memory is bisected down to fit
AGAIN = 0.375  # of it in the second pass: 192 rows, so that no kernel sees the same shape twice
LOOK = 2_048  # rows between looks at the evidence
WARM_UP = 3  # batches of each model whose answers are thrown away: kernels are chosen and caches fill


class TooLarge(RuntimeError):
    """A single row does not fit into the device's memory."""


@dataclass(slots=True)
class Replay:
    """One run's replay: what was compared so far, and how far it got."""

    stable: Model
    canary: Model
    margins: Margins
    batch: int = BATCH
    comparison: Comparison | None = None  # of all that came so far
    position: int = 0  # the order of arrival of the last request that was compared
    rows: int = 0
    unfit: int = 0  # requests that are none of the stable model's
    finding: Finding | None = None
    _warm: bool = field(default=False)

    @property
    def decided(self) -> bool:
        """Whether more requests would change nothing."""
        return self.finding is not None and self.finding.verdict in {Verdict.PASS, Verdict.FAIL}

    def go_on(self, recorded: Sequence[Recorded]) -> Finding | None:
        """What the evidence says with these requests, or with as many of them as it took to decide.

        Requests up to `position` have been compared before and are left out. None: nothing was compared yet.
        """
        news = [one for one in recorded if one.order > self.position]
        for at in range(0, len(news), LOOK):
            if self.decided:
                break
            self._look(news[at : at + LOOK])
        return self.finding

    def _look(self, some: Sequence[Recorded]) -> None:
        fitting = [
            (one.id, row) for one in some if (row := row_of(one.tensors, self.stable.features)) is not None
        ]
        self.unfit += len(some) - len(fitting)
        if fitting:
            new = self._compared(np.stack([row for _, row in fitting]), [name for name, _ in fitting])
            self.comparison = new if self.comparison is None else merge(self.comparison, new)
            self.rows += len(fitting)
            self.finding = decide(self.comparison, self.margins)
        self.position = max(self.position, some[-1].order)

    def _compared(self, rows: np.ndarray[Any, np.dtype[np.float32]], ids: Sequence[str]) -> Comparison:
        """The three passes over the rows [n, features]."""
        given, task = torch.from_numpy(rows), self.margins.task
        if self.canary.features != self.stable.features:
            return failed(ids, task=task, twice=True)
        if not self._warm:
            for model in (self.stable, self.canary) * WARM_UP:
                self._answers(model, given[: self.batch], self.batch)
            self._warm = True
        stable = self._answers(self.stable, given, self.batch)
        smaller = max(1, min(round(self.batch * AGAIN), len(given) // 2))
        again = self._answers(self.stable, given.flip(0), smaller).flip(0)
        return compare(stable, again, self._answers(self.canary, given, self.batch), ids, task=task)

    def _answers(self, model: Model, rows: Tensor, batch: int) -> Tensor:
        """The model's outputs for the rows [n, outputs], on its device; batches are halved until they fit."""
        done: list[Tensor] = []
        at = 0
        while at < len(rows):
            try:
                done.append(answered(model, rows[at : at + batch]))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if batch == 1:
                    raise TooLarge(f"{model.reference}: one row does not fit into memory") from error
                batch = max(1, batch // 2)
                self.batch = min(self.batch, batch)
                continue
            at += batch
        return torch.cat(done)


def answered(model: Model, rows: Tensor) -> Tensor:
    """One batch through the model."""
    with torch.inference_mode():
        return model.answer(rows.to(model.device))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that the device, or the machine, has no memory left for a batch of this size."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def row_of(
    tensors: Mapping[str, np.ndarray[Any, Any]], features: int
) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """The request's first row [features]; None unless exactly one of its tensors holds such rows.

    The first alone: rows of one request are not independent of each other, and requests are counted.
    """
    fitting = [one for one in tensors.values() if one.size == len(one) * features]
    return fitting[0].reshape(-1, features)[0].astype(np.float32) if len(fitting) == 1 else None
