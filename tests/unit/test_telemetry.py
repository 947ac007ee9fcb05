"""Logs and metrics."""

import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
import structlog
from aiohttp.http_exceptions import BadHttpMessage
from prometheus_client.parser import text_string_to_metric_families

from controller import letters
from controller.alerts import RESULTS
from controller.leaving import LEFT_FOR
from controller.model import Reason
from controller.telemetry import MOST_CHECK_NAMES, Telemetry, start_logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = before
    root.setLevel(level)


ROOT = Path(__file__).parents[2]


def value(telemetry: Telemetry, sample: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(sample, labels)


def test_a_log_line_is_one_json_object_with_time_level_event_and_fields() -> None:
    out = io.StringIO()
    start_logging("auto", stream=out)
    structlog.get_logger("controller.loop").info("weight_set", run="a", weight=10)
    line = json.loads(out.getvalue())
    assert line["event"] == "weight_set"
    assert (line["level"], line["logger"], line["run"], line["weight"]) == (
        "info",
        "controller.loop",
        "a",
        10,
    )
    assert line["timestamp"].endswith("Z")
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)


def test_what_is_bound_to_the_context_is_in_every_line() -> None:
    out = io.StringIO()
    start_logging("json", stream=out)
    structlog.contextvars.bind_contextvars(run="lab/a")
    structlog.get_logger().warning("patch_refused")
    assert json.loads(out.getvalue())["run"] == "lab/a"


def test_an_exception_is_a_field_not_a_dump() -> None:
    out = io.StringIO()
    start_logging("json", stream=out)
    try:
        raise OSError("connection refused")  # noqa: TRY301 -- a traceback is what is wanted
    except OSError:
        structlog.get_logger().exception("scrape_failed")
    assert out.getvalue().count("\n") == 1
    assert json.loads(out.getvalue())["exception"][0]["exc_type"] == "OSError"


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_says_where_and_no_variable(form: str) -> None:
    out = io.StringIO()
    start_logging(form, stream=out)
    secret = "very" + "-secret"  # in two, since lines of the source are shown

    def tell(url: str) -> None:
        raise OSError(len(url))

    try:
        tell(f"https://hooks.example/{secret}")
    except OSError:
        structlog.get_logger().exception("alert_lost")
        logging.getLogger("asyncio").exception("task_lost")
    assert out.getvalue().count("in tell" if form == "console" else '"name": "tell"') == 2
    assert secret not in out.getvalue()


def test_what_is_no_request_is_no_error_of_ours() -> None:
    out = io.StringIO()
    start_logging("json", stream=out)
    for wrong in (BadHttpMessage("Bearer token"), ZeroDivisionError("ours")):
        try:
            raise wrong
        except (BadHttpMessage, ZeroDivisionError):
            logging.getLogger("aiohttp.server").exception("Error handling request")
    (line,) = out.getvalue().splitlines()
    assert "ours" in line


def test_levels_below_the_chosen_one_are_silent() -> None:
    out = io.StringIO()
    start_logging("json", level="warning", stream=out)
    structlog.get_logger().info("tick")
    assert out.getvalue() == ""


def test_libraries_log_in_the_same_form() -> None:
    out = io.StringIO()
    start_logging("json", stream=out)
    logging.getLogger("aiohttp.server").error("went %s", "wrong")
    line = json.loads(out.getvalue())
    assert (line["event"], line["level"], line["logger"]) == ("went wrong", "error", "aiohttp.server")


def test_access_logs_are_not_repeated() -> None:
    out = io.StringIO()
    start_logging("json", stream=out)
    logging.getLogger("aiohttp.access").info("GET /livez")
    assert out.getvalue() == ""


def test_people_get_text_without_colours_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    start_logging("console", stream=out)
    structlog.get_logger().info("weight_set", weight=10)
    assert "weight_set" in out.getvalue()
    assert "\x1b[" not in out.getvalue()


def test_a_run_is_in_exactly_one_phase() -> None:
    telemetry = Telemetry()
    telemetry.run("lab", "model-canary", phase="Pending", weight=0)
    telemetry.run("lab", "model-canary", phase="Progressing", weight=10)
    where = {"namespace": "lab", "workload": "model-canary"}
    assert value(telemetry, "canary_run_phase", phase="Progressing", **where) == 1
    assert value(telemetry, "canary_run_phase", phase="Pending", **where) == 0
    assert value(telemetry, "canary_weight_percent", **where) == 10


def test_a_run_is_held_by_one_reason_at_most_and_by_none_that_is_over() -> None:
    telemetry, where = Telemetry(), {"namespace": "lab", "workload": "model-canary"}

    def held() -> set[str]:
        (family,) = [one for one in telemetry.registry.collect() if one.name == "canary_run_held"]
        assert all(sample.value == 1 for sample in family.samples)
        return {sample.labels["reason"] for sample in family.samples}

    for reason, shown in (
        ("NoData", {"NoData"}),
        ("Paused", {"Paused"}),
        ("Paused", {"Paused"}),
        (None, set()),
    ):
        telemetry.run(**where, phase="Paused", weight=10, held=reason)
        assert held() == shown
    telemetry.run(**where, phase="Paused", weight=10, held="GateClosed")
    telemetry.forget(**where)
    assert held() == set()


def test_series_of_a_workload_end_with_its_run_and_others_stay() -> None:
    telemetry = Telemetry()
    for workload in ("a", "b"):
        telemetry.run("lab", workload, phase="Progressing", weight=10)
        telemetry.evidence("lab", workload, {"errors": 1.5})
    telemetry.forget("lab", "a")
    telemetry.forget("lab", "a")
    page = telemetry.page()[0].decode()
    assert 'workload="a"' not in page
    assert 'canary_evidence_log_e{check="errors",namespace="lab",workload="b"} 1.5' in page


def test_rollbacks_verdicts_and_decisions_are_counted() -> None:
    telemetry = Telemetry()
    telemetry.verdict("latency-p95", "Fail")
    telemetry.rolled_back("CheckFailed")
    telemetry.decided(timedelta(milliseconds=120))
    assert value(telemetry, "canary_verdicts_total", check="latency-p95", verdict="Fail") == 1
    assert value(telemetry, "canary_rollbacks_total", reason="CheckFailed") == 1
    assert value(telemetry, "canary_decision_seconds_bucket", le="0.15") == 1
    assert value(telemetry, "canary_decision_seconds_bucket", le="0.1") == 0


def test_generated_check_names_cannot_fill_the_memory() -> None:
    telemetry = Telemetry()
    for number in range(MOST_CHECK_NAMES + 50):
        telemetry.verdict(f"check-{number}", "Pass")
    assert value(telemetry, "canary_verdicts_total", check="other", verdict="Pass") == 50


def test_a_pass_that_raises_counts_as_an_error_and_raises() -> None:
    telemetry = Telemetry()
    with telemetry.a_pass():
        assert value(telemetry, "controller_runtime_active_workers", controller="canaryrun") == 1
    with pytest.raises(OSError, match="gone"), telemetry.a_pass():
        raise OSError("gone")
    total = "controller_runtime_reconcile_total"
    assert value(telemetry, total, controller="canaryrun", result="requeue_after") == 1
    assert value(telemetry, total, controller="canaryrun", result="error") == 1
    assert value(telemetry, "controller_runtime_reconcile_errors_total", controller="canaryrun") == 1
    assert value(telemetry, "controller_runtime_reconcile_time_seconds_count", controller="canaryrun") == 2
    assert value(telemetry, "controller_runtime_active_workers", controller="canaryrun") == 0


def test_queue_requests_and_leadership_have_the_names_that_dashboards_know() -> None:
    telemetry = Telemetry()
    telemetry.workers(20)
    queue = telemetry.queue()
    queue.queued(1)
    queue.taken(0, waited=timedelta(milliseconds=3))
    queue.worked(timedelta(milliseconds=4))
    queue.retried()
    telemetry.requested("PATCH", "200", took=timedelta(milliseconds=9))
    telemetry.leads("serin-controller", now=True)
    families = {family.name for family in text_string_to_metric_families(telemetry.page()[0].decode())}
    assert families >= {
        "controller_runtime_max_concurrent_reconciles",
        "workqueue_depth",
        "workqueue_adds",
        "workqueue_queue_duration_seconds",
        "workqueue_work_duration_seconds",
        "workqueue_retries",
        "rest_client_requests",
        "rest_client_request_duration_seconds",
        "leader_election_master_status",
        "process_resident_memory_bytes",
    }
    assert value(telemetry, "leader_election_master_status", name="serin-controller") == 1


def test_each_shards_queue_has_its_name() -> None:
    telemetry = Telemetry()
    telemetry.queue(2).queued(7)
    telemetry.queue(3).queued(1)
    assert value(telemetry, "workqueue_depth", name="canaryrun-2") == 7
    assert value(telemetry, "workqueue_depth", name="canaryrun-3") == 1
    assert value(telemetry, "workqueue_depth", name="canaryrun") == 0


def test_two_telemetries_do_not_share_a_number() -> None:
    one, other = Telemetry(), Telemetry()
    one.rolled_back("Aborted")
    assert value(other, "canary_rollbacks_total", reason="Aborted") == 0


def test_what_can_be_known_beforehand_begins_at_zero() -> None:
    telemetry = Telemetry()
    for reason in LEFT_FOR:
        assert value(telemetry, "canary_rollbacks_total", reason=reason.value) == 0
    for kind, result in product(letters.KINDS, RESULTS):
        assert value(telemetry, "canary_alert_attempts_total", receiver=kind, result=result) == 0
    assert value(telemetry, "canary_fault_to_rollback_seconds_count", reason="CheckFailed") == 0
    telemetry.checks(["errors"])
    for verdict in ("Pass", "Inconclusive", "NoData", "Fail"):
        assert value(telemetry, "canary_verdicts_total", check="errors", verdict=verdict) == 0


def test_every_reason_that_the_code_ends_a_run_for_is_among_those_that_begin_at_zero() -> None:
    code = "".join((ROOT / "controller" / f"{name}.py").read_text() for name in ("leaving", "machine"))
    given = re.findall(r"Ending\(\s*Reason\.(\w+)|ending, reason=Reason\.(\w+)", code)
    assert {Reason[a or b] for a, b in given} == LEFT_FOR
