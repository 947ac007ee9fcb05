"""A Prometheus in virtual time: it scrapes the virtual pods' pages and answers what the controller asks.

It knows the PromQL of `controller/queries.toml` and no other; the controller's own client asks it, below
HTTP. What it answers for a pod is of its last scrape, which is as old as it is.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from controller.operate import Operator
from controller.ports import Fetch

Json = Any
Series = tuple[str, Mapping[str, str], float]

URL = "http://prometheus.monitoring:9090"
EVERY = 1.0  # seconds between two scrapes of a pod
PATIENCE = 0.5  # seconds for a page
LIMIT = 2**21
_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)(=~?)"((?:[^"\\]|\\.)*)"')
_QUERY = re.compile(r"(?:sum by \(([^)]*)\) \(\s*|timestamp\()([a-zA-Z_:][\w:]*)\{([^}]*)\}")
TARGET = "pod, job, instance"  # all that tells these apart


class VirtualPrometheus:
    """The server; `custom_query` is what the controller's client calls."""

    def __init__(
        self,
        fetch: Fetch,
        *,
        pods: Callable[[], Mapping[str, str]],
        namespace: str,
        clock: Callable[[], datetime],
        away: Callable[[], bool],
    ) -> None:
        """`pods`: the addresses of those that are to be scraped, by name; while `away` nobody answers."""
        self._fetch = fetch
        self._pods = pods
        self._namespace = namespace
        self._clock = clock
        self._known: dict[str, tuple[float, Sequence[Series]]] = {}
        self._away = away

    async def scrape(self) -> None:
        """Every pod is scraped again and again; one that does not answer is not up."""
        while True:
            await asyncio.gather(*(self._one(name, address) for name, address in self._pods().items()))
            await asyncio.sleep(EVERY)

    async def _one(self, name: str, address: str) -> None:
        at = self._clock().timestamp()
        try:
            async with asyncio.timeout(PATIENCE):
                _, page = await self._fetch(
                    f"http://{address}:8080/metrics", accept="text/plain", limit=LIMIT
                )
        except OSError:
            self._known.pop(name, None)
        else:
            self._known[name] = at, [*_series(page.decode())]

    def custom_query(self, query: str, *, params: Mapping[str, str], timeout: object) -> list[Json]:
        """The instant vector that the query asks for, or the time; `Unanswered` while it is away."""
        del timeout
        if self._away():
            from controller.queries import Unanswered  # a lot to import for nothing

            raise Unanswered("nobody answers")
        now = self._clock().timestamp()
        if query == "time()":
            return [now, str(now)]
        if abs(float(params["time"]) - now) > EVERY:
            raise ValueError(f"asked what was known {now - float(params['time']):.0f} s ago")
        if " > min by " in query:
            return []  # all of a scrape is there at once
        asked = _QUERY.match(query)
        if asked is None:
            raise ValueError(f"no query of controller/queries.toml: {query}")
        by, name, selectors = [one.strip() for one in (asked[1] or TARGET).split(",")], asked[2], asked[3]
        sums: defaultdict[tuple[tuple[str, str], ...], float] = defaultdict(float)
        for labels, value in self._selected(name, selectors):
            sums[tuple((label, labels[label]) for label in by if label in labels)] += value
        return [
            {"metric": dict(labels), "value": [params["time"], str(value)]} for labels, value in sums.items()
        ]

    def _selected(self, name: str, selectors: str) -> Sequence[tuple[Mapping[str, str], float]]:
        wanted = [_matching(*found) for found in _LABEL.findall(selectors)]
        found = []
        for pod, (at, series) in self._known.items():
            target = {"namespace": self._namespace, "pod": pod, "job": "pods", "instance": pod}
            for family, labels, value in [("up", {}, at), *series]:
                whole = {**labels, **target}
                if family == name and all(fits(whole) for fits in wanted):
                    found.append((whole, value))
        return found


def _matching(label: str, how: str, value: str) -> Callable[[Mapping[str, str]], bool]:
    meant = re.sub(r"\\(.)", r"\1", value)
    if how == "=":
        return lambda labels: labels.get(label, "") == meant
    return lambda labels: re.fullmatch(meant, labels.get(label, "")) is not None


def _series(page: str) -> Sequence[Series]:
    lines = (_LINE.fullmatch(line) for line in page.splitlines() if not line.startswith("#"))
    return [
        (line[1], {name: value for name, _, value in _LABEL.findall(line[2] or "")}, float(line[3]))
        for line in lines
        if line is not None
    ]


def asking(there: VirtualPrometheus) -> type[Operator]:
    """A controller's process whose client asks this Prometheus."""

    class Asking(Operator):
        def _prometheus(self, clock: Callable[[], datetime], **how: int) -> Any:
            prometheus: Any = super()._prometheus(clock, **how)
            prometheus._server._client = there
            return prometheus

    return Asking
