"""Recorded ticks through a policy: what its checks would have said, and when.

A tick file holds one JSON object a line: `t` (seconds, when the tick ended), `weight` (percent to the
canary in it), and for each arm the requests, errors and histograms counted in it, by pod where known.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from analysis import evidence as ev
from analysis.evidence import CheckKind, CheckSpec, Evidence
from analysis.judge import Judgement, Verdict, explained, judge
from analysis.samples import Counts, Histogram, PodSample, Sample, Statistic
from controller import gather, rivals
from controller.explain import sentence
from controller.exposition import LARGEST
from controller.model import Policy
from controller.resource import verdict_name
from controller.ticks import Tick
from controller.wire import Wire

Json = Any
LATEST = 1e12  # seconds: thousands of years, and a tick later is still another number
ODD = 1.0  # seconds: a histogram whose first bucket ends here or later was not meant in seconds
MANY = 1.5  # counts of a bucket each for a request; one has a latency, and seldom more than a prediction
FAR = 1e9  # seconds, or predictions: no bucket ends there


class BadTicks(ValueError):
    """A tick file cannot be used; the text names file, line, field and remedy."""


class Buckets(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Counts per bucket, one more than bounds."""

    le: tuple[float, ...]
    count: tuple[int, ...]


class Hits(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Trials, and those with a hit."""

    trials: int
    hits: int


class Served(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one pod, or a whole arm, counted."""

    requests: int
    errors: int = 0
    latency: Buckets | None = None
    predictions: Buckets | None = None
    proportions: Mapping[str, Hits] = {}
    name: str = "all"


class ArmLine(Served, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One arm; where pods are told apart they are what is scored."""

    pods: tuple[Served, ...] = ()


NOBODY = ArmLine(requests=0)  # the canary of a line that has none


class Line(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tick; at weight 0 stable alone will do."""

    t: float
    weight: int
    stable: ArmLine
    canary: ArmLine = NOBODY


@dataclass(frozen=True, slots=True)
class Moment:
    """What a recording has of one moment: the ticks that end there, and what the canary served in them.

    Checks of which it has nothing have no tick. Times are seconds, from any beginning.
    """

    start: float
    end: float
    weight: int
    ticks: tuple[Tick, ...]
    requests: int
    pods: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The last judgement, and when it was made: at the first Fail, or at the end."""

    judgement: Judgement
    at: float


def read(file: Path) -> tuple[Line, ...]:
    """The file's ticks, in order; raises `BadTicks`."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadTicks(f"{file}: is not UTF-8; save it as UTF-8, a JSON object a line") from error
    except OSError as error:
        raise BadTicks(f"{file}: cannot be read: {error.strerror}; give a .jsonl file of ticks") from error
    numbered = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not numbered:
        raise BadTicks(f"{file}: holds no tick; write one JSON object a line")
    lines = tuple(_line(line, where=f"{file}:{number}") for number, line in numbered)
    for (number, _), (early, late) in zip(numbered[1:], pairwise(lines), strict=True):
        if late.t <= early.t:
            order = f"t: {_second(late.t)} does not come after {_second(early.t)}"
            raise BadTicks(f"{file}:{number}: {order}; sort the ticks")
    return lines


def _line(text: str, *, where: str) -> Line:
    try:
        line = msgspec.json.decode(text, type=Line)
    except msgspec.DecodeError as error:
        raise BadTicks(f"{where}: {error}; see the tick file in docs/testing.md") from error
    for complaint in _wrong(line):
        raise BadTicks(f"{where}: {complaint}")
    return line


def _wrong(line: Line) -> Iterator[str]:
    if not abs(line.t) <= LATEST:
        yield f"t: {line.t:g} is no time; give seconds, from any beginning"
    if not 0 <= line.weight <= 100:
        yield f"weight: {line.weight} is no percentage; give 0 to 100"
    if line.canary is NOBODY and line.weight:
        yield f"canary: is missing at weight {line.weight}; say what it served, or weight 0 for history"
    for arm, counted in (("stable", line.stable), ("canary", line.canary)):
        for index, one in enumerate((counted, *counted.pods)):
            yield from _miscounted(one, where=arm if index == 0 else f"{arm}.pods[{index - 1}]")
        if counted.pods:
            yield from _unlike(counted, where=arm)


def _unlike(arm: ArmLine, *, where: str) -> Iterator[str]:
    """Pods that served more than all of them; less is right, where only some were read."""
    together = sum(pod.requests for pod in arm.pods)
    if together > arm.requests:
        yield f"{where}.requests: {arm.requests}, and its pods have {together}; give all, or no pods"


def _miscounted(one: Served, *, where: str) -> Iterator[str]:
    if not 0 <= one.requests <= LARGEST:
        yield f"{where}.requests: below 0 or more than {LARGEST:g} in one tick; give this tick's count"
    if not 0 <= one.errors <= one.requests:
        yield f"{where}.errors: {one.errors} of {one.requests} requests; give 0 to all of them"
    yield from _uncountable(one.proportions, where=f"{where}.proportions")
    for name, buckets in (("latency", one.latency), ("predictions", one.predictions)):
        if buckets is None:
            continue
        if any(late <= early for early, late in pairwise(buckets.le)) or not buckets.le:
            yield f"{where}.{name}.le: bounds have to rise; give them in order, each once"
        elif name == "latency" and buckets.le[0] <= 0:
            yield f"{where}.latency.le: nothing takes less than no time; give bounds above 0, in seconds"
        elif not -FAR <= buckets.le[0] <= buckets.le[-1] <= FAR:
            yield f"{where}.{name}.le: bounds beyond {FAR:g}; give them in seconds, and leave +Inf out"
        if len(buckets.count) != len(buckets.le) + 1:
            counts = f"{len(buckets.count)} counts for {len(buckets.le)} bounds"
            yield f"{where}.{name}.count: {counts}; give one more than bounds"
        if not all(0 <= count <= LARGEST for count in buckets.count):
            yield f"{where}.{name}.count: a count below 0 or above {LARGEST:g}; give counts of this tick"


def _uncountable(proportions: Mapping[str, Hits], *, where: str) -> Iterator[str]:
    for name, one in proportions.items():
        if not 0 <= one.hits <= one.trials <= LARGEST:
            counted = f"{one.hits} hits of {one.trials} trials"
            yield f"{where}.{name}: {counted}; give this tick's, 0 to all of them"


def doubtful(lines: Sequence[Line]) -> Iterator[str]:
    """What looks as if something else was meant: milliseconds, or counts of all below a bound."""
    served = [one for line in lines for arm in (line.stable, line.canary) for one in (arm, *arm.pods)]
    first = next((one.latency.le[0] for one in served if one.latency and one.latency.le[0] >= ODD), None)
    if first is not None:
        yield f"latency.le begins at {first:g} s: bounds are in seconds; milliseconds?"
    for name in ("latency", "predictions"):
        counted = [(one.requests, found.count) for one in served if (found := getattr(one, name)) is not None]
        if _cumulative(counted):
            yield f"{name}.count never falls and adds up to more than requests: give each bucket's own"


def _cumulative(counted: Iterable[tuple[int, tuple[int, ...]]]) -> bool:
    """Whether all counts rise from bucket to bucket, to far more than there were requests."""
    full = [(requests, count) for requests, count in counted if sum(count)]
    rising = all(early <= late for _, count in full for early, late in pairwise(count))
    return rising and sum(sum(count) for _, count in full) > MANY * sum(requests for requests, _ in full)


def moments(lines: Sequence[Line], policy: Policy) -> tuple[Moment, ...]:
    """A tick file's lines as the policy's checks see them; the first is as long as the shortest."""
    length = min((late.t - early.t for early, late in pairwise(lines)), default=1.0)
    starts = [lines[0].t - length, *(line.t for line in lines[:-1])]
    return tuple(
        Moment(
            start,
            line.t,
            line.weight,
            tuple(_tick(spec, line, start) for spec in policy.checks),
            requests=sum(pod.requests for pod in line.canary.pods or (line.canary,)),
            pods=len(line.canary.pods) or 1,
        )
        for start, line in zip(starts, lines, strict=True)
    )


def replay(recorded: Iterable[Moment], policy: Policy) -> Outcome:
    """What the policy's checks say of the ticks; a weight that changes begins a step.

    After a weight of 0 pods are taken to be cold, as at a run's first step.
    """
    gathered = gather.begun(policy)
    weight, since, served, cold = 0, 0.0, 0, True
    outcome = Outcome(Judgement(verdict=Verdict.NO_DATA, log_e=0.0), 0.0)
    for moment in recorded:
        if moment.weight not in {0, weight}:
            turn = ev.next_step if weight else ev.restart
            gathered = tuple(turn(one, at=moment.start) for one in gathered)
            cold = weight == 0
            since, served = (moment.start, 0) if cold else (since, served)
        served += moment.requests
        counted = {
            tick.check: tick
            if not cold or _counts(policy, moment, tick, since=since, served=served)
            else replace(tick, canary=Sample(tick.canary.start, tick.canary.end))
            for tick in moment.ticks
        }
        gathered = tuple(_scored(one, counted.get(one.spec.name)) for one in gathered)
        weight = moment.weight
        judged = judge(gathered, alpha=policy.alpha, beta=policy.beta, now=moment.end)
        outcome = Outcome(judged, moment.end)
        if judged.verdict is Verdict.FAIL:
            break
    judged = outcome.judgement
    return Outcome(explained(judged, gathered, alpha=policy.alpha) if judged.checks else judged, outcome.at)


def _counts(policy: Policy, moment: Moment, tick: Tick, *, since: float, served: int) -> bool:
    """Whether the canary's part of the tick is evidence although its pods may be cold: errors always are."""
    kinds = {spec.name: spec.kind for spec in policy.checks}
    return kinds[tick.check] is CheckKind.ERROR_RATE or gather.warm(
        policy,
        tick.check,
        began=tick.began - since,
        ended=moment.end - since,
        requests=served,
        pods=moment.pods,
    )


def _scored(one: Evidence, tick: Tick | None) -> Evidence:
    return one if tick is None else ev.update(one, tick.stable, tick.canary)


def compared(recorded: Sequence[Moment], policy: Policy) -> list[Json]:
    """What the peers' rules would have done with the same ticks, one entry a rule."""
    ticks = [tick for moment in recorded for tick in moment.ticks]
    of_checks = [
        (spec, [(tick.stable, tick.canary) for tick in ticks if tick.check == spec.name])
        for spec in policy.checks
    ]
    seen = [(spec, each) for spec, each in of_checks if any(stable.pods for stable, _ in each)]
    return rivals.said(seen, since=recorded[0].start)


def result(outcome: Outcome, policy: Policy, others: Sequence[Json] = ()) -> Json:
    """The outcome as JSON: verdict, the check that decided, when, a sentence a check, and a peer's rule."""
    specs = {spec.name: spec for spec in policy.checks}
    shadow = policy.shadow
    untried = "left out: ticks hold no requests that could be replayed"
    return {
        "verdict": verdict_name(outcome.judgement.verdict),
        "check": outcome.judgement.failed,
        "at": outcome.at,
        "logE": round(outcome.judgement.log_e, 4),
        "checks": [
            {
                "name": one.name,
                "verdict": verdict_name(one.verdict),
                "sentence": sentence(specs[one.name], one),
            }
            for one in outcome.judgement.checks
        ]
        + ([] if shadow is None else [{"name": shadow.name, "verdict": "NoData", "sentence": untried}]),
        "peers": list(others),
    }


def told(result: Json) -> Iterator[str]:
    """The same for people."""
    when = f"{result['verdict']} at t = {_second(result['at'])}"
    yield when + (f" by {result['check']}" if result["check"] else "")
    for one in result["checks"]:
        yield f"  {one['name']} ({one['verdict']}): {one['sentence']}"
    if result["peers"]:
        yield "On the same ticks:"
    for one in result["peers"]:
        yield f"  {one['sentence']}" + (f", by {one['check']}" if one["check"] else "")


def _second(t: float) -> str:
    """As it stands in the file, which may count from 1970."""
    return f"{t:.15g}"


def _tick(spec: CheckSpec, line: Line, start: float) -> Tick:
    """The line's tick of one check; the canary's sample is empty where it has no weight."""
    canary = _sample(spec, line.canary, start, line.t) if line.weight else Sample(start, line.t)
    return Tick(spec.name, _sample(spec, line.stable, start, line.t), canary, began=start)


def _sample(spec: CheckSpec, arm: ArmLine, start: float, end: float) -> Sample:
    """Pods whose nodes are not recorded are taken to be on nodes of their own."""
    pods = ((pod.name, _statistic(spec, pod)) for pod in (arm.pods or (arm,)))
    return Sample(start, end, tuple(PodSample(name, name, value) for name, value in pods if value))


def _statistic(spec: CheckSpec, pod: Served) -> Statistic | None:
    if spec.kind is CheckKind.ERROR_RATE:
        return Counts(pod.requests, pod.errors)
    if spec.kind is CheckKind.PROPORTION:
        counted = pod.proportions.get(spec.name)
        return None if counted is None else Counts(counted.trials, counted.hits)
    buckets = pod.latency if spec.kind is CheckKind.LATENCY else pod.predictions
    return None if buckets is None else Histogram(buckets.le, buckets.count)
