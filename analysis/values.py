"""Frozen values with some of their fields changed, at a third of what the standard library takes for it."""

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")
Write = Callable[[Any, Any], None]
_PLANS: dict[type, "_Plan | None"] = {}
_NOTHING = object()


class _Plan:
    """How values of one kind are read and written, which have slots and do nothing after `__init__`."""

    def __init__(self, of: type) -> None:
        fields = dataclasses.fields(of)
        names = [field.name for field in fields if field.init]
        self.read = attrgetter(*names)
        self.write: dict[str, Write] = {name: getattr(of, name).__set__ for name in names}
        self.writes = tuple(self.write.values())
        self.rest = [(getattr(of, one.name).__set__, one.default) for one in fields if not one.init]


def replace(value: T, /, **changes: Any) -> T:
    """As `dataclasses.replace`: the other fields are the old one's, and all of it where nothing changes."""
    of = type(value)
    try:
        plan = _PLANS[of]
    except KeyError:
        plan = _PLANS[of] = _Plan(of) if _plain(of) else None
    if plan is None:
        return dataclasses.replace(value, **changes)  # type: ignore[type-var]
    for name, part in changes.items():
        if getattr(value, name, _NOTHING) is not part:
            break
    else:
        return value
    new = object.__new__(of)
    for write, part in zip(plan.writes, plan.read(value), strict=True):
        write(new, part)
    for name, part in changes.items():
        if name not in plan.write:
            raise TypeError(f"{of.__name__} has no field {name} that can be given")
        plan.write[name](new, part)
    for write, default in plan.rest:
        write(new, default)
    return new


def _plain(of: type) -> bool:
    """Whether all of a value of this kind is in slots, and what it is made of is what it was given."""
    fields = dataclasses.fields(of)
    slots = all(hasattr(getattr(of, one.name, None), "__set__") for one in fields)
    simple = all(one.init or one.default is not dataclasses.MISSING for one in fields)
    given = sum(one.init for one in fields)
    bare = of.__dictoffset__ == 0 and not hasattr(of, "__post_init__")
    return bare and slots and simple and given > 1
