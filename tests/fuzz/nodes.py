"""JSON that is changed as JSON: of bytes that are changed as bytes, few can be read at all.

What stands on one line and begins with `{` or `[` is taken for JSON, whatever stands before it. A change is
of one node: another value, a key more or less, a value of elsewhere, many of the same.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

Json = Any

BEGINS = (b"{", b"[")
MOST = 2  # at once
MANY = 40  # of the same
DEEP = 150  # lists within lists
VALUES: Sequence[Json] = (
    *(None, True, False, "", [], {}, [None], [[]], {"": None}, [{}], {"a": {}}),
    *(0, 1, -1, 2, 10, 99, 100, 101, 2**31, 2**53 + 1, 2**63, -(2**63), 10**30, 10**400),
    *(0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")),
    *(
        "0",
        "1",
        "-1",
        "1.5",
        "NaN",
        "+Inf",
        "1e999",
        "9" * 400,
        "null",
        "true",
        "0s",
        "30s",
        "20%",
        "9" * 30 + "h",
    ),
    *(
        "\x00",
        "\n",
        "\ud800",
        "\u202e",
        "é" * 40,
        "a" * 3000,
        "../../x",
        "http://[",
        "%",
        "{",
        '"',
        "a/b",
        "-",
    ),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-01-01T00:00:00+24:00", "2026-13-01T00:00:00Z"),
)


def changed(given: bytes, chance: Random, words: Sequence[str]) -> bytes | None:
    """`given` with some node of some line's JSON changed; None if no line holds any."""
    lines = given.split(b"\n")
    places = [number for number, line in enumerate(lines) if any(each in line for each in BEGINS)]
    if not places:
        return None
    number = chance.choice(places)
    line = lines[number]
    begin = min(at for each in BEGINS if (at := line.find(each)) >= 0)
    try:
        tree = [json.loads(line[begin:])]  # in a list, so that the whole is a node, too
        for _ in range(chance.randint(1, MOST)):
            _change(tree, chance, words)
        after = json.dumps(tree[0], separators=(",", ":")).encode()
    except (ValueError, RecursionError, OverflowError):
        return None
    return b"\n".join([*lines[:number], line[:begin] + after, *lines[number + 1 :]])


def _change(tree: list[Json], chance: Random, words: Sequence[str]) -> None:
    places = _places(tree)
    (container, key), (elsewhere, there) = chance.choice(places), chance.choice(places)
    chance.choice(CHANGES)(Node(container, key, _copy(elsewhere[there]), chance, words))


def _places(tree: list[Json]) -> list[tuple[Any, Any]]:
    """(container, key or index) of each node."""
    found: list[tuple[Any, Any]] = []
    left: list[Json] = [tree]
    while left:
        one = left.pop()
        each = list(one) if isinstance(one, dict) else range(len(one))
        found += [(one, key) for key in each]
        left += [one[key] for key in each if isinstance(one[key], dict | list)]
    return found


def _copy(value: Json) -> Json:
    return json.loads(json.dumps(value))


@dataclass(frozen=True)
class Node:
    """What is changed: a value in its container, beside a copy of another from elsewhere."""

    container: Any
    key: Any
    other: Json
    chance: Random
    words: Sequence[str]

    @property
    def value(self) -> Json:
        return self.container[self.key]

    def becomes(self, value: Json) -> None:
        self.container[self.key] = value


def _another(node: Node) -> None:
    hostile = node.chance.random() < 0.8
    node.becomes(_copy(node.chance.choice(VALUES)) if hostile else node.chance.choice(node.words))


def _elsewhere(node: Node) -> None:
    node.becomes(node.other)


def _gone(node: Node) -> None:
    if len(node.container) > 1 or isinstance(node.container, dict):
        del node.container[node.key]


def _more(node: Node) -> None:
    """A key or an item more, here or one level below."""
    into = node.value if isinstance(node.value, dict | list) else node.container
    if isinstance(into, list):
        into.insert(node.chance.randint(0, len(into)), node.other)
    else:
        into[node.chance.choice(node.words)] = node.other


def _renamed(node: Node) -> None:
    if isinstance(node.container, dict):
        value = node.container.pop(node.key)
        node.container[node.other if isinstance(node.other, str) else node.chance.choice(node.words)] = value


def _many(node: Node) -> None:
    """The same many times."""
    if isinstance(node.value, str | list) and len(node.value) < MANY:
        node.becomes(node.value * MANY)
    else:
        node.becomes([_copy(node.value) for _ in range(MANY)])


def _within(node: Node) -> None:
    """The same in a list, an object, or very deep."""
    value = node.value
    for _ in range(node.chance.choice((1, 1, 1, DEEP))):
        value = [value] if node.chance.random() < 0.5 else {"a": value}
    node.becomes(value)


def _nearly(node: Node) -> None:
    """A number that is near, a text with something in it, another type of the same."""
    value, chance = node.value, node.chance
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        node.becomes(str(value))
    elif isinstance(value, str):
        at = chance.randint(0, len(value))
        node.becomes(value[:at] + chance.choice((*node.words, "0", "-", ",", " ", "\x00")) + value[at:])
    else:
        node.becomes(chance.choice((-value, value + 1, value - 1, value * 1000, value / 3, str(value))))


CHANGES: Sequence[Callable[[Node], None]] = (
    *(_another, _another, _another, _elsewhere, _gone, _more, _renamed, _many, _within, _nearly, _nearly),
)
