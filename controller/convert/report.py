"""The report: every field of the input, what became of it, and what is left to do."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from controller.convert.account import Account, Entry, Fate, Source, shown
from controller.convert.workload import Written

Json = Any
SHOWN = 80  # characters of a value
HIDDEN = "(not shown)"
SIGNS = {Fate.CONVERTED: "->", Fate.BUILT_IN: "= ", Fate.MISSING: "! ", Fate.UNKNOWN: "? "}


@dataclass(frozen=True, slots=True)
class Converted:
    """What is written, what became of the input, and what is left to do.

    `aside`: what no Canary or Rollout here names, or of a kind that is not read; it stays as it is.
    """

    written: Sequence[Written]
    accounts: Sequence[Account]
    aside: Sequence[Source] = ()

    @property
    def todo(self) -> list[str]:
        """What is left to people."""
        return [each for one in self.written for each in one.todo]

    @property
    def objects(self) -> list[Json]:
        """All objects that are written."""
        return [obj for one in self.written for obj in one.objects]

    @property
    def complete(self) -> bool:
        """Whether every field has an equivalent, and nothing is left to do."""
        entries = [entry for account in self.accounts for entry in account.entries]
        return not self.todo and all(entry.fate in {Fate.CONVERTED, Fate.BUILT_IN} for entry in entries)

    def commands(self) -> list[str]:
        """How the Deployments ask that are not written."""
        spaces = {obj["metadata"].get("namespace") for obj in self.objects}
        flag = f" -n {spaces.pop()}" if len(spaces) == 1 and None not in spaces else ""
        said = [
            (name, " ".join(f"{key}={value}" for key, value in notes.items()))
            for one in self.written
            for name, notes in one.annotations.items()
        ]
        return [f"kubectl annotate{flag} deployment {name} {notes}" for name, notes in said]

    def at(self, entry: Entry) -> Json:
        """What is written where the field went."""
        for one in self.written:
            try:
                return one.found(entry.to) if entry.to else None
            except (LookupError, StopIteration):
                continue
        raise LookupError(f"{shown(entry.path)} became {entry.to}, which is not written")


def lines(converted: Converted) -> Iterator[str]:
    """The report as text."""
    for account in converted.accounts:
        yield str(account.source)
        for entry in account.entries:
            yield f"  {SIGNS[entry.fate]} {_line(converted, entry, hidden=_hidden(account, entry))}"
        yield ""
    for source in converted.aside:
        yield f"{source} - is not read: it stays as it is"
    for each in converted.todo:
        yield f"  to do: {each}"
    for each in converted.commands():
        yield f"  to do: {each}"
    yield summary(converted)


def _hidden(account: Account, entry: Entry) -> bool:
    """Whether the value may be a secret, and is not for a report that is kept or mailed."""
    kind, names = account.source.kind, set(entry.path)
    asks = kind in {"MetricTemplate", "AnalysisTemplate", "ClusterAnalysisTemplate"}
    tells = kind == "AlertProvider"
    return bool(
        names & {"authentication"}
        or (asks and names & {"headers", "web"})
        or (tells and names & {"address", "proxy"})
    )


def _line(converted: Converted, entry: Entry, *, hidden: bool) -> str:
    said = f"{shown(entry.path)}: {HIDDEN if hidden else _value(entry.value, entry.fields)}"
    if entry.to is not None:
        came = HIDDEN if hidden else _value(converted.at(entry), 0)
        return f"{said} -> {entry.to}: {came}" + (f" ({entry.says})" if entry.says else "")
    return f"{said} - {entry.fate}: {entry.says}"


def _value(value: Json, fields: int) -> str:
    if fields > 1:
        return f"{fields} fields"
    text = " ".join(flow(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def flow(value: Json) -> str:
    """The value in one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(each) for each in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) if value != "" else '""'


def summary(converted: Converted) -> str:
    """How many fields went which way."""
    counts: Counter[Fate] = Counter()
    for account in converted.accounts:
        for entry in account.entries:
            counts[entry.fate] += entry.fields
    said = ", ".join(f"{counts[fate]} {fate}" for fate in Fate)
    left = len(converted.todo) + len(converted.commands())
    return f"{counts.total()} fields: {said}" + (f"; {left} to do" if left else "")


def as_json(converted: Converted) -> Json:
    """The report as a value, an entry for each field or subtree."""
    return {
        "complete": converted.complete,
        "toDo": [*converted.todo, *converted.commands()],
        "objects": [
            {
                "file": account.source.file,
                "document": account.source.number,
                "kind": account.source.kind,
                "name": account.source.name,
                "fields": [_entry(converted, account, entry) for entry in account.entries],
            }
            for account in converted.accounts
        ],
        "aside": [
            {"file": one.file, "document": one.number, "kind": one.kind, "name": one.name}
            for one in converted.aside
        ],
    }


def _entry(converted: Converted, account: Account, entry: Entry) -> Json:
    hidden = _hidden(account, entry)
    value = HIDDEN if hidden else entry.value
    said = {"field": shown(entry.path), "value": value, "fields": entry.fields, "fate": str(entry.fate)}
    if entry.to is not None:
        came = HIDDEN if hidden else converted.at(entry)
        said |= {"to": f"{entry.to.kind}/{entry.to.name}", "path": shown(entry.to.path), "becomes": came}
    return said | ({"says": entry.says} if entry.says else {})
