"""A Canary of Flagger, with its templates, its receivers and its Deployment, as a canary of Serin's."""

from collections.abc import Iterator
from math import ceil
from typing import Any

from controller.convert import policy, promql, receivers, workload
from controller.convert.account import Account, Target, claimed
from controller.convert.flagger_fields import CANARY, ISTIO, METRIC_TEMPLATE, OFF
from controller.convert.given import Given
from controller.convert.policy import Draft
from controller.convert.workload import Arms, Written

Json = Any
ALL = 100  # percent
SELECTORS = ("app", "name", "app.kubernetes.io/name")  # labels by which Flagger knows a workload
LATENCY = 0.99  # the quantile of `request-duration`


def convert(account: Account, given: Given) -> Written:
    """The objects that replace the Canary; every field of it and of what it names is claimed."""
    written = Written()
    target = account.name("spec.targetRef.name")
    if not target:
        raise account.bad(("spec", "targetRef", "name"), "is missing; name the Deployment")
    name = account.name("spec.service.name") or target
    arms = Arms(target, account.source.name, account.source.namespace, virtual_service=name)
    draft = Draft(account.source.name, account.source.namespace)
    _ramp(account, draft, written)
    _metrics(account, draft, given)
    written.todo += [*draft.unchecked(), *draft.outgrown(arms.canary)]
    receivers.hooks(account, draft)
    receivers.alerts(account, draft, given)
    label, selector = _deployments(account, given, written, arms)
    _istio(account, written, arms, label, selector)
    if account.get("spec.provider", str) not in {None, "istio"}:
        account.missing("spec.provider", ISTIO)
    for path in OFF:
        account.off(path)
    suspended = account.get("spec.suspend", bool)
    workload.ask(written, arms, {f"{workload.PREFIX}pause": "true"} if suspended else {})
    if suspended:
        account.becomes("spec.suspend", workload.asked(written, arms, "pause"))
    account.becomes("spec.targetRef.name", workload.asked(written, arms, "canary-of"))
    if account.source.namespace:
        account.becomes("metadata.namespace", Target("CanaryPolicy", draft.name, ("metadata", "namespace")))
    account.becomes("metadata.name", Target("CanaryPolicy", draft.name, ("metadata", "name")))
    draft.labelled(account)
    written.objects.insert(0, draft.object())
    account.settle(CANARY)
    return written


# -- steps and times -------------------------------------------------------------------------------


def _ramp(account: Account, draft: Draft, written: Written) -> None:
    """Steps and the times between them."""
    _steps(account, draft)
    _rounds(account, draft, written)
    interval = account.any("spec.analysis.interval")
    least = None if interval is None else policy.lasting(interval)
    if interval is not None and least:
        note = "how long a step lasts at least; it is looked at every second, and over when evidence says so"
        account.becomes("spec.analysis.interval", draft.step_lasts(least), note)
    elif interval is not None:
        raise account.bad(
            ("spec", "analysis", "interval"),
            f'expected a duration such as "1m", got {interval!r}; correct it',
        )
    deadline = policy.seconds(account, "spec.progressDeadlineSeconds")
    if deadline:
        account.becomes("spec.progressDeadlineSeconds", draft.put("progressDeadline", deadline))


def _steps(account: Account, draft: Draft) -> None:
    analysis = "spec.analysis"
    listed, by, most = f"{analysis}.stepWeights", f"{analysis}.stepWeight", f"{analysis}.maxWeight"
    weights = [account.number(each) or 0 for each in account.each(listed)]
    highest = account.number(most) or ALL
    step = account.number(by)
    beyond = ""
    if weights:
        fields = [listed]
    elif step and step >= 1:
        weights = [min(step * place, ALL) for place in range(1, ceil(highest / step) + 1)]
        fields = [by, most]
        if weights and ALL > weights[-1] > highest:
            beyond = f"as Flagger, which stops only when maxWeight is reached or passed: {weights[-1]:g}"
    else:
        return
    steps, note = policy.rising([weight for weight in weights if weight != ALL])
    note = "; ".join(each for each in (note, beyond) if each)
    if not steps:
        account.missing(fields[0], f"no weight from 1 to 99 is in it: {draft.default_steps()} are written")
        return
    to = draft.put("steps", steps)
    for each in fields:
        account.becomes(each, to, note)


def _rounds(account: Account, draft: Draft, written: Written) -> None:
    """Rounds without weights become steps, and it is said who meets the canary from now on."""
    path = "spec.analysis.iterations"
    if account.any(path) is None:
        return
    if "steps" in draft.spec:
        account.built_in(path, "with weights the steps say how often")
        return
    steps = draft.default_steps()
    if account.each("spec.analysis.match"):
        before = "until now nobody met the canary but those who match spec.analysis.match"
    else:
        before = "until now nobody met the canary before its promotion"
    account.missing(path, f"{before}; a canary is compared on a part of all requests, {steps} here")
    written.todo.append(
        f"{before}; from now on {draft.spec['steps'][0]} to {draft.spec['steps'][-1]} % of all users do, so"
        " choose steps and a minStep that you dare"
    )


# -- metrics ---------------------------------------------------------------------------------------


def _metrics(account: Account, draft: Draft, given: Given) -> None:
    for at in account.each("spec.analysis.metrics"):
        name = account.get(f"{at}.name", str) or "metric"
        least = account.number(f"{at}.thresholdRange.min")
        single = account.number(f"{at}.threshold")
        reference = account.get(f"{at}.templateRef.name", str)
        if reference is not None or account.any(f"{at}.query") is not None:
            _template(account, draft, given, at)
        elif name == "request-success-rate":
            lowest = least if least is not None else single
            _add(account, draft, at, policy.errors(None if lowest is None else ALL - lowest))
        elif name == "request-duration":
            note = f"{policy.COMPARED}; 20% is the built-in margin, and quantile: 0.95 needs fewer requests"
            _add(account, draft, at, ({"type": "Latency", "quantile": LATENCY, **policy.LATENCY}, note))
        else:
            why = (
                "is neither built in nor a template's: Flagger itself would have nothing to ask; add a check"
            )
            account.missing(f"{at}.name", f"{name}: {why}")
            _lost(account, at)


def _lost(account: Account, at: str) -> None:
    """What goes with a metric that became no check is lost with it."""
    for part in ("threshold", "thresholdRange", "interval"):
        account.missing(f"{at}.{part}", f"as {at}.name says")


def _add(account: Account, draft: Draft, at: str, made: tuple[Json, str]) -> Target:
    """The metric's check is in the policy; its name is claimed, and its limits."""
    check, note = made
    to = draft.check(account.get(f"{at}.name", str) or "metric", check)
    account.becomes(f"{at}.name", to, note)
    limit = policy.limited(check, to)
    if limit:
        for each in ("threshold", "thresholdRange.min", "thresholdRange.max"):
            account.becomes(f"{at}.{each}", limit)
    return to


def _template(account: Account, draft: Draft, given: Given, at: str) -> None:
    """The check that asks what the template's query asks, or what to do instead."""
    template = _named(account, given, at)
    holder, path = (account, f"{at}.query") if template is None else (template, "spec.query")
    query = holder.get(path, str)
    kind = "prometheus" if template is None else template.get("spec.provider.type", str) or "prometheus"
    name = account.get(f"{at}.templateRef.name", str)
    if query is None:
        found: Any = f"MetricTemplate {name} is not among the files; give it too, and it is converted"
    elif kind != "prometheus":
        found = (
            f"its numbers come from {kind}: Serin reads the pods, or a Prometheus; count it there, "
            f"and add a check"
        )
    else:
        limits = {
            "least": account.number(f"{at}.thresholdRange.min"),
            "most": account.number(f"{at}.thresholdRange.max"),
        }
        found = policy.check(promql.asked(query), **limits)
    if isinstance(found, str):
        account.missing(f"{at}.name", found)
        claimed(holder, path, None, found)
        account.missing(f"{at}.templateRef", f"as {at}.name says")
        _lost(account, at)
        return
    to = _add(account, draft, at, found)
    claimed(holder, path, to, "which pods are meant Serin knows by itself")
    account.becomes(f"{at}.templateRef", to)


def _named(account: Account, given: Given, at: str) -> Account | None:
    name = account.get(f"{at}.templateRef.name", str)
    space = account.get(f"{at}.templateRef.namespace", str)
    return None if name is None else given.find("MetricTemplate", name, account.source, namespace=space)


# -- what serves -----------------------------------------------------------------------------------


def _deployments(account: Account, given: Given, written: Written, arms: Arms) -> tuple[str, tuple[str, str]]:
    """Both Deployments, if the target is given; the label that tells the arms apart, and a common one."""
    kind = account.get("spec.targetRef.kind", str) or "Deployment"
    if kind != "Deployment":
        account.missing(
            "spec.targetRef.kind", f"a {kind} has no canary beside it; serve the model from a Deployment"
        )
    found = given.find("Deployment", arms.stable, account.source) if kind == "Deployment" else None
    if found is None:
        common = (SELECTORS[0], arms.stable)
        written.todo.append(
            f"Deployment {arms.canary} is yours to make, beside Deployment {arms.stable}: pods of both "
            f"with the label "
            f"{common[0]}: {common[1]}, and {workload.ARM}: stable or canary in template and selector; "
            f"or give the Deployment too "
            f"(kubectl get deployment {arms.stable}{arms.within} -o yaml), and both are written"
        )
        return workload.ARM, common
    label = workload.own(written, found, arms)
    labels = found.get("spec.selector.matchLabels", dict) or {}
    known = [(key, str(labels[key])) for key in (*SELECTORS, *labels) if key in labels]
    return label, known[0] if known else (SELECTORS[0], arms.stable)


def _istio(account: Account, written: Written, arms: Arms, label: str, selector: tuple[str, str]) -> None:
    """Service, DestinationRule and VirtualService, as Flagger made them."""
    name = arms.virtual_service
    written.add(_front(account, arms, selector))
    route = {**dict(_route(account, name)), "route": workload.split(name, arms)}
    traffic = account.get("spec.service.trafficPolicy", dict)
    written.add(workload.destination_rule(name, name, arms, label, policy=traffic))
    account.becomes("spec.service.trafficPolicy", Target("DestinationRule", name, ("spec", "trafficPolicy")))
    hosts = account.get("spec.service.hosts", list) or []
    whole = hosts if {name, "*"} & set(hosts) else [*hosts, name]
    through = account.get("spec.service.gateways", list)
    written.add(workload.routed(name, arms, hosts=whole, gateways=through, route=route))
    account.becomes("spec.service.hosts", Target("VirtualService", name, ("spec", "hosts")))
    if through:
        account.becomes("spec.service.gateways", Target("VirtualService", name, ("spec", "gateways")))
    account.becomes("spec.service.name", Target("VirtualService", name, ("metadata", "name")))


def _route(account: Account, name: str) -> Iterator[tuple[str, Json]]:
    """What Flagger puts into the route beside its destinations."""
    for part in ("match", "timeout", "retries", "corsPolicy", "headers"):
        value = account.any(f"spec.service.{part}")
        if value:
            yield part, value
            account.becomes(f"spec.service.{part}", Target("VirtualService", name, ("spec", "http", 0, part)))
    parts = [part for part in ("uri", "authority") if account.any(f"spec.service.rewrite.{part}")]
    if parts:
        yield "rewrite", {part: account.any(f"spec.service.rewrite.{part}") for part in parts}
    for part in parts:
        to = Target("VirtualService", name, ("spec", "http", 0, "rewrite", part))
        account.becomes(f"spec.service.rewrite.{part}", to)


def _front(account: Account, arms: Arms, selector: tuple[str, str]) -> Json:
    """The Service before both arms, and of what it is made."""
    name, at = arms.virtual_service, "spec.service"
    to = Target("Service", name, ("spec", "ports", 0))
    port = account.whole(f"{at}.port") or 80
    ports = {"name": account.get(f"{at}.portName", str) or "http", "port": port}
    ports["targetPort"] = account.any(f"{at}.targetPort") or port
    for ours, theirs in (("port", "port"), ("targetPort", "targetPort"), ("name", "portName")):
        account.becomes(f"{at}.{theirs}", Target(to.kind, name, (*to.path, ours)))
    spec: Json = {"selector": dict([selector]), "ports": [ports]}
    if account.any(f"{at}.appProtocol"):
        ports["appProtocol"] = account.any(f"{at}.appProtocol")
        account.becomes(f"{at}.appProtocol", Target(to.kind, name, (*to.path, "appProtocol")))
    if account.any(f"{at}.trafficDistribution"):
        spec["trafficDistribution"] = account.any(f"{at}.trafficDistribution")
        account.becomes(f"{at}.trafficDistribution", Target(to.kind, name, ("spec", "trafficDistribution")))
    if account.get(f"{at}.headless", bool):
        spec["clusterIP"] = "None"
        account.becomes(f"{at}.headless", Target(to.kind, name, ("spec", "clusterIP")))
    apex = {part: account.get(f"{at}.apex.{part}", dict) for part in ("labels", "annotations")}
    for part, value in apex.items():
        if value:
            account.becomes(f"{at}.apex.{part}", Target(to.kind, name, ("metadata", part)))
    return {"apiVersion": "v1", "kind": "Service", "metadata": arms.metadata(name, **apex), "spec": spec}


def templates(given: Given) -> None:
    """What nobody claimed of the MetricTemplates is; after the Canaries."""
    for each in given.of("MetricTemplate"):
        each.settle(METRIC_TEMPLATE)
