"""CEL: what a CRD's `x-kubernetes-validations` say of a value; the only importer of celpy.

Guarantee: a rule that names `oldSelf` is skipped where there is no old value, as on a real server;
so a rule on an optional field can be got round by removing the field first.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import celpy
from celpy import celtypes

Json = Any
Schema = Mapping[str, Any]

_NAMES = re.compile(r"\b(?:self|oldSelf)\b(?:\.(\w+)\b(?!\s*\())?")
_REMEMBERED = 64  # values a rule remembers: more than there are live runs, whose plans never change


def _is_sorted(items: Any) -> celtypes.BoolType:
    return celtypes.BoolType(all(a <= b for a, b in pairwise(items)))


def _sum(items: Any) -> Any:
    return sum(items[1:], items[0]) if items else celtypes.IntType(0)


# Kubernetes' list library, as far as schemas here may want it; celpy has only the standard's.
_LIBRARY = {
    "isSorted": _is_sorted,
    "sum": _sum,
    "min": min,
    "max": max,
    "indexOf": lambda items, item: celtypes.IntType(items.index(item) if item in items else -1),
}


@dataclass(slots=True)
class _Rule:
    """One rule, compiled for the schema of the value that it judges."""

    source: Mapping[str, Any]
    schema: Schema
    program: Any
    message: Any
    names: frozenset[str]  # first-level fields it looks at; empty: all
    known: dict[str, bool | str] = field(default_factory=dict)

    def seen(self, value: Json) -> Json:
        """The part of `value` that the rule looks at."""
        if not self.names or not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if key in self.names}

    def verdict(self, value: Json, old: Json | None) -> bool | str:
        """Whether the rule holds, or why that cannot be said; asked once for equal values."""
        value, old = self.seen(value), self.seen(old)
        asked = json.dumps([value, old], sort_keys=True)
        if asked not in self.known:
            if len(self.known) >= _REMEMBERED:
                self.known.pop(next(iter(self.known)))
            self.known[asked] = self._run(self.program, value, old)
        return self.known[asked]

    def said(self, value: Json, old: Json | None) -> str:
        """The rule's message, from its `messageExpression` if that gives one."""
        if self.message is not None:
            said = self._run(self.message, value, old)
            if isinstance(said, str) and said:
                return said
        text = " ".join(self.source["rule"].split())
        return str(self.source.get("message", f"failed rule: {text}"))

    def _run(self, program: Any, value: Json, old: Json | None) -> bool | str:
        try:
            values = {"self": _cel(self.schema, value)}
            if old is not None:
                values["oldSelf"] = _cel(self.schema, old)
            result = program.evaluate(values)
        except (celpy.CELEvalError, ValueError) as error:  # a number has 64 bits, there as here
            return f"{_in_go(str(error.args[0]))} evaluating rule"
        return str(result) if isinstance(result, str) else bool(result)


_MISSING = re.compile(r"no such member in mapping: '(\w+)'")


def _in_go(error: str) -> str:
    """What celpy calls an error, as the real server's library calls it."""
    return _MISSING.sub(r"no such key: \1", error)


_environment = celpy.Environment()
_compiled: dict[int, _Rule] = {}  # by the rule's identity; `_Rule.source` keeps it alive


def broken(rule: Mapping[str, Any], schema: Schema, value: Json, old: Json | None) -> str | None:
    """The message of a rule that does not hold; nothing if it does, or does not apply."""
    if "oldSelf" in rule["rule"] and old is None:
        return None
    compiled = _compiled.get(id(rule)) or _compiled.setdefault(id(rule), _compile(rule, schema))
    verdict = compiled.verdict(value, old)
    if verdict is True:
        return None
    said = compiled.said(value, old)
    return said if verdict is False else f"{verdict}: {said}"


def _compile(rule: Mapping[str, Any], schema: Schema) -> _Rule:
    names = {match.group(1) for match in _NAMES.finditer(rule["rule"])}
    return _Rule(
        source=rule,
        schema=schema,
        program=_program(rule["rule"]),
        message=_program(rule["messageExpression"]) if "messageExpression" in rule else None,
        names=frozenset() if None in names else frozenset(names),
    )


def _program(text: str) -> Any:
    return _environment.program(_environment.compile(text), functions=_LIBRARY)


def _cel(schema: Schema, value: Json) -> Any:
    """`value` as CEL's types; a `number` is a double even where JSON wrote it as an integer."""
    if isinstance(value, dict):
        children = schema.get("properties", {})
        extra = schema.get("additionalProperties")
        other = extra if isinstance(extra, Mapping) else {}
        return celtypes.MapType(
            {celtypes.StringType(k): _cel(children.get(k, other), v) for k, v in value.items()}
        )
    if isinstance(value, list):
        return celtypes.ListType([_cel(schema.get("items", {}), item) for item in value])
    if schema.get("type") == "number" and isinstance(value, int):
        return celtypes.DoubleType(value)
    if schema.get("format") == "date-time" and isinstance(value, str):
        return celtypes.TimestampType(value)
    return celpy.json_to_cel(value)
