"""What docs/install.md tells people to type, typed into an emulated cluster without anything of ours."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from scenarios.stand import furnished
from scenarios.world import World
from tests.unit.test_manifests import built as kustomized
from tests.unit.test_manifests import of

ROOT = Path(__file__).parents[2]
PAGES = {
    "install": (ROOT / "docs" / "install.md").read_text(),
    "quickstart": (ROOT / "docs" / "quickstart.md").read_text(),
}
BLOCK = re.compile(r"(<!-- not run by tests: [^>]+? -->\n)?```sh\n(.*?)```", re.DOTALL)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[World]:
    world = furnished("default", bare=True)
    await world.serve()
    world.kubeconfig(tmp_path / "kubeconfig", namespace="default")
    yield world
    await world.close()


async def typed(line: str, home: Path) -> str:
    """What the line prints, both ways; it ends well."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {"HOME": str(home), "KUBECONFIG": str(home / "kubeconfig"), "PATH": path}
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    process = await asyncio.create_subprocess_shell(line, **pipes, env=environ, cwd=ROOT)
    text, _ = await process.communicate()
    assert process.returncode == 0, f"{line}\n{text.decode()}"
    return text.decode()


def told(page: str) -> list[str]:
    """The page's commands, but those that it says nobody types."""
    blocks = [block for why, block in BLOCK.findall(PAGES[page]) if not why]
    return [line for block in blocks for line in block.splitlines()]


async def test_every_command_of_the_quick_start_works_in_its_order(cluster: World, tmp_path: Path) -> None:
    said = {line: await typed(line, tmp_path) for line in told("quickstart")}
    applied = said["kubectl apply --server-side -k manifests/quickstart"]
    assert "canarypolicy.serin.dev/default serverside-applied" in applied
    assert "Warning" not in "".join(said.values())
    (canary,) = [
        one for one in cluster.objects("deployments", "quickstart") if "canary" in one["metadata"]["name"]
    ]
    env = {one["name"]: one["value"] for one in canary["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env == {"VERSION": "2", "SLOWER": "2"}
    assert "It passes 20 % after 30 s, 50 % after 1 min, and is promoted." in "".join(said.values())


def test_the_quick_start_s_image_is_the_one_that_is_built_and_loaded() -> None:
    (built,) = re.findall(r"docker build --target controller -t (\S+) \.", PAGES["quickstart"])
    (loaded,) = re.findall(r"kind load docker-image (\S+) --name serin", PAGES["quickstart"])
    assert built == loaded
    for folder in ("base", "quickstart"):
        pods = [one["spec"]["template"]["spec"] for one in of(kustomized(folder), "Deployment")]
        assert {container["image"] for pod in pods for container in pod["containers"]} == {built}
        policies = {container.get("imagePullPolicy") for pod in pods for container in pod["containers"]}
        assert policies <= {None, "IfNotPresent"}  # of a tag but latest: never pulled where it is there


async def test_every_command_of_the_page_works_in_its_order(cluster: World, tmp_path: Path) -> None:
    said = {line: await typed(line, tmp_path) for line in told("install") if not line.startswith("make ")}
    installed = said["kubectl apply --server-side -k manifests/base"]
    assert (
        "customresourcedefinition.apiextensions.k8s.io/canaryruns.serin.dev serverside-applied" in installed
    )
    assert "networkpolicy.networking.k8s.io/serin-controller serverside-applied" in installed
    assert "Warning" not in installed
    assert len(said) >= 8
    assert not cluster.objects("customresourcedefinitions", None)
    assert not cluster.objects("clusterroles", None)


async def test_the_kustomization_of_the_page_is_one_with_its_image_and_its_alerts(tmp_path: Path) -> None:
    (ours,) = [
        one for one in re.findall(r"```yaml\n(.*?)```", PAGES["install"], re.DOTALL) if "kind: Kust" in one
    ]
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "kustomization.yaml").write_text(ours)
    (tmp_path / "manifests").symlink_to(ROOT / "manifests")
    objects = list(yaml.safe_load_all(await typed(f"kubectl kustomize {tmp_path / 'ours'}", tmp_path)))
    (controller,) = of(objects, "Deployment")
    (container,) = controller["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/serin-controller:0.1.0"
    assert {"PrometheusRule", "ServiceMonitor"} <= {obj["kind"] for obj in objects}


def test_every_make_target_of_the_page_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = [line.removeprefix("make ") for line in told("install") if line.startswith("make ")]
    assert wanted
    assert set(wanted) <= targets


async def test_it_can_be_applied_from_the_client_s_side_as_well_and_twice(
    cluster: World, tmp_path: Path
) -> None:
    first = await typed("kubectl apply -k manifests/base", tmp_path)
    assert "Warning" not in first  # nothing deprecated, and no annotation that is too long
    second = await typed("kubectl apply -k manifests/base", tmp_path)
    changed = [line.split()[0] for line in second.splitlines() if not line.endswith(" unchanged")]
    assert changed == ["poddisruptionbudget.policy/serin-controller"]  # kubectl always sends its selector
    del cluster
