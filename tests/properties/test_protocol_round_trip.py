"""What is written in the Open Inference Protocol is what is read from it."""

from collections.abc import Mapping
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from gpu_shadow.protocol import TYPES, Tensor, Unreadable, encoded, instances, request, response

SHAPES = arrays.array_shapes(max_dims=4, max_side=5)
NAMES = st.text(min_size=1, max_size=20)
JSON_TYPES = [kind for name, kind in TYPES.items() if name != "FP16"]


def tensors(kinds: list[str], **elements: Any) -> st.SearchStrategy[Mapping[str, Tensor]]:
    one = st.sampled_from(kinds).flatmap(lambda kind: arrays.arrays(np.dtype(kind), SHAPES, **elements))
    return st.dictionaries(NAMES, one, min_size=1, max_size=4)


def same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, one in wanted.items():
        assert found[name].dtype == one.dtype
        assert found[name].shape == one.shape
        assert np.array_equal(found[name], one, equal_nan=one.dtype.kind == "f")


@given(tensors(list(TYPES.values())))
def test_binary_tensors_come_back_bit_for_bit(wanted: Mapping[str, Tensor]) -> None:
    body, head = encoded(wanted, id="r1")
    found = request(body, json_bytes=head)
    same(found.tensors, wanted)
    assert found.id == "r1"
    body, head = encoded(wanted, called="outputs", model_name="m")
    same(response(body, json_bytes=head), wanted)


@given(tensors(JSON_TYPES, elements={"allow_nan": False, "allow_infinity": False}))
def test_json_comes_back_bit_for_bit(wanted: Mapping[str, Tensor]) -> None:
    body, head = encoded(wanted, binary=False)
    assert head == len(body)
    same(request(body).tensors, wanted)
    same(response(encoded(wanted, called="outputs", binary=False)[0]), wanted)


@given(arrays.arrays(np.float64, SHAPES, elements={"allow_nan": False, "allow_infinity": False}))
def test_instances_of_v1_come_back(wanted: Tensor) -> None:
    same(request(instances({"x": wanted})).tensors, {"instances": wanted})
    answer = instances({"x": wanted}).replace(b'"instances"', b'"predictions"', 1)
    same(response(answer), {"predictions": wanted})
    features = {"a": wanted[:, None].reshape(len(wanted), -1), "b": wanted.reshape(len(wanted), -1)}
    same(request(instances(features)).tensors, features)


@given(st.binary(max_size=200), st.none() | st.integers(-1, 300))
def test_any_bytes_are_an_answer_or_unreadable(body: bytes, head: int | None) -> None:
    try:
        found = response(body, json_bytes=head)
    except Unreadable:
        return
    assert isinstance(found, dict)


def test_text_beside_numbers_is_skipped_wherever_it_stands() -> None:
    body, head = encoded({"x": np.array([1.5, 2.5])}, called="outputs")
    labels = b'{"name":"label","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":6}},'
    cut = body[:head].index(b"[") + 1
    whole = body[:cut] + labels + body[cut:head] + b"\x02\x00\x00\x00no" + body[head:]
    assert response(whole, json_bytes=head + len(labels))["x"].tolist() == [1.5, 2.5]
    with pytest.raises(Unreadable, match="its shape takes 16 of 15"):
        response(whole.replace(b'e":6', b'e":7'), json_bytes=head + len(labels))


def test_what_the_protocol_cannot_say_is_not_written() -> None:
    for wrong in (np.array([1j]), np.array(["a"])):
        with pytest.raises(ValueError, match="cannot be written"):
            encoded({"x": wrong})
    for wrong in (np.array([np.nan]), np.array([1.0], np.float16)):
        with pytest.raises(ValueError, match="cannot be written"):
            encoded({"x": wrong}, binary=False)
    for given_ in ({"x": np.array([np.inf])}, {"x": np.ones(2), "y": np.ones(3)}):
        with pytest.raises(ValueError, match="other numbers of rows"):
            instances(given_)
