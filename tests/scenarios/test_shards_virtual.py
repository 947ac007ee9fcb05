"""Canaries are looked after as ever when they are split over replicas, in virtual time."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import structlog

from controller.shards import PATIENCE, lease_names, shard_of
from scenarios.objects import CANARY, NAMESPACE
from scenarios.play import Theatre, silent
from scenarios.result import Outcome
from scenarios.story import loads
from scenarios.virtual.loop import run_virtual
from scenarios.virtual.replicas import LEASES

STORY = """
apiVersion: serin.dev/v1alpha1
kind: Scenario
metadata: {name: shards}
spec:
  seed: 3
  duration: 40s
  history: 5s
  controllers: %d
  traffic: {requestsPerSecond: 60}
  stable:
    replicas: 2
    latency: {distribution: lognormal, median: 20ms, p95: 60ms}
    errorRate: 0.1%%
  canary: {replicas: 1}
  faults: [%s]
  policy:
    steps: [20, 50]
    alpha: 1.0e-6
    warmUp: 0s
    minStep: 12s
    minRequests: 60
    stepTimeout: 60s
    progressDeadline: 60s
    scaleDownDelay: {promoted: 1s, rolledBack: 1s}
    checks: [{name: errors, type: ErrorRate, maxIncrease: 50%%, plus: 2%%}]
  expect: {outcome: Held}
"""
FAILS = "{at: 9s, arm: canary, crash: true}"
KILLED = "{at: 8s, target: controller, kind: kill, for: 30s}"
CRASHES = "{at: 20s, arm: canary, crash: true}"
SHARDS = 5
MINE = shard_of((NAMESPACE, CANARY), SHARDS)  # the last: that is the first to be asked for


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


class Shared(Theatre):
    """A story with so many shards; `late` is when one more replica starts."""

    def __init__(
        self, faults: str, *, replicas: int, shards: Sequence[int], late: float | None = None
    ) -> None:
        self.shards, self.late = shards, late
        self.saved: list[tuple[float, int, str | None, int]] = []  # when, epoch, checkpoint, requests
        self.handed: list[tuple[float, str]] = []  # when the canary's Lease changed hands, and to whom
        super().__init__(loads(STORY % (replicas, faults), file="shards"), report=silent)
        self.world.on_change(self._kept)

    def _kept(self, _type: str, resource: str, obj: Any) -> None:
        status = obj.get("status") or {}
        if resource == "canaryruns" and status.get("checkpoint"):
            counted = sum(check.get("canaryRequests", 0) for check in status.get("checks") or ())
            self.saved.append((self.now, status["epoch"], status["checkpoint"], counted))
        name = lease_names("serin-controller", SHARDS)[MINE]
        if resource == "leases" and obj["metadata"]["name"] == name:
            holder = obj["spec"]["holderIdentity"].partition(";")[0]
            if not self.handed or self.handed[-1][1] != holder:
                self.handed.append((self.now, holder))

    async def _happen(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(super()._happen())
            if self.late is not None:
                await asyncio.sleep(max(0.0, self.late - self.now))
                self.controllers.start()


def played(*given: Any, **how: Any) -> Shared:
    async def play() -> Shared:
        theatre = Shared(*given, **how)
        await theatre.through()
        return theatre

    return run_virtual(play())


def test_a_canary_in_one_of_several_shards_goes_on_as_ever() -> None:
    theatre = played("", replicas=2, shards=(SHARDS,))
    assert theatre.played.weights[-1][1] > 0
    assert len({epoch for _, epoch, _, _ in theatre.saved}) == 1
    assert [who for _, who in theatre.handed][1:] == [""]  # at the end
    assert len(theatre.world.objects("leases", LEASES)) == SHARDS


def test_a_shard_whose_replica_dies_is_rolled_back_by_another() -> None:
    theatre = played(f"{FAILS}, {KILLED}", replicas=2, shards=(SHARDS,))
    assert theatre.played.outcome is Outcome.ROLLED_BACK
    taken = next(at for at, who in theatre.handed if at > 8 and who)
    assert taken < 8 + 12
    assert theatre.played.verdict is not None
    assert theatre.played.verdict < taken + 4


def test_a_shard_that_moves_to_a_newcomer_goes_on_from_evidence_that_was_just_saved() -> None:
    theatre = played("", replicas=1, shards=(SHARDS,), late=3)
    assert MINE == SHARDS - 1
    assert [who for _, who in theatre.handed] == ["serin-1", "", "serin-2", ""]
    _, gone, taken, _ = theatre.handed
    assert 3 + PATIENCE < gone[0] < 3 + PATIENCE + 4
    assert taken[0] - gone[0] < 1.5
    before = [one for one in theatre.saved if one[0] <= gone[0]]
    after = [one for one in theatre.saved if one[0] > gone[0]]
    assert gone[0] - before[-1][0] < 0.1  # its last turn, in good order
    assert after[0][1] > before[-1][1]
    assert 0 < before[-1][3] <= after[0][3]
    assert theatre.played.weights[-1][1] > 0


@pytest.mark.parametrize(("shards", "late"), [((1, SHARDS), None), ((SHARDS, 1), 4.0)])
def test_replicas_that_count_differently_never_both_steer(shards: Sequence[int], late: float | None) -> None:
    replicas = 2 if late is None else 1
    theatre = played(f"{CRASHES}, {KILLED}", replicas=replicas, shards=shards, late=late)
    assert theatre.played.outcome is Outcome.ROLLED_BACK
    epochs = [epoch for _, epoch, _, _ in theatre.saved]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == 2
    assert theatre.played.verdict is not None
    assert theatre.played.verdict < 22
