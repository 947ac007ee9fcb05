"""What is told once arrives once, and what happens again is told again."""

from dataclasses import replace
from datetime import timedelta

import pytest
from test_machine import NOW, arm, minutes, sight, stepping

from controller.gating import question
from controller.machine import advance
from controller.model import Gate, Reason, Run, Tell, WeightChange
from controller.record import ENDINGS
from controller.telling import MILDER, SEVERITIES, hold, say, spoken, visit


def raised(run: Run, after: float) -> Run:
    change = WeightChange(at=NOW + timedelta(seconds=after), weight=5, reason=Reason.WEIGHT_RAISED)
    return replace(run, weights=(*run.weights, change))


def heard(run: Run) -> tuple[Run, list[str]]:
    """The run whose messages have arrived, and their ids."""
    return replace(run, outbox=()), [message.id for message in run.outbox]


def listened() -> Run:
    alert = replace(stepping().plan.policy.alerts[0], on=("Held",))
    return raised(stepping(identity="u1", policy={"alerts": (alert,)}), 0)


def test_the_second_interruption_of_a_step_is_another_event_than_the_first() -> None:
    """Both had one id, and a receiver that takes each once heard of the first alone."""
    gone = sight(canary=replace(arm("new", 0), wanted=3))
    run, _ = advance(listened(), gone, NOW + minutes(1))
    run, first = heard(run)
    run, _ = advance(run, sight(weight=0), NOW + minutes(2))
    assert run.weight == 5
    run, _ = advance(run, gone, NOW + minutes(3))
    run, second = heard(run)
    assert len(first) == len(second) == 1
    assert first != second


def test_whoever_tells_of_an_event_gives_it_the_same_id() -> None:
    gone = sight(canary=replace(arm("new", 0), wanted=3))
    _, here = heard(advance(listened(), gone, NOW + minutes(1))[0])
    _, there = heard(advance(listened(), gone, NOW + minutes(1) + timedelta(seconds=7))[0])
    assert here == there
    assert here[0].rpartition("/")[0].endswith("/model-canary-new-1/0/Held/Interrupted/0")


@pytest.mark.parametrize("arrived", [True, False])
def test_an_end_is_another_event_than_a_hold_for_the_same_reason(*, arrived: bool) -> None:
    """Seed 2144: pages were away, which was told; that the run ended for it was told to nobody."""
    heeded = replace(stepping().plan.policy.alerts[0], on=("Held", "RolledBack"))
    run, _ = hold(stepping(policy={"alerts": (heeded,)}), Reason.NO_DATA, "no page", NOW)
    first = [message.id for message in run.outbox]
    run = replace(run, outbox=()) if arrived else run
    run, _ = say(run, Tell(Reason.NO_DATA, "no page for 10 s", "RolledBack"), NOW + minutes(1))
    assert [message.outcome for message in run.outbox] == (
        ["RolledBack"] if arrived else ["Held", "RolledBack"]
    )
    assert run.outbox[-1].id not in first


def test_a_run_of_the_same_name_is_another_one() -> None:
    """A gate that remembers what it allowed opened for a run that it had never seen."""
    assert visit(stepping(identity="u1")) != visit(stepping(identity="u2"))
    gate = Gate(before="Raise", url="https://change.example/x")  # type: ignore[arg-type]
    one, two, again = (
        question(raised(stepping(identity=uid, gated=True, policy={"gates": (gate,)}), after))
        for uid, after in (("u1", 0), ("u2", 0), ("u1", 60))
    )
    assert one is not None
    assert two is not None
    assert again is not None
    assert len({one.id, two.id, again.id}) == 3


ENDS = ((Reason.CHECK_FAILED, 3), (Reason.ABORTED, 2), (Reason.STABLE_CHANGED, 2), (Reason.SUPERSEDED, 1))


@pytest.mark.parametrize(("reason", "told"), ENDS)
def test_who_is_called_at_night_hears_of_no_edit_of_a_policy(reason: Reason, told: int) -> None:
    """Every end but a promotion is `RolledBack`, so `on` alone called people for whatever ended a run."""
    first = stepping().plan.policy.alerts[0]
    heeds = tuple(replace(first, on=("RolledBack",), severity=least) for least in SEVERITIES)
    run, _ = say(stepping(policy={"alerts": heeds}), Tell(reason, "it ended", "RolledBack"), NOW)
    assert [SEVERITIES[message.alert] for message in run.outbox] == list(SEVERITIES[:told])


def test_what_is_severe_is_told_to_nobody_who_did_not_ask_for_it() -> None:
    alert = replace(stepping().plan.policy.alerts[0], on=("Promoted",), severity="info")
    run, _ = say(stepping(policy={"alerts": (alert,)}), Tell(Reason.CHECK_FAILED, "slow", "RolledBack"), NOW)
    assert run.outbox == ()


def test_what_is_called_otherwise_than_rolled_back_is_less_severe() -> None:
    assert MILDER.keys() == set(ENDINGS)


def test_hours_are_said_in_hours() -> None:
    """A step that neither passed nor failed "within 2.16e+04 s" had a stepTimeout of six hours."""
    assert spoken(timedelta(hours=6)) == "6 h"
    assert spoken(timedelta(minutes=10)) == "600 s"
    assert spoken(timedelta(seconds=300.123)) == "300.1 s"
