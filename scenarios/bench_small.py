"""`make bench-small`: what is felt often and small: a command's start, and a request's instrumentation.

Each beside what it is compared with, in turns and in one run, so that a busy machine slows both. Commands:
wall-clock and processor time of whole processes against `python -c pass`. A request: one block of `request`,
one prediction and one look at six features by `controller.instrument`, against the same two histograms by
prometheus_client, which counts no features; processor time of this process.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from prometheus_client import CollectorRegistry, Histogram

from controller.instrument import SCORES, SECONDS, Instrumented

ROW = dict.fromkeys(("age", "income", "tenure", "visits", "balance", "region"), 1.0)
REQUESTS = 2_000  # a turn
# `serin list` asks the cluster by kubectl: this one answers at once, and what is measured is ours.
KUBECTL = '#!/bin/sh\necho \'{"apiVersion": "v1", "kind": "List", "items": []}\'\n'

Took = tuple[float, float]  # seconds: wall clock, processor


def ran(*command: str, path: str) -> Took:
    """What a process took, with its children."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ | {"PATH": path})
    took, after = time.perf_counter() - began, os.times()
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()[-300:]}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return took, used


def starts(*, times: int) -> Iterator[str]:
    """The table of commands."""
    with tempfile.TemporaryDirectory() as folder:
        kubectl = Path(folder) / "kubectl"
        kubectl.write_text(KUBECTL)
        kubectl.chmod(0o755)
        path = f"{folder}:{os.environ['PATH']}"
        serin = str(Path(sys.executable).with_name("serin"))
        commands = {
            "python -c pass": (sys.executable, "-c", "pass"),
            "serin --help": (serin, "--help"),
            "serin list": (serin, "list"),
        }
        for command in commands.values():
            ran(*command, path=path)  # files are read
        found: dict[str, list[Took]] = {name: [] for name in commands}
        for _ in range(times):
            for name, command in commands.items():
                found[name].append(ran(*command, path=path))
    yield f"{'command':20} {'wall ms':>8} {'cpu ms':>8} {'more ms':>8} {'ratio':>6}   medians of {times}"
    base = median(wall for wall, _ in found["python -c pass"])
    for name, took in found.items():
        wall, used = (median(each) for each in zip(*took, strict=True))
        yield f"{name:20} {1e3 * wall:8.0f} {1e3 * used:8.0f} {1e3 * (wall - base):8.0f} {wall / base:6.1f}"


def ours() -> Callable[[], None]:
    """A request by `controller.instrument`."""
    model = Instrumented("m", "1", features=ROW)

    def request() -> None:
        with model.request():
            model.features(ROW)
            model.predicted(0.3)

    return request


def without_features() -> Callable[[], None]:
    """The same without a look at the features: what prometheus_client's does."""
    model = Instrumented("m", "1")

    def request() -> None:
        with model.request():
            model.predicted(0.3)

    return request


def theirs() -> Callable[[], None]:
    """The two histograms by prometheus_client, with the same bounds; found beforehand, as its docs say."""
    registry, names = CollectorRegistry(), ("model_name", "model_version")
    took = Histogram("took", "t", names, buckets=SECONDS, registry=registry).labels("m", "1")
    said = Histogram("said", "s", names, buckets=SCORES, registry=registry).labels("m", "1")

    def request() -> None:
        with took.time():
            said.observe(0.3)

    return request


def microseconds(request: Callable[[], None]) -> float:
    """Processor time of one of `REQUESTS`."""
    began = time.process_time()
    for _ in range(REQUESTS):
        request()
    return 1e6 * (time.process_time() - began) / REQUESTS


def requests(*, times: int) -> Iterator[str]:
    """The table of requests."""
    ways = {
        "prometheus_client": theirs(),
        "controller.instrument, without features": without_features(),
        "controller.instrument": ours(),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(times):
        for name, way in ways.items():
            found[name].append(microseconds(way))
    yield f"{'a request':40} {'cpu us':>8} {'ratio':>6}   medians of {times}"
    base = median(found["prometheus_client"])
    for name, took in found.items():
        yield f"{name:40} {median(took):8.1f} {median(took) / base:6.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(prog="python -m scenarios.bench_small", description=__doc__)
    parser.add_argument("--times", type=int, default=21, help="medians of so many (default: 21)")
    times = parser.parse_args(arguments).times
    for line in (*starts(times=times), "", *requests(times=times)):
        print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
