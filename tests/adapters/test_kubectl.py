"""The real kubectl against the emulated API server: what people type must work."""

import asyncio
import re
import shlex
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from scenarios.world import World

KUBECTL = Path(sys.executable).parent / "kubectl"
MANIFESTS = Path(__file__).parents[2] / "manifests"
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
        home |= {"PATH": "/usr/bin:/bin", "EDITOR": str(self.folder / "editor")}  # diff, and edit
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
        process = await asyncio.create_subprocess_exec(KUBECTL, *words, **pipes, env=home, cwd=self.folder)
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


# What people type, behind the code that it ends with; each line below it is part of what they have to see.
# One server for each tale.
TALES = {
    "reading": """
        0$ version
        Server Version: v1.36.0
        0$ api-resources --api-group=serin.dev -o name
        canarypolicies.serin.dev
        canaryruns.serin.dev
        0$ api-versions
        rbac.authorization.k8s.io/v1
        0$ create -f model.yaml -f policy.yaml
        deployment.apps/model created
        0$ wait --for=jsonpath={.status.readyReplicas}=2 deploy/model --timeout=20s
        condition met
        0$ get all
        deployment.apps/model
        replicaset.apps/model-
        pod/model-
        0$ get pods -l app=model -o jsonpath={range.items[*]}{.status.phase},{end}
        Running,Running,
        0$ get pods --field-selector=status.phase=Running -o custom-columns=APP:.metadata.labels.app
        model
        0$ get pods -A --sort-by=.metadata.name --chunk-size=1 --show-labels
        app=model,pod-template-hash=
        0$ get deploy,canarypolicies -o name
        deployment.apps/model
        canarypolicy.serin.dev/default
        0$ get deploy model --subresource=scale
        NAME    DESIRED   AVAILABLE   AGE
        0$ get deploy model --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}
        kubectl-create
        0$ get pods -w --request-timeout=1s
        Running
        0$ get deploy model none --ignore-not-found
        model
        1$ get deploy none
        Error from server (NotFound): deployments.apps "none" not found
        1$ get nothings
        error: the server doesn't have a resource type "nothings"
        1$ get pods --field-selector=spec.nothing=1
        field label not supported: "spec.nothing"
        0$ describe pods
        Controlled By:  ReplicaSet/model-
        0$ describe canarypolicy default
        Promotion:
        0$ explain deployment.spec.template.spec.containers.imagePullPolicy
        imagePullPolicy <string>
        0$ explain canarypolicy.spec --recursive
        alpha\t<number>
        0$ get --raw /readyz
        ok
        0$ cluster-info dump --namespaces lab
        "kind": "ReplicaSetList"
    """,
    "applying": """
        0$ apply -f model.yaml
        deployment.apps/model created
        0$ apply -f model.yaml
        deployment.apps/model unchanged
        0$ apply view-last-applied deploy/model
        image: registry.invalid/model:1
        0$ scale deploy/model --replicas=3
        deployment.apps/model scaled
        1$ diff -f next.yaml
        -        image: registry.invalid/model:1
        +        image: registry.invalid/model:2
        0$ apply -f next.yaml --dry-run=server
        deployment.apps/model configured (server dry run)
        0$ apply -f next.yaml
        deployment.apps/model configured
        0$ get deploy model -o jsonpath={.spec.replicas}{.spec.template.spec.containers[*].env}
        1[{"name":"A","value":"1"}]
        0$ label deploy model team=search
        deployment.apps/model labeled
        0$ apply -f model.yaml --prune -l app=model
        deployment.apps/model configured
        0$ get deploy model -o jsonpath={.metadata.labels.team}
        search
        0$ apply --server-side -f model.yaml
        deployment.apps/model serverside-applied
        0$ get deploy model -o jsonpath={.metadata.managedFields[*].operation} --show-managed-fields
        Apply
        0$ set image deploy/model model=registry.invalid/model:9
        image updated
        1$ apply --server-side -f next.yaml
        error: Apply failed with 1 conflict: conflict with "kubectl-set" using apps/v1: \
.spec.template.spec.containers[name="model"].image
        0$ apply --server-side --force-conflicts -f next.yaml
        serverside-applied
        0$ apply --server-side -f policy.yaml
        canarypolicy.serin.dev/default serverside-applied
        1$ apply --server-side -f mistyped.yaml
        .spec.stepss: field not declared in schema
        1$ apply -f mistyped.yaml
        strict decoding error: unknown field "spec.stepss"
        0$ apply -f mistyped.yaml --validate=warn
        Warning: unknown field "spec.stepss"
        1$ apply -f stranger.yaml
        no matches for kind "Stranger" in version "strange.dev/v1"
        ensure CRDs are installed first
    """,
    "changing": """
        0$ create -f model.yaml -f policy.yaml
        created
        1$ create -f model.yaml
        deployments.apps "model" already exists
        1$ patch canarypolicy default --type=strategic -p {"spec":{}}
        application/strategic-merge-patch+json is not supported by serin.dev/v1alpha1
        0$ patch canarypolicy default --type=merge -p {"spec":{"alpha":0.02}}
        canarypolicy.serin.dev/default patched
        1$ patch canarypolicy default --type=merge -p {"spec":{"alpha":2}}
        The CanaryPolicy "default" is invalid: spec.alpha: Invalid value: 2: \
spec.alpha in body should be less than or equal to 0.5
        1$ patch deploy model -p {"spec":{"replicas":-1}}
        spec.replicas: Invalid value: -1: must be greater than or equal to 0
        1$ label deploy model a=b --resource-version=1
        the object has been modified; please apply your changes to the latest version and try again
        0$ patch deploy model --subresource=scale --type=merge -p {"spec":{"replicas":1}}
        scale.autoscaling/model patched
        1$ scale deploy model --current-replicas=5 --replicas=2
        error: Expected replicas to be 5, was 1
        0$ edit deploy model
        deployment.apps/model edited
        0$ get deploy model -o jsonpath={.spec.replicas}
        4
        0$ replace -f model.yaml
        deployment.apps/model replaced
        0$ replace --force -f policy.yaml
        canarypolicy.serin.dev/default replaced
        0$ set env deploy/model A=2
        env updated
        0$ set resources deploy/model --limits=cpu=1
        resource requirements updated
        0$ autoscale deployment model --min=1 --max=3
        autoscaled
        0$ expose deployment model --port=80
        service/model exposed
        0$ get svc,hpa
        ClusterIP
        Deployment/model
        0$ rollout pause deploy/model
        paused
        0$ rollout resume deploy/model
        resumed
        0$ rollout status deploy/model --timeout=20s
        successfully rolled out
        0$ rollout history deploy/model --revision=1
        registry.invalid/model:1
        1$ rollout undo deploy/model --to-revision=99
        unable to find specified revision 99 in history
    """,
    "creating": """
        0$ create deployment web --image=registry.invalid/web --replicas=2 --port=80
        deployment.apps/web created
        0$ get deploy web -o jsonpath={.spec.replicas}{.spec.template.spec.containers[*].ports}
        2[{"containerPort":80,"protocol":"TCP"}]
        0$ create service externalname far --external-name=far.example
        service/far created
        0$ create sa bot
        serviceaccount/bot created
        0$ create role reader --verb=get,list --resource=pods
        role.rbac.authorization.k8s.io/reader created
        0$ create rolebinding reads --role=reader --serviceaccount=lab:bot
        rolebinding.rbac.authorization.k8s.io/reads created
        0$ get rolebinding -o wide
        Role/reader
        lab/bot
        0$ create pdb web --selector=app=web --min-available=50%
        poddisruptionbudget.policy/web created
        0$ create priorityclass low --value=-5
        priorityclass.scheduling.k8s.io/low created
        0$ get svc,pdb,pc
        far.example
        50%
        -5
        1$ create ingress web --rule=web/=web:80
        accepted media types include: application/json
    """,
    "deleting": """
        0$ create -f model.yaml
        created
        0$ wait --for=condition=Available deploy/model --timeout=20s
        condition met
        0$ delete deploy model --dry-run=server
        (server dry run)
        0$ delete pod -l app=model --wait=false
        deleted
        0$ patch deploy model --type=merge -p {"metadata":{"finalizers":["serin.dev/x"]}}
        patched
        1$ delete deploy model --timeout=1s
        timed out waiting for the condition on deployments/model
        0$ patch deploy model --type=merge -p {"metadata":{"finalizers":null}}
        patched
        0$ wait --for=delete deploy/model --timeout=5s
        0$ create -f model.yaml
        created
        0$ wait --for=create rs -l app=model --timeout=5s
        0$ delete deploy model --cascade=orphan
        deleted
        0$ get rs
        model-
        0$ delete rs --all --grace-period=0 --force
        force deleted
        1$ wait --for=condition=Ready pod/none --timeout=1s
        pods "none" not found
    """,
    "what is not there": """
        0$ run shell --image=registry.invalid/shell --restart=Never
        pod/shell created
        0$ wait --for=condition=Ready pod/shell --timeout=20s
        condition met
        1$ logs shell
        pod shell: there is no log: nothing runs inside the pods of an emulated cluster
        1$ logs shell -c other
        container other is not valid for pod shell
        1$ exec shell -- ls
        there is no exec
        1$ attach shell
        there is no attach
        1$ port-forward pod/shell 8080:80
        there is no portforward
        1$ top pods
        error: Metrics API not available
        1$ certificate approve x
        the server doesn't have a resource type "certificatesigningrequests"
    """,
}


def steps(tale: str) -> list[tuple[int, list[str], list[str]]]:
    """The code that each command ends with, its words, and what it has to print."""
    found: list[tuple[int, list[str], list[str]]] = []
    for line in filter(None, map(str.strip, tale.splitlines())):
        typed = re.fullmatch(r"(\d)\$ (.*)", line)
        if typed:
            words = typed[2].split(" ") if "{" in typed[2] else shlex.split(typed[2])
            found.append((int(typed[1]), words, []))
        else:
            found[-1][2].append(line)
    return found


@pytest.mark.parametrize("tale", TALES)
async def test_kubectl_does_what_it_does_elsewhere(terminal: Terminal, tale: str) -> None:
    """`edit` opens an editor that makes four replicas of whatever number it finds."""
    editor = terminal.folder / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/^  replicas: .*/  replicas: 4/' \"$1\"\n")
    editor.chmod(0o700)
    for name, objects in manifests().items():
        (terminal.folder / f"{name}.yaml").write_text(yaml.safe_dump(objects))
    for code, words, wanted in steps(TALES[tale]):
        said = await terminal.types(*words, code=code)
        missing = [text for text in wanted if text not in said]
        assert not missing, f"kubectl {' '.join(words)}\n{said}"


def manifests() -> dict[str, Any]:
    """The files of the tales."""
    container = {"name": "model", "image": "registry.invalid/model:1"}
    env = [{"name": "A", "value": "1"}]
    first: Any = {
        **DEPLOYMENT,
        "metadata": {"name": "model", "labels": LABELS},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": LABELS},
            "template": {
                "metadata": {"labels": LABELS},
                "spec": {"containers": [{**container, "env": [*env, {"name": "B", "value": "2"}]}]},
            },
        },
    }
    template = {
        "metadata": {"labels": LABELS},
        "spec": {"containers": [{**container, "image": "registry.invalid/model:2", "env": env}]},
    }
    following = {**first, "spec": {"selector": {"matchLabels": LABELS}, "template": template}}
    return {
        "model": first,
        "next": following,
        "policy": POLICY,
        "mistyped": {**POLICY, "metadata": {"name": "other"}, "spec": {"steps": [10], "stepss": [1]}},
        "stranger": {"apiVersion": "strange.dev/v1", "kind": "Stranger", "metadata": {"name": "x"}},
    }


@pytest.mark.parametrize("way", [(), ("--server-side",)], ids=["client", "server"])
async def test_our_manifests_are_installed_without_a_warning(
    terminal: Terminal, way: tuple[str, ...]
) -> None:
    for definition in terminal.world.objects("customresourcedefinitions"):
        terminal.world.delete("customresourcedefinitions", "", definition["metadata"]["name"])
    base, namespace = MANIFESTS / "base", MANIFESTS / "base" / "namespace.yaml"
    await terminal.types("apply", *way, "-f", str(namespace))
    for more in (("--dry-run=server",), ()):  # the namespace of a dry run has to be there, on any server
        said = await terminal.types("apply", *way, "-k", str(base), *more)
        assert "arning" not in said
    for folder in ("base", "samples", "overlays/shadow", "overlays/shadow-replay"):
        said = await terminal.types("apply", *way, "-k", str(MANIFESTS / folder))
        assert "arning" not in said
    assert terminal.world.get("canarypolicies", "models", "default") is not None
