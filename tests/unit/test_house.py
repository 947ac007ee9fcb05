"""The house rules that no linter knows: sizes, words, and a paragraph at every door."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("analysis", "controller", "gpu_shadow", "scenarios")
MODULES = sorted(module for package in PACKAGES for module in (ROOT / package).rglob("*.py"))
# Words that name nothing: whoever wants one has not found out yet what the thing does.
EMPTY_WORDS = {"manager", "handler", "processor", "service", "util", "utils", "helper", "helpers"} | {
    "factory",
    "data",
    "info",
    "engine",
}
# Kubernetes' own word for one of its objects; the emulated API server has to say it.
KUBERNETES = {"scenarios": {"service"}, "cluster": {"service"}}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def body_lines(function: Function) -> int:
    """Lines from the first statement after the docstring to the last."""
    documented = ast.get_docstring(function) is not None
    statements = function.body[1:] if documented else function.body
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def words(name: str) -> set[str]:
    return {word.lower() for part in name.split("_") for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", part)}


def named(tree: ast.AST) -> Iterator[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return (node.name for node in ast.walk(tree) if isinstance(node, kinds))


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_is_one_idea_and_fits_into_500_lines(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= 500


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_names_say_what_things_do(module: Path) -> None:
    names = {module.stem, *named(ast.parse(module.read_text()))}
    empty = EMPTY_WORDS - KUBERNETES.get(module.parent.name, set())
    assert not {name for name in names if words(name) & empty}


@pytest.mark.parametrize("package", sorted({name_of(module.parent) for module in MODULES}))
def test_a_package_says_what_belongs_there_and_what_does_not(package: str) -> None:
    paragraph = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text())) or ""
    assert "What belongs here" in paragraph
    assert "What does not" in " ".join(paragraph.split())


def test_functions_can_be_read_at_a_glance() -> None:
    lengths = [
        body_lines(function) for module in MODULES for function in functions(ast.parse(module.read_text()))
    ]
    assert median(lengths) <= 8
    assert quantiles(lengths, n=20)[-1] <= 40  # the 95th percentile


def test_no_folder_is_deeper_than_a_room_of_a_package() -> None:
    too_deep = [name_of(module) for module in MODULES if len(module.relative_to(ROOT).parts) > 3]
    assert not too_deep


def test_half_of_the_modules_fit_into_200_lines() -> None:
    assert median(len(module.read_text().splitlines()) for module in MODULES) <= 200
