"""The checklist in whole runs, in virtual time: the lab's own objects lack an autoscaler and more."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from controller import inspection
from scenarios.objects import CANARY, NAMESPACE
from scenarios.play import Theatre, silent
from scenarios.plot import Story
from scenarios.story import load
from scenarios.virtual.loop import run_virtual

Json = Any
SCENARIOS = Path(__file__).parents[2] / "scenarios"
FAILS = {"resources", "autoscaling", "drift-baseline", "retraining-hook", "rollback-drill"}
Act = Callable[[Theatre], Awaitable[None]]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def story(preflight: str) -> Story:
    """A good canary with one short step."""
    found = load(SCENARIOS / "good-canary.yaml")
    short = {"steps": [50], "minStep": "5s", "minRequests": 50, "warmUp": "1s", "preflight": preflight} | {
        "scaleDownDelay": {"promoted": "1s", "rolledBack": "1s"}
    }
    policy = {**found.policy, **short}
    return replace(found, policy=policy, history=timedelta(seconds=5), duration=timedelta(seconds=25))


def played(preflight: str, act: Act, *, after: float = 8.0) -> Theatre:
    """The theatre in which `act` went on from the time when the first run was there."""

    async def play() -> Theatre:
        theatre = Theatre(story(preflight), report=silent)
        going = asyncio.get_running_loop().create_task(theatre.through())
        await asyncio.sleep(theatre.begins + after)  # 8 s: it is asked for, and its pods are ready
        await act(theatre)
        await going
        return theatre

    return run_virtual(play())


def runs(theatre: Theatre) -> list[Json]:
    return theatre.world.objects("canaryruns", NAMESPACE)


def weights(run: Json) -> list[int]:
    return [change["weight"] for change in run["status"].get("weights", ())]


def said(theatre: Theatre, reason: str) -> list[str]:
    found = [event for event in theatre.world.objects("events", NAMESPACE) if event["reason"] == reason]
    return [f"{event['type']}: {event.get('note') or event.get('message', '')}" for event in found]


async def nothing(_: Theatre) -> None:
    """Nobody does anything."""


def test_warn_says_what_failed_in_an_event_and_in_status_and_the_run_goes_on() -> None:
    theatre = played("Warn", nothing)
    (run,) = runs(theatre)
    assert weights(run)[:1] == [50]
    assert {one["item"] for one in run["status"]["preflight"] if one["result"] == "Fail"} == FAILS
    (event,) = said(theatre, "PreflightFailed")
    assert event.startswith("Warning: preflight: 5 items of the checklist failed: resources: container")


def test_off_says_nothing() -> None:
    theatre = played("Off", nothing)
    (run,) = runs(theatre)
    assert (weights(run)[:1], run["status"].get("preflight")) == ([50], None)
    assert said(theatre, "PreflightFailed") == []


def test_enforce_holds_without_traffic_until_somebody_approves() -> None:
    async def approve(theatre: Theatre) -> None:
        (run,) = runs(theatre)
        assert (run["status"]["phase"], run["status"]["reason"]) == ("Paused", "PreflightFailed")
        assert run["status"]["weight"] == 0
        assert {one["item"] for one in run["status"]["preflight"] if one["result"] == "Fail"} == FAILS
        theatre.world.patch("canaryruns", NAMESPACE, run["metadata"]["name"], {"spec": {"approved": ["ann"]}})

    theatre = played("Enforce", approve)
    (run,) = runs(theatre)
    assert weights(run)[:1] == [50]


def test_a_policy_that_is_changed_meanwhile_is_that_of_a_new_run() -> None:
    async def relax(theatre: Theatre) -> None:
        theatre.world.patch("canarypolicies", NAMESPACE, "default", {"spec": {"preflight": "Off"}})

    theatre = played("Enforce", relax)
    first, second = sorted(runs(theatre), key=lambda run: run["metadata"]["name"])
    assert (first["status"]["reason"], weights(first)) == ("Superseded", [])
    assert weights(second)[:1] == [50]


def test_a_policy_that_comes_after_its_deployment_plans_the_run_all_the_same() -> None:
    """kubectl sends a CanaryPolicy after the Deployments: the run had the built-in one's steps for good."""
    policy: list[Json] = []

    async def late(theatre: Theatre) -> None:
        while not runs(theatre):
            if (found := theatre.world.get("canarypolicies", NAMESPACE, "default")) is not None:
                policy.append({name: found[name] for name in ("apiVersion", "kind", "spec")})
                theatre.world.delete("canarypolicies", NAMESPACE, "default")
            await asyncio.sleep(0.02)
        meta = {"name": "default", "namespace": NAMESPACE}
        theatre.world.create({**policy[0], "metadata": meta})

    theatre = played("Off", late, after=-5.0)  # from the beginning
    first, second = sorted(runs(theatre), key=lambda run: run["metadata"]["name"])
    assert first["spec"]["plan"]["policyName"] == ""
    assert (first["status"]["reason"], weights(first)) == ("Superseded", [])
    assert second["spec"]["plan"]["policyName"] == "default"
    assert weights(second)[:1] == [50]


@pytest.mark.parametrize(("preflight", "first"), [("Warn", [50]), ("Enforce", [])])
def test_a_checklist_that_breaks_stops_an_enforced_run_and_no_other(
    preflight: str, first: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("somebody's object")

    monkeypatch.setattr(inspection, "looked_at", broken)
    theatre = played(preflight, nothing)
    (run,) = runs(theatre)
    assert weights(run)[:1] == first
    assert "checklist_lost" in said(theatre, "PreflightFailed")[0]
    assert run["spec"]["plan"]["canary"] == CANARY
