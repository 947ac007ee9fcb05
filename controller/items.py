"""The words of the checklist before a canary: an item, how it stands, what mends it. Values only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from controller.cluster import Cluster
from controller.model import Policy
from controller.ports import Reading

Json = Any


class Result(StrEnum):
    """How an item stands; of several the worst one counts, in this order."""

    PASS = "Pass"  # noqa: S105 - no secret
    UNKNOWN = "Unknown"  # it cannot be told from here, and why
    FAIL = "Fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """What mends an object, as kubectl takes it; an empty `name` creates the object that `body` is.

    `note` is what to think of first. What stands in CAPITALS in `body` is to be filled in.
    """

    kind: str
    name: str
    namespace: str
    body: Json
    note: str = ""

    @property
    def sort(self) -> str:
        """The type of the patch: `kubectl patch --type`; custom resources take no strategic one."""
        return "strategic" if self.kind == "Deployment" else "merge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of the checklist: a sentence with the figures, and what mends it where it did not pass."""

    name: str
    result: Result
    why: str
    mend: str = ""
    patches: tuple[Patch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Paged:
    """What a pod's metrics page said, if it could be read, and what is wrong with it."""

    reading: Reading | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """What the checklist is worked out from.

    `plan` is as in `CanaryRun.spec`, without or with its policy; `unread` are the kinds of objects (as in
    `cluster.FOLLOWED`) that may not be read; `pages` are by pod; `services` are the namespace's, where they
    were asked for.
    """

    cluster: Cluster
    namespace: str
    plan: Mapping[str, Json]
    policy: Policy
    policy_name: str  # of the CanaryPolicy; one that is not there has to be made
    stable: Json  # Deployment
    canary: Json  # Deployment
    pages: Mapping[str, Paged] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    services: tuple[Json, ...] = ()
    now: datetime

    @property
    def arms(self) -> tuple[Json, Json]:
        """Both Deployments, stable's first."""
        return self.stable, self.canary

    def patch(self, kind: str, name: str, body: Json, note: str = "") -> Patch:
        """A patch in this namespace."""
        return Patch(kind=kind, name=name, namespace=self.namespace, body=body, note=note)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look at one of several things found."""

    result: Result
    why: str
    patch: Patch | None = None
    mend: str = ""  # where it says more than the item's


def worst(name: str, found: Iterable[Finding], *, mend: str = "") -> Item:
    """One item out of several findings: the worst result, what was found there, and all their patches."""
    findings = list(found)
    order = list(Result)
    result = max((one.result for one in findings), key=order.index)
    those = [one for one in findings if one.result is result]
    return Item(
        name=name,
        result=result,
        why="; ".join(dict.fromkeys(one.why for one in those)),
        mend="" if result is Result.PASS else "; ".join(dict.fromkeys(one.mend or mend for one in those)),
        patches=tuple(one.patch for one in those if one.patch is not None),
    )
