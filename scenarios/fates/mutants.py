"""Faults that somebody could write into the controller. Each has to be caught, or promises do not bite."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from analysis.judge import Verdict, judge
from controller import (
    alerts,
    cluster,
    gates,
    gather,
    gating,
    istio,
    judging,
    lease,
    leaving,
    machine,
    reconcile,
    resource,
    runs,
    saving,
    shadow,
    trigger,
    weights,
    workloads,
    writing,
)
from controller import chores as after_the_end
from controller.model import Reason, SetWeight, Stage, Tell
from controller.ports import Behind
from scenarios.cluster.patches import clone, patched
from scenarios.fates.mutants_between import BETWEEN
from scenarios.fates.swaps import Mutant, Swap, without

Json = Any


async def _nothing(*_: Any, **__: Any) -> Any:
    return True


def acts_before_saving() -> Sequence[Swap]:
    """Weights are raised first and saved afterwards."""
    route, intended = reconcile.Reconciler._route, reconcile.Reconciler._intended

    async def first(self: Any, live: Any, run: Any, actions: Any) -> bool:
        for action in actions:
            if isinstance(action, SetWeight):
                await route(self, live, action.weight)
        return await intended(self, live, run, actions)

    return [(reconcile.Reconciler, "_intended", first)]


def saves_before_leaving() -> Sequence[Swap]:
    """Traffic is taken away only once that could be written down."""
    whole = reconcile.Reconciler._carry_out

    async def saved(self: Any, live: Any, run: Any, actions: Any) -> bool:
        leaves = any(isinstance(action, SetWeight) and action.weight == 0 for action in actions)
        if leaves and not await self.saving.saved(live, run, actions):
            return False
        return await whole(self, live, run, actions)

    return [(reconcile.Reconciler, "_carry_out", saved)]


def never_again() -> Sequence[Swap]:
    """A weight that could not be set is not sent again."""
    return [(machine, "repaired", lambda run, actions, _seen, _now: (run, actions))]


# As where a tool strips `managedFields`: nobody knows that a weight was taken, and looking is what is left.
STRIPPED: Swap = (writing, "ours", lambda _vs: False)


def repairs_at_once() -> Sequence[Swap]:
    """A new leader repairs a weight upwards before it has looked."""
    whole = weights.repaired
    return [
        STRIPPED,
        (
            machine,
            "repaired",
            lambda run, actions, seen, now: whole(run, actions, replace(seen, looked=True), now),
        ),
    ]


def goes_on_at_once() -> Sequence[Swap]:
    """A new leader raises, repairs and promotes before it has looked."""
    return [STRIPPED, *((where, "looked", lambda _run, _seen: True) for where in (machine, weights))]


def counts_anew() -> Sequence[Swap]:
    """A new leader begins to count where it stands."""
    load = gather.load

    def forgetting(plan: Any, body: str | None) -> Any:
        known = load(plan, body)
        fresh = gather.begin(plan.policy)
        return fresh if known.step is None else gather.begin_step(fresh, known.step, at=0.0)

    return [(gather, "load", forgetting)]


def silence_passes() -> Sequence[Swap]:
    """Where nothing is known, nothing is wrong."""

    def lenient(*given: Any, **how: Any) -> Any:
        found = judge(*given, **how)
        return replace(found, verdict=Verdict.PASS) if found.verdict is Verdict.NO_DATA else found

    return [(judging, "judge", lenient), *_hasty(requests=0)]


def _hasty(**least: float) -> Sequence[Swap]:
    """A step passes with less than its policy asks for."""

    def passes(run: Any, seen: Any, now: Any) -> bool:
        policy = run.plan.policy
        step = least.get("step", policy.min_step.total_seconds())
        enough = seen.load.step_canary_requests >= least.get("requests", policy.min_requests)
        long_enough = run.step_since is not None and (now - run.step_since).total_seconds() >= step
        return long_enough and enough and seen.judgement.verdict is Verdict.PASS

    return [(machine, "_passes", passes)]


def _unmanned() -> Sequence[Swap]:
    """Any epoch may write."""
    return [(runs, "epoch_of", lambda _obj: 0)]


def no_fence() -> Sequence[Swap]:
    """Patches of a run do not say which version they were made from."""

    async def amend(self: Any, namespace: str, name: str, change: Any, *, sub: str = "") -> None:
        obj = self._cluster.get(runs.KIND, namespace, name) or await self._read(namespace, name)
        patch = change(obj)
        if patch is not None:
            where = cluster.path(runs.KIND, namespace, name, sub=sub)
            self._learn(await self._kube.call("PATCH", where, body=patch, content_type=workloads.MERGE))

    return [(runs.Runs, "_amend", amend), *_unmanned()]


def overwrites_an_end() -> Sequence[Swap]:
    """What an earlier leader wrote unseen is written over."""
    whole = runs.Runs.save

    async def save(self: Any, *given: Any, **how: Any) -> None:
        with suppress(Behind):
            await whole(self, *given, **how)
            return
        await whole(self, *given, **how | {"upon": None})  # by now it is known, and so no hindrance

    return [(runs.Runs, "save", save), (runs, "_end", lambda _status: None)]


def two_leaders() -> Sequence[Swap]:
    """A candidate takes the Lease, whoever holds it."""
    return [(lease.Lease, "free", lambda _self: True), *_unmanned()]


def clings_to_the_lease() -> Sequence[Swap]:
    """A leader works on when it has lost the Lease."""

    async def keep(self: Any) -> None:
        while True:
            await asyncio.sleep(1)
            with suppress(Exception):
                await self.renew()

    return [(lease.Lease, "keep", keep), *_unmanned()]


def leaves_weight_behind() -> Sequence[Swap]:
    """A run that is deleted is forgotten, whatever it left behind."""
    whole = reconcile.Reconciler._live

    def live(self: Any, key: Any, obj: Any) -> Any:
        gone = obj is None or obj["metadata"].get("deletionTimestamp")
        return None if gone else whole(self, key, obj)

    return [(reconcile.Reconciler, "_live", live), (runs.Runs, "guard", _nothing)]


def promotes_the_latest() -> Sequence[Swap]:
    """What is promoted is what the canary's Deployment says now."""

    async def promote(self: Any, plan: Any) -> None:
        now = self._cluster.get("deployments", plan.namespace, plan.canary)["spec"]["template"]
        stable = await self._read(plan)
        labels = stable["spec"]["template"]["metadata"]["labels"]
        await self._give(plan, stable, now | {"metadata": now["metadata"] | {"labels": labels}})

    return [
        (workloads.Workloads, "promote", promote),
        *without(leaving._superseded),
    ]


def promotes_another() -> Sequence[Swap]:
    """What is promoted has got a little something from us."""
    whole = workloads.Workloads._give

    async def give(self: Any, plan: Any, stable: Json, template: Json) -> None:
        marked = template | {"spec": template["spec"] | {"terminationGracePeriodSeconds": 31}}
        await whole(self, plan, stable, marked)

    return [(workloads.Workloads, "_give", give)]


def signs_deployments() -> Sequence[Swap]:
    """The canary's Deployment is annotated with what we think of it."""
    whole = workloads.Workloads.scale

    async def scale(self: Any, plan: Any, replicas: int) -> None:
        where = cluster.path("deployments", plan.namespace, plan.canary)
        note = {"metadata": {"annotations": {"serin.dev/seen": "yes"}}}
        await self._kube.call("PATCH", where, body=note, content_type=workloads.MERGE)
        await whole(self, plan, replicas)

    return [(workloads.Workloads, "scale", scale)]


def overwrites() -> Sequence[Swap]:
    """The VirtualService is written whole, as we remember it."""

    async def sent(self: Any, plan: Any, operations: list[Json], left: int) -> bool:
        del left
        known = self._newest(plan.namespace, plan.virtual_service)
        self.__dict__.setdefault("first", clone(known["spec"]["http"]))
        there = await self._get(plan)
        whole = clone(there) | {"spec": there["spec"] | {"http": clone(self.__dict__["first"])}}
        self._wrote(await self._call("PUT", istio._path(plan), body=patched(whole, operations), urgent=True))
        return True

    return [(istio.IstioRouter, "_sent", sent)]


def half_a_weight() -> Sequence[Swap]:
    """Only the canary's weight is set."""
    whole = istio.patch

    def patch(found: Any, weight: int) -> list[Json]:
        operations = whole(found, weight)
        return [
            one for one in operations if not (one.get("op") != "test" and one.get("value") == 100 - weight)
        ]

    return [(istio, "patch", patch)]


def trusts_its_cache() -> Sequence[Swap]:
    """What is believed to stand is not sent."""
    whole = istio.IstioRouter.route

    async def route(self: Any, plan: Any, weight: int) -> None:
        if self.seen(plan).weight != weight:
            await whole(self, plan, weight)

    return [(istio.IstioRouter, "route", route)]


def raises_blindly() -> Sequence[Swap]:
    """A raise does not ask whether somebody has written the weights since."""
    return [(writing, "unwritten", lambda _vs: [])]


def writes_upon_another() -> Sequence[Swap]:
    """What was on its way for a run that is gone is written upon the next of its name."""
    whole = runs.Runs._amend
    amend = (runs.Runs, "_amend", lambda *given, **how: whole(*given, **how | {"uid": ""}))
    return [amend, (saving, "end", lambda _live: None)]


def moves_after_the_end() -> Sequence[Swap]:
    """A run that has ended may still be written about."""
    whole = after_the_end.chores

    def chores(run: Any, seen: Any, now: Any) -> Any:
        run, actions = whole(run, seen, now)
        changed = run.settled and run.reason is not Reason.PROMOTED
        return (replace(run, reason=Reason.ABORTED) if changed else run), actions

    return [(machine, "chores", chores)]


def tells_once() -> Sequence[Swap]:
    """An alert that fails once is given up."""

    def put_off(self: Any, _receiver: Any, desk: Any, letter: Any, _error: Any) -> None:
        self._done(desk, letter)

    return [(alerts.Alerts, "_put_off", put_off)]


def loses_its_outbox() -> Sequence[Swap]:
    """What is to be told is not kept."""
    whole = resource.status

    def status(run: Any, *given: Any, **how: Any) -> Json:
        return whole(replace(run, outbox=()), *given, **how)

    return [(resource, "status", status), (alerts.Alerts, "offer", lambda _self, _run: None)]


def skips_a_step() -> Sequence[Swap]:
    """The second step is left out."""
    whole = machine._raise

    def raised(run: Any, seen: Any, now: Any, step: int) -> Any:
        return whole(run, seen, now, len(run.plan.policy.steps) - 1 if step else 0)

    return [(machine, "_raise", raised)]


def weights_in_between() -> Sequence[Swap]:
    """Weights between the steps."""
    whole = weights.weighted

    def weighted(run: Any, weight: int, reason: Any, now: Any) -> Any:
        return whole(run, weight + 1 if weight else 0, reason, now)

    return [(machine, "weighted", weighted)]


def fails_to_fail() -> Sequence[Swap]:
    """A pass fails when a check does."""

    def carry(*_: Any) -> Any:
        raise ZeroDivisionError("a mistake of ours")

    whole = reconcile.Reconciler._carry_out

    async def carry_out(self: Any, live: Any, run: Any, actions: Any) -> bool:
        if (
            run.stage is Stage.ENDED
            and run.reason is Reason.CHECK_FAILED
            and live.run.stage is not Stage.ENDED
        ):
            carry()
        return await whole(self, live, run, actions)

    return [(reconcile.Reconciler, "_carry_out", carry_out)]


def mute() -> Sequence[Swap]:
    """The end of a run is told to nobody."""
    whole = machine._end

    def end(run: Any, reason: Any, message: str, outcome: str, now: Any) -> Any:
        before = run.outbox
        after, actions = whole(run, reason, message, outcome, now)
        quiet = tuple(action for action in actions if not isinstance(action, Tell))
        return replace(after, outbox=before), quiet

    return [(machine, "_end", end)]


def too_few_requests() -> Sequence[Swap]:
    """A step passes without its requests."""
    return _hasty(requests=0)


def too_short_steps() -> Sequence[Swap]:
    """A step passes before its time."""
    return _hasty(step=0)


def no_check() -> Sequence[Swap]:
    """A failed check is no reason."""
    return without(leaving._check_failed)


def no_silence() -> Sequence[Swap]:
    """A canary that answers nothing is no reason."""
    return without(leaving._not_answering)


def no_command() -> Sequence[Swap]:
    """Nobody can abort."""
    return without(leaving._commanded)


def _heedless(**heard: bool) -> Sequence[Swap]:
    """What is asked does not keep a run from going on."""
    whole = machine._blocked

    def blocked(run: Any, seen: Any) -> Any:
        return whole(run, replace(seen, commands=replace(seen.commands, **heard)))

    return [(machine, "_blocked", blocked)]


def no_pause() -> Sequence[Swap]:
    """A paused run goes on."""
    return _heedless(paused=False)


def no_freeze() -> Sequence[Swap]:
    """A run goes on in a frozen namespace."""
    return _heedless(frozen=False)


def hears_no_doorbell() -> Sequence[Swap]:
    """What a Deployment's annotations ask of its run goes unheard."""
    return [(trigger, "rung", lambda said, *_, **__: said)]


def opens_every_gate() -> Sequence[Swap]:
    """Nobody is asked before traffic moves up."""
    return [(gating, "through", lambda run, _seen: (run, None))]


def takes_no_for_yes() -> Sequence[Swap]:
    """Whatever a webhook answers, it approves."""

    async def answer(*_: Any) -> str:
        return gating.OPEN

    return [(gates.Gates, "_answer", answer)]


def no_replay() -> Sequence[Swap]:
    """Traffic does not wait for what replayed requests say."""
    return [(machine, "gate", lambda _run, _seen: None), (shadow, "joined", lambda found, *_: found)]


MUTANTS: Mapping[str, Mutant] = {
    **{
        one.__name__.replace("_", "-"): one
        for one in (
            acts_before_saving,
            saves_before_leaving,
            never_again,
            repairs_at_once,
            goes_on_at_once,
            counts_anew,
            silence_passes,
            no_fence,
            two_leaders,
            clings_to_the_lease,
            leaves_weight_behind,
            promotes_the_latest,
            promotes_another,
            signs_deployments,
            overwrites,
            half_a_weight,
            trusts_its_cache,
            raises_blindly,
            moves_after_the_end,
            tells_once,
            loses_its_outbox,
            mute,
            skips_a_step,
            weights_in_between,
            fails_to_fail,
            too_few_requests,
            too_short_steps,
            no_check,
            no_silence,
            no_command,
            no_pause,
            no_freeze,
            hears_no_doorbell,
            overwrites_an_end,
            writes_upon_another,
            opens_every_gate,
            takes_no_for_yes,
            no_replay,
        )
    },
    **BETWEEN,
}
