import asyncio

from controller.slices import HASTE, LONG, MOST, PIECES, ROUND, Slices
from scenarios.virtual.loop import run_virtual, virtual_loop


def rounds(each: float, pieces: int = 5 * PIECES) -> list[int]:
    """How many pieces that take `each` seconds run in one round after the other."""
    done, found = [0], [0]

    def piece() -> None:
        virtual_loop()._jump.now += each
        done[0] += 1

    async def play() -> None:
        slices = Slices()
        for _ in range(pieces):
            slices.begin(piece)
        while done[0] < pieces:
            before = done[0]
            await asyncio.sleep(0)
            found.append(done[0] - before)

    run_virtual(play())
    return [count for count in found if count]


def test_only_so_many_run_in_a_round() -> None:
    found = rounds(0.0, pieces=20 * MOST)
    assert found[0] == PIECES
    assert found[:-1] == sorted(found[:-1])
    assert max(found) == MOST


def beside_pages(each: float) -> int:
    """How many of many pieces have run after fifty rounds in which sockets take `each` seconds."""
    done = [0]

    async def piece() -> None:
        virtual_loop()._jump.now += ROUND / 10
        done[0] += 1

    def pages() -> None:
        virtual_loop()._jump.now += each
        asyncio.get_running_loop().call_soon(pages)

    async def play() -> int:
        slices, tasks = Slices(), set()
        asyncio.get_running_loop().call_soon(pages)
        for _ in range(10 * MOST):
            slices.begin(lambda: tasks.add(asyncio.create_task(piece())))
        for _ in range(50):
            await asyncio.sleep(0)
        counted = done[0]
        for _ in range(10 * MOST):  # the others, so that nothing is left behind
            await asyncio.sleep(0)
        assert done[0] == 10 * MOST
        return counted

    return run_virtual(play())


def test_pages_that_come_in_by_the_hundred_leave_no_round_to_a_single_piece() -> None:
    """What sockets take is not the pieces' doing: fewer of these would not make it less."""
    assert beside_pages(4 * ROUND) == 10 * MOST


def test_where_rounds_are_too_long_for_the_lease_pieces_are_few_whatever_it_is_that_takes_so_long() -> None:
    assert beside_pages(1.01 * LONG) <= 50 + MOST


def test_fewer_run_in_a_round_where_they_take_long_and_one_at_least() -> None:
    assert rounds(2 * ROUND)[:4] == [4, 1, 1, 1]


def test_as_many_run_as_fit() -> None:
    assert rounds(0.4 * ROUND)[:4] == [4, 2, 2, 2]


def test_what_ends_something_comes_before_what_begins_something() -> None:
    done: list[str] = []

    async def play() -> None:
        slices = Slices()
        for _ in range(2):
            slices.begin(lambda: done.append("begin"))
        assert slices.beginning
        slices.end(lambda: done.append("end"))
        await asyncio.sleep(1)
        assert not slices.beginning

    run_virtual(play())
    assert done == ["end", "begin", "begin"]


def test_while_somebody_may_fail_rounds_are_as_short_as_can_be_and_then_as_before() -> None:
    done = [0]

    def piece() -> None:
        done[0] += 1

    async def play() -> list[int]:
        slices, found = Slices(), []
        for _ in range(10 * MOST):
            slices.begin(piece)
        for place in range(HASTE + 4):
            if place == 2:
                slices.hasten()
            before = done[0]
            await asyncio.sleep(0)
            found.append(done[0] - before)
        return found

    found = run_virtual(play())
    assert found[2 : 2 + HASTE] == [1] * HASTE
    assert min(found[1], *found[2 + HASTE :]) >= PIECES
