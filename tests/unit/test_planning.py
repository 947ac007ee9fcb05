"""Policies before they are used."""

from pathlib import Path

import pytest
import yaml

from controller import planning


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.yaml"


def test_the_builtin_policy_is_what_the_schema_says() -> None:
    spec = planning.builtin()
    assert spec["steps"] == [5, 10, 25, 50]
    assert (spec["alpha"], spec["minRequests"], spec["promotion"]) == (0.01, 300, {"mode": "Copy"})
    assert [check["name"] for check in spec["checks"]] == ["latency-p95", "errors", "predictions"]
    assert all(check["required"] for check in spec["checks"])


def test_the_printed_policy_reads_back_as_itself(file: Path) -> None:
    file.write_text(planning.as_yaml(planning.builtin()))
    assert planning.read(file) == planning.builtin()


def test_what_a_file_leaves_out_is_filled_in(file: Path) -> None:
    file.write_text("kind: CanaryPolicy\nspec: {steps: [10, 50], scaleDownDelay: {promoted: 5s}}")
    spec = planning.read(file)
    assert spec["steps"] == [10, 50]
    assert spec["scaleDownDelay"] == {"promoted": "5s", "rolledBack": "10m"}


def test_a_bare_spec_will_do(file: Path) -> None:
    file.write_text("steps: [20]")
    assert planning.read(file)["steps"] == [20]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kind: Deployment\nspec: {}", 'kind is "Deployment"; expected CanaryPolicy'),
        ("- a\n- b", 'expected a CanaryPolicy; begin with "kind: CanaryPolicy"'),
        ("steps: [", "is not YAML"),
        ("stepz: [5]", "spec.stepz: unknown field; did you mean steps?"),
        ("steps: five", "spec.steps: expected array, got 'five'"),
        ("steps: [5, true]", "spec.steps[1]: expected integer, got True"),
        ("steps: [50, 10]", "spec.steps: [50, 10] must increase and end below 100"),
        ("steps: [50, 100]", "must increase and end below 100"),
        ("warmUp: soon", "spec.warmUp: 'soon' does not have the form of \"30s\""),
        ("alpha: 0", "spec.alpha: 0 is not between 0 and 0.5"),
        ("alpha: 0.9", "spec.alpha: 0.9 is not between 0 and 0.5"),
        ("onNoData: Proceed", "spec.onNoData: 'Proceed' is not one of Hold, RollBack"),
        ("checks: [{name: a}]", "spec.checks[0].type: is missing"),
        ("checks: [{name: a, type: Latency, maxIncrease: a lot}]", "does not have the form of"),
        ("checks: [{name: a, type: Shadow, maxFlips: 1%}]", "Shadow"),
    ],
)
def test_a_bad_policy_is_refused_with_file_field_and_remedy(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(planning.BadPolicy) as refused:
        planning.read(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert complaint in str(refused.value)


def test_a_missing_file_is_refused(file: Path) -> None:
    with pytest.raises(planning.BadPolicy, match="No such file"):
        planning.read(file)


def test_a_step_lasts_until_it_has_its_requests() -> None:
    spec = planning.builtin() | {"steps": [10, 50], "minRequests": 600, "minStep": "30s"}
    lines = planning.schedule(spec, 50)
    assert lines[0] == " 10 %         5 canary requests/s  at least 2 min (600 requests)"
    assert lines[1] == " 50 %        25 canary requests/s  at least 30 s (750 requests)"
    assert lines[2].startswith("Promotion after at least 2 min 30 s")


def test_a_step_that_cannot_get_its_requests_in_time_is_said_to_hold() -> None:
    lines = planning.schedule(planning.builtin(), 1)
    assert lines[0].endswith("longer than stepTimeout: Hold")


def test_what_each_check_lets_pass_is_said() -> None:
    assert planning.permitted(planning.builtin())[1] == (
        "errors: error rate, 1.5x stable's rate plus 0.1 points is allowed"
    )


def test_every_default_of_the_schema_is_printed() -> None:
    printed = yaml.safe_load(planning.as_yaml(planning.builtin()))["spec"]
    fields = planning._schema()["properties"]
    assert {name for name, each in fields.items() if "default" in each} == set(printed)
