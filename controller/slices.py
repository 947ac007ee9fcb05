"""Rounds of the event loop that stay short: of what takes long, a few pieces run in each.

asyncio runs everything that is ready before it looks at a socket again. Where a thousand passes are ready
that is seconds, and a request to the API server takes some eight rounds: the Lease would not be renewed in
time. So a pass is cut into pieces (its beginning, and what follows the scoring of its evidence), and only so
many of them run between two looks at the sockets, whatever they are of.
"""

import asyncio
from collections import deque
from collections.abc import Callable

PIECES = 4  # in the first round: a piece takes 1 to 6 ms
MOST = 16  # in a round
# Seconds that the pieces of a round may take, half of a round: eight rounds fit four times into a renewal
# of the Lease. On a core that is shared or slow fewer pieces run in each, and one at least. What
# sockets take does not count: where it did, pages that came by the hundred left a round to a single piece.
ROUND = 0.03
# Seconds of a whole round from which on a single piece runs in the next: eight of these are what is left of
# the time that a renewal may take, whatever they went into.
LONG = 0.2
# Rounds with a single piece each after somebody was said to fail: from its page to the patch there are its
# pass and the request's own eight. With all pieces that fit these take a sixth of a second on a full core.
HASTE = 12
PRESENT = 0.1  # of what a piece is taken to take is the last round's, if they took less than before

Piece = Callable[[], None]


class Slices:
    """Pieces that wait for their round: those that end something first, then those that begin something."""

    def __init__(self) -> None:
        self._ends: deque[Piece] = deque()
        self._begins: deque[Piece] = deque()
        self._turning = False
        self._each = ROUND / PIECES  # seconds that a piece takes
        self._last: float | None = None  # loop time of the round before, if some had to wait
        self._began = 0.0  # loop time at which the last round's tasks began to run
        self._haste = 0  # rounds to come that are short

    @property
    def beginning(self) -> bool:
        """Whether somebody waits to begin."""
        return bool(self._begins)

    def hasten(self) -> None:
        """The next rounds are as short as can be: traffic may have to be taken away."""
        self._haste = HASTE

    def begin(self, piece: Piece) -> None:
        """It runs in a round to come; it makes a task ready, or does little itself."""
        self._begins.append(piece)
        self._ask()

    def end(self, piece: Piece) -> None:
        """The same, before all that begin."""
        self._ends.append(piece)
        self._ask()

    def _ask(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turning, loop, done = False, asyncio.get_running_loop(), 0
        if not self._ends and not self._begins:
            self._last = None
            return
        most, began = min(MOST, max(1, int(ROUND / self._each))), loop.time()
        if self._haste or (self._last is not None and began - self._last > LONG):
            most, self._haste = 1, max(0, self._haste - 1)
        loop.call_soon(self._begun)  # then what the pieces make ready, and then that it has ended
        while done < most and (waiting := self._ends or self._begins):
            waiting.popleft()()
            done += 1
        loop.call_soon(self._ended, done, loop.time() - began)
        self._last = began if self._ends or self._begins else None
        if self._last is not None:
            self._ask()

    def _begun(self) -> None:
        self._began = asyncio.get_running_loop().time()

    def _ended(self, pieces: int, took: float) -> None:
        """What a piece takes is known better: at once if it is more, slowly if it is less."""
        each = (took + asyncio.get_running_loop().time() - self._began) / pieces
        self._each = max(each, (1 - PRESENT) * self._each + PRESENT * each, ROUND / (2 * MOST))
