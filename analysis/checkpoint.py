"""Evidence as a JSON value and back: what a new leader needs to go on as if nothing had been."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from analysis import cells, dispersion, informed, tracks
from analysis.batches import arrays, filled
from analysis.packing import NEVER, Array, ended, first, opened, packed
from analysis.proportions import WAY_TO_ALIKE
from analysis.quantiles import ROUNDED
from analysis.state import INFORMED, LENSES, PROOFS, CheckKind, CheckSpec, Evidence
from analysis.values import replace

EVIDENCE_VERSION = 10  # raised when what is saved, or what it means, changes
OF_EACH = 8  # up to it the beliefs kept were each group's by itself
BY_LZMA = 7  # each check was compressed by itself, by LZMA; the oldest that is read
FACTORS_BEFORE = 7  # that latency's beliefs were about, up to version 9
ALIKE = -1  # bounds: the canary's are stable's


def blank(
    spec: CheckSpec,
    *,
    steps: int,
    burst_tolerance: float,
    step_timeout: float,
    finished: int,
    le: tuple[float, ...] = (),
    canary_le: tuple[float, ...] = (),
    nodes: tuple[int, ...] = (),
    groups: tuple[int, ...] = (),
    several: tuple[int, ...] = (),
) -> Evidence:
    """Evidence of nothing yet, with room for so many finished steps and these buckets and nodes.

    The first step has no warm-up of its own: the policy's dropped what came before. `several`: of as many
    canaries side by side.
    """
    asked, ways = INFORMED[spec.kind]
    lenses, held = len(LENSES[spec.kind]), max(min(len(groups), tracks.MOST_GROUPS), 1)
    return Evidence(
        spec=spec,
        steps=steps,
        burst_tolerance=burst_tolerance,
        step_timeout=step_timeout,
        finished=np.zeros((*several, finished)),
        step=np.zeros(several, dtype=np.int64),
        step_began=np.full(several, NEVER),
        at=np.full(several, NEVER),
        both_at=np.full(several, NEVER),
        nodes=nodes,
        groups=groups,
        stable_nodes=np.zeros(several, dtype=np.int64),
        phi=np.ones(several),
        margin=np.full(several, 1 + spec.max_increase),
        memory=cells.blank(spec.kind, le, canary_le, several),
        dispersion=dispersion.unmeasured(max(len(nodes), 1), several),
        tracks=tracks.fresh(groups=held, lenses=lenses, warm_up=0.0, several=several),
        informed=informed.fresh(groups=held, lenses=asked, ways=ways, several=several),
        passing=np.zeros((*several, PROOFS[spec.kind], len(WAY_TO_ALIKE))),
        tally=np.zeros((*several, 4)),
    )


def save(evidence: Evidence) -> dict[str, Any]:
    """A JSON value that `load` turns into the same evidence, bit by bit; finite, a kB or so.

    Buckets at either end in which nothing was counted are not kept: the next tick brings them back.
    """
    return save_all([evidence])[0]


def save_all(several: Sequence[Evidence]) -> list[dict[str, Any]]:
    """The same of all checks of a run: the first one's `state` holds what all of them are.

    That is an eighth shorter than one by one, and takes two thirds of the time.
    """
    whole = [replace(one, memory=cells.trimmed(one.memory)) for one in several]
    named = [_named(one) for one in whole]
    heads = [_head(*each) for each in zip(whole, named, strict=True)]
    if heads:
        each = [(*map(np.array, names), *arrays(one)) for names, one in zip(named, whole, strict=True)]
        heads[0]["state"] = packed([array for mine in each for array in mine])
    return heads


def _head(evidence: Evidence, named: Sequence[Sequence[float]]) -> dict[str, Any]:
    """What has to be known to read the state."""
    memory = evidence.memory
    bounds = ALIKE if memory.canary_le == memory.le else len(memory.canary_le)
    sizes = [evidence.finished.shape[-1], len(memory.le), bounds, *map(len, named)]
    return {"version": EVIDENCE_VERSION, "kind": evidence.spec.kind.value, "sizes": sizes}


def _named(evidence: Evidence) -> tuple[tuple[float, ...], ...]:
    """What the arrays are of: buckets, and nodes."""
    le, canary_le = evidence.memory.le, evidence.memory.canary_le
    return _ends(le), _ends(() if canary_le == le else canary_le), evidence.nodes, evidence.groups


def load(
    spec: CheckSpec,
    value: Mapping[str, Any],
    *,
    steps: int,
    burst_tolerance: float = 6.0,
    step_timeout: float = 600.0,
) -> Evidence:
    """The evidence that was saved; ValueError where it is of another version or kind of check."""
    terms: dict[str, Any] = {"burst_tolerance": burst_tolerance, "step_timeout": step_timeout}
    return load_all([spec], [value], steps=steps, **terms)[0]


def load_all(
    specs: Sequence[CheckSpec],
    values: Iterable[Mapping[str, Any]],
    *,
    steps: int,
    burst_tolerance: float = 6.0,
    step_timeout: float = 600.0,
) -> tuple[Evidence, ...]:
    """The same of all checks of a run."""
    terms = {"steps": steps, "burst_tolerance": burst_tolerance, "step_timeout": step_timeout}
    found, rest = [], b""
    for spec, value in zip(specs, values, strict=True):
        version = value.get("version", 0)
        if version not in range(BY_LZMA, EVIDENCE_VERSION + 1) or value.get("kind") != spec.kind.value:
            raise ValueError(f"evidence of check {spec.name} was saved by another version: restart the step")
        if "state" in value:
            ended(rest)
            rest = opened(value["state"], checks=len(specs), by_lzma=version == BY_LZMA)
        one, rest = _loaded(spec, value["sizes"], rest, terms, version=version)
        found.append(one)
    ended(rest)
    return tuple(found)


def _loaded(
    spec: CheckSpec, sizes: Sequence[int], state: bytes, terms: Mapping[str, Any], *, version: int
) -> tuple[Evidence, bytes]:
    """One check's evidence, and what follows it in the state."""
    finished, of_stable, of_canary, *lengths = sizes
    (ends, canary_ends, nodes, groups), rest = first(state, [(length,) for length in lengths])
    le = _bounds(ends, of_stable)
    empty = blank(
        spec,
        finished=finished,
        le=le,
        canary_le=le if of_canary == ALIKE else _bounds(canary_ends, of_canary),
        nodes=tuple(int(node) for node in nodes),
        groups=tuple(int(node) for node in groups),
        **terms,
    )
    saved = empty if version == EVIDENCE_VERSION else _believing(empty, _earlier(empty, version))
    numbers, rest = first(rest, [array.shape for array in arrays(saved)])
    found = filled(saved, numbers)
    return (found if saved is empty else _believing(found, empty.informed.belief)), rest


def _earlier(empty: Evidence, version: int) -> Array:
    """Room for beliefs as an earlier version kept them. They are not used: seconds make up new ones."""
    kept, ways = empty.informed.belief.shape
    groups = empty.informed.gained.shape[0] if version <= OF_EACH else kept
    return np.zeros((groups, FACTORS_BEFORE if empty.spec.kind is CheckKind.LATENCY else ways))


def _believing(evidence: Evidence, known: Array) -> Evidence:
    """With these beliefs."""
    return replace(evidence, informed=replace(evidence.informed, belief=known))


@lru_cache(maxsize=1024)  # buckets of the checks that are under way
def _ends(le: tuple[float, ...]) -> tuple[float, ...]:
    """The bounds, or only the first and the last where all lie evenly between, by ratio or by difference."""
    for ends in ((le[:1] + le[-1:]), (*le[:1], *le[-1:], 0.0)):
        if len(le) > 3 and _alike(_bounds(np.array(ends), len(le)), le):
            return ends
    return le


def _bounds(ends: Array, count: int) -> tuple[float, ...]:
    """As many bounds, from what `_ends` made of them."""
    if len(ends) == count:
        return tuple(ends.tolist())
    if len(ends) == 3:
        between = np.linspace(ends[0], ends[1], count)
    elif min(ends) > 0:
        between = np.geomspace(ends[0], ends[1], count)
    else:
        return ()
    return tuple(between.astype(np.float32).tolist())


def _alike(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and np.allclose(one, other, rtol=ROUNDED, atol=1e-9)
