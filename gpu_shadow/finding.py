"""From a comparison to a verdict: do more answers differ than may, beyond what stable's own do?

The verdict is read off the interval of the excess (`excess`): above the margin, within it, or neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import exp, log, sqrt
from typing import Any

import numpy as np

from analysis import means
from analysis.judge import Verdict
from gpu_shadow.excess import excess_interval, log_e
from gpu_shadow.tally import BINS, COUNTS, MOST_SLICES, REST, Answers, Comparison, Marks, Spread, lower

OF_ALL, OF_SLICES = 0.8, 0.2  # shares of alpha; the slices' is divided among as many as there may be
NOISE = 0.999  # of stable's second answers are as near to its first as the noise is said to be
FEWEST = 20  # requests of a slice that is shown: with fewer, it may be one person's
DOUBLED = 10  # as often the requests may have to be, to be advised: a thousand times as many
TIGHT = 1000.0  # requests at which intervals for many requests are narrowest
# What is known of a figure's limits; of the others nothing is.
LIMITS = {
    "displaced": (0.0, 1.0),
    "missed": (0.0, 1.0),
    "tv": (0.0, 1.0),
    "js": (0.0, log(2) * (1 + 1e-6)),  # with what rounding may add
    "confidence": (-1.0, 1.0),
    "relative": (0.0, 2.0),
    "cosine_distance": (0.0, 2.0 * (1 + 1e-6)),
    "brier": (-2.0, 2.0),
    "beyond": (0.0, 1.0),
    "diverged": (0.0, 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """What may differ, and how sure a verdict is.

    `max_flips` is the share of requests whose answer may be another one, beyond the noise floor; a canary
    within it fails with probability at most `alpha`, one beyond it passes with at most `beta`.
    `max_accuracy_loss`, if it is given, is the share of labelled requests that the canary may have wrong more
    than stable: then both are held to, each with half of `alpha`.
    """

    max_flips: float = 0.005
    max_accuracy_loss: float | None = None
    alpha: float = 0.01
    beta: float = 0.05
    task: str = "classification"

    def __post_init__(self) -> None:
        for name in ("max_flips", "alpha", "beta", "max_accuracy_loss"):
            given = getattr(self, name)
            if given is not None and not 0 < given < 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {given}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One figure of the canary's answers beside stable's second ones (None without these).

    `interval` holds the mean at all looks at once with probability 1 - alpha; where the figure has no
    limits it does so for many requests (`asymptotic`). Quantiles are of |figure| and up to 9 % too high.
    `ratio` is the root mean square over the floor's; None where the floor is 0.
    """

    name: str
    mean: float
    interval: tuple[float, float]
    asymptotic: bool
    median: float
    p99: float
    largest: float
    floor_mean: float | None = None
    ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Of `requests` the part whose answer differs: from the canary, from stable itself, and beyond that.

    `interval` is of the excess and holds at all looks at once: at its lower end but with a share of
    alpha, at its upper end but with beta.
    """

    label: str
    requests: int
    flips: float
    floor: float | None
    excess: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a comparison says; `why` are sentences for people, the decisive one first.

    `clear` is the share of requests that differ though stable's answer was clearer than noise can turn;
    None where the noise was not measured or the task knows no clearness. `wrong` are the answers that are not
    as their label says (`flips` the canary's, `floor` stable's, `excess` the loss of accuracy).
    """

    verdict: Verdict
    why: tuple[str, ...]
    requests: int
    wrong: Share | None = None
    marks: Mapping[str, Marks] = field(default_factory=dict)
    overall: Share | None = None
    clear: float | None = None
    slices: tuple[Share, ...] = ()
    differences: tuple[Difference, ...] = ()
    worst: tuple[tuple[float, str], ...] = ()

    @property
    def shown(self) -> tuple[Share, ...]:
        """The slices that are shown; smaller ones decide with them and are nameless."""
        return tuple(one for one in self.slices if one.requests >= FEWEST)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; the form is documented in docs/shadow.md."""
        return {
            "verdict": VERDICTS[self.verdict],
            "why": list(self.why),
            "requests": self.requests,
            "overall": None if self.overall is None else _of_share(self.overall),
            "clearFlips": self.clear,
            "accuracy": None if self.wrong is None else _of_accuracy(self.wrong),
            "calibration": {arm: _of_marks(each) for arm, each in sorted(self.marks.items()) if each.n},
            "slices": [_of_share(each) for each in self.shown],
            "slicesTooSmall": len(self.slices) - len(self.shown),
            "differences": [_of_difference(each) for each in self.differences],
            "worst": [{"id": name, "score": how} for how, name in self.worst],
        }


VERDICTS = {
    Verdict.PASS: "Pass",
    Verdict.INCONCLUSIVE: "Inconclusive",
    Verdict.NO_DATA: "NoData",
    Verdict.FAIL: "Fail",
}


def decide(comparison: Comparison, margins: Margins) -> Finding:
    """What the comparison says, however often one has looked before and will again.

    Answers that are none (NaN, infinite, an error, another form) fail at once, unless stable's own second
    answers show the like. Then the excess: Fail if it is surely above the margin, in all requests or in
    one slice; Pass if surely within; else Inconclusive. The loss of accuracy likewise, if it has a margin;
    of both the worse counts.

    Guarantee: a canary whose excess is at most `max_flips`, given the past at every request, fails with
    probability at most `alpha`; one whose excess is at least that passes with probability at most
    `beta` (Ville's inequality; the capital of fixed stakes depends on counts alone, so that neither the order
    nor the number of looks matters).
    """
    if comparison.task != margins.task:
        raise ValueError(f"the margins are for {margins.task}, the answers compared as {comparison.task}")
    if not comparison.requests:
        nothing = "No request was compared: nothing is known."
        return Finding(verdict=Verdict.NO_DATA, why=(nothing, *_notes(comparison, None)), requests=0)
    alpha = margins.alpha / (1 if margins.max_accuracy_loss is None else 2)
    overall = share("", comparison.answers, fail=alpha * OF_ALL, beta=margins.beta)
    wrong = share("", comparison.wrong, fail=alpha, beta=margins.beta) if comparison.wrong.twice else None
    few = alpha * OF_SLICES / MOST_SLICES
    slices = tuple(
        share(label, each, fail=few, beta=margins.beta) for label, each in sorted(comparison.slices.items())
    )
    verdict, why = _verdict(comparison, overall, slices, wrong, margins)
    differences = tuple(
        _difference(name, each, comparison.floor.get(name), alpha=margins.alpha)
        for name, each in sorted(comparison.figures.items())
        if each.n
    )
    return Finding(
        verdict=verdict,
        why=(*why, *_notes(comparison, overall), *_perplexity(differences)),
        requests=comparison.requests,
        overall=overall,
        clear=_clear(comparison),
        wrong=wrong,
        marks=comparison.marks,
        slices=slices,
        differences=differences,
        worst=comparison.worst,
    )


def share(label: str, answers: Answers, *, fail: float, beta: float) -> Share:
    """How many of the answers differ; of requests that stable answered twice, if there are any.

    `fail` is the probability that the interval's lower end may miss the excess with, `beta` the upper's.
    """
    n, twice = answers.twice or answers.once, answers.twice > 0
    flips = (answers.canary + answers.both) / n if twice else answers.once_canary / n
    floor = (answers.again + answers.both) / n if twice else None
    return Share(
        label=label,
        requests=n,
        flips=flips,
        floor=floor,
        excess=(answers.canary - answers.again) / n if twice else flips,
        interval=excess_interval(answers, fail=fail, beta=beta),
    )


def _verdict(
    comparison: Comparison,
    overall: Share,
    slices: Sequence[Share],
    wrong: Share | None,
    margins: Margins,
) -> tuple[Verdict, tuple[str, ...]]:
    gates = _gates(comparison)
    if gates:
        return Verdict.FAIL, gates
    found = [_of_flips(comparison, overall, slices, margins)]
    if margins.max_accuracy_loss is not None:
        found.append(_of_loss(comparison, wrong, margins.max_accuracy_loss, margins.beta))
    found.sort(key=lambda each: -each[0])
    return found[0][0], tuple(sentence for _, sentence in found)


def _of_flips(
    comparison: Comparison, overall: Share, slices: Sequence[Share], margins: Margins
) -> tuple[Verdict, str]:
    """What the answers that differ say."""
    allowed = percent(margins.max_flips)
    beyond = " beyond the noise floor" if overall.floor is not None else ""
    for each in (overall, *slices):
        if each.interval[0] > margins.max_flips and (each is overall or each.label != REST):
            where = "" if each is overall else _named(each)
            least = percent(each.interval[0])
            return Verdict.FAIL, f"At least {least} of answers{where} differ{beyond}; {allowed} may."
    low, high = map(percent, overall.interval)
    if overall.interval[1] <= margins.max_flips:
        return Verdict.PASS, f"At most {high} of answers differ{beyond}; {allowed} may."
    told = f"Between {low} and {high} of answers differ{beyond}; {allowed} may: not decided"
    return Verdict.INCONCLUSIVE, told + _more(comparison.answers, margins.max_flips, margins.beta, "requests")


def _named(one: Share) -> str:
    few = one.requests < FEWEST
    return f" of a slice of fewer than {FEWEST} requests" if few else f" of the slice {one.label}"


def _of_loss(comparison: Comparison, wrong: Share | None, allowed: float, beta: float) -> tuple[Verdict, str]:
    """What the labels say."""
    may = f"more of the labelled requests than stable; {percent(allowed)} may be"
    if wrong is None:
        none = "No request has a label: nothing is known of the loss of accuracy"
        return Verdict.INCONCLUSIVE, f"{none}; {percent(allowed)} may be."
    low, high = wrong.interval
    if low > allowed:
        return Verdict.FAIL, f"The canary is wrong in at least {percent(low)} {may}."
    if high <= allowed:
        return Verdict.PASS, f"The canary is wrong in at most {percent(high)} {may}."
    told = f"The canary is wrong in {percent(low)} to {percent(high)} {may}: not decided"
    return Verdict.INCONCLUSIVE, told + _more(comparison.wrong, allowed, beta, "labels")


def _more(answers: Answers, margin: float, beta: float, what: str) -> str:
    """How a sentence ends that decides nothing."""
    enough = _enough(answers, margin, beta)
    return "." if enough is None else f", but about {enough} {what} would pass if it goes on like this."


def _gates(comparison: Comparison) -> tuple[str, ...]:
    """What no statistics are needed for."""
    n, found = comparison.requests, []
    if comparison.mismatched:
        forms = "; ".join(comparison.mismatches)
        found.append(f"{comparison.mismatched} of {n} answers have another form: {forms}.")
    if comparison.failed:
        failed = f"The canary failed to answer {comparison.failed} of {n} requests that stable answered"
        found.append(": ".join([failed, *filter(None, ["; ".join(comparison.failures)])]) + ".")
    if comparison.broken and not comparison.broken_again:
        found.append(f"{comparison.broken} of {n} answers are NaN or infinite where stable's are numbers.")
    return tuple(found)


def _notes(comparison: Comparison, overall: Share | None) -> tuple[str, ...]:
    found = []
    if overall is not None and overall.floor is None:
        found.append("The noise floor was not measured: every difference counts as the canary's.")
    elif comparison.answers.once:  # beside others that were answered twice
        left = comparison.answers.once
        be = "request is" if left == 1 else "requests are"
        found.append(f"{left} {be} left out: stable did not answer twice.")
    if comparison.unusable:
        left = comparison.unusable
        be, them = ("request is", "it") if left == 1 else ("requests are", "them")
        found.append(f"{left} {be} left out: stable itself has no finite answer to {them}.")
    if len(comparison.slices) > MOST_SLICES:
        found.append(f"Only {MOST_SLICES} slices are told apart; the rest are one and decide nothing.")
    small = sum((one.twice or one.once) < FEWEST for one in comparison.slices.values())
    if small:
        be = "slice has" if small == 1 else "slices have"
        found.append(f"{small} {be} fewer than {FEWEST} requests and no name here: it may be one person's.")
    return tuple(found)


def _perplexity(differences: Sequence[Difference]) -> tuple[str, ...]:
    """How much more surprising the recorded texts are to the canary: the geometric mean over requests."""
    found = next((one for one in differences if one.name == "per_token"), None)
    if found is None:
        return ()
    ratio, high, low = (exp(-min(max(each, -700), 700)) for each in (found.mean, *found.interval))
    return (f"Perplexity of the recorded answers is {ratio:.4g} x stable's ({low:.4g} to {high:.4g}).",)


def _enough(answers: Answers, margin: float, beta: float) -> int | None:
    """About how many requests would pass with these shares; None if more than are ever advised."""

    def passes(times: float) -> bool:
        as_many = Answers(**{name: round(times * getattr(answers, name)) for name in COUNTS})
        return log_e(as_many, margin, passing=True) >= log(1 / beta)

    doubled = next((k for k in range(1, DOUBLED + 1) if passes(2.0**k)), None)
    if doubled is None:
        return None
    low, high = 2.0 ** (doubled - 1), 2.0**doubled
    for _ in range(6):  # to 2 %
        middle = (low + high) / 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    n = round(high * (answers.twice or answers.once))
    step = int(10 ** max(len(str(n)) - 2, 0))  # two digits are as many as are known
    return -(-n // step) * step


def _clear(comparison: Comparison) -> float | None:
    """The share of answers that differ though stable's was clearer than twice the noise of a score."""
    noise = comparison.floor.get("max_delta")
    if noise is None or not noise.n or comparison.task != "classification":
        return None
    line = 2 * noise.quantile(NOISE)
    return sum(n for bucket, n in comparison.flips.items() if lower(bucket) >= line) / comparison.requests


def _difference(name: str, spread: Spread, floor: Spread | None, *, alpha: float) -> Difference:
    limits = LIMITS.get(name)
    noise = 0.0 if floor is None else float(floor.squares)
    return Difference(
        name=name,
        mean=spread.mean,
        interval=_for_many(spread, alpha) if limits is None else _within(spread, limits, alpha),
        asymptotic=limits is None,
        median=spread.quantile(0.5),
        p99=spread.quantile(0.99),
        largest=spread.largest,
        floor_mean=None if floor is None or not floor.n else floor.mean,
        ratio=sqrt(float(spread.squares / spread.n) / (noise / floor.n)) if floor and noise else None,
    )


def _within(spread: Spread, limits: tuple[float, float], alpha: float) -> tuple[float, float]:
    """Of a figure with limits: by betting, for any number of requests."""
    low, high = limits
    n, span = spread.n, high - low
    up, squared = spread.total - n * Fraction(low), spread.squares
    up_squared = squared - 2 * Fraction(low) * spread.total + n * Fraction(low) ** 2
    down = n * Fraction(high) - spread.total
    down_squared = n * Fraction(high) ** 2 - 2 * Fraction(high) * spread.total + squared
    sums = (n, up / Fraction(span), up_squared / Fraction(span) ** 2, down / Fraction(span))
    parts = (np.array([max(float(one), 0.0)]) for one in (*sums, down_squared / Fraction(span) ** 2))
    ends = means.interval(means.Moments(low, high, *parts), error=alpha)
    return float(ends[0]), float(ends[1])


def _for_many(spread: Spread, alpha: float) -> tuple[float, float]:
    """Of a figure without: holds at all looks from many requests on.

    Reference: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (2024), "Time-uniform central limit theory and
    asymptotic confidence sequences", equation 1.
    """
    n = spread.n
    variance = max(float(spread.squares / n - (spread.total / n) ** 2), 0.0)
    rho2 = (-2 * log(alpha) + log(-2 * log(alpha)) + 1) / TIGHT
    known = n * rho2 + 1
    half = sqrt(variance * 2 * known / (n * n * rho2) * log(sqrt(known) / alpha))
    return spread.mean - half, spread.mean + half


def times(ratio: float | None) -> str:
    """How many times the noise a figure is, as people read it; the noise may be hardly any."""
    return "-" if ratio is None else f"{ratio:.3g}" if ratio < 999.5 else "> 1000"


def percent(part: float) -> str:
    """A share as people read it, to three digits."""
    return f"{100 * part:.3g} %"


def _of_share(each: Share) -> dict[str, Any]:
    return {
        "label": each.label,
        "requests": each.requests,
        "flips": each.flips,
        "floor": each.floor,
        "excess": each.excess,
        "interval": list(each.interval),
    }


def _of_accuracy(wrong: Share) -> dict[str, Any]:
    return {
        "labels": wrong.requests,
        "stable": 1 - (wrong.floor or 0.0),
        "canary": 1 - wrong.flips,
        "loss": wrong.excess,
        "interval": list(wrong.interval),
    }


def _of_marks(marks: Marks) -> dict[str, Any]:
    return {
        "ece": marks.ece,
        "brier": float(marks.brier / marks.n),
        "nll": float(marks.nll / marks.n),
        "bins": [
            {
                "from": at / BINS,
                "to": (at + 1) / BINS,
                "requests": one.n,
                "right": one.right / one.n,
                "confidence": float(one.confidence / one.n),
            }
            for at, one in sorted(marks.bins.items())
            if one.n
        ],
    }


def _of_difference(each: Difference) -> dict[str, Any]:
    return {
        "name": each.name,
        "mean": each.mean,
        "interval": list(each.interval),
        "asymptotic": each.asymptotic,
        "median": each.median,
        "p99": each.p99,
        "largest": each.largest,
        "floorMean": each.floor_mean,
        "ratio": each.ratio,
    }
