"""The audit of packages finds what it is for, and nothing in this environment."""

import runpy
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

AUDIT = runpy.run_path(str(Path(__file__).parents[2] / "docker" / "audit.py"))
TERMS = {"allowed": ["MIT", "Apache-2.0"], "said": {"MIT License": "MIT"}, "packages": {"silent": "MIT"}}
PINNED = {"some-package": "1.0", "silent": "1.0"}


def package(folder: Path, *lines: str, name: str = "Some_Package", version: str = "1.0") -> PathDistribution:
    where = folder / f"{name}-{version}.dist-info"
    where.mkdir()
    head = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    (where / "METADATA").write_text("\n".join([*head, *lines, ""]))
    return PathDistribution(where)


@pytest.mark.parametrize(
    "line",
    [
        "License-Expression: MIT",
        "License-Expression: (MIT OR Apache-2.0) AND Apache-2.0 WITH LLVM-exception",
        "Classifier: License :: OSI Approved :: MIT License",
        "License: MIT",
    ],
)
def test_an_allowed_licence_is_allowed_however_it_is_said(tmp_path: Path, line: str) -> None:
    assert not list(AUDIT["wrong"](package(tmp_path, line), PINNED, TERMS))


@pytest.mark.parametrize(
    "line",
    [
        "License-Expression: GPL-3.0-only",
        "License-Expression: MIT AND AGPL-3.0-or-later",
        "License-Expression: MIT OR SSPL-1.0",
        "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
        "License: a poem",
        "Summary: says nothing",
    ],
)
def test_any_other_licence_is_named_with_the_remedy(tmp_path: Path, line: str) -> None:
    (said,) = AUDIT["wrong"](package(tmp_path, line), PINNED, TERMS)
    assert said.startswith("some-package: licence ")
    assert "docker/licences.toml" in said


def test_a_package_that_says_nothing_may_be_known(tmp_path: Path) -> None:
    assert not list(AUDIT["wrong"](package(tmp_path, name="silent"), PINNED, TERMS))


@pytest.mark.parametrize(("name", "version"), [("Some_Package", "1.1"), ("other", "1.0")])
def test_what_is_not_pinned_is_named(tmp_path: Path, name: str, version: str) -> None:
    found = package(tmp_path, "License-Expression: MIT", name=name, version=version)
    (said,) = AUDIT["wrong"](found, PINNED, TERMS)
    assert f"{version} is not the pinned one" in said


def test_a_build_of_the_pinned_version_is_the_pinned_one(tmp_path: Path) -> None:
    found = package(tmp_path, "License-Expression: MIT", version="1.0+cpu")
    assert not list(AUDIT["wrong"](found, PINNED, TERMS))


def test_pins_are_read_without_their_comments() -> None:
    assert AUDIT["pins"]("# all\nA_b==1.0\nc.d==2  # why\n\n") == {"a-b": "1.0", "c-d": "2"}


def test_this_environment_is_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert AUDIT["main"]([]) == 0
    assert ", 0 faults" in capsys.readouterr().out
