"""ONNX files, looked through before anything runs them: what one takes and answers, or why it is refused.

A small reader of protobuf, stricter than any other: a field that is not written down here, a single one that
stands twice, or a wire type that is not the field's refuses the file, so that no other reader of the same
bytes finds in them what was not found here. Thus there is no external data, no sparse tensor, no function,
no training graph. Pure: bytes in, a `Described` out.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpu_shadow.model import Refused

LARGEST = 2**31 - 1  # bytes: no protobuf is larger
MOST_NODES = 50_000
MOST_ELEMENTS = 2**28  # of a tensor whose shape is declared: 1 GiB of float32
MOST_VALUES = 2_000_000  # of fields: a file may be large, its structure not
DEEPEST = 24  # messages within messages: a graph in a node in a graph, a few times
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
NEVER = {"Loop": "may run without end"}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are refused
# Of each message the fields that may stand in it: their wire type or message, "*" if more than once.
MESSAGES: Mapping[str, Mapping[int, Any]] = {
    "Model": {
        1: VARINT,
        2: BYTES,
        3: BYTES,
        4: BYTES,
        5: VARINT,
        6: BYTES,
        7: "Graph",
        8: "Opset*",
        14: "Entry*",
    },
    "Opset": {1: BYTES, 2: VARINT},
    "Entry": {1: BYTES, 2: BYTES},
    "Graph": {1: "Node*", 2: BYTES, 5: "Tensor*", 10: BYTES, 11: "Value*", 12: "Value*", 13: "Value*"}
    | {14: "Annotation*", 16: "Entry*"},
    "Annotation": {1: BYTES, 2: "Entry*"},
    "Node": {1: "bytes*", 2: "bytes*", 3: BYTES, 4: BYTES, 5: "Attribute*", 6: BYTES, 7: BYTES, 9: "Entry*"},
    "Attribute": {
        1: BYTES,
        2: FIXED32,
        3: VARINT,
        4: BYTES,
        5: "Tensor",
        6: "Graph",
        7: "floats*",
        8: "ints*",
    }
    | {9: "bytes*", 10: "Tensor*", 11: "Graph*", 13: BYTES, 20: VARINT},
    "Tensor": {1: "ints*", 2: VARINT, 4: "floats*", 5: "ints*", 6: "bytes*", 7: "ints*", 8: BYTES, 9: BYTES}
    | {10: "doubles*", 11: "ints*", 12: BYTES, 14: VARINT, 16: "Entry*"},
    "Value": {1: BYTES, 2: "Type", 3: BYTES, 4: "Entry*"},
    "Type": {1: "TensorType", 6: BYTES},
    "TensorType": {1: VARINT, 2: "Shape"},
    "Shape": {1: "Dimension*"},
    "Dimension": {1: VARINT, 2: BYTES, 3: BYTES},
}
SCALARS = {"bytes": BYTES, "ints": VARINT, "floats": FIXED32, "doubles": FIXED64}
WHY = {
    ("Model", 25): "functions of its own; export it with its functions inlined",
    ("Model", 20): "a training graph; export it for inference",
    ("Graph", 15): "sparse tensors; make them dense",
    ("Attribute", 22): "sparse tensors; make them dense",
    ("Attribute", 23): "sparse tensors; make them dense",
    ("Tensor", 13): "data in other files; save it as one file",
    ("Type", 4): "a sequence for an input or output; of a classifier turn ZipMap off",
    ("Type", 5): "a map for an input or output; of a classifier turn ZipMap off",
}  # what stands in fields that are refused and that people meet
# Numbers by ONNX's own, as numpy calls them; text, complex numbers and what is narrower than a byte are none.
TYPES = {
    1: "f4",
    2: "u1",
    3: "i1",
    4: "u2",
    5: "i2",
    6: "i4",
    7: "i8",
    9: "?",
    10: "f2",
    11: "f8",
    12: "u4",
    13: "u8",
}

Dimension = int | str  # how many, or a name for any number


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A tensor that a model takes or gives: its name, numpy's type, and its shape."""

    name: str
    kind: str
    shape: tuple[Dimension, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vetted:
    """A file that may be run: what it takes, what it gives, and its metadata."""

    inputs: tuple[Described, ...]
    outputs: tuple[Described, ...]
    about: Mapping[str, str]


Message = Mapping[int, list[Any]]  # the values of each field


def vetted(body: bytes) -> Vetted:
    """What the file is; raises `Refused` for whatever is not known to be harmless."""
    if len(body) > LARGEST:
        raise Refused(f"{len(body)} bytes, and at most {LARGEST} are loaded")
    model = _message(memoryview(body), "Model", _Read())
    for opset in model.get(8, ()):
        _standard(_text(opset, 1), "it asks for operators")
    if not model.get(7) or not model.get(8):
        raise Refused("is no ONNX file: it has no graph, or names no operator set")
    (graph,) = model[7]
    _checked(graph, [0])
    initial = {_text(one, 8) for one in graph.get(5, ())}
    inputs = tuple(_described(one) for one in graph.get(11, ()) if _text(one, 1) not in initial)
    outputs = tuple(_described(one) for one in graph.get(12, ()))
    about = {_text(one, 1): _text(one, 2) for one in model.get(14, ())}
    return Vetted(inputs=inputs, outputs=outputs, about=about)


# -- what may be in it -----------------------------------------------------------------------------


def _checked(graph: Message, nodes: list[int]) -> None:
    """Every node and tensor of the graph, and of those within its nodes; `nodes` counts them all."""
    for tensor in graph.get(5, ()):
        _plain(tensor)
    for value in (*graph.get(11, ()), *graph.get(12, ()), *graph.get(13, ())):
        _bounded(value)
    for node in graph.get(1, ()):
        nodes[0] += 1
        if nodes[0] > MOST_NODES:
            raise Refused(f"it has more than {MOST_NODES} nodes")
        operator = _text(node, 4)
        _standard(_text(node, 7), f"node {operator[:40]} is")
        if operator in NEVER:
            raise Refused(f"it has a node {operator}, which {NEVER[operator]}")
        for attribute in node.get(5, ()):
            for tensor in (*attribute.get(5, ()), *attribute.get(10, ())):
                _plain(tensor)
            for within in (*attribute.get(6, ()), *attribute.get(11, ())):
                _checked(within, nodes)


def _standard(domain: str, what: str) -> None:
    if domain not in DOMAINS:
        raise Refused(f'{what} of the domain "{domain[:40]}"; only ONNX\'s own are run: ai.onnx, ai.onnx.ml')


def _plain(tensor: Message) -> None:
    """Its numbers are in the file, and no more of them than its bytes can hold."""
    name = _text(tensor, 8)[:40]
    if tensor.get(14, [0]) != [0]:
        raise Refused(f"tensor {name}: its data are in another file; save it as one file")
    sizes = [size for values in tensor.get(1, ()) for size in _numbers(values)]
    held = sum(
        len(part) if isinstance(part, memoryview) else 8
        for n in (4, 5, 6, 7, 9, 10, 11)
        for part in tensor.get(n, ())
    )
    if any(not 0 <= size <= MOST_ELEMENTS for size in sizes) or math.prod(sizes) > 4 * held + (
        0 in sizes
    ):  # 4: int2
        raise Refused(f"tensor {name}: shape {sizes[:8]} is more than its {held} bytes hold")


def _bounded(value: Message) -> None:
    """No shape that is declared is absurd."""
    shape = [size for size in _shape(value) if isinstance(size, int)]
    if any(not 0 <= size <= MOST_ELEMENTS for size in shape) or math.prod(shape) > MOST_ELEMENTS:
        raise Refused(f"{_text(value, 1)[:40]}: shape {shape[:8]} is larger than {MOST_ELEMENTS} numbers")


def _described(value: Message) -> Described:
    name = _text(value, 1)
    (kind,) = _tensor_type(value).get(1, [0])
    if kind not in TYPES:
        raise Refused(
            f"{name[:40]}: its numbers are of ONNX's type {kind}; expected whole or floating-point ones"
        )
    return Described(name=name, kind=TYPES[kind], shape=_shape(value))


def _tensor_type(value: Message) -> Message:
    said: list[Message] = value.get(2, [])
    found: list[Message] = said[0].get(1, []) if said else []
    return found[0] if found else {}


def _shape(value: Message) -> tuple[Dimension, ...]:
    shapes = _tensor_type(value).get(2, [])
    dimensions = shapes[0].get(1, ()) if shapes else ()
    if any(1 in one and 2 in one for one in dimensions):
        raise Refused(f"{_text(value, 1)[:40]}: a size in its shape is a number and a name")
    return tuple(one[1][0] if 1 in one else _text(one, 2) for one in dimensions)


def _text(message: Message, field: int) -> str:
    values = message.get(field)
    try:
        return str(bytes(values[0]), "utf-8") if values else ""
    except UnicodeDecodeError:
        raise Refused("is no ONNX file: a name in it is no text") from None


# -- protobuf --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Read:
    """What was read of a file."""

    values: int = 0
    deep: int = 0

    def one(self) -> None:
        """A value more."""
        self.values += 1
        if self.values > MOST_VALUES or self.deep > DEEPEST:
            raise Refused(f"it has more than {MOST_VALUES} fields, or messages more than {DEEPEST} deep")


def _message(view: memoryview, kind: str, read: _Read) -> Message:
    """The fields of a message of this kind, each with its values."""
    known, at = MESSAGES[kind], 0
    found: dict[int, list[Any]] = {}
    while at < len(view):
        read.one()
        tag, at = _varint(view, at, most=5)
        number, wire = tag >> 3, tag & 7
        field = known.get(number)
        if field is None:
            why = WHY.get((kind, number), f"a field {number} in its {kind} that is not known here")
            raise Refused(
                f"it has {why}" if (kind, number) in WHY else f"is no ONNX file that is run here: {why}"
            )
        value, at = _value(view, at, wire)
        many = isinstance(field, str) and field.endswith("*")
        if not many and number in found:
            raise Refused(f"is no ONNX file: field {number} of a {kind} stands twice")
        found.setdefault(number, []).append(_meant(value, wire, field, kind, read))
    return found


def _meant(value: Any, wire: int, field: Any, kind: str, read: _Read) -> Any:
    """The value as the field is meant; numbers that may stand many times may stand in one packed value."""
    name = field.removesuffix("*") if isinstance(field, str) else field
    if name in MESSAGES and wire == BYTES:
        read.deep += 1
        found = _message(value, name, read)
        read.deep -= 1
        return found
    scalar = SCALARS.get(name, name)
    packed = name in {"ints", "floats", "doubles"} and wire == BYTES
    if wire != scalar and not packed:
        raise Refused(f"is no ONNX file: a value in its {kind} is of another wire type")
    return value


def _value(view: memoryview, at: int, wire: int) -> tuple[int | memoryview, int]:
    """The value that begins there, and where it ends."""
    if wire == VARINT:
        return _varint(view, at, most=10)
    if wire == BYTES:
        size, at = _varint(view, at, most=5)
    else:
        size = {FIXED64: 8, FIXED32: 4}.get(wire, len(view) + 1)
    if at + size > len(view):
        raise Refused("is no ONNX file: it ends within a value, or has one of an unknown wire type")
    return view[at : at + size], at + size


def _varint(view: memoryview, at: int, *, most: int) -> tuple[int, int]:
    """The number that begins there, of at most so many bytes, and where it ends; signed as 64 bits are."""
    found = 0
    for place, byte in enumerate(view[at : at + most]):
        found |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if found >= 2**64 or (most == 5 and found >= 2**32):
                break
            return found - 2**64 if found >= 2**63 else found, at + place + 1
    raise Refused("is no ONNX file: a number in it has no end")


def _numbers(values: int | memoryview) -> Iterator[int]:
    """One number, or those that are packed."""
    if isinstance(values, int):
        yield values
        return
    at = 0
    while at < len(values):
        number, at = _varint(values, at, most=10)
        yield number
