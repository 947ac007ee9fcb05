"""What a run has gathered: the evidence of its checks, and how far its pods' counters have been used.

Pure. Not every tick is evidence: latency, predictions and proportions are left out while pods warm up and
while canary pods carry more load than stable's, and they begin anew when the pods of an arm are not those
they were. Errors count from the first request on, whatever happens around them.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import lgamma, log, log1p, pi
from typing import Any

from analysis import evidence as ev
from analysis.evidence import CheckKind, CheckSpec, Evidence
from analysis.packing import NEVER
from analysis.questions import latency_margin
from analysis.samples import Histogram, Sample
from analysis.values import replace
from controller import cursors, kept, shadow
from controller.hearing import AT_ONCE, SILENT_AFTER_DUE, SLOWER, Lag, LoadSeen, Quiet, lag_of
from controller.model import Plan, Policy, Replayed, Run, Seen
from controller.served import Hush, Load
from controller.sizing import PARITY_LIMIT, parity
from controller.ticks import Cursor, Pace, Tick
from controller.wire import LONGEST

Json = Any
Asked = tuple[Evidence, Sample, Sample]  # of one check: its evidence, and a tick of stable and canary
Update = Callable[[Evidence, Sample, Sample], Evidence]

# log of the e-value from which traffic is said not to follow the weight.
FOLLOW_LOG_E = log(1000)
# Before that proxies may not know the weight, and one arm's pages may be a round ahead of the other's.
SETTLED = 3.0  # s of a weight in which both arms were counted
# Of stable's pods: where so many are others than when evidence began, it begins anew. Load per pod changes by
# as much when stable is scaled, and beyond twice the limit of load parity little could be said anyway.
FEW_OTHERS = 0.2
EARLIER = 0.1  # of a tick at most may be from before the step that it is evidence of
LATEST = 253_402_300_800.0  # the year 10000, which no datetime holds
# Seconds for which a silence is not believed at most, whatever pages do: some are worked out every 15 s, and
# a round or two of ours come on top. Most are seen in two seconds to be worked out when they are asked for.
STILL = 20.0
# Requests per canary pod after which it is called warm although `warmUp` is not over.
WARM_AFTER_REQUESTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Evidence by check, the cursor into the pods' counters, and what the evidence is about."""

    evidence: tuple[Evidence, ...]
    cursor: Cursor
    step: int | None = None  # the step that evidence is gathered for; None: only history so far
    pods: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # ready pods, stable and canary
    replayed: Replayed | None = None  # what is known of the Shadow check
    compared: Mapping[str, float] = field(default_factory=dict)  # by check: last tick with pods of both arms
    known: float = 0.0  # seconds over which stable was read, those before the run included
    saved: float | None = None  # when a checkpoint was made of it, by the clock of who did


Scoring = Generator[list[Asked], list[Evidence], Gathered]


def begin(policy: Policy, known: Gathered | None = None) -> Gathered:
    """Nothing yet, but what is `known` of stable from before."""
    evidence = begun(policy, () if known is None else known.evidence)
    some = known is not None and any(one.at > NEVER for one in evidence)
    return Gathered(evidence=evidence, cursor=Cursor(), known=known.known if known and some else 0.0)


def begun(policy: Policy, known: Iterable[Evidence] = ()) -> tuple[Evidence, ...]:
    """Evidence of nothing yet, for each check, with what checks that asked the same know of stable."""
    before = {one.spec.name: one for one in known}
    fresh = (ev.begin(spec, **terms(policy)) for spec in policy.checks)
    return tuple(_knowing(one, before.get(one.spec.name)) for one in fresh)


def _knowing(fresh: Evidence, known: Evidence | None) -> Evidence:
    """`fresh` with how stable is and how its pods differ: these fields and no others.

    Whatever `known` may hold of a canary stays behind, so that nothing passes or fails by it.
    """
    if known is None or _asked(known.spec) != _asked(fresh.spec):
        return fresh
    after = replace(
        fresh,
        at=known.at,
        nodes=known.nodes,
        stable_nodes=known.stable_nodes,
        memory=known.memory,
        dispersion=known.dispersion,
    )
    return replace(after, margin=latency_margin(after))


def _asked(spec: CheckSpec) -> CheckSpec:
    """What the check looks at, whatever it allows."""
    return replace(
        spec, max_increase=0.0, max_decrease=0.0, plus=0.0, tolerance=0.0, share=0.0, required=True
    )


def terms(policy: Policy) -> dict[str, Any]:
    """What every check's evidence is told of the policy."""
    return {
        "steps": len(policy.steps),
        "burst_tolerance": policy.burst_tolerance.total_seconds(),
        "step_timeout": policy.step_timeout.total_seconds(),
    }


def begin_step(gathered: Gathered, step: int, *, at: float) -> Gathered:
    """From `at` on, evidence is for `step`; the same step begins anew, a later one freezes the last."""
    later = gathered.step is None or step > gathered.step
    turn = ev.next_step if later and gathered.step is not None else ev.restart
    evidence = tuple(turn(one, at=at) for one in gathered.evidence)
    return replace(gathered, step=step, evidence=evidence)


def learn(gathered: Gathered, new: Iterable[Tick], pods: Iterable[str], *, at: float) -> Gathered:
    """`gathered` with these ticks of stable alone, whose ready `pods` are read; `at` seconds since 1970."""
    there = (tuple(sorted(pods)), ())
    if gathered.pods != there:  # what was learned stays, windows that pods were compared over begin anew
        evidence = tuple(ev.restart(one, at=at) for one in gathered.evidence)
        gathered = replace(gathered, pods=there, evidence=evidence)
    ticks_ = tuple(new)
    by_name = {tick.check: tick.stable for tick in ticks_}
    evidence = tuple(
        one if (seen := by_name.get(one.spec.name)) is None else ev.update(one, seen, _nothing(seen))
        for one in gathered.evidence
    )
    return replace(gathered, evidence=evidence, known=_known(gathered, ticks_))


def _nothing(during: Sample) -> Sample:
    return Sample(during.start, during.end)


def _known(gathered: Gathered, new: Sequence[Tick]) -> float:
    """The seconds of stable that were read, with these ticks; what two checks read counts once."""
    if not new:
        return gathered.known
    until = max([float(one.at) for one in gathered.evidence], default=0.0)
    begins, ends = min([tick.stable.start for tick in new]), max([tick.stable.end for tick in new])
    return gathered.known + max(0.0, ends - max(begins, until))


def take(gathered: Gathered, run: Run, seen: Seen, new: Iterable[Tick], now: datetime) -> Scoring:
    """`gathered` with the ticks that count scored, after a new beginning if pods have changed."""
    new = tuple(new)
    after = yield from scoring(gathered, run, seen, new, now)
    both = {tick.check: now.timestamp() for tick in new if tick.stable.pods and tick.canary.pods}
    return replace(after, known=_known(gathered, new), compared={**gathered.compared, **both})


def scoring(gathered: Gathered, run: Run, seen: Seen, new: Iterable[Tick], now: datetime) -> Scoring:
    """The same for evidence of any kind. What is to be scored is said in rounds, a tick a check in each.

    Whoever goes through the rounds sends the evidence after it: of many canaries at once, or of one.
    """
    gathered = _about(gathered, seen, at=now.timestamp())
    by_name = {one.spec.name: one for one in gathered.evidence}
    for ticks_ in _rounds(tick for tick in new if tick.check in by_name):
        asked: list[Asked] = []
        for tick in ticks_:
            one = by_name[tick.check]
            counts = run.weight > 0 and (
                one.spec.kind is CheckKind.ERROR_RATE or _clean(run, seen, tick, now)
            )
            stable, canary = tick.stable, tick.canary
            if not counts:  # it is still history: how stable is, and how its pods differ
                canary = _nothing(canary)
            elif run.step > 0 or one.spec.kind is CheckKind.ERROR_RATE:  # the first step warms up
                stable, canary = _of_step(one, tick)
            asked.append((one, stable, canary))
        after = yield asked
        by_name |= {one.spec.name: one for one in after}
    return replace(gathered, evidence=tuple(by_name[one.spec.name] for one in gathered.evidence))


def _of_step(one: Evidence, tick: Tick) -> tuple[Sample, Sample]:
    """Both arms' samples, in the step if nearly all of the tick is: what began before it is no evidence.

    Ticks of a second lose nothing by that. But a new leader's first one begins at the last checkpoint, which
    may be the raise's own, and holds whatever happened while nobody led. A tenth of stable's requests, which
    may be from before, changes its rate by less than 12 %, if there were no errors among them.
    """
    step, arms = float(one.step_began.max()), (tick.stable, tick.canary)  # placebos are several, of one step
    if not 0.0 < step - tick.began <= EARLIER * (tick.canary.end - tick.began):
        return arms
    stable, canary = (replace(arm, start=max(arm.start, step)) for arm in arms)
    return stable, canary


def _rounds(new: Iterable[Tick]) -> list[list[Tick]]:
    """The first tick of each check, then the second of those that have one, and so on."""
    rounds: list[list[Tick]] = []
    count: Counter[str] = Counter()
    for tick in new:
        if count[tick.check] == len(rounds):
            rounds.append([])
        rounds[count[tick.check]].append(tick)
        count[tick.check] += 1
    return rounds


def scored(steps: Scoring, update: Update) -> Gathered:
    """What comes of it, one canary alone, by a function like `evidence.update`."""
    try:
        asked = next(steps)
        while True:
            asked = steps.send([update(*each) for each in asked])
    except StopIteration as end:
        found: Gathered = end.value
        return found


def _clean(run: Run, seen: Seen, tick: Tick, now: datetime) -> bool:
    """Whether anything but errors can be compared: pods warm, load as the weight says, not above stable's."""
    if run.weight == 0 or run.weight_since is None or seen.route.mixed:
        return False
    load = parity(run.weight, stable=seen.stable.ready, canary=seen.canary.ready)
    return (run.step > 0 or _warm(run, seen, tick, now)) and load <= PARITY_LIMIT


def _warm(run: Run, seen: Seen, tick: Tick, now: datetime) -> bool:
    since = run.weight_since or now
    return warm(
        run.plan.policy,
        tick.check,
        began=tick.began - since.timestamp(),
        ended=(now - since).total_seconds(),
        requests=seen.load.step_canary_requests,
        pods=seen.canary.ready,
    )


def warm(policy: Policy, check: str, *, began: float, ended: float, requests: int, pods: int) -> bool:
    """Whether a tick of the first step holds what warm pods did.

    It `began` and `ended` so many seconds after the canary was given its weight; by then the canary's `pods`
    had served so many `requests`. A Prometheus' ticks are long: all of such a one must be warm.
    """
    warm_up = policy.warm_up.total_seconds()
    if check in policy.queried:
        return began >= warm_up
    return ended >= warm_up or requests >= WARM_AFTER_REQUESTS * max(pods, 1)


def newest(gathered: Gathered, *, otherwise: float) -> float:
    """When the last tick ended that a check was told of, seconds since 1970; `otherwise` if none ever was."""
    return max((float(one.at) for one in gathered.evidence if one.at > NEVER), default=otherwise)


def instants(run: Run, *, idle: float) -> dict[str, float]:
    """Since when load is counted: the step (for `minRequests`) and the last weight (for breakers).

    A weight that is not at the VirtualService yet, or was taken out of it, has not begun.
    """
    named = {"step": run.step_since, "weight": run.weight_since}
    since = {name: at.timestamp() for name, at in named.items() if at is not None and run.weight > 0}
    return {name: max(at, idle) if name == "weight" else at for name, at in since.items()}


def lag(gathered: Gathered, policy: Policy, took: Iterable[Histogram] = (), *, told: bool = True) -> Lag:
    """How long stable's requests take, by what latency checks have learned; else within the warm-up.

    `took` is what sidecars say beside it. Not `told`: what was learned leaves out for how long they wait, and
    nobody says it, so that a canary has its warm-up to answer its first one.
    """
    unknown = policy.warm_up.total_seconds()
    latency = [one for one in gathered.evidence if one.spec.kind is CheckKind.LATENCY]
    slower = max((_slower(one) for one in latency), default=SLOWER)
    found = [_lag(one, unknown) for one in latency]
    found += [lag_of(one, slower=slower, unknown=unknown) for one in took]
    slowest = max(found, key=lambda one: one.most, default=Lag(unknown=unknown))
    return slowest if told else replace(slowest, first=unknown)


def _slower(one: Evidence) -> float:
    return SLOWER * (1 + one.spec.max_increase)


def _lag(one: Evidence, unknown: float) -> Lag:
    sums = one.memory.recent[0].cumsum()
    if not one.memory.le or sums[-1] <= 0:
        return Lag(unknown=unknown)
    return Lag(one.memory.le, (sums[:-1] / sums[-1]).tolist(), _slower(one), unknown)


def load_seen(
    run: Run,
    loads: Mapping[str, Load],
    canary: Collection[str],
    *,
    sampled: float,
    now: float,
    pace: Pace = Pace(),  # noqa: B008 - a frozen value
    lag: Lag = AT_ONCE,
    still: float = 0.0,
) -> LoadSeen:
    """What breakers and the machine need of the load; `sampled` is the part of stable's pods that is read.

    Within three intervals of `pace` one arm may be a reading or two ahead of the other, so a silence
    that is shorter is none; nor is one that pages explain which stand `still` for as many seconds, as a page
    does that is worked out every now and then. `canary` are its ready pods.
    """
    step, last, least = loads.get("step"), loads.get("weight"), max(pace.stale, _unsilent(still, pace))
    if step is None or last is None:
        return LoadSeen()
    hushes = {pod: last.pods[pod] for pod in canary if pod in last.pods}
    unheard = tuple(sorted(pod for pod, hush in hushes.items() if now - hush.until > pace.stale))
    nobody = bool(unheard) and len(unheard) == len(hushes)
    newest = max((hush.until for hush in hushes.values()), default=now)
    return LoadSeen(
        step_canary_requests=step.canary,
        silence=round(last.hush.n / sampled),
        silent_for=_silent_for(last.hush, least),
        follows_weight=bool(unheard)
        or last.seconds - lag.most < max(SETTLED, pace.stale)
        or follows(run.weight, stable=last.shared[0], canary=last.shared[1], sampled=sampled),
        quiet=tuple(_quiet(hushes, unheard, sampled, least)),
        uneven=_uneven(last, canary, least),
        unheard=unheard,
        unheard_for=timedelta(seconds=now - newest if nobody else 0),
        missed=round(min(hush.missed for hush in hushes.values()) / sampled) if nobody else 0,
    )


def _unsilent(still: float, pace: Pace) -> float:
    """Seconds without a request that are no silence yet, since the page may be older."""
    return 0.0 if still <= pace.moment else min(still + pace.moment, STILL)


def _silent_for(hush: Hush, least: float) -> timedelta:
    silent = hush.until - hush.since
    return timedelta(seconds=silent if silent >= least else 0)


def _quiet(
    hushes: Mapping[str, Hush], unheard: Collection[str], sampled: float, least: float
) -> Generator[Quiet, None, None]:
    """Canary pods whose own pages say that they completed nothing."""
    for pod in sorted(hushes.keys() - set(unheard)):
        if hushes[pod].n and (silent := _silent_for(hushes[pod], least)):
            yield Quiet(pod, round(hushes[pod].n / sampled), silent)


def _uneven(load: Load, canary: Collection[str], least: float) -> bool:
    """Whether a pod of stable's was left out as well: then a quiet pod says nothing of the canary."""
    stable = [hush for pod, hush in load.pods.items() if pod not in canary]
    return any(hush.n / len(stable) >= SILENT_AFTER_DUE and _silent_for(hush, least) for hush in stable)


def overdue(gathered: Gathered, policy: Policy, *, at: float, pace: Pace, queried: Pace) -> tuple[str, ...]:
    """Required checks that have not compared pods of both arms lately: `at` in seconds since 1970."""
    names, last = [one.name for one in policy.checks if one.required], gathered.compared
    fresh = {name: (queried if name in policy.queried else pace).fresh for name in names}
    return tuple(name for name in names if at - last.get(name, NEVER) > fresh[name])


def follows(weight: int, *, stable: int, canary: int, sampled: float) -> bool:
    """Whether the canary's share of the counted requests can still be its weight, within a factor of 2.

    Guarantee: False for a share within the factor in at most 1 of 1000 runs, however often it is asked.
    Reference: Wasserman, Ramdas, Balakrishnan 2020, universal inference: the Jeffreys mixture over all
    shares, divided by the largest likelihood within the factor, is an e-process.
    """
    n = stable + canary
    odds = weight / ((100 - weight) * sampled)
    low, high = (o / (1 + o) for o in (odds / 2, odds * 2))
    share = min(max(canary / n if n else low, low), high)
    mixture = lgamma(canary + 0.5) + lgamma(stable + 0.5) - lgamma(n + 1) - log(pi)
    return mixture - canary * log(share) - stable * log1p(-share) < FOLLOW_LOG_E


def _about(gathered: Gathered, seen: Seen, *, at: float) -> Gathered:
    """Evidence on anything but errors begins anew when the canary's ready pods changed, or many of stable's.

    Errors go on: their test compares rates within a tick, whoever served it, and a pod that drops
    out because it fails must not take the proof of it along. But nobody is left who could confirm it, so
    what the others do is held among themselves.
    """
    pods = (_ready(seen.stable.pods), _ready(seen.canary.pods))
    if pods[1] == gathered.pods[1] and not _many_others(*map(set, (gathered.pods[0], pods[0]))):
        return gathered
    if gathered.step is None or gathered.pods == ((), ()):
        return replace(gathered, pods=pods)
    nodes = {pod.node or pod.name for pod in seen.canary.pods}  # ready or not: those that flap are there
    evidence = tuple(
        ev.without_nodes(one, but=nodes) if one.spec.kind is CheckKind.ERROR_RATE else ev.restart(one, at=at)
        for one in gathered.evidence
    )
    return replace(gathered, pods=pods, evidence=evidence)


def _many_others(before: AbstractSet[str], now: AbstractSet[str]) -> bool:
    """Whether so many pods came or went since evidence began that it is about others.

    Where stable is scaled by one of twenty now and then, a healthy canary would never come to a Pass.
    """
    return len(before ^ now) > FEW_OTHERS * max(len(before), len(now))


def _ready(pods: Iterable[Any]) -> tuple[str, ...]:
    return tuple(sorted(pod.name for pod in pods if pod.ready))


def saved_at(gathered: Gathered, *, otherwise: float) -> float:
    """When the checkpoint was made, seconds since 1970; in older ones only what was counted has a time."""
    return newest(gathered, otherwise=otherwise) if gathered.saved is None else gathered.saved


def moved(gathered: Gathered, by: float) -> Gathered:
    """The same so many seconds later, as somebody whose clock says another time has it."""
    evidence = tuple(ev.moved(one, by) for one in gathered.evidence)
    return replace(gathered, evidence=evidence, cursor=cursors.moved(gathered.cursor, by))


def save(gathered: Gathered) -> str:
    """The body of a checkpoint."""
    body = {
        "evidence": ev.save_all(gathered.evidence),
        "cursor": cursors.save(gathered.cursor),
        "step": gathered.step,
        "pods": gathered.pods,
        "known": round(gathered.known, 1),
        "saved": gathered.saved,
        "replayed": shadow.saved(gathered.replayed),
        "worst": shadow.saved_worst(gathered.replayed),
    }
    return json.dumps(body, separators=(",", ":"), allow_nan=False)


def load(plan: Plan, body: str | None) -> Gathered:
    """What a checkpoint's body holds; begun anew where there is none or it cannot be read."""
    fresh = begin(plan.policy)
    if body is None:
        return fresh
    try:
        saved = kept.read(body)
        cursor = cursors.load(saved["cursor"])
        return Gathered(
            evidence=ev.load_all(plan.policy.checks, saved["evidence"], **terms(plan.policy)),
            cursor=Cursor() if cursor is None else cursor,
            step=saved["step"],
            pods=(tuple(saved["pods"][0]), tuple(saved["pods"][1])),
            replayed=shadow.loaded(saved.get("replayed"), saved.get("worst")),
            known=_sane(float(saved.get("known", 0.0))),  # older versions did not say
            saved=_instant(saved.get("saved")),  # nor that
        )
    except (ValueError, KeyError, TypeError, IndexError, OverflowError):
        return fresh


def _instant(said: Any) -> float | None:
    """Seconds since 1970 at which something can have been saved; somebody's edit is none."""
    return said if isinstance(said, float) and 0 < said < LATEST else None


def _sane(known: float) -> float:
    """Seconds that a stable can have been read for; somebody's edit is none."""
    return known if 0 <= known <= LONGEST.total_seconds() else 0.0
