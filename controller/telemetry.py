"""What the controller says about itself: logs to stdout, and metrics as one object that is passed in.

Names that mean the same as in controller-runtime are the same, so that existing dashboards work.
Label values are bounded: namespaces, workloads and checks come from objects and leave with them;
nothing is labelled by run, pod or URL.
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import product
from time import perf_counter
from typing import TextIO

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from analysis.judge import Verdict
from controller import letters
from controller.alerts import RESULTS, Attempt
from controller.leaving import LEFT_FOR
from controller.onset import FAULTS
from controller.resource import verdict_name

CONTROLLER = "canaryrun"
PHASES = ("Pending", "Progressing", "Promoting", "Paused", "Succeeded", "Failed")
# Check names are people's own. A plan holds at most 20; beyond so many different ones over the life
# of the process the counter says "other", so that generated names cannot fill the memory.
MOST_CHECK_NAMES = 200
# The aim is 0.3 s from the last response byte to the API server's answer; 10 s is an outage.
DECISION_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)
# A tick is due once a second; when ticks take longer than that, rollbacks do.
LAG_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
# A pass takes about a millisecond; a request to the API server about ten.
PASS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
SPANS = ("ended", "exported", "failed")  # what was put into the queue, and what became of it
# Most rollbacks come within seconds; a fault that hardly shows takes minutes.
FAULT_BUCKETS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# Nobody asked for these two libraries' routine: one line a request each.
QUIET = ("aiohttp.access", "kubernetes_asyncio")
# Where it happened, and no values: variables hold tokens, receivers' URLs, whatever a caller sent.
_traced = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def start_logging(format_: str = "auto", *, level: str = "info", stream: TextIO | None = None) -> None:
    """From now on logs go to `stream` (stdout): JSON lines, or text for people on a terminal."""
    stream = stream or sys.stdout
    console = format_ == "console" or (format_ == "auto" and stream.isatty())
    colours = stream.isatty() and not os.environ.get("NO_COLOR")
    last: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not console:
        shared.append(_traced)
    least = getattr(logging, level.upper())
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda name="serin": _Named(stream, name),
        cache_logger_on_first_use=False,
    )
    _others(stream, shared=shared, last=last, level=least)


class _Named(structlog.PrintLogger):
    """Prints to a stream and knows its name: `structlog.get_logger("controller.loop")`."""

    def __init__(self, stream: TextIO, name: str) -> None:
        super().__init__(stream)
        self.name = name


def _others(
    stream: TextIO,
    *,
    shared: list[structlog.types.Processor],
    last: structlog.types.Processor,
    level: int,
) -> None:
    """Libraries that log through `logging` come out in the same form."""
    through = logging.StreamHandler(stream)
    through.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [through]
    root.setLevel(max(level, logging.INFO))
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.getLogger("aiohttp.server").addFilter(_ours)


def _ours(record: logging.LogRecord) -> bool:
    """Whether it is no request that was not HTTP: anybody can send such, as many as they like."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


class Telemetry:
    """Our metrics in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else each has a second series, read by nobody
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._runs = _Runs(self.registry)
        self._passes = _Passes(self.registry)
        self._queues = _Queues(self.registry)
        self.queue()  # there from the beginning, at 0
        self._rest = _Rest(self.registry)
        spans = Counter(
            "canary_trace_spans_total",
            "Spans of traces, by what became of them.",
            ("result",),
            registry=self.registry,
        )
        self._spans = {result: spans.labels(result) for result in SPANS}

    def page(self) -> tuple[bytes, str]:
        """The metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4

    # -- runs --------------------------------------------------------------------------------------

    def run(self, namespace: str, workload: str, *, phase: str, weight: int, held: str | None = None) -> None:
        """The workload's run is in this phase at this weight, and this reason holds it there, if one does."""
        if self._runs.shown.get((namespace, workload)) == (phase, weight, held):
            return
        self._runs.shown[namespace, workload] = phase, weight, held
        self._runs.hold(namespace, workload, held)
        for each in PHASES:
            self._runs.phase.labels(namespace, workload, each).set(each == phase)
        self._runs.weight.labels(namespace, workload).set(weight)

    def evidence(self, namespace: str, workload: str, log_e: Mapping[str, float]) -> None:
        """What each check's evidence has come to (natural logarithm)."""
        for check, value in log_e.items():
            self._runs.log_e.labels(namespace, workload, check).set(value)

    def checks(self, names: Iterable[str]) -> None:
        """Each check's verdicts are counted from 0 on, so that a `rate()` sees the first one."""
        for name in names:
            if name not in self._runs.known:
                check = self._runs.bounded(name)
                for each in Verdict:
                    self._runs.verdicts.labels(check, verdict_name(each))

    def verdict(self, check: str, verdict: str) -> None:
        """A check's verdict has become this; to be called when it changes, not on each pass."""
        self._runs.verdicts.labels(self._runs.bounded(check), verdict).inc()

    def rolled_back(self, reason: str) -> None:
        """A run was rolled back."""
        self._runs.rollbacks.labels(reason).inc()

    def decided(self, took: timedelta) -> None:
        """From the last response byte of the last pod to the API server's answer, weight patched."""
        self._runs.decision.observe(took.total_seconds())

    def gone(self, reason: str, took: timedelta) -> None:
        """The traffic is gone, so long after the fault began to show."""
        self._runs.fault.labels(reason).observe(took.total_seconds())

    def alerted(self, attempt: Attempt) -> None:
        """An attempt to tell a receiver has ended."""
        self._runs.alerts.labels(attempt.kind, attempt.result).inc()

    def spans(self, result: str, count: int) -> None:
        """So many spans of traces became this, one of `SPANS`; called from the thread that exports, too."""
        self._spans[result].inc(count)

    def lagged(self, lag: timedelta) -> None:
        """From when a run's pages were due to the end of the pass that acted on them."""
        self._runs.lag.observe(lag.total_seconds())

    def looks(self, interval: timedelta) -> None:
        """From one look at a run to the next it is so long now."""
        self._runs.interval.set(interval.total_seconds())

    def forget(self, namespace: str, workload: str) -> None:
        """The workload has no run any more; its series end."""
        self._runs.shown.pop((namespace, workload), None)
        for gauge in (self._runs.phase, self._runs.weight, self._runs.log_e):
            gauge.remove_by_labels({"namespace": namespace, "workload": workload})
        self._runs.hold(namespace, workload, None)

    # -- passes and their queue --------------------------------------------------------------------

    @contextmanager
    def a_pass(self) -> Iterator[None]:
        """The block is one reconciliation: counted, timed, and an error if it raises one."""
        self._passes.active.inc()
        began = perf_counter()
        result = "error"
        try:
            yield
            result = "requeue_after"  # a live run is always looked at again
        finally:
            self._passes.active.dec()
            self._passes.seconds.observe(perf_counter() - began)
            self._passes.total[result].inc()
            if result == "error":
                self._passes.errors.inc()

    def workers(self, most: int) -> None:
        """So many passes may run at once."""
        self._passes.most.set(most)

    def queue(self, shard: int | None = None) -> "Queue":
        """The series of a shard's keys; None where there is but one shard."""
        return Queue(self._queues, CONTROLLER if shard is None else f"{CONTROLLER}-{shard}")

    # -- surroundings ------------------------------------------------------------------------------

    def requested(self, method: str, code: str, *, took: timedelta) -> None:
        """The API server answered with this status code, or `<error>` as client-go says it."""
        self._rest.requests.labels(code, method).inc()
        self._rest.seconds.labels(method).observe(took.total_seconds())

    def leads(self, lease: str, *, now: bool) -> None:
        """Whether this replica leads now."""
        self._rest.leading.labels(lease).set(now)


class _Runs:
    """Series about runs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        workload = ("namespace", "workload")
        self.phase = Gauge(
            "canary_run_phase",
            "1 for the phase that the workload's newest run is in.",
            (*workload, "phase"),
            registry=registry,
        )
        self.weight = Gauge(
            "canary_weight_percent",
            "Percent of requests that the canary is meant to get.",
            workload,
            registry=registry,
        )
        self.held = Gauge(
            "canary_run_held",
            "1 for the reason why the newest run's weight is not raised although nothing failed.",
            (*workload, "reason"),
            registry=registry,
        )
        self.holds: dict[tuple[str, str], str] = {}
        self.log_e = Gauge(
            "canary_evidence_log_e",
            "Evidence of harm, natural logarithm; all checks' together at log(1/alpha) roll back.",
            (*workload, "check"),
            registry=registry,
        )
        self.verdicts = Counter(
            "canary_verdicts_total",
            "How often a check's verdict became this one.",
            ("check", "verdict"),
            registry=registry,
        )
        self.rollbacks = Counter(
            "canary_rollbacks_total", "Runs that were rolled back.", ("reason",), registry=registry
        )
        self.fault = Histogram(
            "canary_fault_to_rollback_seconds",
            "From when a fault began to show to the API server's answer to weight 0.",
            ("reason",),
            buckets=FAULT_BUCKETS,
            registry=registry,
        )
        self.alerts = Counter(
            "canary_alert_attempts_total",
            "Attempts to deliver an alert, by kind of receiver.",
            ("receiver", "result"),
            registry=registry,
        )
        self._from_zero()
        self.decision = Histogram(
            "canary_decision_seconds",
            "From the last response byte of the last pod to the API server's answer to the weight patch.",
            buckets=DECISION_BUCKETS,
            registry=registry,
        )
        self.lag = Histogram(
            "canary_tick_lag_seconds",
            "From when a run's pages were due to the end of the pass that acted on them.",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self.interval = Gauge(
            "canary_tick_interval_seconds",
            "From one look at a run's pages to the next; longer than it is set where a core is full.",
            registry=registry,
        )
        self.known: set[str] = set()
        self.shown: dict[
            tuple[str, str], tuple[str, int, str | None]
        ] = {}  # each workload's phase and weight

    def _from_zero(self) -> None:
        """What can be known beforehand is there at 0: no `rate()` sees a series' first value."""
        for reason in LEFT_FOR:
            self.rollbacks.labels(reason.value)
        for reason in FAULTS:
            self.fault.labels(reason.value)
        for kind, result in product(letters.KINDS, RESULTS):
            self.alerts.labels(kind, result)

    def hold(self, namespace: str, workload: str, reason: str | None) -> None:
        """This reason holds the workload's run, and no other: of those before none is left."""
        before = self.holds.pop((namespace, workload), None)
        if before not in {None, reason}:
            self.held.remove(namespace, workload, before)
        if reason is not None:
            self.holds[namespace, workload] = reason
            self.held.labels(namespace, workload, reason).set(1)

    def bounded(self, check: str) -> str:
        """The check's name while there are few different ones, else "other"."""
        if check not in self.known and len(self.known) >= MOST_CHECK_NAMES:
            return "other"
        self.known.add(check)
        return check


class _Passes:
    """Series about reconciliation, named as controller-runtime names them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        total = Counter(
            "controller_runtime_reconcile_total",
            "Passes by result.",
            ("controller", "result"),
            registry=registry,
        )
        results = ("success", "error", "requeue", "requeue_after")
        self.total = {result: total.labels(CONTROLLER, result) for result in results}
        self.errors = Counter(
            "controller_runtime_reconcile_errors_total",
            "Passes that ended in an error.",
            ("controller",),
            registry=registry,
        ).labels(CONTROLLER)
        self.seconds = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Length of a pass.",
            ("controller",),
            buckets=PASS_BUCKETS,
            registry=registry,
        ).labels(CONTROLLER)
        self.active = Gauge(
            "controller_runtime_active_workers",
            "Passes under way.",
            ("controller",),
            registry=registry,
        ).labels(CONTROLLER)
        self.most = Gauge(
            "controller_runtime_max_concurrent_reconciles",
            "Passes that may be under way at once.",
            ("controller",),
            registry=registry,
        ).labels(CONTROLLER)


class _Queues:
    """Series about keys that wait for their pass, named as client-go names them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name = ("name",)
        self.depth = Gauge("workqueue_depth", "Keys that wait for their turn.", name, registry=registry)
        self.adds = Counter("workqueue_adds_total", "Keys that became due.", name, registry=registry)
        self.retries = Counter("workqueue_retries_total", "Keys tried again.", name, registry=registry)
        self.waited = Histogram(
            "workqueue_queue_duration_seconds",
            "Due until taken.",
            name,
            buckets=PASS_BUCKETS,
            registry=registry,
        )
        self.worked = Histogram(
            "workqueue_work_duration_seconds",
            "Taken until done.",
            name,
            buckets=PASS_BUCKETS,
            registry=registry,
        )


class Queue:
    """One queue of keys; `loop.Heed`."""

    def __init__(self, of: _Queues, name: str) -> None:
        self._depth, self._adds = of.depth.labels(name), of.adds.labels(name)
        self._retries = of.retries.labels(name)
        self._waited, self._worked = of.waited.labels(name), of.worked.labels(name)

    def queued(self, depth: int) -> None:
        """A key's time has come; so many wait for their turn now."""
        self._adds.inc()
        self._depth.set(depth)

    def taken(self, depth: int, *, waited: timedelta) -> None:
        """A key was taken after it had waited for so long; so many wait still."""
        self._depth.set(depth)
        self._waited.observe(max(0.0, waited.total_seconds()))

    def worked(self, took: timedelta) -> None:
        """A key's pass has ended."""
        self._worked.observe(took.total_seconds())

    def retried(self) -> None:
        """A key's pass failed and will be tried again."""
        self._retries.inc()


class _Rest:
    """Series about the API server and the Lease, named as client-go names them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "rest_client_requests_total",
            "Requests to the API server.",
            ("code", "method"),
            registry=registry,
        )
        self.seconds = Histogram(
            "rest_client_request_duration_seconds",
            "Length of a request to the API server.",
            ("verb",),
            buckets=PASS_BUCKETS,
            registry=registry,
        )
        self.leading = Gauge(
            "leader_election_master_status",
            "1 while this replica leads.",
            ("name",),
            registry=registry,
        )
