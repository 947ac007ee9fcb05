"""Running evidence of one check: `update` scores a tick with what was known before it.

Start reading here. One tick goes through

    samples -> cells by node -> a Question (decided from the past) -> gains (proportions)
            -> tracks (late faults, nodes, bursts) and informed (as the whole distribution advises)
            -> and only then into the memory of the past

Everything is a value: `update` returns new evidence and leaves the old one alone. What is kept is
bounded, does not grow with time, and survives `save` and `load` bit by bit (numbers are rounded to
32 bits at the end of every update, not when they are saved).
"""

from dataclasses import replace

import numpy as np

from analysis import (
    belief,
    cells,
    dispersion,
    distributions,
    informed,
    proportions,
    quantiles,
    tracks,
)
from analysis.bursts import LIMIT
from analysis.cells import MEMORIES, Tick
from analysis.checkpoint import EVIDENCE_VERSION, load, save
from analysis.informed import Informed
from analysis.packing import rounded
from analysis.proportions import WAY_TO_ALIKE, Array, Question
from analysis.samples import Sample
from analysis.state import SHARES, CheckKind, CheckSpec, Evidence, Memory, normalised

__all__ = [
    "EVIDENCE_VERSION",
    "SHARES",
    "CheckKind",
    "CheckSpec",
    "Evidence",
    "begin",
    "load",
    "next_step",
    "normalised",
    "restart",
    "save",
    "update",
]

ENOUGH = 100.0  # stable observations before a question is asked: the tail's level is then 5 +- 2 %
WIDER = 2.0  # the margin's factor while caches fill
# What a Pass has to prove where the margin itself is out of a step's reach. To prove +0.1 percentage
# point takes 5 000 canary requests, a TV of .05 over five sets 900; these two take about 450.
PASS_PLUS, PASS_TOLERANCE = 0.01, 0.10


def begin(
    spec: CheckSpec, *, steps: int, burst_tolerance: float = 6.0, step_timeout: float = 600.0
) -> Evidence:
    """Evidence of nothing yet, for a plan of so many steps; durations in seconds.

    The first step has no warm-up of its own: the policy's dropped what came before.
    """
    weight = _weight(spec)
    return Evidence(
        spec=spec,
        steps=steps,
        burst_tolerance=burst_tolerance,
        step_timeout=step_timeout,
        memory=cells.blank(spec.kind),
        dispersion=dispersion.unmeasured(),
        tracks=tracks.fresh(groups=1, lenses=len(weight), warm_up=0.0),
        informed=informed.fresh(len(weight)),
        weight=weight,
        passing=_no_passing(spec),
        tally=np.zeros(4),
    )


def update(evidence: Evidence, stable: Sample, canary: Sample) -> Evidence:
    """With one tick of both arms. A canary sample without requests is history of stable alone.

    Time is that of the samples; a tick that does not end later than the last one is ignored. Pods
    whose buckets differ from what most pods of their arm use are left out; when most change, the
    memory starts anew and the evidence waits until it has learned.
    """
    if evidence.at is not None and max(stable.end, canary.end) <= evidence.at:
        return evidence
    tick = cells.in_cells(evidence.spec.kind, evidence.memory, stable, canary)
    evidence = _with_buckets(evidence, tick)
    asked = question(evidence)
    after = evidence
    if tick.canary_cells.sum() > 0:
        after = _with_canary(after, tick)
        if asked is not None and _comparable(after, tick):
            after = _scored(after, tick, asked)
    return _learned(after, tick, asked)


def next_step(evidence: Evidence, *, at: float) -> Evidence:
    """A weight step begins: the finished step's evidence is frozen, fresh evidence begins."""
    return replace(
        _step_forgotten(evidence, at),
        finished=(*evidence.finished, evidence.log_e_of_tracks),
        informed=informed.next_step(evidence.informed),
    )


def restart(evidence: Evidence, *, at: float) -> Evidence:
    """This step's evidence is thrown away and gathered anew; what was learned of stable stays.

    For when the arms are no longer what they were (pods came or went). The promise about false
    rollbacks then holds for each stretch between restarts. New pods fill their caches as after a
    weight step; only a run in which nothing was compared yet has the policy's warm-up instead.
    """
    warm_up = tracks.WARM_UP if evidence.groups or evidence.step else 0.0
    fresh = _step_forgotten(evidence, at, warm_up=warm_up)
    return replace(fresh, dispersion=dispersion.interrupted(evidence.dispersion))


def question(evidence: Evidence, *, widened: float = 1.0) -> Question | None:
    """What the next tick is asked, from what is known now; None while too little is."""
    spec, memory = evidence.spec, evidence.memory
    if memory.recent[0].sum() < ENOUGH:
        return None
    if spec.kind is CheckKind.ERROR_RATE:
        rho, delta = 1 + spec.max_increase * widened, spec.plus * widened
        return proportions.error_question(memory.recent[0], rho=rho, delta=delta)
    if spec.kind is CheckKind.PREDICTIONS:
        tolerance = min(spec.tolerance * widened, 0.99)
        return distributions.drift_question(memory.recent[0], memory.recent_canary, tolerance=tolerance)
    margin, level = latency_margin(evidence) * widened, 1 - spec.quantile
    return quantiles.latency_question(memory.recent, memory.le, memory.canary_le, level=level, margin=margin)


def pass_question(evidence: Evidence, asked: Question) -> Question | None:
    """What a Pass has to prove: the margin, or a wider one where that is out of a step's reach."""
    spec, memory = evidence.spec, evidence.memory
    if spec.kind is CheckKind.ERROR_RATE:
        plus = max(spec.plus, PASS_PLUS)
        return proportions.error_question(memory.recent[0], rho=1 + spec.max_increase, delta=plus)
    if spec.kind is CheckKind.PREDICTIONS:
        tolerance = max(spec.tolerance, PASS_TOLERANCE)
        return distributions.likeness_question(memory.recent[0], memory.recent_canary, tolerance=tolerance)
    return asked


def latency_margin(evidence: Evidence) -> float:
    """The ratio of quantiles that is still allowed; wider where pods differ that much for good."""
    allowed, memory = 1 + evidence.spec.max_increase, evidence.memory
    slope = quantiles.slope(memory.recent[0], memory.le, level=1 - evidence.spec.quantile)
    if slope is None:
        return allowed
    nodes = evidence.stable_nodes
    spread = dispersion.spread(evidence.dispersion, slope=slope, stable_nodes=nodes)
    canary_nodes = max(len(evidence.groups), 1)
    return max(allowed, dispersion.lasting_ratio(spread, stable_nodes=nodes, canary_nodes=canary_nodes))


def _weight(spec: CheckSpec) -> Array:
    if spec.kind is CheckKind.LATENCY:
        return np.full(len(MEMORIES), 1 / len(MEMORIES))
    if spec.kind is CheckKind.PREDICTIONS:
        return np.array([distributions.WITNESS, distributions.HALF, distributions.HALF])
    return np.ones(1)


def _no_passing(spec: CheckSpec) -> Array:
    sets = {CheckKind.LATENCY: len(MEMORIES), CheckKind.ERROR_RATE: 1, CheckKind.PREDICTIONS: 5}
    return np.zeros((sets[spec.kind], len(WAY_TO_ALIKE)))


def _step_forgotten(evidence: Evidence, at: float, *, warm_up: float = tracks.WARM_UP) -> Evidence:
    return replace(
        evidence,
        step_began=at,
        both_at=None,
        groups=(),
        memory=cells.step_forgotten(evidence.memory),
        tracks=tracks.fresh(groups=1, lenses=len(evidence.weight), warm_up=warm_up),
        informed=informed.restarted(evidence.informed),
        passing=_no_passing(evidence.spec),
        tally=np.zeros(4),
    )


def _with_buckets(evidence: Evidence, tick: Tick) -> Evidence:
    """With a memory that fits the tick's buckets; other buckets than before mean a new beginning."""
    kind, memory = evidence.spec.kind, evidence.memory
    if (memory.le, memory.canary_le) == (tick.le, tick.canary_le):
        return evidence
    blank = cells.blank(kind, tick.le, tick.canary_le)
    if memory.le == tick.le and not memory.recent_canary.sum():  # the canary's became known
        kept = replace(blank, recent=memory.recent, step_stable=memory.step_stable)
        return replace(evidence, memory=kept)
    fresh = evidence if evidence.step_began is None else _step_forgotten(evidence, tick.start)
    return replace(fresh, memory=blank, dispersion=dispersion.interrupted(evidence.dispersion))


def _with_canary(evidence: Evidence, tick: Tick) -> Evidence:
    """With a step that has begun and a group for every canary node of the tick."""
    began = tick.start if evidence.step_began is None else evidence.step_began
    new = tuple(node for node in sorted(tick.canary) if node not in evidence.groups)
    groups = (*evidence.groups, *new)[: dispersion.MOST_NODES]
    count = min(len(groups), tracks.MOST_GROUPS)
    return replace(
        evidence,
        step_began=began,
        groups=groups,
        tracks=tracks.regrouped(evidence.tracks, count),
        informed=informed.regrouped(evidence.informed, count),
    )


def _comparable(evidence: Evidence, tick: Tick) -> bool:
    """Whether both arms had requests, all at this step's weight."""
    began = evidence.step_began
    return tick.stable_cells.sum() > 0 and began is not None and tick.start >= began - 1e-3


def _scored(evidence: Evidence, tick: Tick, asked: Question) -> Evidence:
    """With the tick's gains added, by what was known before it."""
    began = tick.start if evidence.step_began is None else evidence.step_began
    start, end = tick.start - began, tick.end - began
    canary, phi = _grouped(evidence, tick), _phi(evidence, tick)
    gains = proportions.log_gains(asked, tick.stable_cells, canary, asked.worse())
    filling = (start + end) / 2 < evidence.tracks.warm_up
    wide = question(evidence, widened=WIDER) if filling else None
    after = tracks.advanced(
        evidence.tracks,
        gains,
        np.zeros_like(gains)  # also where no bucket is wide enough to ask while caches fill
        if wide is None
        else proportions.log_gains(wide, tick.stable_cells, canary, wide.worse()),
        phi=phi,
        start=start,
        end=end,
        tolerance=evidence.burst_tolerance,
        timeout=evidence.step_timeout,
    )
    advised, bet = _advised(evidence, tick, canary, wide if filling else asked)
    return replace(
        evidence,
        tracks=tracks.rounded_to_32_bits(after),
        informed=informed.advanced(
            evidence.informed, advised / phi, bet, start=start, end=end, tolerance=evidence.burst_tolerance
        ),
        passing=_passing(evidence, tick, asked, phi),
        tally=rounded(evidence.tally + _hits(asked, tick)),
        phi=phi,
        both_at=tick.end,
    )


def _advised(
    evidence: Evidence, tick: Tick, canary: Array, asked: Question | None
) -> tuple[Array, informed.Mask]:
    """What the bets that the belief advises bring (N, L), and where one was made (L,).

    One is made where the tail is expected above the margin, and above what would be expected of a canary
    nothing is known of: with coarse buckets or far out in the tail that alone may be beyond the margin.
    """
    lenses = len(evidence.weight)
    if evidence.informed_share == 0 or asked is None:
        return np.zeros((len(canary), lenses)), np.zeros(lenses, dtype=bool)
    memory = evidence.memory
    about = memory.recent, memory.le, memory.canary_le, asked
    rates = belief.expected_rates(evidence.informed.belief, *about)
    least = np.maximum(asked.line, belief.expected_rates(belief.blank(1), *about)[0]) * informed.CLEARLY
    bet = (rates > least) & (least < 1)
    p1 = np.minimum(np.maximum(rates, least), 1 - proportions.EDGE)[:, :, None]
    gains = proportions.log_gains(asked, tick.stable_cells, canary, p1)[:, :, 0]
    return np.where(bet, gains, 0.0), bet.any(axis=0)


def _grouped(evidence: Evidence, tick: Tick) -> Array:
    """Canary cells (N, K_c) by group; nodes beyond the groups' number share them in turn."""
    grouped = np.zeros((evidence.tracks.groups, len(tick.canary_cells)))
    for node, counted in tick.canary.items():
        place = evidence.groups.index(node) if node in evidence.groups else node
        grouped[place % len(grouped)] += counted
    return grouped


def _phi(evidence: Evidence, tick: Tick) -> float:
    return dispersion.phi(
        evidence.dispersion,
        stable_rate=float(tick.stable_cells.sum()) / tick.seconds,
        canary_rate=float(tick.canary_cells.sum()) / tick.seconds,
        stable_nodes=len(tick.stable),
        canary_nodes=len(tick.canary),
    )


def _passing(evidence: Evidence, tick: Tick, asked: Question, phi: float) -> Array:
    proof = pass_question(evidence, asked)
    if proof is None:
        return evidence.passing
    gains = proportions.log_gains(proof, tick.stable_cells, tick.canary_cells[None, :], proof.better())[0]
    return rounded(np.clip(evidence.passing + gains / phi, -LIMIT, LIMIT))


def _hits(asked: Question, tick: Tick) -> Array:
    canary, stable = tick.canary_cells, tick.stable_cells
    hits = canary @ asked.canary[:, 0], stable @ asked.stable[:, 0]
    return np.array([canary.sum(), hits[0], stable.sum(), hits[1]])


def _learned(evidence: Evidence, tick: Tick, asked: Question | None) -> Evidence:
    """With the tick in memory: the last thing that happens to it."""
    noise = evidence.dispersion
    if asked is not None and tick.stable:
        counts = {
            node: (float(counted.sum()), float(counted @ asked.stable[:, 0]))
            for node, counted in tick.stable.items()
        }
        noise = dispersion.observed(noise, counts, seconds=tick.seconds)
    memory = cells.remembered(evidence.memory, tick, since=evidence.at)
    return replace(
        evidence,
        at=tick.end,
        memory=memory,
        informed=_believing(evidence, tick, memory),
        stable_nodes=len(tick.stable) or evidence.stable_nodes,
        dispersion=noise,
    )


def _believing(evidence: Evidence, tick: Tick, memory: Memory) -> Informed:
    """With what the tick says of the canary's whole distribution."""
    if evidence.informed_share == 0:
        return evidence.informed
    known = evidence.informed.belief
    seconds = tick.end - min(tick.start, tick.start if evidence.at is None else evidence.at)
    if tick.canary_cells.sum() <= 0:
        return replace(evidence.informed, belief=belief.forgotten(known, seconds))
    after = belief.revised(
        known,
        memory.recent[-1],  # the quicker memory: a slow one lags behind what happens to both arms
        _grouped(evidence, tick),
        memory.le,
        memory.canary_le,
        phi=evidence.phi,
        seconds=seconds,
    )
    return replace(evidence.informed, belief=after)
