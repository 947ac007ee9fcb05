"""What is read from a page for each check, and what is said when it cannot be."""

from collections.abc import Callable
from typing import Any

import pytest

from analysis.evidence import CheckKind, CheckSpec
from analysis.samples import Counts, Histogram
from controller import layouts, protobuf
from controller.reading import REQUESTS, is_protobuf, read, whole
from scenarios.page import Page
from tests import wire

LATENCY = CheckSpec(name="latency-p95", kind=CheckKind.LATENCY)
TAIL = CheckSpec(name="latency-p99", kind=CheckKind.LATENCY, quantile=0.99)
ERRORS = CheckSpec(name="errors", kind=CheckKind.ERROR_RATE)
PREDICTIONS = CheckSpec(name="predictions", kind=CheckKind.PREDICTIONS)
CHECKS = (LATENCY, ERRORS, PREDICTIONS)


def buckets(family: str, labels: str, **counts: int) -> str:
    """One histogram; `le_0_5=3` is a bucket."""
    bounds = {"+Inf" if name == "inf" else name[3:].replace("_", "."): n for name, n in counts.items()}
    lines = [f'{family}_bucket{{{labels},le="{le}"}} {n}' for le, n in bounds.items()]
    return "\n".join([*lines, f"{family}_count{{{labels}}} {counts['inf']}", ""])


def requests(n: int, code: str = "200", *, reporter: str = "destination", grpc: str | None = None) -> str:
    more = "" if grpc is None else f',grpc_response_status="{grpc}"'
    return f'istio_requests_total{{reporter="{reporter}",response_code="{code}"{more}}} {n}\n'


INFERENCE = buckets("model_inference_duration_seconds", 'model_name="m"', le_0_1=3, le_0_5=4, inf=5)
SIDECAR = buckets(
    "istio_request_duration_milliseconds", 'reporter="destination"', le_100=30, le_500=40, inf=50
)


def test_a_model_servers_page_gives_every_check() -> None:
    page = Page(model="m", version="1", workload="w")
    for code, seconds in ((200, 0.02), (200, 0.03), (503, 0.5)):
        page.model.took(seconds)
        page.observe(code, seconds, score=0.31 if code == 200 else None)
    reading, wrong = read(page.text().encode(), CHECKS, at=7.0)
    assert wrong == ()
    assert reading.at == 7.0
    assert reading.requests == reading.values["errors"] == Counts(3, 1)
    assert reading.counter == "istio_requests_total"
    assert (reading.values["latency-p95"].n, reading.values["predictions"].n) == (3, 2)
    assert reading.sources == {
        "latency-p95": "model_inference_duration_seconds",
        "errors": "istio_requests_total",
        "predictions": "model_prediction_value",
    }


CALLS = 'istio_requests_total{reporter="destination",request_protocol="grpc",response_code="200"'


@pytest.mark.parametrize(
    ("page", "label"),
    [
        ('istio_requests_total{reporter="destination"} 90\n', "response_code"),
        (requests(90) + 'istio_requests_total{reporter="destination",response_code=""} 9\n', "response_code"),
        (f"{CALLS}}} 90\n", "grpc_response_status"),
        (f'{CALLS},grpc_response_status=""}} 90\n', "grpc_response_status"),
    ],
)
@pytest.mark.parametrize("how", [read, layouts.read])
def test_requests_that_do_not_say_which_of_them_failed_are_no_successes(
    how: Callable[..., Any], page: str, label: str
) -> None:
    """A mesh that leaves the label out had every bad canary promoted without an error."""
    reading, wrong = how(page.encode(), [ERRORS], at=0.0)
    assert (reading.values, reading.requests) == ({}, Counts(99 if 'code=""' in page else 90, 0))
    why = f"it has no label {label}, so nobody can tell what failed; see to Telemetry's tagOverrides"
    assert wrong == (f"errors: istio_requests_total: {why}",)


@pytest.mark.parametrize("status", ["0", "14"])
def test_calls_some_of_which_ended_without_a_status_are_counted(status: str) -> None:
    page = f'{CALLS},grpc_response_status=""}} 1\n{CALLS},grpc_response_status="{status}"}} 90\n'
    for how in (read, layouts.read):
        reading, wrong = how(page.encode(), [ERRORS], at=0.0)
        assert (reading.values["errors"], wrong) == (Counts(91, 90 if status == "14" else 0), ())


def test_latency_is_the_models_own_where_the_pod_has_it() -> None:
    reading, _ = read((SIDECAR + INFERENCE).encode(), [LATENCY], at=0)
    assert reading.values["latency-p95"] == Histogram((0.1, 0.5), (3, 1, 1))


def test_beside_the_models_own_time_stands_what_the_sidecar_saw_with_waiting() -> None:
    reading, _ = read((SIDECAR + INFERENCE).encode(), [LATENCY], at=0)
    assert reading.took == Histogram((0.1, 0.5), (30, 10, 10))
    assert read(INFERENCE.encode(), [LATENCY], at=0)[0].took is None
    assert read(SIDECAR.encode(), [LATENCY], at=0)[0].took is None  # it is the check's own


def test_else_it_is_the_sidecars_in_seconds() -> None:
    reading, _ = read(SIDECAR.encode(), [LATENCY, TAIL], at=0)
    assert (
        reading.values["latency-p95"] == reading.values["latency-p99"] == Histogram((0.1, 0.5), (30, 10, 10))
    )
    assert reading.sources["latency-p95"] == "istio_request_duration_milliseconds"


def test_a_family_that_is_declared_is_waited_for() -> None:
    page = "# TYPE model_inference_duration_seconds histogram\n" + SIDECAR
    reading, wrong = read(page.encode(), [LATENCY], at=0)
    assert "latency-p95" not in reading.values
    assert "latency-p95" not in reading.sources
    assert wrong[0] == "latency-p95: model_inference_duration_seconds is not on the page (yet)"


def test_models_on_one_pod_are_added_up() -> None:
    page = INFERENCE + INFERENCE.replace('"m"', '"other"')
    assert read(page.encode(), [LATENCY], at=0)[0].values["latency-p95"] == Histogram((0.1, 0.5), (6, 2, 2))


@pytest.mark.parametrize(
    ("line", "failed"),
    [
        (requests(7, "200"), 0),
        (requests(7, "404"), 0),
        (requests(7, "500"), 7),
        (requests(7, "503"), 7),
        (requests(7, "0"), 7),
        (requests(7, "5"), 0),
        *(
            (requests(7, "200", grpc=str(status)), 7 * (status in {2, 4, 8, 12, 13, 14, 15}))
            for status in range(17)
        ),
    ],
)
def test_failed_requests_are_those_that_the_server_failed(line: str, failed: int) -> None:
    reading, _ = read((line + requests(10)).encode(), [ERRORS], at=0)
    expected = Counts(17 if line != requests(7, "200") else 7, failed)
    assert reading.values["errors"] == reading.requests == expected


def test_requests_that_the_pod_makes_itself_do_not_count() -> None:
    page = requests(5, "500") + requests(100, "503", reporter="source") + requests(9)
    assert read(page.encode(), [ERRORS], at=0)[0].values["errors"] == Counts(14, 5)
    reading, _ = read(requests(100, reporter="source").encode(), [ERRORS], at=0)
    assert (reading.requests, dict(reading.values)) == (None, {})
    outgoing = SIDECAR.replace("destination", "source")
    assert read(outgoing.encode(), [LATENCY], at=0)[0].values == {}


def test_without_a_sidecar_the_inferences_are_the_requests() -> None:
    found = read(INFERENCE.encode(), [], at=0)[0]
    assert (found.requests, found.counter) == (Counts(5, 0), "model_inference_duration_seconds")


def test_what_is_missing_is_said() -> None:
    reading, wrong = read(b"up 1\n", CHECKS, at=0)
    assert (reading.requests, reading.values, reading.sources) == (None, {}, {})
    assert wrong == (
        "latency-p95: istio_request_duration_milliseconds is not on the page (yet)",
        "errors: istio_requests_total is not on the page (yet)",
        "predictions: model_prediction_value is not on the page (yet)",
        "neither istio_requests_total nor model_inference_duration_seconds is on the page (yet)",
    )


def test_a_check_that_makes_no_sense_spares_the_others_and_is_not_called_missing() -> None:
    broken = buckets("model_prediction_value", 'model_name="m"', le_0_1=9, le_0_5=4, inf=5)
    reading, wrong = read((INFERENCE + requests(3) + broken).encode(), CHECKS, at=0)
    assert set(reading.values) == {"latency-p95", "errors"}
    assert reading.sources["predictions"] == "model_prediction_value"
    assert wrong == (
        "predictions: model_prediction_value: buckets le=0.1 (9) and le=0.5 (4) are not cumulative",
    )


def test_a_count_that_is_none_is_no_count() -> None:
    reading, wrong = read(b'istio_requests_total{reporter="destination"} NaN\n', [ERRORS], at=0)
    assert reading.requests is None
    assert reading.sources == {"errors": "istio_requests_total"}
    assert wrong == (
        "errors: istio_requests_total: nan is not a count",
        "istio_requests_total: nan is not a count",
    )
    page = INFERENCE.replace('_count{model_name="m"} 5', '_count{model_name="m"} -5')
    assert read(page.encode(), [], at=0)[0].requests is None


def test_a_page_that_cannot_be_read_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="middle of a line"):
        read(b"istio_requests_total 1", CHECKS, at=0)


# -- proportions -----------------------------------------------------------------------------------

CLICKS = CheckSpec(name="clicks", kind=CheckKind.PROPORTION, counters=("clicks_total", "views_total"))
BOTH = 'views_total{page="a"} 50\nviews_total{page="b"} 30\nclicks_total 8\n'


def test_a_proportion_is_two_counters_by_name_over_all_their_labels() -> None:
    reading, wrong = read((INFERENCE + BOTH).encode(), [LATENCY, CLICKS], at=0)
    assert reading.values["clicks"] == Counts(80, 8)
    assert reading.sources["clicks"] == "clicks_total"
    assert reading.values["latency-p95"].n == 5
    assert wrong == ()


def test_a_plan_looks_for_its_own_counters_only() -> None:
    other = CheckSpec(name="orders", kind=CheckKind.PROPORTION, counters=("orders_total", "views_total"))
    page = (INFERENCE + BOTH + "orders_total 2\n").encode()
    assert read(page, [other], at=0)[0].values == {"orders": Counts(80, 2)}
    assert read(page, [CLICKS, other], at=0)[0].values == {"clicks": Counts(80, 8), "orders": Counts(80, 2)}


@pytest.mark.parametrize(
    ("page", "missing"), [("views_total 3\n", "clicks_total"), ("clicks_total 3\n", "views_total")]
)
def test_a_counter_that_is_not_there_is_named_and_is_no_zero(page: str, missing: str) -> None:
    reading, wrong = read((INFERENCE + page).encode(), [CLICKS], at=0)
    assert dict(reading.values) == {}
    assert wrong == (f"clicks: {missing} is not on the page (yet)",)
    # what is counted already does not begin at zero when the other appears (controller.ticks)
    assert dict(reading.sources) == {"clicks": missing}


def test_two_counters_that_are_not_there_are_no_source() -> None:
    assert dict(read(INFERENCE.encode(), [CLICKS], at=0)[0].sources) == {}


def test_a_histogram_without_bounds_is_not_read_and_the_remedy_is_said() -> None:
    page = b'model_inference_duration_seconds_bucket{le="+Inf"} 9\n'
    latency = CheckSpec(name="latency", kind=CheckKind.LATENCY)
    reading, wrong = read(page, [latency], at=0)
    assert dict(reading.values) == {}
    assert "or serve it in protobuf" in wrong[0]


def test_a_counter_that_is_declared_and_was_never_needed_is_zero() -> None:
    page = INFERENCE + "# TYPE clicks_total counter\nviews_total 30\n"
    assert read(page.encode(), [CLICKS], at=0)[0].values["clicks"] == Counts(30, 0)


def test_more_hits_than_trials_are_not_read_and_the_remedy_is_said() -> None:
    reading, wrong = read((INFERENCE + "views_total 3\nclicks_total 4\n").encode(), [CLICKS], at=0)
    assert (dict(reading.values), dict(reading.sources)) == ({}, {"clicks": "clicks_total"})
    assert wrong == (
        "clicks: clicks_total: 4 hits of 3 trials (views_total); count a trial when its outcome is known",
    )


# -- protobuf --------------------------------------------------------------------------------------

KIND = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
RECEIVED = {"reporter": "destination", "response_code": "200"}
FAILED = {**RECEIVED, "response_code": "503"}
MODEL = "model_inference_duration_seconds"
ISTIO = "istio_request_duration_milliseconds"


def test_the_sidecars_native_histograms_are_added_up_in_seconds() -> None:
    page = wire.family(
        ISTIO,
        wire.native(RECEIVED, 4, {70: 4, 112: 1}, zero=3, threshold=0.5),  # 19.9 to 20.7 ms; 122 to 128 ms
        wire.native({**RECEIVED, "response_code": "500"}, 4, {112: 2}, threshold=0.5),
        wire.native({**RECEIVED, "response_code": "404"}, 3, {}, threshold=0.0),  # Envoy's way to say none
        wire.native({**RECEIVED, "reporter": "source"}, 4, {112: 99}),
    )
    reading, wrong = read(page, [LATENCY], at=0, kind=KIND)
    value = reading.values["latency-p95"]
    assert isinstance(value, Histogram)
    assert reading.sources == {"latency-p95": ISTIO}
    assert (len(value.le), value.le[0], value.le[-1]) == (188, 0.002, 66.0)
    # what the proxy calls 128 ms or less was less than 130: it knows two digits
    assert {value.le[at]: n for at, n in enumerate(value.count) if n} == {0.002: 3, 0.021: 4, 0.13: 3}
    assert wrong == (f"neither istio_requests_total nor {MODEL} is on the page (yet)",)


def test_schemas_and_buckets_may_move_and_the_bounds_stay() -> None:
    def bounds(*metrics: bytes) -> tuple[float, ...]:
        value = read(wire.family(MODEL, *metrics), [LATENCY], at=0, kind=KIND)[0].values["latency-p95"]
        assert isinstance(value, Histogram)
        return value.le

    le = bounds(wire.native({}, 4, {-30: 5}))
    assert le == bounds(wire.native({}, 8, {-300: 5, 7: 1})) == bounds(wire.native({}, 5, {-4000: 5}, zero=1))
    assert (
        le
        == bounds(wire.native({}, 3, {}))
        == bounds(wire.native({}, 4, {9: 1}), wire.native({"m": "2"}, 6, {}))
    )
    coarse = bounds(wire.native({}, 2, {-8: 5}), wire.native({"m": "2"}, 4, {9: 1}))
    assert coarse == le[::4]


def test_a_protobuf_page_gives_every_check_and_the_models_own_latency_first() -> None:
    page = (
        wire.family(
            REQUESTS, wire.counter(RECEIVED, 40), wire.counter({**RECEIVED, "response_code": "503"}, 2)
        )
        + wire.family(ISTIO, wire.native(RECEIVED, 4, {70: 42}))
        + wire.family(MODEL, wire.native({}, 3, {-30: 41}))
        + wire.family("model_prediction_value", wire.classic({}, {0.25: 3, 0.5: 9}, 9))
    )
    reading, wrong = read(page, CHECKS, at=7.0, kind=KIND)
    assert wrong == ()
    assert reading.requests == reading.values["errors"] == Counts(42, 2)
    assert reading.values["predictions"] == Histogram((0.25, 0.5), (3, 6, 0))
    assert (reading.values["latency-p95"].n, reading.sources["latency-p95"]) == (41, MODEL)


def test_requests_are_counted_by_a_native_histogram_too() -> None:
    reading, _ = read(wire.family(MODEL, wire.native({}, 3, {1: 5}, n=6)), [LATENCY], at=0, kind=KIND)
    assert reading.requests == Counts(6, 0)


def test_classic_buckets_in_protobuf_are_those_of_the_text() -> None:
    cumulative = {100.0: 30, 500.0: 40}
    page = wire.family(ISTIO, wire.classic({"reporter": "destination"}, cumulative, 50))
    assert (
        read(page, [LATENCY], at=0, kind=KIND)[0].values == read(SIDECAR.encode(), [LATENCY], at=0)[0].values
    )


@pytest.mark.parametrize(
    ("family", "metric", "said"),
    [
        (MODEL, wire.native({}, 3, {1: 5}, n=2), "its buckets hold 5 observations"),
        (MODEL, wire.native({}, 11, {1: 5}), "schema must be from -4 to 8"),
        ("model_prediction_value", wire.native({}, 3, {1: 5}), "give it classic buckets as well"),
    ],
)
def test_what_cannot_be_used_is_said_of_its_check_alone(family: str, metric: bytes, said: str) -> None:
    page = wire.family(REQUESTS, wire.counter(RECEIVED, 40)) + wire.family(family, metric)
    reading, wrong = read(page, CHECKS, at=0, kind=KIND)
    assert reading.values["errors"] == Counts(40, 0)
    assert any(said in one and family in one for one in wrong)


@pytest.mark.parametrize("kind", [KIND, "Application/vnd.google.protobuf"])
def test_a_page_is_protobuf_by_its_content_type(kind: str) -> None:
    assert is_protobuf(kind)
    assert not is_protobuf("text/plain; version=0.0.4")
    assert not is_protobuf("")


OWN = "# TYPE envoy_server_live gauge\nenvoy_server_live{} 1\n"


@pytest.mark.parametrize("how", [read, layouts.read])
def test_a_sidecar_that_has_had_no_request_yet_is_seen(how: Callable[..., Any]) -> None:
    for page, there in ((OWN, True), (OWN + requests(3), True), (requests(3), False), ("", False)):
        reading, _ = how(page.encode(), [ERRORS], at=0.0)
        assert reading.sidecar is there
    found, _ = read(wire.family("envoy_server_live"), [ERRORS], at=0.0, kind=protobuf.TYPE)
    assert found.sidecar


def test_a_canary_s_page_without_its_sidecars_part_tells_of_no_zero_where_stable_s_have_one() -> None:
    stable, without, started = (
        read(page.encode(), CHECKS, at=0.0)[0] for page in (OWN + requests(3), INFERENCE, OWN)
    )
    empty, _ = read(b"", CHECKS, at=0.0)
    pods = {"s": stable, "model": without, "new": started, "empty": empty}
    arms: Any = {"stable": ["s"], "canary": ["model", "new", "empty"]}
    found = whole(pods, ["errors", "latency-p95"], **arms)
    assert (found["s"], found["new"]) == (stable, started)
    assert (found["empty"].paged, found["empty"].sources) == (False, {"errors": "", "latency-p95": ""})
    assert (found["model"].paged, found["model"].requests) == (True, Counts(5, 0))
    assert found["model"].sources == {"errors": "", "latency-p95": "model_inference_duration_seconds"}
    bare = {"s": read(requests(3).encode(), CHECKS, at=0.0)[0], "empty": empty}
    assert whole(bare, ["errors"], stable=["s"], canary=["empty"]) == bare
