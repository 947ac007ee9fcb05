"""What is replayed is kept as segments as well, by a thread of its own.

Whoever hands requests over never waits: they stand in memory, within a bound, until they are written. A disk
that is full, slow or stuck costs the requests that find no room any more, and nothing else. The same thread
deletes what has expired, at its start and every minute.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import structlog

from gpu_shadow import segments
from gpu_shadow.keys import Key
from gpu_shadow.recorder import Recorded
from gpu_shadow.segments import About

log = structlog.get_logger(__name__)

WAITING = 32 * 2**20  # bytes of requests that are not written yet
ROOM = 2**30  # bytes on disk
FULL = 8 * 2**20  # bytes of requests in a segment: some thousands of a table's rows
MOST = 4_096  # requests in one
AGE = 10.0  # seconds that a request waits for others: so much is lost when the process is killed
LOOK = 1.0  # seconds between looks
SWEEP = 60.0  # seconds
PATIENCE = 5.0  # seconds for the last ones, when the process ends


@dataclass(slots=True)
class Batch:
    """One run's requests that will be a segment."""

    model: str
    since: float  # seconds of the monotonic clock
    requests: list[Recorded] = field(default_factory=list)
    size: int = 0  # bytes
    modified: set[str] = field(default_factory=set)

    @property
    def full(self) -> bool:
        """Whether it takes no more."""
        return self.size >= FULL or len(self.requests) >= MOST


class Keeper:
    """Writes segments below `folder`, drops them when they expire, and the oldest before there are too many.

    `most` bounds their bytes on disk, `waiting` those of requests in memory. `rate` and `salt` say how
    requests were sampled, `policy` by which digest they were redacted.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_for: timedelta = segments.KEPT_FOR,
        key: Key | None = None,
        most: int = ROOM,
        waiting: int = WAITING,
        rate: float = 1.0,
        salt: str = "",
        policy: str = "",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.dropped = 0  # requests that were not written
        self.written: Counter[str] = Counter()  # segments, requests, bytes
        self.deleted: Counter[str] = Counter()  # segments by reason
        self.held = 0  # bytes in memory
        self._folder, self._keep_for, self._key = folder, keep_for, key
        self._most, self._room, self._clock = most, waiting, clock
        self._rate, self._policy = rate, policy
        self._salt = salt and sha256(salt.encode()).hexdigest()[:8]
        self._batches: dict[str, list[Batch]] = {}
        self._sizes: dict[Path, int] = {}
        self._stirred = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)

    # -- by whoever records

    def keep(self, run: str, some: Sequence[Recorded], *, model: str, modified: Collection[str] = ()) -> None:
        """These will be written, as far as there is room for them to wait; returns at once."""
        with self._stirred:
            batches = self._batches.setdefault(run, [])
            for one in some:
                if self.held + one.size > self._room:
                    self.dropped += 1
                    continue
                if not batches or batches[-1].full:
                    batches.append(Batch(model, time.monotonic()))
                batches[-1].requests.append(one)
                batches[-1].modified |= set(modified)
                batches[-1].size += one.size
                self.held += one.size
            if any(batch.full for batch in batches):
                self._stirred.notify()

    def start(self) -> None:
        """Its thread runs from now on."""
        self._thread.start()

    def close(self) -> None:
        """What waits is written, if the disk takes it within `PATIENCE` seconds."""
        with self._stirred:
            self._closing = True
            self._stirred.notify()
        self._thread.join(PATIENCE)

    def page(self) -> str:
        """Counters for a metrics page."""
        lines = []
        for what, unit in (("segments", ""), ("requests", "_requests"), ("bytes", "_bytes")):
            name = f"shadow_segments_written{unit}_total"
            lines += [f"# TYPE {name} counter", f"{name} {self.written[what]}"]
        lines.append("# TYPE shadow_segments_deleted_total counter")
        for reason in ("expired", "room"):
            lines.append(f'shadow_segments_deleted_total{{reason="{reason}"}} {self.deleted[reason]}')
        lines += [
            "# TYPE shadow_segments_bytes gauge",
            f"shadow_segments_bytes {sum(list(self._sizes.values()))}",
        ]
        return "\n".join(lines) + "\n"

    # -- by its thread

    def _work(self) -> None:
        self.begin()
        swept = time.monotonic()
        while not self._closing:
            with self._stirred:
                self._stirred.wait(LOOK)
            self.write()
            if time.monotonic() - swept >= SWEEP:
                self.sweep()
                swept = time.monotonic()
        self.write(all_of_it=True)

    def begin(self) -> None:
        """What others left behind is known, and halves of it are gone."""
        try:
            segments.clear(self._folder)
            self._sizes = {path: segments.size(path) for path in segments.found(self._folder)}
        except OSError as error:
            log.warning("not_looked_through", folder=str(self._folder), why=str(error))
        self.sweep()

    def write(self, *, all_of_it: bool = False) -> None:
        """Batches that are full, or have waited long enough, are on disk or counted as dropped."""
        oldest = time.monotonic() - AGE
        with self._stirred:
            ripe = [
                (run, batch)
                for run, batches in self._batches.items()
                for batch in batches
                if all_of_it or batch.full or batch.since <= oldest
            ]
            for run, batch in ripe:
                self._batches[run].remove(batch)
            self._batches = {run: batches for run, batches in self._batches.items() if batches}
        for run, batch in ripe:
            self._write(run, batch)

    def _write(self, run: str, batch: Batch) -> None:
        now = self._clock()
        about = About(
            run=run,
            created=now,
            expires=now + self._keep_for,
            model=batch.model,
            rate=self._rate,
            salt=self._salt,
            policy=self._policy,
            modified=tuple(sorted(batch.modified)),
        )
        lost = 0
        try:
            self._make_room(batch.size)
            path = segments.write(self._folder, batch.requests, about=about, key=self._key)
            self._sizes[path] = segments.size(path)
            self.written += Counter(segments=1, requests=len(batch.requests), bytes=self._sizes[path])
            log.info(
                "kept", run=run, segment=path.name, requests=len(batch.requests), expires=str(about.expires)
            )
        except Exception as trouble:  # noqa: BLE001 - whatever it was, the next ones are tried
            log.warning("not_kept", run=run, requests=len(batch.requests), why=str(trouble))
            lost = len(batch.requests)
        with self._stirred:
            self.held -= batch.size
            self.dropped += lost

    def _make_room(self, size: int) -> None:
        """The oldest are gone until so much more may be written; raises `OSError` if it can never be."""
        if size > self._most:
            raise OSError(f"{size} bytes at once, and {self._most} may be kept")
        while self._sizes and sum(self._sizes.values()) + size > self._most:
            self._drop(min(self._sizes), "room")

    def sweep(self) -> None:
        """What has expired is gone, or is tried again a minute later."""
        try:
            old = segments.expired(self._folder, now=self._clock())
        except OSError as error:
            log.warning("not_swept", folder=str(self._folder), why=str(error))
            return
        for path in old:
            try:
                self._drop(path, "expired")
            except OSError as error:  # the next ones are deleted nevertheless
                log.warning("not_deleted", segment=str(path), why=str(error))

    def _drop(self, path: Path, reason: str) -> None:
        segments.drop(path)
        self._sizes.pop(path, None)
        self.deleted[reason] += 1
