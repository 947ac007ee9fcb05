"""What stands around a canary, read through kubectl: the objects that the controller follows, and pages.

Whoever types has rights of their own: a kind that they may not list is named, and what depends on it is
unknown. Pages are read through the API server's proxy, so that a laptop needs no way into the cluster.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from controller import planning, policies, reading, trigger
from controller.cluster import FOLLOWED, Cluster, arm
from controller.command import Misused
from controller.items import Grounds, Paged
from controller.kubectl import Trouble, Wrong
from controller.model import Page, PodSeen, Policy
from controller.ports import Reading
from controller.readers import by_page, together
from controller.selected import SERVICES
from controller.targets import chosen, target

if TYPE_CHECKING:
    from controller.kubectl import Kubectl

Json = Any

# As kubectl calls them; Namespace is no object of a namespace.
KINDS = {
    kind: f"{kind}.{group}" if (group := root.split("/")[2]) != "v1" else kind
    for kind, root in FOLLOWED.items()
    if kind != "namespaces"
} | {SERVICES: SERVICES}  # which the controller has no right to, and no need of
NEEDED = frozenset({"deployments", "replicasets", "pods"})  # without these nothing can be said
NOT_THERE = "have a resource type"
PAGES = 3  # of stable's pods; they are alike, and each is a command


def found(kubectl: "Kubectl", deployment: str, *, pages: int = PAGES) -> Grounds:
    """All that the checklist is worked out from, with so many of stable's `pages`.

    Raises `Trouble`, and `Misused` for what is no canary.
    """
    cluster = Cluster()
    unread: set[str] = set()
    bare = deployment.rpartition("/")[2]
    services = []
    for kind, item in _objects(kubectl, unread):
        if kind == SERVICES:
            services.append(item)
        else:
            cluster.changed(kind, "ADDED", item)
    canary = _canary(cluster, bare)
    namespace = canary["metadata"]["namespace"]
    try:
        named = kubectl.objects("namespaces", namespace=namespace)
        for item in named:
            cluster.changed("namespaces", "ADDED", item)
    except Trouble:  # of ambient mode nothing is known then
        unread.add("namespaces")
    stable = _stable(cluster, canary)
    plan = trigger.plan_of(canary, stable, cluster)
    if isinstance(plan, str):
        raise Misused(f"Deployment {canary['metadata']['name']}: {plan}")
    plan["policy"] = {**planning.builtin(), **plan["policy"]}
    policy = policies.policy(plan["policy"], max_latency_increase=plan.get("maxLatencyIncrease"))
    pods = chosen([pod for pod in arm(cluster, namespace, plan["stable"]).pods if pod.ready], limit=pages)
    notes = trigger.annotations(canary)
    return Grounds(
        cluster=cluster,
        namespace=namespace,
        plan=plan,
        policy=policy,
        policy_name=notes.get(f"{trigger.PREFIX}policy", "default"),
        stable=stable,
        canary=canary,
        pages={pod.name: _page(kubectl, namespace, pod, policy) for pod in pods},
        unread=frozenset(unread),
        services=tuple(services),
        now=datetime.now(UTC),
    )


def _objects(kubectl: "Kubectl", unread: set[str]) -> list[tuple[str, Json]]:
    """Every object by kind: in one command, or kind by kind where one of them cannot be had."""
    try:
        return _by_kind(kubectl.objects(*KINDS.values()))
    except Trouble:
        read: list[tuple[str, Json]] = []
    for kind, name in KINDS.items():
        try:
            read += [(kind, item) for item in kubectl.objects(name)]
        except Trouble as trouble:
            denied = "(Forbidden)" in str(trouble)
            if kind in NEEDED or not (denied or NOT_THERE in str(trouble)):
                raise
            unread |= {kind} if denied else set()
    return read


def _by_kind(items: Iterable[Json]) -> list[tuple[str, Json]]:
    kinds = {_singular(kind): kind for kind in KINDS}
    return [(kinds[item["kind"].lower()], item) for item in items]


def _singular(kind: str) -> str:
    return kind.removesuffix("ies") + "y" if kind.endswith("ies") else kind.removesuffix("s")


def _canary(cluster: Cluster, name: str) -> Json:
    """The canary's Deployment: the one of that name, or the one that asks to be its canary."""
    named = [one for one in cluster.all("deployments") if one["metadata"]["name"] == name]
    if not named:
        known = [one["metadata"] for one in cluster.all("deployments")]
        where = (
            f"in namespace {known[0]['namespace']}" if known else "where kubectl is pointed (-n NAMESPACE)"
        )
        there = ", ".join(sorted(one["name"] for one in known)) or "none"
        raise Wrong(f'there is no Deployment called "{name}" {where}; there are: {there}')
    asking = [
        one for one in cluster.all("deployments") if trigger.annotations(one).get(trigger.CANARY_OF) == name
    ]
    if trigger.CANARY_OF in trigger.annotations(named[0]):
        return named[0]
    if len(asking) == 1:
        return asking[0]
    if not asking and (misspelt := trigger.unknown(trigger.annotations(named[0]))):
        raise Wrong(f"Deployment {name} is no canary: {misspelt}")
    several = ", ".join(one["metadata"]["name"] for one in asking)
    within = f"-n {named[0]['metadata']['namespace']}"
    raise Wrong(
        f"Deployment {name} has more than one canary; name one of {several}"
        if asking
        else f"Deployment {name} is no canary, and has none; say whose it is:"
        f" kubectl annotate deployment {name} {within} {trigger.CANARY_OF}=STABLE"
    )


def _stable(cluster: Cluster, canary: Json) -> Json:
    meta, name = canary["metadata"], trigger.annotations(canary)[trigger.CANARY_OF]
    stable = cluster.get("deployments", meta["namespace"], name)
    if stable is None:
        raise Wrong(
            f'annotation {trigger.CANARY_OF} of Deployment {meta["name"]}: there is no Deployment "{name}" in'
            f" namespace {meta['namespace']}; create it or correct the name"
        )
    return stable


def _page(kubectl: "Kubectl", namespace: str, pod: PodSeen, policy: Policy) -> Paged:
    """What the pod's pages say, as the controller reads them."""
    readings: list[Reading] = []
    wrong: list[str] = []
    for page, checks in by_page(policy.checks, policy.pages):
        try:
            said = kubectl.page(proxied(namespace, pod, page))
            found_ = reading.found(said.encode(), checks, most_new=len(said))  # it is read once
        except (Trouble, ValueError) as error:
            return Paged(trouble=f"pod {pod.name}: {str(error).splitlines()[0]}")
        one, complaints = reading.understood(found_, checks, at=0.0)
        readings.append(one)
        wrong += complaints
    return Paged(reading=together(readings[0], readings[1:]), trouble="; ".join(wrong))


def proxied(namespace: str, pod: PodSeen, page: Page = Page()) -> str:  # noqa: B008 - a frozen value
    """The path of the pod's page behind the API server's proxy; raises `ValueError` if there is none."""
    url = urlsplit(target(pod, page))
    scheme = "https:" if url.scheme == "https" else ""
    query = f"?{url.query}" if url.query else ""
    return f"/api/v1/namespaces/{namespace}/pods/{scheme}{pod.name}:{url.port}/proxy{url.path}{query}"
