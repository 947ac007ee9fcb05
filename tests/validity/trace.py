"""A recorded A/A trace, replayed: its pods play canary against each other, many of them side by side.

Symbols: C canaries, N pods of each, P stable pods, T seconds of the trace, K buckets.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis import evidence as ev
from analysis.cells import Tick
from analysis.evidence import CheckKind, CheckSpec, Evidence, normalised
from analysis.judge import log_term, log_total
from tests.validity.runs import SPECS

STABLE, PODS = np.arange(5), np.arange(7)  # the trace's own canaries are the last two
LAST = 600  # s that a canary is watched
HISTORY, LEAST_HISTORY = 300, 60  # s
ONSET = 200  # s of a cut
AVERAGED = 10  # s
CHECKS = normalised([SPECS[CheckKind.LATENCY], SPECS[CheckKind.ERROR_RATE]])
ALPHA = 0.01

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Trace:
    """By second and pod: latencies (T, P, K), errors and others (T, P, 2), requests (T, P)."""

    bounds: tuple[float, ...]
    latency: NDArray[np.float32]
    counts: NDArray[np.float32]
    requests: Floats


@dataclass(frozen=True, eq=False)
class Canaries:
    """Which pods play canary (C, N), the cut they play in, by its first second (C,), and their rivals.

    `rivals`: the pods that play stable, those that are canary excepted. A canary `begins` (C,) when there
    is enough history of stable, and lives to the end of the cut.
    """

    pods: Integers
    cut: Integers
    rivals: Integers

    @property
    def begins(self) -> Integers:
        return np.maximum(self.cut, LEAST_HISTORY)

    @property
    def onset(self) -> Integers:
        return self.cut + ONSET

    @property
    def stable(self) -> Mask:
        """Which of its rivals (C, P) each is compared with."""
        return ~(self.pods[:, :, None] == self.rivals).any(axis=1)

    def where(self, those: Mask) -> "Canaries":
        return replace(self, pods=self.pods[those], cut=self.cut[those])


@cache
def trace(prefix: str = "") -> Trace:
    """As recorded, or with the prefix "slow_" all of it 1.5 times as slow."""
    with np.load(Path(__file__).parent / "aa-trace.npz") as tables:
        requests, errors, places = (tables[prefix + name] for name in ("requests", "errors", "places"))
        bounds = tuple(tables["bounds"].tolist())
    cell = np.repeat(np.arange(requests.size), requests.ravel()) * (len(bounds) + 1) + places
    latency = np.bincount(cell, minlength=requests.size * (len(bounds) + 1)).astype(np.float32)
    counts = np.stack([requests - errors, errors], axis=-1).astype(np.float32)
    return Trace(bounds, latency.reshape(*requests.shape, -1), counts, requests.astype(float))


def canaries(size: int, among: Integers = PODS, *, rivals: Integers = STABLE) -> Canaries:
    """Every pod, or every pair of pods, in every cut: a minute apart, as long as the trace lasts."""
    pods = np.array(list(combinations(among, size)))
    cuts = np.arange(0, len(trace().requests) - LAST + 1, 60)
    return Canaries(np.tile(pods, (len(cuts), 1)), np.repeat(cuts, len(pods)), rivals)


def parity(of: Canaries) -> Floats:
    """Requests per pod, canary over stable, averaged over the last seconds (C, T)."""
    total = np.cumsum(np.pad(trace().requests, ((AVERAGED, 0), (0, 0))), axis=0)
    recent = total[AVERAGED:] - total[:-AVERAGED]
    canary = recent[:, of.pods].mean(axis=-1).T
    stable = (of.stable @ recent[:, of.rivals].T) / of.stable.sum(axis=1)[:, None]
    return np.asarray(canary / np.maximum(stable, 1e-9))


@dataclass(frozen=True, eq=False)
class Replayed:
    """When each canary was rolled back, in seconds of the trace (infinity: never), and its highest log e."""

    at: Floats
    highest: Floats


def replayed(of: Canaries, *, counted: Mask | None = None, slow: bool = False) -> Replayed:
    """Every canary's life. Latency is not compared in seconds that are not `counted` (C, T).

    `slow`: from the onset on a canary's pods are 1.5 times as slow.
    """
    evidence = [_begun(spec, of) for spec in CHECKS]
    at, highest = np.full(len(of.cut), np.inf), np.full(len(of.cut), -np.inf)
    for place in range(-HISTORY, LAST):
        if place == 0:
            evidence = [ev.restart(one, at=np.zeros(len(of.cut)), same_pods=True) for one in evidence]
        evidence = [
            ev.advanced(one, _tick(of, place, one.spec.kind, counted=counted, slow=slow)) for one in evidence
        ]
        total = log_total([log_term(one) for one in evidence])
        highest = np.maximum(highest, total) if place >= 0 else highest
        at = np.where((total >= -np.log(ALPHA)) & np.isinf(at), of.begins + place + 1.0, at)
    return Replayed(at, highest)


def _begun(spec: CheckSpec, of: Canaries) -> Evidence:
    le = trace().bounds if spec.kind is CheckKind.LATENCY else ()
    size = of.pods.shape[1]
    return ev.blank(
        spec,
        steps=1,
        burst_tolerance=6.0,
        step_timeout=600.0,
        finished=1,
        le=le,
        canary_le=le,
        nodes=tuple(range(len(of.rivals))),
        groups=tuple(range(size)),
        several=(len(of.cut),),
    )


def _tick(of: Canaries, place: int, kind: CheckKind, *, counted: Mask | None, slow: bool) -> Tick:
    second = of.begins + place
    known = (second >= 0) & (second < of.cut + LAST)
    there = known & (place >= 0)
    second = np.where(known, second, 0)
    if counted is not None and kind is CheckKind.LATENCY:
        there = there & counted[np.arange(len(second)), second]
    cells = _cells(trace(), kind)
    stable = cells[second[:, None], of.rivals] * (of.stable & known[:, None])[..., None]
    canary = cells[second[:, None], of.pods]
    if slow:
        ill = _cells(trace("slow_"), kind)[second[:, None], of.pods]
        canary = np.where((second >= of.onset)[:, None, None], ill, canary)
    canary = canary * there[:, None, None]
    return Tick(
        np.full(len(second), float(place)),
        np.full(len(second), place + 1.0),
        stable,
        canary,
        np.where(known, of.stable.sum(axis=1), 0),
        np.where(there, of.pods.shape[1], 0),
    )


def _cells(recorded: Trace, kind: CheckKind) -> NDArray[np.float32]:
    return recorded.latency if kind is CheckKind.LATENCY else recorded.counts
