"""A CanaryRun object as `kubectl get -o json` gives it, read. Pure, and light: no numpy.

Nothing is taken for granted: a run that was just created has no status yet.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

from controller.explain import UNREAD, Finding, legible

Json = Any
WARM = frozenset({"Latency", "Predictions", "Proportion"})  # which count nothing before pods are warm
# What ends a run and says nothing against its version, and one word for how it ended: nothing was found.
ENDINGS = {"Aborted": "aborted", "Superseded": "superseded", "StableChanged": "superseded"}
# Of those another run follows, and the same template may be asked for again.
GIVEN_WAY = frozenset(why for why, word in ENDINGS.items() if word == "superseded")
BY_ANNOTATION = "asked for by annotation"  # the reason of an abort or a promotion by a doorbell
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def status(run: Json) -> Mapping[str, Json]:
    """The run's status; empty while it has none."""
    found: Mapping[str, Json] = run.get("status") or {}
    return found


def policy(run: Json) -> Mapping[str, Json]:
    """The policy that the run was planned with."""
    found: Mapping[str, Json] = run["spec"]["plan"].get("policy") or {}
    return found


def planned_by(run: Json) -> Iterator[str]:
    """By which policy the run was planned, if its plan says so."""
    match run["spec"]["plan"].get("policyName"):
        case None:
            return
        case "":
            yield "Planned by the built-in policy: there was no CanaryPolicy/default when it was asked for."
        case name:
            yield f"Planned by CanaryPolicy {name}, as it was when the run was asked for."


def ended(run: Json) -> bool:
    """Whether the run is over."""
    return status(run).get("phase") in {"Succeeded", "Failed"}


def order(run: Json) -> tuple[str, int, int, str]:
    """Orders runs from oldest to newest. The API server's times are whole seconds, in which two may begin.

    Of those the one that gave way came first, one that goes on last, and attempts are numbered.
    """
    meta = run["metadata"]
    last = 2 if not ended(run) else 0 if reason(run) in GIVEN_WAY else 1
    return meta.get("creationTimestamp", ""), last, attempt(run), meta["name"]


def attempt(run: Json) -> int:
    """Which attempt it is, by its name; 0 of one that somebody has named otherwise."""
    return _numbered(run["metadata"]["name"])[1]


def reason(run: Json) -> str | None:
    """Why the run ended, or what holds it: one word."""
    said = status(run)
    found: str | None = said.get("reason")
    if found is None and said.get("phase") == "Paused":
        conditions = said.get("conditions") or []
        return next((each["reason"] for each in conditions if each["type"] == "Progressing"), None)
    return found


def waiting(run: Json) -> bool:
    """Whether the run waits before a step's first request: there a promotion by hand is not begun yet."""
    return _kept(run, "stage") == "Waiting" or status(run).get("phase") in {None, "Pending"}


def unread(run: Json) -> bool:
    """Whether the run gets no traffic because no page of its pods can be read; no approval helps there."""
    return reason(run) == "NoData" and str(status(run).get("message", "")).startswith(UNREAD)


def held(run: Json) -> bool:
    """Whether something holds the run that is no pause of anybody's; the phase is Paused all the same."""
    return status(run).get("phase") == "Paused" and reason(run) != "Paused"


def _kept(run: Json, name: str) -> Json:
    """What the run's own bookkeeping says; it has no schema, so whatever somebody wrote."""
    state = status(run).get("state")
    return state.get(name) if isinstance(state, dict) else None


def instant(run: Json, name: str) -> datetime | None:
    """A time of the run's own bookkeeping; None where there is none, as after somebody's edit."""
    with suppress(TypeError, ValueError, OverflowError):
        return time(_kept(run, name))
    return None


def asked(run: Json) -> list[str]:
    """What people asked for that the run has not done yet, in words."""
    if ended(run):
        return []
    used = _kept(run, "approved")
    used = used if isinstance(used, int) else 0
    found = [f"approved by {legible(who)}" for who in run["spec"].get("approved", [])[used:]]
    if (why := promotion(run)) is not None:
        found.append(f"promotion asked for ({why})")
    return found


def promotion(run: Json) -> str | None:
    """Why somebody asked for a promotion that is still to come; None if nobody did, or it is there."""
    asked_for = run["spec"].get("promote")
    waits = asked_for and not ended(run) and status(run).get("phase") != "Promoting"
    return str(asked_for["reason"]) if waits else None


def exposed(run: Json, *, now: datetime) -> timedelta:
    """How long the canary has had traffic."""
    total, since = timedelta(0), None
    for change in status(run).get("weights") or []:
        at = time(change["at"])
        if since is not None:
            total += at - since
        since = at if change["weight"] > 0 else None
    return total if since is None else total + max(timedelta(0), now - since)


def stable_known(run: Json) -> timedelta | None:
    """How long stable had been read when the canary got its first requests; None while it has had none."""
    with suppress(TypeError, ValueError, OverflowError):
        return timedelta(seconds=_kept(run, "stableKnown"))
    return None


def warming(run: Json, *, now: datetime) -> timedelta | None:
    """For how much longer the canary's pods warm up in the first step; None where they do not."""
    since, live = instant(run, "weightSince"), status(run).get("phase") in {"Progressing", "Paused"}
    if not live or since is None or _kept(run, "step") or not status(run).get("weight"):
        return None
    parts = re.findall(r"([0-9]+)(ms|s|m|h)", policy(run).get("warmUp", ""))
    whole = timedelta(seconds=sum(float(count) * _SECONDS[unit] for count, unit in parts))
    left = since + whole - now
    return left if left > timedelta(0) else None


def findings(run: Json, *, now: datetime | None = None) -> list[Finding]:
    """Each check of the plan with what its status says; without status it has no data."""
    found = _findings(run)
    left = None if now is None else warming(run, now=now)
    waits = (one.verdict == "NoData" and not one.canary_requests and one.kind in WARM for one in found)
    return [replace(one, warming=left if cold else None) for one, cold in zip(found, waits, strict=True)]


def _findings(run: Json) -> list[Finding]:
    plan = run["spec"]["plan"]
    seen = {check["name"]: check for check in status(run).get("checks") or []}
    single = (one for check in policy(run).get("checks", []) for one in _single(check))
    return [_finding(spec, seen.get(spec["name"], {}), plan=plan) for spec in single]


def at_quantile(name: str, level: float) -> str:
    """The name of the check of one quantile that a check of several is made of."""
    return f"{name}-p{100 * level:g}"


def _single(check: Json) -> Sequence[Json]:
    levels = check.get("quantiles")
    if not levels:
        return [check]
    return [check | {"name": at_quantile(check["name"], level), "quantile": level} for level in levels]


def _ends(interval: Json) -> tuple[float, float]:
    """An interval's; an end that there is none of, which JSON has no number for, is null."""
    low, high = interval
    return -inf if low is None else low, inf if high is None else high


def _finding(spec: Json, seen: Json, *, plan: Json) -> Finding:
    increase = spec.get("maxIncrease", "0%")
    if spec["type"] == "Latency":
        increase = plan.get("maxLatencyIncrease") or increase
    interval, shares = seen.get("interval"), seen.get("shares")
    return Finding(
        name=spec["name"],
        kind=spec["type"],
        verdict=seen.get("verdict", "NoData"),
        quantile=spec.get("quantile", 0.95),
        max_increase=_fraction(increase),
        plus=_fraction(spec.get("plus", "0%")),
        max_decrease=_fraction(spec.get("maxDecrease", "0%")),
        tolerance=spec.get("tolerance", 0.05),
        max_flips=_fraction(spec.get("maxFlips", "0%")),
        required=spec.get("required", True),
        log_e=seen.get("logE"),
        estimate=seen.get("estimate"),
        interval=_ends(interval) if interval else None,
        canary_requests=seen.get("canaryRequests", 0),
        stable_requests=seen.get("stableRequests", 0),
        canary_hits=seen.get("canaryHits", 0),
        expected_hits=seen.get("expectedHits") or 0.0,
        shares=(shares[0], shares[1]) if shares else None,
        threshold=seen.get("threshold"),
        note=seen.get("note", ""),
        lately=seen.get("lately"),
        lately_hits=tuple(seen["latelyHits"]) if seen.get("latelyHits") else None,
        worst=tuple(
            (one["id"], one["score"]) for one in seen.get("worst") or () if one.keys() >= {"id", "score"}
        ),
    )


def unequal(run: Json) -> Iterator[str]:
    """Why checks of one step have counted different numbers of requests, if they have."""
    found = findings(run)
    errors = max((one.canary_requests for one in found if one.kind == "ErrorRate"), default=0)
    counted = [one.canary_requests for one in found if one.kind in {"Latency", "Predictions"}]
    if any(0 < one < errors for one in counted):
        yield "Errors are counted from the first request on; all other checks leave the warm-up out."


def placebos(run: Json) -> Json:
    """What the run's placebos have come to; empty where nothing is said of any."""
    return status(run).get("placebos") or {}


def time(text: str) -> datetime:
    """An RFC 3339 time."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _fraction(percent: str) -> float:
    return float(percent.rstrip("%")) / 100


# -- tables ----------------------------------------------------------------------------------------

COLUMNS = ("NAME", "PHASE", "WEIGHT", "STEP", "VERDICT", "WORKLOAD", "AGE", "REASON")
WIDE = ("POLICY",)


def row(run: Json, *, now: datetime) -> dict[str, str]:
    """A run as cells by column, those of the wide table included."""
    said, meta, plan = status(run), run["metadata"], run["spec"]["plan"]
    created = meta.get("creationTimestamp")
    cells = {
        "NAMESPACE": meta["namespace"],
        "NAME": meta["name"],
        "PHASE": "Held" if held(run) else said.get("phase"),
        "WEIGHT": said.get("weight"),
        "STEP": said.get("step"),
        "VERDICT": said.get("verdict"),
        "WORKLOAD": plan["canary"],
        "AGE": age(now - time(created)) if created else None,
        "REASON": reason(run),
        "POLICY": "built-in" if plan.get("policyName") == "" else plan.get("policyName"),
    }
    return {name: "" if cell is None else str(cell) for name, cell in cells.items()}


def table(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> list[str]:
    """Lines with aligned columns, three blanks apart, as kubectl sets them."""
    cells = [list(columns), *([each[name] for name in columns] for each in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return [
        "   ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def age(value: timedelta) -> str:
    """45s, 12m, 3h, 9d: one unit, as kubectl says it for what is not young."""
    total = max(0, int(value.total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if total >= 2 * size:
            return f"{total // size}{unit}"
    return f"{total}s"


# -- the next attempt ------------------------------------------------------------------------------


def next_attempt(run: Json, siblings: Sequence[Json]) -> Json:
    """The CanaryRun that tries the same plan once more, numbered after all of its siblings."""
    meta = run["metadata"]
    stem = _numbered(meta["name"])[0]
    numbers = [_numbered(each["metadata"]["name"]) for each in (run, *siblings)]
    number = max(number for name, number in numbers if name == stem) + 1
    return {
        "apiVersion": run["apiVersion"],
        "kind": run["kind"],
        "metadata": {
            "name": f"{stem}-{number}",
            "namespace": meta["namespace"],
            "labels": meta.get("labels", {}),
            "ownerReferences": meta.get("ownerReferences", []),
        },
        # it keeps the plan whatever becomes of the policy, which is what was asked for
        "spec": {"plan": {k: v for k, v in run["spec"]["plan"].items() if k != "policyGeneration"}},
    }


def _numbered(name: str) -> tuple[str, int]:
    """A run's name as what stays the same over attempts, and which attempt it is."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if stem and number.isdecimal() else (name, 0)
