"""What is done to a run's Deployments: beside its passes while the canary has traffic.

Such a write may hang (an admission webhook that is away is enough), and a pass that waited for it would not
see the canary fail. Of one run one is under way at a time, and what is wanted now ends what was before.
Should that arrive all the same: stable's template goes back upon a Deployment that was written since.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from controller.kube import ApiError
from controller.means import Live, Touch
from controller.model import CopyTemplate, Plan, RestoreTemplate, Scale
from controller.workloads import TemplateLost, Workloads

log = structlog.get_logger(__name__)

Wanted = Scale | CopyTemplate | RestoreTemplate


class Touching:
    """Of all runs of one leadership; `errand` sees to a task that nobody waits for."""

    def __init__(
        self, workloads: Workloads, *, errand: Callable[[Coroutine[Any, Any, bool]], asyncio.Task[bool]]
    ) -> None:
        self._workloads = workloads
        self._errand = errand

    async def done(self, live: Live, wanted: Wanted, *, wait: bool) -> bool:
        """Whether the Deployment is as it is wanted; if not now, it is to be asked for again.

        `wait` for the write: the canary has no traffic.
        """
        touch = live.touch
        if touch is None or touch.wanted != wanted:
            end(live)
            touch = live.touch = Touch(wanted, self._errand(self._made(live.run.plan, wanted)))
        if wait:
            await asyncio.wait({touch.task})
        if not touch.task.done():
            return False
        live.touch = None
        made = not touch.task.cancelled() and touch.task.result()
        live.fenced = live.fenced or (made and isinstance(wanted, RestoreTemplate))
        return made

    async def _made(self, plan: Plan, wanted: Wanted) -> bool:
        try:
            match wanted:
                case Scale(replicas):
                    await self._workloads.scale(plan, replicas)
                case CopyTemplate():
                    await self._workloads.promote(plan)
                case RestoreTemplate():
                    await self._workloads.restore(plan)
        except (ApiError, OSError, TemplateLost) as error:
            log.warning("workload_not_changed", plan=plan.canary, action=repr(wanted), error=str(error))
            return False
        except Exception:
            log.exception("workload_not_changed", plan=plan.canary, action=repr(wanted))
            return False
        return True


def uncopied(live: Live) -> None:
    """A copy that is under way is wanted no more, whatever is wanted next."""
    if live.touch is not None and isinstance(live.touch.wanted, CopyTemplate):
        end(live)


def end(live: Live) -> None:
    """What is under way is wanted no more."""
    if live.touch is not None:
        live.touch.task.cancel()
    live.touch = None
