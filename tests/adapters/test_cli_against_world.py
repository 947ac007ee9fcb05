"""The command line through the real kubectl against the emulated API server, over real HTTP."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
import yaml

from controller import planning
from controller.events import Events
from controller.kube import Kube
from scenarios.world import World

PROGRAM = "import sys; sys.argv[0] = 'kubectl-serin'; from controller.cli import main; main()"
NAME = "model-canary-6f9c8d7b5-1"
HELD = {"type": "Progressing", "status": "False", "reason": "Inconclusive", "message": "x"} | {
    "lastTransitionTime": "2026-11-01T12:00:00Z"
}


@dataclass(frozen=True)
class Typed:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Shell:
    """A person at a terminal with a kubeconfig."""

    world: World
    kubeconfig: Path

    async def start(self, *arguments: str, program: str = PROGRAM) -> Process:
        environ = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.kubeconfig.parent)}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, *arguments, env=environ, stdout=PIPE, stderr=PIPE
        )

    async def type(self, *arguments: str, program: str = PROGRAM) -> Typed:
        process = await self.start(*arguments, program=program)
        out, err = await process.communicate()
        return Typed(process.returncode or 0, out.decode(), err.decode())

    async def completed(self, *words: str) -> Typed:
        """What kubectl is told after a tab."""
        return await self.type(*words, program="from controller.completion import main; main()")

    @asynccontextmanager
    async def watching(self, *arguments: str) -> AsyncIterator[tuple[Process, AsyncIterator[str]]]:
        """A command that goes on, and its lines as they come."""
        process = await self.start(*arguments)
        try:
            async with asyncio.timeout(30):
                yield process, lines(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    def run(self, name: str = NAME) -> Any:
        return self.world.get("canaryruns", "lab", name)

    def says(self, **status: Any) -> None:
        """The controller writes this status."""
        self.world.patch("canaryruns", "lab", NAME, {"status": status}, part="status")


async def lines(process: Process) -> AsyncIterator[str]:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        yield line.decode().rstrip("\n")


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    world = World(clock=lambda: datetime.now(UTC))
    world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lab"}})
    world.create(canary_run())
    await world.serve()
    try:
        yield Shell(world, world.kubeconfig(tmp_path / "config", namespace="lab"))
    finally:
        await world.close()


def canary_run() -> dict[str, Any]:
    plan = {
        "canary": "model-canary",
        "stable": "model",
        "canaryHash": "6f9c8d7b5",
        "stableHash": "75b4f9",
        "virtualService": "model",
        "stableSubset": "stable",
        "canarySubset": "canary",
        "policy": planning.builtin(),
    }
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "CanaryRun",
        "metadata": {"name": NAME, "namespace": "lab", "labels": {"serin.dev/workload": "model-canary"}},
        "spec": {"plan": plan},
    }


async def test_a_run_is_listed_shown_and_explained(shell: Shell) -> None:
    shell.says(phase="Progressing", step="1/4", weight=5, verdict="Inconclusive")
    listed = await shell.type("list")
    assert (listed.code, listed.err) == (0, "")
    assert listed.out.splitlines()[1].split()[:4] == [NAME, "Progressing", "5", "1/4"]
    shown = await shell.type("status", "model-canary", "-n", "lab")
    assert "in progress at step 1/4, 5 % of requests" in shown.out
    explained = await shell.type("explain", "deploy/model-canary")
    assert f"kubectl serin pause {NAME} -n lab" in explained.out


async def test_the_object_can_be_had_as_json_yaml_and_name(shell: Shell) -> None:
    assert json.loads((await shell.type("status", NAME, "-o", "json")).out)["metadata"]["name"] == NAME
    assert yaml.safe_load((await shell.type("list", "-o", "yaml")).out)["items"][0]["kind"] == "CanaryRun"
    assert (await shell.type("list", "-A", "-o", "name")).out == f"canaryrun.serin.dev/{NAME}\n"


async def test_a_run_is_paused_resumed_promoted_and_aborted(shell: Shell) -> None:
    assert (await shell.type("pause", "model-canary")).out == f"canaryrun.serin.dev/{NAME} paused\n"
    assert shell.run()["spec"]["paused"] is True
    await shell.type("resume", "model-canary")
    assert shell.run()["spec"]["paused"] is False
    await shell.type("promote", "model-canary", "--reason", "urgent")
    assert shell.run()["spec"]["promote"] == {"reason": "urgent"}
    aborted = await shell.type("abort", "model-canary", "--reason", "no", "-o", "json")
    assert json.loads(aborted.out)["spec"]["abort"] == {"reason": "no"}
    assert shell.run()["spec"]["plan"] == canary_run()["spec"]["plan"]


async def test_a_promotion_says_what_it_waits_for_and_what_to_type(shell: Shell) -> None:
    """It said "will be promoted" of a paused run, and nothing was."""
    reasons = {
        "Paused": f"kubectl serin resume {NAME} -n lab",
        "Frozen": "kubectl annotate namespace lab serin.dev/freeze-",
    }
    for reason, typed in reasons.items():
        shell.says(phase="Paused", reason=reason, step="1/4", weight=5, conditions=[])
        told = (await shell.type("promote", "model-canary", "--reason", "x")).out
        assert f"will be promoted, but not while it is {reason.lower()}; type: {typed}" in told
    shell.says(
        phase="Paused", reason="NoData", message="no metrics page of model-canary can be read", weight=0
    )
    told = (await shell.type("promote", "model-canary", "--reason", "x")).out
    assert "what is wrong there: kubectl serin preflight model-canary -n lab\n" in told


async def test_a_promotion_that_waits_can_be_taken_back_by_what_is_printed(shell: Shell) -> None:
    """Only an abort seemed to be there."""
    shell.says(phase="Paused", reason="Paused", step="1/4", weight=5, conditions=[])
    told = (await shell.type("promote", "model-canary", "--reason", "x")).out
    (typed,) = re.findall(r"To take that back: (.*)", told)
    told = (await shell.type("explain", "model-canary")).out
    assert f"{typed}   # takes the promotion back" in told
    environ = {**os.environ, "KUBECONFIG": str(shell.kubeconfig), "HOME": str(shell.kubeconfig.parent)}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    process = await asyncio.create_subprocess_exec("bash", "-c", typed, env=environ, stdout=PIPE, stderr=PIPE)
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert "promote" not in shell.run()["spec"]
    assert "takes the promotion back" not in (await shell.type("explain", "model-canary")).out


async def test_a_run_that_holds_is_approved(shell: Shell) -> None:
    shell.says(phase="Paused", step="1/4", weight=5, conditions=[HELD])
    assert (await shell.type("approve", "model-canary")).code == 0
    assert len(shell.run()["spec"]["approved"]) == 1


async def test_a_rolled_back_run_is_exit_code_3_and_can_be_tried_again(shell: Shell) -> None:
    shell.says(phase="Failed", reason="CheckFailed", weight=0)
    assert (await shell.type("status", NAME)).code == 3
    made = await shell.type("retry", NAME)
    assert (made.code, made.err) == (0, "")
    second = NAME[:-1] + "2"
    assert shell.run(second)["spec"] == shell.run()["spec"]
    assert shell.run(second)["metadata"]["labels"] == {"serin.dev/workload": "model-canary"}


async def test_an_unknown_run_and_an_unknown_context_say_what_to_type(shell: Shell) -> None:
    unknown = await shell.type("explain", "other", "-n", "lab")
    assert unknown.code == 2
    assert "kubectl serin list -n lab" in unknown.err
    elsewhere = await shell.type("list", "--context", "prod")
    assert elsewhere.code == 2
    assert "kubectl config get-contexts" in elsewhere.err


async def test_a_run_is_watched_until_it_is_rolled_back(shell: Shell) -> None:
    shell.says(phase="Progressing", step="1/4", weight=5, verdict="Inconclusive")
    async with shell.watching("watch", "model-canary") as (process, lines):
        assert (await anext(lines)).split()[:3] == ["NAME", "PHASE", "WEIGHT"]
        assert (await anext(lines)).split()[:4] == [NAME, "Progressing", "5", "1/4"]
        shell.says(logE=0.5)  # nothing that people see in a line
        shell.says(weight=10, step="2/4")
        assert (await anext(lines)).split()[:4] == [NAME, "Progressing", "10", "2/4"]
        shell.says(phase="Failed", reason="CheckFailed", weight=0)
        rest = [line async for line in lines]
        assert "rolled back (CheckFailed: a check failed)" in rest[1]
        assert await process.wait() == 3


async def test_a_run_that_was_promoted_ends_its_watch_with_yes(shell: Shell) -> None:
    shell.says(phase="Succeeded", reason="Promoted", weight=0)
    watched = await shell.type("status", "model-canary", "--watch")
    assert (watched.code, watched.err) == (0, "")
    assert f"{NAME} in lab: promoted" in watched.out


async def test_ctrl_c_ends_a_watch_without_a_word_and_means_neither(shell: Shell) -> None:
    async with shell.watching("list", "-A", "--watch", "-o", "wide") as (process, lines):
        assert (await anext(lines)).split()[-2:] == ["REASON", "POLICY"]
        await anext(lines)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert (process.returncode, err) == (130, b"")


async def test_those_that_are_there_are_watched_oldest_first_as_they_are_listed(shell: Shell) -> None:
    """They came by their namespaces' names."""
    shell.world.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "early"}})
    newer = canary_run()
    newer["metadata"] |= {"namespace": "early", "name": NAME.removesuffix("1") + "2"}
    shell.world.create(newer)
    async with shell.watching("watch", "-A") as (process, lines):
        watched = [(await anext(lines)).split()[:2] for _ in range(3)]
        shell.says(phase="Progressing", weight=5)
        assert (await anext(lines)).split()[:4] == ["lab", NAME, "Progressing", "5"]  # and no line twice
        process.send_signal(signal.SIGINT)
        await process.communicate()
    listed = (await shell.type("list", "-A")).out.splitlines()
    assert watched == [["NAMESPACE", "NAME"], ["lab", NAME], ["early", newer["metadata"]["name"]]]
    assert [line.split()[1] for line in listed[1:3]] == [row[1] for row in watched[1:]]


async def test_objects_can_be_watched(shell: Shell) -> None:
    async with shell.watching("watch", NAME, "-o", "name") as (process, lines):
        assert await anext(lines) == f"canaryrun.serin.dev/{NAME}"
        shell.says(phase="Succeeded", weight=0)
        assert await anext(lines) == f"canaryrun.serin.dev/{NAME}"
        assert await process.wait() == 0
    for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        assert read((await shell.type("watch", NAME, "-o", form)).out)["status"]["phase"] == "Succeeded"


async def test_a_run_that_is_deleted_ends_its_watch_with_a_sentence(shell: Shell) -> None:
    async with shell.watching("watch", NAME) as (process, lines):
        await anext(lines)
        await anext(lines)
        shell.says(weight=5)
        await anext(lines)  # so kubectl watches by now, and does not only list
        shell.world.delete("canaryruns", "lab", NAME)
        _, err = await process.communicate()
        assert process.returncode == 1
        assert "was deleted before it ended; see: kubectl serin list -n lab" in err.decode()


async def test_names_are_completed_from_the_cluster(shell: Shell) -> None:
    assert (await shell.completed("pau")).out.startswith("pause\tStop raising the weight.")
    assert (await shell.completed("pause", "model")).out.split() == ["model-canary", NAME, ":4"]
    assert "lab" in (await shell.completed("list", "-n", "")).out.split()
    assert (await shell.completed("pause", "-n", "default", "")).out.split() == [":4"]
    await shell.world.close()
    away = await shell.completed("pause", "model")
    assert (away.code, away.out, away.err) == (0, ":4\n", "")


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
async def test_each_shell_has_a_script_for_completion(shell: Shell, name: str) -> None:
    made = await shell.type("completion", name)
    assert (made.code, made.err) == (0, "")
    assert f"_SERIN_COMPLETE={name}_complete" in made.out


async def test_explain_gives_the_object_too(shell: Shell) -> None:
    assert (await shell.type("explain", NAME, "-o", "name")).out == f"canaryrun.serin.dev/{NAME}\n"


async def test_a_request_without_a_run_says_what_it_was_refused_for(shell: Shell) -> None:
    notes = {"serin.dev/canary-of": "model"}
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
    spec = {"selector": {"matchLabels": {"app": "x"}}, "template": template}
    meta = {"name": "other-canary", "namespace": "lab", "annotations": notes}
    made = shell.world.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})
    nobody = await shell.type("status", "other-canary")
    assert "no Event says why. See its Events: kubectl describe deployment other-canary -n lab;" in nobody.err
    kube = Kube(shell.world.transport(), chance=Random(0))
    events = Events(kube, identity="one", clock=lambda: datetime.now(UTC))
    await events.refuse(made, 'there is no Deployment "model"; see: kubectl serin preflight other-canary')
    said = 'ago: there is no Deployment "model"; see: kubectl serin preflight other-canary'
    assert said in (await shell.type("status", "other-canary")).err
    assert said in (await shell.type("list")).err
    assert said in (await shell.type("list", "-A")).err
    assert said in (await shell.type("list", "-A", "-n", "lab")).err
    await events.mend(made, "Deployment other-canary asks for no canary any more")
    assert "refused" not in (await shell.type("list")).err
    await events.refuse(made, "something else", again=True)
    assert "ago: something else" in (await shell.type("list", "-A")).err
    shell.world.delete("deployments", "lab", "other-canary")
    assert "refused" not in (await shell.type("list", "-A")).err


async def test_a_name_that_was_misspelt_is_guessed(shell: Shell) -> None:
    unknown = await shell.type("status", "model-canery")
    assert unknown.code == 2
    assert "Did you mean model-canary" in unknown.err


async def test_without_a_kubeconfig_it_says_how_to_choose_a_cluster(shell: Shell, tmp_path: Path) -> None:
    nowhere = await shell.type("list", "--kubeconfig", str(tmp_path / "empty"))
    assert nowhere.code == 2
    assert "--kubeconfig" in nowhere.err
    (tmp_path / "empty").write_text("apiVersion: v1\nkind: Config\n")
    nowhere = await shell.type("list", "--kubeconfig", str(tmp_path / "empty"))
    assert nowhere.code == 1
    assert "There are no contexts; give --kubeconfig FILE, or try serin scenario cluster" in nowhere.err
    config = yaml.safe_load(shell.kubeconfig.read_text())
    del config["current-context"]
    (tmp_path / "unchosen").write_text(yaml.safe_dump(config))
    nowhere = await shell.type("list", "--kubeconfig", str(tmp_path / "unchosen"))
    assert nowhere.code == 1
    name = config["contexts"][0]["name"]
    assert f"kubectl config use-context NAME; there are: {name}" in nowhere.err


async def test_a_kubeconfig_that_is_gone_is_named(shell: Shell) -> None:
    shell.kubeconfig.unlink()
    gone = await shell.type("list")
    assert gone.code == 1
    assert f"KUBECONFIG names {shell.kubeconfig}, which is not there: start serin scenario" in gone.err


async def test_a_kubeconfig_of_a_story_that_is_over_names_stories(shell: Shell, tmp_path: Path) -> None:
    shell = replace(shell, kubeconfig=tmp_path / ".lab" / "scores-shift-27345" / "kubeconfig")
    gone = await shell.type("explain", "model-canary")
    assert gone.code == 1
    assert f"KUBECONFIG names {shell.kubeconfig}, which is not there: that story is over; play it" in gone.err
    assert "scenario cluster" not in gone.err


async def test_explain_only_reports_where_status_answers(shell: Shell) -> None:
    """The README said 3 of a canary that failed, "everywhere", and no help named a code."""
    shell.says(phase="Failed", reason="CheckFailed", weight=0, verdict="Fail")
    assert (await shell.type("status", NAME)).code == 3
    assert (await shell.type("explain", NAME)).code == 0
    assert "Exit code 0 whatever became of the run" in (await shell.type("explain", "--help")).out


async def test_a_cluster_without_serin_says_how_to_install_it(shell: Shell) -> None:
    shell.world.delete("customresourcedefinitions", "", "canaryruns.serin.dev")
    result = await shell.type("list")
    assert result.code == 1
    assert "kubectl apply --server-side -k manifests/base" in result.err


async def test_a_cluster_that_is_away_says_how_to_look(shell: Shell) -> None:
    await shell.world.close()
    result = await shell.type("list")
    assert result.code == 1
    assert "kubectl cluster-info" in result.err


async def test_the_controller_serves_its_probes_and_ends_when_it_is_told_to(shell: Shell) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, "controller", "--kubeconfig", str(shell.kubeconfig), "--port", "0",
        "--lease-namespace", "lab", stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            started = json.loads(await process.stdout.readline())
        assert started["event"] == "started"
        async with aiohttp.ClientSession(started["page"]) as session, session.get("/livez") as answer:
            assert answer.status == 200
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


async def test_a_taken_port_ends_the_controller_with_a_sentence(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = await shell.type("controller", "--port", port, "--kubeconfig", str(shell.kubeconfig))
    assert result.code == 1
    assert re.fullmatch(
        r"Error: cannot serve .* choose another address with --bind and --port.*\n", result.err
    )


async def test_without_a_cluster_the_controller_ends_with_a_sentence(shell: Shell, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("apiVersion: v1\nkind: Config\n")
    result = await shell.type("controller", "--port", "0", "--kubeconfig", str(empty))
    assert result.code == 1
    assert result.err.startswith("Error: ")
    assert "Traceback" not in result.err
