"""Requests of the Open Inference Protocol v2, sound and hostile."""

import json
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_shadow.model import first_row
from gpu_shadow.protocol import TYPES, Unreadable, encoded, instances, request, weight

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
        (said(ROW | {"parameters": {"binary_data_size": -16}}), "size"),
        (said(ROW | {"parameters": {"binary_data_size": 16}}) + b"\n" + b"x" * 16, "size"),
        (said(ROW) + b"more", "size"),
        (said(ROW) + said(ROW), "size"),
        (b'{"instances": []}', "shape"),
        (b'{"instances": 7}', "shape"),
        (b'{"instances": [[], []]}', "shape"),
        (b'{"instances": ' + b"[" * 9 + b"1" + b"]" * 9 + b"}", "shape"),
        (b'{"instances": ' + b"[" * 200_000, "malformed"),
        (b'{"instances": [[1, 2], [3]]}', "malformed"),
        (b'{"instances": [1, [2]]}', "malformed"),
        (b'{"instances": [1, "2"]}', "malformed"),
        (b'{"instances": [1, null]}', "malformed"),
        (b'{"instances": [[1]]} [[2]]', "size"),
        (b'{"instances": [{}]}', "malformed"),
        (b'{"instances": [{"a": "text"}]}', "malformed"),
        (b'{"instances": [{"a": 1}, {"b": 1}]}', "malformed"),
        (b'{"instances": [{"a": [1]}, {"a": [1, 2]}]}', "malformed"),
        (b'{"instances": [{"a": []}]}', "shape"),
        (said(instances=[{str(n): n for n in range(1025)}]), "malformed"),
        (said(instances=[{"x" * 201: 1}]), "malformed"),
    ],
    ids=lambda value: value[:60].decode(errors="replace") if isinstance(value, bytes) else value,
)
def test_what_is_no_request_is_one_word_for_the_counters(body: bytes, reason: str) -> None:
    assert refused(body) == reason


BLANKS = np.frombuffer(b" \n\t\r", "<f4")  # bytes of a tensor that JSON would pass over


@pytest.mark.parametrize(
    "row", [np.arange(1, 5, dtype="<f4"), np.repeat(BLANKS, 4), np.array([BLANKS[0], 1, 2, 3], "<f4")]
)
def test_binary_tensors_are_found_behind_the_json_if_their_header_is_lost(
    row: np.ndarray[Any, Any],
) -> None:
    head = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    body, _ = binary({"inputs": [head]}, row.tobytes())
    assert request(body).tensors["x"].tobytes() == row.tobytes()
    assert refused(body[:-1]) == refused(body + b"}") == "size"
    twice, _ = binary({"inputs": [head, head | {"name": "y"}]}, row.tobytes(), b"}" * 16)
    assert request(twice).tensors["y"].tobytes() == b"}" * 16


def test_the_end_of_the_json_is_found_in_one_pass_whatever_follows() -> None:
    head = {"name": "x", "shape": [250_000], "datatype": "FP32", "parameters": {"binary_data_size": 10**6}}
    for filling in (b"{", b'"', b'\\"', b"[", b" "):
        body, _ = binary({"inputs": [head]}, (filling * 10**6)[: 10**6])
        assert len(request(body).tensors["x"]) == 250_000


@pytest.mark.parametrize(
    ("instances", "tensors"),
    [
        ([[1, 2.5], [3, 4]], {"instances": [[1, 2.5], [3, 4]]}),
        ([1, 2], {"instances": [1, 2]}),
        ([[[1]], [[2]]], {"instances": [[[1]], [[2]]]}),
        ([{"age": 30, "paid": True}, {"age": 31.5, "paid": False}], {"age": [30, 31.5], "paid": [1, 0]}),
        ([{"row": [1, 2]}, {"row": [3, 4]}], {"row": [[1, 2], [3, 4]]}),
    ],
)
def test_instances_of_v1_are_tensors_by_name(instances: Any, tensors: Any) -> None:
    found = request(json.dumps({"instances": instances, "signature_name": "x"}, indent=1).encode()).tensors
    assert {name: one.tolist() for name, one in found.items()} == tensors
    assert {one.dtype for one in found.values()} == {np.dtype("<f8")}


def test_what_is_beyond_its_type_is_infinite_and_no_line_in_the_log() -> None:
    found = request(said(ROW | {"data": [1e308, -1e308, 0, 1]})).tensors[
        "pixels"
    ]  # a warning is an error here
    assert found[0].tolist() == [np.inf, -np.inf, 0, 1]
    rows = request(json.dumps({"instances": [[1e308, 2.0]]}).encode()).tensors
    row = first_row(rows, 2)
    assert not isinstance(row, str)
    assert row["row"].tolist() == [np.inf, 2]


def test_a_feature_that_is_null_is_missing() -> None:
    found = request(b'{"instances": [{"age": null}, {"age": 4}]}').tensors["age"]
    assert np.isnan(found[0])
    assert found[1] == 4


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
                st.sampled_from(
                    ["inputs", "instances", "name", "shape", "datatype", "data", "parameters", "id"]
                ),
                inner,
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


# -- text, for whoever asks for it -----------------------------------------------------------------

WORDS = {"name": "t", "shape": [1, 3], "datatype": "BYTES"}


def spelt(*texts: bytes) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


@pytest.mark.parametrize("data", [["a", "ö", ""], [["a", "ö", ""]]])
def test_text_is_read_where_it_is_asked_for_and_nowhere_else(data: Any) -> None:
    body = said(WORDS | {"data": data})
    assert request(body, text=True).tensors["t"].tolist() == [[b"a", "ö".encode(), b""]]
    assert refused(body) == "datatype"


def test_binary_text_lies_behind_its_lengths_and_other_tensors_behind_it() -> None:
    texts, numbers = spelt(b"a", b"\xff\x00", b""), np.arange(2, dtype="<f4").tobytes()
    other = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    heads = [WORDS | {"parameters": {"binary_data_size": len(texts)}}, other]
    body, length = binary({"inputs": heads}, texts, numbers)
    found = request(body, json_bytes=length, text=True).tensors
    assert found["t"].tolist() == [[b"a", b"\xff\x00", b""]]
    assert found["x"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("tail", "size"),
    [
        (spelt(b"a", b"b"), None),  # too few
        (spelt(b"a", b"b", b"c", b"d"), None),  # too many
        (spelt(b"a", b"b") + b"\xff\xff\xff\xff", None),  # one of 4 GB
        (spelt(b"a", b"b", b"c")[:-2], None),
        (spelt(b"a", b"b", b"c") + b"\x00", None),
        (spelt(b"a", b"b", b"c"), 10**9),
        (spelt(b"a", b"b", b"c"), -1),
        (spelt(b"a", b"b", b"c"), "15"),
    ],
)
def test_binary_text_of_another_size_is_refused(tail: bytes, size: Any) -> None:
    said_size = len(tail) if size is None else size
    body, length = binary({"inputs": [WORDS | {"parameters": {"binary_data_size": said_size}}]}, tail)
    assert refused(body, json_bytes=length, text=True) == "size"


@pytest.mark.parametrize("data", [["a"], [1, 2, 3], ["a", None, "b"], {}, [[["a"], ["b"]], ["c"]]])
def test_what_is_no_text_is_refused(data: Any) -> None:
    assert refused(said(WORDS | {"data": data}), text=True) in {"malformed", "size"}


@pytest.mark.parametrize("binary", [True, False])
def test_text_is_written_as_it_is_read(binary: bool) -> None:  # noqa: FBT001
    texts = np.array([[b"a", "ö".encode()], [b"", b"x" * 300]], object)
    given = {"t": texts, "x": np.arange(3, dtype="<f4")}
    body, head = encoded(given, binary=binary)
    found = request(body, json_bytes=head if binary else None, text=True).tensors
    assert found["t"].tolist() == texts.tolist()
    assert found["x"].tolist() == [0, 1, 2]


def test_text_that_is_not_utf8_is_written_as_binary_tensors_alone() -> None:
    given = {"t": np.array([b"\xff\x00"], object)}
    body, head = encoded(given)
    assert request(body, json_bytes=head, text=True).tensors["t"].tolist() == [b"\xff\x00"]
    for write in (partial(encoded, binary=False), instances):
        with pytest.raises(ValueError, match="cannot"):
            write(given)


@pytest.mark.parametrize(
    ("rows", "tensors"),
    [
        (["a", "ö"], {"instances": [b"a", "ö".encode()]}),
        ([["a", "b"], ["c", "d"]], {"instances": [[b"a", b"b"], [b"c", b"d"]]}),
        ([{"t": "a", "x": 1}, {"t": "b", "x": 2}], {"t": [b"a", b"b"], "x": [1.0, 2.0]}),
        ([{"t": ["a", "b"]}], {"t": [[b"a", b"b"]]}),
    ],
)
def test_instances_of_text_are_read_where_they_are_asked_for(rows: Any, tensors: Any) -> None:
    body = json.dumps({"instances": rows}).encode()
    assert refused(body) == "malformed"
    found = request(body, text=True).tensors
    assert {name: one.tolist() for name, one in found.items()} == tensors
    again = request(instances(found), text=True).tensors
    assert [one.tolist() for one in again.values()] == list(tensors.values())


@pytest.mark.parametrize(
    "rows", [["a", 1], [["a"], ["b", "c"]], [{"t": "a"}, {"t": 1}], [{"t": ["a", 1]}], [{"t": ["a", ["b"]]}]]
)
def test_text_beside_numbers_is_no_column(rows: Any) -> None:
    assert refused(json.dumps({"instances": rows}).encode(), text=True) == "malformed"


def test_small_texts_weigh_what_python_takes_for_them() -> None:
    found = request(said(WORDS | {"data": ["ab"] * 3}), text=True).tensors["t"]
    assert weight(found) >= 3 * (8 + sys.getsizeof(b"ab"))
    assert weight(np.zeros((2, 3), "<f4")) == 24


@pytest.mark.parametrize("text", [True, False])
def test_text_that_is_not_utf8_is_malformed_and_no_error_of_ours(text: bool) -> None:  # noqa: FBT001
    body = said(ROW | {"shape": [1], "datatype": "BYTES", "data": ["w?rd"]}).replace(b"?", b"\xc3")
    assert refused(body, text=text) == ("malformed" if text else "datatype")
