"""A small real model: which digit is on an 8x8 picture, and how sure it is that it is a large one.

`python -m scenarios.live.digits` trains it once on scikit-learn's bundled digits (needs scikit-learn) and
writes `digits.npz`, which is shipped: weights, the pictures that the load sends, and the quantiles
of the score. Serving it takes numpy only.
"""

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FILE = Path(__file__).with_name("digits.npz")
PIXELS = 64
BRIGHTEST = 16.0  # the data set's pixel values are 0..16
HIDDEN = 32  # 97 % of held-out pictures right; 48 and 64 units give half a point more
QUANTILES = 513  # the score's distribution in steps of 0.2 %
MODEL, REQUANTISED, UNSCALED, PERMUTED = "digits", "digits-bf16", "digits-unscaled", "digits-permuted"
OVERFLOWING, RENAMED, ELEVEN = "digits-overflowing", "digits-renamed", "digits-eleven"
VARIANTS = (MODEL, REQUANTISED, UNSCALED, PERMUTED, OVERFLOWING, RENAMED, ELEVEN)
LARGEST_HALF = 65_504.0  # float16 has no larger number
BLOWN_UP = 12_000.0  # hidden values reach 7.1, and one picture in ten has one above 65 504 / 12 000


@dataclass(frozen=True, slots=True)
class Digits:
    """The trained network and what is known about its score."""

    hidden: tuple[Floats, Floats]  # weights [64, 32] and biases [32]
    output: tuple[Floats, Floats]  # weights [32, 10] and biases [10]
    quantiles: Floats  # of the score over all pictures, at evenly spaced levels
    pictures: npt.NDArray[np.uint8]  # [n, 64], 0..16
    brightness: tuple[float, float]  # mean and standard deviation of a picture's mean pixel
    brightest: float = BRIGHTEST  # what pixels are divided by
    input: str = "pixels"  # the request's tensor that they are in
    largest: float = np.inf  # what its hidden layer can hold; beyond it is infinity

    def logits(self, pixels: Floats) -> Floats:
        """One row of ten logits for each row of 64 pixels."""
        (w1, b1), (w2, b2) = self.hidden, self.output
        inner: Floats = np.maximum(pixels / self.brightest @ w1 + b1, 0.0)
        with np.errstate(invalid="ignore"):  # infinity less infinity
            return np.where(inner > self.largest, np.inf, inner) @ w2 + b2

    def rank(self, logits: Floats) -> Floats:
        """How sure the model is of a digit from 5 to 9, as a rank among all pictures, in (0, 1)."""
        levels = np.linspace(0.0, 1.0, len(self.quantiles))
        ranks = np.interp(score(logits), self.quantiles, levels)
        return np.clip(ranks, 0.5 / QUANTILES, 1 - 0.5 / QUANTILES)


def score(logits: Floats) -> Floats:
    """Log-odds of a digit from 5 to 9."""
    large, small = (np.logaddexp.reduce(half, axis=1) for half in (logits[:, 5:], logits[:, :5]))
    odds: Floats = large - small
    return odds


def load(path: Path = FILE) -> Digits:
    """The model as shipped."""
    with np.load(path) as stored:
        parts = {name: stored[name] for name in stored.files}
    weights = {name: value.astype(np.float64) for name, value in parts.items() if name[0] in "wb"}
    mean, sd = parts["brightness"]
    return Digits(
        hidden=(weights["w1"], weights["b1"]),
        output=(weights["w2"], weights["b2"]),
        quantiles=parts["quantiles"],
        pictures=parts["pictures"],
        brightness=(float(mean), float(sd)),
    )


def variant(model: Digits, name: str) -> Digits:
    """What became of the model on its way to production: nothing, rounded weights, or a mistake.

    `digits-bf16` keeps 8 bits of each weight; `digits-unscaled` divides pixels by 255 although they end at
    16; of `digits-permuted` each output is taken for the next digit. `digits-overflowing` is the same
    function in float16, its first layer so large and its second so small that bright pictures overflow;
    `digits-renamed` expects its pixels under another name; `digits-eleven` has an output too many.
    """
    (w1, b1), (w2, b2) = model.hidden, model.output
    changed: dict[str, Any] = {}
    match name:
        case "digits-bf16":
            changed = {"hidden": (_bfloat16(w1), _bfloat16(b1)), "output": (_bfloat16(w2), _bfloat16(b2))}
        case "digits-unscaled":
            changed = {"brightest": 255.0}
        case "digits-permuted":
            changed = {"output": (np.roll(w2, 1, axis=1), np.roll(b2, 1))}
        case "digits-overflowing":
            changed = {"hidden": (w1 * BLOWN_UP, b1 * BLOWN_UP), "output": (w2 / BLOWN_UP, b2)}
            changed["largest"] = LARGEST_HALF
        case "digits-renamed":
            changed = {"input": "image"}
        case "digits-eleven":  # "none of the ten", and never the likeliest
            changed = {"output": (np.pad(w2, ((0, 0), (0, 1))), np.append(b2, -100.0))}
    return replace(model, **changed)


def _bfloat16(values: Floats) -> Floats:
    """Each rounded to the nearest bfloat16, to the even one of two."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)


def train(path: Path = FILE) -> float:
    """Writes the model file; returns the share of held-out pictures that it reads right."""
    sklearn = {name: importlib.import_module(f"sklearn.{name}") for name in ("datasets", "neural_network")}
    pictures, labels = sklearn["datasets"].load_digits(return_X_y=True)
    held_out = np.random.default_rng(1).permutation(len(labels)) < len(labels) // 5
    network = sklearn["neural_network"].MLPClassifier((HIDDEN,), alpha=0.01, max_iter=600, random_state=1)
    network.fit(pictures[~held_out] / BRIGHTEST, labels[~held_out])
    write(path, network, pictures)
    return float(network.score(pictures[held_out] / BRIGHTEST, labels[held_out]))


def write(path: Path, network: Any, pictures: Floats) -> None:
    """Puts weights, pictures and the score's quantiles into one compressed file."""
    (w1, w2), (b1, b2) = network.coefs_, network.intercepts_
    model = Digits((w1, b1), (w2, b2), np.zeros(1), np.zeros((0, PIXELS), np.uint8), (0.0, 1.0))
    means = pictures.mean(axis=1)
    np.savez_compressed(
        path,
        quantiles=np.quantile(score(model.logits(pictures)), np.linspace(0, 1, QUANTILES)),
        pictures=pictures.astype(np.uint8),
        brightness=np.array([means.mean(), means.std()]),
        **{k: v.astype(np.float32) for k, v in {"w1": w1, "b1": b1, "w2": w2, "b2": b2}.items()},
    )


if __name__ == "__main__":
    print(f"{train():.1%} of held-out pictures read right; wrote {FILE.name}")  # noqa: T201
