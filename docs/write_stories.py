"""Writes docs/stories.md: every field of a scenario file, as the code that reads one has it.

`make reference`. Names, values and defaults are read out of scenarios/story.py; what each means stands here,
and a field without a meaning, or a meaning without its field, is an error.
"""
# ruff: noqa: INP001
# (a script, not a package)

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from scenarios import story

HERE = Path(__file__).parent
PAGE = HERE / "stories.md"
CODE = Path(story.__file__)

INTRODUCTION = """\
<!-- written by `make reference` from scenarios/story.py; change that instead -->
# Stories, field by field

A story is a scenario file: who serves how, what breaks when, what should come of it. [A story of your
own](testing.md#a-story-of-your-own) shows one and how it is played; [scenarios/](../scenarios) holds those
that are there. A time is counted from the start of the canary's pods. A duration is digits with `ms`, `s`,
`m` or `h`; a percentage a text such as `"0.1%"`. What is not said has the default; of the canary, what is
said of stable.

`ARM` is `stable` or `canary`. Of stable, what is not said is: no errors, predictions as drawn from
Beta(2, 5), no clicks, no real model. All but `metadata.name` stands in `spec`.
"""
GATES = """
**Who answers gates.** In virtual time whoever a `webhook` asks says yes, at one of the first questions,
unless a fault strikes `alerts`: then nobody answers, and the gate stays shut. With `--live` the URL is really
asked. At a `manual` gate nobody speaks but an edit, such as
`{at: 60s, patch: {kind: CanaryRun, name: RUN, merge: {spec: {approved: [ann]}}}}`; RUN stands in the line
that the story prints at the gate, and is the same whenever the same story is played. With `--live` on a
terminal you can: `serin approve RUN -n lab` in another one, with the `KUBECONFIG` that the story prints.
"""
KINDS = """
What can be done to a target:

| target | kind |
|---|---|
"""
MEANINGS = {
    "metadata.name": "Small letters, digits and dashes, as in `latency-doubles`.",
    "seed": "Of all chance in it: the same seed plays the same story.",
    "duration": "When to give up.",
    "traffic.requestsPerSecond": "Of all callers, to both arms; nobody waits for an answer to ask again.",
    "propagation": "From a changed weight to the proxy.",
    "history": "For how long stable is read before the canary comes; not with `--live`.",
    "controllers": "Replicas of the controller.",
    "stable": "How stable behaves.",
    "canary": "How the canary behaves.",
    "ARM.replicas": "Pods.",
    "ARM.latency": "How long answers take.",
    "ARM.latency.distribution": "Of the times that answers take.",
    "ARM.latency.p95": "One in twenty is slower.",
    "ARM.latency.median": "Half are quicker.",
    "ARM.latency.shape": "Of the tail: the smaller, the heavier.",
    "ARM.latency.medians[]": "Two: of the faster and of the slower requests.",
    "ARM.latency.weight": "The share of the slower ones.",
    "ARM.errorRate": "The share of requests that fail.",
    "ARM.predictions": "How predictions are distributed.",
    "ARM.predictions.distribution": "Of what is predicted, from 0 to 1.",
    "ARM.predictions.a": "The beta distribution's first parameter.",
    "ARM.predictions.b": "Its second.",
    "ARM.clickRate": "The share of answers that are clicked: `model_clicks_total` of "
    "`model_impressions_total`, which a `Proportion` check called `clicks` reads, and one of another name "
    "that says them as its `counters`.",
    "ARM.model": "A real small model in place of drawn predictions; for `Shadow` checks.",
    "faults[]": "What breaks: an arm's behaviour (`arm`), or something around it (`target`).",
    "faults[].at": "When it begins.",
    "faults[].for": "For how long; for ever, if nothing is said.",
    "faults[].arm": "Whose pods; one or more of the effects below go with it.",
    "faults[].pods": "Which of them; `new`: those that are started after `at`.",
    "faults[].latencyFactor": "Answers take so many times as long.",
    "faults[].latencyAdd": "Answers take so much longer.",
    "faults[].errorRate": "The share that fails.",
    "faults[].predictions": "Other predictions, as under `stable`.",
    "faults[].clickRate": "Another share of clicks.",
    "faults[].crash": "The process dies.",
    "faults[].hang": "It takes requests and never answers.",
    "faults[].blackhole": "Packets to it get lost.",
    "faults[].coldStart.factor": "The first answers take so many times as long ...",
    "faults[].coldStart.decay": "... which wears off within about this time.",
    "faults[].target": "What is struck around the arms.",
    "faults[].kind": "How a target is struck.",
    "edits[]": "What people do: one of `patch`, `delete`, `evict` each.",
    "edits[].at": "When; 0s is before anything begins, and for a patch alone.",
    "edits[].patch.kind": "Of the object.",
    "edits[].patch.name": "Of the object.",
    "edits[].patch.merge": "A JSON merge patch of it.",
    "edits[].delete.kind": "Of the object.",
    "edits[].delete.name": "Of the object.",
    "edits[].evict.arm": "Whose pods are evicted, healthy as they are.",
    "edits[].evict.pods": "How many.",
    "noise.common.sd": "Both arms' common ups and downs, standard deviation of log latency and log rate.",
    "noise.common.tau": "How long such an up or down lasts.",
    "noise.common.diurnal": "The height of a wave beside it, a day long.",
    "noise.pod.sd": "The same of each pod for itself.",
    "noise.pod.tau": "How long that lasts.",
    "noise.pod.static": "How much pods differ for good.",
    "noise.bursts.perSecond": "How often a pod has a burst, such as a garbage collection.",
    "noise.bursts.factor": "Its answers take so many times as long then.",
    "noise.bursts.lasting": "For how long.",
    "policy": "A `CanaryPolicy`'s spec: [field by field](policy.md).",
    "expect": "What should come of it; the exit code says whether it did.",
    "expect.outcome": "`Held`: the run goes on, or waits, when the duration is over.",
    "expect.within": "Of the fault, or of the canary's first request if that is later, until its last.",
    "expect.check": "Which check failed; one of several `quantiles` by its name, or as NAME-p99.",
    "expect.reason": "The run's [reason](policy.md#reasons).",
    "expect.oneOf[]": "Several endings, each like `expect`, of which one will do.",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A field: where it stands, what it may be, whether it must be there, what it is otherwise."""

    path: str
    value: str
    default: str


FUNCTIONS = {one.name: one for one in ast.parse(CODE.read_text()).body if isinstance(one, ast.FunctionDef)}
Names = dict[str, str]  # variables that hold a mapping of the file: where it stands


def rows(function: str, path: str, given: Names) -> Iterator[Row]:
    """Every field that the function reads, where its mapping stands at `path`."""
    code = FUNCTIONS[function]
    known = {**dict.fromkeys((one.arg for one in code.args.args), path), **given}
    local = dict(vars(story))
    for node in _in_order(code):
        if isinstance(node, ast.Assign):
            _assigned(node, known, local)
        elif isinstance(node, ast.Call):
            yield from _call(node, known, local)


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Its parts as they are written; what is raised says nothing of what may be there."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.Raise):
            yield child
            yield from _in_order(child)


def _assigned(node: ast.Assign, known: Names, local: dict[str, Any]) -> None:
    """What variables hold from here on: mappings of the file, or values."""
    (target,) = node.targets
    pairs = [(target, node.value)]
    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
        pairs = list(zip(target.elts, node.value.elts, strict=True))
    for name, value in pairs:
        if not isinstance(name, ast.Name):
            continue
        at = _place(value, known)
        if at is not None:
            known[name.id] = at
        else:
            local[name.id] = _value(value, local)


def _place(node: ast.expr, known: Names) -> str | None:
    """Where the mapping stands that a variable, its `.table(...)` or its `.need(NAME)` leads to."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        above = _place(node.func.value, known)
        if above is not None and node.func.attr == "need" and isinstance(node.args[0], ast.Constant):
            return _under(above, str(node.args[0].value))
        if above is not None and node.func.attr in {"table", "items"}:
            return above + ("[]" if node.func.attr == "items" else "")
    return None


def _under(above: str, name: str) -> str:
    return f"{above}.{name}" if above else name


def _call(node: ast.Call, known: Names, local: dict[str, Any]) -> Iterator[Row]:
    """The field that a call reads, or all that the function reads which it calls."""
    if isinstance(node.func, ast.Attribute):
        at, name = _place(node.func.value, known), node.func.attr
        if name == "get" and at is not None and isinstance(node.args[0], ast.Constant):
            default = node.args[2] if len(node.args) > 2 else node.keywords[0].value
            path = _under(at, str(node.args[0].value))
            yield from _field(path, node.args[1], known, local, default=_shown(_value(default, local)))
        elif name == "must" and at is not None and isinstance(node.args[0], ast.Constant):
            path = _under(at, str(node.args[0].value))
            yield from _field(path, node.args[1], known, local, default=NEEDED)
        elif name == "each" and at is not None and isinstance(node.args[0], ast.Name):
            yield from rows(node.args[0].id, f"{at}[]", {})
        elif at is not None and at and name in WORDS:
            yield Row(at, _words(name, node, local), NEEDED)
    elif isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and node.args:
        at = _place(node.args[0], known)
        if at is not None:
            yield from _through(node.func.id, at, default=NEEDED)
    elif isinstance(node.func, ast.Name) and node.func.id == "map" and isinstance(node.args[0], ast.Name):
        at = _place(node.args[1], known)
        if at is not None and node.args[0].id in FUNCTIONS:
            yield from rows(node.args[0].id, at, {})


def _field(path: str, read: ast.expr, known: Names, local: dict[str, Any], *, default: str) -> Iterator[Row]:
    """The field that `read` understands: a method of `Field`, a function, or a lambda."""
    if isinstance(read, ast.Attribute):
        yield Row(path, WORDS[read.attr], default)
    elif isinstance(read, ast.Name):
        yield from _through(read.id, path, default=default)
    elif isinstance(read, ast.Lambda):
        inside = {**known, read.args.args[0].arg: path}
        for node in (read.body, *_in_order(read.body)):
            if isinstance(node, ast.Call):
                found = _call(node, inside, local)
                yield from (Row(row.path, row.value, default) if row.path == path else row for row in found)


def _through(function: str, path: str, *, default: str) -> Iterator[Row]:
    """What another function reads: one value, or the fields of a mapping."""
    for row in rows(function, path, {}):
        yield Row(path, row.value, default) if row.path == path else row


WORDS = {
    "duration": "duration",
    "percent": "percentage",
    "text": "text",
    "mapping": "mapping",
    "true": "`true`",
    "whole": "whole number",
    "number": "number",
    "one_of": "",
    "matching": "name",
}
NEEDED = "needed"


def _words(method: str, node: ast.Call, local: dict[str, Any]) -> str:
    """What may stand there, in short."""
    if method == "one_of":
        return ", ".join(_choices(node.args, local))
    bounds = {one.arg: _value(one.value, local) for one in node.keywords}
    if method == "duration":
        return "duration above 0s" if bounds.get("positive") else "duration"
    said = {"above": "above", "least": "from", "most": "to"}
    limits = (f"{said[name]} {bound}" for name, bound in bounds.items() if name in said)
    return " ".join([WORDS[method], *limits])


def _choices(arguments: list[ast.expr], local: dict[str, Any]) -> Iterator[str]:
    for each in arguments:
        if isinstance(each, ast.Constant):
            yield f"`{each.value}`"
        elif isinstance(each, ast.Starred) and isinstance(each.value, ast.Subscript):  # by another field
            yield "by target, below"
        elif isinstance(each, ast.Starred):
            yield from (f"`{one}`" for one in _value(each.value, local))


def _value(node: ast.expr, local: dict[str, Any]) -> Any:
    """What the expression comes to; None where that depends on the file."""
    try:
        return eval(compile(ast.Expression(node), CODE.name, "eval"), local)  # noqa: S307 - our own code
    except (NameError, AttributeError, TypeError, KeyError):
        return AS_STABLE if ast.unparse(node).startswith("like.") else None


AS_STABLE = "as stable's"


def _shown(value: Any) -> str:
    """A default as the file would say it."""
    if isinstance(value, timedelta):
        whole = value.total_seconds()
        return f"`{whole:g}s`" if whole == int(whole) else f"`{1000 * whole:g}ms`"
    if value == AS_STABLE:
        return AS_STABLE
    if isinstance(value, StrEnum | int | float) and not isinstance(value, bool):
        return f"`{value}`" if isinstance(value, StrEnum) else f"`{value:g}`"
    return ""


def found() -> dict[str, Row]:
    """Every field by its path, the arms' as those of `ARM`, the first that is read of each."""
    table: dict[str, Row] = {}
    for row in rows(READER, "", {}):
        path = re.sub(r"^(stable|canary)\.", "ARM.", row.path.removeprefix("spec."))
        if path not in HEAD and not path.startswith(ALIKE):
            table.setdefault(path, Row(path, row.value, INSTEAD.get(path, row.default)))
    return table


HEAD = {"apiVersion", "kind"}
ALIKE = ("faults[].predictions.", "expect.oneOf[].")  # which are as what they are named after
INSTEAD = {  # of "needed", where that depends on another field
    "faults[].arm": "one of the two",
    "faults[].target": "one of the two",
    "ARM.replicas": "needed of stable; the canary's are as many",
    "ARM.latency.p95": "needed by each",
    "ARM.latency.median": "needed by `lognormal`, not for others",
    "ARM.latency.shape": "needed by `pareto`, not for others",
    "ARM.latency.medians[]": "needed by `bimodal`, not for others",
    "ARM.latency.weight": "needed by `bimodal`, not for others",
}


GROUPS = {"stable": NEEDED, "expect": NEEDED, "ARM.latency": "needed of stable"}  # what holds fields that are

READER = "_read"


def page() -> str:
    """The whole page."""
    there = found()
    wrong = {path for path in MEANINGS if path not in there and not _holds(path, there)}
    wrong |= there.keys() - MEANINGS.keys()
    if wrong:
        raise SystemExit(f"docs/write_stories.py: fields and meanings differ: {', '.join(sorted(wrong))}")
    lines = [INTRODUCTION, "\n| field | value | default | what it says |\n|---|---|---|---|\n"]
    for path, meaning in MEANINGS.items():
        group = Row(path, "mapping" if not path.endswith("[]") else "list", GROUPS.get(path, ""))
        row = there.get(path, group)
        lines.append(f"| `{path}` | {row.value} | {row.default} | {meaning} |\n")
    lines += [GATES, KINDS]
    lines += [
        f"| `{target}` | {', '.join(f'`{each}`' for each in kinds)} |\n"
        for target, kinds in story.KINDS.items()
    ]
    return "".join(lines)


def _holds(path: str, there: dict[str, Row]) -> bool:
    """Whether the path is that of a mapping or list whose fields are there."""
    alike = "ARM" if path in {"stable", "canary"} else path
    return any(one.startswith(f"{alike}.") for one in there) or f"{path}." in ALIKE


if __name__ == "__main__":
    PAGE.write_text(page())
