"""A policy before it is used: read from a file, completed with the schema's defaults, and worked out.

The defaults stand in the CRD and nowhere else; here they are read from it.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

Json = Any
HERE = Path(__file__).resolve().parents[1]
# In the repository, and in an installed wheel.
CRDS = (HERE / "manifests" / "base" / "crds.yaml", HERE / "scenarios" / "manifests" / "crds.yaml")
TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


class BadPolicy(ValueError):
    """A policy file cannot be used; the text names file, field and remedy."""


@cache
def _schema() -> Json:
    """The schema of CanaryPolicy.spec."""
    import yaml

    file = next((each for each in CRDS if each.is_file()), None)
    if file is None:
        raise BadPolicy(f"the CRDs are missing from this installation ({CRDS[0]}); install serin again")
    documents = yaml.safe_load_all(file.read_text())
    policy = next(each for each in documents if each and each["spec"]["names"]["kind"] == "CanaryPolicy")
    root = policy["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return root["properties"]["spec"]


def builtin() -> Json:
    """The spec that holds where nobody wrote a policy."""
    return _completed(_schema(), {})


def read(file: Path) -> Json:
    """The spec of the CanaryPolicy in `file`, completed; a bare spec will do. Raises `BadPolicy`."""
    import yaml

    try:
        document = yaml.safe_load(file.read_text())
    except OSError as error:
        raise BadPolicy(
            f"{file}: cannot be read: {error.strerror}; give the path of a policy file"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadPolicy(f"{file}: is not YAML: {' '.join(str(error).split())}") from error
    spec = _spec(document, file=file)
    wrong = next(_wrong(_schema(), spec, where="spec"), None) or next(_inconsistent(spec), None)
    if wrong is not None:
        raise BadPolicy(f"{file}: {wrong}")
    completed = _completed(_schema(), spec)
    _converted(completed, file=file)
    return completed


def _spec(document: Json, *, file: Path) -> Json:
    if not isinstance(document, dict):
        raise BadPolicy(f'{file}: expected a CanaryPolicy; begin with "kind: CanaryPolicy"')
    if "kind" not in document and "spec" not in document:
        return document
    if document.get("kind") != "CanaryPolicy":
        raise BadPolicy(f'{file}: kind is "{document.get("kind")}"; expected CanaryPolicy')
    return document.get("spec") or {}


def _completed(schema: Json, value: Json) -> Json:
    """`value` with the schema's defaults, as the API server would store it."""
    if isinstance(value, list):
        return [_completed(schema.get("items", {}), each) for each in value]
    if not isinstance(value, dict):
        return value
    fields = schema.get("properties", {})
    given = {name: each["default"] for name, each in fields.items() if "default" in each} | value
    ordered = [name for name in fields if name in given] + [name for name in given if name not in fields]
    return {name: _completed(fields.get(name, {}), given[name]) for name in ordered}


def _wrong(schema: Json, value: Json, *, where: str) -> Iterator[str]:
    """What the schema does not allow in `value`; the API server's CEL rules come on top."""
    kinds = TYPES[schema["type"]]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        yield f"{where}: expected {schema['type']}, got {value!r}"
    elif isinstance(value, dict):
        yield from _wrong_fields(schema, value, where=where)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _wrong(schema["items"], each, where=f"{where}[{index}]")
    else:
        yield from _wrong_scalar(schema, value, where=where)


def _wrong_fields(schema: Json, value: Mapping[str, Json], *, where: str) -> Iterator[str]:
    fields = schema.get("properties", {})
    for name, each in value.items():
        if name in fields:
            yield from _wrong(fields[name], each, where=f"{where}.{name}")
            continue
        close = difflib.get_close_matches(str(name), fields, n=1)
        meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(fields)}"
        yield f"{where}.{name}: unknown field; {meant}"
    for name in schema.get("required", []):
        if name not in value:
            yield f"{where}.{name}: is missing; {fields[name].get('description', 'add it')}"


def _wrong_scalar(schema: Json, value: Json, *, where: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is not one of {', '.join(schema['enum'])}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        example = schema.get("default", "20%" if "%" in schema["pattern"] else "30s")
        yield f'{where}: {value!r} does not have the form of "{example}"'
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    if not low <= value <= high or (schema.get("exclusiveMinimum") and value == low):
        yield f"{where}: {value!r} is not between {low:g} and {high:g}"


def _inconsistent(spec: Mapping[str, Json]) -> Iterator[str]:
    """What the CRD says in CEL and people get wrong most: the order of steps."""
    steps = spec.get("steps", [1])
    if not steps or max(steps) > 99 or sorted(set(steps)) != steps:
        yield (
            f"spec.steps: {steps} must increase and end below 100; promotion is what follows the last step,"
            " such as [5, 10, 25, 50]"
        )


def _converted(spec: Json, *, file: Path) -> None:
    """Refuses what the controller itself would refuse."""
    from controller import resource

    wrong = resource.unusable(spec)
    if wrong is not None:
        raise BadPolicy(f"{file}: {wrong}")


def as_yaml(spec: Json) -> str:
    """A CanaryPolicy called default, ready to be applied."""
    import yaml

    policy = {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "CanaryPolicy",
        "metadata": {"name": "default"},
        "spec": spec,
    }
    text: str = yaml.safe_dump(policy, sort_keys=False, width=100)
    return text


# -- what a policy takes at a rate of requests -----------------------------------------------------


def schedule(spec: Json, requests_per_second: float) -> list[str]:
    """How long each step lasts at least, and what each check permits. No estimate of power."""
    from controller.explain import duration
    from controller.wire import duration as written

    least, timeout = written(spec["minStep"]), written(spec["stepTimeout"])
    lines, total = [], written("0s")
    for weight in spec["steps"]:
        rate = requests_per_second * weight / 100
        needed = max(least, written(f"{ceil(spec['minRequests'] / rate)}s"))
        total += needed
        late = "" if needed <= timeout else f"; longer than stepTimeout: {spec['onInconclusive']}"
        lines.append(
            f"{weight:3d} %  {rate:8.4g} canary requests/s  at least {duration(needed)}"
            f" ({max(spec['minRequests'], int(rate * needed.total_seconds()))} requests){late}"
        )
    return [*lines, f"Promotion after at least {duration(total)}, if every required check passes at once."]


def permitted(spec: Json) -> list[str]:
    """What each check lets pass, in words."""
    from controller import record
    from controller.explain import allowed, subject

    found = record.findings({"spec": {"plan": {"policy": spec}}})
    return [f"{each.name}: {subject(each)}, {allowed(each)}" for each in found]
