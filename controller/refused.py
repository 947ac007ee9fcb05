"""Deployments that ask for a canary and have no run of it: what Events say of that, or who else can tell.

Pure. It reads runs, Deployments and Events (of the core API) as `kubectl get -o json` gives them.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from controller import record

Json = Any
PREFIX = "serin.dev/"
CANARY_OF = f"{PREFIX}canary-of"
OURS = "serin.dev/controller"  # who reports our Events
REFUSED = "Refused"
MENDED = "Mended"  # the refusal before it is none any more


def unfound(
    name: str, deployments: Sequence[Json], events: Sequence[Json], *, now: datetime, flags: str
) -> str | None:
    """Why the Deployment of that name has no run; None if nothing is known of one. `flags`: which cluster."""
    there = next((one for one in deployments if one["metadata"]["name"] == name), None)
    said = _last(events, name)
    if there is None:
        return None if said is None else _gone(name, said, now)
    where = f"-n {there['metadata']['namespace']}{flags}"
    notes = _notes(there)
    canaries = sorted(_name(one) for one in deployments if _notes(one).get(CANARY_OF) == name)
    refused = standing(events).get(_key(there))
    if refused is not None and _marked(there):
        return f"Deployment {name} has no canary run; it was {_told(refused, now)}"
    if CANARY_OF in notes:
        return f"Deployment {name} has no canary run, and no Event says why. {_who_knows(name, where)}"
    if canaries:
        looked = f"kubectl serin status {canaries[0]} {where}"
        return f"Deployment {name} is stable; its canary is {' or '.join(canaries)}; see: {looked}"
    return (
        f"Deployment {name} has no canary run and asks for none; say whose canary it is:"
        f" kubectl annotate deployment {name} {where} {CANARY_OF}=STABLE"
    )


def since(run: Json, deployments: Sequence[Json], events: Sequence[Json], *, now: datetime) -> str | None:
    """What a newer request of the run's Deployment is refused for, or was until the run had ended."""
    canary = run["metadata"]["namespace"], run["spec"]["plan"]["canary"]
    newest = _newest(events).get(canary)
    asks = any(_key(one) == canary and _marked(one) for one in deployments)
    if not asks or newest is None or _answers(run, newest):
        return None
    if newest["reason"] == REFUSED:
        return f"What its Deployment asks for now was {_told(newest, now)}{_beside(run)}"
    ended = record.instant(run, "ended")
    late = ended is not None and at(newest) > ended
    return f"Mended {record.age(now - at(newest))} ago: {newest['message']}" if late else None


def listed(
    runs: Sequence[Json],
    deployments: Sequence[Json] | None,
    events: Sequence[Json],
    *,
    now: datetime,
    flags: str,
    namespaces: bool = False,
) -> Iterator[str]:
    """A line for each Deployment whose newest request has no run. None: which are there was not looked at."""
    newest: dict[tuple[str, str], Json] = {}
    for run in sorted(runs, key=record.order):
        newest[run["metadata"]["namespace"], run["spec"]["plan"]["canary"]] = run
    there = None if deployments is None else {_key(one): one for one in deployments}
    refused = standing(events)
    for key, event in sorted(refused.items()):
        run = newest.get(key)
        if (there is None or (key in there and _marked(there[key]))) and not _answers(run, event):
            name = "/".join(key) if namespaces else key[1]
            yield f"Deployment {name} was {_told(event, now)}{_beside(run)}"
    for key, deployment in sorted((there or {}).items()):
        if CANARY_OF in _notes(deployment) and key not in newest and key not in refused:
            who = _who_knows(key[1], f"-n {key[0]}{flags}")
            yield f"Deployment {key[1]} asks for a canary and has no run. {who}"


def standing(events: Sequence[Json]) -> dict[tuple[str, str], Json]:
    """The refusals that no newer Event takes back, by Deployment."""
    return {key: one for key, one in _newest(events).items() if one["reason"] == REFUSED}


def _who_knows(name: str, where: str) -> str:
    return (
        f"See its Events: kubectl describe deployment {name} {where}; if there are none,"
        " whether a controller runs: kubectl get leases -A"
    )


def _answers(run: Json | None, refused: Json) -> bool:
    """Whether the run was asked for after the refusal: that is mended then, even if no Event says so."""
    return run is not None and record.time(run["metadata"]["creationTimestamp"]) > at(refused)


def _beside(run: Json | None) -> str:
    """What becomes of the run that there is."""
    return "" if run is None or record.ended(run) else f"; {run['metadata']['name']} keeps the plan it has"


def _gone(name: str, said: Json, now: datetime) -> str:
    """A Deployment that is deleted takes its runs with it."""
    when = record.age(now - at(said))
    return (
        f"there is no Deployment {name} any more, and its runs are gone with it; the last that was said of"
        f" them, {when} ago: {said['reason']}: {said['message']}"
    )


def _told(refused: Json, now: datetime) -> str:
    return f"refused {record.age(now - at(refused))} ago: {refused['message']}"


def _last(events: Sequence[Json], name: str) -> Json | None:
    """The newest of our Events about the Deployment."""
    return max((one for one in events if one["involvedObject"]["name"] == name), key=at, default=None)


def _newest(events: Sequence[Json]) -> dict[tuple[str, str], Json]:
    """What was said last of each Deployment's requests; what holds a run has that as `related`."""
    found: dict[tuple[str, str], Json] = {}
    for one in sorted(events, key=at):
        if one["reason"] in {REFUSED, MENDED} and not one.get("related"):
            found[one["metadata"]["namespace"], one["involvedObject"]["name"]] = one
    return found


def at(event: Json) -> datetime:
    """When it was said last: an Event that is said again and again may be one, with a series."""
    again = (event.get("series") or {}).get("lastObservedTime")
    said = again or event.get("eventTime") or event.get("lastTimestamp")
    return record.time(said or event["metadata"]["creationTimestamp"])


def _name(deployment: Json) -> str:
    name: str = deployment["metadata"]["name"]
    return name


def _key(deployment: Json) -> tuple[str, str]:
    return deployment["metadata"]["namespace"], _name(deployment)


def _notes(deployment: Json) -> Mapping[str, str]:
    """The Deployment's annotations that are for us."""
    found = deployment["metadata"].get("annotations") or {}
    return {key: value for key, value in found.items() if key.startswith(PREFIX)}


def _marked(deployment: Json) -> bool:
    """Whether anything on it is for us, also where nobody looks for it: as labels, or in its pod template."""
    template = ((deployment.get("spec") or {}).get("template") or {}).get("metadata") or {}
    places = (deployment["metadata"], template)
    found = (key for place in places for kind in ("annotations", "labels") for key in place.get(kind) or ())
    return any(key.startswith(PREFIX) for key in found)
