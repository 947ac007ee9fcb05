"""When a run's status is written: at once where it or what is done changes, else on a schedule, by run name.

Never because the evidence moved: what is kept would be its best moments. Where the API server is slow all
runs' turns come less often, since nothing but a change of the leader asks for what they write, and a
server that is asked again and again answers nobody.
"""

from datetime import timedelta
from zlib import crc32

from analysis.values import replace
from controller.model import Action, BeginStep, Run, SetWeight

SLOW = 0.5  # seconds of a save: ten times what a loaded API server's median takes
SELDOM = 8  # times as long between checkpoints, at most: a new leader scores that as one tick
# Looks at a run from one to the next, of the ten that there are: where ticks are longer there is better to do
# than to write at each. Ticks are ten seconds at most, so this is what `SELDOM` comes to.
FEWEST = 8
EASES = 0.97  # with each save that was quick, so that some seventy of them bring the first schedule back


class Schedule:
    """The schedule of all runs of one leadership, `every` so often while the API server is quick."""

    def __init__(self, every: timedelta) -> None:
        self._every = every.total_seconds()
        self._fewest = min(FEWEST, max(1, int(FEWEST / 10 * self._every)))
        self._factor = 1.0
        self._changed = 0.0

    @property
    def seconds(self) -> float:
        """From one checkpoint of a run to its next."""
        return self._every * self._factor

    def due(self, run: str, *, last: float, now: float, looks: int = FEWEST) -> bool:
        """Whether the run's turn has come since it was saved `last`, so many looks ago.

        Runs are spread by their names.
        """
        if looks < self._fewest:
            return False
        every = self.seconds
        phase = crc32(run.encode()) % 1000 / 1000 * every
        return (now - phase) // every > (last - phase) // every

    def took(self, seconds: float, *, now: float) -> None:
        """A save has taken so long; those that were slow together count once."""
        if seconds <= SLOW:
            self._factor = max(1.0, self._factor * EASES)
        elif now - self._changed >= self._every:
            self._factor, self._changed = min(2 * self._factor, SELDOM), now


def changes(saved: Run | None, run: Run, actions: tuple[Action, ...]) -> bool:
    """Whether anything but the evidence has to be written down: the run, or what is done next."""
    up = any(isinstance(action, SetWeight) and action.weight > 0 for action in actions)
    return up or any(isinstance(action, BeginStep) for action in actions) or not _same(saved, run)


def _same(saved: Run | None, run: Run) -> bool:
    """Whether nothing has changed but what can wait for the checkpoint.

    In a run without data the message's figures change in every pass, in others the time of the last data.
    """
    return saved is not None and replace(saved, data_since=run.data_since, message=run.message) == run
