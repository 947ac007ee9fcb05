"""What a run owes after its end: stable's template, the canary's size, and whose they are by now."""

from dataclasses import replace
from typing import Any

import pytest
from test_machine import NOW, advance, arm, ended, minutes, promoting, sight, told, weights

from controller.machine import finished
from controller.model import ArmSeen, Commands, Fence, Reason, RestoreTemplate, Scale

SOON = NOW + minutes(1)
GONE = ArmSeen(exists=False, template_hash=None, wanted=0)


@pytest.mark.parametrize(
    ("reason", "after", "scales"),
    [
        (Reason.PROMOTED, 0.4, False),
        (Reason.PROMOTED, 0.5, True),
        (Reason.CHECK_FAILED, 9.9, False),
        (Reason.CHECK_FAILED, 10, True),
    ],
)
def test_a_canary_goes_after_the_time_that_its_end_leaves_it(
    reason: Reason, after: float, *, scales: bool
) -> None:
    """Pods of what failed are left for whoever looks into it; what was promoted is at stable."""
    _, actions = advance(ended(settled=True, reason=reason), sight(weight=0), NOW + minutes(after))
    assert actions == ((Scale(0),) if scales else ())


@pytest.mark.parametrize(
    "canary",
    [
        GONE,
        arm("newer", 3),
        replace(arm("new", 3), autoscaled=True),
        arm("new", 0),
    ],
)
def test_a_canary_that_is_not_ours_to_scale_or_needs_it_no_more_is_left_as_it_is(canary: ArmSeen) -> None:
    run, actions = advance(ended(settled=True), sight(weight=0, canary=canary), NOW + minutes(11))
    assert (actions, finished(run)) == ((), True)


def test_who_scales_a_canary_up_after_it_is_over_is_not_fought() -> None:
    run = ended(settled=True, scaled_down=True)
    assert advance(run, sight(weight=0), NOW + minutes(20)) == (run, ())


def test_a_canary_that_cannot_be_scaled_is_told_under_the_reason_that_its_run_ended_for() -> None:
    _, actions = advance(ended(settled=True), sight(weight=0), NOW + minutes(25.1))
    assert told(actions) == [Reason.CHECK_FAILED]


def test_the_weight_after_the_end_is_nobody_elses_until_it_was_zero_once() -> None:
    run, actions = advance(ended(), sight(weight=5), SOON)
    assert (run.settled, weights(actions), Fence() in actions) == (False, [0], False)
    run, _ = advance(run, sight(weight=0), SOON)
    assert run.settled
    later, actions = advance(run, sight(weight=30), SOON)  # by whoever uses the route now
    assert (later.settled, weights(actions)) == (True, [])


@pytest.mark.parametrize(
    ("stable", "canary", "owes", "gives"),
    [
        ({"stable": arm("x", 3), "stable_matches": True}, arm("new", 3), True, True),
        # the copy has just been written, and its own controller has not caught up
        (
            {"stable": replace(arm("x", 3), template_hash=None), "stable_matches": True},
            arm("new", 3),
            True,
            True,
        ),
        ({"stable": replace(arm("x", 3), template_hash=None)}, arm("new", 3), True, False),
        ({"stable": GONE}, arm("new", 3), False, False),
        ({"stable": arm("third", 3)}, arm("new", 3), False, False),
        ({"stable": arm("old", 3), "fenced": True}, arm("new", 3), False, False),
        ({"stable": arm("old", 3), "fenced": False}, arm("new", 3), True, True),
    ],
)
def test_stable_gets_its_template_back_once_it_is_known_what_it_has(
    stable: dict[str, Any], canary: ArmSeen, *, owes: bool, gives: bool
) -> None:
    run = ended(reason=Reason.PROMOTION_FAILED, copied=True, settled=True)
    run, actions = advance(run, sight(weight=0, canary=canary, **stable), SOON)
    assert (run.copied, RestoreTemplate() in actions) == (owes, gives)


def test_what_somebody_gave_stable_while_a_promotion_is_aborted_is_not_overwritten() -> None:
    for there, matches, gives in (("third", False, False), (None, True, True)):
        stable = replace(arm("third", 3), template_hash=there)
        abort = Commands(abort="no")
        seen = sight(weight=50, stable=stable, stable_matches=matches, commands=abort)
        run, actions = advance(promoting(copied=True), seen, SOON)
        assert (run.reason, weights(actions)) == (Reason.ABORTED, [0])
        assert (RestoreTemplate() in actions) is gives
