"""Whatever pods, pages and passes do: nothing is counted twice, and what is left out is known."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.samples import Counts, Histogram, Statistic
from controller.cursors import load, save
from controller.ports import Reading
from controller.ticks import Cursor, Pace, Tick, advance

STABLE = ("s1", "s2", "s3")
CANARY = ("c1", "c2")
PODS = (*STABLE, *CANARY)
LE = (0.1, 0.5, 1.0)

requests = st.lists(st.integers(0, 9), min_size=4, max_size=4)  # by bucket; the last are errors as well


@dataclass(frozen=True)
class Turn:
    """What happens until the next pass."""

    after: float
    served: dict[str, list[int]]
    read: frozenset[str]
    flushed: frozenset[str] = frozenset(PODS)
    restarted: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    new_leader: bool = False


def some(names: tuple[str, ...]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(names), max_size=len(names))


served = st.fixed_dictionaries(dict.fromkeys(PODS, requests))
gaps = st.sampled_from([0.1, 0.5, 1.0, 1.0, 1.0, 2.0])
healthy = st.builds(Turn, after=gaps, served=served, read=st.just(frozenset(PODS)))
flaky = st.builds(Turn, after=gaps, served=served, read=some(PODS), new_leader=st.booleans())
latched = st.builds(Turn, after=gaps, served=served, read=st.just(frozenset(PODS)), flushed=some(PODS))
wild = st.builds(
    Turn,
    after=gaps | st.just(40.0),
    served=served,
    read=some(PODS),
    flushed=some(PODS),
    restarted=some(PODS),
    gone=some(PODS),
    new_leader=st.booleans(),
)
wilds = st.lists(wild, min_size=1, max_size=15)


@dataclass
class World:
    """Pods that serve, a page of each, and the passes of one run over them."""

    now: float = 0.0
    total: dict[str, list[int]] = field(default_factory=lambda: {name: [0] * 4 for name in PODS})
    flushed: dict[str, list[int]] = field(default_factory=lambda: {name: [0] * 4 for name in PODS})
    ever: Counter[str] = field(default_factory=Counter)
    pages: dict[str, Reading] = field(default_factory=dict)
    cursor: Cursor = field(default_factory=Cursor)
    ticks: list[Tick] = field(default_factory=list)
    loads: Any = None

    def page(self, name: str) -> Reading:
        count = Counts(sum(self.total[name]), self.total[name][-1])
        values = {"errors": count, "latency": Histogram(LE, tuple(self.flushed[name]))}
        return Reading(
            at=self.now, requests=count, values=values, sources={"errors": "istio_a", "latency": "istio_b"}
        )

    def take(self, turn: Turn) -> tuple[Tick, ...]:
        """The ticks of the pass after this turn."""
        self.now = round(self.now + turn.after, 3)
        for name in PODS:
            if name in turn.restarted:
                self.total[name], self.flushed[name] = [0] * 4, [0] * 4
            self.total[name] = [a + b for a, b in zip(self.total[name], turn.served[name], strict=True)]
            self.ever[name] += sum(turn.served[name])
            if name in turn.flushed:
                self.flushed[name] = list(self.total[name])
            if name in turn.read:
                self.pages[name] = self.page(name)
        if turn.new_leader:
            self.cursor = load(json.loads(json.dumps(save(self.cursor))))
        return self.look(turn)

    def look(self, turn: Turn) -> tuple[Tick, ...]:
        here = [name for name in PODS if name not in turn.gone]
        self.cursor, ticks, self.loads = advance(
            self.cursor,
            self.pages,
            stable={name: f"node-{name}" for name in here if name in STABLE},
            canary={name: f"node-{name}" for name in here if name in CANARY},
            now=self.now,
            since={"begin": 0.0},
        )
        self.ticks += ticks
        return ticks


def run(turns: list[Turn]) -> World:
    world = World()
    for turn in turns:
        world.take(turn)
    return world


def begun() -> World:
    """Every pod has been read once, before it served anything."""
    world = World()
    everybody = frozenset(PODS)
    world.take(Turn(after=0.5, served={name: [0] * 4 for name in PODS}, read=everybody))
    return world


def settle(world: World) -> None:
    """Quiet seconds in which everything is read, flushed and closed."""
    for _ in range(4):
        world.take(Turn(after=1.0, served={name: [0] * 4 for name in PODS}, read=frozenset(PODS)))


def counted(world: World, check: str) -> Counter[str]:
    """Everything that ticks of a check say of each pod."""
    values: Counter[str] = Counter(dict.fromkeys(PODS, 0))
    for name, value in _values(world, check):
        values[name] += value.n
    return values


def _values(world: World, check: str) -> Iterator[tuple[str, Statistic]]:
    for tick in world.ticks:
        if tick.check == check:
            yield from ((pod.name, pod.value) for pod in (*tick.stable.pods, *tick.canary.pods))


@given(st.lists(healthy, min_size=1, max_size=15))
def test_while_all_is_well_every_request_is_in_exactly_one_tick(turns: list[Turn]) -> None:
    world = begun()
    for turn in turns:
        assert {tick.check for tick in world.take(turn)} == {"errors", "latency"}
    for check in ("errors", "latency"):
        assert counted(world, check) == world.ever


@given(st.lists(latched, min_size=1, max_size=15))
def test_waiting_for_the_proxys_flush_loses_nothing(turns: list[Turn]) -> None:
    world = begun()
    for turn in turns:
        world.take(turn)
    settle(world)
    for check in ("errors", "latency"):
        assert counted(world, check) == world.ever


@settings(max_examples=300)
@given(wilds)
def test_nothing_is_ever_counted_twice(turns: list[Turn]) -> None:
    world = run(turns)
    for check in ("errors", "latency"):
        assert all(n <= world.ever[name] for name, n in counted(world, check).items())
        for _, value in _values(world, check):
            assert min(value.cells) >= 0


@given(wilds)
def test_ticks_of_a_check_follow_each_other_without_overlap(turns: list[Turn]) -> None:
    ticks = run(turns).ticks
    for check in ("errors", "latency"):
        end = -1.0
        for tick in ticks:
            if tick.check == check:
                assert end <= tick.stable.start < tick.stable.end
                assert (tick.stable.start, tick.stable.end) == (tick.canary.start, tick.canary.end)
                end = tick.stable.end


@given(wilds)
def test_a_tick_has_only_pods_that_are_there_each_in_its_arm_and_on_its_node(turns: list[Turn]) -> None:
    world = World()
    for turn in turns:
        for tick in world.take(turn):
            for sample, arm in ((tick.stable, STABLE), (tick.canary, CANARY)):
                names = [pod.name for pod in sample.pods]
                assert names == sorted(set(names))
                assert set(names) <= set(arm) - turn.gone
                assert all(pod.node == f"node-{pod.name}" for pod in sample.pods)


@given(st.lists(flaky, min_size=1, max_size=15))
def test_a_pod_is_only_left_out_when_it_was_away_for_long(turns: list[Turn]) -> None:
    world, read, away = begun(), dict.fromkeys(PODS, 0.5), dict.fromkeys(PODS, 0.0)
    for turn in turns:
        world.take(turn)
        for name in turn.read:
            away[name] = max(away[name], world.now - read[name])
            read[name] = world.now
    settle(world)
    away = {name: max(away[name], world.now - 3.0 - read[name]) for name in PODS}
    for name, n in counted(world, "errors").items():
        if away[name] + 1.0 <= Pace().stale:
            assert n == world.ever[name]


@given(wilds)
def test_a_cursor_is_the_same_after_it_was_saved(turns: list[Turn]) -> None:
    cursor = run(turns).cursor
    again = load(json.loads(json.dumps(save(cursor), allow_nan=False)))
    unread = {name: replace(tick, first=None) for name, tick in cursor.checks.items()}
    assert again == replace(cursor, checks=unread)
    assert load(save(again)) == again


@given(wilds)
def test_without_news_there_are_no_ticks_for_ever(turns: list[Turn]) -> None:
    world = run(turns)
    patience = turns[-1]
    world.now += 30.0
    world.look(patience)
    for _ in range(3):
        world.now += 30.0
        assert world.look(patience) == ()


@given(wilds, st.randoms(use_true_random=False))
def test_the_order_of_readings_does_not_matter(turns: list[Turn], chance: Any) -> None:
    one, other = World(), World()
    for turn in turns:
        names = list(other.pages.items())
        chance.shuffle(names)
        other.pages = dict(names)
        assert one.take(turn) == other.take(turn)
    assert one.cursor == other.cursor


@given(st.lists(healthy, min_size=1, max_size=10))
def test_loads_count_every_request_once(turns: list[Turn]) -> None:
    world = begun()
    for turn in turns:
        world.take(turn)
    found = world.loads["begin"]
    assert found.stable == sum(world.ever[name] for name in STABLE)
    assert found.canary == sum(world.ever[name] for name in CANARY)
    assert abs(found.stable_seconds - (world.now - 0.5) * len(STABLE)) < 1e-6


@given(wilds)
def test_loads_never_count_more_than_there_was(turns: list[Turn]) -> None:
    found = run(turns).loads["begin"]
    assert 0 <= found.hush.n + found.hush.missed <= found.stable
    assert all(0 <= one.n + one.missed <= found.stable for one in found.pods.values())
    assert found.stable_seconds >= 0
    assert found.hush.since >= 0
