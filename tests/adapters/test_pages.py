"""What a pod's side may do to a connection, byte by byte, on loopback."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from controller import pages
from controller.pages import HEAD, UNUSED, Pages

Answers = Callable[[int], list[bytes]]  # of the n-th request: what is written, with a moment in between
HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nup 1\n"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """Answers as told and remembers what it was asked, and by how many connections."""

    def __init__(self, answers: Answers, *, hangs_up: bool) -> None:
        self._answers = answers
        self._hangs_up = hangs_up
        self.asked: list[bytes] = []
        self.connections = 0
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                self.asked.append(request)
                for part in self._answers(len(self.asked)):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.001)
                if self._hangs_up:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def serving(answers: Answers, *, hangs_up: bool = False) -> AsyncIterator[tuple[Server, str]]:
    server = Server(answers, hangs_up=hangs_up)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listening, asyncio.timeout(10):
        yield server, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/metrics"
        while server.open:  # noqa: ASYNC110 - another task's sockets
            await asyncio.sleep(0.001)


async def read(*parts: bytes, hangs_up: bool = False, limit: int = 1000) -> tuple[str, bytes]:
    async with serving(lambda _: list(parts), hangs_up=hangs_up) as (_, url), Pages() as fetch:
        return await fetch(url, accept="text/plain", limit=limit)


@pytest.mark.parametrize("size", [1, 7, 40])
async def test_a_page_is_the_same_in_whatever_pieces_it_comes(size: int) -> None:
    chunked = CHUNKS + b"3;a=b\r\nup \r\n2\r\n1\n\r\n0\r\nTrailer: x\r\n\r\n"
    for whole in (HELLO, chunked):
        kind, page = await read(*(whole[at : at + size] for at in range(0, len(whole), size)))
        assert (kind, page) == ("text/plain" if whole is HELLO else "", b"up 1\n")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_page_without_a_length_ends_with_its_connection(version: bytes) -> None:
    assert (await read(b"HTTP/" + version + b" 200 OK\r\n\r\n", b"up 1\n", hangs_up=True))[1] == b"up 1\n"


async def test_a_page_that_is_packed_is_unpacked() -> None:
    body = gzip.compress(b"up 1\n")
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: GZIP\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert (await read(head + body))[1] == b"up 1\n"
    with pytest.raises(ValueError, match="not whole"):
        await read(head.replace(b"%d" % len(body), b"%d" % (len(body) - 9)) + body[:-9])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "did not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", "larger than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nup 1\n", "more than it said"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 0\r\n\r\n", "which nobody asked for"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "that nobody asked for"),
        (CHUNKS + b"zz\r\n", "cannot be read"),
        (CHUNKS + b"-1\r\n", "cannot be read"),
        (CHUNKS + b"1\r\nabc\r\n", "cannot be read"),
        (CHUNKS + b"fffffffff\r\n", "larger than 1000 bytes"),
        (CHUNKS + b"1" * (HEAD + 1), "cannot be read"),
        (CHUNKS + b"0\r\n" + b"a" * (HEAD + 9), "too much after its end"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * HEAD, "a head of more than"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", "302, not"),
    ],
)
async def test_what_is_no_page_is_refused_and_its_connection_closed(answer: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        await read(answer)


async def test_a_page_that_breaks_off_is_an_os_error() -> None:
    with pytest.raises(OSError, match="in the middle"):
        await read(HELLO[:-2], hangs_up=True)


async def test_a_connection_that_was_closed_meanwhile_is_replaced_without_a_word() -> None:
    async with serving(lambda _: [HELLO], hangs_up=True) as (server, url), Pages() as fetch:
        for _ in range(3):
            assert await fetch(url, accept="*/*", limit=10) == ("text/plain", b"up 1\n")
    assert server.connections == 3


async def test_what_comes_late_is_never_taken_for_the_next_page() -> None:
    def answers(n: int) -> list[bytes]:
        return [] if n == 1 else [HELLO.replace(b"up 1", b"up 2")]

    async with serving(answers) as (server, url), Pages() as fetch:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await fetch(url, accept="*/*", limit=10)
        assert (await fetch(url, accept="*/*", limit=10))[1] == b"up 2\n"
    assert server.connections == 2


async def test_connections_that_nobody_uses_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(lambda _: [HELLO]) as (server, url), Pages() as fetch:
        other = url.replace("127.0.0.1", "localhost")
        await fetch(other, accept="*/*", limit=10)
        monkeypatch.setattr(pages, "UNUSED", -1.0)
        await fetch(url, accept="*/*", limit=10)
        while server.open > 1:  # noqa: ASYNC110 - another task's sockets
            await asyncio.sleep(0.001)
        monkeypatch.setattr(pages, "UNUSED", UNUSED)
        await fetch(url, accept="*/*", limit=10)
        await fetch(other, accept="*/*", limit=10)
    assert server.connections == 3


async def test_no_path_adds_a_header() -> None:
    async with serving(lambda _: [HELLO]) as (server, url), Pages() as fetch:
        await fetch(url + "/a b\u0301?x=\x0bHost: evil", accept="*/*", limit=10)
    first, *headers = server.asked[0].split(b"\r\n")
    assert first == b"GET /metrics/a%20b%CC%81?x=%0BHost:%20evil HTTP/1.1"
    assert [line for line in headers if line.startswith(b"Host:")] == [b"Host: " + url.split("/")[2].encode()]


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://", "/metrics"])
async def test_what_is_no_url_of_a_page_is_said(url: str) -> None:
    async with Pages() as fetch:
        with pytest.raises(ValueError, match="not the URL of a page"):
            await fetch(url, accept="*/*", limit=10)


async def test_who_hears_of_a_page_does_so_before_the_next_round_of_the_loop() -> None:
    """A page that showed a fault waited a round, with all passes of that round, to be looked at."""
    order: list[str] = []
    async with serving(lambda _: [HELLO]) as (_, url), Pages() as fetch:
        await fetch(url, accept="text/plain", limit=1000)  # from now on there is a connection
        asked = fetch(url, accept="text/plain", limit=1000)
        assert isinstance(asked, pages.Asked)
        asked.add_done_callback(lambda _: order.append("called back"))

        def heard(page: pages.Asked) -> None:
            asyncio.get_running_loop().call_soon(order.append, "next round")
            order.append(f"heard {page.result()[1].decode().strip()}")

        asked.hears(heard)
        await asked
        await asyncio.sleep(0)
    assert order == ["heard up 1", "called back", "next round"]


async def test_whoever_hears_of_a_page_and_fails_costs_no_connection() -> None:
    said: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: said.append(str(about["exception"])))
    async with serving(lambda _: [HELLO]) as (server, url), Pages() as fetch:
        await fetch(url, accept="text/plain", limit=1000)
        asked = fetch(url, accept="text/plain", limit=1000)
        assert isinstance(asked, pages.Asked)
        asked.hears(lambda page: page.result()[1][99])
        assert (await asked)[1] == b"up 1\n"
        await fetch(url, accept="text/plain", limit=1000)
        assert server.connections == 1
    assert said == ["index out of range"]


async def test_a_page_in_crumbs_is_refused_before_they_cost_more_than_a_page() -> None:
    """Byte by byte a page of 2 MiB took half of each second of the loop on which all else is done."""
    crumb, end, few = b"1\r\nx\r\n", b"0\r\n\r\n", pages.CRUMBS
    _, page = await read(CHUNKS, crumb * few, end, limit=2**21)
    assert page == b"x" * few
    with pytest.raises(ValueError, match=f"comes in crumbs: {few + 4} parts of {few + 4} bytes"):
        await read(CHUNKS, crumb * (few + 6), end, limit=2**21)
    _, page = await read(CHUNKS, b"200\r\n%s\r\n" % (b"x" * 512) * 4096, end, limit=2**21)
    assert len(page) == 2**21


def test_an_answer_that_comes_in_crumbs_is_refused_before_each_has_cost_a_turn_of_the_loop() -> None:
    answer = pages._Answer("http://a", 2**21)
    for _ in range(pages.CRUMBS):
        answer.feed(b"H")
    with pytest.raises(ValueError, match="comes in crumbs"):
        [answer.feed(b"H") for _ in range(9)]


@pytest.mark.parametrize("parts", [1, 50])
async def test_what_is_said_beside_a_chunk_is_bounded(parts: int) -> None:
    """Its extensions were not, so that gigabytes came with a page of few bytes."""
    size = b"1;" + b"a" * pages.LONGEST_LINE
    said = [size[at : at + len(size) // parts + 1] for at in range(0, len(size), len(size) // parts + 1)]
    with pytest.raises(ValueError, match="chunks that cannot be read"):
        await read(CHUNKS, *said, b"\r\nx\r\n0\r\n\r\n")
