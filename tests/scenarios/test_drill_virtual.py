"""A drill by the controller as it is, in virtual time: measured, recorded, and broken off without harm."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from prepared import Memory

from controller import checklist, drilling
from controller.drill import _said, as_json, shown
from controller.items import Grounds, Result
from controller.kubectl import Trouble, Wrong
from controller.surroundings import found
from scenarios.objects import CANARY, NAMESPACE, STABLE
from scenarios.play import Theatre, silent
from scenarios.plot import Story
from scenarios.story import load
from scenarios.virtual.loop import run_virtual, virtual_loop

Json = Any
SCENARIOS = Path(__file__).parents[2] / "scenarios"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


class Stage(Theatre):
    """A theatre that does not close because its runs have ended, with a person in it."""

    lines: list[str]

    def _at_rest(self, runs: list[Json]) -> bool:
        del runs
        return False

    def page(self, pod: str) -> str:
        self.traffic.advance()
        return self.pods.lives[pod].pod.page.text()

    def weights(self) -> list[int]:
        http = self.world.get("virtualservices", NAMESPACE, STABLE)["spec"]["http"]
        return [target["weight"] for target in http[0]["route"]]

    def grounds(self) -> Grounds:
        grounds = found(Memory(world=self.world, says=self.page), CANARY, pages=0)
        return replace(grounds, now=virtual_loop().now())

    async def ended(self) -> None:
        """The run that the annotation asks for is over."""
        await asyncio.sleep(self.begins + 8)
        (run,) = self.world.objects("canaryruns", NAMESPACE)
        with pytest.raises(Wrong, match=f"run {run['metadata']['name']} is under way"):
            drilling.asked(self.grounds())
        abort = {"spec": {"abort": {"reason": "room for a drill"}}}
        self.world.patch("canaryruns", NAMESPACE, run["metadata"]["name"], abort)
        await asyncio.sleep(3)

    async def drilled(
        self, *, stop: int | None = None, heard: Callable[[str], None] = silent
    ) -> drilling.Measured:
        """As the command drives it; Ctrl-C at pause number `stop`. `heard` may act on lines."""

        def told(line: str) -> None:
            self.lines.append(line)
            heard(line)

        self.lines, grounds, clock = [], self.grounds(), virtual_loop().time
        run = drilling.asked(grounds, other_version=True)
        kubectl = Memory(world=self.world, says=self.page)
        how = {"clock": clock, "told": told, "patience": 10.0, "limit": 60.0}
        steps = drilling.drilled(kubectl, grounds, run, **how)
        pauses, pause = 0, next(steps)
        try:
            while True:
                await asyncio.sleep(pause)
                pauses += 1
                pause = steps.throw(KeyboardInterrupt()) if pauses == stop else next(steps)
        except StopIteration as end:
            return end.value


def story(**more: Json) -> Story:
    found_ = load(SCENARIOS / "good-canary.yaml")
    policy = {**found_.policy, "scaleDownDelay": {"promoted": "60s", "rolledBack": "60s"}, **more}
    return replace(found_, policy=policy, history=timedelta(seconds=5), duration=timedelta(seconds=300))


def on_stage(act: Any, **policy: Json) -> Stage:
    async def play() -> Stage:
        theatre = Stage(story(**policy), report=silent)
        going = asyncio.get_running_loop().create_task(theatre.through())
        await theatre.ended()
        await act(theatre)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        return theatre

    return run_virtual(play())


def test_a_drill_is_measured_recorded_and_known_to_the_checklist_and_one_broken_off_leaves_no_trace() -> None:
    async def act(theatre: Stage) -> None:
        with pytest.raises(Wrong, match="--other-version"):
            drilling.asked(theatre.grounds())
        with pytest.raises(KeyboardInterrupt):
            await theatre.drilled(stop=2)
        assert theatre.weights() == [100, 0]
        assert theatre.lines[-1] == f"broken off: VirtualService {STABLE} sends nothing to {CANARY}"
        assert any("aborting in 5 s" in line for line in theatre.lines)
        await asyncio.sleep(2)
        assert checklist.drill(theatre.grounds()).result is Result.FAIL

        measured = await theatre.drilled()
        assert 0 < measured.zero < 3
        assert measured.last is not None
        assert 0 <= measured.last < 5
        assert theatre.weights() == [100, 0]
        run = theatre.world.get("canaryruns", NAMESPACE, measured.run)
        assert run["status"]["message"] == "aborted: drill: a measured rollback"
        assert [change["weight"] for change in run["status"]["weights"]] == [measured.weight, 0]
        assert set(as_json(measured)) == {"run", "weight", "secondsToWeightZero", "secondsToLastRequest"}
        item = checklist.drill(theatre.grounds())
        assert item.result is Result.PASS
        assert f"took {max(measured.zero, measured.last):.1f} s, 0 days ago" in item.why

        frozen = {"metadata": {"annotations": {"serin.dev/freeze": "true"}}}
        theatre.world.patch("namespaces", "", NAMESPACE, frozen)
        with pytest.raises(Trouble, match=r"no traffic within 10 s: frozen by serin\.dev/freeze"):
            await theatre.drilled()

    on_stage(act)


def test_the_drill_that_an_enforced_checklist_waits_for_is_not_held_by_it() -> None:
    """Else nobody could ever pass: the item asks for a drill, and a drill for a first weight."""

    async def act(theatre: Stage) -> None:
        (held,) = theatre.world.objects("canaryruns", NAMESPACE)
        assert held["status"]["weights"] == []
        assert "no rollback of model-canary was measured" in str(held["status"]["preflight"])
        measured = await theatre.drilled()
        assert measured.weight > 0
        newer = {"spec": {"template": {"metadata": {"labels": {"try": "2"}}}}}
        theatre.world.patch("deployments", NAMESPACE, CANARY, newer)
        await asyncio.sleep(20)
        run = next(one for one in theatre.world.objects("canaryruns", NAMESPACE) if _later(one, held))
        assert run["status"]["weight"] > 0

    def _later(run: Json, than: Json) -> bool:
        return run["spec"]["plan"]["canaryHash"] != than["spec"]["plan"]["canaryHash"]

    others = ["resources", "readiness", "startup", "liveness", "warm-up", "autoscaling", "floor", "versions"]
    others += ["gpu", "routes", "metrics", "buckets", "drift-baseline", "retraining-hook"]
    on_stage(act, preflight="Enforce", preflightSkip=others)


def test_what_a_drill_could_not_measure_is_said_with_why() -> None:
    """It was "the last request was not told"."""
    done = drilling.Measured(run="r", weight=5, zero=0.4, last=None, why="no canary pod is there to be asked")
    said = _said(done, slow=False)
    assert "when its last request was answered is not known (no canary pod is there to be asked)" in said


def test_a_drill_can_only_end_in_a_rollback_whatever_becomes_of_the_terminal() -> None:
    async def act(theatre: Stage) -> None:
        plan = drilling.asked(theatre.grounds(), other_version=True)["spec"]["plan"]
        policy = plan["policy"]
        assert (policy["steps"], policy["promotion"]) == (story().policy["steps"][:1], {"mode": "Handoff"})
        assert (policy["onInconclusive"], policy["onNoData"]) == ("RollBack", "RollBack")
        # as the two minutes would, only sooner
        policy.update({"stepTimeout": "8s", "minStep": "8s", "noDataTimeout": "8s"})
        run = drilling.asked(theatre.grounds(), other_version=True)
        run["spec"]["plan"]["policy"] = policy
        theatre.world.create(run)
        await asyncio.sleep(30)
        ended = theatre.world.get("canaryruns", NAMESPACE, run["metadata"]["name"])
        assert (ended["status"]["phase"], ended["status"]["reason"]) == ("Failed", "Inconclusive")
        assert theatre.weights() == [100, 0]

    on_stage(act)


def test_a_drill_whose_virtual_service_is_deleted_says_so_and_aborts_its_run() -> None:
    """It ended in `RuntimeError: generator raised StopIteration`, and so did its clean-up."""

    async def act(theatre: Stage) -> None:
        def deletes(line: str) -> None:
            if "aborting in 5 s" in line:
                theatre.world.delete("virtualservices", NAMESPACE, STABLE)

        with pytest.raises(Trouble, match=f"VirtualService {STABLE} in namespace {NAMESPACE} is gone"):
            await theatre.drilled(heard=deletes)
        assert theatre.lines[-1].startswith("broken off, and not seen to be back: VirtualService")
        await asyncio.sleep(2)
        run = max(theatre.world.objects("canaryruns", NAMESPACE), key=lambda run: run["metadata"]["name"])
        assert run["status"]["reason"] == "Aborted"

    on_stage(act)


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_programs_are_told_in_the_form_they_asked_for(output: str, read: Callable[[str], Json]) -> None:
    measured = drilling.Measured(run="model-canary-abc-1", weight=5, zero=0.31, last=None, why="no page")
    assert read(shown(measured, slow=False, output=output)) == {
        "run": "model-canary-abc-1",
        "weight": 5,
        "secondsToWeightZero": 0.31,
        "secondsToLastRequest": None,
        "ok": True,
    }
