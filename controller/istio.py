"""Istio's weights: which routes of a VirtualService are steered, and the patch that steers them.

Only `weight` is ever written, and only of the two destinations that name the run's subsets (a Shadow
check adds a mirror of its own, and takes it away: `mirror`); routes, matches, retries, headers and mirrors
are the user's and stay as they are, byte for byte. A route that we would have to guess about is refused
with the field, its value and what to do.

All routes that name both subsets move together. What leads to the canary beside them is looked at in
`detours`: a route that picks its callers is left to its owner.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from controller import detours, mirror, writing
from controller.detours import fqdn, subset
from controller.kube import JSON_PATCH, ApiError
from controller.model import Place, RouteSeen
from controller.ports import Json
from controller.wire import Steered, stored

ATTEMPTS = 4  # the first and three more, each on the object as it is by then
REMEMBERED = 10_000  # VirtualServices whose reading is kept
STALE = {409, 422}  # somebody wrote in between; a `test` of ours found another destination

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something cannot be steered: the field, what stands there, what to do about it."""

    field: str
    value: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field} is {self.value}: {self.remedy}"


class Unsteerable(Exception):
    """The VirtualService cannot be given the weight that was asked for; the text is a refusal's."""


@dataclass(frozen=True, slots=True)
class Split:
    """A route that names both subsets: its index in `spec.http`, theirs in `route`, and their weights.

    Weights are as written; None where absent. `again` holds further destinations of the canary's subset
    (index, destination), and `others` is the sum of all other weights; both only in refused routes.
    """

    route: int
    stable: int
    canary: int
    destinations: tuple[Json, Json]
    weights: tuple[Json, Json]
    again: tuple[tuple[int, Json], ...] = ()
    others: int = 0


@dataclass(frozen=True, slots=True)
class Steering:
    """Where the canary's weight stands in a VirtualService, and the host that both subsets are of."""

    host: str
    splits: tuple[Split, ...]


def steering(vs: Json, *, stable_subset: str, canary_subset: str) -> Steering | Refusal:
    """The routes to steer, or why this VirtualService is refused (for a new run)."""
    found = located(vs, stable_subset=stable_subset, canary_subset=canary_subset)
    if isinstance(found, Refusal):
        return found
    return next((bad for split in found.splits if (bad := _weights_refused(split))), found)


def located(vs: Json, *, stable_subset: str, canary_subset: str) -> Steering | Refusal:
    """As `steering`, whatever the weights are: mid-run, odd weights are drift and are set right."""
    routes = vs.get("spec", {}).get("http") or []
    refused = next(_refusals(vs, routes, stable_subset, canary_subset), None)
    if refused:
        return refused
    splits = tuple(_splits(routes, stable_subset, canary_subset))
    return Steering(fqdn(splits[0].destinations[0]["host"], vs), splits)


def _splits(routes: Sequence[Json], stable: str, canary: str) -> Iterator[Split]:
    """The routes that name both subsets."""
    for index, http in enumerate(routes):
        targets = http.get("route") or []
        subsets = [subset(target) for target in targets]
        if stable in subsets and canary in subsets:
            yield _split(
                index, targets, subsets.index(stable), [i for i, s in enumerate(subsets) if s == canary]
            )


def _split(route: int, targets: Sequence[Json], stable: int, canaries: Sequence[int]) -> Split:
    first, *more = canaries
    return Split(
        route=route,
        stable=stable,
        canary=first,
        destinations=(targets[stable]["destination"], targets[first]["destination"]),
        weights=(targets[stable].get("weight"), targets[first].get("weight")),
        again=tuple((place, targets[place]["destination"]) for place in more),
        others=sum(_number(item) for place, item in enumerate(targets) if place not in {stable, *canaries}),
    )


def _refusals(vs: Json, routes: Sequence[Json], stable: str, canary: str) -> Iterator[Refusal]:
    """What speaks against the VirtualService, the most telling first."""
    if not vs.get("spec", {}).get("hosts"):
        yield Refusal(
            "spec.hosts", "empty (a delegate)", "name the VirtualService that has hosts, not a delegate"
        )
    if not routes:
        yield Refusal(
            "spec.http", "empty", f"add a route to subsets {stable} and {canary}; only http is steered"
        )
    for index, http in enumerate(routes):
        yield from _route_refusals(f"spec.http[{index}]", http, vs, stable, canary)
    alone = unavoidable(vs, stable_subset=stable, canary_subset=canary)
    if alone:
        yield alone
    if not any(True for _ in _splits(routes, stable, canary)):
        yield from _unsplit(routes, stable, canary)


def _route_refusals(where: str, http: Json, vs: Json, stable: str, canary: str) -> Iterator[Refusal]:
    """What speaks against one route."""
    targets = http.get("route") or []
    subsets = [subset(target) for target in targets]
    if http.get("delegate"):
        value = _quoted(http["delegate"].get("name"))
        yield Refusal(f"{where}.delegate", value, "move the delegate's routes into this VirtualService")
    if stable in subsets and canary in subsets:
        yield from _pair_refusals(where, targets, vs, stable, canary)


def _pair_refusals(
    where: str, targets: Sequence[Json], vs: Json, stable: str, canary: str
) -> Iterator[Refusal]:
    """What speaks against a route that names both subsets."""
    for place, target in enumerate(targets):
        if subset(target) not in {stable, canary}:
            value = _quoted(subset(target) or target.get("destination", {}).get("host"))
            remedy = f"only {stable} and {canary} may share a route; give the third one a route of its own"
            yield Refusal(f"{where}.route[{place}].destination", value, remedy)
    if len(targets) > 2:
        remedy = f"name {stable} and {canary} once each"
        yield Refusal(f"{where}.route", f"{len(targets)} destinations", remedy)
    hosts = {fqdn(target.get("destination", {}).get("host", ""), vs) for target in targets}
    if len(hosts) > 1:
        remedy = "use one host with two subsets of its DestinationRule"
        yield Refusal(f"{where}.route", f"split over hosts {' and '.join(sorted(hosts))}", remedy)


def _unsplit(routes: Sequence[Json], stable: str, canary: str) -> Iterator[Refusal]:
    """Why no route names both subsets."""
    for index, http in enumerate(routes):
        targets = http.get("route") or []
        hosts = sorted({str(target.get("destination", {}).get("host")) for target in targets})
        if len(hosts) > 1:
            remedy = f"use one host with subsets {stable} and {canary} of its DestinationRule"
            yield Refusal(f"spec.http[{index}].route", f"split over hosts {' and '.join(hosts)}", remedy)
    named = sorted({subset(target) or "none" for http in routes for target in http.get("route") or []})
    remedy = f"give one route both {stable} (weight 100) and {canary} (weight 0), or set serin.dev/*-subset"
    yield Refusal("spec.http[].route[].destination.subset", ", ".join(named) or "nowhere", remedy)


def _weights_refused(split: Split) -> Refusal | None:
    """Why the weights of a route cannot be taken as percent; both absent are read as 100 and 0.

    The CRD's schema takes 150, and 0 beside 0; only istiod's webhook, where installed, refuses some.
    """
    where = f"spec.http[{split.route}].route[].weight"
    if split.weights == (None, None):
        return None
    stable, canary = (0 if weight is None else weight for weight in split.weights)
    sound = all(isinstance(weight, int) and 0 <= weight <= 100 for weight in (stable, canary))
    if sound and stable + canary == 100:
        return None
    return Refusal(
        where, f"{stable} and {canary}", "give whole percent that add up to 100, such as 100 and 0"
    )


def seen_weight(found: Steering) -> int | None:
    """The canary's weight, or None if the routes disagree or their weights are not percent.

    An absent weight is 0, as in Istio; where both are, the canary is taken to have none.
    """
    weights = {
        None if split.others or _weights_refused(split) else split.weights[1] or 0 for split in found.splits
    }
    return weights.pop() if len(weights) == 1 else None


def patch(found: Steering, weight: int) -> list[Json]:
    """JSON Patch operations that make `weight` the canary's percentage in every steered route.

    Each destination is tested first, whole: if a route moved, nothing is written. `add` replaces a
    weight and also works where there is none. The resourceVersion is not tested here: every annotation
    anybody writes changes it, and a rollback must not fail on that.
    """
    return [operation for split in found.splits for operation in _operations(split, weight)]


def _operations(split: Split, weight: int) -> list[Json]:
    base = f"/spec/http/{split.route}/route"
    stable, canary = f"{base}/{split.stable}", f"{base}/{split.canary}"
    rest = max(0, 100 - weight - split.others)
    return [
        {"op": "test", "path": f"{stable}/destination", "value": split.destinations[0]},
        {"op": "test", "path": f"{canary}/destination", "value": split.destinations[1]},
        {"op": "add", "path": f"{stable}/weight", "value": rest},
        {"op": "add", "path": f"{canary}/weight", "value": weight},
        *({"op": "test", "path": f"{base}/{i}/destination", "value": item} for i, item in split.again),
        *({"op": "add", "path": f"{base}/{i}/weight", "value": 0} for i, _ in split.again),
    ]


def to_zero(vs: Json, *, stable_subset: str, canary_subset: str) -> Steering:
    """The routes whose canary weight must fall, also in a VirtualService that would be refused by now.

    Whatever was done to it mid-run, no rollback fails on a rule that only guards beginnings.
    """
    routes = vs.get("spec", {}).get("http") or []
    return Steering("", tuple(_splits(routes, stable_subset, canary_subset)))


def unavoidable(vs: Json, *, stable_subset: str, canary_subset: str) -> Refusal | None:
    """The way, if any, of all users' requests to the canary whatever our weight is."""
    found = detours.unavoidable(vs, stable=stable_subset, canary=canary_subset)
    return None if found is None else Refusal(*found)


# -- what else must hold ---------------------------------------------------------------------------


def subsets_told_apart(
    rules: Sequence[Json],
    found: Steering,
    *,
    stable_subset: str,
    canary_subset: str,
    stable_labels: Sequence[Mapping[str, str]],
    canary_labels: Sequence[Mapping[str, str]],
) -> Refusal | None:
    """Why the DestinationRules do not tell the arms apart; None if each subset selects its arm alone.

    `rules` may be all of the namespace; those for the steered host count. Labels are those of each pod
    of an arm, and of its template, so that an arm without pods is judged too.
    """
    mine = [rule for rule in rules if fqdn(rule.get("spec", {}).get("host", ""), rule) == found.host]
    if not mine:
        both = f"the subsets {stable_subset} and {canary_subset}"
        return Refusal("DestinationRule", "none", f"add one for the host {found.host}, with {both}")
    subsets = {
        item["name"]: (rule["metadata"]["name"], item.get("labels") or {})
        for rule in mine
        for item in rule["spec"].get("subsets") or []
    }
    names = " and ".join(rule["metadata"]["name"] for rule in mine)
    return _told_apart(
        stable_subset, names, subsets, mine=stable_labels, theirs=canary_labels
    ) or _told_apart(canary_subset, names, subsets, mine=canary_labels, theirs=stable_labels)


def _told_apart(
    name: str,
    rules: str,
    subsets: Mapping[str, tuple[str, Mapping[str, str]]],
    *,
    mine: Sequence[Mapping[str, str]],
    theirs: Sequence[Mapping[str, str]],
) -> Refusal | None:
    """Why the subset `name` does not select all of `mine` and none of `theirs`."""
    if name not in subsets:
        known = ", ".join(sorted(subsets)) or "none"
        return Refusal(
            f"DestinationRule {rules}: spec.subsets",
            known,
            f"add subset {name}, which selects the pods of its arm alone",
        )
    rule, labels = subsets[name]
    where = f"DestinationRule {rule}: spec.subsets[{name}].labels"
    value = ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "empty"
    if any(labels.items() <= pod.items() for pod in theirs):
        return Refusal(
            where, value, "it selects pods of the other arm too; add a label that only its own pods have"
        )
    if not all(labels.items() <= pod.items() for pod in mine):
        return Refusal(
            where, value, "it does not select every pod of its arm; use labels of its pod template"
        )
    return None


def ambient(namespace: Json, pods: Sequence[Mapping[str, str]] = ()) -> Refusal | None:
    """Why the namespace's traffic does not obey a VirtualService; None in sidecar mode.

    `pods` are the labels of each pod (or template): the label on a pod overrides the namespace's.
    """
    mode = "istio.io/dataplane-mode"
    default = (namespace.get("metadata", {}).get("labels") or {}).get(mode)
    if any(labels.get(mode, default) == "ambient" for labels in (*pods, *([] if pods else [{}]))):
        remedy = f"use sidecars (remove {mode}, set istio-injection=enabled); waypoints are not steered yet"
        return Refusal(f"label {mode}", "ambient", remedy)
    return None


# -- the adapter -----------------------------------------------------------------------------------


class IstioRouter:
    """`ports.TrafficRouter` on VirtualServices.

    `newest(namespace, name)` gives the VirtualService as last told; `call` is `kube.Kube.call`, and
    `wrote` hears each object as it is after a patch, so that whoever looks next sees it.
    """

    def __init__(
        self,
        newest: Callable[[str, str], Json | None],
        call: Callable[..., Awaitable[Json]],
        *,
        wrote: Callable[[Json], None] = lambda _: None,
    ) -> None:
        self._newest = newest
        self._call = call
        self._wrote = wrote
        # what was seen of each, the object that it was seen of, and for whom
        self._looked: dict[tuple[str, str], tuple[Json, tuple[object, ...], RouteSeen]] = {}

    def seen(self, plan: Place) -> RouteSeen:
        """The canary's weight as last told, or why it cannot be steered."""
        vs = self._newest(plan.namespace, plan.virtual_service)
        if vs is None:
            return RouteSeen(weight=0, refusal=str(_missing(plan)))
        asked = plan.stable_subset, plan.canary_subset, plan.recording
        known, as_asked, seen = self._looked.get((plan.namespace, plan.virtual_service), (None, None, None))
        if seen is None or known is not vs or as_asked != asked:  # the same object says the same
            seen = replace(self._read(vs, plan), sighting=writing.sighting(vs), ours=writing.ours(vs))
            if len(self._looked) >= REMEMBERED:
                self._looked.clear()
            self._looked[plan.namespace, plan.virtual_service] = vs, asked, seen
        return seen

    def _read(self, vs: Json, plan: Place) -> RouteSeen:
        mirrored = plan.recording is not None and mirror.stands(vs, plan.recording)
        found = located(vs, stable_subset=plan.stable_subset, canary_subset=plan.canary_subset)
        if isinstance(found, Refusal):
            weight = 0 if _at_zero(vs, plan) else None
            return RouteSeen(weight=weight, refusal=str(found), mirrored=mirrored)
        taken = plan.recording and mirror.refusal(vs, (split.route for split in found.splits))
        unmirrored = str(Refusal(*taken)) if taken else None
        return RouteSeen(weight=seen_weight(found), mirrored=mirrored, unmirrored=unmirrored)

    async def route(self, plan: Place, weight: int) -> None:
        """The canary's weight is `weight` when this returns; raises `ApiError` or `Unsteerable`.

        It is sent even if it is believed to be there, since what we believe may be old. A VirtualService
        that is gone, or names no canary any more, is at zero already. A weight above zero is sent once:
        if the object is not as it was looked at any more, the next pass looks again.
        """
        vs = self._newest(plan.namespace, plan.virtual_service)
        believed = _wanted(vs, plan, weight)
        if isinstance(believed, Refusal) or not believed:
            vs = await self._get(plan)  # what we know may be old
        for left in reversed(range(1 if weight else ATTEMPTS)):
            operations = _sure(_wanted(vs, plan, weight), plan)
            if not operations or await self._sent(plan, operations, left, writing.WEIGHTS):
                break
            vs = await self._get(plan)
        if vs is not None and weight == 0:
            _avoided(vs, plan)

    async def mirror(self, plan: Place, *, on: bool) -> None:
        """Requests are copied to the plan's recorder, or no more; raises `ApiError`.

        Taking it away begins with what is really there: what we believe may be older than our own patch.
        """
        vs = self._newest(plan.namespace, plan.virtual_service) if on else await self._get(plan)
        for left in reversed(range(ATTEMPTS)):
            operations = _mirroring(vs, plan, on=on)
            if not operations or await self._sent(plan, operations, left, writing.MIRRORS):
                return
            vs = await self._get(plan)

    async def fence(self, plan: Place) -> None:
        """What was decided upon the VirtualService as last told comes too late; raises `ApiError`."""
        vs = self._newest(plan.namespace, plan.virtual_service)
        if vs is not None:
            await self._sent(plan, writing.fencing(vs), 0, writing.WEIGHTS)
            with suppress(ApiError):  # it has done its work: what is left of it is harmless
                await self._sent(plan, writing.UNFENCING, 0, writing.WEIGHTS)

    async def _sent(self, plan: Place, operations: list[Json], left: int, manager: str) -> bool:
        """Whether the patch is in; False if the object must be read again first, while `left` lasts."""
        how = {"query": {"fieldManager": manager}, "content_type": JSON_PATCH}
        try:
            self._wrote(await self._call("PATCH", _path(plan), body=operations, urgent=True, **how))
        except ApiError as error:
            if error.status not in STALE:
                raise
            if not left:
                await self._look_again(plan)
                raise
            _log.info("virtual_service_changed", object=_path(plan), status=error.status)
            return False
        return True

    async def _look_again(self, plan: Place) -> None:
        if (there := await self._get(plan)) is not None:
            self._wrote(there)

    async def _get(self, plan: Place) -> Json | None:
        """The VirtualService as it is at the API server; None if there is none."""
        try:
            vs = await self._call("GET", _path(plan), urgent=True)
        except ApiError as error:
            if error.status != 404:
                raise
            return None
        # an answer of nothing is no 404, whose VirtualService is at zero already
        if not stored(vs, Steered):
            raise ApiError(0, "Garbled", "the answer is no VirtualService", request=f"GET {_path(plan)}")
        return vs


def _wanted(vs: Json | None, plan: Place, weight: int) -> list[Json] | Refusal:
    """The operations to send; none where nothing goes to the canary that could be taken away."""
    if vs is None:
        return _missing(plan) if weight else []
    find = located if weight else to_zero
    found = find(vs, stable_subset=plan.stable_subset, canary_subset=plan.canary_subset)
    if isinstance(found, Refusal):
        return found
    # a raise that comes late must not undo a fall
    return [*(writing.unwritten(vs) if weight else ()), *patch(found, weight)]


def _mirroring(vs: Json | None, plan: Place, *, on: bool) -> list[Json]:
    """The operations to send; none where the mirror is as it should be, or cannot be."""
    if vs is None or plan.recording is None:
        return []
    if not on:
        return mirror.removing(vs, plan.recording)
    found = to_zero(vs, stable_subset=plan.stable_subset, canary_subset=plan.canary_subset)
    return mirror.adding(vs, (split.route for split in found.splits), plan.recording)


def _sure(wanted: list[Json] | Refusal, plan: Place) -> list[Json]:
    """The operations; raises `Unsteerable` if the object as it is now is refused."""
    if isinstance(wanted, Refusal):
        raise Unsteerable(f"VirtualService {plan.namespace}/{plan.virtual_service}: {wanted}")
    return wanted


def _at_zero(vs: Json, plan: Place) -> bool:
    """Whether no route beside stable's gives the canary anything: our way to zero would change nothing."""
    routes = [http.get("route") or [] for http in vs.get("spec", {}).get("http") or []]
    split = [targets for targets in routes if plan.stable_subset in map(subset, targets)]
    mine = (target for targets in split for target in targets if subset(target) == plan.canary_subset)
    return not any(_number(target) for target in mine)


def _avoided(vs: Json, plan: Place) -> None:
    """Nothing goes to the canary for certain any more; raises `Unsteerable` if something does."""
    left = unavoidable(vs, stable_subset=plan.stable_subset, canary_subset=plan.canary_subset)
    _sure(left or [], plan)


def _missing(plan: Place) -> Refusal:
    remedy = "create it, or name another one in serin.dev/virtual-service"
    return Refusal(f"VirtualService {plan.namespace}/{plan.virtual_service}", "missing", remedy)


def _path(plan: Place) -> str:
    group = "/apis/networking.istio.io/v1"
    return f"{group}/namespaces/{plan.namespace}/virtualservices/{plan.virtual_service}"


# -- small words -----------------------------------------------------------------------------------


def _number(target: Json) -> int:
    weight = target.get("weight")
    return weight if isinstance(weight, int) else 0


def _quoted(value: Json) -> str:
    return f'"{value}"'
