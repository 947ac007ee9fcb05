"""`bench_live`'s rows about the leader: it is struck at a moment that a seed draws, and callers tell.

Two replicas, each with a wire of its own to the API server. Requests to the canary fail. What counts is the
last answer that a caller got from a canary pod, in seconds since all of it was there: the fault, the
canary's traffic, and the blow. Who was struck is well again later, some before the other has taken over
and some when all is done, and must then do no harm: no weight may rise again.
"""

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from scenarios.cluster.messages import Request
from scenarios.lab import FOLDER, Lab, LabFailed, interruptible
from scenarios.objects import CANARY
from scenarios.plot import Arm, ArmFault, Outcome, Story
from scenarios.story import load

Json = Any

HOWS: Mapping[str, tuple[str, ...]] = {
    "killed": ("kill",),
    "frozen": ("freeze",),
    "cut off": ("stall", "refuse", "lose"),
}
HEALTHY = 1.0  # seconds of traffic at least before a fault that is not there from the beginning
AWAY = 60.0  # seconds for which the API server is
AFTERWARDS = 6.0  # seconds for which whoever is well again is watched: as long as a Lease lasts
# Lenient, so that steps pass in seconds where a raise or a promotion is what is wanted. Half of the requests
# fail then instead of a fifth: that is as far beyond what it allows.
QUICK: Mapping[str, Json] = {
    "steps": [30, 40],
    "warmUp": "1s",
    "minStep": "2s",
    "minRequests": 50,
    "checks": [{"name": "errors", "type": "ErrorRate", "maxIncrease": "50%", "plus": "5%"}],
}
FAILING, FAILING_QUICK = 0.2, 0.5  # of the canary's requests


class Moment(StrEnum):
    """When the leader is struck."""

    BEFORE = "before the first weight"
    RAISE = "just after the first raise"
    STEP = "during a step"
    FAULT = "during the fault"
    PATCH = "between Fail and patch"
    LATER_RAISE = "just after a later raise"
    PROMOTION = "during promotion"


MOMENTS = tuple(Moment)
FROM_THE_BEGINNING = {Moment.BEFORE, Moment.RAISE}
WANTS_PASSES = {Moment.LATER_RAISE, Moment.PROMOTION}


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """What happens to the leader, and when it is over: None means when the canary has no traffic."""

    moment: Moment
    how: str
    wait: float  # seconds into the moment, where it is not an instant
    lasting: float | None
    everybody: bool = False  # all wires are cut: the API server is away


def drawn(what: str, seed: int) -> Blow:
    """The blow of this seed; moments and ways take turns, so that few runs have all of them."""
    chance = Random(f"{what} {seed}")
    hows = HOWS[what]
    return Blow(
        moment=MOMENTS[seed % len(MOMENTS)],
        how=hows[seed % len(hows)],
        wait=chance.uniform(0, 1.5),
        # a Lease is taken over 6 to 9 s after its holder's last word
        lasting=chance.choice([chance.uniform(4, 12), None]),
    )


def outage(seed: int) -> Blow:
    """The API server is away for a minute: frozen, or dead and started again with all that it knew."""
    chance = Random(f"outage {seed}")
    return Blow(
        moment=(Moment.STEP, Moment.FAULT)[seed // 2 % 2],
        how=("stall", "refuse")[seed % 2],
        wait=chance.uniform(0, 0.7),
        lasting=AWAY,
        everybody=True,
    )


def story_of(blow: Blow, *, seed: int) -> Story:
    """errors-burst with two controllers; the fault comes when the blow wants it."""
    story = load(Path(__file__).with_name("errors-burst.yaml"))
    policy = QUICK if blow.moment in WANTS_PASSES else story.policy
    duration = timedelta(seconds=60 + AWAY) if blow.everybody else story.duration
    story = replace(story, name="failover", seed=seed, controllers=2, faults=(), policy=policy)
    return replace(story, duration=duration)


class Failover:
    """One run of it."""

    def __init__(self, blow: Blow, *, seed: int) -> None:
        self.blow = blow
        self.struck: float | None = None  # seconds since 1970, as all times here
        self.mended = 0.0
        self.failing = 0.0  # since when the canary is
        folder = (FOLDER / f"failover-{os.getpid()}-{seed}").absolute()
        self.lab = Lab(story_of(blow, seed=seed), folder=folder, wired=True)

    async def play(self) -> Json:
        """What came of it; what the processes wrote stays in `.lab/` if it is not what was promised."""
        interruptible()
        async with self.lab.open():
            striking = asyncio.create_task(self._blow())
            try:
                await self.lab.run()
                if self.struck is None:
                    if striking.done():
                        striking.result()
                    raise LabFailed(f"no moment {self.blow.moment}; see the logs in {self.lab.folder}")
                if self.blow.lasting is None:
                    await self._mend()
                await striking
                await asyncio.sleep(AFTERWARDS)
                self.lab.stopped = time.time()
            finally:
                striking.cancel()
                await asyncio.gather(striking, return_exceptions=True)
        said = self._said()
        if said["seconds"] is not None:
            shutil.rmtree(self.lab.folder, ignore_errors=True)
        return said

    # -- what happens

    async def _blow(self) -> None:
        """The moment comes, the leader is struck, and if it is to be so soon, it is well again."""
        lab, first = self.lab, self.lab.story.policy["steps"][0]
        match self.blow.moment:
            case Moment.BEFORE:
                await self._fail()
                await lab.until(lambda: bool(lab.runs()))
                await asyncio.sleep(self.blow.wait)
                self._strike()
            case Moment.RAISE:
                await self._fail()
                await lab.until(lambda: lab.weight() == first)
                self._strike()
            case Moment.STEP:
                await lab.until(lambda: lab.weight() == first)
                await asyncio.sleep(HEALTHY + self.blow.wait)
                self._strike()
                await self._fail()
            case Moment.FAULT:
                await lab.until(lambda: lab.weight() == first)
                await asyncio.sleep(HEALTHY)
                await self._fail()
                await asyncio.sleep(self.blow.wait)
                self._strike()
            case Moment.PATCH:
                await lab.until(lambda: lab.weight() == first)
                await asyncio.sleep(HEALTHY)
                with self._lost_patch() as lost:
                    await self._fail()
                    await lost.wait()
            case Moment.LATER_RAISE:
                await lab.until(lambda: lab.weight() > first)
                self._strike()
                await self._fail()
            case Moment.PROMOTION:
                await lab.until(lambda: "Promoting" in map(phase, lab.runs()))
                await asyncio.sleep(self.blow.wait)
                self._strike()
                await self._fail()
        if self.blow.lasting is not None:
            await asyncio.sleep(self.blow.lasting)
            await self._mend()

    def _strike(self) -> None:
        replicas = self.lab.replicas
        if replicas is None:
            return
        self.struck = time.time()
        if self.blow.everybody:
            for wire in replicas.wires:
                wire.strike(self.blow.how)
        else:
            replicas.strike(self.blow.how)

    async def _mend(self) -> None:
        if self.blow.everybody and self.blow.how == "refuse":
            self.lab.world.registry.store.compact()  # a new process can tell nobody what has changed since
        if self.lab.replicas is not None:
            await self.lab.replicas.mend()
            self.mended = time.time()

    async def _fail(self) -> None:
        rate = FAILING_QUICK if self.blow.moment in WANTS_PASSES else FAILING
        fault = ArmFault(at=timedelta(0), arm=Arm.CANARY, error_rate=rate)
        await self.lab.arm_fault(fault, begins=True)
        self.failing = time.time()

    @contextlib.contextmanager
    def _lost_patch(self) -> Iterator[asyncio.Event]:
        """The next patch of the VirtualService is lost, and whoever sent it is struck at that instant."""
        lost = asyncio.Event()

        def hear(request: Request) -> None:
            if request.method == "PATCH" and "/virtualservices/" in request.path and not lost.is_set():
                lost.set()
                self._strike()
                raise ConnectionResetError("lost on its way")

        over = self.lab.world.on_request(hear)
        try:
            yield lost
        finally:
            over()

    # -- what came of it

    def _said(self) -> Json:
        """As it goes into the file; no `seconds` where the canary was not rolled back for good."""
        result = self.lab.result()
        answered = canary_answers(self.lab.folder / "sent.jsonl")
        kept = result.outcome == Outcome.ROLLED_BACK and not risen(result.weights, since=self._since())
        began = self.mended if self.blow.everybody else self.struck
        onset = max(self.failing, min(answered, default=0.0), began or 0.0)
        return {
            **{name: value for name, value in result.as_json().items() if name != "evidence"},
            "ok": kept,  # the story itself knows of no blow, and when it should end
            "message": (result.evidence or {}).get("message", ""),
            "moment": self.blow.moment,
            "how": self.blow.how,
            "lasting": self.blow.lasting and round(self.blow.lasting, 1),
            "struck": round((self.struck or 0.0) - self.lab.zero, 3),
            "seconds": round(max(answered, default=onset) - onset, 3) if kept else None,
            "reaction": None,  # nobody's who was well all the time
        }

    def _since(self) -> float:
        return self.failing - self.lab.zero


def phase(run: Json) -> str:
    """The phase that the run's status says."""
    return str((run.get("status") or {}).get("phase"))


def canary_answers(file: Path) -> list[float]:
    """When callers had each answer that came from a canary pod, in seconds since 1970."""
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    return [said["due"] + said["took"] for said in lines if (said.get("pod") or "").startswith(f"{CANARY}-")]


def risen(weights: Sequence[tuple[float, int]], *, since: float) -> bool:
    """Whether a canary that had traffic got more of it, or some again, after `since`."""
    return any(
        after > before and at > since and any(weight for then, weight in weights if then < at)
        for (_, before), (at, after) in pairwise(weights)
    )


async def away(seed: int) -> Json:
    """One run in which the API server is away; `seconds` count from its return."""
    return await Failover(outage(seed), seed=seed).play()


async def struck(what: str, seed: int) -> Json:
    """One run in which the leader is killed, frozen or cut off."""
    return await Failover(drawn(what, seed), seed=seed).play()
