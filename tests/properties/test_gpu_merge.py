"""Answers compared in parts, merged in any order, are what one comparison of all would be: to a bit."""

import itertools
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from analysis.judge import Verdict
from gpu_shadow.compare import Comparison, Margins, compare, decide, failed, merge, merged
from gpu_shadow.tasks import TASKS

BAD = [float("nan"), float("inf"), -float("inf")]


def text(comparison: Comparison) -> str:
    return json.dumps(comparison.to_json(), sort_keys=True, allow_nan=False)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Answers of any task, kind of number and size, ties and answers that are none among them."""
    task = draw(st.sampled_from(sorted(TASKS)))
    n, wide = draw(st.integers(1, 24)), draw(st.integers(2, 9))
    seed = draw(st.integers(0, 2**31))
    chance = torch.Generator().manual_seed(seed)
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32]))

    def drawn(near: Tensor | None = None) -> Tensor:
        size = draw(st.sampled_from([1e-3, 1.0, 1e4]))
        values = size * torch.randn(n, wide, generator=chance)
        values = values if near is None else near.float() + values
        if draw(st.booleans()):
            values = values.round()
        values = values.to(dtype)
        for _ in range(draw(st.integers(0, 2)) if dtype.is_floating_point else 0):
            values[draw(st.integers(0, n - 1)), draw(st.integers(0, wide - 1))] = draw(st.sampled_from(BAD))
        return values

    stable = drawn()
    return {
        "stable": stable,
        "again": drawn(stable) if draw(st.booleans()) else None,
        "canary": drawn(stable),
        "ids": [f"r{draw(st.integers(0, 30))}" for _ in range(n)],
        "slices": [draw(st.sampled_from("abc")) for _ in range(n)] if draw(st.booleans()) else None,
        "labels": labels(draw, stable, task) if draw(st.booleans()) else None,
        "task": task,
        "probabilities": draw(st.booleans()),
    }


def labels(draw: st.DrawFn, stable: Tensor, task: str) -> Tensor | None:
    """Right answers, some of them not known; None for a task that has none."""
    n, wide = stable.shape
    if task == "classification":
        return torch.tensor(draw(st.lists(st.integers(-1, wide - 1), min_size=n, max_size=n)))
    numbers = st.one_of(st.floats(-1e4, 1e4, width=32), st.just(float("nan")))
    values = torch.tensor(draw(st.lists(numbers, min_size=n, max_size=n)))
    return values[:, None].expand(n, wide) if task == "regression" else None


def part(batch: dict[str, Any], rows: slice) -> Comparison:
    cut = {name: value[rows] if isinstance(value, Tensor | list) else value for name, value in batch.items()}
    return compare(cut.pop("stable"), cut.pop("again"), cut.pop("canary"), cut.pop("ids"), **cut)


@given(batches(), st.data())
def test_any_split_in_any_order_is_the_whole(batch: dict[str, Any], data: st.DataObject) -> None:
    n = len(batch["ids"])
    cuts = sorted(data.draw(st.sets(st.integers(0, n), max_size=5)) | {0, n})
    parts = [part(batch, slice(*ends)) for ends in itertools.pairwise(cuts)]
    whole = part(batch, slice(0, n))
    assert text(merged(batch["task"], data.draw(st.permutations(parts)))) == text(whole)
    assert Comparison.from_json(json.loads(text(whole))) == whole


@given(batches(), batches(), batches())
def test_merging_is_associative_and_commutative_with_a_zero(
    one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]
) -> None:
    parts = [
        part(each | {"task": "regression", "labels": None}, slice(0, None)) for each in (one, two, three)
    ]
    a, b, c = [*parts[:2], failed(["x"], twice=True, slices=["a"], task="regression")]
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert text(merge(a, b)) == text(merge(b, a))
    assert text(merge(merge(a, parts[2]), b)) == text(merge(parts[2], merge(b, a)))
    assert merge(a, Comparison(task="regression")) == a


@given(batches())
def test_every_batch_has_a_finding_that_is_json(batch: dict[str, Any]) -> None:
    whole = part(batch, slice(0, None))
    finding = decide(whole, Margins(task=batch["task"]))
    json.dumps(finding.to_json(), allow_nan=False)
    assert (finding.verdict is Verdict.NO_DATA) == (whole.requests == 0)
    for one in finding.differences:
        rounding = 1e-9 * abs(one.mean) + 1e-12
        assert one.interval[0] - rounding <= one.mean <= one.interval[1] + rounding


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(batches(), st.data(), json_values)
def test_json_that_was_tampered_with_is_read_or_refused(
    batch: dict[str, Any], data: st.DataObject, value: Any
) -> None:
    """Nothing but `ValueError`, whatever stands where."""
    said = json.loads(text(part(batch, slice(0, None))))
    inner: Any = said
    while isinstance(inner, dict | list) and inner:
        keys = sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()) or not isinstance(inner[key], dict | list):
            inner[key] = value
            break
        inner = inner[key]
    try:
        Comparison.from_json(said)
    except ValueError:
        return


def test_a_thousand_rows_one_by_one_are_the_thousand_at_once() -> None:
    chance = torch.Generator().manual_seed(3)
    stable = torch.randn(1000, 10, generator=chance)
    canary = stable + 0.1 * torch.randn(1000, 10, generator=chance)
    ids = [f"r{place}" for place in range(1000)]
    one_by_one = merged(
        "classification",
        (compare(stable[i : i + 1], None, canary[i : i + 1], ids[i : i + 1]) for i in reversed(range(1000))),
    )
    assert text(one_by_one) == text(compare(stable, None, canary, ids))


@pytest.mark.parametrize("classes", [2, 1000, 40_000])
def test_the_size_of_a_batch_changes_no_figure(classes: int) -> None:
    """Also where one row alone would be summed by several threads."""
    chance = torch.Generator().manual_seed(classes)
    stable = torch.randn(40, classes, generator=chance)
    canary = stable + 0.1 * torch.randn(40, classes, generator=chance)
    ids, right = [f"r{place}" for place in range(40)], torch.arange(40) % classes
    alone = [
        compare(
            *(each[i : i + 1] for each in (stable, stable, canary)), ids[i : i + 1], labels=right[i : i + 1]
        )
        for i in range(40)
    ]
    assert text(merged("classification", alone)) == text(compare(stable, stable, canary, ids, labels=right))
