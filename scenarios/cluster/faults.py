"""What can go wrong with the API server on command: it is away, silent, slow, or forgets."""

import asyncio
from enum import StrEnum

SLOW = 1.0  # seconds that a slow server adds to every answer


class Fault(StrEnum):
    """The kinds of trouble."""

    OUTAGE = "outage"  # connections are refused, and open ones break
    HANG = "hang"  # nothing is answered; what was asked meanwhile was never heard
    SLOW = "slow"
    CONFLICT = "conflict"  # every write meets a 409
    WATCH_DROP = "watch-drop"  # events are lost, watches end in a 410


class Faults:
    """Which faults are on, and until when, by the running loop's clock."""

    def __init__(self) -> None:
        self._ends: dict[Fault, float] = {}
        self._waiting: dict[asyncio.Event, None] = {}  # in the order in which they came

    def begin(self, kind: str, *, seconds: float) -> None:
        """The fault is on for so long; another one of its kind is over."""
        try:
            fault = Fault(kind)
        except ValueError:
            known = ", ".join(Fault)
            raise ValueError(f"no fault {kind!r} of the API server; known are {known}") from None
        self._ends[fault] = asyncio.get_running_loop().time() + seconds
        asyncio.get_running_loop().call_later(seconds, self._wake)
        self._wake()

    def end(self) -> None:
        """Everything is well again."""
        self._ends.clear()
        self._wake()

    def on(self, fault: Fault) -> bool:
        """Whether the fault is on now."""
        return self.left(fault) > 0

    def left(self, fault: Fault) -> float:
        """Seconds until the fault is over; 0 if it is."""
        if fault not in self._ends:
            return 0.0
        return max(0.0, self._ends[fault] - asyncio.get_running_loop().time())

    @property
    def blind(self) -> bool:
        """Whether events are being lost."""
        return self.on(Fault.WATCH_DROP)

    def join(self, event: asyncio.Event) -> None:
        """`event` is set when a fault begins or ends."""
        self._waiting[event] = None

    def leave(self, event: asyncio.Event) -> None:
        """`event` is left alone from now on."""
        self._waiting.pop(event, None)

    async def pass_request(self) -> None:
        """Returns when a request may be heard; raises `OSError` if it never is."""
        if self.on(Fault.OUTAGE):
            raise ConnectionRefusedError("the API server is away")
        if self.on(Fault.HANG):
            await self._outlast(Fault.HANG)
            raise ConnectionResetError("the API server never answered")
        if self.on(Fault.SLOW):
            await asyncio.sleep(SLOW)

    async def pass_stream(self) -> None:
        """Returns when an open watch may go on; raises `OSError` if its connection breaks."""
        if self.on(Fault.HANG):
            await self._outlast(Fault.HANG)
        if self.on(Fault.OUTAGE):
            raise ConnectionResetError("the API server closed the connection")

    async def _outlast(self, fault: Fault) -> None:
        while left := self.left(fault):  # noqa: ASYNC110 (it may be prolonged meanwhile)
            await asyncio.sleep(left)

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()
