"""Evidence as a JSON value and back: what a new leader needs to go on as if nothing had been."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.bursts import Bursts
from analysis.dispersion import Dispersion
from analysis.informed import Informed
from analysis.packing import Array, Unpacking, packed
from analysis.state import CheckSpec, Evidence, Memory
from analysis.tracks import Tracks

EVIDENCE_VERSION = 3  # raised when what is saved, or what it means, changes


def save(evidence: Evidence) -> dict[str, Any]:
    """A JSON value that `load` turns into the same evidence, bit by bit; finite, a few kB."""
    memory, state = evidence.memory, evidence.tracks
    return {
        "version": EVIDENCE_VERSION,
        "kind": evidence.spec.kind.value,
        "finished": list(evidence.finished),
        "began": evidence.step_began,
        "at": evidence.at,
        "bothAt": evidence.both_at,
        "groups": list(evidence.groups),
        "stableNodes": evidence.stable_nodes,
        "phi": evidence.phi,
        "le": list(memory.le),
        "canaryLe": None if memory.canary_le == memory.le else list(memory.canary_le),
        "noiseNodes": [int(node) for node in evidence.dispersion.nodes],
        "warmUp": state.warm_up,
        "given": state.given,
        "blockEnds": state.block_ends,
        **packed(_arrays(evidence)),
    }


def load(
    spec: CheckSpec,
    value: Mapping[str, Any],
    *,
    steps: int,
    burst_tolerance: float = 6.0,
    step_timeout: float = 600.0,
) -> Evidence:
    """The evidence that was saved; ValueError where it is of another version or kind of check."""
    if value.get("version") != EVIDENCE_VERSION or value.get("kind") != spec.kind.value:
        raise ValueError(f"evidence of check {spec.name} was saved by another version: restart the step")
    arrays, le = Unpacking(value), tuple(value["le"])
    canary_le = le if value["canaryLe"] is None else tuple(value["canaryLe"])
    nodes = np.array(value["noiseNodes"], dtype=np.uint32)
    return Evidence(
        spec=spec,
        steps=steps,
        burst_tolerance=burst_tolerance,
        step_timeout=step_timeout,
        finished=tuple(value["finished"]),
        step_began=value["began"],
        at=value["at"],
        both_at=value["bothAt"],
        groups=tuple(value["groups"]),
        stable_nodes=value["stableNodes"],
        phi=value["phi"],
        memory=Memory(le, canary_le, *arrays.take(4)),
        dispersion=Dispersion(nodes, *arrays.take(4)),
        tracks=_tracks(value, arrays),
        informed=_informed(arrays),
        weight=arrays.take(1)[0],
        passing=arrays.take(1)[0],
        tally=arrays.take(1)[0],
    )


def _tracks(value: Mapping[str, Any], arrays: Unpacking) -> Tracks:
    whole, base, without = arrays.take(3)
    warm_up, given, ends = value["warmUp"], value["given"], value["blockEnds"]
    return Tracks(whole, base, without, Bursts(*arrays.take(3)), warm_up, given, ends)


def _informed(arrays: Unpacking) -> Informed:
    began, base, gained = arrays.take(3)
    return Informed(began, base, gained, Bursts(*arrays.take(3)), arrays.take(1)[0])


def _arrays(evidence: Evidence) -> list[Array]:
    memory, noise, state, bet = evidence.memory, evidence.dispersion, evidence.tracks, evidence.informed
    return [
        *(memory.recent, memory.recent_canary, memory.step_stable, memory.step_canary),
        *(noise.n, noise.k, noise.length, noise.sums),
        *(state.whole, state.base, state.without),
        *(state.bursts.over, state.bursts.marks, state.bursts.windows),
        *(bet.began, bet.base, bet.gained),
        *(bet.bursts.over, bet.bursts.marks, bet.bursts.windows, bet.belief),
        *(evidence.weight, evidence.passing, evidence.tally),
    ]
