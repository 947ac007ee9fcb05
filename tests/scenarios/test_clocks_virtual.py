"""Machines' clocks are wrong and are set, in the middle of a run, and it costs the callers nothing."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from controller.ports import Outside
from scenarios.play import Theatre, silent
from scenarios.plot import Arm, ArmFault, Fault, Target, TargetFault
from scenarios.result import Result
from scenarios.story import load
from scenarios.virtual.loop import run_virtual

GOOD = load(Path(__file__).parents[2] / "scenarios" / "good-canary.yaml")
LATE = timedelta(seconds=20)
FAILS = ArmFault(at=LATE, arm=Arm.CANARY, error_rate=0.3)
SILENT = ArmFault(at=LATE, arm=Arm.CANARY, blackhole=True)
Wrong = Callable[[float], float]  # by how many seconds a clock is wrong, so many seconds after the beginning


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


def played(wrong: dict[str, Wrong], *faults: Fault, min_step: str = "60s") -> Result:
    """What becomes of the story with these clocks, by replica."""

    class Clocks(Theatre):
        def outside(self, replica: str) -> Outside:
            there, off = super().outside(replica), wrong.get(replica, lambda _: 0.0)
            return replace(there, clock=lambda: there.clock() + timedelta(seconds=off(self.now)))

    async def through() -> Theatre:
        policy = {**GOOD.policy, "minStep": min_step}
        what = replace(GOOD, faults=faults, policy=policy, controllers=max(1, len(wrong)))
        theatre = Clocks(what, report=silent)
        await theatre.through()
        return theatre

    return run_virtual(through()).result


def step(by: float, *, at: float = 10.0, until: float = 1e9) -> dict[str, Wrong]:
    return {"serin-1": lambda now: by if at <= now < until else 0.0}


@pytest.mark.parametrize("fault", [FAILS, SILENT], ids=["errors", "silence"])
@pytest.mark.parametrize(
    "clocks",
    [
        step(-30.0),
        step(-30.0, at=21.0),
        step(-600.0),
        step(3600.0),
        step(3600.0, until=13.0),
        step(600.0, at=-30.0, until=-15.0),
        step(-86400.0, at=-1e9),
    ],
    ids=["back", "back while it fails", "far back", "ahead", "ahead for a while", "before", "always"],
)
def test_a_clock_that_is_set_delays_no_rollback(clocks: dict[str, Wrong], fault: ArmFault) -> None:
    """Ticks that seemed past were left out, and a silence stood still, until the clock had caught up."""
    result = played(clocks, fault)
    assert result.outcome == "RolledBack"
    assert result.seconds_to_weight_zero is not None
    assert result.seconds_to_weight_zero < 6.5


@pytest.mark.parametrize("ahead", [-7200.0, -120.0, 120.0, 7200.0])
def test_a_successor_whose_clock_differs_delays_no_rollback(ahead: float) -> None:
    killed = TargetFault(at=timedelta(seconds=15), target=Target.CONTROLLER, kind="kill")
    result = played({"serin-1": lambda _: -ahead, "serin-2": lambda _: 0.0}, FAILS, killed)
    assert result.outcome == "RolledBack"
    assert result.seconds_to_weight_zero is not None
    assert result.seconds_to_weight_zero < 9


@pytest.mark.parametrize("at", [-1e9, 1.0, 50.0])
def test_a_clock_that_is_ahead_ends_no_healthy_run(at: float) -> None:
    """Its pods were said not to have come within fifteen minutes."""
    assert played(step(1000.0, at=at), min_step="15s").outcome == "Promoted"
