"""Whether the checks of a policy can be answered by what stable's pods expose, as items of the checklist.

Pure. Stable's pages are looked at: a canary has had no requests yet, and counters without any may not be
there. A pod that nobody could read, and one that has had no requests, says nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from analysis.evidence import CheckKind, CheckSpec
from analysis.judge import RESOLVED, crowded
from analysis.samples import Histogram
from controller.cluster import arm
from controller.explain import exact_times, seconds
from controller.items import Finding, Grounds, Item, Paged, Patch, Result, worst
from controller.podspec import in_template
from controller.reading import DURATION, INFERENCE, PREDICTION, REQUESTS
from controller.resolution import proof, times

Json = Any

BUCKETS = "sidecar.istio.io/statsHistogramBuckets"
FINE = 1.2  # between two bounds; an increase of 1.44 is then certain: docs/metrics.md
NEEDED: Mapping[CheckKind, str] = {
    CheckKind.LATENCY: f"{INFERENCE} or {DURATION}",
    CheckKind.ERROR_RATE: f'{REQUESTS} with reporter="destination", which the sidecar counts',
    CheckKind.PREDICTIONS: PREDICTION,
}


def looked_at(grounds: Grounds) -> list[Item]:
    """Both items."""
    return [
        worst("metrics", _metrics(grounds), mend="expose the series on the pods' page: docs/metrics.md"),
        worst("buckets", _buckets(grounds), mend="give the histogram buckets near the quantile"),
    ]


def _asked(grounds: Grounds) -> list[CheckSpec]:
    """The checks that pods' pages answer."""
    return [one for one in grounds.policy.checks if one.name not in grounds.policy.queried]


def _read(grounds: Grounds, which: str = "stable") -> dict[str, Paged]:
    """The pages of an arm's pods that could be read."""
    pods = arm(grounds.cluster, grounds.namespace, grounds.plan[which]).pods
    found = {pod.name: grounds.pages[pod.name] for pod in pods if pod.name in grounds.pages}
    return {name: page for name, page in found.items() if page.reading is not None}


def _unread(grounds: Grounds) -> Finding:
    """Why nothing is known."""
    stable = grounds.plan["stable"]
    if not arm(grounds.cluster, grounds.namespace, stable).ready:
        return Finding(Result.UNKNOWN, f"{stable} has no ready pod whose page could be read")
    said = sorted({page.trouble for page in grounds.pages.values() if page.trouble})
    return Finding(
        Result.UNKNOWN, f"no page of {stable}'s pods could be read{''.join(f': {x}' for x in said[:1])}"
    )


def _metrics(grounds: Grounds) -> Iterator[Finding]:
    """Each check's series is on the pages of pods that have had requests."""
    if queried := sorted(grounds.policy.queried):
        yield Finding(Result.UNKNOWN, f"{', '.join(queried)}: a Prometheus is asked; see: serin plan")
    if not _asked(grounds):
        return
    pages = _read(grounds)
    if not pages:
        yield _unread(grounds)
        return
    for check in _asked(grounds):
        yield _exposed(grounds, check, pages)
        if check.kind is CheckKind.LATENCY:
            yield from _alike(grounds, check, pages)


def _alike(grounds: Grounds, check: CheckSpec, pages: Mapping[str, Paged]) -> Iterator[Finding]:
    """That each arm is read from another series, if so, as far as the canary shows one already."""
    stable, canary = (
        {
            one.reading.sources[check.name]
            for one in of.values()
            if one.reading and check.name in one.reading.values
        }
        for of in (pages, _read(grounds, "canary"))
    )
    if stable and canary and not stable & canary:
        why = (
            f"{check.name} is read from {min(canary)} on the canary's pages and from {min(stable)} on"
            " stable's: the two are not compared, so that no step passes"
        )
        yield Finding(Result.FAIL, why, mend=f"give stable {min(canary)} first: docs/metrics.md")


def _exposed(grounds: Grounds, check: CheckSpec, pages: Mapping[str, Paged]) -> Finding:
    readings = {name: page.reading for name, page in pages.items() if page.reading is not None}
    having = [name for name, one in readings.items() if check.name in one.values]
    if having:
        source = readings[having[0]].sources.get(check.name, "")
        pages_of = f"{len(readings)} page{'' if len(readings) == 1 else 's'} of stable"
        return Finding(Result.PASS, f"{check.name} reads {source} on {len(having)} of {pages_of}")
    odd = [name for name, one in readings.items() if check.name in one.sources]
    if odd:
        said = pages[odd[0]].trouble or readings[odd[0]].sources[check.name]
        return Finding(Result.UNKNOWN, f"{check.name} could not be read on {odd[0]}: {said}")
    needed = NEEDED.get(check.kind, " and ".join(check.counters))
    counted = max((one.requests.n for one in readings.values() if one.requests is not None), default=0)
    if not counted:
        why = f"{check.name} needs {needed}, which no page of stable has; its pods have had no requests yet"
        return Finding(Result.UNKNOWN, why)
    why = f"{check.name} needs {needed}, which no page of stable has after {counted} requests"
    return Finding(Result.FAIL, why, _without(grounds, check))


def _without(grounds: Grounds, check: CheckSpec) -> Patch | None:
    """The policy without the check, if any other is required; what a check of several quantiles is, stays."""
    given = grounds.plan["policy"]["checks"]
    left = [one for one in given if one["name"] != check.name]
    if len(left) == len(given) or not any(one.get("required", True) for one in left):
        return None
    note = f"or do without {check.name}; a run has the policy that it began with"
    return of_policy(grounds, {"checks": left}, note)


def of_policy(grounds: Grounds, spec: Json, note: str = "") -> Patch:
    """The CanaryPolicy with `spec` merged in, or made of it where nobody wrote one."""
    name = grounds.policy_name
    if grounds.cluster.get("canarypolicies", grounds.namespace, name) is not None:
        return grounds.patch("CanaryPolicy", name, {"spec": spec}, note)
    meta = {"name": name, "namespace": grounds.namespace}
    body = {"apiVersion": "serin.dev/v1alpha1", "kind": "CanaryPolicy", "metadata": meta, "spec": spec}
    again = "makes the policy; type preflight again before another patch of it"
    return grounds.patch("CanaryPolicy", "", body, f"{note}; {again}" if note else again)


def _buckets(grounds: Grounds) -> Iterator[Finding]:
    """Of each latency check the ratio that stable's buckets can prove; predictions that they do not tell."""
    latency = [one for one in _asked(grounds) if one.kind is CheckKind.LATENCY]
    pages = _read(grounds)
    for check in _asked(grounds):
        if check.kind is CheckKind.PREDICTIONS:
            yield from _told_apart(check, pages)
    if not latency:
        yield Finding(Result.PASS, "no Latency check is read from the pods' pages")
        return
    for check in latency:
        yield _resolved(grounds, check, pages) if pages else _unread(grounds)


def _told_apart(check: CheckSpec, pages: Mapping[str, Paged]) -> Iterator[Finding]:
    """That nearly all of stable's predictions lie in one bucket, if so, on the page with most of them."""
    counted = [one.reading.values.get(check.name) for one in pages.values() if one.reading is not None]
    busiest = max((one for one in counted if isinstance(one, Histogram)), key=lambda one: one.n, default=None)
    for note in crowded(np.array(busiest.count)) if busiest is not None else ():
        mend = f"give {PREDICTION} buckets where its predictions lie"
        yield Finding(Result.FAIL, f"{check.name}: {note}", mend=mend)


def _resolved(grounds: Grounds, check: CheckSpec, pages: Mapping[str, Paged]) -> Finding:
    found = {
        name: page.reading.values.get(check.name) for name, page in pages.items() if page.reading is not None
    }
    counted = {name: value for name, value in found.items() if isinstance(value, Histogram)}
    if not counted:
        return Finding(Result.UNKNOWN, f"{check.name} has no histogram to look at")
    busiest = max(counted, key=lambda name: counted[name].n)
    reading = pages[busiest].reading
    family = "" if reading is None else reading.sources[check.name]
    proved = proof(check, counted[busiest], family)
    if isinstance(proved, str):
        few = counted[busiest].n < 100
        return Finding(Result.UNKNOWN if few else Result.FAIL, f"{check.name}: {proved}")
    allowed, what = 1 + check.max_increase, f"p{check.quantile * 100:g}"
    where = f"{seconds(proved.at)} lies between {seconds(proved.low)} and {seconds(proved.high)}"
    said = f"{check.name}: an increase of {what} is certain from {times(proved.certain)} on ({where})"
    if proved.certain <= allowed * RESOLVED:
        return Finding(Result.PASS, f"{said}; {exact_times(allowed)} is allowed")
    why = f"{said}, and beyond {exact_times(allowed)} nothing is allowed: what lies between may stay unseen"
    low, high = proved.at / FINE**6, proved.at * FINE**6
    mend = (
        f"give {family} bounds {FINE} x apart, from {low:.3g} to {high:.3g} s, or make it a native histogram"
    )
    return Finding(Result.FAIL, why, _finer(grounds, proved.at, family), mend)


def _finer(grounds: Grounds, at: float, family: str) -> Patch | None:
    """Finer buckets of the sidecar's histogram, around `at` seconds; the model's own are in its code."""
    if family != DURATION:
        return None
    bounds = [round(1000 * at * FINE**step, 2) for step in range(-12, 13)]
    said = f'{{"istiocustom.istio_request_duration": {bounds}}}'
    body = {"metadata": {"annotations": {BUCKETS: said}}}
    return in_template(
        grounds, grounds.stable, body, "the same for the canary: both arms need the same buckets"
    )
