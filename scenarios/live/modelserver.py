"""One pod of the lab: a model server in a process of its own, `python -m scenarios.live.modelserver FILE`.

It serves the digits model over the Open Inference Protocol v2 and a metrics page; the answer is real,
its latency and failures are the story's. Paths under `/lab/` steer and observe it and are the lab's
alone: `POST /lab/faults` puts exactly the faults of its body in force.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from scenarios.conduct import Conduct
from scenarios.live import digits
from scenarios.page import Page

INJECTED = "x-lab-injected"  # says that a failure was ordered, so that others stand out
NAMES = ("digits", "model")  # what it is, and what the lab's Deployments call it
WARM_UP = 20  # inferences before the pod is ready; the first ones allocate and are slow
PAGES_KEPT = 64  # times of the last pages served: a minute's worth
IDLE = 3_700.0  # seconds; longer than Envoy's hour, so that it is Envoy who closes idle connections
SMOOTHING = 0.01  # of the drift gauge: the last hundred requests count

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Bad(ValueError):
    """A request that is not one of the protocol; the text says what was expected."""


class Server:
    """The pod: what it answers to whom."""

    def __init__(self, said: dict[str, Any]) -> None:
        self._name: str = said["name"]
        self._epoch: float = said["epoch"]  # when the story began, seconds since 1970
        self._grace: float = said["grace"]
        self._model = digits.variant(digits.load(), said["model"])
        self._conduct = Conduct(said, name=self._name, seed=said["seed"])
        self._page = Page(model="digits", version=said["version"], workload=said["workload"])
        self._pages: deque[float] = deque(maxlen=PAGES_KEPT)
        self._drift = 0.0
        self._never = asyncio.Event()
        self._routes: dict[tuple[str, str], Answer] = {
            ("GET", "/v2"): self.about,
            ("GET", "/v2/health/live"): self.live,
            ("GET", "/v2/health/ready"): self.ready,
            ("GET", said["metricsPath"]): self.metrics,
            ("POST", "/lab/faults"): self.faults,
            ("GET", "/lab/state"): self.state,
        }
        for name in NAMES:
            self._routes["GET", f"/v2/models/{name}"] = self.metadata
            self._routes["GET", f"/v2/models/{name}/ready"] = self.ready
            self._routes["POST", f"/v2/models/{name}/infer"] = self.infer
        self.suffer(said["faults"])

    async def serve(self, host: str, port: int, *, until: asyncio.Event) -> None:
        """Answers until told to stop; requests that have arrived by then are still answered."""
        server = web.Server(self.answer, keepalive_timeout=IDLE, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=self._grace)
        await runner.setup()
        await web.TCPSite(runner, host, port, backlog=1_024).start()
        self.warm_up()
        await until.wait()
        await runner.cleanup()

    def warm_up(self) -> None:
        """The model has run a few times; from now on the pod calls itself ready."""
        self._page.model.warm_up(lambda: self._model.logits(self._model.pictures[:1].astype(float)), WARM_UP)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer of whatever the request is for; a hanging pod gives none."""
        route = self._routes.get((request.method, request.path))
        faults = self._conduct.faults
        if faults.get("hang") and not request.path.startswith("/lab/"):
            await self._never.wait()
        if route is None:
            return web.json_response({"error": f"no {request.method} {request.path} here"}, status=404)
        return await route(request)

    async def about(self, _request: web.BaseRequest) -> web.StreamResponse:
        """The server's metadata."""
        return web.json_response({"name": "serin-lab", "version": "1", "extensions": []})

    async def live(self, _request: web.BaseRequest) -> web.StreamResponse:
        """The process answers."""
        return web.json_response({"live": True})

    async def ready(self, _request: web.BaseRequest) -> web.StreamResponse:
        """Ready is who is warm and whose model computes."""
        fine = self._page.model.ready()
        return web.json_response({"ready": fine}, status=200 if fine else 503)

    async def metadata(self, _request: web.BaseRequest) -> web.StreamResponse:
        """The model's metadata."""
        return web.json_response(
            {
                "name": "digits",
                "versions": ["1"],
                "platform": "numpy",
                "inputs": [{"name": self._model.input, "datatype": "FP32", "shape": [-1, digits.PIXELS]}],
                "outputs": [
                    {"name": "digit", "datatype": "INT64", "shape": [-1]},
                    {"name": "large", "datatype": "FP32", "shape": [-1]},
                ],
            }
        )

    async def infer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The digit and the score, after as long as the story says."""
        began = time.monotonic()
        if self._conduct.faults.get("blackhole"):
            await self._never.wait()
        with self._page.model.request():
            status, body, headers = await self._inferred(request, began)
        return web.Response(status=status, body=body, headers=headers, content_type="application/json")

    async def _inferred(self, request: web.BaseRequest, began: float) -> tuple[int, bytes, dict[str, str]]:
        takes, fails = self._conduct.seconds(time.time() - self._epoch), self._conduct.fails()
        headers, score = {"x-lab-pod": self._name}, None
        try:
            name, pixels = _pixels(await request.read(), self._model.input)
        except Bad as bad:
            status, body = 400, {"error": str(bad)}
        else:
            body, score = self._prediction(name, pixels)
            status = 200
        if fails:
            status, body, score = 500, {"error": "the story wants it"}, None
            headers[INJECTED] = "error"
        await asyncio.sleep(max(0.0, began + takes - time.monotonic()))
        self._page.observe(status, time.monotonic() - began, score=score)
        if status == 200 and (clicked := self._conduct.clicked()) is not None:
            self._page.model.counted("impressions")
            self._page.model.counted("clicks", int(clicked))
        return status, json.dumps(body).encode(), headers

    def _prediction(self, name: str | None, pixels: digits.Floats) -> tuple[dict[str, Any], float]:
        """The protocol's answer and, for the metrics, the first row's score."""
        logits = self._model.logits(pixels)
        scores = [self._conduct.prediction(rank) for rank in self._model.rank(logits).tolist()]
        mean, sd = self._model.brightness
        surprise = (float(pixels.mean()) - mean) / sd
        self._drift += SMOOTHING * (surprise - self._drift)
        self._page.model.drift({"pixels": self._drift})
        self._page.model.features({"pixels": [row if row.any() else None for row in pixels]})
        rows = len(scores)
        outputs = [
            {
                "name": "digit",
                "datatype": "INT64",
                "shape": [rows],
                "data": logits.argmax(axis=1).tolist(),
            },
            {"name": "large", "datatype": "FP32", "shape": [rows], "data": scores},
        ]
        answer: dict[str, Any] = {"model_name": "digits", "model_version": "1", "outputs": outputs}
        return answer | ({"id": name} if name else {}), scores[0]

    async def metrics(self, _request: web.BaseRequest) -> web.StreamResponse:
        """The metrics page."""
        match self._conduct.faults.get("metrics"):
            case "outage":
                return web.Response(status=503, text="the story wants it\n")
            case "hang":
                await self._never.wait()
            case "slow":
                await asyncio.sleep(0.4)  # just within the controller's half second
            case _:
                pass
        self._pages.append(time.time())
        return web.Response(text=self._page.text(), content_type="text/plain")

    async def faults(self, request: web.BaseRequest) -> web.StreamResponse:
        """From now on these faults, and no others, are in force."""
        self.suffer(json.loads(await request.read()))
        return web.json_response({})

    async def state(self, _request: web.BaseRequest) -> web.StreamResponse:
        """When the last pages were served, and what is still unanswered."""
        return web.json_response({"pages": list(self._pages), "depth": self._page.model.depth})

    def suffer(self, faults: dict[str, Any]) -> None:
        """Puts the faults in force; a crash is one at once, as a segmentation fault would be."""
        if faults.get("crash"):
            os._exit(139)
        self._conduct.suffer(faults)


def _pixels(body: bytes, called: str) -> tuple[str | None, digits.Floats]:
    """The request's id and the rows of pixels in its tensor of that name."""
    try:
        asked = json.loads(body)
        given = next(item for item in asked["inputs"] if item["name"] == called)
        pixels = np.array(given["data"], dtype=np.float64).reshape(-1, digits.PIXELS)
    except (ValueError, TypeError, KeyError, StopIteration) as trouble:
        raise Bad(
            f'expected {{"inputs": [{{"name": "{called}", "data": [64 numbers a row]}}]}}: {trouble}'
        ) from None
    if not len(pixels) or not np.isfinite(pixels).all():
        raise Bad("inputs[0].data: expected at least one row of finite numbers")
    return asked.get("id"), pixels


async def main(said: dict[str, Any]) -> None:
    """Serves as a pod until SIGTERM."""
    until, loop = asyncio.Event(), asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, until.set)
    await Server(said).serve(said["host"], said["port"], until=until)


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
