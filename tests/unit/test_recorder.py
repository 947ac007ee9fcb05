"""What the recorder keeps, drops and counts; its HTTP side is tests/adapters/test_shadow_doors.py."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_shadow import recorder as recording
from gpu_shadow.protocol import LENGTH
from gpu_shadow.recorder import Recorder, addressed

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
        ({"Content-Encoding": "gzip"}, b"\x1f\x8b" + b"\x00" * 50, "compressed"),
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
                st.sampled_from(["x-request-id", LENGTH, "Content-Encoding"]), st.text(max_size=5)
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
