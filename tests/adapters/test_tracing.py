"""Traces arrive at a real OTLP/HTTP receiver, and one that hangs delays nothing."""

import asyncio
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from controller import tracing
from controller.operate import Operator
from controller.telemetry import Telemetry
from controller.tracing import QUEUE, Tracing, begun
from scenarios import story
from scenarios.play import play
from tests.adapters.letterbox import SENTENCE, SLACK, message, rolled_back

STORY = Path(__file__).parents[2] / "scenarios" / "errors-burst.yaml"


@pytest.fixture(autouse=True)
def _quiet_again() -> Iterator[None]:
    """It is silent until the last of its threads has ended: one left behind spoke in the next test."""
    before = logging.getLogger("opentelemetry").level
    yield
    for one in threading.enumerate():
        if one.name == "traces leave":
            one.join(30)
    logging.getLogger("opentelemetry").setLevel(before)


class Collector:
    """What came, decoded."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.spans: list[Any] = []
        self.resource: dict[str, str] = {}

    def take(self, path: str, kind: str, body: bytes) -> None:
        assert (path, kind) == ("/v1/traces", "application/x-protobuf")
        for one in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = {pair.key: pair.value.string_value for pair in one.resource.attributes}
            self.spans += [span for scope in one.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@contextmanager
def listening(collector: Collector) -> Iterator[str]:
    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the base class's name
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(self.path, self.headers["content-type"], body)
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """An exporter that goes on draws random numbers behind the back of whoever has seeded them."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("Otel"):
            thread.join(20)
            assert not thread.is_alive()


@contextmanager
def hanging() -> Iterator[str]:
    """A receiver that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as door:
        yield f"http://127.0.0.1:{door.getsockname()[1]}"


def started(url: str, monkeypatch: pytest.MonkeyPatch, telemetry: Telemetry) -> Tracing:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    made = begun(telemetry.spans, identity="one")
    assert made is not None
    return made


def played(made: Tracing | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The story, by controllers that write traces there."""

    def operator(*given: Any, **named: Any) -> Operator:
        return Operator(*given, **named, tracing=made)

    with monkeypatch.context() as patched:
        patched.setattr("scenarios.play.Operator", operator)
        return play(story.load(STORY))


def value(telemetry: Telemetry, result: str) -> float:
    return telemetry.registry.get_sample_value("canary_trace_spans_total", {"result": result}) or 0.0


def attributes(span: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


def test_a_run_is_one_trace_from_its_steps_to_the_patch_that_ended_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    telemetry, collector = Telemetry(), Collector()
    with listening(collector) as url:
        made = started(url, monkeypatch, telemetry)
        found = played(made, monkeypatch)
        made.close()
    assert found.ok
    assert collector.resource["service.name"] == "serin-controller"
    assert collector.resource["service.instance.id"] == "one"
    (root,) = collector.named("canary run")
    assert {span.trace_id for span in collector.spans} == {root.trace_id}
    assert not root.parent_span_id
    assert (root.status.code, root.status.message) == (2, "CheckFailed")
    assert attributes(root)["serin.check"] == "errors"
    (step,) = collector.named("step 1")
    assert step.parent_span_id == root.span_id
    assert attributes(step)["serin.verdict.errors"] == "Fail"
    to_zero = [span for span in collector.named("decision") if attributes(span)["serin.weight"] == 0]
    assert to_zero
    (last,) = [span for span in to_zero if attributes(span)["serin.reason"] == "CheckFailed"][:1]
    within = {span.name: span for span in collector.spans if span.parent_span_id == last.span_id}
    assert set(within) == {"evidence", "route patch"}
    assert last.start_time_unix_nano <= within["evidence"].start_time_unix_nano
    assert within["evidence"].end_time_unix_nano == within["route patch"].start_time_unix_nano
    assert within["route patch"].end_time_unix_nano == last.end_time_unix_nano
    assert value(telemetry, "exported") == value(telemetry, "ended") == len(collector.spans)
    assert len(collector.spans) < 20  # a hundred ticks and more made none
    assert value(telemetry, "failed") == 0


def test_an_alert_is_a_span_of_its_run_s_trace_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry, collector = Telemetry(), Collector()
    run = rolled_back(SLACK, outbox=(message(),))
    with listening(collector) as url:
        made = started(url, monkeypatch, telemetry)
        for result, attempts in (("retried", 1), ("retried", 2), ("delivered", 3)):
            made.alerted(
                tracing.Attempt(
                    kind="slack",
                    result=result,
                    attempts=attempts,
                    namespace="lab",
                    run=run.name,
                    created=run.created,
                    at=message().at,
                    ended=message().at,
                )
            )
        made.close()
    (span,) = collector.spans
    trace, root = tracing._key("lab", run.name, run.created)
    assert (span.name, span.trace_id, span.parent_span_id) == (
        "alert slack",
        trace.to_bytes(16),
        root.to_bytes(8),
    )
    assert attributes(span) == {"serin.result": "delivered", "serin.attempts": 3}
    assert b"hooks.slack" not in span.SerializeToString()


def test_an_exporter_that_hangs_delays_no_rollback_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 1. The story is in virtual time, in which the SDK's thread is not: what it cost is real time."""
    without = played(None, monkeypatch)
    telemetry = Telemetry()
    with hanging() as url:
        made = started(url, monkeypatch, telemetry)
        began = time.perf_counter()
        for _ in range(2 * QUEUE):  # more than the queue holds: the thread is at it, and stuck
            made._under((1, 1), "filler", message().at, message().at, {})
        filled = time.perf_counter() - began
        found = played(made, monkeypatch)
        began = time.perf_counter()
        made.close()
        assert time.perf_counter() - began < tracing.LEAVING + 1
    assert filled < 2  # 2 048 spans against a receiver whose timeout is 10 s
    assert found.weights == without.weights  # to the millisecond
    assert found.seconds_to_weight_zero == without.seconds_to_weight_zero
    assert value(telemetry, "ended") > 2 * QUEUE
    assert value(telemetry, "exported") == 0


def test_what_cannot_be_sent_is_counted_and_not_spoken_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry, collector = Telemetry(), Collector(status=400)
    with listening(collector) as url:
        made = started(url, monkeypatch, telemetry)
        made._under((1, 1), "one", message().at, message().at, {"message": SENTENCE * 50})
        made.close()
    assert value(telemetry, "failed") == 1
    assert not caplog.records
    (span,) = collector.spans
    assert len(attributes(span)["serin.message"]) == tracing.LONGEST


def test_without_an_endpoint_or_without_the_extra_there_are_no_traces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert begun(Telemetry().spans, identity="one", environ={}) is None
    monkeypatch.setitem(
        __import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None
    )
    there = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    assert begun(Telemetry().spans, identity="one", environ=there) is None


def test_a_span_that_fails_is_no_failure_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with hanging() as url:
        made = started(url, monkeypatch, Telemetry())
        monkeypatch.setattr(made, "_tracer", None)
        assert played(made, monkeypatch).ok
        made.close()


def test_nothing_of_opentelemetry_is_imported_by_a_controller_without_an_endpoint() -> None:
    code = (
        "import sys, controller.__main__ as m;"
        "assert m.tracing.begun(print, identity='one', environ={}) is None;"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )

    async def run() -> int | None:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        return await process.wait()

    assert asyncio.run(run()) == 0
