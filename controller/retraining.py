"""Inputs that are no longer those of the training: nothing is raised or rolled back, training is asked for.

Pure. Both arms see the same requests, so inputs that differ from the canary's training are no fault of the
canary's, and no comparison of the two shows what they cost. They are a reason to stop and think: the run
holds until somebody approves, or until inputs that are still recorded are again as they were. Once a day
and canary a message goes out for whoever trains models, with what has drifted; it decides nothing either.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from math import isfinite
from typing import Annotated, Any

import msgspec

from analysis.values import replace
from controller.model import Drifted, Inputs, Reason, Run, Seen, Stage, Tell
from controller.telling import Next, say

Json = Any

COOL_DOWN = timedelta(hours=24)  # between two messages about one canary; nobody trains more often by hand
NAMED = 20  # features that are kept; all are counted
LONGEST = 100  # characters of a feature's name
SPOKEN = 3  # features in a sentence
LIVE = frozenset({Stage.WAITING, Stage.STEPPING})


# -- what the worker says --------------------------------------------------------------------------


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # status has 64 bits for it


class _Inputs(msgspec.Struct, frozen=True):
    features: _Count = 0
    requests: _Count = 0
    count: _Count = 0
    drifted: tuple[Drifted, ...] = ()
    trouble: str = ""


def understood(said: Json) -> Inputs | None:
    """What the worker says of the inputs; None if that is nothing, or cannot be read: it is not needed."""
    try:
        found = msgspec.convert(said, _Inputs)
    except msgspec.ValidationError:
        return None
    if found.trouble or found.requests <= 0:
        return None
    sound = [one for one in found.drifted[:NAMED] if isfinite(one.value) and one.name.isprintable()]
    named = tuple(replace(one, name=one.name[:LONGEST], by=one.by[:LONGEST]) for one in sound)
    count = max(found.count, len(named)) if named else 0
    return Inputs(features=max(found.features, count), requests=found.requests, count=count, drifted=named)


# -- in the machine --------------------------------------------------------------------------------


def known(run: Run, seen: Seen) -> Run:
    """The run with what is known of its inputs; silence changes nothing, nor do figures without a name."""
    now = seen.inputs
    if now is None or run.stage not in LIVE:
        return run
    before = () if run.inputs is None else run.inputs.drifted
    if {one.name for one in before} == {one.name for one in now.drifted}:
        return run
    return replace(run, inputs=now if now.drifted else None)


def sentence(inputs: Inputs) -> str:
    """How the inputs differ from the training."""
    names = ", ".join(one.name for one in inputs.drifted[:SPOKEN])
    more = f" and {inputs.count - SPOKEN} more" if inputs.count > SPOKEN else ""
    return (
        f"inputs differ from training: {inputs.count} of {inputs.features} features ({names}{more}) in"
        f" {inputs.requests} requests; both versions see them, so nothing is rolled back and nothing raised"
        " until somebody approves or trains anew"
    )


def last_asked(runs: Iterable[Json]) -> datetime | None:
    """When the newest of these CanaryRuns' messages went out; somebody's edit is none."""
    found = []
    for run in runs:
        said = run.get("status", {}).get("state", {}).get("retrainingAsked")
        with suppress(TypeError, ValueError):
            at = datetime.fromisoformat(said)
            found += [at] if at.tzinfo else []
    return max(found, default=None)


def asked(after: Next, seen: Seen, now: datetime) -> Next:
    """The same, and whoever trains models is told, if that was not done within `COOL_DOWN`."""
    run, actions = after
    if run.inputs is None or run.stage not in LIVE:
        return after
    last = max(filter(None, (run.retraining_asked, seen.retraining_asked)), default=None)
    if last is not None and now - last < COOL_DOWN:
        return after
    what = Tell(Reason.RETRAINING_WANTED, sentence(run.inputs), "Drifted")
    run, told = say(replace(run, retraining_asked=now), what, now)
    return run, (*actions, *told)


# -- in a message ----------------------------------------------------------------------------------


def evidence(run: Run) -> Json:
    """What has drifted from what, for whoever trains models; None where nothing is known to have."""
    if run.inputs is None:
        return None
    artifacts = run.plan.artifacts
    return {
        "baseline": None if artifacts is None else artifacts.baseline,
        "model": None if artifacts is None else artifacts.canary,
        "features": run.inputs.features,
        "requests": run.inputs.requests,
        "count": run.inputs.count,
        "drifted": [msgspec.to_builtins(one) for one in run.inputs.drifted],
    }
