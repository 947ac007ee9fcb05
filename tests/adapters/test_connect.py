"""The real connection, to servers on loopback: what `kubernetes_asyncio` does with what we tell it."""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from controller.kube import (
    MERGE_PATCH,
    ApiError,
    Changed,
    Kube,
    KubeTransport,
    Listed,
    NoCluster,
    connect,
)
from scenarios.world import World
from tests.adapters.scripted import event, pod

AGENT = "serin-controller/0.1.0 (serin-abc)"
PODS = "/api/v1/namespaces/lab/pods"


class Server:
    """An API server of a few lines, and the requests that it got."""

    def __init__(self, answer: Any) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.peers: list[Any] = []
        self._answer = answer
        self.port = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.peers.append(request.transport.get_extra_info("peername"))
        self.bodies.append(await request.read())
        return await self._answer(request)


@asynccontextmanager
async def serving(answer: Any) -> AsyncIterator[Server]:
    server = Server(answer)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


async def ok(_request: web.Request) -> web.Response:
    return web.json_response({"kind": "Pod"})


def kubeconfig(folder: Path, port: int, **user: Any) -> str:
    context = {"name": "here", "context": {"cluster": "here", "user": "me"}}
    other = {"name": "there", "context": {"cluster": "there", "user": "me"}}
    config = {
        "clusters": [
            {"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}},
            {"name": "there", "cluster": {"server": "http://127.0.0.1:9"}},
        ],
        "users": [{"name": "me", "user": user or {"token": "s3cret"}}],
        "contexts": [context, other],
        "current-context": "here",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return str(path)


@asynccontextmanager
async def kube(folder: Path, port: int, context: str | None = None, **user: Any) -> AsyncIterator[Kube]:
    async with connect(
        agent=AGENT, kubeconfig=kubeconfig(folder, port, **user), context=context
    ) as transport:
        yield Kube(transport, chance=random.Random(1))


async def test_requests_say_who_we_are(tmp_path: Path) -> None:
    async with serving(ok) as server, kube(tmp_path, server.port) as api:
        await api.call("GET", f"{PODS}/a", query={"labelSelector": "a=b,c"})
    (request,) = server.requests
    assert request.headers["User-Agent"] == AGENT
    assert request.headers["Authorization"] == "Bearer s3cret"
    assert request.query["labelSelector"] == "a=b,c"


async def test_a_merge_patch_arrives_as_one(tmp_path: Path) -> None:
    """The library sends a dict on a custom object as a JSON patch, which a real server refuses."""
    body = {"status": {"weight": 5, "share": 0.1, "gone": None, "name": "ü"}}
    async with serving(ok) as server, kube(tmp_path, server.port) as api:
        await api.call("PATCH", PODS, body=body, content_type=MERGE_PATCH)
        await api.call("PATCH", PODS, body=[], content_type="application/json-patch+json")
        await api.call("DELETE", PODS, body={})
    assert [request.headers["Content-Type"] for request in server.requests] == [
        "application/merge-patch+json",
        "application/json-patch+json",
        "application/json",
    ]
    assert [json.loads(got) for got in server.bodies] == [body, [], {}]


async def test_an_error_is_an_error_although_the_body_is_streamed(tmp_path: Path) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "reason": "Conflict", "message": "no"}, status=409)

    async with serving(refuse) as server, kube(tmp_path, server.port) as api:
        with pytest.raises(ApiError) as raised:
            await api.call("PUT", PODS, body={})
    assert raised.value.conflict


async def test_an_error_that_the_library_raises_is_the_same_error() -> None:
    """Fixed on its main branch: HTTP errors raise even where nothing is preloaded."""
    from kubernetes_asyncio.client.exceptions import ApiException

    class Api:
        async def call_api(self, *_args: Any, **_options: Any) -> None:
            error = ApiException(status=422, reason="Unprocessable Entity")
            error.body = '{"kind": "Status", "reason": "Invalid", "message": "test failed"}'
            raise error

    with pytest.raises(ApiError, match="test failed") as raised:
        await Kube(KubeTransport(Api()), chance=random.Random(1)).call("PATCH", PODS, body=[])
    assert raised.value.invalid


async def test_a_server_that_is_not_there_is_an_api_error(tmp_path: Path) -> None:
    async with kube(tmp_path, 1, context="there") as api:
        with pytest.raises(ApiError) as raised:
            await api.once("GET", PODS)
    assert raised.value.unreachable


async def test_a_connection_that_breaks_in_the_body_is_an_api_error(tmp_path: Path) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"kind":')
        request.transport.abort()
        return response

    async with serving(breaks) as server, kube(tmp_path, server.port) as api:
        with pytest.raises(ApiError) as raised:
            await api.once("GET", PODS)
    assert raised.value.unreachable


async def test_an_event_larger_than_the_librarys_buffer_arrives(tmp_path: Path) -> None:
    """More than 4 MiB on a line was a `LineTooLong`."""
    large = pod("large", "11") | {"spec": {"nodeName": "x" * (6 * 1024 * 1024)}}
    answer = watching(event("ADDED", large) + b"\n" + event("ADDED", pod("b", "12")))
    async with serving(answer) as server, kube(tmp_path, server.port) as api:
        told = await first(api, 3)
    assert told == [Listed(()), Changed("ADDED", large), Changed("ADDED", pod("b", "12"))]


async def test_a_line_in_many_pieces_is_one_event(tmp_path: Path) -> None:
    lines = event("ADDED", pod("a", "11")) + b"\n" + event("ADDED", pod("b", "12")) + b"\n"
    pieces = [lines[at : at + 7] for at in range(0, len(lines), 7)]
    async with serving(watching(*pieces)) as server, kube(tmp_path, server.port) as api:
        told = await first(api, 3)
    assert told[1:] == [Changed("ADDED", pod("a", "11")), Changed("ADDED", pod("b", "12"))]


def watching(*chunks: bytes) -> Any:
    """A server with an empty list, whose watches bring these bytes and then nothing."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response({"kind": "PodList", "metadata": {"resourceVersion": "10"}, "items": []})
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        return response

    return answer


async def first(api: Kube, count: int) -> list[Listed | Changed]:
    told = []
    async with aclosing(api.follow(PODS)) as changes:
        async for change in changes:
            told.append(change)
            if len(told) == count:
                break
    return told


async def test_a_connection_that_ends_in_the_middle_of_an_answer_ends_nothing_else(tmp_path: Path) -> None:
    """As when the API server's process dies: the chunk that says that it was the last one never comes."""
    watches = 0

    async def die(request: web.Request) -> web.StreamResponse:
        nonlocal watches
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        watches += 1
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(event("ADDED", pod(f"a-{watches}", str(1 + watches))) + b"\n")
        assert request.transport is not None
        request.transport.close()
        return response

    async with serving(die) as server, kube(tmp_path, server.port) as api:
        told = await first(api, 3)
    assert told[1:] == [Changed("ADDED", pod("a-1", "2")), Changed("ADDED", pod("a-2", "3"))]
    assert server.requests[-1].query["resourceVersion"] == "2"


async def test_a_token_that_changes_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.kube.TOKEN_LIFE", 0.0)
    token = tmp_path / "token"
    token.write_text("first")
    async with serving(ok) as server, kube(tmp_path, server.port, tokenFile=str(token)) as api:
        await api.call("GET", PODS)
        token.write_text("second")
        await api.call("GET", PODS)
    assert [request.headers["Authorization"] for request in server.requests] == [
        "Bearer first",
        "Bearer second",
    ]


async def test_a_token_that_cannot_be_read_again_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.kube.TOKEN_LIFE", 0.0)
    token = tmp_path / "token"
    token.write_text("first")
    async with serving(ok) as server, kube(tmp_path, server.port, tokenFile=str(token)) as api:
        token.unlink()
        await api.call("GET", PODS)
    assert server.requests[0].headers["Authorization"] == "Bearer first"


async def test_a_pods_token_that_changes_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster tokens live for an hour; the library looks at the file once a minute."""
    from kubernetes_asyncio.config import incluster_config

    (tmp_path / "token").write_text("first")
    (tmp_path / "ca.crt").write_text("unused")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(incluster_config, "TOKEN_REFRESH_PERIOD", timedelta(0))
    configure = incluster_config.InClusterConfigLoader._set_config

    def without_tls(loader: Any, configuration: Any) -> None:
        configure(loader, configuration)
        configuration.host = configuration.host.replace("https:", "http:")
        configuration.ssl_ca_cert = None

    monkeypatch.setattr(incluster_config.InClusterConfigLoader, "_set_config", without_tls)
    async with serving(ok) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        async with connect(agent=AGENT) as transport:
            api = Kube(transport, chance=random.Random(1))
            await api.call("GET", PODS)
            (tmp_path / "token").write_text("second")
            await api.call("GET", PODS)
    assert [request.headers["Authorization"] for request in server.requests] == [
        "Bearer first",
        "Bearer second",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not: [a, kubeconfig",
        "clusters: []\nusers: []\ncontexts: []\ncurrent-context: x\n",
        "- 1\n- 2\n",
        "\0",
    ],
)
async def test_a_kubeconfig_that_leads_nowhere_is_named_with_a_remedy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    with pytest.raises(NoCluster, match=rf"{path} does not lead to an API server: .*--kubeconfig FILE"):
        async with connect(agent=AGENT, kubeconfig=str(path)):
            pass


async def test_a_context_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoCluster, match="elsewhere"):
        async with kube(tmp_path, 1, context="elsewhere"):
            pass


async def test_a_kubeconfig_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoCluster, match="nowhere"):
        async with connect(agent=AGENT, kubeconfig=str(tmp_path / "nowhere")):
            pass


async def test_a_pod_without_a_service_account_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(NoCluster, match="the pod's service account does not lead to an API server"):
        async with connect(agent=AGENT):
            pass


async def test_the_emulated_server_is_followed_over_http_as_a_real_one(tmp_path: Path) -> None:
    world = World(clock=lambda: datetime.now(UTC))
    await world.serve()
    try:
        async with connect(agent=AGENT, kubeconfig=str(world.kubeconfig(tmp_path / "config"))) as transport:
            api = Kube(transport, chance=random.Random(1))
            maps = "/api/v1/namespaces/default/configmaps"
            async with aclosing(api.follow(maps)) as changes:
                assert isinstance(await anext(changes), Listed)
                body = {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "a"},
                    "data": {"k": "v"},
                }
                await api.call("POST", maps, body=body)
                change = await anext(changes)
                assert (change.type, change.object["data"]) == ("ADDED", {"k": "v"})
    finally:
        await world.close()


def test_importing_us_does_not_import_the_library() -> None:
    """It takes 1.4 s of CPU, which a command that never connects should not pay."""
    code = "import sys, controller.kube, controller.follow; print('kubernetes_asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
