"""Objects that say much the same are kept once, as far as they do. Pure.

An object differs from what it was before in little, and from its siblings in its name and address.
"""

from operator import is_
from typing import Any

Json = Any
DEEP = 16  # levels of an object that are looked into: a pod has ten, and somebody's thousand would end a pass
# Values that are: a pod has some hundreds, and each change of somebody's megabyte took a sixth of a second.
MOST = 5_000


def sharing(new: Json, old: Json) -> Json:
    """`new`, of which whatever stands in `old` as well, at the same place, is the one of `old`.

    A number is not the same as the truth value or the other number that equals it.
    """
    return _shared(new, old, DEEP, [MOST])


def _shared(new: Json, old: Json, deep: int, left: list[int]) -> Json:
    if type(new) is not type(old) or not deep or left[0] <= 0:
        return new
    if isinstance(new, dict):
        left[0] -= len(new)
        for name, value in new.items():
            new[name] = _shared(value, old.get(name), deep - 1, left)
        return old if new.keys() == old.keys() and all(map(is_, new.values(), map(old.get, new))) else new
    if isinstance(new, list):
        left[0] -= len(new)
        new[: len(old)] = [_shared(*both, deep - 1, left) for both in zip(new, old, strict=False)]
        return old if len(new) == len(old) and all(map(is_, new, old)) else new
    return old if new == old else new
