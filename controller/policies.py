"""A CanaryPolicy's spec as the words of `model`: what a person wrote, made into what a run does.

`wire` holds the shape, the CRD's schema the defaults. What the schema allows and this version cannot do is
refused here, with the field and a remedy.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from analysis.evidence import SHARES, CheckKind, CheckSpec, normalised
from controller import wire
from controller.model import Alert, Gate, Page, Policy, ShadowCheck
from controller.record import at_quantile
from controller.telling import SEVERITIES

IMPRESSIONS = "model_impressions_total"  # a proportion's trials, where the check does not name them
SHADOW = "Shadow"  # a type of check that no page of a pod can answer
LEAST = 1e-9  # of alpha, beta and a check's share: nobody measures how often that is
SHADOW_SHARE = 0.20  # of alpha, before all are normalised

# What clients make another path of, or the servers behind them: before the API server's proxy kubectl
# resolves dots itself, and would carry a person's rights to where a pod says. The schema has it as a rule.
_ASTRAY = re.compile(r"[\\#]|//|%(2[ef]|5c|00)|(?<![^/])\.\.?(?![^/])", re.IGNORECASE)
_PRINTED = re.compile(r"[!-~]*")
STRAIGHT = "say one of letters and digits, without . or .. or // or %2e or %2f in it"

Json = Any


def astray(path: str) -> bool:
    """Whether the path of a metrics page may lead elsewhere than it says."""
    return not _PRINTED.fullmatch(path) or bool(
        _ASTRAY.search(f"/{path.removeprefix('/')}".partition("?")[0])
    )


def _single(checks: tuple[wire.Check, ...]) -> tuple[wire.Check, ...]:
    """One check for each quantile, named after it; a check of several is these, its share split evenly."""
    single = tuple(one for check in checks for one in _quantiles(check))
    names = [check.name for check in single]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise wire.Malformed(
            f"checks[{twice}].name: a check of quantiles has one of this name; choose another"
        )
    return single


def _quantiles(check: wire.Check) -> Iterator[wire.Check]:
    if not check.quantiles:
        yield check
    share = SHARES[CheckKind.LATENCY] if check.share is None else check.share
    for level in check.quantiles:
        name = at_quantile(check.name, level)
        yield replace(check, name=name, quantile=level, share=share / len(check.quantiles))


def _checks(checks: tuple[wire.Check, ...], max_latency_increase: str | None) -> tuple[CheckSpec, ...]:
    """The checks that pods' pages answer."""
    shares = {check.name: check.share for check in checks if check.share is not None}
    beside = sum(shares.get(check.name, SHADOW_SHARE) for check in checks if check.type == SHADOW)
    read = (_check(check, max_latency_increase) for check in checks if check.type != SHADOW)
    return normalised(read, shares, beside=beside)


def _shadow(checks: tuple[wire.Check, ...], others: tuple[CheckSpec, ...]) -> ShadowCheck | None:
    """The check that replayed requests answer; it has the part of alpha that the others leave."""
    found = [check for check in checks if check.type == SHADOW]
    if not found:
        return None
    field = f"checks[{found[0].name}].maxFlips"
    flips = wire.percent(found[0].max_flips, field=field)
    if len(found) > 1 or not others:
        raise wire.Malformed("checks: give one Shadow check, beside at least one check of another type")
    if not 0 < flips < 1:
        raise wire.Malformed(
            f"{field}: {found[0].max_flips} proves nothing; give more than 0%, less than 100%"
        )
    share = 1 - sum(check.share for check in others)
    return ShadowCheck(name=found[0].name, max_flips=flips, required=found[0].required, share=share)


def _check(check: wire.Check, max_latency_increase: str | None) -> CheckSpec:
    field = f"checks[{check.name}]"
    if check.type not in set(CheckKind):
        known = ", ".join([*CheckKind, SHADOW])
        raise wire.Malformed(
            f"{field}.type: {check.type} is not available in this version; use one of {known}"
        )
    for name, given in (("plus", check.plus), ("maxDecrease", check.max_decrease)):
        if wire.percent(given, field=f"{field}.{name}") >= 1:
            raise wire.Malformed(f"{field}.{name}: {given} allows everything; give less than 100%")
    kind = CheckKind(check.type)
    increase = check.max_increase
    if kind is CheckKind.LATENCY and max_latency_increase is not None:
        increase = max_latency_increase
    return CheckSpec(
        name=check.name,
        kind=kind,
        quantile=check.quantile,
        max_increase=wire.percent(increase, field=f"{field}.maxIncrease"),
        plus=wire.percent(check.plus, field=f"{field}.plus"),
        max_decrease=wire.percent(check.max_decrease, field=f"{field}.maxDecrease"),
        tolerance=check.tolerance,
        required=check.required,
        counters=_counters(check) if kind is CheckKind.PROPORTION else (),
    )


def _counters(check: wire.Check) -> tuple[str, str]:
    """The names of a proportion's hits and trials; if not given, the hits are called as the check is."""
    if check.counters is not None:
        return check.counters.hits, check.counters.trials
    return f"model_{check.name.replace('-', '_')}_total", IMPRESSIONS


def _page(check: wire.Check) -> Page | None:
    """The page that the check names, or None where it names a Prometheus."""
    given = check.source or wire.Source()
    if (given.scrape is None) == (given.prometheus is None):
        raise wire.Malformed(f"checks[{check.name}].source: give exactly one of scrape and prometheus")
    return None if given.scrape is None else Page(port=given.scrape.port, path=given.scrape.path)


def _led(check: wire.Check) -> None:
    """Raises `wire.Malformed` where the check's own page is one that is never read."""
    page = None if check.source is None else _page(check)
    if page is not None and astray(page.path or ""):
        raise wire.Malformed(f"checks[{check.name}].source.scrape.path: {STRAIGHT}")


DURATIONS = {"warmUp", "minStep", "stepTimeout", "progressDeadline", "noDataTimeout", "burstTolerance"}


def unusable(policy: Json) -> str | None:
    """What in a policy's spec this version cannot do, although the schema allows it; or None."""
    delays = policy.get("scaleDownDelay", {})
    try:
        given = _single(msgspec.convert(policy.get("checks", []), tuple[wire.Check, ...]))
        _shadow(given, _checks(given, None))
        for check in given:
            _led(check)
        _countable(policy, given)
        for field in DURATIONS & policy.keys():
            wire.duration(policy[field], field=field)
        for field, delay in delays.items():
            wire.duration(delay, field=f"scaleDownDelay.{field}")
    except (wire.Malformed, msgspec.ValidationError) as error:
        return f"policy: {error}"
    return None


def _countable(policy: Json, checks: Sequence[wire.Check]) -> None:
    """Parts of so small an alpha would be none in floating point, and evidence would have no end."""
    parts = {name: policy.get(name) for name in ("alpha", "beta")}
    parts |= {f"checks[{check.name}].share": check.share for check in checks}
    for field, value in parts.items():
        if value is not None and value < LEAST:
            raise wire.Malformed(f"{field}: {value:g} is too small to reckon with; give {LEAST:.9f} or more")


FORMATS = {
    "CloudEvent": "webhook",
    "Alertmanager": "alertmanager",
    "Teams": "teams",
    "Discord": "discord",
}
SECRET_URLS = ("Teams", "Discord")  # whoever knows them may post
URLS = "the URL of Teams and Discord stands in the Secret, and there is no url; others have a url"


def _alert(alert: wire.Alert) -> Alert:
    if alert.severity not in SEVERITIES:
        raise wire.Malformed(f"alerts[].severity: {alert.severity!r:.40} is none of {', '.join(SEVERITIES)}")
    if alert.slack is not None:
        slack = alert.slack.secret_ref
        return Alert(kind="slack", secret=slack.name, key=slack.key, on=alert.on, severity=alert.severity)
    if alert.webhook is None:
        raise wire.Malformed("alerts[]: give slack or webhook")
    secret, form = alert.webhook.secret_ref, alert.webhook.format
    name, key = (secret.name, secret.key) if secret else (None, None)
    if form not in FORMATS:
        raise wire.Malformed(f"alerts[].webhook.format: {form!r:.40} is none of {', '.join(FORMATS)}")
    if (alert.webhook.url is None) != (form in SECRET_URLS) or (form in SECRET_URLS and secret is None):
        raise wire.Malformed(f"alerts[].webhook: {URLS}")
    return Alert(
        kind=FORMATS[form],
        url=alert.webhook.url,
        secret=name,
        key=key,
        on=alert.on,
        severity=alert.severity,
    )


def _gate(gate: wire.Gate) -> Gate:
    if (gate.manual is None) == (gate.webhook is None):
        raise wire.Malformed("gates[]: give exactly one of manual and webhook")
    if gate.webhook is None or gate.webhook.url is None:
        return Gate(before=gate.before)
    secret = gate.webhook.secret_ref
    name, key = (secret.name, secret.key) if secret else (None, "")
    return Gate(before=gate.before, url=gate.webhook.url, secret=name, key=key)


def policy(spec: Json, *, max_latency_increase: str | None = None) -> Policy:
    """The policy that a complete CanaryPolicy spec holds; raises `wire.Malformed`."""
    try:
        return read(msgspec.convert(spec, wire.Policy), max_latency_increase=max_latency_increase)
    except msgspec.ValidationError as error:
        raise wire.Malformed(f"policy: {error}") from error


def read(given: wire.Policy, *, max_latency_increase: str | None = None) -> Policy:
    """The policy, with an annotation's latency margin if there is one; raises `wire.Malformed`."""
    single = _single(given.checks)
    checks = _checks(single, max_latency_increase)
    return Policy(
        steps=given.steps,
        warm_up=wire.duration(given.warm_up, field="warmUp"),
        min_step=wire.duration(given.min_step, field="minStep"),
        min_requests=given.min_requests,
        step_timeout=wire.duration(given.step_timeout, field="stepTimeout"),
        progress_deadline=wire.duration(given.progress_deadline, field="progressDeadline"),
        alpha=given.alpha,
        beta=given.beta,
        canary_replicas=given.canary_replicas,
        on_inconclusive=given.on_inconclusive,
        on_no_data=given.on_no_data,
        no_data_timeout=wire.duration(given.no_data_timeout, field="noDataTimeout"),
        scale_down_promoted=wire.duration(given.scale_down_delay.promoted, field="scaleDownDelay.promoted"),
        scale_down_rolled_back=wire.duration(
            given.scale_down_delay.rolled_back, field="scaleDownDelay.rolledBack"
        ),
        promotion=given.promotion.mode,
        history_limit=given.history_limit,
        burst_tolerance=wire.duration(given.burst_tolerance, field="burstTolerance"),
        checks=checks,
        shadow=_shadow(single, checks),
        pages={check.name: _page(check) for check in single if check.source},
        alerts=tuple(_alert(alert) for alert in given.alerts),
        gates=tuple(_gate(gate) for gate in given.gates),
        preflight=given.preflight,
        preflight_skip=given.preflight_skip,
    )
