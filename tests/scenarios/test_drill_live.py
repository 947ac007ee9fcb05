"""A drill as somebody types it: a real Envoy, real model servers, the controller's process, real kubectl."""

import asyncio
import json
import os
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from scenarios.lab import Lab, interruptible
from scenarios.live import measure
from scenarios.objects import CANARY, NAMESPACE
from scenarios.result import ended
from scenarios.story import load

pytestmark = pytest.mark.live

STORY = Path(__file__).parents[2] / "scenarios" / "good-canary.yaml"
BIN = Path(sys.executable).parent
PROMISED = 300.0  # seconds: the seed's "a rollback drill in under five minutes"


async def typed(lab: Lab, *words: str) -> tuple[int | None, str]:
    """How `serin` ends in a terminal of its own, and what it prints."""
    somebody = lab.world.kubeconfig(lab.folder / "somebody", namespace=NAMESPACE)
    environ = os.environ | {"KUBECONFIG": str(somebody), "PATH": f"{BIN}:{os.environ['PATH']}"}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        BIN / "serin", *words, env=environ, stdout=pipe, stderr=pipe
    )
    out, err = await process.communicate()
    return process.returncode, out.decode() or err.decode()


async def test_a_drill_takes_the_traffic_away_from_a_real_proxy_and_measures_how_long_it_took(
    tmp_path: Path,
) -> None:
    interruptible()
    story = load(STORY)
    policy = {**story.policy, "scaleDownDelay": {"promoted": "300s", "rolledBack": "300s"}}
    lab = Lab(replace(story, policy=policy, duration=timedelta(seconds=120)), folder=tmp_path)
    async with lab.open(), asyncio.timeout(120):
        await lab.people.create(lab._objects()[-1])
        await lab.until(lambda: lab.weight() > 0)
        name = lab.runs()[0]["metadata"]["name"]
        assert (await typed(lab, "abort", name, "--reason", "room for a drill"))[0] == 0
        await lab.until(lambda: all(map(ended, lab.runs())) and lab.weight() == 0)
        await asyncio.sleep(2)  # what the first run sent is answered

        code, said = await typed(lab, "drill", CANARY, "--other-version", "--patience", "60", "-o", "json")
        assert code == 0, said
        found = json.loads(said)
        (drill,) = [run for run in lab.runs() if run["metadata"]["name"] == found["run"]]
        assert lab.weight() == 0
        await asyncio.sleep(1)
        over = lab.stopped = time.time()

    assert found["ok"]
    assert 0 < found["secondsToWeightZero"] < PROMISED
    given, taken = [weight for _, weight in lab.observed.weights][-2:]
    assert (given, taken) == (found["weight"], 0)
    assert drill["status"]["message"] == "aborted: drill: a measured rollback"
    (zero,) = [at for at, weight in lab.observed.weights if weight == 0][-1:]
    log = measure.entries(lab.envoy.access_log)
    during = [one for one in log if one.arm == "canary" and one.start > zero - 5]
    assert during  # there was traffic to take away
    last = max(one.start for one in during) - zero
    assert last < story.propagation.total_seconds() + 1.0
    assert not [one for one in log if one.failed and one.end < over - 0.1]  # the load ends as it will
