"""Deployments, as far as a run may touch them: the canary's size and, to promote, stable's template."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from controller.cluster import RESTARTED, Cluster, alike, like_planned, path, template_hash, template_of
from controller.kube import ApiError, Kube
from controller.model import Plan, PromotionMode
from controller.wire import StoredDeployment, stored
from controller.writing import FENCE

Json = Any
MERGE = "application/merge-patch+json"


class TemplateLost(LookupError):
    """The ReplicaSet that holds the template is gone, so that nothing can be promoted or restored."""


class Workloads:
    """The two Deployments of a run."""

    def __init__(self, kube: Kube, cluster: Cluster) -> None:
        self._kube = kube
        self._cluster = cluster

    def matches(self, plan: Plan) -> bool:
        """Whether stable's template.spec is the one that was analysed; where that is copied, annotations too.

        Stable may have others besides, which somebody adds (an injector); a restart's is no difference.
        Where the canary's Deployment has it no more, it is known by its digest.
        """
        stable = self._cluster.get("deployments", plan.namespace, plan.stable)
        if stable is None:
            return False
        return self._is_analysed(plan, stable["spec"]["template"]) is True

    def _is_analysed(self, plan: Plan, there: Json) -> bool | None:
        """As `matches`; None if nobody knows any more what was analysed."""
        analysed = self._template(plan, plan.canary, plan.canary_hash)
        if analysed is None:
            whose = {"namespace": plan.namespace, "of": plan.canary, "wanted": plan.canary_hash}
            return like_planned(self._cluster, there, **whose)
        copied = _notes(analysed) if plan.policy.promotion is PromotionMode.COPY else {}
        return bool(there["spec"] == analysed["spec"] and copied.items() <= _notes(there).items())

    async def scale(self, plan: Plan, replicas: int) -> None:
        """The canary's Deployment wants `replicas` pods; a late one is not for what it has become since."""
        known = self._cluster.get("deployments", plan.namespace, plan.canary)
        if known is None:
            raise ApiError(404, "NotFound", f"Deployment {plan.canary} is gone")
        meta = {"resourceVersion": known["metadata"]["resourceVersion"]}
        where = path("deployments", plan.namespace, plan.canary, sub="scale")
        body = {"metadata": meta, "spec": {"replicas": replicas}}
        await self._kube.call("PATCH", where, body=body, content_type=MERGE)

    async def promote(self, plan: Plan) -> None:
        """Stable has the analysed template.spec and annotations; its labels stay its own.

        What its ReplicaSets do not tell of yet, or will once it is resumed, is somebody's edit.
        """
        analysed = self._template(plan, plan.canary, plan.canary_hash)
        if analysed is None:
            raise TemplateLost(f"Deployment {plan.canary} no longer has template {plan.canary_hash}")
        stable, before = await self._read(plan), self._template(plan, plan.stable, plan.stable_hash)
        if before is not None and not self._is_compared(plan, stable, before):
            raise ApiError(409, "Conflict", f"Deployment {plan.stable} was edited, and is not rolled out so")
        labels = _labels(stable, analysed, self._subset_keys(plan))
        await self._give(plan, stable, analysed | {"metadata": analysed["metadata"] | {"labels": labels}})

    async def restore(self, plan: Plan) -> None:
        """Stable has the template again that the canary was compared with, and no copy from before is taken.

        Where it has it still, a copy may be on its way, of a leader that was cut off while it made it: upon
        the Deployment as it was read, so that any write after that makes it a conflict. Where it has neither,
        somebody has edited it since, and it stays so. Annotations that somebody has added to a copy stay.
        """
        before = self._template(plan, plan.stable, plan.stable_hash)
        if before is None:
            raise TemplateLost(f"Deployment {plan.stable} no longer has template {plan.stable_hash}")
        stable = await self._read(plan)
        there = stable["spec"]["template"]
        if self._is_compared(plan, stable, before):
            await self._fence(plan, stable["metadata"]["resourceVersion"])
        elif self._is_analysed(plan, there) is not False:
            added = self._added(plan, there, before)
            await self._give(plan, stable, _annotated(before, added) if added else before)

    def _added(self, plan: Plan, there: Json, before: Json) -> dict[str, str]:
        """Annotations of a copy that are nobody's of those who were compared; none if that cannot be told."""
        analysed = self._template(plan, plan.canary, plan.canary_hash)
        known = None if analysed is None else _notes(analysed).keys() | _notes(before).keys()
        return (
            {} if known is None else {name: said for name, said in _notes(there).items() if name not in known}
        )

    def _is_compared(self, plan: Plan, stable: Json, before: Json) -> bool:
        """Whether stable has the template `before`, maybe written otherwise: 1Gi is 1073741824."""
        resumed = not stable["spec"].get("paused")  # else its newest ReplicaSet need not be of its template
        same = alike(stable["spec"]["template"], before)
        return same or (resumed and template_hash(self._cluster, stable) == plan.stable_hash)

    async def _fence(self, plan: Plan, version: str) -> None:
        """Stable was written: not as it was, which is not stored, but with an annotation for a moment."""
        await self._patch(plan, {"metadata": {"resourceVersion": version, "annotations": {FENCE: version}}})
        with suppress(ApiError):  # it has done its work: what is left of it is harmless
            await self._patch(plan, {"metadata": {"annotations": {FENCE: None}}})

    def _template(self, plan: Plan, deployment: str, wanted: str) -> Json | None:
        found = self._cluster.get("deployments", plan.namespace, deployment)
        return None if found is None else template_of(self._cluster, found, wanted)

    async def _read(self, plan: Plan) -> Json:
        """Stable as it is; raises `ApiError` if its template is not the one that was decided upon."""
        known = self._cluster.get("deployments", plan.namespace, plan.stable)
        stable = await self._kube.call("GET", path("deployments", plan.namespace, plan.stable))
        if stable is None:
            raise ApiError(404, "NotFound", f"Deployment {plan.stable} is gone")
        if not stored(stable, StoredDeployment):
            raise ApiError(0, "Garbled", "the answer is no Deployment", request=f"GET {plan.stable}")
        if known is not None and known["spec"]["template"] != stable["spec"]["template"]:
            raise ApiError(409, "Conflict", f"Deployment {plan.stable} was edited; its event is on the way")
        return stable

    async def _give(self, plan: Plan, stable: Json, template: Json) -> None:
        """A merge patch, not a strategic one, which would keep the environment that was removed."""
        body = {
            "metadata": {"resourceVersion": stable["metadata"]["resourceVersion"]},
            "spec": {"template": merge_patch(stable["spec"]["template"], template)},
        }
        await self._patch(plan, body)

    async def _patch(self, plan: Plan, body: Json) -> None:
        where = path("deployments", plan.namespace, plan.stable)
        written = await self._kube.call("PATCH", where, body=body, content_type=MERGE)
        self._cluster.wrote("deployments", written)

    def _subset_keys(self, plan: Plan) -> set[str]:
        """Label keys by which any DestinationRule of the namespace tells subsets apart."""
        rules = self._cluster.all("destinationrules", plan.namespace)
        subsets = (subset for rule in rules for subset in rule.get("spec", {}).get("subsets") or ())
        return {key for subset in subsets for key in subset.get("labels") or ()}


def _annotated(template: Json, added: dict[str, str]) -> Json:
    meta = template["metadata"]
    return template | {"metadata": meta | {"annotations": (meta.get("annotations") or {}) | added}}


def _notes(template: Json) -> dict[str, str]:
    notes = template.get("metadata", {}).get("annotations") or {}
    return {name: value for name, value in notes.items() if name != RESTARTED}


def _labels(stable: Json, analysed: Json, subset_keys: set[str]) -> dict[str, str]:
    """Stable's labels, and those of the canary that neither a selector nor a subset looks at.

    A verbatim copy would be a 422 (the selector no longer matches) or move pods between the arms.
    """
    own: dict[str, str] = stable["spec"]["template"]["metadata"].get("labels", {})
    taken = own.keys() | subset_keys | stable["spec"]["selector"].get("matchLabels", {}).keys()
    new = analysed["metadata"].get("labels", {})
    return own | {key: value for key, value in new.items() if key not in taken}


def merge_patch(old: Json, new: Json) -> Json:
    """The RFC 7386 merge patch that turns `old` into `new`: what is gone is null."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    gone = {key: None for key in old if key not in new}
    changed = {key: merge_patch(old.get(key), value) for key, value in new.items() if old.get(key) != value}
    return gone | changed
