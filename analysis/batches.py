"""Values that hold arrays for many canaries at once: pick, choose and stack them as if they were arrays.

Every function of this package takes arrays with leading axes, one entry a canary. The controller judges
one canary and has none; a simulation judges hundreds side by side, with the same code.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np

from analysis.proportions import Array, Mask

T = TypeVar("T")


def chosen(where: Mask, one: T, other: T) -> T:
    """The `one` for canaries `where` True (...), the `other` elsewhere; both have the same shapes."""

    def choose(a: Array, b: Array) -> Array:
        return np.where(where.reshape((*where.shape, *[1] * (a.ndim - where.ndim))), a, b)

    return _mapped(choose, one, other)


def taken(several: T, index: Any) -> T:
    """Some of the canaries, by an index or a mask of the first axis."""
    return _mapped(lambda array: array[index], several)


def placed(several: T, index: Any, some: T) -> T:
    """With those of the canaries replaced by `some`; the opposite of `taken`."""

    def place(array: Array, part: Array) -> Array:
        whole = array.copy()
        whole[index] = part
        return whole

    return _mapped(place, several, some)


def stacked(each: Sequence[T]) -> T:
    """Canaries of equal shapes as one value, along a new first axis."""
    return _mapped(lambda *arrays: np.stack(arrays), *each)


def arrays(value: Any) -> list[Array]:
    """All arrays in the value, in the order of its fields."""
    found: list[Array] = []

    def find(array: Array) -> Array:
        found.append(array)
        return array

    _mapped(find, value)
    return found


def filled(value: T, numbers: Sequence[Array]) -> T:
    """The value with these arrays in place of its own, in the order of `arrays`."""
    left = iter(numbers)
    return _mapped(lambda array: next(left).astype(array.dtype), value)


def _mapped(function: Callable[..., Any], first: T, *others: T) -> T:
    """With the function applied to every array in the value; the rest is the first's, or follows."""
    changed = {}
    for field in (each for each in fields(first) if each.init):  # type: ignore[arg-type]
        values = [getattr(one, field.name) for one in (first, *others)]
        if isinstance(values[0], np.ndarray | np.generic):
            changed[field.name] = function(*map(np.asarray, values))
        elif is_dataclass(values[0]):
            changed[field.name] = _mapped(function, *values)
    return replace(first, **changed)  # type: ignore[type-var]
