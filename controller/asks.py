"""One annotated Deployment, one turn: make the CanaryRun it asks for, or say why not."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from controller import istio, mirror, policies, shadow, trigger
from controller.apart import told_apart
from controller.cluster import Cluster, Key
from controller.kube import ApiError
from controller.shadowing import UNSET as NO_WORKER
from controller.sources import UNSET
from controller.trigger import Asked, Refused

Json = Any
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Asks:
    """Annotated Deployments, looked at whenever something near them changes.

    `create` makes a CanaryRun (making it twice is harmless); `refuse` puts an Event on the Deployment.
    """

    cluster: Cluster
    create: Callable[[Json], Awaitable[None]]
    refuse: Callable[[Json, str], Awaitable[None]]
    prometheus: bool = False  # whether there is one to be asked
    recorder: Mapping[str, Json] | None = (
        None  # host, port and percent of the shadow worker's, if there is one
    )
    refused: dict[Key, str] = field(default_factory=dict)

    async def turn(self, key: Key) -> None:
        """The run that the Deployment asks for exists, or an Event says why not, once a reason."""
        deployment = self.cluster.get("deployments", *key)
        asked = None if deployment is None else trigger.wanted(deployment, self.cluster, self._unfit)
        if isinstance(asked, Asked):
            asked = await self._created(key, asked)
        if not isinstance(asked, Refused):
            self.refused.pop(key, None)
        if isinstance(asked, Refused) and self.refused.get(key) != asked.message:
            log.warning("refused", namespace=key[0], workload=key[1], why=asked.message)
            self.refused[key] = asked.message
            await self.refuse(deployment, asked.message)

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
    return None if mixed is None else str(mixed)


def _swapped(cluster: Cluster, plan: Mapping[str, Json], namespace: str, names: Mapping[str, str]) -> str:
    """What to do if the annotation is on the wrong one of the two: the VirtualService has its name."""
    canary, stable = plan["canary"], plan["stable"]
    service = cluster.get("virtualservices", namespace, canary)
    if (
        plan["virtualService"] != stable
        or service is None
        or isinstance(istio.steering(service, **names), istio.Refusal)
    ):
        return ""
    move = (
        f"kubectl annotate deployment {canary} -n {namespace} {trigger.CANARY_OF}- && "
        f"kubectl annotate deployment {stable} -n {namespace} {trigger.CANARY_OF}={canary}"
    )
    return f"VirtualService {canary} is there: if {canary} is the stable one, type {move}; if not, "
