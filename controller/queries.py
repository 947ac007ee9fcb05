"""What a Prometheus is asked, in PromQL, and what its answers say."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from math import isfinite
from string import Template
from typing import Any, TypeGuard

from controller.exposition import Series

Json = Any
Target = tuple[str, str]  # job and instance
Last = float | str  # when a target was scraped last, or by which labels it is there more than once

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")  # the schema says so, too


class Unanswered(ValueError):
    """A query was not answered; the text names the server, the query and the remedy."""


class Unreadable(Unanswered):
    """The server itself says that the query is none (HTTP 400): what was asked is at fault."""


@cache
def _templates() -> Mapping[str, Template]:
    text = files("controller").joinpath("queries.toml").read_text(encoding="utf-8")
    return {name: Template(query.strip()) for name, query in tomllib.loads(text).items()}


def query(name: str, namespace: str, pods: Iterable[str]) -> str:
    """The PromQL that asks for the series of that name, of exactly these pods; raises `Unanswered`."""
    one_of = "|".join(re.escape(pod) for pod in sorted(pods))
    template = _templates().get(name)
    if template is None:
        if not _METRIC.fullmatch(name):
            raise Unanswered(
                f'"{name}" is no metric\'s name, and nothing was asked; correct it in the policy'
            )
        template = _templates()["counter"]
    return template.substitute(name=name, pods=_selected(namespace, one_of))


def mixed(name: str, namespace: str, pods: Iterable[str]) -> str:
    """The PromQL that finds those of the pods whose series of that name are of several scrapes at once."""
    one_of = "|".join(re.escape(pod) for pod in sorted(pods))
    return _templates()["mixed"].substitute(name=name, pods=_selected(namespace, one_of))


def _selected(namespace: str, pattern: str) -> str:
    return f"namespace={_quoted(namespace)},pod=~{_quoted(pattern)}"


def scrapes(namespace: str, pattern: str, *, seconds: float) -> str:
    """The PromQL that counts the scrapes in so many seconds of each pod whose name matches, by target."""
    labels = _selected(namespace, pattern)
    return f"max by (pod, job, instance) (count_over_time(up{{{labels}}}[{max(1, round(seconds))}s]))"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def instant(result: Json) -> float:
    """What `time()` says, seconds since 1970; raises `ValueError`."""
    seconds = float(result[1])
    if not isfinite(seconds):
        raise ValueError(f"no time: {seconds}")
    return seconds


def by_target(result: Json) -> Mapping[str, Mapping[Target, list[Series]]]:
    """An instant vector by pod, and within a pod by what was scraped."""
    pods: dict[str, dict[Target, list[Series]]] = {}
    for one in result:
        labels = dict(one["metric"])
        if not all(isinstance(said, str) for said in labels.values()):
            raise TypeError(f"labels that are no text: {labels}")
        target = labels.pop("job", ""), labels.pop("instance", "")
        series = Series(labels, float(one["value"][1]))
        pods.setdefault(labels.pop("pod"), {}).setdefault(target, []).append(series)
    return pods


def last(series: Sequence[Series]) -> Last:
    """When the target was scraped; the labels that tell its series apart where it has more than one."""
    if len(series) == 1:
        return series[0].value
    names = sorted({name for one in series for name in one.labels})
    said = {name: sorted({one.labels.get(name, "") for one in series}) for name in names}
    return "; ".join(f"{name}: {', '.join(values)}" for name, values in said.items() if len(values) > 1)


def is_time(last: Last) -> TypeGuard[float]:
    """Whether it is that."""
    return not isinstance(last, str)
