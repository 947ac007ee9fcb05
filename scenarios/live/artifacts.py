"""The lab's models as files: digits and sentences and what may become of them, as safetensors with a digest.

Written byte by byte, so that the lab needs no library for it and the worker's own is put to the test: eight
bytes of length, a JSON header, the tensors.
"""

import json
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from scenarios.live import digits, sentences

ABOUT = {"architecture": "mlp", "activation": "relu"}
KINDS = {digits.REQUANTISED: "BF16", digits.OVERFLOWING: "F16"}


def write(folder: Path, names: Collection[str] = digits.VARIANTS) -> Mapping[str, str]:
    """Every one of these models is in the folder; the reference of each, by its name in a story."""
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _written(folder / f"{name}.safetensors", contents(name)) for name in names}


def contents(name: str) -> bytes:
    """The file of the variant, in the type in which it would be deployed."""
    if name in sentences.VARIANTS:
        return _safetensors(*sentences.variant(name))
    model = digits.variant(digits.load(), name)
    (w1, b1), (w2, b2) = model.hidden, model.output
    layers = {"0.weight": w1.T, "0.bias": b1, "2.weight": w2.T, "2.bias": b2}
    tensors = {place: (KINDS.get(name, "F32"), value) for place, value in layers.items()}
    scale = {"input.scale": ("F32", np.array([model.brightest]))}
    return _safetensors(tensors | scale, ABOUT | {"input": model.input})


def _written(file: Path, body: bytes) -> str:
    file.write_bytes(body)
    return f"file://{file.resolve()}@sha256:{sha256(body).hexdigest()}"


def _safetensors(tensors: Mapping[str, tuple[str, digits.Floats]], about: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(about)}
    parts: list[bytes] = []
    at = 0
    for name, (kind, value) in tensors.items():
        body = _bytes(kind, value)
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [at, at + len(body)]}
        parts.append(body)
        at += len(body)
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    return len(said).to_bytes(8, "little") + said + b"".join(parts)


def _bytes(kind: str, value: digits.Floats) -> bytes:
    """Little-endian, row by row; of a bfloat16 the upper half of the float, rounded to even."""
    whole = np.ascontiguousarray(value, dtype="<f4")
    if kind != "BF16":
        return bytes(whole.astype("<f2" if kind == "F16" else "<f4").tobytes())
    bits = whole.view("<u4")
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return bytes(upper.astype("<u2").tobytes())
