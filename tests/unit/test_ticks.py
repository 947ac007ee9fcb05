"""When ticks close, and what each pod contributes to them."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from math import inf

import numpy as np
import pytest

from analysis.evidence import CheckKind, CheckSpec, begin, update
from analysis.grids import SECONDS, grid_bounds
from analysis.samples import Counts, Histogram, PodSample, Statistic, coarsened
from controller import protobuf
from controller.cursors import load, save
from controller.hearing import AT_ONCE, Lag
from controller.ports import Reading
from controller.reading import read
from controller.served import Hush, Load
from controller.ticks import Cursor, Pace, Tick, advance
from tests import wire

NODES = {"s1": "n1", "s2": "n2", "c1": "n3", "c2": "n4"}
LE = (0.1, 0.5)


def page(at: float, n: int | None, k: int = 0, **values: Statistic) -> Reading:
    """A page with `n` requests; `errors` is read from them unless something else is said."""
    requests = None if n is None else Counts(n, k)
    said: Mapping[str, Statistic] = values or ({} if requests is None else {"errors": requests})
    return Reading(at=at, requests=requests, values=said, sources=dict.fromkeys(said, "live"))


def flushed(at: float, n: int, *count: int) -> Reading:
    """A sidecar's page: `n` requests, and a histogram that stands still between flushes."""
    sources = {"latency": "istio_request_duration_milliseconds"}
    return Reading(at=at, requests=Counts(n, 0), values={"latency": Histogram(LE, count)}, sources=sources)


class Passes:
    """A run's passes, one after the other."""

    def __init__(
        self,
        stable: str = "s1 s2",
        canary: str = "c1",
    ) -> None:
        self.stable = {name: NODES[name] for name in stable.split()}
        self.canary = {name: NODES[name] for name in canary.split()}
        self.cursor = Cursor()
        self.loads: Mapping[str, Load] = {}
        self.since: dict[str, float] = {}
        self.pages: dict[str, Reading] = {}
        self.pace = Pace()
        self.lag = AT_ONCE

    def at(self, now: float, **pages: Reading) -> tuple[Tick, ...]:
        """The ticks that close at `now` with these new pages beside the old ones."""
        self.pages |= pages
        self.cursor, ticks, self.loads = advance(
            self.cursor,
            self.pages,
            stable=self.stable,
            canary=self.canary,
            now=now,
            since=self.since,
            pace=self.pace,
            lag=self.lag,
        )
        return ticks


def told(tick: Tick) -> dict[str, Statistic]:
    return {pod.name: pod.value for pod in (*tick.stable.pods, *tick.canary.pods)}


def begun(**more: str) -> Passes:
    """Three pods that have been read once, at 10 s."""
    passes = Passes(**more)
    names = {**passes.stable, **passes.canary}
    assert passes.at(10.0, **{name: page(10.0, 100, 1) for name in names}) == ()
    return passes


def test_a_tick_is_what_each_pod_counted_between_its_two_pages() -> None:
    (tick,) = begun().at(11.0, s1=page(10.9, 130, 1), s2=page(10.95, 120, 2), c1=page(11.0, 105, 3))
    assert tick.check == "errors"
    assert (tick.stable.start, tick.stable.end, tick.canary.start, tick.canary.end) == (
        10.0,
        11.0,
        10.0,
        11.0,
    )
    assert tick.stable.pods == (PodSample("s1", "n1", Counts(30, 0)), PodSample("s2", "n2", Counts(20, 1)))
    assert tick.canary.pods == (PodSample("c1", "n3", Counts(5, 2)),)


def test_the_next_tick_begins_where_the_last_one_ended() -> None:
    passes = begun()
    passes.at(11.0, s1=page(11.0, 110, 1), s2=page(11.0, 110, 1), c1=page(11.0, 110, 1))
    (tick,) = passes.at(12.0, s1=page(12.0, 111, 1), s2=page(12.0, 112, 1), c1=page(12.0, 113, 1))
    assert (tick.stable.start, tick.stable.end) == (11.0, 12.0)
    assert told(tick) == {"s1": Counts(1, 0), "s2": Counts(2, 0), "c1": Counts(3, 0)}


def test_the_same_pages_again_are_no_news() -> None:
    passes = begun()
    assert passes.at(10.5) == ()
    assert passes.at(15.0) == ()


def test_pods_that_are_late_are_waited_for_one_interval() -> None:
    passes = begun()
    assert passes.at(11.0, s1=page(11.0, 110, 1), c1=page(11.0, 110, 1)) == ()
    (tick,) = passes.at(11.3, s2=page(11.3, 120, 1))
    assert set(told(tick)) == {"s1", "s2", "c1"}
    assert passes.at(12.0, s1=page(12.0, 120, 1), c1=page(12.0, 120, 1)) == ()
    (tick,) = passes.at(13.0)
    assert set(told(tick)) == {"s1", "c1"}


def test_a_pod_that_missed_one_tick_catches_up_in_the_next() -> None:
    passes = begun()
    passes.at(11.0, s1=page(11.0, 110, 1), c1=page(11.0, 110, 1))
    passes.at(12.0, s1=page(12.0, 120, 1), c1=page(12.0, 120, 1))
    (tick,) = passes.at(12.5, s1=page(12.5, 125, 1), s2=page(12.5, 130, 4), c1=page(12.5, 125, 1))
    assert told(tick)["s2"] == Counts(30, 3)


def test_a_pod_that_was_away_for_long_starts_afresh() -> None:
    passes = begun()
    for now in range(11, 20):
        passes.at(now, s1=page(now, now * 10, 1), c1=page(now, now * 10, 1))
    passes.at(20.0, s1=page(20.0, 200, 1), s2=page(20.0, 900, 90), c1=page(20.0, 200, 1))
    (tick,) = passes.at(21.0, s1=page(21.0, 210, 1), s2=page(21.0, 910, 90), c1=page(21.0, 210, 1))
    assert told(tick) == {name: Counts(10, 0) for name in ("s1", "s2", "c1")}


def test_a_pod_that_is_away_holds_up_one_tick_and_not_all() -> None:
    passes = begun()
    closed = [
        now
        for now in range(11, 31)
        if passes.at(now, s1=page(now, now * 10 + 100, 1), c1=page(now, now * 10 + 100, 1))
    ]
    assert closed == [12, 14, *range(15, 31)]


@pytest.mark.parametrize("silent", ["canary", "stable"])
def test_an_arm_without_any_news_is_never_left_out(silent: str) -> None:
    passes = begun()
    speaking = ["c1"] if silent == "stable" else ["s1", "s2"]
    for now in range(11, 41):
        assert passes.at(now, **{name: page(now, now * 10, 1) for name in speaking}) == ()
    (tick,) = passes.at(41.0, **{name: page(41.0, 1000, 11) for name in ("s1", "s2", "c1")})
    assert (tick.stable.start, tick.stable.end) == (10.0, 41.0)
    assert told(tick) == {name: Counts(900, 10) for name in ("s1", "s2", "c1")}


def test_without_canary_pods_stable_alone_makes_history() -> None:
    passes = begun(canary="")
    (tick,) = passes.at(11.0, s1=page(11.0, 110, 1), s2=page(11.0, 120, 1))
    assert told(tick) == {"s1": Counts(10, 0), "s2": Counts(20, 0)}
    assert tick.canary.pods == ()


def test_without_stable_pods_there_is_nothing_to_compare_with() -> None:
    passes = begun(stable="")
    for now in range(11, 15):
        assert passes.at(now, c1=page(now, now * 10 + 100, 50)) == ()


def test_a_new_pod_joins_with_the_next_tick() -> None:
    passes = begun()
    passes.canary["c2"] = "n4"
    (tick,) = passes.at(11.0, **{name: page(11.0, 110, 1) for name in NODES})
    assert set(told(tick)) == {"s1", "s2", "c1"}
    (tick,) = passes.at(12.0, **{name: page(12.0, 120, 1) for name in NODES})
    assert set(told(tick)) == {"s1", "s2", "c1", "c2"}


def test_a_pod_that_is_gone_is_not_differenced_and_not_waited_for() -> None:
    passes = begun()
    del passes.stable["s2"]
    (tick,) = passes.at(11.0, s1=page(11.0, 110, 1), s2=page(11.0, 110, 1), c1=page(11.0, 110, 1))
    assert set(told(tick)) == {"s1", "c1"}


def test_a_counter_that_began_again_is_left_out_of_one_tick() -> None:
    passes = begun()
    (tick,) = passes.at(11.0, s1=page(11.0, 110, 1), s2=page(11.0, 110, 1), c1=page(11.0, 20, 9))
    assert set(told(tick)) == {"s1", "s2"}
    (tick,) = passes.at(12.0, s1=page(12.0, 110, 1), s2=page(12.0, 110, 1), c1=page(12.0, 30, 10))
    assert told(tick)["c1"] == Counts(10, 1)


@pytest.mark.parametrize("pod", ["s1", "c1"])
@pytest.mark.parametrize("lacking", [Counts(960, 0), Counts(50, 50), Counts(1_013, 20)])
@pytest.mark.parametrize("seconds", [1, 2, 8])
def test_what_a_page_lacked_for_a_while_is_no_news_when_it_is_back(
    pod: str, lacking: Counts, seconds: int
) -> None:
    """A merged page without some of the sidecar's label sets: 50 errors of last week were a second's."""
    passes = Passes(stable="s1")
    counted = Counts(0, 0)
    for second in range(10, 30):
        n = 980 + 2 * second
        lacks = 15 <= second < 15 + seconds
        part = replace(lacking, n=lacking.n + second - 15) if lacks else Counts(n, 50 + (second >= 25))
        usual = {name: page(float(second), n, 50) for name in ("s1", "c1")}
        ticks = passes.at(float(second), **usual | {pod: page(float(second), part.n, part.k)})
        for tick in ticks:
            one = told(tick).get(pod, Counts(0, 0))
            assert isinstance(one, Counts)
            counted += one
    assert counted.k == 1
    assert 20 <= counted.n <= 38


def test_what_a_histogram_lacked_for_two_pages_is_no_news_when_it_is_back() -> None:
    passes = Passes(stable="s1")
    fast = Histogram(LE, (100, 0, 0))
    for second in range(10, 20):
        slow = 0 if second in {14, 15} else 50
        said = {"s1": page(float(second), 100, latency=fast)}
        said["c1"] = page(float(second), 100, latency=Histogram(LE, (100 + second, 0, slow)))
        for tick in passes.at(float(second), **said):
            assert told(tick).get("c1") in (None, *(Histogram(LE, (n, 0, 0)) for n in (1, 3)))


def test_a_process_that_began_again_is_counted_and_left_out_once_where_it_comes_to_what_it_had_before() -> (
    None
):
    passes = Passes(stable="s1")
    counted = []
    for second in range(10, 30):
        n = 50 + second if second < 15 else 10 * (second - 14)
        said = {"s1": page(float(second), 100), "c1": page(float(second), n)}
        counted += [told(tick).get("c1") for tick in passes.at(float(second), **said)]
    assert counted == [*[Counts(1, 0)] * 4, None, *[Counts(10, 0)] * 5, None, *[Counts(10, 0)] * 8]


def test_buckets_that_changed_are_left_out_of_one_tick() -> None:
    passes = Passes(stable="s1")
    finer, coarser = Histogram((0.1, 0.5), (1, 2, 3)), Histogram((0.2,), (9, 9))
    passes.at(10.0, s1=page(10.0, 6, latency=finer), c1=page(10.0, 6, latency=finer))
    (tick,) = passes.at(11.0, s1=page(11.0, 6, latency=finer), c1=page(11.0, 18, latency=coarser))
    assert set(told(tick)) == {"s1"}
    (tick,) = passes.at(12.0, s1=page(12.0, 6, latency=finer), c1=page(12.0, 18, latency=coarser))
    assert told(tick)["c1"] == Histogram((0.2,), (0, 0))


def test_a_page_that_lacks_buckets_every_other_time_loses_no_tick() -> None:
    passes = Passes(stable="s1")
    for at in range(10, 20):
        counts = (at, 2 * at, 3 * at)
        full = Histogram((0.1, 0.5), counts)
        some = Histogram((0.5,), (counts[0] + counts[1], counts[2]))
        said = page(float(at), 6 * at, latency=some if at % 2 else full)
        ticks = passes.at(float(at), s1=page(float(at), 6 * at, latency=full), c1=said)
        assert [told(tick)["c1"] for tick in ticks] == ([Histogram((0.5,), (3, 3))] if at > 10 else [])


def test_a_native_histogram_that_became_coarser_loses_no_tick() -> None:
    fine, coarse = (grid_bounds(SECONDS, schema)[1] for schema in (4, 3))
    before = Histogram(fine, (1,) * (len(fine) + 1))
    after = Histogram(coarse, tuple(n + 3 for n in coarsened(before, coarse).count))
    passes = Passes(stable="s1")
    passes.at(10.0, s1=page(10.0, 6, latency=before), c1=page(10.0, 6, latency=before))
    (tick,) = passes.at(11.0, s1=page(11.0, 6, latency=before), c1=page(11.0, 18, latency=after))
    assert told(tick)["c1"] == Histogram(coarse, (3,) * (len(coarse) + 1))


@pytest.mark.parametrize(("factor", "least", "most"), [(1.0, -30, 1), (2.0, 20, 700)])
def test_a_canary_is_judged_by_native_histograms_whose_schemas_change(
    factor: float, least: float, most: float
) -> None:
    """From the page to the evidence: one of stable's exporters joins its buckets in the middle."""
    check = CheckSpec(name="latency", kind=CheckKind.LATENCY)
    rng, passes, evidence = (
        np.random.default_rng(3),
        Passes(stable="s1 s2", canary="c1 c2"),
        begin(check, steps=1),
    )
    counted: dict[str, Counter[int]] = {name: Counter() for name in NODES}
    for second in range(90):
        pages = {}
        for name, places in counted.items():
            slower = factor if name.startswith("c") else 1.0
            places.update(np.ceil(np.log2(rng.lognormal(-3, 0.5, 40) * slower) * 16).astype(int).tolist())
            coarser = 4 if name == "s1" and second > 60 else 1
            joined: Counter[int] = Counter()
            for place, count in places.items():
                joined[-(-place // coarser)] += count
            native = wire.native({}, 2 if coarser == 4 else 4, joined)
            page = wire.family("model_inference_duration_seconds", native)
            pages[name], _ = read(page, [check], at=float(second), kind=protobuf.TYPE)
        for tick in passes.at(float(second), **pages):
            evidence = update(evidence, tick.stable, tick.canary)
    assert evidence.memory.le == grid_bounds(SECONDS, 2)[1]
    assert evidence.memory.canary_le == grid_bounds(SECONDS, 4)[1]
    assert least < evidence.log_e < most


def test_checks_have_ticks_of_their_own() -> None:
    passes = Passes(stable="s1")
    empty, full = Histogram(LE, (0, 0, 0)), Histogram(LE, (5, 4, 1))
    begin = {name: page(10.0, 0, errors=Counts(0, 0), latency=empty) for name in ("s1", "c1")}
    assert passes.at(10.0, **begin) == ()
    end = {name: page(11.0, 10, errors=Counts(10, 2), latency=full) for name in ("s1", "c1")}
    assert [(tick.check, told(tick)["c1"]) for tick in passes.at(11.0, **end)] == [
        ("errors", Counts(10, 2)),
        ("latency", full),
    ]


# -- histograms that wait for the proxy's flush ----------------------------------------------------


def latched(**pages: Reading) -> Passes:
    passes = Passes(stable="s1 s2")
    assert passes.at(10.0, **({name: flushed(10.0, 100, 50, 40, 10) for name in passes.stable} | pages)) == ()
    return passes


def test_a_latency_tick_waits_until_every_pod_has_flushed() -> None:
    passes = latched(c1=flushed(10.0, 100, 50, 40, 10))
    for now in (11, 12, 13):
        n = 100 + 10 * (now - 10)
        same = {name: flushed(now, n, 50, 40, 10) for name in ("s1", "s2", "c1")}
        assert passes.at(now, **same) == ()
    moved = {name: flushed(14, 140, 70, 50, 20) for name in ("s1", "c1")}
    assert passes.at(14, s2=flushed(14, 140, 50, 40, 10), **moved) == ()
    (tick,) = passes.at(15, **{name: flushed(15, 150, 70, 50, 20) for name in ("s1", "s2", "c1")})
    assert told(tick) == {name: Histogram(LE, (20, 10, 10)) for name in ("s1", "s2", "c1")}
    assert (tick.stable.start, tick.stable.end) == (10.0, 15.0)


def test_a_pod_without_requests_has_nothing_to_flush() -> None:
    passes = latched(c1=flushed(10.0, 0, 0, 0, 0))
    moved = {name: flushed(11, 110, 60, 40, 10) for name in ("s1", "s2")}
    (tick,) = passes.at(11, c1=flushed(11, 0, 0, 0, 0), **moved)
    assert told(tick)["c1"] == Histogram(LE, (0, 0, 0))


def test_after_two_flush_intervals_a_tick_closes_without_the_laggard_which_loses_nothing() -> None:
    passes = latched(c1=flushed(10.0, 100, 50, 40, 10))
    ticks: dict[int, dict[str, Statistic]] = {}
    for now in range(11, 30):
        done = 10 * (now - 10)
        pods = {name: flushed(now, 100 + done, 50 + done, 40, 10) for name in ("s1", "c1")}
        late = flushed(now, 100 + done, 50, 40, 10) if now < 26 else flushed(now, 260, 210, 40, 10)
        for tick in passes.at(now, s2=late, **pods):
            ticks[now] = told(tick)
    assert list(ticks) == [21, 26, 27, 28, 29]
    assert set(ticks[21]) == {"s1", "c1"}
    assert ticks[26]["s2"].n == 160
    assert sum(value["s1"].n for value in ticks.values()) == 190


def test_hits_without_their_trials_are_waited_for_so_that_no_click_is_lost() -> None:
    """Of a pod with a trial a second one click in three was left out, and of a busy pod none."""
    passes = Passes(stable="s1")
    counted = [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (4, 2), (5, 2)]
    clicks = {second: Counts(*pair) for second, pair in enumerate(counted)}
    found = []
    for second, value in clicks.items():
        busy = page(10.0 + second, 100, clicks=Counts(100 * second, 10 * second))
        ticks = passes.at(10.0 + second, s1=busy, c1=page(10.0 + second, 100, clicks=value))
        found += [told(tick) for tick in ticks]
    assert [one["c1"] for one in found] == [Counts(1, 0), Counts(1, 1), Counts(2, 1), Counts(1, 0)]
    assert [one["s1"].n for one in found] == [100, 200, 200, 100]


def test_a_live_histogram_is_not_waited_for() -> None:
    passes = Passes(stable="s1")
    before, after = Histogram(LE, (5, 0, 0)), Histogram(LE, (9, 0, 0))
    passes.at(10.0, s1=page(10.0, 5, latency=before), c1=page(10.0, 5, latency=before))
    (tick,) = passes.at(11.0, s1=page(11.0, 9, latency=after), c1=page(11.0, 9, latency=before))
    assert told(tick)["c1"].n == 0


# -- one measurement in both arms ------------------------------------------------------------------

MODEL, SIDECAR = "model_inference_duration_seconds", "istio_request_duration_milliseconds"


def measured(at: float, n: int, source: str, le: tuple[float, ...] = LE) -> Reading:
    """A page whose `n` requests' latencies are read from this series."""
    values = {"latency": Histogram(le, (n,) + (0,) * len(le))}
    return Reading(at=at, requests=Counts(n, 0), values=values, sources={"latency": source})


def measuring(second: int, **sources: str) -> dict[str, Reading]:
    return {pod: measured(10.0 + second, 10 * second, source) for pod, source in sources.items()}


@pytest.mark.parametrize(("usual", "other"), [(MODEL, SIDECAR), (SIDECAR, MODEL)])
def test_pods_that_are_read_from_another_series_than_most_of_stables_are_left_out(
    usual: str, other: str
) -> None:
    """A healthy canary that had lost its own histogram was rolled back as 4 times as slow."""
    passes = Passes(stable="s1 s2", canary="c1 c2")
    sources = {"s1": usual, "s2": usual, "c1": usual, "c2": other}
    passes.at(10.0, **measuring(1, **sources))
    (tick,) = passes.at(11.0, **measuring(2, **sources))
    assert set(told(tick)) == {"s1", "s2", "c1"}

    sources |= {"s2": other, "s1": usual, "c1": other}  # of as many the same ones always
    passes.at(12.0, **measuring(3, **sources))
    (tick,) = passes.at(13.0, **measuring(4, **sources))
    assert set(told(tick)) == ({"s1"} if usual == MODEL else {"s2", "c1", "c2"})


def test_a_pod_whose_series_is_another_than_before_gives_no_difference() -> None:
    passes = Passes(stable="s1 s2", canary="c1")
    passes.at(10.0, **measuring(1, s1=MODEL, s2=MODEL, c1=MODEL))
    (tick,) = passes.at(11.0, **measuring(2, s1=MODEL, s2=MODEL, c1=SIDECAR))
    assert set(told(tick)) == {"s1", "s2"}
    (tick,) = passes.at(12.0, **measuring(3, s1=MODEL, s2=MODEL, c1=MODEL))
    assert set(told(tick)) == {"s1", "s2"}
    (tick,) = passes.at(13.0, **measuring(4, s1=MODEL, s2=MODEL, c1=MODEL))
    assert told(tick)["c1"].n == 10


def test_a_pod_that_is_left_out_is_not_waited_for() -> None:
    passes = Passes(stable="s1", canary="c1")
    still = measured(10.0, 10, SIDECAR)
    passes.at(10.0, s1=measured(10.0, 10, MODEL), c1=still)
    moved = replace(still, at=11.0, requests=Counts(20, 0))  # its proxy has not flushed
    (tick,) = passes.at(11.0, s1=measured(11.0, 20, MODEL), c1=moved)
    assert set(told(tick)) == {"s1"}


def test_a_series_that_changed_while_nobody_led_gives_no_difference() -> None:
    passes = Passes(stable="s1 s2", canary="c1")
    passes.at(10.0, **measuring(1, s1=SIDECAR, s2=SIDECAR, c1=SIDECAR))
    passes.cursor = load(json.loads(json.dumps(save(passes.cursor))))
    now = measuring(3, s1=SIDECAR, s2=SIDECAR) | {"s1": measured(13.0, 30, SIDECAR, (*LE, 1.0))}
    (tick,) = passes.at(13.0, **now, c1=measured(13.0, 30, SIDECAR))
    assert {pod: value.n for pod, value in told(tick).items()} == {"s2": 20, "c1": 20}


# -- the canary's first second ---------------------------------------------------------------------


def test_what_a_canary_shows_first_is_counted_from_zero() -> None:
    passes = Passes(stable="s1")
    passes.at(10.0, s1=page(10.0, 100, 1), c1=page(10.0, None))
    (tick,) = passes.at(11.0, s1=page(11.0, 200, 1), c1=page(11.0, None))
    assert set(told(tick)) == {"s1"}
    (tick,) = passes.at(12.0, s1=page(12.0, 300, 1), c1=page(12.0, 8, 8))
    assert told(tick) == {"s1": Counts(100, 0), "c1": Counts(8, 8)}


def test_what_was_there_and_could_not_be_read_does_not_count_from_zero() -> None:
    passes = Passes(stable="s1")
    unreadable = Reading(at=10.0, requests=None, sources={"errors": "istio_requests_total"})
    passes.at(10.0, s1=page(10.0, 100, 1), c1=unreadable)
    ticks = passes.at(11.0, s1=page(11.0, 200, 1), c1=page(11.0, 5000, 50))
    assert all("c1" not in told(tick) for tick in ticks)


def test_a_series_that_was_away_for_one_page_does_not_count_from_zero() -> None:
    passes = Passes(stable="s1")
    passes.at(10.0, s1=page(10.0, 100, 1), c1=page(10.0, 100, 1))
    assert passes.at(11.0, s1=page(11.0, 200, 1), c1=page(11.0, None)) == ()
    (tick,) = passes.at(12.0, s1=page(12.0, 300, 1), c1=page(12.0, 120, 2))
    assert told(tick) == {"s1": Counts(200, 0), "c1": Counts(20, 1)}


def test_a_canary_that_was_away_for_long_does_not_count_from_zero() -> None:
    passes = begun(stable="s1", canary="c1 c2")
    for now in range(11, 20):
        assert all(
            "c1" not in told(tick) for tick in passes.at(now, s1=page(now, 100, 1), c2=page(now, 100, 1))
        )
    passes.cursor = load(json.loads(json.dumps(save(passes.cursor))))
    for n in (None, None, 5000, 5001):
        now = passes.pages["s1"].at + 1
        pods = {"s1": page(now, 100, 1), "c2": page(now, 100, 1), "c1": page(now, n)}
        ticks = passes.at(now, **pods)
    assert told(ticks[0])["c1"] == Counts(1, 0)


def test_a_stable_pod_never_counts_from_zero() -> None:
    passes = Passes(stable="s1 s2")
    passes.at(10.0, s1=page(10.0, 100, 1), s2=page(10.0, None), c1=page(10.0, 0))
    for now in (11.0, 12.0):
        for tick in passes.at(now, s1=page(now, 200, 1), s2=page(now, 7000, 1), c1=page(now, 0)):
            assert told(tick).get("s2", Counts(0, 0)) == Counts(0, 0)


# -- a new leader ----------------------------------------------------------------------------------


def test_everything_since_the_saved_cursor_is_one_large_tick() -> None:
    passes = begun()
    saved = json.loads(json.dumps(save(passes.cursor)))
    passes.cursor = load(saved)
    passes.pages = {}
    assert passes.at(40.0) == ()
    assert passes.at(40.5, s1=page(40.4, 400, 1), c1=page(40.5, 400, 2)) == ()  # s2 may still come
    (tick,) = passes.at(41.0, s2=page(41.0, 500, 1))
    assert (tick.stable.start, tick.stable.end) == (10.0, 41.0)
    assert told(tick) == {"s1": Counts(300, 0), "s2": Counts(400, 0), "c1": Counts(300, 1)}


def test_a_new_leader_knows_by_which_series_each_pods_requests_were_counted() -> None:
    """A page of stable's without the sidecar's part was 45 000 requests in which the canary was silent."""
    passes = Passes()
    passes.since = {"weight": 9.0}
    one = {"s1": "sidecar", "s2": "sidecar", "c1": "model"}
    passes.at(10.0, **{name: by(10.0, 5000, counter) for name, counter in one.items()})
    passes.cursor = load(json.loads(json.dumps(save(passes.cursor))))
    assert {name: pod.counter for name, pod in passes.cursor.served.items()} == one
    passes.at(11.0, **{name: by(11.0, 50_000, "model") for name in one})
    assert (passes.loads["weight"].stable, passes.loads["weight"].canary) == (0, 45_000)


def test_a_saved_cursor_is_small() -> None:
    le = tuple(0.001 * 1.2 ** (step / 2) for step in range(122))
    names = {f"pod-{number:02}": "node" for number in range(22)}
    pages = {
        name: page(1e9 + 0.123456, 10**6, latency=Histogram(le, (1234,) * 123), errors=Counts(10**6, 99))
        for name in names
    }
    cursor, _, _ = advance(Cursor(), pages, stable=names, canary={}, now=1e9)
    assert len(json.dumps(save(cursor), separators=(",", ":"))) < 22_000


def test_buckets_without_counts_at_either_end_are_not_saved() -> None:
    le, names = grid_bounds(SECONDS, 4)[1], {f"pod-{number:02}": "node" for number in range(22)}
    for used in (range(100, 160), range(0), range(3), range(300, 306)):
        count = tuple(1234 if at in used else 0 for at in range(len(le) + 1))
        pages = {name: page(1e9, None, latency=Histogram(le, count)) for name in names}
        cursor, _, _ = advance(Cursor(), pages, stable=names, canary={}, now=1e9)
        text = json.dumps(save(cursor), separators=(",", ":"))
        assert load(json.loads(text)) == cursor
        assert len(text) < 14_000


@pytest.mark.parametrize(
    "saved",
    [None, {}, [], {"v": 1}, {"v": 2}, {"v": 2, "bounds": 3}, {"v": 2, "bounds": [], "checks": {"a": 1}}],
)
def test_what_is_not_a_cursor_is_refused(saved: object) -> None:
    with pytest.raises(ValueError, match="begin with an empty one"):
        load(saved)


def test_patience_is_counted_in_intervals() -> None:
    slow = Pace(interval=timedelta(seconds=10), flush=timedelta(seconds=1))
    passes = begun()
    passes.pace = slow
    assert passes.at(20.0, s1=page(20.0, 110, 1), c1=page(20.0, 110, 1)) == ()
    assert passes.at(25.0) == ()
    assert len(passes.at(29.5)) == 1
    assert slow.flush_patience == 2.0


# -- load ------------------------------------------------------------------------------------------


def loaded() -> Passes:
    passes = begun()
    passes.since = {"weight": 10.0}
    passes.at(10.5)
    return passes


def test_requests_are_counted_from_the_instant_on() -> None:
    passes = loaded()
    passes.at(11.0, s1=page(11.0, 150), s2=page(11.0, 130), c1=page(11.0, 110))
    passes.at(12.0, s1=page(12.0, 250), s2=page(12.0, 130), c1=page(12.0, 120))
    found = passes.loads["weight"]
    assert (found.stable, found.canary, found.seconds) == (180, 20, 2.0)
    assert (found.stable_seconds, found.canary_seconds) == (4.0, 2.0)
    assert (found.stable_rate, found.canary_rate) == (45.0, 10.0)
    assert found.parity == pytest.approx(10 / 45)


def test_a_page_that_spans_the_instant_is_not_counted() -> None:
    passes = begun()
    passes.since = {"weight": 10.5}
    passes.at(11.0, s1=page(11.0, 900), s2=page(11.0, 900), c1=page(11.0, 900))
    assert (passes.loads["weight"].stable, passes.loads["weight"].canary) == (0, 0)
    passes.at(12.0, s1=page(12.0, 905), s2=page(12.0, 906), c1=page(12.0, 907))
    assert (passes.loads["weight"].stable, passes.loads["weight"].canary) == (11, 7)


def test_an_instant_that_changed_begins_at_zero_and_the_others_go_on() -> None:
    passes = loaded()
    passes.since["step"] = 10.0
    passes.at(11.0, c1=page(11.0, 110))
    passes.since["weight"] = 11.0
    passes.at(12.0, c1=page(12.0, 125))
    assert (passes.loads["weight"].canary, passes.loads["step"].canary) == (15, 25)


def test_a_counter_that_began_again_counts_what_it_shows() -> None:
    passes = loaded()
    passes.at(11.0, c1=page(11.0, 4))
    assert passes.loads["weight"].canary == 4


def by(at: float, n: int, counter: str) -> Reading:
    return replace(page(at, n), counter=counter)


@pytest.mark.parametrize(
    "odd", [by(12.0, 95_000, "sidecar"), by(12.0, 98_000, "model"), by(12.0, 120_000, "model")]
)
@pytest.mark.parametrize("pod", ["s1", "c1"])
def test_one_page_with_less_or_by_another_counter_adds_nothing_and_loses_nothing(
    odd: Reading, pod: str
) -> None:
    """95 000 requests after 100 000 were 95 000 more; and the 5 000 to the next page as well."""
    passes = Passes(stable="s1")
    passes.since = {"weight": 10.0}
    for second in (10.0, 11.0):
        passes.at(second, **{name: by(second, 100_000, "sidecar") for name in ("s1", "c1")})
    for second, one in ((12.0, odd), (13.0, by(13.0, 100_010, "sidecar"))):
        passes.at(second, **{name: by(second, 100_000, "sidecar") for name in ("s1", "c1")} | {pod: one})
    found = passes.loads["weight"]
    assert (found.stable, found.canary) == ((10, 0) if pod == "s1" else (0, 10))
    assert found.shared == (found.stable, found.canary)
    assert found.hush.n == found.stable


@pytest.mark.parametrize("less", [600, 100])
def test_what_pages_lacked_for_longer_is_not_served_anew_when_it_is_back(less: int) -> None:
    """1 000 requests of last week gave a step its `minRequests`, and broke a silence."""
    passes = Passes(stable="s1")
    passes.since = {"weight": 10.0}
    for second in range(10, 20):
        n = less if 13 <= second <= 15 else 1000
        passes.at(float(second), s1=page(float(second), 100), c1=by(float(second), n, "sidecar"))
    assert passes.loads["weight"].canary == (100 if less == 100 else 0)


def test_a_canary_s_page_with_less_is_no_silence_and_the_next_is_counted_from_there() -> None:
    passes = Passes(stable="s1")
    passes.since = {"weight": 10.0}
    counts = {10.0: 5000, 11.0: 4900, 12.0: 4900, 13.0: 4900, 14.0: 4903}
    for second, n in counts.items():
        passes.at(second, s1=page(second, int(100 * second)), c1=by(second, n, "sidecar"))
        assert passes.loads["weight"].hush.n == (100 if second == 13.0 else 0)
        assert second != 13.0 or passes.loads["weight"].hush.since == 11.0
    assert passes.loads["weight"].canary == 3


def test_the_first_request_by_the_sidecar_s_count_is_counted_although_the_model_s_said_none_before() -> None:
    passes = Passes(stable="s1")
    passes.since = {"weight": 10.0}
    passes.at(10.0, s1=page(10.0, 100), c1=by(10.0, 0, "model"))
    passes.at(11.0, s1=page(11.0, 200), c1=by(11.0, 3, "sidecar"))
    assert passes.loads["weight"].canary == 3


def test_how_long_pages_stand_still_is_seen_from_a_pod_whose_count_grew_twice() -> None:
    passes = Passes(stable="s1 s2")
    for second in range(10, 40):
        at = float(second)
        assert passes.cursor.steps.shortest == (inf if second < 22 else 10.0)
        cached = {name: page(at, 100 * ((second + part) // 10)) for name, part in (("s1", 0), ("c1", 9))}
        passes.at(at, **cached, s2=page(at, 100 + (second == 35)))
    assert passes.cursor.steps.shortest == 10.0
    passes.at(40.0, s2=page(40.0, 102))
    passes.at(41.0, s2=page(41.0, 103))
    assert passes.cursor.steps.shortest == 1.0


def test_nothing_known_of_an_arm_is_not_the_same_as_no_requests() -> None:
    passes = loaded()
    passes.at(11.0, s1=page(11.0, 150))
    assert passes.loads["weight"].canary_rate is None
    assert passes.loads["weight"].parity is None
    passes.at(12.0, s1=page(12.0, 150), c1=page(12.0, 100))
    assert passes.loads["weight"].canary_rate == 0.0


def test_a_silence_lasts_until_the_canary_completes_a_request() -> None:
    passes = loaded()
    passes.at(11.0, s1=page(11.0, 150), c1=page(11.0, 100))
    passes.at(12.0, s1=page(12.0, 200), c1=page(12.0, 100))
    assert passes.loads["weight"].hush == Hush(10.0, 12.0, 100)
    passes.at(13.0, s1=page(13.0, 250), c1=page(13.0, 101))
    assert passes.loads["weight"].hush == Hush(13.0, 13.0, spoke=True)


def test_a_canary_whose_page_does_not_come_is_not_silent_until_one_comes_that_says_so() -> None:
    """Three seconds without its page were taken for three seconds in which it completed nothing."""
    passes = loaded()
    for second in (11.0, 12.0, 13.0, 14.0):
        passes.at(second, s1=page(second, 100 + 50 * (second - 10)))
    assert passes.loads["weight"].hush == Hush(10.0, 10.0, 0, missed=200)
    passes.at(15.0, s1=page(15.0, 350), c1=page(15.0, 100))
    assert passes.loads["weight"].hush == Hush(10.0, 15.0, 250)


def test_a_page_without_the_count_that_it_had_is_no_silence() -> None:
    """Four seconds of empty pages were taken for four seconds in which the canary completed nothing."""
    passes = loaded()
    for second in (11.0, 12.0, 13.0, 14.0):
        passes.at(second, s1=page(second, int(50 * (second - 8))), c1=replace(page(second, None), values={}))
    assert passes.loads["weight"].hush == Hush(10.0, 10.0, 0, missed=200)
    assert passes.loads["weight"].pods["c1"].n == 0
    passes.at(15.0, s1=page(15.0, 350), c1=page(15.0, 100))
    assert passes.loads["weight"].hush == Hush(10.0, 15.0, 250)


def test_one_pod_s_silence_is_not_broken_by_another_s_answers() -> None:
    passes = Passes(stable="s1", canary="c1 c2")
    passes.since = {"weight": 10.0}
    for second in range(10, 15):
        n = 100 * (second - 9)
        passes.at(second, s1=page(second, n), c1=page(second, n // 10), c2=page(second, None))
    found = passes.loads["weight"]
    assert (found.hush.n, found.pods["c1"].n, found.pods["c2"]) == (0, 0, Hush(10.0, 14.0, 400))


def test_requests_are_due_once_stables_would_be_back() -> None:
    """A model that takes 8 s was rolled back 3 s after its weight, while stable completed older requests."""
    passes = Passes(stable="s1")
    passes.since, passes.lag = {"weight": 10.0}, Lag((4.0, 8.0), (0.1, 1.0))
    for second in range(10, 20):
        passes.at(second, s1=page(second, 100 * (second - 9)), c1=page(second, None))
    assert passes.loads["weight"].hush.n == 4 * 10 + 100  # windows that began 4 to 7 s, and 8 s after it
    assert passes.loads["weight"].shared == (100, 0)


def test_the_first_requests_of_a_canary_break_its_silence() -> None:
    passes = Passes(stable="s1")
    passes.since = {"weight": 10.0}
    passes.at(10.0, s1=page(10.0, 100), c1=page(10.0, None))
    passes.at(11.0, s1=page(11.0, 200), c1=page(11.0, None))
    assert passes.loads["weight"].hush.n == 100
    passes.at(12.0, s1=page(12.0, 300), c1=page(12.0, 3))
    assert (passes.loads["weight"].hush.n, passes.loads["weight"].canary) == (0, 3)


def test_pages_that_come_back_do_not_make_a_silence() -> None:
    passes = loaded()
    passes.at(40.0, s1=page(40.0, 5000), s2=page(40.0, 5000))  # the canary's page is half a second behind
    assert passes.loads["weight"].hush == Hush(10.0, 10.0)
    assert passes.loads["weight"].stable == 9800


def test_loads_survive_a_change_of_leader() -> None:
    passes = loaded()
    passes.at(11.0, s1=page(11.0, 150), c1=page(11.0, 110))
    passes.cursor = load(json.loads(json.dumps(save(passes.cursor))))
    passes.at(21.0, s1=page(21.0, 250), c1=page(21.0, 120))
    assert (passes.loads["weight"].stable, passes.loads["weight"].canary) == (150, 20)


def test_a_page_without_a_count_keeps_the_last_one() -> None:
    passes = loaded()
    passes.at(11.0, c1=replace(page(11.0, None), values={}))
    passes.at(12.0, c1=page(12.0, 130))
    assert passes.loads["weight"].canary == 30


def test_requests_count_once_although_a_pod_was_not_read_for_a_while() -> None:
    """Seed 5232: pages were away, a Prometheus answered first, and a step had its requests twice."""
    passes = loaded()
    passes.at(11.0, c1=page(11.0, 130))
    passes.pages.clear()
    passes.at(12.0)
    passes.at(13.0, c1=replace(page(13.0, None), values={}))
    passes.at(14.0, c1=page(14.0, 140))
    assert passes.loads["weight"].canary == 40


# -- checks that a Prometheus is asked for ---------------------------------------------------------


SLOW = Pace(interval=timedelta(seconds=15))


def asked(at: float, scraped: float, n: int) -> Reading:
    """A page read at `at` whose check `slow` Prometheus scraped at `scraped`."""
    return Reading(
        at=at,
        requests=Counts(int(at), 0),
        values={"slow": Counts(n, 0)},
        sources={"slow": "istio_requests_total"},
        times={"slow": scraped},
    )


def slow_passes(*rounds: Mapping[str, Reading]) -> list[Tick]:
    cursor, closed, pages = Cursor(), [], dict[str, Reading]()
    for second, page in enumerate(rounds):
        pages |= page
        cursor, ticks, _ = advance(
            cursor,
            pages,
            stable={"s1": "n1"},
            canary={"c1": "n2"},
            now=float(second),
            paces={"slow": SLOW},
        )
        closed += ticks
    return closed


def test_a_check_that_is_scraped_more_seldom_has_ticks_of_its_own() -> None:
    """Stable is scraped at 0, 15, 30 s, the canary at 10, 25, 40 s; the pages are read every second."""
    closed = slow_passes(
        *(
            {
                "s1": asked(second, second // 15 * 15.0, 100 * (second // 15)),
                "c1": asked(second, (second + 5) // 15 * 15.0 - 5, 10 * ((second + 5) // 15)),
            }
            for second in range(56)
        )
    )
    assert [told(tick) for tick in closed] == [{"s1": Counts(100, 0), "c1": Counts(10, 0)}] * 3
    assert [tick.began for tick in closed] == [-5.0, 10.0, 25.0]


def test_a_tick_says_since_when_it_counts() -> None:
    passes = begun()
    (tick,) = passes.at(11.0, **{name: page(11.0, 110, 1) for name in ("s1", "s2", "c1")})
    assert (tick.began, tick.stable.start) == (10.0, 10.0)


def test_what_another_source_has_not_read_yet_does_not_pass_for_not_being_there() -> None:
    unread = Reading(at=0.0, requests=Counts(0, 0), sources={"slow": ""})
    closed = slow_passes(
        {"s1": asked(0, 0.0, 0), "c1": unread},
        *({"s1": asked(second, second, 10 * second), "c1": unread} for second in range(1, 5)),
        {"s1": asked(5, 5.0, 50), "c1": asked(5, 5.0, 900)},
        {"s1": asked(6, 6.0, 60), "c1": asked(6, 6.0, 901)},
    )
    assert told(closed[-1]) == {"s1": Counts(10, 0), "c1": Counts(1, 0)}
    assert all("c1" not in told(tick) for tick in closed[:-1])
