"""The CanaryPolicy that is being written, and what of it a field of the input becomes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import isfinite
from typing import Any

from controller import planning, wire
from controller.convert import promql
from controller.convert.account import Account, Target, parsed
from controller.sizing import PARITY_LIMIT, needed, parity

Json = Any
API_VERSION = "serin.dev/v1alpha1"
MOST_STEPS = 20
RAMP = ("steps", "minStep", "stepTimeout", "progressDeadline", "canaryReplicas", "scaleDownDelay")
ORDER = (*RAMP, "historyLimit", "checks", "gates", "alerts")
DEFAULT_TIMEOUT = timedelta(minutes=10)  # the schema's stepTimeout
ERRORS: Json = {"maxIncrease": "50%", "plus": "0.1%"}  # the margins of the built-in policy
LATENCY: Json = {"maxIncrease": "20%"}
DECREASE: Json = {"direction": "decrease", "maxDecrease": "15%"}
INCREASE: Json = {"direction": "increase", "maxIncrease": "20%", "plus": "0.1%"}
_URL = re.compile(r"https?://[!-?A-~]{1,2000}")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|µs|ns|s|m|h|d|w)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600} | {
    "d": 86400,
    "w": 604800,
}


@dataclass(slots=True)
class Draft:
    """A CanaryPolicy that grows."""

    name: str
    namespace: str | None
    spec: dict[str, Json] = field(default_factory=dict)
    metadata: dict[str, Json] = field(default_factory=dict)  # labels and annotations

    def default_steps(self) -> str:
        """The built-in steps are written, as nothing says others; which, in words."""
        self.put("steps", planning.builtin()["steps"])
        return f"the default steps {', '.join(map(str, self.spec['steps']))}"

    def put(self, path: str, value: Json) -> Target:
        """The field has the value."""
        *above, last = path.split(".")
        inside = self.spec
        for part in above:
            inside = inside.setdefault(part, {})
        inside[last] = value
        return self.target(*path.split("."))

    def target(self, *path: str | int) -> Target:
        """The field of the policy's spec."""
        return Target("CanaryPolicy", self.name, ("spec", *path))

    def check(self, name: str, check: Json) -> Target:
        """There is such a check."""
        checks = self.spec.setdefault("checks", [])
        checks.append({"name": _unique(name, [each["name"] for each in checks]), **check})
        return self.target("checks", len(checks) - 1)

    def gate(self, gate: Json) -> Target:
        """There is such a gate."""
        return self._listed("gates", gate)

    def alert(self, alert: Json) -> Target:
        """There is such an alert."""
        return self._listed("alerts", alert)

    def _listed(self, name: str, entry: Json) -> Target:
        entries = self.spec.setdefault(name, [])
        if entry not in entries:
            entries.append(entry)
        return self.target(name, entries.index(entry))

    def step_lasts(self, least: timedelta) -> Target:
        """A step lasts at least so long, and is waited for twice as long."""
        if least > DEFAULT_TIMEOUT:
            self.put("stepTimeout", written(min(2 * least, wire.LONGEST)))
        return self.put("minStep", written(least))

    def unchecked(self) -> list[str]:
        """What is left to do where nothing became a check: other checks hold than people wrote."""
        if "checks" in self.spec:
            return []
        names = [each["name"] for each in planning.builtin()["checks"]]
        said = (
            f"nothing became a check, so that CanaryPolicy {self.name} has none and the built-in ones judge: "
            f"{', '.join(names)} (serin plan --print-policy); a metric that the pods do not show holds the "
            "canary (docs/metrics.md): write the checks that you want"
        )
        return [said]

    def outgrown(self, canary: str) -> list[str]:
        """What is left to do where steps take more pods of the canary than stable has: nothing makes them."""
        steps: list[int] = self.spec.get("steps", [])
        large = [each for each in steps if parity(each, stable=1, canary=1) > PARITY_LIMIT]
        if not large:
            return []
        said = (
            f"steps above 52 % ({', '.join(map(str, large))}) take more pods of the canary than stable has, "
            f"{needed(large[-1], 10)} for stable's 10 at {large[-1]} %, and canaryReplicas: Match ends at "
            "stable's number: the run is held there (CanaryUnderProvisioned) until Deployment "
            f"{canary} has so many, by its replicas or an autoscaler of its own; or leave these steps out: "
            "promotion follows 50 % as well"
        )
        return [said]

    def labelled(self, account: Account) -> None:
        """The policy has the labels and annotations that people gave what it replaces."""
        for part in ("labels", "annotations"):
            for key, value in (account.get(f"metadata.{part}", dict) or {}).items():
                if not key.startswith("kubectl.kubernetes.io/"):
                    self.metadata.setdefault(part, {})[key] = value
                    to = Target("CanaryPolicy", self.name, ("metadata", part, key))
                    account.becomes(f'metadata.{part}["{key}"]', to)

    def object(self) -> Json:
        """The object, its fields in the schema's order."""
        spec = {name: self.spec[name] for name in ORDER if name in self.spec}
        metadata = (
            {"name": self.name} | ({"namespace": self.namespace} if self.namespace else {}) | self.metadata
        )
        return {"apiVersion": API_VERSION, "kind": "CanaryPolicy", "metadata": metadata, "spec": spec}


def _unique(name: str, taken: Sequence[str]) -> str:
    """A check's name: small letters, digits and dashes, at most 40, and not taken."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:36].strip("-") or "check"
    again = (f"{plain}-{number}" for number in range(2, 100))
    return next(each for each in (plain, *again) if each not in taken)


# -- durations, steps, URLs ------------------------------------------------------------------------


def lasting(value: Json) -> timedelta | None:
    """The time that a duration of Go, or a number of seconds, says; None if it says none up to a year."""
    text = f"{value}s" if isinstance(value, int | float) else str(value).strip()
    text = f"{text}s" if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else text
    if isinstance(value, bool) or not re.fullmatch(rf"(?:{_DURATION.pattern})+", text):
        return None
    total = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))
    longest = wire.LONGEST.total_seconds()
    return timedelta(seconds=total) if isfinite(total) and total <= longest else None


def written(time: timedelta) -> str:
    """The duration as the policy writes it."""
    milliseconds = round(time.total_seconds() * 1000)
    units = (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
    fitting = (each for each in units if milliseconds and milliseconds % each[1] == 0)
    unit, size = next(fitting, ("s", 1000))
    return f"{milliseconds // size}{unit}"


def seconds(account: Account, path: str) -> str | None:
    """The time that a number of seconds says; raises `BadObject` if it is none."""
    value = account.number(path)
    time = None if value is None else lasting(value)
    if value is not None and (time is None or value < 0):
        raise account.bad(
            parsed(path), f"expected seconds, at most a year, got {account.any(path)!r}; correct it"
        )
    return None if time is None else written(time)


def rising(weights: Sequence[float]) -> tuple[list[int], str]:
    """The steps that a policy can have of these weights, and what was left out and why."""
    steps: list[int] = []
    for weight in weights:
        percent = int(weight)
        if 1 <= percent <= 99 and (not steps or percent > steps[-1]):
            steps.append(percent)
    left_out = [f"{weight:g}" for weight in weights if int(weight) not in steps or weight != int(weight)]
    why = (
        f"left out {', '.join(left_out)}: steps rise from 1 to 99 in whole percent, and promotion "
        f"follows the last"
    )
    note = why if left_out else ""
    if len(steps) > MOST_STEPS:
        places = [round(place * (len(steps) - 1) / (MOST_STEPS - 1)) for place in range(MOST_STEPS)]
        note = f"{len(steps)} steps thinned out to {MOST_STEPS}, the most there may be"
        steps = [steps[place] for place in places]
    return steps, note


def callable_url(url: str) -> bool:
    """Whether a gate or an alert may have the URL."""
    return _URL.fullmatch(url) is not None


# -- checks ----------------------------------------------------------------------------------------

COMPARED = "stable is the limit, not a number: compared with stable over the same seconds"


def errors(allowed: float | None) -> tuple[Json, str]:
    """A check of failed requests of which this percentage was allowed, and what to know of it."""
    if allowed is None or not 0 < allowed < 100:
        return {"type": "ErrorRate", **ERRORS}, f"{COMPARED}; these margins are the built-in ones"
    note = f"{COMPARED}, of whose errors {allowed:.4g} percentage points more are still fine"
    return {
        "type": "ErrorRate",
        "plus": percent(allowed),
    }, f"{note}; maxIncrease: 50% with plus: 0.1% finds a smaller increase"


def limited(check: Json, to: Target) -> Target | None:
    """The field of the check that came of the peer's limits; None if they decide nothing any more."""
    field = "direction" if check["type"] == "Proportion" else "plus"
    derived = field in check and (field == "direction" or "maxIncrease" not in check)
    return Target(to.kind, to.name, (*to.path, field)) if derived else None


def percent(value: float) -> str:
    """The percentage as the schema writes it, never nothing."""
    return f"{max(value, 0.0001):.4f}".rstrip("0").rstrip(".") + "%"


def check(asked: promql.Asked, *, least: float | None, most: float | None) -> tuple[Json, str] | str:
    """The check that asks the same, with what to know of it; or why there is none.

    `least` and `most` are the values between which the peer is content.
    """
    if isinstance(asked, promql.Other):
        return asked.why
    if isinstance(asked, promql.Quantile):
        note = f"{COMPARED}; 20% is the built-in margin"
        return {"type": "Latency", "quantile": asked.level, **LATENCY}, note
    if isinstance(asked, promql.Errors):
        bound = least if asked.good else most
        share = None if bound is None else bound / asked.of
        made, note = errors(None if share is None else 100 * ((1 - share) if asked.good else share))
        if asked.counter != promql.REQUESTS:
            note = f"{promql.REQUESTS} is read, where failures are 5xx, and not {asked.counter}; {note}"
        return made, note
    least = None if least is not None and least <= 0 else least  # as much as every share is
    most = None if most is not None and most >= asked.of else most
    if (least is None) == (most is None):
        return (
            "the limits do not say whether more or less of it is harm; write a Proportion check with "
            "a direction"
        )
    harm_is_less = (least is not None) != asked.inverted
    margins = DECREASE if harm_is_less else INCREASE
    counters = {"hits": asked.hits, "trials": asked.trials}
    note = f"{COMPARED}; the margin is a proposal, choose yours"
    return {"type": "Proportion", **margins, "counters": counters}, note
