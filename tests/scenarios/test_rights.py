"""The rights of manifests/base/rbac.yaml, all others denied: the controller needs each, and no more."""

import json
import logging
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from scenarios.cluster.rbac import rights
from scenarios.objects import ACCOUNT, CANARY, CONTROLLER, NAMESPACE, SECRET, SYSTEM
from scenarios.people import NotDone, People
from scenarios.play import Theatre
from scenarios.plot import Patch, Story, Target, TargetFault
from scenarios.story import load
from scenarios.virtual.loop import run_virtual, virtual_loop
from scenarios.world import World, manifest

Json = Any
ROOT = Path(__file__).parents[2]
ROLES = [obj for obj in manifest("rbac.yaml") if "rules" in obj]
(OURS,) = (role for role in ROLES if (role["kind"], role["metadata"]["name"]) == ("ClusterRole", ACCOUNT))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def everything() -> Story:
    """A canary is recorded, superseded, recorded again, replayed, promoted, told of; its first run is pruned.

    For a second meanwhile somebody else always writes first.
    """
    found = load(ROOT / "scenarios" / "shadow-good-requantised.yaml")
    policy = {
        **found.policy,
        "steps": [50],
        "warmUp": "1s",
        "minStep": "5s",
        "minRequests": 50,
        "historyLimit": 1,
        "scaleDownDelay": {"promoted": "1s", "rolledBack": "1s"},
        "alerts": [{"slack": {"secretRef": {"name": SECRET}}}],
    }
    conflicts = TargetFault(
        at=timedelta(seconds=12),
        target=Target.API_SERVER,
        kind="conflict",
        lasting=timedelta(seconds=1),
    )
    newer = {"spec": {"template": {"metadata": {"annotations": {"example.com/model": "v3"}}}}}
    again = Patch(at=timedelta(seconds=24), kind="Deployment", name=CANARY, merge=newer)
    return replace(found, history=timedelta(seconds=5), policy=policy, faults=(conflicts,), edits=(again,))


@pytest.fixture(scope="module")
def theatre() -> Theatre:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return run_virtual(Theatre.play(everything()))


def test_no_secret_stands_in_any_object_but_its_own(theatre: Theatre) -> None:
    store, kinds = theatre.world.registry.store, theatre.world.registry.kinds
    (told,) = {url for _, url, _ in theatre.receiver.received}
    secret = b64encode(told.encode()).decode()
    holders = [
        obj["kind"]
        for kind in kinds
        for obj in store.all(kind, None)
        if told in (text := json.dumps(obj)) or secret in text
    ]
    assert holders == ["Secret"]


def test_the_controller_uses_every_right_that_the_manifests_grant_and_asks_for_no_other(
    theatre: Theatre,
) -> None:
    (run,) = theatre.world.objects("canaryruns", NAMESPACE)  # the first was deleted, as historyLimit says
    assert run["status"]["phase"] == "Succeeded"
    assert theatre.receiver.received
    found = theatre.world.server.rights
    granted = {right for _, right in found.of(CONTROLLER)}
    assert not found.denied
    assert granted - found.used == set()


def test_its_rights_are_those_of_its_manifest_and_of_the_secrets_that_are_shown_to_it() -> None:
    ours = {right for role in ROLES if ACCOUNT in role["metadata"]["name"] for right in rights(role)}
    world = run_virtual(furnished())
    found = world.server.rights.of(CONTROLLER)
    assert {right for _, right in found} == ours
    assert {where for where, right in found if right.group == "coordination.k8s.io"} == {SYSTEM}
    assert {where for where, right in found if right.group != "coordination.k8s.io"} == {""}


async def furnished() -> World:
    world = World(clock=virtual_loop().now)
    world.install()
    return world


CORE, APPS, RBAC = "/api/v1", "/apis/apps/v1", "/apis/rbac.authorization.k8s.io/v1"


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("GET", f"{CORE}/secrets", 'cannot list resource "secrets" in API group "" at the cluster scope'),
        ("GET", f"{CORE}/namespaces/lab/secrets/alerts", 'cannot get resource "secrets" in API group ""'),
        ("GET", f"{CORE}/configmaps", "cannot list"),
        ("GET", f"{CORE}/nodes", "cannot list"),
        ("DELETE", f"{CORE}/namespaces/lab/pods/a", 'cannot delete resource "pods"'),
        ("DELETE", f"{CORE}/namespaces/lab/pods", 'cannot deletecollection resource "pods"'),
        ("POST", f"{CORE}/namespaces/lab/pods", 'cannot create resource "pods"'),
        ("POST", f"{CORE}/namespaces/lab/pods/a/eviction", 'cannot create resource "pods/eviction"'),
        ("PATCH", f"{CORE}/namespaces/lab", 'cannot patch resource "namespaces" in API group "" in the name'),
        ("PATCH", f"{CORE}/namespaces/lab/services/a", "cannot patch"),
        ("POST", f"{APPS}/namespaces/lab/deployments", "cannot create"),
        ("PUT", f"{APPS}/namespaces/lab/deployments/a", "cannot update"),
        ("DELETE", f"{APPS}/namespaces/lab/deployments/a", "cannot delete"),
        (
            "PATCH",
            f"{APPS}/namespaces/lab/deployments/a/status",
            'cannot patch resource "deployments/status"',
        ),
        ("PATCH", f"{APPS}/namespaces/lab/replicasets/a", "cannot patch"),
        ("DELETE", "/apis/networking.istio.io/v1/namespaces/lab/virtualservices/a", "cannot delete"),
        ("PATCH", "/apis/networking.istio.io/v1/namespaces/lab/destinationrules/a", "cannot patch"),
        ("PATCH", "/apis/serin.dev/v1alpha1/namespaces/lab/canarypolicies/a", "cannot patch"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/serin-system/leases/another", "cannot update"),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/lab/leases/serin-controller", "cannot get"),
        ("POST", f"{RBAC}/namespaces/lab/roles", "cannot create"),
        ("PATCH", f"{RBAC}/clusterroles/serin-controller", "cannot patch"),
        (
            "POST",
            f"{RBAC}/clusterrolebindings",
            "clusterrolebindings.rbac.authorization.k8s.io is forbidden: User",
        ),
        ("GET", f"{RBAC}/clusterroles", "cannot list"),
    ],
)
def test_whoever_has_the_controller_s_token_is_denied_everything_else(
    method: str, path: str, says: str
) -> None:
    async def asked() -> None:
        people = People((await furnished()).transport(CONTROLLER), namespace=NAMESPACE)
        await people.ask(method, path, {} if method in {"POST", "PUT", "PATCH"} else None)

    with pytest.raises(NotDone, match=re.escape(says)) as refused:
        run_virtual(asked())
    assert "403" in str(refused.value)
    assert CONTROLLER in str(refused.value)


def test_a_rollback_needs_one_right_only_that_of_patching_virtual_services() -> None:
    found = load(ROOT / "scenarios" / "slack-hangs.yaml")
    kept = [rule for rule in OURS["rules"] if rule["resources"] == ["virtualservices"]]
    reading = [{**rule, "verbs": ["list", "watch"]} for rule in OURS["rules"] if "list" in rule["verbs"]]
    taken = Patch(
        at=timedelta(seconds=18), kind="ClusterRole", name=ACCOUNT, merge={"rules": [*kept, *reading]}
    )
    theatre = run_virtual(Theatre.play(replace(found, edits=(taken,), duration=timedelta(seconds=45))))
    denied = {(one.verb, one.resource) for _, one in theatre.world.server.rights.denied}
    assert {("patch", "canaryruns/status"), ("create", "events")} <= denied
    at, weight = theatre.result.weights[-1]
    assert weight == 0
    assert 20 < at < 35  # the fault begins at 20 s
