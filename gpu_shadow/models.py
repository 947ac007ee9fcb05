"""The two models, loaded so that nothing in their files runs.

A model is a safetensors file and the name of an architecture that is written down here, or an ONNX file,
which is looked through first and runs in a process of its own; the file's SHA-256 is part of its reference
and is checked on the very bytes that are loaded. Pickles are refused: loading one runs whatever code it
holds.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of

from gpu_shadow.architectures import ARCHITECTURES
from gpu_shadow.files import PICKLES as BEGINNINGS
from gpu_shadow.model import CPU, Model, Refused, task_of
from gpu_shadow.onnx_model import onnx

__all__ = ["Model", "Refused", "load", "named"]

LARGEST = 4 * 2**30  # bytes of a file
PICKLES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".joblib", ".bin", ".pt2"})
REFERENCE = re.compile(r"file://(?P<path>/[^@\s]+)@sha256:(?P<digest>[0-9a-f]{64})")
SAVE = (
    "save it with safetensors.torch.save_file(model.state_dict(), 'model.safetensors',"
    " metadata={'architecture': 'mlp', 'activation': 'relu'})"
)


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
    try:
        model = onnx(body) if path.suffix == ".onnx" else _built(body, device or CPU)
    except Refused as trouble:
        raise Refused(f"{path}: {trouble}") from None
    return replace(model, reference=reference, digest=digest)


def named(reference: str, folder: Path) -> tuple[Path, str]:
    """The file and the digest that the reference names, below the folder; raises `Refused`."""
    said = REFERENCE.fullmatch(reference)
    if said is None:
        raise Refused(f'"{reference}": expected file:///PATH@sha256:DIGEST, 64 hexadecimal digits')
    path = Path(said["path"])
    if path.suffix in PICKLES:
        raise Refused(f"{path}: a {path.suffix} file may run any code when it is loaded; {SAVE}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise Refused(f"{path}: is not below {folder.resolve()}, where the worker's models are (--models)")
    return path, said["digest"]


def _built(body: bytes, device: torch.device) -> Model:
    try:
        tensors, about = tensors_of(body), _metadata(body)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        if body.startswith(
            BEGINNINGS
        ):  # of none that could be read: a header may be as long as these bytes say
            raise Refused(f"is a pickle, and loading one may run any code; {SAVE}") from None
        raise Refused(f"is no safetensors file ({error}); {SAVE}") from None
    build = ARCHITECTURES.get(about.get("architecture", ""))
    if build is None:
        known = ", ".join(sorted(ARCHITECTURES))
        named = about.get("architecture") or "missing"
        raise Refused(f"its metadata's architecture is {named}; known here are {known}; {SAVE}")
    model = build({k: v.to(device) for k, v in tensors.items()}, about)
    return replace(model, task=task_of(about, model.task), device=device)


def _metadata(body: bytes) -> Mapping[str, str]:
    """The file's own words about itself; the library has checked the header's length by now."""
    length = int.from_bytes(body[:8], "little")
    about = json.loads(body[8 : 8 + length]).get("__metadata__") or {}
    return {str(name): str(value) for name, value in about.items()}
