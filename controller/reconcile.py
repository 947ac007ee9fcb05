"""One run, one pass: read, analyse, advance, save, act.

The order of the last two is the design. A raise is saved before it is made, so that whoever comes next
knows of it. The way to zero is made before it is saved, since nothing may stand in front of it: no
conflict on the run's object, no status that is too large, no newer leader. What fails on the way is
made up by the next pass, which finds the VirtualService and the run in disagreement.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import structlog

from analysis.judge import Judgement
from analysis.values import replace
from controller import gather, machine, neighbours, resource, saving, shadow, ticks, touching, trigger
from controller.around import Around, around
from controller.beside import checklist, spared, trouble
from controller.clock import taken_over
from controller.cluster import Key
from controller.gather import Gathered
from controller.istio import Unsteerable
from controller.judging import judged
from controller.kube import ApiError
from controller.means import Live, Means
from controller.model import (
    Action,
    BeginStep,
    Commands,
    Fence,
    Mirror,
    Plan,
    PodSeen,
    RouteSeen,
    Run,
    Seen,
    SetWeight,
    Stage,
    Tell,
)
from controller.onlookers import Look
from controller.peering import Company, arrived
from controller.placebos import Placebos, Together
from controller.ports import Behind, Overtaken, Reading
from controller.reading import whole
from controller.rounds import FEW, Rounds
from controller.saving import FRESH, Saving, check
from controller.telling import Next
from controller.touching import Touching
from controller.unshown import LOST
from controller.wire import Malformed

log = structlog.get_logger(__name__)

# A pass that could not act is repeated soon: this is the way to zero.
RETRY = timedelta(milliseconds=200)
# Ticks until the next pass of a run whose pages are read, if nobody says that there are new ones: they say so
# once a tick, and a pass that came just before would be one for nothing.
UNHEARD = 1.25
# Seconds a new leader looks before it raises or repairs a weight upwards, at least: pages come each second (a
# Prometheus' more seldom), and what was counted since the last checkpoint is judged with the first two.
LOOKING = 3.0
NOBODY: Sequence[PodSeen] = ()


@dataclass(slots=True)
class Reconciler:
    """All live runs of one leadership. A new leader makes a new one and finds the rest in status."""

    means: Means
    epoch: int
    lives: dict[Key, Live] = field(default_factory=dict)
    errands: set[asyncio.Task[Any]] = field(default_factory=set)
    rounds: Rounds = field(default_factory=Rounds)
    company: Company = field(default_factory=Company)
    together: Together = field(default_factory=Together)
    saving: Saving = field(init=False)
    touching: Touching = field(init=False)

    def __post_init__(self) -> None:
        """Status is written under this epoch."""
        self.saving = Saving(
            self.means, self.epoch, lives=self.lives, company=self.company, errand=self._errand
        )
        self.touching = Touching(self.means.workloads, errand=self._errand)

    async def turn(self, key: Key) -> float | None:
        """One pass over the run; the seconds until its next one, or None when it needs no more."""
        try:
            with self.means.telemetry.a_pass():
                return await self._pass(key)
        except Overtaken as newer:
            log.warning("overtaken", run=key[1], namespace=key[0], why=str(newer))
            self._forget(key)
            return RETRY.total_seconds() if isinstance(newer, Behind) else None

    async def _pass(self, key: Key) -> float | None:
        obj = self.means.cluster.get("canaryruns", *key)
        try:
            live = self._live(key, obj)
        except Malformed as error:
            return await self._give_up(obj, error)
        if live is None:
            self._forget(key)
            return None
        check(live)
        other = obj is not None and obj["metadata"]["uid"] != live.run.identity
        obj = None if other else obj  # the run's own is gone, and what it owes is not: it comes first
        live.gathered, seen = await self._observe(live, obj)
        before = live.run, live.judgement
        live.heeds(seen.judgement)
        spared("onset", live.run, partial(live.onset.look, live.run, seen, self.means.clock()), None)
        run, actions = self._advanced(live.run, seen)
        actions = self._own(live.run, actions, obj)
        done = await self._carry_out(live, run, actions)
        spared("gates", run, partial(self.means.gates.watch, live.run), None)
        spared("figures", run, partial(self.means.show, live, *before), None)
        for what in live.onlookers.look(live.gathered):
            self._tell(live.run, what)
        if obj is not None and live.saved and machine.restored(live.saved) and resource.guarded(obj):
            await self.means.store.release(live.run)
        if machine.finished(live.run) and live.saved == live.run:
            await self._close(key, live)
            return RETRY.total_seconds() if other else None
        if not done or (live.run.weight > 0 and live.run.step_since is None):  # or a step is about to begin
            return RETRY.total_seconds()
        tick = self.means.tick.total_seconds()
        return tick * max(UNHEARD * self.means.stretch(), 1.0) if live.last_byte else tick

    def _advanced(self, run: Run, seen: Seen) -> Next:
        """As `machine.advance`; if that cannot be worked out, the way out alone."""
        now = self.means.clock()
        try:
            return machine.advance(self._answered(run), seen, now)
        except Exception:
            log.exception("advance_lost", run=run.name)
            if (left := machine.left(run, seen, now)) is None:
                raise
            return left

    def _own(self, run: Run, actions: tuple[Action, ...], obj: Any) -> tuple[Action, ...]:
        """Without a zero that would be of another run's weight: this one was given none."""
        if run.weight_since is not None or obj is None or SetWeight(0) not in actions:
            return actions
        others = spared("left", run, lambda: not neighbours.left(self.means.cluster, obj, run.plan), False)
        return tuple(one for one in actions if not (others and isinstance(one, SetWeight)))

    def urgent(self, key: Key) -> bool:
        """Whether the run comes before those whose traffic may stay."""
        live = self.lives.get(key)
        return live is not None and live.urgent

    async def close(self) -> None:
        """Errands (Events on their way) are over."""
        for errand in self.errands:
            errand.cancel()
        await asyncio.gather(*self.errands, return_exceptions=True)
        await self.means.shadowing.close()

    # -- read --------------------------------------------------------------------------------------

    def _live(self, key: Key, obj: Any) -> Live | None:
        known = self.lives.get(key)
        if known is not None:
            owes = known.run.mirrored or (known.run.weight_since is not None and not known.run.settled)
            if owes or (obj is not None and obj["metadata"]["uid"] == known.run.identity):
                return known
        if obj is None:
            return None
        self._forget(key)  # whoever had its name and owed nothing: it was deleted, and asked for again
        run = resource.run(obj)
        if machine.finished(run):
            return None
        saved, now = run if obj.get("status") else None, self.means.clock()
        gathered = gather.load(run.plan, resource.checkpoint(obj)) if saved else self.means.begin(run.plan)
        run, gathered = taken_over(run, gathered, now) if saved else (run, gathered)
        if gathered.step is None and run.stage is not Stage.WAITING:  # another version's checkpoint
            run = machine.begun_again(run, now)
            gathered = gather.begin_step(gathered, run.step, at=now.timestamp())
        live = Live(run, gathered, self._judged(run, gathered), saved=saved, upon=obj, since=now.timestamp())
        placebos = Placebos(run.plan.policy, others=len(self.lives), together=self.together)
        traces = self.means.traces.begin(run, placebos)
        company = self.company if len(self.lives) >= FEW else None
        live.onlookers.watching = [*arrived(run, obj, now, company=company), placebos, *traces]
        self.lives[key] = live
        return live

    async def _give_up(self, obj: Any, error: Malformed) -> float | None:
        """A run that this version cannot read gets no traffic: nobody would see its canary fail."""
        meta = obj["metadata"]
        log.error("run_not_read", run=meta["name"], namespace=meta["namespace"], error=str(error))
        place = resource.place(obj)
        seen = self.means.router.seen(place)
        given = resource.guarded(obj) or (seen.ours and neighbours.left(self.means.cluster, obj, place))
        if not given or (seen.weight == 0 and not seen.mirrored):
            return None
        try:
            await self.means.router.route(place, 0)
            await self.means.router.mirror(place, on=False)
        except (ApiError, Unsteerable, OSError) as failed:
            log.warning("route_failed", run=meta["name"], weight=0, error=str(failed))
            return RETRY.total_seconds()
        return self.means.tick.total_seconds()

    async def _observe(self, live: Live, obj: Any) -> tuple[Gathered, Seen]:
        run, plan, means = live.run, live.run.plan, self.means
        now = means.clock().timestamp()
        there = live.around = around(live.around, means, run, obj)
        if there.rings:
            self._errand(self._write_down(obj, there.commands, approved=there.approved))
        now_there, later = self._route_seen(live, there, obj), there.later
        shadowing, before = means.shadowing, live.gathered.replayed
        route = spared("mirror", run, partial(shadowing.route, now_there, run, later), now_there)
        replayed = spared("replay", run, partial(shadowing.known, run, before, route), before)
        live.gathered = replace(live.gathered, replayed=replayed)
        if replayed != before and shadow.saved(replayed) is not None:
            live.saved = None  # a decision is written down when it is first known: see decision 17
        seen = Seen(
            stable=there.stable,
            canary=there.canary,
            route=route,
            judgement=live.judgement,
            shadow=shadow.judged(plan.policy.shadow, replayed),
            shadow_silent=spared(
                "replay", run, partial(shadowing.silent, run, replayed, route), timedelta(0)
            ),
            stable_known=timedelta(seconds=live.gathered.known),
            commands=there.commands,
            replanned=there.replanned,
            stable_matches=there.stable_matches,
            fenced=live.fenced,
            looked=_looked(live, now, least=max(LOOKING, self._pace(plan).stale)),
            successor=None
            if later is None
            else spared("successor", run, partial(neighbours.weight_at, plan, later), 0),
            canary_replicas_before=there.replicas_before,
            gates=spared("gates", run, partial(means.gates.read, _name(run)), {}),
            inputs=None if replayed is None else replayed.inputs,
            retraining_asked=there.retraining_asked,
        )
        live.idle = now if seen.route.weight == 0 else live.idle
        try:
            gathered, seen = await self._measure(live, seen, there)
            return gathered, replace(seen, preflight=checklist(means, live, seen, obj, _name(run)))
        except Exception:  # whatever the pages hold, commands and pods are heeded
            log.exception("evidence_lost", run=run.name)
            gathered = replace(gather.begin(plan.policy), replayed=replayed)
            if live.gathered.step is not None:
                gathered = gather.begin_step(gathered, live.gathered.step, at=now)
            return gathered, replace(seen, judgement=self._judged(run, gathered))

    def _route_seen(self, live: Live, there: Around, obj: Any) -> RouteSeen:
        """The VirtualService; refused while another run, that was there before, steers it."""
        plan, route = live.run.plan, self.means.router.seen(live.run.plan)
        live.raising = live.raising and route.weight != live.run.weight  # not given: nobody took it
        mixed = spared("subsets", live.run, partial(live.apart.look, self.means.cluster, plan), "")
        refusal = route.refusal or mixed or live.apart.strange or None
        apart = {"refusal": refusal, "mixed": bool(mixed), "pinned": live.apart.pinned}
        route = replace(route, ours=route.ours and not live.raising, **apart)
        other = there.rival
        if live.run.weight_since is None:
            look = partial(self._left, live, route, obj)
            route = replace(route, left=other is None and spared("left", live.run, look, False))
        if other is None:
            return route
        name = other["metadata"]["name"]
        mine = route.mirrored and not shadow.hidden(plan.recording, other)
        said = f"VirtualService {plan.virtual_service} is steered by CanaryRun {name}"
        return replace(route, refusal=said, mirrored=mine)

    def _left(self, live: Live, route: RouteSeen, obj: Any) -> bool:
        """Whether the canary has a weight that no run gave it, or one of which the status was lost.

        Not before this leader has saved the run: what its watch has told so far may be of before the raise.
        """
        known = obj is not None and live.upon is None
        return known and route.weight != 0 and neighbours.left(self.means.cluster, obj, live.run.plan)

    async def _measure(self, live: Live, seen: Seen, there: Around) -> tuple[Gathered, Seen]:
        """What the pods' pages say."""
        run, now = live.run, self.means.clock()
        nodes, checks = there.canary_nodes, [check.name for check in run.plan.policy.checks]
        readings = whole(self._read(live, there.read), checks, stable=there.stable_nodes, canary=nodes)
        live.last_byte = max((reading.at for reading in readings.values()), default=0.0)
        at = now.timestamp()
        spacing, live.looked = at - (live.looked or at), at
        pace = self._pace(run.plan).stretched(spacing)
        lag = live.lag({name: readings[name] for name in there.stable_nodes if name in readings})
        cursor, new, load = ticks.advance(
            live.gathered.cursor,
            readings,
            stable=there.stable_nodes,
            canary=nodes,
            now=at,
            since=gather.instants(run, idle=live.idle),
            pace=pace,
            paces=dict.fromkeys(run.plan.policy.queried, self.means.queried),
            lag=lag,
        )
        sampled = max(len(there.stable_nodes), 1) / max(seen.stable.ready, 1)
        known = gather.load_seen(
            run, load, nodes, sampled=sampled, now=at, pace=pace, lag=lag, still=cursor.steps.shortest
        )
        found = trouble(self.means.metrics, run, _name(run))
        read = any(readings[pod].paged for pod in nodes.keys() & readings.keys())
        seen = replace(seen, load=known, canary_read=read, trouble=found)
        steps = gather.take(replace(live.gathered, cursor=cursor), run, seen, new, now)
        gathered = await self.rounds.scored(steps, among=0 if live.urgent else len(self.lives))
        paces: dict[str, Any] = {"pace": pace, "queried": self.means.queried}
        overdue = gather.overdue(gathered, run.plan.policy, at=at, **paces)
        look = partial(live.shown.look, new, run.plan.policy, readings, now=at, **paces)
        missed = spared("shown", run, partial(look, stable=there.stable_nodes, canary=nodes), LOST)
        overdue = (*overdue, *sorted(missed.checks.difference(overdue)))
        seen = replace(seen, judgement=self._judged(run, gathered), overdue=overdue, unshown=missed.sentence)
        live.onlookers.next = Look(run, seen, new, gathered.evidence, now)
        return gathered, seen

    def _pace(self, plan: Plan) -> ticks.Pace:
        """How often the pods' requests are counted: as slowly as Prometheus if nothing else is read."""
        return self.means.queried if len(plan.policy.queried) == len(plan.policy.checks) else self.means.pace

    def _read(self, live: Live, pods: Sequence[PodSeen]) -> Mapping[str, Reading]:
        run = live.run
        wanted = pods if run.stage is not Stage.ENDED else NOBODY
        if wanted is not live.watched:  # else they are read already: a plan's checks and pages stay
            self.means.metrics.watch(_name(run), wanted, run.plan.policy.checks, run.plan.policy.pages)
            live.watched = wanted
        return self.means.metrics.read(_name(run)) if wanted else {}

    async def _write_down(self, obj: Any, heard: Commands, *, approved: bool) -> None:
        """The run's spec says what a doorbell rang for, so that it is there when the annotation is not."""
        meta = obj["metadata"]
        approval = trigger.APPROVAL if approved else None
        try:
            await self.means.store.ask(
                meta["namespace"], meta["name"], abort=heard.abort, promote=heard.promote, approval=approval
            )
        except (ApiError, OSError) as error:
            log.warning("command_not_written_down", run=meta["name"], error=str(error))

    def _judged(self, run: Run, gathered: Gathered) -> Judgement:
        return judged(run, gathered, self.means.clock())

    def _answered(self, run: Run) -> Run:
        """The run without the messages that have arrived."""
        none: frozenset[str] = frozenset()
        gone = spared("alerts", run, partial(self.means.alerter.delivered, run.name), none)
        return replace(run, outbox=tuple(m for m in run.outbox if m.id not in gone)) if gone else run

    # -- save and act ------------------------------------------------------------------------------

    async def _carry_out(self, live: Live, run: Run, actions: tuple[Action, ...]) -> bool:
        """Whether everything was done; what was not is found again by the next pass."""
        weights = [action.weight for action in actions if isinstance(action, SetWeight)]
        if 0 in weights:
            live.run, live.raising = run, False  # decided, whether or not it can be written down
            touching.uncopied(live)
            self.rounds.hasten()
            routed = await self._route(live, 0)
            if routed:
                saved = await self.saving.saved(live, run, actions)
            else:  # it is sent again before anything is waited for
                saved = self.saving.begin(live, run, actions)
            told = tuple(action for action in actions if isinstance(action, Tell))
            return await self._act(live, actions if saved else told, wait=routed) and saved and routed
        try:
            async with asyncio.timeout(FRESH):
                saved = await self._intended(live, run, actions)
        except TimeoutError:
            self.saving.too_slow(run)
            return False
        if not saved:
            return False
        live.run, live.raising = run, live.raising or bool(weights)
        routed = not weights or await self._route(live, weights[-1])
        live.raising = live.raising and not (weights and routed)
        return await self._act(live, actions, wait=run.weight == 0) and routed

    async def _intended(self, live: Live, run: Run, actions: tuple[Action, ...]) -> bool:
        """Whether the run's object holds what is about to be done, and cannot vanish meanwhile."""
        try:
            moves = run.mirrored or any(isinstance(action, SetWeight) for action in actions)
            if moves and run.stage is not Stage.ENDED and not live.guarded:
                await self.means.store.guard(run)
                live.guarded = True
        except (ApiError, OSError) as error:
            log.warning("run_not_guarded", run=run.name, error=str(error))
            return False
        return await self.saving.saved(live, run, actions)

    async def _route(self, live: Live, weight: int) -> bool:
        began = self.means.clock()
        try:
            await self.means.router.route(live.run.plan, weight)
        except (ApiError, Unsteerable, OSError) as error:
            log.warning("route_failed", run=live.run.name, weight=weight, error=str(error))
            return False
        took = self.means.clock().timestamp() - (live.last_byte or began.timestamp())
        log.info(
            "weight_set",
            run=live.run.name,
            namespace=live.run.plan.namespace,
            weight=weight,
            reason=str(live.run.reason or "") or None,
            decision_seconds=round(took, 4),
        )
        spared(
            "figures",
            live.run,
            partial(self.means.routed, live, weight, began, timedelta(seconds=took)),
            None,
        )
        return True

    async def _act(self, live: Live, actions: tuple[Action, ...], *, wait: bool) -> bool:
        """Whether all is done; `wait` for Deployments, since the canary has no traffic."""
        done = True
        for action in actions:
            if isinstance(action, Tell):
                self._tell(live.run, action)
            elif isinstance(action, Fence):
                done = await self._fenced(live.run) and done
            elif isinstance(action, Mirror):
                self.means.shadowing.move(live.run, on=action.on)
            elif not isinstance(action, SetWeight | BeginStep):
                done = await self.touching.done(live, action, wait=wait) and done
        return done

    async def _fenced(self, run: Run) -> bool:
        try:
            await self.means.router.fence(run.plan)
        except (ApiError, OSError) as error:
            log.warning("fence_failed", run=run.name, error=str(error))
            return False
        return True

    def _tell(self, run: Run, what: Tell) -> None:
        log.info("told", run=run.name, reason=what.reason.value, message=what.message)
        self._errand(self.means.recorder.tell(run, what))

    def _errand(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self.errands.add(task)
        task.add_done_callback(self.errands.discard)
        return task

    # -- forget ------------------------------------------------------------------------------------

    async def _close(self, key: Key, live: Live) -> None:
        run = live.run
        await self.means.store.release(run)
        await self.means.store.prune(run.plan.namespace, run.plan.canary, keep=run.plan.policy.history_limit)
        self._forget(key)

    def _forget(self, key: Key) -> None:
        live = self.lives.pop(key, None)
        if live is not None:
            saving.end(live)
            touching.end(live)
            plan = live.run.plan
            if not any(neighbours.runs_of(self.means.cluster, plan.namespace, plan.canary)):
                self.means.telemetry.forget(plan.namespace, plan.canary)
            self.means.metrics.watch(f"{key[0]}/{key[1]}", [], [])
            self.means.shadowing.forget(f"{key[0]}/{key[1]}")
            self.means.gates.forget(f"{key[0]}/{key[1]}")


def _looked(live: Live, now: float, *, least: float) -> bool:
    """Whether this leader has had the time, and something was read since then and judged."""
    newest = gather.newest(live.gathered, otherwise=live.last_byte)
    return now - live.since > least and newest > live.since


def _name(run: Run) -> str:
    """The run's name for the metrics source."""
    return f"{run.plan.namespace}/{run.name}"
