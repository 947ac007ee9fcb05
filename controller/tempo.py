"""How often runs are looked at: once an interval, and all of them less often alike where a core is full.

A controller that reads more pages than it can look at has queues, and what it looks at is old. So its
interval grows until turns begin when they are due, and shrinks again where there is time left. Counters are
cumulative: a longer tick holds all that was counted, and no evidence is lost.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from math import floor
from statistics import median

import structlog

log = structlog.get_logger(__name__)

# What a turn waited for the core, as a part of the interval as it is. Those of one of ten moments wait for
# each other, half of them for a twentieth where a core is full and less where some of it is free. A twelfth
# is a queue, and for nothing: as much is done without it. Below a twenty-fifth it may become shorter.
FAR, LATE, EARLY, AT_ONCE = 1.0, 0.08, 0.04, 0.02
LEAPS, GROWS, SHRINKS, FALLS = 1.6, 1.1, 0.95, 0.85
MOST = 10.0  # intervals: a canary that fails is seen within ten seconds, however many there are
LEAST = 5  # turns that say anything
TOLD = 60.0  # seconds from one line in the log to the next, while the interval is longer than it should be
# Moments of an interval that many runs share, in the order in which they are opened: as far apart as may be.
# One more is opened for each so many runs.
MOMENTS = tuple((place + 0.5) / 10 for place in (0, 5, 2, 7, 4, 9, 1, 6, 3, 8))
OPEN, SIDE_BY_SIDE = 2, 25


class Moments:
    """At which part of an interval each of many runs is looked at: no more moments than it takes.

    Those of one moment are scored side by side, each time the same ones, at a fraction of what each costs
    alone (`controller.rounds`): some twenty-five are nearly as cheap as any number.
    """

    def __init__(self) -> None:
        self._runs: Counter[float] = Counter()

    def taken(self) -> float:
        """The open moment that the fewest share, which one more run has from now on."""
        among = max(OPEN, (self._runs.total() + 1) // SIDE_BY_SIDE)
        moment = min(MOMENTS[:among], key=self._runs.__getitem__)
        self._runs[moment] += 1
        return moment

    def left(self, moment: float) -> None:
        """A run is over that had this one, or a time of its own."""
        if self._runs[moment]:
            self._runs[moment] -= 1


class Beat:
    """Intervals one after the other, each as long as it is at the time, and moments in them.

    Where an interval is longer its moments lie as much further apart. As far apart as before, all runs would
    come in its first part and wait for each other, and the core for them in the rest.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since = self._passed = 0.0  # how many had passed at that time

    def lasts(self, seconds: float, now: float) -> None:
        """From now on an interval lasts so long."""
        if seconds != self._seconds:
            self._passed, self._since, self._seconds = self.at(now), now, seconds

    def at(self, now: float) -> float:
        """How many have passed."""
        return self._passed + (now - self._since) / self._seconds

    def after(self, now: float, part: float, last: float) -> tuple[float, float]:
        """Which moment at that part of an interval comes next, at least one after the `last`; and when."""
        comes = max(last + 1.0, floor(self.at(now) - part) + 1.0 + part)
        return comes, self._since + (comes - self._passed) * self._seconds


class Tempo:
    """`stretch` says how many intervals it is from one look at a run to the next; `heed` hears the interval.

    What a turn waited for is the core: how long pods take for their pages, or the API server for its answers,
    is not asked. The median of an interval's turns counts: single ones may have waited for their last turn.
    While it falls the interval is long enough, and what is left of a queue goes by itself.
    """

    def __init__(self, interval: timedelta, heed: Callable[[timedelta], None] = lambda _: None) -> None:
        self._interval = interval
        self._heed = heed
        self._waited: list[float] = []
        self._until: float | None = None
        self._told: float | None = None
        self._before = 0.0  # seconds that the last interval's median turn had waited
        self._factor = 1.0
        heed(interval)

    def stretch(self) -> float:
        """1 while all is well."""
        return self._factor

    def began(self, waited: float) -> None:
        """A turn has begun that has waited so many seconds: to ask for its pages, and since they came."""
        now = asyncio.get_running_loop().time()
        self._waited.append(waited)
        if self._until is None:
            self._until = now + self._interval.total_seconds()
        if now < self._until or len(self._waited) < LEAST:
            return
        before, self._before, self._waited = self._before, median(self._waited), []
        usual = self._before / (self._interval.total_seconds() * self._factor)
        if usual > LATE and self._before >= before:
            self._factor = min(MOST, self._factor * (LEAPS if usual > FAR else GROWS))
        elif usual < EARLY:
            self._factor = max(1.0, self._factor * (FALLS if usual < AT_ONCE else SHRINKS))
        seconds = self._interval * self._factor
        self._until = now + seconds.total_seconds()
        self._heed(seconds)
        self._tell(now, seconds)

    def _tell(self, now: float, seconds: timedelta) -> None:
        longer = self._factor > GROWS
        if longer and (self._told is None or now - self._told >= TOLD):
            log.warning("ticks_longer", seconds=round(seconds.total_seconds(), 2))
            self._told = now
        elif self._factor == 1.0 and self._told is not None:
            log.info("ticks_as_set", seconds=round(seconds.total_seconds(), 2))
            self._told = None
