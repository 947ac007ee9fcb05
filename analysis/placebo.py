"""Placebos: stable's own nodes judged as if they were the canary. They show how far noise alone carries it.

Each placebo is a few of stable's nodes, as many as the canary has, against all the others: the same
evidence, from the same ticks, over the same steps. All of a check's are one `Evidence` with a leading axis
(M placebos); its `groups` and `nodes` are those of the first, whose nodes and the others' together are
all of stable's, in order of appearance.

What they can show: that evidence on *these* pods is not what its guarantee takes for granted. What they
cannot: what did not happen while they ran. Rare bursts need days, and a run has minutes. And with M
placebos chance alone brings one to the line in up to M x alpha of runs.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from analysis import evidence as ev
from analysis.abreast import common
from analysis.batches import apart, shapes, stacked, taken
from analysis.cells import COUNT, Arm, Tick, in_cells, joined
from analysis.dispersion import FEW, interrupted
from analysis.evidence import Evidence
from analysis.samples import Sample
from analysis.tracks import MOST_GROUPS

Asked = tuple[Evidence, Sample, Sample, int]  # placebos, a tick's stable and canary, how many nodes it has

MOST = 4  # side by side; a check's cost little more than one canary, but each takes as much memory


def begin(known: Evidence) -> Evidence:
    """Evidence (M,) of nothing yet, of as many placebos as there can be, that know what a run's own knows.

    That is how stable is and how its pods differ, and which step it is. Without it they would be judged by
    less than the canary is, and look noisier.
    """
    fresh = ev.blank(
        known.spec,
        steps=known.steps,
        burst_tolerance=known.burst_tolerance,
        step_timeout=known.step_timeout,
        finished=known.finished.shape[-1],
        le=known.memory.le,
        canary_le=known.memory.le,
    )
    return stacked(
        MOST
        * [
            replace(
                fresh,
                step=known.step,
                step_began=known.step_began,
                at=known.at,
                stable_nodes=known.stable_nodes,
                memory=replace(fresh.memory, recent=known.memory.recent),
                dispersion=interrupted(known.dispersion),
            )
        ]
    )


def update(evidence: Evidence, stable: Sample, canary: Sample, *, nodes: int) -> Evidence:
    """With one tick of stable, in which placebos had traffic if the `canary` had (it has `nodes` nodes).

    Bit by bit what `evidence.update` makes of a placebo's pods as canary and the others as stable, where all
    pods have the same buckets. Of fewer than three stable nodes there are none: the evidence stays as it is.
    """
    return updated([(evidence, stable, canary, nodes)])[0]


def updated(asked: Sequence[Asked]) -> list[Evidence]:
    """`update` of the placebos of any number of runs, bit by bit: those of equal shapes side by side."""
    after, alike = [each[0] for each in asked], dict[Hashable, list[tuple[int, Evidence, Tick]]]()
    for place, each in enumerate(asked):
        after[place], tick = _prepared(*each)
        if tick is not None:
            shape = common(after[place]), shapes(after[place]), shapes(tick)
            alike.setdefault(shape, []).append((place, after[place], tick))
    for group in alike.values():
        places, some, ticks = zip(*group, strict=True)
        for place, one in zip(places, _advanced(some, ticks), strict=True):
            after[place] = one
    return after


def _advanced(each: Sequence[Evidence], ticks: Sequence[Tick]) -> list[Evidence]:
    if len(each) == 1:
        return [ev.advanced(each[0], ticks[0])]
    return apart(ev.advanced(stacked(each), stacked(ticks)), each)


def _prepared(evidence: Evidence, stable: Sample, canary: Sample, nodes: int) -> tuple[Evidence, Tick | None]:
    """The evidence with room for one tick, and the tick; None for one that is ignored, or of too few."""
    if (stable.end <= evidence.at).any():
        return evidence, None
    kind, there = evidence.spec.kind, bool(canary.pods)
    of, _ = in_cells(kind, evidence.memory, stable, stable)
    coarser = joined(kind, evidence.memory, of.le, of.le)
    if coarser is not None:
        evidence, there = replace(evidence, memory=coarser), False
    evidence = ev.with_buckets(evidence, of, of, stable.start)
    if not evidence.nodes:
        if len(of.cells) < FEW:
            return evidence, None
        evidence = _chosen(evidence, of, nodes)
    rest = {node: cells for node, cells in of.cells.items() if node not in evidence.groups}
    evidence = ev.with_nodes(evidence, Arm(of.le, rest), Arm(of.le, {}))
    return evidence, _tick(evidence, of, stable, there=there)


def _chosen(evidence: Evidence, of: Arm, nodes: int) -> Evidence:
    """With stable's nodes dealt out: as many to a placebo as the canary has, while three others are left."""
    keys = tuple(of.cells)
    size = max(1, min(nodes, MOST_GROUPS, len(keys) - FEW))
    fewer = taken(replace(evidence, groups=()), slice(len(keys) // size))
    own, rest = dict.fromkeys(keys[:size], b""), dict.fromkeys(keys[size:], b"")
    return ev.with_nodes(fewer, Arm(of.le, rest), Arm(of.le, own))


def _tick(evidence: Evidence, of: Arm, stable: Sample, *, there: bool) -> Tick:
    """The tick as each placebo sees it."""
    everyone, (count,), size = (*evidence.groups, *evidence.nodes), evidence.step.shape, len(evidence.groups)
    own = np.arange(count * size).reshape(count, size)  # places among everyone, of each one's nodes
    rest = np.array([np.delete(np.arange(len(everyone)), places) for places in own])
    width = evidence.memory.recent.shape[-1]
    nothing = bytes(COUNT(0).nbytes * width)
    counted = b"".join(of.cells.get(node, nothing) for node in everyone)
    rows = np.frombuffer(counted, COUNT).reshape(-1, width).astype(float)
    seen = np.array([node in of.cells for node in everyone])
    return Tick(
        np.full(count, stable.start),
        np.full(count, stable.end),
        rows[rest],
        rows[own] * there,
        seen[rest].sum(axis=-1),
        seen[own].sum(axis=-1) * there,
    )
