"""How far a comparison came, in files: what is merged, and what is not trusted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpu_shadow.progress import Progress, Unusable, read, unlike, whole, write
from gpu_shadow.tally import Answers, Comparison

QUESTION = {"seed": 0, "margins": {"maxFlips": 0.005}}


def part(number: int, parts: int = 2, **more: Any) -> Progress:
    found = Comparison(task="classification", answers=Answers(same=10 * number, canary=1))
    said: dict[str, Any] = {"part": number, "parts": parts, "done": 3, "blocks": 3, "left_out": {"odd": 1}}
    return Progress(question=QUESTION, comparison=found, **said | more)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    given = part(2, left_out={"odd": 4}, names={"stable": "v7"}, troubles=("a.jsonl:3: none",))
    write(tmp_path / "state", given)
    assert read(tmp_path / "state") == given
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "state", part(1))
    broken = replace(part(1), question={"seed": object()})
    with pytest.raises(TypeError):
        write(tmp_path / "state", broken)
    assert read(tmp_path / "state") == part(1)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -2, -40])
def test_a_torn_file_is_not_used(tmp_path: Path, cut: int) -> None:
    write(tmp_path / "state", part(1))
    body = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(body[:cut])
    with pytest.raises(Unusable, match="state: "):
        read(tmp_path / "state")


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "text",
        {"schema": "serin.dev/shadow-finding/v1"},
        {"schema": "serin.dev/shadow-part/v1"},
        {"schema": "serin.dev/shadow-part/v1", "sha256": "", "progress": 7},
    ],
)
def test_other_files_are_not_used(tmp_path: Path, said: Any) -> None:
    (tmp_path / "other").write_text(json.dumps(said))
    with pytest.raises(Unusable, match="other: "):
        read(tmp_path / "other")


def test_a_file_that_somebody_changed_is_not_used(tmp_path: Path) -> None:
    write(tmp_path / "state", part(1))
    body = json.loads((tmp_path / "state").read_bytes())
    (tmp_path / "state").write_text(json.dumps(body | {"progress": body["progress"] | {"left_out": {}}}))
    with pytest.raises(Unusable, match="torn"):
        read(tmp_path / "state")


@pytest.mark.parametrize(
    "how",
    [
        {"part": 3},
        {"part": 0},
        {"done": 4},
        {"done": True},
        {"left_out": {"a": -1}},
        {"left_out": {"a": 0.5}},
        {"question": 3},
    ],
)
def test_a_file_of_another_form_is_not_used(tmp_path: Path, how: Any) -> None:
    given = part(1)
    write(tmp_path / "state", replace(given, **how))
    with pytest.raises(Unusable, match="is no part of a comparison"):
        read(tmp_path / "state")


def test_parts_together_are_the_whole_in_any_order() -> None:
    one, two = part(1, troubles=("b", "c"), names={"stable": "a"}), part(2, troubles=("a", "d"))
    found = whole({"one": one, "two": two})
    assert found.comparison.answers == Answers(same=30, canary=2)
    assert (found.part, found.parts, found.done, found.blocks, found.left_out) == (1, 1, 6, 6, {"odd": 2})
    assert found.troubles == ("a", "b", "c")
    assert found.names == {"stable": "a"}
    assert whole({"two": two, "one": one}) == found


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([part(1)], "of 2 parts these are missing: 2;"),
        ([part(1, 5), part(4, 5)], "of 5 parts these are missing: 2, 3, 5;"),
        ([part(1), part(1)], "1 and 0 are both part 1"),
        ([part(1), part(2, 3)], "1: is one of 3 parts, 0 one of 2"),
        ([part(1), part(2, done=2)], "1: came to 2 of its 3 blocks"),
        ([part(1), replace(part(2), question=QUESTION | {"seed": 1})], "1: its seed is not 0's"),
        (
            [part(1), replace(part(2), question={"seed": 1, "margins": {}})],
            "1: its margins and seed are not 0's",
        ),
    ],
)
def test_parts_that_are_not_one_whole_are_refused(parts: list[Progress], says: str) -> None:
    with pytest.raises(Unusable) as refused:
        whole({str(place): one for place, one in enumerate(parts)})
    assert says in str(refused.value)


def test_questions_differ_in_what_only_one_of_them_says() -> None:
    assert unlike({"a": 1}, {"a": 1}) == ""
    assert unlike({"a": 1}, {"a": 1, "b": None, "c": 2}) == "c is"
    assert unlike({"margins": 1}, {"margins": 2}) == "margins are"
