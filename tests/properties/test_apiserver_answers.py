"""Whatever is sent, the API server answers, and what it stores keeps its own rules."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.cluster import schema
from scenarios.cluster.messages import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, Reply, Request
from scenarios.virtual.loop import run_virtual, virtual_loop
from scenarios.world import World

Json = Any
LABELS = {"app": "model"}
OBJECTS = {
    "/apis/apps/v1/namespaces/default/deployments/model": {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "model"},
        "spec": {
            "selector": {"matchLabels": LABELS},
            "template": {
                "metadata": {"labels": LABELS},
                "spec": {"containers": [{"name": "model", "image": "registry.invalid/model:1"}]},
            },
        },
    },
    "/apis/serin.dev/v1alpha1/namespaces/default/canarypolicies/default": {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "CanaryPolicy",
        "metadata": {"name": "default"},
    },
    "/apis/networking.istio.io/v1/namespaces/default/virtualservices/model": {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "model"},
        "spec": {
            "hosts": ["model"],
            "http": [{"route": [{"destination": {"host": "model"}, "weight": 100}]}],
        },
    },
}
KEYS = (
    *("metadata", "name", "namespace", "labels", "annotations", "finalizers", "ownerReferences"),
    *("spec", "status", "replicas", "selector", "matchLabels", "template", "containers", "strategy"),
    *("rollingUpdate", "steps", "checks", "alpha", "http", "route", "weight", "conditions", "type", "env"),
    *("$patch", "$retainKeys", "$deleteFromPrimitiveList/finalizers", "-", "0", "kind", "apiVersion"),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-3, 200), st.floats(0, 2), st.sampled_from(KEYS))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=8,
)
paths = st.lists(st.sampled_from(KEYS), max_size=5).map(lambda keys: "".join(f"/{key}" for key in keys))
steps = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "replace", "remove", "move", "copy", "test"]), "path": paths},
    optional={"value": values, "from": paths},
)
patches = st.one_of(
    st.tuples(st.sampled_from([MERGE_PATCH, STRATEGIC_PATCH]), values),
    st.tuples(st.just(JSON_PATCH), st.lists(steps, max_size=3)),
)
CLAIMS = ("managedFields", "f:spec", "f:replicas", 'k:{"name":"model"}', "v:1", ".", "fieldsV1", "manager")
claims = st.recursive(
    st.one_of(st.none(), st.just({}), st.sampled_from(["Apply", "Update"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(CLAIMS), inner, max_size=3)
    ),
    max_leaves=6,
)
configurations = st.dictionaries(st.sampled_from(["spec", "status", *KEYS[:7]]), values, max_size=3)
KNOWN = {200, 201, 400, 403, 404, 409, 415, 422}
# A real server, too, answers these with a 500
UNMADE = ("field not declared in schema", "does not contain declared merge key")


def is_known(reply: Reply) -> bool:
    """Whether a real server answers so."""
    return reply.code in KNOWN or (reply.code == 500 and any(said in reply.body.decode() for said in UNMADE))


def a_world() -> World:
    """A world in which no controller may stumble unseen."""

    def stumbled(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        troubles.append(context)

    troubles.clear()
    virtual_loop().set_exception_handler(stumbled)
    return World(clock=virtual_loop().now)


troubles: list[dict[str, Any]] = []


@pytest.mark.parametrize("path", OBJECTS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(sent=st.lists(patches, min_size=1, max_size=4), parts=st.sampled_from(["", "/status"]))
def test_any_patch_is_answered_and_leaves_an_object_that_keeps_its_schema(
    path: str, sent: list[tuple[str, Json]], parts: str
) -> None:
    async def story() -> None:
        world = a_world()
        world.create(OBJECTS[path])
        for media, patch in sent:
            await asyncio.sleep(1)
            body = json.dumps(patch).encode()
            headers = {"content-type": media}
            reply = await world.answer(Request(method="PATCH", path=path + parts, headers=headers, body=body))
            assert is_known(reply), reply.body
        kind, _ = world.registry.kinds.of(OBJECTS[path])
        for obj in world.objects(kind.plural):
            assert schema.problems(kind.schema, obj, obj) == []
            assert obj["metadata"]["name"] == OBJECTS[path]["metadata"]["name"]
        await asyncio.sleep(5)
        await world.close()
        assert troubles == []

    run_virtual(story())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(body=values, path=st.sampled_from(sorted(OBJECTS)), method=st.sampled_from(["POST", "PUT", "DELETE"]))
def test_any_body_is_answered(body: Json, path: str, method: str) -> None:
    async def story() -> None:
        world = a_world()
        world.create(OBJECTS[path])
        whole = {**OBJECTS[path], **body} if isinstance(body, dict) else body
        where = path.rpartition("/")[0] if method == "POST" else path
        asked = Request(method=method, path=where, body=json.dumps(whole).encode())
        assert (await world.answer(asked)).code in KNOWN
        await asyncio.sleep(5)
        await world.close()
        assert troubles == []

    run_virtual(story())


@pytest.mark.parametrize("path", OBJECTS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    sent=st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), configurations, claims), max_size=4),
    part=st.sampled_from(["", "/status", "/scale"]),
)
def test_whatever_is_applied_is_answered(
    path: str, sent: list[tuple[str, bool, Json, Json]], part: str
) -> None:
    async def story() -> None:
        world = a_world()
        world.create(OBJECTS[path])
        about = {key: OBJECTS[path][key] for key in ("apiVersion", "kind")}
        for who, force, configuration, entries in sent:
            body = json.dumps({**about, **configuration}).encode()
            query = {"fieldManager": who, "force": str(force).lower()}
            headers = {"content-type": APPLY_PATCH}
            asked = Request(method="PATCH", path=path + part, headers=headers, body=body, query=query)
            reply = await world.answer(asked)
            assert is_known(reply), reply.body
            body = json.dumps({"metadata": {"managedFields": entries}}).encode()
            asked = Request(method="PATCH", path=path, headers={"content-type": MERGE_PATCH}, body=body)
            assert (await world.answer(asked)).code in KNOWN
        kind, _ = world.registry.kinds.of(OBJECTS[path])
        for obj in world.objects(kind.plural):
            assert [cause for cause in schema.problems(kind.schema, obj, obj) if kind.custom] == []
        await asyncio.sleep(5)
        await world.close()
        assert troubles == []

    run_virtual(story())
