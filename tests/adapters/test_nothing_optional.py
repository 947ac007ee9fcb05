"""Law 1 to the letter: whatever a rollback can do without raises, and the traffic goes in that pass."""

import asyncio
from typing import Any

import pytest

from analysis.judge import Verdict
from controller import inspection, judging, leaving, machine, neighbours, retraining, saving, telling
from controller.gates import Gates
from controller.means import Means
from controller.onlookers import Onlookers
from controller.onset import Onset
from controller.reconcile import Reconciler
from controller.saving import Saving
from controller.shadowing import Shadowing
from controller.workloads import Workloads
from tests.adapters.test_reconcile import Pages, Quiet, Stage, fail, stage

pytestmark = pytest.mark.virtual
__all__ = ["stage"]

OPTIONAL = (
    (leaving, "sentence_of"),
    (leaving, "_superseded"),
    (leaving, "_stable_changed"),
    (telling, "say"),
    (retraining, "known"),
    (retraining, "asked"),
    (retraining, "last_asked"),
    (machine, "mirrored"),
    (judging, "explained"),
    (saving, "sentences"),
    (inspection, "said"),
    (neighbours, "successor"),
    (neighbours, "replicas_before"),
    (Pages, "troubles"),
    (Gates, "read"),
    (Gates, "watch"),
    (Quiet, "offer"),
    (Quiet, "delivered"),
    (Quiet, "tell"),
    (Shadowing, "route"),
    (Shadowing, "known"),
    (Shadowing, "silent"),
    (Onset, "look"),
    (Onset, "took"),
    (Onlookers, "look"),
    (Onlookers, "said"),
    (Means, "routed"),
    (Means, "show"),
    (Reconciler, "_answered"),
    (Saving, "saved"),
    (Saving, "_begin_aside"),
    (Saving, "_checkpoint"),
    (Workloads, "scale"),
)


def raises(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("nobody thought of this")


async def turned(stage: Stage) -> None:
    """Passes until the evidence says Fail; those that raise are tried again, as the loop would."""
    for second in range(1, 20):
        try:
            await fail(stage, range(second, second + 1), canary=15)
        except ZeroDivisionError:
            await asyncio.sleep(1)
        if stage.reconciler.lives[stage.key].judgement.verdict is Verdict.FAIL:
            return
    raise AssertionError("the evidence was lost")


@pytest.mark.parametrize(("whose", "name"), OPTIONAL, ids=lambda one: getattr(one, "__name__", one))
async def test_a_failed_check_takes_the_traffic_in_the_same_pass_whatever_else_raises(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, whose: object, name: str
) -> None:
    await stage.at_first_step()
    monkeypatch.setattr(whose, name, raises)
    if whose is leaving and name in {one.__name__ for one in leaving.LEAVING}:
        rules = (raises if one.__name__ == name else one for one in leaving.LEAVING)
        monkeypatch.setattr(leaving, "LEAVING", tuple(rules))
    await turned(stage)
    assert stage.weight == 0
