"""What a model server says of itself, read by those who will: Serin's own reader and prometheus_client's."""

import asyncio
import logging
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from wsgiref.simple_server import WSGIServer

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as opened
from prometheus_client.parser import text_string_to_metric_families as plain

from analysis.buckets import certain
from analysis.evidence import CheckKind, CheckSpec
from controller import instrument, protobuf, reading
from controller.instrument import Histogram, Instrumented, readiness, steps
from controller.instrument.formats import OPEN, PLAIN, PROTOBUF

LATENCY = CheckSpec(name="latency-p95", kind=CheckKind.LATENCY)
PREDICTIONS = CheckSpec(name="predictions", kind=CheckKind.PREDICTIONS)
# what a Prometheus 2.53 sends with native histograms switched on
PROMETHEUS = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.fixture
def model() -> Instrumented:
    return Instrumented("churn", version="2")


def samples(model: Instrumented) -> dict[str, float]:
    """Each sample of the text page, by its name and the labels beyond the model's own."""
    found = {}
    for family in plain(model.page()[0].decode()):
        for sample in family.samples:
            rest = [f"{key}={value}" for key, value in sample.labels.items() if not key.startswith("model_")]
            found["|".join([sample.name, *rest])] = sample.value
    return found


def read(model: Instrumented, accept: str) -> reading.Reading:
    page, kind = model.page(accept)
    found, wrong = reading.read(page, [LATENCY, PREDICTIONS], at=0.0, kind=kind)
    assert wrong == ()
    return found


# -- the page in three formats


@pytest.mark.parametrize("accept", [reading.ACCEPT, PROMETHEUS, "application/openmetrics-text", "", "*/*"])
def test_serin_reads_the_same_counts_in_every_format(model: Instrumented, accept: str) -> None:
    for seconds in np.random.default_rng(1).lognormal(-3.5, 0.6, 500):
        model.took(seconds)
    model.predicted([0.1, 0.5, 0.5])
    found = read(model, accept)
    assert (found.values["latency-p95"].n, found.values["predictions"].n) == (500, 3)
    assert found.requests is not None
    assert found.requests.n == 500


def test_the_format_is_the_one_that_is_liked_best() -> None:
    page = Instrumented("m", version="1").page
    assert page(PROMETHEUS)[1] == page(reading.ACCEPT)[1] == PROTOBUF
    assert page("text/plain;q=0.3, application/openmetrics-text;q=0.5")[1] == OPEN
    assert page("text/html")[1] == page("")[1] == page("text/plain;q=nonsense")[1] == PLAIN
    assert page(f"{protobuf.TYPE};encoding=text, text/plain;q=0.1")[1] == PLAIN


def test_the_text_pages_are_read_by_prometheus_client_label_by_label() -> None:
    model = Instrumented('a "quoted"\nname\\', version="2")
    model.counted("clicks", 3)
    model.features({"age": None})
    for page in (
        plain(model.page()[0].decode()),
        opened(model.page("application/openmetrics-text")[0].decode()),
    ):
        families = {family.name: family for family in page}
        (clicks,) = families["model_clicks"].samples
        assert (clicks.name, clicks.value) == ("model_clicks_total", 3)
        assert clicks.labels == {"model_name": 'a "quoted"\nname\\', "model_version": "2"}
        (missing,) = families["model_feature_missing_rate"].samples
        assert (missing.labels["feature_name"], missing.value) == ("age", 1)


def test_a_count_is_written_in_full(model: Instrumented) -> None:
    model.counted("impressions", 1_234_567_890_123)
    assert samples(model)["model_impressions_total"] == 1_234_567_890_123


def test_native_buckets_hold_what_the_classic_ones_hold(model: Instrumented) -> None:
    values = [*np.random.default_rng(2).lognormal(-3, 1, 300), 0.5, 1.0, 2.0, 2.0 ** (1 / 16), 0.0]
    for seconds in values:
        model.took(seconds)
    page, _ = model.page(protobuf.ACCEPT)
    (native,) = protobuf.families(page, {reading.INFERENCE}).native[reading.INFERENCE]
    found = protobuf.exponential(native.message)
    assert (found.n, found.zero) == (len(values), 1)
    for low, high, count in found.buckets[1:]:
        assert count == sum(low < value <= high for value in values)


def test_native_buckets_that_hold_nothing_are_told_from_no_native_ones(model: Instrumented) -> None:
    assert protobuf.families(model.page(protobuf.ACCEPT)[0], {reading.INFERENCE}).native[reading.INFERENCE]


def test_the_buckets_prove_an_increase_near_the_margin() -> None:
    quantiles = np.geomspace(0.0011, 40.0, 5_000)
    assert certain(instrument.SECONDS, quantile=quantiles, margin=1.2).max() <= 1.2 * 1.2**0.5 + 1e-9


def test_the_margin_times_a_bound_is_a_bound() -> None:
    bounds = steps(0.01, 10.0, margin=1.1, parts=3)
    assert (bounds[0], bounds[-1] >= 10.0) == (0.01, True)
    assert np.allclose(np.array(bounds[:-3]) * 1.1, bounds[3:], rtol=1e-11, atol=0)


# -- what is recorded


def test_a_request_is_timed_however_it_ends_and_whatever_it_is(model: Instrumented) -> None:
    @model.request
    def answers() -> int:
        assert model.depth == 1
        return 1

    @model.request()
    async def later() -> int:
        await asyncio.sleep(0)
        return 2

    assert (answers(), asyncio.run(later())) == (1, 2)
    with pytest.raises(KeyError), model.request():
        raise KeyError("x")
    assert samples(model)["model_inference_duration_seconds_count"] == 3
    assert model.depth == 0


def test_a_function_that_yields_is_refused_with_the_remedy(model: Instrumented) -> None:
    def tokens() -> Iterator[str]:
        yield "a"

    async def later() -> AsyncIterator[str]:
        yield "a"

    for call in (tokens, later):
        with pytest.raises(TypeError, match=r"use `with model.request\(\):` within it"):
            model.request(call)


def test_predictions_come_as_numbers_lists_and_arrays_and_a_nan_is_seen(model: Instrumented) -> None:
    model.predicted(0.5)
    model.predicted(np.array([[0.1], [math.nan]]))
    model.predicted([True, np.float32(0.3)])
    model.predicted(np.float64(0.9))
    assert samples(model)["model_prediction_value_bucket|le=1.0"] == 5
    assert samples(model)["model_prediction_value_bucket|le=+Inf"] == 6
    assert math.isfinite(samples(model)["model_prediction_value_sum"])


def test_missing_values_are_counted_in_mappings_columns_and_arrays() -> None:
    model = Instrumented("churn", version="2", features=("age", "income"))
    model.features({"age": None, "income": 1.0})
    model.features({"age": [1.0, math.nan, 2.0]})  # income was known, and is not there
    model.features(np.array([[math.nan, 1.0], [1.0, 1.0]]))
    model.features(np.array([1.0, 2.0]))
    found = samples(model)
    assert found["model_feature_missing_rate|feature_name=age"] == pytest.approx(3 / 7)
    assert found["model_feature_missing_rate|feature_name=income"] == pytest.approx(3 / 7)


def test_the_share_of_missing_values_forgets_what_was_long_ago(model: Instrumented) -> None:
    model.features({"age": [None] * 1000})
    model.features({"age": [1.0] * 5000})
    assert samples(model)["model_feature_missing_rate|feature_name=age"] == 0


def test_names_of_features_do_not_fill_the_memory(model: Instrumented) -> None:
    for name in range(600):
        model.features({f"made-up-{name}": 1.0})
    assert sum("missing_rate" in name for name in samples(model)) == 500


def test_a_queue_is_what_is_said_or_asked_for(model: Instrumented) -> None:
    model.queue(7)
    assert samples(model)["inference_queue_depth"] == 7
    model.queue(lambda: 3)
    assert samples(model)["inference_queue_depth"] == 3


def test_drift_is_a_gauge_for_each_feature(model: Instrumented) -> None:
    model.drift({"age": 0.25})
    assert samples(model)["model_data_drift_score|feature_name=age"] == 0.25


@pytest.mark.filterwarnings("ignore")
def test_a_fault_in_recording_breaks_no_prediction_is_counted_and_told_once(
    model: Instrumented, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> float:
        raise OSError("no queue")

    wrong: list[tuple[Any, Any]] = [
        (model.predicted, "high"), (model.predicted, None), (model.features, 3), (model.drift, {"a": "b"}),
        (model.queue, "long"), (model.took, "long"), (model.counted, "Bad name!"), (model.queue, away),
        (model.features, np.zeros((2, 3, 4))),
    ]  # fmt: skip
    with caplog.at_level(logging.WARNING):
        for record, value in wrong:
            record(value)
        assert samples(model)["inference_queue_depth"] == 0
    assert len(caplog.records) == 1
    assert "nothing was recorded" in caplog.text
    assert samples(model)["model_instrument_faults_total"] >= 7


class Interrupted(Histogram):
    """Another scraper comes, with an observation more, after the counts were read."""

    def _native(self) -> bytes:
        seen = threading.Event()
        other = threading.Thread(target=lambda: (self.observe(2.0), seen.set(), self.count()))
        other.start()
        seen.wait()
        other.join(0.05)
        return super()._native()


def test_of_two_scrapers_neither_is_told_of_more_native_buckets_than_were_counted() -> None:
    counted = Interrupted("h_seconds", {}, (0.5, 4.0), native=True)
    counted.observe(1.0)
    assert protobuf.exponential(counted.message()).n == 1
    assert protobuf.exponential(counted.message()).n == 2


def test_threads_lose_nothing(model: Instrumented) -> None:
    def work() -> None:
        for _ in range(3000):
            with model.request():
                model.predicted(0.5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        model.page()  # scraped meanwhile
    for thread in threads:
        thread.join()
    found = samples(model)
    assert found["model_inference_duration_seconds_count"] == found["model_prediction_value_count"] == 12_000
    assert model.depth == 0


# -- what is set up


@pytest.mark.parametrize("version", ["", " ", 2, None])
def test_a_version_is_a_text(version: Any) -> None:
    with pytest.raises(ValueError, match='version must be a text that is not empty, such as "2"'):
        Instrumented("churn", version=version)


@pytest.mark.parametrize("bounds", [(), (1.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan,)])
def test_buckets_are_increasing_and_finite(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="h: its buckets must be"):
        Histogram("h", (), bounds)


def test_steps_that_cannot_be_are_refused() -> None:
    for low, high, margin in ((0.0, 1.0, 1.2), (2.0, 1.0, 1.2), (1.0, 2.0, 1.0)):
        with pytest.raises(ValueError, match="0 < low < high, a margin above 1"):
            steps(low, high, margin=margin)


# -- readiness


def test_ready_is_who_is_warm_and_computes(model: Instrumented, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FRESH", 0.0)
    answers: list[Any] = [0.5]
    assert not model.ready()
    assert "call warm_up" in model.unready()
    tried = []

    @model.request
    def infer() -> Any:
        tried.append(1)
        model.predicted(0.5)
        model.features({"age": None})
        return answers[-1]

    model.warm_up(infer, times=3)
    assert (len(tried), model.ready()) == (3, True)
    answers.append(np.array([1.0, math.nan]))
    assert model.unready() == "the model was tried: ValueError: its answer has a NaN"
    answers.append(False)
    assert not model.ready()
    answers.append("a text")
    assert model.ready()
    assert samples(model)["model_inference_duration_seconds_count"] == 0  # nothing of that was traffic
    assert not [name for name in samples(model) if "missing" in name]


def test_a_try_that_hangs_is_not_ready_and_is_not_tried_twice(
    model: Instrumented, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "FRESH", 0.0)
    monkeypatch.setattr(readiness, "PATIENCE", 0.01)
    hang, begun = threading.Event(), threading.Event()
    traffic = threading.Event()

    def call() -> int:
        if traffic.is_set():
            begun.set()
            hang.wait()
        return 1

    model.warm_up(call, times=1)
    traffic.set()
    first = threading.Thread(target=model.ready)
    first.start()
    begun.wait()
    assert model.unready() == "the model has not answered the last try yet"
    hang.set()
    first.join()
    assert model.ready()


def test_a_model_that_cannot_be_warmed_up_says_so(model: Instrumented) -> None:
    def broken() -> None:
        raise RuntimeError("no weights")

    async def later() -> None: ...

    with pytest.raises(RuntimeError, match="no weights"):
        model.warm_up(broken)
    with pytest.raises(TypeError, match="a plain function of no arguments"):
        model.warm_up(later)
    with pytest.raises(ValueError, match="times must be 1 or more"):
        model.warm_up(lambda: 1, times=0)
    assert not model.ready()


# -- how it is served


def got(url: str, accept: str = "*/*") -> tuple[int, str, bytes]:
    try:
        with urlopen(Request(url, headers={"Accept": accept}), timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def test_a_thread_serves_the_page_and_readiness(model: Instrumented) -> None:
    url = f"http://127.0.0.1:{model.serve(0, host='127.0.0.1')}"
    assert got(f"{url}/ready")[0] == 503
    model.warm_up(lambda: 1)
    assert got(f"{url}/ready") == (200, "text/plain; charset=utf-8", b"ready\n")
    assert got(f"{url}/metrics")[1] == PLAIN
    assert got(f"{url}/metrics", reading.ACCEPT)[:2] == (200, PROTOBUF)
    assert got(f"{url}/other")[0] == 404


def test_an_asgi_server_can_mount_it(model: Instrumented) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "root_path": "/serin",
        "path": "/serin/metrics",
        "headers": [(b"accept", reading.ACCEPT.encode())],
    }
    asyncio.run(model.asgi(scope, lambda: None, send))
    assert (sent[0]["status"], sent[0]["headers"][0]) == (200, (b"content-type", PROTOBUF.encode()))
    assert sent[1]["body"] == model.page(reading.ACCEPT)[0]


def test_a_copied_folder_needs_the_standard_library_alone(tmp_path: Path) -> None:
    shutil.copytree(Path(instrument.__file__).parent, tmp_path / "serin_instrument")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from serin_instrument import Instrumented as I;"
        " m = I('a', version='1'); m.predicted(0.5); print(len(m.page()[0]), 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split()[1] == "False"


def test_the_example_of_the_docs_serves_what_serin_reads() -> None:
    page = (Path(__file__).parents[2] / "docs" / "instrumenting.md").read_text()
    program = page.partition("```python\n")[2].partition("```")[0]
    said: dict[str, Any] = {"__name__": "__main__"}  # as somebody types it: it ended at once
    code = compile(program.replace(", 8080,", ", 0,"), "docs/instrumenting.md", "exec")
    thread = threading.Thread(target=exec, args=(code, said))
    thread.start()
    while "server" not in said and thread.is_alive():
        time.sleep(0.01)
    server: WSGIServer = said["server"]
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert got(f"{url}/ready")[2] == b"ready\n"
        assert got(f"{url}/predict")[2] == b"0.41"
        status, kind, body = got(f"{url}/metrics", reading.ACCEPT)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    found, wrong = reading.read(body, [LATENCY, PREDICTIONS], at=0.0, kind=kind)
    assert (status, wrong, found.values["latency-p95"].n, found.values["predictions"].n) == (200, (), 1, 1)
