"""What is written of a run's status: at once what has changed, and beside its passes a checkpoint.

What only evidence asked for changes nothing that is done, and a pass that waited for it would not look at the
run while the API server takes its time. Of one run one write is under way at a time: what has changed is
written after the checkpoint.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sized
from functools import partial
from typing import Any

import structlog

from analysis.values import replace
from controller import gather, inspection
from controller.beside import spared
from controller.gather import Gathered
from controller.judging import FIGURES, sentences
from controller.kube import ApiError
from controller.means import Live, Means
from controller.model import Action, BeginStep, Checkpoint, Run
from controller.peering import Company
from controller.ports import Overtaken
from controller.rounds import FEW
from controller.schedule import Schedule, changes

log = structlog.get_logger(__name__)

# Seconds that a save may take before something is done on the strength of it: a leader that was frozen
# meanwhile is one no more (a Lease holds 2 s longer than its work).
FRESH = 2.0


class Saving:
    """Of all `lives` of one leadership; `errand` sees to a task that nobody waits for."""

    def __init__(
        self,
        means: Means,
        epoch: int,
        *,
        lives: Sized,
        company: Company,
        errand: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._means = means
        self._epoch = epoch
        self._lives = lives
        self._company = company
        self._errand = errand
        self._schedule = Schedule(means.checkpoint)

    async def saved(self, live: Live, run: Run, actions: tuple[Action, ...]) -> bool:
        """Whether status holds `run`, where it has to: on every change and every raise.

        A weight that is repaired upwards is saved again: that is the fence against a newer leader. Where only
        a checkpoint is due nothing waits for it. Raises as `check`.
        """
        now = self._now()
        live.looks += 1
        if not changes(live.saved, run, actions):
            self._begin_aside(live, run, now)
            return True
        if live.aside is not None:
            await asyncio.wait({live.aside})
            check(live)
        return await self._changed(live, run, actions, now=now)

    def begin(self, live: Live, run: Run, actions: tuple[Action, ...]) -> bool:
        """As `saved`, and if not, it is on its way, or what was before: the pass has something else to do."""
        if not changes(live.saved, run, actions):
            return True
        if live.aside is None:
            self._set_out(live, self._alone(live, run, actions))
        return False

    async def _changed(self, live: Live, run: Run, actions: tuple[Action, ...], *, now: float) -> bool:
        live.figures.known = None  # people look at what has changed
        spared("peers", run, self._company.tell, None)
        begun = [action for action in actions if isinstance(action, BeginStep)]
        gathered = live.gathered
        if begun:
            gathered = gather.begin_step(gathered, begun[-1].step, at=now)
        if not await self._written(live, run, self._checkpoint(live, run, gathered)):
            return False
        live.gathered, live.saved, live.saved_at, live.looks, live.upon = gathered, run, now, 0, None
        spared("alerts", run, partial(self._means.alerter.offer, run), None)
        return True

    def too_slow(self, run: Run) -> None:
        """The API server has had its time, and may still take what it was sent."""
        log.warning("save_too_slow", run=run.name)
        self._schedule.took(FRESH, now=self._now())

    def _begin_aside(self, live: Live, run: Run, now: float) -> None:
        """A checkpoint is on its way if one is due; how the run stands is saved already."""
        if live.aside is not None:
            return
        if self._schedule.due(run.name, last=live.saved_at, now=now, looks=live.looks):
            spared("alerts", run, partial(self._means.alerter.offer, run), None)
            held = spared("checkpoint", run, lambda: self._checkpoint(live, run, live.gathered), None)
            if held is None:  # it is no reason to look at the run less
                live.saved_at, live.looks = now, 0
            else:
                self._set_out(live, self._aside(live, run, held, before=live.saved, now=now))

    def _set_out(self, live: Live, writing: Coroutine[Any, Any, None]) -> None:
        live.aside = self._errand(writing)
        live.aside.add_done_callback(_heard)

    async def _alone(self, live: Live, run: Run, actions: tuple[Action, ...]) -> None:
        """What has changed is written, however long that takes."""
        try:
            await self._changed(live, run, actions, now=self._now())
        except Overtaken:
            raise
        except Exception:
            log.exception("status_lost", run=run.name)

    async def _aside(self, live: Live, run: Run, held: Checkpoint, *, before: Run | None, now: float) -> None:
        """The checkpoint is saved, or the server has had its time: the run's next turn is soon enough."""
        try:
            async with asyncio.timeout(FRESH):
                if not await self._written(live, run, held):
                    return
            live.saved = run if live.saved is before else live.saved
            live.upon = None
        except TimeoutError:
            self.too_slow(run)
        except Overtaken:
            raise
        except Exception:
            log.exception("checkpoint_lost", run=run.name)
        live.saved_at, live.looks = now, 0

    async def _written(self, live: Live, run: Run, held: Checkpoint) -> bool:
        """Whether the run's object holds this, or nobody will read it again: no weight stands on that."""
        began = self._now()
        try:
            await self._means.store.save(run, held, epoch=self._epoch, upon=live.upon)
        except (ApiError, OSError) as error:
            gone = isinstance(error, ApiError) and error.not_found
            if not gone or run.weight > 0:
                log.warning("save_failed", run=run.name, error=str(error))
                return False
        now = self._now()
        self._schedule.took(now - began, now=now)
        return True

    def _checkpoint(self, live: Live, run: Run, gathered: Gathered) -> Checkpoint:
        now, clock = self._now(), self._means.clock
        many = len(self._lives) > FEW
        found = live.figures.of(live.judgement, run, live.gathered, now=now, lasting=FIGURES if many else 0.0)
        return Checkpoint(
            body=gather.save(replace(gathered, saved=now)),
            judgement=found,
            sentences=spared("sentences", run, lambda: sentences(found, run, clock()), {}),
            beside=spared("words", run, lambda: live.onlookers.said() | inspection.said(live.items), {}),
        )

    def _now(self) -> float:
        return self._means.clock().timestamp()


def check(live: Live) -> None:
    """Raises `Overtaken` if the run's last write that nobody waited for was."""
    task = live.aside
    if task is not None and task.done():
        live.aside = None
        task.result()


def end(live: Live) -> None:
    """What is on its way is not written any more: the run is somebody else's, or there is none."""
    if live.aside is not None:
        live.aside.cancel()
    live.aside = None


def _heard(task: asyncio.Task[None]) -> None:
    """`Overtaken` is no news where nobody looks at the run again."""
    if not task.cancelled():
        task.exception()
