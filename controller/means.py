"""What a pass works with: the run as it is in memory, and everything that it is done by."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from analysis.judge import Judgement
from controller import ticks
from controller.cluster import Cluster
from controller.gather import Gathered
from controller.items import Item
from controller.model import Plan, Run
from controller.onlookers import Onlookers
from controller.page.traces import Traces
from controller.ports import Alerter, Gatekeeper, MetricsSource, Recorder, RunStore, TrafficRouter
from controller.shadowing import Shadowing
from controller.telemetry import Telemetry
from controller.workloads import Workloads


@dataclass(slots=True)
class Live:
    """One run in memory: its state, its evidence, and what of them has been saved."""

    run: Run
    gathered: Gathered
    judgement: Judgement
    saved: Run | None = None
    saved_at: float = 0.0
    guarded: bool = False
    last_byte: float = 0.0  # when the newest page of the pass was read, seconds since 1970
    since: float = 0.0  # when this leader first saw the run, seconds since 1970
    idle: float = 0.0  # when the VirtualService last sent nothing to the canary
    onlookers: Onlookers = field(default_factory=Onlookers)
    items: tuple[Item, ...] = ()  # of the checklist, as last looked at


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
    freeze: bool = False
    traces: Traces = field(default_factory=Traces)  # for the page; nothing waits for them
    unread: Callable[[], frozenset[str]] = frozenset  # kinds of objects that may not be read any more
