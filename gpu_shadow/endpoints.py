"""Models that are reached instead of loaded: servers of the Open Inference Protocol v2, or of v1.

Only servers that the worker's owner allows, and never a host that users are served by. Requests go there as
they were recorded, marked `x-shadow-replay: 1`; nothing is followed, no answer is larger than `MOST`, and
every wait has an end. A request that is answered with an error, or too late, is one that the model failed;
a server that nobody can reach says nothing of its model.
"""

import json
import re
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from torch import Tensor

from gpu_shadow.model import Answers, Array, Later, Model, Refused, Row, Tensors, task_of, unstacked
from gpu_shadow.protocol import LENGTH, Unreadable, encoded, instances, is_json, length, response
from gpu_shadow.tasks import NONE, TASKS

REFERENCE = re.compile(
    r"http://(?P<host>[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})(?P<path>/v(?P<v>[12])/models/[A-Za-z0-9._~/-]+?)"
    r"(?::predict|/infer)?(?:\?(?P<more>[^@\s]*))?@sha256:(?P<digest>[0-9a-f]{64})"
)
FORM = '"http://HOST:PORT/v2/models/NAME[/versions/VERSION][?task=TASK&output=NAME]@sha256:DIGEST", or /v1/…'
WITHIN = 10.0  # seconds a request
TURN = 60.0  # seconds a batch
MOST = 8 * 2**20  # bytes of an answer
AT_ONCE = 4  # requests: a copy of the model is smaller than production
BATCH = 64  # requests between looks at the clock
SILENT = 8  # requests in a row without a word: nobody is there
GATEWAY = frozenset({502, 503, 504})  # said by who stands before the model, of one that it did not reach
BINARY = "binary_tensor_data"  # how a server says that it reads binary tensors


class Unreachable(Later):
    """A server that does not answer: later it may."""


class _Unanswered(Exception):
    """Nobody said anything to this request, or not in time."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The server's answer is an error, or is none that can be read."""

    why: str


@dataclass(slots=True)
class Server:
    """Where a model is, how it is spoken to, and connections that are open."""

    host: str
    port: int
    path: str
    v1: bool
    output: str | None = None
    binary: bool = False
    text: bool = False  # whether an answer is a log-probability for each token, of as many as there are
    width: int = 0  # of its answers, once there was one
    silent: int = 0  # requests in a row
    idle: deque[HTTPConnection] = field(default_factory=deque)

    def call(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers; the body is empty where it is too large. Raises `_Unanswered`."""
        connection = self.idle.pop() if self.idle else HTTPConnection(self.host, self.port, timeout=WITHIN)
        until = time.monotonic() + WITHIN
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, {"x-shadow-replay": "1", **named})
            answer = connection.getresponse()
            found = _whole(answer, until)
        except (OSError, HTTPException) as error:
            connection.close()
            self.close()  # they may be as dead as this one
            raise _Unanswered(f"{type(error).__name__}: {error}") from None
        if found is None:
            connection.close()
            return answer.status, b"", {}
        self.idle.append(connection)
        return answer.status, found, {name.lower(): value for name, value in answer.getheaders()}

    def close(self) -> None:
        """No connection is open that nobody uses."""
        while self.idle:
            self.idle.pop().close()

    def asked(self, path: str) -> Any:
        """What is said there, as JSON; None for what is no such answer. Raises `Unreachable`."""
        try:
            status, body, _ = self.call("GET", path)
        except _Unanswered as trouble:
            raise Unreachable(
                f"{self}: cannot be reached ({trouble}); is the model deployed there?"
            ) from None
        if status in GATEWAY:
            raise Unreachable(f"{self}: is not there yet: GET {path} says {status}")
        try:
            return json.loads(body) if status == 200 else None
        except (ValueError, RecursionError):
            return None
        finally:
            self.close()

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port}{self.path}"


def _whole(answer: HTTPResponse, until: float) -> bytes | None:
    """The answer's body; None if it is too large."""
    found = bytearray()
    while part := answer.read1(2**16):
        found += part
        if len(found) > MOST:
            return None
        if time.monotonic() > until:
            raise TimeoutError
    if answer.length:
        raise HTTPException("the answer ends too early")
    answer.read()  # nothing more: the connection may be used again
    return bytes(found)


def opened(reference: str, allowed: Collection[str], *, production: Collection[str]) -> Model:
    """The model behind the reference, if its server may be called; raises `Refused` or `Unreachable`.

    `allowed` are HOST:PORT; `production` the hosts that users are served by.
    """
    said = REFERENCE.fullmatch(reference)
    if said is None:
        raise Refused(f'"{reference}": expected {FORM}')
    more = dict(parse_qsl(said["more"] or ""))
    if set(more) - {"task", "output"}:
        raise Refused(f'"{reference}": expected task and output behind the question mark')
    if ".." in said["path"].split("/"):
        raise Refused(f'"{reference}": its path leaves the models; expected {FORM}')
    host = said["host"].lower().rstrip(".")
    server = Server(host, int(said["port"]), said["path"], said["v"] == "1", more.get("output"))
    _permitted(server, allowed, production)
    known = server.asked(server.path)
    if not isinstance(known, dict):
        raise Unreachable(f"{server}: has no metadata; is the name right, and the model loaded?")
    if not server.v1:
        whole = server.asked("/v2")
        server.binary = isinstance(whole, dict) and BINARY in str(whole.get("extensions"))
        _output(server, known)
    task = task_of(more, more.get("task") or _task(server, known), known=TASKS)
    server.text = task == "text"
    return Model(
        reference=reference,
        digest=said["digest"],
        takes="",
        task=task,
        fit=partial(_row, server),
        answer=unstacked,
        each=partial(_answers, server),
        most=BATCH,
        unproven=_unproven(server, known, said["digest"]),
    )


def _permitted(server: Server, allowed: Collection[str], production: Collection[str]) -> None:
    place = f"{server.host}:{server.port}"
    if place not in {one.lower() for one in allowed}:
        raise Refused(f"{server}: this worker may not call {place}; start it with --endpoint {place}")
    names = _names(server.host)
    wild = {f"*.{'.'.join(name.split('.')[at:])}" for name in names for at in range(1, name.count(".") + 1)}
    if {"*", *names, *wild} & {one.lower().rstrip(".") for one in production}:
        raise Refused(
            f"{server}: {server.host} is a host of the run's VirtualService, where users are served; deploy"
            " both models a second time, under a name that nobody else calls"
        )


def _names(host: str) -> list[str]:
    """All that a Service in the cluster is called, if the host is one."""
    short = host.removesuffix(".cluster.local").removesuffix(".svc")
    return [short + more for more in ("", ".svc", ".svc.cluster.local")]


def _unproven(server: Server, known: Mapping[str, Any], digest: str) -> bool:
    """Whether its metadata say nothing of a digest; raises `Refused` if they say another."""
    about = known.get("parameters")
    said = about.get("sha256", about.get("digest")) if isinstance(about, dict) else None
    found = str(said).removeprefix("sha256:")
    if said is not None and found != digest:
        raise Refused(f"{server}: its metadata's digest is {found[:64]}, not {digest}; correct either")
    return said is None


def _outputs(known: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = known.get("outputs")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _output(server: Server, known: Mapping[str, Any]) -> None:
    """Of v2 the output that is compared is known; raises `Refused`."""
    floats = [one for one in _outputs(known) if str(one.get("datatype")).startswith(("FP", "BF"))]
    if server.output is None and len(floats) != 1:
        names = ", ".join(str(one.get("name"))[:40] for one in _outputs(known)) or "not in its metadata"
        raise Refused(f"{server}: its outputs are {names}; say which is compared: ?output=NAME")
    server.output = server.output or str(floats[0].get("name"))


def _task(server: Server, known: Mapping[str, Any]) -> str:
    """What follows from the output's shape; raises `Refused` where there is none."""
    shape = next((one.get("shape") for one in _outputs(known) if one.get("name") == server.output), None)
    if not isinstance(shape, list) or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
        raise Refused(f"{server}: its metadata does not tell what an answer is; say it: ?task=classification")
    return "regression" if all(size == 1 for size in shape[1:]) else "classification"


# -- requests --------------------------------------------------------------------------------------


def _row(server: Server, given: Tensors) -> Row | str:
    """The request's tensors as they are, if they can be said."""
    for name, one in given.items():
        if not (server.binary or is_json(one)):
            text = f"text in {name[:40]} that JSON cannot write, as it is not UTF-8"
            return f"with {text if one.dtype == object else 'numbers that JSON cannot write'}"
    return given


def _body(server: Server, given: Tensors) -> tuple[bytes, Mapping[str, str]]:
    """What is sent, with its headers."""
    if server.v1:
        return instances(given), {"Content_Type": "application/json"}
    wanted: dict[str, Any] = {"name": server.output}
    if server.binary:
        wanted["parameters"] = {"binary_data": True}
    body, head = encoded(given, binary=server.binary, outputs=[wanted])
    if not server.binary:
        return body, {"Content_Type": "application/json"}
    return body, {"Content_Type": "application/octet-stream", LENGTH.replace("-", "_"): str(head)}


def _answers(server: Server, requests: Sequence[Row]) -> Answers:
    """The server's answers to the requests, each to its own; raises `Unreachable`."""
    until = time.monotonic() + TURN
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(partial(_answer, server, until=until), requests))
        _there(server, found)
    finally:
        server.close()
    rows = [one for one in found if isinstance(one, np.ndarray)]
    if server.text:
        found = [_filled(one, max(map(len, rows))) if isinstance(one, np.ndarray) else one for one in found]
    elif not server.width and rows:
        server.width = len(rows[0])
    wide = max(map(len, rows), default=0) if server.text else server.width
    fits = [isinstance(one, np.ndarray) and len(one) == wide for one in found]
    kind = np.result_type(*rows) if rows else np.dtype(np.float32)
    lost = np.full(wide, np.nan, kind if kind.kind == "f" else np.float64)
    values = [
        one if isinstance(one, np.ndarray) and fit else lost for one, fit in zip(found, fits, strict=True)
    ]
    whole: Tensor = torch.from_numpy(np.stack(values)) if any(fits) else torch.empty(len(found), 0)
    return Answers(whole, {at: _why(server, one) for at, one in enumerate(found) if not fits[at]})


def _filled(scores: Array, longest: int) -> Array:
    """A completion's log-probabilities, and `NONE` behind the last; one that is infinite itself is none."""
    sound = np.where(np.isposinf(scores), np.nan, scores.astype(np.float64))
    return np.pad(sound, (0, longest - len(scores)), constant_values=NONE)


def _why(server: Server, found: Array | Failed | None) -> str:
    """Why this is no answer."""
    if found is None:
        return f"no answer within {WITHIN:.0f} s, twice"
    if isinstance(found, Failed):
        return found.why
    return f"an answer of {len(found)} numbers, where the first had {server.width}"


def _there(server: Server, found: Sequence[Array | Failed | None]) -> None:
    """Raises `Unreachable` if nobody answers, or nobody would be asked again."""
    missing = sum(one is None for one in found)
    if not missing:
        return
    if missing == len(found) or server.silent >= SILENT:
        server.silent = 0
        raise Unreachable(
            f"{server}: {missing} of {len(found)} requests had no answer within {WITHIN:.0f} s each"
        )
    ready = server.path if server.v1 else f"{server.path}/ready"
    try:
        status, _, _ = server.call("GET", ready)
    except _Unanswered as trouble:
        raise Unreachable(f"{server}: went away ({trouble})") from None
    if status in GATEWAY or not 200 <= status < 300:
        raise Unreachable(f"{server}: is not ready: GET {ready} says {status}")


def _answer(server: Server, given: Tensors, *, until: float) -> Array | Failed | None:
    """The first row of the output; None if there is no word, also not the second time."""
    body, headers = _body(server, given)
    path = f"{server.path}:predict" if server.v1 else f"{server.path}/infer"
    for _ in range(2):
        if server.silent >= SILENT or time.monotonic() > until:
            return None
        try:
            status, said, told = server.call("POST", path, body, **headers)
        except _Unanswered:
            continue
        if status in GATEWAY:
            continue
        server.silent = 0
        if status != 200:
            return Failed(f"status {status}")
        return (
            _read(server, said, told)
            if said
            else Failed(f"an answer of more than {MOST >> 20} MiB, or empty")
        )
    server.silent += 1
    return None


def _read(server: Server, body: bytes, headers: Mapping[str, str]) -> Array | Failed:
    try:
        outputs = response(body, json_bytes=length(headers.get(LENGTH.lower())))
    except Unreadable as trouble:
        return Failed(str(trouble))
    found = outputs.get(server.output or "predictions")
    if found is None:
        return Failed(f"no output {server.output or 'predictions'}")
    return np.array(found.reshape(len(found), -1)[0])
