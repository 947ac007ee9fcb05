"""ONNX models: what is refused before anything runs it, and what runs gives the right numbers."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from gpu_shadow import onnx_model
from gpu_shadow.batches import Cut, TooLarge, answers
from gpu_shadow.model import Model, Refused
from gpu_shadow.models import load
from gpu_shadow.onnx_file import vetted

RNG = np.random.default_rng(3)
W = RNG.normal(size=(4, 3)).astype(np.float32)
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])


def proto(*nodes: Any, inputs: Any = (X,), outputs: Any = (Y,), initial: Any = None, **more: Any) -> Any:
    """A model; by default y = x @ w."""
    nodes = nodes or (helper.make_node("MatMul", ["x", "w"], ["y"]),)
    tensors = [numpy_helper.from_array(W, "w")] if initial is None else initial
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), tensors)
    opsets = more.pop("opset_imports", [helper.make_opsetid("", 17)])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def about(model: Any, **said: str) -> Any:
    helper.set_model_props(model, said)
    return model


def stored(folder: Path, body: bytes) -> str:
    path = folder / "model.onnx"
    path.write_bytes(body)
    return f"file://{path}@sha256:{sha256(body).hexdigest()}"


def opened(folder: Path, model: Any) -> Model:
    return load(stored(folder, model.SerializeToString()), folder)


def rows(model: Model, *requests: dict[str, np.ndarray]) -> list[Any]:
    found = [model.fit(one) for one in requests]
    assert not any(isinstance(one, str) for one in found), found
    return found


def test_a_model_answers_as_its_arithmetic_says(tmp_path: Path) -> None:
    model = opened(tmp_path, proto())
    x = RNG.normal(size=(20, 4)).astype(np.float32)
    found = answers(model, rows(model, *({"x": one[None]} for one in x)), Cut(7))
    assert np.allclose(found.values.numpy(), x @ W, atol=1e-6)
    assert (model.takes, model.task) == ("x [4]", "classification")


def test_a_model_for_one_row_at_a_time_is_asked_row_by_row(tmp_path: Path) -> None:
    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    model = opened(tmp_path, proto(inputs=[one], outputs=[out]))
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    found = answers(model, rows(model, *({"x": each[None]} for each in x)), Cut(8))
    assert np.allclose(found.values.numpy(), x @ W, atol=1e-6)
    two = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    with pytest.raises(Refused, match="takes 2 rows at once and no other number"):
        opened(tmp_path, proto(inputs=[two]))


def sentence_model() -> Any:
    """The mean of the vectors of the tokens that the mask shows."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "length"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["n", "length"])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["shown"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["shown", "last"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["column", "axis"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["y"]),
    ]
    table = RNG.normal(size=(50, 3)).astype(np.float32)
    initial = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([2]), "last"),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    return about(proto(*nodes, inputs=[ids, mask], initial=initial), task="embedding"), table


def test_sentences_of_every_length_are_padded_where_there_is_a_mask(tmp_path: Path) -> None:
    made, table = sentence_model()
    model = opened(tmp_path, made)
    ids = [RNG.integers(1, 50, size=(1, n)) for n in (1, 2, 3, 5, 7, 4)]
    asked = [{"input_ids": one, "attention_mask": np.ones_like(one)} for one in ids]
    found = answers(model, rows(model, *asked), Cut(8)).values.numpy()
    assert np.allclose(found, [table[one[0]].mean(0) for one in ids], atol=1e-6)
    assert (model.task, model.padded) == ("embedding", {"input_ids", "attention_mask"})


def test_what_the_process_cannot_read_is_no_answer_that_the_model_failed(tmp_path: Path) -> None:
    names = [f"x{at}" for at in range(65)]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in names]
    model = opened(tmp_path, proto(helper.make_node("Sum", names, ["y"]), inputs=inputs, initial=[]))
    with pytest.raises(Refused, match="65 inputs"):
        answers(model, rows(model, {name: np.zeros((1, 3), np.float32) for name in names}), Cut(64))


def test_a_row_at_which_it_gives_up_has_no_answer_and_the_others_have_theirs(tmp_path: Path) -> None:
    made, table = sentence_model()
    model = opened(tmp_path, made)
    whole = np.ones((1, 2), np.int64)
    asked = [{"input_ids": whole * (99 if at == 5 else at), "attention_mask": whole} for at in range(9)]
    found = answers(model, rows(model, *asked), Cut(64))
    assert found.failed == {5: "onnxruntime gave up (InvalidArgument)"}
    assert not np.isfinite(found.values.numpy()[5]).any()
    right = [at for at in range(9) if at != 5]
    assert np.allclose(found.values.numpy()[right], table[right], atol=1e-5)
    alone = answers(model, rows(model, asked[5]), Cut(64))
    assert (set(alone.failed), alone.values.shape) == ({0}, (1, 0))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "without x"),
        ({"x": np.ones((1, 5))}, "with x of another shape"),
        ({"x": np.ones(4)}, "with x of another shape"),
    ],
)
def test_a_request_that_is_none_of_its_own_says_why(tmp_path: Path, tensors: Any, says: str) -> None:
    assert opened(tmp_path, proto()).fit(tensors) == says


def test_whole_numbers_are_never_bent(tmp_path: Path) -> None:
    model = opened(tmp_path, sentence_model()[0])
    ones = np.ones((1, 2), np.int64)
    assert (
        model.fit({"input_ids": ones.astype(float), "attention_mask": ones})
        == "with input_ids of another type"
    )
    assert model.fit({"input_ids": np.full((1, 2), 2**63, np.uint64), "attention_mask": ones}) == (
        "with input_ids beyond its type"
    )
    assert not isinstance(model.fit({"input_ids": ones.astype(np.int8), "attention_mask": ones}), str)


def external() -> Any:
    model = proto()
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return model


def sparse() -> Any:
    model = proto()
    one = model.graph.sparse_initializer.add()
    one.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    return model


def function() -> Any:
    model = proto()
    model.functions.add(name="f", domain="mine")
    return model


def looping() -> Any:
    body = helper.make_graph([], "b", [], [])
    return proto(helper.make_node("Loop", ["x"], ["y"], body=body))


def nested(depth: int) -> Any:
    inner = helper.make_graph([helper.make_node("Trick", [], ["y"], domain="evil")], "b", [], [Y])
    for _ in range(depth):
        inner = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner)], "b", [], [Y])
    return proto(*inner.node)


def constant(tensor: Any) -> Any:
    return proto(helper.make_node("Constant", [], ["y"], value=tensor))


def emptied(model: Any) -> Any:
    model.graph.initializer[0].raw_data = b""
    return model


def of_type(kind: int) -> Any:
    return proto(inputs=[helper.make_tensor_value_info("x", kind, ["n", 4])])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (external(), "data in other files; save it as one file"),
        (constant(external().graph.initializer[0]), "data in other files"),
        (sparse(), "sparse tensors; make them dense"),
        (function(), "functions of its own"),
        (looping(), "a node Loop, which may run without end"),
        (nested(2), 'node Trick is of the domain "evil"'),
        (nested(20), "messages more than 24 deep"),
        (proto(opset_imports=[helper.make_opsetid("com.microsoft", 1)]), 'of the domain "com.microsoft"'),
        (emptied(proto()), "tensor w: shape [4, 3] is more than its 0 bytes hold"),
        (of_type(TensorProto.STRING), "ONNX's type 8"),
        (proto(inputs=[helper.make_tensor_value_info("x", 1, ["n", 2**40])]), "is larger than"),
        (proto(inputs=[helper.make_tensor_value_info("x", 1, [])]), "no dimension for requests"),
        (proto(inputs=[]), "no dimension for requests"),
        (proto(outputs=[Y, helper.make_tensor_value_info("z", 1, ["n"])]), "outputs are y, z; name the one"),
        (about(proto(), output="z"), "outputs are y; name the one"),
        (about(proto(), task="poetry"), 'metadata task: "poetry" is none of'),
        (proto(outputs=[helper.make_tensor_value_info("y", 1, ["n", "m"])]), "is another for each request"),
        (proto(helper.make_node("NoSuchThing", ["x"], ["y"])), "onnxruntime: "),
        (proto(helper.make_node("MatMul", ["x", "missing"], ["y"])), "onnxruntime: "),
    ],
)
def test_a_file_that_might_do_more_than_compute_is_refused(tmp_path: Path, model: Any, says: str) -> None:
    with pytest.raises(Refused) as trouble:
        opened(tmp_path, model)
    assert says in str(trouble.value)
    assert str(tmp_path) in str(trouble.value)


def test_a_classifier_with_its_zipmap_is_told_how_to_do_without() -> None:
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, ["n"]))
    with pytest.raises(Refused, match="turn ZipMap off"):
        vetted(proto(outputs=[helper.make_value_info("y", sequence)]).SerializeToString())


def test_two_models_in_one_file_are_none() -> None:
    body = proto().SerializeToString()
    with pytest.raises(Refused, match="stands twice"):
        vetted(body + body)


BODY = sentence_model()[0].SerializeToString()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_model_or_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        vetted(body)


@given(st.integers(0, len(BODY)), st.binary(max_size=6), st.integers(0, 8))
def test_a_model_with_any_bytes_changed_is_a_model_or_refused(at: int, put: bytes, instead: int) -> None:
    try:
        found = vetted(BODY[:at] + put + BODY[at + instead :])
    except Refused:
        return
    assert all(one.kind for one in found.inputs)


def test_our_reader_finds_what_onnx_itself_finds() -> None:
    theirs = onnx.load_from_string(BODY)
    ours = vetted(BODY)
    assert [one.name for one in ours.inputs] == [one.name for one in theirs.graph.input]
    assert [one.shape for one in ours.outputs] == [("n", 3)]
    assert ours.about == {"task": "embedding"}


def bomb(size: int) -> Any:
    """It takes 4 bytes a row and wants `size` numbers."""
    shape = numpy_helper.from_array(np.array([size, 3]), "shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceSum", ["big", "axis"], ["one"], keepdims=0),
        helper.make_node("Add", ["x", "one"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    return proto(*nodes, inputs=[x], initial=[shape, numpy_helper.from_array(np.array([0]), "axis")])


def test_a_model_that_wants_more_memory_than_it_may_have_is_an_error_and_no_crash(tmp_path: Path) -> None:
    small = opened(tmp_path, bomb(1_000))
    assert answers(small, rows(small, {"x": np.ones((1, 3))}), Cut(8)).values.tolist() == [[1, 1, 1]]
    large = opened(tmp_path, bomb(2**32))
    with pytest.raises(TooLarge, match="one row does not fit"):
        answers(large, rows(large, *[{"x": np.ones((1, 3))}] * 2), Cut(8))


def test_if_onnxruntime_dies_its_process_dies_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        onnx_model.subprocess, "Popen", lambda *a, **k: made.append(popen(*a, **k)) or made[-1]
    )
    model = opened(tmp_path, proto())
    os.kill(made[0].pid, 6)
    made[0].wait()  # what is sent now finds a broken pipe, and again as that is closed
    for _ in range(2):
        with pytest.raises(Refused, match=r"ended with code -6|its process is gone"):
            answers(model, rows(model, {"x": np.ones((1, 4))}), Cut(8))
    assert made[0].returncode == -6


def test_a_model_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(tmp_path, bomb(2**26))
    monkeypatch.setattr(onnx_model, "ANSWERED_WITHIN", 0.0)
    with pytest.raises(Refused, match="took more than 0 s"):
        answers(model, rows(model, {"x": np.ones((1, 3))}), Cut(8))


def test_no_process_outlives_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        onnx_model.subprocess, "Popen", lambda *a, **k: made.append(popen(*a, **k)) or made[-1]
    )
    model = opened(tmp_path, proto())
    assert made[0].poll() is None
    del model
    assert made[0].poll() is not None


def test_behind_the_fence_no_file_opens_and_no_memory_beyond_the_bound_is_had() -> None:
    said = (
        "import socket\nfrom gpu_shadow.onnx_child import fence\nfence(64)\n"
        "for what in (lambda: open('/etc/passwd'), socket.socket, lambda: bytearray(2**30)):\n"
        "    try:\n        what()\n"
        "    except (OSError, MemoryError) as error:\n        print(type(error).__name__)\n"
    )
    found = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["OSError", "OSError", "MemoryError"]
