"""`make bench-scale`: how many canaries one core holds, measured on the real controller as a process.

Around it, each a process of its own: the emulated API server with all objects, and the pods' pages, 3 kB
each, on loopback. Canaries fail, one after the other and at any time of a tick: first of ten at most, which
are next to nothing for a core, then among so many. What people feel of it is the time from the fault, in the
pods, to the patch that takes the traffic; it holds the wait for the next page. The controller runs on one
core, the rest on the others. `yardstick` says how fast that core is in this hour, so that tables of two hours
can be compared. What takes longer than it may is left out, and said;
with `--keep` what has been measured is not measured again.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from math import nan
from pathlib import Path
from typing import Any

import aiohttp

from scenarios.live import processes
from scenarios.scale import objects
from scenarios.scale.pages import FAULTS
from scenarios.scale.parts import parts

Json = Any
Rollback = tuple[float, float]  # seconds to the patch: from the fault, and from the first page that shows it
MINUTES = 25.0  # for everything
STEADY = 20.0  # seconds from the first step of the last canary until anything is measured
BAD = 120.0  # seconds within which a canary that fails must be rolled back
FEW = 10  # canaries that a controller has for as good as none: each has two milliseconds of a second
AGED = 60.0  # seconds that canaries among few have had their traffic for: those among many have as long
# Seconds from one fault to the next on average, and by chance, so that it is in step with nothing.
APART = 3.0
RESAMPLES, SEED = 2_000, 5


@dataclass(frozen=True, slots=True)
class Usage:
    """What the controller has used so far."""

    at: float
    cpu: float  # seconds
    rss: int  # bytes
    waited: float  # seconds that it was ready for its core and somebody else had it
    lags: Mapping[float, float]  # ticks by the upper bound of their lag, cumulative


@dataclass(frozen=True, slots=True)
class Measured:
    """So many canaries over so many seconds."""

    canaries: int
    cpu: float  # cores
    waited: float  # of its time, for its core, that somebody else had
    rss: float  # MB
    p50: float
    p99: float
    ticks: float  # a second and canary
    rollbacks: Mapping[str, Sequence[Rollback]]  # by what was wrong
    lost: int  # how often the Lease was lost
    load: float  # average of the machine's last minute: of two cores, 2 is all of them
    parts: Mapping[str, float]  # of the processor time, by what it was spent on
    yardstick: float  # ms that the controller's core takes, right after it, for work that never changes

    @property
    def cost(self) -> float:
        """Milliseconds of processor time a tick of a canary, however few there are on a full core."""
        return 1000 * self.cpu / self.canaries / self.ticks if self.ticks else nan


class Bench:
    """The controller and its surroundings."""

    def __init__(self, folder: Path, *, canaries: int) -> None:
        self.folder = folder
        self.canaries = canaries
        self._running: list[Process] = []
        self._port = processes.free_port()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """All processes run; afterwards none."""
        shutil.rmtree(self.folder, ignore_errors=True)  # of a try that was cut off
        self.folder.mkdir(parents=True)
        try:
            await self._start()
            async with aiohttp.ClientSession() as self._session:
                yield
        finally:
            for process in reversed(self._running):
                await processes.end(process, seconds=10)

    async def _start(self) -> None:
        await self._python("-m", "scenarios.scale.pages", str(self.folder / "pages.jsonl"), log="port")
        port = await _written(self.folder / "port")
        self.pages = f"http://127.0.0.1:{port}"
        where = str(self.folder), port, str(self.canaries)
        seen = "-m", "scenarios.scale.sampled"
        out = str(self.folder / "cluster.stacks")
        await self._python(*seen, out, "scenarios.scale.cluster", *where, log="cluster.log")
        await _written(self.folder / "kubeconfig")
        flags = {"--kubeconfig": self.folder / "kubeconfig", "--port": self._port, "--log-format": "json"}
        told = [str(word) for flag in flags.items() for word in flag]
        out = str(self.folder / "stacks")
        self.controller = await self._python(*seen, out, "controller", *told, log="controller.log")
        _confine(self.controller.pid, last=True)

    async def _python(self, *argv: str, log: str) -> Process:
        process = await processes.python(*argv, log=self.folder / log)
        _confine(process.pid, last=False)
        self._running.append(process)
        return process

    async def stop(self) -> None:
        """The controller has ended and said where its time went."""
        await processes.end(self.controller, seconds=10)

    async def yardstick(self) -> float:
        """How fast the controller's core is in this hour, once it has ended."""
        out = self.folder / "yardstick"
        process = await processes.python("-m", "scenarios.scale.yardstick", log=out)
        _confine(process.pid, last=True)
        await process.wait()
        return float(_text(out))

    async def usage(self) -> Usage:
        """What the controller has used by now."""
        return Usage(time.time(), *_used(self.controller.pid), dict(_lags(await self._metrics())))

    async def _metrics(self) -> str:
        async with self._session.get(f"http://127.0.0.1:{self._port}/metrics") as answer:
            return await answer.text()

    async def stepping(self, count: int) -> None:
        """So many canaries get traffic, if they ever do."""
        while len({one["name"] for one in self._weights() if one["weight"] > 0}) < count:
            self.check()
            await asyncio.sleep(0.5)

    def check(self) -> None:
        """Raises if the controller runs no more."""
        if self.controller.returncode is not None:
            raise RuntimeError(f"the controller has ended after {self.lost()} lost Leases; see {self.folder}")

    def lost(self) -> int:
        """How often the controller has lost its Lease."""
        return (self.folder / "controller.log").read_text().count('"event": "lease_lost"')

    async def rolled_back(self, kind: str, indices: Sequence[int]) -> list[Rollback]:
        """How long it takes until each of them, of which one after the other fails, has no traffic."""
        chance, waiting = random.Random(len(indices)), []
        for index in indices:
            await asyncio.sleep(chance.uniform(0, 2 * APART))
            waiting.append(asyncio.create_task(self._rolled_back(kind, index)))
        return await asyncio.gather(*waiting)

    async def _rolled_back(self, kind: str, index: int) -> Rollback:
        async with self._session.post(f"{self.pages}/fault/{index}/{kind}"):
            pass
        async with asyncio.timeout(BAD):
            while True:
                await asyncio.sleep(0.5)
                told = [one for one in _lines(self.folder / "pages.jsonl") if one["index"] == index]
                began = next(one["began"] for one in told if "began" in one)
                mine = [one for one in self._weights() if one["name"] == objects.name(index)]
                zero = [one["at"] for one in mine if not one["weight"] and one["at"] > began]
                if zero and (shown := [one["at"] for one in told if "at" in one]):
                    return zero[0] - began, zero[0] - shown[0]

    def _weights(self) -> list[Json]:
        return _lines(self.folder / "weights.jsonl")


def _confine(pid: int, *, last: bool) -> None:
    """The process has the last core to itself, or all the others."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(pid, cores[-1:] if last else cores[:-1])


async def _written(file: Path) -> str:
    """What the file holds, once it holds anything."""
    while not (text := _text(file)):  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.1)
    return text


def _text(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""


def _used(pid: int) -> tuple[float, int, float]:
    """Processor time in seconds and memory in bytes of the process, and how long it waited for its core."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    cpu = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return cpu, pages * os.sysconf("SC_PAGE_SIZE"), waited


def _lines(file: Path) -> list[Json]:
    """What is there so far; the last line may not be whole yet."""
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]


def _lags(page: str) -> Iterator[tuple[float, float]]:
    for line in page.splitlines():
        if line.startswith("canary_tick_lag_seconds_bucket"):
            name, _, value = line.partition("} ")
            yield float(name.rpartition('le="')[2].rstrip('"')), float(value)


def quantile(buckets: Mapping[float, float], q: float) -> float:
    """The smallest bound that so large a part lies below."""
    total = buckets.get(float("inf"), 0.0)
    return min((bound for bound, count in buckets.items() if count >= q * total), default=float("nan"))


async def alone(folder: Path, *, kind: str, times: int) -> list[Rollback]:
    """Rollbacks of so many canaries, of which there are never more than a few."""
    found = []
    for begins in range(0, times, FEW):
        mine = range(min(FEW, times - begins))
        bench = Bench(folder, canaries=len(mine))
        async with bench.open():
            await bench.stepping(len(mine))
            await asyncio.sleep(AGED)
            found += await bench.rolled_back(kind, mine)
    return found


async def among(
    folder: Path, *, canaries: int, seconds: float, faults: int, kinds: Sequence[str]
) -> Measured:
    """So many canaries for so long, then `faults` of them fail in each way, one after the other."""
    bench = Bench(folder, canaries=canaries)
    async with bench.open():
        await bench.stepping(canaries)
        await asyncio.sleep(STEADY)
        before = await bench.usage()
        bench.controller.send_signal(signal.SIGUSR1)  # what came before is not what is measured
        await asyncio.sleep(seconds)
        bench.controller.send_signal(signal.SIGUSR2)
        after = await bench.usage()
        there = iter(range(canaries // 2, canaries))
        back = {kind: await bench.rolled_back(kind, list(islice(there, faults))) for kind in kinds}
        bench.check()
        await bench.stop()
        yardstick = await bench.yardstick()
    took = after.at - before.at
    lags = {bound: count - before.lags.get(bound, 0.0) for bound, count in after.lags.items()}
    return Measured(
        canaries=canaries,
        cpu=(after.cpu - before.cpu) / took,
        waited=(after.waited - before.waited) / took,
        rss=after.rss / 1e6,
        p50=quantile(lags, 0.5),
        p99=quantile(lags, 0.99),
        ticks=lags.get(float("inf"), 0.0) / took / canaries,
        rollbacks=back,
        lost=bench.lost(),
        load=os.getloadavg()[0],
        parts=parts(folder / "stacks"),
        yardstick=yardstick,
    )


def table(single: Mapping[str, Sequence[Rollback]], found: Sequence[Measured]) -> Iterator[str]:
    """What was measured, a column each number of canaries."""
    if not found:
        return
    yield f"{'canaries':26}" + "".join(f"{one.canaries:10}" for one in found)
    for title, row in (
        ("core used", [f"{one.cpu:.2f}" for one in found]),
        ("  had by somebody else", [f"{one.waited:.2f}" for one in found]),
        ("ms / canary and tick", [f"{one.cost:.2f}" for one in found]),
        ("  of the first", [f"{one.cost / found[0].cost:.2f}" for one in found]),
        ("ticks / s and canary", [f"{one.ticks:.2f}" for one in found]),
        ("tick lag p50, s, at most", [f"{one.p50:g}" for one in found]),
        ("tick lag p99, s, at most", [f"{one.p99:g}" for one in found]),
        ("MB", [f"{one.rss:.0f}" for one in found]),
        ("Leases lost", [str(one.lost) for one in found]),
        ("machine's load", [f"{one.load:.1f}" for one in found]),
        ("yardstick, ms", [f"{one.yardstick:.0f}" for one in found]),
    ):
        yield f"{title:26}" + "".join(f"{cell:>10}" for cell in row)
    yield from _rollbacks(single, found)
    for part in sorted({part for one in found for part in one.parts}):
        cells = [f"{one.cost * one.parts.get(part, 0.0):10.3f}" for one in found]
        yield f"  ms {part:21}" + "".join(cells)


def _rollbacks(single: Mapping[str, Sequence[Rollback]], found: Sequence[Measured]) -> Iterator[str]:
    """Medians of each kind of fault, the worst, and how much longer it takes than among few."""
    kinds = dict.fromkeys(kind for one in found for kind, measured in one.rollbacks.items() if measured)
    for kind in kinds:
        for place, since in enumerate(("fault", "first page with it")):
            few = [one[place] for one in single.get(kind, ())]
            many = [[back[place] for back in one.rollbacks.get(kind, ())] for one in found]
            said = f"median {_median(few):.2f}, worst {max(few, default=nan):.2f}"
            yield f"rollback ({kind}), s from the {since}; of those among {FEW}: {said}"
            for title, row in (
                ("  median", [f"{_median(one):.2f}" for one in many]),
                (f"  of that among {FEW}", [f"{_median(one) / _median(few):.2f}" for one in many]),
                ("  95 % of resamples", [f"{low:.1f}-{high:.1f}" for low, high in _ratios(many, few)]),
                ("  worst", [f"{max(one, default=nan):.2f}" for one in many]),
            ):
                yield f"{title:26}" + "".join(f"{cell:>10}" for cell in row)


def _ratios(many: Sequence[Sequence[float]], few: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Between what the ratio of the medians lies in 95 of 100 resamples (percentile bootstrap)."""
    chance = random.Random(SEED)
    for one in many:
        if not one or not few:
            yield nan, nan
            continue
        drawn = sorted(_median(_again(chance, one)) / _median(_again(chance, few)) for _ in range(RESAMPLES))
        yield drawn[RESAMPLES // 40], drawn[-RESAMPLES // 40]


def _again(chance: random.Random, seconds: Sequence[float]) -> Sequence[float]:
    return chance.choices(seconds, k=len(seconds))


def _median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) if seconds else nan


async def run(
    folder: Path,
    *,
    canaries: Sequence[int],
    seconds: float,
    faults: int,
    kinds: Sequence[str],
    minutes: float = MINUTES,
) -> None:
    """Prints the table; what does not fit into so many minutes is left out."""
    ends = asyncio.get_running_loop().time() + 60 * minutes
    single: dict[str, list[Rollback]] = {}
    found: list[Measured] = []
    for kind in kinds if faults else ():
        measuring = partial(alone, folder / "few", kind=kind, times=faults)
        single[kind] = await _once(folder / f"few-{kind}.json", ends, measuring) or []
    for count in canaries:
        measure = partial(
            among, folder / str(count), canaries=count, seconds=seconds, faults=faults, kinds=kinds
        )
        if (told := await _once(folder / f"{count}.json", ends, lambda: _told(measure()))) is not None:  # noqa: B023
            found.append(Measured(**told))
    for line in table(single, found):
        print(line)  # noqa: T201


async def _told(measuring: Awaitable[Measured]) -> Json:
    return asdict(await measuring)


async def _once(file: Path, ends: float, measure: Callable[[], Awaitable[Json]]) -> Json:
    """What the file holds, or what is measured now and kept there; None, and why, if that cannot be had."""
    if known := _text(file):
        print(f"{file} is there and not measured again")  # noqa: T201
        return json.loads(known)
    try:
        async with asyncio.timeout_at(ends):
            found = await measure()
    except TimeoutError:
        print(f"{file.stem}: not done in time")  # noqa: T201
        return None
    except RuntimeError as error:
        print(f"{file.stem}: {error}")  # noqa: T201
        return None
    _keep(file, found)
    return found


def _keep(file: Path, found: Json) -> None:
    file.write_text(json.dumps(found))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m scenarios.bench_scale", description=__doc__)
    many = [100, 300, 1000]
    parser.add_argument(
        "--canaries", type=int, nargs="+", default=many, help="how many (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=30, help="measured for so long (default: 30)")
    parser.add_argument("--faults", type=int, default=12, help="of each kind, among few and among many (12)")
    parser.add_argument("--fault", choices=FAULTS, nargs="+", default=FAULTS, help="kinds (default: both)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for everything (default: 25)")
    parser.add_argument("--keep", type=Path, help="where figures, logs and stacks are to stay")
    told = parser.parse_args(arguments)
    folder = told.keep or Path(tempfile.mkdtemp(prefix="serin-scale-"))
    try:
        measuring = run(
            folder,
            canaries=told.canaries,
            seconds=told.seconds,
            faults=told.faults,
            kinds=told.fault,
            minutes=told.minutes,
        )
        asyncio.run(measuring)
    finally:
        if told.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
