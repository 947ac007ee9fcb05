"""`serin scenario cluster`: an emulated cluster that stands until Ctrl-C, for people with kubectl."""

import asyncio
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from controller.command import Failed, Misused, Taught
from scenarios.cluster.discovery import VERSION
from scenarios.lasting import serin
from scenarios.objects import SYSTEM
from scenarios.world import NODES, World

Json = Any

SAID = """\
An emulated cluster answers at {url}: Kubernetes {version}'s API, with Istio's kinds{ours}.
Pods start and get ready, but nothing runs inside them. In another terminal:

  export KUBECONFIG={kubeconfig}
  kubectl get nodes
{steering}
Ctrl-C ends it; nothing is kept."""

STEERING = """
Nobody steers yet: what asks for a canary gets a run when a controller looks, in a third terminal.

  {serin} controller --kubeconfig {kubeconfig}
"""


@click.command(cls=Taught, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--kubeconfig",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("serin.kubeconfig"),
    show_default=True,
    help="Written when the cluster answers, removed when it ends; must not be there yet.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="On 127.0.0.1; 0 takes a free one.",
)
@click.option("-n", "--namespace", default="default", show_default=True, help="Of the kubeconfig's context.")
@click.option("--bare", is_flag=True, help="Without Serin's own kinds, as before it is installed.")
def cluster(kubeconfig: Path, *, port: int, namespace: str, bare: bool) -> None:
    """Hold a Kubernetes API server to try kubectl, manifests and `serin` on, without a cluster.

    It answers as a real one does: schemas, rules, conflicts, server-side apply, watches, rollouts. It checks
    no token, so it listens on this machine only. Pods get ready, but there is no log, no exec, no traffic.

    Example:
      serin scenario cluster --kubeconfig lab.kubeconfig &
      kubectl --kubeconfig lab.kubeconfig apply -k manifests/samples
    """
    if kubeconfig.exists():
        raise Misused(f"{kubeconfig} is there already; name another --kubeconfig, or remove it")
    if not kubeconfig.absolute().parent.is_dir():
        raise Misused(f"there is no folder {kubeconfig.absolute().parent} for --kubeconfig")
    try:
        asyncio.run(stand(kubeconfig.absolute(), port=port, namespace=namespace, bare=bare))
    except OSError as error:
        if error.filename is not None:
            why = f"cannot be written: {error.strerror}"
            raise Failed(f"--kubeconfig {kubeconfig}: {why}; name a file in a folder of yours") from None
        raise Failed(f"cannot serve on 127.0.0.1:{port}: {error}; choose another --port") from None
    finally:
        kubeconfig.unlink(missing_ok=True)


async def stand(kubeconfig: Path, *, port: int, namespace: str, bare: bool) -> None:
    """A cluster until SIGINT or SIGTERM; `kubeconfig` is there for as long."""
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    world = furnished(namespace, bare=bare)
    try:
        url = await world.serve(port=port)
        # nobody reads half of it
        world.kubeconfig(kubeconfig.with_suffix(".part"), namespace=namespace).replace(kubeconfig)
        ours = "" if bare else " and Serin's"
        steering = "" if bare else STEERING.format(serin=serin(), kubeconfig=kubeconfig)
        said = {"url": url, "version": VERSION, "ours": ours, "kubeconfig": kubeconfig}
        click.echo(SAID.format(**said, steering=steering))
        await told.wait()
        click.echo("ending …")
    finally:
        await world.close()


def furnished(namespace: str, *, bare: bool) -> World:
    """A cluster with nodes, the namespace and the controller's; a bare one has neither that nor our kinds."""
    world = World(clock=lambda: datetime.now(UTC))
    for definition in world.objects("customresourcedefinitions") if bare else ():
        world.delete("customresourcedefinitions", "", definition["metadata"]["name"])
    for name in {namespace} if bare else {namespace, SYSTEM}:
        if world.get("namespaces", "", name) is None:
            world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for name in NODES:
        world.create(
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": _labels(name)}}
        )
        world.patch("nodes", "", name, {"status": _ready()}, part="status")
    return world


def _labels(node: str) -> Json:
    return {"kubernetes.io/hostname": node, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}


def _ready() -> Json:
    said = {"reason": "KubeletReady", "message": "the emulated kubelet always is"}
    versions = dict.fromkeys(("kernelVersion", "osImage", "containerRuntimeVersion"), "emulated")
    return {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "capacity": {"cpu": "8", "memory": "32Gi", "pods": "110"},
        "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True", **said}],
        "nodeInfo": {
            "kubeletVersion": VERSION,
            "architecture": "amd64",
            "operatingSystem": "linux",
            **versions,
        },
    }
