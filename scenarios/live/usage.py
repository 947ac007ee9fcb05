"""What the lab costs: processor time and memory of its processes, read from /proc."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
EVERY = 1.0  # seconds between looks


@dataclass(slots=True)
class Usage:
    """Processor seconds by process, and the largest amount of memory that all held at one time."""

    peak: int = 0  # bytes; pages shared by several processes count once (PSS)
    seconds: float = 0.0  # for which it was watched
    _first: dict[str, float] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)

    @property
    def shares(self) -> Mapping[str, float]:
        """Share of one processor by process, the hungriest first."""
        spent = {name: self._last[name] - first for name, first in self._first.items()}
        ordered = sorted(spent, key=lambda name: -spent[name])
        return {name: spent[name] / max(self.seconds, EVERY) for name in ordered}

    async def watch(self, pids: Callable[[], Mapping[str, int]]) -> None:
        """Looks once a second, for ever; this process is `lab`."""
        began = time.monotonic()
        while True:
            held = 0
            for name, pid in {**pids(), "lab": os.getpid()}.items():
                held += self._look(name, pid)
            self.peak = max(self.peak, held)
            self.seconds = time.monotonic() - began
            await asyncio.sleep(EVERY)

    def _look(self, name: str, pid: int) -> int:
        """The process's memory in bytes; 0 if it is gone."""
        try:
            times = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            memory = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            return 0
        spent = (int(times[11]) + int(times[12])) / TICKS  # user and system
        self._first.setdefault(name, spent)
        self._last[name] = spent
        pss = next((line for line in memory.splitlines() if line.startswith("Pss:")), "Pss: 0 kB")
        return 1_024 * int(pss.split()[1])
