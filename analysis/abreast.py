"""Ticks of many canaries scored at once: those of equal shapes as one value, at a fraction of the cost.

What one canary's tick costs alone is what numpy's calls cost; side by side they are shared. Canaries that
were scored together the last time are one value already, as long as nothing happens to one of them.
"""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from itertools import groupby

from analysis.batches import apart, joined, shapes, stacked, taken
from analysis.cells import Packed, unpacked
from analysis.evidence import CheckSpec, Evidence, advanced, prepared
from analysis.samples import Sample
from analysis.state import LATER, Standing, standing
from analysis.values import replace

MOST = 256  # side by side; beyond, their arrays leave the processor's cache


Ready = tuple[int, Evidence, Packed]


def updated(ticks: Sequence[tuple[Evidence, Sample, Sample]]) -> list[Evidence]:
    """`evidence.update` of each (evidence, stable, canary), bit by bit."""
    after = [evidence for evidence, _, _ in ticks]
    known: dict[int, list[Ready]] = {}  # those that were scored together the last time
    for place, each in enumerate(ticks):
        ready = prepared(*each)
        if ready is not None:
            beside = ready[0].beside
            known.setdefault(~place if beside is None else id(beside[0]), []).append((place, *ready))
    alike: dict[Hashable, list[Ready]] = {}
    for group in known.values():
        group.sort(key=_beside)  # all that were one value are it again
        _, evidence, tick = group[0]
        alike.setdefault(_shape(evidence, tick), []).extend(group)
    for group in alike.values():
        for first in range(0, len(group), MOST):
            places, evidences, new = zip(*group[first : first + MOST], strict=True)
            for place, one in zip(places, _advanced(evidences, new), strict=True):
                after[place] = one
    return after


def _advanced(each: Sequence[Evidence], ticks: Sequence[Packed]) -> list[Evidence]:
    if len(each) == 1:
        return [advanced(each[0], unpacked(ticks, ()))]
    after = advanced(_together(each), unpacked(ticks, (len(ticks),)))
    parts, known = apart(after, each, later=LATER), (array.tolist() for array in standing(after))
    for place, (one, *numbers) in enumerate(zip(parts, *known, strict=True)):
        object.__setattr__(one, "standing", Standing(*numbers))  # new and nobody's yet
        object.__setattr__(one, "beside", (after, place))
    return parts


def _together(each: Sequence[Evidence]) -> Evidence:
    """As one value, of which those parts are taken that are one already."""
    parts = []
    for several, group in groupby(each, lambda one: one.beside and one.beside[0]):
        some = list(group)
        if several is None:
            parts.append(stacked(some))
            continue
        places = [one.beside[1] for one in some if one.beside]
        all_of_it = places == list(range(len(several.step)))
        parts.append(several if all_of_it else taken(several, places))
    return joined(parts)


def _beside(ready: Ready) -> int:
    """Its place in the value that it was scored in."""
    beside = ready[1].beside
    return 0 if beside is None else beside[1]


def _shape(evidence: Evidence, tick: Packed) -> Hashable:
    """All that canaries must have in common to be scored as one value."""
    return common(evidence), _shapes(evidence), tick.shape


def common(evidence: Evidence) -> Hashable:
    """What it asks, in which buckets, of how many groups: beside shapes, all that one value has but once."""
    memory = evidence.memory
    return (
        question_of(evidence.spec),
        evidence.burst_tolerance,
        evidence.step_timeout,
        memory.le,
        memory.canary_le,
        len(evidence.groups),
    )


def _shapes(evidence: Evidence) -> tuple[tuple[int, ...], ...]:
    """Those of its arrays; of one that was scored beside others nothing has to be made for that."""
    if evidence.beside is None:
        return shapes(evidence)
    return tuple(shape[1:] for shape in shapes(evidence.beside[0]))


@lru_cache(maxsize=1024)  # checks of the plans that are under way
def question_of(spec: CheckSpec) -> CheckSpec:
    """What the check asks, whatever it is called."""
    return replace(spec, name="", required=True, share=1.0, counters=())
