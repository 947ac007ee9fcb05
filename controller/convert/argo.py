"""A Rollout of Argo Rollouts, with its AnalysisTemplates and Istio's objects, as a canary of Serin's."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from controller.convert import analyses, policy, routes, workload
from controller.convert.account import Account, Target, parsed
from controller.convert.argo_fields import ROLLOUT
from controller.convert.given import Given
from controller.convert.policy import Draft
from controller.convert.workload import Arms, Written

Json = Any
CANARY = "spec.strategy.canary"
BY_HAND = "spec.strategy.blueGreen.autoPromotionEnabled"
ISTIOS = f"{CANARY}.trafficRouting.istio"
CARRIED = ("replicas", "selector", "template", "minReadySeconds", "revisionHistoryLimit")
YEAR = "8760h"  # the longest time there is
ALL = 100  # percent


def convert(account: Account, given: Given) -> Written:
    """The objects that replace the Rollout; every field of it and of what it names is claimed."""
    written = Written()
    draft = Draft(account.source.name, account.source.namespace)
    arms = _arms(account)
    _steps(account, draft)
    _times(account, draft)
    analyses.checks(account, draft, given)
    written.todo += [*draft.unchecked(), *draft.outgrown(arms.canary)]
    label = _deployments(account, given, written, arms)
    if label is not None:
        _size(account, written, arms)
        routes.istio(account, given, written, arms, label)
    paused = account.get("spec.paused", bool)
    workload.ask(written, arms, {f"{workload.PREFIX}pause": "true"} if paused else {})
    _claim_names(account, written, arms, paused=bool(paused))
    written.objects.insert(0, draft.object())
    account.off(f"{CANARY}.dynamicStableScale")
    account.settle(ROLLOUT)
    return written


def _arms(account: Account) -> Arms:
    """Names: the Deployment is called as the Rollout, or as the Deployment that it borrows."""
    name = account.name("spec.workloadRef.name") or account.source.name
    single = account.name(f"{ISTIOS}.virtualService.name")
    several = [account.name(f"{at}.name") for at in account.each(f"{ISTIOS}.virtualServices")]
    service = single or next(iter(several), None) or name
    subsets = {
        field: account.name(f"{ISTIOS}.destinationRule.{theirs}")
        for field, theirs in (("stable_subset", "stableSubsetName"), ("canary_subset", "canarySubsetName"))
    }
    arms = Arms(name, account.source.name, account.source.namespace, virtual_service=service)
    return replace(arms, **{field: said for field, said in subsets.items() if said})


def _claim_names(account: Account, written: Written, arms: Arms, *, paused: bool) -> None:
    """What names something is an annotation."""
    account.becomes("metadata.name", Target("CanaryPolicy", account.source.name, ("metadata", "name")))
    if account.source.namespace:
        account.becomes(
            "metadata.namespace", Target("CanaryPolicy", account.source.name, ("metadata", "namespace"))
        )
    if paused:
        account.becomes("spec.paused", workload.asked(written, arms, "pause"))
    account.becomes("spec.workloadRef.name", workload.asked(written, arms, "canary-of"))
    said = arms.annotations()
    names = {
        "virtual-service": (f"{ISTIOS}.virtualService.name", f"{ISTIOS}.virtualServices[0].name"),
        "stable-subset": (f"{ISTIOS}.destinationRule.stableSubsetName",),
        "canary-subset": (f"{ISTIOS}.destinationRule.canarySubsetName",),
    }
    for name, paths in names.items():
        for path in paths:
            if f"{workload.PREFIX}{name}" in said:
                account.becomes(path, workload.asked(written, arms, name))
            else:
                account.built_in(path, "the name that holds if nothing is said")


# -- steps -----------------------------------------------------------------------------------------


def _steps(account: Account, draft: Draft) -> None:
    """Weights, pauses and sizes of the canary."""
    steps = f"{CANARY}.steps"
    paths = account.each(steps)
    most = account.number(f"{CANARY}.trafficRouting.maxTrafficWeight") or ALL
    weights = [(at, account.number(f"{at}.setWeight")) for at in paths]
    said = [(at, ALL * weight / most) for at, weight in weights if weight is not None]
    _weights(account, draft, said)
    _pauses(account, draft, paths, [at for at, _ in said])
    if account.get(BY_HAND, bool) is False:
        to = draft.gate({"before": "Promotion", "manual": {}})
        account.becomes(BY_HAND, to, "serin approve RUN; checks go on meanwhile")
    for at in paths:
        if account.get(f"{at}.setCanaryScale.matchTrafficWeight", bool):
            account.becomes(f"{at}.setCanaryScale.matchTrafficWeight", draft.put("canaryReplicas", "Match"))


def _weights(account: Account, draft: Draft, said: list[tuple[str, float]]) -> None:
    """Those that rise from 1 to 99 are steps."""
    steps, note = policy.rising([weight for _, weight in said])
    to = draft.put("steps", steps) if steps else None
    seen: list[int] = []
    for at, weight in said:
        if int(weight) in steps and int(weight) not in seen and to:
            seen.append(int(weight))
            account.becomes(f"{at}.setWeight", Target(to.kind, to.name, (*to.path, steps.index(int(weight)))))
        elif weight == ALL:
            account.built_in(f"{at}.setWeight", "promotion follows the last step")
        elif weight == 0:
            account.built_in(f"{at}.setWeight", "a canary has no traffic before its first step")
        elif int(weight) in seen[-1:]:
            account.built_in(f"{at}.setWeight", "it is that weight already")
        elif weight < 1:
            account.missing(f"{at}.setWeight", f"{weight:g} % of the traffic: a step has at least 1 %")
        else:
            why = note if "thinned" in note else "steps rise: a weight is not taken back but by a rollback"
            account.missing(f"{at}.setWeight", why)


def _pauses(account: Account, draft: Draft, paths: list[str], weights: list[str]) -> None:
    """A pause with a duration is how long a step lasts, one without is a gate."""
    lasting: dict[str, timedelta] = {}
    rising = [at for at in weights if account.number(f"{at}.setWeight") not in {0, ALL}]
    for place, at in enumerate(paths):
        if "pause" not in (account.get(at, dict) or {}):
            continue
        duration = account.any(f"{at}.pause.duration")
        if duration is None:
            _gate(account, draft, at, before=_before(paths[place:], paths[:place], rising))
            continue
        time = policy.lasting(duration)
        if time is None:
            said = f"expected a duration such as 10m, got {duration!r}; correct it"
            raise account.bad(parsed(f"{at}.pause.duration"), said)
        if time:
            lasting[f"{at}.pause.duration"] = time
        else:
            account.built_in(f"{at}.pause.duration", "no time at all: minStep holds")
    shortest = min(lasting.values(), default=None)
    for path, time in lasting.items():
        if time == shortest:
            note = "how long a step lasts at least; evidence says when it is over"
            account.becomes(path, draft.step_lasts(time), note)
        else:
            account.missing(path, _shortened(time, shortest))


def _shortened(time: timedelta, shortest: timedelta | None) -> str:
    """What became of a pause that is longer than the shortest."""
    least = policy.written(shortest or time)
    return (
        f"became at least {least}: minStep is one for all steps, here the shortest pause; the evidence waits"
        f" for more where it needs more, and minStep: {policy.written(time)} is as long as this, everywhere"
    )


def _before(after: list[str], past: list[str], weights: list[str]) -> str:
    """What a pause at this place stands before."""
    if not set(past) & set(weights):
        return "Start"
    return "Raise" if set(after) & set(weights) else "Promotion"


def _gate(account: Account, draft: Draft, at: str, *, before: str) -> None:
    """Somebody is asked."""
    to = draft.gate({"before": before, "manual": {}})
    every = "; asked before each raise, since gates belong to no one step" if before == "Raise" else ""
    account.becomes(f"{at}.pause", to, f"serin approve RUN; checks go on meanwhile{every}")


def _times(account: Account, draft: Draft) -> None:
    """Deadlines, delays and how much is kept."""
    deadline = policy.seconds(account, "spec.progressDeadlineSeconds")
    if deadline:
        account.becomes("spec.progressDeadlineSeconds", draft.put("progressDeadline", deadline))
    for theirs, ours in (("scaleDownDelaySeconds", "promoted"), ("abortScaleDownDelaySeconds", "rolledBack")):
        delay = policy.seconds(account, f"{CANARY}.{theirs}")
        if delay is not None:
            kept = theirs.startswith("abort") and not account.number(f"{CANARY}.{theirs}")
            to = draft.put(f"scaleDownDelay.{ours}", YEAR if kept else delay)
            account.becomes(
                f"{CANARY}.{theirs}", to, "0 meant never; a year is the longest there is" if kept else ""
            )
    limits = [f"spec.analysis.{each}RunHistoryLimit" for each in ("successful", "unsuccessful")]
    said = [limit for limit in map(account.whole, limits) if limit is not None]
    if said:
        to = draft.put("historyLimit", min(max(1, *said), ALL))
        for each in limits:
            account.becomes(each, to, "good and bad runs are kept together, at least one")


# -- what serves -----------------------------------------------------------------------------------


def _deployments(account: Account, given: Given, written: Written, arms: Arms) -> str | None:
    """Both Deployments are written, if the template is known; the label that tells them apart."""
    names = [name for name in CARRIED if account.any(f"spec.{name}") is not None]
    spec: Json = {name: account.any(f"spec.{name}") for name in names} | _strategy(account)
    borrowed = given.find("Deployment", arms.stable, account.source)
    replicas = account.whole("spec.replicas")
    if account.any("spec.workloadRef.name") and borrowed:
        if replicas is not None:
            borrowed.built_in("spec.replicas", "the Rollout's own replicas hold")
        label = workload.own(written, borrowed, arms, replicas=replicas)
        if replicas is not None:
            account.becomes("spec.replicas", Target("Deployment", arms.stable, ("spec", "replicas")))
        return label
    if "template" not in spec:
        written.todo.append(
            f"the pod template is Deployment {arms.stable}'s: give it too (kubectl get deployment "
            f"{arms.stable}{arms.within} -o yaml), "
            "and both Deployments are written"
        )
        return None
    label = workload.deployments(written, account, arms, spec=spec)
    workload.carried(account, arms, names)
    for part in ("maxSurge", "maxUnavailable"):
        path = ("spec", "strategy", "rollingUpdate", part)
        account.becomes(f"{CANARY}.{part}", Target("Deployment", arms.stable, path))
    return label


def _strategy(account: Account) -> Json:
    parts = {part: account.any(f"{CANARY}.{part}") for part in ("maxSurge", "maxUnavailable")}
    said = {part: value for part, value in parts.items() if value is not None}
    return {"strategy": {"type": "RollingUpdate", "rollingUpdate": said}} if said else {}


def _size(account: Account, written: Written, arms: Arms) -> None:
    """The canary begins with as many pods as the first step says."""
    for at in account.each(f"{CANARY}.steps"):
        replicas = account.whole(f"{at}.setCanaryScale.replicas")
        if replicas is not None and replicas >= 1:
            canary = next(obj for obj in written.objects if obj["metadata"]["name"] == arms.canary)
            canary["spec"]["replicas"] = replicas
            to = Target("Deployment", arms.canary, ("spec", "replicas"))
            account.becomes(f"{at}.setCanaryScale.replicas", to, "and more where its weight needs them")
            return
