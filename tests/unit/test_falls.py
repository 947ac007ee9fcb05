"""Pages of several processes are told from those of one that began anew."""

import random
from itertools import count

import pytest

from analysis.samples import Counts, Histogram
from controller.falls import OFTEN, REMEDY, REMEMBERED, Falls
from controller.ports import Reading

moments = count()


def said(n: int, *, requests: int | None = None) -> Reading:
    own = None if requests is None else Counts(requests, 0)
    values = {"latency": Histogram((1.0,), (n, 0))}
    return Reading(at=float(next(moments)), requests=own, values=values, sources={"latency": "s"})


def read(falls: Falls, counts: list[int]) -> list[bool]:
    """Of each reading, whether its figures are used."""
    found = [falls.look(said(n, requests=9)) for n in counts]
    assert all(kept is not None and kept.sources == {"latency": "s"} for kept, _ in found)
    assert all(bool(why) is not bool(kept and kept.values) for kept, why in found)
    return [bool(kept and kept.values) for kept, _ in found]


@pytest.mark.parametrize("workers", [2, 4, 16])
def test_the_pages_of_several_processes_are_not_read_for_long(workers: int) -> None:
    chance = random.Random(workers)
    counts = [0] * workers
    shown = []
    for _ in range(200):
        counts = [n + chance.randrange(20) for n in counts]
        shown.append(chance.choice(counts))
    used = read(Falls(), shown)
    assert used.index(False) < 30
    assert sum(used[30:]) < 10


def test_a_process_that_begins_anew_is_read_on() -> None:
    assert all(read(Falls(), [*range(50, 90), *range(40), *range(40)]))


def test_what_has_stopped_to_fall_is_read_again() -> None:
    falls = Falls()
    assert read(falls, [9, 1, 9, 1, 9, 1])[-1] is False
    assert read(falls, [*range(10, 10 + REMEMBERED)])[-1] is True


def test_what_was_counted_once_and_is_read_ten_times_is_looked_at_once() -> None:
    falls, counts = Falls(), [5, 9, 1, 9, 1, 9, 1]
    found = [falls.look(one)[1] for n in counts for one in [said(n, requests=7)] * 10]
    assert [bool(why) for why in found] == [False] * 60 + [True] * 10


def test_where_requests_fall_nothing_is_known_of_the_pod() -> None:
    falls = Falls()
    found = [falls.look(said(5, requests=n)) for n in [9, 1] * OFTEN]
    assert found[0][1] == []
    assert found[-1] == (None, [f"requests: {REMEDY}"])
