"""The two models, loaded so that nothing in their files runs.

A model is a safetensors file and the name of an architecture that is written down here; the file's
SHA-256 is part of its reference and is checked on the very bytes that are loaded. Pickles are refused:
loading one runs whatever code it holds.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from torch import Tensor
from torch.nn import functional

LARGEST = 4 * 2**30  # bytes of a file
PICKLES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".joblib", ".bin", ".pt2"})
REFERENCE = re.compile(r"file://(?P<path>/[^@\s]+)@sha256:(?P<digest>[0-9a-f]{64})")
SAVE = (
    "save it with safetensors.torch.save_file(model.state_dict(), 'model.safetensors',"
    " metadata={'architecture': 'mlp', 'activation': 'relu'})"
)
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
}
_LAYER = re.compile(r"(?:[A-Za-z_]\w*\.)*(\d+)\.(weight|bias)")


class Refused(ValueError):
    """A model that is not loaded; the text says which, why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that is ready: rows of features [n, features] in, one row of outputs [n, outputs] each."""

    reference: str
    digest: str  # sha256 of the file, hexadecimal
    features: int
    outputs: int
    answer: Callable[[Tensor], Tensor]
    device: torch.device


def load(reference: str, folder: Path, *, device: torch.device | None = None) -> Model:
    """The model that `file:///path@sha256:…` names, from below `folder`; raises `Refused`."""
    path, digest = named(reference, folder)
    try:
        size = path.stat().st_size
        body = path.read_bytes() if size <= LARGEST else b""
    except OSError as error:
        raise Refused(
            f"{path}: cannot be read ({error.strerror}); mount it there, or correct the path"
        ) from None
    if size > LARGEST:
        raise Refused(f"{path}: {size} bytes, and at most {LARGEST} are loaded")
    found = sha256(body).hexdigest()
    if found != digest:
        raise Refused(f"{path}: its sha256 is {found}, not the {digest} that was asked for; correct either")
    where = device or torch.device("cpu")
    return _built(reference, digest, body, path, where)


def named(reference: str, folder: Path) -> tuple[Path, str]:
    """The file and the digest that the reference names, below the folder; raises `Refused`."""
    said = REFERENCE.fullmatch(reference)
    if said is None:
        raise Refused(f'"{reference}": expected file:///PATH@sha256:DIGEST, 64 hexadecimal digits')
    path = Path(said["path"])
    if path.suffix in PICKLES:
        raise Refused(f"{path}: a {path.suffix} file may run any code when it is loaded; {SAVE}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise Refused(f"{path}: is not below {folder}, where the worker's models are (--models)")
    return path, said["digest"]


def _built(reference: str, digest: str, body: bytes, path: Path, device: torch.device) -> Model:
    try:
        tensors, about = tensors_of(body), _metadata(body)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise Refused(f"{path}: is no safetensors file ({error}); {SAVE}") from None
    build = ARCHITECTURES.get(about.get("architecture", ""))
    if build is None:
        known = ", ".join(sorted(ARCHITECTURES))
        named = about.get("architecture") or "missing"
        raise Refused(f"{path}: its metadata's architecture is {named}; known here are {known}; {SAVE}")
    try:
        features, outputs, answer = build({k: v.to(device) for k, v in tensors.items()}, about)
    except Refused as trouble:
        raise Refused(f"{path}: {trouble}") from None
    return Model(
        reference=reference, digest=digest, features=features, outputs=outputs, answer=answer, device=device
    )


def _metadata(body: bytes) -> Mapping[str, str]:
    """The file's own words about itself; the library has checked the header's length by now."""
    length = int.from_bytes(body[:8], "little")
    about = json.loads(body[8 : 8 + length]).get("__metadata__") or {}
    return {str(name): str(value) for name, value in about.items()}


Built = tuple[int, int, Callable[[Tensor], Tensor]]


def mlp(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> Built:
    """Fully connected layers `N.weight` [out, in] and `N.bias` [out], as torch.nn.Sequential names them.

    Before them (x - input.mean) / input.scale where the file has these. It computes in the weights' type.
    """
    activation = ACTIVATIONS.get(about.get("activation", ""))
    if activation is None:
        raise Refused(f"metadata activation: expected one of {', '.join(ACTIVATIONS)}")
    layers = _layers(tensors)
    features, outputs = layers[0][0].shape[1], layers[-1][0].shape[0]
    mean, scale = (_input(tensors, name, features) for name in ("input.mean", "input.scale"))

    def answer(rows: Tensor) -> Tensor:
        rows = rows if mean is None else rows - mean
        inner = (rows if scale is None else rows / scale).to(layers[0][0].dtype)
        for weight, bias in layers[:-1]:
            inner = activation(functional.linear(inner, weight, bias))
        return functional.linear(inner, *layers[-1]).float()

    return features, outputs, answer


def _layers(tensors: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases in order; raises `Refused` unless they fit each other and nothing is left over."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        said = _LAYER.fullmatch(name)
        if said is not None and said[2] not in found.get(int(said[1]), {}):
            found.setdefault(int(said[1]), {})[said[2]] = value
        elif name not in {"input.mean", "input.scale"}:
            raise Refused(
                f"tensor {name} is none of an mlp's: N.weight and N.bias once each, input.mean, input.scale"
            )
    layers: list[tuple[Tensor, Tensor]] = []
    for number, parts in sorted(found.items()):
        weight, bias = parts.get("weight"), parts.get("bias")
        if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise Refused(f"layer {number}: expected {number}.weight [out, in] and {number}.bias [out]")
        if not weight.is_floating_point() or weight.dtype != bias.dtype:
            raise Refused(
                f"layer {number}: {weight.dtype} and {bias.dtype}; expected one floating-point type"
            )
        if layers and weight.shape[1] != layers[-1][0].shape[0]:
            wide = f"{weight.shape[1]} inputs after {layers[-1][0].shape[0]} outputs"
            raise Refused(f"layer {number}: {wide}")
        layers.append((weight, bias))
    if not layers:
        raise Refused("there is no layer: expected 0.weight, 0.bias, …")
    return layers


def _input(tensors: Mapping[str, Tensor], name: str, features: int) -> Tensor | None:
    given = tensors.get(name)
    if given is not None and given.shape not in {(1,), (features,)}:
        raise Refused(f"{name}: shape {list(given.shape)}; expected [1] or [{features}]")
    return None if given is None else given.float()


ARCHITECTURES: Mapping[str, Callable[[Mapping[str, Tensor], Mapping[str, str]], Built]] = {"mlp": mlp}
