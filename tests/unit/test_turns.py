"""Two models in a bounded memory: both at once, or one after the other, with the same answers."""

from pathlib import Path
from typing import Any

import pytest
from test_replay import recorded

from gpu_shadow.compare import Margins
from gpu_shadow.model import Later, Model, Refused
from gpu_shadow.models import load
from gpu_shadow.replay import Replay
from gpu_shadow.turns import both
from scenarios.live import artifacts, digits

MARGINS = Margins(max_flips=0.99, alpha=0.01, beta=0.05)
NAMES = (digits.MODEL, digits.PERMUTED)


class Shelf:
    """Loads models, and counts how often and which."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: list[str] = []
        self.references = [artifacts.write(folder, [name])[name] for name in NAMES]
        self.size = Path(self.references[0].partition("@")[0][7:]).stat().st_size

    def __call__(self, reference: str) -> Model:
        self.loaded.append(Path(reference.partition("@")[0]).stem)
        return load(reference, self.folder)

    def both(self, memory: float, free: float | None = None) -> tuple[Any, int]:
        size = self.size
        return both(
            self.references,
            self,
            memory=round(memory * size),
            free=round((memory if free is None else free) * size),
        )


def test_two_models_that_fit_are_loaded_once(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    models, taken = shelf.both(2.1)
    assert 1.9 < taken / shelf.size < 2.1
    Replay(*models, MARGINS).go_on(recorded(400))
    assert shelf.loaded == list(NAMES)


def test_two_models_that_do_not_fit_take_turns_and_answer_the_same(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    models, taken = shelf.both(1.5)
    assert 0.9 < taken / shelf.size < 1.1
    together = Replay(*Shelf(tmp_path).both(3)[0], MARGINS)
    turns = Replay(*models, MARGINS)
    shelf.loaded.clear()
    for replay in (together, turns):
        replay.go_on(recorded(100))
        replay.go_on(recorded(200))
    assert shelf.loaded == [*NAMES, *NAMES]
    assert turns.comparison is not None
    assert together.comparison is not None
    assert turns.comparison.to_json() == together.comparison.to_json()


def test_a_model_that_fits_nowhere_is_refused_and_one_that_does_not_fit_now_waits(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    with pytest.raises(Refused, match="raise --memory") as trouble:
        shelf.both(0.9)
    assert not isinstance(trouble.value, Later)
    with pytest.raises(Later, match="models of other runs take the memory that these need"):
        shelf.both(3, free=0.9)
    assert shelf.loaded == []


def test_what_is_not_a_file_takes_no_memory_and_is_told_by_who_loads_it() -> None:
    def refuse(reference: str) -> Model:
        raise Refused(f"{reference}: no")

    with pytest.raises(Refused, match="http://h:1/v2/models/m: no"):
        both(["http://h:1/v2/models/m"] * 2, refuse, memory=1, free=1)
    with pytest.raises(Refused, match="file:///nowhere: no"):
        both(["file:///nowhere"] * 2, refuse, memory=1, free=1)


def test_a_model_that_was_put_away_answers_nothing(tmp_path: Path) -> None:
    replay = Replay(*Shelf(tmp_path).both(3)[0], MARGINS)
    replay.go_on(recorded(10))
    replay.put_away()
    with pytest.raises(RuntimeError, match="was put away"):
        replay.go_on(recorded(20))
