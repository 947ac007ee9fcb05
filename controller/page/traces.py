"""Curves of the runs that are worked on here: evidence, placebos, and how quick both arms were.

A leader's onlooker notes them from what it has computed anyway, in memory and for the page alone. What a run
takes is bounded whatever it lasts: when its rows are full every second one goes, and they are noted half as
often. Another leader begins anew, and nothing waits for them (`controller.onlookers`).
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.evidence import CheckKind, CheckSpec, Evidence
from analysis.judge import Verdict
from analysis.proportions import Array
from controller.cluster import Key
from controller.gather import Gathered
from controller.model import Page, Policy, Run
from controller.onlookers import Look
from controller.placebos import Placebos

Json = Any
Rows = NDArray[np.float32]

MOST = 1_000  # traces in memory; with all their rows they take about 12 MB
ROWS = 240  # a curve of so many points has one for every third pixel of a wide screen
FADING = 15.0  # s; fading with this weighs like a window of 30 s
TAILS = (0.5, 0.95, 0.99)
FEW = 20  # traces of which each has a row for each tick
SELDOM = 4.9  # s between rows of more: they would take a tenth of what evidence does
LEAST = 20  # requests; of fewer there is no 95th percentile, of 2 / (1 - q) no other
BARS = 40  # of a distribution as it is shown; what is finer is joined


@dataclass(slots=True, eq=False)
class Recent:
    """What both arms counted lately in the buckets `le`: `cells` (2, K), stable's first, fading.

    `before` (2, K): the sums of the step as far as they are in it.
    """

    le: tuple[float, ...]
    cells: Array
    before: Array
    began: float

    def look(self, evidence: Evidence, faded: float) -> None:
        """`cells` keep the part `faded` of what they were, and what was counted since is added."""
        sums, began = _sums(evidence), float(evidence.step_began)
        if evidence.memory.le != self.le:
            self.le, self.cells, self.before = evidence.memory.le, np.zeros_like(sums), np.zeros_like(sums)
        elif began != self.began or (sums < self.before).any():  # a step has begun, or begun anew
            self.before = np.zeros_like(sums)
        self.began = began
        self.cells = self.cells * faded + (sums - self.before)
        self.before = sums

    def quantiles(self, levels: Sequence[float]) -> list[float]:
        """Stable's, then the canary's, in the unit of the bounds; NaN where too little was counted."""
        return [value for arm in self.cells for value in quantiles(self.le, arm, levels)]


@dataclass(slots=True, eq=False)
class Trace:
    """One run's rows, and who notes them: a `controller.onlookers.Onlooker`.

    `rows` (N, C): seconds since `began`, weight, log e of all checks and of the furthest placebo, log e of
    each of `checks`, then for each of `timed` the quantiles of `levels`, stable's first.
    """

    checks: tuple[str, ...]
    timed: tuple[str, ...]  # the latency checks that are drawn, one for each page they are read from
    valued: tuple[str, ...]  # the Predictions checks
    levels: tuple[float, ...]
    placebos: Placebos | None = None
    recent: dict[str, Recent] = field(default_factory=dict)
    began: float = 0.0
    rows: Rows = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    count: int = 0
    every: float = 0.9  # s between rows, a little less than a tick
    over: bool = False
    field = "trace"

    def look(self, look: Look, _gathered: Gathered) -> tuple[()]:
        """One more row, if it is time for one; nobody is told anything."""
        now = max((float(one.at) for one in look.evidence), default=0.0)
        failed = look.seen.judgement.verdict is Verdict.FAIL
        last = self.began + float(self.rows[self.count - 1, 0]) if self.count else -np.inf
        if look.run.weight > 0 and (failed or now - last >= self.every) and now > last:
            self._note(look, now, 0.0 if not self.count else float(np.exp((last - now) / FADING)))
        self.over = failed
        return ()

    def said(self) -> None:
        """Nothing: it is not written down."""

    def _note(self, look: Look, now: float, faded: float) -> None:
        self.began = self.began or now
        for one in look.evidence:
            if one.spec.name in (*self.timed, *self.valued) and one.memory.le == one.memory.canary_le:
                self._recent(one).look(one, faded)
        found = look.seen.judgement
        by_name = {one.name: one.log_e for one in found.checks}
        none = [np.nan] * 2 * len(self.levels)
        self.add(
            [
                now - self.began,
                look.run.weight,
                found.log_e,
                np.nan if self.placebos is None else self.placebos.furthest,
                *(by_name.get(name, np.nan) for name in self.checks),
                *(
                    value
                    for name in self.timed
                    for value in (self.recent[name].quantiles(self.levels) if name in self.recent else none)
                ),
            ]
        )

    def _recent(self, evidence: Evidence) -> Recent:
        sums = _sums(evidence)
        fresh = Recent(evidence.memory.le, np.zeros_like(sums), np.zeros_like(sums), np.nan)
        return self.recent.setdefault(evidence.spec.name, fresh)

    def add(self, row: Sequence[float]) -> None:
        """`row` is the last one; when all are full every second one goes."""
        if self.count == ROWS:
            self.rows[: ROWS // 2] = self.rows[::2].copy()
            self.count, self.every = ROWS // 2, self.every * 2
        if self.count == len(self.rows):
            more = np.zeros((min(ROWS, max(16, 2 * self.count)), len(row)), dtype=np.float32)
            if self.count:
                more[: self.count] = self.rows
            self.rows = more
        self.rows[self.count] = row
        self.count += 1


@dataclass(slots=True)
class Traces:
    """Those of one process, by run. What has ended makes room first; what has none is shown without."""

    by_run: dict[Key, Trace] = field(default_factory=dict)

    def begin(self, run: Run, placebos: Placebos) -> list[Trace]:
        """The trace of a run that is taken up here; none if all that there are belong to live runs."""
        over = (key for key, trace in self.by_run.items() if trace.over)
        if len(self.by_run) >= MOST and (oldest := next(over, None)) is not None:
            del self.by_run[oldest]
        if len(self.by_run) >= MOST:
            return []
        trace = blank(run.plan.policy, placebos)
        trace.every = trace.every if len(self.by_run) < FEW else SELDOM
        self.by_run[run.plan.namespace, run.name] = trace
        return [trace]

    def of(self, run: Key) -> Trace | None:
        """The run's; None where it has none here."""
        return self.by_run.get(run)

    def keep(self, there: Iterable[Key]) -> None:
        """Only those of runs that are there stay."""
        self.by_run = {key: self.by_run[key] for key in there if key in self.by_run}


def blank(policy: Policy, placebos: Placebos | None = None) -> Trace:
    """Nothing yet of a run with this policy."""
    timed = [spec for spec in policy.checks if spec.kind is CheckKind.LATENCY]
    return Trace(
        checks=tuple(spec.name for spec in policy.checks),
        timed=_one_a_page(timed, policy.pages),
        valued=tuple(spec.name for spec in policy.checks if spec.kind is CheckKind.PREDICTIONS),
        levels=tuple(sorted({*TAILS, *(spec.quantile for spec in timed)})),
        placebos=placebos,
    )


def _one_a_page(specs: Sequence[CheckSpec], pages: Mapping[str, Page | None]) -> tuple[str, ...]:
    """The first check of each page: what others compare there is in the same buckets."""
    found: list[tuple[Page | None, str]] = []
    for spec in specs:
        page = pages.get(spec.name, Page())
        if page not in [one for one, _ in found]:
            found.append((page, spec.name))
    return tuple(name for _, name in found)


def quantiles(le: Sequence[float], cells: Array, levels: Sequence[float]) -> list[float]:
    """The quantiles of `cells` (K,) in the buckets `le`, for the eye.

    Between two bounds each is taken to lie on a line where both are logarithmic, which is a guess that no
    check makes. NaN where too little was counted, or it lies above the last bound.
    """
    total, sums = float(cells.sum()), cells.cumsum().tolist()
    return [_quantile(le, sums, total, level) for level in levels]


def _quantile(le: Sequence[float], sums: Sequence[float], total: float, level: float) -> float:
    least = LEAST if level <= 0.95 else 2 / (1 - level)
    if total < least or (at := bisect_left(sums, level * total)) >= len(le):
        return nan
    low, high, before = (le[at - 1], le[at], sums[at - 1]) if at else (0.0, le[at], 0.0)
    part = (level * total - before) / (sums[at] - before)
    return low * (high / low) ** part if low > 0 else high * part


def distribution(recent: Recent) -> Json:
    """Both arms' shares by bucket, at most `BARS` of them; None where too little was counted."""
    totals = recent.cells.sum(axis=1, keepdims=True)
    if totals.min() < LEAST:
        return None
    shares = recent.cells / totals
    used = np.flatnonzero(shares.sum(axis=0))
    first, last = int(used[0]), int(used[-1])
    joined = -(-(last - first + 1) // BARS)
    starts = np.arange(first, last + 1, joined)
    summed = np.add.reduceat(shares[:, first : last + 1], starts - first, axis=1)
    bounds = [0.0 if first == 0 else recent.le[first - 1]]
    bounds += [recent.le[min(start + joined - 1, last, len(recent.le) - 1)] for start in starts.tolist()]
    return {"bounds": bounds, "stable": _rounded(summed[0]), "canary": _rounded(summed[1])}


def tail(recent: Recent) -> Json:
    """The share of both arms' requests above each bound: bounds, stable's, the canary's."""
    totals = recent.cells.sum(axis=1, keepdims=True)
    if totals.min() < LEAST:
        return None
    above = 1 - np.cumsum(recent.cells / totals, axis=1)[:, :-1]
    there = np.flatnonzero((above.max(axis=0) > 1e-4) & (above.min(axis=0) < 1))
    there = there[:: -(-len(there) // (2 * BARS)) or 1]
    bounds = [recent.le[at] for at in there]
    return {"bounds": bounds, "stable": _rounded(above[0, there]), "canary": _rounded(above[1, there])}


def drawn(trace: Trace) -> Json:
    """What the page is told of a trace; a number that there is none of is null."""
    rows = trace.rows[: trace.count].astype(float)
    names = ["t", "weight", "logE", "placebo", *trace.checks]
    columns = {name: _rounded(rows[:, at]) for at, name in enumerate(names[:4])} if trace.count else {}
    by_check = (
        {name: _rounded(rows[:, 4 + at]) for at, name in enumerate(trace.checks)} if trace.count else {}
    )
    return {
        "began": trace.began,
        **columns,
        "checks": by_check,
        "latency": [_latency(trace, rows, at) for at in range(len(trace.timed)) if trace.count],
        "predictions": [
            {"check": name, **found}
            for name in trace.valued
            if name in trace.recent and (found := distribution(trace.recent[name]))
        ],
    }


def _latency(trace: Trace, rows: Array, at: int) -> Json:
    name, wide = trace.timed[at], len(trace.levels)
    first = 4 + len(trace.checks) + 2 * wide * at
    arms = [[_rounded(rows[:, first + arm * wide + level]) for level in range(wide)] for arm in range(2)]
    recent = trace.recent.get(name)
    return {
        "check": name,
        "levels": list(trace.levels),
        "stable": arms[0],
        "canary": arms[1],
        "tail": None if recent is None else tail(recent),
    }


def _rounded(values: Array) -> list[float | None]:
    """Four figures, which is more than a screen shows; null for what is no number."""
    there = np.isfinite(values) & (values != 0)
    scale = 10.0 ** (3 - np.floor(np.log10(np.abs(np.where(there, values, 1.0)))))
    rounded = np.where(there, np.round(values * scale) / scale, values)
    return [value if value - value == 0 else None for value in rounded.tolist()]


def _sums(evidence: Evidence) -> Array:
    return np.stack([evidence.memory.step_stable, evidence.memory.step_canary])
