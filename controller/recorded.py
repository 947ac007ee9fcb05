"""What a Prometheus has recorded of a canary, as a policy's checks would have seen it.

The controller's own queries, asked for one instant after the other; what pods counted in between is found
by the same code that follows a run, with counters that begin anew and pods that come and go. Which weight
there was is not recorded, nor where pods ran: all is one step, from the canary's first request on, and
each pod is taken to be on a node of its own.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import ceil

from analysis.samples import Sample
from controller import ticks
from controller.backtest import Moment
from controller.explain import duration as spoken
from controller.model import Policy
from controller.ports import Reading
from controller.prometheus import Past
from controller.queries import Unreadable
from controller.ticks import Cursor, Pace
from controller.wire import Malformed, duration

MOST = 5000  # instants: each costs about seven queries of 5 ms, so that is three minutes
MOST_PODS = 200  # of both arms: they are named one by one in each query
OFTEN = (
    15.0  # seconds; asking more often than it scraped costs time and finds nothing, more rarely joins ticks
)
OLDEST = 1e9  # seconds since 1970, in 2001: no Prometheus is as old
EVER = -1e9  # seconds before the span
LEAST = 0.1
SOME = 8  # pods that a message names

Pods = tuple[str, ...]
_AN_EXAMPLE = "2026-11-27T14:00:00Z"
_NEEDED = {"start": _AN_EXAMPLE, "stable_pods": "'model-v1-.*'", "canary_pods": "'model-v2-.*'"}
Told = Callable[[int, int], None]  # how many instants were read, and of how many


class BadSpan(ValueError):
    """Such a span cannot be read; the text names the option and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What to read: the arms' pods as regular expressions, and when, in seconds since 1970."""

    namespace: str
    stable: str
    canary: str
    start: float
    end: float
    step: float | None = None  # seconds between instants; None: as often as it scraped


def span(said: Mapping[str, str | None]) -> Span:
    """The span that options name; raises `BadSpan`. Without an end it ends now."""
    for option, example in _NEEDED.items():
        if not said[option]:
            raise BadSpan(f"--{option.replace('_', '-')}: is missing; give for example {example}")
    now = datetime.now(UTC).timestamp()
    return Span(
        namespace=said["namespace"] or "default",
        stable=_pattern(said["stable_pods"]),
        canary=_pattern(said["canary_pods"]),
        start=_time("--start", said["start"], now),
        end=_time("--end", said["end"], now),
        step=_step(said["step"]),
    )


def _pattern(said: str | None) -> str:
    """No pod has a comma in its name; one between braces says how often something is repeated."""
    return re.sub(r",(?![0-9]*\})", "|", said or "")


def _time(option: str, said: str | None, now: float) -> float:
    """Seconds since 1970."""
    if not said:
        return now
    if re.fullmatch(r"[0-9]{1,10}(\.[0-9]+)?", said):
        return _lately(option, said)
    try:
        found = datetime.fromisoformat(said)
    except ValueError:
        raise BadSpan(f'{option}: "{said}" is no time; give for example {_AN_EXAMPLE}') from None
    if found.tzinfo is None:
        raise BadSpan(f'{option}: "{said}" has no time zone; give for example {found.isoformat()}Z for UTC')
    return found.timestamp()


def _lately(option: str, said: str) -> float:
    """Seconds since 1970; a date without its dashes would be one in that year."""
    if float(said) < OLDEST:
        then = datetime.fromtimestamp(float(said), UTC)
        raise BadSpan(f'{option}: "{said}" s after 1970 are {then:%Y-%m-%d}; give for example {_AN_EXAMPLE}')
    return float(said)


def _step(said: str | None) -> float | None:
    if not said:
        return None
    try:
        seconds = duration(said, field="--step").total_seconds()
    except Malformed as error:
        raise BadSpan(str(error)) from None
    if seconds < LEAST:
        raise BadSpan(f"--step: {said} is less than {LEAST:g} s; no Prometheus scrapes more often")
    return seconds


def asked(policy: Policy) -> Policy:
    """The policy with all of its checks read from a Prometheus, wherever it says."""
    return replace(policy, pages={check.name: None for check in policy.checks})


def moments(past: Past, span: Span, policy: Policy, *, told: Told = lambda *_: None) -> tuple[Moment, ...]:
    """What was recorded, by seconds since the span's start; raises `BadSpan`, and `prometheus.Unanswered`."""
    if span.end <= span.start:
        raise BadSpan("--start: is not before --end; give the earlier time first")
    scrapes, canary = _arms(past, span)
    often = max(1.0, (span.end - span.start) / max(scrapes.values()))
    step = span.step or min(often, OFTEN)
    count = int((span.end - span.start) / step) + 1
    if count > MOST:
        longer = ceil((span.end - span.start) / (MOST - 1))
        raise BadSpan(
            f"--step: {count} instants, one every {spoken(timedelta(seconds=step))}, are more than {MOST}; "
            f"read a shorter time, or give --step {longer}s"
        )
    pace = Pace(interval=timedelta(seconds=max(often, step)))
    asking = _Asking(past, span, policy, pace, stable=tuple(scrapes), canary=canary)
    found = tuple(asking.moments([span.start + place * step for place in range(count)], told))
    if not any(tick.stable.pods for moment in found for tick in moment.ticks):
        what = "; ".join(sorted(asking.wrong)[:3]) or "no pod of stable was scraped twice"
        raise BadSpan(f"--start: nothing could be compared from then on: {what}")
    return found


def _arms(past: Past, span: Span) -> tuple[Mapping[str, float], Pods]:
    """Stable's pods with their numbers of scrapes, and the canary's."""
    during = {"start": span.start, "end": span.end}
    arms = []
    for option, pattern in (("--stable-pods", span.stable), ("--canary-pods", span.canary)):
        try:
            pods = past.pods(span.namespace, pattern, **during)
        except Unreadable as error:
            remedy = "correct the regular expression"
            raise BadSpan(f'{option}: "{pattern}" cannot be asked for; {remedy}: {error}') from None
        if not pods:
            others = past.pods(span.namespace, ".+", **during)
            what = f'no pod that is called "{pattern}" was scraped in namespace {span.namespace} then'
            raise BadSpan(f"{option}: {past}: {what}; {_there(others)}")
        arms.append(pods)
    stable, canary = arms
    both = sorted(stable.keys() & canary.keys())
    if both:
        raise BadSpan(f"--canary-pods: {both[0]} is one of --stable-pods too; tell them apart")
    if len(stable) + len(canary) > MOST_PODS:
        raise BadSpan(
            f"--stable-pods: {len(stable)} pods, and {len(canary)} of the canary, are more than {MOST_PODS}; "
            "read a shorter time, or name some of them"
        )
    return stable, tuple(canary)


def _there(pods: Mapping[str, float]) -> str:
    if not pods:
        return "nor any other: see --namespace, and that what it scrapes has the labels namespace and pod"
    more = f" and {len(pods) - SOME} more" if len(pods) > SOME else ""
    return f"there were {', '.join(sorted(pods)[:SOME])}{more}"


class _Asking:
    """One span while it is read."""

    def __init__(
        self, past: Past, span: Span, policy: Policy, pace: Pace, *, stable: Pods, canary: Pods
    ) -> None:
        self._past, self._span, self._policy, self._pace = past, span, policy, pace
        self._stable, self._canary = stable, canary
        self._known: dict[str, Reading] = {}  # newest reading of each pod, its times since the span's start
        self.wrong: dict[str, None] = {}

    def moments(self, instants: Sequence[float], told: Told) -> Iterator[Moment]:
        """One at each instant. From the canary's first request on it has a weight."""
        cursor, before, served = Cursor(), -1.0, 0
        for done, at in enumerate(instants, 1):
            now = at - self._span.start
            self._read(at)
            stable, canary = self._there(self._stable, now), self._there(self._canary, now)
            cursor, new, loads = ticks.advance(
                cursor,
                self._known,
                stable=stable,
                canary=canary,
                now=now,
                since={"ever": EVER},
                pace=self._pace,
            )
            total = loads["ever"].canary
            if not total:
                new = tuple(replace(one, canary=Sample(one.canary.start, one.canary.end)) for one in new)
            yield Moment(before, now, int(total > 0), new, requests=total - served, pods=len(canary))
            before, served = now, total
            told(done, len(instants))

    def _read(self, at: float) -> None:
        pods = (*self._stable, *self._canary)
        found, wrong = self._past.readings(self._span.namespace, pods, self._policy.checks, at=at)
        self._known |= {pod: _since(reading, self._span.start) for pod, reading in found.items()}
        self.wrong |= dict.fromkeys(wrong)

    def _there(self, arm: Sequence[str], now: float) -> dict[str, str]:
        """The arm's pods that were scraped lately, each on a node of its own."""
        return {
            pod: pod for pod in arm if pod in self._known and now - self._known[pod].at <= self._pace.stale
        }


def _since(reading: Reading, start: float) -> Reading:
    times = {check: at - start for check, at in reading.times.items()}
    return replace(reading, at=reading.at - start, times=times)
