"""Ticks of many canaries scored at once: those of equal shapes as one value, at a fraction of the cost.

What one canary's tick costs alone is what numpy's calls cost; side by side they are shared.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import lru_cache

from analysis.batches import apart, shapes, stacked
from analysis.cells import Packed, unpacked
from analysis.evidence import CheckSpec, Evidence, advanced, prepared
from analysis.samples import Sample
from analysis.state import Standing, standing

MOST = 256  # side by side; beyond, their arrays leave the processor's cache


def updated(ticks: Sequence[tuple[Evidence, Sample, Sample]]) -> list[Evidence]:
    """`evidence.update` of each (evidence, stable, canary), bit by bit."""
    after = [evidence for evidence, _, _ in ticks]
    alike: dict[Hashable, list[tuple[int, Evidence, Packed]]] = {}
    for place, each in enumerate(ticks):
        ready = prepared(*each)
        if ready is not None:
            alike.setdefault(_shape(*ready), []).append((place, *ready))
    for group in alike.values():
        for first in range(0, len(group), MOST):
            places, evidence, new = zip(*group[first : first + MOST], strict=True)
            for place, one in zip(places, _advanced(evidence, new), strict=True):
                after[place] = one
    return after


def _advanced(each: Sequence[Evidence], ticks: Sequence[Packed]) -> list[Evidence]:
    if len(each) == 1:
        return [advanced(each[0], unpacked(ticks, ()))]
    after = advanced(stacked(each), unpacked(ticks, (len(ticks),)))
    parts, known = apart(after, each), (array.tolist() for array in standing(after))
    for one, *numbers in zip(parts, *known, strict=True):
        object.__setattr__(one, "standing", Standing(*numbers))  # new and nobody's yet
    return parts


def _shape(evidence: Evidence, tick: Packed) -> Hashable:
    """All that canaries must have in common to be scored as one value."""
    memory = evidence.memory
    return (
        _asked(evidence.spec),
        evidence.burst_tolerance,
        evidence.step_timeout,
        memory.le,
        memory.canary_le,
        len(evidence.groups),
        shapes(evidence),
        tick.shape,
    )


@lru_cache(maxsize=1024)  # checks of the plans that are under way
def _asked(spec: CheckSpec) -> CheckSpec:
    """What the check asks, whatever it is called."""
    return replace(spec, name="", required=True, share=1.0, counters=())
