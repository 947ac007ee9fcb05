"""What a patch makes of an object: JSON patch, merge patch, strategic merge patch. Pure.

Objects are not changed in place; parts that a patch does not touch are shared with the original.
"""

from collections.abc import Sequence
from typing import Any

Json = Any


class Mismatch(Exception):
    """A JSON patch does not apply: a `test` failed or a path leads nowhere."""


class Unmergeable(Exception):
    """A strategic merge patch does not say which item of a list it means."""


def clone(value: Json) -> Json:
    """A copy that shares nothing; some ten times faster than `copy.deepcopy` on JSON."""
    if isinstance(value, dict):  # most items are strings: a call less for each
        return {key: item if item.__class__ is str else clone(item) for key, item in value.items()}
    if isinstance(value, list):
        return [item if item.__class__ is str else clone(item) for item in value]
    return value


def same(left: Json, right: Json) -> bool:
    """Equality of JSON values: 1 is 1.0, and neither is true."""
    if left is right:  # what a write does not touch is shared with what was there
        return True
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


# --- RFC 7386


def merged(target: Json, patch: Json) -> Json:
    """`target` after a merge patch: null removes a key, lists are replaced whole."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


# --- RFC 6902

_END = "-"  # after the last item of a list


def _tokens(pointer: Json) -> list[str]:
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise Mismatch(f"bad pointer {pointer!r}")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def _index(token: str, size: int) -> int:
    if not (token.isascii() and token.isdigit()) or int(token) >= size:
        raise Mismatch(f"no index {token!r}")
    return int(token)


def _child(parent: Json, token: str) -> Json:
    if isinstance(parent, dict) and token in parent:
        return parent[token]
    if isinstance(parent, list):
        return parent[_index(token, len(parent))]
    raise Mismatch(f"no {token!r}")


def _at(root: Json, tokens: Sequence[str]) -> Json:
    for token in tokens:
        root = _child(root, token)
    return root


def _add(root: Json, tokens: Sequence[str], value: Json) -> Json:
    if not tokens:
        return value
    parent, token = _at(root, tokens[:-1]), tokens[-1]
    if isinstance(parent, list):
        parent.insert(len(parent) if token == _END else _index(token, len(parent) + 1), value)
    elif isinstance(parent, dict):
        parent[token] = value
    else:
        raise Mismatch(f"nothing can be added below {tokens[:-1]}")
    return root


def _remove(root: Json, tokens: Sequence[str]) -> Json:
    if not tokens:
        raise Mismatch("the root cannot be removed")
    parent, token = _at(root, tokens[:-1]), tokens[-1]
    _child(parent, token)
    del parent[int(token) if isinstance(parent, list) else token]
    return root


def _replace(root: Json, tokens: Sequence[str], value: Json) -> Json:
    parent = _at(root, tokens[:-1]) if tokens else None
    if isinstance(parent, list):
        parent[_index(tokens[-1], len(parent))] = value
        return root
    # the server's library takes a key that an object does not have for null, and replaces it
    return _add(root, tokens, value)


def _test(root: Json, tokens: Sequence[str], value: Json) -> Json:
    try:
        found = _at(root, tokens)
    except Mismatch:
        found = None  # the server's library takes "absent" for null
    if not same(found, value):
        raise Mismatch(f"testing value /{'/'.join(tokens)} failed")
    return root


def _step(root: Json, step: Json) -> Json:
    tokens, value = _tokens(step.get("path")), clone(step.get("value"))
    match step.get("op"):
        case "test":
            return _test(root, tokens, value)
        case "add":
            return _add(root, tokens, value)
        case "replace":
            return _replace(root, tokens, value)
        case "remove":
            return _remove(root, tokens)
        case "copy":
            return _add(root, tokens, clone(_at(root, _tokens(step.get("from")))))
        case "move":
            source = _tokens(step.get("from"))
            moved = _at(root, source)
            return _add(_remove(root, source), tokens, moved)
        case other:
            raise Mismatch(f"unexpected kind of operation {other!r}")


def patched(target: Json, steps: Sequence[Json]) -> Json:
    """`target` after a JSON patch, all of it or, with `Mismatch`, none."""
    result = clone(target)
    for step in steps:
        result = _step(result, step)
    return result


# --- strategic merge: lists of objects are merged by a key, as Kubernetes' Go types declare it

_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "ownerReferences": ("uid",),
    "conditions": ("type",),
    "secrets": ("name",),
    "ports": ("containerPort", "port"),  # of a container; of a Service
}
_SETS = frozenset({"finalizers"})


def _merge_key(name: str, items: Sequence[Json]) -> str | None:
    for key in _KEYS.get(name, ()):
        if items and all(isinstance(item, dict) and key in item for item in items):
            return key
    return None


def _check_keys(name: str, items: Sequence[Json]) -> None:
    keys = _KEYS.get(name, ())
    for item in items:
        if len(keys) == 1 and isinstance(item, dict) and keys[0] not in item:
            shown = " ".join(f"{key}:{value}" for key, value in sorted(item.items()))
            raise Unmergeable(f"map: map[{shown}] does not contain declared merge key: {keys[0]}")


def _merged_list(name: str, old: Json, new: list[Json]) -> Json:
    old = old if isinstance(old, list) else []
    if name in _SETS:
        return old + [item for item in new if item not in old]
    if {"$patch": "replace"} in new:
        return [item for item in new if item != {"$patch": "replace"}]
    _check_keys(name, new)
    key = _merge_key(name, [*old, *new])
    if key is None:
        return [_plain(item) for item in new]
    result = list(old)
    for item in new:
        result = _with_item(result, item, key)
    return result


def _with_item(items: list[Json], item: Json, key: str) -> list[Json]:
    index = next((i for i, old in enumerate(items) if old[key] == item[key]), None)
    if item.get("$patch") == "delete":
        return [old for old in items if old[key] != item[key]]
    if index is None:
        return [*items, _plain(item)]
    changed = strategic(items[index], item)
    return [*items[:index], changed, *items[index + 1 :]]


def _plain(item: Json) -> Json:
    return strategic({}, item) if isinstance(item, dict) else item


def _directive(result: dict[str, Json], key: str, value: Json) -> None:
    if key.startswith("$deleteFromPrimitiveList/"):
        name = key.partition("/")[2]
        result[name] = [item for item in result.get(name, []) if item not in value]
    elif key == "$retainKeys":
        for gone in set(result) - set(value):
            del result[gone]


def strategic(target: Json, patch: Json) -> Json:
    """`target` after a strategic merge patch, as far as kubectl makes them."""
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    if patch.get("$patch") == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key.startswith("$"):
            _directive(result, key, value)
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, list):
            result[key] = _merged_list(key, result.get(key), value)
        else:
            result[key] = strategic(result.get(key), value)
    return result
