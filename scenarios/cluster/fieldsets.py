"""Which fields of an object: sets of them in the form of `fieldsV1`, and what makes such sets. Pure.

A set is a nested dict: `{"f:spec": {"f:replicas": {}}}` holds `.spec.replicas`. A node without children is
in the set, one with children only if it has a "."; the empty set is `{}`. Items of lists that are told apart
are `k:{"name":"model"}` or `v:"text"`; a list or an object that has one owner is a leaf.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from scenarios.cluster.patches import same
from scenarios.cluster.schema import child_of

Json = Any
Schema = Mapping[str, Any]
Fields = dict[str, Json]
Keep = Callable[[bool, bool], bool]

_ABSENT: Json = object()
_LIST, _KEYS, _MAP = "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"
_OPEN: Schema = {"x-kubernetes-preserve-unknown-fields": True}

# --- algebra


def union(left: Fields, right: Fields) -> Fields:
    """What is in either."""
    return _combined(left, right, lambda a, b: a or b)


def common(left: Fields, right: Fields) -> Fields:
    """What is in both."""
    return _combined(left, right, lambda a, b: a and b)


def without(left: Fields, right: Fields) -> Fields:
    """What is in the first only."""
    return _combined(left, right, lambda a, b: a and not b)


def _combined(left: Fields, right: Fields, keep: Keep) -> Fields:
    return _node(left or None, right or None, keep) or {}


def _node(left: Fields | None, right: Fields | None, keep: Keep) -> Fields | None:
    below: Fields = {}
    for key in [*(left or {}), *(key for key in right or {} if key not in (left or {}))]:
        if key != ".":
            found = _node((left or {}).get(key), (right or {}).get(key), keep)
            if found is not None:
                below[key] = found
    is_in = keep(_member(left), _member(right))
    if not below:
        return {} if is_in else None
    return {".": {}, **below} if is_in else below


def spared(fields: Fields, keep: Fields) -> Fields:
    """`fields` without members below which something has to be kept."""
    result = {}
    for key, node in fields.items():
        if key not in keep:
            result[key] = node
        elif key != "." and (below := spared(node, keep[key])):
            result[key] = {k: v for k, v in below.items() if k != "."}
    return {key: node for key, node in result.items() if node or key not in keep}


def _member(node: Fields | None) -> bool:
    return node is not None and (not node or "." in node)


def paths(fields: Fields, prefix: str = "") -> Iterator[str]:
    """Every member as a person reads it: `.spec.containers[name="model"].image`."""
    for key, below in sorted(fields.items()):
        if key == ".":
            yield prefix
            continue
        here = prefix + _spelt(key)
        if below:
            yield from paths(below, here)
        else:
            yield here


def _spelt(key: str) -> str:
    form, _, text = key.partition(":")
    if form != "k":
        return {"f": f".{text}", "v": f"[={text}]"}.get(form, f"[{text}]")
    pairs = (f"{name}={json.dumps(value)}" for name, value in json.loads(text).items())
    return f"[{','.join(pairs)}]"


# --- from outside

_DEEPEST = 64  # levels of a set; an object that is deeper is none of ours


def are_entries(value: Json) -> bool:
    """Whether this can be read as `managedFields`; an entry that says nothing takes all claims away."""
    return isinstance(value, list) and all(not entry or _is_entry(entry) for entry in value)


def _is_entry(entry: Json) -> bool:
    if not isinstance(entry, dict) or entry.get("operation") not in ("Apply", "Update"):
        return False
    texts = (entry.get(key, "") for key in ("manager", "apiVersion", "subresource", "time"))
    named = "manager" in entry and "apiVersion" in entry
    return named and all(isinstance(text, str) for text in texts) and _is_set(entry.get("fieldsV1"), _DEEPEST)


def _is_set(fields: Json, depth: int) -> bool:
    if not isinstance(fields, dict) or not depth:
        return False
    return all(_is_key(key) and _is_set(below, depth - 1) for key, below in fields.items())


def _is_key(key: str) -> bool:
    if not key.startswith("k:"):
        return key == "." or key[:2] in ("f:", "v:", "i:")
    try:
        return isinstance(json.loads(key[2:]), dict)
    except ValueError:
        return False


# --- objects, walked along their schema


def _children(schema: Schema, value: Json) -> dict[str, tuple[Schema, Json]] | None:
    """The parts of a value that have owners of their own, by their keys; nothing if it is a leaf."""
    if isinstance(value, dict):
        if schema.get(_MAP) == "atomic":
            return None
        return {f"f:{key}": (child_of(schema, key) or _OPEN, item) for key, item in value.items()}
    if _told_apart(schema, value):
        items = schema.get("items", _OPEN)
        return {element(schema, item): (items, item) for item in value}
    return None


def _told_apart(schema: Schema, value: Json) -> bool:
    """Whether the items of this list have keys, as its schema wants; what has none is one leaf."""
    if not isinstance(value, list):
        return False
    listed = schema.get(_LIST)
    return listed == "set" or (listed == "map" and all(isinstance(item, dict) for item in value))


def element(schema: Schema, item: Json) -> str:
    """The key of a list's item; a key that it leaves out has its default."""
    if schema.get(_LIST) == "set":
        return f"v:{_compact(item)}"
    known = schema.get("items", {}).get("properties", {})
    keys = schema.get(_KEYS, ())
    pairs = {key: item.get(key, known.get(key, {}).get("default")) for key in keys}
    return f"k:{_compact({key: value for key, value in sorted(pairs.items()) if value is not None})}"


def _compact(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def of(schema: Schema, value: Json) -> Fields:
    """The fields that `value` names, as those of an applied configuration are."""
    result: Fields = {}
    for key, (below, item) in (_children(schema, value) or {}).items():
        found = of(below, item)
        result[key] = {".": {}, **found} if found and key[0] == "k" else found
    return result


def compared(schema: Schema, old: Json, new: Json) -> tuple[Fields, Fields]:
    """The fields that `new` adds or changes, and those that it no longer has."""
    touched, gone = _compared(schema, old, new)
    return touched or {}, gone or {}


def _compared(schema: Schema, old: Json, new: Json) -> tuple[Fields | None, Fields | None]:
    if old == new:  # in C, and most of an object is as it was
        return None, None
    before, after = _children(schema, old), _children(schema, new)
    fresh, lost = old is _ABSENT, new is _ABSENT
    if (before is None and not fresh) or (after is None and not lost) or (fresh and lost):
        changed = not (fresh or lost) and not same(old, new)
        return ({} if fresh or changed else None), ({} if lost else None)
    touched: Fields = {".": {}} if fresh else {}
    gone: Fields = {".": {}} if lost else {}
    for key in {**(before or {}), **(after or {})}:
        below, was = (before or {}).get(key, (_OPEN, _ABSENT))
        below, now = (after or {}).get(key, (below, _ABSENT))
        one, other = _compared(below, was, now)
        touched |= {} if one is None else {key: one}
        gone |= {} if other is None else {key: other}
    return _settled(touched), _settled(gone)


def _settled(fields: Fields) -> Fields | None:
    """A node as it is written: only a "." is a leaf, nothing at all is no node."""
    if not fields:
        return None
    return {} if fields.keys() == {"."} else fields


def merged(schema: Schema, old: Json, new: Json) -> Json:
    """`old` with everything that `new` says; lists whose items are told apart are merged item by item."""
    if isinstance(old, dict) and isinstance(new, dict) and schema.get(_MAP) != "atomic":
        changed = {k: merged(child_of(schema, k) or _OPEN, old.get(k), item) for k, item in new.items()}
        return {**old, **changed}
    if _told_apart(schema, old) and _told_apart(schema, new):
        items = schema.get("items", _OPEN)
        wanted = {element(schema, item): item for item in new}
        there = {element(schema, item): item for item in old}
        kept = {key: merged(items, item, wanted.get(key, {})) for key, item in there.items()}
        kept = {key: there[key] if key not in wanted else item for key, item in kept.items()}
        return [*kept.values(), *(item for key, item in wanted.items() if key not in there)]
    return new


def pruned(schema: Schema, value: Json, fields: Fields, keep: Fields) -> Json:
    """`value` without `fields`; what is empty because of that goes too, if it is not in `keep`."""
    left = []
    for key, (below, item) in (_children(schema, value) or {}).items():
        node = fields.get(key)
        if node is None:
            left.append((key, item))
        elif not _member(node):
            rest = pruned(below, item, node, keep.get(key, {}))
            left += [(key, rest)] if rest or not item or key in keep else []
    if isinstance(value, dict):
        return {key[2:]: item for key, item in left}
    return [item for _, item in left]


def unknown(schema: Schema, value: Json, path: str = "") -> Iterator[str]:
    """Paths of fields that the schema does not have."""
    for key, (below, item) in (_children(schema, value) or {}).items():
        here = path + _spelt(key)
        if isinstance(value, dict) and child_of(schema, key[2:]) is None:
            yield here
        else:
            yield from unknown(below, item, here)
