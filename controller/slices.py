"""Rounds of the event loop that stay short: of what takes long, a few pieces run in each.

asyncio runs everything that is ready before it looks at a socket again. Where a thousand passes are ready
that is seconds, and a request to the API server takes some eight rounds: the Lease would not be renewed in
time. So a pass is cut into pieces (its beginning, and what follows the scoring of its evidence), and only so
many of them run between two looks at the sockets, whatever they are of.
"""

import asyncio
from collections import deque
from collections.abc import Callable

PIECES = 4  # in a round: a piece takes 2 to 6 ms
# Seconds of a round, of which eight fit four times into what a renewal of the Lease may take. On a core that
# is shared or slow fewer pieces run in each, and one at least.
ROUND = 0.06

Piece = Callable[[], None]


class Slices:
    """Pieces that wait for their round: those that end something first, then those that begin something."""

    def __init__(self) -> None:
        self._ends: deque[Piece] = deque()
        self._begins: deque[Piece] = deque()
        self._turning = False
        self._pieces = PIECES
        self._last: float | None = None  # loop time of the round before, if some had to wait

    @property
    def beginning(self) -> bool:
        """Whether somebody waits to begin."""
        return bool(self._begins)

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
        self._turning, now = False, asyncio.get_running_loop().time()
        if self._last is not None:
            slow = now - self._last > ROUND
            self._pieces = max(1, self._pieces // 2) if slow else min(PIECES, self._pieces + 1)
        for _ in range(self._pieces):
            if waiting := self._ends or self._begins:
                waiting.popleft()()
        self._last = now if self._ends or self._begins else None
        if self._last is not None:
            self._ask()
