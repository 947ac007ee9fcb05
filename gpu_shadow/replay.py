"""Recorded requests through both models, in three passes: stable, stable again, canary.

The second pass is of the same model on the same rows in batches of another size and order. What differs
between the first two is the noise floor: no version could differ less. The passes add up (`compare.merge`
is exact), so that a replay may be stopped anywhere and gone on with, and it stops by itself as soon as
the evidence decides.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from analysis.judge import Verdict
from gpu_shadow.batches import Cut, answers
from gpu_shadow.compare import Comparison, Finding, Margins, compare, decide, failed, merge, merged
from gpu_shadow.model import Answers, Batch, Model, Row
from gpu_shadow.recorder import Recorded
from gpu_shadow.tasks import filled, tokens

Json = Any
BATCH = 512  # rows at once: on a CPU nothing is gained beyond, on a GPU memory is bisected down to fit
AGAIN = 0.375  # of it in the second pass: 192 rows, so that no kernel sees the same shape twice
LOOK = 2_048  # rows between looks at the evidence
FIRST = 256  # rows of the first, when nobody knows yet how large answers are
HELD = 2**24  # numbers that a look's answers may be, of each pass: 64 MiB of float32
WARM_UP = 3  # batches of each model whose answers are thrown away: kernels are chosen and caches fill


@dataclass(slots=True)
class Replay:
    """One run's replay: what was compared so far."""

    stable: Model
    canary: Model
    margins: Margins
    batch: int = BATCH
    comparison: Comparison | None = None  # of all that came so far
    rows: int = 0
    unfit: Counter[str] = field(
        default_factory=Counter
    )  # requests that are none of the stable model's, by reason
    redacted: set[str] = field(default_factory=set)  # what had been changed in any request, in words
    stops: bool = True  # once it is decided
    look: int = 0  # requests between looks at the evidence; 0: as many as answers are small enough for
    finding: Finding | None = None
    _warm: bool = field(default=False)
    _wide: int = field(default=0)  # numbers of an answer

    def resume(self, comparison: Comparison, unfit: Mapping[str, int]) -> None:
        """It goes on from what was compared before."""
        if comparison.requests:
            self.comparison, self.finding = comparison, decide(comparison, self.margins)
        self.unfit = Counter(unfit)

    @property
    def decided(self) -> bool:
        """Whether more requests would change nothing."""
        return self.finding is not None and self.finding.verdict in {Verdict.PASS, Verdict.FAIL}

    def go_on(self, recorded: Sequence[Recorded]) -> Finding | None:
        """What the evidence says with these requests, or with as many of them as it took to decide.

        None: nothing was compared yet.
        """
        at, self._wide = 0, 0  # whatever was before: the same requests are always cut alike
        while at < len(recorded) and not (self.decided and self.stops):
            look = self.look or (min(LOOK, max(1, HELD // self._wide)) if self._wide else FIRST)
            self._look(recorded[at : at + look])
            at += look
        return self.finding

    @property
    def turn(self) -> int:
        """How many requests go through without a look at the clock: as many as take seconds, not minutes."""
        return min(LOOK, 4 * self.stable.most, 4 * self.canary.most)

    def put_away(self) -> None:
        """The models' memory is free, and they answer nothing any more."""
        self.stable, self.canary = (
            replace(one, answer=_away, each=None) for one in (self.stable, self.canary)
        )

    def _look(self, some: Sequence[Recorded]) -> None:
        fitting, rows, others = [], [], []
        unfit: Counter[str] = Counter()  # counted once they are compared: a server may be away meanwhile
        for one in some:
            row = self.stable.fit(one.tensors)
            if isinstance(row, str):
                unfit[row] += 1
                continue
            fitting.append(one)
            rows.append(row)
            others.append(self.canary.fit(one.tensors))
        if rows:
            new = self._compared(fitting, rows, others)
            self.comparison = new if self.comparison is None else merge(self.comparison, new)
            self.rows += len(rows)
            self.finding = decide(self.comparison, self.margins)
        self.unfit.update(unfit)

    def _compared(
        self, some: Sequence[Recorded], rows: Sequence[Row], others: Sequence[Row | str]
    ) -> Comparison:
        """The three passes: over stable's rows twice, and over the canary's where the request has one."""
        task, cut = self.margins.task, Cut(self.batch)
        stable, again = self._stable_twice(rows, cut)
        asked = [place for place, other in enumerate(others) if not isinstance(other, str)]
        canary = self._passed(self.canary, [other for other in others if not isinstance(other, str)], cut)
        self.canary.rest()
        self._warm, self.batch, self._wide = True, cut.rows, stable.values.shape[-1]
        if not stable.values.shape[-1]:
            return Comparison(task=task, unusable=len(some))
        first, second, other = stable.values, again.values, canary.values
        failed = dict(canary.failed)
        if task == "text":
            first, second, other = filled(first, second, other)
            second[tokens(second) != tokens(first)] = torch.nan
            failed = _uneven(first[asked], other) | failed
        answered = [at for at in range(len(asked)) if at not in failed]
        places = [asked[at] for at in answered]
        lost = {asked[at]: why for at, why in failed.items()}
        lost |= {place: why for place, why in enumerate(others) if isinstance(why, str)}
        parts = [_unanswered(some, stable, lost, task=task)] if lost else []
        if places:
            both = compare(
                first[places],
                second[places],
                other[answered].to(first.device),
                [some[place].id for place in places],
                slices=_slices([some[place] for place in places]),
                task=task,
            )
            parts.append(both)
        return merged(task, parts)

    def _stable_twice(self, rows: Sequence[Row], cut: Cut) -> tuple[Answers, Answers]:
        first = self._passed(self.stable, rows, cut)
        smaller = Cut(max(1, min(round(cut.rows * AGAIN), len(rows) // 2)))
        again = answers(self.stable, rows, smaller, backwards=True)
        self.stable.rest()
        return first, again

    def _passed(self, model: Model, rows: Sequence[Row], cut: Cut) -> Answers:
        if not rows:
            return Answers(torch.empty(0, 0))
        for _ in range(0 if self._warm else WARM_UP):
            answers(model, rows[: cut.rows], cut)
        return answers(model, rows, cut)


def _away(_: Batch) -> Answers:
    raise RuntimeError("the model was put away")


def _uneven(stable: Tensor, canary: Tensor) -> dict[int, str]:
    """Completions of which the canary has another number of log-probabilities, and what is wrong."""
    lengths = zip(tokens(stable).tolist(), tokens(canary).tolist(), strict=True)
    return {
        at: f"{its} log-probabilities, where stable has {wanted}"
        for at, (wanted, its) in enumerate(lengths)
        if its != wanted
    }


def _unanswered(
    some: Sequence[Recorded], stable: Answers, lost: Mapping[int, str], *, task: str
) -> Comparison:
    """Of the requests to which the canary has no answer, and why; unless stable has none either."""
    fine = torch.isfinite(stable.values).any(-1).tolist()
    places = [place for place in sorted(lost) if fine[place]]
    asked, why = [some[place] for place in places], [lost[place] for place in places]
    found = failed([one.id for one in asked], slices=_slices(asked), task=task, twice=True, why=why)
    return replace(found, unusable=len(lost) - len(asked))


def _slices(some: Sequence[Recorded]) -> list[str] | None:
    """What each is reported under; None unless all say so."""
    slices = [one.slice for one in some]
    return slices if all(slices) else None
