"""Whether the Service behind the routes selects the pods of both arms, and what widens it if not.

Pure. Subsets pick among the Service's pods: of an arm that it does not select they have none, and no weight
sends a request there. `serin preflight` alone looks: a run has no right to Services, and no need of one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from controller import detours
from controller.items import Finding, Grounds, Result

Json = Any
Labels = Mapping[str, str]

SERVICES = "services"
UNSEEN = "; services may not be read here, so not whether theirs selects both"
LAST = "from then on callers without a sidecar meet both arms, by their numbers of pods"


def narrow(grounds: Grounds, host: str) -> Finding | None:
    """Which arm's pods the Service of that host leaves out, and a patch; None if none, or unknown."""
    selecting = _selecting(grounds, host)
    selector: Labels = ((selecting or {}).get("spec") or {}).get("selector") or {}
    arms = {one["metadata"]["name"]: _labels(one) for one in grounds.arms}
    without = [name for name, labels in arms.items() if not selector.items() <= labels.items()]
    if selecting is None or not without:
        return None
    name = selecting["metadata"]["name"]
    said = ", ".join(f"{key}={value}" for key, value in sorted(selector.items()))
    why = f"Service {name} selects {said}, which pods of {' and '.join(without)} are not: they get no request"
    shared = _shared(selector, list(arms.values()))
    if shared is None:
        mend = f"give the pods of both arms a label in common, and let Service {name} select by it"
        return Finding(Result.FAIL, why, mend=mend)
    mend = f"let Service {name} select the pods of both arms; the subsets tell them apart"
    widened = grounds.patch("Service", name, {"spec": {"selector": shared}}, LAST)
    return Finding(Result.FAIL, why, widened, mend)


def unseen(grounds: Grounds) -> str:
    """That the Service was not looked at, where who types may not; nothing where nobody was to look."""
    return UNSEEN if SERVICES in grounds.unread else ""


def _labels(deployment: Json) -> Labels:
    labels: Labels = deployment["spec"]["template"]["metadata"].get("labels") or {}
    return labels


def _shared(selector: Labels, arms: Sequence[Labels]) -> dict[str, str | None] | None:
    """What to merge into the selector so that it has the pods of all arms; None if they share no label.

    What is left of it stays; a selector with nothing left would select nothing.
    """
    odd = [key for key, value in selector.items() if any(one.get(key) != value for one in arms)]
    if len(odd) < len(selector):
        return dict.fromkeys(odd)
    alike = {key: value for key, value in arms[0].items() if all(one.get(key) == value for one in arms)}
    return dict.fromkeys(odd) | alike if alike else None


def _selecting(grounds: Grounds, host: str) -> Json | None:
    """The Service of that host, if it is one of this namespace and was read."""
    here = {"metadata": {"namespace": grounds.namespace}}
    wanted = detours.fqdn(host, here)
    found = (one for one in grounds.services if detours.fqdn(one["metadata"]["name"], here) == wanted)
    return next(found, None)
