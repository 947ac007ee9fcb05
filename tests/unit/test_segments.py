"""Segments: written whole, read only when sound, gone when they expire."""

import contextlib
import gzip
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from gpu_shadow import segments
from gpu_shadow.keys import Key
from gpu_shadow.protocol import TYPES
from gpu_shadow.recorder import Recorded
from gpu_shadow.segments import MANIFEST, SEAL, About, BadSegment, read, write

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
KEY = Key(bytes(range(32)))
Tensors = dict[str, np.ndarray[Any, Any]]


def about(**more: Any) -> About:
    return About(**{"run": "lab/run-1", "created": NOW, "expires": NOW + timedelta(hours=24)} | more)


def recorded(tensors: Sequence[Tensors], **more: Any) -> list[Recorded]:
    return [
        Recorded(id=f"r{number}", tensors=one, size=1, order=number, **{"at": NOW, "path": "/v2"} | more)
        for number, one in enumerate(tensors)
    ]


def some(count: int = 6, *, wide: int = 4) -> list[Recorded]:
    return recorded([{"x": np.full((1, wide), number, "<f4")} for number in range(count)])


def same(one: Recorded, other: Recorded) -> bool:
    def known(each: Recorded) -> tuple[Any, ...]:
        return each.id, each.order, each.inclusion, each.path, each.at, each.slice

    alike = one.tensors.keys() == other.tensors.keys() and known(one) == known(other)
    return alike and all(
        value.dtype == other.tensors[name].dtype
        and value.shape == other.tensors[name].shape
        and value.tobytes() == other.tensors[name].tobytes()
        if value.dtype != object
        else value.tolist() == other.tensors[name].tolist()
        for name, value in one.tensors.items()
    )


@st.composite
def requests(draw: st.DrawFn) -> list[Tensors]:
    """Requests whose tensors have any type and shape, often the same as others have."""
    shapes = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    numbers = st.sampled_from(sorted(TYPES.values())).flatmap(lambda kind: arrays(kind, shapes))
    texts = arrays(object, shapes, elements=st.binary(max_size=5))
    one = st.dictionaries(st.text(max_size=3), numbers | texts, min_size=1, max_size=3)
    few = draw(st.lists(one, min_size=1, max_size=4))
    return draw(st.lists(st.sampled_from(few), min_size=1, max_size=12))


@settings(max_examples=40)  # each syncs files
@given(requests(), st.sampled_from([None, KEY]))
def test_what_was_written_is_read_again_whatever_types_and_shapes(
    tmp_path_factory: pytest.TempPathFactory, tensors: list[Tensors], key: Key | None
) -> None:
    given_ = recorded(tensors, inclusion=0.25, slice="tenant=a")
    path = write(tmp_path_factory.mktemp("kept"), given_, about=about(), key=key)
    found = read(path, key=key, now=NOW).requests()
    assert len(found) == len(given_)
    assert all(map(same, given_, found))


def test_segments_are_found_by_time_and_halves_are_not(tmp_path: Path) -> None:
    later = write(tmp_path, some(), about=about(created=NOW + timedelta(seconds=1)), key=None)
    first = write(tmp_path, some(), about=about(), key=None)
    (tmp_path / f".{first.name}").mkdir()
    (tmp_path / "20261399T000000000000-0123456789abcdef").mkdir()  # a thirteenth month
    (tmp_path / "notes").mkdir()
    assert segments.found(tmp_path) == [first, later]
    assert segments.found(tmp_path / "nowhere") == []
    segments.clear(tmp_path)
    assert not (tmp_path / f".{first.name}").exists()


def test_the_manifest_says_what_the_requests_stand_for(tmp_path: Path) -> None:
    common, rare = some(), some(2, wide=9)
    given_ = [
        *(Recorded(id=one.id, tensors=one.tensors, size=1, order=1, inclusion=0.01) for one in common),
        *rare,
    ]
    path = write(tmp_path, given_, about=about(rate=0.5, salt="a1"), key=None)
    sampling = read(path, key=None, now=NOW).manifest.sampling
    assert (sampling.seen, sampling.kept, sampling.rate, sampling.salt_id) == (602, 8, 0.5, "a1")
    assert sorted((one.seen, one.kept) for one in sampling.strata) == [(2, 2), (600, 6)]


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("how", ["a bit", "cut off", "longer", "missing", "a pipe"])
def test_a_change_of_any_part_is_noticed(tmp_path: Path, key: Key | None, part: int, how: str) -> None:
    path = write(tmp_path, some(), about=about(), key=key)
    file = sorted(path.iterdir())[part]
    body = file.read_bytes()
    if how == "a bit":
        file.write_bytes(
            body[:40] + bytes([body[40] ^ 1]) + body[41:] if len(body) > 40 else b"\x00" + body[1:]
        )
    elif how in {"missing", "a pipe"}:
        file.unlink()
        if how == "a pipe":
            os.mkfifo(file)
    else:
        file.write_bytes(body[:-1] if how == "cut off" else body + b"\n")
    with pytest.raises(BadSegment, match=str(path)) as trouble:
        read(path, key=key, now=NOW)
    assert "; " in str(trouble.value)  # what to do


def test_parts_cannot_be_swapped_between_segments_nor_their_folders_renamed(tmp_path: Path) -> None:
    one, other = (write(tmp_path, some(), about=about(), key=KEY) for _ in range(2))
    index = "index.jsonl.gz.aes"
    (one / index).write_bytes((other / index).read_bytes())
    with pytest.raises(BadSegment, match=index):
        read(one, key=KEY, now=NOW)
    moved = other.rename(tmp_path / (other.name[:-1] + ("0" if other.name[-1] != "0" else "1")))
    with pytest.raises(BadSegment, match="put it back"):
        read(moved, key=KEY, now=NOW)


def test_a_manifest_cannot_be_given_a_longer_life(tmp_path: Path) -> None:
    path = write(tmp_path, some(), about=about(), key=KEY)
    said = (path / MANIFEST).read_text().replace("2026-11-28T12", "2026-11-29T12")
    (path / MANIFEST).write_text(said)
    with pytest.raises(BadSegment, match="altered"):
        read(path, key=KEY, now=NOW)


def test_another_key_and_none_at_all_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path, some(), about=about(), key=KEY)
    with pytest.raises(BadSegment, match=f"{KEY.name}; give that key's file"):
        read(path, key=None, now=NOW)
    with pytest.raises(BadSegment, match=f"encrypted with the key {KEY.name}, not with"):
        read(path, key=Key(bytes(range(1, 33))), now=NOW)


def test_nothing_of_an_encrypted_request_stands_in_any_file(tmp_path: Path) -> None:
    value = np.frombuffer(b"secret-of-a-patient-", "<f4")
    path = write(
        tmp_path, recorded([{"x": value}], path="/secret-path", slice="secret-slice"), about=about(), key=KEY
    )
    assert not [file for file in path.iterdir() if b"secret" in file.read_bytes()]
    plain = write(tmp_path, recorded([{"x": value}]), about=about(), key=None)
    assert b"secret" in (plain / "tensors.safetensors").read_bytes()


# -- hostile, though digests fit -------------------------------------------------------------------


def forged(path: Path, change: Any) -> None:
    """The manifest is changed and the seal made to fit."""
    said = json.loads((path / MANIFEST).read_text())
    change(said)
    body = json.dumps(said).encode()
    (path / MANIFEST).write_bytes(body)
    (path / SEAL).write_bytes(sha256(body).digest())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda said: said.update(schema="serin.dev/shadow-segment/v9"), "read it with the version"),
        (lambda said: said.update(n=10**9), "at most 100000"),
        (lambda said: said.update(n=7), "6 rows for 7"),
        (lambda said: said.update(n=-1), "no manifest"),
        (lambda said: said.update(expires="2027-11-27T12:00:00"), "no manifest"),  # no time zone
        (lambda said: said["signatures"][0]["tensors"][0].update(shape=[2**62]), "shape"),
        (lambda said: said["signatures"][0]["tensors"][0].update(datatype="FP64"), "is of float32"),
        (lambda said: said["signatures"][0]["tensors"][0].update(name="../x"), "missing"),
        (lambda said: said["signatures"][0].update(n=5), "shape"),
        (lambda said: said["signatures"][0].update(form="flat"), "missing"),
        (lambda said: said["signatures"][0].update(tensors=[]), "0 tensors"),
        (lambda said: said["signatures"].append(said["signatures"][0]), "missing"),
        (lambda said: said["signatures"].clear(), "belongs to no signature"),
        (lambda said: said["parts"]["tensors"].update(bytes=1), "at most 1 belong"),
        (lambda said: said["parts"].pop("index"), "lacks a part"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(tmp_path: Path, change: Any, match: str) -> None:
    path = write(tmp_path, some(), about=about(), key=None)
    forged(path, change)
    with pytest.raises(BadSegment, match=match):
        read(path, key=None, now=NOW)


@settings(max_examples=40)
@given(st.data(), st.binary(min_size=1, max_size=9))
def test_whatever_the_parts_hold_it_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, put: bytes
) -> None:
    texts = [{"t": np.array([[b"a", b"bc"]], dtype=object), "x": np.ones((1, n), "<f4")} for n in (1, 2)]
    path = write(tmp_path_factory.mktemp("kept"), [*some(), *recorded(texts)], about=about(), key=None)
    part = data.draw(st.sampled_from(["tensors", "index"]))
    file = path / segments.FILES[part]
    body = bytearray(file.read_bytes() if part == "tensors" else gzip.decompress(file.read_bytes()))
    at = data.draw(st.integers(0, len(body)))
    body[at : at + data.draw(st.integers(0, 9))] = put
    sent = bytes(body) if part == "tensors" else gzip.compress(bytes(body))
    file.write_bytes(sent)
    about_it = {"bytes": len(sent), "sha256": sha256(sent).hexdigest()}
    forged(path, lambda said: said["parts"].update({part: about_it}))
    with contextlib.suppress(BadSegment):
        assert len(read(path, key=None, now=NOW).requests()) == 8


def test_an_index_that_grows_without_end_is_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path, some(1), about=about(), key=None)
    bomb = gzip.compress(b" " * 50 * 2**20)
    (path / segments.FILES["index"]).write_bytes(bomb)
    about_it = {"bytes": len(bomb), "sha256": sha256(bomb).hexdigest()}
    forged(path, lambda said: said["parts"].update(index=about_it))
    with pytest.raises(BadSegment, match="larger than its rows can be"):
        read(path, key=None, now=NOW)


# -- time ------------------------------------------------------------------------------------------


def test_what_has_expired_is_refused_and_to_be_dropped(tmp_path: Path) -> None:
    short = write(tmp_path, some(), about=about(expires=NOW + timedelta(hours=1)), key=KEY)
    long = write(tmp_path, some(), about=about(), key=KEY)
    with pytest.raises(BadSegment, match="has expired at 2026-11-27 13:00 UTC; record it again"):
        read(short, key=KEY, now=NOW + timedelta(hours=1))
    assert segments.expired(tmp_path, now=NOW + timedelta(hours=1)) == [short]
    segments.drop(short)
    assert segments.found(tmp_path) == [long]


@pytest.mark.parametrize("kept", [timedelta(0), timedelta(days=7, seconds=1)])
def test_nothing_is_kept_for_longer_than_a_week(tmp_path: Path, kept: timedelta) -> None:
    with pytest.raises(ValueError, match="at most 7 days"):
        write(tmp_path, some(), about=about(expires=NOW + kept), key=None)
    assert list(tmp_path.iterdir()) == []


def test_a_segment_that_cannot_be_read_goes_after_a_week_at_the_latest(tmp_path: Path) -> None:
    path = write(tmp_path, some(), about=about(), key=None)
    (path / MANIFEST).write_text("{")
    assert segments.expired(tmp_path, now=NOW + timedelta(days=6)) == []
    assert segments.expired(tmp_path, now=NOW + timedelta(days=7)) == [path]


def test_the_key_goes_first_and_what_a_crash_left_of_it_goes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, some(), about=about(), key=KEY)

    def crash(_path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(segments.shutil, "rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            segments.drop(path)
    assert (path / MANIFEST).exists()
    with pytest.raises(BadSegment, match="its key was dropped"):
        read(path, key=KEY, now=NOW)
    assert segments.expired(tmp_path, now=NOW) == [path]
    segments.drop(path)
    assert list(tmp_path.iterdir()) == []


# -- crashes and full disks ------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "times"), [("_written", 4), ("_synced", 2)])
@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_fault_or_a_crash_between_any_two_steps_leaves_a_whole_segment_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, times: int, fault: BaseException
) -> None:
    was, left = getattr(segments, step), 0

    def failing(*given_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise fault
        was(*given_)

    for at in range(times):
        folder, left = tmp_path / str(at), at
        with monkeypatch.context() as patch:
            patch.setattr(segments, step, failing)
            if isinstance(fault, KeyboardInterrupt):  # of a process that was killed nobody clears up
                patch.setattr(segments.shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(type(fault)):
                write(folder, some(), about=about(), key=KEY)
        if isinstance(fault, OSError):
            assert list(folder.iterdir()) == []
        for path in segments.found(folder):
            assert len(read(path, key=KEY, now=NOW).requests()) == 6
        segments.clear(folder)
        assert list(folder.iterdir()) == segments.found(folder)


def test_a_file_or_a_link_called_like_a_segment_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "kept" / "20260101T000000000000-0123456789abcdef"
    mine.mkdir(parents=True)
    (mine.parent / "20260101T000000000001-0123456789abcdef").write_text("a file")
    other = tmp_path / "elsewhere"
    other.mkdir()
    (mine.parent / "20260101T000000000002-0123456789abcdef").symlink_to(other)
    assert segments.found(mine.parent) == [mine]
