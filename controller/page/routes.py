"""Where the page is served: four files of ours and two questions. Reading only, and strictly bounded.

A browser asks again every two seconds and is mostly told that nothing is new (ETag). Whatever it asks for was
put into bytes once for everybody, and doing so may take a twentieth of the process's time and no more: beyond
that people are shown what was there a moment ago. So no crowd before the page slows a run.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import structlog
from aiohttp import web

from controller.cluster import Key
from controller.page import views
from controller.page.traces import Trace, drawn

Json = Any

FRESH = 1.0  # s; ticks come once a second, so nothing is news sooner
REST = 19.0  # times what was spent: a twentieth of the process's time
KEPT = 300  # answers in memory; those that nobody asked for longest go first
FILES = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
# Nothing from anywhere else, nothing inline, no frame around us, no text that becomes markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Answer:
    body: bytes
    tag: str
    at: float  # loop time


@dataclass(slots=True)
class Views:
    """What the page is told, as bytes: `runs` are CanaryRun objects, `trace` one's curves if it has any."""

    runs: Callable[[], Sequence[Json]]
    trace: Callable[[Key], Trace | None]
    _lines: dict[Key, tuple[str, Json]] = field(default_factory=dict)  # by run: its version, its row
    _answers: dict[Key | None, _Answer] = field(default_factory=dict)
    _next: float = 0.0  # loop time from which the page may spend some more

    async def answer(self, key: Key | None) -> _Answer | None:
        """Of one run, or the list (None); None if there is no such run."""
        known = self._answers.pop(key, None)
        if known is None or asyncio.get_running_loop().time() - known.at >= FRESH:
            known = await self._anew(key, known)
        if known is not None:
            self._answers[key] = known  # the last asked for is last
            for oldest in list(self._answers)[: max(0, len(self._answers) - KEPT)]:
                del self._answers[oldest]
        return known

    async def _anew(self, key: Key | None, known: _Answer | None) -> _Answer | None:
        clock = asyncio.get_running_loop().time
        while clock() < self._next:
            if known is not None:
                return known
            await asyncio.sleep(self._next - clock())
        began = perf_counter()
        told = self._list() if key is None else self._one(key)
        if told is None:
            return None
        body = json.dumps(told, separators=(",", ":"), default=str).encode()
        self._next = clock() + REST * (perf_counter() - began)
        return _Answer(body, _tag(body), clock())

    def _list(self) -> Json:
        lines = {}
        for run in self.runs():
            key, version = _key(run), run["metadata"].get("resourceVersion", "")
            known = self._lines.get(key)
            lines[key] = (
                known if known is not None and version and known[0] == version else (version, _line(run))
            )
        self._lines = lines
        return views.listed(line for _, line in lines.values())

    def _one(self, key: Key) -> Json | None:
        run, trace = next((run for run in self.runs() if _key(run) == key), None), self.trace(key)
        if run is None:
            return None
        return views.shown(run, now=datetime.now(UTC), trace=None if trace is None else drawn(trace))


def _key(run: Json) -> Key:
    return run["metadata"]["namespace"], run["metadata"]["name"]


def _line(run: Json) -> Json:
    """The run's row; of one that somebody has made unreadable, that it is."""
    try:
        return views.line(run)
    except Exception:  # one such object does not take the list from everybody
        log.exception("run_not_shown", namespace=_key(run)[0], run=_key(run)[1])
        return views.unreadable(*_key(run))


def routes(told: Views) -> list[web.RouteDef]:
    """The page's own."""

    async def runs(request: web.Request) -> web.Response:
        return _told(request, await told.answer(None))

    async def run(request: web.Request) -> web.Response:
        where = request.match_info
        return _told(request, await told.answer((where["namespace"], where["name"])))

    files = [web.get(f"/{place}", _file(name, kind)) for place, (name, kind) in FILES.items()]
    return [*files, web.get("/view", runs), web.get("/view/{namespace}/{name}", run)]


def _file(name: str, kind: str) -> Callable[[web.Request], Any]:
    """One of the page's files, read once."""
    body = Path(__file__).with_name(name).read_bytes()
    answer = _Answer(body, _tag(body), 0.0)

    async def file(request: web.Request) -> web.Response:
        return _answered(request, answer, kind=f"{kind}; charset=utf-8")

    return file


def _told(request: web.Request, answer: _Answer | None) -> web.Response:
    if answer is None:
        text = json.dumps({"error": "there is no such run, or not any more"})
        return web.Response(status=404, text=text, content_type="application/json")
    return _answered(request, answer, kind="application/json")


def _answered(request: web.Request, answer: _Answer, *, kind: str) -> web.Response:
    headers = {**HEADERS, "ETag": answer.tag}
    if request.headers.get("If-None-Match") == answer.tag:
        return web.Response(status=304, headers=headers)
    return web.Response(body=answer.body, headers={**headers, "Content-Type": kind})


def _tag(body: bytes) -> str:
    return f'"{hashlib.blake2b(body, digest_size=9).hexdigest()}"'
