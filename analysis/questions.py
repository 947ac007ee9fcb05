"""What a check asks of the next tick, from what is known now; a canary's evidence in, a `Question` out."""

import numpy as np

from analysis import dispersion, distributions, proportions, quantiles
from analysis.proportions import Array, Question
from analysis.state import CheckKind, Evidence

ENOUGH = 100.0  # stable observations before a question is asked: the tail's level is then 5 +- 2 %
# What a Pass has to prove where the margin itself is out of a step's reach. To prove +0.1 percentage
# point takes 5 000 canary requests, a TV of .05 over five sets 900; these two take about 450.
PASS_PLUS, PASS_TOLERANCE = 0.01, 0.10


def question(evidence: Evidence, odds: Array | None, *, widened: float = 1.0) -> Question | None:
    """What the next tick is asked, from what is known now; None where the buckets tell nothing apart.

    `odds`: stable's, as `tail_odds` gives them.
    """
    spec, memory = evidence.spec, evidence.memory
    stable = memory.recent[..., 0, :]
    ready = stable.sum(axis=-1) >= ENOUGH
    if spec.kind is CheckKind.ERROR_RATE:  # of which a rate is guessed from the first request on
        rho, delta = 1 + spec.max_increase * widened, spec.plus * widened
        return proportions.error_question(stable, rho=rho, delta=delta, ready=np.ones_like(ready))
    if spec.kind is CheckKind.PROPORTION:
        return proportions.share_question(
            stable,
            max_increase=spec.max_increase * widened,
            plus=spec.plus * widened,
            # some of what is left of it, where twice the margin would be all
            max_decrease=min(spec.max_decrease * widened, (1 + spec.max_decrease) / 2),
            ready=ready,
        )
    if spec.kind is CheckKind.PREDICTIONS:
        tolerance = min(spec.tolerance * widened, 0.99)
        return distributions.drift_question(
            stable, memory.recent_canary[..., 0, :], tolerance=tolerance, ready=ready
        )
    if odds is None:
        return None
    of, margin = quantiles.bounds(memory.le, memory.canary_le), evidence.margin * widened
    return quantiles.latency_question(
        memory.recent, odds, of, level=1 - spec.quantile, margin=margin, ready=ready
    )


def pass_question(evidence: Evidence, asked: Question) -> Question:
    """What a Pass has to prove: the margin, or a wider one where that is out of a step's reach."""
    spec, memory = evidence.spec, evidence.memory
    stable = memory.recent[..., 0, :]
    if spec.kind is CheckKind.ERROR_RATE:
        plus = max(spec.plus, PASS_PLUS)
        return proportions.error_question(stable, rho=1 + spec.max_increase, delta=plus, ready=asked.ready)
    if spec.kind is CheckKind.PREDICTIONS:
        tolerance = max(spec.tolerance, PASS_TOLERANCE)
        return distributions.likeness_question(
            stable, memory.recent_canary[..., 0, :], tolerance=tolerance, ready=asked.ready
        )
    return asked


def tail_odds(evidence: Evidence) -> Array | None:
    """Stable's log-odds (..., R, K_s - 1) of lying above each bound, by memory.

    None for checks that do not ask about latency, and where there are no buckets.
    """
    spec, memory = evidence.spec, evidence.memory
    if spec.kind is not CheckKind.LATENCY or not memory.le or not memory.canary_le:
        return None
    return quantiles.tail_odds(memory.recent, level=1 - spec.quantile)


def latency_margin(evidence: Evidence) -> Array:
    """The ratio of quantiles that is still allowed (...); wider where pods differ that much for good."""
    spec, memory, nodes = evidence.spec, evidence.memory, evidence.stable_nodes
    allowed = np.full(np.shape(nodes), 1 + spec.max_increase)
    if spec.kind is not CheckKind.LATENCY or not memory.le or not memory.canary_le:
        return allowed
    level, of = 1 - spec.quantile, quantiles.bounds(memory.le, memory.canary_le)
    slope = quantiles.slope(quantiles.tail_odds(memory.recent[..., 0, :], level=level), of, level=level)
    known = np.isfinite(slope)
    spread = dispersion.spread(evidence.dispersion, slope=np.where(known, slope, 1.0), stable_nodes=nodes)
    luck = dispersion.lasting_ratio(
        spread, stable_nodes=nodes, canary_nodes=np.array(max(len(evidence.groups), 1))
    )
    return np.asarray(np.where(known, np.maximum(allowed, luck), allowed))
