"""What came of a story, and whether it is what the story expects."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from controller import explain, planning, record
from controller.wire import duration
from scenarios.plot import Ending, Outcome, Story, names_of

Json = Any
Weights = tuple[tuple[float, int], ...]  # (seconds since the story's beginning, percent to the canary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Requests as the proxy routed them; `failed` are those that got lost although no fault ordered it."""

    stable: int = 0
    canary: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What was observed while a story was played; times are seconds since its beginning.

    `verdict` is when the run ended, or was held; `last_routed` the start of the last request that
    the proxy routed to the canary, `last_attempt` the last try of one that still reached it.
    """

    outcome: Outcome
    reason: str | None = None
    check: str | None = None
    verdict: float | None = None
    first_routed: float | None = None
    last_routed: float | None = None
    last_attempt: float | None = None
    weights: Weights = ()
    requests: Requests = Requests()
    evidence: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One story's line in the JSON list. Seconds count from the fault, or the canary's first request."""

    name: str
    ok: bool
    mode: str  # "live" or "virtual"
    outcome: str
    reason: str | None
    check: str | None
    seconds_to_verdict: float | None
    seconds_to_weight_zero: float | None
    last_attempt: float | None
    weights: Weights
    requests: Requests
    evidence: Json

    @property
    def going_on(self) -> bool:
        """Whether the story's time was up while its run was neither over nor held."""
        on = self.evidence.get("phase") in {"Pending", "Progressing", "Promoting"}
        return on and self.outcome == Outcome.HELD

    def as_json(self) -> Mapping[str, Json]:
        """The object with the keys of the file."""
        asked = self.requests
        return {
            "name": self.name,
            "ok": self.ok,
            "mode": self.mode,
            "outcome": self.outcome,
            "reason": self.reason,
            "check": self.check,
            "secondsToVerdict": _rounded(self.seconds_to_verdict),
            "secondsToWeightZero": _rounded(self.seconds_to_weight_zero),
            "lastAttempt": _rounded(self.last_attempt),
            "weights": [[round(at, 3), weight] for at, weight in self.weights],
            "requests": {"stable": asked.stable, "canary": asked.canary, "failed": asked.failed},
            "evidence": self.evidence,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def result(story: Story, played: Played, *, mode: str) -> Result:
    """What was played, measured from the moment that counts, and held against the story's `expect`."""
    onset = _onset(story, played)
    over = played.outcome is not Outcome.HELD
    zero = _after(onset, played.last_routed) if over else None
    found = Result(
        name=story.name,
        ok=False,
        mode=mode,
        outcome=str(played.outcome),
        reason=played.reason,
        check=played.check,
        seconds_to_verdict=_after(onset, played.verdict),
        seconds_to_weight_zero=zero,
        last_attempt=_after(onset, played.last_attempt) if over else None,
        weights=played.weights,
        requests=played.requests,
        evidence=played.evidence,
    )
    return replace(found, ok=any(not list(_missed(ending, found, story)) for ending in story.expect))


def _onset(story: Story, played: Played) -> float:
    """The last arm fault before the verdict, or the canary's first request if that is later."""
    faults = (fault.at.total_seconds() for fault in story.arm_faults)
    seen = [at for at in faults if played.verdict is None or at <= played.verdict]
    return max([*seen, played.first_routed or 0.0])


def _after(onset: float, at: float | None) -> float | None:
    return None if at is None else max(0.0, at - onset)


def _missed(ending: Ending, found: Result, story: Story) -> Iterator[str]:
    """Which parts of the ending did not come true: what was wanted, and what came instead."""
    if ending.outcome != found.outcome:
        yield f"outcome: wanted {ending.outcome}, got {found.outcome}"
        return  # of another outcome the rest says nothing
    if ending.check is not None and found.check not in _meant(ending.check, story):
        yield f"check: wanted {ending.check}, got {found.check or 'none'}"
    if ending.reason not in (None, found.reason):
        yield f"reason: wanted {ending.reason}, got {found.reason or 'none'}"
    zero = found.seconds_to_weight_zero
    if ending.within is not None and zero is not None and timedelta(seconds=zero) > ending.within:
        late = f"got {zero:.4g} s, until the last request was routed to the canary"
        yield f"within: wanted at most {ending.within.total_seconds():g} s, {late}"


def _meant(check: str, story: Story) -> list[str]:
    """What a check may be called that failed: one of several quantiles has a name of its own."""
    mine = (names_of(one) for one in story.policy.get("checks", ()) if one["name"] == check)
    return next(mine, [check])


def ended(run: Json) -> bool:
    """Whether the CanaryRun object says that it is over."""
    return (run.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


def said_by(run: Json | None, refusal: str | None) -> tuple[Outcome, str | None, str | None, Json]:
    """Outcome, reason, failed check and evidence as a CanaryRun object tells them.

    Without a run nothing was routed: that is held, for the reason that an Event gave.
    """
    if run is None:
        return Outcome.HELD, refusal, None, {}
    status = run.get("status") or {}
    outcomes = {"Succeeded": Outcome.PROMOTED, "Failed": Outcome.ROLLED_BACK}
    outcome = outcomes.get(str(status.get("phase")), Outcome.HELD)
    state = status.get("state") or {}
    reason = state.get("hold") if outcome is Outcome.HELD else status.get("reason")
    kept = ("phase", "verdict", "logE", "message", "checks")
    evidence = {name: status[name] for name in kept if name in status}
    return outcome, reason, state.get("check"), evidence


LATE = 1.5  # times minStep: a step that has passed by then needs no word


def waits_for(run: Json, *, now: datetime) -> str | None:
    """Which required checks have not passed in a step that was to be over by now, in words; None if none."""
    status = run.get("status") or {}
    since, least = record.instant(run, "stepSince"), record.policy(run).get("minStep")
    if status.get("phase") != "Progressing" or not since or not least:
        return None
    if now - since < LATE * duration(least):
        return None
    still = [
        f"{one.name} ({one.verdict})"
        for one in record.findings(run)
        if one.required and one.verdict != "Pass"
    ]
    return f"still at {status.get('weight', 0)} %: waits for {', '.join(still)}" if still else None


PATIENT = timedelta(hours=1)  # virtual time takes minutes of a core for it; nobody waits longer for a story
GOES_ON = "(time was up)"


def unmet(result: Result, story: Story) -> Iterator[str]:
    """Why a story did not end as it was to, line by line: what was missed, how the run stood, each check."""
    for place, ending in enumerate(story.expect):
        where = f"expect.oneOf[{place}]" if len(story.expect) > 1 else "expect"
        for missed in _missed(ending, result, story):
            yield f"{where}.{missed}"
    said = result.evidence
    if result.going_on:
        yield _time_up(story)
    if said:
        yield f"phase {said.get('phase', 'Pending')}, verdict {said.get('verdict', '-')}"
    checks = said.get("checks", ())
    message = said.get("message")
    if message and not any((each.get("sentence") or message) in message for each in checks):
        yield message  # but not what a check's own line says below
    for check in checks:
        words = check.get("sentence") or check.get("note") or "nothing to compare yet"
        yield f"{check['name']}: {check['verdict']}: {words}"


def _time_up(story: Story) -> str:
    """What helps a story that was over before its run: time, unless requests are what it waits for."""
    lasted, rate = explain.duration(story.duration), story.requests_per_second
    ended = f"the story ended at its duration ({lasted}); the run was still going"
    policy = planning.checked(dict(story.policy), file=Path(story.file))
    times = planning.least(policy, rate)
    least, scarce = sum(times, timedelta(0)), max(times) > duration(policy["minStep"])
    if least <= story.duration:
        near = "beside a margin neither need suffice, and `serin plan` says how long which fault takes"
        return f"{ended}: give a longer duration, or more requestsPerSecond; {near}"
    steps = f"at {rate:g} requestsPerSecond its steps take at least {explain.duration(least)}"
    if not scarce:
        return f"{ended}, and {steps}: give a longer duration"
    more = "more requestsPerSecond, larger steps or a smaller minRequests"
    rather = (
        f"{more}, or a longer duration" if least <= PATIENT else f"{more}; no longer duration is sensible"
    )
    return f"{ended}, and {steps}, waiting for requests: give {rather}"


def sure(result: Result, *, alpha: float) -> Iterator[str]:
    """How sure a rollback by the evidence is."""
    log_e = result.evidence.get("logE")
    if result.reason == "CheckFailed" and not explain.none_yet(log_e):
        against = f"{explain.odds(log_e, alpha)} against a version within its margins"
        yield f"{against}; {explain.rolls_back(alpha)}"


def wanted(expect: Sequence[Ending]) -> str:
    """The expectation in words, for the table at the end."""
    return " or ".join(map(_words, expect))


def _words(ending: Ending) -> str:
    words = [str(ending.outcome)]
    words += [f"by {ending.check}"] if ending.check else []
    words += [f"({ending.reason})"] if ending.reason else []
    words += [f"within {ending.within.total_seconds():g} s"] if ending.within else []
    return " ".join(words)
