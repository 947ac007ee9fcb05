"""From evidence to a verdict: how checks and steps combine under one alpha.

The run's evidence is `sum over checks of share x E`. A check's E is the sum over steps of pi_s x E_s,
where steps to come count 1 and finished ones are frozen; for latency half of it, and half is one product
over the whole run (`informed`). It is itself an e-process, however the checks depend on each
other; when it reaches 1 / alpha the run fails (Ville's inequality).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from math import log
from typing import Any

import numpy as np

from analysis import distributions, proportions, quantiles
from analysis.bursts import LIMIT, within
from analysis.evidence import CheckKind, CheckSpec, Evidence
from analysis.proportions import Array, Integers, Mask, Question
from analysis.questions import ENOUGH, PASS_PLUS, PASS_TOLERANCE, question, tail_odds
from analysis.state import Standing, standing
from analysis.values import replace

SILENCE = 30.0  # s without a tick with traffic in both arms, and a check has no data
LEAST_REQUESTS = 300.0  # canary requests before a Pass
LEAST_TAIL = 15.0  # expected canary requests in the tail before a latency Pass: 5 % of those 300
LEANING = float(np.log(2.0))  # no Pass while the odds against the canary have doubled in this step
LATELY = 20.0  # requests of each arm that are remembered for it; of fewer there is no 95th percentile
LATELY_HITS = 5.0  # of stable's, at least, for a ratio of shares: of fewer it says next to nothing
BY_MARGIN = "while a rollback asks by the margin"  # docs/statistics.md#what-a-pass-proves
RESOLVED = 1.25  # buckets that prove a ratio this near to the margin need no caveat: two of x1.1 do


class Verdict(IntEnum):
    """What the evidence says; of several, the worst wins."""

    PASS = 0
    INCONCLUSIVE = 1
    NO_DATA = 2
    FAIL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckJudgement:
    """One check's verdict and, once `explained`, the figures behind it.

    `log_e` is the check's term of the run's sum, log(share x E); the run fails when
    the sum reaches log(1/alpha). `estimate` and `interval` are in the check's own unit: a ratio of
    quantiles or of shares, a difference of rates, a total variation distance; None while not estimable. The
    interval holds at all times at once with probability 1 - alpha, for a step that does not change.
    A proportion's `shares` are the canary's and stable's. `doubtful`: a Pass of before would be none now,
    though enough was seen: odds lean against the canary, or no longer show it within the Pass margin.
    """

    name: str
    verdict: Verdict
    log_e: float
    log_e_pass: float
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    canary_requests: int = 0
    stable_requests: int = 0
    canary_hits: int = 0  # canary requests beyond the margin's threshold (or errors, or a proportion's hits)
    # At most so many, were the canary as stable at the margin; at least, where fewer are worse.
    expected_hits: float = 0.0
    shares: tuple[float, float] | None = None
    threshold: float | None = None  # seconds for latency
    note: str = ""  # a caveat for people: coarse buckets, one pod, load parity
    worst: tuple[tuple[str, float], ...] = ()  # ids of the requests that differ most, and how much
    doubtful: bool = False
    # Of what failed, over about the last ten seconds: the estimate, and the canary's hits, requests (fading
    # with the age) and hits at the margin.
    lately: float | None = None
    lately_hits: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict over all checks; `failed` names the check with the largest term at the crossing."""

    verdict: Verdict
    log_e: float
    checks: tuple[CheckJudgement, ...] = ()
    failed: str | None = None


def judge(evidence: Sequence[Evidence], *, alpha: float, beta: float, now: float) -> Judgement:
    """What all checks' evidence says at `now` (in the samples' time), without the figures of `explained`.

    Checks that are not required are part of the sum, so they can fail the run; they never keep it
    from passing. Without checks there is no data.

    Guarantee: a canary within every margin fails with probability at most `alpha` over the whole
    run, however often one looks, for requests independent given the tick and the arm's state
    (docs/statistics.md says what pods' noise does to that). A canary beyond a check's Pass margin
    passes a step with probability at most `beta`.
    """
    known = [standing(one) for one in evidence]
    terms = [_term(one, float(found.run)) for one, found in zip(evidence, known, strict=True)]
    total = float(log_total(terms))
    failed = int(np.argmax(terms)) if terms and total >= log(1 / alpha) else None
    checks = tuple(
        _verdict(one, one_known, term=term, failed=place == failed, beta=beta, now=now)
        for place, (one, one_known, term) in enumerate(zip(evidence, known, terms, strict=True))
    )
    verdicts = [
        check.verdict
        for one, check in zip(evidence, checks, strict=True)
        if one.spec.required or check.verdict is Verdict.FAIL
    ]
    overall = max(verdicts, default=Verdict.PASS if checks else Verdict.NO_DATA)
    return Judgement(
        verdict=overall,
        log_e=total,
        checks=checks,
        failed=None if failed is None else evidence[failed].spec.name,
    )


def explained(judged: Judgement, evidence: Sequence[Evidence], *, alpha: float) -> Judgement:
    """What was judged of this evidence, with the figures that people are shown: twenty times the work."""
    pairs = zip(evidence, judged.checks, strict=True)
    return replace(
        judged, checks=tuple(replace(check, **_explained(one, check.verdict, alpha)) for one, check in pairs)
    )


def log_term(evidence: Evidence) -> Array:
    """The check's term of the run's sum: log(share x E) (...)."""
    return within(standing(evidence).run + _log_share(evidence.spec.share))


def log_total(terms: Sequence[Array | float]) -> Array:
    """The run's evidence (...): log of the sum over checks; the run fails when it reaches log(1/alpha)."""
    if not terms:
        return np.zeros(())
    return within(np.asarray(np.logaddexp.reduce(np.asarray(terms), axis=0)))


def verdicts(evidence: Evidence, *, beta: float, now: Array | float) -> Integers:
    """What the check says (...) as values of `Verdict`, unless the run's sum has failed."""
    return _verdicts(evidence, standing(evidence), beta=beta, now=now)


def _verdicts(evidence: Evidence, found: Standing, *, beta: float, now: Array | float) -> Integers:
    proven = (found.passing >= log(1 / beta)) & (found.step < LEANING)
    said = np.where(proven & _seen_enough(evidence), int(Verdict.PASS), int(Verdict.INCONCLUSIVE))
    return np.where(now - evidence.both_at > SILENCE, int(Verdict.NO_DATA), said)


def _term(evidence: Evidence, of_run: float) -> float:
    """As `log_term`, of one canary whose evidence over all steps is known."""
    return min(max(of_run + _log_share(evidence.spec.share), -LIMIT), LIMIT)


@lru_cache(maxsize=256)  # checks of the plans that are under way
def _log_share(share: float) -> float:
    return float(np.log(max(share, 1e-300)))


def _verdict(
    evidence: Evidence, known: Standing, *, term: float, failed: bool, beta: float, now: float
) -> CheckJudgement:
    n_c, _, n_s, k_s = evidence.tally.tolist()  # one canary's: as numbers in a fifth of the time
    enough, leans = _enough(evidence.spec.kind, n_c, n_s, k_s), known.step >= LEANING
    found = Verdict.INCONCLUSIVE
    if failed:
        found = Verdict.FAIL
    elif now - float(evidence.both_at) > SILENCE:
        found = Verdict.NO_DATA
    elif known.passing >= log(1 / beta) and not leans and enough:
        found = Verdict.PASS
    return CheckJudgement(
        name=evidence.spec.name,
        verdict=found,
        log_e=term,
        log_e_pass=float(known.passing),
        doubtful=found is Verdict.INCONCLUSIVE and bool(leans or enough),
    )


def _explained(evidence: Evidence, verdict: Verdict, alpha: float) -> dict[str, Any]:
    """The figures of a `CheckJudgement`, by field."""
    n_c, k_c, n_s, k_s = evidence.tally
    rate, spec = k_s / max(n_s, 1.0), evidence.spec
    asked = question(evidence, tail_odds(evidence))
    usable = asked is not None and asked.ready
    allowed = float(asked.rho[0] * rate + asked.delta[0]) if asked is not None and usable else rate
    if spec.kind in {CheckKind.ERROR_RATE, CheckKind.PROPORTION}:  # the first question came later
        of_step = evidence.memory.step_canary
        n_c, k_c = of_step.sum(), of_step[0 if spec.max_decrease else 1]
    estimate, interval = _figures(evidence, alpha)
    expected = float(min(allowed, 1.0) * n_c)
    if spec.max_decrease:  # the question counts those without a hit
        k_c, expected = n_c - k_c, float(n_c) - expected
    of_a_pass, lately, failed = pass_notes(spec), {}, verdict is Verdict.FAIL
    if failed:
        of_a_pass = []
        lately = {"lately": _lately(evidence), "lately_hits": _lately_hits(evidence, asked)}
    return lately | {
        "estimate": estimate,
        "interval": interval,
        "canary_requests": int(evidence.memory.step_canary.sum()),
        "stable_requests": int(evidence.memory.step_stable.sum()),
        "canary_hits": int(k_c),
        "expected_hits": expected,
        "shares": _shares(evidence),
        "threshold": _threshold(evidence),
        "note": "; ".join([*_notes(evidence, asked, failed=failed), *of_a_pass]),
    }


def _lately(evidence: Evidence) -> float | None:
    """The estimate by what both arms remember for the shortest time, where a late fault is not diluted."""
    memory, kind = evidence.memory, evidence.spec.kind
    stable, canary = memory.recent[-1], memory.recent_canary[-1]
    if min(stable.sum(), canary.sum()) < LATELY or kind is CheckKind.PREDICTIONS:
        return None
    if kind is CheckKind.PROPORTION:
        shares = canary[1] / canary.sum(), stable[1] / stable.sum()
        return float(shares[0] / shares[1]) if stable[1] >= LATELY_HITS else None
    if kind is CheckKind.ERROR_RATE:
        return float(canary[1] / canary.sum() - stable[1] / stable.sum())
    level = 1 - evidence.spec.quantile
    of_stable = quantiles.quantile(stable, memory.le, level)
    of_canary = quantiles.quantile(canary, memory.canary_le, level)
    return of_canary / of_stable if of_stable and of_canary else None


def _lately_hits(evidence: Evidence, asked: Question | None) -> tuple[float, float, float] | None:
    """The canary's hits, requests, and hits at the margin, by the same memories."""
    memory, spec = evidence.memory, evidence.spec
    stable, canary = memory.recent[-1], memory.recent_canary[-1]
    n_s, n_c = float(stable.sum()), float(canary.sum())
    if asked is None or not bool(asked.ready) or min(n_s, n_c) < LATELY:
        return None
    k_s, k_c = (
        float(proportions.hits(cells[None], proportions.first(marked))[0, 0])
        for cells, marked in ((stable, asked.stable), (canary, asked.canary))
    )
    at_margin = min(float(asked.rho[0] * k_s / n_s + asked.delta[0]), 1.0) * n_c
    return (n_c - k_c, n_c, n_c - at_margin) if spec.max_decrease else (k_c, n_c, at_margin)


def _seen_enough(evidence: Evidence) -> Mask:
    n_c, _, n_s, k_s = np.moveaxis(evidence.tally, -1, 0)
    return np.asarray(_enough(evidence.spec.kind, n_c, n_s, k_s))


def _enough(kind: CheckKind, n_c: Any, n_s: Any, k_s: Any) -> Any:
    """Whether these requests, and hits of stable's, are enough for a Pass; numbers or arrays."""
    tail = kind is not CheckKind.LATENCY or n_c * k_s >= LEAST_TAIL * n_s
    return (n_c >= LEAST_REQUESTS) & tail


def _figures(evidence: Evidence, alpha: float) -> tuple[float | None, tuple[float, float] | None]:
    memory, spec = evidence.memory, evidence.spec
    stable, canary = memory.step_stable, memory.step_canary
    if stable.sum() <= 0 or canary.sum() <= 0:
        return None, None
    if spec.kind is CheckKind.ERROR_RATE:
        k, n = np.array([canary[1], stable[1]]), np.array([canary.sum(), stable.sum()])
        low, high = proportions.rate_interval(k, n, error=alpha / 2, temper=float(evidence.phi))
        return float(k[0] / n[0] - k[1] / n[1]), (float(low[0] - high[1]), float(high[0] - low[1]))
    if spec.kind is CheckKind.PROPORTION:
        return _proportion_figures(evidence, alpha)
    if spec.kind is CheckKind.PREDICTIONS:
        temper = float(evidence.phi)
        interval = distributions.distance_interval(stable, canary, error=alpha, temper=temper)
        return distributions.distance(stable, canary, temper=temper), interval
    return _latency_figures(evidence, alpha)


def _shares(evidence: Evidence) -> tuple[float, float] | None:
    """The canary's and stable's share of hits in this step; None for other checks and without trials."""
    stable, canary = evidence.memory.step_stable, evidence.memory.step_canary
    if evidence.spec.kind is not CheckKind.PROPORTION or stable.sum() <= 0 or canary.sum() <= 0:
        return None
    return float(canary[1] / canary.sum()), float(stable[1] / stable.sum())


def _proportion_figures(evidence: Evidence, alpha: float) -> tuple[float | None, tuple[float, float] | None]:
    """The ratio of shares; None where stable's may be zero."""
    stable, canary = evidence.memory.step_stable, evidence.memory.step_canary
    k, n = np.array([canary[1], stable[1]]), np.array([canary.sum(), stable.sum()])
    low, high = proportions.rate_interval(k, n, error=alpha / 2, temper=float(evidence.phi))
    estimate = None if k[1] == 0 else float(k[0] / n[0] / (k[1] / n[1]))
    return estimate, None if low[1] <= 0 else (float(low[0] / high[1]), float(high[0] / low[1]))


def _latency_figures(evidence: Evidence, alpha: float) -> tuple[float | None, tuple[float, float] | None]:
    memory, level = evidence.memory, 1 - evidence.spec.quantile
    of_stable = quantiles.quantile(memory.step_stable, memory.le, level)
    of_canary = quantiles.quantile(memory.step_canary, memory.canary_le, level)
    interval = quantiles.ratio_interval(
        memory.step_stable,
        memory.step_canary,
        memory.le,
        memory.canary_le,
        level=level,
        error=alpha,
        temper=float(evidence.phi),
    )
    if of_stable is None or of_canary is None or of_stable <= 0:
        return None, interval
    return of_canary / of_stable, interval


def _threshold(evidence: Evidence) -> float | None:
    chosen = _pair(evidence)
    return None if chosen is None else evidence.memory.canary_le[chosen.canary]


def _pair(evidence: Evidence) -> quantiles.Pair | None:
    spec, memory, odds = evidence.spec, evidence.memory, tail_odds(evidence)
    if odds is None or memory.recent[0].sum() <= 0:
        return None
    of = quantiles.bounds(memory.le, memory.canary_le)
    chosen = quantiles.pair(odds[0], of, level=1 - spec.quantile, margin=1 + spec.max_increase)
    return chosen if chosen.found else None


def _notes(evidence: Evidence, asked: Question | None, *, failed: bool) -> list[str]:
    spec, memory = evidence.spec, evidence.memory
    notes = []
    chosen = _pair(evidence)
    if chosen is not None:
        notes += _coarse_notes(evidence, chosen, failed=failed)
    elif spec.kind is CheckKind.LATENCY and memory.recent.sum() > 0:
        notes.append("its buckets end below stable's latency: nothing can be compared")
    if spec.kind is CheckKind.LATENCY and asked is not None and asked.ready and asked.rho[0] > 1:
        allowed = f"x{asked.rho[0]:.2g} of its slow requests are allowed"
        notes.append(f"its latencies come in steps wider than the margin: {allowed}")
    if spec.kind is CheckKind.PREDICTIONS and memory.recent.sum() > 0 and not memory.le:
        notes.append("the two arms have no bucket in common: nothing can be compared")
    elif spec.kind is CheckKind.PREDICTIONS and not failed:
        notes += crowded(memory.recent[0])
    if len(evidence.groups) == 1:
        notes.append("one canary node: bursts longer than the tolerance look like the version")
    return notes


def _coarse_notes(evidence: Evidence, chosen: quantiles.Pair, *, failed: bool) -> list[str]:
    """What buckets so coarse cannot show; once they have shown something, what that was held against."""
    spec, memory = evidence.spec, evidence.memory
    ratio = quantiles.resolution(quantiles.bounds(memory.le, memory.canary_le), chosen)
    if ratio <= (1 + spec.max_increase) * RESOLVED:
        return []
    if failed:  # they told this one; "cannot tell" would speak against the verdict
        far, near = (1000 * le for le in (memory.canary_le[chosen.canary], memory.le[chosen.stable]))
        held = f"the canary may have as many beyond {far:g} ms as stable beyond {near:g} ms"
        return [f"its buckets are coarse: {held}, so a smaller increase may not show (docs/metrics.md)"]
    what = f"an increase below x{ratio:.2g}" if np.isfinite(ratio) else "an increase, however large,"
    return [f"its buckets cannot tell {what} from none: finer ones can (docs/metrics.md)"]


def crowded(cells: Array) -> list[str]:
    """What predictions that lie nearly all in one bucket cannot show."""
    part = distributions.in_one(cells.tolist())
    if part < distributions.NEARLY_ALL or cells.sum() < ENOUGH:
        return []
    return [
        f"{100 * part:.0f} % of stable's lie in one bucket: a shift within it does not show (docs/metrics.md)"
    ]


def pass_notes(spec: CheckSpec) -> list[str]:
    """Where a Pass proves less than the margin; it says nothing of a rollback."""
    if spec.kind is CheckKind.ERROR_RATE and spec.plus < PASS_PLUS:
        proved = f"at most {1 + spec.max_increase:.10g}x stable's rate plus {100 * PASS_PLUS:g} point"
        return [f"a Pass proves {proved}, {BY_MARGIN}"]
    if spec.kind is CheckKind.PREDICTIONS and spec.tolerance < PASS_TOLERANCE:
        return [f"a Pass proves a shift below {PASS_TOLERANCE:g}, {BY_MARGIN}"]
    return []
