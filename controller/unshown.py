"""Canary pods that serve requests and show nothing of a required check: what they do is not analysed.

Pure, and in memory only: a new leader looks again. A pod is missed once twenty figures were due, as many as
stable's pods show for so many requests. So one that has just come, or has few requests, holds nothing up; but
of one that this leader has not seen yet all that it ever completed counts, so that what held a run holds it
after a change of leader.
"""

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from analysis.distributions import NEARLY_ALL, in_one
from analysis.evidence import CheckKind
from analysis.samples import Histogram, Statistic, bounds_of, coarsened, usual_bounds
from controller.hearing import SILENT_AFTER_DUE
from controller.model import Policy
from controller.ports import Reading
from controller.ticks import UNKNOWN, Pace, Tick, usual_source


@dataclass(frozen=True, slots=True)
class Lack:
    """Since when a pod lacks a check, the requests that it had completed `then`, and `by` its last figure."""

    since: float
    then: int
    by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """Checks that not all pods have shown, and a sentence on pods that have not for long, if any."""

    checks: frozenset[str] = frozenset()
    sentence: str = ""


TOLD = 0.9  # joining lost something where stable's own fullest bucket held less than this of the joined one
SOME_BOUNDS = 5  # that a sentence names
LOST = Missed(sentence="which of its pods show what could not be worked out; the log says why")


@dataclass(slots=True)
class Shown:
    """Which canary pods have shown the required checks, and which lack them now."""

    _ever: dict[str, frozenset[str]] = field(default_factory=dict)
    _lacks: dict[str, dict[str, Lack]] = field(default_factory=dict)
    _blurred: dict[str, tuple[float, str]] = field(default_factory=dict)  # by check: since when, in words

    def look(
        self,
        new: Iterable[Tick],
        policy: Policy,
        readings: Mapping[str, Reading],
        *,
        stable: Collection[str],
        canary: Collection[str],
        now: float,
        pace: Pace,
        queried: Pace,
    ) -> Missed:
        """What is missed now that these ticks have closed; `stable` and `canary` are their ready pods."""
        self._heed(new, policy, readings, frozenset(canary), now)
        if not self._blurred and not any(self._lacks.values()):  # nearly always
            return Missed()
        of_stable = [readings[pod] for pod in stable if pod in readings]
        checks, said = set(self._blurred), []
        for check, (since, lost) in self._blurred.items():
            fresh = (queried if check in policy.queried else pace).fresh
            said += [f"{check}: {lost}"] if now - since >= fresh else []
        for check, lacks in self._lacks.items():
            fresh, part = (queried if check in policy.queried else pace).fresh, _part(check, of_stable)
            usual = usual_source(_sources(check, of_stable))
            odd = {pod: one for pod in lacks for one in _sources(check, [readings.get(pod)]) if one != usual}
            due = {pod for pod, lack in lacks.items() if _due(lack, readings.get(pod), part)}
            if any(now - lacks[pod].since < fresh for pod in (due | odd.keys()) - self._ever[check]):
                checks.add(check)
            long = [pod for pod in sorted(lacks) if now - lacks[pod].since >= fresh]
            words = _said_of_sources(check, {pod: odd[pod] for pod in long if pod in odd}, usual, canary)
            silent = [pod for pod in long if pod in due - odd.keys() and _serves(lacks[pod], readings[pod])]
            words += [f"{_named(silent)} serves requests and shows nothing of {check}"] if silent else []
            checks |= {check} if words else set()
            said += words
        return Missed(checks=frozenset(checks), sentence="; ".join(said))

    def _heed(
        self,
        new: Iterable[Tick],
        policy: Policy,
        readings: Mapping[str, Reading],
        canary: AbstractSet[str],
        now: float,
    ) -> None:
        required = {one.name: one.kind for one in policy.checks if one.required}
        for tick in new:
            if (kind := required.get(tick.check)) is None:
                continue
            if kind is CheckKind.PREDICTIONS and tick.canary.pods:
                self._compare_buckets(tick, readings, now)
            # a proportion's trials may be known much later: that they are counted is all that can be asked
            late = kind is CheckKind.PROPORTION
            shown = frozenset([pod.name for pod in tick.canary.pods if late or any(pod.value.cells)])
            if canary <= shown:  # nearly always
                self._ever[tick.check] = shown
                self._lacks.pop(tick.check, None)
            else:
                self._some_lack(tick.check, shown, readings, canary, now)

    def _compare_buckets(self, tick: Tick, readings: Mapping[str, Reading], now: float) -> None:
        """Whether what is left of two kinds of buckets still tells stable's predictions apart."""
        le = bounds_of(tick.canary.pods[0].value)
        alike = all(bounds_of(pod.value) == le for pod in (*tick.stable.pods, *tick.canary.pods))
        words = "" if alike else _lost(tick, readings)  # nearly always they are
        if words:
            self._blurred[tick.check] = self._blurred.get(tick.check, (now, ""))[0], words
        else:
            self._blurred.pop(tick.check, None)

    def _some_lack(
        self,
        check: str,
        shown: frozenset[str],
        readings: Mapping[str, Reading],
        canary: AbstractSet[str],
        now: float,
    ) -> None:
        ever = self._ever[check] = (self._ever.get(check, frozenset()) & canary) | shown
        before, lacks = self._lacks.get(check, {}), dict[str, Lack]()
        for pod in canary - shown:
            requests = _requests(readings.get(pod))
            if pod in before or requests is None:
                lacks |= {pod: before[pod]} if pod in before else {}
                continue
            by = requests if pod in ever else min(requests, _n(readings[pod].values.get(check)))
            lacks[pod] = Lack(now, requests, by)
        self._lacks[check] = lacks


def _due(lack: Lack, reading: Reading | None, part: float) -> bool:
    """Whether so many figures were due that there would be one; a counter that fell began anew."""
    requests = _requests(reading) or 0
    return (requests - (lack.by if requests >= lack.by else 0)) * part >= SILENT_AFTER_DUE


def _serves(lack: Lack, reading: Reading) -> bool:
    """Whether it completed requests while it lacked the check."""
    return _requests(reading) != lack.then


def _sources(check: str, readings: Iterable[Reading | None]) -> list[str]:
    """Which series the check was read from, of those where it was."""
    return [one.sources.get(check, UNKNOWN) for one in readings if one is not None and check in one.values]


def _said_of_sources(check: str, odd: Mapping[str, str], usual: str, canary: Collection[str]) -> list[str]:
    if not odd:
        return []
    who = "the canary" if odd.keys() >= set(canary) else _named(sorted(odd))
    return [f"{check}: {who} is read from {min(odd.values())}, stable from {usual}: the two are not compared"]


def _part(check: str, of_stable: Iterable[Reading]) -> float:
    """How many figures one request is due, as stable's pods have counted: one at most."""
    both = [(_n(one.values.get(check)), _requests(one) or 0) for one in of_stable]
    figures, requests = (sum(column) for column in zip(*both, strict=True)) if both else (0, 0)
    return min(figures / requests, 1.0) if requests else float(figures > 0)


def _requests(reading: Reading | None) -> int | None:
    return None if reading is None or reading.requests is None else reading.requests.n


def _n(value: Statistic | None) -> int:
    return 0 if value is None else value.n


def _named(pods: list[str]) -> str:
    others = f" (and {len(pods) - 1} more)" if len(pods) > 1 else ""
    return f"pod {pods[0]}{others}"


def _lost(tick: Tick, readings: Mapping[str, Reading]) -> str:
    """What joining to the arms' common bounds loses, by all that stable has counted; empty if not much."""
    le, other = (usual_bounds(arm.pods, known=()) for arm in (tick.stable, tick.canary))
    common = tuple(bound for bound in le if bound in set(other))
    pages = [readings[pod.name].values.get(tick.check) for pod in tick.stable.pods if pod.name in readings]
    own = [one for one in pages if isinstance(one, Histogram) and one.le == le]
    fine = in_one(list(map(sum, zip(*(one.count for one in own), strict=True))))
    left = in_one(list(map(sum, zip(*(coarsened(one, common).count for one in own), strict=True))))
    if common == le or left < NEARLY_ALL or fine >= TOLD * left:
        return ""
    bounds = ", ".join(f"{bound:g}" for bound in common[:SOME_BOUNDS])
    more = " ..." if len(common) > SOME_BOUNDS else ""
    both = f"only the bucket bounds {bounds}{more}" if common else "no bucket bound"
    return (
        f"the two arms have {both} in common, so that {100 * left:.0f} % of stable's lie in one bucket "
        "and a shift within it would not show; give both the same buckets"
    )
