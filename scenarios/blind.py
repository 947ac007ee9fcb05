"""`bench_live`'s row about Prometheus: it is away for a minute, and then a canary fails that pages show.

One check is read there and one on the pods' pages; both are needed for a Pass, and with both a step would
pass in seconds. While it is away nothing may move. Then, while it is away still, the canary fails.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from scenarios.failover import FAILING_QUICK, QUICK, canary_answers
from scenarios.lab import FOLDER, Lab, interruptible
from scenarios.live.prometheus import Prometheus
from scenarios.objects import NAMESPACE
from scenarios.plot import Arm, ArmFault, Outcome, Story
from scenarios.story import load

Json = Any

AWAY = 60.0  # seconds
READ = 4.0  # seconds of a weight after which Prometheus knows the canary, and no step has passed
QUERIED = "queried"  # the check that is read there
SCRAPED = "errors"


def story(seed: int) -> Story:
    """errors-burst without its fault, whose steps pass soon."""
    found = load(Path(__file__).with_name("errors-burst.yaml"))
    (pages,) = QUICK["checks"]
    checks = [pages, {**pages, "name": QUERIED, "source": {"prometheus": {}}}]
    policy = {**QUICK, "minStep": "8s", "checks": checks}
    duration = timedelta(seconds=60 + AWAY)
    return replace(found, name="blind", seed=seed, faults=(), policy=policy, duration=duration)


@contextlib.asynccontextmanager
async def blinded(seed: int) -> AsyncIterator[tuple[Lab, Prometheus]]:
    """A lab whose controller asks a Prometheus; afterwards neither is there."""
    folder = (FOLDER / f"blind-{os.getpid()}-{seed}").absolute()
    prometheus = Prometheus(folder / "prometheus")
    lab = Lab(story(seed), folder=folder, flags=prometheus.flags)
    async with lab.open():
        try:
            await prometheus.start()
            yield lab, prometheus
        finally:
            await prometheus.stop()


async def away(seed: int) -> Json:
    """One run; no `seconds` where anything moved that should not have, or pages were not enough.

    Prometheus is killed by even seeds and frozen by odd ones. `scraped` and `queried` are how many canary
    requests each source has told of meanwhile.
    """
    interruptible()
    failing, counts = 0.0, []
    async with blinded(seed) as (lab, prometheus):

        async def conduct() -> None:
            nonlocal failing
            await lab.until(lambda: lab.weight() > 0)
            prometheus.scrape({life.name: life.ip for life in lab.pods.lives.values()}, namespace=NAMESPACE)
            await asyncio.sleep(READ)
            prometheus.strike(signal.SIGSTOP if seed % 2 else signal.SIGKILL)
            counts.append(counted(lab))
            await asyncio.sleep(AWAY)
            counts.append(counted(lab))
            fault = ArmFault(at=timedelta(0), arm=Arm.CANARY, error_rate=FAILING_QUICK)
            await lab.arm_fault(fault, begins=True)
            failing = time.time()

        conducting = asyncio.create_task(conduct())
        try:
            await lab.run()
            if conducting.done():
                conducting.result()
        finally:
            conducting.cancel()
            await asyncio.gather(conducting, return_exceptions=True)
    result = lab.result()
    answered = canary_answers(lab.folder / "sent.jsonl")
    still = [weight for _, weight in result.weights] == [0, QUICK["steps"][0], 0]
    kept = still and failing > 0 and (result.outcome, result.check) == (Outcome.ROLLED_BACK, SCRAPED)
    if kept:
        shutil.rmtree(lab.folder, ignore_errors=True)
    told = {name: counts[-1][name] - counts[0][name] for name in (SCRAPED, QUERIED)} if counts else {}
    return {
        **{name: value for name, value in result.as_json().items() if name != "evidence"},
        "ok": kept,  # the story itself knows of no outage, and when it should end
        "message": (result.evidence or {}).get("message", ""),
        "meanwhile": told,
        "seconds": round(max(answered) - failing, 3) if kept else None,
        "reaction": None,
    }


def counted(lab: Lab) -> dict[str, int]:
    """The canary requests that each check says it has compared."""
    (run,) = lab.runs()
    checks = (run.get("status") or {}).get("checks") or ()
    return {SCRAPED: 0, QUERIED: 0} | {one["name"]: one["canaryRequests"] for one in checks}
