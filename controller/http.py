"""The world outside as the controller sees it in production: API server, pods' pages, receivers."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from errno import ECONNREFUSED
from functools import partial
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from socket import AF_INET, AI_ADDRCONFIG, AI_NUMERICHOST, AI_NUMERICSERV, SOCK_STREAM, AddressFamily
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from controller.kube import connect
from controller.pages import Pages
from controller.ports import Outside, Unreached
from controller.receivers import FORBIDDEN, ONLY_PUBLIC, Allowed, literal

CONNECT = 2.0  # seconds; pods are near, and callers set a limit for the whole
ANSWER = 64 * 1024  # bytes read of a receiver's answer, so that its connection can be used again
LOOKUPS = 128  # names of receivers at once, of which a namespace asks for a third (`posting.AT_ONCE`)

Info = tuple[Any, Any, int, str, tuple[Any, ...]]  # what `getaddrinfo` says of one address


class Resolver(AbstractResolver):
    """Names lead to the addresses that are allowed, and to no others.

    Looked up in threads of its own: a name that nobody answers for takes one for half a minute, and the
    process's own few are for the names of the API server and the worker.
    """

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="names")

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AF_INET) -> list[ResolveResult]:
        """Its addresses; raises `PermissionError` if it has none but those that are not allowed."""
        asked = partial(socket.getaddrinfo, host, port, family, SOCK_STREAM, 0, AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, asked)
        if self._allowed.host(host):
            return [_result(host, each) for each in found]
        left = [each for each in found if self._allowed.address(_address(each))]
        if not left:
            raise PermissionError(FORBIDDEN)
        return [_result(host, each) for each in left]

    async def close(self) -> None:
        """Nothing more is looked up."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _address(found: Info) -> str:
    """The address in text, of one near by with the network that it is in."""
    host, _, *rest = found[4]
    return f"{host}%{rest[1]}" if rest[1:] and rest[1] else str(host)


def _result(host: str, found: Info) -> ResolveResult:
    family, _, protocol, _, address = found
    return {
        "hostname": host,
        "host": _address(found),
        "port": int(address[1]),
        "family": family,
        "proto": protocol,
        "flags": AI_NUMERICHOST | AI_NUMERICSERV,
    }


class Letters:
    """`ports.Post`. Through the environment's proxy, if there is one: receivers are far away.

    A proxy resolves names by itself: what may be reached through it is for the proxy to say.
    """

    def __init__(self, session: aiohttp.ClientSession, allowed: Allowed = ONLY_PUBLIC) -> None:
        self._session = session
        self._allowed = allowed

    async def __call__(
        self, url: str, body: bytes, *, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str]]:
        """Status and headers; raises `OSError`. A redirect is an answer, not an order.

        `PermissionError`: to an address that is neither public nor allowed, nothing was sent.
        """
        try:
            where = URL(url)  # as whom we post with reads it, who has all of Unicode's digits and dots
        except ValueError:
            raise Unreached("the receiver cannot be reached: what is given as its URL is none") from None
        host = where.raw_host or ""
        if literal(host) and not self._allowed.address(host):
            raise PermissionError(FORBIDDEN)
        try:
            async with self._session.post(
                where, data=body, headers=headers, allow_redirects=False
            ) as response:
                await response.content.read(ANSWER)
                return response.status, dict(response.headers)
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, PermissionError) and error.os_error.args == (FORBIDDEN,):
                raise PermissionError(FORBIDDEN) from None
            raise Unreached(f"the receiver cannot be reached: {_trouble(error)}") from None
        except aiohttp.ClientError as error:
            raise Unreached(f"the receiver cannot be reached: {_trouble(error)}") from None


# The first that fits. aiohttp's own texts may hold the URL, which is Slack's secret.
TROUBLE: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "its name is not known"),
    (aiohttp.ClientConnectorCertificateError, "its certificate is of nobody whom the controller trusts"),
    (aiohttp.ClientSSLError, "it speaks no TLS that the controller does; is it http?"),
    (aiohttp.ConnectionTimeoutError, f"no connection within {CONNECT:g} s"),
    (aiohttp.ServerDisconnectedError, "it hung up without an answer"),
    (aiohttp.ClientResponseError, "what it answers is no HTTP; is it https?"),
)


def _trouble(error: aiohttp.ClientError) -> str:
    """What is wrong with a receiver."""
    if isinstance(error, ConnectionRefusedError) or getattr(error, "errno", None) == ECONNREFUSED:
        return "nobody listens there"
    return next((words for kind, words in TROUBLE if isinstance(error, kind)), type(error).__name__)


class Questions:
    """`ports.Ask`. Never through a proxy: the worker is in the cluster."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(self, method: str, url: str, body: bytes) -> tuple[int, bytes]:
        """Status and answer; raises `OSError`, or `ValueError` if it is too large."""
        try:
            async with self._session.request(method, url, data=body, allow_redirects=False) as response:
                return response.status, await _at_most(ANSWER, response, url)
        except aiohttp.ClientError as error:
            raise ConnectionError(f"{url}: {type(error).__name__}: {error}") from error


def proxies() -> set[str]:
    """The hosts of the environment's proxies, which may be near: whoever starts the controller names them."""
    return {urlsplit(url).hostname or "" for url in getproxies().values()} - {""}


async def _at_most(limit: int, response: aiohttp.ClientResponse, url: str) -> bytes:
    """The body as it comes, however it is compressed and whatever its header says of its length."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > limit:
            raise ValueError(f"{url} is larger than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def _session(
    *, connections: int, each: int = 0, trust_env: bool, resolver: AbstractResolver | None = None
) -> aiohttp.ClientSession:
    """With so many connections, and to `each` host no more than that."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, limit_per_host=each, resolver=resolver),
        timeout=aiohttp.ClientTimeout(sock_connect=CONNECT),  # callers limit the whole
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=trust_env,
    )


@asynccontextmanager
async def outside(
    *,
    agent: str,
    kubeconfig: str | None = None,
    context: str | None = None,
    receivers: Allowed = ONLY_PUBLIC,
) -> AsyncIterator[Outside]:
    """The real world, until the block ends; raises `kube.NoCluster` where there is none.

    Pods, receivers and workers have connections of their own, and no host of a receiver has all of them: who
    hangs takes none from the others.
    """
    _open_many()
    async with (
        connect(agent=agent, kubeconfig=kubeconfig, context=context) as transport,
        Pages() as pages,
        _session(
            connections=200, each=20, trust_env=True, resolver=Resolver(receivers.also(proxies()))
        ) as far,
        _session(connections=20, trust_env=False) as workers,
    ):
        yield Outside(
            transport=transport,
            fetch=pages,
            post=Letters(far, receivers),
            ask=Questions(workers),
            clock=lambda: datetime.now(UTC),
        )


def _open_many() -> None:
    """As many files may be open as the system lets us: each pod's page has one, and shells say 1 024."""
    soft, hard = getrlimit(RLIMIT_NOFILE)
    if soft != hard:
        setrlimit(RLIMIT_NOFILE, (hard, hard))
