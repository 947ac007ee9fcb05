"""Virtual time: nothing waits, processes can be killed, and nothing hangs for ever."""

import asyncio
import contextlib
import time
from datetime import timedelta

import pytest

from scenarios.cluster.clockwork import Chores
from scenarios.virtual.loop import START, Deadlock, Process, run_virtual, virtual_loop


def test_an_hour_passes_at_once_on_both_clocks() -> None:
    async def wait() -> None:
        await asyncio.sleep(3600)
        assert virtual_loop().time() == pytest.approx(3600)
        assert virtual_loop().now() == START + timedelta(hours=1)

    began = time.monotonic()
    run_virtual(wait())
    assert time.monotonic() - began < 60


def test_timers_come_in_their_order_at_their_times() -> None:
    async def tell(told: list[tuple[str, float]], name: str, *, every: float) -> None:
        for _ in range(3):
            await asyncio.sleep(every)
            told.append((name, round(virtual_loop().time(), 6)))

    async def both() -> list[tuple[str, float]]:
        told: list[tuple[str, float]] = []
        await asyncio.gather(tell(told, "a", every=2.0), tell(told, "b", every=1.5))
        return told

    assert run_virtual(both()) == [("b", 1.5), ("a", 2), ("b", 3), ("a", 4), ("b", 4.5), ("a", 6)]


def test_a_timeout_is_as_long_as_it_says() -> None:
    async def wait() -> float:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return virtual_loop().time()

    assert run_virtual(wait()) == pytest.approx(30)


def test_waiting_for_what_cannot_come_is_an_error_that_names_the_task() -> None:
    async def wait() -> None:
        asyncio.current_task().set_name("the waiting one")
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"nothing can happen after 0\.000 s: the waiting one"):
        run_virtual(wait())


def test_a_task_that_spins_without_time_passing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenarios.virtual.loop.STANDSTILL", 1000)

    async def spin() -> None:
        while True:  # noqa: ASYNC110 (waiting for nothing is the point)
            await asyncio.sleep(0)

    with pytest.raises(Deadlock, match="time does not pass"):
        run_virtual(spin())


def test_a_thread_runs_here_and_now() -> None:
    async def ask() -> tuple[int, float]:
        return await asyncio.to_thread(lambda: 7), virtual_loop().time()

    assert run_virtual(ask()) == (7, 0.0)


async def count(told: list[float | str]) -> None:
    """Tells every second; a child of its own does too."""
    async with asyncio.TaskGroup() as group:
        group.create_task(every_second(told))


async def every_second(told: list[float | str]) -> None:
    try:
        while True:
            await asyncio.sleep(1)
            told.append(round(virtual_loop().time(), 6))
    finally:
        told.append("finally")


def test_a_frozen_process_goes_on_where_it_stopped() -> None:
    async def play() -> list[float | str]:
        told: list[float | str] = []
        process = Process("counter")
        process.start(count(told))
        await asyncio.sleep(2.5)
        process.freeze()
        await asyncio.sleep(10)
        process.thaw()
        await asyncio.sleep(1.2)
        await process.bury()
        return told

    assert run_virtual(play()) == [1, 2, 12.5, 13.5, "finally"]


def test_a_killed_process_does_nothing_any_more_until_it_is_buried() -> None:
    async def play() -> tuple[list[float | str], list[float | str]]:
        told: list[float | str] = []
        process = Process("counter")
        process.start(count(told))
        await asyncio.sleep(2.5)
        process.kill()
        await asyncio.sleep(60)
        before = list(told)
        await process.bury()
        return before, told

    assert run_virtual(play()) == ([1, 2], [1, 2, "finally"])


def test_what_a_cluster_has_to_do_is_done_though_whoever_asked_for_it_is_gone() -> None:
    async def play() -> list[str]:
        told: list[str] = []
        chores = Chores()

        async def ask() -> None:
            chores.at("scale", lambda: told.append("scaled"), after=1.0)

        process = Process("asking")
        await process.start(ask())
        process.kill()
        await asyncio.sleep(2)
        return told

    assert run_virtual(play()) == ["scaled"]


def test_a_timer_that_is_cancelled_while_its_process_is_frozen_never_fires() -> None:
    async def play() -> list[str]:
        told: list[str] = []
        handles: list[asyncio.TimerHandle] = []

        async def plan() -> None:
            handles.append(virtual_loop().call_later(1, told.append, "fired"))

        process = Process("planner")
        await process.start(plan())
        process.freeze()
        await asyncio.sleep(2)
        handles[0].cancel()
        process.thaw()
        await asyncio.sleep(1)
        return told

    assert run_virtual(play()) == []


def test_burying_a_process_whose_timers_came_due_meanwhile_breaks_nothing() -> None:
    async def play() -> list[dict[str, object]]:
        broken: list[dict[str, object]] = []
        virtual_loop().set_exception_handler(lambda _loop, context: broken.append(context))

        async def guarded() -> None:
            async with asyncio.timeout(2):
                await asyncio.Event().wait()

        process = Process("guarded")
        process.start(guarded())
        await asyncio.sleep(1)
        process.kill()
        await asyncio.sleep(10)
        await process.bury()
        await asyncio.sleep(1)
        return broken

    assert run_virtual(play()) == []


def test_real_sockets_work_in_virtual_time() -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)
        writer.write(b"hello\n")
        writer.close()

    async def talk() -> tuple[bytes, float]:
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            line = await reader.readline()
            writer.close()
        return line, virtual_loop().time()

    line, took = run_virtual(talk())
    assert line == b"hello\n"
    assert took == pytest.approx(5)
