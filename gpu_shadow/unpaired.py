"""Answers to different requests: do both samples come from one distribution? Three tests see three things.

Kernels of several widths (`swaps.two_sample`) see a little in every dimension, and clouds that are wider; the
energy distance sees far outliers; Kolmogorov-Smirnov's test sees one dimension alone. Their p-values are
adjusted for there being three, and those of dimensions for there being so many (Holm).

Pairs see a hundred times more (`swaps.pair_swap`): this is for answers that have none.

Reference: Székely, Rizzo (2013), "Energy statistics"; Holm (1979), "A simple sequentially rejective multiple
test procedure"; for MMD see `swaps`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from torch import Tensor

from gpu_shadow.desk import read
from gpu_shadow.files import BadFile
from gpu_shadow.said import Source
from gpu_shadow.swaps import energy, two_sample

SCHEMA = "serin.dev/shadow-unpaired/v1"
MOST = 2000  # answers of a side: the permutations of so many take two seconds
LEAST = 20  # answers of a side: of fewer Kolmogorov-Smirnov's p is not right
MOST_DIMENSIONS = 10  # that are listed
SEES = {
    "kernels": "A little everywhere (kernels of four widths)",
    "energy": "Far outliers (energy distance)",
    "dimensions": "One output alone (Kolmogorov-Smirnov)",
}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One test: its p-value, and that adjusted for there being others."""

    name: str
    p: float
    adjusted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One dimension that stands out: the largest distance of the two distribution functions."""

    place: int
    distance: float
    adjusted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """What all tests say of `stable` and `canary` answers; `p` is the least of the adjusted p-values."""

    stable: int
    canary: int
    permutations: int
    tests: tuple[Trial, ...]
    dimensions: tuple[Dimension, ...]

    @property
    def p(self) -> float:
        """Of "both are one distribution": at most a with probability at most a if they are."""
        return min(each.adjusted for each in self.tests)


def battery(stable: Tensor, canary: Tensor, *, permutations: int = 999, seed: int = 0) -> Battery:
    """All tests of answers (n, d) and (m, d) to different requests.

    Guarantee: `p` <= a with probability at most a if all n + m answers are exchangeable and, for the
    dimensions, independent (Kolmogorov-Smirnov's p is for many answers; too large where values repeat).
    """
    kernels = two_sample(stable, canary, permutations=permutations, seed=seed)
    distances = energy(stable, canary, permutations=permutations, seed=seed)
    apart, p = smirnov(stable, canary)
    each = holm(p)
    found = {"kernels": kernels.p, "energy": distances.p, "dimensions": float(each.min())}
    adjusted = holm(np.array(list(found.values())))
    order = np.argsort(each, kind="stable")[:MOST_DIMENSIONS]
    return Battery(
        stable=len(stable),
        canary=len(canary),
        permutations=permutations,
        tests=tuple(
            Trial(name=name, p=one, adjusted=float(a))
            for (name, one), a in zip(found.items(), adjusted, strict=True)
        ),
        dimensions=tuple(
            Dimension(place=int(at), distance=float(apart[at]), adjusted=float(each[at])) for at in order
        ),
    )


def smirnov(stable: Tensor, canary: Tensor) -> tuple[Floats, Floats]:
    """For each dimension (d,) the largest distance of the two distribution functions, and its p-value."""
    found = ks_2samp(stable.double().cpu().numpy(), canary.double().cpu().numpy(), axis=0, method="asymp")
    return np.asarray(found.statistic, dtype=float), np.asarray(found.pvalue, dtype=float)


def holm(p: Floats) -> Floats:
    """p-values (k,) adjusted for being k: one of those of true hypotheses is <= a with probability <= a."""
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted


# -- at a desk -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpaired:
    """What is said of two files: the tests, what they are held to, how many answers were left out."""

    found: Battery
    alpha: float
    unusable: int
    sources: tuple[Source, ...]

    @property
    def differs(self) -> bool:
        """Whether the two are surely not one distribution."""
        return self.found.p <= self.alpha

    def to_json(self) -> dict[str, Any]:
        """As JSON values; the form is documented in docs/shadow.md."""
        found = self.found
        return {
            "schema": SCHEMA,
            "differs": self.differs,
            "alpha": self.alpha,
            "p": found.p,
            "stable": found.stable,
            "canary": found.canary,
            "permutations": found.permutations,
            "unusable": self.unusable,
            "tests": [{"name": one.name, "p": one.p, "adjusted": one.adjusted} for one in found.tests],
            "dimensions": [
                {"dimension": one.place, "distance": one.distance, "adjusted": one.adjusted}
                for one in found.dimensions
            ],
            "sources": [{"role": one.role, "name": one.name, "sha256": one.sha256} for one in self.sources],
        }


def compared(stable: Path, canary: Path, *, alpha: float) -> Unpaired:
    """What two files say; rows need not belong together. Raises `BadFile`."""
    answers = [_sampled(path, place) for place, path in enumerate((stable, canary))]
    wide = [each.shape[1] for each, _ in answers]
    if wide[0] != wide[1]:
        raise BadFile(
            f"{canary}: output has {wide[1]} values a row, {stable}'s {wide[0]}: give the same ones"
        )
    return Unpaired(
        found=battery(answers[0][0], answers[1][0]),
        alpha=alpha,
        unusable=sum(left for _, left in answers),
        sources=(Source.of("stable", stable), Source.of("canary", canary)),
    )


def _sampled(path: Path, seed: int) -> tuple[Tensor, int]:
    """At most `MOST` of the file's finite answers (n, d), by a fixed seed, and how many are not finite."""
    output = read(path).output
    output = output.reshape(len(output), -1).double() if len(output) else torch.empty(0, 0)
    sound = torch.isfinite(output).all(1)
    kept = output[sound]
    if len(kept) < LEAST or not kept.shape[1]:
        raise BadFile(f"{path}: has {len(kept)} answers that are finite; give at least {LEAST}")
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))[:MOST]
    return kept[order], int((~sound).sum())


def told(said: Unpaired) -> Iterator[str]:
    """The same as lines for people."""
    found = said.found
    verb = "Differ" if said.differs else "No difference found"
    yield f"{verb}: p = {found.p:.3g} (adjusted for {len(found.tests)} tests; held to {said.alpha:g})"
    yield f"  {found.stable} of stable's answers, {found.canary} of the canary's, to different requests."
    if said.unusable:
        be, they = ("answer is", "it is") if said.unusable == 1 else ("answers are", "they are")
        yield f"  {said.unusable} {be} left out: {they} not finite."
    for one in found.tests:
        yield f"{SEES[one.name]}: p = {one.p:.3g}, adjusted {one.adjusted:.3g}."
    for each in found.dimensions:
        if each.adjusted <= said.alpha:
            apart = f"distribution functions {each.distance:.3f} apart"
            yield f"  output {each.place}: {apart}, p = {each.adjusted:.3g}"
