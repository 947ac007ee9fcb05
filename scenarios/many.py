"""`serin simulate`: one story, many times, as fast as numpy counts; what came of it in figures.

A story's traffic becomes a `Traffic`; what only a cluster can show (processes that die, pages that hang,
edits) is refused, since a simulation that left it out would answer another question.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from analysis.evidence import CheckKind
from analysis.peers import RULES, Rule
from analysis.proportions import Array
from controller import planning, policies
from controller.foretold import queried
from controller.model import Policy, Sizing
from controller.sizing import PARITY_LIMIT, needed, parity, replicas_for
from scenarios.distributions import Latency
from scenarios.fields import BadStory
from scenarios.page import SECONDS
from scenarios.plot import Arm, ArmFault, Outcome, Pods, Story
from scenarios.rivals import compared
from scenarios.simulate import UNDECIDED, UNHEARD, Ended, Runs, simulated
from scenarios.streams import Change, Spells, Traffic, Wander

Json = Any
OUTCOMES = {
    Ended.HELD: Outcome.HELD,
    Ended.PROMOTED: Outcome.PROMOTED,
    Ended.ROLLED_BACK: Outcome.ROLLED_BACK,
}
FAR_OUT = 1e-5  # of requests are slower or faster than the buckets that are simulated


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What came of a story's runs; delays in seconds from the fault, samples in canary requests."""

    runs: int
    onset: float
    found: Runs
    checks: tuple[str, ...]
    peers: Mapping[str, Array]  # when each would have rolled back, by the name of its rule

    @property
    def back_at(self) -> Array:
        """When each run was rolled back; infinity where it was not."""
        return np.asarray(np.where(self.found.ended == Ended.ROLLED_BACK, self.found.at, np.inf))

    def falsely(self, back_at: Array) -> Mapping[str, float]:
        """How many were rolled back before anything was wrong: the rate and its exact 95 % bounds."""
        count = int((np.isfinite(back_at) & (back_at <= self.onset)).sum())
        low, high = interval(count, self.runs)
        return {"rate": count / self.runs, "low": low, "high": high}

    def delay(self, back_at: Array) -> Mapping[str, float | int | None] | None:
        """Seconds from the fault to the rollback, of runs that were going on when it began."""
        if not np.isfinite(self.onset):
            return None
        ended = np.where(self.found.ended == Ended.PROMOTED, self.found.at, np.inf)
        return _summary((back_at - self.onset)[(back_at > self.onset) & (ended > self.onset)])

    def as_json(self) -> Json:
        """As `serin simulate --json` writes it."""
        return {
            "runs": self.runs,
            "falseRollbackRate": self.falsely(self.back_at),
            "outcomes": {str(OUTCOMES[how]): int((self.found.ended == how).sum()) for how in Ended},
            "checks": {
                name: int((self.found.check == place).sum()) for place, name in enumerate(self.checks)
            },
            "delay": self.delay(self.back_at),
            "samples": _summary(self.found.requests[self.found.ended == Ended.ROLLED_BACK]),
            "peers": {
                name: {"falseRollbackRate": self.falsely(at), "delay": self.delay(at)}
                for name, at in self.peers.items()
            },
        }


def played(story: Story, *, runs: int, seed: int, told: Callable[[int], None] = lambda _: None) -> Figures:
    """So many runs of the story; raises `BadStory` where it needs what cannot be simulated."""
    policy = _policy(story)
    traffic = traffic_of(story, policy)
    duration = story.duration.total_seconds()
    found = simulated(traffic, policy, runs=runs, seed=seed, duration=duration, told=told)
    begin = [fault.at.total_seconds() for fault in story.arm_faults if fault.arm is Arm.CANARY]
    onset = max(begin) if begin else 0.0 if _differs(story) else np.inf
    runs = len(found.ended)  # fewer, if somebody has had enough
    others = compared(traffic, policy, runs=runs, seed=seed, duration=duration)
    return Figures(
        runs=runs,
        onset=onset,
        found=found,
        checks=tuple(check.name for check in policy.checks),
        peers={str(rule): at for rule, at in others.items()},
    )


def said(story: Story, figures: Figures) -> Iterator[str]:
    """The figures for people: Serin's line, and one for each of the peers."""
    ended = ", ".join(f"{count} {name}" for name, count in figures.as_json()["outcomes"].items() if count)
    yield f"{story.name}: {figures.runs} run{'' if figures.runs == 1 else 's'}: {ended}"
    gone = figures.found.ended == Ended.ROLLED_BACK
    if undecided := int((gone & (figures.found.check == UNDECIDED)).sum()):
        yield f"{undecided} of them undecided at stepTimeout (onInconclusive: RollBack), by no check"
    if unheard := int((gone & (figures.found.check == UNHEARD)).sum()):
        yield f"{unheard} of them without data at noDataTimeout (onNoData: RollBack), by no check"
    faulty = bool(np.isfinite(figures.onset))
    wrong = (
        f"rolled back before the fault at {figures.onset:g} s" if faulty else "rolled back without a fault"
    )
    rows: list[tuple[str, ...]] = [("", wrong, "95 % interval", "delay: median", "p90", "missed")]
    rows += [_row("Serin", figures, figures.back_at)]
    rows += [_row(str(rule), figures, figures.peers[str(rule)], rule) for rule in RULES]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    yield from ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    if faulty:
        yield LEGEND.format(onset=figures.onset)
    if faulty and not _to_be_found(story):
        wanted = " or ".join(dict.fromkeys(str(ending.outcome) for ending in story.expect))
        yield f"the story expects {wanted}: here a rollback is a false alarm, and what is missed is right."
    yield from (f"these times are {line}" for line in queried(_policy(story)))
    if gates := story.policy.get("gates"):
        asked = "its gate is" if len(gates) == 1 else f"its {len(gates)} gates are"
        yield f"{asked} not asked: nobody is there to answer, and every step is raised when its checks pass."


LEGEND = """before the fault: of all runs. Of a rule that could not have decided by then stands when it first
does: what it does to a healthy canary is seen without faults, or with a later one.
delay: from the fault at {onset:g} s to the rollback, of the runs that were going on then; half of them took
no longer than the median, nine in ten no longer than p90. missed: runs that were not rolled back by the
story's end; never: so many were missed that the median, or p90, is among them."""


def _row(name: str, figures: Figures, back_at: Array, rule: Rule | None = None) -> tuple[str, ...]:
    false, delay = figures.falsely(back_at), figures.delay(back_at)
    digits = max(1, len(str(figures.runs - 1)) - 2)  # one run of all shows: a tenth of a percent of 1 000
    share = f"{100 * false['rate']:.{digits}f} %"
    bounds = f"{100 * false['low']:.{digits}f} to {100 * false['high']:.{digits}f} %"
    if rule is not None and np.isfinite(figures.onset) and rule.earliest > figures.onset:
        share, bounds = f"first decides at {rule.earliest:g} s", "-"
    if delay is None or (delay["median"] is None and not delay["missed"]):
        return name, share, bounds, "-", "-", "-"
    late = (f"{delay[each]:.0f} s" if delay[each] is not None else "never" for each in ("median", "p90"))
    return name, share, bounds, *late, str(delay["missed"])


def interval(count: int, runs: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a probability (Clopper, Pearson 1934)."""
    if not runs:
        return 0.0, 1.0
    found = binomtest(count, runs).proportion_ci(level)
    return float(found.low), float(found.high)


def traffic_of(story: Story, policy: Policy) -> Traffic:
    """The story's traffic; raises `BadStory` where more than traffic happens in it."""
    for complaint in _beyond(story):
        raise BadStory(f"{story.file}: {complaint}; `serin scenario run` plays it")
    stable, canary, noise = story.stable, story.canary, story.noise
    pods = _pods(story, policy)
    return Traffic(
        rps=story.requests_per_second,
        stable_pods=stable.replicas,
        canary_pods=pods,
        latency=stable.latency,
        canary_latency=None if canary.latency == stable.latency else canary.latency,
        errors=(stable.error_rate, canary.error_rate),
        predictions=stable.predictions,
        canary_predictions=None if canary.predictions == stable.predictions else canary.predictions,
        clicks=_clicks(story, policy),
        common=Wander(sd=noise.common.sd, tau=noise.common.tau.total_seconds()),
        diurnal=noise.common.diurnal,
        pod=Wander(sd=noise.pod.sd, tau=noise.pod.tau.total_seconds()),
        static=noise.pod.static,
        spells=Spells(
            per_second=noise.bursts.per_second,
            factor=noise.bursts.factor,
            lasting=noise.bursts.lasting.total_seconds(),
        ),
        changes=tuple(map(_change, story.arm_faults)),
        history=story.history.total_seconds(),
        le=_seen(story),
    )


def _clicks(story: Story, policy: Policy) -> tuple[float, float] | None:
    """Both arms' click rates; raises `BadStory` where the policy asks for what nobody counts."""
    stable, canary = story.stable.click_rate, story.canary.click_rate
    if stable is not None and canary is not None:
        return stable, canary
    asking = [check.name for check in policy.checks if check.kind is CheckKind.PROPORTION]
    if asking:
        raise BadStory(
            f"{story.file}: spec.stable.clickRate: is missing; check {asking[0]} counts clicks, say 40%"
        )
    return None


def _differs(story: Story) -> bool:
    """Whether the canary is bad from its first request on: other than stable, and to be rolled back."""
    same = replace(story.canary, replicas=story.stable.replicas) == story.stable
    return not same and _to_be_found(story)


def _to_be_found(story: Story) -> bool:
    """Whether a rollback is what the story expects."""
    return any(ending.outcome is Outcome.ROLLED_BACK for ending in story.expect)


def _policy(story: Story) -> Policy:
    """The story's policy, completed; raises `BadStory`."""
    try:
        return policies.policy(planning.checked(dict(story.policy), file=Path(story.file)))
    except planning.BadPolicy as bad:
        raise BadStory(str(bad).replace(": spec.", ": spec.policy.", 1)) from bad


def _pods(story: Story, policy: Policy) -> int:
    """The canary's pods, as many as its last step needs; raises `BadStory` where these are too few."""
    stable, pods, last = story.stable.replicas, story.canary.replicas, policy.steps[-1]
    if policy.canary_replicas is Sizing.MATCH:
        pods = max(pods, replicas_for(last, stable))
    if parity(last, stable=stable, canary=pods) > PARITY_LIMIT:
        raise BadStory(
            f"{story.file}: spec.canary.replicas: {pods} pod{'' if pods == 1 else 's'} would be held back"
            f" as too few for {last} %; give it {needed(last, stable)}"
        )
    return pods


def _beyond(story: Story) -> Iterator[str]:
    """What happens in the story that is not traffic."""
    for place, fault in enumerate(story.faults):
        where = f"spec.faults[{place}]"
        if not isinstance(fault, ArmFault):
            yield f"{where}: {fault.target} {fault.kind} is nothing a simulation of traffic can show"
            continue
        odd = {"crash": fault.crash, "hang": fault.hang, "blackhole": fault.blackhole}
        for name in (name for name, on in odd.items() if on):
            yield f"{where}.{name}: is nothing a simulation of traffic can show"
        if fault.pods is Pods.NEW:
            yield f"{where}.pods: all pods are there from the beginning of a simulation"
    if story.shadowed:
        yield "spec.policy.checks: a Shadow check replays requests, of which a simulation of traffic has none"
    if story.edits:
        yield "spec.edits: nobody edits objects in a simulation"


def _change(fault: ArmFault) -> Change:
    cold = fault.cold_start
    return Change(
        at=fault.at.total_seconds(),
        canary=fault.arm is Arm.CANARY,
        lasting=float("inf") if fault.lasting is None else fault.lasting.total_seconds(),
        pods=1 if fault.pods is Pods.ONE else None,
        factor=fault.latency_factor * (cold.factor if cold else 1.0),
        decay=cold.decay.total_seconds() if cold else float("inf"),
        add=fault.latency_add.total_seconds(),
        error_rate=fault.error_rate,
        predictions=fault.predictions,
        click_rate=fault.click_rate,
    )


def _seen(story: Story) -> tuple[float, ...]:
    """The model servers' buckets, less those in which nothing can be."""
    bounds, changes = np.array(SECONDS), [_change(fault) for fault in story.arm_faults]
    slower = max([2.0, *(change.factor for change in changes)])
    faster = min([1.0, *(change.factor for change in changes)])
    later = np.maximum(bounds - sum(change.add for change in changes), 0.0)
    arms: Sequence[Latency] = (story.stable.latency, story.canary.latency)
    above = np.min([one.cdf(later / (4 * slower)) for one in arms], axis=0) < 1 - FAR_OUT
    below = np.max([one.cdf(bounds * 4 / faster) for one in arms], axis=0) > FAR_OUT
    return tuple(bounds[above & below].tolist()) or SECONDS


def _summary(values: Array) -> Mapping[str, float | int | None]:
    """Median and p90 over all, the mean over those that are finite; None where there is none."""
    if not len(values):
        return {"median": None, "p90": None, "mean": None, "missed": 0}
    median, late = np.quantile(values, [0.5, 0.9], method="higher")
    finite = values[np.isfinite(values)]
    mean = float(finite.mean()) if len(finite) else None
    return {
        "median": float(median) if np.isfinite(median) else None,
        "p90": float(late) if np.isfinite(late) else None,
        "mean": mean,
        "missed": int(len(values) - len(finite)),
    }
