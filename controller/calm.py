"""What changes in a namespace may ask for at once, so that one in which much changes keeps no other waiting.

Whoever patches a DestinationRule twenty times a second asks for a pass of each run beside it as often, and
for a look at each annotated Deployment. Fifty such runs, hurried each time, had all turns there were. What is
about one run alone (its pods, its templates) is hurried as ever, as long as it is not all that there is.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol

from controller.cluster import Key

AGAIN = 1.0  # seconds: pages come as often, and a pass with them
# Passes of a namespace that go before all others in so many seconds: a tenth of a core. Half of them for
# changes that are about no run alone.
SOME = 20
# Seconds to the next look at a namespace for each Deployment that was looked at: it takes 0.1 ms, so that a
# twentieth of the core is what all looks at one namespace take.
EACH = 0.002


class Turns(Protocol):
    """`controller.loop.Loop` of runs."""

    def due(self, key: Key, after: float = 0.0) -> None:
        """It has its turn within so many seconds."""

    def hurry(self, key: Key) -> None:
        """It has its turn before all that are not urgent."""


class Calm:
    """What was asked for of late, by namespace."""

    def __init__(self) -> None:
        self._first: dict[str, deque[float]] = {}  # loop times at which a pass went before all others
        self._lately: dict[str, dict[Key, float]] = {}  # ... at which a run was asked for with others
        self._waiting: dict[Hashable, Callable[[], int] | None] = {}  # looks that are to come

    def turn(self, runs: Turns, key: Key, *, alone: bool) -> None:
        """The run has a turn soon; `alone` says that the change is about it, and not about its namespace."""
        now, first = asyncio.get_running_loop().time(), self._first.setdefault(key[0], deque())
        while first and now - first[0] >= AGAIN:
            first.popleft()
        lately = self._lately.setdefault(key[0], {})
        since = None if alone else lately.get(key)
        if since is not None and now - since < AGAIN:
            runs.due(key, AGAIN - (now - since))
            return
        if not alone:
            lately[key] = now
        if len(first) < (SOME if alone else SOME // 2):
            first.append(now)
            runs.hurry(key)
        else:
            runs.due(key)

    def look(self, what: Hashable, work: Callable[[], int]) -> None:
        """`work` is done, which says how many it looked at; if it was lately, once for all that ask since."""
        if what in self._waiting:
            self._waiting[what] = work
            return
        wait = EACH * work()
        if wait:
            self._waiting[what] = None
            asyncio.get_running_loop().call_later(wait, self._looked, what)

    def _looked(self, what: Hashable) -> None:
        work = self._waiting.pop(what, None)
        if work is not None:
            self.look(what, work)

    def forget(self) -> None:
        """Of runs and namespaces that are gone nothing is kept."""
        self._first.clear()
        self._lately.clear()
