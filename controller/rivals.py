"""What the peers' rules would have done with recorded ticks: each check by its own margin, to the last tick.

They know no pods: an arm is the sum of its pods, in the buckets that most ticks have.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from analysis import peers
from analysis.evidence import CheckSpec
from analysis.peers import Rule, Watched
from analysis.proportions import Array
from analysis.samples import Histogram, Sample, by_node, usual_bounds

Json = Any
Ticks = Sequence[tuple[Sample, Sample]]  # stable's and the canary's


def said(ticks: Sequence[tuple[CheckSpec, Ticks]], *, since: float) -> list[Json]:
    """One entry a rule: when it would have rolled back (None: never), by which check, and a sentence.

    `since`: when the first tick begins; a check's ticks are those that have something of its kind.
    """
    return [_said(rule, ticks, since) for rule in peers.RULES]


def _said(rule: Rule, ticks: Sequence[tuple[CheckSpec, Ticks]], since: float) -> Json:
    watched = [_watched(rule, spec, of_check, since) for spec, of_check in ticks if of_check]
    if not watched:
        return {"rule": str(rule), "at": None, "check": None, "sentence": f"{rule}: had nothing to look at"}
    first = min(watched, key=lambda one: float(one.failed_at))
    failed = bool(np.isfinite(first.failed_at))
    whose = "" if failed or len(watched) == 1 else f" ({first.spec.name})"  # several have a reading
    return {
        "rule": str(rule),
        "at": float(first.failed_at) if failed else None,
        "check": first.spec.name if failed else None,
        "sentence": f"{peers.said(first)}{whose}",
    }


def _watched(rule: Rule, spec: CheckSpec, ticks: Ticks, since: float) -> Watched:
    le = _bounds(spec, ticks)
    watched = peers.begin(rule, spec, le=le, at=since)
    for stable, canary in ticks:
        watched = peers.seen(watched, _pooled(stable, le), _pooled(canary, le), end=stable.end)
    return watched


def _bounds(spec: CheckSpec, ticks: Ticks) -> tuple[float, ...]:
    """The buckets most pods have, all ticks together."""
    if spec.kind.counted:
        return ()
    frequency = Counter(usual_bounds(arm.pods, known=()) for arm in _arms(ticks) if arm.pods)
    return max(frequency, key=lambda le: (frequency[le], le)) if frequency else ()


def _arms(ticks: Iterable[tuple[Sample, Sample]]) -> Iterator[Sample]:
    for stable, canary in ticks:
        yield stable
        yield canary


def _pooled(arm: Sample, le: tuple[float, ...]) -> Array:
    """The arm's cells, its pods added up."""
    histogram = any(isinstance(pod.value, Histogram) for pod in arm.pods)
    width = len(le) + 1 if le or histogram else 2
    return np.asarray(np.array([np.zeros(width), *by_node(arm.pods, le).values()]).sum(axis=0))
