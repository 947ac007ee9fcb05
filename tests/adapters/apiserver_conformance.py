"""What a real API server does, as tests: run on the emulated one here, on any other by tests/e2e.

Nothing here knows which it is: a test gets an `Api`, a namespace of its own, and assumes neither
kubelet nor scheduler, only kube-controller-manager, Istio's CRDs and ours.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from controller.ports import Transport

Json = Any

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
GROUPS = {
    "pods": "api/v1",
    "services": "api/v1",
    "secrets": "api/v1",
    "configmaps": "api/v1",
    "deployments": "apis/apps/v1",
    "replicasets": "apis/apps/v1",
    "leases": "apis/coordination.k8s.io/v1",
    "virtualservices": "apis/networking.istio.io/v1",
    "canaryruns": "apis/serin.dev/v1alpha1",
    "canarypolicies": "apis/serin.dev/v1alpha1",
    "widgets": "apis/conformance.serin.dev/v1",
}
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
# A resource of the tests' own: a transition rule on an optional field, defaults, room for large objects
WIDGETS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.conformance.serin.dev"},
    "spec": {
        "group": "conformance.serin.dev",
        "scope": "Namespaced",
        "names": {"kind": "Widget", "listKind": "WidgetList", "plural": "widgets", "singular": "widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {"type": "integer", "default": 3, "maximum": 9},
                                    "text": {"type": "string"},
                                    "mode": {
                                        "type": "string",
                                        "maxLength": 20,
                                        "x-kubernetes-validations": [
                                            {"rule": "self == oldSelf", "message": "mode cannot be changed"}
                                        ],
                                    },
                                },
                            },
                            "status": {
                                "type": "object",
                                "properties": {"seen": {"type": "integer"}},
                            },
                        },
                    }
                },
            }
        ],
    },
}


@dataclass(frozen=True)
class Answered:
    """An answer, read."""

    code: int
    value: Json
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"{self.code} {json.dumps(self.value)[:600]}"


def _read(text: bytes) -> Json:
    """A body; what a server writes to people is text."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text.decode()


@dataclass
class Api:
    """A client without opinions, for one namespace."""

    transport: Transport
    namespace: str
    headers: dict[str, str] = field(default_factory=dict)

    def at(self, resource: str, name: str = "", part: str = "") -> str:
        """The path of a resource in the namespace, of one object, or of a part of it."""
        path = f"/{GROUPS[resource]}/namespaces/{self.namespace}/{resource}"
        return "/".join(piece for piece in (path, name, part) if piece)

    async def ask(
        self, method: str, path: str, body: Json = None, media: str = "application/json", **query: str
    ) -> Answered:
        """One request; a body of bytes goes as it is."""
        payload = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"Accept": "application/json", **self.headers}
        if payload is not None:
            headers["Content-Type"] = media
        async with self.transport.request(method, path, query=query, headers=headers, body=payload) as answer:
            text = await answer.read()
            return Answered(answer.status, _read(text), answer.headers)

    async def made(self, resource: str, obj: Json) -> Json:
        """The object that the server made of `obj`."""
        answer = await self.ask("POST", self.at(resource), obj)
        assert answer.code == 201, answer
        return answer.value

    async def got(self, resource: str, name: str) -> Json:
        """The object as it is now."""
        answer = await self.ask("GET", self.at(resource, name))
        assert answer.code == 200, answer
        return answer.value

    async def listed(self, resource: str, **query: str) -> Json:
        """The list."""
        answer = await self.ask("GET", self.at(resource), **query)
        assert answer.code == 200, answer
        return answer.value

    async def patched(self, resource: str, name: str, patch: Json, media: str = MERGE_PATCH) -> Answered:
        """The answer to a patch."""
        return await self.ask("PATCH", self.at(resource, name), patch, media)

    @asynccontextmanager
    async def watch(self, resource: str, **query: str) -> AsyncIterator[AsyncIterator[Json]]:
        """The events of a watch."""
        query = {"watch": "1", "timeoutSeconds": "20", **query}
        asked = self.transport.request(
            "GET", self.at(resource), query=query, headers={"Accept": "application/json"}, body=None
        )
        async with asked as answer:
            if answer.status != 200:
                yield _once({"type": "ERROR", "object": json.loads(await answer.read())})
                return
            async with aclosing(_events(answer.lines())) as events:
                yield events


async def _once(event: Json) -> AsyncIterator[Json]:
    yield event


async def _events(lines: AsyncIterator[bytes]) -> AsyncIterator[Json]:
    async for line in lines:
        if line.strip():
            yield json.loads(line)


async def eventually(look: Callable[[], Awaitable[Json]], *, within: float = 5.0) -> Json:
    """What `look` returns, once that is true; it is asked again and again."""
    async with asyncio.timeout(within):
        while not (found := await look()):  # noqa: ASYNC110 (it cannot tell when it is)
            await asyncio.sleep(0.02)
    return found


async def heard(events: AsyncIterator[Json], *, within: float = 5.0) -> Json:
    """The next event."""
    async with asyncio.timeout(within):
        return await anext(events)


def deployment(name: str = "model", *, replicas: int = 2, **template: Json) -> Json:
    labels = {"app": name}
    container = {"name": "model", "image": "registry.invalid/model:1", "env": [{"name": "A", "value": "1"}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels, **template}, "spec": {"containers": [container]}},
        },
    }


def config(name: str = "notes", **meta: Json) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **meta}, "data": {"a": "b"}}


def widget(name: str = "one", **spec: Json) -> Json:
    return {
        "apiVersion": "conformance.serin.dev/v1",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": spec,
    }


def policy(name: str = "default", **spec: Json) -> Json:
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "CanaryPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }


def run(name: str = "model-canary-abc-1", **spec: Json) -> Json:
    names = ("canary", "stable", "canaryHash", "stableHash", "virtualService", "stableSubset", "canarySubset")
    plan = {**dict.fromkeys(names, "x"), "policy": {}}
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "CanaryRun",
        "metadata": {"name": name},
        "spec": {"plan": plan, **spec},
    }


def virtual_service(name: str = "model") -> Json:
    destinations = [{"destination": {"host": name, "subset": subset}} for subset in ("stable", "canary")]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name},
        "spec": {"hosts": [name], "http": [{"route": destinations, "timeout": "5s"}]},
    }


def version_of(obj: Json) -> str:
    return obj["metadata"]["resourceVersion"]


async def replica_sets(api: Api, name: str = "model") -> list[Json]:
    """The Deployment's ReplicaSets."""
    return (await api.listed("replicasets", labelSelector=f"app={name}"))["items"]


async def settled(api: Api, *, pods: int, name: str = "model") -> list[Json]:
    """The Deployment's pods, once there are so many."""

    async def look() -> Json:
        found = (await api.listed("pods", labelSelector=f"app={name}"))["items"]
        return [found] if len(found) == pods else None

    return (await eventually(look))[0]


# --- JSON patch


async def test_a_json_patch_whose_test_fails_is_a_422_and_changes_nothing(api: Api) -> None:
    before = await api.made("deployments", deployment())
    steps = [
        {"op": "replace", "path": "/spec/replicas", "value": 5},
        {"op": "test", "path": "/spec/template/spec/containers/0/name", "value": "other"},
    ]
    answer = await api.patched("deployments", "model", steps, JSON_PATCH)
    assert (answer.code, answer.value["reason"]) == (422, "Invalid")
    assert (await api.got("deployments", "model"))["spec"] == before["spec"]


async def test_a_json_patch_that_tests_a_stale_version_is_a_422(api: Api) -> None:
    before = await api.made("configmaps", config())
    await api.patched("configmaps", "notes", {"data": {"c": "d"}})
    steps = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": version_of(before)},
        {"op": "add", "path": "/data/e", "value": "f"},
    ]
    answer = await api.patched("configmaps", "notes", steps, JSON_PATCH)
    assert answer.code == 422, answer


async def test_a_dict_sent_as_json_patch_is_a_400(api: Api) -> None:
    await api.made("virtualservices", virtual_service())
    answer = await api.patched("virtualservices", "model", {"spec": {"hosts": ["x"]}}, JSON_PATCH)
    assert (answer.code, answer.value["reason"]) == (400, "BadRequest")


async def test_adding_sets_a_field_that_is_there_and_one_that_is_not(api: Api) -> None:
    await api.made("virtualservices", virtual_service())
    for weight in (10, 0):
        steps = [
            {
                "op": "test",
                "path": "/spec/http/0/route/1/destination",
                "value": {"subset": "canary", "host": "model"},
            },
            {"op": "add", "path": "/spec/http/0/route/0/weight", "value": 100 - weight},
            {"op": "add", "path": "/spec/http/0/route/1/weight", "value": weight},
        ]
        answer = await api.patched("virtualservices", "model", steps, JSON_PATCH)
        assert answer.code == 200, answer
        assert [route["weight"] for route in answer.value["spec"]["http"][0]["route"]] == [
            100 - weight,
            weight,
        ]
        assert answer.value["spec"]["http"][0]["timeout"] == "5s"


async def test_a_json_patch_on_a_path_that_is_not_there_is_a_422(api: Api) -> None:
    await api.made("configmaps", config())
    for step in (
        {"op": "replace", "path": "/none/none", "value": "x"},
        {"op": "remove", "path": "/data/none"},
        {"op": "add", "path": "/none/none", "value": "x"},
    ):
        assert (await api.patched("configmaps", "notes", [step], JSON_PATCH)).code == 422


async def test_a_json_patch_takes_a_key_that_is_not_there_for_null(api: Api) -> None:
    await api.made("configmaps", config())
    steps = [
        {"op": "test", "path": "/data/none", "value": None},
        {"op": "replace", "path": "/data/none", "value": "x"},
    ]
    answer = await api.patched("configmaps", "notes", steps, JSON_PATCH)
    assert (answer.code, answer.value["data"]) == (200, {"a": "b", "none": "x"})


# --- merge patch, strategic merge patch


async def test_a_merge_patch_with_a_stale_version_is_a_409(api: Api) -> None:
    stale = version_of(await api.made("canaryruns", run()))
    await api.patched("canaryruns", run()["metadata"]["name"], {"metadata": {"labels": {"a": "b"}}})
    patch = {"metadata": {"resourceVersion": stale}, "status": {"weight": 10}}
    answer = await api.ask(
        "PATCH", api.at("canaryruns", run()["metadata"]["name"], "status"), patch, MERGE_PATCH
    )
    assert (answer.code, answer.value["reason"]) == (409, "Conflict")
    assert answer.value["details"]["kind"] == "canaryruns"


async def test_a_merge_patch_replaces_lists_and_removes_what_is_null(api: Api) -> None:
    await api.made("deployments", deployment())
    container = {"name": "model", "image": "registry.invalid/model:2"}
    patch = {
        "metadata": {"labels": {"app": None, "b": "c"}},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
    answer = await api.patched("deployments", "model", patch)
    assert answer.code == 200, answer
    assert answer.value["metadata"]["labels"] == {"b": "c"}
    assert "env" not in answer.value["spec"]["template"]["spec"]["containers"][0]


async def test_a_strategic_merge_patch_merges_containers_and_env_by_name(api: Api) -> None:
    await api.made("deployments", deployment())
    container = {"name": "model", "env": [{"name": "B", "value": "2"}]}
    patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
    answer = await api.patched("deployments", "model", patch, STRATEGIC)
    assert answer.code == 200, answer
    (found,) = answer.value["spec"]["template"]["spec"]["containers"]
    assert found["image"] == "registry.invalid/model:1"
    assert {item["name"]: item["value"] for item in found["env"]} == {"A": "1", "B": "2"}


async def test_a_strategic_merge_patch_says_which_container_it_means(api: Api) -> None:
    await api.made("deployments", deployment())
    patch = {"spec": {"template": {"spec": {"containers": [{"image": "registry.invalid/model:2"}]}}}}
    answer = await api.patched("deployments", "model", patch, STRATEGIC)
    assert answer.code == 500, answer
    said = "map: map[image:registry.invalid/model:2] does not contain declared merge key: name"
    assert answer.value["message"] == said


async def test_custom_resources_take_no_strategic_merge_patch(api: Api) -> None:
    await api.made("canarypolicies", policy())
    answer = await api.patched("canarypolicies", "default", {"spec": {"alpha": 0.05}}, STRATEGIC)
    assert (answer.code, answer.value["reason"]) == (415, "UnsupportedMediaType")


async def test_a_patch_that_changes_nothing_keeps_the_version(api: Api) -> None:
    for resource, obj, patch in (
        ("deployments", deployment(), {"spec": {"replicas": 2}}),
        ("virtualservices", virtual_service(), {"spec": {"hosts": ["model"]}}),
    ):
        await api.made(resource, obj)
        if resource == "deployments":
            await eventually(lambda: replica_sets(api))
            await settled(api, pods=2)
            await asyncio.sleep(0.3)  # the controllers' own writes are over
        before = await api.got(resource, "model")
        answer = await api.patched(resource, "model", patch)
        assert answer.code == 200
        assert version_of(answer.value) == version_of(before)


async def test_a_patch_of_what_is_not_there_is_a_404(api: Api) -> None:
    answer = await api.patched("deployments", "none", {"spec": {"replicas": 1}})
    assert (answer.code, answer.value["reason"]) == (404, "NotFound")


# --- server-side apply, managed fields


async def applies(api: Api, resource: str, obj: Json, by: str, *, part: str = "", **query: str) -> Answered:
    """The answer to a server-side apply."""
    path = api.at(resource, obj["metadata"]["name"], part)
    return await api.ask("PATCH", path, obj, APPLY, fieldManager=by, **query)


def claims(obj: Json) -> dict[tuple[str, str], Json]:
    """What each writer claims, by its name and operation."""
    return {(entry["manager"], entry["operation"]): entry for entry in obj["metadata"]["managedFields"]}


async def test_applying_makes_the_object_and_applying_it_again_changes_nothing(api: Api) -> None:
    first = await applies(api, "widgets", widget(size=5), "ann")
    assert (first.code, first.value["spec"]) == (201, {"size": 5})
    again = await applies(api, "widgets", widget(size=5), "ann")
    assert (again.code, version_of(again.value)) == (200, version_of(first.value))
    (entry,) = again.value["metadata"]["managedFields"]
    assert entry["apiVersion"] == "conformance.serin.dev/v1"
    assert (entry["manager"], entry["operation"], entry["fieldsType"]) == ("ann", "Apply", "FieldsV1")
    assert entry["fieldsV1"] == {"f:spec": {"f:size": {}}}


async def test_a_field_of_another_writer_is_a_conflict_until_it_is_forced(api: Api) -> None:
    await applies(api, "widgets", widget(size=5), "ann")
    refused = await applies(api, "widgets", widget(size=6), "bob")
    assert (refused.code, refused.value["reason"]) == (409, "Conflict")
    assert refused.value["message"] == 'Apply failed with 1 conflict: conflict with "ann": .spec.size'
    assert refused.value["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "ann"', "field": ".spec.size"}
    ]
    forced = await applies(api, "widgets", widget(size=6), "bob", force="true")
    assert (forced.code, forced.value["spec"]["size"]) == (200, 6)
    assert claims(forced.value).keys() == {("bob", "Apply")}


async def test_who_applies_the_same_value_shares_the_field(api: Api) -> None:
    await applies(api, "widgets", widget(size=5), "ann")
    shared = await applies(api, "widgets", widget(size=5), "bob")
    assert claims(shared.value).keys() == {("ann", "Apply"), ("bob", "Apply")}
    left = await applies(api, "widgets", widget(text="x"), "ann")
    assert left.value["spec"] == {"size": 5, "text": "x"}  # bob holds the size


async def test_what_is_no_longer_applied_goes_and_a_default_comes_back(api: Api) -> None:
    await applies(api, "widgets", widget(size=5, text="x"), "ann")
    left = await applies(api, "widgets", widget(), "ann")
    assert left.value["spec"] == {"size": 3}


async def test_who_patches_claims_what_it_changes_and_takes_it_from_others(api: Api) -> None:
    await applies(api, "widgets", widget(size=5, text="x"), "ann")
    path = api.at("widgets", "one")
    patched = await api.ask("PATCH", path, {"spec": {"size": 6}}, MERGE_PATCH, fieldManager="cy")
    found = claims(patched.value)
    assert found["ann", "Apply"]["fieldsV1"] == {"f:spec": {"f:text": {}}}
    assert found["cy", "Update"]["fieldsV1"] == {"f:spec": {"f:size": {}}}
    refused = await applies(api, "widgets", widget(size=5, text="x"), "ann")
    words = 'conflict with "cy" using conformance.serin.dev/v1: .spec.size'
    assert words in refused.value["message"]
    for value in (7, 8):  # an apply says what its configuration is, a conflict too
        refused = await applies(api, "widgets", widget(size=value), "ann")
    assert refused.code == 409


async def test_several_conflicts_are_listed_by_writer(api: Api) -> None:
    await applies(api, "widgets", widget(size=5, text="x"), "ann")
    refused = await applies(api, "widgets", widget(size=6, text="y"), "bob")
    said = 'Apply failed with 2 conflicts: conflicts with "ann":\n- .spec.size\n- .spec.text'
    assert refused.value["message"] == said


async def test_items_of_a_list_have_owners_of_their_own(api: Api) -> None:
    first = deployment()
    assert (await applies(api, "deployments", first, "ann")).code == 201
    env = [{"name": "B", "value": "2"}]
    template = {"spec": {"containers": [{"name": "model", "env": env}]}}
    second = {**first, "metadata": {"name": "model"}, "spec": {"template": template}}
    both = await applies(api, "deployments", second, "bob")
    assert both.code == 200, both
    (container,) = both.value["spec"]["template"]["spec"]["containers"]
    assert {item["name"]: item["value"] for item in container["env"]} == {"A": "1", "B": "2"}
    refused = await applies(api, "deployments", {**second, "spec": {"replicas": 9}}, "bob")
    assert ".spec.replicas" in refused.value["message"]
    gone = await applies(api, "deployments", {**second, "spec": {}}, "bob")
    (container,) = gone.value["spec"]["template"]["spec"]["containers"]
    assert [item["name"] for item in container["env"]] == ["A"]


async def test_an_item_is_named_by_its_keys_and_their_defaults(api: Api) -> None:
    obj = service() | {"spec": {"selector": {"app": "model"}, "ports": [{"port": 80}]}}
    made = await applies(api, "services", obj, "ann")
    ports = claims(made.value)["ann", "Apply"]["fieldsV1"]["f:spec"]["f:ports"]
    assert ports == {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}}}


async def test_replicas_set_through_scale_are_claimed_there(api: Api) -> None:
    await applies(api, "deployments", deployment(), "ann")
    path = api.at("deployments", "model", "scale")
    await api.ask("PATCH", path, {"spec": {"replicas": 3}}, MERGE_PATCH, fieldManager="cy")
    refused = await applies(api, "deployments", deployment(), "ann")
    words = 'conflict with "cy" with subresource "scale" using apps/v1: .spec.replicas'
    assert words in refused.value["message"]


async def test_a_status_is_applied_and_claimed_apart(api: Api) -> None:
    await applies(api, "widgets", widget(size=5), "ann")
    answer = await applies(api, "widgets", {**widget(), "status": {"seen": 1}}, "cy", part="status")
    assert (answer.code, answer.value["status"]) == (200, {"seen": 1})
    found = claims(answer.value)["cy", "Apply"]
    assert (found["subresource"], found["fieldsV1"]) == ("status", {"f:status": {"f:seen": {}}})
    assert answer.value["spec"] == {"size": 5}


async def test_a_writer_without_a_name_is_called_after_its_program(api: Api) -> None:
    api.headers["User-Agent"] = "probe/1.2 (linux)"
    made = await api.made("configmaps", config())
    assert claims(made)["probe", "Update"]["fieldsV1"] == {"f:data": {".": {}, "f:a": {}}}


async def test_claims_can_be_taken_away_and_are_kept_by_who_sends_none(api: Api) -> None:
    await applies(api, "widgets", widget(size=5), "ann")
    obj = await api.got("widgets", "one")
    meta = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    kept = await api.ask("PUT", api.at("widgets", "one"), {**obj, "metadata": meta})
    assert ("ann", "Apply") in claims(kept.value)
    reset = await api.patched("widgets", "one", {"metadata": {"managedFields": [{}]}})
    assert reset.code == 200, reset
    assert "managedFields" not in reset.value["metadata"]
    refused = await applies(api, "widgets", widget(size=6), "bob")
    assert refused.code == 409
    assert refused.value["message"].startswith(
        'Apply failed with 1 conflict: conflict with "before-first-apply"'
    )
    shared = await applies(api, "widgets", widget(size=5), "bob")
    assert set(claims(shared.value)) == {("bob", "Apply"), ("before-first-apply", "Update")}


async def test_an_apply_says_who_applies_and_nothing_of_claims(api: Api) -> None:
    path = api.at("widgets", "one")
    nameless = await api.ask("PATCH", path, widget(), APPLY)
    assert (nameless.code, nameless.value["reason"]) == (422, "Invalid")
    assert "fieldManager: Required value: is required for apply patch" in nameless.value["message"]
    obj = widget()
    obj["metadata"]["managedFields"] = [{"manager": "ann"}]
    assert (
        "metadata.managedFields must be nil" in (await applies(api, "widgets", obj, "ann")).value["message"]
    )
    await applies(api, "widgets", widget(), "ann")
    forced = await api.ask("PATCH", path, {"spec": {}}, MERGE_PATCH, force="true")
    assert "force: Forbidden: may not be specified for non-apply patch" in forced.value["message"]


async def test_a_field_that_no_schema_has_cannot_be_applied(api: Api) -> None:
    answer = await applies(api, "widgets", widget(colour="red"), "ann")
    assert answer.code == 500, answer
    assert ".spec.colour: field not declared in schema" in answer.value["message"]


async def test_a_stale_version_in_an_apply_is_a_409(api: Api) -> None:
    made = (await applies(api, "widgets", widget(size=5), "ann")).value
    await api.patched("widgets", "one", {"metadata": {"labels": {"a": "b"}}})
    obj = widget(size=5)
    obj["metadata"]["resourceVersion"] = version_of(made)
    assert "has been modified" in (await applies(api, "widgets", obj, "ann")).value["message"]


# --- what cannot be read, and what is too much


async def test_nan_is_a_400(api: Api) -> None:
    await api.made("canaryruns", run())
    path = api.at("canaryruns", run()["metadata"]["name"], "status")
    answer = await api.ask("PATCH", path, b'{"status": {"weight": NaN}}', MERGE_PATCH)
    assert (answer.code, answer.value["reason"]) == (400, "BadRequest")


async def test_an_object_over_one_and_a_half_megabytes_is_a_500(api: Api) -> None:
    answer = await api.ask("POST", api.at("widgets"), widget(text="x" * 1_600_000))
    assert answer.code == 500, answer
    assert "request is too large" in answer.value["message"]


async def test_a_config_map_over_one_megabyte_is_a_422(api: Api) -> None:
    answer = await api.ask("POST", api.at("configmaps"), config() | {"data": {"a": "x" * 1_100_000}})
    assert (answer.code, answer.value["details"]["causes"][0]["reason"]) == (422, "FieldValueTooLong")


async def test_a_label_that_is_no_string_is_a_400(api: Api) -> None:
    answer = await api.ask("POST", api.at("configmaps"), config(annotations={"serin.dev/pause": True}))
    assert (answer.code, answer.value["reason"]) == (400, "BadRequest")


async def test_text_that_is_no_json_is_a_400(api: Api) -> None:
    assert (await api.ask("POST", api.at("configmaps"), b"{")).code == 400


async def test_an_object_of_another_kind_is_a_400(api: Api) -> None:
    assert (await api.ask("POST", api.at("services"), config())).code == 400


# --- metadata


async def test_a_label_value_over_63_bytes_is_a_422_that_names_the_field(api: Api) -> None:
    answer = await api.ask("POST", api.at("configmaps"), config(labels={"a": "x" * 64}))
    assert (answer.code, answer.value["reason"]) == (422, "Invalid")
    assert answer.value["details"]["causes"][0]["field"] == "metadata.labels"


async def test_annotations_may_hold_262144_bytes_together(api: Api) -> None:
    half = 131_072 - 1
    fits = {"a": "x" * half, "b": "x" * half}
    assert (await api.ask("POST", api.at("configmaps"), config(annotations=fits))).code == 201
    answer = await api.patched("configmaps", "notes", {"metadata": {"annotations": {"c": ""}}})
    assert (answer.code, answer.value["details"]["causes"][0]["field"]) == (422, "metadata.annotations")


async def test_a_name_that_is_none_is_a_422(api: Api) -> None:
    answer = await api.ask("POST", api.at("configmaps"), config("Not_A_Name"))
    assert (answer.code, answer.value["details"]["causes"][0]["field"]) == (422, "metadata.name")


async def test_a_generated_name_begins_as_asked_and_is_new_each_time(api: Api) -> None:
    names = set()
    for _ in range(3):
        made = await api.made("configmaps", {**config(), "metadata": {"generateName": "notes-"}})
        names.add(made["metadata"]["name"])
    assert len(names) == 3
    assert all(name.startswith("notes-") and len(name) == 11 for name in names)


async def test_what_a_generated_name_begins_with_can_begin_a_name(api: Api) -> None:
    answer = await api.ask("POST", api.at("configmaps"), {**config(), "metadata": {"generateName": "n."}})
    assert answer.code == 422, answer
    assert answer.value["message"].partition(": ")[2].startswith('metadata.generateName: Invalid value: "n."')


async def test_the_server_owns_uid_time_and_generation(api: Api) -> None:
    mine = {"uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 7}
    made = (await api.made("canarypolicies", policy() | {"metadata": {"name": "default", **mine}}))[
        "metadata"
    ]
    assert made["uid"] != "mine"
    assert made["creationTimestamp"] > "2001-01-01T00:00:00Z"
    assert made["generation"] == 1


# --- 404 and 409 as clients match on them


async def test_what_is_not_there_is_a_404_that_says_what_it_is(api: Api) -> None:
    answer = await api.ask("GET", api.at("deployments", "none"))
    assert answer.code == 404
    assert answer.value["kind"] == "Status"
    assert answer.value["reason"] == "NotFound"
    assert answer.value["message"] == 'deployments.apps "none" not found'
    assert answer.value["details"] == {"name": "none", "group": "apps", "kind": "deployments"}


async def test_a_name_that_is_taken_is_a_409_already_exists(api: Api) -> None:
    await api.made("services", {**service(), "metadata": {"name": "model"}})
    answer = await api.ask("POST", api.at("services"), service())
    assert (answer.code, answer.value["reason"]) == (409, "AlreadyExists")
    assert answer.value["message"] == 'services "model" already exists'


def service() -> Json:
    spec = {"selector": {"app": "model"}, "ports": [{"port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "model"}, "spec": spec}


async def test_a_resource_that_is_not_served_is_a_404(api: Api) -> None:
    answer = await api.ask("GET", f"/apis/apps/v1/namespaces/{api.namespace}/nothings")
    assert (answer.code, answer.value["reason"]) == (404, "NotFound")
    for group in ("serin.dev/v1alpha1", "strange.dev/v1"):  # said to people, not to programs
        answer = await api.ask("GET", f"/apis/{group}/namespaces/{api.namespace}/nothings")
        assert (answer.code, answer.value) == (404, "404 page not found\n")


async def test_nothing_can_be_made_in_a_namespace_that_is_not_there(api: Api) -> None:
    answer = await api.ask("POST", "/api/v1/namespaces/not-there/configmaps", config())
    assert (answer.code, answer.value["details"]["kind"]) == (404, "namespaces")


# --- versions and generations


async def test_replacing_with_a_stale_version_is_a_409(api: Api) -> None:
    first = await api.made("canarypolicies", policy(alpha=0.02))
    await api.patched("canarypolicies", "default", {"spec": {"alpha": 0.03}})
    answer = await api.ask("PUT", api.at("canarypolicies", "default"), first)
    assert (answer.code, answer.value["reason"]) == (409, "Conflict")
    assert "the object has been modified" in answer.value["message"]


async def test_a_custom_resource_cannot_be_replaced_without_a_version(api: Api) -> None:
    await api.made("canarypolicies", policy())
    answer = await api.ask("PUT", api.at("canarypolicies", "default"), policy(alpha=0.02))
    assert (answer.code, answer.value["details"]["causes"][0]["field"]) == (422, "metadata.resourceVersion")


async def test_a_change_of_spec_raises_the_generation_a_label_or_status_does_not(api: Api) -> None:
    name = run()["metadata"]["name"]
    await api.made("canaryruns", run())
    await api.patched("canaryruns", name, {"metadata": {"labels": {"a": "b"}}})
    status = await api.ask(
        "PATCH", api.at("canaryruns", name, "status"), {"status": {"weight": 5}}, MERGE_PATCH
    )
    assert status.code == 200, status
    assert status.value["status"]["weight"] == 5
    assert status.value["metadata"]["generation"] == 1
    answer = await api.patched("canaryruns", name, {"spec": {"paused": True}})
    assert answer.value["metadata"]["generation"] == 2
    assert answer.value["status"]["weight"] == 5


async def test_status_sent_through_the_main_resource_is_ignored(api: Api) -> None:
    name = run()["metadata"]["name"]
    made = await api.made("canaryruns", {**run(), "status": {"weight": 7}})
    assert "weight" not in made.get("status", {})
    patched = await api.patched("canaryruns", name, {"status": {"weight": 7}})
    assert patched.code == 200
    assert "weight" not in patched.value.get("status", {})
    replaced = await api.ask("PUT", api.at("canaryruns", name), {**patched.value, "status": {"weight": 7}})
    assert replaced.code == 200
    assert "weight" not in replaced.value.get("status", {})


async def test_spec_and_labels_sent_through_status_are_ignored(api: Api) -> None:
    name = run()["metadata"]["name"]
    await api.made("canaryruns", run())
    patch = {"metadata": {"labels": {"a": "b"}}, "spec": {"paused": True}, "status": {"weight": 5}}
    answer = await api.ask("PATCH", api.at("canaryruns", name, "status"), patch, MERGE_PATCH)
    assert answer.code == 200, answer
    assert "labels" not in answer.value["metadata"]
    assert not answer.value["spec"].get("paused")
    assert answer.value["status"]["weight"] == 5


async def test_a_write_with_another_uid_is_a_409_and_a_patch_a_422(api: Api) -> None:
    await api.made("configmaps", config())
    uid = "00000000-0000-0000-0000-000000000000"
    refused = await api.patched("configmaps", "notes", {"metadata": {"uid": uid}})
    assert (refused.code, refused.value["details"]["causes"][0]["field"]) == (422, "metadata.uid")
    other = {**config(), "metadata": {"name": "notes", "uid": uid}}
    assert (await api.ask("PUT", api.at("configmaps", "notes"), other)).code == 409


async def test_a_dry_run_answers_and_changes_nothing(api: Api) -> None:
    answer = await api.ask("POST", api.at("canarypolicies"), policy(), dryRun="All")
    assert answer.code == 201
    assert answer.value["spec"]["alpha"] == 0.01
    assert (await api.ask("GET", api.at("canarypolicies", "default"))).code == 404


# --- schemas


async def test_defaults_are_filled_in_where_objects_are_made_and_where_they_are_emptied(api: Api) -> None:
    made = await api.made("widgets", widget())
    assert made["spec"]["size"] == 3
    answer = await api.patched("widgets", "one", [{"op": "remove", "path": "/spec/size"}], JSON_PATCH)
    assert answer.code == 200, answer
    assert answer.value["spec"]["size"] == 3


async def test_unknown_fields_are_dropped_with_a_warning(api: Api) -> None:
    answer = await api.ask("POST", api.at("widgets"), widget(colour="red"), fieldValidation="Warn")
    assert answer.code == 201, answer
    assert "colour" not in answer.value["spec"]
    assert 'unknown field \\"spec.colour\\"' in answer.headers["Warning"]


async def test_unknown_fields_are_a_400_for_those_who_want_to_know(api: Api) -> None:
    answer = await api.ask("POST", api.at("widgets"), widget(colour="red"), fieldValidation="Strict")
    assert (answer.code, answer.value["reason"]) == (400, "BadRequest")
    assert 'strict decoding error: unknown field "spec.colour"' in answer.value["message"]


async def test_a_slip_is_named_before_a_rule_that_is_broken_or_beside_it(api: Api) -> None:
    """Only the rule was: the slip came up when that had been mended."""
    both = policy(steps=[50, 10], warmup="30s")
    strict = await api.ask("POST", api.at("canarypolicies"), both, fieldValidation="Strict")
    assert strict.code == 400, strict
    assert 'unknown field "spec.warmup"' in strict.value["message"]
    warned = await api.ask("POST", api.at("canarypolicies"), both, fieldValidation="Warn")
    assert warned.code == 422, warned
    assert "steps must increase" in warned.value["message"]
    assert 'unknown field \\"spec.warmup\\"' in warned.headers["Warning"]


async def test_rules_are_asked_beside_a_wrong_form_and_not_beside_a_wrong_type(api: Api) -> None:
    form = await api.ask("POST", api.at("canarypolicies"), policy(steps=[50, 10], warmUp="30sec"))
    assert form.code == 422, form
    assert "spec.warmUp in body should match" in form.value["message"]
    assert "steps must increase" in form.value["message"]
    for wrong in ({"minRequests": "300"}, {"onInconclusive": "Hol"}):
        other = await api.ask("POST", api.at("canarypolicies"), policy(steps=[50, 10], **wrong))
        assert other.code == 422, other
        assert "steps must increase" not in other.value["message"]
        assert "some validation rules were not checked" in other.value["message"]


async def test_a_mistyped_field_of_a_container_is_found(api: Api) -> None:
    obj = deployment()
    obj["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    answer = await api.ask("POST", api.at("deployments"), obj, fieldValidation="Strict")
    assert answer.code == 400, answer
    unknown = 'unknown field "spec.template.spec.containers[0].imagePullPolice"'
    assert f"strict decoding error: {unknown}" in answer.value["message"]


async def test_what_breaks_a_schema_is_a_422_that_names_every_field(api: Api) -> None:
    answer = await api.ask("POST", api.at("canarypolicies"), policy(alpha=0, warmUp="soon", onNoData="Panic"))
    assert (answer.code, answer.value["reason"]) == (422, "Invalid")
    causes = {cause["field"]: cause["message"] for cause in answer.value["details"]["causes"]}
    assert causes["spec.alpha"] == "Invalid value: 0: spec.alpha in body should be greater than 0"
    assert "spec.warmUp in body should match" in causes["spec.warmUp"]
    assert causes["spec.onNoData"] == 'Unsupported value: "Panic": supported values: "Hold", "RollBack"'


async def test_a_wrong_type_and_a_missing_field_are_named(api: Api) -> None:
    answer = await api.ask("POST", api.at("canarypolicies"), policy(steps="ten"))
    assert answer.code == 422
    assert "spec.steps in body must be of type array" in answer.value["message"]
    answer = await api.ask("POST", api.at("canaryruns"), {**run(), "spec": {}})
    assert "spec.plan: Required value" in answer.value["message"]


async def test_rules_of_the_schema_hold(api: Api) -> None:
    answer = await api.ask("POST", api.at("canarypolicies"), policy(steps=[50, 10]))
    assert answer.code == 422, answer
    assert "steps must increase" in answer.value["message"]
    assert answer.value["details"]["causes"][0]["field"] == "spec.steps"


async def test_a_path_of_a_metrics_page_that_leads_elsewhere_is_a_422(api: Api) -> None:
    for path in ("/a/../b", "/..", "/./m", "/a//b", "/%2e%2e/m", "/a%2Fb", "/a\\b", "/m#x", "/a/.."):
        answer = await api.ask("POST", api.at("canarypolicies"), paged(path))
        assert (answer.code, answer.value["reason"]) == (422, "Invalid"), path
        assert "a path leads where it says" in answer.value["message"]
    for place, path in enumerate(("/metrics", "/a..b/.well-known?x=/../y", "/stats/prometheus?filter=a&b=c")):
        name = {"metadata": {"name": f"fine-{place}"}}
        assert (await api.ask("POST", api.at("canarypolicies"), paged(path) | name)).code == 201, path


def paged(path: str) -> Json:
    """A policy whose latencies are on another page."""
    source = {"scrape": {"path": path}}
    latency = {"name": "slow", "type": "Latency", "quantile": 0.95, "maxIncrease": "20%", "source": source}
    return policy(checks=[latency])


async def test_a_default_that_breaks_a_rule_is_a_422_for_the_whole_definition(api: Api) -> None:
    """It is judged without the defaults of the fields inside it: ours were refused by a real server."""
    rule = {"rule": "self.low <= 1", "message": "too high"}
    ranged = {"type": "object", "default": {}, "properties": {"low": {"type": "integer", "default": 1}}}
    refused = await api.ask("POST", DEFINITIONS, gadgets({**ranged, "x-kubernetes-validations": [rule]}))
    assert refused.code == 422, refused
    where = "spec.validation.openAPIV3Schema.properties[spec].default"
    words = f'{where}: Invalid value: "object": no such key: low evaluating rule: too high'
    assert refused.value["message"].endswith(words)
    careful = {**rule, "rule": f"!has(self.low) || {rule['rule']}"}
    try:
        made = await api.ask("POST", DEFINITIONS, gadgets({**ranged, "x-kubernetes-validations": [careful]}))
        assert made.code == 201, made
    finally:
        await api.ask("DELETE", f"{DEFINITIONS}/gadgets.conformance.serin.dev")


def gadgets(spec: Json) -> Json:
    """The definition of another resource, whose spec is as given."""
    names = {"kind": "Gadget", "listKind": "GadgetList", "plural": "gadgets", "singular": "gadget"}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    return {
        **WIDGETS,
        "metadata": {"name": "gadgets.conformance.serin.dev"},
        "spec": {**WIDGETS["spec"], "names": names, "versions": [version]},
    }


async def test_a_plan_cannot_be_changed(api: Api) -> None:
    await api.made("canaryruns", run())
    for patch in ({"canaryHash": "other"}, {"policy": {"alpha": 0.2}}):
        answer = await api.patched("canaryruns", run()["metadata"]["name"], {"spec": {"plan": patch}})
        assert answer.code == 422, answer
        assert "spec.plan" in answer.value["message"]


async def test_a_transition_rule_holds_and_is_skipped_where_the_field_was_removed(api: Api) -> None:
    await api.made("widgets", widget(mode="a"))
    refused = await api.patched("widgets", "one", {"spec": {"mode": "b"}})
    assert refused.code == 422, refused
    assert "mode cannot be changed" in refused.value["message"]
    for mode in (None, "b"):
        assert (await api.patched("widgets", "one", {"spec": {"mode": mode}})).code == 200


async def test_istio_takes_any_weight_keeps_what_it_knows_and_checks_types(api: Api) -> None:
    obj = virtual_service()
    obj["spec"]["http"][0]["route"][1]["weight"] = 150
    obj["spec"]["http"][0] |= {"retries": {"attempts": 2}, "match": [{"uri": {"prefix": "/v2"}}]}
    made = await api.made("virtualservices", obj)
    assert made["spec"]["http"][0]["retries"] == {"attempts": 2}
    assert made["spec"]["http"][0]["route"][1]["weight"] == 150
    step = {"op": "add", "path": "/spec/http/0/route/0/weight", "value": "ten"}
    assert (await api.patched("virtualservices", "model", [step], JSON_PATCH)).code == 422


async def test_a_virtual_service_is_the_same_object_in_every_version(api: Api) -> None:
    made = await api.made("virtualservices", virtual_service())
    path = api.at("virtualservices", "model").replace("/v1/", "/v1beta1/")
    answer = await api.ask("GET", path)
    assert answer.value["apiVersion"] == "networking.istio.io/v1beta1"
    assert answer.value["metadata"]["uid"] == made["metadata"]["uid"]
    assert answer.value["spec"] == made["spec"]


# --- lists


async def test_items_of_built_in_lists_do_not_repeat_kind_and_version(api: Api) -> None:
    await api.made("configmaps", config())
    await api.made("widgets", widget())
    built_in = await api.listed("configmaps")
    assert (built_in["kind"], built_in["apiVersion"]) == ("ConfigMapList", "v1")
    assert all("kind" not in item for item in built_in["items"])
    custom = await api.listed("widgets")
    assert [item["kind"] for item in custom["items"]] == ["Widget"]


async def test_a_list_in_pages_is_of_one_moment(api: Api) -> None:
    for number in range(5):
        await api.made("widgets", widget(f"w-{number}"))
    first = await api.listed("widgets", limit="2")
    assert first["metadata"]["remainingItemCount"] == 3
    await api.ask("DELETE", api.at("widgets", "w-3"))
    names = [item["metadata"]["name"] for item in first["items"]]
    page = first
    while page["metadata"].get("continue"):
        page = await api.listed("widgets", **{"limit": "2", "continue": page["metadata"]["continue"]})
        assert version_of(page) == version_of(first)
        names += [item["metadata"]["name"] for item in page["items"]]
    assert names == [f"w-{number}" for number in range(5)]


async def test_labels_and_fields_select(api: Api) -> None:
    for name, labels in (("a", {"x": "1"}), ("b", {"x": "2"}), ("c", {})):
        await api.made("widgets", widget(name) | {"metadata": {"name": name, "labels": labels}})
    for selector, names in {
        "x": "ab",
        "!x": "c",
        "x=1": "a",
        "x==2": "b",
        "x!=1": "bc",
        "x in (1,2)": "ab",
        "x notin (1, 3)": "bc",
        "x,x!=2": "a",
    }.items():
        found = await api.listed("widgets", labelSelector=selector)
        assert "".join(item["metadata"]["name"] for item in found["items"]) == names, selector
    found = await api.listed("widgets", fieldSelector="metadata.name=b")
    assert [item["metadata"]["name"] for item in found["items"]] == ["b"]
    answer = await api.ask("GET", api.at("widgets"), fieldSelector="spec.size=3")
    assert (answer.code, answer.value["reason"]) == (400, "BadRequest")


async def test_a_table_has_a_row_for_each_object_and_a_cell_for_each_column(api: Api) -> None:
    await api.made("widgets", widget(size=7))
    api.headers["Accept"] = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    table = await api.listed("widgets")
    assert table["kind"] == "Table"
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Size"]
    assert [row["cells"] for row in table["rows"]] == [["one", 7]]


# --- watches


async def test_a_watch_tells_what_happened_since_the_list(api: Api) -> None:
    since = version_of(await api.listed("widgets"))
    await api.made("widgets", widget())
    await api.patched("widgets", "one", {"spec": {"size": 5}})
    await api.ask("DELETE", api.at("widgets", "one"))
    async with api.watch("widgets", resourceVersion=since) as events:
        told = [await heard(events) for _ in range(3)]
    assert [event["type"] for event in told] == ["ADDED", "MODIFIED", "DELETED"]
    assert [event["object"]["spec"]["size"] for event in told] == [3, 5, 5]
    assert all(event["object"]["kind"] == "Widget" for event in told)
    versions = [int(version_of(event["object"])) for event in told]
    assert versions == sorted(set(versions))


async def test_a_watch_without_a_version_begins_with_what_is_there(api: Api) -> None:
    await api.made("widgets", widget())
    async with api.watch("widgets") as events:
        assert (await heard(events))["type"] == "ADDED"
        await api.patched("widgets", "one", {"spec": {"size": 5}})
        assert (await heard(events))["type"] == "MODIFIED"


async def test_what_leaves_a_selection_is_deleted_to_its_watcher(api: Api) -> None:
    since = version_of(await api.listed("widgets"))
    async with api.watch("widgets", resourceVersion=since, labelSelector="x=1") as events:
        await api.made("widgets", widget("other"))
        await api.made("widgets", widget() | {"metadata": {"name": "one", "labels": {"x": "1"}}})
        assert (await heard(events))["type"] == "ADDED"
        await api.patched("widgets", "one", {"metadata": {"labels": {"x": "2"}}})
        assert (await heard(events))["type"] == "DELETED"
        await api.patched("widgets", "one", {"metadata": {"labels": {"x": "1"}}})
        assert (await heard(events))["type"] == "ADDED"


async def test_a_watch_from_long_ago_is_gone(api: Api) -> None:
    async with api.watch("widgets", resourceVersion="1") as events:
        event = await heard(events)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    assert event["object"]["reason"] in ("Expired", "Gone")


async def test_a_watch_that_asks_for_bookmarks_gets_one_before_its_end(api: Api) -> None:
    made = await api.made("widgets", widget())
    query = {"allowWatchBookmarks": "true", "timeoutSeconds": "3"}
    async with api.watch("widgets", resourceVersion=version_of(made), **query) as events:
        event = await heard(events)
    assert event["type"] == "BOOKMARK"
    assert event["object"]["kind"] == "Widget"
    assert int(version_of(event["object"])) >= int(version_of(made))
    assert "spec" not in event["object"]


async def test_a_watch_ends_when_its_time_is_up(api: Api) -> None:
    since = version_of(await api.listed("widgets"))
    async with api.watch("widgets", resourceVersion=since, timeoutSeconds="1") as events:
        async with asyncio.timeout(4):
            assert [event async for event in events] == []


# --- deletion


async def test_a_finalizer_keeps_an_object_until_it_is_removed(api: Api) -> None:
    await api.made("configmaps", config(finalizers=["serin.dev/restore-traffic"]))
    answer = await api.ask("DELETE", api.at("configmaps", "notes"))
    assert answer.code == 200
    assert answer.value["metadata"]["deletionTimestamp"]
    more = {"metadata": {"finalizers": ["serin.dev/restore-traffic", "serin.dev/other"]}}
    assert (await api.patched("configmaps", "notes", more)).code == 422
    assert (await api.patched("configmaps", "notes", {"metadata": {"finalizers": []}})).code == 200
    assert (await api.ask("GET", api.at("configmaps", "notes"))).code == 404


async def test_deleting_at_once_answers_success(api: Api) -> None:
    made = await api.made("configmaps", config())
    answer = await api.ask("DELETE", api.at("configmaps", "notes"))
    assert (answer.code, answer.value["status"]) == (200, "Success")
    assert answer.value["details"]["uid"] == made["metadata"]["uid"]
    assert (await api.ask("DELETE", api.at("configmaps", "notes"))).code == 404


async def test_a_precondition_that_does_not_hold_keeps_the_object(api: Api) -> None:
    made = await api.made("configmaps", config())
    wrong = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    assert (await api.ask("DELETE", api.at("configmaps", "notes"), wrong)).code == 409
    right = {"preconditions": {"uid": made["metadata"]["uid"], "resourceVersion": version_of(made)}}
    assert (await api.ask("DELETE", api.at("configmaps", "notes"), right)).code == 200


async def test_deleting_an_owner_takes_its_pods_within_a_second_but_not_what_a_finalizer_holds(
    api: Api,
) -> None:
    owner = await api.made("deployments", deployment())
    await settled(api, pods=2)
    reference = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "model",
        "uid": owner["metadata"]["uid"],
    }
    held = run() | {
        "metadata": {"name": "held", "ownerReferences": [reference], "finalizers": ["serin.dev/x"]}
    }
    await api.made("canaryruns", held)
    await api.made("canaryruns", run() | {"metadata": {"name": "free", "ownerReferences": [reference]}})
    assert (await api.ask("DELETE", api.at("deployments", "model"))).code == 200
    await asyncio.sleep(1.0)
    assert (await api.listed("pods", labelSelector="app=model"))["items"] == []
    assert await replica_sets(api) == []
    assert (await api.ask("GET", api.at("canaryruns", "free"))).code == 404
    assert (await api.got("canaryruns", "held"))["metadata"]["deletionTimestamp"]
    assert (await api.patched("canaryruns", "held", {"metadata": {"finalizers": None}})).code == 200


async def test_dependents_of_an_orphaning_owner_stay(api: Api) -> None:
    await api.made("deployments", deployment())
    await settled(api, pods=2)
    await api.ask("DELETE", api.at("deployments", "model"), {"propagationPolicy": "Orphan"})
    await asyncio.sleep(0.5)
    (left,) = await replica_sets(api)
    assert "ownerReferences" not in left["metadata"]
    assert (await api.ask("DELETE", api.at("replicasets", left["metadata"]["name"]))).code == 200


async def test_a_foreground_deletion_takes_the_dependents_first(api: Api) -> None:
    await api.made("deployments", deployment())
    await settled(api, pods=2)
    answer = await api.ask("DELETE", api.at("deployments", "model"), {"propagationPolicy": "Foreground"})
    assert "foregroundDeletion" in answer.value["metadata"]["finalizers"]

    async def gone() -> bool:
        return (await api.ask("GET", api.at("deployments", "model"))).code == 404

    await eventually(gone)
    assert await replica_sets(api) == []


async def test_what_is_made_for_an_owner_that_is_gone_goes_too(api: Api) -> None:
    owner = await api.made("configmaps", config("owner"))
    await api.ask("DELETE", api.at("configmaps", "owner"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    await api.made("configmaps", config(ownerReferences=[reference]))

    async def gone() -> bool:
        return (await api.ask("GET", api.at("configmaps", "notes"))).code == 404

    await eventually(gone)


async def test_a_finalizer_keeps_a_deleted_namespace_terminating(api: Api) -> None:
    made = await api.ask(
        "POST",
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "n-"}},
    )
    name = made.value["metadata"]["name"]
    inside = Api(api.transport, name)
    await inside.made("configmaps", config(finalizers=["serin.dev/x"]))
    await api.ask("DELETE", f"/api/v1/namespaces/{name}")
    try:
        await asyncio.sleep(0.5)
        namespace = await api.ask("GET", f"/api/v1/namespaces/{name}")
        assert namespace.value["status"]["phase"] == "Terminating"
        refused = await inside.ask("POST", inside.at("configmaps"), config("late"))
        assert (refused.code, refused.value["reason"]) == (403, "Forbidden")
    finally:
        await inside.patched("configmaps", "notes", {"metadata": {"finalizers": None}})

    async def gone() -> bool:
        return (await api.ask("GET", f"/api/v1/namespaces/{name}")).code == 404

    await eventually(gone, within=60)  # the real one took more than 20


async def test_a_collection_is_deleted_by_selector(api: Api) -> None:
    for name, labels in (("a", {"x": "1"}), ("b", {})):
        await api.made("widgets", widget(name) | {"metadata": {"name": name, "labels": labels}})
    assert (await api.ask("DELETE", api.at("widgets"), labelSelector="x=1")).code == 200
    assert [item["metadata"]["name"] for item in (await api.listed("widgets"))["items"]] == ["b"]


# --- Deployments, ReplicaSets, pods


async def test_a_template_that_the_selector_does_not_select_is_a_422(api: Api) -> None:
    obj = deployment()
    obj["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    answer = await api.ask("POST", api.at("deployments"), obj)
    assert answer.code == 422, answer
    assert answer.value["details"]["causes"][0]["field"] == "spec.template.metadata.labels"
    assert "`selector` does not match template `labels`" in answer.value["message"]


async def test_a_selector_cannot_be_changed(api: Api) -> None:
    await api.made("deployments", deployment())
    labels = {"app": "model", "b": "c"}
    patch = {"spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}}
    answer = await api.patched("deployments", "model", patch)
    assert answer.code == 422, answer
    assert "field is immutable" in answer.value["message"]


async def test_replicas_that_are_no_number_cannot_be_decoded_and_below_zero_are_a_422(api: Api) -> None:
    made = await api.made("deployments", deployment())
    whole = {**made, "spec": {**made["spec"], "replicas": "two"}}
    words = "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
    answer = await api.ask("PUT", api.at("deployments", "model"), whole)
    assert answer.code == 400, answer
    assert answer.value["message"].endswith(words)
    answer = await api.patched("deployments", "model", {"spec": {"replicas": "two"}})
    assert answer.code == 422, answer
    assert answer.value["message"].startswith(' "" is invalid: patch: Invalid value: ')
    assert answer.value["message"].endswith(words)
    assert (await api.patched("deployments", "model", {"spec": {"replicas": -1}})).code == 422


async def test_pods_and_replica_sets_bear_the_hash_of_their_template(api: Api) -> None:
    owner = await api.made("deployments", deployment())
    pods = await settled(api, pods=2)
    (replica_set,) = await replica_sets(api)
    hashed = replica_set["metadata"]["labels"]["pod-template-hash"]
    assert replica_set["metadata"]["name"] == f"model-{hashed}"
    assert replica_set["spec"]["selector"]["matchLabels"] == {"app": "model", "pod-template-hash": hashed}
    assert replica_set["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    assert replica_set["metadata"]["ownerReferences"][0]["uid"] == owner["metadata"]["uid"]
    for pod in pods:
        assert pod["metadata"]["labels"]["pod-template-hash"] == hashed
        assert pod["metadata"]["name"].startswith(f"model-{hashed}-")
        assert pod["metadata"]["ownerReferences"][0]["uid"] == replica_set["metadata"]["uid"]
        assert pod["metadata"]["ownerReferences"][0]["controller"] is True


async def test_a_new_template_makes_a_new_replica_set_with_the_next_revision(api: Api) -> None:
    await api.made("deployments", deployment())
    await settled(api, pods=2)
    restart = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    patch = {"spec": {"template": {"metadata": {"annotations": restart}}}}
    assert (await api.patched("deployments", "model", patch, STRATEGIC)).code == 200

    async def two() -> Json:
        found = await replica_sets(api)
        return found if len(found) == 2 else None

    found = await eventually(two)
    numbers = {item["metadata"]["annotations"]["deployment.kubernetes.io/revision"] for item in found}
    assert numbers == {"1", "2"}
    assert len({item["metadata"]["labels"]["pod-template-hash"] for item in found}) == 2

    async def numbered() -> bool:
        said = (await api.got("deployments", "model"))["metadata"]["annotations"]
        return said.get("deployment.kubernetes.io/revision") == "2"

    await eventually(numbered)


async def test_scaling_and_labelling_make_no_new_replica_set(api: Api) -> None:
    await api.made("deployments", deployment())
    await settled(api, pods=2)
    await api.patched("deployments", "model", {"metadata": {"labels": {"x": "y"}}, "spec": {"replicas": 3}})
    await settled(api, pods=3)
    assert len(await replica_sets(api)) == 1


async def test_going_back_to_an_old_template_finds_its_replica_set_again(api: Api) -> None:
    await api.made("deployments", deployment())
    await settled(api, pods=2)
    first = (await replica_sets(api))[0]["metadata"]["name"]
    for value in ("2", "1"):
        env = [{"op": "replace", "path": "/spec/template/spec/containers/0/env/0/value", "value": value}]
        assert (await api.patched("deployments", "model", env, JSON_PATCH)).code == 200
        await asyncio.sleep(0.3)
    sets = {item["metadata"]["name"]: item for item in await replica_sets(api)}
    assert len(sets) == 2
    assert sets[first]["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"


async def test_a_status_answers_the_generation_it_has_observed(api: Api) -> None:
    await api.made("deployments", deployment())

    async def observed() -> Json:
        obj = await api.got("deployments", "model")
        status = obj.get("status", {})
        return status if status.get("observedGeneration") == obj["metadata"]["generation"] else None

    status = await eventually(observed)
    await api.patched("deployments", "model", {"spec": {"replicas": 1}})
    status = await eventually(observed)
    assert status["observedGeneration"] == 2
    assert "readyReplicas" not in status  # no kubelet here; a zero is left out


async def test_pods_that_are_ready_are_counted_and_a_rollout_completes(api: Api) -> None:
    await api.made("deployments", deployment())
    for pod in await settled(api, pods=2):
        await mark_ready(api, pod)

    async def available() -> Json:
        status = (await api.got("deployments", "model"))["status"]
        return status if status.get("availableReplicas") == 2 else None

    status = await eventually(available)
    assert (status["replicas"], status["updatedReplicas"], status["readyReplicas"]) == (2, 2, 2)

    async def done() -> bool:
        conditions = {c["type"]: c for c in (await api.got("deployments", "model"))["status"]["conditions"]}
        progressing = conditions.get("Progressing", {}).get("reason")
        return conditions["Available"]["status"] == "True" and progressing == "NewReplicaSetAvailable"

    await eventually(done)


async def test_a_null_in_a_built_in_object_is_a_field_that_is_not_there(api: Api) -> None:
    obj = deployment(creationTimestamp=None)
    obj["spec"]["template"]["spec"]["containers"][0]["livenessProbe"] = None
    made = await api.made("deployments", obj)
    assert "livenessProbe" not in made["spec"]["template"]["spec"]["containers"][0]
    pod = (await settled(api, pods=2))[0]
    when = "2026-01-01T00:00:00Z"
    ready = {"type": "Ready", "status": "True", "lastProbeTime": None, "lastTransitionTime": when}
    path = api.at("pods", pod["metadata"]["name"], "status")
    answer = await api.ask("PATCH", path, {"status": {"conditions": [ready]}}, MERGE_PATCH)
    assert answer.code == 200, answer


async def mark_ready(api: Api, pod: Json) -> None:
    """The pod is ready, as a kubelet would say it."""
    when = "2026-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": when}]
    status = {"phase": "Running", "podIP": "127.1.2.3", "conditions": conditions}
    path = api.at("pods", pod["metadata"]["name"], "status")
    answer = await api.ask("PATCH", path, {"status": status}, MERGE_PATCH)
    assert answer.code == 200, answer


async def test_a_rolling_update_adds_before_it_takes_away(api: Api) -> None:
    await api.made("deployments", deployment())
    for pod in await settled(api, pods=2):
        await mark_ready(api, pod)
    await asyncio.sleep(0.3)
    patch = {"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}}
    await api.patched("deployments", "model", patch)
    pods = await settled(api, pods=3)  # 25 % surge of two is one; 25 % unavailable of two is none
    fresh = [pod for pod in pods if pod["metadata"].get("annotations")]
    assert len(fresh) == 1
    await mark_ready(api, fresh[0])

    async def one_old_left() -> bool:
        found = (await api.listed("pods", labelSelector="app=model"))["items"]
        return sum(1 for pod in found if not pod["metadata"].get("annotations")) == 1

    await eventually(one_old_left)


async def test_the_scale_subresource_reads_and_writes_replicas_only(api: Api) -> None:
    await api.made("deployments", deployment())
    path = api.at("deployments", "model", "scale")
    scale = (await api.ask("GET", path)).value
    assert (scale["kind"], scale["apiVersion"], scale["spec"]) == ("Scale", "autoscaling/v1", {"replicas": 2})
    answer = await api.ask("PATCH", path, {"spec": {"replicas": 3}}, MERGE_PATCH)
    assert (answer.code, answer.value["spec"]["replicas"]) == (200, 3)
    assert answer.value["status"]["selector"] == "app=model"
    assert (await api.ask("PUT", path, scale)).code == 409
    await settled(api, pods=3)


async def test_a_pod_that_is_deleted_or_evicted_is_replaced(api: Api) -> None:
    await api.made("deployments", deployment())
    first, second = await settled(api, pods=2)
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": first["metadata"]["name"]},
    }
    path = api.at("pods", first["metadata"]["name"], "eviction")
    assert (await api.ask("POST", path, eviction)).code == 201
    assert (await api.ask("DELETE", api.at("pods", second["metadata"]["name"]))).code == 200
    await asyncio.sleep(0.3)
    pods = await settled(api, pods=2)
    old = {first["metadata"]["name"], second["metadata"]["name"]}
    assert not old & {pod["metadata"]["name"] for pod in pods}


async def test_a_pod_is_bound_to_a_node_once(api: Api) -> None:
    node = await api.ask(
        "POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"generateName": "n-"}}
    )
    assert node.code == 201, node
    name = node.value["metadata"]["name"]
    await api.made("deployments", deployment(replicas=1))
    (pod,) = await settled(api, pods=1)
    path = api.at("pods", pod["metadata"]["name"], "binding")
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod["metadata"]["name"]}}
    binding["target"] = {"apiVersion": "v1", "kind": "Node", "name": name}

    async def bound() -> bool:  # a server that checks the node may not know it at once
        return (await api.ask("POST", path, binding)).code == 201

    try:
        await eventually(bound)
        assert (await api.ask("POST", path, binding)).code == 409
    finally:
        await api.ask("DELETE", f"/api/v1/nodes/{name}")
    pod = await api.got("pods", pod["metadata"]["name"])
    assert pod["spec"]["nodeName"] == name
    assert [one["status"] for one in pod["status"]["conditions"] if one["type"] == "PodScheduled"] == ["True"]
    now = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
    assert (await api.ask("DELETE", api.at("pods", pod["metadata"]["name"]), now)).code == 200


async def test_a_pod_without_a_node_has_no_log(api: Api) -> None:
    await api.made("deployments", deployment())
    name = (await settled(api, pods=2))[0]["metadata"]["name"]
    answer = await api.ask("GET", api.at("pods", name, "log"))
    assert (answer.code, answer.value) == (204, None)
    answer = await api.ask("GET", api.at("pods", name, "log"), container="none")
    assert (answer.code, answer.value["message"]) == (400, f"container none is not valid for pod {name}")


async def test_a_pods_spec_cannot_be_changed(api: Api) -> None:
    await api.made("deployments", deployment())
    pod = (await settled(api, pods=2))[0]
    answer = await api.patched("pods", pod["metadata"]["name"], {"spec": {"restartPolicy": "Never"}})
    assert answer.code == 422, answer


# --- Leases and Events


def lease(**spec: Json) -> Json:
    about = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "serin"}}
    return {**about, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 6, **spec}}


async def test_a_lease_is_fenced_by_the_version_that_was_read(api: Api) -> None:
    made = await api.made("leases", lease(renewTime="2026-01-01T00:00:00.000000Z"))
    taken = {**made, "spec": {**made["spec"], "holderIdentity": "b"}}
    assert (await api.ask("PUT", api.at("leases", "serin"), taken)).code == 200
    assert (await api.ask("PUT", api.at("leases", "serin"), taken)).code == 409


async def test_a_lease_takes_times_with_six_digits_after_the_point_only(api: Api) -> None:
    answer = await api.ask("POST", api.at("leases"), lease(renewTime="2026-01-01T00:00:00Z"))
    assert (answer.code, answer.value["reason"]) == (400, "BadRequest")


async def test_a_lease_lasts_whole_seconds_and_at_least_one(api: Api) -> None:
    assert (await api.ask("POST", api.at("leases"), lease(leaseDurationSeconds=6.5))).code == 400
    assert (await api.ask("POST", api.at("leases"), lease(leaseDurationSeconds=0))).code == 422


def event(namespace: str, **fields: Json) -> Json:
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": "model-"},
        "regarding": {"kind": "Deployment", "namespace": namespace, "name": "model", "apiVersion": "apps/v1"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "serin.dev/controller",
        "reportingInstance": "serin-0",
        "action": "RollBack",
        "reason": "CheckFailed",
        "type": "Warning",
        "note": "p95 is 61 % above stable",
        **fields,
    }


async def test_an_event_is_one_object_in_both_of_its_groups(api: Api) -> None:
    path = f"/apis/events.k8s.io/v1/namespaces/{api.namespace}/events"
    made = await api.ask("POST", path, event(api.namespace))
    assert made.code == 201, made
    assert made.value["note"] == "p95 is 61 % above stable"
    listed = await api.ask(
        "GET", f"/api/v1/namespaces/{api.namespace}/events", fieldSelector="involvedObject.name=model"
    )
    (found,) = listed.value["items"]
    assert found["metadata"]["uid"] == made.value["metadata"]["uid"]
    assert (found["message"], found["reportingComponent"]) == (made.value["note"], "serin.dev/controller")
    assert (found["firstTimestamp"], found["lastTimestamp"], found["source"]) == (None, None, {})
    assert (made.value["deprecatedFirstTimestamp"], made.value["deprecatedSource"]) == (None, {})


async def test_an_event_without_what_it_must_say_is_a_422(api: Api) -> None:
    path = f"/apis/events.k8s.io/v1/namespaces/{api.namespace}/events"
    for wrong in ({"note": "x" * 1025}, {"action": ""}, {"type": "Bad"}, {"reportingController": ""}):
        assert (await api.ask("POST", path, event(api.namespace, **wrong))).code == 422, wrong
    assert (await api.ask("POST", path, event(api.namespace, eventTime="2026-01-01T00:00:00Z"))).code == 400


# --- Secrets, discovery


async def test_a_secret_stores_strings_in_base64(api: Api) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s"},
        "stringData": {"url": "http://x"},
    }
    made = await api.made("secrets", secret)
    assert made["data"] == {"url": "aHR0cDovL3g="}
    assert made["type"] == "Opaque"
    assert "stringData" not in made


async def test_discovery_names_our_resources_and_their_parts(api: Api) -> None:
    found = await api.ask("GET", "/apis/serin.dev/v1alpha1")
    names = {resource["name"]: resource for resource in found.value["resources"]}
    assert {"canaryruns", "canaryruns/status", "canarypolicies"} <= names.keys()
    assert names["canaryruns"]["shortNames"] == ["crun"]
    groups = (await api.ask("GET", "/apis")).value["groups"]
    assert {"apps", "serin.dev", "networking.istio.io"} <= {group["name"] for group in groups}
    assert (await api.ask("GET", "/version")).value["major"] == "1"
