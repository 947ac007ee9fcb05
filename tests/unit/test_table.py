import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from gpu_shadow import table
from gpu_shadow.table import BadTable, columns_of, read


def put(folder: Path, name: str, body: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return path


def npy(shape: str, kind: str = "<f8", body: bytes = b"") -> bytes:
    """An .npy whose header says this."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (64 - (len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def npz(path: Path, **parts: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, body in parts.items():
            file.writestr(f"{name}.npy", body)
    return path


def test_a_csv_has_numbers_where_all_are_and_else_text(tmp_path: Path) -> None:
    found = read(put(tmp_path, "a.csv", "age,city\r\n3,oslo\r\n,NA\r\n4.5,7\r\n"))
    assert found["age"].tolist()[::2] == [3.0, 4.5]
    assert np.isnan(found["age"][1])
    assert found["city"].tolist() == ["oslo", None, "7"]


def test_a_code_keeps_all_of_its_figures_beside_a_text(tmp_path: Path) -> None:
    """One "unknown" among postcodes made them "1.23457e+06", which no training knew: 100 % outside."""
    texts = read(put(tmp_path, "a.csv", "zip\n1234567\n1234568\nunknown\n0.1234567\n"))
    lines = [{"zip": each} for each in (1234567, 1234568, "unknown", 0.1234567)]
    mixed = read(put(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines))))
    assert mixed["zip"].tolist() == texts["zip"].tolist()


def test_json_lines_may_begin_with_a_mark_of_the_order_of_bytes_as_a_csv_may(tmp_path: Path) -> None:
    assert read(put(tmp_path, "a.jsonl", b"\xef\xbb\xbf" + b'{"age": 4}\r\n'))["age"].tolist() == [4.0]


def test_json_lines_may_lack_keys(tmp_path: Path) -> None:
    found = read(put(tmp_path, "a.jsonl", '{"x": 1, "c": "a"}\n\n{"x": null}\n{"c": 5, "y": true}\n'))
    assert [len(each) for each in found.values()] == [3, 3, 3]
    assert np.isnan(found["x"][1:]).all()
    assert found["c"].tolist() == ["a", None, "5"]
    assert found["y"].tolist()[2] == 1.0


def test_tensors_of_several_columns_are_several_features(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    save_file({"x": x, "age": np.arange(4)}, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", x=x, age=np.arange(4))
    np.savez_compressed(tmp_path / "b.npz", x=np.asfortranarray(x), age=np.arange(4))
    for name in ("a.safetensors", "a.npz", "b.npz"):
        found = read(tmp_path / name)
        assert sorted(found) == ["age", "x[0]", "x[1]", "x[2]"]
        assert found["x[1]"].tolist() == [1, 4, 7, 10]


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("a.csv", "", "holds no row"),
        ("a.csv", "x,y\n", "holds no row"),
        ("a.csv", "x,x\n1,2\n", "stands twice"),
        ("a.csv", "x,y\n1,2\n3\n", "row 2: 1 value for 2 columns"),
        ("a.csv", "age;income\n41;52000\n", "its first line has semicolons and no comma; part its"),
        ("a.csv", "age;income\n41,5;52000\n", "its first line has semicolons and no comma"),
        ("a.csv", "age\tincome\n41\t52000\n", "its first line has tabs and no comma"),
        ("a.csv", "age|income\n41|52000\n", "its first line has bars and no comma"),
        ("a.csv", 'x\n"1\n', "cannot be read as csv"),
        ("a.csv", b"x\n\xff\xfe\n", "cannot be read as csv"),
        ("a.csv", "x\n" + "1" * 200_000, "cannot be read as csv"),
        ("a.jsonl", "[1]\n", "line 1: is no flat object"),
        ("a.jsonl", '{"x": 1}\n{"x": [1]}\n', "line 2: is no flat object"),
        ("a.jsonl", '{"x": {"y": 1}}\n', "line 1: is no flat object"),
        ("a.jsonl", "[" * 100_000, "line 1: is no flat object"),
        ("a.jsonl", b"\xff\n", "cannot be read as jsonl"),
        ("a.npz", b"", "cannot be read as npz"),
        ("a.npz", b"PK\x03\x04" + b"\0" * 50, "cannot be read as npz"),
        ("a.safetensors", b"", "is no safetensors file"),
        ("a.safetensors", (2**60).to_bytes(8, "little") + b"{}", "is no safetensors file"),
        ("a.parquet", b"PAR1", "ends in none of"),
        ("a.csv", pickle.dumps([1], protocol=4), "a pickle may run any code"),
        ("a.npz", pickle.dumps([1], protocol=2), "a pickle may run any code"),
        ("a.pkl", b"whatever", "a pickle may run any code"),
        ("a.pt", b"PK\x03\x04", "a pickle may run any code"),
    ],
)
def test_a_file_that_is_none_says_which_and_why(
    tmp_path: Path, name: str, body: bytes | str, said: str
) -> None:
    with pytest.raises(BadTable, match=said) as caught:
        read(put(tmp_path, name, body))
    assert name in str(caught.value)


class Boom:
    ran = False

    def __reduce__(self) -> tuple:
        return setattr, (Boom, "ran", True)


def test_a_pickle_inside_an_npz_is_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([Boom()], dtype=object))
    with pytest.raises(BadTable, match="Python objects"):
        read(tmp_path / "a.npz")
    assert not Boom.ran


def test_an_array_that_is_larger_than_its_bytes_is_not_allocated(tmp_path: Path) -> None:
    bodies = [
        npy("(1000000000000000,)"),
        npy("(2, 4611686018427387904)", body=b"\0" * 16),
        npy("(-1,)", body=b"\0" * 8),
        npy("(1,)", "V16", b"\0" * 8),
    ]
    for body in bodies:
        with pytest.raises(BadTable):
            read(npz(tmp_path / "a.npz", x=body))


def test_what_unpacks_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MOST_VALUES", 1_000)
    bomb = npz(tmp_path / "a.npz", x=npy("(100000,)", body=b"\0" * 800_000))
    assert bomb.stat().st_size < 5_000
    with pytest.raises(BadTable, match="larger than 8000 bytes"):
        read(bomb)


def test_too_many_values_are_refused_before_they_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MOST_VALUES", 10)
    save_file({"x": np.zeros((4, 3))}, tmp_path / "a.safetensors")
    put(tmp_path, "a.csv", "x,y\n" + "1,2\n" * 6)
    put(tmp_path, "a.jsonl", '{"x": 1, "y": 2}\n' * 6)
    for name in ("a.safetensors", "a.csv", "a.jsonl"):
        with pytest.raises(BadTable, match="give a sample"):
            read(tmp_path / name)


def test_a_file_that_is_too_large_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "LARGEST", 3)
    with pytest.raises(BadTable, match="larger than 3 bytes"):
        read(put(tmp_path, "a.csv", "x\n1\n"))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"x": np.zeros(3), "y": np.zeros(4)}, "one row a request"),
        ({"x": np.array(1.0)}, "one row a request"),
        ({"x": np.zeros(3, dtype="M8[s]")}, "numbers are expected"),
        ({"x": np.zeros((2, 5_000))}, "5000 features"),
    ],
)
def test_tensors_that_are_no_rows_are_refused(tensors: dict, said: str) -> None:
    with pytest.raises(BadTable, match=said):
        columns_of(tensors)


@given(body=st.binary(max_size=300), suffix=st.sampled_from(sorted(table.READERS)))
def test_no_file_does_more_than_be_refused(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, suffix: str
) -> None:
    path = put(tmp_path_factory.getbasetemp(), f"fuzz{suffix}", body)
    try:
        found = read(path)
    except BadTable:
        return
    assert len({len(each) for each in found.values()}) == 1
