"""Everything at a path, then every change, for ever: list, then watch, as three nested generators.

Innermost: the events of one connection. In the middle: one list, then connections that each resume
where the last one ended, until the API server no longer keeps that point. Outermost: again, for ever;
it is so simple that it can be believed.

What comes out is never garbage, and what goes in is never a flood: a server that closes every
connection at once, or answers with a page of HTML, is asked ever more rarely.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from datetime import timedelta

import structlog

from controller.kube import ApiError, Changed, Kube, Listed, decoded, error_of
from controller.ports import Answer, Json
from controller.wire import stored

PAGE = "500"  # objects in one page of a list, as kubectl asks for
LIST = timedelta(seconds=30)  # for one page
OPENING = 30.0  # seconds until a watch has answered with its status
SILENCE = 90.0  # seconds; bookmarks come about once a minute, and resuming costs one request
LASTING = 5.0  # seconds; a connection that lived longer was a good one
WATCH, SPREAD = 290, 30  # seconds a watch may last, and how far they vary: below usual idle limits
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0  # seconds between connections that came to nothing
PERSISTENCE = 8  # such connections, until a list is tried: 0.2 s doubled so often is the longest pause

_KINDS = frozenset({"ADDED", "MODIFIED", "DELETED"})
_log = structlog.get_logger(__name__)


async def follow(
    kube: Kube, path: str, *, query: Mapping[str, str] | None = None
) -> AsyncGenerator[Listed | Changed, None]:
    """`Listed`, then every `Changed`; `Listed` again after a gap. Never ends: cancel its task."""
    patience = _Patience(kube, path)
    while True:
        try:
            async with aclosing(_from_a_list(kube, path, query or {}, patience)) as changes:
                async for change in changes:
                    yield change
        except ApiError as error:
            patience.complain(error)
        await patience.wait()


async def _from_a_list(
    kube: Kube, path: str, query: Mapping[str, str], patience: "_Patience"
) -> AsyncGenerator[Listed | Changed, None]:
    """One `Listed` and what changes after it, until the thread is lost and a list is needed."""
    items, version = await _list(kube, path, query)
    yield Listed(items, version)
    fruitless = 0
    while fruitless < PERSISTENCE:
        patience.begin()
        fruitless += 1
        try:
            async with aclosing(_connection(kube, path, query, version, patience)) as events:
                async for event in events:
                    fruitless = 0
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield Changed(event["type"], event["object"])
            fruitless = 0 if patience.lasted else fruitless
        except ApiError as error:
            if error.gone:
                _log.info("follow_lists_again", path=path, reason=error.message)
                return
            patience.complain(error)
        await patience.wait()


async def _connection(
    kube: Kube, path: str, query: Mapping[str, str], version: str, patience: "_Patience"
) -> AsyncGenerator[Json, None]:
    """The events of one watch, bookmarks too; ends when the server ends it or falls silent."""
    async with AsyncExitStack() as stack:
        answer = await _open(kube, path, _watching(kube, query, version), stack)
        patience.opened()
        lines = answer.lines()
        while (line := await _next(lines, path)) is not None:
            if line.strip():
                event = _event(line, path)
                patience.reward()
                yield event


def _watching(kube: Kube, query: Mapping[str, str], version: str) -> dict[str, str]:
    lasts = WATCH + kube.chance.randint(-SPREAD, SPREAD)
    watching = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(lasts)}
    return dict(query) | watching | {"resourceVersion": version}


async def _open(kube: Kube, path: str, query: Mapping[str, str], stack: AsyncExitStack) -> Answer:
    """A watch that the server has accepted; its connection is closed by the stack."""
    request = f"watch {path}"
    try:
        async with asyncio.timeout(OPENING):
            accept = {"Accept": "application/json"}
            answer = await stack.enter_async_context(
                kube.transport.request("GET", path, query=query, headers=accept, body=None)
            )
            if answer.status != 200:
                raise error_of(answer.status, await answer.read(), request=request, headers=answer.headers)
            return answer
    except TimeoutError as error:
        raise ApiError(0, "Timeout", f"no answer within {OPENING:g} s", request=request) from error
    except OSError as error:
        raise ApiError(0, "Unreachable", str(error), request=request) from error


async def _next(lines: AsyncIterator[bytes], path: str) -> bytes | None:
    """The next line; None at the end, and after a silence, which may be a dead connection."""
    try:
        async with asyncio.timeout(SILENCE):
            return await anext(lines, None)
    except TimeoutError:
        return None
    except OSError as error:
        raise ApiError(0, "Unreachable", str(error), request=f"watch {path}") from error


def _event(line: bytes, path: str) -> Json:
    """The event on a line; anything else on it is an error, and the API server's own errors are too."""
    request = f"watch {path}"
    try:
        event = decoded(line)
        kind, obj = event["type"], event["object"]
        if kind == "ERROR":
            code, reason, message = int(obj["code"]), obj.get("reason", "Error"), obj["message"]
            raise ApiError(code, str(reason), str(message), request=request)
        if kind == "BOOKMARK" and isinstance(obj["metadata"]["resourceVersion"], str):
            return event
        if kind in _KINDS and stored(obj):
            return event
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        pass  # a page of HTML, a torn line, somebody else's JSON: all the same
    raise ApiError(0, "Garbled", f"not an event: {line[:80]!r}", request=request)


async def _list(kube: Kube, path: str, query: Mapping[str, str]) -> tuple[tuple[Json, ...], str]:
    """All objects, page by page, and the version that they are of."""
    items: list[Json] = []
    token: dict[str, str] = {}
    while True:
        page = await kube.once("GET", path, query=dict(query) | {"limit": PAGE} | token, within=LIST)
        try:
            items += [_whole(item, page) for item in page["items"] or ()]
            meta = page["metadata"]
            if not meta.get("continue"):
                return tuple(items), str(meta["resourceVersion"])
            token = {"continue": str(meta["continue"])}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ApiError(0, "Garbled", "the answer is not a list", request=f"GET {path}") from error


def _whole(item: Json, page: Json) -> Json:
    """The item as a watch would show it: lists leave out what they say once for all."""
    if not stored(item):
        raise ValueError("an item that is no object")
    about = {"apiVersion": page.get("apiVersion"), "kind": str(page.get("kind")).removesuffix("List")}
    return about | item


class _Patience:
    """How long to wait between connections to one path, and what was said about it already."""

    def __init__(self, kube: Kube, path: str) -> None:
        self._kube = kube
        self._path = path
        self._pause = FIRST_PAUSE
        self._began: float | None = None
        self._troubled = False
        self._refused = False

    @property
    def lasted(self) -> bool:
        """Whether the connection was up for so long that it may end without having been at fault."""
        return self._began is not None and asyncio.get_running_loop().time() - self._began > LASTING

    def begin(self) -> None:
        """A connection is tried; it does not count as up until it has `opened`."""
        self._began = None

    def opened(self) -> None:
        """The server accepts the watch: we may follow."""
        self._began = asyncio.get_running_loop().time()
        self._kube.denied.pop(self._path, None)

    def reward(self) -> None:
        """It was worth it: the next trouble is a new one."""
        self._pause = FIRST_PAUSE
        if self._troubled:
            _log.info("follow_resumed", path=self._path)
        self._troubled = False

    def complain(self, error: ApiError) -> None:
        """The trouble is known, and said once until it is over."""
        if error.denied:
            self._kube.denied[self._path] = str(error)
        if not self._troubled:
            _log.warning("follow_interrupted", path=self._path, error=str(error))
        self._troubled = True
        self._refused = error.unreachable or error.status >= 500 or error.status == 429
        if self._refused:
            self._kube.away = True
        self._began = None

    async def wait(self) -> None:
        """At once after a connection that ended in good order, else ever longer, with jitter."""
        lasted, self._began = self.lasted, None
        if lasted:
            self.reward()
            return
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        await self._sleep(pause * self._kube.chance.uniform(0.5, 1.5))

    async def _sleep(self, pause: float) -> None:
        """A long pause ends when somebody else (the lease asks each second) finds that the server answers."""
        least = min(pause, self._kube.chance.uniform(0.5, 1.5)) if self._refused else pause
        await asyncio.sleep(least)
        if self._refused and not self._kube.away:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(pause - least):
                await self._kube.back()
