"""Placebo runs beside a run: how far the canary's evidence would have come on stable's own pods.

The same ticks, steps and new beginnings as the run's own evidence, by the same functions; only who plays
the canary differs (`analysis.placebo`), and those of several runs are scored together. They decide nothing.
What is kept is the furthest that any of them came since the canary, or this leader, began.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf, isfinite, log, nan
from typing import Any
from weakref import WeakSet

from analysis import placebo
from analysis.dispersion import FEW
from analysis.evidence import Evidence
from analysis.judge import log_term, log_total
from analysis.values import replace
from controller import gather, wire
from controller.explain import noisy
from controller.gather import Asked, Gathered, Scoring
from controller.model import Policy, Reason, Stage, Tell
from controller.onlookers import Look
from controller.ticks import Cursor

Json = Any

# Of one controller that have placebos. What they take is taken from every run's next pass: a fiftieth of a
# core for ten runs that are scored side by side (record 65).
MOST_RUNS = 10


@dataclass(slots=True, eq=False)
class Turn:
    """One look's scoring of a run's placebos; `asked`: what it asks for next, None once it is over.

    `nodes`: how many the canary has. `gathered` is the run's own evidence after the look. Whatever fails
    is raised where the run's placebos look next.
    """

    of: "Placebos"
    steps: Scoring
    nodes: int
    look: Look
    gathered: Gathered
    asked: Sequence[Asked] | None = None

    def begin(self) -> None:
        """It has said what it asks for first."""
        self._goes_on(lambda: next(self.steps))

    def scored(self, after: list[Evidence]) -> None:
        """What it asked for is there."""
        self._goes_on(lambda: self.steps.send(after))

    def alone(self) -> None:
        """What it asked for is scored without the others'."""
        asked = self.each
        self._goes_on(lambda: self.steps.send(placebo.updated(asked)))

    @property
    def each(self) -> list[placebo.Asked]:
        """What it asks for, of placebos."""
        return [(*one, self.nodes) for one in self.asked or ()]

    def _goes_on(self, step: Callable[[], Sequence[Asked]]) -> None:
        self.asked = None
        try:
            try:
                self.asked = step()
            except StopIteration as end:
                self.of.scored(end.value, self.look, self.gathered)
        except Exception as error:  # noqa: BLE001 - others' are scored
            self.of.lost = error


class Together:
    """Placebos of several runs, scored in one go: when all of them wait, or one of them comes again.

    So what is known of a run's is a tick old at most. A single run's never wait.
    """

    def __init__(self) -> None:
        self._all: WeakSet[Placebos] = WeakSet()
        self._waiting: dict[Placebos, Turn] = {}

    def settle(self, one: "Placebos") -> None:
        """Nothing of this one waits any more."""
        if one in self._waiting:
            self._score()

    def add(self, one: "Placebos", turn: Turn) -> None:
        """It is scored with others', soon."""
        self._all.add(one)
        self._waiting[one] = turn
        if len(self._waiting) == len(self._all):
            self._score()

    def _score(self) -> None:
        turns = [*self._waiting.values()]
        self._waiting.clear()
        for turn in turns:
            turn.begin()
        while turns := [turn for turn in turns if turn.asked is not None]:
            try:
                after = iter(placebo.updated([one for turn in turns for one in turn.each]))
                parts = [[next(after) for _ in turn.each] for turn in turns]
            except Exception:  # noqa: BLE001 - whosever it is, the others' is scored
                for turn in turns:
                    turn.alone()
                continue
            for turn, part in zip(turns, parts, strict=True):
                turn.scored(part)


class Placebos:
    """A `controller.onlookers.Onlooker`; `others` is how many runs this controller has already."""

    field = "placebos"

    def __init__(self, policy: Policy, *, others: int, together: Together | None = None) -> None:
        self._policy = policy
        self._crowded = others >= MOST_RUNS
        self._together = together or Together()
        self._gathered: Gathered | None = None
        self.lost: Exception | None = None
        self._size: dict[str, int] = {}  # how many, and how many nodes each
        self._since: datetime | None = None
        self._highest = {spec.name: -inf for spec in policy.checks}
        self._total = -inf
        self._told = False
        self._telling: list[Tell] = []

    @property
    def furthest(self) -> float:
        """The highest log e that any has come to; NaN while there are none."""
        return self._total if isfinite(self._total) else nan

    def look(self, look: Look, gathered: Gathered) -> list[Tell]:
        """One pass later; told once: that a placebo would have been rolled back."""
        if self._crowded or look.run.stage is Stage.PROMOTING:  # then stable's pods are of two versions
            return []
        if self._gathered is None:  # with what the run knows by now; they look from the next tick on
            evidence = tuple(placebo.begin(one) for one in gathered.evidence)
            self._gathered = replace(gathered, evidence=evidence, cursor=Cursor())
            return []
        self._together.settle(self)
        steps = gather.scoring(self._gathered, look.run, look.seen, look.ticks, look.now)
        canary = {pod.node or pod.name for pod in look.seen.canary.pods if pod.ready}
        self._together.add(self, Turn(self, steps, len(canary), look, gathered))
        if self.lost is not None:
            raise self.lost
        told, self._telling = self._telling, []
        return told

    def scored(self, after: Gathered, look: Look, gathered: Gathered) -> None:
        """What the placebos have come to by that look, after which `gathered` was the run's evidence."""
        self._gathered = _in_step(after, gathered)
        running = [one for one in after.evidence if one.nodes]
        if running or not self._size:
            self._size = {
                "count": min((len(one.step) for one in running), default=0),
                "nodes": min((len(one.groups) for one in running), default=0),
            }
        if running and look.run.weight > 0:
            self._since = self._since or look.now
            self._telling += self._furthest(after.evidence)

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
