"""A mutant replaces functions of the controller, for as long as its histories are played, by others.

These forget, skip or trust what they must not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from controller import leaving

Swap = tuple[Any, str, Any]  # (whose, name, what instead)
Mutant = Callable[[], Sequence[Swap]]


@contextmanager
def alive(mutant: Mutant) -> Iterator[None]:
    """The controller has this fault while the block runs."""
    swaps = [(whose, name, getattr(whose, name), instead) for whose, name, instead in mutant()]
    for whose, name, _, instead in swaps:
        setattr(whose, name, instead)
    try:
        yield
    finally:
        for whose, name, before, _ in swaps:
            setattr(whose, name, before)


def without(rule: Callable[..., Any]) -> Sequence[Swap]:
    """No such reason to leave."""
    return [(leaving, "LEAVING", tuple(one for one in leaving.LEAVING if one is not rule))]
