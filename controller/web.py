"""What can be asked of the process over HTTP: probes, metrics, the runs it knows, the page. Reading only.

Every replica answers, leader or not.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from time import perf_counter
from typing import Any, TypeVar

from aiohttp import web

from controller.cluster import Key
from controller.page.routes import Views, routes
from controller.page.traces import Trace
from controller.resource import GROUP

Json = Any
Made = TypeVar("Made")
# The loop turns every second. A replica that has not for so long is stuck, and better restarted;
# longer than the longest wait that may be in it (an attempt on the Lease, 4 s).
STUCK_AFTER = timedelta(seconds=15)

# Times what was spent on an answer that is made of all runs, until the next one is: a tenth of the process.
REST = 9.0
MOST_CALLERS = 200  # connections at once; kubelets, a Prometheus and some people need a dozen
_TOLD = frozenset({"alerts", "gates"})  # of a policy: whom somebody else is asked or told at


class CannotServe(OSError):
    """The address is taken, or not this machine's; the text says which and what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Where the answers come from; each is called when somebody asks."""

    idle: Callable[[], timedelta]  # since the loop last turned (of a standby: since it last tried to lead)
    lists: Callable[[], Mapping[str, bool]]  # which lists the API server has delivered
    metrics: Callable[[], tuple[bytes, str]]  # page and content type
    runs: Callable[[], Sequence[Json]]  # CanaryRun objects
    trace: Callable[[Key], Trace | None] = lambda _: None  # its curves, where this replica works on it
    shards: Callable[[], Sequence[str]] = tuple  # which are worked on here, where there are several


@dataclass(frozen=True, slots=True)
class _Probe:
    """One line of a probe: what, whether it is fine, and why not."""

    name: str
    fine: bool
    why: str = ""

    def __str__(self) -> str:
        """As the API server's own probes write it."""
        return f"[+]{self.name} ok" if self.fine else f"[-]{self.name} failed: {self.why}"


@dataclass(slots=True)
class Share:
    """The time that may be spent on answers, however many ask; then they wait, or are shown the last."""

    _next: float = 0.0  # loop time
    _last: tuple[bytes, str] | None = None

    async def made(self, make: Callable[[], web.Response]) -> web.Response:
        """An answer of now."""
        clock = asyncio.get_running_loop().time
        while clock() < self._next:  # noqa: ASYNC110 - who waited with us may have been first
            await asyncio.sleep(self._next - clock())
        return self._timed(make)

    def latest(self, make: Callable[[], tuple[bytes, str]]) -> tuple[bytes, str]:
        """The newest there is, at once."""
        if self._last is None or asyncio.get_running_loop().time() >= self._next:
            self._last = self._timed(make)
        return self._last

    def _timed(self, make: Callable[[], Made]) -> Made:
        began = perf_counter()
        try:
            return make()
        finally:
            self._next = asyncio.get_running_loop().time() + REST * (perf_counter() - began)


def application(answers: Answers) -> web.Application:
    """The routes. `GET` only: nothing here changes anything."""
    of_runs, of_metrics = Share(), Share()

    async def livez(request: web.Request) -> web.Response:
        idle = answers.idle()
        why = f"it last turned {idle.total_seconds():.0f} s ago"
        return _probed("livez", [_Probe("loop", idle < STUCK_AFTER, why)], request=request)

    async def readyz(request: web.Request) -> web.Response:
        lists = sorted(answers.lists().items())
        why = "the API server has not delivered this list; may the service account list it?"
        probes = [_Probe(name, there, why) for name, there in lists]
        return _probed(
            "readyz", probes, request=request, more=[_Probe(shard, fine=True) for shard in answers.shards()]
        )

    async def metrics(_: web.Request) -> web.Response:
        page, content_type = of_metrics.latest(answers.metrics)
        return web.Response(body=page, headers={"Content-Type": content_type})

    async def runs(_: web.Request) -> web.Response:
        return await of_runs.made(lambda: _json({"items": _summaries(answers.runs())}))

    async def run(request: web.Request) -> web.Response:
        key = request.match_info["namespace"], request.match_info["name"]
        return await of_runs.made(lambda: _one(answers.runs(), key))

    app = web.Application(middlewares=[_guarded])
    app.add_routes(
        [
            web.get("/livez", livez),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.get("/runs", runs),
            web.get("/runs/{namespace}/{name}", run),
            *routes(Views(answers.runs, answers.trace)),
        ]
    )
    return app


@asynccontextmanager
async def serving(answers: Answers, host: str, port: int) -> AsyncIterator[str]:
    """While the block runs the answers are served; yields the URL (port 0 takes any free port)."""
    runner = web.AppRunner(application(answers), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            server = await asyncio.get_running_loop().create_server(_admitting(runner), host, port)
        except OSError as error:
            raise CannotServe(
                f"cannot serve probes and metrics at {host}:{port}: {error.strerror};"
                " choose another address with --bind and --port (0: any free port)"
            ) from error
        address = server.sockets[0].getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        try:
            yield f"http://{shown}:{address[1]}"
        finally:
            server.close()
    finally:
        await runner.cleanup()


def _admitting(runner: web.AppRunner) -> Callable[[], asyncio.Protocol]:
    """For a new connection beyond `MOST_CALLERS` the oldest ends: probes are answered whoever else waits."""
    callers = runner.server
    assert callers is not None  # noqa: S101 - it is set up

    def admitted() -> asyncio.Protocol:
        for oldest in callers.connections[: max(0, len(callers.connections) - MOST_CALLERS + 1)]:
            oldest.force_close()
        return callers()

    return admitted


def _one(runs: Sequence[Json], key: Key) -> web.Response:
    found = next((run for run in runs if _key(run) == key), None)
    if found is None:
        return _json({"error": f"no CanaryRun {key[0]}/{key[1]}; /runs lists those there are"}, status=404)
    return _json(_shown(found))


def _summaries(runs: Sequence[Json]) -> list[Json]:
    return [summary(run) for run in sorted(runs, key=_key)]


def summary(run: Json) -> Json:
    """A run in a line."""
    status, plan = run.get("status", {}), run["spec"]["plan"]
    return {
        "namespace": run["metadata"]["namespace"],
        "name": run["metadata"]["name"],
        "created": run["metadata"].get("creationTimestamp"),
        "canary": plan["canary"],
        "stable": plan["stable"],
        **{field: status.get(field) for field in ("phase", "step", "weight", "verdict", "reason", "message")},
    }


def _shown(run: Json) -> Json:
    """The object without what is nobody's interface: checkpoint, outbox, bookkeeping, field owners.

    And without who is told: everybody who reaches the port may read this, and some hooks' URLs are secrets.
    kubectl keeps what was applied in an annotation, URLs and all: others' annotations are not shown.
    """
    status = {
        field: value
        for field, value in run.get("status", {}).items()
        if field not in {"checkpoint", "outbox", "state"}
    }
    metadata = {field: value for field, value in run["metadata"].items() if field != "managedFields"}
    if annotations := metadata.get("annotations"):
        ours = {name: value for name, value in annotations.items() if name.startswith(f"{GROUP}/")}
        metadata["annotations"] = ours
    return {**run, "metadata": metadata, "spec": _untold(run["spec"]), "status": status}


def _untold(spec: Json) -> Json:
    policy = {field: value for field, value in spec["plan"].get("policy", {}).items() if field not in _TOLD}
    return {**spec, "plan": {**spec["plan"], "policy": policy}}


def _key(run: Json) -> tuple[str, str]:
    return run["metadata"]["namespace"], run["metadata"]["name"]


def _probed(
    name: str, probes: Sequence[_Probe], *, request: web.Request, more: Sequence[_Probe] = ()
) -> web.Response:
    """200 "ok" or 503 with every line; `?verbose` shows the lines either way. `more` decides nothing."""
    fine = bool(probes) and all(probe.fine for probe in probes)
    if fine and "verbose" not in request.query:
        return web.Response(text="ok")
    lines = [*map(str, [*probes, *more]), f"{name} check {'passed' if fine else 'failed'}"]
    return web.Response(text="\n".join(lines) + "\n", status=200 if fine else 503)


def _json(value: Json, *, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, dumps=lambda each: json.dumps(each, default=str))


@web.middleware
async def _guarded(request: web.Request, handler: Any) -> web.StreamResponse:
    """Every answer is fresh, or is asked after, and a browser takes it for what it says it is."""
    answer: web.StreamResponse = await handler(request)
    answer.headers["Cache-Control"] = "no-cache" if "ETag" in answer.headers else "no-store"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer
