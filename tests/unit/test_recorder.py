"""What the recorder keeps, drops and counts; its HTTP side is tests/adapters/test_shadow_doors.py."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_shadow import recorder as recording
from gpu_shadow.recorder import Recorder, addressed

LENGTH = "inference-header-content-length"

PATH = "/v2/models/digits/infer"


def body(value: float = 1.0, *, wide: int = 4) -> bytes:
    row = {"name": "x", "shape": [1, wide], "datatype": "FP32", "data": [value] * wide}
    return json.dumps({"inputs": [row]}).encode()


def opened(**how: Any) -> Recorder:
    recorder = Recorder(**how)
    recorder.open("lab/run", ["model.lab"])
    return recorder


def sent(recorder: Recorder, count: int, *, first: int = 0, path: str = PATH, wide: int = 4) -> None:
    for number in range(first, first + count):
        headers = {"x-request-id": f"r{number}"}
        recorder.admit("model.lab-shadow", path, headers, body(number, wide=wide))
    while recorder.sift():
        pass


def ids(recorder: Recorder) -> list[str]:
    return [one.id for one in recorder.take("lab/run")]


def test_what_was_asked_for_is_kept_in_order_of_arrival_with_its_tensors() -> None:
    recorder = opened()
    sent(recorder, 3)
    first, *_ = found = recorder.take("lab/run")
    assert [one.id for one in found] == ["r0", "r1", "r2"]
    assert first.tensors["x"].tolist() == [[0, 0, 0, 0]]
    assert {one.inclusion for one in found} == {1.0}
    assert recorder.take("lab/run") == []


def test_requests_that_nobody_asked_for_are_dropped_unread() -> None:
    recorder = Recorder()
    recorder.admit("model.lab-shadow", PATH, {}, b"[" * 1000)
    assert (recorder.held, recorder.dropped) == (0, {"unasked": 1})


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("model.lab-shadow", "model.lab"),
        ("Model.Lab-shadow:8080", "model.lab"),  # Envoy puts the suffix before the port
        ("model.lab", "model.lab"),
    ],
)
def test_a_copy_is_for_the_host_that_the_caller_named(host: str, name: str) -> None:
    assert addressed(host) == name


def test_hosts_with_a_wildcard_stand_for_many() -> None:
    recorder = Recorder()
    stream = recorder.open("lab/run", ["*.example.com"])
    assert stream.matches("a.example.com")
    assert not stream.matches("example.com")
    assert recorder.open("lab/all", ["*"]).matches("anything")


def test_of_two_runs_on_one_host_each_has_every_request_and_closing_one_leaves_the_other_its_own() -> None:
    recorder = opened()
    recorder.open("lab/other", ["model.lab", "elsewhere.lab"])
    sent(recorder, 3)
    assert [one.id for one in recorder.take("lab/other")] == ids(recorder) == ["r0", "r1", "r2"]
    sent(recorder, 2, first=3)
    recorder.close("lab/other")
    assert ids(recorder) == ["r3", "r4"]
    assert recorder.seen == recorder.kept + sum(recorder.dropped.values()) == 10


def test_the_same_requests_are_sampled_whoever_samples() -> None:
    one, two, other = (opened(sample=0.3, salt=salt) for salt in ("a", "a", "b"))
    for recorder in (one, two, other):
        sent(recorder, 1000)
    kept = ids(one)
    assert kept == ids(two)
    assert kept != ids(other)
    assert 240 < len(kept) < 360
    assert one.dropped["sampled"] == 1000 - len(kept)


def test_a_stratum_keeps_the_smallest_hashes_and_says_how_likely_that_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = opened()
    sent(whole, 200)
    by_hash = sorted(
        (-hashed, one.id) for s in whole._streams["lab/run"].strata.values() for hashed, _, one in s.kept
    )
    monkeypatch.setattr(recording, "CAPACITY", 50)
    recorder = opened()
    sent(recorder, 200)
    found = recorder.take("lab/run")
    assert {one.id for one in found} == {name for _, name in by_hash[:50]}
    assert {one.inclusion for one in found} == {0.25}
    assert recorder.dropped["reservoir"] == 150
    recorder.release(*found)
    assert recorder.held == 0


def test_rare_requests_are_not_crowded_out_by_common_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "CAPACITY", 50)
    recorder = opened()
    sent(recorder, 500)
    sent(recorder, 3, first=500, wide=5)
    found = recorder.take("lab/run")
    assert [one.id for one in found if one.tensors["x"].shape[1] == 5] == ["r500", "r501", "r502"]
    assert sum(one.inclusion == 0.1 for one in found) == 50


def test_callers_cannot_make_strata_without_end() -> None:
    recorder = opened()
    for number in range(recording.MOST_STRATA + 5):
        sent(recorder, 1, first=number, path=f"/{number}")
    assert recorder.dropped == {"strata": 5}


def test_a_stuck_sink_fills_the_budget_and_no_more() -> None:
    recorder = opened(budget=10_000)
    for number in range(1000):
        recorder.admit("model.lab-shadow", PATH, {"x-request-id": str(number)}, body())
        assert recorder.held <= 10_000
    assert recorder.seen == 1000
    assert recorder.dropped["budget"] > 800
    while recorder.sift():
        pass
    recorder.release(*recorder.take("lab/run"))
    assert recorder.held == 0


@pytest.mark.parametrize(
    ("headers", "sent_body", "reason"),
    [
        ({"content-encoding": "gzip"}, b"\x1f\x8b" + b"\x00" * 50, "compressed"),
        ({}, b"", "empty"),
        ({}, b" " * 2000, "too-large"),
        ({}, b"{", "malformed"),
        ({LENGTH: "many"}, body(), "size"),
        ({LENGTH: "9" * 5000}, body(), "size"),
        ({LENGTH: "-5"}, body(), "size"),
    ],
)
def test_what_cannot_be_replayed_is_counted_by_reason(
    headers: dict[str, str], sent_body: bytes, reason: str
) -> None:
    recorder = opened(most=1000)
    recorder.admit("model.lab-shadow", PATH, headers, sent_body)
    while recorder.sift():
        pass
    assert (recorder.dropped, recorder.held) == ({reason: 1}, 0)
    assert f'dropped_total{{reason="{reason}"}} 1' in recorder.page()


def test_a_body_that_breaks_the_reader_is_counted_and_the_next_one_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_body: bytes, **_: Any) -> Any:
        raise MemoryError

    recorder = opened()
    with monkeypatch.context() as patch:
        patch.setattr(recording, "request", broken)
        sent(recorder, 1)
    sent(recorder, 1, first=1)
    assert (recorder.dropped, ids(recorder)) == ({"error": 1}, ["r1"])


def test_a_stream_that_is_closed_leaves_nothing_behind() -> None:
    recorder = opened()
    sent(recorder, 5)
    recorder.admit("model.lab-shadow", PATH, {}, body())
    recorder.close("lab/run")
    while recorder.sift():
        pass
    assert recorder.held == 0
    assert recorder.take("lab/run") == []
    sent(recorder, 1)
    assert recorder.dropped == {"unasked": 2}


def test_a_question_about_other_hosts_begins_anew() -> None:
    recorder = opened()
    sent(recorder, 5)
    again = recorder.open("lab/run", ["model.lab"])
    assert again.seen == 5
    assert recorder.open("lab/run", ["other.lab"]).seen == 0
    assert recorder.held == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["model.lab-shadow", "other"]),
            st.sampled_from(["/a", "/b"]),
            st.dictionaries(
                st.sampled_from(["x-request-id", LENGTH, "content-encoding"]), st.text(max_size=5)
            ),
            st.binary(max_size=80) | st.integers(0, 9).map(body),
        ),
        max_size=30,
    ),
    st.lists(st.sampled_from(["sift", "take", "close", "open"]), max_size=10),
)
def test_whatever_arrives_every_byte_and_every_request_is_accounted_for(
    arrivals: list[tuple[str, str, dict[str, str], bytes]], between: list[str]
) -> None:
    recorder = opened(budget=5000)
    for place, (host, path, headers, given_body) in enumerate(arrivals):
        recorder.admit(host, path, headers, given_body)
        match between[place % len(between)] if between else "sift":
            case "sift":
                recorder.sift()
            case "take":
                recorder.release(*recorder.take("lab/run"))
            case "close":
                recorder.close("lab/run")
            case _:
                recorder.open("lab/run", ["model.lab"])
        assert 0 <= recorder.held <= 5000
    while recorder.sift():
        pass
    recorder.release(*recorder.take("lab/run"))
    recorder.close("lab/run")
    assert recorder.held == 0
    unkept = sum(count for why, count in recorder.dropped.items() if why != "reservoir")
    assert recorder.seen == len(arrivals) == recorder.kept + unkept


def test_tensors_larger_than_their_text_are_within_the_budget_too() -> None:
    recorder = opened(budget=4000)
    row = {"name": "x", "shape": [1, 900], "datatype": "FP64", "data": [1] * 900}
    for number in range(5):
        given_body = json.dumps({"inputs": [row]}, separators=(",", ":")).encode()
        recorder.admit("model.lab-shadow", PATH, {"x-request-id": str(number)}, given_body)
        while recorder.sift():
            pass
        assert recorder.held <= 4000
    assert recorder.dropped["budget"] == 5


def test_what_stands_beside_the_numbers_counts_as_well() -> None:
    recorder = opened()
    sent(recorder, 10)
    assert recorder.held >= 10 * (recording.BESIDE + 80)
    text = json.dumps({"inputs": [{"name": "x", "shape": [1, 900], "datatype": "FP64", "data": [1] * 900}]})
    recorder.release(*recorder.take("lab/run"))
    recorder.admit("model.lab-shadow", PATH, {LENGTH: str(len(text))}, text.encode())
    recorder.sift()
    assert recorder.held >= 900 * 8


def test_kinds_that_came_once_keep_no_others_out_for_ever() -> None:
    recorder = opened()
    for number in range(recording.MOST_STRATA):
        sent(recorder, 1, first=number, path=f"/{number}")
    recorder.take("lab/run")
    sent(recorder, 1, first=500)
    assert ids(recorder) == ["r500"]


def event(kind: str = "request", **more: str) -> dict[str, str]:
    said = {"id": "e1", "inferenceservicename": "model", "namespace": "lab", "component": "predictor"} | more
    return {
        "ce-type": f"org.kubeflow.serving.inference.{kind}",
        **{f"ce-{name}": value for name, value in said.items()},
    }


@pytest.mark.parametrize(
    "host",
    [
        "model.lab",
        "model.lab.svc.cluster.local",
        "model-predictor.lab.svc.cluster.local",
        "model-predictor-default.lab",
        "model.lab.example.com",
    ],
)
def test_an_event_of_kserve_s_logger_is_matched_by_its_inference_service(host: str) -> None:
    recorder = Recorder()
    recorder.open("lab/other", ["other.lab", "*", "model.other"])
    recorder.open("lab/run", [host])
    recorder.admit("recorder.serin", "/", event(), body())
    while recorder.sift():
        pass
    assert ids(recorder) == ["e1"]


def test_a_binary_body_in_an_event_is_read_though_the_logger_lost_its_header() -> None:
    recorder = opened()
    head = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    sent_body = json.dumps({"inputs": [head]}).encode() + b"\x00\x00\x80?\x00\x00\x00@"
    recorder.admit("recorder.serin", "/", event(), sent_body)
    recorder.sift()
    assert recorder.take("lab/run")[0].tensors["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (event("response"), "response"),
        (event(component="transformer"), "component"),
        (event(namespace="other"), "unasked"),
        ({"ce-type": "org.kubeflow.serving.inference.request"}, "unasked"),
        ({"content-type": "application/cloudevents+json; charset=utf-8"}, "structured"),
        ({"content-type": "application/cloudevents-batch+json"}, "structured"),
    ],
)
def test_events_that_hold_no_request_to_the_model_are_counted_by_reason(
    headers: dict[str, str], reason: str
) -> None:
    recorder = opened()
    recorder.admit("recorder.serin", "/", headers, body())
    assert (recorder.dropped, recorder.held) == ({reason: 1}, 0)


def test_a_mirrored_request_s_own_headers_put_it_into_no_other_run() -> None:
    recorder = opened()
    recorder.open("shop/run", ["basket.shop"])
    forged = event(inferenceservicename="basket", namespace="shop")
    recorder.admit("model.lab-shadow", PATH, forged, body())
    recorder.sift()
    assert recorder.take("shop/run") == []
    assert len(recorder.take("lab/run")) == 1


def test_events_that_come_again_late_or_from_another_time_count_once() -> None:
    orders = [list(range(100)), list(range(99, -1, -1)) * 3, [n // 5 for n in range(500)]]
    found = []
    for order in orders:
        recorder = opened(sample=0.5)
        for number in order:
            late = event(id=f"e{number}", time="2099-01-01T00:00:00Z", recordedtime="none")
            recorder.admit("recorder.serin", "/", late, body(number))
        while recorder.sift():
            pass
        sampled = sum(recorder.dropped.values()) - recorder.dropped["duplicate"]
        assert recorder.seen == len(order) == recorder.kept + sampled + recorder.dropped["duplicate"]
        found.append(set(ids(recorder)))
    assert found[0] == found[1] == found[2]
    assert 30 < len(found[0]) < 70


def test_other_requests_under_an_id_that_a_caller_passes_on_are_requests_of_their_own() -> None:
    recorder = opened()
    for number in (1, 2, 1):
        recorder.admit("model.lab-shadow", PATH, {"x-request-id": "r"}, body(number))
    recorder.sift()
    assert (len(recorder.take("lab/run")), recorder.dropped) == (2, {"duplicate": 1})


def test_without_an_id_nobody_can_tell_a_repeated_request_from_another_one() -> None:
    recorder = opened()
    for _ in range(3):
        recorder.admit("model.lab-shadow", PATH, {}, body())
    recorder.sift()
    assert len(recorder.take("lab/run")) == 3


def test_of_the_ids_that_were_seen_a_bounded_number_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_IDS", 10)
    known = recording.Known()
    assert not any(known.again(one) for one in range(35))
    assert [one for one in range(35) if one in known.new | known.old] == list(range(20, 35))
    assert known.again(25)


def test_bodies_of_a_few_bytes_cannot_fill_memory_while_they_wait() -> None:
    recorder = opened(budget=100_000)
    for number in range(1_000):
        recorder.admit("model.lab-shadow", PATH, {"x-request-id": str(number)}, b"{}")
    assert len(recorder._waiting) <= 100_000 // recording.BESIDE


def test_every_tensor_of_a_request_counts_against_the_budget() -> None:
    recorder = opened()
    row = {str(number): number for number in range(1_000)}
    recorder.admit("model.lab-shadow", PATH, {}, json.dumps({"instances": [row]}).encode())
    recorder.sift()
    assert recorder.held >= 1_000 * recording.EACH


# -- of several namespaces -------------------------------------------------------------------------


def of_whom(recorder: Recorder, host: str, headers: dict[str, str] | None = None) -> set[str]:
    """Whose runs a copy is given to."""
    recorder.admit(f"{host}-shadow" if headers is None else host, PATH, headers or {}, body())
    while recorder.sift():
        pass
    return {name for name in recorder._streams if recorder.take(name)}


@pytest.mark.parametrize(
    "greedy",
    [
        "*",
        "*.svc.cluster.local",
        "*.shop.svc.cluster.local",
        "basket.shop.svc.cluster.local",
        "basket.shop.svc",
        "basket.shop",
    ],
)
def test_a_run_is_given_no_copy_of_requests_to_another_namespace_s_service(greedy: str) -> None:
    """A host named in one's own VirtualService brought ids and inputs of anybody's production requests."""
    recorder = Recorder()
    recorder.open("evil/run", ["basket", greedy])
    mine = ["basket", "basket.shop", "basket.shop.svc", "basket.shop.svc.cluster.local"]
    for host in mine[2:]:
        assert of_whom(recorder, host) == set(), host
    recorder.open("shop/run", mine)
    for host in mine[1:]:
        assert of_whom(recorder, host) == {"shop/run"}, host
    assert of_whom(recorder, "recorder.serin", event(inferenceservicename="basket", namespace="shop")) == {
        "shop/run"
    }


@pytest.mark.parametrize("host", ["basket", "basket.example.com"])
def test_a_copy_that_two_namespaces_ask_for_alike_is_neither_s(host: str) -> None:
    """Nobody can tell whose it is: evidence of another's requests is worse than none, and it says so."""
    recorder = Recorder()
    for name in ("evil/run", "shop/run"):
        recorder.open(name, [host])
    assert of_whom(recorder, host) == set()
    assert recorder.dropped == {"ambiguous": 2}
    recorder.close("evil/run")
    assert of_whom(recorder, host) == {"shop/run"}


@pytest.mark.parametrize("wide", ["*", "*.example.com"])
def test_who_names_a_host_has_it_before_who_names_many(wide: str) -> None:
    recorder = Recorder()
    recorder.open("evil/run", [wide])
    recorder.open("shop/run", ["basket.example.com"])
    recorder.open("shop/all", ["*"])
    assert of_whom(recorder, "basket.example.com") == {"shop/run", "shop/all"}
    assert of_whom(recorder, "other.example.com") == ({"evil/run"} if wide != "*" else set())
