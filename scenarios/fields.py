"""A YAML file read field by field, so that every complaint names file, field and remedy.

The reader accepts YAML 1.2 as Kubernetes users mean it: `on`, `yes` and `2026-01-01` are strings, a
key given twice is a mistake.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml

from controller import documents

T = TypeVar("T")

HERE = Path(__file__).parent
LONGEST = timedelta(days=1)  # nothing here plays longer; keeps sums of durations far from overflow
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9]+)(ms|s|m|h)")
_PERCENT = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?%")
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours"}
MOST = 10  # mistakes that are named at once
PART = 3  # letters that a word has in common with the one that was meant, at least
_SHOWN = 40  # characters of a wrong value that are repeated back


# What belongs into a field that is missing: by its name, or by its own and that of what it stands in.
EXAMPLES: Mapping[str, str] = {
    "apiVersion": "serin.dev/v1alpha1",
    "kind": "Scenario",
    "metadata": "{name: latency-doubles}",
    "name": "latency-doubles",
    "spec": "{duration: 120s, traffic: {requestsPerSecond: 100}, stable: …, expect: …}",
    "duration": "120s",
    "traffic": "{requestsPerSecond: 100}",
    "requestsPerSecond": "100",
    "stable": "{replicas: 3, latency: {distribution: lognormal, median: 20ms, p95: 60ms}}",
    "expect": "{outcome: RolledBack, within: 10s}",
    "outcome": "RolledBack",
    "replicas": "3",
    "latency": "{distribution: lognormal, median: 20ms, p95: 60ms}",
    "distribution": "lognormal",
    "predictions.distribution": "beta",
    "p95": "60ms",
    "median": "20ms",
    "medians": "[20ms, 100ms]",
    "shape": "2.5",
    "weight": "0.1",
    "a": "2",
    "b": "5",
    "at": "20s",
    "arm": "canary",
    "factor": "3",
    "decay": "60s",
    "patch.kind": "Deployment",
    "patch.name": "model",
    "merge": "{spec: {replicas: 4}}",
    "delete.kind": "Deployment",
    "delete.name": "model-canary",
    "perSecond": "0.01",
    "lasting": "3s",
}


class BadStory(Exception):
    """What is wrong with a scenario file, a line for each mistake: file, field and remedy."""


class _Yaml(documents.Document):
    """YAML whose scalars are those of JSON."""


_TAG = "tag:yaml.org,2002:"
_Yaml.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] not in (_TAG + "bool", _TAG + "timestamp", _TAG + "float")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver(_TAG + "bool", re.compile(r"(?:true|false)\Z"), list("tf"))
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")  # .nan and .inf are text
_Yaml.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))


def _instead(path: Path) -> str:
    """What to type: one of our own stories, where it was called by its name."""
    named = HERE / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.parent == Path() and named.exists():
        return f"a story of ours has its path, scenarios/{named.name}"
    return "give the path of a scenario file, such as scenarios/errors-burst.yaml"


def meant(name: str, known: Sequence[str]) -> str:
    """The word that was meant, whatever its capitals, and all that are known."""
    likely = _near(name, known)
    return "".join(f"did you mean {each}? " for each in likely) + f"known are {', '.join(known)}"


def _near(name: str, known: Sequence[str]) -> list[str]:
    """The one word of those that is written nearly so, or is the only one to hold what was written."""
    folded = name.casefold()
    near = get_close_matches(folded, [each.casefold() for each in known], n=1, cutoff=0.75)
    if len(folded) >= PART and not near:
        near = [each.casefold() for each in known if folded in each.casefold() or each.casefold() in folded]
    return [each for each in known if [each.casefold()] == near]


def read(path: Path) -> "Field":
    """The file's top value; a file that cannot be read, or is not YAML, raises `BadStory`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as trouble:
        raise BadStory(
            f"{path}: cannot be read: {trouble.strerror or trouble}; {_instead(path)}"
        ) from trouble
    except ValueError as trouble:
        raise BadStory(f"{path}: is not UTF-8 text; save it as UTF-8") from trouble
    return parse(text, file=str(path))


def parse(text: str, *, file: str) -> "Field":
    """The top value of `text`; `file` is only its name in complaints."""
    try:
        value = documents.loaded(text, _Yaml)
        _as_json(value)
    except yaml.MarkedYAMLError as trouble:
        mark = trouble.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the whole file"
        said = _line(trouble.problem or trouble.context)
        raise BadStory(f"{file}: {where}: is not YAML: {said}; correct that place") from trouble
    except ValueError as trouble:
        raise BadStory(f"{file}: {_line(trouble)}") from trouble
    return Field(file=file, path="", value=value)


def _as_json(value: Any) -> None:
    """Nothing; `ValueError` if JSON has no such value."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as trouble:
        raise ValueError(f"holds what JSON cannot: {trouble}; give text, finite numbers, lists") from trouble


def _line(what: object) -> str:
    return " ".join(str(what).split())


def shown(value: object) -> str:
    """`value` as the file's author would recognise it, cut short."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One value of the file, and where it stands."""

    file: str
    path: str
    value: Any
    noted: list[str] = field(
        default_factory=list, compare=False, repr=False
    )  # what is wrong, one list a file

    @contextmanager
    def noting(self) -> Iterator[None]:
        """What is wrong inside is noted, and the rest of the file is read all the same."""
        try:
            yield
        except BadStory as bad:
            self.noted.append(str(bad).removeprefix(f"{self.file}: "))

    @property
    def wrongs(self) -> int:
        """How many mistakes were noted so far, in the whole file."""
        return len(self.noted)

    def misread(self) -> BadStory:
        """All that was noted, once; of a field that was unknown twice, the first."""
        wrong = list({each.partition(";")[0]: each for each in reversed(self.noted)}.values())[::-1]
        more = [f"and {len(wrong) - MOST} more, mend these first"] if len(wrong) > MOST else []
        return BadStory("\n".join(f"{self.file}: {each}" for each in [*wrong[:MOST], *more]))

    def bad(self, expected: str) -> BadStory:
        """The complaint that something else stands here than was expected."""
        return self.wrong(f"expected {expected}, got {shown(self.value)}")

    def wrong(self, sentence: str) -> BadStory:
        """A complaint about this field in free words."""
        return BadStory(f"{self.file}: {self.path or 'the whole file'}: {sentence}")

    def table(self, *names: str) -> "Table":
        """The mapping that stands here, with no other fields than these."""
        if not isinstance(self.value, dict):
            raise self.bad(f"a mapping with {', '.join(names)}")
        for name in self.value:
            if name not in names:
                with self.noting():
                    raise self.under(str(name)).wrong(f"is unknown here; {meant(str(name), names)}")
        inside = {name: self.under(name, value) for name, value in self.value.items() if name in names}
        return Table(whole=self, inside=inside)

    def under(self, name: str, value: Any = None) -> "Field":
        """The field of that name inside."""
        name = name if re.fullmatch(r"[\w-]+", name) else json.dumps(name)
        path = f"{self.path}.{name}" if self.path else name
        return replace(self, path=path, value=value)

    def each(self, read: Callable[["Field"], T]) -> tuple[T, ...]:
        """The entries of the list that stands here, as `read` understands them."""
        found = []
        for one in self.items():
            with self.noting():
                found.append(read(one))
        return tuple(found)

    def items(self) -> tuple["Field", ...]:
        """The entries of the list that stands here."""
        if not isinstance(self.value, list):
            raise self.bad("a list")
        return tuple(
            replace(self, path=f"{self.path}[{at}]", value=value) for at, value in enumerate(self.value)
        )

    def mapping(self) -> Mapping[str, Any]:
        """The mapping that stands here, as it is; somebody else knows its fields."""
        if not isinstance(self.value, dict):
            raise self.bad("a mapping")
        return self.value

    def text(self) -> str:
        """The string that stands here."""
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.bad("a string")
        return self.value

    def matching(self, pattern: str, example: str) -> str:
        """The string that stands here, of this form."""
        if not isinstance(self.value, str) or not re.fullmatch(pattern, self.value):
            raise self.bad(f'a name like "{example}"')
        return self.value

    def one_of(self, *words: str) -> str:
        """The word that stands here, one of these."""
        if not isinstance(self.value, str) or self.value not in words:
            near = _near(self.value, words) if isinstance(self.value, str) else []
            likely = "".join(f"; did you mean {each}?" for each in near if len(words) > 1)
            among = f"one of {', '.join(words)}" if len(words) > 1 else words[0]
            raise self.wrong(f"expected {among}, got {shown(self.value)}{likely}")
        return self.value

    def true(self) -> bool:
        """`True`; what is not the case is left out instead."""
        if self.value is not True:
            raise self.bad("true (leave it out otherwise)")
        return True

    def whole(self, *, least: int, most: int) -> int:
        """The whole number that stands here, within these bounds."""
        number = isinstance(self.value, int) and not isinstance(self.value, bool)
        if not number or not least <= self.value <= most:
            raise self.bad(f"a whole number from {least} to {most}")
        return int(self.value)

    def number(self, *, above: float | None = None, least: float = 0.0, most: float = 1e6) -> float:
        """The number that stands here, within these bounds."""
        number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        low_enough = number and self.value <= most
        if not low_enough or not (self.value > above if above is not None else self.value >= least):
            bound = f"above {above:g}" if above is not None else f"from {least:g}"
            raise self.bad(f"a number {bound} to {most:g}")
        return float(self.value)

    def percent(self) -> float:
        """The share that stands here as `"0.1%"`, from 0 to 1."""
        if isinstance(self.value, str) and _PERCENT.fullmatch(self.value):
            share = float(self.value[:-1]) / 100
            if share <= 1:
                return share
        raise self.bad('a percentage from 0% to 100% like "0.1%"')

    def duration(self, *, positive: bool = False) -> timedelta:
        """The duration that stands here as `"20s"`, of at most a day."""
        if not isinstance(self.value, str) or not _DURATION.fullmatch(self.value):
            raise self.bad('a duration like "20s"')
        parts = _DURATION_PART.findall(self.value)
        lasting = sum((timedelta(**{_UNITS[unit]: int(n)}) for n, unit in parts), timedelta(0))
        if lasting > LONGEST:
            raise self.bad('a duration of at most "24h"')
        if positive and not lasting:
            raise self.bad('a duration above 0s like "20s"')
        return lasting


def _example(path: str) -> str:
    """The field as one writes it."""
    *_, within, name = ("", *path.split("."))
    return f"{name}: {EXAMPLES.get(f'{within}.{name}') or EXAMPLES[name]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A mapping of the file, by field."""

    whole: Field
    inside: Mapping[str, Field]

    def __contains__(self, name: str) -> bool:
        return name in self.inside

    def need(self, name: str, *, of: Iterable[str] = ()) -> Field:
        """The field, which must be there; `of` are the values it may have."""
        if name not in self.inside:
            missing = self.whole.under(name)
            say = f"one of {', '.join(of)}" if of else f"it, such as {_example(missing.path)}"
            raise missing.wrong(f"is missing; say {say}")
        return self.inside[name]

    def must(self, name: str, read: Callable[[Field], T], instead: T) -> T:
        """The field as `read` understands it; where it is missing or wrong that is noted, and `instead`."""
        with self.whole.noting():
            self.need(name)
        return self.get(name, read, instead)

    def get(self, name: str, read: Callable[[Field], T], default: T) -> T:
        """The field as `read` understands it, or the default where it is not said."""
        if name in self.inside:
            with self.whole.noting():
                return read(self.inside[name])
        return default
