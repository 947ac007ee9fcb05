"""The keeper: what is written, what is dropped and counted, what is deleted."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_shadow import keeping, segments
from gpu_shadow.keeping import Keeper
from gpu_shadow.keys import Key
from gpu_shadow.recorder import Recorded

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
KEY = Key(bytes(range(32)))


class Clock:
    """A time that stands still until it is moved."""

    now = NOW

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now


def keeper(folder: Path, **how: Any) -> Keeper:
    return Keeper(folder, clock=how.pop("clock", Clock()), **how)


def some(count: int, *, first: int = 0, size: int = 1_000) -> list[Recorded]:
    return [
        Recorded(id=f"r{number}", tensors={"x": np.full((1, 4), number, "<f4")}, size=size, order=number)
        for number in range(first, first + count)
    ]


def kept(folder: Path, *, key: Key | None = None) -> list[list[str]]:
    return [
        [one.id for one in segments.read(path, key=key, now=NOW).requests()]
        for path in segments.found(folder)
    ]


def test_what_is_handed_over_is_written_a_run_a_segment(tmp_path: Path) -> None:
    one = keeper(tmp_path, key=KEY, rate=0.5, salt="a", policy="sha256:1")
    one.keep("lab/a", some(2), model="file:///v1", modified={"x hashed"})
    one.keep("lab/b", some(1, first=7), model="file:///v2")
    one.keep("lab/a", some(1, first=2), model="file:///v1", modified={"x hashed"})
    one.write(all_of_it=True)
    assert kept(tmp_path, key=KEY) == [["r0", "r1", "r2"], ["r7"]]
    manifest = segments.read(segments.found(tmp_path)[0], key=KEY, now=NOW).manifest
    assert (manifest.run, manifest.model, manifest.sampling.rate) == ("lab/a", "file:///v1", 0.5)
    assert manifest.expires - manifest.created == timedelta(hours=24)
    assert (manifest.redaction.policy, manifest.redaction.modified) == ("sha256:1", ("x hashed",))
    assert manifest.redaction.modified_inputs
    assert len(manifest.sampling.salt_id) == 8
    assert one.held == 0


def test_a_batch_waits_for_others_until_it_is_full_or_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "MOST", 3)
    one = keeper(tmp_path)
    one.keep("lab/a", some(5), model="")
    one.write()
    assert kept(tmp_path) == [["r0", "r1", "r2"]]
    monkeypatch.setattr(keeping, "AGE", 0.0)
    one.write()
    assert kept(tmp_path) == [["r0", "r1", "r2"], ["r3", "r4"]]


def test_beyond_the_bound_of_memory_requests_are_dropped_and_counted(tmp_path: Path) -> None:
    one = keeper(tmp_path, waiting=10_000)
    for number in range(100):
        one.keep("lab/a", some(1, first=number), model="")
        assert one.held <= 10_000
    assert one.dropped == 90
    one.write(all_of_it=True)
    one.keep("lab/a", some(1), model="")
    assert one.dropped == 90


def test_a_full_disk_costs_what_is_written_and_the_next_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    one = keeper(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(segments, "_written", full)
        one.keep("lab/a", some(4), model="")
        one.write(all_of_it=True)
    assert (one.dropped, one.held, list(tmp_path.iterdir())) == (4, 0, [])
    one.keep("lab/a", some(1), model="")
    one.write(all_of_it=True)
    assert kept(tmp_path) == [["r0"]]


def test_what_is_no_segment_costs_itself(tmp_path: Path) -> None:
    one = keeper(tmp_path)
    odd = Recorded(id="odd", tensors={"x": np.array([1j])}, size=1, order=1)
    one.keep("lab/a", [odd], model="")
    one.write(all_of_it=True)
    assert one.dropped == 1


def test_the_oldest_make_room_for_the_newest(tmp_path: Path) -> None:
    one = keeper(tmp_path, most=5_000)
    for number in range(4):
        one.keep("lab/a", some(1, first=number, size=2_000), model="")
        one.write(all_of_it=True)
    assert kept(tmp_path)[-1] == ["r3"]
    assert sum(map(segments.size, segments.found(tmp_path))) <= 5_000
    assert one.deleted["room"] == 4 - len(segments.found(tmp_path)) > 0
    one.keep("lab/a", some(1, size=5_001), model="")
    one.write(all_of_it=True)
    assert one.dropped == 1


def test_what_expired_meanwhile_is_gone_at_the_next_look_and_at_the_start(tmp_path: Path) -> None:
    clock = Clock()
    one = keeper(tmp_path, clock=clock, keep_for=timedelta(hours=1), key=KEY)
    one.keep("lab/a", some(1), model="")
    one.write(all_of_it=True)
    one.sweep()
    assert len(segments.found(tmp_path)) == 1
    clock.now += timedelta(hours=1)
    (tmp_path / f".{segments.found(tmp_path)[0].name}").mkdir()
    again = keeper(tmp_path, clock=clock)
    again.begin()
    assert list(tmp_path.iterdir()) == []
    assert again.deleted["expired"] == 1


def test_what_cannot_be_deleted_keeps_nothing_else_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    one = keeper(tmp_path, clock=clock)
    for number in range(2):
        one.keep("lab/a", some(1, first=number), model="")
        one.write(all_of_it=True)
    stuck, other = segments.found(tmp_path)
    was = segments.drop

    def drop(path: Path) -> None:
        if path == stuck:
            raise OSError(5, "Input/output error")
        was(path)

    monkeypatch.setattr(segments, "drop", drop)
    clock.now += timedelta(days=1, seconds=1)
    one.sweep()
    assert (stuck.exists(), other.exists()) == (True, False)


def test_the_page_counts_segments_requests_and_bytes(tmp_path: Path) -> None:
    one = keeper(tmp_path)
    one.keep("lab/a", some(3), model="")
    one.write(all_of_it=True)
    size = segments.size(segments.found(tmp_path)[0])
    page = one.page().splitlines()
    assert "shadow_segments_written_total 1" in page
    assert "shadow_segments_written_requests_total 3" in page
    assert f"shadow_segments_written_bytes_total {size}" in page
    assert f"shadow_segments_bytes {size}" in page
    assert 'shadow_segments_deleted_total{reason="expired"} 0' in page


# -- its thread ------------------------------------------------------------------------------------


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk on which nothing goes on until the event is set."""
    goes_on = threading.Event()
    was = segments.write

    def write(*given: Any, **more: Any) -> Path:
        goes_on.wait(20)
        return was(*given, **more)

    monkeypatch.setattr(segments, "write", write)
    monkeypatch.setattr(keeping, "LOOK", 0.001)
    monkeypatch.setattr(keeping, "AGE", 0.0)
    monkeypatch.setattr(keeping, "PATIENCE", 0.05)
    yield goes_on
    goes_on.set()


def test_nobody_waits_for_a_stuck_disk_and_memory_stays_within_its_bound(
    tmp_path: Path, stuck: threading.Event
) -> None:
    one = keeper(tmp_path, waiting=10_000)
    one.start()
    began = time.monotonic()
    for number in range(2_000):
        one.keep("lab/a", some(1, first=number), model="")
        assert one.held <= 10_000
    one.close()  # gives up after its patience
    assert time.monotonic() - began < 5
    assert one.dropped >= 1_900
    stuck.set()
    one._thread.join(10)
    assert one.held == 0
    assert sum(map(len, kept(tmp_path))) + one.dropped == 2_000


def test_what_waits_is_written_before_the_process_ends(tmp_path: Path) -> None:
    one = keeper(tmp_path)
    one.start()
    one.keep("lab/a", some(3), model="")
    one.close()
    assert kept(tmp_path) == [["r0", "r1", "r2"]]
