"""What the peers' rules would do with a run, watched while it goes: for people, in memory only.

They look on when the evidence has decided and its decision is carried out, at exactly what it compared: the
sums it keeps of a step. What these have grown by is told to a rule when a window of it is full, so that each
window holds what it would have held tick by tick. Where nothing was compared, their time stands still. They
decide nothing (`controller.onlookers`).

A window is told in numpy's calls, and those cost the same for one canary and for sixty: among many runs
windows wait for others (`Company`).
"""

from collections.abc import Container, Hashable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite, isinf
from typing import Any

import numpy as np
import structlog

from analysis import peers
from analysis.abreast import question_of
from analysis.batches import apart, stacked
from analysis.evidence import Evidence
from analysis.peers import ROUNDING, Watched
from analysis.proportions import Array
from controller import wire
from controller.gather import Gathered
from controller.model import Run, Tell
from controller.onlookers import Look

Json = Any
WINDOWS = sorted({rule.step for rule in peers.RULES})  # s
ENOUGH = 192  # windows of one length that wait for each other: of three checks 64 each
PATIENCE = 10.0  # s that a window waits for others: a run's next one is full then

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class Watching:
    """The rules with windows of `every` seconds, at one check.

    `latest`: the evidence at the last look. `sums` (2, K): stable's and the canary's in its step, as far as
    they have been told; `waiting` (2, K): of earlier steps, not told yet. `began`: when the first tick with
    canary traffic did, infinity before; `told`: how many windows since then.
    """

    every: float
    latest: Evidence
    step_began: float  # as the latest says, and its buckets
    le: tuple[float, ...]
    sums: Array
    waiting: Array
    rules: tuple[Watched, ...] = ()
    began: float = float("inf")
    told: int = 0

    def look(self, evidence: Evidence) -> bool:
        """Whether a window is full of something that nobody was told yet."""
        before, self.latest, step_began = self.latest, evidence, float(evidence.step_began)
        if step_began != self.step_began:
            self.step_began = step_began
            self.waiting = self.waiting + _sums(before) - self.sums
            self.sums = np.zeros_like(self.sums)
        if isinf(self.began):
            if not evidence.memory.step_canary.any():
                return False
            self.began = max(float(before.at), float(evidence.step_began))  # the tick's beginning
            mine = (rule for rule in peers.RULES if rule.step == self.every)
            le, spec = evidence.memory.le, evidence.spec
            self.rules = tuple(peers.begin(rule, spec, le=le, at=self.began) for rule in mine)
        return int((float(evidence.at) - self.began) / self.every + ROUNDING) > self.told

    def take(self, decided: Container[str]) -> "Window | None":
        """What nobody was told yet, for every rule that has not decided; None if nothing was compared."""
        sums, end = _sums(self.latest), float(self.latest.at)
        stable, canary = self.waiting + sums - self.sums
        if not stable.any():
            return None
        self.rules = tuple(one for one in self.rules if str(one.rule) not in decided)
        self.sums, self.waiting = sums, np.zeros_like(sums)
        self.told = int((end - self.began) / self.every + ROUNDING)
        return Window(self, stable, canary, end)


@dataclass(slots=True)
class Window:
    """What is to be told: both arms' cells (K,) of a window that ended at `end`."""

    of: Watching
    stable: Array
    canary: Array
    end: float

    def alike(self, one: Watched) -> Hashable:
        """All that windows must have in common to be told side by side to a rule."""
        return one.rule, question_of(one.spec), one.le, self.stable.shape


def seen(windows: Iterable[Window]) -> None:
    """Each is seen by its rules, those that are alike side by side."""
    alike: dict[Hashable, list[tuple[Window, int]]] = {}
    for window in windows:
        for place, one in enumerate(window.of.rules):
            alike.setdefault(window.alike(one), []).append((window, place))
    for group in alike.values():
        each = [window.of.rules[place] for window, place in group]
        for (window, place), after in zip(group, _seen(each, [window for window, _ in group]), strict=True):
            rules = window.of.rules
            window.of.rules = (*rules[:place], after, *rules[place + 1 :])


def _seen(each: list[Watched], windows: list[Window]) -> list[Watched]:
    if len(each) == 1:
        one = windows[0]
        return [peers.seen(each[0], one.stable, one.canary, end=one.end)]
    stable, canary = (np.stack([getattr(one, arm) for one in windows]) for arm in ("stable", "canary"))
    return apart(peers.seen(stacked(each), stable, canary, end=np.array([one.end for one in windows])), each)


class Company:
    """Windows of many runs that are told in one go: when they are enough, or some have waited for long.

    Each length waits by itself: long ones are few, and among the others they would be told alone.
    """

    def __init__(self) -> None:
        self._waiting: dict[float, dict[Watching, tuple[Peers, Window]]] = {}  # by length

    def add(self, peer: "Peers", window: Window) -> None:
        """It is told with others; one of the same rules, and all that wait with it, before it."""
        waiting = self._waiting.setdefault(window.of.every, {})
        if window.of in waiting:
            self._tell(waiting)
        waiting[window.of] = peer, window
        first = next(iter(waiting.values()))[1]
        if len(waiting) >= ENOUGH or window.end - first.end >= PATIENCE:
            self._tell(waiting)

    def tell(self) -> None:
        """All that wait are told."""
        for waiting in self._waiting.values():
            self._tell(waiting)

    def _tell(self, waiting: "dict[Watching, tuple[Peers, Window]]") -> None:
        """These are; whosever cannot be costs nobody else's."""
        told = [*waiting.values()]
        waiting.clear()
        try:
            seen(window for _, window in told)
        except Exception:  # as in `controller.onlookers`
            log.exception("windows_lost", count=len(told))
        for peer, window in told:
            peer.note(window.of)


@dataclass(slots=True, kw_only=True, eq=False)
class Peers:
    """All rules at one run, a `controller.onlookers.Onlooker`.

    `words` are for its status: None while nothing was compared. `since`: when they began to look, where an
    earlier leader had begun the run; None: from its beginning.
    """

    since: datetime | None = None
    words: Json = None
    decided: dict[str, Json] = field(default_factory=dict)  # by rule: when, and by which check
    watching: dict[tuple[str, float], Watching] = field(default_factory=dict)  # by check and window
    company: Company | None = None  # None: each window is told alone, at once
    field = "peers"

    def look(self, look: Look, _gathered: Gathered) -> tuple[Tell, ...]:
        """What was compared since the last look is seen by every rule; nobody is told."""
        self.watch(look.run, look.evidence)
        return ()

    def said(self) -> Json:
        """What each rule would have done, by the windows that it was told."""
        return self.words

    def watch(self, run: Run, evidence: Iterable[Evidence]) -> None:
        """The same without the rest of the pass."""
        if run.weight == 0 or run.ended is not None:
            return
        for one in evidence:
            if one.memory.le == one.memory.canary_le:
                self._look(one)

    def _look(self, evidence: Evidence) -> None:
        name = evidence.spec.name
        for every in WINDOWS:
            known = self.watching.get((name, every))
            if known is None or known.le != evidence.memory.le:
                sums = _sums(evidence)  # what is there already was before
                waiting = np.zeros_like(sums)
                self.watching[name, every] = Watching(
                    every=every,
                    latest=evidence,
                    step_began=float(evidence.step_began),
                    le=evidence.memory.le,
                    sums=sums,
                    waiting=waiting,
                )
            elif known.look(evidence):
                self._tell(known)
            elif self.words is None and isfinite(known.began):
                self.words = self._say()

    def _tell(self, known: Watching) -> None:
        window = known.take(self.decided)
        if window is not None and self.company is not None:
            self.company.add(self, window)
            return
        seen([] if window is None else [window])
        self.note(known)

    def note(self, known: Watching) -> None:
        """Which rules have decided by now."""
        for one in known.rules:
            if np.isfinite(one.failed_at):
                at = datetime.fromtimestamp(float(one.failed_at), UTC)
                by = {"rolledBackAt": wire.time(at), "check": one.spec.name}
                self.decided.setdefault(str(one.rule), by)
        self.words = self._say()

    def _say(self) -> Json:
        """As it stands in the run's status."""
        rules = [{"name": str(rule), **self.decided.get(str(rule), {})} for rule in peers.RULES]
        return {"since": wire.time(self.since), "rules": rules}


def arrived(run: Run, obj: Json, now: datetime, *, company: Company | None = None) -> list[Peers]:
    """Those of a run that this leader takes up, `obj` is its CanaryRun; none where its status was spoilt.

    Rules that had decided have; the others see only what is still to come.
    """
    if not run.weights:
        return [Peers(company=company)]
    try:
        said = obj["status"].get("peers") or {"rules": ()}
        decided = {
            rule["name"]: {"rolledBackAt": rule["rolledBackAt"], "check": rule["check"]}
            for rule in said["rules"]
            if "rolledBackAt" in rule
        }
    except Exception:  # somebody's edit of a status; as above
        log.exception("peers_lost", run=run.name)
        return []
    return [Peers(since=now, decided=decided, company=company)]


def _sums(evidence: Evidence) -> Array:
    return np.stack([evidence.memory.step_stable, evidence.memory.step_canary])
