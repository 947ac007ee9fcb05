"""The tensors of one request or answer: the Open Inference Protocol v2, as JSON or binary, and v1.

Pure, and made for bytes that anybody may have sent: every size is checked before anything is allocated
by it, nothing is decompressed, and whatever is wrong is one exception with one word for the counters.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Tensor = npt.NDArray[Any]

# Little-endian, as the protocol's binary tensors are. BYTES is left out on purpose: text is read for
# nobody who has not asked for it (`text=True`). FP16 and BF16 have no JSON form.
TYPES: Mapping[str, str] = {
    "BOOL": "?",
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
TEXT = "BYTES"
LENGTH = "Inference-Header-Content-Length"  # bytes of JSON before the binary tensors
EACH = 33  # bytes that Python takes for a text beside its own
MOST_DIMENSIONS = 8
MOST_TENSORS = 64
MOST_FEATURES = 1_024  # that an instance of v1 may name, each a tensor
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
    inputs: list[_Input] = []
    instances: msgspec.Raw = msgspec.Raw(b"")  # of v1
    id: str = ""


class _Response(msgspec.Struct):
    outputs: list[_Input] = []
    predictions: msgspec.Raw = msgspec.Raw(b"")  # of v1


@dataclass(frozen=True, slots=True)
class Request:
    """One request: the caller's id ("" if none) and its tensors by name, shaped as it says."""

    id: str
    tensors: Mapping[str, Tensor]


_REQUEST = msgspec.json.Decoder(_Request)
_RESPONSE = msgspec.json.Decoder(_Response)
_NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}
_Value = bool | float | None
_NAMED = msgspec.json.Decoder(list[dict[str, _Value | list[_Value]]])
_WORDED = msgspec.json.Decoder(list[dict[str, _Value | str | list[_Value | str]]])
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)$")  # msgspec says where, counted from one
_BRACKETS = re.compile(rb"[\s\[]*")
_BLANK = b" \t\r\n"


def request(body: bytes, *, json_bytes: int | None = None, text: bool = False) -> Request:
    """The request that `body` holds; raises `Unreadable`.

    `json_bytes` is what the header `Inference-Header-Content-Length` says, None without one: whoever passes
    requests on may lose it (KServe's logger does), and then binary tensors are what stands behind the JSON.
    They are views of `body`: nothing is copied. Tensors of BYTES are arrays of `bytes`, and refused without
    `text`.

    V1's `instances` are one tensor of this name, or one for each feature if they are objects; all of FP64 or,
    with `text`, of BYTES, since v1 has no types, and null, a missing number, is NaN.
    """
    if json_bytes is not None and not 0 < json_bytes <= len(body):
        raise Unreadable("size", f"{LENGTH} is {json_bytes}; expected 1 to {len(body)}, the body's length")
    try:
        found, end = _read(body, json_bytes)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Unreadable("malformed", f"no request of the protocol: {error}") from None
    if bytes(found.instances) and not found.inputs:
        tensors, at = _instances(bytes(found.instances), words=text), end
    else:
        tensors, at = _tensors(found.inputs, body, end, text=text)
    if at != len(body):
        raise Unreadable("size", f"{len(body) - at} bytes are left over")
    return Request(found.id, tensors)


def length(said: str | None) -> int | None:
    """What the header `Inference-Header-Content-Length` says; None without one, 0 if it is no number."""
    if said is None:
        return None
    return int(said) if said.isascii() and said.isdigit() and len(said) < 12 else 0


def response(body: bytes, *, json_bytes: int | None = None) -> Mapping[str, Tensor]:
    """The outputs of an answer by name, v1's as `predictions`; raises `Unreadable`. Text is left out."""
    if json_bytes is not None and not 0 < json_bytes <= len(body):
        raise Unreadable("size", f"{LENGTH} is {json_bytes}; expected 1 to {len(body)}, the body's length")
    try:
        found = _RESPONSE.decode(body if json_bytes is None else body[:json_bytes])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Unreadable("malformed", f"no answer of the protocol: {error}") from None
    if bytes(found.predictions) and not found.outputs:
        tensors = _instances(bytes(found.predictions))
        return {"predictions" if name == "instances" else name: one for name, one in tensors.items()}
    at, tensors = len(body) if json_bytes is None else json_bytes, {}
    for one in found.outputs[: MOST_TENSORS + 1]:
        if one.datatype in TYPES:
            tensors[one.name], at = _tensor(one, body, at)
        else:
            size = one.parameters.get("binary_data_size", 0)
            at += size if isinstance(size, int) and 0 <= size <= len(body) else len(body) + 1
    if not 0 < len(found.outputs) <= MOST_TENSORS or at != len(body):
        raise Unreadable("size", f"{len(found.outputs)} outputs, and {len(body) - at} bytes are left over")
    return tensors


def encoded(
    tensors: Mapping[str, Tensor], *, called: str = "inputs", binary: bool = True, **more: Any
) -> tuple[bytes, int]:
    """A body of v2 with these tensors as its inputs (or outputs), and how many of its bytes are JSON.

    `more` stands beside them in the JSON. Raises `ValueError` for a type that the protocol has no name for,
    and in JSON for what it cannot write (`is_json`).
    """
    listed: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, one in tensors.items():
        kind = TEXT if one.dtype == object else _NAMES.get(one.dtype.newbyteorder("<"))
        if kind is None or not (binary or is_json(one)):
            raise ValueError(f"{name}: {one.dtype} or what is in it cannot be written")
        said = {"name": name, "shape": list(one.shape), "datatype": kind}
        if binary:
            parts.append(_counted(one) if kind == TEXT else np.asarray(one, TYPES[kind]).tobytes())
            listed.append(said | {"parameters": {"binary_data_size": len(parts[-1])}})
        else:
            listed.append(said | {"data": _listed(one.reshape(-1))})
    head = msgspec.json.encode({called: listed, **more})
    return b"".join((head, *parts)), len(head)


def is_json(tensor: Tensor) -> bool:
    """Whether JSON can write it: finite numbers of a type that has a JSON form, or text that is UTF-8."""
    if tensor.dtype != object:
        return tensor.dtype != np.float16 and bool(np.isfinite(tensor).all())
    try:
        _listed(tensor)
    except UnicodeDecodeError:
        return False
    return True


def _listed(tensor: Tensor) -> Any:
    """Its numbers, or texts, in lists as deep as it has dimensions."""
    return (_EACH_TEXT(tensor) if tensor.dtype == object else tensor).tolist()


def _counted(texts: Tensor) -> bytes:
    """Texts as a binary tensor has them: each behind its length of 4 bytes."""
    return b"".join(len(one).to_bytes(4, "little") + one for one in texts.flat)


def instances(tensors: Mapping[str, Tensor]) -> bytes:
    """A body of v1: the rows of the one tensor, or an object each with the features of all.

    Raises `ValueError` where these do not have as many rows, or are nothing that JSON writes (`is_json`).
    """
    if len({one.shape[0] for one in tensors.values()}) != 1 or not all(map(is_json, tensors.values())):
        raise ValueError("its tensors have other numbers of rows, or what JSON cannot write")
    if len(tensors) == 1:
        return msgspec.json.encode({"instances": _listed(next(iter(tensors.values())))})
    columns = [_listed(one) for one in tensors.values()]
    rows = [dict(zip(tensors, row, strict=True)) for row in zip(*columns, strict=True)]
    return msgspec.json.encode({"instances": rows})


def _read(body: bytes, json_bytes: int | None) -> tuple[_Request, int]:
    """The JSON, and where it ends."""
    if json_bytes is not None:
        return _REQUEST.decode(body[:json_bytes]), json_bytes
    try:
        found = _REQUEST.decode(body)
        binary = any("binary_data_size" in one.parameters for one in found.inputs)
        # a tensor's bytes may all be blanks to JSON
        return found, len(body.rstrip(_BLANK)) if binary else len(body)
    except msgspec.DecodeError as error:
        behind = _TRAILING.search(str(error))
        if behind is None:
            raise
        head = body[: int(behind[1]) - 1].rstrip(_BLANK)
        return _REQUEST.decode(head), len(head)


def _tensors(inputs: list[_Input], body: bytes, at: int, *, text: bool) -> tuple[dict[str, Tensor], int]:
    """The tensors of v2, and where the last binary one ends."""
    if not 0 < len(inputs) <= MOST_TENSORS:
        raise Unreadable("malformed", f"{len(inputs)} inputs; expected 1 to {MOST_TENSORS}")
    _named([one.name for one in inputs])
    tensors = {}
    for one in inputs:
        read = _text if text and one.datatype == TEXT else _tensor
        tensors[one.name], at = read(one, body, at)
    if len(tensors) != len(inputs):
        raise Unreadable("size", "a tensor's name stands twice")
    return tensors, at


def _named(names: Iterable[str]) -> None:
    if any(len(name) > LONGEST_NAME for name in names):
        raise Unreadable("malformed", f"a tensor's name is longer than {LONGEST_NAME} characters")


def _instances(text: bytes, *, words: bool = False) -> dict[str, Tensor]:
    """The tensors of v1, the instances along the first axis; with `words` those of text as well."""
    brackets = _BRACKETS.match(text)
    opened = brackets[0] if brackets else b""
    depth = opened.count(b"[")
    try:
        if depth == 1 and text[len(opened) : len(opened) + 1] == b"{":
            return _features((_WORDED if words else _NAMED).decode(text), words=words)
        if not 0 < depth <= MOST_DIMENSIONS:
            raise Unreadable("shape", f"instances have {depth} dimensions; expected 1 to {MOST_DIMENSIONS}")
        worded = words and text[len(opened) : len(opened) + 1] == b'"'
        found = _column(_nested(str if worded else float, depth).decode(text), words=words)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("malformed", f"instances: {error}") from None
    if not found.size:
        raise Unreadable("shape", "instances hold no number")
    return {"instances": found}


def _column(values: list[Any], *, words: bool) -> Tensor:
    """Numbers as FP64, or texts each as `bytes`; raises `ValueError` where they are some of both."""
    found = np.array(values, dtype=object) if words else np.empty(0)
    texts = sum(isinstance(one, str) for one in found.flat)
    if not texts:
        return np.array(values, dtype="<f8")
    if texts != found.size:
        raise ValueError("text beside numbers, or rows of other lengths")
    return _EACH_BYTES(found)


def _features(rows: list[dict[str, Any]], *, words: bool) -> dict[str, Tensor]:
    """One tensor for each feature that the instances name; raises `ValueError` where they do not agree."""
    names = rows[0].keys()
    if not 0 < len(names) <= MOST_FEATURES or any(row.keys() != names for row in rows):
        raise Unreadable("malformed", f"instances name other features, none, or more than {MOST_FEATURES}")
    _named(names)
    found = {name: _column([row[name] for row in rows], words=words) for name in names}
    if not all(one.size for one in found.values()):
        raise Unreadable("shape", "a feature holds no number")
    return found


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


def _text(given: _Input, body: bytes, at: int) -> tuple[Tensor, int]:
    """The texts, each as `bytes`, and where the next binary tensor begins."""
    count = _elements(given, most=len(body))
    size = given.parameters.get("binary_data_size")
    if size is None:
        pieces, end = _strings(given), at
    else:
        end = at + size if isinstance(size, int) and 4 * count <= size <= len(body) - at else -1
        pieces = _cut(body, at, end, count)
    if len(pieces) != count:
        raise Unreadable("size", f"{given.name}: {len(pieces)} texts for shape {given.shape}")
    found = np.empty(count, dtype=object)
    found[:] = pieces
    return found.reshape(given.shape), end


def _strings(given: _Input) -> list[bytes]:
    values = _numbers(given, str)
    while values and isinstance(values[0], list):
        values = [each for some in values for each in some]
    return [_bytes(each) for each in values]


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")


_EACH_BYTES: Callable[[Tensor], Tensor] = np.vectorize(_bytes, otypes=[object])
_EACH_TEXT: Callable[[Tensor], Tensor] = np.vectorize(bytes.decode, otypes=[object])


def _cut(body: bytes, at: int, end: int, most: int) -> list[bytes]:
    """Texts, each behind its length of 4 bytes: as many as there are, up to `most` + 1."""
    pieces: list[bytes] = []
    while at < end and len(pieces) <= most:
        behind = at + 4 + int.from_bytes(body[at : at + 4], "little")
        if behind > end:
            return []
        pieces.append(body[at + 4 : behind])
        at = behind
    return pieces


def weight(tensor: Tensor) -> int:
    """About how many bytes of memory it takes; of text each element is an object."""
    text = sum(len(each) + EACH for each in tensor.flat) if tensor.dtype == object else 0
    return tensor.nbytes + text


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
        with np.errstate(over="ignore"):  # what is beyond its type is infinite, and nothing to log
            flat = np.array(values, dtype=kind).reshape(-1)
    except (ValueError, OverflowError) as error:
        raise Unreadable("malformed", f"{given.name}: {error}") from None
    if len(flat) != count:
        raise Unreadable("size", f"{given.name}: {len(flat)} numbers for shape {given.shape}")
    return flat.reshape(given.shape)


def _numbers(given: _Input, scalar: type) -> Any:
    brackets = _BRACKETS.match(given.data)
    depth = brackets[0].count(b"[") if brackets else 0
    try:
        return _nested(scalar, len(given.shape) if depth > 1 else 1).decode(given.data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Unreadable("malformed", f"{given.name}: data: {error}") from None


@cache
def _nested(scalar: type, depth: int) -> msgspec.json.Decoder[Any]:
    """For lists of lists, so deep, of such numbers."""
    nested: Any = scalar
    for _ in range(depth):
        nested = list[nested]
    return msgspec.json.Decoder(nested)
