"""One check is read at a Prometheus, one on the pods' pages, and the Prometheus is away for a minute.

Time is virtual; what stands for Prometheus reads the pods as it would, until it is away.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from analysis.evidence import CheckSpec
from controller.model import Page, PodSeen
from controller.operate import Operator
from controller.ports import ANNOTATED
from controller.scrape import Scrape
from scenarios.play import Theatre
from scenarios.plot import Arm, ArmFault, Fault
from scenarios.story import load
from scenarios.virtual.loop import run_virtual, virtual_loop

GOOD = load(Path(__file__).parents[2] / "scenarios" / "good-canary.yaml")
ERRORS = {"name": "errors", "type": "ErrorRate", "maxIncrease": "50%", "plus": "2%"}
QUERIED = {**ERRORS, "name": "queried", "source": {"prometheus": {}}}
GOES, RETURNS = 8.0, 68.0  # seconds of the story


class Queried(Scrape):
    """A Prometheus that scrapes every second."""

    def watch(
        self,
        run: str,
        pods: Sequence[PodSeen],
        checks: Sequence[CheckSpec],
        pages: Mapping[str, Page | None] = ANNOTATED,
    ) -> None:
        del pages
        super().watch(run, pods, checks)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


def played(monkeypatch: pytest.MonkeyPatch, *faults: Fault) -> Theatre:
    began = GOOD.history.total_seconds()

    def queried(operator: Operator, clock: Callable[[], datetime], **_how: int) -> Scrape:
        async def fetch(*asked: Any, **how: Any) -> Any:
            if GOES <= virtual_loop().time() - began < RETURNS:
                raise ConnectionRefusedError("away")
            return await operator.outside.fetch(*asked, **how)

        return Queried(fetch, clock=clock)

    monkeypatch.setattr(Operator, "_prometheus", queried)
    policy = {**GOOD.policy, "minStep": "10s", "checks": [ERRORS, QUERIED]}
    return run_virtual(Theatre.play(replace(GOOD, policy=policy, faults=faults)))


def test_while_prometheus_is_away_nothing_is_raised_promoted_or_rolled_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = played(monkeypatch).result
    assert result.outcome == "Promoted"
    assert [weight for at, weight in result.weights if at < RETURNS] == [0, 20]
    assert 50 in [weight for at, weight in result.weights if RETURNS < at < RETURNS + 60]


def test_while_prometheus_is_away_the_pods_pages_roll_a_failing_canary_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = timedelta(seconds=RETURNS - 20)
    result = played(monkeypatch, ArmFault(at=late, arm=Arm.CANARY, error_rate=0.3)).result
    assert (result.outcome, result.check) == ("RolledBack", "errors")
    assert result.seconds_to_weight_zero < 10
    assert [weight for _, weight in result.weights] == [0, 20, 0]
