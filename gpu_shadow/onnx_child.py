"""The process in which one ONNX model runs: `python -m gpu_shadow.onnx_child THREADS MIB`, by its parent.

The model's bytes come first, then batches; each answer goes back before the next batch. It can open no file
and no connection, write nothing, and take no more memory than it was told; if onnxruntime aborts, this
process ends and no other. A frame is two little-endian numbers of 8 bytes, its length and that of its JSON,
and a body of the Open Inference Protocol v2.
"""

import resource
import struct
import sys
from typing import IO, Any

import numpy as np

from gpu_shadow.protocol import encoded, request

BASE = 2**29  # bytes of addresses for Python, numpy and onnxruntime without a model; 200 MB were measured
NO_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "out of memory")
FRAME = struct.Struct("<QQ")


def send(to: IO[bytes], body: bytes, head: int) -> None:
    """One frame."""
    to.write(FRAME.pack(len(body), head) + body)
    to.flush()


def receive(source: IO[bytes]) -> tuple[bytes, int]:
    """One frame: the body and the length of its JSON; raises `EOFError` where there is none any more."""
    start = source.read(FRAME.size)
    if len(start) < FRAME.size:
        raise EOFError
    size, head = FRAME.unpack(start)
    body = source.read(size)
    if len(body) < size:
        raise EOFError
    return body, head


def fence(mib: int) -> None:
    """From now on: no file, no connection, nothing written, a bound on memory."""
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_AS, BASE + mib * 2**20),
        (resource.RLIMIT_NOFILE, 3),
    ):
        resource.setrlimit(what, (most, most))


def session(body: bytes, threads: int) -> Any:
    """The model, ready to run. Nothing is computed while it is loaded: constants are not folded."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_profiling = False
    options.enable_cpu_mem_arena = False  # memory goes back after each batch, so that the bound is one
    options.log_severity_level = 4
    return ort.InferenceSession(
        body, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )


def answered(model: Any, body: bytes, head: int) -> tuple[bytes, int]:
    """The frame that answers a batch: the outputs whose names it says, or what went wrong."""
    try:
        asked = request(body, json_bytes=head)
        given = {name: np.array(one) for name, one in asked.tensors.items()}
        try:
            (found,) = model.run([asked.id], given)
        except Exception as error:  # noqa: BLE001 - of these rows, and perhaps not of others
            return encoded({}, called="outputs", error=told(error), rows=True)
        return encoded({asked.id: np.ascontiguousarray(found)}, called="outputs")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        return encoded({}, called="outputs", error=told(error))


def told(error: Exception) -> str:
    """What went wrong, "memory" if it was too little."""
    said = str(error)
    lacking = isinstance(error, MemoryError) or any(words in said for words in NO_MEMORY)
    return "memory" if lacking else f"{type(error).__name__}: {said[:300]}"


def main(threads: int, mib: int) -> None:
    """Answers until nobody asks."""
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    asks, tells = sys.stdin.buffer, sys.stdout.buffer
    body, _ = receive(asks)
    fence(mib)
    try:
        model = session(body, threads)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent refuses the model with it
        send(tells, *encoded({}, called="outputs", error=told(error)))
        return
    del body
    send(tells, *encoded({}, called="outputs"))
    while True:
        try:
            asked = receive(asks)
        except EOFError:
            return
        send(tells, *answered(model, *asked))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
