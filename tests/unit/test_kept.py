"""Of a checkpoint that somebody else made nothing is used, and it costs nothing to find out."""

import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from test_gather import LE, START, begun, sight, stepping, taken, ticks

from analysis.evidence import update
from analysis.samples import Counts, Histogram
from controller import gather, kept
from controller.clock import taken_over
from controller.ports import Reading
from controller.ticks import Cursor, advance

RUN = stepping()
PODS = {"stable": {"stable-0": "stable-node-0"}, "canary": {"canary-0": "canary-node-0"}}


def cursor() -> Cursor:
    """As after three seconds in which both arms were read."""
    found = Cursor()
    for second in range(3):
        at = START.timestamp() + second
        values = {"latency-p95": Histogram(LE, (second,) * 61), "errors": Counts(9 * second, 0)}
        sources = dict.fromkeys(values, "live")
        page = Reading(at=at, requests=Counts(9 * second, 0), values=values, sources=sources)
        pages = {name: page for arm in PODS.values() for name in arm}
        found, _, _ = advance(found, pages, **PODS, now=at, since={"step": START.timestamp()})
    return found


WHOLE = gather.save(
    replace(taken(begun(RUN), RUN, sight(), seconds=range(40, 50)), cursor=cursor(), saved=START.timestamp())
)
NEW = gather.save(gather.begin(RUN.plan.policy))


def edited(path: Sequence[Any], value: Any) -> str:
    """The checkpoint with another value there; `*` is the first, whatever it is called."""
    body = json.loads(WHOLE)
    at = body
    for key in path[:-1]:
        at = at[next(iter(at)) if key == "*" else key]
    at[next(iter(at)) if path[-1] == "*" else path[-1]] = value
    return json.dumps(body)


def test_what_was_kept_is_read_as_it_was() -> None:
    assert kept.read(WHOLE) == json.loads(WHOLE)
    assert gather.save(gather.load(RUN.plan, WHOLE)) == WHOLE


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["evidence", 0], "none"),
        (["evidence", 0, "state"], 7),
        (["evidence", 0, "sizes", 1], 10**12),
        (["evidence", 0, "sizes", 0], 10**12),
        (["evidence", 0, "sizes"], [0, 0]),
        (["cursor"], None),
        (["cursor", "served", "*"], ["now", 1]),
        (["cursor", "served", "*"], [0.0, 10**400]),
        (["cursor", "checks", "*", 0], "then"),
        (["cursor", "checks", "latency-p95", 1, "*"], [0.0, 1, [0, 10**9, [1]]]),
        (["cursor", "checks", "latency-p95", 1, "*"], [0.0, 1, [0, -(10**9), [1]]]),
        (["cursor", "checks", "latency-p95", 1, "*"], [0.0, 1, [10**9, 0, [1]]]),
        (["cursor", "checks", "errors", 1, "*"], [0.0, 1, ["many", 0]]),
        (["cursor", "loads"], {"step": {"since": "then", "hush": [0.0, 0.0, 0, 0, False], "pods": {}}}),
        (["step"], "1"),
        (["step"], 10**30),
        (["pods"], "all"),
        (["pods", 0], [None]),
    ],
)
def test_what_is_no_checkpoint_of_ours_is_begun_anew_and_asks_for_no_memory(
    path: list[Any], value: Any
) -> None:
    """Found by fuzzing: an edit ended each of the run's passes, or asked for more memory than there is."""
    body = edited(path, value)
    tracemalloc.start()
    try:
        loaded = gather.load(RUN.plan, body)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert gather.save(loaded) == NEW
    assert most < 10_000_000


def test_a_checkpoint_nested_without_end_is_begun_anew() -> None:
    assert gather.save(gather.load(RUN.plan, "[" * 100_000)) == NEW


@pytest.mark.parametrize("at", [-1e12, 0.0, 1e12])
def test_with_times_that_nobody_can_have_meant_a_leader_goes_on(at: float) -> None:
    body = edited(["cursor", "served", "*"], [at, 1])
    now = START + timedelta(seconds=60)
    run, gathered = taken_over(RUN, gather.load(RUN.plan, body), now)
    after = gather.scored(gather.take(gathered, run, sight(), ticks(59), now), update)
    assert after.step == 0
