"""Segments: recorded requests on disk, for a day or so. Written whole or not at all, and checked before use.

A segment is a folder named by its time. It holds the requests' tensors (safetensors), an index with one row
a request (JSON lines, gzip), a manifest that says what all of it is, and a seal: the manifest's SHA-256,
or, of an encrypted segment, its data key, wrapped so that it opens together with this manifest only.
The manifest has the digests of the rest, so that nothing can be changed or swapped unnoticed.

Whatever is wrong with a segment is one exception, and nothing in it is ever run.
"""

import contextlib
import os
import re
import secrets
import shutil
import stat
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import NoReturn

import msgspec
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gpu_shadow import keys
from gpu_shadow.keys import BadKey, Key
from gpu_shadow.layout import Aware, Misfit, Natural, Row, Signature, packed, unpacked
from gpu_shadow.recorder import Recorded

SCHEMA = "serin.dev/shadow-segment/v1"
MANIFEST, SEAL = "manifest.json", "seal"
PARTS = ("tensors", "index")  # in the order of their nonces
FILES = {"tensors": "tensors.safetensors", "index": "index.jsonl.gz"}
SEALED = ".aes"  # is appended to the name of a part that is encrypted
LARGEST = 2**30  # bytes of a part, also unpacked; AES-GCM as OpenSSL has it ends at 2^31
LARGEST_MANIFEST = 16 * 2**20
MOST_REQUESTS = 100_000
LARGEST_ROW = 64 * 2**10  # bytes; paths and ids are bounded by the doors to less
KEPT_FOR = timedelta(hours=24)
LONGEST = timedelta(days=7)  # that anything may be kept
GZIP = 16 + zlib.MAX_WBITS
STAMP = "%Y%m%dT%H%M%S%f"
NAME = re.compile(r"(\d{8}T\d{12})-[0-9a-f]{16}")
AGAIN = "record it again"


class BadSegment(ValueError):
    """A segment that cannot be used; the text says which file, what is wrong, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a segment says of its requests beside themselves.

    `model` is the reference of the model that answered them in production; `rate` the part of all requests
    that sampling by hash keeps, under the salt that `salt` identifies. `policy` is the digest of the
    redaction policy, "" without one; `modified` says in words what it changed in these requests.
    """

    run: str  # namespace/name
    created: datetime
    expires: datetime
    model: str = ""
    rate: float = 1.0
    salt: str = ""
    policy: str = ""
    modified: tuple[str, ...] = ()


class Stratum(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """Of one path and shape: how many came, how many of them are here."""

    seen: Natural
    kept: Natural


class Sampling(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """How these requests were chosen; 1 over a row's `inclusion` is how many requests it stands for."""

    method: str
    salt_id: str
    rate: float
    seen: Natural
    kept: Natural
    strata: tuple[Stratum, ...]


class Redaction(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """What was changed before anything was stored."""

    policy: str
    modified_inputs: bool
    modified: tuple[str, ...]


class Encryption(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """How the parts are encrypted, and the name of the key that wraps the data key."""

    algorithm: str
    key: str


class Part(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """A file of the segment, as it lies on disk."""

    bytes: Natural
    sha256: str


class Manifest(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """What `manifest.json` says."""

    schema: str
    id: str
    run: str
    model: str
    created: Aware
    expires: Aware
    n: Natural
    signatures: tuple[Signature, ...]
    sampling: Sampling
    redaction: Redaction
    encryption: Encryption | None
    parts: dict[str, Part]


class _Schema(msgspec.Struct):
    schema: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """One that was read and found sound."""

    path: Path
    manifest: Manifest
    _requests: Sequence[Recorded]

    def requests(self) -> Sequence[Recorded]:
        """Its requests in the order in which they were written; their tensors are views of one block."""
        return self._requests


def found(folder: Path) -> list[Path]:
    """The segments in the folder by time of creation, whole ones only; [] if there is no such folder.

    A file or a link of such a name is none of ours: it is left alone.
    """
    with contextlib.suppress(FileNotFoundError):
        named = (path for path in folder.iterdir() if _latest(path.name) is not None)
        return sorted(path for path in named if path.is_dir() and not path.is_symlink())
    return []


# -- written ---------------------------------------------------------------------------------------


def write(folder: Path, recorded: Sequence[Recorded], *, about: About, key: Key | None) -> Path:
    """The new segment below `folder`, with these requests, safe on disk; encrypted if there is a key.

    Raises `ValueError` for requests that cannot be a segment and `OSError` of the disk; nothing is
    left then.
    """
    name = f"{about.created.astimezone(UTC):{STAMP}}-{secrets.token_hex(8)}"
    parts, seal = _parts(name, recorded, about, key)
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / f".{name}"
    try:
        half.mkdir(mode=0o700)
        for file, body in (*parts.items(), (SEAL, seal)):
            _written(half / file, body)
        _synced(half)
        half.rename(folder / name)
        _synced(folder)
    except BaseException:
        for left in (half, folder / name):
            shutil.rmtree(left, ignore_errors=True)
        raise
    return folder / name


def _parts(
    name: str, recorded: Sequence[Recorded], about: About, key: Key | None
) -> tuple[dict[str, bytes], bytes]:
    """All files but the seal by name, and the seal."""
    if not 0 < len(recorded) <= MOST_REQUESTS:
        raise ValueError(f"{len(recorded)} requests; a segment holds 1 to {MOST_REQUESTS}")
    if not timedelta(0) < about.expires - about.created <= LONGEST:
        raise ValueError(
            f"kept for {about.expires - about.created}; expected more than 0 and at most {LONGEST}"
        )
    signatures, tensors, rows = packed(recorded)
    index = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    plain = {"tensors": save(tensors), "index": index}
    too_large = [each for each in PARTS if len(plain[each]) > LARGEST]
    if too_large:
        raise ValueError(f"its {too_large[0]} take more than {LARGEST} bytes; write fewer requests at once")
    plain["index"] = zlib.compress(index, wbits=GZIP)
    data_key = b"" if key is None else secrets.token_bytes(keys.SIZE)
    bodies = {
        each: plain[each]
        if key is None
        else keys.encrypted(data_key, number, plain[each], _bound(name, each))
        for number, each in enumerate(PARTS)
    }
    manifest = Manifest(
        schema=SCHEMA,
        id=name,
        run=about.run,
        model=about.model,
        created=about.created,
        expires=about.expires,
        n=len(recorded),
        signatures=tuple(signatures),
        sampling=_sampling(recorded, about),
        redaction=Redaction(about.policy, bool(about.modified), about.modified),
        encryption=None if key is None else Encryption("AES-256-GCM", key.name),
        parts={each: Part(len(body), sha256(body).hexdigest()) for each, body in bodies.items()},
    )
    said = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    if len(said) > LARGEST_MANIFEST:
        raise ValueError(
            f"its manifest takes more than {LARGEST_MANIFEST} bytes; write fewer requests at once"
        )
    files = {_file(each, manifest): body for each, body in bodies.items()} | {MANIFEST: said}
    return files, sha256(said).digest() if key is None else key.wrap(data_key, said)


def _sampling(recorded: Sequence[Recorded], about: About) -> Sampling:
    """Each kept request stands for 1 / inclusion that came: so many were seen."""
    strata: dict[object, list[float]] = defaultdict(list)
    for one in recorded:
        kind = one.path, tuple((name, each.shape[1:]) for name, each in sorted(one.tensors.items()))
        strata[kind].append(1 / one.inclusion)
    counted = tuple(Stratum(round(sum(each)), len(each)) for each in strata.values())
    return Sampling(
        method="hash, smallest of each stratum",
        salt_id=about.salt,
        rate=about.rate,
        seen=sum(each.seen for each in counted),
        kept=len(recorded),
        strata=counted,
    )


def _bound(name: str, part: str) -> bytes:
    """What a part's encryption is bound to: it is no other part, and of no other segment."""
    return f"{SCHEMA}\0{name}\0{part}".encode()


def _file(part: str, manifest: Manifest) -> str:
    return FILES[part] + (SEALED if manifest.encryption else "")


def _written(path: Path, body: bytes) -> None:
    with path.open("xb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def _synced(folder: Path) -> None:
    """The folder's entries are safe on disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- read ------------------------------------------------------------------------------------------


def read(path: Path, *, key: Key | None, now: datetime) -> Segment:
    """The segment at `path`, once its digests, sizes, key and age were found right; raises `BadSegment`."""
    last = _latest(path.name)
    if last is None:
        _refuse(path, "is no segment: those are folders named TIME-NUMBER", "name one of them")
    manifest, said = _manifest(path)
    if now >= min(last, manifest.expires):
        _refuse(path, f"has expired at {min(last, manifest.expires):%Y-%m-%d %H:%M} UTC", AGAIN)
    data_key = _opened(path, manifest, said, key)
    bodies = {each: _part(path, each, manifest, data_key) for each in PARTS}
    try:
        rows = _rows(bodies["index"], manifest.n)
        requests = unpacked(manifest.signatures, load(bodies["tensors"]), rows)
    except (Misfit, SafetensorError, msgspec.MsgspecError, zlib.error, ValueError, KeyError) as error:
        _refuse(path, f"does not hold what its manifest says ({error})", AGAIN)
    return Segment(path, manifest, requests)


def _refuse(path: Path, fault: str, remedy: str) -> NoReturn:
    raise BadSegment(f"{path}: {fault}; {remedy}") from None


def _manifest(path: Path) -> tuple[Manifest, bytes]:
    """What the manifest says, and its bytes; nothing in it has been checked against anything yet."""
    file = path / MANIFEST
    said = _bytes(file, LARGEST_MANIFEST)
    try:
        schema = msgspec.json.decode(said, type=_Schema).schema
        if schema != SCHEMA:
            _refuse(
                file, f'its schema is "{schema[:80]}", not {SCHEMA}', "read it with the version that wrote it"
            )
        manifest = msgspec.json.decode(said, type=Manifest)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        _refuse(file, f"is no manifest ({error})", AGAIN)
    if manifest.id != path.name or manifest.parts.keys() != set(PARTS):
        _refuse(file, f"is that of {manifest.id[:80]}, or lacks a part", "put it back where it was")
    return manifest, said


def _latest(name: str) -> datetime | None:
    """When a segment of this name is deleted whatever it says itself; None of a name that none has."""
    said = NAME.fullmatch(name)
    with contextlib.suppress(ValueError, OverflowError):
        return said and datetime.strptime(said[1], STAMP).replace(tzinfo=UTC) + LONGEST
    return None


def _opened(path: Path, manifest: Manifest, said: bytes, key: Key | None) -> bytes:
    """The data key, b"" where there is none; the manifest is the one that was written."""
    sealed = manifest.encryption
    seal = _bytes(path / SEAL, keys.WRAPPED)
    if sealed is None:
        if not compare_digest(seal, sha256(said).digest()):
            _refuse(path / MANIFEST, "is not the one that was written: the seal has another digest", AGAIN)
        return b""
    if key is None:
        _refuse(path, f"is encrypted with the key {sealed.key[:16]}", "give that key's file (--key FILE)")
    if key.name != sealed.key:
        _refuse(
            path, f"is encrypted with the key {sealed.key[:16]}, not with {key.name}", "give that one's file"
        )
    try:
        return key.unwrap(seal, said)
    except BadKey:
        _refuse(path / SEAL, "does not open with this key and this manifest: one was altered", AGAIN)


def _part(path: Path, part: str, manifest: Manifest, data_key: bytes) -> bytes:
    said, file = manifest.parts[part], path / _file(part, manifest)
    body = _bytes(file, min(said.bytes, LARGEST + keys.TAG))
    if len(body) != said.bytes or sha256(body).hexdigest() != said.sha256:
        _refuse(file, f"is not what was written: {len(body)} bytes of {said.bytes}, or another digest", AGAIN)
    if not manifest.encryption:
        return body
    try:
        return keys.decrypted(data_key, PARTS.index(part), body, _bound(path.name, part))
    except BadKey as trouble:
        _refuse(file, str(trouble), AGAIN)


def _bytes(path: Path, most: int) -> bytes:
    """What the file holds, of `most` bytes; a link or a pipe is no part of a segment."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_size > most:
                _refuse(
                    path, f"is no file, or one of {about.st_size} bytes where at most {most} belong", AGAIN
                )
            return file.read(most + 1)
    except FileNotFoundError:
        gone = "its key was dropped when it expired, or somebody took it away"
        _refuse(path, f"is missing: {gone if path.name == SEAL else 'the segment is not whole'}", AGAIN)
    except OSError as error:
        _refuse(path, f"cannot be read ({error.strerror})", "see that the disk is there and may be read")


def _rows(packed_index: bytes, n: int) -> list[Row]:
    """The index; as many rows as the manifest says, and no more is unpacked than `LARGEST`."""
    if n > MOST_REQUESTS:
        raise Misfit(f"{n} requests; a segment holds at most {MOST_REQUESTS}")
    unpacking = zlib.decompressobj(GZIP)
    text = unpacking.decompress(packed_index, min(LARGEST, n * LARGEST_ROW))
    if not unpacking.eof or unpacking.unused_data:
        raise Misfit("the index is cut off, or larger than its rows can be")
    lines = text.split(b"\n")
    if len(lines) != n + 1 or lines[-1]:
        raise Misfit(f"the index has {len(lines) - 1} rows for {n} requests")
    return [msgspec.json.decode(line, type=Row) for line in lines[:-1]]


# -- deleted ---------------------------------------------------------------------------------------


def drop(path: Path) -> None:
    """The segment is gone; first its data key, so that nothing that is left of it can be read."""
    seal = path / SEAL
    with contextlib.suppress(FileNotFoundError):
        with seal.open("r+b", buffering=0) as file:
            file.write(secrets.token_bytes(os.fstat(file.fileno()).st_size))
            os.fsync(file.fileno())
        seal.unlink()
        _synced(path)
    shutil.rmtree(path)


def expired(folder: Path, *, now: datetime) -> list[Path]:
    """The segments that are to be dropped, the oldest first.

    One without a seal was being dropped when somebody stopped. One whose manifest cannot be read goes when
    the last of its kind would.
    """
    return [path for path in found(folder) if not (path / SEAL).exists() or now >= _last(path)]


def _last(path: Path) -> datetime:
    latest = _latest(path.name) or datetime.min.replace(tzinfo=UTC)
    with contextlib.suppress(BadSegment):
        return min(latest, _manifest(path)[0].expires)
    return latest


def size(path: Path) -> int:
    """How many bytes its files have."""
    return sum(file.stat().st_size for file in path.iterdir())


def clear(folder: Path) -> None:
    """Halves of segments that a crash has left are gone; for the one process that writes there."""
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.name.startswith(".") and NAME.fullmatch(path.name[1:]):
                shutil.rmtree(path)
