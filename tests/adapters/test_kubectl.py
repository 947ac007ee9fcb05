"""The real kubectl against the emulated API server: what people type must work."""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from scenarios.world import World

KUBECTL = Path(sys.executable).parent / "kubectl"
LABELS = {"app": "model"}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "model"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": LABELS},
        "template": {
            "metadata": {"labels": LABELS},
            "spec": {"containers": [{"name": "model", "image": "registry.invalid/model:1"}]},
        },
    },
}
POLICY = {
    "apiVersion": "serin.dev/v1alpha1",
    "kind": "CanaryPolicy",
    "metadata": {"name": "default"},
    "spec": {"steps": [10, 50]},
}


@dataclass
class Terminal:
    """Somebody with kubectl, a kubeconfig and a folder of manifests."""

    world: World
    folder: Path

    async def types(self, *words: str, code: int = 0) -> str:
        """What kubectl prints, both ways; it ends with `code`."""
        home = {"HOME": str(self.folder), "KUBECONFIG": str(self.folder / "kubeconfig")}
        process = await asyncio.create_subprocess_exec(
            KUBECTL, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=home
        )
        try:
            async with asyncio.timeout(60):
                text, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == code, f"kubectl {' '.join(words)}\n{text.decode()}"
        return text.decode()

    def file(self, *objects: object) -> str:
        """The path of a manifest with these objects."""
        path = self.folder / "manifest.yaml"
        path.write_text(yaml.safe_dump_all(objects))
        return str(path)


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    world = World(clock=lambda: datetime.now(UTC))
    world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lab"}})
    await world.serve()
    world.kubeconfig(tmp_path / "kubeconfig", namespace="lab")
    yield Terminal(world, tmp_path)
    await world.close()


def columns(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


async def test_kubectl_creates_shows_and_waits(terminal: Terminal) -> None:
    said = await terminal.types("create", "-f", terminal.file(DEPLOYMENT, POLICY))
    assert said.splitlines() == ["deployment.apps/model created", "canarypolicy.serin.dev/default created"]
    said = await terminal.types("wait", "--for=condition=Available", "deployment/model", "--timeout=30s")
    assert "condition met" in said
    head, row = columns(await terminal.types("get", "deployment", "model"))
    assert head == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert row[:4] == ["model", "2/2", "2", "2"]
    head, *rows = columns(await terminal.types("get", "pods", "-l", "app=model", "-o", "wide"))
    assert head[:7] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    assert [row[1:4] for row in rows] == [["1/1", "Running", "0"]] * 2
    head, row = columns(await terminal.types("get", "canarypolicies"))
    assert (head[:4], row[:4]) == (
        ["NAME", "STEPS", "ALPHA", "PROMOTION"],
        ["default", "[10,50]", "0.01", "Copy"],
    )


async def test_kubectl_annotates_labels_scales_and_patches(terminal: Terminal) -> None:
    terminal.world.create({**DEPLOYMENT, "metadata": {"name": "model", "namespace": "lab"}})
    for words in (
        ("annotate", "deployment", "model", "serin.dev/pause=true"),
        ("label", "deployment", "model", "team=search"),
        ("scale", "deployment", "model", "--replicas=3"),
        ("patch", "deployment", "model", "-p", '{"spec":{"minReadySeconds":1}}'),
        ("patch", "deployment", "model", "--type=merge", "-p", '{"spec":{"paused":true}}'),
        ("annotate", "deployment", "model", "serin.dev/pause-"),
    ):
        await terminal.types(*words)
    model = terminal.world.get("deployments", "lab", "model")
    assert model["metadata"]["labels"] == {"team": "search"}
    assert "serin.dev/pause" not in model["metadata"]["annotations"]
    assert (model["spec"]["replicas"], model["spec"]["minReadySeconds"], model["spec"]["paused"]) == (
        3,
        1,
        True,
    )
    failing = '[{"op":"test","path":"/spec/replicas","value":9}]'
    said = await terminal.types("patch", "deployment", "model", "--type=json", "-p", failing, code=1)
    assert said.startswith("The request is invalid")


async def test_kubectl_rolls_out_and_back(terminal: Terminal) -> None:
    terminal.world.create({**DEPLOYMENT, "metadata": {"name": "model", "namespace": "lab"}})
    for words in (
        ("rollout", "restart", "deployment", "model"),
        ("set", "image", "deployment/model", "model=registry.invalid/model:2"),
        ("rollout", "undo", "deployment", "model"),
    ):
        await terminal.types(*words)
        said = await terminal.types("rollout", "status", "deployment", "model", "--timeout=60s")
        assert "successfully rolled out" in said
    container = terminal.world.get("deployments", "lab", "model")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.invalid/model:1"


async def test_kubectl_describes_and_explains(terminal: Terminal) -> None:
    made = terminal.world.create({**DEPLOYMENT, "metadata": {"name": "model", "namespace": "lab"}})
    terminal.world.create(
        {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": "model.1", "namespace": "lab"},
            "regarding": {
                "kind": "Deployment",
                "name": "model",
                "namespace": "lab",
                "uid": made["metadata"]["uid"],
            },
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "serin.dev/controller",
            "reportingInstance": "serin-0",
            "action": "RollBack",
            "reason": "CheckFailed",
            "type": "Warning",
            "note": "latency-p95 failed",
        }
    )
    said = await terminal.types("describe", "deployment", "model")
    assert "2 desired" in said
    assert "CheckFailed" in said
    assert "latency-p95 failed" in said
    said = await terminal.types("explain", "canarypolicy.spec.steps")
    assert "<[]integer>" in said
    _, row = columns(await terminal.types("get", "events"))
    assert row[1:4] == ["Warning", "CheckFailed", "deployment/model"]  # after how long ago it was


async def test_kubectl_deletes_and_waits_until_it_is_gone(terminal: Terminal) -> None:
    terminal.world.create({**DEPLOYMENT, "metadata": {"name": "model", "namespace": "lab"}})
    await terminal.types("wait", "--for=condition=Available", "deployment/model", "--timeout=30s")
    said = await terminal.types("delete", "deployment", "model", "--cascade=foreground", "--timeout=30s")
    assert 'deployment.apps "model" deleted' in said
    assert "No resources found" in await terminal.types("get", "deployments,replicasets,pods")
    said = await terminal.types("delete", "deployment", "model", code=1)
    assert said.strip() == 'Error from server (NotFound): deployments.apps "model" not found'


async def test_kubectl_creates_namespaces_secrets_and_config_maps(terminal: Terminal) -> None:
    await terminal.types("create", "namespace", "other")
    await terminal.types(
        "create", "secret", "generic", "alerts", "--from-literal=url=http://x", "-n", "other"
    )
    await terminal.types("create", "configmap", "notes", "--from-literal=a=b", "-n", "other")
    assert terminal.world.get("secrets", "other", "alerts")["data"] == {"url": "aHR0cDovL3g="}
    assert terminal.world.get("configmaps", "other", "notes")["data"] == {"a": "b"}
    await terminal.types("delete", "namespace", "other", "--timeout=30s")
    assert terminal.world.get("namespaces", "", "other") is None


async def test_kubectl_applies_again_and_again(terminal: Terminal) -> None:
    assert "created" in await terminal.types("apply", "-f", terminal.file(DEPLOYMENT, POLICY))
    assert "unchanged" in await terminal.types("apply", "-f", terminal.file(DEPLOYMENT, POLICY))
    changed = {**POLICY, "spec": {"steps": [10, 50], "alpha": 0.02}}
    assert "configured" in await terminal.types("apply", "-f", terminal.file(changed))
    assert terminal.world.get("canarypolicies", "lab", "default")["spec"]["alpha"] == 0.02


async def test_kubectl_is_told_which_field_is_wrong_and_nothing_is_made(terminal: Terminal) -> None:
    wrong = {**POLICY, "spec": {"steps": [10, 50], "stepss": [1]}}
    said = await terminal.types("create", "-f", terminal.file(wrong), code=1)
    assert 'strict decoding error: unknown field "spec.stepss"' in said
    wrong = {**POLICY, "spec": {"steps": [100]}}
    said = await terminal.types("create", "-f", terminal.file(wrong), code=1)
    assert "spec.steps" in said
    assert "100 is not a step" in said
    assert terminal.world.objects("canarypolicies") == []
