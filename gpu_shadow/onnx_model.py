"""An ONNX model: vetted here, run by onnxruntime in a process of its own (`onnx_child`)."""

import contextlib
import math
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any
from weakref import finalize

import msgspec
import numpy as np
import torch

from gpu_shadow.model import Answers, Array, Batch, Model, Refused, Row, Tensors, task_of
from gpu_shadow.onnx_child import receive, send
from gpu_shadow.onnx_file import Described, vetted
from gpu_shadow.protocol import encoded, response

LOADED_WITHIN = 120.0  # seconds
ANSWERED_WITHIN = 60.0  # seconds a batch
BESIDE = 4.0  # times the file: what a session and a batch take beside the weights
LEAST = 1_024  # MiB
ROOT = Path(__file__).parents[1]
MASK = "attention_mask"  # where there is one, zeros behind it change nothing


def onnx(body: bytes) -> Model:
    """The model that the file holds; raises `Refused`."""
    known = vetted(body)
    output = _output(known.outputs, known.about.get("output"))
    one = math.prod(size for size in output.shape[1:] if isinstance(size, int)) == 1
    task = task_of(known.about, "regression" if one else "classification")
    if not known.inputs or any(not one.shape for one in known.inputs):
        raise Refused("an input has no dimension for requests; export it with a batch")
    alone = _alone(known.inputs)
    room = Room(body, threads=torch.get_num_threads())
    masked = any(one.name == MASK for one in known.inputs)
    return Model(
        takes=", ".join(f"{one.name} [{', '.join(map(str, one.shape[1:]))}]" for one in known.inputs),
        task=task,
        fit=partial(_row, inputs=known.inputs),
        answer=partial(_answer, room, output.name, alone=alone),
        padded=frozenset(one.name for one in known.inputs if masked and _of_tokens(one)),
    )


def _output(outputs: tuple[Described, ...], wanted: str | None) -> Described:
    """The one that is compared: the one that metadata name, else the only one of floating-point numbers."""
    found = [one for one in outputs if (one.name == wanted if wanted else one.kind[0] == "f")]
    if len(found) != 1:
        names = ", ".join(one.name[:40] for one in outputs)
        raise Refused(f"outputs are {names}; name the one that is compared in the metadata's output")
    if not found[0].shape or any(isinstance(size, str) for size in found[0].shape[1:]):
        raise Refused(
            f"output {found[0].name[:40]}: its shape {list(found[0].shape)} is another for each request"
        )
    return found[0]


def _alone(inputs: tuple[Described, ...]) -> bool:
    """Whether only one row goes through at once; raises `Refused` where it has to be another number."""
    batches = {one.shape[0] for one in inputs if isinstance(one.shape[0], int)}
    if batches - {1}:
        raise Refused(f"takes {max(batches)} rows at once and no other number; export it with a free batch")
    return bool(batches)


def _of_tokens(one: Described) -> bool:
    return len(one.shape) == 2 and isinstance(one.shape[1], str) and one.kind[0] in "iu"


def _row(given: Tensors, inputs: tuple[Described, ...]) -> Row | str:
    """The first row of every input, in its type."""
    row = {}
    for one in inputs:
        found = given.get(one.name)
        if found is None or found.dtype.kind not in "biuf":
            return f"without {one.name[:40]}"
        sizes = zip(found.shape[1:], one.shape[1:], strict=False)
        if found.ndim != len(one.shape) or any(isinstance(size, int) and size != n for n, size in sizes):
            return f"with {one.name[:40]} of another shape"
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is told below, or infinite
            first = found[0].astype(one.kind)
        if found.dtype.kind == "f" and one.kind[0] != "f":
            return f"with {one.name[:40]} of another type"
        if one.kind[0] != "f" and not np.array_equal(first, found[0]):
            return f"with {one.name[:40]} beyond its type"
        row[one.name] = first
    return row


def _answer(room: "Room", output: str, batch: Batch, *, alone: bool) -> Answers:
    rows = {name: one.cpu().numpy() for name, one in batch.items()}
    count = len(next(iter(rows.values())))
    parts = (
        [{name: one[at : at + 1] for name, one in rows.items()} for at in range(count)] if alone else [rows]
    )
    answered = [one for part in parts for one in _halved(room, output, part)]
    failed = {place: one for place, one in enumerate(answered) if isinstance(one, str)}
    rest = [one for one in answered if not isinstance(one, str)]
    if not rest:
        return Answers(torch.empty(count, 0), failed)
    lost = np.full_like(rest[0], np.nan, dtype=np.result_type(rest[0], np.float16))
    whole = np.stack([lost if isinstance(one, str) else one for one in answered])
    return Answers(torch.from_numpy(whole).reshape(count, -1), failed)


def _halved(room: "Room", output: str, rows: Mapping[str, Array]) -> list[Array | str]:
    """The answer to each row; a reason for those that onnxruntime gives up at, such as a token that is none.

    It says so of a whole batch, which is halved until they are found: one request must not be all of them.
    """
    count = len(next(iter(rows.values())))
    try:
        found = room.ask(rows, output)
    except Unanswered as error:
        if count == 1:
            return [str(error).partition(": ")[0]]  # not what it says: that may quote the request
        halves = slice(count // 2), slice(count // 2, None)
        return [
            one
            for half in halves
            for one in _halved(room, output, {name: each[half] for name, each in rows.items()})
        ]
    if len(found) != count:
        raise Refused(
            f"{count} rows went in and {len(found)} came out: rows are not answered each for itself"
        )
    return list(found.copy())


class Unanswered(Refused):
    """Rows at which onnxruntime gave up."""


class Room:
    """The process in which the model runs, while this object lives; `Refused` if it is not loaded."""

    def __init__(self, body: bytes, *, threads: int) -> None:
        mib = max(LEAST, round(BESIDE * len(body) / 2**20))
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", "gpu_shadow.onnx_child", str(threads), str(mib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self._end = finalize(self, _ended, self._process)
        self._told(body, 0, LOADED_WITHIN)

    def ask(self, rows: Mapping[str, Any], output: str) -> Any:
        """The output for these rows; raises `torch.OutOfMemoryError`, `Unanswered`, or `Refused`."""
        answer, json_bytes = self._told(*encoded(rows, id=output), ANSWERED_WITHIN)
        return response(answer, json_bytes=json_bytes)[output]

    def _told(self, body: bytes, head: int, within: float) -> tuple[bytes, int]:
        """The process' answer; it is ended if it takes longer than so many seconds."""
        process = self._process
        if process.stdin is None or process.stdout is None or not self._end.alive:
            raise Refused("its process is gone")
        timer = Timer(within, process.kill)
        timer.start()
        try:
            send(process.stdin, body, head)
            answer, json_bytes = receive(process.stdout)
        except (EOFError, OSError):
            self._end()
            how = f"it ended with code {process.wait()}, or took more than {within:.0f} s"
            raise Refused(f"onnxruntime's process could not run it: {how}") from None
        finally:
            timer.cancel()
        said = msgspec.json.decode(answer[:json_bytes])
        error = said.get("error")
        if error == "memory":
            raise torch.OutOfMemoryError("onnxruntime's process has no memory left")
        if error is not None:
            if "rows" in said:
                kind, _, more = str(error).partition(": ")
                raise Unanswered(f"onnxruntime gave up ({kind[:40]}): {more}")
            raise Refused(f"onnxruntime: {error}")
        return answer, json_bytes


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # of what was not yet written, and still closed
                pipe.close()
