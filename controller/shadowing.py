"""The Shadow checks of one leadership's runs: the worker is asked, and mirrors are moved, beside the passes.

Nothing here is waited for by a pass: what is known is in memory, and a mirror is moved by an errand. Until
that is over the mirror is taken to stand, so that no run is called done while one may still arrive.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog

from analysis.judge import Verdict
from analysis.values import replace
from controller.kube import ApiError
from controller.model import Replayed, RouteSeen, Run, Stage
from controller.ports import ShadowSource, TrafficRouter
from controller.shadow import DECIDED, SILENT, hidden, latched, question

Json = Any
log = structlog.get_logger(__name__)

FOREIGN = (
    "the run's recorder {} is not this controller's, so nothing is mirrored to it; abort the run, and let"
    " `serin retry` ask for a new one"
)
UNSET = (
    "this controller was told of no shadow worker; set SERIN_SHADOW_URL, or take the Shadow check out of"
    " the policy"
)


@dataclass(slots=True)
class Shadowing:
    """`source` is None in a process that was told of no worker, and so is its recorder, (host, port).

    Whoever may make a CanaryRun may write any recorder into it: requests are copied to our own alone.
    """

    source: ShadowSource | None
    router: TrafficRouter
    recorder: tuple[str, int] | None
    moving: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def known(self, run: Run, before: Replayed | None, route: RouteSeen) -> Replayed | None:
        """What is known of the run's Shadow check; the worker is asked until that decides something.

        While its requests cannot be mirrored, what was recorded before is of a time that is over.
        """
        if run.plan.policy.shadow is None:
            return None
        if self.source is None:
            return latched(before, replace(SILENT, sentence=UNSET))
        decided = before is not None and before.verdict in DECIDED
        asks = not decided and run.stage is not Stage.ENDED
        self.source.watch(_name(run), question(run) if asks else None)
        if not asks:
            return before
        if route.unmirrored is not None:
            where = f"VirtualService {run.plan.virtual_service}"
            return replace(SILENT, sentence=f"{where}: {route.unmirrored}")
        said = self.source.read(_name(run))
        return said or replace(SILENT, sentence=self.source.trouble(_name(run)) or SILENT.sentence)

    def silent(self, run: Run, known: Replayed | None, route: RouteSeen) -> timedelta:
        """For how long nothing was heard; of what is not asked, or cannot be mirrored, for ever."""
        if known is None or known.verdict is not Verdict.NO_DATA:
            return timedelta(0)
        if self.source is None or route.unmirrored is not None:  # time would mend neither
            return timedelta.max
        return self.source.silent(_name(run))

    def route(self, seen: RouteSeen, run: Run, successor: Json | None) -> RouteSeen:
        """What was seen of the VirtualService, as far as this run's own mirror goes."""
        mine = run.plan.recording
        if mine is not None and (mine.host, mine.port) != self.recorder:
            seen = replace(seen, unmirrored=FOREIGN.format(f"{mine.host}:{mine.port}"))
        if _name(run) in self.moving:
            return replace(seen, mirrored=True)
        theirs = run.stage is Stage.ENDED and hidden(run.plan.recording, successor)
        return replace(seen, mirrored=False) if theirs else seen

    def move(self, run: Run, *, on: bool) -> None:
        """The mirror is on its way, if it is not already."""
        if _name(run) not in self.moving:
            self.moving[_name(run)] = asyncio.get_running_loop().create_task(self._moved(run, on=on))

    async def _moved(self, run: Run, *, on: bool) -> None:
        try:
            await self.router.mirror(run.plan, on=on)
            log.info("mirror_moved", run=run.name, namespace=run.plan.namespace, on=on)
        except (ApiError, OSError) as error:
            log.warning("mirror_not_moved", run=run.name, on=on, error=str(error))
        finally:
            del self.moving[_name(run)]

    def forget(self, run: str) -> None:
        """The worker is not asked for `namespace/name` any more."""
        if self.source is not None:
            self.source.watch(run, None)

    async def close(self) -> None:
        """No mirror is on its way."""
        tasks = list(self.moving.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _name(run: Run) -> str:
    return f"{run.plan.namespace}/{run.name}"
