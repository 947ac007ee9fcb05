"""One target in this process: `python tests/fuzz/targets.py NAME [libFuzzer's options] [CORPUS]`.

Each takes bytes that anybody may have sent or written, and lets through only what its reader declares.
"""

import asyncio
import json
import sys
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp

import atheris

with atheris.instrument_imports(include=["gpu_shadow", "controller.shadow"], enable_loader_override=False):
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import save

    from controller import shadow
    from gpu_shadow import models, onnx_file, segments, sketch, worker
    from gpu_shadow.door import ACCEPTED, Caller, Door
    from gpu_shadow.protocol import Unreadable, encoded, request, response, weight
    from gpu_shadow.recorder import Recorded, Recorder
    from gpu_shadow.requests import BadRequests, found

from tests.fuzz.fuzzing import Target, fuzz

ROOM = Path(mkdtemp(prefix="serin-fuzz-"))  # the caller's to remove
LOOP = asyncio.new_event_loop()
ROW = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2.5]}
BINARY = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
TEXT = {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["word"]}
V2 = json.dumps({"id": "42", "inputs": [ROW]}).encode()
V1 = b'{"instances": [[1, 2.5], [3, 4]]}'
NAMED = b'{"instances": [{"age": 30, "paid": true, "row": [1, null]}]}'
LOST = json.dumps({"inputs": [BINARY]}).encode() + b"\x00" * 8
POST = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: model.lab-shadow\r\nx-request-id: r\r\n"
EVENT = (
    b"POST / HTTP/1.1\r\nhost: recorder\r\nce-type: org.kubeflow.serving.inference.request\r\nce-id: e\r\n"
    b"ce-inferenceservicename: model\r\nce-namespace: lab\r\n"
)


def protocol(given: bytes) -> None:
    """A request's body; its first byte is where the JSON ends, or that no header says so."""
    said, body = given[:1], given[1:]
    length = None if said < b"\x80" else int.from_bytes(said) - 128
    with suppress(Unreadable):
        found = request(body, json_bytes=length, text=bool(said) and said[0] % 2 == 1)
        assert found.tensors
        assert sum(weight(each) for each in found.tensors.values()) <= 50 * len(body) + 100
        written, head = encoded(found.tensors)
        again = request(written, json_bytes=head, text=True).tensors
        assert all(
            np.array_equal(again[name], one) for name, one in found.tensors.items() if one.dtype == object
        )


def jsonl(given: bytes) -> None:
    """A file of requests."""
    path = ROOM / "requests.jsonl"
    path.write_bytes(given)
    with suppress(BadRequests):
        whole = found([path], seed=0)
        read = [block.read() for block in whole.blocks(4)]
        assert sum(len(sound) + len(wrong) for sound, wrong in read) == len(whole)


class Wire(asyncio.Transport):
    """The other side of a connection that is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.said += data

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True

    abort = close


async def connected(given: bytes) -> None:
    """What a caller sends, in pieces as long as its first byte says."""
    recorder = Recorder(budget=20_000, most=4_000)
    recorder.open("lab/run", ["model.lab"])
    door, wire, piece, stream = Door(recorder), Wire(), 1 + (given[0] if given else 0), given[1:]
    caller = Caller(door)
    caller.connection_made(wire)
    for at in range(0, len(stream), piece):
        some = stream[at : at + piece]
        caller.get_buffer(-1)[: len(some)] = some
        caller.buffer_updated(len(some))
        assert 0 <= door.reading <= 20_000
        if wire.closed:
            break
    while recorder.sift():
        pass
    caller.connection_lost(None)
    dropped = recorder.dropped.total() - recorder.dropped["reservoir"]
    assert (door.reading, recorder.dropped["error"]) == (0, 0), recorder.dropped
    assert recorder.seen == recorder.kept + dropped
    assert wire.said.count(ACCEPTED[:20]) <= recorder.seen
    recorder.close("lab/run")
    assert recorder.held == 0


def door(given: bytes) -> None:
    """A connection, with the recorder behind it."""
    LOOP.run_until_complete(connected(given))


def segment(given: bytes) -> None:
    """A segment on disk of which one file is another, with digests as whoever can write there gives them."""
    which, body = given[0] % 4 if given else 0, given[1:]
    files = {name: (SEGMENT / name).read_bytes() for name in (segments.MANIFEST, segments.SEAL)}
    manifest, other = json.loads(files[segments.MANIFEST]), ROOM / "other" / SEGMENT.name
    other.mkdir(parents=True, exist_ok=True)
    if which < 2:
        part = segments.PARTS[which]
        body = zlib.compress(body, wbits=segments.GZIP) if part == "index" else body
        (other / segments.FILES[part]).write_bytes(body)
        manifest["parts"][part] = {"bytes": len(body), "sha256": sha256(body).hexdigest()}
    for part in segments.PARTS[:2] if which > 1 else {segments.PARTS[1 - which]}:
        (other / segments.FILES[part]).write_bytes((SEGMENT / segments.FILES[part]).read_bytes())
    said = body if which == 2 else json.dumps(manifest).encode()
    (other / segments.MANIFEST).write_bytes(said)
    (other / segments.SEAL).write_bytes(body if which == 3 else sha256(said).digest())
    with suppress(segments.BadSegment):
        segments.read(other, key=None, now=NOW)


def model(given: bytes) -> None:
    """A model's file, under the digest that it has."""
    path = ROOM / "model.safetensors"
    path.write_bytes(given)
    with suppress(models.Refused):
        models.load(f"file://{path}@sha256:{sha256(given).hexdigest()}", ROOM)


def onnx(given: bytes) -> None:
    """An ONNX file, before anything else reads it."""
    with suppress(models.Refused):
        found = onnx_file.vetted(given)
        assert all(one.kind for one in (*found.inputs, *found.outputs))


def reply(given: bytes) -> None:
    """What a model's server answers; its first byte is where the JSON ends, or that no header says so."""
    said, body = given[:1], given[1:]
    with suppress(Unreadable):
        found = response(body, json_bytes=None if said < b"\x80" else int.from_bytes(said) - 128)
        assert sum(weight(each) for each in found.values()) <= 50 * len(body) + 100


def baseline(given: bytes) -> None:
    """A baseline's file."""
    with suppress(sketch.BadBaseline):
        sketch.read(given)


async def put(given: bytes) -> None:
    """What the controller's door does with a body."""
    ours = worker.Worker(Recorder(), models=ROOM, device=worker.device("cpu"))
    with suppress(worker.Refused):
        said = ours.asked("lab/run", worker.read(given))
        assert ours.asked("lab/run", worker.read(given)) == said
        json.dumps(said, allow_nan=False)
    await ours.close()


def question(given: bytes) -> None:
    """A question that is put to the worker."""
    LOOP.run_until_complete(put(given))


def answer(given: bytes) -> None:
    """A worker's answer, as the controller understands it and keeps it."""
    with suppress(ValueError):
        found = shadow.understood(given, ASKED)
        held = [shadow.saved(found), shadow.saved_worst(found)]
        kept = shadow.loaded(*json.loads(json.dumps(held, allow_nan=False)))
        if found.inputs is not None:
            assert 0 <= found.inputs.features <= 2**53
        assert kept in {None, replace(found, inputs=None)}  # a run's inputs stand in its own state


NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
KEPT = [Recorded(id=f"r{n}", tensors={"x": np.ones((1, 2), "<f4")}, size=1, order=n, at=NOW) for n in (1, 2)]
SEGMENT = segments.write(
    ROOM, KEPT, about=segments.About(run="lab/run", created=NOW, expires=NOW + timedelta(days=1)), key=None
)
INDEX = zlib.decompress((SEGMENT / segments.FILES["index"]).read_bytes(), wbits=segments.GZIP)
NODE = helper.make_node("MatMul", ["x", "w"], ["y"])
SHAPED = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")]
GRAPH = helper.make_graph(
    [NODE], "g", SHAPED[:1], SHAPED[1:], [numpy_helper.from_array(np.eye(2, dtype="<f4"), "w")]
)
ONNX = helper.make_model(GRAPH, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
REPLY, HEAD = encoded({"y": np.ones((1, 2), "<f4")}, called="outputs")
LAYERS = {"0.weight": np.ones((3, 2), "<f4"), "0.bias": np.ones(3, "<f4")}
MLP = {"architecture": "mlp", "activation": "relu"}
ASKED = {
    "run": "lab/run",
    "generation": "g1",
    "hosts": ["model.lab"],
    "stable": "file:///models/a.safetensors@sha256:" + "0" * 64,
    "canary": "file:///models/b.safetensors@sha256:" + "0" * 64,
    "margins": {"maxFlips": 0.01, "alpha": 0.01, "beta": 0.05},
}
DRIFTED = {"features": 9, "requests": 50, "count": 1, "drifted": [{"name": "age", "by": "psi", "value": 0.5}]}
SAID = {
    "asked": ASKED,
    "verdict": "Pass",
    "sentence": "s",
    "requests": 9,
    "flips": 0.1,
    "interval": [0, 1],
    "inputs": DRIFTED,
    "worst": [{"id": "r", "score": 0.5}],
}

TARGETS: Mapping[str, Target] = {
    "protocol": Target(
        protocol,
        (
            *(b"\x00" + each for each in (V2, V1, NAMED, LOST)),
            bytes([128 + len(LOST) - 8]) + LOST,
            b"\x01" + json.dumps({"inputs": [TEXT]}).encode(),
            b"\x01" + json.dumps({"instances": [["a", "b"]]}).encode(),
            b"\x01" + json.dumps({"instances": [{"t": "a", "x": 1}]}).encode(),
        ),
    ),
    "jsonl": Target(jsonl, (V2 + b"\n\n" + V1,)),
    "door": Target(
        door,
        (
            *(
                b"\xff" + POST + b"content-length: %d\r\n\r\n%s" % (len(each), each)
                for each in (V2, V1, LOST)
            ),
            b"\x10" + POST + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            b"\xff" + EVENT + b"content-length: %d\r\n\r\n%s" % (len(LOST), LOST),
        ),
    ),
    "segment": Target(
        segment,
        (
            b"\x00" + (SEGMENT / segments.FILES["tensors"]).read_bytes(),
            b"\x01" + INDEX,
            b"\x02" + (SEGMENT / segments.MANIFEST).read_bytes(),
            b"\x03",
        ),
    ),
    "model": Target(model, (save(LAYERS, metadata=MLP), save(LAYERS, metadata={"architecture": "bert"}))),
    "onnx": Target(onnx, (ONNX,)),
    "reply": Target(reply, (b"\x00" + V1.replace(b"instances", b"predictions"), bytes([128 + HEAD]) + REPLY)),
    "baseline": Target(baseline, (sketch.written(sketch.captured({"x": np.arange(9.0)})),)),
    "question": Target(question, (json.dumps(ASKED).encode(),)),
    "answer": Target(answer, (json.dumps(SAID).encode(),)),
}


WORDS = (
    *("inputs", "instances", "name", "shape", "datatype", "data", "parameters", "binary_data_size", "id"),
    *("BOOL", "INT8", "UINT64", "FP16", "FP32", "FP64", "BYTES", "null", "true", "-1", "1e999", "[[", "]]"),
    *("content-length: ", "transfer-encoding: chunked", "expect: 100-continue", "connection: close", "0\r\n"),
    *("__metadata__", "architecture", "dtype", "data_offsets", "F32", "I64", "0.weight", "0.bias"),
    *("signatures", "parts", "sampling", "inclusion", "features", "rows", "verdict", "interval", "hosts"),
)


if __name__ == "__main__":
    fuzz(sys.argv, TARGETS, words=WORDS, room=ROOM)
