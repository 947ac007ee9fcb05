"""The bounds that native histograms are put on: the same for every pod and every tick.

A native histogram chooses its schema, and the buckets it speaks of, as it counts. On a grid it has the
bounds that all others of its kind have, or some of them where its schema is coarser.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import floor, inf, isclose, ldexp, log10

Bounds = tuple[float, ...]  # upper ones, increasing

FINEST = 4  # schema: x1.044 from bound to bound, which proves x1.30 at the worst where x1.2 is allowed
TELLING = 3  # so many bounds that follow each other tell their schema
ROUNDED = 1e-6  # checkpoints keep 32 bits
TWO_DIGITS = 100  # from here on a proxy's counts are of two digits


@dataclass(frozen=True, slots=True)
class Grid:
    """Bounds from 2^`first` to 2^`last` of a unit of which `per_second` are a second.

    `rounded`: what is counted was rounded down before, as Envoy does, to whole numbers and from 100 on to
    two digits. What is then beyond a bound truly was no less than the next such number, and that is the
    bound in seconds: a margin between two bounds would else be up to a tenth narrower than it seems.
    """

    first: int
    last: int
    per_second: int = 1
    rounded: bool = False


SECONDS = Grid(-13, 6)  # 0.1 ms to a minute
MILLISECONDS = Grid(0, 16, per_second=1000, rounded=True)  # of a proxy


@lru_cache(maxsize=64)
def grid_bounds(grid: Grid, schema: int) -> tuple[Bounds, Bounds]:
    """The grid's bounds at a schema, `FINEST` at most, in its own unit and in seconds."""
    step = 2.0 ** -min(schema, FINEST)  # log2 of the ratio of two bounds that follow each other
    own = exponential_bounds(min(schema, FINEST), -int(-grid.first // step), int(grid.last // step))
    true = {(_next(bound) if grid.rounded else bound): bound for bound in own}
    return tuple(true.values()), tuple(bound / grid.per_second for bound in true)


def _next(bound: float) -> float:
    """The least number above the bound that is whole, and of two digits from 100 on."""
    width = 10 ** (floor(log10(bound)) - 1) if bound >= TWO_DIGITS else 1
    return (floor(bound / width) + 1.0) * width


@lru_cache(maxsize=256)
def whole(le: Bounds) -> Bounds:
    """The grid's bounds of which these are some that follow each other, up to rounding; else these."""
    if len(le) < TELLING or is_of_a_grid(le):
        return le
    for one in _grids():
        first = bisect_left(one, le[0] * (1 - ROUNDED))
        here = one[first : first + len(le)]
        if len(here) == len(le) and all(map(partial(isclose, rel_tol=ROUNDED), here, le)):
            return one
    return le


def shared(all_le: Iterable[Bounds]) -> Bounds | None:
    """The coarsest of these bounds in seconds, if they are of one grid and differ; else None."""
    different = set(all_le)
    coarsest = min(different, key=len, default=())
    nested = all(is_of_a_grid(le) and set(coarsest) <= set(le) for le in different)
    return coarsest if nested and len(different) > 1 else None


@lru_cache(maxsize=256)
def is_of_a_grid(le: Bounds) -> bool:
    """Whether these are a grid's bounds at some schema, be it without those within a wide zero bucket."""
    return len(le) > 0 and any(one[-len(le) :] == le for one in _grids())


def _grids() -> Iterator[Bounds]:
    """The bounds in seconds of both grids at every schema."""
    for grid in (SECONDS, MILLISECONDS):
        yield from (grid_bounds(grid, schema)[1] for schema in range(-4, FINEST + 1))


@lru_cache(maxsize=4096)  # a dozen histograms' worth; each is asked for again and again
def exponential_bound(schema: int, j: int) -> float:
    """2^(j/2^schema), the same float at every schema that has it; infinite beyond the largest."""
    whole, part = divmod(j, 1 << schema) if schema >= 0 else (j << -schema, 0)
    return ldexp(2.0 ** (part / (1 << max(schema, 0))), whole) if whole < 1024 else inf


def exponential_bounds(schema: int, first: int, last: int) -> Bounds:
    """The upper bounds of buckets `first` to `last`."""
    return tuple(exponential_bound(schema, j) for j in range(first, last + 1))
