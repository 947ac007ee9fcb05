"""What watches a run beside its evidence and decides nothing.

An onlooker is shown what each pass saw after the pass has acted on it. It may say something beside the
run's status (a field of its own, written when the run is saved for other reasons) and tell people; it
vetoes nothing and triggers nothing. It lives in memory: a new leader's begin anew. One that raises is
logged and dropped for as long as this leader has the run.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import structlog

from analysis.evidence import Evidence
from controller.gather import Gathered
from controller.model import Run, Seen, Tell
from controller.ticks import Tick

Json = Any

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """One pass: the run as it was before, what was seen, the ticks that closed, the evidence with them."""

    run: Run
    seen: Seen
    ticks: Sequence[Tick]
    evidence: Sequence[Evidence]
    now: datetime


class Onlooker(Protocol):
    """Watches one run."""

    field: str  # of status, that its words are written to

    def look(self, look: Look, gathered: Gathered) -> Iterable[Tell]:
        """One pass later, after which `gathered` is the run's evidence; what people have to be told."""
        ...

    def said(self) -> Json:
        """What the run's status is to say of it; None: nothing yet."""
        ...


@dataclass(slots=True)
class Onlookers:
    """All of one run's; `next` is what they are to be shown."""

    watching: list[Onlooker] = field(default_factory=list)
    next: Look | None = None
    lost: list[str] = field(default_factory=list)  # fields that dropped ones had: they become empty

    def look(self, gathered: Gathered) -> list[Tell]:
        """They have seen `next`; what people have to be told."""
        seen, self.next = self.next, None
        told: list[Tell] = []
        if seen is not None and seen.ticks:
            for one in list(self.watching):
                with self._dropped_if_it_fails(one):
                    told += one.look(seen, gathered)
        return told

    def said(self) -> dict[str, Json]:
        """What they have to say, by field of status."""
        words: dict[str, Json] = {}
        for one in list(self.watching):
            with self._dropped_if_it_fails(one):
                if (said := one.said()) is not None:
                    words[one.field] = said
        return dict.fromkeys(self.lost) | words

    @contextmanager
    def _dropped_if_it_fails(self, one: Onlooker) -> Iterator[None]:
        """The run goes on as if nobody had looked."""
        try:
            yield
        except Exception:
            log.exception("onlooker_dropped", onlooker=one.field)
            self.watching.remove(one)
            self.lost.append(one.field)
