"""What people do to a cluster, through its API server and nothing else: create, patch, delete, evict."""

import json
from collections.abc import Mapping
from typing import Any

from controller.ports import Transport

Json = Any

SHOWN = 500  # characters of a refusal
STRICT = {"fieldValidation": "Strict"}  # as kubectl asks: a misspelt field is refused, not dropped
MERGE = "application/merge-patch+json"
PLACES: Mapping[str, str] = {  # where the objects of a kind live; {} is the namespace
    "Namespace": "/api/v1/namespaces",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "Service": "/api/v1/namespaces/{}/services",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
    "VirtualService": "/apis/networking.istio.io/v1/namespaces/{}/virtualservices",
    "DestinationRule": "/apis/networking.istio.io/v1/namespaces/{}/destinationrules",
    "CanaryPolicy": "/apis/serin.dev/v1alpha1/namespaces/{}/canarypolicies",
    "CanaryRun": "/apis/serin.dev/v1alpha1/namespaces/{}/canaryruns",
}


class NotDone(RuntimeError):
    """The API server refused; the text is what it said."""


def _short(text: str) -> str:
    """What is wrong, without the whole object that it quotes: a server names the field first or last."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"


class People:
    """Whoever has a terminal."""

    def __init__(self, transport: Transport, *, namespace: str) -> None:
        self._transport = transport
        self._namespace = namespace

    async def create(self, obj: Json) -> Json:
        """The object as created."""
        namespace = obj["metadata"].get("namespace", self._namespace)
        return await self.ask("POST", PLACES[obj["kind"]].format(namespace), obj, query=STRICT)

    async def patch(self, kind: str, name: str, merge: Json) -> Json:
        """The object with `merge` merged into it."""
        return await self.ask("PATCH", self._path(kind, name), merge, sort=MERGE)

    async def delete(self, kind: str, name: str) -> Json:
        """The object is deleted, or is to be as soon as its finalizers let it."""
        return await self.ask("DELETE", self._path(kind, name), None)

    async def evict(self, pod: str) -> Json:
        """The pod leaves as the node's pressure would make it."""
        meta = {"name": pod, "namespace": self._namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
        return await self.ask("POST", self._path("Pod", pod) + "/eviction", body)

    def _path(self, kind: str, name: str) -> str:
        return f"{PLACES[kind].format(self._namespace)}/{name}"

    async def ask(
        self,
        method: str,
        path: str,
        body: Json,
        *,
        sort: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Json:
        """What the API server answers; raises `NotDone`."""
        sent = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": sort, "Accept": "application/json"}
        asking = self._transport.request(method, path, query=query or {}, headers=headers, body=sent)
        async with asking as answer:
            said = json.loads(await answer.read())
        if answer.status >= 400:
            raise NotDone(f"{method} {path}: {answer.status} {_short(str(said.get('message', said)))}")
        return said
