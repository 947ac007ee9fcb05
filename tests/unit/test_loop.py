"""Keys have their turns when they are due, one at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from random import Random

from controller.loop import LAST_WAIT, Loop
from controller.slices import MOST, Slices
from controller.telemetry import Telemetry
from scenarios.virtual.loop import run_virtual, virtual_loop

Turn = Callable[[str], Awaitable[float | None]]


def played(turn: Turn, *asked: tuple[float, str, float], until: float = 60) -> None:
    """A loop in virtual time; `asked` says when `due(key, after)` is called."""

    async def play() -> None:
        loop = Loop(turn, random=Random(1))
        for at, key, after in asked:
            asyncio.get_running_loop().call_at(at, loop.due, key, after)
        await asyncio.sleep(until)
        await loop.close()

    run_virtual(play())


def recorder(again: float | None = None, *, lasting: float = 0.0) -> tuple[list[tuple[float, str]], Turn]:
    turns: list[tuple[float, str]] = []

    async def turn(key: str) -> float | None:
        turns.append((asyncio.get_running_loop().time(), key))
        await asyncio.sleep(lasting)
        return again

    return turns, turn


def test_a_key_is_due_after_as_long_as_was_asked() -> None:
    turns, turn = recorder()

    played(turn, (1, "a", 0), (1, "b", 5))

    assert turns == [(1, "a"), (6, "b")]


def test_asking_again_moves_a_turn_forward_and_never_back() -> None:
    turns, turn = recorder()

    played(turn, (0, "a", 10), (1, "a", 2), (2, "a", 30))

    assert turns == [(3, "a")]


def test_a_turn_says_when_the_next_one_is() -> None:
    turns, turn = recorder(again=20)

    played(turn, (0, "a", 0))

    assert turns == [(0, "a"), (20, "a"), (40, "a")]


def test_a_busy_key_has_its_next_turn_right_after_this_one() -> None:
    turns, turn = recorder(lasting=4)

    played(turn, (0, "a", 0), (1, "a", 0), (2, "a", 0))

    assert turns == [(0, "a"), (4, "a")]


def test_a_key_never_has_two_turns_at_once() -> None:
    busy: set[str] = set()

    async def turn(key: str) -> float | None:
        assert key not in busy
        busy.add(key)
        await asyncio.sleep(3)
        busy.remove(key)
        return 0.5

    played(turn, *((at / 2, "ab"[at % 2], 0.0) for at in range(40)))


def test_a_failed_turn_is_tried_again_later_and_later_but_within_bounds() -> None:
    turns: list[float] = []

    async def turn(_: str) -> float | None:
        turns.append(asyncio.get_running_loop().time())
        raise RuntimeError("no")

    played(turn, (0, "a", 0), until=100)
    waits = [late - early for early, late in pairwise(turns)]

    assert waits[0] < 0.5
    assert max(waits) <= 1.5 * LAST_WAIT
    assert min(waits[6:]) > 1


def test_another_keys_failure_delays_nobody() -> None:
    turns: list[tuple[float, str]] = []

    async def turn(key: str) -> float | None:
        turns.append((asyncio.get_running_loop().time(), key))
        if key == "bad":
            raise RuntimeError("no")
        return 1.0

    played(turn, (0, "bad", 0), (0, "good", 0), until=10)

    assert [at for at, key in turns if key == "good"] == list(range(10))


def test_after_close_nothing_has_a_turn() -> None:
    turns, turn = recorder(again=1)

    async def play() -> None:
        loop = Loop(turn, random=Random(1))
        loop.due("a")
        await asyncio.sleep(2.5)
        await loop.close()
        await asyncio.sleep(10)

    run_virtual(play())

    assert [at for at, _ in turns] == [0, 1, 2]


def test_when_a_loop_finishes_its_keys_have_one_more_turn_and_none_after() -> None:
    turns, turn = recorder(1.0, lasting=0.3)

    async def play() -> None:
        loop = Loop(turn, random=Random(1))
        loop.due("a")
        loop.due("b", 0.2)
        loop.due("c", 50)
        await asyncio.sleep(0.1)  # "a" is in its turn
        finishing = asyncio.create_task(loop.finish(["a", "b"]))
        await asyncio.sleep(0.1)
        loop.due("c")
        await finishing
        assert asyncio.get_running_loop().time() == 0.6
        loop.due("a")
        await asyncio.sleep(60)
        await loop.close()

    run_virtual(play())
    assert turns == [(0.0, "a"), (0.3, "a"), (0.3, "b")]


def test_a_turn_that_hangs_can_be_given_up_on_while_finishing() -> None:
    turns, turn = recorder(lasting=1000)

    async def play() -> None:
        loop = Loop(turn, random=Random(1))
        with suppress(TimeoutError):
            await asyncio.wait_for(loop.finish(["a"]), 2)
        await loop.close()
        assert asyncio.get_running_loop().time() == 2

    run_virtual(play())
    assert turns == [(0.0, "a")]


def test_only_so_many_turns_begin_before_sockets_are_seen_to() -> None:
    begun = [0]
    rounds: list[int] = []

    async def turn(_: int) -> float | None:
        begun[0] += 1
        return None

    async def play() -> None:
        loop: Loop[int] = Loop(turn, random=Random(1))
        for key in range(10 * MOST):
            loop.due(key)
        while begun[0] < 10 * MOST:
            before = begun[0]
            await asyncio.sleep(0)  # as long as the event loop takes to look at its sockets once
            rounds.append(begun[0] - before)

    run_virtual(play())
    assert max(rounds) == MOST


def test_the_urgent_come_first_and_then_who_was_due_first() -> None:
    turns, turn = recorder()

    async def play() -> None:
        loop = Loop(turn, random=Random(1), urgent=lambda key: key == "failing")
        keys = [*(f"run-{number:03d}" for number in range(10 * MOST)), "failing", "edited"]
        for place, key in enumerate(keys):
            loop.due(key, place / 1000)
        virtual_loop()._jump.now += 1.0  # the event loop was busy with something else
        loop.hurry("edited")
        await asyncio.sleep(1)

    run_virtual(play())
    keys = [key for _, key in turns]
    assert set(keys[:2]) == {"failing", "edited"}
    assert keys[2:] == sorted(keys[2:])
    assert len(keys) == len(set(keys)) == 10 * MOST + 2


def test_a_key_in_a_hurry_that_is_busy_has_its_next_turn_right_after_this_one() -> None:
    turns, turn = recorder(lasting=4)

    async def play() -> None:
        loop = Loop(turn, random=Random(1))
        loop.due("a")
        await asyncio.sleep(1)
        loop.hurry("a")
        loop.hurry("a")
        await asyncio.sleep(10)

    run_virtual(play())
    assert turns == [(0, "a"), (4, "a")]


def test_loops_that_share_slices_have_them_by_turns() -> None:
    begun: list[str] = []

    async def play() -> None:
        slices = Slices()

        def loop(name: str) -> Loop[int]:
            async def turn(_: int) -> None:
                begun.append(name)

            return Loop(turn, random=Random(1), slices=slices)

        many, few = loop("many"), loop("few")
        for key in range(100):
            many.due(key)
        for key in range(3):
            few.due(key)
        await asyncio.sleep(1)

    run_virtual(play())
    assert begun[:8] == ["many", "few"] * 3 + ["many"] * 2
    assert len(begun) == 103


def test_the_queue_s_depth_is_of_keys_that_wait_and_not_of_those_whose_time_is_to_come() -> None:
    telemetry = Telemetry()
    depths: list[float | None] = []

    async def turn(_key: str) -> float | None:
        depths.append(telemetry.registry.get_sample_value("workqueue_depth", {"name": "canaryrun"}))
        return 1000

    async def play() -> None:
        loop = Loop(turn, random=Random(1), heed=telemetry.queue())
        for key in ("a", "b", "c"):
            loop.due(key)
        loop.hurry("a")
        loop.due("later", 500)
        await asyncio.sleep(60)
        await loop.close()

    run_virtual(play())
    assert max(depths) > 0
    assert telemetry.registry.get_sample_value("workqueue_depth", {"name": "canaryrun"}) == 0
    assert telemetry.registry.get_sample_value("workqueue_adds_total", {"name": "canaryrun"}) == 3
    count = {"name": "canaryrun"}
    assert telemetry.registry.get_sample_value("workqueue_queue_duration_seconds_count", count) == 3


def test_who_is_in_a_hurry_while_a_loop_finishes_has_no_second_turn_at_once() -> None:
    at_once: list[str] = []
    ended: list[str] = []
    most = 0

    async def turn(key: str) -> float:
        nonlocal most
        at_once.append(key)
        most = max(most, at_once.count(key))
        await asyncio.sleep(0.5)
        at_once.remove(key)
        ended.append(key)
        return 1.0

    async def play() -> None:
        loop = Loop(turn, random=Random(1))
        loop.due("a")
        await asyncio.sleep(0.3)
        finishing = asyncio.create_task(loop.finish(["a", "b"]))
        await asyncio.sleep(0.1)
        loop.hurry("b")  # a watch tells of something while the shard is let go
        await finishing
        await loop.close()

    run_virtual(play())
    assert (most, ended.count("b")) == (1, 1)
