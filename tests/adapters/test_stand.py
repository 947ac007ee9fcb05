"""`serin scenario cluster`: what docs/testing.md tells people to type, typed."""

import asyncio
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from click.testing import CliRunner

from scenarios.stand import cluster, furnished

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs" / "testing.md").read_text().partition("## A cluster to try things on")[2]
TERMINALS = re.findall(r"```sh\n(.*?)```", SECTION.partition("\n## ")[0], re.DOTALL)


def shell(folder: Path, text: str) -> list[str]:
    """What starts a shell in the folder, where manifests lie and `serin` is this source tree's."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from controller.cli import main; main()"
    (folder / "program.py").write_text(program)
    if not (folder / "manifests").exists():
        (folder / "manifests").symlink_to(ROOT / "manifests")
    return ["bash", "-ec", f'serin() {{ exec {sys.executable} program.py "$@"; }}\n{text}']


def environ(folder: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder)}


@asynccontextmanager
async def standing(folder: Path, text: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The cluster, once it has said what to type."""
    process = await asyncio.create_subprocess_exec(
        *shell(folder, text), cwd=folder, env=environ(folder), stdout=PIPE, stderr=PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert b"An emulated cluster answers at http://127.0.0.1:" in await process.stdout.readline()
            said = b""
            while b"Ctrl-C" not in said:
                said += await process.stdout.readline()
            assert b"  serin controller --kubeconfig " in said  # or nothing ever asks for a run
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def controlling(folder: Path, text: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The controller that the third terminal runs, on a port of its own; what it says is in a file."""
    with (folder / "controller.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *shell(folder, text),
            cwd=folder,
            env=environ(folder) | {"SERIN_PORT": "0"},
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def listed(folder: Path) -> bytes:
    """What `serin list` says of the samples."""
    typed = await asyncio.create_subprocess_exec(
        *shell(folder, "KUBECONFIG=serin.kubeconfig serin list -n models"),
        cwd=folder,
        env=environ(folder),
        stdout=PIPE,
        stderr=PIPE,
    )
    return (await typed.communicate())[0]


async def test_the_documented_commands_work_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    first, second, third = TERMINALS[:3]
    async with standing(tmp_path, first) as process:
        assert (tmp_path / "serin.kubeconfig").exists()
        typed = await asyncio.create_subprocess_exec(
            *shell(tmp_path, second), cwd=tmp_path, env=environ(tmp_path), stdout=PIPE, stderr=PIPE
        )
        async with asyncio.timeout(60):
            out, err = await typed.communicate()
        none = b"No canary runs found in namespace models; in all of them: serin list -A\n"
        assert typed.returncode == 0, out + err
        assert err.startswith(none), err
        assert b"Deployment model-canary asks for a canary and has no run" in err
        for wanted in (
            "deployment.apps/model serverside-applied",
            "deployment.apps/model condition met",
            "2/2",
            "default",
        ):
            assert wanted in out.decode()
        async with asyncio.timeout(90), controlling(tmp_path, third) as controller:
            while b"NoData" not in (found := await listed(tmp_path)):  # the command takes a second itself
                assert controller.returncode is None, (tmp_path / "controller.log").read_text()
        assert b"model-canary-" in found
        again = CliRunner().invoke(cluster, ["--kubeconfig", str(tmp_path / "serin.kubeconfig")])
        assert again.exit_code == 2
        assert "serin.kubeconfig is there already; name another --kubeconfig" in again.stderr
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.decode().endswith("ending …\n")
    assert not (tmp_path / "serin.kubeconfig").exists()


def test_a_taken_port_is_told_and_leaves_no_kubeconfig(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = CliRunner().invoke(cluster, ["--port", str(port), "--kubeconfig", str(tmp_path / "lab")])
    assert ended.exit_code == 1
    assert re.fullmatch(r"Error: cannot serve on 127\.0\.0\.1:\d+: .*; choose another --port\n", ended.stderr)
    assert list(tmp_path.iterdir()) == []


async def test_a_bare_cluster_has_nodes_and_none_of_our_kinds() -> None:
    world = furnished("shop", bare=True)
    assert [node["metadata"]["name"] for node in world.objects("nodes")] == ["node-a", "node-b", "node-c"]
    assert world.get("namespaces", "", "shop") is not None
    assert world.objects("customresourcedefinitions") == []
    await world.close()


def test_a_kubeconfig_that_cannot_be_written_is_not_a_matter_of_the_port() -> None:
    """It said "cannot serve on 127.0.0.1:0 ...; choose another --port"."""
    ran = CliRunner().invoke(cluster, ["--kubeconfig", "/proc/there-is-none"])
    assert ran.exit_code == 1
    assert ran.stderr.startswith("Error: --kubeconfig /proc/there-is-none: cannot be written: No such file")
    assert "--port" not in ran.stderr
