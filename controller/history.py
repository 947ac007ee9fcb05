"""Stable before its canary comes: read every ten seconds, kept in memory, given to the run that begins.

From the moment a Deployment asks for canaries its stable's pods are looked at, whether or not there is a
run, so that a run knows from its canary's first request how quick stable is and how much its pods differ.
By itself it sees the few seconds that the canary's pods take to start, and rare bursts want many minutes.

It is history of stable alone, of one template of it, and no evidence about any canary. It is optional: it
is never saved, no run waits for it, and whatever goes wrong with it costs nothing else. A new leader begins
anew; `explain` says how long stable was known.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from controller import gather, planning, policies, ticks, trigger
from controller.cluster import Cluster, Key
from controller.gather import Gathered
from controller.model import ArmSeen, Page, Plan, Policy
from controller.ports import Json, MetricsSource
from controller.targets import MOST_STABLE, chosen
from controller.wire import Malformed

# The shortest window that `analysis.dispersion` measures noise over: one tick is one window.
EVERY = timedelta(seconds=10)
# Pods that are read, of all stables together: twenty pages a second, half of what one large run reads. What
# comes later has what is left, so that a fleet of annotated Deployments delays no run that goes on.
MOST = 200
_PACE = ticks.Pace(interval=EVERY)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of one Deployment's stable, and of what checks it was read for."""

    stable: str
    template: str
    policy: Policy
    gathered: Gathered
    due: float  # when the open tick ends, seconds since 1970


@dataclass(slots=True)
class Histories:
    """What is known of the stables of annotated Deployments. `metrics` reads their pages every `EVERY`.

    `clock` never goes back: a run's ticks would be older than what is known, and ignored.
    `queried` is the pace of what it asks a Prometheus for.
    """

    cluster: Cluster
    metrics: MetricsSource
    clock: Callable[[], datetime]
    queried: ticks.Pace
    _all: dict[Key, _Known] = field(default_factory=dict)
    _policies: dict[Key, tuple[Json, Policy | None]] = field(default_factory=dict)  # as written, and read
    # nobody is read for these, as of so many changes and of so many pods of others
    _unread: dict[Key, tuple[int, int]] = field(default_factory=dict)
    _reads: dict[Key, int] = field(default_factory=dict)  # how many pods, for each
    _read_now: int = 0  # of all of them

    async def turn(self, key: Key) -> float | None:
        """One more look at the Deployment's stable; seconds to the next, None once it asks for none."""
        try:
            return self._look(key)
        except Exception:  # whatever pages and policies hold: nothing else may suffer from it
            log.exception("history_lost", namespace=key[0], workload=key[1])
            self._forget(key)
            return EVERY.total_seconds()

    def begin(self, plan: Plan) -> Gathered:
        """What a run of this plan begins with: what is known of its stable, if it is of that template."""
        known = self._all.get((plan.namespace, plan.canary))
        if known is None or (known.stable, known.template) != (plan.stable, plan.stable_hash):
            return gather.begin(plan.policy)
        try:
            return gather.begin(plan.policy, _alike(known, plan.policy))
        except Exception:  # a run begins, whatever is known
            log.exception("history_lost", namespace=plan.namespace, workload=plan.canary)
            return gather.begin(plan.policy)

    def _look(self, key: Key) -> float | None:
        now = self.cluster.news(key[0]), self._read_now
        if self._unread.get(key) == now:
            return EVERY.total_seconds()
        self._unread.pop(key, None)
        notes = _notes(self.cluster.get("deployments", *key))
        if trigger.CANARY_OF not in notes:
            self._forget(key)
            return None
        name = notes[trigger.CANARY_OF]
        stable, policy = self.cluster.arm(key[0], name), self._policy(key, notes)
        if policy is None or not stable.exists:
            self._forget(key)
        elif stable.template_hash is not None:  # else its controller has yet to act on an edit
            return self._read(key, self._about(key, name, stable.template_hash, policy), stable)
        return EVERY.total_seconds()

    def _policy(self, key: Key, notes: dict[str, str]) -> Policy | None:
        """The policy of the next run; None where there can be none, which the Deployment's Event says."""
        said, known = trigger.policy_of(self.cluster, notes, key[0]), self._policies.get(key)
        if known is None or known[0] != said:
            known = self._policies[key] = said, _understood(said)
        return known[1]

    def _about(self, key: Key, stable: str, template: str, policy: Policy) -> _Known:
        """What is known of exactly that; of another stable nothing yet."""
        known = self._all.get(key)
        if known is None or (known.stable, known.template) != (stable, template):
            log.info("history_begins", namespace=key[0], workload=key[1], stable=stable, template=template)
            due = self.clock().timestamp() + EVERY.total_seconds()
            known = _Known(stable, template, policy, gather.begin(policy), due)
        if known.policy != policy:
            known = replace(known, policy=policy, gathered=gather.begin(policy, _alike(known, policy)))
        self._all[key] = known
        return known

    def _read(self, key: Key, known: _Known, stable: ArmSeen) -> float:
        """The seconds until the open tick ends; if that is now, it is learned from."""
        policy, now = known.policy, self.clock().timestamp()
        # while it is not rolled out, some of its pods are of another template
        ready = [pod for pod in stable.pods if pod.ready] if stable.rolled_out else []
        others = self._read_now - self._reads.get(key, 0)
        pods = chosen(ready, limit=min(MOST_STABLE, MOST - others))
        self._reads_so_many(key, len(pods))
        self.metrics.watch("/".join(key), pods, policy.checks, policy.pages)
        if not pods and not known.gathered.cursor.checks:  # there are too many, or none, and nobody was read
            self._all[key] = replace(known, due=now + EVERY.total_seconds())
            self._unread[key] = self.cluster.news(key[0]), self._read_now
            return EVERY.total_seconds()
        if now < known.due - 0.5:  # something near it has changed
            return known.due - now
        at = known.due if now < known.due + 1 else now  # all ticks are of one length, their turns are not
        nodes = {pod.name: pod.node for pod in pods}
        cursor, new, _ = ticks.advance(
            known.gathered.cursor,
            self.metrics.read("/".join(key)),
            stable=nodes,
            canary={},
            now=at,
            pace=_PACE,
            paces=dict.fromkeys(policy.queried, self.queried),
        )
        gathered = gather.learn(replace(known.gathered, cursor=cursor), new, nodes, at=at)
        due = at + EVERY.total_seconds()
        self._all[key] = replace(known, gathered=gathered, due=due)
        return due - now

    def _reads_so_many(self, key: Key, pods: int) -> None:
        self._read_now += pods - self._reads.get(key, 0)
        self._reads[key] = pods

    def _forget(self, key: Key) -> None:
        self._policies.pop(key, None)
        self._unread.pop(key, None)
        self._read_now -= self._reads.pop(key, 0)
        if self._all.pop(key, None) is not None:
            self.metrics.watch("/".join(key), [], [])


def _understood(said: Json | None) -> Policy | None:
    try:
        return None if said is None else policies.policy(said or planning.builtin())
    except Malformed:
        return None


def _notes(deployment: Json | None) -> dict[str, str]:
    """What the Deployment asks for; nothing if it is leaving."""
    there = deployment is not None and "deletionTimestamp" not in deployment["metadata"]
    return trigger.annotations(deployment) if there else {}


def _alike(known: _Known, policy: Policy) -> Gathered:
    """What is known, of those checks that `policy` reads from the same pages."""

    def page(of: Policy, check: str) -> Page | None:
        return of.pages.get(check, Page())

    evidence = (
        one
        for one in known.gathered.evidence
        if page(known.policy, one.spec.name) == page(policy, one.spec.name)
    )
    return replace(known.gathered, evidence=tuple(evidence))
