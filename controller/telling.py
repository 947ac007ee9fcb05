"""Who is told what: Events for everybody who looks, alerts for those whom the policy names.

Pure. What is said goes out as an action; an alert also stays in the run's outbox until it has arrived.
"""

from datetime import datetime, timedelta

from analysis.values import replace
from controller.explain import duration
from controller.model import Action, Alert, Message, Reason, Run, Tell

# Not people's own doing, so people are told.
ALERTED_HOLDS = frozenset(
    {
        Reason.INCONCLUSIVE,
        Reason.NO_DATA,
        Reason.CANARY_UNDER_PROVISIONED,
        Reason.TRAFFIC_DOES_NOT_FOLLOW_WEIGHT,
        Reason.INTERRUPTED,
        Reason.STABLE_UNAVAILABLE,
        Reason.READY_TO_PROMOTE,
        Reason.REFUSED,
        Reason.INPUTS_DRIFTED,
        Reason.AWAITING_APPROVAL,
        Reason.PREFLIGHT_FAILED,
    }
)

SEVERITIES = ("info", "warning", "critical")  # as Prometheus' alerts have them: info needs nobody
GRAVE = {"RolledBack": "critical", "Held": "warning", "Drifted": "warning", "Warned": "warning"}
# Ends for which nothing had been found against the canary.
MILDER = {Reason.ABORTED: "warning", Reason.STABLE_CHANGED: "warning", Reason.SUPERSEDED: "info"}

Next = tuple[Run, tuple[Action, ...]]
"""The run as it is from now on, and what has to be done for it."""


def hold(run: Run, reason: Reason, message: str, now: datetime) -> Next:
    """The run holds; people are told once a step, however often the reason comes and goes."""
    run = replace(run, hold=reason, message=message)
    if reason.value in run.told:
        return run, ()
    run = replace(run, told=(*run.told, reason.value))
    return say(run, Tell(reason, message, "Held" if reason in ALERTED_HOLDS else None), now)


def say(run: Run, what: Tell, now: datetime) -> Next:
    """`what` as an action, and in the outbox for every receiver that wants to hear of its outcome."""
    wanted = [i for i, alert in enumerate(run.plan.policy.alerts) if heard(alert, what.outcome, what.reason)]
    waiting = {message.id.rpartition("/")[0] for message in run.outbox}
    messages = tuple(
        Message(
            id=f"{run.plan.namespace}/{run.name}/{run.step}/{what.outcome}/{what.reason}/{index}/{visit(run)}",
            alert=index,
            outcome=what.outcome or "",
            reason=what.reason,
            sentence=what.message,
            at=now,
        )
        for index in wanted
    )
    new = (message for message in messages if message.id.rpartition("/")[0] not in waiting)
    return replace(run, outbox=(*run.outbox, *new)), (what,)


def severity(outcome: str, reason: Reason) -> str:
    """How much it matters to whoever is on call: one of `SEVERITIES`."""
    if outcome == "RolledBack" and reason in MILDER:
        return MILDER[reason]
    return GRAVE.get(outcome, "info")


def heard(alert: Alert, outcome: str | None, reason: Reason) -> bool:
    """Whether the receiver wants to hear of this."""
    if outcome is None or outcome not in alert.on:
        return False
    return SEVERITIES.index(severity(outcome, reason)) >= SEVERITIES.index(alert.severity)


def parting(run: Run, what: Tell, now: datetime) -> Next:
    """As `say`, of a run that ends; an alert that cannot be put together does not keep it from that."""
    try:
        return say(run, what, now)
    except Exception:  # noqa: BLE001 - the traffic goes first; the Event is told
        return run, (what,)


def visit(run: Run) -> str:
    """What tells two events of one name apart, whoever tells them: the run's uid, and its latest raise.

    A run that was deleted and asked for again has its name again; one that was interrupted, its step again.
    """
    raises = (change.at for change in reversed(run.weights) if change.reason is Reason.WEIGHT_RAISED)
    return f"{run.identity}-{(next(raises, run.created).timestamp() * 1000):.0f}"


def spoken(value: timedelta) -> str:
    """A duration as a sentence says it: in seconds, from an hour on as `explain` does."""
    return duration(value) if value >= timedelta(hours=1) else f"{value.total_seconds():.4g} s"
