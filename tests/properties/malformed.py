"""Ways of writing something wrong, worked out from what is right: one kind of mistake each.

A kind is a field and what is wrong with it. From a schema (`of_schema`) or from an example whose fields are
known (`of_example`) come values that are no good; from a text (`of_text`) come files that are none.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

Json = Any
Path = tuple[str | int, ...]
MISSING = object()
HUGE = 10**30
# What no field of ours is, by what a field may be.
STRANGERS: Mapping[str, Mapping[str, Json]] = {
    "string": {"a number": 7, "true": True, "a list": ["x"], "a mapping": {"x": 1}},
    "integer": {"text": "seven", "a fraction": 1.5, "true": True, "a list": [1], "a mapping": {"x": 1}},
    "number": {"text": "half", "true": True, "a list": [0.1], "a mapping": {"x": 1}},
    "boolean": {"text": "yes", "a number": 1, "a list": [True], "a mapping": {"x": True}},
    "array": {"text": "x", "a number": 7, "a mapping": {"x": 1}},
    "object": {"text": "x", "a number": 7, "a list": [1]},
}


@dataclass(frozen=True)
class Kind:
    """One kind of mistake: `field` as a person would call it, `way` in words, and the whole that has it."""

    field: str
    way: str
    given: Json

    def __str__(self) -> str:
        return f"{self.field}: {self.way}"


def put(whole: Json, path: Path, value: Json) -> Json:
    """A copy of the whole in which this stands there; `MISSING` takes it away."""
    if not path:
        return value
    changed = copy.deepcopy(whole)
    inside = changed
    for step in path[:-1]:
        inside = inside[step]
    if value is MISSING:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return changed


def called(path: Path) -> str:
    """`spec.checks[0].name`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def misspelt(name: str) -> str:
    """The name without its second letter, which no field here is called."""
    return name[0] + name[2:] if len(name) > 2 else f"{name}x"


# -- from a schema ---------------------------------------------------------------------------------


def of_schema(schema: Json, whole: Json, path: Path = (), *, nulls: bool) -> Iterator[Kind]:
    """Every way of breaking the schema at every field that the whole has; with `nulls`, null is one."""
    value: Json = whole
    for step in path:
        value = value[step]
    field, kind = called(path), schema["type"]
    ways: dict[str, Json] = dict(STRANGERS[kind])
    if nulls:
        ways["null"] = None
    ways |= _scalars(schema, value) if kind not in ("array", "object") else {}
    if path:
        yield from (Kind(field, way, put(whole, path, wrong)) for way, wrong in ways.items())
    if kind == "object":
        yield from _fields(schema, whole, value, path, nulls=nulls)
    if kind == "array":
        yield from _entries(schema, whole, value, path, nulls=nulls)


def _scalars(schema: Json, value: Json) -> dict[str, Json]:
    if "enum" in schema:
        return {
            "another word": "Perhaps",
            "other case": f"{value}".swapcase(),
            "empty": "",
            "blank after": f"{value} ",
        }
    return _texts(schema, value) if schema["type"] == "string" else _numbers(schema)


def _texts(schema: Json, value: str) -> dict[str, Json]:
    pattern = schema.get("pattern", "")
    ways: dict[str, Json] = {}
    if pattern:
        ways |= {
            "empty": "",
            "blank before": f" {value}",
            "two lines": f"{value}\n{value}",
            "not a word": "*?*",
        }
        ways |= {"a zero byte": f"{value}\0", "of another alphabet": "\u0663\u0660"}
    if "%" in pattern:
        ways |= {"unit missing": "20", "another unit": "20 percent", "negative": "-20%", "NaN": "NaN%"}
        ways |= {"an exponent": "1e3%", "a comma": "0,5%", "infinite": "inf%", "two units": "20%%"}
        ways |= {"point last": "2.%"}
    if "ms|s" in pattern:
        ways |= {"unit missing": "30", "another unit": "3d", "negative": "-30s", "a fraction": "1.5s"}
        ways |= {"capitals": "30S", "a blank": "30 s", "unit alone": "s", "infinite": "inf", "NaN": "NaNs"}
    if "http" in pattern:
        ways |= {"another scheme": "ftp://x/y", "no scheme": "deploys.example"}
        ways |= {"a password": "http://a:b@c/", "a blank": "http://a b/"}
    if "maxLength" in schema:
        filling = "0" if "%" in pattern or "ms|s" in pattern else value[-1]
        ways["too long"] = value[0] + filling * schema["maxLength"] + value[1:]
    if schema.get("minLength"):
        ways["empty"] = ""
    return ways


def _numbers(schema: Json) -> dict[str, Json]:
    ways: dict[str, Json] = {}
    step = 1 if schema["type"] == "integer" else 0.001
    for bound, beyond in (("minimum", -step), ("maximum", step)):
        if bound in schema:
            ways[f"beyond the {bound}"] = schema[bound] + beyond
        if schema.get(f"exclusive{bound.capitalize()}"):
            ways[f"at the {bound}"] = schema[bound]
    if schema["type"] in ("integer", "number"):
        ways |= {"huge": HUGE, "negative": -5, "hugely negative": -HUGE}
    return ways


def _fields(schema: Json, whole: Json, value: Json, path: Path, *, nulls: bool) -> Iterator[Kind]:
    fields = schema.get("properties", {})
    yield Kind(called((*path, "surprise")), "an unknown field", put(whole, (*path, "surprise"), 1))
    for name in fields:
        if name in value:
            wrong = put(put(whole, (*path, name), MISSING), (*path, misspelt(name)), value[name])
            yield Kind(called((*path, misspelt(name))), "misspelt", wrong)
            yield Kind(
                called((*path, name.swapcase())),
                "other case",
                put(whole, (*path, name.swapcase()), value[name]),
            )
            yield from of_schema(fields[name], whole, (*path, name), nulls=nulls)
    for name in schema.get("required", ()):
        yield Kind(called((*path, name)), "missing", put(whole, (*path, name), MISSING))


def _entries(schema: Json, whole: Json, value: Json, path: Path, *, nulls: bool) -> Iterator[Kind]:
    field = called(path)
    if schema.get("minItems"):
        yield Kind(field, "empty", put(whole, path, []))
    if "maxItems" in schema:
        keys = schema.get("x-kubernetes-list-map-keys", ())
        many = [
            {**value[0], **{key: f"{value[0][key]}{at}" for key in keys}} if keys else value[0]
            for at in range(schema["maxItems"] + 1)
        ]
        yield Kind(field, "too many", put(whole, path, many))
    if schema.get("x-kubernetes-list-type") in ("map", "set"):
        yield Kind(field, "twice the same", put(whole, path, [*value, value[0]]))
    for way, wrong in {"null in it": None, "a list in it": [[]]}.items():
        yield Kind(field, way, put(whole, path, [*value, wrong]))
    for at in range(len(value)):
        yield from of_schema(schema["items"], whole, (*path, at), nulls=nulls)


# -- from an example -------------------------------------------------------------------------------


def of_example(whole: Json, path: Path = (), *, free: Sequence[Path] = ()) -> Iterator[Kind]:
    """Every field of the example as something that it is not, misspelt, null, or beside an unknown one.

    What stands at `free` is somebody else's.
    """
    if path in free:
        return
    value: Json = whole
    for step in path:
        value = value[step]
    strangers = {"null": None, **STRANGERS[_kind(value)]}
    if isinstance(value, str):
        strangers |= {
            "empty": "",
            "blanks": "   ",
            "not a word": "*?*",
            "too long": "x" * 5000,
            "a zero byte": "a\0b",
        }
    if isinstance(value, int | float) and not isinstance(value, bool):
        strangers |= {"negative": -1 - value, "huge": HUGE, "hugely negative": -HUGE}
    if path:
        yield from (Kind(called(path), way, put(whole, path, wrong)) for way, wrong in strangers.items())
    if isinstance(value, dict):
        yield Kind(called((*path, "surprise")), "an unknown field", put(whole, (*path, "surprise"), 1))
        for name in value:
            wrong = put(put(whole, (*path, name), MISSING), (*path, misspelt(name)), value[name])
            yield Kind(called((*path, misspelt(name))), "misspelt", wrong)
            yield from of_example(whole, (*path, name), free=free)
    if isinstance(value, list):
        yield Kind(called(path), "null in it", put(whole, path, [*value, None]))
        for at in range(len(value)):
            yield from of_example(whole, (*path, at), free=free)


def _kind(value: Json) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(value)]


# -- from a text -----------------------------------------------------------------------------------

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def of_text(whole: Json) -> Iterator[Kind]:
    """YAML files that are none, or not what they seem; `given` is bytes."""
    good = yaml.safe_dump(whole, sort_keys=False)
    first = next(iter(whole))
    nested = yaml.safe_dump({first: whole[first]})
    texts = {
        "empty": "",
        "a comment": "# nothing\n",
        "a list": f"- {first}\n",
        "a word": "word\n",
        "a number": "7\n",
        "two documents": f"{good}---\n{good}",
        "a key twice": f"{good}{nested}",
        "a bomb of aliases": f"{BOMB}{good}",
        "an alias of itself": f"{good}x: &x [*x]\n",
        "an alias of nothing": f"{good}x: *nothing\n",
        "a tag that runs code": f"{good}x: !!python/object/apply:os.system [true]\n",
        "a tag of nobody": f"{good}x: !nobody 1\n",
        "a bracket left open": f"{good}x: [1, 2\n",
        "a quote left open": f'{good}x: "abc\n',
        "a tab that indents": f"{good}x:\n\t- 1\n",
        "nested too deep": f"{good}x: {'[' * 5000}\n",
        "a zero byte": f"{good}x: a\0b\n",
        "a control character": f"{good}x: a\x07b\n",
        "indented by chance": f"   {good}",
        "a colon too few": good.replace(":", "", 1),
        "a key that is a list": f"{good}[1]: 2\n",
        "a key that is a mapping": f"{good}{{a: 1}}: 2\n",
        "a timestamp that is none": f"{good}x: !!timestamp never\n",
        "a merge of a word": f"{good}<<: word\n",
        "too long": f"{good}# {'x' * 1_100_000}\n",
    }
    for way, text in texts.items():
        yield Kind("", way, text.encode())
    yield Kind("", "Latin 1", f"{good}# caf\xe9\n".encode("latin-1"))
    yield Kind("", "UTF-16", good.encode("utf-16"))
    yield Kind("", "half a character", good.encode() + b"# \xe2\x82")
    yield Kind("", "no text at all", bytes(range(256)))
