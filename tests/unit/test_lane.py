"""How many calls are under way at once, in virtual time."""

import asyncio

from controller.lane import CONCURRENCY, LEAST, SLOW, Lane
from scenarios.virtual.loop import run_virtual


class Calls:
    """So many calls that take so long; how many were under way at most in each second."""

    def __init__(self) -> None:
        self.lane = Lane()
        self.open = 0
        self.most: dict[int, int] = {}

    async def call(self, lasting: float) -> None:
        async with self.lane:
            self.open += 1
            try:
                now = int(asyncio.get_running_loop().time())
                self.most[now] = max(self.most.get(now, 0), self.open)
                await asyncio.sleep(lasting)
            finally:
                self.open -= 1

    async def calls(self, count: int, lasting: float) -> None:
        await asyncio.gather(*(self.call(lasting) for _ in range(count)))


def test_while_answers_are_quick_all_of_the_lane_is_used() -> None:
    calls = Calls()
    run_virtual(calls.calls(200, SLOW))
    assert set(calls.most.values()) == {CONCURRENCY}


def test_slow_answers_halve_what_is_asked_at_once_and_quick_ones_bring_it_back() -> None:
    calls = Calls()

    async def story() -> None:
        await calls.calls(60, 2 * SLOW)
        at = int(asyncio.get_running_loop().time())
        await calls.calls(400, 0.1)
        assert max(most for second, most in calls.most.items() if second > at) == CONCURRENCY

    run_virtual(story())
    assert [calls.most[second] for second in range(0, 10, 2)] == [20, 10, 5, LEAST, LEAST]


def test_who_gives_up_takes_no_place_from_the_others() -> None:
    calls = Calls()

    async def story() -> None:
        busy = [asyncio.create_task(calls.call(10)) for _ in range(CONCURRENCY)]
        waiting = [asyncio.create_task(calls.call(1)) for _ in range(10)]
        await asyncio.sleep(1)
        for one in (*waiting[:9], *busy[:5]):  # a place is given to one that gives up in the same moment
            one.cancel()
        await asyncio.gather(*busy, *waiting, return_exceptions=True)
        assert not waiting[9].cancelled()
        assert calls.open == 0
        await calls.calls(100, 0.1)

    run_virtual(story())
    assert max(most for second, most in calls.most.items() if second >= 10) == CONCURRENCY
