"""A leader's cursor is taken up by the next one, also while pages lack what they have had."""

from dataclasses import replace
from typing import Any

import pytest
from test_gather import stepping
from test_ticks import LE, Passes, by, page, told

from analysis.samples import Counts, Histogram
from controller import gather, kept
from controller.cursors import load, moved, save
from controller.ticks import Cursor


def taken_over(cursor: Cursor, seconds: float) -> Cursor:
    """As another leader has it, whose clock is ahead by `seconds`, and whose is right again."""
    run = stepping()
    body = gather.save(replace(gather.begin(run.plan.policy), cursor=cursor))
    kept.read(body)
    there = gather.load(run.plan, body).cursor
    return moved(moved(there, seconds), -seconds)


@pytest.mark.parametrize("ahead", [0.0, 3600.0])
@pytest.mark.parametrize("change", range(14, 25))
@pytest.mark.parametrize("lacking", [Counts(960, 0), Counts(50, 50), Counts(1_013, 20)])
def test_what_a_page_lacked_while_the_leader_changed_is_no_news_when_it_is_back(
    lacking: Counts, change: int, ahead: float
) -> None:
    """50 errors of last week were a second's, and a healthy canary was rolled back for them."""
    passes, others = Passes(stable="s1"), Passes(stable="s1")
    counted = Counts(0, 0)
    for one in (passes, others):
        one.since = {"weight": 10.0}
    for second in range(10, 30):
        n = 980 + 2 * second
        part = replace(lacking, n=lacking.n + second - 15) if 15 <= second < 23 else Counts(n, 50)
        usual = {"s1": page(float(second), n, 50), "c1": page(float(second), part.n, part.k)}
        others.at(float(second), **usual)
        for tick in passes.at(float(second), **usual):
            told_of = told(tick).get("c1", Counts(0, 0))
            assert isinstance(told_of, Counts)
            counted += told_of
        if second == change:
            passes.cursor = taken_over(passes.cursor, ahead)
    assert counted.k == 0
    assert counted.n <= 38
    # as if there had been one leader, but for one odd page, which the next one does not know
    assert passes.loads["weight"].canary == pytest.approx(others.loads["weight"].canary, abs=1)


def test_what_a_histogram_lacked_while_the_leader_changed_is_no_news_when_it_is_back() -> None:
    passes = Passes(stable="s1")
    fast = Histogram(LE, (100, 0, 0))
    for second in range(10, 20):
        slow = 0 if second in {14, 15} else 50
        said: dict[str, Any] = {"s1": page(float(second), 100, latency=fast)}
        said["c1"] = page(float(second), 100, latency=Histogram(LE, (100 + second, 0, slow)))
        for tick in passes.at(float(second), **said):
            assert told(tick).get("c1") in (None, *(Histogram(LE, (n, 0, 0)) for n in (1, 3)))
        if second == 15:
            passes.cursor = taken_over(passes.cursor, 0.0)


def test_a_silence_is_not_broken_by_what_pages_lacked_while_the_leader_changed() -> None:
    passes = Passes(stable="s1")
    passes.since = {"weight": 10.0}
    for second in range(10, 20):
        n = 600 if 13 <= second <= 15 else 1000
        passes.at(float(second), s1=page(float(second), 100), c1=by(float(second), n, "sidecar"))
        if second == 15:
            passes.cursor = taken_over(passes.cursor, 0.0)
    assert passes.loads["weight"].canary == 0


def test_where_no_page_lacks_anything_a_cursor_says_nothing_of_it() -> None:
    passes = Passes(stable="s1")
    for second in (10.0, 11.0):
        passes.at(second, s1=page(second, 10), c1=page(second, 10))
    assert save(passes.cursor).keys() == {"v", "bounds", "checks", "served", "by", "loads"}
    assert load(save(passes.cursor)) == passes.cursor
