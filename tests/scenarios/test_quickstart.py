"""The quick start: its model says what checks need, its canary is asked for, and it ends as the page says."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from analysis.samples import Histogram
from controller import planning, policies, reading
from scenarios.play import Theatre
from scenarios.story import loads
from scenarios.virtual.loop import run_virtual
from tests.asking import asked
from tests.unit.test_manifests import built

Json = Any
ROOT = Path(__file__).parents[2]
HERE = ROOT / "manifests" / "quickstart"
POLICY = planning.read(HERE / "policy.yaml")


@contextmanager
def running(program: str, **environ: str) -> Iterator[None]:
    """The program, as a pod runs it."""
    with subprocess.Popen([sys.executable, HERE / program], env=os.environ | environ) as process:
        try:
            yield
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def got(url: str) -> bytes:
    """The answer, once there is one."""
    for _ in range(100):
        try:
            with urlopen(url, timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer")


def mean(of: Histogram) -> float:
    """Roughly, by the bounds above."""
    return sum(n * le for n, le in zip(of.count, of.le, strict=False)) / of.n


@pytest.mark.live
def test_its_callers_are_answered_and_its_pages_say_what_the_checks_need() -> None:
    checks = [one for one in policies.policy(POLICY).checks if one.name != "errors"]  # the sidecar says those
    found = {}
    for slower in ("1", "3"):
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with running("server.py", PORT=str(port), SLOWER=slower):
            assert got(f"{url}/ready")
            with running("callers.py", URL=f"{url}/predict", RATE="60"):
                time.sleep(3)
            read, wrong = reading.read(got(f"{url}/metrics"), checks, at=0.0)
        assert not wrong
        found[slower] = read.values
    plain, slow = (found[each]["latency-p95"] for each in ("1", "3"))
    assert isinstance(plain, Histogram)
    assert isinstance(slow, Histogram)
    assert min(plain.n, slow.n) > 60
    assert 2 < mean(slow) / mean(plain) < 4


def test_what_is_applied_asks_for_a_run() -> None:
    made, refused = asked(built("quickstart"), ("quickstart", "model-canary"))
    assert refused == []
    (run,) = made
    assert run["spec"]["plan"]["policy"]["steps"] == [20, 50]


def played(*faults: Json) -> Theatre:
    """The page's story, in virtual time, with the model that server.py pretends."""
    story = yaml.safe_load((ROOT / "scenarios" / "good-canary.yaml").read_text())
    arm = {"replicas": 3, "latency": {"distribution": "lognormal", "median": "20ms", "p95": "46ms"}}
    story["spec"]["stable"] |= arm | {"errorRate": "0%"}
    story["spec"] |= {"policy": POLICY, "duration": "400s", "faults": list(faults)}
    return run_virtual(Theatre.play(loads(yaml.safe_dump(story), file="quickstart")))


def test_an_equal_version_is_promoted_after_a_minute_or_two() -> None:
    theatre = played()
    assert theatre.result.outcome == "Promoted"
    began, at_stable = (theatre.result.weights[place][0] for place in (1, -1))
    assert 60 <= at_stable - began <= 180


@pytest.mark.parametrize(
    ("fault", "most"),
    [({"latencyFactor": 2.0}, 60), ({"errorRate": "20%"}, 15)],
    ids=["SLOWER=2", "FAILING=0.2"],
)
def test_a_worse_version_is_rolled_back_in_the_time_that_the_page_says(fault: Json, most: float) -> None:
    theatre = played({"at": "0s", "arm": "canary", **fault})
    assert (theatre.result.outcome, theatre.result.reason) == ("RolledBack", "CheckFailed")
    began, ended = (theatre.result.weights[place][0] for place in (1, -1))
    assert ended - began <= most
