"""The wire between one process and the API server: `python -m scenarios.live.wire PORT BEYOND`.

Whatever is sent to PORT goes to BEYOND, both on loopback, and back. It is a process of its own so that it
can fail as wires do: frozen (SIGSTOP) nothing arrives until it goes on, and then what was on the way
arrives late; killed, connections break and new ones are refused; after SIGUSR1 bytes are swallowed both
ways, until SIGUSR2: then it forwards again, and what was connected meanwhile is cut.
"""

import asyncio
import contextlib
import signal
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator

CHUNK = 1 << 16  # bytes


class Wire:
    """All connections over one port."""

    def __init__(self, beyond: int) -> None:
        self._beyond = beyond
        self._silent = False
        self._ends: set[StreamWriter] = set()

    def silence(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        self._silent = True

    def mend(self) -> None:
        """New connections are good; those that lived through the silence have lost too much."""
        self._silent = False
        for end in tuple(self._ends):
            end.transport.abort()

    async def join(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One connection, until either side has had enough."""
        with contextlib.suppress(OSError), self._holding(writer):
            if self._silent:
                await self._carry(reader, writer)  # swallowed
                return
            there, beyond = await asyncio.open_connection("127.0.0.1", self._beyond)
            with self._holding(beyond):
                back = asyncio.create_task(self._carry(there, writer))
                back.add_done_callback(lambda _: reader.feed_eof())
                await self._carry(reader, beyond)
                back.cancel()

    @contextlib.contextmanager
    def _holding(self, end: StreamWriter) -> Iterator[None]:
        self._ends.add(end)
        try:
            yield
        finally:
            self._ends.discard(end)
            end.close()

    async def _carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if not self._silent:
                    writer.write(chunk)
                    await writer.drain()


async def main(port: int, beyond: int) -> None:
    """Forwards until it is killed."""
    wire, loop = Wire(beyond), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, wire.silence)
    loop.add_signal_handler(signal.SIGUSR2, wire.mend)
    server = await asyncio.start_server(wire.join, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
