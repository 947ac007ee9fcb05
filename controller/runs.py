"""Runs are kept in CanaryRun objects; their resourceVersion is the fence between two leaders.

Every write here says which version it was made from. If somebody has written since (anybody may
annotate a run) it is made again from what is there now, in the same pass, unless a leader with a newer
epoch has been there: then everything is dropped, because it decides now. So it is if an earlier leader has
written what we did not know when we took over, from a watch that lagged: that is read, and gone on from.
Nor does a run that has ended end otherwise, or go on, for one that has seen an old list of it.
"""

from collections.abc import Callable
from datetime import datetime
from functools import partial

import structlog

from controller import resource
from controller.cluster import Cluster, path
from controller.kube import MERGE_PATCH, ApiError, Kube
from controller.model import Checkpoint, Run, Stage
from controller.ports import Behind, Json, Overtaken
from controller.wire import LAST_EPOCH, WishedObject, stored
from controller.workloads import merge_patch

KIND = "canaryruns"
TRIES = 5  # people and GitOps write rarely; five conflicts in a row are another program's loop
ENOUGH = 100  # approvals: the schema's own limit

_log = structlog.get_logger(__name__)


class Runs:
    """`ports.RunStore`, and all else that is written on CanaryRuns; `cluster` knows the newest ones."""

    def __init__(self, kube: Kube, cluster: Cluster, *, clock: Callable[[], datetime]) -> None:
        self._kube = kube
        self._cluster = cluster
        self._clock = clock

    @property
    def highest_epoch(self) -> int:
        """The newest leader's epoch that any run remembers."""
        return max((epoch_of(obj) for obj in self._cluster.all(KIND)), default=0)

    async def save(self, run: Run, checkpoint: Checkpoint, *, epoch: int, upon: Json | None = None) -> None:
        """Status holds `run` and `checkpoint`; raises `Overtaken` if a newer epoch wrote it, or `Behind`."""
        known = upon or self._cluster.get(KIND, run.plan.namespace, run.name)

        def status(obj: Json) -> Json:
            wrote, before = epoch_of(obj), obj.get("status") or {}
            if wrote > epoch:
                raise Overtaken(f"CanaryRun {run.name}: epoch {wrote} wrote it, ours is {epoch}")
            if wrote < epoch and known is not None and before != (known.get("status") or {}):
                raise Behind(f"CanaryRun {run.name}: epoch {wrote} wrote it after what epoch {epoch} knew of")
            after = resource.status(run, checkpoint, epoch, before=before, now=self._clock())
            end = _end(before)
            if end is not None and end != _end(after):  # an old list brought it back to life
                raise Behind(f"CanaryRun {run.name} has ended ({end}), and epoch {epoch} knew nothing of it")
            return {"status": merge_patch(before, _without_nulls(after))}

        await self._amend(run.plan.namespace, run.name, status, sub="status", uid=run.identity)

    async def create(self, obj: Json) -> Json:
        """The run exists: `obj`, or the one that another leader (or an earlier try) made of this name."""
        namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
        try:
            created = await self._kube.call("POST", path(KIND, namespace), body=obj)
        except ApiError as error:
            if not error.exists:
                raise
            created = await self._read(namespace, name)
        self._cluster.wrote(KIND, created)
        return created

    async def guard(self, run: Run) -> None:
        """A deleted run stays until its traffic is restored: to be called before a weight above 0."""
        guarding = partial(_finalizers, guarded=True)
        await self._amend(run.plan.namespace, run.name, guarding, uid=run.identity)

    async def release(self, run: Run) -> None:
        """Nothing keeps a deleted run any more: to be called when the weight is 0 for good."""
        releasing = partial(_finalizers, guarded=False)
        try:
            await self._amend(run.plan.namespace, run.name, releasing, uid=run.identity)
        except ApiError as error:
            if not error.not_found:
                raise

    async def ask(
        self,
        namespace: str,
        name: str,
        *,
        paused: bool | None = None,
        abort: str | None = None,
        promote: str | None = None,
        approval: str | None = None,
    ) -> None:
        """The run's spec says what an annotation asked for; saying it twice changes nothing.

        `abort` and `promote` are reasons, and the first one given stays. `approval` says who or what
        approved; each different one lets a held run go on once.
        """

        def spec(obj: Json) -> Json:
            if not stored(obj, WishedObject):
                raise ApiError(
                    0, "Garbled", "the answer is no CanaryRun", request=f"CanaryRun {namespace}/{name}"
                )
            old: Json = obj["spec"]
            new: Json = {}
            if paused is not None and bool(old.get("paused")) != paused:
                new["paused"] = paused
            if abort and "abort" not in old:
                new["abort"] = {"reason": abort}
            if promote and "promote" not in old:
                new["promote"] = {"reason": promote}
            approved = old.get("approved", [])
            if approval and approval not in approved and len(approved) < ENOUGH:
                new["approved"] = [*approved, approval]
            return {"spec": new} if new else None

        await self._amend(namespace, name, spec)

    async def prune(self, namespace: str, workload: str, *, keep: int) -> None:
        """Of the workload's runs that are over, only the newest `keep` are left, and the newest drill."""
        over = [run for run in self._cluster.all(KIND, namespace) if _over(run, workload)]
        over.sort(key=_age, reverse=True)
        drill = next((obj for obj in over if resource.DRILL in obj["metadata"].get("annotations", {})), None)
        for obj in (one for one in over[keep:] if one is not drill):
            try:
                await self._delete(obj)
            except ApiError as error:
                if not (error.not_found or error.conflict):
                    raise

    async def _delete(self, obj: Json) -> None:
        meta = obj["metadata"]
        same = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": same}
        await self._kube.call("DELETE", path(KIND, meta["namespace"], meta["name"]), body=options)
        _log.info("run_pruned", namespace=meta["namespace"], run=meta["name"])

    async def _read(self, namespace: str, name: str) -> Json:
        obj = await self._kube.call("GET", path(KIND, namespace, name))
        if not stored(obj):
            raise ApiError(
                0, "Garbled", "the answer is no object", request=f"GET CanaryRun {namespace}/{name}"
            )
        self._learn(obj)
        return obj

    async def _amend(
        self, namespace: str, name: str, change: Callable[[Json], Json], *, sub: str = "", uid: str = ""
    ) -> None:
        """The object is changed as `change` says from what is really there; None: it is right already.

        Raises `ApiError`, not found, where another object has its name than the one with this `uid`.
        """
        obj = self._cluster.get(KIND, namespace, name) or await self._read(namespace, name)
        for left in reversed(range(TRIES)):
            if uid and obj["metadata"].get("uid") != uid:
                request = f"PATCH CanaryRun {namespace}/{name}"
                raise ApiError(404, "NotFound", "another run has its name", request=request)
            patch = change(obj)
            if patch is None:
                return
            version = {"resourceVersion": obj["metadata"]["resourceVersion"]}
            body = patch | {"metadata": patch.get("metadata", {}) | version}
            where = path(KIND, namespace, name, sub=sub)
            try:
                self._learn(await self._kube.call("PATCH", where, body=body, content_type=MERGE_PATCH))
            except ApiError as error:
                if not error.conflict or not left:
                    raise
                obj = await self._read(namespace, name)
            else:
                return

    def _learn(self, obj: Json) -> None:
        """What a write or a read told, unless the watch has told that the object is gone."""
        where = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"]) if stored(obj) else None
        if where is not None and self._cluster.get(KIND, *where) is not None:
            self._cluster.wrote(KIND, obj)


def _end(status: Json) -> str | None:
    """How the run ended, if it did."""
    over = (status.get("state") or {}).get("stage") == Stage.ENDED
    return f"{status.get('phase')}, {status.get('reason')}" if over else None


def epoch_of(obj: Json) -> int:
    """Read without the schema's strictness: the fence must stand whatever else is wrong.

    Beyond what a Lease counts to it is nobody's: no leader could come after it, of this run or any other.
    """
    found = int((obj.get("status") or {}).get("epoch") or 0)
    return found if found < LAST_EPOCH else 0


def _finalizers(obj: Json, *, guarded: bool) -> Json:
    """The whole list, since a merge patch replaces it; the version in the patch protects the others'."""
    there = obj["metadata"].get("finalizers", [])
    if resource.guarded(obj) == guarded:
        return None
    others = [name for name in there if name != resource.FINALIZER]
    return {"metadata": {"finalizers": [*others, resource.FINALIZER] if guarded else others}}


def _over(obj: Json, workload: str) -> bool:
    """Whether the run has ended, all was said, and nothing waits for it."""
    status = obj.get("status") or {}
    ended = any(
        one["type"] == "Succeeded" and one["status"] != "Unknown" for one in status.get("conditions", ())
    )
    busy = status.get("outbox") or obj["metadata"].get("finalizers")
    mine: bool = obj["spec"]["plan"]["canary"] == workload
    return mine and ended and not busy


def _age(obj: Json) -> tuple[str, str]:
    return obj["metadata"].get("creationTimestamp", ""), obj["metadata"]["name"]


def _without_nulls(value: Json) -> Json:
    """`value` as the API server stores it: a null is no field (and in a list often a 422)."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
