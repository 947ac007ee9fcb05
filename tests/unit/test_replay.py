"""Three passes over recorded requests, on the lab's digits model."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch

from analysis.judge import Verdict
from gpu_shadow.batches import STEPS, Cut, TooLarge, answers, planned
from gpu_shadow.compare import Comparison, Margins
from gpu_shadow.model import Answers, Array, Batch, Model, Refused, first_row
from gpu_shadow.models import load
from gpu_shadow.recorder import Recorded
from gpu_shadow.replay import Replay
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

    def answer(batch: Batch) -> torch.Tensor | Answers:
        if len(batch["row"]) > fits:
            raise torch.OutOfMemoryError(f"{len(batch['row'])} rows")
        return value.answer(batch)

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
    def broken(_: Batch) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    replay = Replay(models[digits.MODEL], replace(models[digits.MODEL], answer=broken), MARGINS)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        replay.go_on(recorded(4))


def test_a_replay_can_go_on_where_it_was(models: dict[str, Model]) -> None:
    stable, canary = models[digits.MODEL], models[digits.REQUANTISED]
    strict = replace(MARGINS, max_flips=0.0001)
    asked = recorded(600)
    whole = Replay(stable, canary, strict)
    whole.go_on(asked)
    first = Replay(stable, canary, strict)
    first.go_on(asked[:250])
    assert first.comparison is not None
    saved = Comparison.from_json(first.comparison.to_json())
    then = Replay(stable, canary, strict)
    then.resume(saved, {})
    assert then.finding == first.finding
    then.go_on(asked[250:])
    assert whole.comparison is not None
    assert then.comparison is not None
    assert then.comparison.answers == whole.comparison.answers
    assert then.rows == 350


def test_the_second_pass_is_in_batches_of_another_size_and_order(models: dict[str, Model]) -> None:
    seen: list[tuple[int, float]] = []

    def watched(answer: Callable[[Batch], torch.Tensor | Answers]) -> Callable[[Batch], Any]:
        def spied(batch: Batch) -> torch.Tensor | Answers:
            seen.append((len(batch["row"]), float(batch["row"][0].sum())))
            return answer(batch)

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
    other = replace(models[digits.MODEL], fit=partial(first_row, features=63))
    found = Replay(models[digits.MODEL], other, MARGINS).go_on(recorded(20))
    assert found is not None
    assert found.verdict is Verdict.FAIL


def test_a_canary_that_reads_another_tensor_has_failed_every_request_without_it(
    models: dict[str, Model],
) -> None:
    asked = recorded(40)
    twice = [replace(one, tensors=dict(one.tensors) | {"image": one.tensors["pixels"]}) for one in asked[20:]]
    replay = Replay(models[digits.MODEL], models[digits.RENAMED], MARGINS)
    found = replay.go_on([*asked[:20], *twice])
    assert found is not None
    assert found.verdict is Verdict.FAIL
    assert replay.comparison is not None
    assert (replay.comparison.failed, replay.comparison.requests) == (20, 40)


def test_of_two_tensors_that_would_fit_the_one_that_the_file_names_is_read(models: dict[str, Model]) -> None:
    beside = np.zeros((1, 64), np.float32)
    replay = Replay(models[digits.MODEL], models[digits.REQUANTISED], MARGINS)
    replay.go_on([replace(one, tensors=dict(one.tensors) | {"other": beside}) for one in recorded(50)])
    assert (replay.rows, replay.unfit) == (50, {})


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (digits.ELEVEN, "answers have another form: shape (11,) instead of (10,)"),
        (digits.OVERFLOWING, "answers are NaN or infinite where stable's are numbers"),
    ],
)
def test_one_answer_of_another_form_or_that_is_no_number_is_enough(
    models: dict[str, Model], name: str, why: str
) -> None:
    found = Replay(models[digits.MODEL], models[name], MARGINS).go_on(recorded(60))
    assert found is not None
    assert found.verdict is Verdict.FAIL
    assert why in found.why[0]


def test_requests_that_are_none_of_the_model_s_are_left_out_and_counted(models: dict[str, Model]) -> None:
    replay = Replay(models[digits.MODEL], models[digits.MODEL], MARGINS)
    odd = replace(recorded(1)[0], tensors={"a": np.zeros((1, 3))})
    two = replace(recorded(1)[0], tensors={"a": np.zeros((1, 64)), "b": np.zeros((1, 64))}, order=2)
    assert replay.go_on([odd, two]) is None
    assert (replay.unfit, replay.rows) == ({"without one tensor pixels of 64 features a row": 2}, 0)


def test_of_a_request_with_many_rows_the_first_counts() -> None:
    rows = np.arange(12.0).reshape(3, 4)
    for shaped in (rows, rows.reshape(3, 2, 2)):
        found = first_row({"x": shaped}, 4)
        assert not isinstance(found, str)
        assert found["row"].tolist() == [0, 1, 2, 3]


def model(answer: Callable[[Batch], torch.Tensor | Answers], **more: Any) -> Model:
    """One that takes what it is given: its inputs by name, each request's first row."""

    def fit(tensors: Mapping[str, Array]) -> dict[str, Array]:
        return {name: one[0] for name, one in tensors.items()}

    return Model(takes="anything", task="classification", fit=fit, answer=answer, **more)


def asked(number: int, **tensors: Any) -> Recorded:
    given = {name: np.asarray(value)[None] for name, value in tensors.items()}
    return Recorded(id=f"r{number}", tensors=given, size=1, order=number + 1)


def sentences(count: int) -> list[Recorded]:
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 200, size=count)
    ids = [rng.integers(1, 1_000, size=length) for length in lengths]
    return [asked(i, ids=one, mask=np.ones(len(one), np.int64)) for i, one in enumerate(ids)]


def summed(batch: Batch) -> torch.Tensor:
    """Of each row's ids the sum and the sum of squares, exact in whole numbers of float32."""
    ids = (batch["ids"] * batch["mask"]).double()
    return torch.stack([ids.sum(-1), (ids % 10).square().sum(-1)], -1)


def test_requests_of_every_length_go_through_together_and_each_has_its_own_answer() -> None:
    shapes: list[tuple[int, int]] = []

    def answer(batch: Batch) -> torch.Tensor:
        assert batch["ids"].shape == batch["mask"].shape
        lengths = batch["mask"].sum(-1)
        shapes.append(tuple(batch["ids"].shape))
        assert int(lengths.min()) * 2 > int(lengths.max())  # at most half is padding
        return summed(batch)

    some = sentences(300)
    rows = [{name: one[0] for name, one in each.tensors.items()} for each in some]
    padded = frozenset({"ids", "mask"})
    for backwards, most in ((False, 64), (True, 24)):
        shapes.clear()
        found = answers(model(answer, padded=padded), rows, Cut(most), backwards=backwards)
        alone = torch.cat([summed({k: torch.from_numpy(v[None]) for k, v in row.items()}) for row in rows])
        assert torch.equal(found.values, alone)
        assert max(rows for rows, _ in shapes) == most
        assert len(shapes) < 30


def test_rows_of_other_shapes_are_never_in_one_batch_where_zeros_would_change_an_answer() -> None:
    some = sentences(50)
    rows = [{name: one[0] for name, one in each.tensors.items()} for each in some]

    def answer(batch: Batch) -> torch.Tensor:
        assert bool((batch["ids"] > 0).all())
        return summed(batch)

    found = answers(model(answer), rows, Cut(64))
    assert found.values[7].tolist()[0] == float(rows[7]["ids"].sum())


def test_very_long_rows_go_through_few_at_a_time() -> None:
    rows = [{"ids": np.ones(STEPS // 4, np.int64)}] * 10
    plan = planned(rows, model(summed, padded=frozenset({"ids"})), 512)
    assert [len(some) for some in plan] == [4, 4, 2]


def test_a_request_that_the_canary_does_not_take_is_one_that_it_failed_and_the_others_are_compared() -> None:
    def fit(tensors: Mapping[str, Array]) -> dict[str, Array] | str:
        return "odd" if tensors["ids"].sum() % 2 else {name: one[0] for name, one in tensors.items()}

    padded = frozenset({"ids", "mask"})
    stable = model(summed, padded=padded)
    replay = Replay(stable, replace(stable, fit=fit), MARGINS)
    replay.go_on(sentences(40))
    odd = sum(int(one.tensors["ids"].sum()) % 2 for one in sentences(40))
    assert replay.comparison is not None
    assert 0 < replay.comparison.failed == odd < 40
    assert replay.comparison.requests == 40


def erring(wrong: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Batch], Answers]:
    """Rows for which `wrong` holds have no answer."""

    def answer(batch: Batch) -> Answers:
        bad = wrong(batch["ids"].sum(-1))
        values = torch.where(bad[:, None], torch.nan, summed(batch))
        return Answers(
            values[:, :0] if bool(bad.all()) else values,
            dict.fromkeys(torch.nonzero(bad)[:, 0].tolist(), "it erred"),
        )

    return answer


def test_an_answer_that_is_an_error_counts_against_the_canary_only_where_stable_answered() -> None:
    padded = frozenset({"ids", "mask"})
    stable = model(erring(lambda sums: sums % 3 == 0), padded=padded)
    canary = model(erring(lambda sums: sums % 2 == 0), padded=padded)
    some = sentences(60)
    sums = [int(one.tensors["ids"].sum()) for one in some]
    replay = Replay(stable, canary, MARGINS)
    found = replay.go_on(some)
    comparison = replay.comparison
    assert found is not None
    assert comparison is not None
    assert found.verdict is Verdict.FAIL
    assert comparison.failed == sum(each % 2 == 0 and each % 3 > 0 for each in sums)
    assert comparison.unusable == sum(each % 3 == 0 for each in sums)
    assert Replay(canary, canary, MARGINS).go_on(some[:0]) is None


def test_a_model_that_answers_nothing_at_all_says_nothing_as_stable_and_fails_as_canary() -> None:
    padded = frozenset({"ids", "mask"})
    silent, sound = model(erring(lambda sums: sums > 0), padded=padded), model(summed, padded=padded)
    found = Replay(silent, sound, MARGINS).go_on(sentences(20))
    assert found is not None
    assert found.verdict is Verdict.NO_DATA
    found = Replay(sound, silent, MARGINS).go_on(sentences(20))
    assert found is not None
    assert found.verdict is Verdict.FAIL


def test_answers_of_a_look_are_few_where_they_are_large_and_requests_are_always_cut_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpu_shadow.replay.HELD", 20)
    monkeypatch.setattr("gpu_shadow.replay.FIRST", 4)
    sizes: list[int] = []

    def answer(batch: Batch) -> torch.Tensor:
        sizes.append(len(batch["ids"]))
        return summed(batch)

    padded = frozenset({"ids", "mask"})
    stable, some = model(summed, padded=padded), sentences(50)
    equal = [replace(one, tensors=some[0].tensors) for one in some]  # one kind, so that a look is a batch
    replay = Replay(stable, model(answer, padded=padded), MARGINS, stops=False)
    for part in (equal[:25], equal[25:]):
        sizes.clear()
        replay.go_on(part)
        assert sizes[-3:] == [4, 10, 10, 1][-3:]
        assert sizes.count(10) == 2


def test_models_rest_when_their_passes_are_over_so_that_two_can_take_turns() -> None:
    said: list[str] = []

    def answering(name: str) -> Callable[[Batch], torch.Tensor]:
        def answer(batch: Batch) -> torch.Tensor:
            said.append(name)
            return summed(batch)

        return answer

    padded = frozenset({"ids", "mask"})
    stable, canary = [
        model(answering(name), padded=padded, rest=partial(said.append, f"{name} rests"))
        for name in ("S", "C")
    ]
    Replay(stable, canary, MARGINS).go_on(sentences(10))
    turns = [name for name, _ in groupby(said)]
    assert turns == ["S", "S rests", "C", "C rests"]


def test_requests_that_say_their_slice_are_reported_under_it(models: dict[str, Model]) -> None:
    good = models[digits.MODEL]

    def answer(batch: Batch) -> torch.Tensor | Answers:
        found = good.answer(batch)
        assert isinstance(found, torch.Tensor)
        return torch.where(batch["row"][:, :1] > 8, found.roll(1, 1), found)

    some = recorded(400)
    for one in some[::10]:
        one.tensors["pixels"][0, 0] = 16.0  # what the canary is wrong about
    named = [replace(one, slice=f"x-tenant={'ab'[place % 10 == 0]}") for place, one in enumerate(some)]
    replay = Replay(good, replace(good, answer=answer), MARGINS)
    found = replay.go_on(named)
    assert found is not None
    assert {each.label: each.flips for each in found.slices} == {"x-tenant=a": 0.0, "x-tenant=b": 1.0}
    unnamed = Replay(good, replace(good, answer=answer), MARGINS).go_on(some)
    assert unnamed is not None
    assert unnamed.slices == ()


def test_answers_that_no_memory_would_hold_are_refused_and_not_gathered() -> None:
    wide = Model(
        reference="wide",
        takes="",
        task="regression",
        fit=lambda tensors: tensors,
        answer=lambda batch: torch.zeros(1).expand(len(batch["x"]), 2**19),
    )
    some = [{"x": np.zeros(1, np.float32)}] * 256
    with pytest.raises(Refused, match="wide: an answer has 524288 numbers, and 256 answers at once may have"):
        answers(wide, some, Cut(16))
    assert answers(wide, some[:2], Cut(16)).values.shape == (2, 2**19)
