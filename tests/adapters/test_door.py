"""The recorder's door over raw sockets on loopback: what HTTP allows, and what callers do in bad faith."""

import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_shadow.door import LARGEST_HEAD, Caller, Door, NoHttp, head
from gpu_shadow.recorder import Recorder
from gpu_shadow.redact import Policy, Redaction

ROW = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
BODY = json.dumps({"inputs": [ROW]}).encode()
POST = b"POST /v2/models/m/infer?x=1 HTTP/1.1\r\nHost: model.lab-shadow\r\n"
ASKED = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
CLOSING = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            await asyncio.sleep(0.001)  # a read of its own for each

    async def hear(self, answer: bytes) -> None:
        async with asyncio.timeout(5):
            assert await self.reader.readexactly(len(answer)) == answer

    async def closed(self) -> bytes:
        """What came before the other side closed."""
        async with asyncio.timeout(5):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def leave(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


class Room:
    """A door with a recorder behind it."""

    def __init__(self, recorder: Recorder, door: Door, port: int) -> None:
        self.recorder = recorder
        self.door = door
        self.port = port
        self.lines: list[Line] = []

    async def call(self) -> Line:
        self.lines.append(Line(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.lines[-1]

    async def until(self, true: Callable[[], Any]) -> None:
        for _ in range(200):
            if true():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(self.recorder.dropped)

    async def counted(self, reason: str, times: int = 1) -> None:
        await self.until(lambda: self.recorder.dropped[reason] == times)
        assert self.recorder.seen == self.recorder.dropped.total() + self.recorder.kept


@asynccontextmanager
async def open_door(*, slices: Sequence[str] = (), **how: Any) -> AsyncIterator[Room]:
    redaction = Redaction(Policy(slices=tuple(slices)), digest="") if slices else None
    recorder = Recorder(most=100_000, redaction=redaction)
    recorder.open("lab/run", ["model.lab"])
    door = Door(recorder, **how)
    async with door.opened("127.0.0.1", 0) as port:
        room = Room(recorder, door, port)
        yield room
        for line in room.lines:
            await line.leave()
    assert door.reading == 0


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async with open_door() as opened:
        yield opened


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    said = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + said + end


@pytest.mark.parametrize(
    "asked",
    [
        ASKED,
        POST + b"content-length:\t%d \r\n\r\n" % len(BODY) + BODY,
        chunked(BODY),
        chunked(*(bytes([one]) for one in BODY)),
        chunked(BODY, end=b"000;last=yes\r\nDigest: none\r\nMore: too\r\n\r\n"),
        b"\r\n" + ASKED,
        ASKED.replace(b"Host", b"X-Request-Id: a\r\nx-request-id: b\r\nHost"),
        POST + b"Content-Length: %d\r\n" % len(BODY) * 2 + b"\r\n" + BODY,
    ],
    ids=["plain", "lower", "chunk", "chunks", "trailers", "blank-line", "two-ids", "two-lengths"],
)
@pytest.mark.parametrize("cut", [0, 1, 7])
async def test_a_request_is_kept_however_it_is_written_and_cut(room: Room, asked: bytes, cut: int) -> None:
    line = await room.call()
    whole = [asked, asked]
    pieces = [b"".join(whole)] if not cut else [asked[at : at + cut] for at in range(0, len(asked), cut)]
    await line.say(*(pieces if len(pieces) < 80 else [b"".join(pieces[:-40]), *pieces[-40:]]))
    await line.hear(ACCEPTED)
    await room.until(lambda: room.recorder.kept)
    found = room.recorder.take("lab/run")[0]
    assert found.tensors["x"].tolist() == [[1, 2]]
    assert room.recorder.seen == room.recorder.dropped.total() + room.recorder.kept


async def test_requests_may_follow_each_other_before_any_is_answered(room: Room) -> None:
    line = await room.call()
    await line.say(ASKED * 20 + chunked(BODY) * 20)
    await line.hear(ACCEPTED * 40)
    await room.until(lambda: room.recorder.kept == 40)


async def test_whoever_waits_to_be_told_to_go_on_is_told(room: Room) -> None:
    line = await room.call()
    await line.say(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    await line.hear(b"HTTP/1.1 100 Continue\r\n\r\n")
    await line.say(BODY)
    await line.hear(ACCEPTED)
    await room.until(lambda: room.recorder.kept)


@pytest.mark.parametrize(
    "asked",
    [ASKED.replace(b"HTTP/1.1", b"HTTP/1.0"), ASKED.replace(b"Host", b"Connection: Close\r\nHost")],
    ids=["http-1.0", "close"],
)
async def test_a_connection_that_is_to_end_ends_and_what_follows_is_not_read(
    room: Room, asked: bytes
) -> None:
    line = await room.call()
    await line.say(asked + ASKED)
    assert await line.closed() == CLOSING
    await room.until(lambda: room.recorder.kept)
    assert room.recorder.seen == 1


@pytest.mark.parametrize("head_", [b"GET /x HTTP/1.1\r\nHost: model.lab-shadow\r\n\r\n", POST + b"\r\n"])
async def test_a_request_without_a_body_is_one_as_well(room: Room, head_: bytes) -> None:
    line = await room.call()
    await line.say(head_ + ASKED)
    await line.hear(ACCEPTED * 2)
    await room.counted("empty")


async def test_an_event_of_kserve_s_logger_is_kept_under_its_own_id(room: Room) -> None:
    head_ = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    body = json.dumps({"inputs": [head_]}).encode() + b"\x00\x00\x80?\x00\x00\x00@"
    said = {
        "host": "recorder.serin-system",
        "ce-specversion": "1.0",
        "ce-type": "org.kubeflow.serving.inference.request",
        "ce-id": "e1",
        "ce-source": "http://localhost:9081/",
        "ce-inferenceservicename": "model",
        "ce-namespace": "lab",
        "ce-component": "predictor",
        "content-type": "application/octet-stream",
        "content-length": str(len(body)),
    }
    lines = "".join(f"{name.title()}: {value}\r\n" for name, value in said.items())
    line = await room.call()
    await line.say(f"POST / HTTP/1.1\r\n{lines}\r\n".encode() + body)
    await line.hear(ACCEPTED)
    await room.until(lambda: room.recorder.kept)
    (found,) = room.recorder.take("lab/run")
    assert (found.id, found.tensors["x"].tolist()) == ("e1", [[1, 2]])


async def test_a_header_that_the_policy_reports_by_comes_through_the_door() -> None:
    async with open_door(slices=["X-Tenant"]) as room:
        line = await room.call()
        await line.say(ASKED.replace(b"Host", b"X-TENANT: acme\r\nX-Other: no\r\nHost"))
        await line.hear(ACCEPTED)
        await room.until(lambda: room.recorder.kept)
        assert [one.slice for one in room.recorder.take("lab/run")] == ["x-tenant=acme"]


NO_HTTP = {
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no-line": b"\r\n\r\nhello\r\n\r\n",
    "no-colon": b"POST / HTTP/1.1\r\nHost model\r\n\r\n",
    "folded": POST + b" more: 1\r\n\r\n",
    "blank-before-colon": POST + b"Content-Length : 5\r\n\r\nhello",
    "two-hosts": POST + b"Host: other\r\n\r\n",
    "two-lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length-and-chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "other-coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "signed-length": POST + b"Content-Length: +5\r\n\r\nhello",
    "long-length": POST + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n",
    "foreign-digits": POST + "Content-Length: \u0665\r\n\r\n".encode(),
    "no-size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "signed-size": POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n",
    "long-size": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 2_000,
    "no-end-of-chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc",
    "long-head": POST + b"X: " + b"x" * LARGEST_HEAD,
    "many-headers": POST + b"X: y\r\n" * LARGEST_HEAD,
    "long-trailer": chunked(BODY, end=b"0\r\n" + b"x" * 2_000),
}


@pytest.mark.parametrize("said", NO_HTTP.values(), ids=NO_HTTP.keys())
async def test_what_is_no_http_is_counted_closed_and_not_logged(
    room: Room, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    line, other = await room.call(), await room.call()
    await line.say(said)
    assert (await line.closed())[:12] in {b"HTTP/1.1 400", b""}  # a reset may overtake the answer
    await room.counted("no-http")
    assert caplog.records == []
    await other.say(ASKED)
    await other.hear(ACCEPTED)


async def test_a_body_that_is_too_large_is_thrown_away_as_it_comes(room: Room) -> None:
    line = await room.call()
    await line.say(POST + b"Content-Length: 5000000\r\n\r\n")
    for _ in range(50):
        await line.say(b"x" * 100_000)
        assert room.door.reading == 0
    await line.say(ASKED)
    await line.hear(ACCEPTED * 2)
    await line.say(chunked(*[b"x" * 60_000] * 5) + ASKED)
    await line.hear(ACCEPTED * 2)
    await room.counted("too-large", 2)


async def test_bodies_that_are_still_arriving_are_within_the_budget(room: Room) -> None:
    room.recorder.budget = 200_000
    lines = [await room.call() for _ in range(10)]
    for line in lines:
        await line.say(POST + b"Content-Length: 90000\r\n\r\n" + b" " * 60_000)
    await room.until(lambda: room.door.reading > 100_000)
    assert room.door.reading <= 200_000
    for line in lines:
        await line.say(b" " * 30_000)
        await line.hear(ACCEPTED)
    await room.until(lambda: room.recorder.seen == 10)
    assert room.recorder.dropped["budget"] >= 7
    assert room.door.reading == 0


BEGUN = {
    "nothing": (b"", 0),
    "line": (b"POST / HT", 1),
    "head": (POST, 1),
    "body": (POST + b"Content-Length: 100\r\n\r\n{", 1),
    "chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n5000\r\nab", 1),
    "second": (ASKED + POST, 1),
}


@pytest.mark.parametrize(("said", "counted"), BEGUN.values(), ids=BEGUN.keys())
async def test_what_never_ends_is_ended(said: bytes, counted: int) -> None:
    async with open_door(patience=0.05) as room:
        line = await room.call()
        await line.say(said)
        with suppress(ConnectionError):  # not even a byte now and then keeps it
            await line.say(*[b"x" if said else b""] * 50)
        await line.closed()
        assert room.recorder.dropped["slow"] == counted


async def test_a_connection_at_rest_stays() -> None:
    async with open_door(patience=0.02) as room:
        line = await room.call()
        await line.say(ASKED)
        await line.hear(ACCEPTED)
        await asyncio.sleep(0.1)
        await line.say(ASKED)
        await line.hear(ACCEPTED)


@pytest.mark.parametrize(("said", "counted"), BEGUN.values(), ids=BEGUN.keys())
async def test_what_ends_too_early_is_counted(room: Room, said: bytes, counted: int) -> None:
    line = await room.call()
    await line.say(said)
    await line.leave()
    await room.counted("truncated", counted)


async def test_whoever_reads_no_answers_is_not_read_from(caplog: pytest.LogCaptureFixture) -> None:
    async with open_door(patience=0.2) as room:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.connect(("127.0.0.1", room.port))
        line = Line(*await asyncio.open_connection(sock=deaf, limit=1_024))
        empty = (POST + b"\r\n") * 1_000
        with pytest.raises(ConnectionError):
            await line.say(*[empty] * 2_000)
        assert caplog.records == []


async def test_of_too_many_connections_the_one_longest_unused_is_closed() -> None:
    async with open_door(most_callers=3) as room:
        first, second, third = [await room.call() for _ in range(3)]
        await second.say(POST)
        await first.say(ASKED)
        await first.hear(ACCEPTED)
        await room.call()
        assert await second.closed() == b""
        await room.counted("crowded")
        await room.call()
        assert await third.closed() == b""
        await first.say(ASKED)
        await first.hear(ACCEPTED)


async def test_connections_that_send_nothing_take_no_memory_without_end() -> None:
    async with open_door(most_callers=50) as room:
        busy = await room.call()
        for _ in range(20):
            idle = [socket.create_connection(("127.0.0.1", room.port)) for _ in range(45)]
            await busy.say(ASKED)
            await busy.hear(ACCEPTED)
            for one in idle:
                one.close()
        await busy.leave()
        await room.until(lambda: not room.door._callers)
        gc.collect()
        assert sum(type(one) is Caller for one in gc.get_objects()) < 10


async def test_however_many_connect_so_many_are_in() -> None:
    async with open_door(most_callers=50) as room:
        idle = [socket.create_connection(("127.0.0.1", room.port)) for _ in range(500)]
        last = await room.call()
        await last.say(ASKED)
        await last.hear(ACCEPTED)
        assert len(room.door._callers) == 50
        gc.collect()
        assert sum(type(one) is Caller for one in gc.get_objects()) < 60
        for one in idle:
            one.close()


@given(
    st.binary(max_size=200) | st.lists(st.sampled_from([POST, b": ", b"\r\n", b"Host", b"1"])).map(b"".join)
)
def test_no_head_is_more_than_no_http(said: bytes) -> None:
    try:
        found = head(said, {b"host": "host"})
    except NoHttp:
        return
    assert found.length is None or found.length >= 0
