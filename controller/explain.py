"""Plain sentences about a check: the question it asked, the answer it got, and how sure that is.

Pure, and light on purpose: `serin explain` runs this without loading numpy.
"""

import math
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the real modules bring numpy along; names are all that is needed here
    from analysis.evidence import CheckSpec
    from analysis.judge import CheckJudgement


# How the message of a run begins whose pods nobody can look at: it gets no traffic, and only a page helps.
UNREAD = "no metrics page of"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check, question and answer: what a CheckSpec allows and what a CheckJudgement found."""

    name: str
    kind: str
    verdict: str  # "Pass", "Inconclusive", "NoData" or "Fail"
    quantile: float = 0.95
    max_increase: float = 0.0
    plus: float = 0.0
    max_decrease: float = 0.0
    tolerance: float = 0.05
    max_flips: float = 0.0
    required: bool = True
    log_e: float | None = None
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    canary_requests: int = 0
    stable_requests: int = 0
    canary_hits: int = 0
    expected_hits: float = 0.0
    shares: tuple[float, float] | None = None
    threshold: float | None = None
    note: str = ""
    worst: tuple[tuple[str, float], ...] = ()
    lately: float | None = None  # the estimate over about the last ten seconds, of what failed
    warming: timedelta | None = None  # for how much longer pods warm up; nothing is measured before


ANOTHER = 2.0  # of a request's score: up to it there is an answer, from 1 on another one
_VERDICTS = {"PASS": "Pass", "INCONCLUSIVE": "Inconclusive", "NO_DATA": "NoData", "FAIL": "Fail"}


def finding(spec: "CheckSpec", judged: "CheckJudgement") -> Finding:
    """Both taken together."""
    return Finding(
        name=spec.name,
        kind=str(spec.kind),
        verdict=_VERDICTS[judged.verdict.name],
        quantile=spec.quantile,
        max_increase=spec.max_increase,
        plus=spec.plus,
        max_decrease=spec.max_decrease,
        tolerance=spec.tolerance,
        required=spec.required,
        log_e=judged.log_e,
        estimate=judged.estimate,
        interval=judged.interval,
        canary_requests=judged.canary_requests,
        stable_requests=judged.stable_requests,
        canary_hits=judged.canary_hits,
        expected_hits=judged.expected_hits,
        shares=judged.shares,
        threshold=judged.threshold,
        note=judged.note,
        worst=judged.worst,
        lately=judged.lately,
    )


def different(found: Finding) -> list[str]:
    """The most different requests, by id, each with what is different."""
    return [f"{name} ({_different(how)})" for name, how in found.worst]


def _different(how: float) -> str:
    """What a request's score means: docs/shadow.md."""
    if how > ANOTHER:
        return "no answer"
    return "another answer" if how >= 1 else "moved"


def sentence(
    spec: "CheckSpec",
    judged: "CheckJudgement",
    *,
    after: timedelta | None = None,
    warming: timedelta | None = None,
) -> str:
    """One sentence with numbers, for Events, alerts and status; no full stop, so it can go on.

    `after` is how long the step's weight had been set when this was decided; `warming`, for how much longer
    the canary's pods warm up.
    """
    return said(replace(finding(spec, judged), warming=warming), after=after)


def said(found: Finding, *, after: timedelta | None = None) -> str:
    """The same sentence from a `Finding`."""
    return "; ".join(clauses(found, after=after))


def clauses(found: Finding, *, after: timedelta | None = None) -> list[str]:
    """The sentence's parts: how canary and stable compare, what was counted, when, and a caveat.

    What replayed requests say, the worker has put into words.
    """
    if found.kind == "Shadow":
        return [found.note or "no request has been replayed yet"]
    decided = "" if after is None else f"decided {duration(after)} after the weight was set"
    return [each for each in (_compared(found), _counted(found), decided, found.note) if each]


def _compared(found: Finding) -> str:
    """Canary against stable, in the check's own unit, with the side of the interval that decided."""
    if found.warming and not found.canary_requests and found.kind != "ErrorRate":
        left = duration(timedelta(seconds=math.ceil(found.warming.total_seconds())))
        return (
            f"warming up for another {left}, or until its pods have answered 200 requests each: counted then"
        )
    if found.verdict == "NoData" or not found.canary_requests or not found.stable_requests:
        canary, stable = (
            _requests(found, found.canary_requests),
            _requests(found, found.stable_requests, "stable"),
        )
        return f"no {subject(found)} to compare: {canary} and {stable} were measured"
    if found.estimate is None:
        return f"{subject(found)} at the canary cannot be put into one number yet"
    return _sized(found, found.estimate)


def _sized(found: Finding, estimate: float) -> str:
    """The estimate, and what is certain about it; of a fault in mid-step both are of the whole step."""
    late = found.verdict == "Fail" and not found.max_decrease and not _beyond_margin(found, estimate)
    lately = _lately(found, estimate, late=late)
    whole = (
        ", over the whole step, its good part included" if late else " over the whole step" if lately else ""
    )
    certain = f"{whole}{lately}{_certainty(found)}"
    if found.kind == "Latency":
        return f"{subject(found)} at the canary is {_times(estimate)} stable's{certain}"
    if found.kind == "ErrorRate":
        side = "above" if estimate >= 0 else "below"
        return f"the error rate at the canary is {_points(abs(estimate))} {side} stable's{certain}"
    if found.kind == "Proportion" and found.shares is not None:
        of_both = "{} on the canary, {} on stable".format(*map(_percent, found.shares))
        return f"the {subject(found)} is {of_both}: {_times(estimate)}{certain}"
    return f"predictions at the canary are {estimate:.2g} away from stable's{certain}"


def _lately(found: Finding, estimate: float, *, late: bool) -> str:
    """What a fault that came in mid-step has done of late, if that is clearly more than over the step."""
    if found.lately is None:
        return ""
    same = 1.0 if found.kind == "Latency" else 0.0
    more = found.lately - same >= 1.25 * (estimate - same) and _beyond_margin(found, found.lately)
    return f", and {amount(found, found.lately)} in about its last 10 s" if more or late else ""


def _certainty(found: Finding) -> str:
    """In parentheses: at least so much (Fail), at most so much (Pass), or between."""
    if found.interval is None:
        return "" if found.verdict == "Fail" else f" ({allowed(found)})"
    low, high = (amount(found, end) for end in found.interval)
    if found.max_decrease:
        return _certainly_fewer(found, low, high)
    if found.kind == "ErrorRate" and found.verdict in {"Inconclusive", "NoData"}:
        low = low.removesuffix("s").removesuffix(" point")
    if found.verdict == "Fail":
        return f" (at least {low})" if _beyond_margin(found, found.interval[0]) else f" ({allowed(found)})"
    if found.verdict == "Pass":
        return f" (at most {high}, {allowed(found)})"
    if found.interval[1] == math.inf:
        return f" (at least {low}, not certain yet, {allowed(found)})"
    return f" (between {low} and {high}, not certain yet, {allowed(found)})"


def _certainly_fewer(found: Finding, low: str, high: str) -> str:
    """The same where less is the harm."""
    if found.verdict == "Fail":
        fewer = found.interval is not None and found.interval[1] <= 1 - found.max_decrease
        return f" (at most {high}, {allowed(found)})" if fewer else f" ({allowed(found)})"
    if found.verdict == "Pass":
        return f" (at least {low}, {allowed(found)})"
    return f" (between {low} and {high}, not certain yet, {allowed(found)})"


def _beyond_margin(found: Finding, low: float) -> bool:
    """Whether the interval shows the harm too; it covers the whole step, which dilutes a late fault."""
    margins = {"Latency": 1 + found.max_increase, "ErrorRate": found.plus}
    if (
        found.kind == "Proportion" and found.shares is not None
    ):  # that of stable is not 0, or there is no interval
        return low >= 1 + found.max_increase + found.plus / found.shares[1]
    return low >= margins.get(found.kind, found.tolerance)


def _counted(found: Finding) -> str:
    """How many canary requests were beyond the threshold, and how many may be."""
    if not found.canary_requests or found.verdict == "NoData":
        return ""
    what = _beyond(found)
    if not what:
        return ""
    expected = _at_least(found.expected_hits) if found.max_decrease else _at_most(found.expected_hits)
    return f"{found.canary_hits} of {_requests(found, found.canary_requests)} {what}, {expected}"


def _beyond(found: Finding) -> str:
    """What it means for a request to count, as a verb."""
    if found.kind == "Latency":
        return "" if found.threshold is None else f"took longer than {seconds(found.threshold)}"
    if found.kind == "ErrorRate":
        return "failed"
    if found.kind == "Proportion":
        return "were hits"
    return "were predicted where the canary predicts more often than stable"


def _at_most(expected: float) -> str:
    """Rounded up, since it is said as a bound; a decimal where whole requests are too coarse."""
    bound = math.ceil(expected) if expected >= 10 else math.ceil(round(expected * 10, 6)) / 10
    return f"at most {bound:g} {'was' if bound == 1 else 'were'} expected"


def _at_least(expected: float) -> str:
    """The same rounded down."""
    bound = math.floor(expected) if expected >= 10 else math.floor(round(expected * 10, 6)) / 10
    return f"at least {bound:g} {'was' if bound == 1 else 'were'} expected"


def subject(found: Finding) -> str:
    """What the check compares, in a word or two: "p95", "error rate", "predictions", "share of clicks"."""
    if found.kind == "Latency":
        return f"p{found.quantile * 100:g}"
    if found.kind == "Proportion":
        return f"share of {found.name}"
    if found.kind == "Shadow":
        return "answers to replayed requests"
    return {"ErrorRate": "error rate", "Predictions": "predictions"}.get(found.kind, found.kind)


def allowed(found: Finding) -> str:
    """The margin: the harm that is still allowed."""
    if found.kind == "Latency":
        return f"{_times(1 + found.max_increase)} is allowed"
    if found.kind == "Shadow":
        return f"{_percent(found.max_flips)} may differ"
    if found.max_decrease:
        return f"at least {_times(1 - found.max_decrease)} is required"
    if found.kind in {"ErrorRate", "Proportion"}:
        what = "rate" if found.kind == "ErrorRate" else "share"
        margin = f"{_times(1 + found.max_increase)} stable's {what}"
        return f"{margin} plus {_points(found.plus)} is allowed" if found.plus else f"{margin} is allowed"
    return f"{found.tolerance:g} is allowed"


def amount(found: Finding, value: float) -> str:
    """A value in the check's own unit."""
    if found.kind in {"Latency", "Proportion"}:
        return _times(value)
    if found.kind == "ErrorRate":
        return _points(value)
    if found.kind == "Shadow":
        return f"{_percent(max(value, 0.0))} of other answers"
    return f"{value:.2g}"


def noisy(*, count: int, nodes: int, alpha: float) -> str:
    """What it means that one of so many placebos, on so many nodes each, would have been rolled back."""
    return (
        f"noise on stable's pods alone would have rolled back a canary on {_nodes(nodes)}:"
        f" alpha is not to be relied on for such a canary here (among {count} placebos chance alone"
        f" does this in at most {count * alpha * 100:.3g} % of runs);"
        " pods on more nodes or a longer burstTolerance help"
    )


def beside(*, count: int, nodes: int) -> str:
    """What placebos are."""
    return f"{count} placebos ({_nodes(nodes)} of stable each, judged as if it were the canary)"


def _nodes(nodes: int) -> str:
    return f"{nodes} node{'' if nodes == 1 else 's'}"


def seconds(value: float) -> str:
    """142 ms, 1.4 s, 0.42 ms: three figures at most."""
    if value >= 1e9:  # no latency: a bucket bound that means "anything"
        return f"{value:.3g} s"
    if value >= 60:
        return duration(timedelta(seconds=value))
    if value >= 1:
        return f"{value:.3g} s"
    return f"{value * 1000:.3g} ms" if value < 0.0995 else f"{value * 1000:.0f} ms"


def duration(value: timedelta) -> str:
    """4.2 s below a minute, then 3 min 20 s, then 2 h 5 min."""
    total = value.total_seconds()
    if round(total, 1) < 60:
        return f"{total:.1f} s" if total % 1 else f"{total:.0f} s"
    minutes, rest = divmod(round(total), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _times(ratio: float) -> str:
    """2.03x; 12x; 1.2x."""
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.2f}".rstrip("0").rstrip(".") + "x"


def _points(rate: float) -> str:
    """A difference of rates as percentage points: 0.42, 4, 100."""
    points = rate * 100
    number = f"{points:.0f}" if points >= 9.95 else f"{points:.2g}"
    return f"{number} point{'' if number == '1' else 's'}"


def _percent(share: float) -> str:
    """8.13 %; 0.424 %; 40 %."""
    return f"{share * 100:.3g} %"


def _requests(found: Finding, count: int, arm: str = "canary") -> str:
    """240 canary requests; 1 canary request; of proportions trials."""
    what = "trial" if found.kind == "Proportion" else "request"
    return f"{count} {arm} {what}{'' if count == 1 else 's'}"
