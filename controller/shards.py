"""Canaries split over replicas: each shard has a Lease of its own, and replicas hold about as many each.

A Deployment belongs to one shard for ever, as long as there are as many: see `shard_of`. Whoever holds
fewest takes what is free, and asks for one of those of a replica that holds two more than it does. The
asked one ends its work in good order and gives the Lease back; nobody is ever told what to do.

*How many shards there are* is one decision, and the first Lease is where it is made. It is annotated with
the number. Whoever takes it and counts otherwise first waits until none of the other Leases is held, and
writes its number before it works; whoever takes another Lease looks at the first one afterwards, before it
works. So of two that count differently at least one sees the other. A run remembers the epoch of whoever
wrote it last, and every epoch is above all that were seen in any of the Leases.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from math import inf
from zlib import crc32

import structlog

from controller.cluster import Key
from controller.kube import ApiError, Kube
from controller.lease import AWAY, Claim, Lease, OnChange, hold
from controller.settings import MOST_SHARDS

# Seconds that a free Lease is left to those who hold fewer, for each shard that we hold more (but for no more
# than two). They look once a second, a fifth more or less, and know as much later that it is free.
LATER = 2.0
# Seconds after its start in which a replica expects others that hold nothing yet.
YOUNG = 5.0
# Seconds that shards must have been uneven before one is asked for. A restart or a rolling update evens
# them out by itself, and a replica that cannot live for so long shall not be given any.
PATIENCE = 20.0
SHARDS = "serin.dev/shards"  # on the first Lease: how many there are; absent: one
WANTED = "serin.dev/wanted-by"  # on a Lease: who asks its holder for it

_COUNTED = re.compile(r".*; ([0-9]{1,9}) shards")
_NUMBER = re.compile(r"[0-9]{1,9}")  # somebody's hand may have written more than Python reads
Work = Callable[[int, int, asyncio.Event], Awaitable[None]]
_log = structlog.get_logger(__name__)


def shard_of(key: Key, shards: int) -> int:
    """The shard that a Deployment (namespace, name) belongs to: 0 to `shards` - 1, the same everywhere."""
    return crc32("/".join(key).encode()) % shards


def lease_names(name: str, shards: int) -> list[str]:
    """The shards' Leases; the first one's name is that of the only one."""
    return [name if shard == 0 else f"{name}-{shard}" for shard in range(shards)]


class Shards:
    """The Leases of all shards, and by which rules we take them; `lease.Rules`."""

    def __init__(
        self,
        kube: Kube,
        only: Claim,
        shards: int,
        *,
        clock: Callable[[], datetime],
        floor: Callable[[], int],
    ) -> None:
        """`only` is what is claimed if there is one shard; `floor` as of a `Lease`."""
        self._identity = only.identity if shards == 1 else f"{only.identity}; {shards} shards"
        self._floor = floor
        self._began = _now()
        self._leases = [
            Lease(
                kube,
                replace(only, name=name, identity=self._identity),
                clock=clock,
                floor=self._highest,
                rules=self,
            )
            for name in lease_names(only.name, shards)
        ]
        if shards > 1:
            for lease in self._leases:
                lease.notes[WANTED] = None  # an ask is answered once
        self._beyond = [  # of those who count more shards: only looked at
            Lease(kube, replace(only, name=name), clock=clock)
            for name in lease_names(only.name, MOST_SHARDS)[shards:]
        ]

    async def hold(self, work: Work, *, on_change: OnChange) -> None:
        """For ever, `work(shard, epoch, let_go)` runs while we hold the shard's Lease.

        Once `let_go` is set it is to end in good order and soon; its exceptions come out here.
        """
        async with asyncio.TaskGroup() as group:
            for shard, lease in enumerate(self._leases):
                holding = hold(lease, partial(self._work, shard, work), on_change=on_change)
                group.create_task(holding, name=f"shard {shard}")
            group.create_task(self._even_out(), name="even out")

    async def _work(self, shard: int, work: Work, epoch: int) -> None:
        lease = self._leases[shard]
        try:
            if await (self._confirmed() if shard else self._decided(epoch)):
                await work(shard, epoch, lease.let_go)
            else:
                lease.let_go.set()
        finally:
            lease.notes.pop(SHARDS, None)

    # -- how many there are ------------------------------------------------------------------------

    @property
    def _first(self) -> Lease:
        return self._leases[0]

    def _in_force(self) -> int:
        """How many shards there are, by whoever was the last to have decided it."""
        said = self._first.annotations.get(SHARDS, "1")
        return min(max(int(said), 1), MOST_SHARDS) if _NUMBER.fullmatch(said) else 1

    def _at_odds(self) -> bool:
        """Whether the first Lease's holder counts otherwise than we do."""
        return bool(self._first.holder) and _counted(self._first.holder) != len(self._leases)

    def _agreed(self) -> bool:
        return self._in_force() == len(self._leases) and not self._at_odds()

    async def _confirmed(self) -> bool:
        """Whether it is still agreed how many shards there are, now that one of them is ours."""
        while True:
            with contextlib.suppress(ApiError):
                await self._first.look()
                return self._agreed()
            await asyncio.sleep(AWAY)

    async def _decided(self, epoch: int) -> bool:
        """Whether there are as many shards as we say; False: the first Lease has to be taken again."""
        before, ours = self._in_force(), len(self._leases)
        if before == ours:
            return True
        _log.info("shards_change", before=before, now=ours)
        while held := await self._held(before):
            _log.info("shards_awaited", leases=held, before=before, now=ours)
            await asyncio.sleep(AWAY)
        if self._highest() > epoch:
            return False  # somebody had a Lease under a newer epoch: ours has to be the newest
        self._first.notes[SHARDS] = None if ours == 1 else str(ours)
        while self._in_force() != ours:
            with contextlib.suppress(ApiError, TimeoutError):
                if not await self._first.renew():
                    return False
                continue
            await asyncio.sleep(AWAY)
        return True

    async def _held(self, shards: int) -> list[str]:
        """Which of so many Leases, but for the first, are held, or may be for all we know."""
        held = []
        for lease in [*self._leases, *self._beyond][1:shards]:
            try:
                await lease.look()
            except ApiError as error:
                _log.warning("lease_not_read", lease=lease.claim.name, error=str(error))
                held.append(lease.claim.name)
            else:
                held += [] if lease.free() else [lease.claim.name]
        return held

    def _highest(self) -> int:
        """The newest epoch that anything tells of."""
        return max(self._floor(), *(lease.highest for lease in [*self._leases, *self._beyond]))

    # -- who has which -----------------------------------------------------------------------------

    def wait(self, lease: Lease) -> float:
        """Seconds for which we leave it to those who hold fewer; infinite until there is such a shard."""
        if lease is not self._first and not self._agreed():
            return inf
        ours = sum(not one.lost or one.taking for one in self._leases)
        nobody = 0 if _now() - self._began < YOUNG else ours
        least = min(self._others().values(), default=nobody)
        return LATER * (2 if lease.let_go.is_set() else min(max(ours - least, 0), 2))

    def noticed(self, lease: Lease) -> None:
        """What the Lease says may be a reason to let one of ours go."""
        if lease.lost and lease.holder:
            lease.let_go.clear()  # whom it was for has it
        ours = [one for one in self._leases if not one.lost]
        if lease is self._first and self._at_odds():
            for one in ours:
                self._let_go(one, why=f"{lease.holder} counts otherwise")
        by = lease.annotations.get(WANTED)
        one_at_a_time = not any(one.let_go.is_set() for one in ours)
        if by and lease in ours and one_at_a_time and len(ours) >= self._others()[by] + 2:
            self._let_go(lease, why=f"{by} has fewer")

    def _let_go(self, lease: Lease, *, why: str) -> None:
        if not lease.let_go.is_set():
            _log.info("shard_let_go", lease=lease.claim.name, why=why)
            lease.let_go.set()

    def _others(self) -> Counter[str]:
        """How many shards each other replica holds, as far as we know."""
        return Counter(one.holder for one in self._leases if one.lost and not one.free())

    async def _even_out(self) -> None:
        uneven: float | None = None  # since when
        while True:
            await asyncio.sleep(1)
            for lease in self._beyond[: max(0, self._in_force() - len(self._leases))]:
                with contextlib.suppress(ApiError):
                    await lease.look()  # whoever decides otherwise has to know whether it is still held
            lease_wanted = self._too_many()
            uneven = None if lease_wanted is None else uneven or _now()
            if lease_wanted is not None and uneven is not None and _now() - uneven >= PATIENCE:
                with contextlib.suppress(ApiError):  # its holder renewed it just then
                    await lease_wanted.ask({WANTED: self._identity})
                    uneven = None

    def _too_many(self) -> Lease | None:
        """A Lease of the replica that holds most, if that is two more than we hold."""
        who, most = next(iter(self._others().most_common(1)), ("", 0))
        ours = sum(not one.lost or one.taking for one in self._leases)
        if not self._agreed() or most < ours + 2:
            return None
        return next(one for one in reversed(self._leases) if one.lost and one.holder == who)


def _counted(holder: str) -> int:
    """How many shards the holder of a Lease counts; it says so after its name, if there is more than one."""
    found = _COUNTED.fullmatch(holder)
    return int(found[1]) if found else 1


def _now() -> float:
    return asyncio.get_running_loop().time()
