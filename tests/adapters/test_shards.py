"""Shards over replicas: each is worked on by one, all have about as many, and all count them alike."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from controller.kube import Kube
from controller.lease import Claim
from controller.settings import MOST_SHARDS
from controller.shards import PATIENCE, SHARDS, WANTED, Shards, lease_names, shard_of
from scenarios.virtual.loop import Process, virtual_loop
from scenarios.world import World

pytestmark = pytest.mark.virtual
WORST = 12.0  # seconds from a replica's death until each of its shards is worked on
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases/"


class Witness:
    """Which shards of how many are worked on, by whom; complains when a Deployment has two who do."""

    def __init__(self) -> None:
        self.at_work: dict[str, set[tuple[int, int]]] = {}  # replica -> (shard, of)
        self.epochs: list[tuple[int, int, int]] = []  # (of, shard, epoch), as work began
        self.moves = 0
        self.dead: set[str] = set()

    def begins(self, who: str, shard: int, of: int, epoch: int) -> None:
        for other, at_work in self.at_work.items():
            for theirs, theirs_of in at_work - {(shard, of)} if other == who else at_work:
                twice = other not in self.dead and (of != theirs_of or shard == theirs)
                assert not twice, f"{who} works on {shard} of {of}, {other} on {theirs} of {theirs_of}"
        self.at_work.setdefault(who, set()).add((shard, of))
        self.epochs.append((of, shard, epoch))
        self.moves += 1

    def ends(self, who: str, shard: int, of: int) -> None:
        self.at_work[who].discard((shard, of))

    def counts(self) -> list[int]:
        """How many each living replica works on, fewest first."""
        return sorted(len(held) for who, held in self.at_work.items() if who not in self.dead)

    def covered(self, of: int) -> bool:
        """Whether each shard of so many is worked on by the living."""
        living = [held for who, held in self.at_work.items() if who not in self.dead]
        return set().union(*living) == {(shard, of) for shard in range(of)}


def _unheard(_lease: str, *, now: bool) -> None:
    del now


class Replica:
    """One replica that does nothing with its shards."""

    def __init__(self, world: World, witness: Witness, name: str, *, shards: int, seed: int = 1) -> None:
        self.name, self.shards, self.witness, self.world = name, shards, witness, world
        self.kube = Kube(world.transport(), chance=random.Random(f"{name} {seed}"))
        self.process = Process(name)
        witness.at_work[name] = set()
        self.life = self.process.start(self._live())

    async def _live(self) -> None:
        claim = Claim(namespace="default", name="serin", identity=self.name)
        clock = virtual_loop().now
        shards = Shards(self.kube, claim, self.shards, clock=clock, floor=lambda: 0)
        with suppress(asyncio.CancelledError):
            await shards.hold(self._work, on_change=_unheard)

    async def _work(self, shard: int, epoch: int, let_go: asyncio.Event) -> None:
        self.witness.begins(self.name, shard, self.shards, epoch)
        try:
            await let_go.wait()
            await asyncio.sleep(0.5)  # last turns
        finally:
            self.witness.ends(self.name, shard, self.shards)

    def kill(self) -> None:
        self.process.kill()
        self.witness.dead.add(self.name)

    async def end(self) -> None:
        """As on SIGTERM."""
        tasks = list(self.process.tasks)
        self.life.cancel()
        await asyncio.wait(tasks)
        self.witness.dead.add(self.name)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(clock=virtual_loop().now, latency=0.005)
    yield world
    await world.close()


@pytest.fixture
def witness() -> Witness:
    return Witness()


async def buried(*replicas: Replica) -> None:
    for replica in replicas:
        replica.process.kill()
        await replica.process.bury()


def started(world: World, witness: Witness, names: str, *, shards: int, seed: int = 1) -> list[Replica]:
    return [Replica(world, witness, name, shards=shards, seed=seed) for name in names]


def leases(world: World) -> dict[str, Any]:
    return {lease["metadata"]["name"]: lease for lease in world.objects("leases", "default")}


def test_a_deployment_belongs_to_one_shard_everywhere_and_for_ever() -> None:
    assert [shard_of(("lab", f"model-{number}"), 4) for number in range(6)] == [0, 2, 0, 2, 1, 3]
    assert {shard_of(("lab", f"model-{number}"), 1) for number in range(50)} == {0}


@pytest.mark.parametrize("shards", [2, 3, 4, 8, 16])
def test_deployments_spread_evenly(shards: int) -> None:
    counts = Counter(shard_of((f"team-{one % 7}", f"model-{one}-canary"), shards) for one in range(1000))
    assert len(counts) == shards
    assert max(counts.values()) <= 1.25 * 1000 / shards


def test_the_first_lease_is_the_only_one_where_there_is_one() -> None:
    assert lease_names("serin-controller", 1) == ["serin-controller"]
    assert lease_names("serin-controller", 3) == [
        "serin-controller",
        "serin-controller-1",
        "serin-controller-2",
    ]


async def test_one_shard_is_one_lease_as_it_was_before_there_were_shards(
    world: World, witness: Witness
) -> None:
    asked: list[str] = []
    answer = world.server.answer

    def listening(request: Any) -> Any:
        asked.append(f"{request.method} {request.path}")
        return answer(request)

    world.server.answer = listening  # type: ignore[method-assign]
    replicas = started(world, witness, "ab", shards=1)
    await asyncio.sleep(60)
    assert witness.counts() == [0, 1]
    (lease,) = leases(world).values()
    assert lease["spec"]["holderIdentity"] in {"a", "b"}
    assert "annotations" not in lease["metadata"]
    assert {line.removesuffix("/serin") for line in asked} == {
        f"{method} {LEASES.removesuffix('/')}" for method in ("GET", "POST", "PUT")
    }
    await buried(*replicas)


@pytest.mark.parametrize(
    ("names", "shards", "counts"),
    [("ab", 4, [2, 2]), ("abc", 5, [1, 2, 2]), ("abcd", 3, [0, 1, 1, 1])],
)
async def test_shards_spread_over_the_replicas(
    world: World, witness: Witness, names: str, shards: int, counts: list[int]
) -> None:
    replicas = started(world, witness, names, shards=shards)
    await asyncio.sleep(5)
    assert witness.covered(shards)
    await asyncio.sleep(30)
    assert witness.counts() == counts
    held = leases(world)
    assert sorted(held) == sorted(lease_names("serin", shards))
    assert held["serin"]["metadata"]["annotations"] == {SHARDS: str(shards)}
    assert held["serin-1"]["spec"]["holderIdentity"][1:] == f"; {shards} shards"
    moves = witness.moves
    await asyncio.sleep(60)
    assert witness.moves == moves  # nothing moves without a reason
    await buried(*replicas)


@pytest.mark.parametrize("seed", range(4))
async def test_a_dead_replicas_shards_are_taken_over_in_time_and_evenly(
    world: World, witness: Witness, seed: int
) -> None:
    replicas = started(world, witness, "abc", shards=6, seed=seed)
    await asyncio.sleep(40 + seed / 7)
    assert witness.counts() == [2, 2, 2]
    replicas[seed % 3].kill()
    await asyncio.sleep(WORST)
    assert witness.covered(6)
    assert witness.counts() == [3, 3]
    await buried(*replicas)


async def test_the_last_replica_takes_over_everything_in_time(world: World, witness: Witness) -> None:
    for seed in range(3):
        replicas = started(world, witness, "ab", shards=4, seed=seed)
        await asyncio.sleep(30 + seed / 7)
        assert witness.counts()[-1] < 4
        replicas[seed % 2].kill()
        await asyncio.sleep(WORST)
        assert witness.counts() == [4]
        await buried(*replicas)
        witness.dead.clear()
        await asyncio.sleep(10)


async def test_a_newcomer_is_given_its_part_one_by_one_and_nothing_flaps(
    world: World, witness: Witness
) -> None:
    replicas = started(world, witness, "a", shards=4)
    await asyncio.sleep(60)
    assert witness.moves == 4
    replicas += started(world, witness, "b", shards=4)
    await asyncio.sleep(PATIENCE - 1)
    assert witness.counts() == [0, 4]
    await asyncio.sleep(5)
    assert witness.counts() == [1, 3]
    await asyncio.sleep(PATIENCE + 2)
    assert witness.counts() == [2, 2]
    await asyncio.sleep(60)
    assert witness.moves == 4 + 2
    assert not any(WANTED in lease["metadata"].get("annotations", {}) for lease in leases(world).values())
    await buried(*replicas)


async def test_a_replica_that_keeps_dying_young_is_given_nothing(world: World, witness: Witness) -> None:
    replicas = started(world, witness, "a", shards=4)
    await asyncio.sleep(60)
    for _ in range(5):
        await asyncio.sleep(2)
        (young,) = started(world, witness, "b", shards=4)
        await asyncio.sleep(PATIENCE - 2)
        await buried(young)
    assert witness.moves == 4
    await buried(*replicas)


async def test_nobody_gives_to_one_who_has_as_many(world: World, witness: Witness) -> None:
    """An ask that came late, or that somebody wrote by hand."""
    replicas = started(world, witness, "ab", shards=4)
    await asyncio.sleep(60)
    moves = witness.moves
    for name, lease in leases(world).items():
        other = {"a": "b", "b": "a"}[lease["spec"]["holderIdentity"][0]]
        asked = {"metadata": {"annotations": {WANTED: f"{other}; 4 shards"}}}
        world.patch("leases", "default", name, asked)
    await asyncio.sleep(5)
    assert witness.moves == moves
    assert not any(WANTED in lease["metadata"].get("annotations", {}) for lease in leases(world).values())
    await buried(*replicas)


async def test_a_rolling_update_leaves_nothing_alone_and_ends_even(world: World, witness: Witness) -> None:
    replicas = started(world, witness, "ab", shards=4)
    await asyncio.sleep(60)
    for old, new in (("a", "c"), ("b", "d")):
        replicas += started(world, witness, new, shards=4)
        await asyncio.sleep(10)
        leaving = next(one for one in replicas if one.name == old)
        await leaving.end()
        await asyncio.sleep(3)
        assert witness.covered(4)
    await asyncio.sleep(60)
    assert witness.counts() == [2, 2]
    await buried(*replicas)


async def test_losing_one_lease_stops_that_shards_work_only(world: World, witness: Witness) -> None:
    replicas = started(world, witness, "a", shards=3)
    await asyncio.sleep(30)
    world.patch("leases", "default", "serin-1", {"spec": {"holderIdentity": "x", "leaseTransitions": 9}})
    await asyncio.sleep(1.5)
    assert witness.at_work["a"] == {(0, 3), (2, 3)}
    await asyncio.sleep(12)
    assert witness.covered(3)
    assert witness.epochs[-1] == (3, 1, 10)
    assert witness.moves == 4
    await buried(*replicas)


CHANGES: Sequence[tuple[int, int]] = ((1, 4), (4, 1), (2, 4), (3, 2))


@pytest.mark.parametrize(("before", "after"), CHANGES)
@pytest.mark.parametrize("seed", range(2))
async def test_a_rolling_update_to_another_number_never_has_two_at_work(
    world: World, witness: Witness, before: int, after: int, seed: int
) -> None:
    """The witness complains."""
    replicas = started(world, witness, "ab", shards=before, seed=seed)
    await asyncio.sleep(40 + seed / 3)
    for old, new in (("a", "c"), ("b", "d")):
        replicas += started(world, witness, new, shards=after, seed=seed)
        await asyncio.sleep(10)
        leaving = next(one for one in replicas if one.name == old)
        await leaving.end()
        await asyncio.sleep(6)
        assert witness.covered(before) or witness.covered(after)
    await asyncio.sleep(90)
    assert witness.covered(after)
    assert max(witness.counts()) - min(witness.counts()) <= 1
    told = leases(world)["serin"]["metadata"].get("annotations", {}).get(SHARDS)
    assert told == (None if after == 1 else str(after))
    await buried(*replicas)


@pytest.mark.parametrize(("before", "after"), CHANGES)
async def test_a_new_numbers_epochs_are_above_all_old_ones(
    world: World, witness: Witness, before: int, after: int
) -> None:
    """A run remembers who wrote it last, whichever Lease that held."""
    replicas = started(world, witness, "a", shards=before)
    await asyncio.sleep(20)
    name = lease_names("serin", before)[-1]
    spec = {"holderIdentity": "x", "leaseTransitions": 70, "leaseDurationSeconds": 1}
    world.patch("leases", "default", name, {"spec": spec})
    await asyncio.sleep(20)
    highest = max(epoch for _, _, epoch in witness.epochs)
    assert highest == 71
    await replicas[0].end()
    replicas += started(world, witness, "b", shards=after)
    await asyncio.sleep(20)
    assert witness.covered(after)
    assert min(epoch for of, _, epoch in witness.epochs if of == after) > 71
    await buried(*replicas)


@pytest.mark.parametrize(("before", "after"), CHANGES)
async def test_a_number_that_died_with_its_replicas_is_waited_for(
    world: World, witness: Witness, before: int, after: int
) -> None:
    replicas = started(world, witness, "ab", shards=before)
    await asyncio.sleep(40)
    replicas += started(world, witness, "cd", shards=after)
    await asyncio.sleep(10.3)
    for old in replicas[:2]:
        old.kill()
    await asyncio.sleep(WORST)
    assert witness.covered(after)
    await buried(*replicas)


async def test_whoever_counts_otherwise_stands_by(world: World, witness: Witness) -> None:
    replicas = started(world, witness, "ab", shards=4)
    await asyncio.sleep(30)
    moves = witness.moves
    replicas += started(world, witness, "cd", shards=1) + started(world, witness, "ef", shards=2)
    await asyncio.sleep(60)
    assert witness.covered(4)
    assert witness.moves == moves
    await buried(*replicas)


@pytest.mark.parametrize("seed", range(8))
async def test_many_that_count_differently_and_die_never_work_on_the_same(
    world: World, witness: Witness, seed: int
) -> None:
    """The witness complains."""
    chance = random.Random(f"numbers {seed}")
    replicas: dict[str, Replica] = {}
    for number in range(30):
        await asyncio.sleep(chance.uniform(0.2, 9))
        if len(replicas) < 4:
            name = f"{number}"
            of = chance.choice([1, 2, 4])
            replicas[name] = Replica(world, witness, name, shards=of, seed=seed)
        elif chance.random() < 0.5:
            world.fault(chance.choice(["outage", "hang", "conflict", "slow"]), seconds=chance.uniform(0.5, 8))
        else:
            gone = replicas.pop(chance.choice(list(replicas)))
            if chance.random() < 0.5:
                await gone.end()
            gone.kill()
            await gone.process.bury()
    await asyncio.sleep(60)
    (of,) = {replica.shards for name, replica in replicas.items() if witness.at_work[name]}
    assert witness.covered(of)
    await buried(*replicas.values())


@pytest.mark.parametrize(
    ("number", "holder"), [("99999", ""), ("9" * 5000, ""), ("2", f"gone; {'9' * 5000} shards")]
)
async def test_a_number_written_by_hand_is_no_reason_to_look_at_thousands(
    world: World, witness: Witness, number: str, holder: str
) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": "default", "name": "serin", "annotations": {SHARDS: number}},
        "spec": {"holderIdentity": holder},
    }
    world.create(lease)
    replicas = started(world, witness, "a", shards=2)
    await asyncio.sleep(30)
    assert witness.covered(2)
    assert len(leases(world)) == 2 <= MOST_SHARDS
    await buried(*replicas)
