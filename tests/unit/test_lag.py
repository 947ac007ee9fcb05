"""How late ticks are, in virtual time."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

from structlog.testing import capture_logs

from controller.lag import TOLD, Lags
from scenarios.virtual.loop import run_virtual

KEY = ("ns", "run")


def lags(*lasting: float) -> tuple[Lags, list[float]]:
    """Lags of turns that take so long, and those that were heard of."""
    heard: list[float] = []
    times = iter(lasting)

    async def turn(_: object) -> float | None:
        await asyncio.sleep(next(times))
        return 1.0

    def heed(lag: timedelta) -> None:
        heard.append(round(lag.total_seconds(), 6))

    return Lags(turn, heed), heard


def played(story: Coroutine[Any, Any, None]) -> list[Any]:
    with capture_logs() as lines:
        run_virtual(story)
    return [line for line in lines if line["event"] == "ticks_late"]


def test_a_tick_lags_from_when_its_pages_were_due_until_its_pass_has_ended() -> None:
    found, heard = lags(0.25, 0.25, 0.5)

    async def story() -> None:
        await asyncio.sleep(1)
        found.news(KEY, 0.9)
        await asyncio.sleep(0.5)
        assert await found.turn(KEY) == 1.0
        assert await found.turn(KEY) == 1.0  # nothing new had come
        turning = asyncio.create_task(found.turn(KEY))
        await asyncio.sleep(0.1)
        found.news(KEY, 2.0)  # of the next turn
        await turning

    assert not played(story())
    assert heard == [0.85]


def test_of_pages_that_waited_together_the_first_counts() -> None:
    found, heard = lags(0)

    async def story() -> None:
        await asyncio.sleep(5)
        found.news(KEY, 3.0)
        found.news(KEY, 4.0)
        await found.turn(KEY)

    assert [line["worst_seconds"] for line in played(story())] == [2.0]
    assert heard == [2.0]


def test_late_ticks_are_told_once_a_minute() -> None:
    found, heard = lags(*[0.0] * 90)

    async def story() -> None:
        for second in range(90):
            await asyncio.sleep(1)
            found.news(KEY, second - 1.0)  # each two seconds late
            await found.turn(KEY)

    lines = played(story())
    assert [line["count"] for line in lines] == [1, TOLD]
    assert len(heard) == 90


def test_what_pods_take_for_their_pages_and_a_turn_for_itself_is_not_what_the_core_took() -> None:
    waited: list[float] = []

    async def turn(_: object) -> float | None:
        await asyncio.sleep(0.5)
        return 1.0

    async def story() -> None:
        found = Lags(turn, lambda _: None, began=lambda seconds: waited.append(round(seconds, 6)))
        now = asyncio.get_running_loop().time
        found.news(KEY, now() - 0.4)  # a page took so long
        await found.turn(KEY)
        found.news(KEY, now() - 0.4, late=0.25)  # it was asked for too late
        await asyncio.sleep(0.125)  # in the queue
        await found.turn(KEY)
        await found.turn(KEY)  # nothing new

    run_virtual(story())
    assert waited == [0.0, 0.375]
