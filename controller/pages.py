"""Reads pods' metrics pages over HTTP/1.1, as far as that takes: a GET, a status, a body of any framing.

A thousand canaries have five thousand pages a second, and aiohttp takes five times as long for one. A
connection is kept for each page that is read, and goes when it was not used for a while. Never through a
proxy: the address is a pod's. What comes is bounded in bytes, head and body, before and after it is
unpacked; its time is the caller's business.
"""

import asyncio
import re
import ssl
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import lru_cache, partial
from typing import Any, ClassVar, Self, cast
from urllib.parse import quote, urlsplit

HEAD = 16 * 1024  # bytes of a status line and headers; aiohttp takes 8 KiB a line
UNUSED = 30.0  # seconds after which a connection is closed: pods that are gone may never have said so
NOT_FOUND = 404
# Chunks of an answer, and pieces in which it comes: so many, and one more for each so many bytes. Servers
# write 2 KiB or more at once, or a line at a time. Each costs microseconds of the loop, on no pod's account.
CRUMBS, CRUMB = 2000, 512
LONGEST_LINE = 1024  # bytes that say a chunk's length, with extensions, which nobody uses
REMEMBERED = 16_384  # requests that are put together once
ZLIB = 32 + zlib.MAX_WBITS  # gzip or zlib, whichever it is
SAFE = "/%?=&:;,+@!$'()*~[]-._"  # of a path and its query; anything else is escaped

_HEX = re.compile(rb"[0-9a-fA-F]{1,16}")

Origin = tuple[bool, str, int]  # TLS or not, host, port


class Pages:
    """`ports.Fetch`, until the block ends that it opens."""

    def __init__(self) -> None:
        self._unused: dict[_Connection, float] = {}  # since when, the longest unused first
        self._by_origin: dict[Origin, list[_Connection]] = {}

    def __call__(self, url: str, *, accept: str, limit: int) -> Awaitable[tuple[str, bytes]]:
        """Its content type and itself; raises `OSError`, or `ValueError` if it is not a 200 or too large.

        On a connection that is kept it is asked for at once, and no task is needed to wait for it.
        """
        origin, request = _request(url, accept)
        connection = self._kept(origin)
        if connection is None:
            return self._anew(origin, request, url, limit)
        asked = connection.ask(request, url, limit)
        asked.again = partial(self._anew, origin, request, url, limit)
        return asked

    async def _anew(self, origin: Origin, request: bytes, url: str, limit: int) -> tuple[str, bytes]:
        """The same on a new connection."""
        try:
            connection = await _connected(origin, self._keep)
        except OSError as error:
            raise _lost(url, error) from error
        return await connection.ask(request, url, limit)

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nobody is connected any more."""
        for connection in self._unused:
            connection.close()
        self._unused.clear()
        self._by_origin.clear()
        await asyncio.sleep(0)  # the event loop closes sockets in its next turn

    def _kept(self, origin: Origin) -> "_Connection | None":
        kept = self._by_origin.get(origin, [])
        while kept:
            connection = kept.pop()
            self._unused.pop(connection, None)
            if connection.usable:
                return connection
        self._by_origin.pop(origin, None)
        return None

    def _keep(self, connection: "_Connection") -> None:
        now = asyncio.get_running_loop().time()
        self._unused[connection] = now
        self._by_origin.setdefault(connection.origin, []).append(connection)
        for oldest, since in self._unused.items():
            if now - since > UNUSED:
                self._drop(oldest)
            break

    def _drop(self, connection: "_Connection") -> None:
        connection.close()
        del self._unused[connection]
        others = self._by_origin[connection.origin]
        others.remove(connection)
        if not others:
            del self._by_origin[connection.origin]


class Asked(asyncio.Future[tuple[str, bytes]]):
    """A page that was asked for. Who cancels it closes its connection: what comes would be another's page."""

    connection: "_Connection"
    again: Callable[[], Coroutine[Any, Any, tuple[str, bytes]]] | None = None  # on a new connection
    _second: asyncio.Task[tuple[str, bytes]] | None = None
    _heard: Callable[["Asked"], object] | None = None

    def hears(self, heard: Callable[["Asked"], object]) -> None:
        """`heard` is told at once: a callback has its turn in the next round, when passes have had theirs."""
        self._heard = heard

    def set_result(self, result: tuple[str, bytes], /) -> None:
        """It is there."""
        super().set_result(result)
        self._tell()

    def set_exception(self, exception: type | BaseException, /) -> None:
        """It does not come."""
        super().set_exception(exception)
        self._tell()

    def _tell(self) -> None:
        if self._heard is None:
            return
        try:
            self._heard(self)
        except Exception as error:  # noqa: BLE001 - as of a callback, and the connection is not to blame
            said = {"message": "a page that came was not taken", "exception": error, "future": self}
            self.get_loop().call_exception_handler(said)

    def cancel(self, msg: Any | None = None) -> bool:
        """Nobody waits for it."""
        if not self.done():
            self.connection.close()
            if self._second is not None:
                self._second.cancel()
        return self._cancelled(msg)

    def _cancelled(self, msg: Any | None = None) -> bool:
        new = super().cancel(msg)
        if new:
            self._tell()
        return new

    def stale(self, error: Exception) -> None:
        """The other side closed before it said anything: while nobody looked, if it was a kept connection."""
        if self.again is None:
            self.set_exception(error)
            return
        self._second = self.get_loop().create_task(self.again())
        self._second.add_done_callback(self._answered)

    def _answered(self, second: asyncio.Task[tuple[str, bytes]]) -> None:
        if self.done():
            if not second.cancelled():
                second.exception()  # has been heard
        elif second.cancelled():
            self._cancelled()
        elif (error := second.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(second.result())


def _lost(url: str, error: Exception) -> ConnectionError:
    return ConnectionError(f"{url}: {type(error).__name__}: {error}")


@lru_cache(maxsize=REMEMBERED)
def _request(url: str, accept: str) -> tuple[Origin, bytes]:
    """Whom to ask, and the bytes to send; `ValueError` if this is no such URL."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url} is not the URL of a page")
    secure = parts.scheme == "https"
    query = f"?{quote(parts.query, safe=SAFE)}" if parts.query else ""
    target = quote(parts.path or "/", safe=SAFE) + query
    host = parts.netloc.rpartition("@")[2]
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {quote(host, safe=':[]')}",
        f"Accept: {accept}",
        "Accept-Encoding: gzip, deflate",
        "User-Agent: serin",
        "\r\n",
    )
    return (secure, parts.hostname, parts.port or (443 if secure else 80)), "\r\n".join(lines).encode()


async def _connected(origin: Origin, keep: "Callable[[_Connection], None]") -> "_Connection":
    secure, host, port = origin
    context = _trust() if secure else None
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(partial(_Connection, origin, keep), host, port, ssl=context)
    return connection


@lru_cache(maxsize=1)
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Connection(asyncio.BufferedProtocol):
    """One connection, on which one page after the other is asked for; between them it is kept."""

    _buffer: ClassVar[bytearray] = bytearray(64 * 1024)  # of all connections: what comes is taken out at once

    def __init__(self, origin: Origin, keep: "Callable[[_Connection], None]") -> None:
        self.origin = origin
        self._keep = keep
        self._transport: asyncio.Transport
        self._asked: Asked | None = None
        self._answer: _Answer | None = None
        self.usable = True

    def ask(self, request: bytes, url: str, limit: int) -> Asked:
        """Content type and page; the connection is closed unless all goes well."""
        self._answer, self._asked = _Answer(url, limit), Asked()
        self._asked.connection = self
        self._transport.write(request)
        return self._asked

    def close(self) -> None:
        """The connection is over."""
        self.usable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Asyncio's."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Asyncio's."""
        if self._answer is None:
            self.close()  # nobody asked
            return
        try:
            if self._answer.feed(self._buffer[:nbytes]):
                self._whole(self._answer)
        except ValueError as error:
            self._failed(error)

    def _whole(self, answer: "_Answer") -> None:
        """The page is there; `ValueError` if it is none."""
        page, asked = answer.page(), self._over()
        if answer.lasting and self.usable:
            self._keep(self)
        else:
            self.close()
        if asked is not None:
            asked.set_result((answer.kind, page))

    def _failed(self, error: Exception) -> None:
        self.close()
        if (asked := self._over()) is not None:
            asked.set_exception(error)

    def _over(self) -> Asked | None:
        """Who still waits; nobody does any more."""
        asked, self._asked, self._answer = self._asked, None, None
        return None if asked is None or asked.done() else asked

    def connection_lost(self, error: Exception | None) -> None:
        """Asyncio's."""
        self.usable = False
        answer = self._answer
        if answer is None:
            return
        if answer.ends_with_the_connection():
            try:
                self._whole(answer)
            except ValueError as wrong:
                self._failed(wrong)
        elif answer.begun:
            lost = error or ConnectionError("Disconnected in the middle of the page")
            self._failed(_lost(answer.url, lost))
        elif (asked := self._over()) is not None:
            asked.stale(_lost(answer.url, error or ConnectionError("Disconnected without an answer")))


class _Answer:
    """An answer as it comes: its head, then its body."""

    def __init__(self, url: str, limit: int) -> None:
        self.url = url
        self._limit = limit
        self._came = bytearray()
        self._body = -1  # where the body begins
        self._length: int | None = None
        self._chunks: list[bytes] | None = None  # None: it does not come in chunks
        self._size = 0  # of all chunks so far
        self._parts = self._bytes = 0  # of all that came so far
        self._packed = False
        self.status = 0
        self.kind = ""
        self.lasting = True  # the connection can be used again

    @property
    def begun(self) -> bool:
        """Whether anything has come."""
        return bool(self._came)

    def feed(self, part: bytes | bytearray) -> bool:
        """Whether the answer is whole; `ValueError` if it is none, or too large."""
        self._came += part
        self._parts, self._bytes = self._parts + 1, self._bytes + len(part)
        self._no_crumbs(self._parts, self._bytes)
        if self._body < 0 and not self._headed():
            return False
        if self._chunks is not None:
            return self._chunked(self._chunks)
        size = len(self._came) - self._body
        if size > self._limit or (self._length or 0) > self._limit:
            raise ValueError(f"{self.url} is larger than {self._limit} bytes")
        if self._length is not None and size > self._length:
            raise ValueError(f"{self.url} answered more than it said")
        return size == self._length

    def ends_with_the_connection(self) -> bool:
        """Whether the page is whole because the connection has ended."""
        return self._body >= 0 and self._length is None and self._chunks is None

    def page(self) -> bytes:
        """The body, unpacked; `ValueError` if it is no page."""
        if self.status != 200:
            lost = "; are prometheus.io/port and path right?" if self.status == NOT_FOUND else ""
            raise ValueError(f"{self.url} answered {self.status}, not 200{lost}")
        body = bytes(self._came[self._body :]) if self._chunks is None else b"".join(self._chunks)
        if not self._packed or not body:
            return body
        unpacking = zlib.decompressobj(ZLIB)
        try:
            page = unpacking.decompress(body, self._limit + 1)
        except zlib.error as error:
            raise ValueError(f"{self.url} cannot be unpacked: {error}") from error
        if len(page) > self._limit:
            raise ValueError(f"{self.url} is larger than {self._limit} bytes")
        if not unpacking.eof:
            raise ValueError(f"{self.url} cannot be unpacked: it is not whole")
        return page

    def _headed(self) -> bool:
        """Whether the head is whole; then it has been read."""
        end = self._came.find(b"\r\n\r\n")
        if end < 0 and len(self._came) <= HEAD:
            return False
        if not 0 <= end <= HEAD:
            raise ValueError(f"{self.url} answered with a head of more than {HEAD} bytes")
        first, headers = _read(bytes(self._came[:end]))
        self._body = end + 4
        version, _, said = first.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not said[:3].isdigit():
            raise ValueError(f"{self.url} did not answer in HTTP/1.1")
        self.status = int(said[:3])
        self._heed(headers, old=version == b"HTTP/1.0")
        return True

    def _heed(self, headers: Mapping[bytes, str], *, old: bool) -> None:
        """What the headers say of the body, and of what follows."""
        self.kind = headers.get(b"content-type", "")
        encoding = headers.get(b"content-encoding", "identity").lower()
        if encoding not in {"identity", "gzip", "x-gzip", "deflate"}:
            raise ValueError(f"{self.url} is packed as {encoding[:80]!r}, which nobody asked for")
        self._packed = encoding != "identity"
        if b"transfer-encoding" in headers:
            if headers[b"transfer-encoding"].lower() != "chunked":
                raise ValueError(f"{self.url} comes in a transfer encoding that nobody asked for")
            self._chunks = []
        elif (length := headers.get(b"content-length")) is not None:
            if not (length.isascii() and length.isdecimal()):
                raise ValueError(f"{self.url} has the length {length[:80]!r}, which is no number")
            self._length = int(length)
        if self.status in {204, 304} or 100 <= self.status < 200:
            self._length = 0
        ends = headers.get(b"connection", "close" if old else "").lower() == "close"
        self.lasting = not ends and not self.ends_with_the_connection()

    def _chunked(self, chunks: list[bytes]) -> bool:
        """Whether the last chunk has come; each that is whole is taken."""
        came, at = self._came, self._body
        while (end := came.find(b"\r\n", at, at + LONGEST_LINE)) >= 0:
            size = _size(bytes(came[at:end]), self.url)
            if self._size + size > self._limit:
                raise ValueError(f"{self.url} is larger than {self._limit} bytes")
            if size == 0:
                self._taken(at)
                return self._trailed(end - at)
            after = end + 2 + size
            if len(came) < after + 2:
                break
            if came[after : after + 2] != b"\r\n":
                raise ValueError(f"{self.url} comes in chunks that cannot be read")
            chunks.append(bytes(came[end + 2 : after]))
            self._size += size
            self._no_crumbs(len(chunks), self._size)
            at = after + 2
        if end < 0 and len(came) - at > LONGEST_LINE:
            raise ValueError(f"{self.url} comes in chunks that cannot be read")
        self._taken(at)
        return False

    def _no_crumbs(self, count: int, size: int) -> None:
        """So many bytes do not come in so many parts that these cost more than the page."""
        if count > CRUMBS + size // CRUMB:
            raise ValueError(f"{self.url} comes in crumbs: {count} parts of {size} bytes")

    def _taken(self, until: int) -> None:
        """What comes next begins there."""
        del self._came[:until]
        self._body = 0

    def _trailed(self, end: int) -> bool:
        """Whether what may follow the last chunk, an empty line at least, has come."""
        if len(self._came) > end + HEAD:
            raise ValueError(f"{self.url} says too much after its end")
        return self._came.endswith(b"\r\n\r\n")


@lru_cache(maxsize=256)  # a pod's head is that of a second ago, or of its siblings: time and length change
def _read(head: bytes) -> tuple[bytes, Mapping[bytes, str]]:
    """The status line and the headers."""
    first, *rest = head.split(b"\r\n")
    return first, dict(map(_header, rest))


def _header(line: bytes) -> tuple[bytes, str]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip().decode("latin-1")


def _size(line: bytes, url: str) -> int:
    digits = line.partition(b";")[0].strip()
    if not _HEX.fullmatch(digits):
        raise ValueError(f"{url} comes in chunks that cannot be read")
    return int(digits, 16)
