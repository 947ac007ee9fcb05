"""A whole run leaves a VirtualService as it was, but for two weights."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import structlog

from controller.istio import seen_weight
from scenarios.objects import NAMESPACE, STABLE
from scenarios.play import Theatre
from scenarios.plot import Arm, ArmFault, Patch
from scenarios.virtual.loop import run_virtual
from tests.scenarios.test_stories_virtual import story
from tests.unit.test_istio import VARIED, found_in, without_weights

Json = Any
# no API server of today stores a field that only a later Istio knows
STORED = [name for name, one in VARIED.items() if "later" not in json.dumps(one)]


def crashed(virtual_service: Json) -> tuple[Json, Theatre]:
    """The VirtualService after its canary got 10 % of the requests, crashed, and was rolled back."""
    spec = virtual_service["spec"]
    written = Patch(at=timedelta(0), kind="VirtualService", name=STABLE, merge={"spec": spec})
    crash = ArmFault(at=timedelta(seconds=6), arm=Arm.CANARY, crash=True)
    theatre = run_virtual(Theatre.play(replace(story("crash-loop"), faults=(crash,), edits=(written,))))
    return theatre.world.get("virtualservices", NAMESPACE, STABLE), theatre


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("name", STORED)
def test_a_run_changes_two_weights_and_nothing_else(name: str) -> None:
    before = VARIED[name]
    after, theatre = crashed(before)

    assert theatre.result.reason == "CanaryUnavailable"
    (run,) = theatre.world.objects("canaryruns", NAMESPACE)
    assert [change["weight"] for change in run["status"]["weights"]] == [10, 0]
    assert seen_weight(found_in(after)) == 0
    written = json.loads(without_weights(after, found_in(after)))["spec"]
    assert written == json.loads(without_weights(before, found_in(before)))["spec"]
