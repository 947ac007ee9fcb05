"""Flagger's webhooks and alerts, as gates and alerts of a policy."""

from datetime import timedelta
from typing import Any

from controller.convert import policy
from controller.convert.account import Account, Target, claimed, shown
from controller.convert.flagger_fields import ALERT_PROVIDER
from controller.convert.given import Given
from controller.convert.policy import Draft

Json = Any
GATES = {
    "confirm-rollout": "Start",
    "pre-rollout": "Start",
    "confirm-traffic-increase": "Raise",
    "confirm-promotion": "Promotion",
}
TELLS = {"event": ["RolledBack", "Held", "Promoted"], "post-rollout": ["RolledBack", "Promoted"]}
LEAST = {"info": "info", "warn": "warning", "error": "critical"}  # each and what is worse, as here
ALLOW = "an address within the cluster has to be allowed in SERIN_RECEIVERS (docs/alerts.md)"
ATTEMPT = timedelta(seconds=10)  # a receiver has to answer within: gates.PATIENCE, alerts.ATTEMPT_TIMEOUT
TOO_LONG = (
    "an attempt is given up after ten seconds, so that a slower answer never counts: answer at once, and "
    "of a gate with no 2xx until the work is done; it is asked again every ten seconds"
)
UNTOLD = (
    "and its metadata is not sent: a receiver that does what metadata says, as flagger-loadtester does "
    "cmd, has nothing to do, refuses, and the gate may NEVER open. Let something answer 2xx without it, "
    "or ask people: manual: {}"
)
OTHERS = {
    "rollout": "Serin makes no load: it judges requests of users, and while there are none the canary "
    "is held (docs/operations.md); let a load generator call the host of the VirtualService, as a "
    "Deployment of its own",
    "rollback": "Serin does not ask whether to roll back; let that system say it: kubectl patch crun "
    "NAME --type merge "
    '-p \'{"spec":{"abort":{"reason":"..."}}}\'',
}
# Whose own URL is the secret: the receiver that a policy calls so, and its form.
CHAT: dict[str, tuple[str, Json]] = {
    "slack": ("slack", {}),
    "msteams": ("webhook", {"format": "Teams"}),
    "discord": ("webhook", {"format": "Discord"}),
}
SECRET_KEY = "address"  # noqa: S105 - the key under which Flagger reads the URL


def hooks(account: Account, draft: Draft) -> None:
    """Each webhook is a gate, an alert, or said to have no equivalent."""
    for at in account.each("spec.analysis.webhooks"):
        kind = account.get(f"{at}.type", str) or "rollout"
        url = account.get(f"{at}.url", str) or ""
        account.off(f"{at}.disableTLS")
        if kind in OTHERS or not (kind in GATES or kind in TELLS):
            says = OTHERS.get(kind, f'"{kind}" is no type of webhook that Flagger has; correct it')
            for part in ("type", "url"):
                account.missing(f"{at}.{part}", says if part == "url" else f"{kind}: as its url says")
            for part in ("metadata", "timeout", "retries"):
                account.missing(f"{at}.{part}", "as its url says")
        elif kind in GATES and "/gate/" in url:
            to = draft.gate({"before": GATES[kind], "manual": {}})
            account.becomes(f"{at}.url", to, "a gate that people open: serin approve RUN")
            account.becomes(f"{at}.type", _of(to, "before"))
        elif not policy.callable_url(url):
            why = (
                f"{url!r:.60} is no URL that a policy may have (http or https, no credentials, no "
                f"blanks); choose another"
            )
            account.missing(f"{at}.url", why)
            account.missing(f"{at}.type", f"{kind}: as its url says")
        else:
            _hook(account, draft, at, kind, url)


def _hook(account: Account, draft: Draft, at: str, kind: str, url: str) -> None:
    """The webhook is a gate, or an alert."""
    _patience(account, at)
    if kind in GATES:
        to = draft.gate({"before": GATES[kind], "webhook": {"url": url}})
        said = "a 2xx opens, as before; what it gets is a CloudEvent dev.serin.gate.*"
        account.becomes(f"{at}.type", _of(to, "before"))
        if account.any(f"{at}.metadata"):
            account.missing(f"{at}.url", f"{shown(to.path)} asks it, {UNTOLD}; {ALLOW}")
            return
    else:
        to = draft.alert({"webhook": {"url": url}, "on": TELLS[kind]})
        said = "what it gets is a CloudEvent dev.serin.run.*, after traffic has moved"
        account.becomes(f"{at}.type", _of(to, "on"))
    account.becomes(f"{at}.url", _of(to, "webhook", "url"), f"{said}; {ALLOW}")


def _patience(account: Account, at: str) -> None:
    """A receiver that had longer to answer than it has here is told as lost."""
    given = account.any(f"{at}.timeout")
    time = None if given is None else policy.lasting(given)
    if time is not None and time > ATTEMPT:
        account.missing(f"{at}.timeout", TOO_LONG)


def _of(to: Target, *path: str) -> Target:
    return Target(to.kind, to.name, (*to.path, *path))


def alerts(account: Account, draft: Draft, given: Given) -> None:
    """Each alert has a receiver, or is said to have none."""
    for at in account.each("spec.analysis.alerts"):
        name = account.get(f"{at}.providerRef.name", str) or ""
        space = account.get(f"{at}.providerRef.namespace", str)
        provider = given.find("AlertProvider", name, account.source, namespace=space) if name else None
        if provider is None:
            why = f"AlertProvider {name} is not among the files; give it too, and it is converted"
            account.missing(f"{at}.providerRef.name", why)
            continue
        kind = provider.get("spec.type", str) or ""
        if kind not in CHAT:
            why = (
                f"{kind} does not read what Serin sends; let a webhook of yours translate the CloudEvent "
                "(alerts: [{webhook: {url: ...}}], docs/alerts.md)"
            )
            account.missing(f"{at}.providerRef.name", why)
            claimed(provider, "spec.type", None, why)
            continue
        _chat(account, draft, at, provider, kind)


def _chat(account: Account, draft: Draft, at: str, provider: Account, kind: str) -> None:
    severity = account.get(f"{at}.severity", str) or "info"
    secret = provider.get("spec.secretRef.name", str)
    name = secret or f"{provider.source.name}-{kind}"
    key = SECRET_KEY if secret else "url"
    receiver, form = CHAT[kind]
    given = {**form, "secretRef": {"name": name, "key": key}}
    to = draft.alert({receiver: given, "severity": LEAST.get(severity, "info")})
    account.becomes(f"{at}.severity", _of(to, "severity"))
    role = "the Secret stands in the run's own namespace, with a Role for it (manifests/samples/alerts.yaml)"
    account.becomes(f"{at}.providerRef.name", _of(to, receiver, "secretRef"), role)
    claimed(provider, "spec.type", _of(to, receiver), "")
    if secret:
        claimed(provider, "spec.secretRef.name", _of(to, receiver, "secretRef", "name"), role)
    elif provider.any("spec.address"):
        make = f"kubectl create secret generic {name} --from-literal=url=..."
        claimed(
            provider,
            "spec.address",
            _of(to, receiver, "secretRef"),
            f"a {kind} URL is a secret; make it: {make}",
        )


def providers(given: Given) -> None:
    """What nobody claimed of the AlertProviders is; after the Canaries."""
    for each in given.of("AlertProvider"):
        each.settle(ALERT_PROVIDER)
