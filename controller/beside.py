"""What a pass asks, tells and measures beside what it decides: any of it may fail, and the pass goes on.

Nothing here stands between a failed check and the patch that takes the traffic away, or costs evidence.
"""

from collections.abc import Callable, Mapping, Sequence
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

    Of the canary's pods, if one of theirs is: it is they of whom nothing is known. Of stable's it is said
    that they are, and whether the canary has any.
    """
    return spared("troubles", run, lambda: _worst(metrics, run, name), "")


def _worst(metrics: MetricsSource, run: Run, name: str) -> str:
    found, first = metrics.troubles(name), f"{run.plan.canary}-{run.plan.canary_hash}-"
    lasting = {pod: one for pod, one in found.items() if one.failures >= LASTING}
    if not lasting:
        return ""
    own = {pod: one for pod, one in found.items() if pod.startswith(first)}
    read = any(pod.startswith(first) for pod in metrics.read(name))
    # where nothing is known of the canary, its pods' trouble says why, however young they are
    if canary := {pod: one for pod, one in own.items() if pod in lasting or not read}:
        others = len(lasting.keys() - own.keys())
        return _named(canary, also=[f"{others} of {run.plan.stable}"] if others else [])
    nobody = "" if read else f"{run.plan.canary} has no pod that could be asked; "
    return f"{nobody}of {run.plan.stable}'s pods, {_named(lasting)}"


def _named(troubles: Mapping[str, Trouble], *, also: Sequence[str] = ()) -> str:
    """The pod in trouble longest, how many there are beside it, and what is wrong with it."""
    worst = min(troubles, key=lambda pod: (troubles[pod].since, pod))
    beside = [*([f"{len(troubles) - 1} more"] if len(troubles) > 1 else []), *also]
    others = f" (and {' and '.join(beside)})" if beside else ""
    return f"{worst}{others}: {troubles[worst].what}"


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
