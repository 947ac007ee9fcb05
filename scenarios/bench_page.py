"""`make bench-page`: the page with 200 runs in a real Chromium, and what it takes of the controller.

First paint and bytes are the browser's own figures, of a fresh browser with nothing in its cache; medians
of a few visits. What is asked of anybody but the controller is counted too, and has to be nothing.
Processor time is this process's.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from statistics import median

from controller.page import routes, views
from controller.page.traces import drawn
from controller.telemetry import Telemetry
from controller.web import Answers, serving
from scenarios.browser import browser
from scenarios.gallery import BEGAN, Room, curves, gallery, progressing

RUNS, VISITS, TIMES = 200, 5, 20
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def answers(room: Room) -> Answers:
    """A controller that knows these runs."""
    return Answers(
        idle=lambda: timedelta(0),
        lists=dict,
        metrics=Telemetry().page,
        runs=lambda: room.runs,
        trace=room.traces.get,
    )


async def visits(room: Room, place: str) -> tuple[float, float, int, int]:
    """Seconds to the first paint and to the runs, bytes, and requests that went elsewhere."""
    paints, shown, received, elsewhere = [], [], 0, 0
    async with serving(answers(room), "127.0.0.1", 0) as url, browser() as tab:
        await tab.look(width=1200)
        await tab.do("Network.setCacheDisabled", cacheDisabled=True)
        for _ in range(VISITS):
            await tab.do("Page.navigate", url="about:blank")
            tab.received = 0
            await tab.do("Page.navigate", url=f"{url}/{place}")
            await tab.until("document.body?.dataset.shown")
            shown.append(await tab.ask("performance.now()"))
            await tab.until(PAINT)
            paints.append(await tab.ask(PAINT))
            received = tab.received
        elsewhere = sum(not each.startswith(url) for each in tab.requests if each != "about:blank")
    return median(paints) / 1e3, median(shown) / 1e3, received, elsewhere


def spent(work: Callable[[], object]) -> float:
    """Milliseconds of processor time, the median."""
    found = []
    for _ in range(TIMES):
        began = time.process_time()
        work()
        found.append(1e3 * (time.process_time() - began))
    return median(found)


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    now = datetime.now(UTC)
    room = gallery(many=RUNS - 6, now=now)
    for what, place in (
        (f"the list of {RUNS} runs", "#/"),
        ("one run with all its curves", "#/ml/fraud-score-canary-6f9c7d5b84-1"),
    ):
        paint, shown, received, elsewhere = asyncio.run(visits(room, place))
        say(f"{what}: first paint {paint:.2f} s, everything {shown:.2f} s, {received / 1e3:.0f} kB,")
        say(f"  {elsewhere} requests to anybody else")
    run, trace = room.runs[0], next(iter(room.traces.values()))
    lines = spent(lambda: [views.line(each) for each in room.runs])
    one = spent(lambda: json.dumps(views.shown(run, now=now, trace=drawn(trace))))
    say(f"the list made anew: {lines:.1f} ms of the controller, one run {one:.1f} ms;")
    say(f"  however many look on, at most {1 / (1 + routes.REST):.0%} of it")
    held = curves(progressing("model", BEGAN), Random(1))
    size = held.rows.nbytes + sum(each.cells.nbytes + each.before.nbytes for each in held.recent.values())
    say(f"the curves of a run: {size / 1e3:.0f} kB of memory")


def say(line: str) -> None:
    """The line is on the terminal."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
