"""Ways to the canary that no weight governs: routes beside the split that lead all users' requests to it.

Pure. A route that asks who is calling (a header, a cookie, a host, a path, a client's label) is its owner's
business: testers are pinned to a canary on purpose. Every other way past the split is one on which a rollback
takes nothing away. A destination without a subset is such a way, too: its Service selects both arms' pods.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Json = Any

# Conditions of a match that pick some of the callers; gateways, ports, schemes and methods are everybody's,
# and `withoutHeaders` is all but a few.
PICKS = ("headers", "queryParams", "sourceLabels", "sourceNamespace", "authority")
EVERYTHING = frozenset({"", "/", ".*", "/.*", ".+", "/.+", "^.*$", "^/.*$"})  # as a prefix or regex of paths

Found = tuple[str, str, str]
"""Field, value and remedy, as a `Refusal` has them."""


def unavoidable(vs: Json, *, stable: str, canary: str) -> Found | None:
    """The first way of all users' requests to the canary that no weight of ours governs; None without one."""
    return next(_ways(vs, stable, canary), None)


def pinned(vs: Json, *, stable: str, canary: str) -> list[str]:
    """The http routes that lead the requests they match to the canary, whatever the weight."""
    routes = _routes(vs, "http")
    return [where for where, http in routes if _aside(http, vs, stable, canary) and not _everybody(http)]


def around(other: Json, *, host: str) -> str | None:
    """Where another VirtualService leads all its requests to the host without a subset; None if nowhere.

    Its hosts are others, and so are its callers: no weight of ours governs what they meet. One without hosts
    is a part of one that has some and picks callers for it.
    """
    if not other.get("spec", {}).get("hosts"):
        return None
    for kind in ("http", "tls", "tcp"):
        for where, route in _routes(other, kind):
            bare = (one for one in _targets(route) if not subset(one) and one.get("weight") != 0)
            all_pods = any(fqdn(str(_destination(one).get("host", "")), other) == host for one in bare)
            if all_pods and (kind != "http" or _everybody(route)):
                return where
    return None


def doubled(other: Json, vs: Json) -> list[str]:
    """The hosts that both VirtualServices have for sidecars, which read one of them; gateways read both."""
    mine, theirs = (one.get("spec", {}) for one in (vs, other))
    if not all("mesh" in (one.get("gateways") or ["mesh"]) for one in (mine, theirs)):
        return []
    hosts = [{fqdn(str(name), of) for name in of.get("spec", {}).get("hosts") or ()} for of in (vs, other)]
    return sorted(hosts[0] & hosts[1])


def _ways(vs: Json, stable: str, canary: str) -> Iterator[Found]:
    for where, http in _routes(vs, "http"):
        if (what := _aside(http, vs, stable, canary)) and _everybody(http):
            put = "add subset {} beside it with weight 100" if what == canary else "name subset {}"
            remedy = f"{put.format(stable)}, or give the route a match that picks callers (a header, a path)"
            yield f"{where}.route", f"{_said(what, canary)} for all requests", remedy
    for kind in ("tls", "tcp"):
        for where, route in _routes(vs, kind):
            given = [one for one in _targets(route) if one.get("weight") != 0]
            if what := next(filter(None, (_leads(one, vs, canary) for one in given)), None):
                to = f"subset {canary}" if what == canary else _said(what, canary)
                yield (
                    f"{where}.route",
                    f"{to}, with no weight of ours",
                    f"name {stable} alone: only http is steered",
                )


def _said(what: str, canary: str) -> str:
    return f"subset {canary} alone" if what == canary else f"host {what} without a subset"


def _aside(http: Json, vs: Json, stable: str, canary: str) -> str | None:
    """What leads to the canary in a route that is no split of the two; None if nothing does."""
    targets = _targets(http)
    subsets = {subset(one) for one in targets}
    if {stable, canary} <= subsets:
        return None
    if canary in subsets:
        return canary
    return next(filter(None, (_leads(one, vs, canary) for one in targets)), None)


def _leads(target: Json, vs: Json, canary: str) -> str | None:
    """What a destination leads to the canary by: its subset, or a steered host without one."""
    if subset(target) == canary:
        return canary
    host = str(_destination(target).get("host", ""))
    bare = not subset(target) and fqdn(host, vs) in _hosts(vs, canary)
    return host if bare else None


def _hosts(vs: Json, canary: str) -> set[str]:
    """The hosts of which the canary is a subset."""
    targets = (one for _, http in _routes(vs, "http") for one in _targets(http))
    return {fqdn(str(_destination(one).get("host", "")), vs) for one in targets if subset(one) == canary}


def _everybody(http: Json) -> bool:
    """Whether a route takes all users' requests: it has no match, or one that picks nobody."""
    matches = http.get("match")
    if not isinstance(matches, list):
        return not matches
    return not matches or any(isinstance(one, Mapping) and not _picks(one) for one in matches)


def _picks(match: Mapping[str, Json]) -> bool:
    if any(match.get(name) for name in PICKS):
        return True
    path = match.get("uri")
    if not isinstance(path, Mapping) or not path:
        return False
    return any(key == "exact" or str(value) not in EVERYTHING for key, value in path.items())


# -- small words -----------------------------------------------------------------------------------


def _routes(vs: Json, kind: str) -> Iterator[tuple[str, Json]]:
    """The routes of a kind, each with where it stands."""
    found = vs.get("spec", {}).get(kind)
    for index, route in enumerate(found if isinstance(found, list) else ()):
        if isinstance(route, Mapping):
            yield f"spec.{kind}[{index}]", route


def _targets(route: Json) -> list[Json]:
    targets = route.get("route")
    return [one for one in targets if isinstance(one, Mapping)] if isinstance(targets, list) else []


def _destination(target: Json) -> Json:
    found = target.get("destination")
    return found if isinstance(found, Mapping) else {}


def subset(target: Json) -> str:
    """The subset that a destination names, or nothing."""
    return str(_destination(target).get("subset") or "")


def fqdn(host: str, within: Json) -> str:
    """The host as Istio completes it: a name without dots is of the object's own namespace."""
    namespace = within.get("metadata", {}).get("namespace", "default")
    return host if "." in host else f"{host}.{namespace}.svc.cluster.local"
