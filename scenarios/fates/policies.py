"""What the policy of a history asks: checks, limits, and whom to ask before traffic moves up."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

Json = Any

GATE = "http://change.example/serin"  # the webhook that is asked before a move
WRONG = "digits-permuted"  # a canary that takes each digit for the next one: replayed requests show it
ERRORS = "errors"
CHECKS: Sequence[Mapping[str, Json]] = (
    {"name": ERRORS, "type": "ErrorRate", "maxIncrease": "50%", "plus": "2%"},
    {"name": "latency", "type": "Latency", "quantile": 0.9, "maxIncrease": "100%"},
)
# A good canary passes this one within seconds: forty requests without an error prove it.
WIDE = "10%"
QUERIED: Mapping[str, Json] = {**CHECKS[0], "name": "queried", "plus": WIDE, "source": {"prometheus": {}}}
SHADOW: Mapping[str, Json] = {"name": "shadow", "type": "Shadow", "maxFlips": "2%"}


def drawn(chance: Random) -> Json:
    """A CanaryPolicy's spec, in which all that takes time takes seconds."""
    return {
        "steps": chance.choice([[20], [10, 50], [5, 25, 50]]),
        "alpha": 1e-6,  # a healthy canary that fails a check is a fault of ours, not the alpha-th case
        "warmUp": chance.choice(["0s", "2s"]),
        "minStep": f"{chance.randint(2, 5)}s",
        "minRequests": chance.choice([1, 60, 400]),
        "stepTimeout": f"{chance.randint(8, 15)}s",
        "progressDeadline": f"{chance.randint(8, 15)}s",
        "noDataTimeout": f"{chance.randint(5, 10)}s",
        "onNoData": chance.choice(["Hold", "RollBack"]),
        "onInconclusive": chance.choice(["Hold", "Proceed", "RollBack"]),
        "scaleDownDelay": {"promoted": "1s", "rolledBack": "2s"},
        "promotion": {"mode": "Copy"},
        "preflight": "Warn",
        "canaryReplicas": chance.choice(["Match", "Keep"]),
        "checks": [dict(check) for check in CHECKS[: 2 if chance.random() < 0.25 else 1]],
        "alerts": [{"slack": {"secretRef": {"name": "alerts"}}, "on": ["RolledBack", "Held", "Promoted"]}],
    }


def enrich(spec: Json, chance: Random) -> None:
    """The scenario's spec has what seeds from `fate.NEWER` on may have."""
    policy = spec["policy"]
    if chance.random() < 0.7:
        policy["checks"][0]["plus"] = WIDE
    if chance.random() < 0.08:
        spec["faults"].append(_blind(chance))
    if chance.random() < 0.2:
        policy["gates"] = [_gate(chance) for _ in range(chance.randint(1, 2))]
    if chance.random() < 0.12:
        policy["checks"] = [dict(QUERIED), *policy["checks"][chance.randint(0, 1) :]]
    if chance.random() < 0.03:
        policy["checks"].append(dict(SHADOW))
        spec["canary"]["model"] = chance.choice(["digits-bf16", WRONG])


def be_patient(spec: Json, chance: Random) -> None:
    """In some, a step lasts longer than its proof takes: its least time is what it waits for."""
    policy = spec["policy"]
    if chance.random() > 0.1 or SHADOW in policy["checks"]:
        return
    spec["traffic"] = {"requestsPerSecond": 240}
    policy |= {"steps": chance.choice([[20], [25, 50]]), "minStep": "14s", "stepTimeout": "18s"}
    policy |= {"minRequests": 60, "checks": [{**CHECKS[0], "plus": WIDE}]}


def _blind(chance: Random) -> Json:
    """Nothing is read from soon after the first weight on, for longer than a step takes."""
    at, lasting = chance.randint(2_000, 7_000), chance.randint(8_000, 14_000)
    kind = chance.choice(["outage", "hang"])
    return {"at": f"{at}ms", "target": "metrics", "kind": kind, "for": f"{lasting}ms"}


def _gate(chance: Random) -> Json:
    asked: Json = {"manual": {}} if chance.random() < 0.4 else {"webhook": {"url": GATE}}
    return {"before": chance.choice(["Start", "Raise", "Promotion"]), **asked}
