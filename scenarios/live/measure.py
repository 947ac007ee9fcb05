"""What happened at the proxy, read from its access log: the lab's measure of what callers saw."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CUT = 0.002  # seconds; Envoy cuts a request's duration to whole milliseconds, so that it ends too early

Excuse = Callable[["Entry"], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One request as Envoy logged it when it was over; times are seconds since 1970."""

    start: float
    seconds: float
    arm: str  # the subset that was chosen; "" where none was
    code: int  # 0: the caller left before there was one
    flags: str
    attempts: int
    last_attempt: float  # when the last attempt left Envoy; `start` if none did
    host: str
    injected: bool  # the pod says that the failure was ordered

    @property
    def end(self) -> float:
        """When the request was over."""
        return self.start + self.seconds

    @property
    def failed(self) -> bool:
        """Whether the caller did not get what it asked for."""
        return not 200 <= self.code < 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the proxy saw of a story; times are seconds since 1970, None if there was no such request."""

    first_routed: float | None  # start of the first request that was routed to the canary
    last_routed: float | None  # start of the last one
    last_attempt: float | None  # the last try that still reached it, a retry perhaps
    stable: int
    canary: int
    failed: int  # beyond what the story ordered


def entry(line: str) -> Entry | None:
    """The line's request; None for a line that is not written to its end yet."""
    try:
        said: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    start = float(said["start"])
    offset = said["lastAttempt"]
    return Entry(
        start=start,
        seconds=(said["took"] or 0) / 1e3,
        arm=_arm(said["cluster"]),
        code=said["code"] or 0,
        flags=said["flags"] or "",
        attempts=said["attempts"] or 0,
        last_attempt=start + (offset or 0) / 1e6,
        host=said["host"] or "",
        injected=said["injected"] is not None,
    )


def _arm(cluster: str | None) -> str:
    """The subset in Istio's name of a cluster: outbound|80|canary|model.lab.svc.cluster.local."""
    parts = (cluster or "").split("|")
    return parts[2] if len(parts) == 4 else ""


def entries(path: Path) -> list[Entry]:
    """All requests in the log, in the order in which they ended."""
    with path.open() as log:
        return [said for line in log if (said := entry(line)) is not None]


class Tail:
    """The log's end, for those who watch while it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def new(self) -> Iterator[Entry]:
        """Requests that ended since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            log.seek(self._read)
            for line in log:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                if (said := entry(line.decode())) is not None:
                    yield said


def measured(log: Sequence[Entry], *, until: float, excused: Excuse, before: float = math.inf) -> Measured:
    """The figures; `until` is when the load was stopped, which leaves some requests unanswered.

    Times are of requests that started before `before`, when another run took over.
    """
    canary = [said for said in log if said.arm == "canary" and said.start < before]
    lost = [said for said in log if said.failed and not said.injected and said.end < until - CUT]
    return Measured(
        first_routed=min((said.start for said in canary), default=None),
        last_routed=max((said.start for said in canary), default=None),
        last_attempt=max((said.last_attempt for said in canary), default=None),
        stable=sum(said.arm == "stable" for said in log),
        canary=sum(said.arm == "canary" for said in log),
        failed=sum(not excused(said) for said in lost),
    )


def p95(seconds: Iterable[float]) -> float | None:
    """The 95th percentile, or None of nothing."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))] if ordered else None
