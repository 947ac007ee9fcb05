"""The architectures that a safetensors file may name: tensors in, a model out, everything checked."""

import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from gpu_shadow.bert import bert
from gpu_shadow.model import Batch, Model, Refused, first_row
from gpu_shadow.protocol import LONGEST_NAME

About = Mapping[str, str]  # a file's metadata
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
}
_LAYER = re.compile(r"(?:[A-Za-z_]\w*\.)*(\d+)\.(weight|bias)")


def mlp(tensors: Mapping[str, Tensor], about: About) -> Model:
    """Fully connected layers `N.weight` [out, in] and `N.bias` [out], as torch.nn.Sequential names them.

    Before them (x - input.mean) / input.scale where the file has these. It computes in the weights' type.
    The metadata's `input` is the name of the request's tensor that the model's server reads.
    """
    activation = ACTIVATIONS.get(about.get("activation", ""))
    if activation is None:
        raise Refused(f"metadata activation: expected one of {', '.join(ACTIVATIONS)}")
    layers = _layers(tensors)
    features, outputs = layers[0][0].shape[1], layers[-1][0].shape[0]
    mean, scale = (_input(tensors, name, features) for name in ("input.mean", "input.scale"))

    def answer(batch: Batch) -> Tensor:
        rows = batch["row"]
        rows = rows if mean is None else rows - mean
        inner = (rows if scale is None else rows / scale).to(layers[0][0].dtype)
        for weight, bias in layers[:-1]:
            inner = activation(functional.linear(inner, weight, bias))
        return functional.linear(inner, *layers[-1]).float()

    name = about.get("input", "")[:LONGEST_NAME] or None
    return Model(
        takes=f"{features} features a row" + ("" if name is None else f" as {name}"),
        task="regression" if outputs == 1 else "classification",
        fit=partial(first_row, features=features, name=name),
        answer=answer,
        input=name,
    )


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
        if not weight.is_floating_point() or weight.itemsize == 1 or weight.dtype != bias.dtype:
            raise Refused(
                f"layer {number}: {weight.dtype} and {bias.dtype}; expected one floating-point type"
                " of 16 bits or more"
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


ARCHITECTURES: Mapping[str, Callable[[Mapping[str, Tensor], About], Model]] = {"mlp": mlp, "bert": bert}
