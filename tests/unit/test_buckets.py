"""Bounds of exponential and decimal histograms, and what coarse bounds can tell."""

from bisect import bisect_left
from collections.abc import Iterable
from decimal import Decimal as Exact
from decimal import localcontext
from itertools import pairwise
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit
from scipy.stats import lognorm, pareto

from analysis import buckets, quantiles
from analysis.buckets import (
    Decimal,
    Exponential,
    certain,
    counted,
    decimal_bound,
    decimal_bounds,
    in_bounds,
    shares_above,
    tiers,
    together,
)
from analysis.grids import exponential_bound, exponential_bounds
from analysis.samples import Histogram, coarsened

ISTIO = (0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4)  # ms
SERVER = (5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3)
OTEL = (5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1e3, 2.5e3, 5e3, 7.5e3, 1e4)
MINUTE = {schema: -(-int(np.log2(6e4) * 2**schema * 1e6) // 10**6) for schema in (3, 4, 5)}  # its bucket

# bounds, then from statistics.md, "Coarse buckets": how many; of the ratios over p95 the median, the 90th
# percentile and the largest; the ratio at a p95 of 30, 114, 180 and 400 ms
IDENTIFIABLE = {
    "istio": (ISTIO, 15, (3.13, 4.38, 5.00), (3.33, 4.39, 2.78, 2.50)),
    "model server": (SERVER, 10, (3.13, 4.38, 5.00), (3.33, 4.39, 2.78, 2.50)),
    "otel": (OTEL, 14, (2.57, 3.94, 5.00), (2.50, 4.39, 2.78, 1.88)),
    "x1.5": (tuple(1.5**j for j in range(29)), 29, (1.84, 2.16, 2.25), (1.92, 1.71, 1.62, 1.64)),
    "x1.2": (tuple(1.2**j for j in range(62)), 62, (1.31, 1.41, 1.44), (1.28, 1.21, 1.32, 1.23)),
    "x1.1": (tuple(1.1**j for j in range(117)), 117, (1.27, 1.32, 1.33), (1.25, 1.25, 1.27, 1.23)),
    "schema 3": (exponential_bounds(3, 0, MINUTE[3]), 128, (1.35, 1.40, 1.41), (1.38, 1.34, 1.30, 1.40)),
    "schema 4": (exponential_bounds(4, 0, MINUTE[4]), 255, (1.27, 1.29, 1.30), (1.27, 1.28, 1.25, 1.28)),
    "schema 5": (exponential_bounds(5, 0, MINUTE[5]), 509, (1.23, 1.24, 1.24), (1.24, 1.22, 1.22, 1.23)),
    "circllhist": (decimal_bounds(0, 5)[:-1], 450, (1.24, 1.30, 1.40), (1.20, 1.32, 1.22, 1.20)),
}

schemas = st.integers(-4, 8)
sides = st.dictionaries(st.integers(-40, 40), st.integers(1, 10**9), max_size=6).map(
    lambda each: tuple(sorted(each.items()))
)
thresholds = st.sampled_from([2.0**-128, 1e-3, 0.7, 1.0, 3.0])


@st.composite
def histograms(draw: st.DrawFn, *, zero_threshold: float | None = None) -> Exponential:
    threshold = draw(thresholds) if zero_threshold is None else zero_threshold
    counts = (draw(sides), draw(sides), draw(st.integers(0, 10**9)))
    return Exponential(draw(schemas), *counts, threshold)


def observed(schema: int, values: np.ndarray, zero_threshold: float) -> Exponential:
    """What a client would have counted, each bucket found by search among all bounds."""
    bounds = exponential_bounds(schema, -3000, 3000)
    zero = np.abs(values) <= zero_threshold
    counts = []
    for side in (values[~zero & (values > 0)], -values[~zero & (values < 0)]):
        places, count = np.unique([bisect_left(bounds, value) - 3000 for value in side], return_counts=True)
        counts.append(tuple(zip(places.astype(int).tolist(), count.tolist(), strict=True)))
    return Exponential(schema, *counts, int(zero.sum()), zero_threshold)


@pytest.mark.parametrize("schema", range(-4, 9))
def test_bounds_are_powers_of_two_to_sixteen_digits(schema: int) -> None:
    with localcontext() as context:
        context.prec = 40
        for j in (-1000, -77, -1, 0, 1, 2, 3, 64, 1000):
            exact = Exact(2) ** (Exact(j) / (Exact(2) ** schema))
            found = exponential_bound(schema, j)
            if exact < Exact(2) ** 1000 and exact > Exact(2) ** -1000:
                assert abs(Exact(found) / exact - 1) < Exact("2e-16")


def test_a_bound_is_the_same_float_at_every_schema_that_has_it() -> None:
    for schema in range(-4, 8):
        assert exponential_bounds(schema, -20, 20) == exponential_bounds(schema + 1, -40, 40)[::2]


def test_the_largest_bounds_are_infinite_not_an_error() -> None:
    assert exponential_bound(3, 8 * 1024) == exponential_bound(-4, 64) == inf
    assert exponential_bound(0, -2000) == 0.0


@pytest.mark.parametrize("to", [3, 1, -2])
@pytest.mark.parametrize("zero_threshold", [2.0**-128, 0.01])
def test_a_coarser_schema_is_what_a_client_of_that_schema_would_have_counted(
    to: int, zero_threshold: float
) -> None:
    values = np.random.default_rng(1).lognormal(-1, 2, 500) * np.random.default_rng(2).choice([1, -1], 500)
    values = np.append(values, [exponential_bound(5, j) for j in range(-64, 64)])  # right on the bounds
    fine = observed(5, values, zero_threshold)
    assert fine.at(to) == observed(to, values, zero_threshold)


@given(histograms(), st.integers(0, 4), st.integers(0, 4))
def test_coarser_at_once_or_in_steps_is_the_same(one: Exponential, first: int, second: int) -> None:
    down, far = max(one.schema - first, -4), max(one.schema - first - second, -4)
    assert one.at(down).at(far) == one.at(far)
    assert one.at(far).n == one.n


@given(histograms(), histograms())
def test_merging_loses_nothing_and_has_no_order(one: Exponential, other: Exponential) -> None:
    both = one + other
    assert both == other + one
    assert both.n == one.n + other.n
    assert both.zero_threshold >= max(one.zero_threshold, other.zero_threshold)


@given(*[histograms(zero_threshold=1e-3)] * 3)
def test_merging_three_has_no_order(a: Exponential, b: Exponential, c: Exponential) -> None:
    assert (a + b) + c == a + (b + c) == together([a, b, c])


def test_many_that_share_no_bucket_are_merged_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def counting(counts: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        handled.extend(counts := list(counts))
        return summed(counts)

    handled: list[tuple[int, int]] = []
    summed = buckets._summed
    monkeypatch.setattr(buckets, "_summed", counting)
    many = [Exponential(4, tuple((place, 1) for place in range(10 * i, 10 * i + 10))) for i in range(100)]
    assert together(many) == Exponential(4, tuple((place, 1) for place in range(1000)))
    assert len(handled) <= 2 * 1000  # not each with all before it, which makes 50 000


@given(histograms(zero_threshold=1e-3), histograms(zero_threshold=1e-3), schemas)
def test_merging_and_then_coarsening_is_coarsening_and_then_merging(
    one: Exponential, other: Exponential, to: int
) -> None:
    to = min(to, one.schema, other.schema)
    assert (one + other).at(to) == one.at(to) + other.at(to)


@pytest.mark.parametrize("thresholds", [(2.0**-128, 0.3), (0.3, 0.3), (0.01, 0.5)])
def test_merged_clients_count_as_one_beyond_the_zero_bucket(thresholds: tuple[float, float]) -> None:
    rng = np.random.default_rng(3)
    values = [rng.lognormal(-1, 1.5, 400) * rng.choice([1, -1], 400) for _ in range(2)]
    both = observed(4, values[0], thresholds[0]) + observed(2, values[1], thresholds[1])
    assert both == observed(2, np.concatenate(values), both.zero_threshold)


def test_a_bucket_that_only_a_wider_zero_would_cut_is_taken_in_whole() -> None:
    narrow = Exponential(0, ((0, 3), (1, 4)), zero=1, zero_threshold=0.25)  # (.5, 1] and (1, 2]
    wide = Exponential(0, ((0, 5), (2, 6)), zero=2, zero_threshold=0.75)
    assert narrow + wide == Exponential(0, ((1, 4), (2, 6)), zero=11, zero_threshold=1.0)
    assert wide + wide == Exponential(0, ((0, 10), (2, 12)), zero=4, zero_threshold=0.75)


@pytest.mark.parametrize("schema", [3, 5])
def test_a_native_histogram_in_bounds_is_what_was_measured(schema: int) -> None:
    seconds = np.random.default_rng(4).lognormal(-2, 1, 2000)
    le = exponential_bounds(3, -80, 20)
    assert in_bounds(observed(schema, seconds, 0.0), le) == counted(seconds, le)
    coarse = exponential_bounds(0, -10, 2)
    assert in_bounds(observed(schema, seconds, 0.0), coarse) == coarsened(counted(seconds, le), coarse)


def test_what_lies_outside_the_bounds_is_in_the_first_bucket_or_the_overflow() -> None:
    of = Exponential(0, ((-9, 1), (1, 2), (9, 4), (1025, 8)), ((3, 16),), zero=32)
    assert in_bounds(of, (1.0, 2.0, 4.0)).count == (49, 2, 0, 12)
    assert of.n == 63


def test_bounds_that_cut_are_refused_where_something_is_cut() -> None:
    with pytest.raises(ValueError, match=r"le must not cut a bucket: 3\.0 lies between 2\.0 and 4\.0"):
        in_bounds(Exponential(0, ((2, 1),)), (1.0, 3.0))
    with pytest.raises(ValueError, match="le must not cut"):
        in_bounds(Exponential(0, zero=1, zero_threshold=0.01), (0.005, 1.0))
    assert in_bounds(Exponential(0, ((1, 1),), zero_threshold=0.01), (0.005, 1.0)).count == (0, 0, 1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Exponential(9), "schema must be from -4 to 8"),
        (lambda: Exponential(0).at(1), "schema must not be finer than 0"),
        (lambda: Exponential(0, zero_threshold=float("nan")), "zero_threshold must be finite"),
        (lambda: counted([0.1, float("nan")], (1.0,)), "seconds must not be NaN"),
        (lambda: certain((1.0,), quantile=float("nan"), margin=1.2), "quantile must be positive"),
        (
            lambda: tiers((1.0,), np.ones(2), quantile=0.0, level=0.05, margin=1.2),
            "quantile must be positive",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(wrong: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong()  # type: ignore[operator]


def test_decimal_bounds_are_the_floats_people_write() -> None:
    bounds = decimal_bounds(-3, 1)
    assert len(bounds) == 4 * 90 + 1
    assert {0.001, 0.0011, 0.025, 0.1, 0.25, 1.0, 2.5, 9.9, 10.0} <= set(bounds)
    assert (np.diff(bounds) > 0).all()
    assert max(b / a for a, b in pairwise(bounds)) == pytest.approx(1.1)


def test_a_decimal_histogram_in_bounds_is_what_was_measured() -> None:
    seconds = np.random.default_rng(5).lognormal(-2, 1, 3000)
    exponent = np.floor(np.log10(seconds)).astype(int) - 1
    bins, count = np.unique(
        np.stack([(seconds / 10.0**exponent).astype(int), exponent]), axis=1, return_counts=True
    )
    of = Decimal(tuple((int(d), int(e), int(c)) for (d, e), c in zip(bins.T, count, strict=True)))
    for le in (decimal_bounds(-4, 2), (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)):
        assert in_bounds(of, le) == counted(seconds, le)


def test_decimal_histograms_merge_bucket_by_bucket() -> None:
    one, other = Decimal(((12, -3, 4), (99, -3, 10**9)), zero=1), Decimal(((12, -3, 5), (10, -2, 1)))
    both = Decimal(((12, -3, 9), (99, -3, 10**9), (10, -2, 1)), zero=1)
    assert one + other == other + one == both
    assert both.n == one.n + other.n
    assert in_bounds(both, (0.012, 0.013, decimal_bound(1, -1))).count == (1, 9, 10**9, 1)


def test_a_timeout_counts_as_slow_and_a_clock_set_back_as_fast() -> None:
    assert counted([0.1, 0.100001, inf, -1.0, 0.0], (0.1, 1.0)).count == (3, 1, 1)
    assert counted([], (0.1, 1.0)) == Histogram((0.1, 1.0), (0, 0, 0))


@given(st.lists(st.floats(0, 100), max_size=30), st.integers(0, 30))
def test_measured_in_two_parts_is_measured_at_once(seconds: list[float], cut: int) -> None:
    le = (0.01, 0.1, 1.0, 10.0)
    parts = counted(seconds[:cut], le) + counted(seconds[cut:], le)
    assert parts == counted(seconds[::-1], le)
    assert list(np.cumsum(parts.count)[:-1]) == [sum(value <= bound for value in seconds) for bound in le]


@pytest.mark.parametrize("name", IDENTIFIABLE)
def test_the_table_of_what_is_identifiable(name: str) -> None:
    """Over p95 from 12 ms to 2.4 s, as likely in each factor, which is what the table was drawn from."""
    le, size, spread, at = IDENTIFIABLE[name]
    ratios = certain(le, quantile=np.geomspace(12, 2400, 4001), margin=1.2)
    found = [np.median(ratios), np.quantile(ratios, 0.9), ratios.max()]
    assert len(le) == size
    assert found == pytest.approx(spread, abs=0.0055)
    points = np.array([30.0, 114.0, 180.0, 400.0])
    assert certain(le, quantile=points, margin=1.2) == pytest.approx(at, abs=0.0055)


@pytest.mark.parametrize("le", [ISTIO, OTEL, decimal_bounds(0, 4)])
@pytest.mark.parametrize("p95", [30.0, 114.0, 400.0])
def test_certain_is_the_pair_and_within_the_resolution_of_quantiles(
    le: tuple[float, ...], p95: float
) -> None:
    ratio = float(certain(le, quantile=p95, margin=1.2))
    theta, of = bisect_left(le, p95), quantiles.bounds(le, le)
    other = le.index(pytest.approx(ratio * p95))
    chosen = quantiles.Pair(
        stable=np.intp(theta), canary=np.intp(other), rate=np.float64(0.05), found=np.bool_(True)
    )
    assert 1.2 <= ratio <= quantiles.resolution(of, chosen)
    odds = np.where(np.arange(len(le)) < theta, logit(0.9), logit(0.001))  # none near the level
    pair = quantiles.pair(odds, of, level=0.05, margin=1.2)
    assert (int(pair.stable), int(pair.canary)) == (theta, other)


def cells_of(distribution: object, le: tuple[float, ...], n: float = 1e6) -> np.ndarray:
    return n * np.diff(np.concatenate([[0], distribution.cdf(le), [1]]))  # type: ignore[attr-defined]


@pytest.mark.parametrize("p95", [30.0, 114.0, 180.0, 400.0])
@pytest.mark.parametrize("le", [ISTIO, OTEL])
def test_more_assumptions_tell_more_and_certain_needs_none(le: tuple[float, ...], p95: float) -> None:
    cells = cells_of(lognorm(0.5, scale=p95 / np.exp(1.6449 * 0.5)), le)
    found = tiers(le, cells, quantile=p95, level=0.05, margin=1.2)
    assert 1 <= found.interpolated <= found.convex <= found.certain
    assert found.certain == pytest.approx(certain(le, quantile=p95, margin=1.2))


def test_p95_of_114_ms_between_istios_bounds() -> None:
    """As in the specification: behind the chord at 100 ms a margin of x1.2 really is one of x1.36."""
    stable = lognorm(0.5, scale=114 / np.exp(1.6448536 * 0.5))
    cells = cells_of(stable, ISTIO)
    step, chord, power = shares_above(ISTIO, cells, np.array([100 / 1.2, 250 / 1.2]))
    assert 100 / stable.isf(chord[0]) == pytest.approx(1.36, abs=0.005)
    assert step[0] == pytest.approx(stable.sf(50))
    assert 100 / stable.isf(power[0]) < 1.2  # the last tier finds fault with what is allowed
    found = tiers(ISTIO, cells, quantile=114.0, level=0.05, margin=1.2)
    assert found.certain == pytest.approx(500 / 114)
    assert found.convex == found.interpolated == pytest.approx(250 / 114)


@pytest.mark.parametrize("shape", [1.5, 2.2, 4.0])
def test_shares_bound_a_convex_tail_and_are_exact_for_a_power_law(shape: float) -> None:
    tail = pareto(shape, scale=20.0)
    at = np.geomspace(26, 8000, 200)
    step, chord, power = shares_above(ISTIO, cells_of(tail, ISTIO, 1e12), at)
    assert (tail.sf(at) <= chord * (1 + 1e-9)).all()
    assert (chord <= step * (1 + 1e-9)).all()
    inner = at >= 50  # below, the bucket begins before the power law does
    assert power[inner] == pytest.approx(tail.sf(at[inner]), rel=1e-3)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 10**9), min_size=4, max_size=4), st.floats(0.05, 50), st.floats(1.01, 3))
def test_no_cells_break_the_order_of_the_tiers(cells: list[int], p95: float, margin: float) -> None:
    found = tiers((0.1, 1.0, 10.0), np.array(cells, dtype=float), quantile=p95, level=0.05, margin=margin)
    assert 0 < found.interpolated <= found.convex <= found.certain
    if not sum(cells):
        assert found.interpolated == inf


def test_where_nothing_was_counted_beyond_the_order_holds_as_well() -> None:
    step, chord, power = shares_above((0.1, 1.0, 10.0), np.array([5.0, 1.0, 1.0, 0.0]), np.array([0.5, 9.0]))
    assert (power <= chord).all()
    assert (chord <= step).all()
    assert power[0] < chord[0]


def test_canaries_side_by_side_are_as_each_alone() -> None:
    p95 = np.array([30.0, 114.0, 400.0])
    cells = np.stack([cells_of(lognorm(0.5, scale=each / 2.28), ISTIO) for each in p95])
    together = tiers(ISTIO, cells, quantile=p95, level=0.05, margin=1.2)
    alone = [tiers(ISTIO, c, quantile=q, level=0.05, margin=1.2) for c, q in zip(cells, p95, strict=True)]
    for name in ("certain", "convex", "interpolated"):
        assert getattr(together, name) == pytest.approx([getattr(each, name) for each in alone])


def test_without_bounds_nothing_is_found() -> None:
    assert tiers((), np.array([7.0]), quantile=1.0, level=0.05, margin=1.2).interpolated == inf
    assert certain((), quantile=1.0, margin=1.2) == inf
    assert in_bounds(Exponential(0, ((1, 2),), zero=3), ()).count == (5,)
