"""Structural schemas: what a custom resource may look like, as its CRD says it. Pure.

Defaults are filled in, unknown fields dropped, and what is wrong is named in the words of a real
server. CEL rules are evaluated by `rules`.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from scenarios.cluster import rules
from scenarios.cluster.patches import clone, same
from scenarios.cluster.refusals import Cause

Json = Any
Schema = Mapping[str, Any]
T = TypeVar("T")

_ROOT = ("apiVersion", "kind", "metadata")  # every object has them; `metadata` checks its own part
_KEEPS = "x-kubernetes-preserve-unknown-fields"
_EITHER = "x-kubernetes-int-or-string"
_OPEN: Schema = {_KEEPS: True}  # anything goes, and nothing needs to be looked at


def _of_schema(worked_out: Callable[[Schema], T]) -> Callable[[Schema], T]:
    """Worked out once for each schema: they are many and large, and never change."""
    known: dict[int, tuple[Schema, T]] = {}  # by identity; the schema is kept so that it stays its own

    def looked_up(schema: Schema) -> T:
        found = known.get(id(schema))
        if found is None:
            found = known[id(schema)] = schema, worked_out(schema)
        return found[1]

    return looked_up


def child_of(schema: Schema, key: str) -> Schema | None:
    """The schema of one key of an object; nothing if the key is unknown."""
    found: Schema | None = schema.get("properties", {}).get(key)
    if found is not None:
        return found
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        return extra
    return _OPEN if extra is True or schema.get(_KEEPS) else None


@_of_schema
def _root(schema: Schema) -> Schema:
    """The root's schema with the three fields that every object has left open."""
    open_fields = dict.fromkeys(_ROOT, _OPEN)
    return {**schema, "properties": {**schema.get("properties", {}), **open_fields}}


@_of_schema
def settled(schema: Schema) -> Schema:
    """The schema for an object whose spec is the stored one: that was looked at when it was written."""
    return {**schema, "properties": {**schema.get("properties", {}), "spec": _OPEN}}


# --- defaults


def defaulted(schema: Schema, value: Json) -> Json:
    """`value` with every default that applies; a null that may not be one counts as absent."""
    if schema is _OPEN:
        return value
    if isinstance(value, dict):
        return _defaulted_object(schema, value)
    if isinstance(value, list) and "items" in schema:
        return [defaulted(schema["items"], item) for item in value]
    return value


def _defaulted_object(schema: Schema, value: dict[str, Json]) -> Json:
    result = dict(value)
    for key, child in schema.get("properties", {}).items():
        missing = key not in result or (result[key] is None and not child.get("nullable"))
        if missing and "default" in child:
            result[key] = clone(child["default"])
    for key, item in result.items():
        child = child_of(schema, key)
        if child is not None:
            result[key] = defaulted(child, item)
    return result


# --- unknown fields


def pruned(schema: Schema, obj: Json) -> tuple[Json, list[str]]:
    """`obj` without the fields its schema does not know, and the paths of those."""
    dropped: list[str] = []
    return _pruned(_root(schema), obj, "", dropped), dropped


def _pruned(schema: Schema, value: Json, path: str, dropped: list[str]) -> Json:
    if schema is _OPEN:
        return value
    if isinstance(value, list) and "items" in schema:
        items = schema["items"]
        return [_pruned(items, item, f"{path}[{i}]", dropped) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, item in value.items():
        child = child_of(schema, key)
        where = f"{path}.{key}" if path else key
        if child is None:
            dropped.append(where)
        else:
            result[key] = _pruned(child, item, where, dropped)
    return result


# --- what is wrong


def problems(schema: Schema, obj: Json, old: Json | None) -> list[Cause]:
    """Everything in `obj` that breaks `schema`; transition rules compare it with `old`.

    CEL does not run on what has a wrong type or length, or lacks something, since its rules may rely on that.
    """
    root = _root(schema)
    found = list(_problems(root, obj, ""))
    if not any(map(_blocks, found)):
        return [*found, *_broken_rules(root, obj, old, "")]
    return [*found, UNCHECKED] if _ruled(root) else found


_BLOCKING = {f"FieldValue{what}" for what in ("NotSupported", "Required", "TooLong", "TooMany")}
UNCHECKED = Cause(
    "<nil>",
    "FieldValueInvalid",
    'Invalid value: "null": some validation rules were not checked because the object was invalid;'
    " correct the existing errors to complete validation",
)


def _blocks(cause: Cause) -> bool:
    """Whether the real server asks no rules of an object with this."""
    return cause.reason in _BLOCKING or "must be of type" in cause.message


def _shown(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _wrong(path: str, value: Json, sentence: str) -> Cause:
    message = f"Invalid value: {_shown(value)}: {path} in body {sentence}"
    return Cause(path, "FieldValueInvalid", message)


def _fits(schema: Schema, value: Json) -> bool:
    if value is None:
        return bool(schema.get("nullable"))
    if schema.get(_EITHER):
        return isinstance(value, int | str) and not isinstance(value, bool)
    return _TYPES.get(schema.get("type", ""), _anything)(value)


def _anything(_value: Json) -> bool:
    return True


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Mapping[str, Callable[[Json], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": _is_number,
}


def _type_name(value: Json) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}
    return names.get(type(value), "null" if value is None else "number")


def _problems(schema: Schema, value: Json, path: str) -> Iterator[Cause]:
    if schema is _OPEN and value is not None:
        return
    if not _fits(schema, value):
        wanted = schema.get("type", "integer or string")
        name = _type_name(value)
        yield _wrong(path, name, f'must be of type {wanted}: "{name}"')
    elif isinstance(value, dict):
        yield from _object_problems(schema, value, path)
    elif isinstance(value, list):
        yield from _list_problems(schema, value, path)
    elif value is not None:
        yield from _scalar_problems(schema, value, path)
    yield from _logic_problems(schema, value, path)


def _object_problems(schema: Schema, value: dict[str, Json], path: str) -> Iterator[Cause]:
    for key in schema.get("required", ()):
        if key not in value:
            where = f"{path}.{key}" if path else key
            yield Cause(where, "FieldValueRequired", "Required value")
    if len(value) > schema.get("maxProperties", len(value)):
        most = schema["maxProperties"]
        yield Cause(path, "FieldValueTooMany", f"Too many: {len(value)}: must have at most {most} items")
    if len(value) < schema.get("minProperties", 0):
        yield _wrong(path, len(value), f"should have at least {schema['minProperties']} properties")
    for key, item in value.items():
        child = child_of(schema, key)
        if child is not None:
            yield from _problems(child, item, f"{path}.{key}" if path else key)


def _list_problems(schema: Schema, value: list[Json], path: str) -> Iterator[Cause]:
    if len(value) > schema.get("maxItems", len(value)):
        most = schema["maxItems"]
        yield Cause(path, "FieldValueTooMany", f"Too many: {len(value)}: must have at most {most} items")
    if len(value) < schema.get("minItems", 0):
        yield _wrong(path, len(value), f"should have at least {schema['minItems']} items")
    for index, item in enumerate(value):
        yield from _problems(schema.get("items", {}), item, f"{path}[{index}]")
    yield from _repeated(schema, value, path)


def _repeated(schema: Schema, value: list[Json], path: str) -> Iterator[Cause]:
    kind = schema.get("x-kubernetes-list-type")
    if kind not in ("map", "set"):
        return
    keys = schema.get("x-kubernetes-list-map-keys", ())
    seen = set()
    for index, item in enumerate(value):
        picked = item if kind == "set" else _keys(item, keys)
        if _shown(picked) in seen:
            where = f"{path}[{index}]"
            yield Cause(where, "FieldValueDuplicate", f"Duplicate value: {_shown(picked)}")
        seen.add(_shown(picked))


def _keys(item: Json, keys: Sequence[str]) -> Json:
    """What tells an entry of a map from others; what is no mapping is told apart by itself."""
    return {key: item.get(key) for key in keys} if isinstance(item, dict) else item


def _scalar_problems(schema: Schema, value: Json, path: str) -> Iterator[Cause]:
    if "enum" in schema and not any(same(value, choice) for choice in schema["enum"]):
        choices = ", ".join(_shown(choice) for choice in schema["enum"])
        message = f"Unsupported value: {_shown(value)}: supported values: {choices}"
        yield Cause(path, "FieldValueNotSupported", message)
    if isinstance(value, str):
        yield from _string_problems(schema, value, path)
    elif _is_number(value):
        yield from _number_problems(schema, value, path)


def _string_problems(schema: Schema, value: str, path: str) -> Iterator[Cause]:
    """Of length and pattern the first that is wrong, as the real server says it; a format is beside them."""
    if len(value) > schema.get("maxLength", len(value)):
        most = schema["maxLength"]
        yield Cause(path, "FieldValueTooLong", f"Too long: may not be more than {most} bytes")
    elif len(value) < schema.get("minLength", 0):
        yield _wrong(path, value, f"should be at least {schema['minLength']} chars long")
    elif "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield _wrong(path, value, f"should match '{schema['pattern']}'")
    if schema.get("format") == "date-time" and not _TIME.match(value):
        yield _wrong(path, value, f'must be of type date-time: "{value}"')


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """As the real server reads it: a `$` is the end, and not before a last line break as well."""
    return re.compile(re.sub(r"(?<!\\)\$$", r"\\Z", text))


_TIME = re.compile(r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$")
_BOUNDS = {"int32": 2**31, "int64": 2**63}


def _number_problems(schema: Schema, value: float, path: str) -> Iterator[Cause]:
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    if value < low:
        yield _wrong(path, value, f"should be greater than or equal to {low:g}")
    elif "minimum" in schema and value == low and schema.get("exclusiveMinimum"):
        yield _wrong(path, value, f"should be greater than {low:g}")
    if value > high:
        yield _wrong(path, value, f"should be less than or equal to {high:g}")
    elif "maximum" in schema and value == high and schema.get("exclusiveMaximum"):
        yield _wrong(path, value, f"should be less than {high:g}")
    bound = _BOUNDS.get(schema.get("format", ""))
    if bound and not -bound <= value < bound:
        yield _wrong(path, value, f"must be of type {schema['format']}: {_shown(value)}")


def _logic_problems(schema: Schema, value: Json, path: str) -> Iterator[Cause]:
    shown = f'"{path}" must validate'
    fitting = [not list(_problems(part, value, path)) for part in schema.get("oneOf", ())]
    if fitting and sum(fitting) != 1:
        found = "Found none valid" if not any(fitting) else f"Found {sum(fitting)} valid alternatives"
        yield _combined(path, value, f"{shown} one and only one schema (oneOf). {found}")
    parts = schema.get("anyOf", ())
    if parts and all(list(_problems(part, value, path)) for part in parts):
        yield _combined(path, value, f"{shown} at least one schema (anyOf)")
    for part in schema.get("allOf", ()):
        yield from _problems(part, value, path)
    if "not" in schema and not list(_problems(schema["not"], value, path)):
        yield _combined(path, value, f'"{path}" must not validate the schema (not)')


def _combined(path: str, value: Json, sentence: str) -> Cause:
    return Cause(path or "<nil>", "FieldValueInvalid", f"Invalid value: {_shown(value)}: {sentence}")


# --- CEL


@_of_schema
def _ruled(schema: Schema) -> bool:
    """Whether a rule is somewhere in it."""
    extra = schema.get("additionalProperties")
    parts = [*schema.get("properties", {}).values(), schema.get("items"), extra]
    own = bool(schema.get("x-kubernetes-validations"))
    return own or any(isinstance(part, Mapping) and _ruled(part) for part in parts)


def _broken_rules(schema: Schema, value: Json, old: Json | None, path: str) -> Iterator[Cause]:
    if value is None or not _ruled(schema):
        return
    for rule in schema.get("x-kubernetes-validations", ()):
        broken = rules.broken(rule, schema, value, old)
        if broken is not None:
            kind = schema.get("type", "object")
            yield Cause(path or "<nil>", "FieldValueInvalid", f'Invalid value: "{kind}": {broken}')
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        for key, item in value.items():
            child = child_of(schema, key)
            if child is not None:
                yield from _broken_rules(child, item, before.get(key), f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        yield from _broken_in_list(schema, value, old, path)


def _broken_in_list(schema: Schema, value: list[Json], old: Json | None, path: str) -> Iterator[Cause]:
    keys = schema.get("x-kubernetes-list-map-keys", ())
    for index, item in enumerate(value):
        before = _correlated(item, old, keys)
        yield from _broken_rules(schema.get("items", {}), item, before, f"{path}[{index}]")


def _correlated(item: Json, old: Json | None, keys: tuple[str, ...]) -> Json | None:
    """What a list's item was before: only map lists say which; the items of others are new."""
    if not keys or not isinstance(old, list):
        return None
    return next((was for was in old if all(was.get(key) == item.get(key) for key in keys)), None)
