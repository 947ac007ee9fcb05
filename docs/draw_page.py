"""Draws docs/page.png: the page of a run that was played in virtual time, as Chromium shows it.

`make picture`. Every number in the picture comes from the run; the story's file says what was ordered.
"""
# ruff: noqa: INP001
# (a script, not a package)

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from controller.model import Run
from controller.page.traces import Trace, Traces
from controller.placebos import Placebos
from controller.telemetry import Telemetry
from controller.web import Answers, serving
from scenarios.browser import browser
from scenarios.objects import NAMESPACE
from scenarios.play import Theatre
from scenarios.story import load
from scenarios.virtual.loop import run_virtual

HERE = Path(__file__).parent
STORY = HERE.parent / "scenarios" / "latency-doubles.yaml"
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
WIDTH, HEIGHT = 1100, 1010  # of the picture; what is below on the page is left out


def played() -> tuple[list[Any], Traces]:
    """The story's runs as objects, and their curves, as if it had just been played."""
    kept, begin = Traces(), Traces.begin

    def noted(self: Traces, run: Run, placebos: Placebos) -> list[Trace]:
        found = begin(self, run, placebos)
        kept.by_run |= self.by_run
        return found

    Traces.begin = noted  # type: ignore[method-assign] # looked at, not changed: curves end with a controller
    theatre = run_virtual(Theatre.play(load(STORY)))
    text = json.dumps(theatre.world.objects("canaryruns", NAMESPACE))
    times = {each: datetime.fromisoformat(each) for each in TIME.findall(text)}
    later = datetime.now(UTC) - max(times.values())
    for trace in kept.by_run.values():
        trace.began += later.total_seconds()
    return json.loads(TIME.sub(lambda each: (times[each[0]] + later).isoformat(), text)), kept


async def shown(runs: list[Any], traces: Traces) -> bytes:
    """The first run's page as a PNG."""
    answers = Answers(
        idle=lambda: timedelta(0), lists=dict, metrics=Telemetry().page, runs=lambda: runs, trace=traces.of
    )
    name = runs[0]["metadata"]["name"]
    async with serving(answers, "127.0.0.1", 0) as url, browser() as tab:
        await tab.look(width=WIDTH, height=HEIGHT)
        await tab.do("Page.navigate", url=f"{url}/#/{NAMESPACE}/{name}")
        await tab.until("document.body?.dataset.shown")
        return await tab.picture(whole=False)


if __name__ == "__main__":
    (HERE / "page.png").write_bytes(asyncio.run(shown(*played())))
