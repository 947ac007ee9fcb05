"""Running evidence of one check: `update` scores a tick with what was known before it.

Start reading here. One tick goes through

    samples -> cells by node -> a Question (decided from the past) -> gains (proportions)
            -> tracks (late faults, nodes, bursts) and informed (as the whole distribution advises)
            -> and only then into the memory of the past

Everything is a value: `update` returns new evidence and leaves the old one alone. What is kept is
bounded, does not grow with time, and survives `save` and `load` bit by bit (numbers are rounded to
32 bits at the end of every update, not when they are saved).

`update` takes one canary's samples. What it does with them is `advanced`, which takes any number of
canaries side by side (leading axes, written ...): a simulation of 500 runs is the same code, called once
a tick.
"""

from collections.abc import Iterable

import numpy as np

from analysis import (
    belief,
    cells,
    dispersion,
    drift,
    informed,
    proportions,
    quantiles,
    shifts,
    spans,
    tracks,
)
from analysis.batches import chosen
from analysis.bursts import LIMIT
from analysis.cells import Arm, Packed, Tick
from analysis.checkpoint import EVIDENCE_VERSION, blank, load, load_all, save, save_all
from analysis.informed import Informed
from analysis.packing import NEVER, rounded
from analysis.proportions import WAY_TO_ALIKE, Above, Array, Mask, Question
from analysis.questions import latency_margin, pass_question, question, tail_odds
from analysis.samples import Sample
from analysis.state import LENSES, SHARES, CheckKind, CheckSpec, Evidence, normalised
from analysis.values import replace

__all__ = [
    "EVIDENCE_VERSION",
    "SHARES",
    "CheckKind",
    "CheckSpec",
    "Evidence",
    "advanced",
    "begin",
    "blank",
    "load",
    "load_all",
    "moved",
    "next_step",
    "normalised",
    "restart",
    "save",
    "save_all",
    "update",
    "with_buckets",
    "with_nodes",
    "without_nodes",
]

WIDER = 2.0  # the margin's factor while caches fill
CHANGES = {CheckKind.LATENCY: shifts.CHANGES, CheckKind.PREDICTIONS: drift.CHANGES}  # of beliefs, a second


def begin(
    spec: CheckSpec, *, steps: int, burst_tolerance: float = 6.0, step_timeout: float = 600.0
) -> Evidence:
    """Evidence of nothing yet, for a plan of so many steps; durations in seconds."""
    return blank(
        spec, steps=steps, burst_tolerance=burst_tolerance, step_timeout=step_timeout, finished=steps
    )


def update(evidence: Evidence, stable: Sample, canary: Sample) -> Evidence:
    """With one tick of both arms. A canary sample without requests is history of stable alone.

    Time is that of the samples; a tick that does not end later than the last one is ignored. Pods
    whose buckets differ from what most pods of their arm use are left out; when most change, the
    memory starts anew and the evidence waits until it has learned.
    """
    ready = prepared(evidence, stable, canary)
    return evidence if ready is None else advanced(ready[0], cells.unpacked([ready[1]], ()))


def prepared(evidence: Evidence, stable: Sample, canary: Sample) -> tuple[Evidence, Packed] | None:
    """The evidence with room for one tick of both arms, and the tick; None for one that is ignored."""
    start = min(stable.start, canary.start) if canary.pods else stable.start
    end = max(stable.end, canary.end)
    if end <= evidence.at:
        return None
    kind = evidence.spec.kind
    both = cells.as_known(kind, evidence.memory, stable, canary)
    if both is None:
        evidence, both = _in_buckets(evidence, stable, canary, start)
    evidence = with_nodes(evidence, *both)
    nodes, groups = evidence.nodes, evidence.groups
    return evidence, cells.arranged(kind, *both, nodes=nodes, groups=groups, start=start, end=end)


def _in_buckets(
    evidence: Evidence, stable: Sample, canary: Sample, start: float
) -> tuple[Evidence, tuple[Arm, Arm]]:
    """With a memory that fits the buckets of the two samples, and these."""
    kind = evidence.spec.kind
    if kind is CheckKind.LATENCY:
        evidence = replace(evidence, memory=cells.on_whole_grid(evidence.memory, stable, canary))
    of_stable, of_canary = cells.in_cells(kind, evidence.memory, stable, canary)
    known = cells.joined(kind, evidence.memory, of_stable.le, of_canary.le)
    if known is not None:  # on account of what this tick holds, so it is learned from and not judged
        evidence, of_canary = replace(evidence, memory=known), Arm(of_canary.le, {})
    return with_buckets(evidence, of_stable, of_canary, start), (of_stable, of_canary)


def advanced(evidence: Evidence, tick: Tick) -> Evidence:
    """With one tick of each canary (...), its rows in the order of the evidence's nodes and groups."""
    span = None
    if evidence.spec.kind is CheckKind.LATENCY and tick.start.ndim:  # alone, calls cost more than buckets
        span = spans.used(evidence.memory, tick, margin=float(evidence.margin.max()) * WIDER)
    if span is None:
        return _advanced(evidence, tick)
    there = replace(evidence, memory=spans.cut(evidence.memory, span))
    after = _advanced(there, spans.cut_tick(tick, span))
    return replace(after, memory=spans.put_back(evidence.memory, after.memory, span))


def _advanced(evidence: Evidence, tick: Tick) -> Evidence:
    """The same, whatever buckets are empty.

    What the past says is worked out once: latency's odds of the tail, or the ways predictions may differ.
    """
    past = tail_odds(evidence)
    asked = question(evidence, past)
    n_stable, n_canary = tick.stable_cells.sum(axis=-1), tick.canary_cells.sum(axis=-1)
    there = np.asarray(n_canary > 0)
    if there.any() and evidence.spec.kind is CheckKind.PREDICTIONS:
        past = drift.ways(evidence.memory.recent[..., 0, :], evidence.memory.recent_canary[..., -1, :])
    after = evidence
    if there.any():
        began = np.where(there & (evidence.step_began <= NEVER), tick.start, evidence.step_began)
        after = replace(after, step_began=began)
    if asked is not None:
        compared = np.asarray(there & (n_stable > 0) & asked.ready & (tick.start >= after.step_began - 1e-3))
        if compared.any():
            scored = _scored(after, tick, asked, past)
            after = scored if compared.all() else chosen(compared, scored, after)
    return _learned(after, tick, asked, past)


def next_step(evidence: Evidence, *, at: Array | float) -> Evidence:
    """A weight step begins: the finished step's evidence is frozen, fresh evidence begins."""
    finished = evidence.finished
    if (evidence.step >= finished.shape[-1] - 1).any():
        finished = np.concatenate([finished, np.zeros_like(finished[..., :1])], axis=-1)
    here = np.arange(finished.shape[-1]) == np.asarray(evidence.step)[..., None]
    return replace(
        _step_forgotten(evidence, at),
        finished=np.where(here, rounded(evidence.log_e_of_tracks)[..., None], finished),
        step=evidence.step + 1,
        informed=informed.next_step(evidence.informed),
    )


def restart(evidence: Evidence, *, at: Array | float, same_pods: bool = False) -> Evidence:
    """What this step's evidence gained is forgotten, what it lost and what was learned of stable stay.

    For when the arms are no longer what they were (pods came or went). Evidence of harm is less than before
    and evidence for a Pass too, so that alpha and beta hold for the whole step, whatever comes and goes. New
    pods fill their caches as after a weight step; only a run in which nothing was compared yet has the
    policy's warm-up instead.
    """
    compared = (evidence.tally[..., 0] > 0) | (evidence.step > 0)
    warm_up = np.where(compared, tracks.WARM_UP, 0.0)
    known = evidence if same_pods else replace(evidence, nodes=(), groups=())
    groups, began = _groups(known), evidence.step_began
    elapsed = np.where(began <= NEVER, 0.0, np.maximum(np.asarray(at, dtype=float) - began, 0.0))
    left = tracks.restarted(
        evidence.tracks, groups, elapsed=elapsed, warm_up=warm_up, timeout=evidence.step_timeout
    )
    noise = evidence.dispersion if same_pods else dispersion.interrupted(evidence.dispersion)
    return replace(
        _step_forgotten(known, at),
        dispersion=noise,
        tracks=left,
        informed=informed.restarted(evidence.informed, groups),
        passing=np.minimum(evidence.passing, 0.0),
    )


def without_nodes(evidence: Evidence, *, but: Iterable[str]) -> Evidence:
    """Without the canary's nodes that are none of these (nodes' names, or pods' that know none).

    No node counts more than the others confirm, and those that are gone confirm nothing. What counted
    stays; a node that comes back is a new one.
    """
    there = set(map(dispersion.key, but))
    groups = tuple(node for node in evidence.groups if node in there)
    if len(groups) == len(evidence.groups):
        return evidence
    left = replace(evidence, groups=groups)
    count = _groups(left)
    return replace(
        left,
        tracks=tracks.kept(tracks.among(evidence.tracks, count)),
        informed=informed.restarted(evidence.informed, count),
    )


def moved(evidence: Evidence, by: float) -> Evidence:
    """The same so many seconds later, as somebody whose clock says another time has it."""

    def later(at: Array) -> Array:
        return np.where(at > NEVER, at + by, at)

    return replace(
        evidence,
        at=later(evidence.at),
        step_began=later(evidence.step_began),
        both_at=later(evidence.both_at),
    )


def _step_forgotten(evidence: Evidence, at: Array | float) -> Evidence:
    several, lenses = np.shape(evidence.step), len(LENSES[evidence.spec.kind])
    return replace(
        evidence,
        step_began=np.broadcast_to(np.asarray(at, dtype=float), several),
        both_at=np.full(several, NEVER),
        memory=cells.step_forgotten(evidence.memory),
        tracks=tracks.fresh(groups=_groups(evidence), lenses=lenses, several=several),
        passing=np.zeros_like(evidence.passing),
        tally=np.zeros_like(evidence.tally),
    )


def _groups(evidence: Evidence) -> int:
    return max(min(len(evidence.groups), tracks.MOST_GROUPS), 1)


def with_buckets(evidence: Evidence, stable: Arm, canary: Arm, start: float) -> Evidence:
    """With a memory that fits the tick's buckets; others than before are a restart that knows nothing."""
    kind, memory = evidence.spec.kind, evidence.memory
    if (memory.le, memory.canary_le) == (stable.le, canary.le):
        return evidence
    blank = cells.blank(kind, stable.le, canary.le, np.shape(evidence.step))
    if not memory.recent.any() and not memory.recent_canary.any():  # the first that were seen
        return replace(evidence, memory=blank)
    if memory.le == stable.le and not memory.recent_canary.sum():  # the canary's became known
        kept = replace(blank, recent=memory.recent, step_stable=memory.step_stable)
        return replace(evidence, memory=kept)
    fitted = cells.fitted(memory, stable.le, canary.le)
    if fitted is not None:  # as a checkpoint keeps it
        return replace(evidence, memory=fitted)
    if (evidence.step_began > NEVER).any():
        return replace(restart(evidence, at=start), memory=blank)
    return replace(evidence, nodes=(), memory=blank, dispersion=dispersion.interrupted(evidence.dispersion))


def with_nodes(evidence: Evidence, stable: Arm, canary: Arm) -> Evidence:
    """With a place for every node of the tick."""
    nodes = cells.known(evidence.nodes, stable.cells, most=dispersion.MOST_NODES)
    groups = cells.known(evidence.groups, canary.cells, most=dispersion.MOST_NODES)
    if (nodes, groups) == (evidence.nodes, evidence.groups):
        return evidence
    count = max(min(len(groups), tracks.MOST_GROUPS), 1)
    after = replace(
        evidence,
        nodes=nodes,
        groups=groups,
        dispersion=dispersion.with_nodes(evidence.dispersion, max(len(nodes), 1)),
        tracks=tracks.regrouped(evidence.tracks, count),
        informed=informed.regrouped(evidence.informed, count),
    )
    return replace(after, margin=latency_margin(after))


def _scored(evidence: Evidence, tick: Tick, asked: Question, past: Array | None) -> Evidence:
    """With the tick's gains added, by what was known before it."""
    start, end = tick.start - evidence.step_began, tick.end - evidence.step_began
    stable, phi = tick.stable_cells, _phi(evidence, tick)
    filling = np.asarray((start + end) / 2 < evidence.tracks.warm_up)
    worse, better = _gains(evidence, asked, stable, tick.canary)
    bet_on = asked
    if filling.any():
        bet_on, worse = _widened(evidence, tick, stable, asked, past, filling=filling, worse=worse)
    moved = tracks.advanced(
        evidence.tracks,
        worse,
        filling=filling,
        few=_few(tick),
        phi=phi,
        start=start,
        end=end,
        tolerance=evidence.burst_tolerance,
        timeout=evidence.step_timeout,
    )
    return replace(
        evidence,
        tracks=tracks.kept(moved),
        informed=_informed(evidence, tick, stable, bet_on, past, phi=phi, start=start, end=end),
        passing=rounded(np.clip(evidence.passing + better / phi[..., None, None], -LIMIT, LIMIT)),
        tally=evidence.tally + _hits(asked, tick),
        phi=phi,
        both_at=tick.end,
    )


def _gains(evidence: Evidence, asked: Question, stable: Array, canary: Array) -> tuple[Array, Array]:
    """Gains (..., N, L, E) against "within the margin", and (..., P, 2) of all groups for a Pass."""
    proof, worse, way = pass_question(evidence, asked), asked.worse(), len(WAY_TO_ALIKE)
    effects, lenses = worse.shape[-1], worse.shape[-2]
    if proof is asked:
        bets = np.concatenate([worse, asked.better()], axis=-1)[..., None, :, :]
        gains = proportions.log_gains(asked, stable, canary, bets)
        return gains[..., :effects], gains[..., effects:].sum(axis=-3)
    better = proof.better()
    padded = np.concatenate([better, np.repeat(better[..., -1:], effects - way, axis=-1)], axis=-1)
    bets = np.concatenate([worse, padded], axis=-2)[..., None, :, :]
    gains = proportions.log_gains(asked.joined(proof), stable, canary, bets)
    return gains[..., :lenses, :], gains[..., lenses:, :way].sum(axis=-3)


def _widened(
    evidence: Evidence,
    tick: Tick,
    stable: Array,
    asked: Question,
    past: Array | None,
    *,
    filling: Mask,
    worse: Array,
) -> tuple[Question, Array]:
    """The question and its gains with the doubled margin for canaries whose caches are `filling` (...).

    Nothing is gained where no bucket is wide enough to ask that.
    """
    wide = question(evidence, past, widened=WIDER)
    if wide is None:
        return asked, worse
    gains = proportions.log_gains(wide, stable, tick.canary, wide.worse()[..., None, :, :])
    able = np.asarray(wide.ready)[..., None, None, None]
    gains = np.where(filling[..., None, None, None], np.where(able, gains, 0.0), worse)
    return (wide, gains) if filling.all() else (chosen(filling, wide.spread(), asked.spread()), gains)


def _informed(
    evidence: Evidence,
    tick: Tick,
    stable: Array,
    asked: Question,
    past: Array | None,
    *,
    phi: Array,
    start: Array,
    end: Array,
) -> Informed:
    """With what the bets bring that whole distributions advise."""
    if past is None:
        return evidence.informed
    if evidence.spec.kind is CheckKind.PREDICTIONS:
        gains, bet = _drifted(evidence, tick, stable, past)
    else:
        at = shifts.shifts(evidence.memory.le, evidence.memory.canary_le)
        if at is None or not isinstance(asked.canary, Above):
            return evidence.informed
        gains, bet = _slower(evidence, tick, stable, asked, shifts.rates(past, at, asked.canary.places))
    return informed.advanced(
        evidence.informed,
        gains / phi[..., None, None],
        np.asarray(bet.any(axis=-2)),
        few=_few(tick),
        start=start,
        end=end,
        tolerance=evidence.burst_tolerance,
    )


def _slower(
    evidence: Evidence, tick: Tick, stable: Array, asked: Question, rates: Array
) -> tuple[Array, Mask]:
    """Gains (..., N, L) where the tail is expected above the margin, and where that is (..., N, L).

    And the canary is rather believed to differ than not: of one that nothing is known of, the tail may be
    expected beyond the margin already. `rates` (..., L, J): of the tail, by factor.
    """
    believed = _believed(evidence, tick)
    expected = believed @ np.swapaxes(rates, -1, -2)
    least = asked.line[..., None, :] * informed.CLEARLY
    able = (least < 1) & np.asarray(asked.ready)[..., None, None]
    bet = np.asarray((expected > least) & able & (believed[..., :1] < 0.5))
    if not bet.any():
        return np.zeros(bet.shape), bet
    p1 = np.clip(np.maximum(expected, least), proportions.EDGE, 1 - proportions.EDGE)[..., None]
    return np.where(bet, proportions.log_gains(asked, stable, tick.canary, p1)[..., 0], 0.0), bet


def _drifted(evidence: Evidence, tick: Tick, stable: Array, of: Array) -> tuple[Array, Mask]:
    """Gains (..., N, 1) where predictions are expected beyond the tolerance, and where that is."""
    believed = _believed(evidence, tick)
    age, tolerance = tick.end - evidence.step_began, evidence.spec.tolerance
    gains, bet = drift.wagered(believed, of, stable, tick.canary, age=age, tolerance=tolerance)
    return gains[..., None], bet[..., None]


def _believed(evidence: Evidence, tick: Tick) -> Array:
    """How far each way is trusted of each group (..., N, J)."""
    known, changes = evidence.informed.belief, CHANGES[evidence.spec.kind]
    return belief.held(known, tick.canary.sum(axis=-1), seconds=tick.seconds, changes=changes)


def _few(tick: Tick) -> Mask:
    return np.asarray(tick.stable_nodes < dispersion.FEW)


def _phi(evidence: Evidence, tick: Tick) -> Array:
    return dispersion.phi(
        evidence.dispersion,
        stable_rate=tick.stable_cells.sum(axis=-1) / tick.seconds,
        canary_rate=tick.canary_cells.sum(axis=-1) / tick.seconds,
        stable_nodes=tick.stable_nodes,
        canary_nodes=tick.canary_nodes,
    )


def _hits(asked: Question, tick: Tick) -> Array:
    """Requests and hits (..., 4) of canary and stable, by the first lens."""
    canary, stable = tick.canary_cells, tick.stable_cells
    of_canary, of_stable = (
        proportions.hits(cells[..., None, :], marked)[..., 0, 0]
        for cells, marked in ((canary, asked.canary), (stable, asked.stable))
    )
    return np.stack([canary.sum(axis=-1), of_canary, stable.sum(axis=-1), of_stable], axis=-1)


def _learned(evidence: Evidence, tick: Tick, asked: Question | None, past: Array | None) -> Evidence:
    """With the tick in memory: the last thing that happens to it."""
    noise = evidence.dispersion
    if asked is not None:
        n, k = (
            tick.stable.sum(axis=-1),
            proportions.hits(tick.stable, proportions.first(asked.stable))[..., 0],
        )
        seen = (asked.ready & (tick.stable_nodes > 0))[..., None]
        noise = dispersion.observed(noise, n * seen, k * seen, seconds=tick.seconds * seen[..., 0])
    memory = cells.remembered(evidence.memory, tick, since=evidence.at)
    after = replace(
        evidence,
        at=tick.end,
        memory=memory,
        stable_nodes=np.where(tick.stable_nodes > 0, tick.stable_nodes, evidence.stable_nodes),
        dispersion=noise,
    )
    return _believing(evidence, after, tick, past)


def _believing(before: Evidence, evidence: Evidence, tick: Tick, past: Array | None) -> Evidence:
    """With what the tick says of the canary's whole distribution, and of how pods differ for good."""
    moved = np.asarray(evidence.stable_nodes != before.stable_nodes)
    if evidence.dispersion.sums is not before.dispersion.sums:
        moved = moved | (evidence.dispersion.sums != before.dispersion.sums).any(axis=(-2, -1))
    if moved.any():
        evidence = replace(evidence, margin=np.where(moved, latency_margin(evidence), evidence.margin))
    if evidence.informed_share == 0:
        return evidence
    known, changes = evidence.informed.belief, CHANGES[evidence.spec.kind]
    seconds = tick.end - np.where(before.at <= NEVER, tick.start, np.minimum(tick.start, before.at))
    likely = _likelihoods(before, evidence, tick, past) if tick.canary_cells.any() else None
    if likely is None:
        after = belief.forgotten(known, seconds, changes=changes)
    else:
        after = belief.revised(known, likely, phi=evidence.phi, seconds=seconds, changes=changes)
    return replace(evidence, informed=replace(evidence.informed, belief=after))


def _likelihoods(before: Evidence, evidence: Evidence, tick: Tick, past: Array | None) -> Array | None:
    """Log-likelihood (..., N, J) of the canary's requests, by way it may differ; None without buckets.

    Zero where too little of stable was seen.
    """
    memory = evidence.memory
    if evidence.spec.kind is CheckKind.PREDICTIONS:
        if past is None:
            return None
        likely, seen = drift.likelihoods(past, tick.canary), before.memory.recent[..., 0, :].sum(axis=-1)
    else:
        at = shifts.shifts(memory.le, memory.canary_le)
        if at is None:
            return None
        # by the quicker memory; this tick alone is too little of stable to compare with
        recent = memory.recent[..., -1, :]
        odds = quantiles.tail_odds(recent, level=1 - evidence.spec.quantile)
        likely, seen = shifts.likelihoods(odds, at, tick.canary), recent.sum(axis=-1)
    return np.where(np.asarray(seen >= shifts.ENOUGH)[..., None, None], likely, 0.0)
