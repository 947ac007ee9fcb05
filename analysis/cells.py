"""Samples as cells by node, and the memory of them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct, error
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.dispersion import MOST_NODES, key
from analysis.grids import is_of_a_grid, shared, whole
from analysis.packing import NEVER, shortened
from analysis.proportions import Array, Integers, Mask, Places
from analysis.quantiles import ROUNDED
from analysis.samples import (
    Counts,
    Histogram,
    PodSample,
    Sample,
    Statistic,
    bounds_of,
    coarsened,
    usual_bounds,
)
from analysis.state import LEAST, MEMORIES, OF_CANARY, CheckKind, Memory
from analysis.tracks import MOST_GROUPS
from analysis.values import replace

Nodes = Mapping[int, bytes]  # each K counts of 64 bits
COUNT = np.uint64


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """One tick of each canary (...): cells by node, `stable` (..., P, K_s) and `canary` (..., N, K_c).

    `stable_cells` (..., K_s) and `canary_cells` (..., K_c) are their sums; `start`, `end` (...) in seconds;
    `stable_nodes`, `canary_nodes` (...): how many were there, with requests or without.
    """

    start: Array
    end: Array
    stable: Array
    canary: Array
    stable_nodes: Integers
    canary_nodes: Integers
    stable_cells: Array = field(init=False)
    canary_cells: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stable_cells", self.stable.sum(axis=-2))
        object.__setattr__(self, "canary_cells", self.canary.sum(axis=-2))

    @property
    def seconds(self) -> Array:
        """How long it lasted (...)."""
        return np.maximum(self.end - self.start, 1e-3)


class Packed(NamedTuple):
    """One canary's tick with its cells as bytes: many become a `Tick` in a few calls, not a few each.

    `shape`: P, K_s, N and K_c of the `Tick`.
    """

    start: float
    end: float
    stable: bytes
    canary: bytes
    shape: tuple[int, int, int, int]
    stable_nodes: int
    canary_nodes: int


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One arm's cells by node's key, as bytes, in the buckets that most of its pods use."""

    le: tuple[float, ...]
    cells: Nodes


def as_known(kind: CheckKind, memory: Memory, stable: Sample, canary: Sample) -> tuple[Arm, Arm] | None:
    """Both arms in the buckets of the memory, if every pod has these: the usual case, in little time."""
    le = memory.le
    if le is not memory.canary_le and le != memory.canary_le:
        return None
    of, width = (Counts, 2) if kind.counted else (Histogram, len(le) + 1)
    arms = []
    for arm in (stable, canary):
        for pod in arm.pods:
            used = bounds_of(pod.value)
            if (used is not le and used != le) or not isinstance(pod.value, of):
                return None
        arms.append(Arm(le, _added(arm.pods, width)))
    return arms[0], arms[1]


def in_cells(kind: CheckKind, memory: Memory, stable: Sample, canary: Sample) -> tuple[Arm, Arm]:
    """Both arms in the buckets that most pods of each use; other pods are left out.

    Native histograms are joined to the coarsest schema of an arm's pods and of the memory. Predictions can
    only be compared in buckets both arms have, so theirs are joined to those.
    """
    of_stable = _fitting(kind, stable, memory.le)
    of_canary = _fitting(kind, canary, memory.canary_le)
    le = usual_bounds(of_stable, known=memory.le)
    canary_le = usual_bounds(of_canary, known=memory.canary_le or le)
    nodes, canary_nodes = _by_node(of_stable, le), _by_node(of_canary, canary_le)
    if kind is CheckKind.PREDICTIONS and le != canary_le:
        theirs = set(canary_le)
        common = tuple(bound for bound in le if bound in theirs)
        nodes, canary_nodes = _coarse(nodes, le, common), _coarse(canary_nodes, canary_le, common)
        le = canary_le = common
    return Arm(le, nodes), Arm(canary_le, canary_nodes)


def arranged(
    kind: CheckKind,
    stable: Arm,
    canary: Arm,
    *,
    nodes: tuple[int, ...],
    groups: tuple[int, ...],
    start: float,
    end: float,
) -> Packed:
    """The arms as a tick, its rows in the order of these nodes; more than there is room for share rows."""
    rows, canary_rows = max(min(len(nodes), MOST_NODES), 1), max(min(len(groups), MOST_GROUPS), 1)
    width, canary_width = (2, 2) if kind.counted else (len(stable.le) + 1, len(canary.le) + 1)
    return Packed(
        start,
        end,
        _rows(stable, nodes, rows, width),
        _rows(canary, groups, canary_rows, canary_width),
        (rows, width, canary_rows, canary_width),
        len(stable.cells),
        len(canary.cells),
    )


def unpacked(each: Sequence[Packed], several: tuple[int, ...]) -> Tick:
    """The ticks of so many canaries as one; of one alone with no axis for them."""
    starts, ends, stable, canary, shapes, *counts = zip(*each, strict=True)
    rows, width, canary_rows, canary_width = shapes[0]
    return Tick(
        np.array(starts).reshape(several),
        np.array(ends).reshape(several),
        _counts(stable).reshape(*several, rows, width).astype(float),
        _counts(canary).reshape(*several, canary_rows, canary_width).astype(float),
        *(np.array(count).reshape(several) for count in counts),
    )


def known(nodes: tuple[int, ...], seen: Collection[int], *, most: int) -> tuple[int, ...]:
    """The nodes with those new ones that there is room for."""
    if nodes == tuple(seen):  # the usual case
        return nodes
    new = tuple(sorted(set(seen) - set(nodes)))
    return (*nodes, *new)[:most] if new else nodes


def blank(
    kind: CheckKind,
    le: tuple[float, ...] = (),
    canary_le: tuple[float, ...] = (),
    several: tuple[int, ...] = (),
) -> Memory:
    """Nothing learned yet, in these buckets; `several`: of as many canaries."""
    counts = kind.counted
    stable = np.zeros((*several, 2 if counts else len(le) + 1))
    canary = np.zeros((*several, 2 if counts else len(canary_le) + 1))
    recent = np.zeros((*several, len(MEMORIES), stable.shape[-1]))
    recent_canary = np.zeros((*several, len(OF_CANARY), canary.shape[-1]))
    return Memory(le, canary_le, recent, recent_canary, stable, canary)


def remembered(memory: Memory, tick: Tick, *, since: Array) -> Memory:
    """With the tick added, and what was before faded by the time since the last one's end.

    Of stable no less is kept than `LEAST` requests: where these are all that there were for minutes, what it
    did then is the best that is known.
    """
    stable, canary = tick.stable_cells, tick.canary_cells
    began = np.where(since > NEVER, np.minimum(tick.start, since), tick.start)
    passed = np.maximum(tick.end - began, 0.0)[..., None, None]
    there = (tick.canary_nodes > 0)[..., None]
    room = (LEAST - stable.sum(axis=-1)[..., None]) / np.maximum(memory.recent.sum(axis=-1), 1e-9)
    fade = np.maximum(np.exp(-passed / MEMORIES[:, None]), np.minimum(room, 1.0)[..., None])
    return replace(
        memory,
        recent=shortened(memory.recent * fade + stable[..., None, :]),
        recent_canary=shortened(
            memory.recent_canary * np.exp(-passed / OF_CANARY[:, None]) + canary[..., None, :]
        ),
        step_stable=memory.step_stable + np.where(there, stable, 0.0),
        step_canary=memory.step_canary + canary,
    )


def trimmed(memory: Memory) -> Memory:
    """Without the buckets at either end in which nothing was counted, and with bounds in 32 bits."""
    same = memory.le == memory.canary_le
    used = memory.recent.any(axis=0) | (memory.step_stable > 0)
    canary_used = memory.recent_canary.any(axis=0) | (memory.step_canary > 0)
    if same:
        used = canary_used = used | canary_used
    kept, canary_kept = _span(used), _span(canary_used)
    return Memory(
        _short(memory.le, kept),
        _short(memory.canary_le, canary_kept),
        memory.recent[:, kept],
        memory.recent_canary[:, canary_kept],
        memory.step_stable[kept],
        memory.step_canary[canary_kept],
    )


def fitted(memory: Memory, le: tuple[float, ...], canary_le: tuple[float, ...]) -> Memory | None:
    """The memory in these buckets, if its own bounds are some of them that follow each other; else None."""
    place, canary_place = _place(memory.le, le), _place(memory.canary_le, canary_le)
    if place is None or canary_place is None:
        return None
    return Memory(
        le,
        canary_le,
        _padded(memory.recent, place, len(le) + 1),
        _padded(memory.recent_canary, canary_place, len(canary_le) + 1),
        _padded(memory.step_stable, place, len(le) + 1),
        _padded(memory.step_canary, canary_place, len(canary_le) + 1),
    )


def on_whole_grid(memory: Memory, *arms: Sample) -> Memory:
    """Native histograms' memory as a checkpoint kept it, with all bounds of its grid again.

    Only these are known to be some of a finer one's, if that is what the tick's have.
    """
    le, canary_le = whole(memory.le), whole(memory.canary_le)
    if (le, canary_le) == (memory.le, memory.canary_le):
        return memory
    used = {pod.value.le for arm in arms for pod in arm.pods if isinstance(pod.value, Histogram)}
    fits = fitted(memory, le, canary_le) if all(map(is_of_a_grid, used)) else None
    return memory if fits is None else fits


def joined(
    kind: CheckKind, memory: Memory, le: tuple[float, ...], canary_le: tuple[float, ...]
) -> Memory | None:
    """A latency check's memory in these buckets, if native histograms' became coarser; else None."""
    if kind is not CheckKind.LATENCY or not memory.recent.any():
        return None
    known = memory.canary_le if memory.recent_canary.any() else canary_le
    if (memory.le, known) == (le, canary_le):
        return None
    pairs = ((memory.le, le), (memory.canary_le, canary_le))
    if any(before != after and shared((before, after)) != after for before, after in pairs):
        return None
    first, canary_first = _firsts(memory.le, le), _firsts(memory.canary_le, canary_le)
    return Memory(
        le,
        canary_le,
        np.add.reduceat(memory.recent, first, axis=-1),
        np.add.reduceat(memory.recent_canary, canary_first, axis=-1),
        np.add.reduceat(memory.step_stable, first, axis=-1),
        np.add.reduceat(memory.step_canary, canary_first, axis=-1),
    )


def _firsts(fine: tuple[float, ...], le: tuple[float, ...]) -> Places:
    """The first of the fine cells in each wide one."""
    return np.array([0, *np.searchsorted(fine, le, side="right")], dtype=np.intp)


def step_forgotten(memory: Memory) -> Memory:
    """Without the sums of the step."""
    return replace(
        memory,
        step_stable=np.zeros_like(memory.step_stable),
        step_canary=np.zeros_like(memory.step_canary),
    )


def _span(used: Mask) -> slice:
    """From the first to the last cell that is used; two at least, so that one bound lies between."""
    places = np.flatnonzero(used)
    if not len(places) or len(used) < 2:
        return slice(0, len(used))
    first = min(int(places[0]), len(used) - 2)
    return slice(first, max(int(places[-1]), first + 1) + 1)


def _short(le: tuple[float, ...], kept: slice) -> tuple[float, ...]:
    return tuple(np.array(le[kept.start : kept.stop - 1], dtype=np.float32).tolist())


def _place(le: tuple[float, ...], among: tuple[float, ...]) -> int | None:
    """Where the bounds begin among others, up to rounding; None where they are not there."""
    if not le or not among:
        return 0 if le == among else None
    place = int(np.argmin(np.abs(np.array(among) - le[0])))
    here = np.array(among[place : place + len(le)])
    alike = len(here) == len(le) and np.allclose(here, le, rtol=ROUNDED, atol=1e-9)
    return place if alike else None


def _padded(cells: Array, place: int, width: int) -> Array:
    wide = np.zeros((*cells.shape[:-1], width))
    wide[..., place : place + cells.shape[-1]] = cells
    return wide


def _rows(arm: Arm, nodes: tuple[int, ...], rows: int, width: int) -> bytes:
    if tuple(arm.cells) == nodes and len(nodes) == rows:  # the usual case
        return b"".join(arm.cells.values())
    cells = np.zeros((rows, width), COUNT)
    for node, counted in arm.cells.items():
        place = nodes.index(node) if node in nodes else node
        cells[place % rows] += _counts([counted])
    return cells.tobytes()


def _counts(each: Iterable[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(each), COUNT)


def _fitting(kind: CheckKind, sample: Sample, known: tuple[float, ...]) -> list[PodSample]:
    """Pods that counted what the check asks about."""
    if kind.counted:
        return [pod for pod in sample.pods if isinstance(pod.value, Counts)]
    pods = [(pod, pod.value) for pod in sample.pods if isinstance(pod.value, Histogram)]
    if all(value.le == known for _, value in pods):  # the usual case
        return [pod for pod, _ in pods]
    used = {value.le for _, value in pods}
    le = shared({known, *used}) or shared(used) if kind is CheckKind.LATENCY else None
    if le is None:
        return [_lacking(pod, value, known) for pod, value in pods]
    return [replace(pod, value=coarsened(value, le)) for pod, value in pods]


def _lacking(pod: PodSample, value: Histogram, known: tuple[float, ...]) -> PodSample:
    """The pod in the known buckets, if its own are these and some between: pages lack some now and then.

    Not where the known ones follow each other, as a checkpoint's do: there the others are wanted again.
    """
    between = known and value.le != known and set(known) <= set(value.le) and _place(known, value.le) is None
    return replace(pod, value=coarsened(value, known)) if between else pod


def _coarse(nodes: Nodes, le: tuple[float, ...], common: tuple[float, ...]) -> Nodes:
    first = _firsts(le, common)
    return {node: np.add.reduceat(_counts([cells]), first).tobytes() for node, cells in nodes.items()}


def _by_node(pods: Sequence[PodSample], le: tuple[float, ...]) -> Nodes:
    """Cells of each node by its key, in order; pods with other buckets or with negative counts are left out.

    A pod that does not know its node stands for itself; those of one node are added up.
    """
    width = len(le) + 1 if le or not pods or isinstance(pods[0].value, Histogram) else 2
    return _added([pod for pod in pods if bounds_of(pod.value) == le], width)


def _added(pods: Iterable[PodSample], width: int) -> Nodes:
    """The same of pods that all have so many cells, except for those that have not."""
    pack, nodes = _packing(width), dict[int, bytes]()
    for pod in pods:
        if (cells := _packed(pack, pod.value)) is not None:
            node = key(pod.node or pod.name)
            known = nodes.get(node)
            nodes[node] = cells if known is None else (_counts([known]) + _counts([cells])).tobytes()
    return dict(sorted(nodes.items()))


@lru_cache(maxsize=64)
def _packing(width: int) -> Callable[..., bytes]:
    """So many counts as bytes: the quickest way to an array of them."""
    return Struct(f"={width}Q").pack


def _packed(pack: Callable[..., bytes], value: Statistic) -> bytes | None:
    """The cells as bytes; None where these are not as many as there are bounds for, or negative."""
    try:
        return pack(*value.cells)
    except error:
        return None
