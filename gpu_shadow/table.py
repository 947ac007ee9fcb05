"""Rows of features from a file: safetensors, npz, CSV or JSON lines. Nothing in a file is run.

Every size is checked before anything is allocated by it. Pickles are refused, also inside an npz.

**Names.** A column of a CSV and a key of a JSON line is a feature. A tensor of one column is a feature of its
name; one of d columns is `name[0]` to `name[d-1]`, here as in requests that are recorded.
"""

import csv
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gpu_shadow.sketch import MOST_FEATURES, Column, code

LARGEST = 2 * 2**30  # bytes of a file
MOST_VALUES = 50_000_000  # rows x features: 400 MB as float64; a baseline needs a sample, not everything
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
SUFFIXES_OF_PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin"})
INSTEAD = "save its features as safetensors, npz (arrays of numbers), CSV or JSON lines"
EXAMPLE = '{"age": 41, "country": "nz"}'
OTHERS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # what some programs write between the columns
PARTED = "part its columns by commas, and write decimals with a point"
EMPTY = frozenset({"", "na", "nan", "null", "none", "n/a"})  # of a CSV, in whatever case


class BadTable(ValueError):
    """A file that no features can be read from; the text says which, why, and what to do."""


def read(path: Path) -> Mapping[str, Column]:
    """The columns of the file by name, all of one length (n,); raises `BadTable`."""
    if not path.is_file():
        raise BadTable(
            f"{path}: {'is not a file' if path.exists() else 'there is no such file'}; give a file's path"
        )
    if path.stat().st_size > LARGEST:
        raise BadTable(f"{path}: is larger than {LARGEST} bytes; give a sample of its rows")
    with path.open("rb") as file:
        beginning = file.read(4)
    if path.suffix in SUFFIXES_OF_PICKLES or beginning.startswith(PICKLES):
        raise BadTable(f"{path}: a pickle may run any code when it is loaded; {INSTEAD}")
    how = READERS.get(path.suffix)
    if how is None:
        known = ", ".join(READERS)
        raise BadTable(f"{path}: its name ends in none of {known}; {INSTEAD}, and name it so")
    try:
        found = how(path)
    except BadTable as trouble:
        raise BadTable(f"{path}: {trouble}") from None
    except (OSError, ValueError, KeyError, TypeError, csv.Error, zipfile.BadZipFile, MemoryError) as error:
        raise BadTable(f"{path}: cannot be read as {path.suffix[1:]} ({error}); {INSTEAD}") from None
    if not found or not len(next(iter(found.values()))):
        raise BadTable(f"{path}: holds no row; give the rows that the model was trained on, or a sample")
    return found


def columns_of(tensors: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Column]:
    """The columns of some tensors whose first dimension is the rows; raises `BadTable` if they differ."""
    rows = {len(each) if each.ndim else -1 for each in tensors.values()}
    if len(rows) > 1 or -1 in rows:
        shapes = ", ".join(f"{name} {list(each.shape)}" for name, each in list(tensors.items())[:5])
        raise BadTable(f"tensors have to have one row a request each, and as many; there are {shapes}")
    wide = sum(each[:1].size for each in tensors.values())
    _fits(wide, next(iter(rows), 0))
    found: dict[str, Column] = {}
    for name, each in tensors.items():
        if each.dtype.kind not in "biuf":
            raise BadTable(f"{name}: is of {each.dtype}, and numbers are expected")
        flat = each.reshape(len(each), -1) if each.size else each.reshape(len(each), 0)
        one = flat.shape[1] == 1
        found |= {name if one else f"{name}[{i}]": flat[:, i] for i in range(flat.shape[1])}
    return found


def _fits(features: int, rows: int) -> None:
    if features > MOST_FEATURES:
        raise BadTable(f"{features} features, and at most {MOST_FEATURES} are watched; leave some out")
    if features * rows > MOST_VALUES:
        raise BadTable(f"{rows} rows of {features} features; give a sample of at most {MOST_VALUES} values")


# -- kinds of files --------------------------------------------------------------------------------


def _safetensors(path: Path) -> dict[str, Column]:
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError:
        raise BadTable("needs safetensors, which is not installed: pip install 'serin[gpu]'") from None
    try:
        with safe_open(path, framework="numpy") as tensors:
            names = list(tensors.keys())
            shapes = [tensors.get_slice(name).get_shape() for name in names]
            wide = sum(math.prod(each[1:]) for each in shapes)
            _fits(wide, max((each[0] for each in shapes if each), default=0))
            return columns_of({name: tensors.get_tensor(name) for name in names})
    except SafetensorError as error:
        raise BadTable(f"is no safetensors file ({error}); {INSTEAD}") from None


def _npz(path: Path) -> dict[str, Column]:
    """Its arrays, once their headers are known to say what their sizes are."""
    found = {}
    with zipfile.ZipFile(path) as parts:
        if sum(part.file_size for part in parts.infolist()) > 8 * MOST_VALUES:
            raise BadTable(f"its arrays are larger than {8 * MOST_VALUES} bytes; give a sample of the rows")
        for part in parts.infolist():
            body = parts.read(part)
            found[part.filename.removesuffix(".npy")] = _npy(part.filename, body)
    return columns_of(found)


def _npy(name: str, body: bytes) -> np.ndarray[Any, Any]:
    file = BytesIO(body)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise BadTable(f"{name}: is of npy version {version}; write it with numpy.savez")
    shape, fortran, kind = read_header(file)
    if kind.hasobject:
        raise BadTable(f"{name}: holds Python objects, that is a pickle; {INSTEAD}")
    count = math.prod(shape)
    if count * kind.itemsize != len(body) - file.tell():
        raise BadTable(f"{name}: shape {list(shape)} does not fit its {len(body) - file.tell()} bytes")
    return np.frombuffer(body, kind, count, file.tell()).reshape(shape, order="F" if fortran else "C")


def _csv(path: Path) -> dict[str, Column]:
    """A column is numbers if all of it can be read so, else text."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, strict=True)
        names = next(lines, [])
        if len(names) == 1 and (other := next((each for each in OTHERS if each in names[0]), None)):
            raise BadTable(f"its first line has {OTHERS[other]} and no comma; {PARTED}")
        if len(set(names)) != len(names):
            raise BadTable("a name stands twice in its first line, which has to name the columns")
        rows = list(_checked(lines, len(names)))
    if not rows:
        return {}
    return {name: _typed(list(column)) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _checked(lines: Iterator[list[str]], wide: int) -> Iterator[list[str]]:
    for number, line in enumerate((line for line in lines if line), start=1):
        _fits(wide, number)
        if len(line) != wide:
            values = f"{len(line)} value{'' if len(line) == 1 else 's'}"
            raise BadTable(f"row {number}: {values} for {wide} column{'' if wide == 1 else 's'}")
        yield line


def _typed(texts: list[str]) -> Column:
    values = [None if text.strip().lower() in EMPTY else text.strip() for text in texts]
    try:
        return np.array([np.nan if value is None else float(value) for value in values])
    except ValueError:
        return np.array(values, dtype=object)


def _jsonl(path: Path) -> dict[str, Column]:
    """A key that a line has not is missing there; a column with any text in it is a category."""
    decode = msgspec.json.Decoder(dict[str, float | bool | str | None]).decode
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                rows.append(decode(line))
            except (msgspec.MsgspecError, RecursionError) as error:
                raise BadTable(
                    f"line {number}: is no flat object of numbers and texts ({error}); write {EXAMPLE}"
                ) from None
            names |= dict.fromkeys(rows[-1])
            _fits(len(names), len(rows))
    return {name: _mixed([row.get(name) for row in rows]) for name in names}


def _mixed(values: list[Any]) -> Column:
    if any(isinstance(value, str) for value in values):
        texts = [code(value) if isinstance(value, float) else value for value in values]
        return np.array([None if value is None else str(value) for value in texts], dtype=object)
    return np.array([np.nan if value is None else float(value) for value in values])


READERS: Mapping[str, Callable[[Path], dict[str, Column]]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}
