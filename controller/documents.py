"""YAML as people write it for Kubernetes: plain values, each key once, and no more of it than it seems.

An alias costs a file nothing, and whoever walks what was read walks it every time: nine lines of nine
aliases each make a billion values. So what a document holds with its aliases written out is counted first.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

Json = Any
LARGEST = 1024 * 1024  # characters of a file: as much as the API server takes, some seconds of PyYAML
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")  # of an object, or of what is named as one
MOST = 100_000  # values with aliases written out; the longest policy has some hundred


class Document(yaml.SafeLoader):
    """YAML whose mappings have each key once and whose aliases add little."""

    def construct_document(self, node: yaml.Node) -> Any:
        """The value; a document that is much more than it seems raises."""
        _written_out(node, {})
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 (PyYAML's signature)
        """The mapping; a key that stands twice raises."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(None, None, f"{name!r} stands twice; say it once", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML reads, wants a point in 1.0e-3; kubectl takes 1e-3 for a number, and so do people.
_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
Document.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values the node holds; those above it are known as 0."""
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.MarkedYAMLError(
                None, None, "an alias of what it stands in; leave it out", node.start_mark
            )
        return known[id(node)]
    known[id(node)] = 0
    inside = node.value if isinstance(node, yaml.CollectionNode) else ()
    parts = (part for one in inside for part in (one if isinstance(one, tuple) else (one,)))
    found = 1 + sum(_written_out(part, known) for part in parts)
    if found > MOST:
        why = f"more than {MOST} values with its aliases written out; write them yourself, and fewer"
        raise yaml.MarkedYAMLError(None, None, why, node.start_mark)
    known[id(node)] = found
    return found


def loaded(text: str, loader: type[Document] = Document) -> Json:
    """The value; raises `yaml.MarkedYAMLError` with a place, or what else is wrong as a `ValueError`."""
    if len(text) > LARGEST:
        raise ValueError(f"has more than {LARGEST} characters; give a shorter file")
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506 - a subclass of SafeLoader: plain values only
    except yaml.MarkedYAMLError:
        raise
    except RecursionError:
        raise ValueError("is nested too deep; nothing here has more than ten levels") from None
    except (yaml.YAMLError, TypeError, AttributeError, LookupError, OverflowError) as trouble:
        # PyYAML lets some malformed scalars escape as the constructor's own error
        raise ValueError(
            f"is not YAML: {' '.join(str(trouble).split())}; save it as plain YAML in UTF-8"
        ) from trouble
