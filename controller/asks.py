"""One annotated Deployment, one turn: make the CanaryRun it asks for, or say why not."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from controller import istio, mirror, neighbours, policies, shadow, trigger
from controller.apart import strangers, told_apart
from controller.cluster import Cluster, Key, template_hash
from controller.kube import ApiError
from controller.shadowing import UNSET as NO_WORKER
from controller.sources import UNSET
from controller.trigger import Asked, Refused

Json = Any
log = structlog.get_logger(__name__)


class Refuse(Protocol):
    """Says why a Deployment asks for nothing that can be done."""

    async def __call__(self, deployment: Json, message: str, *, again: bool) -> None:
        """As `events.Events.refuse`."""


@dataclass(slots=True)
class Asks:
    """Annotated Deployments, looked at whenever something near them changes.

    `create` makes a CanaryRun (making it twice is harmless); `refuse` and `mend` put an Event on the
    Deployment.
    """

    cluster: Cluster
    create: Callable[[Json], Awaitable[None]]
    refuse: Refuse
    mend: Callable[[Json, str], Awaitable[None]]
    prometheus: bool = False  # whether there is one to be asked
    recorder: Mapping[str, Json] | None = (
        None  # host, port and percent of the shadow worker's, if there is one
    )
    # Of each Deployment that was ever refused, by its uid: what was said last; "" since it was mended.
    refused: dict[Key, tuple[str, str]] = field(default_factory=dict)

    async def turn(self, key: Key) -> None:
        """The run that the Deployment asks for exists, or an Event says why not, once a reason."""
        deployment = self.cluster.get("deployments", *key)
        if deployment is None:
            self.refused.pop(key, None)
            return
        asked = trigger.wanted(deployment, self.cluster, self._unfit)
        if isinstance(asked, Asked):
            asked = await self._created(key, asked)
        await self._tell(key, deployment, asked.message if isinstance(asked, Refused) else "")

    async def _tell(self, key: Key, deployment: Json, why: str) -> None:
        """What the Deployment is refused for, or that it is no more, has been said since it last changed."""
        uid, who = deployment["metadata"]["uid"], {"namespace": key[0], "workload": key[1]}
        known, last = self.refused.get(key, (None, ""))
        again = known == uid
        if why == (last if again else ""):
            return
        if why:
            log.warning("refused", **who, why=why)
            self.refused[key] = uid, why
            await self.refuse(deployment, why, again=again)
        elif instead := _instead(deployment, self.cluster):
            log.info("refused_no_more", **who, instead=instead)
            self.refused[key] = uid, ""
            await self.mend(deployment, instead)

    async def _created(self, key: Key, asked: Asked) -> Refused | None:
        """None once the run is there; what its schema has against it is said to people, not tried again."""
        log.info("run_asked_for", namespace=key[0], workload=key[1], run=asked.run["metadata"]["name"])
        try:
            await self.create(asked.run)
        except ApiError as error:
            if not error.invalid:
                raise
            return Refused(f"the run that the annotations ask for is not valid: {error.message}")
        return None

    def _unfit(self, plan: Json, canary: Json) -> str | None:
        """Why the plan's checks cannot be read or its traffic not be steered; None if both can."""
        checks = plan["policy"].get("checks", ())
        blind = [check["name"] for check in checks if "prometheus" in check.get("source", {})]
        if blind and not self.prometheus:
            return f"policy: checks[{blind[0]}].source.prometheus: {UNSET}"
        return unsteerable(self.cluster, plan, canary) or self._unshadowed(plan, canary)

    def _unshadowed(self, plan: Json, canary: Json) -> str | None:
        """Why nothing can be replayed or recorded; None if the plan says what and where, or needs neither."""
        namespace, name = canary["metadata"]["namespace"], plan["virtualService"]
        if not any(check["type"] == policies.SHADOW for check in plan["policy"].get("checks", ())):
            return None
        if self.recorder is None:
            return f"policy: a Shadow check: {NO_WORKER}"
        service = self.cluster.get("virtualservices", namespace, name)
        found = istio.to_zero(service, stable_subset=plan["stableSubset"], canary_subset=plan["canarySubset"])
        refused = mirror.refusal(service, (split.route for split in found.splits))
        if refused is not None:
            return f"VirtualService {name}: {istio.Refusal(*refused)}"
        both = {
            one["metadata"]["name"]: one["spec"]["template"] for one in (self._stable(plan, canary), canary)
        }
        planned = shadow.planned(both, service, self.recorder)
        if isinstance(planned, str):
            return planned
        plan["shadow"] = planned
        return None

    def _stable(self, plan: Json, canary: Json) -> Json:
        return self.cluster.get("deployments", canary["metadata"]["namespace"], plan["stable"])


def _instead(deployment: Json, cluster: Cluster) -> str | None:
    """What holds where nothing is refused any more; None while that is not known yet."""
    namespace, name = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
    if trigger.CANARY_OF not in trigger.annotations(deployment):
        return f"Deployment {name} asks for no canary any more, and nothing about it is refused"
    runs, template = neighbours.runs_of(cluster, namespace, name), template_hash(cluster, deployment)
    its = [run for run in runs if neighbours.live(run) or run["spec"]["plan"]["canaryHash"] == template]
    if not its:
        return None
    run, reason = its[-1]["metadata"]["name"], its[-1].get("status", {}).get("reason")
    if neighbours.live(its[-1]):
        return f"nothing that the annotations say is refused any more; CanaryRun {run} is what they ask for"
    return (
        f"nothing that the annotations say is refused any more, and this template has had its run, {run} "
        f"({reason}): a changed template is tried by itself, this one by kubectl serin retry {run} "
        f"-n {namespace}"
    )


def unsteerable(cluster: Cluster, plan: Mapping[str, Json], canary: Json) -> str | None:
    """Why the plan's VirtualService cannot be steered safely; None if it can."""
    namespace = canary["metadata"]["namespace"]
    service = cluster.get("virtualservices", namespace, plan["virtualService"])
    names = {"stable_subset": plan["stableSubset"], "canary_subset": plan["canarySubset"]}
    if service is None:
        return (
            f'there is no VirtualService "{plan["virtualService"]}" in namespace {namespace}; '
            f"{_swapped(cluster, plan, namespace, names)}create it, "
            "or name another one in annotation serin.dev/virtual-service"
        )
    found = istio.steering(service, **names)
    if isinstance(found, istio.Refusal):
        return f"VirtualService {plan['virtualService']}: {found}"
    stable = cluster.get("deployments", namespace, plan["stable"])
    mixed = told_apart(cluster, canary, stable, found, **names)
    mixed = mixed or strangers(cluster, canary, stable, found, canary_subset=plan["canarySubset"])
    return None if mixed is None else str(mixed)


def _swapped(cluster: Cluster, plan: Mapping[str, Json], namespace: str, names: Mapping[str, str]) -> str:
    """What to do if the annotation is on the wrong one of the two, or on both of them."""
    canary, stable = plan["canary"], plan["stable"]
    away = f"kubectl annotate deployment {canary} -n {namespace} {trigger.CANARY_OF}-"
    named = cluster.get("deployments", namespace, stable)
    if named is not None and trigger.annotations(named).get(trigger.CANARY_OF) == canary:
        said = f"Deployment {stable} is annotated as the canary of {canary}"
        return f"{said}: if {canary} is the stable one, type {away}; if not, "
    service = cluster.get("virtualservices", namespace, canary)
    if (
        plan["virtualService"] != stable
        or service is None
        or isinstance(istio.steering(service, **names), istio.Refusal)
    ):
        return ""
    move = f"{away} && kubectl annotate deployment {stable} -n {namespace} {trigger.CANARY_OF}={canary}"
    return f"VirtualService {canary} is there: if {canary} is the stable one, type {move}; if not, "
