"""A namespace in which much changes keeps no other waiting."""

import asyncio
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from controller.calm import AGAIN, EACH, SOME, Calm
from controller.cluster import Cluster, Key
from controller.loop import Loop
from controller.operate import Leadership
from controller.slices import Slices
from scenarios.virtual.loop import run_virtual, virtual_loop

Json = Any
PASS = 0.003  # seconds
RULE: Json = {"metadata": {"namespace": "noisy", "name": "rule", "resourceVersion": "1"}}


def lives(namespace: str, count: int) -> dict[Key, Json]:
    def live(number: int) -> Json:
        plan = SimpleNamespace(namespace=namespace, canary=f"canary-{number}", stable="stable")
        return SimpleNamespace(run=SimpleNamespace(plan=plan))

    return {(namespace, f"run-{number}"): live(number) for number in range(count)}


class Story:
    """Runs of a namespace in which much changes, and of one in which nothing does; a pass takes `PASS`."""

    def __init__(self, noisy: int, quiet: int) -> None:
        self.cluster, self.waited, self.turns = Cluster(), [0.0], 0
        self.due: dict[Key, float] = {}
        everybody: Json = SimpleNamespace(lives=lives("noisy", noisy) | lives("quiet", quiet))
        slices = Slices()
        self.runs = Loop(self._turn, random=Random(1), slices=slices)
        self.asked: list[Key] = []
        asks, histories = (Loop(self._asked, random=Random(1), slices=slices) for _ in range(2))
        self.leadership = Leadership(lambda _: True, everybody, self.runs, asks, histories)
        for key in everybody.lives:
            self.due[key] = asyncio.get_running_loop().time()
            self.runs.due(key)

    async def _turn(self, key: Key) -> float:
        now = asyncio.get_running_loop().time()
        if key[0] == "quiet":
            self.waited.append(now - self.due[key])
        virtual_loop()._jump.now += PASS
        self.turns += 1
        self.due[key] = now + PASS + 1.0
        return 1.0

    async def _asked(self, key: Key) -> None:
        self.asked.append(key)

    async def changes(self, kind: str, obj: Json, *, every: float, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            self.leadership.heard(self.cluster, kind, obj)
            await asyncio.sleep(every)

    def longest(self) -> float:
        now = asyncio.get_running_loop().time()
        return max(*self.waited, *(now - due for key, due in self.due.items() if key[0] == "quiet"))


def test_a_namespace_that_changes_all_the_time_takes_no_turn_from_another() -> None:
    """Fifty runs beside a DestinationRule that was patched all the time had all turns there were."""

    async def play() -> tuple[float, int]:
        story = Story(50, 20)
        await story.changes("destinationrules", RULE, every=0.05, seconds=10)
        await story.leadership.runs.close()
        return story.longest(), story.turns

    longest, turns = run_virtual(play())
    assert longest < 0.3
    assert turns < 2 * 10 * 70 + 100  # once for its pages, and once for all that has changed


def test_what_is_about_one_run_has_its_turn_before_all_others_whatever_else_changes() -> None:
    calm, said = Calm(), list[tuple[str, str, float]]()
    turns: Json = SimpleNamespace(
        hurry=lambda key: said.append(("first", key[1], 0.0)),
        due=lambda key, after=0.0: said.append(("due", key[1], after)),
    )

    async def play() -> None:
        for _ in range(2):
            for number in range(30):
                calm.turn(turns, ("noisy", f"{number}"), alone=False)
        await asyncio.sleep(0.25)
        calm.turn(turns, ("noisy", "7"), alone=True)
        calm.turn(turns, ("noisy", "7"), alone=False)

    run_virtual(play())
    assert [how for how, *_ in said[:30]] == ["first"] * (SOME // 2) + ["due"] * (30 - SOME // 2)
    assert {(how, after) for how, _, after in said[30:60]} == {("due", AGAIN)}
    assert said[60:] == [("first", "7", 0.0), ("due", "7", pytest.approx(AGAIN - 0.25))]


def test_a_namespace_has_so_many_turns_before_all_others_in_a_second_and_another_its_own() -> None:
    calm, said = Calm(), list[str]()
    turns: Json = SimpleNamespace(
        hurry=lambda key: said.append(key[0]), due=lambda _key, _after=0.0: said.append("due")
    )

    async def play() -> None:
        for number in range(SOME + 5):
            calm.turn(turns, ("noisy", f"{number}"), alone=True)
        calm.turn(turns, ("quiet", "run"), alone=True)
        await asyncio.sleep(AGAIN)
        calm.turn(turns, ("noisy", "0"), alone=True)

    run_virtual(play())
    assert said == ["noisy"] * SOME + ["due"] * 5 + ["quiet", "noisy"]


def test_a_namespace_of_many_deployments_is_looked_at_once_for_all_that_changes_meanwhile() -> None:
    calm, looked = Calm(), list[float]()

    async def play() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()

        def look() -> int:
            looked.append(loop.time() - began)
            return 500

        for _ in range(40):
            calm.look("noisy", look)
            await asyncio.sleep(0.05)
        calm.look("quiet", look)
        await asyncio.sleep(5)

    run_virtual(play())
    rest = EACH * 500
    assert looked[:2] == [0.0, pytest.approx(rest)]
    assert len(looked) == 4  # at once, a second and two seconds later, and the other namespace's
    assert not calm._waiting
