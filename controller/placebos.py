"""Placebo runs beside a run: how far the canary's evidence would have come on stable's own pods.

The same ticks, steps and new beginnings as the run's own evidence, by the same functions; only who plays
the canary differs (`analysis.placebo`). They decide nothing. What is kept is the furthest that any of them
came since the canary, or this leader, began.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from math import inf, isfinite, log, nan
from typing import Any

from analysis import placebo
from analysis.dispersion import FEW
from analysis.evidence import Evidence
from analysis.judge import log_term, log_total
from analysis.values import replace
from controller import gather, wire
from controller.explain import noisy
from controller.gather import Gathered
from controller.model import Policy, Reason, Stage, Tell
from controller.onlookers import Look
from controller.ticks import Cursor

Json = Any

# Of one controller that have placebos. A run's take as long as its own evidence (record 15), and what they
# take is taken from every run's next pass: so many take a tenth of a core.
MOST_RUNS = 10


class Placebos:
    """A `controller.onlookers.Onlooker`; `others` is how many runs this controller has already."""

    field = "placebos"

    def __init__(self, policy: Policy, *, others: int) -> None:
        self._policy = policy
        self._crowded = others >= MOST_RUNS
        self._gathered: Gathered | None = None
        self._size: dict[str, int] = {}  # how many, and how many nodes each
        self._since: datetime | None = None
        self._highest = {spec.name: -inf for spec in policy.checks}
        self._total = -inf
        self._told = False

    @property
    def furthest(self) -> float:
        """The highest log e that any has come to; NaN while there are none."""
        return self._total if isfinite(self._total) else nan

    def look(self, look: Look, gathered: Gathered) -> Iterator[Tell]:
        """One pass later; told once: that a placebo would have been rolled back."""
        if self._crowded or look.run.stage is Stage.PROMOTING:  # then stable's pods are of two versions
            return
        canary = {pod.node or pod.name for pod in look.seen.canary.pods if pod.ready}
        if self._gathered is None:  # with what the run knows by now; they look from the next tick on
            evidence = tuple(placebo.begin(one) for one in gathered.evidence)
            self._gathered = replace(gathered, evidence=evidence, cursor=Cursor())
            return
        update = partial(placebo.update, nodes=len(canary))
        steps = gather.scoring(self._gathered, look.run, look.seen, look.ticks, look.now)
        after = gather.scored(steps, update)
        self._gathered = _in_step(after, gathered)
        running = [one for one in after.evidence if one.nodes]
        if running or not self._size:
            self._size = {
                "count": min((len(one.step) for one in running), default=0),
                "nodes": min((len(one.groups) for one in running), default=0),
            }
        if running and look.run.weight > 0:
            self._since = self._since or look.now
            yield from self._furthest(after.evidence)

    def said(self) -> Json:
        """How many there are, since when, and the furthest that any has come, in all and by check."""
        if self._crowded:
            return {"count": 0, "note": f"{MOST_RUNS} other runs of this controller have them"}
        if self._size.get("count") == 0:
            return {"count": 0, "note": f"stable has fewer than {FEW} nodes"}
        if self._since is None:
            return None
        return {
            **self._size,
            "since": wire.time(self._since),
            "logE": round(self._total, 4),
            "checks": [{"name": name, "logE": round(term, 4)} for name, term in self._highest.items()],
        }

    def _furthest(self, evidence: Sequence[Evidence]) -> Iterator[Tell]:
        """What each has come to, remembered if it is the furthest yet."""
        alike = min(len(one.step) for one in evidence)
        terms = {one.spec.name: log_term(one)[:alike] for one in evidence}
        self._highest = {name: max(self._highest[name], float(term.max())) for name, term in terms.items()}
        self._total = max(self._total, float(log_total(list(terms.values())).max()))
        if self._total >= log(1 / self._policy.alpha) and not self._told:
            self._told = True
            yield Tell(Reason.STABLE_NOISY, noisy(**self._size, alpha=self._policy.alpha))


def _in_step(placebos: Gathered, run: Gathered) -> Gathered:
    """The placebos in the run's step.

    A step that begins anew has other pods than before, and for that reason placebos have begun anew already.
    """
    if run.step is None or run.step == placebos.step:
        return placebos
    return gather.begin_step(placebos, run.step, at=max(float(one.step_began) for one in run.evidence))
