"""`serin baseline`: what it says, what it writes, how it ends."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gpu_shadow.cli import baseline

ROOT = Path(__file__).parents[2]


def ran(*arguments: object) -> Result:
    return CliRunner().invoke(baseline, [str(each) for each in arguments])


def rows(folder: Path, name: str, *, shift: float = 0.0, n: int = 2_000) -> Path:
    rng = np.random.default_rng(len(name))
    path = folder / name
    lines = [f"{rng.normal(shift):.5f},{rng.choice(['oslo', 'bern'])}" for _ in range(n)]
    path.write_text("\n".join(["size,city", *lines]) + "\n")
    return path


@pytest.fixture
def known(tmp_path: Path) -> Path:
    out = tmp_path / "b.json"
    assert ran("capture", rows(tmp_path, "training.csv"), "--out", out).exit_code == 0
    return out


def test_a_baseline_is_captured_with_the_digest_that_names_it(tmp_path: Path, known: Path) -> None:
    again = tmp_path / "again.json"
    said = ran("capture", tmp_path / "training.csv", "--out", again)
    assert again.read_bytes() == known.read_bytes()
    assert "2 features of 2000 rows" in said.output
    assert f"sha256:{sha256(known.read_bytes()).hexdigest()}" in said.output


def test_too_few_rows_are_captured_with_a_warning_that_says_how_many_do(tmp_path: Path) -> None:
    few = ran("capture", rows(tmp_path, "few.csv", n=999))
    assert few.exit_code == 0
    assert "999 rows are few" in few.stderr
    assert "capture 1000 or more" in few.stderr
    assert json.loads(few.stdout)  # the warning is not in what is written
    assert ran("capture", rows(tmp_path, "enough.csv", n=1000)).stderr == ""


def test_a_baseline_is_not_written_over_unasked(tmp_path: Path, known: Path) -> None:
    """Its digest stands in pod templates, and the training may be gone."""
    before, other = known.read_bytes(), rows(tmp_path, "other.csv", shift=2.0)
    refused = ran("capture", other, "--out", known)
    assert (refused.exit_code, known.read_bytes()) == (2, before)
    assert "is there already; name another file, or say --force" in refused.stderr
    assert ran("capture", other, "--out", known, "--force").exit_code == 0
    assert known.read_bytes() != before


def test_a_column_that_is_no_feature_is_named_with_the_one_it_may_be(tmp_path: Path, known: Path) -> None:
    now = rows(tmp_path, "now.csv")
    now.write_text(now.read_text().replace("size,city", "szie,city"))
    said = ran("compare", known, now)
    assert said.exit_code == 3
    assert f"not in {known}, and not compared: szie (did you mean size?)" in said.stderr
    assert ran("compare", known, rows(tmp_path, "same.csv")).stderr == ""


def test_every_figure_that_is_shown_is_explained(tmp_path: Path, known: Path) -> None:
    shown = ran("compare", known, rows(tmp_path, "now.csv")).stdout.splitlines()[2].split()[1:]
    said, page = ran("compare", "--help").stdout, (ROOT / "docs" / "drift.md").read_text()
    assert {"PSI", "KS", "JS", "W1/sd", "was"} <= set(shown)
    assert [one for one in shown if f"  {one} " not in said and f'"{one}"' not in said] == []
    assert [one for one in ("KS", "JS", "W1/sd", '"was"') if one not in page] == []


def test_without_a_file_it_is_printed(tmp_path: Path, known: Path) -> None:
    assert ran("capture", tmp_path / "training.csv").output == known.read_text()


def test_a_feature_is_a_line(known: Path) -> None:
    lines = ran("show", known).output.splitlines()
    assert lines[0] == "2 features of 2000 rows"
    assert lines[2].split()[:3] == ["size", "numbers", "0.0%"]
    assert lines[3].split()[:3] == ["city", "2", "categories"]


def test_the_same_inputs_have_not_drifted(tmp_path: Path, known: Path) -> None:
    said = ran("compare", known, rows(tmp_path, "now.csv"))
    assert (said.exit_code, said.output.splitlines()[0]) == (
        0,
        "Not drifted: none of 2 features, in 2000 rows",
    )


def test_others_have_and_that_is_exit_3(tmp_path: Path, known: Path) -> None:
    said = ran("compare", known, rows(tmp_path, "now.csv", shift=1.0))
    assert said.exit_code == 3
    assert said.output.startswith("Drifted: 1 of 2 features, in 2000 rows\n  size (PSI ")


def test_no_chance_is_said_to_be_none_and_one_row_is_one(tmp_path: Path, known: Path) -> None:
    """Of what chance does once in 10^26 it said "p 0"."""
    told = ran("compare", known, rows(tmp_path, "others.csv", shift=0.8)).output.splitlines()
    (size,) = [line.split() for line in told if line.startswith("size ")]
    assert size[2] == "<0.001"
    one = tmp_path / "one.jsonl"
    one.write_text('{"age": 4}')
    assert ran("capture", one, "--out", tmp_path / "one.json").exit_code == 0
    assert ran("show", tmp_path / "one.json").output.startswith("1 feature of 1 row\n")


def test_few_rows_decide_nothing(tmp_path: Path, known: Path) -> None:
    said = ran("compare", known, rows(tmp_path, "now.csv", shift=5.0, n=999))
    assert (said.exit_code, said.output.splitlines()[0]) == (0, "Undecided: 999 rows, and it takes 1000")


def test_as_json_there_is_every_figure(tmp_path: Path, known: Path) -> None:
    out = tmp_path / "out.json"
    ran("compare", known, rows(tmp_path, "now.csv", shift=1.0), "--json", out)
    said = json.loads(out.read_text())
    assert (said["schema"], said["rows"], said["rowsInTraining"]) == ("serin.dev/drift/v1", 2000, 2000)
    assert [one["name"] for one in said["drifted"]] == ["size"]
    assert said["features"][1]["ks"] is None
    assert said["features"][0]["psi"] == pytest.approx(said["drifted"][0]["value"])


def test_on_standard_output_it_is_json_alone(tmp_path: Path, known: Path) -> None:
    said = ran("compare", known, rows(tmp_path, "now.csv"), "--json", "-")
    assert json.loads(said.stdout)["drifted"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("capture", "none.csv"), "none.csv: there is no such file"),
        (("capture", "training.csv", "--out", "no/such/folder"), "--out no/such/folder"),
        (("capture", "training.csv", "--category", "town"), "there is no feature town"),
        (("show", "none.json"), "none.json: cannot be read (No such file or directory)"),
        (("show", "training.csv"), "training.csv: is no baseline"),
        (("compare", "b.json", "b.json"), "ends in none of"),
        (("compare", "b.json", "other.csv"), "none of b.json's features, size, city"),
        (("compare", "b.json", "training.csv", "--json", "no/such/folder"), "--json no/such/folder"),
    ],
)
@pytest.mark.usefixtures("known")
def test_what_cannot_be_is_exit_2_and_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.csv").write_text("a,b\n1,2\n")
    found = ran(*arguments)
    assert found.exit_code == 2
    assert said in found.output


def test_it_is_a_command_of_serin_and_needs_no_torch(known: Path) -> None:
    program = f"""
import sys
from controller.cli import main
try:
    main(["baseline", "compare", {str(known)!r}, {str(known.parent / "training.csv")!r}])
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Not drifted: none of 2 features")
