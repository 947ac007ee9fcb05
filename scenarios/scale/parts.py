"""Where the controller's processor time went, by part, out of the stacks that `sampled` wrote."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

# Whatever is done for one of these is theirs: the arithmetic of evidence is many's.
OWNERS: Mapping[str, str] = {
    "controller/placebos.py": "placebos",
    "controller/peering.py": "peers",
    "controller/history.py": "histories",
    "controller/saving.py": "save",
}
# Else the innermost function of these decides.
PARTS: Mapping[str, str] = {
    "controller/exposition.py": "parse",
    "controller/reading.py": "parse",
    "controller/layouts.py": "parse",
    "controller/protobuf.py": "parse",
    "controller/scrape.py": "scrape",
    "controller/readers.py": "scrape",
    "controller/http.py": "scrape",
    "controller/pages.py": "scrape",
    "controller/judging.py": "judge",
    "analysis/judge.py": "judge",
    "analysis/samples.py": "ticks",
    "analysis/": "evidence",
    "controller/rounds.py": "evidence",
    "controller/gather.py": "evidence",
    "controller/ticks.py": "ticks",
    "controller/served.py": "ticks",
    "controller/onlookers.py": "onlookers",
    "controller/runs.py": "save",
    "controller/schedule.py": "save",
    "controller/kube.py": "save",
    "controller/resource.py": "save",
    "controller/follow.py": "watch",
    "controller/cluster.py": "look",
    "controller/around.py": "look",
    "controller/trigger.py": "look",
    "controller/neighbours.py": "look",
    "controller/istio.py": "look",
    "controller/machine.py": "advance",
    "controller/telemetry.py": "telemetry",
    "controller/operate.py": "heard",
    "controller/slices.py": "loop",
    "controller/lag.py": "loop",
    "controller/tempo.py": "loop",
    "controller/loop.py": "loop",
    "controller/lane.py": "save",
    "controller/": "pass",
}
AROUND = ("controller/cli.py", "controller/__main__.py", "analysis/values.py")  # of all there is
OTHERS = {"aiohttp/": "HTTP", "kubernetes_asyncio/": "HTTP", "asyncio/": "event loop"}


def parts(file: Path) -> Mapping[str, float]:
    """The share of each part; nothing without a file."""
    if not file.exists():
        return {}
    found: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        found[part(stack.split(";"))] += int(count)
    return {name: count / found.total() for name, count in found.items()}


def part(stack: list[str]) -> str:
    """The part that a stack, from the outside in, belongs to."""
    for frame in stack:
        for path, name in OWNERS.items():
            if frame.startswith(path):
                return name
    for where in (PARTS, OTHERS):
        for frame in reversed(stack):
            for path, name in where.items():
                if frame.startswith(path) and not frame.startswith(AROUND):
                    return name
    return "rest"
