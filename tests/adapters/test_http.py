"""Pages and letters over real sockets on loopback."""

import asyncio
import gzip
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from controller.http import ANSWER, Letters, Resolver, _session, outside, proxies
from controller.kube import NoCluster
from controller.pages import Pages
from controller.ports import Unreached
from controller.receivers import allowed
from tests.adapters.test_connect import AGENT, kubeconfig, serving


@asynccontextmanager
async def letters(receivers: str = "127.0.0.1") -> AsyncIterator[Letters]:
    near = allowed(receivers)
    async with _session(connections=5, trust_env=True, resolver=Resolver(near)) as session:
        yield Letters(session, near)


def body(content: bytes, status: int = 200, **headers: str) -> Any:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=content, status=status, headers=headers)

    return answer


async def test_a_page_is_fetched_with_the_type_that_was_asked_for() -> None:
    async with serving(body(b"up 1\n")) as server, Pages() as fetch:
        url = f"http://127.0.0.1:{server.port}/metrics?filter=a%7Cb"
        assert await fetch(url, accept="text/plain", limit=100) == (
            "application/octet-stream",
            b"up 1\n",
        )
    assert server.requests[0].headers["Accept"] == "text/plain"
    assert server.requests[0].query["filter"] == "a|b"


async def test_a_page_that_is_too_large_is_refused_while_it_is_read() -> None:
    async with serving(body(b"x" * 101)) as server, Pages() as fetch:
        _, page = await fetch(f"http://127.0.0.1:{server.port}/", accept="*/*", limit=101)
        assert len(page) == 101
        with pytest.raises(ValueError, match="is larger than 100 bytes"):
            await fetch(f"http://127.0.0.1:{server.port}/", accept="*/*", limit=100)


async def test_a_page_that_never_ends_is_refused() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    async with serving(endless) as server, Pages() as fetch:
        with pytest.raises(ValueError, match="is larger than"):
            await fetch(f"http://127.0.0.1:{server.port}/", accept="*/*", limit=2 * 1024 * 1024)


async def test_the_limit_is_of_the_page_and_not_of_its_compressed_form() -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    answer = body(bomb, **{"Content-Encoding": "gzip"})
    async with serving(answer) as server, Pages() as fetch:
        with pytest.raises(ValueError, match="is larger than 1000000 bytes"):
            await fetch(f"http://127.0.0.1:{server.port}/", accept="*/*", limit=1_000_000)


@pytest.mark.parametrize("status", [204, 301, 302, 404, 500])
async def test_only_200_is_a_page(status: int) -> None:
    async with serving(body(b"", status, Location="/elsewhere")) as server, Pages() as fetch:
        with pytest.raises(ValueError, match=f"answered {status}, not 200") as refused:
            await fetch(f"http://127.0.0.1:{server.port}/", accept="*/*", limit=100)
    asked = str(refused.value).endswith("are prometheus.io/port and path right?")
    assert asked == (status == 404)
    assert len(server.requests) == 1  # a redirect is not followed: it may lead anywhere


async def test_a_pod_that_is_not_there_is_an_os_error() -> None:
    async with Pages() as fetch:
        with pytest.raises(OSError, match=r"^http://127\.0\.0\.1:9/: "):
            await fetch("http://127.0.0.1:9/", accept="*/*", limit=100)


async def test_a_pod_that_hangs_up_is_an_os_error() -> None:
    async def hang_up(request: web.Request) -> web.Response:
        request.transport.abort()
        return web.Response()

    async with serving(hang_up) as server, Pages() as fetch:
        with pytest.raises(OSError, match=r"Disconnected|reset"):
            await fetch(f"http://127.0.0.1:{server.port}/", accept="*/*", limit=100)


async def test_pods_are_never_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with serving(body(b"up 1\n")) as server, Pages() as fetch:
        assert await fetch(f"http://127.0.0.1:{server.port}/", accept="*/*", limit=100)


async def test_connections_to_pods_are_kept_open() -> None:
    async with serving(body(b"up 1\n")) as server, Pages() as fetch:
        for _ in range(3):
            await fetch(f"http://127.0.0.1:{server.port}/", accept="*/*", limit=100)
    assert len(set(server.peers)) == 1


async def test_a_letter_is_posted_and_its_answer_told() -> None:
    busy = body(b"slow down", 429, **{"Retry-After": "7"})
    async with serving(busy) as server, letters() as post:
        url = f"http://127.0.0.1:{server.port}/hook"
        status, headers = await post(url, b'{"a": 1}', headers={"Content-Type": "application/json"})
    assert (status, headers["Retry-After"]) == (429, "7")
    assert server.bodies == [b'{"a": 1}']
    assert server.requests[0].headers["Content-Type"] == "application/json"


async def test_a_redirect_of_a_receiver_is_an_answer_and_not_an_order() -> None:
    async with serving(body(b"", 307, Location="http://169.254.169.254/")) as server, letters() as post:
        status, _ = await post(f"http://127.0.0.1:{server.port}/hook", b"{}", headers={})
    assert status == 307
    assert len(server.requests) == 1


NEAR = [
    "127.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "localhost",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0.0.0.0",
]
# Who reads a URL takes these for digits and dots: they are no names, and nobody would have resolved them.
NEAR += [
    "127\u30020\u30020\u30021",
    "127\uff0e0\uff0e0\uff0e1",
    "127\uff610\uff610\uff611",
    "\u2460\u2461\u2466.0.0.1",
]


@pytest.mark.parametrize("host", NEAR)
async def test_a_policy_leads_no_letter_to_a_near_address_however_it_is_written(host: str) -> None:
    async with serving(body(b"")) as server, letters("") as post:
        with pytest.raises(PermissionError, match="not a public one"):
            await post(f"http://{host}:{server.port}/hook", b"{}", headers={})
    assert not server.requests


async def test_a_name_that_leads_elsewhere_the_second_time_gains_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: the address is looked at when it is connected to, and not before."""
    asked: list[str] = []

    def lookup(host: str, port: int, *_: Any) -> list[Any]:
        asked.append(host)
        address = "203.0.113.7" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with serving(body(b"")) as server, letters("203.0.113.0/24") as post:
        with pytest.raises((OSError, TimeoutError)) as first:
            async with asyncio.timeout(0.1):
                await post(f"http://rebound.example:{server.port}/", b"{}", headers={})
        assert not isinstance(first.value, PermissionError)  # it was let through, and nobody is there
        with pytest.raises(PermissionError):
            await post(f"http://rebound.example:{server.port + 1}/", b"{}", headers={})
        with pytest.raises(PermissionError):
            await post(f"http://other.example:{server.port}/", b"{}", headers={})
    assert not server.requests


async def test_a_near_receiver_is_reached_where_the_controller_s_owner_says_so_by_name() -> None:
    async with serving(body(b"")) as server, letters("localhost") as post:
        status, _ = await post(f"http://localhost:{server.port}/hook", b"{}", headers={})
        assert status == 200
        with pytest.raises(PermissionError):
            await post(f"http://127.0.0.1:{server.port}/hook", b"{}", headers={})


async def test_the_environment_s_proxy_may_be_near(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://proxy.lab.internal:3128")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert proxies() == {"proxy.lab.internal"}
    assert allowed("").also(proxies()).host("proxy.lab.internal")


async def test_of_a_receivers_answer_only_so_much_is_read() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * ANSWER)

    async with serving(endless) as server, letters() as post, asyncio.timeout(10):
        status, _ = await post(f"http://127.0.0.1:{server.port}/hook", b"{}", headers={})
    assert status == 200


async def test_trouble_with_a_receiver_does_not_tell_its_url() -> None:
    """Slack's URL is the secret itself, and errors end in logs."""
    async with letters() as post:
        with pytest.raises(Unreached, match="nobody listens there") as raised:
            await post("http://127.0.0.1:9/services/T0/B0/s3cret", b"{}", headers={})
    assert "127.0.0.1" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("answer", "scheme", "says"),
    [
        (b"\0\xff this is no HTTP\r\n\r\n", "http", "what it answers is no HTTP; is it https"),
        (b"", "http", "it hung up without an answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "https", "it speaks no TLS"),
    ],
)
async def test_what_is_wrong_with_a_receiver_is_said_in_words(answer: bytes, scheme: str, says: str) -> None:
    """All of it was `(ConnectionError)`, whatever somebody had to mend."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1")
    async with server, letters() as post:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreached, match=says) as raised:
            await post(f"{scheme}://127.0.0.1:{port}/s3cret", b"{}", headers={})
    assert "s3cret" not in str(raised.value)


async def test_a_name_that_is_not_known_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with letters() as post:
        with pytest.raises(Unreached, match="its name is not known"):
            await post("http://hooks.slack.example/s3cret", b"{}", headers={})


async def test_a_receiver_that_hangs_takes_no_connection_from_another(tmp_path: Path) -> None:
    """Thirty runs before a gate that hangs had all connections, and Slack heard of no rollback meanwhile."""
    waiting, enough = asyncio.Event(), asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        waiting.set()
        await enough.wait()
        return web.Response()

    async with AsyncExitStack() as stack:
        slow = await stack.enter_async_context(serving(hang))
        quick = await stack.enter_async_context(serving(body(b"ok")))
        config, near = kubeconfig(tmp_path, quick.port), allowed("127.0.0.1")
        world = await stack.enter_async_context(outside(agent=AGENT, kubeconfig=config, receivers=near))
        url = f"http://127.0.0.1:{slow.port}/"
        async with asyncio.TaskGroup() as asked:
            tasks = [asked.create_task(world.post(url, b"", headers={})) for _ in range(30)]
            await waiting.wait()
            await asyncio.sleep(0)
            async with asyncio.timeout(5):
                status, _ = await world.post(f"http://127.0.0.1:{quick.port}/", b"", headers={})
            assert not any(task.done() for task in tasks)
            enough.set()
    assert status == 200


async def test_the_world_outside_is_all_of_it(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(body(b"{}")))
        config, near = kubeconfig(tmp_path, server.port), allowed("127.0.0.1")
        world = await stack.enter_async_context(outside(agent=AGENT, kubeconfig=config, receivers=near))
        url = f"http://127.0.0.1:{server.port}/"
        assert await world.fetch(url, accept="*/*", limit=10) == ("application/octet-stream", b"{}")
        assert (await world.post(url, b"", headers={}))[0] == 200
        request = world.transport.request("GET", "/api", query={}, headers={}, body=None)
        async with request as answer:
            assert await answer.read() == b"{}"
        assert world.clock().tzinfo is UTC
    assert len(server.requests) == 3


async def test_there_is_no_world_without_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(NoCluster):
        async with outside(agent=AGENT, kubeconfig=str(tmp_path / "nowhere")):
            pass


async def test_names_that_nobody_answers_for_keep_no_other_from_being_looked_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A policy's own names took the process's few threads: no alert of others left, and no name was found."""
    found, known = threading.Event(), socket.getaddrinfo

    def lookup(host: str, *more: Any) -> Any:
        if host.endswith(".slow.example"):
            found.wait(10)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return known("127.0.0.1" if host == "quick.example" else host, *more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with AsyncExitStack() as stack:
        quick = await stack.enter_async_context(serving(body(b"ok")))
        config, near = kubeconfig(tmp_path, quick.port), allowed("*.example")
        world = await stack.enter_async_context(outside(agent=AGENT, kubeconfig=config, receivers=near))
        tasks = [
            asyncio.create_task(world.post(f"http://{each}.slow.example/", b"", headers={}))
            for each in range(40)
        ]
        try:
            await asyncio.sleep(0.1)
            async with asyncio.timeout(2):
                status, _ = await world.post(f"http://quick.example:{quick.port}/", b"", headers={})
                await asyncio.get_running_loop().getaddrinfo("localhost", 80)  # as the API server's name is
        finally:
            found.set()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert status == 200
