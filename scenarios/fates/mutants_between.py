"""Faults that undo what records 66 and 68 mended: others do something between two of our steps.

What has more than one guard loses all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from controller import cluster, gating, leaving, machine, neighbours, touching, workloads
from controller.model import PromotionMode, Stage
from scenarios.fates.swaps import Mutant, Swap

Json = Any


def believes_late_events() -> Sequence[Swap]:
    """What a watch tells late is taken for newer than what an answer told."""

    def changed(self: Any, kind: str, event: str, item: Json) -> Any:
        key = cluster._key(item)
        self._drop(kind, key) if event == "DELETED" else self._put(kind, item)
        return key

    return [(cluster.Cluster, "changed", changed)]


def keeps_approvals() -> Sequence[Swap]:
    """Of two approvals the second is kept for what comes next."""
    through, approved = gating.through, machine._approved

    def once(after: Any, run: Any) -> Any:
        return replace(after, approved=min(after.approved, run.approved + 1))

    def opened(run: Any, seen: Any) -> Any:
        after, shut = through(run, seen)
        return once(after, run), shut

    def one(run: Any, seen: Any, now: Any) -> Any:
        after, actions = approved(run, seen, now)
        return once(after, run), actions

    return [(gating, "through", opened), (machine, "_approved", one), *hears_early_approvals()]


def hears_early_approvals() -> Sequence[Swap]:
    """Who approves a hold that is over approves the next one."""
    return [(gating, "unasked", lambda run, _seen: run)]


def keeps_promoting() -> Sequence[Swap]:
    """A promotion that was taken back is made all the same."""
    whole = machine._uncopied

    def uncopied(run: Any, seen: Any, now: Any) -> Any:
        return whole(replace(run, by_hand=False), seen, now)

    return [(machine, "_uncopied", uncopied)]


def promotes_when_stopped() -> Sequence[Swap]:
    """A promotion by hand begins while the run is paused or frozen."""
    whole = machine._step

    def step(run: Any, seen: Any, now: Any) -> Any:
        if seen.commands.promote is not None:
            return machine._begin_promotion(run, now, "promoted by hand", by_hand=True)
        return whole(run, seen, now)

    return [(machine, "STAGES", {**machine.STAGES, Stage.STEPPING: step})]


def counts_weight_elsewhere() -> Sequence[Swap]:
    """The next run's weight speaks for the canary, wherever it steers."""
    return [(neighbours, "weight_at", lambda _place, run: (run.get("status") or {}).get("weight", 0))]


def fails_the_drained() -> Sequence[Swap]:
    """Pods that are taken while a promotion waits have failed."""
    whole = leaving._evicted

    def evicted(run: Any, seen: Any) -> bool:
        return run.stage is not Stage.PROMOTING and whole(run, seen)

    return [(leaving, "_evicted", evicted)]


def forgets_templates() -> Sequence[Swap]:
    """A template is another one when its first ReplicaSet is gone."""
    return [
        (cluster.Cluster, "called", lambda _self, _deployment: []),
        (cluster, "_planned", lambda _cluster, _meta: []),
    ]


def copies_upon_an_edit() -> Sequence[Swap]:
    """What a copy is made upon is compared with what is known afterwards, also by a run that has left."""
    whole = workloads.Workloads._read

    async def read(self: Any, plan: Any) -> Json:
        await self._kube.call("GET", cluster.path("deployments", plan.namespace, plan.stable))
        return await whole(self, plan)

    return [
        (workloads.Workloads, "_read", read),
        (touching, "uncopied", lambda _live: None),
        (cluster, "_its_own", lambda _deployment, _replica_set, _essence: True),
        (workloads, "alike", lambda _there, _before: True),
    ]


def forgets_annotations() -> Sequence[Swap]:
    """Stable is promoted when it has the spec alone."""
    return [(workloads, "_notes", lambda _template: {})]


def promotes_in_silence() -> Sequence[Swap]:
    """A promotion that has not passed asks nobody while nothing is known."""
    whole = machine._unpromoted

    def unpromoted(run: Any, seen: Any, now: Any) -> Any:
        handoff = run.plan.policy.promotion is PromotionMode.HANDOFF
        return whole(run if run.passed or handoff else replace(run, blind=True), seen, now)

    return [(machine, "_unpromoted", unpromoted)]


BETWEEN: Mapping[str, Mutant] = {
    one.__name__.replace("_", "-"): one
    for one in (
        believes_late_events,
        keeps_approvals,
        hears_early_approvals,
        keeps_promoting,
        promotes_when_stopped,
        counts_weight_elsewhere,
        fails_the_drained,
        forgets_templates,
        copies_upon_an_edit,
        forgets_annotations,
        promotes_in_silence,
    )
}
