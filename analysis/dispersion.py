"""How noisy pods are: how much more their counts scatter than independent requests would.

Requests of one pod share its garbage collector, its neighbours on the node, its luck. Measured on
the stable pods, between pods of the same time span, so whatever happens to all of them cancels. The
result tempers the evidence (log e / phi^power): asymptotically calibrated, not a theorem, and
therefore validated by simulation (tests/validity).
"""

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from scipy.special import gammaincc, stdtrit

from analysis.packing import rounded
from analysis.proportions import Array, Integers, Mask
from analysis.values import replace

SPANS = np.array([10.0, 40.0, 160.0])  # s; the first two for phi, the last for lasting differences
PRIOR_CORRELATION, PRIOR_DF = 0.02 * 10.0 / SPANS[:2], 6.0  # of a pod's requests, and how sure we are
PRIOR_SPREAD, PRIOR_SPREAD_DF = 0.03, 4.0  # of pods' log latency
RARELY = 0.01  # asked every ten seconds; at two standard errors one quiet run in twelve was called noisy
FEW = 3  # stable pods; with fewer nothing can be measured between them
FADE = 1800.0  # s; what was measured fades with this time constant
MOST_NODES = 32  # stable nodes followed; the controller reads at most 20 pods


@dataclass(frozen=True, slots=True, eq=False)
class Dispersion:
    """Open windows of each span W, and the sums over closed ones.

    `n` and `k` (..., 3, P) are requests and hits of stable nodes in the open windows, each in those of the
    longer ones once it is closed; `length` (..., 3) how long these are in seconds. `sums` (..., 3, 5):
    degrees of freedom, and weighted by them: squared deviation z2, requests per node, variance of hits per
    node, window length. What follows from the sums: `correlation` (..., 2) of requests within a node and
    window, `window` (..., 2) seconds, `excess` (...) variance of lasting differences in log-odds.
    """

    n: Array
    k: Array
    length: Array
    sums: Array
    correlation: Array
    window: Array
    excess: Array


def unmeasured(nodes: int = 1, several: tuple[int, ...] = ()) -> Dispersion:
    """Nothing seen yet, of so many stable nodes; `several`: of as many canaries."""
    empty, spans = np.zeros((*several, 3, nodes)), np.zeros((*several, 3))
    two = np.zeros((*several, 2))
    return Dispersion(empty, empty, spans, np.zeros((*several, 3, 5)), two, two, np.zeros(several))


def interrupted(dispersion: Dispersion) -> Dispersion:
    """Open windows are dropped, what closed ones said is kept: pods changed."""
    empty = np.zeros((*dispersion.n.shape[:-1], 1))
    return replace(dispersion, n=empty, k=empty, length=np.zeros_like(dispersion.length))


def with_nodes(dispersion: Dispersion, nodes: int) -> Dispersion:
    """With room for more stable nodes, of which nothing was seen yet."""
    new = np.zeros((*dispersion.n.shape[:-1], nodes - dispersion.n.shape[-1]))
    return replace(
        dispersion,
        n=np.concatenate([dispersion.n, new], axis=-1),
        k=np.concatenate([dispersion.k, new], axis=-1),
    )


def key(node: str) -> int:
    """A node's name in four bytes, the same in every process."""
    return crc32(node.encode())


def observed(dispersion: Dispersion, n: Array, k: Array, *, seconds: Array) -> Dispersion:
    """With one tick added: requests `n` and hits `k` (..., P) of the stable nodes, `seconds` (...)."""
    windows_n, windows_k, length = (one.copy() for one in (dispersion.n, dispersion.k, dispersion.length))
    windows_n[..., 0, :] += n
    windows_k[..., 0, :] += k
    length[..., 0] += seconds
    if not (length[..., 0] >= SPANS[0] - 1e-6).any():
        return replace(dispersion, n=windows_n, k=windows_k, length=length)
    sums = dispersion.sums.copy()
    for span, least in enumerate(SPANS - 1e-6):
        closing = length[..., span] >= least
        if not closing.any():
            break
        _close(windows_n, windows_k, length, sums, span=span, closing=closing)
    return _derived(replace(dispersion, n=windows_n, k=windows_k, length=length, sums=rounded(sums)))


def _close(n: Array, k: Array, length: Array, sums: Array, *, span: int, closing: Mask) -> None:
    """Scores one span's windows where they are `closing`, and adds them to the next longer ones; in place."""
    fade = np.exp(-length[..., span] / FADE)[..., None]
    new = _scatter(n[..., span, :], k[..., span, :], length[..., span])
    scored = sums[..., span, :] * fade + new
    sums[..., span, :] = np.where(closing[..., None], scored, sums[..., span, :])
    for values in (n, k, length[..., None]):
        closed = np.where(closing[..., None], values[..., span, :], 0.0)
        if span + 1 < len(SPANS):
            values[..., span + 1, :] += closed
        values[..., span, :] -= closed


def _derived(dispersion: Dispersion) -> Dispersion:
    """With what follows from the sums."""
    df, z2, size, hits, length = np.moveaxis(dispersion.sums, -1, 0)
    some = np.maximum(df, 1e-9)
    z2, size, hits, length = z2 / some, size / some, hits / some, length / some
    significant = (df > 0) & _significant(df, z2, hits)
    sure = (..., slice(0, 2))  # the spans phi is measured over
    measured = (z2 * (1 + np.sqrt(2 / some)) - 1)[sure] / np.maximum(size[sure] - 1, 1.0)
    shrunk = (PRIOR_DF * PRIOR_CORRELATION + df[sure] * measured) / (PRIOR_DF + df[sure])
    excess = np.maximum(0.0, z2[..., 2] - 1) / np.maximum(hits[..., 2], 1e-9)
    return replace(
        dispersion,
        correlation=rounded(np.where(significant[sure], np.clip(shrunk, 0.0, 1.0), 0.0)),
        window=rounded(length[sure]),
        excess=rounded(np.where(significant[..., 2] & (hits[..., 2] > 0), excess, 0.0)),
    )


def phi(
    dispersion: Dispersion,
    *,
    stable_rate: Array,
    canary_rate: Array,
    stable_nodes: Integers,
    canary_nodes: Integers,
) -> Array:
    """By how much the variance of the arms' difference exceeds that of independent requests (...); >= 1.

    From the correlation of requests within a node and window (intra-class correlation), scaled to
    the load of the nodes at hand: a canary node with ten times stable's load has ten times the
    excess. With fewer than three stable nodes it is the prior.

    Reference: Kish (1965), the design effect 1 + correlation x (cluster size - 1).
    """
    few = np.asarray(stable_nodes < FEW)[..., None]
    correlation = np.where(few, PRIOR_CORRELATION, dispersion.correlation)
    window = np.where(few, SPANS[:2], dispersion.window)
    of_canary = correlation * np.maximum(
        window * (canary_rate / np.maximum(canary_nodes, 1))[..., None] - 1, 0
    )
    of_stable = correlation * np.maximum(
        window * (stable_rate / np.maximum(stable_nodes, 1))[..., None] - 1, 0
    )
    part = (canary_rate / np.maximum(canary_rate + stable_rate, 1e-9))[..., None]
    return np.asarray(1 + (of_canary * (1 - part) + of_stable * part).max(axis=-1))


def spread(dispersion: Dispersion, *, slope: Array, stable_nodes: Integers) -> Array:
    """Standard deviation of pods' lasting differences in log latency (...), shrunk towards 3 %.

    `slope` says how fast the log-odds of a hit change with log latency.
    """
    excess = dispersion.excess / np.maximum(slope, 1e-3) ** 2
    weight = np.maximum(stable_nodes - 1, 0)
    return np.asarray(
        np.sqrt((PRIOR_SPREAD_DF * PRIOR_SPREAD**2 + weight * excess) / (PRIOR_SPREAD_DF + weight))
    )


def lasting_ratio(spread_of_pods: Array, *, stable_nodes: Integers, canary_nodes: Integers) -> Array:
    """The ratio that pods alike in software can show for good, by the luck of their nodes (99 %)."""
    t = stdtrit(3 + stable_nodes, 0.99)
    per_node = np.sqrt(1 / np.maximum(canary_nodes, 1) + 1 / np.maximum(stable_nodes, 1))
    return np.asarray(np.exp(t * spread_of_pods * per_node))


def _scatter(n: Array, k: Array, length: Array) -> Array:
    """What closed windows add to `sums` (..., 5), by requests and hits (..., P); 0 where they say nothing."""
    some, whole = n > 0, n.sum(axis=-1)
    nodes = some.sum(axis=-1)
    p = k.sum(axis=-1) / np.maximum(whole, 1.0)
    odd = (nodes < 2) | (p <= 0) | (p >= 1)
    p, nodes = np.where(odd, 0.5, p)[..., None], np.maximum(nodes, 1)
    hits = n * p * (1 - p)
    own = np.where(some, hits * (1 - n / np.maximum(whole, 1.0)[..., None]), np.inf)
    z2 = ((k - n * p) ** 2 / np.maximum(own, 1e-12)).sum(axis=-1) / nodes
    entries = np.stack([np.ones_like(z2), z2, whole / nodes, hits.sum(axis=-1) / nodes, length], axis=-1)
    return np.asarray(np.where(odd[..., None], 0.0, (nodes - 1.0)[..., None] * entries))


def _significant(df: Array, z2: Array, hits: Array) -> Mask:
    """Whether independent requests show such a z2 once in a hundred times at most.

    Few hits have heavier tails (kurtosis 1/hits), as fewer degrees of freedom would have.
    """
    df = np.maximum(2 * df / (2 + 1 / np.maximum(hits, 1e-9)), 1e-9)
    return np.asarray(gammaincc(df / 2, z2 * df / 2) < RARELY)
