import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from gpu_shadow.models import Refused
from gpu_shadow.recorder import Recorded
from gpu_shadow.redact import Policy, Redaction, Rule
from gpu_shadow.sketch import Baseline, captured, written
from gpu_shadow.watch import ENOUGH, EXPORTED, NAMED, WINDOW, Watch, opened, page, row_of

SEED = 20_261_127


def known(features: int = 3, *, names: list[str] | None = None, rows: int = 5_000) -> Baseline:
    x = np.random.default_rng(SEED).normal(size=(rows, features))
    return captured({name: x[:, i] for i, name in enumerate(names or [f"x[{i}]" for i in range(features)])})


def recorded(x: np.ndarray, *, after: int = 0, name: str = "x") -> list[Recorded]:
    return [
        Recorded(id=str(i), tensors={name: row[None]}, size=0, order=after + i + 1) for i, row in enumerate(x)
    ]


def inputs(rows: int, features: int = 3, *, shift: float = 0.0, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng([SEED, seed]).normal(size=(rows, features)).astype(np.float32)
    x[:, 0] += shift
    return x


def seen(*shifts: float) -> Watch:
    """A watch that has seen a window for each shift of the first feature."""
    watch = Watch(known())
    for at, shift in enumerate(shifts):
        watch.take(recorded(inputs(WINDOW, shift=shift, seed=at), after=at * WINDOW))
    return watch


def test_two_windows_are_enough_to_say_something() -> None:
    assert [seen(*[0.0] * windows).enough for windows in range(ENOUGH + 1)] == [False, False, True]
    assert seen(0.0, 0.0).said() == {"features": 3, "requests": 1_000, "unfit": 0, "count": 0, "drifted": []}


def test_what_has_drifted_is_said_after_two_windows_and_no_more_after_two_others() -> None:
    counts = [seen(*([1.0, 1.0, 0.0, 0.0][:windows])).said()["count"] for windows in range(5)]
    assert counts == [0, 0, 1, 1, 0]
    (one,) = seen(1.0, 1.0).said()["drifted"]
    assert (one["name"], one["by"]) == ("x[0]", "psi")
    assert one["value"] > 0.5


def test_what_came_twice_is_counted_once() -> None:
    watch = Watch(known())
    some = recorded(inputs(WINDOW - 1))
    watch.take(some)
    watch.take(some)
    assert watch.requests == 0
    watch.take(recorded(inputs(1), after=WINDOW))
    assert watch.requests == WINDOW


def test_requests_with_other_features_are_counted_and_end_the_wait() -> None:
    watch = Watch(known())
    watch.take(recorded(inputs(ENOUGH * WINDOW, features=5), name="y"))
    assert (watch.unfit, watch.requests, watch.enough) == (1_000, 0, True)
    assert watch.said()["count"] == 0


def test_a_feature_that_requests_no_longer_have_has_drifted_by_missing() -> None:
    names = ["age", "income"]
    watch = Watch(known(2, names=names))
    x = np.random.default_rng(3).normal(size=(2 * WINDOW, 1, 1))
    watch.take(recorded(x, name="age"))
    assert watch.said()["drifted"] == [{"name": "income", "by": "missing", "value": 1.0}]


@pytest.mark.parametrize(
    ("tensors", "row"),
    [
        ({"x": [[1, 2]]}, [1, 2]),
        ({"x": [[1, 2], [3, 4]]}, [1, 2]),
        ({"other": [[1, 2]]}, [1, 2]),
        ({"other": [[1, 2, 3]]}, None),
        ({"x": [[1, 2, 3]]}, [1, 2]),
        ({"x": [[[5], [6]]]}, [5, 6]),
        ({"a": [[1]], "b": [[2]]}, None),
        ({"x[1]": [[9]], "b": [[2]]}, [np.nan, 9]),
        ({"x": [1, 2]}, None),
    ],
)
def test_features_are_found_by_name_or_by_their_place(tensors: dict, row: list | None) -> None:
    found = row_of({name: np.array(each) for name, each in tensors.items()}, known(2))
    assert (found is None) == (row is None)
    if row is not None:
        np.testing.assert_array_equal(found, row)


def test_an_answer_names_the_first_twenty() -> None:
    watch = Watch(known(50))
    watch.take(recorded(inputs(2 * WINDOW, features=50) + 2))
    assert watch.said()["count"] == 50
    assert len(watch.said()["drifted"]) == NAMED


def test_the_page_has_both_gauges_with_their_labels() -> None:
    text = page({"fraud": seen(1.0)})
    assert text.count("# TYPE model_data_drift_score gauge\n") == 1
    assert text.count("# TYPE model_feature_missing_rate gauge\n") == 1
    for method in ("psi", "ks", "js", "w1"):
        labels = f'model_name="fraud",feature_name="x\\[0\\]",method="{method}"'
        assert re.search(rf"^model_data_drift_score{{{labels}}} [0-9.]+$", text, re.MULTILINE)
    assert 'model_feature_missing_rate{model_name="fraud",feature_name="x[2]"} 0\n' in text


def test_the_page_is_capped_at_the_features_that_moved_most() -> None:
    watch = Watch(known(EXPORTED + 20, rows=600))
    x = inputs(WINDOW, features=EXPORTED + 20)
    x[:, -1] += 3
    watch.take(recorded(x))
    text = page({"m": watch})
    assert text.count("model_feature_missing_rate{") == EXPORTED
    assert f'feature_name="x[{EXPORTED + 19}]"' in text


def test_of_two_models_the_page_has_each_family_once() -> None:
    text = page({"a": seen(0.0), "b": seen(0.0)})
    assert text.count("# TYPE") == 2
    assert page({"a": seen()}) == ""


def test_a_name_with_quotes_stays_one_label() -> None:
    watch = Watch(known(1, names=['a"b\\c']))
    watch.take(recorded(inputs(WINDOW, features=1)))
    assert 'feature_name="a\\"b\\\\c"' in page({"m": watch})


def kept(folder: Path, body: bytes) -> str:
    path = folder / "b.json"
    path.write_bytes(body)
    return f"file://{path}@sha256:{sha256(body).hexdigest()}"


def test_a_baseline_is_opened_by_its_digest(tmp_path: Path) -> None:
    body = written(known())
    assert opened(kept(tmp_path, body), tmp_path).baseline.features == known().features


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("file:///nowhere/b.json@sha256:" + "0" * 64, "is not below"),
        ("b.json", "expected file:///PATH"),
        ("MISSING", "cannot be read"),
        ("OTHER", "its sha256 is"),
        ("NONE", "is no baseline"),
    ],
)
def test_one_that_cannot_be_opened_says_why(tmp_path: Path, reference: str, said: str) -> None:
    good = kept(tmp_path, b"no baseline")
    wrong = {
        "MISSING": good.replace("b.json", "c.json"),
        "OTHER": good.partition("@")[0] + "@sha256:" + "0" * 64,
        "NONE": good,
    }
    with pytest.raises(Refused, match=said):
        opened(wrong.get(reference, reference), tmp_path)


def test_without_drift_a_hundred_windows_of_fifty_features_say_nothing() -> None:
    watch = Watch(known(50, rows=20_000))
    rng = np.random.default_rng(SEED)
    for at in range(100):
        watch.take(recorded(rng.normal(size=(WINDOW, 50)), after=at * WINDOW))
        assert watch.windows[-1] == (), f"seed {SEED}, window {at}"
    assert watch.requests == 100 * WINDOW


def test_text_is_no_feature() -> None:
    tensors = {"x": np.ones((1, 3), "f4"), "t": np.array([[b"Ada"]], dtype=object)}
    found = row_of(tensors, known())
    assert found is not None
    assert found.tolist() == [1, 1, 1]


def test_what_was_redacted_has_not_drifted() -> None:
    zeroed = Redaction(Policy(rules=(Rule(tensor="x", do="zero", columns=(0,)),)), digest="")
    for redaction, count in ((None, 1), (zeroed, 0)):
        watch = Watch(known(), redaction=redaction)
        watch.take(recorded(inputs(3 * WINDOW, shift=1.0)))
        assert watch.said()["count"] == count
        assert ('feature_name="x[0]"' in page({"m": watch})) == bool(count)
        assert 'feature_name="x[1]"' in page({"m": watch})
