"""The emulated API server against the suite that a real one passes: inside this process and over HTTP."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from io import BytesIO

import aiohttp
import pytest

from controller.ports import Answer, Transport
from scenarios.cluster.kubelet import NoKubelet
from scenarios.world import World

pytest.register_assert_rewrite("tests.adapters.apiserver_conformance")

from tests.adapters.apiserver_conformance import *  # noqa: E402, F403
from tests.adapters.apiserver_conformance import WIDGETS, Api  # noqa: E402


class _Streamed:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        return await self._response.read()

    async def lines(self) -> AsyncIterator[bytes]:
        async for line in self._response.content:
            yield line


class Connection:
    """A `ports.Transport` over HTTP, as plain as can be."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> AsyncIterator[Answer]:
        url, data = self._url + path, None if body is None else BytesIO(body)
        async with self._session.request(method, url, params=query, headers=headers, data=data) as response:
            yield _Streamed(response)


@asynccontextmanager
async def _transport(world: World, way: str) -> AsyncIterator[Transport]:
    if way == "inside":
        yield world.transport()
        return
    url = await world.serve()
    async with aiohttp.ClientSession() as session:
        yield Connection(session, url)


@pytest.fixture(params=["inside", "http"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    """A bare API server with our CRDs: no nodes, no kubelet."""
    world = World(clock=lambda: datetime.now(UTC), nodes=(), make_kubelet=NoKubelet)
    world.create(WIDGETS)
    world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "conformance"}})
    async with _transport(world, request.param) as transport:
        yield Api(transport, "conformance")
    await world.close()
