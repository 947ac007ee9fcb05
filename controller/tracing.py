"""Traces for OpenTelemetry, one a run: steps, each decision down to the patch, alerts. No span a tick.

Off unless the extra `otel` is installed and `OTEL_EXPORTER_OTLP_ENDPOINT` is set. Nothing waits for it: a
span is put into a queue of bounded length, which a thread of the SDK's empties; what cannot be sent is
counted and not spoken of. A run's trace id and its root's come of its name and birth, so that leaders that
follow one another, who know nothing of each other's spans, write one trace.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from controller.alerts import Attempt
from controller.means import Live
from controller.model import Run
from controller.onset import FAULTS
from controller.resource import verdict_name

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span

log = structlog.get_logger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
QUEUE = 1024  # spans of about 1 kB; a run makes some ten, so this is what a hundred make at once
LONGEST = 512  # characters of an attribute: a sentence of ours is shorter, what people wrote may not be
LEAVING = 2.0  # seconds that the process waits at its end for what is in the queue

Counted = Callable[[str, int], None]


class _Exporter(Protocol):
    """The part of `SpanExporter` that is ours to count."""

    def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult": ...


def begun(counted: Counted, *, identity: str, environ: Mapping[str, str] = os.environ) -> "Tracing | None":
    """Traces that go where the environment says; None where it says nothing, or nothing is installed."""
    if not any(environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # its texts quote the URL, every time
        exporter = OTLPSpanExporter()
    except ImportError:
        log.warning("traces_off", why="opentelemetry is not installed; install serin[otel]")
        return None
    except Exception as error:  # noqa: BLE001 - a variable that the SDK cannot read stops no controller
        log.warning("traces_off", why=type(error).__name__)
        return None
    return Tracing(exporter, counted, identity=identity)


class Tracing:
    """Spans of runs. No method raises, and none waits."""

    def __init__(self, exporter: "SpanExporter", counted: Counted, *, identity: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._ids = _ids()
        self._counted = counted
        self._exporter = _counting(exporter, counted)
        named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "serin-controller")}
        self._provider = TracerProvider(
            resource=Resource.create({**named, "service.instance.id": identity}),
            id_generator=self._ids,
            span_limits=SpanLimits(max_attribute_length=LONGEST),
            shutdown_on_exit=False,  # `close` does, and not for ever
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, max_queue_size=QUEUE, max_export_batch_size=128)
        )
        self._tracer = self._provider.get_tracer("serin")

    def routed(self, live: Live, weight: int, *, began: datetime, now: datetime) -> None:
        """A decision and its patch are spans: from the newest page to the API server's answer."""
        read = datetime.fromtimestamp(live.last_byte, now.tzinfo) if live.last_byte else began
        said: dict[str, Any] = {
            "weight": weight,
            "reason": str(live.run.reason or ""),
            "log_e": live.judgement.log_e,
        }
        with _Quiet():
            within = self._span(live.run, "decision", read, now, **said)
            self._span(live.run, "evidence", read, began, within=within)
            self._span(live.run, "route patch", began, now, within=within, weight=weight)

    def shown(self, run: Run, before: Run, live: Live, *, now: datetime) -> None:
        """A step that is over is a span, and so is a run."""
        over = run.ended is not None and before.ended is None
        with _Quiet():
            if before.step_since is not None and (over or run.step_since != before.step_since):
                verdicts: dict[str, Any] = {
                    f"verdict.{one.name}": verdict_name(one.verdict) for one in live.judgement.checks
                }
                self._span(
                    run, f"step {before.step + 1}", before.step_since, now, weight=before.weight, **verdicts
                )
            if over:
                self._root(run, now)

    def alerted(self, attempt: Attempt) -> None:
        """An alert that has arrived, or was given up, is a span, since it was to be told."""
        if attempt.result == "retried":
            return
        said = {"result": attempt.result, "attempts": attempt.attempts}
        with _Quiet():
            key = _key(attempt.namespace, attempt.run, attempt.created)
            self._under(key, f"alert {attempt.kind}", attempt.at, attempt.ended, said)

    def close(self) -> None:
        """What was in the queue has been sent, or `LEAVING` has passed."""
        end = threading.Thread(target=self._provider.shutdown, daemon=True, name="traces leave")
        end.start()
        end.join(LEAVING)
        if end.is_alive():  # what is still on its way is not tried again
            self._exporter.shutdown()

    def _root(self, run: Run, now: datetime) -> None:
        key = _key(run.plan.namespace, run.name, run.created)
        self._ids.next = key  # of this span alone
        said = {
            "namespace": run.plan.namespace,
            "run": run.name,
            "canary": run.plan.canary,
            "stable": run.plan.stable,
            "reason": str(run.reason or ""),
            "check": run.check or "",
            "message": run.message,
        }
        span = self._tracer.start_span("canary run", context=_nobody(), start_time=_ns(run.created))
        if run.reason in FAULTS:
            from opentelemetry.trace import StatusCode

            span.set_status(StatusCode.ERROR, str(run.reason))
        self._end(span, now, said)

    def _span(
        self,
        run: Run,
        name: str,
        start: datetime,
        end: datetime,
        *,
        within: "Span | None" = None,
        **said: Any,
    ) -> "Span":
        key = _key(run.plan.namespace, run.name, run.created)
        return self._under(key, name, start, end, said, within=within)

    def _under(
        self,
        key: tuple[int, int],
        name: str,
        start: datetime,
        end: datetime,
        said: Mapping[str, Any],
        *,
        within: "Span | None" = None,
    ) -> "Span":
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(_promised(*key) if within is None else within)
        span = self._tracer.start_span(name, context=context, start_time=_ns(min(start, end)))
        return self._end(span, end, said)

    def _end(self, span: "Span", end: datetime, said: Mapping[str, Any]) -> "Span":
        span.set_attributes({f"serin.{name}": value for name, value in said.items() if value != ""})
        span.end(_ns(end))
        self._counted("ended", 1)
        return span


class _Quiet:
    """The block raises nothing: a run goes on as if nobody had looked."""

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if kind is None or not issubclass(kind, Exception):
            return False
        log.error("span_lost", error=repr(error))
        return True


def _key(namespace: str, run: str, created: datetime) -> tuple[int, int]:
    """The run's trace id and its root's span id; the same for every leader."""
    digest = sha256(f"{namespace}/{run}/{created.isoformat()}".encode()).digest()
    return int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1e9)


def _nobody() -> Any:
    from opentelemetry.context import Context

    return Context()


def _promised(trace: int, span: int) -> "Span":
    """The run's root, which is sent when the run is over."""
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

    flags = TraceFlags(TraceFlags.SAMPLED)
    return NonRecordingSpan(SpanContext(trace, span, is_remote=True, trace_flags=flags))


def _ids() -> Any:
    """An `IdGenerator` that can be told the `next` trace's ids."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        next: tuple[int, int] | None = None

        def generate_trace_id(self) -> int:
            return super().generate_trace_id() if self.next is None else self.next[0]

        def generate_span_id(self) -> int:  # asked for second
            said, self.next = self.next, None
            return super().generate_span_id() if said is None else said[1]

    return Ids()


def _counting(exporter: _Exporter, counted: Counted) -> Any:
    """The exporter, and each batch's end is counted; on the SDK's thread."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Counting(SpanExporter):
        def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
            result = SpanExportResult.FAILURE
            try:
                result = exporter.export(spans)
            finally:
                fine = result is SpanExportResult.SUCCESS
                counted("exported" if fine else "failed", len(spans))
            return result

        def shutdown(self) -> None:
            getattr(exporter, "shutdown", lambda: None)()

    return Counting()
