"""Values that hold arrays for many canaries at once: pick, choose and stack them as if they were arrays.

Every function of this package takes arrays with leading axes, one entry a canary. The controller judges
one canary and has none; a simulation judges hundreds side by side, with the same code.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import Field, fields, is_dataclass
from itertools import repeat
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np

from analysis.proportions import Array, Mask
from analysis.values import replace

T = TypeVar("T")
_NAMES: dict[type, tuple[str, ...]] = {}  # by kind; looking them up anew takes longer than stacking
_LEAVES: dict[type, Callable[[Any], tuple[Array, ...]]] = {}
_WRITERS: dict[type, list[tuple[Field[Any], Callable[[Any, Any], None]]]] = {}


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
    """Canaries of equal shapes as one value, along a new first axis; all else is the first's."""
    parts: dict[str, Any] = {}
    for name in _names(type(each[0])):
        values = [getattr(one, name) for one in each]
        if isinstance(values[0], np.ndarray | np.generic):
            parts[name] = _along_first(values)
        else:
            parts[name] = stacked(values) if _holds_arrays(values[0]) else values[0]
    return type(each[0])(**parts)


def joined(parts: Sequence[T]) -> T:
    """Some canaries and others of equal shapes, one after the other along the first axis."""
    return parts[0] if len(parts) == 1 else _mapped(lambda *each: np.concatenate(each), *parts)


def _along_first(values: Sequence[Array]) -> Array:
    """What `np.stack` gives, at a fifth of its cost for arrays as small as these."""
    shape = values[0].shape
    if len({value.shape for value in values}) > 1:
        raise ValueError("only canaries of equal shapes can be judged side by side")
    return np.concatenate(values).reshape(len(values), *shape) if shape else np.array(values)


def apart(several: T, each: Sequence[T], *, later: Collection[str] = ()) -> list[T]:
    """The opposite of `stacked`: each value with its part of the arrays of `several`, all else its own.

    Fields that are no argument of its `__init__` have their default, as if it had been called: writing the
    fields takes a third of the time. Those that may come `later` are not there yet.
    """
    of = type(several)
    parts = [object.__new__(of) for _ in each]
    for field, write in _written(of):
        if field.name in later:
            continue
        if not field.init:
            column: Iterable[Any] = repeat(field.default, len(each))
        elif isinstance(value := getattr(several, field.name), np.ndarray):
            column = value
        else:
            own = [getattr(one, field.name) for one in each]
            column = apart(value, own) if _holds_arrays(value) else own
        for part, one in zip(parts, column, strict=True):
            write(part, one)
    return parts


def _written(of: type) -> list[tuple[Field[Any], Callable[[Any, Any], None]]]:
    """Each field, and how one of a value with slots is written, be it frozen."""
    if of not in _WRITERS:
        _WRITERS[of] = [(field, getattr(of, field.name).__set__) for field in fields(of)]
    return _WRITERS[of]


def _names(of: type) -> tuple[str, ...]:
    """The fields that a value of this kind is made of."""
    if of not in _NAMES:
        _NAMES[of] = tuple(field.name for field in fields(of) if field.init)
    return _NAMES[of]


def arrays(value: Any) -> list[Array]:
    """All arrays in the value, in the order of its fields."""
    return [*map(np.asarray, _arrays(value))]


def shapes(value: Any) -> tuple[tuple[int, ...], ...]:
    """The shapes of all arrays in the value."""
    return tuple(array.shape for array in _arrays(value))


def _arrays(value: Any) -> tuple[Array, ...]:
    """All of them; the same fields are arrays in every value of its kind."""
    of = type(value)
    if of not in _LEAVES:
        names = tuple(_leaves(value))
        reads = [attrgetter(name) for name in names]
        several: Callable[[Any], tuple[Array, ...]] = attrgetter(*names) if len(names) > 1 else tuple
        _LEAVES[of] = several if len(names) > 1 else lambda one: tuple(read(one) for read in reads)
    return _LEAVES[of](value)


def _leaves(value: Any, above: str = "") -> Iterator[str]:
    """The arrays in the value by name, dotted where they are in a part of it."""
    for name in _names(type(value)):
        part = getattr(value, name)
        if isinstance(part, np.ndarray | np.generic):
            yield above + name
        elif is_dataclass(part):
            yield from _leaves(part, f"{above}{name}.")


def _holds_arrays(value: Any) -> bool:
    return is_dataclass(value) and bool(arrays(value))


def filled(value: T, numbers: Sequence[Array]) -> T:
    """The value with these arrays in place of its own, in the order of `arrays`."""
    left = iter(numbers)
    return _mapped(lambda array: next(left).astype(array.dtype), value)


def _mapped(function: Callable[..., Any], first: T, *others: T) -> T:
    """With the function applied to every array in the value; the rest is the first's, or follows."""
    changed = {}
    for name in _names(type(first)):
        values = [getattr(one, name) for one in (first, *others)]
        if isinstance(values[0], np.ndarray | np.generic):
            changed[name] = function(*map(np.asarray, values))
        elif is_dataclass(values[0]):
            changed[name] = _mapped(function, *values)
    return replace(first, **changed)
