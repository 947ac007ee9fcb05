"""Counters that fall again and again: a page that is each time that of another of several processes.

A server with several workers, each of which counts for itself, answers a scrape by whichever is free. Then a
counter goes up and down by what two processes differ in, and what it rises by is counted many times over. A
process that began anew falls once. Whatever falls three times in twenty readings is not read from then on,
until it has not fallen in twenty.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from operator import ge

from analysis.samples import Counts, Histogram
from controller.ports import Reading

REMEMBERED = 20  # readings of a page
OFTEN = 3  # falls among them: a process that began anew so often is no better to judge by
REMEDY = (
    "its counters fall again and again, as where each of several processes shows its own: let the page be of"
    " all (PROMETHEUS_MULTIPROC_DIR), or run one a pod"
)


@dataclass(slots=True)
class Falls:
    """Of one pod's page."""

    _last: dict[str, int] = field(default_factory=dict)  # by check, and of requests
    _when: dict[str, float] = field(default_factory=dict)  # what has fallen was counted last
    _fallen: dict[str, deque[bool]] = field(default_factory=dict)
    _often: set[str] = field(default_factory=set)

    def look(self, now: Reading) -> tuple[Reading | None, list[str]]:
        """The reading without what falls again and again, and a sentence on that.

        None where requests do, by which it is known whether the pod answers at all. What was counted at the
        same time as in the reading before, as a Prometheus has it for a while, is not looked at again.
        """
        counts = {name: one.n for name, one in now.values.items() if isinstance(one, Counts | Histogram)}
        if now.requests is not None:
            counts[""] = now.requests.n
        if not self._fallen and all(map(ge, counts.values(), map(self._last.get, counts, counts.values()))):
            self._last |= counts  # nearly always
            return now, []
        often = [name for name, n in counts.items() if self._falls(name, n, now.times.get(name, now.at))]
        if not often:
            return now, []
        said = [f"{', '.join(name or 'requests' for name in often)}: {REMEDY}"]
        if "" in often:
            return None, said
        return replace(now, values={name: one for name, one in now.values.items() if name not in often}), said

    def _falls(self, name: str, n: int, at: float) -> bool:
        if at == self._when.get(name):
            return name in self._often
        before, self._last[name] = self._last.get(name, n), n
        fallen = self._fallen.get(name)
        if fallen is None:
            if n >= before:
                return False
            fallen = self._fallen[name] = deque(maxlen=REMEMBERED)
        self._when[name] = at
        fallen.append(n < before)
        if sum(fallen) >= OFTEN:
            self._often.add(name)
        if not any(fallen):
            del self._fallen[name]
            self._often.discard(name)
            del self._when[name]
        return name in self._often
