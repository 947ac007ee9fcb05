"""A measured rollback: a run that can only end in one, asked for, given its first weight, and aborted.

The run is one of the controller's own, with the policy of the canary but for what would let it go further:
one step, that cannot pass, and an end by itself after two minutes. So whatever becomes of the terminal that
asked for it, nothing is promoted and the traffic comes back. What is measured is what people would wait for:
from the abort to weight 0 in the VirtualService, and to the last request that a canary pod completed.

Steps are a generator of pauses, so that whoever drives it owns the time.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controller import neighbours, reading, resource, trigger
from controller.asks import unsteerable
from controller.cluster import arm, template_digest, template_hash
from controller.istio import seen_weight, to_zero
from controller.items import Grounds
from controller.kubectl import Conflict, Trouble, Wrong
from controller.surroundings import proxied

if TYPE_CHECKING:
    from controller.kubectl import Kubectl

Json = Any
Pauses = Generator[float, None, "Measured"]

ENDS = "2m"  # a drill that nobody ends
SOON = 0.2  # s between two looks at the weight
SETTLES = 5.0  # s with the first weight: proxies know it then
STILL = 5.0  # s without a request completed: the last one was before
WATCHED = 60.0  # s that requests are waited for, at most, and the traffic of a drill that was broken off
NEVER = 2**31 - 1  # requests that no step of a drill will have


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a drill found: seconds from the abort on; `last` is None where no page tells, `why` says why."""

    run: str
    weight: int
    zero: float
    last: float | None = None
    why: str = ""


def asked(grounds: Grounds, *, other_version: bool = False) -> Json:
    """The CanaryRun of a drill; raises `Wrong` where there can be none, or should not."""
    canary, stable, cluster = grounds.canary, grounds.stable, grounds.cluster
    name = canary["metadata"]["name"]
    busy = next(
        (
            run["metadata"]["name"]
            for run in cluster.all("canaryruns", grounds.namespace)
            if neighbours.live(run)
            and run["spec"]["plan"]["virtualService"] == grounds.plan["virtualService"]
        ),
        None,
    )
    if busy is not None:
        typed = f"kubectl serin abort {busy} -n {grounds.namespace} --reason '...'"
        raise Wrong(f"run {busy} is under way; drill when it has ended, or end it: {typed}")
    refused = unsteerable(cluster, grounds.plan, canary)
    if refused is not None:
        raise Wrong(f"nothing can be rolled back: {refused}")
    same = canary["spec"]["template"]["spec"] == stable["spec"]["template"]["spec"]
    if not same and not other_version:
        raise Wrong(
            f"{name} does not run what {stable['metadata']['name']} runs, and {grounds.policy.steps[0]} % of"
            " the requests would meet it; give it stable's pod template, as it has after a promotion, or say"
            " --other-version"
        )
    hashes = template_hash(cluster, canary), template_hash(cluster, stable)
    if None in hashes:
        raise Wrong(f"the Deployments of {name} are being changed; try again when they have settled")
    plan = {**grounds.plan, "canaryHash": hashes[0], "stableHash": hashes[1], "policy": _policy(grounds)}
    plan |= {
        "canaryDigest": template_digest(cluster, canary),
        "stableDigest": template_digest(cluster, stable),
    }
    del plan["policyGeneration"]  # no change of it plans a drill anew
    runs = neighbours.runs_of(cluster, grounds.namespace, name)
    tails = [run["metadata"]["name"].rpartition("-")[2] for run in runs]
    attempt = 1 + max((int(tail) for tail in tails if tail.isdecimal()), default=0)
    return resource.run_object(
        plan,
        name=trigger.run_name(name, str(hashes[0]), attempt),
        namespace=grounds.namespace,
        workload=name,
        owner_uid=canary["metadata"]["uid"],
    )


def _policy(grounds: Grounds) -> Json:
    """The canary's policy, of which one step is left that ends in a rollback if nobody ends it before."""
    given = grounds.plan["policy"]
    checks = [one for one in given["checks"] if one["type"] != "Shadow"]
    if not any(one.get("required", True) for one in checks):
        checks = [{**checks[0], "required": True}, *checks[1:]]
    return {
        **given,
        "steps": given["steps"][:1],
        "checks": checks,
        "gates": [one for one in given.get("gates", ()) if one["before"] == "Start"],
        "minRequests": NEVER,
        "minStep": ENDS,
        "stepTimeout": ENDS,
        "noDataTimeout": ENDS,
        "onInconclusive": "RollBack",
        "onNoData": "RollBack",
        "preflight": "Off",
        "promotion": {"mode": "Handoff"},
    }


def drilled(
    kubectl: "Kubectl",
    grounds: Grounds,
    run: Json,
    *,
    clock: Callable[[], float],
    told: Callable[[str], None],
    patience: float,
    limit: float,
) -> Pauses:
    """The run was made, had traffic for a moment and was aborted; it says after how long it had none.

    `clock` in seconds from anywhere; `patience`: how long the first weight may be waited for; `limit`: how
    long the way to zero. Raises `Trouble`; the traffic is back in any case, or people are told that not.
    """
    name, back = run["metadata"]["name"], False
    kubectl.create(run)
    told(f"run {name} was made; it waits for its first weight")
    try:
        weight = yield from _first_weight(kubectl, grounds, name, clock=clock, told=told, patience=patience)
        told(f"{weight} % of the requests go to {grounds.plan['canary']}; aborting in {SETTLES:g} s")
        yield SETTLES
        began = clock()
        yield from _abort(kubectl, name, "drill: a measured rollback")
        zero = yield from _zero(kubectl, grounds, began=began, clock=clock, within=limit)
        back = True
    finally:
        if not back:
            yield from _taken_back(kubectl, grounds, name, clock=clock, told=told)
    told(f"weight 0 after {zero:.1f} s; looking for the last request")
    last, why = yield from _last_request(kubectl, grounds, began=began, clock=clock)
    kubectl.annotate(kubectl.run(name), {resource.DRILL: f"{max(zero, last or 0.0):.1f}"})
    return Measured(run=name, weight=weight, zero=zero, last=last, why=why)


Waits = Generator[float, None, None]


def _first_weight(
    kubectl: "Kubectl",
    grounds: Grounds,
    name: str,
    *,
    clock: Callable[[], float],
    told: Callable[[str], None],
    patience: float,
) -> Generator[float, None, int]:
    """The canary's weight at the VirtualService, as soon as there is one."""
    began, said = clock(), ""
    while clock() - began < patience:
        status = kubectl.run(name).get("status") or {}
        if status.get("phase") in {"Failed", "Succeeded"}:
            raise Trouble(f"run {name} ended before it had traffic: {status.get('message', '')}")
        weight = _weight(kubectl, grounds)
        if status.get("weight") and weight:
            return weight
        if status.get("message") and status["message"] != said:
            said = status["message"]
            told(said)
        yield 1.0
    raise Trouble(f"run {name} had no traffic within {patience:g} s: {said or 'is the controller running?'}")


def _abort(kubectl: "Kubectl", name: str, reason: str) -> Waits:
    """The run is told to end, whatever the controller writes at the same time."""
    for left in reversed(range(10)):
        try:
            kubectl.patch(kubectl.run(name), {"abort": {"reason": reason}})
        except Conflict:
            if not left:
                raise
            yield SOON
        else:
            return


def _zero(
    kubectl: "Kubectl", grounds: Grounds, *, began: float, clock: Callable[[], float], within: float
) -> Generator[float, None, float]:
    """Seconds since `began` at which nothing is sent to the canary any more."""
    while clock() - began <= within:
        if _weight(kubectl, grounds) == 0:
            return clock() - began
        yield SOON
    raise Trouble(f"the canary still had traffic {within:g} s after the abort")


def _taken_back(
    kubectl: "Kubectl",
    grounds: Grounds,
    name: str,
    *,
    clock: Callable[[], float],
    told: Callable[[str], None],
) -> Waits:
    """The drill was broken off: its run is aborted, and the traffic seen to be back."""
    service, where = grounds.plan["virtualService"], f"-n {grounds.namespace}"
    try:
        yield from _abort(kubectl, name, "drill: broken off")
        yield from _zero(kubectl, grounds, began=clock(), clock=clock, within=WATCHED)
        told(f"broken off: VirtualService {service} sends nothing to {grounds.plan['canary']}")
    except Trouble as trouble:
        told(
            f"broken off, and not seen to be back: {trouble}\nThe run ends by itself after {ENDS}; look:"
            f" kubectl get virtualservice {service} {where} -o yaml; kubectl serin status {name} {where}"
        )


def _weight(kubectl: "Kubectl", grounds: Grounds) -> int | None:
    """The canary's weight at the VirtualService; None where its routes disagree; raises `Trouble`."""
    name, namespace = grounds.plan["virtualService"], grounds.namespace
    services = kubectl.objects("virtualservices.networking.istio.io", namespace=namespace)
    found = next((one for one in services if one["metadata"]["name"] == name), None)
    if found is None:
        raise Trouble(
            f"VirtualService {name} in namespace {namespace} is gone, and no weight says who gets the"
            " requests; create it again, with the canary's weight at 0"
        )
    subsets = {"stable_subset": grounds.plan["stableSubset"], "canary_subset": grounds.plan["canarySubset"]}
    return seen_weight(to_zero(found, **subsets))


def _last_request(
    kubectl: "Kubectl", grounds: Grounds, *, began: float, clock: Callable[[], float]
) -> Generator[float, None, tuple[float | None, str]]:
    """Seconds after which the canary's pods completed no request any more, or why nobody knows."""
    for kind in ("replicasets", "pods", "deployments"):
        grounds.cluster.listed(kind, kubectl.objects(kind, namespace=grounds.namespace))
    pods = [one for one in arm(grounds.cluster, grounds.namespace, grounds.plan["canary"]).pods if one.ready]
    if not pods:
        return None, "no canary pod is there to be asked"
    began_here, counted, last = clock(), -1, 0.0
    while clock() - began - last < STILL or counted < 0:
        try:
            now = sum(_requests(kubectl.page(proxied(grounds.namespace, pod))) for pod in pods)
        except (Trouble, ValueError) as trouble:
            return None, str(trouble).splitlines()[0]
        if now != counted:
            counted, last = now, clock() - began if counted >= 0 else 0.0
        if clock() - began_here > WATCHED:
            return None, f"requests were still completed {WATCHED:g} s later, on a way that is no weight's"
        yield 1.0
    return last, ""


def _requests(page: str) -> int:
    """How many requests a pod has completed; raises `ValueError`."""
    said, _ = reading.read(page.encode(), (), at=0.0)
    if said.requests is None:
        raise ValueError("the canary's pages do not say how many requests were completed")
    return said.requests.n
