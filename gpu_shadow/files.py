"""Tensors from a safetensors file, which holds numbers and nothing that could run; or a sentence why not."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

PICKLES = (
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
)  # torch.save's zip, pickle 2 to 5
SAVE = "safetensors.torch.save_file({{'{}': tensor}}, path) writes one that can be read"

REPLAY = (
    "serin shadow replay REQUESTS.jsonl --stable v7.safetensors --canary v8.safetensors"
    " makes the answers of both and compares them"
)


class BadFile(ValueError):
    """A file that answers cannot be read from; the message says why and what to do."""


def tensors(path: Path, wanted: str, *, others: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensor that is wanted, and of the others those that there are."""
    if not path.is_file():
        raise BadFile(
            f"{path}: {'is not a file' if path.exists() else 'there is no such file'}; give a file's path"
        )
    beginning = b""
    try:
        with path.open("rb") as raw:
            beginning = raw.read(4)
        with safe_open(path, framework="pt", device="cpu") as file:
            held, about = set(file.keys()), file.metadata() or {}
            found = {name: file.get_tensor(name) for name in held & {wanted, *others}}
    except (SafetensorError, OSError) as error:
        if beginning.startswith(PICKLES):  # not before: a header of 640 bytes begins so, too
            raise BadFile(
                f"{path}: is a pickle, and loading one can run any program; {SAVE.format(wanted)}"
            ) from None
        raise BadFile(f"{path}: cannot be read as safetensors ({error}); {SAVE.format(wanted)}") from None
    if wanted not in found:
        if weights(held, about):
            raise BadFile(f"{path}: is a model's weights, not its answers; {REPLAY}")
        instead = ", ".join(sorted(held)[:10]) or "nothing"
        raise BadFile(f"{path}: holds {instead}, but no tensor {wanted}; {SAVE.format(wanted)}")
    return found


def weights(held: Iterable[str], about: Mapping[str, str]) -> bool:
    """Whether these are a model's tensors, by their names or by what the file says of itself."""
    return "architecture" in about or any(name.endswith(".weight") for name in held)


def slices(path: Path, labels: Tensor | None, n: int) -> tuple[str, ...] | None:
    """Which slice each of the file's n requests belongs to, if it says so."""
    if labels is None:
        return None
    if labels.shape != (n,) or labels.is_floating_point() or labels.is_complex():
        form = f"{kind(labels)} {tuple(labels.shape)}"
        raise BadFile(f"{path}: slice is {form}; give a whole number for each of the {n} requests")
    return tuple(map(str, labels.tolist()))


def kind(tensor: Tensor) -> str:
    """The kind of number it holds."""
    return str(tensor.dtype).removeprefix("torch.")
