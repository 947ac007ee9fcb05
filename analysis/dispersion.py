"""How noisy pods are: how much more their counts scatter than independent requests would.

Requests of one pod share its garbage collector, its neighbours on the node, its luck. Measured on
the stable pods, between pods of the same time span, so whatever happens to all of them cancels. The
result tempers the evidence (log e / phi^power): asymptotically calibrated, not a theorem, and
therefore validated by simulation (tests/validity).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc, stdtrit

from analysis.packing import rounded
from analysis.proportions import Array

SPANS = np.array([10.0, 40.0, 160.0])  # s; the first two for phi, the last for lasting differences
PRIOR_CORRELATION, PRIOR_DF = 0.02, 6.0  # of requests within 10 s of a pod, and how sure we are
PRIOR_SPREAD, PRIOR_SPREAD_DF = 0.03, 4.0  # of pods' log latency
RARELY = 0.01  # asked every ten seconds; at two standard errors one quiet run in twelve was called noisy
FEW = 3  # stable pods; with fewer nothing can be measured between them
FADE = 1800.0  # s; what was measured fades with this time constant
MOST_NODES = 32  # stable nodes followed; the controller reads at most 20 pods


@dataclass(frozen=True, slots=True, eq=False)
class Dispersion:
    """Open windows of each span W, and the sums over closed ones.

    `nodes` (P,) are stable nodes' keys, `n` and `k` (3, P) requests and hits in the open windows,
    `length` (3,) how long these are open in seconds. `sums` (3, 5): degrees of freedom, and weighted
    by them: squared deviation z2, requests per node, variance of hits per node, window length.
    """

    nodes: NDArray[np.uint32]
    n: Array
    k: Array
    length: Array
    sums: Array


def unmeasured() -> Dispersion:
    """Nothing seen yet."""
    spans = len(SPANS)
    empty = np.zeros((spans, 0))
    return Dispersion(np.zeros(0, dtype=np.uint32), empty, empty, np.zeros(spans), np.zeros((spans, 5)))


def interrupted(dispersion: Dispersion) -> Dispersion:
    """Open windows are dropped, what closed ones said is kept: pods changed."""
    return replace(unmeasured(), sums=dispersion.sums)


def key(node: str) -> int:
    """A node's name in four bytes, the same in every process."""
    return crc32(node.encode())


def observed(
    dispersion: Dispersion, counts: Mapping[int, tuple[float, float]], *, seconds: float
) -> Dispersion:
    """With one tick of the stable nodes added: requests and hits of each, by `key`."""
    nodes = _followed(dispersion.nodes, counts)
    n, k = _placed(dispersion.n, dispersion.nodes, nodes), _placed(dispersion.k, dispersion.nodes, nodes)
    known = [one for one in nodes.tolist() if one in counts]
    at = np.searchsorted(nodes, np.array(known, dtype=np.uint32))
    seen = np.array([counts[one] for one in known], dtype=float).reshape(-1, 2)
    n[:, at] += seen[:, 0]
    k[:, at] += seen[:, 1]
    length = dispersion.length + seconds
    sums = dispersion.sums.copy()
    for span in np.flatnonzero(length >= SPANS - 1e-6):
        sums[span] = sums[span] * np.exp(-length[span] / FADE) + _scatter(n[span], k[span], length[span])
        n[span], k[span], length[span] = 0.0, 0.0, 0.0
    return Dispersion(nodes, rounded(n), rounded(k), rounded(length), rounded(sums))


def phi(
    dispersion: Dispersion, *, stable_rate: float, canary_rate: float, stable_nodes: int, canary_nodes: int
) -> float:
    """By how much the variance of the arms' difference exceeds that of independent requests; >= 1.

    From the correlation of requests within a node and window (intra-class correlation), scaled to
    the load of the nodes at hand: a canary node with ten times stable's load has ten times the
    excess. With fewer than three stable nodes it is the prior.

    Reference: Kish (1965), the design effect 1 + correlation x (cluster size - 1).
    """
    worst = 1.0
    for span in (0, 1):
        df, z2, size, hits, length = dispersion.sums[span]
        prior = PRIOR_CORRELATION * 10.0 / SPANS[span]
        if stable_nodes < FEW:
            correlation, length = prior, SPANS[span] * max(df, 1.0)
            df = max(df, 1.0)
        elif df <= 0 or not _significant(df, z2 / df, hits / df):
            continue
        else:
            measured = (z2 / df * (1 + np.sqrt(2 / df)) - 1) / max(size / df - 1, 1.0)
            correlation = min(1.0, max(0.0, (PRIOR_DF * prior + df * measured) / (PRIOR_DF + df)))
        window = length / df
        of_canary = _design_effect(correlation, canary_rate * window / max(canary_nodes, 1))
        of_stable = _design_effect(correlation, stable_rate * window / max(stable_nodes, 1))
        total = max(canary_rate + stable_rate, 1e-9)
        worst = max(worst, (of_canary * stable_rate + of_stable * canary_rate) / total)
    return float(worst)


def spread(dispersion: Dispersion, *, slope: float, stable_nodes: int) -> float:
    """Standard deviation of pods' lasting differences in log latency, shrunk towards 3 %.

    `slope` says how fast the log-odds of a hit change with log latency.
    """
    df, z2, _, hits, _ = dispersion.sums[2]
    excess = 0.0
    if df > 0 and hits > 0 and _significant(df, z2 / df, hits / df):
        excess = max(0.0, z2 / df - 1) / (hits / df) / max(slope, 1e-3) ** 2
    weight = max(stable_nodes - 1, 0)
    return float(np.sqrt((PRIOR_SPREAD_DF * PRIOR_SPREAD**2 + weight * excess) / (PRIOR_SPREAD_DF + weight)))


def lasting_ratio(spread_of_pods: float, *, stable_nodes: int, canary_nodes: int) -> float:
    """The ratio that pods alike in software can show for good, by the luck of their nodes (99 %)."""
    t = stdtrit(3 + stable_nodes, 0.99)
    return float(np.exp(t * spread_of_pods * np.sqrt(1 / max(canary_nodes, 1) + 1 / max(stable_nodes, 1))))


def _followed(known: NDArray[np.uint32], counts: Mapping[int, tuple[float, float]]) -> NDArray[np.uint32]:
    fresh = sorted(set(counts) - set(known.tolist()))
    if not fresh:
        return known
    return np.sort(np.append(known, np.array(fresh[: MOST_NODES - len(known)], dtype=np.uint32)))


def _placed(values: Array, known: NDArray[np.uint32], nodes: NDArray[np.uint32]) -> Array:
    wide = np.zeros((len(values), len(nodes)))
    wide[:, np.searchsorted(nodes, known)] = values
    return wide


def _scatter(n: Array, k: Array, length: float) -> Array:
    """One closed window's entry in `sums`; zero where nothing can be said."""
    n, k = n[n > 0], k[n > 0]
    p = k.sum() / max(n.sum(), 1.0)
    if len(n) < 2 or p <= 0 or p >= 1:
        return np.zeros(5)
    hits = n * p * (1 - p)
    z2 = np.mean((k - n * p) ** 2 / (hits * (1 - n / n.sum())))
    return (len(n) - 1.0) * np.array([1.0, z2, n.mean(), hits.mean(), length])


def _significant(df: float, z2: float, hits: float) -> bool:
    """Whether independent requests show such a z2 once in a hundred times at most.

    Few hits have heavier tails (kurtosis 1/hits), as fewer degrees of freedom would have.
    """
    df = 2 * df / (2 + 1 / max(hits, 1e-9))
    return bool(gammaincc(df / 2, z2 * df / 2) < RARELY)


def _design_effect(correlation: float, size: float) -> float:
    return 1 + correlation * max(size - 1, 0.0)
