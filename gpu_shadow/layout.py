"""How requests lie in a segment: tensors by signature, and a row of the index for each request.

Pure. A *signature* is the names, types and shapes of a request's tensors. Requests of one shape are stacked:
tensor `0/x` is [n, *shape]. Those of rare shapes lie flat, one behind the other, with `offsets:0/x` [n + 1]
between them and `shapes:0/x` [n, dimensions]. Text (BYTES) is always flat: bytes, and the offsets of its
elements. What is read may have been written by anybody: every size is checked before it is used.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec
import numpy as np

from gpu_shadow.protocol import MOST_DIMENSIONS, MOST_FEATURES, TEXT, TYPES, Tensor, weight
from gpu_shadow.recorder import BESIDE, Recorded

STACKED = 4  # requests of one shape from which on they are stacked: below, a header costs more than offsets
NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Aware = Annotated[datetime, msgspec.Meta(tz=True)]
Arrays = Mapping[str, Tensor]


class Misfit(ValueError):
    """Parts that do not fit each other; the text says which."""


class Described(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One tensor of a signature; `shape` is each request's where they are stacked."""

    name: str
    datatype: str
    shape: tuple[Natural, ...] = ()


Kind = tuple[Described, ...]


class Signature(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """`n` requests that lie together."""

    form: Literal["stacked", "flat"]
    n: Natural
    tensors: tuple[Described, ...]


class Row(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One request: what is known of it, and which place of which signature its tensors have."""

    id: str
    order: Natural
    ts: Aware
    path: str
    inclusion: Annotated[float, msgspec.Meta(gt=0, le=1)]
    signature: Natural
    row: Natural
    slice: str = ""


# -- written ---------------------------------------------------------------------------------------


def packed(recorded: Sequence[Recorded]) -> tuple[list[Signature], dict[str, Tensor], list[Row]]:
    """Signatures, tensors by name, and index rows in the requests' order; raises `Misfit` for odd types."""
    kinds = [_kind(one.tensors) for one in recorded]
    common = Counter(kinds)
    groups: dict[tuple[Kind, tuple[int, ...]], list[int]] = defaultdict(list)
    for place, kind in enumerate(kinds):
        stacked = common[kind] >= STACKED and all(each.datatype != TEXT for each in kind)
        groups[(kind, ()) if stacked else _loose(kind)].append(place)
    signatures: list[Signature] = []
    tensors: dict[str, Tensor] = {}
    rows: dict[int, Row] = {}
    for number, ((kind, loose), members) in enumerate(groups.items()):
        signatures.append(Signature("flat" if loose else "stacked", len(members), kind))
        rows |= {place: _row(recorded[place], number, row) for row, place in enumerate(members)}
        for each in kind:
            values = [recorded[place].tensors[each.name] for place in members]
            tensors |= (_flat if loose else _stacked)(f"{number}/{each.name}", values, each.datatype)
    return signatures, tensors, [rows[place] for place in range(len(recorded))]


def _kind(tensors: Arrays) -> Kind:
    return tuple(Described(name, _datatype(name, one), one.shape) for name, one in sorted(tensors.items()))


def _loose(kind: Kind) -> tuple[Kind, tuple[int, ...]]:
    """The kind without its sizes, and how many dimensions each tensor has, from 1 on."""
    return tuple(Described(one.name, one.datatype) for one in kind), tuple(1 + len(one.shape) for one in kind)


def _datatype(name: str, one: Tensor) -> str:
    found = TEXT if one.dtype == object else NAMES.get(one.dtype.newbyteorder("<"))
    if found is None:
        raise Misfit(f"tensor {name} is of {one.dtype}, which no request of the protocol has")
    return found


def _stacked(key: str, values: Sequence[Tensor], datatype: str) -> dict[str, Tensor]:
    return {key: np.stack(values).astype(TYPES[datatype], copy=False)}


def _flat(key: str, values: Sequence[Tensor], datatype: str) -> dict[str, Tensor]:
    shapes = np.array([one.shape for one in values], "<i8").reshape(len(values), -1)
    if datatype == TEXT:
        pieces = [bytes(piece) for one in values for piece in one.flat]
        flat = np.frombuffer(b"".join(pieces), np.uint8)
        sizes = [len(piece) for piece in pieces]
    else:
        flat = np.concatenate([one.reshape(-1) for one in values]).astype(TYPES[datatype], copy=False)
        sizes = [one.size for one in values]
    offsets = np.cumsum([0, *sizes], dtype="<i8")
    return {key: flat, f"offsets:{key}": offsets, f"shapes:{key}": shapes}


def _row(one: Recorded, signature: int, row: int) -> Row:
    return Row(
        id=one.id,
        order=one.order,
        ts=one.at,
        path=one.path,
        inclusion=one.inclusion,
        signature=signature,
        row=row,
        slice=one.slice,
    )


# -- read ------------------------------------------------------------------------------------------


def unpacked(signatures: Sequence[Signature], arrays: Arrays, rows: Sequence[Row]) -> list[Recorded]:
    """The requests in the order of the rows, as views of the arrays; raises `Misfit`."""
    unread = dict(arrays)
    found: list[list[dict[str, Tensor]]] = []
    for number, one in enumerate(signatures):
        if one.n > len(rows) or not 0 < len(one.tensors) <= MOST_FEATURES:
            raise Misfit(f"signature {number}: {one.n} requests of {len(one.tensors)} tensors")
        of_each: list[dict[str, Tensor]] = [{} for _ in range(one.n)]
        for each in one.tensors:
            read = _unstacked if one.form == "stacked" else _unflattened
            for tensors, value in zip(
                of_each, read(f"{number}/{each.name}", one.n, each, unread), strict=True
            ):
                tensors[each.name] = value
        found.append(of_each)
    if unread:
        raise Misfit(f"tensor {min(unread)} belongs to no signature")
    places = {(row.signature, row.row) for row in rows}
    if len(places) != len(rows):
        raise Misfit("two rows of the index name one place")
    if places != {(number, row) for number, of_each in enumerate(found) for row in range(len(of_each))}:
        raise Misfit("rows of the index and places of the signatures do not match")
    return [_recorded(row, found[row.signature][row.row]) for row in rows]


def _taken(arrays: dict[str, Tensor], key: str, datatype: str) -> Tensor:
    one = arrays.pop(key, None)
    if one is None:
        raise Misfit(f"tensor {key} is missing, or named twice")
    wanted = np.dtype(TYPES.get(datatype, datatype))
    if one.dtype != wanted:
        raise Misfit(f"tensor {key} is of {one.dtype}; its signature says {datatype}")
    return one


def _unstacked(key: str, n: int, said: Described, arrays: dict[str, Tensor]) -> Iterator[Tensor]:
    if said.datatype not in TYPES:
        raise Misfit(f"tensor {key}: {said.datatype} cannot be stacked")
    one = _taken(arrays, key, said.datatype)
    if one.shape != (n, *said.shape):
        raise Misfit(f"tensor {key}: shape {list(one.shape)}; its signature says {[n, *said.shape]}")
    return (one[row : row + 1].reshape(said.shape) for row in range(n))


def _unflattened(key: str, n: int, said: Described, arrays: dict[str, Tensor]) -> Iterator[Tensor]:
    text = said.datatype == TEXT
    if not text and said.datatype not in TYPES:
        raise Misfit(f"tensor {key}: datatype {said.datatype} is not known")
    flat = _taken(arrays, key, "UINT8" if text else said.datatype)
    offsets, shapes = _taken(arrays, f"offsets:{key}", "INT64"), _taken(arrays, f"shapes:{key}", "INT64")
    if shapes.ndim != 2 or len(shapes) != n or shapes.shape[1] > MOST_DIMENSIONS or (shapes < 0).any():
        raise Misfit(f"tensor shapes:{key}: expected {n} rows of at most {MOST_DIMENSIONS} sizes")
    sizes = [math.prod(shape) for shape in shapes.tolist()]
    steps = sizes if not text else [1] * sum(sizes) if sum(sizes) < offsets.size else []
    sound = flat.ndim == offsets.ndim == 1 and len(offsets) == len(steps) + 1 and offsets[0] == 0
    if not sound or offsets[-1] != len(flat) or (np.diff(offsets) < 0).any():
        raise Misfit(f"tensor offsets:{key} does not divide the {flat.size} values of {key}")
    if text:
        return _texts(flat.tobytes(), offsets.tolist(), shapes.tolist())
    if np.diff(offsets).tolist() != sizes:
        raise Misfit(f"tensor shapes:{key} does not fit the offsets")
    bounds = zip(offsets[:-1].tolist(), offsets[1:].tolist(), shapes.tolist(), strict=True)
    return (flat[start:end].reshape(shape) for start, end, shape in bounds)


def _texts(flat: bytes, offsets: list[int], shapes: list[list[int]]) -> Iterator[Tensor]:
    at = 0
    for shape in shapes:
        one = np.empty(math.prod(shape), dtype=object)
        for place in range(one.size):
            one[place] = flat[offsets[at + place] : offsets[at + place + 1]]
        at += one.size
        yield one.reshape(shape)


def _recorded(row: Row, tensors: dict[str, Tensor]) -> Recorded:
    return Recorded(
        id=row.id,
        tensors=tensors,
        size=BESIDE + sum(weight(one) for one in tensors.values()),
        order=row.order,
        inclusion=row.inclusion,
        path=row.path,
        at=row.ts,
        slice=row.slice,
    )
