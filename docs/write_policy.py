"""Writes docs/policy.md: every field of a CanaryPolicy and of a CanaryRun, as the schemas have it.

`make reference`. What the page says is the schema's own; `kubectl explain canarypolicy.spec` shows the same.
"""
# ruff: noqa: INP001
# (a script, not a package)

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from controller.leaving import LEFT_FOR
from controller.model import Reason
from controller.report import REASONS, WAITS

HERE = Path(__file__).parent
SCHEMAS = HERE.parent / "manifests" / "base" / "crds.yaml"
PAGE = HERE / "policy.md"

Schema = dict[str, Any]
INTRODUCTION = """\
<!-- written by `make reference` from manifests/base/crds.yaml; change that instead -->
# Policies and runs, field by field

A `CanaryPolicy` says how canaries of a namespace are judged and moved: the one called `default`, or the one
that [`serin.dev/policy`](annotations.md) names. Whatever is left out has the default below. A run keeps the
policy it began with. `serin plan --policy FILE` says what a policy promises before anybody uses it.

A duration is digits with `ms`, `s`, `m` or `h`, such as `90s` or `1h30m`; a percentage is a text such as
`"20%"`.
"""
RUN = """
## A run

A `CanaryRun` is made by the controller; `spec.plan` is what it does, and cannot be changed. What people write
there is below, and `serin pause`, `resume`, `abort`, `promote` and `approve` write it for them.
"""
STATUS = """
What stands in `status`:
"""
REASONS_ = """
## Reasons

The same words in `status.reason`, conditions, Events, alerts and metrics. What to do about each:
[troubleshooting](troubleshooting.md).

| reason | is | and then |
|---|---|---|
"""
# Events that ask nothing of anybody, and of which no run is said to be in.
NEWS = {
    "Started": "a run was asked for",
    "WeightRaised": "the canary's weight was set to a step's",
    "WeightRepaired": "somebody else had changed the weights; they were put back",
    "Promoting": "every step has passed; stable is given the template",
    "Mended": "what was refused of a Deployment is refused no more; the Event says what holds instead",
}
ALERTED = """
[Alerts](alerts.md) are about what becomes of a run: `RolledBack`, `Held`, `Promoted`, and where a policy asks
for it `Drifted` (inputs are not those of the training) and `Warned` (items of the checklist failed, and the
run goes on).
"""


def page() -> str:
    """The whole page."""
    policy, run = (each["spec"]["versions"][0] for each in yaml.safe_load_all(SCHEMAS.read_text()))
    spec, commands, status = _spec(policy), _spec(run), _properties(run)["status"]
    steering = {name: field for name, field in commands["properties"].items() if name != "plan"}
    parts = [
        INTRODUCTION,
        _table(_fields(spec)),
        "\nWhat the API server refuses, in its words:\n\n",
        "".join(f"- {rule}\n" for rule in _rules(spec)),
        RUN,
        _table(_fields({**commands, "properties": steering})),
        STATUS,
        _table(_fields(status, deep=False)),
        REASONS_,
        "".join(_reasons()),
        ALERTED,
    ]
    return "".join(parts)


def _reasons() -> Iterator[str]:
    """A row for each, in the words of `serin explain`."""
    for reason in Reason:
        is_ = NEWS.get(reason.value) or REASONS[reason.value]
        then = ["The run ends, without traffic."] * (reason in LEFT_FOR)
        if reason.value in WAITS:
            then.insert(0, f"{'Or, where the policy holds: ' if then else ''}{WAITS[reason.value]}")
        yield f"| `{reason.value}` | {is_} | {' '.join(reversed(then))} |\n"


def _properties(version: Schema) -> Schema:
    found: Schema = version["schema"]["openAPIV3Schema"]["properties"]
    return found


def _spec(version: Schema) -> Schema:
    found: Schema = _properties(version)["spec"]
    return found


def _fields(schema: Schema, path: str = "", *, deep: bool = True) -> Iterator[tuple[str, Schema]]:
    """Each field with its path; those of a list's items have `[]`."""
    for name, field in schema.get("properties", {}).items():
        yield path + name, field
        if deep:
            yield from _fields(field, f"{path}{name}.")
            yield from _fields(field.get("items", {}), f"{path}{name}[].")


def _table(fields: Iterator[tuple[str, Schema]]) -> str:
    rows = [
        f"| `{path}` | {_value(field)} | {_default(field)} | {_said(field)} |\n" for path, field in fields
    ]
    return "\n| field | value | default | what it says |\n|---|---|---|---|\n" + "".join(rows)


def _said(field: Schema) -> str:
    """Its description, in one line: a cell with two ends the table."""
    return " ".join(field.get("description", "").split()).replace("|", r"\|")


def _value(field: Schema) -> str:
    """What may stand there, in short."""
    if "enum" in field:
        return ", ".join(f"`{each}`" for each in field["enum"])
    pattern = field.get("pattern", "")
    if pattern.endswith("(ms|s|m|h))+$"):
        return "duration"
    if pattern.endswith("%$"):
        return "percentage"
    if field.get("type") == "array":
        return f"list of {_value(field['items'])}" if "properties" not in field["items"] else "list"
    low, high = (field.get(bound) for bound in ("minimum", "maximum"))
    bounds = [f"from {low}"] * (low is not None) + [f"to {high}"] * (high is not None)
    return " ".join([field.get("type", "object"), *bounds])


def _default(field: Schema) -> str:
    found = field.get("default")
    if found is None or found == {}:
        return ""
    if isinstance(found, list) and isinstance(found[0], dict):
        return ", ".join(f"`{each['name']}`" for each in found)
    return f"`{json.dumps(found)}`" if not isinstance(found, str) else f"`{found}`"


def _rules(schema: Schema) -> Iterator[str]:
    """What its rules say when they are broken, and those of all that is in it."""
    for rule in schema.get("x-kubernetes-validations", []):
        yield rule["message"]
    for field in [*schema.get("properties", {}).values(), schema.get("items", {})]:
        yield from _rules(field) if field else ()


if __name__ == "__main__":
    PAGE.write_text(page())
