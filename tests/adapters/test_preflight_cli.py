"""`serin preflight` through the real kubectl against the emulated API server."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prepared import FLAWED, LAB, SOUND, Case, Memory, page

from controller.checklist import looked_at
from controller.cli import serin
from controller.items import Item, Result
from controller.kubectl import Trouble
from controller.surroundings import found
from scenarios.virtual.loop import run_virtual, virtual_loop
from scenarios.world import World

Json = Any


@dataclass(frozen=True)
class Shell:
    """A person at a terminal, in a namespace with a case's objects."""

    world: World
    config: Path

    def furnish(self, case: Case) -> None:
        for obj in case.objects():
            self.world.create(obj)

    async def type(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output, and what it complained of."""
        env = {"KUBECONFIG": str(self.config), "HOME": str(self.config.parent)}
        result = await asyncio.to_thread(CliRunner().invoke, serin, arguments, env=env, prog_name="serin")
        return result.exit_code, result.stdout, result.stderr

    async def paste(self, text: str) -> str:
        """What bash says to these lines."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {**os.environ, "KUBECONFIG": str(self.config), "PATH": path}
        done = await asyncio.to_thread(
            subprocess.run, ["bash", "-ec", text], env=env, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    world = World(clock=lambda: datetime.now(UTC))
    await world.serve()
    try:
        yield Shell(world, world.kubeconfig(tmp_path / "config", namespace=LAB))
    finally:
        await world.close()


async def test_what_failed_is_exit_code_3_and_what_is_printed_mends_it(shell: Shell) -> None:
    shell.furnish(FLAWED[2])
    code, out, err = await shell.type("preflight", "model-canary")
    assert (code, err) == (3, "")
    table, counts, *mending = out.split("\n\n")
    results = {line.split()[0]: line.split()[1] for line in table.splitlines()[1:]}
    failed = {name for name, result in results.items() if result == "Fail"}
    assert failed == {"autoscaling", "floor", "rollback-drill"}
    assert results["metrics"] == "Unknown"  # no pod answers behind this API server
    assert (
        "# rollback-drill: serin drill model-canary -n lab" in mending[-1]
    )  # as we are called, not as kubectl
    assert counts == f"{15 - 3 - 3} passed, 3 failed, 3 unknown."
    assert (await shell.paste("\n".join(mending[:-1]))).count("patched") == 2
    code, out, _ = await shell.type("preflight", "model", "-o", "json")  # by stable's name
    after = {one["item"]: one["result"] for one in json.loads(out)}
    assert (code, after["autoscaling"], after["floor"]) == (3, "Pass", "Pass")


async def test_a_service_that_pins_stable_is_patched_as_printed(shell: Shell) -> None:
    shell.furnish(SOUND[0])
    spec = {"selector": {"version": "stable"}, "ports": [{"port": 80}]}
    meta = {"name": "model", "namespace": LAB}
    shell.world.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    _, out, _ = await shell.type("preflight", "model-canary")
    (block,) = [one for one in out.split("\n\n") if one.startswith("# routes: let Service model select")]
    assert "service/model patched" in await shell.paste(block)
    _, out, _ = await shell.type("preflight", "model-canary", "-o", "json")
    assert next(one for one in json.loads(out) if one["item"] == "routes")["result"] == "Pass"


async def test_what_the_policy_skips_is_named_below(shell: Shell) -> None:
    shell.furnish(FLAWED[2])
    skip = {"spec": {"preflightSkip": ["floor", "autoscaling", "rollback-drill"]}}
    shell.world.patch("canarypolicies", LAB, "default", skip)
    code, out, _ = await shell.type("preflight", "model-canary")
    assert code == 0
    assert (
        "9 passed, 0 failed, 3 unknown. Not asked: floor, autoscaling, rollback-drill (preflightSkip" in out
    )


async def test_a_misspelt_annotation_is_named_where_it_makes_a_canary_none(shell: Shell) -> None:
    shell.furnish(SOUND[0])
    notes = {"serin.dev/canary-of": None, "serin.dev/canaryof": "model"}
    shell.world.patch("deployments", LAB, "model-canary", {"metadata": {"annotations": notes}})
    code, _, err = await shell.type("preflight", "model-canary")
    assert code == 2
    assert "annotation serin.dev/canaryof is unknown; did you mean serin.dev/canary-of?" in err


async def test_what_is_no_canary_is_a_misuse_and_says_what_to_type(shell: Shell) -> None:
    shell.furnish(SOUND[0])
    shell.world.patch("deployments", LAB, "model-canary", {"metadata": {"annotations": None}})
    code, _, err = await shell.type("preflight", "model")
    assert code == 2
    assert "kubectl annotate deployment model -n lab serin.dev/canary-of=STABLE" in err
    code, _, err = await shell.type("preflight", "other")
    assert (code, err) == (
        2,
        'Error: there is no Deployment called "other" in namespace lab; there are: model, model-canary\n',
    )


def seen(case: Case, **how: Any) -> dict[str, Item]:
    async def furnished() -> dict[str, Item]:
        world = World(clock=virtual_loop().now)
        for obj in case.objects():
            world.create(obj)
        await asyncio.sleep(30)
        grounds = found(Memory(world=world, **how), "deploy/model-canary")
        return {one.name: one for one in looked_at(grounds)}

    return run_virtual(furnished())


def test_pages_are_read_through_the_proxy() -> None:
    items = seen(SOUND[0], says=lambda _: page())
    assert (items["metrics"].result, items["buckets"].result) == (Result.PASS, Result.PASS)
    assert "on 3 of 3 pages of stable" in items["metrics"].why
    assert "(ServiceUnavailable)" in (seen(SOUND[0]))["metrics"].why


def test_who_may_not_list_a_kind_is_told_and_the_rest_is_looked_at() -> None:
    items = seen(SOUND[0], denied=frozenset({"horizontalpodautoscalers", "namespaces"}))
    assert items["autoscaling"].why.startswith("horizontalpodautoscalers may not be read here")
    assert (items["floor"].result, items["routes"].result) == (Result.UNKNOWN, Result.PASS)
    items = seen(SOUND[0], denied=frozenset({"services"}))
    assert items["routes"].result is Result.PASS
    assert "services may not be read here" in items["routes"].why
    with pytest.raises(Trouble, match="Forbidden"):
        seen(SOUND[0], denied=frozenset({"pods"}))
