"""`python -m scenarios.scale.ages`: hours in virtual time; what a tick costs, and what stays in memory.

The real controller on the emulated API server, in one process and without sockets: what is measured is
processor time, so it may run beside other work. Python looks for cycles as seldom as in the controller's own
process.
"""

import argparse
import asyncio
import gc
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from controller.__main__ import CYCLES
from controller.telemetry import start_logging
from scenarios.scale import objects
from scenarios.scale.inside import inside
from scenarios.virtual.loop import run_virtual


@dataclass(frozen=True, slots=True)
class Age:
    """How things stood at a virtual second."""

    at: float
    cpu: float  # seconds of processor time so far
    rss: int  # bytes
    things: int  # Python objects that the collector knows


async def ages(canaries: int, *, every: float, times: int) -> list[Age]:
    """The controller's ages while so many canaries stay at their step."""
    found = []
    async with inside([objects.PODS] * canaries):
        for _ in range(times + 1):
            await asyncio.sleep(every)
            gc.collect()
            found.append(_age(asyncio.get_running_loop().time()))
    return found


def _age(at: float) -> Age:
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Age(at, time.process_time(), rss, len(gc.get_objects()))


def lines(canaries: int, found: Sequence[Age]) -> Iterator[str]:
    """A line for each age but the first."""
    yield f"{'hours':>6} {'ms / canary and tick':>21} {'MB':>6} {'objects':>8}"
    for before, after in pairwise(found):
        cost = 1000 * (after.cpu - before.cpu) / (after.at - before.at) / canaries
        yield f"{after.at / 3600:6.2f} {cost:21.2f} {after.rss / 1e6:6.0f} {after.things:8}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m scenarios.scale.ages", description=__doc__)
    parser.add_argument("--canaries", type=int, default=1)
    parser.add_argument("--hours", type=float, default=24, help="virtual hours (default: 24)")
    parser.add_argument("--times", type=int, default=24, help="lines (default: 24)")
    told = parser.parse_args(arguments)
    start_logging("json", level="warning")
    gc.freeze()
    gc.set_threshold(*CYCLES)
    every = 3600 * told.hours / told.times
    for line in lines(told.canaries, run_virtual(ages(told.canaries, every=every, times=told.times))):
        print(line)  # noqa: T201


if __name__ == "__main__":
    main()
