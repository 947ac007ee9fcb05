"""Who may do what: roles and bindings in the store, applied as the API server's RBAC applies them.

Additive, nothing denies. Groups and aggregated ClusterRoles are not emulated: a binding names accounts
and users, and a role holds its own rules.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scenarios.cluster import permits, refusals
from scenarios.cluster.messages import Request
from scenarios.cluster.store import Change, Store

Json = Any

ADMIN = "admin"  # may do everything, as whoever set the cluster up
_STORED = {kind.kind: kind for kind in permits.KINDS if kind.group == permits.RBAC}
_WRITES = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One verb on one resource, as a role grants it."""

    role: str  # its namespace, if it has one, and its name: "/serin-controller"
    group: str
    resource: str  # with its part: "deployments/scale"
    name: str  # of the one object that it is for; empty: all of them
    verb: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What somebody is about to do."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str

    def covered(self, right: Right) -> bool:
        """Whether the right is one to do this."""
        return (
            right.verb in {self.verb, "*"}
            and right.group in {self.group, "*"}
            and right.resource in {self.resource, "*"}
            and right.name in {self.name, ""}
        )


def verb(request: Request, name: str) -> str:
    """The request's verb; `name` is the object's, empty for a collection."""
    if request.method in {"GET", "HEAD"}:
        listing = "list" if not name else "get"
        return "watch" if request.says("watch") else listing
    if request.method == "DELETE":
        return "delete" if name else "deletecollection"
    return _WRITES.get(request.method, request.method.lower())


class Rights:
    """What every user may do; which rights were needed (`used`), and what was `denied` to whom."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._granted: dict[str, list[tuple[str, Right]]] = {}  # by user: where, and what
        self.used: set[Right] = set()
        self.denied: set[tuple[str, Attempt]] = set()
        store.listeners.append(self._heard)

    def check(self, user: str, attempt: Attempt) -> None:
        """Nothing, if the user may; raises 403 `Refused` in the server's words."""
        if user == ADMIN:
            return
        for where, right in self.of(user):
            if where in {"", attempt.namespace} and attempt.covered(right):
                self.used.add(right)
                return
        self.denied.add((user, attempt))
        place = f'in the namespace "{attempt.namespace}"' if attempt.namespace else "at the cluster scope"
        raise refusals.forbidden(
            attempt.resource.partition("/")[0],
            attempt.group,
            attempt.name,
            f'User "{user}" cannot {attempt.verb} resource "{attempt.resource}" '
            f'in API group "{attempt.group}" {place}',
        )

    def of(self, user: str) -> list[tuple[str, Right]]:
        """The user's rights, each with the namespace it is for; empty: everywhere."""
        if user not in self._granted:
            self._granted[user] = list(self._read(user))
        return self._granted[user]

    def _heard(self, change: Change) -> None:
        if change.kind.group == permits.RBAC:
            self._granted.clear()

    def _read(self, user: str) -> Iterator[tuple[str, Right]]:
        for kind in ("ClusterRoleBinding", "RoleBinding"):
            for binding in self._store.all(_STORED[kind], None):
                if user in map(_user, binding.get("subjects") or ()):
                    where = binding["metadata"].get("namespace", "")
                    yield from ((where, right) for right in self._bound(binding, where))

    def _bound(self, binding: Json, where: str) -> Iterator[Right]:
        """What the binding's role grants; nothing if there is no such role."""
        reference = binding["roleRef"]
        home = where if reference["kind"] == "Role" else ""
        role = self._store.get(_STORED[reference["kind"]], home, reference["name"])
        return iter(()) if role is None else rights(role)


def rights(role: Json) -> Iterator[Right]:
    """Every single right that a Role or ClusterRole grants."""
    meta = role["metadata"]
    for rule in role.get("rules") or ():
        for group in rule.get("apiGroups") or ():
            for resource in rule.get("resources") or ():
                for name in rule.get("resourceNames") or ("",):
                    for one in rule.get("verbs") or ():
                        yield Right(
                            role=f"{meta.get('namespace', '')}/{meta['name']}",
                            group=group,
                            resource=resource,
                            name=name,
                            verb=one,
                        )


def _user(subject: Json) -> str:
    """A subject's name as a user; an account's has its namespace in it."""
    if subject["kind"] == "ServiceAccount":
        return f"system:serviceaccount:{subject.get('namespace', '')}:{subject['name']}"
    return str(subject["name"])
