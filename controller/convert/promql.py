"""What a query in PromQL asks, as far as a check of Serin's can ask it too.

No parser of the language: the handful of shapes that canaries are judged by, which are a quantile of a
histogram and a ratio of two counters. Whatever else is asked is said to be, with what to do about it.
"""

import re
from dataclasses import dataclass

# Which pods are meant: Serin knows them by their owners. Everything else in braces says what is counted.
WHO = re.compile(
    r"namespace|kubernetes_namespace|pod|pod_name|kubernetes_pod_name|container|job|instance|cluster|app|name|"
    r"service|deployment|workload|version|reporter|(source|destination)_.*|rollouts_pod_template_hash|"
    r"app_kubernetes_io_.*|canary|target|ingress|exported_.*"
)
STATUS = re.compile(r"response_code|response_code_class|status|status_code|code|http_status|http_status_code")
LATENCIES = ("istio_request_duration_milliseconds", "model_inference_duration_seconds")
_NUMBER = r"[0-9]*\.?[0-9]+"
_BY = r"(?:(?:by|without)\([^()]*\))?"
_COUNTER = re.compile(
    rf"sum{_BY}\((?:rate|irate|increase)\(([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{(.*)\}})?\[.*?\]\)\){_BY}"
)
_QUANTILE = re.compile(rf"histogram_quantile\(({_NUMBER}),(.*)\)")
_MATCHER = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"')
REQUESTS = "istio_requests_total"  # what an ErrorRate check counts
_BAD = re.compile(
    r"\^?\(*(5|\[5(-9)?\])[^|]*"
)  # of the alternatives each: 4xx are no failures of the model's


@dataclass(frozen=True, slots=True)
class Quantile:
    """A latency quantile of one of the histograms that Serin reads."""

    level: float
    metric: str


@dataclass(frozen=True, slots=True)
class Errors:
    """The share of requests that failed (`good`: of those that did not), of 1 or of 100, by that counter."""

    good: bool
    of: float
    counter: str = REQUESTS


@dataclass(frozen=True, slots=True)
class Share:
    """One counter over another; `inverted`: it is subtracted from 1 or 100."""

    hits: str
    trials: str
    inverted: bool
    of: float


@dataclass(frozen=True, slots=True)
class Other:
    """Nothing that a check could ask, and what to do."""

    why: str


Asked = Quantile | Errors | Share | Other


def asked(query: str) -> Asked:
    """What the query asks."""
    text = _squeezed(query)
    quantile = _QUANTILE.fullmatch(text)
    if quantile:
        return _quantile(float(quantile[1]), quantile[2])
    inner, of, inverted = _scaled(text)
    halves = _halves(inner)
    counters = [_COUNTER.fullmatch(half) for half in halves]
    if len(counters) != 2 or None in counters:
        return Other(
            "the query is neither a histogram_quantile nor a ratio of two sums of rates; count hits and "
            "trials in "
            "the pods and write a Proportion check (docs/metrics.md), or watch it with an alert of Prometheus"
        )
    (hits, what), (trials, whole) = ((each[1], _what(each[2] or "")) for each in counters if each)
    return _ratio(hits, what, trials, whole, inverted=inverted, of=of)


def _quantile(level: float, text: str) -> Asked:
    found = _COUNTER.fullmatch(text)
    name = found[1].removesuffix("_bucket") if found else ""
    if name not in LATENCIES:
        return Other(
            f"latency is read from {' or '.join(LATENCIES)}, not from {name or 'such a query'}; expose "
            "it under one of these names, and add a Latency check"
        )
    if found and _what(found[2] or ""):
        return Other(
            "a Latency check counts all answers; take the condition on labels out to see whether you need it"
        )
    if not 0.5 <= level <= 0.999:
        return Other(f"a Latency check compares quantiles from 0.5 to 0.999, not {level}; choose one")
    return Quantile(level, name)


def _ratio(
    hits: str, what: dict[str, str], trials: str, whole: dict[str, str], *, inverted: bool, of: float
) -> Asked:
    extra = {label: rule for label, rule in what.items() if whole.get(label) != rule}
    if hits == trials and len(extra) == 1 and not whole.keys() - what.keys():
        label, rule = next(iter(extra.items()))
        negated, value = rule.startswith("!"), rule.lstrip("!=~")
        if STATUS.fullmatch(label) and all(map(_BAD.fullmatch, value.split("|"))):
            return _errors(hits, good=negated != inverted, of=of)
    if hits != trials and not what and not whole:
        return Share(hits, trials, inverted, of)
    labels = ", ".join(sorted({*what, *whole}))
    return Other(
        f"a check adds up all labels of a counter, and the query tells {labels or hits} apart; count "
        f"what you mean in a "
        "counter of its own, and write a Proportion check with counters (docs/metrics.md)"
    )


def _errors(counter: str, *, good: bool, of: float) -> Asked:
    """What the pods answered is known from the sidecar; what they ask of others is not."""
    if "client" in counter.lower():
        return Other(
            f"{counter} counts what the pods ask of others, and an ErrorRate check what they answer: "
            "count its failures in a counter of their own, and write a Proportion check with counters "
            "(docs/metrics.md)"
        )
    return Errors(good, of, counter)


def _what(matchers: str) -> dict[str, str]:
    """The matchers that say what is counted, not for which pods."""
    return {
        label: f"{sign}{value}"
        for label, sign, value in _MATCHER.findall(matchers)
        if not WHO.fullmatch(label)
    }


def _squeezed(query: str) -> str:
    """Without comments, placeholders and blanks outside of quotes, nor brackets around the whole."""
    text = re.sub(r"(?m)^\s*#.*$", "", query)
    text = re.sub(r"\{\{.*?\}\}", "x", text)
    text = "".join(part if part.startswith('"') else re.sub(r"\s+", "", part) for part in _pieces(text))
    return _bare(text)


def _pieces(text: str) -> list[str]:
    return re.findall(r'"(?:[^"\\]|\\.)*"|[^"]+|"', text.replace("'", '"'))


def _bare(text: str) -> str:
    """Without the brackets and `scalar` around the whole."""
    text = re.sub(r"^scalar(?=\()", "", text)
    return _bare(text[1:-1]) if text.startswith("(") and _closing(text) == len(text) - 1 else text


def _closing(text: str) -> int:
    """Where the bracket that opens the text is closed."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if depth == 0:
            return place
    return -1


def _scaled(text: str) -> tuple[str, float, bool]:
    """What is scaled, whether to 1 or to 100, and whether it is subtracted from that."""
    inverted = re.match(r"(100|1)-", text)
    if inverted:
        inner, of, _ = _scaled(_bare(text[inverted.end() :]))
        return inner, max(of, float(inverted[1])), True
    before, after = re.match(r"100\*", text), re.search(r"\*100$", text)
    if before or after:
        inner, _, flipped = _scaled(_bare(text[before.end() :] if before else text[: -len("*100")]))
        return inner, 100.0, flipped
    return text, 1.0, False


def _halves(text: str) -> list[str]:
    """What stands on the sides of the only division, each without `*100`."""
    depth, cuts = 0, []
    for place, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if letter == "/" and depth == 0:
            cuts.append(place)
    return [_bare(text[: cuts[0]]), _bare(text[cuts[0] + 1 :])] if len(cuts) == 1 else [text]
