import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from controller.kube import Kube
from controller.lease import Claim, Lease, Rewound, Stuck, hold
from controller.ports import Answer, Transport
from scenarios.cluster.messages import reply
from scenarios.cluster.refusals import Refused
from scenarios.virtual.loop import Process, virtual_loop
from scenarios.world import World

pytestmark = pytest.mark.virtual
PATH = "/apis/coordination.k8s.io/v1/namespaces/default/leases/serin"
WORST = 8.6  # seconds of a hand-over after a crash: 6/4/1


class Replica:
    """One candidate, and when its work ran at which epoch."""

    def __init__(self, world: World, name: str, *, transport: Transport | None = None, seed: int = 1) -> None:
        self.world = world
        self.kube = Kube(transport or world.transport(), chance=random.Random(f"{name} {seed}"))
        self.claim = Claim(namespace="default", name="serin", identity=name)
        self.spells: list[list[float]] = []
        self.epochs: list[int] = []
        self.changes: list[bool] = []
        self.task: asyncio.Task[None] | None = None

    def start(self, work: Callable[[int], Awaitable[None]] | None = None, floor: int = 0) -> "Replica":
        self.task = asyncio.create_task(
            hold(
                Lease(self.kube, self.claim, clock=virtual_loop().now, floor=lambda: floor),
                work or self.work,
                on_change=lambda _lease, *, now: self.changes.append(now),
            )
        )
        return self

    async def work(self, epoch: int) -> None:
        spell = [now()]
        self.epochs.append(epoch)
        self.spells.append(spell)
        try:
            await asyncio.Event().wait()
        finally:
            spell.append(now())

    @property
    def leads(self) -> bool:
        return bool(self.spells) and len(self.spells[-1]) == 1

    async def end(self) -> None:
        assert self.task is not None
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


class Severable:
    """A way to the API server that can hang for one replica only, or lose answers after they took effect."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.hangs = False
        self.loses_answers = False

    @asynccontextmanager
    async def request(
        self, method: str, path: str, *, query: Mapping, headers: Mapping, body: bytes | None
    ) -> AsyncIterator[Answer]:
        if self.hangs:
            await asyncio.Event().wait()
        async with self.inner.request(method, path, query=query, headers=headers, body=body) as answer:
            if self.loses_answers and method != "GET":
                raise ConnectionResetError("the answer is lost")
            yield answer


@dataclass(slots=True)
class Garbled:
    """A way to the API server on which something puts `new` in place of `old`, `count` times so far."""

    inner: Transport
    old: bytes
    new: bytes
    count: int = 0

    @asynccontextmanager
    async def request(self, *args: Any, **kwargs: Any) -> AsyncIterator[Answer]:
        async with self.inner.request(*args, **kwargs) as answer:
            body = await answer.read()
            self.count += self.old != self.new and self.old in body
            yield Whole(answer.status, answer.headers, body.replace(self.old, self.new))


@dataclass(slots=True)
class Whole:
    """An answer that is all there."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    async def read(self) -> bytes:
        return self.body

    async def lines(self) -> AsyncIterator[bytes]:
        for line in self.body.splitlines():
            yield line


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(clock=virtual_loop().now)
    yield world
    await world.close()


def lease(world: World) -> Any:
    return world.get("leases", "default", "serin")["spec"]


async def test_one_replica_works_and_the_others_stand_by(world: World) -> None:
    replicas = [Replica(world, name).start() for name in "abc"]
    await asyncio.sleep(600)
    assert [replica.leads for replica in replicas].count(True) == 1
    assert sum(len(replica.spells) for replica in replicas) == 1
    for replica in replicas:
        await replica.end()


async def test_the_lease_says_who_leads_in_the_types_that_kubernetes_wants(world: World) -> None:
    replica = Replica(world, "a").start()
    await asyncio.sleep(100)
    spec = lease(world)
    assert spec["holderIdentity"] == "a"
    assert spec["leaseDurationSeconds"] == 6
    assert isinstance(spec["leaseDurationSeconds"], int)  # a float made the library fail on its own lease
    assert spec["leaseTransitions"] == 1
    assert spec["acquireTime"] == "2026-01-01T00:00:00.000000Z"  # a whole second, and yet with microseconds
    assert spec["renewTime"].startswith("2026-01-01T00:01:")
    assert len(spec["renewTime"]) == len("2026-01-01T00:01:40.000000Z")
    await replica.end()


async def test_a_crashed_leader_is_succeeded_within_the_worst_case(world: World) -> None:
    for seed in range(10):
        leader = Replica(world, "a", seed=seed, transport=Severable(world.transport())).start()
        await asyncio.sleep(0.5)
        heir = Replica(world, "b", seed=seed).start()
        await asyncio.sleep(10 + seed / 7)
        assert leader.leads
        leader.kube.transport.hangs = True  # as far as anybody else can see, it is dead
        died = now()
        await asyncio.sleep(WORST)
        assert heir.leads
        assert heir.spells[0][0] - died <= WORST
        await heir.end()
        await leader.end()


async def test_a_leader_that_cannot_reach_the_api_stops_before_another_may_start(world: World) -> None:
    """The library kept leading 7 s into a lease of 4 s, and for ever when the connection broke."""
    for trouble in ("hangs", "loses_answers"):
        leader = Replica(world, "a", transport=Severable(world.transport())).start()
        await asyncio.sleep(0.5)
        heir = Replica(world, "b").start()
        await asyncio.sleep(10)
        setattr(leader.kube.transport, trouble, True)
        await asyncio.sleep(20)
        if trouble == "hangs":
            assert leader.spells[-1][1] < heir.spells[0][0]
        assert not (leader.leads and heir.leads)
        setattr(leader.kube.transport, trouble, False)
        await leader.end()
        await heir.end()


@pytest.mark.parametrize("fault", ["outage", "hang"])
async def test_work_is_cancelled_before_the_lease_can_lapse_and_comes_back_as_a_candidate(
    world: World, fault: str
) -> None:
    replica = Replica(world, "a").start()
    await asyncio.sleep(10)
    world.fault(fault, seconds=30)
    began = now()
    await asyncio.sleep(30)
    assert len(replica.spells) == 1
    assert 2.5 <= replica.spells[0][1] - began <= 4  # since the last renewal, up to 1.2 s before
    await asyncio.sleep(2.5)
    assert replica.leads  # again, in the same process
    assert replica.epochs == [1, 2]
    assert replica.changes == [True, False, True]
    await replica.end()


async def test_a_short_outage_interrupts_nothing(world: World) -> None:
    replica = Replica(world, "a").start()
    for _ in range(20):
        await asyncio.sleep(10)
        world.fault("outage", seconds=1.5)
    assert len(replica.spells) == 1
    assert replica.leads
    await replica.end()


async def test_a_slow_api_server_costs_nobody_the_lease(world: World) -> None:
    replica = Replica(world, "a").start()
    await asyncio.sleep(10)
    world.fault("slow", seconds=120)
    await asyncio.sleep(120)
    assert len(replica.spells) == 1
    await replica.end()


async def test_a_leader_whose_every_answer_takes_nearly_as_long_as_it_may_keeps_the_lease(
    world: World,
) -> None:
    world._latency = 1.9  # of 2 s
    leader = Replica(world, "a").start()
    await asyncio.sleep(300)
    assert leader.leads
    assert leader.epochs == [1]
    await leader.end()


async def test_conflicts_shorter_than_the_deadline_cost_nobody_the_lease(world: World) -> None:
    replica = Replica(world, "a").start()
    await asyncio.sleep(10)
    world.fault("conflict", seconds=2)
    await asyncio.sleep(60)
    assert len(replica.spells) == 1
    await replica.end()


async def test_a_renewal_whose_answer_was_lost_is_recognised_as_ours(world: World) -> None:
    replica = Replica(world, "a", transport=Severable(world.transport())).start()
    await asyncio.sleep(10)
    replica.kube.transport.loses_answers = True
    await asyncio.sleep(2)
    replica.kube.transport.loses_answers = False
    await asyncio.sleep(20)
    assert len(replica.spells) == 1
    await replica.end()


LASTING = {
    "a Role that names too few Leases: a shard would stay alone": ("GET", 403, "Forbidden"),
    "no such namespace": ("POST", 404, "NotFound"),
}


@pytest.mark.parametrize(("method", "status", "reason"), LASTING.values(), ids=LASTING.keys())
async def test_a_lease_that_cannot_be_had_for_long_is_said_once(
    world: World, method: str, status: int, reason: str
) -> None:
    answer = world.server.answer

    def denying(request: Any) -> Any:
        if "/leases" in request.path and request.method == method:
            return reply(status, Refused(status, reason, "it is not to be").status())
        return answer(request)

    world.server.answer = denying  # type: ignore[method-assign]
    with capture_logs() as logs:
        replica = Replica(world, "a").start()
        await asyncio.sleep(10)
    said = [line for line in logs if line["log_level"] == "warning"]
    assert [line["event"] for line in said] == ["lease_not_acquired"]
    assert f"{status} {reason}: it is not to be" in said[0]["error"]
    await replica.end()


async def test_somebodys_label_on_the_lease_is_no_reason_to_stop(world: World) -> None:
    replica = Replica(world, "a").start()
    for _ in range(10):
        await asyncio.sleep(3)
        world.patch("leases", "default", "serin", {"metadata": {"labels": {"at": str(int(now()))}}})
    assert len(replica.spells) == 1
    await replica.end()


async def test_a_label_on_a_dead_leaders_lease_does_not_prolong_it(world: World) -> None:
    world.create(held_by("gone"))
    heir = Replica(world, "b").start()
    for number in range(5):
        await asyncio.sleep(1.4)
        world.patch("leases", "default", "serin", {"metadata": {"labels": {"n": str(number)}}})
    await asyncio.sleep(1.6)
    assert heir.leads
    await heir.end()


def held_by(name: str, **spec: Any) -> Any:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": "default", "name": "serin"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 6} | spec,
    }


async def test_clocks_are_not_compared(world: World) -> None:
    """A holder whose clock is an hour behind is still the holder for as long as it renews."""
    world.create(held_by("b", renewTime="2025-12-31T23:00:00.000000Z", leaseTransitions=7))
    candidate = Replica(world, "a").start()
    for second in range(30):
        await asyncio.sleep(1)
        renewed = f"2025-12-31T23:00:{second:02d}.000000Z"
        world.patch("leases", "default", "serin", {"spec": {"renewTime": renewed}})
    assert not candidate.spells
    await asyncio.sleep(WORST)
    assert candidate.epochs == [8]
    await candidate.end()


async def test_a_clean_end_gives_the_lease_back_so_that_the_next_starts_at_once(world: World) -> None:
    leader = Replica(world, "a").start()
    await asyncio.sleep(0.5)
    heir = Replica(world, "b").start()
    await asyncio.sleep(20)
    await leader.end()
    ended = now()
    assert lease(world)["holderIdentity"] == ""
    assert lease(world)["leaseTransitions"] == 1
    await asyncio.sleep(1.3)
    assert heir.leads
    assert heir.spells[0][0] - ended <= 1.3
    assert heir.epochs == [2]
    await heir.end()


async def test_work_that_ends_by_itself_ends_the_holding(world: World) -> None:
    async def work(_epoch: int) -> None:
        await asyncio.sleep(30)

    replica = Replica(world, "a").start(work)
    await replica.task
    assert now() == 30
    assert lease(world)["holderIdentity"] == ""


async def test_a_crash_of_the_work_comes_out_and_frees_the_lease(world: World) -> None:
    """The library renewed the lease of a dead leader for ever."""

    async def work(_epoch: int) -> None:
        await asyncio.sleep(30)
        raise RuntimeError("boom")

    replica = Replica(world, "a").start(work)
    with pytest.raises(RuntimeError, match="boom"):
        await replica.task
    assert lease(world)["holderIdentity"] == ""
    assert replica.changes == [True, False]


async def test_a_crash_while_being_cancelled_comes_out_too(world: World) -> None:
    async def work(_epoch: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("boom")

    replica = Replica(world, "a").start(work)
    await asyncio.sleep(5)
    world.fault("outage", seconds=60)
    with pytest.raises(RuntimeError, match="boom"):
        await replica.task


async def test_work_that_does_not_stop_ends_the_process_before_the_lease_lapses(world: World) -> None:
    stubborn = []

    async def work(_epoch: int) -> None:
        stubborn.append(asyncio.current_task())
        while stubborn:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    replica = Replica(world, "a").start(work)
    await asyncio.sleep(10)
    world.fault("hang", seconds=60)
    with pytest.raises(Stuck, match="still runs"):
        await replica.task
    assert now() <= 10 + 6
    task = stubborn.pop()
    task.cancel()
    await task


async def test_somebody_who_took_the_lease_by_force_has_it(world: World) -> None:
    replica = Replica(world, "a").start()
    await asyncio.sleep(10)
    world.patch("leases", "default", "serin", {"spec": {"holderIdentity": "b", "leaseTransitions": 2}})
    await asyncio.sleep(1.3)
    assert len(replica.spells[0]) == 2  # it has stopped
    await asyncio.sleep(10)
    assert replica.epochs == [1, 3]
    await replica.end()


async def test_a_deleted_lease_is_made_again_by_its_holder(world: World) -> None:
    leader = Replica(world, "a").start()
    await asyncio.sleep(0.5)
    standby = Replica(world, "b").start()
    await asyncio.sleep(20)
    world.delete("leases", "default", "serin")
    await asyncio.sleep(20)
    assert (leader.epochs, standby.epochs) == ([1], [])
    assert lease(world)["leaseTransitions"] == 1
    await leader.end()
    await standby.end()


async def test_epochs_grow_beyond_what_runs_remember_even_if_the_lease_was_deleted(world: World) -> None:
    replica = Replica(world, "a").start(floor=41)
    await asyncio.sleep(1)
    assert replica.epochs == [42]
    await replica.end()


@pytest.mark.parametrize("last", [2**31 - 1, 2**31 - 2])
async def test_a_lease_whose_count_somebody_set_to_its_end_can_be_had_again_and_again(
    world: World, last: int
) -> None:
    """The next epoch had 33 bits, which the API server refuses: nobody led any more."""
    gone = held_by("gone")
    gone["spec"]["leaseTransitions"] = last
    world.create(gone)
    for _ in range(3):
        replica = Replica(world, "a").start(floor=41)
        await asyncio.sleep(20)
        assert replica.leads
        await replica.end()


async def test_a_holder_that_is_gone_keeps_the_lease_no_longer_than_a_minute_whatever_it_says(
    world: World,
) -> None:
    """With 68 years of somebody's edit nobody led, and nothing said so."""
    gone = held_by("gone")
    gone["spec"]["leaseDurationSeconds"] = 2**31 - 1
    world.create(gone)
    replica = Replica(world, "a").start()
    await asyncio.sleep(59)
    assert not replica.leads
    await asyncio.sleep(4)
    assert replica.leads
    await replica.end()


@pytest.mark.parametrize("leads", [True, False])
async def test_after_a_restore_of_the_api_server_a_replica_begins_anew(world: World, *, leads: bool) -> None:
    """What it had followed was silent until the server had counted on from there, which took hours."""
    if not leads:
        world.create(held_by("other"))
        keeps = Replica(world, "other").start()
    garbled = Garbled(world.transport(), b"", b"")
    replica = Replica(world, "a", transport=garbled).start()
    await asyncio.sleep(20)
    assert replica.leads is leads
    version = world.get("leases", "default", "serin")["metadata"]["resourceVersion"]
    garbled.old = b'"resourceVersion":"' + version[:1].encode()
    garbled.new = b'"resourceVersion":"'
    await asyncio.sleep(3)
    assert replica.task is not None
    assert replica.task.done()
    assert isinstance(replica.task.exception(), Rewound)
    assert not replica.leads
    if not leads:
        await keeps.end()


async def test_a_lease_without_a_spec_is_nobodys(world: World) -> None:
    world.create({key: value for key, value in held_by("x").items() if key != "spec"})
    replica = Replica(world, "a").start()
    await asyncio.sleep(1)
    assert replica.leads
    await replica.end()


async def test_a_number_that_no_lease_has_is_an_answer_that_cannot_be_read(world: World) -> None:
    world.create(held_by("gone"))
    garbled = Garbled(world.transport(), b'"leaseDurationSeconds":6', b'"leaseDurationSeconds":' + b"6" * 400)
    replica = Replica(world, "a", transport=garbled).start()
    await asyncio.sleep(20)
    assert garbled.count > 2
    assert not replica.spells
    garbled.old = garbled.new
    await asyncio.sleep(WORST)
    assert replica.leads
    await replica.end()


@pytest.mark.parametrize(
    "wrong",
    [
        {"duration": timedelta(seconds=4)},
        {"deadline": timedelta(seconds=1)},
        {"duration": timedelta(seconds=6.5)},
    ],
)
async def test_a_claim_that_could_not_be_safe_is_refused(wrong: Mapping[str, timedelta]) -> None:
    with pytest.raises(ValueError, match="Lease serin: "):
        Claim(namespace="default", name="serin", identity="a", **wrong)


async def test_nothing_is_written_by_a_replica_that_stands_by(world: World) -> None:
    world.create(held_by("b"))
    before = world.get("leases", "default", "serin")
    replica = Replica(world, "a").start()
    await asyncio.sleep(5.5)
    assert world.get("leases", "default", "serin") == before
    await replica.end()


async def test_candidates_for_a_free_lease_do_not_both_lead(world: World) -> None:
    for seed in range(20):
        replicas = [Replica(world, name, seed=seed).start() for name in "abcde"]
        await asyncio.sleep(3)
        assert [replica.leads for replica in replicas].count(True) == 1
        for replica in replicas:
            await replica.end()


async def test_a_frozen_leader_that_thaws_stops_as_soon_as_it_runs_again(world: World) -> None:
    """SIGSTOP, or a machine that swaps: its clock went on, its Lease is another's."""
    frozen, process = Replica(world, "a"), Process("a")
    life = process.start(held(frozen))
    await asyncio.sleep(0.5)
    heir = Replica(world, "b").start()
    await asyncio.sleep(10)
    assert frozen.leads
    process.freeze()
    await asyncio.sleep(30)
    assert heir.leads
    process.thaw()
    await asyncio.sleep(0.01)
    assert not frozen.leads
    assert heir.leads
    await asyncio.sleep(60)
    assert (frozen.epochs, heir.epochs) == ([1], [2])
    await heir.end()
    life.cancel()
    await asyncio.wait((life,))


async def test_a_leader_that_is_frozen_again_while_its_work_ends_is_not_stuck(world: World) -> None:
    async def work(_epoch: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(9):  # as whoever closes readers and loops, one after the other
                await asyncio.sleep(0)

    frozen, process = Replica(world, "a"), Process("a")

    async def life() -> None:
        frozen.start(work)
        await frozen.task

    living = process.start(life())
    await asyncio.sleep(10)
    process.freeze()
    await asyncio.sleep(30)
    process.thaw()
    for _ in range(6):
        await asyncio.sleep(0)
    process.freeze()
    await asyncio.sleep(10)
    process.thaw()
    await asyncio.sleep(2)
    assert not living.done()
    living.cancel()
    await asyncio.wait((living,))


async def held(replica: Replica) -> None:
    replica.start()
    await replica.task


async def test_a_killed_leader_is_succeeded_and_its_epoch_is_over(world: World) -> None:
    process, victim = Process("a"), Replica(world, "a")
    process.start(held(victim))
    await asyncio.sleep(0.5)
    heir = Replica(world, "b").start()
    await asyncio.sleep(10)
    process.kill()
    await asyncio.sleep(WORST)
    assert (victim.epochs, heir.epochs) == ([1], [2])
    await heir.end()
    await process.bury()


async def test_two_replicas_of_one_name_do_not_both_lead(world: World) -> None:
    replicas = [Replica(world, "a", seed=seed).start() for seed in (1, 2)]
    await asyncio.sleep(600)
    assert [replica.leads for replica in replicas].count(True) == 1
    assert sum(len(replica.spells) for replica in replicas) <= 2  # not in turn either
    for replica in replicas:
        await replica.end()


async def test_a_lease_whose_taking_was_not_answered_is_ours(world: World) -> None:
    replica = Replica(world, "a", transport=Severable(world.transport()))
    replica.kube.transport.loses_answers = True
    replica.start()
    await asyncio.sleep(1.9)
    assert lease(world)["holderIdentity"] == "a"
    assert not replica.leads
    replica.kube.transport.loses_answers = False
    await asyncio.sleep(2)
    assert replica.leads
    await replica.end()


@pytest.mark.parametrize("seed", range(10))
async def test_the_deadline_is_kept_to_the_moment(world: World, seed: int) -> None:
    replica = Replica(world, "a", seed=seed).start()
    await asyncio.sleep(10 + seed / 3)
    renewed = datetime.fromisoformat(lease(world)["renewTime"]) - virtual_loop().now()
    began = now() + renewed.total_seconds()
    world.fault("outage", seconds=30)
    await asyncio.sleep(6)
    assert replica.spells[0][1] == pytest.approx(began + 4, abs=1e-3)
    await replica.end()
