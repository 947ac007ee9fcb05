"""What `foresight` has worked out, for people: what becomes of canaries, when, and what is not seen."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

import numpy as np

from analysis.evidence import CheckKind
from analysis.judge import pass_notes
from controller.explain import duration
from controller.foresight import FAILING, LONGER, OF, SPREAD, Foreseen, longest
from controller.gather import WARM_AFTER_REQUESTS
from controller.model import OnDoubt, Policy
from controller.sizing import held_before

SLOWEST_PASS = 2.5  # times what is worked out: of simulated runs nine in ten passed within
WIDTH = 100  # of a terminal


def told(
    policy: Policy,
    found: Sequence[Foreseen],
    *,
    stable_pods: int,
    canary_pods: int,
    longer: Foreseen | None = None,
) -> list[str]:
    """What becomes of canaries, when, how sure that is, and what is not seen; `longer`: of `patient`."""
    pods = f"{stable_pods} stable and {canary_pods} canary pod{'' if canary_pods == 1 else 's'}"
    return [
        "What becomes of a bad canary, from its first request on; about half of such are found by then",
        *_table(policy, found),
        *_folded(_of_shares(policy)),
        *_folded(_slips(policy, found)),
        "",
        "What becomes of a canary like stable",
        *_folded(
            _like_stable(
                policy, found[0], longer, held_before(policy, stable=stable_pods, canary=canary_pods)
            )
        ),
        "",
        "What these times are",
        *_points(_premises(pods, alone=canary_pods == 1)),
        *_points(queried(policy)),
        "",
        "Not seen",
        *_points(_unseen(policy, canary_pods)),
    ]


def _folded(sentences: Iterable[str]) -> list[str]:
    """The sentences as one paragraph."""
    return textwrap.wrap(" ".join(sentences), WIDTH)


def _points(lines: Iterable[str]) -> list[str]:
    """Each line as a point, folded where a terminal would fold it."""
    return [
        folded
        for line in lines
        for folded in textwrap.wrap(line, WIDTH, initial_indent="- ", subsequent_indent="  ")
    ]


def _premises(pods: str, *, alone: bool) -> Iterator[str]:
    yield (
        f"for {pods} (--stable-pods, --canary-pods), a fault that is there from the first request, and"
        f" nothing else wrong; latency lognormal with a p95 of {SPREAD:g} times the median, in buckets four"
        f" to a factor of 1.2; {FAILING * 100:g} % of stable's requests failing; predictions in 50 bins;"
        f" {OF}, a trial each request"
    )
    factor = 1.5 if alone else 1.3  # without its best few seconds chance costs more than the mean shows
    yield (
        "worked out from the counts to be expected: medians of simulated runs are within a factor of"
        f" {factor} of them, nine runs in ten within 2.5 times as long; of a Pass the median is up to 1.6"
        f" times as long, nine in ten are within {SLOWEST_PASS:g}; noisy pods may triple all of it"
    )


def queried(policy: Policy) -> Iterator[str]:
    """What is not read each second, as all is taken to be."""
    names = [spec.name for spec in policy.checks if spec.name in policy.queried]
    if names:
        yield (
            f"as if pods' pages were read each second; a Prometheus, as {', '.join(names)}"
            f" {'asks' if len(names) == 1 else 'ask'}, shows a fault about one of its scrape intervals later"
            " (SERIN_PROMETHEUS_INTERVAL, 15 s if nothing else is said), seldom two"
        )


def _table(policy: Policy, found: Sequence[Foreseen]) -> Iterator[str]:
    of_effects = [(one.effect, _when(policy, one)) for one in found if one.effect]
    width = max((len(spec.name) for spec in policy.checks), default=0)
    words = max((len(effect.words) for effect, _ in of_effects), default=0)
    for spec in policy.checks:
        lines = [(effect.words, when) for effect, when in of_effects if effect.check == spec.name]
        for effect, when in lines or [("", "not worked out: nothing that is usual lies beyond its margin")]:
            yield f"{spec.name:{width}}  {effect:{words}}  {when}"


def _of_shares(policy: Policy) -> Iterator[str]:
    for name in (spec.name for spec in policy.checks if spec.kind is CheckKind.PROPORTION):
        yield f"{name} is worked out for {OF}; one of 1 % takes about ten times as long. Say yours in a story"
        yield "(clickRate), and type: serin simulate STORY.yaml --runs 64 (docs/metrics.md: by share)."


def _when(policy: Policy, one: Foreseen) -> str:
    at, past = f"at {one.weight} %", ", ".join(f"{each} %" for each in policy.steps[: len(one.passed)])
    on_the_way = f"after it passed {past}" if past else "before any step was passed"
    if np.isfinite(one.seen):
        held = _held_from(policy, one)
        before = f", held from {_about(held)} on" if one.seen > held else ""
        return f"rolled back after {_about(one.seen)} {at}, {on_the_way}{before}"
    if np.isfinite(one.promoted):
        return f"NOT SEEN: promoted after {_about(one.promoted)}"
    if np.isfinite(one.given_up):
        return f"not seen: rolled back undecided after {_about(one.given_up)} {at}"
    return f"held {at}: neither found nor passed within {_about(longest(policy))}"


def _held_from(policy: Policy, one: Foreseen) -> float:
    """When its last step's time is up, where it is held then; infinity where it is not."""
    began = one.passed[-1] if one.passed else 0.0
    return began + policy.step_timeout.total_seconds() if policy.on_inconclusive is OnDoubt.HOLD else np.inf


def _slips(policy: Policy, found: Sequence[Foreseen]) -> Iterator[str]:
    """Whether a bad canary gets through, as far as it was worked out, and what is promised of all others."""
    bad = [(f"{one.effect.check} {one.effect.words}", one) for one in found if one.effect]
    through = [name for name, one in bad if np.isfinite(one.promoted)]
    kept = [name for name, one in bad if np.isinf(min(one.seen, one.promoted, one.given_up))]
    proceeds = policy.on_inconclusive is OnDoubt.PROCEED
    if through:
        why = "onInconclusive: Proceed goes on undecided" if proceeds else "no required check looks at it"
        yield f"Promoted before it is seen: {', '.join(through)} ({why})."
    elif bad:
        yield "Worked out so, none of these is promoted before it is seen."
    if kept:
        yield (
            f"Not found in {_about(longest(policy))}, and not promoted either, but by a person:"
            f" {', '.join(kept)}."
        )
    if any(np.isfinite(one.seen) and one.seen > _held_from(policy, one) for _, one in bad):
        yield "Held from stepTimeout on: alerts for Held are sent, the weight stays, and the checks go on."
    until = ", or at stepTimeout without proof" if proceeds else "; until then its weight stays"
    yield (
        f"A step is passed once every required check has proved what that takes (above){until}. So what takes"
        f" long to find waits, while a canary like stable goes on. By chance a canary that is worse than that"
        f" passes all the same with probability at most beta ({policy.beta * 100:g} %)."
    )


def _like_stable(
    policy: Policy, one: Foreseen, longer: Foreseen | None, crowded: tuple[int, str] | None
) -> Iterator[str]:
    """When a canary that is like stable gets on, and what to change if it does not."""
    proceeds = policy.on_inconclusive is OnDoubt.PROCEED
    line = f"It passes{' (proven, or at stepTimeout)' if proceeds else ''} "
    line += ", ".join(_passes(policy, one, before=crowded[0] if crowded else 100)) or "no step"
    if crowded and len(one.passed) >= policy.steps.index(crowded[0]):
        yield f"{line}, and is held then (CanaryUnderProvisioned): {crowded[1]}."
        return
    if np.isfinite(one.promoted):
        yield f"{line}, and is promoted."
        return
    if np.isfinite(one.given_up):
        yield f"{line}, and is rolled back undecided after {_about(one.given_up)}."
    else:
        count, each = len(policy.steps), duration(policy.step_timeout)
        times = f"all steps, {count} times" if count > 1 else "the step,"
        yield f"{line}; it is still held at {one.weight} % after {_about(longest(policy))}. That is as far"
        yield f"as this looks: stepTimeout of {times} {each}."
    yield from _remedy(policy, longer)


def _remedy(policy: Policy, longer: Foreseen | None) -> Iterator[str]:
    """What to change so that a canary like stable is promoted in time."""
    others = f"larger steps than {policy.steps[0]} %, fewer minRequests, wider margins or more traffic"
    if longer is None:
        most = _about(LONGER[-1] * policy.step_timeout.total_seconds())
        yield f"Not even a stepTimeout of {most} is enough; it takes {others}."
        return
    slowest = max(np.diff([0.0, *longer.passed]))
    hours = int(np.ceil(SLOWEST_PASS * slowest / 3600))
    enough = f"{hours}h" if hours > 1 else f"{int(np.ceil(SLOWEST_PASS * slowest / 60))}m"
    passes = ", ".join(
        f"{weight} % after {_about(at)}" for weight, at in zip(policy.steps, longer.passed, strict=True)
    )
    wait = "Held until then" if policy.on_inconclusive is OnDoubt.HOLD else "With longer steps"
    yield f"{wait} it would pass {passes}, and be promoted. So that it need not be held, say stepTimeout:"
    yield f"{enough}; to be quicker, {others}."


def _passes(policy: Policy, one: Foreseen, *, before: int) -> Iterator[str]:
    timeout, began = policy.step_timeout.total_seconds(), 0.0
    for weight, at in zip((each for each in policy.steps if each < before), one.passed, strict=False):
        late = at - began > timeout and policy.on_inconclusive is OnDoubt.HOLD
        yield f"{weight} % after {_about(at)}{' (held from stepTimeout on)' if late else ''}"
        began = at


# What counts nothing while pods warm up.
WARM = {CheckKind.LATENCY: "latency", CheckKind.PREDICTIONS: "predictions", CheckKind.PROPORTION: "shares"}


def _unseen(policy: Policy, canary_pods: int) -> Iterator[str]:
    yield "what the margins let pass, what no check looks at, and what begins after the last step"
    cold = [word for kind, word in WARM.items() if any(spec.kind is kind for spec in policy.checks)]
    if policy.warm_up and cold:
        yield (
            f"{' and '.join(cold)} in the first {duration(policy.warm_up)} (warmUp), or while each canary"
            f" pod serves its first {WARM_AFTER_REQUESTS} requests, whichever is over first"
        )
    if any(map(pass_notes, policy.checks)):
        yield (
            "in time, what is worse than its margin and within what a step takes to be passed (above, under"
            " Let pass): it may be promoted before it is found"
        )
    if WARM[CheckKind.LATENCY] in cold:
        yield (
            "latency within a bucket: with bounds a factor of 2 apart, an increase below x2 may not show;"
            " --page says what yours can prove"
        )
    if canary_pods > 1:
        yield "what only one of the canary's pods does is seen late or not at all: it is put down to its node"
        return
    yield f"all bursts that together last up to {duration(policy.burst_tolerance)} (burstTolerance)"
    yield (
        "WARNING: one canary pod cannot be told from its node. Longer bursts of that node roll it back;"
        " two pods on two nodes are enough"
    )


def _about(seconds: float) -> str:
    """A duration, no finer than the figure is."""
    unit = 1 if seconds < 100 else 10 if seconds < 1000 else 60
    return duration(timedelta(seconds=max(1, round(seconds / unit)) * unit))
