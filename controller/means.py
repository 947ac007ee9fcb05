"""What a pass works with: the run as it is in memory, and everything that it is done by."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import isfinite, log
from typing import TYPE_CHECKING

from analysis.judge import Judgement
from analysis.samples import Histogram
from controller import gather, resource, ticks
from controller.apart import Apart
from controller.around import Around
from controller.beside import spared
from controller.cluster import Cluster
from controller.gather import Gathered
from controller.hearing import Lag, Waits
from controller.items import Item
from controller.judging import Figures
from controller.model import Action, Plan, PodSeen, Reason, Run, Stage
from controller.onlookers import Onlookers
from controller.onset import Onset
from controller.page.traces import Traces
from controller.ports import (
    Alerter,
    Gatekeeper,
    Json,
    MetricsSource,
    Reading,
    Recorder,
    RunStore,
    TrafficRouter,
)
from controller.reading import INFERENCE
from controller.shadowing import Shadowing
from controller.telemetry import Telemetry
from controller.unshown import Shown
from controller.workloads import Workloads

if TYPE_CHECKING:
    from controller.tracing import Tracing


# Of log e in one pass, a ninth of what takes traffic away at an alpha of 1 %. A canary that fails climbs so
# far with its first handful of requests, one that is well in one of 500 ticks, one on the margin in one of 90
# (2 % errors, 100 requests a second, 3 500 ticks of 1.7 s each).
CLIMBS = 0.5


@dataclass(frozen=True, slots=True)
class Touch:
    """A write to one of the run's Deployments, and what for."""

    wanted: Action
    task: asyncio.Task[bool]


@dataclass(slots=True)
class Live:
    """One run in memory: its state, its evidence, and what of them has been saved."""

    run: Run
    gathered: Gathered
    judgement: Judgement
    saved: Run | None = None
    upon: Json | None = None  # the object that it was read from, until this leader has saved it
    saved_at: float = 0.0
    looks: int = 0  # since then
    aside: asyncio.Task[None] | None = None  # a write of its status on its way
    touch: Touch | None = None  # the last one begun, until what came of it is heeded
    guarded: bool = False
    fenced: bool = False  # stable has its template back, and no copy from before can be made any more
    climbs: bool = False  # evidence said much in the last pass
    raising: bool = False  # a raise was decided here, and as far as is known not made yet
    last_byte: float = 0.0  # when the newest page of the pass was read, seconds since 1970
    since: float = 0.0  # when this leader first saw the run, seconds since 1970
    looked: float | None = None  # when its pages were last looked at, seconds since 1970
    idle: float = 0.0  # when the VirtualService last sent nothing to the canary
    onlookers: Onlookers = field(default_factory=Onlookers)
    onset: Onset = field(default_factory=Onset)
    apart: Apart = field(default_factory=Apart)
    waits: Waits = field(default_factory=Waits)
    shown: Shown = field(default_factory=Shown)
    figures: Figures = field(default_factory=Figures)
    around: Around | None = None  # what stood around it when that last changed
    watched: Sequence[PodSeen] | None = None  # the pods whose pages are read
    items: tuple[Item, ...] = ()  # of the checklist, as last looked at

    def lag(self, stable: Mapping[str, Reading]) -> Lag:
        """How long requests take, by what stable's pods have said and now say."""
        said: dict[str, Histogram | None] = {pod: one.took for pod, one in stable.items() if one.took}
        took: list[Histogram] = []
        if said:
            took = spared("waits", self.run, lambda: self.waits.took(said), took)
        told = bool(took) or not any(INFERENCE in one.sources.values() for one in stable.values())
        return gather.lag(self.gathered, self.run.plan.policy, took, told=told)

    def heeds(self, judgement: Judgement) -> None:
        """This is what is known now."""
        self.climbs = judgement.log_e - self.judgement.log_e > CLIMBS
        self.judgement = judgement

    @property
    def doubtful(self) -> bool:
        """Whether the next tick may take the traffic away: it is read soon, be it that a core is full."""
        return self.run.stage is not Stage.ENDED and (self.climbs or self.urgent)

    @property
    def urgent(self) -> bool:
        """Whether traffic may have to be taken away: evidence is half way there, or it was decided."""
        if self.run.stage is Stage.ENDED:
            return not self.run.settled
        return self.judgement.log_e >= log(1 / self.run.plan.policy.alpha) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Everything a pass works with."""

    cluster: Cluster
    metrics: MetricsSource
    router: TrafficRouter
    store: RunStore
    recorder: Recorder
    alerter: Alerter
    workloads: Workloads
    shadowing: Shadowing
    gates: Gatekeeper
    telemetry: Telemetry
    clock: Callable[[], datetime]
    pace: ticks.Pace
    queried: ticks.Pace  # of what a Prometheus is asked for
    tick: timedelta
    checkpoint: timedelta
    begin: Callable[[Plan], Gathered]  # what a new run begins with
    stretch: Callable[[], float] = lambda: 1.0  # ticks from one look to the next: more where a core is full
    freeze: bool = False
    traces: Traces = field(default_factory=Traces)  # for the page; nothing waits for them
    tracing: "Tracing | None" = None  # for OpenTelemetry; nothing waits for it
    unread: Callable[[], frozenset[str]] = frozenset  # kinds of objects that may not be read any more

    def routed(self, live: Live, weight: int, began: datetime, took: timedelta) -> None:
        """Our metrics say that the API server has taken a weight, so long after what it was decided on."""
        self.telemetry.decided(took)
        if self.tracing is not None:
            self.tracing.routed(live, weight, began=began, now=self.clock())
        shown = live.onset.took(live.run, self.clock()) if weight == 0 else None
        if shown is not None:
            self.telemetry.gone(str(live.run.reason), shown)

    def show(self, live: Live, before: Run, then: Judgement) -> None:
        """Our metrics say how the run stands, and what has changed since it was `before`, judged `then`."""
        run, telemetry = live.run, self.telemetry
        if self.tracing is not None:
            self.tracing.shown(run, before, live, now=self.clock())
        workload = (run.plan.namespace, run.plan.canary)
        telemetry.checks(one.name for one in live.judgement.checks)
        held = None if run.hold is None or run.stage is Stage.ENDED else run.hold.value
        telemetry.run(*workload, phase=resource.phase(run).value, weight=run.weight, held=held)
        telemetry.evidence(
            *workload, {one.name: one.log_e for one in live.judgement.checks if isfinite(one.log_e)}
        )
        was = {one.name: one.verdict for one in then.checks}
        for one in live.judgement.checks:
            if was.get(one.name) is not one.verdict:
                telemetry.verdict(one.name, resource.verdict_name(one.verdict))
        if run.ended != before.ended and run.reason is not None and run.reason is not Reason.PROMOTED:
            telemetry.rolled_back(run.reason.value)
