"""Latency's arithmetic in the buckets that are used brings what it brings in all of them, bit by bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import spans
from analysis.batches import arrays
from analysis.cells import Tick
from analysis.evidence import CheckKind, CheckSpec, Evidence, advanced, blank, next_step
from analysis.grids import MILLISECONDS, SECONDS, grid_bounds

GRIDS = [grid_bounds(grid, schema)[1] for grid in (SECONDS, MILLISECONDS) for schema in (4, 2)]
TOP = {"usual": 0.05, "tiny": 1e-5, "huge": 300.0, "at the end": 50.0, "near the end": 20.0}


@st.composite
def stories(draw: st.DrawFn) -> tuple[Evidence, list[Tick]]:
    """Two canaries side by side: healthy, late, collapsed to a value, at either end of the grid, silent."""
    le = draw(st.sampled_from(GRIDS))
    spec = CheckSpec(
        name="slow",
        kind=CheckKind.LATENCY,
        quantile=draw(st.sampled_from([0.1, 0.5, 0.95, 0.999])),
        max_increase=draw(st.sampled_from([0.0, 0.2, 2.0])),
    )
    nodes, groups = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    ticks, at = [], 0.0
    for _ in range(draw(st.integers(1, 3))):
        middle = [TOP[draw(st.sampled_from(sorted(TOP)))] for _ in range(2)]
        wide = draw(st.sampled_from([0.0, 0.01, 0.5, 2.0]))
        slower = draw(st.sampled_from([0.2, 1.0, 1.5, 5.0, 1e4]))
        busy, canary = draw(st.sampled_from([0, 1, 30, 300])), draw(st.sampled_from([0, 1, 20]))
        for _ in range(draw(st.integers(1, 8))):
            of = [
                [drawn(le, rng, each, wide, n) for each, n in zip(middle, rows, strict=True)]
                for rows in ((busy, busy),) * nodes
            ]
            new = [
                [drawn(le, rng, each * slower, wide, n) for each, n in zip(middle, rows, strict=True)]
                for rows in ((canary, 20),) * groups
            ]
            ticks.append(tick(at, of, new))
            at += 1.0
    return blank(
        spec,
        steps=3,
        burst_tolerance=6.0,
        step_timeout=600.0,
        finished=3,
        le=le,
        canary_le=le,
        nodes=tuple(range(nodes)),
        groups=tuple(range(groups)),
        several=(2,),
    ), ticks


def drawn(le: Any, rng: np.random.Generator, middle: float, wide: float, n: int) -> np.ndarray:
    x = rng.lognormal(np.log(middle), wide, n)
    return np.bincount(np.searchsorted(le, x), minlength=len(le) + 1).astype(float)


def tick(at: float, stable: Any, canary: Any) -> Tick:
    of, new = (np.swapaxes(np.array(arm), 0, 1) for arm in (stable, canary))
    count = [np.array([arm.shape[1]] * 2) for arm in (of, new)]
    return Tick(np.full(2, at), np.full(2, at + 1.0), of, new, *count)


@settings(max_examples=40, deadline=None)
@given(stories(), st.integers(0, 20))
def test_what_comes_of_it_is_the_same_bit_by_bit(story: tuple[Evidence, list[Tick]], step: int) -> None:
    evidence, ticks = story
    cut, whole = evidence, evidence
    for place, one in enumerate(ticks):
        cut = advanced(cut, one)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spans, "used", lambda *_, **__: None)
            whole = advanced(whole, one)
        for a, b in zip(arrays(cut), arrays(whole), strict=True):
            assert a.tobytes() == b.tobytes()
        if place == step:
            cut, whole = (next_step(one, at=np.full(2, place + 1.0)) for one in (cut, whole))


def test_most_of_a_native_histogram_is_left_out() -> None:
    le, rng = GRIDS[0], np.random.default_rng(3)
    cells = np.stack([drawn(le, rng, 0.05, 0.5, 5000)])
    memory = replace(
        blank(
            CheckSpec(name="slow", kind=CheckKind.LATENCY),
            steps=1,
            burst_tolerance=6.0,
            step_timeout=60.0,
            finished=1,
            le=le,
            canary_le=le,
        ).memory,
        recent=np.repeat(cells, 2, axis=0),
    )
    one = Tick(np.array(0.0), np.array(1.0), cells, cells, np.array(1), np.array(1))
    span = spans.used(memory, one, margin=2.4)
    assert span is not None
    occupied = np.flatnonzero(cells[0])
    assert span.start < occupied[0]
    assert span.stop - span.start < len(le) / 2
    assert le[span.stop - 2] >= 2.4 * le[occupied[-1]]
