"""RBAC as the emulated API server decides it. The controller's own rights: tests/scenarios/test_rights.py."""

from typing import Any

import pytest

from controller.cluster import FOLLOWED, path
from scenarios.cluster.refusals import Refused
from scenarios.people import NotDone, People
from scenarios.virtual.loop import run_virtual, virtual_loop
from scenarios.world import World
from tests.unit.test_manifests import BASE, ONE_NAMESPACE

Json = Any
GROUP = "rbac.authorization.k8s.io"
ANN = "ann"


def role(*rules: Json, name: str = "some", namespace: str | None = None) -> Json:
    kind, metadata = ("ClusterRole", {"name": name})
    if namespace is not None:
        kind, metadata = "Role", {"name": name, "namespace": namespace}
    return {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": metadata, "rules": list(rules)}


def binding(
    to: str, *, namespace: str | None = None, kind: str = "ClusterRole", who: Json | None = None
) -> Json:
    subject = who or {"kind": "User", "name": ANN}
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "ClusterRoleBinding" if namespace is None else "RoleBinding",
        "metadata": {"name": "some", **({} if namespace is None else {"namespace": namespace})},
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": to},
        "subjects": [subject],
    }


def rule(resource: str, *verbs: str, group: str = "", names: tuple[str, ...] = ()) -> Json:
    found = {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
    return {**found, "resourceNames": list(names)} if names else found


def asked(
    *objects: Json, method: str, path: str, query: dict[str, str] | None = None, user: str = ANN
) -> str:
    """What the server says to the user, 200 or the refusal."""

    async def ask() -> str:
        world = World(clock=virtual_loop().now)
        for name in ("lab", "other"):
            world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        world.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "z", "namespace": "lab"}})
        for obj in objects:
            world.create(obj)
        try:
            await People(world.transport(user), namespace="lab").ask(method, path, None, query=query)
        except NotDone as refused:
            return str(refused)
        return "200"

    return run_virtual(ask())


LAB = "/api/v1/namespaces/lab"
READS = role(rule("pods", "get", "list"))


def test_who_is_bound_to_nothing_may_do_nothing_and_is_told_what() -> None:
    said = asked(method="GET", path=f"{LAB}/pods")
    assert said.endswith(
        'pods is forbidden: User "ann" cannot list resource "pods" in API group "" in the namespace "lab"'
    )
    said = asked(method="GET", path="/apis/apps/v1/namespaces/lab/deployments/a/scale")
    assert said.endswith(
        'deployments.apps "a" is forbidden: User "ann" cannot get resource "deployments/scale" '
        'in API group "apps" in the namespace "lab"'
    )
    assert asked(method="GET", path="/api/v1/nodes").endswith("at the cluster scope")


def test_a_cluster_wide_binding_is_for_every_namespace_and_a_namespace_s_for_its_own() -> None:
    everywhere, here = binding("some"), binding("some", namespace="lab")
    assert asked(READS, everywhere, method="GET", path="/api/v1/pods") == "200"
    assert asked(READS, everywhere, method="GET", path="/api/v1/namespaces/other/pods") == "200"
    assert asked(READS, here, method="GET", path=f"{LAB}/pods") == "200"
    assert "403" in asked(READS, here, method="GET", path="/api/v1/namespaces/other/pods")
    assert "403" in asked(READS, here, method="GET", path="/api/v1/pods")


def test_a_role_of_a_namespace_is_found_in_its_own_only() -> None:
    there = role(rule("pods", "list"), namespace="other")
    bound = binding("some", namespace="lab", kind="Role")
    assert "403" in asked(there, bound, method="GET", path=f"{LAB}/pods")
    here = role(rule("pods", "list"), namespace="lab")
    assert asked(here, bound, method="GET", path=f"{LAB}/pods") == "200"


@pytest.mark.parametrize(
    ("verb", "method", "path", "query"),
    [
        ("list", "GET", f"{LAB}/secrets", None),
        ("watch", "GET", f"{LAB}/secrets", {"watch": "true", "timeoutSeconds": "1"}),
        ("get", "GET", f"{LAB}/secrets/a", None),
        ("create", "POST", f"{LAB}/secrets", None),
        ("update", "PUT", f"{LAB}/secrets/a", None),
        ("patch", "PATCH", f"{LAB}/secrets/a", None),
        ("delete", "DELETE", f"{LAB}/secrets/a", None),
        ("deletecollection", "DELETE", f"{LAB}/secrets", None),
    ],
)
def test_each_request_needs_its_own_verb(
    verb: str, method: str, path: str, query: dict[str, str] | None
) -> None:
    verbs = {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
    others = role(rule("secrets", *(verbs - {verb})))
    denied = asked(others, binding("some"), method=method, path=path, query=query)
    assert f'cannot {verb} resource "secrets"' in denied
    allowed = asked(role(rule("secrets", verb)), binding("some"), method=method, path=path, query=query)
    assert "403" not in allowed


def test_a_named_object_is_that_one_and_no_collection() -> None:
    one = role(rule("secrets", "get", "create", "list", names=("a",)))
    ask = {"method": "GET", "path": f"{LAB}/secrets/a"}
    assert "404" in asked(one, binding("some"), **ask)  # may, but there is none
    assert "403" in asked(one, binding("some"), method="GET", path=f"{LAB}/secrets/b")
    assert "403" in asked(one, binding("some"), method="GET", path=f"{LAB}/secrets")
    assert "403" in asked(one, binding("some"), method="POST", path=f"{LAB}/secrets")


def test_an_account_is_one_of_its_namespace() -> None:
    who = {"kind": "ServiceAccount", "name": "a", "namespace": "lab"}
    ask = {"method": "GET", "path": f"{LAB}/pods"}
    assert asked(READS, binding("some", who=who), user="system:serviceaccount:lab:a", **ask) == "200"
    assert "403" in asked(READS, binding("some", who=who), user="system:serviceaccount:other:a", **ask)


def test_a_right_that_is_taken_is_gone_at_the_next_request() -> None:
    async def ask() -> list[str]:
        world = World(clock=virtual_loop().now)
        for obj in (READS, binding("some")):
            world.create(obj)
        people, said = People(world.transport(ANN), namespace="default"), []
        for rules in (None, []):
            if rules is not None:
                world.patch("clusterroles", "", "some", {"rules": rules})
            try:
                await people.ask("GET", "/api/v1/pods", None)
                said.append("200")
            except NotDone as refused:
                said.append(str(refused))
        return said

    first, second = run_virtual(ask())
    assert first == "200"
    assert "403" in second


@pytest.mark.parametrize(
    "change",
    [
        {"roleRef": None},
        {"roleRef": {"kind": "Poem", "name": "a"}},
        {"subjects": [{"name": "a"}]},
        {"subjects": "everybody"},
    ],
)
def test_a_binding_that_binds_nobody_to_nothing_is_refused(change: Json) -> None:
    with pytest.raises(Refused, match=r"is invalid|cannot be handled"):
        run_virtual(_made(binding("some") | change))


async def _made(obj: Json) -> None:
    World(clock=virtual_loop().now).create(obj)


# What is installed where the base is, and a second Serin for the namespace "models" beside it.
SPACES = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    for name in ("serin-system", "models")
]
BOTH = [*SPACES, *(one for one in [*BASE, *ONE_NAMESPACE] if one["apiVersion"].startswith(GROUP))]
SECOND = "system:serviceaccount:models:serin-controller"


@pytest.mark.parametrize("kind", FOLLOWED)
def test_a_serin_for_one_namespace_may_follow_it_and_no_other(kind: str) -> None:
    """Of the base's rights, bound in that namespace; namespaces alone are in none."""
    here, there = (
        asked(*BOTH, method="GET", path=path(kind, name), user=SECOND) for name in ("models", "lab")
    )
    assert here == "200"
    assert there == "200" if kind == "namespaces" else "forbidden" in there


@pytest.mark.parametrize(("namespace", "may"), [("models", True), ("serin-system", False)])
def test_a_serin_for_one_namespace_takes_a_lease_there_and_not_the_first_one_s(
    namespace: str, *, may: bool
) -> None:
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/serin-controller"
    said = asked(*BOTH, method="GET", path=lease, user=SECOND)
    assert ("forbidden" not in said) == may
