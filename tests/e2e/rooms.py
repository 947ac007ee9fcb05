"""What the suite makes on the API server, and how all of it goes again, whatever has happened."""

import asyncio
import contextlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from controller.kube import ApiError, Kube
from tests.adapters.apiserver_conformance import GROUPS, WIDGETS

Json = Any

CRDS = Path(__file__).parents[2] / "manifests" / "base" / "crds.yaml"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAMESPACES = "/api/v1/namespaces"
NODES = "/api/v1/nodes"
ISTIO = ("virtualservices", "destinationrules")
MERGE_PATCH = "application/merge-patch+json"
AWAY_WITHIN = 300.0  # seconds; a namespace controller takes some ten for a namespace, ten at a time


@dataclass
class Rooms:
    """Namespaces and definitions of the suite's own, on any API server."""

    kube: Kube
    namespaces: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    definitions: list[str] = field(default_factory=list)

    async def furnish(self) -> None:
        """The server knows our resources, those of the conformance suite, and Istio's."""
        for kind in ISTIO:
            if not await self._there(f"/apis/networking.istio.io/v1/{kind}"):
                raise RuntimeError(
                    f"the API server has no {kind} of networking.istio.io/v1: install Istio's CRDs"
                )
        for definition in (*yaml.safe_load_all(CRDS.read_text()), WIDGETS):
            await self._define(definition)

    async def namespace(self) -> str:
        """A new namespace."""
        name = f"serin-e2e-{secrets.token_hex(4)}"
        about = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.namespaces.append(name)
        await self.kube.call("POST", NAMESPACES, body=about)
        return name

    async def node(self) -> str:
        """A new Node that nothing else is put on."""
        name = f"serin-e2e-{secrets.token_hex(4)}"
        about = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        self.nodes.append(name)
        await self.kube.call("POST", NODES, body=about | {"spec": {"unschedulable": True}})
        return name

    async def leave(self, namespace: str) -> None:
        """The namespace is on its way out; `clear` waits for it."""
        await self._remove(f"{NAMESPACES}/{namespace}")

    async def clear(self) -> None:
        """Nothing of the suite's is left."""
        async with asyncio.timeout(AWAY_WITHIN):
            for namespace in self.namespaces:
                await self.leave(namespace)
            for namespace in self.namespaces:
                while await self._there(f"{NAMESPACES}/{namespace}"):
                    await self._let_go(namespace)
                    await asyncio.sleep(0.2)
            for name in self.nodes:
                await self._remove(f"{NODES}/{name}")
            for name in self.definitions:
                await self._remove(f"{DEFINITIONS}/{name}")

    async def _define(self, definition: Json) -> None:
        name = definition["metadata"]["name"]
        where = f"{DEFINITIONS}/{name}"
        if not await self._there(where):
            self.definitions.append(name)
            await self.kube.call("POST", DEFINITIONS, body=definition)
        while not _established(await self.kube.call("GET", where)):  # noqa: ASYNC110 - nobody here can tell
            await asyncio.sleep(0.1)

    async def _remove(self, path: str) -> None:
        with contextlib.suppress(ApiError):  # gone, or on its way
            await self.kube.call("DELETE", path)

    async def _there(self, path: str) -> bool:
        try:
            await self.kube.call("GET", path)
        except ApiError as error:
            if not error.not_found:
                raise
            return False
        return True

    async def _let_go(self, namespace: str) -> None:
        """What a finalizer or a missing kubelet holds in the namespace is let go."""
        for resource, group in GROUPS.items():
            where = f"/{group}/namespaces/{namespace}/{resource}"
            for obj in await self._left(where):
                with contextlib.suppress(ApiError):  # gone meanwhile, or tried again in a moment
                    await self._free(f"{where}/{obj['metadata']['name']}", obj)

    async def _left(self, where: str) -> Iterable[Json]:
        with contextlib.suppress(ApiError):
            return (await self.kube.call("GET", where))["items"]
        return ()

    async def _free(self, where: str, obj: Json) -> None:
        meta = obj["metadata"]
        if meta.get("finalizers"):
            patch = {"metadata": {"finalizers": None}}
            await self.kube.call("PATCH", where, body=patch, content_type=MERGE_PATCH)
        if meta.get("deletionTimestamp"):
            now = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
            await self.kube.call("DELETE", where, body=now)


def _established(definition: Json) -> bool:
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
