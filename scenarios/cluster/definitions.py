"""What is wrong with a CustomResourceDefinition: defaults that break their own schema or rules. Pure.

A default is judged as it stands, without the defaults of the fields inside it: a rule that reads one of
those has to ask `has(...)` first, or a real server (1.36) does not take the definition at all.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from scenarios.cluster import schema
from scenarios.cluster.refusals import Cause

Json = Any


def problems(definition: Json, old: Json | None) -> Iterator[Cause]:
    """Every default that a custom resource could not have."""
    del old
    versions = definition["spec"]["versions"]
    for number, version in enumerate(versions):
        root = "spec.validation" if len(versions) == 1 else f"spec.versions[{number}].schema"
        text = json.dumps(version["schema"]["openAPIV3Schema"])
        for path, value, causes in _judged(text):
            shown = _shown(value)
            sentences = (cause.message.partition(": ")[2].partition(": ")[2] for cause in causes)
            for sentence in sentences:
                where = f"{root}.openAPIV3Schema{path}.default"
                yield Cause(where, "FieldValueInvalid", f"Invalid value: {shown}: {sentence}")


@cache  # each emulated cluster has the same definitions
def _judged(text: str) -> Sequence[tuple[str, Json, Sequence[Cause]]]:
    return [
        (path, part["default"], found) for path, part in _parts(json.loads(text), "") if (found := _of(part))
    ]


def _of(part: Mapping[str, Any]) -> Sequence[Cause]:
    return schema.problems({"properties": {"default": part}}, {"default": part["default"]}, None)


def _parts(part: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema inside this one that has a default, and where it is."""
    if "default" in part:
        yield path, part
    for name, child in part.get("properties", {}).items():
        yield from _parts(child, f"{path}.properties[{name}]")
    for key in ("items", "additionalProperties"):
        if isinstance(part.get(key), Mapping):
            yield from _parts(part[key], f"{path}.{key}")


def _shown(value: Json) -> str:
    """A default as a cause names it: what is not simple, by its type."""
    for type_, name in ((dict, "object"), (list, "array"), (str, "string")):
        if isinstance(value, type_):
            return f'"{name}"'
    return json.dumps(value)
