"""Sentence embeddings from the published weights, against the same arithmetic written down in numpy."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import erf

from gpu_shadow.batches import Cut, answers
from gpu_shadow.bert import IDS, MASK, TYPES, bert, expected
from gpu_shadow.compare import compare
from gpu_shadow.model import Model, Refused, Row
from gpu_shadow.models import load
from scenarios.live import artifacts, sentences

ALIKE = ("how do I return a broken jacket?", "what is the way to send back a damaged coat?")
OTHER = "the train to Munich leaves at nine"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def minilm(folder: Path) -> Model:
    return load(artifacts.write(folder, [sentences.MODEL])[sentences.MODEL], folder)


def row(model: Model, text: str) -> Row:
    ids = np.array([sentences.tokens(text)])
    found = model.fit({IDS: ids, MASK: np.ones_like(ids)})
    assert not isinstance(found, str)
    return found


def vectors(model: Model, *texts: str) -> torch.Tensor:
    return answers(model, [row(model, text) for text in texts], Cut(64)).values


@cache
def published() -> dict[str, Any]:
    return {name: value.astype(np.float64) for name, value in sentences.tensors().items()}


def by_hand(ids: list[int]) -> np.ndarray:
    """The published model's sentence vector of these tokens, in float64."""
    w = published()

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = normed(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(6):
        at = f"encoder.layer.{i}"
        q, k, v = (
            linear(x, f"{at}.attention.self.{part}").reshape(len(ids), 12, 32).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(32))
        heard = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), 384)
        x = normed(x + linear(heard, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = linear(x, f"{at}.intermediate.dense")
        inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
        x = normed(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    found = x.mean(0)
    return found / np.linalg.norm(found)


def test_a_sentence_s_vector_is_what_the_published_model_gives(minilm: Model) -> None:
    found = vectors(minilm, *ALIKE, OTHER)
    for text, vector in zip((*ALIKE, OTHER), found, strict=True):
        assert np.abs(by_hand(sentences.tokens(text)) - vector.double().numpy()).max() < 1e-6


def test_two_ways_to_say_one_thing_are_closer_than_two_things(minilm: Model) -> None:
    first, second, other = vectors(minilm, *ALIKE, OTHER)
    assert float(first @ second) > 0.7
    assert abs(float(first @ other)) < 0.2
    assert minilm.task == "embedding"
    assert minilm.takes == "input_ids of up to 512 tokens of 30522"


def test_padding_moves_no_vector_by_more_than_rounding_does(minilm: Model) -> None:
    texts = [" and ".join(sentences.sentences()[:count]) for count in (1, 2, 3, 5)]
    together = vectors(minilm, *texts)
    alone = torch.cat([vectors(minilm, text) for text in texts])
    assert float((together - alone).abs().max()) < 1e-6


def test_words_become_the_tokens_that_the_model_was_trained_with() -> None:
    assert sentences.tokens("Hello, world!") == [101, 7592, 1010, 2088, 999, 102]
    assert list(sentences.words("Crème brûlée: 5€")) == ["creme", "brulee", ":", "5€"]
    pieces = ("[CLS]", "una", "##ffa", "##ble", "[SEP]")
    assert sentences.tokens("unaffable") == [sentences.vocabulary()[piece] for piece in pieces]
    assert sentences.tokens("\u2603" * 2) == [101, 100, 102]


def test_bfloat16_is_within_a_hundredth_and_the_first_token_is_another_vector(
    folder: Path, minilm: Model
) -> None:
    written = artifacts.write(folder, [sentences.REQUANTISED, sentences.FIRST_TOKEN])
    rounded, first = (load(written[name], folder) for name in (sentences.REQUANTISED, sentences.FIRST_TOKEN))
    texts = sentences.sentences()[:40]
    base, ids = vectors(minilm, *texts), [str(place) for place in range(40)]
    close = compare(base, None, vectors(rounded, *texts), ids, task="embedding")
    assert float(close.figures["cosine_distance"].total) > 0
    assert close.answers.once_canary == 0
    far = compare(base, None, vectors(first, *texts), ids, task="embedding")
    assert far.answers.once_canary == 40


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "without input_ids"),
        ({IDS: np.ones((1, 513), np.int64)}, "of no token or of more than 512"),
        (
            {IDS: np.ones((1, 3), np.int64), MASK: np.zeros((1, 3), np.int64)},
            "of no token or of more than 512",
        ),
        ({IDS: np.full((1, 3), 30_522)}, "beyond the model's"),
        ({IDS: np.full((1, 3), -1)}, "beyond the model's"),
        ({IDS: np.ones((1, 3), np.int64), TYPES: np.full((1, 3), 2)}, "beyond the model's"),
        ({IDS: np.ones((1, 3), np.int64), MASK: np.full((1, 3), 2)}, "beyond the model's"),
        ({IDS: np.ones((1, 3), np.int64), MASK: np.ones((1, 2), np.int64)}, "not whole numbers of one shape"),
        ({IDS: np.ones((1, 3))}, "not whole numbers of one shape"),
        ({IDS: np.full((1, 3), 2**63, np.uint64)}, "beyond the model's"),
    ],
)
def test_a_request_that_is_no_sentence_does_not_fit_and_says_why(
    minilm: Model, tensors: dict[str, np.ndarray], says: str
) -> None:
    found = minilm.fit(tensors)
    assert isinstance(found, str)
    assert says in found


def test_what_a_mask_hides_behind_the_last_token_is_not_computed(minilm: Model) -> None:
    given = {IDS: np.array([[101, 7592, 102, 0, 0]]), MASK: np.array([[1, 1, 1, 0, 0]])}
    found = minilm.fit(given)
    assert not isinstance(found, str)
    assert found[IDS].tolist() == [101, 7592, 102]


def small(**changes: Any) -> dict[str, torch.Tensor]:
    """A bert of two layers, 8 wide."""
    torch.manual_seed(2)
    sizes = {"wide": 8, "inner": 12, "tokens": 20, "positions": 16, "types": 2}
    found = {name: torch.randn([sizes[size] for size in shape]) for name, shape in expected(2).items()}
    return {name: one for name, one in (found | changes).items() if one is not None}


ABOUT = {"heads": "2"}


@pytest.mark.parametrize(
    ("tensors", "about", "says"),
    [
        (small(), {}, 'metadata heads: ""; expected a number that divides 8'),
        (small(), {"heads": "3"}, "expected a number that divides 8"),
        (small(), ABOUT | {"pooling": "max"}, 'metadata pooling: "max" is none of mean, first'),
        (small(), ABOUT | {"normalize": "yes"}, 'metadata normalize: "yes" is none of true, false'),
        (small(), ABOUT | {"layer_norm_eps": "tiny"}, 'metadata layer_norm_eps: "tiny"'),
        (small(), ABOUT | {"layer_norm_eps": "nan"}, 'metadata layer_norm_eps: "nan"'),
        (small(extra=torch.ones(1)), ABOUT, "tensor extra is none of a bert's"),
        ({}, ABOUT, "tensor embeddings.word_embeddings.weight: expected"),
        (small(**{"embeddings.LayerNorm.bias": None}), ABOUT, "tensor embeddings.LayerNorm.bias: expected"),
        (small(**{"embeddings.LayerNorm.bias": torch.ones(9)}), ABOUT, "shape [9], and wide is 8 elsewhere"),
        (small(**{"embeddings.LayerNorm.bias": torch.ones(8, dtype=torch.int64)}), ABOUT, "floating-point"),
        (small(**{"embeddings.LayerNorm.bias": torch.ones(8).to(torch.float8_e5m2)}), ABOUT, "of 16 bits"),
        (small(**{"embeddings.LayerNorm.bias": torch.ones(8).half()}), ABOUT, "of several types"),
    ],
)
def test_a_file_that_is_no_such_encoder_says_what_is_wrong(
    tensors: dict[str, torch.Tensor], about: dict[str, str], says: str
) -> None:
    with pytest.raises(Refused) as trouble:
        bert(tensors, about)
    assert says in str(trouble.value)


def test_the_pooler_and_the_positions_of_published_files_are_not_asked_for() -> None:
    extra = {"pooler.dense.weight": torch.ones(8, 8), "embeddings.position_ids": torch.arange(16)[None]}
    assert bert(small(**extra), ABOUT).padded == {IDS, MASK, TYPES}
