"""Three passes over recorded requests, on the lab's digits model."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.judge import Verdict
from gpu_shadow.compare import Comparison, Margins
from gpu_shadow.models import Model, load
from gpu_shadow.recorder import Recorded
from gpu_shadow.replay import Replay, TooLarge, row_of
from scenarios.live import artifacts, digits

MARGINS = Margins(max_flips=0.02, alpha=0.01, beta=0.05)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    return {name: load(found, folder) for name, found in artifacts.write(folder).items()}


def recorded(count: int, *, first: int = 0) -> list[Recorded]:
    pictures = digits.load().pictures
    return [
        Recorded(
            id=f"r{number}",
            tensors={"pixels": pictures[number % len(pictures)][None, :].astype(np.float32)},
            size=256,
            order=number + 1,
        )
        for number in range(first, first + count)
    ]


def small(value: Model, *, fits: int) -> Model:
    """The model on a device on which so many rows fit at once."""

    def answer(rows: Tensor) -> Tensor:
        if len(rows) > fits:
            raise torch.OutOfMemoryError(f"{len(rows)} rows")
        return value.answer(rows)

    return replace(value, answer=answer)


def test_a_requantised_model_passes_and_stops_as_soon_as_that_is_certain(models: dict[str, Model]) -> None:
    replay = Replay(models[digits.MODEL], models[digits.REQUANTISED], MARGINS)
    for first in range(0, 20_000, 200):
        found = replay.go_on(recorded(200, first=first))
        if replay.decided:
            break
    assert found is not None
    assert found.verdict is Verdict.PASS
    assert replay.rows < 5_000


@pytest.mark.parametrize("name", [digits.UNSCALED, digits.PERMUTED])
def test_a_model_that_answers_something_else_fails_within_the_first_looks(
    models: dict[str, Model], name: str
) -> None:
    replay = Replay(models[digits.MODEL], models[name], MARGINS)
    found = replay.go_on(recorded(100))
    assert found is not None
    assert found.verdict is Verdict.FAIL


def test_the_same_model_on_both_sides_never_differs_whatever_the_batches(models: dict[str, Model]) -> None:
    replay = Replay(models[digits.MODEL], models[digits.MODEL], MARGINS, batch=37)
    found = replay.go_on(recorded(2_000))
    assert found is not None
    assert found.verdict is Verdict.PASS
    assert found.overall is not None
    assert found.overall.flips == 0


def test_answers_are_the_same_whatever_fits_into_memory(models: dict[str, Model]) -> None:
    stable, canary = models[digits.MODEL], models[digits.PERMUTED]
    whole = Replay(stable, canary, MARGINS)
    tight = Replay(small(stable, fits=3), small(canary, fits=5), MARGINS)
    asked = recorded(100)
    assert whole.go_on(asked) is not None
    assert tight.go_on(asked) is not None
    assert tight.batch <= 3
    assert tight.comparison is not None
    assert whole.comparison is not None
    assert tight.comparison.answers == whole.comparison.answers


def test_a_row_that_does_not_fit_is_an_error_and_not_a_loop(models: dict[str, Model]) -> None:
    replay = Replay(small(models[digits.MODEL], fits=0), models[digits.MODEL], MARGINS)
    with pytest.raises(TooLarge, match="one row does not fit"):
        replay.go_on(recorded(4))


def test_other_errors_are_not_taken_for_a_lack_of_memory(models: dict[str, Model]) -> None:
    def broken(_rows: Tensor) -> Tensor:
        raise RuntimeError("shapes do not fit")

    replay = Replay(models[digits.MODEL], replace(models[digits.MODEL], answer=broken), MARGINS)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        replay.go_on(recorded(4))


def test_a_replay_in_parts_is_exactly_one_replay_and_can_go_on_where_it_was(models: dict[str, Model]) -> None:
    stable, canary = models[digits.MODEL], models[digits.REQUANTISED]
    strict = replace(MARGINS, max_flips=0.0001)
    asked = recorded(600)
    whole = Replay(stable, canary, strict)
    whole.go_on(asked)
    first = Replay(stable, canary, strict)
    first.go_on(asked[:250])
    assert first.comparison is not None
    saved = Comparison.from_json(first.comparison.to_json())
    then = Replay(stable, canary, strict, comparison=saved, position=first.position)
    then.go_on(asked)  # of which 250 were compared before
    assert whole.comparison is not None
    assert then.comparison is not None
    assert then.comparison.answers == whole.comparison.answers
    assert then.rows == 350


def test_the_second_pass_is_in_batches_of_another_size_and_order(models: dict[str, Model]) -> None:
    seen: list[tuple[int, float]] = []

    def watched(answer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def spied(rows: Tensor) -> Tensor:
            seen.append((len(rows), float(rows[0].sum())))
            return answer(rows)

        return spied

    stable = models[digits.MODEL]
    replay = Replay(replace(stable, answer=watched(stable.answer)), models[digits.MODEL], MARGINS, batch=64)
    asked = recorded(100)
    replay.go_on(asked)
    first, again = seen[3:5], seen[5:]  # after the warm-up
    assert [rows for rows, _ in first] == [64, 36]
    assert [rows for rows, _ in again] == [24, 24, 24, 24, 4]
    assert again[0][1] == float(asked[-1].tensors["pixels"].sum())


def test_a_canary_that_takes_other_rows_has_failed_every_request(models: dict[str, Model]) -> None:
    other = replace(models[digits.MODEL], features=63)
    found = Replay(models[digits.MODEL], other, MARGINS).go_on(recorded(20))
    assert found is not None
    assert found.verdict is Verdict.FAIL


def test_requests_that_are_none_of_the_model_s_are_left_out_and_counted(models: dict[str, Model]) -> None:
    replay = Replay(models[digits.MODEL], models[digits.MODEL], MARGINS)
    odd = replace(recorded(1)[0], tensors={"a": np.zeros((1, 3))})
    two = replace(recorded(1)[0], tensors={"a": np.zeros((1, 64)), "b": np.zeros((1, 64))}, order=2)
    assert replay.go_on([odd, two]) is None
    assert (replay.unfit, replay.rows, replay.position) == (2, 0, 2)


def test_of_a_request_with_many_rows_the_first_counts() -> None:
    rows = np.arange(12.0).reshape(3, 4)
    found = row_of({"x": rows}, 4)
    assert found is not None
    assert found.tolist() == [0, 1, 2, 3]
    picture = row_of({"x": rows.reshape(3, 2, 2)}, 4)
    assert picture is not None
    assert picture.tolist() == [0, 1, 2, 3]
