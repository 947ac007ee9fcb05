"""Label and field selectors, as they stand in a query or in a spec. Pure."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from scenarios.cluster.refusals import bad_request

Json = Any
Predicate = Callable[[Json], bool]

_TERM = re.compile(
    r"\s*(?:(?P<key>[\w./-]+)\s+(?P<set>in|notin)\s*\((?P<values>[^)]*)\)"
    r"|(?P<absent>!)\s*(?P<not>[\w./-]+)"
    r"|(?P<name>[\w./-]+)\s*(?:(?P<op>==|=|!=)\s*(?P<value>[\w.-]*))?)\s*(?:,|$)"
)
# What a field selector may name; everything else is refused, as on a real server.
_FIELDS = {
    "pods": ("spec.nodeName", "spec.restartPolicy", "status.phase", "status.podIP"),
    "events": (
        *(f"involvedObject.{f}" for f in ("kind", "name", "namespace", "uid", "apiVersion", "fieldPath")),
        *(f"regarding.{f}" for f in ("kind", "name", "namespace", "uid")),
        *("reason", "type", "reportingComponent", "source"),
    ),
    "namespaces": ("status.phase",),
    "secrets": ("type",),
    "replicasets": ("status.replicas",),
}


def both(first: Predicate, second: Predicate) -> Predicate:
    """What both select."""
    return lambda obj: first(obj) and second(obj)


def by_labels(text: str) -> Predicate:
    """Whether an object's labels match; raises 400 `Refused` for what cannot be read."""
    terms, at = [], 0
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None or match.end() == at:
            raise bad_request(f"unable to parse requirement: found '{text[at:]}'")
        terms.append(_term(match))
        at = match.end()
    return lambda obj: all(term(obj["metadata"].get("labels") or {}) for term in terms)


def _term(match: re.Match[str]) -> Callable[[Mapping[str, str]], bool]:
    key = match["key"] or match["not"] or match["name"]
    if match["set"]:
        values = {value.strip() for value in match["values"].split(",")}
        wanted = match["set"] == "in"
        return lambda labels: (labels.get(key) in values) is wanted
    if match["absent"]:
        return lambda labels: key not in labels
    if match["op"] is None:
        return lambda labels: key in labels
    value = match["value"]
    if match["op"] == "!=":
        return lambda labels: labels.get(key) != value
    return lambda labels: labels.get(key) == value


def by_fields(text: str, plural: str) -> Predicate:
    """Whether an object's fields match; raises 400 `Refused` for fields that are not selectable."""
    terms = [_field(term, plural) for term in text.split(",") if term]
    return lambda obj: all(term(obj) for term in terms)


def _field(term: str, plural: str) -> Predicate:
    match = re.fullmatch(r"\s*([\w.]+?)\s*(==|=|!=)\s*(.*?)\s*", term)
    if match is None:
        raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
    path, operator, value = match.groups()
    if path not in ("metadata.name", "metadata.namespace", *_FIELDS.get(plural, ())):
        raise bad_request(f'field label not supported: "{path}"')
    keys = path.replace("regarding.", "involvedObject.").split(".")
    return lambda obj: (str(_value(obj, keys)) == value) is (operator != "!=")


def _value(obj: Json, keys: list[str]) -> Json:
    for key in keys:
        obj = obj.get(key, "") if isinstance(obj, dict) else ""
    return obj


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether a spec's `selector` (matchLabels, matchExpressions) selects these labels."""
    wanted = (selector.get("matchLabels") or {}).items()
    if any(labels.get(key) != value for key, value in wanted):
        return False
    return all(_holds(term, labels) for term in selector.get("matchExpressions") or ())


def _holds(term: Json, labels: Mapping[str, str]) -> bool:
    has, values = term["key"] in labels, term.get("values") or ()
    match term["operator"]:
        case "In":
            return has and labels[term["key"]] in values
        case "NotIn":
            return not has or labels[term["key"]] not in values
        case "Exists":
            return has
        case _:
            return not has


def as_text(selector: Json) -> str:
    """A spec's selector in the form that queries and `scale.status.selector` take."""
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for term in selector.get("matchExpressions") or ():
        values = f"({','.join(term.get('values') or ())})"
        words = {"In": f"{term['key']} in {values}", "NotIn": f"{term['key']} notin {values}"}
        words |= {"Exists": term["key"], "DoesNotExist": f"!{term['key']}"}
        terms.append(words[term["operator"]])
    return ",".join(terms)
