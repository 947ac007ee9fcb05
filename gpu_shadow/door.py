"""The recorder's HTTP side: bodies come in, 202 goes out, whatever becomes of them.

HTTP/1.1, and 1.0, as far as somebody needs it who gives everybody the same answer. A server for applications
takes ten times as long for a request, waits for ever for one that does not end, and writes a page into the
log for bytes that are none. Here whatever a caller can make it hold has a bound: bodies count against the
recorder's budget, a head has `LARGEST_HEAD` bytes, a request `PATIENCE` seconds, and of callers there are
`MOST_CALLERS`.
"""

import asyncio
import contextlib
import re
import string
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from gpu_shadow.recorder import Recorder

PATIENCE = 5.0  # seconds for a request to arrive, from its first byte to its last
IDLE = 3_700.0  # seconds between requests; Envoy keeps a connection for an hour
MOST_CALLERS = 1_000  # connections at once; whoever comes then takes the place of the one longest unused
LARGEST_HEAD = 16 * 1024  # bytes of a request's line and headers, and what is read at once
LONGEST_LINE = 1_024  # bytes of a chunk's size with its extensions, or of a trailer
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
LAST = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
UNINTELLIGIBLE = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

_TOKEN = (string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode()
_FRAMING = frozenset({"host", "content-length", "transfer-encoding"})  # said twice they have to agree
_OURS = _FRAMING | {"connection", "expect"}
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")


class NoHttp(ValueError):
    """Bytes that are no request."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request's line and those of its headers that matter; `length` is None if the body comes in chunks."""

    path: str
    headers: Mapping[str, str]
    length: int | None
    last: bool  # on its connection


def head(text: bytes, wanted: Mapping[bytes, str]) -> Head:
    """What stands before a body, without the empty line; headers are `wanted` by name. Raises `NoHttp`."""
    first, *lines = text.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or words[2] not in {b"HTTP/1.1", b"HTTP/1.0"}:
        raise NoHttp("no request line")
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not (colon and name) or name.translate(None, _TOKEN):
            raise NoHttp("no header")
        known = wanted.get(name.lower())
        if known is not None:
            said = value.strip(b" \t").decode("latin-1")
            if found.setdefault(known, said) != said and known in _FRAMING:
                raise NoHttp(f"{known} stands twice")
    last = words[2] == b"HTTP/1.0" or "close" in found.get("connection", "").lower()
    return Head(words[1].partition(b"?")[0].decode("latin-1"), found, _length(found), last)


def _length(headers: Mapping[str, str]) -> int | None:
    said, coded = headers.get("content-length"), headers.get("transfer-encoding")
    if coded is not None:
        if said is not None or coded.lower() != "chunked":
            raise NoHttp("nobody can tell where the body ends")
        return None
    if said is None:
        return 0
    if not (said.isascii() and said.isdigit() and len(said) < 16):
        raise NoHttp("content-length is no number")
    return int(said)


class Caller(asyncio.BufferedProtocol):
    """One connection: requests are read one after the other, and each is answered."""

    __slots__ = (
        "_behind",
        "_body",
        "_door",
        "_head",
        "_left",
        "_read",
        "_rest",
        "_transport",
        "_why",
        "since",
        "used",
    )

    def __init__(self, door: "Door") -> None:
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._rest = b""  # the beginning of a head or a line
        self._head: Head | None = None
        # what is expected next: (data, at) -> where it ends, -1 if it is not whole
        self._read = Caller._read_head
        self._body = bytearray()
        self._left = 0  # bytes of a body or chunk that have not arrived
        self._behind = False  # with reading answers
        self._why: str | None = None  # the body is thrown away as it comes
        self.since: float | None = None  # loop time of the beginning of what is awaited now
        self.used = 0.0  # loop time of the last request

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It has `PATIENCE` for its first request."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - it was asked for a stream
        self._transport = transport
        self.since = self.used = self._door.time()
        self._door.let_in(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's word
        """One for all: what arrives is looked at before anything else is read."""
        return self._door.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Requests that are whole by now are handed over."""
        if self._transport is None:
            return
        self.since = self.since or self._door.time()
        try:
            self._take(self._rest + self._door.buffer[:nbytes])
        except NoHttp:
            self._transport.write(UNINTELLIGIBLE)
            self.end("no-http", begun=True, flushed=True)
        except Exception:  # noqa: BLE001 - whatever it is, it is not the caller's concern
            self.end("error", begun=True)

    def pause_writing(self) -> None:
        """Whoever does not read answers is not read from."""
        if self._transport is not None:
            self._transport.pause_reading()
            self._behind, self.since = True, self._door.time()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._transport is not None:
            self._transport.resume_reading()
            self._behind = False
            self.since = self._door.time() if self._begun else None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's word
        """What had begun to arrive never will."""
        self.end("truncated")

    @property
    def _begun(self) -> bool:
        return self._head is not None or bool(self._rest)

    def end(self, reason: str, *, begun: bool = False, flushed: bool = False) -> None:
        """The connection is gone; a request that had begun is dropped for this reason."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if begun or self._begun:
            self._door.recorder.missed(reason)
        self._door.reading -= len(self._body)
        self._body, self._rest = bytearray(), b""
        self._door.let_out(self)
        if flushed and not transport.get_write_buffer_size():
            transport.close()
        else:
            transport.abort()

    # -- what arrives

    def _take(self, data: bytes) -> None:
        at, self._rest = 0, b""
        while at < len(data) and self._transport is not None:
            behind = self._read(self, data, at)
            if behind < 0:
                self._rest = data[at:]
                return
            at = behind

    def _read_head(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):  # some send one line too many behind a body
            return at + 2
        end = data.find(b"\r\n\r\n", at, at + LARGEST_HEAD)
        if end < 0:
            return _more(data, at, LARGEST_HEAD)
        self._head = found = head(data[at:end], self._door.wanted)
        at = end + 4
        if found.headers.get("expect", "").lower() == "100-continue" and at == len(data):
            self._write(GO_ON)
        if found.length == 0:
            self._done(b"")
        elif found.length is None:
            self._read = Caller._read_size
        else:
            self._left, self._read = found.length, Caller._read_body
            self._why = self._door.refused(found.length, found.length)
        return at

    def _read_body(self, data: bytes, at: int) -> int:
        some = data[at : at + self._left]
        if len(some) == self._left and not self._body:
            self._done(some)  # mostly it is there with its head
        else:
            self._keep(some)
            if not self._left:
                self._done(bytes(self._body))
        return at + len(some)

    def _read_size(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at, at + LONGEST_LINE)
        if end < 0:
            return _more(data, at, LONGEST_LINE)
        said = _SIZE.fullmatch(data, at, end)
        if said is None:
            raise NoHttp("no chunk's size")
        self._left = int(said[1], 16)
        self._read = Caller._read_chunk if self._left else Caller._read_trailer
        return end + 2

    def _read_chunk(self, data: bytes, at: int) -> int:
        if not self._left:
            if len(data) - at < 2:
                return -1
            if data[at : at + 2] != b"\r\n":
                raise NoHttp("a chunk does not end where it should")
            self._read = Caller._read_size
            return at + 2
        some = data[at : at + self._left]
        self._keep(some)
        return at + len(some)

    def _read_trailer(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at, at + LONGEST_LINE)
        if end < 0:
            return _more(data, at, LONGEST_LINE)
        if end == at:
            self._done(bytes(self._body))
        return end + 2

    def _keep(self, some: bytes) -> None:
        """More of a body, unless it is not wanted."""
        self._left -= len(some)
        self._why = self._why or self._door.refused(len(self._body) + len(some), len(some))
        if self._why is None:
            self._body += some
            self._door.reading += len(some)
        else:
            self._door.reading -= len(self._body)
            self._body = bytearray()

    def _done(self, body: bytes) -> None:
        """A request is whole: it is answered, then looked at."""
        found, why, self._head, self._why = self._head, self._why, None, None
        assert found is not None  # noqa: S101 - it stands before any body
        self._door.reading -= len(self._body)
        self._body, self._left, self._read = bytearray(), 0, Caller._read_head
        self._write(LAST if found.last else ACCEPTED)
        if why is None:
            self._door.recorder.admit(found.headers.get("host", ""), found.path, found.headers, body)
        else:
            self._door.recorder.missed(why)
        self.used = self._door.time()
        self.since = self.used if self._behind else None
        self._door.used(self)
        if found.last:
            self.end("", flushed=True)

    def _write(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.write(answer)


def _more(data: bytes, at: int, most: int) -> int:
    """Not whole yet; raises `NoHttp` if it never will be."""
    if len(data) - at >= most:
        raise NoHttp("a line without an end")
    return -1


class Door:
    """All callers, and one recorder behind them."""

    def __init__(
        self, recorder: Recorder, *, patience: float = PATIENCE, most_callers: int = MOST_CALLERS
    ) -> None:
        self.recorder = recorder
        self.reading = 0  # bytes of bodies that are still arriving
        self.wanted = {name.encode(): name for name in recorder.headers | _OURS}
        self.buffer = memoryview(bytearray(LARGEST_HEAD))
        self._patience = patience
        self._most = most_callers
        self._callers: OrderedDict[Caller, None] = OrderedDict()  # the one longest unused first
        self._stirred = asyncio.Event()
        self.time = asyncio.get_running_loop().time
        recorder.sink = self._stirred.set

    @contextlib.asynccontextmanager
    async def opened(self, bind: str, port: int) -> AsyncIterator[int]:
        """While the block runs it is open and what arrives is decoded; yields its port (0 takes any)."""
        server = await asyncio.get_running_loop().create_server(
            lambda: Caller(self), bind, port, backlog=1_024
        )
        tasks = [asyncio.create_task(each) for each in (self._sift(), self._watch())]
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for caller in list(self._callers):
                caller.end("truncated")
            await asyncio.sleep(0)  # sockets are closed in the loop's next turn

    # -- callers

    def let_in(self, caller: Caller) -> None:
        """The caller is in, and the one longest unused out if there was no room."""
        if len(self._callers) >= self._most:
            next(iter(self._callers)).end("crowded")
        self._callers[caller] = None

    def used(self, caller: Caller) -> None:
        """It has just sent a request."""
        if caller in self._callers:
            self._callers.move_to_end(caller)

    def let_out(self, caller: Caller) -> None:
        """It is gone."""
        self._callers.pop(caller, None)

    def refused(self, size: int, coming: int) -> str | None:
        """Why a body of so many bytes is not taken, of which `coming` are not counted yet."""
        if size > self.recorder.most:
            return "too-large"
        return "budget" if self.recorder.held + self.reading + coming > self.recorder.budget else None

    async def _watch(self) -> None:
        """For ever: what does not end is ended, and what has not been used for long."""
        while True:
            await asyncio.sleep(self._patience / 5)
            now = self.time()
            for caller in list(self._callers):
                if caller.since is not None and caller.since < now - self._patience:
                    caller.end("slow")
                elif caller.used < now - IDLE and caller.since is None:
                    caller.end("")

    async def _sift(self) -> None:
        """For ever: what arrives is decoded, with a turn for everybody else in between."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            while self.recorder.sift():  # noqa: ASYNC110 - nothing is waited for: others have a turn
                await asyncio.sleep(0)
