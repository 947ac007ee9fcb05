"""What pods' pages cost in processor time, so that those that are dear to read are read more rarely.

Pages are parsed on the event loop, on which all else is done: rollbacks of other runs, the Lease's renewal.
How large a page is does not say what it costs, since most of a usual one is known or nobody's.
"""

from collections.abc import Callable
from time import thread_time

OF_A_RUN = 0.1  # of a core, for all pages of a run; a usual one of 3 kB takes 20 to 60 us
OF_A_POD = 0.01
# Seconds of a core beyond that: a large page is dear when it is read for the first time.
RUN_AT_ONCE, POD_AT_ONCE = 2.0, 0.5
# All pages of a namespace together, but those of a usual cost: ten runs with a tenth each were a whole core,
# and a thousand pods that each have half a second at once eight minutes of it.
OF_A_NAMESPACE, NAMESPACE_AT_ONCE, USUAL = 0.5, 5.0, 0.0003
# Seconds by the loop's clock, a tenth of a pod's share, that count as they are: asking for the processor's
# takes half as long as a page on many machines. Once a page took longer it is asked at so many more.
# Of a page of more than so many bytes it is always asked: it may take a hundred times as long as the last.
LITTLE, WATCHED, SMALL = 0.001, 20, 8 * 1024

Moment = tuple[float, float | None]  # of the loop, and of the processor if that may matter


class Together:
    """The account of a namespace's pods."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock()
        self._owed = 0.0

    def add(self, took: float) -> None:
        """A page took so many seconds."""
        if took > USUAL:
            self.wait()
            self._owed += took

    def wait(self) -> float:
        """For how many seconds no page of the namespace should be read; 0 as nearly always."""
        now = self._clock()
        self._owed = max(0.0, self._owed - OF_A_NAMESPACE * (now - self._at))
        self._at = now
        return max(0.0, self._owed - NAMESPACE_AT_ONCE) / OF_A_NAMESPACE

    @property
    def settled(self) -> bool:
        """Whether nothing is owed any more."""
        self.wait()
        return not self._owed


class Effort:
    """One pod's account, by the loop's clock: under a loop whose time jumps nothing costs anything."""

    def __init__(self, clock: Callable[[], float], together: Together | None = None) -> None:
        self.together = together or Together(clock)
        self._clock = clock
        self._at = clock()
        self._owed = 0.0
        self._watched = WATCHED  # pages of which the processor's time is asked for
        self._share, self._at_once = OF_A_POD, POD_AT_ONCE

    def begun(self, size: int = 0) -> Moment:
        """The moment, for `done`; the page has so many bytes."""
        return self._clock(), thread_time() if self._watched or size > SMALL else None

    def done(self, begun: Moment) -> None:
        """What was done since then, without any wait between, is on the account."""
        took, since = self._clock() - begun[0], begun[1]
        cost = min(took, LITTLE if since is None else thread_time() - since)
        self._owed += cost
        self.together.add(cost)
        self._watched = WATCHED if took > LITTLE else max(0, self._watched - 1)

    def shared(self, pods: int) -> None:
        """So many pods of the run share what it has."""
        self._share = min(OF_A_POD, OF_A_RUN / max(pods, 1))
        self._at_once = min(POD_AT_ONCE, RUN_AT_ONCE / max(pods, 1))

    def wait(self) -> float:
        """For how many seconds no further page should be read; 0 as nearly always."""
        now = self._clock()
        self._owed = max(0.0, self._owed - self._share * (now - self._at))
        self._at = now
        return max(0.0, self._owed - self._at_once) / self._share
