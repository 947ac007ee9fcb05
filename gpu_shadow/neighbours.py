"""Do two embeddings mean the same, though every number in them may be another?

A model that is trained anew may turn its space round: then each vector points elsewhere and no search finds
anything else. What stays are neighbours and shapes. They need many vectors at once, not counts, so they are
looked at in a sample and decide nothing.

Reference: Kornblith, Norouzi, Lee, Hinton (2019), "Similarity of neural network representations revisited"
(linear CKA); Schönemann (1966), "A generalized solution of the orthogonal Procrustes problem".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

SAMPLE = 2000  # vectors at most, whose distances are a few million
NEAREST = 10
LEAST = 3 * NEAREST  # vectors; of fewer nearly all are neighbours of all


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """How alike two sets of vectors for the same requests are.

    `overlap`: of each vector's `NEAREST` ones by angle, the share that both have (Jaccard), on average.
    `cka`: linear centred kernel alignment, 1 for the same up to rotation and scale. `aligned`: the squared
    distance that is left when one is shifted, scaled and turned onto the other as well as can be, 0 to 1.
    """

    overlap: float
    cka: float
    aligned: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Of a sample of `requests` the canary's vectors beside stable's, and stable's second ones (`floor`)."""

    requests: int
    canary: Alike
    floor: Alike | None = None


def compared(stable: Tensor, again: Tensor | None, canary: Tensor, ids: Sequence[str]) -> Neighbours | None:
    """Of vectors (n, d) for the requests `ids`; None where too few are finite."""
    given = [stable, canary] if again is None else [stable, canary, again]
    sound = torch.stack([torch.isfinite(each).all(1) for each in given]).all(0).tolist()
    rows = sampled([name if kept else None for name, kept in zip(ids, sound, strict=True)])
    if len(rows) < LEAST:
        return None
    vectors = [each[rows].double().cpu() for each in given]
    found = [alike(vectors[0], other) for other in vectors[1:]]
    return Neighbours(requests=len(rows), canary=found[0], floor=found[1] if again is not None else None)


def sampled(ids: Sequence[str | None]) -> list[int]:
    """At most `SAMPLE` places, chosen by a digest of the id alone: the same ones whoever chooses them."""
    found = sorted(
        (blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), name, place)
        for place, name in enumerate(ids)
        if name is not None
    )
    return [place for _, _, place in found[:SAMPLE]]


def alike(stable: Tensor, other: Tensor) -> Alike:
    """Of vectors (n, d) and (n, e), n > `NEAREST`."""
    x, y = (_shaped(each) for each in (stable, other))
    shared = torch.linalg.matrix_norm(x.T @ y) ** 2
    own = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    turned = torch.linalg.svdvals(x.T @ y).sum()
    return Alike(
        overlap=_overlap(stable, other),
        cka=float((shared / own).clamp(max=1)) if own > 0 else float(torch.equal(x, y)),
        aligned=float((1 - turned.square()).clamp(0, 1)),
    )


def _shaped(vectors: Tensor) -> Tensor:
    """Around 0 and of size 1 together; all 0 where the vectors are all the same."""
    around = vectors - vectors.mean(0)
    size: Tensor = torch.linalg.matrix_norm(around)
    return around / size.clamp(min=torch.finfo(around.dtype).tiny)


def _overlap(stable: Tensor, other: Tensor) -> float:
    near, rivals = (_nearest(each) for each in (stable, other))
    both = (near[:, :, None] == rivals[:, None, :]).sum((1, 2)).double()
    return float((both / (2 * NEAREST - both)).mean())


def _nearest(vectors: Tensor) -> Tensor:
    """The places (n, `NEAREST`) of each vector's nearest ones by angle."""
    directed = torch.nn.functional.normalize(vectors, dim=1)
    found: Tensor = (directed @ directed.T).fill_diagonal_(-torch.inf).topk(NEAREST).indices
    return found
