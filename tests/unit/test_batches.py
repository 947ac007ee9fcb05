"""Values of many canaries, handled as if they were arrays."""

from dataclasses import dataclass

import numpy as np
import pytest

from analysis.batches import arrays, chosen, filled, placed, stacked, taken
from analysis.evidence import CheckKind, CheckSpec, begin


@dataclass(frozen=True, slots=True, eq=False)
class Inner:
    cells: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Outer:
    name: str
    step: np.ndarray
    inner: Inner
    le: tuple[float, ...] = (0.1, 0.2)


def value(first: float, *, name: str = "one", step: int = 1) -> Outer:
    inner = Inner(np.array([[first, 2.0], [3.0, 4.0]]), np.array(first > 1))
    return Outer(name, np.int64(step), inner)


def test_stacked_values_have_one_axis_more_and_the_first_ones_words() -> None:
    both = stacked([value(1.0), value(5.0, name="other", step=2)])
    assert (both.name, both.le) == ("one", (0.1, 0.2))
    assert both.step.tolist() == [1, 2]
    assert both.inner.cells.shape == (2, 2, 2)
    assert both.inner.seen.tolist() == [False, True]


def test_stacked_values_keep_their_kinds_of_numbers() -> None:
    both = stacked([value(1.0), value(5.0)])
    assert [array.dtype for array in arrays(both)] == [np.int64, np.float64, np.bool_]


def test_what_is_taken_is_what_was_stacked() -> None:
    each = [value(float(first), step=first) for first in range(4)]
    several = stacked(each)
    for place, one in enumerate(each):
        for a, b in zip(arrays(taken(several, place)), arrays(one), strict=True):
            assert a.shape == b.shape
            assert (a == b).all()


def test_some_are_taken_by_a_mask_or_by_places() -> None:
    several = stacked([value(float(first), step=first) for first in range(4)])
    assert taken(several, np.array([True, False, False, True])).step.tolist() == [0, 3]
    assert taken(several, [2, 0]).inner.cells[:, 0, 0].tolist() == [2.0, 0.0]
    assert taken(several, slice(1, 3)).step.tolist() == [1, 2]


def test_what_is_placed_is_there_and_the_rest_as_before() -> None:
    several = stacked([value(float(first), step=first) for first in range(4)])
    after = placed(several, np.array([1, 3]), stacked([value(8.0, step=8), value(9.0, step=9)]))
    assert after.step.tolist() == [0, 8, 2, 9]
    assert after.inner.cells[:, 0, 0].tolist() == [0.0, 8.0, 2.0, 9.0]
    assert several.step.tolist() == [0, 1, 2, 3]


def test_each_canary_is_chosen_whole() -> None:
    one, other = (stacked([value(first, step=int(first))] * 3) for first in (1.0, 5.0))
    mixed = chosen(np.array([True, False, True]), one, other)
    assert mixed.step.tolist() == [1, 5, 1]
    assert mixed.inner.cells[:, 0, 0].tolist() == [1.0, 5.0, 1.0]
    assert mixed.inner.cells[1].tolist() == other.inner.cells[1].tolist()
    assert mixed.inner.seen.tolist() == [False, True, False]


@pytest.mark.parametrize("where", [True, False])
def test_of_one_canary_alone_the_one_or_the_other_is_chosen(*, where: bool) -> None:
    one, other = value(1.0), value(5.0, step=2)
    found = chosen(np.array(where), one, other)
    for a, b in zip(arrays(found), arrays(one if where else other), strict=True):
        assert a.shape == b.shape
        assert (a == b).all()


def test_arrays_come_in_the_order_of_the_fields_without_words() -> None:
    found = arrays(value(7.0, step=3))
    assert [array.tolist() for array in found] == [3, [[7.0, 2.0], [3.0, 4.0]], True]


def test_a_value_is_filled_with_numbers_of_its_own_kinds_and_left_alone() -> None:
    before = value(1.0)
    numbers = [np.array(4.0), np.full((2, 2), 6.0), np.array(1.0)]
    after = filled(before, numbers)
    assert [array.tolist() for array in arrays(after)] == [4, [[6.0, 6.0], [6.0, 6.0]], True]
    assert [array.dtype for array in arrays(after)] == [array.dtype for array in arrays(before)]
    assert (after.name, after.le) == (before.name, before.le)
    assert before.step == 1


@pytest.mark.parametrize("kind", CheckKind)
def test_evidence_filled_with_its_own_arrays_is_itself(kind: CheckKind) -> None:
    evidence = begin(CheckSpec(name="check", kind=kind), steps=3)
    for a, b in zip(arrays(filled(evidence, arrays(evidence))), arrays(evidence), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
