"""Redaction: what each rule does, what is refused, and that nothing of the original is held."""

import gc
import gzip
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from gpu_shadow.keeping import Keeper
from gpu_shadow.model import first_row
from gpu_shadow.protocol import LENGTH, TYPES, Unreadable
from gpu_shadow.recorder import Recorder
from gpu_shadow.redact import MOST_HASHED, BadPolicy, Policy, Redaction, read

KEY = bytes(range(32))


def redaction(*rules: dict[str, Any], key: bytes = KEY, **more: Any) -> Redaction:
    return Redaction(msgspec.convert({"rules": rules, **more}, Policy), digest="sha256:0", key=key)


def changed(rule: dict[str, Any], values: Any, *, kind: str = "<f4", order: int = 1, key: bytes = KEY) -> Any:
    tensor = np.array(values, dtype=kind)
    found, _ = redaction({"tensor": "x", **rule}, key=key).applied({"x": tensor}, order=order)
    assert found["x"].dtype == tensor.dtype
    assert found["x"].shape == tensor.shape
    return found["x"].tolist()


def test_columns_are_set_to_zero_and_others_stay() -> None:
    assert changed({"do": "zero", "columns": [1]}, [[1, 2, 3], [4, 5, 6]]) == [[1, 0, 3], [4, 0, 6]]
    assert changed({"do": "zero"}, [[1, 2, 3]]) == [[0, 0, 0]]


def test_columns_count_through_all_dimensions_of_a_row() -> None:
    assert changed({"do": "zero", "columns": [2]}, [[[1, 2], [3, 4]]]) == [[[1, 2], [0, 4]]]
    assert changed({"do": "zero", "columns": [0]}, [1, 2]) == [0, 0]


def test_a_tensor_is_left_out_and_so_are_those_that_no_rule_names() -> None:
    given_ = {name: np.ones((1, 2)) for name in "xyz"}
    found, done = redaction({"tensor": "x", "do": "drop"}, {"tensor": "y", "do": "zero"}).applied(
        given_, order=1
    )
    assert (list(found), done) == (["y", "z"], ["x left out", "y set to zero"])
    found, done = redaction({"tensor": "y", "do": "zero"}, others="drop").applied(given_, order=1)
    assert (list(found), done) == (["y"], ["y set to zero", "tensors that no rule names left out"])


@pytest.mark.parametrize("kind", sorted(TYPES.values()))
def test_a_code_is_the_same_for_the_same_value_and_the_same_capture_alone(kind: str) -> None:
    one, other = (
        changed({"do": "hash"}, [[1, 0, 1]], kind=kind),
        changed({"do": "hash"}, [[1, 0, 1]], kind=kind),
    )
    assert one == other
    assert one[0][0] == one[0][2]
    keys = (bytes([number]) * 32 for number in range(20))
    assert len({str(changed({"do": "hash"}, [[1, 0, 1]], kind=kind, key=key)) for key in keys}) > 1


def test_codes_of_numbers_keep_different_values_apart() -> None:
    codes = changed({"do": "hash"}, [list(range(MOST_HASHED))])[0]
    assert len(set(codes)) > MOST_HASHED - 3
    assert all(code == int(code) and 0 <= code < 2**24 for code in codes)
    assert changed({"do": "hash"}, [[0.0]]) == changed({"do": "hash"}, [[-0.0]])


def test_values_become_the_edge_below_them() -> None:
    rule = {"do": "bucket", "edges": [0, 18, 65]}
    assert changed(rule, [[-5, 0, 17.9, 18, 99]]) == [[0, 0, 0, 18, 65]]
    assert changed(rule, [[17, 70]], kind="u1") == [[0, 65]]
    assert np.isnan(changed(rule, [[np.nan]])[0][0])


def test_noise_is_of_the_size_that_was_asked_for_and_another_for_each_request() -> None:
    rule = {"do": "noise", "sd": 2.0}
    noise = np.array(changed(rule, [[0.0] * 4000]))
    assert abs(noise.mean()) < 0.15
    assert 1.9 < noise.std() < 2.1
    assert changed(rule, [[0.0] * 4000], order=2) != noise.tolist()
    assert changed(rule, [[0.0] * 4000], key=bytes(32)) != noise.tolist()


@pytest.mark.parametrize("kind", ["i1", "u1", "<i8", "<u8", "<f2"])
def test_noise_leaves_whole_numbers_whole_and_within_their_type(kind: str) -> None:
    most = np.iinfo(kind).max if kind != "<f2" else 60_000
    found = changed({"do": "noise", "sd": 3.0}, [[0, most]] * 20, kind=kind)
    assert all(0 - 20 <= low <= 20 and high >= most * 0.9 for low, high in found) or kind == "<f2"


def test_a_text_is_hashed_emptied_or_left_out_and_nothing_else() -> None:
    texts = [[b"Ada", b"Bob", b"Ada"]]
    code, other, again = changed({"do": "hash"}, texts, kind="O")[0]
    assert code == again != other
    assert len(code) == 16
    assert changed({"do": "zero", "columns": [0]}, texts, kind="O") == [[b"", b"Bob", b"Ada"]]
    with pytest.raises(Unreadable, match="no noise of that"):
        changed({"do": "noise", "sd": 1.0}, texts, kind="O")


@pytest.mark.parametrize(
    ("rule", "values", "kind", "match"),
    [
        ({"do": "zero", "columns": [3]}, [[1, 2, 3]], "<f4", "has 3 columns and not 4"),
        ({"do": "bucket", "edges": [0.5]}, [[1]], "u1", "an edge is no uint8"),
        ({"do": "bucket", "edges": [-1]}, [[1]], "u1", "an edge is no uint8"),
        ({"do": "bucket", "edges": [0]}, [[True]], "?", "no bucket of that"),
        ({"do": "hash"}, [[1] * (MOST_HASHED + 1)], "<f4", "at most"),
        ({"do": "drop"}, [[1]], "<f4", "no tensor may be stored"),
    ],
)
def test_a_request_that_a_rule_does_not_fit_is_not_kept(
    rule: Any, values: Any, kind: str, match: str
) -> None:
    with pytest.raises(Unreadable, match=match) as trouble:
        changed(rule, values, kind=kind)
    assert trouble.value.reason == "redaction"


@given(
    st.sampled_from(sorted(TYPES.values())).flatmap(
        lambda kind: arrays(kind, array_shapes(min_dims=1, max_dims=3, max_side=4))
    ),
    st.sampled_from(["zero", "hash", "bucket", "noise"]),
)
def test_whatever_the_numbers_a_rule_gives_the_same_form_or_drops_the_request(values: Any, do: str) -> None:
    more = {"bucket": {"edges": [0, 7]}, "noise": {"sd": 0.5}}.get(do, {})
    before = values.copy()
    try:
        found, _ = redaction({"tensor": "x", "do": do, **more}).applied({"x": values}, order=1)
    except Unreadable:
        assert values.dtype == bool
        return
    assert (found["x"].dtype, found["x"].shape) == (values.dtype, values.shape)
    assert not np.shares_memory(found["x"], values)
    assert before.tobytes() == values.tobytes()


def test_slices_are_the_headers_that_the_policy_names_and_no_others() -> None:
    headers = {"x-tenant": "acme", "x-country": "se", "authorization": "Bearer 1"}
    assert redaction(slices=["X-Tenant", "x-country"]).slice_of(headers) == "x-tenant=acme, x-country=se"
    assert redaction(slices=["x-tenant"]).slice_of({}) == "x-tenant="
    assert redaction().slice_of(headers) == ""
    assert len(redaction(slices=["x-tenant"]).slice_of({"x-tenant": "a" * 10_000})) == 100


def test_which_features_a_policy_changes_is_known_by_their_names() -> None:
    policy = redaction({"tensor": "x", "do": "zero", "columns": [3]}, {"tensor": "age", "do": "drop"})
    assert [
        name for name in ("x[3]", "x[2]", "x", "age", "age[7]", "a[3]", "x[]") if policy.changes(name)
    ] == [
        "x[3]",
        "age",
        "age[7]",
    ]
    only = redaction({"tensor": "x", "do": "zero", "columns": [0]}, others="drop")
    assert [name for name in ("x", "x[0]", "x[1]", "y") if only.changes(name)] == ["x", "x[0]", "y"]


# -- the file --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "rules:\n- {tensor: x, columns: [3, 7], do: hash}\nslices: [x-tenant]\nallowText: true\n",
        '{"rules": [{"tensor": "x", "columns": [3, 7], "do":"hash"}],"slices":["x-tenant"],"allowText":true}',
    ],
)
def test_a_policy_is_yaml_or_json_and_known_by_its_digest(tmp_path: Path, text: str) -> None:
    file = tmp_path / "redact.yaml"
    file.write_text(text)
    found = read(file)
    assert str(found.policy.rules[0]) == "x[3, 7] hashed"
    assert (found.policy.allow_text, found.policy.slices) == (True, ("x-tenant",))
    assert found.digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "expected such as"),
        ("rules: [", "line 1"),
        ("rules: []\nrules: []\n", "line 2: is not YAML: rules stands twice"),
        ("{rule: []}", "unknown field `rule`"),
        ("{rules: [{tensor: x, do: erase}]}", r"erase.*rules\[0\].do"),
        ("{rules: [{tensor: x, do: drop, columns: [1]}]}", r"rules\[0\].columns: drop takes a whole tensor"),
        ("{rules: [{tensor: x, do: zero, columns: []}]}", r"columns: expected places"),
        ("{rules: [{tensor: x, do: zero, columns: [-1]}]}", r"columns: expected places"),
        ("{rules: [{tensor: x, do: bucket}]}", r"edges: expected increasing"),
        ("{rules: [{tensor: x, do: bucket, edges: [2, 1]}]}", r"edges: expected increasing"),
        ("{rules: [{tensor: x, do: bucket, edges: [.inf]}]}", r"edges: expected increasing"),
        ("{rules: [{tensor: x, do: noise}]}", r"sd: expected a number above 0"),
        ("{rules: [{tensor: x, do: noise, sd: .nan}]}", r"sd: expected a number above 0"),
        ("{rules: [{tensor: x, do: zero, sd: 1}]}", r"sd: expected a number above 0 with noise"),
        ("{slices: [Authorization]}", "may hold a secret"),
        ("{slices: [cookie]}", "may hold a secret"),
        ("{slices: [x-auth-token]}", "may hold a secret"),
        ("!!python/object/apply:os.system [id]", "is not YAML"),
        ("{slices: [" + "a, " * 30_000 + "]}", "is larger than"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused_by_name_and_field(
    tmp_path: Path, text: str, match: str
) -> None:
    file = tmp_path / "redact.yaml"
    file.write_text(text)
    with pytest.raises(BadPolicy, match=match) as trouble:
        read(file)
    assert str(trouble.value).startswith(str(file))


def test_the_policy_that_the_page_shows_can_be_used(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "shadow.md").read_text()
    (shown,) = re.findall(r"```yaml\n(rules:.*?)```", page, re.DOTALL)
    (tmp_path / "policy.yaml").write_text(shown)
    done = {rule.do for rule in read(tmp_path / "policy.yaml").policy.rules}
    assert done == {"drop", "hash", "bucket", "noise", "zero"}


def test_a_policy_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPolicy, match="cannot be read"):
        read(tmp_path / "none.yaml")


# -- in the recorder -------------------------------------------------------------------------------

SECRET = 1234.5678
RULES = ({"tensor": "x", "do": "hash", "columns": [1]}, {"tensor": "name", "do": "drop"})


def bodies(secret: float) -> Iterator[tuple[dict[str, str], bytes]]:
    """One request with binary tensors, and one as JSON, both with and without an id."""
    tensors = {"x": [1.0, secret, 3.0], "name": [secret]}
    binary, plain, raw = [], [], b""
    for name, values in tensors.items():
        about = {"name": name, "shape": [1, len(values)], "datatype": "FP32"}
        plain.append({**about, "data": values})
        binary.append({**about, "parameters": {"binary_data_size": 4 * len(values)}})
        raw += struct.pack(f"<{len(values)}f", *values)
    head = json.dumps({"inputs": binary}).encode()
    for more in ({}, {"x-request-id": "r1"}):
        yield {**more, LENGTH.lower(): str(len(head)), LENGTH: str(len(head))}, head + raw
        yield more, json.dumps({"inputs": plain}).encode()


def held_bytes(root: object) -> Iterator[bytes]:
    """All bytes that can be reached from here, memory behind arrays included."""
    seen, waiting = set(), [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            yield one.tobytes()
            waiting.append(one.base)
        elif isinstance(one, bytes | bytearray | memoryview):
            yield bytes(one)
        elif isinstance(one, str | float | int):
            yield str(one).encode()
        elif not isinstance(one, type(json)):
            waiting += gc.get_referents(one)


def leaks(found: Iterator[bytes], secret: float = SECRET) -> bool:
    traces = {struct.pack("<f", secret), struct.pack("<d", secret), str(secret).encode()}
    return any(trace in one for one in found for trace in traces)


def recorded(**how: Any) -> Recorder:
    recorder = Recorder(**how)
    recorder.open("lab/run", ["model.lab"])
    for headers, body in bodies(SECRET):
        recorder.admit("model.lab-shadow", "/v2/models/m/infer", headers, body)
    while recorder.sift():
        pass
    return recorder


def test_nothing_of_the_original_is_in_the_recorders_memory_nor_in_any_file(tmp_path: Path) -> None:
    assert leaks(held_bytes(recorded()))  # without a policy it is there: the search finds it
    recorder = recorded(redaction=redaction(*RULES))
    assert recorder.kept >= 3
    assert not leaks(held_bytes(recorder))
    keeper = Keeper(tmp_path)
    keeper.keep("lab/run", recorder.take("lab/run"), model="m")
    keeper.write(all_of_it=True)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 4
    assert not leaks(file.read_bytes() for file in files)
    assert not leaks(gzip.decompress(file.read_bytes()) for file in files if file.suffix == ".gz")


def test_an_id_that_nobody_gave_says_nothing_of_the_body() -> None:
    found = recorded(redaction=redaction(*RULES)).take("lab/run")
    assert [one.id for one in found][:2] == ["#1", "#2"]


def test_a_request_that_may_not_be_kept_is_counted_and_what_was_done_is_known() -> None:
    recorder = Recorder(redaction=redaction(*RULES, {"tensor": "x", "do": "zero", "columns": [9]}))
    stream = recorder.open("lab/run", ["model.lab"])
    for headers, body in bodies(SECRET):
        recorder.admit("model.lab-shadow", "/", headers, body)
    recorder.sift()
    assert recorder.dropped["redaction"] == recorder.seen - recorder.dropped["duplicate"]
    assert recorder.held == 0
    assert stream.redacted == set()
    sound = recorded(redaction=redaction(*RULES))
    assert sound.open("lab/run", ["model.lab"]).redacted == {"x[1] hashed", "name left out"}


def test_a_header_that_the_policy_names_is_kept_as_the_slice_and_no_other() -> None:
    recorder = Recorder(redaction=redaction(slices=["x-tenant"]))
    recorder.open("lab/run", ["model.lab"])
    headers = {"x-tenant": "acme", "authorization": "Bearer 1"}
    for more, body in bodies(SECRET):
        recorder.admit("model.lab-shadow", "/", headers | more, body)
    recorder.sift()
    assert {one.slice for one in recorder.take("lab/run")} == {"x-tenant=acme"}


def test_text_is_recorded_only_if_the_policy_allows_it() -> None:
    text = {"name": "t", "shape": [1, 2], "datatype": "BYTES", "data": ["Ada", "Bob"]}
    row = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}
    body = json.dumps({"inputs": [text, row]}).encode()
    for policy, reason in ((None, "datatype"), (redaction(), "datatype"), (redaction(allowText=True), None)):
        recorder = Recorder(redaction=policy)
        recorder.open("lab/run", ["model.lab"])
        recorder.admit("model.lab-shadow", "/", {}, body)
        recorder.sift()
        assert recorder.dropped == ({} if reason is None else {reason: 1})
    (one,) = recorder.take("lab/run")
    assert one.tensors["t"].tolist() == [[b"Ada", b"Bob"]]
    assert first_row(one.tensors, 1) == {"row": np.array([1.0], "f4")}  # text is no row of numbers
