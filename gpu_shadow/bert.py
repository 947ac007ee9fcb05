"""Sentence embeddings: BERT's encoder, its tokens' mean or first, from the tensors as they are published.

Requests carry token ids; how text becomes tokens is the caller's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gpu_shadow.model import Batch, Model, Refused, Row, Tensors

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"  # as every exporter calls them
POOLINGS = ("mean", "first")
UNUSED = re.compile(r"embeddings\.position_ids|pooler\..*")  # in the files, and not part of an embedding
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.attention\.self\.query\.weight")
PARTS = {
    "attention.self.query": ("wide", "wide"),
    "attention.self.key": ("wide", "wide"),
    "attention.self.value": ("wide", "wide"),
    "attention.output.dense": ("wide", "wide"),
    "attention.output.LayerNorm": ("wide",),
    "intermediate.dense": ("inner", "wide"),
    "output.dense": ("wide", "inner"),
    "output.LayerNorm": ("wide",),
}  # of a layer, with the shape of its weight; its bias has the first of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """The tensors, and what the file says about itself."""

    tensors: Mapping[str, Tensor]
    layers: int
    heads: int
    epsilon: float
    pooling: str
    normalise: bool

    def __call__(self, batch: Batch) -> Tensor:
        """One vector for each row of tokens [n, length]; it computes in the weights' type."""
        ids, mask = batch[IDS], batch[MASK]
        named = self.tensors
        inner = named["embeddings.word_embeddings.weight"][ids]
        inner = inner + named["embeddings.position_embeddings.weight"][: ids.shape[1]]
        inner = inner + named["embeddings.token_type_embeddings.weight"][batch[TYPES]]
        inner = self._normed("embeddings.LayerNorm", inner)
        seen = mask.bool()[:, None, None, :]
        for layer in range(self.layers):
            inner = self._layer(f"encoder.layer.{layer}", inner, seen)
        return self._pooled(inner.float(), mask)

    def _layer(self, name: str, inner: Tensor, seen: Tensor) -> Tensor:
        asks, offers, holds = (
            self._linear(f"{name}.attention.self.{part}", inner)
            .reshape(*inner.shape[:2], self.heads, -1)
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )
        heard = functional.scaled_dot_product_attention(asks, offers, holds, attn_mask=seen)
        heard = self._linear(f"{name}.attention.output.dense", heard.transpose(1, 2).flatten(2))
        inner = self._normed(f"{name}.attention.output.LayerNorm", inner + heard)
        thought = functional.gelu(self._linear(f"{name}.intermediate.dense", inner))
        return self._normed(f"{name}.output.LayerNorm", inner + self._linear(f"{name}.output.dense", thought))

    def _pooled(self, inner: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "first":
            found = inner[:, 0]
        else:
            share = mask.float() / mask.sum(1, keepdim=True)
            found = torch.einsum("nlw,nl->nw", inner, share)
        return functional.normalize(found, dim=-1) if self.normalise else found

    def _linear(self, name: str, inner: Tensor) -> Tensor:
        return functional.linear(inner, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def _normed(self, name: str, inner: Tensor) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return functional.layer_norm(inner, weight.shape, weight, bias, self.epsilon)


def bert(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> Model:
    """The encoder of a sentence model; its metadata says heads, pooling, normalize and layer_norm_eps."""
    used = {name: one for name, one in tensors.items() if not UNUSED.fullmatch(name)}
    layers = sum(1 for name in used if _LAYER.fullmatch(name))
    sizes = _checked(used, layers)
    encoder = Encoder(
        tensors=used,
        layers=layers,
        heads=_heads(about, sizes["wide"]),
        epsilon=_epsilon(about),
        pooling=_one_of(about, "pooling", POOLINGS),
        normalise=_one_of(about, "normalize", ("true", "false")) == "true",
    )
    known, positions = sizes["tokens"], sizes["positions"]
    return Model(
        takes=f"{IDS} of up to {positions} tokens of {known}",
        task="embedding",
        fit=partial(tokens, known=known, positions=positions, types=sizes["types"]),
        answer=encoder,
        padded=frozenset({IDS, MASK, TYPES}),
    )


def tokens(given: Tensors, *, known: int, positions: int, types: int) -> Row | str:
    """The request's first row of token ids, up to the last that its mask does not hide."""
    ids = given.get(IDS)
    if ids is None:
        return f"without {IDS}"
    whole = {IDS: ids, MASK: given.get(MASK, np.ones_like(ids)), TYPES: given.get(TYPES, np.zeros_like(ids))}
    if any(one.shape != ids.shape or one.dtype.kind not in "iu" or one.ndim > 2 for one in whole.values()):
        return f"with {IDS}, {MASK} and {TYPES} that are not whole numbers of one shape"
    row = {name: np.atleast_2d(one)[0].astype(np.int64) for name, one in whole.items()}
    used = np.flatnonzero(row[MASK])
    row = {name: one[: used[-1] + 1] if len(used) else one[:0] for name, one in row.items()}
    limits = {IDS: known, MASK: 2, TYPES: types}
    if not 0 < len(row[IDS]) <= positions:
        return f"of no token or of more than {positions}"
    if any(int(row[name].min()) < 0 or int(row[name].max()) >= most for name, most in limits.items()):
        return f"with {IDS}, {MASK} or {TYPES} beyond the model's"
    return row


def _checked(used: Mapping[str, Tensor], layers: int) -> Mapping[str, int]:
    """Sizes by name; raises `Refused` unless all tensors are there, fit each other, and no other is."""
    sizes: dict[str, int] = {}
    for name, shape in expected(layers).items():
        one = used.get(name)
        if one is None or one.ndim != len(shape) or not one.is_floating_point() or one.itemsize == 1:
            raise Refused(f"tensor {name}: expected {list(shape)}, floating-point numbers of 16 bits or more")
        for size, found in zip(shape, one.shape, strict=True):
            if sizes.setdefault(size, found) != found or not found:
                raise Refused(
                    f"tensor {name}: shape {list(one.shape)}, and {size} is {sizes[size]} elsewhere"
                )
    left = sorted(set(used) - set(expected(layers)))
    if not layers or left:
        raise Refused(f"tensor {left[0]} is none of a bert's" if left else "there is no encoder.layer.0")
    if len({one.dtype for one in used.values()}) > 1:
        raise Refused("its tensors are of several types; expected one")
    return sizes


def expected(layers: int) -> Mapping[str, tuple[str, ...]]:
    """The tensors of so many layers, each with the names of its sizes."""
    parts = {f"encoder.layer.{i}.{name}": shape for i in range(layers) for name, shape in PARTS.items()}
    parts["embeddings.LayerNorm"] = ("wide",)
    return {
        "embeddings.word_embeddings.weight": ("tokens", "wide"),
        "embeddings.position_embeddings.weight": ("positions", "wide"),
        "embeddings.token_type_embeddings.weight": ("types", "wide"),
        **{f"{name}.weight": shape for name, shape in parts.items()},
        **{f"{name}.bias": shape[:1] for name, shape in parts.items()},
    }


def _heads(about: Mapping[str, str], wide: int) -> int:
    said = about.get("heads", "")
    heads = int(said) if re.fullmatch(r"[0-9]{1,4}", said) else 0
    if not heads or wide % heads:
        raise Refused(f'metadata heads: "{said}"; expected a number that divides {wide}')
    return heads


def _epsilon(about: Mapping[str, str]) -> float:
    said: Any = about.get("layer_norm_eps", "1e-12")
    try:
        epsilon = float(said)
    except ValueError:
        epsilon = 0.0
    if not 0 < epsilon < 1:
        raise Refused(f'metadata layer_norm_eps: "{said}"; expected a number such as 1e-12')
    return epsilon


def _one_of(about: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    """What the metadata says; the first is what it says if it says nothing."""
    said = about.get(name, known[0])
    if said not in known:
        raise Refused(f'metadata {name}: "{said}" is none of {", ".join(known)}')
    return said
