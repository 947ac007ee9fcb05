"""The replicas' clocks: wrong from the beginning, and set in the middle of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

FAR: Sequence[float] = (60.0, 600.0, 3600.0, 86400.0)  # seconds, either way


@dataclass(frozen=True, slots=True, kw_only=True)
class Skew:
    """A replica's clock is wrong by so many seconds, and from `at` on by `then`."""

    by: float
    at: float
    then: float

    def __str__(self) -> str:
        return f"a clock is {self.by:+.1f} s off, from {self.at:.1f} s on {self.then:+.1f} s"


def drawn(chance: Random, *, until: float) -> Skew:
    """A clock that is a little wrong, and half of the time is set before `until`."""
    by = chance.uniform(-3, 3)
    then = by if chance.random() < 0.5 else chance.choice([-20.0, -1.0, 1.0, 20.0])
    return Skew(by=by, at=chance.uniform(0, until), then=then)


def far(skew: Skew, chance: Random) -> Skew:
    """The same, or one that is wrong by up to a day, at first or from then on."""
    if chance.random() < 0.5:
        return skew
    first, later = (chance.choice([0.0, chance.choice((-1, 1)) * chance.choice(FAR)]) for _ in range(2))
    return Skew(by=skew.by + first, at=skew.at, then=skew.then + later)


def skewed(
    right: Callable[[], datetime], since: Callable[[], float], skew: Skew | None
) -> Callable[[], datetime]:
    """The clock of a replica whose clock is wrong; `since` says the seconds since the story's beginning."""
    if skew is None:
        return right
    return lambda: right() + timedelta(seconds=skew.then if since() >= skew.at else skew.by)
