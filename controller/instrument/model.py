"""One model in one process: what happens to it is recorded, and told to whoever asks.

What records (`request`, `predicted`, `features`, ...) never raises: a fault there is logged once, counted on
the page and costs no prediction. What sets up (`Instrumented`, `warm_up`, `serve`) raises if it is misused.
Counters begin at zero with the process, as Prometheus and Serin expect. Threads may share a model;
processes behind one port may not.
"""

import asyncio
import functools
import inspect
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .formats import OPEN, PLAIN, PROTOBUF, Family, Labels, Sample, chosen, delimited, text
from .histograms import SCORES, SECONDS, Histogram
from .inputs import gaps
from .readiness import QUIET, Trial

WINDOW = 1000  # rows over which the share of missing values is taken
MOST_FEATURES = 500  # names; beyond them are people's or machines' mistakes, and would fill a Prometheus

_LOG = logging.getLogger("serin.instrument")
_NAME = re.compile(r"[a-z][a-z0-9_]*")

Call = Callable[..., Any]


class Instrumented:
    """One version of one model in this process.

    `buckets` are the latency histogram's bounds in seconds, `values` those of predictions: choose them where
    yours lie. `features` names the inputs from the start; others are learnt as they come.
    """

    def __init__(
        self,
        name: str,
        version: str,
        *,
        buckets: Sequence[float] = SECONDS,
        values: Sequence[float] = SCORES,
        features: Iterable[str] = (),
    ) -> None:
        for what, said in (("name", name), ("version", version)):
            if not isinstance(said, str) or not said.strip():
                raise ValueError(f'Instrumented: {what} must be a text that is not empty, such as "2"')
        self._model: Labels = (("model_name", name),)
        self._labels: Labels = (*self._model, ("model_version", version))
        took = "model_inference_duration_seconds"
        self._took = Histogram(took, self._labels, buckets, native=True)
        self._said = Histogram("model_prediction_value", self._labels, values)
        self._missing: dict[str, tuple[float, int]] = {}  # the share of each feature, and of how many rows
        self._drift: dict[str, float] = {}
        self._counted: Counter[str] = Counter()
        self._faults = _Faults()
        self._load = _Load(self._took)
        self._depth: float | Callable[[], float] | None = None
        self._lock = threading.Lock()
        self._trial = Trial()
        self._missing.update(dict.fromkeys(features, (0.0, 0)))

    # -- what happens: none of these raises

    def request(self, call: Call | None = None) -> Any:
        """A block whose time is one inference's, however it ends; or a decorator, also of async functions."""
        return _Request(self._load) if call is None else _Request(self._load)(call)

    def took(self, seconds: float) -> None:
        """One inference took so long: for who measures it otherwise than by `request`."""
        with _Harmless(self._faults, "took") as on:
            if on:
                self._took.observe(float(seconds))

    def predicted(self, values: Any) -> None:
        """One prediction or several: a number, a list, an array. A NaN counts beyond all bounds."""
        with _Harmless(self._faults, "predicted") as on:
            if on:
                flat = values.reshape(-1).tolist() if hasattr(values, "reshape") else values
                for value in flat if isinstance(flat, Iterable) else (flat,):
                    self._said.observe(float(value))

    def features(self, rows: Any) -> None:
        """The inputs of a request: a mapping of values or of columns, a data frame, or an array of rows.

        Missing are None and NaN, and a feature that other requests had. An array's columns are called as
        `Instrumented(features=...)` says, else 0, 1, 2 ...
        """
        with _Harmless(self._faults, "features") as on:
            if on:
                self._note(gaps(rows, tuple(self._missing)))

    def _note(self, gaps: Mapping[str, tuple[int, int]]) -> None:
        """So many values of so many rows are missing, by feature."""
        most = max((rows for _, rows in gaps.values()), default=0)
        absent = {name: (most, most) for name in tuple(self._missing) if name not in gaps and most}
        with self._lock:
            for name, (missing, rows) in {**gaps, **absent}.items():
                if rows and (name in self._missing or len(self._missing) < MOST_FEATURES):
                    share, seen = self._missing.get(name, (0.0, 0))
                    seen = min(seen + rows, max(WINDOW, rows))
                    self._missing[name] = share + (missing / rows - share) * rows / seen, seen

    def drift(self, scores: Mapping[str, float]) -> None:
        """How far each feature has drifted from the training, as you measure it."""
        with _Harmless(self._faults, "drift"):
            self._drift.update({name: float(score) for name, score in list(scores.items())[:MOST_FEATURES]})

    def queue(self, depth: float | Callable[[], float]) -> None:
        """So many requests wait: a number, or what each page shall ask; without it those within `request`."""
        with _Harmless(self._faults, "queue"):
            self._depth = depth if callable(depth) else float(depth)

    def counted(self, what: str, by: int = 1) -> None:
        """`model_WHAT_total` is that much higher: impressions, clicks. By 0: it is there from now on."""
        with _Harmless(self._faults, "counted") as on:
            if not _NAME.fullmatch(what) or by < 0:
                raise ValueError(f"{what!r}, {by}: give a name such as clicks, and a number not below 0")
            if on:
                with self._lock:
                    self._counted[what] += by

    # -- readiness

    def warm_up(self, call: Callable[[], Any], times: int = 20) -> None:
        """The model has run so many times, none of them counted; `ready` tries it with the same call.

        Raises what the call raises, and `ValueError` where its answer is False or has a NaN.
        """
        if not callable(call) or inspect.iscoroutinefunction(call):
            raise TypeError("warm_up: give a plain function of no arguments, such as lambda: net(EXAMPLE)")
        if times < 1:
            raise ValueError("warm_up: times must be 1 or more")
        self._trial.warm_up(call, times)

    def ready(self) -> bool:
        """Whether the model was warmed up and computes now; a try is remembered for a second."""
        return not self.unready()

    def unready(self) -> str:
        """Why it is not ready; an empty text if it is."""
        return self._trial.trouble()

    # -- the page

    @property
    def histograms(self) -> tuple[Histogram, Histogram]:
        """Of latencies and of predictions: for who counts in bulk."""
        return self._took, self._said

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics page and its content type, in the best format that the header `Accept` names."""
        families = list(self._families())
        match chosen(accept):
            case "application/vnd.google.protobuf":
                return b"".join(delimited(*family) for family in families), PROTOBUF
            case "application/openmetrics-text":
                return ("\n".join([*text(families, opened=True), "# EOF", ""])).encode(), OPEN
        return ("\n".join([*text(families), ""])).encode(), PLAIN

    def _families(self) -> Iterator[Family]:
        yield "histogram", self._took.name, "Seconds that inferences took.", [(self._labels, self._took)]
        yield "histogram", self._said.name, "Predictions.", [(self._labels, self._said)]
        shares = {name: share for name, (share, rows) in tuple(self._missing.items()) if rows}
        yield self._gauge("model_feature_missing_rate", f"Share missing, of the last {WINDOW} rows.", shares)
        yield self._gauge("model_data_drift_score", "Drift of a feature from the training.", self._drift)
        waiting: list[Sample] = [(self._labels, self.depth)]
        yield "gauge", "inference_queue_depth", "Requests that are not answered yet.", waiting
        counted = {**self._counted, "instrument_faults": self._faults.count}
        for what, count in counted.items():
            yield "counter", f"model_{what}_total", f"Number of {what}.", [(self._labels, float(count))]

    def _gauge(self, name: str, help_: str, of: Mapping[str, float]) -> Family:
        each: list[Sample] = [
            ((*self._model, ("feature_name", feature)), value) for feature, value in tuple(of.items())
        ]
        return "gauge", name, help_, each

    @property
    def depth(self) -> float:
        """Requests that are not answered yet."""
        with _Harmless(self._faults, "queue"):
            if self._depth is not None:
                return float(self._depth() if callable(self._depth) else self._depth)
        return float(self._load.open)

    # -- how it is served

    def answer(self, path: str, accept: str = "") -> tuple[int, str, bytes]:
        """Status, content type and body for a GET of `/metrics` or `/ready`; 404 for all else."""
        if path == "/metrics":
            body, kind = self.page(accept)
            return 200, kind, body
        if path == "/ready":
            why = self.unready()
            return 503 if why else 200, "text/plain; charset=utf-8", f"{why or 'ready'}\n".encode()
        return 404, "text/plain; charset=utf-8", b"here are /metrics and /ready\n"

    def wsgi(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        """A WSGI application with `/metrics` and `/ready`."""
        status, kind, body = self.answer(environ.get("PATH_INFO", ""), environ.get("HTTP_ACCEPT", ""))
        line = {200: "200 OK", 503: "503 Service Unavailable"}.get(status, "404 Not Found")
        start_response(line, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    async def asgi(self, scope: Mapping[str, Any], _receive: Call, send: Call) -> None:
        """An ASGI application with `/metrics` and `/ready`; the model is tried in a thread."""
        if scope["type"] != "http":
            return
        accept = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"), "")
        path = scope["path"].removeprefix(scope.get("root_path", ""))  # where it is mounted
        status, kind, body = await asyncio.to_thread(self.answer, path, accept)
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def serve(self, port: int, host: str = "0.0.0.0") -> int:  # noqa: S104 - a pod's page
        """`/metrics` and `/ready` are served by a thread of their own, at the port that is given back."""
        from socketserver import ThreadingMixIn
        from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

        class Server(ThreadingMixIn, WSGIServer):
            daemon_threads = True

        class Silent(WSGIRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Once a second is too often to be told."""

        server = make_server(host, port, self.wsgi, server_class=Server, handler_class=Silent)
        threading.Thread(target=server.serve_forever, name="serin-instrument", daemon=True).start()
        return int(server.server_port)


class _Load:
    """Requests that have begun and not ended, and how long those took that have."""

    def __init__(self, took: Histogram) -> None:
        self.open = 0
        self._took = took
        self._lock = threading.Lock()

    def begin(self) -> float:
        """One more; when it began."""
        with self._lock:
            self.open += 1
        return time.perf_counter()

    def end(self, began: float) -> None:
        """One less."""
        took = time.perf_counter() - began
        with self._lock:
            self.open -= 1
        if not QUIET.get():
            self._took.observe(took)


class _Request:
    """One inference: measured from enter to exit."""

    __slots__ = ("_began", "_load")

    def __init__(self, load: _Load) -> None:
        self._load, self._began = load, 0.0

    def __enter__(self) -> None:
        self._began = self._load.begin()

    def __exit__(self, *_: object) -> None:
        self._load.end(self._began)

    def __call__(self, call: Call) -> Call:
        """The function, each call of which is one inference."""
        if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
            raise TypeError(f"request: {call.__name__} yields; use `with model.request():` within it")

        @functools.wraps(call)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with _Request(self._load):
                return call(*args, **kwargs)

        @functools.wraps(call)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with _Request(self._load):
                return await call(*args, **kwargs)

        return awaited if inspect.iscoroutinefunction(call) else wrapped


class _Faults:
    """What went wrong in recording: counted, and told once."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, where: str, fault: Exception) -> None:
        """One more."""
        self.count += 1
        if self.count == 1:
            what = f"{type(fault).__name__}: {fault}"
            _LOG.warning("%s(): %s; nothing was recorded (said once)", where, what)


class _Harmless:
    """A block whose faults are never raised; gives whether anything counts now."""

    __slots__ = ("_faults", "_where")

    def __init__(self, faults: _Faults, where: str) -> None:
        self._faults, self._where = faults, where

    def __enter__(self) -> bool:
        return not QUIET.get()

    def __exit__(self, _: type[BaseException] | None, fault: BaseException | None, __: object) -> bool:
        if isinstance(fault, Exception):
            self._faults.add(self._where, fault)
        return isinstance(fault, Exception)
