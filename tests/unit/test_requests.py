"""Requests from files: their order, their blocks, and what is no request."""

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_shadow import segments
from gpu_shadow.keys import Key
from gpu_shadow.recorder import Recorded
from gpu_shadow.requests import BadRequests, Requests, found, shuffled


def line(number: int, **more: object) -> str:
    given = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [number, 0.5]}
    return json.dumps({"id": f"r{number}", "inputs": [given], **more})


def file(path: Path, numbers: range) -> Path:
    path.write_text("".join(line(number) + "\n" for number in numbers))
    return path


def ids(lot: Requests, size: int = 16) -> list[list[str]]:
    return [[one.id for one in block.read()[0]] for block in lot.blocks(size)]


def test_all_requests_are_there_once_in_an_order_that_is_not_the_file_s(tmp_path: Path) -> None:
    lot = found([file(tmp_path / "a.jsonl", range(1000))], seed=0)
    read = ids(lot, 64)
    assert [len(each) for each in read] == [64] * 15 + [40]
    assert [block.requests for block in lot.blocks(64)] == [64] * 15 + [40]
    flat = [int(one[1:]) for each in read for one in each]
    assert sorted(flat) == list(range(1000))
    # a shuffle leaves no trace of the order it began with: five standard errors of a rank correlation
    assert abs(np.corrcoef(flat, range(1000))[0, 1]) < 5 / 1000**0.5


def test_the_order_depends_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    one, other = file(tmp_path / "a.jsonl", range(50)), file(tmp_path / "b.jsonl", range(50, 90))
    first = found([one, other], seed=0)
    (tmp_path / "moved").mkdir()
    moved = [path.rename(tmp_path / "moved" / f"{path.stem}-again.jsonl") for path in (other, one)]
    again = found(moved, seed=0)
    assert ids(first := found(moved[::-1], seed=0)) == ids(again)
    assert first.digest == again.digest
    assert ids(found(moved, seed=1)) != ids(again)


def test_requests_of_all_files_are_shuffled_together(tmp_path: Path) -> None:
    lot = found(
        [file(tmp_path / "a.jsonl", range(200)), file(tmp_path / "b.jsonl", range(200, 400))],
        seed=0,
    )
    late = [sum(int(one[1:]) >= 200 for one in each) for each in ids(lot, 100)]
    assert all(25 <= each <= 75 for each in late)  # five standard errors


@pytest.mark.parametrize("parts", [1, 2, 5, 7, 40])
def test_parts_are_disjoint_and_together_everything(tmp_path: Path, parts: int) -> None:
    lot = found([file(tmp_path / "a.jsonl", range(300))], seed=0)
    fallen = [lot.blocks(16, part=part, parts=parts) for part in range(1, parts + 1)]
    read = [[one.id for one in block.read()[0]] for part in fallen for block in part]
    assert sorted(read) == sorted(ids(lot))
    assert max(map(len, fallen)) - min(map(len, fallen)) <= 1


def test_orders_of_arrival_go_on_from_block_to_block(tmp_path: Path) -> None:
    lot = found([file(tmp_path / "a.jsonl", range(100))], seed=0)
    orders = [one.order for block in lot.blocks(30) for one in block.read()[0]]
    assert orders == list(range(1, 101))


def test_what_is_no_request_is_named_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line(1) + "\n\n" + '{"inputs": []}\n' + line(4)[:-9] + "\n" + line(5))
    lot = found([path], seed=0)
    ((read, wrong),) = [block.read() for block in lot.blocks(16)]
    assert len(lot) == 4  # the blank line is nothing
    assert sorted(one.id for one in read) == ["r1", "r5"]
    first, second = sorted(wrong)
    assert first.startswith("a.jsonl:3: 0 inputs")
    assert second.startswith("a.jsonl:4: no request of the protocol")


def test_a_request_without_an_id_is_called_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line(1, id="") + "\n" + line(2, id="") + "\n")
    assert sorted(ids(found([path], seed=0))[0]) == ["a.jsonl:1", "a.jsonl:2"]


def test_a_mark_of_the_order_of_bytes_is_no_part_of_the_first_request(tmp_path: Path) -> None:
    """What Windows saves begins with one: its first request was left out."""
    path = file(tmp_path / "a.jsonl", range(3))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert sum(map(len, ids(found([path], seed=0)))) == 3


def test_files_without_requests_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(BadRequests, match=r"empty\.jsonl: no line in it"):
        found([tmp_path / "empty.jsonl"], seed=0)
    with pytest.raises(BadRequests, match=r"cannot be read \(No such file"):
        found([tmp_path / "nowhere"], seed=0)
    with pytest.raises(BadRequests, match="there is no segment in it"):
        found([tmp_path], seed=0)
    one, other = file(tmp_path / "a.jsonl", range(5)), file(tmp_path / "b.jsonl", range(5))
    with pytest.raises(BadRequests, match="hold the same requests"):
        found([one, other], seed=0)


def test_requests_of_one_id_are_not_replayed_one_after_the_other() -> None:
    """They may be alike, and a row of those would look as if all requests were."""
    given = [Recorded(id="a" if n < 500 else f"r{n}", tensors={}, size=1, order=n) for n in range(1000)]
    same = [one.id == "a" for one in shuffled(given)]
    assert 200 < sum(same[:500]) < 300
    assert shuffled(given) == shuffled(given[::-1])
    assert shuffled(given, 1) != shuffled(given)


# -- segments --------------------------------------------------------------------------------------

SECRET = bytes(range(32))


def segment(folder: Path, numbers: range, *, key: Key | None = None, **about: Any) -> Path:
    now = datetime.now(UTC)
    given = [
        Recorded(id=f"r{number}", tensors={"x": np.full((1, 2), number, "<f4")}, size=1, order=number, at=now)
        for number in numbers
    ]
    said: dict[str, Any] = {"run": "lab/run-1", "created": now, "expires": now + timedelta(hours=1)}
    return segments.write(folder, given, about=segments.About(**said | about), key=key)


def test_segments_and_lines_are_shuffled_together_and_hold_their_own_tensors(tmp_path: Path) -> None:
    for first in (0, 100):
        segment(tmp_path / "recorded", range(first, first + 100))
    lot = found([tmp_path / "recorded", file(tmp_path / "a.jsonl", range(200, 300))], seed=0)
    read = [one for block in lot.blocks(100) for one in block.read()[0]]
    assert sorted(int(one.id[1:]) for one in read) == list(range(300))
    assert all(one.tensors["x"][0, 0] == int(one.id[1:]) for one in read)
    assert [one.order for one in read] == list(range(1, 301))
    for block in lot.blocks(100):
        from_where = np.bincount([int(one.id[1:]) // 100 for one in block.read()[0]], minlength=3)
        assert from_where.min() > 10  # five standard errors below 33


def test_a_segment_may_be_named_alone_and_says_what_was_redacted(tmp_path: Path) -> None:
    one = segment(tmp_path, range(20), policy="f" * 64, modified=("x: rounded",))
    segment(tmp_path, range(20, 30))
    assert len(found([one], seed=0)) == 20
    both = found([tmp_path], seed=0)
    assert (len(both), both.redacted) == (30, ("x: rounded",))


def test_encrypted_segments_open_with_their_key_alone(tmp_path: Path) -> None:
    segment(tmp_path / "recorded", range(20), key=Key(SECRET))
    (tmp_path / "key").write_bytes(b64encode(SECRET))
    assert len(found([tmp_path / "recorded"], seed=0, key=tmp_path / "key")) == 20
    with pytest.raises(BadRequests, match="is encrypted"):
        found([tmp_path / "recorded"], seed=0)
    with pytest.raises(BadRequests, match="nowhere: cannot be read"):
        found([tmp_path / "recorded"], seed=0, key=tmp_path / "nowhere")


def test_an_expired_segment_is_not_replayed(tmp_path: Path) -> None:
    then = datetime.now(UTC) - timedelta(hours=2)
    segment(tmp_path, range(20), created=then, expires=then + timedelta(hours=1))
    with pytest.raises(BadRequests, match="has expired"):
        found([tmp_path], seed=0)
