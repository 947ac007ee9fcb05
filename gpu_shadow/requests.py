"""Recorded requests from files, in an order that has nothing to do with their answers, in blocks.

The order is that of hashes, with a seed, of a request's file and place in it: no clock, no process and no
folder has a say in it. Blocks are cut from it once, however many replay them: so the batches, and with them
the last digits of every answer, are the same in one replay and in ten parts of it.

Lines of JSONL files are read when their block is; segments, which are bounded, are held in memory.
"""

from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_shadow.protocol import Unreadable, request
from gpu_shadow.recorder import Recorded

if TYPE_CHECKING:
    from gpu_shadow.segments import Segment

Ints = NDArray[np.int64]
LONGEST = 64 * 2**20  # bytes of a line; one that is longer is of no JSONL file


class BadRequests(ValueError):
    """Files that requests cannot be read from; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Block:
    """Requests that are replayed at once; `read` gives them, and what is wrong with those that are none."""

    requests: int
    read: Callable[[], tuple[list[Recorded], list[str]]]


class _Source(Protocol):
    """Where requests lie: `places` are numbers that stay with them, `read` gives those that are requests."""

    @property
    def path(self) -> Path: ...
    @property
    def digest(self) -> str: ...
    @property
    def places(self) -> Ints: ...
    def read(self, places: Ints) -> Sequence[Recorded | str]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """All of some files; `digest` is of what they hold, whatever their names and order.

    `redacted` says in words what had been changed in them before they were stored.
    """

    digest: str
    redacted: tuple[str, ...]
    _sources: Sequence[_Source]
    _which: Ints  # of these each is, in the order in which they are replayed
    _place: Ints  # and where in it

    def __len__(self) -> int:
        return len(self._which)

    def blocks(self, size: int, *, part: int = 1, parts: int = 1) -> list[Block]:
        """All of them in blocks of so many, or the blocks that fall to one part of so many, from 1."""
        starts = range(0, len(self), size)[part - 1 :: parts]
        return [self._block(at, at + size) for at in starts]

    def _block(self, start: int, end: int) -> Block:
        which, place = self._which[start:end], self._place[start:end]
        return Block(len(which), _Reading(self._sources, which, place, start + 1))


def hashed(name: str, seed: int) -> int:
    """A hash of 64 bits; with another seed another one."""
    key = seed.to_bytes(16, "big", signed=True)
    return int.from_bytes(blake2b(name.encode(), digest_size=8, key=key).digest())


def shuffled(recorded: Sequence[Recorded], seed: int = 0) -> list[Recorded]:
    """The requests in the order of hashes: of their ids, and of their arrival, for ids may repeat."""
    return sorted(recorded, key=lambda one: hashed(f"{one.id}/{one.order}", seed))


def found(paths: Sequence[Path], *, seed: int, key: Path | None = None) -> Requests:
    """The requests in JSONL files, segments and folders of segments, shuffled together.

    `key` is the file of the key that segments are encrypted with. Raises `BadRequests`.
    """
    sources = sorted((one for path in paths for one in _sources(path, key)), key=lambda one: one.digest)
    for one, other in pairwise(sources):
        if one.digest == other.digest:
            raise BadRequests(f"{one.path} and {other.path} hold the same requests; name one of them")
    which = np.repeat(np.arange(len(sources)), [len(one.places) for one in sources])
    if not len(which):
        raise BadRequests(f"{', '.join(map(str, paths))}: no line in it; expected a request in each")
    place = np.concatenate([one.places for one in sources])
    keys = (hashed(f"{one.digest}/{at}", seed) for one in sources for at in one.places.tolist())
    order = np.argsort(np.fromiter(keys, np.uint64, len(which)), kind="stable")
    digest = sha256("".join(one.digest for one in sources).encode()).hexdigest()
    redacted = {what for one in sources if isinstance(one, _Held) for what in one.redacted}
    return Requests(digest, tuple(sorted(redacted)), sources, which[order], place[order])


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """Reads the requests in these places of these sources; the first one is the `first` of all."""

    sources: Sequence[_Source]
    which: Ints
    place: Ints
    first: int

    def __call__(self) -> tuple[list[Recorded], list[str]]:
        """Those that are requests, and what is wrong with the others."""
        found: dict[int, Recorded | str] = {}
        for number in np.unique(self.which).tolist():
            (mine,) = np.nonzero(self.which == number)
            mine = mine[np.argsort(self.place[mine])]  # from front to back
            found |= zip(mine.tolist(), self.sources[number].read(self.place[mine]), strict=True)
        read, wrong = [], []
        for at in range(len(self.which)):
            one = found[at]
            if isinstance(one, str):
                wrong.append(one)
            else:
                read.append(replace(one, order=self.first + at))
        return read, wrong


def _sources(path: Path, key: Path | None) -> Iterator[_Source]:
    """What the path names: a JSONL file, a segment, or a folder of segments."""
    if not path.is_dir():
        yield _lines(path)
        return
    from gpu_shadow import keys, segments  # with them comes cryptography, which JSONL files do without

    named = [path] if segments.NAME.fullmatch(path.name) else segments.found(path)
    if not named:
        raise BadRequests(f"{path}: there is no segment in it; name a folder of segments, or JSONL files")
    try:
        opened = None if key is None else keys.read(key)
        for each in named:
            yield _Held.of(segments.read(each, key=opened, now=datetime.now(UTC)))
    except (segments.BadSegment, keys.BadKey) as error:
        raise BadRequests(f"{error}; or name what is to be replayed without it") from None


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A segment; its places are those in it."""

    path: Path
    digest: str
    redacted: tuple[str, ...]
    requests: Sequence[Recorded]

    @classmethod
    def of(cls, segment: "Segment") -> "_Held":
        """A segment that was read and found sound: its name is its own, and it says what it holds."""
        about = segment.manifest
        said = [about.id, *(part.sha256 for _, part in sorted(about.parts.items()))]
        return cls(
            segment.path,
            sha256(" ".join(said).encode()).hexdigest(),
            about.redaction.modified,
            segment.requests(),
        )

    @property
    def places(self) -> Ints:
        return np.arange(len(self.requests))

    def read(self, places: Ints) -> Sequence[Recorded | str]:
        return [self.requests[place] for place in places.tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """A JSONL file: its places are line numbers from 1, of lines that are not blank."""

    path: Path
    digest: str
    places: Ints
    bounds: Ints  # [n, 2]: where each begins, and its bytes

    def read(self, places: Ints) -> Sequence[Recorded | str]:
        bounds = self.bounds[np.searchsorted(self.places, places)].tolist()
        try:
            with self.path.open("rb") as file:
                return [
                    self._request(place, _at(file, *where))
                    for place, where in zip(places.tolist(), bounds, strict=True)
                ]
        except OSError as error:
            raise BadRequests(f"{self.path}: cannot be read any more ({error.strerror})") from None

    def _request(self, place: int, line: bytes) -> Recorded | str:
        name = f"{self.path.name}:{place}"
        try:
            asked = request(line.removeprefix(BOM_UTF8) if place == 1 else line, text=True)
        except Unreadable as error:
            return f"{name}: {error}"
        return Recorded(id=asked.id or name, tensors=asked.tensors, size=len(line), order=0)


def _at(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def _lines(path: Path) -> _Lines:
    places, bounds, at, digest = array("q"), array("q"), 0, sha256()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), 1):
                if len(line) > LONGEST:
                    raise BadRequests(f"{path}: line {number} has more than {LONGEST} bytes; expected JSONL")
                digest.update(line)
                if not line.isspace():
                    places.append(number)
                    bounds.extend((at, len(line)))
                at += len(line)
    except OSError as error:
        raise BadRequests(
            f"{path}: cannot be read ({error.strerror}); name segments, a folder of them, or a JSONL file"
        ) from None
    return _Lines(path, digest.hexdigest(), np.array(places), np.array(bounds).reshape(-1, 2))
