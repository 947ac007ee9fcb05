"""The words of evidence: a check, what was learned, what its ticks have said. Values only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis import distributions, drift, shifts, tracks
from analysis.batches import taken
from analysis.dispersion import Dispersion
from analysis.informed import Informed
from analysis.proportions import Array, Integers, log_sum
from analysis.tracks import Tracks
from analysis.values import replace

MEMORIES = np.array([60.0, 15.0])  # s; fading with these weighs like windows of 120 s and 30 s
LEAST = np.array([150.0, 50.0])  # of stable's requests in each, however long ago they were
OF_CANARY = np.array([60.0, 5.0])  # s; what the canary does may be new


class CheckKind(StrEnum):
    """What a check compares; the values are those of the policy."""

    LATENCY = "Latency"
    ERROR_RATE = "ErrorRate"
    PREDICTIONS = "Predictions"
    PROPORTION = "Proportion"

    @property
    def counted(self) -> bool:
        """Whether it compares how many of how many, not histograms."""
        return self is CheckKind.ERROR_RATE or self is CheckKind.PROPORTION


# Mass of the questions each kind of check asks at once.
LENSES: Mapping[CheckKind, Array] = {
    CheckKind.LATENCY: np.full(len(MEMORIES), 1 / len(MEMORIES)),
    CheckKind.ERROR_RATE: np.ones(1),
    CheckKind.PREDICTIONS: np.array([distributions.WITNESS, distributions.HALF, distributions.HALF]),
    CheckKind.PROPORTION: np.ones(1),
}
# How many questions are asked at once on whole distributions, and in how many ways a canary may differ.
INFORMED: Mapping[CheckKind, tuple[int, int]] = {
    CheckKind.LATENCY: (len(MEMORIES), len(shifts.FACTORS)),
    CheckKind.ERROR_RATE: (1, 1),
    CheckKind.PREDICTIONS: (1, drift.WAYS),
    CheckKind.PROPORTION: (1, 1),
}
# Of the capital; the tracks keep half of latency's for what changes the tail alone, and of predictions' less:
# one of the ways is "as the canary was", so that any change that lasts shows in whole distributions.
INFORMED_SHARES: Mapping[CheckKind, float] = {CheckKind.LATENCY: 0.5, CheckKind.PREDICTIONS: 0.75}
# How many a Pass needs an answer to.
PROOFS: Mapping[CheckKind, int] = {
    CheckKind.LATENCY: len(MEMORIES),
    CheckKind.ERROR_RATE: 1,
    CheckKind.PREDICTIONS: 5,
    CheckKind.PROPORTION: 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSpec:
    """One check of a plan: the harm that is still allowed, and how much of alpha it may spend.

    `max_increase` is relative (0.2 = +20 %); `plus` is absolute, a fraction of requests; `tolerance`
    a total variation distance; `share` a part of alpha, already normalised over the plan's checks.
    `max_decrease` is relative as well, and above 0 only where less of something is the harm. `counters`
    name a proportion's hits and trials for whoever reads them.
    """

    name: str
    kind: CheckKind
    quantile: float = 0.95
    max_increase: float = 0.0
    plus: float = 0.0
    max_decrease: float = 0.0
    tolerance: float = 0.05
    required: bool = True
    share: float = 1.0
    counters: tuple[str, ...] = ()


# Latency first: most regressions of a model show there, and fastest.
SHARES: Mapping[CheckKind, float] = {
    CheckKind.LATENCY: 0.45,
    CheckKind.ERROR_RATE: 0.35,
    CheckKind.PREDICTIONS: 0.20,
    CheckKind.PROPORTION: 0.10,
}


def normalised(
    specs: Iterable[CheckSpec], shares: Mapping[str, float] | None = None, *, beside: float = 0.0
) -> tuple[CheckSpec, ...]:
    """The plan's checks with shares that sum to one: those given by name, else by kind.

    `beside` is the share of what is decided elsewhere: theirs then sum to less, by its part of all.
    """
    plan = tuple(specs)
    wanted = [(shares or {}).get(spec.name, SHARES[spec.kind]) for spec in plan]
    total = sum(wanted) + beside
    return tuple(replace(spec, share=share / total) for spec, share in zip(plan, wanted, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What was learned from ticks, and may be used for the next one.

    `le`, `canary_le`: buckets in use, () for counts. `recent` (..., R, K_s): stable's cells, fading with
    R time constants; `recent_canary` (..., Q, K_c): the canary's, with Q of them. `step_stable`
    (..., K_s), `step_canary` (..., K_c): cells since the step began, unfaded.
    """

    le: tuple[float, ...]
    canary_le: tuple[float, ...]
    recent: Array
    recent_canary: Array
    step_stable: Array
    step_canary: Array


# Fields that the next tick needs of all that are scored side by side, and hardly anybody of one of them.
LATER = frozenset({"dispersion", "tracks", "informed"})


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Evidence:
    """All that one check's ticks have said so far.

    Arrays may have leading axes (...), one entry for each of several canaries that are judged side by side;
    the evidence of one canary has none. A time that there is none of is `NEVER`.

    Part of the capital is bet by `tracks`, anew in each step, and part is `informed`, one sum for the run.
    `finished` (..., S): what the tracks made of each finished step, log e, frozen; `step` (...) counts them.
    `step_began`: of the first step when a canary tick was seen. `at`: end of the last tick; `both_at`: of the
    last with traffic in both arms in this step. `nodes`, `groups`: stable's and canary's nodes' keys in
    order of appearance; `stable_nodes`: how many the last tick had. `phi`: as last used. `margin`: the ratio
    that is allowed (latency). `passing` (..., P, E'): log e for a Pass, by set. `tally` (..., 4): requests
    and hits of canary and of stable at the thresholds in use, this step.
    """

    spec: CheckSpec
    steps: int
    burst_tolerance: float
    step_timeout: float
    finished: Array
    step: Integers
    step_began: Array
    at: Array
    both_at: Array
    nodes: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    stable_nodes: Integers
    phi: Array
    margin: Array
    memory: Memory
    dispersion: Dispersion
    tracks: Tracks
    informed: Informed
    passing: Array
    tally: Array
    # worked out when somebody asks, or at once for many; evidence that was changed has none
    standing: "Standing | None" = field(init=False, default=None)
    # the value of all that were scored side by side with it, and its place among them; none, once changed
    beside: "tuple[Evidence, int] | None" = field(init=False, default=None)

    if not TYPE_CHECKING:  # to whom all fields are there

        def __getattr__(self, name: str) -> Any:
            """One of `LATER`, which nobody has asked for since it was scored beside others."""
            if name not in LATER or self.beside is None:
                raise AttributeError(f"evidence has no {name}")
            several, place = self.beside
            part = taken(getattr(several, name), place)
            object.__setattr__(self, name, part)
            return part

    @property
    def informed_share(self) -> float:
        """How much of the capital is bet as whole distributions advise; of counts there is none."""
        return INFORMED_SHARES.get(self.spec.kind, 0.0)

    @property
    def log_e(self) -> Array:
        """Log e of this step against "within the margin" (...)."""
        return standing(self).step

    @property
    def log_e_of_tracks(self) -> Array:
        """The tracks' part of it."""
        return tracks.log_mixture(self.tracks, LENSES[self.spec.kind], self.step_timeout, self.phi)

    def mixed(self, of_tracks: Array, of_informed: Array) -> Array:
        """Log of both parts' capital together, from the logs of what one unit of each has become."""
        share = self.informed_share
        if share == 0:
            return of_tracks
        return np.asarray(np.logaddexp(np.log(1 - share) + of_tracks, np.log(share) + of_informed))

    @property
    def log_e_pass(self) -> Array:
        """Log e of this step against "beyond the margin" (...).

        Latency asks the same by two memories: their mean. Predictions ask for several sets, each of
        which has to be proven: the least.
        """
        mixed = np.logaddexp.reduce(self.passing, axis=-1) - np.log(self.passing.shape[-1])
        if self.spec.kind is CheckKind.PREDICTIONS:
            return np.asarray(mixed.min(axis=-1))
        return np.asarray(np.logaddexp.reduce(mixed, axis=-1) - np.log(mixed.shape[-1]))


class Standing(NamedTuple):
    """What evidence comes to (...): all that a verdict needs of it but counts and times.

    `run`: log e of the check over all steps, those to come counting 1, before its share of alpha. `step`: of
    this one, and `passing` of this one for a Pass. Of one canary scored beside others these are floats.
    """

    run: Array
    step: Array
    passing: Array


def standing(evidence: Evidence) -> Standing:
    """What it comes to, worked out unless that was done already."""
    if evidence.standing is None:
        object.__setattr__(evidence, "standing", _worked_out(evidence))  # whatever changes evidence is new
    found: Standing = evidence.standing  # type: ignore[assignment] # so it is not None
    return found


def _worked_out(evidence: Evidence) -> Standing:
    of_tracks, finished = evidence.log_e_of_tracks, evidence.finished
    weights = np.array(step_weights(finished.shape[-1]))
    here = np.arange(len(weights)) == np.asarray(evidence.step)[..., None]
    of_steps = log_sum(np.where(here, np.asarray(of_tracks)[..., None], finished), weights)
    if evidence.informed_share == 0:
        return Standing(of_steps, of_tracks, evidence.log_e_pass)
    of_run, before = evidence.informed.judged(evidence.phi), evidence.informed.log_e_before
    return Standing(
        evidence.mixed(of_steps, of_run), evidence.mixed(of_tracks, of_run - before), evidence.log_e_pass
    )


@lru_cache(maxsize=64)
def step_weights(steps: int) -> tuple[float, ...]:
    """The steps' shares of a check's evidence, proportional to 1/s: the first step finds most."""
    weights = [1 / step for step in range(1, steps + 1)]
    return tuple(weight / sum(weights) for weight in weights)
