"""The Open Inference Protocol v2, read: the input tensors of one request, as JSON or with binary tensors.

Pure, and made for bytes that anybody may have sent: every size is checked before anything is allocated
by it, nothing is decompressed, and whatever is wrong is one exception with one word for the counters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Tensor = npt.NDArray[Any]

# Little-endian, as the protocol's binary tensors are. BYTES is left out on purpose: text is recorded by
# nobody who has not asked for it. FP16 and BF16 have no JSON form.
TYPES: Mapping[str, str] = {
    "BOOL": "?",
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
LENGTH = "Inference-Header-Content-Length"  # bytes of JSON before the binary tensors
MOST_DIMENSIONS = 8
MOST_TENSORS = 64
LONGEST_NAME = 200  # characters


class Unreadable(ValueError):
    """A body that is no request of the protocol; `reason` is a word for the counters."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw(b"")
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: the caller's id ("" if none) and its tensors by name, shaped as it says."""

    id: str
    tensors: Mapping[str, Tensor]


_REQUEST = msgspec.json.Decoder(_Request)


def request(body: bytes, *, json_bytes: int | None = None) -> Request:
    """The request that `body` holds; raises `Unreadable`.

    `json_bytes` is what the header `Inference-Header-Content-Length` says, None without one. Binary
    tensors are views of `body`: nothing is copied.
    """
    if json_bytes is not None and not 0 < json_bytes <= len(body):
        raise Unreadable("size", f"{LENGTH} is {json_bytes}; expected 1 to {len(body)}, the body's length")
    try:
        found = _REQUEST.decode(body if json_bytes is None else body[:json_bytes])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Unreadable("malformed", f"no request of the protocol: {error}") from None
    if not 0 < len(found.inputs) <= MOST_TENSORS:
        raise Unreadable("malformed", f"{len(found.inputs)} inputs; expected 1 to {MOST_TENSORS}")
    if any(len(one.name) > LONGEST_NAME for one in found.inputs):
        raise Unreadable("malformed", f"a tensor's name is longer than {LONGEST_NAME} characters")
    tensors, at = {}, len(body) if json_bytes is None else json_bytes
    for one in found.inputs:
        tensors[one.name], at = _tensor(one, body, at)
    if at != len(body) or len(tensors) != len(found.inputs):
        raise Unreadable("size", f"{len(body) - at} bytes are left over, or a name stands twice")
    return Request(found.id, tensors)


def _tensor(given: _Input, body: bytes, at: int) -> tuple[Tensor, int]:
    """The tensor, and where the next binary one begins."""
    kind = TYPES.get(given.datatype)
    if kind is None:
        raise Unreadable("datatype", f"{given.name}: datatype {given.datatype[:20]} is not recorded")
    count = _elements(given, most=len(body))
    size = given.parameters.get("binary_data_size")
    if size is None:
        return _from_json(given, np.dtype(kind), count), at
    wanted = count * np.dtype(kind).itemsize
    if not isinstance(size, int) or size != wanted or at + wanted > len(body):
        raise Unreadable("size", f"{given.name}: {size} bytes; its shape takes {wanted} of {len(body) - at}")
    return np.frombuffer(body, kind, count, at).reshape(given.shape), at + wanted


def _elements(given: _Input, *, most: int) -> int:
    """How many elements the shape has: at least 1, and not more than `most` bytes can hold."""
    shape = given.shape
    sound = 0 < len(shape) <= MOST_DIMENSIONS and all(0 < size <= most for size in shape)
    count = math.prod(shape) if sound else 0
    if not 0 < count <= most:
        raise Unreadable("shape", f"{given.name}: shape {shape[: MOST_DIMENSIONS + 1]} fits no such body")
    return count


def _from_json(given: _Input, kind: np.dtype[Any], count: int) -> Tensor:
    """The numbers in `data`, flat or nested as the shape says."""
    if given.datatype == "FP16":
        raise Unreadable("datatype", f"{given.name}: FP16 has no JSON form")
    values = _numbers(given, {"b": bool, "i": int, "u": int}.get(kind.kind, float))
    try:
        flat = np.array(values, dtype=kind).reshape(-1)
    except (ValueError, OverflowError) as error:
        raise Unreadable("malformed", f"{given.name}: {error}") from None
    if len(flat) != count:
        raise Unreadable("size", f"{given.name}: {len(flat)} numbers for shape {given.shape}")
    return flat.reshape(given.shape)


def _numbers(given: _Input, scalar: Any) -> Any:
    nested: Any = scalar
    for _ in given.shape:
        nested = list[nested]
    for wanted in (list[scalar], nested):
        try:
            return msgspec.json.decode(given.data, type=wanted)
        except (msgspec.MsgspecError, RecursionError) as error:
            trouble = error
    raise Unreadable("malformed", f"{given.name}: data: {trouble}")
