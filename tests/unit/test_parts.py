"""Whose a tick's processor time is."""

from pathlib import Path

import pytest

from scenarios.scale.parts import part, parts

PASS = ["controller/loop.py:_run", "controller/reconcile.py:_pass"]


@pytest.mark.parametrize(
    ("inner", "whose"),
    [
        (["controller/reconcile.py:_measure", "controller/ticks.py:advance"], "ticks"),
        (["controller/ticks.py:advance", "analysis/samples.py:difference"], "ticks"),
        (["analysis/evidence.py:advanced", "numpy/core.py:sum"], "evidence"),
        (["controller/placebos.py:look", "analysis/evidence.py:advanced", "numpy/core.py:sum"], "placebos"),
        (["controller/peering.py:look", "analysis/peers.py:seen"], "peers"),
        (["controller/saving.py:_checkpoint", "analysis/packing.py:packed", "lzma.py:compress"], "save"),
        (["controller/reconcile.py:_route_seen", "analysis/values.py:replace"], "pass"),
        ([], "pass"),
    ],
)
def test_what_is_done_for_somebody_is_theirs_and_else_the_innermosts(inner: list[str], whose: str) -> None:
    assert part([*PASS, *inner]) == whose


def test_what_is_below_no_part_of_the_controller_is_the_event_loops_or_the_rest() -> None:
    assert part(["asyncio/base_events.py:_run_once", "selectors.py:select"]) == "event loop"
    assert part(["somewhere.py:else"]) == "rest"


def test_the_parts_of_a_file_are_shares_of_all_that_was_seen(tmp_path: Path) -> None:
    file = tmp_path / "stacks"
    assert parts(file) == {}
    file.write_text("controller/loop.py:_run 3\ncontroller/loop.py:_run;controller/ticks.py:advance 1\n")
    assert parts(file) == {"loop": 0.75, "ticks": 0.25}
