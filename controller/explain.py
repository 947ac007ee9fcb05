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
MOST_SAID = 500  # characters of what others say, within a message of ours


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
    # Of what failed, over about the last ten seconds: the estimate, and hits, requests, hits at the margin.
    lately: float | None = None
    lately_hits: tuple[float, float, float] | None = None
    warming: timedelta | None = None  # for how much longer pods warm up; nothing is measured before


COUNTED = "they count while the canary's pods are warm and take no more load each than stable's"
LEAST_EXPECTED = 0.05  # hits at the margin: fewer weigh as these do, and nobody can lack a share of 0
WHOLE = 99.95  # hits, from which on no fraction of one is said
PASS_PLUS, PASS_TOLERANCE = 0.01, 0.10  # of analysis.questions, which needs numpy; a test compares them
COARSE = (
    "its buckets cannot tell an increase"  # of analysis.judge, whose note says which; a test compares them
)
ANOTHER = 2.0  # of a request's score: up to it there is an answer, from 1 on another one
ROUNDED = 1e-4  # of a log e: four decimals of it are kept
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
        lately_hits=judged.lately_hits,
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
    return [each for each in (_compared(found), *_stands_on(found), decided, found.note) if each]


def _compared(found: Finding) -> str:
    """Canary against stable, in the check's own unit, with the side of the interval that decided."""
    if found.warming and not found.canary_requests and found.kind != "ErrorRate":
        left = duration(timedelta(seconds=math.ceil(found.warming.total_seconds())))
        return (
            f"warming up for another {left}, or until its pods have answered 200 requests each: counted then"
        )
    if found.verdict == "NoData" or not found.canary_requests or not found.stable_requests:
        if found.kind != "ErrorRate" and not found.canary_requests + found.stable_requests:
            return f"no {subject(found)} to compare: no request was measured yet; {COUNTED}"
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
    late = found.verdict == "Fail" and not beyond_margin(found, estimate)
    lately = _lately(found, estimate, late=late)
    whole = (
        ", over the whole step, which dilutes a late fault"
        if late
        else " over the whole step"
        if lately
        else ""
    )
    certain = f" ({allowed(found)})" if lately else _certainty(found)
    return f"{_figure(found, estimate)}{whole}{lately}{certain}"


def _figure(found: Finding, estimate: float) -> str:
    """The estimate alone."""
    if found.kind == "Latency":
        return f"{subject(found)} at the canary is {_times(estimate)} stable's"
    if found.kind == "ErrorRate":
        side = "above" if estimate >= 0 else "below"
        return f"the error rate at the canary is {_points(abs(estimate))} {side} stable's"
    if found.kind == "Proportion" and found.shares is not None:
        of_both = "{} on the canary, {} on stable".format(*map(_percent, found.shares))
        return f"the {subject(found)} is {of_both}: {_times(estimate)}"
    return f"predictions at the canary are {estimate:.2g} away from stable's"


def _lately(found: Finding, estimate: float, *, late: bool) -> str:
    """What a fault that came in mid-step has done of late, if that is clearly more than over the step."""
    if found.lately is None:
        return ""
    same = 0.0 if found.kind == "ErrorRate" else 1.0
    worse = -1.0 if found.max_decrease else 1.0
    more = worse * (found.lately - same) >= 1.25 * worse * (estimate - same)
    said = (more and beyond_margin(found, found.lately)) or late
    return f", and {amount(found, found.lately)} in about its last 10 s" if said else ""


def _certainty(found: Finding) -> str:
    """In parentheses: at least so much (Fail), at most so much (Pass) or between, and then the margin."""
    margin = allowed(found)
    if found.interval is None:
        return f" ({margin})"
    low, high = (amount(found, end) for end in found.interval)
    good, bad = ("at least", "at most") if found.max_decrease else ("at most", "at least")
    best, worst = (high, low) if found.max_decrease else (low, high)
    if found.verdict == "Fail":
        told = beyond_margin(found, ends(found)[0]) and best not in margin.split()  # rounded to the margin
        return f" ({bad} {best}, {margin})" if told else f" ({margin})"
    if found.verdict == "Pass":
        if beyond_margin(found, ends(found)[1]):
            # a Pass asks one question, whether a margin is kept; an interval answers it for every margin
            proved = f"{margin}, and {proved_less(found) or 'that this is kept'} is proved"
            so_far = f": {good} {worst} so far" if math.isfinite(ends(found)[1]) else ""
            return f" ({proved}; how large the figure is takes more requests{so_far})"
        return f" ({good} {worst}, {margin})"
    if found.interval[1] == math.inf:
        return f" (at least {low}, not certain yet, {margin})"
    if found.kind == "ErrorRate":
        low = low.removesuffix("s").removesuffix(" point")
    return f" (between {low} and {high}, not certain yet, {margin})"


def proved_less(found: Finding) -> str:
    """What a Pass proves where it is less than the margin (docs/statistics.md#what-a-pass-proves), or ""."""
    if found.kind == "ErrorRate" and found.plus < PASS_PLUS:
        return f"at most {exact_times(1 + found.max_increase)} stable's rate plus {_points(PASS_PLUS)}"
    if found.kind == "Predictions" and found.tolerance < PASS_TOLERANCE:
        return f"a shift below {PASS_TOLERANCE:g}"
    if found.kind == "Latency" and COARSE in found.note:
        return "as much of it as its buckets can show"
    return ""


def ends(found: Finding) -> tuple[float, float]:
    """The interval's better end and its worse one."""
    low, high = found.interval or (-math.inf, math.inf)
    return (high, low) if found.max_decrease else (low, high)


def beyond_margin(found: Finding, value: float) -> bool:
    """Whether so much is more harm than is allowed; what covers a whole step dilutes a late fault."""
    if found.max_decrease:
        return value <= 1 - found.max_decrease
    margins = {"Latency": 1 + found.max_increase, "ErrorRate": _more_failing(found)}
    if (
        found.kind == "Proportion" and found.shares is not None
    ):  # that of stable is not 0, or there is no interval
        return value >= 1 + found.max_increase + found.plus / found.shares[1]
    return value >= margins.get(found.kind, found.tolerance)


def _more_failing(found: Finding) -> float:
    """How much higher than stable's an error rate may be: that grows with stable's own, which hits tell."""
    if not found.canary_requests:
        return found.plus
    at_margin = found.expected_hits / found.canary_requests  # (1 + max_increase) times stable's, and plus
    stable = max((at_margin - found.plus) / (1 + found.max_increase), 0.0)
    return found.max_increase * stable + found.plus


def not_ruled_out(found: Finding) -> str:
    """The interval's worse end, and why a Pass may stand beside it."""
    worst = ends(found)[1]
    if not math.isfinite(worst):
        return "nothing worse can be ruled out yet, however much worse"
    beside = ""
    if found.verdict == "Pass" and beyond_margin(found, worst):
        proved = proved_less(found) or "that the margin is kept"
        beside = f"; {proved} is proved all the same, which takes fewer"
    return f"{amount(found, worst)} cannot be ruled out with the requests so far{beside}"


def _stands_on(found: Finding) -> list[str]:
    """How many canary requests were beyond the threshold, how many the margin allows; of a Fail, what argues.

    That is the whole step's count, or that of late where a fault came in mid-step and it argues better, or
    else the odds alone.
    """
    what = _beyond(found)
    if not found.canary_requests or found.verdict == "NoData" or not what:
        return []
    step = (found.canary_hits, found.canary_requests, found.expected_hits)
    lately = found.lately_hits if found.verdict == "Fail" else None
    if lately is not None and _argues(found, *lately) and _weighs(*lately) > _weighs(*step):
        return [_said_lately(found, *lately)]
    if found.verdict != "Fail" or _argues(found, *step):
        counted = f"{found.canary_hits} of {_requests(found, found.canary_requests)} {what}"
        return [f"{counted}, {_at_margin(found, found.expected_hits)}"]
    if lately is not None and _argues(found, *lately):
        return [_said_lately(found, *lately)]
    if none_yet(found.log_e):
        return []
    return [f"the odds against its being within the margin are {odds(found.log_e or 0.0)}"]


def _argues(found: Finding, hits: float, requests: float, expected: float) -> bool:
    """Whether so many hits are more harm than those at the margin; of predictions, more than chance makes.

    The set of predictions that is counted is learned from the same requests and shows part of a shift only: a
    count near the margin's says nothing for or against.
    """
    beyond = expected - hits if found.max_decrease else hits - expected
    if found.kind != "Predictions":
        return beyond > (0.5 if expected >= WHOLE else 0.0)  # or both are said to be the same number
    return beyond > 2 * math.sqrt(expected * max(1 - expected / requests, 0.0))


def _weighs(hits: float, requests: float, expected: float) -> float:
    """How much such a count says against the margin's share, in nats: the log likelihood ratio of the two."""
    few, rest = max(expected, LEAST_EXPECTED), max(requests - expected, LEAST_EXPECTED)
    missed = max(requests - hits, 0.0)
    return sum(seen * math.log(seen / due) for seen, due in ((hits, few), (missed, rest)) if seen > 0)


def _said_lately(found: Finding, hits: float, requests: float, expected: float) -> str:
    """The count over about the last ten seconds."""
    counted = f"about {hits:.0f} of its last {_requests(found, round(requests))} {_beyond(found)}"
    return f"{counted}, {_at_margin(found, expected)}"


def _at_margin(found: Finding, expected: float) -> str:
    """How many hits a canary at its margin would have, on average: chance alone makes it more or fewer."""
    figures = ".0f" if expected >= WHOLE else ".3g" if expected >= 10 else ".2g"
    return f"the margin {'requires' if found.max_decrease else 'allows'} {expected:{figures}} on average"


def _beyond(found: Finding) -> str:
    """What it means for a request to count, as a verb."""
    if found.kind == "Latency":
        return "" if found.threshold is None else f"took longer than {seconds(found.threshold)}"
    if found.kind == "ErrorRate":
        return "failed"
    if found.kind == "Proportion":
        return "were hits"
    return "got a prediction that the canary gives more often than stable"


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
        return f"{exact_times(1 + found.max_increase)} is allowed"
    if found.kind == "Shadow":
        return f"{_exactly(found.max_flips * 100)} % may differ"
    if found.max_decrease:
        return f"at least {exact_times(1 - found.max_decrease)} is required"
    if found.kind in {"ErrorRate", "Proportion"}:
        what = "rate" if found.kind == "ErrorRate" else "share"
        margin = f"{exact_times(1 + found.max_increase)} stable's {what}"
        return f"{margin} plus {_added(found.plus)} is allowed" if found.plus else f"{margin} is allowed"
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


def odds(log_e: float, alpha: float | None = None) -> str:
    """Evidence as a bet that paid: 240 to 1; never as much as rolls back at `alpha`, where it is not."""
    if log_e > math.log(1e6):
        return "more than a million to 1"
    if none_yet(log_e):
        return "nothing"
    said, short = _to_one(math.exp(log_e)), alpha is not None and log_e < -math.log(alpha) - ROUNDED
    return f"just under {said}" if alpha is not None and short and said == _to_one(1 / alpha) else said


def rolls_back(alpha: float, whom: str = "") -> str:
    """The odds that do: 100 to 1."""
    return f"{_to_one(1 / alpha)} rolls {f'{whom} ' if whom else ''}back"


def _to_one(ratio: float) -> str:
    return f"{ratio:,.0f} to 1"


def part(log_e: float, alpha: float) -> float:
    """How much of what rolls back that is, 0 to 1; below 1 as three figures, too, where it is not enough."""
    missing = log_e + math.log(alpha)
    return 1.0 if missing >= 0 else min(math.exp(missing), 0.999)


def none_yet(log_e: float | None) -> bool:
    """Whether nothing speaks against the canary: without a request the odds are 1 to 1."""
    return log_e is None or log_e < math.log(1.5)


def noisy(*, count: int, nodes: int, alpha: float) -> str:
    """What it means that one of so many placebos, on so many nodes each, would have been rolled back."""
    among = "with 1 placebo" if count == 1 else f"among {count} placebos"
    return (
        f"noise on stable's pods alone would have rolled back a canary on {_nodes(nodes)}:"
        f" alpha is not to be relied on for such a canary here ({among} chance alone"
        f" does this in at most {min(count * alpha, 1.0) * 100:.3g} % of runs);"
        " pods on more nodes or a longer burstTolerance help"
    )


def beside(*, count: int, nodes: int) -> str:
    """What placebos are."""
    placebos = "1 placebo" if count == 1 else f"{count} placebos"
    return f"{placebos} ({_nodes(nodes)} of stable each, judged as if it were the canary)"


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
    """40 ms, 4.2 s below a minute, then 3 min 20 s, then 2 h 5 min."""
    total = value.total_seconds()
    if 0 < total < 0.05:
        return f"{total * 1000:.2g} ms"
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


def exact_times(ratio: float) -> str:
    """1.2x, 1.004x: a margin is what the policy says, to the last figure."""
    return f"{_exactly(ratio)}x"


def _points(rate: float) -> str:
    """A difference of rates as percentage points: 0.42, 4, -100."""
    points = rate * 100
    return _counted(f"{points:.0f}" if abs(points) >= 9.95 else f"{points:.2g}")


def _added(rate: float) -> str:
    """Percentage points of a margin: 0.1, 12.5."""
    return _counted(_exactly(rate * 100))


def _counted(number: str) -> str:
    return f"{number} point{'' if number in {'1', '-1'} else 's'}"


def _exactly(number: float) -> str:
    """As people wrote it, in twelve characters at most; what binary fractions add is left out."""
    return f"{number:.12f}".rstrip("0").rstrip(".")


def _percent(share: float) -> str:
    """8.13 %; 0.424 %; 40 %."""
    return f"{share * 100:.3g} %"


def _requests(found: Finding, count: int, arm: str = "canary") -> str:
    """240 canary requests; 1 canary request; of proportions trials."""
    what = "trial" if found.kind == "Proportion" else "request"
    return f"{count} {arm} {what}{'' if count == 1 else 's'}"


def legible(what: str, most: int = MOST_SAID) -> str:
    """As it may stand in a message, on a line of a terminal: people and pods write whatever they like."""
    short = what if len(what) <= most else f"{what[: most - 1]}…"
    return "".join(one if one.isprintable() else " " if one.isspace() else "?" for one in short)
