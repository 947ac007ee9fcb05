"""The emulated API server on a real port, for kubectl and for a controller in a process of its own.

A token is its user's name, and who has none may do everything: this is a lab's server, on loopback.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from scenarios.cluster.messages import LARGEST_BODY, Reply, Request
from scenarios.cluster.rbac import ADMIN

Respond = Callable[[Request], Awaitable[Reply]]


class Port:
    """One listening HTTP port."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def open(self, host: str, port: int) -> str:
        """The URL; port 0 takes a free port."""
        # one over the server's own limit, so that it is the server that says 413
        application = web.Application(client_max_size=2 * LARGEST_BODY)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        taken: tuple[str, int] = self._runner.addresses[0]
        self.url = f"http://{taken[0]}:{taken[1]}"
        return self.url

    async def close(self) -> None:
        """Nothing listens and nobody is connected any more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        asked = Request(
            method=request.method,
            path=request.path,
            query=request.query,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read() if request.can_read_body else None,
            user=request.headers.get("Authorization", "").removeprefix("Bearer ") or ADMIN,
        )
        try:
            reply = await self._respond(asked)
            if reply.lines is None:
                return web.Response(status=reply.code, body=reply.body, headers=reply.headers)
            return await _stream(request, reply)
        except OSError:
            return _break(request)


async def _stream(request: web.Request, reply: Reply) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.code, headers=reply.headers)
    await response.prepare(request)
    lines = reply.lines
    if lines is not None:
        async for line in lines:
            await response.write(line)
    await response.write_eof()
    return response


def _break(request: web.Request) -> web.Response:
    """The connection is gone, without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)
