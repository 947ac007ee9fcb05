"""What the buckets on a metrics page can prove of latency, said before a canary depends on them.

Pure. The page is one of stable's pods: its histogram, since the pod began, stands for stable's latency.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from analysis import quantiles
from analysis.buckets import tiers
from analysis.evidence import CheckKind, CheckSpec
from analysis.judge import RESOLVED, crowded
from analysis.questions import ENOUGH
from analysis.samples import Histogram
from controller import protobuf
from controller.explain import exact_times, seconds
from controller.exposition import is_text
from controller.protobuf import Found
from controller.reading import DURATION, INFERENCE, found, understood

OF_SIDECAR = "annotate the pods with sidecar.istio.io/statsHistogramBuckets, or read its native histogram"
NEITHER = (
    f"neither {INFERENCE} nor {DURATION} is on the page as a histogram; serve the first"
    " (docs/instrumenting.md), or give the page of a pod that has a sidecar and served requests"
)
MERGED = "the sidecar counts it, on the pod's merged page (port 15020)"
OF_MODEL = "give the histogram more buckets there, or make it a native one"


def of_file(page: bytes, checks: Sequence[CheckSpec] = ()) -> Found:
    """What a page that was saved says of these checks; `ValueError` if it cannot be read.

    Its first bytes tell its format.
    """
    return found(page, checks, kind="text/plain" if is_text(page) else protobuf.TYPE)


def proved(page: Found, checks: Sequence[CheckSpec]) -> list[str]:
    """For each latency check its series, the bounds around the quantile and the increase that they prove.

    Of any other check the series, which has to be there and has no bounds to look at.
    """
    latency = [check for check in checks if check.kind is CheckKind.LATENCY]
    return _resolved(page, latency) + list(_there(page, [one for one in checks if one not in latency]))


def _there(page: Found, checks: Sequence[CheckSpec]) -> Iterator[str]:
    reading, wrong = understood(page, checks, at=0.0)
    for check in checks:
        said = [line for line in wrong if line.startswith(f"{check.name}:")]
        hint = f"; {MERGED}" if check.kind is CheckKind.ERROR_RATE else ""
        yield from (f"{line}{hint}" for line in said)
        if not said:
            yield f"{check.name}: {reading.sources[check.name]} is on the page"
        if check.kind is CheckKind.PREDICTIONS and isinstance(
            value := reading.values.get(check.name), Histogram
        ):
            yield from (f"  Warning: {note}" for note in crowded(np.array(value.count)))


def _resolved(page: Found, latency: Sequence[CheckSpec]) -> list[str]:
    reading, wrong = understood(page, latency, at=0.0)
    lines = [line for line in wrong if line.startswith(tuple(f"{check.name}:" for check in latency))]
    if latency and not _latencies(page):
        lines = [f"{check.name}: {NEITHER}" for check in latency]
    for check in latency:
        value = reading.values.get(check.name)
        if isinstance(value, Histogram):
            lines += _proved(check, value, reading.sources[check.name])
    return lines or ["The policy has no Latency check."]


def _latencies(page: Found) -> bool:
    """Whether the page has latencies as a histogram of either name."""
    return any(name in page.native or page.series.get(f"{name}_bucket") for name in (INFERENCE, DURATION))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What buckets can prove of one quantile: it is `at` seconds, between the bounds `low` and `high`.

    An increase by the factor `certain` shows wherever between them it lies; by `convex` or `interpolated` if
    stable's density falls there, or as a power.
    """

    at: float
    low: float
    high: float
    certain: float
    convex: float
    interpolated: float


def proof(check: CheckSpec, of: Histogram, family: str) -> Proof | str:
    """What the histogram of `family` can prove for a latency check, or why nothing."""
    level, cells = 1 - check.quantile, np.array(of.count, dtype=float)
    what = f"p{check.quantile * 100:g}"
    if of.n < ENOUGH:
        return f"{family} counted {of.n} requests; take the page of a pod with {ENOUGH:g} or more"
    at = quantiles.quantile(cells, of.le, level)
    if at is None:
        return (
            f"{family}: its buckets end below stable's {what}, so nothing can be compared; {_finer(family)}"
        )
    if at <= 0:
        return f"{family}: its {what} is at or below 0, of which no increase can be proved; {_finer(family)}"
    place = int(np.searchsorted(of.le, at * (1 - quantiles.ROUNDED)))
    low, high = of.le[place - 1] if place else 0.0, of.le[place]
    found = tiers(of.le, cells, quantile=at, level=level, margin=1 + check.max_increase)
    return Proof(
        at=at,
        low=low,
        high=high,
        # the quantile itself may lie anywhere between the two bounds, its ratio to another one with it
        certain=float(found.certain) * at / low if low > 0 else inf,
        convex=float(found.convex),
        interpolated=float(found.interpolated),
    )


def _proved(check: CheckSpec, of: Histogram, family: str) -> Iterator[str]:
    found = proof(check, of, family)
    if isinstance(found, str):
        yield f"{check.name}: {found}"
        return
    what, margin = f"p{check.quantile * 100:g}", 1 + check.max_increase
    bounds = f"between {seconds(found.low)} and {seconds(found.high)}"
    yield f"{check.name}: {family}, {what} of {of.n} requests: {seconds(found.at)}, {bounds}"
    certain, allowed = times(found.certain), f"{exact_times(margin)} is allowed"
    if not isfinite(found.certain):
        yield f"  no increase of it is certain to show, however large; {allowed}"
    else:
        yield f"  certain from {certain} on, wherever between the bounds; {allowed}"
    if isfinite(found.convex):
        convex, power = times(found.convex), times(found.interpolated)
        yield f"  likely from {convex} on if stable's density falls there, {power} if as a power"
    if found.certain > margin * RESOLVED:
        upper = (
            f"between {exact_times(margin)} and {certain}"
            if isfinite(found.certain)
            else f"above {exact_times(margin)}"
        )
        yield f"  Warning: what lies {upper} may stay unseen; {_finer(family)}"


def times(ratio: float) -> str:
    """A ratio as people write it."""
    return f"{ratio:.3g}x" if isfinite(ratio) else "no ratio"


def _finer(family: str) -> str:
    return f"{OF_SIDECAR if family == DURATION else OF_MODEL} (docs/metrics.md)"
