"""Requests of the Open Inference Protocol v2, sound and hostile."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_shadow.protocol import TYPES, Unreadable, request

ROW = {"name": "pixels", "shape": [1, 4], "datatype": "FP32", "data": [1, 2.5, 3, 4]}


def said(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def binary(head: Any, *tails: bytes) -> tuple[bytes, int]:
    text = json.dumps(head).encode()
    return text + b"".join(tails), len(text)


def refused(body: bytes, **how: Any) -> str:
    with pytest.raises(Unreadable) as trouble:
        request(body, **how)
    return trouble.value.reason


@pytest.mark.parametrize("data", [[1, 2.5, 3, 4], [[1, 2.5, 3, 4]]])
def test_numbers_may_stand_flat_or_nested(data: Any) -> None:
    found = request(said(ROW | {"data": data}, id="42", parameters={"a": 1}))
    assert found.id == "42"
    assert found.tensors["pixels"].dtype == np.float32
    assert found.tensors["pixels"].tolist() == [[1, 2.5, 3, 4]]


def test_whole_numbers_keep_all_their_digits() -> None:
    big = 2**62 + 1
    found = request(said({"name": "user", "shape": [1], "datatype": "INT64", "data": [big]}))
    assert int(found.tensors["user"][0]) == big


def test_binary_tensors_follow_the_json_and_are_not_copied() -> None:
    one, two = np.arange(4, dtype="<f4"), np.array([7], dtype="<i8")
    head = {
        "inputs": [
            {"name": "a", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}},
            {"name": "b", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}},
        ]
    }
    body, length = binary(head, one.tobytes(), two.tobytes())
    found = request(body, json_bytes=length)
    assert found.tensors["a"].tolist() == [[0, 1], [2, 3]]
    assert found.tensors["b"].tolist() == [7]
    assert not found.tensors["a"].flags.owndata
    assert refused(body[:-1], json_bytes=length) == "size"
    assert refused(body + b"x", json_bytes=length) == "size"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed"),
        (b"{", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 200_000, "malformed"),
        (b'{"inputs":' + b"[" * 200_000, "malformed"),
        (b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b', "inputs": []}', "malformed"),
        (said(), "malformed"),
        (said(*[ROW | {"name": str(n)} for n in range(65)]), "malformed"),
        (said(ROW | {"name": "x" * 201}), "malformed"),
        (said(ROW, ROW), "size"),
        (said(ROW | {"shape": [1, 5]}), "size"),
        (said(ROW | {"shape": [2**40, 2**40]}), "shape"),
        (said(ROW | {"shape": [-1, -4]}), "shape"),
        (said(ROW | {"shape": [0, 4]}), "shape"),
        (said(ROW | {"shape": []}), "shape"),
        (said(ROW | {"shape": [1] * 9}), "shape"),
        (said(ROW | {"datatype": "BYTES", "data": ["text"] * 4}), "datatype"),
        (said(ROW | {"datatype": "FP16"}), "datatype"),
        (said(ROW | {"data": [1, 2, 3]}), "size"),
        (said(ROW | {"data": [1, "2", 3, 4]}), "malformed"),
        (said(ROW | {"data": [[1, 2], [3]]}), "malformed"),
        (said(ROW | {"datatype": "INT8", "data": [1, 2, 3, 1000]}), "malformed"),
        (b'{"inputs": [{"name": "a", "shape": [1], "datatype": "FP32", "data": [NaN]}]}', "malformed"),
        (said(ROW | {"parameters": {"binary_data_size": 16}}), "size"),
        (said(ROW | {"parameters": {"binary_data_size": "16"}}), "size"),
    ],
    ids=lambda value: value[:60].decode(errors="replace") if isinstance(value, bytes) else value,
)
def test_what_is_no_request_is_one_word_for_the_counters(body: bytes, reason: str) -> None:
    assert refused(body) == reason


@pytest.mark.parametrize("length", [0, -1, 10_000])
def test_a_header_that_lies_about_the_length_is_refused(length: int) -> None:
    assert refused(said(ROW), json_bytes=length) == "size"


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["inputs", "name", "shape", "datatype", "data", "parameters", "id"]), inner
            )
        ),
        max_leaves=20,
    ).map(lambda value: json.dumps(value).encode()),
    st.none() | st.integers(-5, 400),
)
def test_no_body_is_more_than_unreadable(body: bytes, length: int | None) -> None:
    reason = ""
    try:
        request(body, json_bytes=length)
    except Unreadable as trouble:
        reason = trouble.reason
    assert reason in {"", "malformed", "shape", "size", "datatype"}


@given(st.sampled_from(sorted(TYPES)), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_what_was_sent_in_binary_is_what_is_read(kind: str, shape: list[int], data: st.DataObject) -> None:
    sent = data.draw(st.binary(min_size=1, max_size=1)) * int(np.prod(shape)) * np.dtype(TYPES[kind]).itemsize
    head = {"name": "x", "shape": shape, "datatype": kind, "parameters": {"binary_data_size": len(sent)}}
    body, length = binary({"inputs": [head]}, sent)
    found = request(body, json_bytes=length).tensors["x"]
    assert (list(found.shape), found.tobytes()) == (shape, sent)
