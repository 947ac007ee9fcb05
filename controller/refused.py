"""Deployments that ask for a canary and have no run of it: what Events say of that, or who else can tell.

Pure. It reads runs, Deployments and Events (of the core API) as `kubectl get -o json` gives them.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from controller import record

Json = Any
PREFIX = "serin.dev/"
CANARY_OF = f"{PREFIX}canary-of"
OURS = "serin.dev/controller"  # who reports our Events
REFUSED = "Refused"
# A request that is refused ends the run before it as well, and that may take a moment longer.
SAME_TIME = timedelta(minutes=1)


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
    refused = _last(events, name, REFUSED)
    if notes and refused is not None:
        return f"Deployment {name} has no canary run; it was {_told(refused, now)}"
    if CANARY_OF in notes:
        return f"Deployment {name} has no canary run, and no Event says why. {_who_knows(name, where)}"
    if canaries:
        return f"Deployment {name} is stable; its canary is {' or '.join(canaries)}, which has no run yet"
    return (
        f"Deployment {name} has no canary run and asks for none; say whose canary it is:"
        f" kubectl annotate deployment {name} {where} {CANARY_OF}=STABLE"
    )


def since(run: Json, deployments: Sequence[Json], events: Sequence[Json], *, now: datetime) -> str | None:
    """What a newer request of the run's Deployment was refused for; None if there is none."""
    canary, refused = run["spec"]["plan"]["canary"], _last(events, run["spec"]["plan"]["canary"], REFUSED)
    asks = any(_name(one) == canary and _notes(one) for one in deployments)
    if not asks or refused is None or not _newer(refused, run):
        return None
    return f"What its Deployment asks for now was {_told(refused, now)}"


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
    asking = None if deployments is None else {_key(one): _notes(one) for one in deployments}
    refused = {_about(one): one for one in events if one["reason"] == REFUSED and not one.get("related")}
    for key, event in sorted(refused.items()):
        run = newest.get(key)
        if (asking is None or asking.get(key)) and (run is None or _newer(event, run)):
            yield f"Deployment {'/'.join(key) if namespaces else key[1]} was {_told(event, now)}"
    for key, notes in sorted((asking or {}).items()):
        if CANARY_OF in notes and key not in newest and key not in refused:
            who = _who_knows(key[1], f"-n {key[0]}{flags}")
            yield f"Deployment {key[1]} asks for a canary and has no run. {who}"


def _who_knows(name: str, where: str) -> str:
    return (
        f"See its Events: kubectl describe deployment {name} {where}; if there are none,"
        " whether a controller runs: kubectl get leases -A"
    )


def _newer(refused: Json, run: Json) -> bool:
    """Whether the request was refused after the run, which has ended."""
    ended = (record.status(run).get("state") or {}).get("ended") or run["metadata"]["creationTimestamp"]
    return record.ended(run) and at(refused) > record.time(ended) - SAME_TIME


def _gone(name: str, said: Json, now: datetime) -> str:
    """A Deployment that is deleted takes its runs with it."""
    when = record.age(now - at(said))
    return (
        f"there is no Deployment {name} any more, and its runs are gone with it; the last that was said of"
        f" them, {when} ago: {said['reason']}: {said['message']}"
    )


def _told(refused: Json, now: datetime) -> str:
    return f"refused {record.age(now - at(refused))} ago: {refused['message']}"


def _last(events: Sequence[Json], name: str, reason: str | None = None) -> Json | None:
    """The newest of our Events about the Deployment; with a reason, of those about none of its runs."""
    found = [one for one in events if one["involvedObject"]["name"] == name]
    if reason is not None:
        found = [one for one in found if one["reason"] == reason and not one.get("related")]
    return max(found, key=at, default=None)


def at(event: Json) -> datetime:
    """When it was written."""
    said = event.get("eventTime") or event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]
    return record.time(said)


def _about(event: Json) -> tuple[str, str]:
    return event["metadata"]["namespace"], event["involvedObject"]["name"]


def _name(deployment: Json) -> str:
    name: str = deployment["metadata"]["name"]
    return name


def _key(deployment: Json) -> tuple[str, str]:
    return deployment["metadata"]["namespace"], _name(deployment)


def _notes(deployment: Json) -> Mapping[str, str]:
    """The Deployment's annotations that are for us."""
    found = deployment["metadata"].get("annotations") or {}
    return {key: value for key, value in found.items() if key.startswith(PREFIX)}
