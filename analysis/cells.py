"""Samples as cells by node, and the memory of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from analysis.dispersion import key
from analysis.packing import rounded
from analysis.proportions import Array
from analysis.samples import Counts, Histogram, PodSample, Sample, by_node, coarsened, usual_bounds
from analysis.state import CheckKind, Memory

MEMORIES = np.array([60.0, 15.0])  # s; fading with these weighs like windows of 120 s and 30 s


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """One tick: for both arms cells by node's key, and their sums."""

    start: float
    end: float
    le: tuple[float, ...]
    canary_le: tuple[float, ...]
    stable: dict[int, Array]
    canary: dict[int, Array]
    stable_cells: Array
    canary_cells: Array

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return max(self.end - self.start, 1e-3)


def in_cells(kind: CheckKind, memory: Memory, stable: Sample, canary: Sample) -> Tick:
    """The tick in the buckets that most pods of each arm use; other pods are left out.

    Predictions can only be compared in buckets both arms have, so theirs are joined to those.
    """
    of_stable, of_canary = _fitting(kind, stable), _fitting(kind, canary)
    le = usual_bounds(of_stable, known=memory.le)
    canary_le = usual_bounds(of_canary, known=memory.canary_le or le)
    nodes, canary_nodes = by_node(of_stable, le), by_node(of_canary, canary_le)
    if kind is CheckKind.PREDICTIONS:
        common = tuple(bound for bound in le if bound in set(canary_le))
        nodes, canary_nodes = _coarse(nodes, le, common), _coarse(canary_nodes, canary_le, common)
        le = canary_le = common
    start = min(stable.start, canary.start) if canary.pods else stable.start
    by_stable, by_canary = _by_key(nodes), _by_key(canary_nodes)
    counts = kind is CheckKind.ERROR_RATE
    return Tick(
        start,
        max(stable.end, canary.end),
        le,
        canary_le,
        by_stable,
        by_canary,
        sum(by_stable.values(), np.zeros(2 if counts else len(le) + 1)),
        sum(by_canary.values(), np.zeros(2 if counts else len(canary_le) + 1)),
    )


def blank(kind: CheckKind, le: tuple[float, ...] = (), canary_le: tuple[float, ...] = ()) -> Memory:
    """Nothing learned yet, in these buckets."""
    counts = kind is CheckKind.ERROR_RATE
    stable, canary = np.zeros(2 if counts else len(le) + 1), np.zeros(2 if counts else len(canary_le) + 1)
    return Memory(le, canary_le, np.zeros((len(MEMORIES), len(stable))), canary, stable, canary)


def remembered(memory: Memory, tick: Tick, *, since: float | None) -> Memory:
    """With the tick added, and what was before faded by the time since the last one's end."""
    began = tick.start if since is None else min(tick.start, since)
    fade = np.exp(-max(tick.end - began, 0.0) / MEMORIES)
    together = tick.stable_cells if tick.canary else 0.0
    return replace(
        memory,
        recent=rounded(memory.recent * fade[:, None] + tick.stable_cells),
        recent_canary=rounded(memory.recent_canary * fade[0] + tick.canary_cells),
        step_stable=rounded(memory.step_stable + together),
        step_canary=rounded(memory.step_canary + tick.canary_cells),
    )


def step_forgotten(memory: Memory) -> Memory:
    """Without the sums of the step."""
    return replace(
        memory,
        step_stable=np.zeros_like(memory.step_stable),
        step_canary=np.zeros_like(memory.step_canary),
    )


def _fitting(kind: CheckKind, sample: Sample) -> list[PodSample]:
    shape = Counts if kind is CheckKind.ERROR_RATE else Histogram
    return [pod for pod in sample.pods if isinstance(pod.value, shape)]


def _coarse(
    nodes: Mapping[str, tuple[int, ...]], le: tuple[float, ...], common: tuple[float, ...]
) -> dict[str, tuple[int, ...]]:
    if le == common:
        return dict(nodes)
    return {node: coarsened(Histogram(le, cells), common).count for node, cells in nodes.items()}


def _by_key(nodes: Mapping[str, tuple[int, ...]]) -> dict[int, Array]:
    return {key(node): np.array(cells, dtype=float) for node, cells in nodes.items()}
