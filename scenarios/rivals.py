"""What the peers' rules would have done with the same requests.

They watch draws of the same world as the evidence does, each check with its own margin. Since they decide
nothing here, every run goes on to the end: each step lasts as long as it has to, the last one the rest; so
the draws are not the same from where the evidence has decided something.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from analysis import peers
from analysis.evidence import CheckKind, CheckSpec
from analysis.peers import Rule, Watched
from analysis.proportions import Array
from controller.model import Policy
from scenarios.simulate import SIDE_BY_SIDE, cells_of, seed_of
from scenarios.streams import Counted, Traffic, World


def compared(
    traffic: Traffic,
    policy: Policy,
    *,
    runs: int,
    seed: int,
    duration: float,
    rules: Sequence[Rule] = peers.RULES,
) -> Mapping[Rule, Array]:
    """When each rule would have rolled back (runs,): seconds since the canary has traffic; inf: never."""
    parts = []
    for first in range(0, runs, SIDE_BY_SIDE):
        world = World.begun(traffic, runs=min(SIDE_BY_SIDE, runs - first), seed=seed_of(seed, first))
        parts.append(_batch(world, policy, duration, rules))
    return {rule: np.concatenate([part[rule] for part in parts]) for rule in rules}


def weight_at(policy: Policy, rps: float, seconds: float) -> int:
    """The weight then, were every step passed as soon as it may; without a request none is."""
    if not rps:
        return policy.steps[0]
    for weight in policy.steps[:-1]:
        seconds -= max(policy.min_step.total_seconds(), 100 * policy.min_requests / (rps * weight))
        if seconds < 0:
            return weight
    return policy.steps[-1]


def _batch(world: World, policy: Policy, duration: float, rules: Sequence[Rule]) -> Mapping[Rule, Array]:
    traffic, count = world.traffic, world.runs
    for place in range(round(traffic.history / traffic.tick)):
        world.counted(place * traffic.tick - traffic.history, np.zeros(count))
    watched = {rule: [_begun(rule, check, traffic, count) for check in policy.checks] for rule in rules}
    for place in range(round(duration / traffic.tick)):
        start = place * traffic.tick
        weight = weight_at(policy, traffic.rps, start) / 100
        counted = world.counted(start, np.full(count, weight))
        watched = {rule: [_seen(one, counted, traffic) for one in each] for rule, each in watched.items()}
    return {rule: np.min([one.failed_at for one in each], axis=0) for rule, each in watched.items()}


def _begun(rule: Rule, check: CheckSpec, traffic: Traffic, count: int) -> Watched:
    le = {CheckKind.LATENCY: traffic.le, CheckKind.PREDICTIONS: traffic.bins}.get(check.kind, ())
    return peers.begin(rule, check, le=le, several=(count,))


def _seen(watched: Watched, counted: Counted, traffic: Traffic) -> Watched:
    cells = cells_of(counted, watched.spec.kind)
    stable, canary = cells[:, : traffic.stable_pods].sum(axis=1), cells[:, traffic.stable_pods :].sum(axis=1)
    return peers.seen(watched, stable, canary, end=counted.end)
