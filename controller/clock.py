"""Time as a leader counts it: it never goes back and never jumps, whatever is done to the machine's clock.

All durations of a run are differences of such times: how long a silence is, a step, a deadline, a tick. The
machine's own clock is for what others compare with theirs: Events, alerts, the Lease's text, a Prometheus.

One leader's times mean nothing to the next one: clocks differ. What was saved is `taken_over` by a new leader
as if little time had passed, if that is not what the two clocks say.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import floor

from controller import gather
from controller.gather import Gathered
from controller.model import Run, Stage

# How much of the time that passes may be left out or added to come back to the machine's clock. Breakers and
# patience have seconds of which a tenth does not matter; an hour is made up for in ten.
GIVES = 0.1
MOMENT = 1e-6  # seconds that two clocks may differ by because one of them is cut off there
# Checkpoints are ten seconds apart, eighty with a slow API server, and another leads nine seconds after a
# leader's death. Beyond this nobody looked, or two clocks differ; neither is time that a step or a deadline
# should have used up.
UNLOOKED = timedelta(minutes=2)
UNSAID = float("-inf")  # seconds since 1970 at which something was saved that does not say when


@dataclass(slots=True)
class Steady:
    """A clock that begins as `wall` says, goes on as `monotonic` does, and is led to `wall` little by little.

    Between any two looks no less than 0.9 and no more than 1.1 times as much passes as truly did. While the
    two agree within that it says what `wall` says.
    """

    wall: Callable[[], datetime]
    monotonic: Callable[[], float]
    _now: datetime = field(init=False)
    _looked: float = field(init=False)

    def __post_init__(self) -> None:
        """It is now what `wall` says."""
        self._now, self._looked = self.wall(), self.monotonic()

    def __call__(self) -> datetime:
        """Aware UTC."""
        looked, wall = self.monotonic(), self.wall()
        seconds, says = max(0.0, looked - self._looked), (wall - self._now).total_seconds()
        self._looked = looked
        if says < 0.0 or abs(says - seconds) > GIVES * seconds + MOMENT:  # nearly never
            passed = timedelta(seconds=seconds)
            wall = min(max(wall, self._now + passed * (1 - GIVES)), self._now + passed * (1 + GIVES))
        self._now = wall
        return wall


def taken_over(run: Run, gathered: Gathered, now: datetime) -> tuple[Run, Gathered]:
    """What another leader saved, in times of the leader whose clock says `now`.

    The save was now if it seems to be to come, and two minutes ago if it seems to be longer ago. All times
    are moved by as much, so that what was counted stays beside the instant since when it was. That nobody
    looked meanwhile is no silence of the canary's; how long it had been silent by then counts on.
    """
    if run.weight > 0 and run.weight_since is None:  # somebody's edit: no breaker would look at the canary
        run = replace(run, weight_since=run.weights[-1].at if run.weights else run.created)
    saved = gather.saved_at(gathered, otherwise=UNSAID)
    # of evidence that cannot be read, as another version's, at least no instant is to come
    at = max([now, *_instants(run)]).timestamp() if saved == UNSAID else saved
    gap = timedelta(seconds=now.timestamp() - at)
    wrong = gap - min(max(gap, timedelta()), UNLOOKED)
    # whole seconds are moved exactly, as a float too, and instants are compared
    by = timedelta(seconds=floor(wrong.total_seconds()))
    if by:
        run, gathered = _moved(run, by), gather.moved(gathered, by.total_seconds())
    if run.stage is Stage.WAITING or run.data_since is None:
        return run, gathered
    heard = now if saved == UNSAID else min(now, run.data_since + gap - by)
    return replace(run, data_since=heard), gathered


def _instants(run: Run) -> list[datetime]:
    """All that a run counts from."""
    instants = (run.step_since, run.weight_since, run.data_since, run.shadow_since, run.ended)
    return [at for at in instants if at is not None]


def _moved(run: Run, by: timedelta) -> Run:
    """The run with each instant moved that it counts from; what people read of the past stays."""

    def moved(at: datetime | None) -> datetime | None:
        return None if at is None else at + by

    return replace(
        run,
        step_since=moved(run.step_since),
        weight_since=moved(run.weight_since),
        data_since=moved(run.data_since),
        shadow_since=moved(run.shadow_since),
        ended=moved(run.ended),
    )
