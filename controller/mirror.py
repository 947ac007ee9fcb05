"""The mirror of a Shadow check in a VirtualService: what adds it, and what takes it away without a trace.

Pure. It is one entry of a steered route's `mirrors`, known by its destination, the recorder. A mirror of the
user's is never touched: beside their `mirrors` ours is one more entry, and a route with a `mirror` is
refused, since Istio allows one or the other. Everything else stays as it is, byte for byte.
"""

from collections.abc import Iterator

from controller.model import Recording
from controller.ports import Json


def entry(recording: Recording) -> Json:
    """Our entry of `mirrors`."""
    return {
        "destination": {"host": recording.host, "port": {"number": recording.port}},
        "percentage": {"value": recording.percent},
    }


def refusal(service: Json, routes: Iterator[int]) -> tuple[str, str, str] | None:
    """Field, value and remedy where a steered route cannot have a mirror of ours; None if all can."""
    for index in routes:
        http, where = service["spec"]["http"][index], f"spec.http[{index}]"
        if "mirror" in http:
            remedy = "Istio takes no other mirror beside it; write it as an entry of mirrors"
            return f"{where}.mirror", "set", f"{remedy}, or take the Shadow check out of the policy"
        if "mirrors" in http and not _mirrors(http):
            return f"{where}.mirrors", "empty", "remove the field, or the Shadow check from the policy"
    return None


def stands(service: Json, recording: Recording) -> bool:
    """Whether our mirror is in any route."""
    return any(True for _ in _places(service, recording))


def adding(service: Json, routes: Iterator[int], recording: Recording) -> list[Json]:
    """JSON Patch operations that give each of these routes our mirror, where it can have one."""
    there = {route for route, _ in _places(service, recording)}
    operations: list[Json] = []
    for index in routes:
        http, path = service["spec"]["http"][index], f"/spec/http/{index}"
        if index in there or "mirror" in http or ("mirrors" in http and not _mirrors(http)):
            continue
        # the whole route, as it was read: a `test` cannot say that something is not there
        operations.append({"op": "test", "path": path, "value": http})
        new, last = entry(recording), f"{path}/mirrors/-"
        ours = (
            {"path": last, "value": new} if "mirrors" in http else {"path": f"{path}/mirrors", "value": [new]}
        )
        operations.append({"op": "add", **ours})
    return operations


def removing(service: Json, recording: Recording) -> list[Json]:
    """JSON Patch operations that take our mirror out of every route, with a list that is ours alone."""
    operations: list[Json] = []
    for route, places in sorted(_by_route(service, recording).items()):
        mirrors = service["spec"]["http"][route]["mirrors"]
        path = f"/spec/http/{route}/mirrors"
        if len(places) == len(mirrors):
            operations += [{"op": "test", "path": path, "value": mirrors}, {"op": "remove", "path": path}]
            continue
        for place in reversed(places):
            operations.append({"op": "test", "path": f"{path}/{place}", "value": mirrors[place]})
            operations.append({"op": "remove", "path": f"{path}/{place}"})
    return operations


def _places(service: Json, recording: Recording) -> Iterator[tuple[int, int]]:
    """Route and place in its `mirrors` of each entry that is ours."""
    ours = entry(recording)["destination"]
    for route, http in enumerate(service.get("spec", {}).get("http") or []):
        for place, one in enumerate(_mirrors(http)):
            if isinstance(one, dict) and one.get("destination") == ours:
                yield route, place


def _mirrors(http: Json) -> list[Json]:
    found = http.get("mirrors")
    return found if isinstance(found, list) else []


def _by_route(service: Json, recording: Recording) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for route, place in _places(service, recording):
        found.setdefault(route, []).append(place)
    return found
