"""AnalysisTemplates as the checks of a policy."""

import re
from collections.abc import Iterator
from typing import Any

from controller.convert import policy, promql
from controller.convert.account import Account, Target, claimed
from controller.convert.argo_fields import TEMPLATE
from controller.convert.given import Given
from controller.convert.policy import Draft

Json = Any
CANARY, BLUE_GREEN = "spec.strategy.canary", "spec.strategy.blueGreen"
LOOKS = ("interval", "initialDelay", "count", "failureLimit", "inconclusiveLimit", "consecutiveErrorLimit")
_BOUND = re.compile(r"(?:result(?:\[0\])?|default\(result(?:\[0\])?,.*\))(<=|>=|<|>)([0-9.]+)")


def checks(account: Account, draft: Draft, given: Given) -> None:
    """Every template that the Rollout names has its checks in the policy, once."""
    done: dict[int, Target | str] = {}
    for at in _strategies(account):
        dry = {account.get(f"{each}.metricName", str) or "" for each in account.each(f"{at}.dryRun")}
        for reference in account.each(f"{at}.templates"):
            template = _found(account, given, reference)
            path = f"{reference}.templateName"
            if template is None:
                name = account.get(path, str)
                account.missing(
                    path, f"AnalysisTemplate {name} is not among the files; give it too, and it is converted"
                )
                continue
            made = _checks(template, given, draft, dry, done)
            if made is None:
                account.missing(path, "none of its metrics became a check, as the template's own lines say")
            else:
                account.becomes(path, made, "its checks hold in all steps, from the first request on")


def _strategies(account: Account) -> Iterator[str]:
    """Where a Rollout names templates."""
    yield f"{CANARY}.analysis"
    for at in account.each(f"{CANARY}.steps"):
        yield f"{at}.analysis"
    yield f"{BLUE_GREEN}.prePromotionAnalysis"
    yield f"{BLUE_GREEN}.postPromotionAnalysis"


def _found(account: Account, given: Given, at: str) -> Account | None:
    name = account.get(f"{at}.templateName", str) or ""
    kind = "ClusterAnalysisTemplate" if account.get(f"{at}.clusterScope", bool) else "AnalysisTemplate"
    return given.find(kind, name, account.source)


def _checks(
    template: Account, given: Given, draft: Draft, dry: set[str], done: dict[int, Target | str]
) -> Target | None:
    """The template's checks are in the policy; the first of them, or None if there is none."""
    if id(template) in done:
        made = done[id(template)]
        return made if isinstance(made, Target) else None
    done[id(template)] = ""
    dry = dry | {template.get(f"{each}.metricName", str) or "" for each in template.each("spec.dryRun")}
    first: Target | None = None
    for at in template.each("spec.metrics"):
        made_ = _metric(template, draft, at, dry)
        first = first or made_
    for each in template.each("spec.templates"):
        other = _found(template, given, each)
        inner = _checks(other, given, draft, dry, done) if other else None
        if inner:
            claimed(template, f"{each}.templateName", inner, "")
        first = first or inner
    if first:
        done[id(template)] = first
    return first


def _metric(template: Account, draft: Draft, at: str, dry: set[str]) -> Target | None:
    """The metric's check, or what to do instead."""
    name = template.get(f"{at}.name", str) or "metric"
    query = template.get(f"{at}.provider.prometheus.query", str)
    if any(_matches(each, name) for each in dry):
        found: Any = (
            "a dry run decides nothing, and here every check can roll back: watch it with an "
            "alert of Prometheus"
        )
    elif query is None:
        found = "as its provider says"
    else:
        found = policy.check(promql.asked(query), **_limits(template, at))
    query_path = f"{at}.provider.prometheus.query"
    if isinstance(found, str):
        claimed(template, f"{at}.name", None, found)
        claimed(template, query_path, None, "as its name says")
        for part in ("successCondition", "failureCondition", *LOOKS):
            claimed(template, f"{at}.{part}", None, "as its name says")
        return None
    check, note = found
    to = draft.check(name, check)
    claimed(template, f"{at}.name", to, note)
    limit = policy.limited(check, to)
    if limit:
        for part in ("successCondition", "failureCondition"):
            claimed(template, f"{at}.{part}", limit, "")
    claimed(template, query_path, to, "which pods are meant Serin knows by itself")
    return to


def _matches(pattern: str, name: str) -> bool:
    try:
        return bool(pattern) and re.search(pattern, name) is not None
    except re.error:
        return pattern == name


def _limits(template: Account, at: str) -> dict[str, float | None]:
    """Between which values the conditions are content."""
    limits: dict[str, float | None] = {"least": None, "most": None}
    for part, wanted in (("successCondition", True), ("failureCondition", False)):
        for text in re.split(r"&&|\|\||\band\b|\bor\b", template.get(f"{at}.{part}", str) or ""):
            bound = _BOUND.fullmatch(re.sub(r"\s+", "", text).strip("()"))
            if bound:
                least = bound[1].startswith(">") == wanted
                limits["least" if least else "most"] = float(bound[2])
    return limits


def templates(given: Given) -> None:
    """What nobody claimed of the templates is; after the Rollouts."""
    for each in given.of("AnalysisTemplate", "ClusterAnalysisTemplate"):
        each.settle(TEMPLATE)
