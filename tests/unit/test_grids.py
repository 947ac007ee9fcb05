"""The grids of native histograms: fixed, nested, and true to what a proxy rounded."""

from itertools import pairwise
from math import floor

import numpy as np
import pytest

from analysis.buckets import Exponential, counted, on_grid
from analysis.grids import MILLISECONDS, SECONDS, Grid, exponential_bounds, grid_bounds, shared
from analysis.samples import coarsened

GRIDS = (SECONDS, MILLISECONDS)
FINE, COARSE = (grid_bounds(SECONDS, schema)[1] for schema in (4, 2))
CLASSIC = (0.1, 0.5, 1.0)


def observed(schema: int, values: np.ndarray) -> Exponential:
    """What a client would have counted, by logarithms, which are exact on powers of two."""
    places, count = np.unique(np.ceil(np.log2(values) * 2.0**schema).astype(int), return_counts=True)
    return Exponential(schema, tuple(zip(places.tolist(), count.tolist(), strict=True)))


def rounded(values: np.ndarray) -> np.ndarray:
    """As Envoy counts: whole numbers, and two digits of them, never more than what was measured."""
    whole = np.floor(values)
    width = 10 ** np.maximum(np.floor(np.log10(np.maximum(whole, 1))) - 1, 0)
    return np.asarray(np.floor(whole / width) * width)


def test_the_grids_have_these_bounds() -> None:
    assert (len(FINE), FINE[0], FINE[-1]) == (19 * 16 + 1, 2.0**-13, 64.0)
    _, ms = grid_bounds(MILLISECONDS, 4)
    assert ms[:5] == (0.002, 0.003, 0.004, 0.005, 0.006)
    assert {0.099, 0.11, 0.12, 1.1, 1.2} <= set(ms)
    assert not {0.1, 0.101, 0.105} & set(ms)  # what the proxy calls 100 ms took less than 110
    assert ms[-1] == 66.0
    assert max(high / low for low, high in pairwise(ms[40:])) < 1.13
    assert grid_bounds(SECONDS, 8) == grid_bounds(SECONDS, 4)
    assert grid_bounds(SECONDS, -1)[1] == tuple(2.0**j for j in range(-12, 7, 2))


@pytest.mark.parametrize("grid", GRIDS)
def test_coarser_schemas_have_some_of_the_finer_ones_bounds(grid: Grid) -> None:
    for schema in range(-4, 4):
        wide, fine = grid_bounds(grid, schema)[1], grid_bounds(grid, schema + 1)[1]
        assert set(wide) < set(fine)
        assert shared([fine, wide]) == wide


@pytest.mark.parametrize("schema", [8, 5, 4, 3, 0])
def test_every_schema_counts_alike_between_the_bounds_that_it_has(schema: int) -> None:
    values = np.random.default_rng(5).lognormal(-2, 1, 2000)
    found = on_grid(observed(schema, values), SECONDS)
    assert found == coarsened(counted(values, FINE), found.le)
    assert found.le == grid_bounds(SECONDS, schema)[1]


@pytest.mark.parametrize("schema", [4, 2, 0])
def test_what_a_proxy_rounded_is_counted_on_the_bounds_that_it_truly_has(schema: int) -> None:
    """Half of 109 ms and 111 ms is 110 ms; on the histogram's own bound, 103 ms, it would be 7 % off."""
    values = np.random.default_rng(6).lognormal(4, 1.5, 5000) + 1
    found = on_grid(observed(schema, rounded(values)), MILLISECONDS)
    true = np.searchsorted(np.asarray(found.le) * 1000 * (1 - 1e-12), values, side="right")
    assert found.count == tuple(np.bincount(true, minlength=len(found.le) + 1).tolist())
    assert all(floor(bound * 1000 + 0.5) == pytest.approx(bound * 1000) for bound in found.le)


def test_no_bound_lies_within_the_zero_bucket() -> None:
    wide = on_grid(Exponential(4, ((1, 7),), zero=3, zero_threshold=0.01), SECONDS)
    assert wide.le == tuple(bound for bound in FINE if bound >= 0.01)
    assert (wide.count[0], wide.n) == (3, 10)
    assert shared([wide.le, FINE]) == wide.le


def test_what_is_beyond_the_grid_is_in_its_first_and_its_last_bucket() -> None:
    far = on_grid(Exponential(4, ((-1000, 2), (5000, 3)), ((8, 1),)), MILLISECONDS)
    assert (far.count[0], far.count[-1], far.n) == (3, 3, 6)


def test_only_bounds_of_one_grid_are_shared() -> None:
    assert shared([FINE, COARSE, FINE]) == COARSE
    assert shared([FINE]) is None
    assert shared([]) is None
    assert shared([CLASSIC, CLASSIC[1:]]) is None
    assert shared([FINE, CLASSIC]) is None
    assert shared([FINE, ()]) is None
    assert shared([FINE, grid_bounds(MILLISECONDS, 4)[1]]) is None
    assert (
        shared([exponential_bounds(3, 0, 16), exponential_bounds(2, 0, 8)]) is None
    )  # classic ones may be such
