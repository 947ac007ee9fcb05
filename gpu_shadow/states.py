"""How far each run's replay came, in a folder: a worker that was restarted goes on instead of starting over.

Nothing depends on it. A file that is missing, torn or of another question is left alone, with a line in the
log; one that cannot be written costs what it would have saved. Only counts and the ids of the most different
requests are in it.

It is written by the clock, or when the replay is over, and never because the evidence has moved: that would
keep what was worst for the canary and lose the rest.
"""

import time
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

import structlog

from gpu_shadow.progress import Progress, read, write
from gpu_shadow.replay import Replay

Json = Any
log = structlog.get_logger(__name__)

EVERY = 5.0  # seconds between two writings of one run's state: so much is lost if the worker is killed
FORGOTTEN_AFTER = 24 * 3600.0  # seconds since it was written; a run that asks has its file written again


class States:
    """The folder, of one worker alone; without a folder nothing is kept. One thread at a time.

    `redaction` is the digest of the policy by which requests are changed: what was compared under another one
    is of other requests.
    """

    def __init__(self, folder: Path | None, *, redaction: str = "") -> None:
        self._folder = folder
        self._redaction = redaction
        self._due: dict[Path, float] = {}  # when each file is written next
        self._troubled = False  # that the disk cannot be written is said once

    def resume(self, question: Json, replay: Replay) -> None:
        """The replay goes on from what is kept of this very question, if anything is."""
        self._sweep()
        path = self._file(question)
        if path is None or not path.is_file():
            return
        try:
            kept = read(path)
            same = kept.question == self._whole(question) and kept.comparison.task == replay.margins.task
            if same:
                replay.resume(kept.comparison, kept.left_out)
                replay.redacted.update(kept.redacted)
        except Exception as trouble:  # noqa: BLE001 - whatever it is, the replay begins anew
            log.warning("state_ignored", file=str(path), why=str(trouble))
            return
        if not same:
            log.warning("state_ignored", file=str(path), why="it is of another question")
            return
        log.info("resumed", file=str(path), requests=kept.comparison.requests)

    def keep(self, question: Json, replay: Replay, *, now: bool = False) -> None:
        """How far it came is kept, if it is time for that, or `now`."""
        path, clock = self._file(question), time.monotonic()
        if path is None or replay.comparison is None or not (now or clock >= self._due.get(path, 0.0)):
            return
        self._due[path] = clock + EVERY
        try:
            kept = Progress(
                question=self._whole(question),
                comparison=replay.comparison,
                left_out=dict(replay.unfit),
                redacted=tuple(sorted(replay.redacted)),
            )
            write(path, kept)
        except Exception as trouble:  # noqa: BLE001 - whatever it is, the replay goes on
            if not self._troubled:
                log.warning("state_not_written", file=str(path), why=str(trouble))
            self._troubled = True

    def drop(self, question: Json) -> None:
        """Nothing is kept of this question any more."""
        path = self._file(question)
        if path is not None:
            self._due.pop(path, None)
            self._gone(path)

    def _file(self, question: Json) -> Path | None:
        if self._folder is None:
            return None
        name = sha256(dumps(self._whole(question), sort_keys=True).encode()).hexdigest()
        return self._folder / f"{name[:32]}.json"

    def _whole(self, question: Json) -> Json:
        return question | ({"redaction": self._redaction} if self._redaction else {})

    def _sweep(self) -> None:
        """Files of runs that nobody has asked about for long are gone."""
        for path in () if self._folder is None else self._folder.glob("*.json"):
            if path.stat().st_mtime < time.time() - FORGOTTEN_AFTER:
                self._gone(path)

    def _gone(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("state_not_deleted", file=str(path), why=str(error))
