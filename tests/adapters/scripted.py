"""An API server that says what a test tells it to, request by request, and remembers what it was asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Json = Any


@dataclass(frozen=True)
class Asked:
    """One request, as it arrived."""

    at: float
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Json

    @property
    def watch(self) -> bool:
        return "watch" in self.query


@dataclass
class Answered:
    """A body, or lines; a number among the lines is a silence of so many seconds, an exception is raised."""

    status: int = 200
    body: bytes = b""
    script: Sequence[bytes | float | Exception] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    after: float = 0.0  # seconds until the status is there

    async def read(self) -> bytes:
        return self.body

    async def lines(self) -> AsyncIterator[bytes]:
        for line in self.body.splitlines():
            yield line
        for step in self.script:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, bytes):
                yield step
            else:
                await asyncio.sleep(step)


Answer = Answered | Exception
NEVER = float("inf")


class Scripted:
    """`ports.Transport`: each request gets what `answer` makes of it."""

    def __init__(self, answer: Callable[[Asked], Answer]) -> None:
        self._answer = answer
        self.asked: list[Asked] = []
        self.open = 0
        self.most_open = 0

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> AsyncIterator[Answered]:
        now = asyncio.get_running_loop().time()
        asked = Asked(now, method, path, query, headers, None if body is None else json.loads(body))
        self.asked.append(asked)
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            answer = self._answer(asked)
            if isinstance(answer, Exception):
                raise answer
            await (asyncio.Event().wait() if answer.after == NEVER else asyncio.sleep(answer.after))
            yield answer
        finally:
            self.open -= 1

    @property
    def watches(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.watch]

    @property
    def lists(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == "GET" and not asked.watch]


def in_turn(*answers: Answer) -> Callable[[Asked], Answer]:
    """The answers one after the other; the last one for ever."""
    left = list(answers)
    return lambda _asked: left.pop(0) if len(left) > 1 else left[0]


def says(obj: Json, status: int = 200, *, after: float = 0.0, **headers: str) -> Answered:
    """An answer in JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answered(status, json.dumps(obj).encode(), headers=named, after=after)


def refuses(status: int, reason: str, message: str = "no", **headers: str) -> Answered:
    """An error as the API server writes it."""
    told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
    return says(told | {"code": status}, status, **headers)


def page(status: int = 503) -> Answered:
    """What a load balancer says when nothing is behind it."""
    return Answered(status, b"<html>\n<body>Service Unavailable</body>\n</html>")


def listed(*items: Json, version: str = "10", more: str = "") -> Answered:
    """A list."""
    meta = {"resourceVersion": version} | ({"continue": more} if more else {})
    return says({"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": list(items)})


def pod(name: str, version: str) -> Json:
    """An object with a name and a version."""
    return {"metadata": {"namespace": "lab", "name": name, "uid": f"uid-{name}", "resourceVersion": version}}


def event(kind: str, obj: Json) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": obj}).encode()


def watched(*script: bytes | float | Exception) -> Answered:
    """A watch."""
    return Answered(200, script=script)
