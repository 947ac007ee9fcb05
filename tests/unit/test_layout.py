"""How requests lie in a segment; the round trip is in test_segments.py."""

from typing import Any

import numpy as np
import pytest

from gpu_shadow.layout import STACKED, Misfit, packed, unpacked
from gpu_shadow.recorder import Recorded


def recorded(*shapes: tuple[int, ...], name: str = "x") -> list[Recorded]:
    return [
        Recorded(id=str(number), tensors={name: np.full(shape, number, "<f4")}, size=0, order=number)
        for number, shape in enumerate(shapes)
    ]


def test_common_shapes_are_stacked_and_rare_ones_lie_flat() -> None:
    some = recorded(*[(1, 4)] * STACKED, (1, 7), (2, 3))
    signatures, tensors, rows = packed(some)
    assert [(one.form, one.n) for one in signatures] == [("stacked", STACKED), ("flat", 2)]
    assert tensors["0/x"].shape == (STACKED, 1, 4)
    assert tensors["1/x"].tolist() == [STACKED] * 7 + [STACKED + 1] * 6
    assert tensors["offsets:1/x"].tolist() == [0, 7, 13]
    assert tensors["shapes:1/x"].tolist() == [[1, 7], [2, 3]]
    assert [(row.signature, row.row) for row in rows] == [(0, n) for n in range(STACKED)] + [(1, 0), (1, 1)]


def test_names_cannot_pass_for_each_other() -> None:
    odd = [
        Recorded(
            id="a", tensors={"x": np.ones((2,), "<f4"), "offsets:0/x": np.zeros((3,), "<i8")}, size=0, order=0
        )
    ]
    signatures, tensors, rows = packed(odd)
    (found,) = unpacked(signatures, tensors, rows)
    assert found.tensors["x"].tolist() == [1, 1]
    assert found.tensors["offsets:0/x"].tolist() == [0, 0, 0]


def test_a_type_that_no_request_has_is_refused() -> None:
    with pytest.raises(Misfit, match="complex128"):
        packed([Recorded(id="a", tensors={"x": np.array([1j])}, size=0, order=0)])


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("offsets:0/x", np.array([0, 99, 13], "<i8"), "does not divide"),
        ("offsets:0/x", np.array([1, 7, 13], "<i8"), "does not divide"),
        ("offsets:0/x", np.array([0, 7, 12], "<i8"), "does not divide"),
        ("offsets:0/x", np.array([0, 6, 13], "<i8"), "does not fit the offsets"),
        ("offsets:0/x", np.array([], "<i8"), "does not divide"),
        ("offsets:0/x", np.array([0.0, 7, 13]), "is of float64"),
        ("shapes:0/x", np.array([[1, 7], [-2, -3]], "<i8"), "expected 2 rows"),
        ("shapes:0/x", np.array([[1, 7]], "<i8"), "expected 2 rows"),
        ("shapes:0/x", np.array([[2**62, 2**62], [2, 3]], "<i8"), "does not fit"),
        ("shapes:0/x", np.ones((2, 99), "<i8"), "expected 2 rows"),
        ("shapes:0/x", np.ones((2,), "<i8"), "expected 2 rows"),
        ("0/x", np.ones((13, 1), "<f4"), "does not divide"),
        ("offsets:0/t", np.array([0, 3, 1, 4], "<i8"), "does not divide"),
        ("shapes:0/t", np.array([[2**40], [2**40]], "<i8"), "does not divide"),
        ("shapes:0/t", np.array([[2], [2]], "<i8"), "does not divide"),
        ("more", np.ones(1), "belongs to no signature"),
    ],
)
def test_sizes_that_lie_are_refused_before_they_are_used(name: str, value: Any, match: str) -> None:
    texts = [np.array([b"a", b"bc"], dtype=object), np.array([b"d"], dtype=object)]
    some = [
        Recorded(id=one.id, tensors={**one.tensors, "t": text}, size=0, order=0)
        for one, text in zip(recorded((1, 7), (2, 3)), texts, strict=True)
    ]
    signatures, tensors, rows = packed(some)
    with pytest.raises(Misfit, match=match):
        unpacked(signatures, {**tensors, name: value}, rows)


def test_every_place_has_one_row_of_the_index() -> None:
    signatures, tensors, rows = packed(recorded(*[(1, 4)] * STACKED))
    with pytest.raises(Misfit, match="name one place"):
        unpacked(signatures, tensors, [*rows[:-1], rows[0]])
    with pytest.raises(Misfit, match="do not match"):
        unpacked(signatures, tensors, rows[:-1] + packed(recorded(*[(1, 4)] * 9))[2][-1:])
