"""What a pass asks, tells and measures beside what it decides: any of it may fail, and the pass goes on.

Nothing here stands between a failed check and the patch that takes the traffic away, or costs evidence.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from controller import admission, inspection
from controller.model import Run, Seen
from controller.ports import MetricsSource, Trouble

if TYPE_CHECKING:
    from controller.means import Live, Means

Json = Any
Said = TypeVar("Said")

log = structlog.get_logger(__name__)

# Pages are read once a second; so many failures in a row are no start-up and no hiccup.
LASTING = 10


def spared(what: str, run: Run, ask: Callable[[], Said], otherwise: Said) -> Said:
    """What `ask` says; `otherwise` if it cannot, and the log says why."""
    try:
        return ask()
    except Exception:
        log.exception("spared", what=what, run=run.name)
        return otherwise


def trouble(metrics: MetricsSource, run: Run, name: str) -> str:
    """What is wrong with the page that has been unreadable longest, if it is no passing trouble.

    Of the canary's pods, if one of theirs is: it is they of whom nothing is known.
    """
    canary = f"{run.plan.canary}-{run.plan.canary_hash}-"
    return spared("troubles", run, lambda: _worst(metrics.troubles(name), first=canary), "")


def _worst(found: Mapping[str, Trouble], *, first: str) -> str:
    lasting = {pod: one for pod, one in found.items() if one.failures >= LASTING}
    key = lambda pod: (not pod.startswith(first), lasting[pod].since, pod)  # noqa: E731
    worst = min(lasting, key=key, default=None)
    others = f" (and {len(lasting) - 1} more)" if len(lasting) > 1 else ""
    return "" if worst is None else f"{worst}{others}: {lasting[worst].what}"


def checklist(means: "Means", live: "Live", seen: Seen, obj: Json, name: str) -> str | None:
    """What failed of the checklist, while a first weight waits for it."""
    if obj is None or not spared("checklist", live.run, lambda: admission.due(live.run, seen), False):
        return seen.preflight
    try:
        return _gone_through(means, live, seen, obj["spec"]["plan"], name)
    except Exception:  # whatever stands in people's objects
        log.exception("checklist_lost", run=live.run.name)
        return inspection.LOST


def _gone_through(means: "Means", live: "Live", seen: Seen, plan: Json, name: str) -> str | None:
    readings, troubles = means.metrics.read(name), means.metrics.troubles(name)
    if seen.stable.ready and not any(pod.name in {*readings, *troubles} for pod in seen.stable.pods):
        return seen.preflight
    live.items = inspection.looked_at(
        live.run,
        plan,
        means.cluster,
        readings=readings,
        troubles=troubles,
        unread=means.unread(),
        now=means.clock(),
    )
    return inspection.sentence(live.items)
