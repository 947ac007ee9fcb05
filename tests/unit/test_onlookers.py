"""Those who watch a run: what they are shown, and that none of them can hurt it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from structlog.testing import capture_logs
from test_gather import sight, stepping, ticks

from controller import gather
from controller.gather import Gathered
from controller.model import Reason, Tell
from controller.onlookers import Look, Onlookers
from controller.ticks import Cursor

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
GATHERED = Gathered(evidence=gather.begun(stepping().plan.policy), cursor=Cursor())


class Watcher:
    """Counts its looks; raises in the one, or the word, that it is told to."""

    def __init__(self, name: str, *, fails_in: str = "") -> None:
        self.field, self.fails_in, self.looks = name, fails_in, 0

    def look(self, _look: Look, _gathered: Gathered) -> Iterator[Tell]:
        self.looks += 1
        yield Tell(Reason.STABLE_NOISY, f"{self.field} {self.looks}")
        if self.fails_in == "look":
            raise ZeroDivisionError

    def said(self) -> Any:
        if self.fails_in == "said":
            raise ZeroDivisionError
        return {"looks": self.looks} if self.looks else None


def a_look(*, second: int = 0, without: bool = False) -> Look:
    return Look(stepping(), sight(), [] if without else ticks(second), GATHERED.evidence, NOW)


def test_each_is_shown_a_pass_once_and_says_what_it_has_to_say() -> None:
    one, other = Watcher("one"), Watcher("other")
    onlookers = Onlookers([one, other])
    assert onlookers.said() == {}
    onlookers.next = a_look()
    assert [what.message for what in onlookers.look(GATHERED)] == ["one 1", "other 1"]
    assert onlookers.look(GATHERED) == []
    assert onlookers.said() == {"one": {"looks": 1}, "other": {"looks": 1}}


def test_a_pass_in_which_no_tick_closed_is_not_shown() -> None:
    one = Watcher("one")
    onlookers = Onlookers([one], a_look(without=True))
    assert onlookers.look(GATHERED) == []
    assert one.looks == 0


def test_one_that_fails_is_dropped_and_the_others_go_on() -> None:
    bad, silent, good = Watcher("bad", fails_in="look"), Watcher("silent", fails_in="said"), Watcher("good")
    onlookers = Onlookers([bad, silent, good])
    with capture_logs() as lines:
        for second in range(2):
            onlookers.next = a_look(second=second)
            onlookers.look(GATHERED)
            assert onlookers.said() == {"bad": None, "silent": None, "good": {"looks": second + 1}}
    assert [(line["event"], line["onlooker"]) for line in lines] == [
        ("onlooker_dropped", "bad"),
        ("onlooker_dropped", "silent"),
    ]
    assert (bad.looks, silent.looks, good.looks) == (1, 1, 2)
